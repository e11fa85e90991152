//! `cargo xtask soak`: trials that take long and so are not part of `test`.

use crate::{guests, process, test};
use spec::error::{Error, Result};

/// How long each trial goes on that can go on for any time.
const SECONDS: u64 = 60;

pub fn command(arguments: &[String]) -> Result<()> {
    let (seconds, name) = parse(arguments)?;
    test::build_release()?;
    guests::ensure(false)?;
    let mut cargo = test::cargo();
    cargo.args(["test", "-p", "programs", "--", "--test-threads=1", "--nocapture"]).args(name);
    process::show(cargo.env("RHEA_SOAK", seconds.to_string()))
}

/// The value of `--seconds`.
pub fn seconds_of(value: Option<&String>) -> Result<u64> {
    let value = value.and_then(|v| v.parse().ok()).filter(|n| *n > 0);
    value.ok_or_else(|| Error::new("--seconds needs a number above 0"))
}

fn parse(arguments: &[String]) -> Result<(u64, Option<String>)> {
    let (mut seconds, mut part) = (SECONDS, None);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seconds" => seconds = seconds_of(words.next())?,
            other if other.starts_with('-') => return Err(Error::new(format!("soak does not know '{other}'"))),
            name if part.is_none() => part = Some(name.to_string()),
            other => return Err(Error::new(format!("soak takes one part of a name, so not '{other}' too"))),
        }
    }
    Ok((seconds, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let words = |line: &str| line.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        assert_eq!(parse(&words("--seconds 5 aba")).unwrap(), (5, Some("aba".to_string())));
        assert_eq!(parse(&[]).unwrap(), (SECONDS, None));
        for bad in ["--seconds", "--seconds 0", "--fast", "a b"] {
            assert!(parse(&words(bad)).is_err(), "{bad}");
        }
    }
}
