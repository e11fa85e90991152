//! Files by descriptor: open, read and write in their variants, position, descriptors themselves.

use super::{pair, sx};
use crate::errno::{self, Errno, Ret};
use crate::fds;
use crate::memory::{Memory, abi_struct};
use crate::procfs;
use crate::task::Task;
use libc::*;
use std::ffi::CString;

// ---- open flags -----------------------------------------------------------------------------------------------------

/// Open flags whose numbers differ: (ARM, x86-64).
const OPEN_FLAGS: [(u32, i32); 4] = [
    (0o40000, O_DIRECTORY),
    (0o100000, O_NOFOLLOW),
    (0o200000, O_DIRECT),
    // The host's own O_LARGEFILE is 0 for 64-bit programs; the kernel's number there is 0o100000.
    (0o400000, 0o100000),
];
const ARM_SPECIFIC: u32 = 0o740000;
const ARM_O_NOFOLLOW: u32 = 0o100000;

pub fn open_flags(arm: u32) -> i32 {
    let same = (arm & !ARM_SPECIFIC) as i32;
    OPEN_FLAGS.iter().filter(|(a, _)| arm & a != 0).fold(same, |f, (_, h)| f | h)
}

/// The inverse, for F_GETFL.
fn arm_open_flags(host: i32) -> u32 {
    let moved = OPEN_FLAGS.iter().fold(0, |m, (_, h)| m | h);
    let same = (host & !moved) as u32;
    OPEN_FLAGS.iter().filter(|(_, h)| host & h != 0).fold(same, |f, (a, _)| f | a)
}

pub fn open(t: &mut Task, a: [u32; 6]) -> Ret {
    openat(t, [AT_FDCWD as u32, a[0], a[1], a[2], 0, 0])
}

pub fn creat(t: &mut Task, a: [u32; 6]) -> Ret {
    openat(t, [AT_FDCWD as u32, a[0], (O_CREAT | O_WRONLY | O_TRUNC) as u32, a[1], 0, 0])
}

pub fn openat(t: &mut Task, a: [u32; 6]) -> Ret {
    let path = t.memory().read_path(a[1])?;
    let flags = open_flags(a[2]);
    if let Some(result) = procfs::open(t, &path, flags) {
        return result;
    }
    let path = t.process.config.prefix.apply(path, a[2] & ARM_O_NOFOLLOW == 0);
    let args = [sx(a[0]), path.as_ptr() as u64, flags as u64, a[3] as u64, 0, 0];
    // SAFETY: the path lives until the call returns.
    unsafe { t.host_call(SYS_openat, args) }
}

abi_struct! {
    /// struct open_how
    OpenHow 24 { flags: u64, mode: u64, resolve: u64, }
}

pub fn openat2(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[3] < size_of::<OpenHow>() as u32 {
        return Err(errno::EINVAL);
    }
    if a[3] > size_of::<OpenHow>() as u32 {
        // A longer structure must be zero where we do not know it.
        let rest = t.memory().read_vec::<u8>(a[2].wrapping_add(24), (a[3].min(4096) - 24) as usize)?;
        if rest.iter().any(|b| *b != 0) {
            return Err(errno::Errno(E2BIG));
        }
    }
    let mut how: OpenHow = t.memory().read(a[2])?;
    let path = t.memory().read_path(a[1])?;
    how.flags = open_flags(how.flags as u32) as u32 as u64;
    // Whether a link may be followed at all is the host's to say.
    let as_ours = how.resolve == 0 || procfs::link(t, &path).is_none();
    if as_ours && let Some(result) = procfs::open(t, &path, how.flags as i32) {
        return result;
    }
    let path = t.process.config.prefix.apply(path, how.flags as i32 & O_NOFOLLOW == 0);
    let args = [sx(a[0]), path.as_ptr() as u64, (&raw const how) as u64, size_of::<OpenHow>() as u64, 0, 0];
    // SAFETY: path and structure live until the call returns.
    unsafe { t.host_call(SYS_openat2, args) }
}

pub fn open_by_handle_at(t: &mut Task, a: [u32; 6]) -> Ret {
    let args = [sx(a[0]), t.memory().input(a[1]), open_flags(a[2]) as u64, 0, 0, 0];
    // SAFETY: struct file_handle is the same on both sides.
    unsafe { t.host_call(SYS_open_by_handle_at, args) }
}

// ---- read and write -------------------------------------------------------------------------------------------------

pub fn read(t: &mut Task, a: [u32; 6]) -> Ret {
    if fds::is_memory(t, a[0] as i32) {
        return fds::move_memory(t, a[0], &[(a[1], a[2])], None, false);
    }
    // SAFETY: guest memory.
    unsafe { t.host_call(SYS_read, [sx(a[0]), t.memory().out(a[1], a[2]), a[2] as u64, 0, 0, 0]) }
}

pub fn write(t: &mut Task, a: [u32; 6]) -> Ret {
    if fds::is_memory(t, a[0] as i32) {
        return fds::move_memory(t, a[0], &[(a[1], a[2])], None, true);
    }
    // SAFETY: guest memory.
    unsafe { t.host_call(SYS_write, [sx(a[0]), t.memory().input(a[1]), a[2] as u64, 0, 0, 0]) }
}

pub fn pread64(t: &mut Task, a: [u32; 6]) -> Ret {
    let offset = pair(a[4], a[5]);
    if fds::is_memory(t, a[0] as i32) {
        return fds::move_memory(t, a[0], &[(a[1], a[2])], Some(offset), false);
    }
    let args = [sx(a[0]), t.memory().out(a[1], a[2]), a[2] as u64, offset, 0, 0];
    // SAFETY: guest memory.
    unsafe { t.host_call(SYS_pread64, args) }
}

pub fn pwrite64(t: &mut Task, a: [u32; 6]) -> Ret {
    let offset = pair(a[4], a[5]);
    if fds::is_memory(t, a[0] as i32) {
        return fds::move_memory(t, a[0], &[(a[1], a[2])], Some(offset), true);
    }
    let args = [sx(a[0]), t.memory().input(a[1]), a[2] as u64, offset, 0, 0];
    // SAFETY: guest memory.
    unsafe { t.host_call(SYS_pwrite64, args) }
}

/// The most segments of a vector that the kernel takes.
pub const IOV_MAX: usize = 1024;

abi_struct! {
    /// struct iovec of a 32-bit program
    IoVec32 8 { base: u32, len: u32, }
}

/// A guest's vector in the host's layout. With `written`, the kernel is going to write to the buffers.
pub fn host_iovec(memory: &Memory, addr: u32, count: u32, written: bool) -> Result<Vec<iovec>, Errno> {
    if count as usize > IOV_MAX {
        return Err(errno::EINVAL);
    }
    let guest: Vec<IoVec32> = memory.read_vec(addr, count as usize)?;
    let mut total = 0u64;
    guest
        .iter()
        .map(|v| {
            if v.len > i32::MAX as u32 {
                return Err(errno::EINVAL);
            }
            total += v.len as u64;
            if total > i32::MAX as u64 {
                return Err(errno::EINVAL);
            }
            let base = if written { memory.out(v.base, v.len) } else { memory.input(v.base) };
            Ok(iovec { iov_base: base as *mut c_void, iov_len: v.len as usize })
        })
        .collect()
}

fn vector_call(t: &mut Task, number: i64, a: [u32; 6], written: bool, rest: [u64; 3]) -> Ret {
    let v = host_iovec(t.memory(), a[1], a[2], written)?;
    if fds::is_memory(t, a[0] as i32) {
        let parts: Vec<IoVec32> = t.memory().read_vec(a[1], a[2] as usize)?;
        let parts: Vec<(u32, u32)> = parts.iter().map(|p| (p.base, p.len)).collect();
        let plain = number == SYS_readv || number == SYS_writev || rest[0] == u64::MAX;
        return fds::move_memory(t, a[0], &parts, (!plain).then_some(rest[0]), !written);
    }
    let args = [sx(a[0]), v.as_ptr() as u64, v.len() as u64, rest[0], rest[1], rest[2]];
    // SAFETY: the vector lives until the call returns; its buffers are guest memory.
    unsafe { t.host_call(number, args) }
}

pub fn readv(t: &mut Task, a: [u32; 6]) -> Ret {
    vector_call(t, SYS_readv, a, true, [0; 3])
}

pub fn writev(t: &mut Task, a: [u32; 6]) -> Ret {
    vector_call(t, SYS_writev, a, false, [0; 3])
}

/// The host takes the offset in one register and ignores the other.
fn split_offset(a: [u32; 6], flags: u32) -> [u64; 3] {
    [pair(a[3], a[4]), 0, flags as u64]
}

pub fn preadv(t: &mut Task, a: [u32; 6]) -> Ret {
    vector_call(t, SYS_preadv, a, true, split_offset(a, 0))
}

pub fn pwritev(t: &mut Task, a: [u32; 6]) -> Ret {
    vector_call(t, SYS_pwritev, a, false, split_offset(a, 0))
}

pub fn preadv2(t: &mut Task, a: [u32; 6]) -> Ret {
    vector_call(t, SYS_preadv2, a, true, split_offset(a, a[5]))
}

pub fn pwritev2(t: &mut Task, a: [u32; 6]) -> Ret {
    vector_call(t, SYS_pwritev2, a, false, split_offset(a, a[5]))
}

pub fn vmsplice(t: &mut Task, a: [u32; 6]) -> Ret {
    vector_call(t, SYS_vmsplice, a, true, [a[3] as u64, 0, 0])
}

/// sendfile with a 32-bit offset.
pub fn sendfile(t: &mut Task, a: [u32; 6]) -> Ret {
    let mut offset = if a[2] != 0 { t.memory().read::<i32>(a[2])? as i64 } else { 0 };
    let pointer = if a[2] != 0 { (&raw mut offset) as u64 } else { 0 };
    // SAFETY: the offset lives until the call returns.
    let n = unsafe { t.host_call(SYS_sendfile, [sx(a[0]), sx(a[1]), pointer, a[3] as u64, 0, 0]) }?;
    if a[2] != 0 {
        t.memory().write(a[2], offset as i32)?;
    }
    Ok(n)
}

// ---- position and size ----------------------------------------------------------------------------------------------

pub fn lseek(t: &mut Task, a: [u32; 6]) -> Ret {
    let to = fds::seek_offset(t, a[0] as i32, a[1] as i32 as i64, a[2] as i32);
    // SAFETY: no memory involved.
    let at = unsafe { t.host_call_64(SYS_lseek, [sx(a[0]), to as u64, a[2] as u64, 0, 0, 0]) }?;
    let at = fds::shown_offset(t, a[0] as i32, at);
    i32::try_from(at).map(|v| v as u32).map_err(|_| errno::EOVERFLOW)
}

pub fn llseek(t: &mut Task, a: [u32; 6]) -> Ret {
    let to = fds::seek_offset(t, a[0] as i32, pair(a[2], a[1]) as i64, a[4] as i32);
    // SAFETY: no memory involved.
    let at = unsafe { t.host_call_64(SYS_lseek, [sx(a[0]), to as u64, a[4] as u64, 0, 0, 0]) }?;
    t.memory().write(a[3], fds::shown_offset(t, a[0] as i32, at))?;
    Ok(0)
}

pub fn truncate64(t: &mut Task, a: [u32; 6]) -> Ret {
    let path = t.path(a[0])?;
    // SAFETY: the path lives until the call returns.
    unsafe { t.host_call(SYS_truncate, [path.as_ptr() as u64, pair(a[2], a[3]), 0, 0, 0, 0]) }
}

pub fn ftruncate64(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: no memory involved.
    unsafe { t.host_call(SYS_ftruncate, [sx(a[0]), pair(a[2], a[3]), 0, 0, 0, 0]) }
}

pub fn readahead(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: no memory involved.
    unsafe { t.host_call(SYS_readahead, [sx(a[0]), pair(a[2], a[3]), a[4] as u64, 0, 0, 0]) }
}

/// The advice is the second argument here, so that the offsets lie in even registers.
pub fn fadvise(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: no memory involved.
    unsafe { t.host_call(SYS_fadvise64, [sx(a[0]), pair(a[2], a[3]), pair(a[4], a[5]), a[1] as u64, 0, 0]) }
}

/// As for `fadvise`, with the flags.
pub fn sync_file_range(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: no memory involved.
    unsafe { t.host_call(SYS_sync_file_range, [sx(a[0]), pair(a[2], a[3]), pair(a[4], a[5]), a[1] as u64, 0, 0]) }
}

pub fn fallocate(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: no memory involved.
    unsafe { t.host_call(SYS_fallocate, [sx(a[0]), a[1] as u64, pair(a[2], a[3]), pair(a[4], a[5]), 0, 0]) }
}

// ---- descriptors ----------------------------------------------------------------------------------------------------

pub fn close(t: &mut Task, a: [u32; 6]) -> Ret {
    not_the_debuggers(t, a[0])?;
    t.fds.forget(a[0] as i32);
    // SAFETY: no memory involved. Other descriptors of the emulator's own are not kept open.
    unsafe { t.host_call(SYS_close, [sx(a[0]), 0, 0, 0, 0, 0]) }
}

pub fn close_range(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[2] & CLOSE_RANGE_UNSHARE != 0 {
        t.fds = std::sync::Arc::new(t.fds.duplicate());
    }
    if a[2] & CLOSE_RANGE_CLOEXEC == 0 {
        t.fds.forget_range(a[0], a[1]);
    }
    let mut first = a[0];
    let mut kept: Vec<u32> = t.process.debug.iter().flat_map(|d| d.descriptors()).map(|fd| fd as u32).collect();
    kept.sort_unstable();
    for fd in kept.into_iter().filter(|fd| (a[0]..=a[1]).contains(fd)) {
        if first < fd {
            // SAFETY: no memory involved.
            unsafe { t.host_call(SYS_close_range, [first as u64, fd as u64 - 1, a[2] as u64, 0, 0, 0]) }?;
        }
        first = fd + 1;
    }
    if first > a[1] && first != a[0] {
        return Ok(0);
    }
    // SAFETY: no memory involved.
    unsafe { t.host_call(SYS_close_range, [first as u64, a[1] as u64, a[2] as u64, 0, 0, 0]) }
}

/// The debugger's connection does not exist for programs that close everything.
fn not_the_debuggers(t: &Task, fd: u32) -> Result<(), Errno> {
    match &t.process.debug {
        Some(d) if d.descriptors().contains(&(fd as i32)) => Err(errno::EBADF),
        _ => Ok(()),
    }
}

pub fn dup(t: &mut Task, a: [u32; 6]) -> Ret {
    // SAFETY: no memory involved.
    let new = unsafe { t.host_call(SYS_dup, [sx(a[0]), 0, 0, 0, 0, 0]) }?;
    t.fds.copy(a[0] as i32, new as i32);
    Ok(new)
}

pub fn dup2(t: &mut Task, a: [u32; 6]) -> Ret {
    not_the_debuggers(t, a[1])?;
    // SAFETY: no memory involved.
    let new = unsafe { t.host_call(SYS_dup2, [sx(a[0]), sx(a[1]), 0, 0, 0, 0]) }?;
    t.fds.copy(a[0] as i32, new as i32);
    Ok(new)
}

pub fn dup3(t: &mut Task, a: [u32; 6]) -> Ret {
    not_the_debuggers(t, a[1])?;
    let flags = open_flags(a[2]) as u64;
    // SAFETY: no memory involved.
    let new = unsafe { t.host_call(SYS_dup3, [sx(a[0]), sx(a[1]), flags, 0, 0, 0]) }?;
    t.fds.copy(a[0] as i32, new as i32);
    Ok(new)
}

pub fn pipe2(t: &mut Task, a: [u32; 6]) -> Ret {
    let args = [t.memory().out(a[0], 8), open_flags(a[1]) as u64, 0, 0, 0, 0];
    // SAFETY: guest memory.
    unsafe { t.host_call(SYS_pipe2, args) }
}

pub fn umount(t: &mut Task, a: [u32; 6]) -> Ret {
    let path = t.path(a[0])?;
    // SAFETY: the path lives until the call returns.
    unsafe { t.host_call(SYS_umount2, [path.as_ptr() as u64, 0, 0, 0, 0, 0]) }
}

// ---- fcntl ----------------------------------------------------------------------------------------------------------

abi_struct! {
    /// struct flock of a 32-bit program
    Flock32 16 { kind: u16, whence: u16, start: i32, len: i32, pid: i32, }
    /// struct flock64 (EABI)
    Flock64 32 { kind: u16, whence: u16, pad: u32, start: i64, len: i64, pid: i32, pad2: u32, }
}

/// Lock commands of 32-bit programs with 64-bit offsets.
const F_GETLK64: u32 = 12;
const F_SETLK64: u32 = 13;
const F_SETLKW64: u32 = 14;

pub fn fcntl(t: &mut Task, a: [u32; 6]) -> Ret {
    match a[1] {
        F_GETLK64 | F_SETLK64 | F_SETLKW64 => Err(errno::EINVAL),
        _ => fcntl64(t, a),
    }
}

pub fn fcntl64(t: &mut Task, a: [u32; 6]) -> Ret {
    let fd = sx(a[0]);
    match a[1] as i32 {
        F_GETFL => {
            // SAFETY: no memory involved.
            let flags = unsafe { t.host_call(SYS_fcntl, [fd, F_GETFL as u64, 0, 0, 0, 0]) }?;
            Ok(arm_open_flags(flags as i32))
        }
        // SAFETY: no memory involved.
        F_SETFL => unsafe { t.host_call(SYS_fcntl, [fd, F_SETFL as u64, open_flags(a[2]) as u64, 0, 0, 0]) },
        F_DUPFD | F_DUPFD_CLOEXEC => {
            // SAFETY: no memory involved.
            let new = unsafe { t.host_call(SYS_fcntl, [fd, a[1] as u64, a[2] as u64, 0, 0, 0]) }?;
            t.fds.copy(a[0] as i32, new as i32);
            Ok(new)
        }
        F_GETLK | F_SETLK | F_SETLKW => lock32(t, a),
        F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => lock64(t, a, a[1] as i32),
        _ if a[1] == F_GETLK64 => lock64(t, a, F_GETLK),
        _ if a[1] == F_SETLK64 => lock64(t, a, F_SETLK),
        _ if a[1] == F_SETLKW64 => lock64(t, a, F_SETLKW),
        _ => fcntl_plain(t, a),
    }
}

/// Commands whose argument is a number, or an address of the same layout.
fn fcntl_plain(t: &mut Task, a: [u32; 6]) -> Ret {
    const F_SETOWN_EX: i32 = 15;
    const F_GETOWN_EX: i32 = 16;
    const F_GETOWNER_UIDS: i32 = 17;
    const RW_HINTS: std::ops::RangeInclusive<i32> = 1035..=1038;
    let command = a[1] as i32;
    let argument = match command {
        F_SETOWN_EX => t.memory().input(a[2]),
        F_GETOWN_EX | F_GETOWNER_UIDS => t.memory().out(a[2], 8),
        _ if RW_HINTS.contains(&command) => t.memory().out(a[2], 8),
        F_SETOWN => sx(a[2]),
        _ => a[2] as u64,
    };
    // SAFETY: guest memory of the same layout, or a number.
    unsafe { t.host_call(SYS_fcntl, [sx(a[0]), a[1] as u64, argument, 0, 0, 0]) }
}

fn lock_call(t: &mut Task, fd: u32, command: i32, lock: &mut flock) -> Ret {
    // SAFETY: the structure lives until the call returns.
    unsafe { t.host_call(SYS_fcntl, [sx(fd), command as u64, (&raw mut *lock) as u64, 0, 0, 0]) }
}

fn host_lock(kind: u16, whence: u16, start: i64, len: i64, pid: i32) -> flock {
    flock { l_type: kind as i16, l_whence: whence as i16, l_start: start, l_len: len, l_pid: pid }
}

fn lock32(t: &mut Task, a: [u32; 6]) -> Ret {
    let g: Flock32 = t.memory().read(a[2])?;
    let mut h = host_lock(g.kind, g.whence, g.start as i64, g.len as i64, g.pid);
    let r = lock_call(t, a[0], a[1] as i32, &mut h)?;
    if a[1] as i32 == F_GETLK {
        let small = |v: i64| i32::try_from(v).map_err(|_| errno::EOVERFLOW);
        let back = Flock32 { kind: h.l_type as u16, whence: h.l_whence as u16, start: small(h.l_start)?, len: small(h.l_len)?, pid: h.l_pid };
        t.memory().write(a[2], back)?;
    }
    Ok(r)
}

fn lock64(t: &mut Task, a: [u32; 6], command: i32) -> Ret {
    let g: Flock64 = t.memory().read(a[2])?;
    let mut h = host_lock(g.kind, g.whence, g.start, g.len, g.pid);
    let r = lock_call(t, a[0], command, &mut h)?;
    if command == F_GETLK || command == F_OFD_GETLK {
        let back = Flock64 { kind: h.l_type as u16, whence: h.l_whence as u16, start: h.l_start, len: h.l_len, pid: h.l_pid, ..g };
        t.memory().write(a[2], back)?;
    }
    Ok(r)
}

/// A file with these contents, as a descriptor that can be read from the start.
pub fn memory_file(name: &str, contents: &[u8], cloexec: bool) -> Result<i32, Errno> {
    let name = CString::new(name).map_err(|_| errno::EINVAL)?;
    // SAFETY: name and contents live until the calls return.
    unsafe {
        let fd = memfd_create(name.as_ptr(), if cloexec { MFD_CLOEXEC } else { 0 });
        if fd < 0 {
            return Err(Errno::last());
        }
        let mut done = 0;
        while done < contents.len() {
            let n = libc::write(fd, contents[done..].as_ptr().cast(), contents.len() - done);
            if n <= 0 {
                let e = Errno::last();
                libc::close(fd);
                return Err(e);
            }
            done += n as usize;
        }
        // The guest's descriptor cannot write. Where there is no /proc the first one must do.
        let link = CString::new(format!("/proc/thread-self/fd/{fd}")).expect("digits");
        let how = if cloexec { O_CLOEXEC } else { 0 };
        let reading = libc::open(link.as_ptr(), how);
        if reading < 0 {
            libc::lseek(fd, 0, SEEK_SET);
            return Ok(fd);
        }
        // The lower number is the one that the guest would get.
        let moved = libc::dup3(reading, fd, how);
        libc::close(reading);
        if moved < 0 { Err(Errno::last()) } else { Ok(fd) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_flags_move_and_come_back() {
        let arm = 0o40000 | 0o100000 | 0o2000000 | 0o2 | 0o100;
        let host = open_flags(arm);
        assert_eq!(host, O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC | O_RDWR | O_CREAT);
        assert_eq!(arm_open_flags(host), arm);
        assert_eq!(open_flags(0o200000), O_DIRECT);
        assert_eq!(arm_open_flags(0o100000), 0o400000);
    }

    #[test]
    fn tmpfile_keeps_its_directory_bit() {
        assert_eq!(open_flags(0o20000000 | 0o40000 | 2), O_TMPFILE | O_RDWR);
    }
}
