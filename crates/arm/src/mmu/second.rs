//! The second stage of translation: from a guest's intermediate physical addresses to physical ones.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.6.6 (VTCR, VTTBR), B3.7.3 (permissions), B3.8.7 (attributes combined); DDI 0487 D8.4
//! (ARMv8.2's execute-never for one privilege level).

use super::fault::{Cause, Fault, Second};
use super::long::{ADDRESS, ADDRESS_SIZE};
use super::{Translation, Walker};
use crate::Features;
use crate::state::sys;

/// Bits that an intermediate physical address may have.
const IPA_BITS: u32 = 40;
/// An entry point of the tables that is not allowed for the size of the input is reported as of this level.
const NO_LEVEL: u8 = 0;

/// What the second stage makes of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapped {
    pub phys: u64,
    pub size_bits: u8,
    pub level: u8,
    pub read: bool,
    pub write: bool,
    pub execute: bool,
    /// MemAttr and SH of the descriptor.
    pub attributes: u8,
    pub shareability: u8,
}

impl Mapped {
    /// Device or Strongly-ordered memory.
    pub fn is_device(&self) -> bool {
        self.attributes >> 2 == 0
    }
}

/// Where a walk begins: level and log2 of the size of the address space.
fn start(vtcr: u32) -> Option<(u8, u32)> {
    // T0SZ is a signed number of four bits.
    let size = ((vtcr as i32) << 28) >> 28;
    let input_bits = 32u32.wrapping_add_signed(-size);
    match vtcr >> 6 & 3 {
        // Up to sixteen tables next to each other.
        0 if (22..=34).contains(&input_bits) => Some((2, input_bits)),
        1 if (31..=IPA_BITS).contains(&input_bits) => Some((1, input_bits)),
        _ => None,
    }
}

/// Walks the tables for `ipa`; `on_walk` says that it is a descriptor's address.
pub fn walk(w: &Walker, ipa: u64, on_walk: bool) -> Result<Mapped, Fault> {
    let fault = |cause, level| Fault { cause, level, domain: 0, second: Some(Second { ipa, on_walk }) };
    let v8 = w.arm.features.has(Features::V8);
    let (first, input_bits) = start(w.state.u32_at(sys::VTCR)).ok_or(fault(Cause::Translation, NO_LEVEL))?;
    if ipa >> input_bits != 0 {
        return Err(fault(Cause::Translation, 1));
    }
    let base = w.state.u64_at(sys::VTTBR);
    let (mut level, mut shift) = (first, 39 - 9 * first as u32);
    let mut index_bits = input_bits - shift;
    if v8 && base & ADDRESS_SIZE != 0 {
        return Err(fault(Cause::AddressSize, 0));
    }
    let mut table = base & 0xff_ffff_ffff & !((8 << index_bits) - 1);
    loop {
        let at = table | (ipa >> shift & ((1 << index_bits) - 1)) << 3;
        let raw = w.mem.read(at, 8).ok_or(fault(Cause::ExternalOnWalk, level))?;
        let d = if w.state.u32_at(sys::HSCTLR) & sys::sctlr::EE != 0 { raw.swap_bytes() } else { raw };
        if d & 1 == 0 || level == 3 && d & 2 == 0 {
            return Err(fault(Cause::Translation, level));
        }
        if v8 && d & ADDRESS_SIZE != 0 {
            return Err(fault(Cause::AddressSize, level));
        }
        if level < 3 && d & 2 != 0 {
            (table, level, shift, index_bits) = (d & ADDRESS, level + 1, shift - 9, 9);
            continue;
        }
        if d >> 10 & 1 == 0 {
            return Err(fault(Cause::AccessFlag, level));
        }
        let inside = (1u64 << shift) - 1;
        let read = d >> 6 & 1 != 0;
        return Ok(Mapped {
            phys: d & ADDRESS & !inside | ipa & inside,
            size_bits: shift as u8,
            level,
            read,
            write: d >> 7 & 1 != 0,
            execute: may_execute(w, v8, d, read),
            attributes: (d >> 2 & 15) as u8,
            shareability: (d >> 8 & 3) as u8,
        });
    }
}

/// XN\[1:0\] at bits 54 and 53, of which ARMv7 has the upper one and needs the permission to read as well.
fn may_execute(w: &Walker, v8: bool, d: u64, read: bool) -> bool {
    match (v8, d >> 53 & 3) {
        (false, xn) => read && xn & 2 == 0,
        (true, 0) => true,
        (true, 1) => w.user,
        (true, 2) => false,
        (true, _) => !w.user,
    }
}

/// The translation of both stages.
pub fn combine(first: Translation, second: &Mapped) -> Translation {
    let (attributes, device) = combine_attributes(first.attributes, second.attributes);
    let both = [first.shareability, second.shareability];
    let shareability = match () {
        _ if device || attributes == 0x44 || both.contains(&2) => 2,
        _ if both.contains(&3) => 3,
        _ => 0,
    };
    Translation {
        phys: second.phys,
        // Maintenance is by virtual address: the first stage's entry counts.
        size_bits: first.size_bits,
        read: first.read && second.read,
        write: first.write && second.write,
        execute: first.execute && second.execute,
        global: first.global,
        non_secure: true,
        attributes,
        shareability,
    }
}

/// A MAIR byte of the first stage with MemAttr of the second: the weaker memory counts. Whether it is Device memory.
fn combine_attributes(first: u8, second: u8) -> (u8, bool) {
    let (device_1, device_2) = (first & 0xf0 == 0, second >> 2 == 0);
    if device_1 || device_2 {
        // nGnRnE, nGnRE, nGRE, GRE: the MAIR byte has them at bits 3:2.
        let kind = match (device_1, device_2) {
            (true, true) => (first >> 2 & 3).min(second & 3),
            (true, false) => first >> 2 & 3,
            _ => second & 3,
        };
        return (kind << 2, true);
    }
    let half = |one: u8, two: u8| match (one, two) {
        (4, _) | (_, 1) => 4,
        // Write-through, with the first stage's allocation hints.
        (one, 2) => one & 3 | 8,
        (one, _) if one & 0xc == 0 || one & 0xc == 8 => one & 3 | 8,
        (one, _) => one & 3 | 0xc,
    };
    (half(first >> 4, second >> 2) << 4 | half(first & 15, second & 3), false)
}
