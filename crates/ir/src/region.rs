//! Values, types, instructions and regions.

use crate::ops::{Gives, Op};

/// A value: the number of the instruction that makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Val(pub u32);

impl Val {
    /// "No operand".
    pub const NONE: Val = Val(u32::MAX);

    #[inline(always)]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Ty {
    None,
    I32,
    I64,
    V128,
    Flags,
}

impl Ty {
    pub const ALL: [Ty; 5] = [Ty::None, Ty::I32, Ty::I64, Ty::V128, Ty::Flags];

    pub fn name(self) -> &'static str {
        ["none", "i32", "i64", "v128", "flags"][self as usize]
    }

    /// Width of an integer type in bits.
    pub fn bits(self) -> u32 {
        if self == Ty::I64 { 64 } else { 32 }
    }
}

/// One instruction, 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inst {
    pub op: Op,
    pub ty: Ty,
    pub aux: u8,
    pub fl: u8,
    pub a: u32,
    pub b: u32,
    pub c: u32,
}

impl Inst {
    /// Type of the value it makes.
    #[inline(always)]
    pub fn gives(&self) -> Ty {
        match self.op.info().gives {
            Gives::Nothing => Ty::None,
            Gives::Same => self.ty,
            Gives::I32 => Ty::I32,
            Gives::I64 => Ty::I64,
            Gives::V128 => Ty::V128,
            Gives::Flags => Ty::Flags,
        }
    }

    /// Its value operands.
    #[inline]
    pub fn values(&self) -> impl Iterator<Item = Val> {
        Values { raw: [self.a, self.b, self.c], rest: self.op.info().values }
    }

    /// The constant's value.
    #[inline(always)]
    pub fn imm64(&self) -> u64 {
        self.b as u64 | (self.c as u64) << 32
    }

    /// Number of the helper a call names.
    pub fn helper(&self) -> usize {
        self.aux as usize | (self.fl as usize) << 8
    }
}

/// The value operands of an instruction.
struct Values {
    raw: [u32; 3],
    /// Bit n: operand n is a value that is still to come.
    rest: u8,
}

impl Iterator for Values {
    type Item = Val;

    #[inline]
    fn next(&mut self) -> Option<Val> {
        while self.rest != 0 {
            let raw = self.raw[self.rest.trailing_zeros() as usize % 3];
            self.rest &= self.rest - 1;
            if raw != u32::MAX {
                return Some(Val(raw));
            }
        }
        None
    }
}

/// Conditions on flags, in x86 order: `code ^ 1` is the opposite.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Cc {
    V = 0,
    Nv = 1,
    C = 2,
    Nc = 3,
    Z = 4,
    Nz = 5,
    /// C or Z.
    CorZ = 6,
    /// Neither C nor Z.
    NcNz = 7,
    N = 8,
    Nn = 9,
    P = 10,
    Np = 11,
    /// N != V.
    Lt = 12,
    /// N == V.
    Ge = 13,
    /// Z or N != V.
    Le = 14,
    /// Not Z and N == V.
    Gt = 15,
}

impl Cc {
    pub const ALL: [Cc; 16] = {
        use Cc::*;
        [V, Nv, C, Nc, Z, Nz, CorZ, NcNz, N, Nn, P, Np, Lt, Ge, Le, Gt]
    };

    #[inline(always)]
    pub fn from_u8(code: u8) -> Cc {
        Cc::ALL[code as usize & 15]
    }

    /// The opposite condition.
    pub fn invert(self) -> Cc {
        Cc::from_u8(self as u8 ^ 1)
    }

    /// Whether the condition holds in a flags word (layout of `Op::FWord`).
    pub fn holds(self, word: u32) -> bool {
        let bit = |n: u32| word >> n & 1 != 0;
        let (n, z, p, c, v) = (bit(15), bit(14), bit(10), bit(8), bit(0));
        let base = match self as u8 >> 1 {
            0 => v,
            1 => c,
            2 => z,
            3 => c || z,
            4 => n,
            5 => p,
            6 => n != v,
            _ => z || n != v,
        };
        base != (self as u8 & 1 != 0)
    }
}

/// Bits of a flags word.
pub mod flag {
    pub const N: u32 = 1 << 15;
    pub const Z: u32 = 1 << 14;
    pub const A: u32 = 1 << 12;
    pub const P: u32 = 1 << 10;
    pub const C: u32 = 1 << 8;
    pub const V: u32 = 1;
    pub const ALL: u32 = N | Z | A | P | C | V;
}

/// Integer comparisons.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Cmp {
    Eq,
    Ne,
    Ult,
    Uge,
    Ule,
    Ugt,
    Slt,
    Sge,
    Sle,
    Sgt,
}

impl Cmp {
    pub const ALL: [Cmp; 10] = {
        use Cmp::*;
        [Eq, Ne, Ult, Uge, Ule, Ugt, Slt, Sge, Sle, Sgt]
    };

    pub fn from_u8(code: u8) -> Cmp {
        Cmp::ALL[(code as usize).min(9)]
    }
}

/// How a memory operation accesses memory (the `aux` byte).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemOp(pub u8);

impl MemOp {
    pub const B1: MemOp = MemOp(0);
    pub const B2: MemOp = MemOp(1);
    pub const B4: MemOp = MemOp(2);
    pub const B8: MemOp = MemOp(3);
    pub const B16: MemOp = MemOp(4);

    /// Sign-extending load.
    pub const fn signed(self) -> MemOp {
        MemOp(self.0 | 8)
    }

    /// Faults unless the address is a multiple of the size.
    pub const fn aligned(self) -> MemOp {
        MemOp(self.0 | 16)
    }

    /// Acquire (load) or release-and-sequentially-consistent (store).
    pub const fn ordered(self) -> MemOp {
        MemOp(self.0 | 32)
    }

    /// Bytes reversed (big-endian data).
    pub const fn swapped(self) -> MemOp {
        MemOp(self.0 | 64)
    }

    /// Faults unless the address is a multiple of 4 (with `aligned` clear; Arm LDM, LDRD, VLDR).
    pub const fn aligned4(self) -> MemOp {
        MemOp(self.0 | 128)
    }

    /// The logarithm of the bytes in memory.
    pub const fn log2(self) -> u8 {
        self.0 & 7
    }

    /// The bytes in memory.
    pub const fn bytes(self) -> u8 {
        1 << (self.0 & 7)
    }

    pub const fn is_signed(self) -> bool {
        self.0 & 8 != 0
    }

    pub const fn is_ordered(self) -> bool {
        self.0 & 32 != 0
    }

    pub const fn is_swapped(self) -> bool {
        self.0 & 64 != 0
    }

    /// Bits of the address that must be zero.
    pub const fn align_mask(self) -> u64 {
        if self.0 & 16 != 0 {
            self.bytes() as u64 - 1
        } else if self.0 & 128 != 0 {
            3
        } else {
            0
        }
    }
}

/// Atomic read-modify-write operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rmw {
    Add,
    And,
    Or,
    Xor,
    Xchg,
    SMin,
    SMax,
    UMin,
    UMax,
    AndNot,
}

impl Rmw {
    pub const ALL: [Rmw; 10] = {
        use Rmw::*;
        [Add, And, Or, Xor, Xchg, SMin, SMax, UMin, UMax, AndNot]
    };
}

/// Floating-point format of an operation (the `aux` byte): log2 of the element's bytes, and whether all lanes take part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FpFmt(pub u8);

impl FpFmt {
    pub const F16: FpFmt = FpFmt(1);
    pub const F32: FpFmt = FpFmt(2);
    pub const F64: FpFmt = FpFmt(3);
    pub const V16: FpFmt = FpFmt(1 | 0x80);
    pub const V32: FpFmt = FpFmt(2 | 0x80);
    pub const V64: FpFmt = FpFmt(3 | 0x80);

    pub const fn log2(self) -> u8 {
        self.0 & 3
    }

    pub const fn is_vector(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// Elements that take part.
    pub const fn lanes(self) -> u8 {
        if self.is_vector() { 16 >> self.log2() } else { 1 }
    }
}

/// Floating-point mode of an operation (the `fl` byte): rounding (bits 0-2), flush-to-zero (3), default NaN (4),
/// alternative half precision (5), NaN rule (6-7). See softfloat's `Mode`; tininess is detected before rounding for Arm only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FpMode(pub u8);

/// The kinds of `trap`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum TrapKind {
    /// System call; the argument is the instruction's immediate.
    Syscall,
    /// Undefined instruction; the argument is the instruction word.
    Undefined,
    /// Breakpoint instruction; the argument is its immediate.
    Breakpoint,
    /// Wait for interrupt or event, yield, or have the run loop look at interrupts: the argument is the front end's.
    Yield,
    /// The guest made code visible (instruction cache maintenance, ISB).
    CodeSync,
    /// A call into the kernel helper page; the argument is its address.
    KernelHelper,
    /// An architectural exception that a helper has prepared in the state.
    Exception,
    /// A single step or instruction limit has been reached.
    Step,
    /// The instruction could not be fetched; the key's address is the culprit.
    FetchFault,
    /// A privileged instruction that the front end executes outside of translated code; the argument is the instruction
    /// word, the key the instruction's own.
    System,
    /// Code that must not be executed here: the run loop has another way for it.
    Sequence,
}

impl TrapKind {
    pub const ALL: [TrapKind; 11] = {
        use TrapKind::*;
        [Syscall, Undefined, Breakpoint, Yield, CodeSync, KernelHelper, Exception, Step, FetchFault, System, Sequence]
    };

    pub fn from_u8(code: u8) -> TrapKind {
        TrapKind::ALL[(code as usize).min(TrapKind::ALL.len() - 1)]
    }
}

/// A way out of a region to a constant key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// Key of the region that comes next.
    pub key: u64,
    /// The arithmetic flags are overwritten there before they are read.
    pub flags_dead: bool,
    /// Relative regions: the target is on another page (or may reach into one), whose code is found by the jump cache only.
    pub far: bool,
}

/// A translated stretch of guest code.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Region {
    /// Identity: the guest's program counter and mode bits, packed by the front end.
    pub key: u64,
    /// Program counter of the first instruction.
    pub pc: u64,
    pub insts: Vec<Inst>,
    pub exits: Vec<Exit>,
    pub vconsts: Vec<u128>,
    /// Guest byte ranges (address, length) that the translation depends on.
    pub covers: Vec<(u64, u32)>,
    /// Number of guest instructions.
    pub guest_insns: u32,
}

impl Region {
    pub fn inst(&self, v: Val) -> &Inst {
        &self.insts[v.index()]
    }

    /// The integer constant that a value is, if it is one (I32 constants are zero-extended).
    #[inline]
    pub fn constant(&self, v: Val) -> Option<u64> {
        let i = self.insts.get(v.index())?;
        (i.op == Op::Const).then(|| i.imm64())
    }

    /// Empties the region and keeps its allocations.
    pub fn clear(&mut self) {
        self.insts.clear();
        self.exits.clear();
        self.vconsts.clear();
        self.covers.clear();
        self.guest_insns = 0;
    }
}

/// A function of the guest that the IR can call. Its address is stable for the life of the process.
#[derive(Clone, Copy)]
pub struct Helper {
    pub name: &'static str,
    pub f: HelperFn,
}

/// A step of AES (FIPS 197) on a state `a` and a key `b`, or of SHA-256 (FIPS 180-4) on words from the lowest lane up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CryptoStep {
    /// SubBytes and ShiftRows of `a ^ b`.
    AesEncrypt,
    /// Their inverses, of `a ^ b`.
    AesDecrypt,
    /// MixColumns of `a`.
    AesMix,
    /// Its inverse.
    AesUnmix,
    /// Hash words A to D (`a`) after four rounds; `b` is E to H, `c` four words of the schedule with their constants.
    Sha256Abcd,
    /// As `Sha256Abcd`: hash words E to H (`a`), with A to D in `b`.
    Sha256Efgh,
    /// The first half of four words of the schedule: `a` and σ0 of the words one further, of which `b` has the last.
    Sha256Schedule0,
    /// The second half: `a`, the words nine further on in `b` and `c`, and σ1 of those two before.
    Sha256Schedule1,
}

#[derive(Clone, Copy)]
pub enum HelperFn {
    /// Depends on its arguments only.
    Pure(extern "C" fn(u64, u64, u64) -> u64),
    /// Reads and writes guest state.
    State(extern "C" fn(&mut crate::State, u64, u64, u64) -> u64),
    /// Vector function of its arguments: (result, a, b, c).
    Vec(extern "C" fn(&mut [u8; 16], &[u8; 16], &[u8; 16], &[u8; 16])),
    /// As `Vec`: a step for which the host may have instructions.
    Crypto(CryptoStep, extern "C" fn(&mut [u8; 16], &[u8; 16], &[u8; 16], &[u8; 16])),
    /// As `Vec`, reading and writing guest state.
    VecState(extern "C" fn(&mut crate::State, &mut [u8; 16], &[u8; 16], &[u8; 16], &[u8; 16])),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_16_bytes() {
        assert_eq!(size_of::<Inst>(), 16);
    }

    #[test]
    fn conditions_come_in_opposite_pairs() {
        for word in 0..0x1_0000u32 {
            for cc in Cc::ALL {
                assert_ne!(cc.holds(word), cc.invert().holds(word));
            }
        }
    }
}
