//! Our programs die by SIGKILL in the middle of their work: what was flushed is in the image afterwards, `check` of both
//! sides finds leaks at worst, `check -r leaks` repairs them, and work goes on with the same image.
//!
//! `RHEA_KILLS=2000 cargo test -p img --test sigkill` runs longer; `RHEA_SEED` repeats a run (its choices; the moment of
//! a death is the machine's); `RHEA_TOOLS` is a directory with other builds of our programs.

#[path = "../../disk/tests/support/common.rs"]
mod common;
#[path = "sigkill/model.rs"]
mod model;

use common::{Random, env};
use disk::node::NodeRef;
use disk::open::OpenFlags;
use model::Model;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SIZE: u64 = 12 << 20;
/// Clients of one server, each with its own part of the disk.
const CLIENTS: u64 = 4;
/// Deaths that one image goes through.
const LIVES: u64 = 8;
/// A server that does not come up in this time never will.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest life of a `qemu-img` command under test.
const LIFE_US: u64 = 60_000;

/// Format, creation options, and whether the counts of a dirty image may be wrong until it is repaired.
const IMAGES: &[(&str, &str, bool)] = &[
    ("qcow2", "cluster_size=512", false),
    ("qcow2", "cluster_size=4096,refcount_bits=64", false),
    ("qcow2", "cluster_size=65536", false),
    ("qcow2", "cluster_size=65536,extended_l2=on", false),
    ("qcow2", "cluster_size=1024,compat=0.10", false),
    ("qcow2", "cluster_size=4096,lazy_refcounts=on", true),
    ("vdi", "", false),
    ("vmdk", "", false),
];

fn ours(tool: &str) -> Command {
    if let Some(dir) = std::env::var_os("RHEA_TOOLS") {
        return Command::new(Path::new(&dir).join(tool));
    }
    Command::new(match tool {
        "qemu-img" => env!("CARGO_BIN_EXE_qemu-img"),
        "qemu-io" => env!("CARGO_BIN_EXE_qemu-io"),
        _ => env!("CARGO_BIN_EXE_qemu-nbd"),
    })
}

fn reference() -> Command {
    Command::new("/usr/bin/qemu-img")
}

fn output(c: &mut Command) -> Output {
    c.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{c:?}: {e}: install the Debian package qemu-utils"))
}

fn run(c: &mut Command) {
    let out = output(c);
    assert!(out.status.success(), "{c:?}\n{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

/// How long the locks of a dead process may stay.
const LOCK_STAYS: Duration = Duration::from_secs(20);
/// How bytes are moved by a program that dies.
const ENGINES: &[&[&str]] = &[&[], &["--aio=io_uring"], &["--cache=none", "--aio=native"], &["--cache=none", "--aio=io_uring"]];

/// One image and what is known of it.
struct Trial {
    dir: PathBuf,
    format: &'static str,
    lazy: bool,
    backed: bool,
    /// Contents of the snapshot "kept".
    kept: Option<Vec<u8>>,
    model: Model,
    random: Random,
    label: String,
}

impl Trial {
    fn new(seed: u64, number: u64) -> Trial {
        let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let (format, options, lazy) = IMAGES[(number % IMAGES.len() as u64) as usize];
        let dir = std::env::temp_dir().join(format!("rhea-sigkill-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let backed = format == "qcow2" && random.below(2) == 0;
        let mut model = Model::new(SIZE);
        let mut c = ours("qemu-img");
        c.arg("create").args(["-q", "-f", format]);
        if !options.is_empty() {
            c.args(["-o", options]);
        }
        if backed {
            let stamp = model.stamp();
            model.fill(0, SIZE, stamp);
            std::fs::write(dir.join("base"), model.contents()).unwrap();
            run(ours("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(dir.join("base")).arg(dir.join("base.qcow2")));
            c.args(["-b", "base.qcow2", "-F", "qcow2"]);
        }
        run(c.arg(dir.join("image")).arg(SIZE.to_string()));
        let label = format!("RHEA_SEED={seed} image {number}: {format} {options}{}", if backed { ", with a backing file" } else { "" });
        let mut trial = Trial { dir, format, lazy, backed, kept: None, model, random, label };
        if trial.format == "qcow2" && trial.random.below(2) == 0 {
            trial.kept = Some(trial.model.contents());
            run(ours("qemu-img").args(["snapshot", "-c", "kept"]).arg(trial.image()));
        }
        trial
    }

    fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// The image after a death: check, contents, repair, check.
    fn examine(&mut self, how: &str, snapshots: bool) {
        let label = format!("{} after {how}", self.label);
        let mut names = vec![self.image()];
        if self.backed {
            names.push(self.dir.join("base.qcow2"));
        }
        let by_reference = self.random.below(2) == 0;
        let began = Instant::now();
        // Counts and "copied" flags cannot change at once; no data depends on the flags while an operation on snapshots is under
        // way, and version 3 has its dirty bit set.
        let flags_may_be_wrong = snapshots;
        for name in &names {
            let format = if name.ends_with("base.qcow2") { "qcow2" } else { self.format };
            let check = |mut c: Command, repair: &[&str]| {
                c.args(["check", "-f", format]).args(repair).arg(name);
                loop {
                    let out = output(&mut c);
                    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
                    // The kernel takes down a dead process's rings, and with them its files, a little later.
                    if began.elapsed() < LOCK_STAYS && text.contains("Is another process using the image") {
                        std::thread::sleep(Duration::from_millis(10));
                        continue;
                    }
                    return (out.status.code(), text);
                }
            };
            for side in [ours("qemu-img"), reference()] {
                let (status, text) = check(side, &[]);
                let only = |what: &str| text.lines().filter(|l| l.contains("ERROR")).all(|l| l.contains(what));
                // A VDI has its count of blocks before its table: the block in between is what a leak is elsewhere.
                let excused = self.lazy || flags_may_be_wrong && only("OFLAG_COPIED") || self.format == "vdi" && only("blocks mismatch");
                assert!(matches!(status, Some(0 | 3)) || excused && status == Some(2), "{label}: {name:?}: {status:?}\n{text}");
            }
            if format != "qcow2" {
                continue;
            }
            let (status, text) = check(if by_reference { reference() } else { ours("qemu-img") }, &["-r", if self.lazy || flags_may_be_wrong { "all" } else { "leaks" }]);
            assert_eq!(status, Some(0), "{label}: repair of {name:?}\n{text}");
            for side in [ours("qemu-img"), reference()] {
                let (status, text) = check(side, &[]);
                assert_eq!(status, Some(0), "{label}: {name:?} after the repair\n{text}");
            }
        }
        let raw = self.dir.join("raw");
        let mut reader = if by_reference { ours("qemu-img") } else { reference() };
        run(reader.args(["convert", "-f", self.format, "-O", "raw"]).arg(self.image()).arg(&raw));
        let bytes = std::fs::read(&raw).unwrap();
        if snapshots && self.kept.as_ref() == Some(&bytes) {
            self.model.become_known(&bytes);
        } else if let Err(what) = self.model.settle(&bytes) {
            panic!("{label}: {what}");
        }
    }

    /// Several clients write to a server that dies.
    fn server_dies(&mut self) {
        let socket = self.dir.join("socket");
        let pid = self.dir.join("pid");
        for leftover in [&socket, &pid] {
            let _ = std::fs::remove_file(leftover);
        }
        let mut c = ours("qemu-nbd");
        c.args(ENGINES[self.random.below(ENGINES.len() as u64) as usize]);
        c.args(["-t", "-e", "8", "-x", "", "-f", self.format, "--discard=unmap", "-k"]).arg(&socket).arg("--pid-file").arg(&pid);
        let mut server = c.arg(self.image()).stdin(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        while !pid.exists() {
            assert!(began.elapsed() < PATIENCE && server.try_wait().unwrap().is_none(), "{}: no server", self.label);
            std::thread::yield_now();
        }
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let requests = AtomicU64::new(0);
        let deadly = self.random.below(600);
        let seeds: Vec<u64> = (0..CLIENTS).map(|_| self.random.next()).collect();
        std::thread::scope(|scope| {
            let parts = self.model.parts(CLIENTS);
            for (mut part, seed) in parts.into_iter().zip(seeds) {
                let (uri, requests) = (&uri, &requests);
                scope.spawn(move || {
                    let flags = OpenFlags { write: true, unmap: true, ..OpenFlags::default() };
                    let Ok(node) = disk::open(uri, Some("raw"), &flags) else { return };
                    let mut random = Random(seed);
                    while one_request(&node, &mut part, &mut random) {
                        requests.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while requests.load(Ordering::Relaxed) < deadly {
                std::thread::yield_now();
            }
            server.kill().unwrap();
        });
        server.wait().unwrap();
        self.examine("the death of a server", false);
    }

    /// `qemu-io` with a script dies.
    fn session_dies(&mut self) {
        let mut child = ours("qemu-io")
            .args(ENGINES[self.random.below(ENGINES.len() as u64) as usize])
            .args(["-f", self.format, "-d", "unmap"])
            .arg(self.image())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut part = self.model.parts(1).remove(0);
        let deadly = self.random.below(120);
        for _ in 0..deadly {
            let (offset, len) = part.place(&mut self.random, 256);
            let byte = part.byte_stamp(&mut self.random);
            let zero = self.random.below(8) == 0;
            part.issue(offset, len, if zero { 0 } else { byte });
            let flush = self.random.below(6) == 0;
            let text = if zero { format!("write -z {offset} {len}\n") } else { format!("write -P {} {offset} {len}\n", byte & 0xff) };
            let text = if flush { format!("{text}flush\nread 0 512\n") } else { text };
            input.write_all(text.as_bytes()).unwrap();
            // Each command says what it did in two lines.
            wait_for(&mut lines, "wrote", &self.label);
            part.acknowledge(offset, len, if zero { 0 } else { byte });
            if flush {
                wait_for(&mut lines, "read", &self.label);
                part.flushed();
            }
        }
        let (offset, len) = part.place(&mut self.random, 2048);
        let byte = part.byte_stamp(&mut self.random);
        part.issue(offset, len, byte);
        input.write_all(format!("write -P {} {offset} {len}\nflush\n", byte & 0xff).as_bytes()).unwrap();
        std::thread::sleep(Duration::from_micros(self.random.below(3000)));
        end(&mut child);
        self.examine("the death of a session", false);
    }

    /// A command of `qemu-img` dies that must not change what the guest sees.
    fn command_dies(&mut self) {
        let image = self.image();
        let mut c = ours("qemu-img");
        let words: &[&str] = match (self.backed, self.random.below(6)) {
            (true, 0) => &["commit", "-q", "-d", "-f", "qcow2"],
            (true, 1) => &["rebase", "-q", "-f", "qcow2", "-b", ""],
            (true, 2) => &["commit", "-q", "-f", "qcow2"],
            (_, 3) => &["snapshot", "-d", "s"],
            (_, 5) if self.kept.is_some() => &["snapshot", "-a", "kept"],
            (_, 4) => &["amend", "-q", "-f", "qcow2", "-o", if self.lazy { "lazy_refcounts=on" } else { "compat=1.1" }],
            _ => &["snapshot", "-c", "s"],
        };
        if matches!(words[0], "commit" | "rebase") {
            // The snapshot shows what is below the image, and that changes.
            self.kept = None;
        }
        let mut child = c.args(words).arg(&image).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(self.random.below(LIFE_US)));
        end(&mut child);
        self.examine(&format!("the death of qemu-img {}", words.join(" ")), words[0] == "snapshot");
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // What a failure left is kept for a look at it.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn end(child: &mut Child) {
    // It may be over already.
    let _ = child.kill();
    child.wait().unwrap();
}

fn wait_for(lines: &mut impl Iterator<Item = std::io::Result<String>>, word: &str, label: &str) {
    for line in lines {
        // The prompt precedes the line of the first command that follows it.
        let line = line.unwrap();
        assert!(!line.contains("failed"), "{label}: {line}");
        if line.trim_start_matches("qemu-io> ").starts_with(word) {
            return;
        }
    }
    panic!("{label}: the session ended early");
}

/// False once the server is gone.
fn one_request(node: &NodeRef, part: &mut model::Part<'_>, random: &mut Random) -> bool {
    let (offset, len) = part.place(random, 128);
    let kind = random.below(24);
    if kind < 3 {
        let done = node.flush().is_ok();
        if done {
            part.flushed();
        }
        return done;
    }
    if kind == 3 {
        part.issue(offset, len, 0);
        let done = node.discard(offset, len).is_ok();
        if done {
            part.discarded(offset, len);
        }
        return done;
    }
    let stamp = if kind < 6 { 0 } else { part.stamp() };
    part.issue(offset, len, stamp);
    let result = if stamp == 0 {
        node.write_zeroes(offset, len, kind == 4)
    } else {
        node.write(offset, &model::bytes_of(stamp, len as usize))
    };
    if result.is_ok() {
        part.acknowledge(offset, len, stamp);
    }
    result.is_ok()
}

#[test]
fn nothing_flushed_is_lost_by_sigkill() {
    assert!(Path::new("/usr/bin/qemu-img").exists(), "install the Debian package qemu-utils");
    let seed = env("RHEA_SEED", 1);
    let kills = env("RHEA_KILLS", 24);
    let (mut done, mut number) = (0, env("RHEA_FIRST", 0));
    while done < kills {
        let mut trial = Trial::new(seed, number);
        // Short runs see every kind of image.
        let lives = if kills < 200 { 3 } else { LIVES };
        for life in 0..lives.min(kills - done) {
            match trial.random.below(6) {
                0 | 1 if trial.format == "qcow2" && life > 0 => trial.command_dies(),
                2 => trial.session_dies(),
                _ => trial.server_dies(),
            }
            done += 1;
        }
        number += 1;
        if number % 10 == 0 {
            println!("{done} deaths");
        }
    }
}
