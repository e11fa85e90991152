//! Privileged instructions: SPSR and banked registers, saving and restoring state, calls to higher privilege, returns.
//!
//! **Reference.** Arm ARM (DDI 0406C) B9.3 (the instructions), B9.2.3 (encoding of banked registers).
//!
//! Everything here is UNDEFINED in User mode, where the manual says UNPREDICTABLE as well. The mode is known when code is
//! translated, and with it where each register lies; what may lead to another mode traps.

use crate::features::Features;
use crate::helper;
use crate::state::bank::{self, Bank, mode};
use crate::state::{cpsr, key};
use crate::system::{hint, msr_bits, request};
use crate::translate::{Flow, Translator};
use ir::{MemOp, TrapKind, Ty, Val};

spec::insns! { pub ROWS: Translator => Flow;
    /// MRS (SPSR), B9.3.9
    mrs_spsr "cccc 0001 0100 1111 dddd 0000 0000 0000" (d);
    /// MRS (banked register), B9.3.10
    mrs_banked "cccc 0001 0r00 mmmm dddd 001m 0000 0000" (r, m, d);
    /// MSR (SPSR, register), B9.3.12
    msr_spsr_reg "cccc 0001 0110 mmmm 1111 0000 0000 nnnn" (m, n);
    /// MSR (SPSR, immediate), B9.3.11
    msr_spsr_imm "cccc 0011 0110 mmmm 1111 iiiiiiiiiiii" (m, i);
    /// MSR (banked register), B9.3.13
    msr_banked "cccc 0001 0r10 mmmm 1111 001m 0000 nnnn" (r, m, n);
    /// ERET, B9.3.3
    eret "cccc 0001 0110 0000 0000 0000 0110 1110" ();
    /// HVC, B9.3.4
    hvc "cccc 0001 0100 iiiiiiiiiiii 0111 iiii" (i);
    /// SMC, B9.3.14
    smc "cccc 0001 0110 0000 0000 0000 0111 ----" ();
}

spec::insns! { pub UNCONDITIONAL: Translator => Flow;
    /// RFE, B9.3.13
    rfe "1111 100 p u 0 w 1 nnnn 0000 1010 0000 0000" (p, u, w, n);
    /// SRS, B9.3.16
    srs "1111 100 p u 1 w 0 1101 0000 0101 000 mmmmm" (p, u, w, m);
}

spec::insns! { pub T32: Translator => Flow;
    /// MRS (SPSR)
    mrs_spsr "11110 0 1111 11 1111 10 0 0 dddd 0000 0000" (d);
    /// MRS (banked register)
    mrs_banked "11110 0 1111 1 r mmmm 10 0 0 dddd 001m 0000" (r, m, d);
    /// MSR (SPSR, register)
    msr_spsr_reg "11110 0 1110 01 nnnn 10 0 0 mmmm 0000 0000" (m, n);
    /// MSR (banked register)
    msr_banked "11110 0 1110 0 r nnnn 10 0 0 mmmm 001m 0000" (r, m, n);
    /// SUBS PC, LR; ERET, B9.3.19
    t32_subs_pc_lr "11110 0 1111 01 1110 10 0 0 1111 iiii iiii" (i);
    /// HVC
    hvc "11110 1 1111 10 iiii 10 0 0 iiii iiii iiii" (i);
    /// SMC
    smc "11110 1 1111 11 ---- 10 0 0 0000 0000 0000" ();
    /// RFEDB
    t32_rfedb "1110 1000 00 w 1 nnnn 1100 0000 0000 0000" (w, n);
    /// RFEIA
    t32_rfeia "1110 1001 10 w 1 nnnn 1100 0000 0000 0000" (w, n);
    /// SRSDB
    t32_srsdb "1110 1000 00 w 0 1101 1100 0000 000 mmmmm" (w, m);
    /// SRSIA
    t32_srsia "1110 1001 10 w 0 1101 1100 0000 000 mmmmm" (w, m);
}

/// What the five bits of a banked register's encoding name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Banked {
    /// Register `.1` of mode `.0`.
    Core(u32, u32),
    Spsr(u32),
    ElrHyp,
}

impl Banked {
    fn decode(spsr: bool, m: u32) -> Option<Banked> {
        let by_pair = [mode::IRQ, mode::SVC, mode::ABT, mode::UND];
        let of = match m >> 1 {
            8..=11 => by_pair[(m >> 1) as usize - 8],
            14 => mode::MON,
            15 => mode::HYP,
            _ if spsr => mode::FIQ,
            _ => mode::USR,
        };
        Some(match (spsr, m) {
            (true, 14) => Banked::Spsr(mode::FIQ),
            (true, 16.. ) if m & 1 == 0 && !(24..28).contains(&m) => Banked::Spsr(of),
            (false, 0..=6) => Banked::Core(mode::USR, m + 8),
            (false, 8..=14) => Banked::Core(mode::FIQ, m),
            (false, 30) => Banked::ElrHyp,
            (false, 16..) if !(24..28).contains(&m) => Banked::Core(of, 14 - (m & 1)),
            _ => return None,
        })
    }
}

impl Translator {
    /// Where SPSR of the current mode lies; `None` in User mode.
    fn spsr_place(&self) -> Option<u32> {
        if self.privileged() { Some(Bank::of(self.cpu_mode)?.spsr()) } else { None }
    }

    fn mrs_spsr(&mut self, d: u32) -> Flow {
        let Some(place) = self.spsr_place() else { return self.undefined() };
        let v = self.b.get32(place);
        self.set_reg(d, v);
        Flow::Next
    }

    fn msr_spsr_reg(&mut self, m: u32, n: u32) -> Flow {
        let v = self.reg(n);
        self.write_spsr(m, v)
    }

    fn msr_spsr_imm(&mut self, m: u32, i: u32) -> Flow {
        let (v, _) = self.expand_imm_c(i);
        self.write_spsr(m, v)
    }

    fn write_spsr(&mut self, mask: u32, v: Val) -> Flow {
        let Some(place) = self.spsr_place() else { return self.undefined() };
        let bits = msr_bits(mask);
        let old = self.b.get32(place);
        let kept = self.b.and_imm(old, !bits as u64);
        let new = self.b.and_imm(v, bits as u64);
        let v = self.b.or(kept, new);
        self.b.set32(place, v);
        Flow::Next
    }

    /// Where a banked register lies; `None` where the current mode has no access.
    fn banked_place(&self, spsr: bool, m: u32) -> Option<u32> {
        let exists = self.has(Features::V8) || self.system.is_some_and(|o| o.virtualization);
        if !self.privileged() || !exists {
            return None;
        }
        let banked = Banked::decode(spsr, m)?;
        let now = self.cpu_mode;
        let (secure, options) = (self.static_key() & key::SECURE != 0, self.system?);
        let accessible = match banked {
            Banked::Core(mode::MON, _) | Banked::Spsr(mode::MON) => options.secure && secure && now != mode::MON,
            Banked::Core(mode::HYP, _) => options.virtualization && now == mode::MON,
            // SPSR_hyp from Hyp mode is UNPREDICTABLE; QEMU lets it be.
            Banked::Spsr(mode::HYP) | Banked::ElrHyp => options.virtualization && matches!(now, mode::MON | mode::HYP),
            _ => true,
        };
        accessible.then_some(())?;
        match banked {
            Banked::Core(of, n) => Some(bank::place(now, of, n)),
            Banked::Spsr(of) => Some(Bank::of(of)?.spsr()),
            Banked::ElrHyp => Some(bank::ELR_HYP),
        }
    }

    fn mrs_banked(&mut self, r: bool, m: u32, d: u32) -> Flow {
        let Some(place) = self.banked_place(r, Self::banked_number(m)) else { return self.undefined() };
        let v = self.b.get32(place);
        self.set_reg(d, v);
        Flow::Next
    }

    fn msr_banked(&mut self, r: bool, m: u32, n: u32) -> Flow {
        let Some(place) = self.banked_place(r, Self::banked_number(m)) else { return self.undefined() };
        let v = self.reg(n);
        self.b.set32(place, v);
        Flow::Next
    }

    /// The rows give M1 (four bits) and then M: M is the most significant.
    fn banked_number(m: u32) -> u32 {
        m >> 1 | (m & 1) << 4
    }

    // ---- calls -----------------------------------------------------------------------------------------------------

    fn hvc(&mut self, i: u32) -> Flow {
        if !self.privileged() {
            return self.undefined();
        }
        let key = self.key_here();
        self.trap(TrapKind::Exception, request::HVC | i << 8, key)
    }

    fn smc(&mut self) -> Flow {
        if !self.privileged() {
            return self.undefined();
        }
        let key = self.key_here();
        self.trap(TrapKind::Exception, request::SMC, key)
    }

    // ---- returns ---------------------------------------------------------------------------------------------------

    /// An exception return to `target` with CPSR = SPSR.
    pub fn return_to(&mut self, target: Val) -> Flow {
        let Some(spsr) = self.spsr_place() else { return self.undefined() };
        let status = self.b.get32(spsr);
        self.return_with(target, status)
    }

    /// An exception return. In the run loop if an interrupt has been held back, which the return may let through.
    fn return_with(&mut self, target: Val, status: Val) -> Flow {
        self.b.set32(bank::RETURN_PC, target);
        self.b.set32(bank::RETURN_STATUS, status);
        let key = self.key_here();
        if !self.has_plain_exceptions() {
            return self.trap(TrapKind::Exception, request::RETURN, key);
        }
        self.exit_by(|it| {
            let pending = it.b.get32(bank::IRQ_PENDING_MASKED);
            it.b.trap_nz(pending, TrapKind::Exception, request::RETURN, key);
            let here = it.key_value(key);
            let (target, status) = (it.b.zext32(target), it.b.zext32(status));
            it.b.call(Ty::I64, helper::EXCEPTION_RETURN, true, [here, target, status])
        })
    }

    fn eret(&mut self) -> Flow {
        if !self.privileged() {
            return self.undefined();
        }
        let target = if self.cpu_mode == mode::HYP { self.b.get32(bank::ELR_HYP) } else { self.reg(14) };
        self.return_to(target)
    }

    /// In Hyp mode ERET alone exists.
    fn t32_subs_pc_lr(&mut self, i: u32) -> Flow {
        if i == 0 {
            return self.eret();
        }
        if self.cpu_mode == mode::HYP {
            return self.undefined();
        }
        let lr = self.reg(14);
        let target = self.b.add_imm(lr, i.wrapping_neg() as i32 as u64);
        self.return_to(target)
    }

    /// First address, relative to the base, of a pair of words.
    fn pair_offset(p: bool, u: bool) -> u32 {
        match (p, u) {
            (false, true) => 0,
            (true, true) => 4,
            (false, false) => 4u32.wrapping_neg(),
            (true, false) => 8u32.wrapping_neg(),
        }
    }

    fn pair_change(u: bool) -> u64 {
        if u { 8 } else { -8i64 as u64 }
    }

    fn rfe(&mut self, p: bool, u: bool, w: bool, n: u32) -> Flow {
        if !self.privileged() || self.cpu_mode == mode::HYP || n == 15 {
            return self.undefined();
        }
        let base = self.reg(n);
        let first = self.b.add_imm(base, Self::pair_offset(p, u) as i32 as u64);
        let second = self.b.add_imm(first, 4);
        let target = self.load(MemOp::B4.aligned4(), first);
        let status = self.load(MemOp::B4.aligned4(), second);
        if w {
            let moved = self.b.add_imm(base, Self::pair_change(u));
            self.set_reg(n, moved);
        }
        self.return_with(target, status)
    }

    /// Stores LR and SPSR on the stack of another mode.
    fn srs(&mut self, p: bool, u: bool, w: bool, m: u32) -> Flow {
        let to = m & 15;
        let secure = self.static_key() & key::SECURE != 0;
        let forbidden = matches!(self.cpu_mode, mode::HYP | mode::SYS) || m < 16 || to == mode::HYP || to == mode::MON && !secure;
        let (Some(spsr), Some(_), false) = (self.spsr_place(), Bank::of(to), forbidden) else { return self.undefined() };
        let sp = bank::place(self.cpu_mode, to, 13);
        let base = self.b.get32(sp);
        let first = self.b.add_imm(base, Self::pair_offset(p, u) as i32 as u64);
        let second = self.b.add_imm(first, 4);
        let (lr, status) = (self.reg(14), self.b.get32(spsr));
        self.store(MemOp::B4.aligned4(), first, lr);
        self.store(MemOp::B4.aligned4(), second, status);
        if w {
            let moved = self.b.add_imm(base, Self::pair_change(u));
            self.b.set32(sp, moved);
        }
        Flow::Next
    }

    fn t32_rfedb(&mut self, w: bool, n: u32) -> Flow {
        self.rfe(true, false, w, n)
    }

    fn t32_rfeia(&mut self, w: bool, n: u32) -> Flow {
        self.rfe(false, true, w, n)
    }

    fn t32_srsdb(&mut self, w: bool, m: u32) -> Flow {
        self.srs(true, false, w, m)
    }

    fn t32_srsia(&mut self, w: bool, m: u32) -> Flow {
        self.srs(false, true, w, m)
    }

    // ---- CPSR ------------------------------------------------------------------------------------------------------

    /// Whether A and F of CPSR may be out of this world's reach (SCR.AW, SCR.FW), which is known at run time only.
    fn masks_may_be_locked(&self) -> bool {
        self.system.is_some_and(|o| o.secure && !o.virtualization) && self.static_key() & key::SECURE == 0
    }

    /// MSR to CPSR in a machine. What stays within this mode is done here, by far the most common case; a change of mode or
    /// of endianness is left to `Arm::write_cpsr`.
    pub fn msr_cpsr(&mut self, mask: u32, v: Val) -> Flow {
        let mut bits = msr_bits(mask);
        if !self.privileged() {
            bits &= cpsr::USER;
        }
        let masks = bits & bank::MASKS;
        let arg = request::MSR | mask << 8;
        let next = self.key_next();
        if masks & (cpsr::A | cpsr::F) != 0 && self.masks_may_be_locked() {
            self.b.set32(bank::RETURN_STATUS, v);
            return self.trap(TrapKind::Exception, arg, next);
        }
        let now = cpsr::MODE_USER | self.cpu_mode | if self.big_endian { cpsr::E } else { 0 };
        let fixed = bits & (cpsr::M | cpsr::E);
        if fixed != 0 {
            let now = self.imm(now);
            let differs = self.b.xor(v, now);
            let differs = self.b.and_imm(differs, fixed as u64);
            match self.b.constant(differs) {
                Some(0) => {}
                Some(_) => {
                    self.b.set32(bank::RETURN_STATUS, v);
                    return self.trap(TrapKind::Exception, arg, next);
                }
                None => {
                    self.b.set32(bank::RETURN_STATUS, v);
                    self.b.trap_nz(differs, TrapKind::Exception, arg, next);
                }
            }
        }
        self.write_flag_fields(mask, v);
        if masks != 0 {
            self.write_masks(masks, v);
            self.look_at_interrupts(next);
        }
        Flow::Next
    }

    /// Replaces the masks in `bits` by those of `v`.
    fn write_masks(&mut self, bits: u32, v: Val) {
        let new = self.b.and_imm(v, bits as u64);
        let new = if bits == bank::MASKS {
            new
        } else {
            let old = self.b.get32(bank::CPSR_MASKS);
            let kept = self.b.and_imm(old, !bits as u64);
            self.b.or(kept, new)
        };
        self.b.set32(bank::CPSR_MASKS, new);
    }

    /// Leaves to the run loop if an interrupt is pending that the masks no longer hold back.
    fn look_at_interrupts(&mut self, next: u64) {
        let pending = self.b.get32(bank::IRQ_PENDING_MASKED);
        let masks = self.b.get32(bank::CPSR_MASKS);
        let free = self.b.andn(pending, masks);
        self.b.trap_nz(free, TrapKind::Yield, hint::LOOK, next);
    }

    /// CPS: sets or clears masks, changes the mode. Nothing in User mode.
    pub fn change_processor_state(&mut self, imod: u32, aif: u32, to: Option<u32>) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        if !self.privileged() {
            return Flow::Next;
        }
        let bits = if imod >= 2 { aif << 6 } else { 0 };
        let disable = imod == 3;
        let value = if disable { bits } else { 0 } | to.unwrap_or(0);
        let changes = to.filter(|to| *to != (0x10 | self.cpu_mode));
        if let Some(to) = changes {
            return self.change_mode(bits, value, to);
        }
        if bits & (cpsr::A | cpsr::F) != 0 && self.masks_may_be_locked() {
            return self.masks_by_trap(bits, value);
        }
        if bits == 0 {
            return Flow::Next;
        }
        let v = self.imm(value);
        self.write_masks(bits, v);
        if !disable {
            let next = self.key_next();
            self.look_at_interrupts(next);
        }
        Flow::Next
    }

    /// CPS with another mode. Both modes are known: the banked registers move here.
    fn change_mode(&mut self, bits: u32, value: u32, to: u32) -> Flow {
        let (from, to) = (self.cpu_mode, to & 0x1f);
        let simple = |m: u32| !matches!(m, mode::HYP | mode::MON);
        let known = to >= 16 && Bank::of(to & 15).is_some() && simple(from) && simple(to & 15);
        if !known || self.masks_may_be_locked() || to & 15 == mode::USR {
            return self.masks_by_trap(bits | cpsr::M, value);
        }
        for (core, old, new) in bank::moves(from, to & 15).collect::<Vec<_>>() {
            let (mine, theirs) = (self.b.get32(core), self.b.get32(new));
            self.b.set32(old, mine);
            self.b.set32(core, theirs);
        }
        let next = self.key_next() & !key::MODE | ((to & 15) as u64) << key::MODE_SHIFT;
        if bits != 0 {
            let v = self.imm(value);
            self.write_masks(bits, v);
            self.look_at_interrupts(next);
        }
        self.exit(next)
    }

    /// As MSR does it: all fields that hold `bits`, with the current value elsewhere.
    fn masks_by_trap(&mut self, bits: u32, value: u32) -> Flow {
        let now = self.read_cpsr();
        let kept = self.b.and_imm(now, !bits as u64);
        let v = self.b.or_imm(kept, (value & bits) as u64);
        self.b.set32(bank::RETURN_STATUS, v);
        let next = self.key_next();
        self.trap(TrapKind::Exception, request::MSR | 3 << 8, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state;
    use cpu::system::Alone;
    use crate::testing::{CODE, DATA, Machine};
    use cpu::system::After;

    fn svc(words: &[u32]) -> Machine {
        Machine::a32(words).in_machine(mode::SVC)
    }

    #[test]
    fn masks_are_set_and_cleared_in_place() {
        // cpsid i; cpsid af; cpsie f: one region, no trap
        let m = svc(&[0xf10c_0080, 0xf10c_0140, 0xf108_0040]).run();
        assert_eq!((m.cpsr() & 0x1ff, m.pc()), (0x193, CODE + 12));
        // mrs r0, cpsr; cpsid i; msr cpsr_c, r0
        let m = svc(&[0xe10f_0000, 0xf10c_0080, 0xe121_f000]).run();
        assert_eq!((m.r(0), m.cpsr() & 0x1ff), (0x13, 0x13));
        // cpsid i; cpsie if; cpsid a (T16)
        let m = Machine::thumb(&[0xb672, 0xb663, 0xb674]).in_machine(mode::SVC).run();
        assert_eq!(m.cpsr() & 0x1c0, 0x100);
    }

    #[test]
    fn lifting_a_mask_from_a_pending_interrupt_leaves() {
        for (words, at) in [([0xf10c_0080u32, 0xf108_0080], 8), ([0xf10c_0080, 0xe121_f000], 8), ([0xf10c_0080, 0xe321_f013], 8)] {
            let mut m = svc(&words).set_r(0, 0x13);
            m.state.set_u32(bank::IRQ_PENDING_MASKED, cpsr::I);
            assert!(!m.step(8));
            assert!(m.trapped(TrapKind::Yield), "{words:x?}");
            assert_eq!(m.pc(), CODE + at);
            assert_eq!(m.handle(&mut Alone::default()), After::Run);
            // FIQ is another mask.
            let mut m = svc(&words).set_r(0, 0x13);
            m.state.set_u32(bank::IRQ_PENDING_MASKED, cpsr::F);
            m.write_cpsr(0x53);
            m = m.set_r(0, 0x53);
            m.step(2);
            assert_eq!(m.stopped.is_some(), words[1] == 0xe321_f013, "{words:x?}");
        }
    }

    #[test]
    fn the_mode_changes_by_cps_and_msr() {
        // cps #irq; mov sp, r0; cps #svc
        let m = svc(&[0xf102_0012, 0xe1a0_d000, 0xf102_0013]).set_r(0, 7).set_r(13, 9).instructions(3);
        assert_eq!((m.cpsr() & 0x1f, m.r(13), m.banked(mode::IRQ, 13)), (0x13, 9, 7));
        // cpsid if, #fiq; mov r8, r0
        let m = svc(&[0xf10e_00d1, 0xe1a0_8000]).set_r(0, 7).set_r(8, 1).instructions(2);
        assert_eq!((m.cpsr() & 0xdf, m.r(8), m.banked(mode::USR, 8)), (0xd1, 7, 1));
        // msr cpsr_c, r0
        let m = svc(&[0xe121_f000]).set_r(0, 0xffff_ffd7).set_r(13, 9).instructions(1);
        assert_eq!((m.cpsr() & 0xff, m.r(13), m.pc()), (0xd7, 0, CODE + 4));
        // msr cpsr_cxsf, r0: E as well, T and IT not
        let m = svc(&[0xe12f_f000]).set_r(0, 0xffff_ff30 | 0x13).instructions(1);
        assert_eq!(m.cpsr(), 0xf80f_0313);
        // Modes that do not exist, or not on this CPU.
        for r0 in [0x15, 0x16, 0x1a, 0x03] {
            let m = svc(&[0xe121_f000]).set_r(0, r0).instructions(1);
            assert_eq!(m.cpsr() & 0x1f, 0x13, "{r0:#x}");
        }
    }

    #[test]
    fn user_mode_reaches_flags_only() {
        let user = |words: &[u32]| Machine::a32(words).in_machine(mode::USR);
        // msr cpsr_cxsf, r0 with everything; cps #svc; cpsid aif
        let m = user(&[0xe12f_f000, 0xf102_0013, 0xf10c_01c0]).set_r(0, 0xffff_ffff).instructions(3);
        assert_eq!(m.cpsr(), 0xf80f_0210);
        for word in [
            0xe14f_0000u32, // mrs r0, spsr
            0xe16f_f000,    // msr spsr, r0
            0xe1b0_f00e,    // movs pc, lr
            0xe8fd_8000,    // ldm sp!, {pc}^
            0xe8d0_6000,    // ldm r0, {sp, lr}^
            0xe8c0_6000,    // stm r0, {sp, lr}^
            0xf8bd_0a00,    // rfeia sp!
            0xf96d_0513,    // srsdb #19
            0xe160_006e,    // eret
            0xe140_0070,    // hvc
            0xe160_0070,    // smc
            0xe121_0200,    // mrs banked
            0xeef8_0a10,    // vmrs r0, fpexc
            0xeee8_0a10,    // vmsr fpexc, r0
            0xeef0_0a10,    // vmrs r0, fpsid
        ] {
            let m = user(&[word]).set_r(0, DATA).set_r(13, DATA).instructions(1);
            assert_eq!((m.vector(), m.r(14)), (Some(4), CODE + 4), "{word:#x}");
        }
    }

    #[test]
    fn saved_status_is_read_and_written_by_fields() {
        // mrs r0, spsr; msr spsr_fc, r1; mrs r2, spsr
        let m = svc(&[0xe14f_0000, 0xe169_f001, 0xe14f_2000]).set_r(1, 0xffff_ffff).set_spsr(0x1234).run();
        assert_eq!((m.r(0), m.r(2)), (0x1234, 0xff00_12ff));
        assert_eq!(svc(&[0xe369_f20f]).set_spsr(0x11).run().spsr(), 0xf000_0000); // msr spsr_fc, #0xf0000000
    }

    #[test]
    fn banked_registers() {
        let all = crate::system::Options { virtualization: true, ..Default::default() };
        // mrs r0, sp_irq; mrs r1, lr_irq; mrs r2, spsr_irq; msr r8_fiq, r3; mrs r4, sp_usr; mrs r5, sp_svc
        let words = [0xe101_0300, 0xe100_1300, 0xe140_2300, 0xe128_f203, 0xe105_4200, 0xe103_5300];
        let m = Machine::a32(&words).in_machine_with("cortex-a15", all, mode::SVC);
        let mut m = m.set_banked(mode::IRQ, 13, 1).set_banked(mode::IRQ, 14, 2).set_banked(mode::USR, 13, 5).set_r(13, 6);
        m.state.set_u32(Bank::Irq.spsr(), 3);
        let m = m.set_r(3, 4).run();
        assert_eq!([m.r(0), m.r(1), m.r(2), m.banked(mode::FIQ, 8), m.r(4), m.r(5)], [1, 2, 3, 4, 5, 6]);
        // elr_hyp, in Hyp mode only; not without the Virtualization Extensions
        let m = Machine::a32(&[0xe10e_0300]).in_machine_with("cortex-a15", all, mode::HYP);
        let mut m = m;
        m.state.set_u32(bank::ELR_HYP, 77);
        assert_eq!(m.run().r(0), 77);
        assert_eq!(svc(&[0xe101_0300]).instructions(1).vector(), Some(4));
    }

    #[test]
    fn user_registers_in_block_transfers() {
        // stm r0, {r12, sp, lr}^; ldm r1, {r8, sp, lr}^ in FIQ mode
        let m = Machine::a32(&[0xe8c0_7000, 0xe8d1_6100]).in_machine(mode::FIQ).set_r(0, DATA).set_r(1, DATA + 16);
        let m = m.set_banked(mode::USR, 12, 1).set_banked(mode::USR, 13, 2).set_banked(mode::USR, 14, 3);
        let m = m.set_data(16, &[8, 0, 0, 0, 13, 0, 0, 0, 14, 0, 0, 0]).run();
        assert_eq!(m.memory.data[..12], [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!([8, 13, 14].map(|n| m.banked(mode::USR, n)), [8, 13, 14]);
        assert_eq!([8, 13, 14].map(|n| m.r(n)), [0, 0, 0]);
    }

    #[test]
    fn block_loads_return_from_exceptions() {
        // ldm sp!, {r0, pc}^
        let m = svc(&[0xe8fd_8001]).set_r(13, DATA).set_spsr(0x2000_0030).set_data(0, &[5, 0, 0, 0, 0x21, 0x43, 0, 0]);
        let m = m.instructions(1);
        assert_eq!((m.r(0), m.pc(), m.cpsr()), (5, 0x4320, 0x2000_0030));
        assert_eq!(m.banked(mode::SVC, 13), DATA + 8);
    }

    #[test]
    fn state_is_saved_and_restored_on_stacks() {
        // srsdb sp!, #irq; then rfeia r0! of the same two words
        let m = svc(&[0xf96d_0512, 0xf8b0_0a00]).set_r(14, 0x4000).set_r(0, DATA).set_spsr(0x8000_0010);
        let m = m.set_banked(mode::IRQ, 13, DATA + 8).instructions(2);
        assert_eq!(m.memory.data[..8], [0, 0x40, 0, 0, 0x10, 0, 0, 0x80]);
        assert_eq!((m.pc(), m.cpsr(), m.r(0)), (0x4000, 0x8000_0010, DATA + 8));
        assert_eq!(m.banked(mode::IRQ, 13), DATA);
        // T32: srsdb sp!, #svc; rfeia sp!
        let m = Machine::thumb(&[0xe82d, 0xc013, 0xe9bd, 0xc000]).in_machine(mode::SVC).set_r(13, DATA + 16).set_r(14, 0x5001);
        let m = m.set_spsr(0x33).instructions(2);
        assert_eq!((m.pc(), m.cpsr() & 0xff, m.r(13)), (0x5000, 0x33, DATA + 16));
        // The other address modes: srsib, srsda, srsia without writeback
        for (word, at) in [(0xf9cd_0513u32, 12), (0xf84d_0513, 4), (0xf8cd_0513, 8)] {
            let m = svc(&[word]).set_r(13, DATA + 8).set_r(14, 0x99).run();
            assert_eq!((m.memory.data[at], m.r(13)), (0x99, DATA + 8), "{word:#x}");
        }
    }

    #[test]
    fn unprivileged_accesses_name_the_user_regime() {
        use cpu::{Guest, Limits};
        // ldrt r0, [r1], #4; ldr; strbt; ldrht; ldr
        let words = [0xe4b1_0004u32, 0xe591_0000, 0xe4e1_0001, 0xe0f1_00b2, 0xe591_0000];
        let m = svc(&words);
        let regimes = |m: &Machine, key: u64| {
            let mut b = ir::Builder::new();
            b.begin(key, CODE as u64);
            m.arm.translate(key, Limits { max_insns: 5, relative: false }, &m.memory, &mut b);
            b.region().insts.iter().filter(|i| matches!(i.op, ir::Op::Ld | ir::Op::St)).map(|i| i.fl).collect::<Vec<_>>()
        };
        let key = m.state.u64_at(ir::state::KEY);
        assert_eq!(regimes(&m, key), [0, 1, 0, 0, 1]);
        assert_eq!(regimes(&m, key | key::DOMAINS), [2, 3, 2, 2, 3]);
        // T32: ldrt r0, [r1, #4]; ldr.w r0, [r1, #4]
        let m = Machine::thumb(&[0xf851, 0x0e04, 0xf8d1, 0x0004]).in_machine(mode::SVC);
        let key = m.state.u64_at(ir::state::KEY);
        assert_eq!(regimes(&m, key), [0, 1]);
    }

    #[test]
    fn floating_point_is_off_until_enabled() {
        // vadd.f32 s0, s0, s0; vmsr fpexc, r0; vadd
        let words = [0xeee8_0a10u32, 0xee30_0a00, 0xeef8_1a10];
        let mut m = svc(&words).set_r(0, 0xffff_ffff);
        m.state.set_u32(bank::FPEXC, 0);
        crate::sysreg::control::update_key(&m.arm, &mut m.state);
        let m = m.instructions(3);
        assert_eq!((m.vector(), m.r(1)), (None, bank::FPEXC_EN));
        for off in 0..3 {
            let mut m = svc(&[0xee30_0a00]);
            match off {
                0 => m.state.set_u32(bank::FPEXC, 0),
                1 => m.state.set_u32(state::sys::CPACR, 0),
                _ => m = Machine::a32(&[0xf3b9_0000]).in_machine(mode::SVC), // vclz... with floating point on
            }
            crate::sysreg::control::update_key(&m.arm, &mut m.state);
            assert_eq!(m.instructions(1).vector(), if off < 2 { Some(4) } else { None }, "{off}");
        }
        // CPACR = PL1 only: User mode may not.
        let mut m = Machine::a32(&[0xee30_0a00]).in_machine(mode::USR);
        m.state.set_u32(state::sys::CPACR, 5 << 20);
        crate::sysreg::control::update_key(&m.arm, &mut m.state);
        assert_eq!(m.instructions(1).vector(), Some(4));
    }

    #[test]
    fn alignment_checking_covers_every_access() {
        // ldr r1, [r0]; ldrh r1, [r0]; vld1.32 {d0}, [r0]; vld1.16 {d0}, [r0]; ldrb r1, [r0]
        for (word, faults) in
            [(0xe590_1000u32, true), (0xe1d0_10b0, false), (0xf420_078f, true), (0xf420_074f, false), (0xe5d0_1000, false)]
        {
            let mut m = svc(&[word]).set_r(0, DATA + 2);
            assert!(m.clone().run().fault().is_none(), "{word:#x}");
            m.state.set_u32(state::sys::SCTLR, state::sys::sctlr::A | state::sys::sctlr::M);
            crate::sysreg::control::update_key(&m.arm, &mut m.state);
            assert_eq!(m.run().fault().is_some(), faults, "{word:#x}");
        }
    }

    #[test]
    fn waiting_leaves_to_the_run_loop() {
        for (word, want) in [(0xe320_f003u32, After::Sleep), (0xe320_f002, After::SleepForEvent), (0xe320_f001, After::Yield)] {
            let mut m = svc(&[word]);
            assert!(!m.step(1));
            assert_eq!(m.handle(&mut Alone::default()), want);
            assert_eq!(m.pc(), CODE + 4);
        }
        let mut env = Alone::default();
        let mut m = svc(&[0xe320_f004]); // sev
        m.step(1);
        assert_eq!((m.handle(&mut env), env.events), (After::Run, 1));
    }

    #[test]
    fn a_barrier_waits_for_what_other_cpus_were_asked_to_drop() {
        let mut m = svc(&[0xf57f_f04b, 0xf57f_f05b]); // dsb ish; dmb ish
        m.state.set_u32(bank::FLUSHES_UNFINISHED, 1);
        assert!(!m.step(8) && m.trapped(TrapKind::Yield));
        assert_eq!((m.handle(&mut Alone::default()), m.pc()), (After::Run, CODE + 4));
        assert_eq!(m.run().trap(), None, "once");
    }

    #[test]
    fn calls_to_higher_privilege() {
        use crate::system::Options;
        assert_eq!(svc(&[0xe140_0070]).instructions(1).vector(), Some(4), "HVC without Hyp mode");
        assert_eq!(svc(&[0xe160_0070]).instructions(1).vector(), Some(4), "SMC without Monitor mode");
        let hyp = Options { virtualization: true, ..Options::default() };
        let m = Machine::a32(&[0xe141_2374]).in_machine_with("cortex-a15", hyp, mode::SVC).set_r(14, 5).instructions(1);
        let (state, vector) = (&m.state, m.vector());
        assert_eq!((vector, m.cpsr() & 0x1f, state.u32_at(bank::ELR_HYP)), (Some(0x14), 0x1a, CODE + 4));
        assert_eq!(state.u32_at(state::sys::HSR), 0x4a00_1234);
        assert_eq!(m.banked(mode::SVC, 14), 5);
        let secure = Options { secure: true, ..Options::default() };
        let m = Machine::a32(&[0xe160_0070]).in_machine_with("cortex-a15", secure, mode::SVC).instructions(1);
        assert_eq!((m.vector(), m.cpsr() & 0x1df, m.r(14)), (Some(8), 0x1d6, CODE + 4));
    }
}
