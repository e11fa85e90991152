//! Data processing: the sixteen operations with their three kinds of second operand, MOVW and MOVT.
//!
//! **Reference.** Arm ARM (DDI 0406C) A5.2.1 to A5.2.3, A5.2.10; shifts: A8.4.
//!
//! The bodies take the second operand ready shifted, so that T16 and T32 share them.

use crate::features::Features;
use crate::state::bank::mode;
use crate::translate::{Flow, Translator};
use ir::build::Hint;
use ir::Val;
use spec::decode::Bits;

/// A second operand and, where the shifter changes C, its carry out (0 or 1).
pub type Operand2 = (Val, Option<Val>);

/// Type of a shift by a constant or register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shift {
    Lsl,
    Lsr,
    Asr,
    Ror,
}

impl Bits for Shift {
    fn from_bits(bits: u32) -> Shift {
        [Shift::Lsl, Shift::Lsr, Shift::Asr, Shift::Ror][bits as usize & 3]
    }
}

/// The operations, named as in the manual.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alu {
    And,
    Eor,
    Sub,
    Rsb,
    Add,
    Adc,
    Sbc,
    Rsc,
    Tst,
    Teq,
    Cmp,
    Cmn,
    Orr,
    Mov,
    Bic,
    Mvn,
    /// T32 only.
    Orn,
}

impl Alu {
    fn is_logical(self) -> bool {
        use Alu::*;
        matches!(self, And | Eor | Tst | Teq | Orr | Mov | Bic | Mvn | Orn)
    }

    fn is_comparison(self) -> bool {
        matches!(self, Alu::Tst | Alu::Teq | Alu::Cmp | Alu::Cmn)
    }
}

spec::insns! { pub ROWS: Translator => Flow;
    /// AND (immediate), A8.8.13
    and_imm "cccc 001 0000 s nnnn dddd iiiiiiiiiiii" (s, n, d, i);
    /// AND (register), A8.8.14
    and_reg "cccc 000 0000 s nnnn dddd iiiii tt 0 mmmm" (s, n, d, i, t, m);
    /// AND (register-shifted register), A8.8.15
    and_rsr "cccc 000 0000 s nnnn dddd aaaa 0 tt 1 mmmm" (s, n, d, a, t, m);
    /// EOR (immediate), A8.8.46
    eor_imm "cccc 001 0001 s nnnn dddd iiiiiiiiiiii" (s, n, d, i);
    /// EOR (register), A8.8.47
    eor_reg "cccc 000 0001 s nnnn dddd iiiii tt 0 mmmm" (s, n, d, i, t, m);
    /// EOR (register-shifted register), A8.8.48
    eor_rsr "cccc 000 0001 s nnnn dddd aaaa 0 tt 1 mmmm" (s, n, d, a, t, m);
    /// SUB (immediate), A8.8.222
    sub_imm "cccc 001 0010 s nnnn dddd iiiiiiiiiiii" (s, n, d, i);
    /// SUB (register), A8.8.223
    sub_reg "cccc 000 0010 s nnnn dddd iiiii tt 0 mmmm" (s, n, d, i, t, m);
    /// SUB (register-shifted register), A8.8.224
    sub_rsr "cccc 000 0010 s nnnn dddd aaaa 0 tt 1 mmmm" (s, n, d, a, t, m);
    /// RSB (immediate), A8.8.152
    rsb_imm "cccc 001 0011 s nnnn dddd iiiiiiiiiiii" (s, n, d, i);
    /// RSB (register), A8.8.153
    rsb_reg "cccc 000 0011 s nnnn dddd iiiii tt 0 mmmm" (s, n, d, i, t, m);
    /// RSB (register-shifted register), A8.8.154
    rsb_rsr "cccc 000 0011 s nnnn dddd aaaa 0 tt 1 mmmm" (s, n, d, a, t, m);
    /// ADD (immediate), A8.8.5
    add_imm "cccc 001 0100 s nnnn dddd iiiiiiiiiiii" (s, n, d, i);
    /// ADD (register), A8.8.7
    add_reg "cccc 000 0100 s nnnn dddd iiiii tt 0 mmmm" (s, n, d, i, t, m);
    /// ADD (register-shifted register), A8.8.8
    add_rsr "cccc 000 0100 s nnnn dddd aaaa 0 tt 1 mmmm" (s, n, d, a, t, m);
    /// ADC (immediate), A8.8.1
    adc_imm "cccc 001 0101 s nnnn dddd iiiiiiiiiiii" (s, n, d, i);
    /// ADC (register), A8.8.2
    adc_reg "cccc 000 0101 s nnnn dddd iiiii tt 0 mmmm" (s, n, d, i, t, m);
    /// ADC (register-shifted register), A8.8.3
    adc_rsr "cccc 000 0101 s nnnn dddd aaaa 0 tt 1 mmmm" (s, n, d, a, t, m);
    /// SBC (immediate), A8.8.161
    sbc_imm "cccc 001 0110 s nnnn dddd iiiiiiiiiiii" (s, n, d, i);
    /// SBC (register), A8.8.162
    sbc_reg "cccc 000 0110 s nnnn dddd iiiii tt 0 mmmm" (s, n, d, i, t, m);
    /// SBC (register-shifted register), A8.8.163
    sbc_rsr "cccc 000 0110 s nnnn dddd aaaa 0 tt 1 mmmm" (s, n, d, a, t, m);
    /// RSC (immediate), A8.8.155
    rsc_imm "cccc 001 0111 s nnnn dddd iiiiiiiiiiii" (s, n, d, i);
    /// RSC (register), A8.8.156
    rsc_reg "cccc 000 0111 s nnnn dddd iiiii tt 0 mmmm" (s, n, d, i, t, m);
    /// RSC (register-shifted register), A8.8.157
    rsc_rsr "cccc 000 0111 s nnnn dddd aaaa 0 tt 1 mmmm" (s, n, d, a, t, m);
    /// TST (immediate), A8.8.240
    tst_imm "cccc 001 1000 1 nnnn 0000 iiiiiiiiiiii" (n, i);
    /// TST (register), A8.8.241
    tst_reg "cccc 000 1000 1 nnnn 0000 iiiii tt 0 mmmm" (n, i, t, m);
    /// TST (register-shifted register), A8.8.242
    tst_rsr "cccc 000 1000 1 nnnn 0000 aaaa 0 tt 1 mmmm" (n, a, t, m);
    /// TEQ (immediate), A8.8.237
    teq_imm "cccc 001 1001 1 nnnn 0000 iiiiiiiiiiii" (n, i);
    /// TEQ (register), A8.8.238
    teq_reg "cccc 000 1001 1 nnnn 0000 iiiii tt 0 mmmm" (n, i, t, m);
    /// TEQ (register-shifted register), A8.8.239
    teq_rsr "cccc 000 1001 1 nnnn 0000 aaaa 0 tt 1 mmmm" (n, a, t, m);
    /// CMP (immediate), A8.8.37
    cmp_imm "cccc 001 1010 1 nnnn 0000 iiiiiiiiiiii" (n, i);
    /// CMP (register), A8.8.38
    cmp_reg "cccc 000 1010 1 nnnn 0000 iiiii tt 0 mmmm" (n, i, t, m);
    /// CMP (register-shifted register), A8.8.39
    cmp_rsr "cccc 000 1010 1 nnnn 0000 aaaa 0 tt 1 mmmm" (n, a, t, m);
    /// CMN (immediate), A8.8.34
    cmn_imm "cccc 001 1011 1 nnnn 0000 iiiiiiiiiiii" (n, i);
    /// CMN (register), A8.8.35
    cmn_reg "cccc 000 1011 1 nnnn 0000 iiiii tt 0 mmmm" (n, i, t, m);
    /// CMN (register-shifted register), A8.8.36
    cmn_rsr "cccc 000 1011 1 nnnn 0000 aaaa 0 tt 1 mmmm" (n, a, t, m);
    /// ORR (immediate), A8.8.122
    orr_imm "cccc 001 1100 s nnnn dddd iiiiiiiiiiii" (s, n, d, i);
    /// ORR (register), A8.8.123
    orr_reg "cccc 000 1100 s nnnn dddd iiiii tt 0 mmmm" (s, n, d, i, t, m);
    /// ORR (register-shifted register), A8.8.124
    orr_rsr "cccc 000 1100 s nnnn dddd aaaa 0 tt 1 mmmm" (s, n, d, a, t, m);
    /// MOV (immediate), A8.8.102
    mov_imm "cccc 001 1101 s 0000 dddd iiiiiiiiiiii" (s, d, i);
    /// MOV, LSL, LSR, ASR, ROR, RRX (immediate), A8.8.104
    mov_reg "cccc 000 1101 s 0000 dddd iiiii tt 0 mmmm" (s, d, i, t, m);
    /// LSL, LSR, ASR, ROR (register), A8.8.95
    mov_rsr "cccc 000 1101 s 0000 dddd aaaa 0 tt 1 mmmm" (s, d, a, t, m);
    /// BIC (immediate), A8.8.21
    bic_imm "cccc 001 1110 s nnnn dddd iiiiiiiiiiii" (s, n, d, i);
    /// BIC (register), A8.8.22
    bic_reg "cccc 000 1110 s nnnn dddd iiiii tt 0 mmmm" (s, n, d, i, t, m);
    /// BIC (register-shifted register), A8.8.23
    bic_rsr "cccc 000 1110 s nnnn dddd aaaa 0 tt 1 mmmm" (s, n, d, a, t, m);
    /// MVN (immediate), A8.8.115
    mvn_imm "cccc 001 1111 s 0000 dddd iiiiiiiiiiii" (s, d, i);
    /// MVN (register), A8.8.116
    mvn_reg "cccc 000 1111 s 0000 dddd iiiii tt 0 mmmm" (s, d, i, t, m);
    /// MVN (register-shifted register), A8.8.117
    mvn_rsr "cccc 000 1111 s 0000 dddd aaaa 0 tt 1 mmmm" (s, d, a, t, m);
    /// MOVW: MOV (immediate), encoding A2, A8.8.102
    movw "cccc 0011 0000 iiii dddd iiiiiiiiiiii" (d, i);
    /// MOVT, A8.8.106
    movt "cccc 0011 0100 iiii dddd iiiiiiiiiiii" (d, i);
}

/// Whether the word is data processing that changes nothing but one register other than the PC: what a conditional select
/// can express.
pub fn is_selectable(w: u32) -> bool {
    let class = w >> 25 & 7;
    let sets_flags = w >> 20 & 1 != 0;
    let comparison = w >> 23 & 3 == 2;
    let pc = w >> 12 & 15 == 15;
    if sets_flags || pc {
        return false;
    }
    match class {
        0 if w & 0x90 == 0x90 || comparison => false,
        0 => true,
        1 if comparison => w & 0x0fb0_0000 == 0x0300_0000,
        1 => true,
        _ => false,
    }
}

/// Handlers of the operations with a destination and a first operand.
macro_rules! three_operands {
    ($($alu:ident $imm:ident $reg:ident $rsr:ident;)*) => {
        impl Translator {$(
            fn $imm(&mut self, s: bool, n: u32, d: u32, i: u32) -> Flow {
                let operand = self.expand_imm_c(i);
                let n = self.reg(n);
                self.alu(Alu::$alu, s, d, n, operand)
            }

            fn $reg(&mut self, s: bool, n: u32, d: u32, i: u32, t: Shift, m: u32) -> Flow {
                let operand = self.shifted_reg(m, t, i, s);
                let n = self.reg(n);
                self.alu(Alu::$alu, s, d, n, operand)
            }

            fn $rsr(&mut self, s: bool, n: u32, d: u32, a: u32, t: Shift, m: u32) -> Flow {
                let operand = self.reg_shifted_reg(m, t, a, s && Alu::$alu.is_logical());
                let n = self.reg(n);
                self.alu(Alu::$alu, s, d, n, operand)
            }
        )*}
    };
}

/// Handlers of comparisons: no destination.
macro_rules! comparisons {
    ($($alu:ident $imm:ident $reg:ident $rsr:ident;)*) => {
        impl Translator {$(
            fn $imm(&mut self, n: u32, i: u32) -> Flow {
                let operand = self.expand_imm_c(i);
                let n = self.reg(n);
                self.alu(Alu::$alu, true, 0, n, operand)
            }

            fn $reg(&mut self, n: u32, i: u32, t: Shift, m: u32) -> Flow {
                let operand = self.shifted_reg(m, t, i, Alu::$alu.is_logical());
                let n = self.reg(n);
                self.alu(Alu::$alu, true, 0, n, operand)
            }

            fn $rsr(&mut self, n: u32, a: u32, t: Shift, m: u32) -> Flow {
                let operand = self.reg_shifted_reg(m, t, a, Alu::$alu.is_logical());
                let n = self.reg(n);
                self.alu(Alu::$alu, true, 0, n, operand)
            }
        )*}
    };
}

/// Handlers of moves: no first operand.
macro_rules! moves {
    ($($alu:ident $imm:ident $reg:ident $rsr:ident;)*) => {
        impl Translator {$(
            fn $imm(&mut self, s: bool, d: u32, i: u32) -> Flow {
                let operand = self.expand_imm_c(i);
                self.alu(Alu::$alu, s, d, operand.0, operand)
            }

            fn $reg(&mut self, s: bool, d: u32, i: u32, t: Shift, m: u32) -> Flow {
                if m == 14 && d == 15 && !s && i == 0 && t == Shift::Lsl {
                    let lr = self.reg(14);
                    return self.alu_write_pc(lr, Hint::Return);
                }
                let operand = self.shifted_reg(m, t, i, s);
                self.alu(Alu::$alu, s, d, operand.0, operand)
            }

            fn $rsr(&mut self, s: bool, d: u32, a: u32, t: Shift, m: u32) -> Flow {
                let operand = self.reg_shifted_reg(m, t, a, s);
                self.alu(Alu::$alu, s, d, operand.0, operand)
            }
        )*}
    };
}

three_operands! {
    And and_imm and_reg and_rsr;
    Eor eor_imm eor_reg eor_rsr;
    Sub sub_imm sub_reg sub_rsr;
    Rsb rsb_imm rsb_reg rsb_rsr;
    Add add_imm add_reg add_rsr;
    Adc adc_imm adc_reg adc_rsr;
    Sbc sbc_imm sbc_reg sbc_rsr;
    Rsc rsc_imm rsc_reg rsc_rsr;
    Orr orr_imm orr_reg orr_rsr;
    Bic bic_imm bic_reg bic_rsr;
}

comparisons! {
    Tst tst_imm tst_reg tst_rsr;
    Teq teq_imm teq_reg teq_rsr;
    Cmp cmp_imm cmp_reg cmp_rsr;
    Cmn cmn_imm cmn_reg cmn_rsr;
}

moves! {
    Mov mov_imm mov_reg mov_rsr;
    Mvn mvn_imm mvn_reg mvn_rsr;
}

impl Translator {
    fn movw(&mut self, d: u32, i: u32) -> Flow {
        if !self.has(Features::V6T2) {
            return self.undefined();
        }
        self.move_wide(d, i)
    }

    fn movt(&mut self, d: u32, i: u32) -> Flow {
        if !self.has(Features::V6T2) {
            return self.undefined();
        }
        self.move_top(d, i)
    }

    /// MOVW: Rd = imm16. UNPREDICTABLE for the PC: UNDEFINED here.
    pub fn move_wide(&mut self, d: u32, imm16: u32) -> Flow {
        if d == 15 {
            return self.undefined();
        }
        let v = self.imm(imm16);
        self.write(d, v)
    }

    /// MOVT: Rd\[31:16\] = imm16.
    pub fn move_top(&mut self, d: u32, imm16: u32) -> Flow {
        if d == 15 {
            return self.undefined();
        }
        let old = self.reg(d);
        let low = self.b.and_imm(old, 0xffff);
        let v = self.b.or_imm(low, (imm16 << 16) as u64);
        self.write(d, v)
    }

    /// ARMExpandImm_C.
    pub fn expand_imm_c(&mut self, i: u32) -> Operand2 {
        let rotation = 2 * (i >> 8);
        let value = (i & 0xff).rotate_right(rotation);
        let carry = (rotation != 0).then(|| self.imm(value >> 31));
        (self.imm(value), carry)
    }

    /// Register `m` shifted by a constant, as DecodeImmShift and Shift_C have it. `carry`: the carry out is wanted.
    pub fn shifted_reg(&mut self, m: u32, shift: Shift, i: u32, carry: bool) -> Operand2 {
        let v = self.reg(m);
        self.shift_imm(v, shift, i, carry)
    }

    /// `v` shifted by the constant of a 5-bit field (0 means 32 for LSR and ASR, RRX for ROR).
    pub fn shift_imm(&mut self, v: Val, shift: Shift, i: u32, carry: bool) -> Operand2 {
        let bit = |t: &mut Translator, n: u32| carry.then(|| t.b.ubfx(v, n, 1));
        match (shift, i) {
            (Shift::Lsl, 0) => (v, None),
            (Shift::Lsl, n) => {
                let c = bit(self, 32 - n);
                (self.b.shl_imm(v, n), c)
            }
            (Shift::Lsr, 0) => {
                let c = bit(self, 31);
                (self.imm(0), c)
            }
            (Shift::Lsr, n) => {
                let c = bit(self, n - 1);
                (self.b.shr_imm(v, n), c)
            }
            (Shift::Asr, 0) => {
                let c = bit(self, 31);
                (self.b.sar_imm(v, 31), c)
            }
            (Shift::Asr, n) => {
                let c = bit(self, n - 1);
                (self.b.sar_imm(v, n), c)
            }
            (Shift::Ror, 0) => {
                let c = bit(self, 0);
                let old = self.carry();
                let top = self.b.shl_imm(old, 31);
                let low = self.b.shr_imm(v, 1);
                (self.b.or(low, top), c)
            }
            (Shift::Ror, n) => {
                let c = bit(self, n - 1);
                (self.b.ror_imm(v, n), c)
            }
        }
    }

    /// Register `m` shifted by the low byte of register `s`.
    pub fn reg_shifted_reg(&mut self, m: u32, shift: Shift, s: u32, carry: bool) -> Operand2 {
        let v = self.reg(m);
        let s = self.reg(s);
        let amount = self.b.zext8(s);
        let result = self.shift_by(v, shift, amount);
        let c = carry.then(|| self.shift_carry(v, shift, amount));
        (result, c)
    }

    /// `v` shifted by `amount` (0 to 255).
    pub fn shift_by(&mut self, v: Val, shift: Shift, amount: Val) -> Val {
        let limit = self.imm(32);
        match shift {
            Shift::Lsl | Shift::Lsr => {
                let r = if shift == Shift::Lsl { self.b.shl(v, amount) } else { self.b.shr(v, amount) };
                let inside = self.b.icmp(ir::Cmp::Ult, amount, limit);
                let zero = self.imm(0);
                self.b.select(inside, r, zero)
            }
            Shift::Asr => {
                let most = self.imm(31);
                let inside = self.b.icmp(ir::Cmp::Ult, amount, limit);
                let n = self.b.select(inside, amount, most);
                self.b.sar(v, n)
            }
            Shift::Ror => self.b.ror(v, amount),
        }
    }

    /// The carry out of a shift of `v` by `amount` (0 to 255): C itself for 0.
    pub fn shift_carry(&mut self, v: Val, shift: Shift, amount: Val) -> Val {
        let one = self.imm(1);
        let wide = self.b.zext32(v);
        let shifted = match shift {
            Shift::Lsl => {
                // Bit 32 of the 64-bit result; amounts above 63 are cut by the range check below.
                let n = self.b.zext32(amount);
                let r = self.b.shl(wide, n);
                self.b.high(r)
            }
            Shift::Lsr => {
                // One bit further left, bit 0 is the last one shifted out.
                let twice = self.b.shl_imm(wide, 1);
                let n = self.b.zext32(amount);
                let r = self.b.shr(twice, n);
                self.b.trunc(r)
            }
            Shift::Asr => {
                let signed = self.b.sext32(v);
                let twice = self.b.shl_imm(signed, 1);
                let most = self.imm(63);
                let inside = self.b.icmp(ir::Cmp::Ult, amount, most);
                let n = self.b.select(inside, amount, most);
                let n = self.b.zext32(n);
                let r = self.b.sar(twice, n);
                self.b.trunc(r)
            }
            Shift::Ror => {
                let n = self.b.sub(amount, one);
                self.b.ror(v, n)
            }
        };
        let mut out = self.b.and_imm(shifted, 1);
        if matches!(shift, Shift::Lsl | Shift::Lsr) {
            let limit = self.imm(33);
            let inside = self.b.icmp(ir::Cmp::Ult, amount, limit);
            out = self.b.and(out, inside);
        }
        let old = self.carry();
        self.b.select(amount, out, old)
    }

    /// The operation itself: result to `d`, flags if `s`. With the PC as destination, S means an exception return, which
    /// is UNPREDICTABLE in User and Hyp mode: UNDEFINED here.
    pub fn alu(&mut self, op: Alu, s: bool, d: u32, n: Val, (m, carry): Operand2) -> Flow {
        if s && d == 15 && !op.is_comparison() {
            if !self.privileged() || self.cpu_mode == mode::HYP || self.thumb {
                return self.undefined();
            }
            let target = if op.is_logical() { self.logical(op, n, m) } else { self.arithmetic(op, false, n, m) };
            return self.return_to(target);
        }
        let result = if op.is_logical() {
            let r = self.logical(op, n, m);
            if s {
                self.set_nz(r, carry);
            }
            r
        } else {
            self.arithmetic(op, s, n, m)
        };
        if op.is_comparison() { Flow::Next } else { self.write(d, result) }
    }

    fn logical(&mut self, op: Alu, n: Val, m: Val) -> Val {
        let b = &mut self.b;
        match op {
            Alu::And | Alu::Tst => b.and(n, m),
            Alu::Eor | Alu::Teq => b.xor(n, m),
            Alu::Orr => b.or(n, m),
            Alu::Bic => match b.constant(m) {
                Some(k) => b.and_imm(n, !(k as u32) as u64),
                None => b.andn(n, m),
            },
            Alu::Mvn => b.not(m),
            Alu::Orn => {
                let m = b.not(m);
                b.or(n, m)
            }
            _ => m,
        }
    }

    fn arithmetic(&mut self, op: Alu, s: bool, n: Val, m: Val) -> Val {
        let (n, m) = if matches!(op, Alu::Rsb | Alu::Rsc) { (m, n) } else { (n, m) };
        match op {
            Alu::Add | Alu::Cmn => {
                let r = self.b.add(n, m);
                if s {
                    let f = self.b.f_add(n, m);
                    let f = self.b.f_invert_c(f);
                    self.set_flags(f);
                }
                r
            }
            Alu::Adc => {
                let old = self.flags();
                let c = self.b.f_invert_c(old);
                let r = self.b.adc(n, m, c);
                if s {
                    let f = self.b.f_adc(n, m, c);
                    let f = self.b.f_invert_c(f);
                    self.set_flags(f);
                }
                r
            }
            Alu::Sbc | Alu::Rsc => {
                let borrow = self.flags();
                let r = self.b.sbb(n, m, borrow);
                if s {
                    let f = self.b.f_sbb(n, m, borrow);
                    self.set_flags(f);
                }
                r
            }
            _ => {
                let r = self.b.sub(n, m);
                if s {
                    let f = self.b.f_sub(n, m);
                    self.set_flags(f);
                }
                r
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_selectable;
    use crate::testing::Machine;

    /// One instruction on r0 = a, r1 = b; then r0 and the flags.
    fn check(word: u32, a: u32, b: u32, flags: &str, want: u32, want_flags: &str) {
        let m = Machine::a32(&[word]).set_r(0, a).set_r(1, b).set_nzcv(flags).run();
        assert_eq!((m.r(0), m.nzcv().as_str()), (want, want_flags), "{word:#x} {a:#x} {b:#x}");
    }

    #[test]
    fn additions_and_subtractions_set_arm_carries() {
        check(0xe090_0001, 0xffff_ffff, 1, "nzcv", 0, "nZCv"); // adds r0, r0, r1
        check(0xe090_0001, 0x7fff_ffff, 1, "nzcv", 0x8000_0000, "NzcV");
        check(0xe050_0001, 5, 5, "nzcv", 0, "nZCv"); // subs r0, r0, r1
        check(0xe050_0001, 0, 1, "nzcv", 0xffff_ffff, "Nzcv");
        check(0xe0b0_0001, 1, 1, "nzCv", 3, "nzcv"); // adcs
        check(0xe0d0_0001, 5, 3, "nzcv", 1, "nzCv"); // sbcs
        check(0xe0f0_0001, 5, 3, "nzCv", 0xffff_fffe, "Nzcv"); // rscs r0, r0, r1
        check(0xe070_0001, 1, 3, "nzcv", 2, "nzCv"); // rsbs r0, r0, r1
    }

    #[test]
    fn logical_operations_take_the_shifter_carry_and_keep_v() {
        check(0xe1b0_00a1, 0, 3, "nzcV", 1, "nzCV"); // lsrs r0, r1, #1
        check(0xe1b0_0061, 0, 3, "nzCv", 0x8000_0001, "NzCv"); // rrxs r0, r1
        check(0xe210_0001, 3, 0, "NZCV", 1, "nzCV"); // ands r0, r0, #1
        check(0xe3b0_0102, 0, 0, "nzcV", 0x8000_0000, "NzCV"); // movs r0, #0x80000000
        check(0xe1b0_0041, 0, 0x8000_0000, "nzcv", 0xffff_ffff, "NzCv"); // asrs r0, r1, #32
    }

    #[test]
    fn shifts_by_registers_go_up_to_255() {
        let movs = |shift: u32| 0xe1b0_0010 | shift << 5 | 1 << 8; // movs r0, r0, <shift> r1
        check(movs(0), 1, 32, "nzcv", 0, "nZCv");
        check(movs(0), 1, 33, "nzCv", 0, "nZcv");
        check(movs(0), 3, 64, "nzCv", 0, "nZcv");
        check(movs(0), 3, 0x100, "nzCv", 3, "nzCv");
        check(movs(1), 0x8000_0000, 32, "nzcv", 0, "nZCv");
        check(movs(1), 0x8000_0000, 96, "nzcv", 0, "nZcv");
        check(movs(2), 0x8000_0000, 200, "nzcv", 0xffff_ffff, "NzCv");
        check(movs(2), 0x4000_0000, 31, "nzcv", 0, "nZCv");
        check(movs(3), 0x8000_0001, 32, "nzcv", 0x8000_0001, "NzCv");
        check(movs(3), 2, 2, "nzcv", 0x8000_0000, "NzCv");
    }

    #[test]
    fn the_pc_reads_8_ahead_and_bit_0_of_a_result_chooses_thumb() {
        let m = Machine::a32(&[0xe28f_0000]).run(); // add r0, pc, #0
        assert_eq!(m.r(0), crate::testing::CODE + 8);
        let mut m = Machine::a32(&[0xe28f_f001]); // add pc, pc, #1
        m.step(1);
        assert_eq!((m.pc(), crate::state::read_cpsr(&m.state) & 0x20), (crate::testing::CODE + 8, 0x20));
    }

    #[test]
    fn moves_of_halves() {
        let m = Machine::a32(&[0xe30f_0fff, 0xe34a_0bcd]).run(); // movw r0, #0xffff; movt r0, #0xabcd
        assert_eq!(m.r(0), 0xabcd_ffff);
    }

    #[test]
    fn conditional_instructions_in_every_kind_of_run() {
        // cmp r0, #1; moveq r1, #2; movne r1, #3; addeq r2, r2, #1; addeq r3, r3, #1; strne..: long run of one condition
        let run = [0xe350_0001, 0x03a0_1002, 0x13a0_1003, 0x0282_2001, 0x0283_3001, 0x0284_4001, 0x0285_5001, 0x0286_6001];
        for (r0, want) in [(1, [2, 1, 1, 1, 1, 1]), (7, [3, 0, 0, 0, 0, 0])] {
            let m = Machine::a32(&run).set_r(0, r0).run();
            assert_eq!(std::array::from_fn(|i| m.r(i as u32 + 1)), want);
        }
        // cmp r0, #1; cmpeq r1, #2; moveq r2, #9: the second comparison ends the run
        for (r1, want) in [(2, 9), (3, 0)] {
            let m = Machine::a32(&[0xe350_0001, 0x0351_0002, 0x03a0_2009]).set_r(0, 1).set_r(1, r1).run();
            assert_eq!(m.r(2), want);
        }
    }

    #[test]
    fn what_a_select_can_express() {
        for (word, want) in [
            (0x03a0_1002, true),  // moveq r1, #2
            (0x0080_1112, true),  // addeq r1, r0, r2, lsl r1
            (0x0340_1001, true),  // movteq r1, #1
            (0x0350_0001, false), // cmpeq r0, #1
            (0x03a0_f002, false), // moveq pc, #2
            (0x0000_0291, false), // muleq
            (0x012f_ff1e, false), // bxeq lr
            (0x0320_f000, false), // nopeq
            (0x0590_0000, false), // ldreq
        ] {
            assert_eq!(is_selectable(word), want, "{word:#x}");
        }
    }
}
