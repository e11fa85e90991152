//! One guest CPU (thread) and its run loop.
//!
//! Invariants:
//! 1. A `Block` never moves: generated code addresses it through rbp.
//! 2. Only the owning thread runs a vCPU; other threads and signal handlers touch `exit_req` only.

use crate::engine::Engine;
use cpu::Fault;
use ir::{State, TrapKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Why `run` returned. The state is exact; its key names the next instruction (after a trap: as the front end says; after a
/// fault: the faulting instruction).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    Trap { kind: TrapKind, arg: u32 },
    Fault(Fault),
    /// Somebody stored to the kick word.
    Kicked,
}

/// What the run loop and generated code share besides the guest state.
#[repr(C)]
pub(crate) struct Control {
    /// Not zero: leave translated code soon.
    pub exit_req: AtomicU32,
    pub exclusive: Exclusive,
}

/// The local exclusive monitor.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Exclusive {
    pub open: u64,
    pub addr: u64,
    pub value: u64,
    pub version: u64,
}

/// Everything generated code reaches through rbp.
#[repr(C, align(64))]
pub(crate) struct Block {
    pub state: State,
    pub control: Control,
}

pub struct Vcpu {
    pub(crate) engine: Arc<Engine>,
    pub(crate) block: Box<Block>,
}

impl Vcpu {
    pub fn new(engine: &Arc<Engine>) -> Vcpu {
        let control = Control { exit_req: AtomicU32::new(0), exclusive: Exclusive::default() };
        let mut block = Box::new(Block { state: State::default(), control });
        engine.guest().reset(&mut block.state);
        Vcpu { engine: engine.clone(), block }
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub fn state(&self) -> &State {
        &self.block.state
    }

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
    }

    /// Runs until something needs the caller.
    pub fn run(&mut self) -> Stop {
        crate::interp::run(self)
    }
}
