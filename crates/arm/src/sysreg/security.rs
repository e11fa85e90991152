//! The Virtualization Extensions' registers, and what a hypervisor traps of the others.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.17.1, B1.14 (traps to Hyp mode), B4.1.
//!
//! A row of another chapter says which of these registers' bits trap it (`trap`, `memory`).
//!
//! **Not modelled**: HCPTR.TASE is stored; the traps of Jazelle and ThumbEE (HSTR.TJDBX, TTEE) do nothing.

use super::{Context, needs, sysregs, update_key};
use crate::exception::{HYP_VIRTUAL_ABORT, HYP_VIRTUAL_FIQ, HYP_VIRTUAL_IRQ};
use crate::state::sys::{self, hcr};
use crate::system::Conduit;
use crate::{Arm, Features};
use crate::system::regime;
use cpu::system::Flush;

sysregs! {
    HSCTLR [p15 4 c1 c0 0] PL2_RW .needs(needs::HYP) .at(sys::HSCTLR) .write(write_hsctlr);
    HACTLR [p15 4 c1 c0 1] PL2_RW .needs(needs::HYP);
    HACTLR2 [p15 4 c1 c0 3] PL2_RW .needs(needs::HYP | needs::V8);
    /// Bit 31 reads as one, as in QEMU; before ARMv8 it says nothing.
    HCR [p15 4 c1 c1 0] PL2_RW .needs(needs::HYP) .read(|c| (c.get(sys::HCR) | 1 << 31) as u64) .at(sys::HCR) .write(write_hcr);
    HDCR [p15 4 c1 c1 1] PL2_RW .needs(needs::HYP) .at(sys::HDCR) .mask(0xfff) .write(super::pmu::write_hdcr) .reset(|arm| {
        super::id::of_model(arm.model.name).pmcr as u64 >> 11 & 31
    });
    HCPTR [p15 4 c1 c1 2] PL2_RW .needs(needs::HYP) .at(sys::HCPTR) .write(write_hcptr);
    HSTR [p15 4 c1 c1 3] PL2_RW .needs(needs::HYP) .at(sys::HSTR);
    HCR2 [p15 4 c1 c1 4] PL2_RW .needs(needs::HYP | needs::V8) .at(sys::HCR2);
    HACR [p15 4 c1 c1 7] PL2_RW .needs(needs::HYP);
    HTCR [p15 4 c2 c0 2] PL2_RW .needs(needs::HYP) .at(sys::HTCR) .write(|c, v| flushed(c, sys::HTCR, v));
    VTCR [p15 4 c2 c1 2] PL2_RW .needs(needs::HYP) .at(sys::VTCR) .write(|c, v| flushed(c, sys::VTCR, v));
    HTTBR [q15 4 c2] PL2_RW .needs(needs::HYP) .at64(sys::HTTBR);
    VTTBR [q15 6 c2] PL2_RW .needs(needs::HYP) .at64(sys::VTTBR);
    HADFSR [p15 4 c5 c1 0] PL2_RW .needs(needs::HYP);
    HAIFSR [p15 4 c5 c1 1] PL2_RW .needs(needs::HYP);
    HSR [p15 4 c5 c2 0] PL2_RW .needs(needs::HYP) .at(sys::HSR);
    VDFSR [p15 4 c5 c2 3] PL2_RW .needs(needs::HYP | needs::V8);
    HDFAR [p15 4 c6 c0 0] PL2_RW .needs(needs::HYP) .at(sys::HDFAR);
    HIFAR [p15 4 c6 c0 2] PL2_RW .needs(needs::HYP) .at(sys::HIFAR);
    HPFAR [p15 4 c6 c0 4] PL2_RW .needs(needs::HYP) .at(sys::HPFAR);
    HMAIR0 [p15 4 c10 c2 0] PL2_RW .needs(needs::HYP) .at(sys::HMAIR0);
    HMAIR1 [p15 4 c10 c2 1] PL2_RW .needs(needs::HYP) .at(sys::HMAIR1);
    HAMAIR0 [p15 4 c10 c3 0] PL2_RW .needs(needs::HYP);
    HAMAIR1 [p15 4 c10 c3 1] PL2_RW .needs(needs::HYP);
    HVBAR [p15 4 c12 c0 0] PL2_RW .needs(needs::HYP) .at(sys::HVBAR) .mask(0xffff_ffe0);
}

/// HSR of a trapped MCR or MRC of CP15, before the operands are filled in: exception class and instruction length.
const TRAP_CP15: u32 = 0x03 << 26 | 1 << 25;
/// The same of MCRR and MRRC.
const TRAP_CP15_WIDE: u32 = 0x04 << 26 | 1 << 25;
/// The same of CP14.
const TRAP_CP14: u32 = 0x05 << 26 | 1 << 25;
const TRAP_CP14_WIDE: u32 = 0x0c << 26 | 1 << 25;

fn flushed(c: &mut Context, offset: u32, value: u64) {
    c.set(offset, value as u32);
    c.env.flush(Flush::All { regimes: super::tlb::ALL }, false);
}

fn write_hsctlr(c: &mut Context, value: u64) {
    c.set(sys::HSCTLR, value as u32);
    c.env.flush(Flush::All { regimes: 1 << regime::HYP }, false);
    update_key(c.arm, c.state);
}

/// Bits of HCR that there are.
fn hcr_bits(arm: &Arm) -> u32 {
    let all = if arm.features.has(Features::V8) { !0 } else { 0x0fff_ffff };
    match arm.options {
        Some(o) if o.secure => all & !hcr::HCD,
        // The built-in firmware takes the place of EL3.
        Some(o) if o.conduit == Conduit::Smc => all,
        _ => all & !hcr::TSC,
    }
}

fn write_hcr(c: &mut Context, value: u64) {
    let (old, new) = (c.get(sys::HCR), value as u32 & hcr_bits(c.arm));
    c.set(sys::HCR, new);
    if (old ^ new) & (hcr::VM | hcr::PTW | hcr::DC | hcr::TGE) != 0 {
        c.env.flush(Flush::All { regimes: super::tlb::ALL }, false);
    }
    for (bit, input) in [(hcr::VI, HYP_VIRTUAL_IRQ), (hcr::VF, HYP_VIRTUAL_FIQ), (hcr::VA, HYP_VIRTUAL_ABORT)] {
        if (old ^ new) & bit != 0 {
            c.env.set_input(input.trailing_zeros(), new & bit != 0);
        }
    }
    update_key(c.arm, c.state);
}

fn write_hcptr(c: &mut Context, value: u64) {
    c.set(sys::HCPTR, value as u32);
    update_key(c.arm, c.state);
}

/// HSR for a trapped access.
pub fn trap_syndrome(word: u32) -> u32 {
    let (rt, rt2, crm) = (word >> 12 & 15, word >> 16 & 15, word & 15);
    let read = word >> 20 & 1;
    // The condition is said to be valid and "always".
    let condition = 1 << 24 | 14 << 20;
    let cp14 = word >> 8 & 15 == 14;
    if word >> 24 & 15 == 14 {
        let operands = (word >> 5 & 7) << 17 | (word >> 21 & 7) << 14 | (word >> 16 & 15) << 10;
        let class = if cp14 { TRAP_CP14 } else { TRAP_CP15 };
        class | condition | operands | rt << 5 | crm << 1 | read
    } else {
        let class = if cp14 { TRAP_CP14_WIDE } else { TRAP_CP15_WIDE };
        class | condition | (word >> 4 & 15) << 16 | rt2 << 10 | rt << 5 | crm << 1 | read
    }
}

/// CRm of the registers that HCR.TIDCP traps, for CRn 9, 10 and 11: what implementations define.
const TIDCP: [u32; 3] = [0x01e7, 0x0113, 0x81ff];

/// Accesses of a guest to CP15 that are trapped by number: HSTR, by CRn (CRm of 64-bit registers); HCR.TIDCP.
pub fn trapped_by_number(c: &Context) -> bool {
    if c.word >> 8 & 15 != 15 {
        return false;
    }
    let narrow = c.word >> 24 & 15 == 14;
    let number = if narrow { c.crn } else { c.crm };
    // T4 and T14 do not exist.
    if number != 4 && number != 14 && c.get(sys::HSTR) >> number & 1 != 0 {
        return true;
    }
    let defined = narrow && (9..=11).contains(&number) && TIDCP[number as usize - 9] >> c.crm & 1 != 0;
    defined && crate::mmu::effective_hcr(c.arm, c.state) & hcr::TIDCP != 0
}
