//! Registers, operand sizes and memory operands.
//!
//! **Reference**: SDM volume 2, 2.1.3–2.1.5 (ModR/M and SIB), 2.2.1 (64-bit mode).

/// A general-purpose register; the number is the encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Gpr(pub u8);

pub const RAX: Gpr = Gpr(0);
pub const RCX: Gpr = Gpr(1);
pub const RDX: Gpr = Gpr(2);
pub const RBX: Gpr = Gpr(3);
pub const RSP: Gpr = Gpr(4);
pub const RBP: Gpr = Gpr(5);
pub const RSI: Gpr = Gpr(6);
pub const RDI: Gpr = Gpr(7);
pub const R8: Gpr = Gpr(8);
pub const R9: Gpr = Gpr(9);
pub const R10: Gpr = Gpr(10);
pub const R11: Gpr = Gpr(11);
pub const R12: Gpr = Gpr(12);
pub const R13: Gpr = Gpr(13);
pub const R14: Gpr = Gpr(14);
pub const R15: Gpr = Gpr(15);

/// A vector register: xmm or, in 256-bit forms, ymm.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Xmm(pub u8);

pub const XMM0: Xmm = Xmm(0);
pub const XMM1: Xmm = Xmm(1);
pub const XMM2: Xmm = Xmm(2);
pub const XMM3: Xmm = Xmm(3);
pub const XMM4: Xmm = Xmm(4);
pub const XMM5: Xmm = Xmm(5);
pub const XMM6: Xmm = Xmm(6);
pub const XMM7: Xmm = Xmm(7);
pub const XMM8: Xmm = Xmm(8);
pub const XMM9: Xmm = Xmm(9);
pub const XMM10: Xmm = Xmm(10);
pub const XMM11: Xmm = Xmm(11);
pub const XMM12: Xmm = Xmm(12);
pub const XMM13: Xmm = Xmm(13);
pub const XMM14: Xmm = Xmm(14);
pub const XMM15: Xmm = Xmm(15);

/// Bits 8–15 of one of the four oldest registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum High {
    Ah = 4,
    Ch = 5,
    Dh = 6,
    Bh = 7,
}

/// Operand size of an integer instruction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Width {
    B1,
    B2,
    B4,
    B8,
}

impl Width {
    pub const ALL: [Width; 4] = [Width::B1, Width::B2, Width::B4, Width::B8];

    pub const fn from_bytes(bytes: u32) -> Width {
        match bytes {
            1 => Width::B1,
            2 => Width::B2,
            4 => Width::B4,
            8 => Width::B8,
            _ => panic!("an operand has 1, 2, 4 or 8 bytes"),
        }
    }

    pub const fn bytes(self) -> u32 {
        1 << self as u32
    }

    pub const fn bits(self) -> u32 {
        8 << self as u32
    }
}

/// A memory operand: `[base + index*scale + disp]`, or relative to the next instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mem {
    pub base: Option<Gpr>,
    /// Register and scale (1, 2, 4, 8).
    pub index: Option<(Gpr, u8)>,
    pub disp: i32,
    /// Adds the base of the GS segment.
    pub gs: bool,
    /// Truncates base + index*scale + disp to 32 bits before a segment base is added (prefix 0x67).
    pub addr32: bool,
    /// `disp` counts from the end of the instruction; no base or index.
    pub rip: bool,
}

impl Mem {
    const NONE: Mem = Mem { base: None, index: None, disp: 0, gs: false, addr32: false, rip: false };

    #[inline]
    pub const fn base(base: Gpr, disp: i32) -> Mem {
        Mem { base: Some(base), disp, ..Mem::NONE }
    }

    #[inline]
    pub const fn index(base: Gpr, index: Gpr, scale: u8, disp: i32) -> Mem {
        Mem { base: Some(base), index: Some((index, scale)), disp, ..Mem::NONE }
    }

    /// `[index*scale + disp]`.
    #[inline]
    pub const fn scaled(index: Gpr, scale: u8, disp: i32) -> Mem {
        Mem { index: Some((index, scale)), disp, ..Mem::NONE }
    }

    /// A sign-extended absolute address.
    #[inline]
    pub const fn abs(disp: i32) -> Mem {
        Mem { disp, ..Mem::NONE }
    }

    /// Relative to the end of the instruction; with `disp` 0 and [`super::Asm::link_rel32`] it refers to a label.
    #[inline]
    pub const fn rip(disp: i32) -> Mem {
        Mem { disp, rip: true, ..Mem::NONE }
    }

    #[inline]
    pub const fn gs(self) -> Mem {
        Mem { gs: true, ..self }
    }

    #[inline]
    pub const fn addr32(self) -> Mem {
        Mem { addr32: true, ..self }
    }

    /// The operand `bytes` further on.
    #[inline]
    pub const fn offset(self, bytes: i32) -> Mem {
        Mem { disp: self.disp + bytes, ..self }
    }
}

/// A general-purpose register or memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rm {
    Reg(Gpr),
    Mem(Mem),
}

impl From<Gpr> for Rm {
    #[inline]
    fn from(reg: Gpr) -> Rm {
        Rm::Reg(reg)
    }
}

impl From<Mem> for Rm {
    #[inline]
    fn from(mem: Mem) -> Rm {
        Rm::Mem(mem)
    }
}

/// A vector register or memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XRm {
    Reg(Xmm),
    Mem(Mem),
}

impl XRm {
    /// The same bits in ModR/M terms, where a register is only a number.
    #[inline]
    pub(super) fn rm(self) -> Rm {
        match self {
            XRm::Reg(x) => Rm::Reg(Gpr(x.0)),
            XRm::Mem(m) => Rm::Mem(m),
        }
    }
}

impl From<Xmm> for XRm {
    #[inline]
    fn from(reg: Xmm) -> XRm {
        XRm::Reg(reg)
    }
}

impl From<Mem> for XRm {
    #[inline]
    fn from(mem: Mem) -> XRm {
        XRm::Mem(mem)
    }
}
