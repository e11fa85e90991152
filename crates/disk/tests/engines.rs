//! The engines of `aio=` on the same random operations: what one wrote the others read, whole and in parts, plain, past
//! the page cache, with requests of any alignment, and with errors of the host.
//!
//! Where the host has no io_uring or no Linux AIO the driver says so and falls back: the trials then compare threads
//! with threads.

#[path = "support/common.rs"]
mod common;

use common::{Random, env};
use disk::buffer::Buffer;
use disk::engine::Aio;
use disk::node::NodeRef;
use disk::open::OpenFlags;
use disk::options::Options;
use std::path::PathBuf;
use std::process::Command;

const ENGINES: &[(Aio, bool)] =
    &[(Aio::Threads, false), (Aio::Threads, true), (Aio::IoUring, false), (Aio::IoUring, true), (Aio::Native, true)];
const SHAPES: &[(&str, &str)] = &[
    ("raw", ""),
    ("qcow2", "cluster_size=4096"),
    ("qcow2", "cluster_size=65536"),
    ("qcow2", "cluster_size=16384,extended_l2=on"),
];
/// No multiple of a page, so that direct requests meet the end of the file.
const SIZE: u64 = (1 << 20) + 1536;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("disk-engines-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn create(&self, format: &str, options: &str, backing: Option<&str>) -> String {
        let path = self.path("image");
        let mut o = Options::parse(&format!("size={SIZE}"), None).unwrap();
        Options::parse(options, None).unwrap().iter().for_each(|(k, v)| o.set(k, v));
        if let Some(backing) = backing {
            o.set("backing_file", backing);
            o.set("backing_fmt", "raw");
        }
        let _ = std::fs::remove_file(&path);
        disk::create::create(format, &path, o).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(path: &str, format: &str, (aio, direct): (Aio, bool)) -> NodeRef {
    let flags = OpenFlags { write: true, aio, direct, ..OpenFlags::default() };
    disk::open(path, Some(format), &flags).unwrap()
}

/// Ranges that do not overlap: at whole pages, or anywhere.
fn ranges(r: &mut Random) -> Vec<(u64, usize)> {
    let unit = *r.pick(&[1u64, 512, 4096, 4096]);
    let mut cuts: Vec<u64> = (0..2 * (1 + r.below(9))).map(|_| r.below(SIZE) / unit * unit).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.chunks_exact(2).map(|c| (c[0], (c[1] - c[0]) as usize)).collect()
}

fn step(node: &NodeRef, model: &mut [u8], r: &mut Random) {
    let places = ranges(r);
    let mut buffers: Vec<Buffer> = places.iter().map(|(_, len)| Buffer::new(*len)).collect();
    match r.below(6) {
        0..=2 => {
            for ((at, len), buffer) in places.iter().zip(&mut buffers) {
                buffer.fill(r.below(255) as u8 + 1);
                model[*at as usize..][..*len].copy_from_slice(buffer);
            }
            let parts: Vec<(u64, &[u8])> = places.iter().zip(&buffers).map(|((at, _), b)| (*at, &b[..])).collect();
            match r.below(2) {
                0 => node.write_many(&parts).unwrap(),
                _ => parts.iter().for_each(|(at, b)| node.write(*at, b).unwrap()),
            }
        }
        3 => {
            for (at, len) in places {
                node.write_zeroes(at, len as u64, r.below(2) == 0).unwrap();
                model[at as usize..][..len].fill(0);
            }
        }
        4 => node.flush().unwrap(),
        _ => {
            let mut parts: Vec<(u64, &mut [u8])> =
                places.iter().zip(&mut buffers).map(|((at, _), b)| (*at, &mut b[..])).collect();
            node.read_many(&mut parts).unwrap();
            for (at, bytes) in parts {
                assert!(model[at as usize..][..bytes.len()] == *bytes, "{} bytes at {at}", bytes.len());
            }
        }
    }
}

#[test]
fn engines_read_what_the_others_wrote() {
    let seed = env("RHEA_SEED", 1);
    for round in 0..env("RHEA_SEQUENCES", 40) {
        let r = &mut Random(seed ^ round << 20);
        let dir = Dir::new("random");
        let (format, shape) = *r.pick(SHAPES);
        let mut model = vec![0; SIZE as usize];
        let backed = format == "qcow2" && r.below(2) == 0;
        let base = dir.path("base");
        if backed {
            // It ends before the disk does.
            model[..700_001].fill(0x5a);
            std::fs::write(&base, &model[..700_001]).unwrap();
        }
        let path = dir.create(format, shape, backed.then_some(base.as_str()));
        eprintln!("RHEA_SEED={seed} round {round}: {format} {shape} backed={backed}");
        for _ in 0..4 {
            let engine = *r.pick(ENGINES);
            eprintln!("  {engine:?}");
            let node = open(&path, format, engine);
            (0..8).for_each(|_| step(&node, &mut model, r));
            node.close().unwrap();
            drop(node);
            let node = open(&path, format, *r.pick(ENGINES));
            let mut now = vec![0; SIZE as usize];
            node.read(0, &mut now).unwrap();
            assert!(now == model);
            if let Some(report) = node.check(Default::default()) {
                let report = report.unwrap();
                assert_eq!((report.corruptions, report.leaks), (0, 0), "{:#?}", report.lines);
            }
            if format == "raw" {
                assert_eq!(
                    std::fs::metadata(&path).unwrap().len(),
                    SIZE,
                    "a direct write left its padding in the file"
                );
            }
        }
    }
}

/// A request that lies in several places of the file is one batch; the pieces meet again in order.
#[test]
fn one_request_over_scattered_clusters_is_put_together() {
    for engine in ENGINES {
        let dir = Dir::new(&format!("scattered-{engine:?}").replace(['(', ')', ',', ' '], "-"));
        let path = dir.create("qcow2", "cluster_size=4096", None);
        let node = open(&path, "qcow2", *engine);
        let mut model = vec![0u8; SIZE as usize];
        // Backwards, with gaps: each cluster is a place of its own.
        for cluster in (0..250usize).rev().filter(|c| c % 5 != 0) {
            model[cluster * 4096..][..4096].fill(cluster as u8);
            node.write(cluster as u64 * 4096, &model[cluster * 4096..][..4096]).unwrap();
        }
        let mut now = Buffer::new(SIZE as usize);
        node.read(0, &mut now).unwrap();
        assert!(now[..] == model[..], "{engine:?}");
        let turned: Vec<u8> = model.iter().map(|b| b ^ 0xff).collect();
        node.write(0, &turned).unwrap();
        node.read(0, &mut now).unwrap();
        assert!(now[..] == turned[..], "{engine:?}");
        node.close().unwrap();
    }
}

/// A host without room or with a limit on files: the error is the host's own, and the rest of the disk stays.
#[test]
fn errors_of_the_host_come_through() {
    let flags = OpenFlags { write: true, aio: Aio::IoUring, ..OpenFlags::default() };
    let full = disk::open_options(Options::parse("driver=host_device,filename=/dev/full", None).unwrap(), &flags);
    // A character device has no size that requests could be checked against.
    if let Ok(full) = full {
        let error = full.write(0, &[1; 4096]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(28), "{error}");
        assert!(full.write_many(&[(0, &[1; 4096]), (4096, &[2; 4096])]).is_err());
    }
    let dir = Dir::new("limit");
    // The limit is that of a process: a child, so that the other tests have none.
    if let Some(path) = std::env::var_os("DISK_ENGINES_LIMITED") {
        let aio = Aio::named(&std::env::var("DISK_ENGINES_AIO").unwrap()).unwrap();
        let node = open(path.to_str().unwrap(), "raw", (aio, aio == Aio::Native));
        let (mut low, mut high) = (Buffer::new(4096), Buffer::new(4096));
        low.fill(1);
        high.fill(2);
        let error = node.write_many(&[(0, &low[..]), (512 << 10, &high[..])]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(27), "{error}");
        let mut now = Buffer::new(4096);
        node.read(0, &mut now).unwrap();
        assert!(now.iter().all(|b| *b == 1));
        return;
    }
    for aio in ["threads", "io_uring", "native"] {
        let path = dir.create("raw", "", None);
        let script = r#"trap '' XFSZ; ulimit -f 512; exec "$0" --exact errors_of_the_host_come_through"#;
        let mut child = Command::new("bash");
        child.args(["-c", script]).arg(std::env::current_exe().unwrap());
        let out = child.env("DISK_ENGINES_LIMITED", &path).env("DISK_ENGINES_AIO", aio).output().unwrap();
        assert!(
            out.status.success(),
            "{aio}: {}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
    }
}
