//! A command without `-p` answers SIGUSR1 with the progress line and goes on.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until the process holds the signal back, so that it does not die of it.
fn listens(child: &Child) -> bool {
    let mask = 1u64 << (Signal::SIGUSR1 as u32 - 1);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let blocked = status.lines().find_map(|l| l.strip_prefix("SigBlk:")).map(str::trim).unwrap_or("0");
        if u64::from_str_radix(blocked, 16).unwrap_or(0) & mask != 0 {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[test]
fn a_signal_shows_the_progress_of_a_command() {
    let dir = std::env::temp_dir().join(format!("rhea-progress-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (source, target) = (dir.join("source"), dir.join("target"));
    std::fs::write(&source, vec![7u8; 8 << 20]).unwrap();
    // 2 MiB a second: slow enough to be asked on the way.
    let mut child = Command::new(env!("CARGO_BIN_EXE_qemu-img"))
        .args(["convert", "--object", "throttle-group,id=slow,x-bps-total=2097152", "-O", "raw", "--image-opts"])
        .arg(format!("driver=throttle,throttle-group=slow,file.driver=file,file.filename={}", source.display()))
        .arg(&target)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(listens(&child), "the command does not wait for the signal");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGUSR1).unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let percent =
        line.strip_prefix("    (").and_then(|l| l.strip_suffix("/100%)\n")).and_then(|p| p.parse::<f64>().ok());
    assert!(percent.is_some_and(|p| (0.0..=100.0).contains(&p)), "said {line:?}");
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&source).unwrap(), "the copy differs");
    let _ = std::fs::remove_dir_all(&dir);
}
