//! Real Debian programs as stories, run through the shipped command on an unpacked Debian armhf root, without binfmt.
//!
//! `cargo xtask test` prepares everything and runs this. By hand:
//! `cargo xtask guests && cargo build --release -p user && cargo test -p programs -- bash`.
//! Environment: `RHEA_QEMU_ARM` (the emulator), `RHEA_GUESTS` (where the roots are), `RHEA_FULL=1` (the large sets too),
//! `RHEA_SOAK=SECONDS` (only the long trials, each as long as that; `cargo xtask soak`).
#![forbid(unsafe_code)]

mod chroot;
mod compilers;
mod data;
mod gdb;
mod languages;
mod native;
mod probes;
mod python;
mod shell;
mod soak;
mod stage;
mod toolchain;
mod traces;

use libtest_mimic::{Arguments, Failed, Trial};
use stage::Stage;
use std::time::Duration;

/// A test: a name, what it needs, how long it may take, and what happens.
pub struct Story {
    pub name: &'static str,
    pub tier: Tier,
    pub timeout: Duration,
    pub tell: fn(&Stage) -> Result<(), Failed>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Part of the README's test command.
    Core,
    /// Needs the large guest sets; `cargo xtask test --full`.
    Full,
    /// Takes any time; `cargo xtask soak`.
    Soak,
}

impl Story {
    pub const fn core(name: &'static str, seconds: u64, tell: fn(&Stage) -> Result<(), Failed>) -> Story {
        Story { name, tier: Tier::Core, timeout: Duration::from_secs(seconds), tell }
    }

    pub const fn full(name: &'static str, seconds: u64, tell: fn(&Stage) -> Result<(), Failed>) -> Story {
        Story { name, tier: Tier::Full, timeout: Duration::from_secs(seconds), tell }
    }

    pub const fn soak(name: &'static str, tell: fn(&Stage) -> Result<(), Failed>) -> Story {
        Story { name, tier: Tier::Soak, timeout: Duration::from_secs(4 * 3600), tell }
    }
}

impl Tier {
    fn runs(self) -> bool {
        let full = std::env::var_os("RHEA_FULL").is_some_and(|v| v == "1");
        match (self, soak::seconds().is_some()) {
            (Tier::Soak, soak) => soak,
            (_, true) => false,
            (tier, false) => full || tier == Tier::Core,
        }
    }
}

/// The chapters.
const CHAPTERS: &[(&str, &[Story])] = &[
    ("shell", shell::STORIES),
    ("probes", probes::STORIES),
    ("native", native::STORIES),
    ("data", data::STORIES),
    ("gdb", gdb::STORIES),
    ("traces", traces::STORIES),
    ("languages", languages::STORIES),
    ("python", python::STORIES),
    ("toolchain", toolchain::STORIES),
    ("compilers", compilers::STORIES),
    ("chroot", chroot::STORIES),
    ("soak", soak::STORIES),
];

fn main() {
    let arguments = Arguments::from_args();
    let setting = match stage::Setting::find() {
        Ok(setting) => setting,
        Err(reason) => {
            eprintln!("programs: {reason}");
            std::process::exit(1);
        }
    };
    let mut trials = Vec::new();
    for (chapter, stories) in CHAPTERS {
        for story in stories.iter().filter(|s| s.tier.runs()) {
            let name = format!("{chapter}::{}", story.name);
            let setting = setting.clone();
            let (tell, timeout) = (story.tell, story.timeout);
            trials.push(Trial::test(name.clone(), move || {
                let stage = Stage::new(setting, &name, timeout)?;
                tell(&stage)?;
                stage.clear();
                Ok(())
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    probes::clear();
    conclusion.exit();
}
