//! A timer of a vCPU that raises one of its output wires.
//!
//! The clock may call back after a deadline has been cancelled or moved, if it had begun to. The deadline in force is
//! therefore kept beside it, and the wire is raised under its lock: once `set` has returned, an earlier deadline raises
//! nothing any more.

use super::Cpu;
use fabric::{Clock, Timer};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) struct OutputTimer {
    timer: Timer,
    deadline_ns: Arc<Mutex<Option<u64>>>,
}

impl OutputTimer {
    pub fn new(clock: &Clock, cpu: &Arc<Cpu>, output: usize) -> OutputTimer {
        let deadline_ns = Arc::new(Mutex::new(None));
        let (cpu, kept, time) = (Arc::downgrade(cpu), deadline_ns.clone(), clock.clone());
        let timer = clock.timer(move || {
            let Some(cpu) = cpu.upgrade() else { return };
            let mut deadline = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if deadline.take_if(|ns: &mut u64| *ns <= time.now_ns()).is_some() {
                cpu.set_output(output, true);
            }
        });
        OutputTimer { timer, deadline_ns }
    }

    pub fn set(&self, deadline_ns: Option<u64>) {
        *self.deadline_ns.lock().unwrap_or_else(PoisonError::into_inner) = deadline_ns;
        match deadline_ns {
            Some(ns) => self.timer.at(ns),
            None => self.timer.cancel(),
        }
    }
}
