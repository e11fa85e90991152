//! Makes new qcow2 images, claims space ahead of time, and computes sizes for `measure`.
//!
//! Reference: docs/interop/qcow2.txt; option names, defaults and messages of `qemu-img create -f qcow2` 10.0.2.

use super::crypt::NewKey;
use super::header::{Header, autoclear, compatible, incompatible};
use super::meta::{COPIED, OFFSET};
use super::{Qcow2, Qcow2Options, compress};
use crate::node::{Node, NodeRef, Preallocation, strerror};
use crate::options::Options;
use spec::error::{Error, Result};
use std::io;

/// What to make, as the user's `-o` says.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    pub size: u64,
    pub version: u32,
    pub cluster_size: u64,
    pub refcount_bits: u64,
    pub extended_l2: bool,
    pub zstd: bool,
    pub lazy_refcounts: bool,
    pub backing_file: Option<String>,
    pub backing_format: Option<String>,
    pub data_file: Option<String>,
    pub data_file_raw: bool,
    pub preallocation: Preallocation,
    pub key: Option<NewKey>,
}

/// What is no number is refused like a number that is out of range.
fn refcount_bits(options: &mut Options) -> u64 {
    options.take("refcount_bits").map_or(16, |text| text.parse().unwrap_or(0))
}

impl CreateOptions {
    /// Takes the format's options; the protocol's are left in place.
    pub fn take(options: &mut Options) -> Result<CreateOptions> {
        let size = options.take_size("size")?.unwrap_or(0);
        let version = match options.take("compat").as_deref() {
            None | Some("1.1" | "v3") => 3,
            Some("0.10" | "v2") => 2,
            Some(other) => return Err(Error::new(format!("Parameter 'version' does not accept value '{other}'"))),
        };
        let key = NewKey::take(options)?;
        let zstd = match options.take("compression_type").as_deref() {
            None | Some("zlib") => false,
            Some("zstd") => true,
            Some(other) => {
                return Err(Error::new(format!("Parameter 'compression-type' does not accept value '{other}'")));
            }
        };
        let preallocation =
            options.take("preallocation").map_or(Ok(Preallocation::Off), |p| Preallocation::parse(&p))?;
        let lazy = options.take_bool("lazy_refcounts")?;
        let extended_l2 = options.take_bool("extended_l2")?.unwrap_or(false);
        let made = CreateOptions {
            size: size.next_multiple_of(512),
            version,
            cluster_size: options.take_size("cluster_size")?.unwrap_or(65536),
            refcount_bits: refcount_bits(options),
            extended_l2,
            zstd,
            lazy_refcounts: lazy.unwrap_or(false),
            backing_file: options.take("backing_file"),
            backing_format: options.take("backing_fmt"),
            data_file: options.take("data_file"),
            data_file_raw: options.take_bool("data_file_raw")?.unwrap_or(false),
            preallocation,
            key,
        };
        made.validate()?;
        Ok(made)
    }

    fn validate(&self) -> Result<()> {
        let refuse = |text: &str| Err(Error::new(text));
        if !self.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&self.cluster_size) {
            return refuse("Cluster size must be a power of two between 512 and 2048k");
        }
        if self.version < 3 && self.extended_l2 {
            return refuse(
                "Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)",
            );
        }
        if self.extended_l2 && self.cluster_size < 32 * 512 {
            return refuse("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return refuse("Refcount width must be a power of two and may not exceed 64 bits");
        }
        if self.version < 3 && self.refcount_bits != 16 {
            return refuse(
                "Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)",
            );
        }
        if self.version < 3 && self.lazy_refcounts {
            return refuse(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)",
            );
        }
        if self.version < 3 && self.zstd {
            return refuse(
                "Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)",
            );
        }
        if self.preallocation != Preallocation::Off && self.backing_file.is_some() && !self.extended_l2 {
            return refuse(
                "Backing file and preallocation can only be used at the same time if extended_l2 is enabled",
            );
        }
        if self.version < 3 && self.data_file.is_some() {
            return refuse(
                "External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)",
            );
        }
        if self.data_file_raw && self.data_file.is_none() {
            return refuse("data-file-raw requires data-file");
        }
        if self.data_file_raw && self.backing_file.is_some() {
            return refuse("Backing file and data-file-raw cannot be used at the same time");
        }
        Ok(())
    }

    fn header(&self) -> Header {
        let mut bits = 0;
        for (on, bit) in [
            (self.data_file.is_some(), incompatible::DATA_FILE),
            (self.zstd, incompatible::COMPRESSION),
            (self.extended_l2, incompatible::EXTENDED_L2),
        ] {
            bits |= if on { bit } else { 0 };
        }
        Header {
            version: self.version,
            cluster_bits: self.cluster_size.trailing_zeros(),
            reftable_offset: self.cluster_size,
            reftable_clusters: 1,
            incompatible: bits,
            compatible: if self.lazy_refcounts { compatible::LAZY_REFCOUNTS } else { 0 },
            autoclear: if self.data_file_raw { autoclear::DATA_FILE_RAW } else { 0 },
            refcount_order: self.refcount_bits.trailing_zeros(),
            compression_type: if self.zstd { compress::ZSTD } else { compress::ZLIB },
            backing_file: self.backing_file.clone(),
            backing_format: self.backing_format.clone(),
            data_file: self.data_file.clone(),
            feature_table: self.version >= 3,
            ..Header::default()
        }
    }
}

/// Writes a new image into an empty file and returns it open. `backing` decides what a grown area must hide.
pub fn create(file: NodeRef, data_file: Option<NodeRef>, options: &CreateOptions) -> Result<Qcow2> {
    let fail = |e: io::Error| Error::new(format!("Could not write qcow2 header: {}", strerror(&e)));
    let header = options.header();
    if header.l1_needed(options.size) * 8 > super::header::MAX_L1_BYTES {
        return Err(Error::new(
            "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
        ));
    }
    let size = options.cluster_size as usize;
    // Header, refcount table and first refcount block, which counts the three of them.
    let mut start = header.encode()?;
    start.resize(3 * size, 0);
    start[size..size + 8].copy_from_slice(&(2 * size as u64).to_be_bytes());
    for cluster in 0..3 {
        super::refcount::set_entry(&mut start[2 * size..], header.refcount_order, cluster, 1);
    }
    file.write(0, &start).map_err(fail)?;
    let open = Qcow2Options { write: true, data_file, ..Qcow2Options::default() };
    let image = Qcow2::open(file, open)?;
    if let Some(key) = &options.key {
        image.init_key(key)?;
    }
    image.set_size(options.size)?;
    if let Some(data) = image
        .data_file
        .as_ref()
        .filter(|_| matches!(options.preallocation, Preallocation::Off | Preallocation::Metadata))
    {
        data.resize(options.size, Preallocation::Off)?;
    }
    if options.data_file_raw && options.preallocation == Preallocation::Off {
        // A raw data file is only readable on its own when every cluster is mapped to it.
        image.preallocate(0, options.size, Preallocation::Metadata)?;
    } else if options.preallocation != Preallocation::Off {
        image.preallocate(0, options.size, options.preallocation)?;
    }
    image.flush().map_err(fail)?;
    Ok(image)
}

impl Qcow2 {
    /// Gives every unallocated cluster of a guest range a place in the file.
    pub(super) fn preallocate(&self, from: u64, to: u64, how: Preallocation) -> Result<()> {
        let fail = |e: io::Error| Error::new(format!("Could not preallocate metadata: {}", strerror(&e)));
        let mut highest = 0;
        let mut places: Vec<(u64, u64)> = Vec::new();
        {
            let mut guard = self.lock();
            let meta = &mut *guard;
            let mut cluster = from / self.cluster_size;
            let end = to.div_ceil(self.cluster_size);
            while cluster < end {
                let table = meta.table_for_write(cluster * self.cluster_size).map_err(fail)?;
                let entries = meta.l2_entries();
                let mut run = 0;
                let limit = end.min((cluster / entries + 1) * entries) - cluster;
                while run < limit && self.entry(meta, table, cluster + run).map_err(fail)?.0 & !COPIED == 0 {
                    run += 1;
                }
                if run == 0 {
                    cluster += 1;
                    continue;
                }
                let (host, got) = match &self.data_file {
                    Some(_) => (cluster * self.cluster_size, run),
                    None => {
                        let (c, n) = meta.alloc_some(run).map_err(fail)?;
                        (c * self.cluster_size, n)
                    }
                };
                for i in 0..got {
                    let entry = (host + i * self.cluster_size) & OFFSET | COPIED;
                    let bitmap = if self.data_file.is_some() { 0xffff_ffff } else { 0 };
                    self.set_entry(meta, table, cluster + i, entry, bitmap).map_err(fail)?;
                }
                let bytes = got * self.cluster_size;
                highest = highest.max(host + bytes);
                match places.last_mut() {
                    Some(last) if last.0 + last.1 == host => last.1 += bytes,
                    _ => places.push((host, bytes)),
                }
                cluster += got;
            }
        }
        let how = if how == Preallocation::Metadata { Preallocation::Off } else { how };
        match &self.data_file {
            Some(data) => data.resize(to.max(data.size()), how)?,
            None => {
                places.iter().try_for_each(|(at, len)| self.file.preallocate(*at, *len, how))?;
                if highest > self.file.size() {
                    self.file
                        .resize(highest, Preallocation::Off)
                        .map_err(|e| Error::new(format!("Could not resize image: {e}")))?;
                }
            }
        }
        self.write_all_back().map_err(fail)
    }
}

/// Bytes that an image of `size` needs when every cluster is stored.
pub fn full_size(size: u64, cluster_size: u64, refcount_order: u32, extended_l2: bool) -> u64 {
    let entry = if extended_l2 { 16 } else { 8 };
    let data = size.next_multiple_of(cluster_size);
    let l2_bytes = (data / cluster_size).next_multiple_of(cluster_size / entry) * entry;
    let l1_bytes = (l2_bytes / cluster_size).next_multiple_of(cluster_size / 8) * 8;
    let meta = cluster_size + l2_bytes + l1_bytes;
    let clusters = (meta + data) / cluster_size;
    let per_block = (cluster_size * 8) >> refcount_order;
    let (mut blocks, mut tables) = (0, 0);
    loop {
        let b = (clusters + blocks + tables).div_ceil(per_block);
        let t = b.div_ceil(cluster_size / 8);
        if (b, t) == (blocks, tables) {
            break;
        }
        (blocks, tables) = (b, t);
    }
    meta + data + (blocks + tables) * cluster_size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_size_is_what_the_reference_measures() {
        assert_eq!(full_size(1 << 30, 65536, 4, false), 1074135040);
    }
}
