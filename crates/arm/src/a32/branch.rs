//! Branches and exception-generating instructions.
//!
//! **Reference.** Arm ARM (DDI 0406C) A5.5, A5.2.12, A5.7; SVC A8.8.228, BKPT A8.8.24, UDF A8.8.247.
//! Where BX, BXJ and BLX should have ones and have not, the manual says UNPREDICTABLE; here that is UNDEFINED, as in QEMU.

use crate::features::Features;
use crate::helper;
use crate::state::key;
use crate::translate::{Flow, Translator};
use ir::build::Hint;
use ir::{TrapKind, Ty, Val};

spec::insns! { pub ROWS: Translator => Flow;
    /// B, A8.8.18
    b "cccc 1010 iiiiiiiiiiiiiiiiiiiiiiii" (i);
    /// BL, BLX (immediate), A8.8.25
    bl "cccc 1011 iiiiiiiiiiiiiiiiiiiiiiii" (i);
    /// BX, A8.8.27
    bx "cccc 00010010 1111 1111 1111 0001 mmmm" (m);
    /// BXJ, A8.8.28
    bxj "cccc 00010010 1111 1111 1111 0010 mmmm" (m);
    /// BLX (register), A8.8.26
    blx_reg "cccc 00010010 1111 1111 1111 0011 mmmm" (m);
    /// BKPT, A8.8.24
    bkpt "cccc 00010010 iiiiiiiiiiii 0111 iiii" (i);
    /// SVC, A8.8.228
    svc "cccc 1111 iiiiiiiiiiiiiiiiiiiiiiii" (i);
    /// UDF, A8.8.247
    udf "1110 01111111 ------------ 1111 ----" ();
}

spec::insns! { pub UNCONDITIONAL: Translator => Flow;
    /// BL, BLX (immediate), encoding A2, A8.8.25
    blx_imm "1111 101 h iiiiiiiiiiiiiiiiiiiiiiii" (h, i);
}

/// Whether the word is B, which becomes a side exit when conditional.
pub fn is_direct_branch(w: u32) -> bool {
    w >> 24 & 15 == 10
}

/// A 24-bit word offset in bytes.
fn offset24(i: u32) -> u32 {
    ((i << 8) as i32 >> 6) as u32
}

impl Translator {
    fn b(&mut self, i: u32) -> Flow {
        let target = self.pc_value().wrapping_add(offset24(i));
        self.branch(target)
    }

    fn bl(&mut self, i: u32) -> Flow {
        let target = self.pc_value().wrapping_add(offset24(i));
        let key = self.key_target(target);
        self.call(key)
    }

    fn blx_imm(&mut self, h: u32, i: u32) -> Flow {
        if !self.has(Features::V5TE) {
            return self.undefined();
        }
        let target = self.pc_value().wrapping_add(offset24(i)) | h << 1;
        self.call(target as u64 | key::T | self.static_key())
    }

    /// Key and link value of the instruction after this one.
    fn link(&mut self) -> u64 {
        let next = self.key_next();
        let lr = self.code_address(next as u32);
        self.set_reg(14, lr);
        next
    }

    /// A call to a constant key.
    pub fn call(&mut self, target: u64) -> Flow {
        let next = self.link();
        self.b.push_ret(next);
        self.exit(target)
    }

    /// The models of ARMv4 (sa1100, sa1110) have no Thumb and so no BX.
    pub fn bx(&mut self, m: u32) -> Flow {
        if !self.has(Features::V5TE) {
            return self.undefined();
        }
        let target = self.reg(m);
        self.bx_write_pc(target, if m == 14 { Hint::Return } else { Hint::Jump })
    }

    /// Without Jazelle, as BX.
    pub fn bxj(&mut self, m: u32) -> Flow {
        self.bx(m)
    }

    pub fn blx_reg(&mut self, m: u32) -> Flow {
        if !self.has(Features::V5TE) {
            return self.undefined();
        }
        let target = self.reg(m);
        let next = self.link();
        self.b.push_ret(next);
        self.bx_write_pc(target, Hint::Call)
    }

    pub fn bkpt(&mut self, i: u32) -> Flow {
        let key = self.key_here();
        self.trap(TrapKind::Breakpoint, i, key)
    }

    pub fn svc(&mut self, i: u32) -> Flow {
        let key = self.key_next();
        if self.has_plain_exceptions() {
            return self.exit_by(|it| {
                let (next, immediate) = (it.key_value(key), it.b.i64(i as u64));
                it.b.call(Ty::I64, helper::TAKE_SVC, true, [next, immediate, Val::NONE])
            });
        }
        self.trap(TrapKind::Syscall, i, key)
    }

    pub fn udf(&mut self) -> Flow {
        self.undefined()
    }
}

#[cfg(test)]
mod tests {
    use crate::state;
    use crate::testing::{CODE, Machine};
    use ir::TrapKind;
    use ir::interp::Outcome;

    #[test]
    fn calls_link_and_return() {
        // bl +8 (over one insn); mov r1, #1; svc #7; [fn:] mov r0, #5; bx lr
        let m = Machine::a32(&[0xeb00_0001, 0xe3a0_1001, 0xef00_0007, 0xe3a0_0005, 0xe12f_ff1e]).run();
        assert_eq!((m.r(0), m.r(1), m.r(14)), (5, 1, CODE + 4));
        assert!(matches!(m.stopped, Some(Outcome::Trap { kind: TrapKind::Syscall, arg: 7, .. })));
        assert_eq!(m.pc(), CODE + 12, "a system call resumes after it");
    }

    #[test]
    fn conditional_branches_leave_or_go_on() {
        // cmp r0, #0; beq +4; mov r1, #1; [end] -- the branch goes over the move
        for (r0, want) in [(0, 0), (1, 1)] {
            let m = Machine::a32(&[0xe350_0000, 0x0a00_0000, 0xe3a0_1001]).set_r(0, r0).run();
            assert_eq!(m.r(1), want);
        }
        // bxeq lr ends one way only
        for (r0, want) in [(0, 0), (1, 1)] {
            let m = Machine::a32(&[0xe350_0000, 0x012f_ff1e, 0xe3a0_1001]).set_r(0, r0).set_r(14, CODE + 12).run();
            assert_eq!(m.r(1), want);
        }
    }

    #[test]
    fn a_loop_runs_until_its_condition_fails() {
        // mov r0, #10; add r1, r1, r0; subs r0, r0, #1; bne -12
        let m = Machine::a32(&[0xe3a0_000a, 0xe081_1000, 0xe250_0001, 0x1aff_fffc]).run();
        assert_eq!((m.r(0), m.r(1)), (0, 55));
    }

    #[test]
    fn followed_branches_are_covered_in_pieces() {
        use cpu::{Guest, Limits};
        let m = Machine::a32(&[0xea00_0001, 0, 0, 0xe3a0_0001, 0xe12f_ff1e]); // b +4; …; mov r0, #1; bx lr
        let mut b = ir::Builder::new();
        b.begin(CODE as u64, CODE as u64);
        m.arm.translate(CODE as u64, Limits { max_insns: 8, relative: false }, &m.memory, &mut b);
        assert_eq!(b.region().covers, [(CODE as u64, 4), (CODE as u64 + 12, 8)]);
    }

    #[test]
    fn blx_changes_the_instruction_set() {
        let mut m = Machine::a32(&[0xfb00_0001]); // blx +8, H = 1
        m.step(1);
        assert_eq!(m.state.u64_at(ir::state::KEY), (CODE + 8 + 4 + 2) as u64 | 1);
        assert_eq!(m.r(14), CODE + 4);
        assert_eq!(state::read_cpsr(&m.state) & 0x20, 0x20);
    }

    #[test]
    fn exceptions_name_their_instruction() {
        let m = Machine::a32(&[0xe12a_bc7d]).run(); // bkpt #0xabcd
        assert!(matches!(m.stopped, Some(Outcome::Trap { kind: TrapKind::Breakpoint, arg: 0xabcd, .. })));
        assert_eq!(m.pc(), CODE);
        let m = Machine::a32(&[0xe3a0_0000, 0xe7f1_23f4]).run(); // mov; udf
        assert_eq!((m.trap(), m.pc()), (Some(TrapKind::Undefined), CODE + 4));
    }

    #[test]
    fn the_kernel_helper_page() {
        let mut m = Machine::a32(&[0xe12f_ff31]).set_r(1, 0xffff_0fe0); // blx r1
        m.state.set_u32(state::TPIDRURO, 0x1234);
        let m = m.run();
        assert_eq!((m.r(0), m.pc()), (0x1234, CODE + 4));
        let m = Machine::a32(&[0xe12f_ff31]).set_r(1, 0xffff_0fc0).run();
        assert!(matches!(m.stopped, Some(Outcome::Trap { kind: TrapKind::KernelHelper, arg: 0xffff_0fc0, .. })));
    }
}
