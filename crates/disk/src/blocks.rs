//! Formats that map a disk in fixed blocks through one table: the shared reading and writing.
//!
//! Reference: the formats' own specifications, named in `vdi` and `vpc`.
//!
//! Invariants: a new block is at the end of the file, so it reads as zero until written; its data is in the file
//! before the table points to it. Table changes are made by one writer at a time; requests to blocks that exist do
//! not wait for each other.

use crate::node::{CheckReport, Extent, Node, NodeInfo, NodeRef, Preallocation, Repair, errno};
use rustix::io::Errno;
use spec::error::{Error, Result};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Absent,
    At(u64),
}

/// What a format says about its blocks.
pub trait Layout: Send {
    fn driver(&self) -> &'static str;
    fn block_size(&self) -> u64;
    fn locate(&self, block: u64) -> Place;
    /// Called before each guest write.
    fn before_write(&mut self, _file: &dyn Node) -> io::Result<()> {
        Ok(())
    }
    /// Makes room for a block at the end of the file and returns where its data goes.
    fn allocate(&mut self, file: &dyn Node, block: u64) -> io::Result<u64>;
    /// Points the table at the block.
    fn link(&mut self, file: &dyn Node, block: u64, place: u64) -> io::Result<()>;
    /// Writes cached tables.
    fn flush(&mut self, _file: &dyn Node) -> io::Result<()> {
        Ok(())
    }
    fn check(&mut self, _file: &dyn Node) -> Option<io::Result<CheckReport>> {
        None
    }
    /// Whether `check` can be asked to repair.
    fn can_repair(&self) -> bool {
        false
    }
    /// Blocks may have holes that the file knows about.
    fn recurse(&self) -> bool {
        false
    }
}

pub struct Blocks<L: Layout> {
    file: NodeRef,
    size: u64,
    write: bool,
    layout: Mutex<L>,
    driver: &'static str,
    block_size: u64,
}

impl<L: Layout> Blocks<L> {
    pub fn new(file: NodeRef, size: u64, write: bool, layout: L) -> Blocks<L> {
        let (driver, block_size) = (layout.driver(), layout.block_size());
        Blocks { file, size, write, layout: Mutex::new(layout), driver, block_size }
    }

    fn lock(&self) -> MutexGuard<'_, L> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `step` for each block of a range: block, offset inside, bytes.
    fn each(&self, offset: u64, len: u64, mut step: impl FnMut(u64, u64, u64) -> io::Result<()>) -> io::Result<()> {
        let mut at = offset;
        while at < offset + len {
            let inside = at % self.block_size;
            let n = (self.block_size - inside).min(offset + len - at);
            step(at / self.block_size, inside, n)?;
            at += n;
        }
        Ok(())
    }

    fn may_write(&self) -> io::Result<()> {
        if self.write { self.lock().before_write(self.file.as_ref()) } else { Err(errno(Errno::PERM)) }
    }
}

impl<L: Layout> Node for Blocks<L> {
    fn driver(&self) -> &'static str {
        self.driver
    }
    fn filename(&self) -> String {
        self.file.filename()
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn read_only(&self) -> bool {
        !self.write
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut rest = buf;
        self.each(offset, rest.len() as u64, |block, inside, n| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(n as usize);
            rest = later;
            let place = self.lock().locate(block);
            match place {
                Place::Absent => {
                    now.fill(0);
                    Ok(())
                }
                Place::At(host) => self.file.read(host + inside, now),
            }
        })
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.may_write()?;
        let mut done = 0;
        self.each(offset, buf.len() as u64, |block, inside, n| {
            let now = &buf[done..done + n as usize];
            done += n as usize;
            let mut layout = self.lock();
            match layout.locate(block) {
                Place::At(host) => {
                    drop(layout);
                    self.file.write(host + inside, now)
                }
                Place::Absent => {
                    let host = layout.allocate(self.file.as_ref(), block)?;
                    self.file.write(host + inside, now)?;
                    layout.link(self.file.as_ref(), block, host)
                }
            }
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        self.may_write()?;
        self.each(offset, len, |block, inside, n| {
            let place = self.lock().locate(block);
            match place {
                Place::Absent => Ok(()),
                Place::At(host) => self.file.write_zeroes(host + inside, n, false),
            }
        })
    }

    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        if self.write {
            self.lock().flush(self.file.as_ref())?;
        }
        self.file.flush()
    }

    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let layout = self.lock();
        let len = len.min(self.size.saturating_sub(offset));
        let first = offset / self.block_size;
        let start = layout.locate(first);
        let mut end = (first + 1) * self.block_size;
        while end < offset + len {
            let next = layout.locate(end / self.block_size);
            let joins = match (start, next) {
                (Place::Absent, Place::Absent) => true,
                (Place::At(a), Place::At(b)) => b == a + (end - first * self.block_size),
                _ => false,
            };
            if !joins {
                break;
            }
            end += self.block_size;
        }
        let base = Extent { len: (end - offset).min(len), allocated: true, ..Extent::default() };
        Ok(match start {
            Place::Absent => Extent { zero: true, ..base },
            Place::At(host) => Extent { data: true, offset: Some(host + offset % self.block_size), recurse: layout.recurse(), ..base },
        })
    }

    fn resize(&self, _size: u64, _preallocation: Preallocation) -> Result<()> {
        Err(Error::new("Image format driver does not support resize"))
    }

    fn allocated_size(&self) -> Option<u64> {
        self.file.allocated_size()
    }

    fn has_cheap_zeroes(&self) -> bool {
        false
    }

    fn info(&self) -> Result<NodeInfo> {
        Ok(NodeInfo { cluster_size: Some(self.block_size), ..NodeInfo::default() })
    }

    fn children(&self) -> Vec<(String, NodeRef)> {
        vec![("file".into(), self.file.clone())]
    }

    fn check(&self, repair: Repair) -> Option<io::Result<CheckReport>> {
        if repair != Repair::default() && !self.lock().can_repair() {
            return Some(Err(errno(Errno::OPNOTSUPP)));
        }
        self.lock().check(self.file.as_ref())
    }

    fn close(&self) -> io::Result<()> {
        if self.write {
            self.lock().flush(self.file.as_ref())?;
        }
        self.file.close()
    }
}

impl<L: Layout> Drop for Blocks<L> {
    fn drop(&mut self) {
        // Whoever cares about the result has called `close` before.
        let _ = self.close();
    }
}
