//! The kernel's log under our emulator and under the installed QEMU: no warning that only our guest shows.

use crate::console::{Kernel, Setting};
use crate::{Story, check, core, full};
use libtest_mimic::Failed;
use std::collections::BTreeSet;
use std::path::Path;

pub const STORIES: &[Story] = &[
    core("no warning that the reference's guest does not have", plain),
    full("the same without large addresses", without_large_addresses),
    full("the same on two processors with gicv3", two_processors),
];

fn plain(s: &Setting) -> Result<(), Failed> {
    compare(s, Kernel::Lpae, &["-M", "virt"])
}

fn without_large_addresses(s: &Setting) -> Result<(), Failed> {
    compare(s, Kernel::Armmp, &["-M", "virt,highmem=off"])
}

fn two_processors(s: &Setting) -> Result<(), Failed> {
    compare(s, Kernel::Lpae, &["-M", "virt,gic-version=3", "-smp", "2"])
}

fn compare(s: &Setting, kernel: Kernel, options: &[&str]) -> Result<(), Failed> {
    let ours = warnings(&log(s, &s.emulator, kernel, options)?);
    let reference = warnings(&log(s, &s.reference, kernel, options)?);
    check(!reference.is_empty(), || "the reference's log has no warnings, so it was not read right".into())?;
    let more: Vec<&String> = ours.difference(&reference).collect();
    check(more.is_empty(), || format!("only our guest says:\n{more:#?}\nboth or the reference's:\n{reference:#?}"))
}

fn log(s: &Setting, emulator: &Path, kernel: Kernel, options: &[&str]) -> Result<String, Failed> {
    let drive = format!("file={},if=virtio,format=raw,snapshot=on", s.disk().display());
    let mut all = options.to_vec();
    all.extend(["-nic", "none", "-drive", &drive]);
    let mut m = s.debian(emulator, kernel, &all, "quiet")?;
    m.wait_for("~ # ")?;
    m.run("mount -t ext4 /dev/vda /mnt")?;
    let log = m.run("dmesg -r")?;
    m.power_off()?;
    Ok(log)
}

/// What a guest says when its host is busy elsewhere for long: no matter of the emulator.
const BUSY_HOST: &[&str] = &["hrtimer: interrupt took"];

/// The texts of the lines of level warning or worse (`<LEVEL>[TIME] TEXT`, facility kernel), numbers normalised.
fn warnings(log: &str) -> BTreeSet<String> {
    const WARNING: u32 = 4;
    let mut found = BTreeSet::new();
    for line in log.lines() {
        let Some((level, rest)) = line.trim().strip_prefix('<').and_then(|l| l.split_once('>')) else { continue };
        let text = rest.split_once("] ").map_or(rest, |(_time, text)| text);
        if level.parse::<u32>().is_ok_and(|l| l <= WARNING) && !BUSY_HOST.iter().any(|b| text.starts_with(b)) {
            found.insert(normalised(text));
        }
    }
    found
}

/// Every word that begins with a digit, or is a number in hexadecimal, becomes a sign.
fn normalised(text: &str) -> String {
    let number = |w: &str| w.starts_with(|c: char| c.is_ascii_digit()) || (w.len() >= 8 && w.chars().all(|c| c.is_ascii_hexdigit()));
    text.split_inclusive(|c: char| !c.is_ascii_alphanumeric())
        .map(|part| {
            let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            if number(word) { format!("#{}", &part[word.len()..]) } else { part.to_string() }
        })
        .collect()
}
