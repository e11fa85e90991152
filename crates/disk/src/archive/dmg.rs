//! Apple disk images (UDIF): a trailer that names a property list or resource fork, whose `mish` tables list the chunks.
//!
//! Reference: the UDIF layout as Jonathan Levin's "Demystifying the DMG file format" gives it; messages of QEMU 10.0.2.
//!
//! Not modelled: chunks packed with ADC, LZFSE or LZMA (an image with them is refused by name).

use super::{Format, MAX_PIECE, Place, ReadOnly, be32, be64, inflate};
use crate::node::{Node, NodeRef, eio, strerror};
use spec::error::{Error, Result};
use std::io::{self, Read};

const SECTOR: u64 = 512;
const TRAILER: u64 = 512;
/// Bytes at the end of the file that may hold the trailer.
const SEARCH: u64 = 1024;
const MAX_LIST: u64 = 16 << 20;
const MISH_HEADER: usize = 204;
const MISH_ENTRY: usize = 40;

const ZERO: u32 = 0;
const RAW: u32 = 1;
const IGNORE: u32 = 2;
const ZLIB: u32 = 0x8000_0005;
const BZIP2: u32 = 0x8000_0006;
const COMMENT: u32 = 0x7fff_fffe;
const END: u32 = 0xffff_ffff;

struct Chunk {
    kind: u32,
    start: u64,
    len: u64,
    at: u64,
    stored: u64,
}

pub struct Dmg {
    /// Sorted by place on the disk.
    chunks: Vec<Chunk>,
    size: u64,
}

fn read(file: &dyn Node, at: u64, len: u64) -> Result<Vec<u8>> {
    if len > MAX_LIST || at.checked_add(len).is_none_or(|end| end > file.size()) {
        return Err(Error::new("dmg: a table is outside of the file"));
    }
    let mut bytes = vec![0; len as usize];
    file.read(at, &mut bytes).map_err(|e| Error::new(strerror(&e)))?;
    Ok(bytes)
}

pub fn open(file: NodeRef, write: bool) -> Result<ReadOnly<Dmg>> {
    let size = file.size();
    let tail = read(file.as_ref(), size.saturating_sub(SEARCH), size.min(SEARCH))?;
    let at = (0..tail.len().saturating_sub(TRAILER as usize - 1)).rev().find(|i| tail[*i..].starts_with(b"koly"));
    let trailer = &tail[at.ok_or_else(|| Error::new("Could not locate UDIF trailer in dmg file"))?..];
    let data_fork = be64(trailer, 0x18);
    let (resources, resource_len) = (be64(trailer, 0x28), be64(trailer, 0x30));
    let (list, list_len) = (be64(trailer, 0xd8), be64(trailer, 0xe0));
    let mut chunks = Vec::new();
    if resource_len != 0 {
        resource_fork(&read(file.as_ref(), resources, resource_len)?, data_fork, &mut chunks)?;
    } else if list_len != 0 {
        property_list(&read(file.as_ref(), list, list_len)?, data_fork, &mut chunks)?;
    }
    if chunks.is_empty() {
        return Err(Error::new("dmg: no table of chunks was found"));
    }
    chunks.sort_by_key(|c| c.start);
    for pair in chunks.windows(2) {
        if pair[0].start + pair[0].len > pair[1].start {
            return Err(Error::new("dmg: chunks overlap"));
        }
    }
    let size = chunks.last().map_or(0, |c| c.start + c.len);
    ReadOnly::new(file, Dmg { chunks, size }, write)
}

/// Items of the resource fork: a length and that many bytes each.
fn resource_fork(fork: &[u8], data_fork: u64, chunks: &mut Vec<Chunk>) -> Result<()> {
    let cut = || Error::new("dmg: the resource fork is damaged");
    if fork.len() < 16 {
        return Err(cut());
    }
    let (start, len) = (be32(fork, 0) as usize, be32(fork, 8) as usize);
    let mut items = fork.get(start..start.saturating_add(len)).ok_or_else(cut)?;
    while items.len() > 4 {
        let n = be32(items, 0) as usize;
        let item = items.get(4..n.saturating_add(4)).ok_or_else(cut)?;
        mish(item, data_fork, chunks)?;
        items = &items[4 + n..];
    }
    Ok(())
}

/// The tables are the base64 texts in `<data>` elements that start with `mish`.
fn property_list(list: &[u8], data_fork: u64, chunks: &mut Vec<Chunk>) -> Result<()> {
    let text = String::from_utf8_lossy(list);
    for element in text.split("<data>").skip(1) {
        let Some((data, _)) = element.split_once("</data>") else { break };
        mish(&crate::secret::decode_base64(data.as_bytes())?, data_fork, chunks)?;
    }
    Ok(())
}

fn mish(table: &[u8], data_fork: u64, chunks: &mut Vec<Chunk>) -> Result<()> {
    if !table.starts_with(b"mish") || table.len() < MISH_HEADER {
        return Ok(()); // some other resource
    }
    let first = be64(table, 8);
    let data = data_fork.wrapping_add(be64(table, 24));
    let count = be32(table, 200) as usize;
    for entry in table[MISH_HEADER..].chunks_exact(MISH_ENTRY).take(count) {
        let kind = be32(entry, 0);
        match kind {
            COMMENT | END => continue,
            ZERO | RAW | IGNORE | ZLIB | BZIP2 => {}
            _ => return Err(Error::new(format!("dmg: chunks of type {kind:#x} are not supported"))),
        }
        let bytes = |sectors: u64| sectors.checked_mul(SECTOR).filter(|b| *b <= i64::MAX as u64 / 2);
        let places = first.checked_add(be64(entry, 8)).and_then(bytes).zip(bytes(be64(entry, 16)));
        let at = data.checked_add(be64(entry, 24)).filter(|a| *a <= i64::MAX as u64 / 2);
        let ((start, len), at) = places.zip(at).ok_or_else(|| Error::new("dmg: a chunk is out of range"))?;
        let stored = be64(entry, 32);
        let packed = matches!(kind, ZLIB | BZIP2);
        if packed && (len > MAX_PIECE || stored > MAX_PIECE) {
            return Err(Error::new(format!("length {} of a packed chunk is larger than the maximum {MAX_PIECE}", len.max(stored))));
        }
        if len > 0 {
            chunks.push(Chunk { kind, start, len, at, stored });
        }
    }
    Ok(())
}

impl Format for Dmg {
    const NAME: &'static str = "dmg";

    fn size(&self) -> u64 {
        self.size
    }

    fn locate(&self, _file: &dyn Node, offset: u64, len: u64) -> io::Result<(Place, u64)> {
        let index = self.chunks.partition_point(|c| c.start + c.len <= offset);
        let chunk = self.chunks.get(index).ok_or_else(eio)?;
        if offset < chunk.start {
            return Ok((Place::Zero, (chunk.start - offset).min(len)));
        }
        let inside = offset - chunk.start;
        let run = (chunk.len - inside).min(len);
        let place = match chunk.kind {
            RAW => Place::At(chunk.at + inside),
            ZLIB | BZIP2 => Place::Packed(index as u64, inside),
            _ => Place::Zero,
        };
        Ok((place, run))
    }

    fn unpack(&self, file: &dyn Node, piece: u64) -> io::Result<Vec<u8>> {
        let chunk = &self.chunks[piece as usize];
        let stored = chunk.stored.min(file.size().saturating_sub(chunk.at));
        let mut packed = vec![0; stored as usize];
        file.read(chunk.at, &mut packed)?;
        if chunk.kind == ZLIB {
            return inflate(&packed, chunk.len as usize, true);
        }
        let mut out = vec![0; chunk.len as usize];
        bzip2_rs::DecoderReader::new(packed.as_slice()).read_exact(&mut out).map_err(|_| eio())?;
        Ok(out)
    }

    fn has_places(&self) -> bool {
        false
    }
}
