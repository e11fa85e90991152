//! The short-descriptor translation tables: sections, supersections, large and small pages.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.5, pseudocode `TranslationTableWalkSD`, `CheckDomain`, `CheckPermission` (B3.19).

use super::fault::{Cause, Fault};
use super::{Translation, Walker};
use crate::Features;
use crate::state::sys::{self, sctlr};

/// A descriptor that maps memory.
struct Leaf {
    phys: u64,
    size_bits: u8,
    /// 1 or 2.
    level: u8,
    domain: u8,
    /// AP\[2:0\].
    ap: u32,
    xn: bool,
    pxn: bool,
    global: bool,
    non_secure: bool,
}

fn fault(cause: Cause, level: u8, domain: u8) -> Fault {
    Fault { cause, level, domain, second: None }
}

/// The first-level table that covers `addr`, as the address of its entry.
fn first_level_entry(w: &Walker, addr: u32) -> Option<u64> {
    let ttbcr = w.state.u32_at(sys::bank(sys::TTBCR, w.secure()));
    let n = ttbcr & 7;
    let low = n == 0 || addr >> (32 - n) == 0;
    let (place, n, disabled) = if low { (sys::TTBR0, n, ttbcr >> 4 & 1) } else { (sys::TTBR1, 0, ttbcr >> 5 & 1) };
    if disabled != 0 {
        return None;
    }
    let ttbr = w.state.u64_at(sys::bank64(place, w.secure())) as u32;
    let base = ttbr & !(0x3fff >> n);
    Some((base | addr >> 20 << 2) as u64)
}

fn find(w: &Walker, addr: u32) -> Result<Leaf, Fault> {
    let entry = first_level_entry(w, addr).ok_or(fault(Cause::Translation, 1, 0))?;
    let d = w.descriptor(entry, 4, !w.secure(), fault(Cause::ExternalOnWalk, 1, 0))? as u32;
    let domain = (d >> 5 & 15) as u8;
    // Bit 0 of a section is PXN in implementations of the Large Physical Address Extension; in others it must be 0.
    let has_pxn = w.arm.features.has(Features::LPAE);
    match d & 3 {
        1 => second_level(w, addr, d, domain),
        2 | 3 if d & 1 == 0 || has_pxn => Ok(section(addr, d, domain)),
        _ => Err(fault(Cause::Translation, 1, 0)),
    }
}

fn section(addr: u32, d: u32, domain: u8) -> Leaf {
    let super_section = d >> 18 & 1 != 0;
    let (phys, size_bits) = if super_section {
        let high = (d as u64 >> 20 & 15) << 32 | (d as u64 >> 5 & 15) << 36;
        (high | (d & 0xff00_0000 | addr & 0x00ff_ffff) as u64, 24)
    } else {
        ((d & 0xfff0_0000 | addr & 0x000f_ffff) as u64, 20)
    };
    Leaf {
        phys,
        size_bits,
        level: 1,
        domain: if super_section { 0 } else { domain },
        ap: d >> 10 & 3 | (d >> 15 & 1) << 2,
        xn: d >> 4 & 1 != 0,
        pxn: d & 1 != 0,
        global: d >> 17 & 1 == 0,
        non_secure: d >> 19 & 1 != 0,
    }
}

fn second_level(w: &Walker, addr: u32, table: u32, domain: u8) -> Result<Leaf, Fault> {
    let entry = table & !0x3ff | (addr >> 12 & 0xff) << 2;
    let d = w.descriptor(entry as u64, 4, !w.secure(), fault(Cause::ExternalOnWalk, 2, domain))? as u32;
    let (phys, size_bits, xn) = match d & 3 {
        0 => return Err(fault(Cause::Translation, 2, domain)),
        1 => (d & 0xffff_0000 | addr & 0xffff, 16, d >> 15 & 1),
        _ => (d & 0xffff_f000 | addr & 0xfff, 12, d & 1),
    };
    Ok(Leaf {
        phys: phys as u64,
        size_bits,
        level: 2,
        domain,
        ap: d >> 4 & 3 | (d >> 9 & 1) << 2,
        xn: xn != 0,
        pxn: table >> 2 & 1 != 0,
        global: d >> 11 & 1 == 0,
        non_secure: table >> 3 & 1 != 0,
    })
}

/// Level and domain of the entry that maps `addr`, if one does.
pub(super) fn leaf(w: &Walker, addr: u32) -> Option<(u8, u8)> {
    find(w, addr).ok().map(|l| (l.level, l.domain))
}

pub(super) fn walk(w: &Walker, addr: u32) -> Result<Translation, Fault> {
    let leaf = find(w, addr)?;
    let control = w.control();
    if control & sctlr::AFE != 0 && leaf.ap & 1 == 0 {
        return Err(fault(Cause::AccessFlag, leaf.level, leaf.domain));
    }
    let (read, write, execute) = match w.dacr >> (2 * leaf.domain) & 3 {
        0b01 => permissions(w, &leaf, control),
        // Manager: nothing is checked.
        0b11 => (true, true, true),
        _ => return Err(fault(Cause::Domain, leaf.level, leaf.domain)),
    };
    Ok(Translation {
        phys: leaf.phys,
        size_bits: leaf.size_bits,
        read,
        write,
        execute,
        global: leaf.global,
        non_secure: leaf.non_secure || !w.secure(),
        attributes: 0,
        shareability: 0,
    })
}

fn permissions(w: &Walker, leaf: &Leaf, control: u32) -> (bool, bool, bool) {
    // With the access flag, AP[0] is not part of the permissions.
    let ap = if control & sctlr::AFE != 0 { leaf.ap | 1 } else { leaf.ap };
    let (kernel, user) = match ap {
        0b000 | 0b100 => ((false, false), (false, false)),
        0b001 => ((true, true), (false, false)),
        0b010 => ((true, true), (true, false)),
        0b011 => ((true, true), (true, true)),
        0b101 => ((true, false), (false, false)),
        _ => ((true, false), (true, false)),
    };
    let (read, write) = if w.user { user } else { kernel };
    let never = leaf.xn
        || !w.user && leaf.pxn
        || control & sctlr::WXN != 0 && write
        || control & sctlr::UWXN != 0 && !w.user && user.1;
    (read, write, read && !never)
}
