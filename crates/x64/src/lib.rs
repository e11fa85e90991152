//! The x86-64 back end: writes host machine code into byte buffers it owns; mapping them executable is `host`'s part.
//!
//! [`asm`] is the assembler; [`lower`] turns an IR region into code in two passes (one backward over the IR, one forward that
//! allocates registers and emits); [`stubs`] is the fixed code around regions; [`env`] says what both assume of the runtime.
//!
//! **Register convention** (docs/decisions/0002): rbp = vCPU block + 128; rsp = frame of `FRAME_BYTES`; rsi rdi r8–r15 hold the
//! guest's pinned registers whenever a region is entered or left; rax rcx rdx rbx and all xmm are temporaries.
#![forbid(unsafe_code)]

pub mod alloc;
pub mod asm;
pub mod env;
pub mod lower;
pub mod stubs;

pub use env::Env;
pub use lower::{Compiled, Compiler};
