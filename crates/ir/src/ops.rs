//! The table of IR operations: names, operands, result, properties and a total definition of each.
//!
//! This is the only place that says what an operation is; everything else (verifier, text form, passes, interpreter,
//! lowering) derives from a row or matches exhaustively. Operand columns: `v` a value, `i` an immediate, `-` unused.
//! No operation has undefined behaviour: shift amounts are taken modulo the width, division by zero yields zero
//! (remainder: the dividend), and `MIN / -1` yields `MIN` (remainder zero).

/// What an operand column holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    None,
    Value,
    Imm,
}

/// Type of an operation's result, relative to the instruction's own type `ty`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gives {
    Nothing,
    /// The instruction's `ty`.
    Same,
    I32,
    I64,
    V128,
    Flags,
}

/// May be removed when unused and computed again elsewhere.
pub const PURE: u8 = 1;
/// The first two operands may be exchanged.
pub const COMMUTES: u8 = 2;
/// May leave the region with a fault, before any of its effects.
pub const MAY_FAULT: u8 = 4;
/// Nothing after it in the region executes.
pub const ENDS_REGION: u8 = 8;
/// May leave the region; everything set so far must be in the guest state.
pub const MAY_LEAVE: u8 = 16;
/// Reads guest state other than by `get`.
pub const READS_STATE: u8 = 32;
/// Writes guest state other than by `set`.
pub const WRITES_STATE: u8 = 64;
/// Clobbers nothing, emits nothing: a marker.
pub const MARKER: u8 = 128;

/// What the table says of an operation.
pub struct OpInfo {
    pub name: &'static str,
    pub operands: [Operand; 3],
    pub gives: Gives,
    pub props: u8,
    /// Bit n: operand n is a value.
    pub values: u8,
}

const fn value_bits(operands: [Operand; 3]) -> u8 {
    let mut bits = 0;
    let mut n = 0;
    while n < 3 {
        if matches!(operands[n], Operand::Value) {
            bits |= 1 << n;
        }
        n += 1;
    }
    bits
}

macro_rules! operand {
    (v) => {
        Operand::Value
    };
    (i) => {
        Operand::Imm
    };
    (-) => {
        Operand::None
    };
}

macro_rules! ops {
    ($($(#[doc = $doc:literal])* $op:ident $name:literal ($a:tt $b:tt $c:tt) $gives:ident $($props:expr)?;)*) => {
        /// An IR operation. Each variant's documentation is its definition.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum Op { $($(#[doc = $doc])* $op),* }

        static INFO: &[OpInfo] = &[$(OpInfo {
            name: $name,
            operands: [operand!($a), operand!($b), operand!($c)],
            gives: Gives::$gives,
            props: 0 $(| $props)?,
            values: value_bits([operand!($a), operand!($b), operand!($c)]),
        }),*];

        impl Op {
            pub const ALL: &'static [Op] = &[$(Op::$op),*];

            /// Definition, as documented in the table.
            pub fn doc(self) -> &'static str {
                match self { $(Op::$op => concat!($($doc),*)),* }
            }
        }
    };
}

ops! {
    // ---- constants and guest state -------------------------------------------------------------------------------
    /// Integer constant `b | c << 32`.
    Const "const" (- i i) Same PURE;
    /// 128-bit constant number `a` of the region.
    VConst "vconst" (i - -) V128 PURE;
    /// Guest state: `aux` bytes at offset `a`, zero-extended to `ty`.
    Get "get" (i - -) Same PURE;
    /// Guest state: the low `aux` bytes of `b` to offset `a`.
    Set "set" (i v -) Nothing;

    // ---- integers (ty = I32 or I64) ------------------------------------------------------------------------------
    /// a + b.
    Add "add" (v v -) Same PURE | COMMUTES;
    /// a - b.
    Sub "sub" (v v -) Same PURE;
    /// Low half of a * b.
    Mul "mul" (v v -) Same PURE | COMMUTES;
    /// High half of the unsigned product.
    MulHiU "mulhu" (v v -) Same PURE | COMMUTES;
    /// High half of the signed product.
    MulHiS "mulhs" (v v -) Same PURE | COMMUTES;
    /// Unsigned quotient; by zero gives 0.
    UDiv "udiv" (v v -) Same PURE;
    /// Signed quotient, towards zero; by zero gives 0, MIN / -1 gives MIN.
    SDiv "sdiv" (v v -) Same PURE;
    /// Unsigned remainder; by zero gives a.
    URem "urem" (v v -) Same PURE;
    /// Signed remainder, sign of a; by zero gives a, MIN % -1 gives 0.
    SRem "srem" (v v -) Same PURE;
    /// Bitwise and.
    And "and" (v v -) Same PURE | COMMUTES;
    /// Bitwise or.
    Or "or" (v v -) Same PURE | COMMUTES;
    /// Bitwise exclusive or.
    Xor "xor" (v v -) Same PURE | COMMUTES;
    /// a and not b.
    AndNot "andn" (v v -) Same PURE;
    /// a << (b mod width).
    Shl "shl" (v v -) Same PURE;
    /// Logical a >> (b mod width).
    Shr "shr" (v v -) Same PURE;
    /// Arithmetic a >> (b mod width).
    Sar "sar" (v v -) Same PURE;
    /// a rotated right by (b mod width).
    Ror "ror" (v v -) Same PURE;
    /// Bitwise not.
    Not "not" (v - -) Same PURE;
    /// 0 - a.
    Neg "neg" (v - -) Same PURE;
    /// Leading zero bits; width for 0.
    Clz "clz" (v - -) Same PURE;
    /// Trailing zero bits; width for 0.
    Ctz "ctz" (v - -) Same PURE;
    /// Number of set bits.
    Popcnt "popcnt" (v - -) Same PURE;
    /// Bytes reversed.
    Bswap "bswap" (v - -) Same PURE;
    /// Bytes reversed within each halfword.
    Bswap16 "bswap16" (v - -) Same PURE;
    /// Bits reversed.
    Rbit "rbit" (v - -) Same PURE;
    /// Low 8 bits, zero-extended.
    Zext8 "zext8" (v - -) Same PURE;
    /// Low 16 bits, zero-extended.
    Zext16 "zext16" (v - -) Same PURE;
    /// Low 8 bits, sign-extended.
    Sext8 "sext8" (v - -) Same PURE;
    /// Low 16 bits, sign-extended.
    Sext16 "sext16" (v - -) Same PURE;
    /// I32 to I64, zero-extended.
    Zext32 "zext32" (v - -) I64 PURE;
    /// I32 to I64, sign-extended.
    Sext32 "sext32" (v - -) I64 PURE;
    /// Low half of an I64.
    Trunc "trunc" (v - -) I32 PURE;
    /// High half of an I64.
    High "high" (v - -) I32 PURE;
    /// I64 from low half a (I32) and high half b (I32).
    Concat "concat" (v v -) I64 PURE;
    /// Bits of a from lsb `b & 0xff`, `b >> 8` of them (1 to width), zero-extended.
    Ubfx "ubfx" (v i -) Same PURE;
    /// As ubfx, sign-extended.
    Sbfx "sbfx" (v i -) Same PURE;
    /// a with the field (lsb `c & 0xff`, length `c >> 8`) replaced by the low bits of b.
    Deposit "deposit" (v v i) Same PURE;
    /// a + b + C of the flags c.
    Adc "adc" (v v v) Same PURE;
    /// a - b - C of the flags c.
    Sbb "sbb" (v v v) Same PURE;
    /// 1 if the integer comparison `aux` (see `Cmp`) of a and b (of type `ty`) holds, else 0.
    Icmp "icmp" (v v -) I32 PURE;
    /// b if a (I32) is not zero, else c.
    Select "select" (v v v) Same PURE;
    /// b if condition `aux` (see `Cc`) holds in the flags a, else c.
    SelectCc "selectcc" (v v v) Same PURE;
    /// 1 if condition `aux` holds in the flags a, else 0.
    CcBit "cc" (v - -) I32 PURE;

    // ---- flags: N Z C V, and A (half carry) P (even parity of the low byte) for x86 -------------------------------
    /// Flags of a + b in `aux` bits (8, 16, 32, 64).
    FAdd "fadd" (v v -) Flags PURE | COMMUTES;
    /// Flags of a - b in `aux` bits; C is the borrow.
    FSub "fsub" (v v -) Flags PURE;
    /// Flags of a + b + C(c).
    FAdc "fadc" (v v v) Flags PURE;
    /// Flags of a - b - C(c); C is the borrow.
    FSbb "fsbb" (v v v) Flags PURE;
    /// N, Z and P of a in `aux` bits; C, V and A are 0.
    FLogic "flogic" (v - -) Flags PURE;
    /// The flags a with C inverted.
    FInvC "finvc" (v - -) Flags PURE;
    /// The flags a with C replaced by bit 0 of b (I32).
    FSetC "fsetc" (v v -) Flags PURE;
    /// Flags a where the mask c (in the layout of `fword`) is 1, flags b elsewhere.
    FMerge "fmerge" (v v i) Flags PURE;
    /// Flags as a word: N bit 15, Z bit 14, A bit 12, P bit 10, C bit 8, V bit 0; other bits 0.
    FWord "fword" (v - -) I32 PURE;
    /// Flags from such a word; other bits are ignored.
    FMake "fmake" (v - -) Flags PURE;

    // ---- memory: aux is a MemOp, fl the translation regime (0 in user mode) ---------------------------------------
    /// Load from a + sign-extended b, in the width of a's type.
    Ld "ld" (v i -) Same MAY_FAULT;
    /// Store c to a + sign-extended b.
    St "st" (v i v) Nothing MAY_FAULT;
    /// Load and open the exclusive monitor for a.
    LdEx "ldex" (v - -) Same MAY_FAULT | WRITES_STATE;
    /// Store b to a if the monitor is open for a: 0 done, 1 not done; closes the monitor. A value c says that `ldex` of a
    /// gave it and that nothing but computation lies between: then it suffices to compare memory with c.
    StEx "stex" (v v v) I32 MAY_FAULT | WRITES_STATE;
    /// Close the exclusive monitor.
    ClrEx "clrex" (- - -) Nothing WRITES_STATE;
    /// Atomic compare-and-swap at a: if memory equals b store c; gives the old memory.
    Cas "cas" (v v v) Same MAY_FAULT;
    /// Atomic read-modify-write at a with b, operation `c` (see `Rmw`); gives the old memory.
    RmwOp "rmw" (v v i) Same MAY_FAULT;
    /// Full memory barrier (all kinds order all accesses; `aux` 1: store-store or load-load only, free on TSO hosts).
    Fence "fence" (- - -) Nothing;

    // ---- vectors: 128 bits, lanes of 8 << aux bits ----------------------------------------------------------------
    /// Lane-wise a + b.
    VAdd "vadd" (v v -) V128 PURE | COMMUTES;
    /// Lane-wise a - b.
    VSub "vsub" (v v -) V128 PURE;
    /// Lane-wise low half of a * b.
    VMul "vmul" (v v -) V128 PURE | COMMUTES;
    /// Bitwise and.
    VAnd "vand" (v v -) V128 PURE | COMMUTES;
    /// Bitwise or.
    VOr "vor" (v v -) V128 PURE | COMMUTES;
    /// Bitwise exclusive or.
    VXor "vxor" (v v -) V128 PURE | COMMUTES;
    /// a and not b.
    VAndNot "vandn" (v v -) V128 PURE;
    /// Bitwise: (a & b) | (!a & c).
    VSel "vsel" (v v v) V128 PURE;
    /// Lane-wise 0 - a.
    VNeg "vneg" (v - -) V128 PURE;
    /// Lane-wise absolute value (MIN stays MIN).
    VAbs "vabs" (v - -) V128 PURE;
    /// Lane-wise a << b; b >= width gives 0.
    VShlI "vshli" (v i -) V128 PURE;
    /// Lane-wise logical a >> b; b >= width gives 0.
    VShrI "vshri" (v i -) V128 PURE;
    /// Lane-wise arithmetic a >> b; b >= width gives the sign.
    VSarI "vsari" (v i -) V128 PURE;
    /// Lane-wise shift of a by the signed low byte of each lane of b: left if positive, logical right if negative.
    VShlU "vshlu" (v v -) V128 PURE;
    /// As vshlu with arithmetic right shifts.
    VShlS "vshls" (v v -) V128 PURE;
    /// All ones where a == b.
    VCmpEq "vcmpeq" (v v -) V128 PURE | COMMUTES;
    /// All ones where a > b, signed.
    VCmpGtS "vcmpgts" (v v -) V128 PURE;
    /// All ones where a > b, unsigned.
    VCmpGtU "vcmpgtu" (v v -) V128 PURE;
    /// Lane-wise signed minimum.
    VMinS "vmins" (v v -) V128 PURE | COMMUTES;
    /// Lane-wise unsigned minimum.
    VMinU "vminu" (v v -) V128 PURE | COMMUTES;
    /// Lane-wise signed maximum.
    VMaxS "vmaxs" (v v -) V128 PURE | COMMUTES;
    /// Lane-wise unsigned maximum.
    VMaxU "vmaxu" (v v -) V128 PURE | COMMUTES;
    /// Lane-wise signed saturating a + b.
    VAddSatS "vaddss" (v v -) V128 PURE | COMMUTES;
    /// Lane-wise unsigned saturating a + b.
    VAddSatU "vaddsu" (v v -) V128 PURE | COMMUTES;
    /// Lane-wise signed saturating a - b.
    VSubSatS "vsubss" (v v -) V128 PURE;
    /// Lane-wise unsigned saturating a - b.
    VSubSatU "vsubsu" (v v -) V128 PURE;
    /// Lane-wise (a + b + 1) >> 1, unsigned, without overflow.
    VAvgU "vavgu" (v v -) V128 PURE | COMMUTES;
    /// Number of set bits of each byte.
    VPopcnt "vpopcnt" (v - -) V128 PURE;
    /// Every lane = the low bits of the integer a (I32, or I64 for 64-bit lanes; `ty` is a's type).
    VDup "vdup" (v - -) V128 PURE;
    /// Every lane = lane b of a.
    VDupLane "vduplane" (v i -) V128 PURE;
    /// a with lane c replaced by the low bits of the integer b (`ty` is b's type).
    VInsert "vinsert" (v v i) V128 PURE;
    /// Lane b of a, zero-extended to `ty` (I32, or I64 for 64-bit lanes).
    VExtract "vextract" (v i -) Same PURE;
    /// Lanes a0 b0 a1 b1 … of the low halves.
    VZip1 "vzip1" (v v -) V128 PURE;
    /// Lanes a, b interleaved from the high halves.
    VZip2 "vzip2" (v v -) V128 PURE;
    /// Even lanes of a, then even lanes of b.
    VUzp1 "vuzp1" (v v -) V128 PURE;
    /// Odd lanes of a, then odd lanes of b.
    VUzp2 "vuzp2" (v v -) V128 PURE;
    /// Even lanes: a0 b0 a2 b2 ….
    VTrn1 "vtrn1" (v v -) V128 PURE;
    /// Odd lanes: a1 b1 a3 b3 ….
    VTrn2 "vtrn2" (v v -) V128 PURE;
    /// Bytes c to c + 15 of the 32 bytes (a, b).
    VExt "vext" (v v i) V128 PURE;
    /// Byte look-up: a[b[i]] if b[i] < 16, else 0.
    VTbl "vtbl" (v v -) V128 PURE;
    /// Lanes of 8 << aux bits reversed within each group of 8 << b bits.
    VRev "vrev" (v i -) V128 PURE;
    /// The low 8 bytes of a, upper half zero.
    VLow "vlow" (v - -) V128 PURE;
    /// The high 8 bytes of a moved to the low half, upper half zero.
    VHigh "vhigh" (v - -) V128 PURE;
    /// Low half of a, low half of b above it.
    VConcat "vconcat" (v v -) V128 PURE;
    /// The low half's lanes (8 << aux bits) sign-extended to double width.
    VWidenS "vwidens" (v - -) V128 PURE;
    /// The low half's lanes zero-extended to double width.
    VWidenU "vwidenu" (v - -) V128 PURE;
    /// Lanes (8 << aux bits) truncated to half width in the low half, upper half zero.
    VNarrow "vnarrow" (v - -) V128 PURE;
    /// As vnarrow with signed saturation of signed lanes.
    VNarrowSS "vnarrowss" (v - -) V128 PURE;
    /// As vnarrow with unsigned saturation of signed lanes.
    VNarrowSU "vnarrowsu" (v - -) V128 PURE;
    /// As vnarrow with unsigned saturation of unsigned lanes.
    VNarrowUU "vnarrowuu" (v - -) V128 PURE;
    /// Double-width signed products of the low half's lanes (8 << aux bits).
    VMulWideS "vmulws" (v v -) V128 PURE | COMMUTES;
    /// Double-width unsigned products of the low half's lanes.
    VMulWideU "vmulwu" (v v -) V128 PURE | COMMUTES;
    /// Sums of adjacent lanes of a, then of b.
    VPairAdd "vpadd" (v v -) V128 PURE;

    // ---- floating point: aux is an FpFmt, fl an FpMode; scalars in lane 0 with a zero rest. Exceptions accumulate ---
    /// a + b.
    FpAdd "fpadd" (v v -) V128 READS_STATE;
    /// a - b.
    FpSub "fpsub" (v v -) V128 READS_STATE;
    /// a * b.
    FpMul "fpmul" (v v -) V128 READS_STATE;
    /// a / b.
    FpDiv "fpdiv" (v v -) V128 READS_STATE;
    /// Square root.
    FpSqrt "fpsqrt" (v - -) V128 READS_STATE;
    /// a * b + c with one rounding.
    FpFma "fpfma" (v v v) V128 READS_STATE;
    /// Minimum, NaN if either is NaN (Arm FPMin).
    FpMin "fpmin" (v v -) V128 READS_STATE;
    /// Maximum, NaN if either is NaN (Arm FPMax).
    FpMax "fpmax" (v v -) V128 READS_STATE;
    /// IEEE 754-2008 minNum.
    FpMinNum "fpminnm" (v v -) V128 READS_STATE;
    /// IEEE 754-2008 maxNum.
    FpMaxNum "fpmaxnm" (v v -) V128 READS_STATE;
    /// Sign inverted (no exception).
    FpNeg "fpneg" (v - -) V128 PURE;
    /// Sign cleared (no exception).
    FpAbs "fpabs" (v - -) V128 PURE;
    /// Scalar comparison as a flags word: less N and C, equal Z, greater none, unordered V, in the layout of `fword`
    /// (so C is "less", a borrow). c: 1 raises INVALID for quiet NaNs too.
    FpCmp "fpcmp" (v v i) I32 READS_STATE;
    /// Lane masks: all ones where the relation c (0 equal, 1 a >= b, 2 a > b) holds.
    FpCmpMask "fpcmpmask" (v v i) V128 READS_STATE;
    /// Rounded to an integral value; b: 1 raises INEXACT.
    FpRint "fprint" (v i -) V128 READS_STATE;
    /// To the format b (an FpFmt; f16, f32, f64), scalar only.
    FpCvt "fpcvt" (v i -) V128 READS_STATE;
    /// To integer: b = signed (bit 0) | log2 bytes of the integer (bits 1-2) | fraction bits (bits 8-15); saturates by
    /// the mode's NaN rule. Vector form: the same lane size.
    FpToInt "fptoint" (v i -) V128 READS_STATE;
    /// From integer: b as in fptoint; aux is the result's format.
    FpFromInt "fpfromint" (v i -) V128 READS_STATE;
    /// Arm reciprocal estimate.
    FpRecipEst "fprecpe" (v - -) V128 READS_STATE;
    /// Arm reciprocal square root estimate.
    FpRsqrtEst "fprsqrte" (v - -) V128 READS_STATE;
    /// Arm A32 VRECPS: 2 - a * b, each step rounded.
    FpRecipStep "fprecps" (v v -) V128 READS_STATE;
    /// Arm A32 VRSQRTS: (3 - a * b) / 2, each step rounded.
    FpRsqrtStep "fprsqrts" (v v -) V128 READS_STATE;
    /// The accumulated exception flags (softfloat::Flags layout).
    FpFlagsGet "fpflagsget" (- - -) I32 READS_STATE;
    /// Replaces the accumulated exception flags.
    FpFlagsSet "fpflagsset" (v - -) Nothing WRITES_STATE;

    // ---- helpers: number `aux | fl << 8` of the guest's helper table -------------------------------------------------
    /// Integer helper: (a, b, c) zero-extended to 64 bits; the result is truncated to `ty`.
    Call "call" (v v v) Same READS_STATE | WRITES_STATE;
    /// Vector helper: (a, b, c).
    VCall "vcall" (v v v) V128 READS_STATE | WRITES_STATE;

    // ---- control -----------------------------------------------------------------------------------------------------
    /// Start of a guest instruction: pc = region pc + a; b is the front end's own note.
    Insn "insn" (i i -) Nothing MARKER;
    /// Leave to exit b.
    Exit "exit" (- i -) Nothing ENDS_REGION | MAY_LEAVE;
    /// Leave to exit b if condition `aux` holds in the flags a.
    ExitCc "exitcc" (v i -) Nothing MAY_LEAVE;
    /// Leave to exit b if a (I32) is not zero.
    ExitNz "exitnz" (v i -) Nothing MAY_LEAVE;
    /// Leave to exit b if a (I32) is zero.
    ExitZ "exitz" (v i -) Nothing MAY_LEAVE;
    /// Leave to the key a (I64); b: 0 jump, 1 call, 2 return (a hint).
    ExitInd "exitind" (v i -) Nothing ENDS_REGION | MAY_LEAVE;
    /// Hint: the call that follows will return to exit a's key.
    PushRet "pushret" (i - -) Nothing;
    /// Leave to the run loop: trap kind `aux` with argument a; execution resumes at exit b's key.
    Trap "trap" (i i -) Nothing ENDS_REGION | MAY_LEAVE;
    /// As trap, if a (I32) is not zero; the argument is c.
    TrapNz "trapnz" (v i i) Nothing MAY_LEAVE;
    /// Continue at the next label if condition `aux` holds in the flags a.
    SkipCc "skipcc" (v - -) Nothing;
    /// Continue at the next label if a (I32) is not zero.
    SkipNz "skipnz" (v - -) Nothing;
    /// Continue at the next label if a (I32) is zero.
    SkipZ "skipz" (v - -) Nothing;
    /// Target of the skips before it. No value lives across a label.
    Label "label" (- - -) Nothing;
}

impl Op {
    #[inline(always)]
    pub fn info(self) -> &'static OpInfo {
        &INFO[self as usize]
    }

    pub fn name(self) -> &'static str {
        self.info().name
    }

    #[inline(always)]
    pub fn has(self, prop: u8) -> bool {
        self.info().props & prop != 0
    }

    /// Finds an operation by its text name.
    pub fn by_name(name: &str) -> Option<Op> {
        Op::ALL.iter().copied().find(|op| op.name() == name)
    }

    pub fn is_skip(self) -> bool {
        matches!(self, Op::SkipCc | Op::SkipNz | Op::SkipZ)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_documented() {
        let mut names: Vec<_> = Op::ALL.iter().map(|op| op.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Op::ALL.len());
        for op in Op::ALL {
            assert!(!op.doc().is_empty(), "{} has no definition", op.name());
            assert_eq!(Op::by_name(op.name()), Some(*op));
        }
    }
}
