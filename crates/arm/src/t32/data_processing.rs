//! Data processing of T32.
//!
//! **Reference.** Arm ARM (DDI 0406C) A6.3.1, A6.3.3, A6.3.11, A6.3.12, A6.3.15; ThumbExpandImm_C: A6.3.2.
//!
//! With the PC as destination and S set, AND, EOR, ADD and SUB are TST, TEQ, CMN and CMP.

use crate::a32::data_processing::{Alu, Operand2, Shift};
use crate::translate::{Flow, Translator};

spec::insns! { pub ROWS: Translator => Flow;
    /// AND (register), A8.8.14
    t32_and_reg "1110101 0000 s nnnn 0 iii dddd ii tt mmmm" (s, n, d, i, t, m);
    /// TST (register), A8.8.241
    t32_tst_reg "1110101 0000 1 nnnn 0 iii 1111 ii tt mmmm" (n, i, t, m);
    /// BIC (register), A8.8.22
    t32_bic_reg "1110101 0001 s nnnn 0 iii dddd ii tt mmmm" (s, n, d, i, t, m);
    /// ORR (register), A8.8.123
    t32_orr_reg "1110101 0010 s nnnn 0 iii dddd ii tt mmmm" (s, n, d, i, t, m);
    /// MOV, LSL, LSR, ASR, ROR, RRX (immediate), A8.8.103
    t32_mov_reg "1110101 0010 s 1111 0 iii dddd ii tt mmmm" (s, d, i, t, m);
    /// ORN (register), A8.8.121
    t32_orn_reg "1110101 0011 s nnnn 0 iii dddd ii tt mmmm" (s, n, d, i, t, m);
    /// MVN (register), A8.8.116
    t32_mvn_reg "1110101 0011 s 1111 0 iii dddd ii tt mmmm" (s, d, i, t, m);
    /// EOR (register), A8.8.47
    t32_eor_reg "1110101 0100 s nnnn 0 iii dddd ii tt mmmm" (s, n, d, i, t, m);
    /// TEQ (register), A8.8.238
    t32_teq_reg "1110101 0100 1 nnnn 0 iii 1111 ii tt mmmm" (n, i, t, m);
    /// PKHBT, PKHTB, A8.8.125
    pkh "1110101 0110 0 nnnn 0 iii dddd ii t0 mmmm" (n, d, i, t, m);
    /// ADD (register), A8.8.6
    t32_add_reg "1110101 1000 s nnnn 0 iii dddd ii tt mmmm" (s, n, d, i, t, m);
    /// CMN (register), A8.8.35
    t32_cmn_reg "1110101 1000 1 nnnn 0 iii 1111 ii tt mmmm" (n, i, t, m);
    /// ADC (register), A8.8.2
    t32_adc_reg "1110101 1010 s nnnn 0 iii dddd ii tt mmmm" (s, n, d, i, t, m);
    /// SBC (register), A8.8.162
    t32_sbc_reg "1110101 1011 s nnnn 0 iii dddd ii tt mmmm" (s, n, d, i, t, m);
    /// SUB (register), A8.8.223
    t32_sub_reg "1110101 1101 s nnnn 0 iii dddd ii tt mmmm" (s, n, d, i, t, m);
    /// CMP (register), A8.8.38
    t32_cmp_reg "1110101 1101 1 nnnn 0 iii 1111 ii tt mmmm" (n, i, t, m);
    /// RSB (register), A8.8.153
    t32_rsb_reg "1110101 1110 s nnnn 0 iii dddd ii tt mmmm" (s, n, d, i, t, m);

    /// AND (immediate), A8.8.13
    t32_and_imm "11110 i 0 0000 s nnnn 0 iii dddd iiiiiiii" (s, n, d, i);
    /// TST (immediate), A8.8.240
    t32_tst_imm "11110 i 0 0000 1 nnnn 0 iii 1111 iiiiiiii" (n, i);
    /// BIC (immediate), A8.8.21
    t32_bic_imm "11110 i 0 0001 s nnnn 0 iii dddd iiiiiiii" (s, n, d, i);
    /// ORR (immediate), A8.8.122
    t32_orr_imm "11110 i 0 0010 s nnnn 0 iii dddd iiiiiiii" (s, n, d, i);
    /// MOV (immediate), A8.8.102
    t32_mov_imm "11110 i 0 0010 s 1111 0 iii dddd iiiiiiii" (s, d, i);
    /// ORN (immediate), A8.8.120
    t32_orn_imm "11110 i 0 0011 s nnnn 0 iii dddd iiiiiiii" (s, n, d, i);
    /// MVN (immediate), A8.8.115
    t32_mvn_imm "11110 i 0 0011 s 1111 0 iii dddd iiiiiiii" (s, d, i);
    /// EOR (immediate), A8.8.46
    t32_eor_imm "11110 i 0 0100 s nnnn 0 iii dddd iiiiiiii" (s, n, d, i);
    /// TEQ (immediate), A8.8.237
    t32_teq_imm "11110 i 0 0100 1 nnnn 0 iii 1111 iiiiiiii" (n, i);
    /// ADD (immediate), T3, A8.8.4
    t32_add_imm "11110 i 0 1000 s nnnn 0 iii dddd iiiiiiii" (s, n, d, i);
    /// CMN (immediate), A8.8.34
    t32_cmn_imm "11110 i 0 1000 1 nnnn 0 iii 1111 iiiiiiii" (n, i);
    /// ADC (immediate), A8.8.1
    t32_adc_imm "11110 i 0 1010 s nnnn 0 iii dddd iiiiiiii" (s, n, d, i);
    /// SBC (immediate), A8.8.161
    t32_sbc_imm "11110 i 0 1011 s nnnn 0 iii dddd iiiiiiii" (s, n, d, i);
    /// SUB (immediate), T3, A8.8.221
    t32_sub_imm "11110 i 0 1101 s nnnn 0 iii dddd iiiiiiii" (s, n, d, i);
    /// CMP (immediate), A8.8.37
    t32_cmp_imm "11110 i 0 1101 1 nnnn 0 iii 1111 iiiiiiii" (n, i);
    /// RSB (immediate), A8.8.152
    t32_rsb_imm "11110 i 0 1110 s nnnn 0 iii dddd iiiiiiii" (s, n, d, i);

    /// ADD (immediate), T4; ADR, T3
    t32_addw "11110 i 10 0000 nnnn 0 iii dddd iiiiiiii" (n, d, i);
    /// MOVW: MOV (immediate), T3, A8.8.102
    t32_movw "11110 i 10 0100 jjjj 0 iii dddd iiiiiiii" (d, j, i);
    /// SUB (immediate), T4; ADR, T2
    t32_subw "11110 i 10 1010 nnnn 0 iii dddd iiiiiiii" (n, d, i);
    /// MOVT, A8.8.106
    t32_movt "11110 i 10 1100 jjjj 0 iii dddd iiiiiiii" (d, j, i);
    /// SSAT, A8.8.193
    ssat "11110 0 11 00t0 nnnn 0 iii dddd ii 0 bbbbb" (b, d, i, t, n);
    /// SSAT16, A8.8.194
    ssat16 "11110 0 11 0010 nnnn 0 000 dddd 00 00 bbbb" (b, d, n);
    /// SBFX, A8.8.164
    sbfx "11110 0 11 0100 nnnn 0 lll dddd ll 0 wwwww" (w, d, l, n);
    /// BFC, BFI, A8.8.19
    bfi "11110 0 11 0110 nnnn 0 lll dddd ll 0 hhhhh" (h, d, l, n);
    /// USAT, A8.8.266
    usat "11110 0 11 10t0 nnnn 0 iii dddd ii 0 bbbbb" (b, d, i, t, n);
    /// USAT16, A8.8.267
    usat16 "11110 0 11 1010 nnnn 0 000 dddd 00 00 bbbb" (b, d, n);
    /// UBFX, A8.8.246
    ubfx "11110 0 11 1100 nnnn 0 lll dddd ll 0 wwwww" (w, d, l, n);

    /// LSL, LSR, ASR, ROR (register), A8.8.95
    t32_shift_reg "1111 1010 0 tt s nnnn 1111 dddd 0000 mmmm" (t, s, n, d, m);
    /// SXTAH, SXTH, A8.8.232
    sxtah "1111 1010 0000 nnnn 1111 dddd 10 rr mmmm" (n, d, r, m);
    /// UXTAH, UXTH, A8.8.273
    uxtah "1111 1010 0001 nnnn 1111 dddd 10 rr mmmm" (n, d, r, m);
    /// SXTAB16, SXTB16, A8.8.231
    sxtab16 "1111 1010 0010 nnnn 1111 dddd 10 rr mmmm" (n, d, r, m);
    /// UXTAB16, UXTB16, A8.8.272
    uxtab16 "1111 1010 0011 nnnn 1111 dddd 10 rr mmmm" (n, d, r, m);
    /// SXTAB, SXTB, A8.8.230
    sxtab "1111 1010 0100 nnnn 1111 dddd 10 rr mmmm" (n, d, r, m);
    /// UXTAB, UXTB, A8.8.271
    uxtab "1111 1010 0101 nnnn 1111 dddd 10 rr mmmm" (n, d, r, m);

    /// QADD, A8.8.134
    qadd "1111 1010 1000 nnnn 1111 dddd 1000 mmmm" (n, d, m);
    /// QDADD, A8.8.138
    qdadd "1111 1010 1000 nnnn 1111 dddd 1001 mmmm" (n, d, m);
    /// QSUB, A8.8.141
    qsub "1111 1010 1000 nnnn 1111 dddd 1010 mmmm" (n, d, m);
    /// QDSUB, A8.8.139
    qdsub "1111 1010 1000 nnnn 1111 dddd 1011 mmmm" (n, d, m);
    /// REV, A8.8.145
    rev "1111 1010 1001 ---- 1111 dddd 1000 mmmm" (d, m);
    /// REV16, A8.8.146
    rev16 "1111 1010 1001 ---- 1111 dddd 1001 mmmm" (d, m);
    /// RBIT, A8.8.144
    rbit "1111 1010 1001 ---- 1111 dddd 1010 mmmm" (d, m);
    /// REVSH, A8.8.147
    revsh "1111 1010 1001 ---- 1111 dddd 1011 mmmm" (d, m);
    /// CLZ, A8.8.33
    clz "1111 1010 1011 ---- 1111 dddd 1000 mmmm" (d, m);
    /// CRC32
    crc32 "1111 1010 1100 nnnn 1111 dddd 10 zz mmmm" (z, n, d, m);
    /// CRC32C
    crc32c "1111 1010 1101 nnnn 1111 dddd 10 zz mmmm" (z, n, d, m);
}

macro_rules! three_operands {
    ($($alu:ident $reg:ident $imm:ident;)*) => {
        impl Translator {$(
            #[allow(clippy::too_many_arguments)]
            fn $reg(&mut self, s: bool, n: u32, d: u32, i: u32, t: Shift, m: u32) -> Flow {
                let operand = self.shifted_reg(m, t, i, s);
                let n = self.reg(n);
                self.alu(Alu::$alu, s, d, n, operand)
            }

            fn $imm(&mut self, s: bool, n: u32, d: u32, i: u32) -> Flow {
                let operand = self.thumb_expand_imm_c(i);
                let n = self.reg(n);
                self.alu(Alu::$alu, s, d, n, operand)
            }
        )*}
    };
}

three_operands! {
    And t32_and_reg t32_and_imm;
    Bic t32_bic_reg t32_bic_imm;
    Orr t32_orr_reg t32_orr_imm;
    Orn t32_orn_reg t32_orn_imm;
    Eor t32_eor_reg t32_eor_imm;
    Add t32_add_reg t32_add_imm;
    Adc t32_adc_reg t32_adc_imm;
    Sbc t32_sbc_reg t32_sbc_imm;
    Sub t32_sub_reg t32_sub_imm;
    Rsb t32_rsb_reg t32_rsb_imm;
}

macro_rules! comparisons {
    ($($alu:ident $reg:ident $imm:ident;)*) => {
        impl Translator {$(
            fn $reg(&mut self, n: u32, i: u32, t: Shift, m: u32) -> Flow {
                let operand = self.shifted_reg(m, t, i, true);
                let n = self.reg(n);
                self.alu(Alu::$alu, true, 0, n, operand)
            }

            fn $imm(&mut self, n: u32, i: u32) -> Flow {
                let operand = self.thumb_expand_imm_c(i);
                let n = self.reg(n);
                self.alu(Alu::$alu, true, 0, n, operand)
            }
        )*}
    };
}

comparisons! {
    Tst t32_tst_reg t32_tst_imm;
    Teq t32_teq_reg t32_teq_imm;
    Cmn t32_cmn_reg t32_cmn_imm;
    Cmp t32_cmp_reg t32_cmp_imm;
}

macro_rules! moves {
    ($($alu:ident $reg:ident $imm:ident;)*) => {
        impl Translator {$(
            fn $reg(&mut self, s: bool, d: u32, i: u32, t: Shift, m: u32) -> Flow {
                let operand = self.shifted_reg(m, t, i, s);
                self.alu(Alu::$alu, s, d, operand.0, operand)
            }

            fn $imm(&mut self, s: bool, d: u32, i: u32) -> Flow {
                let operand = self.thumb_expand_imm_c(i);
                self.alu(Alu::$alu, s, d, operand.0, operand)
            }
        )*}
    };
}

moves! {
    Mov t32_mov_reg t32_mov_imm;
    Mvn t32_mvn_reg t32_mvn_imm;
}

impl Translator {
    /// ThumbExpandImm_C.
    pub fn thumb_expand_imm_c(&mut self, i: u32) -> Operand2 {
        let byte = i & 0xff;
        if i >> 10 == 0 {
            let value = match i >> 8 {
                0 => byte,
                1 => byte << 16 | byte,
                2 => byte << 24 | byte << 8,
                _ => byte * 0x0101_0101,
            };
            return (self.imm(value), None);
        }
        let value = (0x80 | byte & 0x7f).rotate_right(i >> 7);
        let carry = self.imm(value >> 31);
        (self.imm(value), Some(carry))
    }

    fn t32_addw(&mut self, n: u32, d: u32, i: u32) -> Flow {
        let n = self.base(n);
        let v = self.b.add_imm(n, i as u64);
        self.write(d, v)
    }

    fn t32_subw(&mut self, n: u32, d: u32, i: u32) -> Flow {
        let n = self.base(n);
        let v = self.b.add_imm(n, i.wrapping_neg() as i32 as u64);
        self.write(d, v)
    }

    fn t32_movw(&mut self, d: u32, j: u32, i: u32) -> Flow {
        self.move_wide(d, j << 12 | i)
    }

    fn t32_movt(&mut self, d: u32, j: u32, i: u32) -> Flow {
        self.move_top(d, j << 12 | i)
    }

    fn t32_shift_reg(&mut self, t: Shift, s: bool, n: u32, d: u32, m: u32) -> Flow {
        let operand = self.reg_shifted_reg(n, t, m, s);
        self.alu(Alu::Mov, s, d, operand.0, operand)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Machine;

    /// One instruction on r1, r2; then r0 and the flags.
    fn check(code: [u16; 2], r1: u32, r2: u32, want: u32, flags: &str) {
        let m = Machine::thumb(&code).set_r(1, r1).set_r(2, r2).run();
        assert_eq!((m.r(0), m.nzcv().as_str()), (want, flags), "{code:x?}");
    }

    #[test]
    fn expanded_immediates() {
        check([0xf04f, 0x10ab], 0, 0, 0x00ab_00ab, "nzcv"); // mov.w r0, #0x00ab00ab
        check([0xf04f, 0x20ab], 0, 0, 0xab00_ab00, "nzcv");
        check([0xf04f, 0x30ab], 0, 0, 0xabab_abab, "nzcv");
        check([0xf05f, 0x4000], 0, 0, 0x8000_0000, "NzCv"); // movs.w r0, #0x80000000
        check([0xf001, 0x00ff], 0x1234, 0, 0x34, "nzcv"); // and r0, r1, #255
        check([0xf241, 0x2034], 0, 0, 0x1234, "nzcv"); // movw r0, #0x1234
    }

    #[test]
    fn registers_and_shifts() {
        check([0xeb11, 0x0042], 1, 3, 7, "nzcv"); // adds.w r0, r1, r2, lsl #1
        check([0xea61, 0x0002], 1, 0xffff_fff0, 0xf, "nzcv"); // orn r0, r1, r2
        check([0xfa11, 0xf002], 1, 4, 16, "nzcv"); // lsls.w r0, r1, r2
        check([0xebb1, 0x0f02], 5, 5, 0, "nZCv"); // cmp.w r1, r2
        check([0xfab1, 0xf081], 0x00ff_0000, 0, 8, "nzcv"); // clz r0, r1
        check([0xf3c1, 0x1007], 0xab0, 0, 0xab, "nzcv"); // ubfx r0, r1, #4, #8
        check([0xfa5f, 0xf082], 0, 0x1ff, 0xff, "nzcv"); // uxtb.w r0, r2
    }
}
