//! Virtio: rings, transports and devices.
//!
//! | module | what |
//! |---|---|
//! | [`memory`] | guest memory as a device reaches it |
//! | [`ring`] | split virtqueues |
//! | [`device`] | negotiation, queues and the model behind them, shared with worker threads |
//! | [`mmio`], [`pci`] | transports |
//! | [`blk`], [`serial`], [`rng`], [`net`] | devices |
//!
//! Reference: VIRTIO 1.2 and, for legacy drivers, "Virtio PCI Card Specification" 0.9.5.

pub mod blk;
pub mod device;
pub mod memory;
pub mod mmio;
pub mod net;
pub mod pci;
pub mod ring;
pub mod rng;
pub mod serial;
#[cfg(test)]
pub(crate) mod testing;

pub use device::{Core, Handle, Model, Virtio};
pub use memory::{Memory, Span};
pub use ring::{Chain, Cursor, Fault};

/// Device numbers (VIRTIO 1.2, 5).
pub mod id {
    pub const NET: u16 = 1;
    pub const BLK: u16 = 2;
    pub const CONSOLE: u16 = 3;
    pub const RNG: u16 = 4;
}
