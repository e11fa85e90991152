//! Attributes of files and file systems, and changing times.
//!
//! Inode numbers of more than 32 bits are folded, everywhere in the same way, because 32-bit programs fail on them.

use super::sx;
use crate::errno::{self, Ret};
use crate::memory::abi_struct;
use crate::path::Name;
use crate::procfs;
use crate::task::Task;
use libc::*;
use std::ffi::CStr;

/// An inode number in 32 bits.
pub fn fold_inode(ino: u64) -> u64 {
    let folded = (ino ^ ino >> 32) & 0xffff_ffff;
    if ino >> 32 == 0 { ino } else { folded.max(1) }
}

abi_struct! {
    /// struct stat64 (EABI)
    Stat64 104 {
        dev: u64, pad0: u32, short_ino: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u64, pad3: [u32; 2],
        size: i64, blksize: u32, pad4: u32, blocks: u64, atime: [u32; 2], mtime: [u32; 2], ctime: [u32; 2], ino: u64,
    }
    /// struct stat
    Stat32 64 {
        dev: u32, ino: u32, mode: u16, nlink: u16, uid: u16, gid: u16, rdev: u32, size: u32, blksize: u32, blocks: u32,
        atime: [u32; 2], mtime: [u32; 2], ctime: [u32; 2], unused: [u32; 2],
    }
    /// struct statfs
    Statfs32 64 {
        kind: u32, bsize: u32, blocks: u32, bfree: u32, bavail: u32, files: u32, ffree: u32, fsid: [u32; 2],
        namelen: u32, frsize: u32, flags: u32, spare: [u32; 4],
    }
    /// struct statfs64 (EABI, packed)
    Statfs64 84 {
        kind: u32, bsize: u32, counts: [[u32; 2]; 5], fsid: [u32; 2], namelen: u32, frsize: u32, flags: u32, spare: [u32; 4],
    }
    Timespec32 8 { sec: i32, nsec: i32, }
    Timespec64 16 { sec: i64, nsec: i64, }
    Timeval32 8 { sec: i32, usec: i32, }
}

fn times(s: &libc::stat) -> [[u32; 2]; 3] {
    [
        [s.st_atime as u32, s.st_atime_nsec as u32],
        [s.st_mtime as u32, s.st_mtime_nsec as u32],
        [s.st_ctime as u32, s.st_ctime_nsec as u32],
    ]
}

fn to_stat64(s: &libc::stat) -> Stat64 {
    let [atime, mtime, ctime] = times(s);
    let ino = fold_inode(s.st_ino);
    Stat64 {
        dev: s.st_dev,
        pad0: 0,
        short_ino: ino as u32,
        mode: s.st_mode,
        nlink: s.st_nlink as u32,
        uid: s.st_uid,
        gid: s.st_gid,
        rdev: s.st_rdev,
        pad3: [0; 2],
        size: s.st_size,
        blksize: s.st_blksize as u32,
        pad4: 0,
        blocks: s.st_blocks as u64,
        atime,
        mtime,
        ctime,
        ino,
    }
}

fn to_stat32(s: &libc::stat) -> Result<Stat32, errno::Errno> {
    let [atime, mtime, ctime] = times(s);
    Ok(Stat32 {
        dev: s.st_dev as u32,
        ino: fold_inode(s.st_ino) as u32,
        mode: s.st_mode as u16,
        nlink: s.st_nlink as u16,
        uid: s.st_uid as u16,
        gid: s.st_gid as u16,
        rdev: s.st_rdev as u32,
        size: u32::try_from(s.st_size).ok().filter(|v| *v <= i32::MAX as u32).ok_or(errno::EOVERFLOW)?,
        blksize: s.st_blksize as u32,
        blocks: s.st_blocks as u32,
        atime,
        mtime,
        ctime,
        unused: [0; 2],
    })
}

/// Host attributes by path or descriptor.
fn host_stat(t: &Task, dirfd: u32, path: &CStr, flags: i32) -> Result<libc::stat, errno::Errno> {
    // SAFETY: all-zero bytes are a value of the structure.
    let mut s: libc::stat = unsafe { std::mem::zeroed() };
    let args = [sx(dirfd), path.as_ptr() as u64, (&raw mut s) as u64, flags as u64, 0, 0];
    // SAFETY: path and structure live until the call returns.
    unsafe { t.host_call(SYS_newfstatat, args) }?;
    Ok(s)
}

const CWD: u32 = AT_FDCWD as u32;

fn by_path(t: &Task, dirfd: u32, path: u32, flags: i32) -> Result<libc::stat, errno::Errno> {
    let follow = flags & AT_SYMLINK_NOFOLLOW == 0;
    let prefix = &t.process.config.prefix;
    let name = prefix.read(t.memory(), path)?;
    if follow && let Some(target) = procfs::link(t, name.guest()) {
        return host_stat(t, dirfd, &target, flags);
    }
    // Most names are of plain files that are below the prefix: asked for there at once.
    let Some(joined) = name.below() else { return host_stat(t, dirfd, name.guest(), flags) };
    t.only_looked.set(true);
    if prefix.known_missing(name.guest()) {
        return host_stat(t, dirfd, name.guest(), flags);
    }
    match host_stat(t, dirfd, joined, flags | AT_SYMLINK_NOFOLLOW) {
        Ok(s) if follow && s.st_mode & S_IFMT == S_IFLNK => {
            host_stat(t, dirfd, prefix.resolve(name, true).host(), flags)
        }
        Err(e) if e != errno::RESTART => {
            prefix.note_missing(name.guest());
            host_stat(t, dirfd, name.guest(), flags)
        }
        done => done,
    }
}

fn by_fd(t: &Task, fd: u32) -> Result<libc::stat, errno::Errno> {
    host_stat(t, fd, c"", AT_EMPTY_PATH)
}

pub fn stat64(t: &mut Task, a: [u32; 6]) -> Ret {
    let s = by_path(t, CWD, a[0], 0)?;
    t.memory().write(a[1], to_stat64(&s)).map(|()| 0)
}

pub fn lstat64(t: &mut Task, a: [u32; 6]) -> Ret {
    let s = by_path(t, CWD, a[0], AT_SYMLINK_NOFOLLOW)?;
    t.memory().write(a[1], to_stat64(&s)).map(|()| 0)
}

pub fn fstat64(t: &mut Task, a: [u32; 6]) -> Ret {
    let s = by_fd(t, a[0])?;
    t.memory().write(a[1], to_stat64(&s)).map(|()| 0)
}

pub fn fstatat64(t: &mut Task, a: [u32; 6]) -> Ret {
    let s = by_path(t, a[0], a[1], a[3] as i32)?;
    t.memory().write(a[2], to_stat64(&s)).map(|()| 0)
}

pub fn stat(t: &mut Task, a: [u32; 6]) -> Ret {
    let s = by_path(t, CWD, a[0], 0)?;
    t.memory().write(a[1], to_stat32(&s)?).map(|()| 0)
}

pub fn lstat(t: &mut Task, a: [u32; 6]) -> Ret {
    let s = by_path(t, CWD, a[0], AT_SYMLINK_NOFOLLOW)?;
    t.memory().write(a[1], to_stat32(&s)?).map(|()| 0)
}

pub fn fstat(t: &mut Task, a: [u32; 6]) -> Ret {
    let s = by_fd(t, a[0])?;
    t.memory().write(a[1], to_stat32(&s)?).map(|()| 0)
}

/// The offsets of stx_mode and stx_ino.
const STX_MODE: u32 = 28;
const STX_INO: u32 = 32;

pub fn statx(t: &mut Task, a: [u32; 6]) -> Ret {
    let follow = a[2] as i32 & AT_SYMLINK_NOFOLLOW == 0;
    let name = t.process.config.prefix.read(t.memory(), a[1])?;
    match procfs::link(t, name.guest()).filter(|_| follow) {
        Some(target) => host_statx(t, a, &target, 0)?,
        None => statx_below_prefix(t, a, name, follow)?,
    }
    let at = a[4].wrapping_add(STX_INO);
    let ino: u64 = t.memory().read(at)?;
    if ino >> 32 != 0 {
        t.memory().write(at, fold_inode(ino))?;
    }
    Ok(0)
}

fn host_statx(t: &Task, a: [u32; 6], name: &CStr, more_flags: i32) -> Result<(), errno::Errno> {
    let (flags, mask) = (a[2] | more_flags as u32, a[3] | STATX_TYPE);
    let args = [sx(a[0]), name.as_ptr() as u64, flags as u64, mask as u64, t.memory().out(a[4], 256), 0];
    // SAFETY: struct statx is the same on both sides; the path lives until the call returns.
    unsafe { t.host_call(SYS_statx, args) }.map(drop)
}

/// As `by_path`.
fn statx_below_prefix(t: &Task, a: [u32; 6], name: Name, follow: bool) -> Result<(), errno::Errno> {
    let prefix = &t.process.config.prefix;
    let Some(joined) = name.below() else { return host_statx(t, a, name.guest(), 0) };
    t.only_looked.set(true);
    if prefix.known_missing(name.guest()) {
        return host_statx(t, a, name.guest(), 0);
    }
    match host_statx(t, a, joined, AT_SYMLINK_NOFOLLOW) {
        Ok(()) => {
            let mode: u16 = t.memory().read(a[4].wrapping_add(STX_MODE))?;
            if follow && mode as u32 & S_IFMT == S_IFLNK {
                return host_statx(t, a, prefix.resolve(name, true).host(), 0);
            }
            Ok(())
        }
        Err(e) if e != errno::RESTART => {
            prefix.note_missing(name.guest());
            host_statx(t, a, name.guest(), 0)
        }
        restart => restart,
    }
}

// ---- access ---------------------------------------------------------------------------------------------------------

fn access_call(t: &mut Task, number: i64, dirfd: u32, path: u32, mode: u32, flags: u32) -> Ret {
    let follow = flags as i32 & AT_SYMLINK_NOFOLLOW == 0;
    let prefix = &t.process.config.prefix;
    let name = prefix.read(t.memory(), path)?;
    let own = procfs::link(t, name.guest()).filter(|_| follow);
    let name = match own {
        Some(_) => name,
        None => {
            t.only_looked.set(true);
            prefix.resolve(name, follow)
        }
    };
    let path = own.as_deref().unwrap_or(name.host());
    let args = [sx(dirfd), path.as_ptr() as u64, mode as u64, flags as u64, 0, 0];
    // SAFETY: the path lives until the call returns.
    unsafe { t.host_call(number, args) }
}

pub fn access(t: &mut Task, a: [u32; 6]) -> Ret {
    access_call(t, SYS_faccessat, CWD, a[0], a[1], 0)
}

pub fn faccessat(t: &mut Task, a: [u32; 6]) -> Ret {
    access_call(t, SYS_faccessat, a[0], a[1], a[2], 0)
}

pub fn faccessat2(t: &mut Task, a: [u32; 6]) -> Ret {
    access_call(t, SYS_faccessat2, a[0], a[1], a[2], a[3])
}

// ---- file systems ---------------------------------------------------------------------------------------------------

fn host_statfs(t: &Task, number: i64, what: u64) -> Result<libc::statfs, errno::Errno> {
    // SAFETY: all-zero bytes are a value of the structure.
    let mut s: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `what` is a descriptor or a path that the caller keeps; the structure lives until the call returns.
    unsafe { t.host_call(number, [what, (&raw mut s) as u64, 0, 0, 0, 0]) }?;
    Ok(s)
}

fn statfs_of_path(t: &Task, path: u32) -> Result<libc::statfs, errno::Errno> {
    let path = t.path(path)?;
    host_statfs(t, SYS_statfs, path.as_ptr() as u64)
}

/// The words behind the counts, which `libc::statfs` keeps private: fsid, namelen, frsize, flags.
fn statfs_words(s: &libc::statfs) -> [u64; 4] {
    // struct statfs of x86-64: two words, five counts, fsid, namelen, frsize, flags.
    // SAFETY: the structure is 15 words of plain data.
    let raw: [u64; 15] = unsafe { std::mem::transmute_copy(s) };
    [raw[7], raw[8], raw[9], raw[10]]
}
const _: () = assert!(size_of::<libc::statfs>() == 120);

fn write_statfs64(t: &Task, size: u32, addr: u32, s: &libc::statfs) -> Ret {
    // Programs pass 88, the size with the padding that the packed structure does not have.
    if size != 84 && size != 88 {
        return Err(errno::EINVAL);
    }
    let split = |v: u64| [v as u32, (v >> 32) as u32];
    let [fsid, namelen, frsize, flags] = statfs_words(s);
    let g = Statfs64 {
        kind: s.f_type as u32,
        bsize: s.f_bsize as u32,
        counts: [s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree].map(split),
        fsid: split(fsid),
        namelen: namelen as u32,
        frsize: frsize as u32,
        flags: flags as u32,
        spare: [0; 4],
    };
    t.memory().write(addr, g).map(|()| 0)
}

fn write_statfs32(t: &Task, addr: u32, s: &libc::statfs) -> Ret {
    let small = |v: u64| u32::try_from(v).map_err(|_| errno::EOVERFLOW);
    let [fsid, namelen, frsize, flags] = statfs_words(s);
    let g = Statfs32 {
        kind: s.f_type as u32,
        bsize: s.f_bsize as u32,
        blocks: small(s.f_blocks)?,
        bfree: small(s.f_bfree)?,
        bavail: small(s.f_bavail)?,
        files: small(s.f_files)?,
        ffree: small(s.f_ffree)?,
        fsid: [fsid as u32, (fsid >> 32) as u32],
        namelen: namelen as u32,
        frsize: frsize as u32,
        flags: flags as u32,
        spare: [0; 4],
    };
    t.memory().write(addr, g).map(|()| 0)
}

pub fn statfs64(t: &mut Task, a: [u32; 6]) -> Ret {
    let s = statfs_of_path(t, a[0])?;
    write_statfs64(t, a[1], a[2], &s)
}

pub fn fstatfs64(t: &mut Task, a: [u32; 6]) -> Ret {
    let s = host_statfs(t, SYS_fstatfs, sx(a[0]))?;
    write_statfs64(t, a[1], a[2], &s)
}

pub fn statfs(t: &mut Task, a: [u32; 6]) -> Ret {
    let s = statfs_of_path(t, a[0])?;
    write_statfs32(t, a[1], &s)
}

pub fn fstatfs(t: &mut Task, a: [u32; 6]) -> Ret {
    let s = host_statfs(t, SYS_fstatfs, sx(a[0]))?;
    write_statfs32(t, a[1], &s)
}

// ---- times ----------------------------------------------------------------------------------------------------------

fn set_times(t: &mut Task, dirfd: u32, path: u32, times: Option<[timespec; 2]>, flags: u32) -> Ret {
    let follow = flags as i32 & AT_SYMLINK_NOFOLLOW == 0;
    let name = match path {
        0 => None,
        _ if follow => Some(t.path(path)?),
        _ => Some(t.path_nofollow(path)?),
    };
    let name = name.as_ref().map_or(0, |n| n.as_ptr() as u64);
    let times = times.as_ref().map_or(0, |v| v.as_ptr() as u64);
    // SAFETY: path and times live until the call returns.
    unsafe { t.host_call(SYS_utimensat, [sx(dirfd), name, times, flags as u64, 0, 0]) }
}

fn two<T>(v: Vec<T>, f: impl Fn(&T) -> timespec) -> [timespec; 2] {
    [f(&v[0]), f(&v[1])]
}

pub fn utimensat(t: &mut Task, a: [u32; 6]) -> Ret {
    let times = match a[2] {
        0 => None,
        at => Some(two(t.memory().read_vec::<Timespec32>(at, 2)?, |v| timespec {
            tv_sec: v.sec as i64,
            tv_nsec: v.nsec as i64,
        })),
    };
    set_times(t, a[0], a[1], times, a[3])
}

pub fn utimensat_time64(t: &mut Task, a: [u32; 6]) -> Ret {
    let times = match a[2] {
        0 => None,
        // Only 32 bits of the nanoseconds count for 32-bit programs.
        at => Some(two(t.memory().read_vec::<Timespec64>(at, 2)?, |v| timespec {
            tv_sec: v.sec,
            tv_nsec: v.nsec as u32 as i64,
        })),
    };
    set_times(t, a[0], a[1], times, a[3])
}

fn from_timevals(t: &Task, at: u32) -> Result<Option<[timespec; 2]>, errno::Errno> {
    if at == 0 {
        return Ok(None);
    }
    let v = t.memory().read_vec::<Timeval32>(at, 2)?;
    if v.iter().any(|x| !(0..1_000_000).contains(&x.usec)) {
        return Err(errno::EINVAL);
    }
    Ok(Some(two(v, |v| timespec { tv_sec: v.sec as i64, tv_nsec: v.usec as i64 * 1000 })))
}

pub fn utimes(t: &mut Task, a: [u32; 6]) -> Ret {
    let times = from_timevals(t, a[1])?;
    set_times(t, CWD, a[0], times, 0)
}

pub fn futimesat(t: &mut Task, a: [u32; 6]) -> Ret {
    let times = from_timevals(t, a[2])?;
    set_times(t, a[0], a[1], times, 0)
}

pub fn utime(t: &mut Task, a: [u32; 6]) -> Ret {
    let times = match a[1] {
        0 => None,
        at => Some(two(t.memory().read_vec::<i32>(at, 2)?, |v| timespec { tv_sec: *v as i64, tv_nsec: 0 })),
    };
    set_times(t, CWD, a[0], times, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_fold_only_when_they_must() {
        assert_eq!(fold_inode(0xffff_ffff), 0xffff_ffff);
        assert_eq!(fold_inode(0x1_0000_0002), 3);
        assert_eq!(fold_inode(0x5_0000_0005), 1, "never zero: that would be a deleted entry");
    }

    #[test]
    fn attributes_of_a_real_file() {
        // SAFETY: the structure is filled by the call.
        let mut s = unsafe {
            let mut s: libc::stat = std::mem::zeroed();
            assert_eq!(libc::stat(c"/proc/self/exe".as_ptr(), &raw mut s), 0);
            s
        };
        let g = to_stat64(&s);
        assert_eq!((g.size, g.mode, g.mtime[0]), (s.st_size, s.st_mode, s.st_mtime as u32));
        assert_eq!(to_stat32(&s).unwrap().size as i64, s.st_size);
        s.st_size = 1 << 31;
        assert_eq!(to_stat32(&s).unwrap_err(), errno::EOVERFLOW);
    }
}
