//! The paths that ARCHITECTURE.md names exist.
//!
//! A path is what stands in backticks, has nothing but letters, digits and `_-./` and either a slash or the ending of a file. It
//! is named from the top, from `crates/`, or (as people say it) by its last parts; in a row of a table that begins with a crate,
//! the last parts of a path in that crate.

use crate::project;
use std::path::{Path, PathBuf};

const ENDINGS: [&str; 4] = [".rs", ".md", ".toml", ".inc"];

/// Everything below the project's folders, as it is named from the top.
fn project_paths() -> Vec<PathBuf> {
    let root = project::root();
    let mut pending: Vec<PathBuf> = ["crates", "docs", "tests", "xtask", "fuzz"].map(|d| root.join(d)).into();
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        found.push(path.strip_prefix(&root).unwrap().to_path_buf());
        if path.is_dir() && !path.ends_with("target") {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    found
}

fn is_path(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && (word.contains('/') || ENDINGS.iter().any(|e| word.len() > e.len() && word.ends_with(e)))
}

/// What stands in backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The paths of a text that lead nowhere, with their lines.
fn missing(text: &str, paths: &[PathBuf]) -> Vec<String> {
    let is_crate = |word: &&str| paths.contains(&Path::new("crates").join(word));
    let mut missing = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let first = line.strip_prefix('|').and_then(|row| row.split('|').next()).unwrap_or("");
        let crates: Vec<&str> = quoted(first).filter(is_crate).collect();
        for word in quoted(line).filter(|w| is_path(w)) {
            let within = |path: &PathBuf| crates.is_empty() || crates.iter().any(|c| path.starts_with(Path::new("crates").join(c)));
            let is = |path: &PathBuf| path == Path::new(word) || path.ends_with(word) && within(path);
            if !paths.iter().any(is) {
                missing.push(format!("line {}: {word}", number + 1));
            }
        }
    }
    missing
}

#[test]
fn every_path_of_the_map_exists() {
    let text = std::fs::read_to_string(project::root().join("ARCHITECTURE.md")).unwrap();
    assert_eq!(missing(&text, &project_paths()), [""; 0]);
}

#[test]
fn a_path_that_leads_nowhere_is_named() {
    let paths = ["crates/ir", "crates/ir/src/ops.rs", "crates/jit/src/run.rs", "docs/net.md"].map(PathBuf::from);
    let good = "| `ir` | the table | `ops.rs`, `docs/net.md` |\nsee `run.rs`, `ir/src/ops.rs`, `cargo x/y`, `a::b`, `jit`";
    assert_eq!(missing(good, &paths), [""; 0]);
    let bad = "| `ir` | what | `run.rs` |\n\nsee `jit/src/ops.rs` and `gone/`";
    assert_eq!(missing(bad, &paths), ["line 1: run.rs", "line 3: jit/src/ops.rs", "line 3: gone/"]);
}
