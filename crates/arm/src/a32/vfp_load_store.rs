//! Extension register load and store. Arm ARM (DDI 0406C) A7.6.
//!
//! Every access must be word-aligned. Pairs of doublewords move as one 16-byte access. The base register is written last, so
//! that a faulting instruction can be restarted.

use super::fp::V;
use crate::{Features, Flow, Translator, state};
use ir::{FpFmt, MemOp, Ty, Val};
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    vldr "cccc 1101 ud01 nnnn dddd 10zz iiiiiiii" (u, d, n, z, i);
    vstr "cccc 1101 ud00 nnnn dddd 10zz iiiiiiii" (u, d, n, z, i);
    /// VLDM, VPOP, FLDMIAX
    vldmia "cccc 1100 1dw1 nnnn dddd 101z iiiiiiii" (d, w, n, z, i);
    vldmdb "cccc 1101 0d11 nnnn dddd 101z iiiiiiii" (d, n, z, i);
    /// VSTM, FSTMIAX
    vstmia "cccc 1100 1dw0 nnnn dddd 101z iiiiiiii" (d, w, n, z, i);
    /// VSTMDB, VPUSH, FSTMDBX
    vstmdb "cccc 1101 0d10 nnnn dddd 101z iiiiiiii" (d, n, z, i);
}

/// A register list: first register, number of registers, their size, and the bytes the base moves by.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    count: u32,
    double: bool,
    bytes: u32,
}

impl Translator {
    /// Address and access of VLDR and VSTR; `None` where UNDEFINED.
    fn vfp_address(&mut self, u: bool, d: V, n: u32, fmt: FpFmt, imm: u32) -> Option<(Val, MemOp)> {
        if self.no_scalar(fmt, &[d]) {
            return None;
        }
        let op = match fmt.log2() {
            1 => MemOp::B2.aligned(),
            2 => MemOp::B4.aligned(),
            _ => MemOp::B8.aligned4(),
        };
        let offset = if fmt.log2() == 1 { imm << 1 } else { imm << 2 };
        let base = self.base(n);
        let addr = self.b.add_imm(base, if u { offset } else { offset.wrapping_neg() } as u64);
        Some((addr, self.endian(op)))
    }

    fn vldr(&mut self, u: bool, d: V, n: u32, z: u8, i: u32) -> Flow {
        let fmt = FpFmt(z);
        let Some((addr, op)) = self.vfp_address(u, d, n, fmt, i) else { return self.undefined() };
        let v = self.b.ld(Ty::V128, op, addr);
        self.set_scalar(fmt, d, v)
    }

    fn vstr(&mut self, u: bool, d: V, n: u32, z: u8, i: u32) -> Flow {
        let fmt = FpFmt(z);
        if n == 15 && self.thumb {
            return self.undefined();
        }
        let Some((addr, op)) = self.vfp_address(u, d, n, fmt, i) else { return self.undefined() };
        let v = self.scalar(fmt, d);
        self.b.st(op, addr, v);
        Flow::Next
    }

    /// The list of a multiple transfer; `None` where it is UNDEFINED or UNPREDICTABLE (we take both as UNDEFINED).
    fn vfp_list(&self, d: V, double: bool, imm: u32, n: u32, writeback: bool) -> Option<List> {
        // An odd count of words with doublewords is FLDMX, FSTMX: one more word of space, no more registers.
        let count = if double { imm / 2 } else { imm };
        let first = if double { d.d() } else { d.s() };
        let last = first + count;
        let limit = if double && !self.lacks(Features::D32) { 32 } else if double { 16 } else { 32 };
        let bad = count == 0 || double && count > 16 || last > limit || n == 15 && (writeback || self.thumb);
        if bad || self.lacks(Features::VFP2) {
            return None;
        }
        Some(List { first, count, double, bytes: 4 * imm })
    }

    fn vldmia(&mut self, d: V, w: bool, n: u32, z: bool, i: u32) -> Flow {
        let Some(list) = self.vfp_list(d, z, i, n, w) else { return self.undefined() };
        let base = self.base(n);
        self.vfp_transfer(list, base, true);
        self.vfp_writeback(w, n, base, list.bytes)
    }

    fn vstmia(&mut self, d: V, w: bool, n: u32, z: bool, i: u32) -> Flow {
        let Some(list) = self.vfp_list(d, z, i, n, w) else { return self.undefined() };
        let base = self.base(n);
        self.vfp_transfer(list, base, false);
        self.vfp_writeback(w, n, base, list.bytes)
    }

    fn vldmdb(&mut self, d: V, n: u32, z: bool, i: u32) -> Flow {
        self.vfp_decrement(d, n, z, i, true)
    }

    fn vstmdb(&mut self, d: V, n: u32, z: bool, i: u32) -> Flow {
        self.vfp_decrement(d, n, z, i, false)
    }

    fn vfp_decrement(&mut self, d: V, n: u32, z: bool, i: u32, load: bool) -> Flow {
        let Some(list) = self.vfp_list(d, z, i, n, true) else { return self.undefined() };
        let base = self.base(n);
        let start = self.b.add_imm(base, list.bytes.wrapping_neg() as u64);
        self.vfp_transfer(list, start, load);
        self.set_reg(n, start);
        Flow::Next
    }

    fn vfp_writeback(&mut self, w: bool, n: u32, base: Val, bytes: u32) -> Flow {
        if w {
            let end = self.b.add_imm(base, bytes as u64);
            self.set_reg(n, end);
        }
        Flow::Next
    }

    /// Moves the registers of a list, lowest address first.
    fn vfp_transfer(&mut self, list: List, start: Val, load: bool) {
        let end = list.first + list.count;
        let unit = if list.double { 8 } else { 4 };
        let (mut r, mut offset) = (list.first, 0);
        while r < end {
            let at = state::D0 + unit * r;
            // As much as is aligned in the state, so that a pair is a Q register (or a D register); big-endian: one by one.
            let mut log2 = if list.double { 3 } else { 2 };
            while log2 < 4 && !self.big_endian && at % (2 << log2) == 0 && (end - r) * unit >= 2 << log2 {
                log2 += 1;
            }
            let op = self.endian(MemOp(log2).aligned4());
            let addr = self.b.add_imm(start, offset as u64);
            if load {
                let v = self.b.ld(Ty::V128, op, addr);
                self.b.set(at, op.bytes(), v);
            } else {
                let v = self.b.get(Ty::V128, at, op.bytes());
                self.b.st(op, addr, v);
            }
            r += (1 << log2) / unit;
            offset += 1u32 << log2;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{DATA, Machine};
    use cpu::FaultKind;

    fn with_data(word: u32, base: u32) -> Machine {
        let data: Vec<u8> = (0..64).collect();
        Machine::a32(&[word]).set_r(0, base).set_data(0, &data)
    }

    #[test]
    fn loads_need_words() {
        // vldr d1, [r0, #8]
        assert_eq!(with_data(0xed90_1b02, DATA + 4).run().d(1), 0x1312_1110_0f0e_0d0c);
        let fault = with_data(0xed90_1b02, DATA + 2).run().fault().expect("a fault");
        assert_eq!(fault.kind, FaultKind::Alignment);
    }

    #[test]
    fn lists_move_the_base_last() {
        // vldmdb r0!, {s5-s8}
        let m = with_data(0xed70_2a04, DATA + 16).run();
        assert_eq!((m.d(2) >> 32, m.d(3), m.d(4) as u32), (0x0302_0100, 0x0b0a_0908_0706_0504, 0x0f0e_0d0c));
        assert_eq!(m.r(0), DATA);
        // vstmia r0!, {d1-d3}: the last doubleword is outside
        let end = DATA + 0x1000;
        let m = Machine::a32(&[0xeca0_1b06]).set_r(0, end - 8).run();
        assert!(m.fault().is_some());
        assert_eq!(m.r(0), end - 8);
    }

    #[test]
    fn pushes() {
        // vpush {d8}
        let m = Machine::a32(&[0xed2d_8b02]).set_r(13, DATA + 16).set_d(8, 0x0102_0304_0506_0708).run();
        assert_eq!((m.r(13), m.memory.data[8]), (DATA + 8, 8));
    }
}
