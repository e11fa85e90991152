//! Modes, the registers that are banked by mode, and the rest of the privileged state that is not a system register.
//!
//! **Reference.** Arm ARM (DDI 0406C) B1.3.1 (modes), B1.3.2 (banked registers), B1.3.3 (CPSR, SPSR).
//!
//! **Invariants**: R8 to R14 of the current mode lie in the core registers' places, those of all other modes here; the place
//! here of a register that is current holds an old value. A, I and F of CPSR lie in [`CPSR_MASKS`], the mode in the key.
//! All of this is 0 in user-mode emulation.

use super::{cpsr, key, r};
use ir::State;

/// A, I and F at their places in CPSR.
pub const CPSR_MASKS: u32 = 1024;
/// The masks (as in `CPSR_MASKS`) that keep an interrupt from being taken that the executor has announced: lifting one of
/// them must leave to the run loop.
pub const IRQ_PENDING_MASKED: u32 = 1028;
/// R8 to R12 of every mode but FIQ, while in FIQ mode.
const R8_USR: u32 = 1032;
/// R8 to R12 of FIQ mode, while not in it.
const R8_FIQ: u32 = 1052;
/// SP, LR and SPSR of each bank.
const BANKS: u32 = 1072;
const BANK_BYTES: u32 = 12;
pub const ELR_HYP: u32 = 1168;
pub const FPEXC: u32 = 1172;
/// Where translated code leaves address and status for an exception return that it traps for.
pub const RETURN_PC: u32 = 1176;
pub const RETURN_STATUS: u32 = 1180;
/// Not 0: other CPUs have been asked to drop translations, which the next DSB waits for.
pub const FLUSHES_UNFINISHED: u32 = 1184;

/// FPEXC.EN.
pub const FPEXC_EN: u32 = 1 << 30;

/// M\[3:0\] of each mode; M\[4\] is always 1.
pub mod mode {
    pub const USR: u32 = 0;
    pub const FIQ: u32 = 1;
    pub const IRQ: u32 = 2;
    pub const SVC: u32 = 3;
    pub const MON: u32 = 6;
    pub const ABT: u32 = 7;
    pub const HYP: u32 = 10;
    pub const UND: u32 = 11;
    pub const SYS: u32 = 15;
}

/// A set of banked registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bank {
    Usr,
    Fiq,
    Irq,
    Svc,
    Mon,
    Abt,
    Hyp,
    Und,
}

impl Bank {
    /// The bank that a mode uses, by M\[3:0\]; `None` if there is no such mode.
    pub const fn of(mode: u32) -> Option<Bank> {
        Some(match mode {
            mode::USR | mode::SYS => Bank::Usr,
            mode::FIQ => Bank::Fiq,
            mode::IRQ => Bank::Irq,
            mode::SVC => Bank::Svc,
            mode::MON => Bank::Mon,
            mode::ABT => Bank::Abt,
            mode::HYP => Bank::Hyp,
            mode::UND => Bank::Und,
            _ => return None,
        })
    }

    const fn base(self) -> u32 {
        BANKS + BANK_BYTES * self as u32
    }

    const fn sp(self) -> u32 {
        self.base()
    }

    /// Hyp mode shares LR with user mode.
    const fn lr(self) -> u32 {
        match self {
            Bank::Hyp => Bank::Usr.base() + 4,
            _ => self.base() + 4,
        }
    }

    /// User and System mode have none: what System mode reads and writes instead (UNPREDICTABLE) is a register of its own.
    pub const fn spsr(self) -> u32 {
        self.base() + 8
    }
}

/// Where register `n` of the bank of mode `of` lies while the CPU is in mode `now`.
pub fn place(now: u32, of: u32, n: u32) -> u32 {
    let (Some(current), Some(wanted)) = (Bank::of(now), Bank::of(of)) else { return r(n) };
    match n {
        8..=12 if (current == Bank::Fiq) == (wanted == Bank::Fiq) => r(n),
        8..=12 if wanted == Bank::Fiq => R8_FIQ + 4 * (n - 8),
        8..=12 => R8_USR + 4 * (n - 8),
        13 if current.sp() != wanted.sp() => wanted.sp(),
        14 if current.lr() != wanted.lr() => wanted.lr(),
        _ => r(n),
    }
}

/// What a change from mode `from` to mode `to` moves: (register, where its value goes, where the new one comes from).
pub fn moves(from: u32, to: u32) -> impl Iterator<Item = (u32, u32, u32)> {
    (8..15).filter_map(move |n| {
        let new = place(from, to, n);
        // Seen from the other mode, the register of this one is in its bank.
        (new != r(n)).then(|| (r(n), place(to, from, n), new))
    })
}

/// Moves the banked registers and the key to another mode. The mode exists.
pub fn switch(state: &mut State, to: u32) {
    let key = state.u64_at(ir::state::KEY);
    for (core, old, new) in moves(key::mode(key), to) {
        state.set_u32(old, state.u32_at(core));
        state.set_u32(core, state.u32_at(new));
    }
    state.set_u64(ir::state::KEY, key & !key::MODE | (to as u64) << key::MODE_SHIFT);
}

/// Name of a mode in register dumps.
pub fn mode_name(mode: u32) -> &'static str {
    ["usr", "fiq", "irq", "svc", "???", "???", "mon", "abt", "???", "???", "hyp", "und", "???", "???", "???", "sys"]
        [mode as usize & 15]
}

/// A, I, F of CPSR.
pub const MASKS: u32 = cpsr::A | cpsr::I | cpsr::F;

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [u32; 9] =
        [mode::USR, mode::FIQ, mode::IRQ, mode::SVC, mode::MON, mode::ABT, mode::HYP, mode::UND, mode::SYS];

    /// Registers of all modes by name, the manual's figure B1-1.
    fn name(mode: u32, n: u32) -> (u32, u32) {
        let of = match (n, mode) {
            (_, mode::SYS) => mode::USR,
            (8..=12, mode::FIQ) => mode::FIQ,
            (8..=12, _) => mode::USR,
            (14, mode::HYP) => mode::USR,
            (13 | 14, m) => m,
            _ => mode::USR,
        };
        (of, n)
    }

    #[test]
    fn every_mode_sees_its_own_registers() {
        use std::collections::HashMap;
        let mut s = State::default();
        let mut model: HashMap<(u32, u32), u32> = HashMap::new();
        let mut x = 1u32;
        for round in 0..2000 {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let now = MODES[(x >> 16) as usize % MODES.len()];
            switch(&mut s, now);
            for n in 0..15 {
                assert_eq!(s.u32_at(r(n)), model.get(&name(now, n)).copied().unwrap_or(0), "r{n} of {now}");
                for of in MODES {
                    let want = model.get(&name(of, n)).copied().unwrap_or(0);
                    assert_eq!(s.u32_at(place(now, of, n)), want, "r{n} of {of} in {now}");
                }
                if x >> 8 & 1 << n != 0 {
                    let value = round * 16 + n;
                    s.set_u32(r(n), value);
                    model.insert(name(now, n), value);
                }
            }
        }
    }

    #[test]
    fn places_do_not_overlap() {
        assert!(R8_USR + 20 == R8_FIQ && R8_FIQ + 20 == BANKS && Bank::Und.base() + BANK_BYTES == ELR_HYP);
        assert_eq!(MODES.iter().filter_map(|&m| Bank::of(m)).count(), MODES.len());
        assert!(FLUSHES_UNFINISHED + 4 <= 1280, "system registers begin there");
    }
}
