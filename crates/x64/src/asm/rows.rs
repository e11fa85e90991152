//! The vector instructions: one row each, from which the legacy (SSE) and the VEX (AVX) encodings are made.
//!
//! **Reference**: SDM volume 2, chapters 3–5 and appendix A.4. Columns: variant, mnemonic, mandatory prefix, map, opcode,
//! W, shape, and the extension that the legacy, the VEX.128 and the VEX.256 form need (`No`: there is no such form).
//! **Not modelled**: string comparisons, gathers, masked moves, EVEX.

use super::encode::{Map, Pp};

/// What VEX.W or REX.W is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum W {
    /// 0, or ignored.
    W0,
    W1,
    /// Set when the general-purpose operand has 8 bytes.
    We,
}

/// The operands of an instruction, in the letters of the manual's opcode maps: V is a vector register in ModR/M.reg, H
/// the one in VEX.vvvv (the destination itself in the legacy form), W a vector register or memory in ModR/M.rm, U a
/// register only there, M memory only; G and E are the general-purpose counterparts of V and W; I is an immediate byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Shape {
    Vw,
    Vm,
    Vwi,
    Vhw,
    Vhu,
    Vhm,
    Vhwi,
    /// VHU from a register, VM from memory (MOVSS, MOVSD).
    Merge,
    /// A fourth register in the immediate byte.
    Vhwl,
    Wv,
    Mv,
    Wvi,
    /// Destination H, source U, shift count I; the opcode extension.
    Hui2,
    Hui3,
    Hui4,
    Hui6,
    Hui7,
    Gw,
    Gu,
    Ve,
    Vhe,
    Vhei,
    Ev,
    Evi,
}

/// An extension of the instruction set. VEX.128 forms of `Aes` and `Pclmul` rows need that extension besides `Avx`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Needs {
    No,
    Sse,
    Sse2,
    Sse3,
    Ssse3,
    Sse41,
    Sse42,
    Aes,
    Pclmul,
    Sha,
    Avx,
    Avx2,
    Fma,
    F16c,
}

/// The encoding of one instruction.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub pp: Pp,
    pub map: Map,
    pub op: u8,
    pub w: W,
    pub shape: Shape,
    /// Of the legacy, VEX.128 and VEX.256 form.
    pub needs: [Needs; 3],
}

macro_rules! vector_rows {
    ($($op:ident $name:literal $pp:ident $map:ident $code:literal $w:ident $shape:ident $legacy:ident $v128:ident $v256:ident;)*) => {
        /// A vector instruction.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u16)]
        pub enum VecOp { $($op),* }

        impl VecOp {
            pub const ALL: &'static [VecOp] = &[$(VecOp::$op),*];

            /// The mnemonic of the legacy form, or of the VEX form if there is no other.
            pub const fn name(self) -> &'static str {
                const NAMES: &[&str] = &[$($name),*];
                NAMES[self as usize]
            }
        }

        static ROWS: [Row; VecOp::ALL.len()] = [$(Row {
            pp: Pp::$pp,
            map: Map::$map,
            op: $code,
            w: W::$w,
            shape: Shape::$shape,
            needs: [Needs::$legacy, Needs::$v128, Needs::$v256],
        }),*];
    };
}

impl VecOp {
    #[inline(always)]
    pub(super) fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    pub fn shape(self) -> Shape {
        self.row().shape
    }

    /// The extensions that the legacy, the VEX.128 and the VEX.256 form need.
    pub fn needs(self) -> [Needs; 3] {
        self.row().needs
    }
}

vector_rows! {

    // moves between vector registers and memory
    Movups         "movups"         Np  M0f   0x10 W0 Vw    Sse    Avx  Avx;
    MovupsStore    "movups"         Np  M0f   0x11 W0 Wv    Sse    Avx  Avx;
    Movupd         "movupd"         P66 M0f   0x10 W0 Vw    Sse2   Avx  Avx;
    MovupdStore    "movupd"         P66 M0f   0x11 W0 Wv    Sse2   Avx  Avx;
    Movaps         "movaps"         Np  M0f   0x28 W0 Vw    Sse    Avx  Avx;
    MovapsStore    "movaps"         Np  M0f   0x29 W0 Wv    Sse    Avx  Avx;
    Movapd         "movapd"         P66 M0f   0x28 W0 Vw    Sse2   Avx  Avx;
    MovapdStore    "movapd"         P66 M0f   0x29 W0 Wv    Sse2   Avx  Avx;
    Movdqa         "movdqa"         P66 M0f   0x6f W0 Vw    Sse2   Avx  Avx;
    MovdqaStore    "movdqa"         P66 M0f   0x7f W0 Wv    Sse2   Avx  Avx;
    Movdqu         "movdqu"         Pf3 M0f   0x6f W0 Vw    Sse2   Avx  Avx;
    MovdquStore    "movdqu"         Pf3 M0f   0x7f W0 Wv    Sse2   Avx  Avx;
    Movss          "movss"          Pf3 M0f   0x10 W0 Merge Sse    Avx  No;
    MovssStore     "movss"          Pf3 M0f   0x11 W0 Mv    Sse    Avx  No;
    Movsd          "movsd"          Pf2 M0f   0x10 W0 Merge Sse2   Avx  No;
    MovsdStore     "movsd"          Pf2 M0f   0x11 W0 Mv    Sse2   Avx  No;
    Movq           "movq"           Pf3 M0f   0x7e W0 Vw    Sse2   Avx  No;
    MovqStore      "movq"           P66 M0f   0xd6 W0 Wv    Sse2   Avx  No;
    Movlps         "movlps"         Np  M0f   0x12 W0 Vhm   Sse    Avx  No;
    MovlpsStore    "movlps"         Np  M0f   0x13 W0 Mv    Sse    Avx  No;
    Movhps         "movhps"         Np  M0f   0x16 W0 Vhm   Sse    Avx  No;
    MovhpsStore    "movhps"         Np  M0f   0x17 W0 Mv    Sse    Avx  No;
    Movhlps        "movhlps"        Np  M0f   0x12 W0 Vhu   Sse    Avx  No;
    Movlhps        "movlhps"        Np  M0f   0x16 W0 Vhu   Sse    Avx  No;
    Movlpd         "movlpd"         P66 M0f   0x12 W0 Vhm   Sse2   Avx  No;
    Movhpd         "movhpd"         P66 M0f   0x16 W0 Vhm   Sse2   Avx  No;
    Lddqu          "lddqu"          Pf2 M0f   0xf0 W0 Vm    Sse3   Avx  Avx;
    Movntdqa       "movntdqa"       P66 M0f38 0x2a W0 Vm    Sse41  Avx  Avx2;
    Movntdq        "movntdq"        P66 M0f   0xe7 W0 Mv    Sse2   Avx  Avx;
    Movntps        "movntps"        Np  M0f   0x2b W0 Mv    Sse    Avx  Avx;
    Movshdup       "movshdup"       Pf3 M0f   0x16 W0 Vw    Sse3   Avx  Avx;
    Movsldup       "movsldup"       Pf3 M0f   0x12 W0 Vw    Sse3   Avx  Avx;
    Movddup        "movddup"        Pf2 M0f   0x12 W0 Vw    Sse3   Avx  Avx;

    // moves between vector and general-purpose registers
    MovdFrom       "movd"           P66 M0f   0x6e We Ve    Sse2   Avx  No;
    MovdTo         "movd"           P66 M0f   0x7e We Ev    Sse2   Avx  No;
    Pmovmskb       "pmovmskb"       P66 M0f   0xd7 W0 Gu    Sse2   Avx  Avx2;
    Movmskps       "movmskps"       Np  M0f   0x50 W0 Gu    Sse    Avx  Avx;
    Movmskpd       "movmskpd"       P66 M0f   0x50 W0 Gu    Sse2   Avx  Avx;
    Pinsrb         "pinsrb"         P66 M0f3a 0x20 W0 Vhei  Sse41  Avx  No;
    Pinsrw         "pinsrw"         P66 M0f   0xc4 W0 Vhei  Sse2   Avx  No;
    Pinsrd         "pinsrd"         P66 M0f3a 0x22 We Vhei  Sse41  Avx  No;
    Pextrb         "pextrb"         P66 M0f3a 0x14 W0 Evi   Sse41  Avx  No;
    // PEXTRW to memory exists only in map 0F 3A, so this row serves registers too.
    Pextrw         "pextrw"         P66 M0f3a 0x15 W0 Evi   Sse41  Avx  No;
    Pextrd         "pextrd"         P66 M0f3a 0x16 We Evi   Sse41  Avx  No;
    Extractps      "extractps"      P66 M0f3a 0x17 W0 Evi   Sse41  Avx  No;
    Insertps       "insertps"       P66 M0f3a 0x21 W0 Vhwi  Sse41  Avx  No;
    Cvtsi2ss       "cvtsi2ss"       Pf3 M0f   0x2a We Vhe   Sse    Avx  No;
    Cvttss2si      "cvttss2si"      Pf3 M0f   0x2c We Gw    Sse    Avx  No;
    Cvtss2si       "cvtss2si"       Pf3 M0f   0x2d We Gw    Sse    Avx  No;
    Cvtsi2sd       "cvtsi2sd"       Pf2 M0f   0x2a We Vhe   Sse2   Avx  No;
    Cvttsd2si      "cvttsd2si"      Pf2 M0f   0x2c We Gw    Sse2   Avx  No;
    Cvtsd2si       "cvtsd2si"       Pf2 M0f   0x2d We Gw    Sse2   Avx  No;

    // floating-point arithmetic
    Addps          "addps"          Np  M0f   0x58 W0 Vhw   Sse    Avx  Avx;
    Addpd          "addpd"          P66 M0f   0x58 W0 Vhw   Sse2   Avx  Avx;
    Addss          "addss"          Pf3 M0f   0x58 W0 Vhw   Sse    Avx  No;
    Addsd          "addsd"          Pf2 M0f   0x58 W0 Vhw   Sse2   Avx  No;
    Mulps          "mulps"          Np  M0f   0x59 W0 Vhw   Sse    Avx  Avx;
    Mulpd          "mulpd"          P66 M0f   0x59 W0 Vhw   Sse2   Avx  Avx;
    Mulss          "mulss"          Pf3 M0f   0x59 W0 Vhw   Sse    Avx  No;
    Mulsd          "mulsd"          Pf2 M0f   0x59 W0 Vhw   Sse2   Avx  No;
    Subps          "subps"          Np  M0f   0x5c W0 Vhw   Sse    Avx  Avx;
    Subpd          "subpd"          P66 M0f   0x5c W0 Vhw   Sse2   Avx  Avx;
    Subss          "subss"          Pf3 M0f   0x5c W0 Vhw   Sse    Avx  No;
    Subsd          "subsd"          Pf2 M0f   0x5c W0 Vhw   Sse2   Avx  No;
    Minps          "minps"          Np  M0f   0x5d W0 Vhw   Sse    Avx  Avx;
    Minpd          "minpd"          P66 M0f   0x5d W0 Vhw   Sse2   Avx  Avx;
    Minss          "minss"          Pf3 M0f   0x5d W0 Vhw   Sse    Avx  No;
    Minsd          "minsd"          Pf2 M0f   0x5d W0 Vhw   Sse2   Avx  No;
    Divps          "divps"          Np  M0f   0x5e W0 Vhw   Sse    Avx  Avx;
    Divpd          "divpd"          P66 M0f   0x5e W0 Vhw   Sse2   Avx  Avx;
    Divss          "divss"          Pf3 M0f   0x5e W0 Vhw   Sse    Avx  No;
    Divsd          "divsd"          Pf2 M0f   0x5e W0 Vhw   Sse2   Avx  No;
    Maxps          "maxps"          Np  M0f   0x5f W0 Vhw   Sse    Avx  Avx;
    Maxpd          "maxpd"          P66 M0f   0x5f W0 Vhw   Sse2   Avx  Avx;
    Maxss          "maxss"          Pf3 M0f   0x5f W0 Vhw   Sse    Avx  No;
    Maxsd          "maxsd"          Pf2 M0f   0x5f W0 Vhw   Sse2   Avx  No;
    Sqrtps         "sqrtps"         Np  M0f   0x51 W0 Vw    Sse    Avx  Avx;
    Sqrtpd         "sqrtpd"         P66 M0f   0x51 W0 Vw    Sse2   Avx  Avx;
    Sqrtss         "sqrtss"         Pf3 M0f   0x51 W0 Vhw   Sse    Avx  No;
    Sqrtsd         "sqrtsd"         Pf2 M0f   0x51 W0 Vhw   Sse2   Avx  No;
    Rsqrtps        "rsqrtps"        Np  M0f   0x52 W0 Vw    Sse    Avx  Avx;
    Rsqrtss        "rsqrtss"        Pf3 M0f   0x52 W0 Vhw   Sse    Avx  No;
    Rcpps          "rcpps"          Np  M0f   0x53 W0 Vw    Sse    Avx  Avx;
    Rcpss          "rcpss"          Pf3 M0f   0x53 W0 Vhw   Sse    Avx  No;
    Andps          "andps"          Np  M0f   0x54 W0 Vhw   Sse    Avx  Avx;
    Andpd          "andpd"          P66 M0f   0x54 W0 Vhw   Sse2   Avx  Avx;
    Andnps         "andnps"         Np  M0f   0x55 W0 Vhw   Sse    Avx  Avx;
    Andnpd         "andnpd"         P66 M0f   0x55 W0 Vhw   Sse2   Avx  Avx;
    Orps           "orps"           Np  M0f   0x56 W0 Vhw   Sse    Avx  Avx;
    Orpd           "orpd"           P66 M0f   0x56 W0 Vhw   Sse2   Avx  Avx;
    Xorps          "xorps"          Np  M0f   0x57 W0 Vhw   Sse    Avx  Avx;
    Xorpd          "xorpd"          P66 M0f   0x57 W0 Vhw   Sse2   Avx  Avx;
    Haddps         "haddps"         Pf2 M0f   0x7c W0 Vhw   Sse3   Avx  Avx;
    Haddpd         "haddpd"         P66 M0f   0x7c W0 Vhw   Sse3   Avx  Avx;
    Hsubps         "hsubps"         Pf2 M0f   0x7d W0 Vhw   Sse3   Avx  Avx;
    Hsubpd         "hsubpd"         P66 M0f   0x7d W0 Vhw   Sse3   Avx  Avx;
    Addsubps       "addsubps"       Pf2 M0f   0xd0 W0 Vhw   Sse3   Avx  Avx;
    Addsubpd       "addsubpd"       P66 M0f   0xd0 W0 Vhw   Sse3   Avx  Avx;
    Dpps           "dpps"           P66 M0f3a 0x40 W0 Vhwi  Sse41  Avx  Avx;
    Dppd           "dppd"           P66 M0f3a 0x41 W0 Vhwi  Sse41  Avx  No;
    Roundps        "roundps"        P66 M0f3a 0x08 W0 Vwi   Sse41  Avx  Avx;
    Roundpd        "roundpd"        P66 M0f3a 0x09 W0 Vwi   Sse41  Avx  Avx;
    Roundss        "roundss"        P66 M0f3a 0x0a W0 Vhwi  Sse41  Avx  No;
    Roundsd        "roundsd"        P66 M0f3a 0x0b W0 Vhwi  Sse41  Avx  No;

    // floating-point comparison
    Ucomiss        "ucomiss"        Np  M0f   0x2e W0 Vw    Sse    Avx  No;
    Ucomisd        "ucomisd"        P66 M0f   0x2e W0 Vw    Sse2   Avx  No;
    Comiss         "comiss"         Np  M0f   0x2f W0 Vw    Sse    Avx  No;
    Comisd         "comisd"         P66 M0f   0x2f W0 Vw    Sse2   Avx  No;
    Cmpps          "cmpps"          Np  M0f   0xc2 W0 Vhwi  Sse    Avx  Avx;
    Cmppd          "cmppd"          P66 M0f   0xc2 W0 Vhwi  Sse2   Avx  Avx;
    Cmpss          "cmpss"          Pf3 M0f   0xc2 W0 Vhwi  Sse    Avx  No;
    Cmpsd          "cmpsd"          Pf2 M0f   0xc2 W0 Vhwi  Sse2   Avx  No;

    // conversion
    Cvtps2pd       "cvtps2pd"       Np  M0f   0x5a W0 Vw    Sse2   Avx  Avx;
    Cvtpd2ps       "cvtpd2ps"       P66 M0f   0x5a W0 Vw    Sse2   Avx  Avx;
    Cvtss2sd       "cvtss2sd"       Pf3 M0f   0x5a W0 Vhw   Sse2   Avx  No;
    Cvtsd2ss       "cvtsd2ss"       Pf2 M0f   0x5a W0 Vhw   Sse2   Avx  No;
    Cvtdq2ps       "cvtdq2ps"       Np  M0f   0x5b W0 Vw    Sse2   Avx  Avx;
    Cvtps2dq       "cvtps2dq"       P66 M0f   0x5b W0 Vw    Sse2   Avx  Avx;
    Cvttps2dq      "cvttps2dq"      Pf3 M0f   0x5b W0 Vw    Sse2   Avx  Avx;
    Cvtdq2pd       "cvtdq2pd"       Pf3 M0f   0xe6 W0 Vw    Sse2   Avx  Avx;
    Cvttpd2dq      "cvttpd2dq"      P66 M0f   0xe6 W0 Vw    Sse2   Avx  Avx;
    Cvtpd2dq       "cvtpd2dq"       Pf2 M0f   0xe6 W0 Vw    Sse2   Avx  Avx;
    Vcvtph2ps      "vcvtph2ps"      P66 M0f38 0x13 W0 Vw    No     F16c F16c;
    Vcvtps2ph      "vcvtps2ph"      P66 M0f3a 0x1d W0 Wvi   No     F16c F16c;

    // floating-point shuffles
    Shufps         "shufps"         Np  M0f   0xc6 W0 Vhwi  Sse    Avx  Avx;
    Shufpd         "shufpd"         P66 M0f   0xc6 W0 Vhwi  Sse2   Avx  Avx;
    Unpcklps       "unpcklps"       Np  M0f   0x14 W0 Vhw   Sse    Avx  Avx;
    Unpcklpd       "unpcklpd"       P66 M0f   0x14 W0 Vhw   Sse2   Avx  Avx;
    Unpckhps       "unpckhps"       Np  M0f   0x15 W0 Vhw   Sse    Avx  Avx;
    Unpckhpd       "unpckhpd"       P66 M0f   0x15 W0 Vhw   Sse2   Avx  Avx;
    Blendps        "blendps"        P66 M0f3a 0x0c W0 Vhwi  Sse41  Avx  Avx;
    Blendpd        "blendpd"        P66 M0f3a 0x0d W0 Vhwi  Sse41  Avx  Avx;
    // The legacy forms take the mask from xmm0, the VEX forms from a fourth register.
    Blendvps       "blendvps"       P66 M0f38 0x14 W0 Vhw   Sse41  No   No;
    Blendvpd       "blendvpd"       P66 M0f38 0x15 W0 Vhw   Sse41  No   No;
    Pblendvb       "pblendvb"       P66 M0f38 0x10 W0 Vhw   Sse41  No   No;
    Vblendvps      "vblendvps"      P66 M0f3a 0x4a W0 Vhwl  No     Avx  Avx;
    Vblendvpd      "vblendvpd"      P66 M0f3a 0x4b W0 Vhwl  No     Avx  Avx;
    Vpblendvb      "vpblendvb"      P66 M0f3a 0x4c W0 Vhwl  No     Avx  Avx2;

    // integer addition and subtraction
    Paddb          "paddb"          P66 M0f   0xfc W0 Vhw   Sse2   Avx  Avx2;
    Paddw          "paddw"          P66 M0f   0xfd W0 Vhw   Sse2   Avx  Avx2;
    Paddd          "paddd"          P66 M0f   0xfe W0 Vhw   Sse2   Avx  Avx2;
    Paddq          "paddq"          P66 M0f   0xd4 W0 Vhw   Sse2   Avx  Avx2;
    Paddsb         "paddsb"         P66 M0f   0xec W0 Vhw   Sse2   Avx  Avx2;
    Paddsw         "paddsw"         P66 M0f   0xed W0 Vhw   Sse2   Avx  Avx2;
    Paddusb        "paddusb"        P66 M0f   0xdc W0 Vhw   Sse2   Avx  Avx2;
    Paddusw        "paddusw"        P66 M0f   0xdd W0 Vhw   Sse2   Avx  Avx2;
    Psubb          "psubb"          P66 M0f   0xf8 W0 Vhw   Sse2   Avx  Avx2;
    Psubw          "psubw"          P66 M0f   0xf9 W0 Vhw   Sse2   Avx  Avx2;
    Psubd          "psubd"          P66 M0f   0xfa W0 Vhw   Sse2   Avx  Avx2;
    Psubq          "psubq"          P66 M0f   0xfb W0 Vhw   Sse2   Avx  Avx2;
    Psubsb         "psubsb"         P66 M0f   0xe8 W0 Vhw   Sse2   Avx  Avx2;
    Psubsw         "psubsw"         P66 M0f   0xe9 W0 Vhw   Sse2   Avx  Avx2;
    Psubusb        "psubusb"        P66 M0f   0xd8 W0 Vhw   Sse2   Avx  Avx2;
    Psubusw        "psubusw"        P66 M0f   0xd9 W0 Vhw   Sse2   Avx  Avx2;
    Pavgb          "pavgb"          P66 M0f   0xe0 W0 Vhw   Sse2   Avx  Avx2;
    Pavgw          "pavgw"          P66 M0f   0xe3 W0 Vhw   Sse2   Avx  Avx2;
    Psadbw         "psadbw"         P66 M0f   0xf6 W0 Vhw   Sse2   Avx  Avx2;
    Phaddw         "phaddw"         P66 M0f38 0x01 W0 Vhw   Ssse3  Avx  Avx2;
    Phaddd         "phaddd"         P66 M0f38 0x02 W0 Vhw   Ssse3  Avx  Avx2;
    Phaddsw        "phaddsw"        P66 M0f38 0x03 W0 Vhw   Ssse3  Avx  Avx2;
    Phsubw         "phsubw"         P66 M0f38 0x05 W0 Vhw   Ssse3  Avx  Avx2;
    Phsubd         "phsubd"         P66 M0f38 0x06 W0 Vhw   Ssse3  Avx  Avx2;
    Phsubsw        "phsubsw"        P66 M0f38 0x07 W0 Vhw   Ssse3  Avx  Avx2;
    Psignb         "psignb"         P66 M0f38 0x08 W0 Vhw   Ssse3  Avx  Avx2;
    Psignw         "psignw"         P66 M0f38 0x09 W0 Vhw   Ssse3  Avx  Avx2;
    Psignd         "psignd"         P66 M0f38 0x0a W0 Vhw   Ssse3  Avx  Avx2;
    Mpsadbw        "mpsadbw"        P66 M0f3a 0x42 W0 Vhwi  Sse41  Avx  Avx2;

    // integer multiplication
    Pmullw         "pmullw"         P66 M0f   0xd5 W0 Vhw   Sse2   Avx  Avx2;
    Pmulhw         "pmulhw"         P66 M0f   0xe5 W0 Vhw   Sse2   Avx  Avx2;
    Pmulhuw        "pmulhuw"        P66 M0f   0xe4 W0 Vhw   Sse2   Avx  Avx2;
    Pmuludq        "pmuludq"        P66 M0f   0xf4 W0 Vhw   Sse2   Avx  Avx2;
    Pmaddwd        "pmaddwd"        P66 M0f   0xf5 W0 Vhw   Sse2   Avx  Avx2;
    Pmaddubsw      "pmaddubsw"      P66 M0f38 0x04 W0 Vhw   Ssse3  Avx  Avx2;
    Pmulhrsw       "pmulhrsw"       P66 M0f38 0x0b W0 Vhw   Ssse3  Avx  Avx2;
    Pmuldq         "pmuldq"         P66 M0f38 0x28 W0 Vhw   Sse41  Avx  Avx2;
    Pmulld         "pmulld"         P66 M0f38 0x40 W0 Vhw   Sse41  Avx  Avx2;

    // logic
    Pand           "pand"           P66 M0f   0xdb W0 Vhw   Sse2   Avx  Avx2;
    Pandn          "pandn"          P66 M0f   0xdf W0 Vhw   Sse2   Avx  Avx2;
    Por            "por"            P66 M0f   0xeb W0 Vhw   Sse2   Avx  Avx2;
    Pxor           "pxor"           P66 M0f   0xef W0 Vhw   Sse2   Avx  Avx2;
    Ptest          "ptest"          P66 M0f38 0x17 W0 Vw    Sse41  Avx  Avx;

    // integer comparison, minimum, maximum, absolute value
    Pcmpeqb        "pcmpeqb"        P66 M0f   0x74 W0 Vhw   Sse2   Avx  Avx2;
    Pcmpeqw        "pcmpeqw"        P66 M0f   0x75 W0 Vhw   Sse2   Avx  Avx2;
    Pcmpeqd        "pcmpeqd"        P66 M0f   0x76 W0 Vhw   Sse2   Avx  Avx2;
    Pcmpgtb        "pcmpgtb"        P66 M0f   0x64 W0 Vhw   Sse2   Avx  Avx2;
    Pcmpgtw        "pcmpgtw"        P66 M0f   0x65 W0 Vhw   Sse2   Avx  Avx2;
    Pcmpgtd        "pcmpgtd"        P66 M0f   0x66 W0 Vhw   Sse2   Avx  Avx2;
    Pcmpeqq        "pcmpeqq"        P66 M0f38 0x29 W0 Vhw   Sse41  Avx  Avx2;
    Pcmpgtq        "pcmpgtq"        P66 M0f38 0x37 W0 Vhw   Sse42  Avx  Avx2;
    Pminub         "pminub"         P66 M0f   0xda W0 Vhw   Sse2   Avx  Avx2;
    Pmaxub         "pmaxub"         P66 M0f   0xde W0 Vhw   Sse2   Avx  Avx2;
    Pminsw         "pminsw"         P66 M0f   0xea W0 Vhw   Sse2   Avx  Avx2;
    Pmaxsw         "pmaxsw"         P66 M0f   0xee W0 Vhw   Sse2   Avx  Avx2;
    Pminsb         "pminsb"         P66 M0f38 0x38 W0 Vhw   Sse41  Avx  Avx2;
    Pminsd         "pminsd"         P66 M0f38 0x39 W0 Vhw   Sse41  Avx  Avx2;
    Pminuw         "pminuw"         P66 M0f38 0x3a W0 Vhw   Sse41  Avx  Avx2;
    Pminud         "pminud"         P66 M0f38 0x3b W0 Vhw   Sse41  Avx  Avx2;
    Pmaxsb         "pmaxsb"         P66 M0f38 0x3c W0 Vhw   Sse41  Avx  Avx2;
    Pmaxsd         "pmaxsd"         P66 M0f38 0x3d W0 Vhw   Sse41  Avx  Avx2;
    Pmaxuw         "pmaxuw"         P66 M0f38 0x3e W0 Vhw   Sse41  Avx  Avx2;
    Pmaxud         "pmaxud"         P66 M0f38 0x3f W0 Vhw   Sse41  Avx  Avx2;
    Pabsb          "pabsb"          P66 M0f38 0x1c W0 Vw    Ssse3  Avx  Avx2;
    Pabsw          "pabsw"          P66 M0f38 0x1d W0 Vw    Ssse3  Avx  Avx2;
    Pabsd          "pabsd"          P66 M0f38 0x1e W0 Vw    Ssse3  Avx  Avx2;
    Phminposuw     "phminposuw"     P66 M0f38 0x41 W0 Vw    Sse41  Avx  No;

    // shifts: by an xmm count, by an immediate, by element
    Psrlw          "psrlw"          P66 M0f   0xd1 W0 Vhw   Sse2   Avx  Avx2;
    Psrld          "psrld"          P66 M0f   0xd2 W0 Vhw   Sse2   Avx  Avx2;
    Psrlq          "psrlq"          P66 M0f   0xd3 W0 Vhw   Sse2   Avx  Avx2;
    Psraw          "psraw"          P66 M0f   0xe1 W0 Vhw   Sse2   Avx  Avx2;
    Psrad          "psrad"          P66 M0f   0xe2 W0 Vhw   Sse2   Avx  Avx2;
    Psllw          "psllw"          P66 M0f   0xf1 W0 Vhw   Sse2   Avx  Avx2;
    Pslld          "pslld"          P66 M0f   0xf2 W0 Vhw   Sse2   Avx  Avx2;
    Psllq          "psllq"          P66 M0f   0xf3 W0 Vhw   Sse2   Avx  Avx2;
    PsrlwI         "psrlw"          P66 M0f   0x71 W0 Hui2  Sse2   Avx  Avx2;
    PsrawI         "psraw"          P66 M0f   0x71 W0 Hui4  Sse2   Avx  Avx2;
    PsllwI         "psllw"          P66 M0f   0x71 W0 Hui6  Sse2   Avx  Avx2;
    PsrldI         "psrld"          P66 M0f   0x72 W0 Hui2  Sse2   Avx  Avx2;
    PsradI         "psrad"          P66 M0f   0x72 W0 Hui4  Sse2   Avx  Avx2;
    PslldI         "pslld"          P66 M0f   0x72 W0 Hui6  Sse2   Avx  Avx2;
    PsrlqI         "psrlq"          P66 M0f   0x73 W0 Hui2  Sse2   Avx  Avx2;
    PsllqI         "psllq"          P66 M0f   0x73 W0 Hui6  Sse2   Avx  Avx2;
    Psrldq         "psrldq"         P66 M0f   0x73 W0 Hui3  Sse2   Avx  Avx2;
    Pslldq         "pslldq"         P66 M0f   0x73 W0 Hui7  Sse2   Avx  Avx2;
    Vpsrlvd        "vpsrlvd"        P66 M0f38 0x45 W0 Vhw   No     Avx2 Avx2;
    Vpsrlvq        "vpsrlvq"        P66 M0f38 0x45 W1 Vhw   No     Avx2 Avx2;
    Vpsllvd        "vpsllvd"        P66 M0f38 0x47 W0 Vhw   No     Avx2 Avx2;
    Vpsllvq        "vpsllvq"        P66 M0f38 0x47 W1 Vhw   No     Avx2 Avx2;
    Vpsravd        "vpsravd"        P66 M0f38 0x46 W0 Vhw   No     Avx2 Avx2;

    // packing, unpacking, widening
    Packsswb       "packsswb"       P66 M0f   0x63 W0 Vhw   Sse2   Avx  Avx2;
    Packssdw       "packssdw"       P66 M0f   0x6b W0 Vhw   Sse2   Avx  Avx2;
    Packuswb       "packuswb"       P66 M0f   0x67 W0 Vhw   Sse2   Avx  Avx2;
    Punpcklbw      "punpcklbw"      P66 M0f   0x60 W0 Vhw   Sse2   Avx  Avx2;
    Punpcklwd      "punpcklwd"      P66 M0f   0x61 W0 Vhw   Sse2   Avx  Avx2;
    Punpckldq      "punpckldq"      P66 M0f   0x62 W0 Vhw   Sse2   Avx  Avx2;
    Punpcklqdq     "punpcklqdq"     P66 M0f   0x6c W0 Vhw   Sse2   Avx  Avx2;
    Punpckhbw      "punpckhbw"      P66 M0f   0x68 W0 Vhw   Sse2   Avx  Avx2;
    Punpckhwd      "punpckhwd"      P66 M0f   0x69 W0 Vhw   Sse2   Avx  Avx2;
    Punpckhdq      "punpckhdq"      P66 M0f   0x6a W0 Vhw   Sse2   Avx  Avx2;
    Punpckhqdq     "punpckhqdq"     P66 M0f   0x6d W0 Vhw   Sse2   Avx  Avx2;
    Packusdw       "packusdw"       P66 M0f38 0x2b W0 Vhw   Sse41  Avx  Avx2;
    Pmovsxbw       "pmovsxbw"       P66 M0f38 0x20 W0 Vw    Sse41  Avx  Avx2;
    Pmovzxbw       "pmovzxbw"       P66 M0f38 0x30 W0 Vw    Sse41  Avx  Avx2;
    Pmovsxbd       "pmovsxbd"       P66 M0f38 0x21 W0 Vw    Sse41  Avx  Avx2;
    Pmovzxbd       "pmovzxbd"       P66 M0f38 0x31 W0 Vw    Sse41  Avx  Avx2;
    Pmovsxbq       "pmovsxbq"       P66 M0f38 0x22 W0 Vw    Sse41  Avx  Avx2;
    Pmovzxbq       "pmovzxbq"       P66 M0f38 0x32 W0 Vw    Sse41  Avx  Avx2;
    Pmovsxwd       "pmovsxwd"       P66 M0f38 0x23 W0 Vw    Sse41  Avx  Avx2;
    Pmovzxwd       "pmovzxwd"       P66 M0f38 0x33 W0 Vw    Sse41  Avx  Avx2;
    Pmovsxwq       "pmovsxwq"       P66 M0f38 0x24 W0 Vw    Sse41  Avx  Avx2;
    Pmovzxwq       "pmovzxwq"       P66 M0f38 0x34 W0 Vw    Sse41  Avx  Avx2;
    Pmovsxdq       "pmovsxdq"       P66 M0f38 0x25 W0 Vw    Sse41  Avx  Avx2;
    Pmovzxdq       "pmovzxdq"       P66 M0f38 0x35 W0 Vw    Sse41  Avx  Avx2;

    // integer shuffles
    Pshufb         "pshufb"         P66 M0f38 0x00 W0 Vhw   Ssse3  Avx  Avx2;
    Pshufd         "pshufd"         P66 M0f   0x70 W0 Vwi   Sse2   Avx  Avx2;
    Pshufhw        "pshufhw"        Pf3 M0f   0x70 W0 Vwi   Sse2   Avx  Avx2;
    Pshuflw        "pshuflw"        Pf2 M0f   0x70 W0 Vwi   Sse2   Avx  Avx2;
    Palignr        "palignr"        P66 M0f3a 0x0f W0 Vhwi  Ssse3  Avx  Avx2;
    Pblendw        "pblendw"        P66 M0f3a 0x0e W0 Vhwi  Sse41  Avx  Avx2;
    Vpblendd       "vpblendd"       P66 M0f3a 0x02 W0 Vhwi  No     Avx2 Avx2;

    // lanes and broadcasts of AVX and AVX2
    Vbroadcastss   "vbroadcastss"   P66 M0f38 0x18 W0 Vw    No     Avx2 Avx2;
    Vbroadcastsd   "vbroadcastsd"   P66 M0f38 0x19 W0 Vw    No     No   Avx2;
    Vbroadcastf128 "vbroadcastf128" P66 M0f38 0x1a W0 Vm    No     No   Avx;
    Vbroadcasti128 "vbroadcasti128" P66 M0f38 0x5a W0 Vm    No     No   Avx2;
    Vpbroadcastb   "vpbroadcastb"   P66 M0f38 0x78 W0 Vw    No     Avx2 Avx2;
    Vpbroadcastw   "vpbroadcastw"   P66 M0f38 0x79 W0 Vw    No     Avx2 Avx2;
    Vpbroadcastd   "vpbroadcastd"   P66 M0f38 0x58 W0 Vw    No     Avx2 Avx2;
    Vpbroadcastq   "vpbroadcastq"   P66 M0f38 0x59 W0 Vw    No     Avx2 Avx2;
    Vpermq         "vpermq"         P66 M0f3a 0x00 W1 Vwi   No     No   Avx2;
    Vpermpd        "vpermpd"        P66 M0f3a 0x01 W1 Vwi   No     No   Avx2;
    Vpermd         "vpermd"         P66 M0f38 0x36 W0 Vhw   No     No   Avx2;
    Vpermps        "vpermps"        P66 M0f38 0x16 W0 Vhw   No     No   Avx2;
    Vpermilps      "vpermilps"      P66 M0f3a 0x04 W0 Vwi   No     Avx  Avx;
    Vpermilpd      "vpermilpd"      P66 M0f3a 0x05 W0 Vwi   No     Avx  Avx;
    Vperm2f128     "vperm2f128"     P66 M0f3a 0x06 W0 Vhwi  No     No   Avx;
    Vperm2i128     "vperm2i128"     P66 M0f3a 0x46 W0 Vhwi  No     No   Avx2;
    Vinsertf128    "vinsertf128"    P66 M0f3a 0x18 W0 Vhwi  No     No   Avx;
    Vinserti128    "vinserti128"    P66 M0f3a 0x38 W0 Vhwi  No     No   Avx2;
    Vextractf128   "vextractf128"   P66 M0f3a 0x19 W0 Wvi   No     No   Avx;
    Vextracti128   "vextracti128"   P66 M0f3a 0x39 W0 Wvi   No     No   Avx2;

    // cryptography
    Aesimc         "aesimc"         P66 M0f38 0xdb W0 Vw    Aes    Avx  No;
    Aesenc         "aesenc"         P66 M0f38 0xdc W0 Vhw   Aes    Avx  No;
    Aesenclast     "aesenclast"     P66 M0f38 0xdd W0 Vhw   Aes    Avx  No;
    Aesdec         "aesdec"         P66 M0f38 0xde W0 Vhw   Aes    Avx  No;
    Aesdeclast     "aesdeclast"     P66 M0f38 0xdf W0 Vhw   Aes    Avx  No;
    Aeskeygenassist "aeskeygenassist" P66 M0f3a 0xdf W0 Vwi   Aes    Avx  No;
    Pclmulqdq      "pclmulqdq"      P66 M0f3a 0x44 W0 Vhwi  Pclmul Avx  No;
    Sha1nexte      "sha1nexte"      Np  M0f38 0xc8 W0 Vhw   Sha    No   No;
    Sha1msg1       "sha1msg1"       Np  M0f38 0xc9 W0 Vhw   Sha    No   No;
    Sha1msg2       "sha1msg2"       Np  M0f38 0xca W0 Vhw   Sha    No   No;
    Sha256rnds2    "sha256rnds2"    Np  M0f38 0xcb W0 Vhw   Sha    No   No;
    Sha256msg1     "sha256msg1"     Np  M0f38 0xcc W0 Vhw   Sha    No   No;
    Sha256msg2     "sha256msg2"     Np  M0f38 0xcd W0 Vhw   Sha    No   No;
    Sha1rnds4      "sha1rnds4"      Np  M0f3a 0xcc W0 Vhwi  Sha    No   No;

    // fused multiply-add: 132 is a*c+b, 213 is b*a+c, 231 is b*c+a (a destination, c ModR/M.rm)
    Vfmaddsub132ps "vfmaddsub132ps" P66 M0f38 0x96 W0 Vhw   No     Fma  Fma;
    Vfmaddsub132pd "vfmaddsub132pd" P66 M0f38 0x96 W1 Vhw   No     Fma  Fma;
    Vfmsubadd132ps "vfmsubadd132ps" P66 M0f38 0x97 W0 Vhw   No     Fma  Fma;
    Vfmsubadd132pd "vfmsubadd132pd" P66 M0f38 0x97 W1 Vhw   No     Fma  Fma;
    Vfmadd132ps    "vfmadd132ps"    P66 M0f38 0x98 W0 Vhw   No     Fma  Fma;
    Vfmadd132pd    "vfmadd132pd"    P66 M0f38 0x98 W1 Vhw   No     Fma  Fma;
    Vfmadd132ss    "vfmadd132ss"    P66 M0f38 0x99 W0 Vhw   No     Fma  No;
    Vfmadd132sd    "vfmadd132sd"    P66 M0f38 0x99 W1 Vhw   No     Fma  No;
    Vfmsub132ps    "vfmsub132ps"    P66 M0f38 0x9a W0 Vhw   No     Fma  Fma;
    Vfmsub132pd    "vfmsub132pd"    P66 M0f38 0x9a W1 Vhw   No     Fma  Fma;
    Vfmsub132ss    "vfmsub132ss"    P66 M0f38 0x9b W0 Vhw   No     Fma  No;
    Vfmsub132sd    "vfmsub132sd"    P66 M0f38 0x9b W1 Vhw   No     Fma  No;
    Vfnmadd132ps   "vfnmadd132ps"   P66 M0f38 0x9c W0 Vhw   No     Fma  Fma;
    Vfnmadd132pd   "vfnmadd132pd"   P66 M0f38 0x9c W1 Vhw   No     Fma  Fma;
    Vfnmadd132ss   "vfnmadd132ss"   P66 M0f38 0x9d W0 Vhw   No     Fma  No;
    Vfnmadd132sd   "vfnmadd132sd"   P66 M0f38 0x9d W1 Vhw   No     Fma  No;
    Vfnmsub132ps   "vfnmsub132ps"   P66 M0f38 0x9e W0 Vhw   No     Fma  Fma;
    Vfnmsub132pd   "vfnmsub132pd"   P66 M0f38 0x9e W1 Vhw   No     Fma  Fma;
    Vfnmsub132ss   "vfnmsub132ss"   P66 M0f38 0x9f W0 Vhw   No     Fma  No;
    Vfnmsub132sd   "vfnmsub132sd"   P66 M0f38 0x9f W1 Vhw   No     Fma  No;
    Vfmaddsub213ps "vfmaddsub213ps" P66 M0f38 0xa6 W0 Vhw   No     Fma  Fma;
    Vfmaddsub213pd "vfmaddsub213pd" P66 M0f38 0xa6 W1 Vhw   No     Fma  Fma;
    Vfmsubadd213ps "vfmsubadd213ps" P66 M0f38 0xa7 W0 Vhw   No     Fma  Fma;
    Vfmsubadd213pd "vfmsubadd213pd" P66 M0f38 0xa7 W1 Vhw   No     Fma  Fma;
    Vfmadd213ps    "vfmadd213ps"    P66 M0f38 0xa8 W0 Vhw   No     Fma  Fma;
    Vfmadd213pd    "vfmadd213pd"    P66 M0f38 0xa8 W1 Vhw   No     Fma  Fma;
    Vfmadd213ss    "vfmadd213ss"    P66 M0f38 0xa9 W0 Vhw   No     Fma  No;
    Vfmadd213sd    "vfmadd213sd"    P66 M0f38 0xa9 W1 Vhw   No     Fma  No;
    Vfmsub213ps    "vfmsub213ps"    P66 M0f38 0xaa W0 Vhw   No     Fma  Fma;
    Vfmsub213pd    "vfmsub213pd"    P66 M0f38 0xaa W1 Vhw   No     Fma  Fma;
    Vfmsub213ss    "vfmsub213ss"    P66 M0f38 0xab W0 Vhw   No     Fma  No;
    Vfmsub213sd    "vfmsub213sd"    P66 M0f38 0xab W1 Vhw   No     Fma  No;
    Vfnmadd213ps   "vfnmadd213ps"   P66 M0f38 0xac W0 Vhw   No     Fma  Fma;
    Vfnmadd213pd   "vfnmadd213pd"   P66 M0f38 0xac W1 Vhw   No     Fma  Fma;
    Vfnmadd213ss   "vfnmadd213ss"   P66 M0f38 0xad W0 Vhw   No     Fma  No;
    Vfnmadd213sd   "vfnmadd213sd"   P66 M0f38 0xad W1 Vhw   No     Fma  No;
    Vfnmsub213ps   "vfnmsub213ps"   P66 M0f38 0xae W0 Vhw   No     Fma  Fma;
    Vfnmsub213pd   "vfnmsub213pd"   P66 M0f38 0xae W1 Vhw   No     Fma  Fma;
    Vfnmsub213ss   "vfnmsub213ss"   P66 M0f38 0xaf W0 Vhw   No     Fma  No;
    Vfnmsub213sd   "vfnmsub213sd"   P66 M0f38 0xaf W1 Vhw   No     Fma  No;
    Vfmaddsub231ps "vfmaddsub231ps" P66 M0f38 0xb6 W0 Vhw   No     Fma  Fma;
    Vfmaddsub231pd "vfmaddsub231pd" P66 M0f38 0xb6 W1 Vhw   No     Fma  Fma;
    Vfmsubadd231ps "vfmsubadd231ps" P66 M0f38 0xb7 W0 Vhw   No     Fma  Fma;
    Vfmsubadd231pd "vfmsubadd231pd" P66 M0f38 0xb7 W1 Vhw   No     Fma  Fma;
    Vfmadd231ps    "vfmadd231ps"    P66 M0f38 0xb8 W0 Vhw   No     Fma  Fma;
    Vfmadd231pd    "vfmadd231pd"    P66 M0f38 0xb8 W1 Vhw   No     Fma  Fma;
    Vfmadd231ss    "vfmadd231ss"    P66 M0f38 0xb9 W0 Vhw   No     Fma  No;
    Vfmadd231sd    "vfmadd231sd"    P66 M0f38 0xb9 W1 Vhw   No     Fma  No;
    Vfmsub231ps    "vfmsub231ps"    P66 M0f38 0xba W0 Vhw   No     Fma  Fma;
    Vfmsub231pd    "vfmsub231pd"    P66 M0f38 0xba W1 Vhw   No     Fma  Fma;
    Vfmsub231ss    "vfmsub231ss"    P66 M0f38 0xbb W0 Vhw   No     Fma  No;
    Vfmsub231sd    "vfmsub231sd"    P66 M0f38 0xbb W1 Vhw   No     Fma  No;
    Vfnmadd231ps   "vfnmadd231ps"   P66 M0f38 0xbc W0 Vhw   No     Fma  Fma;
    Vfnmadd231pd   "vfnmadd231pd"   P66 M0f38 0xbc W1 Vhw   No     Fma  Fma;
    Vfnmadd231ss   "vfnmadd231ss"   P66 M0f38 0xbd W0 Vhw   No     Fma  No;
    Vfnmadd231sd   "vfnmadd231sd"   P66 M0f38 0xbd W1 Vhw   No     Fma  No;
    Vfnmsub231ps   "vfnmsub231ps"   P66 M0f38 0xbe W0 Vhw   No     Fma  Fma;
    Vfnmsub231pd   "vfnmsub231pd"   P66 M0f38 0xbe W1 Vhw   No     Fma  Fma;
    Vfnmsub231ss   "vfnmsub231ss"   P66 M0f38 0xbf W0 Vhw   No     Fma  No;
    Vfnmsub231sd   "vfnmsub231sd"   P66 M0f38 0xbf W1 Vhw   No     Fma  No;
}
