//! A whole machine's processors: vCPUs on threads of their own, around shared memory and one code cache.
//!
//! Translations are named by physical page and are relative to the page's virtual address, so processes share them. Each
//! vCPU thread holds the lock of its [`vcpu::Vcpu`] while it runs and lets go of it while it is paused or off.
//!
//! Invariants:
//! 1. A vCPU's block lives as long as its `Cpu`; other threads touch only `exit_req` of it, through `Cpu::kick`.
//! 2. While `Cpu::inside` is false the vCPU's thread uses no translation of any table; before it uses one again it looks
//!    at `requests`.

use crate::cache::{Cache, Statistics};
use crate::engine::{self, Config};
use crate::trace::Trace;
use cpu::Guest;
use cpu::system::{CpuInterface, Flush, Physical, Power, System};
use fabric::{AddressSpace, Clock, Line, LineSink, SectionKind, View};
use ir::State;
use spec::Result;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, Weak};
use x64::env::Memory;

mod access;
pub mod debug;
mod environment;
pub mod icount;
mod parking;
mod rounds;
mod run;
mod timer;
mod tlb;
mod translate;
mod vcpu;

use parking::Parking;
use vcpu::Vcpu;

/// What a vCPU is asked to do (bits of `Cpu::requests`).
pub(crate) mod request {
    /// Translations were dropped: forget where code is.
    pub const FORGET: u32 = 1;
    /// There is a new code cache.
    pub const NEW_CACHE: u32 = 2;
    /// `Cpu::flushes` holds TLB maintenance.
    pub const FLUSH: u32 = 4;
    /// `Cpu::protect` holds host pages that hold code now.
    pub const PROTECT: u32 = 8;
    /// The address space has a new view.
    pub const VIEW: u32 = 16;
    /// Look at `Machine::paused`, `Machine::quit` and the power state.
    pub const LOOK: u32 = 32;
}

/// Page size of translations.
const PAGE_BYTES: u64 = 4096;

/// What happens on a guest's request to switch the machine off or reset it. Called on a vCPU's thread: it may only leave a
/// message for somebody else.
pub type OnPower = Box<dyn Fn(Power) + Send + Sync>;

/// The part of a vCPU that other threads reach.
pub(crate) struct Cpu {
    index: usize,
    exit_req: *const AtomicU32,
    requests: AtomicU32,
    inside: AtomicBool,
    inputs: AtomicU32,
    event: AtomicBool,
    on: AtomicBool,
    /// Entry and context of a power-on that has not been carried out.
    start: Mutex<Option<(u64, u64)>>,
    flushes: Mutex<Vec<Flush>>,
    protect: Mutex<Vec<u64>>,
    /// It sleeps for the guest's own reasons, as far as anybody knows.
    waiting: AtomicBool,
    parking: Arc<Parking>,
    /// How a debugger wants it to go on.
    action: Mutex<debug::Action>,
    outputs: RwLock<Vec<Line>>,
    interface: OnceLock<Arc<dyn CpuInterface>>,
    vcpu: Mutex<Box<Vcpu>>,
}

// SAFETY: `exit_req` points to an atomic in the block that the same `Cpu` owns (invariant 1).
unsafe impl Send for Cpu {}
// SAFETY: as above.
unsafe impl Sync for Cpu {}

impl Cpu {
    /// Makes the vCPU leave translated code or wake up soon, and look.
    fn kick(&self) {
        // SAFETY: invariant 1.
        unsafe { &*self.exit_req }.store(1, Ordering::SeqCst);
        self.parking.kick(self.exit_req);
    }

    fn ask(&self, what: u32) {
        self.requests.fetch_or(what, Ordering::SeqCst);
        if what & request::LOOK == 0 && self.parking.is_shared() {
            // It does so when it has its turn; nothing happens until then.
            // SAFETY: invariant 1.
            return unsafe { &*self.exit_req }.store(1, Ordering::SeqCst);
        }
        self.kick();
    }

    pub(crate) fn set_output(&self, output: usize, level: bool) {
        let line = self.outputs.read().unwrap().get(output).cloned();
        if let Some(line) = line {
            line.set(level);
        }
    }
}

/// The input wires of one vCPU.
struct Inputs(Weak<Machine>, usize);

impl LineSink for Inputs {
    fn set(&self, number: u32, level: bool) {
        let Some(machine) = self.0.upgrade() else {
            return;
        };
        let cpu = &machine.cpus[self.1];
        if level {
            if cpu.inputs.fetch_or(1 << number, Ordering::SeqCst) >> number & 1 == 0 {
                cpu.kick();
            }
        } else {
            cpu.inputs.fetch_and(!(1 << number), Ordering::SeqCst);
        }
    }
}

pub struct Machine {
    pub(crate) guest: Arc<dyn Guest>,
    space: Arc<AddressSpace>,
    clock: Clock,
    config: Config,
    /// What the blocks point to.
    _functions: Vec<usize>,
    monitors: Box<[AtomicU64]>,
    cache: Mutex<Arc<Cache>>,
    /// Caches that were full.
    replaced: AtomicU64,
    cpus: Vec<Arc<Cpu>>,
    paused: AtomicBool,
    /// How often it has been paused.
    pauses: AtomicU64,
    quit: AtomicBool,
    icount: Option<icount::Icount>,
    on_power: OnceLock<OnPower>,
    trace: OnceLock<Arc<Trace>>,
    /// Somebody looks at every region that is entered.
    observed: AtomicBool,
    /// Regions do not jump to each other.
    nochain: AtomicBool,
    debug: debug::Debug,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Machine {
    /// `guest` must have a system level. The machine is paused.
    pub fn new(
        guest: Arc<dyn Guest>,
        space: Arc<AddressSpace>,
        clock: Clock,
        count: usize,
        config: Config,
    ) -> Result<Arc<Machine>> {
        assert_eq!(config.icount.is_some(), clock.is_manual(), "instructions move a manual clock");
        assert!(guest.system().is_some(), "'{}' has no system level", guest.name());
        let monitors: Box<[AtomicU64]> = std::iter::repeat_with(|| AtomicU64::new(0)).take(engine::MONITORS).collect();
        let functions = engine::functions(&*guest, access::table());
        let cache = Arc::new(Cache::new(engine::code_bytes(&config), environment_of(&*guest, count))?);
        let shared = (config.one_thread || config.icount.is_some()).then(|| Arc::new(Parking::shared()));
        let place = || shared.clone().unwrap_or_default();
        let cpus: Vec<_> = (0..count).map(|n| new_cpu(n, &*guest, &cache, &space, (&functions, &monitors), place())).collect();
        for cpu in cpus.iter().filter(|_| count > 1) {
            cpu.vcpu.lock().unwrap().block.block.control.exclusive.versions = AtomicU64::new(1);
        }
        let nochain = AtomicBool::new(config.nochain);
        let config_icount = config.icount.map(icount::Icount::new);
        let machine = Arc::new(Machine {
            guest,
            space,
            clock,
            config,
            _functions: functions,
            monitors,
            cache: Mutex::new(cache),
            replaced: AtomicU64::new(0),
            cpus,
            paused: AtomicBool::new(true),
            pauses: AtomicU64::new(0),
            icount: config_icount,
            quit: AtomicBool::new(false),
            on_power: OnceLock::new(),
            trace: OnceLock::new(),
            observed: AtomicBool::new(false),
            nochain,
            debug: Default::default(),
            threads: Mutex::default(),
        });
        if machine.icount.is_some() {
            let parking = machine.cpus[0].parking.clone();
            machine.clock.on_sooner(move || parking.sooner());
        }
        let weak = Arc::downgrade(&machine);
        machine.space.on_change(move || {
            if let Some(m) = weak.upgrade() {
                m.ask_all(request::VIEW);
            }
        });
        let weak = Arc::downgrade(&machine);
        machine.space.on_write(move |phys, len| {
            if let Some(m) = weak.upgrade() {
                m.invalidate(phys, len);
            }
        });
        Ok(machine)
    }

    fn system(&self) -> &dyn System {
        self.guest.system().expect("checked when the machine was made")
    }

    pub fn guest(&self) -> &Arc<dyn Guest> {
        &self.guest
    }

    pub fn count(&self) -> usize {
        self.cpus.len()
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    // ---- wires -------------------------------------------------------------------------------------------------------

    /// Input wire `number` (the front end numbers them) of a vCPU.
    pub fn input(self: &Arc<Self>, cpu: usize, number: u32) -> Line {
        Line::new(Arc::new(Inputs(Arc::downgrade(self), cpu)), number)
    }

    /// Connects output wire `output` of a vCPU.
    pub fn set_output(&self, cpu: usize, output: usize, line: Line) {
        let mut outputs = self.cpus[cpu].outputs.write().unwrap();
        if outputs.len() <= output {
            outputs.resize_with(output + 1, Line::nowhere);
        }
        outputs[output] = line;
    }

    pub fn set_cpu_interface(&self, cpu: usize, interface: Arc<dyn CpuInterface>) {
        let _ = self.cpus[cpu].interface.set(interface);
    }

    pub fn on_power(&self, f: OnPower) {
        let _ = self.on_power.set(f);
    }

    /// Where traces go (`-d`). Once only.
    pub fn set_trace(&self, trace: Trace) {
        let _ = self.trace.set(Arc::new(trace));
        self.follow_items();
    }

    /// The items of the trace have changed, or `nochain` is wanted.
    pub fn follow_items(&self) {
        let Some(trace) = self.trace.get() else { return };
        let items = (trace.items)();
        self.observed.store(items.at_execution(), Ordering::SeqCst);
        if items.cpu && self.debug.breakpoints.set_exact() {
            self.invalidate_all();
        }
        let nochain = items.nochain || self.config.nochain;
        if self.nochain.swap(nochain, Ordering::SeqCst) != nochain {
            // Jumps that exist go with the code that makes them.
            self.invalidate_all();
        }
    }

    fn observe(&self, v: &Vcpu, code: u64) {
        if self.observed.load(Ordering::Relaxed)
            && let Some(trace) = self.trace.get()
        {
            trace.entered_by(fabric::requester::cpu() as u32, &v.block.block.state, code as usize);
        }
    }

    // ---- running -----------------------------------------------------------------------------------------------------

    /// Whether all vCPUs are on one thread.
    fn one_thread(&self) -> bool {
        self.config.one_thread || self.icount.is_some()
    }

    /// Starts the vCPUs' threads.
    pub fn spawn(self: &Arc<Self>) -> Result<()> {
        let mut threads = self.threads.lock().unwrap();
        if self.one_thread() {
            let machine = self.clone();
            let thread = std::thread::Builder::new().name("ALL CPUs/TCG".into()).spawn(move || rounds::thread(&machine));
            threads.push(thread.map_err(|e| spec::Error::new(format!("the host refuses a thread for the vCPUs: {e}")))?);
            return Ok(());
        }
        for cpu in &self.cpus {
            let (machine, cpu) = (self.clone(), cpu.clone());
            let name = format!("CPU {}/TCG", cpu.index);
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || run::thread(&machine, &cpu))
                .map_err(|e| spec::Error::new(format!("the host refuses a thread for a vCPU: {e}")))?;
            threads.push(thread);
        }
        Ok(())
    }

    pub fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
        if !self.debug.clock_stands.load(Ordering::SeqCst) {
            self.clock.resume();
        }
        self.ask_all(request::LOOK);
    }

    /// Returns when no vCPU executes any more. Not to be called on a vCPU's thread.
    pub fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
        self.pauses.fetch_add(1, Ordering::SeqCst);
        self.ask_all(request::LOOK);
        for cpu in &self.cpus {
            drop(cpu.vcpu.lock().unwrap());
        }
        self.clock.pause();
    }

    /// Ends the vCPUs' threads. Not to be called on one of them.
    pub fn stop(&self) {
        self.quit.store(true, Ordering::SeqCst);
        self.ask_all(request::LOOK);
        for t in std::mem::take(&mut *self.threads.lock().unwrap()) {
            // A panic has already ended the process.
            let _ = t.join();
        }
    }

    /// Puts all vCPUs into their reset state, then lets `init` set what the boot loader wants (number, state). The machine
    /// must be paused.
    pub fn reset(&self, init: &dyn Fn(usize, &mut State)) {
        for cpu in &self.cpus {
            let mut v = cpu.vcpu.lock().unwrap();
            v.reset(self, cpu);
            cpu.waiting.store(false, Ordering::SeqCst);
            init(cpu.index, v.state_mut());
            cpu.start.lock().unwrap().take();
            cpu.on.store(!self.system().starts_off(cpu.index), Ordering::SeqCst);
        }
        self.invalidate_all();
    }

    /// Waits until the vCPU is paused (the caller has paused the machine) and gives its state.
    pub fn with_state<T>(&self, cpu: usize, f: impl FnOnce(&mut State) -> T) -> T {
        let mut v = self.cpus[cpu].vcpu.lock().unwrap();
        f(v.exact_state())
    }

    /// A vCPU that is off after a reset goes on with the others. The machine must be paused.
    pub fn switch_on(&self, cpu: usize) {
        self.cpus[cpu].on.store(true, Ordering::SeqCst);
    }

    /// Whether a vCPU is on.
    pub fn is_on(&self, cpu: usize) -> bool {
        self.cpus[cpu].on.load(Ordering::SeqCst)
    }

    /// Whether a vCPU waits for an interrupt, or did so when the machine was paused.
    pub fn is_waiting(&self, cpu: usize) -> bool {
        self.cpus[cpu].waiting.load(Ordering::SeqCst)
    }

    /// Whether a vCPU does nothing now.
    pub fn is_halted(&self, cpu: usize) -> bool {
        self.cpus[cpu].parking.is_sleeping() && self.is_waiting(cpu)
    }

    /// The physical address behind a virtual one, as a paused vCPU sees it now.
    pub fn physical(&self, cpu: usize, addr: u64) -> Option<u64> {
        let mut v = self.cpus[cpu].vcpu.lock().unwrap();
        let state = v.exact_state();
        let key = state.u64_at(ir::state::KEY);
        let regime = self.system().regime(key);
        let view = self.space.view();
        let walk = |regime| self.system().walk(state, regime, addr, cpu::Access::Read, &PhysicalView(&view));
        let m = walk(regime).or_else(|_| walk(self.system().regime_for_debugger(regime))).ok()?;
        Some(m.phys | addr & (PAGE_BYTES - 1))
    }

    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    fn ask_all(&self, what: u32) {
        for cpu in &self.cpus {
            cpu.ask(what);
        }
    }

    // ---- translations ------------------------------------------------------------------------------------------------

    /// What the code cache holds, and how often a full one has been replaced.
    pub fn statistics(&self) -> (Statistics, u64) {
        (self.current_cache().statistics(), self.replaced.load(Ordering::Relaxed))
    }

    fn current_cache(&self) -> Arc<Cache> {
        self.cache.lock().unwrap().clone()
    }

    /// Replaces a full cache, unless somebody has done so already.
    fn start_new_cache(&self, full: &Arc<Cache>) {
        let mut current = self.cache.lock().unwrap();
        if Arc::ptr_eq(&current, full) {
            let fresh = Cache::new(engine::code_bytes(&self.config), environment_of(&*self.guest, self.cpus.len()));
            *current = Arc::new(fresh.unwrap_or_else(|e| panic!("no memory for translated code: {e}")));
            drop(current);
            self.replaced.fetch_add(1, Ordering::Relaxed);
            self.ask_all(request::NEW_CACHE | request::FORGET);
        }
    }

    /// Guest-physical memory was changed: drops what was translated from it.
    pub fn invalidate(&self, phys: u64, len: u64) {
        let cache = self.current_cache();
        let view = self.space.view();
        let mut any = false;
        let mut at = phys;
        let end = phys.saturating_add(len);
        while at < end {
            let part = (PAGE_BYTES - at % PAGE_BYTES).min(end - at);
            if let Some((ram, offset)) = view.ram(at, 1)
                && ram.has_code(offset, 1)
            {
                any |= cache.invalidate_within(at, part, || {
                    ram.set_code(offset, false);
                });
            }
            at += part;
        }
        if any {
            self.ask_all(request::FORGET);
        }
    }

    /// Drops all translations.
    pub fn invalidate_all(&self) {
        self.current_cache().invalidate(0, fabric::space::SPACE_BYTES);
        self.ask_all(request::FORGET);
    }

    /// The monitor's counter for a host address.
    fn monitor(&self, host: u64) -> &AtomicU64 {
        &self.monitors[(host >> 4) as usize % engine::MONITORS]
    }

    /// Marks a page as one that holds code. Whether it was one already; if not, nobody writes to it unnoticed from now on.
    fn protect(&self, view: &View, phys: u64) -> bool {
        let Some((ram, offset)) = view.ram(phys, PAGE_BYTES) else {
            return true;
        };
        if ram.set_code(offset, true) {
            return true;
        }
        let host = ram.host() as u64 + offset;
        for cpu in &self.cpus {
            cpu.protect.lock().unwrap().push(host);
            cpu.ask(request::PROTECT);
        }
        let me = fabric::requester::cpu();
        for cpu in self.cpus.iter().filter(|c| c.index != me) {
            self.wait_for(cpu, request::PROTECT);
        }
        false
    }

    /// Waits until a vCPU has carried out a request or uses no translations.
    fn wait_for(&self, cpu: &Cpu, what: u32) {
        let mut spins = 0u32;
        while cpu.inside.load(Ordering::SeqCst) && cpu.requests.load(Ordering::SeqCst) & what != 0 {
            spins += 1;
            if spins < 64 { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

/// Guest-physical memory for page walks.
pub(crate) struct PhysicalView<'a>(pub &'a View);

impl Physical for PhysicalView<'_> {
    fn read(&self, addr: u64, size: u8) -> Option<u64> {
        let (ram, offset) = self.0.ram(addr, size as u64)?;
        Some(ram.load(offset, size))
    }

    fn compare_exchange(&self, addr: u64, size: u8, old: u64, new: u64) -> Option<u64> {
        let (ram, offset) = self.0.ram(addr, size as u64)?;
        Some(ram.compare_exchange(offset, size, old, new))
    }
}

/// The host page of a physical page: its address (0 if it is not memory) and whether writes to it must not be direct.
fn host_page(view: &View, phys: u64) -> (u64, bool) {
    let section = view.find(phys);
    match (&section.kind, view.ram(phys, PAGE_BYTES)) {
        (SectionKind::Ram { writable, .. }, Some((ram, offset))) => (ram.host() as u64 + offset, !writable),
        _ => (0, true),
    }
}

fn environment_of(guest: &dyn Guest, count: usize) -> x64::Env {
    let mut env = engine::environment(guest);
    env.memory = Memory::Soft32;
    env.fix_up_alignment = false;
    // Devices and guests do not use exclusives on each other's memory.
    env.alone = count == 1;
    vcpu::set_offsets(&mut env.offsets);
    env
}

fn new_cpu(
    index: usize,
    guest: &dyn Guest,
    cache: &Arc<Cache>,
    space: &Arc<AddressSpace>,
    (functions, monitors): (&[usize], &[AtomicU64]),
    parking: Arc<Parking>,
) -> Arc<Cpu> {
    let mut vcpu = Vcpu::new(cache.clone(), space.view(), functions.as_ptr() as u64);
    vcpu.block.block.control.monitors = monitors.as_ptr() as u64;
    guest.reset(vcpu.state_mut());
    let system = guest.system().expect("a system level");
    Arc::new(Cpu {
        index,
        exit_req: vcpu.exit_req(),
        requests: AtomicU32::new(0),
        inside: AtomicBool::new(false),
        inputs: AtomicU32::new(0),
        event: AtomicBool::new(false),
        on: AtomicBool::new(!system.starts_off(index)),
        start: Mutex::new(None),
        flushes: Mutex::default(),
        protect: Mutex::default(),
        waiting: AtomicBool::new(false),
        parking,
        action: Mutex::default(),
        outputs: RwLock::default(),
        interface: OnceLock::new(),
        vcpu: Mutex::new(vcpu),
    })
}

type VcpuGuard<'a> = MutexGuard<'a, Box<Vcpu>>;
