//! An emulator with a guest on its serial console, and what the host knows of its process.
//!
//! Reference: proc(5), `/proc/PID/stat` and `/proc/PID/status`.

use spec::error::{Context, Error, Result};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Anything that takes longer is a failure.
const LIMIT: Duration = Duration::from_secs(120);

pub struct Guest {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    passed: usize,
    commands: u32,
}

/// What a command in the guest did.
pub struct Ran {
    pub cpu_s: f64,
    pub output: String,
    pub status: String,
}

impl Guest {
    pub fn start(mut command: Command) -> Result<Guest> {
        let shown = crate::process::shown(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().context(|| format!("Could not run {shown}"))?;
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
        Ok(Guest { child, input, output, seen: Vec::new(), passed: 0, commands: 0 })
    }

    /// Waits until the console prints `text`; gives what came before it.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        let until = Instant::now() + LIMIT;
        loop {
            let new = &self.seen[self.passed..];
            if let Some(at) = new.windows(text.len()).position(|w| w == text.as_bytes()) {
                let between = String::from_utf8_lossy(&new[..at]).into_owned();
                self.passed += at + text.len();
                return Ok(between);
            }
            match self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(why) => {
                    let tail = String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(2000)..]).into_owned();
                    return Err(Error::new(format!("the guest did not print '{text}' ({why}); the console's end:\n{tail}")));
                }
            }
        }
    }

    /// Runs a command in the guest's shell. The output is clean where the terminal does not echo and the shell has no prompt.
    pub fn run(&mut self, command: &str) -> Result<Ran> {
        self.commands += 1;
        let mark = format!("-{}-", self.commands);
        let before = self.cpu_s()?;
        // The mark is not in the command as it is echoed.
        let line = format!("{command}; echo end$?-''{}-\n", self.commands);
        self.input.write_all(line.as_bytes()).and_then(|()| self.input.flush()).context(|| "Could not write to the guest's console".into())?;
        let printed = self.wait_for(&mark)?;
        let cpu_s = self.cpu_s()? - before;
        let (text, status) = printed.rsplit_once("end").unwrap_or((&printed, "?"));
        let output = text.trim().replace('\r', "");
        Ok(Ran { cpu_s, output, status: status.to_string() })
    }

    /// A command that must succeed, for preparations.
    pub fn must(&mut self, command: &str) -> Result<()> {
        let ran = self.run(command)?;
        if ran.status == "0" {
            return Ok(());
        }
        Err(Error::new(format!("'{command}' failed in the guest ({}): {}", ran.status, ran.output)))
    }

    /// Types without waiting.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.input.write_all(text.as_bytes()).and_then(|()| self.input.flush()).context(|| "Could not write to the guest's console".into())
    }

    /// User plus system time of all threads, finished ones too.
    pub fn cpu_s(&self) -> Result<f64> {
        let stat = self.proc_file("stat")?;
        let ticks = ticks(&stat).ok_or_else(|| Error::new("the emulator's /proc/PID/stat cannot be read"))?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// A line of `/proc/PID/status` in MiB: `VmHWM`, `VmRSS`.
    pub fn memory_mib(&self, field: &str) -> Result<f64> {
        let status = self.proc_file("status")?;
        let line = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
        kib.map(|k| k / 1024.0).ok_or_else(|| Error::new(format!("the emulator's /proc/PID/status has no {field}")))
    }

    fn proc_file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.child.id());
        std::fs::read_to_string(&path).context(|| format!("Could not read '{path}'"))
    }
}

/// Fields 14 and 15 of a stat line; the second field may contain anything, up to the last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_a_process_with_a_strange_name() {
        assert_eq!(ticks("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20"), Some(42));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn a_shell_as_a_guest() {
        let mut guest = Guest::start(Command::new("sh")).unwrap();
        let ran = guest.run("echo one; (exit 3)").unwrap();
        assert_eq!((ran.output.as_str(), ran.status.as_str()), ("one", "3"));
        assert!(guest.must("true").is_ok() && guest.must("false").is_err());
        assert!(guest.memory_mib("VmRSS").unwrap() > 0.1 && guest.memory_mib("VmNothing").is_err());
    }
}
