//! Options of an open image that tune caches and checks.
//!
//! One cache holds all tables: its size is the sum of those that are given. Entries are whole tables and leave by use, so
//! `l2-cache-entry-size` and `cache-clean-interval` are looked at for mistakes and change nothing. Freed clusters are
//! given back when the image is opened with `discard=unmap`, whatever the reason they were freed for.
//!
//! Reference: names, limits and messages of `qemu-io -o` 10.0.2.

use super::meta::CACHE_BYTES;
use super::overlap::Parts;
use crate::options::Options;
use spec::error::{Error, Result};

const SMALLEST_ENTRY: u64 = 512;
/// Refcount blocks that the reference keeps when it is told nothing.
const MIN_COUNTS: u64 = 4;

pub fn take(options: &mut Options, cluster_size: u64) -> Result<(Parts, Option<u64>)> {
    let cache = caches(options, cluster_size)?;
    for flag in ["pass-discard-request", "pass-discard-snapshot", "pass-discard-other", "discard-no-unref"] {
        options.take_bool(flag)?;
    }
    Ok((Parts::take(options)?, cache))
}

/// Checks the sizes; returns the memory for all tables together, if any size was given.
fn caches(options: &mut Options, cluster_size: u64) -> Result<Option<u64>> {
    let refuse = |text: &str| Err(Error::new(text));
    let both = options.take_size("cache-size")?;
    let l2 = options.take_size("l2-cache-size")?;
    let counts = options.take_size("refcount-cache-size")?;
    let entry = options.take_size("l2-cache-entry-size")?.unwrap_or(cluster_size);
    if let Some(both) = both {
        if l2.is_some() && counts.is_some() {
            return refuse("cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
        }
        if l2.is_some_and(|v| v > both) {
            return refuse("l2-cache-size may not exceed cache-size");
        }
        if counts.is_some_and(|v| v > both) {
            return refuse("refcount-cache-size may not exceed cache-size");
        }
    }
    if !entry.is_power_of_two() || !(SMALLEST_ENTRY..=cluster_size).contains(&entry) {
        return Err(Error::new(format!(
            "L2 cache entry size must be a power of two between {SMALLEST_ENTRY} and the cluster size ({cluster_size})"
        )));
    }
    if l2.is_some_and(|v| v / entry > i32::MAX as u64) {
        return refuse("L2 cache size too big");
    }
    if counts.is_some_and(|v| v / cluster_size > i32::MAX as u64) {
        return refuse("Refcount cache size too big");
    }
    if options
        .get("cache-clean-interval")
        .is_some_and(|v| v.strip_prefix('-').is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())))
    {
        return refuse("Cache clean interval too big");
    }
    match options.take_number("cache-clean-interval")? {
        Some(v) if v > u32::MAX as u64 => return refuse("Cache clean interval too big"),
        _ => {}
    }
    Ok(match (both, l2, counts) {
        (Some(both), ..) => Some(both),
        (None, None, None) => None,
        // Tables and counts share one cache here.
        _ => Some(l2.unwrap_or(CACHE_BYTES).saturating_add(counts.unwrap_or(MIN_COUNTS * cluster_size))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_and_the_rest_is_taken() {
        let check = |text: &str| {
            let mut o = Options::parse(text, None).unwrap();
            take(&mut o, 65536).map(|_| assert_eq!(o.first_key(), None, "{text}"))
        };
        check("cache-size=2M,l2-cache-size=1M,overlap-check=all,overlap-check.active-l2=off,cache-clean-interval=30")
            .unwrap();
        let cache = |text: &str| take(&mut Options::parse(text, None).unwrap(), 65536).unwrap().1;
        assert_eq!(
            [cache(""), cache("cache-size=1M"), cache("l2-cache-size=1M")],
            [None, Some(1 << 20), Some(5 << 18)]
        );
        for bad in ["cache-size=1M,l2-cache-size=2M", "l2-cache-entry-size=4242", "cache-clean-interval=9999999999"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
