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

/// A run that takes longer is asked to end.
const PATIENCE: Duration = Duration::from_secs(4);
/// After SIGTERM.
const DEATH: Duration = Duration::from_secs(10);
const HEADER: usize = 52;
const VALUES: [u32; 14] =
    [0, 1, 2, 3, 0x20, 0xfff, 0x1000, 0xffff, 0x10000, 0x7fff_ffff, 0x8000_0000, 0xffff_0000, 0xffff_f000, 0xffff_ffff];

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

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
        let mut random = Random((seed ^ runs.wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1));
        for _ in 0..4 {
            random.next();
        }
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

/// Changes the file; gives whether instructions may have changed.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) -> bool {
    let headers = HEADER + 32 * bytes[44] as usize;
    for _ in 0..1 + random.below(3) {
        match random.below(8) {
            0..=2 => {
                // A field of the ELF header or a program header.
                let at = 4 * random.below(headers / 4);
                let value = if random.below(4) == 0 { random.next() as u32 } else { VALUES[random.below(VALUES.len())] };
                put(bytes, at, value);
            }
            3 => {
                let at = random.below(headers.min(bytes.len()));
                bytes[at] ^= 1 << random.below(8);
            }
            4 => {
                // A field made a little larger or smaller.
                let at = 4 * random.below(headers / 4);
                if let Some(raw) = bytes.get(at..at + 4) {
                    let old = u32::from_le_bytes(raw.try_into().expect("4 bytes"));
                    put(bytes, at, old.wrapping_add((random.below(0x4000) as u32).wrapping_sub(0x2000)));
                }
            }
            5 => {
                let (a, b) = (random.below(bytes[44] as usize), random.below(bytes[44] as usize));
                for i in 0..32 {
                    if HEADER + 32 * a.max(b) + i < bytes.len() {
                        bytes.swap(HEADER + 32 * a + i, HEADER + 32 * b + i);
                    }
                }
            }
            6 => {
                let length = if random.below(2) == 0 { random.below(headers + 64) } else { random.below(bytes.len()) };
                bytes.truncate(length.max(64));
            }
            _ => {
                for _ in 0..1 + random.below(40) {
                    let at = random.below(bytes.len());
                    bytes[at] = random.next() as u8;
                }
                return true;
            }
        }
    }
    false
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(raw) = bytes.get_mut(at..at + 4) {
        raw.copy_from_slice(&value.to_le_bytes());
    }
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
