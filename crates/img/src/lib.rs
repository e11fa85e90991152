//! The image tools `qemu-img`, `qemu-io` and `qemu-nbd`: parse, call the disk layer, print.
//!
//! Reference: options, output and statuses of the tools of QEMU 10.0.2.
//!
//! Module map: `cli` parses options, `common` holds what commands share, `text` prints, `cmd` has one file for each
//! `qemu-img` command, `io` is `qemu-io`, `nbd` is `qemu-nbd`.
#![forbid(unsafe_code)]

pub mod cli;
pub mod cmd;
pub mod common;
pub mod io;
pub mod nbd;
pub mod text;

/// The version that the tools answer to `--version` with: the QEMU release whose behaviour they follow.
pub const FOLLOWS: &str = "10.0.2";

/// Runs `qemu-img` with the process's arguments and returns the exit status.
pub fn qemu_img(args: Vec<String>) -> i32 {
    cmd::main(&args)
}

/// Runs `qemu-io`.
pub fn qemu_io(args: Vec<String>) -> i32 {
    io::main(&args)
}

/// Runs one command of `qemu-io` on a node that somebody else has open; it prints as the tool does. Says whether it worked.
pub fn run_io_command(node: disk::NodeRef, line: &str) -> bool {
    io::run_on(node, line)
}

/// Runs `qemu-nbd`.
pub fn qemu_nbd(args: Vec<String>) -> i32 {
    nbd::main(&args)
}
