//! Coprocessors 14 and 15: system registers. In a machine they are `sysreg`'s; in user-mode emulation these are the few that
//! a program can reach.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.15, B4.1.150 (TPIDRURO), B4.1.151 (TPIDRURW), B4.2.5 (barriers). Coprocessors 10
//! and 11 are the VFP chapters.

use crate::features::Features;
use crate::state;
use crate::sysreg;
use crate::translate::{Flow, Translator};
use ir::TrapKind;

spec::insns! { pub ROWS: Translator => Flow;
    /// MRC, A8.8.108
    mrc "cccc 1110 ---1 ---- ---- 111- ---1 ----" ();
    /// MCR, A8.8.98
    mcr "cccc 1110 ---0 ---- ---- 111- ---1 ----" ();
    /// MRRC, A8.8.109
    mrrc "cccc 1100 0101 ---- ---- 111- ---- ----" ();
    /// MCRR, A8.8.99
    mcrr "cccc 1100 0100 ---- ---- 111- ---- ----" ();
    /// MRC p15, A8.8.108
    mrc_p15 "cccc 1110 ooo 1 nnnn tttt 1111 ppp 1 mmmm" (o, n, t, p, m);
    /// MCR p15, A8.8.98
    mcr_p15 "cccc 1110 ooo 0 nnnn tttt 1111 ppp 1 mmmm" (o, n, t, p, m);
}

spec::insns! { pub T32: Translator => Flow;
    /// MRC, A8.8.108
    mrc "1110 1110 ---1 ---- ---- 111- ---1 ----" ();
    /// MCR, A8.8.98
    mcr "1110 1110 ---0 ---- ---- 111- ---1 ----" ();
    /// MRRC, A8.8.109
    mrrc "1110 1100 0101 ---- ---- 111- ---- ----" ();
    /// MCRR, A8.8.99
    mcrr "1110 1100 0100 ---- ---- 111- ---- ----" ();
    /// MRC p15, A8.8.108
    mrc_p15 "1110 1110 ooo 1 nnnn tttt 1111 ppp 1 mmmm" (o, n, t, p, m);
    /// MCR p15, A8.8.98
    mcr_p15 "1110 1110 ooo 0 nnnn tttt 1111 ppp 1 mmmm" (o, n, t, p, m);
}

impl Translator {
    fn mrc(&mut self) -> Flow {
        self.system_register()
    }

    fn mcr(&mut self) -> Flow {
        self.system_register()
    }

    fn mrrc(&mut self) -> Flow {
        self.system_register()
    }

    fn mcrr(&mut self) -> Flow {
        self.system_register()
    }

    /// An access in a machine: inline where it is a plain load or store, else the run loop makes it.
    fn system_register(&mut self) -> Flow {
        if self.system.is_none() {
            return self.undefined();
        }
        let (read, t) = (self.word >> 20 & 1 != 0, self.word >> 12 & 15);
        // MRRC and MCRR have bit 25 clear.
        let one = self.word >> 25 & 1 != 0;
        if let Some(place) = sysreg::plain(&self.arm, self.word, self.key_here()).filter(|_| one && t != 15) {
            if read && place.readable {
                let v = self.b.get32(place.offset);
                self.set_reg(t, v);
                return Flow::Next;
            }
            if !read && place.writable {
                let v = self.reg(t);
                self.b.set32(place.offset, v);
                return Flow::Next;
            }
        }
        let key = self.key_here();
        self.trap(TrapKind::System, self.word, key)
    }

    /// MRC p15, o, Rt, c`n`, c`m`, p.
    fn mrc_p15(&mut self, o: u32, n: u32, t: u32, p: u32, m: u32) -> Flow {
        if self.system.is_some() {
            return self.system_register();
        }
        let place = match (n, o, m, p) {
            (13, 0, 0, 2) => state::TPIDRURW,
            (13, 0, 0, 3) => state::TPIDRURO,
            _ => return self.undefined(),
        };
        if !self.has(Features::V6K) {
            return self.undefined();
        }
        let v = self.b.get32(place);
        // R15 would move bits 31:28 to the flags.
        if t == 15 {
            self.set_nzcv(v);
        } else {
            self.set_reg(t, v);
        }
        Flow::Next
    }

    fn mcr_p15(&mut self, o: u32, n: u32, t: u32, p: u32, m: u32) -> Flow {
        match (n, o, m, p) {
            (13, 0, 0, 2) if self.has(Features::V6K) && self.system.is_none() => {
                let v = self.reg(t);
                self.b.set32(state::TPIDRURW, v);
                Flow::Next
            }
            // CP15ISB
            (7, 0, 5, 4) if self.has(Features::V6) => self.instruction_barrier(),
            // CP15DSB, CP15DMB
            (7, 0, 10, 4 | 5) if self.has(Features::V6) => {
                self.b.fence(false);
                Flow::Next
            }
            _ => self.system_register(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::state;
    use crate::testing::Machine;
    use ir::TrapKind;

    #[test]
    fn thread_registers() {
        // mcr p15, 0, r1, c13, c0, 2; mrc p15, 0, r2, c13, c0, 2; mrc p15, 0, r0, c13, c0, 3
        let mut m = Machine::a32(&[0xee0d_1f50, 0xee1d_2f50, 0xee1d_0f70]).set_r(1, 7);
        m.state.set_u32(state::TPIDRURO, 0x4000);
        let m = m.run();
        assert_eq!((m.r(0), m.r(2)), (0x4000, 7));
    }

    #[test]
    fn the_rest_is_undefined() {
        for word in [0xee10_0f10u32, 0xee0d_1f70, 0xee1d_0f90] {
            // midr; write to TPIDRURO; TPIDRPRW
            assert_eq!(Machine::a32(&[word]).run().trap(), Some(TrapKind::Undefined), "{word:#x}");
        }
        assert_eq!(Machine::a32(&[0xee07_0fba]).run().trap(), None); // CP15DMB
    }
}
