//! Causes, masks, moderation; one wire or message on the 82540, up to five messages on the 82574.
//!
//! Reference: 317453 13.4.17 to 13.4.22; 317694 7.4 and 10.2.4.

use std::time::Duration;

use net::Nanos;

use super::regs::*;
use super::{E1000, Kind};
use crate::net::card::Wires;

/// Messages of the 82574.
pub const VECTORS: usize = 5;
/// Causes that have a message of their own.
const MESSAGES: u32 = 0x01f0_0000;
/// Causes that the "other" message stands for.
const OTHERS: u32 = ICR_LSC | ICR_RXO | ICR_MDAC | 1 << 3 | 1 << 16 | 1 << 17 | 1 << 18;
/// The unit of ITR and EITR.
const UNIT: u64 = 256;

/// What the wires know already.
#[derive(Default)]
pub struct Interrupts {
    /// The one interrupt is asserted.
    asserted: bool,
    /// Causes whose message is on its way.
    sent: u32,
    /// When the next one is allowed: the wire, or each message.
    allowed: [Nanos; VECTORS],
    /// When something that waits for that is due.
    due: Option<Nanos>,
}

impl Interrupts {
    pub fn reset(&mut self) {
        *self = Interrupts::default();
    }

    pub fn deadline(&self) -> Option<Nanos> {
        self.due
    }

    /// Whether the interval since the last one is over; if not, when it will be.
    fn allow(&mut self, vector: usize, now: Nanos, interval: u32) -> bool {
        let at = self.allowed[vector];
        if now < at {
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
            return false;
        }
        self.allowed[vector] = now.after(Duration::from_nanos(u64::from(interval & 0xffff) * UNIT));
        true
    }
}

impl E1000 {
    /// Bits that exist.
    pub(super) fn causes(&self) -> u32 {
        if self.kind == Kind::I82574 { 0x01ff_ffff } else { 0x0001_ffff }
    }

    /// Something happened.
    pub(super) fn cause(&mut self, bits: u32) {
        let mut bits = bits & self.causes();
        if self.kind == Kind::I82574 && bits & OTHERS != 0 {
            bits |= ICR_OTHER;
        }
        let value = self.get(ICR) | bits;
        self.set(ICR, value);
    }

    pub(super) fn read_icr(&mut self, w: &Wires) -> u32 {
        let value = self.get(ICR);
        if self.kind == Kind::I82540 {
            self.set(ICR, 0);
            return value;
        }
        if w.signal.msix_enabled() {
            // What its message clears is not cleared here, too.
            let left = value & self.get(EIAC);
            self.set(ICR, left);
        } else if value & ICR_INT_ASSERTED != 0 || self.get(IMS) == 0 {
            self.set(ICR, 0);
            if self.has(CTRL_EXT, CTRL_EXT_IAME) {
                let mask = self.get(IMS) & !self.get(IAM);
                self.set(IMS, mask);
            }
        }
        value
    }

    /// Makes the wires follow causes and masks.
    pub(super) fn drive(&mut self, w: &Wires) {
        self.irq.due = None;
        if self.kind == Kind::I82574 && w.signal.msix_enabled() {
            return self.drive_messages(w);
        }
        let wanted = self.get(ICR) & self.get(IMS) & self.causes() != 0;
        if wanted == self.irq.asserted {
            return;
        }
        if !wanted {
            self.irq.asserted = false;
            w.signal.set_intx(false);
        } else if self.irq.allow(0, w.now, self.get(ITR)) {
            self.irq.asserted = true;
            if self.kind == Kind::I82574 {
                let value = self.get(ICR) | ICR_INT_ASSERTED;
                self.set(ICR, value);
            }
            if !w.signal.notify(0) {
                w.signal.set_intx(true);
            }
        }
    }

    fn drive_messages(&mut self, w: &Wires) {
        let pending = self.get(ICR) & self.get(IMS) & MESSAGES;
        self.irq.sent &= pending;
        let mut left = pending & !self.irq.sent;
        while left != 0 {
            let bit = left & left.wrapping_neg();
            left &= !bit;
            let index = bit.trailing_zeros() - ICR_RXQ0.trailing_zeros();
            let entry = self.get(IVAR) >> (4 * index);
            let vector = (entry & 7) as usize;
            if entry & 8 == 0 || vector >= VECTORS {
                continue;
            }
            if !self.irq.allow(vector, w.now, self.get(EITR + 4 * vector as u32)) {
                continue;
            }
            w.signal.notify(vector as u16);
            self.irq.sent |= bit;
            if self.has(CTRL_EXT, CTRL_EXT_EIAME) {
                let mask = self.get(IMS) & !(self.get(IAM) & bit);
                self.set(IMS, mask);
            }
            if self.has(EIAC, bit) {
                let value = self.get(ICR) & !bit;
                self.set(ICR, value);
                self.irq.sent &= !bit;
            }
        }
    }
}
