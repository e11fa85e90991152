//! A place in a running graph whose node can be exchanged: above it stands whoever uses the disk, below it come and go
//! snapshots, filters and the end of a mirror.
//!
//! Invariants: an exchange waits for requests that are under way and none starts meanwhile.

use crate::node::{CheckReport, Extent, Node, NodeInfo, NodeRef, Preallocation, Repair};
use spec::error::Result;
use std::io;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

pub struct Slot(RwLock<NodeRef>);

impl Slot {
    pub fn new(node: NodeRef) -> Slot {
        Slot(RwLock::new(node))
    }

    fn held(&self) -> RwLockReadGuard<'_, NodeRef> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn node(&self) -> NodeRef {
        self.held().clone()
    }

    /// Puts another node in the place; `change` gets the old one while no request is under way.
    pub fn exchange<T>(&self, change: impl FnOnce(&NodeRef) -> Result<(NodeRef, T)>) -> Result<T> {
        let mut place = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let (node, result) = change(&place)?;
        *place = node;
        Ok(result)
    }
}

impl Node for Slot {
    fn driver(&self) -> &'static str {
        self.held().driver()
    }
    fn filename(&self) -> String {
        self.held().filename()
    }
    fn size(&self) -> u64 {
        self.held().size()
    }
    fn read_only(&self) -> bool {
        self.held().read_only()
    }
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.held().read(offset, buf)
    }
    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.held().write(offset, buf)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.held().write_zeroes(offset, len, unmap)
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.held().discard(offset, len)
    }
    fn flush(&self) -> io::Result<()> {
        self.held().flush()
    }
    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        self.held().map(offset, len)
    }
    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        self.held().resize(size, preallocation)
    }
    fn write_compressed(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.held().write_compressed(offset, buf)
    }
    fn can_compress(&self) -> bool {
        self.held().can_compress()
    }
    fn needs_compression(&self) -> bool {
        self.held().needs_compression()
    }
    fn request_unit(&self) -> u64 {
        self.held().request_unit()
    }
    fn copy_unit(&self) -> u64 {
        self.held().copy_unit()
    }
    fn change_backing_file(&self, file: Option<&str>, format: Option<&str>) -> Result<()> {
        self.held().change_backing_file(file, format)
    }
    fn event(&self, name: &str) {
        self.held().event(name);
    }
    fn release_locks(&self) {
        self.held().release_locks();
    }
    fn has_cheap_zeroes(&self) -> bool {
        self.held().has_cheap_zeroes()
    }
    fn starts_zero(&self) -> bool {
        self.held().starts_zero()
    }
    fn allocated_size(&self) -> Option<u64> {
        self.held().allocated_size()
    }
    fn discard_unit(&self) -> u64 {
        self.held().discard_unit()
    }
    fn info(&self) -> Result<NodeInfo> {
        self.held().info()
    }
    fn children(&self) -> Vec<(String, NodeRef)> {
        self.held().children()
    }
    fn backing(&self) -> Option<NodeRef> {
        self.held().backing()
    }
    fn set_backing(&self, backing: Option<NodeRef>) {
        self.held().set_backing(backing);
    }
    fn check(&self, repair: Repair) -> Option<io::Result<CheckReport>> {
        self.held().check(repair)
    }
    fn close(&self) -> io::Result<()> {
        self.held().close()
    }
    fn unmap_enabled(&self) -> bool {
        self.held().unmap_enabled()
    }
}
