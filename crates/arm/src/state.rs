//! Where the registers lie in `ir::State`, and how CPSR, FPSCR's control bits and the region key are put together.
//!
//! **Reference.** Arm ARM (DDI 0406C) A2.3 (core registers), B1.3.3 (CPSR).
//!
//! **Invariants**: the Flags word (`ir::state::FLAGS`) holds C *inverted*: what a subtraction leaves on an x86 host, so that
//! CMP and SUBS need no fix-up. E, T and the IT state live in the key alone.

pub mod bank;
pub mod sys;

use crate::Features;
use ir::{Layout, Loc, State, flag};

/// R0 to R15; R15's place is only used by register views.
pub const R0: u32 = 16;
/// Q, the cumulative saturation bit (0 or 1).
pub const CPSR_Q: u32 = 80;
/// GE\[3:0\].
pub const CPSR_GE: u32 = 84;
/// AHP, DN, FZ, RMode, Len and Stride at their places in FPSCR.
pub const FPSCR_CONTROL: u32 = 88;
/// System mode: the virtual address of the page being executed.
pub const PAGE: u32 = 92;
/// FPSCR's N, Z, C and V in the layout of a flags word, C inverted.
pub const FPSCR_NZCV: u32 = 96;
pub const TPIDRURO: u32 = 100;
pub const TPIDRURW: u32 = 104;
/// What VMRS FPSID gives, set at reset.
pub const FPSID: u32 = 108;
/// 16 bytes, not zero: FPSCR.QC is set. Saturating instructions accumulate the bits in which their results are not exact.
pub const FPSCR_QC: u32 = 112;
/// FPSCR's cumulative exception bits: IDC, IXC, UFC, OFC, DZC, IOC.
pub const FPSCR_CUMULATIVE: u32 = 0x9f;
pub const FPSCR_FZ16: u32 = 1 << 19;
/// Len and Stride, of short vectors.
pub const FPSCR_VECTOR: u32 = 0x37_0000;
/// D0 to D31.
pub const D0: u32 = 128;

/// Offset of core register `n`.
#[inline]
pub const fn r(n: u32) -> u32 {
    R0 + 4 * n
}

pub const fn s(n: u32) -> u32 {
    D0 + 4 * n
}

pub const fn d(n: u32) -> u32 {
    D0 + 8 * n
}

pub const fn q(n: u32) -> u32 {
    D0 + 16 * n
}

/// Bits of the region key. Bits 31:0 are the address of the instruction, bit 0 is T.
pub mod key {
    pub const T: u64 = 1;
    pub const IT_SHIFT: u32 = 32;
    pub const IT: u64 = 0xff << IT_SHIFT;
    pub const E: u64 = 1 << 40;
    /// RMode, FZ, DN, AHP as in FPSCR.
    pub const RMODE_SHIFT: u32 = 41;
    pub const FZ: u64 = 1 << 43;
    pub const DN: u64 = 1 << 44;
    pub const AHP: u64 = 1 << 45;
    pub const FZ16: u64 = 1 << 46;
    /// FPSCR.Len.
    pub const LEN_SHIFT: u32 = 47;
    /// FPSCR.Stride.
    pub const STRIDE_SHIFT: u32 = 50;
    /// System mode: M\[3:0\] of CPSR; user mode is 0.
    pub const MODE_SHIFT: u32 = 52;
    pub const MODE: u64 = 15 << MODE_SHIFT;
    /// Secure state.
    pub const SECURE: u64 = 1 << 56;
    /// CPACR, NSACR or FPEXC forbid Advanced SIMD and floating point.
    pub const NO_FP: u64 = 1 << 57;
    /// SCTLR.A: every access must be aligned.
    pub const ALIGN: u64 = 1 << 58;
    /// The other one of two values of DACR is in force (see `Regime`).
    pub const DOMAINS: u64 = 1 << 59;
    /// The bits that stay the same across a branch.
    pub const STATIC: u64 = 0xf_ffff << 40;
    /// The part of `STATIC` that comes from FPSCR.
    pub const FPSCR: u64 = 0x7ff << 41;

    pub const fn pc(key: u64) -> u32 {
        let low = key as u32;
        // An interworking branch to A32 code with bit 1 set is UNPREDICTABLE: the bit is ignored.
        if low & 1 != 0 { low & !1 } else { low & !3 }
    }

    pub const fn thumb(key: u64) -> bool {
        key & T != 0
    }

    pub const fn it(key: u64) -> u8 {
        (key >> IT_SHIFT) as u8
    }

    /// M\[3:0\] of CPSR.
    pub const fn mode(key: u64) -> u32 {
        (key >> MODE_SHIFT) as u32 & 15
    }

    /// FPSCR's control bits as they appear in the key.
    pub const fn of_fpscr(fpscr: u32) -> u64 {
        (fpscr as u64 >> 22 & 3) << RMODE_SHIFT
            | (fpscr as u64 >> 24 & 1) << 43
            | (fpscr as u64 >> 25 & 1) << 44
            | (fpscr as u64 >> 26 & 1) << 45
            | (fpscr as u64 >> 19 & 1) << 46
            | (fpscr as u64 >> 16 & 7) << LEN_SHIFT
            | (fpscr as u64 >> 20 & 3) << STRIDE_SHIFT
    }

    /// The floating-point mode that a key asks for.
    pub const fn fp_mode(key: u64) -> ir::FpMode {
        ir::FpMode((key >> RMODE_SHIFT & 3) as u8 | ((key >> 43 & 7) as u8) << 3)
    }
}

/// CPSR bits.
pub mod cpsr {
    pub const N: u32 = 1 << 31;
    pub const Z: u32 = 1 << 30;
    pub const C: u32 = 1 << 29;
    pub const V: u32 = 1 << 28;
    pub const Q: u32 = 1 << 27;
    pub const E: u32 = 1 << 9;
    pub const A: u32 = 1 << 8;
    pub const I: u32 = 1 << 7;
    pub const F: u32 = 1 << 6;
    pub const T: u32 = 1 << 5;
    /// What a program in user mode can change by MSR or a signal handler's return.
    pub const USER: u32 = 0xf80f_0200;
    /// IT\[1:0\] at 26:25, IT\[7:2\] at 15:10.
    pub const IT: u32 = 0x0600_fc00;
    pub const M: u32 = 0x1f;
    pub const MODE_USER: u32 = 0x10;
}

/// A flags word (C inverted) as N, Z, C, V in bits 31:28.
pub fn nzcv_of_word(word: u32) -> u32 {
    (word & (flag::N | flag::Z)) << 16 | ((word >> 8 & 1) ^ 1) << 29 | (word & 1) << 28
}

/// The inverse of `nzcv_of_word`.
pub fn word_of_nzcv(nzcv: u32) -> u32 {
    nzcv >> 16 & (flag::N | flag::Z) | ((nzcv >> 29 & 1) ^ 1) << 8 | nzcv >> 28 & 1
}

/// The whole CPSR.
pub fn read_cpsr(state: &State) -> u32 {
    let key = state.u64_at(ir::state::KEY);
    let it = key::it(key) as u32;
    nzcv_of_word(state.u32_at(ir::state::FLAGS))
        | (state.u32_at(CPSR_Q) & 1) << 27
        | (it & 3) << 25
        | (it >> 2) << 10
        | (state.u32_at(CPSR_GE) & 15) << 16
        | if key & key::E != 0 { cpsr::E } else { 0 }
        | if key::thumb(key) { cpsr::T } else { 0 }
        | state.u32_at(bank::CPSR_MASKS) & bank::MASKS
        | cpsr::MODE_USER
        | key::mode(key)
}

/// Writes all of CPSR but the mode and the masks; the key keeps its address.
pub fn write_cpsr(state: &mut State, value: u32) {
    state.set_u32(ir::state::FLAGS, word_of_nzcv(value));
    state.set_u32(CPSR_Q, value >> 27 & 1);
    state.set_u32(CPSR_GE, value >> 16 & 15);
    let old = state.u64_at(ir::state::KEY);
    let it = (value >> 25 & 3 | (value >> 10 & 0x3f) << 2) as u64;
    let thumb = value & cpsr::T != 0;
    let pc = key::pc(old) as u64 & if thumb { !1 } else { !3 };
    let mut key = pc | old & key::STATIC & !key::E | thumb as u64;
    if thumb {
        key |= it << key::IT_SHIFT;
    }
    if value & cpsr::E != 0 {
        key |= key::E;
    }
    state.set_u64(ir::state::KEY, key);
}

/// The control bits of FPSCR that a model has.
pub fn fpscr_control(features: Features) -> u32 {
    // AHP, DN, FZ, RMode.
    0x07c0_0000 | FPSCR_VECTOR | if features.has(Features::FP16) { FPSCR_FZ16 } else { 0 }
}

/// The whole FPSCR.
pub fn read_fpscr(state: &State) -> u32 {
    nzcv_of_word(state.u32_at(FPSCR_NZCV))
        | if state.u128_at(FPSCR_QC) != 0 { 1 << 27 } else { 0 }
        | state.u32_at(FPSCR_CONTROL)
        | state.u32_at(ir::state::FP_FLAGS) & FPSCR_CUMULATIVE
}

/// Writes the bits of FPSCR that a model has, and the key's copy of the control bits.
pub fn write_fpscr(state: &mut State, features: Features, value: u32) {
    let control = value & fpscr_control(features);
    state.set_u32(FPSCR_NZCV, word_of_nzcv(value));
    state.set_u128(FPSCR_QC, if features.has(Features::NEON) { value as u128 >> 27 & 1 } else { 0 });
    state.set_u32(FPSCR_CONTROL, control);
    state.set_u32(ir::state::FP_FLAGS, value & FPSCR_CUMULATIVE);
    let old = state.u64_at(ir::state::KEY);
    state.set_u64(ir::state::KEY, old & !key::FPSCR | key::of_fpscr(control));
}

/// The address of the next instruction.
#[inline]
pub fn read_pc(state: &State) -> u32 {
    key::pc(state.u64_at(ir::state::KEY))
}

/// Steps over the current instruction of `length` bytes.
pub fn advance(state: &mut State, length: u32) {
    let key = state.u64_at(ir::state::KEY);
    let pc = (key as u32).wrapping_add(length) as u64;
    let it = it_advance(key::it(key)) as u64;
    state.set_u64(ir::state::KEY, key & key::STATIC | pc | it << key::IT_SHIFT);
}

/// ITAdvance().
pub fn it_advance(it: u8) -> u8 {
    if it & 7 == 0 { 0 } else { it & 0xe0 | it << 1 & 0x1f }
}

/// Moves to another address in the same instruction set.
#[inline]
pub fn write_pc(state: &mut State, pc: u32) {
    let old = state.u64_at(ir::state::KEY);
    let pc = if key::thumb(old) { pc | 1 } else { pc & !3 };
    state.set_u64(ir::state::KEY, old & !0xffff_ffff | pc as u64);
}

/// Continues at an address whose bit 0 chooses the instruction set, outside of any IT block: entry points, signal handlers.
pub fn interwork(state: &mut State, address: u32) {
    let old = state.u64_at(ir::state::KEY);
    state.set_u64(ir::state::KEY, old & key::STATIC | address as u64);
}

const NAMES: [&str; 16] =
    ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "sp", "lr", "pc"];

const D_NAMES: [&str; 32] = [
    "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9", "d10", "d11", "d12", "d13", "d14", "d15", "d16", "d17",
    "d18", "d19", "d20", "d21", "d22", "d23", "d24", "d25", "d26", "d27", "d28", "d29", "d30", "d31",
];

/// Name of doubleword register `n`.
pub fn d_name(n: u32) -> &'static str {
    D_NAMES[n as usize & 31]
}

/// Name of core register `n`.
pub fn register_name(n: u32) -> &'static str {
    NAMES[n as usize & 15]
}

/// What passes and back ends know of the state.
pub fn layout() -> Layout {
    let loc = |n: u32| Loc { offset: r(n), size: 4 };
    let mut names: Vec<_> = (0..16).map(|n| (loc(n), NAMES[n as usize])).collect();
    names.extend((0..32).map(|n| (Loc { offset: d(n), size: 8 }, D_NAMES[n as usize])));
    for (offset, name) in [
        (CPSR_Q, "q"),
        (CPSR_GE, "ge"),
        (FPSCR_CONTROL, "fpscr"),
        (FPSCR_NZCV, "fpnzcv"),
        (TPIDRURO, "tpidruro"),
        (TPIDRURW, "tpidrurw"),
        (ir::state::FLAGS, "nzcv"),
    ] {
        names.push((Loc { offset, size: 4 }, name));
    }
    names.push((Loc { offset: FPSCR_QC, size: 16 }, "qc"));
    Layout { pinned: [0, 1, 2, 3, 13, 14, 4, 5, 6, 7].map(loc).to_vec(), names, address_bits: 32, page: Some(Loc { offset: PAGE, size: 4 }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpsr_survives_a_round_trip() {
        let mut s = State::default();
        s.set_u64(ir::state::KEY, 0x8000);
        for value in [0xf80f_fe30u32, 0x2000_0010, 0x8000_0030, 0x0600_fc30, 0x0000_0210] {
            write_cpsr(&mut s, value);
            assert_eq!(read_cpsr(&s), value, "{value:#x}");
            assert_eq!(read_pc(&s), 0x8000);
        }
    }

    #[test]
    fn fpscr_control_bits_reach_the_key_and_the_mode() {
        let k = key::of_fpscr(0x07ff_0000);
        assert_eq!(k, key::FPSCR);
        assert_eq!(key::fp_mode(k).0, 3 | 1 << 3 | 1 << 4 | 1 << 5);
    }
}
