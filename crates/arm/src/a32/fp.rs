//! What the floating-point and Advanced SIMD chapters share: register numbers, access to S, D and Q registers, the
//! saturation flag, and how T32 words of these chapters become A32 words.
//!
//! **Reference.** Arm ARM (DDI 0406C) A7.3 (register encoding), A7.7 (T32 and A32 encodings side by side).
//!
//! **Not modelled**: trapped exceptions.

use crate::state;
use crate::{Features, Flow, Translator};
use ir::{FpFmt, FpMode, Ty, Val};
use spec::decode::{Bits, Row};

/// An extension register: the five bits D:Vd or M:Vm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct V(pub u32);

impl Bits for V {
    fn from_bits(bits: u32) -> V {
        V(bits)
    }
}

/// An extension register whose diagram has the low bit last: Vn:N.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vn(pub u32);

impl Bits for Vn {
    fn from_bits(bits: u32) -> Vn {
        Vn(bits)
    }
}

impl From<Vn> for V {
    fn from(n: Vn) -> V {
        V((n.0 & 1) << 4 | n.0 >> 1)
    }
}

impl V {
    /// As the number of a D register.
    pub fn d(self) -> u32 {
        self.0
    }

    /// As the number of an S register.
    pub fn s(self) -> u32 {
        (self.0 << 1 | self.0 >> 4) & 31
    }

    /// Offset in the state of the scalar register of a format (half precision lives in the low half of S).
    pub fn scalar(self, fmt: FpFmt) -> u32 {
        if fmt.log2() == 3 { state::d(self.d()) } else { state::s(self.s()) }
    }
}

/// The A32 form of a T32 word of the floating-point and Advanced SIMD chapters (of which condition `AL` stands for "by the IT
/// block"); `None` for all other words.
pub fn a32_form(t32: u32) -> Option<u32> {
    match t32 >> 24 {
        // Advanced SIMD data processing: 111U 1111 -> 1111 001U.
        0xef | 0xff => Some(0xf200_0000 | (t32 >> 28 & 1) << 24 | t32 & 0x00ff_ffff),
        // Advanced SIMD element and structure load/store: 1111 1001 ...0 -> 1111 0100 ...0.
        0xf9 if t32 & 0x0010_0000 == 0 => Some(0xf400_0000 | t32 & 0x00ff_ffff),
        0xec..=0xee if matches!(t32 >> 8 & 15, 9..=11) => Some(t32),
        0xfc..=0xfe if matches!(t32 >> 8 & 15, 8..=13) => Some(t32),
        _ => None,
    }
}

/// Whether an A32 word is a floating-point or Advanced SIMD instruction other than VMRS and VMSR of VFP's system registers,
/// which check for themselves whether they may be accessed.
pub fn needs_enable(w: u32) -> bool {
    let coprocessor = w >> 8 & 15;
    match (w >> 28, w >> 24 & 15) {
        (15, 2 | 3) => true,
        (15, 4) => w & 0x0010_0000 == 0,
        (15, 12..=14) => matches!(coprocessor, 8..=13),
        (_, 14) if w & 0x0fe0_0f10 == 0x0ee0_0a10 => w >> 16 & 15 == 1,
        (_, 12..=14) => matches!(coprocessor, 9..=11),
        _ => false,
    }
}

/// The row of a T32 instruction, and the word that it reads its fields from.
pub fn find_t32(w: u32) -> (Option<&'static Row<Translator, Flow>>, u32) {
    match a32_form(w) {
        Some(a32) => (super::find(a32), a32),
        None => (crate::t32::find(w), w),
    }
}

impl Translator {
    pub(crate) fn lacks(&self, f: Features) -> bool {
        !self.features.has(f)
    }

    /// Whether a D register does not exist on this model.
    pub(crate) fn no_d(&self, regs: &[V]) -> bool {
        regs.iter().any(|r| r.0 >= 16) && self.lacks(Features::D32)
    }

    /// Whether a VFP instruction of this format cannot be: reserved size, missing half precision, missing D registers.
    pub(crate) fn no_scalar(&self, fmt: FpFmt, regs: &[V]) -> bool {
        match fmt.log2() {
            0 => true,
            1 => self.lacks(Features::FP16),
            2 => self.lacks(Features::VFP2),
            _ => self.lacks(Features::VFP2) || self.no_d(regs),
        }
    }

    pub(crate) fn scalar(&mut self, fmt: FpFmt, r: V) -> Val {
        let v = self.b.get(Ty::V128, r.scalar(fmt), if fmt.log2() == 3 { 8 } else { 4 });
        // Half precision: bits 31:16 take no part in arithmetic, and must not appear in the result.
        if fmt.log2() == 1 {
            let mask = self.b.vconst(0xffff);
            return self.b.vand(v, mask);
        }
        v
    }

    pub(crate) fn set_scalar(&mut self, fmt: FpFmt, r: V, v: Val) -> Flow {
        self.b.set(r.scalar(fmt), if fmt.log2() == 3 { 8 } else { 4 }, v);
        Flow::Next
    }

    pub(crate) fn get_d(&mut self, n: u32) -> Val {
        self.b.get(Ty::V128, state::d(n), 8)
    }

    pub(crate) fn set_d(&mut self, n: u32, v: Val) {
        let v = self.b.vlow(v);
        self.b.set(state::d(n), 8, v);
    }

    /// A D register, or the Q register that begins there.
    pub(crate) fn vec(&mut self, q: bool, r: V) -> Val {
        self.b.get(Ty::V128, state::d(r.0), if q { 16 } else { 8 })
    }

    pub(crate) fn set_vec(&mut self, q: bool, r: V, v: Val) -> Flow {
        if q {
            self.b.set(state::d(r.0), 16, v);
        } else {
            self.set_d(r.0, v);
        }
        Flow::Next
    }

    /// The mode of scalar arithmetic: half precision flushes by FPSCR.FZ16, not FZ.
    pub(crate) fn scalar_mode(&self, fmt: FpFmt) -> FpMode {
        if fmt.log2() == 1 { self.half_mode(self.mode) } else { self.mode }
    }

    /// The mode of Advanced SIMD arithmetic: the standard FPSCR value.
    pub(crate) fn vector_mode(&self, log2: u8) -> FpMode {
        let standard = FpMode(FpMode::ARM_STANDARD.0 | self.mode.0 & 1 << 5);
        if log2 == 1 { self.half_mode(standard) } else { standard }
    }

    /// FPSCR.FZ16, which the region's key carries.
    fn fz16(&self) -> bool {
        self.static_key() & state::key::FZ16 != 0
    }

    fn half_mode(&self, mode: FpMode) -> FpMode {
        FpMode(mode.0 & !8 | (self.fz16() as u8) << 3)
    }

    /// Sets FPSCR.QC if any bit of `difference` is set.
    pub(crate) fn accumulate_qc(&mut self, difference: Val) {
        let old = self.b.get(Ty::V128, state::FPSCR_QC, 16);
        let new = self.b.vor(old, difference);
        self.b.set(state::FPSCR_QC, 16, new);
    }

    /// Sets FPSCR.QC where the saturated result differs from the true one.
    pub(crate) fn qc_if_differs(&mut self, saturated: Val, wrapped: Val) {
        let difference = self.b.vxor(saturated, wrapped);
        self.accumulate_qc(difference);
    }

    /// A 128-bit constant of equal lanes.
    pub(crate) fn splat(&mut self, log2: u8, lane: u64) -> Val {
        let bits = 8u32 << log2;
        let lane = lane as u128 & (u128::MAX >> (128 - bits));
        self.b.vconst((0..128 / bits).fold(0, |acc, k| acc | lane << (bits * k)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_numbers_follow_the_size() {
        // Vn:N = 00011:1 is s7; as a D register N is the high bit.
        let n = V::from(Vn(0b00111));
        assert_eq!((n.s(), n.d()), (7, 0b10011));
        assert_eq!((V(0b10011).s(), V(0b10011).d()), (7, 19));
    }

    #[test]
    fn t32_words_become_a32_words() {
        // vadd.i32 d0, d1, d2: ef21 0802 and f221 0802; vld1.8 {d0}, [r0]: f920 070f and f420 070f.
        assert_eq!(a32_form(0xef21_0802), Some(0xf221_0802));
        assert_eq!(a32_form(0xff01_0112), Some(0xf301_0112));
        assert_eq!(a32_form(0xf920_070f), Some(0xf420_070f));
        assert_eq!(a32_form(0xee31_0b02), Some(0xee31_0b02));
        assert_eq!(a32_form(0xee07_0fba), None, "coprocessor 15 is another chapter");
        assert_eq!(a32_form(0xf8d0_0000), None);
    }
}
