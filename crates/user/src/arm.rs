//! `qemu-arm`: runs a Linux program for 32-bit ARM.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    linux_user::main()
}
