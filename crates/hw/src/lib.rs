//! Device models, by class. One device is one file (or a file with a directory of parts).
//!
//! **Invariants**: no device knows a board, a CPU or an executor. Addresses, interrupt numbers and locks belong to whoever
//! builds the machine; wires, ports and disks are given to a device when it is made. Guest input never panics.
#![forbid(unsafe_code)]

pub mod char;
pub mod event;
pub mod gpio;
pub mod intc;
pub mod misc;
pub mod net;
pub mod pci;
pub mod registry;
pub mod rtc;
pub mod storage;
pub mod virtio;
#[cfg(test)]
mod testing;
