//! `cargo xtask guests`: guest programs, by package name, from Debian.
//!
//! Layout of the guests directory: `debs/` (the cache), `apt/ARCH` (private apt), `ARCH-root` (the unpacked trees),
//! `machine/` (kernels, their initial RAM disks, a disk), `stamps/SET` (which packages a finished set came from). One run at
//! a time, by a lock file.

mod apt;
mod cpio;
mod disk;
mod initrd;
mod sets;
mod sources;
mod unpack;

pub use cpio::Archive;

use crate::project;
use sets::{ROOTS, Root, SETS, Set};
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
    product(&project::guests(), Root::Armhf)
}

/// Where `vmlinuz-FLAVOUR` and `initrd-FLAVOUR` are; the flavours are armmp and armmp-lpae.
pub fn kernels() -> PathBuf {
    product(&project::guests(), Root::Kernels)
}

/// The raw disk image with a Debian root. Nobody writes to it.
pub fn disk_image() -> PathBuf {
    product(&project::guests(), Root::Disk)
}

/// Sets by name.
pub fn ensure_named(names: &[&str]) -> Result<()> {
    let chosen: Result<Vec<&Set>> = names.iter().map(|n| sets::find(n).ok_or_else(|| unknown(n))).collect();
    get(&chosen?, false)
}

pub fn amd64_root() -> PathBuf {
    product(&project::guests(), Root::Amd64)
}

fn unknown(name: &str) -> Error {
    let known: Vec<&str> = SETS.iter().map(|s| s.name).collect();
    Error::new(format!("there is no guest set '{name}'; the sets are {}", known.join(", ")))
}

/// What the sets of a root make.
fn product(guests: &Path, root: Root) -> PathBuf {
    match root {
        Root::Armhf | Root::Amd64 => guests.join(format!("{}-root", root.architecture())),
        Root::Kernels => guests.join("machine/kernels"),
        Root::Disk => guests.join("machine/disk.img"),
    }
}

fn get(chosen: &[&Set], refresh: bool) -> Result<()> {
    let guests = project::guests();
    std::fs::create_dir_all(guests.join("stamps")).context(|| format!("Could not create '{}'", guests.display()))?;
    let lock = File::create(guests.join("lock")).context(|| format!("Could not create the lock in '{}'", guests.display()))?;
    lock.lock().context(|| format!("Could not lock '{}'", guests.display()))?;
    for root in ROOTS {
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
    println!("guests: {} ({})", set.name, set.packages.join(" "));
    let debs = apt.fetch(set.packages)?;
    let product = product(guests, set.root);
    match set.root {
        Root::Armhf | Root::Amd64 => add_to_root(guests, set.root, &debs)?,
        Root::Kernels => initrd::build(&product, &debs)?,
        Root::Disk => disk::build(&product, &debs)?,
    }
    let stamp = stamp(guests, set);
    std::fs::write(&stamp, contents(set)).context(|| format!("Could not write '{}'", stamp.display()))?;
    println!("guests: {} is ready in {} ({} packages)", set.name, product.display(), debs.len());
    Ok(())
}

fn add_to_root(guests: &Path, root: Root, debs: &[PathBuf]) -> Result<()> {
    let dir = product(guests, root);
    unpack::prepare(&dir)?;
    let unpacked = guests.join("stamps").join(format!("{}-debs", root.architecture()));
    let before = std::fs::read_to_string(&unpacked).unwrap_or_default();
    let mut record = before.clone();
    for deb in debs {
        let name = deb.file_name().expect("a file").to_string_lossy();
        if before.lines().any(|l| l == name) {
            continue;
        }
        unpack::unpack(deb, &dir, unpack::Modes::Plain)?;
        record += &format!("{name}\n");
    }
    unpack::relative_links(&dir)?;
    std::fs::write(&unpacked, record).context(|| format!("Could not write '{}'", unpacked.display()))
}

fn stamp(guests: &Path, set: &Set) -> PathBuf {
    guests.join("stamps").join(set.name)
}

/// A set is finished when its stamp lists exactly the packages of its row, and what is made of them is made as it is now.
fn contents(set: &Set) -> String {
    let recipe = match set.root {
        Root::Armhf | Root::Amd64 => String::new(),
        Root::Kernels => format!("made by {:016x}\n", fingerprint(include_str!("guests/initrd.rs"))),
        Root::Disk => format!("made by {:016x}\n", fingerprint(include_str!("guests/disk.rs"))),
    };
    set.packages.join("\n") + "\n" + &recipe
}

/// FNV-1a.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn finished(guests: &Path, set: &Set) -> bool {
    std::fs::read_to_string(stamp(guests, set)).is_ok_and(|s| s == contents(set)) && product(guests, set.root).exists()
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
