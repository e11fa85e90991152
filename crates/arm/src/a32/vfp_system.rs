//! VMRS and VMSR. Arm ARM (DDI 0406C) A8.8.368, B1.12 (register access), B4.1.58 (FPSCR).
//!
//! Writing FPSCR ends the region: its rounding mode, flush and NaN bits are part of the next region's key.

use crate::state::{self, bank, key};
use crate::{Features, Flow, Translator};
use ir::build::Hint;
use ir::{Cmp, TrapKind, Ty, Val, flag};
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    vmrs "cccc 1110 1111 rrrr tttt 1010 0001 0000" (r, t);
    vmsr "cccc 1110 1110 rrrr tttt 1010 0001 0000" (r, t);
}

/// The registers' numbers.
const FPSID: u32 = 0;
const FPSCR: u32 = 1;
const FPEXC: u32 = 8;

impl Translator {
    fn vmrs(&mut self, r: u32, t: u32) -> Flow {
        if self.lacks(Features::VFP2) {
            return self.undefined();
        }
        match (r, t) {
            (FPSCR, 15) => {
                let word = self.b.get32(state::FPSCR_NZCV);
                let f = self.b.f_make(word);
                self.set_flags(f);
            }
            (FPSCR, _) => {
                let v = self.read_fpscr();
                self.set_reg(t, v);
            }
            // The executor checks what the key does not tell: CPACR, while FPEXC.EN is 0.
            (FPEXC, 0..15) if self.privileged() && self.static_key() & key::NO_FP == 0 => {
                let v = self.b.get32(bank::FPEXC);
                self.set_reg(t, v);
            }
            (2.., _) | (FPSID, _) if self.privileged() => return self.fp_system_register(),
            // Before VFPv3 a program could read FPSID.
            (FPSID, 0..15) if self.lacks(Features::VFP3) => {
                let v = self.b.get32(state::FPSID);
                self.set_reg(t, v);
            }
            _ => return self.undefined(),
        }
        Flow::Next
    }

    /// An access to FPSID, MVFRn or FPEXC by the run loop.
    fn fp_system_register(&mut self) -> Flow {
        let key = self.key_here();
        self.trap(TrapKind::System, self.word, key)
    }

    fn read_fpscr(&mut self) -> Val {
        let word = self.b.get32(state::FPSCR_NZCV);
        let nz = self.b.and_imm(word, (flag::N | flag::Z) as u64);
        let nz = self.b.shl_imm(nz, 16);
        let borrow = self.b.ubfx(word, 8, 1);
        let one = self.imm(1);
        let c = self.b.xor(borrow, one);
        let c = self.b.shl_imm(c, 29);
        let v = self.b.ubfx(word, 0, 1);
        let v = self.b.shl_imm(v, 28);
        let (low, high) = (self.b.get(Ty::I64, state::FPSCR_QC, 8), self.b.get(Ty::I64, state::FPSCR_QC + 8, 8));
        let any = self.b.or(low, high);
        let zero = self.b.i64(0);
        let qc = self.b.icmp(Cmp::Ne, any, zero);
        let qc = self.b.shl_imm(qc, 27);
        let control = self.b.get32(state::FPSCR_CONTROL);
        let cumulative = self.b.fp_flags();
        [c, v, qc, control, cumulative].into_iter().fold(nz, |all, part| self.b.or(all, part))
    }

    fn vmsr(&mut self, r: u32, t: u32) -> Flow {
        if self.lacks(Features::VFP2) || t == 15 || r != FPSCR && !self.privileged() {
            return self.undefined();
        }
        if r != FPSCR {
            return self.fp_system_register();
        }
        let value = self.reg(t);
        self.write_fpscr(value);
        // On to the next instruction with the mode bits of the new value.
        // RMode, FZ, DN and AHP are neighbours in both.
        let mut parts = vec![(22, 5, key::RMODE_SHIFT), (16, 3, key::LEN_SHIFT), (20, 2, key::STRIDE_SHIFT)];
        if !self.lacks(Features::FP16) {
            parts.push((19, 1, key::FZ16.trailing_zeros()));
        }
        let mut bits = self.b.i64(0);
        for (from, width, to) in parts {
            let part = self.b.ubfx(value, from, width);
            let part = self.b.zext32(part);
            let part = self.b.shl_imm(part, to);
            bits = self.b.or(part, bits);
        }
        let next = self.key_next() & !key::FPSCR;
        let next = self.key_value(next);
        let next = self.b.or(next, bits);
        self.b.exit_ind(next, Hint::Jump);
        Flow::End
    }

    fn write_fpscr(&mut self, value: Val) {
        let nz = self.b.shr_imm(value, 16);
        let nz = self.b.and_imm(nz, (flag::N | flag::Z) as u64);
        let carry = self.b.ubfx(value, 29, 1);
        let one = self.imm(1);
        let borrow = self.b.xor(carry, one);
        let borrow = self.b.shl_imm(borrow, 8);
        let v = self.b.ubfx(value, 28, 1);
        let word = self.b.or(nz, borrow);
        let word = self.b.or(word, v);
        self.b.set32(state::FPSCR_NZCV, word);
        let control = self.b.and_imm(value, state::fpscr_control(self.features) as u64);
        self.b.set32(state::FPSCR_CONTROL, control);
        let cumulative = self.b.and_imm(value, state::FPSCR_CUMULATIVE as u64);
        self.b.set_fp_flags(cumulative);
        if !self.lacks(Features::NEON) {
            let qc = self.b.ubfx(value, 27, 1);
            let qc = self.b.zext32(qc);
            let zero = self.b.i64(0);
            self.b.set(state::FPSCR_QC, 8, qc);
            self.b.set(state::FPSCR_QC + 8, 8, zero);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::state::key;
    use crate::testing::Machine;

    #[test]
    fn fpscr_reads_as_written_and_reaches_the_key() {
        // vmsr fpscr, r1; vmrs r2, fpscr
        let m = Machine::a32(&[0xeee1_1a10, 0xeef1_2a10]).set_r(1, 0xffff_ffff).run();
        assert_eq!(m.r(2), 0xffff_009f);
        assert_eq!(m.state.u64_at(ir::state::KEY) & key::FPSCR, key::FPSCR);
        let m = Machine::a32(&[0xeee1_1a10, 0xeef1_2a10]).set_r(1, 0x2000_0000).set_fpscr(0xdfff_009f).run();
        assert_eq!(m.r(2), 0x2000_0000);
        assert_eq!(m.state.u64_at(ir::state::KEY) & key::FPSCR, 0);
    }

    #[test]
    fn programs_see_fpsid_before_vfp3() {
        // vmrs r4, fpsid
        let run = |model| {
            let mut m = Machine::new(model);
            m.memory.code[..4].copy_from_slice(&0xeef0_4a10u32.to_le_bytes());
            m.step(1);
            m
        };
        assert_eq!(run("arm1176").r(4), 0x4101_20b5);
        assert_eq!(run("arm926").r(4), 0x4101_1090);
        assert_eq!(run("cortex-a9").trap(), Some(ir::TrapKind::Undefined));
    }
}
