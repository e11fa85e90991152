//! Branches and miscellaneous control of T32.
//!
//! **Reference.** Arm ARM (DDI 0406C) A6.3.4.

use crate::state::key;
use crate::translate::{Flow, Translator};

spec::insns! { pub ROWS: Translator => Flow;
    /// B, T3, A8.8.18
    t32_b_cond "11110 s cccc iiiiii 10 j 0 k iiiiiiiiiii" (s, j, k, c, i);
    /// B, T4
    t32_b "11110 s iiiiiiiiii 10 j 1 k iiiiiiiiiii" (s, j, k, i);
    /// BL, T1, A8.8.25
    t32_bl "11110 s iiiiiiiiii 11 j 1 k iiiiiiiiiii" (s, j, k, i);
    /// BLX (immediate), T2
    t32_blx "11110 s iiiiiiiiii 11 j 0 k iiiiiiiiii 0" (s, j, k, i);

    /// MSR (register), A8.8.112
    msr_reg "11110 0 1110 00 nnnn 10 0 0 mmmm 0000 0000" (m, n);
    /// CPS, B9.3.1
    t32_cps "11110 0 1110 10 1111 10 0 0 0iic aaam mmmm" (i, c, a, m);
    /// Hints, A8.8.119
    hint "11110 0 1110 10 1111 10 0 0 0000 iiii iiii" (i);
    /// YIELD, A8.8.426
    yield_ "11110 0 1110 10 1111 10 0 0 0000 0000 0001" ();
    /// CLREX, A8.8.32
    clrex "11110 0 1110 11 1111 10 0 0 1111 0010 1111" ();
    /// DSB, A8.8.44
    dsb "11110 0 1110 11 1111 10 0 0 1111 0100 oooo" (o);
    /// DMB, A8.8.43
    dmb "11110 0 1110 11 1111 10 0 0 1111 0101 oooo" (o);
    /// ISB, A8.8.53
    isb "11110 0 1110 11 1111 10 0 0 1111 0110 ----" ();
    /// SB
    sb "11110 0 1110 11 1111 10 0 0 1111 0111 0000" ();
    /// BXJ, A8.8.28
    bxj "11110 0 1111 00 mmmm 10 0 0 1111 0000 0000" (m);
    /// MRS, A8.8.109
    mrs "11110 0 1111 10 1111 10 0 0 dddd 0000 0000" (d);
    /// UDF, A8.8.247
    udf "11110 1 1111 11 ---- 10 1 0 ---- ---- ----" ();
}

/// S:I1:I2:imm21:'0', sign-extended; I1 = NOT(J1 EOR S), I2 = NOT(J2 EOR S).
fn offset25(s: u32, j: u32, k: u32, i: u32) -> u32 {
    let (i1, i2) = (1 ^ j ^ s, 1 ^ k ^ s);
    let value = s << 24 | i1 << 23 | i2 << 22 | i << 1;
    ((value << 7) as i32 >> 7) as u32
}

impl Translator {
    /// Conditions 1110 and 1111 are other rows' space; the translator applies the condition.
    fn t32_b_cond(&mut self, s: u32, j: u32, k: u32, c: u32, i: u32) -> Flow {
        if c >= 14 {
            return self.undefined();
        }
        let value = s << 20 | k << 19 | j << 18 | i << 1;
        let offset = ((value << 11) as i32 >> 11) as u32;
        let target = self.pc_value().wrapping_add(offset);
        self.branch(target)
    }

    fn t32_cps(&mut self, i: u32, c: bool, a: u32, m: u32) -> Flow {
        self.change_processor_state(i, a, c.then_some(m))
    }

    fn t32_b(&mut self, s: u32, j: u32, k: u32, i: u32) -> Flow {
        let target = self.pc_value().wrapping_add(offset25(s, j, k, i));
        self.branch(target)
    }

    fn t32_bl(&mut self, s: u32, j: u32, k: u32, i: u32) -> Flow {
        let target = self.pc_value().wrapping_add(offset25(s, j, k, i));
        let key = self.key_target(target);
        self.call(key)
    }

    fn t32_blx(&mut self, s: u32, j: u32, k: u32, i: u32) -> Flow {
        let target = self.pc_aligned().wrapping_add(offset25(s, j, k, i << 1));
        let key = self.key_target(target) & !key::T;
        self.call(key)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{CODE, Machine};
    use ir::TrapKind;

    #[test]
    fn calls_and_jumps() {
        // bl +4 (over mov, svc); movs r1, #1; svc #0; movs r0, #5; bx lr
        let m = Machine::thumb(&[0xf000, 0xf802, 0x2101, 0xdf00, 0x2005, 0x4770]).run();
        assert_eq!((m.r(0), m.r(1), m.r(14), m.trap()), (5, 1, CODE + 5, Some(TrapKind::Syscall)));
        let mut m = Machine::thumb(&[0xbf00, 0xf7ff, 0xeffc]); // blx back from CODE + 2 to Align(CODE + 6, 4) - 8
        m.step(2);
        assert_eq!((m.state.u64_at(ir::state::KEY), m.r(14)), ((CODE - 4) as u64, CODE + 7));
        let mut m = Machine::thumb(&[0xf7ff, 0xbffd]); // b.w . - 2
        m.step(1);
        assert_eq!(m.pc(), CODE - 2);
    }

    #[test]
    fn conditional_jumps_reach_a_megabyte() {
        let mut m = Machine::thumb(&[0xf43f, 0xaffe]).set_nzcv("nZcv"); // beq.w .
        m.step(1);
        assert_eq!(m.pc(), CODE);
        let m = Machine::thumb(&[0xf43f, 0xaffe, 0x2001]).run();
        assert_eq!(m.r(0), 1);
    }

    #[test]
    fn control() {
        let m = Machine::thumb(&[0xf3af, 0x8000, 0xf3bf, 0x8f5f, 0xf3ef, 0x8000]).set_nzcv("nZcv").run();
        assert_eq!(m.r(0), 0x4000_0010); // nop.w; dmb; mrs r0, CPSR
        let m = Machine::thumb(&[0xf7f0, 0xa000]).run();
        assert_eq!((m.trap(), m.pc()), (Some(TrapKind::Undefined), CODE));
    }
}
