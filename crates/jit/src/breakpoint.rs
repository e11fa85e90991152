//! Where a debugger wants to stop: breakpoints, single steps, exact flags.
//!
//! A breakpoint is not written into guest memory. Regions end before an address that has one, and the region that begins
//! there is a trap of kind `Step`; its instruction has not been executed.
//!
//! Nothing here costs anything while no debugger is there: translated code is the same, and translation asks one flag.
//!
//! **Invariants**: the set changes before the translations of the changed addresses are dropped, and both are looked at
//! under the lock of the cache that keeps a translation, so none survives that was made from the old set.

use crate::engine::{Engine, MAX_REGION_INSNS};
use crate::vcpu::{Stop, Vcpu};
use ir::{Builder, Op, Region, TrapKind};
use std::collections::BTreeSet;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The argument of the `Step` trap at a breakpoint.
pub const BREAKPOINT: u32 = 1;

#[derive(Default)]
pub(crate) struct Breakpoints {
    any: AtomicBool,
    exact: AtomicBool,
    addresses: RwLock<BTreeSet<u64>>,
}

impl Breakpoints {
    /// Flags must be right at every region boundary, because somebody looks at them there.
    pub fn exact(&self) -> bool {
        self.exact.load(Ordering::Relaxed)
    }

    /// They must be from now on; whether that is new.
    pub fn set_exact(&self) -> bool {
        !self.exact.swap(true, Ordering::SeqCst)
    }

    pub fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    pub fn has(&self, addr: u64) -> bool {
        self.any() && self.addresses.read().unwrap().contains(&addr)
    }

    /// Gives those that are new and those that are gone.
    pub fn replace(&self, addresses: BTreeSet<u64>) -> Vec<u64> {
        let mut current = self.addresses.write().unwrap();
        self.any.store(!addresses.is_empty(), Ordering::SeqCst);
        let changed = current.symmetric_difference(&addresses).copied().collect();
        *current = addresses;
        changed
    }
}

/// The guest instructions of a region: where each is, and its note.
fn insns(region: &Region) -> impl Iterator<Item = (u64, u32)> {
    let insns = region.insts.iter().filter(|i| i.op == Op::Insn);
    insns.map(|i| (region.pc.wrapping_add(i.a as i32 as u64), i.b))
}

/// Ends a region before the first instruction for which `stops` holds; `translate` makes it anew with that many instructions.
/// If that is none, a trap of this kind takes its place.
pub(crate) fn cut(
    b: &mut Builder,
    kind: TrapKind,
    stops: impl Fn(u64) -> bool,
    translate: impl FnOnce(u32, &mut Builder),
) {
    let key = b.region().key;
    let at = insns(b.region()).enumerate().find(|(_, (at, _))| stops(*at));
    match at {
        None => {}
        Some((0, (pc, note))) => {
            let covers = b.region().covers.clone();
            b.begin(key, pc);
            b.insn(0, note);
            b.trap(kind, BREAKPOINT, key);
            b.region_mut().covers = covers;
        }
        Some((n, _)) => translate(n as u32, b),
    }
}

impl Engine {
    /// Makes the arithmetic flags exact wherever a vCPU may stop (for a debugger, for `-d cpu`), from now on.
    pub fn set_exact(&self) {
        if self.breakpoints.set_exact() {
            self.invalidate(0, 1 << self.guest().layout().address_bits.min(63));
        }
    }

    /// Makes these addresses the breakpoints. The vCPUs should not be running: one that is may pass a new breakpoint once.
    pub fn set_breakpoints(&self, addresses: BTreeSet<u64>) {
        for changed in self.breakpoints.replace(addresses) {
            self.invalidate(changed, 1);
        }
    }

    /// As `translate`, stopping before breakpoints and restartable sequences.
    pub(crate) fn translate_to_breakpoint(&self, key: u64, max_insns: u32, b: &mut Builder) {
        let watched = self.sequences.is_watched();
        // What a short region stores may have been made before it: a longer one is looked at.
        self.translate(key, if watched { MAX_REGION_INSNS } else { max_insns }, b);
        if watched {
            self.discover(b.region());
            if insns(b.region()).nth(max_insns as usize).is_some() {
                self.translate(key, max_insns, b);
            }
        }
        if self.breakpoints.any() {
            let addresses = self.breakpoints.addresses.read().unwrap();
            cut(b, TrapKind::Step, |pc| addresses.contains(&pc), |n, b| self.translate(key, n, b));
        }
        if self.sequences.any() {
            cut(b, TrapKind::Sequence, |pc| self.sequences.find(pc).is_some(), |n, b| self.translate(key, n, b));
        }
        self.log_built(b.region());
    }
}

impl Vcpu {
    /// Executes one guest instruction, whether or not there is a breakpoint; `None` if nothing else needs the caller.
    pub fn step(&mut self) -> Option<Stop> {
        self.fp_flags();
        crate::interp::step(self)
    }
}
