//! `cargo xtask diff`: random instructions on our interpreter, under a reference emulator, and as translated code.

use crate::process;
use spec::error::{Context, Error, Result};
use std::process::Command;

/// What a run without words for the `differential` program goes through: instruction set, floating point and Advanced SIMD
/// or the rest, CPU model, share of the cases in percent.
const SETS: &[(&str, bool, &str, u64)] = &[
    ("a32", false, "max", 20),
    ("t16", false, "max", 12),
    ("t32", false, "max", 18),
    ("a32", true, "max", 20),
    ("t32", true, "max", 15),
    ("a32", true, "cortex-a15", 5),
    ("t32", false, "cortex-a9", 5),
    ("t32", true, "cortex-a8", 5),
];

/// The other sides of each case.
const AGAINST: [&str; 2] = ["/usr/bin/qemu-arm", "jit"];

/// Cases of a run without arguments.
const SHORT: u64 = 400_000;

/// `diff arm …` goes to the `differential` program; otherwise all sets, `-n` cases between them.
pub fn command(arguments: &[String]) -> Result<()> {
    let run = |words: &[&str]| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        process::show(cargo.args(["run", "--release", "-q", "-p", "differential", "--"]).args(words))
    };
    if arguments.first().is_some_and(|w| w == "arm") {
        return run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let (count, seed) = parse(arguments)?;
    for &(isa, fp, cpu, percent) in SETS {
        let (n, seed) = ((count * percent / 100).to_string(), seed.to_string());
        let mut words = vec!["arm", "--isa", isa, "--cpu", cpu, "-n", &n, "--seed", &seed];
        words.extend(fp.then_some("--fp"));
        for program in AGAINST {
            words.extend(["--against", program]);
        }
        run(&words)?;
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<(u64, u64)> {
    let (mut count, mut seed) = (SHORT, 1);
    for pair in arguments.chunks(2) {
        let number = || {
            let text = pair.get(1).ok_or_else(|| Error::new(format!("{} needs a number", pair[0])))?;
            text.replace('_', "").parse().context(|| format!("'{text}' is not a number"))
        };
        match pair[0].as_str() {
            "-n" => count = number()?,
            "--seed" => seed = number()?,
            other => return Err(Error::new(format!("diff takes -n and --seed, or 'arm' and more, not '{other}'"))),
        }
    }
    Ok((count, seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_make_up_the_whole() {
        assert_eq!(SETS.iter().map(|s| s.3).sum::<u64>(), 100);
    }

    #[test]
    fn options() {
        let words = |line: &str| line.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        assert_eq!(parse(&words("-n 10_000 --seed 7")).unwrap(), (10_000, 7));
        for bad in ["-n", "--seed x", "a32"] {
            assert!(parse(&words(bad)).is_err(), "{bad}");
        }
    }
}
