//! `cargo xtask fuzz`: the targets of `fuzz/` with libFuzzer, built by the stable compiler.
//!
//! Reference: the flags that `cargo fuzz` gives to the compiler, without a sanitizer (those need a nightly compiler).

use crate::{process, project, soak, test};
use spec::error::{Context, Error, Result};
use std::process::Command;

const HOST: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Seconds for each target, for one input, and memory.
const SECONDS: u64 = 60;
const LIMITS: &[&str] = &["-timeout=20", "-rss_limit_mb=1024", "-malloc_limit_mb=512", "-close_fd_mask=3"];

pub fn command(arguments: &[String]) -> Result<()> {
    let (seconds, chosen) = parse(arguments)?;
    let all = targets()?;
    if let Some(unknown) = chosen.iter().find(|c| !all.contains(c)) {
        return Err(Error::new(format!("there is no target '{unknown}'; there are {}", all.join(", "))));
    }
    let fuzz = project::root().join("fuzz");
    // Images of every format to start from.
    let seeds = fuzz.join("corpus");
    let mut samples = test::cargo();
    samples.args(["test", "-q", "-p", "disk", "--test", "hostile"]).env("RHEA_HOSTILE", "1").env("RHEA_SEEDS", &seeds);
    process::show(&mut samples)?;
    let out = project::target().join("fuzz");
    let mut build = test::cargo();
    build.current_dir(&fuzz).args(["build", "--release", "--target", HOST]).env("CARGO_TARGET_DIR", &out).env("RUSTFLAGS", FLAGS);
    process::show(&mut build)?;
    for target in all.iter().filter(|t| chosen.is_empty() || chosen.contains(t)) {
        let corpus = seeds.join(target);
        let artifacts = fuzz.join("artifacts").join(target);
        for dir in [&corpus, &artifacts] {
            std::fs::create_dir_all(dir).context(|| format!("Could not make '{}'", dir.display()))?;
        }
        println!("== {target}");
        let mut run = Command::new(out.join(HOST).join("release").join(target));
        run.args(LIMITS).arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", artifacts.display())).arg(&corpus);
        // What changes images starts from the same ones as what reads them; small texts are kept with the source.
        run.args(["qcow2"].iter().filter(|q| target.starts_with(**q) && target != *q).map(|q| seeds.join(q)));
        run.args(Some(fuzz.join("seeds").join(target)).filter(|d| d.is_dir()));
        process::show(&mut run)?;
    }
    Ok(())
}

/// The names of the files in `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let dir = project::root().join("fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&dir).context(|| format!("Could not read '{}'", dir.display()))?;
    let mut names: Vec<String> =
        entries.flatten().filter_map(|e| e.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned)).collect();
    names.sort();
    Ok(names)
}

fn parse(arguments: &[String]) -> Result<(u64, Vec<String>)> {
    let (mut seconds, mut chosen) = (SECONDS, Vec::new());
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seconds" => seconds = soak::seconds_of(words.next())?,
            other if other.starts_with('-') => return Err(Error::new(format!("fuzz does not know '{other}'"))),
            name => chosen.push(name.to_owned()),
        }
    }
    Ok((seconds, chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_built_and_every_built_one_exists() {
        let manifest = std::fs::read_to_string(project::root().join("fuzz/Cargo.toml")).unwrap();
        let built: Vec<&str> =
            manifest.lines().filter_map(|l| l.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\"")).collect();
        assert_eq!(targets().unwrap(), built);
    }

    #[test]
    fn options() {
        let words = |line: &str| line.split_whitespace().map(str::to_string).collect::<Vec<_>>();
        assert_eq!(parse(&words("--seconds 5 vdi vpc")).unwrap(), (5, vec!["vdi".to_string(), "vpc".to_string()]));
        for bad in ["--seconds", "--seconds 0", "--fast"] {
            assert!(parse(&words(bad)).is_err(), "{bad}");
        }
    }
}
