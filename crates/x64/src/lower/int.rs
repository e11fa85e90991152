//! Integer operations.

use crate::alloc::{Lower, Src, width};
use crate::asm::{Alu, Cc, Gpr, Mem, RAX, RCX, RDX, Shift, Width};
use ir::{Inst, Op, Ty, Val};

impl Lower<'_> {
    pub(crate) fn emit_int(&mut self, i: &Inst) {
        match i.op {
            Op::Add => self.emit_add(i),
            Op::Sub => self.emit_sub(i),
            Op::And => self.emit_binary(i, Alu::And),
            Op::Or => self.emit_binary(i, Alu::Or),
            Op::Xor => self.emit_binary(i, Alu::Xor),
            Op::AndNot => self.emit_and_not(i),
            Op::Adc | Op::Sbb => self.emit_with_carry(i),
            Op::Mul => self.emit_mul(i),
            Op::MulHiU | Op::MulHiS => self.emit_mul_high(i),
            Op::UDiv | Op::SDiv | Op::URem | Op::SRem => self.emit_div(i),
            Op::Shl | Op::Shr | Op::Sar | Op::Ror => self.emit_shift(i),
            Op::Not | Op::Neg | Op::Bswap | Op::Bswap16 | Op::Rbit | Op::High => self.emit_unary(i),
            Op::Clz | Op::Ctz | Op::Popcnt => self.emit_count(i),
            Op::Zext8 | Op::Zext16 | Op::Sext8 | Op::Sext16 | Op::Sext32 | Op::Trunc => self.emit_extend(i),
            Op::Concat => self.emit_concat(i),
            Op::Ubfx | Op::Sbfx => self.emit_extract(i),
            Op::Deposit => self.emit_deposit(i),
            Op::Icmp => {
                let cc = self.compare(i);
                self.release();
                self.set_bool(cc);
            }
            Op::CcBit => {
                let cc = self.test_cc(Val(i.a), ir::Cc::from_u8(i.aux));
                self.release();
                self.set_bool(cc);
            }
            Op::Select | Op::SelectCc => self.emit_select(i),
            op => panic!("no lowering for {}", op.name()),
        }
    }

    /// The value = 1 if the host condition holds, else 0, without changing flags.
    fn set_bool(&mut self, cc: Cc) {
        let d = self.dst(None);
        self.asm.setcc(cc, d);
        self.asm.movzx(Width::B1, d, d);
    }

    /// Emits the comparison of an `icmp` and gives the condition.
    pub(crate) fn compare(&mut self, i: &Inst) -> Cc {
        let w = width(i.ty);
        let cmp = ir::Cmp::from_u8(i.aux);
        let cc = super::compare_cc(cmp);
        if self.constant(Val(i.a)).is_some() && self.constant(Val(i.b)).is_none() {
            let b = self.gpr(Val(i.b));
            let a = self.src(Val(i.a), w);
            self.alu(Alu::Cmp, w, b, a);
            return cc.swap();
        }
        let a = self.gpr(Val(i.a));
        let b = self.src(Val(i.b), w);
        match b {
            Src::Imm(0) if matches!(cmp, ir::Cmp::Eq | ir::Cmp::Ne | ir::Cmp::Slt | ir::Cmp::Sge) => {
                self.asm.test_rr(w, a, a);
                match cmp {
                    ir::Cmp::Slt => Cc::S,
                    ir::Cmp::Sge => Cc::NS,
                    _ => cc,
                }
            }
            _ => {
                self.alu(Alu::Cmp, w, a, b);
                cc
            }
        }
    }

    fn emit_add(&mut self, i: &Inst) {
        let w = width(i.ty);
        let flags = self.gives_flags_to_next(self.n);
        let a = self.gpr(Val(i.a));
        let b = self.src(Val(i.b), w);
        self.release();
        let d = self.dst(Some(a));
        match b {
            _ if d == a => self.alu(Alu::Add, w, d, b),
            Src::Reg(b) if d == b => self.asm.alu_rr(Alu::Add, w, d, a),
            Src::Reg(b) if !flags => self.asm.lea(w, d, Mem::index(a, b, 1, 0)),
            Src::Imm(k) if !flags => self.asm.lea(w, d, Mem::base(a, k)),
            _ => {
                self.mov(w, d, a);
                self.alu(Alu::Add, w, d, b);
            }
        }
    }

    fn emit_sub(&mut self, i: &Inst) {
        let w = width(i.ty);
        let flags = self.gives_flags_to_next(self.n);
        let constant_a = self.constant(Val(i.a)).is_some();
        if constant_a && !flags {
            if let Src::Imm(k) = self.src(Val(i.a), w) {
                // k - b = -b + k.
                let b = self.gpr(Val(i.b));
                self.release();
                let d = self.dst(Some(b));
                self.mov(w, d, b);
                self.asm.neg(w, d);
                if k != 0 {
                    self.asm.alu_rm_imm(Alu::Add, w, d, k);
                }
                return;
            }
        }
        let a = self.gpr(Val(i.a));
        let b = self.src(Val(i.b), w);
        self.release();
        let d = self.dst(Some(a));
        match b {
            _ if d == a => self.alu(Alu::Sub, w, d, b),
            Src::Reg(b) if d == b && !flags => {
                self.asm.neg(w, d);
                self.asm.alu_rr(Alu::Add, w, d, a);
            }
            Src::Reg(b) if d == b => {
                let t = self.temp();
                self.mov(w, t, a);
                self.asm.alu_rr(Alu::Sub, w, t, b);
                self.mov(w, d, t);
            }
            Src::Imm(k) if !flags && k != i32::MIN => self.asm.lea(w, d, Mem::base(a, -k)),
            _ => {
                self.mov(w, d, a);
                self.alu(Alu::Sub, w, d, b);
            }
        }
    }

    fn emit_binary(&mut self, i: &Inst, op: Alu) {
        let w = width(i.ty);
        // AND whose only use is the flags that follow.
        if op == Alu::And && self.info[self.n].uses == 1 && self.gives_flags_to_next(self.n) {
            let a = self.gpr(Val(i.a));
            match self.src(Val(i.b), w) {
                Src::Reg(b) => self.asm.test_rr(w, a, b),
                Src::Mem(m) => self.asm.test_rm_r(w, m, a),
                Src::Imm(k) => self.asm.test_rm_imm(w, a, k),
            }
            return self.release();
        }
        let a = self.gpr(Val(i.a));
        let b = self.src(Val(i.b), w);
        self.release();
        let d = self.dst(Some(a));
        match b {
            Src::Reg(b) if d == b => self.asm.alu_rr(op, w, d, a),
            _ => {
                self.mov(w, d, a);
                self.alu(op, w, d, b);
            }
        }
    }

    fn emit_and_not(&mut self, i: &Inst) {
        let w = width(i.ty);
        if let Some(k) = self.constant(Val(i.b)) {
            let mask = if w == Width::B8 { !k as i64 } else { !k as u32 as i32 as i64 };
            if let Ok(mask) = i32::try_from(mask) {
                let a = self.gpr(Val(i.a));
                self.release();
                let d = self.dst(Some(a));
                self.mov(w, d, a);
                return self.asm.alu_rm_imm(Alu::And, w, d, mask);
            }
        }
        let a = self.gpr(Val(i.a));
        let b = self.gpr(Val(i.b));
        if self.env.features.bmi1 {
            self.release();
            let d = self.dst(None);
            return self.asm.andn(w, d, b, a);
        }
        let t = self.temp();
        self.mov(w, t, b);
        self.asm.not(w, t);
        self.asm.alu_rr(Alu::And, w, t, a);
        self.release();
        let d = self.dst(Some(t));
        self.mov(w, d, t);
    }

    fn emit_with_carry(&mut self, i: &Inst) {
        let w = width(i.ty);
        let op = if i.op == Op::Adc { Alu::Adc } else { Alu::Sbb };
        self.load_carry(Val(i.c));
        // Fetching operands and moving them leaves CF alone. They stay untouched until the result is complete.
        let a = self.gpr(Val(i.a));
        let b = self.src(Val(i.b), w);
        let t = self.temp();
        self.mov(w, t, a);
        self.alu(op, w, t, b);
        self.release();
        let d = self.dst(Some(t));
        self.mov(w, d, t);
    }

    fn emit_mul(&mut self, i: &Inst) {
        let w = width(i.ty);
        let a = self.gpr(Val(i.a));
        let b = self.src(Val(i.b), w);
        self.release();
        let d = self.dst(Some(a));
        match b {
            Src::Imm(k) => self.asm.imul_r_rm_imm(w, d, a, k),
            Src::Reg(b) if d == b => self.asm.imul_r_rm(w, d, a),
            Src::Reg(b) => {
                self.mov(w, d, a);
                self.asm.imul_r_rm(w, d, b);
            }
            Src::Mem(m) => {
                self.mov(w, d, a);
                self.asm.imul_r_rm(w, d, m);
            }
        }
    }

    /// Frees rax and rdx for an instruction that uses both, before operands are fetched.
    fn claim_rax_rdx(&mut self) {
        self.temp_exactly(RAX);
        self.temp_exactly(RDX);
    }

    fn emit_mul_high(&mut self, i: &Inst) {
        let w = width(i.ty);
        self.claim_rax_rdx();
        let a = self.gpr(Val(i.a));
        let b = self.gpr(Val(i.b));
        self.mov(w, RAX, a);
        if i.op == Op::MulHiU {
            self.asm.mul(w, b);
        } else {
            self.asm.imul(w, b);
        }
        self.release();
        let d = self.dst(Some(RDX));
        self.mov(w, d, RDX);
    }

    fn emit_div(&mut self, i: &Inst) {
        let w = width(i.ty);
        let signed = matches!(i.op, Op::SDiv | Op::SRem);
        let remainder = matches!(i.op, Op::URem | Op::SRem);
        self.claim_rax_rdx();
        let a = self.gpr(Val(i.a));
        let b = self.gpr(Val(i.b));
        let (zero, done) = (self.asm.label(), self.asm.label());
        self.asm.test_rr(w, b, b);
        self.asm.jcc_short(Cc::E, zero);
        if !signed {
            self.mov(w, RAX, a);
            self.asm.alu_rr(Alu::Xor, Width::B4, RDX, RDX);
            self.asm.div(w, b);
        } else if w == Width::B4 {
            // In 64 bits MIN / -1 does not overflow.
            let divisor = crate::env::call_area(1);
            self.asm.movsxd(RAX, b);
            self.asm.mov_rm_r(Width::B8, divisor, RAX);
            self.asm.movsxd(RAX, a);
            self.asm.cqo();
            self.asm.idiv(Width::B8, divisor);
        } else {
            let (divide, minus) = (self.asm.label(), self.asm.label());
            self.mov(w, RAX, a);
            self.asm.alu_rm_imm(Alu::Cmp, w, b, -1);
            self.asm.jcc_short(Cc::NE, divide);
            self.asm.neg(w, RAX);
            self.asm.alu_rr(Alu::Xor, Width::B4, RDX, RDX);
            self.asm.jmp_short(minus);
            self.asm.bind(divide);
            self.asm.cqo();
            self.asm.idiv(w, b);
            self.asm.bind(minus);
        }
        self.asm.jmp_short(done);
        self.asm.bind(zero);
        if remainder {
            self.mov(w, RDX, a);
        } else {
            self.asm.alu_rr(Alu::Xor, Width::B4, RAX, RAX);
        }
        self.asm.bind(done);
        self.release();
        let from = if remainder { RDX } else { RAX };
        let d = self.dst(Some(from));
        // A 32-bit move also clears what a 64-bit division left above.
        self.asm.mov_rr(w, d, from);
    }

    fn emit_shift(&mut self, i: &Inst) {
        let w = width(i.ty);
        if let Some(k) = self.constant(Val(i.b)) {
            return self.emit_shift_imm(i, w, (k as u32 & (w.bits() - 1)) as u8);
        }
        let kind = shift_kind(i.op);
        if self.env.features.bmi2 && i.op != Op::Ror {
            let a = self.gpr(Val(i.a));
            let b = self.gpr(Val(i.b));
            self.release();
            let d = self.dst(Some(a));
            return match i.op {
                Op::Shl => self.asm.shlx(w, d, a, b),
                Op::Shr => self.asm.shrx(w, d, a, b),
                _ => self.asm.sarx(w, d, a, b),
            };
        }
        self.temp_exactly(RCX);
        let a = self.gpr(Val(i.a));
        let b = self.gpr(Val(i.b));
        let t = self.temp();
        self.mov(w, t, a);
        self.mov(Width::B4, RCX, b);
        self.asm.shift_cl(kind, w, t);
        self.release();
        let d = self.dst(Some(t));
        self.mov(w, d, t);
    }

    fn emit_shift_imm(&mut self, i: &Inst, w: Width, k: u8) {
        let a = self.gpr(Val(i.a));
        self.release();
        let d = self.dst(Some(a));
        if i.op == Op::Ror && self.env.features.bmi2 && d != a {
            return self.asm.rorx(w, d, a, k);
        }
        if i.op == Op::Shl && d != a && (1..=3).contains(&k) {
            return self.asm.lea(w, d, Mem::scaled(a, 1 << k, 0));
        }
        self.mov(w, d, a);
        self.asm.shift_imm(shift_kind(i.op), w, d, k);
    }

    fn emit_unary(&mut self, i: &Inst) {
        let w = width(i.ty);
        let a = self.gpr(Val(i.a));
        self.release();
        let d = self.dst(Some(a));
        if i.op == Op::High {
            self.mov(Width::B8, d, a);
            return self.asm.shift_imm(Shift::Shr, Width::B8, d, 32);
        }
        self.mov(w, d, a);
        if a != d {
            self.unlock(a);
        }
        match i.op {
            Op::Not => self.asm.not(w, d),
            Op::Neg => self.asm.neg(w, d),
            Op::Bswap => self.asm.bswap(w, d),
            Op::Bswap16 if w == Width::B4 => {
                self.asm.bswap(w, d);
                self.asm.shift_imm(Shift::Ror, w, d, 16);
            }
            Op::Bswap16 => self.swap_groups(w, d, 8, 0x00ff_00ff_00ff_00ff),
            _ => {
                self.swap_groups(w, d, 1, 0x5555_5555_5555_5555);
                self.swap_groups(w, d, 2, 0x3333_3333_3333_3333);
                self.swap_groups(w, d, 4, 0x0f0f_0f0f_0f0f_0f0f);
                self.asm.bswap(w, d);
            }
        }
    }

    /// Exchanges neighbouring groups of `bits` bits; `mask` selects every second group.
    fn swap_groups(&mut self, w: Width, d: Gpr, bits: u8, mask: u64) {
        self.lock(d);
        let (t, m) = (self.temp(), self.temp());
        self.asm.mov_r_imm64(m, if w == Width::B4 { mask as u32 as u64 } else { mask });
        self.asm.mov_rr(w, t, d);
        self.asm.shift_imm(Shift::Shr, w, t, bits);
        self.asm.alu_rr(Alu::And, w, t, m);
        self.asm.alu_rr(Alu::And, w, d, m);
        self.asm.shift_imm(Shift::Shl, w, d, bits);
        self.asm.alu_rr(Alu::Or, w, d, t);
        self.unlock(t);
        self.unlock(m);
    }

    fn emit_count(&mut self, i: &Inst) {
        let w = width(i.ty);
        let f = self.env.features;
        let a = self.gpr(Val(i.a));
        match i.op {
            Op::Clz if f.lzcnt => {
                self.release();
                let d = self.dst(None);
                self.asm.lzcnt(w, d, a);
            }
            Op::Ctz if f.bmi1 => {
                self.release();
                let d = self.dst(None);
                self.asm.tzcnt(w, d, a);
            }
            Op::Popcnt if f.popcnt => {
                self.release();
                let d = self.dst(None);
                self.asm.popcnt(w, d, a);
            }
            Op::Popcnt => self.count_bits(i, w, a),
            _ => {
                // BSR and BSF leave the result undefined for zero: a conditional move supplies it.
                let (t, z) = (self.temp(), self.temp());
                let clz = i.op == Op::Clz;
                let none = if clz { 2 * w.bits() - 1 } else { w.bits() };
                self.asm.mov_r_imm32(z, none);
                if clz {
                    self.asm.bsr(w, t, a);
                } else {
                    self.asm.bsf(w, t, a);
                }
                self.asm.cmovcc(Cc::E, w, t, z);
                if clz {
                    self.asm.alu_rm_imm(Alu::Xor, w, t, w.bits() as i32 - 1);
                }
                self.release();
                let d = self.dst(Some(t));
                self.mov(w, d, t);
            }
        }
    }

    /// Population count without the instruction: sums within ever wider groups.
    fn count_bits(&mut self, _i: &Inst, w: Width, a: Gpr) {
        let (t, s) = (self.temp(), self.temp());
        self.mov(w, t, a);
        self.unlock(a);
        let cut = |m: u64| if w == Width::B4 { m as u32 as u64 } else { m };
        for (bits, mask) in [(1, 0x5555_5555_5555_5555u64), (2, 0x3333_3333_3333_3333), (4, 0x0f0f_0f0f_0f0f_0f0f)] {
            let m = self.temp();
            self.asm.mov_r_imm64(m, cut(mask));
            self.asm.mov_rr(w, s, t);
            self.asm.shift_imm(Shift::Shr, w, s, bits);
            self.asm.alu_rr(Alu::And, w, s, m);
            self.asm.alu_rr(Alu::And, w, t, m);
            self.asm.alu_rr(Alu::Add, w, t, s);
            self.unlock(m);
        }
        self.asm.mov_r_imm64(s, cut(0x0101_0101_0101_0101));
        self.asm.imul_r_rm(w, t, s);
        self.asm.shift_imm(Shift::Shr, w, t, (w.bits() - 8) as u8);
        self.release();
        let d = self.dst(Some(t));
        self.mov(w, d, t);
    }

    fn emit_extend(&mut self, i: &Inst) {
        let w = width(i.ty);
        let a = self.gpr(Val(i.a));
        self.release();
        let d = self.dst(Some(a));
        match i.op {
            Op::Zext8 => self.asm.movzx(Width::B1, d, a),
            Op::Zext16 => self.asm.movzx(Width::B2, d, a),
            Op::Sext8 => self.asm.movsx(w, Width::B1, d, a),
            Op::Sext16 => self.asm.movsx(w, Width::B2, d, a),
            Op::Sext32 => self.asm.movsxd(d, a),
            _ => self.asm.mov_rr(Width::B4, d, a),
        }
    }

    fn emit_concat(&mut self, i: &Inst) {
        let low = self.gpr(Val(i.a));
        let high = self.gpr(Val(i.b));
        self.release();
        let d = self.dst_apart(&[low]);
        self.mov(Width::B4, d, high);
        self.asm.shift_imm(Shift::Shl, Width::B8, d, 32);
        self.asm.alu_rr(Alu::Or, Width::B8, d, low);
    }

    fn emit_extract(&mut self, i: &Inst) {
        let w = width(i.ty);
        let (lsb, len) = ((i.b & 0xff) as u8, (i.b >> 8) as u8);
        let bits = w.bits() as u8;
        let a = self.gpr(Val(i.a));
        self.release();
        let d = self.dst(Some(a));
        let part = match len {
            8 => Some(Width::B1),
            16 => Some(Width::B2),
            32 if bits == 64 => Some(Width::B4),
            _ => None,
        };
        if i.op == Op::Sbfx {
            if let (0, Some(part)) = (lsb, part) {
                return self.asm.movsx(w, part, d, a);
            }
            self.mov(w, d, a);
            let up = bits - lsb - len;
            if up > 0 {
                self.asm.shift_imm(Shift::Shl, w, d, up);
            }
            if bits > len {
                self.asm.shift_imm(Shift::Sar, w, d, bits - len);
            }
            return;
        }
        if let (0, Some(part)) = (lsb, part) {
            return self.asm.movzx(part, d, a);
        }
        self.mov(w, d, a);
        if lsb > 0 {
            self.asm.shift_imm(Shift::Shr, w, d, lsb);
        }
        if lsb + len == bits {
            return;
        }
        match part {
            Some(part) => self.asm.movzx(part, d, d),
            None if len < 32 => self.asm.alu_rm_imm(Alu::And, w, d, ((1u64 << len) - 1) as i32),
            None => {
                self.asm.shift_imm(Shift::Shl, w, d, bits - len);
                self.asm.shift_imm(Shift::Shr, w, d, bits - len);
            }
        }
    }

    fn emit_deposit(&mut self, i: &Inst) {
        let w = width(i.ty);
        let (lsb, len) = (i.c & 0xff, i.c >> 8);
        let field = ir::interp::pure::low_mask(len);
        let a = self.gpr(Val(i.a));
        // The field's bits, in place.
        let t = self.temp();
        if let Some(k) = self.constant(Val(i.b)) {
            self.asm.mov_r_imm64(t, (k & field) << lsb);
        } else {
            let b = self.gpr(Val(i.b));
            self.mov(w, t, b);
            self.unlock(b);
            let bits = w.bits();
            if len < bits {
                self.asm.shift_imm(Shift::Shl, w, t, (bits - len) as u8);
            }
            if bits - len > lsb {
                self.asm.shift_imm(Shift::Shr, w, t, (bits - len - lsb) as u8);
            }
        }
        self.release();
        let d = self.dst_apart(&[t]);
        self.mov(w, d, a);
        if a != d && a != t {
            self.unlock(a);
        }
        let keep = !(field << lsb);
        match i32::try_from(if w == Width::B4 { keep as u32 as i32 as i64 } else { keep as i64 }) {
            Ok(k) => self.asm.alu_rm_imm(Alu::And, w, d, k),
            Err(_) => {
                let m = self.temp();
                self.asm.mov_r_imm64(m, keep);
                self.asm.alu_rr(Alu::And, w, d, m);
            }
        }
        self.asm.alu_rr(Alu::Or, w, d, t);
    }

    fn emit_select(&mut self, i: &Inst) {
        if i.ty == Ty::V128 {
            return self.emit_vec_select(i);
        }
        let w = width(i.ty);
        let cc = self.select_condition(i);
        // From here on only moves, which leave the flags alone.
        self.locked = 0;
        let b = self.gpr(Val(i.b));
        let c = self.src(Val(i.c), w);
        self.release();
        let c_reg = if let Src::Reg(r) = c { Some(r) } else { None };
        let d = if c_reg == Some(b) { self.dst(None) } else { self.dst(c_reg) };
        if d == b {
            match c {
                Src::Reg(c) => self.asm.cmovcc(cc.invert(), w, d, c),
                Src::Mem(m) => self.asm.cmovcc(cc.invert(), w, d, m),
                Src::Imm(_) => {
                    let t = self.temp();
                    self.mov_src(w, t, c);
                    self.asm.cmovcc(cc.invert(), w, d, t);
                }
            }
            return;
        }
        self.mov_src(w, d, c);
        self.asm.cmovcc(cc, w, d, b);
    }

    /// Sets EFLAGS for a select and gives the condition under which its second operand is the result.
    pub(crate) fn select_condition(&mut self, i: &Inst) -> Cc {
        if i.op == Op::SelectCc {
            return self.test_cc(Val(i.a), ir::Cc::from_u8(i.aux));
        }
        self.test_bool(Val(i.a))
    }

    /// Sets EFLAGS by an I32 and gives the condition "not zero".
    pub(crate) fn test_bool(&mut self, v: Val) -> Cc {
        let lazy = self.info[v.index()].lazy;
        let i = *self.inst(v);
        match i.op {
            Op::Icmp if lazy => {
                self.keep_eflags();
                self.compare(&i)
            }
            Op::CcBit if lazy => self.test_cc(Val(i.a), ir::Cc::from_u8(i.aux)),
            _ => {
                let r = self.gpr(v);
                self.keep_eflags();
                self.asm.test_rr(Width::B4, r, r);
                Cc::NE
            }
        }
    }
}

fn shift_kind(op: Op) -> Shift {
    match op {
        Op::Shl => Shift::Shl,
        Op::Shr => Shift::Shr,
        Op::Sar => Shift::Sar,
        _ => Shift::Ror,
    }
}
