//! Saturation, packing, extension, reversal and bit fields.
//!
//! **Reference.** Arm ARM (DDI 0406C) A5.2.6, A5.4.3, A5.4; saturation A2.2.1.

use super::data_processing::Shift;
use crate::features::Features;
use crate::translate::{Flow, Translator};
use ir::{Cc, Cmp, Val};

spec::insns! { pub ROWS: Translator => Flow;
    /// QADD, A8.8.134
    qadd "cccc 0001 0000 nnnn dddd 0000 0101 mmmm" (n, d, m);
    /// QSUB, A8.8.141
    qsub "cccc 0001 0010 nnnn dddd 0000 0101 mmmm" (n, d, m);
    /// QDADD, A8.8.138
    qdadd "cccc 0001 0100 nnnn dddd 0000 0101 mmmm" (n, d, m);
    /// QDSUB, A8.8.139
    qdsub "cccc 0001 0110 nnnn dddd 0000 0101 mmmm" (n, d, m);
    /// SSAT, A8.8.193
    ssat "cccc 0110 101 bbbbb dddd iiiii t 01 nnnn" (b, d, i, t, n);
    /// SSAT16, A8.8.194
    ssat16 "cccc 0110 1010 bbbb dddd 1111 0011 nnnn" (b, d, n);
    /// USAT, A8.8.266
    usat "cccc 0110 111 bbbbb dddd iiiii t 01 nnnn" (b, d, i, t, n);
    /// USAT16, A8.8.267
    usat16 "cccc 0110 1110 bbbb dddd 1111 0011 nnnn" (b, d, n);

    /// PKHBT, PKHTB, A8.8.125
    pkh "cccc 0110 1000 nnnn dddd iiiii t 01 mmmm" (n, d, i, t, m);
    /// SXTAB16, SXTB16, A8.8.231
    sxtab16 "cccc 0110 1000 nnnn dddd rr 00 0111 mmmm" (n, d, r, m);
    /// SXTAB, SXTB, A8.8.230
    sxtab "cccc 0110 1010 nnnn dddd rr 00 0111 mmmm" (n, d, r, m);
    /// SXTAH, SXTH, A8.8.232
    sxtah "cccc 0110 1011 nnnn dddd rr 00 0111 mmmm" (n, d, r, m);
    /// UXTAB16, UXTB16, A8.8.272
    uxtab16 "cccc 0110 1100 nnnn dddd rr 00 0111 mmmm" (n, d, r, m);
    /// UXTAB, UXTB, A8.8.271
    uxtab "cccc 0110 1110 nnnn dddd rr 00 0111 mmmm" (n, d, r, m);
    /// UXTAH, UXTH, A8.8.273
    uxtah "cccc 0110 1111 nnnn dddd rr 00 0111 mmmm" (n, d, r, m);
    /// REV, A8.8.145
    rev "cccc 0110 1011 1111 dddd 1111 0011 mmmm" (d, m);
    /// REV16, A8.8.146
    rev16 "cccc 0110 1011 1111 dddd 1111 1011 mmmm" (d, m);
    /// RBIT, A8.8.144
    rbit "cccc 0110 1111 1111 dddd 1111 0011 mmmm" (d, m);
    /// REVSH, A8.8.147
    revsh "cccc 0110 1111 1111 dddd 1111 1011 mmmm" (d, m);
    /// CLZ, A8.8.33
    clz "cccc 0001 0110 1111 dddd 1111 0001 mmmm" (d, m);
    /// SBFX, A8.8.164
    sbfx "cccc 0111 101 wwwww dddd lllll 101 nnnn" (w, d, l, n);
    /// UBFX, A8.8.246
    ubfx "cccc 0111 111 wwwww dddd lllll 101 nnnn" (w, d, l, n);
    /// BFC, BFI, A8.8.19
    bfi "cccc 0111 110 hhhhh dddd lllll 001 nnnn" (h, d, l, n);
}

impl Translator {
    /// Signed a + b or a - b, saturated; Q is set if it was.
    fn saturate_sum(&mut self, a: Val, b: Val, subtract: bool) -> Val {
        let (r, f) = if subtract {
            (self.b.sub(a, b), self.b.f_sub(a, b))
        } else {
            (self.b.add(a, b), self.b.f_add(a, b))
        };
        let overflow = self.b.cc_bit(Cc::V, f);
        self.or_q(overflow);
        // On overflow the sign of a says which way.
        let sign = self.b.sar_imm(a, 31);
        let most = self.imm(0x7fff_ffff);
        let limit = self.b.xor(sign, most);
        self.b.select(overflow, limit, r)
    }

    fn saturating(&mut self, n: u32, d: u32, m: u32, double: bool, subtract: bool) -> Flow {
        if !self.has(Features::V5TE) {
            return self.undefined();
        }
        let (mut n, m) = (self.reg(n), self.reg(m));
        if double {
            n = self.saturate_sum(n, n, false);
        }
        let r = self.saturate_sum(m, n, subtract);
        self.set_reg(d, r);
        Flow::Next
    }

    pub fn qadd(&mut self, n: u32, d: u32, m: u32) -> Flow {
        self.saturating(n, d, m, false, false)
    }

    pub fn qsub(&mut self, n: u32, d: u32, m: u32) -> Flow {
        self.saturating(n, d, m, false, true)
    }

    pub fn qdadd(&mut self, n: u32, d: u32, m: u32) -> Flow {
        self.saturating(n, d, m, true, false)
    }

    pub fn qdsub(&mut self, n: u32, d: u32, m: u32) -> Flow {
        self.saturating(n, d, m, true, true)
    }

    /// `v` clamped to least..=most (signed); 1 if that changed it.
    fn clamp(&mut self, v: Val, least: u32, most: u32) -> (Val, Val) {
        let (least, most) = (self.imm(least), self.imm(most));
        let below = self.b.icmp(Cmp::Slt, v, least);
        let r = self.b.select(below, least, v);
        let above = self.b.icmp(Cmp::Sgt, v, most);
        let r = self.b.select(above, most, r);
        (r, self.b.or(below, above))
    }

    /// Bounds of SSAT to `b + 1` bits and USAT to `b` bits.
    fn bounds(signed: bool, b: u32) -> (u32, u32) {
        let most = if b == 32 { u32::MAX } else { (1u32 << b) - 1 };
        if signed { (!most, most) } else { (0, most) }
    }

    fn saturate(&mut self, signed: bool, b: u32, d: u32, i: u32, asr: bool, n: u32) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let shift = if asr { Shift::Asr } else { Shift::Lsl };
        let (v, _) = self.shifted_reg(n, shift, i, false);
        let (least, most) = Self::bounds(signed, b);
        let (r, changed) = self.clamp(v, least, most);
        self.or_q(changed);
        self.set_reg(d, r);
        Flow::Next
    }

    pub fn ssat(&mut self, b: u32, d: u32, i: u32, t: bool, n: u32) -> Flow {
        self.saturate(true, b, d, i, t, n)
    }

    pub fn usat(&mut self, b: u32, d: u32, i: u32, t: bool, n: u32) -> Flow {
        self.saturate(false, b, d, i, t, n)
    }

    fn saturate16(&mut self, signed: bool, b: u32, d: u32, n: u32) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let v = self.reg(n);
        let (least, most) = Self::bounds(signed, b);
        let (low, high) = (self.b.sext16(v), self.b.sar_imm(v, 16));
        let (low, changed) = self.clamp(low, least, most);
        let (high, changed_too) = self.clamp(high, least, most);
        let changed = self.b.or(changed, changed_too);
        self.or_q(changed);
        let r = self.b.deposit(low, high, 16, 16);
        self.set_reg(d, r);
        Flow::Next
    }

    pub fn ssat16(&mut self, b: u32, d: u32, n: u32) -> Flow {
        self.saturate16(true, b, d, n)
    }

    pub fn usat16(&mut self, b: u32, d: u32, n: u32) -> Flow {
        self.saturate16(false, b, d, n)
    }

    pub fn pkh(&mut self, n: u32, d: u32, i: u32, t: bool, m: u32) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let shift = if t { Shift::Asr } else { Shift::Lsl };
        let (shifted, _) = self.shifted_reg(m, shift, i, false);
        let n = self.reg(n);
        let (bottom, top) = if t { (shifted, n) } else { (n, shifted) };
        let r = self.b.deposit(top, bottom, 0, 16);
        self.set_reg(d, r);
        Flow::Next
    }

    /// Register `m` rotated right by 0, 8, 16 or 24.
    fn rotated(&mut self, m: u32, r: u32) -> Val {
        let v = self.reg(m);
        self.b.ror_imm(v, 8 * r)
    }

    /// Rd = v, plus Rn unless that is the PC.
    fn extend_add(&mut self, n: u32, d: u32, v: Val) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let mut v = v;
        if n != 15 {
            let n = self.reg(n);
            v = self.b.add(n, v);
        }
        self.set_reg(d, v);
        Flow::Next
    }

    pub fn sxtab(&mut self, n: u32, d: u32, r: u32, m: u32) -> Flow {
        let v = self.rotated(m, r);
        let v = self.b.sext8(v);
        self.extend_add(n, d, v)
    }

    pub fn sxtah(&mut self, n: u32, d: u32, r: u32, m: u32) -> Flow {
        let v = self.rotated(m, r);
        let v = self.b.sext16(v);
        self.extend_add(n, d, v)
    }

    pub fn uxtab(&mut self, n: u32, d: u32, r: u32, m: u32) -> Flow {
        let v = self.rotated(m, r);
        let v = self.b.zext8(v);
        self.extend_add(n, d, v)
    }

    pub fn uxtah(&mut self, n: u32, d: u32, r: u32, m: u32) -> Flow {
        let v = self.rotated(m, r);
        let v = self.b.zext16(v);
        self.extend_add(n, d, v)
    }

    /// Adds the two halves apart.
    fn extend_add16(&mut self, n: u32, d: u32, low: Val, high: Val) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let (mut low, mut high) = (low, high);
        if n != 15 {
            let n = self.reg(n);
            low = self.b.add(n, low);
            let top = self.b.shr_imm(n, 16);
            high = self.b.add(top, high);
        }
        let r = self.b.deposit(low, high, 16, 16);
        self.set_reg(d, r);
        Flow::Next
    }

    pub fn sxtab16(&mut self, n: u32, d: u32, r: u32, m: u32) -> Flow {
        let v = self.rotated(m, r);
        let (low, high) = (self.b.sext8(v), self.b.sbfx(v, 16, 8));
        self.extend_add16(n, d, low, high)
    }

    pub fn uxtab16(&mut self, n: u32, d: u32, r: u32, m: u32) -> Flow {
        let v = self.rotated(m, r);
        let (low, high) = (self.b.zext8(v), self.b.ubfx(v, 16, 8));
        self.extend_add16(n, d, low, high)
    }

    /// A function of one register, from architecture version `since` on.
    fn unary(&mut self, since: Features, d: u32, m: u32, f: impl Fn(&mut ir::Builder, Val) -> Val) -> Flow {
        if !self.has(since) {
            return self.undefined();
        }
        let v = self.reg(m);
        let r = f(&mut self.b, v);
        self.set_reg(d, r);
        Flow::Next
    }

    pub fn rev(&mut self, d: u32, m: u32) -> Flow {
        self.unary(Features::V6, d, m, |b, v| b.bswap(v))
    }

    pub fn rev16(&mut self, d: u32, m: u32) -> Flow {
        self.unary(Features::V6, d, m, |b, v| b.bswap16(v))
    }

    pub fn revsh(&mut self, d: u32, m: u32) -> Flow {
        self.unary(Features::V6, d, m, |b, v| {
            let v = b.bswap16(v);
            b.sext16(v)
        })
    }

    pub fn rbit(&mut self, d: u32, m: u32) -> Flow {
        self.unary(Features::V6T2, d, m, |b, v| b.rbit(v))
    }

    pub fn clz(&mut self, d: u32, m: u32) -> Flow {
        self.unary(Features::V5TE, d, m, |b, v| b.clz(v))
    }

    /// `w` is the width minus 1. A field that leaves the word is UNPREDICTABLE: UNDEFINED here.
    pub fn sbfx(&mut self, w: u32, d: u32, l: u32, n: u32) -> Flow {
        if l + w > 31 {
            return self.undefined();
        }
        self.unary(Features::V6T2, d, n, |b, v| b.sbfx(v, l, w + 1))
    }

    pub fn ubfx(&mut self, w: u32, d: u32, l: u32, n: u32) -> Flow {
        if l + w > 31 {
            return self.undefined();
        }
        self.unary(Features::V6T2, d, n, |b, v| b.ubfx(v, l, w + 1))
    }

    /// Bits `l` to `h` of Rd from Rn (R15: zero).
    pub fn bfi(&mut self, h: u32, d: u32, l: u32, n: u32) -> Flow {
        if !self.has(Features::V6T2) || h < l {
            return self.undefined();
        }
        let old = self.reg(d);
        let r = if n == 15 {
            let mask = ((1u64 << (h - l + 1)) - 1) << l;
            self.b.and_imm(old, !mask & 0xffff_ffff)
        } else {
            let n = self.reg(n);
            self.b.deposit(old, n, l, h - l + 1)
        };
        self.set_reg(d, r);
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use crate::state::read_cpsr;
    use crate::testing::Machine;

    /// One instruction on r1 and r2 with r0 = 0x11111111; then r0 and Q.
    fn check(word: u32, r1: u32, r2: u32, want: u32, q: bool) {
        let m = Machine::a32(&[word]).set_r(0, 0x1111_1111).set_r(1, r1).set_r(2, r2).run();
        assert_eq!((m.r(0), read_cpsr(&m.state) >> 27 & 1 != 0), (want, q), "{word:#x} {r1:#x} {r2:#x}");
    }

    #[test]
    fn saturation_sets_q() {
        check(0xe102_0051, 0x7fff_ffff, 1, 0x7fff_ffff, true); // qadd r0, r1, r2
        check(0xe102_0051, 5, 1, 6, false);
        check(0xe122_0051, 0x8000_0000, 1, 0x8000_0000, true); // qsub
        check(0xe142_0051, 0, 0x4000_0000, 0x7fff_ffff, true); // qdadd
        check(0xe6a7_0011, 200, 0, 127, true); // ssat r0, #8, r1
        check(0xe6a7_0011, -200i32 as u32, 0, -128i32 as u32, true);
        check(0xe6e8_0011, 300, 0, 255, true); // usat r0, #8, r1
        check(0xe6e8_0251, 0x30, 0, 3, false); // usat r0, #8, r1, asr #4
        check(0xe6a7_0f31, 0x0080_ff00, 0, 0x007f_ff80, true); // ssat16 r0, #8, r1
    }

    #[test]
    fn packing_and_extension() {
        check(0xe681_0012, 0x1111_2222, 0x3333_4444, 0x3333_2222, false); // pkhbt r0, r1, r2
        check(0xe681_0852, 0x1111_2222, 0x3333_4444, 0x1111_3333, false); // pkhtb r0, r1, r2, asr #16
        check(0xe6a1_0472, 1, 0x0000_8000, 0xffff_ff81, false); // sxtab r0, r1, r2, ror #8
        check(0xe6cf_0072, 0, 0x1234_5678, 0x0034_0078, false); // uxtb16 r0, r2
        check(0xe681_0072, 0xffff_ffff, 0x0081_0001, 0xff80_0000, false); // sxtab16 r0, r1, r2
    }

    #[test]
    fn reversal_and_fields() {
        check(0xe6bf_0f31, 0x1234_5678, 0, 0x7856_3412, false); // rev r0, r1
        check(0xe6ff_0fb1, 0x0000_0080, 0, 0xffff_8000, false); // revsh
        check(0xe6ff_0f31, 1, 0, 0x8000_0000, false); // rbit
        check(0xe16f_0f11, 0x0000_8000, 0, 16, false); // clz
        check(0xe7a7_0251, 0xff0, 0, 0xffff_ffff, false); // sbfx r0, r1, #4, #8
        check(0xe7e7_0251, 0xff0, 0, 0xff, false); // ubfx
        check(0xe7cb_0211, 0xab, 0, 0x1111_1ab1, false); // bfi r0, r1, #4, #8
        check(0xe7cb_021f, 0, 0, 0x1111_1001, false); // bfc r0, #4, #8
    }
}
