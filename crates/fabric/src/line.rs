//! Interrupt lines: one-way wires with a level.

use std::sync::Arc;

/// The far end of a set of wires: an interrupt controller, a CPU, a test.
pub trait LineSink: Send + Sync {
    /// Wire `number` now has this level. Called on any thread; must not call back into whoever drives the wire.
    fn set(&self, number: u32, level: bool);
}

/// The driver's end of a wire. A wire that leads nowhere is fine.
#[derive(Clone, Default)]
pub struct Line {
    to: Option<(Arc<dyn LineSink>, u32)>,
}

impl Line {
    pub fn new(sink: Arc<dyn LineSink>, number: u32) -> Line {
        Line { to: Some((sink, number)) }
    }

    /// A wire that leads nowhere.
    pub fn nowhere() -> Line {
        Line::default()
    }

    /// Tells the sink the level, also if it is the one it has.
    pub fn set(&self, level: bool) {
        if let Some((sink, number)) = &self.to {
            sink.set(*number, level);
        }
    }

    /// High and low again: an edge.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}
