//! Damaged images of every format: whatever the bytes say, opening, reading, checking and mapping end with an answer
//! or an error, never with a panic, and nothing is written to an image that is opened for reading.
//!
//! `RHEA_HOSTILE=100000 cargo test -p disk --test hostile` runs longer; `RHEA_SEED` repeats a run.

#[path = "support/common.rs"]
mod common;

use common::{Random, env};
use disk::node::Repair;
use disk::open::OpenFlags;
use disk::options::Options;

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
];

/// Values that headers go wrong with.
const NASTY: [u64; 10] = [0, 1, 2, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

fn sample(format: &str, options: &str, dir: &std::path::Path) -> Vec<u8> {
    let path = dir.join(format!("sample.{format}"));
    let name = path.to_str().unwrap();
    let mut o = Options::parse(options, None).unwrap();
    o.set("size", "1048576");
    disk::create::create(format, name, o).unwrap_or_else(|e| panic!("{format} {options}: {e}"));
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let node = disk::open(name, Some(format), &flags).unwrap();
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

#[test]
fn damaged_images_are_answered_not_trusted() {
    let seed = env("RHEA_SEED", 1);
    let dir = std::env::temp_dir().join(format!("disk-hostile-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let samples: Vec<(&str, Vec<u8>)> = IMAGES.iter().map(|(f, o)| (*f, sample(f, o, &dir))).collect();
    let path = dir.join("damaged");
    let name = path.to_str().unwrap();
    for round in 0..env("RHEA_HOSTILE", 600) {
        let mut r = Random(seed * 5_000_011 + round);
        let (format, good) = r.pick(&samples);
        let mut bytes = good.clone();
        damage(&mut bytes, &mut r);
        std::fs::write(&path, &bytes).unwrap();
        // A panic says which file it was; keep the round in the message of the thread.
        println!("RHEA_SEED={seed} round {round} {format}");
        let flags = OpenFlags { no_backing: true, quiet_probe: true, ..OpenFlags::default() };
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
