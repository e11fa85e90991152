//! GICv2m: a frame that turns message writes into edges of SPIs.
//!
//! **Reference**: Arm Server Base System Architecture 2.2, appendix E. Identification as QEMU's `virt` presents it.
//! **Pins**: out: one SPI for each message number.
//! **Not modelled**: nothing.

use fabric::{Line, MmioTarget, Msi, MsiSink};
use std::sync::Arc;

const TYPER: u64 = 0x008;
const SETSPI: u64 = 0x040;
const IIDR: u64 = 0xfcc;
/// Product 'Q', architecture and revision 0.
const IIDR_VALUE: u32 = 0x51 << 20;

pub struct GicV2m {
    first: u32,
    lines: Vec<Line>,
    address: u64,
}

impl GicV2m {
    /// A frame at guest-physical `address` for the interrupts from INTID `first` on, with their wires.
    pub fn new(address: u64, first: u32, lines: Vec<Line>) -> Arc<GicV2m> {
        Arc::new(GicV2m { first, lines, address })
    }

    fn raise(&self, intid: u32) {
        let index = (intid & 0x3ff).wrapping_sub(self.first);
        if let Some(line) = self.lines.get(index as usize) {
            line.pulse();
        }
    }
}

impl MmioTarget for GicV2m {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let value = match offset {
            TYPER => self.first << 16 | self.lines.len() as u32,
            IIDR => IIDR_VALUE,
            _ => 0,
        };
        u64::from(value) & fabric::device::mask(size)
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        if offset == SETSPI {
            self.raise(value as u32);
        }
    }
}

impl MsiSink for GicV2m {
    fn send(&self, message: Msi) {
        if message.address == self.address + SETSPI {
            self.raise(message.data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Wires, torture};
    use std::sync::atomic::Ordering;

    fn frame() -> (Arc<GicV2m>, Arc<Wires>) {
        let wires = Wires::new();
        (GicV2m::new(0x802_0000, 80, (0..64).map(|n| wires.line(n)).collect()), wires)
    }

    #[test]
    fn registers_are_those_of_the_reference_machine() {
        let (f, _) = frame();
        assert_eq!((f.read(TYPER, 4), f.read(IIDR, 4), f.read(SETSPI, 4)), (0x50_0040, 0x510_0000, 0));
    }

    #[test]
    fn messages_are_edges() {
        let (f, wires) = frame();
        f.send(Msi { address: 0x802_0040, data: 80, device: 8 });
        f.write(SETSPI, 4, 143);
        assert_eq!(wires.changes.load(Ordering::SeqCst), 4, "two edges up, two down");
        for data in [0, 79, 144, u32::MAX] {
            f.send(Msi { address: 0x802_0040, data, device: 8 });
        }
        f.send(Msi { address: 0x802_0044, data: 80, device: 8 });
        assert_eq!(wires.changes.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn random_accesses_never_panic() {
        let (f, _) = frame();
        torture(&*f, 0x1000, 3, |_| {});
        assert_eq!(f.read(TYPER, 4), 0x50_0040);
    }
}
