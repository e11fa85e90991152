//! One guest CPU (thread).
//!
//! Invariants:
//! 1. A `Block` never moves: generated code addresses it through rbp, the engine's registry by pointer.
//! 2. Only the owning thread runs a vCPU; other threads and signal handlers touch `exit_req` only.

use crate::engine::{Engine, Requests};
use crate::jumps::{self, Jump, NO_KEY};
use cpu::Fault;
use ir::{State, TrapKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Why `run` returned. The state is exact; its key names the next instruction (after a trap: as the front end says; after a
/// fault: the faulting instruction).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    Trap {
        kind: TrapKind,
        arg: u32,
    },
    Fault(Fault),
    /// Somebody stored to the kick word.
    Kicked,
}

/// Entries of the jump cache of a process's vCPU.
pub(crate) const JUMP_CACHE_ENTRIES: usize = 4096;

/// What the run loop and generated code share besides the guest state.
#[repr(C)]
pub(crate) struct Control {
    /// Not zero: leave translated code soon. Set through `kick` by the caller's side.
    pub exit_req: AtomicU32,
    /// Not zero: a runtime function has failed with `pending`.
    pub fault: AtomicU32,
    /// The misaligned address (written by generated code together with `fault`).
    pub fault_high: u32,
    pub guest_mxcsr: u32,
    pub host_mxcsr: u32,
    /// The engine's own requests, see `engine::Requests`.
    pub requests: AtomicU32,
    pub host_rsp: u64,
    pub functions: u64,
    pub result: u64,
    pub monitors: u64,
    pub exclusive: Exclusive,
    /// Counts up when translated code is entered and left: odd within it.
    pub entries: AtomicU32,
    /// Set by the signal handler: host instruction and address of a fault in generated code, and what it was.
    pub host_fault: HostFault,
    pub pending: Option<Fault>,
    pub engine: *const Engine,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct HostFault {
    pub rip: u64,
    pub addr: u64,
    pub write: bool,
}

/// The local exclusive monitor.
#[repr(C)]
pub(crate) struct Exclusive {
    pub open: u64,
    pub addr: u64,
    pub value: u64,
    /// `NO_VERSION` until versions matter.
    pub version: u64,
    /// Not zero while translated code has the monitor's counter locked.
    pub held: u64,
    /// Not zero: versions matter. Set by other threads.
    pub versions: AtomicU64,
}

/// A version that no counter has.
const NO_VERSION: u64 = u64::MAX;

impl Exclusive {
    fn new() -> Exclusive {
        Exclusive { open: 0, addr: 0, value: 0, version: NO_VERSION, held: 0, versions: AtomicU64::new(0) }
    }

    /// Opens the monitor.
    pub fn open(&mut self, addr: u64, value: u64, version: u64) {
        (self.open, self.addr, self.value) = (1, addr, value);
        if self.versions.load(Ordering::Acquire) != 0 {
            self.version = version;
        }
    }

    /// Locks a monitor's counter for a store-exclusive, if the version noted allows that. Gives the version to unlock it
    /// with if nothing is stored; the next one is greater by 2.
    pub fn lock(&self, counter: &AtomicU64) -> Option<u64> {
        if self.versions.load(Ordering::Acquire) != 0 {
            let locked = counter.compare_exchange(self.version, self.version + 1, Ordering::AcqRel, Ordering::Relaxed);
            return locked.is_ok().then_some(self.version);
        }
        loop {
            let version = counter.load(Ordering::Relaxed) & !1;
            if counter.compare_exchange(version, version + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Some(version);
            }
            std::hint::spin_loop();
        }
    }
}

/// What generated code reaches through rbp, of processes and of machines.
#[repr(C, align(64))]
pub(crate) struct Block {
    pub state: State,
    pub control: Control,
}

/// Everything a process's generated code reaches through rbp.
#[repr(C)]
pub(crate) struct UserBlock {
    block: Block,
    pub jumps: [Jump; JUMP_CACHE_ENTRIES],
}

impl std::ops::Deref for UserBlock {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.block
    }
}

impl std::ops::DerefMut for UserBlock {
    fn deref_mut(&mut self) -> &mut Block {
        &mut self.block
    }
}

impl Control {
    /// For generated code that calls the functions in this table.
    fn new(functions: u64) -> Control {
        Control {
            exit_req: AtomicU32::new(0),
            fault: AtomicU32::new(0),
            fault_high: 0,
            guest_mxcsr: 0x1f80,
            host_mxcsr: 0x1f80,
            requests: AtomicU32::new(0),
            host_rsp: 0,
            functions,
            result: 0,
            monitors: 0,
            exclusive: Exclusive::new(),
            entries: AtomicU32::new(0),
            host_fault: HostFault::default(),
            pending: None,
            engine: std::ptr::null(),
        }
    }
}

impl Block {
    /// A block whose generated code calls the functions in this table.
    pub fn new(functions: u64) -> Block {
        Block { state: State::default(), control: Control::new(functions) }
    }
}

impl UserBlock {
    /// It is made where it stays: passing so much memory through the stack would touch it twice.
    fn boxed(functions: u64) -> Box<UserBlock> {
        let mut block = Box::<UserBlock>::new_uninit();
        let b = block.as_mut_ptr();
        // SAFETY: each field is written, through a pointer to memory that is a block's.
        unsafe {
            (&raw mut (*b).block).write(Block::new(functions));
            jumps::begin(&raw mut (*b).jumps);
            block.assume_init()
        }
    }
}

pub struct Vcpu {
    pub(crate) engine: Arc<Engine>,
    pub(crate) block: Box<UserBlock>,
    pub(crate) cache: Arc<crate::cache::Cache>,
    /// Consecutive unexplained faults at one address.
    pub(crate) bus_errors: u32,
    /// The thread's `rseq` registration.
    pub(crate) sequences: Option<crate::sequence::Registration>,
    pub(crate) recent: crate::sequence::Recent,
}

impl Vcpu {
    pub fn new(engine: &Arc<Engine>) -> Vcpu {
        let mut block = UserBlock::boxed(engine.functions.as_ptr() as u64);
        block.control.monitors = engine.monitors.as_ptr() as u64;
        block.control.engine = Arc::as_ptr(engine);
        engine.guest().reset(&mut block.state);
        engine.register(&block.control);
        Vcpu {
            engine: engine.clone(),
            block,
            cache: engine.current_cache(),
            bus_errors: 0,
            sequences: None,
            recent: Default::default(),
        }
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    #[inline]
    pub fn state(&self) -> &State {
        &self.block.state
    }

    #[inline]
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.block.state
    }

    /// Closes the exclusive monitor (exception entry, context switch).
    pub fn clear_exclusive(&mut self) {
        self.block.control.exclusive.open = 0;
    }

    /// Storing a non-zero value here (from any thread or signal handler) makes `run` return `Kicked` soon. Valid as long as
    /// the vCPU.
    pub fn kick(&self) -> *const AtomicU32 {
        &raw const self.block.control.exit_req
    }

    pub fn clear_kick(&self) {
        self.block.control.exit_req.store(0, Ordering::SeqCst);
        // A request of the engine may have used the same word.
        if self.block.control.requests.load(Ordering::SeqCst) != 0 {
            self.block.control.exit_req.store(Requests::MARK, Ordering::SeqCst);
        }
    }

    /// The floating-point exception flags accumulated so far (softfloat::Flags layout), wherever they are.
    pub fn fp_flags(&mut self) -> u32 {
        crate::runtime::fp_flags(&mut self.block)
    }

    /// Runs until something needs the caller.
    pub fn run(&mut self) -> Stop {
        if self.engine.config.interpret { crate::interp::run(self) } else { crate::run::run(self) }
    }

    /// Carries out the engine's requests: forget jumps, change to a new code cache.
    pub(crate) fn serve_requests(&mut self) {
        let r = self.block.control.requests.swap(0, Ordering::SeqCst);
        if r == 0 {
            return;
        }
        self.forget_jumps();
        if r & Requests::NEW_CACHE != 0 {
            self.cache = self.engine.current_cache();
        }
    }

    pub(crate) fn forget_jumps(&mut self) {
        for j in &mut self.block.jumps {
            j.key = NO_KEY;
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.engine.unregister(&self.block.control);
    }
}
