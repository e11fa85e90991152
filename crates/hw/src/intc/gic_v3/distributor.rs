//! The distributor's registers (IHI 0069H, 12.9).

use super::bank::{BANK, Place};
use super::{Core, GicV3};
use fabric::MmioTarget;
use std::sync::Arc;

pub(super) struct Registers(pub Arc<GicV3>);

/// EnableGrp0 and EnableGrp1; ARE and DS are fixed.
const CTLR_WRITABLE: u32 = 3;
const CTLR_FIXED: u32 = 0x50;
/// No1N, A3V, 16 INTID bits; LPIS is added if there are LPIs.
const TYPER: u32 = 1 << 25 | 1 << 24 | 0xf << 19;
const TYPER_LPIS: u32 = 1 << 17;
/// Implementer Arm, as QEMU has it; the redistributors and the ITS say the same.
pub const IIDR: u32 = 0x43b;
const ROUTER: u64 = 0x6000;

/// PIDR4-7, PIDR0-3, CIDR0-3 of a GICv3 part at the last 48 bytes of a frame; `part` is PIDR0.
pub fn id(offset: u64, part: u8) -> u8 {
    let bytes = [0x44, 0, 0, 0, part, 0xb4, 0x3b, 0, 0x0d, 0xf0, 0x05, 0xb1];
    if offset.is_multiple_of(4) { bytes[(offset as usize - 0xffd0) / 4 % 12] } else { 0 }
}

impl MmioTarget for Registers {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let core = self.0.lock();
        (0..u64::from(size.min(8))).map(|i| u64::from(core.distributor_byte(offset + i)) << (i * 8)).sum()
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        let mut core = self.0.lock();
        for i in 0..u64::from(size.min(8)) {
            core.write_distributor_byte(offset + i, (value >> (i * 8)) as u8);
        }
        core.update_all();
    }
}

impl Core {
    fn distributor_byte(&self, offset: u64) -> u8 {
        let of_word = |word: u32| (word >> (offset % 4 * 8)) as u8;
        match offset {
            0x0000..0x0004 => of_word(self.ctlr | CTLR_FIXED),
            0x0004..0x0008 => of_word(TYPER | self.spis.len() as u32 | if self.space.is_some() { TYPER_LPIS } else { 0 }),
            0x0008..0x000c => of_word(IIDR),
            ROUTER..0x8000 => self.router_of(offset).map_or(0, |spi| (self.router[spi] >> (offset % 8 * 8)) as u8),
            0xffd0..0x1_0000 => id(offset, 0x92),
            _ => match Place::at(offset) {
                // The first bank is in the redistributors.
                Some(place) if place.bank > 0 => self.spis.get(place.bank - 1).map_or(0, |bank| bank.read(place)),
                _ => 0,
            },
        }
    }

    fn write_distributor_byte(&mut self, offset: u64, byte: u8) {
        match offset {
            0x0000 => self.ctlr = u32::from(byte) & CTLR_WRITABLE,
            ROUTER..0x8000 => {
                if let Some(spi) = self.router_of(offset) {
                    self.route(spi, offset % 8 * 8, byte);
                }
            }
            _ => {
                if let Some(place) = Place::at(offset).filter(|p| p.bank > 0)
                    && let Some(bank) = self.spis.get_mut(place.bank - 1)
                {
                    bank.write(place, byte, 0);
                }
            }
        }
    }

    /// Which SPI a byte of GICD_IROUTERn belongs to.
    fn router_of(&self, offset: u64) -> Option<usize> {
        let spi = ((offset - ROUTER) as usize / 8).checked_sub(BANK)?;
        (spi < self.router.len()).then_some(spi)
    }

    fn route(&mut self, spi: usize, shift: u64, byte: u8) {
        let bit = 1 << (spi % BANK);
        if let Some(old) = self.target(spi) {
            self.routed[old][spi / BANK] &= !bit;
        }
        self.router[spi] = self.router[spi] & !(0xff << shift) | u64::from(byte) << shift;
        if let Some(new) = self.target(spi) {
            self.routed[new][spi / BANK] |= bit;
        }
    }
}
