//! The VMDK format of VMware: monolithic and split, sparse, flat and stream-optimized disks.
//!
//! Reference: VMware, "Virtual Disk Format 5.0"; option names, descriptor fields and messages of `qemu-img` 10.0.2.
//!
//! Not modelled: ESX sparse extents (COWD, VMFSSPARSE, SESPARSE) are refused by name.
//!
//! Module map: `sparse` is one sparse extent, `descriptor` the text that lists extents, `create` makes images.

pub mod create;
pub mod descriptor;
pub mod sparse;

use crate::node::{CheckReport, Extent, Node, NodeInfo, NodeRef, Preallocation, Repair, errno, strerror};
use descriptor::{Descriptor, Kind};
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use sparse::{Grain, SECTOR, Sparse};
use spec::error::{Error, Result};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

/// How a part of the disk is stored.
enum Store {
    Flat { file: NodeRef, offset: u64 },
    Sparse(Box<Sparse>),
    Zero,
}

struct Part {
    start: u64,
    bytes: u64,
    store: Store,
    kind: &'static str,
    index: usize,
    name: String,
}

struct State {
    parts: Vec<Part>,
    descriptor: Descriptor,
    /// The content identifier has been renewed for this session's writes.
    renewed: bool,
}

pub struct Vmdk {
    file: NodeRef,
    extents: Vec<NodeRef>,
    size: u64,
    write: bool,
    /// Where the descriptor is in `file`, and how long it may be.
    place: (u64, u64),
    state: Mutex<State>,
    backing: RwLock<Option<NodeRef>>,
}

/// Opens an image; `open_extent` opens a file that the descriptor names.
pub fn open(file: NodeRef, write: bool, mut open_extent: impl FnMut(&str) -> Result<NodeRef>) -> Result<Vmdk> {
    let fail = |e: io::Error| Error::new(format!("Could not read VMDK descriptor: {}", strerror(&e)));
    let mut magic = [0u8; 4];
    file.read(0, &mut magic).map_err(fail)?;
    if &magic == b"COWD" {
        return Err(Error::new("VMDK ESX sparse extents are not supported"));
    }
    let hosted = &magic == b"KDMV";
    let place = match hosted {
        true => sparse::descriptor_place(file.as_ref())
            .map(|(s, n)| (s.saturating_mul(SECTOR), n.saturating_mul(SECTOR)))
            .map_err(fail)?,
        false => (0, file.size().min(descriptor::MAX_BYTES)),
    };
    if place.1 > descriptor::MAX_BYTES || hosted && place.0 == 0 {
        return Err(Error::new("invalid VMDK image descriptor"));
    }
    let mut text = vec![0; place.1 as usize];
    file.read(place.0, &mut text).map_err(fail)?;
    let descriptor = Descriptor::parse(&text)?;
    let mut parts = Vec::new();
    let mut extents = Vec::new();
    if hosted {
        let sparse = Sparse::open(file.clone())?;
        parts.push(Part {
            start: 0,
            bytes: sparse.bytes,
            store: Store::Sparse(Box::new(sparse)),
            kind: "",
            index: 0,
            name: file.filename(),
        });
    } else {
        for row in &descriptor.extents {
            let start = parts.last().map_or(0, |p: &Part| p.start + p.bytes);
            let (store, kind) = match row.kind {
                Kind::Zero => (Store::Zero, "ZERO"),
                Kind::Flat(offset) => {
                    let node = open_extent(&row.name)?;
                    extents.push(node.clone());
                    (Store::Flat { file: node, offset: offset * SECTOR }, "FLAT")
                }
                Kind::Sparse => {
                    let node = open_extent(&row.name)?;
                    extents.push(node.clone());
                    (Store::Sparse(Box::new(Sparse::open(node)?)), "SPARSE")
                }
            };
            let name = extents.last().map_or(String::new(), |e| e.filename());
            parts.push(Part {
                start,
                bytes: row.sectors.saturating_mul(SECTOR),
                store,
                kind,
                index: extents.len().saturating_sub(1),
                name,
            });
        }
    }
    let size = parts.last().map_or(0, |p| p.start.saturating_add(p.bytes));
    if size > i64::MAX as u64 {
        return Err(Error::new("invalid VMDK image: absurd size"));
    }
    let state = Mutex::new(State { parts, descriptor, renewed: false });
    Ok(Vmdk { file, extents, size, write, place, state, backing: RwLock::new(None) })
}

impl Vmdk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn backing_node(&self) -> Option<NodeRef> {
        self.backing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Backing file name and parent identifier from the descriptor.
    pub fn parent(&self) -> Option<String> {
        let state = self.lock();
        (state.descriptor.parent_cid != descriptor::NO_PARENT).then(|| state.descriptor.parent_name.clone()).flatten()
    }

    pub fn cid(&self) -> u32 {
        self.lock().descriptor.cid
    }

    pub fn parent_cid(&self) -> u32 {
        self.lock().descriptor.parent_cid
    }

    fn read_backing(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.fill(0);
        let Some(backing) = self.backing_node() else { return Ok(()) };
        let inside = backing.size().saturating_sub(offset).min(buf.len() as u64) as usize;
        if inside == 0 { Ok(()) } else { backing.read(offset, &mut buf[..inside]) }
    }

    /// Renews the content identifier before the first write, so that overlays notice the change.
    fn before_write(&self, state: &mut State) -> io::Result<()> {
        if !self.write {
            return Err(errno(Errno::PERM));
        }
        if state.renewed {
            return Ok(());
        }
        state.renewed = true;
        let cid = u32::from_le_bytes(crate::random::bytes::<4>()).max(1) & 0x7fff_ffff;
        state.descriptor.set_cid(cid);
        let mut text = state.descriptor.text.clone().into_bytes();
        let room = if self.place.0 == 0 { text.len().max(self.place.1 as usize) } else { self.place.1 as usize };
        if text.len() > room {
            return Ok(()); // a descriptor without room keeps its identifier
        }
        text.resize(room, 0);
        self.file.write(self.place.0, &text)
    }

    /// Calls `step` for each grain or straight run of a range.
    fn each(
        &self,
        offset: u64,
        len: u64,
        mut step: impl FnMut(&mut Part, u64, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = offset;
        while at < offset + len {
            let mut state = self.lock();
            let index = state.parts.partition_point(|p| p.start + p.bytes <= at);
            let Some(part) = state.parts.get_mut(index) else { return Err(crate::node::eio()) };
            let inside = at - part.start;
            let mut n = (part.bytes - inside).min(offset + len - at);
            if let Store::Sparse(s) = &part.store {
                n = n.min(s.grain - inside % s.grain);
            }
            step(part, inside, at, n)?;
            at += n;
        }
        Ok(())
    }

    fn write_grain(&self, sparse: &mut Sparse, inside: u64, at: u64, data: &[u8]) -> io::Result<()> {
        let (grain, skip) = (inside / sparse.grain, inside % sparse.grain);
        if sparse.compressed {
            let last = inside + data.len() as u64 == sparse.bytes;
            if skip != 0 || (data.len() as u64) < sparse.grain && !last {
                return Err(errno(Errno::INVAL));
            }
            let mut whole = data.to_vec();
            whole.resize(sparse.grain as usize, 0);
            return sparse.store_packed(grain, &whole);
        }
        sparse.file.event("write_aio");
        match sparse.locate(grain)? {
            Grain::At(host) => sparse.file.write(host + skip, data),
            place => {
                let mut whole = vec![0; sparse.grain as usize];
                if place == Grain::Absent && (data.len() as u64) < sparse.grain {
                    self.read_backing(at - skip, &mut whole)?;
                }
                whole[skip as usize..skip as usize + data.len()].copy_from_slice(data);
                sparse.store(grain, &whole)
            }
        }
    }

    fn zero_grain(&self, sparse: &mut Sparse, inside: u64, at: u64, n: u64) -> io::Result<()> {
        let (grain, skip) = (inside / sparse.grain, inside % sparse.grain);
        let whole = skip == 0 && (n == sparse.grain || inside + n == sparse.bytes);
        let place = sparse.locate(grain)?;
        let already = place == Grain::Zero || place == Grain::Absent && self.backing_node().is_none();
        match place {
            _ if already => Ok(()),
            Grain::At(_) if sparse.compressed => Err(errno(Errno::OPNOTSUPP)),
            _ if whole && sparse.zero_grains => sparse.zero(grain),
            Grain::At(host) => sparse.file.write_zeroes(host + skip, n, false),
            _ => self.write_grain(sparse, inside, at, &vec![0; n as usize]),
        }
    }
}

impl Node for Vmdk {
    fn driver(&self) -> &'static str {
        "vmdk"
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
        self.each(offset, rest.len() as u64, |part, inside, at, n| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(n as usize);
            rest = later;
            match &mut part.store {
                Store::Zero => {
                    now.fill(0);
                    Ok(())
                }
                Store::Flat { file, offset } => file.read(*offset + inside, now),
                Store::Sparse(s) => match s.locate(inside / s.grain)? {
                    Grain::Absent => self.read_backing(at, now),
                    Grain::Zero => {
                        now.fill(0);
                        Ok(())
                    }
                    Grain::At(host) if s.compressed => s.read_packed(host, inside % s.grain, now),
                    Grain::At(host) => s.file.read(host + inside % s.grain, now),
                },
            }
        })
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.before_write(&mut self.lock())?;
        let mut done = 0;
        self.each(offset, buf.len() as u64, |part, inside, at, n| {
            let now = &buf[done..done + n as usize];
            done += n as usize;
            match &mut part.store {
                Store::Zero => Err(errno(Errno::INVAL)),
                Store::Flat { file, offset } => file.write(*offset + inside, now),
                Store::Sparse(s) => self.write_grain(s, inside, at, now),
            }
        })
    }

    fn write_compressed(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if !self.can_compress() {
            return Err(errno(Errno::OPNOTSUPP));
        }
        self.write(offset, buf)
    }

    fn can_compress(&self) -> bool {
        self.needs_compression()
    }

    fn needs_compression(&self) -> bool {
        matches!(self.lock().parts.first(), Some(Part { store: Store::Sparse(s), .. }) if s.compressed)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.before_write(&mut self.lock())?;
        self.each(offset, len, |part, inside, at, n| match &mut part.store {
            Store::Zero => Ok(()),
            Store::Flat { file, offset } => file.write_zeroes(*offset + inside, n, unmap),
            Store::Sparse(s) => self.zero_grain(s, inside, at, n),
        })
    }

    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.extents.iter().try_for_each(|e| e.flush())?;
        self.file.flush()
    }

    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let mut run: Option<Extent> = None;
        let backed = self.backing_node().is_some();
        let end = (offset + len).min(self.size);
        let mut at = offset;
        while at < end {
            let mut next = Extent::default();
            let mut step = 0;
            // One grain at a time; the loop joins what belongs together.
            self.each(at, 1, |part, inside, _, _| {
                // Children are listed from the last part to the first.
                let child = self.extents.len().saturating_sub(1 + part.index);
                let left = part.bytes - inside;
                let (piece, e) = match &mut part.store {
                    Store::Zero => (left, Extent { zero: true, allocated: true, ..Extent::default() }),
                    Store::Flat { file, offset } => {
                        let e = file.map(*offset + inside, left)?;
                        (e.len, Extent { data: true, allocated: true, child, ..e })
                    }
                    Store::Sparse(s) => {
                        let piece = (s.grain - inside % s.grain).min(left);
                        let e = match s.locate(inside / s.grain)? {
                            Grain::Absent => Extent::default(),
                            Grain::Zero => Extent { zero: true, allocated: true, ..Extent::default() },
                            Grain::At(_) if s.compressed => {
                                Extent { data: true, allocated: true, compressed: true, ..Extent::default() }
                            }
                            Grain::At(host) => Extent {
                                data: true,
                                allocated: true,
                                offset: Some(host + inside % s.grain),
                                child,
                                ..Extent::default()
                            },
                        };
                        (piece, e)
                    }
                };
                (step, next) = (piece, e);
                Ok(())
            })?;
            let n = step.min(end - at);
            match &mut run {
                None => run = Some(Extent { len: n, ..next }),
                Some(r) => {
                    let straight = match (r.offset, next.offset) {
                        (Some(a), Some(b)) => a + r.len == b,
                        (None, None) => true,
                        _ => false,
                    };
                    let same = (r.data, r.zero, r.allocated, r.compressed, r.child)
                        == (next.data, next.zero, next.allocated, next.compressed, next.child);
                    if !same || !straight {
                        break;
                    }
                    r.len += n;
                }
            }
            at += n;
        }
        let mut run = run.unwrap_or_default();
        run.zero |= !run.allocated && !backed;
        Ok(run)
    }

    fn resize(&self, _size: u64, _preallocation: Preallocation) -> Result<()> {
        Err(Error::new("Image format driver does not support resize"))
    }

    fn allocated_size(&self) -> Option<u64> {
        self.extents.iter().try_fold(self.file.allocated_size()?, |sum, e| Some(sum + e.allocated_size()?))
    }

    fn has_cheap_zeroes(&self) -> bool {
        false
    }

    fn info(&self) -> Result<NodeInfo> {
        let state = self.lock();
        let d = &state.descriptor;
        let mut data = Map::new();
        data.insert("cid".into(), json!(d.cid));
        data.insert("parent-cid".into(), json!(d.parent_cid));
        data.insert("create-type".into(), json!(d.create_type));
        let rows = state.parts.iter().map(|p| {
            let mut m = Map::new();
            if let Store::Sparse(s) = &p.store {
                if s.compressed {
                    m.insert("compressed".into(), json!(true));
                }
                m.insert("virtual-size".into(), json!(p.bytes));
                m.insert("filename".into(), json!(p.name));
                m.insert("cluster-size".into(), json!(s.grain));
            } else {
                m.insert("virtual-size".into(), json!(p.bytes));
                m.insert("filename".into(), json!(p.name));
            }
            m.insert("format".into(), json!(p.kind));
            Value::Object(m)
        });
        data.insert("extents".into(), Value::Array(rows.collect()));
        let cluster_size =
            state.parts.iter().find_map(|p| if let Store::Sparse(s) = &p.store { Some(s.grain) } else { None });
        let backing_file = (d.parent_cid != descriptor::NO_PARENT).then(|| d.parent_name.clone()).flatten();
        let backing_format = backing_file.as_ref().map(|_| "vmdk".to_owned());
        Ok(NodeInfo {
            cluster_size,
            backing_file,
            backing_format,
            specific: Some(("vmdk", Value::Object(data))),
            ..NodeInfo::default()
        })
    }

    fn children(&self) -> Vec<(String, NodeRef)> {
        let mut list: Vec<_> =
            self.extents.iter().enumerate().map(|(i, e)| (format!("extents.{i}"), e.clone())).rev().collect();
        list.push(("file".into(), self.file.clone()));
        list
    }

    fn backing(&self) -> Option<NodeRef> {
        self.backing_node()
    }

    fn set_backing(&self, backing: Option<NodeRef>) {
        *self.backing.write().unwrap_or_else(PoisonError::into_inner) = backing;
    }

    fn check(&self, repair: Repair) -> Option<io::Result<CheckReport>> {
        if repair != Repair::default() {
            return Some(Err(errno(Errno::OPNOTSUPP)));
        }
        let mut report = CheckReport::default();
        let result = self.each(0, self.size, |part, inside, at, _| {
            if let Store::Sparse(s) = &mut part.store
                && let Grain::At(host) = s.locate(inside / s.grain)?
                && host >= s.file.size()
            {
                report.corruptions += 1;
                report.lines.push(format!("ERROR: cannot find offset for sector {}", at / SECTOR));
            }
            Ok(())
        });
        Some(result.map(|()| report))
    }

    fn close(&self) -> io::Result<()> {
        self.extents.iter().try_for_each(|e| e.close())?;
        self.file.close()
    }
}
