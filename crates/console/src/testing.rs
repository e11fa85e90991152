//! Front ends and helpers for tests. Waiting is bounded and ends with the event, never with a sleep.

use std::io::Read;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::port::{Event, FrontEnd, lock};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Record {
    bytes: Vec<u8>,
    events: Vec<Event>,
    /// How many bytes are taken at most; `None` is no limit.
    limit: Option<usize>,
}

/// Remembers what it is told.
#[derive(Default)]
pub(crate) struct Recorder {
    record: Mutex<Record>,
    changed: Condvar,
}

impl Recorder {
    pub fn limit(&self, limit: Option<usize>) {
        lock(&self.record).limit = limit;
    }

    fn wait(&self, what: &str, until: impl Fn(&Record) -> bool) {
        let record = lock(&self.record);
        let (record, result) = self.changed.wait_timeout_while(record, PATIENCE, |r| !until(r)).unwrap();
        let shown = String::from_utf8_lossy(&record.bytes).into_owned();
        assert!(!result.timed_out(), "waited for {what}; have {shown:?} and {:?}", record.events);
    }

    /// Waits until exactly these bytes have come since the last call, and forgets them.
    pub fn wait_bytes(&self, expected: &[u8]) {
        self.wait(&format!("{:?}", String::from_utf8_lossy(expected)), |r| r.bytes.len() >= expected.len());
        let got = std::mem::take(&mut lock(&self.record).bytes);
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    }

    /// Waits for an event, and forgets all of them.
    pub fn wait_event(&self, event: Event) {
        self.wait(&format!("{event:?}"), |r| r.events.contains(&event));
        lock(&self.record).events.clear();
    }
}

impl FrontEnd for Recorder {
    fn input(&self, bytes: &[u8]) -> usize {
        let mut record = lock(&self.record);
        let n = record.limit.map_or(bytes.len(), |limit| limit.saturating_sub(record.bytes.len()).min(bytes.len()));
        record.bytes.extend_from_slice(&bytes[..n]);
        self.changed.notify_all();
        n
    }

    fn event(&self, event: Event) {
        lock(&self.record).events.push(event);
        self.changed.notify_all();
    }
}

/// Reads exactly `expected`.
pub(crate) fn expect(from: &mut impl Read, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    from.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
}

/// A fresh directory for one test.
pub(crate) fn directory(test: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("console-{}-{test}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A pseudo-terminal: its master, and the name of its other end.
pub(crate) fn pty() -> (std::fs::File, std::path::PathBuf) {
    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    (master.into(), name.into())
}
