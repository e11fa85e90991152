//! Flags values: in EFLAGS, in memory as words, or lazily composed.

use crate::alloc::{Loc, Lower, NONE, Src, width};
use crate::asm::{Alu, BitTest, Cc, Gpr, Mem, RAX, RCX, Shift, Width};
use crate::env::{block, call_area, int_slot};
use ir::pass::flags::bits_of;
use ir::{Inst, Op, Val, flag};

/// A store of the flags in EFLAGS that is made on a way out only.
#[derive(Clone, Copy)]
pub struct Deferred {
    /// Whether C is inverted in EFLAGS (while it is not emitted yet: in the flags to be stored).
    invert: bool,
    /// Flags that keep what the state has.
    keep: u32,
}

impl Lower<'_> {
    /// Strips inversions of C that have no place of their own: the value below and whether its C is to be inverted.
    fn resolve(&self, mut f: Val) -> (Val, bool) {
        let mut inverted = false;
        while self.inst(f).op == Op::FInvC && self.info[f.index()].loc == Loc::Nowhere {
            inverted = !inverted;
            f = Val(self.inst(f).a);
        }
        (f, inverted)
    }

    fn flags_memory(&self, f: Val) -> Option<Mem> {
        match self.info[f.index()].loc {
            Loc::FlagsState => Some(block(ir::state::FLAGS as i32)),
            Loc::FlagsSlot(s) => Some(int_slot(s as usize)),
            _ => None,
        }
    }

    /// EFLAGS are about to change: saves the flags value they hold if somebody needs it later.
    pub(crate) fn keep_eflags(&mut self) {
        let Some((base, inverted)) = self.eflags else { return };
        if self.needed(base) && self.flags_memory(Val(base)).is_none() {
            if inverted {
                self.asm.cmc();
            }
            let s = self.take_slot();
            self.store_eflags(int_slot(s as usize));
            self.info[base as usize].loc = Loc::FlagsSlot(s);
        }
        self.eflags = None;
    }

    /// Writes EFLAGS as a word. Changes no flag.
    fn store_eflags(&mut self, m: Mem) {
        let busy = self.eflags_to_rax();
        self.asm.mov_rm_r(Width::B4, m, RAX);
        if busy {
            self.asm.mov_r_rm(Width::B8, RAX, call_area(0));
        }
    }

    /// EFLAGS as a word in rax. If the current instruction uses rax, it is saved in the call area and `true` returned.
    fn eflags_to_rax(&mut self) -> bool {
        let busy = self.locked >> RAX.0 & 1 != 0;
        if busy {
            self.asm.mov_rm_r(Width::B8, call_area(0), RAX);
        } else {
            self.vacate(RAX);
        }
        self.asm.lahf();
        self.asm.setcc(Cc::O, RAX);
        busy
    }

    /// Copies a word in memory without changing flags.
    pub(crate) fn copy_word(&mut self, to: Mem, from: Mem) {
        let t = self.temp();
        self.asm.mov_r_rm(Width::B4, t, from);
        self.asm.mov_rm_r(Width::B4, to, t);
        self.unlock(t);
    }

    /// `set` of the guest's flags word.
    pub(crate) fn emit_set_flags(&mut self, i: &Inst, f: Val) {
        let home = block(i.a as i32);
        if self.flags_state == f.0 && self.info[f.index()].loc == Loc::FlagsState {
            return;
        }
        if self.dead.is_for_exit(self.n) && self.defer(f) {
            return;
        }
        let old = self.flags_state;
        let only_part = old != NONE && self.is_only_part_of(old, f);
        if old != NONE && self.needed(old) && !only_part {
            let s = self.take_slot();
            self.copy_word(int_slot(s as usize), home);
            self.info[old as usize].loc = Loc::FlagsSlot(s);
        } else if old != NONE && !self.is_part_of(old, f) {
            self.info[old as usize].loc = Loc::Nowhere;
        }
        self.store_word(f, home);
        if old != NONE && self.info[old as usize].loc == Loc::FlagsState {
            self.info[old as usize].loc = Loc::Nowhere;
        }
        if let Loc::FlagsSlot(s) = self.info[f.index()].loc {
            self.free_slots |= 1 << s;
        }
        let resolved = self.resolve(f);
        if self.eflags == Some((resolved.0.0, resolved.1)) && self.info[resolved.0.index()].uses == 1 {
            self.eflags = Some((f.0, false));
        }
        self.info[f.index()].loc = Loc::FlagsState;
        self.flags_state = f.0;
    }

    /// Leaves the store of flags that only the next exit wants to its way out, if EFLAGS hold them (or their new part).
    fn defer(&mut self, f: Val) -> bool {
        let (base, inverted) = self.resolve(f);
        let Some((held, _)) = self.eflags else { return false };
        if held == base.0 {
            self.deferred = Some(Deferred { invert: inverted, keep: 0 });
            return true;
        }
        let i = *self.inst(base);
        let exit = self.r.insts[self.n..].iter().find(|e| e.op == Op::ExitCc).expect("the exit that the store is for");
        let new_only = bits_of(ir::Cc::from_u8(exit.aux)) & !i.c == 0;
        let old_is_home = i.op == Op::FMerge && self.flags_state == i.b && self.info[i.b as usize].loc == Loc::FlagsState;
        if old_is_home && new_only && !inverted && held == i.a {
            self.deferred = Some(Deferred { invert: false, keep: flag::ALL & !i.c });
            return true;
        }
        false
    }

    /// The store that was left to the exit that is being emitted, now that EFLAGS are tested for it.
    pub(crate) fn take_deferred(&mut self) -> Option<Deferred> {
        let wanted = self.deferred.take()?;
        let (_, host_inverted) = self.eflags.expect("a test of EFLAGS leaves them alone");
        Some(Deferred { invert: wanted.invert != host_inverted, ..wanted })
    }

    /// On the way out: the store that was left to it. Nothing lives in rax and rcx.
    pub(crate) fn emit_deferred(&mut self, d: Deferred) {
        let home = block(ir::state::FLAGS as i32);
        if d.invert {
            self.asm.cmc();
        }
        self.asm.lahf();
        self.asm.setcc(Cc::O, RAX);
        if d.keep != 0 {
            self.asm.mov_r_rm(Width::B4, RCX, home);
            self.asm.alu_rm_imm(Alu::And, Width::B4, RAX, (flag::ALL & !d.keep) as i32);
            self.asm.alu_rm_imm(Alu::And, Width::B4, RCX, d.keep as i32);
            self.asm.alu_rr(Alu::Or, Width::B4, RAX, RCX);
        }
        self.asm.mov_rm_r(Width::B4, home, RAX);
    }

    /// Whether `old` is read when `f` is composed.
    fn is_part_of(&self, old: u32, f: Val) -> bool {
        let i = self.inst(f);
        if f.0 == old {
            return true;
        }
        if self.flags_memory(f).is_some() {
            return false;
        }
        match i.op {
            Op::FInvC | Op::FSetC => self.is_part_of(old, Val(i.a)),
            Op::FMerge => self.is_part_of(old, Val(i.a)) || self.is_part_of(old, Val(i.b)),
            _ => false,
        }
    }

    /// Whether `old` is read for `f` and, by way of `f`, for nothing else.
    fn is_only_part_of(&self, old: u32, f: Val) -> bool {
        let i = self.inst(f);
        let through = |x: u32| self.info[x as usize].uses == 1 && (x == old || self.is_only_part_of(old, Val(x)));
        match i.op {
            Op::FInvC | Op::FSetC => through(i.a),
            Op::FMerge => through(i.a) || through(i.b),
            _ => false,
        }
    }

    /// Writes a flags value as a word to memory.
    fn store_word(&mut self, f: Val, m: Mem) {
        let (base, inverted) = self.resolve(f);
        if let Some((b, host_inverted)) = self.eflags
            && b == base.0
        {
            if host_inverted != inverted {
                self.asm.cmc();
                self.eflags = Some((b, inverted));
            }
            return self.store_eflags(m);
        }
        if !inverted && self.inst(base).op == Op::FMake && self.flags_memory(base).is_none() {
            // Words in memory have no bits but flags.
            if let Some(k) = self.constant(Val(self.inst(base).a)) {
                return self.asm.mov_rm_imm(Width::B4, m, (k as u32 & flag::ALL) as i32);
            }
        }
        let t = self.word(f);
        self.asm.mov_rm_r(Width::B4, m, t);
        self.unlock(t);
    }

    /// A flags value as a word in a fresh temporary (bits outside of `flag::ALL` are arbitrary). May change EFLAGS; saves
    /// the value they hold.
    pub(crate) fn word(&mut self, f: Val) -> Gpr {
        let (base, inverted) = self.resolve(f);
        if let Some((b, host_inverted)) = self.eflags
            && b == base.0
        {
            if host_inverted != inverted {
                self.asm.cmc();
                self.eflags = Some((b, inverted));
            }
            let busy = self.eflags_to_rax();
            let t = self.temp();
            self.mov(Width::B4, t, RAX);
            if busy {
                self.asm.mov_r_rm(Width::B8, RAX, call_area(0));
            }
            return t;
        }
        if let Some(m) = self.flags_memory(base) {
            let t = self.temp();
            self.asm.mov_r_rm(Width::B4, t, m);
            if inverted {
                self.keep_eflags();
                self.asm.alu_rm_imm(Alu::Xor, Width::B4, t, flag::C as i32);
            }
            return t;
        }
        let i = *self.inst(base);
        let t = match i.op {
            Op::FMake => {
                let w = self.gpr(Val(i.a));
                let t = self.temp();
                self.mov(Width::B4, t, w);
                self.unlock(w);
                self.keep_eflags();
                self.asm.alu_rm_imm(Alu::And, Width::B4, t, flag::ALL as i32);
                t
            }
            Op::FSetC => {
                let t = self.word(Val(i.a));
                self.keep_eflags();
                self.asm.alu_rm_imm(Alu::And, Width::B4, t, !(flag::C as i32));
                let bit = self.gpr(Val(i.b));
                let s = self.temp();
                self.mov(Width::B4, s, bit);
                self.asm.alu_rm_imm(Alu::And, Width::B4, s, 1);
                self.asm.shift_imm(Shift::Shl, Width::B4, s, 8);
                self.asm.alu_rr(Alu::Or, Width::B4, t, s);
                self.unlock(s);
                self.unlock(bit);
                t
            }
            Op::FMerge => self.merged_word(base, &i),
            op => panic!("flags value {} ({}) has been lost", base.0, op.name()),
        };
        if inverted {
            self.keep_eflags();
            self.asm.alu_rm_imm(Alu::Xor, Width::B4, t, flag::C as i32);
        }
        t
    }

    fn merged_word(&mut self, f: Val, i: &Inst) -> Gpr {
        // The other part may be the same value: it must not be lost when the first is taken.
        if let Some((base, inverted)) = self.eflags
            && self.is_part_of(base, Val(i.b))
            && self.flags_memory(Val(base)).is_none()
        {
            if inverted {
                self.asm.cmc();
                self.eflags = Some((base, false));
            }
            let s = self.take_slot();
            self.store_eflags(int_slot(s as usize));
            self.info[base as usize].loc = Loc::FlagsSlot(s);
        }
        let a = self.word(Val(i.a));
        // The parts are wanted as words only from here on, so the first one need not be kept for this.
        self.drop_or_keep_eflags(f);
        self.asm.alu_rm_imm(Alu::And, Width::B4, a, i.c as i32);
        let rest = (flag::ALL & !i.c) as i32;
        if let Some(m) = self.flags_memory(Val(i.b)) {
            let b = self.temp();
            self.asm.mov_r_rm(Width::B4, b, m);
            self.asm.alu_rm_imm(Alu::And, Width::B4, b, rest);
            self.asm.alu_rr(Alu::Or, Width::B4, a, b);
            self.unlock(b);
            return a;
        }
        // Composing the other part may need all temporaries.
        let s = self.take_slot();
        self.asm.mov_rm_r(Width::B4, int_slot(s as usize), a);
        self.unlock(a);
        let b = self.word(Val(i.b));
        self.keep_eflags();
        self.asm.alu_rm_imm(Alu::And, Width::B4, b, rest);
        self.asm.alu_r_rm(Alu::Or, Width::B4, b, int_slot(s as usize));
        self.free_slots |= 1 << s;
        b
    }

    /// As `keep_eflags`, but a value of which only the flags `f` are made is not worth a slot when `f` itself is being
    /// stored.
    fn drop_or_keep_eflags(&mut self, f: Val) {
        let i = &self.r.insts[self.n];
        let storing = i.op == Op::Set && i.b == f.0;
        if storing && self.eflags.is_some_and(|(b, _)| self.is_only_part_of(b, f)) {
            self.eflags = None;
        } else {
            self.keep_eflags();
        }
    }

    /// Makes the host's flags such that the returned condition says whether `cc` holds in `f`. What EFLAGS held is saved.
    pub(crate) fn test_cc(&mut self, f: Val, cc: ir::Cc) -> Cc {
        let (base, inverted) = self.resolve(f);
        if let Some((b, host_inverted)) = self.eflags
            && b == base.0
        {
            if host_inverted == inverted {
                return super::host_cc(cc);
            }
            match cc {
                ir::Cc::C | ir::Cc::Nc => return super::host_cc(cc.invert()),
                ir::Cc::CorZ | ir::Cc::NcNz => {
                    self.asm.cmc();
                    self.eflags = Some((b, inverted));
                    return super::host_cc(cc);
                }
                _ => return super::host_cc(cc),
            }
        }
        if self.flags_memory(base).is_none()
            && let Some(c) = self.test_composed(base, inverted, cc)
        {
            return c;
        }
        self.test_word(base, inverted, cc)
    }

    /// Looks through composed flags to the part that the condition is about.
    fn test_composed(&mut self, base: Val, inverted: bool, cc: ir::Cc) -> Option<Cc> {
        let i = *self.inst(base);
        let bits = bits_of(cc);
        if inverted && bits & flag::C != 0 {
            return None;
        }
        match i.op {
            Op::FMerge if bits & !i.c == 0 => Some(self.test_cc(Val(i.a), cc)),
            Op::FMerge if bits & i.c == 0 => Some(self.test_cc(Val(i.b), cc)),
            Op::FSetC if bits & flag::C == 0 => Some(self.test_cc(Val(i.a), cc)),
            Op::FSetC if bits == flag::C => {
                let bit = self.gpr(Val(i.b));
                self.keep_eflags();
                self.asm.test_rm_imm(Width::B4, bit, 1);
                Some(if cc == ir::Cc::C { Cc::NE } else { Cc::E })
            }
            _ => None,
        }
    }

    /// Tests bits of a flags word.
    fn test_word(&mut self, base: Val, inverted: bool, cc: ir::Cc) -> Cc {
        let bits = bits_of(cc);
        let single = matches!(bits, flag::V | flag::C | flag::Z | flag::N | flag::P);
        let either = bits == flag::C | flag::Z;
        if (single || either && !inverted)
            && let Some(m) = self.flags_memory(base)
        {
            self.keep_eflags();
            let (m, mask) = if bits == flag::V { (m, 1) } else { (m.offset(1), (bits >> 8) as u8 as i8 as i32) };
            self.asm.test_rm_imm(Width::B1, m, mask);
            let holds_if_set = cc as u8 & 1 == 0;
            return if holds_if_set ^ (inverted && bits == flag::C) { Cc::NE } else { Cc::E };
        }
        // All flags back into EFLAGS: OF by an addition that overflows iff bit 0 is set, the rest by SAHF.
        let t = self.word(base);
        self.keep_eflags();
        if inverted {
            self.asm.alu_rm_imm(Alu::Xor, Width::B4, t, flag::C as i32);
        }
        let busy = self.locked >> RAX.0 & 1 != 0 && t != RAX;
        if busy {
            self.asm.mov_rm_r(Width::B8, call_area(0), RAX);
        } else if t != RAX {
            self.vacate(RAX);
        }
        self.mov(Width::B4, RAX, t);
        self.asm.alu_rm_imm(Alu::Add, Width::B1, RAX, 0x7f);
        self.asm.sahf();
        if busy {
            self.asm.mov_r_rm(Width::B8, RAX, call_area(0));
        }
        self.unlock(t);
        if !inverted {
            self.eflags = Some((base.0, false));
        }
        super::host_cc(cc)
    }

    /// Makes the host's CF = C of `f`. EFLAGS hold no flags value afterwards.
    pub(crate) fn load_carry(&mut self, f: Val) {
        let (base, inverted) = self.resolve(f);
        if let Some((b, host_inverted)) = self.eflags
            && b == base.0
        {
            // Saving puts C the right way round, and changes no flag otherwise.
            let saves = host_inverted && self.needed(b) && self.flags_memory(base).is_none();
            self.keep_eflags();
            if (host_inverted && !saves) != inverted {
                self.asm.cmc();
            }
            return;
        }
        let i = *self.inst(base);
        if let Some(m) = self.flags_memory(base) {
            self.keep_eflags();
            self.asm.bit_imm(BitTest::Bt, Width::B4, m, 8);
        } else if i.op == Op::FSetC {
            let bit = self.gpr(Val(i.b));
            self.keep_eflags();
            self.asm.bit_imm(BitTest::Bt, Width::B4, bit, 0);
        } else if i.op == Op::FMerge {
            let part = if i.c & flag::C != 0 { i.a } else { i.b };
            self.load_carry(Val(part));
        } else {
            let t = self.word(base);
            self.keep_eflags();
            self.asm.bit_imm(BitTest::Bt, Width::B4, t, 8);
            self.unlock(t);
        }
        if inverted {
            self.asm.cmc();
        }
    }

    /// Operations that make flags from numbers.
    pub(crate) fn emit_flags(&mut self, i: &Inst) {
        if self.fused_with_previous(i) {
            self.eflags = Some((self.n as u32, false));
            self.release();
            return;
        }
        let w = Width::from_bytes(i.aux as u32 / 8);
        match i.op {
            Op::FSub => {
                let a = self.gpr(Val(i.a));
                let b = self.src(Val(i.b), w);
                self.alu(Alu::Cmp, w, a, narrow(b, w));
            }
            Op::FLogic => {
                let a = self.gpr(Val(i.a));
                self.asm.test_rr(w, a, a);
            }
            Op::FAdd => {
                let a = self.gpr(Val(i.a));
                let b = self.src(Val(i.b), w);
                let t = self.temp();
                self.mov(width(i.ty), t, a);
                self.alu(Alu::Add, w, t, narrow(b, w));
            }
            _ => {
                self.load_carry(Val(i.c));
                let a = self.gpr(Val(i.a));
                let b = self.src(Val(i.b), w);
                let t = self.temp();
                self.mov(width(i.ty), t, a);
                self.alu(if i.op == Op::FAdc { Alu::Adc } else { Alu::Sbb }, w, t, narrow(b, w));
            }
        }
        self.eflags = Some((self.n as u32, false));
        self.release();
    }

    /// Whether the instruction just before computed the same thing and left EFLAGS accordingly.
    fn fused_with_previous(&self, i: &Inst) -> bool {
        self.n > 0 && self.gives_flags_to_next(self.n - 1)
            && (i.op != Op::FLogic || i.a == self.n as u32 - 1)
    }

    /// Whether instruction `n` must leave EFLAGS for the flags operation that follows it.
    pub(crate) fn gives_flags_to_next(&self, n: usize) -> bool {
        let (Some(a), Some(f)) = (self.r.insts.get(n), self.r.insts.get(n + 1)) else { return false };
        if !self.dead.is_live(n) || !self.dead.is_live(n + 1) || self.info[n].lazy {
            return false;
        }
        let same = a.a == f.a && a.b == f.b && a.ty == f.ty && f.aux as u32 == a.ty.bits();
        match (a.op, f.op) {
            (Op::Add, Op::FAdd) | (Op::Sub, Op::FSub) => same,
            (Op::Adc, Op::FAdc) | (Op::Sbb, Op::FSbb) => same && a.c == f.c,
            (Op::And | Op::Or | Op::Xor, Op::FLogic) => f.a == n as u32 && f.aux as u32 == a.ty.bits(),
            _ => false,
        }
    }

    pub(crate) fn emit_fword(&mut self, i: &Inst) {
        let t = self.word(Val(i.a));
        self.keep_eflags();
        self.asm.alu_rm_imm(Alu::And, Width::B4, t, flag::ALL as i32);
        self.release();
        self.define(t);
    }
}

/// Immediates cut to the width of the operation.
fn narrow(s: Src, w: Width) -> Src {
    match (s, w) {
        (Src::Imm(k), Width::B1) => Src::Imm(k as i8 as i32),
        (Src::Imm(k), Width::B2) => Src::Imm(k as i16 as i32),
        _ => s,
    }
}
