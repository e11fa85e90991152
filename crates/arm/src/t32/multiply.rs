//! Multiplies and divides of T32.
//!
//! **Reference.** Arm ARM (DDI 0406C) A6.3.16, A6.3.17.

use crate::translate::{Flow, Translator};

spec::insns! { pub ROWS: Translator => Flow;
    /// MLA, A8.8.100
    t32_mla "1111 1011 0000 nnnn aaaa dddd 0000 mmmm" (d, n, m, a);
    /// MUL, A8.8.114
    t32_mul "1111 1011 0000 nnnn 1111 dddd 0000 mmmm" (d, n, m);
    /// MLS, A8.8.101
    mls "1111 1011 0000 nnnn aaaa dddd 0001 mmmm" (d, n, m, a);
    /// SMLABB, SMLABT, SMLATB, SMLATT, A8.8.176
    smlaxy "1111 1011 0001 nnnn aaaa dddd 00 x y mmmm" (d, n, m, a, x, y);
    /// SMULBB, SMULBT, SMULTB, SMULTT, A8.8.188
    smulxy "1111 1011 0001 nnnn 1111 dddd 00 x y mmmm" (d, n, m, x, y);
    /// SMLAD, SMUAD, A8.8.177, A8.8.187
    smlad "1111 1011 0010 nnnn aaaa dddd 000 x mmmm" (d, n, m, a, x);
    /// SMLAWB, SMLAWT, A8.8.181
    smlawy "1111 1011 0011 nnnn aaaa dddd 000 y mmmm" (d, n, m, a, y);
    /// SMULWB, SMULWT, A8.8.190
    smulwy "1111 1011 0011 nnnn 1111 dddd 000 y mmmm" (d, n, m, y);
    /// SMLSD, SMUSD, A8.8.182, A8.8.191
    smlsd "1111 1011 0100 nnnn aaaa dddd 000 x mmmm" (d, n, m, a, x);
    /// SMMLA, SMMUL, A8.8.184, A8.8.186
    smmla "1111 1011 0101 nnnn aaaa dddd 000 r mmmm" (d, n, m, a, r);
    /// SMMLS, A8.8.185
    smmls "1111 1011 0110 nnnn aaaa dddd 000 r mmmm" (d, n, m, a, r);
    /// USAD8, USADA8, A8.8.265
    usada8 "1111 1011 0111 nnnn aaaa dddd 0000 mmmm" (d, n, m, a);

    /// SMULL, A8.8.189
    t32_smull "1111 1011 1000 nnnn llll hhhh 0000 mmmm" (l, h, n, m);
    /// SDIV, A8.8.165
    sdiv "1111 1011 1001 nnnn 1111 dddd 1111 mmmm" (d, n, m);
    /// UMULL, A8.8.257
    t32_umull "1111 1011 1010 nnnn llll hhhh 0000 mmmm" (l, h, n, m);
    /// UDIV, A8.8.248
    udiv "1111 1011 1011 nnnn 1111 dddd 1111 mmmm" (d, n, m);
    /// SMLAL, A8.8.178
    t32_smlal "1111 1011 1100 nnnn llll hhhh 0000 mmmm" (l, h, n, m);
    /// SMLALBB, SMLALBT, SMLALTB, SMLALTT, A8.8.179
    smlalxy "1111 1011 1100 nnnn llll hhhh 10 x y mmmm" (l, h, n, m, x, y);
    /// SMLALD, A8.8.180
    smlald "1111 1011 1100 nnnn llll hhhh 110 x mmmm" (l, h, n, m, x);
    /// SMLSLD, A8.8.183
    smlsld "1111 1011 1101 nnnn llll hhhh 110 x mmmm" (l, h, n, m, x);
    /// UMLAL, A8.8.256
    t32_umlal "1111 1011 1110 nnnn llll hhhh 0000 mmmm" (l, h, n, m);
    /// UMAAL, A8.8.255
    umaal "1111 1011 1110 nnnn llll hhhh 0110 mmmm" (l, h, n, m);
}

impl Translator {
    fn t32_mla(&mut self, d: u32, n: u32, m: u32, a: u32) -> Flow {
        self.mla(false, d, n, m, a)
    }

    fn t32_mul(&mut self, d: u32, n: u32, m: u32) -> Flow {
        self.mul(false, d, n, m)
    }

    fn t32_smull(&mut self, l: u32, h: u32, n: u32, m: u32) -> Flow {
        self.smull(false, l, h, n, m)
    }

    fn t32_umull(&mut self, l: u32, h: u32, n: u32, m: u32) -> Flow {
        self.umull(false, l, h, n, m)
    }

    fn t32_smlal(&mut self, l: u32, h: u32, n: u32, m: u32) -> Flow {
        self.smlal(false, l, h, n, m)
    }

    fn t32_umlal(&mut self, l: u32, h: u32, n: u32, m: u32) -> Flow {
        self.umlal(false, l, h, n, m)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Machine;

    #[test]
    fn products_and_quotients() {
        let run = |a: u16, b: u16| Machine::thumb(&[a, b]).set_r(1, 100).set_r(2, 7).set_r(3, 5).run();
        assert_eq!(run(0xfb01, 0xf002).r(0), 700); // mul r0, r1, r2
        assert_eq!(run(0xfb01, 0x3002).r(0), 705); // mla r0, r1, r2, r3
        assert_eq!(run(0xfb02, 0x1013).r(0), 100u32.wrapping_sub(35)); // mls r0, r2, r3, r1
        assert_eq!(run(0xfbb1, 0xf0f2).r(0), 14); // udiv r0, r1, r2
        let m = Machine::thumb(&[0xfba1, 0x0302]).set_r(1, 1 << 31).set_r(2, 6).run(); // umull r0, r3, r1, r2
        assert_eq!((m.r(0), m.r(3)), (0, 3));
    }
}
