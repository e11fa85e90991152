//! Where memory lies and how it is to be treated: NUMA policies, moving pages, advice for other processes, protection keys.
//!
//! Node sets are arrays of `unsigned long`: bitmaps, whose bytes are the same on both little-endian sides but for the
//! rounding of their length.

use super::file::host_iovec;
use super::sx;
use crate::errno::{self, Errno, Ret};
use crate::task::Task;
use libc::*;

/// More nodes than the kernel can have (MAX_NUMNODES is 1024 at most).
const MAX_NODES: u32 = 1 << 15;
/// More pages than one call should move.
const MAX_PAGES: u32 = 1 << 20;

/// A node set of the guest, with room for what the kernel reads of it; none where the guest gives none.
fn nodes(t: &Task, addr: u32, max: u32) -> Result<Option<Vec<u64>>, Errno> {
    if max > MAX_NODES {
        return Err(errno::EINVAL);
    }
    if addr == 0 {
        return Ok(None);
    }
    let words: Vec<u32> = t.memory().read_vec(addr, max.saturating_sub(1).div_ceil(32) as usize)?;
    let mut set = vec![0u64; words.len() / 2 + 1];
    for (i, w) in words.iter().enumerate() {
        set[i / 2] |= (*w as u64) << (32 * (i % 2));
    }
    Ok(Some(set))
}

fn address(set: &Option<Vec<u64>>) -> u64 {
    set.as_ref().map_or(0, |s| s.as_ptr() as u64)
}

/// get_mempolicy(mode, node mask, size of the mask, address, flags)
pub fn get_mempolicy(t: &mut Task, a: [u32; 6]) -> Ret {
    const MPOL_F_ADDR: u32 = 2;
    if a[2] > MAX_NODES {
        return Err(errno::EINVAL);
    }
    let at = if a[4] & MPOL_F_ADDR != 0 { t.memory().host(a[3]) as u64 } else { a[3] as u64 };
    let mut set = vec![0u64; a[2] as usize / 64 + 1];
    let mask = if a[1] != 0 { set.as_mut_ptr() as u64 } else { 0 };
    // SAFETY: the set has room for as many nodes as said; the rest is guest memory or numbers.
    let r = unsafe { t.host_call(SYS_get_mempolicy, [t.memory().out(a[0], 4), mask, a[2] as u64, at, a[4] as u64, 0]) }?;
    if a[1] != 0 {
        let words = a[2].saturating_sub(1).div_ceil(32) as usize;
        let bytes: Vec<u8> = set.iter().flat_map(|w| w.to_le_bytes()).take(4 * words).collect();
        t.memory().write_bytes(a[1], &bytes)?;
    }
    Ok(r)
}

pub fn set_mempolicy(t: &mut Task, a: [u32; 6]) -> Ret {
    let set = nodes(t, a[1], a[2])?;
    // SAFETY: the set lives until the call returns.
    unsafe { t.host_call(SYS_set_mempolicy, [sx(a[0]), address(&set), a[2] as u64, 0, 0, 0]) }
}

pub fn set_mempolicy_home_node(t: &mut Task, a: [u32; 6]) -> Ret {
    const SYS_SET_MEMPOLICY_HOME_NODE: i64 = 450;
    let args = [t.memory().host(a[0]) as u64, a[1] as u64, sx(a[2]), a[3] as u64, 0, 0];
    // SAFETY: a range of the guest's window, whose contents stay.
    unsafe { t.host_call(SYS_SET_MEMPOLICY_HOME_NODE, args) }
}

/// migrate_pages(process, size of the sets, from, to)
pub fn migrate_pages(t: &mut Task, a: [u32; 6]) -> Ret {
    let (from, to) = (nodes(t, a[2], a[1])?, nodes(t, a[3], a[1])?);
    // SAFETY: the sets live until the call returns.
    unsafe { t.host_call(SYS_migrate_pages, [sx(a[0]), a[1] as u64, address(&from), address(&to), 0, 0]) }
}

/// move_pages(process, count, addresses, nodes, statuses, flags); as for `process_vm_readv`, the addresses in a relative are ours.
pub fn move_pages(t: &mut Task, a: [u32; 6]) -> Ret {
    if a[1] > MAX_PAGES {
        return Err(errno::ENOMEM);
    }
    let pages: Vec<u32> = t.memory().read_vec(a[2], a[1] as usize)?;
    let pages: Vec<u64> = pages.iter().map(|p| t.memory().host(*p) as u64).collect();
    let m = t.memory();
    let args = [sx(a[0]), a[1] as u64, pages.as_ptr() as u64, m.input(a[3]), m.out(a[4], 4 * a[1]), a[5] as u64];
    // SAFETY: the addresses live until the call returns; nodes and statuses are guest memory.
    unsafe { t.host_call(SYS_move_pages, args) }
}

/// process_madvise(pidfd, ranges, count, advice, flags): the advice that other processes may give changes no contents.
pub fn process_madvise(t: &mut Task, a: [u32; 6]) -> Ret {
    const MADV_COLLAPSE: i32 = 25;
    // Since Linux 6.13 a process may give itself any advice this way.
    if !matches!(a[3] as i32, MADV_COLD | MADV_PAGEOUT | MADV_WILLNEED | MADV_COLLAPSE) {
        return Err(errno::EINVAL);
    }
    let ranges = host_iovec(t.memory(), a[1], a[2], false)?;
    if ranges.iter().any(|r| !t.memory().contains(r.iov_base as usize, r.iov_len)) {
        return Err(errno::ENOMEM);
    }
    let args = [sx(a[0]), ranges.as_ptr() as u64, ranges.len() as u64, sx(a[3]), a[4] as u64, 0];
    // SAFETY: the vector lives until the call returns.
    unsafe { t.host_call(SYS_process_madvise, args) }
}

/// There are no protection keys on ARM: the kernel has none to give away.
pub fn pkey_alloc(_: &mut Task, a: [u32; 6]) -> Ret {
    const PKEY_ACCESS_MASK: u32 = 3;
    Err(if a[0] != 0 || a[1] & !PKEY_ACCESS_MASK != 0 { errno::EINVAL } else { Errno(ENOSPC) })
}

pub fn pkey_free(_: &mut Task, _: [u32; 6]) -> Ret {
    Err(errno::EINVAL)
}
