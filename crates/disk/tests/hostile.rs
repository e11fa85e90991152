//! Damaged images of every format: whatever the bytes say, opening, reading, checking and mapping end with an answer
//! or an error, never with a panic, and nothing is written to an image that is opened for reading.
//!
//! `RHEA_HOSTILE=100000 cargo test -p disk --test hostile` runs longer; `RHEA_SEED` repeats a run; `RHEA_SEEDS=DIR` also
//! writes the undamaged images there, for `cargo xtask fuzz`.

#[path = "support/common.rs"]
mod common;
#[path = "support/samples.rs"]
mod samples;

use common::{Random, env};
use disk::node::Repair;
use disk::open::OpenFlags;
use disk::options::Options;
use std::path::Path;

const IMAGES: &[(&str, &str)] = &[
    ("qcow2", "cluster_size=512"),
    ("qcow2", "cluster_size=65536,extended_l2=on"),
    ("qcow2", "compat=0.10,cluster_size=4096"),
    ("qcow2", "cluster_size=1024,refcount_bits=1"),
    ("vdi", ""),
    ("vpc", ""),
    ("vpc", "subformat=fixed"),
    ("vhdx", "block_size=1M"),
    ("vmdk", ""),
    ("vmdk", "subformat=streamOptimized"),
    ("luks", "key-secret=s,iter-time=1"),
    ("qcow2", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1"),
];

/// Samples of the formats that are only read.
fn archives(dir: &std::path::Path) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("qed", samples::by_reference(dir, "qed", "")),
        ("qcow", samples::by_reference(dir, "qcow", "")),
        ("parallels", samples::by_reference(dir, "parallels", "cluster_size=65536")),
        ("bochs", samples::bochs()),
        ("cloop", samples::cloop()),
        ("dmg", samples::dmg(false, true)),
        ("dmg", samples::dmg(true, false)),
    ]
}

/// The key of encrypted samples. A damaged header may ask for years of key derivation, so only their headers are looked at.
fn define_secret() {
    disk::secret::define(Options::parse("id=s,data=hello", None).unwrap()).unwrap();
}

/// Values that headers go wrong with.
const NASTY: [u64; 10] = [0, 1, 2, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

fn sample(format: &str, options: &str, dir: &std::path::Path) -> Vec<u8> {
    let path = dir.join(format!("sample.{format}"));
    let name = path.to_str().unwrap();
    let mut o = Options::parse(options, None).unwrap();
    o.set("size", "1048576");
    disk::create::create(format, name, o).unwrap_or_else(|e| panic!("{format} {options}: {e}"));
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let mut o = Options::new();
    o.set("driver", format);
    o.set("filename", name);
    if let Some(key) = ["encrypt.key-secret", "key-secret"].into_iter().find(|k| options.contains(k)) {
        o.set(key, "s");
    }
    let node = disk::open_options(o, &flags).unwrap();
    let data = vec![7u8; 65536];
    let written = node.write(0, &data).and_then(|()| node.write(524288, &data));
    written.unwrap_or_else(|e| panic!("{format} {options}: {e}"));
    if let Some(s) = node.snapshots().filter(|_| !options.contains("refcount_bits=1")) {
        s.create(Default::default()).unwrap();
    }
    node.close().unwrap();
    drop(node);
    std::fs::read(&path).unwrap()
}

/// Changes a few places, mostly near the start, where the structures are.
fn damage(bytes: &mut Vec<u8>, r: &mut Random) {
    for _ in 0..1 + r.below(4) {
        let near = *r.pick(&[128u64, 512, 4096, 70_000, 300_000, u64::MAX]);
        let at = r.below((bytes.len() as u64).min(near)) as usize;
        let value = if r.below(3) == 0 { r.next() } else { *r.pick(&NASTY) };
        let width = (1usize << r.below(4)).min(bytes.len() - at);
        let word = if r.below(2) == 0 { value.to_be_bytes() } else { value.to_le_bytes() };
        let from = if r.below(2) == 0 { 8 - width } else { 0 };
        bytes[at..at + width].copy_from_slice(&word[from..from + width]);
    }
    if r.below(8) == 0 {
        let keep = r.below(bytes.len() as u64) as usize;
        bytes.truncate(keep);
    }
}

/// Fuzzing starts from the same images: `PLACE/FORMAT/NUMBER`.
fn give_seeds(place: &Path, samples: &[(&str, Vec<u8>)]) {
    for (number, (format, bytes)) in samples.iter().enumerate() {
        std::fs::create_dir_all(place.join(format)).unwrap();
        std::fs::write(place.join(format).join(number.to_string()), bytes).unwrap();
    }
}

/// A refcount table that names one block thousands of times counts clusters far behind the end of the file.
#[test]
fn a_check_takes_time_by_the_size_of_the_file() {
    let dir = std::env::temp_dir().join(format!("disk-counts-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mut bytes = sample("qcow2", "", &dir);
    let at = |o: usize| u64::from_be_bytes(bytes[o..o + 8].try_into().unwrap()) as usize;
    let table = at(48);
    let block = at(table) as u64;
    for (i, entry) in bytes[table..table + 65536].chunks_mut(8).enumerate() {
        // Every other one is no block at all.
        entry.copy_from_slice(&(block + i as u64 % 2 * 512).to_be_bytes());
    }
    let path = dir.join("counts");
    std::fs::write(&path, &bytes).unwrap();
    let node = disk::open(path.to_str().unwrap(), Some("qcow2"), &OpenFlags::default()).unwrap();
    let report = node.check(Repair::default()).unwrap().unwrap();
    assert!(report.corruptions > 0);
    assert!(report.lines.len() < 50_000, "{} lines", report.lines.len());
    let _ = std::fs::remove_dir_all(&dir);
}

#[test]
fn damaged_images_are_answered_not_trusted() {
    let seed = env("RHEA_SEED", 1);
    let dir = std::env::temp_dir().join(format!("disk-hostile-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    define_secret();
    let mut samples: Vec<(&str, Vec<u8>)> = IMAGES.iter().map(|(f, o)| (*f, sample(f, o, &dir))).collect();
    samples.extend(archives(&dir));
    if let Some(place) = std::env::var_os("RHEA_SEEDS") {
        give_seeds(Path::new(&place), &samples);
    }
    let path = dir.join("damaged");
    let name = path.to_str().unwrap();
    for round in 0..env("RHEA_HOSTILE", 1200) {
        let mut r = Random(seed * 5_000_011 + round);
        let (format, good) = r.pick(&samples);
        let mut bytes = good.clone();
        // A dmg's structures are at its end.
        let from = if *format == "dmg" && r.below(2) == 0 { good.len().saturating_sub(1 << 13) } else { 0 };
        let mut part = bytes.split_off(from);
        damage(&mut part, &mut r);
        bytes.extend(part);
        std::fs::write(&path, &bytes).unwrap();
        // A panic says which file it was; keep the round in the message of the thread.
        println!("RHEA_SEED={seed} round {round} {format}");
        let flags = OpenFlags { no_backing: true, no_data: true, quiet_probe: true, ..OpenFlags::default() };
        if let Ok(node) = disk::open(name, Some(format), &flags) {
            let size = node.size();
            let mut buf = vec![0; 4096];
            for at in [0, 524288, size / 2, size.saturating_sub(4096)] {
                if at + 4096 <= size {
                    let _ = node.read(at, &mut buf);
                    let _ = node.map(at, 4096);
                }
            }
            if size <= 1 << 32 {
                let _ = node.check(Repair::default());
            }
            let _ = node.info();
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "RHEA_SEED={seed} round {round} {format}: the image was changed");
    }
    let _ = std::fs::remove_dir_all(&dir);
}
