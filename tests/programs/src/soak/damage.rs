//! Damaged ELF files: the answer is one sentence, a guest's signal, or whatever the program still does, never a panic, a
//! crash of the emulator or a process that does not die when asked.
//!
//! Only the files' headers are damaged freely. Where instructions are damaged too, the program runs in namespaces of its
//! own, because a damaged system call might hit anything.

use super::seconds;
use crate::probes;
use crate::stage::Stage;
use libtest_mimic::Failed;
use std::collections::BTreeMap;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use trial::Random;
use trial::damage::damage;

/// A run that takes longer is asked to end.
const PATIENCE: Duration = Duration::from_secs(4);
/// After SIGTERM.
const DEATH: Duration = Duration::from_secs(10);

struct Seed {
    bytes: Vec<u8>,
    arguments: &'static [&'static str],
}

pub fn damaged_programs(s: &Stage) -> Result<(), Failed> {
    let read = |path: PathBuf| std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()));
    let root = s.root();
    let seeds = [
        Seed { bytes: read(root.join("usr/bin/true"))?, arguments: &[] },
        Seed { bytes: read(root.join("usr/bin/hello"))?, arguments: &["-g", "x"] },
        Seed { bytes: read(root.join("usr/lib/ld-linux-armhf.so.3"))?, arguments: &["--version"] },
        Seed { bytes: read(root.join("usr/sbin/ldconfig"))?, arguments: &["--version"] },
        Seed { bytes: read(probes::arm(s, "pressure")?)?, arguments: &["many_values"] },
    ];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let seed = std::env::var("RHEA_SEED").ok().and_then(|t| t.parse().ok()).unwrap_or(now.as_nanos() as u64);
    eprintln!("damaged_programs: RHEA_SEED={seed}");
    let until = Instant::now() + Duration::from_secs(seconds().unwrap_or(1));
    let mut endings: BTreeMap<String, u32> = BTreeMap::new();
    let mut runs = 0u64;
    while Instant::now() < until {
        let mut random = Random::new(seed, runs);
        let which = &seeds[random.below(seeds.len())];
        let mut bytes = which.bytes.clone();
        let code_too = damage(&mut bytes, &mut random);
        let file = s.write("damaged", &bytes)?;
        let ending = one(s, &file, which.arguments, code_too)?;
        match verdict(&ending) {
            Ok(name) => *endings.entry(name).or_default() += 1,
            Err(what) => {
                std::fs::copy(&file, s.work.join(format!("bad-{runs}")))?;
                return Err(format!("run {runs} of seed {seed}: {what}\n  {:?}\n  kept: {}", ending, s.work.join(format!("bad-{runs}")).display()).into());
            }
        }
        runs += 1;
    }
    eprintln!("damaged_programs: {runs} runs: {endings:?}");
    Ok(())
}

#[derive(Debug)]
struct Ending {
    status: ExitStatus,
    stderr: String,
    /// It was asked to end; and did not.
    late: bool,
    stuck: bool,
}

fn one(s: &Stage, file: &Path, arguments: &[&str], alone: bool) -> Result<Ending, Failed> {
    let mut command = if alone {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--pid", "--net", "--ipc", "--fork", "--kill-child"]).arg(&s.setting.emulator);
        unshare
    } else {
        Command::new(&s.setting.emulator)
    };
    command.arg("-L").arg(s.root()).arg(file).args(arguments).env_clear().current_dir(s.work.join("tmp"));
    let errors = s.work.join("errors");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&errors)?).process_group(0);
    let mut child = command.spawn()?;
    let group = rustix::process::Pid::from_child(&child);
    let wait = |child: &mut std::process::Child, limit: Duration| -> std::io::Result<Option<ExitStatus>> {
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if begun.elapsed() > limit {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    };
    let mut ending = wait(&mut child, PATIENCE)?;
    let late = ending.is_none();
    // The first process of a namespace does not get SIGTERM.
    if late && !alone {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        ending = wait(&mut child, DEATH)?;
    }
    let stuck = ending.is_none() && !alone;
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    let status = ending.map_or_else(|| child.wait(), Ok)?;
    Ok(Ending { status, stderr: String::from_utf8_lossy(&std::fs::read(&errors)?).into_owned(), late, stuck })
}

/// A name for the way it ended, or what is wrong with it.
fn verdict(e: &Ending) -> Result<String, String> {
    if e.stuck {
        return Err("did not end after SIGTERM".into());
    }
    for word in ["panicked", "assertion", "RUST_BACKTRACE", "memory allocation"] {
        if e.stderr.contains(word) {
            return Err(format!("the emulator failed: {word}"));
        }
    }
    if e.late {
        return Ok("asked to end".into());
    }
    if let Some(signal) = e.status.signal() {
        let told = e.stderr.contains("uncaught target signal");
        return if told { Ok(format!("signal {signal}")) } else { Err(format!("signal {signal} without a word")) };
    }
    let ours: Vec<&str> = e.stderr.lines().filter(|l| l.starts_with("qemu-arm:") || l.starts_with("Error while loading")).collect();
    match (ours.len(), e.status.code()) {
        (0, code) => Ok(format!("status {}", code.unwrap_or(-1))),
        (1, Some(1 | 255)) => Ok("one sentence".into()),
        _ => Err("more than one sentence, or another status".into()),
    }
}
