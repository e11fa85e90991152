//! `cargo xtask diff`: random instructions on our interpreter, under a reference emulator, and as translated code.

use crate::process;
use spec::error::Result;
use std::process::Command;

/// Everything after `diff` goes to the `differential` program; without arguments, a short run of every instruction set
/// against the installed QEMU and against our own translated code.
pub fn command(arguments: &[String]) -> Result<()> {
    let run = |words: &[&str]| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        process::show(cargo.args(["run", "--release", "-q", "-p", "differential", "--"]).args(words))
    };
    if !arguments.is_empty() {
        return run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for against in ["/usr/bin/qemu-arm", "jit"] {
        for isa in ["a32", "t16", "t32"] {
            run(&["arm", "--isa", isa, "-n", "50000", "--against", against])?;
        }
    }
    Ok(())
}
