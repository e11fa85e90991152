//! A machine's vCPUs under a debugger: breakpoints, watchpoints, single steps; each vCPU goes on as it is told.
//!
//! Breakpoints are virtual addresses, while translations belong to physical pages. A virtual page with breakpoints therefore has
//! translations of its own: a variant of the name, one number for each set of offsets, in which regions end before a
//! breakpoint and the region that begins there is a trap. One more variant has regions of one instruction, for steps. Nothing
//! else has to be dropped when breakpoints change but what leads to translations (jump caches).
//!
//! Pages with watchpoints are never entered into the tables of translated code, so that the slow path sees every access.
//! A watched access fails before it has happened, as a fault would.
//!
//! **Not modelled**: watchpoints on what devices write, and on instruction fetches.
//!
//! **Invariants**: points change only while no vCPU executes. A vCPU that has something to report stays where it is until it
//! gets a new action.

use super::run::{Idle, enter, left, look, name_of, set_key_of_site, set_page};
use super::translate::{Here, PageCode};
use super::vcpu::Vcpu;
use super::{Cpu, Machine, PAGE_BYTES, request};
use crate::breakpoint::Breakpoints;
use crate::cache::{Name, VARIANTS};
use crate::watch::{Hit, Watch};
use cpu::Access;
use cpu::system::Mapping;
use fabric::View;
use ir::state::KEY;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use x64::env::reason;

/// The variant whose regions are single instructions.
pub(super) const ONE_INSN: u64 = VARIANTS;

/// How a vCPU goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Action {
    #[default]
    Run,
    /// It stays where it is.
    Stay,
    /// It executes one instruction, and more as long as they lie in `start..end`; it takes interrupts only if told so.
    Step { start: u64, end: u64, interrupts: bool },
}

/// What a vCPU has to report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It is at a breakpoint, whose instruction has not been executed.
    Breakpoint { addr: u64 },
    /// The next instruction would access what is watched.
    Watch(Hit),
    /// It has executed what it was to.
    Step,
}

/// Called on the thread of a vCPU (by number) that has stopped, the machine being about to pause: may only leave a message.
pub type OnStop = Box<dyn Fn(usize, Stop) + Send + Sync>;

/// The offsets of breakpoints in a page, in order.
type Offsets = Arc<[u16]>;

/// Which virtual pages have translations of their own.
#[derive(Default)]
struct Variants {
    /// Page and variant.
    pages: BTreeMap<u64, u64>,
    numbers: HashMap<Offsets, u64>,
    /// Of variant `n + 1`.
    offsets: Vec<Offsets>,
}

#[derive(Default)]
pub(super) struct Debug {
    pub breakpoints: Breakpoints,
    variants: RwLock<Variants>,
    watching: AtomicBool,
    watches: RwLock<Vec<Watch>>,
    on_stop: OnceLock<OnStop>,
    /// The clock does not go on with the vCPUs.
    pub clock_stands: AtomicBool,
}

impl Variants {
    /// The variant with these breakpoints; `None` if all numbers are taken.
    fn number(&mut self, offsets: Offsets) -> Option<u64> {
        if let Some(&n) = self.numbers.get(&offsets) {
            return Some(n);
        }
        let n = self.offsets.len() as u64 + 1;
        if n >= ONE_INSN {
            return None;
        }
        self.numbers.insert(offsets.clone(), n);
        self.offsets.push(offsets);
        Some(n)
    }

    /// Numbers the pages of these addresses; false if there are not enough numbers.
    fn assign(&mut self, addresses: &BTreeSet<u64>) -> bool {
        let mut pages: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
        for addr in addresses {
            pages.entry(addr & !VARIANTS).or_default().push((addr & VARIANTS) as u16);
        }
        self.pages.clear();
        for (page, offsets) in pages {
            let Some(n) = self.number(offsets.into()) else { return false };
            self.pages.insert(page, n);
        }
        true
    }
}

impl Debug {
    /// The variant of translations at a virtual address.
    pub fn variant(&self, addr: u64) -> u64 {
        if !self.breakpoints.any() {
            return 0;
        }
        self.variants.read().unwrap().pages.get(&(addr & !VARIANTS)).copied().unwrap_or(0)
    }

    /// Where regions of a variant end.
    pub fn offsets(&self, variant: u64) -> Option<Offsets> {
        let n = variant.checked_sub(1)? as usize;
        self.variants.read().unwrap().offsets.get(n).cloned()
    }

    pub fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Relaxed)
    }

    /// Whether translated code must not access a page by itself.
    pub fn watches_page(&self, addr: u64) -> bool {
        let page = addr & !(PAGE_BYTES - 1);
        self.is_watching() && self.find(page, PAGE_BYTES, true, true).is_some()
    }

    /// The watched part of an access.
    pub fn find(&self, addr: u64, size: u64, reads: bool, writes: bool) -> Option<Hit> {
        crate::watch::find(&self.watches.read().unwrap(), addr, size, reads, writes)
    }
}

impl Machine {
    /// Called when a vCPU stops for the debugger. Once only.
    pub fn on_stop(&self, f: OnStop) {
        let _ = self.debug.on_stop.set(f);
    }

    /// Makes the arithmetic flags exact wherever a vCPU may stop, from now on. The machine must be paused.
    pub fn set_exact(&self) {
        if self.debug.breakpoints.set_exact() {
            self.invalidate_all();
        }
    }

    /// Makes these virtual addresses the breakpoints. The machine must be paused.
    pub fn set_breakpoints(&self, addresses: BTreeSet<u64>) {
        let mut variants = self.debug.variants.write().unwrap();
        if !variants.assign(&addresses) {
            *variants = Variants::default();
            self.invalidate_all();
            // Pages beyond the number of variants have none; nobody sets so many.
            variants.assign(&addresses);
        }
        if !self.debug.breakpoints.replace(addresses).is_empty() {
            self.ask_all(request::FORGET);
        }
    }

    /// Makes these the watchpoints. The machine must be paused.
    pub fn set_watches(&self, watches: Vec<Watch>) {
        self.debug.watching.store(!watches.is_empty(), Ordering::SeqCst);
        let old = std::mem::replace(&mut *self.debug.watches.write().unwrap(), watches);
        if old != *self.debug.watches.read().unwrap() {
            // All tables are filled anew.
            self.ask_all(request::VIEW);
        }
    }

    /// How a vCPU goes on from now on.
    pub fn set_action(&self, cpu: usize, action: Action) {
        *self.cpus[cpu].action.lock().unwrap() = action;
        self.cpus[cpu].ask(request::LOOK);
    }

    /// Whether the virtual clock stands still although vCPUs run, when they next do.
    pub fn hold_clock(&self, hold: bool) {
        self.debug.clock_stands.store(hold, Ordering::SeqCst);
    }
}

/// A vCPU has something to report: the machine pauses.
pub(super) fn report(m: &Machine, cpu: &Cpu, stop: Stop) -> Idle {
    *cpu.action.lock().unwrap() = Action::Stay;
    m.paused.store(true, Ordering::SeqCst);
    if let Some(f) = m.debug.on_stop.get() {
        f(cpu.index, stop);
    }
    m.ask_all(request::LOOK);
    Idle::Asked
}

/// Executes single instructions, then reports.
pub(super) fn step(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>, (start, end): (u64, u64), interrupts: bool) -> Idle {
    v.follow_spaces(m);
    loop {
        if look(v, m, cpu, interrupts) {
            return Idle::Asked;
        }
        if let Some(idle) = one_instruction(v, m, cpu)
            && matches!(idle, Idle::Asked)
        {
            return idle;
        }
        let pc = m.guest.pc(v.block.block.state.u64_at(KEY));
        if m.debug.breakpoints.has(pc) && (start..end).contains(&pc) {
            return report(m, cpu, Stop::Breakpoint { addr: pc });
        }
        if !(start..end).contains(&pc) {
            return report(m, cpu, Stop::Step);
        }
    }
}

/// Executes one instruction, or takes the exception that fetching it raises.
pub(super) fn one_instruction(v: &mut Vcpu, m: &Machine, cpu: &Arc<Cpu>) -> Option<Idle> {
    let code = loop {
        let key = v.block.block.state.u64_at(KEY);
        let (name, _) = name_of(v, m, cpu, key)?;
        let here = Here { m, page: m.guest.pc(key) & !VARIANTS };
        match v.cache.code(&here, name.with_variant(ONE_INSN)) {
            Ok(code) => {
                set_page(v, m, key);
                break code;
            }
            Err(_) => {
                let full = v.cache.clone();
                m.start_new_cache(&full);
                v.serve(m, cpu);
            }
        }
    };
    v.serve_tables(cpu);
    if let Some(icount) = &m.icount {
        icount.make_room(&m.clock);
    }
    // Every way out of the region leaves translated code.
    v.block.block.control.exit_req.store(1, Ordering::SeqCst);
    m.observe(v, code);
    let why = enter(v, m, cpu, code)?;
    if why & 0xff == reason::LINK {
        set_key_of_site(v, m, (why >> 32) as u32);
        return None;
    }
    left(v, m, cpu, why)
}

/// A page-table walk, for `-d mmu`.
pub(super) fn describe(regime: u8, addr: u64, access: Access, walked: &Result<Mapping, u32>) -> String {
    let cpu = fabric::requester::cpu();
    let what = format!("mmu: CPU {cpu} regime {regime} {access:?} {addr:#010x}:");
    match walked {
        Err(syndrome) => format!("{what} fault {syndrome:#x}"),
        Ok(m) => {
            let right = |has: bool, c: char| if has { c } else { '-' };
            let rights: String = [(m.read, 'r'), (m.write, 'w'), (m.execute, 'x')].map(|(has, c)| right(has, c)).iter().collect();
            let space = if m.global { "global" } else { "local" };
            format!("{what} {:#x} {rights} {space}, page of {:#x}", m.phys, 1u64 << m.size_bits)
        }
    }
}

/// Code at the virtual address of its page, for disassembly.
pub(super) struct Placed<'a> {
    pub name: Name,
    pub view: &'a View,
    pub page: u64,
}

impl cpu::Code for Placed<'_> {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        let offset = addr.wrapping_sub(self.page) as u32 as u64;
        let code = PageCode { view: self.view, name: self.name, start: 0 };
        code.read(offset, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_with_the_same_offsets_share_their_translations() {
        let mut v = Variants::default();
        assert!(v.assign(&BTreeSet::from([0x8010, 0x9010, 0x9020])));
        assert_eq!((v.pages[&0x8000], v.pages[&0x9000]), (1, 2));
        assert!(v.assign(&BTreeSet::from([0xa020, 0xa010])));
        assert_eq!((v.pages.len(), v.pages[&0xa000], &*v.offsets[1]), (1, 2, &[0x10, 0x20][..]));
        assert!(!v.assign(&(0..ONE_INSN).map(|n| n << 12 | n).collect()), "numbers end");
    }

    #[test]
    fn watched_pages_are_known() {
        let d = Debug::default();
        assert!(!d.watches_page(0x1000));
        *d.watches.write().unwrap() = vec![Watch { addr: 0x1ffe, len: 4, read: false, write: true }];
        d.watching.store(true, Ordering::SeqCst);
        assert_eq!([0xfff, 0x1000, 0x2800, 0x3000].map(|a| d.watches_page(a)), [false, true, true, false]);
        assert!(d.find(0x1ffc, 4, true, false).is_none());
        assert_eq!(d.find(0x1ffc, 4, false, true), Some(Hit { watch: 0, addr: 0x1ffe }));
    }
}
