//! Status register access, SETEND, hints, barriers, preloads, CRC32.
//!
//! **Reference.** Arm ARM (DDI 0406C) A5.2.11, A5.2.12, A5.7.1, B9.3 (MRS, MSR); DDI 0487 F5 (CRC32, SB).
//!
//! SPSR and the privileged side of CPS and MSR are in `privileged`.

use crate::features::Features;
use crate::helper;
use crate::state::{self, bank, cpsr, key};
use crate::system::{hint, request};
use crate::translate::{Flow, Translator};
use ir::build::Hint;
use ir::{TrapKind, Ty, Val};

spec::insns! { pub ROWS: Translator => Flow;
    /// MRS, A8.8.109
    mrs "cccc 0001 0000 1111 dddd 0000 0000 0000" (d);
    /// MSR (register), A8.8.112
    msr_reg "cccc 0001 0010 mmmm 1111 0000 0000 nnnn" (m, n);
    /// MSR (immediate), A8.8.111
    msr_imm "cccc 0011 0010 mmmm 1111 iiiiiiiiiiii" (m, i);
    /// Hints: NOP, WFE, WFI, SEV, SEVL; ESB, CSDB, DBG and those not allocated do nothing, A8.8.119
    hint "cccc 0011 0010 0000 1111 0000 iiii iiii" (i);
    /// YIELD, A8.8.426
    yield_ "cccc 0011 0010 0000 1111 0000 0000 0001" ();
    /// CRC32
    crc32 "cccc 0001 0 zz 0 nnnn dddd 0000 0100 mmmm" (z, n, d, m);
    /// CRC32C
    crc32c "cccc 0001 0 zz 0 nnnn dddd 0010 0100 mmmm" (z, n, d, m);
}

spec::insns! { pub UNCONDITIONAL: Translator => Flow;
    /// SETEND, A8.8.166
    setend "1111 0001 0000 0001 0000 00e0 0000 0000" (e);
    /// CPS, B9.3.2
    cps "1111 0001 0000 iic0 0000 000a aa0m mmmm" (i, c, a, m);
    /// PLD (immediate, literal), A8.8.126
    pld_imm "1111 0101 u101 nnnn 1111 iiiiiiiiiiii" ();
    /// PLDW (immediate)
    pldw_imm "1111 0101 u001 nnnn 1111 iiiiiiiiiiii" ();
    /// PLI (immediate, literal), A8.8.129
    pli_imm "1111 0100 u101 nnnn 1111 iiiiiiiiiiii" ();
    /// PLD (register), A8.8.128
    pld_reg "1111 0111 u101 nnnn 1111 iiiii tt 0 mmmm" ();
    /// PLDW (register)
    pldw_reg "1111 0111 u001 nnnn 1111 iiiii tt 0 mmmm" ();
    /// PLI (register), A8.8.130
    pli_reg "1111 0110 u101 nnnn 1111 iiiii tt 0 mmmm" ();
    /// Unallocated memory hints, A5.7.1
    memory_hint_imm "1111 0100 -001 ---- ---- ---- ---- ----" ();
    memory_hint_reg "1111 0110 -001 ---- ---- ---- ---0 ----" ();
    /// CLREX, A8.8.32
    clrex "1111 0101 0111 1111 1111 0000 0001 1111" ();
    /// DSB, A8.8.44
    dsb "1111 0101 0111 1111 1111 0000 0100 oooo" (o);
    /// DMB, A8.8.43
    dmb "1111 0101 0111 1111 1111 0000 0101 oooo" (o);
    /// ISB, A8.8.53
    isb "1111 0101 0111 1111 1111 0000 0110 ----" ();
    /// SB
    sb "1111 0101 0111 1111 1111 0000 0111 0000" ();
}

/// Handlers that do nothing from an architecture version on.
macro_rules! nothing {
    ($($name:ident $since:expr;)*) => {
        impl Translator {$(
            pub fn $name(&mut self) -> Flow {
                if self.has($since) { Flow::Next } else { self.undefined() }
            }
        )*}
    };
}

nothing! {
    pld_imm Features::V5TE;
    pld_reg Features::V5TE;
    pldw_imm Features::V7.with(Features::MP);
    pldw_reg Features::V7.with(Features::MP);
    pli_imm Features::V7;
    pli_reg Features::V7;
    memory_hint_imm Features::V7.with(Features::MP);
    memory_hint_reg Features::V7.with(Features::MP);
}

impl Translator {
    /// CPSR as MRS reads it: without T and IT.
    pub fn mrs(&mut self, d: u32) -> Flow {
        let v = self.read_cpsr();
        self.set_reg(d, v);
        Flow::Next
    }

    pub(super) fn read_cpsr(&mut self) -> Val {
        let nzcv = self.nzcv();
        let q = self.b.get32(state::CPSR_Q);
        let q = self.b.shl_imm(q, 27);
        let ge = self.b.get32(state::CPSR_GE);
        let ge = self.b.shl_imm(ge, 16);
        let v = self.b.or(nzcv, q);
        let v = self.b.or(v, ge);
        let rest = cpsr::MODE_USER | self.cpu_mode | if self.big_endian { cpsr::E } else { 0 };
        let v = self.b.or_imm(v, rest as u64);
        if self.system.is_none() {
            return v;
        }
        let masks = self.b.get32(bank::CPSR_MASKS);
        self.b.or(v, masks)
    }

    pub fn msr_reg(&mut self, m: u32, n: u32) -> Flow {
        let v = self.reg(n);
        self.write_cpsr(m, v)
    }

    fn msr_imm(&mut self, m: u32, i: u32) -> Flow {
        let (v, _) = self.expand_imm_c(i);
        self.write_cpsr(m, v)
    }

    /// CPSRWriteByInstr in user mode: NZCVQ by bit 3 of the mask, GE by bit 2, E by bit 1.
    fn write_cpsr(&mut self, mask: u32, v: Val) -> Flow {
        if self.system.is_some() {
            return self.msr_cpsr(mask, v);
        }
        self.write_flag_fields(mask, v);
        if mask & 2 != 0 && self.has(Features::V6) {
            let e = self.b.ubfx(v, 9, 1);
            let e = self.b.zext32(e);
            let e = self.b.shl_imm(e, key::E.trailing_zeros());
            let next = self.key_next() & !key::E;
            let key = self.b.or_imm(e, next);
            self.b.exit_ind(key, Hint::Jump);
            return Flow::End;
        }
        Flow::Next
    }

    /// The fields f and s of CPSR.
    pub(super) fn write_flag_fields(&mut self, mask: u32, v: Val) {
        if mask & 8 != 0 {
            self.set_nzcv(v);
            let q = self.b.ubfx(v, 27, 1);
            self.b.set32(state::CPSR_Q, q);
        }
        if mask & 4 != 0 && self.has(Features::V6) {
            let ge = self.b.ubfx(v, 16, 4);
            self.b.set32(state::CPSR_GE, ge);
        }
    }

    /// CPS (A32): `aaa` are A, I and F; `c` tells that there is a mode.
    fn cps(&mut self, i: u32, c: bool, a: u32, m: u32) -> Flow {
        self.change_processor_state(i, a, c.then_some(m))
    }

    /// Hints in a machine: what waits leaves to the run loop.
    pub fn hint(&mut self, i: u32) -> Flow {
        let arg = match i {
            2 => hint::WFE,
            3 => hint::WFI,
            4 | 5 => hint::SEV,
            _ => return Flow::Next,
        };
        if self.system.is_none() || !self.has(Features::V6K) || i == 5 && !self.has(Features::V8) {
            return Flow::Next;
        }
        if arg != hint::SEV && self.waits_may_be_trapped() {
            let key = self.key_here();
            return self.trap(TrapKind::Exception, request::WAIT | arg << 8 | self.length << 16, key);
        }
        let key = self.key_next();
        self.trap(TrapKind::Yield, arg, key)
    }

    /// HCR.TWI and TWE: below Hyp mode, where there is one.
    fn waits_may_be_trapped(&self) -> bool {
        let guest = self.static_key() & key::SECURE == 0 && self.cpu_mode != bank::mode::HYP;
        guest && self.system.is_some_and(|o| o.virtualization)
    }

    /// The region ends: what follows accesses data the other way.
    pub fn setend(&mut self, e: bool) -> Flow {
        if !self.has(Features::V6) {
            return self.undefined();
        }
        let key = self.key_next() & !key::E | if e { key::E } else { 0 };
        self.exit(key)
    }

    pub fn yield_(&mut self) -> Flow {
        let key = self.key_next();
        self.trap(TrapKind::Yield, 0, key)
    }

    pub fn clrex(&mut self) -> Flow {
        if !self.has(Features::V6K) {
            return self.undefined();
        }
        self.b.clr_ex();
        Flow::Next
    }

    fn barrier(&mut self, option: u32) -> Flow {
        if !self.has(Features::V7) {
            return self.undefined();
        }
        // ST and LD variants: bits 1:0 are 10 and 01.
        self.b.fence(matches!(option & 3, 1 | 2));
        Flow::Next
    }

    pub fn dsb(&mut self, o: u32) -> Flow {
        if self.barrier(o) == Flow::End {
            return Flow::End;
        }
        self.finish_flushes();
        Flow::Next
    }

    /// The part of DSB that TLB maintenance waits for.
    pub fn finish_flushes(&mut self) {
        if self.privileged() {
            let unfinished = self.b.get32(bank::FLUSHES_UNFINISHED);
            let next = self.key_next();
            self.b.trap_nz(unfinished, TrapKind::Yield, hint::FINISH, next);
        }
    }

    pub fn dmb(&mut self, o: u32) -> Flow {
        self.barrier(o)
    }

    pub fn isb(&mut self) -> Flow {
        if !self.has(Features::V7) {
            return self.undefined();
        }
        self.instruction_barrier()
    }

    /// In a machine stores to code are seen when they are made; the region ends so that what follows is looked up again.
    pub fn instruction_barrier(&mut self) -> Flow {
        let key = self.key_next();
        if self.system.is_some() { self.exit(key) } else { self.trap(TrapKind::CodeSync, 0, key) }
    }

    pub fn sb(&mut self) -> Flow {
        if !self.has(Features::SB) {
            return self.undefined();
        }
        self.b.fence(false);
        Flow::Next
    }

    fn checksum(&mut self, z: u32, n: u32, d: u32, m: u32, castagnoli: bool) -> Flow {
        if !self.has(Features::CRC32) || z == 3 {
            return self.undefined();
        }
        let (n, m) = (self.reg(n), self.reg(m));
        let how = self.b.i64((1 << z) | (castagnoli as u64) << 8);
        let r = self.b.call(Ty::I32, helper::CRC32, false, [n, m, how]);
        self.set_reg(d, r);
        Flow::Next
    }

    pub fn crc32(&mut self, z: u32, n: u32, d: u32, m: u32) -> Flow {
        self.checksum(z, n, d, m, false)
    }

    pub fn crc32c(&mut self, z: u32, n: u32, d: u32, m: u32) -> Flow {
        self.checksum(z, n, d, m, true)
    }
}

#[cfg(test)]
mod tests {
    use crate::state::read_cpsr;
    use crate::testing::{CODE, DATA, Machine};
    use ir::TrapKind;

    #[test]
    fn cpsr_is_readable_and_partly_writable() {
        // msr CPSR_fs, r0; mrs r1, CPSR
        let m = Machine::a32(&[0xe12c_f000, 0xe10f_1000]).set_r(0, 0xffff_ffff).run();
        assert_eq!(m.r(1), 0xf80f_0010);
        let m = Machine::a32(&[0xe328_f102]).set_nzcv("nZCV").run(); // msr CPSR_f, #0x80000000
        assert_eq!(m.nzcv(), "Nzcv");
    }

    #[test]
    fn endianness_of_data() {
        // setend be; ldr r0, [r4]; msr CPSR_x, r5 (E = 0); ldr r1, [r4]
        let m = Machine::a32(&[0xf101_0200, 0xe594_0000, 0xe122_f005, 0xe594_1000]);
        let m = m.set_r(4, DATA).set_data(0, &[1, 2, 3, 4]).run();
        assert_eq!((m.r(0), m.r(1)), (0x0102_0304, 0x0403_0201));
        assert_eq!(read_cpsr(&m.state) & 0x200, 0);
    }

    #[test]
    fn hints_and_barriers() {
        let m = Machine::a32(&[0xe320_f000, 0xe320_f002, 0xf57f_f05f, 0xf57f_f04f, 0xf5d0_f000, 0xe320_f001]).run();
        assert_eq!((m.trap(), m.pc()), (Some(TrapKind::Yield), CODE + 24));
        let m = Machine::a32(&[0xf57f_f06f]).run();
        assert_eq!((m.trap(), m.pc()), (Some(TrapKind::CodeSync), CODE + 4));
    }

    #[test]
    fn checksums() {
        // "123456789" is the usual check input; its first eight bytes in words, then a byte.
        for (castagnoli, want) in [(0u32, 0xcbf4_3926u32), (0x200, 0xe306_9283)] {
            let word = |size: u32, m: u32| 0xe100_0040 | size << 21 | castagnoli | m;
            let m = Machine::a32(&[word(2, 1), word(1, 2), word(1, 3), word(0, 4), 0xe1e0_0000])
                .set_r(0, u32::MAX)
                .set_r(1, u32::from_le_bytes(*b"1234"))
                .set_r(2, u16::from_le_bytes(*b"56") as u32)
                .set_r(3, u16::from_le_bytes(*b"78") as u32)
                .set_r(4, b'9' as u32)
                .run();
            assert_eq!(m.r(0), want);
        }
    }
}
