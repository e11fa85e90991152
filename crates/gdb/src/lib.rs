//! The GDB remote protocol over any [`cpu::Guest`]: a process under `qemu-arm -g`, or a machine whose vCPUs are threads.
//!
//! **Reference.** "Debugging with GDB", appendix E (remote protocol) and G (target descriptions). The packets themselves are
//! parsed and answered by the crate `gdbstub`; [`Target`] says what is debugged, [`serve`] runs one session.
//!
//! **Not modelled**: non-stop mode, reverse execution, several processes at a time (one of the two after a fork must be let go, as GDB
//! does with `detach-on-fork on`), writing files (`vFile:open` for writing).
//!
//! | file | what |
//! |---|---|
//! | `listen` | where a debugger connects: a port or a socket |
//! | `session` | one connection, from the first packet to its end |
//! | `extra` | packets that `gdbstub` leaves to us |
//! | `follow` | sessions that go on in the next program, or in the child of a fork |
//! | `files` | the guest's files, read for the debugger |
//! | `adapter` | [`Target`] as `gdbstub` wants it |
//! | `description` | the target description, from a guest's register rows |
//! | `signal` | GDB's numbers of signals and Linux's |
#![forbid(unsafe_code)]

mod adapter;
mod description;
mod extra;
mod files;
mod follow;
mod listen;
mod session;
pub mod signal;

pub use follow::Spoken;
pub use listen::{Address, Connection, Listener, Wire};
pub use session::{Ended, go_on, read, serve};

use cpu::Guest;
use std::num::NonZeroUsize;
use std::sync::mpsc::Sender;

/// A thread of a process, or a vCPU.
pub type Thread = NonZeroUsize;

/// While an instruction is stepped, no interrupt is taken.
pub const STEP_NO_INTERRUPTS: u8 = 2;
/// While an instruction is stepped, the clock stands still.
pub const STEP_NO_TIMERS: u8 = 4;

/// A signal by GDB's number.
pub type Signal = u8;

/// How an address is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// As the thread's own accesses.
    Virtual,
    /// Guest-physical (`maintenance packet Qqemu.PhyMemMode:1`).
    Physical,
}

/// What an access must do to be reported.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Watch {
    Write,
    Read,
    Access,
}

/// Something that stops the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Point {
    /// `break`; of no guest is memory written for it.
    Software { addr: u64 },
    /// `hbreak`
    Hardware { addr: u64 },
    /// `watch`, `rwatch`, `awatch`
    Watch { kind: Watch, addr: u64, len: u64 },
}

/// How a thread goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It stays where it is.
    Stay,
    /// It runs, the signal being delivered first.
    Continue(Option<Signal>),
    /// It executes one instruction, the signal being delivered first.
    Step(Option<Signal>),
    /// It executes instructions as long as they lie in the range (and one at least).
    StepRange { start: u64, end: u64 },
}

/// How the guest goes on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    threads: Vec<(Thread, Action)>,
    /// Threads that are not mentioned stay where they are; otherwise they run.
    locked: bool,
}

impl Plan {
    /// Threads that are not mentioned, and those that begin meanwhile, stay where they are.
    pub fn leaves_others(&self) -> bool {
        self.locked
    }

    /// What a thread is to do.
    pub fn action(&self, thread: Thread) -> Action {
        let mentioned = self.threads.iter().find(|(t, _)| *t == thread).map(|(_, a)| *a);
        mentioned.unwrap_or(if self.locked { Action::Stay } else { Action::Continue(None) })
    }
}

/// Why the guest has stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// A signal is about to be delivered to the thread, which the debugger decides about.
    Signal { thread: Thread, signal: Signal },
    /// A software or hardware breakpoint: the instruction has not been executed.
    Breakpoint { thread: Thread, hardware: bool },
    Watch { thread: Thread, kind: Watch, addr: u64 },
    Step { thread: Thread },
    /// A system call that `catch syscall` asked for.
    Syscall {
        thread: Thread,
        number: u64,
        entry: bool,
    },
    /// The thread's process has forked; the child (its number, which is that of its only thread) waits.
    Fork {
        thread: Thread,
        child: Thread,
    },
    /// The process has become another program, [`Target::exec_file`].
    Exec {
        thread: Thread,
    },
    /// The guest has ended with a status, or by a signal. There will be no more.
    Exited(u8),
    Killed(Signal),
}

impl Stop {
    /// The thread that has a reason.
    pub fn thread(&self) -> Option<Thread> {
        match *self {
            Stop::Signal { thread, .. }
            | Stop::Breakpoint { thread, .. }
            | Stop::Watch { thread, .. }
            | Stop::Step { thread }
            | Stop::Syscall { thread, .. }
            | Stop::Fork { thread, .. }
            | Stop::Exec { thread } => Some(thread),
            Stop::Exited(_) | Stop::Killed(_) => None,
        }
    }
}

/// What a session hears of.
#[derive(Debug)]
pub enum Event {
    /// From a connection, by number: what the debugger has sent; nothing when it has closed.
    Data(u32, Vec<u8>),
    /// The same; no more is read before the third says so, and never again if it is dropped.
    Read(u32, Vec<u8>, Sender<()>),
    /// All threads have stopped.
    Stopped(Stop),
}

/// Which system calls are of interest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Syscalls {
    #[default]
    None,
    All,
    Some(Vec<u64>),
}

impl Syscalls {
    pub fn has(&self, number: u64) -> bool {
        match self {
            Syscalls::None => false,
            Syscalls::All => true,
            Syscalls::Some(list) => list.contains(&number),
        }
    }
}

/// What is debugged. Everything but [`Target::interrupt`] is asked for only while all threads are stopped.
pub trait Target {
    fn guest(&self) -> &dyn Guest;

    /// The threads, the most interesting one first. There is at least one.
    fn threads(&self) -> Vec<Thread>;

    /// What `info threads` shows besides the number.
    fn thread_name(&self, thread: Thread) -> String;

    fn read_register(&self, thread: Thread, number: usize) -> Option<u128>;

    /// Whether it could be written.
    fn write_register(&mut self, thread: Thread, number: usize, value: u128) -> bool;

    /// How many bytes could be read.
    fn read_memory(&mut self, thread: Thread, space: Space, addr: u64, buf: &mut [u8]) -> usize;

    /// Whether all bytes could be written, read-only memory included.
    fn write_memory(&mut self, thread: Thread, space: Space, addr: u64, data: &[u8]) -> bool;

    /// Whether this kind of point exists here.
    fn supports(&self, point: Point) -> bool;

    /// Whether it could be set.
    fn insert(&mut self, point: Point) -> bool;

    /// Whether it was there.
    fn remove(&mut self, point: Point) -> bool;

    /// Lets the threads go on; an [`Event::Stopped`] follows some time.
    fn resume(&mut self, plan: &Plan);

    /// A stop that was announced by an [`Event::Stopped`] is about to be reported: everything must stand still from now on.
    fn settle(&mut self, _stop: &Stop) {}

    /// Stops everything soon, with a SIGINT.
    fn interrupt(&mut self);

    /// The debugger goes away: no points are left, threads run.
    fn detach(&mut self);

    /// Ends the guest.
    fn kill(&mut self);

    /// Whether the debugger found the guest running, so that it should leave it running when it quits.
    fn attached(&self) -> bool;

    /// `catch syscall`; whether there is such a thing.
    fn catch_syscalls(&mut self, _which: Syscalls) -> bool {
        false
    }

    /// These signals are delivered without asking; whether there is such a thing.
    fn pass_signals(&mut self, _signals: &[Signal]) -> bool {
        false
    }

    /// The guest's siginfo_t of the signal that a thread has stopped for.
    fn siginfo(&self, _thread: Thread) -> Option<Vec<u8>> {
        None
    }

    /// `monitor COMMAND`; what to print. `None` if there is no monitor.
    fn monitor(&mut self, _command: &str) -> Option<String> {
        None
    }

    /// Whether [`Space::Physical`] means anything.
    fn has_physical(&self) -> bool {
        false
    }

    /// How steps treat the rest of a machine (`maintenance packet qqemu.sstep`): a mask of [`STEP_NO_INTERRUPTS`] and
    /// [`STEP_NO_TIMERS`]; `None` if there is no choice.
    fn step_flags(&self) -> Option<u8> {
        None
    }

    fn set_step_flags(&mut self, _flags: u8) {}

    /// The auxiliary vector of a process.
    fn auxv(&self) -> Option<&[u8]> {
        None
    }

    /// The program file of a process.
    fn exec_file(&self) -> Option<&[u8]> {
        None
    }

    /// Opens a file for reading as the guest would find it. Asked for only if there is a program file.
    fn open_file(&self, _name: &[u8]) -> std::io::Result<std::fs::File> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    /// The number of the process; `None` for what is none.
    fn pid(&self) -> Option<Thread> {
        None
    }

    /// What the debugger has said so far, for a process that may take over.
    fn hear(&mut self, _spoken: &Spoken) {}

    /// The children that [`Stop::Fork`] has told of and that still wait.
    fn children(&self) -> Vec<Thread> {
        Vec::new()
    }

    /// A waiting child runs without a debugger, or ends.
    fn release_child(&mut self, _child: Thread, _kill: bool) {}

    /// A waiting child takes over the connection; this process has been let go.
    fn hand_over(&mut self, _child: Thread, _spoken: &Spoken) {}

    /// GDB's name of the operating system of a process.
    fn os_abi(&self) -> Option<&'static str> {
        None
    }
}
