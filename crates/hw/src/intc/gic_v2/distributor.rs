//! The distributor's registers (IHI 0048B, 4.3).

use super::{Bits, Core, GicV2, PRIVATE, SGIS};
use fabric::MmioTarget;
use std::sync::Arc;

pub(super) struct Registers {
    pub gic: Arc<GicV2>,
    pub secure: bool,
}

/// GICD_TYPER.SecurityExtn.
const TYPER_SECURITY: u32 = 1 << 10;

/// EnableGrp0, EnableGrp1.
const CTLR_MASK: u32 = 3;
/// Implementer Arm, product 0, as QEMU has it.
const IIDR: u32 = 0x43b;
const SGIR: u64 = 0xf00;
/// GICD_SGIR: for an SGI in group 1.
const NSATT: u32 = 15;
/// PIDR4-7, PIDR0-3, CIDR0-3: a GICv2 by Arm.
const ID: [u8; 12] = [0x04, 0, 0, 0, 0x90, 0xb4, 0x2b, 0, 0x0d, 0xf0, 0x05, 0xb1];

/// Which bits a byte of a bit register holds.
struct Lane {
    word: usize,
    shift: u32,
}

impl Lane {
    fn at(offset: u64) -> Lane {
        let byte = (offset & 0x7f) as usize;
        Lane { word: byte / 4, shift: byte as u32 % 4 * 8 }
    }

    /// SGIs are in the first two bytes of the first word; some registers do not change for them.
    fn without_sgis(&self, byte: u8) -> u8 {
        if self.word == 0 && self.shift < SGIS as u32 { 0 } else { byte }
    }
}

impl MmioTarget for Registers {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let cpu = self.gic.accessor();
        let core = self.gic.lock();
        let byte = |i| u64::from(core.read_byte(cpu, (offset + i) & 0xfff, self.secure));
        (0..u64::from(size.min(8))).map(|i| byte(i) << (i * 8)).sum()
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        let cpu = self.gic.accessor();
        let mut core = self.gic.lock();
        if offset & !3 == SGIR {
            // The register is written as a whole.
            if size == 4 {
                core.send_sgi(cpu, value as u32, self.secure);
            }
        } else {
            for i in 0..u64::from(size.min(8)) {
                core.write_byte(cpu, (offset + i) & 0xfff, (value >> (i * 8)) as u8, self.secure);
            }
        }
        core.update();
    }
}

impl Core {
    fn read_byte(&self, cpu: usize, offset: u64, secure: bool) -> u8 {
        let shift = (offset % 4) * 8;
        let of_word = |word: u32| (word >> shift) as u8;
        let lane = Lane::at(offset);
        let (exists, visible) = (lane.word < self.words(), if lane.word < self.words() { self.visible(cpu, lane.word, secure) } else { 0 });
        let bits = |bits: &Bits| if exists { of_word(bits.word(cpu, lane.word) & visible) } else { 0 };
        match offset {
            // The Non-secure world has the enable of group 1 in bit 0.
            0x000..0x004 => of_word(if secure { self.s.ctlr } else { self.s.ctlr >> 1 & 1 }),
            0x004..0x008 => {
                let security = if self.security { TYPER_SECURITY } else { 0 };
                of_word((self.words() as u32 - 1) | (self.cpus() as u32 - 1) << 5 | security)
            }
            0x008..0x00c => of_word(IIDR),
            0x080..0x100 if secure => bits(&self.s.group),
            0x100..0x200 => bits(&self.s.enabled),
            0x200..0x300 if exists => of_word(self.pending_word(cpu, lane.word) & visible),
            0x300..0x400 => bits(&self.s.active),
            0x400..0x800 if self.exists(offset as usize - 0x400) => {
                let irq = offset as usize - 0x400;
                match (secure, self.is_visible(cpu, irq, secure)) {
                    (true, _) => self.priority(cpu, irq),
                    // The upper half of the priorities as a whole range.
                    (false, true) => self.priority(cpu, irq) << 1,
                    _ => 0,
                }
            }
            0x800..0xc00 if self.is_visible_or_absent(cpu, offset as usize - 0x800, secure) => self.targets(cpu, offset as usize - 0x800),
            0xc00..0xd00 => self.config(cpu, offset as usize - 0xc00, secure),
            0xf10..0xf30 if self.is_visible(cpu, offset as usize % SGIS, secure) => self.s.sgi_from[cpu][offset as usize % SGIS],
            0xfd0..0x1000 if shift == 0 => ID[(offset as usize - 0xfd0) / 4],
            _ => 0,
        }
    }

    fn is_visible_or_absent(&self, cpu: usize, irq: usize, secure: bool) -> bool {
        !self.exists(irq) || self.is_visible(cpu, irq, secure)
    }

    fn write_byte(&mut self, cpu: usize, offset: u64, byte: u8, secure: bool) {
        let lane = Lane::at(offset);
        let in_range = lane.word < self.words();
        let whole = byte;
        // What the access cannot see stays as it is.
        let visible = if in_range && offset < 0x400 { (self.visible(cpu, lane.word, secure) >> lane.shift) as u8 } else { !0 };
        let byte = byte & visible;
        match offset {
            0x000 if secure => self.s.ctlr = u32::from(byte) & CTLR_MASK,
            0x000 => self.s.ctlr = self.s.ctlr & !2 | u32::from(whole & 1) << 1,
            0x080..0x100 if in_range && !secure => {}
            0x080..0x100 if in_range => {
                let word = self.s.group.word_mut(cpu, lane.word);
                *word = *word & !(0xff << lane.shift) | u32::from(byte) << lane.shift;
            }
            0x100..0x180 if in_range => *self.s.enabled.word_mut(cpu, lane.word) |= u32::from(byte) << lane.shift,
            0x180..0x200 if in_range => {
                *self.s.enabled.word_mut(cpu, lane.word) &= !(u32::from(lane.without_sgis(byte)) << lane.shift);
            }
            0x200..0x280 if in_range => {
                *self.s.latch.word_mut(cpu, lane.word) |= u32::from(lane.without_sgis(byte)) << lane.shift;
            }
            0x280..0x300 if in_range => {
                *self.s.latch.word_mut(cpu, lane.word) &= !(u32::from(lane.without_sgis(byte)) << lane.shift);
            }
            0x300..0x380 if in_range => *self.s.active.word_mut(cpu, lane.word) |= u32::from(byte) << lane.shift,
            0x380..0x400 if in_range => *self.s.active.word_mut(cpu, lane.word) &= !(u32::from(byte) << lane.shift),
            0x400..0x800 if secure => self.set_priority(cpu, offset as usize - 0x400, byte),
            0x400..0x800 if self.exists(offset as usize - 0x400) && self.is_visible(cpu, offset as usize - 0x400, false) => {
                self.set_priority(cpu, offset as usize - 0x400, 0x80 | byte >> 1);
            }
            0x800..0xc00 if self.is_visible_or_absent(cpu, offset as usize - 0x800, secure) => self.set_targets(offset as usize - 0x800, byte),
            0xc00..0xd00 => self.set_config(cpu, offset as usize - 0xc00, byte, secure),
            0xf10..0xf20 if self.is_visible(cpu, offset as usize % SGIS, secure) => self.change_sgi(cpu, offset as usize - 0xf10, |from| from & !byte),
            0xf20..0xf30 if self.is_visible(cpu, offset as usize % SGIS, secure) => self.change_sgi(cpu, offset as usize - 0xf20, |from| from | byte),
            _ => {}
        }
        // Interrupts beyond the last one stay as they are: zero.
        if !in_range || self.s.priority.len().is_multiple_of(32) {
            return;
        }
        let last = self.words() - 1;
        let exist = (1 << (self.s.priority.len() % 32)) - 1;
        for bits in [&mut self.s.group, &mut self.s.enabled, &mut self.s.latch, &mut self.s.active] {
            *bits.word_mut(cpu, last) &= exist;
        }
    }

    fn set_priority(&mut self, cpu: usize, irq: usize, priority: u8) {
        if irq < PRIVATE {
            self.s.private_priority[cpu][irq] = priority;
        } else if self.exists(irq) {
            self.s.priority[irq - PRIVATE] = priority;
        }
    }

    /// With one CPU the registers read as zero; those of private interrupts name the CPU that reads.
    fn targets(&self, cpu: usize, irq: usize) -> u8 {
        match irq {
            _ if self.cpus() == 1 || !self.exists(irq) => 0,
            0..PRIVATE => 1 << cpu,
            _ => self.s.targets[irq - PRIVATE],
        }
    }

    fn set_targets(&mut self, irq: usize, targets: u8) {
        if self.cpus() == 1 || irq < PRIVATE || !self.exists(irq) {
            return;
        }
        let spi = irq - PRIVATE;
        self.s.targets[spi] = targets & (((1u32 << self.cpus()) - 1) as u8);
        for (cpu, words) in self.target_words.iter_mut().enumerate() {
            let bit = 1 << (spi % 32);
            if self.s.targets[spi] >> cpu & 1 != 0 { words[spi / 32] |= bit } else { words[spi / 32] &= !bit }
        }
    }

    /// Two bits for each interrupt; the upper one says edge-triggered.
    fn config(&self, cpu: usize, byte: usize, secure: bool) -> u8 {
        let edge = |irq| self.exists(irq) && self.s.edge.get(cpu, irq) && self.is_visible(cpu, irq, secure);
        (0..4).filter(|i| edge(byte * 4 + i)).map(|i| 2 << (i * 2)).sum()
    }

    fn set_config(&mut self, cpu: usize, byte: usize, value: u8, secure: bool) {
        for i in 0..4 {
            let irq = byte * 4 + i;
            if irq >= SGIS && self.exists(irq) && self.is_visible(cpu, irq, secure) {
                self.s.edge.set(cpu, irq, value >> (i * 2 + 1) & 1 != 0);
            }
        }
    }

    fn change_sgi(&mut self, target: usize, sgi: usize, change: impl Fn(u8) -> u8) {
        let senders = ((1u32 << self.cpus()) - 1) as u8;
        let from = change(self.s.sgi_from[target][sgi]) & senders;
        self.s.sgi_from[target][sgi] = from;
        self.s.latch.set(target, sgi, from != 0);
    }

    /// GICD_SGIR: a software interrupt to the listed CPUs, to all others, or to the sender.
    fn send_sgi(&mut self, from: usize, value: u32, secure: bool) {
        let all = (1u32 << self.cpus()) - 1;
        let to = match value >> 24 & 3 {
            0 => value >> 16 & all,
            1 => all & !(1 << from),
            2 => 1 << from,
            // Reserved; the reference sends to all.
            _ => all,
        };
        let group = !secure || value >> NSATT & 1 != 0;
        for target in (0..self.cpus()).filter(|t| to >> t & 1 != 0) {
            // With Security Extensions it arrives where it is in the group that is meant.
            if self.security && self.s.group.get(target, value as usize % SGIS) != group {
                continue;
            }
            self.change_sgi(target, value as usize % SGIS, |senders| senders | 1 << from);
        }
    }
}
