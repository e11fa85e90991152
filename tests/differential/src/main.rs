//! Differential trials: random instructions from the decode tables on our interpreter and under a reference emulator.
//!
//! `differential arm --seed S -n N` generates cases, runs them on the interpreter (which also filters: a case that leaves
//! its slot is dropped), runs the same words in `arm_harness.c` under each `--against PROGRAM` (default: the installed
//! `qemu-arm`; `jit` means our own translated code, in this process), and compares registers, flags, memory and the way it
//! stopped. A difference is printed with both states, the seed and a command line that reproduces it alone.
//!
//! `differential system` does the same for privileged programs; see `system_cases`.
#![deny(unsafe_code)]

mod arm_cases;
mod arm_machine;
mod fp_cases;
mod harness;
mod jit_side;
mod random;
mod system_cases;
mod system_machine;

use spec::{Error, Result};
use std::process::ExitCode;

/// Cases per run of the harness.
const BATCH: usize = 4096;

/// What to do, from the command line.
#[derive(Clone)]
pub struct Options {
    pub seed: u64,
    pub count: usize,
    /// a32, t16, t32 or mixed thumb.
    pub isa: arm_cases::Isa,
    /// Rows whose name contains one of these.
    pub only: Vec<String>,
    /// Rows of the chapters of floating point and Advanced SIMD too.
    pub fp: bool,
    pub cpu: String,
    /// The other sides.
    pub against: Vec<Against>,
    /// Instructions in a case.
    pub length: usize,
    /// Run this case of the seed only, verbosely.
    pub case: Option<usize>,
    /// Stop after this many differences.
    pub limit: usize,
    pub list: bool,
}

/// What the interpreter is compared with.
#[derive(Clone)]
pub struct Against {
    /// An emulator and arguments before the program, or `jit`.
    pub program: String,
    /// It is translated code of ours: decisions 0003 and 0004 apply.
    pub ours: bool,
}

fn usage() -> Error {
    Error::new(
        "usage: differential arm [--isa a32|t16|t32] [--seed S] [-n N] [--length L] [--only NAME[,NAME]] [--fp] \
         [--cpu MODEL] [--against PROGRAM]… [--ours] [--case I] [--limit N] [--list]\n       \
         differential system [--seed S] [-n N] [--cpu MODEL] [--against PROGRAM] [--case I]",
    )
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut o = Options {
        seed: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64),
        count: 20_000,
        isa: arm_cases::Isa::A32,
        only: Vec::new(),
        fp: false,
        cpu: "max".into(),
        against: Vec::new(),
        length: 4,
        case: None,
        limit: 10,
        list: false,
    };
    let mut ours = false;
    let mut words = arguments.iter();
    if words.next().map(String::as_str) != Some("arm") {
        return Err(usage());
    }
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or_else(usage);
        let number = |text: String| text.parse::<usize>().map_err(|_| Error::new(format!("'{text}' is not a number")));
        match word.as_str() {
            "--seed" => o.seed = value()?.parse().map_err(|_| usage())?,
            "-n" => o.count = number(value()?)?,
            "--isa" => o.isa = arm_cases::Isa::parse(&value()?).ok_or_else(usage)?,
            "--only" => o.only = value()?.split(',').map(str::to_string).collect(),
            "--fp" => o.fp = true,
            "--cpu" => o.cpu = value()?,
            "--against" => o.against.push(Against { program: value()?, ours: false }),
            "--length" => o.length = number(value()?)?.clamp(1, arm_cases::MAX_LENGTH),
            "--case" => o.case = Some(number(value()?)?),
            "--limit" => o.limit = number(value()?)?,
            "--ours" => ours = true,
            "--list" => o.list = true,
            _ => return Err(usage()),
        }
    }
    if o.against.is_empty() {
        o.against.push(Against { program: "/usr/bin/qemu-arm".into(), ours: false });
    }
    for a in &mut o.against {
        a.ours = ours || a.program == arm_cases::JIT;
    }
    Ok(o)
}

/// `differential system`: cases alternate between A32 and Thumb.
fn system(arguments: &[String]) -> Result<bool> {
    let (mut seed, mut count, mut only) = (1u64, 50usize, None);
    let (mut cpu, mut emulator) = (String::from("cortex-a15"), String::from("/usr/bin/qemu-system-arm"));
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words.next().cloned().ok_or_else(usage)?;
        match word.as_str() {
            "--seed" => seed = value.parse().map_err(|_| usage())?,
            "-n" => count = value.parse().map_err(|_| usage())?,
            "--case" => only = Some(value.parse::<usize>().map_err(|_| usage())?),
            "--cpu" => cpu = value,
            "--against" => emulator = value,
            _ => return Err(usage()),
        }
    }
    let range = only.map_or(0..count, |c| c..c + 1);
    let total = range.len();
    let mut same = 0;
    for case in range {
        same += system_cases::case(&emulator, &cpu, seed, case, case % 2 == 1)? as usize;
    }
    println!("{same} of {total} programs agree");
    Ok(same == total)
}

fn run(o: &Options) -> Result<bool> {
    if o.list {
        arm_cases::list(o);
        return Ok(true);
    }
    let harness = harness::build(&o.cpu)?;
    let mut tally = arm_cases::Tally::default();
    let first = o.case.unwrap_or(0);
    let last = o.case.map_or(o.count, |c| c + 1);
    for from in (first..last).step_by(BATCH) {
        arm_cases::batch(o, &harness, from, (from + BATCH).min(last), &mut tally)?;
        if tally.differences >= o.limit {
            break;
        }
    }
    tally.print(o);
    Ok(tally.differences == 0)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == "system" => system(rest),
        _ => parse(&arguments).and_then(|o| run(&o)),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("differential: {e}");
            ExitCode::from(2)
        }
    }
}
