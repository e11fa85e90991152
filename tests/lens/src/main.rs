//! Looks into the translator: what a row is, what an instruction becomes, what is not built. `cargo xtask explain`, `coverage`.
//!
//! A program of its own, so that `cargo xtask` itself builds in a second.
#![forbid(unsafe_code)]

mod coverage;
mod explain;
#[cfg(test)]
mod golden;
mod sets;

use spec::error::{Error, Result};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(text) => print!("{text}"),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

fn run(arguments: &[String]) -> Result<String> {
    match arguments.split_first() {
        Some((command, rest)) if command == "explain" => explain::command(rest),
        Some((command, rest)) if command == "coverage" => coverage::command(rest),
        _ => Err(Error::new("lens explain|coverage …")),
    }
}
