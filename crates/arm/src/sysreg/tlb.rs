//! TLB maintenance.
//!
//! **Reference.** Arm ARM (DDI 0406C) B4.2.2; ARMv8 adds the last-level forms.
//!
//! **Not modelled**: instruction and data TLBs are one; maintenance for one VMID does more than that VMID's.

use super::{Context, needs, sysregs};
use crate::mmu::{self, World};
use crate::state::bank;
use crate::state::sys::{self, hcr};
use crate::system::regime;
use cpu::system::Flush;

sysregs! {
    TLBIALLIS [p15 0 c8 c3 0] PL1_W .write(all) .trap(sys::HCR, hcr::TTLB);
    TLBIMVAIS [p15 0 c8 c3 1] PL1_W .write(mva) .trap(sys::HCR, hcr::TTLB);
    TLBIASIDIS [p15 0 c8 c3 2] PL1_W .write(asid) .trap(sys::HCR, hcr::TTLB);
    TLBIMVAAIS [p15 0 c8 c3 3] PL1_W .write(mva_all) .trap(sys::HCR, hcr::TTLB);
    TLBIMVALIS [p15 0 c8 c3 5] PL1_W .needs(needs::V8) .write(mva) .trap(sys::HCR, hcr::TTLB);
    TLBIMVAALIS [p15 0 c8 c3 7] PL1_W .needs(needs::V8) .write(mva_all) .trap(sys::HCR, hcr::TTLB);
    ITLBIALL [p15 0 c8 c5 0] PL1_W .write(all) .trap(sys::HCR, hcr::TTLB);
    ITLBIMVA [p15 0 c8 c5 1] PL1_W .write(mva) .trap(sys::HCR, hcr::TTLB);
    ITLBIASID [p15 0 c8 c5 2] PL1_W .write(asid) .trap(sys::HCR, hcr::TTLB);
    DTLBIALL [p15 0 c8 c6 0] PL1_W .write(all) .trap(sys::HCR, hcr::TTLB);
    DTLBIMVA [p15 0 c8 c6 1] PL1_W .write(mva) .trap(sys::HCR, hcr::TTLB);
    DTLBIASID [p15 0 c8 c6 2] PL1_W .write(asid) .trap(sys::HCR, hcr::TTLB);
    TLBIALL [p15 0 c8 c7 0] PL1_W .write(all) .trap(sys::HCR, hcr::TTLB);
    TLBIMVA [p15 0 c8 c7 1] PL1_W .write(mva) .trap(sys::HCR, hcr::TTLB);
    TLBIASID [p15 0 c8 c7 2] PL1_W .write(asid) .trap(sys::HCR, hcr::TTLB);
    TLBIMVAA [p15 0 c8 c7 3] PL1_W .write(mva_all) .trap(sys::HCR, hcr::TTLB);
    TLBIMVAL [p15 0 c8 c7 5] PL1_W .needs(needs::V8) .write(mva) .trap(sys::HCR, hcr::TTLB);
    TLBIMVAAL [p15 0 c8 c7 7] PL1_W .needs(needs::V8) .write(mva_all) .trap(sys::HCR, hcr::TTLB);
    TLBIALLHIS [p15 4 c8 c3 0] PL2_W .needs(needs::HYP) .write(hyp);
    TLBIMVAHIS [p15 4 c8 c3 1] PL2_W .needs(needs::HYP) .write(hyp_mva);
    TLBIALLNSNHIS [p15 4 c8 c3 4] PL2_W .needs(needs::HYP) .write(all);
    TLBIMVALHIS [p15 4 c8 c3 5] PL2_W .needs(needs::HYP | needs::V8) .write(hyp_mva);
    TLBIALLH [p15 4 c8 c7 0] PL2_W .needs(needs::HYP) .write(hyp);
    TLBIMVAH [p15 4 c8 c7 1] PL2_W .needs(needs::HYP) .write(hyp_mva);
    TLBIALLNSNH [p15 4 c8 c7 4] PL2_W .needs(needs::HYP) .write(all);
    TLBIMVALH [p15 4 c8 c7 5] PL2_W .needs(needs::HYP | needs::V8) .write(hyp_mva);
    /// By intermediate physical address: all of the first stage goes, which holds what the second gave.
    TLBIIPAS2IS [p15 4 c8 c0 1] PL2_W .needs(needs::HYP | needs::V8) .write(all_is);
    TLBIIPAS2LIS [p15 4 c8 c0 5] PL2_W .needs(needs::HYP | needs::V8) .write(all_is);
    TLBIIPAS2 [p15 4 c8 c4 1] PL2_W .needs(needs::HYP | needs::V8) .write(all);
    TLBIIPAS2L [p15 4 c8 c4 5] PL2_W .needs(needs::HYP | needs::V8) .write(all);
}

/// All regimes.
pub const ALL: u8 = 0xf;

/// Whether the operation is for all CPUs: the Inner Shareable forms.
/// On all CPUs if `everyone`: completed by the next DSB.
fn flush(c: &mut Context, what: Flush, everyone: bool) {
    if everyone && c.env.count() > 1 {
        c.state.set_u32(bank::FLUSHES_UNFINISHED, 1);
    }
    c.env.flush(what, everyone);
}

/// The Inner Shareable forms; all forms where a hypervisor wants it so (HCR.FB).
fn shared(c: &Context) -> bool {
    c.crm == 3 || c.is_guest() && mmu::effective_hcr(c.arm, c.state) & hcr::FB != 0
}

/// With several worlds global entries are kept for each address space, so that maintenance for one must reach all.
fn spaces_are_kept_apart(c: &Context) -> bool {
    c.arm.has_security() || c.arm.has_virtualization()
}

/// The regimes of PL1 and PL0.
fn stage_1(c: &Context) -> u8 {
    if c.arm.has_virtualization() { ALL & !(1 << regime::HYP) } else { ALL }
}

fn space(c: &Context, value: u64) -> u64 {
    let world = if c.secure { World::Secure } else { World::NonSecure };
    mmu::tag(c.arm, c.state, world, value as u8)
}

fn all(c: &mut Context, _: u64) {
    let (regimes, everyone) = (stage_1(c), shared(c));
    flush(c, Flush::All { regimes }, everyone);
}

fn all_is(c: &mut Context, _: u64) {
    let regimes = stage_1(c);
    flush(c, Flush::All { regimes }, true);
}

fn mva(c: &mut Context, value: u64) {
    let (regimes, everyone) = (stage_1(c), shared(c));
    let space = if spaces_are_kept_apart(c) { None } else { Some(space(c, value)) };
    flush(c, Flush::Page { regimes, addr: value & 0xffff_f000, space }, everyone);
}

fn mva_all(c: &mut Context, value: u64) {
    let (regimes, everyone) = (stage_1(c), shared(c));
    flush(c, Flush::Page { regimes, addr: value & 0xffff_f000, space: None }, everyone);
}

fn asid(c: &mut Context, value: u64) {
    let (regimes, everyone, space) = (stage_1(c), shared(c), space(c, value));
    flush(c, Flush::Space { regimes, space }, everyone);
}

fn hyp(c: &mut Context, _: u64) {
    let everyone = shared(c);
    flush(c, Flush::All { regimes: 1 << regime::HYP }, everyone);
}

fn hyp_mva(c: &mut Context, value: u64) {
    let everyone = shared(c);
    flush(c, Flush::Page { regimes: 1 << regime::HYP, addr: value & 0xffff_f000, space: None }, everyone);
}
