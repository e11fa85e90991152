//! `qemu-system-arm`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vm::program("qemu-system-arm", std::env::args_os().skip(1))
}
