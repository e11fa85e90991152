//! GICv3: distributor, redistributors with LPIs, and the CPU interface as system registers.
//!
//! **Reference**: Arm GIC Architecture Specification v3, IHI 0069H. As QEMU's `virt` presents it: one Security state
//! (GICD_CTLR.DS and ARE are fixed to 1), 5 priority bits in the CPU interface, 16-bit INTIDs, no 1-of-N routing.
//! **Pins**: in: SPIs, PPIs of each CPU, LPIs from an ITS; out: IRQ (group 1) and FIQ (group 0) of each CPU; DMA for the LPI
//! tables.
//! **Not modelled**: two Security states (a machine with `secure=on` needs them), legacy operation, extended INTIDs. A sleeping redistributor (GICR_WAKER) forwards all the same, as in QEMU.
//! **Invariants**: outputs are recomputed from the state after every change; a level-sensitive interrupt is pending while
//! its wire is high, without a latch. Pending LPIs are kept here and read from the guest's table only when LPIs are
//! enabled.

mod bank;
mod distributor;
mod interface;
mod redistributor;
mod virtual_interface;

use bank::{BANK, Bank};
pub(super) use distributor::id;
use fabric::{AddressSpace, CpuInterface, Line, LineSink, MmioTarget};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtual_interface::Virtual;

/// SPIs an implementation may have.
pub const SPIS_MAX: usize = 992;
/// First LPI, and the first INTID that is none any more.
const LPI_FIRST: u32 = 8192;
const LPI_END: u32 = 1 << 16;
/// What an acknowledge gives if there is nothing for it.
const SPURIOUS: u32 = 1023;
/// Priority bits of the CPU interface, and the shift that makes a preemption level of a priority.
const PRIORITY_BITS: u32 = 5;
const LEVEL_SHIFT: u32 = 8 - PRIORITY_BITS;
const BPR0_MIN: u32 = 7 - PRIORITY_BITS;
const BPR1_MIN: u32 = BPR0_MIN + 1;
/// Line numbers from here on are PPIs: 32 for each CPU.
const PPI_LINES: u32 = 0x1_0000;

/// One CPU's redistributor and CPU interface.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Cpu {
    /// SGIs and PPIs.
    bank: Bank,
    waker: u32,
    lpis_enabled: bool,
    propbaser: u64,
    pendbaser: u64,
    /// Pending LPIs with their configuration bytes.
    lpis: BTreeMap<u32, u8>,
    pmr: u8,
    /// BPR and enable of group 0 and group 1.
    bpr: [u32; 2],
    enable: [bool; 2],
    /// Active preemption levels of each group.
    apr: [u32; 2],
    ctlr: u32,
    /// The highest pending interrupt, its priority and group, derived.
    best: Option<(u32, u8, usize)>,
    virt: Virtual,
}

impl Cpu {
    fn reset(level: u32) -> Cpu {
        Cpu {
            bank: Bank { level, edge: 0xffff, ..Bank::default() },
            waker: redistributor::WAKER_ASLEEP,
            lpis_enabled: false,
            propbaser: 0,
            pendbaser: 0,
            lpis: BTreeMap::new(),
            pmr: 0,
            bpr: [BPR0_MIN, BPR1_MIN],
            enable: [false; 2],
            apr: [0; 2],
            ctlr: 0,
            best: None,
            virt: Virtual::reset(),
        }
    }
}

#[derive(Default)]
struct Output {
    irq: Line,
    fiq: Line,
    levels: (bool, bool),
}

struct Core {
    ctlr: u32,
    /// SPIs in groups of 32, and where each goes.
    spis: Vec<Bank>,
    router: Vec<u64>,
    cpus: Vec<Cpu>,
    affinities: Vec<u32>,
    /// SPIs routed to each CPU, derived from `router`.
    routed: Vec<Vec<u32>>,
    out: Vec<Output>,
    virtual_out: Vec<Output>,
    space: Option<Arc<AddressSpace>>,
}

/// The controller. Boards make one, connect it, and map its banks of registers.
pub struct GicV3 {
    core: Mutex<Core>,
}

impl GicV3 {
    /// A controller for CPUs with these affinities (Aff3 to Aff0, a byte each) and a multiple of 32 SPIs. With an address
    /// space for its tables it has LPIs.
    pub fn new(affinities: Vec<u32>, spis: usize, space: Option<Arc<AddressSpace>>) -> Arc<GicV3> {
        assert!(!affinities.is_empty(), "GICv3 without CPUs");
        assert!(spis <= SPIS_MAX && spis.is_multiple_of(BANK), "GICv3 with {spis} SPIs");
        let core = Core {
            ctlr: 0,
            spis: vec![Bank::default(); spis / BANK],
            router: vec![0; spis],
            cpus: affinities.iter().map(|_| Cpu::reset(0)).collect(),
            routed: vec![vec![0; spis / BANK]; affinities.len()],
            out: affinities.iter().map(|_| Output::default()).collect(),
            virtual_out: affinities.iter().map(|_| Output::default()).collect(),
            affinities,
            space,
        };
        let gic = Arc::new(GicV3 { core: Mutex::new(core) });
        gic.reset();
        gic
    }

    /// Connects the outputs to one CPU.
    pub fn connect(&self, cpu: usize, irq: Line, fiq: Line) {
        let mut core = self.lock();
        core.out[cpu] = Output { irq, fiq, levels: (false, false) };
        core.update(cpu);
    }

    /// Connects the outputs of one virtual CPU interface.
    pub fn connect_virtual(&self, cpu: usize, irq: Line, fiq: Line) {
        let mut core = self.lock();
        core.virtual_out[cpu] = Output { irq, fiq, levels: (false, false) };
        core.update(cpu);
    }

    /// The wire of shared peripheral interrupt `n` (INTID 32 + n).
    pub fn spi(self: &Arc<Self>, n: u32) -> Line {
        assert!((n as usize) < self.lock().router.len(), "no SPI {n}");
        Line::new(self.clone(), n)
    }

    /// The wire of a private peripheral interrupt of a CPU, by INTID (16 to 31).
    pub fn ppi(self: &Arc<Self>, cpu: usize, intid: u32) -> Line {
        assert!(cpu < self.lock().cpus.len() && (16..32).contains(&intid), "no PPI {intid} of CPU {cpu}");
        Line::new(self.clone(), PPI_LINES + cpu as u32 * 32 + intid)
    }

    /// The distributor's registers (64 KiB).
    pub fn distributor(self: &Arc<Self>) -> Arc<dyn MmioTarget> {
        Arc::new(distributor::Registers(self.clone()))
    }

    /// The redistributors' registers: 128 KiB for each of `count` CPUs from `first` on, one of the regions of a board.
    pub fn redistributors(self: &Arc<Self>, first: usize, count: usize) -> Arc<dyn MmioTarget> {
        Arc::new(redistributor::Registers { gic: self.clone(), first, count })
    }

    /// The system registers of one CPU.
    pub fn cpu_interface(self: &Arc<Self>, cpu: usize) -> Arc<dyn CpuInterface> {
        Arc::new(interface::Registers { gic: self.clone(), cpu })
    }

    pub fn cpus(&self) -> usize {
        self.lock().cpus.len()
    }

    pub fn reset(&self) {
        let mut core = self.lock();
        core.ctlr = 0;
        core.router.fill(0);
        for bank in &mut core.spis {
            *bank = Bank { level: bank.level, ..Bank::default() };
        }
        for cpu in &mut core.cpus {
            *cpu = Cpu::reset(cpu.bank.level);
        }
        core.reroute();
        core.update_all();
    }

    /// Makes an LPI of a CPU pending, or no longer.
    pub fn set_lpi(&self, cpu: usize, intid: u32, pending: bool) {
        let mut core = self.lock();
        if cpu >= core.cpus.len() || !core.cpus[cpu].lpis_enabled {
            return;
        }
        if !pending {
            core.cpus[cpu].lpis.remove(&intid);
        } else if let Some(configuration) = core.lpi_configuration(cpu, intid) {
            core.cpus[cpu].lpis.insert(intid, configuration);
        }
        core.update(cpu);
    }

    /// The configuration table of a CPU changed, for one LPI or for all.
    pub fn invalidate_lpis(&self, cpu: usize, intid: Option<u32>) {
        let mut core = self.lock();
        if cpu >= core.cpus.len() {
            return;
        }
        let pending: Vec<u32> = core.cpus[cpu].lpis.keys().copied().filter(|p| intid.is_none_or(|i| i == *p)).collect();
        for lpi in pending {
            if let Some(configuration) = core.lpi_configuration(cpu, lpi) {
                core.cpus[cpu].lpis.insert(lpi, configuration);
            }
        }
        core.update(cpu);
    }

    /// Moves one pending LPI, or all of them, to another CPU.
    pub fn move_lpis(&self, from: usize, to: usize, intid: Option<u32>) {
        let mut core = self.lock();
        if from == to || from.max(to) >= core.cpus.len() {
            return;
        }
        let pending: Vec<u32> = core.cpus[from].lpis.keys().copied().filter(|p| intid.is_none_or(|i| i == *p)).collect();
        for lpi in pending {
            core.cpus[from].lpis.remove(&lpi);
            if let Some(configuration) = core.lpi_configuration(to, lpi).filter(|_| core.cpus[to].lpis_enabled) {
                core.cpus[to].lpis.insert(lpi, configuration);
            }
        }
        core.update(from);
        core.update(to);
    }

    /// What each CPU has pending and running, for the monitor.
    pub fn info(&self) -> String {
        let core = self.lock();
        let mut text = format!("GICv3: {} CPUs, {} SPIs, GICD_CTLR {:#x}\n", core.cpus.len(), core.router.len(), core.ctlr);
        for (i, cpu) in core.cpus.iter().enumerate() {
            let (running, pending) = (cpu.running(), cpu.best.map_or(SPURIOUS, |b| b.0));
            text += &format!("  CPU {i}: PMR {:#04x} running {running:#x} pending {pending} LPIs {}\n", cpu.pmr, cpu.lpis.len());
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LineSink for GicV3 {
    fn set(&self, number: u32, level: bool) {
        let mut core = self.lock();
        match number.checked_sub(PPI_LINES) {
            Some(ppi) => {
                let cpu = ppi as usize / BANK;
                if core.cpus[cpu].bank.set_level(ppi % BANK as u32, level) {
                    core.update(cpu);
                }
            }
            None => {
                let spi = number as usize;
                if core.spis[spi / BANK].set_level(number % BANK as u32, level) {
                    core.update_target(spi);
                }
            }
        }
    }
}

impl Core {
    /// The CPU an SPI is routed to.
    fn target(&self, spi: usize) -> Option<usize> {
        let router = self.router[spi];
        let affinity = (router & 0xff_ffff) as u32 | ((router >> 32) as u32 & 0xff) << 24;
        self.affinities.iter().position(|&a| a == affinity)
    }

    fn update_target(&mut self, spi: usize) {
        if let Some(cpu) = self.target(spi) {
            self.update(cpu);
        }
    }

    fn reroute(&mut self) {
        for words in &mut self.routed {
            words.fill(0);
        }
        for spi in 0..self.router.len() {
            if let Some(cpu) = self.target(spi) {
                self.routed[cpu][spi / BANK] |= 1 << (spi % BANK);
            }
        }
    }

    /// The configuration byte of an LPI: priority, and enable in bit 0. `None` if the CPU has no such LPI.
    fn lpi_configuration(&self, cpu: usize, intid: u32) -> Option<u8> {
        let (space, base) = (self.space.as_ref()?, self.cpus[cpu].propbaser);
        if !(LPI_FIRST..LPI_END).contains(&intid) || intid >> ((base & 0x1f) + 1).min(31) != 0 {
            return None;
        }
        let mut byte = [0];
        let at = (base & 0xf_ffff_ffff_f000) + u64::from(intid - LPI_FIRST);
        (space.read_bytes(at, &mut byte) == 1).then_some(byte[0])
    }

    fn update_all(&mut self) {
        for cpu in 0..self.cpus.len() {
            self.update(cpu);
        }
    }

    /// Recomputes what one CPU interface presents, and its outputs.
    fn update(&mut self, cpu: usize) {
        self.update_virtual(cpu);
        let mut best: Option<(u32, u8, usize)> = None;
        let mut offer = |intid: u32, priority: u8, group: usize| {
            if best.is_none_or(|(_, p, _)| priority < p) {
                best = Some((intid, priority, group));
            }
        };
        let forwarded = [self.ctlr & 1 != 0, self.ctlr & 2 != 0];
        let private = std::iter::once((&self.cpus[cpu].bank, u32::MAX, 0));
        let shared = self.spis.iter().zip(&self.routed[cpu]).enumerate().map(|(i, (b, r))| (b, *r, (i + 1) * BANK));
        for (bank, mask, first) in private.chain(shared) {
            let mut ready = bank.ready(forwarded) & mask;
            while ready != 0 {
                let i = ready.trailing_zeros() as usize;
                ready &= ready - 1;
                offer((first + i) as u32, bank.priority[i], (bank.group >> i & 1) as usize);
            }
        }
        if forwarded[1] && self.cpus[cpu].lpis_enabled {
            for (&intid, &configuration) in self.cpus[cpu].lpis.iter().filter(|(_, c)| **c & 1 != 0) {
                offer(intid, configuration & 0xfc, 1);
            }
        }
        let c = &mut self.cpus[cpu];
        c.best = best;
        let group = c.signalled().map(|b| b.2);
        let levels = (group == Some(1), group == Some(0));
        let out = &mut self.out[cpu];
        if out.levels != levels {
            out.levels = levels;
            out.irq.set(levels.0);
            out.fiq.set(levels.1);
        }
    }
}

#[cfg(test)]
mod tests;
