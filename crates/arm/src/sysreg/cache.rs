//! Cache maintenance, barriers, and registers that do nothing.
//!
//! There are no caches: only what makes new instructions visible has an effect.
//!
//! **Reference.** Arm ARM (DDI 0406C) B4.2.1 (cache), B4.2.5 (barriers).

use super::{Context, needs, sysregs};
use crate::mmu::Walker;
use crate::state::sys::{self, hcr};
use crate::system::regime;

sysregs! {
    ICIALLUIS [p15 0 c7 c1 0] PL1_W .write(everything) .trap(sys::HCR, hcr::TPU);
    ICIALLU [p15 0 c7 c5 0] PL1_W .write(everything) .trap(sys::HCR, hcr::TPU);
    ICIMVAU [p15 0 c7 c5 1] PL1_W .write(line) .trap(sys::HCR, hcr::TPU);
    BPIALLIS [p15 0 c7 c1 6] PL1_W;
    BPIALL [p15 0 c7 c5 6] PL1_W;
    BPIMVA [p15 0 c7 c5 7] PL1_W;
    /// The caller ends the region: what follows is fetched anew.
    CP15ISB [p15 0 c7 c5 4] PL0_W .write(|_, _| ());
    CP15DSB [p15 0 c7 c10 4] PL0_W .write(|_, _| ());
    CP15DMB [p15 0 c7 c10 5] PL0_W .write(|_, _| ());
    DCIMVAC [p15 0 c7 c6 1] PL1_W .trap(sys::HCR, hcr::TPC);
    DCISW [p15 0 c7 c6 2] PL1_W .trap(sys::HCR, hcr::TSW);
    DCCMVAC [p15 0 c7 c10 1] PL1_W .trap(sys::HCR, hcr::TPC);
    DCCSW [p15 0 c7 c10 2] PL1_W .trap(sys::HCR, hcr::TSW);
    DCCMVAU [p15 0 c7 c11 1] PL1_W .trap(sys::HCR, hcr::TPU);
    /// ARMv6's prefetch of an instruction cache line.
    PREFETCH [p15 0 c7 c13 1] PL1_W;
    DCCIMVAC [p15 0 c7 c14 1] PL1_W .trap(sys::HCR, hcr::TPC);
    DCCISW [p15 0 c7 c14 2] PL1_W .trap(sys::HCR, hcr::TSW);
    /// Restriction of speculation: there is none.
    CFPRCTX [p15 0 c7 c3 4] PL1_W .needs(needs::V8);
    DVPRCTX [p15 0 c7 c3 5] PL1_W .needs(needs::V8);
    CPPRCTX [p15 0 c7 c3 7] PL1_W .needs(needs::V8);
    /// Before ARMv8 the rest of c7 does nothing, but for translation operations that are not there.
    NO_TRANSLATION [p15 0 c7 c8 any] NONE;
    CACHE [p15 0 c7 any any] PL1_W .needs(needs::V7);
    /// TLB lockdown of earlier cores.
    LOCKDOWN_0 [p15 any c10 c0 any] PL1_RW .needs(needs::V7);
    LOCKDOWN_1 [p15 any c10 c1 any] PL1_RW .needs(needs::V7);
    LOCKDOWN_4 [p15 any c10 c4 any] PL1_RW .needs(needs::V7);
    LOCKDOWN_8 [p15 any c10 c8 any] PL1_RW .needs(needs::V7);
    /// What implementations define.
    IMPLEMENTATION [p15 any c15 any any] PL1_RW .needs(needs::V7);
}

/// Bytes of a cache line, as CTR says.
const LINE: u64 = 64;

fn everything(c: &mut Context, _: u64) {
    c.env.code_changed(None);
}

fn line(c: &mut Context, value: u64) {
    let number = if c.level == 2 { regime::HYP } else { regime::KERNEL };
    let walker = Walker::of_regime(c.arm, c.state, number, c.env.physical());
    // A line that is not mapped is in no cache.
    if let Ok(t) = walker.translate(value as u32) {
        c.env.code_changed(Some((walker.seen(t.phys, t.non_secure) & !(LINE - 1), LINE)));
    }
}
