//! Limits on operations and bytes per second, for one disk or for a group of them.
//!
//! Reference: QEMU's docs/throttle.txt (leaky buckets; bursts of `…-max` for `…-max-length` seconds; `iops-size`), the
//! option names of `-drive throttling.…`, `-object throttle-group` and the `throttle` filter.
//!
//! Invariants: the arithmetic gets the time as an argument and never waits; only requests in `Group::admit` do, and a change of
//! limits wakes them.

use super::Filter;
use crate::node::NodeRef;
use crate::options::Options;
use spec::error::{Error, Result};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

const MAX_VALUE: u64 = 1_000_000_000_000_000;
/// Without a burst limit, this part of a second's allowance may come at once.
const SLICE: f64 = 0.1;

/// Shorter waits than this, in seconds, are rounding errors.
const TICK: f64 = 1e-6;

/// One limit: its name as in `throttling.<name>`, and its spelling as an old drive option.
const LIMITS: [(&str, &str); 6] = [
    ("bps-total", "bps"),
    ("bps-read", "bps_rd"),
    ("bps-write", "bps_wr"),
    ("iops-total", "iops"),
    ("iops-read", "iops_rd"),
    ("iops-write", "iops_wr"),
];

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Limit {
    average: u64,
    max: u64,
    max_length: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    rows: [Limit; 6],
    /// Operations longer than this count as several.
    iops_size: u64,
}

impl Limits {
    /// Takes the limits out of a table; `None` when there are none.
    pub fn take(options: &mut Options, name: impl Fn(&str, &str) -> Vec<String>) -> Result<Option<Limits>> {
        let mut limits = Limits::default();
        let mut any = false;
        let mut number = |key: &str, old: &str| -> Result<Option<u64>> {
            for spelling in name(key, old) {
                if let Some(v) = options.take_size(&spelling)? {
                    any = true;
                    return if v <= MAX_VALUE {
                        Ok(Some(v))
                    } else {
                        Err(Error::new(format!("bps/iops/max values must be within [0, {MAX_VALUE}]")))
                    };
                }
            }
            Ok(None)
        };
        for (row, (key, old)) in limits.rows.iter_mut().zip(LIMITS) {
            row.average = number(key, old)?.unwrap_or(0);
            let (kind, direction) = old.split_once('_').unwrap_or((old, ""));
            let old_max = if direction.is_empty() { format!("{kind}_max") } else { format!("{kind}_{direction}_max") };
            row.max = number(&format!("{key}-max"), &old_max)?.unwrap_or(0);
            row.max_length = number(&format!("{key}-max-length"), &format!("{old_max}_length"))?.unwrap_or(1);
        }
        limits.iops_size = number("iops-size", "iops_size")?.unwrap_or(0);
        limits.validate()?;
        Ok(any.then_some(limits))
    }

    /// The limits by their old names, `…_max_length` only where there is a burst.
    pub fn values(&self) -> Vec<(String, u64)> {
        let burst = |old: &str| format!("{old}_max");
        let mut list: Vec<(String, u64)> = Vec::new();
        for (rows, names) in self.rows.chunks(3).zip(LIMITS.chunks(3)) {
            list.extend(rows.iter().zip(names).map(|(row, (_, old))| (old.to_string(), row.average)));
            list.extend(rows.iter().zip(names).map(|(row, (_, old))| (burst(old), row.max)));
            let bursts = rows.iter().zip(names).filter(|(row, _)| row.max > 0);
            list.extend(bursts.map(|(row, (_, old))| (format!("{old}_max_length"), row.max_length)));
        }
        list.push(("iops_size".into(), self.iops_size));
        list
    }

    /// Whether nothing is limited.
    pub fn is_free(&self) -> bool {
        self.rows.iter().all(|row| row.average == 0)
    }

    fn validate(&self) -> Result<()> {
        for kind in self.rows.chunks(3) {
            let split = |get: fn(&Limit) -> u64| get(&kind[0]) > 0 && (get(&kind[1]) > 0 || get(&kind[2]) > 0);
            if split(|l| l.average) || split(|l| l.max) {
                return Err(Error::new(
                    "bps/iops/max total values and read/write values cannot be used at the same time",
                ));
            }
        }
        for row in &self.rows {
            if row.max_length == 0 {
                return Err(Error::new("the burst length cannot be 0"));
            }
            if row.max_length > 1 && row.max == 0 {
                return Err(Error::new("burst length set without burst rate"));
            }
            if row.max > 0 && row.average == 0 {
                return Err(Error::new("bps_max/iops_max require corresponding bps/iops values"));
            }
            if row.max > 0 && row.max < row.average {
                return Err(Error::new("bps_max/iops_max cannot be lower than bps/iops"));
            }
        }
        Ok(())
    }
}

/// A leaky bucket: it may not be over its rim for long, and a second one limits the speed of bursts.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    level: f64,
    burst: f64,
}

impl Bucket {
    fn leak(&mut self, limit: &Limit, seconds: f64) {
        self.level = (self.level - limit.average as f64 * seconds).max(0.0);
        self.burst = (self.burst - limit.max as f64 * seconds).max(0.0);
    }

    /// Seconds until the next operation may start.
    fn wait(&self, limit: &Limit) -> f64 {
        if limit.average == 0 {
            return 0.0;
        }
        let rim = if limit.max == 0 { limit.average as f64 * SLICE } else { (limit.max * limit.max_length) as f64 };
        let mut wait = ((self.level - rim) / limit.average as f64).max(0.0);
        if limit.max_length > 1 {
            wait = wait.max((self.burst - limit.max as f64 * SLICE) / limit.max as f64);
        }
        wait
    }

    fn add(&mut self, amount: f64) {
        self.level += amount;
        self.burst += amount;
    }
}

/// The buckets of a group in the order of `LIMITS`, and when they were last looked at.
#[derive(Default)]
struct Buckets {
    rows: [Bucket; 6],
    now: f64,
}

impl Buckets {
    /// Lets an operation start, or says how many seconds it has to wait.
    fn start(&mut self, limits: &Limits, now: f64, write: bool, bytes: u64) -> Option<f64> {
        let passed = (now - self.now).max(0.0);
        self.now = now;
        let mine = if write { [0, 2, 3, 5] } else { [0, 1, 3, 4] };
        let mut wait = 0f64;
        for (bucket, limit) in self.rows.iter_mut().zip(&limits.rows) {
            bucket.leak(limit, passed);
        }
        for i in mine {
            wait = wait.max(self.rows[i].wait(&limits.rows[i]));
        }
        if wait > TICK {
            return Some(wait);
        }
        let operations = if limits.iops_size > 0 { (bytes as f64 / limits.iops_size as f64).max(1.0) } else { 1.0 };
        for i in mine {
            self.rows[i].add(if i < 3 { bytes as f64 } else { operations });
        }
        None
    }
}

/// Disks that share limits.
pub struct Group {
    limits: Mutex<Limits>,
    buckets: Mutex<Buckets>,
    changed: Condvar,
    since: Instant,
}

impl Group {
    pub fn new(limits: Limits) -> Group {
        Group { limits: Mutex::new(limits), buckets: Mutex::default(), changed: Condvar::new(), since: Instant::now() }
    }

    pub fn set(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
        self.changed.notify_all();
    }

    pub fn limits(&self) -> Limits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, write: bool, bytes: u64) {
        loop {
            let limits = *self.limits.lock().unwrap_or_else(PoisonError::into_inner);
            let wait = {
                let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
                buckets.start(&limits, self.since.elapsed().as_secs_f64(), write, bytes)
            };
            match wait {
                None => return,
                // Limits may change meanwhile; a change that falls between is seen after a second.
                Some(seconds) => {
                    let now = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
                    drop(self.changed.wait_timeout(now, Duration::from_secs_f64(seconds.clamp(0.0001, 1.0))));
                }
            }
        }
    }
}

static GROUPS: Mutex<Option<HashMap<String, Arc<Group>>>> = Mutex::new(None);

/// Defines a group from `-object throttle-group`; the type has been taken already.
pub fn define(mut options: Options) -> Result<()> {
    let id = options.take("id").ok_or_else(|| Error::new("Parameter 'id' is missing"))?;
    let limits =
        Limits::take(&mut options, |key, _| vec![format!("x-{key}"), format!("limits.{key}")])?.unwrap_or_default();
    if let Some(key) = options.first_key() {
        return Err(Error::new(format!("Property 'throttle-group.{key}' not found")));
    }
    let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    if groups.get_or_insert_default().insert(id.clone(), Arc::new(Group::new(limits))).is_some() {
        return Err(Error::new(format!("attempt to add duplicate property '{id}' to object (type 'container')")));
    }
    Ok(())
}

pub fn group(id: &str) -> Result<Arc<Group>> {
    let groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    groups
        .as_ref()
        .and_then(|g| g.get(id))
        .cloned()
        .ok_or_else(|| Error::new(format!("Throttle group '{id}' does not exist")))
}

/// The group that `throttling.…` (or the old names) of a drive asks for. A named one is shared, and set by who comes last.
pub fn take_group(options: &mut Options) -> Result<Option<Arc<Group>>> {
    let limits = Limits::take(options, |key, old| vec![format!("throttling.{key}"), format!("throttling.{old}")])?;
    let name = options.take("throttling.group");
    let Some(limits) = limits else {
        return match name {
            Some(name) => Err(Error::new(format!("throttling.group={name} needs a limit"))),
            None => Ok(None),
        };
    };
    let Some(name) = name else { return Ok(Some(Arc::new(Group::new(limits)))) };
    let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
    let group = groups.get_or_insert_default().entry(name).or_insert_with(|| Arc::new(Group::new(limits))).clone();
    group.set(limits);
    Ok(Some(group))
}

/// The limits of a drive, which may change while it is used; they stay when another node takes the drive's place.
#[derive(Default)]
pub struct Limiter(RwLock<Option<(String, Arc<Group>)>>);

impl Limiter {
    /// Takes the limits of a drive out of its options; their group has the drive's name unless another is given.
    pub fn take(&self, options: &mut Options, name: &str) -> Result<()> {
        let limits = Limits::take(options, |key, old| vec![format!("throttling.{key}"), format!("throttling.{old}")])?;
        let group = options.take("throttling.group");
        match (limits, group) {
            (Some(limits), group) if !limits.is_free() => self.set(limits, group.as_deref(), name),
            (_, Some(group)) => self.join(&group),
            _ => {}
        }
        Ok(())
    }

    /// Sets the limits of the drive's group; without a limit there is no group any more.
    pub fn set(&self, limits: Limits, group: Option<&str>, name: &str) {
        let mut own = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if limits.is_free() {
            if let Some((_, group)) = own.take() {
                // Whoever waits for the others of the group waits on; the others keep their limits.
                group.changed.notify_all();
            }
            return;
        }
        let stays = own.as_ref().map(|(name, _)| name.clone());
        let name = group.map(str::to_owned).or(stays).unwrap_or_else(|| name.to_owned());
        let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
        let group = groups.get_or_insert_default().entry(name.clone()).or_insert_with(|| Arc::new(Group::new(limits)));
        group.set(limits);
        *own = Some((name, group.clone()));
    }

    /// Shares the limits that a group has.
    fn join(&self, name: &str) {
        let mut groups = GROUPS.lock().unwrap_or_else(PoisonError::into_inner);
        let group = groups
            .get_or_insert_default()
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Group::new(Limits::default())));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some((name.to_owned(), group.clone()));
    }

    /// The group's name and the limits; nothing when the drive is free.
    pub fn get(&self) -> Option<(String, Limits)> {
        let own = self.0.read().unwrap_or_else(PoisonError::into_inner);
        own.as_ref().map(|(name, group)| (name.clone(), group.limits())).filter(|(_, limits)| !limits.is_free())
    }

    /// Nobody waits any more, for a machine that ends.
    pub fn lift(&self) {
        if let Some((_, group)) = &*self.0.read().unwrap_or_else(PoisonError::into_inner) {
            group.set(Limits::default());
        }
    }

    fn admit(&self, write: bool, bytes: u64) {
        let group = self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(_, group)| group.clone());
        if let Some(group) = group {
            group.admit(write, bytes);
        }
    }
}

/// The filter of a drive: it is there whether there are limits or not.
pub struct Limited(pub Arc<Limiter>);

impl Filter for Limited {
    fn read(&self, below: &NodeRef, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.admit(false, buf.len() as u64);
        below.read(offset, buf)
    }
    fn write(&self, below: &NodeRef, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.admit(true, buf.len() as u64);
        below.write(offset, buf)
    }
    fn write_zeroes(&self, below: &NodeRef, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.0.admit(true, len);
        below.write_zeroes(offset, len, unmap)
    }
    fn discard(&self, below: &NodeRef, offset: u64, len: u64) -> io::Result<()> {
        self.0.admit(true, len);
        below.discard(offset, len)
    }
    fn write_compressed(&self, below: &NodeRef, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.0.admit(true, buf.len() as u64);
        below.write_compressed(offset, buf)
    }
    fn passes_packed(&self) -> bool {
        false
    }
}

pub struct Throttle {
    group: Arc<Group>,
    explicit: bool,
}

impl Throttle {
    pub fn new(group: Arc<Group>, explicit: bool) -> Throttle {
        Throttle { group, explicit }
    }
}

impl Filter for Throttle {
    fn driver(&self) -> Option<&'static str> {
        self.explicit.then_some("throttle")
    }
    fn read(&self, below: &NodeRef, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.group.admit(false, buf.len() as u64);
        below.read(offset, buf)
    }
    fn write(&self, below: &NodeRef, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.group.admit(true, buf.len() as u64);
        below.write(offset, buf)
    }
    fn write_zeroes(&self, below: &NodeRef, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.group.admit(true, len);
        below.write_zeroes(offset, len, unmap)
    }
    fn discard(&self, below: &NodeRef, offset: u64, len: u64) -> io::Result<()> {
        self.group.admit(true, len);
        below.discard(offset, len)
    }
    fn write_compressed(&self, below: &NodeRef, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.group.admit(true, buf.len() as u64);
        below.write_compressed(offset, buf)
    }
    fn passes_packed(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> Result<Limits> {
        let mut o = Options::parse(text, None).unwrap();
        let limits = Limits::take(&mut o, |key, old| vec![key.to_owned(), old.to_owned()])?;
        assert_eq!(o.first_key(), None);
        Ok(limits.unwrap())
    }

    /// Operations of `bytes` that start within `seconds` of virtual time.
    fn count(limits: &Limits, seconds: f64, write: bool, bytes: u64) -> u64 {
        let mut buckets = Buckets::default();
        let (mut now, mut done) = (0.0, 0);
        while now < seconds {
            match buckets.start(limits, now, write, bytes) {
                None => done += 1,
                Some(wait) => now += wait,
            }
        }
        done
    }

    #[test]
    fn rates_are_kept() {
        let l = limits("iops-total=100").unwrap();
        let n = count(&l, 10.0, false, 4096);
        assert!((1000..=1012).contains(&n), "{n}");
        let l = limits("bps-write=1M").unwrap();
        let n = count(&l, 4.0, true, 65536);
        assert!((64..=68).contains(&n), "{n}");
        // The other direction is free.
        let mut b = Buckets::default();
        (0..1000).for_each(|_| assert!(b.start(&l, 0.0, false, 65536).is_none()));
    }

    #[test]
    fn bursts_last_as_long_as_they_may() {
        let l = limits("iops=100,iops_max=1000,iops_max_length=3").unwrap();
        let n = count(&l, 3.0, true, 512);
        assert!((2900..=3200).contains(&n), "{n} in the burst");
        let n = count(&l, 33.0, true, 512);
        assert!((6000..=6400).contains(&n), "{n} with what follows it");
    }

    #[test]
    fn long_operations_count_as_several() {
        let l = limits("iops-total=100,iops-size=4096").unwrap();
        let n = count(&l, 10.0, false, 16384);
        assert!((250..=256).contains(&n), "{n}");
    }

    #[test]
    fn contradictions_are_refused() {
        for bad in [
            "iops-total=1,iops-read=1",
            "bps-total-max=5",
            "iops-total=10,iops-total-max=5",
            "iops=10,iops_max_length=5",
            "bps-total=2000T",
        ] {
            assert!(limits(bad).is_err(), "{bad}");
        }
    }
}
