//! `impl cpu::Guest`: one Arm CPU model, in user mode.

use crate::features::{Features, Model};
use crate::state::{self, key};
use crate::translate::Translator;
use cpu::{Code, Guest, Limits, Register};
use ir::{Builder, Helper, Layout, State};
use std::fmt::Write;

/// One CPU model.
#[derive(Clone)]
pub struct Arm {
    pub features: Features,
    pub model: &'static Model,
    layout: Layout,
}

impl Arm {
    pub fn new(model: &'static Model) -> Arm {
        Arm { features: model.features, model, layout: state::layout() }
    }
}

/// r0-r15, cpsr: the order of GDB's `org.gnu.gdb.arm.core`.
static REGISTERS: [Register; 17] = {
    const fn core(name: &'static str) -> Register {
        Register { name, bits: 32 }
    }
    [
        core("r0"),
        core("r1"),
        core("r2"),
        core("r3"),
        core("r4"),
        core("r5"),
        core("r6"),
        core("r7"),
        core("r8"),
        core("r9"),
        core("r10"),
        core("r11"),
        core("r12"),
        core("sp"),
        core("lr"),
        core("pc"),
        core("cpsr"),
    ]
};

impl Guest for Arm {
    fn name(&self) -> &'static str {
        "arm"
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn helpers(&self) -> &[Helper] {
        crate::helper::HELPERS
    }

    fn reset(&self, state: &mut State) {
        *state.bytes_mut() = [0; ir::state::STATE_BYTES];
        state.set_u32(ir::state::FLAGS, state::word_of_nzcv(0));
        state.set_u32(state::FPSCR_NZCV, state::word_of_nzcv(0));
    }

    fn translate(&self, key: u64, limits: Limits, code: &dyn Code, b: &mut Builder) {
        Translator::region(self.features, key, limits, code, b);
    }

    fn pc(&self, key: u64) -> u64 {
        key::pc(key) as u64
    }

    fn key_at(&self, region: u64, delta: i32, note: u32) -> u64 {
        let pc = key::pc(region).wrapping_add(delta as u32) as u64;
        pc | region & (key::STATIC | key::T) | ((note & 0xff) as u64) << key::IT_SHIFT
    }

    fn flags_dead(&self, key: u64, code: &dyn Code) -> Option<(u64, u32)> {
        crate::peek::flags_dead(key, code)
    }

    fn disassemble(&self, key: u64, code: &dyn Code) -> (String, u32) {
        crate::disassemble::instruction(key, code)
    }

    fn registers(&self) -> &[Register] {
        &REGISTERS
    }

    fn read_register(&self, state: &State, number: usize) -> u128 {
        match number {
            0..=14 => state.u32_at(state::r(number as u32)) as u128,
            15 => state::read_pc(state) as u128,
            16 => state::read_cpsr(state) as u128,
            _ => 0,
        }
    }

    fn write_register(&self, state: &mut State, number: usize, value: u128) {
        match number {
            0..=14 => state.set_u32(state::r(number as u32), value as u32),
            15 => state::write_pc(state, value as u32),
            16 => state::write_cpsr(state, value as u32),
            _ => {}
        }
    }

    fn dump(&self, state: &State) -> String {
        let mut text = String::new();
        for n in 0..16 {
            let value = self.read_register(state, n) as u32;
            let end = if n % 4 == 3 { '\n' } else { ' ' };
            let _ = write!(text, "R{n:02}={value:08x}{end}");
        }
        let cpsr = state::read_cpsr(state);
        let flag = |bit: u32, c: char| if cpsr >> bit & 1 != 0 { c } else { '-' };
        let set = if cpsr & state::cpsr::T != 0 { 'T' } else { 'A' };
        let (n, z, c, v) = (flag(31, 'N'), flag(30, 'Z'), flag(29, 'C'), flag(28, 'V'));
        let _ = writeln!(text, "PSR={cpsr:08x} {n}{z}{c}{v} {set} usr32");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dump_has_the_established_layout() {
        let arm = Arm::new(crate::features::model("max").unwrap());
        let mut s = State::default();
        arm.reset(&mut s);
        state::interwork(&mut s, 0x1_051d);
        arm.write_register(&mut s, 16, 0x2000_0030);
        arm.write_register(&mut s, 10, 0x6_8000);
        let text = arm.dump(&s);
        assert!(text.contains("R08=00000000 R09=00000000 R10=00068000 R11=00000000\n"), "{text}");
        assert!(text.ends_with("R15=0001051c\nPSR=20000030 --C- T usr32\n"), "{text}");
    }
}
