//! Coprocessors 14 and 15: system registers. In a machine they are `sysreg`'s; in user-mode emulation these are the few that
//! a program can reach.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.15, B4.1.127 (PMUSERENR), B4.1.150 (TPIDRURO), B4.1.151 (TPIDRURW), B4.2.5
//! (barriers). Coprocessors 10 and 11 are the VFP chapters.

use crate::features::Features;
use crate::state::{self, key};
use crate::sysreg;
use crate::translate::{Flow, Translator};
use ir::{Cmp, TrapKind};

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
            return self.debug_register();
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
        if sysreg::no_effect(&self.arm, self.word, self.key_here()) {
            return Flow::Next;
        }
        if let Some(dacr) = sysreg::domains(&self.arm, self.word, self.key_here()).filter(|_| t != 15) {
            return self.write_dacr(t, dacr);
        }
        let key = self.key_here();
        self.trap(TrapKind::System, self.word, key)
    }

    /// The debug registers that a program can read: DBGDIDR, and where the debug components are: nowhere.
    fn debug_register(&mut self) -> Flow {
        let (t, t2) = (self.word >> 12 & 15, self.word >> 16 & 15);
        match self.word & 0x0fff_0fff {
            0x0e10_0e10 if t != 15 && self.has(Features::V7) => {
                let id = self.imm(sysreg::id::dbgdidr(self.arm.model.name));
                self.set_reg(t, id);
            }
            // DBGDRAR, DBGDSAR
            0x0e11_0e10 | 0x0e12_0e10 if t != 15 && self.has(Features::V7) => {
                let nowhere = self.imm(0);
                self.set_reg(t, nowhere);
            }
            _ => return self.debug_register_pair(t, t2),
        }
        Flow::Next
    }

    /// DBGDRAR and DBGDSAR in 64 bits.
    fn debug_register_pair(&mut self, t: u32, t2: u32) -> Flow {
        let known = matches!(self.word & 0x0ff0_0fff, 0x0c50_0e01 | 0x0c50_0e02);
        if !known || !self.has(Features::LPAE) || t == 15 || t2 == 15 {
            return self.undefined();
        }
        let nowhere = self.imm(0);
        self.set_reg(t, nowhere);
        self.set_reg(t2, nowhere);
        Flow::Next
    }

    /// Kernels that keep themselves out of user memory write DACR twice for each system call: a change between its two values
    /// is a change of the key. The code that does it is taken to stay executable.
    fn write_dacr(&mut self, t: u32, dacr: sysreg::Domains) -> Flow {
        let (here, next) = (self.key_here(), self.key_next());
        let v = self.reg(t);
        let current = self.b.get32(dacr.current);
        let same = self.b.icmp(Cmp::Eq, v, current);
        self.b.exit_nz(same, next);
        let other = self.b.get32(dacr.other);
        let new = self.b.icmp(Cmp::Ne, v, other);
        self.b.trap_nz(new, TrapKind::System, self.word, here);
        let which = self.imm(dacr.other_number);
        self.b.set32(dacr.which, which);
        self.exit(next ^ key::DOMAINS)
    }

    /// MRC p15, o, Rt, c`n`, c`m`, p.
    fn mrc_p15(&mut self, o: u32, n: u32, t: u32, p: u32, m: u32) -> Flow {
        if self.system.is_some() {
            return self.system_register();
        }
        let v = match (n, o, m, p) {
            (13, 0, 0, 2) if self.has(Features::V6K) => self.b.get32(state::TPIDRURW),
            (13, 0, 0, 3) if self.has(Features::V6K) => self.b.get32(state::TPIDRURO),
            // PMUSERENR: programs ask it before they touch the counters, which no kernel lets them.
            (9, 0, 14, 0) if self.has(Features::V7) => self.imm(0),
            _ => return self.undefined(),
        };
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
                if p == 4 {
                    self.finish_flushes();
                }
                Flow::Next
            }
            _ => self.system_register(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::state::{self, bank, key, sys};
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
    fn counters_are_not_for_programs() {
        // mrc p15, 0, r1, c9, c14, 0; mrc p15, 0, r1, c9, c13, 0
        let m = Machine::a32(&[0xee19_1f1e]).set_r(1, 5).run();
        assert_eq!((m.r(1), m.trap()), (0, None));
        assert_eq!(Machine::a32(&[0xee19_1f1d]).run().trap(), Some(TrapKind::Undefined));
    }

    #[test]
    fn the_rest_is_undefined() {
        for word in [0xee10_0f10u32, 0xee0d_1f70, 0xee1d_0f90] {
            // midr; write to TPIDRURO; TPIDRPRW
            assert_eq!(Machine::a32(&[word]).run().trap(), Some(TrapKind::Undefined), "{word:#x}");
        }
        assert_eq!(Machine::a32(&[0xee07_0fba]).run().trap(), None); // CP15DMB
    }

    #[test]
    fn debug_components_are_nowhere() {
        // mrrc p14, 0, r1, r2, c1; mrc p14, 0, r3, c2, c0, 0
        let m = Machine::a32(&[0xec52_1e01, 0xee12_3e10]).set_r(1, 5).set_r(2, 6).set_r(3, 7).run();
        assert_eq!((m.r(1), m.r(2), m.r(3), m.trap()), (0, 0, 0, None));
        assert_eq!(Machine::a32(&[0xec52_1e03]).run().trap(), Some(TrapKind::Undefined));
    }

    /// mcr p15, 0, r1, c3, c0, 0 and nop: without leaving to the run loop where the value is known.
    #[test]
    fn known_domains_are_entered_in_translated_code() {
        let machine = |value| {
            let mut m = Machine::a32(&[0xee03_1f10, 0xe320_f000]).set_r(1, value).in_machine(bank::mode::SVC);
            m.state.set_u32(sys::dacr(false, 0), 0x55);
            m.state.set_u32(sys::dacr(false, 1), 0x51);
            m
        };
        let in_force = |m: &Machine| (m.state.u64_at(ir::state::KEY) & key::DOMAINS != 0, m.state.u32_at(sys::DACR_CURRENT));
        let mut m = machine(0x51);
        assert!(m.step(1));
        assert_eq!((in_force(&m), m.pc()), ((true, 1), crate::testing::CODE + 4));
        let mut m = machine(0x55);
        assert!(m.step(1));
        assert_eq!((in_force(&m), m.pc()), ((false, 0), crate::testing::CODE + 4));
        let mut m = machine(0x57);
        assert!(!m.step(1) && m.trapped(TrapKind::System));
        let m = machine(0x57).instructions(1);
        assert_eq!((in_force(&m), m.state.u32_at(sys::dacr(false, 1))), ((true, 1), 0x57));
    }
}
