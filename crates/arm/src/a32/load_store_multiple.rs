//! Block transfers: LDM, STM, PUSH, POP.
//!
//! **Reference.** Arm ARM (DDI 0406C) A5.5; A8.8.58 (LDM) and its neighbours.
//!
//! A fault in the middle leaves the base register alone, so that the instruction can be restarted.

use crate::features::Features;
use crate::state::{self, bank, bank::mode};
use crate::translate::{Flow, Translator};
use ir::build::Hint;
use ir::{MemOp, Val};

spec::insns! { pub ROWS: Translator => Flow;
    /// STMDA, STM, STMDB, STMIB; PUSH, A8.8.199 ff
    stm "cccc 100 p u 0 w 0 nnnn rrrrrrrrrrrrrrrr" (p, u, w, n, r);
    /// LDMDA, LDM, LDMDB, LDMIB; POP, A8.8.58 ff
    ldm "cccc 100 p u 0 w 1 nnnn rrrrrrrrrrrrrrrr" (p, u, w, n, r);
    /// STM (user registers), B9.3.17
    stm_user "cccc 100 p u 1 0 0 nnnn rrrrrrrrrrrrrrrr" (p, u, n, r);
    /// LDM (user registers), B9.3.6; LDM (exception return), B9.3.5
    ldm_user "cccc 100 p u 1 w 1 nnnn rrrrrrrrrrrrrrrr" (p, u, w, n, r);
}

impl Translator {
    fn stm(&mut self, p: bool, u: bool, w: bool, n: u32, r: u32) -> Flow {
        if r == 0 || n == 15 {
            return self.undefined();
        }
        self.store_multiple(p, u, w, n, r)
    }

    /// A written-back base in the list is UNPREDICTABLE since ARMv7: UNDEFINED here. Before, its value is UNKNOWN: the loaded one.
    fn ldm(&mut self, p: bool, u: bool, w: bool, n: u32, r: u32) -> Flow {
        if r == 0 || n == 15 || w && r >> n & 1 != 0 && self.has(Features::V7) {
            return self.undefined();
        }
        self.load_multiple(p, u, w, n, r)
    }

    /// Lowest address, relative to the base, and the base's change. `p`: before; `u`: upwards.
    fn block(p: bool, u: bool, list: u32) -> (u32, u32) {
        let bytes = 4 * list.count_ones();
        let from = match (p, u) {
            (false, true) => 0,
            (true, true) => 4,
            (false, false) => 4u32.wrapping_sub(bytes),
            (true, false) => bytes.wrapping_neg(),
        };
        (from, if u { bytes } else { bytes.wrapping_neg() })
    }

    fn at(&mut self, base: Val, offset: u32) -> Val {
        self.b.add_imm(base, offset as i32 as u64)
    }

    fn stm_user(&mut self, p: bool, u: bool, n: u32, r: u32) -> Flow {
        if !self.privileged() || r == 0 || n == 15 {
            return self.undefined();
        }
        let (mut offset, _) = Self::block(p, u, r);
        let base = self.reg(n);
        for t in (0..16).filter(|t| r >> t & 1 != 0) {
            let value = if t == 15 { self.reg(15) } else { self.b.get32(bank::place(self.cpu_mode, mode::USR, t)) };
            let address = self.at(base, offset);
            self.store(MemOp::B4.aligned4(), address, value);
            offset = offset.wrapping_add(4);
        }
        Flow::Next
    }

    /// With the PC in the list an exception return, else into the registers of User mode.
    fn ldm_user(&mut self, p: bool, u: bool, w: bool, n: u32, r: u32) -> Flow {
        let returns = r >> 15 & 1 != 0;
        if !self.privileged() || r == 0 || n == 15 || w && (!returns || r >> n & 1 != 0) {
            return self.undefined();
        }
        let (mut offset, change) = Self::block(p, u, r);
        let base = self.reg(n);
        let (mut new_base, mut target) = (w.then(|| self.at(base, change)), None);
        for t in (0..16).filter(|t| r >> t & 1 != 0) {
            let address = self.at(base, offset);
            let value = self.load(MemOp::B4.aligned4(), address);
            offset = offset.wrapping_add(4);
            let place = if returns { state::r(t) } else { bank::place(self.cpu_mode, mode::USR, t) };
            match t {
                15 => target = Some(value),
                t if t == n && place == state::r(n) => new_base = Some(value),
                _ => self.b.set32(place, value),
            }
        }
        if let Some(v) = new_base {
            self.set_reg(n, v);
        }
        match target {
            Some(target) => self.return_to(target),
            None => Flow::Next,
        }
    }

    pub fn store_multiple(&mut self, p: bool, u: bool, w: bool, n: u32, list: u32) -> Flow {
        let (mut offset, change) = Self::block(p, u, list);
        let base = self.reg(n);
        for t in (0..16).filter(|t| list >> t & 1 != 0) {
            let value = self.reg(t);
            let address = self.at(base, offset);
            self.store(MemOp::B4.aligned4(), address, value);
            offset = offset.wrapping_add(4);
        }
        if w {
            let moved = self.at(base, change);
            self.set_reg(n, moved);
        }
        Flow::Next
    }

    /// A base register in the list gets the loaded value, whatever the write-back.
    pub fn load_multiple(&mut self, p: bool, u: bool, w: bool, n: u32, list: u32) -> Flow {
        let (mut offset, change) = Self::block(p, u, list);
        let base = self.reg(n);
        let (mut new_base, mut jump) = (None, None);
        for t in (0..16).filter(|t| list >> t & 1 != 0) {
            let address = self.at(base, offset);
            let value = self.load(MemOp::B4.aligned4(), address);
            offset = offset.wrapping_add(4);
            match t {
                15 => jump = Some(value),
                t if t == n => new_base = Some(value),
                t => self.set_reg(t, value),
            }
        }
        if new_base.is_none() && w {
            new_base = Some(self.at(base, change));
        }
        if let Some(v) = new_base {
            self.set_reg(n, v);
        }
        match jump {
            Some(target) => self.load_write_pc(target, if n == 13 { Hint::Return } else { Hint::Jump }),
            None => Flow::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{CODE, DATA, Machine};
    use cpu::FaultKind;
    use ir::TrapKind;

    fn words(m: &Machine, from: usize, n: usize) -> Vec<u32> {
        m.memory.data[from..from + 4 * n].chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
    }

    #[test]
    fn the_four_modes() {
        for (word, base, first) in [
            (0xe8a2_0003u32, DATA + 24, 16usize), // stmia r2!, {r0, r1}
            (0xe9a2_0003, DATA + 24, 20),         // stmib
            (0xe822_0003, DATA + 8, 12),          // stmda
            (0xe922_0003, DATA + 8, 8),           // stmdb
        ] {
            let m = Machine::a32(&[word]).set_r(0, 7).set_r(1, 9).set_r(2, DATA + 16).run();
            assert_eq!(m.r(2), base, "{word:#x}");
            assert_eq!(words(&m, first, 2), [7, 9], "{word:#x}");
        }
    }

    #[test]
    fn pop_returns() {
        let mut m = Machine::a32(&[0xe8bd_8011]).set_r(13, DATA); // pop {r0, r4, pc}
        m = m.set_data(0, &[1, 0, 0, 0, 2, 0, 0, 0, 0x41, 0, 1, 0]);
        m.step(1);
        assert_eq!((m.r(0), m.r(4), m.r(13)), (1, 2, DATA + 12));
        assert_eq!(m.state.u64_at(ir::state::KEY), 0x1_0041);
    }

    #[test]
    fn the_base_may_be_in_the_list() {
        let m = Machine::a32(&[0xe892_0006]).set_r(2, DATA).set_data(0, &[5, 0, 0, 0, 6, 0, 0, 0]).run(); // ldm r2, {r1, r2}
        assert_eq!((m.r(1), m.r(2)), (5, 6));
        let m = Machine::a32(&[0xe8a2_0006]).set_r(2, DATA).set_r(1, 3).run(); // stm r2!, {r1, r2}
        assert_eq!(words(&m, 0, 2), [3, DATA]);
    }

    #[test]
    fn faults_leave_the_base_alone() {
        let m = Machine::a32(&[0xe8b2_000b]).set_r(2, DATA + 0xff8).run(); // ldm r2!, {r0, r1, r3} past the end
        assert_eq!((m.fault().unwrap().addr, m.r(2), m.pc()), ((DATA + 0x1000) as u64, DATA + 0xff8, CODE));
        let m = Machine::a32(&[0xe8b2_0003]).set_r(2, DATA + 2).run();
        assert_eq!(m.fault().unwrap().kind, FaultKind::Alignment);
        let m = Machine::a32(&[0xe8d2_0003]).set_r(2, DATA).run(); // ldm r2, {r0, r1}^
        assert_eq!(m.trap(), Some(TrapKind::Undefined));
    }
}
