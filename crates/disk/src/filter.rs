//! Nodes that stand above another node and change how requests pass: the shared part of all of them.
//!
//! Reference: QEMU's block filters and the node options `detect-zeroes`, `copy-on-read`, `discard` and `throttling.…`.
//!
//! Module map: `throttle` limits, `compress`, `copy_on_read`, `zeroes` (zero detection and refused discards), `track` (what jobs put
//! above a disk that is written meanwhile), `slot` (a place in a running graph whose node can be exchanged).

pub mod compress;
pub mod copy_on_read;
pub mod slot;
pub mod throttle;
pub mod track;
pub mod zeroes;

use crate::node::{CheckReport, Extent, Node, NodeInfo, NodeRef, Preallocation, Repair, Snapshots};
use crate::options::Options;
use spec::error::{Error, Result};
use std::io;
use std::sync::Arc;

/// What a filter changes; everything else passes through.
pub trait Filter: Send + Sync {
    /// The name of an explicit node; `None` for what an option of the node below switches on.
    fn driver(&self) -> Option<&'static str> {
        None
    }
    fn read(&self, below: &NodeRef, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        below.read(offset, buf)
    }
    fn write(&self, below: &NodeRef, offset: u64, buf: &[u8]) -> io::Result<()> {
        below.write(offset, buf)
    }
    fn write_zeroes(&self, below: &NodeRef, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        below.write_zeroes(offset, len, unmap)
    }
    fn discard(&self, below: &NodeRef, offset: u64, len: u64) -> io::Result<()> {
        below.discard(offset, len)
    }
    fn write_compressed(&self, below: &NodeRef, offset: u64, buf: &[u8]) -> io::Result<()> {
        below.write_compressed(offset, buf)
    }
    /// False hides the format's packing from callers, so that all data passes the filter.
    fn passes_packed(&self) -> bool {
        true
    }
}

pub struct Filtered<F: Filter> {
    below: NodeRef,
    pub filter: F,
}

impl<F: Filter> Filtered<F> {
    pub fn new(below: NodeRef, filter: F) -> Filtered<F> {
        Filtered { below, filter }
    }
}

/// Puts above a node what its options ask for.
pub fn decorate(mut node: NodeRef, options: &mut Options, unmap: bool) -> Result<NodeRef> {
    let discard_off = matches!(options.get("discard"), Some("ignore" | "off"));
    options.take("discard");
    match options.take("detect-zeroes").as_deref() {
        None | Some("off") => {}
        Some("on") => node = Arc::new(Filtered::new(node, zeroes::DetectZeroes { unmap: false })),
        Some("unmap") if unmap => node = Arc::new(Filtered::new(node, zeroes::DetectZeroes { unmap: true })),
        Some("unmap") => {
            return Err(Error::new(
                "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
            ));
        }
        Some(other) => return Err(Error::new(format!("Parameter 'detect-zeroes' does not accept value '{other}'"))),
    }
    if discard_off {
        node = Arc::new(Filtered::new(node, zeroes::IgnoreDiscard));
    }
    if options.take_bool("copy-on-read")?.unwrap_or(false) {
        if node.read_only() {
            return Err(Error::new("Can't use copy-on-read on read-only device"));
        }
        node = Arc::new(Filtered::new(node, copy_on_read::CopyOnRead::new(None)));
    }
    if let Some(group) = throttle::take_group(options)? {
        node = Arc::new(Filtered::new(node, throttle::Throttle::new(group, false)));
    }
    Ok(node)
}

impl<F: Filter> Node for Filtered<F> {
    fn driver(&self) -> &'static str {
        self.filter.driver().unwrap_or_else(|| self.below.driver())
    }
    fn filename(&self) -> String {
        self.below.filename()
    }
    fn size(&self) -> u64 {
        self.below.size()
    }
    fn read_only(&self) -> bool {
        self.below.read_only()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.filter.read(&self.below, offset, buf)
    }
    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.filter.write(&self.below, offset, buf)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.filter.write_zeroes(&self.below, offset, len, unmap)
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.filter.discard(&self.below, offset, len)
    }
    fn flush(&self) -> io::Result<()> {
        self.below.flush()
    }
    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        self.below.map(offset, len)
    }
    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        self.below.resize(size, preallocation)
    }
    fn write_compressed(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.filter.write_compressed(&self.below, offset, buf)
    }
    fn pack(&self, cluster: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if self.filter.passes_packed() { self.below.pack(cluster) } else { Ok(None) }
    }
    fn write_packed(&self, offset: u64, packed: &[u8]) -> io::Result<()> {
        self.below.write_packed(offset, packed)
    }
    fn can_compress(&self) -> bool {
        self.below.can_compress()
    }
    fn needs_compression(&self) -> bool {
        self.below.needs_compression()
    }
    fn has_cheap_zeroes(&self) -> bool {
        self.below.has_cheap_zeroes()
    }
    fn starts_zero(&self) -> bool {
        self.below.starts_zero()
    }
    fn allocated_size(&self) -> Option<u64> {
        self.below.allocated_size()
    }
    fn discard_unit(&self) -> u64 {
        self.below.discard_unit()
    }
    fn request_unit(&self) -> u64 {
        self.below.request_unit()
    }
    fn copy_unit(&self) -> u64 {
        self.below.copy_unit()
    }
    fn as_blkdebug(&self) -> Option<&crate::blkdebug::Blkdebug> {
        self.below.as_blkdebug()
    }
    fn info(&self) -> Result<NodeInfo> {
        if self.filter.driver().is_some() { Ok(NodeInfo::default()) } else { self.below.info() }
    }
    fn children(&self) -> Vec<(String, NodeRef)> {
        if self.filter.driver().is_some() { vec![("file".into(), self.below.clone())] } else { self.below.children() }
    }
    fn backing(&self) -> Option<NodeRef> {
        self.below.backing()
    }
    fn set_backing(&self, backing: Option<NodeRef>) {
        self.below.set_backing(backing);
    }
    fn change_backing_file(&self, file: Option<&str>, format: Option<&str>) -> Result<()> {
        self.below.change_backing_file(file, format)
    }
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.below.snapshots()
    }
    fn as_qcow2(&self) -> Option<&crate::qcow2::Qcow2> {
        self.below.as_qcow2()
    }
    fn as_luks(&self) -> Option<&crate::luks::Luks> {
        self.below.as_luks()
    }
    fn check(&self, repair: Repair) -> Option<io::Result<CheckReport>> {
        self.below.check(repair)
    }
    fn close(&self) -> io::Result<()> {
        self.below.close()
    }
    fn event(&self, name: &str) {
        self.below.event(name);
    }
    fn release_locks(&self) {
        self.below.release_locks();
    }
    fn unmap_enabled(&self) -> bool {
        self.below.unmap_enabled()
    }
}
