//! The licence check: everything the project is built from is under a licence that this project may ship.
//!
//! Reference: SPDX licence expressions, and the older `MIT/Apache-2.0` for `OR`.

use crate::metadata::Package;
use spec::error::{Error, Result};

const ALLOWED: &[&str] =
    &["MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "0BSD", "Zlib", "Unicode-3.0", "Unicode-DFS-2016"];

pub fn check(packages: &[Package]) -> Result<()> {
    let shown = |p: &&Package| format!("{} {}: {}", p.name, p.version, p.licence.as_deref().unwrap_or("no licence field"));
    let bad = |p: &&Package| !p.licence.as_deref().is_some_and(acceptable);
    let faults: Vec<String> = packages.iter().filter(bad).map(|p| shown(&p)).collect();
    if faults.is_empty() { Ok(()) } else { Err(Error::new(format!("licences outside the allowed list:\n  {}", faults.join("\n  ")))) }
}

/// Whether the expression can be met with allowed licences only. `AND` binds tighter than `OR`.
fn acceptable(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let value = either(&mut rest);
    value && rest.is_empty()
}

fn either(words: &mut &[&str]) -> bool {
    let mut value = both(words);
    while words.first() == Some(&"OR") {
        *words = &words[1..];
        value |= both(words);
    }
    value
}

fn both(words: &mut &[&str]) -> bool {
    let mut value = one(words);
    while words.first() == Some(&"AND") {
        *words = &words[1..];
        value &= one(words);
    }
    value
}

fn one(words: &mut &[&str]) -> bool {
    let Some((first, rest)) = words.split_first() else { return false };
    *words = rest;
    if *first == "(" {
        let value = either(words);
        let closed = words.first() == Some(&")");
        *words = words.get(1..).unwrap_or(&[]);
        return value && closed;
    }
    // An exception only ever permits more.
    if words.first() == Some(&"WITH") {
        *words = words.get(2..).unwrap_or(&[]);
    }
    ALLOWED.contains(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for good in ["MIT", "MIT OR Apache-2.0", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0", "Apache-2.0 WITH LLVM-exception OR MIT"] {
            assert!(acceptable(good), "{good}");
        }
        for bad in ["", "GPL-2.0", "MPL-2.0", "MIT AND LGPL-2.1", "MIT OR Apache-2.0 MIT", "(MIT", "Apache-2.0 AND (MIT AND CC0-1.0)"] {
            assert!(!acceptable(bad), "{bad}");
        }
    }

    #[test]
    fn cargo_deny_has_the_same_list() {
        let text = std::fs::read_to_string(crate::project::root().join("deny.toml")).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("allow = ")).unwrap();
        assert_eq!(line, format!("{ALLOWED:?}"));
    }

    #[test]
    fn everything_this_workspace_uses_is_allowed() {
        check(&crate::metadata::packages().unwrap()).unwrap();
    }
}
