//! PCI: configuration space, functions on buses, host bridges, interrupts.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | registers of one function: header, base addresses, capabilities |
//! | [`signal`] | INTx, MSI and MSI-X of one function |
//! | [`function`] | a function: registers, interrupts, what its base addresses lead to |
//! | [`bus`] | slots, plugging, routing of configuration accesses, windows |
//! | [`bridge`] | PCI-to-PCI bridges |
//! | [`gpex`] | the generic host bridge with memory-mapped configuration space |

pub mod address;
pub mod bridge;
pub mod bus;
pub mod config;
pub mod function;
pub mod gpex;
pub mod signal;
#[cfg(test)]
pub(crate) mod testing;

pub use address::SlotFunction;
pub use bus::{Bus, IoWindow, Windows};
pub use config::{Bar, BarKind, Config, Identity};
pub use function::{Behaviour, Function};
pub use gpex::{Gpex, GpexConfig};
pub use signal::{Intx, NO_VECTOR, Signal};
