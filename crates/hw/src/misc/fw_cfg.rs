//! fw_cfg: how a machine hands kernel, tables and settings to its firmware.
//!
//! **Reference**: the interface as QEMU documents it (docs/specs/fw_cfg), with memory-mapped registers: data at 0, selector
//! at 8, DMA address at 16. Numbers in registers and control blocks are big-endian, in items mostly little-endian.
//! **Pins**: DMA to guest memory.
//! **Not modelled**: the register layout of port I/O (the PC boards need it).

use fabric::{AddressSpace, Device};
use spec::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Selector keys with fixed meaning.
pub mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NO_GRAPHIC: u16 = 0x04;
    pub const NB_CPUS: u16 = 0x05;
    pub const MACHINE_ID: u16 = 0x06;
    pub const KERNEL_ADDR: u16 = 0x07;
    pub const KERNEL_SIZE: u16 = 0x08;
    pub const KERNEL_CMDLINE: u16 = 0x09;
    pub const INITRD_ADDR: u16 = 0x0a;
    pub const INITRD_SIZE: u16 = 0x0b;
    pub const BOOT_DEVICE: u16 = 0x0c;
    pub const NUMA: u16 = 0x0d;
    pub const BOOT_MENU: u16 = 0x0e;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const KERNEL_ENTRY: u16 = 0x10;
    pub const KERNEL_DATA: u16 = 0x11;
    pub const INITRD_DATA: u16 = 0x12;
    pub const CMDLINE_ADDR: u16 = 0x13;
    pub const CMDLINE_SIZE: u16 = 0x14;
    pub const CMDLINE_DATA: u16 = 0x15;
    pub const SETUP_ADDR: u16 = 0x16;
    pub const SETUP_SIZE: u16 = 0x17;
    pub const SETUP_DATA: u16 = 0x18;
    pub const FILE_DIR: u16 = 0x19;
    pub const FILE_FIRST: u16 = 0x20;
    /// Items of one architecture have this bit.
    pub const ARCH_LOCAL: u16 = 0x8000;
}

/// Files that fit, and the length of their names.
const FILES_MAX: usize = 0x60;
const NAME_MAX: usize = 55;
const DIRECTORY_ENTRY: usize = 64;
/// Bit that selected a write channel once; ignored.
const WRITE_CHANNEL: u16 = 0x4000;
/// The traditional interface and DMA.
const FEATURES: u32 = 3;
const DMA_SIGNATURE: u64 = u64::from_be_bytes(*b"QEMU CFG");

/// The control word of a DMA block.
mod control {
    pub const ERROR: u32 = 1;
    pub const READ: u32 = 1 << 1;
    pub const SKIP: u32 = 1 << 2;
    pub const SELECT: u32 = 1 << 3;
    pub const WRITE: u32 = 1 << 4;
}

type Written = Box<dyn Fn(&[u8]) + Send>;

struct Item {
    data: Vec<u8>,
    /// The guest may write; told of each write with the new contents.
    written: Option<Written>,
}

pub struct FwCfg {
    items: BTreeMap<u16, Item>,
    files: BTreeMap<String, Item>,
    space: Arc<AddressSpace>,
    selected: u16,
    offset: usize,
    dma_high: u32,
}

impl FwCfg {
    pub fn new(space: Arc<AddressSpace>) -> FwCfg {
        let (items, files) = Default::default();
        let mut device = FwCfg { items, files, space, selected: key::SIGNATURE, offset: 0, dma_high: 0 };
        device.add(key::SIGNATURE, b"QEMU".to_vec());
        device.add_u32(key::ID, FEATURES);
        device.list_files();
        device
    }

    /// Sets what a key reads as.
    pub fn add(&mut self, key: u16, data: Vec<u8>) {
        self.items.insert(key, Item { data, written: None });
    }

    pub fn add_u16(&mut self, key: u16, value: u16) {
        self.add(key, value.to_le_bytes().to_vec());
    }

    pub fn add_u32(&mut self, key: u16, value: u32) {
        self.add(key, value.to_le_bytes().to_vec());
    }

    /// Adds a file, or replaces it. Selectors follow the order of names, so files are added before the guest runs.
    pub fn add_file(&mut self, name: &str, data: Vec<u8>) -> Result<()> {
        self.insert(name, Item { data, written: None })
    }

    /// A file the guest may overwrite by DMA.
    pub fn add_writable_file(&mut self, name: &str, data: Vec<u8>, written: impl Fn(&[u8]) + Send + 'static) -> Result<()> {
        self.insert(name, Item { data, written: Some(Box::new(written)) })
    }

    fn insert(&mut self, name: &str, item: Item) -> Result<()> {
        if name.len() > NAME_MAX {
            return Err(Error::new(format!("fw_cfg: the name '{name}' is longer than {NAME_MAX} bytes")));
        }
        if self.files.len() == FILES_MAX && !self.files.contains_key(name) {
            return Err(Error::new(format!("fw_cfg: no room for '{name}' after {FILES_MAX} files")));
        }
        self.files.insert(name.to_string(), item);
        self.list_files();
        Ok(())
    }

    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(|item| item.data.as_slice())
    }

    fn list_files(&mut self) {
        let mut list = (self.files.len() as u32).to_be_bytes().to_vec();
        for (i, (name, item)) in self.files.iter().enumerate() {
            let end = list.len() + DIRECTORY_ENTRY;
            list.extend((item.data.len() as u32).to_be_bytes());
            list.extend((key::FILE_FIRST + i as u16).to_be_bytes());
            list.extend([0, 0]);
            list.extend(name.as_bytes());
            list.resize(end, 0);
        }
        self.add(key::FILE_DIR, list);
    }

    fn select(&mut self, key: u16) {
        self.selected = key & !WRITE_CHANNEL;
        self.offset = 0;
    }

    fn item(&mut self) -> Option<&mut Item> {
        match self.selected.checked_sub(key::FILE_FIRST) {
            Some(n) if self.selected & key::ARCH_LOCAL == 0 => self.files.values_mut().nth(n.into()),
            _ => self.items.get_mut(&self.selected),
        }
    }

    /// The next bytes of the item; zeroes after its end.
    fn next(&mut self, size: u8) -> u64 {
        let offset = self.offset;
        let Some(item) = self.item() else { return 0 };
        let mut bytes = [0; 8];
        let left = item.data.get(offset..).unwrap_or_default();
        let n = left.len().min(size.into());
        bytes[..n].copy_from_slice(&left[..n]);
        self.offset += n;
        u64::from_le_bytes(bytes)
    }

    /// Carries out the control block at a guest-physical address.
    fn dma(&mut self, block: u64) {
        let mut bytes = [0; 16];
        if self.space.read_bytes(block, &mut bytes) != bytes.len() {
            self.answer(block, control::ERROR);
            return;
        }
        let [control, len, high, low] = [0, 4, 8, 12].map(|i| u32::from_be_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]));
        let address = u64::from(high) << 32 | u64::from(low);
        if control & control::SELECT != 0 {
            self.select((control >> 16) as u16);
        }
        let len = len as usize;
        let done = if control & control::READ != 0 {
            self.dma_read(address, len)
        } else if control & control::WRITE != 0 {
            self.dma_write(address, len)
        } else {
            if control & control::SKIP != 0 {
                let end = self.item().map_or(0, |item| item.data.len());
                self.offset = self.offset.saturating_add(len).min(end.max(self.offset));
            }
            true
        };
        self.answer(block, if done { 0 } else { control::ERROR });
    }

    fn answer(&self, block: u64, control: u32) {
        // A block outside of memory gets no answer.
        let _ = self.space.write_bytes(block, &control.to_be_bytes());
    }

    fn dma_read(&mut self, address: u64, len: usize) -> bool {
        let (space, offset) = (self.space.clone(), self.offset);
        let data = self.item().map_or(&[][..], |item| item.data.get(offset..).unwrap_or_default());
        let n = data.len().min(len);
        let mut done = space.write_bytes(address, &data[..n]);
        self.offset += done;
        let zeroes = [0; 4096];
        while n <= done && done < len {
            let part = (len - done).min(zeroes.len());
            let written = address.checked_add(done as u64).map_or(0, |at| space.write_bytes(at, &zeroes[..part]));
            done += written;
            if written < part {
                return false;
            }
        }
        done == len
    }

    fn dma_write(&mut self, address: u64, len: usize) -> bool {
        let (space, offset) = (self.space.clone(), self.offset);
        let Some(Item { data, written: Some(written) }) = self.item() else { return false };
        let Some(end) = offset.checked_add(len).filter(|&end| end <= data.len()) else { return false };
        if space.read_bytes(address, &mut data[offset..end]) != len {
            return false;
        }
        written(data);
        self.offset = end;
        true
    }
}

impl Device for FwCfg {
    fn widths(&self) -> fabric::Widths {
        fabric::Widths::UP_TO_8
    }

    fn read(&mut self, offset: u64, size: u8) -> u64 {
        match (offset, size) {
            (0..8, _) => self.next(size),
            (0x10, 8) => DMA_SIGNATURE.swap_bytes(),
            (0x10, 4) => ((DMA_SIGNATURE >> 32) as u32).swap_bytes().into(),
            (0x14, 4) => (DMA_SIGNATURE as u32).swap_bytes().into(),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        match (offset, size) {
            (0x08, 2) => self.select((value as u16).swap_bytes()),
            (0x10, 8) => self.dma(value.swap_bytes()),
            (0x10, 4) => self.dma_high = (value as u32).swap_bytes(),
            (0x14, 4) => {
                let high = std::mem::take(&mut self.dma_high);
                self.dma(u64::from(high) << 32 | u64::from((value as u32).swap_bytes()));
            }
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.select(key::SIGNATURE);
        self.dma_high = 0;
    }

    fn info(&self) -> String {
        self.files.iter().map(|(name, item)| format!("{name}: {} bytes\n", item.data.len())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::torture;
    use fabric::{Mmio, MmioTarget, Ram, Region};
    use std::sync::Mutex;

    fn device() -> (Arc<Mmio<FwCfg>>, Arc<Ram>) {
        let (space, ram) = (AddressSpace::new(), Arc::new(Ram::new(0x1_0000).unwrap()));
        space.map(0x4000_0000, 0x1_0000, 0, Region::ram("ram", ram.clone()));
        let mut d = FwCfg::new(space);
        d.add_file("etc/b", vec![1, 2, 3, 4, 5, 6]).unwrap();
        d.add_file("bootorder", b"disk\0".to_vec()).unwrap();
        (Mmio::new(d), ram)
    }

    fn read(d: &Mmio<FwCfg>, key: u16, n: usize) -> Vec<u8> {
        d.write(8, 2, key.swap_bytes().into());
        (0..n).map(|_| d.read(0, 1) as u8).collect()
    }

    /// Runs one DMA block; gives the control word afterwards.
    fn dma(d: &Mmio<FwCfg>, ram: &Ram, control: u32, len: u32, address: u64) -> u32 {
        let block = [control.to_be_bytes(), len.to_be_bytes()].concat();
        ram.write(0x100, &block);
        ram.write(0x108, &address.to_be_bytes());
        d.write(0x10, 8, 0x4000_0100u64.swap_bytes());
        ram.load_u32(0x100).swap_bytes()
    }

    #[test]
    fn signature_and_features_by_every_width() {
        let (d, _) = device();
        assert_eq!(d.read(0, 1), 0x51, "selected after reset");
        assert_eq!(read(&d, 0, 6), b"QEMU\0\0");
        assert_eq!(read(&d, 1, 5), [3, 0, 0, 0, 0]);
        assert_eq!([(0x10, 8), (0x10, 4), (0x14, 4)].map(|(o, s)| d.read(o, s)), [0x4746_4320_554d_4551, 0x554d_4551, 0x4746_4320]);
        d.write(8, 2, 0);
        assert_eq!((d.read(0, 2), d.read(0, 4), d.read(0, 8)), (0x4551, 0x554d, 0));
        assert_eq!((d.read(8, 2), d.read(8, 4)), (0, 0));
    }

    #[test]
    fn the_directory_lists_files_in_order_of_names() {
        let (d, _) = device();
        let list = read(&d, key::FILE_DIR, 4 + 2 * 64);
        assert_eq!(list[..4], [0, 0, 0, 2]);
        assert_eq!(list[4..22], *b"\0\0\0\x05\0\x20\0\0bootorder\0");
        assert_eq!(list[68..82], *b"\0\0\0\x06\0\x21\0\0etc/b\0");
        assert_eq!(read(&d, 0x21, 8), [1, 2, 3, 4, 5, 6, 0, 0]);
        assert_eq!(read(&d, 0x22, 2), [0, 0]);
        assert_eq!(read(&d, 0x8021, 2), [0, 0]);
        assert_eq!(read(&d, 0x4021, 2), [1, 2], "the old write channel bit is ignored");
        assert!(d.lock().add_file(&"x".repeat(56), vec![]).is_err());
    }

    #[test]
    fn dma_reads_skips_and_fills_with_zeroes() {
        let (d, ram) = device();
        ram.fill(0x200, 16, 0xee);
        assert_eq!(dma(&d, &ram, 0x21 << 16 | 8 | 4, 2, 0), 0);
        assert_eq!(dma(&d, &ram, 2, 7, 0x4000_0200), 0);
        let mut got = [0; 8];
        ram.read(0x200, &mut got);
        assert_eq!(got, [3, 4, 5, 6, 0, 0, 0, 0xee]);
        assert_eq!(dma(&d, &ram, 0x21 << 16 | 8 | 2, 4, 0x5000_0000), 1, "no memory there");
        assert_eq!(dma(&d, &ram, 0x21 << 16 | 8 | 2, u32::MAX, 0x4000_1000), 1, "the fill ends with the memory");
        assert_eq!(dma(&d, &ram, 2, 0x100, u64::MAX - 4), 1);
        assert_eq!(dma(&d, &ram, 16, 4, 0x4000_0200), 1, "not writable");
    }

    #[test]
    fn the_two_halves_of_the_address_start_at_the_lower_one() {
        let (d, ram) = device();
        ram.write(0x100, &[0, 0x21, 0, 0x0a, 0, 0, 0, 3, 0, 0, 0, 0, 0x40, 0, 3, 0]);
        d.write(0x10, 4, 0);
        assert_eq!(ram.load_u8(0x300), 0);
        d.write(0x14, 4, 0x4000_0100u32.swap_bytes().into());
        assert_eq!((ram.load_u32(0x100), ram.load_u32(0x300)), (0, 0x0003_0201));
    }

    #[test]
    fn writable_files_tell_their_owner() {
        let (d, ram) = device();
        let told: Arc<Mutex<Vec<u8>>> = Arc::default();
        let t = told.clone();
        d.lock().add_writable_file("w", vec![0; 4], move |data| *t.lock().unwrap() = data.to_vec()).unwrap();
        ram.write(0x200, b"abcde");
        assert_eq!(dma(&d, &ram, 0x22 << 16 | 8 | 16, 4, 0x4000_0200), 0);
        assert_eq!((told.lock().unwrap().as_slice(), d.lock().file("w")), (&b"abcd"[..], Some(&b"abcd"[..])));
        assert_eq!(dma(&d, &ram, 0x22 << 16 | 8 | 16, 5, 0x4000_0200), 1, "longer than the file");
    }

    #[test]
    fn random_accesses_never_panic_and_reset_is_fresh() {
        let (d, ram) = device();
        torture(&*d, 0x18, 41, |random| ram.store_u64(random.below(0x400), random.next()));
        d.reset();
        let d = d.lock();
        assert_eq!((d.selected, d.offset, d.dma_high), (key::SIGNATURE, 0, 0));
    }
}
