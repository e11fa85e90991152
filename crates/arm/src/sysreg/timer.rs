//! The Generic Timer: physical, virtual and Hyp timers as CP15 registers.
//!
//! **Reference.** Arm ARM (DDI 0406C) B8.1, B8.2; D9 for the semantics of CompareValue and TimerValue.
//!
//! **Not modelled**: event streams (CNTKCTL.EVNTEN).
//!
//! **Invariants**: after every write the timer's output and deadline are what its registers say ([`update`]); ISTATUS is worked
//! out when CTL is read.

use super::{Context, Refused, needs, sysregs};
use crate::state::sys;

sysregs! {
    CNTFRQ [p15 0 c14 c0 0] PL1_RW_PL0_R .needs(needs::TIMER) .at(sys::CNTFRQ) .check(frequency_allowed)
        .reset(|arm| arm.options.map_or(0, |o| o.timer_hz as u64));
    CNTKCTL [p15 0 c14 c1 0] PL1_RW .needs(needs::TIMER) .at(sys::CNTKCTL);
    CNTP_TVAL [p15 0 c14 c2 0] PL0_RW .needs(needs::TIMER) .check(physical_allowed) .read(|c| tval(c, P)) .write(|c, v| set_tval(c, P, v));
    CNTP_CTL [p15 0 c14 c2 1] PL0_RW .needs(needs::TIMER) .check(physical_allowed) .read(|c| ctl(c, P)) .write(|c, v| set_ctl(c, P, v));
    CNTV_TVAL [p15 0 c14 c3 0] PL0_RW .needs(needs::TIMER) .check(virtual_allowed) .read(|c| tval(c, V)) .write(|c, v| set_tval(c, V, v));
    CNTV_CTL [p15 0 c14 c3 1] PL0_RW .needs(needs::TIMER) .check(virtual_allowed) .read(|c| ctl(c, V)) .write(|c, v| set_ctl(c, V, v));
    CNTHCTL [p15 4 c14 c1 0] PL2_RW .needs(needs::TIMER | needs::HYP) .at(sys::CNTHCTL) .reset(|_| 3);
    CNTHP_TVAL [p15 4 c14 c2 0] PL2_RW .needs(needs::TIMER | needs::HYP) .read(|c| tval(c, H)) .write(|c, v| set_tval(c, H, v));
    CNTHP_CTL [p15 4 c14 c2 1] PL2_RW .needs(needs::TIMER | needs::HYP) .read(|c| ctl(c, H)) .write(|c, v| set_ctl(c, H, v));
    CNTPCT [q15 0 c14] PL0_R .needs(needs::TIMER) .check(physical_count_allowed) .read(|c| now(c));
    CNTVCT [q15 1 c14] PL0_R .needs(needs::TIMER) .check(virtual_count_allowed) .read(|c| count(c, V));
    CNTP_CVAL [q15 2 c14] PL0_RW .needs(needs::TIMER) .check(physical_allowed) .read(|c| cval(c, P)) .write(|c, v| set_cval(c, P, v));
    CNTV_CVAL [q15 3 c14] PL0_RW .needs(needs::TIMER) .check(virtual_allowed) .read(|c| cval(c, V)) .write(|c, v| set_cval(c, V, v));
    CNTVOFF [q15 4 c14] PL2_RW .needs(needs::TIMER | needs::HYP) .at64(sys::CNTVOFF) .write(set_offset);
    CNTHP_CVAL [q15 6 c14] PL2_RW .needs(needs::TIMER | needs::HYP) .read(|c| cval(c, H)) .write(|c, v| set_cval(c, H, v));
}

/// Numbers of the CPU's output wires.
pub const OUTPUT_CNTP: usize = 0;
pub const OUTPUT_CNTV: usize = 1;
pub const OUTPUT_CNTPS: usize = 2;
pub const OUTPUT_CNTHP: usize = 3;
pub const OUTPUT_PMU: usize = 4;

const CTL_ENABLE: u32 = 1;
const CTL_IMASK: u32 = 2;
const CTL_ISTATUS: u32 = 4;

/// One timer's places; `P` is banked by security state.
#[derive(Clone, Copy)]
struct Timer {
    ctl: u32,
    cval: u32,
    /// The virtual timer counts less CNTVOFF.
    offset: bool,
    output: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind(u8);
const P: Kind = Kind(0);
const V: Kind = Kind(1);
const H: Kind = Kind(2);

fn timer(c: &Context, kind: Kind) -> Timer {
    match kind {
        P => Timer {
            ctl: sys::bank(sys::CNTP_CTL, c.secure),
            cval: sys::bank64(sys::CNTP_CVAL, c.secure),
            offset: false,
            output: if c.secure { OUTPUT_CNTPS } else { OUTPUT_CNTP },
        },
        V => Timer { ctl: sys::CNTV_CTL, cval: sys::CNTV_CVAL, offset: true, output: OUTPUT_CNTV },
        _ => Timer { ctl: sys::CNTHP_CTL, cval: sys::CNTHP_CVAL, offset: false, output: OUTPUT_CNTHP },
    }
}

fn hz(c: &Context) -> u64 {
    c.arm.options.map_or(0, |o| o.timer_hz as u64).max(1)
}

const NS: u128 = 1_000_000_000;

/// The physical count.
fn now(c: &Context) -> u64 {
    (c.env.clock_ns() as u128 * hz(c) as u128 / NS) as u64
}

/// The first nanosecond at which the physical count is at least `ticks`; `None` if the clock never gets there.
fn time_of(c: &Context, ticks: u64) -> Option<u64> {
    u64::try_from((ticks as u128 * NS).div_ceil(hz(c) as u128)).ok()
}

/// The count that a timer compares.
fn count(c: &Context, kind: Kind) -> u64 {
    now(c).wrapping_sub(offset(c, kind))
}

fn offset(c: &Context, kind: Kind) -> u64 {
    if timer(c, kind).offset { c.state.u64_at(sys::CNTVOFF) } else { 0 }
}

fn cval(c: &Context, kind: Kind) -> u64 {
    c.state.u64_at(timer(c, kind).cval)
}

fn set_cval(c: &mut Context, kind: Kind, value: u64) {
    c.state.set_u64(timer(c, kind).cval, value);
    update(c, kind);
}

fn tval(c: &Context, kind: Kind) -> u64 {
    cval(c, kind).wrapping_sub(count(c, kind)) & 0xffff_ffff
}

fn set_tval(c: &mut Context, kind: Kind, value: u64) {
    let compare = count(c, kind).wrapping_add(value as u32 as i32 as u64);
    set_cval(c, kind, compare);
}

fn ctl(c: &Context, kind: Kind) -> u64 {
    let stored = c.get(timer(c, kind).ctl);
    let status = stored & CTL_ENABLE != 0 && count(c, kind) >= cval(c, kind);
    (stored | if status { CTL_ISTATUS } else { 0 }) as u64
}

fn set_ctl(c: &mut Context, kind: Kind, value: u64) {
    let place = timer(c, kind).ctl;
    c.set(place, value as u32 & (CTL_ENABLE | CTL_IMASK));
    update(c, kind);
}

fn set_offset(c: &mut Context, value: u64) {
    c.state.set_u64(sys::CNTVOFF, value);
    update(c, V);
}

/// Works out a timer's output level and when it will change.
fn update(c: &mut Context, kind: Kind) {
    let t = timer(c, kind);
    let control = c.get(t.ctl);
    let heard = control & (CTL_ENABLE | CTL_IMASK) == CTL_ENABLE;
    let met = count(c, kind) >= cval(c, kind);
    let deadline = if heard && !met {
        // The physical count at which the timer's count reaches CVAL; too far away is never.
        cval(c, kind).checked_add(offset(c, kind)).and_then(|ticks| time_of(c, ticks))
    } else {
        None
    };
    // The level first, with no deadline in force: a deadline that comes at once must not be undone.
    c.env.set_timer(t.output, None);
    c.env.set_output(t.output, heard && met);
    if deadline.is_some() {
        c.env.set_timer(t.output, deadline);
    }
}

/// CNTKCTL's permission bits for PL0.
const PL0PCTEN: u32 = 1 << 0;
const PL0VCTEN: u32 = 1 << 1;
const PL0VTEN: u32 = 1 << 8;
const PL0PTEN: u32 = 1 << 9;
/// CNTHCTL's for PL1 and PL0.
const PL1PCTEN: u32 = 1 << 0;
const PL1PCEN: u32 = 1 << 1;

fn allowed(c: &Context, bits: u32) -> Result<(), Refused> {
    if c.level == 0 && c.get(sys::CNTKCTL) & bits == 0 { Err(Refused::Undefined) } else { Ok(()) }
}

/// CNTHCTL traps physical counter and timer accesses of Non-secure PL1 and PL0.
fn untrapped(c: &Context, bit: u32) -> Result<(), Refused> {
    if c.is_guest() && c.get(sys::CNTHCTL) & bit == 0 { Err(c.trap()) } else { Ok(()) }
}

/// Only the highest privilege level writes it.
fn frequency_allowed(c: &Context, write: bool) -> Result<(), Refused> {
    let highest = if c.arm.has_security() { 3 } else if c.arm.has_virtualization() { 2 } else { 1 };
    if write && c.level < highest { Err(Refused::Undefined) } else { allowed(c, PL0PCTEN | PL0VCTEN) }
}

fn physical_count_allowed(c: &Context, _: bool) -> Result<(), Refused> {
    allowed(c, PL0PCTEN).and_then(|()| untrapped(c, PL1PCTEN))
}

fn virtual_count_allowed(c: &Context, _: bool) -> Result<(), Refused> {
    allowed(c, PL0VCTEN)
}

fn physical_allowed(c: &Context, _: bool) -> Result<(), Refused> {
    allowed(c, PL0PTEN).and_then(|()| untrapped(c, PL1PCEN))
}

fn virtual_allowed(c: &Context, _: bool) -> Result<(), Refused> {
    allowed(c, PL0VTEN)
}
