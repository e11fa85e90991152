//! The other side of a trial is our own translated code, in this process.
//!
//! **Invariants**: 1. code and data are mapped inside the window that the `Space` reserves, and only the vCPU of this
//! thread touches them while it runs. 2. The fault handler only asks `jit::fault::handle`, and aborts otherwise.
#![allow(unsafe_code)]

use crate::arm_machine::{self, signal_of_fault, signal_of_trap};
use crate::harness::{Batch, CODE_BASE, DATA_BASE, Outcome};
use arm::{Arm, Model, state};
use jit::{Config, Engine, PageFlags, Space, Stop, Vcpu};
use spec::{Error, Result};
use std::sync::{Arc, Once};

/// Traps after which execution goes on, per case.
const MAX_STOPS: usize = 32;

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: called by the kernel with these pointers.
    if !unsafe { jit::fault::handle(signal, info, context) } {
        std::process::abort();
    }
}

fn install_fault_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a handler of the right type (invariant 2).
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    });
}

/// Maps guest memory with these contents.
fn map(space: &Space, base: u32, bytes: &[u8], flags: PageFlags) -> Result<()> {
    let length = bytes.len().next_multiple_of(4096);
    // SAFETY: inside the window (invariant 1); the copy stays in the mapping.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let p = libc::mmap(space.host(base).cast(), length, protection, how, -1, 0);
        if p == libc::MAP_FAILED {
            return Err(Error::new("Could not map guest memory"));
        }
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), space.host(base), bytes.len());
    }
    space.set_range(base, length as u32, flags.with(PageFlags::MAPPED));
    Ok(())
}

/// Runs a batch.
pub fn run(model: &'static Model, batch: &Batch) -> Result<Vec<Option<Outcome>>> {
    install_fault_handler();
    let space = Space::new_32bit()?;
    let arm = Arm::new(model);
    let config = Config { tb_size: 32 << 20, ..Config::default() };
    let engine = Engine::new(Arc::new(arm.clone()), space.clone(), config)?;
    map(&space, CODE_BASE, &batch.code, PageFlags::READ.with(PageFlags::EXEC))?;
    map(&space, DATA_BASE, &batch.data, PageFlags::READ.with(PageFlags::WRITE))?;
    let mut vcpu = Vcpu::new(&engine);
    let mut data = batch.data.clone();
    let mut outcomes = Vec::new();
    for (start, before) in &batch.cases {
        arm_machine::set(&arm, vcpu.state_mut(), *start, before);
        vcpu.clear_exclusive();
        // A jump into the data (by a case that goes on where the interpreter stopped) has protected its page.
        space.prepare_write(DATA_BASE, batch.data.len() as u32);
        // SAFETY: mapped above (invariant 1).
        unsafe { std::ptr::copy_nonoverlapping(batch.data.as_ptr(), space.host(DATA_BASE), batch.data.len()) };
        let stop = go(&mut vcpu);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(space.host(DATA_BASE), data.as_mut_ptr(), data.len()) };
        let flags = vcpu.fp_flags();
        let mut after = vcpu.state().clone();
        after.set_u32(ir::state::FP_FLAGS, flags);
        let word = after.u32_at(ir::state::FLAGS) & ir::flag::ALL;
        after.set_u32(ir::state::FLAGS, word);
        outcomes.push(stop.map(|(signal, address)| Outcome {
            registers: arm_machine::get(&arm, &after),
            signal,
            address: address.unwrap_or_else(|| state::read_pc(&after)),
            sum: arm_machine::sum(&data),
        }));
    }
    Ok(outcomes)
}

/// Runs to the signal that ends the case, and the address that goes with it (none: the PC).
fn go(vcpu: &mut Vcpu) -> Option<(u32, Option<u32>)> {
    for _ in 0..MAX_STOPS {
        match vcpu.run() {
            Stop::Trap { kind, arg } => match signal_of_trap(kind, arg)? {
                0 => {}
                signal => return Some((signal, None)),
            },
            Stop::Fault(fault) => return Some((signal_of_fault(fault.kind), Some(fault.addr as u32))),
            Stop::Kicked => vcpu.clear_kick(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::TrapKind;

    /// Writable code that stores to its own page: trampolines on the stack, self-modifying programs.
    #[test]
    fn a_store_to_the_page_it_runs_on_makes_progress() {
        install_fault_handler();
        let space = Space::new_32bit().unwrap();
        let arm = Arm::new(arm::features::model("max").unwrap());
        let engine = Engine::new(Arc::new(arm.clone()), space.clone(), Config { tb_size: 8 << 20, ..Config::default() }).unwrap();
        // str r0, [pc, #0x20]; str r1, [pc] (the last mov); mov r2, #1; mov r2, #2; udf #0
        let words = [0xe58f_0020u32, 0xe58f_1000, 0xe3a0_2001, 0xe3a0_2002, 0xe7f0_00f0];
        let mut code: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        code.resize(4096, 0);
        map(&space, CODE_BASE, &code, PageFlags::READ.with(PageFlags::WRITE).with(PageFlags::EXEC)).unwrap();
        let mut vcpu = Vcpu::new(&engine);
        state::interwork(vcpu.state_mut(), CODE_BASE);
        vcpu.state_mut().set_u32(state::r(0), 0x1234_5678);
        // mov r2, #7
        vcpu.state_mut().set_u32(state::r(1), 0xe3a0_2007);
        assert!(matches!(vcpu.run(), Stop::Trap { kind: TrapKind::Undefined, .. }));
        let mut raw = [0; 4];
        assert_eq!(space.read_bytes(CODE_BASE + 0x28, &mut raw), 4);
        assert_eq!(u32::from_le_bytes(raw), 0x1234_5678);
        assert_eq!(vcpu.state().u32_at(state::r(2)), 7, "the changed instruction was executed");
    }
}
