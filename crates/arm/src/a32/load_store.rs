//! Loads and stores of words and bytes.
//!
//! **Reference.** Arm ARM (DDI 0406C) A5.3; A8.8.62 (LDR) and its neighbours. LDRT and STRT are LDR and STR with post-indexed
//! addresses, as User mode would access memory.

use super::data_processing::Shift;
use crate::state::bank::mode;
use crate::system::regime;
use crate::translate::{Flow, Translator};
use ir::build::Hint;
use ir::{MemOp, Val};

spec::insns! { pub ROWS: Translator => Flow;
    /// LDR (immediate, literal), A8.8.63; LDRT, A8.8.92
    ldr_imm "cccc 010 p u 0 w 1 nnnn tttt iiiiiiiiiiii" (p, u, w, n, t, i);
    /// LDR (register), A8.8.66; LDRT
    ldr_reg "cccc 011 p u 0 w 1 nnnn tttt iiiii ss 0 mmmm" (p, u, w, n, t, i, s, m);
    /// LDRB (immediate, literal), A8.8.68; LDRBT, A8.8.71
    ldrb_imm "cccc 010 p u 1 w 1 nnnn tttt iiiiiiiiiiii" (p, u, w, n, t, i);
    /// LDRB (register), A8.8.70; LDRBT
    ldrb_reg "cccc 011 p u 1 w 1 nnnn tttt iiiii ss 0 mmmm" (p, u, w, n, t, i, s, m);
    /// STR (immediate), A8.8.204; STRT, A8.8.220
    str_imm "cccc 010 p u 0 w 0 nnnn tttt iiiiiiiiiiii" (p, u, w, n, t, i);
    /// STR (register), A8.8.205; STRT
    str_reg "cccc 011 p u 0 w 0 nnnn tttt iiiii ss 0 mmmm" (p, u, w, n, t, i, s, m);
    /// STRB (immediate), A8.8.207; STRBT, A8.8.209
    strb_imm "cccc 010 p u 1 w 0 nnnn tttt iiiiiiiiiiii" (p, u, w, n, t, i);
    /// STRB (register), A8.8.208; STRBT
    strb_reg "cccc 011 p u 1 w 0 nnnn tttt iiiii ss 0 mmmm" (p, u, w, n, t, i, s, m);
}

/// An address: where to access, and what the base register becomes.
pub struct Address {
    pub at: Val,
    pub writeback: Option<(u32, Val)>,
}

/// How an address is formed from base and offset.
#[derive(Clone, Copy)]
pub struct Index {
    /// Offset or pre-indexed; else post-indexed.
    pub pre: bool,
    /// Add the offset; else subtract.
    pub up: bool,
    pub writeback: bool,
}

impl Index {
    pub const OFFSET: Index = Index { pre: true, up: true, writeback: false };

    /// From the P, U and W bits; post-indexed always writes back.
    pub fn puw(p: bool, u: bool, w: bool) -> Index {
        Index { pre: p, up: u, writeback: w || !p }
    }

    /// P and W of the unprivileged accesses (A32).
    pub fn is_unprivileged(p: bool, w: bool) -> bool {
        w && !p
    }
}

impl Translator {
    /// The address for a constant offset.
    pub fn address_imm(&mut self, n: u32, index: Index, offset: u32) -> Address {
        let base = self.base(n);
        let delta = if index.up { offset } else { offset.wrapping_neg() };
        let moved = self.b.add_imm(base, delta as i32 as u64);
        Address {
            at: if index.pre { moved } else { base },
            writeback: index.writeback.then_some((n, moved)),
        }
    }

    /// The address for an offset in a value.
    pub fn address_reg(&mut self, n: u32, index: Index, offset: Val) -> Address {
        let base = self.base(n);
        let moved = if index.up { self.b.add(base, offset) } else { self.b.sub(base, offset) };
        Address {
            at: if index.pre { moved } else { base },
            writeback: index.writeback.then_some((n, moved)),
        }
    }

    /// Translates `access` with the permissions of User mode, if `unprivileged`.
    pub fn as_user(&mut self, unprivileged: bool, access: impl FnOnce(&mut Self) -> Flow) -> Flow {
        let ordinary = self.b.regime;
        // UNPREDICTABLE in Hyp mode: ordinary there.
        if unprivileged && self.cpu_mode != mode::HYP {
            self.b.regime = regime::as_user(ordinary);
        }
        let flow = access(self);
        self.b.regime = ordinary;
        flow
    }

    /// Writes the base back, after the access has succeeded. The PC as base is UNPREDICTABLE and left alone.
    pub fn finish_address(&mut self, a: &Address) {
        if let Some((n, moved)) = a.writeback
            && n != 15
        {
            self.set_reg(n, moved);
        }
    }

    /// A load to register `t`: a loaded register that is also the base keeps the loaded value.
    pub fn load_to(&mut self, op: MemOp, t: u32, a: Address) -> Flow {
        let v = self.load(op, a.at);
        self.finish_address(&a);
        if t == 15 {
            let hint = if matches!(a.writeback, Some((13, _))) { Hint::Return } else { Hint::Jump };
            return self.load_write_pc(v, hint);
        }
        self.set_reg(t, v);
        Flow::Next
    }

    pub fn store_from(&mut self, op: MemOp, t: u32, a: Address) -> Flow {
        let v = self.reg(t);
        self.store(op, a.at, v);
        self.finish_address(&a);
        Flow::Next
    }

    #[allow(clippy::too_many_arguments)]
    fn shifted_address(&mut self, p: bool, u: bool, w: bool, n: u32, i: u32, s: Shift, m: u32) -> Address {
        let (offset, _) = self.shifted_reg(m, s, i, false);
        self.address_reg(n, Index::puw(p, u, w), offset)
    }
}

/// Handlers of one access size.
macro_rules! accesses {
    ($($imm:ident $reg:ident $finish:ident $op:ident;)*) => {
        impl Translator {$(
            fn $imm(&mut self, p: bool, u: bool, w: bool, n: u32, t: u32, i: u32) -> Flow {
                let a = self.address_imm(n, Index::puw(p, u, w), i);
                self.as_user(Index::is_unprivileged(p, w), |it| it.$finish(MemOp::$op, t, a))
            }

            #[allow(clippy::too_many_arguments)]
            fn $reg(&mut self, p: bool, u: bool, w: bool, n: u32, t: u32, i: u32, s: Shift, m: u32) -> Flow {
                let a = self.shifted_address(p, u, w, n, i, s, m);
                self.as_user(Index::is_unprivileged(p, w), |it| it.$finish(MemOp::$op, t, a))
            }
        )*}
    };
}

accesses! {
    ldr_imm ldr_reg load_to B4;
    ldrb_imm ldrb_reg load_to B1;
    str_imm str_reg store_from B4;
    strb_imm strb_reg store_from B1;
}

#[cfg(test)]
mod tests {
    use crate::testing::{CODE, DATA, Machine};

    fn machine(words: &[u32]) -> Machine {
        Machine::a32(words).set_r(1, DATA).set_data(0, &[1, 2, 3, 0x84, 5, 6, 7, 8])
    }

    #[test]
    fn indexing() {
        let m = machine(&[0xe591_0004]).run(); // ldr r0, [r1, #4]
        assert_eq!((m.r(0), m.r(1)), (0x0807_0605, DATA));
        let m = machine(&[0xe5b1_0004]).run(); // ldr r0, [r1, #4]!
        assert_eq!((m.r(0), m.r(1)), (0x0807_0605, DATA + 4));
        let m = machine(&[0xe491_0004]).run(); // ldr r0, [r1], #4
        assert_eq!((m.r(0), m.r(1)), (0x8403_0201, DATA + 4));
        let m = machine(&[0xe711_0102]).set_r(2, 0x3fff_ffff).run(); // ldr r0, [r1, -r2, lsl #2]
        assert_eq!(m.r(0), 0x0807_0605);
        let m = machine(&[0xe5d1_0003]).run(); // ldrb r0, [r1, #3]
        assert_eq!(m.r(0), 0x84);
        let m = machine(&[0xe491_1004]).run(); // ldr r1, [r1], #4: the load wins
        assert_eq!(m.r(1), 0x8403_0201);
    }

    #[test]
    fn stores() {
        let m = machine(&[0xe581_0002, 0xe5e1_0001]).set_r(0, 0xaabb_ccdd).run(); // str r0, [r1, #2]; strb r0, [r1, #1]!
        assert_eq!(m.memory.data[..6], [1, 0xdd, 0xdd, 0xcc, 0xbb, 0xaa]);
        assert_eq!(m.r(1), DATA + 1);
    }

    #[test]
    fn a_faulting_access_leaves_the_base_alone() {
        let m = Machine::a32(&[0xe3a0_0001, 0xe5b1_0004]).set_r(1, 0x40).run(); // mov; ldr r0, [r1, #4]!
        assert_eq!(m.fault().unwrap().addr, 0x44);
        assert_eq!((m.r(0), m.r(1), m.pc()), (1, 0x40, CODE + 4));
    }

    #[test]
    fn literals_and_jumps() {
        // ldr pc, [pc, #-4] loads the word after it: thumb code at CODE + 0x100
        let mut m = Machine::a32(&[0xe51f_f004, CODE + 0x101]);
        m.step(1);
        assert_eq!(m.state.u64_at(ir::state::KEY), (CODE + 0x101) as u64);
    }
}
