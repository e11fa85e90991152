//! The fixed code around regions: entering and leaving translated code.

use crate::asm::{
    Alu, Asm, Cc, Gpr, Mem, R8, R9, R10, R11, R12, R13, R14, R15, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, VecOp, Width, XRm, Xmm,
};
use crate::env::{BIAS, Env, FRAME_BYTES, Memory, PINS, StubOffsets, block, call_area, function, reason, save_area};

const SAVED: [crate::asm::Gpr; 6] = [RBP, RBX, R12, R13, R14, R15];

/// Generates the stubs for the start of the code memory. `env.stubs` is not read.
pub fn generate(env: &Env, asm: &mut Asm) -> StubOffsets {
    asm.align(16);
    let enter = asm.len();
    for r in SAVED {
        asm.push(r);
    }
    // Six pushes and the return address: 8 more bytes align the frame to 16.
    asm.alu_rm_imm(Alu::Sub, Width::B8, RSP, FRAME_BYTES);
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
    asm.alu_rm_imm(Alu::Add, Width::B8, RSP, FRAME_BYTES);
    for r in SAVED.into_iter().rev() {
        asm.pop(r);
    }
    asm.ret();
    let missed = generate_missed(env, asm, leave);
    let eval = generate_eval(env, asm);
    let mut slow = [[0; 2]; 4];
    if env.memory == Memory::Soft32 {
        let functions = [
            function::SLOW_LOAD,
            function::SLOW_STORE,
            function::SLOW_LOAD_EXCLUSIVE,
            function::SLOW_STORE_EXCLUSIVE,
        ];
        for (kind, f) in functions.into_iter().enumerate() {
            for vectors in [false, true] {
                slow[kind][vectors as usize] = generate_slow_access(env, asm, f, vectors);
            }
        }
    }
    StubOffsets { enter, leave, missed, eval, slow }
}

/// The second place of the jump cache, see `StubOffsets::missed`. Only the pinned registers live.
fn generate_missed(env: &Env, asm: &mut Asm, leave: usize) -> usize {
    let o = env.offsets;
    asm.align(16);
    let missed = asm.len();
    let out = asm.label();
    asm.mov_r_rm(Width::B8, RDX, block(ir::state::KEY as i32));
    asm.alu_rm_imm(Alu::Cmp, Width::B4, block(o.exit_req), 0);
    asm.jcc(Cc::NE, out);
    asm.mov_rr(Width::B4, RCX, RDX);
    // Two for each entry of sixteen bytes.
    asm.alu_rm_imm(Alu::And, Width::B4, RCX, (o.jump_cache_entries as i32 - 1) << 1);
    asm.alu_rm_imm(Alu::Xor, Width::B4, RCX, 2);
    let entry = Mem::index(RBP, RCX, 8, o.jump_cache - BIAS);
    asm.alu_r_rm(Alu::Cmp, Width::B8, RDX, entry);
    asm.jcc(Cc::NE, out);
    if env.relative() {
        let page = env.layout.page.expect("a layout with a page");
        asm.alu_rm_imm(Alu::And, Width::B4, RDX, !0xfff);
        asm.mov_rm_r(Width::B4, block(page.offset as i32), RDX);
    }
    asm.jmp_rm(entry.offset(8));
    asm.bind(out);
    asm.mov_r_imm64(RAX, reason::INDIRECT);
    let at = asm.jmp_rel32_placeholder();
    let distance = leave as i64 - (at + 4) as i64;
    asm.code_mut()[at..at + 4].copy_from_slice(&(distance as i32).to_le_bytes());
    missed
}

/// Lets the runtime execute an operation in a rare case of translated code, see `StubOffsets::eval`.
fn generate_eval(env: &Env, asm: &mut Asm) -> usize {
    const CLOBBERED: [Gpr; 8] = [RCX, RDX, RSI, RDI, R8, R9, R10, R11];
    // The return address, and 8 bytes for alignment.
    const BELOW: i32 = 16;
    asm.align(16);
    let eval = asm.len();
    asm.alu_rm_imm(Alu::Sub, Width::B8, RSP, 8);
    for (n, r) in CLOBBERED.into_iter().enumerate() {
        asm.mov_rm_r(Width::B8, save_area(1 + n).offset(BELOW), r);
    }
    save_vectors(env, asm, BELOW);
    asm.mov_rr(Width::B8, RSI, RAX);
    asm.lea(Width::B8, RDI, Mem::base(RBP, -BIAS));
    for (n, r) in [RAX, RDX, RCX, R8].into_iter().enumerate() {
        asm.lea(Width::B8, r, call_area(n).offset(BELOW));
    }
    asm.mov_rm_r(Width::B8, block(env.offsets.result), RAX);
    asm.mov_r_rm(Width::B8, RAX, block(env.offsets.functions));
    asm.call_rm(Mem::base(RAX, 8 * function::EVAL as i32));
    for (n, r) in CLOBBERED.into_iter().enumerate() {
        asm.mov_r_rm(Width::B8, r, save_area(1 + n).offset(BELOW));
    }
    load_vectors(env, asm, BELOW);
    asm.mov_r_rm(Width::B8, RAX, save_area(0).offset(BELOW));
    asm.alu_rm_imm(Alu::Add, Width::B8, RSP, 8);
    asm.ret();
    eval
}

/// An access that the translation tables cannot serve, see `StubOffsets::slow`.
fn generate_slow_access(env: &Env, asm: &mut Asm, f: usize, vectors: bool) -> usize {
    const CLOBBERED: [Gpr; 9] = [RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11];
    const BELOW: i32 = 16;
    asm.align(16);
    let at = asm.len();
    asm.alu_rm_imm(Alu::Sub, Width::B8, RSP, 8);
    for (n, r) in CLOBBERED.into_iter().enumerate() {
        asm.mov_rm_r(Width::B8, save_area(n).offset(BELOW), r);
    }
    if vectors {
        save_vectors(env, asm, BELOW);
    }
    asm.lea(Width::B8, RDI, Mem::base(RBP, -BIAS));
    asm.mov_r_rm(Width::B8, RAX, block(env.offsets.functions));
    asm.call_rm(Mem::base(RAX, 8 * f as i32));
    if vectors {
        load_vectors(env, asm, BELOW);
    }
    for (n, r) in CLOBBERED.into_iter().enumerate() {
        asm.mov_r_rm(Width::B8, r, save_area(n).offset(BELOW));
    }
    asm.alu_rm_imm(Alu::Add, Width::B8, RSP, 8);
    asm.alu_rm_imm(Alu::Cmp, Width::B4, block(env.offsets.fault), 0);
    asm.ret();
    at
}

/// All vector registers to the save area, seen from `below` bytes further down the stack.
fn save_vectors(env: &Env, asm: &mut Asm, below: i32) {
    for n in 0..16 {
        let m = XRm::Mem(save_area(10 + 2 * n).offset(below));
        match env.features.avx {
            true => asm.vex_store(VecOp::MovupsStore, m, Xmm(n as u8)),
            false => asm.sse_store(VecOp::MovupsStore, m, Xmm(n as u8)),
        }
    }
}

fn load_vectors(env: &Env, asm: &mut Asm, below: i32) {
    for n in 0..16 {
        let m = XRm::Mem(save_area(10 + 2 * n).offset(below));
        match env.features.avx {
            true => asm.vex_op(VecOp::Movups, Xmm(n as u8), Xmm(0), m),
            false => asm.sse_op(VecOp::Movups, Xmm(n as u8), m),
        }
    }
}
