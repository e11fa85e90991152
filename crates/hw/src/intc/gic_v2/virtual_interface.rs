//! The Virtualization Extensions: what a hypervisor gives its guest by list registers (GICH), and the CPU interface that the
//! guest sees (GICV).
//!
//! Reference: IHI 0048B, chapter 5. As QEMU has it: four list registers, 32 preemption levels.

use super::interface::{ACK_CTL, CBPR, CTLR_MASK, EOI_MODE, FIQ_EN, IIDR};
use super::{Core, GicV2, IDLE, OTHER_GROUP, SGIS, SPURIOUS};
use crate::intc::lists::{self, List, hcr};
use fabric::MmioTarget;
use std::sync::Arc;

/// List registers of each CPU.
const LISTS: usize = 4;
/// GICH_VTR: preemption and priority bits less one, list registers less one.
const VTR: u32 = 4 << 29 | 4 << 26 | (LISTS as u32 - 1);
/// The private interrupt that tells the hypervisor of work.
const MAINTENANCE: usize = 25;

/// GICH_HCR.
const HCR_MASK: u32 = hcr::EOI_COUNT | 0xff;

/// A list register: of hardware, group 1, active, pending, and (not of hardware) tell at its end.
const HW: u32 = 1 << 31;
const GROUP_1: u32 = 1 << 30;
const ACTIVE: u32 = 1 << 29;
const PENDING: u32 = 1 << 28;
const EOI: u32 = 1 << 19;
const LR_MASK: u32 = !(7 << 20);
/// Priorities have five bits, and with them the binary points a smallest value.
const LEVEL_SHIFT: u32 = 3;
const PMR_MASK: u8 = 0xf8;
const BPR_MIN: u8 = 2;
const ABPR_MIN: u8 = 3;
/// What a guest may set its own to.
const GUEST_ABPR_MIN: u8 = 1;

/// A virtual CPU interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Virtual {
    hcr: u32,
    apr: u32,
    lr: [u32; LISTS],
    ctlr: u32,
    pmr: u8,
    bpr: u8,
    abpr: u8,
}

impl Virtual {
    pub const RESET: Virtual =
        Virtual { hcr: 0, apr: 0, lr: [0; LISTS], ctlr: 0, pmr: 0, bpr: BPR_MIN, abpr: ABPR_MIN };

    fn running(&self) -> u32 {
        if self.apr == 0 { IDLE } else { self.apr.trailing_zeros() << LEVEL_SHIFT }
    }

    fn lists(&self) -> [List; LISTS] {
        let list = |lr: u32| List {
            active: lr & ACTIVE != 0,
            pending: lr & PENDING != 0,
            hardware: lr & HW != 0,
            tells: lr & EOI != 0,
        };
        self.lr.map(list)
    }

    fn misr(&self) -> u32 {
        lists::misr(&self.lists(), self.hcr, [self.ctlr & 1 != 0, self.ctlr & 2 != 0])
    }

    /// GICH_VMCR.
    fn vmcr(&self) -> u32 {
        u32::from(self.pmr) << 24 | u32::from(self.bpr) << 21 | u32::from(self.abpr) << 18 | self.ctlr
    }

    fn set_vmcr(&mut self, value: u32) {
        self.ctlr = value & CTLR_MASK;
        self.abpr = (value >> 18 & 7).max(ABPR_MIN.into()) as u8;
        self.bpr = (value >> 21 & 7).max(BPR_MIN.into()) as u8;
        self.pmr = (value >> 24) as u8 & PMR_MASK;
    }

    /// The pending interrupt of highest priority that may be presented: its list register.
    fn best(&self) -> Option<usize> {
        if self.hcr & hcr::EN == 0 {
            return None;
        }
        let pending = (0..LISTS).filter(|&i| self.lr[i] & (ACTIVE | PENDING) == PENDING);
        let best = pending.min_by_key(|&i| priority(self.lr[i]))?;
        let shown = priority(self.lr[best]) < u32::from(self.pmr) && self.ctlr & 3 != 0;
        shown.then_some(best)
    }

    /// Levels of IRQ and FIQ.
    fn signals(&self) -> (bool, bool) {
        let Some(best) = self.best() else { return (false, false) };
        let lr = self.lr[best];
        let group = u32::from(lr & GROUP_1 != 0);
        let signalled = priority(lr) < self.running() && self.ctlr >> group & 1 != 0;
        let fiq = signalled && group == 0 && self.ctlr & FIQ_EN != 0;
        (signalled && !fiq, fiq)
    }

    /// The list register that an acknowledge takes, or what it reads instead.
    fn presented(&self, aliased: bool) -> Result<usize, u32> {
        let best = self.best().ok_or(SPURIOUS)?;
        match (self.lr[best] & GROUP_1 != 0, aliased) {
            (true, false) if self.ctlr & ACK_CTL == 0 => Err(OTHER_GROUP),
            (false, true) => Err(SPURIOUS),
            _ => Ok(best),
        }
    }

    fn highest(&self, aliased: bool) -> u32 {
        self.presented(aliased).map_or_else(|none| none, |i| identity(self.lr[i]))
    }

    /// GICV_IAR.
    fn acknowledge(&mut self, aliased: bool) -> u32 {
        let i = match self.presented(aliased) {
            Ok(i) => i,
            Err(none) => return none,
        };
        let lr = self.lr[i];
        if priority(lr) >= self.running() {
            return SPURIOUS;
        }
        let own_point = lr & GROUP_1 != 0 && self.ctlr & CBPR == 0;
        let point = if own_point { self.abpr - 1 } else { self.bpr };
        self.apr |= 1 << ((priority(lr) & (!1 << point)) >> LEVEL_SHIFT);
        self.lr[i] = lr & !PENDING | ACTIVE;
        identity(lr)
    }

    /// The list register with an active interrupt of this number.
    fn active(&self, intid: u32) -> Option<usize> {
        (0..LISTS).find(|&i| self.lr[i] & 0x3ff == intid && self.lr[i] & ACTIVE != 0)
    }

    /// Ends an interrupt; gives the physical one that ends with it.
    fn deactivate(&mut self, i: usize) -> Option<u32> {
        let lr = self.lr[i];
        self.lr[i] = lr & !ACTIVE;
        Some(lr >> 10 & 0x3ff).filter(|&physical| lr & HW != 0 && physical >= SGIS as u32)
    }

    /// GICV_EOIR.
    fn end(&mut self, value: u32) -> Option<u32> {
        let intid = value & 0x3ff;
        if intid >= 1020 {
            return None;
        }
        let dropped = self.apr != 0;
        self.apr &= self.apr.wrapping_sub(1);
        if self.ctlr & EOI_MODE != 0 {
            return None;
        }
        match self.active(intid) {
            Some(i) => self.deactivate(i),
            None => {
                if dropped {
                    self.hcr = self.hcr.wrapping_add(hcr::EOI_COUNT_ONE);
                }
                None
            }
        }
    }

    /// GICV_DIR.
    fn end_split(&mut self, value: u32) -> Option<u32> {
        if self.ctlr & EOI_MODE == 0 || value & 0x3ff >= 1020 {
            return None;
        }
        match self.active(value & 0x3ff) {
            Some(i) => self.deactivate(i),
            None => {
                self.hcr = self.hcr.wrapping_add(hcr::EOI_COUNT_ONE);
                None
            }
        }
    }

    fn read_guest(&mut self, offset: u64) -> u32 {
        match offset {
            0x00 => self.ctlr,
            0x04 => self.pmr.into(),
            0x08 => self.bpr.into(),
            0x0c => self.acknowledge(false),
            0x14 => self.running().min(0xff),
            0x18 => self.highest(false),
            0x1c => self.abpr.into(),
            0x20 => self.acknowledge(true),
            0x28 => self.highest(true),
            0xd0 => self.apr,
            0xfc => IIDR,
            _ => 0,
        }
    }

    /// Gives the physical interrupt that ends.
    fn write_guest(&mut self, offset: u64, value: u32) -> Option<u32> {
        match offset {
            0x00 => self.ctlr = value & CTLR_MASK,
            0x04 => self.pmr = value as u8 & PMR_MASK,
            0x08 => self.bpr = (value as u8 & 7).max(BPR_MIN),
            0x10 | 0x24 => return self.end(value),
            0x1c => self.abpr = (value as u8 & 7).max(GUEST_ABPR_MIN),
            0xd0 => self.apr = value,
            0x1000 => return self.end_split(value),
            _ => {}
        }
        None
    }

    fn read_control(&self, offset: u64) -> u32 {
        match offset {
            0x00 => self.hcr,
            0x04 => VTR,
            0x08 => self.vmcr(),
            0x10 => self.misr(),
            0x20 => lists::ended(&self.lists()),
            0x30 => lists::free(&self.lists()),
            0xf0 => self.apr,
            0x100..0x200 => self.lr.get((offset as usize - 0x100) / 4).copied().unwrap_or(0),
            _ => 0,
        }
    }

    fn write_control(&mut self, offset: u64, value: u32) {
        match offset {
            0x00 => self.hcr = value & HCR_MASK,
            0x08 => self.set_vmcr(value),
            0xf0 => self.apr = value,
            0x100..0x200 => {
                if let Some(lr) = self.lr.get_mut((offset as usize - 0x100) / 4) {
                    *lr = value & LR_MASK;
                }
            }
            _ => {}
        }
    }
}

fn priority(lr: u32) -> u32 {
    (lr >> 23 & 31) << LEVEL_SHIFT
}

/// What an acknowledge reads: the number, and the sender of a software interrupt.
fn identity(lr: u32) -> u32 {
    let intid = lr & 0x3ff;
    if intid < SGIS as u32 && lr & HW == 0 { lr & 0x1fff } else { intid }
}

impl Core {
    /// Recomputes what a virtual interface tells its CPU and its hypervisor.
    pub(super) fn update_virtual(&mut self, cpu: usize) {
        let Some(v) = self.s.virt.get(cpu) else { return };
        let (irq, fiq) = v.signals();
        let maintenance = v.hcr & hcr::EN != 0 && v.misr() != 0;
        self.level.set(cpu, MAINTENANCE, maintenance);
        let out = &mut self.virtual_out[cpu];
        if out.levels != (irq, fiq) {
            out.levels = (irq, fiq);
            out.irq.set(irq);
            out.fiq.set(fiq);
        }
    }
}

/// GICH: the hypervisor's registers of the CPU that accesses them.
pub(super) struct Control(pub Arc<GicV2>);

impl MmioTarget for Control {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let cpu = self.0.accessor();
        let value = self.0.lock().s.virt[cpu].read_control(offset & !3);
        u64::from(value) >> (offset % 4 * 8) & fabric::device::mask(size.min(4))
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        let cpu = self.0.accessor();
        let mut core = self.0.lock();
        core.s.virt[cpu].write_control(offset & !3, value as u32);
        core.update();
    }
}

/// GICV: the guest's CPU interface.
pub(super) struct Registers(pub Arc<GicV2>);

impl MmioTarget for Registers {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let cpu = self.0.accessor();
        let mut core = self.0.lock();
        let value = core.s.virt[cpu].read_guest(offset & !3);
        core.update();
        u64::from(value) >> (offset % 4 * 8) & fabric::device::mask(size.min(4))
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        let cpu = self.0.accessor();
        let mut core = self.0.lock();
        if let Some(physical) = core.s.virt[cpu].write_guest(offset & !3, value as u32) {
            core.deactivate_virtual(cpu, physical);
        }
        core.update();
    }
}
