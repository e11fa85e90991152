//! CP14: debug registers, as far as software asks for them, and the leftovers of ThumbEE and Jazelle.
//!
//! **Reference.** Arm ARM (DDI 0406C) C6.4 (access), C11.11 (by name).
//!
//! **Not modelled**: monitor-mode breakpoints and watchpoints never match (their registers are storage); the debug
//! communications channel has nobody at the other end; the OS save and restore sequence.

use super::id::of_model;
use super::{Context, Refused, needs, sysregs};
use crate::state::sys::{self, hcr, hdcr};

sysregs! {
    DBGDIDR [p14 0 c0 c0 0] PL0_R .read(|c| of_model(c.arm.model.name).dbgdidr as u64) .trap(sys::HDCR, hdcr::TDA);
    /// User mode is kept out, as if UDCCdis were set.
    DBGDSCRINT [p14 0 c0 c1 0] PL1_R .at(sys::DBGDSCR) .trap(sys::HDCR, hdcr::TDA);
    DBGDSCREXT [p14 0 c0 c2 2] PL1_RW .at(sys::DBGDSCR) .trap(sys::HDCR, hdcr::TDA);
    DBGDCCINT [p14 0 c0 c2 0] PL1_RW .trap(sys::HDCR, hdcr::TDA);
    DBGDTRRXEXT [p14 0 c0 c0 2] PL1_RW .trap(sys::HDCR, hdcr::TDA);
    DBGDTRTXEXT [p14 0 c0 c3 2] PL1_RW .trap(sys::HDCR, hdcr::TDA);
    DBGDTRRXINT [p14 3 c0 c5 0] PL0_RW .trap(sys::HDCR, hdcr::TDA);
    DBGOSECCR [p14 0 c0 c6 2] PL1_RW .trap(sys::HDCR, hdcr::TDA);
    DBGVCR [p14 0 c0 c7 0] PL1_RW .trap(sys::HDCR, hdcr::TDA);
    DBGBVR [p14 0 c0 any 4] PL1_RW .check(breakpoint) .read(|c| storage(c, sys::DBGBVR)) .write(|c, v| store(c, sys::DBGBVR, v as u32)) .trap(sys::HDCR, hdcr::TDA);
    DBGBCR [p14 0 c0 any 5] PL1_RW .check(breakpoint) .read(|c| storage(c, sys::DBGBCR)) .write(|c, v| store(c, sys::DBGBCR, v as u32)) .trap(sys::HDCR, hdcr::TDA);
    DBGWVR [p14 0 c0 any 6] PL1_RW .check(watchpoint) .read(|c| storage(c, sys::DBGWVR)) .write(|c, v| store(c, sys::DBGWVR, v as u32 & !3)) .trap(sys::HDCR, hdcr::TDA);
    DBGWCR [p14 0 c0 any 7] PL1_RW .check(watchpoint) .read(|c| storage(c, sys::DBGWCR)) .write(|c, v| store(c, sys::DBGWCR, v as u32)) .trap(sys::HDCR, hdcr::TDA);
    DBGDRAR [p14 0 c1 c0 0] PL0_R .trap(sys::HDCR, hdcr::TDRA);
    DBGDRAR_64 [q14 0 c1] PL0_R .needs(needs::LPAE) .trap(sys::HDCR, hdcr::TDRA);
    DBGOSLAR [p14 0 c1 c0 4] PL1_W .write(|c, v| c.set(sys::DBGOSLOCK, (v as u32 == OS_LOCK_KEY) as u32)) .trap(sys::HDCR, hdcr::TDOSA);
    DBGOSLSR [p14 0 c1 c1 4] PL1_R .read(|c| OSLM | (c.get(sys::DBGOSLOCK) as u64) << 1) .trap(sys::HDCR, hdcr::TDOSA);
    DBGOSDLR [p14 0 c1 c3 4] PL1_RW .at(sys::DBGOSDLR) .mask(1) .trap(sys::HDCR, hdcr::TDOSA);
    DBGDSAR [p14 0 c2 c0 0] PL0_R .trap(sys::HDCR, hdcr::TDRA);
    DBGDSAR_64 [q14 0 c2] PL0_R .needs(needs::LPAE) .trap(sys::HDCR, hdcr::TDRA);
    DBGDEVID2 [p14 0 c7 c0 0] PL1_R .trap(sys::HDCR, hdcr::TDA);
    DBGDEVID1 [p14 0 c7 c0 1] PL1_R .read(|c| of_model(c.arm.model.name).dbgdevid1 as u64) .trap(sys::HDCR, hdcr::TDA);
    DBGDEVID [p14 0 c7 c0 2] PL1_R .read(|c| of_model(c.arm.model.name).dbgdevid as u64) .trap(sys::HDCR, hdcr::TDA);
    DBGCLAIMSET [p14 0 c7 c8 6] PL1_RW .read(|_| 0xff) .write(|c, v| c.set(sys::DBGCLAIM, c.get(sys::DBGCLAIM) | v as u32 & 0xff)) .trap(sys::HDCR, hdcr::TDA);
    DBGCLAIMCLR [p14 0 c7 c9 6] PL1_RW .at(sys::DBGCLAIM) .write(|c, v| c.set(sys::DBGCLAIM, c.get(sys::DBGCLAIM) & !(v as u32))) .trap(sys::HDCR, hdcr::TDA);
    TEECR [p14 6 c0 c0 0] PL1_RW .needs(needs::V7) .at(sys::TEECR) .mask(1);
    TEEHBR [p14 6 c1 c0 0] PL0_RW .needs(needs::V7) .at(sys::TEEHBR) .check(teehbr_allowed) .mask(0xffff_fffc);
    JIDR [p14 7 c0 c0 0] PL1_R .trap(sys::HCR, hcr::TID0);
    JOSCR [p14 7 c1 c0 0] PL1_RW;
    JMCR [p14 7 c2 c0 0] PL1_RW;
}

/// What unlocks and locks by DBGOSLAR: this locks, all else unlocks.
const OS_LOCK_KEY: u32 = 0xc5ac_ce55;
/// DBGOSLSR: the OS Lock is there (OSLM 0b10).
const OSLM: u64 = 8;
/// Breakpoints and watchpoints, as DBGDIDR of our models says.
const BREAKPOINTS: u8 = 6;
const WATCHPOINTS: u8 = 4;

fn breakpoint(c: &Context, _: bool) -> Result<(), Refused> {
    if c.crm < BREAKPOINTS { Ok(()) } else { Err(Refused::Undefined) }
}

fn watchpoint(c: &Context, _: bool) -> Result<(), Refused> {
    if c.crm < WATCHPOINTS { Ok(()) } else { Err(Refused::Undefined) }
}

fn storage(c: &Context, first: u32) -> u64 {
    c.get(first + 4 * c.crm as u32) as u64
}

fn store(c: &mut Context, first: u32, value: u32) {
    c.set(first + 4 * c.crm as u32, value);
}

/// TEECR.XED keeps user mode out.
fn teehbr_allowed(c: &Context, _: bool) -> Result<(), Refused> {
    if c.level == 0 && c.get(sys::TEECR) & 1 != 0 { Err(Refused::Undefined) } else { Ok(()) }
}
