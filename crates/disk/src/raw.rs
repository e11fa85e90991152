//! The `raw` format: the bytes of the file are the bytes of the disk, optionally a window of them.
//!
//! Reference: recorded behaviour of QEMU 10.0.2 (`offset=`, `size=`, the guard on guessed raw images).
//!
//! Invariants: an image that was only guessed to be raw never gets a first sector that looks like another format.

use crate::node::{Extent, Node, NodeInfo, NodeRef, Preallocation, errno};
use crate::probe;
use rustix::io::Errno;
use spec::error::{Error, Result};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

pub const SECTOR: u64 = 512;

pub struct Raw {
    file: NodeRef,
    offset: u64,
    /// A fixed window size; `None` follows the file.
    window: Option<u64>,
    size: AtomicU64,
    /// The first sector must not become that of another format.
    guessed: bool,
    probed: bool,
}

impl Raw {
    pub fn new(file: NodeRef, offset: u64, window: Option<u64>, guessed: bool) -> Result<Raw> {
        let whole = file.size();
        if offset > whole {
            return Err(Error::new(format!(
                "Offset ({offset}) cannot be greater than size of the containing file ({whole})"
            )));
        }
        if let Some(w) = window
            && whole - offset < w
        {
            return Err(Error::new(format!(
                "The sum of offset ({offset}) and size ({w}) has to be smaller or equal to the actual size of the containing file ({whole})"
            )));
        }
        let size = window.unwrap_or(whole - offset).next_multiple_of(SECTOR);
        Ok(Raw { file, offset, window, size: AtomicU64::new(size), guessed, probed: false })
    }

    /// The format was guessed: requests are whole sectors.
    pub fn probed(self) -> Raw {
        Raw { probed: true, ..self }
    }

    /// Refuses a first sector that would change what the image is taken for next time.
    fn guard(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if !self.guessed || offset >= SECTOR || buf.is_empty() {
            return Ok(());
        }
        let mut sector = [0u8; SECTOR as usize];
        if offset != 0 || (buf.len() as u64) < SECTOR {
            self.file.read(self.offset, &mut sector)?;
        }
        let n = buf.len().min(sector.len() - offset as usize);
        sector[offset as usize..offset as usize + n].copy_from_slice(&buf[..n]);
        if probe::by_content(&sector, "") != "raw" { Err(errno(Errno::PERM)) } else { Ok(()) }
    }
}

impl Node for Raw {
    fn driver(&self) -> &'static str {
        "raw"
    }

    fn filename(&self) -> String {
        self.file.filename()
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn read_only(&self) -> bool {
        self.file.read_only()
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read(self.offset + offset, buf)
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.guard(offset, buf)?;
        self.file.write(self.offset + offset, buf)
    }

    fn read_many(&self, parts: &mut [(u64, &mut [u8])]) -> io::Result<()> {
        parts.iter_mut().for_each(|(offset, _)| *offset += self.offset);
        self.file.read_many(parts)
    }

    fn write_many(&self, parts: &[(u64, &[u8])]) -> io::Result<()> {
        parts.iter().try_for_each(|(offset, buf)| self.guard(*offset, buf))?;
        let there: Vec<(u64, &[u8])> = parts.iter().map(|(offset, buf)| (self.offset + offset, *buf)).collect();
        self.file.write_many(&there)
    }

    fn parallel(&self) -> bool {
        self.file.parallel()
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.file.write_zeroes(self.offset + offset, len, unmap)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.discard(self.offset + offset, len)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        self.file.map(self.offset + offset, len)
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        if self.window.is_some() {
            return Err(Error::new("Cannot resize fixed-size raw disks"));
        }
        self.file.resize(self.offset + size, preallocation)?;
        self.size.store(size.next_multiple_of(SECTOR), Ordering::Relaxed);
        Ok(())
    }

    fn allocated_size(&self) -> Option<u64> {
        self.file.allocated_size()
    }

    fn starts_zero(&self) -> bool {
        self.file.starts_zero()
    }

    fn has_cheap_zeroes(&self) -> bool {
        self.file.has_cheap_zeroes()
    }

    fn info(&self) -> Result<NodeInfo> {
        Ok(NodeInfo::default())
    }

    fn children(&self) -> Vec<(String, NodeRef)> {
        vec![("file".into(), self.file.clone())]
    }

    fn preallocate(&self, offset: u64, len: u64, how: Preallocation) -> Result<()> {
        self.file.preallocate(self.offset + offset, len, how)
    }

    fn request_unit(&self) -> u64 {
        if self.probed { SECTOR } else { 1 }
    }

    fn event(&self, name: &str) {
        self.file.event(name);
    }

    fn unmap_enabled(&self) -> bool {
        self.file.unmap_enabled()
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
