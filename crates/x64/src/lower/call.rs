//! Calls out of translated code: the guest's helpers and the runtime's functions.
//!
//! Host functions clobber rax rcx rdx rsi rdi r8–r11 and all xmm. What lives on goes to spill slots first; pinned registers
//! go to their places in the state and come back afterwards.

use crate::alloc::{Loc, Lower, NONE};
use crate::asm::{Gpr, Mem, R8, RAX, RBP, RCX, RDI, RDX, RSI, VecOp, Width, XRm, Xmm};
use crate::env::{BIAS, CALLER_SAVED_PINS, PINS, block, call_area, function, int_slot, vec_slot};
use ir::state::STATE_BYTES;
use ir::{CryptoStep, Inst, Op, Ty, Val};

/// An argument of a call.
#[derive(Clone, Copy)]
pub(crate) enum Arg {
    /// The vCPU block (and so the state).
    Block,
    Val(Val),
    Imm(u64),
    /// Pointer to part n of the call area.
    Area(usize),
    /// Pointer to a vector operand (a copy in part n of the call area if it is nowhere else in memory).
    Vec(Val, usize),
    /// Pointer to a 16-byte constant.
    Constant(u128),
}

const ARGS: [Gpr; 5] = [RDI, RSI, RDX, RCX, R8];

impl Lower<'_> {
    pub(crate) fn emit_call(&mut self, i: &Inst) {
        let info = self.env.helpers[i.helper()];
        if let Some(step) = info.crypto
            && self.emit_crypto(step, i)
        {
            return;
        }
        let index = function::HELPERS + i.helper();
        let operands = [i.a, i.b, i.c];
        let mut args = [Arg::Imm(0); 5];
        let mut count = 0;
        let mut push = |a: Arg| {
            args[count] = a;
            count += 1;
        };
        if info.uses_state {
            push(Arg::Block);
        }
        if info.vector {
            push(Arg::Area(0));
        }
        for (k, &raw) in operands.iter().enumerate() {
            push(match (raw, info.vector) {
                (NONE, false) => Arg::Imm(0),
                (NONE, true) => Arg::Area(k + 1),
                (v, false) => Arg::Val(Val(v)),
                (v, true) => Arg::Vec(Val(v), k + 1),
            });
        }
        self.call_function(index, &args[..count], info.uses_state);
        if info.vector {
            self.take_vec_result();
        } else {
            self.take_result(i.ty);
        }
    }

    /// False if the processor has no instructions for it.
    fn emit_crypto(&mut self, step: CryptoStep, i: &Inst) -> bool {
        use CryptoStep::*;
        let f = &self.env.features;
        match step {
            AesEncrypt | AesDecrypt | AesMix | AesUnmix if f.aes => self.emit_aes(step, i),
            Sha256Abcd | Sha256Efgh if f.sha && f.sse41 => self.emit_sha256_rounds(step, i),
            Sha256Schedule0 | Sha256Schedule1 if f.sha && f.sse41 => self.emit_sha256_schedule(step, i),
            _ => return false,
        }
        true
    }

    /// The host does two rounds at once, on words in the order F, E, B, A and H, G, D, C (from the lowest lane up), with the
    /// schedule in xmm0.
    fn emit_sha256_rounds(&mut self, step: CryptoStep, i: &Inst) {
        // Lanes 3 and 2 of both operands; lanes 1 and 0.
        const HIGH: u8 = 0xbb;
        const LOW: u8 = 0x11;
        let w = self.vec_exactly(Xmm(0));
        let (a, b, schedule) = (self.vec(Val(i.a)), self.vec(Val(i.b)), self.vec(Val(i.c)));
        let (abcd, efgh, half) = if step == CryptoStep::Sha256Abcd { (a, b, HIGH) } else { (b, a, LOW) };
        let (cdgh, abef) = (self.vec_temp(), self.vec_temp());
        self.v3i(VecOp::Shufps, cdgh, efgh, abcd, HIGH);
        self.v3i(VecOp::Shufps, abef, efgh, abcd, LOW);
        self.v2(VecOp::Movaps, w, schedule);
        self.asm.sse_op(VecOp::Sha256rnds2, cdgh, abef);
        self.v3(VecOp::Punpckhqdq, w, w, w);
        // What were A, B, E and F are C, D, G and H now.
        self.asm.sse_op(VecOp::Sha256rnds2, abef, cdgh);
        self.v3i(VecOp::Shufps, abef, abef, cdgh, half);
        self.release();
        self.define_vec(abef);
    }

    fn emit_sha256_schedule(&mut self, step: CryptoStep, i: &Inst) {
        let (a, b) = (self.vec(Val(i.a)), self.vec(Val(i.b)));
        let t = self.vec_temp();
        if step == CryptoStep::Sha256Schedule0 {
            self.v2(VecOp::Movaps, t, a);
            self.asm.sse_op(VecOp::Sha256msg1, t, b);
        } else {
            let c = self.vec(Val(i.c));
            self.v3i(VecOp::Palignr, t, c, b, 4);
            self.v3(VecOp::Paddd, t, t, a);
            self.asm.sse_op(VecOp::Sha256msg2, t, c);
        }
        self.release();
        self.define_vec(t);
    }

    /// The host's rounds end with a key: zero here, because the guest's steps begin with one.
    fn emit_aes(&mut self, step: CryptoStep, i: &Inst) {
        let a = self.vec(Val(i.a));
        let key = (i.b != NONE).then(|| self.vec(Val(i.b)));
        let (t, zero) = (self.vec_temp(), self.vec_temp());
        self.v3(VecOp::Pxor, zero, zero, zero);
        match step {
            CryptoStep::AesEncrypt | CryptoStep::AesDecrypt => {
                self.v3(VecOp::Pxor, t, a, key.expect("a step with a key"));
                let op = if step == CryptoStep::AesEncrypt { VecOp::Aesenclast } else { VecOp::Aesdeclast };
                self.v3(op, t, t, zero);
            }
            // The last round of a decryption and a whole round of an encryption: MixColumns is what is left.
            CryptoStep::AesMix => {
                self.v3(VecOp::Aesdeclast, t, a, zero);
                self.v3(VecOp::Aesenc, t, t, zero);
            }
            _ => self.v2(VecOp::Aesimc, t, a),
        }
        self.release();
        self.define_vec(t);
    }

    /// Any vector or floating-point operation, executed by the runtime exactly as the interpreter does.
    pub(crate) fn eval(&mut self, i: &Inst) {
        let kinds = i.op.info().operands;
        let mut args = [Arg::Block, Arg::Constant(packed(i)), Arg::Area(1), Arg::Area(2), Arg::Area(3)];
        for (k, raw) in [i.a, i.b, i.c].into_iter().enumerate() {
            if kinds[k] == ir::ops::Operand::Value && raw != NONE {
                args[2 + k] = Arg::Vec(Val(raw), k + 1);
            }
        }
        self.call_function(function::EVAL, &args, false);
        if i.gives() == Ty::V128 {
            // The runtime returns the result in the call area, whose address it finds in the block.
            self.take_vec_result();
        } else {
            self.asm.mov_r_rm(Width::B4, RAX, call_area(0));
            self.take_result(i.gives());
        }
    }

    /// Calls entry `index` of the function table. Afterwards the integer result is in rax.
    pub(crate) fn call_function(&mut self, index: usize, args: &[Arg], uses_state: bool) {
        self.keep_eflags();
        if uses_state {
            self.evict_everything();
        }
        self.save_temps_for_call(false);
        let pins = if uses_state { PINS.len() } else { CALLER_SAVED_PINS };
        self.store_pins(pins);
        for (k, a) in args.iter().enumerate() {
            self.load_argument(ARGS[k], *a);
        }
        if index == function::EVAL {
            self.asm.lea(Width::B8, RAX, call_area(0));
            self.asm.mov_rm_r(Width::B8, block(self.env.offsets.result), RAX);
        }
        self.asm.mov_r_rm(Width::B8, RAX, block(self.env.offsets.functions));
        self.asm.call_rm(Mem::base(RAX, 8 * index as i32));
        self.load_pins(pins);
        self.release();
    }

    /// The callee may change any guest register: values that are still in the state or in pinned registers move to slots.
    fn evict_everything(&mut self) {
        for p in 0..PINS.len() {
            let v = self.pin_val[p];
            // Operands are still read from their pins.
            if v != NONE && self.lives_on(v) {
                let s = self.take_slot();
                self.asm.mov_rm_r(Width::B8, int_slot(s as usize), PINS[p]);
                self.info[v as usize].loc = Loc::Slot(s);
                self.pin_val[p] = NONE;
            }
        }
        if self.flags_state != NONE {
            if self.needed(self.flags_state) {
                let s = self.take_slot();
                self.copy_word(int_slot(s as usize), block(ir::state::FLAGS as i32));
                self.info[self.flags_state as usize].loc = Loc::FlagsSlot(s);
            }
            self.flags_state = NONE;
        }
        self.evict_state(0, STATE_BYTES as u32);
    }

    fn load_argument(&mut self, r: Gpr, a: Arg) {
        match a {
            Arg::Block => self.asm.lea(Width::B8, r, Mem::base(RBP, -BIAS)),
            Arg::Imm(k) => self.asm.mov_r_imm64(r, k),
            Arg::Area(n) => self.asm.lea(Width::B8, r, call_area(n)),
            Arg::Constant(k) => {
                let label = self.out.constant(self.asm, k);
                self.asm.lea_label(r, label);
            }
            Arg::Val(v) => self.load_int_argument(r, v),
            Arg::Vec(v, n) => self.load_vec_argument(r, v, n),
        }
    }

    fn load_int_argument(&mut self, r: Gpr, v: Val) {
        let v = self.root(v);
        if let Some(k) = self.r.constant(v) {
            return self.asm.mov_r_imm64(r, k);
        }
        match self.info[v.index()].loc {
            Loc::Reg(from) => self.asm.mov_rr(Width::B8, r, from),
            // Its register may already hold another argument; its place in the state is up to date.
            Loc::Pin(p) if (p as usize) < CALLER_SAVED_PINS => {
                let loc = self.env.layout.pinned[p as usize];
                let w = if loc.size == 8 { Width::B8 } else { Width::B4 };
                self.asm.mov_r_rm(w, r, block(loc.offset as i32));
            }
            Loc::Pin(p) => self.asm.mov_rr(Width::B8, r, PINS[p as usize]),
            Loc::Slot(s) => self.asm.mov_r_rm(Width::B8, r, int_slot(s as usize)),
            Loc::State { offset, size } => match size {
                1 => self.asm.movzx(Width::B1, r, block(offset as i32)),
                2 => self.asm.movzx(Width::B2, r, block(offset as i32)),
                4 => self.asm.mov_r_rm(Width::B4, r, block(offset as i32)),
                _ => self.asm.mov_r_rm(Width::B8, r, block(offset as i32)),
            },
            loc => panic!("argument v{} is not in reach: {loc:?}", v.0),
        }
    }

    fn load_vec_argument(&mut self, r: Gpr, v: Val, n: usize) {
        match self.info[v.index()].loc {
            Loc::VecSlot(s) => self.asm.lea(Width::B8, r, vec_slot(s as usize)),
            Loc::State { offset, size: 16 } => self.asm.lea(Width::B8, r, block(offset as i32)),
            Loc::State { offset, size } => {
                let x = Xmm(0);
                match size {
                    4 | 8 => self.vload(x, block(offset as i32), size),
                    _ => {
                        let w = Width::from_bytes(size as u32);
                        self.asm.movzx(w, r, block(offset as i32));
                        self.movd_to_vec(x, r, Width::B4);
                    }
                }
                self.vmove_to_area(r, x, n);
            }
            Loc::Nowhere if self.inst(v).op == Op::VConst => {
                let value = self.r.vconsts[self.inst(v).a as usize];
                let label = self.out.constant(self.asm, value);
                self.asm.lea_label(r, label);
            }
            loc => panic!("vector argument v{} is not in reach: {loc:?}", v.0),
        }
    }

    fn vmove_to_area(&mut self, r: Gpr, x: Xmm, n: usize) {
        self.vstore(VecOp::MovupsStore, call_area(n), x);
        self.asm.lea(Width::B8, r, call_area(n));
    }

    /// rax is the current value.
    pub(crate) fn take_result(&mut self, ty: Ty) {
        let w = crate::alloc::width(ty);
        self.lock(RAX);
        let d = self.dst(None);
        self.asm.mov_rr(w, d, RAX);
    }

    fn take_vec_result(&mut self) {
        let x = self.vec_dst();
        self.vmove(VecOp::Movups, x, XRm::Mem(call_area(0)));
    }
}

/// An instruction as `function::EVAL` takes it. Operands that are values are left out, so that equal operations share one.
pub(crate) fn packed(i: &Inst) -> u128 {
    let kinds = i.op.info().operands;
    let immediate = |n: usize, raw: u32| if kinds[n] == ir::ops::Operand::Imm { raw as u128 } else { 0 };
    i.op as u128
        | (i.ty as u128) << 8
        | (i.aux as u128) << 16
        | (i.fl as u128) << 24
        | immediate(0, i.a) << 32
        | immediate(1, i.b) << 64
        | immediate(2, i.c) << 96
}
