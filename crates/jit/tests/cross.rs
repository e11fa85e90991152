//! Random regions: the interpreter and translated code must leave the same guest state.
//!
//! `CROSS_SEED=n` repeats a run, `CROSS_COUNT=n` sets the number of regions, `CROSS_STEPS=n` their length.

use cpu::{Code, Guest, Limits, Register};
use ir::{Builder, Cc, Cmp, Helper, HelperFn, Layout, Loc, MemOp, Op, Rmw, State, TrapKind, Ty, Val};
use jit::{Config, Engine, PageFlags, Space, Stop, Vcpu};
use std::sync::Arc;

/// A small pseudo-random generator (xorshift).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
    /// A number with a liking for edges.
    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(4),
            1 => u64::MAX - self.below(4),
            2 => 1 << self.below(64),
            3 => (1u64 << self.below(63)).wrapping_sub(1),
            _ => self.next(),
        }
    }
}

const REGS: u32 = 16;
const DATA: u32 = 0x10_0000;
const VECS: u32 = 128;

extern "C" fn pure_helper(a: u64, b: u64, c: u64) -> u64 {
    a.wrapping_mul(3) ^ b.rotate_left(7) ^ c
}

extern "C" fn state_helper(s: &mut State, a: u64, b: u64, c: u64) -> u64 {
    let old = s.u32_at(REGS + 4 * (a as u32 % 14));
    s.set_u32(REGS + 4 * (b as u32 % 14), old ^ c as u32);
    old as u64
}

extern "C" fn vec_helper(out: &mut [u8; 16], a: &[u8; 16], b: &[u8; 16], c: &[u8; 16]) {
    for k in 0..16 {
        out[k] = a[k].wrapping_add(b[15 - k]) ^ c[k];
    }
}

/// What regions are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mix {
    /// A bit of everything.
    All,
    /// Vector and floating-point operations on operands near the edges of the formats.
    Lanes,
}

struct Random {
    mix: Mix,
    layout: Layout,
    helpers: Vec<Helper>,
}

impl Random {
    fn new(mix: Mix) -> Random {
        let pinned = [0, 1, 2, 3, 13, 14, 4, 5, 6, 7].map(|n| Loc { offset: REGS + 4 * n, size: 4 }).to_vec();
        let helpers = vec![
            Helper { name: "pure", f: HelperFn::Pure(pure_helper) },
            Helper { name: "state", f: HelperFn::State(state_helper) },
            Helper { name: "vec", f: HelperFn::Vec(vec_helper) },
        ];
        Random { mix, layout: Layout { pinned, names: vec![], address_bits: 32, page: None }, helpers }
    }
}

/// Builds a random region out of the operations that the tables offer.
struct Gen<'a> {
    rng: Rng,
    mix: Mix,
    b: &'a mut Builder,
    i32s: Vec<Val>,
    i64s: Vec<Val>,
    flags: Vec<Val>,
    vecs: Vec<Val>,
}

impl Gen<'_> {
    fn i32(&mut self) -> Val {
        match self.rng.below(4) {
            0 => {
                let r = self.rng.below(15) as u32;
                self.b.get32(REGS + 4 * r)
            }
            1 => {
                let k = self.rng.number();
                self.b.i32(k as u32)
            }
            _ if !self.i32s.is_empty() => self.rng.pick(&self.i32s.clone()),
            _ => self.b.get32(REGS),
        }
    }
    fn i64(&mut self) -> Val {
        if !self.i64s.is_empty() && self.rng.below(3) > 0 {
            return self.rng.pick(&self.i64s.clone());
        }
        if self.rng.below(3) == 0 {
            let k = self.rng.number();
            return self.b.i64(k);
        }
        let a = self.i32();
        if self.rng.below(2) == 0 { self.b.zext32(a) } else { self.b.sext32(a) }
    }
    fn int(&mut self) -> Val {
        if self.rng.below(3) == 0 { self.i64() } else { self.i32() }
    }
    fn pair(&mut self) -> (Val, Val) {
        if self.rng.below(3) == 0 { (self.i64(), self.i64()) } else { (self.i32(), self.i32()) }
    }
    fn flag(&mut self) -> Val {
        if !self.flags.is_empty() && self.rng.below(4) > 0 {
            return self.rng.pick(&self.flags.clone());
        }
        self.b.get_flags()
    }
    fn vec(&mut self) -> Val {
        if !self.vecs.is_empty() && self.rng.below(3) > 0 {
            return self.rng.pick(&self.vecs.clone());
        }
        match self.rng.below(6) {
            2 => {
                let n = self.rng.below(16) as u32;
                self.b.get(Ty::V128, VECS + 4 * n, 4)
            }
            0 => {
                let k = if self.rng.below(2) == 0 {
                    (self.rng.number() as u128) << 64 | self.rng.number() as u128
                } else {
                    (fp_number(&mut self.rng) as u128) << 64 | fp_number(&mut self.rng) as u128
                };
                self.b.vconst(k)
            }
            1 => {
                let n = self.rng.below(8) as u32;
                self.b.get(Ty::V128, VECS + 8 * n, 8)
            }
            _ => {
                let n = self.rng.below(4) as u32;
                self.b.get(Ty::V128, VECS + 16 * n, 16)
            }
        }
    }
    fn keep(&mut self, v: Val) {
        match self.b.ty(v) {
            Ty::I32 => self.i32s.push(v),
            Ty::I64 => self.i64s.push(v),
            Ty::Flags => self.flags.push(v),
            Ty::V128 => self.vecs.push(v),
            Ty::None => {}
        }
    }
    fn forget(&mut self) {
        self.i32s.clear();
        self.i64s.clear();
        self.flags.clear();
        self.vecs.clear();
    }

    fn binary(&mut self) {
        let (x, y) = self.pair();
        let b = &mut *self.b;
        let v = match self.rng.below(19) {
            0..=2 => b.add(x, y),
            3..=4 => b.sub(x, y),
            5 => b.mul(x, y),
            6 => b.and(x, y),
            7 => b.or(x, y),
            8 => b.xor(x, y),
            9 => b.andn(x, y),
            10 => b.shl(x, y),
            11 => b.shr(x, y),
            12 => b.sar(x, y),
            13 => b.ror(x, y),
            14 => b.udiv(x, y),
            15 => b.sdiv(x, y),
            16 => b.mulhu(x, y),
            17 => b.mulhs(x, y),
            _ => {
                let k = self.rng.below(2);
                if k == 0 { b.urem(x, y) } else { b.srem(x, y) }
            }
        };
        self.keep(v);
    }

    fn unary(&mut self) {
        let x = self.int();
        let wide = self.b.ty(x) == Ty::I64;
        let bits = if wide { 64 } else { 32 };
        let len = 1 + self.rng.below(bits) as u32;
        let lsb = self.rng.below(bits as u64 - len as u64 + 1) as u32;
        let other = if wide { self.i64() } else { self.i32() };
        let b = &mut *self.b;
        let v = match self.rng.below(17) {
            0 => b.not(x),
            1 => b.neg(x),
            2 => b.clz(x),
            3 => b.ctz(x),
            4 => b.popcnt(x),
            5 => b.bswap(x),
            6 => b.bswap16(x),
            7 => b.rbit(x),
            8 => b.zext8(x),
            9 => b.zext16(x),
            10 => b.sext8(x),
            11 => b.sext16(x),
            12 if wide => b.trunc(x),
            13 if wide => b.high(x),
            14 => b.ubfx(x, lsb, len),
            15 => b.sbfx(x, lsb, len),
            _ => b.deposit(x, other, lsb, len),
        };
        self.keep(v);
    }

    fn flags_op(&mut self) {
        let (x, y) = self.pair();
        let f = self.flag();
        let g = self.flag();
        let bit = self.i32();
        let cc = Cc::from_u8(self.rng.below(16) as u8);
        let b = &mut *self.b;
        match self.rng.below(12) {
            0 => {
                let s = b.add(x, y);
                let f = b.f_add(x, y);
                self.keep(s);
                self.keep(f);
            }
            1 | 2 => {
                if self.rng.below(2) == 0 {
                    let s = b.sub(x, y);
                    self.i32s.extend((self.b.ty(s) == Ty::I32).then_some(s));
                }
                let f = self.b.f_sub(x, y);
                self.keep(f);
            }
            3 => {
                let r = b.and(x, y);
                let f = b.f_logic(r);
                self.keep(f);
            }
            4 => {
                let s = b.adc(x, y, f);
                let g = b.f_adc(x, y, f);
                self.keep(s);
                self.keep(g);
            }
            5 => {
                let s = b.sbb(x, y, f);
                let g = b.f_sbb(x, y, f);
                self.keep(s);
                self.keep(g);
            }
            6 => {
                let v = b.f_invert_c(f);
                self.keep(v);
            }
            7 => {
                let v = b.f_set_c(f, bit);
                self.keep(v);
            }
            8 => {
                let mask = ir::flag::N | if self.rng.below(2) == 0 { ir::flag::Z } else { ir::flag::C | ir::flag::V };
                let v = b.f_merge(f, g, mask);
                self.keep(v);
            }
            9 => {
                let w = b.f_word(f);
                self.keep(w);
                let v = self.b.f_make(bit);
                self.keep(v);
            }
            10 => {
                let v = b.cc_bit(cc, f);
                self.keep(v);
            }
            _ => {
                let v = b.select_cc(cc, f, x, y);
                self.keep(v);
            }
        }
        if self.rng.below(3) == 0 {
            let f = self.flag();
            self.b.set_flags(f);
        }
    }

    fn compare(&mut self) {
        let (x, y) = self.pair();
        let cmp = Cmp::from_u8(self.rng.below(10) as u8);
        let c = self.b.icmp(cmp, x, y);
        if self.rng.below(2) == 0 {
            let (p, q) = self.pair();
            let v = self.b.select(c, p, q);
            self.keep(v);
        } else {
            self.keep(c);
        }
    }

    fn address(&mut self) -> Val {
        let x = self.i32();
        let low = self.b.and_imm(x, 0xff8);
        match self.rng.below(3) {
            0 => {
                let base = self.b.i32(DATA);
                self.b.or(low, base)
            }
            1 => {
                let base = self.b.get32(REGS + 4 * 15);
                self.b.add(base, low)
            }
            _ => {
                let k = self.rng.below(0x800) as u32;
                self.b.i32(DATA + k * 8)
            }
        }
    }

    fn memory(&mut self) {
        let addr = self.address();
        let ty = if self.rng.below(3) == 0 { Ty::I64 } else { Ty::I32 };
        let max = if ty == Ty::I64 { 4 } else { 3 };
        let mut op = MemOp(self.rng.below(max) as u8);
        if self.rng.below(5) == 0 {
            op = op.swapped();
        }
        match self.rng.below(12) {
            0..=3 => {
                if self.rng.below(2) == 0 {
                    op = op.signed();
                }
                let v = self.b.ld(ty, op, addr);
                self.keep(v);
            }
            4..=6 => {
                let v = if ty == Ty::I64 { self.i64() } else { self.i32() };
                self.b.st(op, addr, v);
            }
            7 => {
                let size = self.rng.pick(&[MemOp::B4, MemOp::B8, MemOp::B16]);
                let v = self.b.ld(Ty::V128, size, addr);
                self.keep(v);
            }
            8 => {
                let v = self.vec();
                let size = self.rng.pick(&[MemOp::B4, MemOp::B8, MemOp::B16]);
                self.b.st(size, addr, v);
            }
            9 => {
                let v = if ty == Ty::I64 { self.i64() } else { self.i32() };
                let rmw = self.rng.pick(&Rmw::ALL);
                let v = self.b.rmw(rmw, op, addr, v);
                self.keep(v);
            }
            10 => {
                let (e, n) = if ty == Ty::I64 { (self.i64(), self.i64()) } else { (self.i32(), self.i32()) };
                let v = self.b.cas(op, addr, e, n);
                self.keep(v);
            }
            _ => {
                let v = self.b.ld_ex(Ty::I32, MemOp::B4.aligned(), addr);
                let n = self.i32();
                let s = self.b.st_ex(MemOp::B4.aligned(), addr, n);
                self.keep(v);
                self.keep(s);
            }
        }
    }

    fn vector(&mut self) {
        let ops: Vec<Op> = Op::ALL
            .iter()
            .copied()
            .filter(|o| o.name().starts_with('v') && !matches!(o, Op::VConst | Op::VCall | Op::VDup | Op::VInsert | Op::VExtract))
            .collect();
        let op = self.rng.pick(&ops);
        let lane = match op {
            Op::VNarrow | Op::VNarrowSS | Op::VNarrowSU | Op::VNarrowUU => 1 + self.rng.below(3) as u8,
            Op::VWidenS | Op::VWidenU | Op::VMulWideS | Op::VMulWideU | Op::VRev => self.rng.below(3) as u8,
            _ => self.rng.below(4) as u8,
        };
        let (x, y, z) = (self.vec(), self.vec(), self.vec());
        let kinds = op.info().operands;
        let mut raw = [u32::MAX; 3];
        for (k, v) in [x, y, z].into_iter().enumerate() {
            raw[k] = match kinds[k] {
                ir::ops::Operand::Value => v.0,
                ir::ops::Operand::Imm if op == Op::VRev => lane as u32 + 1 + self.rng.below(3 - lane as u64) as u32,
                ir::ops::Operand::Imm if op == Op::VExt => self.rng.below(16) as u32,
                // Also a little beyond the width.
                ir::ops::Operand::Imm => self.rng.below((8 << lane) + 2) as u32,
                ir::ops::Operand::None => u32::MAX,
            };
        }
        let v = self.b.push(op, Ty::V128, lane, 0, raw[0], raw[1], raw[2]);
        self.keep(v);
        let (lane, x, k) = (self.rng.below(4) as u8, self.vec(), self.rng.below(16) as u32);
        let k = k & (15 >> lane);
        match self.rng.below(4) {
            0 => {
                let v = self.b.vextract(lane, x, k);
                self.keep(v);
            }
            1 => {
                let i = if lane == 3 { self.i64() } else { self.i32() };
                let v = self.b.vinsert(lane, x, i, k);
                self.keep(v);
            }
            2 => {
                let i = if lane == 3 { self.i64() } else { self.i32() };
                let v = self.b.vdup(lane, i);
                self.keep(v);
            }
            _ => {}
        }
    }

    fn float(&mut self) {
        use ir::{FpFmt, FpMode};
        let fmt = self.rng.pick(&[FpFmt::F32, FpFmt::F64, FpFmt::V32, FpFmt::V64]);
        let mode = FpMode(self.rng.pick(&[0, 0, 0, 1, 2, 3, 8, 16, 24, 24]));
        let (x, y, z) = (self.vec(), self.vec(), self.vec());
        let b = &mut *self.b;
        let v = match self.rng.below(16) {
            0 => b.fp_add(fmt, mode, x, y),
            1 => b.fp_sub(fmt, mode, x, y),
            2 => b.fp_mul(fmt, mode, x, y),
            3 => b.fp_div(fmt, mode, x, y),
            4 => b.fp_sqrt(fmt, mode, x),
            5 => b.fp_fma(fmt, mode, x, y, z),
            6 => b.fp_min(fmt, mode, x, y),
            7 => b.fp_max(fmt, mode, x, y),
            8 => b.fp_neg(fmt, x),
            9 => b.fp_abs(fmt, x),
            10 => b.fp_cmp(FpFmt(fmt.0 & 3), mode, x, y, self.rng.0 & 1 == 0),
            11 => b.fp_cmp_mask(fmt, mode, x, y, (self.rng.0 % 3) as u32),
            12 => b.fp_cvt(FpFmt::F32, FpFmt::F64, mode, x),
            13 => b.fp_cvt(FpFmt::F64, FpFmt::F32, mode, x),
            14 => b.fp_to_int(fmt, mode, x, self.rng.0 & 1 == 0, fmt.log2() as u32, (self.rng.0 >> 8 & 3) as u32),
            _ => b.fp_from_int(fmt, mode, x, self.rng.0 & 1 == 0, fmt.log2() as u32, 0),
        };
        self.keep(v);
        if self.rng.below(8) == 0 {
            let f = self.b.fp_flags();
            self.keep(f);
        }
    }

    fn set(&mut self) {
        match self.rng.below(5) {
            0..=2 => {
                let v = self.i32();
                let r = self.rng.below(15) as u32;
                self.b.set32(REGS + 4 * r, v);
            }
            3 => {
                let v = self.vec();
                let n = self.rng.below(4) as u32;
                if self.rng.below(2) == 0 {
                    self.b.set(VECS + 16 * n, 16, v);
                } else {
                    self.b.set(VECS + 16 * n + 8, 8, v);
                }
            }
            _ => {
                let v = self.flag();
                self.b.set_flags(v);
            }
        }
    }

    fn skip(&mut self) {
        match self.rng.below(3) {
            0 => {
                let f = self.flag();
                let cc = Cc::from_u8(self.rng.below(16) as u8);
                self.b.skip_cc(cc, f);
            }
            1 => {
                let v = self.i32();
                self.b.skip_nz(v);
            }
            _ => {
                let (x, y) = self.pair();
                let c = self.b.icmp(Cmp::Ult, x, y);
                self.b.skip_z(c);
            }
        }
        for _ in 0..self.rng.below(5) {
            self.step();
        }
        self.set();
        self.b.label();
        self.forget();
    }

    fn call(&mut self) {
        let (x, y, z) = (self.i32(), self.i64(), self.i32());
        match self.rng.below(3) {
            0 => {
                let v = self.b.call(Ty::I64, 0, false, [x, y, z]);
                self.keep(v);
            }
            1 => {
                let v = self.b.call(Ty::I32, 1, true, [x, y, z]);
                self.keep(v);
            }
            _ => {
                let (x, y, z) = (self.vec(), self.vec(), self.vec());
                let v = self.b.call(Ty::V128, 2, false, [x, y, z]);
                self.keep(v);
            }
        }
    }

    fn step(&mut self) {
        if self.mix == Mix::Lanes {
            return match self.rng.below(20) {
                0..=7 => self.vector(),
                8..=16 => self.float(),
                17 => self.binary(),
                18 => self.memory(),
                _ => self.set(),
            };
        }
        match self.rng.below(20) {
            0..=5 => self.binary(),
            6..=8 => self.unary(),
            9..=11 => self.flags_op(),
            12 => self.compare(),
            13..=14 => self.memory(),
            15 => self.vector(),
            16 => self.float(),
            17 if self.rng.below(4) == 0 => self.call(),
            _ => self.set(),
        }
    }

    fn region(&mut self, seed: u64) {
        let steps = 1 + self.rng.below(env("CROSS_STEPS", 40));
        // `CROSS_STOP=n` ends the region after n steps: for making a failing one shorter.
        for n in 0..steps.min(env("CROSS_STOP", u64::MAX)) {
            self.b.insn(4 * n as i32, 0);
            match self.rng.below(12) {
                0 => self.skip(),
                1 if self.rng.below(3) == 0 => {
                    let f = self.flag();
                    let cc = Cc::from_u8(self.rng.below(16) as u8);
                    self.b.exit_cc(cc, f, END | seed & 0xff);
                }
                2 if self.rng.below(3) == 0 => {
                    let v = self.i32();
                    self.b.exit_nz(v, END | seed & 0xff);
                }
                _ => self.step(),
            }
        }
        if self.mix == Mix::Lanes {
            // What was computed last must not be dead.
            for (n, v) in self.vecs.iter().rev().take(8).enumerate() {
                self.b.set(VECS + 16 * n as u32, 16, *v);
            }
            for (n, v) in self.i32s.iter().rev().take(8).enumerate() {
                self.b.set32(REGS + 4 * n as u32, *v);
            }
        }
        match self.rng.below(3) {
            0 => {
                let v = self.i32();
                let k = self.b.and_imm(v, 0xff);
                let k = self.b.zext32(k);
                let k = {
                    let end = self.b.i64(END);
                    self.b.or(k, end)
                };
                self.b.exit_ind(k, ir::build::Hint::Jump);
            }
            1 => self.b.exit(END | seed & 0xff),
            _ => self.b.trap(TrapKind::Syscall, seed as u32 & 0xff, seed),
        }
    }
}

/// Keys of this form end the run.
const END: u64 = 0x4000_0000;

impl Guest for Random {
    fn name(&self) -> &'static str {
        "random"
    }
    fn layout(&self) -> &Layout {
        &self.layout
    }
    fn helpers(&self) -> &[Helper] {
        &self.helpers
    }
    fn reset(&self, _state: &mut State) {}
    fn translate(&self, key: u64, _limits: Limits, _code: &dyn Code, b: &mut Builder) {
        if key & END != 0 {
            b.insn(0, 0);
            b.trap(TrapKind::Breakpoint, key as u32 & 0xff, key);
            return;
        }
        // `CROSS_FILE=path`: a region in text form instead of a random one.
        if let Some(path) = std::env::var_os("CROSS_FILE") {
            let text = std::fs::read_to_string(path).unwrap();
            *b.region_mut() = ir::text::parse(&text).unwrap();
            for e in &mut b.region_mut().exits {
                e.key = END | e.key & 0xff;
            }
            return;
        }
        let rng = Rng(key.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut g = Gen { rng, mix: self.mix, b, i32s: vec![], i64s: vec![], flags: vec![], vecs: vec![] };
        g.region(key);
    }
    fn pc(&self, key: u64) -> u64 {
        key
    }
    fn key_at(&self, key: u64, delta: i32, _note: u32) -> u64 {
        key.wrapping_add(delta as u64)
    }
    fn flags_dead(&self, _key: u64, _code: &dyn Code) -> Option<(u64, u32)> {
        None
    }
    fn disassemble(&self, _key: u64, _code: &dyn Code) -> (String, u32) {
        (String::new(), 4)
    }
    fn registers(&self) -> &[Register] {
        &[]
    }
    fn read_register(&self, _state: &State, _number: usize) -> u128 {
        0
    }
    fn write_register(&self, _state: &mut State, _number: usize, _value: u128) {}
    fn dump(&self, _state: &State) -> String {
        String::new()
    }
}

struct Machine {
    space: Arc<Space>,
    vcpu: Vcpu,
}

impl Machine {
    fn new(mix: Mix, interpret: bool) -> Machine {
        let space = Space::new_32bit().unwrap();
        let config = Config { tb_size: 8 << 20, interpret, ..Config::default() };
        let engine = Engine::new(Arc::new(Random::new(mix)), space.clone(), config).unwrap();
        let len = 0x8000usize;
        // SAFETY: inside the window that the space has reserved.
        let p = unsafe {
            libc::mmap(
                space.host(DATA).cast(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        assert_ne!(p, libc::MAP_FAILED);
        space.set_range(DATA, len as u32, PageFlags::READ.with(PageFlags::WRITE).with(PageFlags::MAPPED));
        Machine { space, vcpu: Vcpu::new(&engine) }
    }

    /// Executes the region of a key on state and memory number `input`.
    fn run(&mut self, seed: u64, input: u64) -> (Stop, Box<State>, Vec<u8>) {
        let mut rng = Rng((seed ^ 0x5555_aaaa_1234 | 1).wrapping_add(input << 40));
        let s = self.vcpu.state_mut();
        *s = State::default();
        for n in 0..15 {
            s.set_u32(REGS + 4 * n, rng.number() as u32);
        }
        s.set_u32(REGS + 60, DATA);
        if std::env::var_os("CROSS_FILE").is_some() {
            s.set_u32(REGS + 52, DATA + 0x1000);
        }
        s.set_u32(ir::state::FLAGS, rng.next() as u32 & ir::flag::ALL);
        for n in 0..8 {
            s.set_u64(VECS + 8 * n, fp_number(&mut rng));
        }
        s.set_u64(ir::state::KEY, seed);
        let mut data = vec![0u8; 0x8000];
        for w in data.chunks_mut(8) {
            let v = if rng.below(4) == 0 { fp_number(&mut rng) } else { rng.next() };
            w.copy_from_slice(&v.to_le_bytes());
        }
        // SAFETY: mapped above; nothing else uses it now.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.space.host(DATA), data.len()) };
        // A full translation cache is replaced between two runs.
        let stop = loop {
            match self.vcpu.run() {
                Stop::Kicked => self.vcpu.clear_kick(),
                stop => break stop,
            }
        };
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(self.space.host(DATA), data.as_mut_ptr(), data.len()) };
        let flags = self.vcpu.fp_flags();
        let mut state = Box::new(self.vcpu.state().clone());
        let word = state.u32_at(ir::state::FLAGS) & ir::flag::ALL;
        // Dead flags differ in a region from a file whose exits say so.
        let dead = std::env::var_os("CROSS_FILE").is_some_and(|f| std::fs::read_to_string(f).unwrap().contains("flags_dead=1"));
        let word = if dead { 0 } else { word };
        state.set_u32(ir::state::FLAGS, word);
        state.set_u32(ir::state::FP_FLAGS, flags);
        (stop, state, data)
    }
}

/// A number that often means something as one or two floats.
fn fp_number(rng: &mut Rng) -> u64 {
    let single = |rng: &mut Rng| {
        let sign = (rng.next() as u32) & 0x8000_0000;
        sign | match rng.below(14) {
            0 | 1 => 0,
            2 => 0x7f80_0000,
            3 => 0x7fc0_0001,
            4 => 0x7f80_0001,
            5 => rng.below(0x80_0000) as u32,
            6 => 0x0080_0000u32.wrapping_add(rng.below(5) as u32).wrapping_sub(2),
            // Products and quotients of these are near the smallest normal number.
            7 => (rng.next() as u32 & 0x01ff_ffff) | 0x1f00_0000,
            8 => rng.pick(&[0x3f80_0000, 0x4000_0000, 0x3f80_0001, 0x3f7f_ffff, 0x7f7f_ffff, 0x0100_0000]),
            // Near the limits of integers.
            9 => (rng.next() as u32 & 0x00ff_ffff) | rng.pick(&[0x4e80_0000, 0x4f00_0000, 0x4f7f_ff00, 0x3f00_0000]),
            10 => rng.pick(&[1u32, 2, 3, 5, 100, 1000]).wrapping_mul(3).leading_zeros() << 23 | 0x3000_0000,
            _ => (rng.next() as u32 & 0x03ff_ffff) | 0x3c00_0000,
        }
    };
    let double = |rng: &mut Rng| {
        let sign = rng.next() & 1 << 63;
        sign | match rng.below(10) {
            0 => 0,
            1 => rng.pick(&[0x7ff0 << 48, 0x7ff8 << 48 | 1, 0x7ff0 << 48 | 1, 1, 0x0010 << 48]),
            2 => rng.next() & 0x000f_ffff_ffff_ffff,
            3 => (0x0010u64 << 48) + rng.below(3) - 1,
            4 => (rng.next() & 0x003f_ffff_ffff_ffff) | 0x1fe0 << 48,
            // Singles near the smallest normal number, halves likewise.
            5 => (rng.next() & 0x001f_ffff_ffff_ffff) | rng.pick(&[0x3800 << 48, 0x3ee0 << 48, 0x47e0 << 48]),
            6 => (rng.next() & 0x000f_ffff_e000_0000) | 0x3800 << 48,
            7 => (rng.next() & 0x001f_ffff_ffff_ffff) | 0x41d0 << 48,
            8 => (rng.below(5000) as f64 / 4.0).to_bits(),
            _ => (rng.next() & 0x003f_ffff_ffff_ffff) | 0x3fc0 << 48,
        }
    };
    match rng.below(5) {
        0 | 1 => double(rng),
        2 => single(rng) as u64,
        _ => single(rng) as u64 | (single(rng) as u64) << 32,
    }
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: called by the kernel.
    if !unsafe { jit::fault::handle(signal, info, context) } {
        std::process::abort();
    }
}

fn install_fault_handler() {
    // SAFETY: a handler of the right type.
    unsafe {
        let mut sa: libc::sigaction = std::mem::zeroed();
        sa.sa_sigaction = on_fault as *const () as usize;
        sa.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigaction(libc::SIGSEGV, &sa, std::ptr::null_mut());
        libc::sigaction(libc::SIGBUS, &sa, std::ptr::null_mut());
    }
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// The region of a key, as text.
fn print(mix: Mix, key: u64, space: &Space) -> String {
    let mut b = Builder::new();
    b.begin(key, key);
    Random::new(mix).translate(key, Limits { max_insns: 1, relative: false }, space, &mut b);
    ir::text::print(b.region())
}

fn compare(mix: Mix, count: u64) {
    install_fault_handler();
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() as u64;
    let seed = env("CROSS_SEED", clock & 0xff_ffff) << 4;
    let count = env("CROSS_COUNT", count);
    println!("{mix:?}: CROSS_SEED={} CROSS_COUNT={count}", seed >> 4);
    let (mut oracle, mut jit) = (Machine::new(mix, true), Machine::new(mix, false));
    for n in 0..count {
        let key = (seed.wrapping_add(n * 16)) & 0x3fff_fff0 | 0x10;
        if std::env::var_os("CROSS_PRINT").is_some() {
            println!("{}", print(mix, key, &oracle.space));
        }
        // Lanes are about operands: each region sees several.
        let inputs = if mix == Mix::Lanes { 8 } else { 1 };
        let differ = (0..inputs).find_map(|input| {
            let (want, got) = (oracle.run(key, input), jit.run(key, input));
            let same = want.0 == got.0 && want.1.bytes() == got.1.bytes() && want.2 == got.2;
            (!same).then_some((want, got))
        });
        let Some((want, got)) = differ else { continue };
        println!("{}", print(mix, key, &oracle.space));
        println!("interpreter {:?}, translated {:?}", want.0, got.0);
        for o in (0..512).step_by(4) {
            let (w, g) = (want.1.u32_at(o), got.1.u32_at(o));
            if w != g {
                println!("state +{o}: interpreter {w:#x}, translated {g:#x}");
            }
        }
        for (o, (w, g)) in want.2.iter().zip(&got.2).enumerate() {
            if w != g {
                println!("memory +{o:#x}: interpreter {w:#x}, translated {g:#x}");
            }
        }
        panic!("region {key:#x} differs: CROSS_SEED={} CROSS_COUNT=1", key >> 4);
    }
}

#[test]
fn interpreter_and_translated_code_agree() {
    compare(Mix::All, 4000);
}

#[test]
fn vectors_and_floats_agree() {
    compare(Mix::Lanes, 6000);
}
