//! An emulator with a guest on its serial console, and what the host knows of its process.
//!
//! Reference: proc(5), `/proc/PID/stat` and `/proc/PID/status`.

use spec::error::{Context, Error, Result};
use std::process::Command;
use std::time::Duration;
use trial::Console;

/// Anything that takes longer is a failure.
const LIMIT: Duration = Duration::from_secs(120);

pub struct Guest(Console);

/// What a command in the guest did.
pub struct Ran {
    pub cpu_s: f64,
    pub output: String,
    pub status: String,
}

impl Guest {
    pub fn start(command: Command) -> Result<Guest> {
        Ok(Guest(Console::start(command, LIMIT)?))
    }

    /// Waits until the console prints `text`; gives what came before it.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        self.0.wait_for(text)
    }

    /// Types without waiting.
    pub fn send(&mut self, text: &str) -> Result<()> {
        self.0.send(text)
    }

    /// Runs a command in the guest's shell. The output is clean where the terminal does not echo and the shell has no prompt.
    pub fn run(&mut self, command: &str) -> Result<Ran> {
        let before = self.cpu_s()?;
        let ran = self.0.run(command)?;
        let cpu_s = self.cpu_s()? - before;
        Ok(Ran { cpu_s, output: ran.output.trim().replace('\r', ""), status: ran.status })
    }

    /// A command that must succeed, for preparations.
    pub fn must(&mut self, command: &str) -> Result<()> {
        let ran = self.run(command)?;
        if ran.status == "0" {
            return Ok(());
        }
        Err(Error::new(format!("'{command}' failed in the guest ({}): {}", ran.status, ran.output)))
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
        let path = format!("/proc/{}/{name}", self.0.id());
        std::fs::read_to_string(&path).context(|| format!("Could not read '{path}'"))
    }
}

/// Fields 14 and 15 of a stat line; the second field may contain anything, up to the last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
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
