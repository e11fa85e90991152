//! LUKS version 1: an encrypted disk behind a header with eight key slots.
//!
//! Reference: LUKS On-Disk Format Specification 1.2.3 (cryptsetup); options, keys and messages of `qemu-img` 10.0.2.
//!
//! Not modelled: LUKS2 (version 2 headers are refused by name); ciphers other than AES, Serpent and Twofish.
//!
//! Module map: `header` the header's fields and places, `keys` key slots and the master key, `options` what the user can
//! choose, `amend` changes of key slots. The same header is used inside of qcow2 (`qcow2::crypt`).

pub mod amend;
pub mod header;
pub mod keys;
pub mod options;

use crate::crypt::{Cipher, SECTOR};
use crate::node::{Extent, Node, NodeInfo, NodeRef, Preallocation, errno, strerror};
use header::{HEADER_BYTES, Header};
use options::CreateOptions;
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use spec::error::{Error, Result};
use std::io;
use std::sync::{Mutex, PoisonError};

/// Bytes that are encrypted at once on the way to the file.
const CHUNK: usize = 1 << 20;

pub struct Luks {
    file: NodeRef,
    /// Where the header is, when that is not the file itself.
    detached: Option<NodeRef>,
    header: Mutex<Header>,
    payload: u64,
    write: bool,
    /// Absent when the image was opened without its secret, to be looked at only.
    cipher: Option<Cipher>,
    /// Keeps writes of parts of a sector apart.
    partial: Mutex<()>,
}

/// Reads a header from where it starts in a node.
pub fn read_header(file: &dyn Node, at: u64) -> Result<Header> {
    let mut bytes = vec![0; HEADER_BYTES];
    file.read(at, &mut bytes).map_err(|e| Error::new(format!("Unable to read LUKS header: {}", strerror(&e))))?;
    Header::parse(&bytes)
}

impl Luks {
    /// Opens an image. Without a secret only its header can be looked at.
    pub fn open(file: NodeRef, detached: Option<NodeRef>, write: bool, secret: Option<&str>) -> Result<Luks> {
        let place = detached.as_ref().unwrap_or(&file);
        let header = read_header(place.as_ref(), 0)?;
        let cipher = match secret {
            None => None,
            Some(id) => Some(keys::unlock(&header, place.as_ref(), 0, &crate::secret::passphrase(id)?)?.0),
        };
        let payload = if detached.is_some() { 0 } else { header.payload_sector as u64 * SECTOR as u64 };
        if payload > file.size() {
            return Err(Error::new("LUKS payload is overlapping with the end of the file"));
        }
        Ok(Luks { file, detached, header: Mutex::new(header), payload, write, cipher, partial: Mutex::new(()) })
    }

    fn cipher(&self) -> io::Result<&Cipher> {
        self.cipher.as_ref().ok_or_else(|| errno(Errno::OPNOTSUPP))
    }

    fn place(&self) -> &dyn Node {
        self.detached.as_deref().unwrap_or(self.file.as_ref())
    }

    /// Encrypts and writes whole sectors.
    fn write_sectors(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let cipher = self.cipher()?;
        let mut at = offset;
        let mut sealed = Vec::with_capacity(buf.len().min(CHUNK));
        for part in buf.chunks(CHUNK) {
            sealed.clear();
            sealed.extend_from_slice(part);
            cipher.encrypt(at / SECTOR as u64, &mut sealed);
            self.file.write(self.payload + at, &sealed)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Changes key slots as `qemu-img amend` asks.
    pub fn amend(&self, options: &mut crate::options::Options, secret: &str, force: bool) -> Result<()> {
        if !self.write {
            return Err(Error::new("The image is read-only"));
        }
        let change = amend::Change::take(options, "")?;
        let mut header = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        amend::apply(&mut header, self.place(), 0, &change, secret, force)?;
        self.place().flush().map_err(|e| Error::new(strerror(&e)))
    }
}

/// What `info` says about a header. `format` is the line that qcow2 adds.
pub fn describe(header: &Header, detached: bool, format: Option<&str>) -> Value {
    let mut m = Map::new();
    let mut put = |k: &str, v: Value| {
        m.insert(k.to_owned(), v);
    };
    put("ivgen-alg", json!(header.iv_name()));
    put("detached-header", json!(detached));
    put("hash-alg", json!(header.hash.name()));
    put("cipher-alg", json!(header.cipher_name()));
    put("uuid", json!(header.uuid));
    if let Some(hash) = header.iv_hash_name() {
        put("ivgen-hash-alg", json!(hash));
    }
    if let Some(format) = format {
        put("format", json!(format));
    }
    put("cipher-mode", json!(header.mode.name()));
    let slot = |s: &header::Slot| {
        let offset = s.material_sector as u64 * SECTOR as u64;
        match s.active {
            true => json!({ "active": true, "iters": s.iterations, "key-offset": offset, "stripes": s.stripes }),
            false => json!({ "active": false, "key-offset": offset }),
        }
    };
    put("slots", header.slots.iter().map(slot).collect());
    put("payload-offset", json!(header.payload_sector as u64 * SECTOR as u64));
    put("master-key-iters", json!(header.digest_iterations));
    Value::Object(m)
}

/// Makes an image: the header and its key in `place` at its start. Returns the bytes that the header takes.
pub fn create(place: &dyn Node, options: &CreateOptions) -> Result<u64> {
    let (header, material) = keys::make(options)?;
    let fail = |e: io::Error| Error::new(format!("Unable to write LUKS header: {}", strerror(&e)));
    place.write(0, &header.encode()).map_err(fail)?;
    place.write(header.slots[0].material_sector as u64 * SECTOR as u64, &material).map_err(fail)?;
    Ok(header.payload_sector as u64 * SECTOR as u64)
}

fn aligned(offset: u64, len: usize) -> bool {
    offset % SECTOR as u64 == 0 && len % SECTOR == 0
}

impl Node for Luks {
    fn driver(&self) -> &'static str {
        "luks"
    }
    fn filename(&self) -> String {
        self.file.filename()
    }
    fn size(&self) -> u64 {
        self.file.size().saturating_sub(self.payload)
    }
    fn read_only(&self) -> bool {
        !self.write
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let cipher = self.cipher()?;
        if aligned(offset, buf.len()) {
            self.file.read(self.payload + offset, buf)?;
            cipher.decrypt(offset / SECTOR as u64, buf);
            return Ok(());
        }
        let start = offset / SECTOR as u64 * SECTOR as u64;
        let end = (offset + buf.len() as u64).next_multiple_of(SECTOR as u64);
        let mut whole = vec![0; (end - start) as usize];
        self.read(start, &mut whole)?;
        let skip = (offset - start) as usize;
        buf.copy_from_slice(&whole[skip..skip + buf.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if !self.write {
            return Err(errno(Errno::PERM));
        }
        if aligned(offset, buf.len()) {
            return self.write_sectors(offset, buf);
        }
        let _alone = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let start = offset / SECTOR as u64 * SECTOR as u64;
        let end = (offset + buf.len() as u64).next_multiple_of(SECTOR as u64);
        let mut whole = vec![0; (end - start) as usize];
        self.read(start, &mut whole)?;
        let skip = (offset - start) as usize;
        whole[skip..skip + buf.len()].copy_from_slice(buf);
        self.write_sectors(start, &whole)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        // Zeroes are stored like all other data, or they would be visible.
        let zeroes = vec![0; (len as usize).min(CHUNK)];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(CHUNK as u64);
            self.write(offset + done, &zeroes[..n as usize])?;
            done += n;
        }
        Ok(())
    }

    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let len = len.min(self.size().saturating_sub(offset));
        Ok(Extent { len, data: true, allocated: true, ..Extent::default() })
    }

    fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        if size > i64::MAX as u64 - self.payload {
            return Err(Error::new("The requested file size is too large"));
        }
        self.file.resize(self.payload + size, preallocation)
    }

    fn starts_zero(&self) -> bool {
        false
    }
    fn allocated_size(&self) -> Option<u64> {
        self.file.allocated_size()
    }

    fn info(&self) -> Result<NodeInfo> {
        let header = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        let specific = describe(&header, self.detached.is_some(), None);
        Ok(NodeInfo { encrypted: true, specific: Some(("luks", specific)), ..NodeInfo::default() })
    }

    fn children(&self) -> Vec<(String, NodeRef)> {
        let mut list = vec![("file".to_owned(), self.file.clone())];
        if let Some(header) = &self.detached {
            list.push(("header".to_owned(), header.clone()));
        }
        list
    }

    fn as_luks(&self) -> Option<&Luks> {
        Some(self)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
