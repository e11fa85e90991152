//! `qemu-img snapshot`.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, fail, objects, usage};
use disk::node::{NodeRef, SnapshotInfo, strerror};
use disk::open::OpenFlags;
use disk::size::human;
use std::time::{SystemTime, UNIX_EPOCH};

pub const COMMAND: Command = Command {
    name: "snapshot",
    summary: "lists, takes, applies and deletes snapshots inside an image",
    arguments: "FILE",
    options: &[
        opt('q', "quiet", false),
        opt('f', "format", true),
        long("image-opts", false),
        opt('U', "force-share", false),
        opt('l', "list", false),
        opt('c', "create", true),
        opt('a', "apply", true),
        opt('d', "delete", true),
        long("object", true),
    ],
    run,
};

fn run(p: &Parsed) -> Done {
    let actions: Vec<&(&str, String)> =
        p.options.iter().filter(|(n, _)| matches!(*n, "list" | "create" | "apply" | "delete")).collect();
    if actions.len() > 1 {
        return Err(usage("snapshot", "Cannot mix '-l', '-a', '-c', '-d'"));
    }
    let [name] = p.rest.as_slice() else { return Err(usage("snapshot", "Expecting one image file name")) };
    objects(p)?;
    let (action, key) = actions.first().map_or(("list", ""), |(n, v)| (*n, v.as_str()));
    let flags = OpenFlags {
        write: action != "list",
        share: p.has("force-share"),
        no_backing: false,
        unmap: true,
        ..OpenFlags::default()
    };
    let node = common::open(p, name, p.value("format"), &flags)?;
    match action {
        "create" => create(&node, key)?,
        "apply" => apply(&node, key)?,
        "delete" => delete(&node, key)?,
        _ => list(&node),
    }
    common::close(&node)?;
    Ok(0)
}

fn list(node: &NodeRef) {
    let snapshots = node.snapshots().map(|s| s.list()).unwrap_or_default();
    if !snapshots.is_empty() {
        print!("Snapshot list:\n{}", table(&snapshots));
    }
}

fn create(node: &NodeRef, name: &str) -> Result<(), Exit> {
    let failed = |why: &str| fail(format!("Could not create snapshot '{name}': {why}"));
    let Some(snapshots) = node.snapshots() else { return failed("Operation not supported") };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The host clock is kept to microseconds, as the reference does.
    let date_nsec = now.subsec_micros() * 1000;
    let info = SnapshotInfo {
        name: name.to_owned(),
        date_sec: now.as_secs() as u32,
        date_nsec,
        icount: Some(0),
        ..SnapshotInfo::default()
    };
    snapshots.create(info).or_else(|e| failed(&e.to_string()))
}

fn apply(node: &NodeRef, name: &str) -> Result<(), Exit> {
    let failed = |why: &str| fail(format!("Could not apply snapshot '{name}': {why}"));
    let Some(snapshots) = node.snapshots() else { return failed("Block driver does not support internal snapshots") };
    if node.as_qcow2().is_some_and(|q| q.bitmap_list().is_ok_and(|l| !l.is_empty())) {
        return failed("Device has active dirty bitmaps");
    }
    if !snapshots.list().iter().any(|s| s.name == name || s.id == name) {
        return failed("Failed to load snapshot: No such file or directory");
    }
    if let Some((number, text)) = node.as_qcow2().and_then(|q| q.snapshot_damage(name)) {
        return fail(format!(
            "{text}\nqemu-img: Could not apply snapshot '{name}': Failed to load snapshot: {}",
            strerror(&number)
        ));
    }
    snapshots.apply(name).or_else(|e| failed(&e.to_string()))
}

fn delete(node: &NodeRef, name: &str) -> Result<(), Exit> {
    let failed = |why: &str| fail(format!("Could not delete snapshot '{name}': {why}"));
    let Some(snapshots) = node.snapshots() else { return failed("snapshot not found") };
    let list = snapshots.list();
    let Some(found) = list.iter().find(|s| s.name == name).or_else(|| list.iter().find(|s| s.id == name)) else {
        return failed("snapshot not found");
    };
    snapshots.delete(&found.id).or_else(|e| failed(&e.to_string()))
}

/// The table that `snapshot -l` and `info` print.
pub fn table(list: &[SnapshotInfo]) -> String {
    let mut out =
        format!("{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}\n", "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT");
    for s in list {
        let seconds = s.vm_clock_nsec / 1_000_000_000;
        let clock = format!(
            "{:04}:{:02}:{:02}.{:03}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            s.vm_clock_nsec / 1_000_000 % 1000
        );
        let icount = s.icount.map_or("--".to_owned(), |c| c.to_string());
        out += &format!(
            "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}\n",
            s.id,
            s.name,
            human(s.vm_state_size),
            local_date(s.date_sec),
            clock,
            icount
        );
    }
    out
}

/// A date as `strftime("%Y-%m-%d %H:%M:%S")` prints it, in the zone that the system is set to.
fn local_date(seconds: u32) -> String {
    let offset = zone_offset(seconds as i64);
    let t = seconds as i64 + offset;
    let (days, rest) = (t.div_euclid(86400), t.rem_euclid(86400));
    let (y, m, d) = civil(days);
    format!("{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Gregorian date of a day number since 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * mp + 2) / 5 + 1)
}

/// Seconds east of UTC from the zone file that `TZ` or the system names (version 2 files, RFC 8536).
fn zone_offset(at: i64) -> i64 {
    let path = match std::env::var("TZ") {
        Ok(tz) if tz.is_empty() || tz == "UTC" || tz == "UTC0" => return 0,
        Ok(tz) => format!("/usr/share/zoneinfo/{}", tz.trim_start_matches(':')),
        Err(_) => "/etc/localtime".to_owned(),
    };
    std::fs::read(path).ok().and_then(|b| offset_in(&b, at)).unwrap_or(0)
}

fn offset_in(b: &[u8], at: i64) -> Option<i64> {
    let count = |base: usize, i: usize| {
        Some(u32::from_be_bytes(b.get(base + 20 + 4 * i..base + 24 + 4 * i)?.try_into().ok()?) as usize)
    };
    // Skip the 32-bit block: its sizes are in its header.
    let (isut, isstd, leap, time, kind, chars) =
        (count(0, 0)?, count(0, 1)?, count(0, 2)?, count(0, 3)?, count(0, 4)?, count(0, 5)?);
    let second = 44 + time * 5 + kind * 6 + chars + leap * 8 + isstd + isut;
    if b.get(second..second + 4)? != b"TZif" {
        return None;
    }
    let time = count(second, 3)?;
    let times = second + 44;
    let kinds = times + time * 8;
    let mut index = 0;
    for i in 0..time {
        let t = i64::from_be_bytes(b.get(times + i * 8..times + i * 8 + 8)?.try_into().ok()?);
        if t <= at {
            index = *b.get(kinds + i)? as usize;
        }
    }
    let row = kinds + time + index * 6;
    Some(i32::from_be_bytes(b.get(row..row + 4)?.try_into().ok()?) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11016), (2000, 2, 29));
        assert_eq!(civil(20780), (2026, 11, 23));
    }
}
