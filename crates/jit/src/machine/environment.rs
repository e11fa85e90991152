//! What a front end is offered while it handles a trap, a fault or an interrupt of one vCPU.

use super::timer::OutputTimer;
use super::tlb::{Jumps, L1, Tlb};
use super::vcpu::{JumpBits, Vcpu};
use super::{Cpu, Machine, PhysicalView, request};
use crate::jumps::Jump;
use cpu::system::{CpuInterface, Environment, Flush, Physical, Power, PowerAnswer, REGIMES};
use ir::State;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) struct Env<'a> {
    m: &'a Machine,
    cpu: &'a Arc<Cpu>,
    memory: PhysicalView<'a>,
    l1: &'a mut L1,
    jumps: &'a mut [Jump],
    jump_bits: &'a mut JumpBits,
    tlb: &'a mut Tlb,
    timers: &'a mut Vec<Option<OutputTimer>>,
}

impl Vcpu {
    /// The state, and everything else as an environment.
    pub(super) fn split<'a>(&'a mut self, m: &'a Machine, cpu: &'a Arc<Cpu>) -> (&'a mut State, Env<'a>) {
        let block = &mut *self.block;
        let env = Env {
            m,
            cpu,
            memory: PhysicalView(&self.view),
            l1: &mut block.l1,
            jumps: &mut block.jumps,
            jump_bits: &mut self.jumps,
            tlb: &mut self.tlb,
            timers: &mut self.timers,
        };
        (&mut block.block.state, env)
    }

    /// Carries out what other vCPUs asked of this one's tables.
    pub(super) fn serve_tables(&mut self, cpu: &Cpu) {
        let asked = cpu.requests.load(Ordering::SeqCst);
        if asked & request::PROTECT != 0 {
            for host in std::mem::take(&mut *cpu.protect.lock().unwrap()) {
                self.block.l1.protect(host);
            }
        }
        if asked & request::FLUSH != 0 {
            let flushes = std::mem::take(&mut *cpu.flushes.lock().unwrap());
            let jumps = flushes.into_iter().map(|f| self.tlb.flush(f, &mut self.block.l1)).max();
            self.forget(jumps.unwrap_or(Jumps::Keep));
        }
        // Cleared last: whoever waits sees the work done. What came in between is still in the lists, so look again.
        cpu.requests.fetch_and(!(asked & (request::FLUSH | request::PROTECT)), Ordering::SeqCst);
        let late_protect = !cpu.protect.lock().unwrap().is_empty();
        let late_flush = !cpu.flushes.lock().unwrap().is_empty();
        let late = late_protect as u32 * request::PROTECT | late_flush as u32 * request::FLUSH;
        if late != 0 {
            cpu.requests.fetch_or(late, Ordering::SeqCst);
            self.serve_tables(cpu);
        }
    }

    /// After the front end has changed the state: tells the tables which address spaces are current.
    pub(super) fn follow_spaces(&mut self, m: &Machine) {
        let mut changed = 0u8;
        for r in 0..REGIMES as u8 {
            let tag = m.system().address_space(&self.block.block.state, r);
            if tag != self.tlb.space_of(r) && self.tlb.enter_space(r, tag) {
                changed |= 1 << r;
            }
        }
        if changed != 0 {
            self.block.l1.leave_space(changed);
            self.forget(Jumps::ForgetLocal);
        }
    }
}

/// Most flushes that a vCPU is asked for one by one.
const FLUSHES_MAX: usize = 64;

impl Environment for Env<'_> {
    fn index(&self) -> usize {
        self.cpu.index
    }

    fn count(&self) -> usize {
        self.m.cpus.len()
    }

    fn physical(&self) -> &dyn Physical {
        &self.memory
    }

    fn flush(&mut self, flush: Flush, everyone: bool) {
        log::trace!(target: "mmu", "mmu: CPU {} drops {flush:x?}{}", self.cpu.index, if everyone { ", on all CPUs" } else { "" });
        let jumps = self.tlb.flush(flush, self.l1);
        self.jump_bits.forget(self.jumps, jumps);
        if !everyone || self.m.cpus.len() == 1 {
            return;
        }
        for c in self.m.cpus.iter().filter(|c| c.index != self.cpu.index) {
            let mut flushes = c.flushes.lock().unwrap();
            if flushes.len() >= FLUSHES_MAX {
                // Dropping everything is less work by now.
                flushes.clear();
                flushes.push(Flush::All { regimes: !0 });
            } else {
                flushes.push(flush);
            }
            drop(flushes);
            c.ask(request::FLUSH);
        }
    }

    fn finish_flushes(&mut self) {
        for c in self.m.cpus.iter().filter(|c| c.index != self.cpu.index) {
            self.m.wait_for(c, request::FLUSH);
        }
    }

    fn code_changed(&mut self, range: Option<(u64, u64)>) {
        // Writes to translated code are noticed when they happen; only what is named explicitly is dropped again.
        if let Some((phys, len)) = range {
            self.m.invalidate(phys, len);
        }
    }

    fn clock_ns(&self) -> u64 {
        self.m.clock.now_ns()
    }

    fn set_timer(&mut self, timer: usize, deadline_ns: Option<u64>) {
        if self.timers.len() <= timer {
            self.timers.resize_with(timer + 1, || None);
        }
        let (clock, cpu) = (&self.m.clock, self.cpu);
        self.timers[timer].get_or_insert_with(|| OutputTimer::new(clock, cpu, timer)).set(deadline_ns);
    }

    fn set_output(&mut self, output: usize, level: bool) {
        self.cpu.set_output(output, level);
    }

    fn inputs(&self) -> u32 {
        self.cpu.inputs.load(Ordering::SeqCst)
    }

    fn set_input(&mut self, input: u32, level: bool) {
        if level {
            self.cpu.inputs.fetch_or(1 << input, Ordering::SeqCst);
        } else {
            self.cpu.inputs.fetch_and(!(1 << input), Ordering::SeqCst);
        }
    }

    fn power(&mut self, request: Power) -> PowerAnswer {
        match request {
            Power::CpuOn { cpu, entry, context } => {
                let Some(target) = self.m.cpus.get(cpu) else { return PowerAnswer::NoSuchCpu };
                let mut start = target.start.lock().unwrap();
                if target.on.load(Ordering::SeqCst) || start.is_some() {
                    return PowerAnswer::AlreadyOn;
                }
                *start = Some((entry, context));
                drop(start);
                target.ask(request::LOOK);
            }
            Power::CpuOff => {
                self.cpu.on.store(false, Ordering::SeqCst);
                self.cpu.ask(request::LOOK);
            }
            Power::SystemOff | Power::SystemReset => {
                if let Some(f) = self.m.on_power.get() {
                    f(request);
                }
                // Nothing of the guest is executed any more until somebody else has done it.
                self.m.paused.store(true, Ordering::SeqCst);
                self.m.ask_all(request::LOOK);
            }
        }
        PowerAnswer::Done
    }

    fn is_on(&self, cpu: usize) -> bool {
        self.m.cpus.get(cpu).is_some_and(|c| c.on.load(Ordering::SeqCst))
    }

    fn cpu_interface(&self) -> Option<&dyn CpuInterface> {
        self.cpu.interface.get().map(|i| &**i)
    }

    fn send_event(&mut self) {
        for c in &self.m.cpus {
            c.event.store(true, Ordering::SeqCst);
            if c.parking.is_sleeping() || self.m.one_thread() {
                c.kick();
            }
        }
    }
}
