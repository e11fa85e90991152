//! Advanced SIMD element and structure load/store. Arm ARM (DDI 0406C) A7.7.
//!
//! Whole structures move as 16- and 8-byte accesses and are (de)interleaved in registers. The base register is written last.

use super::fp::V;
use crate::{Flow, Translator, state};
use ir::{MemOp, Ty, Val};
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    /// VLD1 to VLD4, VST1 to VST4 (multiple structures)
    vld_multiple "1111 0100 0d10 nnnn dddd tttt ssaa mmmm" (d, n, t, s, a, m);
    vst_multiple "1111 0100 0d00 nnnn dddd tttt ssaa mmmm" (d, n, t, s, a, m);
    /// VLD1 to VLD4 (single structure to one lane); r + 1 elements
    vld_lane "1111 0100 1d10 nnnn dddd ssrr iiii mmmm" (d, n, s, r, i, m);
    vst_lane "1111 0100 1d00 nnnn dddd ssrr iiii mmmm" (d, n, s, r, i, m);
    /// VLD1 to VLD4 (single structure to all lanes)
    vld_all_lanes "1111 0100 1d10 nnnn dddd 11rr ssta mmmm" (d, n, r, s, t, a, m);
}

/// The `type` field: elements per structure, D registers per element, distance between an element's registers and the next
/// element's.
fn multiple_of(kind: u32) -> Option<(u32, u32, u32)> {
    Some(match kind {
        0b0111 => (1, 1, 1),
        0b1010 => (1, 2, 1),
        0b0110 => (1, 3, 1),
        0b0010 => (1, 4, 1),
        0b1000 => (2, 1, 1),
        0b1001 => (2, 1, 2),
        0b0011 => (2, 2, 2),
        0b0100 => (3, 1, 1),
        0b0101 => (3, 1, 2),
        0b0000 => (4, 1, 1),
        0b0001 => (4, 1, 2),
        _ => return None,
    })
}

/// A decoded multiple-structure transfer.
#[derive(Clone, Copy)]
struct Multiple {
    first: u32,
    elements: u32,
    regs: u32,
    inc: u32,
    /// Log2 of the element's bytes.
    size: u8,
    align: u32,
}

/// A decoded single-lane transfer.
#[derive(Clone, Copy)]
struct Lane {
    index: u32,
    inc: u32,
    align: u32,
}

/// `index_align` of VLD<r + 1> (single structure to one lane).
fn lane_of(size: u32, r: u32, ia: u32) -> Option<Lane> {
    let index = ia >> (size + 1);
    let inc = if r > 0 && size > 0 && ia >> size & 1 != 0 { 2 } else { 1 };
    let low = ia & ((1 << size) - 1).max(1);
    let align = match (r, size) {
        // A single element: aligned to itself; words say so with both bits.
        (0, 0) if ia & 1 != 0 => return None,
        (0, 1) if ia & 2 != 0 => return None,
        (0, 2) if ia & 4 != 0 || matches!(ia & 3, 1 | 2) => return None,
        (0, 2) if ia & 3 == 3 => 4,
        (0, 1) if low != 0 => 2,
        (1, 2) if ia & 2 != 0 => return None,
        (1, _) if ia & 1 != 0 => 2 << size,
        (2, _) if ia & if size == 2 { 3 } else { 1 } != 0 => return None,
        (3, 2) if ia & 3 == 3 => return None,
        (3, 2) if ia & 3 != 0 => 4 << (ia & 3),
        (3, 0 | 1) if ia & 1 != 0 => 4 << size,
        _ => 1,
    };
    Some(Lane { index, inc, align })
}

impl Translator {
    /// Checks an alignment of 4 bytes or more by an access that does nothing else; within the bytes to be accessed.
    fn check_alignment(&mut self, addr: Val, align: u32) {
        if align == 32 {
            // No access checks 32 bytes: bit 4 of the address becomes bit 0.
            let odd = self.b.ubfx(addr, 4, 1);
            let addr = self.b.or(addr, odd);
            self.b.ld(Ty::V128, MemOp::B16.aligned(), addr);
        } else if align > 1 {
            let op = MemOp(align.trailing_zeros() as u8).aligned();
            let ty = if align == 16 { Ty::V128 } else if align == 8 { Ty::I64 } else { Ty::I32 };
            self.b.ld(ty, op, addr);
        }
    }

    /// Rm: 15 none, 13 the bytes moved, otherwise a register.
    fn neon_writeback(&mut self, n: u32, m: u32, base: Val, bytes: u32) -> Flow {
        let next = match m {
            15 => return Flow::Next,
            13 => self.b.add_imm(base, bytes as u64),
            _ => {
                let by = self.reg(m);
                self.b.add(base, by)
            }
        };
        self.set_reg(n, next);
        Flow::Next
    }

    fn multiple(&self, d: V, n: u32, t: u32, s: u32, a: u32) -> Option<Multiple> {
        let (elements, regs, inc) = multiple_of(t)?;
        let bad_align = match (elements, regs) {
            (1, 1 | 3) | (3, _) => a >= 2,
            (1, 2) | (2, 1) => a == 3,
            _ => false,
        };
        // Past D31 is UNPREDICTABLE; so is the PC as base.
        let last = d.d() + (elements - 1) * inc + regs;
        if self.no_neon(false, &[]) || bad_align || s == 3 && elements > 1 || last > 32 || n == 15 {
            return None;
        }
        let align = match a {
            0 if self.checks_alignment() => 1 << s,
            0 => 1,
            _ => 4 << a,
        };
        Some(Multiple { first: d.d(), elements, regs, inc, size: s as u8, align })
    }

    fn vld_multiple(&mut self, d: V, n: u32, t: u32, s: u32, a: u32, m: u32) -> Flow {
        let Some(x) = self.multiple(d, n, t, s, a) else { return self.undefined() };
        let base = self.reg(n);
        self.check_alignment(base, x.align);
        let bytes = 8 * x.regs * x.elements;
        let chunks = self.load_chunks(base, bytes, x.size);
        match x.elements {
            1 => self.spread(x, &chunks),
            2 => self.deinterleave_2(x, &chunks),
            3 => self.deinterleave_3(x, &chunks),
            _ => self.deinterleave_4(x, &chunks),
        }
        self.neon_writeback(n, m, base, bytes)
    }

    fn vst_multiple(&mut self, d: V, n: u32, t: u32, s: u32, a: u32, m: u32) -> Flow {
        let Some(x) = self.multiple(d, n, t, s, a) else { return self.undefined() };
        let base = self.reg(n);
        self.check_alignment(base, x.align);
        let bytes = 8 * x.regs * x.elements;
        let chunks = match x.elements {
            1 => self.gather(x),
            2 => self.interleave_2(x),
            3 => self.interleave_3(x),
            _ => self.interleave_4(x),
        };
        self.store_chunks(base, bytes, x.size, &chunks);
        self.neon_writeback(n, m, base, bytes)
    }

    /// Memory as 16-byte vectors (the last may be 8 bytes), its elements in little-endian order.
    fn load_chunks(&mut self, base: Val, bytes: u32, size: u8) -> Vec<Val> {
        let mut chunks = Vec::new();
        for offset in (0..bytes).step_by(16) {
            let addr = self.b.add_imm(base, offset as u64);
            let op = if bytes - offset >= 16 { MemOp::B16 } else { MemOp::B8 };
            let v = self.b.ld(Ty::V128, op, addr);
            chunks.push(self.element_order(v, size));
        }
        chunks
    }

    fn store_chunks(&mut self, base: Val, bytes: u32, size: u8, chunks: &[Val]) {
        for (offset, chunk) in (0..bytes).step_by(16).zip(chunks) {
            let addr = self.b.add_imm(base, offset as u64);
            let op = if bytes - offset >= 16 { MemOp::B16 } else { MemOp::B8 };
            let v = self.element_order(*chunk, size);
            self.b.st(op, addr, v);
        }
    }

    /// Big-endian data: the bytes of each element are reversed.
    fn element_order(&mut self, v: Val, size: u8) -> Val {
        if self.big_endian && size > 0 { self.b.vrev(0, v, size as u32) } else { v }
    }

    fn spread(&mut self, x: Multiple, chunks: &[Val]) {
        for (i, chunk) in (0..x.regs).step_by(2).zip(chunks) {
            let r = x.first + i;
            if x.regs - i == 1 {
                self.set_d(r, *chunk);
            } else if r.is_multiple_of(2) {
                self.b.set(state::d(r), 16, *chunk);
            } else {
                let high = self.b.vhigh(*chunk);
                self.set_d(r, *chunk);
                self.set_d(r + 1, high);
            }
        }
    }

    fn gather(&mut self, x: Multiple) -> Vec<Val> {
        let mut chunks = Vec::new();
        for i in (0..x.regs).step_by(2) {
            let r = x.first + i;
            chunks.push(if x.regs - i == 1 {
                self.get_d(r)
            } else if r.is_multiple_of(2) {
                self.b.get(Ty::V128, state::d(r), 16)
            } else {
                let (low, high) = (self.get_d(r), self.get_d(r + 1));
                self.b.vconcat(low, high)
            });
        }
        chunks
    }

    /// Whether two elements of two registers each are quadwords.
    fn in_quads(x: Multiple) -> bool {
        x.regs == 2 && x.first.is_multiple_of(2)
    }

    fn deinterleave_2(&mut self, x: Multiple, chunks: &[Val]) {
        let s = x.size;
        if Self::in_quads(x) {
            let even = self.b.vuzp1(s, chunks[0], chunks[1]);
            let odd = self.b.vuzp2(s, chunks[0], chunks[1]);
            self.b.set(state::d(x.first), 16, even);
            self.b.set(state::d(x.first + 2), 16, odd);
            return;
        }
        for (i, c) in (0..x.regs).zip(chunks) {
            let (even, odd) = (self.b.vuzp1(s, *c, *c), self.b.vuzp2(s, *c, *c));
            self.set_d(x.first + i, even);
            self.set_d(x.first + i + x.inc, odd);
        }
    }

    fn interleave_2(&mut self, x: Multiple) -> Vec<Val> {
        let s = x.size;
        if Self::in_quads(x) {
            let a = self.b.get(Ty::V128, state::d(x.first), 16);
            let c = self.b.get(Ty::V128, state::d(x.first + 2), 16);
            return vec![self.b.vzip1(s, a, c), self.b.vzip2(s, a, c)];
        }
        (0..x.regs)
            .map(|i| {
                let (a, c) = (self.get_d(x.first + i), self.get_d(x.first + i + x.inc));
                self.b.vzip1(s, a, c)
            })
            .collect()
    }

    /// Byte selectors into two 16-byte vectors, of which at least one selects (0xff: none).
    fn select_bytes(&mut self, a: Val, c: Val, from: impl Fn(u32) -> Option<u32>) -> Val {
        let (mut low, mut high) = ([0xff; 16], [0xff; 16]);
        for i in 0..16 {
            match from(i) {
                Some(at @ 0..16) => low[i as usize] = at as u8,
                Some(at) => high[i as usize] = at as u8 - 16,
                None => {}
            }
        }
        let low = self.b.vconst(u128::from_le_bytes(low));
        let x = self.b.vtbl(a, low);
        if high == [0xff; 16] {
            return x;
        }
        let high = self.b.vconst(u128::from_le_bytes(high));
        let y = self.b.vtbl(c, high);
        self.b.vor(x, y)
    }

    fn deinterleave_3(&mut self, x: Multiple, chunks: &[Val]) {
        let size = 1u32 << x.size;
        for e in 0..3 {
            let v = self.select_bytes(chunks[0], chunks[1], |i| {
                (i < 8).then_some((i / size * 3 + e) * size + i % size)
            });
            self.set_d(x.first + e * x.inc, v);
        }
    }

    fn interleave_3(&mut self, x: Multiple) -> Vec<Val> {
        let size = 1u32 << x.size;
        let (d0, d1, d2) = (self.get_d(x.first), self.get_d(x.first + x.inc), self.get_d(x.first + 2 * x.inc));
        let first = self.b.vconcat(d0, d1);
        // Byte p of memory is of element p / size % 3, of structure p / (3 * size).
        let from = |p: u32| (p < 24).then_some(p / size % 3 * 8 + p / (3 * size) * size + p % size);
        vec![self.select_bytes(first, d2, from), self.select_bytes(first, d2, |i| from(i + 16))]
    }

    fn deinterleave_4(&mut self, x: Multiple, chunks: &[Val]) {
        let s = x.size;
        let even = self.b.vuzp1(s, chunks[0], chunks[1]);
        let odd = self.b.vuzp2(s, chunks[0], chunks[1]);
        let parts = [
            self.b.vuzp1(s, even, even),
            self.b.vuzp1(s, odd, odd),
            self.b.vuzp2(s, even, even),
            self.b.vuzp2(s, odd, odd),
        ];
        for (e, part) in parts.into_iter().enumerate() {
            self.set_d(x.first + e as u32 * x.inc, part);
        }
    }

    fn interleave_4(&mut self, x: Multiple) -> Vec<Val> {
        let s = x.size;
        let d: [Val; 4] = std::array::from_fn(|e| self.get_d(x.first + e as u32 * x.inc));
        let (even, odd) = (self.b.vzip1(s, d[0], d[2]), self.b.vzip1(s, d[1], d[3]));
        vec![self.b.vzip1(s, even, odd), self.b.vzip2(s, even, odd)]
    }

    // ---- single structures -------------------------------------------------------------------------------------------

    fn lane(&self, d: V, n: u32, s: u32, r: u32, i: u32) -> Option<Lane> {
        if s == 3 || n == 15 || self.no_neon(false, &[]) {
            return None;
        }
        lane_of(s, r, i).filter(|x| d.d() + r * x.inc < 32)
    }

    #[allow(clippy::too_many_arguments)]
    fn vld_lane(&mut self, d: V, n: u32, s: u32, r: u32, i: u32, m: u32) -> Flow {
        let Some(x) = self.lane(d, n, s, r, i) else { return self.undefined() };
        let base = self.reg(n);
        self.check_alignment(base, x.align);
        let mut loaded = Vec::new();
        for e in 0..=r {
            let addr = self.b.add_imm(base, (e << s) as u64);
            loaded.push(self.load(MemOp(s as u8), addr));
        }
        for (e, v) in (0..).zip(loaded) {
            let reg = d.d() + e * x.inc;
            let old = self.get_d(reg);
            let new = self.b.vinsert(s as u8, old, v, x.index);
            self.set_d(reg, new);
        }
        self.neon_writeback(n, m, base, (r + 1) << s)
    }

    #[allow(clippy::too_many_arguments)]
    fn vst_lane(&mut self, d: V, n: u32, s: u32, r: u32, i: u32, m: u32) -> Flow {
        let Some(x) = self.lane(d, n, s, r, i) else { return self.undefined() };
        let base = self.reg(n);
        self.check_alignment(base, x.align);
        for e in 0..=r {
            let v = self.get_d(d.d() + e * x.inc);
            let v = self.b.vextract(s as u8, v, x.index);
            let addr = self.b.add_imm(base, (e << s) as u64);
            self.store(MemOp(s as u8), addr, v);
        }
        self.neon_writeback(n, m, base, (r + 1) << s)
    }

    #[allow(clippy::too_many_arguments)]
    fn vld_all_lanes(&mut self, d: V, n: u32, r: u32, s: u32, t: u32, a: u32, m: u32) -> Flow {
        // VLD4 of words aligned to 16 bytes has a size of its own.
        let size = if r == 3 && s == 3 && a == 1 { 2 } else { s };
        let align = match (r, s) {
            _ if a == 0 => 1,
            (0, _) => 1 << s,
            (1, _) => 2 << s,
            (3, 3) => 16,
            (3, 2) => 8,
            _ => 4 << s,
        };
        let (regs, inc) = if r == 0 { (t + 1, 1) } else { (1, t + 1) };
        let bad = size == 3 || a == 1 && (r == 0 && s == 0 || r == 2);
        if bad || n == 15 || self.no_neon(false, &[]) || d.d() + r * inc + regs > 32 {
            return self.undefined();
        }
        let base = self.reg(n);
        self.check_alignment(base, align);
        let mut loaded = Vec::new();
        for e in 0..=r {
            let addr = self.b.add_imm(base, (e << size) as u64);
            loaded.push(self.load(MemOp(size as u8), addr));
        }
        for (e, v) in (0..).zip(loaded) {
            let all = self.b.vdup(size as u8, v);
            for k in 0..regs {
                self.set_d(d.d() + e * inc + k, all);
            }
        }
        self.neon_writeback(n, m, base, (r + 1) << size)
    }

}

#[cfg(test)]
mod tests {
    use crate::testing::{DATA, Machine};

    fn with_data(word: u32) -> Machine {
        let data: Vec<u8> = (0..64).collect();
        Machine::a32(&[word]).set_r(0, DATA).set_data(0, &data)
    }

    #[test]
    fn structures_are_taken_apart() {
        // vld2.8 {d0-d3}, [r0]
        let m = with_data(0xf420_030f).run();
        assert_eq!((m.d(0), m.d(2)), (0x0e0c_0a08_0604_0200, 0x0f0d_0b09_0705_0301));
        // vld3.16 {d0-d2}, [r0]!
        let m = with_data(0xf420_044d).run();
        assert_eq!((m.d(0), m.d(2)), (0x1312_0d0c_0706_0100, 0x1716_1110_0b0a_0504));
        assert_eq!(m.r(0), DATA + 24);
    }

    #[test]
    fn structures_are_put_together() {
        // vst4.8 {d0,d2,d4,d6}, [r0:64], r2
        let m = with_data(0xf400_0112).set_r(2, 100).set_d(0, 0x0201).set_d(2, 0x1211).set_d(4, 0x2221).set_d(6, 0x3231).run();
        assert_eq!(m.memory.data[..8], [0x01, 0x11, 0x21, 0x31, 0x02, 0x12, 0x22, 0x32]);
        assert_eq!(m.r(0), DATA + 100);
        // vst3.8 {d0-d2}, [r0]
        let m = with_data(0xf400_040f).set_d(0, 0x03 << 56).set_d(1, 0x13 << 56).set_d(2, 0x23 << 56).run();
        assert_eq!(m.memory.data[19..24], [0, 0, 0x03, 0x13, 0x23]);
    }

    #[test]
    fn single_lanes() {
        // vld1.16 {d0[2]}, [r0:16]; vld1.32 {d0[],d1[]}, [r0]
        let m = with_data(0xf4a0_049f).set_d(0, u64::MAX).run();
        assert_eq!(m.d(0), 0xffff_0100_ffff_ffff);
        let m = with_data(0xf4a0_0caf).run();
        assert_eq!((m.d(0), m.d(1)), (0x0302_0100_0302_0100, 0x0302_0100_0302_0100));
    }

    #[test]
    fn alignment_is_checked_when_asked_for() {
        // vld1.64 {d0-d3}, [r0:256]
        assert!(with_data(0xf420_02ff).run().fault().is_none());
        assert!(with_data(0xf420_02ff).set_r(0, DATA + 16).run().fault().is_some());
        // vld2.8 {d0-d3}, [r0] does not ask.
        assert!(with_data(0xf420_030f).set_r(0, DATA + 1).run().fault().is_none());
    }

    #[test]
    fn big_endian_elements() {
        // setend be; vld2.16 {d0, d1}, [r0]
        let data: Vec<u8> = (0..64).collect();
        let m = Machine::a32(&[0xf101_0200, 0xf420_084f]).set_r(0, DATA).set_data(0, &data).run();
        assert_eq!((m.d(0), m.d(1)), (0x0c0d_0809_0405_0001, 0x0e0f_0a0b_0607_0203));
    }
}
