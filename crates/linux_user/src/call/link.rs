//! Directories and links: reading them, and the current directory.

use super::sx;
use super::stat::fold_inode;
use crate::errno::{self, Ret};
use crate::procfs;
use crate::task::Task;
use libc::*;
use std::ffi::CString;

// ---- links ----------------------------------------------------------------------------------------------------------

pub fn readlink(t: &mut Task, a: [u32; 6]) -> Ret {
    readlinkat(t, [AT_FDCWD as u32, a[0], a[1], a[2], 0, 0])
}

pub fn readlinkat(t: &mut Task, a: [u32; 6]) -> Ret {
    let path = t.memory().read_path(a[1])?;
    if a[3] as i32 <= 0 {
        return Err(errno::EINVAL);
    }
    if let Some(target) = procfs::link(t, &path) {
        let bytes = target.as_bytes();
        let n = bytes.len().min(a[3] as usize);
        t.memory().write_bytes(a[2], &bytes[..n])?;
        return Ok(n as u32);
    }
    let path = t.process.config.prefix.apply(path, false);
    let args = [sx(a[0]), path.as_ptr() as u64, t.memory().out(a[2], a[3]), a[3] as u64, 0, 0];
    // SAFETY: the path lives until the call returns; the buffer is guest memory.
    unsafe { t.host_call(SYS_readlinkat, args) }
}

pub fn getcwd(t: &mut Task, a: [u32; 6]) -> Ret {
    let args = [t.memory().out(a[0], a[1]), a[1] as u64, 0, 0, 0, 0];
    // SAFETY: guest memory.
    unsafe { t.host_call(SYS_getcwd, args) }
}

// ---- directory entries ----------------------------------------------------------------------------------------------

/// No more is read at once, whatever the guest's buffer.
const MAX_BUFFER: usize = 1 << 20;
/// Bytes before the name in struct linux_dirent64, and in struct linux_dirent of a 32-bit program.
const HEADER_64: usize = 19;
const HEADER_32: usize = 10;

/// One entry as the host gives it.
struct Entry {
    ino: u64,
    next: i64,
    kind: u8,
    name: CString,
}

fn parse(raw: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at + HEADER_64 < raw.len() {
        let word = |o: usize| u64::from_le_bytes(raw[at + o..at + o + 8].try_into().expect("eight bytes"));
        let length = u16::from_le_bytes([raw[at + 16], raw[at + 17]]) as usize;
        if length < HEADER_64 || at + length > raw.len() {
            break;
        }
        let name = &raw[at + HEADER_64..at + length];
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        let name = CString::new(&name[..end]).expect("cut at the first NUL");
        entries.push(Entry { ino: word(0), next: word(8) as i64, kind: raw[at + 18], name });
        at += length;
    }
    entries
}

impl Entry {
    /// struct linux_dirent64
    fn long(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        let size = (HEADER_64 + self.name.as_bytes_with_nul().len()).next_multiple_of(8);
        out.extend(self.ino.to_le_bytes());
        out.extend(self.next.to_le_bytes());
        out.extend((size as u16).to_le_bytes());
        out.push(self.kind);
        out.extend(self.name.as_bytes_with_nul());
        out.resize(begin + size, 0);
    }

    /// struct linux_dirent: the type is the last byte.
    fn short(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        let size = (HEADER_32 + self.name.as_bytes_with_nul().len() + 1).next_multiple_of(4);
        out.extend((self.ino as u32).to_le_bytes());
        out.extend((self.next as u32).to_le_bytes());
        out.extend((size as u16).to_le_bytes());
        out.extend(self.name.as_bytes_with_nul());
        out.resize(begin + size - 1, 0);
        out.push(self.kind);
    }
}

fn read_directory(t: &mut Task, a: [u32; 6], encode: fn(&Entry, &mut Vec<u8>)) -> Ret {
    let fd = a[0];
    let mut raw = vec![0u8; (a[2] as usize).clamp(HEADER_64 + 5, MAX_BUFFER)];
    let args = [sx(fd), raw.as_mut_ptr() as u64, raw.len() as u64, 0, 0, 0];
    // SAFETY: the buffer lives until the call returns.
    let n = unsafe { t.host_call(SYS_getdents64, args) }? as usize;
    let mut out = Vec::with_capacity(n);
    for mut e in parse(&raw[..n]) {
        e.ino = fold_inode(e.ino);
        e.next = t.fds.directory_cookie(fd as i32, e.next);
        encode(&e, &mut out);
    }
    if out.len() > a[2] as usize {
        // The guest's entries are never longer than the host's: the buffer was too small for the first one.
        return Err(errno::EINVAL);
    }
    t.memory().write_bytes(a[1], &out)?;
    Ok(out.len() as u32)
}

pub fn getdents64(t: &mut Task, a: [u32; 6]) -> Ret {
    read_directory(t, a, Entry::long)
}

pub fn getdents(t: &mut Task, a: [u32; 6]) -> Ret {
    read_directory(t, a, Entry::short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_size_or_shrink() {
        let e = Entry { ino: 5, next: 7, kind: 4, name: c"name".into() };
        let mut long = Vec::new();
        e.long(&mut long);
        assert_eq!(long.len(), 24);
        let back = parse(&long);
        assert_eq!((back[0].ino, back[0].next, back[0].kind, back[0].name.as_c_str()), (5, 7, 4, c"name"));
        let mut short = Vec::new();
        e.short(&mut short);
        assert_eq!(short.len(), 16);
        assert_eq!(short[15], 4);
        assert_eq!(&short[10..15], b"name\0");
    }

    #[test]
    fn damaged_entries_end_the_list() {
        assert!(parse(&[0; 40]).is_empty());
    }
}
