//! 32 interrupts with the registers that configure them; SPIs, and the SGIs and PPIs of a CPU, have the same layout.

pub(super) const BANK: usize = 32;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Bank {
    pub group: u32,
    pub enabled: u32,
    /// Pending by an edge, by an SGI or by software.
    pub latch: u32,
    pub active: u32,
    pub edge: u32,
    /// Levels of the wires.
    pub level: u32,
    pub priority: [u8; BANK],
}

/// The registers that hold a bit, a byte or two bits for each interrupt, by the offset of the first.
#[derive(Clone, Copy)]
pub(super) struct Place {
    register: u64,
    /// Which bank, and which byte of the bank's part of the register.
    pub bank: usize,
    byte: usize,
}

impl Place {
    /// Where a byte at this offset lies; `None` if there are no such registers.
    pub fn at(offset: u64) -> Option<Place> {
        let (register, bytes) = match offset {
            0x080..0x400 => (offset & !0x7f, 4),
            0x400..0x800 => (0x400, 32),
            0xc00..0xd00 => (0xc00, 8),
            _ => return None,
        };
        let inside = (offset - register) as usize;
        Some(Place { register, bank: inside / bytes, byte: inside % bytes })
    }
}

impl Bank {
    pub fn pending(&self) -> u32 {
        self.latch | self.level & !self.edge
    }

    /// Interrupts that may be signalled, given which groups are forwarded.
    pub fn ready(&self, forwarded: [bool; 2]) -> u32 {
        let [group0, group1] = forwarded.map(|f| if f { u32::MAX } else { 0 });
        self.pending() & self.enabled & !self.active & (self.group & group1 | !self.group & group0)
    }

    /// Sets a wire's level; says whether anything changed.
    pub fn set_level(&mut self, index: u32, level: bool) -> bool {
        let bit = 1 << index;
        if (self.level & bit != 0) == level {
            return false;
        }
        self.level ^= bit;
        if level {
            self.latch |= self.edge & bit;
        }
        true
    }

    pub fn read(&self, place: Place) -> u8 {
        let word = match place.register {
            0x080 => self.group,
            0x100 | 0x180 => self.enabled,
            0x200 | 0x280 => self.pending(),
            0x300 | 0x380 => self.active,
            0x400 => return self.priority[place.byte],
            _ => return (0..4).map(|i| (self.edge >> (place.byte * 4 + i) & 1) << (i * 2 + 1)).sum::<u32>() as u8,
        };
        (word >> (place.byte * 8)) as u8
    }

    /// `fixed_edge` has the interrupts whose configuration cannot change.
    pub fn write(&mut self, place: Place, byte: u8, fixed_edge: u32) {
        let shift = place.byte % 4 * 8;
        let bits = u32::from(byte) << shift;
        match place.register {
            0x080 => self.group = self.group & !(0xff << shift) | bits,
            0x100 => self.enabled |= bits,
            0x180 => self.enabled &= !bits,
            0x200 => self.latch |= bits,
            0x280 => self.latch &= !bits,
            0x300 => self.active |= bits,
            0x380 => self.active &= !bits,
            0x400 => self.priority[place.byte] = byte,
            _ => {
                for i in 0..4 {
                    let bit = 1 << (place.byte * 4 + i) & !fixed_edge;
                    if byte >> (i * 2 + 1) & 1 != 0 { self.edge |= bit } else { self.edge &= !bit }
                }
            }
        }
    }
}
