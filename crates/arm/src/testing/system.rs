//! For tests of the system level: a CPU of a machine, whose traps and faults go to its own `cpu::system::System`.

use super::{CODE, Machine};
use crate::state::{self, bank, cpsr};
use crate::system::Options;
use crate::{Arm, features};
use cpu::system::{After, Alone, Failure};
use cpu::{FaultKind, Guest};
use ir::TrapKind;
use ir::interp::Outcome;

/// Where tests put the vectors: in the code, after the program.
pub const VECTORS: u32 = CODE + 0x800;

impl Machine {
    /// Makes the CPU one of a machine: in `mode` with nothing masked, vectors at [`VECTORS`], floating point on.
    pub fn in_machine(self, mode: u32) -> Machine {
        self.in_machine_with("cortex-a15", Options::default(), mode)
    }

    pub fn in_machine_with(mut self, model: &str, options: Options, mode: u32) -> Machine {
        let thumb = state::key::thumb(self.state.u64_at(ir::state::KEY));
        let old = self.state.clone();
        self.arm = Arm::machine(features::model(model).expect("a model"), options);
        self.arm.reset(&mut self.state);
        for n in 0..15 {
            self.state.set_u32(state::r(n), old.u32_at(state::r(n)));
        }
        self.state.set_u32(ir::state::FLAGS, old.u32_at(ir::state::FLAGS));
        for secure in [false, true] {
            self.state.set_u32(state::sys::bank(state::sys::VBAR, secure), VECTORS);
        }
        self.state.set_u32(state::sys::MVBAR, VECTORS);
        self.state.set_u32(state::sys::HVBAR, VECTORS);
        self.state.set_u32(state::sys::CPACR, 0xf << 20);
        self.state.set_u32(bank::FPEXC, bank::FPEXC_EN);
        // As if translation were on: it alone makes unaligned accesses possible.
        for secure in [false, true] {
            self.state.set_u32(state::sys::bank(state::sys::SCTLR, secure), state::sys::sctlr::M);
        }
        state::interwork(&mut self.state, CODE | thumb as u32);
        self.set_mode(mode)
    }

    /// Moves to another mode with nothing masked; the core registers keep their values.
    pub fn set_mode(mut self, mode: u32) -> Machine {
        let old = self.state.clone();
        self.write_cpsr(state::read_cpsr(&self.state) & !(cpsr::M | bank::MASKS) | cpsr::MODE_USER | mode);
        for n in 0..15 {
            self.state.set_u32(state::r(n), old.u32_at(state::r(n)));
        }
        self
    }

    pub fn cpsr(&self) -> u32 {
        state::read_cpsr(&self.state)
    }

    pub fn write_cpsr(&mut self, value: u32) {
        self.arm.write_cpsr(&mut self.state, value, !0, crate::exception::By::Outside);
    }

    /// Register `n` of the bank of a mode.
    pub fn banked(&self, mode: u32, n: u32) -> u32 {
        self.state.u32_at(bank::place(self.cpsr() & 15, mode, n))
    }

    pub fn set_banked(mut self, mode: u32, n: u32, value: u32) -> Machine {
        let place = bank::place(self.cpsr() & 15, mode, n);
        self.state.set_u32(place, value);
        self
    }

    pub fn spsr(&self) -> u32 {
        self.state.u32_at(self.spsr_place())
    }

    pub fn set_spsr(mut self, value: u32) -> Machine {
        let place = self.spsr_place();
        self.state.set_u32(place, value);
        self
    }

    fn spsr_place(&self) -> u32 {
        bank::Bank::of(self.cpsr() & 15).expect("a mode").spsr()
    }

    /// What `stopped` tells, handled by the system level.
    pub fn handle(&mut self, env: &mut Alone) -> After {
        let system = self.arm.system().expect("a machine");
        match self.stopped.take() {
            Some(Outcome::Trap { kind, arg, .. }) => system.trap(&mut self.state, env, kind, arg),
            Some(Outcome::Fault { fault, .. }) => {
                let why = match fault.kind {
                    FaultKind::Alignment => Failure::Alignment,
                    _ => Failure::External { phys: fault.addr },
                };
                let regime = system.regime(self.state.u64_at(ir::state::KEY));
                system.fail(&mut self.state, env, regime, fault.addr, fault.access, why);
                After::Run
            }
            _ => After::Run,
        }
    }

    /// Executes `n` instructions, one at a time, with their exceptions.
    pub fn instructions(mut self, n: u32) -> Machine {
        let mut env = Alone::default();
        for _ in 0..n {
            if !self.step(1) {
                self.handle(&mut env);
            }
        }
        self
    }

    /// The exception vector where execution is, if it is at one.
    pub fn vector(&self) -> Option<u32> {
        self.pc().checked_sub(VECTORS).filter(|v| *v < 0x20)
    }

    /// Whether it stopped by a trap of this kind.
    pub fn trapped(&self, kind: TrapKind) -> bool {
        self.trap() == Some(kind)
    }
}

/// Random privileged instructions in every mode leave a state that makes sense, and never a panic.
#[cfg(test)]
mod tests {
    use super::super::DATA;
    use super::*;
    use crate::state::bank::mode;

    #[test]
    fn random_words_in_every_mode_never_panic() {
        let mut x = 0x1234_5678u32;
        let mut next = move || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x
        };
        let everything = Options { secure: true, virtualization: true, ..Options::default() };
        for round in 0..4000u32 {
            let modes = [mode::SVC, mode::IRQ, mode::FIQ, mode::SYS, mode::USR, mode::HYP, mode::MON];
            let of = modes[round as usize % modes.len()];
            let options = if of == mode::HYP || of == mode::MON { everything } else { Options::default() };
            // Rows of the status, branch, coprocessor and block transfer chapters, more often than chance would have it.
            let shape = [0xe100_0000u32, 0xf100_0000, 0xf800_0000, 0xee00_0000, 0xe850_0000, 0xec40_0000, 0xe320_f000];
            let base = shape[(next() % 7) as usize];
            let word = base | next() & if base == 0xe320_f000 { 0xff } else { 0x00ff_ffff };
            let thumb = [0xf3a0_8000u32, 0xf380_8000, 0xe800_c000, 0xf3d0_8f00, 0xf7e0_8000, 0xb660_0000];
            let wide = thumb[(next() % 6) as usize] | next() & 0x007f_ffff;
            for mut m in [Machine::a32(&[word]), Machine::thumb(&[(wide >> 16) as u16, wide as u16])] {
                m = m.in_machine_with("max", options, of);
                for n in 0..15 {
                    m = m.set_r(n, if n & 1 == 0 { DATA + (round & 0xff0) } else { next() });
                }
                let m = m.instructions(3);
                assert!(bank::Bank::of(m.cpsr() & 15).is_some(), "{word:#x} {wide:#x}: mode {:#x}", m.cpsr());
            }
        }
    }
}
