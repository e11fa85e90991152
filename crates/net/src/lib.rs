//! Network back ends: what is at the other end of a guest's virtual Ethernet cable.
//!
//! A device model hands frames to a [`Backend`] with [`Backend::transmit`] and receives frames through
//! its own [`Guest`] implementation whenever the event loop calls [`Backend::poll`]. A back end exposes
//! one descriptor and one deadline, so an event loop needs to know nothing else about it:
//!
//! ```text
//! device rings --transmit--> Backend --sockets--> host
//! device rings <--deliver--- Backend <-event_fd-- host      (poll runs on: event_fd readable,
//!                                                            deadline reached, transmit done,
//!                                                            guest supplied receive buffers)
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`backend`] | the two traits, offload headers, virtual time |
//! | [`finish`] | offloads in software, where a back end has none |
//! | [`shared`] | a back end that a card and a monitor share |
//! | [`user`] | `-netdev user`: our NAT engine |
//! | [`vhost`] | another process (`vhost-user`) or the kernel (`tap,vhost=on`) serves the guest's rings |
//! | [`options`] | QEMU's option grammar as tables |
//!
//! Reference: the RFC numbers are in the module headers; option spellings follow QEMU 10.
//! Invariants: this crate knows no guest and no device; every queue, table and buffer has a named limit.
#![forbid(unsafe_code)]

pub mod backend;
pub mod checksum;
pub mod dgram;
pub mod dump;
pub mod finish;
pub mod hub;
mod mac;
mod merge;
pub mod netdev;
pub mod options;
mod poller;
mod ring;
pub mod shared;
mod slab;
pub mod stream;
pub mod tap;
#[cfg(test)]
mod testing;
mod timers;
pub mod user;
pub mod vhost;

pub use backend::{Accepts, Backend, Checksum, Guest, Nanos, Offload, Segmentation, Transmit};
pub use mac::{DEFAULT_MAC, Mac, MacAllocator};
