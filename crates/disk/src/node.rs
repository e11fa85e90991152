//! The node: one element of a disk graph, be it a file, an image format or a filter.
//!
//! Reference: the behaviour of QEMU's block layer as its tools show it.
//!
//! Invariants: offsets and lengths are bytes; a request that reaches past `size()` is refused by the caller-facing
//! helpers in `chain`, never by silently shortening it. Data calls return `io::Error` because the errno is a value
//! that guests, NBD clients and `qemu-io` see; everything else returns the project's sentence error.

use serde_json::Value;
use spec::error::{Error, Result};
use std::io;
use std::sync::Arc;

pub type NodeRef = Arc<dyn Node>;

/// How much of a new area is claimed from the host at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Preallocation {
    #[default]
    Off,
    Metadata,
    Falloc,
    Full,
}

impl Preallocation {
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "off" => Preallocation::Off,
            "metadata" => Preallocation::Metadata,
            "falloc" => Preallocation::Falloc,
            "full" => Preallocation::Full,
            _ => return Err(Error::new(format!("Parameter 'preallocation' does not accept value '{text}'"))),
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Preallocation::Off => "off",
            Preallocation::Metadata => "metadata",
            Preallocation::Falloc => "falloc",
            Preallocation::Full => "full",
        }
    }
}

/// What one layer knows about a run of bytes, starting at the offset that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub len: u64,
    /// The bytes are stored (they may still be zero).
    pub data: bool,
    /// The bytes read as zeroes.
    pub zero: bool,
    /// This layer decides the contents; otherwise the backing file does.
    pub allocated: bool,
    pub compressed: bool,
    /// Where the bytes are in the layer's data file, when that is one straight run.
    pub offset: Option<u64>,
    /// Which of the layer's `children` the offset is in.
    pub child: usize,
    /// The data file knows more: parts of it may be holes.
    pub recurse: bool,
}

/// What `info` prints about a node besides names and sizes.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub cluster_size: Option<u64>,
    pub encrypted: bool,
    pub dirty: bool,
    /// Backing file name as stored in the image, and its format.
    pub backing_file: Option<String>,
    pub backing_format: Option<String>,
    /// Format-specific information: type name and data in QEMU's key order.
    pub specific: Option<(&'static str, Value)>,
}

/// One internal snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub id: String,
    pub name: String,
    pub vm_state_size: u64,
    pub date_sec: u32,
    pub date_nsec: u32,
    pub vm_clock_nsec: u64,
    /// Instruction count; `None` is what the format stores as all ones.
    pub icount: Option<u64>,
    pub disk_size: u64,
}

/// What `check` found. Counters follow the names of `qemu-img check --output=json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    pub corruptions: u64,
    pub leaks: u64,
    pub check_errors: u64,
    pub corruptions_fixed: u64,
    pub leaks_fixed: u64,
    pub image_end_offset: Option<u64>,
    pub total_clusters: u64,
    pub allocated_clusters: u64,
    pub fragmented_clusters: u64,
    pub compressed_clusters: u64,
    /// One line per finding, in the order of discovery.
    pub lines: Vec<String>,
    /// The check could not go on: a host error number. The lines say why.
    pub failed: Option<i32>,
}

/// What `check` may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    pub leaks: bool,
    pub errors: bool,
}

/// Internal snapshots of a format that has them.
pub trait Snapshots {
    fn list(&self) -> Vec<SnapshotInfo>;
    fn create(&self, info: SnapshotInfo) -> Result<()>;
    fn apply(&self, id_or_name: &str) -> Result<()>;
    fn delete(&self, id_or_name: &str) -> Result<()>;
}

/// A node of the disk graph.
pub trait Node: Send + Sync {
    /// Driver name, as in `driver=`.
    fn driver(&self) -> &'static str;
    /// The name to print for this node.
    fn filename(&self) -> String;
    /// Size in bytes.
    fn size(&self) -> u64;
    fn read_only(&self) -> bool;

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()>;
    /// Reads several ranges. Where `parallel` says so they are under way at the same time, in no order.
    fn read_many(&self, parts: &mut [(u64, &mut [u8])]) -> io::Result<()> {
        parts.iter_mut().try_for_each(|(offset, buf)| self.read(*offset, buf))
    }
    /// Writes several ranges, which do not overlap. After an error any of them may have been written.
    fn write_many(&self, parts: &[(u64, &[u8])]) -> io::Result<()> {
        parts.iter().try_for_each(|(offset, buf)| self.write(*offset, buf))
    }
    /// Whether the many forms do more than one request after the other (`aio=io_uring`, `aio=native`).
    fn parallel(&self) -> bool {
        false
    }
    /// Makes the range read as zeroes; `unmap` allows giving the space back.
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
    /// Gives the range back; contents afterwards are the format's choice.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
    fn flush(&self) -> io::Result<()>;
    /// Describes a run that starts at `offset` and is at most `len` long, in this layer only.
    fn map(&self, offset: u64, len: u64) -> io::Result<Extent>;
    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()>;

    /// Claims host space for a range that holds nothing of worth; it may end behind the end of the file.
    fn preallocate(&self, _offset: u64, _len: u64, _how: Preallocation) -> Result<()> {
        Ok(())
    }

    /// Stores one cluster compressed.
    fn write_compressed(&self, _offset: u64, _buf: &[u8]) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(rustix::io::Errno::OPNOTSUPP.raw_os_error()))
    }
    /// Packs one whole cluster for `write_packed`, without touching the image: several threads can do it at once.
    /// `None` when packing does not make it smaller, or is no separate step here.
    fn pack(&self, _cluster: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }
    /// Stores what `pack` made.
    fn write_packed(&self, _offset: u64, _packed: &[u8]) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(rustix::io::Errno::OPNOTSUPP.raw_os_error()))
    }
    /// Whether `write_compressed` works.
    fn can_compress(&self) -> bool {
        false
    }
    /// Whether the format takes nothing but compressed writes of whole clusters.
    fn needs_compression(&self) -> bool {
        false
    }
    /// Whether the format can store "reads as zero" without storing zeroes.
    fn has_cheap_zeroes(&self) -> bool {
        false
    }
    /// True when a fresh image of this kind reads as zeroes everywhere.
    fn starts_zero(&self) -> bool {
        true
    }
    /// Bytes the host really stores, when it can tell.
    fn allocated_size(&self) -> Option<u64> {
        None
    }
    /// Unit that writes, discards and zeroes must be aligned to for the format to act on them.
    fn discard_unit(&self) -> u64 {
        1
    }
    /// Unit of requests to this node; others work, but what is known about parts of a unit is not told.
    fn request_unit(&self) -> u64 {
        1
    }
    /// Unit in which what a backing file holds is copied up.
    fn copy_unit(&self) -> u64 {
        1
    }
    fn info(&self) -> Result<NodeInfo> {
        Ok(NodeInfo::default())
    }
    /// Children below this node, with their role (`file`, `data-file`, …), without the backing file.
    fn children(&self) -> Vec<(String, NodeRef)> {
        Vec::new()
    }
    fn backing(&self) -> Option<NodeRef> {
        None
    }
    /// Replaces the backing node of a running graph.
    fn set_backing(&self, _backing: Option<NodeRef>) {}
    /// Changes the backing file name stored in the image.
    fn change_backing_file(&self, _file: Option<&str>, _format: Option<&str>) -> Result<()> {
        Err(Error::new("Operation not supported"))
    }
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }
    fn as_qcow2(&self) -> Option<&crate::qcow2::Qcow2> {
        None
    }
    fn as_luks(&self) -> Option<&crate::luks::Luks> {
        None
    }
    fn as_blkdebug(&self) -> Option<&crate::blkdebug::Blkdebug> {
        None
    }
    fn check(&self, _repair: Repair) -> Option<io::Result<CheckReport>> {
        None
    }
    /// Writes everything back and marks the image clean; later calls fail or do nothing.
    fn close(&self) -> io::Result<()> {
        self.flush()
    }
    /// A layer above is about to do something that fault injection may wait for.
    fn event(&self, _name: &str) {}
    /// Gives up the locks of this node's files, for a second handle of the same program.
    fn release_locks(&self) {
        for (_, child) in self.children() {
            child.release_locks();
        }
    }
    /// The file layer sets whether discards reach the host.
    fn unmap_enabled(&self) -> bool {
        false
    }
}

/// Describes a run in whole units: runs end at unit boundaries, and a unit that is partly data is data.
pub fn map_in_units(
    unit: u64,
    file_end: u64,
    offset: u64,
    len: u64,
    map: impl Fn(u64, u64) -> io::Result<Extent>,
) -> io::Result<Extent> {
    let (start, end) = (offset / unit * unit, (offset + len).next_multiple_of(unit));
    let mut found = map(start, end - start)?;
    if found.len % unit != 0 && start + found.len < file_end.next_multiple_of(unit) {
        found.len = found.len / unit * unit;
    }
    // The first unit is mixed: its parts are put together.
    let mut seen = found.len;
    while found.len < unit && start + seen < end.min(start + unit) {
        let next = map(start + seen, start + unit - seen)?;
        if seen == 0 {
            found = Extent { len: 0, ..next };
        }
        found.data |= next.data;
        found.zero &= next.zero;
        found.allocated |= next.allocated;
        found.compressed |= next.compressed;
        seen += next.len.max(1);
    }
    found.len = found.len.max(seen.min(unit));
    let skip = offset - start;
    Ok(Extent { len: found.len.saturating_sub(skip).min(len), offset: found.offset.map(|o| o + skip), ..found })
}

/// An `io::Error` from an errno.
pub fn errno(e: rustix::io::Errno) -> io::Error {
    io::Error::from_raw_os_error(e.raw_os_error())
}

/// The errno that the caller of a damaged or failing node sees.
pub fn eio() -> io::Error {
    errno(rustix::io::Errno::IO)
}

/// The host's text for an I/O error, as `strerror` prints it.
pub fn strerror(e: &io::Error) -> String {
    let text = e.to_string();
    match text.rfind(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// Whether all bytes are zero; the common case of data that is not ends in the first words.
pub fn is_zero(buf: &[u8]) -> bool {
    let (head, words, tail) = split_words(buf);
    if head.iter().any(|b| *b != 0) || tail.iter().any(|b| *b != 0) {
        return false;
    }
    words.chunks(128).all(|chunk| {
        let mut acc = 0u8;
        for b in chunk {
            acc |= *b;
        }
        acc == 0
    })
}

fn split_words(buf: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let head = buf.len().min(16);
    let (h, rest) = buf.split_at(head);
    (h, rest, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_test_sees_every_byte() {
        for len in [0usize, 1, 15, 16, 17, 127, 4096, 5000] {
            let mut buf = vec![0u8; len];
            assert!(is_zero(&buf));
            for at in [0, len / 2, len.saturating_sub(1)] {
                if at < len {
                    buf[at] = 1;
                    assert!(!is_zero(&buf), "byte {at} of {len}");
                    buf[at] = 0;
                }
            }
        }
    }
}
