//! The T16 instruction set.
//!
//! **Reference.** Arm ARM (DDI 0406C) A6.2. Outside of an IT block data processing sets the flags, inside it does not.

use crate::a32::data_processing::{Alu, Operand2, Shift};
use crate::a32::load_store::Index;
use crate::features::Features;
use crate::translate::{Flow, Translator};
use ir::build::Hint;
use ir::{MemOp, Val};
use spec::decode::{Decoder, Row};
use std::sync::LazyLock;

spec::insns! { pub ROWS: Translator => Flow;
    /// LSL (immediate), A8.8.94; with 0, MOV (register), T2
    t16_lsl_imm "000 00 iiiii mmm ddd" (i, m, d);
    /// LSR (immediate), A8.8.96
    t16_lsr_imm "000 01 iiiii mmm ddd" (i, m, d);
    /// ASR (immediate), A8.8.16
    t16_asr_imm "000 10 iiiii mmm ddd" (i, m, d);
    /// ADD (register), A8.8.6
    t16_add_reg "000 11 00 mmm nnn ddd" (m, n, d);
    /// SUB (register), A8.8.223
    t16_sub_reg "000 11 01 mmm nnn ddd" (m, n, d);
    /// ADD (immediate), T1, A8.8.4
    t16_add_imm3 "000 11 10 iii nnn ddd" (i, n, d);
    /// SUB (immediate), T1, A8.8.221
    t16_sub_imm3 "000 11 11 iii nnn ddd" (i, n, d);
    /// MOV (immediate), A8.8.102
    t16_mov_imm "001 00 ddd iiiiiiii" (d, i);
    /// CMP (immediate), A8.8.37
    t16_cmp_imm "001 01 nnn iiiiiiii" (n, i);
    /// ADD (immediate), T2
    t16_add_imm8 "001 10 ddd iiiiiiii" (d, i);
    /// SUB (immediate), T2
    t16_sub_imm8 "001 11 ddd iiiiiiii" (d, i);

    /// AND (register), A8.8.14
    t16_and "010000 0000 mmm ddd" (m, d);
    /// EOR (register), A8.8.47
    t16_eor "010000 0001 mmm ddd" (m, d);
    /// LSL (register), A8.8.95
    t16_lsl_reg "010000 0010 mmm ddd" (m, d);
    /// LSR (register), A8.8.97
    t16_lsr_reg "010000 0011 mmm ddd" (m, d);
    /// ASR (register), A8.8.17
    t16_asr_reg "010000 0100 mmm ddd" (m, d);
    /// ADC (register), A8.8.2
    t16_adc "010000 0101 mmm ddd" (m, d);
    /// SBC (register), A8.8.162
    t16_sbc "010000 0110 mmm ddd" (m, d);
    /// ROR (register), A8.8.150
    t16_ror_reg "010000 0111 mmm ddd" (m, d);
    /// TST (register), A8.8.241
    t16_tst "010000 1000 mmm nnn" (m, n);
    /// RSB (immediate): negate, A8.8.152
    t16_rsb "010000 1001 nnn ddd" (n, d);
    /// CMP (register), T1, A8.8.38
    t16_cmp_reg "010000 1010 mmm nnn" (m, n);
    /// CMN (register), A8.8.35
    t16_cmn "010000 1011 mmm nnn" (m, n);
    /// ORR (register), A8.8.123
    t16_orr "010000 1100 mmm ddd" (m, d);
    /// MUL, A8.8.114
    t16_mul "010000 1101 nnn ddd" (n, d);
    /// BIC (register), A8.8.22
    t16_bic "010000 1110 mmm ddd" (m, d);
    /// MVN (register), A8.8.116
    t16_mvn "010000 1111 mmm ddd" (m, d);

    /// ADD (register), T2
    t16_add_high "010001 00 d mmmm ddd" (m, d);
    /// CMP (register), T2
    t16_cmp_high "010001 01 n mmmm nnn" (m, n);
    /// MOV (register), T1, A8.8.103
    t16_mov_high "010001 10 d mmmm ddd" (m, d);
    /// BX, A8.8.27
    bx "010001 11 0 mmmm 000" (m);
    /// BLX (register), A8.8.26
    blx_reg "010001 11 1 mmmm 000" (m);

    /// LDR (literal), A8.8.64
    t16_ldr_literal "01001 ttt iiiiiiii" (t, i);
    /// STR (register), A8.8.205
    t16_str_reg "0101 000 mmm nnn ttt" (m, n, t);
    /// STRH (register), A8.8.218
    t16_strh_reg "0101 001 mmm nnn ttt" (m, n, t);
    /// STRB (register), A8.8.208
    t16_strb_reg "0101 010 mmm nnn ttt" (m, n, t);
    /// LDRSB (register), A8.8.86
    t16_ldrsb_reg "0101 011 mmm nnn ttt" (m, n, t);
    /// LDR (register), A8.8.65
    t16_ldr_reg "0101 100 mmm nnn ttt" (m, n, t);
    /// LDRH (register), A8.8.82
    t16_ldrh_reg "0101 101 mmm nnn ttt" (m, n, t);
    /// LDRB (register), A8.8.70
    t16_ldrb_reg "0101 110 mmm nnn ttt" (m, n, t);
    /// LDRSH (register), A8.8.90
    t16_ldrsh_reg "0101 111 mmm nnn ttt" (m, n, t);
    /// STR (immediate), T1, A8.8.203
    t16_str_imm "011 00 iiiii nnn ttt" (i, n, t);
    /// LDR (immediate), T1, A8.8.62
    t16_ldr_imm "011 01 iiiii nnn ttt" (i, n, t);
    /// STRB (immediate), A8.8.206
    t16_strb_imm "011 10 iiiii nnn ttt" (i, n, t);
    /// LDRB (immediate), A8.8.67
    t16_ldrb_imm "011 11 iiiii nnn ttt" (i, n, t);
    /// STRH (immediate), A8.8.216
    t16_strh_imm "100 00 iiiii nnn ttt" (i, n, t);
    /// LDRH (immediate), A8.8.79
    t16_ldrh_imm "100 01 iiiii nnn ttt" (i, n, t);
    /// STR (immediate), T2: SP
    t16_str_sp "100 10 ttt iiiiiiii" (t, i);
    /// LDR (immediate), T2: SP
    t16_ldr_sp "100 11 ttt iiiiiiii" (t, i);

    /// ADR, A8.8.12
    t16_adr "1010 0 ddd iiiiiiii" (d, i);
    /// ADD (SP plus immediate), T1, A8.8.9
    t16_add_sp "1010 1 ddd iiiiiiii" (d, i);
    /// ADD (SP plus immediate), T2
    t16_inc_sp "1011 0000 0 iiiiiii" (i);
    /// SUB (SP minus immediate), A8.8.225
    t16_dec_sp "1011 0000 1 iiiiiii" (i);
    /// CBZ, CBNZ, A8.8.29
    t16_cbz "1011 o0i1 iiiii nnn" (o, i, n);
    /// SXTH, A8.8.235
    t16_sxth "1011 0010 00 mmm ddd" (m, d);
    /// SXTB, A8.8.233
    t16_sxtb "1011 0010 01 mmm ddd" (m, d);
    /// UXTH, A8.8.276
    t16_uxth "1011 0010 10 mmm ddd" (m, d);
    /// UXTB, A8.8.274
    t16_uxtb "1011 0010 11 mmm ddd" (m, d);
    /// PUSH, A8.8.133
    t16_push "1011 010 m rrrrrrrr" (m, r);
    /// POP, A8.8.131
    t16_pop "1011 110 p rrrrrrrr" (p, r);
    /// SETEND, A8.8.165
    setend "1011 0110 0101 e 000" (e);
    /// CPS, B9.3.1
    t16_cps "1011 0110 011 d 0 aaa" (d, a);
    /// REV, A8.8.145
    t16_rev "1011 1010 00 mmm ddd" (m, d);
    /// REV16, A8.8.146
    t16_rev16 "1011 1010 01 mmm ddd" (m, d);
    /// REVSH, A8.8.147
    t16_revsh "1011 1010 11 mmm ddd" (m, d);
    /// BKPT, A8.8.24
    bkpt "1011 1110 iiiiiiii" (i);
    /// IT, A8.8.54
    t16_it "1011 1111 cccc mmmm" (c, m);
    /// Hints, A8.8.119
    hint "1011 1111 iiii 0000" (i);
    /// YIELD, A8.8.426
    yield_ "1011 1111 0001 0000" ();

    /// STM, A8.8.199
    t16_stm "1100 0 nnn rrrrrrrr" (n, r);
    /// LDM, A8.8.57
    t16_ldm "1100 1 nnn rrrrrrrr" (n, r);
    /// B, T1, A8.8.18
    t16_b_cond "1101 cccc iiiiiiii" (c, i);
    /// UDF, A8.8.247
    udf "1101 1110 --------" ();
    /// SVC, A8.8.228
    svc "1101 1111 iiiiiiii" (i);
    /// B, T2, A8.8.18
    t16_b "1110 0 iiiiiiiiiii" (i);
}

fn index(w: u32) -> usize {
    (w >> 6 & 0x3ff) as usize
}

pub(crate) static DECODER: LazyLock<Decoder<Translator, Flow>> =
    LazyLock::new(|| Decoder::new(&[ROWS], index, 0xffc0, 1024));

/// The row of a halfword.
pub fn find(w: u32) -> Option<&'static Row<Translator, Flow>> {
    DECODER.find(w)
}

/// In an IT block: whether it changes nothing but one register other than the PC.
pub fn is_selectable(w: u32) -> bool {
    match w >> 10 {
        // Shifts, ADD, SUB, MOV, but not CMP.
        0b000000..=0b001111 => w >> 11 != 0b00101,
        // Data processing, but not TST, CMP, CMN.
        0b010000 => !matches!(w >> 6 & 15, 8 | 10 | 11),
        0b010001 => w >> 8 & 1 == 0 && w & 0x87 != 0x87,
        // ADR, ADD to SP.
        0b101000..=0b101011 => true,
        _ => w >> 8 == 0b1011_0010 || w >> 8 == 0b1011_1010,
    }
}

/// Handlers of two-register data processing.
macro_rules! data_processing {
    ($($name:ident $alu:ident;)*) => {
        impl Translator {$(
            fn $name(&mut self, m: u32, d: u32) -> Flow {
                let m = self.reg(m);
                self.t16_alu(Alu::$alu, d, (m, None))
            }
        )*}
    };
}

data_processing! {
    t16_and And;
    t16_eor Eor;
    t16_adc Adc;
    t16_sbc Sbc;
    t16_tst Tst;
    t16_cmp_reg Cmp;
    t16_cmn Cmn;
    t16_orr Orr;
    t16_bic Bic;
}

/// Handlers of shifts by constants and by registers.
macro_rules! shifts {
    ($($imm:ident $reg:ident $shift:ident;)*) => {
        impl Translator {$(
            fn $imm(&mut self, i: u32, m: u32, d: u32) -> Flow {
                let s = !self.in_it_block();
                let operand = self.shifted_reg(m, Shift::$shift, i, s);
                self.alu(Alu::Mov, s, d, operand.0, operand)
            }

            fn $reg(&mut self, m: u32, d: u32) -> Flow {
                let s = !self.in_it_block();
                let operand = self.reg_shifted_reg(d, Shift::$shift, m, s);
                self.alu(Alu::Mov, s, d, operand.0, operand)
            }
        )*}
    };
}

shifts! {
    t16_lsl_imm t16_lsl_reg Lsl;
    t16_lsr_imm t16_lsr_reg Lsr;
    t16_asr_imm t16_asr_reg Asr;
}

/// Handlers of loads and stores with register and immediate offsets.
macro_rules! accesses {
    ($($reg:ident $finish:ident $op:expr;)*) => {
        impl Translator {$(
            fn $reg(&mut self, m: u32, n: u32, t: u32) -> Flow {
                let m = self.reg(m);
                let a = self.address_reg(n, Index::OFFSET, m);
                self.$finish($op, t, a)
            }
        )*}
    };
    (imm: $($imm:ident $finish:ident $op:expr;)*) => {
        impl Translator {$(
            fn $imm(&mut self, i: u32, n: u32, t: u32) -> Flow {
                let op: MemOp = $op;
                let a = self.address_imm(n, Index::OFFSET, i << op.log2());
                self.$finish(op, t, a)
            }
        )*}
    };
}

accesses! {
    t16_str_reg store_from MemOp::B4;
    t16_strh_reg store_from MemOp::B2;
    t16_strb_reg store_from MemOp::B1;
    t16_ldrsb_reg load_to MemOp::B1.signed();
    t16_ldr_reg load_to MemOp::B4;
    t16_ldrh_reg load_to MemOp::B2;
    t16_ldrb_reg load_to MemOp::B1;
    t16_ldrsh_reg load_to MemOp::B2.signed();
}

accesses! { imm:
    t16_str_imm store_from MemOp::B4;
    t16_ldr_imm load_to MemOp::B4;
    t16_strb_imm store_from MemOp::B1;
    t16_ldrb_imm load_to MemOp::B1;
    t16_strh_imm store_from MemOp::B2;
    t16_ldrh_imm load_to MemOp::B2;
}

impl Translator {
    /// Rd = Rd op m, with flags outside of an IT block.
    fn t16_alu(&mut self, op: Alu, d: u32, operand: Operand2) -> Flow {
        let s = !self.in_it_block() || matches!(op, Alu::Tst | Alu::Cmp | Alu::Cmn);
        let n = self.reg(d);
        self.alu(op, s, d, n, operand)
    }

    fn t16_add_sub(&mut self, op: Alu, d: u32, n: u32, m: Val) -> Flow {
        let s = !self.in_it_block();
        let n = self.reg(n);
        self.alu(op, s, d, n, (m, None))
    }

    fn t16_add_reg(&mut self, m: u32, n: u32, d: u32) -> Flow {
        let m = self.reg(m);
        self.t16_add_sub(Alu::Add, d, n, m)
    }

    fn t16_sub_reg(&mut self, m: u32, n: u32, d: u32) -> Flow {
        let m = self.reg(m);
        self.t16_add_sub(Alu::Sub, d, n, m)
    }

    fn t16_add_imm3(&mut self, i: u32, n: u32, d: u32) -> Flow {
        let i = self.imm(i);
        self.t16_add_sub(Alu::Add, d, n, i)
    }

    fn t16_sub_imm3(&mut self, i: u32, n: u32, d: u32) -> Flow {
        let i = self.imm(i);
        self.t16_add_sub(Alu::Sub, d, n, i)
    }

    fn t16_add_imm8(&mut self, d: u32, i: u32) -> Flow {
        let i = self.imm(i);
        self.t16_add_sub(Alu::Add, d, d, i)
    }

    fn t16_sub_imm8(&mut self, d: u32, i: u32) -> Flow {
        let i = self.imm(i);
        self.t16_add_sub(Alu::Sub, d, d, i)
    }

    fn t16_mov_imm(&mut self, d: u32, i: u32) -> Flow {
        let s = !self.in_it_block();
        let i = self.imm(i);
        self.alu(Alu::Mov, s, d, i, (i, None))
    }

    fn t16_cmp_imm(&mut self, n: u32, i: u32) -> Flow {
        let i = self.imm(i);
        self.t16_alu(Alu::Cmp, n, (i, None))
    }

    fn t16_ror_reg(&mut self, m: u32, d: u32) -> Flow {
        let s = !self.in_it_block();
        let operand = self.reg_shifted_reg(d, Shift::Ror, m, s);
        self.alu(Alu::Mov, s, d, operand.0, operand)
    }

    fn t16_rsb(&mut self, n: u32, d: u32) -> Flow {
        let zero = self.imm(0);
        let s = !self.in_it_block();
        let n = self.reg(n);
        self.alu(Alu::Rsb, s, d, n, (zero, None))
    }

    fn t16_mul(&mut self, n: u32, d: u32) -> Flow {
        let s = !self.in_it_block();
        self.mul(s, d, n, d)
    }

    fn t16_mvn(&mut self, m: u32, d: u32) -> Flow {
        let s = !self.in_it_block();
        let m = self.reg(m);
        self.alu(Alu::Mvn, s, d, m, (m, None))
    }

    fn t16_add_high(&mut self, m: u32, d: u32) -> Flow {
        let (n, m) = (self.reg(d), self.reg(m));
        self.alu(Alu::Add, false, d, n, (m, None))
    }

    fn t16_cmp_high(&mut self, m: u32, n: u32) -> Flow {
        let m = self.reg(m);
        self.t16_alu(Alu::Cmp, n, (m, None))
    }

    fn t16_mov_high(&mut self, m: u32, d: u32) -> Flow {
        let v = self.reg(m);
        if d == 15 && m == 14 {
            return self.alu_write_pc(v, Hint::Return);
        }
        self.write(d, v)
    }

    fn t16_ldr_literal(&mut self, t: u32, i: u32) -> Flow {
        let a = self.address_imm(15, Index::OFFSET, i << 2);
        self.load_to(MemOp::B4, t, a)
    }

    fn t16_str_sp(&mut self, t: u32, i: u32) -> Flow {
        let a = self.address_imm(13, Index::OFFSET, i << 2);
        self.store_from(MemOp::B4, t, a)
    }

    fn t16_ldr_sp(&mut self, t: u32, i: u32) -> Flow {
        let a = self.address_imm(13, Index::OFFSET, i << 2);
        self.load_to(MemOp::B4, t, a)
    }

    fn t16_cps(&mut self, d: u32, a: u32) -> Flow {
        self.change_processor_state(2 | d, a, None)
    }

    fn t16_adr(&mut self, d: u32, i: u32) -> Flow {
        let v = self.pc_aligned().wrapping_add(i << 2);
        let v = self.code_address(v);
        self.write(d, v)
    }

    fn t16_add_sp(&mut self, d: u32, i: u32) -> Flow {
        let sp = self.reg(13);
        let v = self.b.add_imm(sp, (i << 2) as u64);
        self.write(d, v)
    }

    fn t16_inc_sp(&mut self, i: u32) -> Flow {
        self.t16_add_sp(13, i)
    }

    fn t16_dec_sp(&mut self, i: u32) -> Flow {
        let sp = self.reg(13);
        let v = self.b.add_imm(sp, (i << 2).wrapping_neg() as i32 as u64);
        self.write(13, v)
    }

    fn t16_cbz(&mut self, o: bool, i: u32, n: u32) -> Flow {
        if !self.has(Features::V6T2) {
            return self.undefined();
        }
        let target = self.pc_value().wrapping_add(i << 1);
        let key = self.key_target(target);
        let n = self.reg(n);
        if o { self.b.exit_nz(n, key) } else { self.b.exit_z(n, key) }
        Flow::Next
    }

    fn t16_sxth(&mut self, m: u32, d: u32) -> Flow {
        self.sxtah(15, d, 0, m)
    }

    fn t16_sxtb(&mut self, m: u32, d: u32) -> Flow {
        self.sxtab(15, d, 0, m)
    }

    fn t16_uxth(&mut self, m: u32, d: u32) -> Flow {
        self.uxtah(15, d, 0, m)
    }

    fn t16_uxtb(&mut self, m: u32, d: u32) -> Flow {
        self.uxtab(15, d, 0, m)
    }

    fn t16_rev(&mut self, m: u32, d: u32) -> Flow {
        self.rev(d, m)
    }

    fn t16_rev16(&mut self, m: u32, d: u32) -> Flow {
        self.rev16(d, m)
    }

    fn t16_revsh(&mut self, m: u32, d: u32) -> Flow {
        self.revsh(d, m)
    }

    /// An empty list is UNPREDICTABLE: UNDEFINED here, as in the other block transfers.
    fn t16_push(&mut self, m: u32, r: u32) -> Flow {
        let list = r | m << 14;
        if list == 0 {
            return self.undefined();
        }
        self.store_multiple(true, false, true, 13, list)
    }

    fn t16_pop(&mut self, p: u32, r: u32) -> Flow {
        let list = r | p << 15;
        if list == 0 {
            return self.undefined();
        }
        self.load_multiple(false, true, true, 13, list)
    }

    fn t16_stm(&mut self, n: u32, r: u32) -> Flow {
        if r == 0 {
            return self.undefined();
        }
        self.store_multiple(false, true, true, n, r)
    }

    fn t16_ldm(&mut self, n: u32, r: u32) -> Flow {
        if r == 0 {
            return self.undefined();
        }
        self.load_multiple(false, true, r >> n & 1 == 0, n, r)
    }

    fn t16_it(&mut self, c: u32, m: u32) -> Flow {
        if !self.has(Features::V6T2) {
            return self.undefined();
        }
        self.set_it((c << 4 | m) as u8);
        Flow::Next
    }

    /// The condition is the translator's business.
    fn t16_b_cond(&mut self, _c: u32, i: u32) -> Flow {
        let target = self.pc_value().wrapping_add((i as i8 as i32 as u32) << 1);
        self.branch(target)
    }

    fn t16_b(&mut self, i: u32) -> Flow {
        let offset = ((i << 21) as i32 >> 20) as u32;
        let target = self.pc_value().wrapping_add(offset);
        self.branch(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CODE, DATA, Machine};
    use ir::TrapKind;

    #[test]
    fn no_rows_overlap_and_every_halfword_decodes() {
        assert_eq!(DECODER.overlaps(), vec![]);
        for w in 0..0xe800u32 {
            let mut m = Machine::thumb(&[w as u16, 0xde00]);
            m.step(4);
        }
    }

    #[test]
    fn arithmetic_sets_flags_outside_of_it_blocks_only() {
        // adds r0, #1; it eq; addeq r0, #5
        let m = Machine::thumb(&[0x3001, 0xbf08, 0x3005]).set_r(0, u32::MAX).run();
        assert_eq!((m.r(0), m.nzcv().as_str()), (5, "nZCv"));
        let m = Machine::thumb(&[0x4240]).set_r(0, 1).run(); // negs r0, r0
        assert_eq!((m.r(0), m.nzcv().as_str()), (u32::MAX, "Nzcv"));
        let m = Machine::thumb(&[0x4088]).set_r(0, 3).set_r(1, 31).run(); // lsls r0, r1
        assert_eq!((m.r(0), m.nzcv().as_str()), (0x8000_0000, "NzCv"));
    }

    #[test]
    fn it_blocks_choose_and_advance() {
        // cmp r0, #1; itete eq; moveq r1, #1; movne r1, #2; streq r1, [r4]; movne r2, #3
        let code = [0x2801, 0xbf0b, 0x2101, 0x2102, 0x6021, 0x2203];
        let m = Machine::thumb(&code).set_r(0, 1).set_r(4, DATA).run();
        assert_eq!((m.r(1), m.r(2), m.memory.data[0]), (1, 0, 1));
        let m = Machine::thumb(&code).set_r(0, 2).set_r(4, DATA).run();
        assert_eq!((m.r(1), m.r(2), m.memory.data[0]), (2, 3, 0));
    }

    #[test]
    fn a_fault_in_an_it_block_keeps_its_state() {
        // itt al would never skip; itt eq with Z set: moveq; ldreq [r4] faults
        let m = Machine::thumb(&[0xbf04, 0x2101, 0x6822]).set_nzcv("nZcv").set_r(4, 0x10).run();
        assert_eq!(m.fault().unwrap().addr, 0x10);
        let cpsr = crate::state::read_cpsr(&m.state);
        assert_eq!((m.pc(), cpsr & crate::state::cpsr::IT), (CODE + 4, 8 >> 2 << 10));
    }

    #[test]
    fn branches() {
        let m = Machine::thumb(&[0x2800, 0xd000, 0x2105, 0x2206]).run(); // cmp r0, #0; beq +0; movs r1; movs r2
        assert_eq!((m.r(1), m.r(2)), (0, 6));
        let m = Machine::thumb(&[0xb100, 0x2105, 0x2206]).run(); // cbz r0, +0
        assert_eq!((m.r(1), m.r(2)), (0, 6));
        let m = Machine::thumb(&[0xb900, 0x2105, 0x2206]).run(); // cbnz r0, +0
        assert_eq!((m.r(1), m.r(2)), (5, 6));
        let m = Machine::thumb(&[0xe000, 0x2105, 0x2206]).run(); // b +0
        assert_eq!((m.r(1), m.r(2)), (0, 6));
        let mut m = Machine::thumb(&[0x4778]); // bx pc: to A32 at the aligned address
        m.step(1);
        assert_eq!(m.state.u64_at(ir::state::KEY), (CODE + 4) as u64);
    }

    #[test]
    fn stack_and_blocks() {
        // push {r0, lr}; sub sp, #8; add sp, #8; pop {r1, pc}
        let m = Machine::thumb(&[0xb501, 0xb082, 0xb002, 0xbd02, 0x2305]).set_r(0, 7).set_r(13, DATA + 64);
        let m = m.set_r(14, CODE + 8 | 1).run();
        assert_eq!((m.r(1), m.r(13), m.r(3)), (7, DATA + 64, 5));
        let m = Machine::thumb(&[0xc906]).set_r(1, DATA).set_data(0, &[1, 0, 0, 0, 2]).run(); // ldm r1, {r1, r2}
        assert_eq!((m.r(1), m.r(2)), (1, 2));
    }

    #[test]
    fn literals_use_the_aligned_pc() {
        // nop; ldr r0, [pc, #0] at CODE + 2: Align(CODE + 6, 4) = CODE + 4
        let m = Machine::thumb(&[0xbf00, 0x4800, 0x1234, 0x1000]);
        let mut m = m;
        m.step(2);
        assert_eq!(m.r(0), 0x1000_1234);
        let m = Machine::thumb(&[0xbf00, 0xa001]).run(); // adr r0, +4
        assert_eq!(m.r(0), CODE + 8);
    }

    #[test]
    fn system_calls_and_undefined() {
        let m = Machine::thumb(&[0xdf05]).run();
        assert_eq!((m.trap(), m.pc()), (Some(TrapKind::Syscall), CODE + 2));
        let m = Machine::thumb(&[0xde01]).run();
        assert_eq!((m.trap(), m.pc()), (Some(TrapKind::Undefined), CODE));
    }
}
