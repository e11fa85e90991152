//! The x86-64 back end: writes host machine code into byte buffers it owns; mapping them executable is `host`'s part.
//!
//! [`asm`] is the assembler.
#![forbid(unsafe_code)]

pub mod asm;
