//! Guest memory of a whole machine: an inline look-up in the vCPU block's translation tables, and a slow path out of line.
//!
//! An entry holds the guest page and its host page. Address xor page is the offset in the page if they match and at least
//! 4096 otherwise, so that one comparison tells a match that stays within the page. Unusable entries hold a page that no
//! address has.

use super::Cold;
use super::memory::Swap;
use crate::alloc::{Loc, Lower, NONE};
use crate::asm::{Alu, Cc, Gpr, Label, Mem, RAX, RBP, Shift, VecOp, Width, Xmm};
use crate::env::{BIAS, PINS, TLB_BYTES, TLB_ENTRIES, block, int_slot};
use ir::{Inst, MemOp, Op, Region, Ty, Val};

const PAGE_BYTES: i32 = 4096;

/// Consecutive accesses relative to one value: the first looks the page up, the others only check that they are still
/// within it. A slow path may change what is mapped: the one of the first access looks the page up again, that of a later one
/// moves `offset` out of any page for the rest of the run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    base: Val,
    regime: u8,
    write: bool,
    /// Displacement of the last access.
    disp: i32,
    /// Its offset in the page, and the host page.
    pub offset: Gpr,
    pub page: Gpr,
}

/// An offset beyond any page, however far a run goes.
const OUTSIDE: u32 = 0x4000_0000;
/// How far ahead the next access of a run is looked for, in operations.
const LOOK_AHEAD: usize = 12;

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
    whence: Whence,
    run: InRun,
    info: u32,
    data: Data,
    vectors: bool,
    record: u32,
}

/// What the accesses after this one rely on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InRun {
    No,
    /// `address` is to become the offset in the page, and the register the host page of this entry, which it is part of.
    First(Gpr, Mem),
    /// `address` is the offset.
    Next,
}

/// How a slow path finds the guest address, which it may make in the register `address`.
#[derive(Clone, Copy, Debug)]
enum Whence {
    /// It is there.
    There,
    /// There is the offset; this entry has the page.
    Entry(Mem),
    /// Base value and displacement.
    Sum(Base, i32),
}

/// Where the base value of a run is.
#[derive(Clone, Copy, Debug)]
enum Base {
    Reg(Gpr),
    Mem(Mem),
    Const(u32),
}

/// The registers of a look-up.
enum Prepared {
    /// Guest address, and one for the index.
    First(Gpr, Gpr),
    /// A run goes on; where its base is.
    Next(Run, Base),
}

/// A host memory operand made by the look-up, and the slow path that belongs to it.
struct Looked {
    at: Mem,
    address: Gpr,
    whence: Whence,
    run: InRun,
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
            let (base, index, scale) = self.address_sum(&i);
            let t = self.temp();
            self.asm.lea(Width::B4, t, Mem::index(base, index, scale, disp));
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
        Looked { at: Mem::index(t, index, 1, 0), address: t, whence: Whence::Entry(entry), run: InRun::No, from }
    }

    /// Whether another access follows soon that can share the look-up of this one.
    fn run_follows(&self, i: &Inst) -> bool {
        let base = self.root(Val(i.a));
        let rest = self.r.insts.iter().enumerate().skip(self.n + 1).filter(|(n, _)| self.dead.is_live(*n));
        for (_, next) in rest.take(LOOK_AHEAD) {
            match next.op {
                Op::Ld | Op::St => {
                    return next.op == i.op && next.fl == i.fl && self.root(Val(next.a)) == base && plain(self.r, next);
                }
                Op::Insn | Op::Get | Op::Set => {}
                op if op.has(ir::ops::PURE) => {}
                _ => return false,
            }
        }
        false
    }

    /// Chooses the registers of a look-up and computes the address where one is needed. Everything that emits code for the
    /// allocation must come before `emit_look_up`, because the slow path comes back behind what follows it.
    fn prepare(&mut self, i: &Inst, write: bool) -> Prepared {
        let base = self.root(Val(i.a));
        if let Some(run) = self.run
            && (run.base, run.regime, run.write) == (base, i.fl, write)
            && plain(self.r, i)
            && let Some(at) = self.base_of(base)
        {
            self.lock(run.offset);
            self.lock(run.page);
            if let Base::Reg(r) = at {
                self.lock(r);
            }
            return Prepared::Next(run, at);
        }
        self.run = None;
        let t = self.soft_address(Val(i.a), i.b as i32);
        Prepared::First(t, self.temp())
    }

    /// Emits the look-up, up to the jumps to the slow path, which is for `data`.
    fn emit_look_up(&mut self, i: &Inst, mem: MemOp, write: bool, p: Prepared) -> Looked {
        let (mut run, at) = match p {
            Prepared::Next(run, at) => (run, at),
            Prepared::First(t, index) => {
                let mut l = self.look_up(i, mem, t, index, write);
                if let Whence::Entry(entry) = l.whence
                    && plain(self.r, i)
                    && self.run_follows(i)
                {
                    l.run = InRun::First(index, entry);
                    let (base, disp) = (self.root(Val(i.a)), i.b as i32);
                    self.run = Some(Run { base, regime: i.fl, write, disp, offset: t, page: index });
                }
                return l;
            }
        };
        let disp = i.b as i32;
        let by = disp.wrapping_sub(run.disp);
        run.disp = disp;
        if self.run.is_some() {
            self.run = Some(run);
        }
        if by != 0 {
            self.asm.alu_rm_imm(Alu::Add, Width::B8, run.offset, by);
        }
        let from = self.asm.label();
        self.asm.alu_rm_imm(Alu::Cmp, Width::B8, run.offset, PAGE_BYTES - mem.bytes() as i32);
        self.asm.jcc(Cc::A, from);
        if mem.align_mask() != 0 {
            self.asm.test_rm_imm(Width::B4, run.offset, mem.align_mask() as i32);
            self.asm.jcc(Cc::NE, from);
        }
        let whence = Whence::Sum(at, disp);
        Looked { at: Mem::index(run.offset, run.page, 1, 0), address: run.offset, whence, run: InRun::Next, from }
    }

    /// Loads the host page, where the look-up was not in a run already.
    fn load_host_page(&mut self, l: &Looked) {
        if let (Whence::Entry(entry), Mem { index: Some((page, _)), .. }) = (l.whence, l.at) {
            self.asm.mov_r_rm(Width::B8, page, entry.offset(8));
        }
    }

    /// Where a value is that a slow path needs.
    fn base_of(&self, v: Val) -> Option<Base> {
        if let Some(k) = self.r.constant(v) {
            return Some(Base::Const(k as u32));
        }
        match self.info[v.index()].loc {
            Loc::Reg(r) => Some(Base::Reg(r)),
            Loc::Pin(p) => Some(Base::Reg(PINS[p as usize])),
            Loc::Slot(s) => Some(Base::Mem(int_slot(s as usize))),
            Loc::State { offset, size: 4 } => Some(Base::Mem(block(offset as i32))),
            _ => None,
        }
    }

    fn slow_access(&mut self, i: &Inst, l: &Looked, wide: bool, data: Data, back: Label) {
        let record = self.record_fault();
        let info = i.aux as u32 | (i.fl as u32) << 8 | (wide as u32) << 16;
        let vectors = self.vec_val.iter().any(|&v| v != NONE) || matches!(data, Data::StoreVec(_));
        let (address, whence, run) = (l.address, l.whence, l.run);
        let slow = SlowAccess { from: l.from, back, address, whence, run, info, data, vectors, record };
        self.out.cold.push(Cold::Access(Box::new(slow)));
    }

    /// Accesses for which no fast path is worth its code: always the slow path.
    fn only_slow(&mut self, i: &Inst, t: Gpr, data: Data) {
        let record = self.record_fault();
        let info = i.aux as u32 | (i.fl as u32) << 8;
        let (from, back) = (self.asm.label(), self.asm.label());
        self.asm.jmp(from);
        let slow =
            SlowAccess { from, back, address: t, whence: Whence::There, run: InRun::No, info, data, vectors: true, record };
        self.out.cold.push(Cold::Access(Box::new(slow)));
        self.asm.bind(back);
    }

    pub(crate) fn emit_soft_load(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        if i.ty == Ty::V128 && (mem.bytes() < 4 || mem.is_swapped()) {
            self.run = None;
            let t = self.soft_address(Val(i.a), i.b as i32);
            self.release();
            let x = self.vec_dst();
            return self.only_slow(i, t, Data::LoadVec(x, 16));
        }
        let p = self.prepare(i, false);
        self.release();
        let back = self.asm.label();
        if i.ty == Ty::V128 {
            let x = self.vec_dst();
            let l = self.emit_look_up(i, mem, false, p);
            self.slow_access(i, &l, true, Data::LoadVec(x, mem.bytes()), back);
            self.load_host_page(&l);
            self.vload(x, l.at, mem.bytes());
        } else {
            let d = self.dst(None);
            let w = crate::alloc::width(i.ty);
            let l = self.emit_look_up(i, mem, false, p);
            self.slow_access(i, &l, w == Width::B8, Data::LoadInt(w, d), back);
            self.load_host_page(&l);
            self.load_int(i.ty, mem, d, l.at);
        }
        self.asm.bind(back);
    }

    pub(crate) fn emit_soft_store(&mut self, i: &Inst) {
        let mem = MemOp(i.aux);
        let value = Val(i.c);
        let back = self.asm.label();
        if self.inst(value).gives() == Ty::V128 {
            if mem.bytes() < 4 || mem.is_swapped() {
                self.run = None;
                let t = self.soft_address(Val(i.a), i.b as i32);
                let x = self.vec(value);
                self.only_slow(i, t, Data::StoreVec(x));
                return self.release();
            }
            let p = self.prepare(i, true);
            let x = self.vec(value);
            let l = self.emit_look_up(i, mem, true, p);
            self.slow_access(i, &l, true, Data::StoreVec(x), back);
            self.load_host_page(&l);
            match mem.bytes() {
                4 => self.vstore(VecOp::MovssStore, l.at, x),
                8 => self.vstore(VecOp::MovqStore, l.at, x),
                _ => self.vstore(VecOp::MovupsStore, l.at, x),
            }
        } else {
            self.soft_store_int(i, mem, back);
        }
        self.asm.bind(back);
        self.release();
        if mem.is_ordered() {
            self.fence();
            self.release();
        }
    }

    fn soft_store_int(&mut self, i: &Inst, mem: MemOp, back: Label) {
        let w = Width::from_bytes((mem.bytes() as u32).min(8));
        let swapped = mem.is_swapped() && w != Width::B1;
        let imm = self.constant(Val(i.c)).and_then(|k| super::memory::cut_immediate(k, w)).filter(|_| !swapped);
        let p = self.prepare(i, true);
        if let Some(k) = imm {
            let l = self.emit_look_up(i, mem, true, p);
            self.slow_access(i, &l, false, Data::StoreImm(k), back);
            self.load_host_page(&l);
            return self.asm.mov_rm_imm(w, l.at, k);
        }
        let r = self.gpr(Val(i.c));
        let l = self.emit_look_up(i, mem, true, p);
        self.slow_access(i, &l, false, Data::StoreInt(r), back);
        self.load_host_page(&l);
        if swapped {
            let (Some(t), Some((index, _))) = (l.at.base, l.at.index) else { unreachable!("a look-up gives both") };
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
        self.run = None;
        let mem = MemOp(i.aux);
        let t = self.soft_address(Val(i.a), 0);
        let index = self.temp();
        self.release();
        let back = self.asm.label();
        let d = self.dst(None);
        let w = crate::alloc::width(i.ty);
        let l = self.look_up(i, mem, t, index, false);
        self.slow_access(i, &l, w == Width::B8, Data::LoadExclusive(w, d), back);
        self.load_host_page(&l);
        self.asm.lea(Width::B8, index, l.at);
        self.note_version(index);
        self.load_and_open(i, d, Mem::base(index, 0));
        self.asm.bind(back);
    }

    pub(crate) fn emit_soft_store_exclusive(&mut self, i: &Inst) {
        self.run = None;
        let mem = MemOp(i.aux);
        self.temp_exactly(RAX);
        let t = self.soft_address(Val(i.a), 0);
        let x = self.gpr(Val(i.b));
        let paired = i.c != u32::MAX;
        let index = self.temp();
        let back = self.asm.label();
        let l = self.look_up(i, mem, t, index, true);
        self.slow_access(i, &l, false, Data::StoreExclusive(x, RAX), back);
        self.load_host_page(&l);
        self.asm.alu_r_rm(Alu::Add, Width::B8, t, index);
        self.swap_exclusive(Swap { mem, m: Mem::base(t, 0), x, paired, may_fault: false, insn: self.insn }, t);
        self.asm.bind(back);
        self.release();
        let d = self.dst(Some(RAX));
        self.mov(Width::B4, d, RAX);
    }

    pub(crate) fn emit_slow_access(&mut self, s: SlowAccess) {
        let o = self.env.offsets;
        self.asm.bind(s.from);
        match s.whence {
            Whence::There => {}
            Whence::Entry(entry) => self.asm.alu_r_rm(Alu::Xor, Width::B8, s.address, entry),
            Whence::Sum(Base::Reg(r), disp) => self.asm.lea(Width::B4, s.address, Mem::base(r, disp)),
            Whence::Sum(Base::Const(k), disp) => self.asm.mov_r_imm32(s.address, k.wrapping_add(disp as u32)),
            Whence::Sum(Base::Mem(m), disp) => {
                self.asm.mov_r_rm(Width::B4, s.address, m);
                self.asm.alu_rm_imm(Alu::Add, Width::B4, s.address, disp);
            }
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
        match s.run {
            InRun::No => {}
            InRun::First(page, entry) => {
                // Most often the runtime has just entered the page.
                self.asm.alu_r_rm(Alu::Xor, Width::B8, s.address, entry);
                self.asm.mov_r_rm(Width::B8, page, entry.offset(8));
                self.asm.alu_rm_imm(Alu::Cmp, Width::B8, s.address, PAGE_BYTES);
                self.asm.jcc(Cc::B, s.back);
                self.asm.mov_r_imm32(s.address, OUTSIDE);
            }
            InRun::Next => self.asm.mov_r_imm32(s.address, OUTSIDE),
        }
        self.asm.jmp(s.back);
        self.out.cold.push(Cold::Fault { from: fault, record: s.record });
    }
}

/// Whether an access can be part of a run.
fn plain(r: &Region, i: &Inst) -> bool {
    let mem = MemOp(i.aux);
    let vector = i.ty == Ty::V128 || i.op == Op::St && r.insts[i.c as usize].gives() == Ty::V128;
    !mem.is_swapped() && (!vector || mem.bytes() >= 4)
}
