//! The executor behind the lifecycle: vCPUs, board and boot contents together.

use crate::lifecycle::{Lifecycle, Processors};
use board::arm::virt::{self, Virt};
use board::boot::{self, Blob, Start};
use cpu::system::{CpuInterface, Power};
use fabric::Line;
use ir::State;
use jit::machine::Machine;
use std::sync::{Arc, Weak};

/// Numbers of R1 and R2 among a guest's registers.
const R1: usize = 1;
const R2: usize = 2;

/// The vCPUs' wires for the board.
pub struct Wires<'a>(pub &'a Arc<Machine>);

impl virt::Processors for Wires<'_> {
    fn count(&self) -> usize {
        self.0.count()
    }
    fn input(&self, cpu: usize, number: u32) -> Line {
        self.0.input(cpu, number)
    }
    fn set_output(&self, cpu: usize, output: usize, line: Line) {
        self.0.set_output(cpu, output, line);
    }
    fn set_interface(&self, cpu: usize, interface: Arc<dyn CpuInterface>) {
        self.0.set_cpu_interface(cpu, interface);
    }
}

pub struct Engine {
    pub machine: Arc<Machine>,
    pub board: Virt,
    blobs: Vec<Blob>,
    start: Start,
    /// Program counters that `-device loader` sets.
    starts: Vec<(u32, u64)>,
}

impl Engine {
    pub fn new(machine: Arc<Machine>, board: Virt, blobs: Vec<Blob>, start: Start, starts: Vec<(u32, u64)>) -> Arc<Engine> {
        Arc::new(Engine { machine, board, blobs, start, starts })
    }

    /// What is in memory after each reset.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// Loads memory and resets devices and vCPUs. The blobs have been checked against the memory once.
    pub fn switch_on(&self) -> spec::Result<()> {
        if crate::log::enabled(crate::log::CPU_RESET) {
            for cpu in 0..self.machine.count() {
                let dump = self.machine.with_state(cpu, |state| self.machine.guest().dump(state));
                crate::log::write(&format!("CPU Reset (CPU {cpu})\n{}", jit::trace::without_fp(&dump)));
            }
        }
        self.board.reset();
        boot::load(&self.blobs, self.board.space())?;
        self.machine.reset(&|cpu, state| self.prepare(cpu, state));
        Ok(())
    }

    /// What the boot loader leaves in a vCPU.
    fn prepare(&self, cpu: usize, state: &mut State) {
        let guest = self.machine.guest();
        let system = guest.system().expect("a machine's guest has a system level");
        if let (0, Start::At { entry, registers: [r0, r1, r2] }) = (cpu, self.start) {
            system.start(state, entry, r0.into());
            guest.write_register(state, R1, r1.into());
            guest.write_register(state, R2, r2.into());
        }
        for (_, entry) in self.starts.iter().filter(|(number, _)| *number as usize == cpu) {
            system.start(state, *entry, 0);
        }
    }

    /// Hands the guest's power requests to the lifecycle.
    pub fn connect(self: &Arc<Self>, life: &Arc<Lifecycle>) {
        let life: Weak<Lifecycle> = Arc::downgrade(life);
        self.machine.on_power(Box::new(move |power| {
            let Some(life) = life.upgrade() else { return };
            match power {
                Power::SystemOff => life.guest_shutdown(),
                Power::SystemReset => life.request_reset(crate::lifecycle::Cause::GuestReset),
                Power::CpuOn { .. } | Power::CpuOff => {}
            }
        }));
    }
}

impl Processors for Engine {
    fn pause(&self) {
        self.machine.pause();
    }

    fn resume(&self) {
        self.machine.resume();
    }

    fn reset(&self) {
        if let Err(e) = self.switch_on() {
            unreachable!("the memory has not changed since the blobs were loaded: {e}");
        }
    }
}
