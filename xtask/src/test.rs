//! `cargo xtask test`: what the README promises and what CI runs.

use crate::{guests, layers, licences, metadata, process, project};
use spec::error::{Error, Result};
use std::process::Command;
use std::time::Instant;

/// The package of the user-mode programs.
const USER: &str = "user";

pub fn command(arguments: &[String]) -> Result<()> {
    let full = match arguments {
        [] => false,
        [one] if one == "--full" => true,
        _ => return Err(Error::new(format!("test takes --full or nothing, not '{}'", arguments.join(" ")))),
    };
    let packages = metadata::packages()?;
    step("layers", || layers::check(&packages))?;
    step("licences", || licences::check(&packages))?;
    step("unit tests", || process::show(cargo().args(["test", "--workspace", "--exclude", "programs", "--exclude", "boot"])))?;
    if !packages.iter().any(|p| p.ours && p.name == USER) {
        return Err(Error::new(format!("the package '{USER}' does not exist yet, so the programs tests cannot run")));
    }
    step("release build", build_release)?;
    step("guest programs", || guests::ensure(full))?;
    step("programs", || {
        let flag = if full { "1" } else { "0" };
        process::show(cargo().args(["test", "-p", "programs"]).env("RHEA_FULL", flag))
    })?;
    step("boot", || {
        let flag = if full { "1" } else { "0" };
        process::show(cargo().args(["test", "-p", "boot", "--", "--test-threads", "2"]).env("RHEA_FULL", flag))
    })?;
    println!("\ncargo xtask test: every step passed");
    Ok(())
}

/// Builds the programs as they are shipped: static, so that they run inside of any chroot and under binfmt_misc's flag F. Only
/// the last crate needs the flag; a flag for all would build every dependency twice.
pub fn build_release() -> Result<()> {
    let program = ["rustc", "--release", "-p", USER, "--bin", "qemu-arm"];
    process::show(cargo().args(program).args(["--", "-C", "target-feature=+crt-static"]))?;
    process::show(cargo().args(["build", "--release", "-p", "system"]))
}

pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(project::root());
    cargo
}

fn step(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let begun = Instant::now();
    run()?;
    println!("== {name}: passed in {:.1} s", begun.elapsed().as_secs_f32());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_argument_is_named() {
        let error = command(&["--fast".into()]).unwrap_err().to_string();
        assert!(error.contains("'--fast'"), "{error}");
    }

    #[test]
    fn ci_runs_the_command_of_the_readme() {
        let read = |name: &str| std::fs::read_to_string(project::root().join(name)).unwrap();
        assert!(read("README.md").lines().any(|l| l.trim() == "cargo xtask test"));
        assert!(read(".ci/run").lines().any(|l| l.trim() == "cargo xtask test"));
    }

    #[test]
    fn ci_installs_the_packages_of_the_readme() {
        let read = |name: &str| std::fs::read_to_string(project::root().join(name)).unwrap();
        let (readme, ci) = (read("README.md"), read(".ci/run"));
        let installed = readme.lines().find_map(|l| l.trim().strip_prefix("apt-get install ")).unwrap();
        let needed = ci.lines().find_map(|l| l.strip_prefix("needs=\"")?.strip_suffix('"')).unwrap();
        assert_eq!(installed, needed);
    }
}
