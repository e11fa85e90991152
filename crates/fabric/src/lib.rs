//! What hardware plugs into: address spaces and RAM, interrupt lines, clocks, DMA, the device trait.
//!
//! **Invariants**: nothing here knows a device, a CPU or a board.
#![deny(unsafe_code)]

pub mod line;

pub use line::{Line, LineSink};
