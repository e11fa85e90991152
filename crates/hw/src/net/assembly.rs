//! A frame on its way out whose pieces lie in several places of the guest's memory.
//!
//! Invariants: it never grows beyond what its chip allows; one with a piece missing is not sent.

use super::card::{FRAME_MIN, Wires};

/// Two addresses and a type: what is shorter is no frame.
const HEADER: usize = 14;

#[derive(Default)]
pub struct Assembly {
    pub frame: Vec<u8>,
    /// It has begun, and its end has not been seen.
    pub open: bool,
    /// A piece is missing.
    pub broken: bool,
}

impl Assembly {
    /// The next piece is a frame's first one.
    pub fn begin(&mut self) {
        self.clear();
        self.open = true;
    }

    /// As if there had never been a frame.
    pub fn clear(&mut self) {
        self.frame.clear();
        (self.open, self.broken) = (false, false);
    }

    /// Adds a piece, unless one is missing already or the frame becomes longer than `longest`.
    pub fn append(&mut self, w: &Wires, address: u64, len: usize, longest: usize) {
        if self.broken {
            return;
        }
        let start = self.frame.len();
        if start + len > longest {
            w.report(format_args!("a frame of more than {longest} bytes is dropped"));
            self.broken = true;
            return;
        }
        self.frame.resize(start + len, 0);
        if !w.memory.read(address, &mut self.frame[start..]) {
            w.report(format_args!("a frame's bytes at {address:#x} are not in memory"));
            self.broken = true;
        }
    }

    /// The last piece is there: pads the frame. False if it must not be sent.
    pub fn finish(&mut self, w: &Wires) -> bool {
        if self.broken || self.frame.len() < HEADER {
            w.report(format_args!("a frame of {} bytes is dropped", self.frame.len()));
            self.broken = true;
        } else if self.frame.len() < FRAME_MIN {
            self.frame.resize(FRAME_MIN, 0);
        }
        !self.broken
    }
}
