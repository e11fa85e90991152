//! Floating point and Advanced SIMD: which rows, words that stay within the harness's memory, and operands that matter.

use crate::random::Random;
use arm::{Features, Flow, Translator};
use spec::decode::Row;

type ArmRow = &'static Row<Translator, Flow>;

/// Rows of the floating-point and Advanced SIMD chapters, in their A32 form.
pub fn rows() -> Vec<ArmRow> {
    let chapters = arm::a32::CONDITIONAL.iter().chain(arm::a32::UNCONDITIONAL);
    let scalar = chapters.flat_map(|c| c.iter()).filter(|r| is_fp(r));
    let vector = arm::a32::neon::TABLES.iter().flat_map(|t| t.iter()).flat_map(|c| c.iter());
    scalar.chain(vector).collect()
}

/// Whether a row of the general tables is one of ours: the coprocessor space of 8 to 13, the element loads.
pub fn is_fp(row: ArmRow) -> bool {
    let first = row.name.trim_start_matches("t32_");
    first.starts_with('v')
}

/// Core registers that hold addresses in the middle of the data, and registers that hold numbers.
const BASES: [u32; 4] = [0, 1, 2, 3];
const NUMBERS: [u32; 6] = [4, 5, 6, 7, 8, 9];

fn put(w: u32, shift: u32, value: u32) -> u32 {
    w & !(15 << shift) | value << shift
}

/// What the manual calls UNPREDICTABLE and we take as UNDEFINED; QEMU does something of its own.
fn unpredictable(name: &str, w: u32) -> bool {
    let field = |shift: u32, mask: u32| w >> shift & mask;
    let d = field(22, 1) << 4 | field(12, 15);
    let m = field(5, 1) << 4 | field(0, 15);
    match name {
        // More fraction bits than bits.
        "vcvt_from_fixed" | "vcvt_to_fixed" => field(7, 1) == 0 && (field(0, 15) << 1 | field(5, 1)) > 16,
        // S31 and a register after it.
        "vmov_core_ss" => m == 0b11111,
        // Both results in one register.
        "vtrn" | "vuzp" | "vzip" | "vswp" => d == m,
        // Registers past D31.
        "vld_all_lanes" | "vld_lane" | "vst_lane" => d + 2 * field(8, 3) + field(5, 1) >= 31 && d >= 24,
        "vld_multiple" | "vst_multiple" => d >= 26,
        _ => false,
    }
}

/// Where QEMU 10.0.2 does not ask whether the model has the instruction.
fn unchecked(name: &str, w: u32, features: Features) -> bool {
    let half_transfer = matches!(name, "vldr" | "vstr") && w >> 8 & 3 == 1 && !features.has(Features::FP16);
    let fused = matches!(name, "vfma_vec" | "vfms_vec") && !features.has(Features::VFP4);
    let identification = name == "vmsr" && w >> 16 & 15 == 0 && !features.has(Features::V7);
    half_transfer || fused || identification
}

/// A random word of a row, or of the space of all rows; and the name of the row that it turned out to be of.
pub fn word(row: ArmRow, rng: &mut Random, features: Features) -> (&'static str, u32) {
    loop {
        let w = if rng.percent(5) {
            any_word(rng)
        } else {
            let d = &row.diagram;
            let w = rng.u32() & !d.mask | d.value;
            if d.mask >> 28 == 0 { put(w, 28, 14) } else { w }
        };
        let w = within_reach(w, rng);
        let name = arm::a32::find(w).map_or("unallocated", |r| r.name);
        if !unpredictable(name, w) && !unchecked(name, w, features) {
            return (name, w);
        }
    }
}

/// Any word of the floating-point and Advanced SIMD spaces.
fn any_word(rng: &mut Random) -> u32 {
    let low = rng.u32() & 0x00ff_ffff;
    match rng.below(8) {
        0..=3 => (0xf2 + rng.below(2)) << 24 | low,
        // Bit 20 set: memory hints.
        4 => 0xf400_0000 | low & !0x0010_0000,
        5 | 6 => rng.pick(&[0xec, 0xed, 0xee, 0xee]) << 24 | low & !0xf00 | (9 + rng.below(3)) << 8,
        _ => rng.pick(&[0xfc, 0xfd, 0xfe, 0xfe]) << 24 | low & !0xf00 | (8 + rng.below(6)) << 8,
    }
}

/// The word with core registers that keep it within the harness's memory.
fn within_reach(w: u32, rng: &mut Random) -> u32 {
    match w >> 24 & 15 {
        // Element and structure load/store: Rn, Rm.
        4 if w >> 28 == 15 => {
            let w = put(w, 16, rng.pick(&BASES));
            put(w, 0, rng.pick(&[4, 5, 6, 7, 13, 13, 15, 15]))
        }
        // Transfers of two core registers.
        12 if w & 0x00e0_0000 == 0x0040_0000 && w >> 28 != 15 => {
            let w = put(w, 12, rng.pick(&NUMBERS));
            put(w, 16, rng.pick(&NUMBERS))
        }
        12 | 13 if w >> 28 != 15 => {
            let w = put(w, 16, rng.pick(&BASES));
            // Long lists are mostly impossible.
            if w & 0x0100_0000 == 0 || w & 0x0020_0000 != 0 { w & !0xc0 } else { w }
        }
        // Flags to APSR, sometimes.
        14 if w & 0x0ff0_0f10 == 0x0ef0_0a10 && rng.percent(30) => w & !0x000f_f000 | 0x0001_f000,
        14 if w & 0x10 != 0 && w >> 28 != 15 => put(w, 12, rng.pick(&NUMBERS)),
        _ => w,
    }
}

/// The T32 form of an A32 word.
pub fn t32_form(w: u32) -> u32 {
    match w >> 24 {
        0xf2 | 0xf3 => 0xef00_0000 | (w >> 24 & 1) << 28 | w & 0x00ff_ffff,
        0xf4 => 0xf900_0000 | w & 0x00ff_ffff,
        _ => w,
    }
}

/// Core registers: see `BASES`.
pub fn core(rng: &mut Random, n: usize, middle: u32) -> u32 {
    if n < 4 {
        // 32-byte alignment, mostly.
        let offset = rng.below(32) * 32;
        return middle + offset + if rng.percent(30) { rng.below(32) } else { 0 };
    }
    match rng.below(4) {
        0 => rng.pick(&[0, 1, 0x7fc8_ffff, 0x8000_0000, 0xffc8_ffff]),
        1 => rng.below(256),
        // No short vectors by VMSR, see `fpscr`.
        _ => rng.u32() & !0x37_0000,
    }
}

/// FPSCR before a case of these rows. Short vectors have stride 1: of singles with stride 2 QEMU takes every fourth. Of doubles
/// with one operand QEMU writes the register after the source's.
pub fn fpscr(rng: &mut Random, names: &[&str]) -> u32 {
    let mut v = rng.u32() & 0xf000_0000;
    if rng.percent(3) && !names.iter().any(|n| matches!(*n, "vabs" | "vneg" | "vsqrt" | "vmov_reg")) {
        v |= rng.u32() & 0x7_0000;
    }
    if rng.percent(70) {
        // AHP, DN, FZ, RMode, FZ16.
        v |= rng.u32() & 0x07c8_0000;
    }
    if rng.percent(10) {
        v |= rng.u32() & 0x0800_009f;
    }
    v
}

/// A number of a format with so many exponent and fraction bits.
fn float(rng: &mut Random, exp_bits: u32, frac_bits: u32) -> u64 {
    let max_exp = (1u64 << exp_bits) - 1;
    let bias = max_exp >> 1;
    let frac_mask = (1u64 << frac_bits) - 1;
    let sign = (rng.u32() as u64 & 1) << (exp_bits + frac_bits);
    let near = |rng: &mut Random, at: u64| (at + rng.below(5) as u64).saturating_sub(2).min(max_exp);
    let exp = match rng.below(12) {
        0 => 0,
        1 => max_exp,
        2 => near(rng, 1),
        3 => near(rng, max_exp),
        4 => near(rng, bias + 31),
        5 => near(rng, bias + 15),
        6 => near(rng, bias + frac_bits as u64),
        7 => near(rng, bias / 2),
        8 => rng.u64() & max_exp,
        _ => near(rng, bias),
    };
    let frac = match rng.below(8) {
        0 | 1 => 0,
        2 => 1,
        3 => frac_mask,
        4 => 1 << (frac_bits - 1),
        5 => (1 << (frac_bits - 1)) + rng.below(4) as u64,
        // Few bits: exact results, ties.
        6 => (rng.u64() & frac_mask) & !(frac_mask >> rng.below(12)),
        _ => rng.u64() & frac_mask,
    };
    sign | exp << frac_bits | frac & frac_mask
}

/// A doubleword: a double, two singles, four halves, or integers of each size at their limits.
pub fn double(rng: &mut Random) -> u64 {
    let lanes = |bits: u32, rng: &mut Random, f: &mut dyn FnMut(&mut Random) -> u64| {
        let mask = u64::MAX >> (64 - bits);
        (0..64 / bits).fold(0, |v, i| v | (f(rng) & mask) << (bits * i))
    };
    let limits = |bits: u32| {
        move |r: &mut Random| {
            let top = 1u64 << (bits - 1);
            match r.below(8) {
                0 => 0,
                1 => top,
                2 => top - 1,
                3 => u64::MAX,
                4 => r.below(80) as u64,
                5 => (r.below(80) as u64).wrapping_neg(),
                _ => r.u64(),
            }
        }
    };
    match rng.below(10) {
        0 => rng.u64(),
        1 | 2 => float(rng, 11, 52),
        3..=5 => lanes(32, rng, &mut |r| float(r, 8, 23)),
        6 => lanes(16, rng, &mut |r| float(r, 5, 10)),
        7 => lanes(8, rng, &mut limits(8)),
        8 => lanes(16, rng, &mut limits(16)),
        _ => {
            if rng.percent(50) {
                lanes(32, rng, &mut limits(32))
            } else {
                limits(64)(rng)
            }
        }
    }
}
