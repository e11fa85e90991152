//! Prefixes, REX and VEX, opcode maps, ModR/M, SIB, displacement, immediate.
//!
//! **Reference**: SDM volume 2, chapter 2.

use super::{Asm, Gpr, Mem, ROOM, Rm};

/// The mandatory prefix of an opcode, numbered as VEX.pp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Pp {
    Np = 0,
    P66 = 1,
    Pf3 = 2,
    Pf2 = 3,
}

/// The opcode map, numbered as VEX.mmmmm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Map {
    One = 0,
    M0f = 1,
    M0f38 = 2,
    M0f3a = 3,
}

/// What selects an instruction of the legacy encoding.
#[derive(Clone, Copy)]
pub(super) struct Legacy {
    /// Operand-size prefix, besides a mandatory one (CRC32 has both).
    pub p66: bool,
    pub pp: Pp,
    pub map: Map,
    pub op: u8,
    /// REX.W.
    pub w: bool,
    /// An empty REX is needed to mean SPL, BPL, SIL or DIL.
    pub rex: bool,
}

/// What selects an instruction of the VEX encoding.
#[derive(Clone, Copy)]
pub(super) struct Vex {
    pub pp: Pp,
    pub map: Map,
    pub op: u8,
    pub w: bool,
    /// VEX.L: 256 bits.
    pub l: bool,
}

/// An immediate of 0, 1, 2, 4 or 8 bytes.
#[derive(Clone, Copy)]
pub(super) struct Imm {
    value: u64,
    len: u32,
}

impl Imm {
    pub const NONE: Imm = Imm { value: 0, len: 0 };

    #[inline]
    pub const fn u8(value: u8) -> Imm {
        Imm { value: value as u64, len: 1 }
    }

    #[inline]
    pub const fn bytes(value: i32, len: u32) -> Imm {
        Imm { value: value as u64, len }
    }

    #[inline]
    pub const fn u64(value: u64) -> Imm {
        Imm { value, len: 8 }
    }
}

/// Up to eight bytes of an instruction, gathered in a register.
#[derive(Clone, Copy)]
struct Part {
    bytes: u64,
    len: u32,
}

impl Part {
    const EMPTY: Part = Part { bytes: 0, len: 0 };

    #[inline(always)]
    fn push(&mut self, byte: u8) {
        self.bytes |= u64::from(byte) << (self.len * 8);
        self.len += 1;
    }

    #[inline(always)]
    fn push_if(&mut self, condition: bool, byte: u8) {
        self.bytes |= u64::from(if condition { byte } else { 0 }) << (self.len * 8);
        self.len += u32::from(condition);
    }
}

/// The high bits of the register numbers, as REX.X (bit 1) and REX.B (bit 0), and whether prefixes 0x65 and 0x67 are due.
#[inline(always)]
fn rm_prefixes(rm: &Rm) -> (u8, bool, bool) {
    match rm {
        Rm::Reg(r) => (r.0 >> 3, false, false),
        Rm::Mem(m) => {
            let base = m.base.map_or(0, |r| r.0 >> 3);
            let index = m.index.map_or(0, |(r, _)| r.0 >> 3);
            (index << 1 | base, m.gs, m.addr32)
        }
    }
}

/// ModR/M, SIB and displacement of a memory operand.
#[inline]
fn mem_part(reg: u8, m: &Mem) -> Part {
    let reg = (reg & 7) << 3;
    let disp = u64::from(m.disp as u32);
    if m.rip {
        debug_assert!(m.base.is_none() && m.index.is_none(), "rip-relative operand with a register");
        return Part { bytes: u64::from(reg | 5) | disp << 8, len: 5 };
    }
    let index = m.index.map(|(r, scale)| {
        debug_assert!(r.0 != 4, "rsp cannot be an index");
        debug_assert!(matches!(scale, 1 | 2 | 4 | 8), "scale {scale}");
        (scale.trailing_zeros() as u8) << 6 | (r.0 & 7) << 3
    });
    let Some(Gpr(base)) = m.base else {
        // Without a base the SIB byte is needed: the short form means rip-relative.
        let sib = index.unwrap_or(0x20) | 5;
        return Part { bytes: u64::from(reg | 4) | u64::from(sib) << 8 | disp << 16, len: 6 };
    };
    let base = base & 7;
    let (mode, disp, disp_len) = if m.disp == 0 && base != 5 {
        (0x00, 0, 0)
    } else if i32::from(m.disp as i8) == m.disp {
        (0x40, disp & 0xff, 1)
    } else {
        (0x80, disp, 4)
    };
    if index.is_none() && base != 4 {
        Part { bytes: u64::from(mode | reg | base) | disp << 8, len: 1 + disp_len }
    } else {
        let sib = index.unwrap_or(0x20) | base;
        Part { bytes: u64::from(mode | reg | 4) | u64::from(sib) << 8 | disp << 16, len: 2 + disp_len }
    }
}

#[inline(always)]
fn rm_part(reg: u8, rm: &Rm) -> Part {
    match rm {
        Rm::Reg(r) => Part { bytes: u64::from(0xc0 | (reg & 7) << 3 | r.0 & 7), len: 1 },
        Rm::Mem(m) => mem_part(reg, m),
    }
}

impl Asm {
    /// The next [`ROOM`] bytes.
    #[inline(always)]
    fn room(&mut self) -> &mut [u8] {
        if self.pos + ROOM > self.buf.len() {
            self.grow();
        }
        &mut self.buf[self.pos..self.pos + ROOM]
    }

    #[inline(always)]
    fn write(&mut self, head: Part, tail: Part, imm: Imm) {
        let room = self.room();
        let (a, b) = (head.len as usize, (head.len + tail.len) as usize);
        room[..8].copy_from_slice(&head.bytes.to_le_bytes());
        room[a..a + 8].copy_from_slice(&tail.bytes.to_le_bytes());
        room[b..b + 8].copy_from_slice(&imm.value.to_le_bytes());
        self.pos += b + imm.len as usize;
    }

    /// Up to eight bytes of an instruction without operands to encode; the first byte is the lowest.
    #[inline(always)]
    pub(super) fn raw(&mut self, bytes: u64, len: u32) {
        self.room()[..8].copy_from_slice(&bytes.to_le_bytes());
        self.pos += len as usize;
    }

    #[inline(always)]
    pub(super) fn byte(&mut self, byte: u8) {
        self.room()[0] = byte;
        self.pos += 1;
    }

    /// Prefixes, REX and opcode; `reg` and `xb` supply REX.R, REX.X and REX.B.
    #[inline(always)]
    fn legacy_head(e: Legacy, reg: u8, xb: u8, gs: bool, addr32: bool) -> Part {
        let mut head = Part::EMPTY;
        head.push_if(gs, 0x65);
        head.push_if(addr32, 0x67);
        head.push_if(e.p66 || e.pp == Pp::P66, 0x66);
        head.push_if(e.pp == Pp::Pf3, 0xf3);
        head.push_if(e.pp == Pp::Pf2, 0xf2);
        let rex = u8::from(e.w) << 3 | (reg >> 3) << 2 | xb;
        head.push_if(rex != 0 || e.rex, 0x40 | rex);
        head.push_if(e.map != Map::One, 0x0f);
        head.push_if(e.map == Map::M0f38, 0x38);
        head.push_if(e.map == Map::M0f3a, 0x3a);
        head.push(e.op);
        head
    }

    /// Legacy encoding with ModR/M. `reg` is a register number or an opcode extension.
    #[inline]
    pub(super) fn legacy(&mut self, e: Legacy, reg: u8, rm: Rm, imm: Imm) {
        let (xb, gs, addr32) = rm_prefixes(&rm);
        let head = Asm::legacy_head(e, reg, xb, gs, addr32);
        self.write(head, rm_part(reg, &rm), imm);
    }

    /// Legacy encoding with a register in the low three bits of the opcode.
    #[inline]
    pub(super) fn legacy_plus(&mut self, e: Legacy, reg: Gpr, imm: Imm) {
        let e = Legacy { op: e.op | reg.0 & 7, ..e };
        self.write(Asm::legacy_head(e, 0, reg.0 >> 3, false, false), Part::EMPTY, imm);
    }

    /// VEX encoding; `vvvv` is 0 when the instruction does not use it (it is stored inverted).
    #[inline]
    pub(super) fn vex(&mut self, e: Vex, reg: u8, vvvv: u8, rm: Rm, imm: Imm) {
        let (xb, gs, addr32) = rm_prefixes(&rm);
        let mut head = Part::EMPTY;
        head.push_if(gs, 0x65);
        head.push_if(addr32, 0x67);
        let r = if reg < 8 { 0x80 } else { 0 };
        let last = (!vvvv & 15) << 3 | u8::from(e.l) << 2 | e.pp as u8;
        if xb == 0 && !e.w && e.map == Map::M0f {
            head.push(0xc5);
            head.push(r | last);
        } else {
            head.push(0xc4);
            head.push(r | (!xb & 3) << 5 | e.map as u8);
            head.push(u8::from(e.w) << 7 | last);
        }
        head.push(e.op);
        self.write(head, rm_part(reg, &rm), imm);
    }
}
