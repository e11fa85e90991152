//! A qcow2 image as a node of a graph.

use super::header::{self, autoclear, incompatible};
use super::meta::Kind;
use super::{Qcow2, compress};
use crate::node::{CheckReport, Extent, Node, NodeInfo, NodeRef, Preallocation, Repair, Snapshots, errno, strerror};
use rustix::io::Errno;
use spec::error::{Error, Result};
use std::io;
use std::sync::PoisonError;

impl Node for Qcow2 {
    fn driver(&self) -> &'static str {
        "qcow2"
    }

    fn filename(&self) -> String {
        self.file.filename()
    }

    fn size(&self) -> u64 {
        self.lock().header.size
    }

    fn read_only(&self) -> bool {
        !self.write
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if buf.len() as u64 > self.cluster_size && self.works_in_parallel() {
            return self.read_parts(&mut [(offset, buf)]);
        }
        self.read_guest(offset, buf)
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.may_write()?;
        self.track(offset, buf.len() as u64)?;
        if buf.len() as u64 > self.cluster_size && self.works_in_parallel() {
            return self.write_parts(&[(offset, buf)]);
        }
        self.write_guest(offset, buf)
    }

    fn read_many(&self, parts: &mut [(u64, &mut [u8])]) -> io::Result<()> {
        if self.works_in_parallel() {
            return self.read_parts(parts);
        }
        parts.iter_mut().try_for_each(|(offset, buf)| self.read_guest(*offset, buf))
    }

    fn write_many(&self, parts: &[(u64, &[u8])]) -> io::Result<()> {
        self.may_write()?;
        parts.iter().try_for_each(|(offset, buf)| self.track(*offset, buf.len() as u64))?;
        if self.works_in_parallel() {
            return self.write_parts(parts);
        }
        parts.iter().try_for_each(|(offset, buf)| self.write_guest(*offset, buf))
    }

    fn parallel(&self) -> bool {
        self.works_in_parallel()
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.may_write()?;
        self.track(offset, len)?;
        self.zero_guest(offset, len, unmap)
    }

    fn write_compressed(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.may_write()?;
        if self.seal.get().is_some() {
            return Err(errno(Errno::OPNOTSUPP));
        }
        self.track(offset, buf.len() as u64)?;
        self.write_packing(offset, buf)
    }

    fn pack(&self, cluster: &[u8]) -> io::Result<Option<Vec<u8>>> {
        if cluster.len() as u64 != self.cluster_size { Ok(None) } else { compress::pack(self.compression, cluster) }
    }

    fn write_packed(&self, offset: u64, packed: &[u8]) -> io::Result<()> {
        self.may_write()?;
        if self.data_file.is_some() || self.seal.get().is_some() || offset % self.cluster_size != 0 {
            return Err(errno(Errno::INVAL));
        }
        self.track(offset, self.cluster_size)?;
        self.store_packed(offset, packed)
    }

    fn can_compress(&self) -> bool {
        self.data_file.is_none() && self.seal.get().is_none()
    }

    fn has_cheap_zeroes(&self) -> bool {
        self.lock().header.version >= 3
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.may_write()?;
        if self.backing_node().is_some() && self.lock().header.version < 3 {
            // Version 2 cannot store "reads as zero": without its data, the backing file would show.
            return Ok(());
        }
        self.track(offset, len)?;
        self.discard_guest(offset, len, false)
    }

    fn flush(&self) -> io::Result<()> {
        if !self.write {
            return Ok(());
        }
        self.file.event("flush_to_os");
        self.write_all_back()?;
        self.file.event("flush_to_disk");
        if let Some(data) = &self.data_file {
            data.flush()?;
        }
        self.file.flush()
    }

    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let run = self.lock().lookup(offset, len)?;
        let base = Extent { len: run.len, ..Extent::default() };
        Ok(match run.kind {
            Kind::Unallocated | Kind::Hole(_) => base,
            Kind::Zero => Extent { zero: true, allocated: true, ..base },
            Kind::ZeroAllocated(host) => Extent { zero: true, allocated: true, offset: Some(host), ..base },
            Kind::Data(host) => Extent {
                data: true,
                allocated: true,
                offset: Some(host),
                recurse: self.seal.get().is_none() && self.is_preallocated(),
                ..base
            },
            Kind::Compressed(..) => Extent { data: true, allocated: true, compressed: true, ..base },
        })
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        if size % 512 != 0 {
            return Err(Error::new("The new size must be a multiple of 512"));
        }
        let old = self.size();
        {
            let meta = self.lock();
            if meta.header.snapshot_count > 0 && meta.header.version < 3 {
                return Err(Error::new("Can't resize a v2 image which has snapshots"));
            }
        }
        self.resize_bitmaps(size)?;
        if size >= old { self.grow(old, size, preallocation) } else { self.shrink(old, size, preallocation) }
    }

    fn discard_unit(&self) -> u64 {
        self.cluster_size
    }

    fn copy_unit(&self) -> u64 {
        self.lock().subcluster_size()
    }

    fn allocated_size(&self) -> Option<u64> {
        // A data file is counted where it is looked at itself.
        self.file.allocated_size()
    }

    fn starts_zero(&self) -> bool {
        // What preallocated clusters hold is not what an encrypted zero looks like.
        if self.seal.get().is_some() && self.lock().l1.iter().any(|e| *e != 0) {
            return false;
        }
        // Preallocated clusters point into a file that may hold anything when it is a device.
        self.data_file.as_ref().is_none_or(|d| d.starts_zero())
    }

    fn info(&self) -> Result<NodeInfo> {
        let meta = self.lock();
        Ok(NodeInfo {
            cluster_size: Some(self.cluster_size),
            encrypted: meta.header.crypt_method != 0,
            dirty: meta.header.is(incompatible::DIRTY),
            backing_file: meta.header.backing_file.clone(),
            backing_format: meta.header.backing_format.clone(),
            specific: Some(("qcow2", self.specific(&meta))),
        })
    }

    fn children(&self) -> Vec<(String, NodeRef)> {
        let mut list = vec![("file".to_owned(), self.file.clone())];
        if let Some(data) = &self.data_file {
            list.insert(0, ("data-file".to_owned(), data.clone()));
        }
        list
    }

    fn backing(&self) -> Option<NodeRef> {
        self.backing_node()
    }

    fn set_backing(&self, backing: Option<NodeRef>) {
        *self.backing.write().unwrap_or_else(PoisonError::into_inner) = backing;
    }

    fn change_backing_file(&self, file: Option<&str>, format: Option<&str>) -> Result<()> {
        // What was copied up is in the file before the header stops naming where it came from.
        self.flush().map_err(|e| Error::new(strerror(&e)))?;
        let mut meta = self.lock();
        if file.is_some() && meta.header.autoclear & autoclear::DATA_FILE_RAW != 0 {
            return Err(Error::new("Invalid argument"));
        }
        if file.is_some_and(|f| f.len() > header::MAX_BACKING_NAME as usize) {
            return Err(Error::new("Invalid argument"));
        }
        let old = (meta.header.backing_file.take(), meta.header.backing_format.take());
        meta.header.backing_file = file.filter(|f| !f.is_empty()).map(str::to_owned);
        meta.header.backing_format = format.filter(|f| !f.is_empty()).map(str::to_owned);
        if let Err(e) = meta.header.encode() {
            (meta.header.backing_file, meta.header.backing_format) = old;
            return Err(e);
        }
        meta.write_header().and_then(|()| meta.barrier()).map_err(|e| Error::new(strerror(&e)))
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn as_qcow2(&self) -> Option<&Qcow2> {
        Some(self)
    }

    fn check(&self, repair: Repair) -> Option<io::Result<CheckReport>> {
        Some(self.check_image(repair))
    }

    fn unmap_enabled(&self) -> bool {
        self.lock().unmap
    }

    fn close(&self) -> io::Result<()> {
        if !self.write {
            return Ok(());
        }
        self.store_bitmaps()?;
        {
            let mut meta = self.lock();
            if !meta.header.is(incompatible::CORRUPT) {
                let tables = meta.write_back();
                let counts = meta.write_blocks().and_then(|_| if tables.is_err() { meta.barrier() } else { Ok(()) });
                // What a disk cannot flush, it may have lost.
                let both = |e: String| {
                    format!("Failed to flush the L2 table cache: {e}\nFailed to flush the refcount block cache: {e}")
                };
                let say = |what: &str, r: io::Result<()>| {
                    r.err().map(|e| format!("Failed to flush the {what} cache: {}", strerror(&e)))
                };
                let failed: Vec<String> =
                    [say("L2 table", tables), say("refcount block", counts)].into_iter().flatten().collect();
                if !failed.is_empty() {
                    return Err(io::Error::other(failed.join("\n")));
                }
                if meta.allocating
                    && let Err(e) = meta.barrier()
                {
                    return Err(io::Error::other(both(strerror(&e))));
                }
                if meta.lazy() && meta.header.is(incompatible::DIRTY) {
                    meta.set_dirty(false)?;
                }
            }
        }
        if let Some(data) = &self.data_file {
            data.close()?;
        }
        self.file.close()
    }
}

impl Qcow2 {
    pub(super) fn may_write(&self) -> io::Result<()> {
        let meta = self.lock();
        if !self.write {
            return Err(errno(Errno::PERM));
        }
        if meta.header.is(incompatible::CORRUPT) {
            return Err(errno(Errno::IO));
        }
        Ok(())
    }
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        // Whoever cares about the result has called `close` before; a second one has nothing to do.
        let _ = self.close();
    }
}
