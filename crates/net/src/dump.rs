//! `-object filter-dump`: a copy of all frames in a pcap file, between a card and its back end.
//!
//! Reference: the pcap file format (draft-ietf-opsawg-pcap), link type Ethernet.
//! Not modelled: changing `status` later. Frames with offloads are written as they travel: large, and with
//! the checksum still to be computed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use spec::error::{Context, Error, Result};

use crate::backend::{Accepts, Backend, Guest, Nanos, Offload, Transmit};
use crate::options::{self, Row, rows};

const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;
/// Bytes kept of each frame unless `maxlen` says otherwise.
const DEFAULT_LENGTH: u32 = 65536;

/// Which frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Queue {
    #[default]
    All,
    /// To the back end.
    Rx,
    /// From the back end.
    Tx,
}

/// The options of `-object filter-dump`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DumpOptions {
    pub id: String,
    pub netdev: String,
    file: Option<PathBuf>,
    maxlen: Option<u32>,
    queue: Queue,
    off: bool,
    position: Position,
    before: bool,
}

/// Where among the filters of a back end. A copy is the same in all places.
#[derive(Clone, Debug, Default, PartialEq)]
enum Position {
    Head,
    #[default]
    Tail,
    Of(String),
}

const ROWS: &[Row<DumpOptions>] = rows! {
    "id" "name of the object" |o, v| o.id = v.into();
    "netdev" "the back end to listen at" |o, v| o.netdev = v.into();
    "file" "where the frames go" |o, v| o.file = Some(v.into());
    "queue" "all|rx|tx: both directions, or those to or from the back end" |o, v| o.queue = queue(v)?;
    "status" "on|off" |o, v| o.off = is_off(v)?;
    "maxlen" "bytes kept of a frame" |o, v| o.maxlen = Some(length(v)?);
    "position" "head|tail|id=<id>: where among other filters" |o, v| o.position = position(v)?;
    "insert" "before|behind: of another filter" |o, v| o.before = is_before(v)?;
};

fn queue(value: &str) -> Result<Queue> {
    match value {
        "all" => Ok(Queue::All),
        "rx" => Ok(Queue::Rx),
        "tx" => Ok(Queue::Tx),
        _ => Err(Error::new(format!("Parameter 'queue' does not accept value '{value}'"))),
    }
}

fn is_off(value: &str) -> Result<bool> {
    match value {
        "on" | "off" => Ok(value == "off"),
        _ => Err(Error::new("Invalid value for netfilter status, should be 'on' or 'off'")),
    }
}

fn length(value: &str) -> Result<u32> {
    match options::number("maxlen", value)? {
        0 => Err(Error::new("Property 'filter-dump.maxlen' doesn't take value '0'")),
        length => Ok(length),
    }
}

fn position(value: &str) -> Result<Position> {
    match (value, value.strip_prefix("id=")) {
        ("head", _) => Ok(Position::Head),
        ("tail", _) => Ok(Position::Tail),
        (_, Some(id)) => Ok(Position::Of(id.into())),
        _ => Err(Error::new("Parameter 'position' expects 'head', 'tail' or 'id=<id>'")),
    }
}

fn is_before(value: &str) -> Result<bool> {
    match value {
        "before" | "behind" => Ok(value == "before"),
        _ => Err(Error::new(format!("Parameter 'insert' does not accept value '{value}'"))),
    }
}

impl DumpOptions {
    /// Parses what follows `filter-dump,`.
    pub fn parse(text: &str) -> Result<DumpOptions> {
        let mut parsed = DumpOptions::default();
        options::apply(ROWS, &mut parsed, &options::split(text))?;
        let file = parsed.file.is_none();
        for (name, missing) in [("id", parsed.id.is_empty()), ("netdev", parsed.netdev.is_empty()), ("file", file)] {
            if missing {
                return Err(Error::new(format!("Parameter '{name}' is missing")));
            }
        }
        Ok(parsed)
    }

    /// Puts the filter between a card and `inner`.
    pub fn open(&self, inner: Box<dyn Backend>) -> Result<Dump> {
        let file = self.file.as_ref().ok_or_else(|| Error::new("Parameter 'file' is missing"))?;
        let mut dump = Dump::new(inner, file, self.maxlen.unwrap_or(DEFAULT_LENGTH))?;
        dump.sent = !self.off && self.queue != Queue::Tx;
        dump.received = !self.off && self.queue != Queue::Rx;
        Ok(dump)
    }

    /// The filter that this one is to be put beside.
    pub fn beside(&self) -> Option<&str> {
        if let Position::Of(id) = &self.position { Some(id) } else { None }
    }

    /// The line of `info network`.
    pub fn summary(&self) -> String {
        let file = self.file.as_ref().map_or(String::new(), |file| file.display().to_string());
        let position = match &self.position {
            Position::Head => "head".into(),
            Position::Tail => "tail".into(),
            Position::Of(id) => format!("id={id}"),
        };
        let queue = format!("{:?}", self.queue).to_lowercase();
        let (status, insert) = (if self.off { "off" } else { "on" }, if self.before { "before" } else { "behind" });
        let length = self.maxlen.unwrap_or(DEFAULT_LENGTH);
        let netdev = &self.netdev;
        format!(
            "{}: type=filter-dump,file={file},maxlen={length},position={position},status={status},insert={insert},netdev={netdev},queue={queue}",
            self.id
        )
    }
}

struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
    length: u32,
    /// The wall clock at `Nanos(0)`, found at the first frame.
    origin: Option<Duration>,
    failed: bool,
}

/// A back end with a recorder in front of it.
pub struct Dump {
    inner: Box<dyn Backend>,
    writer: Writer,
    /// Frames that the guest sends are recorded.
    sent: bool,
    /// Frames that the guest gets are recorded.
    received: bool,
}

impl Dump {
    pub fn new(inner: Box<dyn Backend>, path: &Path, length: u32) -> Result<Dump> {
        let sentence = || format!("net dump: can't open {}", path.display());
        let mut file = BufWriter::new(File::create(path).context(sentence)?);
        let mut header = Vec::new();
        header.extend(MAGIC.to_le_bytes());
        header.extend(2u16.to_le_bytes());
        header.extend(4u16.to_le_bytes());
        header.extend([0; 8]);
        header.extend(length.to_le_bytes());
        header.extend(ETHERNET.to_le_bytes());
        file.write_all(&header).and_then(|()| file.flush()).context(sentence)?;
        let writer = Writer { file, path: path.into(), length, origin: None, failed: false };
        Ok(Dump { inner, writer, sent: true, received: true })
    }
}

impl Writer {
    fn record(&mut self, now: Nanos, parts: &[&[u8]]) {
        if self.failed {
            return;
        }
        let origin = *self.origin.get_or_insert_with(|| {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            wall.saturating_sub(now.since(Nanos(0)))
        });
        let time = origin + now.since(Nanos(0));
        let total: usize = parts.iter().map(|p| p.len()).sum();
        let mut left = total.min(self.length as usize);
        let mut record = Vec::with_capacity(16 + left);
        record.extend((time.as_secs() as u32).to_le_bytes());
        record.extend(time.subsec_micros().to_le_bytes());
        record.extend((left as u32).to_le_bytes());
        record.extend((total as u32).to_le_bytes());
        for part in parts {
            let n = left.min(part.len());
            record.extend(&part[..n]);
            left -= n;
        }
        if let Err(error) = self.file.write_all(&record) {
            log::warn!("could not write '{}': {error}; the dump ends here", self.path.display());
            self.failed = true;
        }
    }
}

/// The guest as the inner back end sees it.
struct Tap<'a> {
    guest: &'a mut dyn Guest,
    writer: &'a mut Writer,
    now: Nanos,
}

impl Guest for Tap<'_> {
    fn ready(&mut self) -> bool {
        self.guest.ready()
    }

    fn deliver(&mut self, parts: &[&[u8]], offload: Offload) -> bool {
        let taken = self.guest.deliver(parts, offload);
        if taken {
            self.writer.record(self.now, parts);
        }
        taken
    }
}

impl Backend for Dump {
    fn transmit(&mut self, now: Nanos, frame: &[u8], offload: Offload) -> Transmit {
        let taken = self.inner.transmit(now, frame, offload);
        if taken == Transmit::Taken && self.sent {
            self.writer.record(now, &[frame]);
        }
        taken
    }

    fn poll(&mut self, now: Nanos, guest: &mut dyn Guest) {
        if self.received {
            self.inner.poll(now, &mut Tap { guest, writer: &mut self.writer, now });
        } else {
            self.inner.poll(now, guest);
        }
        // Whoever looks at the file sees everything up to the last poll.
        if !self.writer.failed {
            self.writer.failed = self.writer.file.flush().is_err();
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }

    fn deadline(&self) -> Option<Nanos> {
        self.inner.deadline()
    }

    fn takes_offloads(&self) -> bool {
        self.inner.takes_offloads()
    }

    fn set_accepts(&mut self, accepts: Accepts) {
        self.inner.set_accepts(accepts);
    }

    fn summary(&self) -> String {
        self.inner.summary()
    }

    fn usernet(&self) -> Option<String> {
        self.inner.usernet()
    }

    fn hostfwd_add(&mut self, rule: &str) -> Result<()> {
        self.inner.hostfwd_add(rule)
    }

    fn hostfwd_remove(&mut self, rule: &str) -> Result<bool> {
        self.inner.hostfwd_remove(rule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Frames, Loopback, Taker};

    #[test]
    fn queues_and_status_decide_what_is_recorded() {
        let path = std::env::temp_dir().join(format!("net-dump-{}", std::process::id()));
        let recorded = |options: &str| {
            let text = format!("id=d,netdev=n,file={},maxlen=4{options}", path.display());
            let frames = Frames::default();
            let mut dump = DumpOptions::parse(&text).unwrap().open(Box::new(Loopback::with(&frames))).unwrap();
            assert_eq!(dump.transmit(Nanos(0), &[1; 60], Offload::default()), Transmit::Taken);
            // What comes back is to be told apart from what went out.
            frames.lock().unwrap()[0].fill(254);
            dump.poll(Nanos(0), &mut Taker::new(1));
            drop(dump);
            let bytes = std::fs::read(&path).unwrap();
            bytes[24..].chunks(20).map(|record| (record[12], record[16])).collect::<Vec<_>>()
        };
        let (sent, received) = ((60, 1), (60, 254));
        assert_eq!(recorded(""), [sent, received]);
        assert_eq!(recorded(",queue=all,position=head,insert=before"), [sent, received]);
        assert_eq!(recorded(",queue=rx"), [sent]);
        assert_eq!(recorded(",queue=tx"), [received]);
        assert_eq!(recorded(",status=off"), []);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn options_are_shown_and_checked() {
        let parse = |text: &str| DumpOptions::parse(&format!("id=d,netdev=n,file=/f,{text}"));
        let shown = |text: &str| parse(text).unwrap().summary();
        assert_eq!(
            shown(""),
            "d: type=filter-dump,file=/f,maxlen=65536,position=tail,status=on,insert=behind,netdev=n,queue=all"
        );
        let text = "queue=rx,maxlen=9,position=id=x,insert=before,status=off";
        assert_eq!(
            shown(text),
            "d: type=filter-dump,file=/f,maxlen=9,position=id=x,status=off,insert=before,netdev=n,queue=rx"
        );
        for (text, expected) in [
            ("queue=x", "Parameter 'queue' does not accept value 'x'"),
            ("status=x", "Invalid value for netfilter status, should be 'on' or 'off'"),
            ("maxlen=0", "Property 'filter-dump.maxlen' doesn't take value '0'"),
            ("maxlen=64k", "Parameter 'maxlen' expects a uint64 value"),
            ("position=x", "Parameter 'position' expects 'head', 'tail' or 'id=<id>'"),
            ("insert=x", "Parameter 'insert' does not accept value 'x'"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        assert_eq!(DumpOptions::parse("id=d,netdev=n").unwrap_err().to_string(), "Parameter 'file' is missing");
    }
}
