//! SIGINT, SIGTERM and SIGHUP: the machine ends properly.
//!
//! The signals are blocked in all threads and read by one, so that nothing happens in a handler.

use crate::lifecycle::{Cause, Lifecycle};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use spec::{Context, Result};
use std::sync::Arc;

/// Signals that end the program.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The blocked signals.
pub struct Signals(SigSet);

/// Blocks the signals in this thread and those it will start: call it before there are others.
pub fn block() -> Result<Signals> {
    let mut set = SigSet::empty();
    ENDING.into_iter().for_each(|s| set.add(s));
    set.thread_block().context(|| "could not block signals".to_owned())?;
    Ok(Signals(set))
}

impl Signals {
    /// Starts the thread that waits for them.
    pub fn watch(self, program: &'static str, life: Arc<Lifecycle>) -> Result<()> {
        let fd = SignalFd::new(&self.0).context(|| "could not watch signals".to_owned())?;
        let run = move || {
            while let Ok(Some(info)) = fd.read_signal() {
                eprintln!("{program}: {}", describe(info.ssi_signo, info.ssi_pid));
                life.quit(Cause::HostSignal);
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(run).context(|| "could not start a thread".to_owned())?;
        Ok(())
    }
}

/// What is said about a signal: its sender, unless that is the kernel for a terminal.
fn describe(signal: u32, pid: u32) -> String {
    if pid == 0 {
        return format!("terminating on signal {signal}");
    }
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = if name.is_empty() { "<unknown process>" } else { name.trim_end() };
    format!("terminating on signal {signal} from pid {pid} ({name})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sender_is_named() {
        assert_eq!(describe(2, 0), "terminating on signal 2");
        let me = std::process::id();
        let text = describe(15, me);
        assert!(text.starts_with(&format!("terminating on signal 15 from pid {me} (")) && !text.contains("unknown"), "{text}");
    }
}
