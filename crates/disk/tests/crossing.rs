//! The differential trials in bulk: a whole batch of small qcow2 images goes through random operations at once, and all
//! that the reference does to the batch is done by one `qemu-io`, so that starting processes costs almost nothing.
//!
//! Each step of an image (writes, packed writes, zeroes, discards, resizes, snapshots, rebases) is done by our driver or by
//! the reference, with a model of the contents beside it. After each step our check must be clean and our reads equal
//! to the model. In the end the image is marked dirty, so that the reference checks it while opening it (it prints what it
//! has to repair, which must be nothing), and reads all of it against the model.
//!
//! `RHEA_SEQUENCES=100000 cargo test --release -p disk --test crossing` runs longer; `RHEA_SEED` and `RHEA_FIRST` (a
//! batch) repeat. Two workers share the batches (`RHEA_WORKERS`); the images are in memory where the host has `/dev/shm`,
//! and the reference does not flush them: no power is lost here (`crash` is about that).

#[path = "support/common.rs"]
mod common;

use common::{Random, env, scratch};
use disk::node::{NodeRef, Preallocation, Repair, SnapshotInfo};
use disk::open::OpenFlags;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// Images in one batch, and steps for each.
const BATCH: u64 = 64;
const LARGEST: u64 = 768 << 10;
/// How the reference opens an image.
const THEIRS: &str = "driver=qcow2,discard=unmap,cache.no-flush=on";

const SHAPES: &[&str] = &[
    "cluster_size=512",
    "cluster_size=1024,refcount_bits=64",
    "cluster_size=2048,refcount_bits=4",
    "cluster_size=4096,refcount_bits=8,compression_type=zstd",
    "cluster_size=16384,extended_l2=on",
    "cluster_size=65536",
    "cluster_size=32768,extended_l2=on,refcount_bits=32",
    "cluster_size=4096,lazy_refcounts=on",
    "cluster_size=4096,preallocation=metadata",
];

fn reference(tool: &str) -> Command {
    let path = Path::new("/usr/bin").join(tool);
    assert!(
        path.exists(),
        "{} is missing: install the Debian package qemu-utils (the reference for these trials)",
        path.display()
    );
    Command::new(path)
}

struct Image {
    path: PathBuf,
    cluster: u64,
    backed: bool,
    model: Vec<u8>,
    snapshots: Vec<(String, Vec<u8>)>,
    log: Vec<String>,
}

enum Op {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Packed(u64, u64, u8),
}

impl Image {
    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn text(&self) -> String {
        format!("{}\n  {}", self.name(), self.log.join("\n  "))
    }

    fn open(&self, write: bool) -> NodeRef {
        let flags = OpenFlags { write, unmap: true, check: !write, ..OpenFlags::default() };
        disk::open(self.name(), Some("qcow2"), &flags).unwrap_or_else(|e| panic!("open: {e}\n{}", self.text()))
    }

    fn op(&self, r: &mut Random) -> Op {
        let size = self.model.len() as u64;
        let unit = *r.pick(&[1u64, 512, 512, 4096, 65536]);
        let offset = (r.below(size) / unit * unit).min(size - 1);
        let longest = *r.pick(&[512u64, 4096, 65536, 200_000]);
        let len = (1 + r.below(longest)).next_multiple_of(unit).min(size - offset);
        let value = r.below(255) as u8 + 1;
        match r.below(10) {
            0..=4 => Op::Write(offset, len, value),
            5..=6 => Op::Zero(offset, len, r.below(2) == 0),
            7 => Op::Discard(offset, len),
            _ => {
                let start = offset / self.cluster * self.cluster;
                Op::Packed(start, (start + self.cluster).min(size) - start, value)
            }
        }
    }

    fn ours(&mut self, r: &mut Random) {
        let node = self.open(true);
        for _ in 0..1 + r.below(6) {
            let op = self.op(r);
            let done = match op {
                Op::Write(o, l, v) => {
                    self.log.push(format!("ours write -P {v} {o} {l}"));
                    self.model[o as usize..(o + l) as usize].fill(v);
                    node.write(o, &vec![v; l as usize])
                }
                Op::Zero(o, l, unmap) => {
                    self.log.push(format!("ours write -z {} {o} {l}", if unmap { "-u" } else { "" }));
                    self.model[o as usize..(o + l) as usize].fill(0);
                    node.write_zeroes(o, l, unmap)
                }
                Op::Discard(o, l) => {
                    self.log.push(format!("ours discard {o} {l}"));
                    let done = node.discard(o, l);
                    self.adopt_discard(&node, o, l);
                    done
                }
                Op::Packed(o, l, v) => {
                    self.log.push(format!("ours write -c -P {v} {o} {l}"));
                    // Refused over stored data, as by the reference.
                    if node.write_compressed(o, &vec![v; l as usize]).is_ok() {
                        self.model[o as usize..(o + l) as usize].fill(v);
                    }
                    Ok(())
                }
            };
            done.unwrap_or_else(|e| panic!("{e}\n{}", self.text()));
        }
        node.close().unwrap_or_else(|e| panic!("close: {e}\n{}", self.text()));
    }

    /// A discard leaves each byte as it was or as zero; which of them is the driver's choice.
    fn adopt_discard(&mut self, node: &NodeRef, o: u64, l: u64) {
        let mut now = vec![0; l as usize];
        node.read(o, &mut now).unwrap();
        let old = &self.model[o as usize..(o + l) as usize];
        assert!(now.iter().zip(old).all(|(n, m)| n == m || *n == 0), "discard left something else\n{}", self.text());
        self.model[o as usize..(o + l) as usize].copy_from_slice(&now);
    }

    /// Appends a step to the script of the reference.
    fn theirs(&mut self, r: &mut Random, script: &mut String, loose: &mut Vec<(u64, u64, Option<u8>)>) {
        writeln!(script, "open -o {THEIRS} {}", self.name()).unwrap();
        for _ in 0..1 + r.below(6) {
            let text = match self.op(r) {
                Op::Write(o, l, v) => {
                    self.model[o as usize..(o + l) as usize].fill(v);
                    format!("write -P {v} {o} {l}")
                }
                Op::Zero(o, l, unmap) => {
                    self.model[o as usize..(o + l) as usize].fill(0);
                    format!("write -z {} {o} {l}", if unmap { "-u" } else { "" })
                }
                // These two may leave either contents. They end the step, so that no later write mixes with that.
                Op::Discard(o, l) => {
                    loose.push((o, l, None));
                    format!("discard {o} {l}")
                }
                Op::Packed(o, l, v) => {
                    loose.push((o, l, Some(v)));
                    format!("write -c -P {v} {o} {l}")
                }
            };
            self.log.push(format!("theirs {text}"));
            writeln!(script, "{text}").unwrap();
            if !loose.is_empty() {
                break;
            }
        }
        script.push_str("close\n");
    }

    /// What the last step of the reference may have left open is what we read now, if it is one of the choices.
    fn settle(&mut self, loose: &[(u64, u64, Option<u8>)]) {
        for (o, l, value) in loose {
            let node = self.open(false);
            let range = *o as usize..(o + l) as usize;
            let mut now = vec![0; *l as usize];
            node.read(*o, &mut now).unwrap();
            match value {
                None => self.adopt_discard(&node, *o, *l),
                Some(v) => {
                    let all_new = now.iter().all(|b| b == v);
                    assert!(
                        all_new || now == self.model[range.clone()],
                        "a packed write left something else\n{}",
                        self.text()
                    );
                    self.model[range].copy_from_slice(&now);
                }
            }
        }
    }

    fn check(&self) {
        let node = self.open(false);
        let report = node.check(Repair::default()).unwrap().unwrap();
        assert_eq!(
            (report.corruptions, report.check_errors, report.leaks),
            (0, 0, 0),
            "{:#?}\n{}",
            report.lines,
            self.text()
        );
        assert_eq!(node.size(), self.model.len() as u64, "size\n{}", self.text());
        let mut now = vec![0; self.model.len()];
        node.read(0, &mut now).unwrap();
        if now == self.model {
            return;
        }
        if let Some(at) = (0..now.len()).find(|i| now[*i] != self.model[*i]) {
            panic!("we read {:#x} at {at:#x}, should be {:#x}\n{}", now[at], self.model[at], self.text());
        }
    }

    fn snapshot(&mut self, r: &mut Random) {
        let action = if self.snapshots.is_empty() { 0 } else { r.below(3) };
        if action == 0 && self.snapshots.len() >= 3 {
            return;
        }
        let index = r.below(self.snapshots.len() as u64) as usize;
        let (flag, key) = match action {
            0 => ("-c", format!("s{}", self.log.len())),
            1 => ("-a", self.snapshots[index].0.clone()),
            _ => ("-d", self.snapshots[index].0.clone()),
        };
        // A process for one step: seldom.
        let ours = r.below(8) != 0;
        self.log.push(format!("{} snapshot {flag} {key}", if ours { "ours" } else { "theirs" }));
        if ours {
            let node = self.open(true);
            let s = node.snapshots().unwrap();
            let done = match action {
                0 => s.create(SnapshotInfo { name: key.clone(), icount: Some(0), ..SnapshotInfo::default() }),
                1 => s.apply(&key),
                _ => s.delete(&key),
            };
            done.unwrap_or_else(|e| panic!("{e}\n{}", self.text()));
            node.close().unwrap();
        } else {
            self.run(reference("qemu-img").args(["snapshot", flag, &key]).arg(&self.path));
        }
        match action {
            0 => self.snapshots.push((key, self.model.clone())),
            1 => self.model = self.snapshots[index].1.clone(),
            _ => drop(self.snapshots.remove(index)),
        }
    }

    fn run(&self, command: &mut Command) {
        let out = command.output().expect("the reference starts");
        assert!(
            out.status.success(),
            "{command:?}\n{}{}\n{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr),
            self.text()
        );
    }

    fn resize(&mut self, r: &mut Random, script: &mut String) {
        let mut new = (512 + r.below(LARGEST)) / 512 * 512;
        let old = self.model.len() as u64;
        // The reference cannot grow some images over a longer backing file.
        let ours = r.below(2) == 0 || self.backed;
        if !ours && new < old {
            // What the reference cuts off inside of a cluster comes back when it grows the disk again.
            new = new / self.cluster * self.cluster + self.cluster;
        }
        self.log.push(format!("{} resize {old} -> {new}", if ours { "ours" } else { "theirs" }));
        if ours {
            let node = self.open(true);
            node.resize(new, Preallocation::Off).unwrap_or_else(|e| panic!("{e}\n{}", self.text()));
            node.close().unwrap();
        } else {
            writeln!(script, "open -o {THEIRS} {}\ntruncate {new}\nclose", self.name()).unwrap();
        }
        self.model.resize(new as usize, 0);
    }

    fn rebase(&mut self, dir: &Path) {
        if !self.backed || !self.snapshots.is_empty() {
            return;
        }
        self.log.push("theirs rebase to nothing and back".into());
        self.run(reference("qemu-img").args(["rebase", "-q", "-b", ""]).arg(&self.path));
        self.run(
            reference("qemu-img")
                .args(["rebase", "-q", "-F", "qcow2", "-b"])
                .arg(dir.join("base.qcow2"))
                .arg(&self.path),
        );
    }

    /// The script that checks and reads the image in the reference.
    fn verify(&self, script: &mut String) {
        // Dirty images are checked and repaired when they are opened for writing.
        let file = std::fs::File::options().read(true).write(true).open(&self.path).unwrap();
        let mut flags = [0];
        file.read_exact_at(&mut flags, 79).unwrap();
        file.write_all_at(&[flags[0] | 1], 79).unwrap();
        writeln!(script, "open -o {THEIRS} {}", self.name()).unwrap();
        let mut from = 0;
        for run in self.model.chunk_by(|a, b| a == b) {
            writeln!(script, "read -P {} {from} {}", run[0], run.len()).unwrap();
            from += run.len();
        }
        script.push_str("close\n");
    }
}

/// Runs a script in one process; what it says about damage or wrong contents comes back.
fn qemu_io(dir: &Path, script: &str) -> Option<String> {
    if script.is_empty() {
        return None;
    }
    let messages = std::fs::File::create(dir.join("messages")).unwrap();
    let output = std::fs::File::create(dir.join("output")).unwrap();
    let mut child =
        reference("qemu-io").stdin(Stdio::piped()).stdout(output).stderr(messages).spawn().expect("qemu-io starts");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    child.wait().unwrap();
    let output = std::fs::read_to_string(dir.join("output")).unwrap();
    let messages = std::fs::read_to_string(dir.join("messages")).unwrap();
    let told = |line: &&str| !line.is_empty() && !line.contains("Input/output error");
    let bad: Vec<&str> =
        messages.lines().filter(told).chain(output.lines().filter(|l| l.contains("erification failed"))).collect();
    (!bad.is_empty()).then(|| bad.join("\n"))
}

/// Images made by the reference, to start from: each shape with and without a backing file.
fn templates(dir: &Path) {
    let done = |c: &mut Command| assert!(c.output().unwrap().status.success(), "{c:?}");
    let base = dir.join("base.qcow2");
    done(reference("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&base).arg("500k"));
    done(reference("qemu-io").args(["-c", "write -P 0x5a 0 300k"]).arg(&base));
    for (i, shape) in SHAPES.iter().enumerate() {
        done(
            reference("qemu-img")
                .args(["create", "-q", "-f", "qcow2", "-o", shape])
                .arg(dir.join(format!("t{i}")))
                .arg("400k"),
        );
        if !shape.contains("preallocation") {
            let mut c = reference("qemu-img");
            done(
                c.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-o", shape, "-b"])
                    .arg(&base)
                    .arg(dir.join(format!("b{i}")))
                    .arg("400k"),
            );
        }
    }
}

fn start(dir: &Path, r: &mut Random, number: u64) -> Image {
    let index = r.below(SHAPES.len() as u64) as usize;
    let shape = SHAPES[index];
    let backed = r.below(2) == 0 && !shape.contains("preallocation");
    let path = dir.join(format!("image{number}"));
    let mut model = vec![0; 400 << 10];
    if backed {
        model[..300 << 10].fill(0x5a);
    }
    let ours = r.below(2) == 0;
    if ours {
        let mut o = disk::options::Options::parse(shape, None).unwrap();
        o.set("size", "409600");
        if backed {
            o.set("backing_file", dir.join("base.qcow2").to_str().unwrap());
            o.set("backing_fmt", "qcow2");
        }
        disk::create::create("qcow2", path.to_str().unwrap(), o).unwrap();
    } else {
        std::fs::copy(dir.join(format!("{}{index}", if backed { "b" } else { "t" })), &path).unwrap();
    }
    let cluster = shape.split([',', '=']).nth(1).and_then(|c| c.parse().ok()).unwrap();
    let log = vec![format!("{} create {shape} backed={backed}", if ours { "ours" } else { "theirs" })];
    Image { path, cluster, backed, model, snapshots: Vec::new(), log }
}

fn batch(dir: &Path, r: &mut Random, what: &str) {
    let mut images: Vec<Image> = (0..BATCH).map(|n| start(dir, r, n)).collect();
    for _ in 0..3 + r.below(4) {
        let mut script = String::new();
        let mut loose: Vec<Vec<_>> = vec![Vec::new(); images.len()];
        for (image, loose) in images.iter_mut().zip(&mut loose) {
            match r.below(32) {
                0..=11 => image.ours(r),
                12..=22 => image.theirs(r, &mut script, loose),
                23..=27 => image.snapshot(r),
                28..=30 => image.resize(r, &mut script),
                _ => image.rebase(dir),
            }
        }
        if let Some(text) = qemu_io(dir, &script) {
            panic!(
                "{what}: the reference says:\n{text}\n{}",
                images.iter().map(Image::text).collect::<Vec<_>>().join("\n")
            );
        }
        for (image, loose) in images.iter_mut().zip(&loose) {
            image.settle(loose);
            image.check();
        }
    }
    let mut script = String::new();
    for image in &images {
        image.verify(&mut script);
    }
    if let Some(text) = qemu_io(dir, &script) {
        panic!(
            "{what}: the reference says:\n{text}\n{}",
            images.iter().map(Image::text).collect::<Vec<_>>().join("\n")
        );
    }
}

#[test]
fn a_write_behind_the_last_refcount_block_gets_its_counts() {
    // Free clusters in front of the ones in use, and no refcount block for those behind them.
    let dir = scratch("disk-crossing-counts");
    for tail in [0u64, 1024, 5000] {
        let path = dir.join("image");
        let mut o = disk::options::Options::parse("cluster_size=1024,refcount_bits=64,size=409600", None).unwrap();
        o.set("compat", "1.1");
        disk::create::create("qcow2", path.to_str().unwrap(), o).unwrap();
        let log = Vec::new();
        let mut image =
            Image { path, cluster: 1024, backed: false, model: vec![0; 409_600], snapshots: Vec::new(), log };
        let node = image.open(true);
        node.write(324_025, &[84; 85_575]).unwrap();
        node.write(0, &[58; 4096]).unwrap();
        node.close().unwrap();
        drop(node);
        let node = image.open(true);
        node.resize(40_960 + tail / 512 * 512, Preallocation::Off).unwrap();
        node.write(0, &[79; 40_960]).unwrap();
        node.close().unwrap();
        drop(node);
        image.model = vec![79; 40_960];
        image.model.resize((40_960 + tail / 512 * 512) as usize, 0);
        image.check();
    }
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn batches_of_images_cross_between_our_driver_and_the_reference() {
    let (seed, first) = (env("RHEA_SEED", 1), env("RHEA_FIRST", 0));
    let end = first + env("RHEA_SEQUENCES", 2 * BATCH).div_ceil(BATCH);
    let (next, done) = (AtomicU64::new(first), AtomicU64::new(0));
    let work = &|dir: &Path| {
        templates(dir);
        loop {
            // A batch is made from its number alone, whoever runs it.
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= end {
                break;
            }
            let what = format!("RHEA_SEED={seed} RHEA_FIRST={number}");
            batch(dir, &mut Random(seed * 7_000_003 + number), &what);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done % 50 == 0 {
                println!("{} sequences", done * BATCH);
            }
        }
        let _ = std::fs::remove_dir_all(dir);
    };
    std::thread::scope(|scope| {
        for worker in 0..env("RHEA_WORKERS", 2) {
            let dir = scratch(&format!("disk-crossing-{worker}"));
            std::thread::Builder::new()
                .name(format!("worker {worker}"))
                .spawn_scoped(scope, move || work(&dir))
                .unwrap();
        }
    });
}
