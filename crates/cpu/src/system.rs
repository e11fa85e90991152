//! What a front end adds for whole machines: address translation, exceptions, interrupts, system registers; and what the
//! executor offers it.
//!
//! Translated code leaves to the run loop for everything here; the run loop calls [`System`] with the exact state and an
//! [`Environment`], then looks at the key, the address-space tags and the interrupt lines again.

mod alone;

use crate::Access;
pub use alone::Alone;
pub use fabric::CpuInterface;
/// Number of the vCPU that the calling thread runs, for logs.
pub use fabric::requester::cpu as running_cpu;
use ir::{State, TrapKind};

/// Most translation regimes a front end may have (values of the `fl` byte of memory operations).
pub const REGIMES: usize = 4;
/// The logarithm of the bytes of the smallest page; translations and regions are kept by pages of this size.
pub const PAGE_BITS: u32 = 12;

/// One page of an address translation, for one regime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Guest-physical address of the 4 KiB page.
    pub phys: u64,
    /// log2 of the size of the page-table entry that maps it, at least 12: maintenance by address drops all of it.
    pub size_bits: u8,
    pub read: bool,
    pub write: bool,
    pub execute: bool,
    /// Valid in every address space of the regime.
    pub global: bool,
}

/// Guest-physical memory as a page-table walker uses it.
pub trait Physical {
    /// `size` is 4 or 8; the address is aligned. `None` if there is no memory.
    fn read(&self, addr: u64, size: u8) -> Option<u64>;
    /// Atomically replaces `old` by `new` if that is there; gives the old memory.
    fn compare_exchange(&self, addr: u64, size: u8, old: u64, new: u64) -> Option<u64>;
}

/// Which cached translations become invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// All of the regimes in the mask.
    All { regimes: u8 },
    /// Those of one address space that are not global.
    Space { regimes: u8, space: u64 },
    /// The page with this address, in one address space and global (`Some`), or in all (`None`).
    Page { regimes: u8, addr: u64, space: Option<u64> },
}

/// What firmware calls ask of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Power {
    /// Start vCPU `cpu` (index); it takes entry point and context by `System::start`.
    CpuOn { cpu: usize, entry: u64, context: u64 },
    CpuOff,
    SystemOff,
    SystemReset,
}

/// The answer to a `Power::CpuOn`; others always succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerAnswer {
    Done,
    AlreadyOn,
    NoSuchCpu,
}

/// What the executor offers the front end while it handles something for one vCPU.
pub trait Environment {
    /// Number of this vCPU.
    fn index(&self) -> usize;
    /// How many vCPUs the machine has.
    fn count(&self) -> usize;
    /// Memory, for page-table walks.
    fn physical(&self) -> &dyn Physical;
    /// Drops translations on this vCPU, and (`everyone`) on all others too: those use none of them any more when
    /// `finish_flushes` has returned.
    fn flush(&mut self, flush: Flush, everyone: bool);
    /// Waits until what this vCPU asked the others to drop is not used any more. Only where there are several vCPUs.
    fn finish_flushes(&mut self) {}
    /// Instruction cache maintenance for a physical range, or for everything.
    fn code_changed(&mut self, range: Option<(u64, u64)>);
    /// The machine's virtual clock.
    fn clock_ns(&self) -> u64;
    /// Output wire `timer` goes high when the virtual clock reaches the deadline; `None` cancels. Until then the level
    /// stays as `set_output` left it.
    fn set_timer(&mut self, timer: usize, deadline_ns: Option<u64>);
    /// Sets an output wire of the CPU (timers, PMU; the front end numbers them).
    fn set_output(&mut self, output: usize, level: bool);
    /// Levels of the input wires (the front end numbers them), as a mask.
    fn inputs(&self) -> u32;
    /// Sets one that the front end drives itself. The executor looks at interrupts after every trap.
    fn set_input(&mut self, _input: u32, _level: bool) {}
    /// Carries out what firmware is asked for.
    fn power(&mut self, request: Power) -> PowerAnswer;
    /// Whether vCPU `cpu` runs or sleeps, and is not powered off.
    fn is_on(&self, cpu: usize) -> bool;
    /// The interrupt controller's registers that are the CPU's, if it has such ones (GICv3).
    fn cpu_interface(&self) -> Option<&dyn CpuInterface>;
    /// Sets the event register of all vCPUs, as SEV does.
    fn send_event(&mut self);
}

/// How the vCPU goes on after a trap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// At the state's key.
    Run,
    /// It sleeps until `System::wakes` says so.
    Sleep,
    /// It sleeps until an event (SEV) or an interrupt, or goes on at once if an event is pending.
    SleepForEvent,
    /// It lets other vCPUs run first.
    Yield,
}

/// A data access or instruction fetch that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The walk failed with this syndrome (the front end's own, from `System::walk`).
    Walk(u32),
    Alignment,
    /// The translation is right but nothing answers at the physical address.
    External { phys: u64 },
}

/// The system level of a front end. Methods take the vCPU's exact state.
pub trait System: Send + Sync {
    /// The regime of ordinary data accesses and of fetches at a key.
    fn regime(&self, key: u64) -> u8;

    /// The regime with which a debugger sees more than with this one: that of the kernel for a user's.
    fn regime_for_debugger(&self, regime: u8) -> u8 {
        regime
    }

    /// The tag of the current address space of a regime (ASID, VMID, ...): translations that are not global are used only
    /// while it has the value it had at the walk. Everything else that a walk reads must be followed by a flush when it
    /// changes.
    fn address_space(&self, state: &State, regime: u8) -> u64;

    /// Walks the page tables (or, with translation off, maps the page to itself). `Err` is a syndrome for `fail`. With a
    /// mapping the permissions tell which accesses are allowed; an access that is not is `Err` too, when it is the one asked
    /// for.
    fn walk(&self, state: &State, regime: u8, addr: u64, access: Access, mem: &dyn Physical) -> Result<Mapping, u32>;

    /// A data access or fetch failed at `addr`: takes the exception. The key is that of the instruction.
    fn fail(&self, state: &mut State, env: &mut dyn Environment, regime: u8, addr: u64, access: Access, why: Failure);

    /// Translated code left by a trap.
    fn trap(&self, state: &mut State, env: &mut dyn Environment, kind: TrapKind, arg: u32) -> After;

    /// Takes the most important pending interrupt that is not masked, if there is one.
    fn interrupt(&self, state: &mut State, env: &mut dyn Environment) -> bool;

    /// What a vCPU has just written to a device, with interrupt inputs high afterwards: one of them may be news, and the next
    /// instruction that lifts a mask is to let `interrupt` look, even if the same region sets the mask again.
    fn expect_interrupt(&self, _state: &mut State) {}

    /// Whether a sleeping vCPU goes on with these input levels (masked interrupts count).
    fn wakes(&self, state: &State, inputs: u32) -> bool;

    /// Power-on for `Power::CpuOn`: the state has been reset.
    fn start(&self, state: &mut State, entry: u64, context: u64);

    /// Whether this vCPU is off after reset until `Power::CpuOn`.
    fn starts_off(&self, cpu: usize) -> bool;
}
