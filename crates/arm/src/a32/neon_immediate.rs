//! Advanced SIMD, one register and a modified immediate. Arm ARM (DDI 0406C) A7.4.6.

use super::fp::V;
use super::vfp::expand_imm;
use crate::{Flow, Translator};
use ir::FpFmt;
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    /// VMOV, VMVN, VORR, VBIC (immediate)
    vmov_modified "1111 001a 1d00 0iii dddd cccc 0qo1 jjjj" (a, d, i, c, q, o, j);
}

/// `AdvSIMDExpandImm`: the 64-bit constant of `op`, `cmode` and the eight bits; `None` for the reserved combination.
fn adv_simd_expand_imm(op: bool, cmode: u32, imm8: u32) -> Option<u64> {
    let imm = imm8 as u64;
    let word = |w: u64| w << 32 | w;
    let half = |h: u64| word(h << 16 | h);
    Some(match cmode {
        0..8 => word(imm << (8 * (cmode >> 1))),
        8..12 => half(imm << (8 * (cmode >> 1 & 1))),
        12 => word(imm << 8 | 0xff),
        13 => word(imm << 16 | 0xffff),
        14 if !op => half(imm << 8 | imm),
        14 => (0..8).filter(|i| imm >> i & 1 != 0).fold(0, |mask, i| mask | 0xff << (8 * i)),
        _ if !op => word(expand_imm(FpFmt::F32, imm8)),
        _ => return None,
    })
}

impl Translator {
    #[allow(clippy::too_many_arguments)]
    fn vmov_modified(&mut self, a: u32, d: V, i: u32, c: u32, q: bool, o: bool, j: u32) -> Flow {
        let imm = adv_simd_expand_imm(o, c, a << 7 | i << 4 | j);
        let Some(imm) = imm.filter(|_| !self.no_neon(q, &[d])) else { return self.undefined() };
        let imm = if q { (imm as u128) << 64 | imm as u128 } else { imm as u128 };
        let all = if q { u128::MAX } else { u64::MAX as u128 };
        // Odd modes below 12 combine with the register; otherwise `op` inverts, but for the 64-bit mask.
        let r = match (c & 1 == 1 && c < 12, o) {
            (true, false) => {
                let (old, imm) = (self.vec(q, d), self.b.vconst(imm));
                self.b.vor(old, imm)
            }
            (true, true) => {
                let (old, imm) = (self.vec(q, d), self.b.vconst(imm));
                self.b.vandn(old, imm)
            }
            (false, true) if c < 14 => self.b.vconst(imm ^ all),
            (false, _) => self.b.vconst(imm),
        };
        self.set_vec(q, d, r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn immediates_expand_as_the_manual_says() {
        assert_eq!(adv_simd_expand_imm(false, 0b0010, 0xab), Some(0x0000_ab00_0000_ab00));
        assert_eq!(adv_simd_expand_imm(false, 0b1010, 0xab), Some(0xab00_ab00_ab00_ab00));
        assert_eq!(adv_simd_expand_imm(false, 0b1101, 0xab), Some(0x00ab_ffff_00ab_ffff));
        assert_eq!(adv_simd_expand_imm(true, 0b1110, 0x81), Some(0xff00_0000_0000_00ff));
        assert_eq!(adv_simd_expand_imm(false, 0b1111, 0x70), Some(0x3f80_0000_3f80_0000));
        assert_eq!(adv_simd_expand_imm(true, 0b1111, 0x70), None);
    }
}
