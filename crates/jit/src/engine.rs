//! What all vCPUs of a machine share: the guest, its memory, the translations, the exclusive monitors.
//!
//! Invariants:
//! 1. `vcpus` holds pointers to the `Control` of live vCPUs only (a vCPU registers when made and unregisters when dropped).

use crate::breakpoint::cut;
use crate::cache::{Cache, Name, Source};
use crate::space::{PAGE_BYTES, Space};
use crate::vcpu::{Block, Control, JUMP_CACHE_ENTRIES, UserBlock};
use cpu::{Guest, Limits};
use ir::{Builder, HelperFn, Region, TrapKind};
use spec::Result;
use std::collections::HashMap;
use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use x64::env::{Features, HelperInfo, Memory, Offsets};

/// What a translation log sees: the region and the host code with its address.
pub type TranslationLog = Box<dyn Fn(&Region, &[u8], usize) + Send + Sync>;

/// What a log of the front end's work sees: the region before the back end may change it.
pub type BuiltLog = Box<dyn Fn(&Region) + Send + Sync>;

/// What an observer of execution sees: the state, and the address of the host code that is about to be entered (0: interpreted).
pub type Observer = Box<dyn Fn(&ir::State, usize) + Send + Sync>;

/// How the engine is to work.
#[derive(Clone, Debug)]
pub struct Config {
    /// Size of the code memory in bytes (`-tb-size`).
    pub tb_size: usize,
    /// One guest instruction per region (`-one-insn-per-tb`).
    pub one_insn_per_tb: bool,
    /// Execute with the IR interpreter only.
    pub interpret: bool,
    /// Return to the run loop between regions, so that an observer sees each (`-d nochain`).
    pub nochain: bool,
    /// A machine's vCPUs take turns on one thread (`thread=single`).
    pub one_thread: bool,
    /// A machine's clock counts instructions.
    pub icount: Option<crate::machine::icount::Options>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            tb_size: 128 << 20,
            one_insn_per_tb: false,
            interpret: false,
            nochain: false,
            one_thread: false,
            icount: None,
        }
    }
}

/// Longest region in guest instructions.
pub const MAX_REGION_INSNS: u32 = 48;
/// Smallest code memory that holds the stubs and a few regions.
const MIN_CODE_BYTES: usize = 1 << 20;
/// Counters of the exclusive monitors, hashed by address.
pub(crate) const MONITORS: usize = 4096;

/// What the engine asks of vCPUs (bits of `Control::requests`).
pub(crate) struct Requests;

impl Requests {
    pub const FORGET_JUMPS: u32 = 1;
    pub const NEW_CACHE: u32 = 2;
    /// The exit request was the engine's only.
    pub const MARK: u32 = 4;
}

/// A registered vCPU.
struct Registered(*const Control);

// SAFETY: only atomics of the control block are touched from other threads (invariant 2 of `vcpu`).
unsafe impl Send for Registered {}

pub struct Engine {
    pub(crate) guest: Arc<dyn Guest>,
    pub(crate) space: Arc<Space>,
    pub(crate) config: Config,
    /// Addresses that generated code calls by index, see `x64::env::function`.
    pub(crate) functions: Vec<usize>,
    /// Even: free; odd: a store-exclusive is under way. Every successful store-exclusive adds 2.
    pub(crate) monitors: Box<[AtomicU64]>,
    cache: Mutex<Arc<Cache>>,
    vcpus: Mutex<Vec<Registered>>,
    /// A store-exclusive that is not paired within its region has been translated.
    lone_exclusives: AtomicBool,
    interpreted: Mutex<Interpreted>,
    /// How often some of them were dropped.
    pub(crate) interpreted_drops: AtomicU64,
    log: std::sync::OnceLock<TranslationLog>,
    built: std::sync::OnceLock<BuiltLog>,
    observer: std::sync::OnceLock<Observer>,
    pub(crate) breakpoints: crate::breakpoint::Breakpoints,
    pub(crate) sequences: crate::sequence::Sequences,
}

/// Regions of the interpreter, by key and by page.
#[derive(Default)]
struct Interpreted {
    by_key: HashMap<u64, Arc<Region>>,
    by_page: HashMap<u64, Vec<u64>>,
}

impl Engine {
    pub fn new(guest: Arc<dyn Guest>, space: Arc<Space>, config: Config) -> Result<Arc<Engine>> {
        let monitors = std::iter::repeat_with(|| AtomicU64::new(0)).take(MONITORS).collect();
        let functions = functions(&*guest, crate::runtime::table());
        // The interpreter pairs nothing.
        let lone_exclusives = AtomicBool::new(config.interpret);
        let cache = Cache::new(code_bytes(&config), environment(&*guest))?;
        let engine = Arc::new(Engine {
            guest,
            space,
            config,
            functions,
            monitors,
            cache: Mutex::new(Arc::new(cache)),
            vcpus: Mutex::default(),
            lone_exclusives,
            interpreted: Mutex::default(),
            interpreted_drops: AtomicU64::new(0),
            log: std::sync::OnceLock::new(),
            built: std::sync::OnceLock::new(),
            observer: std::sync::OnceLock::new(),
            breakpoints: Default::default(),
            sequences: Default::default(),
        });
        engine.space.attach(Arc::downgrade(&engine));
        Ok(engine)
    }

    pub fn guest(&self) -> &dyn Guest {
        &*self.guest
    }

    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Calls `log` for every region translated from now on (`-d in_asm,op,out_asm`, perf map). Once only.
    pub fn set_log(&self, log: TranslationLog) {
        let _ = self.log.set(log);
    }

    /// Calls `log` for every region that the front end makes from now on (`-d op`). Once only.
    pub fn set_built_log(&self, log: BuiltLog) {
        let _ = self.built.set(log);
    }

    pub(crate) fn log_built(&self, region: &Region) {
        if let Some(log) = self.built.get() {
            log(region);
        }
    }

    /// Calls `observer` whenever a run loop enters a region from now on (`-d exec,cpu`). Once only.
    pub fn set_observer(&self, observer: Observer) {
        let _ = self.observer.set(observer);
    }

    pub(crate) fn observe(&self, state: &ir::State, code: usize) {
        if let Some(observer) = self.observer.get() {
            observer(state, code);
        }
    }

    pub(crate) fn log_translation(&self, region: &Region, code: &[u8], address: usize) {
        if let Some(log) = self.log.get() {
            log(region, code, address);
        }
    }

    pub(crate) fn max_insns(&self) -> u32 {
        if self.config.one_insn_per_tb { 1 } else { MAX_REGION_INSNS }
    }

    pub(crate) fn monitor(&self, addr: u64) -> &AtomicU64 {
        &self.monitors[(addr >> 4) as usize % MONITORS]
    }

    /// The monitor's counter while no store-exclusive is under way.
    pub(crate) fn monitor_version(&self, addr: u64) -> u64 {
        loop {
            let v = self.monitor(addr).load(Ordering::Acquire);
            if v & 1 == 0 {
                return v;
            }
            std::hint::spin_loop();
        }
    }

    // ---- vCPUs -------------------------------------------------------------------------------------------------------

    pub(crate) fn register(&self, control: &Control) {
        let mut vcpus = self.vcpus.lock().unwrap();
        vcpus.push(Registered(control));
        // Nobody else executes: the thread that makes a second one is in a system call.
        if vcpus.len() > 1 && (self.lone_exclusives.load(Ordering::SeqCst) || !host::barrier::is_available()) {
            for r in vcpus.iter() {
                // SAFETY: invariant 1.
                unsafe { &*r.0 }.exclusive.versions.store(1, Ordering::SeqCst);
            }
        }
    }

    /// Before a region is executed that has a store-exclusive without its load: from now on all store-exclusives must count
    /// (see `x64::env::Offsets::exclusive`). Waits until no other vCPU is in the midst of one that does not.
    fn mind_versions(&self, region: &Region) {
        let lone = |i: &ir::Inst| i.op == ir::Op::StEx && i.c == u32::MAX;
        if self.lone_exclusives.load(Ordering::SeqCst) || !region.insts.iter().any(lone) {
            return;
        }
        let vcpus = self.vcpus.lock().unwrap();
        self.lone_exclusives.store(true, Ordering::SeqCst);
        if vcpus.len() < 2 {
            return;
        }
        // SAFETY: invariant 1.
        let others = || vcpus.iter().map(|r| unsafe { &*r.0 });
        for control in others() {
            control.exclusive.versions.store(1, Ordering::SeqCst);
        }
        // Whoever is not seen inside after this has seen the word when it enters.
        host::barrier::all_threads();
        for control in others() {
            let entries = control.entries.load(Ordering::SeqCst);
            while entries & 1 != 0 && control.entries.load(Ordering::SeqCst) == entries {
                let _ = control.exit_req.compare_exchange(0, Requests::MARK, Ordering::SeqCst, Ordering::SeqCst);
                std::thread::yield_now();
            }
        }
    }

    pub(crate) fn unregister(&self, control: &Control) {
        self.vcpus.lock().unwrap().retain(|r| !std::ptr::eq(r.0, control));
    }

    /// Asks every vCPU to leave translated code and do something.
    fn request(&self, what: u32) {
        for r in self.vcpus.lock().unwrap().iter() {
            // SAFETY: invariant 1.
            let control = unsafe { &*r.0 };
            control.requests.fetch_or(what, Ordering::SeqCst);
            // 0 becomes the engine's mark; the caller's own request stays.
            let _ = control.exit_req.compare_exchange(0, Requests::MARK, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// After requests have been served: withdraws the engine's exit request. Gives whether the caller has one of its own.
    pub(crate) fn take_back_exit_request(&self, control: &Control) -> bool {
        let r = control.exit_req.compare_exchange(Requests::MARK, 0, Ordering::SeqCst, Ordering::SeqCst);
        if r.is_ok() && control.requests.load(Ordering::SeqCst) != 0 {
            control.exit_req.store(Requests::MARK, Ordering::SeqCst);
        }
        r.is_err_and(|v| v != 0)
    }

    // ---- translations ------------------------------------------------------------------------------------------------

    pub(crate) fn current_cache(&self) -> Arc<Cache> {
        self.cache.lock().unwrap().clone()
    }

    /// Replaces a full cache, unless somebody has done so already. All vCPUs change over when they next leave.
    pub(crate) fn start_new_cache(&self, full: &Arc<Cache>) {
        {
            let mut current = self.cache.lock().unwrap();
            if Arc::ptr_eq(&current, full) {
                let fresh = Cache::new(code_bytes(&self.config), environment(&*self.guest));
                *current = Arc::new(fresh.unwrap_or_else(|e| panic!("no memory for translated code: {e}")));
            }
        }
        self.request(Requests::NEW_CACHE | Requests::FORGET_JUMPS);
    }

    /// Drops the translations that depend on guest bytes in `addr..addr + len`.
    pub fn invalidate(&self, addr: u64, len: u64) {
        let cache = self.current_cache();
        if cache.invalidate(addr, len) {
            self.request(Requests::FORGET_JUMPS);
        }
        let mut regions = self.interpreted.lock().unwrap();
        let page_bytes = PAGE_BYTES as u64;
        if len == 0 || regions.by_page.is_empty() {
            return;
        }
        let (first, last) = (addr / page_bytes, (addr + len - 1) / page_bytes);
        let pages: Vec<u64> = regions.by_page.keys().copied().filter(|p| (first..=last).contains(p)).collect();
        if !pages.is_empty() {
            self.interpreted_drops.fetch_add(1, Ordering::SeqCst);
        }
        for page in pages {
            for key in regions.by_page.remove(&page).unwrap_or_default() {
                regions.by_key.remove(&key);
            }
        }
    }

    /// Forks the process by `fork` (which calls `fork` or `clone` and gives its result: 0 in the child), with the
    /// translations in a consistent state on both sides. In the child only the calling thread's vCPU remains registered.
    pub fn fork(&self, vcpu: &crate::Vcpu, fork: impl FnOnce() -> i64) -> Result<i64> {
        let cache = self.current_cache();
        let own = if Arc::ptr_eq(&cache, &vcpu.cache) { None } else { Some(&vcpu.cache) };
        let caches = || std::iter::once(&cache).chain(own);
        let (pid, copies) = {
            // No other thread holds these locks in the child, then.
            let _current = self.cache.lock().unwrap();
            let _vcpus = self.vcpus.lock().unwrap();
            let _interpreted = self.interpreted.lock().unwrap();
            let frozen: Vec<_> = caches().map(|c| c.freeze()).collect();
            let _pages = self.space.freeze();
            // The child's code memory is made before, so that nobody has to wait for it to be copied.
            let copies = caches().zip(&frozen).map(|(c, f)| Ok((c, c.copy(f)?))).collect::<Result<Vec<_>>>()?;
            (fork(), copies)
        };
        if pid == 0 {
            self.vcpus.lock().unwrap().retain(|r| std::ptr::eq(r.0, &vcpu.block.control));
            for m in &self.monitors {
                // A store-exclusive that another thread had under way will never be finished here.
                // The others stay untouched, so that their pages need no copy.
                let v = m.load(Ordering::Relaxed);
                if v & 1 != 0 {
                    m.store(v & !1, Ordering::Relaxed);
                }
            }
            for (cache, copy) in copies {
                cache.after_fork(copy).unwrap_or_else(|e| panic!("{e}"));
            }
        }
        Ok(pid)
    }

    /// The interpreter's region at `key`.
    pub(crate) fn region(&self, key: u64) -> Arc<Region> {
        self.interpreted(key, |b| self.translate_to_breakpoint(key, self.max_insns(), b))
    }

    /// The same for code of a restartable sequence, which it does not leave (and no other region enters).
    pub(crate) fn region_within(&self, key: u64, bounds: (u64, u64)) -> Arc<Region> {
        self.interpreted(key, |b| self.build_within(key, bounds, b))
    }

    /// The same, not kept.
    pub(crate) fn translate_within(&self, key: u64, bounds: (u64, u64)) -> Arc<Region> {
        let mut b = Builder::new();
        self.build_within(key, bounds, &mut b);
        Arc::new(b.take())
    }

    fn build_within(&self, key: u64, (start, end): (u64, u64), b: &mut Builder) {
        self.translate(key, self.max_insns(), b);
        let stops = |pc| !(start..end).contains(&pc) || self.breakpoints.has(pc) && pc != self.guest.pc(key);
        cut(b, TrapKind::Step, stops, |n, b| self.translate(key, n, b));
    }

    fn interpreted(&self, key: u64, translate: impl FnOnce(&mut Builder)) -> Arc<Region> {
        // The lock is held so that no invalidation falls between reading the code and recording the region.
        let mut regions = self.interpreted.lock().unwrap();
        if let Some(r) = regions.by_key.get(&key) {
            return r.clone();
        }
        let mut b = Builder::new();
        translate(&mut b);
        let region = Arc::new(b.take());
        self.log_translation(&region, &[], 0);
        for &(addr, len) in &region.covers {
            for page in addr / PAGE_BYTES as u64..=(addr + len.max(1) as u64 - 1) / PAGE_BYTES as u64 {
                regions.by_page.entry(page).or_default().push(key);
            }
        }
        regions.by_key.insert(key, region.clone());
        region
    }

    /// Translates a region, its pages being protected first, so that no later write goes unnoticed.
    pub(crate) fn translate(&self, key: u64, max_insns: u32, b: &mut Builder) {
        let pc = self.guest.pc(key);
        loop {
            let changes = self.space.changes();
            b.begin(key, pc);
            self.guest.translate(key, Limits { max_insns, relative: false }, &*self.space, b);
            if !self.breakpoints.exact() {
                mark_dead_flags(&*self.guest, &*self.space, b.region_mut());
            }
            // Protect what was read and read again if a page was still open to writes, or may have been replaced.
            let mut all_protected = true;
            for &(addr, len) in &b.region().covers {
                for page in addr / PAGE_BYTES as u64..=(addr + len.max(1) as u64 - 1) / PAGE_BYTES as u64 {
                    all_protected &= self.space.protect_code((page * PAGE_BYTES as u64) as u32, changes);
                }
            }
            if all_protected {
                break;
            }
        }
        verify(b.region());
    }
}

/// Looks at the code behind each exit that is not far: flags that are overwritten there need not be saved.
pub(crate) fn mark_dead_flags(guest: &dyn Guest, code: &dyn cpu::Code, region: &mut Region) {
    for e in region.exits.iter_mut().filter(|e| !e.far) {
        if let Some(looked_at) = guest.flags_dead(e.key, code) {
            e.flags_dead = true;
            region.covers.push(looked_at);
        }
    }
}

/// In debug builds: what a front end made is a region.
pub(crate) fn verify(region: &Region) {
    if cfg!(debug_assertions)
        && let Err(e) = ir::verify::verify(region)
    {
        panic!("the front end made a bad region: {e}\n{}", ir::text::print(region));
    }
}

impl Source for Engine {
    fn max_insns(&self) -> u32 {
        self.max_insns()
    }

    fn translate(&self, name: Name, max_insns: u32, b: &mut Builder) {
        self.translate_to_breakpoint(name.key, max_insns, b);
        self.mind_versions(b.region());
    }

    fn log_translation(&self, _: Name, region: &Region, code: &[u8], address: usize) {
        self.log_translation(region, code, address);
    }

    fn may_link(&self) -> bool {
        !self.config.nochain
    }
}

pub(crate) fn code_bytes(config: &Config) -> usize {
    config.tb_size.clamp(MIN_CODE_BYTES, 1 << 30).next_multiple_of(4096)
}

pub(crate) fn environment(guest: &dyn Guest) -> x64::Env {
    let helpers = guest.helpers().iter().map(|h| HelperInfo::of(&h.f));
    let control = |o: usize| (offset_of!(Block, control) + o) as i32;
    let layout = guest.layout().clone();
    x64::Env {
        features: Features::detect(),
        memory: if layout.address_bits == 32 { Memory::Window32 } else { Memory::Identity },
        pins: x64::env::Pins::new(&layout),
        layout,
        offsets: Offsets {
            exit_req: control(offset_of!(Control, exit_req)),
            jump_cache: offset_of!(UserBlock, jumps) as i32,
            jump_cache_entries: JUMP_CACHE_ENTRIES as u32,
            functions: control(offset_of!(Control, functions)),
            host_rsp: control(offset_of!(Control, host_rsp)),
            guest_mxcsr: control(offset_of!(Control, guest_mxcsr)),
            host_mxcsr: control(offset_of!(Control, host_mxcsr)),
            fault: control(offset_of!(Control, fault)),
            fault_rip: control(offset_of!(Control, host_fault) + offset_of!(crate::vcpu::HostFault, rip)),
            exclusive: control(offset_of!(Control, exclusive) + offset_of!(crate::vcpu::Exclusive, open)),
            result: control(offset_of!(Control, result)),
            monitors: control(offset_of!(Control, monitors)),
            monitor_count: MONITORS as u32,
            ..Default::default()
        },
        stubs: Default::default(),
        fix_up_alignment: true,
        alone: false,
        helpers: helpers.collect(),
    }
}

/// The function table of generated code.
pub(crate) fn functions(guest: &dyn Guest, mut table: Vec<usize>) -> Vec<usize> {
    for h in guest.helpers() {
        table.push(match h.f {
            HelperFn::Pure(f) => f as usize,
            HelperFn::State(f) => f as usize,
            HelperFn::Vec(f) | HelperFn::Crypto(_, f) => f as usize,
            HelperFn::VecState(f) => f as usize,
        });
    }
    table
}
