//! Integer instructions.
//!
//! **Reference**: SDM volume 2, chapters 3–5; the opcode is next to each method's mnemonic.

use super::encode::{Imm, Legacy, Map, Pp, Vex};
use super::{Asm, Gpr, High, Mem, RAX, Rm, Width};

/// A condition; the number is the encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Cc {
    O,
    NO,
    B,
    AE,
    E,
    NE,
    BE,
    A,
    S,
    NS,
    P,
    NP,
    L,
    GE,
    LE,
    G,
}

impl Cc {
    pub const ALL: [Cc; 16] = {
        use Cc::*;
        [O, NO, B, AE, E, NE, BE, A, S, NS, P, NP, L, GE, LE, G]
    };

    /// The opposite condition.
    #[inline]
    pub const fn invert(self) -> Cc {
        Cc::ALL[self as usize ^ 1]
    }

    /// The condition that holds after a comparison with its operands exchanged.
    #[inline]
    pub const fn swap(self) -> Cc {
        match self {
            Cc::B => Cc::A,
            Cc::A => Cc::B,
            Cc::AE => Cc::BE,
            Cc::BE => Cc::AE,
            Cc::L => Cc::G,
            Cc::G => Cc::L,
            Cc::GE => Cc::LE,
            Cc::LE => Cc::GE,
            Cc::O | Cc::NO | Cc::E | Cc::NE | Cc::S | Cc::NS | Cc::P | Cc::NP => self,
        }
    }
}

/// The two-operand arithmetic family; the number is the opcode extension.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Alu {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

/// The shift and rotate family; the number is the opcode extension.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Shift {
    Rol = 0,
    Ror = 1,
    Rcl = 2,
    Rcr = 3,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// BT, BTS, BTR, BTC; the number is the opcode extension of the immediate form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum BitTest {
    Bt = 4,
    Bts = 5,
    Btr = 6,
    Btc = 7,
}

/// An integer opcode at the operand size `w`, prefixed and with REX.W as the size asks.
#[inline(always)]
const fn sized(map: Map, op: u8, w: Width) -> Legacy {
    let (p66, w) = (matches!(w, Width::B2), matches!(w, Width::B8));
    Legacy { p66, pp: Pp::Np, map, op, w, rex: false }
}

/// As [`sized`], for the opcodes whose lowest bit is clear at byte size.
#[inline(always)]
const fn byte_or(map: Map, op: u8, w: Width) -> Legacy {
    let byte = matches!(w, Width::B1);
    sized(map, if byte { op & !1 } else { op | 1 }, w)
}

/// Whether a byte operand is one of SPL, BPL, SIL, DIL, which only exist with REX.
#[inline(always)]
const fn new_byte(r: Gpr) -> bool {
    r.0 & !3 == 4
}

#[inline(always)]
fn new_byte_rm(rm: &Rm) -> bool {
    match rm {
        Rm::Reg(r) => new_byte(*r),
        Rm::Mem(_) => false,
    }
}

/// The immediate of an operand of size `w`: at most four bytes, sign-extended by the processor.
#[inline(always)]
fn imm_sized(imm: i32, w: Width) -> Imm {
    match w {
        Width::B1 => Imm::bytes(imm, 1),
        Width::B2 => Imm::bytes(imm, 2),
        Width::B4 | Width::B8 => Imm::bytes(imm, 4),
    }
}

impl Asm {
    /// One operand in ModR/M and an opcode extension.
    #[inline]
    fn group(&mut self, e: Legacy, w: Width, digit: u8, rm: Rm, imm: Imm) {
        let rex = w == Width::B1 && new_byte_rm(&rm);
        self.legacy(Legacy { rex, ..e }, digit, rm, imm);
    }

    /// A register and a ModR/M operand of the same size.
    #[inline]
    fn pair(&mut self, e: Legacy, w: Width, reg: Gpr, rm: Rm, imm: Imm) {
        let rex = w == Width::B1 && (new_byte(reg) || new_byte_rm(&rm));
        self.legacy(Legacy { rex, ..e }, reg.0, rm, imm);
    }

    /// Opcode 0F xx without operand size.
    #[inline]
    fn group_0f(&mut self, op: u8, digit: u8, rm: Rm) {
        self.legacy(sized(Map::M0f, op, Width::B4), digit, rm, Imm::NONE);
    }

    // ---- arithmetic and logic -------------------------------------------------------------------------------------

    /// `dst = dst op src`.
    #[inline]
    pub fn alu_rr(&mut self, op: Alu, w: Width, dst: Gpr, src: Gpr) {
        self.alu_rm_r(op, w, dst, src);
    }

    /// `dst = dst op rm`.
    #[inline]
    pub fn alu_r_rm(&mut self, op: Alu, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        self.pair(byte_or(Map::One, (op as u8) << 3 | 3, w), w, dst, rm.into(), Imm::NONE);
    }

    /// `rm = rm op src`.
    #[inline]
    pub fn alu_rm_r(&mut self, op: Alu, w: Width, rm: impl Into<Rm>, src: Gpr) {
        self.pair(byte_or(Map::One, (op as u8) << 3 | 1, w), w, src, rm.into(), Imm::NONE);
    }

    /// `rm = rm op imm` in the shortest form. At 8 and 16 bits only the low bits of `imm` count.
    #[inline]
    pub fn alu_rm_imm(&mut self, op: Alu, w: Width, rm: impl Into<Rm>, imm: i32) {
        let rm = rm.into();
        let imm = match w {
            Width::B1 => i32::from(imm as i8),
            Width::B2 => i32::from(imm as i16),
            Width::B4 | Width::B8 => imm,
        };
        let short = i32::from(imm as i8) == imm;
        if w != Width::B1 && short {
            self.group(sized(Map::One, 0x83, w), w, op as u8, rm, Imm::bytes(imm, 1));
        } else if rm == Rm::Reg(RAX) {
            // The accumulator form has no ModR/M.
            let e = byte_or(Map::One, (op as u8) << 3 | 5, w);
            self.legacy_plus(Legacy { op: e.op & !7, ..e }, Gpr(e.op & 7), imm_sized(imm, w));
        } else {
            self.group(byte_or(Map::One, 0x81, w), w, op as u8, rm, imm_sized(imm, w));
        }
    }

    /// TEST 84, 85.
    #[inline]
    pub fn test_rr(&mut self, w: Width, a: Gpr, b: Gpr) {
        self.test_rm_r(w, a, b);
    }

    /// TEST 84, 85.
    #[inline]
    pub fn test_rm_r(&mut self, w: Width, rm: impl Into<Rm>, b: Gpr) {
        self.pair(byte_or(Map::One, 0x85, w), w, b, rm.into(), Imm::NONE);
    }

    /// TEST A8, A9, F6 /0, F7 /0.
    #[inline]
    pub fn test_rm_imm(&mut self, w: Width, rm: impl Into<Rm>, imm: i32) {
        let rm = rm.into();
        if rm == Rm::Reg(RAX) {
            let e = byte_or(Map::One, 0xa9, w);
            self.legacy_plus(Legacy { op: e.op & !7, ..e }, Gpr(e.op & 7), imm_sized(imm, w));
        } else {
            self.group(byte_or(Map::One, 0xf7, w), w, 0, rm, imm_sized(imm, w));
        }
    }

    #[inline]
    fn group3(&mut self, w: Width, digit: u8, rm: Rm) {
        self.group(byte_or(Map::One, 0xf7, w), w, digit, rm, Imm::NONE);
    }

    /// NOT F6 /2.
    #[inline]
    pub fn not(&mut self, w: Width, rm: impl Into<Rm>) {
        self.group3(w, 2, rm.into());
    }

    /// NEG F6 /3.
    #[inline]
    pub fn neg(&mut self, w: Width, rm: impl Into<Rm>) {
        self.group3(w, 3, rm.into());
    }

    /// MUL F6 /4: `rdx:rax = rax * rm`, unsigned.
    #[inline]
    pub fn mul(&mut self, w: Width, rm: impl Into<Rm>) {
        self.group3(w, 4, rm.into());
    }

    /// IMUL F6 /5: `rdx:rax = rax * rm`, signed.
    #[inline]
    pub fn imul(&mut self, w: Width, rm: impl Into<Rm>) {
        self.group3(w, 5, rm.into());
    }

    /// DIV F6 /6.
    #[inline]
    pub fn div(&mut self, w: Width, rm: impl Into<Rm>) {
        self.group3(w, 6, rm.into());
    }

    /// IDIV F6 /7.
    #[inline]
    pub fn idiv(&mut self, w: Width, rm: impl Into<Rm>) {
        self.group3(w, 7, rm.into());
    }

    /// IMUL 0F AF: `dst = dst * rm`; not at byte size.
    #[inline]
    pub fn imul_r_rm(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        debug_assert!(w != Width::B1, "imul has no byte form");
        self.pair(sized(Map::M0f, 0xaf, w), w, dst, rm.into(), Imm::NONE);
    }

    /// IMUL 6B, 69: `dst = rm * imm`; not at byte size.
    #[inline]
    pub fn imul_r_rm_imm(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>, imm: i32) {
        debug_assert!(w != Width::B1, "imul has no byte form");
        if i32::from(imm as i8) == imm {
            self.pair(sized(Map::One, 0x6b, w), w, dst, rm.into(), Imm::bytes(imm, 1));
        } else {
            self.pair(sized(Map::One, 0x69, w), w, dst, rm.into(), imm_sized(imm, w));
        }
    }

    /// CWD, CDQ, CQO 99: the sign of the accumulator into all of rdx; not at byte size.
    #[inline]
    pub fn sign_into_rdx(&mut self, w: Width) {
        match w {
            Width::B1 => debug_assert!(false, "CWD has no byte form"),
            Width::B2 => self.raw(0x9966, 2),
            Width::B4 => self.byte(0x99),
            Width::B8 => self.raw(0x9948, 2),
        }
    }

    #[inline]
    pub fn cdq(&mut self) {
        self.sign_into_rdx(Width::B4);
    }

    #[inline]
    pub fn cqo(&mut self) {
        self.sign_into_rdx(Width::B8);
    }

    /// XADD 0F C1: exchanges, then `rm = sum`.
    #[inline]
    pub fn xadd(&mut self, w: Width, rm: impl Into<Rm>, reg: Gpr) {
        self.pair(byte_or(Map::M0f, 0xc1, w), w, reg, rm.into(), Imm::NONE);
    }

    /// CMPXCHG 0F B1: if `rm == rax` then `rm = reg` else `rax = rm`.
    #[inline]
    pub fn cmpxchg(&mut self, w: Width, rm: impl Into<Rm>, reg: Gpr) {
        self.pair(byte_or(Map::M0f, 0xb1, w), w, reg, rm.into(), Imm::NONE);
    }

    /// CMPXCHG8B 0F C7 /1.
    #[inline]
    pub fn cmpxchg8b(&mut self, mem: Mem) {
        self.group_0f(0xc7, 1, Rm::Mem(mem));
    }

    /// CMPXCHG16B REX.W 0F C7 /1; faults unless the address is a multiple of 16.
    #[inline]
    pub fn cmpxchg16b(&mut self, mem: Mem) {
        self.legacy(sized(Map::M0f, 0xc7, Width::B8), 1, Rm::Mem(mem), Imm::NONE);
    }

    /// The LOCK prefix for the instruction that is written next: `asm.lock().xadd(…)`.
    #[inline]
    pub fn lock(&mut self) -> &mut Asm {
        self.byte(0xf0);
        self
    }

    // ---- moves ----------------------------------------------------------------------------------------------------

    /// MOV 88, 89. At 32 bits the upper half of `dst` becomes zero, also when `dst == src`.
    #[inline]
    pub fn mov_rr(&mut self, w: Width, dst: Gpr, src: Gpr) {
        self.mov_rm_r(w, dst, src);
    }

    /// MOV 8A, 8B.
    #[inline]
    pub fn mov_r_rm(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        self.pair(byte_or(Map::One, 0x8b, w), w, dst, rm.into(), Imm::NONE);
    }

    /// MOV 88, 89.
    #[inline]
    pub fn mov_rm_r(&mut self, w: Width, rm: impl Into<Rm>, src: Gpr) {
        self.pair(byte_or(Map::One, 0x89, w), w, src, rm.into(), Imm::NONE);
    }

    /// MOV B0, B8, C6, C7; `imm` is sign-extended at 64 bits.
    #[inline]
    pub fn mov_rm_imm(&mut self, w: Width, rm: impl Into<Rm>, imm: i32) {
        match (rm.into(), w) {
            (Rm::Reg(dst), Width::B8) if imm >= 0 => self.mov_r_imm32(dst, imm as u32),
            (Rm::Reg(dst), Width::B1) => {
                let e = Legacy { rex: new_byte(dst), ..sized(Map::One, 0xb0, w) };
                self.legacy_plus(e, dst, imm_sized(imm, w));
            }
            (Rm::Reg(dst), Width::B2 | Width::B4) => {
                self.legacy_plus(sized(Map::One, 0xb8, w), dst, imm_sized(imm, w));
            }
            (rm, _) => self.group(byte_or(Map::One, 0xc7, w), w, 0, rm, imm_sized(imm, w)),
        }
    }

    /// MOV B8: a 32-bit constant, zero-extended. Leaves the flags alone.
    #[inline]
    pub fn mov_r_imm32(&mut self, dst: Gpr, imm: u32) {
        self.legacy_plus(sized(Map::One, 0xb8, Width::B4), dst, Imm::bytes(imm as i32, 4));
    }

    /// A 64-bit constant in 5 to 10 bytes. Leaves the flags alone.
    #[inline]
    pub fn mov_r_imm64(&mut self, dst: Gpr, imm: u64) {
        if let Ok(small) = u32::try_from(imm) {
            self.mov_r_imm32(dst, small);
        } else if let Ok(small) = i32::try_from(imm as i64) {
            self.mov_rm_imm(Width::B8, dst, small);
        } else {
            self.legacy_plus(sized(Map::One, 0xb8, Width::B8), dst, Imm::u64(imm));
        }
    }

    /// Zero-extends an operand of size `from` to 64 bits: MOVZX 0F B6, B7, or MOV.
    #[inline]
    pub fn movzx(&mut self, from: Width, dst: Gpr, rm: impl Into<Rm>) {
        let rm = rm.into();
        match from {
            Width::B1 => {
                let e = Legacy { rex: new_byte_rm(&rm), ..sized(Map::M0f, 0xb6, Width::B4) };
                self.legacy(e, dst.0, rm, Imm::NONE);
            }
            Width::B2 => self.legacy(sized(Map::M0f, 0xb7, Width::B4), dst.0, rm, Imm::NONE),
            Width::B4 | Width::B8 => self.mov_r_rm(from, dst, rm),
        }
    }

    /// Sign-extends an operand of size `from` to size `to` (4 or 8 bytes): MOVSX 0F BE, BF, MOVSXD, or MOV.
    #[inline]
    pub fn movsx(&mut self, to: Width, from: Width, dst: Gpr, rm: impl Into<Rm>) {
        debug_assert!(to >= Width::B4 && to >= from, "movsx from {from:?} to {to:?}");
        let rm = rm.into();
        match from {
            Width::B1 => {
                let e = Legacy { rex: new_byte_rm(&rm), ..sized(Map::M0f, 0xbe, to) };
                self.legacy(e, dst.0, rm, Imm::NONE);
            }
            Width::B2 => self.legacy(sized(Map::M0f, 0xbf, to), dst.0, rm, Imm::NONE),
            Width::B4 if to == Width::B8 => self.movsxd(dst, rm),
            Width::B4 | Width::B8 => self.mov_r_rm(from, dst, rm),
        }
    }

    /// MOVSXD REX.W 63: 32 to 64 bits.
    #[inline]
    pub fn movsxd(&mut self, dst: Gpr, rm: impl Into<Rm>) {
        self.legacy(sized(Map::One, 0x63, Width::B8), dst.0, rm.into(), Imm::NONE);
    }

    /// LEA 8D; not at byte size. A segment base is not part of the result.
    #[inline]
    pub fn lea(&mut self, w: Width, dst: Gpr, mem: Mem) {
        debug_assert!(w != Width::B1, "lea has no byte form");
        self.legacy(sized(Map::One, 0x8d, w), dst.0, Rm::Mem(mem), Imm::NONE);
    }

    /// PUSH 50.
    #[inline]
    pub fn push(&mut self, reg: Gpr) {
        self.legacy_plus(sized(Map::One, 0x50, Width::B4), reg, Imm::NONE);
    }

    /// POP 58.
    #[inline]
    pub fn pop(&mut self, reg: Gpr) {
        self.legacy_plus(sized(Map::One, 0x58, Width::B4), reg, Imm::NONE);
    }

    /// PUSH FF /6, 64 bits.
    #[inline]
    pub fn push_mem(&mut self, mem: Mem) {
        self.legacy(sized(Map::One, 0xff, Width::B4), 6, Rm::Mem(mem), Imm::NONE);
    }

    /// POP 8F /0, 64 bits.
    #[inline]
    pub fn pop_mem(&mut self, mem: Mem) {
        self.legacy(sized(Map::One, 0x8f, Width::B4), 0, Rm::Mem(mem), Imm::NONE);
    }

    /// PUSH 6A, 68, sign-extended to 64 bits.
    #[inline]
    pub fn push_imm(&mut self, imm: i32) {
        if i32::from(imm as i8) == imm {
            self.raw(0x6a | u64::from(imm as u8) << 8, 2);
        } else {
            self.raw(0x68 | u64::from(imm as u32) << 8, 5);
        }
    }

    /// XCHG 86, 87; with memory it is atomic.
    #[inline]
    pub fn xchg(&mut self, w: Width, rm: impl Into<Rm>, reg: Gpr) {
        self.pair(byte_or(Map::One, 0x87, w), w, reg, rm.into(), Imm::NONE);
    }

    /// BSWAP 0F C8, 4 or 8 bytes.
    #[inline]
    pub fn bswap(&mut self, w: Width, reg: Gpr) {
        debug_assert!(w >= Width::B4, "bswap of {w:?}");
        self.legacy_plus(sized(Map::M0f, 0xc8, w), reg, Imm::NONE);
    }

    /// MOVBE 0F 38 F0: a load with reversed bytes.
    #[inline]
    pub fn movbe_load(&mut self, w: Width, dst: Gpr, mem: Mem) {
        debug_assert!(w != Width::B1, "movbe has no byte form");
        self.legacy(sized(Map::M0f38, 0xf0, w), dst.0, Rm::Mem(mem), Imm::NONE);
    }

    /// MOVBE 0F 38 F1: a store with reversed bytes.
    #[inline]
    pub fn movbe_store(&mut self, w: Width, mem: Mem, src: Gpr) {
        debug_assert!(w != Width::B1, "movbe has no byte form");
        self.legacy(sized(Map::M0f38, 0xf1, w), src.0, Rm::Mem(mem), Imm::NONE);
    }

    // ---- shifts and bits ------------------------------------------------------------------------------------------

    /// C0, C1, and D0, D1 for a count of one.
    #[inline]
    pub fn shift_imm(&mut self, op: Shift, w: Width, rm: impl Into<Rm>, count: u8) {
        if count == 1 {
            self.group(byte_or(Map::One, 0xd1, w), w, op as u8, rm.into(), Imm::NONE);
        } else {
            self.group(byte_or(Map::One, 0xc1, w), w, op as u8, rm.into(), Imm::u8(count));
        }
    }

    /// D2, D3: by CL.
    #[inline]
    pub fn shift_cl(&mut self, op: Shift, w: Width, rm: impl Into<Rm>) {
        self.group(byte_or(Map::One, 0xd3, w), w, op as u8, rm.into(), Imm::NONE);
    }

    /// SHLD 0F A4: `rm` left, filled from the top of `src`; not at byte size.
    #[inline]
    pub fn shld_imm(&mut self, w: Width, rm: impl Into<Rm>, src: Gpr, count: u8) {
        self.double_shift(0xa4, w, rm.into(), src, Imm::u8(count));
    }

    /// SHRD 0F AC: `rm` right, filled from the bottom of `src`; not at byte size.
    #[inline]
    pub fn shrd_imm(&mut self, w: Width, rm: impl Into<Rm>, src: Gpr, count: u8) {
        self.double_shift(0xac, w, rm.into(), src, Imm::u8(count));
    }

    /// SHLD 0F A5: by CL.
    #[inline]
    pub fn shld_cl(&mut self, w: Width, rm: impl Into<Rm>, src: Gpr) {
        self.double_shift(0xa5, w, rm.into(), src, Imm::NONE);
    }

    /// SHRD 0F AD: by CL.
    #[inline]
    pub fn shrd_cl(&mut self, w: Width, rm: impl Into<Rm>, src: Gpr) {
        self.double_shift(0xad, w, rm.into(), src, Imm::NONE);
    }

    #[inline]
    fn double_shift(&mut self, op: u8, w: Width, rm: Rm, src: Gpr, imm: Imm) {
        debug_assert!(w != Width::B1, "double shifts have no byte form");
        self.pair(sized(Map::M0f, op, w), w, src, rm, imm);
    }

    /// 0F BA: bit `bit` of `rm`; not at byte size.
    #[inline]
    pub fn bit_imm(&mut self, op: BitTest, w: Width, rm: impl Into<Rm>, bit: u8) {
        debug_assert!(w != Width::B1, "bit tests have no byte form");
        self.group(sized(Map::M0f, 0xba, w), w, op as u8, rm.into(), Imm::u8(bit));
    }

    /// 0F A3, AB, B3, BB: bit `bit` of `rm`. With memory the bit number reaches outside the operand.
    #[inline]
    pub fn bit_reg(&mut self, op: BitTest, w: Width, rm: impl Into<Rm>, bit: Gpr) {
        debug_assert!(w != Width::B1, "bit tests have no byte form");
        self.pair(sized(Map::M0f, 0x83 | (op as u8) << 3, w), w, bit, rm.into(), Imm::NONE);
    }

    #[inline]
    fn count(&mut self, pp: Pp, op: u8, w: Width, dst: Gpr, rm: Rm) {
        debug_assert!(w != Width::B1, "bit counts have no byte form");
        self.legacy(Legacy { pp, ..sized(Map::M0f, op, w) }, dst.0, rm, Imm::NONE);
    }

    /// BSF 0F BC.
    #[inline]
    pub fn bsf(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        self.count(Pp::Np, 0xbc, w, dst, rm.into());
    }

    /// BSR 0F BD.
    #[inline]
    pub fn bsr(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        self.count(Pp::Np, 0xbd, w, dst, rm.into());
    }

    /// TZCNT F3 0F BC.
    #[inline]
    pub fn tzcnt(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        self.count(Pp::Pf3, 0xbc, w, dst, rm.into());
    }

    /// LZCNT F3 0F BD.
    #[inline]
    pub fn lzcnt(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        self.count(Pp::Pf3, 0xbd, w, dst, rm.into());
    }

    /// POPCNT F3 0F B8.
    #[inline]
    pub fn popcnt(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        self.count(Pp::Pf3, 0xb8, w, dst, rm.into());
    }

    /// CRC32 F2 0F 38 F0, F1: adds an operand of size `w` to the CRC-32C in `dst`.
    #[inline]
    pub fn crc32(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        let rm = rm.into();
        let rex = w == Width::B1 && new_byte_rm(&rm);
        self.legacy(Legacy { pp: Pp::Pf2, rex, ..byte_or(Map::M0f38, 0xf1, w) }, dst.0, rm, Imm::NONE);
    }

    #[inline]
    fn bmi(&mut self, pp: Pp, op: u8, w: Width, reg: u8, vvvv: Gpr, rm: Rm) {
        debug_assert!(w >= Width::B4, "BMI instructions have 4 or 8 bytes");
        let e = Vex { pp, map: Map::M0f38, op, w: w == Width::B8, l: false };
        self.vex(e, reg, vvvv.0, rm, Imm::NONE);
    }

    /// ANDN 0F38 F2 (BMI1): `dst = !a & rm`.
    #[inline]
    pub fn andn(&mut self, w: Width, dst: Gpr, a: Gpr, rm: impl Into<Rm>) {
        self.bmi(Pp::Np, 0xf2, w, dst.0, a, rm.into());
    }

    /// SHLX 66.0F38 F7 (BMI2): `dst = rm << count`; leaves the flags alone.
    #[inline]
    pub fn shlx(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>, count: Gpr) {
        self.bmi(Pp::P66, 0xf7, w, dst.0, count, rm.into());
    }

    /// SARX F3.0F38 F7 (BMI2).
    #[inline]
    pub fn sarx(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>, count: Gpr) {
        self.bmi(Pp::Pf3, 0xf7, w, dst.0, count, rm.into());
    }

    /// SHRX F2.0F38 F7 (BMI2).
    #[inline]
    pub fn shrx(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>, count: Gpr) {
        self.bmi(Pp::Pf2, 0xf7, w, dst.0, count, rm.into());
    }

    /// BEXTR 0F38 F7 (BMI1): start in bits 0–7 of `control`, length in bits 8–15.
    #[inline]
    pub fn bextr(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>, control: Gpr) {
        self.bmi(Pp::Np, 0xf7, w, dst.0, control, rm.into());
    }

    /// BZHI 0F38 F5 (BMI2): zeroes the bits from number `count` on.
    #[inline]
    pub fn bzhi(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>, count: Gpr) {
        self.bmi(Pp::Np, 0xf5, w, dst.0, count, rm.into());
    }

    /// PDEP F2.0F38 F5 (BMI2): spreads the bits of `a` over the mask `rm`.
    #[inline]
    pub fn pdep(&mut self, w: Width, dst: Gpr, a: Gpr, rm: impl Into<Rm>) {
        self.bmi(Pp::Pf2, 0xf5, w, dst.0, a, rm.into());
    }

    /// PEXT F3.0F38 F5 (BMI2): gathers the bits of `a` under the mask `rm`.
    #[inline]
    pub fn pext(&mut self, w: Width, dst: Gpr, a: Gpr, rm: impl Into<Rm>) {
        self.bmi(Pp::Pf3, 0xf5, w, dst.0, a, rm.into());
    }

    /// MULX F2.0F38 F6 (BMI2): `high:low = rdx * rm`; leaves the flags alone.
    #[inline]
    pub fn mulx(&mut self, w: Width, high: Gpr, low: Gpr, rm: impl Into<Rm>) {
        self.bmi(Pp::Pf2, 0xf6, w, high.0, low, rm.into());
    }

    /// BLSR 0F38 F3 /1 (BMI1): clears the lowest set bit.
    #[inline]
    pub fn blsr(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        self.bmi(Pp::Np, 0xf3, w, 1, dst, rm.into());
    }

    /// BLSMSK 0F38 F3 /2 (BMI1): a mask up to the lowest set bit.
    #[inline]
    pub fn blsmsk(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        self.bmi(Pp::Np, 0xf3, w, 2, dst, rm.into());
    }

    /// BLSI 0F38 F3 /3 (BMI1): isolates the lowest set bit.
    #[inline]
    pub fn blsi(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        self.bmi(Pp::Np, 0xf3, w, 3, dst, rm.into());
    }

    /// RORX F2.0F3A F0 (BMI2): rotates right; leaves the flags alone.
    #[inline]
    pub fn rorx(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>, count: u8) {
        debug_assert!(w >= Width::B4, "BMI instructions have 4 or 8 bytes");
        let e = Vex { pp: Pp::Pf2, map: Map::M0f3a, op: 0xf0, w: w == Width::B8, l: false };
        self.vex(e, dst.0, 0, rm.into(), Imm::u8(count));
    }

    /// ADCX 66 0F 38 F6 (ADX): adds with CF only.
    #[inline]
    pub fn adcx(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        debug_assert!(w >= Width::B4, "adcx has 4 or 8 bytes");
        self.legacy(Legacy { pp: Pp::P66, ..sized(Map::M0f38, 0xf6, w) }, dst.0, rm.into(), Imm::NONE);
    }

    /// ADOX F3 0F 38 F6 (ADX): adds with OF as the carry.
    #[inline]
    pub fn adox(&mut self, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        debug_assert!(w >= Width::B4, "adox has 4 or 8 bytes");
        self.legacy(Legacy { pp: Pp::Pf3, ..sized(Map::M0f38, 0xf6, w) }, dst.0, rm.into(), Imm::NONE);
    }

    // ---- flags and conditions -------------------------------------------------------------------------------------

    /// SETcc 0F 90: a byte of 0 or 1.
    #[inline]
    pub fn setcc(&mut self, cc: Cc, rm: impl Into<Rm>) {
        self.group(sized(Map::M0f, 0x90 | cc as u8, Width::B1), Width::B1, 0, rm.into(), Imm::NONE);
    }

    /// CMOVcc 0F 40; not at byte size. At 32 bits the upper half of `dst` becomes zero either way.
    #[inline]
    pub fn cmovcc(&mut self, cc: Cc, w: Width, dst: Gpr, rm: impl Into<Rm>) {
        debug_assert!(w != Width::B1, "cmovcc has no byte form");
        self.pair(sized(Map::M0f, 0x40 | cc as u8, w), w, dst, rm.into(), Imm::NONE);
    }

    /// AH = SF ZF 0 AF 0 PF 1 CF.
    #[inline]
    pub fn lahf(&mut self) {
        self.byte(0x9f);
    }

    /// SF ZF AF PF CF = AH.
    #[inline]
    pub fn sahf(&mut self) {
        self.byte(0x9e);
    }

    #[inline]
    pub fn cmc(&mut self) {
        self.byte(0xf5);
    }

    #[inline]
    pub fn clc(&mut self) {
        self.byte(0xf8);
    }

    #[inline]
    pub fn stc(&mut self) {
        self.byte(0xf9);
    }

    #[inline]
    pub fn cld(&mut self) {
        self.byte(0xfc);
    }

    #[inline]
    pub fn pushfq(&mut self) {
        self.byte(0x9c);
    }

    #[inline]
    pub fn popfq(&mut self) {
        self.byte(0x9d);
    }

    // ---- AH, CH, DH, BH: encodable only without REX ---------------------------------------------------------------

    /// The two registers of a byte instruction without REX: the second is rax, rcx, rdx or rbx.
    #[inline]
    fn high_pair(&mut self, op: u8, reg: u8, rm: u8) {
        self.raw(u64::from(op) | u64::from(0xc0 | reg << 3 | rm) << 8, 2);
    }

    /// `dst = high`, zero-extended; `dst` is one of the eight oldest registers.
    #[inline]
    pub fn movzx_high(&mut self, dst: Gpr, src: High) {
        debug_assert!(dst.0 < 8, "no REX with {src:?}");
        self.raw(0xb60f | u64::from(0xc0 | dst.0 << 3 | src as u8) << 16, 3);
    }

    /// Low byte of `dst` (rax, rcx, rdx, rbx) = high byte.
    #[inline]
    pub fn mov_low_high(&mut self, dst: Gpr, src: High) {
        debug_assert!(dst.0 < 4, "no REX with {src:?}");
        self.high_pair(0x8a, dst.0, src as u8);
    }

    /// High byte = low byte of `src` (rax, rcx, rdx, rbx).
    #[inline]
    pub fn mov_high_low(&mut self, dst: High, src: Gpr) {
        debug_assert!(src.0 < 4, "no REX with {dst:?}");
        self.high_pair(0x8a, dst as u8, src.0);
    }

    /// `dst = dst op src`, low byte of `dst` (rax, rcx, rdx, rbx).
    #[inline]
    pub fn alu_low_high(&mut self, op: Alu, dst: Gpr, src: High) {
        debug_assert!(dst.0 < 4, "no REX with {src:?}");
        self.high_pair((op as u8) << 3 | 2, dst.0, src as u8);
    }

    /// `dst = dst op src`, low byte of `src` (rax, rcx, rdx, rbx).
    #[inline]
    pub fn alu_high_low(&mut self, op: Alu, dst: High, src: Gpr) {
        debug_assert!(src.0 < 4, "no REX with {dst:?}");
        self.high_pair((op as u8) << 3 | 2, dst as u8, src.0);
    }

    /// `dst = dst op imm`.
    #[inline]
    pub fn alu_high_imm(&mut self, op: Alu, dst: High, imm: u8) {
        self.high_pair(0x80, op as u8, dst as u8);
        self.byte(imm);
    }

    /// Flags of `high & imm`.
    #[inline]
    pub fn test_high_imm(&mut self, high: High, imm: u8) {
        self.high_pair(0xf6, 0, high as u8);
        self.byte(imm);
    }

    /// `dst = imm`.
    #[inline]
    pub fn mov_high_imm(&mut self, dst: High, imm: u8) {
        self.raw(u64::from(0xb0 | dst as u8) | u64::from(imm) << 8, 2);
    }

    /// `dst` = 0 or 1.
    #[inline]
    pub fn setcc_high(&mut self, cc: Cc, dst: High) {
        self.raw(0x0f | (0x90 | cc as u64) << 8 | u64::from(0xc0 | dst as u8) << 16, 3);
    }

    // ---- order, control, system -----------------------------------------------------------------------------------

    #[inline]
    pub fn mfence(&mut self) {
        self.raw(0xf0_ae0f, 3);
    }

    #[inline]
    pub fn lfence(&mut self) {
        self.raw(0xe8_ae0f, 3);
    }

    #[inline]
    pub fn sfence(&mut self) {
        self.raw(0xf8_ae0f, 3);
    }

    #[inline]
    pub fn pause(&mut self) {
        self.raw(0x90f3, 2);
    }

    #[inline]
    pub fn ret(&mut self) {
        self.byte(0xc3);
    }

    #[inline]
    pub fn ud2(&mut self) {
        self.raw(0x0b0f, 2);
    }

    #[inline]
    pub fn int3(&mut self) {
        self.byte(0xcc);
    }

    #[inline]
    pub fn cpuid(&mut self) {
        self.raw(0xa20f, 2);
    }

    #[inline]
    pub fn rdtsc(&mut self) {
        self.raw(0x310f, 2);
    }

    /// LDMXCSR 0F AE /2.
    #[inline]
    pub fn ldmxcsr(&mut self, mem: Mem) {
        self.group_0f(0xae, 2, Rm::Mem(mem));
    }

    /// STMXCSR 0F AE /3.
    #[inline]
    pub fn stmxcsr(&mut self, mem: Mem) {
        self.group_0f(0xae, 3, Rm::Mem(mem));
    }

    /// PREFETCHT0 0F 18 /1.
    #[inline]
    pub fn prefetcht0(&mut self, mem: Mem) {
        self.group_0f(0x18, 1, Rm::Mem(mem));
    }

    /// PREFETCHNTA 0F 18 /0.
    #[inline]
    pub fn prefetchnta(&mut self, mem: Mem) {
        self.group_0f(0x18, 0, Rm::Mem(mem));
    }

    /// PREFETCHW 0F 0D /1.
    #[inline]
    pub fn prefetchw(&mut self, mem: Mem) {
        self.group_0f(0x0d, 1, Rm::Mem(mem));
    }

    /// `bytes` of NOP, in instructions of up to nine bytes (the recommended sequences of the manual's NOP page).
    pub fn nop(&mut self, bytes: usize) {
        const NOPS: [&[u8]; 10] = [
            &[],
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x00],
            &[0x0f, 0x1f, 0x40, 0],
            &[0x0f, 0x1f, 0x44, 0, 0],
            &[0x66, 0x0f, 0x1f, 0x44, 0, 0],
            &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
            &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            &[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        ];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(9);
            self.put(NOPS[now]);
            left -= now;
        }
    }
}
