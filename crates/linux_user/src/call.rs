//! Handlers of system calls, by subject.

pub mod file;
pub mod futex;
pub mod ioctl;
pub mod ipc;
pub mod link;
pub mod mapquery;
pub mod memory;
pub mod misc;
pub mod pages;
pub mod poll;
pub mod process;
pub mod sigcall;
pub mod socket;
pub mod spawn;
pub mod stat;
pub mod time;

/// A 64-bit argument in two registers, low word first.
pub fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// A signed argument as the host wants it.
pub fn sx(v: u32) -> u64 {
    v as i32 as u64
}
