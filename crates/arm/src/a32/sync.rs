//! Synchronization primitives: exclusives, acquire and release, swap.
//!
//! **Reference.** Arm ARM (DDI 0406C) A5.2.10; DDI 0487 F6 (LDA, STL and their exclusive forms).

use crate::features::Features;
use crate::translate::{Flow, Translator};
use ir::{MemOp, Rmw, Ty};

spec::insns! { pub ROWS: Translator => Flow;
    /// SWP, A8.8.229
    swp "cccc 0001 0000 nnnn tttt 0000 1001 mmmm" (n, t, m);
    /// SWPB, A8.8.229
    swpb "cccc 0001 0100 nnnn tttt 0000 1001 mmmm" (n, t, m);

    /// STREX, A8.8.212
    strex "cccc 0001 1000 nnnn dddd 1111 1001 tttt" (n, d, t);
    /// LDREX, A8.8.75
    ldrex "cccc 0001 1001 nnnn tttt 1111 1001 1111" (n, t);
    /// STREXD, A8.8.214
    strexd "cccc 0001 1010 nnnn dddd 1111 1001 tttt" (n, d, t);
    /// LDREXD, A8.8.77
    ldrexd "cccc 0001 1011 nnnn tttt 1111 1001 1111" (n, t);
    /// STREXB, A8.8.213
    strexb "cccc 0001 1100 nnnn dddd 1111 1001 tttt" (n, d, t);
    /// LDREXB, A8.8.76
    ldrexb "cccc 0001 1101 nnnn tttt 1111 1001 1111" (n, t);
    /// STREXH, A8.8.215
    strexh "cccc 0001 1110 nnnn dddd 1111 1001 tttt" (n, d, t);
    /// LDREXH, A8.8.78
    ldrexh "cccc 0001 1111 nnnn tttt 1111 1001 1111" (n, t);

    /// STLEX
    stlex "cccc 0001 1000 nnnn dddd 1110 1001 tttt" (n, d, t);
    /// LDAEX
    ldaex "cccc 0001 1001 nnnn tttt 1110 1001 1111" (n, t);
    /// STLEXD
    stlexd "cccc 0001 1010 nnnn dddd 1110 1001 tttt" (n, d, t);
    /// LDAEXD
    ldaexd "cccc 0001 1011 nnnn tttt 1110 1001 1111" (n, t);
    /// STLEXB
    stlexb "cccc 0001 1100 nnnn dddd 1110 1001 tttt" (n, d, t);
    /// LDAEXB
    ldaexb "cccc 0001 1101 nnnn tttt 1110 1001 1111" (n, t);
    /// STLEXH
    stlexh "cccc 0001 1110 nnnn dddd 1110 1001 tttt" (n, d, t);
    /// LDAEXH
    ldaexh "cccc 0001 1111 nnnn tttt 1110 1001 1111" (n, t);

    /// STL
    stl "cccc 0001 1000 nnnn 1111 1100 1001 tttt" (n, t);
    /// LDA
    lda "cccc 0001 1001 nnnn tttt 1100 1001 1111" (n, t);
    /// STLB
    stlb "cccc 0001 1100 nnnn 1111 1100 1001 tttt" (n, t);
    /// LDAB
    ldab "cccc 0001 1101 nnnn tttt 1100 1001 1111" (n, t);
    /// STLH
    stlh "cccc 0001 1110 nnnn 1111 1100 1001 tttt" (n, t);
    /// LDAH
    ldah "cccc 0001 1111 nnnn tttt 1100 1001 1111" (n, t);
}

/// Handlers of exclusive pairs of one size, and of the plain acquire and release forms.
macro_rules! exclusives {
    ($($store:ident $load:ident $since:ident $op:expr;)*) => {
        impl Translator {$(
            pub fn $load(&mut self, n: u32, t: u32) -> Flow {
                self.load_exclusive(Features::$since, $op, n, t, 0)
            }

            pub fn $store(&mut self, n: u32, d: u32, t: u32) -> Flow {
                self.store_exclusive(Features::$since, $op, n, d, t, 0)
            }
        )*}
    };
}

exclusives! {
    strex ldrex V6 MemOp::B4;
    strexb ldrexb V6K MemOp::B1;
    strexh ldrexh V6K MemOp::B2;
    stlex ldaex V8 MemOp::B4.ordered();
    stlexb ldaexb V8 MemOp::B1.ordered();
    stlexh ldaexh V8 MemOp::B2.ordered();
}

macro_rules! doubles {
    ($($store:ident $load:ident $since:ident $op:expr;)*) => {
        impl Translator {$(
            /// An odd register is UNPREDICTABLE: UNDEFINED here.
            fn $load(&mut self, n: u32, t: u32) -> Flow {
                if t & 1 != 0 {
                    return self.undefined();
                }
                self.load_exclusive_pair(Features::$since, $op, n, t, t + 1)
            }

            fn $store(&mut self, n: u32, d: u32, t: u32) -> Flow {
                if t & 1 != 0 {
                    return self.undefined();
                }
                self.store_exclusive_pair(Features::$since, $op, n, d, t, t + 1)
            }
        )*}
    };
}

doubles! {
    strexd ldrexd V6K MemOp::B8;
    stlexd ldaexd V8 MemOp::B8.ordered();
}

macro_rules! ordered {
    ($($store:ident $load:ident $op:ident;)*) => {
        impl Translator {$(
            pub fn $load(&mut self, n: u32, t: u32) -> Flow {
                if !self.has(Features::V8) {
                    return self.undefined();
                }
                let n = self.reg(n);
                let v = self.load(MemOp::$op.aligned().ordered(), n);
                self.set_reg(t, v);
                Flow::Next
            }

            pub fn $store(&mut self, n: u32, t: u32) -> Flow {
                if !self.has(Features::V8) {
                    return self.undefined();
                }
                let (n, t) = (self.reg(n), self.reg(t));
                self.store(MemOp::$op.aligned().ordered(), n, t);
                Flow::Next
            }
        )*}
    };
}

ordered! {
    stl lda B4;
    stlb ldab B1;
    stlh ldah B2;
}

impl Translator {
    pub fn load_exclusive(&mut self, since: Features, op: MemOp, n: u32, t: u32, offset: u32) -> Flow {
        if !self.has(since) || t == 15 || n == 15 || self.bad_sp(&[t]) {
            return self.undefined();
        }
        let n = self.reg(n);
        let address = self.b.add_imm(n, offset as u64);
        let op = self.endian(op.aligned());
        let v = self.b.ld_ex(Ty::I32, op, address);
        self.set_reg(t, v);
        Flow::Next
    }

    /// Rd equal to Rn or Rt is UNPREDICTABLE: UNDEFINED here.
    #[allow(clippy::too_many_arguments)]
    pub fn store_exclusive(&mut self, since: Features, op: MemOp, n: u32, d: u32, t: u32, offset: u32) -> Flow {
        if !self.has(since) || [n, d, t].contains(&15) || d == n || d == t || self.bad_sp(&[d, t]) {
            return self.undefined();
        }
        let (n, v) = (self.reg(n), self.reg(t));
        let address = self.b.add_imm(n, offset as u64);
        let op = self.endian(op.aligned());
        let status = self.b.st_ex(op, address, v);
        self.set_reg(d, status);
        Flow::Next
    }

    pub fn load_exclusive_pair(&mut self, since: Features, op: MemOp, n: u32, t: u32, t2: u32) -> Flow {
        if !self.has(since) || [n, t, t2].contains(&15) || t == t2 || self.bad_sp(&[t, t2]) {
            return self.undefined();
        }
        let n = self.reg(n);
        let op = self.endian(op.aligned());
        let both = self.b.ld_ex(Ty::I64, op, n);
        self.set_pair(t, t2, both);
        Flow::Next
    }

    #[allow(clippy::too_many_arguments)]
    pub fn store_exclusive_pair(&mut self, since: Features, op: MemOp, n: u32, d: u32, t: u32, t2: u32) -> Flow {
        if !self.has(since) || [n, d, t, t2].contains(&15) || [n, t, t2].contains(&d) || self.bad_sp(&[d, t, t2]) {
            return self.undefined();
        }
        let both = self.pair(t, t2);
        let n = self.reg(n);
        let op = self.endian(op.aligned());
        let status = self.b.st_ex(op, n, both);
        self.set_reg(d, status);
        Flow::Next
    }

    /// SP as data or status is UNPREDICTABLE in T32 before ARMv8: UNDEFINED here.
    fn bad_sp(&self, registers: &[u32]) -> bool {
        self.thumb && !self.has(Features::V8) && registers.contains(&13)
    }

    fn swp(&mut self, n: u32, t: u32, m: u32) -> Flow {
        self.swap(MemOp::B4, n, t, m)
    }

    fn swpb(&mut self, n: u32, t: u32, m: u32) -> Flow {
        self.swap(MemOp::B1, n, t, m)
    }

    /// Atomic, which is more than the manual asks for.
    fn swap(&mut self, op: MemOp, n: u32, t: u32, m: u32) -> Flow {
        let (n, m) = (self.reg(n), self.reg(m));
        let op = self.endian(op.aligned());
        let old = self.b.rmw(Rmw::Xchg, op, n, m);
        self.set_reg(t, old);
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{DATA, Machine};
    use cpu::FaultKind;

    fn machine(words: &[u32]) -> Machine {
        Machine::a32(words).set_r(4, DATA).set_data(0, &[1, 2, 3, 4, 5, 6, 7, 8])
    }

    #[test]
    fn exclusives_succeed_after_a_load_only() {
        // ldrex r0, [r4]; strex r1, r5, [r4]; strex r2, r5, [r4]
        let m = machine(&[0xe194_0f9f, 0xe184_1f95, 0xe184_2f95]).set_r(5, 9).run();
        assert_eq!((m.r(0), m.r(1), m.r(2)), (0x0403_0201, 0, 1));
        assert_eq!(m.memory.data[..4], [9, 0, 0, 0]);
        // ldrex; clrex; strex
        let m = machine(&[0xe194_0f9f, 0xf57f_f01f, 0xe184_1f95]).run();
        assert_eq!((m.r(1), m.memory.data[0]), (1, 1));
    }

    #[test]
    fn doublewords_and_alignment() {
        // ldrexd r0, [r4]; strexd r6, r2, [r4]
        let m = machine(&[0xe1b4_0f9f, 0xe1a4_6f92]).set_r(2, 0xa).set_r(3, 0xb).run();
        assert_eq!((m.r(0), m.r(1), m.r(6)), (0x0403_0201, 0x0807_0605, 0));
        assert_eq!(m.memory.data[..8], [0xa, 0, 0, 0, 0xb, 0, 0, 0]);
        let m = machine(&[0xe194_0f9f]).set_r(4, DATA + 1).run();
        assert_eq!(m.fault().unwrap().kind, FaultKind::Alignment);
    }

    #[test]
    fn acquire_release_and_swap() {
        // lda r0, [r4]; stlb r4, [r4]; swp r1, r5, [r4]
        let m = machine(&[0xe194_0c9f, 0xe1c4_fc95, 0xe104_1095]).set_r(5, 0x55).run();
        assert_eq!((m.r(0), m.r(1)), (0x0403_0201, 0x0403_0255));
        assert_eq!(m.memory.data[..4], [0x55, 0, 0, 0]);
    }
}
