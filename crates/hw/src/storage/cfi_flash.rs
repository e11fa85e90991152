//! A bank of CFI flash with Intel's command set: two 16-bit chips side by side on a 32-bit bus.
//!
//! **Reference**: Common Flash Memory Interface (JESD68.01), Intel basic command set 0001h. Commands and query table as QEMU's
//! `virt` presents them: programming replaces bits whatever they were, and takes no time; locks are accepted and hold
//! nothing.
//! **Pins**: its place in the address space (memory while in array mode, registers otherwise); a disk node that every
//! change is written to.
//! **Not modelled**: chips that receive different commands on the two halves of the bus.

use disk::node::NodeRef;
use fabric::space::MapId;
use fabric::{AddressSpace, Device, Mmio, MmioTarget, Ram, Region};
use spec::{Context, Error, Result};
use std::sync::Arc;

/// Bytes of both chips that are erased together.
pub const SECTOR_BYTES: u64 = 256 << 10;
/// Bytes the write buffer of both chips holds.
const BUFFER_BYTES: u64 = 2 << 11;
const BUS_BYTES: u64 = 4;

mod status {
    pub const READY: u8 = 0x80;
    pub const ERASE_ERROR: u8 = 0x20;
    pub const PROGRAM_ERROR: u8 = 0x10;
}

/// What reads give and the next write means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Array,
    Status,
    Identify,
    Query,
    Program,
    Erase,
    Lock,
    BufferCount,
    /// That many words are still to come.
    BufferData(u32),
    BufferConfirm,
}

/// Where the bank is mapped.
struct Place {
    space: Arc<AddressSpace>,
    base: u64,
    id: MapId,
    name: String,
    myself: Arc<dyn MmioTarget>,
}

pub struct CfiFlash {
    ram: Arc<Ram>,
    len: u64,
    node: Option<NodeRef>,
    read_only: bool,
    mode: Mode,
    status: u8,
    /// Words of a buffered write that wait for the confirmation.
    buffer: Vec<(u64, u8, u32)>,
    place: Option<Place>,
}

impl CfiFlash {
    /// A bank of `len` bytes at `base`, with the contents of a node of the same size, or erased to zero as the reference
    /// machine's flash without a file is.
    pub fn install(space: &Arc<AddressSpace>, name: &str, base: u64, len: u64, node: Option<NodeRef>) -> Result<Arc<Mmio<CfiFlash>>> {
        assert!(len.is_multiple_of(SECTOR_BYTES), "flash of {len:#x} bytes");
        let ram = Arc::new(Ram::new(len)?);
        if let Some(node) = &node {
            load(name, &ram, len, node)?;
        }
        let read_only = node.as_ref().is_some_and(|n| n.read_only());
        let (mode, status) = (Mode::Array, status::READY);
        let bank = CfiFlash { ram: ram.clone(), len, node, read_only, mode, status, buffer: Vec::new(), place: None };
        let device = Mmio::new(bank);
        let myself: Arc<dyn MmioTarget> = device.clone();
        let id = space.map(base, len, 0, Region::rom(name, ram, Some(myself.clone())));
        // The space holds the device as long as it is mapped, and the device its space: machines live as long as the
        // process.
        device.lock().place = Some(Place { space: space.clone(), base, id, name: name.to_string(), myself });
        Ok(device)
    }

    /// The contents, for a loader that puts firmware into a bank without a file.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    fn enter(&mut self, mode: Mode) {
        let remap = (self.mode == Mode::Array) != (mode == Mode::Array);
        self.mode = mode;
        let Some(place) = self.place.as_ref().filter(|_| remap) else { return };
        let region = match mode {
            Mode::Array => Region::rom(&place.name, self.ram.clone(), Some(place.myself.clone())),
            _ => Region::device(&place.name, place.myself.clone()),
        };
        place.space.change(|map| map.replace(place.id, region));
    }

    fn command(&mut self, command: u8) {
        let mode = match command {
            0x10 | 0x40 => Mode::Program,
            0x20 | 0x28 => Mode::Erase,
            0x50 => {
                self.status = 0;
                Mode::Array
            }
            0x60 => Mode::Lock,
            0x70 => Mode::Status,
            0x90 => Mode::Identify,
            0x98 => Mode::Query,
            0xe8 => {
                self.status |= status::READY;
                Mode::BufferCount
            }
            _ => Mode::Array,
        };
        self.enter(mode);
    }

    /// The second write of erase and lock commands.
    fn confirm(&mut self, offset: u64, value: u8) {
        match (self.mode, value) {
            (Mode::Erase, 0xd0) => {
                let start = offset / SECTOR_BYTES * SECTOR_BYTES;
                if self.read_only {
                    self.status |= status::ERASE_ERROR;
                } else {
                    self.ram.fill(start, SECTOR_BYTES, 0xff);
                    self.changed(start, SECTOR_BYTES, status::ERASE_ERROR);
                }
            }
            (Mode::Lock, 0xd0 | 0x01) => {}
            _ => return self.enter(Mode::Array),
        }
        self.status |= status::READY;
        self.enter(Mode::Status);
    }

    fn program(&mut self, words: &[(u64, u8, u32)]) {
        self.status |= status::READY;
        if self.read_only {
            self.status |= status::PROGRAM_ERROR;
            return;
        }
        for &(offset, size, value) in words {
            self.ram.store(offset, size, value.into());
        }
        let start = words.iter().map(|w| w.0).min().unwrap_or(0);
        let end = words.iter().map(|w| w.0 + u64::from(w.1)).max().unwrap_or(0);
        self.changed(start, end - start, status::PROGRAM_ERROR);
    }

    /// Writes a range back, and tells whoever keeps translations of it.
    fn changed(&mut self, start: u64, len: u64, failed: u8) {
        if let Some(place) = &self.place {
            place.space.written(&self.ram, start, place.base + start, len);
        }
        let Some(node) = &self.node else { return };
        let mut bytes = vec![0; len as usize];
        self.ram.read(start, &mut bytes);
        if let Err(e) = node.write(start, &bytes) {
            log::warn!("flash '{}' at {start:#x}: {e}", node.filename());
            self.status |= failed;
        }
    }

    fn buffer_count(&mut self, value: u32) {
        let words = (value & 0xffff) + 1;
        self.buffer.clear();
        if u64::from(words) * BUS_BYTES > BUFFER_BYTES {
            self.status |= status::PROGRAM_ERROR;
            self.enter(Mode::Status);
        } else {
            self.enter(Mode::BufferData(words));
        }
    }

    fn buffer_data(&mut self, left: u32, word: (u64, u8, u32)) {
        let first = self.buffer.first().map_or(word.0, |w| w.0);
        if first / BUFFER_BYTES == word.0 / BUFFER_BYTES {
            self.buffer.push(word);
        } else {
            self.status |= status::PROGRAM_ERROR;
        }
        self.enter(if left > 1 { Mode::BufferData(left - 1) } else { Mode::BufferConfirm });
    }

    fn buffer_confirm(&mut self, value: u8) {
        let words = std::mem::take(&mut self.buffer);
        if value != 0xd0 {
            return self.enter(Mode::Array);
        }
        if self.status & status::PROGRAM_ERROR == 0 {
            self.program(&words);
        }
        self.enter(Mode::Status);
    }

    /// The query table of one chip.
    fn query(&self, index: u64) -> u8 {
        let chip = self.len / 2;
        let sectors = self.len / SECTOR_BYTES - 1;
        let sector = SECTOR_BYTES / 2 / 256;
        match index {
            0x10..0x13 => b"QRY"[index as usize - 0x10],
            // Command set 0001h, extended table at 31h.
            0x13 => 0x01,
            0x15 => 0x31,
            // 4.5 V to 5.5 V.
            0x1b => 0x45,
            0x1c => 0x55,
            // Timeouts as powers of two: typical 128 us for a word and the buffer, 1 s for a sector; at most 16 times that.
            0x1f | 0x20 => 0x07,
            0x21 => 0x0a,
            0x23..=0x25 => 0x04,
            0x27 => chip.ilog2() as u8,
            // 16 bits wide; the buffer; one region of equal sectors.
            0x28 => 0x02,
            0x2a => BUFFER_BYTES.ilog2() as u8 - 1,
            0x2c => 0x01,
            0x2d => sectors as u8,
            0x2e => (sectors >> 8) as u8,
            0x2f => sector as u8,
            0x30 => (sector >> 8) as u8,
            0x31..0x36 => b"PRI10"[index as usize - 0x31],
            0x3f => 0x01,
            _ => 0,
        }
    }
}

fn load(name: &str, ram: &Ram, len: u64, node: &NodeRef) -> Result<()> {
    if node.size() != len {
        return Err(Error::new(format!("device requires {len} bytes, block backend provides {} bytes", node.size())));
    }
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let part = (len - at).min(chunk.len() as u64) as usize;
        node.read(at, &mut chunk[..part]).context(|| format!("Could not read the contents of '{name}'"))?;
        // Zeroes need no memory.
        if chunk[..part].iter().any(|&b| b != 0) {
            ram.write(at, &chunk[..part]);
        }
        at += part as u64;
    }
    Ok(())
}

impl Device for CfiFlash {
    fn widths(&self) -> fabric::Widths {
        fabric::Widths::UP_TO_4
    }

    fn read(&mut self, offset: u64, size: u8) -> u64 {
        // Both chips answer; a narrow access sees one of them, and neither has more than eight interesting bits.
        let both = |value: u8| if size == 4 { u64::from(value) * 0x1_0001 } else { value.into() };
        let index = (offset / BUS_BYTES) & 0xff;
        match self.mode {
            Mode::Array if self.ram.contains(offset, size.into()) => self.ram.load(offset, size),
            Mode::Array => 0,
            Mode::Identify => both(if index == 0 { 0x89 } else if index == 1 { 0x18 } else { 0 }),
            Mode::Query => both(self.query(index)),
            _ => both(self.status),
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        if offset >= self.len || u64::from(size) > self.len - offset {
            return;
        }
        let word = (offset, size, value as u32);
        match self.mode {
            Mode::Program => {
                self.program(&[word]);
                self.enter(Mode::Status);
            }
            Mode::Erase | Mode::Lock => self.confirm(offset, value as u8),
            Mode::BufferCount => self.buffer_count(value as u32),
            Mode::BufferData(left) => self.buffer_data(left, word),
            Mode::BufferConfirm => self.buffer_confirm(value as u8),
            // Only a return to array mode ends a query.
            Mode::Query if value as u8 != 0xff => {}
            Mode::Array | Mode::Status | Mode::Identify | Mode::Query => self.command(value as u8),
        }
    }

    fn reset(&mut self) {
        self.status = status::READY;
        self.buffer.clear();
        self.enter(Mode::Array);
    }

    fn info(&self) -> String {
        format!("{} MiB, mode {:?}, status {:#04x}", self.len >> 20, self.mode, self.status)
    }
}

#[cfg(test)]
mod tests;
