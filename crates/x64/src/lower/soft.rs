//! Guest memory of a whole machine: an inline look-up in the vCPU block's translation tables, and a slow path out of line.
//!
//! An entry holds the guest page and its host page. Address xor page is the offset in the page if they match and at least
//! 4096 otherwise, so that one comparison tells a match that stays within the page. Unusable entries hold a page that no
//! address has.

use super::Cold;
use crate::alloc::{Lower, NONE};
use super::memory::{ADDRESS, OPEN, VALUE, VERSION};
use crate::asm::{Alu, Cc, Gpr, Label, Mem, RAX, RBP, Shift, VecOp, Width, Xmm};
use crate::env::{BIAS, TLB_BYTES, TLB_ENTRIES, block};
use ir::{Inst, MemOp, Op, Ty, Val};

const PAGE_BYTES: i32 = 4096;

/// What the slow path of an access moves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Data {
    LoadInt(Width, Gpr),
    LoadVec(Xmm, u8),
    StoreInt(Gpr),
    StoreImm(i32),
    StoreVec(Xmm),
    LoadExclusive(Width, Gpr),
    /// Value and status.
    StoreExclusive(Gpr, Gpr),
}

/// An access that the tables could not serve.
#[derive(Debug)]
pub(crate) struct SlowAccess {
    /// Where it comes from with `page ^ address` in `address`, and `entry` naming the entry; bound if the fast path exists.
    from: Label,
    /// Where it goes on.
    back: Label,
    address: Gpr,
    entry: Option<Mem>,
    info: u32,
    data: Data,
    vectors: bool,
    record: u32,
}

/// A host memory operand made by the look-up, and the slow path that belongs to it.
struct Looked {
    at: Mem,
    address: Gpr,
    entry: Mem,
    from: Label,
}

impl Lower<'_> {
    /// The guest address of an access in a temporary of its own.
    fn soft_address(&mut self, v: Val, disp: i32) -> Gpr {
        if let Some(k) = self.constant(v) {
            let t = self.temp();
            self.asm.mov_r_imm32(t, (k as u32).wrapping_add(disp as u32));
            return t;
        }
        let i = *self.inst(v);
        if i.op == Op::Add && self.info[v.index()].lazy {
            let base = self.gpr(Val(i.a));
            let index = self.gpr(Val(i.b));
            let t = self.temp();
            self.asm.lea(Width::B4, t, Mem::index(base, index, 1, disp));
            self.unlock(base);
            self.unlock(index);
            return t;
        }
        let base = self.gpr(v);
        let t = self.temp();
        if disp == 0 {
            self.asm.mov_rr(Width::B4, t, base);
        } else {
            self.asm.lea(Width::B4, t, Mem::base(base, disp));
        }
        self.unlock(base);
        t
    }

    fn table(&self, i: &Inst, write: bool) -> i32 {
        self.env.offsets.tlb + (2 * i.fl as usize + write as usize) as i32 * TLB_BYTES as i32 - BIAS
    }

    /// Emits the look-up for the address in `t`.
    fn look_up(&mut self, i: &Inst, mem: MemOp, t: Gpr, index: Gpr, write: bool) -> Looked {
        const { assert!(TLB_ENTRIES.is_power_of_two()) };
        if self.env.features.bmi2 {
            self.asm.rorx(Width::B4, index, t, 8);
        } else {
            self.asm.mov_rr(Width::B4, index, t);
            self.asm.shift_imm(Shift::Shr, Width::B4, index, 8);
        }
        self.asm.alu_rm_imm(Alu::And, Width::B4, index, (TLB_ENTRIES as i32 - 1) << 4);
        let entry = Mem::index(RBP, index, 1, self.table(i, write));
        let from = self.asm.label();
        self.asm.alu_r_rm(Alu::Xor, Width::B8, t, entry);
        self.asm.alu_rm_imm(Alu::Cmp, Width::B8, t, PAGE_BYTES - mem.bytes() as i32);
        self.asm.jcc(Cc::A, from);
        if mem.align_mask() != 0 {
            self.asm.test_rm_imm(Width::B4, t, mem.align_mask() as i32);
            self.asm.jcc(Cc::NE, from);
        }
        Looked { at: Mem::index(t, index, 1, 0), address: t, entry, from }
    }

    fn slow_access(&mut self, i: &Inst, l: &Looked, wide: bool, data: Data, back: Label) {
        let record = self.record_fault();
        let info = i.aux as u32 | (i.fl as u32) << 8 | (wide as u32) << 16;
        let vectors = self.vec_val.iter().any(|&v| v != NONE) || matches!(data, Data::StoreVec(_));
        let slow = SlowAccess { from: l.from, back, address: l.address, entry: Some(l.entry), info, data, vectors, record };
        self.out.cold.push(Cold::Access(Box::new(slow)));
    }

    /// Accesses for which no fast path is worth its code: always the slow path.
    fn only_slow(&mut self, i: &Inst, t: Gpr, data: Data) {
        let record = self.record_fault();
        let info = i.aux as u32 | (i.fl as u32) << 8;
        let (from, back) = (self.asm.label(), self.asm.label());
        self.asm.jmp(from);
        let slow = SlowAccess { from, back, address: t, entry: None, info, data, vectors: true, record };
        self.out.cold.push(Cold::Access(Box::new(slow)));
        self.asm.bind(back);
    }

    pub(crate) fn emit_soft_load(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        let t = self.soft_address(Val(i.a), i.b as i32);
        if i.ty == Ty::V128 && (mem.bytes() < 4 || mem.is_swapped()) {
            self.release();
            let x = self.vec_dst();
            return self.only_slow(i, t, Data::LoadVec(x, 16));
        }
        let index = self.temp();
        self.release();
        let back = self.asm.label();
        if i.ty == Ty::V128 {
            let x = self.vec_dst();
            let l = self.look_up(i, mem, t, index, false);
            self.slow_access(i, &l, true, Data::LoadVec(x, mem.bytes()), back);
            self.asm.mov_r_rm(Width::B8, index, l.entry.offset(8));
            self.vload(x, l.at, mem.bytes());
        } else {
            let d = self.dst(None);
            let w = crate::alloc::width(i.ty);
            let l = self.look_up(i, mem, t, index, false);
            self.slow_access(i, &l, w == Width::B8, Data::LoadInt(w, d), back);
            self.asm.mov_r_rm(Width::B8, index, l.entry.offset(8));
            self.load_int(i.ty, mem, d, l.at);
        }
        self.asm.bind(back);
    }

    pub(crate) fn emit_soft_store(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        let value = Val(i.c);
        let t = self.soft_address(Val(i.a), i.b as i32);
        let back = self.asm.label();
        if self.inst(value).gives() == Ty::V128 {
            let x = self.vec(value);
            if mem.bytes() < 4 || mem.is_swapped() {
                self.only_slow(i, t, Data::StoreVec(x));
                return self.release();
            }
            let index = self.temp();
            let l = self.look_up(i, mem, t, index, true);
            self.slow_access(i, &l, true, Data::StoreVec(x), back);
            self.asm.mov_r_rm(Width::B8, index, l.entry.offset(8));
            match mem.bytes() {
                4 => self.vstore(VecOp::MovssStore, l.at, x),
                8 => self.vstore(VecOp::MovqStore, l.at, x),
                _ => self.vstore(VecOp::MovupsStore, l.at, x),
            }
        } else {
            self.soft_store_int(i, mem, t, back);
        }
        self.asm.bind(back);
        if mem.is_ordered() {
            self.asm.mfence();
        }
        self.release();
    }

    fn soft_store_int(&mut self, i: &Inst, mem: MemOp, t: Gpr, back: Label) {
        let w = Width::from_bytes((mem.bytes() as u32).min(8));
        let swapped = mem.is_swapped() && w != Width::B1;
        let imm = self.constant(Val(i.c)).and_then(|k| super::memory::cut_immediate(k, w)).filter(|_| !swapped);
        if let Some(k) = imm {
            let index = self.temp();
            let l = self.look_up(i, mem, t, index, true);
            self.slow_access(i, &l, false, Data::StoreImm(k), back);
            self.asm.mov_r_rm(Width::B8, index, l.entry.offset(8));
            return self.asm.mov_rm_imm(w, l.at, k);
        }
        let r = self.gpr(Val(i.c));
        let index = self.temp();
        let l = self.look_up(i, mem, t, index, true);
        self.slow_access(i, &l, false, Data::StoreInt(r), back);
        self.asm.mov_r_rm(Width::B8, index, l.entry.offset(8));
        if swapped {
            // The address is needed no more once it is complete.
            self.asm.lea(Width::B8, index, l.at);
            self.asm.mov_rr(Width::B8, t, r);
            self.swap_for_store(t, w);
            return self.asm.mov_rm_r(w, Mem::base(index, 0), t);
        }
        self.asm.mov_rm_r(w, l.at, r);
    }

    /// Big-endian exclusives are left to the runtime.
    pub(crate) fn soft_exclusive(&self, i: &Inst) -> bool {
        let mem = MemOp(i.aux);
        !mem.is_swapped() && mem.bytes() <= 8 && mem.align_mask() as u32 + 1 >= mem.bytes() as u32
    }

    /// As `emit_load_exclusive`; the monitor's address is the host's.
    pub(crate) fn emit_soft_load_exclusive(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        let t = self.soft_address(Val(i.a), 0);
        let index = self.temp();
        self.release();
        let back = self.asm.label();
        let d = self.dst(None);
        let w = crate::alloc::width(i.ty);
        let l = self.look_up(i, mem, t, index, false);
        self.slow_access(i, &l, w == Width::B8, Data::LoadExclusive(w, d), back);
        self.asm.mov_r_rm(Width::B8, index, l.entry.offset(8));
        self.asm.lea(Width::B8, index, l.at);
        self.asm.mov_rm_imm(Width::B8, self.monitor_part(OPEN), 0);
        self.monitor_counter(t, index);
        self.asm.mov_r_rm(Width::B8, t, Mem::base(t, 0));
        // A store-exclusive under way counts as done: ours will fail.
        self.asm.alu_rm_imm(Alu::And, Width::B8, t, !1);
        self.asm.mov_rm_r(Width::B8, self.monitor_part(VERSION), t);
        self.asm.mov_rm_r(Width::B8, self.monitor_part(ADDRESS), index);
        self.load_int(i.ty, MemOp(mem.0 & !8), d, Mem::base(index, 0));
        self.asm.mov_rm_r(Width::B8, self.monitor_part(VALUE), d);
        self.asm.mov_rm_imm(Width::B8, self.monitor_part(OPEN), 1);
        if mem.is_signed() {
            self.asm.movsx(w, Width::from_bytes(mem.bytes() as u32), d, d);
        }
        self.asm.bind(back);
    }

    pub(crate) fn emit_soft_store_exclusive(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        let w = Width::from_bytes(mem.bytes() as u32);
        self.temp_exactly(RAX);
        let t = self.soft_address(Val(i.a), 0);
        let x = self.gpr(Val(i.b));
        let index = self.temp();
        let (back, fail, stale, done) = (self.asm.label(), self.asm.label(), self.asm.label(), self.asm.label());
        let l = self.look_up(i, mem, t, index, true);
        self.slow_access(i, &l, false, Data::StoreExclusive(x, RAX), back);
        self.asm.mov_r_rm(Width::B8, index, l.entry.offset(8));
        self.asm.alu_r_rm(Alu::Add, Width::B8, t, index);
        self.asm.alu_rm_imm(Alu::Cmp, Width::B8, self.monitor_part(OPEN), 0);
        self.asm.mov_rm_imm(Width::B8, self.monitor_part(OPEN), 0);
        self.asm.jcc(Cc::E, fail);
        self.asm.alu_rm_r(Alu::Cmp, Width::B8, self.monitor_part(ADDRESS), t);
        self.asm.jcc(Cc::NE, fail);
        self.monitor_counter(index, t);
        self.asm.lock().bit_imm(crate::asm::BitTest::Bts, Width::B8, Mem::base(index, 0), 0);
        self.asm.jcc(Cc::B, fail);
        self.asm.mov_r_rm(Width::B8, RAX, Mem::base(index, 0));
        self.asm.alu_rm_imm(Alu::And, Width::B8, RAX, !1);
        self.asm.alu_r_rm(Alu::Cmp, Width::B8, RAX, self.monitor_part(VERSION));
        self.asm.jcc(Cc::NE, stale);
        self.asm.mov_r_rm(Width::B8, RAX, self.monitor_part(VALUE));
        self.asm.lock().cmpxchg(w, Mem::base(t, 0), x);
        self.asm.mov_r_rm(Width::B8, RAX, self.monitor_part(VERSION));
        self.asm.lea(Width::B8, RAX, Mem::base(RAX, 2));
        self.asm.mov_rm_r(Width::B8, Mem::base(index, 0), RAX);
        self.asm.setcc(Cc::NE, RAX);
        self.asm.movzx(Width::B1, RAX, RAX);
        self.asm.jmp(done);
        self.asm.bind(stale);
        self.asm.mov_rm_r(Width::B8, Mem::base(index, 0), RAX);
        self.asm.bind(fail);
        self.asm.mov_r_imm32(RAX, 1);
        self.asm.bind(done);
        self.asm.bind(back);
        self.release();
        let d = self.dst(Some(RAX));
        self.mov(Width::B4, d, RAX);
    }

    pub(crate) fn emit_slow_access(&mut self, s: SlowAccess) {
        let o = self.env.offsets;
        self.asm.bind(s.from);
        if let Some(entry) = s.entry {
            self.asm.alu_r_rm(Alu::Xor, Width::B8, s.address, entry);
        }
        self.asm.mov_rm_r(Width::B8, block(o.access_addr), s.address);
        self.asm.mov_rm_imm(Width::B8, block(o.access_info), s.info as i32);
        let data = block(o.access_data);
        match s.data {
            Data::StoreInt(r) | Data::StoreExclusive(r, _) => self.asm.mov_rm_r(Width::B8, data, r),
            Data::StoreImm(k) => self.asm.mov_rm_imm(Width::B8, data, k),
            Data::StoreVec(x) => self.vstore(VecOp::MovupsStore, data, x),
            Data::LoadInt(..) | Data::LoadVec(..) | Data::LoadExclusive(..) => {}
        }
        let kind = match s.data {
            Data::LoadInt(..) | Data::LoadVec(..) => 0,
            Data::StoreInt(_) | Data::StoreImm(_) | Data::StoreVec(_) => 1,
            Data::LoadExclusive(..) => 2,
            Data::StoreExclusive(..) => 3,
        };
        self.call_stub(self.env.stubs.slow[kind][s.vectors as usize]);
        let fault = self.asm.label();
        self.asm.jcc(Cc::NE, fault);
        match s.data {
            Data::LoadInt(w, d) | Data::LoadExclusive(w, d) => self.asm.mov_r_rm(w, d, data),
            Data::StoreExclusive(_, status) => self.asm.mov_r_rm(Width::B4, status, data),
            Data::LoadVec(x, bytes) => self.vload(x, data, bytes.max(4)),
            _ => {}
        }
        self.asm.jmp(s.back);
        self.out.cold.push(Cold::Fault { from: fault, record: s.record });
    }
}
