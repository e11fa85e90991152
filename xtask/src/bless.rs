//! `cargo xtask bless`: rewrites the recorded pages (host code, coverage) that tests compare with.

use crate::{process, test};
use spec::error::{Error, Result};

/// (package, part of the tests' names)
const PAGES: &[(&str, &str)] = &[("lens", "golden"), ("x64", "host_instructions"), ("linux_user", "coverage_page")];

pub fn command(arguments: &[String]) -> Result<()> {
    if let Some(word) = arguments.first() {
        return Err(Error::new(format!("bless takes no arguments, not '{word}'")));
    }
    for (package, tests) in PAGES {
        process::show(test::cargo().args(["test", "--quiet", "-p", package, tests]).env("BLESS", "1"))?;
    }
    Ok(())
}
