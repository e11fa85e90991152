//! Watchpoints: single steps that look at every access before it happens.
//!
//! A vCPU of a process that has to watch memory is interpreted instruction by instruction; everybody else runs as always.
//! Machines look in the slow path of their memory accesses instead (`machine::debug`). An access that
//! is watched ends the instruction as a fault would, before it has changed anything that executing it again would not
//! change the same way.
//!
//! **Not modelled**: accesses by system calls, devices and helpers.

use crate::interp::{Memory, leave, one_instruction};
use crate::vcpu::{Stop, Vcpu};
use cpu::{Access, Fault, FaultKind};
use ir::interp::Bus;

/// A range of addresses to look after.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch {
    pub addr: u64,
    pub len: u64,
    pub read: bool,
    pub write: bool,
}

/// A watched access that has not happened yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit {
    /// Which watch, by index.
    pub watch: usize,
    /// The first byte accessed that is watched.
    pub addr: u64,
}

/// The first watch that an access concerns.
pub(crate) fn find(watches: &[Watch], addr: u64, size: u64, reads: bool, writes: bool) -> Option<Hit> {
    let seen = |w: &Watch| {
        let overlaps = addr < w.addr.saturating_add(w.len) && w.addr < addr.saturating_add(size);
        overlaps && (w.read && reads || w.write && writes)
    };
    let watch = watches.iter().position(seen)?;
    Some(Hit { watch, addr: addr.max(watches[watch].addr) })
}

/// Memory with an eye on it.
struct Watching<'a, B> {
    memory: B,
    watches: &'a [Watch],
    hit: Option<Hit>,
}

impl<B: Bus> Watching<'_, B> {
    fn look(&mut self, addr: u64, size: u8, reads: bool, writes: bool) -> Result<(), Fault> {
        self.hit = find(self.watches, addr, size.into(), reads, writes);
        if self.hit.is_none() {
            return Ok(());
        }
        Err(Fault { addr, access: if writes { Access::Write } else { Access::Read }, kind: FaultKind::Denied })
    }
}

impl<B: Bus> Bus for Watching<'_, B> {
    fn load(&mut self, addr: u64, size: u8) -> Result<u128, Fault> {
        self.look(addr, size, true, false)?;
        self.memory.load(addr, size)
    }

    fn store(&mut self, addr: u64, size: u8, value: u128) -> Result<(), Fault> {
        self.look(addr, size, false, true)?;
        self.memory.store(addr, size, value)
    }

    fn compare_exchange(&mut self, addr: u64, size: u8, expected: u128, new: u128) -> Result<u128, Fault> {
        self.look(addr, size, true, true)?;
        self.memory.compare_exchange(addr, size, expected, new)
    }

    fn load_exclusive(&mut self, addr: u64, size: u8) -> Result<u128, Fault> {
        self.look(addr, size, true, false)?;
        self.memory.load_exclusive(addr, size)
    }

    fn store_exclusive(&mut self, addr: u64, size: u8, value: u128) -> Result<bool, Fault> {
        self.look(addr, size, false, true)?;
        self.memory.store_exclusive(addr, size, value)
    }

    fn clear_exclusive(&mut self) {
        self.memory.clear_exclusive();
    }
}

impl Vcpu {
    /// As `step`, unless the instruction would access what is watched.
    pub fn step_watching(&mut self, watches: &[Watch]) -> Result<Option<Stop>, Hit> {
        self.fp_flags();
        let engine = self.engine.clone();
        let region = one_instruction(self, &engine);
        let block = &mut **self.block;
        let memory = Memory { engine: &engine, exclusive: &mut block.control.exclusive };
        let mut watching = Watching { memory, watches, hit: None };
        let bits = engine.guest.layout().address_bits;
        let outcome = ir::interp::run(&region, bits, &mut block.state, &mut watching, engine.guest.helpers());
        let hit = watching.hit;
        let stop = leave(self, &engine, &region, outcome);
        hit.map_or(Ok(stop), Err)
    }
}
