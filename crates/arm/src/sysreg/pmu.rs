//! Performance monitors: the cycle counter, six event counters, their overflow interrupt.
//!
//! A cycle is a nanosecond of the machine's virtual clock. Counters are brought up to date when a register is accessed.
//!
//! **Reference.** Arm ARM (DDI 0406C) C12, D12.
//!
//! **Not modelled**: events other than software increments and cycles; counting by privilege level or security state (the
//! filters are stored).

use super::id::of_model;
use super::timer::OUTPUT_PMU;
use super::{Context, Refused, needs, sysregs};
use crate::state::sys::{self, hdcr};
use crate::{Arm, Features};

sysregs! {
    PMCR [p15 0 c9 c12 0] PL0_RW .needs(needs::PMU) .check(allowed) .at(sys::PMCR) .read(read_pmcr) .write(write_pmcr)
        .reset(|arm| of_model(arm.model.name).pmcr as u64) .trap(sys::HDCR, hdcr::TPM | hdcr::TPMCR);
    PMCNTENSET [p15 0 c9 c12 1] PL0_RW .needs(needs::PMU) .check(allowed) .at(sys::PMCNTENSET) .read(|c| seen(c, sys::PMCNTENSET)) .write(|c, v| enable(c, v, true)) .trap(sys::HDCR, hdcr::TPM);
    PMCNTENCLR [p15 0 c9 c12 2] PL0_RW .needs(needs::PMU) .check(allowed) .at(sys::PMCNTENSET) .read(|c| seen(c, sys::PMCNTENSET)) .write(|c, v| enable(c, v, false)) .trap(sys::HDCR, hdcr::TPM);
    PMOVSR [p15 0 c9 c12 3] PL0_RW .needs(needs::PMU) .check(allowed) .read(read_overflow) .write(|c, v| overflow(c, v, false)) .trap(sys::HDCR, hdcr::TPM);
    PMSWINC [p15 0 c9 c12 4] PL0_W .needs(needs::PMU) .check(allowed) .write(increment) .trap(sys::HDCR, hdcr::TPM);
    PMSELR [p15 0 c9 c12 5] PL0_RW .needs(needs::PMU) .check(allowed) .at(sys::PMSELR) .mask(31) .trap(sys::HDCR, hdcr::TPM);
    /// Events that exist: 0x00 and 0x11.
    PMCEID0 [p15 0 c9 c12 6] PL0_R .needs(needs::PMU | needs::V8) .check(allowed) .read(|_| 1 << SW_INCR | 1 << CPU_CYCLES) .trap(sys::HDCR, hdcr::TPM);
    PMCEID1 [p15 0 c9 c12 7] PL0_R .needs(needs::PMU | needs::V8) .check(allowed) .trap(sys::HDCR, hdcr::TPM);
    PMCCNTR [p15 0 c9 c13 0] PL0_RW .needs(needs::PMU) .check(allowed) .read(|c| read(c, CYCLES)) .write(|c, v| write_low(c, CYCLES, v)) .trap(sys::HDCR, hdcr::TPM);
    PMXEVTYPER [p15 0 c9 c13 1] PL0_RW .needs(needs::PMU) .check(allowed) .read(|c| event_type(c, selected(c)))
        .write(|c, v| { let n = selected(c); set_event_type(c, n, v) }) .trap(sys::HDCR, hdcr::TPM);
    PMXEVCNTR [p15 0 c9 c13 2] PL0_RW .needs(needs::PMU) .check(allowed) .read(|c| { let n = selected(c); read_event(c, n) })
        .write(|c, v| { let n = selected(c); write_event(c, n, v) }) .trap(sys::HDCR, hdcr::TPM);
    PMUSERENR [p15 0 c9 c14 0] PL1_RW_PL0_R .needs(needs::PMU) .at(sys::PMUSERENR)
        .write(|c, v| { let mask = if is_v8(c) { 15 } else { 1 }; c.set(sys::PMUSERENR, v as u32 & mask) }) .trap(sys::HDCR, hdcr::TPM);
    PMINTENSET [p15 0 c9 c14 1] PL1_RW .needs(needs::PMU) .at(sys::PMINTENSET) .read(|c| seen(c, sys::PMINTENSET)) .write(|c, v| interrupts(c, v, true)) .trap(sys::HDCR, hdcr::TPM);
    PMINTENCLR [p15 0 c9 c14 2] PL1_RW .needs(needs::PMU) .at(sys::PMINTENSET) .read(|c| seen(c, sys::PMINTENSET)) .write(|c, v| interrupts(c, v, false)) .trap(sys::HDCR, hdcr::TPM);
    PMOVSSET [p15 0 c9 c14 3] PL0_RW .needs(needs::PMU | needs::LPAE) .check(allowed) .read(read_overflow) .write(|c, v| overflow(c, v, true)) .trap(sys::HDCR, hdcr::TPM);
    PMCEID2 [p15 0 c9 c14 4] PL0_R .needs(needs::PMU | needs::V8) .check(allowed) .trap(sys::HDCR, hdcr::TPM);
    PMCEID3 [p15 0 c9 c14 5] PL0_R .needs(needs::PMU | needs::V8) .check(allowed) .trap(sys::HDCR, hdcr::TPM);
    PMMIR [p15 0 c9 c14 6] PL1_R .needs(needs::PMU | needs::V8) .trap(sys::HDCR, hdcr::TPM);
    PMCCNTR_64 [q15 0 c9] PL0_RW .needs(needs::PMU | needs::V8) .check(allowed) .read(|c| read(c, CYCLES)) .write(|c, v| write(c, CYCLES, v)) .trap(sys::HDCR, hdcr::TPM);
    PMCCFILTR [p15 0 c14 c15 7] PL0_RW .needs(needs::PMU) .check(allowed) .at(sys::PMCCFILTR) .mask(0xf800_0000) .trap(sys::HDCR, hdcr::TPM);
    PMEVCNTR [p15 0 c14 c8 any] PL0_RW .needs(needs::PMU) .check(exists) .read(|c| { let n = c.opc2 as usize; read_event(c, n) })
        .write(|c, v| { let n = c.opc2 as usize; write_event(c, n, v) }) .trap(sys::HDCR, hdcr::TPM);
    PMEVTYPER [p15 0 c14 c12 any] PL0_RW .needs(needs::PMU) .check(exists) .read(|c| event_type(c, c.opc2 as usize))
        .write(|c, v| { let n = c.opc2 as usize; set_event_type(c, n, v) }) .trap(sys::HDCR, hdcr::TPM);
}

/// PMCR bits.
const E: u32 = 1 << 0;
const P: u32 = 1 << 1;
const C: u32 = 1 << 2;
/// PMCCNTR counts every 64th cycle.
const D: u32 = 1 << 3;
/// PMCCNTR overflows at 64 bits.
const LC: u32 = 1 << 6;
const PMCR_WRITABLE: u32 = 0xf9;

/// Events.
const SW_INCR: u32 = 0x00;
const CPU_CYCLES: u32 = 0x11;
const EVENT_MASK: u32 = 0xfe00_ffff;

/// The cycle counter's place among the counters, and its bit in the masks.
const CYCLES: usize = 6;
const CYCLES_BIT: u32 = 31;
/// PMSELR's number of PMCCFILTR.
const SELECT_FILTER: usize = 31;

fn is_v8(c: &Context) -> bool {
    c.arm.features.has(Features::V8)
}

/// PMCR.N.
fn event_counters(arm: &Arm) -> usize {
    ((of_model(arm.model.name).pmcr >> 11 & 31) as usize).min(CYCLES)
}

/// Event counters that are not Hyp mode's.
fn counters_below_hyp(c: &Context) -> usize {
    let all = event_counters(c.arm);
    if c.arm.has_virtualization() { (c.get(sys::HDCR) & hdcr::HPMN).min(all as u32) as usize } else { all }
}

/// Event counters that the current mode sees.
fn visible(c: &Context) -> usize {
    if c.is_guest() { counters_below_hyp(c) } else { event_counters(c.arm) }
}

/// Bits that masks of counters have.
fn counters_mask(c: &Context) -> u32 {
    1 << CYCLES_BIT | ((1 << visible(c)) - 1)
}

/// A mask of counters, as the current mode sees it.
fn seen(c: &Context, offset: u32) -> u64 {
    (c.get(offset) & counters_mask(c)) as u64
}

/// Whether counters are on: by PMCR, or by HDCR for Hyp mode's own.
fn is_on(c: &Context, counter: usize) -> bool {
    if counter == CYCLES || counter < counters_below_hyp(c) {
        c.get(sys::PMCR) & E != 0
    } else {
        c.get(sys::HDCR) & hdcr::HPME != 0
    }
}

fn allowed(c: &Context, _: bool) -> Result<(), Refused> {
    if c.level == 0 && c.get(sys::PMUSERENR) & 1 == 0 { Err(Refused::Undefined) } else { Ok(()) }
}

fn exists(c: &Context, write: bool) -> Result<(), Refused> {
    if c.opc2 as usize >= visible(c) { Err(Refused::Undefined) } else { allowed(c, write) }
}

fn selected(c: &Context) -> usize {
    c.get(sys::PMSELR) as usize & 31
}

fn place(counter: usize) -> u32 {
    sys::PM_COUNTERS + 8 * counter as u32
}

/// Whether a counter counts cycles now.
fn counts_cycles(c: &Context, counter: usize) -> bool {
    let bit = if counter == CYCLES { CYCLES_BIT } else { counter as u32 };
    let on = is_on(c, counter) && c.get(sys::PMCNTENSET) >> bit & 1 != 0;
    on && (counter == CYCLES || c.get(sys::PMEVTYPER + 4 * counter as u32) & 0xffff == CPU_CYCLES)
}

/// The bit out of which a counter overflows.
fn width(c: &Context, counter: usize) -> u32 {
    if counter == CYCLES && c.get(sys::PMCR) & LC != 0 { 64 } else { 32 }
}

/// Cycles for each step of a counter.
fn divider(c: &Context, counter: usize) -> u64 {
    if counter == CYCLES && c.get(sys::PMCR) & (D | LC) == D { 64 } else { 1 }
}

/// Lets the counters count up to now.
fn sync(c: &mut Context) {
    let (since, now) = (c.state.u64_at(sys::PM_SINCE), c.env.clock_ns());
    for counter in 0..=CYCLES {
        if counts_cycles(c, counter) {
            let divider = divider(c, counter);
            add(c, counter, now / divider - since / divider);
        }
    }
    c.state.set_u64(sys::PM_SINCE, now);
}

/// Adds to a counter and records its overflow.
fn add(c: &mut Context, counter: usize, amount: u64) {
    let old = c.state.u64_at(place(counter));
    let overflows = match width(c, counter) {
        64 => old.checked_add(amount).is_none(),
        bits => (old & 0xffff_ffff).saturating_add(amount) >> bits != 0,
    };
    let mut new = old.wrapping_add(amount);
    if counter != CYCLES {
        new &= 0xffff_ffff;
    }
    c.state.set_u64(place(counter), new);
    if overflows {
        let bit = if counter == CYCLES { CYCLES_BIT } else { counter as u32 };
        c.set(sys::PMOVSR, c.get(sys::PMOVSR) | 1 << bit);
    }
}

/// Works out the interrupt's level and when an overflow will raise it. The counters are up to date.
fn update(c: &mut Context) {
    let interrupting = c.get(sys::PMINTENSET);
    let overflowed = c.get(sys::PMOVSR) & interrupting;
    let level = (0..=CYCLES).any(|n| overflowed >> (if n == CYCLES { CYCLES_BIT } else { n as u32 }) & 1 != 0 && is_on(c, n));
    let now = c.state.u64_at(sys::PM_SINCE);
    let deadline = (0..=CYCLES)
        .filter(|&n| interrupting >> (if n == CYCLES { CYCLES_BIT } else { n as u32 }) & 1 != 0 && counts_cycles(c, n))
        .filter_map(|n| {
            let value = c.state.u64_at(place(n));
            let left = match width(c, n) {
                64 => 0u64.wrapping_sub(value),
                _ => (1 << 32) - (value & 0xffff_ffff),
            };
            let divider = divider(c, n);
            (now / divider).checked_add(left)?.checked_mul(divider)
        })
        .min();
    c.env.set_timer(OUTPUT_PMU, deadline.filter(|_| !level));
    c.env.set_output(OUTPUT_PMU, level);
}

fn write_pmcr(c: &mut Context, value: u64) {
    sync(c);
    let value = value as u32;
    if value & C != 0 {
        c.state.set_u64(place(CYCLES), 0);
    }
    if value & P != 0 {
        (0..visible(c)).for_each(|n| c.state.set_u64(place(n), 0));
    }
    c.set(sys::PMCR, c.get(sys::PMCR) & !PMCR_WRITABLE | value & PMCR_WRITABLE);
    update(c);
}

/// A guest sees the counters that its hypervisor has left it.
fn read_pmcr(c: &mut Context) -> u64 {
    (c.get(sys::PMCR) & !(31 << 11) | (visible(c) as u32) << 11) as u64
}

/// HDCR: which counters are whose.
pub fn write_hdcr(c: &mut Context, value: u64) {
    sync(c);
    c.set(sys::HDCR, value as u32 & 0xfff);
    update(c);
}

fn change(c: &mut Context, offset: u32, bits: u64, set: bool) {
    sync(c);
    let bits = bits as u32 & counters_mask(c);
    let old = c.get(offset);
    c.set(offset, if set { old | bits } else { old & !bits });
    update(c);
}

fn enable(c: &mut Context, bits: u64, set: bool) {
    change(c, sys::PMCNTENSET, bits, set);
}

fn interrupts(c: &mut Context, bits: u64, set: bool) {
    change(c, sys::PMINTENSET, bits, set);
}

fn overflow(c: &mut Context, bits: u64, set: bool) {
    change(c, sys::PMOVSR, bits, set);
}

fn read_overflow(c: &mut Context) -> u64 {
    sync(c);
    update(c);
    (c.get(sys::PMOVSR) & counters_mask(c)) as u64
}

fn increment(c: &mut Context, bits: u64) {
    sync(c);
    let on = c.get(sys::PMCNTENSET);
    for counter in (0..visible(c)).filter(|n| is_on(c, *n)).collect::<Vec<_>>() {
        let event = c.get(sys::PMEVTYPER + 4 * counter as u32) & 0xffff;
        if (bits as u32 & on) >> counter & 1 != 0 && event == SW_INCR {
            add(c, counter, 1);
        }
    }
    update(c);
}

fn read(c: &mut Context, counter: usize) -> u64 {
    sync(c);
    update(c);
    c.state.u64_at(place(counter))
}

fn write(c: &mut Context, counter: usize, value: u64) {
    sync(c);
    c.state.set_u64(place(counter), value);
    update(c);
}

/// A 32-bit write leaves the upper half of the cycle counter alone.
fn write_low(c: &mut Context, counter: usize, value: u64) {
    sync(c);
    let high = c.state.u64_at(place(counter)) & !0xffff_ffff;
    write(c, counter, high | value & 0xffff_ffff);
}

/// Counters that are not there read as zero and ignore writes.
fn read_event(c: &mut Context, counter: usize) -> u64 {
    if counter < visible(c) { read(c, counter) } else { 0 }
}

fn write_event(c: &mut Context, counter: usize, value: u64) {
    if counter < visible(c) {
        write(c, counter, value & 0xffff_ffff);
    }
}

fn event_type(c: &Context, counter: usize) -> u64 {
    if counter == SELECT_FILTER {
        c.get(sys::PMCCFILTR) as u64
    } else if counter < visible(c) {
        c.get(sys::PMEVTYPER + 4 * counter as u32) as u64
    } else {
        0
    }
}

fn set_event_type(c: &mut Context, counter: usize, value: u64) {
    sync(c);
    if counter == SELECT_FILTER {
        c.set(sys::PMCCFILTR, value as u32 & 0xf800_0000);
    } else if counter < visible(c) {
        c.set(sys::PMEVTYPER + 4 * counter as u32, value as u32 & EVENT_MASK);
    }
    update(c);
}
