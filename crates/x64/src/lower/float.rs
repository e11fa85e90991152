//! Floating point: host AVX where it gives the guest's result and flags, the runtime otherwise.
//!
//! The guest's MXCSR is loaded while translated code runs, so the host's sticky exceptions are the guest's; they are merged
//! with the state's when somebody looks. Each lowering is an instruction and a check. What the check finds goes to the
//! **cold path**, which lets the runtime execute the whole operation: the result is then right whatever the host made of it,
//! and so are the flags if the host raised no flag that the guest does not. The checks follow from what differs:
//!
//! * NaN results: which NaN it is. The host raises IE for the same operations as the guest, or fewer.
//! * Tininess: Arm detects it before rounding, x86 after it. Of the operations that can be tiny and inexact (multiplication,
//!   division, fused ones, narrowing), only a result that is the smallest normal number can differ.
//! * Flush to zero: the host would raise PE for flushed operands and results, so operands are checked before the operation.
//! * Denormal operands set the host's DE, which nobody looks at.
//!
//! **Not modelled** inline: x86's NaN rule (with its denormal flag), directed rounding, estimates, half precision.

use crate::alloc::{Loc, Lower};
use crate::asm::{Alu, Cc, Gpr, Label, Mem, RAX, VecOp, Width, XRm, Xmm};
use crate::env::{block, call_area, save_area, vec_slot};
use ir::{FpFmt, FpMode, Inst, Op, Val};

mod arith;
mod compare;
mod convert;
mod flush;

/// A rare case left to the runtime, out of line.
pub(crate) struct Slow {
    from: Label,
    back: Label,
    operands: [Option<XRm>; 3],
    packed: u128,
    result: Place,
    /// Free spill slots at the branch: the main path must not spill between it and the way back.
    slots: (u64, u32),
}

/// Where the main path expects the result.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Vec(Xmm),
    Word(Gpr),
}

/// The formats that are lowered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    /// f64, else f32.
    double: bool,
    vector: bool,
}

impl Format {
    fn of(i: &Inst) -> Option<Format> {
        let fmt = FpFmt(i.aux);
        matches!(fmt.log2(), 2 | 3).then(|| Format { double: fmt.log2() == 3, vector: fmt.is_vector() })
    }

    /// Picks the instruction from its ss, sd, ps and pd forms.
    fn pick(self, forms: [VecOp; 4]) -> VecOp {
        forms[self.double as usize | (self.vector as usize) << 1]
    }

    fn log2(self) -> u8 {
        2 + self.double as u8
    }

    fn bytes(self) -> u8 {
        1 << self.log2()
    }

    /// The same number in each lane.
    fn splat(self, lane: u64) -> u128 {
        super::vector::splat(self.log2(), lane)
    }

    fn min_normal(self) -> u128 {
        self.splat(if self.double { 1 << 52 } else { 1 << 23 })
    }

    fn magnitude(self) -> u128 {
        self.splat(if self.double { !(1 << 63) } else { 0x7fff_ffff })
    }

    /// The sign bits of the lanes that take part (single precision): where marks are looked for.
    fn signs(self) -> u128 {
        if self.vector { self.splat(1 << 31) } else { 1 << 31 }
    }

    /// A power of two.
    fn power(self, exponent: i32) -> u128 {
        let field = if self.double { ((exponent + 1023) as u64) << 52 } else { ((exponent + 127) as u64) << 23 };
        self.splat(field)
    }
}

const NEAREST: u8 = 0;
const TOWARDS_ZERO: u8 = 3;

/// The NaN rule is not x86's: everything else can be had from the host and the cold path.
fn plain_rule(m: FpMode) -> bool {
    m.0 >> 6 & 3 != 1
}

impl Lower<'_> {
    /// Emits an operation inline; `false` if it is left to the runtime.
    pub(crate) fn emit_float(&mut self, i: &Inst) -> bool {
        let (Some(f), true) = (Format::of(i), self.env.features.avx) else { return false };
        let m = FpMode(i.fl);
        if matches!(i.op, Op::FpNeg | Op::FpAbs) {
            return self.emit_sign(i, f);
        }
        if !plain_rule(m) {
            return false;
        }
        let flush = m.flush_to_zero();
        let nearest = m.rounding() == NEAREST;
        match i.op {
            Op::FpAdd | Op::FpSub | Op::FpMul | Op::FpFma if nearest && flush => self.emit_flushed(i, f),
            Op::FpRecipStep | Op::FpRsqrtStep if nearest && flush => self.emit_step(i, f),
            Op::FpAdd | Op::FpSub | Op::FpMul | Op::FpDiv if nearest && !flush => self.emit_fp_binary(i, f),
            Op::FpSqrt if nearest && !flush => self.emit_sqrt(i, f),
            Op::FpFma if nearest && !flush => self.emit_fma(i, f),
            Op::FpMin | Op::FpMax | Op::FpMinNum | Op::FpMaxNum => self.emit_extremum(i, f, flush),
            Op::FpCmp if !flush => self.emit_fp_compare(i, f),
            Op::FpCmpMask => self.emit_compare_mask(i, f, flush),
            Op::FpRint if !flush => self.emit_rint(i, f),
            Op::FpCvt if nearest && !flush => self.emit_convert(i, f),
            Op::FpToInt if f.vector => self.emit_to_int_lanes(i, f),
            Op::FpToInt if !flush => self.emit_to_int(i, f),
            Op::FpFromInt if nearest => self.emit_from_int(i, f),
            _ => false,
        }
    }

    /// Negation and absolute value.
    fn emit_sign(&mut self, i: &Inst, f: Format) -> bool {
        let a = self.vec(Val(i.a));
        let clean = f.vector || self.rest_is_zero(Val(i.a), f.bytes());
        self.release();
        let d = self.vec_dst();
        let lane = if f.vector { u128::MAX } else { u128::MAX >> (128 - 8 * f.bytes()) };
        if i.op == Op::FpNeg {
            self.vk(VecOp::Xorps, d, a, !f.magnitude() & lane);
            self.clean(d, f, clean);
        } else {
            self.vk(VecOp::Andps, d, a, f.magnitude() & lane);
        }
        true
    }

    // ---- operands ------------------------------------------------------------------------------------------------------

    /// A scalar or vector operand: memory if it is there and this is its last use, else a register.
    fn float_src(&mut self, v: Val, f: Format) -> XRm {
        if f.vector {
            return self.vec_src(v);
        }
        let last = self.info[v.index()].last_use <= self.n as u32;
        match self.info[v.index()].loc {
            Loc::State { offset, size } if last && size >= f.bytes() => XRm::Mem(block(offset as i32)),
            Loc::VecSlot(s) if last => XRm::Mem(vec_slot(s as usize)),
            _ => XRm::Reg(self.vec(v)),
        }
    }

    /// Whether all but the low `bytes` of a value are known to be zero.
    fn rest_is_zero(&self, v: Val, bytes: u8) -> bool {
        let i = self.inst(v);
        match i.op {
            Op::Get => i.aux <= bytes,
            Op::Ld => ir::MemOp(i.aux).bytes() <= bytes,
            Op::VLow | Op::VHigh => bytes >= 8,
            Op::VConst => self.r.vconsts[i.a as usize] >> (8 * bytes) == 0,
            _ => ir::build::scalar_bytes(i).is_some_and(|n| n <= bytes),
        }
    }

    /// Zeroes all but lane 0, unless that is so already.
    fn clean(&mut self, d: Xmm, f: Format, clean: bool) {
        match (clean, f.double) {
            (true, _) => {}
            (_, true) => self.v2(VecOp::Movq, d, d),
            (_, false) => self.v3i(VecOp::Insertps, d, d, d, 0b1110),
        }
    }

    /// d = op(constant), for comparisons and loads.
    fn with_constant(&mut self, op: VecOp, d: Xmm, k: u128) {
        let label = self.out.constant(self.asm, k);
        self.vmove(op, d, XRm::Mem(Mem::rip(0)));
        self.asm.link_rel32(label);
    }

    // ---- the cold path -------------------------------------------------------------------------------------------------

    /// If the condition holds the runtime executes the instruction; either way the result is in `result` behind the label
    /// `back`, which the caller binds.
    fn cold_if(&mut self, i: &Inst, cc: Cc, operands: &[XRm], result: Place) -> Cold {
        let (from, back) = (self.asm.label(), self.asm.label());
        self.asm.jcc(cc, from);
        let slots = (self.free_slots, self.free_vec_slots);
        let mut cold = Cold { from, back, operands: [None; 3], packed: crate::lower::call::packed(i), result, slots };
        for (n, x) in operands.iter().enumerate() {
            cold.operands[n] = Some(*x);
        }
        cold
    }

    /// Makes sure that this many vector registers can be had without spilling.
    fn reserve(&mut self, count: usize) {
        let taken: Vec<Xmm> = (0..count).map(|_| self.vec_temp()).collect();
        for x in taken {
            self.vec_unlock(x);
        }
    }

    /// As `cold_if` for a second condition of the same operation.
    fn cold_also_if(&mut self, cc: Cc, cold: &Cold) {
        self.asm.jcc(cc, cold.from);
    }

    /// The main path continues here; the cold path comes back to it.
    fn cold_back(&mut self, cold: Cold) {
        debug_assert_eq!(cold.slots, (self.free_slots, self.free_vec_slots), "the cold path would miss a spill");
        self.asm.bind(cold.back);
        self.out.cold.push(crate::lower::Cold::Float(Box::new(cold)));
    }

    /// The stub keeps every register, so nothing needs to be known of what the main path has in them.
    pub(crate) fn emit_float_slow(&mut self, slow: Slow) {
        self.asm.bind(slow.from);
        self.asm.mov_rm_r(Width::B8, save_area(0), RAX);
        for (n, operand) in slow.operands.iter().enumerate() {
            let to = call_area(n + 1);
            match *operand {
                None => {}
                Some(XRm::Reg(x)) => self.vstore(VecOp::MovupsStore, to, x),
                Some(XRm::Mem(m)) => {
                    for half in [0, 8] {
                        self.asm.mov_r_rm(Width::B8, RAX, m.offset(half));
                        self.asm.mov_rm_r(Width::B8, to.offset(half), RAX);
                    }
                }
            }
        }
        let label = self.out.constant(self.asm, slow.packed);
        self.asm.lea_label(RAX, label);
        let at = self.asm.call_rel32_placeholder();
        let distance = self.env.stubs.eval as i64 - (self.out.base + at + 4) as i64;
        self.asm.code_mut()[at..at + 4].copy_from_slice(&(distance as i32).to_le_bytes());
        match slow.result {
            Place::Vec(x) => self.vmove(VecOp::Movups, x, XRm::Mem(call_area(0))),
            Place::Word(r) => self.asm.mov_r_rm(Width::B4, r, call_area(0)),
        }
        self.asm.jmp(slow.back);
    }

    // ---- accumulated exceptions ----------------------------------------------------------------------------------------

    /// MXCSR has them in the order of softfloat::Flags, with the denormal flag after the first.
    pub(crate) fn emit_fp_flags(&mut self, i: &Inst) {
        let mxcsr = block(self.env.offsets.guest_mxcsr);
        let state = block(ir::state::FP_FLAGS as i32);
        self.asm.stmxcsr(mxcsr);
        if i.op == Op::FpFlagsGet {
            let d = self.dst(None);
            let t = self.temp();
            self.asm.mov_r_rm(Width::B4, t, mxcsr);
            self.asm.mov_rr(Width::B4, d, t);
            self.asm.alu_rm_imm(Alu::And, Width::B4, t, 1);
            self.asm.shift_imm(crate::asm::Shift::Shr, Width::B4, d, 1);
            self.asm.alu_rm_imm(Alu::And, Width::B4, d, 0b11110);
            self.asm.alu_rr(Alu::Or, Width::B4, d, t);
            self.asm.alu_r_rm(Alu::Or, Width::B4, d, state);
            return;
        }
        let a = self.gpr(Val(i.a));
        self.asm.mov_rm_r(Width::B4, state, a);
        self.asm.alu_rm_imm(Alu::And, Width::B4, mxcsr, !0x3f);
        self.asm.ldmxcsr(mxcsr);
        self.release();
    }
}

type Cold = Slow;
