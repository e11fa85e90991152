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

impl Legacy {
    /// What depends on neither operand, packed so that it is a constant at nearly every call: the opcode's bytes in bits
    /// 0–23, their count in 24–31, the prefixes in 32–47, their count in 48–55, REX in 56–63.
    #[inline(always)]
    const fn pack(self) -> u64 {
        let op = self.op as u64;
        let (opcode, count) = match self.map {
            Map::One => (op, 1),
            Map::M0f => (0x0f | op << 8, 2),
            Map::M0f38 => (0x380f | op << 16, 3),
            Map::M0f3a => (0x3a0f | op << 16, 3),
        };
        let (prefix, prefixes) = match (self.p66, self.pp) {
            (false, Pp::Np) => (0, 0),
            (true, Pp::Np) | (_, Pp::P66) => (0x66, 1),
            (false, Pp::Pf3) => (0xf3, 1),
            (false, Pp::Pf2) => (0xf2, 1),
            (true, Pp::Pf3) => (0xf366, 2),
            (true, Pp::Pf2) => (0xf266, 2),
        };
        let rex = if self.w {
            0x48
        } else if self.rex {
            0x40
        } else {
            0
        };
        opcode | count << 24 | prefix << 32 | prefixes << 48 | rex << 56
    }
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
    /// This and then `next`; together at most eight bytes.
    #[inline(always)]
    fn then(self, next: Part) -> Part {
        Part { bytes: self.bytes | next.bytes << (self.len * 8), len: self.len + next.len }
    }
}

/// ModR/M of two registers.
#[inline(always)]
fn reg_part(reg: u8, rm: Gpr) -> Part {
    Part { bytes: u64::from(0xc0 | (reg & 7) << 3 | rm.0 & 7), len: 1 }
}

/// The high bits of a memory operand's registers, as REX.X (bit 1) and REX.B (bit 0).
#[inline(always)]
fn mem_xb(m: &Mem) -> u8 {
    m.index.map_or(0, |(r, _)| r.0 >> 3) << 1 | m.base.map_or(0, |r| r.0 >> 3)
}

/// Prefixes, REX and opcode of the legacy encoding; `rex` adds REX.R, REX.X and REX.B to a packed [`Legacy`].
#[inline(always)]
fn legacy_head(packed: u64, rex: u8) -> Part {
    let rex = (packed >> 56) as u8 | rex;
    let prefix = Part { bytes: packed >> 32 & 0xffff, len: (packed >> 48) as u32 & 0xff };
    let rex = Part { bytes: if rex != 0 { u64::from(rex | 0x40) } else { 0 }, len: u32::from(rex != 0) };
    let opcode = Part { bytes: packed & 0xff_ffff, len: (packed >> 24) as u32 & 0xff };
    prefix.then(rex).then(opcode)
}

/// VEX prefix and opcode.
#[inline(always)]
fn vex_head(e: Vex, reg: u8, vvvv: u8, xb: u8) -> Part {
    let r = if reg < 8 { 0x80 } else { 0 };
    let last = (!vvvv & 15) << 3 | u8::from(e.l) << 2 | e.pp as u8;
    if xb == 0 && !e.w && e.map == Map::M0f {
        Part { bytes: 0xc5 | u64::from(r | last) << 8 | u64::from(e.op) << 16, len: 3 }
    } else {
        let middle = r | (!xb & 3) << 5 | e.map as u8;
        let last = u8::from(e.w) << 7 | last;
        Part { bytes: 0xc4 | u64::from(middle) << 8 | u64::from(last) << 16 | u64::from(e.op) << 24, len: 4 }
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

impl Asm {
    /// The next [`ROOM`] bytes.
    #[inline(always)]
    fn room(&mut self) -> &mut [u8] {
        if self.pos + ROOM > self.buf.len() {
            self.grow();
        }
        &mut self.buf[self.pos..self.pos + ROOM]
    }

    /// An instruction whose opcode and ModR/M take at most eight bytes.
    #[inline(always)]
    fn write(&mut self, part: Part, imm: Imm) {
        let room = self.room();
        let at = part.len as usize;
        room[..8].copy_from_slice(&part.bytes.to_le_bytes());
        room[at..at + 8].copy_from_slice(&imm.value.to_le_bytes());
        self.pos += at + imm.len as usize;
    }

    /// An instruction with memory: up to eight bytes of prefixes and opcode, up to eight of operand.
    #[inline(always)]
    fn write_mem(&mut self, head: Part, tail: Part, imm: Imm) {
        let room = self.room();
        let (a, b) = (head.len as usize, (head.len + tail.len) as usize);
        room[..8].copy_from_slice(&head.bytes.to_le_bytes());
        room[a..a + 8].copy_from_slice(&tail.bytes.to_le_bytes());
        room[b..b + 8].copy_from_slice(&imm.value.to_le_bytes());
        self.pos += b + imm.len as usize;
    }

    /// The prefixes that a memory operand asks for.
    #[inline(always)]
    fn mem_prefixes(&mut self, m: &Mem) {
        if m.gs {
            self.byte(0x65);
        }
        if m.addr32 {
            self.byte(0x67);
        }
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

    /// Legacy encoding with ModR/M. `reg` is a register number or an opcode extension.
    #[inline(always)]
    pub(super) fn legacy(&mut self, e: Legacy, reg: u8, rm: Rm, imm: Imm) {
        match rm {
            Rm::Reg(rm) => self.legacy_reg(e.pack(), reg, rm, imm),
            Rm::Mem(m) => self.legacy_mem(e.pack(), reg, &m, imm),
        }
    }

    #[inline]
    fn legacy_reg(&mut self, packed: u64, reg: u8, rm: Gpr, imm: Imm) {
        let head = legacy_head(packed, reg >> 3 << 2 | rm.0 >> 3);
        self.write(head.then(reg_part(reg, rm)), imm);
    }

    #[inline]
    fn legacy_mem(&mut self, packed: u64, reg: u8, m: &Mem, imm: Imm) {
        self.mem_prefixes(m);
        let head = legacy_head(packed, reg >> 3 << 2 | mem_xb(m));
        self.write_mem(head, mem_part(reg, m), imm);
    }

    /// Legacy encoding with a register in the low three bits of the opcode.
    #[inline]
    pub(super) fn legacy_plus(&mut self, e: Legacy, reg: Gpr, imm: Imm) {
        let packed = Legacy { op: e.op | reg.0 & 7, ..e }.pack();
        self.write(legacy_head(packed, reg.0 >> 3), imm);
    }

    /// VEX encoding; `vvvv` is 0 when the instruction does not use it (it is stored inverted).
    #[inline(always)]
    pub(super) fn vex(&mut self, e: Vex, reg: u8, vvvv: u8, rm: Rm, imm: Imm) {
        match rm {
            Rm::Reg(rm) => self.vex_reg(e, reg, vvvv, rm, imm),
            Rm::Mem(m) => self.vex_mem(e, reg, vvvv, &m, imm),
        }
    }

    #[inline]
    fn vex_reg(&mut self, e: Vex, reg: u8, vvvv: u8, rm: Gpr, imm: Imm) {
        let head = vex_head(e, reg, vvvv, rm.0 >> 3);
        self.write(head.then(reg_part(reg, rm)), imm);
    }

    #[inline]
    fn vex_mem(&mut self, e: Vex, reg: u8, vvvv: u8, m: &Mem, imm: Imm) {
        self.mem_prefixes(m);
        let head = vex_head(e, reg, vvvv, mem_xb(m));
        self.write_mem(head, mem_part(reg, m), imm);
    }
}
