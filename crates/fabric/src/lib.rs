//! What hardware plugs into: address spaces and RAM, interrupt lines, clocks, DMA, the device trait.
//!
//! | module | what |
//! |---|---|
//! | [`ram`] | guest memory |
//! | [`space`] | who answers at a guest-physical address; DMA |
//! | [`device`] | the device trait and the cell that puts a device behind an address |
//! | [`line`] | interrupt wires |
//! | [`msi`] | message-signalled interrupts |
//! | [`clock`] | the virtual clock and its timers |
//! | [`requester`] | which vCPU makes the access that a device answers |
//! | [`interface`] | interrupt-controller registers that CPUs reach as system registers |
//!
//! **Invariants**: nothing here knows a device, a CPU or a board. Locks are taken in the order device, interrupt
//! controller, vCPU line; timer callbacks and listeners start without any lock of this crate.
#![deny(unsafe_code)]

pub mod clock;
pub mod device;
pub mod interface;
pub mod line;
pub mod msi;
pub mod ram;
pub mod requester;
pub mod space;

pub use clock::{Clock, Timer};
pub use device::{Device, Mmio, MmioTarget, Widths};
pub use interface::CpuInterface;
pub use line::{Line, LineSink};
pub use msi::{Msi, MsiSink};
pub use ram::Ram;
pub use space::{AddressSpace, Region, Section, SectionKind, View};
