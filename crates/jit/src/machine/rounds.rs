//! All vCPUs on one thread (`thread=single`, `-icount`): each has its turn, until it sleeps, its time is over or another one
//! gets something to do.
//!
//! Invariant: no vCPU's lock is held while the thread waits.

use super::run::{Idle, due, go};
use super::{Cpu, Machine, request};
use fabric::Timer;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A turn lasts that long while others are on.
const TURN_NS: u64 = 2_000_000;

/// What the thread knows of a vCPU.
#[derive(Default)]
struct Turn {
    /// It sleeps until an interrupt, or (`true`) an event too.
    asleep: Option<bool>,
}

/// The thread, until the machine ends.
pub(super) fn thread(m: &Arc<Machine>) {
    let parking = m.cpus[0].parking.clone();
    let over = parking.clone();
    let timer = m.clock.timer(move || over.end_turn());
    let mut turns: Vec<Turn> = m.cpus.iter().map(|_| Turn::default()).collect();
    let mut pauses = 0;
    while !m.quit.load(Ordering::SeqCst) {
        parking.clear();
        let now = m.pauses.load(Ordering::SeqCst);
        if now != pauses {
            // Whoever looked at the vCPUs may have changed them.
            pauses = now;
            turns.fill_with(Turn::default);
        }
        let mut idle = true;
        for (cpu, turn) in m.cpus.iter().zip(&mut turns) {
            idle &= !take_turn(m, cpu, turn, &timer);
        }
        if idle {
            wait(m);
        }
    }
}

/// Whether the vCPU had anything to do.
fn take_turn(m: &Machine, cpu: &Arc<Cpu>, turn: &mut Turn, timer: &Timer) -> bool {
    cpu.requests.fetch_and(!request::LOOK, Ordering::SeqCst);
    let Some(start) = due(m, cpu) else { return false };
    let mut v = cpu.vcpu.lock().unwrap();
    if start.is_none() && let Some(event) = turn.asleep {
        let woken = m.system().wakes(&v.block.block.state, cpu.inputs.load(Ordering::SeqCst));
        if !woken && !(event && cpu.event.swap(false, Ordering::SeqCst)) {
            return false;
        }
    }
    turn.asleep = None;
    fabric::requester::set_cpu(cpu.index);
    cpu.parking.clear();
    cpu.parking.set_current(Some(cpu.exit_req));
    let alone = m.cpus.iter().filter(|c| c.on.load(Ordering::SeqCst)).count() <= 1;
    match &m.icount {
        Some(icount) => icount.begin_turn(&m.clock, (!alone).then_some(TURN_NS)),
        None if !alone => timer.at(m.clock.now_ns() + TURN_NS),
        None => {}
    }
    if let Idle::Sleep(event) = go(&mut v, m, cpu, start) {
        turn.asleep = Some(event);
    }
    cpu.parking.set_current(None);
    true
}

/// Nobody has anything to do.
fn wait(m: &Machine) {
    let parking = &m.cpus[0].parking;
    let idle = || !m.quit.load(Ordering::SeqCst) && !parking.is_kicked();
    match &m.icount {
        Some(icount) if !m.paused.load(Ordering::SeqCst) => icount.sleep(&m.clock, |limit| parking.park(limit, idle)),
        _ => parking.park(None, idle),
    }
}
