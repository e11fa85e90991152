//! System control: SCTLR, coprocessor access, vectors, Security Extensions' registers, thread identifiers.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.17.1, B4.1.
//!
//! **Not modelled**: bits of SCTLR that control caches and branch prediction are only stored; ACTLR reads as zero.

use super::{Context, needs, sysregs};
use crate::mmu::effective_hcr;
use crate::state::bank::{self, mode};
use crate::state::sys::{self, hcptr, hcr, scr, sctlr};
use crate::state::{self, key};
use crate::{Arm, Features, exception};
use cpu::system::Flush;
use ir::State;

sysregs! {
    SCTLR [p15 0 c1 c0 0] PL1_RW .banked(sys::SCTLR) .write(write_sctlr) .reset(reset_sctlr) .plain_read() .memory();
    ACTLR [p15 0 c1 c0 1] PL1_RW .trap(sys::HCR, hcr::TAC);
    ACTLR2 [p15 0 c1 c0 3] PL1_RW .needs(needs::V8) .trap(sys::HCR, hcr::TAC);
    CPACR [p15 0 c1 c0 2] PL1_RW .at(sys::CPACR) .write(write_cpacr) .plain_read() .trap(sys::HCPTR, hcptr::TCPAC);
    SCR [p15 0 c1 c1 0] PL3_RW .needs(needs::SECURITY) .at(sys::SCR) .write(|c, v| set_scr(c.arm, c.state, v as u32));
    SDER [p15 0 c1 c1 1] PL3_RW .needs(needs::SECURITY) .at(sys::SDER) .mask(3);
    NSACR [p15 0 c1 c1 2] PL1_R_PL3_RW .needs(needs::SECURITY) .at(sys::NSACR) .write(write_nsacr);
    NSACR_8 [p15 0 c1 c1 2] PL1_R .needs(needs::V8 | needs::NO_SECURITY) .read(|_| NSACR_FP as u64);
    SDCR [p15 0 c1 c3 1] PL3_RW .needs(needs::V8 | needs::SECURITY);
    VBAR [p15 0 c12 c0 0] PL1_RW .banked(sys::VBAR) .mask(0xffff_ffe0) .plain_read();
    MVBAR [p15 0 c12 c0 1] PL3_RW .needs(needs::SECURITY) .at(sys::MVBAR) .mask(0xffff_ffe0);
    RVBAR [p15 0 c12 c0 1] PL1_R .needs(needs::V8 | needs::NO_SECURITY);
    RMR [p15 0 c12 c0 2] PL1_R .needs(needs::V8);
    ISR [p15 0 c12 c1 0] PL1_R .read(isr);
    /// There are no deferred errors.
    DISR [p15 0 c12 c1 1] PL1_RW .needs(needs::V8);
    /// FCSE is not there.
    FCSEIDR [p15 0 c13 c0 0] PL1_RW;
    TPIDRURW [p15 0 c13 c0 2] PL0_RW .at(state::TPIDRURW) .plain();
    TPIDRURO [p15 0 c13 c0 3] PL1_RW_PL0_R .at(state::TPIDRURO) .plain();
    TPIDRPRW [p15 0 c13 c0 4] PL1_RW .banked(sys::TPIDRPRW) .plain();
    HTPIDR [p15 4 c13 c0 2] PL2_RW .needs(needs::HYP) .at(sys::HTPIDR);
    /// L2 control of the Cortex-A7 and A15; ARMv8 cores keep it.
    L2CTLR [p15 1 c9 c0 2] PL1_RW .read(l2ctlr) .write(|_, _| ());
    L2ECTLR [p15 1 c9 c0 3] PL1_RW;
    L2ACTLR [p15 1 c15 c0 0] PL1_RW .needs(needs::V8);
    CPUACTLR [q15 0 c15] PL1_RW .needs(needs::V8);
    CPUECTLR [q15 1 c15] PL1_RW .needs(needs::V8);
    CPUMERRSR [q15 2 c15] PL1_RW .needs(needs::V8);
    L2MERRSR [q15 3 c15] PL1_RW .needs(needs::V8);
}

/// NSACR.cp10 and cp11.
const NSACR_FP: u32 = 0xc00;
/// CPACR.cp10 and cp11, ASEDIS, D32DIS.
const CPACR_FP: u32 = 0xf << 20;
const CPACR_ASEDIS: u32 = 1 << 31;
const CPACR_D32DIS: u32 = 1 << 30;

fn reset_sctlr(arm: &Arm) -> u64 {
    let high = arm.options.is_some_and(|o| o.high_vectors);
    (super::id::of_model(arm.model.name).sctlr | if high { sctlr::V } else { 0 }) as u64
}

fn write_sctlr(c: &mut Context, value: u64) {
    let (old, new) = (c.banked(sys::SCTLR), value as u32);
    c.set_banked(sys::SCTLR, new);
    if (old ^ new) & (sctlr::M | sctlr::WXN | sctlr::UWXN | sctlr::EE | sctlr::TRE | sctlr::AFE) != 0 {
        c.env.flush(Flush::All { regimes: super::tlb::ALL }, false);
    }
    update_key(c.arm, c.state);
}

fn write_cpacr(c: &mut Context, value: u64) {
    let features = c.arm.features;
    let mut value = value as u32;
    if !features.has(Features::V8) {
        let has = |f, bits| if features.has(f) { bits } else { 0 };
        // The disables have no effect.
        value &= has(Features::VFP2, CPACR_FP) | has(Features::NEON, CPACR_ASEDIS) | has(Features::D32, CPACR_D32DIS);
    }
    if c.arm.has_security() && c.level != 3 && c.get(sys::NSACR) >> 10 & 1 == 0 {
        value = value & !CPACR_FP | c.get(sys::CPACR) & CPACR_FP;
    }
    c.set(sys::CPACR, value);
    update_key(c.arm, c.state);
}

fn write_nsacr(c: &mut Context, value: u64) {
    c.set(sys::NSACR, value as u32 & (NSACR_FP | 0xc000));
    update_key(c.arm, c.state);
}

/// Writes SCR, as MCR and exceptions taken in Monitor mode do: changes the bank of registers, and with it the key.
pub fn set_scr(arm: &Arm, state: &mut State, value: u32) {
    let hyp = if arm.has_virtualization() { scr::SCD | scr::HCE } else { 0 };
    let (old, new) = (state.u32_at(sys::SCR), value & (0x7f | hyp));
    state.set_u32(sys::SCR, new);
    if (old ^ new) & scr::NS != 0 {
        for (current, other) in
            [(state::TPIDRURW, sys::TPIDRURW_OTHER), (state::TPIDRURO, sys::TPIDRURO_OTHER)]
        {
            let (a, b) = (state.u32_at(current), state.u32_at(other));
            state.set_u32(current, b);
            state.set_u32(other, a);
        }
    }
    update_key(arm, state);
}

/// With translation off all memory is Strongly-ordered, where accesses must be aligned as well.
///
/// The bits of the key that system registers decide, in a mode: SECURE, NO_FP, ALIGN, DOMAINS. An exception or a change of
/// mode puts them into the key together with the mode.
pub fn key_bits(arm: &Arm, state: &State, mode: u32) -> u64 {
    let secure = arm.has_security() && (mode == mode::MON || state.u32_at(sys::SCR) & scr::NS == 0);
    let hyp = mode == mode::HYP;
    let control = if hyp { state.u32_at(sys::HSCTLR) } else { state.u32_at(sys::bank(sys::SCTLR, secure)) };
    let domains = !arm.has_virtualization() && state.u32_at(sys::bank(sys::DACR_CURRENT, secure)) != 0;
    let bit = |on: bool, bit: u64| if on { bit } else { 0 };
    // A hypervisor may say otherwise.
    let normal = !secure && !hyp && effective_hcr(arm, state) & (hcr::VM | hcr::DC) != 0;
    bit(secure, key::SECURE)
        | bit(control & sctlr::A != 0 || control & sctlr::M == 0 && !normal, key::ALIGN)
        | bit(domains, key::DOMAINS)
        | bit(!fp_enabled(arm, state, mode, secure), key::NO_FP)
}

/// Whether FPEXC, CPACR, NSACR and HCPTR allow floating point.
fn fp_enabled(arm: &Arm, state: &State, mode: u32, secure: bool) -> bool {
    state.u32_at(bank::FPEXC) & bank::FPEXC_EN != 0 && fp_allowed(arm, state, mode, secure)
}

/// The same without FPEXC, which VFP's own system registers do not look at.
pub fn fp_allowed(arm: &Arm, state: &State, mode: u32, secure: bool) -> bool {
    let untrapped = secure || !arm.has_virtualization() || state.u32_at(sys::HCPTR) & hcptr::TCP10 == 0;
    fp_allowed_below_hyp(arm, state, mode, secure) && untrapped
}

/// The same without HCPTR, whose traps are not UNDEFINED.
pub fn fp_allowed_below_hyp(arm: &Arm, state: &State, mode: u32, secure: bool) -> bool {
    let access = state.u32_at(sys::CPACR) >> 20 & 3;
    let allowed = match mode {
        mode::HYP => true,
        mode::USR => access == 3,
        _ => access & 1 != 0,
    };
    let non_secure = secure || !arm.has_security() || state.u32_at(sys::NSACR) >> 10 & 1 != 0;
    allowed && non_secure
}

/// Brings the key's copies up to date, after system registers or the mode have changed. Not for user-mode emulation.
pub fn update_key(arm: &Arm, state: &mut State) {
    const BITS: u64 = key::SECURE | key::NO_FP | key::ALIGN | key::DOMAINS;
    let key = state.u64_at(ir::state::KEY);
    state.set_u64(ir::state::KEY, key & !BITS | key_bits(arm, state, key::mode(key)));
}

fn isr(c: &mut Context) -> u64 {
    let (inputs, mut pending) = (c.env.inputs(), 0);
    // A guest sees the virtual ones of what is routed to its hypervisor.
    let control = if c.is_guest() { effective_hcr(c.arm, c.state) } else { 0 };
    for (routed, physical, virtual_, bit) in [
        (hcr::IMO, exception::IRQ, exception::VIRTUAL_IRQ | exception::HYP_VIRTUAL_IRQ, 7),
        (hcr::FMO, exception::FIQ, exception::VIRTUAL_FIQ | exception::HYP_VIRTUAL_FIQ, 6),
        (hcr::AMO, 0, exception::HYP_VIRTUAL_ABORT, 8),
    ] {
        let seen = if control & routed != 0 { virtual_ } else { physical };
        pending |= ((inputs & seen != 0) as u64) << bit;
    }
    pending
}

fn l2ctlr(c: &mut Context) -> u64 {
    let cpus = (c.env.count() as u64).saturating_sub(1).min(3);
    // The Cortex-A7 and A15 say that there is an interrupt controller.
    let inside = if c.arm.features.has(Features::V8) { 0 } else { 1 << 23 };
    cpus << 24 | inside
}
