//! Image locks: byte-range locks that keep two programs from writing one image, shared with QEMU.
//!
//! Reference: the lock bytes that `qemu-io` 10.0.2 shows in `/proc/<pid>/fdinfo`: a program read-locks byte 100+n for
//! each right n it uses and 200+n for each right it denies others. A right is free when nobody holds the opposite byte.
//!
//! Not modelled: process-wide POSIX locks for kernels without open-file-description locks.

use nix::fcntl::{FcntlArg, fcntl};
use spec::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// Rights on an image; the bit number is the offset of the lock byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights(pub u8);

impl Rights {
    pub const NONE: Rights = Rights(0);
    pub const READ: Rights = Rights(1 << 0);
    pub const WRITE: Rights = Rights(1 << 1);
    pub const WRITE_UNCHANGED: Rights = Rights(1 << 2);
    pub const RESIZE: Rights = Rights(1 << 3);

    pub fn and(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }
}

const USED_BASE: i64 = 100;
const DENIED_BASE: i64 = 200;
const NAMES: [&str; 4] = ["consistent read", "write", "write unchanged", "resize"];

/// The result of asking for rights: refused by someone, or the file system has no locks.
fn region(kind: i32, start: i64) -> libc_flock {
    libc_flock { l_type: kind as i16, l_whence: 0, l_start: start, l_len: 1, l_pid: 0 }
}

use nix::libc::flock as libc_flock;
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK};

/// Takes the rights on an open file. `name` is the file name for messages.
pub fn acquire(file: &File, used: Rights, denied: Rights, name: &str) -> Result<()> {
    // Lock first and look afterwards: two programs that start together both see each other.
    for (base, rights) in [(USED_BASE, used), (DENIED_BASE, denied)] {
        for bit in bits(rights) {
            if fcntl(file, FcntlArg::F_OFD_SETLK(&region(F_RDLCK, base + bit))).is_err() {
                return Ok(()); // a file system without locks: QEMU's "auto" goes on without them
            }
        }
    }
    for bit in bits(used) {
        if taken(file, DENIED_BASE + bit) {
            return Err(refusal(file, &format!("Failed to get \"{}\" lock", NAMES[bit as usize]), DENIED_BASE + bit, name));
        }
    }
    for bit in bits(denied) {
        if taken(file, USED_BASE + bit) {
            return Err(refusal(file, &format!("Failed to get shared \"{}\" lock", NAMES[bit as usize]), USED_BASE + bit, name));
        }
    }
    Ok(())
}

/// Gives every right back.
pub fn release(file: &File) {
    for base in [USED_BASE, DENIED_BASE] {
        let all = libc_flock { l_type: F_UNLCK as i16, l_whence: 0, l_start: base, l_len: 8, l_pid: 0 };
        let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&all));
    }
}

fn bits(rights: Rights) -> impl Iterator<Item = i64> {
    (0..4).filter(move |bit| rights.0 & (1 << bit) != 0)
}

/// Whether somebody else holds the byte.
fn taken(file: &File, byte: i64) -> bool {
    let mut probe = region(F_WRLCK, byte);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)).is_ok() && probe.l_type != F_UNLCK as i16
}

fn refusal(file: &File, what: &str, byte: i64, name: &str) -> Error {
    release(file);
    let holder = match holder(file, byte) {
        Some((pid, command)) => format!("\nProcess {pid} ({command}) holds it."),
        None => String::new(),
    };
    Error::new(format!("{what}\nIs another process using the image [{name}]?{holder}"))
}

/// Finds a process with a lock on the byte. The kernel does not name the owner of such a lock, but each descriptor's
/// `fdinfo` lists the locks held through it.
fn holder(file: &File, byte: i64) -> Option<(u32, String)> {
    let inode = format!(":{}", file.metadata().ok()?.ino());
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fdinfo")) else { continue };
        for descriptor in descriptors.flatten() {
            let text = std::fs::read_to_string(descriptor.path()).unwrap_or_default();
            if text.lines().any(|line| locks_byte(line, &inode, byte)) {
                let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some((pid, command.trim().to_owned()));
            }
        }
    }
    None
}

/// Whether an `fdinfo` line is a lock on the inode that covers the byte.
fn locks_byte(line: &str, inode: &str, byte: i64) -> bool {
    if !line.starts_with("lock:") || !line.contains("OFDLCK") {
        return false;
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let [.., id, from, to] = words.as_slice() else { return false };
    let covers = |a: &str, b: &str| Some(a.parse::<i64>().ok()? <= byte && (b == "EOF" || b.parse::<i64>().ok()? >= byte));
    id.ends_with(inode) && covers(from, to).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_writer_is_refused_and_the_holder_named() {
        let path = std::env::temp_dir().join(format!("disk-lock-{}", std::process::id()));
        let first = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let second = File::options().read(true).write(true).open(&path).unwrap();
        let used = Rights::READ.and(Rights::WRITE);
        acquire(&first, used, Rights::WRITE, "x").unwrap();
        let refused = acquire(&second, used, Rights::WRITE, "x").unwrap_err().to_string();
        assert!(refused.starts_with("Failed to get \"write\" lock\nIs another process using the image [x]?"), "{refused}");
        assert!(refused.contains(&format!("Process {} ", std::process::id())), "{refused}");
        // The refusal left nothing behind: once the first gives up, the second gets in.
        release(&first);
        acquire(&second, used, Rights::WRITE, "x").unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
