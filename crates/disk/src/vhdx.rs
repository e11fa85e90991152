//! The VHDX format of Hyper-V: dynamic and fixed disks.
//!
//! Reference: Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format", version 6.0; sizes and defaults as
//! `qemu-img` 10.0.2 chooses them.
//!
//! Not modelled: differencing disks (refused). Writes do not go through the log: a block's data is in the file before
//! its table entry, which is one aligned word, so no intermediate state needs one. A log that another program left is
//! replayed when the image is opened for writing.

use crate::blocks::{Blocks, Layout, Place};
use crate::node::{CheckReport, Node, NodeRef, Preallocation, eio, strerror};
use crate::options::Options;
use spec::error::{Error, Result};
use std::io;

const KIB: u64 = 1024;
const MIB: u64 = 1 << 20;
const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
const REGIONS: [u64; 2] = [192 * KIB, 256 * KIB];
const HEADER_BYTES: usize = 4096;
const REGION_BYTES: usize = 64 << 10;
const MAX_SIZE: u64 = 64 << 40;
const MAX_LOG: u32 = 64 << 20;

const fn guid(text: &str) -> [u8; 16] {
    // The first three groups are stored with their bytes reversed.
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let b = text.as_bytes();
    let mut plain = [0u8; 16];
    let (mut i, mut n) = (0, 0);
    while i < b.len() {
        if b[i] != b'-' {
            let digit = if b[i] <= b'9' { b[i] - b'0' } else { b[i] - b'A' + 10 };
            plain[n / 2] = plain[n / 2] << 4 | digit;
            n += 1;
        }
        i += 1;
    }
    let mut out = [0u8; 16];
    let mut k = 0;
    while k < 16 {
        out[k] = plain[ORDER[k]];
        k += 1;
    }
    out
}

const REGION_BAT: [u8; 16] = guid("2DC27766-F623-4200-9D64-115E9BFD4A08");
const REGION_METADATA: [u8; 16] = guid("8B7CA206-4790-4B9A-B8FE-575F050F886E");
const FILE_PARAMETERS: [u8; 16] = guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
const DISK_SIZE: [u8; 16] = guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
const LOGICAL_SECTOR: [u8; 16] = guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
const PHYSICAL_SECTOR: [u8; 16] = guid("CDA348C7-445D-4471-9CC9-E9885251C556");
const PAGE83: [u8; 16] = guid("BECA12AB-B2E6-4523-93EF-C309E000C746");

const STATE_PRESENT: u64 = 6;
const STATE_PARTIAL: u64 = 7;

/// CRC-32C (Castagnoli), bit by bit through a table built at compile time.
pub fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut k = 0;
            while k < 8 {
                c = if c & 1 != 0 { c >> 1 ^ 0x82f63b78 } else { c >> 1 };
                k += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |c, b| c >> 8 ^ TABLE[((c ^ *b as u32) & 0xff) as usize])
}

fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

fn le64(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"))
}

/// Puts the checksum of a structure into its bytes 4 to 8.
fn seal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = crc32c(bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

fn sound(bytes: &[u8], signature: &[u8; 4]) -> bool {
    let mut copy = bytes.to_vec();
    seal(&mut copy);
    bytes.starts_with(signature) && copy[4..8] == bytes[4..8]
}

pub struct Vhdx {
    /// The current header and which of the two places it is in.
    header: Vec<u8>,
    current: usize,
    bat: Vec<u64>,
    bat_offset: u64,
    block_size: u64,
    chunk_ratio: u64,
    marked: bool,
    /// Opening the image has replayed a log; the first check tells of it.
    replayed: bool,
}

impl Vhdx {
    fn index(&self, block: u64) -> usize {
        (block + block / self.chunk_ratio) as usize
    }

    /// Writes the other header with a higher sequence number, so that one of the two is always whole.
    fn write_header(&mut self, file: &dyn Node, change: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let sequence = le64(&self.header, 8) + 1;
        self.header[8..16].copy_from_slice(&sequence.to_le_bytes());
        change(&mut self.header);
        seal(&mut self.header);
        self.current = 1 - self.current;
        file.write(HEADERS[self.current], &self.header)?;
        file.flush()
    }
}

fn read_at(file: &dyn Node, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read(offset, &mut bytes).map_err(|e| Error::new(format!("Could not read VHDX structures: {}", strerror(&e))))?;
    Ok(bytes)
}

fn newest_header(file: &dyn Node) -> Result<(Vec<u8>, usize)> {
    let mut best: Option<(Vec<u8>, usize)> = None;
    for (i, place) in HEADERS.iter().enumerate() {
        let bytes = read_at(file, *place, HEADER_BYTES)?;
        let newer = best.as_ref().is_none_or(|(b, _)| le64(&bytes, 8) > le64(b, 8));
        if sound(&bytes, b"head") && u16::from_le_bytes([bytes[66], bytes[67]]) == 1 && newer {
            best = Some((bytes, i));
        }
    }
    best.ok_or_else(|| Error::new("No valid VHDX header found"))
}

/// Offset and length of the block table and the metadata.
fn regions(file: &dyn Node) -> Result<[(u64, u64); 2]> {
    let table = REGIONS.iter().map(|r| read_at(file, *r, REGION_BYTES)).find(|b| b.as_ref().is_ok_and(|b| sound(b, b"regi")));
    let Some(Ok(table)) = table else { return Err(Error::new("No valid VHDX region table found")) };
    let mut found = [(0, 0); 2];
    for row in table[16..].chunks_exact(32).take(le32(&table, 8).min(2047) as usize) {
        let place = (le64(row, 16), le32(row, 24) as u64);
        if row[..16] == REGION_BAT {
            found[0] = place;
        } else if row[..16] == REGION_METADATA {
            found[1] = place;
        } else if le32(row, 28) & 1 != 0 {
            return Err(Error::new("VHDX image has a required region that is not known"));
        }
    }
    let fits = |(o, l): (u64, u64)| o >= MIB && l > 0 && o.checked_add(l).is_some();
    if found.into_iter().all(fits) { Ok(found) } else { Err(Error::new("VHDX region table is not complete")) }
}

struct Metadata {
    block_size: u64,
    size: u64,
    sector: u64,
}

fn metadata(file: &dyn Node, place: (u64, u64)) -> Result<Metadata> {
    let table = read_at(file, place.0, REGION_BYTES)?;
    if !table.starts_with(b"metadata") {
        return Err(Error::new("VHDX metadata table not found"));
    }
    let mut m = Metadata { block_size: 0, size: 0, sector: 0 };
    let count = u16::from_le_bytes([table[10], table[11]]).min(2047) as usize;
    for row in table[32..].chunks_exact(32).take(count) {
        let offset = le32(row, 16) as u64;
        if offset >= place.1 {
            return Err(Error::new("VHDX metadata item is outside of its region"));
        }
        let data = read_at(file, place.0 + offset, 8)?;
        let id: &[u8] = &row[..16];
        if id == FILE_PARAMETERS {
            m.block_size = le32(&data, 0) as u64;
            if le32(&data, 4) & 2 != 0 {
                return Err(Error::new("Differencing VHDX images are not supported"));
            }
        } else if id == DISK_SIZE {
            m.size = le64(&data, 0);
        } else if id == LOGICAL_SECTOR {
            m.sector = le32(&data, 0) as u64;
        } else if id != PHYSICAL_SECTOR && id != PAGE83 && le32(row, 24) & 4 != 0 {
            return Err(Error::new("VHDX image has a required metadata item that is not known"));
        }
    }
    let block = m.block_size.is_power_of_two() && (MIB..=256 * MIB).contains(&m.block_size);
    if !block || ![512, 4096].contains(&m.sector) || m.size == 0 || m.size > MAX_SIZE {
        return Err(Error::new("VHDX metadata has invalid sizes"));
    }
    Ok(m)
}

pub fn open(file: NodeRef, write: bool) -> Result<Blocks<Vhdx>> {
    if !read_at(file.as_ref(), 0, 8)?.starts_with(b"vhdxfile") {
        return Err(Error::new("Image is not in VHDX format"));
    }
    let (header, current) = newest_header(file.as_ref())?;
    let mut layout = Vhdx { header, current, bat: Vec::new(), bat_offset: 0, block_size: 0, chunk_ratio: 1, marked: false, replayed: false };
    if layout.header[48..64].iter().any(|b| *b != 0) {
        if !write {
            return Err(Error::new(format!(
                "VHDX image file '{}' opened read-only, but contains a log that needs to be replayed\nTo replay the log, run:\nqemu-img check -r all '{}'",
                file.filename(),
                file.filename()
            )));
        }
        replay(file.as_ref(), &mut layout)?;
        layout.replayed = true;
    }
    let [bat, meta] = regions(file.as_ref())?;
    let m = metadata(file.as_ref(), meta)?;
    layout.block_size = m.block_size;
    layout.chunk_ratio = (1 << 23) * m.sector / m.block_size;
    layout.bat_offset = bat.0;
    let blocks = m.size.div_ceil(m.block_size);
    let entries = blocks + (blocks - 1) / layout.chunk_ratio;
    if entries * 8 > bat.1 || bat.0 + entries * 8 > file.size() {
        return Err(Error::new("VHDX block table is too short for the disk"));
    }
    layout.bat = read_at(file.as_ref(), bat.0, entries as usize * 8)?.chunks_exact(8).map(|b| le64(b, 0)).collect();
    for block in 0..blocks {
        let entry = layout.bat[layout.index(block)];
        if entry & 7 == STATE_PARTIAL {
            return Err(Error::new("VHDX block table has a state that only differencing images have"));
        }
    }
    Ok(Blocks::new(file, m.size, write, layout))
}

impl Layout for Vhdx {
    fn driver(&self) -> &'static str {
        "vhdx"
    }

    fn block_size(&self) -> u64 {
        self.block_size
    }

    fn locate(&self, block: u64) -> Place {
        let entry = self.bat[self.index(block)];
        if entry & 7 == STATE_PRESENT { Place::At(entry & !(MIB - 1)) } else { Place::Absent }
    }

    /// The first write of a session renews the identifiers that tell others about it.
    fn before_write(&mut self, file: &dyn Node) -> io::Result<()> {
        if self.marked {
            return Ok(());
        }
        self.marked = true;
        self.write_header(file, |h| {
            h[16..48].copy_from_slice(&crate::random::bytes::<32>());
            h[48..64].fill(0);
        })
    }

    fn allocate(&mut self, file: &dyn Node, _block: u64) -> io::Result<u64> {
        let place = file.size().next_multiple_of(MIB);
        file.resize(place + self.block_size, Preallocation::Off).map_err(|_| eio())?;
        Ok(place)
    }

    fn link(&mut self, file: &dyn Node, block: u64, place: u64) -> io::Result<()> {
        let index = self.index(block);
        self.bat[index] = place | STATE_PRESENT;
        file.write(self.bat_offset + index as u64 * 8, &self.bat[index].to_le_bytes())
    }

    /// All that can be repaired is a log, and that is done by opening.
    fn can_repair(&self) -> bool {
        true
    }

    fn check(&mut self, file: &dyn Node) -> Option<io::Result<CheckReport>> {
        let corruptions_fixed = u64::from(std::mem::take(&mut self.replayed));
        let mut report = CheckReport { corruptions_fixed, ..CheckReport::default() };
        let end = file.size();
        let mut used: Vec<u64> = self.bat.iter().filter(|e| **e & 7 == STATE_PRESENT).map(|e| e & !(MIB - 1)).collect();
        used.sort_unstable();
        for (i, place) in used.iter().enumerate() {
            if place + self.block_size > end {
                report.lines.push(format!("ERROR: block at {place:#x} is outside of the file"));
                report.corruptions += 1;
            }
            if i > 0 && place - used[i - 1] < self.block_size {
                report.lines.push(format!("ERROR: blocks at {:#x} and {place:#x} overlap", used[i - 1]));
                report.corruptions += 1;
            }
        }
        Some(Ok(report))
    }
}

/// Applies the log: the newest run of entries that follow each other, then clears it.
fn replay(file: &dyn Node, layout: &mut Vhdx) -> Result<()> {
    let (len, offset) = (le32(&layout.header, 68), le64(&layout.header, 72));
    if len == 0 || len > MAX_LOG || len % MIB as u32 != 0 || offset % MIB != 0 {
        return Err(Error::new("VHDX log has an invalid place"));
    }
    let log = read_at(file, offset, len as usize)?;
    let guid = layout.header[48..64].to_vec();
    let entries = newest_sequence(&log, &guid);
    let fail = |e: io::Error| Error::new(format!("Could not replay the VHDX log: {}", strerror(&e)));
    if let Some(last) = entries.last() {
        let wanted = le64(last, 56);
        if file.size() < wanted {
            file.resize(wanted, Preallocation::Off)?;
        }
    }
    for entry in &entries {
        apply(file, entry).map_err(fail)?;
    }
    file.flush().map_err(fail)?;
    // Twice, so that neither header names the log any more.
    for _ in 0..2 {
        layout.write_header(file, |h| h[48..64].fill(0)).map_err(fail)?;
    }
    Ok(())
}

/// One log entry at a place of the ring, with its checksum verified.
fn entry_at(log: &[u8], at: usize, guid: &[u8]) -> Option<Vec<u8>> {
    let ring = |from: usize, len: usize| -> Vec<u8> { log.iter().cycle().skip(from).take(len).copied().collect() };
    let head = &log[at..at + 64];
    let len = le32(head, 8) as usize;
    if !head.starts_with(b"loge") || &head[32..48] != guid || len == 0 || len % 4096 != 0 || len > log.len() {
        return None;
    }
    let bytes = ring(at, len);
    sound(&bytes, b"loge").then_some(bytes)
}

/// The sequence of entries with the highest number whose tail entry is there.
fn newest_sequence(log: &[u8], guid: &[u8]) -> Vec<Vec<u8>> {
    let mut best: Vec<Vec<u8>> = Vec::new();
    for start in (0..log.len()).step_by(4096) {
        let mut run: Vec<Vec<u8>> = Vec::new();
        let mut at = start;
        while let Some(entry) = entry_at(log, at, guid) {
            if run.last().is_some_and(|l| le64(&entry, 16) != le64(l, 16) + 1) || run.len() > log.len() / 4096 {
                break;
            }
            at = (at + entry.len()) % log.len();
            run.push(entry);
        }
        // The last entry says where the sequence begins.
        while run.last().is_some_and(|l| le32(l, 12) as usize != start) {
            run.pop();
        }
        let number = |r: &Vec<Vec<u8>>| r.last().map_or(0, |l| le64(l, 16));
        if number(&run) > number(&best) {
            best = run;
        }
    }
    best
}

fn apply(file: &dyn Node, entry: &[u8]) -> io::Result<()> {
    let count = le32(entry, 24) as usize;
    let first_data = (64 + count * 32).next_multiple_of(4096);
    let mut data = first_data;
    for i in 0..count {
        let Some(d) = entry.get(64 + i * 32..96 + i * 32) else { return Err(eio()) };
        let place = le64(d, 16);
        if d.starts_with(b"zero") {
            file.write_zeroes(place, le64(d, 8), false)?;
        } else if d.starts_with(b"desc") {
            let Some(sector) = entry.get(data..data + 4096).filter(|s| s.starts_with(b"data")) else { return Err(eio()) };
            // The descriptor keeps the bytes that the sector's own marks have replaced.
            let mut bytes = d[8..16].to_vec();
            bytes.extend(&sector[8..4092]);
            bytes.extend(&d[4..8]);
            file.write(place, &bytes)?;
            data += 4096;
        } else {
            return Err(eio());
        }
    }
    Ok(())
}

/// Makes an image in an empty file.
pub fn create(file: &dyn Node, options: &mut Options) -> Result<()> {
    let size = options.take_size("size")?.unwrap_or(0).next_multiple_of(512);
    let log_size = options.take_size("log_size")?.unwrap_or(MIB);
    let mut block_size = options.take_size("block_size")?.unwrap_or(0);
    options.take_bool("block_state_zero")?;
    let fixed = match options.take("subformat").as_deref() {
        None | Some("dynamic") => false,
        Some("fixed") => true,
        Some(other) => return Err(Error::new(format!("Invalid subformat '{other}'"))),
    };
    if options.take("preallocation").is_some_and(|p| p != "off") {
        return Err(Error::new("Preallocation is not supported for VHDX images; use subformat=fixed"));
    }
    if size == 0 || size > MAX_SIZE {
        return Err(Error::new("Image size too large; max of 64TB"));
    }
    if log_size < MIB || log_size % MIB != 0 || log_size > MAX_LOG as u64 {
        return Err(Error::new("Log size must be a multiple of 1 MB"));
    }
    if block_size == 0 {
        block_size = match size {
            s if s > 32 << 40 => 64 * MIB,
            s if s > 100 << 30 => 32 * MIB,
            s if s > 1 << 30 => 16 * MIB,
            _ => 8 * MIB,
        };
    }
    if block_size % MIB != 0 || !block_size.is_power_of_two() || block_size > 256 * MIB {
        return Err(Error::new("Block size must be a power of two between 1 MB and 256 MB"));
    }
    let chunk_ratio = (1 << 23) * 512 / block_size;
    let blocks = size.div_ceil(block_size);
    let entries = blocks + (blocks - 1) / chunk_ratio;
    let metadata_at = MIB + log_size;
    let bat_at = metadata_at + MIB;
    let bat_len = (entries * 8).next_multiple_of(MIB);
    let payload = (bat_at + bat_len).next_multiple_of(block_size);
    let fail = |e: io::Error| Error::new(format!("Could not write the VHDX image: {}", strerror(&e)));
    file.resize(if fixed { payload + blocks * block_size } else { payload }, Preallocation::Off)?;
    write_identity(file, log_size).map_err(fail)?;
    write_regions(file, (bat_at, bat_len), metadata_at).map_err(fail)?;
    write_metadata(file, metadata_at, size, block_size, fixed).map_err(fail)?;
    if fixed {
        let mut bat = vec![0u64; entries as usize];
        for block in 0..blocks {
            bat[(block + block / chunk_ratio) as usize] = (payload + block * block_size) | STATE_PRESENT;
        }
        let bytes: Vec<u8> = bat.iter().flat_map(|e| e.to_le_bytes()).collect();
        file.write(bat_at, &bytes).map_err(fail)?;
    }
    Ok(())
}

fn write_identity(file: &dyn Node, log_size: u64) -> io::Result<()> {
    let mut id = b"vhdxfile".to_vec();
    id.extend("Rhea".encode_utf16().flat_map(|c| c.to_le_bytes()));
    id.resize(520, 0);
    file.write(0, &id)?;
    for (i, place) in HEADERS.iter().enumerate() {
        let mut h = vec![0u8; HEADER_BYTES];
        h[..4].copy_from_slice(b"head");
        h[8..16].copy_from_slice(&(i as u64 + 1).to_le_bytes());
        h[16..48].copy_from_slice(&crate::random::bytes::<32>());
        h[66..68].copy_from_slice(&1u16.to_le_bytes());
        h[68..72].copy_from_slice(&(log_size as u32).to_le_bytes());
        h[72..80].copy_from_slice(&MIB.to_le_bytes());
        seal(&mut h);
        file.write(*place, &h)?;
    }
    Ok(())
}

fn write_regions(file: &dyn Node, bat: (u64, u64), metadata_at: u64) -> io::Result<()> {
    let mut r = vec![0u8; REGION_BYTES];
    r[..4].copy_from_slice(b"regi");
    r[8..12].copy_from_slice(&2u32.to_le_bytes());
    for (i, (id, place, len)) in [(REGION_BAT, bat.0, bat.1), (REGION_METADATA, metadata_at, MIB)].iter().enumerate() {
        let row = &mut r[16 + i * 32..48 + i * 32];
        row[..16].copy_from_slice(id);
        row[16..24].copy_from_slice(&place.to_le_bytes());
        row[24..28].copy_from_slice(&(*len as u32).to_le_bytes());
        row[28..32].copy_from_slice(&1u32.to_le_bytes());
    }
    seal(&mut r);
    REGIONS.iter().try_for_each(|place| file.write(*place, &r))
}

fn write_metadata(file: &dyn Node, at: u64, size: u64, block_size: u64, fixed: bool) -> io::Result<()> {
    let parameters = [(block_size as u32).to_le_bytes(), u32::from(fixed).to_le_bytes()].concat();
    let items: [(&[u8; 16], Vec<u8>, u32); 5] = [
        (&FILE_PARAMETERS, parameters, 4),
        (&DISK_SIZE, size.to_le_bytes().to_vec(), 6),
        (&PAGE83, crate::random::bytes::<16>().to_vec(), 6),
        (&LOGICAL_SECTOR, 512u32.to_le_bytes().to_vec(), 6),
        (&PHYSICAL_SECTOR, 512u32.to_le_bytes().to_vec(), 6),
    ];
    let mut table = vec![0u8; REGION_BYTES];
    table[..8].copy_from_slice(b"metadata");
    table[10..12].copy_from_slice(&(items.len() as u16).to_le_bytes());
    let mut data = Vec::<u8>::new();
    for (i, (id, bytes, flags)) in items.iter().enumerate() {
        let row = &mut table[32 + i * 32..64 + i * 32];
        row[..16].copy_from_slice(*id);
        row[16..20].copy_from_slice(&((REGION_BYTES + data.len()) as u32).to_le_bytes());
        row[20..24].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        row[24..28].copy_from_slice(&flags.to_le_bytes());
        data.extend(bytes);
    }
    table.extend(data);
    file.write(at, &table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe3069283);
    }

    #[test]
    fn guids_are_stored_mixed_endian() {
        assert_eq!(REGION_BAT[..8], [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42]);
    }
}
