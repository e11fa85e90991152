//! The first version of qcow: two levels of tables, packed clusters, the AES method, a backing file.
//!
//! Reference: the header and entry layout that Mark McLoughlin's "The QCOW Image Format" describes; limits and messages of
//! QEMU 10.0.2.

use super::{Format, Pages, Place, ReadOnly, backing_name, be32, be64, head, inflate};
use crate::node::{Node, NodeInfo, NodeRef};
use crate::qcow2::{AesKey, KeyOptions};
use spec::error::{Error, Result};
use std::io;

const MAGIC: u32 = 0x514649fb;
const PACKED: u64 = 1 << 63;
const MAX_NAME: u64 = 1023;

pub struct Qcow1 {
    size: u64,
    cluster_bits: u32,
    l2_bits: u32,
    l1_offset: u64,
    backing: Option<String>,
    encrypted: bool,
    key: Option<AesKey>,
    pages: Pages,
}

pub fn open(file: NodeRef, write: bool, key: &KeyOptions) -> Result<ReadOnly<Qcow1>> {
    let h: [u8; 48] = head(file.as_ref(), "qcow")?;
    if be32(&h, 0) != MAGIC {
        return Err(Error::new("Image not in qcow format"));
    }
    if be32(&h, 4) != 1 {
        return Err(Error::new(format!("qcow (v{}) does not support qcow version {}", 1, be32(&h, 4))));
    }
    let (size, cluster_bits, l2_bits) = (be64(&h, 24), h[32] as u32, h[33] as u32);
    if size <= 1 {
        return Err(Error::new("Image size is too small (must be at least 2 bytes)"));
    }
    if !(9..=16).contains(&cluster_bits) {
        return Err(Error::new("Cluster size must be between 512 and 64k"));
    }
    if !(6..=13).contains(&l2_bits) {
        return Err(Error::new("L2 table size must be between 512 and 64k"));
    }
    // One table of 2^31 bytes at the first level is the most there can be.
    if size.div_ceil(1 << (cluster_bits + l2_bits)) > i32::MAX as u64 / 8 {
        return Err(Error::new("Image too large"));
    }
    let (name_at, name_len) = (be64(&h, 8), be32(&h, 16) as u64);
    let backing = match name_at {
        0 => None,
        _ if name_len > MAX_NAME => return Err(Error::new("Backing file name too long")),
        _ => Some(backing_name(file.as_ref(), name_at, name_len)?),
    };
    let method = be32(&h, 36);
    let key = match method {
        0 => None,
        1 => AesKey::open(key)?,
        _ => return Err(Error::new("invalid encryption method in qcow header")),
    };
    let format = Qcow1 { size, cluster_bits, l2_bits, l1_offset: be64(&h, 40), backing, encrypted: method != 0, key, pages: Pages::default() };
    ReadOnly::new(file, format, write)
}

impl Qcow1 {
    fn entry(&self, file: &dyn Node, offset: u64) -> io::Result<u64> {
        let l1 = self.l1_offset.saturating_add((offset >> (self.cluster_bits + self.l2_bits)) * 8);
        let table = u64::from_be_bytes(self.pages.bytes(file, l1)?);
        if table == 0 {
            return Ok(0);
        }
        let index = (offset >> self.cluster_bits) & ((1 << self.l2_bits) - 1);
        Ok(u64::from_be_bytes(self.pages.bytes(file, (table & (i64::MAX as u64)).saturating_add(index * 8))?))
    }
}

impl Format for Qcow1 {
    const NAME: &'static str = "qcow";

    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, file: &dyn Node, offset: u64, len: u64) -> io::Result<(Place, u64)> {
        let cluster = 1u64 << self.cluster_bits;
        let inside = offset % cluster;
        let run = (cluster - inside).min(len);
        let place = match self.entry(file, offset)? {
            0 => Place::Absent,
            e if e & PACKED != 0 => Place::Packed(e, inside),
            e => Place::At(e + inside),
        };
        Ok((place, run))
    }

    /// The entry itself names the piece: its place, and above that its packed length.
    fn unpack(&self, file: &dyn Node, entry: u64) -> io::Result<Vec<u8>> {
        let bits = 63 - self.cluster_bits;
        let cluster = 1usize << self.cluster_bits;
        let mut packed = vec![0; (entry >> bits) as usize & (cluster - 1)];
        file.read(entry & ((1 << bits) - 1), &mut packed)?;
        inflate(&packed, cluster, false)
    }

    fn decrypt(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match (&self.key, self.encrypted) {
            (Some(key), _) => key.decrypt(offset, buf),
            (None, false) => Ok(()),
            (None, true) => Err(crate::node::errno(rustix::io::Errno::OPNOTSUPP)),
        }
    }

    fn unit(&self) -> u64 {
        if self.encrypted { 512 } else { 1 }
    }

    fn info(&self) -> NodeInfo {
        NodeInfo { cluster_size: Some(1 << self.cluster_bits), encrypted: self.encrypted, backing_file: self.backing.clone(), ..NodeInfo::default() }
    }
}
