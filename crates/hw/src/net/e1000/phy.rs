//! The gigabit transceiver behind MDIC.
//!
//! Reference: IEEE 802.3 clause 22 (registers 0 to 15), 317453 8.10.
//! Not modelled: negotiation takes no time; speeds other than 1000 Mb/s full duplex; pages beyond the first of the 82574's.

use super::Kind;
use super::regs::{MDIC_ERROR, MDIC_READY};

/// The transceiver's number on the management bus.
const ADDRESS: u32 = 1;
const PCTRL: usize = 0;
const PSTATUS: usize = 1;
const PAGE: usize = 22;
const PCTRL_SELF_CLEARING: u16 = 0x8200;
const PCTRL_RESET: u16 = 0x8000;
const PCTRL_RESTART: u16 = 0x0200;
const PSTATUS_LINK: u16 = 0x0004;
const PSTATUS_NEGOTIATED: u16 = 0x0020;
/// Status that is specific to the maker: 1000 Mb/s, full duplex, resolved, link.
const PSSTAT: usize = 17;
const PSSTAT_UP: u16 = 0xac00;

/// What software may write.
const WRITABLE: [u16; 32] = {
    let mut w = [0; 32];
    w[PCTRL] = 0x7fc0;
    w[4] = 0xffff;
    w[7] = 0xffff;
    w[9] = 0xff00;
    w[16] = 0xffff;
    w[18] = 0xffff;
    w[20] = 0xffff;
    w[PAGE] = 0xffff;
    w[24] = 0xffff;
    w[29] = 0xffff;
    w[30] = 0xffff;
    w[31] = 0xffff;
    w
};

pub struct Phy {
    kind: Kind,
    regs: [u16; 32],
}

impl Phy {
    pub fn new(kind: Kind) -> Phy {
        let mut phy = Phy { kind, regs: [0; 32] };
        phy.reset();
        phy
    }

    pub fn reset(&mut self) {
        self.regs = [0; 32];
        let id = if self.kind == Kind::I82540 { 0x0c20 } else { 0x0cb1 };
        for (at, value) in [
            (PCTRL, 0x1140),
            (PSTATUS, 0x7949),
            (2, 0x0141),
            (3, id),
            (4, 0x0de1),
            // The partner offers everything up to 1000 Mb/s and asks for no pause.
            (5, 0x41e1),
            (6, 0x000f),
            (9, 0x0e00),
            (10, 0x3c00),
            (15, 0x3000),
            (16, 0x0360),
            (20, 0x0d60),
        ] {
            self.regs[at] = value;
        }
    }

    /// The link came or went.
    pub fn negotiated(&mut self) {
        self.regs[19] |= 0x0400;
    }

    fn read(&mut self, at: usize, link: bool) -> u16 {
        if self.regs[PAGE] != 0 && at != PAGE && self.kind == Kind::I82574 {
            return 0;
        }
        match at {
            PSTATUS if link => self.regs[PSTATUS] | PSTATUS_LINK | PSTATUS_NEGOTIATED,
            PSSTAT if link => PSSTAT_UP,
            // What the partner said is known while it is there.
            5 | 6 | 10 if !link => 0,
            // Events are cleared by being read.
            19 => std::mem::take(&mut self.regs[19]),
            _ => self.regs[at],
        }
    }

    fn write(&mut self, at: usize, value: u16) {
        if self.regs[PAGE] != 0 && at != PAGE && self.kind == Kind::I82574 {
            return;
        }
        if at == PCTRL && value & PCTRL_RESET != 0 {
            return self.reset();
        }
        self.regs[at] = self.regs[at] & !WRITABLE[at] | value & WRITABLE[at];
        if at == PCTRL {
            self.regs[PCTRL] &= !PCTRL_SELF_CLEARING;
            if value & PCTRL_RESTART != 0 {
                self.negotiated();
            }
        }
    }

    /// Carries out what was written to MDIC; gives what it reads as from now on.
    pub fn transfer(&mut self, command: u32, link: bool) -> u32 {
        let at = (command >> 16 & 31) as usize;
        let kept = command & !(MDIC_READY | MDIC_ERROR);
        if command >> 21 & 31 != ADDRESS {
            return kept | MDIC_READY | MDIC_ERROR;
        }
        match command >> 26 & 3 {
            1 => {
                self.write(at, command as u16);
                kept | MDIC_READY
            }
            2 => kept & !0xffff | u32::from(self.read(at, link)) | MDIC_READY,
            _ => kept | MDIC_READY | MDIC_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u32 = 2 << 26 | 1 << 21;
    const WRITE: u32 = 1 << 26 | 1 << 21;

    #[test]
    fn registers_answer_through_mdic() {
        let mut phy = Phy::new(Kind::I82540);
        assert_eq!(phy.transfer(READ | 2 << 16, true) & 0xffff, 0x0141);
        assert_eq!(phy.transfer(READ | 1 << 16, true) as u16 & PSTATUS_LINK, PSTATUS_LINK);
        assert_eq!(phy.transfer(READ | 1 << 16, false) as u16 & PSTATUS_LINK, 0);
        assert_eq!(phy.transfer(WRITE | 0x1340, true), WRITE | 0x1340 | MDIC_READY);
        assert_eq!(phy.transfer(READ, true) as u16, 0x1140, "restarting negotiation is over at once");
        phy.transfer(WRITE | 4 << 16 | 0x123, true);
        phy.transfer(WRITE | 0x8000, true);
        assert_eq!(phy.transfer(READ | 4 << 16, true) as u16, 0x0de1);
        assert_ne!(phy.transfer(READ | 1 << 22, true) & MDIC_ERROR, 0, "there is one transceiver");
        assert_ne!(phy.transfer(1 << 21, true) & MDIC_ERROR, 0);
    }
}
