//! A guest's driver for tests: two rings of a card in a file that is the guest's memory. Whoever includes this module has
//! `Region`, `Ring` and `RINGS` of [`net::vhost`].
//!
//! Reference: VIRTIO 1.2, 2.7. The header before a frame has 12 bytes, all zero.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{RINGS, Region, Ring};

pub const GUEST: u64 = 0x4000_0000;
pub const HEADER: usize = 12;
const RX: usize = 0;
const TX: usize = 1;
const LEN: u64 = 1 << 20;
/// Each ring's three parts have a page each.
const RING_BYTES: u64 = 0x3000;
const BUFFERS: u64 = 0x10000;
const BUFFER_BYTES: u64 = 2048;
const WRITE: u16 = 2;

pub struct Driver {
    pub file: File,
    size: u16,
    /// How many entries were made available, and how many used ones were seen.
    offered: [u16; RINGS],
    seen: [u16; RINGS],
}

impl Driver {
    /// All receive buffers are there.
    pub fn new(size: u16) -> Driver {
        let file = host::map::memory_file(LEN, true).unwrap();
        let mut driver = Driver { file, size, offered: [0; RINGS], seen: [0; RINGS] };
        (0..size).for_each(|slot| driver.offer(RX, slot, BUFFER_BYTES as u32, WRITE));
        driver
    }

    pub fn regions(&self) -> Vec<Region> {
        let memory = Arc::new(host::map::Reservation::of_file(&self.file, LEN as usize, true).unwrap());
        vec![Region { guest: GUEST, len: LEN, memory, offset: 0, file: Some(self.file.try_clone().unwrap()) }]
    }

    pub fn rings(&self, next: [u16; RINGS]) -> [Ring; RINGS] {
        [RX, TX].map(|ring| {
            let base = GUEST + ring as u64 * RING_BYTES;
            Ring { size: self.size, descriptors: base, available: base + 0x1000, used: base + 0x2000, next: next[ring] }
        })
    }

    fn u16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        u16::from_le_bytes(bytes)
    }

    fn buffer(&self, ring: usize, slot: u16) -> u64 {
        BUFFERS + (ring as u64 * u64::from(self.size) + u64::from(slot)) * BUFFER_BYTES
    }

    fn offer(&mut self, ring: usize, slot: u16, len: u32, flags: u16) {
        let base = ring as u64 * RING_BYTES;
        let mut descriptor = (GUEST + self.buffer(ring, slot)).to_le_bytes().to_vec();
        descriptor.extend(len.to_le_bytes());
        descriptor.extend(flags.to_le_bytes());
        descriptor.extend([0; 2]);
        self.file.write_all_at(&descriptor, base + 16 * u64::from(slot)).unwrap();
        let entry = u64::from(self.offered[ring] % self.size);
        self.file.write_all_at(&slot.to_le_bytes(), base + 0x1004 + 2 * entry).unwrap();
        self.offered[ring] = self.offered[ring].wrapping_add(1);
        self.file.write_all_at(&self.offered[ring].to_le_bytes(), base + 0x1002).unwrap();
    }

    /// The next used entry of a ring: slot and length.
    fn used(&mut self, ring: usize) -> Option<(u16, usize)> {
        let base = ring as u64 * RING_BYTES + 0x2000;
        if self.u16(base + 2) == self.seen[ring] {
            return None;
        }
        let entry = base + 4 + 8 * u64::from(self.seen[ring] % self.size);
        self.seen[ring] = self.seen[ring].wrapping_add(1);
        Some((self.u16(entry), usize::from(self.u16(entry + 4))))
    }

    /// Puts a frame into the ring; false if it is full.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        while self.used(TX).is_some() {}
        if self.offered[TX].wrapping_sub(self.seen[TX]) == self.size {
            return false;
        }
        let slot = self.offered[TX] % self.size;
        let bytes = [&[0; HEADER], frame].concat();
        self.file.write_all_at(&bytes, self.buffer(TX, slot)).unwrap();
        self.offer(TX, slot, bytes.len() as u32, 0);
        true
    }

    /// A frame that has arrived; its buffer is offered again.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let (slot, len) = self.used(RX)?;
        let mut frame = vec![0; len - HEADER];
        self.file.read_exact_at(&mut frame, self.buffer(RX, slot) + HEADER as u64).unwrap();
        self.offer(RX, slot, BUFFER_BYTES as u32, WRITE);
        Some(frame)
    }
}
