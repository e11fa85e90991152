//! Parallel addition and subtraction, and SEL.
//!
//! **Reference.** Arm ARM (DDI 0406C) A5.4.1, A5.4.2.
//!
//! All of them are one scheme: lanes widened to twice their width, added or subtracted, and narrowed again by wrapping,
//! halving or saturating. The wide lanes also tell the GE flags.

use crate::features::Features;
use crate::state;
use crate::translate::{Flow, Translator};
use ir::Val;

/// What becomes of a wide sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Wraps, and sets GE.
    Wrap,
    Saturate,
    Halve,
}

/// The operation in each lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sum {
    Add16,
    /// Exchange, add in the high half, subtract in the low half.
    Asx,
    /// Exchange, subtract in the high half, add in the low half.
    Sax,
    Sub16,
    Add8,
    Sub8,
}

/// Rows and handlers of one kind for all six sums, in A32 and T32.
macro_rules! parallel {
    ($($(#[doc = $doc:literal])* $name:ident $a32:literal $t32:literal $signed:literal $kind:ident $sum:ident;)*) => {
        spec::insns! { pub ROWS: Translator => Flow;
            $($(#[doc = $doc])* $name $a32 (n, d, m);)*
            /// SEL, A8.8.164
            sel "cccc 0110 1000 nnnn dddd 1111 1011 mmmm" (n, d, m);
        }

        spec::insns! { pub T32: Translator => Flow;
            $($(#[doc = $doc])* $name $t32 (n, d, m);)*
            /// SEL, A8.8.164
            sel "1111 1010 1010 nnnn 1111 dddd 1000 mmmm" (n, d, m);
        }

        impl Translator {$(
            fn $name(&mut self, n: u32, d: u32, m: u32) -> Flow {
                self.parallel($signed, Kind::$kind, Sum::$sum, n, d, m)
            }
        )*}
    };
}

parallel! {
    /// SADD16, A8.8.158
    sadd16 "cccc 01100 001 nnnn dddd 1111 0001 mmmm" "1111 1010 1001 nnnn 1111 dddd 0000 mmmm" true Wrap Add16;
    /// SASX, A8.8.160
    sasx   "cccc 01100 001 nnnn dddd 1111 0011 mmmm" "1111 1010 1010 nnnn 1111 dddd 0000 mmmm" true Wrap Asx;
    /// SSAX, A8.8.195
    ssax   "cccc 01100 001 nnnn dddd 1111 0101 mmmm" "1111 1010 1110 nnnn 1111 dddd 0000 mmmm" true Wrap Sax;
    /// SSUB16, A8.8.196
    ssub16 "cccc 01100 001 nnnn dddd 1111 0111 mmmm" "1111 1010 1101 nnnn 1111 dddd 0000 mmmm" true Wrap Sub16;
    /// SADD8, A8.8.159
    sadd8  "cccc 01100 001 nnnn dddd 1111 1001 mmmm" "1111 1010 1000 nnnn 1111 dddd 0000 mmmm" true Wrap Add8;
    /// SSUB8, A8.8.197
    ssub8  "cccc 01100 001 nnnn dddd 1111 1111 mmmm" "1111 1010 1100 nnnn 1111 dddd 0000 mmmm" true Wrap Sub8;
    /// QADD16, A8.8.135
    qadd16 "cccc 01100 010 nnnn dddd 1111 0001 mmmm" "1111 1010 1001 nnnn 1111 dddd 0001 mmmm" true Saturate Add16;
    /// QASX, A8.8.137
    qasx   "cccc 01100 010 nnnn dddd 1111 0011 mmmm" "1111 1010 1010 nnnn 1111 dddd 0001 mmmm" true Saturate Asx;
    /// QSAX, A8.8.140
    qsax   "cccc 01100 010 nnnn dddd 1111 0101 mmmm" "1111 1010 1110 nnnn 1111 dddd 0001 mmmm" true Saturate Sax;
    /// QSUB16, A8.8.142
    qsub16 "cccc 01100 010 nnnn dddd 1111 0111 mmmm" "1111 1010 1101 nnnn 1111 dddd 0001 mmmm" true Saturate Sub16;
    /// QADD8, A8.8.136
    qadd8  "cccc 01100 010 nnnn dddd 1111 1001 mmmm" "1111 1010 1000 nnnn 1111 dddd 0001 mmmm" true Saturate Add8;
    /// QSUB8, A8.8.143
    qsub8  "cccc 01100 010 nnnn dddd 1111 1111 mmmm" "1111 1010 1100 nnnn 1111 dddd 0001 mmmm" true Saturate Sub8;
    /// SHADD16, A8.8.166
    shadd16 "cccc 01100 011 nnnn dddd 1111 0001 mmmm" "1111 1010 1001 nnnn 1111 dddd 0010 mmmm" true Halve Add16;
    /// SHASX, A8.8.168
    shasx  "cccc 01100 011 nnnn dddd 1111 0011 mmmm" "1111 1010 1010 nnnn 1111 dddd 0010 mmmm" true Halve Asx;
    /// SHSAX, A8.8.169
    shsax  "cccc 01100 011 nnnn dddd 1111 0101 mmmm" "1111 1010 1110 nnnn 1111 dddd 0010 mmmm" true Halve Sax;
    /// SHSUB16, A8.8.170
    shsub16 "cccc 01100 011 nnnn dddd 1111 0111 mmmm" "1111 1010 1101 nnnn 1111 dddd 0010 mmmm" true Halve Sub16;
    /// SHADD8, A8.8.167
    shadd8 "cccc 01100 011 nnnn dddd 1111 1001 mmmm" "1111 1010 1000 nnnn 1111 dddd 0010 mmmm" true Halve Add8;
    /// SHSUB8, A8.8.171
    shsub8 "cccc 01100 011 nnnn dddd 1111 1111 mmmm" "1111 1010 1100 nnnn 1111 dddd 0010 mmmm" true Halve Sub8;
    /// UADD16, A8.8.243
    uadd16 "cccc 01100 101 nnnn dddd 1111 0001 mmmm" "1111 1010 1001 nnnn 1111 dddd 0100 mmmm" false Wrap Add16;
    /// UASX, A8.8.245
    uasx   "cccc 01100 101 nnnn dddd 1111 0011 mmmm" "1111 1010 1010 nnnn 1111 dddd 0100 mmmm" false Wrap Asx;
    /// USAX, A8.8.268
    usax   "cccc 01100 101 nnnn dddd 1111 0101 mmmm" "1111 1010 1110 nnnn 1111 dddd 0100 mmmm" false Wrap Sax;
    /// USUB16, A8.8.269
    usub16 "cccc 01100 101 nnnn dddd 1111 0111 mmmm" "1111 1010 1101 nnnn 1111 dddd 0100 mmmm" false Wrap Sub16;
    /// UADD8, A8.8.244
    uadd8  "cccc 01100 101 nnnn dddd 1111 1001 mmmm" "1111 1010 1000 nnnn 1111 dddd 0100 mmmm" false Wrap Add8;
    /// USUB8, A8.8.270
    usub8  "cccc 01100 101 nnnn dddd 1111 1111 mmmm" "1111 1010 1100 nnnn 1111 dddd 0100 mmmm" false Wrap Sub8;
    /// UQADD16, A8.8.258
    uqadd16 "cccc 01100 110 nnnn dddd 1111 0001 mmmm" "1111 1010 1001 nnnn 1111 dddd 0101 mmmm" false Saturate Add16;
    /// UQASX, A8.8.260
    uqasx  "cccc 01100 110 nnnn dddd 1111 0011 mmmm" "1111 1010 1010 nnnn 1111 dddd 0101 mmmm" false Saturate Asx;
    /// UQSAX, A8.8.261
    uqsax  "cccc 01100 110 nnnn dddd 1111 0101 mmmm" "1111 1010 1110 nnnn 1111 dddd 0101 mmmm" false Saturate Sax;
    /// UQSUB16, A8.8.262
    uqsub16 "cccc 01100 110 nnnn dddd 1111 0111 mmmm" "1111 1010 1101 nnnn 1111 dddd 0101 mmmm" false Saturate Sub16;
    /// UQADD8, A8.8.259
    uqadd8 "cccc 01100 110 nnnn dddd 1111 1001 mmmm" "1111 1010 1000 nnnn 1111 dddd 0101 mmmm" false Saturate Add8;
    /// UQSUB8, A8.8.263
    uqsub8 "cccc 01100 110 nnnn dddd 1111 1111 mmmm" "1111 1010 1100 nnnn 1111 dddd 0101 mmmm" false Saturate Sub8;
    /// UHADD16, A8.8.249
    uhadd16 "cccc 01100 111 nnnn dddd 1111 0001 mmmm" "1111 1010 1001 nnnn 1111 dddd 0110 mmmm" false Halve Add16;
    /// UHASX, A8.8.251
    uhasx  "cccc 01100 111 nnnn dddd 1111 0011 mmmm" "1111 1010 1010 nnnn 1111 dddd 0110 mmmm" false Halve Asx;
    /// UHSAX, A8.8.252
    uhsax  "cccc 01100 111 nnnn dddd 1111 0101 mmmm" "1111 1010 1110 nnnn 1111 dddd 0110 mmmm" false Halve Sax;
    /// UHSUB16, A8.8.253
    uhsub16 "cccc 01100 111 nnnn dddd 1111 0111 mmmm" "1111 1010 1101 nnnn 1111 dddd 0110 mmmm" false Halve Sub16;
    /// UHADD8, A8.8.250
    uhadd8 "cccc 01100 111 nnnn dddd 1111 1001 mmmm" "1111 1010 1000 nnnn 1111 dddd 0110 mmmm" false Halve Add8;
    /// UHSUB8, A8.8.254
    uhsub8 "cccc 01100 111 nnnn dddd 1111 1111 mmmm" "1111 1010 1100 nnnn 1111 dddd 0110 mmmm" false Halve Sub8;
}

/// The high half's lane, widened.
const HIGH_LANE: u128 = 0xffff_ffff_0000_0000;

impl Translator {
    fn parallel(&mut self, signed: bool, kind: Kind, sum: Sum, n: u32, d: u32, m: u32) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let lane = if matches!(sum, Sum::Add8 | Sum::Sub8) { 0 } else { 1 };
        let (n, mut m) = (self.reg(n), self.reg(m));
        if matches!(sum, Sum::Asx | Sum::Sax) {
            m = self.b.ror_imm(m, 16);
        }
        let (n, m) = (self.b.vdup(2, n), self.b.vdup(2, m));
        let (n, m) = if signed {
            (self.b.vwidens(lane, n), self.b.vwidens(lane, m))
        } else {
            (self.b.vwidenu(lane, n), self.b.vwidenu(lane, m))
        };
        let wide = self.wide_sum(sum, lane + 1, n, m);
        let narrow = match kind {
            Kind::Wrap => self.b.vnarrow(lane + 1, wide),
            Kind::Saturate if signed => self.b.vnarrowss(lane + 1, wide),
            Kind::Saturate => self.b.vnarrowsu(lane + 1, wide),
            Kind::Halve => {
                let half = self.b.vsari(lane + 1, wide, 1);
                self.b.vnarrow(lane + 1, half)
            }
        };
        let r = self.b.vextract(2, narrow, 0);
        if kind == Kind::Wrap {
            self.set_ge(signed, sum, lane + 1, wide);
        }
        self.set_reg(d, r);
        Flow::Next
    }

    fn wide_sum(&mut self, sum: Sum, lane: u8, n: Val, m: Val) -> Val {
        match sum {
            Sum::Add16 | Sum::Add8 => self.b.vadd(lane, n, m),
            Sum::Sub16 | Sum::Sub8 => self.b.vsub(lane, n, m),
            Sum::Asx | Sum::Sax => {
                let (add, sub) = (self.b.vadd(lane, n, m), self.b.vsub(lane, n, m));
                let high = self.b.vconst(HIGH_LANE);
                if sum == Sum::Asx { self.b.vsel(high, add, sub) } else { self.b.vsel(high, sub, add) }
            }
        }
    }

    /// GE: the wide sum is not negative; for unsigned additions, it carried out.
    fn set_ge(&mut self, signed: bool, sum: Sum, lane: u8, wide: Val) {
        let carried = if lane == 1 { 0x00ff_00ff_00ff_00ff } else { 0x0000_ffff_0000_ffff };
        let limit = match sum {
            _ if signed => u128::MAX,
            Sum::Add16 | Sum::Add8 => carried,
            Sum::Sub16 | Sum::Sub8 => u128::MAX,
            Sum::Asx => carried & HIGH_LANE | !HIGH_LANE,
            Sum::Sax => carried & !HIGH_LANE | HIGH_LANE,
        };
        let limit = self.b.vconst(limit);
        let mask = self.b.vcmpgts(lane, wide, limit);
        let mask = self.b.vnarrow(lane, mask);
        let bytes = self.b.vextract(2, mask, 0);
        // One bit of each byte, gathered in bits 27:24.
        let bits = self.b.and_imm(bytes, 0x0101_0101);
        let k = self.imm(0x0102_0408);
        let gathered = self.b.mul(bits, k);
        let ge = self.b.ubfx(gathered, 24, 4);
        self.b.set32(state::CPSR_GE, ge);
    }

    fn sel(&mut self, n: u32, d: u32, m: u32) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let ge = self.b.get32(state::CPSR_GE);
        // Bit n to bit 8n, then to the whole byte.
        let k = self.imm(0x0020_4081);
        let spread = self.b.mul(ge, k);
        let bits = self.b.and_imm(spread, 0x0101_0101);
        let k = self.imm(0xff);
        let mask = self.b.mul(bits, k);
        let (n, m) = (self.reg(n), self.reg(m));
        let ours = self.b.and(n, mask);
        let theirs = self.b.andn(m, mask);
        let r = self.b.or(ours, theirs);
        self.set_reg(d, r);
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use crate::state::read_cpsr;
    use crate::testing::Machine;

    /// op r0, r1, r2; then r0 and GE.
    fn check(word: u32, r1: u32, r2: u32, want: u32, ge: Option<u32>) {
        let m = Machine::a32(&[word]).set_r(1, r1).set_r(2, r2).run();
        assert_eq!(m.r(0), want, "{word:#x} {r1:#x} {r2:#x}");
        if let Some(ge) = ge {
            assert_eq!(read_cpsr(&m.state) >> 16 & 15, ge, "{word:#x} {r1:#x} {r2:#x}");
        }
    }

    #[test]
    fn bytes() {
        check(0xe651_0f92, 0xff01_80fe, 0x01ff_8001, 0x0000_00ff, Some(0b1110)); // uadd8
        check(0xe611_0f92, 0x7f80_ff01, 0x0180_00ff, 0x8000_ff00, Some(0b1001)); // sadd8
        check(0xe651_0ff2, 0x0102_0304, 0x0201_0304, 0xff01_0000, Some(0b0111)); // usub8
        check(0xe621_0f92, 0x7f80_0001, 0x0180_0002, 0x7f80_0003, None); // qadd8
        check(0xe661_0ff2, 0x0102_0304, 0x0201_0305, 0x0001_0000, None); // uqsub8
        check(0xe671_0f92, 0xffff_0101, 0xff01_0200, 0xff80_0100, None); // uhadd8
        check(0xe631_0ff2, 0x8000_0100, 0x7f01_0000, 0x80ff_0000, None); // shsub8
    }

    #[test]
    fn halves_and_exchange() {
        check(0xe611_0f32, 0x0001_0005, 0x0003_8000, 0x8001_0002, Some(0b0011)); // sasx
        check(0xe651_0f32, 0xffff_0002, 0x0003_0001, 0x0000_ffff, Some(0b1100)); // uasx
        check(0xe651_0f52, 0x0001_ffff, 0x0001_0002, 0xffff_0000, Some(0b0011)); // usax
        check(0xe661_0f12, 0xffff_0001, 0x0001_0001, 0xffff_0002, None); // uqadd16
    }

    #[test]
    fn sel_chooses_by_ge() {
        // uadd8 r0, r1, r2; sel r0, r3, r4
        let m = Machine::a32(&[0xe651_0f92, 0xe683_0fb4]).set_r(1, 0xff00_ff00).set_r(2, 0x0101_0101);
        let m = m.set_r(3, 0x1111_1111).set_r(4, 0x2222_2222).run();
        assert_eq!(m.r(0), 0x1122_1122);
    }
}
