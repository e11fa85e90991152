//! The `blkdebug` driver: passes requests on, and makes chosen ones fail.
//!
//! Reference: QEMU 10.0, docs/devel/testing/blkdebug.rst: rules `inject-error` and `set-state`, events, states.
//!
//! Not modelled: `take-child-perms`, `unshare-child-perms`. Of the limits `align` and `opt-write-zero` have an
//! effect: requests that are not aligned are made whole here. The others only split requests, which nobody above can see.

mod aligned;

use crate::node::{Extent, Node, NodeInfo, NodeRef, Preallocation, Snapshots, eio, errno};
use crate::options::Options;
use aligned::Ranges;
use rustix::io::Errno;
use spec::error::{Error, Result};
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Kinds of request that a rule may be limited to.
const KINDS: [&str; 6] = ["read", "write", "write-zeroes", "discard", "flush", "block-status"];
/// Without a kind, a rule is about these.
const DEFAULT_KINDS: [bool; 6] = [true, true, true, true, true, false];

#[derive(Clone, Debug)]
struct Inject {
    event: String,
    /// Zero is any state.
    state: u64,
    errno: i32,
    sector: Option<u64>,
    once: bool,
    kinds: [bool; 6],
    /// The event has happened; the next fitting request fails.
    armed: bool,
}

#[derive(Clone, Debug)]
struct SetState {
    event: String,
    state: u64,
    new_state: u64,
}

/// The next request that reaches the event stops there.
struct Breakpoint {
    event: String,
    tag: String,
}

/// A request that has stopped and waits.
struct Stopped {
    number: u64,
    tag: String,
}

#[derive(Default)]
struct Rules {
    state: u64,
    inject: Vec<Inject>,
    set_state: Vec<SetState>,
    breakpoints: Vec<Breakpoint>,
    stopped: Vec<Stopped>,
    /// Requests that have stopped so far.
    stops: u64,
}

pub struct Blkdebug {
    below: NodeRef,
    name: String,
    rules: Mutex<Rules>,
    /// Somebody has stopped or may go on.
    changed: Condvar,
    /// Unit of every request to the node below.
    align: u64,
    /// Unit of requests that write zeroes; parts of it are written as data.
    zero_unit: u64,
    ranges: Ranges,
}

/// What a breakpoint may wait for.
const EVENTS: &[&str] = &[
    "l1_update",
    "l1_grow_alloc_table",
    "l1_grow_write_table",
    "l1_grow_activate_table",
    "l2_load",
    "l2_update",
    "l2_update_compressed",
    "l2_alloc_cow_read",
    "l2_alloc_write",
    "read_aio",
    "read_backing_aio",
    "read_compressed",
    "write_aio",
    "write_compressed",
    "vmstate_load",
    "vmstate_save",
    "cow_read",
    "cow_write",
    "reftable_load",
    "reftable_grow",
    "reftable_update",
    "refblock_load",
    "refblock_update",
    "refblock_update_part",
    "refblock_alloc",
    "refblock_alloc_hookup",
    "refblock_alloc_write",
    "refblock_alloc_write_blocks",
    "refblock_alloc_write_table",
    "refblock_alloc_switch_table",
    "cluster_alloc",
    "cluster_alloc_bytes",
    "cluster_free",
    "flush_to_os",
    "flush_to_disk",
    "pwritev_rmw_head",
    "pwritev_rmw_after_head",
    "pwritev_rmw_tail",
    "pwritev_rmw_after_tail",
    "pwritev",
    "pwritev_zero",
    "pwritev_done",
    "empty_image_prepare",
    "l1_shrink_write_table",
    "l1_shrink_free_l2_clusters",
    "cor_write",
    "cluster_alloc_space",
    "none",
];

/// Splits `blkdebug:CONFIG:FILE`.
pub fn split_name(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("blkdebug:")?.split_once(':')
}

/// Puts the driver above a node, taking its rules from a file and from options.
pub fn open(below: NodeRef, config: Option<&str>, options: &mut Options) -> Result<Blkdebug> {
    let mut rules = Rules { state: 1, ..Rules::default() };
    if let Some(path) = config.filter(|c| !c.is_empty()) {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::new(format!("Could not read blkdebug config file: {}", crate::node::strerror(&e))))?;
        read_config(&text, &mut rules)?;
    }
    for i in 0.. {
        let mut rule = options.take_below(&format!("inject-error.{i}"));
        if rule.is_empty() {
            break;
        }
        rules.inject.push(inject(&mut rule)?);
    }
    for i in 0.. {
        let mut rule = options.take_below(&format!("set-state.{i}"));
        if rule.is_empty() {
            break;
        }
        rules.set_state.push(set_state(&mut rule)?);
    }
    let (align, zero_unit) = limits(options)?;
    let name = format!("blkdebug:{}:{}", config.unwrap_or(""), below.filename());
    let ranges = Ranges::default();
    Ok(Blkdebug { below, name, rules: Mutex::new(rules), changed: Condvar::new(), align, zero_unit, ranges })
}

/// Checks the limits against each other; returns the units of all requests and of zeroes.
fn limits(options: &mut Options) -> Result<(u64, u64)> {
    let wrong = |name: &str, value: u64| Error::new(format!("Cannot meet constraints with {name} {value}"));
    let align = options.take_size("align")?.unwrap_or(1).max(1);
    if align >= 1 << 31 || !align.is_power_of_two() {
        return Err(wrong("align", align));
    }
    let mut take = |name: &str| options.take_size(name).map(|v| v.unwrap_or(0));
    let (transfer, zero, most_zero) = (take("max-transfer")?, take("opt-write-zero")?, take("max-write-zero")?);
    let (discard, most_discard) = (take("opt-discard")?, take("max-discard")?);
    let rows = [
        ("max-transfer", transfer, align),
        ("opt-write-zero", zero, align),
        ("max-write-zero", most_zero, align.max(zero)),
        ("opt-discard", discard, align),
        ("max-discard", most_discard, align.max(discard)),
    ];
    for (name, value, unit) in rows {
        if value >= 1 << 31 || value % unit != 0 {
            return Err(wrong(name, value));
        }
    }
    Ok((align, align.max(zero)))
}

/// The file: sections `[inject-error]` and `[set-state]` with `key = "value"` lines.
fn read_config(text: &str, rules: &mut Rules) -> Result<()> {
    let mut section = String::new();
    let mut values = Options::new();
    for line in text.lines().map(str::trim).chain(["[end]"]) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            match section.as_str() {
                "inject-error" => rules.inject.push(inject(&mut values)?),
                "set-state" => rules.set_state.push(set_state(&mut values)?),
                _ => {}
            }
            section = name.to_owned();
            values = Options::new();
        } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            values.set(key.trim(), value.trim().trim_matches('"'));
        }
    }
    Ok(())
}

fn inject(o: &mut Options) -> Result<Inject> {
    let event = o.take("event").ok_or_else(|| Error::new("Missing event name for rule"))?;
    let kinds = match o.take("iotype") {
        None => DEFAULT_KINDS,
        Some(kind) => {
            let at =
                KINDS.iter().position(|k| *k == kind).ok_or_else(|| Error::new(format!("Invalid iotype '{kind}'")))?;
            std::array::from_fn(|i| i == at)
        }
    };
    let errno = o.take_number("errno")?.unwrap_or(5) as i32;
    let sector = o.take("sector").and_then(|s| s.parse::<u64>().ok());
    let once = o.take_bool("once")?.unwrap_or(false);
    o.take_bool("immediately")?;
    let state = o.take_number("state")?.unwrap_or(0);
    let armed = event == "none";
    Ok(Inject { event, state, errno, sector, once, kinds, armed })
}

fn set_state(o: &mut Options) -> Result<SetState> {
    let event = o.take("event").ok_or_else(|| Error::new("Missing event name for rule"))?;
    let state = o.take_number("state")?.unwrap_or(0);
    let new_state = o.take_number("new_state")?.ok_or_else(|| Error::new("Missing new_state for rule"))?;
    Ok(SetState { event, state, new_state })
}

impl Blkdebug {
    fn lock(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when an armed rule fits the request.
    fn gate(&self, kind: usize, offset: u64, len: u64) -> io::Result<()> {
        let mut rules = self.lock();
        let hit = rules.inject.iter().position(|r| {
            let place = r.sector.is_none_or(|s| s * 512 >= offset && s * 512 < offset + len);
            r.armed && r.kinds[kind] && place
        });
        let Some(i) = hit else { return Ok(()) };
        let errno = rules.inject[i].errno;
        if rules.inject[i].once {
            rules.inject.remove(i);
        }
        if errno == 0 { Err(eio()) } else { Err(io::Error::from_raw_os_error(errno)) }
    }

    /// The next request that comes to the event stops there until `resume`.
    pub fn add_breakpoint(&self, event: &str, tag: &str) -> io::Result<()> {
        if !EVENTS.contains(&event) {
            return Err(errno(Errno::NOENT));
        }
        self.lock().breakpoints.push(Breakpoint { event: event.to_owned(), tag: tag.to_owned() });
        Ok(())
    }

    /// Lets the oldest request with the tag go on.
    pub fn resume(&self, tag: &str) -> io::Result<()> {
        let mut rules = self.lock();
        let at = rules.stopped.iter().position(|s| s.tag == tag).ok_or_else(|| errno(Errno::NOENT))?;
        rules.stopped.remove(at);
        self.changed.notify_all();
        Ok(())
    }

    /// Forgets breakpoints with the tag and lets all its requests go on.
    pub fn remove_breakpoint(&self, tag: &str) -> io::Result<()> {
        let mut rules = self.lock();
        let before = rules.breakpoints.len() + rules.stopped.len();
        rules.breakpoints.retain(|b| b.tag != tag);
        rules.stopped.retain(|s| s.tag != tag);
        self.changed.notify_all();
        if before == rules.breakpoints.len() + rules.stopped.len() { Err(errno(Errno::NOENT)) } else { Ok(()) }
    }

    /// Waits until a request with the tag has stopped.
    pub fn wait_stopped(&self, tag: &str) {
        let mut rules = self.lock();
        while !rules.stopped.iter().any(|s| s.tag == tag) {
            rules = self.changed.wait(rules).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many requests have stopped here, ever.
    pub fn stops(&self) -> u64 {
        self.lock().stops
    }

    fn stop(&self, mut rules: MutexGuard<'_, Rules>, tag: String) {
        println!("blkdebug: Suspended request '{tag}'");
        rules.stops += 1;
        let number = rules.stops;
        rules.stopped.push(Stopped { number, tag: tag.clone() });
        self.changed.notify_all();
        while rules.stopped.iter().any(|s| s.number == number) {
            rules = self.changed.wait(rules).unwrap_or_else(PoisonError::into_inner);
        }
        println!("blkdebug: Resuming request '{tag}'");
    }
}

/// The `blkdebug` node that requests to `node` go through, if any.
pub fn find(node: &NodeRef) -> Option<NodeRef> {
    let mut at = node.clone();
    for _ in 0..crate::chain::MAX_DEPTH {
        if at.as_blkdebug().is_some() {
            return Some(at);
        }
        at = at.children().into_iter().find(|(role, _)| role == "file" || role == "image")?.1;
    }
    None
}

impl Node for Blkdebug {
    fn driver(&self) -> &'static str {
        "blkdebug"
    }
    fn filename(&self) -> String {
        self.name.clone()
    }
    fn size(&self) -> u64 {
        self.below.size()
    }
    fn read_only(&self) -> bool {
        self.below.read_only()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_aligned(offset, buf)
    }
    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.write_aligned(offset, buf)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.zero_aligned(offset, len, unmap)
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let (start, end) = (offset.next_multiple_of(self.align), (offset + len) / self.align * self.align);
        if start >= end {
            return Ok(());
        }
        self.gate(3, start, end - start)?;
        self.below.discard(start, end - start)
    }
    fn flush(&self) -> io::Result<()> {
        self.gate(4, 0, 0)?;
        self.below.flush()
    }
    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        self.map_aligned(offset, len)
    }
    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        self.below.resize(size, preallocation)
    }
    fn write_compressed(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.gate(1, offset, buf.len() as u64)?;
        self.below.write_compressed(offset, buf)
    }
    fn can_compress(&self) -> bool {
        self.below.can_compress()
    }
    fn needs_compression(&self) -> bool {
        self.below.needs_compression()
    }
    fn allocated_size(&self) -> Option<u64> {
        self.below.allocated_size()
    }
    fn starts_zero(&self) -> bool {
        self.below.starts_zero()
    }
    fn has_cheap_zeroes(&self) -> bool {
        self.below.has_cheap_zeroes()
    }
    fn discard_unit(&self) -> u64 {
        self.below.discard_unit()
    }
    fn copy_unit(&self) -> u64 {
        self.below.copy_unit()
    }
    fn info(&self) -> Result<NodeInfo> {
        Ok(NodeInfo::default())
    }
    fn children(&self) -> Vec<(String, NodeRef)> {
        vec![("image".into(), self.below.clone())]
    }
    fn backing(&self) -> Option<NodeRef> {
        self.below.backing()
    }
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.below.snapshots()
    }
    fn as_qcow2(&self) -> Option<&crate::qcow2::Qcow2> {
        self.below.as_qcow2()
    }
    fn as_blkdebug(&self) -> Option<&Blkdebug> {
        Some(self)
    }
    fn unmap_enabled(&self) -> bool {
        self.below.unmap_enabled()
    }
    fn close(&self) -> io::Result<()> {
        self.below.close()
    }

    /// A format says what it is about to do: rules for that are armed, the state may change, the request may stop.
    fn event(&self, name: &str) {
        let mut rules = self.lock();
        let state = rules.state;
        let fits = |event: &str, wanted: u64| event == name && (wanted == 0 || wanted == state);
        if rules.inject.iter().any(|r| fits(&r.event, r.state)) {
            // They take the place of those that were armed before.
            for r in &mut rules.inject {
                r.armed = fits(&r.event, r.state);
            }
        }
        if let Some(change) = rules.set_state.iter().find(|s| fits(&s.event, s.state)) {
            rules.state = change.new_state;
        }
        if let Some(at) = rules.breakpoints.iter().position(|b| b.event == name) {
            let tag = rules.breakpoints.remove(at).tag;
            self.stop(rules, tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn above_null(options: &str) -> Blkdebug {
        let null: NodeRef = Arc::new(crate::null::Null::open(&mut Options::new()).unwrap());
        open(null, None, &mut Options::parse(options, None).unwrap()).unwrap()
    }

    #[test]
    fn a_rule_fails_the_requests_it_is_about() {
        let d = above_null(
            "inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.sector=2,inject-error.0.once=on",
        );
        d.write(0, &[0; 512]).unwrap();
        d.read(1024, &mut [0; 512]).unwrap();
        assert!(d.write(0, &[0; 4096]).is_err());
        d.write(0, &[0; 4096]).unwrap();
    }

    #[test]
    fn events_arm_rules_and_change_states() {
        let d = above_null(
            "inject-error.0.event=b,inject-error.0.state=2,inject-error.0.errno=28,set-state.0.event=a,set-state.0.state=1,set-state.0.new_state=2",
        );
        d.event("b");
        d.flush().unwrap();
        d.event("a");
        d.event("b");
        assert_eq!(d.flush().unwrap_err().raw_os_error(), Some(28));
        d.event("c");
        assert!(d.flush().is_err());
    }

    #[test]
    fn a_stopped_request_waits_until_it_is_resumed() {
        let d = Arc::new(above_null("align=4096"));
        d.add_breakpoint("pwritev_rmw_after_head", "A").unwrap();
        assert!(d.add_breakpoint("no_event", "A").is_err());
        let other = d.clone();
        let request = std::thread::spawn(move || other.write(512, &[1; 512]));
        d.wait_stopped("A");
        assert!(!request.is_finished());
        assert!(d.resume("B").is_err());
        d.resume("A").unwrap();
        request.join().unwrap().unwrap();
        assert!(d.remove_breakpoint("A").is_err());
    }

    #[test]
    fn contradicting_limits_are_refused() {
        let refused = |o: &str| {
            let null: NodeRef = Arc::new(crate::null::Null::open(&mut Options::new()).unwrap());
            open(null, None, &mut Options::parse(o, None).unwrap()).err().map(|e| e.to_string())
        };
        assert_eq!(refused("align=3").as_deref(), Some("Cannot meet constraints with align 3"));
        assert_eq!(
            refused("align=4096,max-transfer=512").as_deref(),
            Some("Cannot meet constraints with max-transfer 512")
        );
        assert_eq!(refused("align=4096,opt-discard=8192,max-discard=16384"), None);
    }
}
