//! Advanced SIMD, two registers and a shift amount. Arm ARM (DDI 0406C) A7.4.4.
//!
//! L:imm6 holds size and amount together: the highest set bit of L:imm6<5:3> is the size; right shifts count down from twice
//! the lane, left shifts up from the lane. L:imm6 = 0000xxx are the modified immediates (see `neon::find`).

use super::fp::V;
use crate::{Features, Flow, Translator};
use ir::{Builder, FpFmt, Val};
use softfloat::Rounding;
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    vshr "1111 001u 1dii iiii dddd 0000 lqm1 mmmm" (u, d, i, l, q, m);
    vsra "1111 001u 1dii iiii dddd 0001 lqm1 mmmm" (u, d, i, l, q, m);
    vrshr "1111 001u 1dii iiii dddd 0010 lqm1 mmmm" (u, d, i, l, q, m);
    vrsra "1111 001u 1dii iiii dddd 0011 lqm1 mmmm" (u, d, i, l, q, m);
    vsri "1111 0011 1dii iiii dddd 0100 lqm1 mmmm" (d, i, l, q, m);
    vshl_imm "1111 0010 1dii iiii dddd 0101 lqm1 mmmm" (d, i, l, q, m);
    vsli "1111 0011 1dii iiii dddd 0101 lqm1 mmmm" (d, i, l, q, m);
    vqshlu "1111 0011 1dii iiii dddd 0110 lqm1 mmmm" (d, i, l, q, m);
    vqshl_imm "1111 001u 1dii iiii dddd 0111 lqm1 mmmm" (u, d, i, l, q, m);
    vshrn "1111 0010 1dii iiii dddd 1000 00m1 mmmm" (d, i, m);
    vrshrn "1111 0010 1dii iiii dddd 1000 01m1 mmmm" (d, i, m);
    /// VQSHRUN, VQRSHRUN
    vqshrun "1111 0011 1dii iiii dddd 1000 0rm1 mmmm" (d, i, r, m);
    /// VQSHRN, VQRSHRN
    vqshrn "1111 001u 1dii iiii dddd 1001 0rm1 mmmm" (u, d, i, r, m);
    /// VSHLL, and VMOVL for a shift by 0
    vshll "1111 001u 1dii iiii dddd 1010 00m1 mmmm" (u, d, i, m);
    /// VCVT between single (h = 1; 0: half) and fixed point
    vcvt_fixed "1111 001u 1dii iiii dddd 11ho 0qm1 mmmm" (u, d, i, h, o, q, m);
}

/// Lane size (log2 bytes) and the low bits of L:imm6; `None` for the modified immediates' encodings.
fn size_of(l: bool, imm6: u32) -> Option<(u8, u32)> {
    let all = (l as u32) << 6 | imm6;
    if all < 8 {
        return None;
    }
    let log2 = 28 - all.leading_zeros();
    Some((log2 as u8, all & ((8 << log2) - 1)))
}

fn shift_right(b: &mut Builder, u: bool, s: u8, x: Val, n: u32) -> Val {
    if u { b.vshri(s, x, n) } else { b.vsari(s, x, n) }
}

/// Right by `n` (at least 1), plus the last bit shifted out.
fn rounded(t: &mut Translator, u: bool, s: u8, x: Val, n: u32) -> Val {
    let one = t.splat(s, 1);
    let before = shift_right(&mut t.b, u, s, x, n - 1);
    let last = t.b.vand(before, one);
    let r = shift_right(&mut t.b, u, s, x, n);
    t.b.vadd(s, r, last)
}

impl Translator {
    /// An operation with the destination, the source, the lane size and the right (or left) amount.
    #[allow(clippy::too_many_arguments)]
    fn shift_lanes(
        &mut self,
        right: bool,
        d: V,
        i: u32,
        l: bool,
        q: bool,
        m: V,
        op: impl FnOnce(&mut Self, u8, Val, u32) -> Val,
    ) -> Flow {
        let Some((s, low)) = size_of(l, i) else { return self.undefined() };
        if self.no_neon(q, &[d, m]) {
            return self.undefined();
        }
        let x = self.vec(q, m);
        let r = op(self, s, x, if right { (8 << s) - low } else { low });
        self.set_vec(q, d, r)
    }

    #[allow(clippy::too_many_arguments)]
    fn vshr(&mut self, u: bool, d: V, i: u32, l: bool, q: bool, m: V) -> Flow {
        self.shift_lanes(true, d, i, l, q, m, |t, s, x, n| shift_right(&mut t.b, u, s, x, n))
    }

    #[allow(clippy::too_many_arguments)]
    fn vsra(&mut self, u: bool, d: V, i: u32, l: bool, q: bool, m: V) -> Flow {
        self.shift_lanes(true, d, i, l, q, m, |t, s, x, n| {
            let (r, acc) = (shift_right(&mut t.b, u, s, x, n), t.vec(q, d));
            t.b.vadd(s, acc, r)
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn vrshr(&mut self, u: bool, d: V, i: u32, l: bool, q: bool, m: V) -> Flow {
        self.shift_lanes(true, d, i, l, q, m, |t, s, x, n| rounded(t, u, s, x, n))
    }

    #[allow(clippy::too_many_arguments)]
    fn vrsra(&mut self, u: bool, d: V, i: u32, l: bool, q: bool, m: V) -> Flow {
        self.shift_lanes(true, d, i, l, q, m, |t, s, x, n| {
            let (r, acc) = (rounded(t, u, s, x, n), t.vec(q, d));
            t.b.vadd(s, acc, r)
        })
    }

    fn vsri(&mut self, d: V, i: u32, l: bool, q: bool, m: V) -> Flow {
        self.shift_lanes(true, d, i, l, q, m, |t, s, x, n| {
            let ones = t.b.vconst(u128::MAX);
            let mask = t.b.vshri(s, ones, n);
            let (r, old) = (t.b.vshri(s, x, n), t.vec(q, d));
            t.b.vsel(mask, r, old)
        })
    }

    fn vsli(&mut self, d: V, i: u32, l: bool, q: bool, m: V) -> Flow {
        self.shift_lanes(false, d, i, l, q, m, |t, s, x, n| {
            let ones = t.b.vconst(u128::MAX);
            let mask = t.b.vshli(s, ones, n);
            let (r, old) = (t.b.vshli(s, x, n), t.vec(q, d));
            t.b.vsel(mask, r, old)
        })
    }

    fn vshl_imm(&mut self, d: V, i: u32, l: bool, q: bool, m: V) -> Flow {
        self.shift_lanes(false, d, i, l, q, m, |t, s, x, n| t.b.vshli(s, x, n))
    }

    /// Left shifts saturate where shifting back does not give the operand.
    #[allow(clippy::too_many_arguments)]
    fn vqshl_imm(&mut self, u: bool, d: V, i: u32, l: bool, q: bool, m: V) -> Flow {
        self.shift_lanes(false, d, i, l, q, m, |t, s, x, n| {
            let r = t.b.vshli(s, x, n);
            let back = shift_right(&mut t.b, u, s, r, n);
            let fits = t.b.vcmpeq(s, back, x);
            let limit = if u {
                t.b.vconst(u128::MAX)
            } else {
                // MAX, inverted where the operand is negative.
                let (sign, max) = (t.b.vsari(s, x, (8 << s) - 1), t.splat(s, (1 << ((8u32 << s) - 1)) - 1));
                t.b.vxor(sign, max)
            };
            let saturated = t.b.vsel(fits, r, limit);
            t.qc_if_differs(back, x);
            saturated
        })
    }

    /// Signed operands, unsigned results: negative operands become 0.
    fn vqshlu(&mut self, d: V, i: u32, l: bool, q: bool, m: V) -> Flow {
        self.shift_lanes(false, d, i, l, q, m, |t, s, x, n| {
            let negative = t.b.vsari(s, x, (8 << s) - 1);
            let r = t.b.vshli(s, x, n);
            let back = t.b.vshri(s, r, n);
            let fits = t.b.vcmpeq(s, back, x);
            let ones = t.b.vconst(u128::MAX);
            let saturated = t.b.vsel(fits, r, ones);
            t.qc_if_differs(back, x);
            t.accumulate_qc(negative);
            t.b.vandn(saturated, negative)
        })
    }

    /// The wide lanes of Qm and the right amount of a narrowing shift.
    fn narrowing(&mut self, i: u32, m: V) -> Option<(u8, Val, u32)> {
        let (s, low) = size_of(false, i)?;
        if self.no_neon(true, &[m]) {
            return None;
        }
        Some((s + 1, self.vec(true, m), (8 << s) - low))
    }

    fn vshrn(&mut self, d: V, i: u32, m: V) -> Flow {
        let Some((w, x, n)) = self.narrowing(i, m) else { return self.undefined() };
        let r = self.b.vshri(w, x, n);
        let r = self.b.vnarrow(w, r);
        self.set_vec(false, d, r)
    }

    fn vrshrn(&mut self, d: V, i: u32, m: V) -> Flow {
        let Some((w, x, n)) = self.narrowing(i, m) else { return self.undefined() };
        let r = rounded(self, true, w, x, n);
        let r = self.b.vnarrow(w, r);
        self.set_vec(false, d, r)
    }

    fn vqshrun(&mut self, d: V, i: u32, r: bool, m: V) -> Flow {
        let Some((w, x, n)) = self.narrowing(i, m) else { return self.undefined() };
        let x = if r { rounded(self, false, w, x, n) } else { self.b.vsari(w, x, n) };
        self.saturating_narrow(w, d, x, Narrow::SignedToUnsigned)
    }

    fn vqshrn(&mut self, u: bool, d: V, i: u32, r: bool, m: V) -> Flow {
        let Some((w, x, n)) = self.narrowing(i, m) else { return self.undefined() };
        let x = if r { rounded(self, u, w, x, n) } else { shift_right(&mut self.b, u, w, x, n) };
        self.saturating_narrow(w, d, x, if u { Narrow::Unsigned } else { Narrow::Signed })
    }

    /// Narrows lanes of `8 << w` bits; QC is set where widening the result does not give the operand.
    pub(super) fn saturating_narrow(&mut self, w: u8, d: V, x: Val, kind: Narrow) -> Flow {
        let b = &mut self.b;
        let (r, back) = match kind {
            Narrow::Signed => {
                let r = b.vnarrowss(w, x);
                (r, b.vwidens(w - 1, r))
            }
            Narrow::SignedToUnsigned => {
                let r = b.vnarrowsu(w, x);
                (r, b.vwidenu(w - 1, r))
            }
            Narrow::Unsigned => {
                let r = b.vnarrowuu(w, x);
                (r, b.vwidenu(w - 1, r))
            }
        };
        self.qc_if_differs(back, x);
        self.set_vec(false, d, r)
    }

    fn vshll(&mut self, u: bool, d: V, i: u32, m: V) -> Flow {
        let Some((s, n)) = size_of(false, i) else { return self.undefined() };
        if self.no_neon(true, &[d]) {
            return self.undefined();
        }
        let x = self.vec(false, m);
        let r = if u { self.b.vwidenu(s, x) } else { self.b.vwidens(s, x) };
        let r = self.b.vshli(s + 1, r, n);
        self.set_vec(true, d, r)
    }

    #[allow(clippy::too_many_arguments)]
    fn vcvt_fixed(&mut self, u: bool, d: V, i: u32, h: bool, o: bool, q: bool, m: V) -> Flow {
        let (fmt, log2, bits) = if h { (FpFmt::V32, 2, 32) } else { (FpFmt::V16, 1, 16) };
        // The amount is 1 to 32 (16): imm6 has its top bits set.
        let frac = 64 - i;
        if self.no_neon(q, &[d, m]) || frac > bits || !h && self.lacks(Features::FP16) {
            return self.undefined();
        }
        let x = self.vec(q, m);
        let mode = self.vector_mode(log2);
        let r = if o {
            self.b.fp_to_int(fmt, mode.with_rounding(Rounding::Zero), x, !u, log2 as u32, frac)
        } else {
            self.b.fp_from_int(fmt, mode, x, !u, log2 as u32, frac)
        };
        self.set_vec(q, d, r)
    }
}

/// How saturating narrowing takes its operand and gives its result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Narrow {
    Signed,
    SignedToUnsigned,
    Unsigned,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Machine;

    fn check(word: u32, old: u64, q1: u128, expected: u64, qc: bool) {
        let m = Machine::a32(&[word]).set_d(0, old).set_q(1, q1).set_d(1, q1 as u64).run();
        assert_eq!(m.d(0), expected, "{word:#x}: {:#x}", m.d(0));
        assert_eq!(m.fpscr() >> 27 & 1 != 0, qc, "{word:#x}: QC");
    }

    #[test]
    fn sizes() {
        assert_eq!(size_of(false, 0b001101), Some((0, 5)));
        assert_eq!(size_of(false, 0b111111), Some((2, 31)));
        assert_eq!(size_of(true, 0b000001), Some((3, 1)));
        assert_eq!(size_of(false, 0b000111), None);
    }

    #[test]
    fn shifts_round_insert_and_saturate() {
        // vrshr.s8 d0, d1, #3
        check(0xf28d_0211, 0, 0xfc_04_03, 0x00_01_00, false);
        // vsri.32 d0, d1, #8
        check(0xf3b8_0411, 0xaabb_ccdd_1122_3344, 0x1000_0000_ffff_ffff, 0xaa10_0000_11ff_ffff, false);
        // vqshlu.s8 d0, d1, #1
        check(0xf389_0611, 0, 0x80_7f_ff, 0xff_fe_00 & 0x00_ff_ff, true);
        check(0xf389_0611, 0, 0x40_7f_01, 0x80_fe_02, false);
        // vqshrun.s16 d0, q1, #2
        check(0xf38e_0812, 0, 0xffff_0404_0104, 0x00_ff_41, true);
    }
}
