//! Multiplies and divides.
//!
//! **Reference.** Arm ARM (DDI 0406C) A5.2.5, A5.2.7, A5.4.4.

use crate::features::Features;
use crate::translate::{Flow, Translator};
use ir::{Cc, Cmp, Val};

spec::insns! { pub ROWS: Translator => Flow;
    /// MUL, A8.8.114
    mul "cccc 0000 000 s dddd 0000 mmmm 1001 nnnn" (s, d, n, m);
    /// MLA, A8.8.100
    mla "cccc 0000 001 s dddd aaaa mmmm 1001 nnnn" (s, d, n, m, a);
    /// UMAAL, A8.8.255
    umaal "cccc 0000 0100 hhhh llll mmmm 1001 nnnn" (l, h, n, m);
    /// MLS, A8.8.101
    mls "cccc 0000 0110 dddd aaaa mmmm 1001 nnnn" (d, n, m, a);
    /// UMULL, A8.8.257
    umull "cccc 0000 100 s hhhh llll mmmm 1001 nnnn" (s, l, h, n, m);
    /// UMLAL, A8.8.256
    umlal "cccc 0000 101 s hhhh llll mmmm 1001 nnnn" (s, l, h, n, m);
    /// SMULL, A8.8.189
    smull "cccc 0000 110 s hhhh llll mmmm 1001 nnnn" (s, l, h, n, m);
    /// SMLAL, A8.8.178
    smlal "cccc 0000 111 s hhhh llll mmmm 1001 nnnn" (s, l, h, n, m);

    /// SMLABB, SMLABT, SMLATB, SMLATT, A8.8.176
    smlaxy "cccc 0001 0000 dddd aaaa mmmm 1 y x 0 nnnn" (d, n, m, a, x, y);
    /// SMLAWB, SMLAWT, A8.8.181
    smlawy "cccc 0001 0010 dddd aaaa mmmm 1 y 0 0 nnnn" (d, n, m, a, y);
    /// SMULWB, SMULWT, A8.8.190
    smulwy "cccc 0001 0010 dddd 0000 mmmm 1 y 1 0 nnnn" (d, n, m, y);
    /// SMLALBB, SMLALBT, SMLALTB, SMLALTT, A8.8.179
    smlalxy "cccc 0001 0100 hhhh llll mmmm 1 y x 0 nnnn" (l, h, n, m, x, y);
    /// SMULBB, SMULBT, SMULTB, SMULTT, A8.8.188
    smulxy "cccc 0001 0110 dddd 0000 mmmm 1 y x 0 nnnn" (d, n, m, x, y);

    /// SMLAD, SMUAD, A8.8.177, A8.8.187
    smlad "cccc 0111 0000 dddd aaaa mmmm 00 x 1 nnnn" (d, n, m, a, x);
    /// SMLSD, SMUSD, A8.8.182, A8.8.191
    smlsd "cccc 0111 0000 dddd aaaa mmmm 01 x 1 nnnn" (d, n, m, a, x);
    /// SMLALD, A8.8.180
    smlald "cccc 0111 0100 hhhh llll mmmm 00 x 1 nnnn" (l, h, n, m, x);
    /// SMLSLD, A8.8.183
    smlsld "cccc 0111 0100 hhhh llll mmmm 01 x 1 nnnn" (l, h, n, m, x);
    /// SMMLA, SMMUL, A8.8.184, A8.8.186
    smmla "cccc 0111 0101 dddd aaaa mmmm 00 r 1 nnnn" (d, n, m, a, r);
    /// SMMLS, A8.8.185
    smmls "cccc 0111 0101 dddd aaaa mmmm 11 r 1 nnnn" (d, n, m, a, r);
    /// USAD8, USADA8, A8.8.265
    usada8 "cccc 0111 1000 dddd aaaa mmmm 0001 nnnn" (d, n, m, a);
    /// SDIV, A8.8.165
    sdiv "cccc 0111 0001 dddd 1111 mmmm 0001 nnnn" (d, n, m);
    /// UDIV, A8.8.248
    udiv "cccc 0111 0011 dddd 1111 mmmm 0001 nnnn" (d, n, m);
}

impl Translator {
    pub fn mul(&mut self, s: bool, d: u32, n: u32, m: u32) -> Flow {
        let (n, m) = (self.reg(n), self.reg(m));
        let r = self.b.mul(n, m);
        self.multiplied(s, d, r)
    }

    pub fn mla(&mut self, s: bool, d: u32, n: u32, m: u32, a: u32) -> Flow {
        let (n, m, a) = (self.reg(n), self.reg(m), self.reg(a));
        let p = self.b.mul(n, m);
        let r = self.b.add(p, a);
        self.multiplied(s, d, r)
    }

    pub fn mls(&mut self, d: u32, n: u32, m: u32, a: u32) -> Flow {
        if !self.has(Features::V6T2) {
            return self.undefined();
        }
        let (n, m, a) = (self.reg(n), self.reg(m), self.reg(a));
        let p = self.b.mul(n, m);
        let r = self.b.sub(a, p);
        self.multiplied(false, d, r)
    }

    fn multiplied(&mut self, s: bool, d: u32, r: Val) -> Flow {
        if s {
            self.set_nz(r, None);
        }
        self.set_reg(d, r);
        Flow::Next
    }

    /// RdHi:RdLo as one value.
    fn long(&mut self, l: u32, h: u32) -> Val {
        let (low, high) = (self.reg(l), self.reg(h));
        self.b.concat(low, high)
    }

    fn set_long(&mut self, s: bool, l: u32, h: u32, r: Val) -> Flow {
        if s {
            self.set_nz(r, None);
        }
        let (low, high) = (self.b.trunc(r), self.b.high(r));
        self.set_reg(l, low);
        self.set_reg(h, high);
        Flow::Next
    }

    fn product_u(&mut self, n: u32, m: u32) -> Val {
        let (n, m) = (self.reg(n), self.reg(m));
        let (n, m) = (self.b.zext32(n), self.b.zext32(m));
        self.b.mul(n, m)
    }

    fn product_s(&mut self, n: u32, m: u32) -> Val {
        let (n, m) = (self.reg(n), self.reg(m));
        let (n, m) = (self.b.sext32(n), self.b.sext32(m));
        self.b.mul(n, m)
    }

    pub fn umull(&mut self, s: bool, l: u32, h: u32, n: u32, m: u32) -> Flow {
        let p = self.product_u(n, m);
        self.set_long(s, l, h, p)
    }

    pub fn smull(&mut self, s: bool, l: u32, h: u32, n: u32, m: u32) -> Flow {
        let p = self.product_s(n, m);
        self.set_long(s, l, h, p)
    }

    pub fn umlal(&mut self, s: bool, l: u32, h: u32, n: u32, m: u32) -> Flow {
        let p = self.product_u(n, m);
        let a = self.long(l, h);
        let r = self.b.add(p, a);
        self.set_long(s, l, h, r)
    }

    pub fn smlal(&mut self, s: bool, l: u32, h: u32, n: u32, m: u32) -> Flow {
        let p = self.product_s(n, m);
        let a = self.long(l, h);
        let r = self.b.add(p, a);
        self.set_long(s, l, h, r)
    }

    pub fn umaal(&mut self, l: u32, h: u32, n: u32, m: u32) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let p = self.product_u(n, m);
        let (a, b) = (self.reg(l), self.reg(h));
        let (a, b) = (self.b.zext32(a), self.b.zext32(b));
        let r = self.b.add(p, a);
        let r = self.b.add(r, b);
        self.set_long(false, l, h, r)
    }

    /// The sign-extended bottom or top half of register `n`.
    fn half(&mut self, n: u32, top: bool) -> Val {
        let v = self.reg(n);
        if top { self.b.sar_imm(v, 16) } else { self.b.sext16(v) }
    }

    /// Rd = p + Ra, Q on signed overflow.
    fn accumulate_q(&mut self, d: u32, p: Val, a: u32) -> Flow {
        let a = self.reg(a);
        let r = self.b.add(p, a);
        let f = self.b.f_add(p, a);
        let overflow = self.b.cc_bit(Cc::V, f);
        self.or_q(overflow);
        self.set_reg(d, r);
        Flow::Next
    }

    pub fn smlaxy(&mut self, d: u32, n: u32, m: u32, a: u32, x: bool, y: bool) -> Flow {
        if !self.has(Features::V5TE) {
            return self.undefined();
        }
        let (n, m) = (self.half(n, x), self.half(m, y));
        let p = self.b.mul(n, m);
        self.accumulate_q(d, p, a)
    }

    pub fn smulxy(&mut self, d: u32, n: u32, m: u32, x: bool, y: bool) -> Flow {
        if !self.has(Features::V5TE) {
            return self.undefined();
        }
        let (n, m) = (self.half(n, x), self.half(m, y));
        let p = self.b.mul(n, m);
        self.set_reg(d, p);
        Flow::Next
    }

    /// Bits 47:16 of the product of a word and a halfword.
    fn product_w(&mut self, n: u32, m: u32, y: bool) -> Val {
        let (n, m) = (self.reg(n), self.half(m, y));
        let (n, m) = (self.b.sext32(n), self.b.sext32(m));
        let p = self.b.mul(n, m);
        let p = self.b.shr_imm(p, 16);
        self.b.trunc(p)
    }

    pub fn smlawy(&mut self, d: u32, n: u32, m: u32, a: u32, y: bool) -> Flow {
        if !self.has(Features::V5TE) {
            return self.undefined();
        }
        let p = self.product_w(n, m, y);
        self.accumulate_q(d, p, a)
    }

    pub fn smulwy(&mut self, d: u32, n: u32, m: u32, y: bool) -> Flow {
        if !self.has(Features::V5TE) {
            return self.undefined();
        }
        let p = self.product_w(n, m, y);
        self.set_reg(d, p);
        Flow::Next
    }

    pub fn smlalxy(&mut self, l: u32, h: u32, n: u32, m: u32, x: bool, y: bool) -> Flow {
        if !self.has(Features::V5TE) {
            return self.undefined();
        }
        let (n, m) = (self.half(n, x), self.half(m, y));
        let p = self.b.mul(n, m);
        let p = self.b.sext32(p);
        let a = self.long(l, h);
        let r = self.b.add(p, a);
        self.set_long(false, l, h, r)
    }

    /// The two products of halves (I64), the second register's halves exchanged if `x`.
    fn dual_products(&mut self, n: u32, m: u32, x: bool) -> (Val, Val) {
        let (n0, n1) = (self.half(n, false), self.half(n, true));
        let (m0, m1) = (self.half(m, x), self.half(m, !x));
        let (p, q) = (self.b.mul(n0, m0), self.b.mul(n1, m1));
        (self.b.sext32(p), self.b.sext32(q))
    }

    /// Rd = sum + Ra (none for R15), Q if it does not fit.
    fn dual_accumulate(&mut self, d: u32, sum: Val, a: u32) -> Flow {
        let mut sum = sum;
        if a != 15 {
            let a = self.reg(a);
            let a = self.b.sext32(a);
            sum = self.b.add(sum, a);
        }
        let r = self.b.trunc(sum);
        let back = self.b.sext32(r);
        let overflow = self.b.icmp(Cmp::Ne, back, sum);
        self.or_q(overflow);
        self.set_reg(d, r);
        Flow::Next
    }

    pub fn smlad(&mut self, d: u32, n: u32, m: u32, a: u32, x: bool) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let (p, q) = self.dual_products(n, m, x);
        let sum = self.b.add(p, q);
        self.dual_accumulate(d, sum, a)
    }

    pub fn smlsd(&mut self, d: u32, n: u32, m: u32, a: u32, x: bool) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let (p, q) = self.dual_products(n, m, x);
        let difference = self.b.sub(p, q);
        self.dual_accumulate(d, difference, a)
    }

    pub fn smlald(&mut self, l: u32, h: u32, n: u32, m: u32, x: bool) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let (p, q) = self.dual_products(n, m, x);
        let sum = self.b.add(p, q);
        let a = self.long(l, h);
        let r = self.b.add(a, sum);
        self.set_long(false, l, h, r)
    }

    pub fn smlsld(&mut self, l: u32, h: u32, n: u32, m: u32, x: bool) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let (p, q) = self.dual_products(n, m, x);
        let difference = self.b.sub(p, q);
        let a = self.long(l, h);
        let r = self.b.add(a, difference);
        self.set_long(false, l, h, r)
    }

    /// Ra in the top half (zero for R15).
    fn top_accumulator(&mut self, a: u32) -> Val {
        if a == 15 {
            return self.b.i64(0);
        }
        let a = self.reg(a);
        let zero = self.imm(0);
        self.b.concat(zero, a)
    }

    fn set_top(&mut self, d: u32, sum: Val, round: bool) -> Flow {
        let sum = if round { self.b.add_imm(sum, 0x8000_0000) } else { sum };
        let r = self.b.high(sum);
        self.set_reg(d, r);
        Flow::Next
    }

    pub fn smmla(&mut self, d: u32, n: u32, m: u32, a: u32, r: bool) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let p = self.product_s(n, m);
        let a = self.top_accumulator(a);
        let sum = self.b.add(p, a);
        self.set_top(d, sum, r)
    }

    pub fn smmls(&mut self, d: u32, n: u32, m: u32, a: u32, r: bool) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let p = self.product_s(n, m);
        // R15 is no "without accumulator" form here; reading it as zero is one UNPREDICTABLE outcome.
        let a = self.top_accumulator(a);
        let difference = self.b.sub(a, p);
        self.set_top(d, difference, r)
    }

    pub fn usada8(&mut self, d: u32, n: u32, m: u32, a: u32) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let (n, m) = (self.reg(n), self.reg(m));
        let (n, m) = (self.b.vdup(2, n), self.b.vdup(2, m));
        let (most, least) = (self.b.vmaxu(0, n, m), self.b.vminu(0, n, m));
        let bytes = self.b.vsub(0, most, least);
        let halves = self.b.vwidenu(0, bytes);
        let pairs = self.b.vpadd(1, halves, halves);
        let sums = self.b.vpadd(1, pairs, pairs);
        let mut r = self.b.vextract(1, sums, 0);
        if a != 15 {
            let a = self.reg(a);
            r = self.b.add(r, a);
        }
        self.set_reg(d, r);
        Flow::Next
    }

    fn can_divide(&self) -> bool {
        self.has(if self.thumb { Features::DIV_T32 } else { Features::DIV_A32 })
    }

    pub fn sdiv(&mut self, d: u32, n: u32, m: u32) -> Flow {
        if !self.can_divide() {
            return self.undefined();
        }
        let (n, m) = (self.reg(n), self.reg(m));
        let q = self.b.sdiv(n, m);
        self.set_reg(d, q);
        Flow::Next
    }

    pub fn udiv(&mut self, d: u32, n: u32, m: u32) -> Flow {
        if !self.can_divide() {
            return self.undefined();
        }
        let (n, m) = (self.reg(n), self.reg(m));
        let q = self.b.udiv(n, m);
        self.set_reg(d, q);
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use crate::state::read_cpsr;
    use crate::testing::Machine;

    /// One instruction with r1, r2, r3 as given (and r0 = r3); then r0 and Q.
    fn check(word: u32, args: [u32; 3], want: u32, q: bool) {
        let m = Machine::a32(&[word]).set_r(1, args[0]).set_r(2, args[1]).set_r(3, args[2]).set_r(0, args[2]).run();
        assert_eq!((m.r(0), read_cpsr(&m.state) >> 27 & 1 != 0), (want, q), "{word:#x} {args:x?}");
    }

    #[test]
    fn words() {
        check(0xe000_0291, [6, 7, 0], 42, false); // mul r0, r1, r2
        check(0xe020_3291, [6, 7, 5], 47, false); // mla r0, r1, r2, r3
        check(0xe060_3291, [6, 7, 50], 8, false); // mls
        check(0xe710_f211, [-7i32 as u32, 2, 0], -3i32 as u32, false); // sdiv r0, r1, r2
        check(0xe710_f211, [7, 0, 0], 0, false);
        check(0xe730_f211, [0xffff_ffff, 16, 0], 0x0fff_ffff, false); // udiv
    }

    #[test]
    fn long_forms_use_both_halves() {
        // umull r0, r3, r1, r2; smlal r0, r3, r1, r2
        let m = Machine::a32(&[0xe083_0291]).set_r(1, 0xffff_ffff).set_r(2, 0xffff_ffff).run();
        assert_eq!((m.r(0), m.r(3)), (1, 0xffff_fffe));
        let m = Machine::a32(&[0xe0f3_0291]).set_r(1, 0xffff_ffff).set_r(2, 2).set_r(0, 1).run(); // smlals
        assert_eq!((m.r(0), m.r(3), m.nzcv().as_str()), (0xffff_ffff, 0xffff_ffff, "Nzcv"));
        let m = Machine::a32(&[0xe043_0291]).set_r(1, u32::MAX).set_r(2, u32::MAX).set_r(0, u32::MAX).set_r(3, u32::MAX);
        let m = m.run(); // umaal
        assert_eq!((m.r(0), m.r(3)), (u32::MAX, u32::MAX));
    }

    #[test]
    fn halves_and_saturation() {
        check(0xe100_32e1, [0x8000_0000, 0x8000_0000, 0x4000_0000], 0x8000_0000, true); // smlatt
        check(0xe160_02c1, [0x0001_0003, 0x0002_0000, 0], 6, false); // smulbt
        check(0xe120_02a1, [0x0001_0000, 0x0000_8000, 0], -0x8000i32 as u32, false); // smulwb
        check(0xe700_f211, [0x8000_8000, 0x8000_8000, 0], 0x8000_0000, true); // smuad
        check(0xe700_f231, [0x0002_0003, 0x0005_0007, 0], 3 * 5 + 2 * 7, false); // smuadx
        check(0xe700_3251, [0x0002_0003, 0x0005_0007, 100], 111, false); // smlsd
        check(0xe750_f231, [0x4000_0000, 2, 0], 1, false); // smmulr
        check(0xe750_f211, [0x4000_0000, 2, 0], 0, false); // smmul
        check(0xe780_3211, [0x01ff_0305, 0x0300_0401, 1], 1 + 2 + 255 + 1 + 4, false); // usada8
    }
}
