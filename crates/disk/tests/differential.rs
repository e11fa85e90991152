//! Differential trials against the reference tools: random sequences of operations on one image, each step done by our
//! driver or by the installed `qemu-io`/`qemu-img`, with a model of the contents beside it. After every step our
//! check is clean, and in the end both sides read the model's contents and find neither damage nor leaks.
//!
//! `RHEA_SEQUENCES=100000 cargo test -p disk --test differential` runs longer; `RHEA_SEED` repeats a run.

#[path = "support/common.rs"]
mod common;

use common::{Random, env};
use disk::engine::Aio;
use disk::node::{NodeRef, Preallocation, Repair, SnapshotInfo};
use disk::open::OpenFlags;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Geometry of the images: small clusters make the tables as busy as those of large disks.
const SHAPES: &[&str] = &[
    "cluster_size=512",
    "cluster_size=1024,refcount_bits=64",
    "cluster_size=2048,refcount_bits=2",
    "cluster_size=4096,refcount_bits=8,compression_type=zstd",
    "cluster_size=16384,extended_l2=on",
    "cluster_size=65536",
    "cluster_size=65536,extended_l2=on,refcount_bits=32",
    "cluster_size=512,compat=0.10",
    "cluster_size=4096,lazy_refcounts=on",
    "cluster_size=2097152",
    "cluster_size=4096,preallocation=metadata",
    "cluster_size=16384,preallocation=falloc",
];

/// How our side moves bytes, and whether past the page cache.
const ENGINES: &[(Aio, bool)] = &[(Aio::Threads, false), (Aio::IoUring, false), (Aio::IoUring, true), (Aio::Native, true)];

fn reference(tool: &str) -> Command {
    let path = Path::new("/usr/bin").join(tool);
    assert!(path.exists(), "{} is missing: install the Debian package qemu-utils (the reference for these trials)", path.display());
    Command::new(path)
}

fn run(command: &mut Command, what: &str) -> Output {
    let out = command.output().expect("the reference tool starts");
    assert!(out.status.success(), "{what}: {command:?}\n{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    out
}

struct Trial {
    dir: PathBuf,
    image: PathBuf,
    base: Option<PathBuf>,
    model: Vec<u8>,
    base_model: Vec<u8>,
    snapshots: Vec<(String, Vec<u8>)>,
    shape: &'static str,
    /// One of [`ENGINES`].
    engine: (Aio, bool),
    what: String,
    log: Vec<String>,
}

impl Trial {
    fn text(&self) -> String {
        format!("{}\n  {}", self.what, self.log.join("\n  "))
    }

    fn open(&self) -> NodeRef {
        let (aio, direct) = self.engine;
        let flags = OpenFlags { write: true, unmap: true, aio, direct, ..OpenFlags::default() };
        disk::open(self.image.to_str().unwrap(), Some("qcow2"), &flags).unwrap_or_else(|e| panic!("{}: open: {e}", self.text()))
    }

    fn check_ours(&self) {
        let flags = OpenFlags { check: true, ..OpenFlags::default() };
        let node = disk::open(self.image.to_str().unwrap(), Some("qcow2"), &flags).unwrap_or_else(|e| panic!("{}: open: {e}", self.text()));
        let report = node.check(Repair::default()).unwrap().unwrap();
        assert_eq!((report.corruptions, report.check_errors, report.leaks), (0, 0, 0), "{}: {:#?}", self.text(), report.lines);
        let mut now = vec![0; node.size() as usize];
        assert_eq!(now.len(), self.model.len(), "{}: size", self.text());
        node.read(0, &mut now).unwrap();
        self.compare(&now, "our driver");
    }

    fn compare(&self, now: &[u8], who: &str) {
        if let Some(at) = (0..now.len()).find(|i| now[*i] != self.model[*i]) {
            panic!("{}: {who} reads {:#x} at {at:#x}, should be {:#x}", self.text(), now[at], self.model[at]);
        }
    }

    fn check_theirs(&self) {
        let out = reference("qemu-img").arg("check").arg(&self.image).output().unwrap();
        assert!(out.status.success(), "{}: {}{}", self.text(), String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        let raw = self.dir.join("model.raw");
        std::fs::write(&raw, &self.model).unwrap();
        let out = reference("qemu-img").args(["compare", "-s", "-f", "raw", "-F", "qcow2"]).arg(&raw).arg(&self.image).output().unwrap();
        // -s also compares allocation, which differs; contents are what counts.
        if !out.status.success() {
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let plain = reference("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2"]).arg(&raw).arg(&self.image).output().unwrap();
            assert!(plain.status.success(), "{}: {text}{}", self.text(), String::from_utf8_lossy(&plain.stdout));
        }
    }

    /// A range of the disk, often at cluster edges.
    fn range(&self, r: &mut Random) -> (u64, u64) {
        let size = self.model.len() as u64;
        let unit = *r.pick(&[1u64, 512, 512, 4096, 65536]);
        let offset = (r.below(size) / unit * unit).min(size - 1);
        let longest = *r.pick(&[512u64, 4096, 65536, 300_000]);
        let len = (1 + r.below(longest)).next_multiple_of(unit).min(size - offset);
        (offset, len)
    }
}

/// One data operation: what qemu-io calls it, and what it does to the model.
enum Op {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Packed(u64, u64, u8),
    Read(u64, u64),
}

fn data_op(t: &Trial, r: &mut Random, cluster: u64) -> Op {
    let (offset, len) = t.range(r);
    let value = r.below(255) as u8 + 1;
    match r.below(12) {
        0..=4 => Op::Write(offset, len, value),
        5..=6 => Op::Zero(offset, len, r.below(2) == 0),
        7 => Op::Discard(offset, len),
        8..=9 => {
            let start = offset / cluster * cluster;
            let size = t.model.len() as u64;
            let end = (start + cluster * (1 + r.below(3))).min(size);
            Op::Packed(start, end - start, value)
        }
        _ => Op::Read(offset, len),
    }
}

/// What a discard leaves: whole clusters read as zero (version 3), or as whatever the image shows then.
fn after_discard(t: &mut Trial) {
    let flags = OpenFlags::default();
    let node = disk::open(t.image.to_str().unwrap(), Some("qcow2"), &flags).unwrap();
    let mut now = vec![0; node.size() as usize];
    node.read(0, &mut now).unwrap();
    t.model = now;
}

fn do_ours(t: &mut Trial, r: &mut Random, cluster: u64) {
    let node = t.open();
    for _ in 0..1 + r.below(8) {
        let op = data_op(t, r, cluster);
        let text = t.text();
        let fine = |result: std::io::Result<()>, what: &str| result.unwrap_or_else(|e| panic!("{text}\n  ours {what}: {e}"));
        match op {
            Op::Write(o, l, v) => {
                t.log.push(format!("ours write -P {v} {o} {l}"));
                fine(node.write(o, &vec![v; l as usize]), "write");
                t.model[o as usize..(o + l) as usize].fill(v);
            }
            Op::Zero(o, l, unmap) => {
                t.log.push(format!("ours write -z {} {o} {l}", if unmap { "-u" } else { "" }));
                fine(node.write_zeroes(o, l, unmap), "zero");
                t.model[o as usize..(o + l) as usize].fill(0);
            }
            Op::Discard(o, l) => {
                t.log.push(format!("ours discard {o} {l}"));
                fine(node.discard(o, l), "discard");
                node.read(o, &mut t.model[o as usize..(o + l) as usize]).unwrap();
            }
            Op::Packed(o, l, v) => {
                t.log.push(format!("ours write -c -P {v} {o} {l}"));
                for at in (o..o + l).step_by(cluster as usize) {
                    let n = cluster.min(o + l - at);
                    // Refused over stored data, as by the reference.
                    if node.write_compressed(at, &vec![v; n as usize]).is_ok() {
                        t.model[at as usize..(at + n) as usize].fill(v);
                    }
                }
            }
            Op::Read(o, l) => {
                let mut buf = vec![0; l as usize];
                fine(node.read(o, &mut buf), "read");
                assert!(buf == t.model[o as usize..(o + l) as usize], "{}: our read {o} {l}", t.text());
            }
        }
    }
    node.close().unwrap_or_else(|e| panic!("{}: close: {e}", t.text()));
}

fn do_theirs(t: &mut Trial, r: &mut Random, cluster: u64) {
    let mut command = reference("qemu-io");
    command.args(["-d", "unmap", "-f", "qcow2"]);
    let mut discarded = false;
    let mut packed = Vec::new();
    for _ in 0..1 + r.below(8) {
        let (text, range, value) = match data_op(t, r, cluster) {
            Op::Write(o, l, v) => (format!("write -P {v} {o} {l}"), (o, l), Some(v)),
            Op::Zero(o, l, unmap) => (format!("write -z {} {o} {l}", if unmap { "-u" } else { "" }), (o, l), Some(0)),
            Op::Discard(o, l) => {
                discarded = true;
                (format!("discard {o} {l}"), (o, l), None)
            }
            Op::Packed(o, l, v) => {
                packed.push((o, l, v));
                continue;
            }
            Op::Read(..) => continue,
        };
        t.log.push(format!("theirs {text}"));
        command.args(["-c", &text]);
        if let Some(v) = value {
            t.model[range.0 as usize..(range.0 + range.1) as usize].fill(v);
        }
    }
    command.arg(&t.image);
    run(&mut command, &t.text());
    for (o, l, v) in packed {
        t.log.push(format!("theirs write -c -P {v} {o} {l}"));
        let mut one = reference("qemu-io");
        one.args(["-f", "qcow2", "-c", &format!("write -c -P {v} {o} {l}")]).arg(&t.image);
        let done = one.output().unwrap();
        if done.status.success() && !String::from_utf8_lossy(&done.stdout).contains("failed") {
            t.model[o as usize..(o + l) as usize].fill(v);
        } else {
            discarded = true; // part of it may have been written
        }
    }
    if discarded {
        after_discard(t);
    }
}

fn snapshots(t: &mut Trial, r: &mut Random) {
    let ours = r.below(2) == 0;
    let name = format!("s{}", t.log.len());
    let action = if t.snapshots.is_empty() { 0 } else { r.below(3) };
    let limit = if t.shape.contains("refcount_bits=2") { 2 } else { 3 };
    if action == 0 && t.snapshots.len() >= limit {
        return;
    }
    let index = r.below(t.snapshots.len() as u64) as usize;
    let (flag, key) = match action {
        0 => ("-c", name.clone()),
        1 => ("-a", t.snapshots[index].0.clone()),
        _ => ("-d", t.snapshots[index].0.clone()),
    };
    t.log.push(format!("{} snapshot {flag} {key}", if ours { "ours" } else { "theirs" }));
    let refused = if ours {
        let node = t.open();
        let s = node.snapshots().unwrap();
        let done = match action {
            0 => s.create(SnapshotInfo { name: key.clone(), icount: Some(0), ..SnapshotInfo::default() }),
            1 => s.apply(&key),
            _ => s.delete(&key),
        };
        node.close().unwrap();
        // Narrow counts of packed clusters run out early; that must change nothing.
        if !t.shape.contains("refcount_bits=2") {
            done.as_ref().unwrap_or_else(|e| panic!("{}: {e}", t.text()));
        }
        done.is_err()
    } else {
        let out = reference("qemu-img").args(["snapshot", flag, &key]).arg(&t.image).output().unwrap();
        assert!(out.status.success() || t.shape.contains("refcount_bits=2"), "{}: {}", t.text(), String::from_utf8_lossy(&out.stderr));
        if !out.status.success() {
            // The reference leaks when counts run out.
            let _ = reference("qemu-img").args(["check", "-q", "-r", "all"]).arg(&t.image).output();
        }
        !out.status.success()
    };
    match (refused, action) {
        (true, _) => t.log.push("  (refused)".into()),
        (_, 0) => t.snapshots.push((key, t.model.clone())),
        (_, 1) => t.model = t.snapshots[index].1.clone(),
        _ => drop(t.snapshots.remove(index)),
    }
}

fn resize(t: &mut Trial, r: &mut Random) {
    let v2 = t.shape.contains("0.10");
    if v2 && !t.snapshots.is_empty() {
        return;
    }
    let old = t.model.len() as u64;
    let new = (512 + r.below(1 << 20)) / 512 * 512;
    // The reference cannot grow a version 2 image over a longer backing file.
    let ours = r.below(2) == 0 || v2 && t.base.is_some();
    t.log.push(format!("{} resize {old} -> {new}", if ours { "ours" } else { "theirs" }));
    if ours {
        let node = t.open();
        node.resize(new, Preallocation::Off).unwrap_or_else(|e| panic!("{}: {e}", t.text()));
        node.close().unwrap();
    } else {
        let out = reference("qemu-img").args(["resize", "-q", "--shrink", "-f", "qcow2"]).arg(&t.image).arg(new.to_string()).output().unwrap();
        if !out.status.success() {
            // It cannot grow some images over a longer backing file; then nothing may have changed.
            let text = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(text.contains("Failed to zero out new clusters"), "{}: {text}", t.text());
            t.log.push("  (refused)".into());
            return;
        }
    }
    t.model.resize(new as usize, 0);
}

/// Moves the image's data down, or the image to another base.
fn commit_or_rebase(t: &mut Trial, r: &mut Random) {
    let Some(base) = t.base.clone() else { return };
    if !t.snapshots.is_empty() || t.shape.contains("preallocation") {
        return;
    }
    if r.below(2) == 0 {
        t.log.push("theirs commit".into());
        run(reference("qemu-img").args(["commit", "-q", "-f", "qcow2"]).arg(&t.image), &t.text());
        t.base_model = t.model.clone();
        return;
    }
    let flat = t.dir.join("flat.raw");
    std::fs::write(&flat, &t.base_model[..t.base_model.len() / 2]).unwrap();
    t.log.push("theirs rebase to half of the base and back".into());
    run(reference("qemu-img").args(["rebase", "-F", "raw", "-b"]).arg(&flat).arg(&t.image), &t.text());
    run(reference("qemu-img").args(["rebase", "-F", "qcow2", "-b"]).arg(&base).arg(&t.image), &t.text());
}

fn start(dir: &Path, r: &mut Random, what: String) -> Trial {
    let shape = *r.pick(SHAPES);
    let size = (64 << 10) + r.below(1 << 20) / 512 * 512;
    let image = dir.join("a.qcow2");
    let backed = r.below(2) == 0 && !shape.contains("preallocation");
    let mut model = vec![0; size as usize];
    let mut base = None;
    if backed {
        let file = dir.join("base.qcow2");
        let base_size = (size / 2 + r.below(size)) / 512 * 512;
        run(reference("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&file).arg(base_size.to_string()), &what);
        let part = base_size / 2;
        run(reference("qemu-io").args(["-c", &format!("write -P 0x5a 0 {part}")]).arg(&file), &what);
        let n = part.min(size) as usize;
        model[..n].fill(0x5a);
        base = Some(file);
    }
    let ours = r.below(2) == 0;
    let log = vec![format!("{} create {shape} size={size} backed={backed}", if ours { "ours" } else { "theirs" })];
    let path = image.to_str().unwrap();
    if ours {
        let mut o = disk::options::Options::parse(shape, None).unwrap();
        o.set("size", &size.to_string());
        if let Some(b) = &base {
            o.set("backing_file", b.to_str().unwrap());
            o.set("backing_fmt", "qcow2");
        }
        disk::create::create("qcow2", path, o).unwrap_or_else(|e| panic!("{what}: create: {e}"));
    } else {
        let mut c = reference("qemu-img");
        c.args(["create", "-q", "-f", "qcow2", "-o", shape]);
        if let Some(b) = &base {
            c.args(["-F", "qcow2", "-b"]).arg(b);
        }
        run(c.arg(path).arg(size.to_string()), &what);
    }
    let engine = *r.pick(ENGINES);
    let mut base_model = vec![0; size as usize];
    base_model.copy_from_slice(&model);
    Trial { dir: dir.to_owned(), image, base, model, base_model, snapshots: Vec::new(), shape, engine, what, log }
}

#[test]
fn sequences_cross_between_our_driver_and_the_reference() {
    let seed = env("RHEA_SEED", 1);
    let first = env("RHEA_FIRST", 0);
    let dir = std::env::temp_dir().join(format!("disk-differential-{}", std::process::id()));
    for round in first..first + env("RHEA_SEQUENCES", 12) {
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let mut r = Random(seed * 1_000_003 + round);
        let mut t = start(&dir, &mut r, format!("RHEA_SEED={seed} RHEA_FIRST={round}"));
        let cluster = disk::Node::info(t.open().as_ref()).unwrap().cluster_size.unwrap();
        for _ in 0..2 + r.below(5) {
            match r.below(10) {
                0..=3 => do_ours(&mut t, &mut r, cluster),
                4..=5 => do_theirs(&mut t, &mut r, cluster),
                6..=7 => snapshots(&mut t, &mut r),
                8 => resize(&mut t, &mut r),
                _ => commit_or_rebase(&mut t, &mut r),
            }
            t.check_ours();
        }
        t.check_theirs();
        if round % 100 == 99 {
            println!("{} sequences", round + 1 - first);
        }
    }
    let _ = std::fs::remove_dir_all(&dir);
}

/// Formats without snapshots: creation options, and whether the image may have a backing file.
const OTHERS: &[(&str, &str)] = &[
    ("vdi", ""),
    ("vdi", "static=on"),
    ("vhdx", ""),
    ("vhdx", "block_size=1M"),
    ("vhdx", "subformat=fixed"),
    ("vpc", ""),
    ("vpc", "force_size=on"),
    ("vpc", "subformat=fixed"),
    ("vmdk", ""),
    ("vmdk", "zeroed_grain=on"),
    ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
];

fn other_step(t: &mut Trial, r: &mut Random, format: &str) {
    let ours = r.below(2) == 0;
    let mut command = reference("qemu-io");
    command.args(["-f", format]);
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let node = ours.then(|| disk::open(t.image.to_str().unwrap(), Some(format), &flags).unwrap_or_else(|e| panic!("{}: open: {e}", t.text())));
    for _ in 0..1 + r.below(8) {
        let (o, l) = t.range(r);
        let (o, l) = (o / 512 * 512, l.next_multiple_of(512).min(t.model.len() as u64 - o / 512 * 512));
        let value = if r.below(3) == 0 { 0 } else { r.below(255) as u8 + 1 };
        let text = if value == 0 { format!("write -z {o} {l}") } else { format!("write -P {value} {o} {l}") };
        t.log.push(format!("{} {text}", if ours { "ours" } else { "theirs" }));
        t.model[o as usize..(o + l) as usize].fill(value);
        match &node {
            Some(n) if value == 0 => n.write_zeroes(o, l, false).unwrap_or_else(|e| panic!("{}: {e}", t.text())),
            Some(n) => n.write(o, &vec![value; l as usize]).unwrap_or_else(|e| panic!("{}: {e}", t.text())),
            None => drop(command.args(["-c", &text])),
        }
    }
    match node {
        Some(n) => n.close().unwrap(),
        None => drop(run(command.arg(&t.image), &t.text())),
    }
}

fn other_check(t: &mut Trial, format: &str) {
    let node = disk::open(t.image.to_str().unwrap(), Some(format), &OpenFlags::default()).unwrap_or_else(|e| panic!("{}: open: {e}", t.text()));
    if let Some(report) = node.check(Repair::default()) {
        assert_eq!(report.unwrap().corruptions, 0, "{}", t.text());
    }
    let mut now = vec![0; node.size() as usize];
    node.read(0, &mut now).unwrap();
    t.compare(&now, "our driver");
    let raw = t.dir.join("model.raw");
    std::fs::write(&raw, &t.model).unwrap();
    let out = reference("qemu-img").args(["compare", "-f", "raw", "-F", format]).arg(&raw).arg(&t.image).output().unwrap();
    assert!(out.status.success(), "{}: {}{}", t.text(), String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let out = reference("qemu-img").args(["check", "-f", format]).arg(&t.image).output().unwrap();
    assert!([Some(0), Some(63)].contains(&out.status.code()), "{}: {}", t.text(), String::from_utf8_lossy(&out.stderr));
}

#[test]
fn other_formats_cross_between_our_driver_and_the_reference() {
    let seed = env("RHEA_SEED", 1);
    let first = env("RHEA_FIRST", 0);
    let dir = std::env::temp_dir().join(format!("disk-other-{}", std::process::id()));
    for round in first..first + env("RHEA_SEQUENCES", 12) {
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let mut r = Random(seed * 3_000_017 + round);
        let (format, options) = *r.pick(OTHERS);
        let size = (1 << 20) + r.below(4 << 20) / 512 * 512;
        let image = dir.join(format!("a.{format}"));
        let path = image.to_str().unwrap().to_owned();
        let what = format!("RHEA_SEED={seed} RHEA_FIRST={round} {format} {options} {size}");
        if r.below(2) == 0 {
            let mut o = disk::options::Options::parse(options, None).unwrap();
            o.set("size", &size.to_string());
            disk::create::create(format, &path, o).unwrap_or_else(|e| panic!("{what}: create: {e}"));
        } else {
            let mut c = reference("qemu-img");
            c.args(["create", "-q", "-f", format]);
            if !options.is_empty() {
                c.args(["-o", options]);
            }
            run(c.arg(&path).arg(size.to_string()), &what);
        }
        // Geometry may have rounded the size up.
        let real = disk::open(&path, Some(format), &OpenFlags::default()).unwrap().size();
        let model = vec![0; real as usize];
        let shape = "";
        let mut t = Trial { dir: dir.clone(), image, base: None, base_model: Vec::new(), model, snapshots: Vec::new(), shape, engine: ENGINES[0], what, log: Vec::new() };
        for _ in 0..2 + r.below(4) {
            other_step(&mut t, &mut r, format);
            other_check(&mut t, format);
        }
    }
    let _ = std::fs::remove_dir_all(&dir);
}
