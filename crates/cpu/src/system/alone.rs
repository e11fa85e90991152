//! The surroundings of a CPU that has none: for a look at its registers, for tests and comparisons.

use super::{CpuInterface, Environment, Flush, Physical, Power, PowerAnswer};

/// One vCPU without memory for page tables, clock, interrupt controller and others.
#[derive(Default, Debug)]
pub struct Alone {
    /// What [`Environment::inputs`] says.
    pub inputs: u32,
    /// How often an event was sent.
    pub events: u32,
}

impl Physical for Alone {
    fn read(&self, _: u64, _: u8) -> Option<u64> {
        None
    }

    fn compare_exchange(&self, _: u64, _: u8, _: u64, _: u64) -> Option<u64> {
        None
    }
}

impl Environment for Alone {
    fn index(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        1
    }

    fn physical(&self) -> &dyn Physical {
        self
    }

    fn flush(&mut self, _: Flush, _: bool) {}

    fn code_changed(&mut self, _: Option<(u64, u64)>) {}

    fn clock_ns(&self) -> u64 {
        0
    }

    fn set_timer(&mut self, _: usize, _: Option<u64>) {}

    fn set_output(&mut self, _: usize, _: bool) {}

    fn inputs(&self) -> u32 {
        self.inputs
    }

    fn power(&mut self, _: Power) -> PowerAnswer {
        PowerAnswer::Done
    }

    fn is_on(&self, _: usize) -> bool {
        true
    }

    fn cpu_interface(&self) -> Option<&dyn CpuInterface> {
        None
    }

    fn send_event(&mut self) {
        self.events += 1;
    }
}
