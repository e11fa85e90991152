//! The CPU interface's system registers (IHI 0069H, 12.6 in AArch32 and 12.2 in AArch64).

use super::{virtual_interface, BPR0_MIN, BPR1_MIN, Core, Cpu, GicV3, LEVEL_SHIFT, LPI_FIRST, PRIORITY_BITS, SPURIOUS};
use crate::intc::gic_v3::bank::BANK;
use fabric::CpuInterface;
use std::sync::Arc;

pub(super) struct Registers {
    pub gic: Arc<GicV3>,
    pub cpu: usize,
}

/// Numbers as front ends give them: opc1, CRn, CRm, opc2 as hexadecimal digits; 0x10000, opc1 and CRm for 64-bit ones.
/// Bits from 24 on say who asks: that makes a difference to guests of a hypervisor only, with one Security state.
pub(super) mod icc {
    pub const MASK: u32 = 0xff_ffff;
    pub const PMR: u32 = 0x0460;
    pub const IAR0: u32 = 0x0c80;
    pub const EOIR0: u32 = 0x0c81;
    pub const HPPIR0: u32 = 0x0c82;
    pub const BPR0: u32 = 0x0c83;
    pub const AP0R0: u32 = 0x0c84;
    pub const AP1R0: u32 = 0x0c90;
    pub const DIR: u32 = 0x0cb1;
    pub const RPR: u32 = 0x0cb3;
    pub const IAR1: u32 = 0x0cc0;
    pub const EOIR1: u32 = 0x0cc1;
    pub const HPPIR1: u32 = 0x0cc2;
    pub const BPR1: u32 = 0x0cc3;
    pub const CTLR: u32 = 0x0cc4;
    pub const SRE: u32 = 0x0cc5;
    pub const IGRPEN0: u32 = 0x0cc6;
    pub const IGRPEN1: u32 = 0x0cc7;
    pub const HSRE: u32 = 0x4c95;
    pub const SGI1R: u32 = 0x1_000c;
    pub const ASGI1R: u32 = 0x1_001c;
    pub const SGI0R: u32 = 0x1_002c;
}

/// ICC_CTLR: CBPR, EOImode; A3V, 24-bit INTIDs, number of priority bits.
pub(super) const CBPR: u32 = 1;
pub(super) const EOI_MODE: u32 = 1 << 1;
pub(super) const CTLR_FIXED: u32 = 1 << 15 | 1 << 11 | (PRIORITY_BITS - 1) << 8;
/// System registers only, bypasses disabled; lower levels may ask (HSRE).
const SRE: u32 = 7;
const HSRE: u32 = 0xf;
/// Running priority while no interrupt is active.
pub(super) const IDLE: u32 = 0xff;

impl CpuInterface for Registers {
    fn read(&self, register: u32) -> Option<u64> {
        let mut core = self.gic.lock();
        if virtual_interface::is_virtual(register) || virtual_interface::is_control(register) {
            return core.read_virtual(self.cpu, register).map(u64::from);
        }
        let c = &core.cpus[self.cpu];
        let value = match register & icc::MASK {
            icc::PMR => c.pmr.into(),
            icc::IAR0 => core.acknowledge(self.cpu, 0),
            icc::IAR1 => core.acknowledge(self.cpu, 1),
            icc::HPPIR0 => c.presented(0),
            icc::HPPIR1 => c.presented(1),
            icc::BPR0 => c.bpr[0],
            icc::BPR1 if c.ctlr & CBPR != 0 => (c.bpr[0] + 1).min(7),
            icc::BPR1 => c.bpr[1],
            icc::AP0R0 => c.apr[0],
            icc::AP1R0 => c.apr[1],
            icc::RPR => c.running(),
            icc::CTLR => c.ctlr | CTLR_FIXED,
            icc::SRE => SRE,
            icc::HSRE => HSRE,
            icc::IGRPEN0 => c.enable[0].into(),
            icc::IGRPEN1 => c.enable[1].into(),
            _ => return None,
        };
        Some(value.into())
    }

    fn write(&self, register: u32, value: u64) -> bool {
        let mut core = self.gic.lock();
        let word = value as u32;
        if virtual_interface::is_virtual(register) || virtual_interface::is_control(register) {
            return core.write_virtual(self.cpu, register, word);
        }
        let c = &mut core.cpus[self.cpu];
        match register & icc::MASK {
            icc::PMR => c.pmr = word as u8 & !((1 << LEVEL_SHIFT) - 1),
            icc::EOIR0 => core.end(self.cpu, 0, word),
            icc::EOIR1 => core.end(self.cpu, 1, word),
            icc::DIR if c.ctlr & EOI_MODE != 0 => core.deactivate(self.cpu, word & 0xff_ffff),
            icc::DIR => {}
            icc::BPR0 => c.bpr[0] = (word & 7).max(BPR0_MIN),
            icc::BPR1 if c.ctlr & CBPR == 0 => c.bpr[1] = (word & 7).max(BPR1_MIN),
            icc::BPR1 => {}
            icc::AP0R0 => c.apr[0] = word,
            icc::AP1R0 => c.apr[1] = word,
            icc::CTLR => c.ctlr = word & (CBPR | EOI_MODE),
            icc::SRE | icc::HSRE => {}
            icc::IGRPEN0 => c.enable[0] = word & 1 != 0,
            icc::IGRPEN1 => c.enable[1] = word & 1 != 0,
            icc::SGI1R | icc::ASGI1R => core.send_sgi(self.cpu, 1, value),
            icc::SGI0R => core.send_sgi(self.cpu, 0, value),
            _ => return false,
        }
        core.update(self.cpu);
        true
    }
}

impl Cpu {
    /// The highest active priority.
    pub fn running(&self) -> u32 {
        let levels = self.apr[0] | self.apr[1];
        if levels == 0 { IDLE } else { levels.trailing_zeros() << LEVEL_SHIFT }
    }

    /// The bits of a priority that decide about preemption.
    fn preemption_mask(&self, group: usize) -> u32 {
        let point = if group == 1 && self.ctlr & CBPR == 0 { self.bpr[1] - 1 } else { self.bpr[0] };
        !1 << point
    }

    /// The highest pending interrupt, if it may interrupt what is running.
    pub fn signalled(&self) -> Option<(u32, u8, usize)> {
        self.best.filter(|&(_, priority, group)| {
            let mask = self.preemption_mask(group);
            let running = self.running();
            let preempts = running == IDLE || u32::from(priority) & mask < running & mask;
            self.enable[group] && priority < self.pmr && preempts
        })
    }

    /// The pending interrupt as ICC_HPPIR0 and ICC_HPPIR1 show it.
    fn presented(&self, group: usize) -> u32 {
        self.best.filter(|b| b.2 == group && self.enable[group]).map_or(SPURIOUS, |b| b.0)
    }
}

impl Core {
    /// ICC_IAR: the interrupt becomes active.
    fn acknowledge(&mut self, cpu: usize, group: usize) -> u32 {
        let c = &mut self.cpus[cpu];
        let Some((intid, priority, _)) = c.signalled().filter(|b| b.2 == group) else { return SPURIOUS };
        let level = (u32::from(priority) & c.preemption_mask(group)) >> LEVEL_SHIFT;
        c.apr[group] |= 1 << (level & 31);
        if intid >= LPI_FIRST {
            c.lpis.remove(&intid);
        } else if let Some((bank, bit)) = self.bank_of(cpu, intid) {
            bank.active |= bit;
            bank.latch &= !bit;
        }
        self.update(cpu);
        intid
    }

    /// ICC_EOIR: priority drop, and deactivation unless EOImode separates it.
    fn end(&mut self, cpu: usize, group: usize, value: u32) {
        let intid = value & 0xff_ffff;
        let c = &mut self.cpus[cpu];
        // Writes for another group than that of the highest active priority are ignored.
        let level = |apr: u32| apr.trailing_zeros();
        if (SPURIOUS - 3..=SPURIOUS).contains(&intid) || level(c.apr[group]) > level(c.apr[1 - group]) {
            return;
        }
        c.apr[group] &= c.apr[group].wrapping_sub(1);
        if c.ctlr & EOI_MODE == 0 {
            self.deactivate(cpu, intid);
        }
    }

    pub(super) fn deactivate(&mut self, cpu: usize, intid: u32) {
        if let Some((bank, bit)) = self.bank_of(cpu, intid) {
            bank.active &= !bit;
        }
        if let Some(spi) = (intid as usize).checked_sub(BANK).filter(|&spi| spi < self.router.len()) {
            self.update_target(spi);
        }
    }

    fn bank_of(&mut self, cpu: usize, intid: u32) -> Option<(&mut super::Bank, u32)> {
        let bit = 1 << (intid as usize % BANK);
        match (intid as usize / BANK).checked_sub(1) {
            None => Some((&mut self.cpus[cpu].bank, bit)),
            Some(bank) => self.spis.get_mut(bank).map(|bank| (bank, bit)),
        }
    }

    /// ICC_SGI0R, ICC_SGI1R: an SGI to the listed CPUs of a cluster, or to all others. It arrives where it is in the group
    /// that is meant.
    fn send_sgi(&mut self, from: usize, group: u32, value: u64) {
        let field = |shift: u32| (value >> shift) as u32 & 0xff;
        let bit = 1u32 << (value >> 24 & 0xf);
        let cluster = field(48) << 16 | field(32) << 8 | field(16);
        let others = value >> 40 & 1 != 0;
        let range = field(44) & 0xf;
        for target in 0..self.cpus.len() {
            let affinity = self.affinities[target];
            let aff0 = affinity & 0xff;
            let listed = affinity >> 8 == cluster && aff0 / 16 == range && value >> (aff0 % 16) & 1 != 0;
            let bank = &mut self.cpus[target].bank;
            let in_group = u32::from(bank.group & bit != 0) == group;
            if in_group && if others { target != from } else { listed } {
                bank.latch |= bit;
                self.update(target);
            }
        }
    }
}
