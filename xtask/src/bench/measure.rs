//! CPU time of a process tree, and what the tree printed.
//!
//! User plus system time of the child and of every descendant that was waited for. Wall time would measure the other work
//! of the machine as well.

use spec::error::{Context, Result};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use wait4::Wait4;

/// A sample that takes longer is a failure of the row.
const LIMIT: Duration = Duration::from_secs(180);

pub struct Sample {
    pub cpu: Duration,
    pub stdout: Vec<u8>,
    /// What went wrong, if it did.
    pub failure: Option<String>,
}

/// Runs once. `scratch` receives the output.
pub fn sample(mut command: Command, scratch: &Path) -> Result<Sample> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let create = |name: &str| std::fs::File::create(scratch.join(name)).context(|| format!("Could not write in '{}'", scratch.display()));
    let (out, err) = (create("bench.out")?, create("bench.err")?);
    command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    let mut child = command.spawn().context(|| format!("Could not run {shown}"))?;
    let group = rustix::process::Pid::from_child(&child);
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = ended.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        late
    });
    let used = child.wait4().context(|| "Could not wait for the program".into())?;
    drop(done);
    let late = watchdog.join().unwrap_or(false);
    let read = |name: &str| std::fs::read(scratch.join(name)).context(|| format!("Could not read in '{}'", scratch.display()));
    let stderr = read("bench.err")?;
    let last = String::from_utf8_lossy(&stderr).lines().last().unwrap_or("").to_string();
    let failure = if late {
        Some(format!("not finished in {} s", LIMIT.as_secs()))
    } else if !used.status.success() {
        Some(format!("{} {last}", used.status))
    } else {
        None
    };
    Ok(Sample { cpu: used.rusage.utime + used.rusage.stime, stdout: read("bench.out")?, failure })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> Sample {
        let scratch = std::env::temp_dir().join(format!("rhea-measure-{}-{}", std::process::id(), script.len()));
        std::fs::create_dir_all(&scratch).unwrap();
        let mut sh = Command::new("sh");
        sh.args(["-c", script]);
        let sample = sample(sh, &scratch).unwrap();
        std::fs::remove_dir_all(&scratch).unwrap();
        sample
    }

    #[test]
    fn time_of_grandchildren_counts() {
        let idle = run("sh -c 'sh -c :'");
        let busy = run("sh -c 'sh -c \"i=0; while [ \\$i -lt 300000 ]; do i=\\$((i+1)); done\"; :'");
        assert!(busy.failure.is_none(), "{:?}", busy.failure);
        assert!(busy.cpu > idle.cpu * 5, "{:?} against {:?}", busy.cpu, idle.cpu);
    }

    #[test]
    fn a_failure_carries_the_status_and_the_last_line() {
        let sample = run("echo out; echo first >&2; echo last >&2; exit 3");
        assert_eq!(sample.stdout, b"out\n");
        let failure = sample.failure.unwrap();
        assert!(failure.contains('3') && failure.ends_with("last"), "{failure}");
    }
}
