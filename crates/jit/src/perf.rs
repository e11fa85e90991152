//! Names of translated code for Linux's `perf`: a map of addresses (`-perfmap`), or a dump that also holds the code
//! (`-jitdump`, for `perf inject --jit`).
//!
//! **Reference.** Linux `tools/perf/Documentation/jit-interface.txt` and `jitdump-specification.txt`.
//!
//! Invariants:
//! 1. The mapping of the dump's first page, by which `perf record` notices the file, stays until the process ends.

use spec::{Context, Result};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// `/tmp/perf-PID.map`: start, length and name of each region.
pub struct Map(Mutex<(u32, File)>);

impl Map {
    fn path(pid: u32) -> PathBuf {
        format!("/tmp/perf-{pid}.map").into()
    }

    pub fn create() -> Result<Map> {
        let pid = std::process::id();
        let file = File::create(Self::path(pid)).context(|| format!("cannot write the perf map '{}'", Self::path(pid).display()))?;
        Ok(Map(Mutex::new((pid, file))))
    }

    /// Failures to write are not the guest's trouble.
    pub fn add(&self, address: usize, len: usize, name: &str) {
        let mut map = self.0.lock().unwrap();
        let pid = std::process::id();
        if map.0 != pid {
            // The child of a fork has its parent's translations, under its own number.
            let _ = std::fs::copy(Self::path(map.0), Self::path(pid));
            let Ok(file) = File::options().append(true).create(true).open(Self::path(pid)) else { return };
            *map = (pid, file);
        }
        let _ = map.1.write_all(format!("{address:x} {len:x} {name}\n").as_bytes());
    }
}

/// `jit-PID.dump` in the current directory. Children of a fork are not dumped.
pub struct Dump {
    pid: u32,
    file: Mutex<File>,
    index: AtomicU64,
}

const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
const HEADER_BYTES: u32 = 40;
const EM_X86_64: u32 = 62;
const CODE_LOAD: u32 = 0;
const LOAD_BYTES: usize = 56;

impl Dump {
    pub fn create() -> Result<Dump> {
        let pid = std::process::id();
        let name = format!("jit-{pid}.dump");
        let failed = || format!("cannot write '{name}'");
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(&name).context(failed)?;
        let words = [MAGIC, VERSION, HEADER_BYTES, EM_X86_64, 0, pid];
        let mut header: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        header.extend(monotonic_ns().to_le_bytes());
        header.extend(0u64.to_le_bytes());
        file.write_all(&header).context(failed)?;
        // SAFETY: a new mapping of the file, which nobody reads or writes (invariant 1).
        let marker = unsafe {
            libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        if marker == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context(|| format!("cannot map '{name}' for perf"));
        }
        Ok(Dump { pid, file: Mutex::new(file), index: AtomicU64::new(0) })
    }

    pub fn add(&self, address: usize, code: &[u8], name: &str) {
        let pid = std::process::id();
        if pid != self.pid {
            return;
        }
        // SAFETY: takes no arguments.
        let tid = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
        let total = LOAD_BYTES + name.len() + 1 + code.len();
        let mut record: Vec<u8> = [CODE_LOAD, total as u32].iter().flat_map(|w| w.to_le_bytes()).collect();
        record.extend(monotonic_ns().to_le_bytes());
        record.extend([pid, tid].iter().flat_map(|w| w.to_le_bytes()));
        let index = self.index.fetch_add(1, Ordering::Relaxed);
        record.extend([address as u64, address as u64, code.len() as u64, index].iter().flat_map(|w| w.to_le_bytes()));
        record.extend(name.as_bytes());
        record.push(0);
        record.extend(code);
        let _ = self.file.lock().unwrap().write_all(&record);
    }
}

/// The clock that `perf record -k mono` uses.
fn monotonic_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}
