//! The far end of a serial line: character back ends, the Ctrl-A multiplexer and line editing.
//!
//! A device model or a monitor owns a [`Port`] and implements [`FrontEnd`]; a back end reaches the host. One thread
//! serves all back ends, so nothing a guest does waits for a terminal or a socket:
//!
//! ```text
//! vCPU ── Port::write ──► bounded queue ──► I/O thread ──► terminal, socket, file, …
//! vCPU ◄─ FrontEnd::input (I/O thread) ◄─── I/O thread ◄── terminal, socket, …
//! vCPU ── Port::more_room ──► I/O thread goes on reading
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`port`] | what devices see: [`Port`], [`FrontEnd`], [`Event`] |
//! | [`options`] | `-chardev` and the short forms of `-serial` |
//! | [`consoles`] | all character devices of a machine, by name |
//! | `io` | the I/O thread and the trait of back ends |
//! | `backend` | one file per kind of back end |
//! | [`line`] | a line editor for monitors |
//! | [`terminal`] | the user's terminal: raw while we run, as it was when we leave |
//!
//! Reference: option spellings and texts follow QEMU 10.
//! Invariants: this crate knows no guest and no device; every queue has a named limit; a front end is called on the
//! I/O thread only, and never with a lock of this crate held.
#![forbid(unsafe_code)]

mod backend;
pub mod consoles;
mod io;
pub mod line;
mod mux;
pub mod options;
pub mod port;
mod telnet;
pub mod terminal;
#[cfg(test)]
mod testing;

pub use consoles::Consoles;
pub use mux::Actions;
pub use port::{Event, FrontEnd, Port};
