//! `impl cpu::Guest`: one Arm CPU model, in user mode or in a machine.

use crate::features::{Features, Model};
use crate::debugger;
use crate::exception::By;
use crate::state::bank::{self, mode};
use crate::state::{self, key};
use crate::system::Options;
use crate::translate::Translator;
use cpu::system::System;
use cpu::{Code, Guest, Limits, Register};
use ir::{Builder, Helper, Layout, State};
use std::fmt::Write;
use std::sync::LazyLock;

/// One CPU model.
#[derive(Clone, Copy)]
pub struct Arm {
    pub features: Features,
    pub model: &'static Model,
    /// In a machine; `None` in user-mode emulation.
    pub options: Option<Options>,
}

static LAYOUT: LazyLock<Layout> = LazyLock::new(state::layout);

impl Arm {
    /// A CPU for user-mode emulation.
    pub fn new(model: &'static Model) -> Arm {
        Arm { features: model.features, model, options: None }
    }

    /// A CPU of a machine.
    pub fn machine(model: &'static Model, options: Options) -> Arm {
        Arm { features: model.features, model, options: Some(options) }
    }
}

/// Number of the first doubleword register, after the core registers and CPSR.
const FIRST_D: usize = 17;

const CORE: &str = "org.gnu.gdb.arm.core";
const VFP: &str = "org.gnu.gdb.arm.vfp";

/// Number of the first quadword register.
const FIRST_Q: usize = FIRST_D + 32;

/// r0-r15, cpsr; then d0 on, q0 on where there is Advanced SIMD, and fpscr, as GDB's `org.gnu.gdb.arm.core` and
/// `org.gnu.gdb.arm.vfp` want them.
fn register_list(d_registers: u32, quad: bool) -> Vec<Register> {
    let core = |name, kind| Register { name, bits: 32, feature: CORE, kind };
    let kind = |n| match n {
        13 => "data_ptr",
        15 => "code_ptr",
        _ => "int",
    };
    let mut list: Vec<_> = (0..16).map(|n| core(state::register_name(n), kind(n))).collect();
    list.push(core("cpsr", "int"));
    let d_kind = if quad { "neon_d" } else { "ieee_double" };
    list.extend((0..d_registers).map(|n| Register { name: state::d_name(n), bits: 64, feature: VFP, kind: d_kind }));
    if quad {
        list.extend(Q_NAMES.map(|name| Register { name, bits: 128, feature: VFP, kind: "neon_q" }));
    }
    if d_registers > 0 {
        list.push(Register { name: "fpscr", bits: 32, feature: VFP, kind: "int" });
    }
    list
}

const Q_NAMES: [&str; 16] =
    ["q0", "q1", "q2", "q3", "q4", "q5", "q6", "q7", "q8", "q9", "q10", "q11", "q12", "q13", "q14", "q15"];

static NO_FP: LazyLock<Vec<Register>> = LazyLock::new(|| register_list(0, false));
static D16: LazyLock<Vec<Register>> = LazyLock::new(|| register_list(16, false));
static D32: LazyLock<Vec<Register>> = LazyLock::new(|| register_list(32, false));
static NEON: LazyLock<Vec<Register>> = LazyLock::new(|| register_list(32, true));

impl Guest for Arm {
    fn name(&self) -> &'static str {
        "arm"
    }

    fn layout(&self) -> &Layout {
        &LAYOUT
    }

    fn helpers(&self) -> &[Helper] {
        crate::helper::HELPERS
    }

    fn reset(&self, state: &mut State) {
        *state.bytes_mut() = [0; ir::state::STATE_BYTES];
        state.set_u32(ir::state::FLAGS, state::word_of_nzcv(0));
        state.set_u32(state::FPSCR_NZCV, state::word_of_nzcv(0));
        state.set_u32(state::FPSID, self.model.fpsid());
        if self.options.is_some() {
            crate::sysreg::reset(self, state);
            self.reset_system(state);
        }
    }

    fn translate(&self, key: u64, limits: Limits, code: &dyn Code, b: &mut Builder) {
        Translator::region(*self, key, limits, code, b);
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

    fn code_unit(&self, key: u64) -> u32 {
        if key::thumb(key) { 2 } else { 4 }
    }

    fn registers(&self) -> &[Register] {
        match self.options {
            Some(options) => &debugger::registers(self, options, self.ordinary_registers()).list,
            None => self.ordinary_registers(),
        }
    }

    fn read_register(&self, state: &State, number: usize) -> u128 {
        let ordinary = self.ordinary_registers().len();
        match number {
            0..=14 => state.u32_at(state::r(number as u32)) as u128,
            15 => state::read_pc(state) as u128,
            16 => state::read_cpsr(state) as u128,
            n if n + 1 == ordinary => state::read_fpscr(state) as u128,
            n if n < ordinary && n >= FIRST_Q => state.u128_at(state::q((n - FIRST_Q) as u32)),
            n if n < ordinary => state.u64_at(state::d((n - FIRST_D) as u32)) as u128,
            n => self.options.map_or(0, |options| {
                let registers = debugger::registers(self, options, self.ordinary_registers());
                self.read_extra(registers, state, n).into()
            }),
        }
    }

    fn write_register(&self, state: &mut State, number: usize, value: u128) {
        let ordinary = self.ordinary_registers().len();
        match number {
            0..=14 => state.set_u32(state::r(number as u32), value as u32),
            15 => state::write_pc(state, value as u32),
            16 if self.options.is_some() => self.write_cpsr(state, value as u32, !0, By::Outside),
            16 => state::write_cpsr(state, value as u32),
            n if n + 1 == ordinary => state::write_fpscr(state, self.features, value as u32),
            n if n < ordinary && n >= FIRST_Q => state.set_u128(state::q((n - FIRST_Q) as u32), value),
            n if n < ordinary => state.set_u64(state::d((n - FIRST_D) as u32), value as u64),
            n => {
                if let Some(options) = self.options {
                    let registers = debugger::registers(self, options, self.ordinary_registers());
                    self.write_extra(registers, state, n, value as u32);
                }
            }
        }
    }

    fn system(&self) -> Option<&dyn System> {
        self.options.is_some().then_some(self as &dyn System)
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
        let world = match self.options {
            Some(o) if o.secure && key::mode(state.u64_at(ir::state::KEY)) != mode::MON => {
                if state.u32_at(state::sys::SCR) & state::sys::scr::NS != 0 { "NS " } else { "S " }
            }
            _ => "",
        };
        let mode = bank::mode_name(cpsr & 15);
        let _ = writeln!(text, "PSR={cpsr:08x} {n}{z}{c}{v} {set} {world}{mode}32");
        if self.options.is_some() {
            self.dump_fp(state, &mut text);
        }
        text
    }
}

impl Arm {
    /// Core and floating-point registers.
    fn ordinary_registers(&self) -> &'static [Register] {
        if !self.features.has(Features::VFP2) {
            &NO_FP
        } else if !self.features.has(Features::D32) {
            &D16
        } else if !self.features.has(Features::NEON) {
            &D32
        } else {
            &NEON
        }
    }

    fn d_registers(&self) -> u32 {
        match self.features {
            f if f.has(Features::D32) => 32,
            f if f.has(Features::VFP2) => 16,
            _ => 0,
        }
    }

    /// Doubleword registers, also as single ones, and FPSCR.
    fn dump_fp(&self, state: &State, text: &mut String) {
        for n in 0..self.d_registers() {
            let v = state.u64_at(state::d(n));
            let (low, high) = (v as u32, v >> 32);
            let _ = writeln!(text, "s{:02}={low:08x} s{:02}={high:08x} d{n:02}={v:016x}", 2 * n, 2 * n + 1);
        }
        let _ = writeln!(text, "FPSCR: {:08x}", state::read_fpscr(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debuggers_see_floating_point_registers_after_cpsr() {
        let arm = Arm::new(named("max"));
        let mut s = State::default();
        arm.reset(&mut s);
        let names = [17, 48, 49, 64, 65].map(|n: usize| arm.registers()[n].name);
        assert_eq!((arm.registers().len(), names), (66, ["d0", "d31", "q0", "q15", "fpscr"]));
        arm.write_register(&mut s, 48, 0x3ff0_0000_0000_0000);
        assert_eq!(arm.read_register(&s, 48), 0x3ff0_0000_0000_0000);
        assert_eq!(arm.read_register(&s, 64), 0x3ff0_0000_0000_0000 << 64);
        arm.write_register(&mut s, 49, 5 << 64 | 7);
        assert_eq!((arm.read_register(&s, 17), arm.read_register(&s, 18)), (7, 5));
        let fpscr = 0xf7ff_009f;
        arm.write_register(&mut s, 65, fpscr);
        assert_eq!(arm.read_register(&s, 65), fpscr);
        assert_eq!(s.u64_at(ir::state::KEY) & state::key::FPSCR, state::key::FPSCR);
        assert_eq!(Arm::new(named("arm1176")).registers().len(), 34);
        assert_eq!(Arm::new(named("sa1110")).registers().len(), 17);
    }

    fn named(name: &str) -> &'static Model {
        crate::features::model(name).expect("a model")
    }

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
