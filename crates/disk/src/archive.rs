//! Formats that are only read: one node over what each format says about its tables.
//!
//! Reference: the formats' descriptions, named in each file; messages of `qemu-img` and `qemu-io` 10.0.2.
//!
//! Not modelled: writing (all six), `check`.
//!
//! Invariants: tables are read page by page when they are needed, so a header cannot ask for memory; a packed piece is at
//! most `MAX_PIECE` long, before and after unpacking.

pub mod bochs;
pub mod cloop;
pub mod dmg;
pub mod parallels;
pub mod qcow1;
pub mod qed;

use crate::node::{Extent, Node, NodeInfo, NodeRef, Preallocation, eio, errno};
use rustix::io::Errno;
use spec::error::{Error, Result};
use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError, RwLock};

/// Largest piece that is unpacked at once.
pub const MAX_PIECE: u64 = 64 << 20;

/// Where a run of the disk comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The backing file decides; without one it reads as zero.
    Absent,
    Zero,
    At(u64),
    /// Inside of a packed piece: its number, and where in it the run starts.
    Packed(u64, u64),
}

/// What a format says about its disk.
pub trait Format: Send + Sync {
    const NAME: &'static str;
    fn size(&self) -> u64;
    /// The run that starts at `offset` and is at most `len` long.
    fn locate(&self, file: &dyn Node, offset: u64, len: u64) -> io::Result<(Place, u64)>;
    fn unpack(&self, _file: &dyn Node, _piece: u64) -> io::Result<Vec<u8>> {
        Err(eio())
    }
    /// Bytes as they are in the file become those of the disk.
    fn decrypt(&self, _offset: u64, _buf: &mut [u8]) -> io::Result<()> {
        Ok(())
    }
    fn info(&self) -> NodeInfo {
        NodeInfo::default()
    }
    /// Bytes that must be read together.
    fn unit(&self) -> u64 {
        1
    }
    /// Whether `map` names places in the file.
    fn has_places(&self) -> bool {
        true
    }
}

pub struct ReadOnly<F: Format> {
    file: NodeRef,
    format: F,
    backing: RwLock<Option<NodeRef>>,
    /// The last unpacked piece.
    last: Mutex<Option<(u64, Vec<u8>)>>,
}

impl<F: Format> ReadOnly<F> {
    pub fn new(file: NodeRef, format: F, write: bool) -> Result<ReadOnly<F>> {
        if write {
            return Err(Error::new("Image is read-only"));
        }
        Ok(ReadOnly { file, format, backing: RwLock::new(None), last: Mutex::new(None) })
    }

    fn below(&self) -> Option<NodeRef> {
        self.backing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read_below(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let Some(node) = self.below() else {
            buf.fill(0);
            return Ok(());
        };
        let there = node.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        buf[there..].fill(0);
        if there == 0 { Ok(()) } else { node.read(offset, &mut buf[..there]) }
    }

    fn read_packed(&self, piece: u64, inside: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(n, _)| *n != piece) {
            *last = None;
            *last = Some((piece, self.format.unpack(self.file.as_ref(), piece)?));
        }
        let data = last.as_ref().map_or(&[][..], |(_, d)| d);
        let from = data.get(inside as usize..inside as usize + buf.len()).ok_or_else(eio)?;
        buf.copy_from_slice(from);
        Ok(())
    }
}

/// Pieces that one answer of `map` joins.
const MAX_PIECES: u32 = 1 << 16;

fn refuse<T>() -> io::Result<T> {
    Err(errno(Errno::PERM))
}

impl<F: Format> Node for ReadOnly<F> {
    fn driver(&self) -> &'static str {
        F::NAME
    }
    fn filename(&self) -> String {
        self.file.filename()
    }
    fn size(&self) -> u64 {
        self.format.size()
    }
    fn read_only(&self) -> bool {
        true
    }

    fn read(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        let unit = self.format.unit();
        if offset % unit != 0 || buf.len() as u64 % unit != 0 {
            let start = offset / unit * unit;
            let mut whole = vec![0; ((offset + buf.len() as u64).next_multiple_of(unit) - start) as usize];
            self.read(start, &mut whole)?;
            let skip = (offset - start) as usize;
            buf.copy_from_slice(&whole[skip..skip + buf.len()]);
            return Ok(());
        }
        while !buf.is_empty() {
            let (place, len) = self.format.locate(self.file.as_ref(), offset, buf.len() as u64)?;
            if len == 0 {
                return Err(eio());
            }
            let (now, rest) = buf.split_at_mut((len as usize).min(buf.len()));
            match place {
                Place::Absent => self.read_below(offset, now)?,
                Place::Zero => now.fill(0),
                Place::At(host) => {
                    self.file.read(host, now)?;
                    self.format.decrypt(offset, now)?;
                }
                Place::Packed(piece, inside) => self.read_packed(piece, inside, now)?,
            }
            offset += now.len() as u64;
            buf = rest;
        }
        Ok(())
    }

    fn write(&self, _offset: u64, _buf: &[u8]) -> io::Result<()> {
        refuse()
    }
    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> io::Result<()> {
        refuse()
    }
    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        refuse()
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let len = len.min(self.size().saturating_sub(offset));
        if !self.format.has_places() {
            return Ok(Extent { len, data: true, allocated: true, ..Extent::default() });
        }
        let (first, mut got) = self.format.locate(self.file.as_ref(), offset, len)?;
        // Neighbours of the same kind are one run, which ends sooner when it has very many pieces: sizes are the image's word.
        let mut pieces = 0;
        while got < len && pieces < MAX_PIECES {
            pieces += 1;
            let (next, more) = self.format.locate(self.file.as_ref(), offset + got, len - got)?;
            let joins = match (first, next) {
                (Place::At(a), Place::At(b)) => b == a + got,
                (Place::Packed(..), _) => false,
                (a, b) => a == b,
            };
            if !joins || more == 0 {
                break;
            }
            got += more;
        }
        let base = Extent { len: got.min(len), allocated: true, ..Extent::default() };
        Ok(match first {
            Place::Absent => Extent { allocated: false, ..base },
            Place::Zero => Extent { zero: true, ..base },
            Place::At(host) => Extent { data: true, offset: Some(host), ..base },
            Place::Packed(..) => Extent { data: true, compressed: true, ..base },
        })
    }

    fn resize(&self, _size: u64, _preallocation: Preallocation) -> Result<()> {
        Err(Error::new("Image format driver does not support resize"))
    }
    fn allocated_size(&self) -> Option<u64> {
        self.file.allocated_size()
    }
    fn info(&self) -> Result<NodeInfo> {
        Ok(self.format.info())
    }
    fn children(&self) -> Vec<(String, NodeRef)> {
        vec![("file".into(), self.file.clone())]
    }
    fn backing(&self) -> Option<NodeRef> {
        self.below()
    }
    fn set_backing(&self, backing: Option<NodeRef>) {
        *self.backing.write().unwrap_or_else(PoisonError::into_inner) = backing;
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

const PAGE: u64 = 4096;
/// Pages of tables that are kept: 4 MiB.
const PAGES: usize = 1024;

/// Numbers in tables of the file, a page at a time.
#[derive(Default)]
pub struct Pages(Mutex<HashMap<u64, Box<[u8]>>>);

impl Pages {
    /// `N` bytes that do not cross a page.
    pub fn bytes<const N: usize>(&self, file: &dyn Node, at: u64) -> io::Result<[u8; N]> {
        let mut out = [0; N];
        let page = at / PAGE;
        let inside = (at % PAGE) as usize;
        if inside + N > PAGE as usize {
            file.read(at, &mut out)?;
            return Ok(out);
        }
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !pages.contains_key(&page) {
            if pages.len() >= PAGES {
                pages.clear();
            }
            let mut bytes = vec![0; PAGE as usize].into_boxed_slice();
            file.read(page * PAGE, &mut bytes)?;
            pages.insert(page, bytes);
        }
        out.copy_from_slice(&pages[&page][inside..inside + N]);
        Ok(out)
    }
}

/// The first bytes of a file; what is missing is an error.
pub fn head<const N: usize>(file: &dyn Node, what: &str) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let read = file.read(0, &mut bytes);
    read.map_err(|e| Error::new(format!("Could not read {what} header: {}", crate::node::strerror(&e))))?;
    Ok(bytes)
}

pub fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

pub fn le64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

pub fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

pub fn be64(b: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

/// A backing file's name as the image stores it.
pub fn backing_name(file: &dyn Node, at: u64, len: u64) -> Result<String> {
    let mut name = vec![0; len as usize];
    file.read(at, &mut name).map_err(|e| Error::new(format!("Could not read backing file name: {}", crate::node::strerror(&e))))?;
    Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}

/// Unpacks a zlib stream of a known length.
fn inflate(packed: &[u8], size: usize, zlib_header: bool) -> io::Result<Vec<u8>> {
    use flate2::{Decompress, FlushDecompress};
    let mut out = vec![0; size];
    let mut z = Decompress::new(zlib_header);
    z.decompress(packed, &mut out, FlushDecompress::Finish).map_err(|_| eio())?;
    if z.total_out() as usize == size { Ok(out) } else { Err(eio()) }
}
