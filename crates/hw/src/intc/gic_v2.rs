//! GICv2: the interrupt controller of the first Cortex-A generations, with up to 8 CPUs.
//!
//! **Reference**: Arm GIC Architecture Specification, IHI 0048B.b. Identification as QEMU's `virt` presents it: two
//! groups, 8 priority bits. Without Security Extensions all accesses have the Secure view.
//! **Pins**: in: SPIs, PPIs of each CPU; out: IRQ and FIQ of each CPU.
//! **Not modelled**: bypass of a disabled CPU interface, GICD_NSACR, lock-down (CFGSDISABLE).
//! **Invariants**: outputs are recomputed from the state after every change; a level-sensitive interrupt is pending while
//! its wire is high, without a latch.

mod distributor;
mod interface;
mod virtual_interface;

use fabric::{Line, LineSink, MmioTarget, requester};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtual_interface::Virtual;

/// CPUs that fit in the target bytes.
pub const CPUS_MAX: usize = 8;
/// INTIDs below are banked by CPU; the first 16 of them are SGIs.
const PRIVATE: usize = 32;
const SGIS: usize = 16;
/// SPIs an implementation may have.
pub const SPIS_MAX: usize = 988;
/// 32-bit words of shared interrupts.
const SHARED_WORDS: usize = 31;
/// What an acknowledge gives if there is nothing, or nothing for this register.
const SPURIOUS: u32 = 1023;
const OTHER_GROUP: u32 = 1022;
/// Running priority while no interrupt is active.
const IDLE: u32 = 0x100;
/// Line numbers from here on are PPIs: 32 for each CPU.
const PPI_LINES: u32 = 0x1_0000;

/// What an implementation may have besides the essentials.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extensions {
    /// Secure and Non-secure accesses have different views.
    pub security: bool,
    pub virtualization: bool,
    /// Reset leaves everything to the Non-secure world, as if Secure firmware had run.
    pub for_kernel: bool,
}

/// One bit for each interrupt, those of the first word banked.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Bits {
    private: [u32; CPUS_MAX],
    shared: [u32; SHARED_WORDS],
}

impl Bits {
    const ZERO: Bits = Bits { private: [0; CPUS_MAX], shared: [0; SHARED_WORDS] };

    fn word(&self, cpu: usize, word: usize) -> u32 {
        if word == 0 { self.private[cpu] } else { self.shared[word - 1] }
    }

    fn word_mut(&mut self, cpu: usize, word: usize) -> &mut u32 {
        if word == 0 { &mut self.private[cpu] } else { &mut self.shared[word - 1] }
    }

    fn get(&self, cpu: usize, irq: usize) -> bool {
        self.word(cpu, irq / 32) >> (irq % 32) & 1 != 0
    }

    fn set(&mut self, cpu: usize, irq: usize, value: bool) {
        let word = self.word_mut(cpu, irq / 32);
        *word = *word & !(1 << (irq % 32)) | u32::from(value) << (irq % 32);
    }
}

/// State of one CPU interface.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Cpu {
    ctlr: u32,
    pmr: u8,
    bpr: u8,
    abpr: u8,
    /// Active priorities of group 0 and group 1: one bit for each preemption level.
    apr: [[u32; 4]; 2],
    /// The interrupt that would be acknowledged, derived.
    pending: u32,
}

impl Cpu {
    const RESET: Cpu = Cpu { ctlr: 0, pmr: 0, bpr: 0, abpr: 1, apr: [[0; 4]; 2], pending: SPURIOUS };
}

/// The registers. What the wires say (`level`) is not among them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    ctlr: u32,
    group: Bits,
    enabled: Bits,
    /// Pending by an edge, by an SGI or by software.
    latch: Bits,
    active: Bits,
    edge: Bits,
    private_priority: [[u8; PRIVATE]; CPUS_MAX],
    priority: Vec<u8>,
    targets: Vec<u8>,
    /// For each CPU and SGI: the CPUs that sent it.
    sgi_from: [[u8; SGIS]; CPUS_MAX],
    cpu: Vec<Cpu>,
    /// Virtual interfaces; none without the Virtualization Extensions.
    virt: Vec<Virtual>,
}

impl State {
    fn reset(cpus: usize, spis: usize, has: Extensions) -> State {
        let kernel = has.security && has.for_kernel;
        let all = Bits { private: [!0; CPUS_MAX], shared: [!0; SHARED_WORDS] };
        let (group, priority) = if kernel { (all, 0x80) } else { (Bits::ZERO, 0) };
        let mut cpu = Cpu::RESET;
        cpu.pmr = if kernel { 0xf0 } else { 0 };
        let mut edge = Bits::ZERO;
        edge.private = [0xffff; CPUS_MAX];
        let mut enabled = Bits::ZERO;
        enabled.private = [0xffff; CPUS_MAX];
        State {
            ctlr: 0,
            group,
            enabled,
            latch: Bits::ZERO,
            active: Bits::ZERO,
            edge,
            private_priority: [[priority; PRIVATE]; CPUS_MAX],
            priority: vec![priority; spis],
            // With one CPU the target registers do not exist, and everything goes to it.
            targets: vec![u8::from(cpus == 1); spis],
            sgi_from: [[0; SGIS]; CPUS_MAX],
            cpu: vec![cpu; cpus],
            virt: vec![Virtual::RESET; if has.virtualization { cpus } else { 0 }],
        }
    }
}

/// The two outputs of one CPU interface.
#[derive(Default)]
struct Output {
    irq: Line,
    fiq: Line,
    levels: (bool, bool),
}

struct Core {
    s: State,
    /// Levels of the input wires.
    level: Bits,
    /// SPIs that target a CPU, derived from `targets`.
    target_words: Vec<[u32; SHARED_WORDS]>,
    /// Whether there are Secure accesses.
    security: bool,
    out: Vec<Output>,
    virtual_out: Vec<Output>,
}

/// The controller. Boards make one, connect it, and map its two banks of registers.
pub struct GicV2 {
    core: Mutex<Core>,
    cpus: usize,
    spis: usize,
    has: Extensions,
}

impl GicV2 {
    /// `spis` is a multiple of 32 (the last four of 992 do not exist).
    pub fn new(cpus: usize, spis: usize) -> Arc<GicV2> {
        GicV2::with(cpus, spis, Extensions::default())
    }

    pub fn with(cpus: usize, spis: usize, has: Extensions) -> Arc<GicV2> {
        assert!((1..=CPUS_MAX).contains(&cpus), "GICv2 with {cpus} CPUs");
        assert!(spis <= SPIS_MAX && (spis.is_multiple_of(32) || spis == SPIS_MAX), "GICv2 with {spis} SPIs");
        let core = Core {
            s: State::reset(cpus, spis, has),
            level: Bits::ZERO,
            target_words: vec![[0; SHARED_WORDS]; cpus],
            security: has.security,
            out: (0..cpus).map(|_| Output::default()).collect(),
            virtual_out: (0..cpus).map(|_| Output::default()).collect(),
        };
        let gic = Arc::new(GicV2 { core: Mutex::new(core), cpus, spis, has });
        gic.reset();
        gic
    }

    /// Connects the outputs of one CPU interface.
    pub fn connect(&self, cpu: usize, irq: Line, fiq: Line) {
        let mut core = self.lock();
        core.out[cpu] = Output { irq, fiq, levels: (false, false) };
        core.update();
    }

    /// Connects the outputs of one virtual CPU interface.
    pub fn connect_virtual(&self, cpu: usize, irq: Line, fiq: Line) {
        let mut core = self.lock();
        core.virtual_out[cpu] = Output { irq, fiq, levels: (false, false) };
        core.update();
    }

    /// The wire of shared peripheral interrupt `n` (INTID 32 + n).
    pub fn spi(self: &Arc<Self>, n: u32) -> Line {
        assert!((n as usize) < self.spis, "no SPI {n}");
        Line::new(self.clone(), n)
    }

    /// The wire of a private peripheral interrupt of a CPU, by INTID (16 to 31).
    pub fn ppi(self: &Arc<Self>, cpu: usize, intid: u32) -> Line {
        assert!(cpu < self.cpus && (16..32).contains(&intid), "no PPI {intid} of CPU {cpu}");
        Line::new(self.clone(), PPI_LINES + cpu as u32 * 32 + intid)
    }

    /// The distributor's registers (4 KiB).
    pub fn distributor(self: &Arc<Self>) -> Arc<dyn MmioTarget> {
        self.distributor_of(true)
    }

    /// The same as Secure or Non-secure accesses see it; without Security Extensions there is one view.
    pub fn distributor_of(self: &Arc<Self>, secure: bool) -> Arc<dyn MmioTarget> {
        Arc::new(distributor::Registers { gic: self.clone(), secure: secure || !self.has.security })
    }

    /// The CPU interface's registers (8 KiB), which differ by the CPU that accesses them.
    pub fn cpu_interface(self: &Arc<Self>) -> Arc<dyn MmioTarget> {
        self.cpu_interface_of(true)
    }

    pub fn cpu_interface_of(self: &Arc<Self>, secure: bool) -> Arc<dyn MmioTarget> {
        Arc::new(interface::Registers { gic: self.clone(), secure: secure || !self.has.security })
    }

    /// The hypervisor's registers of the virtual interfaces (4 KiB), and those that its guests see (8 KiB).
    pub fn virtual_interface(self: &Arc<Self>) -> [Arc<dyn MmioTarget>; 2] {
        assert!(self.has.virtualization, "no virtual interfaces");
        [Arc::new(virtual_interface::Control(self.clone())), Arc::new(virtual_interface::Registers(self.clone()))]
    }

    pub fn reset(&self) {
        let mut core = self.lock();
        core.s = State::reset(self.cpus, self.spis, self.has);
        core.retarget();
        core.update();
    }

    /// Pending and active interrupts, for the monitor.
    pub fn info(&self) -> String {
        let core = self.lock();
        let mut text = format!("GICv2: {} CPUs, {} SPIs, GICD_CTLR {:#x}\n", self.cpus, self.spis, core.s.ctlr);
        for (i, cpu) in core.s.cpu.iter().enumerate() {
            let running = cpu.running();
            text += &format!("  CPU {i}: CTLR {:#x} PMR {:#04x} running {running:#x} pending {}\n", cpu.ctlr, cpu.pmr, cpu.pending);
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The CPU that accesses a banked register.
    fn accessor(&self) -> usize {
        requester::cpu().min(self.cpus - 1)
    }
}

impl LineSink for GicV2 {
    fn set(&self, number: u32, level: bool) {
        let (cpu, irq) = match number.checked_sub(PPI_LINES) {
            Some(ppi) => (ppi as usize / 32, ppi as usize % 32),
            None => (0, number as usize + PRIVATE),
        };
        let mut core = self.lock();
        if core.level.get(cpu, irq) == level {
            return;
        }
        core.level.set(cpu, irq, level);
        if level && core.s.edge.get(cpu, irq) {
            core.s.latch.set(cpu, irq, true);
        }
        core.update();
    }
}

impl Cpu {
    /// The running priority: the highest that is active.
    fn running(&self) -> u32 {
        for i in 0..4 {
            let levels = self.apr[0][i] | self.apr[1][i];
            if levels != 0 {
                return (i as u32 * 32 + levels.trailing_zeros()) << 1;
            }
        }
        IDLE
    }
}

impl Core {
    fn cpus(&self) -> usize {
        self.s.cpu.len()
    }

    fn words(&self) -> usize {
        1 + self.s.priority.len().div_ceil(32)
    }

    fn exists(&self, irq: usize) -> bool {
        irq < PRIVATE + self.s.priority.len()
    }

    /// Interrupts of a word that an access may touch: the Non-secure world has group 1.
    fn visible(&self, cpu: usize, word: usize, secure: bool) -> u32 {
        if secure { !0 } else { self.s.group.word(cpu, word) }
    }

    fn is_visible(&self, cpu: usize, irq: usize, secure: bool) -> bool {
        secure || self.s.group.get(cpu, irq)
    }

    fn priority(&self, cpu: usize, irq: usize) -> u8 {
        if irq < PRIVATE { self.s.private_priority[cpu][irq] } else { self.s.priority[irq - PRIVATE] }
    }

    fn pending_word(&self, cpu: usize, word: usize) -> u32 {
        let (level, edge) = (self.level.word(cpu, word), self.s.edge.word(cpu, word));
        self.s.latch.word(cpu, word) | level & !edge
    }

    /// Recomputes which SPIs target which CPU.
    fn retarget(&mut self) {
        for (cpu, words) in self.target_words.iter_mut().enumerate() {
            *words = [0; SHARED_WORDS];
            for (i, targets) in self.s.targets.iter().enumerate() {
                words[i / 32] |= u32::from(targets >> cpu & 1) << (i % 32);
            }
        }
    }

    /// The pending interrupt of highest priority in the groups the distributor forwards.
    fn best(&self, cpu: usize) -> Option<(usize, u8)> {
        let s = &self.s;
        let mut best: Option<(usize, u8)> = None;
        for word in 0..self.words() {
            let mut ready = self.pending_word(cpu, word) & s.enabled.word(cpu, word) & !s.active.word(cpu, word);
            if ready == 0 {
                continue;
            }
            let group1 = s.group.word(cpu, word);
            ready &= group1 & (s.ctlr >> 1 & 1).wrapping_neg() | !group1 & (s.ctlr & 1).wrapping_neg();
            if word > 0 {
                ready &= self.target_words[cpu][word - 1];
            }
            while ready != 0 {
                let irq = word * 32 + ready.trailing_zeros() as usize;
                ready &= ready - 1;
                let priority = self.priority(cpu, irq);
                if best.is_none_or(|(_, p)| priority < p) {
                    best = Some((irq, priority));
                }
            }
        }
        best
    }

    /// Recomputes what each CPU interface presents, and its outputs.
    fn update(&mut self) {
        for cpu in 0..self.cpus() {
            self.update_virtual(cpu);
            let (mut irq, mut fiq) = (false, false);
            let best = self.best(cpu);
            let interface = &mut self.s.cpu[cpu];
            interface.pending = SPURIOUS;
            if let Some((best, priority)) = best.filter(|(_, priority)| *priority < interface.pmr) {
                let group = u32::from(self.s.group.get(cpu, best));
                if interface.ctlr >> group & 1 != 0 {
                    interface.pending = best as u32;
                    let signalled = u32::from(priority) < interface.running();
                    fiq = signalled && group == 0 && interface.ctlr & interface::FIQ_EN != 0;
                    irq = signalled && !fiq;
                }
            }
            let out = &mut self.out[cpu];
            if out.levels != (irq, fiq) {
                out.levels = (irq, fiq);
                out.irq.set(irq);
                out.fiq.set(fiq);
            }
        }
    }
}

#[cfg(test)]
mod tests;
