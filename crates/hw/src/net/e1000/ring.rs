//! The registers of a descriptor ring, which are the same for both directions.
//!
//! Reference: 317453 13.4 (RDBAL to RDT, TDBAL to TDT).

use super::E1000;

/// Bytes of a descriptor.
pub const DESCRIPTOR: u64 = 16;

/// From the register with the low half of a ring's base to its others.
const BASE_HIGH: u32 = 0x4;
const LENGTH: u32 = 0x8;
const HEAD: u32 = 0x10;
const TAIL: u32 = 0x18;

pub struct Ring {
    base: u64,
    pub count: u32,
    /// The card's next descriptor.
    pub head: u32,
    /// Behind the last one that the driver has filled in.
    pub tail: u32,
}

impl Ring {
    /// Where the card's next descriptor is.
    pub fn at(&self) -> u64 {
        self.base.wrapping_add(u64::from(self.head) * DESCRIPTOR)
    }

    pub fn advance(&mut self) {
        self.head = (self.head + 1) % self.count;
    }

    /// Descriptors that the driver has filled in.
    pub fn filled(&self) -> u32 {
        (self.tail + self.count - self.head) % self.count
    }
}

impl E1000 {
    /// The ring whose registers begin here, unless one of its ends is outside of it.
    pub(super) fn ring(&self, registers: u32) -> Option<Ring> {
        let at = |offset: u32| self.get(registers + offset);
        let base = u64::from(at(0)) | u64::from(at(BASE_HIGH)) << 32;
        let (count, head, tail) = (self.ring_count(registers), at(HEAD), at(TAIL));
        (head < count && tail < count).then_some(Ring { base, count, head, tail })
    }

    /// Descriptors of the ring whose registers begin here.
    pub(super) fn ring_count(&self, registers: u32) -> u32 {
        self.get(registers + LENGTH) / DESCRIPTOR as u32
    }

    pub(super) fn set_ring_head(&mut self, registers: u32, head: u32) {
        self.set(registers + HEAD, head);
    }
}
