//! Vector instructions, encoded from their rows (`rows.rs`).
//!
//! The method says which form and which kind of operands: `sse_*` is the legacy form, `vex_*` the 128-bit VEX form (which
//! clears the bits above 127 of the destination), `vex_*_y` the 256-bit one. `_i` takes an immediate byte, `_store` has its
//! destination in ModR/M.rm, `_to_gpr` and `_from_gpr` cross to the general-purpose registers.

use super::encode::{Imm, Legacy, Vex};
use super::rows::W;
use super::{Asm, Gpr, Needs, Rm, Shape, VecOp, Width, XRm, Xmm};

/// VEX.L: xmm and ymm.
const X: bool = false;
const Y: bool = true;

impl Asm {
    #[inline(always)]
    fn sse(&mut self, op: VecOp, wide: bool, reg: u8, rm: Rm, imm: Imm) {
        let row = op.row();
        debug_assert!(row.needs[0] != Needs::No, "{op:?} has no legacy form");
        let e = Legacy { p66: false, pp: row.pp, map: row.map, op: row.op, w: row.w == W::W1 || row.w == W::We && wide, rex: false };
        self.legacy(e, reg, rm, imm);
    }

    #[inline(always)]
    #[allow(clippy::too_many_arguments)] // The fields of one instruction; a struct would only rename them.
    fn avx(&mut self, op: VecOp, l: bool, wide: bool, reg: u8, vvvv: u8, rm: Rm, imm: Imm) {
        let row = op.row();
        debug_assert!(row.needs[1 + usize::from(l)] != Needs::No, "{op:?} has no VEX form of this length");
        let e = Vex { pp: row.pp, map: row.map, op: row.op, w: row.w == W::W1 || row.w == W::We && wide, l };
        self.vex(e, reg, vvvv, rm, imm);
    }

    /// `vvvv` of a form with destination in ModR/M.reg: `a` if the row has an H operand.
    #[inline(always)]
    fn h(op: VecOp, a: Xmm, src: &XRm) -> u8 {
        match op.row().shape {
            Shape::Vhw | Shape::Vhu | Shape::Vhm | Shape::Vhwi | Shape::Vhwl => a.0,
            Shape::Merge if matches!(src, XRm::Reg(_)) => a.0,
            _ => 0,
        }
    }

    /// That the row has operands of this kind.
    #[inline(always)]
    fn plain(op: VecOp, src: &XRm) -> bool {
        match op.row().shape {
            Shape::Vw | Shape::Vhw | Shape::Merge => true,
            Shape::Vhu => matches!(src, XRm::Reg(_)),
            Shape::Vm | Shape::Vhm => matches!(src, XRm::Mem(_)),
            _ => false,
        }
    }

    /// `dst = op(src)` or `dst = dst op src`. Shapes VW, VM, VHW, VHU, VHM and Merge.
    #[inline]
    pub fn sse_op(&mut self, op: VecOp, dst: Xmm, src: impl Into<XRm>) {
        let src = src.into();
        debug_assert!(Asm::plain(op, &src), "{op:?} with {src:?}");
        self.sse(op, false, dst.0, src.rm(), Imm::NONE);
    }

    /// As [`Asm::sse_op`] with an immediate. Shapes VWI and VHWI.
    #[inline]
    pub fn sse_op_i(&mut self, op: VecOp, dst: Xmm, src: impl Into<XRm>, imm: u8) {
        debug_assert!(matches!(op.row().shape, Shape::Vwi | Shape::Vhwi), "{op:?} has other operands");
        self.sse(op, false, dst.0, src.into().rm(), Imm::u8(imm));
    }

    /// `dst = op(src)` (then `a` is not used) or `dst = a op src`.
    #[inline]
    pub fn vex_op(&mut self, op: VecOp, dst: Xmm, a: Xmm, src: impl Into<XRm>) {
        let src = src.into();
        debug_assert!(Asm::plain(op, &src), "{op:?} with {src:?}");
        self.avx(op, X, false, dst.0, Asm::h(op, a, &src), src.rm(), Imm::NONE);
    }

    /// [`Asm::vex_op`] on 256 bits.
    #[inline]
    pub fn vex_op_y(&mut self, op: VecOp, dst: Xmm, a: Xmm, src: impl Into<XRm>) {
        let src = src.into();
        debug_assert!(Asm::plain(op, &src), "{op:?} with {src:?}");
        self.avx(op, Y, false, dst.0, Asm::h(op, a, &src), src.rm(), Imm::NONE);
    }

    /// [`Asm::vex_op`] with an immediate.
    #[inline]
    pub fn vex_op_i(&mut self, op: VecOp, dst: Xmm, a: Xmm, src: impl Into<XRm>, imm: u8) {
        debug_assert!(matches!(op.row().shape, Shape::Vwi | Shape::Vhwi), "{op:?} has other operands");
        let src = src.into();
        self.avx(op, X, false, dst.0, Asm::h(op, a, &src), src.rm(), Imm::u8(imm));
    }

    /// [`Asm::vex_op_i`] on 256 bits.
    #[inline]
    pub fn vex_op_i_y(&mut self, op: VecOp, dst: Xmm, a: Xmm, src: impl Into<XRm>, imm: u8) {
        debug_assert!(matches!(op.row().shape, Shape::Vwi | Shape::Vhwi), "{op:?} has other operands");
        let src = src.into();
        self.avx(op, Y, false, dst.0, Asm::h(op, a, &src), src.rm(), Imm::u8(imm));
    }

    /// VBLENDVPS, VBLENDVPD, VPBLENDVB: `dst = mask ? src : a`.
    #[inline]
    pub fn vex_blend(&mut self, op: VecOp, dst: Xmm, a: Xmm, src: impl Into<XRm>, mask: Xmm) {
        debug_assert!(op.row().shape == Shape::Vhwl, "{op:?} has no fourth register");
        self.avx(op, X, false, dst.0, a.0, src.into().rm(), Imm::u8(mask.0 << 4));
    }

    /// [`Asm::vex_blend`] on 256 bits.
    #[inline]
    pub fn vex_blend_y(&mut self, op: VecOp, dst: Xmm, a: Xmm, src: impl Into<XRm>, mask: Xmm) {
        debug_assert!(op.row().shape == Shape::Vhwl, "{op:?} has no fourth register");
        self.avx(op, Y, false, dst.0, a.0, src.into().rm(), Imm::u8(mask.0 << 4));
    }

    #[inline(always)]
    fn stores(op: VecOp, dst: &XRm) -> bool {
        match op.row().shape {
            Shape::Wv => true,
            Shape::Mv => matches!(dst, XRm::Mem(_)),
            _ => false,
        }
    }

    /// `dst = src`. Shapes WV and MV.
    #[inline]
    pub fn sse_store(&mut self, op: VecOp, dst: impl Into<XRm>, src: Xmm) {
        let dst = dst.into();
        debug_assert!(Asm::stores(op, &dst), "{op:?} to {dst:?}");
        self.sse(op, false, src.0, dst.rm(), Imm::NONE);
    }

    /// [`Asm::sse_store`] in the VEX form.
    #[inline]
    pub fn vex_store(&mut self, op: VecOp, dst: impl Into<XRm>, src: Xmm) {
        let dst = dst.into();
        debug_assert!(Asm::stores(op, &dst), "{op:?} to {dst:?}");
        self.avx(op, X, false, src.0, 0, dst.rm(), Imm::NONE);
    }

    /// [`Asm::vex_store`] of 256 bits.
    #[inline]
    pub fn vex_store_y(&mut self, op: VecOp, dst: impl Into<XRm>, src: Xmm) {
        let dst = dst.into();
        debug_assert!(Asm::stores(op, &dst), "{op:?} to {dst:?}");
        self.avx(op, Y, false, src.0, 0, dst.rm(), Imm::NONE);
    }

    /// VCVTPS2PH of 128 bits. Shape WVI.
    #[inline]
    pub fn vex_store_i(&mut self, op: VecOp, dst: impl Into<XRm>, src: Xmm, imm: u8) {
        debug_assert!(op.row().shape == Shape::Wvi, "{op:?} has other operands");
        self.avx(op, X, false, src.0, 0, dst.into().rm(), Imm::u8(imm));
    }

    /// VCVTPS2PH, VEXTRACTF128, VEXTRACTI128 from 256 bits. Shape WVI.
    #[inline]
    pub fn vex_store_i_y(&mut self, op: VecOp, dst: impl Into<XRm>, src: Xmm, imm: u8) {
        debug_assert!(op.row().shape == Shape::Wvi, "{op:?} has other operands");
        self.avx(op, Y, false, src.0, 0, dst.into().rm(), Imm::u8(imm));
    }

    /// The opcode extension of a shift by an immediate.
    #[inline(always)]
    fn digit(op: VecOp) -> u8 {
        match op.row().shape {
            Shape::Hui2 => 2,
            Shape::Hui3 => 3,
            Shape::Hui4 => 4,
            Shape::Hui6 => 6,
            Shape::Hui7 => 7,
            _ => panic!("{op:?} is no shift by an immediate"),
        }
    }

    /// `dst = dst shifted by count`. Shapes HUI.
    #[inline]
    pub fn sse_shift_i(&mut self, op: VecOp, dst: Xmm, count: u8) {
        self.sse(op, false, Asm::digit(op), XRm::Reg(dst).rm(), Imm::u8(count));
    }

    /// `dst = src shifted by count`.
    #[inline]
    pub fn vex_shift_i(&mut self, op: VecOp, dst: Xmm, src: Xmm, count: u8) {
        self.avx(op, X, false, Asm::digit(op), dst.0, XRm::Reg(src).rm(), Imm::u8(count));
    }

    /// [`Asm::vex_shift_i`] on 256 bits.
    #[inline]
    pub fn vex_shift_i_y(&mut self, op: VecOp, dst: Xmm, src: Xmm, count: u8) {
        self.avx(op, Y, false, Asm::digit(op), dst.0, XRm::Reg(src).rm(), Imm::u8(count));
    }

    /// To a general-purpose register of size `w` (4 or 8): conversions and sign masks. Shapes GW and GU.
    #[inline]
    pub fn sse_to_gpr(&mut self, op: VecOp, w: Width, dst: Gpr, src: impl Into<XRm>) {
        let src = src.into();
        debug_assert!(Asm::to_gpr(op, &src), "{op:?} with {src:?}");
        self.sse(op, w == Width::B8, dst.0, src.rm(), Imm::NONE);
    }

    /// [`Asm::sse_to_gpr`] in the VEX form.
    #[inline]
    pub fn vex_to_gpr(&mut self, op: VecOp, w: Width, dst: Gpr, src: impl Into<XRm>) {
        let src = src.into();
        debug_assert!(Asm::to_gpr(op, &src), "{op:?} with {src:?}");
        self.avx(op, X, w == Width::B8, dst.0, 0, src.rm(), Imm::NONE);
    }

    /// The sign mask of 256 bits.
    #[inline]
    pub fn vex_to_gpr_y(&mut self, op: VecOp, dst: Gpr, src: Xmm) {
        debug_assert!(op.row().shape == Shape::Gu, "{op:?} has other operands");
        self.avx(op, Y, false, dst.0, 0, XRm::Reg(src).rm(), Imm::NONE);
    }

    #[inline(always)]
    fn to_gpr(op: VecOp, src: &XRm) -> bool {
        match op.row().shape {
            Shape::Gw => true,
            Shape::Gu => matches!(src, XRm::Reg(_)),
            _ => false,
        }
    }

    /// From an integer of size `w` (4 or 8): MOVD, MOVQ, CVTSI2SS, CVTSI2SD. Shapes VE and VHE.
    #[inline]
    pub fn sse_from_gpr(&mut self, op: VecOp, w: Width, dst: Xmm, src: impl Into<Rm>) {
        debug_assert!(matches!(op.row().shape, Shape::Ve | Shape::Vhe), "{op:?} has other operands");
        self.sse(op, w == Width::B8, dst.0, src.into(), Imm::NONE);
    }

    /// [`Asm::sse_from_gpr`] in the VEX form; conversions keep the upper bits of `a`.
    #[inline]
    pub fn vex_from_gpr(&mut self, op: VecOp, w: Width, dst: Xmm, a: Xmm, src: impl Into<Rm>) {
        debug_assert!(matches!(op.row().shape, Shape::Ve | Shape::Vhe), "{op:?} has other operands");
        let vvvv = if op.row().shape == Shape::Vhe { a.0 } else { 0 };
        self.avx(op, X, w == Width::B8, dst.0, vvvv, src.into(), Imm::NONE);
    }

    /// The row that inserts or extracts lanes of size `w`, and whether its W is set.
    #[inline(always)]
    fn lane(rows: [VecOp; 3], w: Width) -> (VecOp, bool) {
        (rows[(w as usize).min(2)], w == Width::B8)
    }

    /// PINSRB, PINSRW, PINSRD, PINSRQ: lane `lane` of size `w` of `dst` = `src`.
    #[inline]
    pub fn sse_insert(&mut self, w: Width, dst: Xmm, src: impl Into<Rm>, lane: u8) {
        let (op, wide) = Asm::lane([VecOp::Pinsrb, VecOp::Pinsrw, VecOp::Pinsrd], w);
        self.sse(op, wide, dst.0, src.into(), Imm::u8(lane));
    }

    /// [`Asm::sse_insert`] in the VEX form: `dst` = `a` with one lane replaced.
    #[inline]
    pub fn vex_insert(&mut self, w: Width, dst: Xmm, a: Xmm, src: impl Into<Rm>, lane: u8) {
        let (op, wide) = Asm::lane([VecOp::Pinsrb, VecOp::Pinsrw, VecOp::Pinsrd], w);
        self.avx(op, X, wide, dst.0, a.0, src.into(), Imm::u8(lane));
    }

    /// PEXTRB, PEXTRW, PEXTRD, PEXTRQ: `dst` = lane `lane` of size `w`, zero-extended into a register.
    #[inline]
    pub fn sse_extract(&mut self, w: Width, dst: impl Into<Rm>, src: Xmm, lane: u8) {
        let (op, wide) = Asm::lane([VecOp::Pextrb, VecOp::Pextrw, VecOp::Pextrd], w);
        self.sse(op, wide, src.0, dst.into(), Imm::u8(lane));
    }

    /// [`Asm::sse_extract`] in the VEX form.
    #[inline]
    pub fn vex_extract(&mut self, w: Width, dst: impl Into<Rm>, src: Xmm, lane: u8) {
        let (op, wide) = Asm::lane([VecOp::Pextrb, VecOp::Pextrw, VecOp::Pextrd], w);
        self.avx(op, X, wide, src.0, 0, dst.into(), Imm::u8(lane));
    }

    /// EXTRACTPS: a 32-bit lane, as an integer.
    #[inline]
    pub fn sse_extractps(&mut self, dst: impl Into<Rm>, src: Xmm, lane: u8) {
        self.sse(VecOp::Extractps, false, src.0, dst.into(), Imm::u8(lane));
    }

    /// [`Asm::sse_extractps`] in the VEX form.
    #[inline]
    pub fn vex_extractps(&mut self, dst: impl Into<Rm>, src: Xmm, lane: u8) {
        self.avx(VecOp::Extractps, X, false, src.0, 0, dst.into(), Imm::u8(lane));
    }

    /// MOVD, MOVQ: the low 4 or 8 bytes of `dst` = `src`, the rest zero.
    #[inline]
    pub fn movd_x_rm(&mut self, w: Width, dst: Xmm, src: impl Into<Rm>) {
        self.sse_from_gpr(VecOp::MovdFrom, w, dst, src);
    }

    /// MOVD, MOVQ: `dst` = the low 4 or 8 bytes of `src`.
    #[inline]
    pub fn movd_rm_x(&mut self, w: Width, dst: impl Into<Rm>, src: Xmm) {
        self.sse(VecOp::MovdTo, w == Width::B8, src.0, dst.into(), Imm::NONE);
    }

    /// [`Asm::movd_x_rm`] in the VEX form.
    #[inline]
    pub fn vmovd_x_rm(&mut self, w: Width, dst: Xmm, src: impl Into<Rm>) {
        self.vex_from_gpr(VecOp::MovdFrom, w, dst, dst, src);
    }

    /// [`Asm::movd_rm_x`] in the VEX form.
    #[inline]
    pub fn vmovd_rm_x(&mut self, w: Width, dst: impl Into<Rm>, src: Xmm) {
        self.avx(VecOp::MovdTo, X, w == Width::B8, src.0, 0, dst.into(), Imm::NONE);
    }

    /// VZEROUPPER: clears bits 128 and up of all registers, ends the penalty for legacy forms.
    #[inline]
    pub fn vzeroupper(&mut self) {
        self.raw(0x77_f8c5, 3);
    }
}
