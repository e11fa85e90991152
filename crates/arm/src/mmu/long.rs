//! The long-descriptor translation tables (Large Physical Address Extension), first stage.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.6, pseudocode `TranslationTableWalkLD` (B3.19); ARMv8 adds hierarchical-permission
//! disables (TTBCR2.HPDn) and the address size fault.

use super::fault::{Cause, Fault};
use super::{Translation, Walker, World};
use crate::Features;
use crate::state::sys::{self, sctlr};

/// Bits 39:12, where addresses are; ARMv8 has bits 47:40 too, which must be 0.
pub(super) const ADDRESS: u64 = 0xff_ffff_f000;
pub(super) const ADDRESS_SIZE: u64 = 0xff00_0000_0000;

/// Where a walk begins.
struct Start {
    base: u64,
    /// Address bits that this table translates.
    input_bits: u32,
    /// Hierarchical permissions are off.
    flat: bool,
    /// A memory attribute indirection register pair.
    mair: u64,
}

/// A descriptor that maps memory.
struct Leaf {
    phys: u64,
    size_bits: u8,
    level: u8,
    /// Bits 54:52 and 11:2, tables' limits applied to AP, XN and PXN.
    descriptor: u64,
    /// A table on the way was Non-secure, or the entry is.
    non_secure: bool,
    mair: u64,
}

fn fault(cause: Cause, level: u8) -> Fault {
    Fault { cause, level, domain: 0, second: None }
}

fn start(w: &Walker, addr: u32) -> Result<Start, Fault> {
    let nowhere = fault(Cause::Translation, 1);
    if w.world == World::Hyp {
        let (size, base) = (w.state.u32_at(sys::HTCR) & 7, w.state.u64_at(sys::HTTBR));
        if size != 0 && addr >> (32 - size) != 0 {
            return Err(nowhere);
        }
        let mair = pair(w, sys::HMAIR0, sys::HMAIR1);
        return Ok(Start { base, input_bits: 32 - size, flat: false, mair });
    }
    let ttbcr = w.state.u32_at(sys::bank(sys::TTBCR, w.secure()));
    let (size0, size1) = (ttbcr & 7, ttbcr >> 16 & 7);
    let low = size0 == 0 || addr >> (32 - size0) == 0;
    let high = if size1 == 0 { !low } else { addr >> (32 - size1) == (1 << size1) - 1 };
    let (place, size, disabled, hpd) = match (low, high) {
        (_, true) => (sys::TTBR1, size1, ttbcr >> 23 & 1, 10),
        (true, false) => (sys::TTBR0, size0, ttbcr >> 7 & 1, 9),
        (false, false) => return Err(nowhere),
    };
    if disabled != 0 {
        return Err(nowhere);
    }
    let ttbcr2 = if ttbcr >> 6 & 1 != 0 { w.state.u32_at(sys::bank(sys::TTBCR2, w.secure())) } else { 0 };
    let mair = pair(w, sys::bank(sys::PRRR, w.secure()), sys::bank(sys::NMRR, w.secure()));
    let base = w.state.u64_at(sys::bank64(place, w.secure()));
    Ok(Start { base, input_bits: 32 - size, flat: ttbcr2 >> hpd & 1 != 0, mair })
}

fn pair(w: &Walker, low: u32, high: u32) -> u64 {
    w.state.u32_at(low) as u64 | (w.state.u32_at(high) as u64) << 32
}

fn find(w: &Walker, addr: u32) -> Result<Leaf, Fault> {
    let start = start(w, addr)?;
    let v8 = w.arm.features.has(Features::V8);
    let mut level = if start.input_bits > 30 { 1 } else { 2 };
    let mut shift = 39 - 9 * level as u32;
    // The first table may be smaller than a page.
    let mut index_bits = start.input_bits - shift;
    let mut table = start.base & 0xff_ffff_ffff & !((8 << index_bits) - 1);
    let mut limits = 0;
    let mut non_secure = !w.secure();
    if v8 && start.base & ADDRESS_SIZE != 0 {
        return Err(fault(Cause::AddressSize, 0));
    }
    loop {
        let index = (addr >> shift) as u64 & ((1 << index_bits) - 1);
        let d = w.descriptor(table | index << 3, 8, non_secure, fault(Cause::ExternalOnWalk, level))?;
        if d & 1 == 0 || level == 3 && d & 2 == 0 {
            return Err(fault(Cause::Translation, level));
        }
        if v8 && d & ADDRESS_SIZE != 0 {
            return Err(fault(Cause::AddressSize, level));
        }
        if level == 3 || d & 2 == 0 {
            let inside = (1u64 << shift) - 1;
            let phys = d & ADDRESS & !inside | addr as u64 & inside;
            return Ok(Leaf { phys, size_bits: shift as u8, level, descriptor: limited(d, limits), non_secure: non_secure || d >> 5 & 1 != 0, mair: start.mair });
        }
        if !start.flat {
            limits |= d >> 59 & 15;
        }
        non_secure |= d >> 63 != 0;
        table = d & ADDRESS;
        level += 1;
        shift -= 9;
        index_bits = 9;
    }
}

/// Applies the tables' PXNTable, XNTable and APTable (bits 0, 1, 3:2) to a descriptor.
fn limited(d: u64, limits: u64) -> u64 {
    let no_user = limits >> 2 & 1;
    d & !(no_user << 6) | (limits >> 3 & 1) << 7 | (limits & 3) << 53
}

/// Level and domain of the entry that maps `addr`, if one does.
pub(super) fn leaf(w: &Walker, addr: u32) -> Option<(u8, u8)> {
    find(w, addr).ok().map(|l| (l.level, 0))
}

pub(super) fn stage_1(w: &Walker, addr: u32) -> Result<Translation, Fault> {
    let leaf = find(w, addr)?;
    let d = leaf.descriptor;
    let bit = |n: u32| d >> n & 1 != 0;
    if !bit(10) {
        return Err(fault(Cause::AccessFlag, leaf.level));
    }
    let hyp = w.world == World::Hyp;
    let (unprivileged, read_only) = (bit(6), bit(7));
    let (pxn, xn) = (bit(53) && !hyp, bit(54));
    let control = w.control();
    // Hyp mode has one set of permissions: AP[1] is 1 there.
    let read = !w.user || unprivileged;
    let write = read && !read_only;
    let never = xn
        || !w.user && pxn
        || control & sctlr::WXN != 0 && write
        || control & sctlr::UWXN != 0 && !hyp && !w.user && unprivileged && !read_only;
    Ok(Translation {
        phys: leaf.phys,
        size_bits: leaf.size_bits,
        read,
        write,
        execute: read && !never,
        global: hyp || !bit(11),
        non_secure: leaf.non_secure,
        attributes: (leaf.mair >> (8 * (d >> 2 & 7))) as u8,
        shareability: (d >> 8 & 3) as u8,
    })
}
