//! The run loop around translated code.
//!
//! Invariants:
//! 1. Code of a cache is entered only while `vcpu.cache` keeps that cache alive, with the block's own address in rdi.
//! 2. The thread's GS base is the guest window's base whenever translated code runs.

use crate::cache::Name;
use crate::interp::explain;
use crate::jumps;
use crate::vcpu::{Stop, UserBlock, Vcpu};
use cpu::{Access, Fault, FaultKind};
use ir::TrapKind;
use ir::state::KEY;
use std::cell::Cell;
use std::sync::atomic::Ordering;
use x64::env::reason;

type Enter = unsafe extern "C" fn(*mut UserBlock, u64) -> u64;

/// How often a fault that nothing explains is tried again before it counts as the guest's (another thread may have opened
/// the page between the fault and the look at it).
const UNEXPLAINED_TRIES: u32 = 3;

pub(crate) fn run(vcpu: &mut Vcpu) -> Stop {
    set_window(vcpu.engine.space().base() as usize);
    loop {
        if vcpu.block.control.exit_req.load(Ordering::Relaxed) != 0 {
            vcpu.serve_requests();
            if vcpu.engine.take_back_exit_request(&vcpu.block.control) {
                return Stop::Kicked;
            }
        }
        let key = vcpu.block.state.u64_at(KEY);
        let mut code = code_of(vcpu, key);
        // Exits that are not linked yet come back here again and again; everything else goes the long way.
        let why = loop {
            vcpu.engine.observe(&vcpu.block.state, code as usize);
            let why = enter(vcpu, code);
            if why & 0xff != reason::LINK {
                break why;
            }
            let site = (why >> 32) as u32;
            match vcpu.cache.follow(&*vcpu.engine, site) {
                Ok((key, next)) => {
                    vcpu.block.state.set_u64(KEY, key);
                    code = next;
                }
                Err(_) => {
                    let key = vcpu.cache.site_key(site);
                    vcpu.block.state.set_u64(KEY, key);
                    vcpu.engine.start_new_cache(&vcpu.cache);
                    break u64::MAX;
                }
            }
            if vcpu.block.control.exit_req.load(Ordering::Relaxed) != 0 {
                break u64::MAX;
            }
        };
        if why == u64::MAX {
            continue;
        }
        if let Some(stop) = left(vcpu, why) {
            return stop;
        }
    }
}

fn code_of(vcpu: &mut Vcpu, key: u64) -> u64 {
    if let Some(code) = jumps::find(&vcpu.block.jumps, key) {
        return code;
    }
    loop {
        match vcpu.cache.code(&*vcpu.engine, Name::user(key)) {
            Ok(code) => {
                if !vcpu.engine.config.nochain {
                    jumps::insert(&mut vcpu.block.jumps, key, code);
                }
                return code;
            }
            Err(_) => {
                vcpu.engine.start_new_cache(&vcpu.cache);
                vcpu.serve_requests();
            }
        }
    }
}

fn enter(vcpu: &mut Vcpu, code: u64) -> u64 {
    let entries = vcpu.block.control.entries.load(Ordering::Relaxed);
    vcpu.block.control.entries.store(entries.wrapping_add(1), Ordering::Relaxed);
    // SAFETY: invariants 1 and 2; the address is that of the cache's own entry stub.
    let why = unsafe {
        let f: Enter = std::mem::transmute(vcpu.cache.enter());
        f(&raw mut *vcpu.block, code)
    };
    vcpu.block.control.entries.store(entries.wrapping_add(2), Ordering::Release);
    why
}

/// Deals with the reason for which translated code was left.
fn left(vcpu: &mut Vcpu, why: u64) -> Option<Stop> {
    let high = (why >> 32) as u32;
    match why & 0xff {
        reason::INDIRECT => None,
        reason::TRAP if (why >> 8) as u8 == TrapKind::Sequence as u8 => crate::sequence::run(vcpu),
        reason::TRAP => Some(Stop::Trap { kind: TrapKind::from_u8((why >> 8) as u8), arg: high }),
        reason::KICK => {
            let key = vcpu.cache.site_key(high);
            vcpu.block.state.set_u64(KEY, key);
            None
        }
        reason::HOST_FAULT => host_fault(vcpu),
        reason::FAULT | reason::ALIGNMENT => runtime_fault(vcpu, why),
        other => panic!("translated code left for the unknown reason {other:#x}"),
    }
}

/// A host instruction of translated code faulted.
fn host_fault(vcpu: &mut Vcpu) -> Option<Stop> {
    let hf = vcpu.block.control.host_fault;
    let exclusive = &mut vcpu.block.control.exclusive;
    if exclusive.held != 0 {
        // A store-exclusive faulted while it had the counter locked.
        exclusive.held = 0;
        vcpu.engine.monitor(exclusive.addr).store(exclusive.version, Ordering::Release);
    }
    let offset = vcpu.cache.memory.offset_of(hf.rip as usize).expect("a fault in translated code lies in its cache");
    let origin = vcpu.cache.origin(offset).expect("every access has a fault record");
    let key = vcpu.engine.guest().key_at(origin.key, origin.delta, origin.note);
    vcpu.block.state.set_u64(KEY, key);
    let access = if hf.write { Access::Write } else { Access::Read };
    let space = vcpu.engine.space().clone();
    let Some(addr) = space.guest(hf.addr as usize) else {
        panic!(
            "translated code accessed {:#x}, which is not the guest's, for the instruction at key {key:#x}",
            hf.addr
        );
    };
    match explain(&space, addr, 1, access) {
        None => {
            vcpu.bus_errors = 0;
            crate::interp::step(vcpu)
        }
        Some(Fault { kind: FaultKind::Bus, .. }) if vcpu.bus_errors < UNEXPLAINED_TRIES => {
            vcpu.bus_errors += 1;
            None
        }
        Some(fault) => {
            vcpu.bus_errors = 0;
            Some(Stop::Fault(fault))
        }
    }
}

/// A runtime function reported a fault, or an alignment check failed.
fn runtime_fault(vcpu: &mut Vcpu, why: u64) -> Option<Stop> {
    let control = &mut vcpu.block.control;
    let fault = if why & 0xff == reason::ALIGNMENT {
        let addr = control.fault.load(Ordering::Relaxed) as u64 | (control.fault_high as u64) << 32;
        control.fault.store(0, Ordering::Relaxed);
        Fault { addr, access: Access::Read, kind: FaultKind::Alignment }
    } else {
        control.fault.store(0, Ordering::Relaxed);
        control.pending.take().expect("a reported fault has been described")
    };
    let offset = vcpu.block.control.host_fault.rip as usize;
    let offset = vcpu.cache.memory.offset_of(offset).expect("a fault in translated code lies in its cache");
    let origin = vcpu.cache.origin_of_record(offset, (why >> 32) as u32).expect("every access has a fault record");
    let key = vcpu.engine.guest().key_at(origin.key, origin.delta, origin.note);
    vcpu.block.state.set_u64(KEY, key);
    Some(Stop::Fault(fault))
}

thread_local! {
    static WINDOW: Cell<usize> = const { Cell::new(0) };
}

/// Sets the thread's GS base once.
fn set_window(base: usize) {
    const ARCH_SET_GS: libc::c_long = 0x1001;
    WINDOW.with(|w| {
        if w.get() != base {
            // SAFETY: neither Rust nor the C library uses GS on x86-64 Linux.
            let rc = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, base) };
            assert_eq!(rc, 0, "the kernel refuses to set the GS base");
            w.set(base);
        }
    });
}
