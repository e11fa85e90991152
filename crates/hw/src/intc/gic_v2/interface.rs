//! The CPU interface's registers (IHI 0048B, 4.4).

use super::{Core, GicV2, OTHER_GROUP, SGIS, SPURIOUS};
use fabric::MmioTarget;
use std::sync::Arc;

pub(super) struct Registers {
    pub gic: Arc<GicV2>,
    pub secure: bool,
}

/// Bits of GICC_CTLR besides the two group enables.
pub(super) const ACK_CTL: u32 = 1 << 2;
pub(super) const FIQ_EN: u32 = 1 << 3;
pub(super) const CBPR: u32 = 1 << 4;
pub(super) const EOI_MODE: u32 = 1 << 9;
pub(super) const CTLR_MASK: u32 = EOI_MODE | 0x1f;
/// Smallest GICC_ABPR, with 128 preemption levels.
const ABPR_MIN: u8 = 1;
/// GICC_CTLR as the Non-secure world has it: the enable of group 1, bypass of both its signals, EOImode; and where the
/// register holds them.
const NS_ENABLE: u32 = 1;
const NS_BYPASS: u32 = 3 << 5;
const NS_EOI_MODE: u32 = 1 << 9;
const EOI_MODE_NS: u32 = 1 << 10;
const CTLR_SECURE_MASK: u32 = 0x61f;
/// GICv2 by Arm, as QEMU has it.
pub(super) const IIDR: u32 = 0x2_043b;

/// Which of the two sets of acknowledge and end registers is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bank {
    Plain,
    Aliased,
    /// The Non-secure world's.
    NonSecure,
}

impl MmioTarget for Registers {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let cpu = self.gic.accessor();
        let mut core = self.gic.lock();
        let at = offset & !3;
        let value = if self.secure { core.read_interface(cpu, at) } else { core.read_non_secure(cpu, at) };
        u64::from(value) >> (offset % 4 * 8) & fabric::device::mask(size.min(4))
    }

    /// Registers are words; narrower writes set the low bits, as the bus of QEMU's model has it.
    fn write(&self, offset: u64, _size: u8, value: u64) {
        let cpu = self.gic.accessor();
        let mut core = self.gic.lock();
        let at = offset & !3;
        if self.secure {
            core.write_interface(cpu, at, value as u32);
        } else {
            core.write_non_secure(cpu, at, value as u32);
        }
        core.update();
    }
}

impl Core {
    fn read_interface(&mut self, cpu: usize, offset: u64) -> u32 {
        let c = &self.s.cpu[cpu];
        match offset {
            0x00 => c.ctlr,
            0x04 => c.pmr.into(),
            0x08 => c.bpr.into(),
            0x0c => self.acknowledge(cpu, Bank::Plain),
            0x14 => c.running().min(0xff),
            0x18 => self.highest(cpu, Bank::Plain),
            0x1c => c.abpr.into(),
            0x20 => self.acknowledge(cpu, Bank::Aliased),
            0x28 => self.highest(cpu, Bank::Aliased),
            0xd0..0xe0 => c.apr[0][(offset as usize - 0xd0) / 4],
            0xe0..0xf0 => c.apr[1][(offset as usize - 0xe0) / 4],
            0xfc => IIDR,
            _ => 0,
        }
    }

    fn write_interface(&mut self, cpu: usize, offset: u64, value: u32) {
        let c = &mut self.s.cpu[cpu];
        match offset {
            0x00 => c.ctlr = value & if self.security { CTLR_SECURE_MASK } else { CTLR_MASK },
            0x04 => c.pmr = value as u8,
            0x08 => c.bpr = value as u8 & 7,
            0x10 | 0x24 => self.end(cpu, value, EOI_MODE),
            0x1c => c.abpr = (value as u8 & 7).max(ABPR_MIN),
            0xd0..0xe0 => c.apr[0][(offset as usize - 0xd0) / 4] = value,
            0xe0..0xf0 => c.apr[1][(offset as usize - 0xe0) / 4] = value,
            0x1000 if c.ctlr & EOI_MODE != 0 => self.deactivate(cpu, value),
            _ => {}
        }
    }

    /// The Non-secure world sees group 1, and the upper half of the priorities as a whole range.
    fn read_non_secure(&mut self, cpu: usize, offset: u64) -> u32 {
        let c = &self.s.cpu[cpu];
        let seen = |priority: u32| if priority & 0x80 != 0 { priority << 1 & 0xff } else { 0 };
        match offset {
            0x00 => {
                let split = if c.ctlr & EOI_MODE_NS != 0 { NS_EOI_MODE } else { 0 };
                c.ctlr >> 1 & NS_ENABLE | c.ctlr >> 2 & NS_BYPASS | split
            }
            0x04 => seen(c.pmr.into()),
            0x08 if c.ctlr & CBPR != 0 => (u32::from(c.bpr) + 1).min(7),
            0x08 => c.abpr.into(),
            0x0c => self.acknowledge(cpu, Bank::NonSecure),
            0x14 if c.running() > 0xff => 0xff,
            0x14 => seen(c.running()),
            0x18 => self.highest(cpu, Bank::NonSecure),
            // The upper half of the levels.
            0xd0..0xd8 => c.apr[1][(offset as usize - 0xd0) / 4 + 2],
            0xfc => IIDR,
            _ => 0,
        }
    }

    fn write_non_secure(&mut self, cpu: usize, offset: u64, value: u32) {
        let mine = self.is_group_1(cpu, value);
        let c = &mut self.s.cpu[cpu];
        match offset {
            0x00 => {
                let split = if value & NS_EOI_MODE != 0 { EOI_MODE_NS } else { 0 };
                let bits = (value & NS_ENABLE) << 1 | (value & NS_BYPASS) << 2 | split;
                c.ctlr = c.ctlr & !(NS_ENABLE << 1 | NS_BYPASS << 2 | EOI_MODE_NS) | bits & (CTLR_SECURE_MASK | NS_BYPASS << 2);
            }
            // A mask in the lower half is the Secure world's.
            0x04 if c.pmr & 0x80 != 0 => c.pmr = 0x80 | (value as u8) >> 1,
            0x08 if c.ctlr & CBPR == 0 => c.abpr = (value as u8 & 7).max(ABPR_MIN),
            0x10 if mine => self.end(cpu, value, EOI_MODE_NS),
            0xd0..0xd8 => c.apr[1][(offset as usize - 0xd0) / 4 + 2] = value,
            0x1000 if c.ctlr & EOI_MODE_NS != 0 && mine => self.deactivate(cpu, value),
            _ => {}
        }
    }

    fn is_group_1(&self, cpu: usize, value: u32) -> bool {
        let irq = (value & 0x3ff) as usize;
        self.exists(irq) && self.s.group.get(cpu, irq)
    }

    /// The pending interrupt as this register shows it, without the source of an SGI.
    fn presented(&self, cpu: usize, bank: Bank) -> u32 {
        let c = &self.s.cpu[cpu];
        if c.pending == SPURIOUS {
            return SPURIOUS;
        }
        match (self.s.group.get(cpu, c.pending as usize), bank) {
            (true, Bank::Plain) if c.ctlr & ACK_CTL == 0 => OTHER_GROUP,
            (false, Bank::Aliased | Bank::NonSecure) => SPURIOUS,
            _ => c.pending,
        }
    }

    fn source(&self, cpu: usize, irq: u32) -> u32 {
        if (irq as usize) < SGIS { self.s.sgi_from[cpu][irq as usize].trailing_zeros() & 7 } else { 0 }
    }

    fn highest(&self, cpu: usize, bank: Bank) -> u32 {
        let irq = self.presented(cpu, bank);
        irq | self.source(cpu, irq) << 10
    }

    /// GICC_IAR: the interrupt becomes active.
    fn acknowledge(&mut self, cpu: usize, bank: Bank) -> u32 {
        let irq = self.presented(cpu, bank);
        if irq >= OTHER_GROUP {
            return irq;
        }
        let index = irq as usize;
        let priority = self.priority(cpu, index);
        if u32::from(priority) >= self.s.cpu[cpu].running() {
            return SPURIOUS;
        }
        let source = self.source(cpu, irq);
        let group = usize::from(self.s.group.get(cpu, index));
        let c = &mut self.s.cpu[cpu];
        // Group 1 has a binary point of its own, one bit to the left, unless CBPR shares that of group 0.
        let point = if group == 1 && c.ctlr & CBPR == 0 { c.abpr - 1 } else { c.bpr };
        let level = (u32::from(priority) & (!1 << point)) >> 1;
        c.apr[group][level as usize / 32] |= 1 << (level % 32);
        self.s.active.set(cpu, index, true);
        let mut latched = false;
        if index < SGIS {
            self.s.sgi_from[cpu][index] &= !(1 << source);
            latched = self.s.sgi_from[cpu][index] != 0;
        }
        self.s.latch.set(cpu, index, latched);
        self.update();
        irq | source << 10
    }

    /// GICC_EOIR: priority drop, and deactivation unless EOImode separates it.
    fn end(&mut self, cpu: usize, value: u32, split: u32) {
        let irq = (value & 0x3ff) as usize;
        // Without an active priority there is nothing to end.
        if !self.exists(irq) || self.s.cpu[cpu].running() == super::IDLE {
            return;
        }
        let group = usize::from(self.s.group.get(cpu, irq));
        let c = &mut self.s.cpu[cpu];
        if let Some(levels) = c.apr[group].iter_mut().find(|levels| **levels != 0) {
            *levels &= *levels - 1;
        }
        if c.ctlr & split == 0 {
            self.deactivate(cpu, value);
        }
    }

    /// The end of a virtual interrupt that stands for this one.
    pub(super) fn deactivate_virtual(&mut self, cpu: usize, irq: u32) {
        // As a Non-secure write would.
        if !self.security || self.is_group_1(cpu, irq) {
            self.deactivate(cpu, irq);
        }
    }

    fn deactivate(&mut self, cpu: usize, value: u32) {
        let irq = (value & 0x3ff) as usize;
        if self.exists(irq) {
            self.s.active.set(cpu, irq, false);
        }
    }
}
