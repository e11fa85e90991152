//! `cargo xtask guests`: guest programs, by package name, from Debian.
//!
//! Layout of the guests directory: `debs/` (the cache), `apt/ARCH` (private apt), `ARCH-root` (the unpacked trees),
//! `stamps/SET` (which packages a finished set came from). One run at a time, by a lock file.

mod apt;
mod sets;
mod sources;
mod unpack;

use crate::project;
use sets::{Root, SETS, Set};
use spec::error::{Context, Error, Result};
use std::fs::File;
use std::path::{Path, PathBuf};

pub fn command(arguments: &[String]) -> Result<()> {
    let mut refresh = false;
    let mut full = false;
    let mut named = Vec::new();
    for argument in arguments {
        match argument.as_str() {
            "--full" => full = true,
            "--refresh" => refresh = true,
            name => named.push(sets::find(name).ok_or_else(|| unknown(name))?),
        }
    }
    let chosen: Vec<&Set> = if named.is_empty() { SETS.iter().filter(|s| full || s.default).collect() } else { named };
    get(&chosen, refresh)
}

/// What the programs test needs: the default sets, or all of them.
pub fn ensure(full: bool) -> Result<()> {
    let chosen: Vec<&Set> = SETS.iter().filter(|s| full || s.default).collect();
    get(&chosen, false)
}

pub fn armhf_root() -> PathBuf {
    root_dir(&project::guests(), Root::Armhf)
}

/// Sets by name.
pub fn ensure_named(names: &[&str]) -> Result<()> {
    let chosen: Result<Vec<&Set>> = names.iter().map(|n| sets::find(n).ok_or_else(|| unknown(n))).collect();
    get(&chosen?, false)
}

pub fn amd64_root() -> PathBuf {
    root_dir(&project::guests(), Root::Amd64)
}

fn unknown(name: &str) -> Error {
    let known: Vec<&str> = SETS.iter().map(|s| s.name).collect();
    Error::new(format!("there is no guest set '{name}'; the sets are {}", known.join(", ")))
}

fn root_dir(guests: &Path, root: Root) -> PathBuf {
    guests.join(format!("{}-root", root.architecture()))
}

fn get(chosen: &[&Set], refresh: bool) -> Result<()> {
    let guests = project::guests();
    std::fs::create_dir_all(guests.join("stamps")).context(|| format!("Could not create '{}'", guests.display()))?;
    let lock = File::create(guests.join("lock")).context(|| format!("Could not create the lock in '{}'", guests.display()))?;
    lock.lock().context(|| format!("Could not lock '{}'", guests.display()))?;
    for root in [Root::Armhf, Root::Amd64] {
        let todo: Vec<&&Set> = chosen.iter().filter(|s| s.root == root && (refresh || !finished(&guests, s))).collect();
        if todo.is_empty() {
            continue;
        }
        apt::probe()?;
        let apt = apt::Apt::new(&guests, root)?;
        apt.update()?;
        for set in todo {
            install(&guests, &apt, set)?;
        }
    }
    Ok(())
}

fn install(guests: &Path, apt: &apt::Apt, set: &Set) -> Result<()> {
    let root = root_dir(guests, set.root);
    println!("guests: {} ({})", set.name, set.packages.join(" "));
    let debs = apt.fetch(set.packages)?;
    unpack::prepare(&root)?;
    let unpacked = guests.join("stamps").join(format!("{}-debs", set.root.architecture()));
    let before = std::fs::read_to_string(&unpacked).unwrap_or_default();
    let mut record = before.clone();
    for deb in &debs {
        let name = deb.file_name().expect("a file").to_string_lossy();
        if before.lines().any(|l| l == name) {
            continue;
        }
        unpack::unpack(deb, &root)?;
        record += &format!("{name}\n");
    }
    unpack::relative_links(&root)?;
    std::fs::write(&unpacked, record).context(|| format!("Could not write '{}'", unpacked.display()))?;
    let stamp = stamp(guests, set);
    std::fs::write(&stamp, contents(set)).context(|| format!("Could not write '{}'", stamp.display()))?;
    println!("guests: {} is ready in {} ({} packages)", set.name, root.display(), debs.len());
    Ok(())
}

fn stamp(guests: &Path, set: &Set) -> PathBuf {
    guests.join("stamps").join(set.name)
}

/// A set is finished when its stamp lists exactly the packages of its row.
fn contents(set: &Set) -> String {
    set.packages.join("\n") + "\n"
}

fn finished(guests: &Path, set: &Set) -> bool {
    std::fs::read_to_string(stamp(guests, set)).is_ok_and(|s| s == contents(set)) && root_dir(guests, set.root).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_set_is_named_with_the_known_ones() {
        let error = command(&["cor".into()]).unwrap_err().to_string();
        assert!(error.contains("'cor'") && error.contains("core, installer"), "{error}");
    }
}
