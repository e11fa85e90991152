//! The one door to the operating system for the translator: mappings, code memory, and guest accesses that may fault.
//!
//! Unsafe code is allowed here; each module opens with its numbered invariants.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("Rhea runs on x86-64 Linux hosts so far");

pub mod aio;
pub mod barrier;
pub mod code;
pub mod guarded;
pub mod inherited;
pub mod map;
pub mod nbd;
pub mod rseq;
pub mod socket_errors;
pub mod tap;
pub mod terminal;
pub mod writeback;
pub mod vhost;
