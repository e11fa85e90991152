//! The qcow2 header, its extensions and the feature bits.
//!
//! Reference: docs/interop/qcow2.txt of QEMU 10.0, "Header" and "Header extensions".
//!
//! Invariants: the whole header area is rebuilt from these fields on every change, unknown extensions and unknown
//! compatible bits are carried over, unknown autoclear bits are dropped by whoever writes.

use spec::error::{Error, Result};

pub const MAGIC: u32 = 0x514649fb;
pub const V3_LENGTH: u32 = 112;
const V2_LENGTH: u32 = 72;

/// Largest tables that are accepted, so that a hostile header cannot ask for absurd memory.
pub const MAX_L1_BYTES: u64 = 32 << 20;
pub const MAX_REFTABLE_BYTES: u64 = 8 << 20;
pub const MAX_BACKING_NAME: u32 = 1023;
pub const MAX_SNAPSHOTS: u32 = 65536;

pub mod incompatible {
    pub const DIRTY: u64 = 1 << 0;
    pub const CORRUPT: u64 = 1 << 1;
    pub const DATA_FILE: u64 = 1 << 2;
    pub const COMPRESSION: u64 = 1 << 3;
    pub const EXTENDED_L2: u64 = 1 << 4;
    pub const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}
pub mod compatible {
    pub const LAZY_REFCOUNTS: u64 = 1 << 0;
}
pub mod autoclear {
    pub const BITMAPS: u64 = 1 << 0;
    pub const DATA_FILE_RAW: u64 = 1 << 1;
    pub const KNOWN: u64 = BITMAPS | DATA_FILE_RAW;
}

const EXT_END: u32 = 0;
const EXT_BACKING_FORMAT: u32 = 0xe2792aca;
const EXT_FEATURES: u32 = 0x6803f857;
const EXT_CRYPTO: u32 = 0x0537be77;
const EXT_BITMAPS: u32 = 0x23852875;
const EXT_DATA_FILE: u32 = 0x44415441;

/// Feature names as the feature name table stores them: type, bit, name.
const FEATURES: &[(u8, u8, &str)] = &[
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BitmapsExt {
    pub count: u32,
    pub directory_size: u64,
    pub directory_offset: u64,
}

/// Header fields in the order of the specification, then the extensions.
#[derive(Clone, Debug, Default)]
pub struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    pub size: u64,
    pub crypt_method: u32,
    pub l1_size: u32,
    pub l1_offset: u64,
    pub reftable_offset: u64,
    pub reftable_clusters: u32,
    pub snapshot_count: u32,
    pub snapshots_offset: u64,
    pub incompatible: u64,
    pub compatible: u64,
    pub autoclear: u64,
    pub refcount_order: u32,
    pub compression_type: u8,
    pub backing_file: Option<String>,
    pub backing_format: Option<String>,
    pub data_file: Option<String>,
    pub crypto: Option<(u64, u64)>,
    pub bitmaps: Option<BitmapsExt>,
    pub unknown: Vec<(u32, Vec<u8>)>,
    /// Header bytes beyond the fields known here.
    pub extra: Vec<u8>,
    pub feature_table: bool,
}

pub fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

pub fn be64(b: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

impl Header {
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub fn is(&self, incompatible_bit: u64) -> bool {
        self.incompatible & incompatible_bit != 0
    }

    pub fn refcount_bits(&self) -> u32 {
        1 << self.refcount_order
    }

    /// Bytes per L2 entry.
    pub fn l2_entry_bytes(&self) -> u64 {
        if self.is(incompatible::EXTENDED_L2) { 16 } else { 8 }
    }

    /// Guest bytes that one L2 table maps.
    pub fn l2_span(&self) -> u64 {
        self.cluster_size() / self.l2_entry_bytes() * self.cluster_size()
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub fn l1_needed(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_span())
    }

    /// Parses the start of an image: the first cluster, or as much of it as the file has.
    pub fn parse(b: &[u8]) -> Result<Header> {
        if b.len() < V2_LENGTH as usize {
            return Err(Error::new("Could not read qcow2 header"));
        }
        if be32(b, 0) != MAGIC {
            return Err(Error::new("Image is not in qcow2 format"));
        }
        let mut h = Header {
            version: be32(b, 4),
            cluster_bits: be32(b, 20),
            size: be64(b, 24),
            crypt_method: be32(b, 32),
            l1_size: be32(b, 36),
            l1_offset: be64(b, 40),
            reftable_offset: be64(b, 48),
            reftable_clusters: be32(b, 56),
            snapshot_count: be32(b, 60),
            snapshots_offset: be64(b, 64),
            refcount_order: 4,
            ..Header::default()
        };
        if !(2..=3).contains(&h.version) {
            return Err(Error::new(format!("Unsupported qcow2 version {}", h.version)));
        }
        if !(9..=21).contains(&h.cluster_bits) {
            return Err(Error::new(format!("Unsupported cluster size: 2^{}", h.cluster_bits)));
        }
        let mut length = V2_LENGTH;
        if h.version == 3 {
            length = h.parse_v3(b)?;
        }
        let backing_offset = be64(b, 8);
        let backing_len = be32(b, 16);
        if backing_offset > h.cluster_size() {
            return Err(Error::new("Invalid backing file offset"));
        }
        let ext_end = if backing_offset != 0 { backing_offset } else { h.cluster_size() };
        h.parse_extensions(b, length as usize, ext_end.min(b.len() as u64) as usize)?;
        if h.incompatible & !incompatible::KNOWN != 0 {
            return Err(Error::new(format!(
                "Unsupported qcow2 feature(s): {}",
                h.unknown_features(b, length as usize)
            )));
        }
        if backing_offset != 0 {
            let room = (h.cluster_size() - backing_offset).min(MAX_BACKING_NAME as u64);
            let end = (backing_offset + backing_len as u64) as usize;
            if backing_len as u64 > room || end > b.len() {
                return Err(Error::new("Backing file name too long"));
            }
            h.backing_file = Some(String::from_utf8_lossy(&b[backing_offset as usize..end]).into_owned());
        }
        Ok(h)
    }

    fn parse_v3(&mut self, b: &[u8]) -> Result<u32> {
        if b.len() < 104 {
            return Err(Error::new("Could not read qcow2 header"));
        }
        let length = be32(b, 100);
        if length < 104 {
            return Err(Error::new("qcow2 header too short"));
        }
        if length as u64 > self.cluster_size() || length as usize > b.len() {
            return Err(Error::new("qcow2 header exceeds cluster size"));
        }
        self.incompatible = be64(b, 72);
        self.compatible = be64(b, 80);
        self.autoclear = be64(b, 88);
        self.refcount_order = be32(b, 96);
        if self.refcount_order > 6 {
            return Err(Error::new("Reference count entry width too large; may not exceed 64 bits"));
        }
        if length > 104 {
            self.compression_type = b[104];
        }
        if length > V3_LENGTH {
            self.extra = b[V3_LENGTH as usize..length as usize].to_vec();
        }
        let flagged = self.is(incompatible::COMPRESSION);
        match self.compression_type {
            0 if flagged => Err(Error::new("qcow2: Compression type incompatible feature bit must not be set")),
            0 => Ok(length),
            1 if !flagged => Err(Error::new("qcow2: Compression type incompatible feature bit must be set")),
            1 => Ok(length),
            other => Err(Error::new(format!("qcow2: unknown compression type: {other}"))),
        }
    }

    fn parse_extensions(&mut self, b: &[u8], start: usize, end: usize) -> Result<()> {
        let mut at = start;
        while at < end && at + 8 <= b.len() {
            let (kind, len) = (be32(b, at), be32(b, at + 4) as usize);
            at += 8;
            if kind == EXT_END {
                return Ok(());
            }
            if at > end || len > end - at {
                return Err(Error::new("Header extension too large"));
            }
            let data = &b[at..at + len];
            at += len.next_multiple_of(8);
            match kind {
                EXT_BACKING_FORMAT => self.backing_format = Some(String::from_utf8_lossy(data).into_owned()),
                EXT_DATA_FILE => self.data_file = Some(String::from_utf8_lossy(data).into_owned()),
                EXT_FEATURES => self.feature_table = true,
                EXT_CRYPTO if len == 16 => self.crypto = Some((be64(data, 0), be64(data, 8))),
                EXT_CRYPTO => return Err(Error::new("CRYPTO header extension size is invalid")),
                EXT_BITMAPS if len == 24 => {
                    let ext = BitmapsExt {
                        count: be32(data, 0),
                        directory_size: be64(data, 8),
                        directory_offset: be64(data, 16),
                    };
                    self.bitmaps = Some(ext);
                }
                EXT_BITMAPS => return Err(Error::new("bitmaps_ext: Invalid extension length")),
                _ => self.unknown.push((kind, data.to_vec())),
            }
        }
        Ok(())
    }

    /// Names of the unsupported incompatible bits, from the image's own table where it has them.
    fn unknown_features(&self, b: &[u8], start: usize) -> String {
        let mut names = Vec::new();
        let mut left = self.incompatible & !incompatible::KNOWN;
        let mut at = start;
        while at + 8 <= b.len() && be32(b, at) != EXT_END {
            let (kind, len) = (be32(b, at), be32(b, at + 4) as usize);
            let data = b.get(at + 8..(at + 8).saturating_add(len)).unwrap_or(&[]);
            if kind == EXT_FEATURES {
                for row in data.chunks(48).filter(|r| r.len() > 2) {
                    if row[0] != 0 || row[1] >= 64 || left & (1 << row[1]) == 0 {
                        continue;
                    }
                    let name = row[2..].split(|c| *c == 0).next().unwrap_or(&[]);
                    names.push(String::from_utf8_lossy(name).into_owned());
                    left &= !(1u64 << row[1]);
                }
            }
            at = (at + 8).saturating_add(len.next_multiple_of(8));
        }
        if left != 0 {
            names.push(format!("Unknown incompatible feature: {left:x}"));
        }
        names.join(", ")
    }

    /// The bytes of the header area; an error when they do not fit into one cluster.
    pub fn encode(&self) -> Result<Vec<u8>> {
        // Feature names are only a help for messages: they go when the cluster is too small for them and the rest.
        self.encode_with(true).or_else(|_| self.encode_with(false))
    }

    fn encode_with(&self, feature_names: bool) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(512);
        let length = if self.version >= 3 { V3_LENGTH + self.extra.len() as u32 } else { V2_LENGTH };
        for word in [MAGIC, self.version, 0, 0, 0, self.cluster_bits] {
            out.extend(word.to_be_bytes());
        }
        out.extend(self.size.to_be_bytes());
        out.extend(self.crypt_method.to_be_bytes());
        out.extend(self.l1_size.to_be_bytes());
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.reftable_offset.to_be_bytes());
        out.extend(self.reftable_clusters.to_be_bytes());
        out.extend(self.snapshot_count.to_be_bytes());
        out.extend(self.snapshots_offset.to_be_bytes());
        if self.version >= 3 {
            out.extend(self.incompatible.to_be_bytes());
            out.extend(self.compatible.to_be_bytes());
            out.extend(self.autoclear.to_be_bytes());
            out.extend(self.refcount_order.to_be_bytes());
            out.extend(length.to_be_bytes());
            out.extend([self.compression_type, 0, 0, 0, 0, 0, 0, 0]);
            out.extend(&self.extra);
        }
        self.encode_extensions(&mut out, feature_names);
        if let Some(name) = &self.backing_file {
            let at = out.len() as u64;
            out[8..16].copy_from_slice(&at.to_be_bytes());
            out[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            out.extend(name.as_bytes());
        }
        if out.len() as u64 > self.cluster_size() {
            return Err(Error::new("Could not update qcow2 header: No space left on device"));
        }
        Ok(out)
    }

    fn encode_extensions(&self, out: &mut Vec<u8>, feature_names: bool) {
        let mut put = |kind: u32, data: &[u8]| {
            out.extend(kind.to_be_bytes());
            out.extend((data.len() as u32).to_be_bytes());
            out.extend(data);
            out.resize(out.len().next_multiple_of(8), 0);
        };
        if let Some(format) = &self.backing_format {
            put(EXT_BACKING_FORMAT, format.as_bytes());
        }
        if let Some(name) = &self.data_file {
            put(EXT_DATA_FILE, name.as_bytes());
        }
        if let Some((offset, length)) = self.crypto {
            put(EXT_CRYPTO, &[offset.to_be_bytes(), length.to_be_bytes()].concat());
        }
        if self.version >= 3 && feature_names {
            let mut table = Vec::new();
            for (kind, bit, name) in FEATURES {
                let mut row = [0u8; 48];
                row[0] = *kind;
                row[1] = *bit;
                row[2..2 + name.len()].copy_from_slice(name.as_bytes());
                table.extend(row);
            }
            put(EXT_FEATURES, &table);
        }
        if let Some(ext) = &self.bitmaps {
            let mut data = Vec::new();
            data.extend(ext.count.to_be_bytes());
            data.extend([0; 4]);
            data.extend(ext.directory_size.to_be_bytes());
            data.extend(ext.directory_offset.to_be_bytes());
            put(EXT_BITMAPS, &data);
        }
        for (kind, data) in &self.unknown {
            put(*kind, data);
        }
        put(EXT_END, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            version: 3,
            cluster_bits: 16,
            size: 1 << 30,
            refcount_order: 4,
            backing_file: Some("base.img".into()),
            backing_format: Some("raw".into()),
            unknown: vec![(0x12345678, vec![1, 2, 3])],
            ..Header::default()
        }
    }

    #[test]
    fn header_survives_a_round_trip() {
        let bytes = sample().encode().unwrap();
        let back = Header::parse(&bytes).unwrap();
        assert_eq!(back.backing_file.as_deref(), Some("base.img"));
        assert_eq!(back.backing_format.as_deref(), Some("raw"));
        assert_eq!(back.unknown, sample().unknown);
        assert_eq!(back.encode().unwrap(), bytes);
    }

    #[test]
    fn damaged_headers_are_refused_not_trusted() {
        let good = sample().encode().unwrap();
        for cut in 0..good.len() {
            let _ = Header::parse(&good[..cut]); // any answer but a panic
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let _ = Header::parse(&bad);
        }
        let mut feature = good;
        feature[72] = 0x80;
        let e = Header::parse(&feature).unwrap_err().to_string();
        assert_eq!(e, "Unsupported qcow2 feature(s): Unknown incompatible feature: 8000000000000000");
    }
}
