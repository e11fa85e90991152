//! The virtual CPU interface: list registers for a hypervisor (ICH), and what its guest's accesses reach instead of the
//! physical interface (ICV).
//!
//! Reference: IHI 0069H, chapter 6, 12.4 and 12.5. As QEMU has it: four list registers, 5 priority and preemption bits.

use super::interface::{CBPR, CTLR_FIXED, EOI_MODE, IDLE, icc};
use super::{BPR0_MIN, BPR1_MIN, Core, LEVEL_SHIFT, LPI_FIRST, SPURIOUS};
use crate::intc::lists::{self, List, hcr};

/// List registers of each CPU.
const LISTS: usize = 4;
/// ICH_VTR: priority and preemption bits less one, 24-bit INTIDs, affinity 3, no direct injection, DIR can be trapped alone.
const VTR: u32 = 4 << 29 | 4 << 26 | 1 << 23 | 1 << 21 | 1 << 20 | 1 << 19 | (LISTS as u32 - 1);
/// The private interrupt that tells the hypervisor of work.
const MAINTENANCE: u32 = 25;

/// ICH_HCR: as in a GICv2, and traps.
const HCR_MASK: u32 = hcr::EOI_COUNT | 0x7cff;

/// ICH_VMCR bits; FIQs are always enabled.
const VFIQ_EN: u32 = 1 << 3;
const VCBPR: u32 = 1 << 4;
const VEOIM: u32 = 1 << 9;

/// A list register.
const ACTIVE: u64 = 1 << 63;
const PENDING: u64 = 1 << 62;
const HW: u64 = 1 << 61;
const GROUP_1: u64 = 1 << 60;
const EOI: u64 = 1 << 41;
const LR_MASK: u64 = !(7 << 48);

/// Numbers of the hypervisor's registers.
mod ich {
    pub const AP0R0: u32 = 0x4c80;
    pub const AP1R0: u32 = 0x4c90;
    pub const HCR: u32 = 0x4cb0;
    pub const VTR: u32 = 0x4cb1;
    pub const MISR: u32 = 0x4cb2;
    pub const EISR: u32 = 0x4cb3;
    pub const ELRSR: u32 = 0x4cb5;
    pub const VMCR: u32 = 0x4cb7;
    pub const LR: u32 = 0x4cc0;
    pub const LRC: u32 = 0x4ce0;
}

/// Which group's FIQs or IRQs a guest finds virtual: flags of `CpuInterface`'s numbers.
const VIRTUAL_GROUP: [u32; 2] = [1 << 27, 1 << 28];

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Virtual {
    hcr: u32,
    /// VENG0, VENG1, VCBPR, VEOIM.
    control: u32,
    pmr: u8,
    bpr: [u32; 2],
    apr: [u32; 2],
    lr: [u64; LISTS],
}

fn group(lr: u64) -> usize {
    usize::from(lr & GROUP_1 != 0)
}

fn priority(lr: u64) -> u32 {
    (lr >> 48) as u32 & 0xff
}

/// INTIDs that are no interrupts.
fn special(intid: u32) -> bool {
    (SPURIOUS - 3..=SPURIOUS).contains(&intid)
}

impl Virtual {
    pub fn reset() -> Virtual {
        Virtual { bpr: [BPR0_MIN, BPR1_MIN], ..Virtual::default() }
    }

    fn lists(&self) -> [List; LISTS] {
        let list = |lr: u64| List {
            active: lr & ACTIVE != 0,
            pending: lr & PENDING != 0,
            hardware: lr & HW != 0,
            tells: lr & EOI != 0,
        };
        self.lr.map(list)
    }

    fn misr(&self) -> u32 {
        lists::misr(&self.lists(), self.hcr, [self.control & 1 != 0, self.control & 2 != 0])
    }

    fn vmcr(&self) -> u32 {
        u32::from(self.pmr) << 24 | self.bpr[0] << 21 | self.bpr[1] << 18 | self.control | VFIQ_EN
    }

    fn set_vmcr(&mut self, value: u32) {
        self.control = value & (VEOIM | VCBPR | 3);
        self.pmr = (value >> 24) as u8 & !((1 << LEVEL_SHIFT) - 1);
        self.bpr = [(value >> 21 & 7).max(BPR0_MIN), (value >> 18 & 7).max(BPR1_MIN)];
    }

    fn running(&self) -> u32 {
        let levels = self.apr[0] | self.apr[1];
        if levels == 0 { IDLE } else { levels.trailing_zeros() << LEVEL_SHIFT }
    }

    fn preemption_mask(&self, group: usize) -> u32 {
        let point = if group == 1 && self.control & VCBPR == 0 { self.bpr[1] - 1 } else { self.bpr[0] };
        !1 << point
    }

    /// The list register of the highest pending interrupt of the enabled groups.
    fn best(&self) -> Option<usize> {
        let ready = |lr: u64| lr & (ACTIVE | PENDING) == PENDING && self.control >> group(lr) & 1 != 0;
        (0..LISTS).filter(|&i| ready(self.lr[i])).min_by_key(|&i| priority(self.lr[i]))
    }

    /// The same, if it may interrupt what is running.
    fn signalled(&self) -> Option<usize> {
        self.best().filter(|&i| {
            let (priority, mask) = (priority(self.lr[i]), self.preemption_mask(group(self.lr[i])));
            let running = self.running();
            let preempts = running == IDLE || priority & mask < running & mask;
            self.hcr & hcr::EN != 0 && priority < u32::from(self.pmr) && preempts
        })
    }

    fn acknowledge(&mut self, wanted: usize) -> u32 {
        let Some(i) = self.signalled().filter(|&i| group(self.lr[i]) == wanted) else { return SPURIOUS };
        let (lr, intid) = (self.lr[i], self.lr[i] as u32);
        self.lr[i] = lr & !PENDING;
        if !special(intid) {
            self.lr[i] |= ACTIVE;
            self.apr[wanted] |= 1 << ((priority(lr) & self.preemption_mask(wanted)) >> LEVEL_SHIFT);
        }
        intid
    }

    fn presented(&self, wanted: usize) -> u32 {
        self.best().filter(|&i| group(self.lr[i]) == wanted).map_or(SPURIOUS, |i| self.lr[i] as u32)
    }

    fn active(&self, intid: u32) -> Option<usize> {
        (0..LISTS).find(|&i| self.lr[i] as u32 == intid && self.lr[i] & ACTIVE != 0)
    }

    fn count_end(&mut self) {
        self.hcr = self.hcr & !hcr::EOI_COUNT | self.hcr.wrapping_add(hcr::EOI_COUNT_ONE) & hcr::EOI_COUNT;
    }

    /// Ends an interrupt; gives the physical one that ends with it.
    fn deactivate(&mut self, i: usize) -> Option<u32> {
        let lr = self.lr[i];
        self.lr[i] = lr & !ACTIVE;
        Some((lr >> 32) as u32 & 0x1fff).filter(|&physical| lr & HW != 0 && physical < SPURIOUS - 3)
    }

    /// ICV_EOIR: the priority drops first, whatever the number is.
    fn end(&mut self, wanted: usize, value: u32) -> Option<u32> {
        let intid = value & 0xff_ffff;
        if special(intid) {
            return None;
        }
        let level = |apr: u32| apr.trailing_zeros();
        let of = usize::from(level(self.apr[1]) < level(self.apr[0]));
        if self.apr[of] == 0 {
            return None;
        }
        let dropped = level(self.apr[of]) << LEVEL_SHIFT;
        self.apr[of] &= self.apr[of] - 1;
        let Some(i) = self.active(intid) else {
            if intid < LPI_FIRST {
                self.count_end();
            }
            return None;
        };
        let lr = self.lr[i];
        let same = group(lr) == wanted && priority(lr) & self.preemption_mask(wanted) == dropped;
        if same && (self.control & VEOIM == 0 || intid >= LPI_FIRST) { self.deactivate(i) } else { None }
    }

    fn end_split(&mut self, value: u32) -> Option<u32> {
        if self.control & VEOIM == 0 {
            return None;
        }
        match self.active(value & 0xff_ffff) {
            Some(i) => self.deactivate(i),
            None => {
                self.count_end();
                None
            }
        }
    }

    /// A guest's read of a register; `None` if it has none of this number.
    fn read_guest(&mut self, register: u32) -> Option<u32> {
        Some(match register {
            icc::PMR => self.pmr.into(),
            icc::IAR0 => self.acknowledge(0),
            icc::IAR1 => self.acknowledge(1),
            icc::HPPIR0 => self.presented(0),
            icc::HPPIR1 => self.presented(1),
            icc::BPR0 => self.bpr[0],
            icc::BPR1 if self.control & VCBPR != 0 => (self.bpr[0] + 1).min(7),
            icc::BPR1 => self.bpr[1],
            icc::AP0R0 => self.apr[0],
            icc::AP1R0 => self.apr[1],
            icc::RPR => self.running(),
            icc::CTLR => {
                let split = if self.control & VEOIM != 0 { EOI_MODE } else { 0 };
                CTLR_FIXED | split | if self.control & VCBPR != 0 { CBPR } else { 0 }
            }
            icc::IGRPEN0 => self.control & 1,
            icc::IGRPEN1 => self.control >> 1 & 1,
            _ => return None,
        })
    }

    /// Gives the physical interrupt that ends.
    fn write_guest(&mut self, register: u32, value: u32) -> Option<u32> {
        match register {
            icc::PMR => self.pmr = value as u8 & !((1 << LEVEL_SHIFT) - 1),
            icc::EOIR0 => return self.end(0, value),
            icc::EOIR1 => return self.end(1, value),
            icc::DIR => return self.end_split(value),
            icc::BPR0 => self.bpr[0] = (value & 7).max(BPR0_MIN),
            icc::BPR1 if self.control & VCBPR == 0 => self.bpr[1] = (value & 7).max(BPR1_MIN),
            icc::AP0R0 => self.apr[0] = value,
            icc::AP1R0 => self.apr[1] = value,
            icc::CTLR => {
                let of = |bit: u32, flag: u32| if value & bit != 0 { flag } else { 0 };
                self.control = self.control & 3 | of(CBPR, VCBPR) | of(EOI_MODE, VEOIM);
            }
            icc::IGRPEN0 => self.control = self.control & !1 | value & 1,
            icc::IGRPEN1 => self.control = self.control & !2 | (value & 1) << 1,
            _ => {}
        }
        None
    }

    fn read_control(&self, register: u32) -> Option<u32> {
        let list = |first: u32| self.lr.get((register - first) as usize).copied();
        Some(match register {
            ich::AP0R0 => self.apr[0],
            ich::AP1R0 => self.apr[1],
            ich::HCR => self.hcr,
            ich::VTR => VTR,
            ich::MISR => self.misr(),
            ich::EISR => lists::ended(&self.lists()),
            ich::ELRSR => lists::free(&self.lists()),
            ich::VMCR => self.vmcr(),
            ich::LR..ich::LRC => list(ich::LR)? as u32,
            ich::LRC..0x4d00 => (list(ich::LRC)? >> 32) as u32,
            _ => return None,
        })
    }

    fn write_control(&mut self, register: u32, value: u32) -> bool {
        match register {
            ich::AP0R0 => self.apr[0] = value,
            ich::AP1R0 => self.apr[1] = value,
            ich::HCR => self.hcr = value & HCR_MASK,
            ich::VMCR => self.set_vmcr(value),
            ich::LR..0x4d00 => {
                let (first, shift) = if register < ich::LRC { (ich::LR, 0) } else { (ich::LRC, 32) };
                let Some(lr) = self.lr.get_mut((register - first) as usize) else { return false };
                *lr = (*lr & !(0xffff_ffff << shift) | u64::from(value) << shift) & LR_MASK;
            }
            _ => return false,
        }
        true
    }
}

/// Whether a guest's access is to its virtual interface, by the flags in the register's number.
pub(super) fn is_virtual(register: u32) -> bool {
    let flags = register & (VIRTUAL_GROUP[0] | VIRTUAL_GROUP[1]);
    match register & icc::MASK {
        icc::IAR0 | icc::EOIR0 | icc::HPPIR0 | icc::BPR0 | icc::AP0R0 | icc::IGRPEN0 => flags & VIRTUAL_GROUP[0] != 0,
        icc::IAR1 | icc::EOIR1 | icc::HPPIR1 | icc::BPR1 | icc::AP1R0 | icc::IGRPEN1 => flags & VIRTUAL_GROUP[1] != 0,
        icc::PMR | icc::RPR | icc::CTLR | icc::DIR => flags != 0,
        _ => false,
    }
}

/// Whether it is one of the hypervisor's registers.
pub(super) fn is_control(register: u32) -> bool {
    let register = register & icc::MASK;
    (ich::AP0R0..0x4d00).contains(&register) && register != icc::HSRE
}

impl Core {
    pub(super) fn read_virtual(&mut self, cpu: usize, register: u32) -> Option<u32> {
        let (v, number) = (&mut self.cpus[cpu].virt, register & icc::MASK);
        if is_control(register) {
            return v.read_control(number);
        }
        let value = v.read_guest(number);
        self.update(cpu);
        value
    }

    pub(super) fn write_virtual(&mut self, cpu: usize, register: u32, value: u32) -> bool {
        let (v, number) = (&mut self.cpus[cpu].virt, register & icc::MASK);
        let known = if is_control(register) {
            v.write_control(number, value)
        } else {
            if let Some(physical) = v.write_guest(number, value) {
                self.deactivate(cpu, physical);
            }
            true
        };
        self.update(cpu);
        known
    }

    /// Recomputes what a virtual interface tells its CPU and its hypervisor.
    pub(super) fn update_virtual(&mut self, cpu: usize) {
        let c = &mut self.cpus[cpu];
        let signalled = c.virt.signalled().map(|i| group(c.virt.lr[i]));
        let maintenance = c.virt.hcr & hcr::EN != 0 && c.virt.misr() != 0;
        c.bank.set_level(MAINTENANCE, maintenance);
        let levels = (signalled == Some(1), signalled == Some(0));
        let out = &mut self.virtual_out[cpu];
        if out.levels != levels {
            out.levels = levels;
            out.irq.set(levels.0);
            out.fiq.set(levels.1);
        }
    }
}
