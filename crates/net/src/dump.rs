//! `-object filter-dump`: a copy of all frames in a pcap file, between a card and its back end.
//!
//! Reference: the pcap file format (draft-ietf-opsawg-pcap), link type Ethernet.
//! Not modelled: `status=off` at start. Frames with offloads are written as they travel: large, and with
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

/// The options of `-object filter-dump`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DumpOptions {
    pub id: String,
    pub netdev: String,
    pub file: Option<PathBuf>,
    pub maxlen: Option<u32>,
}

const ROWS: &[Row<DumpOptions>] = rows! {
    "id" "name of the object" |o, v| o.id = v.into();
    "netdev" "the back end to listen at" |o, v| o.netdev = v.into();
    "file" "where the frames go" |o, v| o.file = Some(v.into());
    "queue" "all: both directions" |_o, v| only_value("queue", v, "all")?;
    "status" "on" |_o, v| only_value("status", v, "on")?;
    "maxlen" "bytes kept of a frame" |o, v| o.maxlen = Some(options::number("maxlen", v)?);
};

/// A property of which one value is built.
fn only_value(name: &str, value: &str, built: &str) -> Result<()> {
    if value == built { Ok(()) } else { Err(Error::new(format!("filter-dump with {name}={value} is not supported"))) }
}

impl DumpOptions {
    /// Parses what follows `filter-dump,`.
    pub fn parse(text: &str) -> Result<DumpOptions> {
        let mut parsed = DumpOptions::default();
        options::apply(ROWS, &mut parsed, &options::split(text))?;
        for (name, missing) in [("id", parsed.id.is_empty()), ("netdev", parsed.netdev.is_empty())] {
            if missing {
                return Err(Error::new(format!("Parameter '{name}' is missing")));
            }
        }
        Ok(parsed)
    }

    /// Puts the filter between a card and `inner`.
    pub fn open(&self, inner: Box<dyn Backend>) -> Result<Dump> {
        let file = self.file.as_ref().ok_or_else(|| Error::new("dump filter needs 'file' property set!"))?;
        Dump::new(inner, file, self.maxlen.unwrap_or(DEFAULT_LENGTH))
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
}

impl Dump {
    pub fn new(inner: Box<dyn Backend>, path: &Path, length: u32) -> Result<Dump> {
        let sentence = || format!("could not write '{}'", path.display());
        let mut file = BufWriter::new(File::create(path).context(sentence)?);
        let mut header = Vec::new();
        header.extend(MAGIC.to_le_bytes());
        header.extend(2u16.to_le_bytes());
        header.extend(4u16.to_le_bytes());
        header.extend([0; 8]);
        header.extend(length.to_le_bytes());
        header.extend(ETHERNET.to_le_bytes());
        file.write_all(&header).and_then(|()| file.flush()).context(sentence)?;
        Ok(Dump { inner, writer: Writer { file, path: path.into(), length, origin: None, failed: false } })
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
        if taken == Transmit::Taken {
            self.writer.record(now, &[frame]);
        }
        taken
    }

    fn poll(&mut self, now: Nanos, guest: &mut dyn Guest) {
        self.inner.poll(now, &mut Tap { guest, writer: &mut self.writer, now });
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
