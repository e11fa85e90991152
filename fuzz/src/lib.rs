//! What the fuzz targets do with the fuzzer's bytes: images and servers of disks here, the rest in modules of their own.
//!
//! Reference: the layout of `cargo fuzz`. This crate stands outside of the workspace; `cargo xtask fuzz` runs it with a
//! stable compiler, `cargo +nightly fuzz run TARGET` with the address sanitizer.
#![forbid(unsafe_code)]

pub mod debugger;
pub mod machine;
pub mod net;

use disk::Preallocation;
use disk::nbd::client::Client;
use disk::nbd::server::{Export, serve};
use disk::node::{Node, NodeRef, Repair};
use disk::open::OpenFlags;
use disk::options::Options;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Larger disks are not checked: that takes longer than a fuzzer waits.
const CHECKED: u64 = 1 << 32;
const PIECE: usize = 4096;

/// A place in memory for this process's files.
fn scratch(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let base = if cfg!(target_os = "linux") { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
        let dir = base.join(format!("rhea-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory in memory");
        dir
    });
    dir.join(name)
}

fn places(size: u64) -> impl Iterator<Item = u64> {
    [0, 65_536, 524_288, size / 2, size.saturating_sub(PIECE as u64)]
        .into_iter()
        .filter(move |at| at.checked_add(PIECE as u64).is_some_and(|end| end <= size))
}

/// Opens the bytes as an image of a format and looks at all of it. Nothing of others is opened: no backing file, no data file.
pub fn image(format: &str, bytes: &[u8]) {
    let path = scratch("image");
    std::fs::write(&path, bytes).expect("room in memory");
    let flags = OpenFlags { no_backing: true, no_data: true, quiet_probe: true, ..OpenFlags::default() };
    let Ok(node) = disk::open(&path.to_string_lossy(), Some(format), &flags) else { return };
    let size = node.size();
    let mut buf = vec![0; PIECE];
    for at in places(size) {
        let _ = node.read(at, &mut buf);
        let _ = node.map(at, size - at);
    }
    if size <= CHECKED {
        let _ = node.check(Repair::default());
    }
    let _ = node.info();
    if let Some(s) = node.snapshots() {
        let _ = s.list();
    }
}

/// Opens the bytes as a qcow2 image, changes it, repairs it and closes it.
pub fn changed_image(bytes: &[u8]) {
    let path = scratch("changed");
    std::fs::write(&path, bytes).expect("room in memory");
    let flags = OpenFlags {
        write: true,
        resize: true,
        no_backing: true,
        no_data: true,
        no_flush: true,
        quiet_probe: true,
        ..OpenFlags::default()
    };
    let Ok(node) = disk::open(&path.to_string_lossy(), Some("qcow2"), &flags) else { return };
    let size = node.size();
    for at in places(size) {
        let _ = node.write(at, &[7; 512]);
        let _ = node.write_zeroes(at, 1024, at % 3 == 0);
        let _ = node.discard(at, PIECE as u64);
    }
    let _ = node.flush();
    if let Some(s) = node.snapshots() {
        if let Some(first) = s.list().first() {
            let _ = s.apply(&first.id);
            let _ = s.delete(&first.id);
        }
        let _ = s.create(Default::default());
    }
    if size <= CHECKED {
        let _ = node.check(Repair { leaks: true, errors: true });
    }
    if size <= 1 << 30 {
        let _ = node.resize((size + 65_536) / 512 * 512, Preallocation::Off);
    }
    let _ = node.close();
}

fn small_disk() -> NodeRef {
    let mut o = Options::new();
    for (key, value) in [("driver", "null-co"), ("size", "1048576"), ("read-zeroes", "on")] {
        o.set(key, value);
    }
    disk::open_options(o, &OpenFlags { write: true, ..OpenFlags::default() }).expect("a disk of nothing")
}

/// A client that says what the fuzzer says, and never listens.
struct Talker<'a>(&'a [u8]);

impl Read for Talker<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Talker<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn nbd_server(bytes: &[u8]) {
    let export = Export {
        name: String::new(),
        description: "fuzz".into(),
        node: small_disk(),
        read_only: false,
        shared: true,
        depth: true,
        bitmaps: Vec::new(),
        offset: 0,
        size: 1 << 20,
        writethrough: false,
    };
    let _ = serve(Talker(bytes), &[export]);
}

/// A server that says what the fuzzer says, whatever it is asked.
pub fn nbd_client(bytes: &[u8]) {
    let path = scratch("socket");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket");
    let answer = bytes.to_vec();
    let server = std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let _ = stream.write_all(&answer);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    let mut o = Options::new();
    o.set("path", &path.to_string_lossy());
    let address = disk::nbd::address::Address::take(&mut o).expect("a path");
    if let Ok(client) = Client::open(address, true, "base:allocation") {
        let mut buf = vec![0; PIECE];
        let _ = client.read(0, &mut buf);
        let _ = client.map(0, client.size());
        let _ = client.write(0, &buf);
    }
    let _ = server.join();
}

/// The texts that users and image headers give: options, JSON, sizes, addresses.
pub fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for parsed in [Options::parse(text, None), Options::parse(text, Some("driver")), Options::parse_json(text)]
        .into_iter()
        .flatten()
    {
        let mut o = parsed;
        let _ = (o.take_bool("a"), o.take_size("size"), o.take_number("n"), o.take_below("file"));
        let _ = disk::nbd::address::Address::take(&mut o);
    }
    let _ = disk::size::parse(text, 0);
    let _ = disk::nbd::address::Address::parse(text);
}
