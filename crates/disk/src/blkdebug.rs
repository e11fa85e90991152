//! The `blkdebug` driver: passes requests on, and makes chosen ones fail.
//!
//! Reference: QEMU 10.0, docs/devel/testing/blkdebug.rst: rules `inject-error` and `set-state`, events, states.
//!
//! Not modelled: suspending requests (`suspend`, breakpoints), `take-child-perms`, `unshare-child-perms`.

use crate::node::{Extent, Node, NodeRef, Preallocation, eio};
use crate::options::Options;
use spec::error::{Error, Result};
use std::io;
use std::sync::{Mutex, PoisonError};

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

struct Rules {
    state: u64,
    inject: Vec<Inject>,
    set_state: Vec<SetState>,
}

pub struct Blkdebug {
    below: NodeRef,
    name: String,
    rules: Mutex<Rules>,
}

/// Splits `blkdebug:CONFIG:FILE`.
pub fn split_name(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("blkdebug:")?.split_once(':')
}

/// Puts the driver above a node, taking its rules from a file and from options.
pub fn open(below: NodeRef, config: Option<&str>, options: &mut Options) -> Result<Blkdebug> {
    let mut rules = Rules { state: 1, inject: Vec::new(), set_state: Vec::new() };
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
    for limit in ["align", "max-transfer", "opt-write-zero", "max-write-zero", "opt-discard", "max-discard"] {
        // Requests are passed on as they come: every limit below what they are is met by the layer below.
        options.take(limit);
    }
    let name = format!("blkdebug:{}:{}", config.unwrap_or(""), below.filename());
    Ok(Blkdebug { below, name, rules: Mutex::new(rules) })
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
            let at = KINDS.iter().position(|k| *k == kind).ok_or_else(|| Error::new(format!("Invalid iotype '{kind}'")))?;
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
    /// Fails when an armed rule fits the request.
    fn gate(&self, kind: usize, offset: u64, len: u64) -> io::Result<()> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let hit = rules.inject.iter().position(|r| {
            let place = r.sector.is_none_or(|s| s * 512 >= offset / 512 * 512 && s * 512 < offset + len);
            r.armed && r.kinds[kind] && place
        });
        let Some(i) = hit else { return Ok(()) };
        let errno = rules.inject[i].errno;
        if rules.inject[i].once {
            rules.inject.remove(i);
        }
        if errno == 0 { Err(eio()) } else { Err(io::Error::from_raw_os_error(errno)) }
    }
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
        self.gate(0, offset, buf.len() as u64)?;
        self.below.read(offset, buf)
    }
    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.gate(1, offset, buf.len() as u64)?;
        self.below.write(offset, buf)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.gate(2, offset, len)?;
        self.below.write_zeroes(offset, len, unmap)
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.gate(3, offset, len)?;
        self.below.discard(offset, len)
    }
    fn flush(&self) -> io::Result<()> {
        self.gate(4, 0, u64::MAX)?;
        self.below.flush()
    }
    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        self.gate(5, offset, len)?;
        self.below.map(offset, len)
    }
    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        self.below.resize(size, preallocation)
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
    fn children(&self) -> Vec<(String, NodeRef)> {
        vec![("image".into(), self.below.clone())]
    }
    fn close(&self) -> io::Result<()> {
        self.below.close()
    }

    /// A format says what it is about to do: rules for that are armed, and the state may change.
    fn event(&self, name: &str) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let state = rules.state;
        let fits = |event: &str, wanted: u64| event == name && (wanted == 0 || wanted == state);
        // Rules that were armed by an earlier event of another kind are over.
        for r in &mut rules.inject {
            if r.event != "none" {
                r.armed = fits(&r.event, r.state);
            }
        }
        if let Some(change) = rules.set_state.iter().find(|s| fits(&s.event, s.state)) {
            rules.state = change.new_state;
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
        let d = above_null("inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.sector=2,inject-error.0.once=on");
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
    }
}
