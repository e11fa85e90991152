//! The `file` and `host_device` drivers: bytes in a host file or block device.
//!
//! Reference: fallocate(2), lseek(2) SEEK_DATA/SEEK_HOLE, open(2) O_DIRECT; lock behaviour of QEMU 10.0.2.
//!
//! Reads and writes of data go through the engine that `aio=` names: positioned reads and writes on the calling thread,
//! or a queue of the host, where `read_many` and `write_many` have all their parts under way at once. Flushes and
//! everything else are made on the calling thread with each of them.

use crate::buffer::{self, Buffer};
use crate::engine::Aio;
use crate::lock::{self, Rights};
use crate::node::{Extent, Node, Preallocation, errno, strerror};
use host::aio::{Engine, Transfer};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use spec::error::{Error, Result};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How to open a host file.
#[derive(Clone, Copy, Debug)]
pub struct FileFlags {
    pub write: bool,
    pub direct: bool,
    /// Flush requests do nothing (`cache=unsafe`).
    pub no_flush: bool,
    pub unmap: bool,
    pub aio: Aio,
    pub locking: bool,
    pub used: Rights,
    pub denied: Rights,
}

pub struct FileNode {
    file: File,
    path: String,
    flags: FileFlags,
    device: bool,
    /// `None`: positioned reads and writes on the calling thread.
    engine: Option<&'static Engine>,
    len: AtomicU64,
    /// Cleared once the host has said that it cannot do the operation.
    can_zero_range: AtomicBool,
    can_punch: AtomicBool,
    /// Guards read-modify-write cycles of unaligned direct writes.
    direct_rmw: Mutex<()>,
    /// Changes that were made, and how many of them the last successful flush covered.
    changes: AtomicU64,
    flushed: AtomicU64,
    /// A run that the host stores: asking for each piece of it would cost more than the piece.
    stored: Mutex<Range<u64>>,
    /// The end of a stream of writes that the host was not yet asked to begin writing.
    stream: Mutex<Range<u64>>,
}

/// Alignment that direct I/O uses: one page satisfies every block device.
const DIRECT_ALIGN: u64 = buffer::ALIGN as u64;
const FIRST_BLOCK: u64 = 4096;
const ZERO_CHUNK: usize = 1 << 20;
/// A stream of writes: this much in a row, in pieces of at least that size, goes to the host's disk before the flush asks.
const STREAM: u64 = 8 << 20;
const STREAM_PIECE: u64 = 64 << 10;

impl FileNode {
    pub fn open(path: &str, flags: FileFlags) -> Result<FileNode> {
        let fail = |e: &io::Error| Error::new(format!("Could not open '{path}': {}", strerror(e)));
        let mut options = File::options();
        options.read(true).write(flags.write);
        if flags.direct {
            options.custom_flags(nix::libc::O_DIRECT);
        }
        let file = options.open(path).map_err(|e| fail(&e))?;
        let meta = file.metadata().map_err(|e| fail(&e))?;
        let device = meta.file_type().is_block_device() || meta.file_type().is_char_device();
        if meta.is_dir() {
            return Err(Error::new(format!("'file' driver requires '{path}' to be a regular file")));
        }
        if flags.locking {
            lock::acquire(&file, flags.used, flags.denied, path)?;
        }
        let len = if device { device_size(&file).map_err(|e| fail(&e))? } else { meta.len() };
        Ok(FileNode {
            file,
            path: path.to_owned(),
            flags,
            device,
            engine: flags.aio.engine(),
            len: AtomicU64::new(len),
            can_zero_range: AtomicBool::new(true),
            can_punch: AtomicBool::new(true),
            direct_rmw: Mutex::new(()),
            changes: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            stored: Mutex::new(0..0),
            stream: Mutex::new(0..0),
        })
    }

    /// Makes or truncates a host file and closes it again.
    pub fn create(path: &str, size: u64, preallocation: Preallocation) -> Result<()> {
        let fail = |e: io::Error| Error::new(format!("Could not create '{path}': {}", strerror(&e)));
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
        lock::acquire(&file, Rights::WRITE.and(Rights::RESIZE), Rights::WRITE.and(Rights::RESIZE), path)?;
        let result = Self::fill_new(&file, path, size, preallocation);
        // Said aloud: a child process that is just being started may hold the descriptor a little longer.
        lock::release(&file);
        result
    }

    fn fill_new(file: &File, path: &str, size: u64, preallocation: Preallocation) -> Result<()> {
        let fail = |e: io::Error| Error::new(format!("Could not create '{path}': {}", strerror(&e)));
        if !file.metadata().map_err(fail)?.is_file() {
            return Ok(());
        }
        file.set_len(0).map_err(fail)?;
        extend(file, 0, size, preallocation)?;
        if preallocation == Preallocation::Off {
            // A stored first block lets direct I/O find out its alignment.
            file.write_all_at(&[0; FIRST_BLOCK as usize][..size.min(FIRST_BLOCK) as usize], 0).map_err(fail)?;
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        if let Some(engine) = self.engine {
            return self.read_batch(engine, &mut [Transfer::read(offset, buf)]);
        }
        let mut at = offset;
        while !buf.is_empty() {
            match self.file.read_at(buf, at) {
                // Past the end of the file everything is zero.
                Ok(0) => {
                    buf.fill(0);
                    return Ok(());
                }
                Ok(n) => {
                    buf = &mut buf[n..];
                    at += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let done = match self.engine {
            Some(engine) => engine.run(self.file.as_fd(), &mut [Transfer::write(offset, buf)]),
            None => self.file.write_all_at(buf, offset),
        };
        // What was written before an error counts as well.
        self.changed();
        done?;
        self.len.fetch_max(offset + buf.len() as u64, Ordering::Relaxed);
        self.stream_on(offset, buf.len() as u64);
        Ok(())
    }

    /// Copying a long stream into the page cache and writing it to the disk overlap, instead of following each other at
    /// the next flush. Only a hint: what is safe is decided by `flush`.
    fn stream_on(&self, offset: u64, len: u64) {
        if len < STREAM_PIECE || self.flags.direct || self.flags.no_flush {
            return;
        }
        let ready = {
            let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
            if stream.end != offset {
                *stream = offset..offset;
            }
            stream.end += len;
            if stream.end - stream.start < STREAM {
                return;
            }
            let ready = stream.clone();
            stream.start = stream.end;
            ready
        };
        // A device without pages has nothing to begin.
        let _ = host::writeback::begin(self.file.as_fd(), ready.start, ready.end - ready.start);
    }

    fn read_batch(&self, engine: &Engine, batch: &mut [Transfer<'_>]) -> io::Result<()> {
        engine.run(self.file.as_fd(), batch)?;
        // Past the end of the file everything is zero.
        batch.iter_mut().for_each(|t| t.rest().fill(0));
        Ok(())
    }

    /// Whether the host can move these bytes as they are.
    fn is_plain(&self, offset: u64, buf: &[u8]) -> bool {
        let exact = offset.is_multiple_of(DIRECT_ALIGN) && (buf.len() as u64).is_multiple_of(DIRECT_ALIGN);
        !self.flags.direct || exact && buffer::is_aligned(buf)
    }

    fn read_direct(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = offset / DIRECT_ALIGN * DIRECT_ALIGN;
        let end = (offset + buf.len() as u64).next_multiple_of(DIRECT_ALIGN);
        if start == offset && end == offset + buf.len() as u64 && buffer::is_aligned(buf) {
            return self.read_at(offset, buf);
        }
        let mut bounce = Buffer::new((end - start) as usize);
        self.read_at(start, &mut bounce)?;
        let skip = (offset - start) as usize;
        buf.copy_from_slice(&bounce[skip..skip + buf.len()]);
        Ok(())
    }

    fn write_direct(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let start = offset / DIRECT_ALIGN * DIRECT_ALIGN;
        let end = (offset + buf.len() as u64).next_multiple_of(DIRECT_ALIGN);
        let exact = start == offset && end == offset + buf.len() as u64;
        if exact && buffer::is_aligned(buf) {
            return self.write_at(offset, buf);
        }
        let mut bounce = Buffer::new((end - start) as usize);
        let _guard = if exact { None } else { Some(self.direct_rmw.lock().unwrap_or_else(|e| e.into_inner())) };
        if !exact {
            self.read_at(start, &mut bounce)?;
        }
        let skip = (offset - start) as usize;
        bounce[skip..skip + buf.len()].copy_from_slice(buf);
        let old_len = self.size();
        self.write_at(start, &bounce)?;
        let wanted = old_len.max(offset + buf.len() as u64);
        if !self.device && end > wanted {
            self.file.set_len(wanted)?;
            self.changed();
            self.len.store(wanted, Ordering::Relaxed);
        }
        Ok(())
    }

    fn write_zero_bytes(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeroes = Buffer::new(ZERO_CHUNK.min(len as usize));
        let mut done = 0;
        while done < len {
            let n = (len - done).min(zeroes.len() as u64) as usize;
            self.write(offset + done, &zeroes[..n])?;
            done += n as u64;
        }
        Ok(())
    }

    fn fallocate(&self, mode: FallocateFlags, offset: u64, len: u64, works: &AtomicBool) -> io::Result<bool> {
        if !works.load(Ordering::Relaxed) {
            return Ok(false);
        }
        loop {
            let done = rustix::fs::fallocate(&self.file, mode, offset, len);
            self.changed();
            *self.stored() = 0..0;
            match done {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS | Errno::INVAL) => {
                    works.store(false, Ordering::Relaxed);
                    return Ok(false);
                }
                Err(e) => return Err(errno(e)),
            }
        }
    }

    fn grow_to(&self, end: u64) -> io::Result<()> {
        if !self.device && end > self.size() {
            self.file.set_len(end)?;
            self.changed();
            self.len.fetch_max(end, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Called when a change has been made, so that a flush which begins earlier does not count as one of it.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    fn stored(&self) -> MutexGuard<'_, Range<u64>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node for FileNode {
    fn driver(&self) -> &'static str {
        if self.device { "host_device" } else { "file" }
    }

    fn filename(&self) -> String {
        self.path.clone()
    }

    fn size(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    fn read_only(&self) -> bool {
        !self.flags.write
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.flags.direct { self.read_direct(offset, buf) } else { self.read_at(offset, buf) }
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if self.flags.direct { self.write_direct(offset, buf) } else { self.write_at(offset, buf) }
    }

    fn read_many(&self, parts: &mut [(u64, &mut [u8])]) -> io::Result<()> {
        match self.engine {
            Some(engine) if parts.iter().all(|(offset, buf)| self.is_plain(*offset, buf)) => {
                let mut batch: Vec<_> = parts.iter_mut().map(|(offset, buf)| Transfer::read(*offset, buf)).collect();
                self.read_batch(engine, &mut batch)
            }
            _ => parts.iter_mut().try_for_each(|(offset, buf)| self.read(*offset, buf)),
        }
    }

    fn write_many(&self, parts: &[(u64, &[u8])]) -> io::Result<()> {
        let plain = parts.iter().all(|(offset, buf)| self.is_plain(*offset, buf));
        let Some(engine) = self.engine.filter(|_| plain) else {
            return parts.iter().try_for_each(|(offset, buf)| self.write(*offset, buf));
        };
        let mut batch: Vec<_> = parts.iter().map(|(offset, buf)| Transfer::write(*offset, buf)).collect();
        let done = engine.run(self.file.as_fd(), &mut batch);
        // What was written beside an error counts as well.
        self.changed();
        for ((offset, buf), transfer) in parts.iter().zip(&batch) {
            if transfer.result().is_ok() {
                self.len.fetch_max(offset + buf.len() as u64, Ordering::Relaxed);
            }
        }
        done
    }

    fn parallel(&self) -> bool {
        self.engine.is_some()
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        if unmap && self.flags.unmap {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if self.fallocate(mode, offset, len, &self.can_punch)? {
                return self.grow_to(offset + len);
            }
        }
        if !self.device && offset >= self.size() {
            return self.grow_to(offset + len);
        }
        if self.fallocate(FallocateFlags::ZERO_RANGE, offset, len, &self.can_zero_range)? {
            self.len.fetch_max(offset + len, Ordering::Relaxed);
            return Ok(());
        }
        self.write_zero_bytes(offset, len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.flags.unmap && len > 0 {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            self.fallocate(mode, offset, len, &self.can_punch)?;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        if self.flags.no_flush || !self.flags.write {
            return Ok(());
        }
        let changes = self.changes.load(Ordering::Acquire);
        if self.flushed.load(Ordering::Acquire) == changes {
            return Ok(());
        }
        match self.file.sync_data() {
            // A character device has nothing to sync.
            Err(e) if self.device && e.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
            done => done?,
        }
        self.flushed.fetch_max(changes, Ordering::Release);
        Ok(())
    }

    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let base = Extent { len, allocated: true, offset: Some(offset), ..Extent::default() };
        let size = self.size();
        if offset >= size {
            return Ok(Extent { zero: true, ..base });
        }
        if self.device {
            return Ok(Extent { data: true, ..base });
        }
        let known = self.stored().clone();
        if known.contains(&offset) {
            return Ok(Extent { len: len.min(known.end - offset), data: true, ..base });
        }
        match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Ok(Extent { len: len.min(data - offset), zero: true, ..base }),
            Ok(_) => match rustix::fs::seek(&self.file, SeekFrom::Hole(offset)) {
                Ok(hole) if hole > offset => {
                    *self.stored() = offset..hole;
                    Ok(Extent { len: len.min(hole - offset), data: true, ..base })
                }
                _ => Ok(Extent { data: true, ..base }),
            },
            // No data up to the end of the file.
            Err(Errno::NXIO) => Ok(Extent { zero: true, ..base }),
            Err(_) => Ok(Extent { data: true, ..base }),
        }
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        if self.device {
            return if size == self.size() { Ok(()) } else { Err(Error::new("Cannot resize device files")) };
        }
        let old = self.size();
        if size > old {
            extend(&self.file, old, size, preallocation)?;
        } else if size < old {
            if preallocation != Preallocation::Off {
                return Err(Error::new("Preallocation can't be used for shrinking files"));
            }
            self.file.set_len(size).map_err(|e| Error::new(format!("Failed to resize the file: {}", strerror(&e))))?;
            *self.stored() = 0..0;
        }
        self.changed();
        self.len.store(size, Ordering::Relaxed);
        Ok(())
    }

    fn preallocate(&self, offset: u64, len: u64, how: Preallocation) -> Result<()> {
        if self.device || !matches!(how, Preallocation::Falloc | Preallocation::Full) {
            return Ok(());
        }
        extend(&self.file, offset, offset + len, how)?;
        self.len.fetch_max(offset + len, Ordering::Relaxed);
        Ok(())
    }

    fn allocated_size(&self) -> Option<u64> {
        self.file.metadata().ok().map(|m| m.blocks() * 512)
    }

    fn starts_zero(&self) -> bool {
        !self.device
    }

    fn has_cheap_zeroes(&self) -> bool {
        true
    }

    fn unmap_enabled(&self) -> bool {
        self.flags.unmap
    }

    fn release_locks(&self) {
        lock::release(&self.file);
    }
}

fn device_size(file: &File) -> io::Result<u64> {
    rustix::fs::seek(file, SeekFrom::End(0)).map_err(errno)
}

/// Grows a regular file from `old` to `size` bytes.
fn extend(file: &File, old: u64, size: u64, preallocation: Preallocation) -> Result<()> {
    let fail = |what: &str, e: io::Error| Error::new(format!("{what}: {}", strerror(&e)));
    match preallocation {
        Preallocation::Off => file.set_len(size).map_err(|e| fail("Failed to resize the file", e)),
        Preallocation::Metadata => Err(Error::new("Unsupported preallocation mode 'metadata'")),
        Preallocation::Falloc => {
            if size == old {
                return Ok(());
            }
            rustix::fs::fallocate(file, FallocateFlags::empty(), old, size - old)
                .map_err(|e| fail("Could not preallocate data for the new file", errno(e)))
        }
        Preallocation::Full => {
            let zeroes = Buffer::new(ZERO_CHUNK);
            let mut at = old;
            while at < size {
                let n = (size - at).min(ZERO_CHUNK as u64) as usize;
                file.write_all_at(&zeroes[..n], at).map_err(|e| fail("Could not write zeros for preallocation", e))?;
                at += n as u64;
            }
            file.sync_data().map_err(|e| fail("Could not flush file to disk", e))
        }
    }
}

impl Drop for FileNode {
    fn drop(&mut self) {
        lock::release(&self.file);
    }
}
