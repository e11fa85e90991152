//! `cargo xtask diff`: random instructions on our interpreter and under a reference emulator.

use crate::process;
use spec::error::Result;
use std::process::Command;

/// Everything after `diff` goes to the `differential` program; without arguments, a short run of every instruction set.
pub fn command(arguments: &[String]) -> Result<()> {
    let run = |words: &[String]| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        process::show(cargo.args(["run", "--release", "-q", "-p", "differential", "--"]).args(words))
    };
    if !arguments.is_empty() {
        return run(arguments);
    }
    for isa in ["a32", "t16", "t32"] {
        run(&["arm", "--isa", isa, "-n", "50000"].map(String::from))?;
    }
    Ok(())
}
