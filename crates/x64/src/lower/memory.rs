//! Guest memory: loads, stores, atomics, fences.
//!
//! Every host instruction that touches guest memory has a fault record; when it faults, the guest's registers are exactly
//! those before the guest instruction's effect, because destinations are written by the access itself or later.

use super::Cold;
use crate::alloc::{Lower, Src};
use crate::asm::{Alu, Cc, Gpr, Label, Mem, RAX, RCX, RDX, Shift, VecOp, Width};
use crate::env::{Memory, block, call_area, function};

use ir::ops::PURE;
use ir::{Inst, MemOp, Op, Rmw, Ty, Val};

/// Parts of the exclusive monitor, see `env::Offsets::exclusive`.
const OPEN: i32 = 0;
const ADDRESS: i32 = 1;
const VALUE: i32 = 2;
const VERSION: i32 = 3;
const HELD: i32 = 4;
const VERSIONS: i32 = 5;

/// A store-exclusive: what is where.
pub(crate) struct Swap {
    pub mem: MemOp,
    pub m: Mem,
    pub x: Gpr,
    /// Its load-exclusive is in this region: the monitor need not be looked at, but has the value loaded.
    pub paired: bool,
    /// Whether the access may fault on the host.
    pub may_fault: bool,
    /// The guest instruction.
    pub insn: (i32, u32),
}

/// What an exclusive does where versions matter, out of the main path.
pub(crate) enum Monitor {
    /// Note the version.
    Note,
    /// Lock the counter, whatever its version.
    Lock,
    /// Lock the counter if it has the version noted, else go to `fail`.
    LockVersion { fail: Label },
    /// Unlock it with the next version.
    Unlock,
}

impl Lower<'_> {
    pub(crate) fn emit_memory(&mut self, i: &Inst) {
        let soft = self.env.memory == Memory::Soft32;
        match i.op {
            Op::Ld if soft => self.emit_soft_load(i),
            Op::St if soft => self.emit_soft_store(i),
            Op::LdEx if soft && self.soft_exclusive(i) => self.emit_soft_load_exclusive(i),
            Op::StEx if soft && self.soft_exclusive(i) => self.emit_soft_store_exclusive(i),
            Op::LdEx if soft => self.emit_exclusive(i, function::LOAD_EXCLUSIVE),
            Op::StEx if soft => self.emit_exclusive(i, function::STORE_EXCLUSIVE),
            Op::Cas if soft => self.emit_exclusive(i, function::COMPARE_AND_SWAP),
            Op::RmwOp if soft => self.emit_exclusive(i, function::READ_MODIFY_WRITE),
            Op::Ld => self.emit_load(i),
            Op::St => self.emit_store(i),
            Op::LdEx if self.exclusive_inline(i) => self.emit_load_exclusive(i),
            Op::StEx if self.exclusive_inline(i) => self.emit_store_exclusive(i),
            Op::LdEx => self.emit_exclusive(i, function::LOAD_EXCLUSIVE),
            Op::StEx => self.emit_exclusive(i, function::STORE_EXCLUSIVE),
            Op::ClrEx => self.asm.mov_rm_imm(Width::B8, block(self.env.offsets.exclusive), 0),
            Op::Cas => self.emit_cas(i),
            Op::RmwOp => self.emit_rmw(i),
            _ => {
                if i.aux == 0 && !self.is_fenced() {
                    self.fence();
                    self.release();
                }
            }
        }
    }

    /// Whether a fence has nothing left to order: only computation lies between it and a locked exchange of a paired
    /// store-exclusive (before it: together with its load, whose value the exchange confirms).
    fn is_fenced(&self) -> bool {
        let harmless = |i: &Inst| matches!(i.op, Op::Insn | Op::Get | Op::Set) || i.op.has(PURE);
        let leaves = |i: &Inst| matches!(i.op, Op::ExitCc | Op::ExitNz | Op::ExitZ);
        let paired = |i: &Inst| i.op == Op::StEx && i.c != u32::MAX && self.is_inline(i);
        if self.env.alone {
            return false;
        }
        let before = self.r.insts[..self.n].iter().rev().find(|i| !harmless(i) && !leaves(i));
        let mut after = self.r.insts[self.n + 1..].iter().filter(|i| !harmless(i));
        before.is_some_and(paired) || after.next().is_some_and(|i| i.op == Op::LdEx) && after.next().is_some_and(paired)
    }

    /// Whether an exclusive is not left to the runtime.
    fn is_inline(&self, i: &Inst) -> bool {
        if self.env.memory == Memory::Soft32 { self.soft_exclusive(i) } else { self.exclusive_inline(i) }
    }

    /// Orders everything before it with everything after it. An exchange with memory does that too, takes a seventh of the time
    /// of MFENCE, and leaves the flags alone.
    pub(crate) fn fence(&mut self) {
        let t = self.temp();
        self.asm.xchg(Width::B4, call_area(0), t);
    }

    fn guest_mem(&self, m: Mem) -> Mem {
        match self.env.memory {
            Memory::Window32 => m.gs().addr32(),
            Memory::Identity | Memory::Soft32 => m,
        }
    }

    /// The memory operand of an access to `v` + `disp`.
    fn address(&mut self, v: Val, disp: i32) -> Mem {
        if self.env.memory == Memory::Window32
            && let Some(k) = self.constant(v)
        {
            return self.guest_mem(Mem::abs((k as u32).wrapping_add(disp as u32) as i32));
        }
        let i = *self.inst(v);
        if i.op == Op::Add && self.info[v.index()].lazy {
            let (base, index, scale) = self.address_sum(&i);
            return self.guest_mem(Mem::index(base, index, scale, disp));
        }
        let base = self.gpr(v);
        self.guest_mem(Mem::base(base, disp))
    }

    /// Checks the alignment that an access demands; gives the operand to use. Changes EFLAGS when it checks.
    fn checked_address(&mut self, v: Val, disp: u32, mem: MemOp) -> Mem {
        let m = self.address(v, disp as i32);
        let mask = mem.align_mask();
        if mask == 0 || mem.0 & 16 == 0 && self.env.fix_up_alignment {
            return m;
        }
        let t = self.temp();
        let w = if self.env.memory == Memory::Window32 { Width::B4 } else { Width::B8 };
        self.asm.lea(w, t, Mem { gs: false, addr32: false, ..m });
        self.asm.test_rm_imm(Width::B4, t, mask as i32);
        let from = self.asm.label();
        self.asm.jcc(Cc::NE, from);
        let record = self.record_fault();
        self.out.cold.push(Cold::Alignment { from, record, addr: t });
        self.unlock(t);
        m
    }

    fn emit_load(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        let m = self.checked_address(Val(i.a), i.b, mem);
        if i.ty == Ty::V128 {
            return self.emit_vec_load(m, mem);
        }
        self.release();
        let d = self.dst(None);
        self.record_fault();
        self.load_int(i.ty, mem, d, m);
    }

    /// Loads and extends; the first instruction emitted is the access.
    pub(crate) fn load_int(&mut self, ty: Ty, mem: MemOp, d: Gpr, m: Mem) {
        let w = crate::alloc::width(ty);
        let part = Width::from_bytes(mem.bytes() as u32);
        if mem.is_swapped() {
            self.asm.movzx(part, d, m);
            return self.swap_loaded(w, part, mem.is_signed(), d);
        }
        match (mem.is_signed(), part) {
            (true, Width::B1 | Width::B2) => self.asm.movsx(w, part, d, m),
            (true, Width::B4) if w == Width::B8 => self.asm.movsxd(d, m),
            (_, Width::B1 | Width::B2) => self.asm.movzx(part, d, m),
            _ => self.asm.mov_r_rm(part, d, m),
        }
    }

    fn swap_loaded(&mut self, w: Width, part: Width, signed: bool, d: Gpr) {
        match part {
            Width::B1 => {
                if signed {
                    self.asm.movsx(w, part, d, d);
                }
            }
            Width::B2 => {
                self.asm.bswap(Width::B4, d);
                self.asm.shift_imm(if signed { Shift::Sar } else { Shift::Shr }, Width::B4, d, 16);
                if signed && w == Width::B8 {
                    self.asm.movsxd(d, d);
                }
            }
            _ => {
                self.asm.bswap(part, d);
                if signed && part == Width::B4 && w == Width::B8 {
                    self.asm.movsxd(d, d);
                }
            }
        }
    }

    fn emit_vec_load(&mut self, m: Mem, mem: MemOp) {
        if mem.bytes() >= 4 && !mem.is_swapped() {
            self.release();
            let x = self.vec_dst();
            self.record_fault();
            return self.vload(x, m, mem.bytes());
        }
        let t = self.temp();
        if mem.bytes() == 16 {
            // Big-endian quadword: two swapped halves, exchanged.
            let low = self.vec_dst();
            let high = self.vec_temp();
            self.record_fault();
            self.asm.mov_r_rm(Width::B8, t, m.offset(8));
            self.asm.bswap(Width::B8, t);
            self.movd_to_vec(low, t, Width::B8);
            self.record_fault();
            self.asm.mov_r_rm(Width::B8, t, m);
            self.asm.bswap(Width::B8, t);
            self.movd_to_vec(high, t, Width::B8);
            self.release();
            return self.vbin(VecOp::Punpcklqdq, low, low, crate::asm::XRm::Reg(high));
        }
        self.record_fault();
        self.load_int(Ty::I64, MemOp(mem.0 & !8), t, m);
        self.release();
        let x = self.vec_dst();
        self.movd_to_vec(x, t, Width::B8);
    }

    fn emit_store(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        let w = Width::from_bytes((mem.bytes() as u32).min(8));
        let value = Val(i.c);
        if self.inst(value).gives() == Ty::V128 {
            return self.emit_vec_store(i, mem);
        }
        let m = self.checked_address(Val(i.a), i.b, mem);
        if mem.is_swapped() && w != Width::B1 {
            let r = self.gpr(value);
            let t = self.temp();
            self.mov(Width::B8, t, r);
            self.swap_for_store(t, w);
            self.record_fault();
            self.asm.mov_rm_r(w, m, t);
        } else {
            let s = match self.constant(value).map(|k| cut_immediate(k, w)) {
                Some(Some(k)) => Src::Imm(k),
                _ => Src::Reg(self.gpr(value)),
            };
            self.record_fault();
            match s {
                Src::Imm(k) => self.asm.mov_rm_imm(w, m, k),
                Src::Reg(r) => self.asm.mov_rm_r(w, m, r),
                Src::Mem(_) => unreachable!("stores take registers"),
            }
        }
        self.release();
        if mem.is_ordered() {
            self.fence();
            self.release();
        }
    }

    pub(crate) fn swap_for_store(&mut self, t: Gpr, w: Width) {
        match w {
            Width::B1 => {}
            Width::B2 => {
                self.asm.bswap(Width::B4, t);
                self.asm.shift_imm(Shift::Shr, Width::B4, t, 16);
            }
            _ => self.asm.bswap(w, t),
        }
    }

    fn emit_vec_store(&mut self, i: &Inst, mem: MemOp) {
        let m = self.checked_address(Val(i.a), i.b, mem);
        let x = self.vec(Val(i.c));
        if mem.bytes() >= 4 && !mem.is_swapped() {
            self.record_fault();
            match mem.bytes() {
                4 => self.vstore(VecOp::MovssStore, m, x),
                8 => self.vstore(VecOp::MovqStore, m, x),
                _ => self.vstore(VecOp::MovupsStore, m, x),
            }
            return self.release();
        }
        let t = self.temp();
        let w = Width::from_bytes((mem.bytes() as u32).min(8));
        self.movd_from_vec(t, x, Width::B8);
        if mem.is_swapped() {
            self.swap_for_store(t, w);
        }
        if mem.bytes() == 16 {
            self.record_fault();
            self.asm.mov_rm_r(w, m.offset(8), t);
            let y = self.vec_temp();
            self.vbin(VecOp::Punpckhqdq, y, x, crate::asm::XRm::Reg(x));
            self.movd_from_vec(t, y, Width::B8);
            self.swap_for_store(t, w);
        }
        self.record_fault();
        self.asm.mov_rm_r(w, m, t);
        self.release();
    }

    /// Big-endian and 16-byte exclusives are left to the runtime.
    fn exclusive_inline(&self, i: &Inst) -> bool {
        let mem = MemOp(i.aux);
        !mem.is_swapped() && mem.bytes() <= 8 && self.env.memory == Memory::Window32
    }

    /// Part `n` (8 bytes) of the exclusive monitor.
    fn monitor_part(&self, n: i32) -> Mem {
        block(self.env.offsets.exclusive + 8 * n)
    }

    /// t = address of the counter of the monitor that the address part names.
    fn monitor_counter(&mut self, t: Gpr) {
        let mask = self.env.offsets.monitor_count as i32 - 1;
        self.asm.mov_r_rm(Width::B4, t, self.monitor_part(ADDRESS));
        self.asm.shift_imm(Shift::Shr, Width::B4, t, 4);
        self.asm.alu_rm_imm(Alu::And, Width::B4, t, mask);
        self.asm.shift_imm(Shift::Shl, Width::B4, t, 3);
        self.asm.alu_r_rm(Alu::Add, Width::B8, t, block(self.env.offsets.monitors));
    }

    /// Notes version (where versions matter), address and value. The version is read first: a store-exclusive of anybody
    /// between the two reads is caught by it.
    fn emit_load_exclusive(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        let m = self.checked_address(Val(i.a), 0, mem);
        let a = self.gpr(Val(i.a));
        self.note_version(a);
        self.release();
        let d = self.dst(None);
        self.record_fault();
        self.load_and_open(i, d, m);
    }

    /// Notes version and address. `a` is the address that names the monitor.
    pub(crate) fn note_version(&mut self, a: Gpr) {
        let (from, back) = (self.asm.label(), self.asm.label());
        self.asm.mov_rm_r(Width::B8, self.monitor_part(ADDRESS), a);
        if self.env.alone {
            return;
        }
        self.asm.alu_rm_imm(Alu::Cmp, Width::B4, self.monitor_part(VERSIONS), 0);
        self.asm.jcc(Cc::NE, from);
        self.asm.bind(back);
        self.out.cold.push(Cold::NoteVersion { from, back });
    }

    /// Loads, notes the value and opens the monitor; the first instruction emitted is the access.
    pub(crate) fn load_and_open(&mut self, i: &Inst, d: Gpr, m: Mem) {
        let mem = MemOp(i.aux);
        self.load_int(i.ty, MemOp(mem.0 & !8), d, m);
        self.asm.mov_rm_r(Width::B8, self.monitor_part(VALUE), d);
        self.asm.mov_rm_imm(Width::B8, self.monitor_part(OPEN), 1);
        if mem.is_signed() {
            self.asm.movsx(crate::alloc::width(i.ty), Width::from_bytes(mem.bytes() as u32), d, d);
        }
    }

    /// Swaps the memory if it still has the value loaded, and where versions matter if the monitor's version is the one noted.
    fn emit_store_exclusive(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        self.temp_exactly(RAX);
        // Its load has checked the alignment.
        let checked = if i.c == u32::MAX { mem } else { MemOp(mem.log2()) };
        let m = self.checked_address(Val(i.a), 0, checked);
        let a = self.gpr(Val(i.a));
        let x = self.gpr(Val(i.b));
        let paired = i.c != u32::MAX;
        self.swap_exclusive(Swap { mem, m, x, paired, may_fault: true, insn: self.insn }, a);
        self.release();
        let d = self.dst(Some(RAX));
        self.mov(Width::B4, d, RAX);
    }

    /// rax = 0 if the value was stored, else 1. `a` names the monitor, which stays open until the access has not faulted.
    pub(crate) fn swap_exclusive(&mut self, s: Swap, a: Gpr) {
        let (fail, strict, done) = (self.asm.label(), self.asm.label(), self.asm.label());
        if !s.paired {
            self.asm.alu_rm_imm(Alu::Cmp, Width::B8, self.monitor_part(OPEN), 0);
            self.asm.jcc(Cc::E, fail);
            self.asm.alu_rm_r(Alu::Cmp, Width::B8, self.monitor_part(ADDRESS), a);
            self.asm.jcc(Cc::NE, fail);
        }
        if !self.env.alone {
            self.asm.alu_rm_imm(Alu::Cmp, Width::B4, self.monitor_part(VERSIONS), 0);
            self.asm.jcc(Cc::NE, strict);
        }
        self.swap(&s);
        if !s.paired {
            self.asm.jmp(done);
            self.asm.bind(fail);
            self.asm.mov_r_imm32(RAX, 1);
        }
        self.asm.bind(done);
        self.asm.mov_rm_imm(Width::B8, self.monitor_part(OPEN), 0);
        if !self.env.alone {
            self.out.cold.push(Cold::StrictSwap { swap: Box::new(s), from: strict, fail, back: done });
        }
    }

    /// rax = 0 if memory had the value loaded and has the new one now, else 1.
    fn swap(&mut self, s: &Swap) {
        let w = Width::from_bytes(s.mem.bytes() as u32);
        self.asm.mov_r_rm(Width::B8, RAX, self.monitor_part(VALUE));
        if s.may_fault {
            self.insn = s.insn;
            self.record_fault();
        }
        if !self.env.alone {
            self.asm.lock();
        }
        self.asm.cmpxchg(w, s.m, s.x);
        self.asm.setcc(Cc::NE, RAX);
        self.asm.movzx(Width::B1, RAX, RAX);
    }

    /// The same with the monitor's counter locked; not if another store-exclusive has come between an unpaired one and its
    /// load.
    pub(crate) fn emit_strict_swap(&mut self, s: &Swap, fail: Label) {
        self.emit_monitor(if s.paired { Monitor::Lock } else { Monitor::LockVersion { fail } });
        self.swap(s);
        self.emit_monitor(Monitor::Unlock);
    }

    /// What an exclusive does where versions matter. The monitor's address part names it; rax may hold the status of a swap
    /// and is changed otherwise; rcx is kept.
    pub(crate) fn emit_monitor(&mut self, work: Monitor) {
        self.asm.push(RCX);
        let mut stale = None;
        match work {
            Monitor::Note => {
                // A store-exclusive that is under way counts as seen before, so ours will fail.
                self.asm.push(RAX);
                self.monitor_counter(RCX);
                self.asm.mov_r_rm(Width::B8, RAX, Mem::base(RCX, 0));
                self.asm.alu_rm_imm(Alu::And, Width::B8, RAX, !1);
                self.asm.mov_rm_r(Width::B8, self.monitor_part(VERSION), RAX);
                self.asm.pop(RAX);
            }
            Monitor::Lock => {
                let (again, free) = (self.asm.label(), self.asm.label());
                self.monitor_counter(RCX);
                self.asm.bind(again);
                self.asm.lock().bit_imm(crate::asm::BitTest::Bts, Width::B8, Mem::base(RCX, 0), 0);
                self.asm.jcc(Cc::AE, free);
                self.asm.pause();
                self.asm.jmp(again);
                self.asm.bind(free);
                self.asm.mov_r_rm(Width::B8, RAX, Mem::base(RCX, 0));
                self.asm.alu_rm_imm(Alu::And, Width::B8, RAX, !1);
                self.asm.mov_rm_r(Width::B8, self.monitor_part(VERSION), RAX);
                self.asm.mov_rm_imm(Width::B8, self.monitor_part(HELD), 1);
            }
            Monitor::LockVersion { fail } => {
                self.monitor_counter(RCX);
                // One step: the counter is locked only if it has the version noted.
                self.asm.mov_r_rm(Width::B8, RAX, self.monitor_part(VERSION));
                self.asm.push(RDX);
                self.asm.lea(Width::B8, RDX, Mem::base(RAX, 1));
                self.asm.lock().cmpxchg(Width::B8, Mem::base(RCX, 0), RDX);
                self.asm.pop(RDX);
                let to = self.asm.label();
                self.asm.jcc(Cc::NE, to);
                stale = Some((to, fail));
                self.asm.mov_rm_imm(Width::B8, self.monitor_part(HELD), 1);
            }
            Monitor::Unlock => {
                self.asm.push(RAX);
                self.monitor_counter(RCX);
                self.asm.mov_r_rm(Width::B8, RAX, self.monitor_part(VERSION));
                self.asm.lea(Width::B8, RAX, Mem::base(RAX, 2));
                self.asm.mov_rm_r(Width::B8, Mem::base(RCX, 0), RAX);
                self.asm.mov_rm_imm(Width::B8, self.monitor_part(HELD), 0);
                self.asm.pop(RAX);
            }
        }
        self.asm.pop(RCX);
        if let Some((to, fail)) = stale {
            let over = self.asm.label();
            self.asm.jmp(over);
            self.asm.bind(to);
            self.asm.pop(RCX);
            self.asm.jmp(fail);
            self.asm.bind(over);
        }
    }

    /// Load- and store-exclusive, and other atomics, by way of the runtime.
    fn emit_exclusive(&mut self, i: &Inst, f: usize) {
        use super::call::Arg;
        let record = self.record_fault();
        let memop = Arg::Imm(i.aux as u64 | (i.fl as u64) << 8);
        let args: &[Arg] = match f {
            function::LOAD_EXCLUSIVE => &[Arg::Block, Arg::Val(Val(i.a)), memop],
            function::STORE_EXCLUSIVE => &[Arg::Block, Arg::Val(Val(i.a)), Arg::Val(Val(i.b)), memop],
            function::COMPARE_AND_SWAP => {
                &[Arg::Block, Arg::Val(Val(i.a)), Arg::Val(Val(i.b)), Arg::Val(Val(i.c)), memop]
            }
            _ => &[Arg::Block, Arg::Val(Val(i.a)), Arg::Val(Val(i.b)), memop, Arg::Imm(i.c as u64)],
        };
        self.call_function(f, args, false);
        let from = self.asm.label();
        self.asm.alu_rm_imm(Alu::Cmp, Width::B4, block(self.env.offsets.fault), 0);
        self.asm.jcc(Cc::NE, from);
        self.out.cold.push(Cold::Fault { from, record });
        self.take_result(i.gives());
    }

    fn emit_cas(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        let w = Width::from_bytes(mem.bytes() as u32);
        self.temp_exactly(RAX);
        let m = self.checked_address(Val(i.a), 0, mem);
        let expected = self.gpr(Val(i.b));
        self.mov(Width::B8, RAX, expected);
        self.unlock(expected);
        let mut new = self.gpr(Val(i.c));
        if mem.is_swapped() {
            let t = self.temp();
            self.mov(Width::B8, t, new);
            self.swap_for_store(t, w);
            self.swap_for_store(RAX, w);
            new = t;
        }
        self.record_fault();
        self.asm.lock().cmpxchg(w, m, new);
        self.finish_atomic(i, w, mem);
    }

    /// The old memory is in rax: extends it and makes it the result.
    fn finish_atomic(&mut self, i: &Inst, w: Width, mem: MemOp) {
        if mem.is_swapped() {
            self.swap_for_store(RAX, w);
        }
        if matches!(w, Width::B1 | Width::B2) {
            self.asm.movzx(w, RAX, RAX);
        } else if w == Width::B4 {
            self.asm.mov_rr(Width::B4, RAX, RAX);
        }
        self.release();
        let d = self.dst(Some(RAX));
        self.mov(crate::alloc::width(i.ty), d, RAX);
    }

    fn emit_rmw(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        let w = Width::from_bytes(mem.bytes() as u32);
        let op = Rmw::ALL[i.c as usize];
        self.temp_exactly(RAX);
        let m = self.checked_address(Val(i.a), 0, mem);
        let x = self.gpr(Val(i.b));
        if matches!(op, Rmw::Add | Rmw::Xchg) && !mem.is_swapped() {
            self.mov(Width::B8, RAX, x);
            self.record_fault();
            if op == Rmw::Add {
                self.asm.lock().xadd(w, m, RAX);
            } else {
                self.asm.xchg(w, m, RAX);
            }
            return self.finish_atomic(i, w, mem);
        }
        let t = self.temp();
        self.record_fault();
        self.asm.mov_r_rm(w, RAX, m);
        let again = self.asm.here();
        self.mov(Width::B8, t, RAX);
        if mem.is_swapped() {
            self.swap_for_store(t, w);
        }
        self.modify(op, w, t, x);
        if mem.is_swapped() {
            self.swap_for_store(t, w);
        }
        self.record_fault();
        self.asm.lock().cmpxchg(w, m, t);
        self.asm.jcc(Cc::NE, again);
        self.finish_atomic(i, w, mem);
    }

    /// t = op(t, x).
    fn modify(&mut self, op: Rmw, w: Width, t: Gpr, x: Gpr) {
        let by_min_max = |l: &mut Self, cc: Cc| {
            l.asm.alu_rr(Alu::Cmp, w, x, t);
            l.asm.cmovcc(cc, Width::B8, t, x);
        };
        match op {
            Rmw::Add => self.asm.alu_rr(Alu::Add, Width::B8, t, x),
            Rmw::And => self.asm.alu_rr(Alu::And, Width::B8, t, x),
            Rmw::Or => self.asm.alu_rr(Alu::Or, Width::B8, t, x),
            Rmw::Xor => self.asm.alu_rr(Alu::Xor, Width::B8, t, x),
            Rmw::Xchg => self.asm.mov_rr(Width::B8, t, x),
            Rmw::SMin => by_min_max(self, Cc::L),
            Rmw::SMax => by_min_max(self, Cc::G),
            Rmw::UMin => by_min_max(self, Cc::B),
            Rmw::UMax => by_min_max(self, Cc::A),
            Rmw::AndNot => {
                // t & !x = !(!t | x).
                self.asm.not(Width::B8, t);
                self.asm.alu_rr(Alu::Or, Width::B8, t, x);
                self.asm.not(Width::B8, t);
            }
        }
    }
}

/// A constant as the immediate of a store of this width, if there is one.
pub(crate) fn cut_immediate(k: u64, w: Width) -> Option<i32> {
    match w {
        Width::B1 => Some(k as i8 as i32),
        Width::B2 => Some(k as i16 as i32),
        Width::B4 => Some(k as i32),
        Width::B8 => i32::try_from(k as i64).ok(),
    }
}
