//! The fixed code around regions: entering and leaving translated code.

use crate::asm::{Asm, Mem, R12, R13, R14, R15, RAX, RBP, RBX, RDI, RSI, RSP, Width};
use crate::env::{BIAS, Env, FRAME_BYTES, PINS, StubOffsets, block};

const SAVED: [crate::asm::Gpr; 6] = [RBP, RBX, R12, R13, R14, R15];

/// Generates the stubs for the start of the code memory. `env.stubs` is not read.
pub fn generate(env: &Env, asm: &mut Asm) -> StubOffsets {
    asm.align(16);
    let enter = asm.len();
    for r in SAVED {
        asm.push(r);
    }
    // Six pushes and the return address: 8 more bytes align the frame to 16.
    asm.alu_rm_imm(crate::asm::Alu::Sub, Width::B8, RSP, FRAME_BYTES);
    asm.lea(Width::B8, RBP, Mem::base(RDI, BIAS));
    asm.mov_rr(Width::B8, RAX, RSI);
    asm.mov_rm_r(Width::B8, block(env.offsets.host_rsp), RSP);
    asm.stmxcsr(block(env.offsets.host_mxcsr));
    asm.ldmxcsr(block(env.offsets.guest_mxcsr));
    for (loc, pin) in env.layout.pinned.iter().zip(PINS) {
        let w = if loc.size == 8 { Width::B8 } else { Width::B4 };
        asm.mov_r_rm(w, pin, block(loc.offset as i32));
    }
    asm.jmp_rm(RAX);

    asm.align(16);
    let leave = asm.len();
    for (loc, pin) in env.layout.pinned.iter().zip(PINS) {
        let w = if loc.size == 8 { Width::B8 } else { Width::B4 };
        asm.mov_rm_r(w, block(loc.offset as i32), pin);
    }
    asm.stmxcsr(block(env.offsets.guest_mxcsr));
    asm.ldmxcsr(block(env.offsets.host_mxcsr));
    asm.mov_r_rm(Width::B8, RSP, block(env.offsets.host_rsp));
    asm.alu_rm_imm(crate::asm::Alu::Add, Width::B8, RSP, FRAME_BYTES);
    for r in SAVED.into_iter().rev() {
        asm.pop(r);
    }
    asm.ret();
    StubOffsets { enter, leave }
}
