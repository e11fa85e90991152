//! Running host programs, with errors that say what was run.

use spec::error::{Context, Error, Result};
use std::process::{Command, Stdio};

/// The command as a user would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| quoted(&w.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Runs to the end and returns standard output; failure carries the last lines of standard error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().context(|| format!("Could not run {}", shown(command)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().collect();
    let tail = lines[lines.len().saturating_sub(12)..].join("\n  ");
    Err(Error::new(format!("{} failed ({}):\n  {tail}", shown(command), output.status)))
}

/// Runs with this terminal's input and output.
pub fn show(command: &mut Command) -> Result<()> {
    let status = command.status().context(|| format!("Could not run {}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(Error::new(format!("{} failed ({status})", shown(command)))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        let mut c = Command::new("bash");
        c.args(["-c", "echo it's", "", "a/b-c=1"]);
        assert_eq!(shown(&c), r"bash -c 'echo it'\''s' '' a/b-c=1");
    }

    #[test]
    fn a_failing_program_is_named_with_its_last_words() {
        let error = capture(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("broken") && error.contains("3"), "{error}");
    }
}
