//! The redistributors' registers: a control frame and a frame for SGIs and PPIs, each 64 KiB (IHI 0069H, 12.11).

use super::bank::Place;
use super::distributor::{IIDR, id};
use super::{Core, GicV3, LPI_END, LPI_FIRST};
use fabric::MmioTarget;
use std::sync::Arc;

/// The part of a board's region of redistributors that starts with CPU `first`.
pub(super) struct Registers {
    pub gic: Arc<GicV3>,
    pub first: usize,
    pub count: usize,
}

const FRAME: u64 = 0x1_0000;
/// EnableLPIs; CES says that it can be cleared.
const CTLR_ENABLE_LPIS: u32 = 1;
const CTLR_CES: u32 = 1 << 1;
const WAKER_SLEEP: u32 = 1 << 1;
/// ProcessorSleep and ChildrenAsleep.
pub(super) const WAKER_ASLEEP: u32 = 3 << 1;
/// PLPIS, Last, and CommonLPIAff 1 (as QEMU has it).
const TYPER_PLPIS: u64 = 1;
const TYPER_LAST: u64 = 1 << 4;
const TYPER_COMMON: u64 = 1 << 24;
/// GICR_PENDBASER: the table is all zero.
const PENDBASER_PTZ: u64 = 1 << 62;

impl Registers {
    fn locate(&self, core: &Core, offset: u64) -> Option<(usize, bool, u64)> {
        let cpu = self.first + (offset / (2 * FRAME)) as usize;
        let inside = offset % (2 * FRAME);
        (cpu < self.first + self.count && cpu < core.cpus.len()).then_some((cpu, inside >= FRAME, inside % FRAME))
    }
}

impl MmioTarget for Registers {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let core = self.gic.lock();
        let byte = |at| match self.locate(&core, at) {
            Some((cpu, true, at)) => Place::at(at).filter(|p| p.bank == 0).map_or(0, |place| core.cpus[cpu].bank.read(place)),
            Some((cpu, false, at)) => core.redistributor_byte(cpu, at, cpu + 1 == self.first + self.count || cpu + 1 == core.cpus.len()),
            None => 0,
        };
        (0..u64::from(size.min(8))).map(|i| u64::from(byte(offset + i)) << (i * 8)).sum()
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        let mut core = self.gic.lock();
        let Some((cpu, interrupts, at)) = self.locate(&core, offset) else { return };
        for i in 0..u64::from(size.min(8)) {
            let byte = (value >> (i * 8)) as u8;
            if !interrupts {
                core.write_redistributor_byte(cpu, at + i, byte);
            } else if let Some(place) = Place::at(at + i).filter(|p| p.bank == 0) {
                core.cpus[cpu].bank.write(place, byte, 0xffff);
            }
        }
        core.update(cpu);
    }
}

impl Core {
    fn redistributor_byte(&self, cpu: usize, offset: u64, last: bool) -> u8 {
        let c = &self.cpus[cpu];
        let lpis = self.space.is_some();
        let (value, base) = match offset {
            0x00..0x04 if lpis => (u64::from(CTLR_CES | u32::from(c.lpis_enabled)), 0),
            0x04..0x08 => (IIDR.into(), 0x04),
            0x08..0x10 => {
                let flags = if lpis { TYPER_PLPIS } else { 0 } | if last { TYPER_LAST } else { 0 };
                (u64::from(self.affinities[cpu]) << 32 | TYPER_COMMON | (cpu as u64) << 8 | flags, 0x08)
            }
            0x14..0x18 => (c.waker.into(), 0x14),
            0x70..0x78 => (c.propbaser, 0x70),
            0x78..0x80 => (c.pendbaser, 0x78),
            0xffd0..0x1_0000 => return id(offset, 0x93),
            _ => return 0,
        };
        (value >> ((offset - base) * 8)) as u8
    }

    fn write_redistributor_byte(&mut self, cpu: usize, offset: u64, byte: u8) {
        let lpis = self.space.is_some();
        let c = &mut self.cpus[cpu];
        let insert = |value: &mut u64, at: u64| *value = *value & !(0xff << (at * 8)) | u64::from(byte) << (at * 8);
        match offset {
            0x00 if lpis => self.enable_lpis(cpu, u32::from(byte) & CTLR_ENABLE_LPIS != 0),
            0x14 => c.waker = if u32::from(byte) & WAKER_SLEEP != 0 { WAKER_ASLEEP } else { 0 },
            0x70..0x78 if lpis => insert(&mut c.propbaser, offset - 0x70),
            0x78..0x80 if lpis => insert(&mut c.pendbaser, offset - 0x78),
            _ => {}
        }
    }

    /// GICR_CTLR.EnableLPIs: what the guest's table holds becomes pending, unless it says that it is empty.
    fn enable_lpis(&mut self, cpu: usize, enable: bool) {
        let was = std::mem::replace(&mut self.cpus[cpu].lpis_enabled, enable);
        if was == enable {
            return;
        }
        let base = self.cpus[cpu].pendbaser;
        let mut table = vec![0; (LPI_END / 8) as usize];
        let Some(space) = self.space.clone().filter(|_| enable && base & PENDBASER_PTZ == 0) else {
            self.cpus[cpu].lpis.clear();
            return;
        };
        let limit = 1u64 << ((self.cpus[cpu].propbaser & 0x1f) + 1).clamp(14, 16);
        let had = space.read_bytes(base & 0xf_ffff_ffff_0000, &mut table[..(limit / 8) as usize]);
        for intid in (LPI_FIRST..LPI_END).filter(|i| *i as usize / 8 < had && table[*i as usize / 8] >> (i % 8) & 1 != 0) {
            if let Some(configuration) = self.lpi_configuration(cpu, intid) {
                self.cpus[cpu].lpis.insert(intid, configuration);
            }
        }
    }
}
