//! The layer test: arrows between crates point down, and unsafe code is only where this table allows it.
//!
//! Reference: ARCHITECTURE.md, which explains the table.

use crate::metadata::Package;
use spec::error::{Context, Error, Result};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsafe {
    No,
    Yes,
    /// Only in these source files.
    In(&'static [&'static str]),
}
use Unsafe::{In, No, Yes};

struct Row {
    layer: u8,
    name: &'static str,
    may_use: &'static [&'static str],
    unsafe_code: Unsafe,
}

const fn row(layer: u8, name: &'static str, may_use: &'static [&'static str], unsafe_code: Unsafe) -> Row {
    Row { layer, name, may_use, unsafe_code }
}

#[rustfmt::skip]
const CRATES: &[Row] = &[
    row(0, "spec",       &[],                                               No),
    row(0, "softfloat",  &[],                                               No),
    row(1, "ir",         &["spec", "softfloat"],                            No),
    row(1, "host",       &["spec"],                                         Yes),
    row(2, "x64",        &["spec", "ir"],                                   No),
    row(2, "fabric",     &["spec", "host"],                                 In(&["ram.rs"])),
    row(2, "disk",       &["spec", "host"],                                 No),
    row(2, "net",        &["spec", "host"],                                 No),
    row(2, "console",    &["spec", "host"],                                 No),
    row(3, "cpu",        &["spec", "ir", "fabric"],                         No),
    row(3, "hw",         &["spec", "fabric", "disk", "net", "console"],     No),
    row(4, "arm",        &["spec", "softfloat", "ir", "fabric", "cpu"],     No),
    row(4, "x86",        &["spec", "softfloat", "ir", "fabric", "cpu"],     No),
    row(4, "riscv",      &["spec", "softfloat", "ir", "fabric", "cpu"],     No),
    row(4, "jit",        &["spec", "ir", "x64", "host", "fabric", "cpu"],   Yes),
    row(4, "gdb",        &["spec", "host", "cpu"],                          No),
    row(5, "kvm",        &["spec", "host", "fabric", "cpu", "x86", "arm"],  Yes),
    // `console` and `disk` for the ports and images that devices are given.
    row(5, "board",      &["spec", "fabric", "disk", "console", "cpu", "hw", "arm", "x86", "riscv"], No),
    // `ir` for the state and the kinds of traps, which are its types.
    row(5, "linux_user", &["spec", "ir", "host", "cpu", "jit", "arm", "x86", "riscv", "gdb"], Yes),
    // The tools' library is below the machine, whose monitor runs commands of `qemu-io`.
    row(5, "img",        &["spec", "host", "disk"],                         No),
    row(6, "vm",         &["spec", "softfloat", "ir", "host", "x64", "fabric", "disk", "net", "console", "cpu", "hw",
                           "arm", "x86", "riscv", "jit", "gdb", "kvm", "board", "img"], No),
    row(7, "system",     &["spec", "host", "vm", "board"],                  No),
    row(7, "user",       &["spec", "host", "cpu", "jit", "arm", "x86", "riscv", "gdb", "linux_user"], No),
];

/// Toolbox and trials; they may use anything.
const FREE: &[&str] = &["xtask", "programs", "boot", "differential", "lens", "trial"];

pub fn check(packages: &[Package]) -> Result<()> {
    let mut faults = Vec::new();
    for package in packages.iter().filter(|p| p.ours) {
        let Some(row) = CRATES.iter().find(|r| r.name == package.name) else {
            if !FREE.contains(&package.name.as_str()) {
                faults.push(format!("the crate '{}' has no row in xtask/src/layers.rs", package.name));
            }
            continue;
        };
        faults.extend(arrows(row, package));
        for root in &package.roots {
            faults.extend(unsafe_code(row, root)?);
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Error::new(format!("the layers are broken:\n  {}", faults.join("\n  "))))
    }
}

fn arrows(row: &Row, package: &Package) -> Vec<String> {
    let mut faults = Vec::new();
    for used in package.dependencies.iter().filter(|d| !row.may_use.contains(&d.as_str())) {
        if let Some(other) = CRATES.iter().find(|r| r.name == used) {
            faults.push(format!("'{}' (layer {}) must not use '{used}' (layer {})", row.name, row.layer, other.layer));
        } else if FREE.contains(&used.as_str()) {
            faults.push(format!("'{}' must not use '{used}'", row.name));
        }
    }
    faults
}

/// The crate's root file forbids unsafe code, or keeps it to the listed files.
fn unsafe_code(row: &Row, root: &Path) -> Result<Vec<String>> {
    let text = read(root)?;
    let has = |attribute: &str| text.lines().any(|l| l.trim() == attribute);
    let shown = root.display();
    Ok(match row.unsafe_code {
        Yes => Vec::new(),
        No if has("#![forbid(unsafe_code)]") => Vec::new(),
        No => vec![format!("{shown} lacks #![forbid(unsafe_code)]")],
        In(files) => {
            let mut faults = Vec::new();
            for file in sources(root.parent().unwrap_or(root))? {
                let listed = file.file_name().is_some_and(|n| files.iter().any(|f| n == *f));
                if !listed && read(&file)?.lines().any(|l| l.contains("allow(unsafe_code)")) {
                    faults.push(format!("{} allows unsafe code; only {} may", file.display(), files.join(", ")));
                }
            }
            if !has("#![deny(unsafe_code)]") {
                faults.push(format!("{shown} lacks #![deny(unsafe_code)]"));
            }
            faults
        }
    })
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).context(|| format!("Could not read '{}'", file.display()))
}

/// Every Rust file below a directory.
pub fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).context(|| format!("Could not list '{}'", dir.display()))? {
            let path = entry.context(|| format!("Could not list '{}'", dir.display()))?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies = dependencies.iter().map(|d| d.to_string()).collect();
        Package { name: name.into(), version: "0".into(), licence: None, ours: true, dependencies, roots: Vec::new() }
    }

    #[test]
    fn every_row_uses_only_lower_layers() {
        for row in CRATES {
            for used in row.may_use {
                let below = CRATES.iter().find(|r| r.name == *used).unwrap_or_else(|| panic!("{used} has no row"));
                assert!(below.layer < row.layer, "{} ({}) uses {} ({})", row.name, row.layer, below.name, below.layer);
            }
        }
    }

    #[test]
    fn an_arrow_upwards_is_named() {
        assert!(check(&[package("ir", &["spec", "softfloat", "libc"])]).is_ok());
        let error = check(&[package("ir", &["spec", "jit"])]).unwrap_err().to_string();
        assert!(error.contains("'ir' (layer 1) must not use 'jit' (layer 4)"), "{error}");
    }

    #[test]
    fn a_crate_without_a_row_is_named() {
        let error = check(&[package("misc", &[])]).unwrap_err().to_string();
        assert!(error.contains("'misc' has no row"), "{error}");
    }

    #[test]
    fn a_root_file_must_forbid_unsafe_code() {
        let file = std::env::temp_dir().join(format!("rhea-layers-{}.rs", std::process::id()));
        let ir = CRATES.iter().find(|r| r.name == "ir").unwrap();
        std::fs::write(&file, "//! x\n#![forbid(unsafe_code)]\n").unwrap();
        assert!(unsafe_code(ir, &file).unwrap().is_empty());
        std::fs::write(&file, "//! `#![forbid(unsafe_code)]` in words only\n").unwrap();
        assert_eq!(unsafe_code(ir, &file).unwrap().len(), 1);
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn this_workspace_keeps_its_layers() {
        check(&crate::metadata::packages().unwrap()).unwrap();
    }
}
