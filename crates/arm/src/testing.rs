//! For tests: runs instruction words on the interpreter with a small flat memory.

pub mod system;

use crate::state;
use crate::{Arm, features};
use cpu::{Access, Code, Fault, FaultKind, Guest, Limits};
use ir::interp::{Bus, Outcome};
use ir::{Builder, State, TrapKind};

/// Where test code lies.
pub const CODE: u32 = 0x1_0000;
/// Where test data lies.
pub const DATA: u32 = 0x2_0000;
const DATA_BYTES: usize = 0x1000;
const CODE_BYTES: usize = 0x1000;
/// UDF #0: what code memory is filled with, so that a program ends after its last instruction.
const END_A32: u32 = 0xe7f0_00f0;
const END_T16: u32 = 0xde00;

/// An outcome without what depends on where regions begin.
fn sort_of(o: Outcome) -> Outcome {
    match o {
        Outcome::Fault { fault, note, .. } => Outcome::Fault { fault, delta: 0, note },
        other => other,
    }
}

/// Flat memory: code and data.
#[derive(Clone)]
pub struct Memory {
    pub code: Vec<u8>,
    pub data: Vec<u8>,
    monitor: Option<(u64, u8, u128)>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { code: vec![0; CODE_BYTES], data: vec![0; DATA_BYTES], monitor: None }
    }
}

impl Memory {
    fn slice(&mut self, addr: u64, size: usize, write: bool) -> Result<&mut [u8], Fault> {
        let access = if write { Access::Write } else { Access::Read };
        let at = |base: u32, len: usize| addr.checked_sub(base as u64).map(|o| o as usize).filter(|o| o + size <= len);
        if let Some(o) = at(DATA, DATA_BYTES) {
            return Ok(&mut self.data[o..o + size]);
        }
        match at(CODE, CODE_BYTES) {
            Some(o) if !write => Ok(&mut self.code[o..o + size]),
            Some(_) => Err(Fault { addr, access, kind: FaultKind::Denied }),
            None => Err(Fault { addr, access, kind: FaultKind::Unmapped }),
        }
    }
}

impl Bus for Memory {
    fn load(&mut self, addr: u64, size: u8) -> Result<u128, Fault> {
        let mut raw = [0; 16];
        raw[..size as usize].copy_from_slice(self.slice(addr, size as usize, false)?);
        Ok(u128::from_le_bytes(raw))
    }

    fn store(&mut self, addr: u64, size: u8, value: u128) -> Result<(), Fault> {
        self.slice(addr, size as usize, true)?.copy_from_slice(&value.to_le_bytes()[..size as usize]);
        Ok(())
    }

    fn compare_exchange(&mut self, addr: u64, size: u8, expected: u128, new: u128) -> Result<u128, Fault> {
        let old = self.load(addr, size)?;
        if old == expected {
            self.store(addr, size, new)?;
        }
        Ok(old)
    }

    fn load_exclusive(&mut self, addr: u64, size: u8) -> Result<u128, Fault> {
        let v = self.load(addr, size)?;
        self.monitor = Some((addr, size, v));
        Ok(v)
    }

    fn store_exclusive(&mut self, addr: u64, size: u8, value: u128) -> Result<bool, Fault> {
        match self.monitor.take() {
            Some((a, s, old)) if (a, s) == (addr, size) && self.load(addr, size)? == old => {
                self.store(addr, size, value)?;
                Ok(true)
            }
            _ => {
                self.slice(addr, size as usize, true)?;
                Ok(false)
            }
        }
    }

    fn clear_exclusive(&mut self) {
        self.monitor = None;
    }
}

impl Code for Memory {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        let Some(from) = addr.checked_sub(CODE as u64).map(|o| o as usize).filter(|&o| o <= self.code.len()) else {
            return 0;
        };
        let n = buf.len().min(self.code.len() - from);
        buf[..n].copy_from_slice(&self.code[from..from + n]);
        n
    }
}

/// A CPU with memory.
#[derive(Clone)]
pub struct Machine {
    pub arm: Arm,
    pub state: Box<State>,
    pub memory: Memory,
    /// The last trap or fault.
    pub stopped: Option<Outcome>,
}

impl Machine {
    pub fn new(model: &str) -> Machine {
        let arm = Arm::new(features::model(model).expect("a model"));
        let mut state = State::new();
        arm.reset(&mut state);
        state::interwork(&mut state, CODE);
        Machine { arm, state, memory: Memory::default(), stopped: None }
    }

    /// An A32 program.
    pub fn a32(words: &[u32]) -> Machine {
        let mut m = Machine::new("max");
        for word in m.memory.code.chunks_exact_mut(4) {
            word.copy_from_slice(&END_A32.to_le_bytes());
        }
        for (i, w) in words.iter().enumerate() {
            m.memory.code[4 * i..4 * i + 4].copy_from_slice(&w.to_le_bytes());
        }
        m
    }

    /// A Thumb program; 32-bit instructions are two halfwords, first halfword first.
    pub fn thumb(halves: &[u16]) -> Machine {
        let mut m = Machine::new("max");
        for half in m.memory.code.chunks_exact_mut(2) {
            half.copy_from_slice(&(END_T16 as u16).to_le_bytes());
        }
        for (i, h) in halves.iter().enumerate() {
            m.memory.code[2 * i..2 * i + 2].copy_from_slice(&h.to_le_bytes());
        }
        state::interwork(&mut m.state, CODE | 1);
        m
    }

    pub fn r(&self, n: u32) -> u32 {
        self.state.u32_at(state::r(n))
    }

    pub fn set_r(mut self, n: u32, value: u32) -> Machine {
        self.state.set_u32(state::r(n), value);
        self
    }

    pub fn set_data(mut self, offset: usize, bytes: &[u8]) -> Machine {
        self.memory.data[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn d(&self, n: u32) -> u64 {
        self.state.u64_at(state::d(n))
    }

    pub fn q(&self, n: u32) -> u128 {
        self.state.u128_at(state::q(n))
    }

    pub fn set_d(mut self, n: u32, value: u64) -> Machine {
        self.state.set_u64(state::d(n), value);
        self
    }

    pub fn set_q(mut self, n: u32, value: u128) -> Machine {
        self.state.set_u128(state::q(n), value);
        self
    }

    pub fn fpscr(&self) -> u32 {
        state::read_fpscr(&self.state)
    }

    pub fn set_fpscr(mut self, value: u32) -> Machine {
        state::write_fpscr(&mut self.state, self.arm.features, value);
        self
    }

    /// N, Z, C, V as letters, for example "nZCv".
    pub fn nzcv(&self) -> String {
        let v = state::read_cpsr(&self.state);
        [(31, 'N'), (30, 'Z'), (29, 'C'), (28, 'V')]
            .map(|(bit, c)| if v >> bit & 1 != 0 { c } else { c.to_ascii_lowercase() })
            .iter()
            .collect()
    }

    /// Sets N, Z, C, V from such letters.
    pub fn set_nzcv(mut self, text: &str) -> Machine {
        let mut v = state::read_cpsr(&self.state) & 0x0fff_ffff;
        for (c, bit) in text.chars().zip([31, 30, 29, 28]) {
            v |= (c.is_ascii_uppercase() as u32) << bit;
        }
        state::write_cpsr(&mut self.state, v);
        self
    }

    pub fn pc(&self) -> u32 {
        state::read_pc(&self.state)
    }

    /// Translates and interprets one region of at most `max_insns` instructions. False once stopped by a trap or fault.
    pub fn step(&mut self, max_insns: u32) -> bool {
        let key = self.state.u64_at(ir::state::KEY);
        let mut b = Builder::new();
        b.begin(key, self.arm.pc(key));
        self.arm.translate(key, Limits { max_insns, relative: false }, &self.memory, &mut b);
        let region = b.take();
        if let Err(what) = ir::verify::verify(&region) {
            panic!("{what}\n{}", ir::text::print(&region));
        }
        let outcome = ir::interp::run(&region, 32, &mut self.state, &mut self.memory, self.arm.helpers());
        match outcome {
            Outcome::Goto(next) => {
                self.state.set_u64(ir::state::KEY, next);
                return true;
            }
            Outcome::Trap { key: next, .. } => self.state.set_u64(ir::state::KEY, next),
            Outcome::Fault { delta, note, .. } => {
                self.state.set_u64(ir::state::KEY, self.arm.key_at(key, delta, note));
            }
        }
        self.stopped = Some(outcome);
        false
    }

    /// Runs until a trap or fault, or the end of the program; at most 1000 regions. Does so in long regions and one
    /// instruction at a time, which must agree.
    pub fn run(mut self) -> Machine {
        let mut single = Machine {
            arm: self.arm.clone(),
            state: self.state.clone(),
            memory: self.memory.clone(),
            stopped: self.stopped,
        };
        for (m, limit) in [(&mut self, 32), (&mut single, 1)] {
            let mut regions = 0;
            while m.step(limit) && regions < 1000 {
                regions += 1;
            }
            if let Some(Outcome::Trap { kind: TrapKind::Undefined, arg: END_A32 | END_T16, .. }) = m.stopped {
                m.stopped = None;
            }
        }
        assert_eq!(self.stopped.map(sort_of), single.stopped.map(sort_of), "long and single regions stop alike");
        assert_eq!(self.state.bytes()[..], single.state.bytes()[..], "long and single regions agree");
        assert!(self.memory.data == single.memory.data, "long and single regions store alike");
        self
    }

    /// The kind of the trap that stopped it.
    pub fn trap(&self) -> Option<TrapKind> {
        match self.stopped {
            Some(Outcome::Trap { kind, .. }) => Some(kind),
            _ => None,
        }
    }

    pub fn fault(&self) -> Option<Fault> {
        match self.stopped {
            Some(Outcome::Fault { fault, .. }) => Some(fault),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random code decodes, translates to well-formed regions and executes without a panic.
    #[test]
    fn random_words_translate_to_valid_regions() {
        let mut x = 0x9e37_79b9u32;
        let mut next = move || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x
        };
        for round in 0..3000 {
            let words: Vec<u32> = (0..12).map(|_| next()).collect();
            let halves: Vec<u16> = words.iter().flat_map(|w| [(w >> 16) as u16 | 0xe800, *w as u16]).collect();
            let mut a32 = Machine::a32(&words);
            // Always-executed words reach more rows than random conditions.
            let always: Vec<u32> = words.iter().map(|w| w & 0x0fff_ffff | 0xe000_0000).collect();
            let mut unconditional = Machine::a32(&always);
            let mut t32 = Machine::thumb(&halves);
            for m in [&mut a32, &mut unconditional, &mut t32] {
                for n in 0..15 {
                    m.state.set_u32(crate::state::r(n), if n & 1 == 0 { DATA + (round & 0xff0) } else { next() });
                }
                m.step(12);
            }
        }
    }
}
