//! `cargo xtask bench user-arm`: CPU time of the same work natively, under the installed QEMU, and under ours. `bench system-arm`:
//! machines, under the installed QEMU and ours (`system.rs`). `bench disk`: the disk tools and the installed ones (`disk.rs`).
//! `bench net`: networks (`net.rs`).
//!
//! The three run interleaved, in an order that rotates from run to run, so that drift of the machine hits all alike. Every
//! row's output must be the same on both emulators, so the benchmark is a test as well: a row that fails or prints something else
//! makes the command fail.

mod disk;
mod measure;
mod net;
mod prepare;
mod report;
mod rows;
mod system;

use prepare::{Bench, MACHINES, Machine};
use report::Line;
use rows::{ROWS, Row};
use spec::error::{Error, Result};

/// Runs where `-n` does not say.
const RUNS: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suite {
    UserArm,
    SystemArm,
    Disk,
    Net,
}

struct Options {
    suite: Suite,
    runs: u32,
    filters: Vec<String>,
    json: bool,
    list: bool,
}

pub fn command(arguments: &[String]) -> Result<()> {
    let options = parse(arguments)?;
    if options.suite == Suite::SystemArm {
        return system::command(&options);
    }
    if options.suite == Suite::Disk {
        return disk::command(&options);
    }
    if options.suite == Suite::Net {
        return net::command(&options);
    }
    let chosen: Vec<&Row> = ROWS.iter().filter(|r| matches(r.class, r.name, &options.filters)).collect();
    if options.list {
        chosen.iter().for_each(|r| println!("{}/{}", r.class, r.name));
        return Ok(());
    }
    if chosen.is_empty() {
        return Err(Error::new(format!("no row matches {}; --list shows all", options.filters.join(","))));
    }
    let bench = Bench::prepare(&chosen)?;
    let lines = run(&bench, &chosen, options.runs)?;
    let version = crate::process::capture(std::process::Command::new(&bench.reference).arg("--version"))?;
    let reference = version.lines().next().unwrap_or("unknown");
    if options.json {
        println!("{:#}", report::value(&lines, reference, options.runs));
    } else {
        print!("{}", report::text(&lines, reference, options.runs));
    }
    match report::failures(&lines).count() {
        0 => Ok(()),
        n => Err(Error::new(format!("{n} rows failed"))),
    }
}

fn parse(arguments: &[String]) -> Result<Options> {
    let mut words = arguments.iter();
    let suite = match words.next().map(String::as_str) {
        Some("user-arm") => Suite::UserArm,
        Some("system-arm") => Suite::SystemArm,
        Some("disk") => Suite::Disk,
        Some("net") => Suite::Net,
        _ => return Err(Error::new("bench needs the suite's name: user-arm, system-arm, disk or net")),
    };
    let mut options = Options { suite, runs: RUNS, filters: Vec::new(), json: false, list: false };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Error::new(format!("{word} needs a value")));
        match word.as_str() {
            "--json" => options.json = true,
            "--list" => options.list = true,
            "--rows" => options.filters.extend(value()?.split(',').map(str::to_string)),
            "-n" => options.runs = value()?.parse().ok().filter(|n| *n > 0).ok_or_else(|| Error::new("-n needs a number of runs above 0"))?,
            other => return Err(Error::new(format!("bench does not know '{other}'"))),
        }
    }
    Ok(options)
}

/// A filter is a part of `class/row`; none means all.
fn matches(class: &str, name: &str, filters: &[String]) -> bool {
    let name = format!("{class}/{name}");
    filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()))
}

fn run(bench: &Bench, rows: &[&Row], runs: u32) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        eprint!("\r\x1b[K{}/{} {}/{}", number + 1, rows.len(), row.class, row.name);
        lines.push(run_row(bench, row, runs)?);
    }
    eprint!("\r\x1b[K");
    Ok(lines)
}

fn run_row(bench: &Bench, row: &Row, runs: u32) -> Result<Line> {
    let mut line = Line { class: row.class, name: row.name, native: None, reference: None, ours: None, failure: None };
    let mut samples = [const { Vec::new() }; MACHINES.len()];
    let mut outputs = [const { None }; MACHINES.len()];
    if bench.command(row, Machine::Ours).is_none() {
        line.failure = None;
        return Ok(line);
    }
    for run in 0..runs as usize {
        for turn in 0..MACHINES.len() {
            let index = (run + turn) % MACHINES.len();
            let machine = MACHINES[index];
            if machine == Machine::Reference && row.reference_lacks.is_some() {
                continue;
            }
            let Some(outcome) = one(bench, row, machine)? else { continue };
            match outcome {
                Ok((seconds, output)) => {
                    samples[index].push(seconds);
                    outputs[index] = Some(output);
                }
                Err(failure) => line.failure = Some(format!("{machine:?}: {failure}")),
            }
        }
        if line.failure.is_some() {
            break;
        }
    }
    let [native, reference, ours] = outputs;
    let expected = reference.or(native);
    if line.failure.is_none() && expected.is_some() && ours.is_some() && ours != expected {
        line.failure = Some("the output differs from the reference's".into());
    }
    for (index, machine) in MACHINES.into_iter().enumerate() {
        line.set(machine, report::median(&mut samples[index]));
    }
    if line.failure.is_some() {
        line.ours = None;
    }
    Ok(line)
}

type Outcome = std::result::Result<(f64, Vec<u8>), String>;

/// One sample: the CPU seconds of all repetitions, and the last one's output.
fn one(bench: &Bench, row: &Row, machine: Machine) -> Result<Option<Outcome>> {
    let mut seconds = 0.0;
    let mut output = Vec::new();
    for _ in 0..row.repeat {
        let Some(command) = bench.command(row, machine) else { return Ok(None) };
        let sample = measure::sample(command, bench.scratch())?;
        if let Some(failure) = sample.failure {
            return Ok(Some(Err(failure)));
        }
        seconds += sample.cpu.as_secs_f64();
        output = sample.stdout;
    }
    Ok(Some(Ok((seconds, output))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn options() {
        let o = parse(&words("user-arm -n 5 --rows fp/,nbody --json")).unwrap();
        assert_eq!((o.suite, o.runs, o.json, o.filters.len()), (Suite::UserArm, 5, true, 2));
        assert_eq!(parse(&words("system-arm")).unwrap().suite, Suite::SystemArm);
        assert_eq!(parse(&words("disk --rows convert")).unwrap().suite, Suite::Disk);
        for bad in ["", "user-mips", "user-arm -n 0", "user-arm --rows", "user-arm --fast"] {
            assert!(parse(&words(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn filters_are_parts_of_class_and_row() {
        let nbody = ROWS.iter().find(|r| r.class == "fp" && r.name == "nbody").unwrap();
        let matches = |filters: &[String]| matches(nbody.class, nbody.name, filters);
        assert!(matches(&[]) && matches(&words("fp/")) && matches(&words("simd body")));
        assert!(!matches(&words("integer")));
    }
}
