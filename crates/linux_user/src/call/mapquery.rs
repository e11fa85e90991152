//! PROCMAP_QUERY: one mapping of `/proc/self/maps` as a structure. What is known of its file comes from the host's answer to the
//! same question, so kernels before 6.11 have no answer here either.
//!
//! **Reference.** `struct procmap_query` in `linux/fs.h`.

use crate::errno::{self, Errno, Ret};
use crate::memory::{PAGE, PATH_MAX, SHARED, abi_struct};
use crate::procfs::{self, Line};
use crate::task::Task;
use jit::PageFlags;
use std::fs::File;
use std::os::fd::AsRawFd;

abi_struct! {
    /// struct procmap_query
    Query 104 {
        size: u64, flags: u64, addr: u64, start: u64, end: u64, vma_flags: u64, page_size: u64, offset: u64, inode: u64,
        device: [u32; 2], name_size: u32, build_id_size: u32, name: u64, build_id: u64,
    }
}

const REQUEST: u64 = 0xc068_6611;
/// Up to `query_addr`, which is the least that a program gives.
const LEAST: u64 = 24;

/// The first four are in the answer, too.
const READABLE: u64 = 1;
const WRITABLE: u64 = 2;
const EXECUTABLE: u64 = 4;
const MAP_SHARED: u64 = 8;
const COVERING_OR_NEXT: u64 = 16;
const FILE_BACKED: u64 = 32;

/// Longest build ID of the kernel's.
const BUILD_ID: usize = 20;

pub fn query(t: &mut Task, at: u32) -> Ret {
    let size: u64 = t.memory().read(at)?;
    if size > PAGE as u64 {
        return Err(Errno(libc::E2BIG));
    }
    if size < LEAST {
        return Err(errno::EINVAL);
    }
    let given: Vec<u8> = t.memory().read_vec(at, size as usize)?;
    let known = given.len().min(size_of::<Query>());
    if given[known..].iter().any(|b| *b != 0) {
        return Err(Errno(libc::E2BIG));
    }
    let mut q = Query::from_prefix(&given[..known]);
    let pairs = (q.name_size == 0) == (q.name == 0) && (q.build_id_size == 0) == (q.build_id == 0);
    if q.flags >= FILE_BACKED << 1 || !pairs {
        return Err(errno::EINVAL);
    }
    let address = |v: u64| u32::try_from(v).map_err(|_| errno::EFAULT);
    let (name_at, build_id_at) = (address(q.name)?, address(q.build_id)?);
    let permissions = q.flags & (READABLE | WRITABLE | EXECUTABLE | MAP_SHARED);
    let host = |l: &Line| host_answer(t, l.start as u32);
    // Mappings without a file have inode 0.
    let wanted = |l: &Line| shown(l.flags) & permissions == permissions && (q.flags & FILE_BACKED == 0 || l.is_of_file());
    let found = procfs::find_line(t, q.addr, q.flags & COVERING_OR_NEXT != 0, wanted, |l| {
        (l.start, l.end, l.flags, l.offset, l.name.as_bytes().to_vec(), l.is_of_file().then(|| host(l)))
    });
    let (start, end, flags, offset, name, file) = found.ok_or(errno::ENOENT)?;
    (q.start, q.end, q.vma_flags, q.page_size, q.offset) = (start, end, shown(flags), PAGE.into(), offset);
    let mut build_id = Vec::new();
    match file.transpose()? {
        Some((h, id)) => {
            (q.inode, q.device) = (h.inode, h.device);
            build_id = id;
        }
        None => (q.inode, q.device, q.offset) = (0, [0; 2], 0),
    }
    let name = if name.is_empty() { name } else { [&name, &b"\0"[..]].concat() };
    q.name_size = put(t, name_at, q.name_size.min(PATH_MAX as u32), &name)?;
    q.build_id_size = put(t, build_id_at, q.build_id_size, &build_id)?;
    t.memory().write_bytes(at, &q.bytes()[..known]).map(|()| 0)
}

/// A variable part of the answer, if it is asked for; its size.
fn put(t: &Task, at: u32, room: u32, bytes: &[u8]) -> Ret {
    if room == 0 || bytes.is_empty() {
        return Ok(0);
    }
    if bytes.len() > room as usize {
        return Err(errno::ENAMETOOLONG);
    }
    t.memory().write_bytes(at, bytes).map(|()| bytes.len() as u32)
}

/// A mapping's flags as the structure has them.
fn shown(flags: PageFlags) -> u64 {
    let rows = [(PageFlags::READ, READABLE), (PageFlags::WRITE, WRITABLE), (PageFlags::EXEC, EXECUTABLE), (SHARED, MAP_SHARED)];
    rows.iter().filter(|(f, _)| flags.has(*f)).fold(0, |all, (_, bit)| all | bit)
}

/// What the host knows of the file that is mapped at `addr`, and its build ID.
fn host_answer(t: &Task, addr: u32) -> Result<(Query, Vec<u8>), Errno> {
    let mut build_id = [0u8; BUILD_ID];
    let mut q = Query {
        size: size_of::<Query>() as u64,
        addr: t.memory().host(addr) as u64,
        build_id_size: BUILD_ID as u32,
        build_id: build_id.as_mut_ptr() as u64,
        ..Query::zeroed()
    };
    let file = File::open("/proc/self/maps").map_err(|_| errno::ENOENT)?;
    // SAFETY: the structure and the room that it names live until the call returns.
    unsafe { t.host_call(libc::SYS_ioctl, [file.as_raw_fd() as u64, REQUEST, (&raw mut q) as u64, 0, 0, 0]) }?;
    Ok((q, build_id[..(q.build_id_size as usize).min(BUILD_ID)].to_vec()))
}
