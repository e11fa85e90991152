//! Functions that generated code calls, see `x64::env::function`.
//!
//! Invariants:
//! 1. Each is called by generated code only, on the thread that runs the block, with pointers to that block, to its frame or
//!    to constants in the code memory.
//! 2. They run with the guest's MXCSR: no floating-point arithmetic here (softfloat is integer code).

use crate::interp::Memory;
use crate::vcpu::Block;
use cpu::Fault;
use ir::interp::Bus;
use ir::state::FP_FLAGS;
use ir::{Inst, MemOp, Op, Ty};
use std::sync::atomic::Ordering;
use x64::env::function;

/// The table before the guest's helpers.
pub(crate) fn table() -> Vec<usize> {
    let mut t = vec![0usize; function::HELPERS];
    t[function::EVAL] = eval as *const () as usize;
    t[function::LOAD_EXCLUSIVE] = load_exclusive as *const () as usize;
    t[function::STORE_EXCLUSIVE] = store_exclusive as *const () as usize;
    t
}

/// Any vector or floating-point operation, as the interpreter executes it.
pub(crate) unsafe extern "C" fn eval(block: *mut Block, op: *const [u8; 16], a: *const u128, b: *const u128, c: *const u128) {
    // SAFETY: invariant 1; operands need not be aligned.
    unsafe {
        let inst = unpack(&*op);
        let (r, flags) = ir::interp::eval_vector(&inst, a.read_unaligned(), b.read_unaligned(), c.read_unaligned())
            .unwrap_or_else(|| panic!("translated code asked for {}", inst.op.name()));
        if flags != 0 {
            let state = &mut (*block).state;
            let all = state.u32_at(FP_FLAGS) | flags as u32;
            state.set_u32(FP_FLAGS, all);
        }
        ((*block).control.result as *mut u128).write_unaligned(r);
    }
}

/// The instruction as the lowering packed it.
fn unpack(raw: &[u8; 16]) -> Inst {
    let word = |o: usize| u32::from_le_bytes([raw[o], raw[o + 1], raw[o + 2], raw[o + 3]]);
    Inst {
        op: Op::ALL[raw[0] as usize],
        ty: Ty::ALL[raw[1] as usize],
        aux: raw[2],
        fl: raw[3],
        a: word(4),
        b: word(8),
        c: word(12),
    }
}

fn report(block: &mut Block, fault: Fault) -> u64 {
    block.control.pending = Some(fault);
    block.control.fault.store(1, Ordering::Relaxed);
    0
}

fn misaligned(addr: u64, op: MemOp, access: cpu::Access) -> Option<Fault> {
    (addr & op.align_mask() != 0).then_some(Fault { addr, access, kind: cpu::FaultKind::Alignment })
}

unsafe extern "C" fn load_exclusive(block: *mut Block, addr: u64, op: u64) -> u64 {
    // SAFETY: invariant 1; the engine outlives the vCPU.
    let (block, engine) = unsafe { (&mut *block, &*(*block).control.engine) };
    let op = MemOp(op as u8);
    let addr = addr as u32 as u64;
    if let Some(fault) = misaligned(addr, op, cpu::Access::Read) {
        return report(block, fault);
    }
    let mut memory = Memory { engine, exclusive: &mut block.control.exclusive };
    match memory.load_exclusive(addr, op.bytes()) {
        Ok(v) => order(op, v as u64),
        Err(fault) => report(block, fault),
    }
}

/// 0 if the store was done, 1 if not.
unsafe extern "C" fn store_exclusive(block: *mut Block, addr: u64, value: u64, op: u64) -> u64 {
    // SAFETY: invariant 1; the engine outlives the vCPU.
    let (block, engine) = unsafe { (&mut *block, &*(*block).control.engine) };
    let op = MemOp(op as u8);
    let addr = addr as u32 as u64;
    if let Some(fault) = misaligned(addr, op, cpu::Access::Write) {
        return report(block, fault);
    }
    let value = order(op, value & ir::interp::pure::low_mask(8 * op.bytes() as u32));
    let mut memory = Memory { engine, exclusive: &mut block.control.exclusive };
    match memory.store_exclusive(addr, op.bytes(), value as u128) {
        Ok(done) => !done as u64,
        Err(fault) => report(block, fault),
    }
}

fn order(op: MemOp, v: u64) -> u64 {
    if op.is_swapped() { v.swap_bytes() >> (64 - 8 * op.bytes() as u32) } else { v }
}

/// Sticky exceptions of MXCSR in the layout of softfloat::Flags. The denormal flag has no counterpart.
fn from_mxcsr(mxcsr: u32) -> u32 {
    mxcsr & 1 | (mxcsr >> 1 & 0b11110)
}

/// All floating-point exceptions so far; moves those in the saved MXCSR to the state.
pub(crate) fn fp_flags(block: &mut Block) -> u32 {
    let all = block.state.u32_at(FP_FLAGS) | from_mxcsr(block.control.guest_mxcsr);
    block.state.set_u32(FP_FLAGS, all);
    block.control.guest_mxcsr &= !0x3f;
    all
}
