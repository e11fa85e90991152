//! A program's console: an emulator with its guest's serial line, or anything that reads commands and prints.

use spec::error::{Context, Error, Result};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often whoever waits looks whether anything moves.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of the console's end that a failure shows.
const TAIL: usize = 3000;

pub struct Console {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    /// Everything that was printed, and how much of it has been waited for.
    seen: Vec<u8>,
    passed: usize,
    commands: u32,
    patience: Duration,
}

/// What a command of the guest's shell did.
pub struct Ran {
    /// As it was printed, with the echoed command where the terminal echoes.
    pub output: String,
    /// The exit status in digits.
    pub status: String,
}

impl Console {
    /// Starts a program. Whatever it is waited for takes longer than `patience` is a failure.
    pub fn start(mut command: Command, patience: Duration) -> Result<Console> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().context(|| format!("Could not run {command:?}"))?;
        let input = child.stdin.take().expect("piped above");
        let mut stdout = child.stdout.take().expect("piped above");
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = stdout.read(&mut buffer) {
                if n == 0 || send.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Console { child, input, output, seen: Vec::new(), passed: 0, commands: 0, patience })
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the console prints `text` after what was waited for before; gives what came in between.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        self.wait_for_while(text, || 0)
    }

    /// The same, and time begins anew whenever `moved` has changed.
    fn wait_for_while(&mut self, text: &str, moved: impl Fn() -> u64) -> Result<String> {
        let (mut until, mut last) = (Instant::now() + self.patience, moved());
        loop {
            let new = &self.seen[self.passed..];
            if let Some(at) = new.windows(text.len()).position(|w| w == text.as_bytes()) {
                let between = String::from_utf8_lossy(&new[..at]).into_owned();
                self.passed += at + text.len();
                return Ok(between);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left.min(LOOK).min(self.patience / 4)) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {
                    let now = moved();
                    if now != last {
                        (until, last) = (Instant::now() + self.patience, now);
                    }
                }
                Err(why) => {
                    let why = if why == RecvTimeoutError::Timeout { "did not come in time" } else { "never came" };
                    return Err(self.failure(&format!("'{text}' {why}")));
                }
            }
        }
    }

    fn failure(&self, what: &str) -> Error {
        let tail = String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(TAIL)..]);
        Error::new(format!("{what}; the console's end:\n{tail}"))
    }

    /// Types without waiting.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let typed = self.input.write_all(text.as_bytes()).and_then(|()| self.input.flush());
        typed.context(|| "Could not write to the guest's console".into())
    }

    /// Runs a command in the guest's shell.
    pub fn run(&mut self, command: &str) -> Result<Ran> {
        self.run_while(command, || 0)
    }

    /// The same for as long as it takes, if `moved` (how far it is, as seen from here) changes now and then.
    pub fn run_while(&mut self, command: &str, moved: impl Fn() -> u64) -> Result<Ran> {
        self.commands += 1;
        // The mark is not in the command as it is echoed.
        let n = self.commands;
        self.send(&format!("{command}; echo end$?-''{n}-\n"))?;
        let printed = self.wait_for_while(&format!("-{n}-"), moved)?;
        let (output, status) = printed.rsplit_once("end").ok_or_else(|| self.failure("no end mark"))?;
        Ok(Ran { output: output.into(), status: status.into() })
    }

    /// Kills the program with no warning, as a power cut does.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait().map(drop)).context(|| "Could not kill a program".into())
    }

    /// Waits for the program's end.
    pub fn end(mut self) -> Result<ExitStatus> {
        let until = Instant::now() + self.patience;
        loop {
            match self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(RecvTimeoutError::Timeout) => return Err(self.failure("the program does not end")),
                Err(RecvTimeoutError::Disconnected) => {
                    return self.child.wait().context(|| "Could not wait for a program".into());
                }
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Console {
        Console::start(Command::new("sh"), Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn a_shell_runs_commands() {
        let mut shell = shell();
        let ran = shell.run("echo one; (exit 3)").unwrap();
        assert_eq!((ran.output.trim(), ran.status.as_str()), ("one", "3"));
        shell.send("echo a b c; exit 5\n").unwrap();
        assert_eq!(shell.wait_for("b").unwrap().trim(), "a");
        assert_eq!(shell.end().unwrap().code(), Some(5));
    }

    /// What takes longer than the patience ends when whoever looks lets it.
    #[test]
    fn what_moves_is_waited_for() {
        let fifo = std::env::temp_dir().join(format!("trial-console-{}", std::process::id()));
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let looks = std::cell::Cell::new(0);
        let moved = || {
            looks.set(looks.get() + 1);
            if looks.get() == 12 {
                std::fs::write(&fifo, "line\n").unwrap();
            }
            looks.get()
        };
        let mut shell = Console::start(Command::new("sh"), Duration::from_millis(200)).unwrap();
        assert!(shell.wait_for("this").unwrap_err().to_string().starts_with("'this' did not come in time"));
        let ran = shell.run_while(&format!("read line < {}; echo got $line", fifo.display()), moved).unwrap();
        assert_eq!(ran.output.trim(), "got line");
        std::fs::remove_file(&fifo).unwrap();
    }

    #[test]
    fn what_never_comes_is_named_with_what_came() {
        let mut shell = shell();
        shell.send("echo something else; exit\n").unwrap();
        let error = shell.wait_for("this").unwrap_err().to_string();
        assert!(error.starts_with("'this' never came") && error.contains("something else"), "{error}");
    }
}
