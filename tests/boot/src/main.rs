//! Real Debian kernels as stories: they boot through the shipped `qemu-system-arm`, and somebody types at their console.
//!
//! `cargo xtask test` prepares everything and runs this. By hand:
//! `cargo xtask guests && cargo build --release -p system && cargo test -p boot`.
//! Environment: `RHEA_QEMU_SYSTEM_ARM` (the emulator), `RHEA_REFERENCE_SYSTEM` (the installed QEMU), `RHEA_QEMU_IMG` (the disk tool),
//! `RHEA_GUESTS` (where the guests are), `RHEA_FULL=1` (longer stories too).
#![forbid(unsafe_code)]

mod bare;
mod console;
mod debian;
mod debugger;
mod firmware;
mod images;
mod jobs;
mod kernels;
mod log;
mod network;
mod stories;
mod stress;

use console::Setting;
use libtest_mimic::{Arguments, Failed, Trial};

/// A test: a name, whether it is part of the README's test command, and what happens.
pub struct Story {
    pub name: &'static str,
    pub core: bool,
    pub tell: fn(&Setting) -> Result<(), Failed>,
}

const fn core(name: &'static str, tell: fn(&Setting) -> Result<(), Failed>) -> Story {
    Story { name, core: true, tell }
}

const fn full(name: &'static str, tell: fn(&Setting) -> Result<(), Failed>) -> Story {
    Story { name, core: false, tell }
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(what().into()) }
}

fn contains(text: &str, part: &str) -> Result<(), Failed> {
    check(text.contains(part), || format!("no '{part}' in:\n{text}"))
}

/// The chapters; the longest stories first, so that two at a time end together.
const CHAPTERS: &[&[Story]] = &[debian::STORIES, images::STORIES, jobs::STORIES, log::STORIES, network::STORIES, stress::STORIES, firmware::STORIES, kernels::STORIES, stories::STORIES];

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
    let trials = CHAPTERS
        .iter()
        .copied()
        .flatten()
        .filter(|s| full || s.core)
        .map(|s| {
            let (setting, tell) = (setting.clone(), s.tell);
            Trial::test(s.name, move || tell(&setting))
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
