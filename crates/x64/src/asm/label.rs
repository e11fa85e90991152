//! Labels, jumps and calls, alignment, and jumps left open for patching.
//!
//! **Invariants**: until a label is bound, the rel32 fields that refer to it form a chain: each holds the offset of the
//! previous one. Binding walks the chain, so a label costs four bytes and no allocation per use. Short forward jumps have
//! no space for a link and wait in a small list.

use super::encode::{Imm, Legacy, Map, Pp};
use super::{Asm, Cc, Gpr, Mem, Rm, Width};

/// A place in the code, perhaps not yet known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(u32);

/// End of a chain.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
enum State {
    /// Offset of the latest rel32 field that waits for the label, or [`NONE`].
    Open(u32),
    Bound(u32),
}

#[derive(Default)]
pub(super) struct Labels {
    states: Vec<State>,
    /// Label and offset of each waiting rel8 field.
    short: Vec<(Label, u32)>,
}

impl Labels {
    pub(super) fn clear(&mut self) {
        self.states.clear();
        self.short.clear();
    }
}

impl Asm {
    #[inline]
    pub fn label(&mut self) -> Label {
        self.labels.states.push(State::Open(NONE));
        Label(self.labels.states.len() as u32 - 1)
    }

    /// A label at the current place.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// Makes the label mean the current place and completes the jumps that waited for it.
    pub fn bind(&mut self, label: Label) {
        let here = self.pos as u32;
        let State::Open(mut at) = self.labels.states[label.0 as usize] else { panic!("label {} bound twice", label.0) };
        self.labels.states[label.0 as usize] = State::Bound(here);
        while at != NONE {
            let previous = self.read_u32(at as usize);
            self.patch_rel32(at as usize, here as usize);
            at = previous;
        }
        if !self.labels.short.is_empty() {
            self.bind_short(label, here);
        }
    }

    fn bind_short(&mut self, label: Label, here: u32) {
        let buf = &mut self.buf;
        self.labels.short.retain(|&(waiting, at)| {
            if waiting != label {
                return true;
            }
            let distance = here - (at + 1);
            assert!(distance < 0x80, "short jump of {distance} bytes");
            buf[at as usize] = distance as u8;
            false
        });
    }

    /// Where a label was bound.
    pub fn offset_of(&self, label: Label) -> Option<usize> {
        match self.labels.states[label.0 as usize] {
            State::Bound(at) => Some(at as usize),
            State::Open(_) => None,
        }
    }

    /// How many labels are used but not bound; 0 when the code is complete.
    pub fn open_labels(&self) -> usize {
        let waits = |(i, state): (usize, &State)| match *state {
            State::Open(at) => at != NONE || self.labels.short.iter().any(|&(label, _)| label.0 as usize == i),
            State::Bound(_) => false,
        };
        self.labels.states.iter().enumerate().filter(|&item| waits(item)).count()
    }

    fn read_u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.buf[at..at + 4].try_into().expect("four bytes"))
    }

    /// Makes the rel32 field at offset `at`, which ends its instruction, point to offset `target`.
    pub fn patch_rel32(&mut self, at: usize, target: usize) {
        let distance = (target as i64 - (at as i64 + 4)) as i32;
        self.buf[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }

    /// Makes the last four bytes written, a rel32 field that ends its instruction, refer to the label. After
    /// `sse_op(op, x, Mem::rip(0))` it addresses a constant.
    #[inline]
    pub fn link_rel32(&mut self, label: Label) {
        let at = self.pos - 4;
        match self.labels.states[label.0 as usize] {
            State::Bound(target) => self.patch_rel32(at, target as usize),
            State::Open(previous) => {
                self.buf[at..at + 4].copy_from_slice(&previous.to_le_bytes());
                self.labels.states[label.0 as usize] = State::Open(at as u32);
            }
        }
    }

    /// The rel8 to a bound label from the end of an instruction of two bytes that starts here, if it fits.
    #[inline]
    fn short_distance(&self, label: Label) -> Option<u8> {
        let State::Bound(target) = self.labels.states[label.0 as usize] else { return None };
        let distance = i64::from(target) - (self.pos as i64 + 2);
        i8::try_from(distance).ok().map(|d| d as u8)
    }

    /// JMP; short when the label lies close behind.
    #[inline]
    pub fn jmp(&mut self, label: Label) {
        match self.short_distance(label) {
            Some(distance) => self.raw(0xeb | u64::from(distance) << 8, 2),
            None => {
                self.jmp_rel32_placeholder();
                self.link_rel32(label);
            }
        }
    }

    /// Jcc; short when the label lies close behind.
    #[inline]
    pub fn jcc(&mut self, cc: Cc, label: Label) {
        match self.short_distance(label) {
            Some(distance) => self.raw(0x70 | cc as u64 | u64::from(distance) << 8, 2),
            None => {
                self.jcc_rel32_placeholder(cc);
                self.link_rel32(label);
            }
        }
    }

    /// JMP rel8; the label must come to lie within 127 bytes.
    #[inline]
    pub fn jmp_short(&mut self, label: Label) {
        self.short(0xeb, label);
    }

    /// Jcc rel8; the label must come to lie within 127 bytes.
    #[inline]
    pub fn jcc_short(&mut self, cc: Cc, label: Label) {
        self.short(0x70 | cc as u8, label);
    }

    #[inline]
    fn short(&mut self, op: u8, label: Label) {
        let distance = match self.labels.states[label.0 as usize] {
            State::Bound(_) => self.short_distance(label).expect("short jump too far back"),
            State::Open(_) => {
                self.labels.short.push((label, self.pos as u32 + 1));
                0
            }
        };
        self.raw(u64::from(op) | u64::from(distance) << 8, 2);
    }

    #[inline]
    pub fn call(&mut self, label: Label) {
        self.call_rel32_placeholder();
        self.link_rel32(label);
    }

    /// LEA dst, [rip + label].
    pub fn lea_label(&mut self, dst: Gpr, label: Label) {
        self.lea(Width::B8, dst, Mem::rip(0));
        self.link_rel32(label);
    }

    /// JMP to the next instruction; returns the offset of its rel32 field, for patching.
    #[inline]
    pub fn jmp_rel32_placeholder(&mut self) -> usize {
        self.raw(0xe9, 5);
        self.pos - 4
    }

    /// Jcc to the next instruction; returns the offset of its rel32 field, for patching.
    #[inline]
    pub fn jcc_rel32_placeholder(&mut self, cc: Cc) -> usize {
        self.raw(0x0f | (0x80 | cc as u64) << 8, 6);
        self.pos - 4
    }

    /// CALL to the next instruction; returns the offset of its rel32 field, for patching.
    #[inline]
    pub fn call_rel32_placeholder(&mut self) -> usize {
        self.raw(0xe8, 5);
        self.pos - 4
    }

    /// Pads so that a rel32 field that follows `opcode_bytes` of opcode (JMP, CALL 1; Jcc 2) is a multiple of four bytes
    /// from the start of the code: it can then be patched by one atomic store while other threads execute it.
    pub fn align_rel32(&mut self, opcode_bytes: usize) {
        self.nop((self.pos + opcode_bytes).wrapping_neg() & 3);
    }

    /// Pads with NOPs to a multiple of `n`, a power of two, from the start of the code.
    pub fn align(&mut self, n: usize) {
        debug_assert!(n.is_power_of_two(), "align({n})");
        self.nop(self.pos.wrapping_neg() & (n - 1));
    }

    /// JMP through a register or memory (64 bits).
    #[inline]
    pub fn jmp_rm(&mut self, rm: impl Into<Rm>) {
        self.group5(4, rm.into());
    }

    /// CALL through a register or memory (64 bits).
    #[inline]
    pub fn call_rm(&mut self, rm: impl Into<Rm>) {
        self.group5(2, rm.into());
    }

    #[inline]
    fn group5(&mut self, digit: u8, rm: Rm) {
        let e = Legacy { p66: false, pp: Pp::Np, map: Map::One, op: 0xff, w: false, rex: false };
        self.legacy(e, digit, rm, Imm::NONE);
    }
}
