//! The interpreter: executes a region exactly as the table in `ops` says. It is the oracle of every other executor and the
//! fallback where there is none.

use crate::ops::Op;
use crate::region::*;
use crate::state::{FP_FLAGS, State};

pub mod pure;
pub mod vector;

/// Why an access failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// Nothing is mapped there.
    Unmapped,
    /// Mapped, but not for this access.
    Denied,
    /// Mapped, but there is nothing behind it (past the end of a file).
    Bus,
    /// Not a multiple of what the access demands.
    Alignment,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
    Execute,
}

/// A failed guest access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    pub addr: u64,
    pub access: Access,
    pub kind: FaultKind,
}

/// Guest memory as the interpreter sees it. `size` is 1, 2, 4, 8 or 16; values are little-endian numbers.
pub trait Bus {
    fn load(&mut self, addr: u64, size: u8) -> Result<u128, Fault>;
    fn store(&mut self, addr: u64, size: u8, value: u128) -> Result<(), Fault>;
    /// Atomically replaces `expected` by `new`; gives the old memory.
    fn compare_exchange(&mut self, addr: u64, size: u8, expected: u128, new: u128) -> Result<u128, Fault>;
    /// Opens the exclusive monitor.
    fn load_exclusive(&mut self, addr: u64, size: u8) -> Result<u128, Fault>;
    /// Whether the store was done.
    fn store_exclusive(&mut self, addr: u64, size: u8, value: u128) -> Result<bool, Fault>;
    fn clear_exclusive(&mut self);
}

/// How a region was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// To the region of this key.
    Goto(u64),
    /// To the run loop; execution resumes at `key`.
    Trap { kind: TrapKind, arg: u32, key: u64 },
    /// A guest access failed in the guest instruction at region pc + `delta`.
    Fault { fault: Fault, delta: i32, note: u32 },
}

/// Executes `region`. Values of type Flags are words in the layout of `Op::FWord`.
pub fn run(region: &Region, address_bits: u8, state: &mut State, bus: &mut dyn Bus, helpers: &[Helper]) -> Outcome {
    let mut m = Machine { region, state, bus, helpers, values: vec![0; region.insts.len()], address_bits };
    let (mut delta, mut note) = (0, 0);
    let mut at = 0;
    while let Some(i) = region.insts.get(at) {
        if i.op == Op::Insn {
            (delta, note) = (i.a as i32, i.b);
        }
        match m.step(at, i) {
            Ok(Next::On) => at += 1,
            Ok(Next::Skip) => {
                while at < region.insts.len() && region.insts[at].op != Op::Label {
                    at += 1;
                }
            }
            Ok(Next::Out(outcome)) => return outcome,
            Err(fault) => return Outcome::Fault { fault, delta, note },
        }
    }
    panic!("region {:#x} has no end", region.key);
}

/// Executes a vector or floating-point operation of vectors: the result (a flags word for `FpCmp`) and the floating-point
/// exceptions it raised. `None` for any other operation.
pub fn eval_vector(i: &Inst, a: u128, b: u128, c: u128) -> Option<(u128, u8)> {
    if (Op::FpAdd as u8..=Op::FpRsqrtStep as u8).contains(&(i.op as u8)) {
        crate::fp::eval(i, a, b, c)
    } else {
        vector::eval(i, a, b, c).map(|r| (r, 0))
    }
}

enum Next {
    On,
    Skip,
    Out(Outcome),
}

struct Machine<'a> {
    region: &'a Region,
    state: &'a mut State,
    bus: &'a mut dyn Bus,
    helpers: &'a [Helper],
    values: Vec<u128>,
    address_bits: u8,
}

impl Machine<'_> {
    fn val(&self, raw: u32) -> u128 {
        if raw == u32::MAX { 0 } else { self.values[raw as usize] }
    }

    fn int(&self, raw: u32) -> u64 {
        self.val(raw) as u64
    }

    fn goto(&self, exit: u32) -> Next {
        Next::Out(Outcome::Goto(self.region.exits[exit as usize].key))
    }

    fn trap(&self, kind: u8, arg: u32, exit: u32) -> Next {
        let key = self.region.exits[exit as usize].key;
        Next::Out(Outcome::Trap { kind: TrapKind::from_u8(kind), arg, key })
    }

    fn step(&mut self, at: usize, i: &Inst) -> Result<Next, Fault> {
        let cc = |m: &Self| Cc::from_u8(i.aux).holds(m.int(i.a) as u32);
        match i.op {
            Op::Insn | Op::Label | Op::PushRet | Op::Fence => {}
            Op::Set => self.state.write(i.a, i.aux, self.val(i.b)),
            Op::Get => self.values[at] = self.state.read(i.a, i.aux),
            Op::VConst => self.values[at] = self.region.vconsts[i.a as usize],
            Op::FpFlagsGet => self.values[at] = self.state.u32_at(FP_FLAGS) as u128,
            Op::FpFlagsSet => self.state.set_u32(FP_FLAGS, self.int(i.a) as u32),
            Op::Call | Op::VCall => self.values[at] = self.call(i),
            Op::Exit => return Ok(self.goto(i.b)),
            Op::ExitCc if cc(self) => return Ok(self.goto(i.b)),
            Op::ExitNz if self.int(i.a) as u32 != 0 => return Ok(self.goto(i.b)),
            Op::ExitZ if self.int(i.a) as u32 == 0 => return Ok(self.goto(i.b)),
            Op::ExitInd => return Ok(Next::Out(Outcome::Goto(self.int(i.a)))),
            Op::Trap => return Ok(self.trap(i.aux, i.a, i.b)),
            Op::TrapNz if self.int(i.a) as u32 != 0 => return Ok(self.trap(i.aux, i.c, i.b)),
            Op::SkipCc if cc(self) => return Ok(Next::Skip),
            Op::SkipNz if self.int(i.a) as u32 != 0 => return Ok(Next::Skip),
            Op::SkipZ if self.int(i.a) as u32 == 0 => return Ok(Next::Skip),
            Op::ExitCc | Op::ExitNz | Op::ExitZ | Op::TrapNz | Op::SkipCc | Op::SkipNz | Op::SkipZ => {}
            Op::Ld | Op::St | Op::LdEx | Op::StEx | Op::ClrEx | Op::Cas | Op::RmwOp => {
                self.values[at] = self.memory(i)?;
            }
            _ => self.values[at] = self.compute(i),
        }
        Ok(Next::On)
    }

    fn compute(&mut self, i: &Inst) -> u128 {
        let (a, b, c) = (self.operand(i, 0), self.operand(i, 1), self.operand(i, 2));
        if let Some(r) = self.mixed(i, a, b) {
            return r;
        }
        if i.gives() == Ty::V128 || i.op == Op::FpCmp {
            let (r, flags) = eval_vector(i, a, b, c).unwrap_or_else(|| panic!("{} has no meaning", i.op.name()));
            let all = self.state.u32_at(FP_FLAGS) | flags as u32;
            self.state.set_u32(FP_FLAGS, all);
            return r;
        }
        pure::eval(i, [a as u64, b as u64, c as u64]).unwrap_or_else(|| panic!("{} has no meaning", i.op.name())) as u128
    }

    /// Value operand number `n`, zero if that column is no value.
    fn operand(&self, i: &Inst, n: usize) -> u128 {
        let raw = [i.a, i.b, i.c][n];
        if i.op.info().operands[n] == crate::ops::Operand::Value { self.val(raw) } else { 0 }
    }

    /// Operations between vectors and integers.
    fn mixed(&self, i: &Inst, a: u128, b: u128) -> Option<u128> {
        let bits = 8u32 << i.aux.min(4);
        let mask = if bits >= 128 { u128::MAX } else { (1 << bits) - 1 };
        Some(match i.op {
            Op::VDup => (0..128 / bits).fold(0, |acc, k| acc | (a & mask) << (bits * k)),
            Op::VInsert => {
                let at = bits * (i.c & (128 / bits - 1));
                a & !(mask << at) | (b & mask) << at
            }
            Op::VExtract => a >> (bits * (i.b & (128 / bits - 1))) & mask,
            Op::Select if i.ty == Ty::V128 => {
                if a as u32 != 0 {
                    b
                } else {
                    self.val(i.c)
                }
            }
            Op::SelectCc if i.ty == Ty::V128 => {
                if Cc::from_u8(i.aux).holds(a as u32) {
                    b
                } else {
                    self.val(i.c)
                }
            }
            _ => return None,
        })
    }

    fn address(&self, raw: u64, disp: u32) -> u64 {
        let sum = raw.wrapping_add(disp as i32 as u64);
        if self.address_bits == 32 { sum as u32 as u64 } else { sum }
    }

    fn memory(&mut self, i: &Inst) -> Result<u128, Fault> {
        let mem = MemOp(i.aux);
        let size = mem.bytes();
        if i.op == Op::ClrEx {
            self.bus.clear_exclusive();
            return Ok(0);
        }
        let disp = if matches!(i.op, Op::Ld | Op::St) { i.b } else { 0 };
        let addr = self.address(self.int(i.a), disp);
        if addr & mem.align_mask() != 0 {
            let access = if matches!(i.op, Op::Ld | Op::LdEx) { Access::Read } else { Access::Write };
            return Err(Fault { addr, access, kind: FaultKind::Alignment });
        }
        Ok(match i.op {
            Op::Ld => extend(i, order(mem, self.bus.load(addr, size)?)),
            Op::LdEx => extend(i, order(mem, self.bus.load_exclusive(addr, size)?)),
            Op::St => {
                self.bus.store(addr, size, order(mem, cut(self.val(i.c), size)))?;
                0
            }
            Op::StEx => !self.bus.store_exclusive(addr, size, order(mem, cut(self.val(i.b), size)))? as u128,
            Op::Cas => {
                let (expected, new) = (cut(self.val(i.b), size), cut(self.val(i.c), size));
                order(mem, self.bus.compare_exchange(addr, size, order(mem, expected), order(mem, new))?)
            }
            _ => self.rmw(i, addr, mem)?,
        })
    }

    fn rmw(&mut self, i: &Inst, addr: u64, mem: MemOp) -> Result<u128, Fault> {
        let size = mem.bytes();
        let operand = cut(self.val(i.b), size);
        loop {
            let raw = self.bus.load(addr, size)?;
            let new = modify(Rmw::ALL[i.c as usize], order(mem, raw), operand, size);
            if self.bus.compare_exchange(addr, size, raw, order(mem, cut(new, size)))? == raw {
                return Ok(order(mem, raw));
            }
        }
    }

    fn call(&mut self, i: &Inst) -> u128 {
        let h = &self.helpers[i.helper()];
        let (a, b, c) = (self.val(i.a), self.val(i.b), self.val(i.c));
        let (va, vb, vc) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        let mut out = [0u8; 16];
        let r = match h.f {
            HelperFn::Pure(f) => f(a as u64, b as u64, c as u64) as u128,
            HelperFn::State(f) => f(self.state, a as u64, b as u64, c as u64) as u128,
            HelperFn::Vec(f) | HelperFn::Crypto(_, f) => {
                f(&mut out, &va, &vb, &vc);
                u128::from_le_bytes(out)
            }
            HelperFn::VecState(f) => {
                f(self.state, &mut out, &va, &vb, &vc);
                u128::from_le_bytes(out)
            }
        };
        if i.ty == Ty::I32 { r as u32 as u128 } else { r }
    }
}

fn cut(v: u128, size: u8) -> u128 {
    if size == 16 { v } else { v & ((1 << (8 * size as u32)) - 1) }
}

/// Reverses the bytes of a value for big-endian accesses.
fn order(mem: MemOp, v: u128) -> u128 {
    if mem.is_swapped() { v.swap_bytes() >> (128 - 8 * mem.bytes() as u32) } else { v }
}

fn extend(i: &Inst, v: u128) -> u128 {
    let mem = MemOp(i.aux);
    if !mem.is_signed() || i.ty == Ty::V128 {
        return v;
    }
    let drop = 64 - 8 * mem.bytes() as u32;
    let wide = ((v as u64) << drop) as i64 >> drop;
    if i.ty == Ty::I32 { wide as u32 as u128 } else { wide as u64 as u128 }
}

/// What a read-modify-write of `size` bytes stores; bits above are to be ignored.
pub fn modify(op: Rmw, old: u128, x: u128, size: u8) -> u128 {
    let drop = 128 - 8 * size as u32;
    let s = |v: u128| (v << drop) as i128 >> drop;
    match op {
        Rmw::Add => old.wrapping_add(x),
        Rmw::And => old & x,
        Rmw::Or => old | x,
        Rmw::Xor => old ^ x,
        Rmw::Xchg => x,
        Rmw::SMin => s(old).min(s(x)) as u128,
        Rmw::SMax => s(old).max(s(x)) as u128,
        Rmw::UMin => old.min(x),
        Rmw::UMax => old.max(x),
        Rmw::AndNot => old & !x,
    }
}
