//! Real Debian kernels as stories: they boot through the shipped `qemu-system-arm`, and somebody types at their console.
//!
//! `cargo xtask test` prepares everything and runs this. By hand:
//! `cargo xtask guests installer && cargo build --release -p system && cargo test -p boot`.
//! Environment: `RHEA_QEMU_SYSTEM_ARM` (the emulator), `RHEA_GUESTS` (where the roots are), `RHEA_FULL=1` (longer ones too).
#![forbid(unsafe_code)]

mod console;
mod debugger;
mod stories;

use console::Setting;
use libtest_mimic::{Arguments, Failed, Trial};

/// A test: a name, whether it is part of the README's test command, and what happens.
pub struct Story {
    pub name: &'static str,
    pub core: bool,
    pub tell: fn(&Setting) -> Result<(), Failed>,
}

fn main() {
    let arguments = Arguments::from_args();
    let setting = match Setting::find() {
        Ok(setting) => setting,
        Err(reason) => {
            eprintln!("boot: {reason}");
            std::process::exit(1);
        }
    };
    let full = std::env::var_os("RHEA_FULL").is_some_and(|v| v == "1");
    let trials = stories::STORIES
        .iter()
        .filter(|s| full || s.core)
        .map(|s| {
            let (setting, tell) = (setting.clone(), s.tell);
            Trial::test(s.name, move || tell(&setting))
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
