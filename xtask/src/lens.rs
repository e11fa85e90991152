//! `cargo xtask explain` and `coverage`: run by the package `lens`, which links the translator; this program does not.

use crate::{process, test};
use spec::error::Result;

pub fn explain(arguments: &[String]) -> Result<()> {
    run("explain", arguments)
}

pub fn coverage(arguments: &[String]) -> Result<()> {
    run("coverage", arguments)
}

fn run(command: &str, arguments: &[String]) -> Result<()> {
    process::show(test::cargo().args(["run", "--quiet", "-p", "lens", "--", command]).args(arguments))
}
