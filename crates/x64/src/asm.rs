//! A one-pass x86-64 assembler: every method appends one instruction to a byte buffer.
//!
//! **Reference**: Intel SDM volume 2 (325383), chapters 2 (formats), 3–5 (instructions), appendix A (opcode maps).
//! **Not modelled**: EVEX and APX encodings, x87 and MMX, string instructions, far control transfers, privileged
//! instructions. Nothing here asks whether the host has an extension; [`VecOp::needs`] says which one a form takes.
//!
//! **Invariants**: an instruction is built in registers and stored with two or three fixed-size writes, so emission
//! allocates only when the buffer grows, and `buf` is longer than `pos` by at least the bytes of one instruction while
//! it is written. Operand mistakes (a scale of 3, `rsp` as an index, a short jump too far) are our own bugs: asserts.

mod encode;
mod int;
mod label;
mod regs;
mod rows;
#[cfg(test)]
mod tests;
mod vector;

pub use int::{Alu, BitTest, Cc, Shift};
pub use label::Label;
pub use regs::*;
pub use rows::{Needs, Shape, VecOp};

/// Bytes that must be free behind the cursor before an instruction is written: the fixed-size stores may run past it.
const ROOM: usize = 32;

/// The assembler and the code it has written.
pub struct Asm {
    /// Zero-filled storage; the code is its first `pos` bytes.
    buf: Vec<u8>,
    pos: usize,
    labels: label::Labels,
}

impl Default for Asm {
    fn default() -> Asm {
        Asm::new()
    }
}

impl Asm {
    pub fn new() -> Asm {
        Asm::with_capacity(4096)
    }

    pub fn with_capacity(bytes: usize) -> Asm {
        Asm { buf: vec![0; bytes + ROOM], pos: 0, labels: label::Labels::default() }
    }

    /// Forgets code and labels, keeps the storage.
    pub fn clear(&mut self) {
        self.pos = 0;
        self.labels.clear();
    }

    pub fn code(&self) -> &[u8] {
        &self.buf[..self.pos]
    }

    /// The written bytes, for patching in place.
    pub fn code_mut(&mut self) -> &mut [u8] {
        &mut self.buf[..self.pos]
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.pos
    }

    pub fn is_empty(&self) -> bool {
        self.pos == 0
    }

    /// Drops everything from `len` on; labels bound or used there must not be used any more.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.pos, "truncate({len}) of {} bytes", self.pos);
        self.pos = len;
    }

    /// Appends raw bytes (constants, tables).
    pub fn put(&mut self, bytes: &[u8]) {
        let end = self.pos + bytes.len();
        while self.buf.len() < end + ROOM {
            self.grow();
        }
        self.buf[self.pos..end].copy_from_slice(bytes);
        self.pos = end;
    }

    pub fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    pub fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let len = self.buf.len() * 2;
        self.buf.resize(len, 0);
    }
}
