//! Running with the IR interpreter: the fallback and the oracle of translated code.
//!
//! Invariants:
//! 1. Guest memory is reached through `host::guarded` only, at addresses inside the window.

use crate::engine::Engine;
use crate::space::{PageFlags, Space};
use crate::vcpu::{Exclusive, Stop, Vcpu};
use cpu::{Access, Fault, FaultKind};
use host::guarded;
use ir::interp::{Bus, Outcome};
use std::sync::atomic::Ordering;

pub(crate) fn run(vcpu: &mut Vcpu) -> Stop {
    let engine = vcpu.engine.clone();
    loop {
        if vcpu.block.control.exit_req.load(Ordering::Relaxed) != 0 {
            vcpu.serve_requests();
            if engine.take_back_exit_request(&vcpu.block.control) {
                return Stop::Kicked;
            }
        }
        let key = vcpu.block.state.u64_at(ir::state::KEY);
        let within = engine.sequences.any() && engine.sequences.find(engine.guest.pc(key)).is_some();
        let stop = if within {
            crate::sequence::run(vcpu)
        } else {
            let region = engine.region(key);
            engine.observe(&vcpu.block.state, 0);
            execute(vcpu, &engine, &region)
        };
        if let Some(stop) = stop {
            return stop;
        }
    }
}

/// Executes one instruction: a store to a page with translated code that is itself on such a page. Translating it again
/// would protect its page again, for ever; here the store is retried until it succeeds.
pub(crate) fn step(vcpu: &mut Vcpu) -> Option<Stop> {
    let engine = vcpu.engine.clone();
    let region = one_instruction(vcpu, &engine);
    execute(vcpu, &engine, &region)
}

/// The region of the next instruction alone.
pub(crate) fn one_instruction(vcpu: &Vcpu, engine: &Engine) -> ir::Region {
    let key = vcpu.block.state.u64_at(ir::state::KEY);
    let mut b = ir::Builder::new();
    engine.translate(key, 1, &mut b);
    b.take()
}

/// Interprets a region and leaves the key where execution goes on.
fn execute(vcpu: &mut Vcpu, engine: &Engine, region: &ir::Region) -> Option<Stop> {
    let block = &mut **vcpu.block;
    let mut memory = Memory { engine, exclusive: &mut block.control.exclusive };
    let bits = engine.guest.layout().address_bits;
    let outcome = ir::interp::run(region, bits, &mut block.state, &mut memory, engine.guest.helpers());
    leave(vcpu, engine, region, outcome)
}

/// Leaves a region by an outcome.
pub(crate) fn leave(vcpu: &mut Vcpu, engine: &Engine, region: &ir::Region, outcome: Outcome) -> Option<Stop> {
    let block = &mut **vcpu.block;
    match outcome {
        Outcome::Goto(key) => {
            block.state.set_u64(ir::state::KEY, key);
            None
        }
        Outcome::Trap { kind, arg, key } => {
            block.state.set_u64(ir::state::KEY, key);
            Some(Stop::Trap { kind, arg })
        }
        Outcome::Fault { fault, delta, note } => {
            block.state.set_u64(ir::state::KEY, engine.guest.key_at(region.key, delta, note));
            Some(Stop::Fault(fault))
        }
    }
}

/// Guest memory in user mode.
pub(crate) struct Memory<'a> {
    pub engine: &'a Engine,
    pub exclusive: &'a mut Exclusive,
}

/// What a failed access to guest memory means; `None` if it should simply be tried again, because it hit a page that was
/// write-protected for the translator's own reasons.
pub(crate) fn explain(space: &Space, addr: u32, size: u8, access: Access) -> Option<Fault> {
    // The access may have begun on a good page and ended on a bad one.
    let last = addr.wrapping_add(size as u32 - 1);
    for at in [addr, last] {
        let flags = space.page(at);
        let at_fault = if at == addr { addr } else { at & !(crate::space::PAGE_BYTES - 1) };
        let fault = |kind| Some(Fault { addr: at_fault as u64, access, kind });
        if !flags.has(PageFlags::MAPPED) {
            return fault(FaultKind::Unmapped);
        }
        let needed = if access == Access::Write { PageFlags::WRITE } else { PageFlags::READ };
        if !flags.has(needed) {
            return fault(FaultKind::Denied);
        }
        if access == Access::Write && flags.has(PageFlags::CODE) {
            space.prepare_write(addr, size as u32);
            return None;
        }
    }
    Some(Fault { addr: addr as u64, access, kind: FaultKind::Bus })
}

impl Memory<'_> {
    /// Retries an access until it succeeds or its failure is the guest's.
    fn retry<T>(
        &self,
        addr: u64,
        size: u8,
        access: Access,
        mut f: impl FnMut(*mut u8) -> Result<T, guarded::Failed>,
    ) -> Result<T, Fault> {
        let mut bus_errors = 0;
        loop {
            if let Ok(v) = f(self.engine.space.host(addr as u32)) {
                return Ok(v);
            }
            match explain(&self.engine.space, addr as u32, size, access) {
                // Another thread may have opened the page between the access and the explanation: believe it the third time.
                Some(Fault { kind: FaultKind::Bus, .. }) if bus_errors < 2 => bus_errors += 1,
                Some(fault) => return Err(fault),
                None => {}
            }
        }
    }
}

impl Bus for Memory<'_> {
    fn load(&mut self, addr: u64, size: u8) -> Result<u128, Fault> {
        if size == 16 {
            let low = self.load(addr, 8)?;
            return Ok(low | self.load(addr.wrapping_add(8), 8)? << 64);
        }
        // SAFETY: invariant 1.
        self.retry(addr, size, Access::Read, |p| unsafe { guarded::load(p, size) }).map(u128::from)
    }

    fn store(&mut self, addr: u64, size: u8, value: u128) -> Result<(), Fault> {
        if size == 16 {
            self.store(addr, 8, value)?;
            return self.store(addr.wrapping_add(8), 8, value >> 64);
        }
        // SAFETY: invariant 1.
        self.retry(addr, size, Access::Write, |p| unsafe { guarded::store(p, size, value as u64) })
    }

    fn compare_exchange(&mut self, addr: u64, size: u8, expected: u128, new: u128) -> Result<u128, Fault> {
        // SAFETY: invariant 1.
        self.retry(addr, size, Access::Write, |p| unsafe {
            guarded::compare_exchange(p, size, expected as u64, new as u64)
        })
        .map(u128::from)
    }

    fn load_exclusive(&mut self, addr: u64, size: u8) -> Result<u128, Fault> {
        let version = self.engine.monitor_version(addr);
        let value = self.load(addr, size)?;
        self.exclusive.open(addr, value as u64, version);
        Ok(value)
    }

    fn store_exclusive(&mut self, addr: u64, size: u8, value: u128) -> Result<bool, Fault> {
        let was_open = std::mem::take(&mut self.exclusive.open) != 0;
        if !was_open || self.exclusive.addr != addr {
            return Ok(false);
        }
        let monitor = self.engine.monitor(addr);
        let Some(version) = self.exclusive.lock(monitor) else {
            return Ok(false);
        };
        let expected = self.exclusive.value as u128;
        let old = self.compare_exchange(addr, size, expected, value);
        monitor.store(version + 2, Ordering::Release);
        Ok(old? == expected)
    }

    fn clear_exclusive(&mut self) {
        self.exclusive.open = 0;
    }
}
