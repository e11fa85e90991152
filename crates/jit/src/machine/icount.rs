//! Virtual time that counts instructions (`-icount`): 2^shift nanoseconds each.
//!
//! Every region begins by taking its instructions from a budget in the state ([`BUDGET`]), which reaches to the next timer or
//! the end of the turn, and leaves by a trap instead if there are too few; the rest of a budget is executed instruction by
//! instruction. Regions end at their first conditional exit, so that what they take is what they execute. The clock is a manual
//! one, moved when translated code has been left and before a device is asked; timers fire between regions.
//!
//! **Reference.** `-icount` of QEMU 10.0.2.
//!
//! **Not modelled**: record and replay. An instruction of T32 that faults counts as half as many as there are halfwords before
//! it.
//!
//! **Invariants**: all vCPUs are on one thread. Time depends on the instructions alone while no vCPU sleeps; with `sleep=off`
//! always, unless `shift=auto`.

use super::vcpu::Vcpu;
use fabric::Clock;
use ir::ops::MAY_LEAVE;
use ir::{Builder, Op, Region, State, TrapKind, Ty};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Instructions left, and how many the region took that was entered last.
const BUDGET: u32 = ir::state::STATE_BYTES as u32 - 8;
const TAKEN: u32 = ir::state::STATE_BYTES as u32 - 4;
/// The argument of the `Step` trap of a region for which the budget is too small.
pub(super) const COUNT: u32 = 2;
/// Budgets are smaller, so that they are never negative.
const BUDGET_MAX: u64 = 1 << 24;
const AUTO_SHIFT: u32 = 3;
const SHIFT_MAX: u32 = 10;
/// `shift=auto` compares the clocks that often.
const COMPARE: Duration = Duration::from_millis(100);
/// `align=on`: the virtual clock may be ahead by so much.
const AHEAD_NS: u64 = 3_000_000;

/// The option's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Nothing: as fast as the host's clock on average.
    pub shift: Option<u32>,
    /// The virtual clock does not run ahead of the host's.
    pub align: bool,
    /// A sleeping machine takes as long as it sleeps; otherwise the next timer comes at once.
    pub sleep: bool,
}

pub(super) struct Icount {
    options: Options,
    shift: AtomicU32,
    /// When the turn ends.
    turn_end_ns: AtomicU64,
    turn_limited: AtomicBool,
    pace: Mutex<Pace>,
}

/// The host's clock beside the virtual one.
struct Pace {
    host: Instant,
    virtual_ns: u64,
}

impl Icount {
    pub fn new(options: Options) -> Icount {
        Icount {
            options,
            shift: AtomicU32::new(options.shift.unwrap_or(AUTO_SHIFT)),
            turn_end_ns: AtomicU64::new(0),
            turn_limited: AtomicBool::new(false),
            pace: Mutex::new(Pace { host: Instant::now(), virtual_ns: 0 }),
        }
    }

    fn shift(&self) -> u32 {
        self.shift.load(Ordering::Relaxed)
    }

    /// A turn of `length_ns` begins, or one without end.
    pub fn begin_turn(&self, clock: &Clock, length_ns: Option<u64>) {
        self.turn_limited.store(length_ns.is_some(), Ordering::Relaxed);
        self.turn_end_ns.store(clock.now_ns() + length_ns.unwrap_or(0), Ordering::Relaxed);
        self.keep_pace(clock);
    }

    pub fn turn_is_over(&self, clock: &Clock) -> bool {
        self.turn_limited.load(Ordering::Relaxed) && clock.now_ns() >= self.turn_end_ns.load(Ordering::Relaxed)
    }

    /// Instructions until something is to happen.
    fn budget(&self, clock: &Clock) -> u32 {
        let now = clock.now_ns();
        let mut rest_ns = clock.next_deadline_ns().map_or(u64::MAX, |at| at.saturating_sub(now));
        if self.turn_limited.load(Ordering::Relaxed) {
            rest_ns = rest_ns.min(self.turn_end_ns.load(Ordering::Relaxed).saturating_sub(now));
        }
        // Time is up only when the last instruction has reached it.
        let shift = self.shift();
        let insns = (rest_ns >> shift) + (rest_ns & ((1 << shift) - 1) != 0) as u64;
        insns.min(BUDGET_MAX) as u32
    }

    /// There is time for an instruction at least.
    pub fn make_room(&self, clock: &Clock) {
        if self.budget(clock) == 0 {
            clock.advance(0);
            if self.turn_is_over(clock) {
                self.begin_turn(clock, None);
            }
        }
    }

    /// Before translated code is entered.
    pub fn grant(&self, v: &mut Vcpu, clock: &Clock) {
        let budget = self.budget(clock);
        v.granted = budget;
        v.block.block.state.set_u32(BUDGET, budget);
    }

    /// The clock shows what has been executed. Timers wait.
    pub fn settle(&self, v: &mut Vcpu, clock: &Clock) {
        let rest = v.block.block.state.u32_at(BUDGET);
        let used = v.granted.saturating_sub(rest);
        v.granted = rest;
        clock.step_to(clock.now_ns() + ((used as u64) << self.shift()));
    }

    /// The instruction at `delta` of the region that was entered last has failed: the rest has not been executed.
    pub fn give_back(&self, v: &mut Vcpu, delta: i32, unit: u32) {
        let state = &mut v.block.block.state;
        let done = (delta.max(0) as u32 / unit).min(state.u32_at(TAKEN));
        let rest = state.u32_at(BUDGET) + (state.u32_at(TAKEN) - done);
        state.set_u32(BUDGET, rest.min(v.granted));
    }

    /// Instructions that are left of the budget.
    pub fn rest(state: &State) -> u32 {
        state.u32_at(BUDGET)
    }

    /// No vCPU has anything to do: time passes until the next timer. `park` waits that long, or less.
    pub fn sleep(&self, clock: &Clock, park: impl FnOnce(Option<Duration>)) {
        let Some(deadline) = clock.next_deadline_ns() else { return park(None) };
        let now = clock.now_ns();
        if !self.options.sleep {
            return clock.advance_to(deadline.max(now));
        }
        let since = Instant::now();
        park(Some(Duration::from_nanos(deadline.saturating_sub(now))));
        let passed = since.elapsed().as_nanos() as u64;
        clock.advance_to(now.saturating_add(passed).min(deadline).max(now));
    }

    /// `shift=auto` and `align=on`.
    fn keep_pace(&self, clock: &Clock) {
        if self.options.shift.is_some() && !self.options.align {
            return;
        }
        let mut pace = self.pace.lock().unwrap();
        let host_ns = pace.host.elapsed().as_nanos() as u64;
        let virtual_ns = clock.now_ns().saturating_sub(pace.virtual_ns);
        if self.options.align && virtual_ns > host_ns + AHEAD_NS {
            std::thread::sleep(Duration::from_nanos(virtual_ns - host_ns));
        }
        if pace.host.elapsed() < COMPARE {
            return;
        }
        if self.options.shift.is_none() {
            self.shift.store(adjusted(self.shift(), virtual_ns, host_ns), Ordering::Relaxed);
        }
        if !self.options.align || host_ns > virtual_ns {
            *pace = Pace { host: Instant::now(), virtual_ns: clock.now_ns() };
        }
    }
}

/// The shift that brings the clocks closer.
fn adjusted(shift: u32, virtual_ns: u64, host_ns: u64) -> u32 {
    if virtual_ns > host_ns + host_ns / 2 {
        shift.saturating_sub(1)
    } else if virtual_ns < host_ns - host_ns / 3 {
        (shift + 1).min(SHIFT_MAX)
    } else {
        shift
    }
}

/// What a region begins with. Gives the place of the number of instructions.
pub(super) fn prologue(b: &mut Builder, key: u64) -> usize {
    let left = b.get(Ty::I32, BUDGET, 4);
    let count = b.push(Op::Const, Ty::I32, 0, 0, u32::MAX, PLACEHOLDER, 0);
    let rest = b.sub(left, count);
    let negative = b.shr_imm(rest, 31);
    b.trap_nz(negative, TrapKind::Step, COUNT, key);
    b.set(BUDGET, 4, rest);
    b.set(TAKEN, 4, count);
    count.index()
}

/// A number that no front end uses.
const PLACEHOLDER: u32 = 0x7fed_cba9;

/// Puts the number of instructions where the prologue takes them.
pub(super) fn finish(region: &mut Region, place: usize) {
    region.insts[place].b = region.guest_insns;
}

/// After how many instructions a region may be left for the first time, if that is before its end.
pub(super) fn first_exit(region: &Region) -> Option<u32> {
    let mut insns = 0;
    let mut left = None;
    for i in &region.insts {
        if i.op == Op::Insn {
            if left.is_some() {
                return left;
            }
            insns += 1;
        } else if insns > 0 && i.op.has(MAY_LEAVE) {
            left = left.or(Some(insns));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::Val;

    #[test]
    fn budgets_reach_to_the_next_timer() {
        let clock = Clock::manual();
        let icount = Icount::new(Options { shift: Some(3), align: false, sleep: false });
        assert_eq!(u64::from(icount.budget(&clock)), BUDGET_MAX);
        let timer = clock.timer(|| ());
        timer.at(81);
        assert_eq!(icount.budget(&clock), 11);
        icount.begin_turn(&clock, Some(16));
        assert_eq!((icount.budget(&clock), icount.turn_is_over(&clock)), (2, false));
        clock.step_to(16);
        assert_eq!((icount.budget(&clock), icount.turn_is_over(&clock)), (0, true));
    }

    #[test]
    fn a_machine_that_sleeps_has_its_timers_at_once_or_in_time() {
        let clock = Clock::manual();
        let timer = clock.timer(|| ());
        timer.at(1_000_000_000_000);
        let off = Icount::new(Options { shift: Some(0), align: false, sleep: false });
        off.sleep(&clock, |_| panic!("nobody waits"));
        assert_eq!(clock.now_ns(), 1_000_000_000_000);
        timer.at(1_000_000_005_000);
        let on = Icount::new(Options { sleep: true, ..off.options });
        on.sleep(&clock, |limit| assert_eq!(limit, Some(Duration::from_nanos(5000))));
        assert!(clock.now_ns() <= 1_000_000_005_000);
    }

    #[test]
    fn shifts_follow_the_host() {
        assert_eq!([(3, 200, 100), (3, 10, 100), (3, 100, 100), (0, 200, 100), (10, 1, 100)].map(|(s, v, h)| adjusted(s, v, h)), [2, 4, 3, 0, 10]);
    }

    #[test]
    fn regions_know_their_first_exit() {
        let mut b = Builder::new();
        b.begin(0x100, 0x100);
        let place = prologue(&mut b, 0x100);
        for n in 0..4 {
            b.insn(4 * n, 0);
            let v = b.get(Ty::I32, ir::state::GUEST, 4);
            if n == 1 {
                b.exit_nz(v, 0x200);
            }
        }
        b.exit(0x110);
        assert_eq!(first_exit(b.region()), Some(2));
        finish(b.region_mut(), place);
        assert_eq!(b.region().constant(Val(place as u32)), Some(4));
    }
}
