//! The Virtualization Extensions' registers, and what a hypervisor traps of the others.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.17.1, B1.14 (traps to Hyp mode), B4.1.
//!
//! **Not modelled**: the second stage of translation; traps by HCR (TIDx, TSC, TTLB, TVM ...), HDCR and HCPTR.TCPAC: the
//! registers are stored.

use super::{Context, Refused, needs, sysregs, update_key};
use crate::Arm;
use crate::mmu::World;
use crate::state::sys;
use crate::system::regime;
use cpu::system::Flush;
use ir::State;

sysregs! {
    HSCTLR [p15 4 c1 c0 0] PL2_RW .needs(needs::HYP) .at(sys::HSCTLR) .write(write_hsctlr) .reset(|_| HSCTLR_RESET);
    HACTLR [p15 4 c1 c0 1] PL2_RW .needs(needs::HYP);
    HACTLR2 [p15 4 c1 c0 3] PL2_RW .needs(needs::HYP | needs::V8);
    HCR [p15 4 c1 c1 0] PL2_RW .needs(needs::HYP) .at(sys::HCR) .write(write_hcr);
    HDCR [p15 4 c1 c1 1] PL2_RW .needs(needs::HYP) .at(sys::HDCR) .mask(0xfff) .reset(|arm| {
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

/// HSCTLR's bits that are one.
const HSCTLR_RESET: u64 = 0x30c5_0878;

/// HSR of a trapped MCR or MRC of CP15, before the operands are filled in: exception class and instruction length.
pub const TRAP_CP15: u32 = 0x03 << 26 | 1 << 25;
/// The same of MCRR and MRRC.
const TRAP_CP15_WIDE: u32 = 0x04 << 26 | 1 << 25;

/// HCPTR bits that exist with floating point: TCPAC, TTA, TASE, TCP11, TCP10.
const HCPTR_BITS: u32 = 0x8010_8c00;

fn flushed(c: &mut Context, offset: u32, value: u64) {
    c.set(offset, value as u32);
    c.env.flush(Flush::All { regimes: super::tlb::ALL }, false);
}

fn write_hsctlr(c: &mut Context, value: u64) {
    c.set(sys::HSCTLR, value as u32);
    c.env.flush(Flush::All { regimes: 1 << regime::HYP }, false);
    update_key(c.arm, c.state);
}

fn write_hcr(c: &mut Context, value: u64) {
    flushed(c, sys::HCR, value);
}

fn write_hcptr(c: &mut Context, value: u64) {
    c.set(sys::HCPTR, value as u32 & HCPTR_BITS);
    update_key(c.arm, c.state);
}

/// HSR for a trapped access.
pub fn trap_syndrome(word: u32) -> u32 {
    let (rt, rt2, crm) = (word >> 12 & 15, word >> 16 & 15, word & 15);
    let read = word >> 20 & 1;
    // The condition is said to be valid and "always".
    let condition = 1 << 24 | 14 << 20;
    if word >> 24 & 15 == 14 {
        let operands = (word >> 5 & 7) << 17 | (word >> 21 & 7) << 14 | (word >> 16 & 15) << 10;
        TRAP_CP15 | condition | operands | rt << 5 | crm << 1 | read
    } else {
        TRAP_CP15_WIDE | condition | (word >> 4 & 15) << 16 | rt2 << 10 | rt << 5 | crm << 1 | read
    }
}

/// HSTR: accesses of Non-secure PL1 and PL0 to CP15 registers with this CRn (CRm of 64-bit ones).
pub fn trapped(arm: &Arm, state: &State, level: u8, word: u32) -> Result<(), Refused> {
    let guest = arm.has_virtualization() && level < 2 && crate::mmu::world(state.u64_at(ir::state::KEY)) == World::NonSecure;
    if !guest || word >> 8 & 15 != 15 {
        return Ok(());
    }
    let number = if word >> 24 & 15 == 14 { word >> 16 & 15 } else { word & 15 };
    // T4 and T14 do not exist.
    if number != 4 && number != 14 && state.u32_at(sys::HSTR) >> number & 1 != 0 {
        return Err(Refused::Hyp(trap_syndrome(word)));
    }
    Ok(())
}
