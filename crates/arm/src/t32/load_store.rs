//! Loads and stores of T32: single, dual, multiple and exclusive, and table branches.
//!
//! **Reference.** Arm ARM (DDI 0406C) A6.3.5 to A6.3.10. A byte or halfword load to the PC is a preload hint.

use crate::a32::data_processing::Shift;
use crate::a32::load_store::{Address, Index};
use crate::features::Features;
use crate::translate::{Flow, Translator};
use ir::build::Hint;
use ir::MemOp;

spec::insns! { pub ROWS: Translator => Flow;
    /// STM, STMIA, A8.8.199
    t32_stm "1110100 010 w 0 nnnn rrrrrrrrrrrrrrrr" (w, n, r);
    /// LDM, LDMIA; POP, A8.8.57
    t32_ldm "1110100 010 w 1 nnnn rrrrrrrrrrrrrrrr" (w, n, r);
    /// STMDB; PUSH, A8.8.201
    t32_stmdb "1110100 100 w 0 nnnn rrrrrrrrrrrrrrrr" (w, n, r);
    /// LDMDB, A8.8.60
    t32_ldmdb "1110100 100 w 1 nnnn rrrrrrrrrrrrrrrr" (w, n, r);

    /// STRD (immediate), A8.8.210
    t32_strd "1110100 p u 1 w 0 nnnn tttt hhhh iiiiiiii" (p, u, w, n, t, h, i);
    /// LDRD (immediate, literal), A8.8.72
    t32_ldrd "1110100 p u 1 w 1 nnnn tttt hhhh iiiiiiii" (p, u, w, n, t, h, i);
    /// STREX, A8.8.212
    t32_strex "1110 1000 0100 nnnn tttt dddd iiiiiiii" (n, t, d, i);
    /// LDREX, A8.8.75
    t32_ldrex "1110 1000 0101 nnnn tttt 1111 iiiiiiii" (n, t, i);
    /// TBB, A8.8.236
    t32_tbb "1110 1000 1101 nnnn 1111 0000 0000 mmmm" (n, m);
    /// TBH
    t32_tbh "1110 1000 1101 nnnn 1111 0000 0001 mmmm" (n, m);

    /// STREXB, A8.8.213
    strexb "1110 1000 1100 nnnn tttt 1111 0100 dddd" (n, d, t);
    /// STREXH, A8.8.215
    strexh "1110 1000 1100 nnnn tttt 1111 0101 dddd" (n, d, t);
    /// STREXD, A8.8.214
    t32_strexd "1110 1000 1100 nnnn tttt hhhh 0111 dddd" (n, d, t, h);
    /// STLB
    stlb "1110 1000 1100 nnnn tttt 1111 1000 1111" (n, t);
    /// STLH
    stlh "1110 1000 1100 nnnn tttt 1111 1001 1111" (n, t);
    /// STL
    stl "1110 1000 1100 nnnn tttt 1111 1010 1111" (n, t);
    /// STLEXB
    stlexb "1110 1000 1100 nnnn tttt 1111 1100 dddd" (n, d, t);
    /// STLEXH
    stlexh "1110 1000 1100 nnnn tttt 1111 1101 dddd" (n, d, t);
    /// STLEX
    stlex "1110 1000 1100 nnnn tttt 1111 1110 dddd" (n, d, t);
    /// STLEXD
    t32_stlexd "1110 1000 1100 nnnn tttt hhhh 1111 dddd" (n, d, t, h);
    /// LDREXB, A8.8.76
    ldrexb "1110 1000 1101 nnnn tttt 1111 0100 1111" (n, t);
    /// LDREXH, A8.8.78
    ldrexh "1110 1000 1101 nnnn tttt 1111 0101 1111" (n, t);
    /// LDREXD, A8.8.77
    t32_ldrexd "1110 1000 1101 nnnn tttt hhhh 0111 1111" (n, t, h);
    /// LDAB
    ldab "1110 1000 1101 nnnn tttt 1111 1000 1111" (n, t);
    /// LDAH
    ldah "1110 1000 1101 nnnn tttt 1111 1001 1111" (n, t);
    /// LDA
    lda "1110 1000 1101 nnnn tttt 1111 1010 1111" (n, t);
    /// LDAEXB
    ldaexb "1110 1000 1101 nnnn tttt 1111 1100 1111" (n, t);
    /// LDAEXH
    ldaexh "1110 1000 1101 nnnn tttt 1111 1101 1111" (n, t);
    /// LDAEX
    ldaex "1110 1000 1101 nnnn tttt 1111 1110 1111" (n, t);
    /// LDAEXD
    t32_ldaexd "1110 1000 1101 nnnn tttt hhhh 1111 1111" (n, t, h);

    // Each access has a form with a 12-bit offset and one row for all others (o): a literal below the PC, an 8-bit
    // offset with indexing, a shifted register.
    /// STRB (immediate), T2, A8.8.206
    t32_strb_imm "1111 1000 1000 nnnn tttt iiiiiiiiiiii" (n, t, i);
    /// STRB (immediate, T3; register; STRBT)
    t32_strb "1111 1000 0000 nnnn tttt oooooooooooo" (n, t, o);
    /// STRH (immediate), T2, A8.8.216
    t32_strh_imm "1111 1000 1010 nnnn tttt iiiiiiiiiiii" (n, t, i);
    /// STRH (immediate, T3; register; STRHT)
    t32_strh "1111 1000 0010 nnnn tttt oooooooooooo" (n, t, o);
    /// STR (immediate), T3, A8.8.203
    t32_str_imm "1111 1000 1100 nnnn tttt iiiiiiiiiiii" (n, t, i);
    /// STR (immediate, T4; register; STRT)
    t32_str "1111 1000 0100 nnnn tttt oooooooooooo" (n, t, o);
    /// LDRB (immediate, T2; literal); PLD, A8.8.67
    t32_ldrb_imm "1111 1000 1001 nnnn tttt iiiiiiiiiiii" (n, t, i);
    /// LDRB (immediate, T3; literal; register; LDRBT); PLD
    t32_ldrb "1111 1000 0001 nnnn tttt oooooooooooo" (n, t, o);
    /// LDRH (immediate, T2; literal); PLDW, A8.8.79
    t32_ldrh_imm "1111 1000 1011 nnnn tttt iiiiiiiiiiii" (n, t, i);
    /// LDRH (immediate, T3; literal; register; LDRHT); PLDW
    t32_ldrh "1111 1000 0011 nnnn tttt oooooooooooo" (n, t, o);
    /// LDR (immediate, T3; literal), A8.8.62
    t32_ldr_imm "1111 1000 1101 nnnn tttt iiiiiiiiiiii" (n, t, i);
    /// LDR (immediate, T4; literal; register; LDRT)
    t32_ldr "1111 1000 0101 nnnn tttt oooooooooooo" (n, t, o);
    /// LDRSB (immediate, T1; literal); PLI, A8.8.84
    t32_ldrsb_imm "1111 1001 1001 nnnn tttt iiiiiiiiiiii" (n, t, i);
    /// LDRSB (immediate, T2; literal; register; LDRSBT); PLI
    t32_ldrsb "1111 1001 0001 nnnn tttt oooooooooooo" (n, t, o);
    /// LDRSH (immediate, T1; literal); hint, A8.8.88
    t32_ldrsh_imm "1111 1001 1011 nnnn tttt iiiiiiiiiiii" (n, t, i);
    /// LDRSH (immediate, T2; literal; register; LDRSHT); hint
    t32_ldrsh "1111 1001 0011 nnnn tttt oooooooooooo" (n, t, o);
}

macro_rules! loads {
    ($($imm:ident $other:ident $op:expr;)*) => {
        impl Translator {$(
            fn $imm(&mut self, n: u32, t: u32, i: u32) -> Flow {
                if t == 15 && $op.log2() < 2 {
                    return Flow::Next;
                }
                let a = self.address_imm(n, Index::OFFSET, i);
                self.load_to($op, t, a)
            }

            fn $other(&mut self, n: u32, t: u32, o: u32) -> Flow {
                if n != 15 && Self::other_form(o).is_none() {
                    return self.undefined();
                }
                if t == 15 && $op.log2() < 2 {
                    // Preloads have no indexed forms.
                    let hint = n == 15 || o >> 8 & 15 == 0b1100 || o >> 6 == 0;
                    return if hint { Flow::Next } else { self.undefined() };
                }
                let a = self.other_address(n, o);
                self.as_user(n != 15 && Self::is_unprivileged_form(o), |it| it.load_to($op, t, a))
            }
        )*}
    };
}

loads! {
    t32_ldrb_imm t32_ldrb MemOp::B1;
    t32_ldrh_imm t32_ldrh MemOp::B2;
    t32_ldr_imm t32_ldr MemOp::B4;
    t32_ldrsb_imm t32_ldrsb MemOp::B1.signed();
    t32_ldrsh_imm t32_ldrsh MemOp::B2.signed();
}

macro_rules! stores {
    ($($imm:ident $other:ident $op:ident;)*) => {
        impl Translator {$(
            fn $imm(&mut self, n: u32, t: u32, i: u32) -> Flow {
                if n == 15 {
                    return self.undefined();
                }
                let a = self.address_imm(n, Index::OFFSET, i);
                self.store_from(MemOp::$op, t, a)
            }

            fn $other(&mut self, n: u32, t: u32, o: u32) -> Flow {
                if n == 15 || Self::other_form(o).is_none() {
                    return self.undefined();
                }
                let a = self.other_address(n, o);
                self.as_user(Self::is_unprivileged_form(o), |it| it.store_from(MemOp::$op, t, a))
            }
        )*}
    };
}

stores! {
    t32_strb_imm t32_strb B1;
    t32_strh_imm t32_strh B2;
    t32_str_imm t32_str B4;
}

/// How bits 11:0 of a load or store form its address.
enum Form {
    Register { shift: u32, m: u32 },
    Immediate { index: Index, offset: u32 },
}

impl Translator {
    fn other_form(o: u32) -> Option<Form> {
        if o >> 6 == 0 {
            return Some(Form::Register { shift: o >> 4 & 3, m: o & 15 });
        }
        let (p, u, w) = (o >> 10 & 1 != 0, o >> 9 & 1 != 0, o >> 8 & 1 != 0);
        (o >> 11 != 0 && (p || w)).then(|| Form::Immediate { index: Index::puw(p, u, w), offset: o & 0xff })
    }

    /// LDRT and its like: P and U without W.
    fn is_unprivileged_form(o: u32) -> bool {
        o >> 8 == 0b1110
    }

    fn other_address(&mut self, n: u32, o: u32) -> Address {
        if n == 15 {
            let below = Index { pre: true, up: false, writeback: false };
            return self.address_imm(15, below, o);
        }
        match Self::other_form(o) {
            Some(Form::Register { shift, m }) => {
                let (offset, _) = self.shifted_reg(m, Shift::Lsl, shift, false);
                self.address_reg(n, Index::OFFSET, offset)
            }
            Some(Form::Immediate { index, offset }) => self.address_imm(n, index, offset),
            None => unreachable!("checked by the handlers"),
        }
    }

    /// No register, the PC as base, or a written-back base in the list are UNPREDICTABLE: UNDEFINED here.
    fn valid_list(w: bool, n: u32, r: u32) -> bool {
        r != 0 && n != 15 && !(w && r >> n & 1 != 0)
    }

    fn t32_stm(&mut self, w: bool, n: u32, r: u32) -> Flow {
        if Self::valid_list(w, n, r) { self.store_multiple(false, true, w, n, r) } else { self.undefined() }
    }

    fn t32_ldm(&mut self, w: bool, n: u32, r: u32) -> Flow {
        if Self::valid_list(w, n, r) { self.load_multiple(false, true, w, n, r) } else { self.undefined() }
    }

    fn t32_stmdb(&mut self, w: bool, n: u32, r: u32) -> Flow {
        if Self::valid_list(w, n, r) { self.store_multiple(true, false, w, n, r) } else { self.undefined() }
    }

    fn t32_ldmdb(&mut self, w: bool, n: u32, r: u32) -> Flow {
        if Self::valid_list(w, n, r) { self.load_multiple(true, false, w, n, r) } else { self.undefined() }
    }

    #[allow(clippy::too_many_arguments)]
    fn t32_strd(&mut self, p: bool, u: bool, w: bool, n: u32, t: u32, h: u32, i: u32) -> Flow {
        if !(p || w) || n == 15 {
            return self.undefined();
        }
        let a = self.address_imm(n, Index::puw(p, u, w), i << 2);
        self.store_dual(t, h, a)
    }

    #[allow(clippy::too_many_arguments)]
    fn t32_ldrd(&mut self, p: bool, u: bool, w: bool, n: u32, t: u32, h: u32, i: u32) -> Flow {
        if !(p || w) {
            return self.undefined();
        }
        let a = self.address_imm(n, Index::puw(p, u, w), i << 2);
        self.load_dual(t, h, a)
    }

    fn t32_strex(&mut self, n: u32, t: u32, d: u32, i: u32) -> Flow {
        self.store_exclusive(Features::V6T2, MemOp::B4, n, d, t, i << 2)
    }

    fn t32_ldrex(&mut self, n: u32, t: u32, i: u32) -> Flow {
        self.load_exclusive(Features::V6T2, MemOp::B4, n, t, i << 2)
    }

    fn t32_strexd(&mut self, n: u32, d: u32, t: u32, h: u32) -> Flow {
        self.store_exclusive_pair(Features::V7, MemOp::B8, n, d, t, h)
    }

    fn t32_ldrexd(&mut self, n: u32, t: u32, h: u32) -> Flow {
        self.load_exclusive_pair(Features::V7, MemOp::B8, n, t, h)
    }

    fn t32_stlexd(&mut self, n: u32, d: u32, t: u32, h: u32) -> Flow {
        self.store_exclusive_pair(Features::V8, MemOp::B8.ordered(), n, d, t, h)
    }

    fn t32_ldaexd(&mut self, n: u32, t: u32, h: u32) -> Flow {
        self.load_exclusive_pair(Features::V8, MemOp::B8.ordered(), n, t, h)
    }

    fn t32_tbb(&mut self, n: u32, m: u32) -> Flow {
        let (n, m) = (self.reg(n), self.reg(m));
        let at = self.b.add(n, m);
        self.table_branch(MemOp::B1, at)
    }

    fn t32_tbh(&mut self, n: u32, m: u32) -> Flow {
        let (n, m) = (self.reg(n), self.reg(m));
        let m = self.b.shl_imm(m, 1);
        let at = self.b.add(n, m);
        self.table_branch(MemOp::B2, at)
    }

    fn table_branch(&mut self, op: MemOp, at: ir::Val) -> Flow {
        let halves = self.load(op, at);
        let offset = self.b.shl_imm(halves, 1);
        let pc = self.pc_value() | 1;
        let pc = self.code_address(pc);
        let target = self.b.add(offset, pc);
        self.bx_write_pc(target, Hint::Jump)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{CODE, DATA, Machine};
    use ir::TrapKind;

    fn machine(code: &[u16]) -> Machine {
        Machine::thumb(code).set_r(4, DATA + 16).set_data(16, &[1, 2, 3, 0x84, 5, 6, 7, 8])
    }

    #[test]
    fn forms_of_single_accesses() {
        let m = machine(&[0xf8d4, 0x0004]).run(); // ldr.w r0, [r4, #4]
        assert_eq!(m.r(0), 0x0807_0605);
        let m = machine(&[0xf854, 0x0d04]).set_data(12, &[9, 0, 0, 0]).run(); // ldr r0, [r4, #-4]!
        assert_eq!((m.r(0), m.r(4)), (9, DATA + 12));
        let m = machine(&[0xf854, 0x0b04]).run(); // ldr r0, [r4], #4
        assert_eq!((m.r(0), m.r(4)), (0x8403_0201, DATA + 20));
        let m = machine(&[0xf914, 0x0001]).set_r(1, 3).run(); // ldrsb.w r0, [r4, r1]
        assert_eq!(m.r(0), 0xffff_ff84);
        let m = machine(&[0xf814, 0xf001]).run(); // pld [r4, r1]
        assert_eq!(m.stopped, None);
        let m = machine(&[0xf85f, 0x0004]).run(); // ldr.w r0, [pc, #-4]
        assert_eq!(m.r(0), 0x0004_f85f);
        let m = machine(&[0xf80f, 0x0004]).run(); // strb [pc]
        assert_eq!(m.trap(), Some(TrapKind::Undefined));
    }

    #[test]
    fn dual_multiple_exclusive() {
        let m = machine(&[0xe9d4, 0x0100]).run(); // ldrd r0, r1, [r4]
        assert_eq!((m.r(0), m.r(1)), (0x8403_0201, 0x0807_0605));
        let m = machine(&[0xe8b4, 0x0003]).run(); // ldm.w r4!, {r0, r1}
        assert_eq!((m.r(1), m.r(4)), (0x0807_0605, DATA + 24));
        // ldrex r0, [r4, #4]; strex r1, r2, [r4, #4]
        let m = machine(&[0xe854, 0x0f01, 0xe844, 0x2101]).set_r(2, 7).run();
        assert_eq!((m.r(0), m.r(1), m.memory.data[20]), (0x0807_0605, 0, 7));
    }

    #[test]
    fn table_branches() {
        // tbb [pc, r0]; table; targets
        let code = [0xe8df, 0xf000, 0x0201, 0x2111, 0x2222, 0x2333];
        let m = Machine::thumb(&code).set_r(0, 0).run(); // entry 1: 2 bytes past the table
        assert_eq!((m.r(1), m.r(2)), (0x11, 0x22));
        let m = Machine::thumb(&code).set_r(0, 1).run();
        assert_eq!((m.r(1), m.r(2), m.pc()), (0, 0x22, CODE + 12));
    }
}
