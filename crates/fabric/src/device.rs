//! The device trait, and the cell that puts a device behind an address.
//!
//! A device is plain state with functions: no lock, address or interrupt number inside. The cell owns the lock and adapts
//! access widths.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Access widths in bytes that a device handles itself; the cell splits wider accesses and widens narrower ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Widths {
    pub min: u8,
    pub max: u8,
}

impl Widths {
    /// Registers of 32 bits only.
    pub const WORD: Widths = Widths { min: 4, max: 4 };
    /// Bytes, halfwords and words.
    pub const UP_TO_4: Widths = Widths { min: 1, max: 4 };
    /// Everything.
    pub const UP_TO_8: Widths = Widths { min: 1, max: 8 };
    pub const BYTE: Widths = Widths { min: 1, max: 1 };
}

/// A device behind one range of addresses.
///
/// Values are those of a little-endian bus: bits 7..0 are the byte at `offset`. Offsets lie inside the range the board
/// mapped; they are aligned only if the guest's access was.
pub trait Device: Send {
    fn read(&mut self, offset: u64, size: u8) -> u64;
    fn write(&mut self, offset: u64, size: u8, value: u64);
    /// Puts the device in its state at power-on and sets its wires accordingly.
    fn reset(&mut self);
    fn widths(&self) -> Widths {
        Widths::WORD
    }
    /// The interesting state in a few lines, for the monitor.
    fn info(&self) -> String {
        String::new()
    }
}

/// What an address space calls when a guest accesses a device.
pub trait MmioTarget: Send + Sync {
    fn read(&self, offset: u64, size: u8) -> u64;
    fn write(&self, offset: u64, size: u8, value: u64);
}

/// A device with its lock.
pub struct Mmio<D: Device> {
    device: Mutex<D>,
    widths: Widths,
}

impl<D: Device> Mmio<D> {
    pub fn new(device: D) -> Arc<Mmio<D>> {
        let widths = device.widths();
        Arc::new(Mmio { device: Mutex::new(device), widths })
    }

    /// The device, for the board and for wires that lead into it.
    pub fn lock(&self) -> MutexGuard<'_, D> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As at power-on.
    pub fn reset(&self) {
        self.lock().reset();
    }
}

/// Bits that an access of `size` bytes has.
pub fn mask(size: u8) -> u64 {
    if size >= 8 { u64::MAX } else { (1 << (size * 8)) - 1 }
}

/// Calls `each(offset, size, shift)` for the accesses that make up one of `size` bytes: pieces of the widest allowed
/// width, or one access of the narrowest at the same offset.
fn pieces(widths: Widths, offset: u64, size: u8, mut each: impl FnMut(u64, u8, u32)) {
    let piece = size.clamp(widths.min, widths.max);
    let mut done = 0;
    while done < size {
        each(offset.wrapping_add(u64::from(done)), piece, u32::from(done) * 8);
        done += piece;
    }
}

impl<D: Device> MmioTarget for Mmio<D> {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let mut device = self.lock();
        let mut value = 0;
        pieces(self.widths, offset, size, |at, piece, shift| value |= (device.read(at, piece) & mask(piece)) << shift);
        value & mask(size)
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        let mut device = self.lock();
        let value = value & mask(size);
        pieces(self.widths, offset, size, |at, piece, shift| device.write(at, piece, (value >> shift) & mask(piece)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Recorder {
        widths: Widths,
        log: Vec<(u64, u8, u64)>,
    }

    impl Device for Recorder {
        fn read(&mut self, offset: u64, size: u8) -> u64 {
            self.log.push((offset, size, 0));
            0x8877_6655_4433_2211
        }
        fn write(&mut self, offset: u64, size: u8, value: u64) {
            self.log.push((offset, size, value));
        }
        fn reset(&mut self) {
            self.log.clear();
        }
        fn widths(&self) -> Widths {
            self.widths
        }
    }

    fn cell(widths: Widths) -> Arc<Mmio<Recorder>> {
        Mmio::new(Recorder { widths, log: Vec::new() })
    }

    #[test]
    fn wide_accesses_are_split() {
        let c = cell(Widths::WORD);
        c.write(8, 8, 0x1111_2222_3333_4444);
        assert_eq!(c.lock().log, [(8, 4, 0x3333_4444), (12, 4, 0x1111_2222)]);
        assert_eq!(c.read(8, 8), 0x4433_2211_4433_2211);
        let c = cell(Widths::BYTE);
        assert_eq!(c.read(3, 4), 0x1111_1111);
        assert_eq!(c.lock().log.len(), 4);
    }

    #[test]
    fn narrow_accesses_are_widened_at_the_same_offset() {
        let c = cell(Widths::WORD);
        c.write(5, 1, 0xabcd);
        assert_eq!(c.lock().log, [(5, 4, 0xcd)]);
        assert_eq!(c.read(6, 2), 0x2211);
    }

    #[test]
    fn fitting_accesses_pass_unchanged() {
        let c = cell(Widths::UP_TO_8);
        assert_eq!(c.read(0, 8), 0x8877_6655_4433_2211);
        assert_eq!(c.read(0, 2), 0x2211);
        assert_eq!(c.lock().log, [(0, 8, 0), (0, 2, 0)]);
    }
}
