//! Loads and stores of halfwords, doublewords, and of sign-extended bytes and halfwords.
//!
//! **Reference.** Arm ARM (DDI 0406C) A5.2.8, A5.2.9 (the unprivileged forms).

use super::load_store::{Address, Index};
use crate::features::Features;
use crate::translate::{Flow, Translator};
use ir::{MemOp, Ty};

spec::insns! { pub ROWS: Translator => Flow;
    /// STRH (immediate), A8.8.217
    strh_imm "cccc 000 p u 1 w 0 nnnn tttt iiii 1011 iiii" (p, u, w, n, t, i);
    /// STRH (register), A8.8.218
    strh_reg "cccc 000 p u 0 w 0 nnnn tttt 0000 1011 mmmm" (p, u, w, n, t, m);
    /// LDRH (immediate, literal), A8.8.80
    ldrh_imm "cccc 000 p u 1 w 1 nnnn tttt iiii 1011 iiii" (p, u, w, n, t, i);
    /// LDRH (register), A8.8.82
    ldrh_reg "cccc 000 p u 0 w 1 nnnn tttt 0000 1011 mmmm" (p, u, w, n, t, m);
    /// LDRSB (immediate, literal), A8.8.84
    ldrsb_imm "cccc 000 p u 1 w 1 nnnn tttt iiii 1101 iiii" (p, u, w, n, t, i);
    /// LDRSB (register), A8.8.86
    ldrsb_reg "cccc 000 p u 0 w 1 nnnn tttt 0000 1101 mmmm" (p, u, w, n, t, m);
    /// LDRSH (immediate, literal), A8.8.88
    ldrsh_imm "cccc 000 p u 1 w 1 nnnn tttt iiii 1111 iiii" (p, u, w, n, t, i);
    /// LDRSH (register), A8.8.90
    ldrsh_reg "cccc 000 p u 0 w 1 nnnn tttt 0000 1111 mmmm" (p, u, w, n, t, m);
    /// LDRD (immediate, literal), A8.8.72
    ldrd_imm "cccc 000 p u 1 w 0 nnnn tttt iiii 1101 iiii" (p, u, w, n, t, i);
    /// LDRD (register), A8.8.74
    ldrd_reg "cccc 000 p u 0 w 0 nnnn tttt 0000 1101 mmmm" (p, u, w, n, t, m);
    /// STRD (immediate), A8.8.210
    strd_imm "cccc 000 p u 1 w 0 nnnn tttt iiii 1111 iiii" (p, u, w, n, t, i);
    /// STRD (register), A8.8.211
    strd_reg "cccc 000 p u 0 w 0 nnnn tttt 0000 1111 mmmm" (p, u, w, n, t, m);
}

/// Handlers of one access size and extension.
macro_rules! accesses {
    ($($imm:ident $reg:ident $finish:ident $op:expr;)*) => {
        impl Translator {$(
            fn $imm(&mut self, p: bool, u: bool, w: bool, n: u32, t: u32, i: u32) -> Flow {
                let a = self.address_imm(n, Index::puw(p, u, w), i);
                self.as_user(Index::is_unprivileged(p, w), |it| it.$finish($op, t, a))
            }

            fn $reg(&mut self, p: bool, u: bool, w: bool, n: u32, t: u32, m: u32) -> Flow {
                let m = self.reg(m);
                let a = self.address_reg(n, Index::puw(p, u, w), m);
                self.as_user(Index::is_unprivileged(p, w), |it| it.$finish($op, t, a))
            }
        )*}
    };
}

accesses! {
    strh_imm strh_reg store_from MemOp::B2;
    ldrh_imm ldrh_reg load_to MemOp::B2;
    ldrsb_imm ldrsb_reg load_to MemOp::B1.signed();
    ldrsh_imm ldrsh_reg load_to MemOp::B2.signed();
}

impl Translator {
    /// An odd first register, or P = 0 with W = 1, is UNPREDICTABLE: UNDEFINED here.
    fn valid_dual(&self, p: bool, w: bool, t: u32) -> bool {
        self.has(Features::V5TE) && t & 1 == 0 && (p || !w)
    }

    fn ldrd_imm(&mut self, p: bool, u: bool, w: bool, n: u32, t: u32, i: u32) -> Flow {
        if !self.valid_dual(p, w, t) {
            return self.undefined();
        }
        let a = self.address_imm(n, Index::puw(p, u, w), i);
        self.load_dual(t, t + 1, a)
    }

    fn ldrd_reg(&mut self, p: bool, u: bool, w: bool, n: u32, t: u32, m: u32) -> Flow {
        if !self.valid_dual(p, w, t) {
            return self.undefined();
        }
        let m = self.reg(m);
        let a = self.address_reg(n, Index::puw(p, u, w), m);
        self.load_dual(t, t + 1, a)
    }

    fn strd_imm(&mut self, p: bool, u: bool, w: bool, n: u32, t: u32, i: u32) -> Flow {
        if !self.valid_dual(p, w, t) {
            return self.undefined();
        }
        let a = self.address_imm(n, Index::puw(p, u, w), i);
        self.store_dual(t, t + 1, a)
    }

    fn strd_reg(&mut self, p: bool, u: bool, w: bool, n: u32, t: u32, m: u32) -> Flow {
        if !self.valid_dual(p, w, t) {
            return self.undefined();
        }
        let m = self.reg(m);
        let a = self.address_reg(n, Index::puw(p, u, w), m);
        self.store_dual(t, t + 1, a)
    }

    /// LDRD: `t` from the lower address. A written-back base that is loaded too (UNPREDICTABLE) keeps the address.
    pub fn load_dual(&mut self, t: u32, t2: u32, a: Address) -> Flow {
        let op = self.endian(MemOp::B8.aligned4());
        let both = self.b.ld(Ty::I64, op, a.at);
        self.set_pair(t, t2, both);
        self.finish_address(&a);
        Flow::Next
    }

    pub fn store_dual(&mut self, t: u32, t2: u32, a: Address) -> Flow {
        let both = self.pair(t, t2);
        self.store(MemOp::B8.aligned4(), a.at, both);
        self.finish_address(&a);
        Flow::Next
    }

    /// Two registers from a doubleword in memory order.
    pub fn set_pair(&mut self, t: u32, t2: u32, both: ir::Val) {
        let (low, high) = (self.b.trunc(both), self.b.high(both));
        let (first, second) = if self.big_endian { (high, low) } else { (low, high) };
        self.set_reg(t, first);
        self.set_reg(t2, second);
    }

    /// Two registers as a doubleword to memory.
    pub fn pair(&mut self, t: u32, t2: u32) -> ir::Val {
        let (first, second) = (self.reg(t), self.reg(t2));
        if self.big_endian { self.b.concat(second, first) } else { self.b.concat(first, second) }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{DATA, Machine};
    use cpu::FaultKind;
    use ir::TrapKind;

    fn machine(words: &[u32]) -> Machine {
        Machine::a32(words).set_r(4, DATA).set_data(0, &[0x80, 0xff, 0x12, 0x34, 1, 2, 3, 4])
    }

    #[test]
    fn extensions() {
        let m = machine(&[0xe1d4_00b0, 0xe1d4_10d0, 0xe1d4_20f0, 0xe1d4_30b2]).run();
        assert_eq!([m.r(0), m.r(1), m.r(2), m.r(3)], [0xff80, 0xffff_ff80, 0xffff_ff80, 0x3412]);
    }

    #[test]
    fn doublewords() {
        let m = machine(&[0xe1c4_00d0, 0xe1c4_00f8]).run(); // ldrd r0, [r4]; strd r0, [r4, #8]
        assert_eq!((m.r(0), m.r(1)), (0x3412_ff80, 0x0403_0201));
        assert_eq!(m.memory.data[8..16], m.memory.data[..8]);
        let m = machine(&[0xe1c4_00d2]).run(); // ldrd r0, [r4, #2]
        assert_eq!(m.fault().unwrap().kind, FaultKind::Alignment);
        let m = machine(&[0xe1c4_10d0]).run(); // ldrd r1
        assert_eq!(m.trap(), Some(TrapKind::Undefined));
    }

    #[test]
    fn big_endian_doublewords_keep_word_order() {
        let m = machine(&[0xf101_0200, 0xe1c4_00d0, 0xe1c4_00f8, 0xf101_0000]).run(); // setend be; ldrd; strd; setend le
        assert_eq!((m.r(0), m.r(1)), (0x80ff_1234, 0x0102_0304));
        assert_eq!(m.memory.data[8..16], m.memory.data[..8]);
    }
}
