//! Where values are while code is emitted: temporaries, pinned registers, spill slots, guest state.
//!
//! Allocation is forward and linear: a value gets a temporary when it is made, or directly the pinned register it will be
//! `set` to; when temporaries run out the one used last goes to a spill slot. No value lives across a label.

use crate::asm::{Alu, Asm, Gpr, Mem, RAX, RBX, RCX, RDX, VecOp, Width, XRm, Xmm};
use crate::env::{CALLER_SAVED_PINS, Env, INT_SLOTS, PINS, VEC_SLOTS, block, int_slot, vec_slot};
use ir::pass::dead::Scratch;
use ir::{Inst, Op, Region, Ty, Val};

/// No value.
pub const NONE: u32 = u32::MAX;
/// Integer temporaries in the order of preference; rax last, because saving flags needs it.
pub const TEMPS: [Gpr; 4] = [RCX, RDX, RBX, RAX];

/// Where a value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loc {
    /// Nowhere: not made yet, a constant, or a lazy value.
    #[default]
    Nowhere,
    Reg(Gpr),
    /// In pinned register number n (its guest register has this value).
    Pin(u8),
    Slot(u8),
    /// Still in the guest state.
    State {
        offset: u32,
        size: u8,
    },
    Vec(Xmm),
    VecSlot(u8),
    /// A flags value: in the guest's FLAGS word, or in a spill slot.
    FlagsState,
    FlagsSlot(u8),
}

#[derive(Clone, Copy, Debug)]
pub struct Info {
    pub loc: Loc,
    /// Index of the last instruction that needs the value, also through lazy values.
    pub last_use: u32,
    pub uses: u16,
    /// Pinned register that the value may be made in, or 255.
    pub hint: u8,
    /// Emitted where it is used.
    pub lazy: bool,
}

impl Default for Info {
    fn default() -> Self {
        Info { loc: Loc::Nowhere, last_use: 0, uses: 0, hint: 255, lazy: false }
    }
}

/// An operand of an instruction.
#[derive(Clone, Copy, Debug)]
pub enum Src {
    Reg(Gpr),
    Mem(Mem),
    Imm(i32),
}

/// Emission state of one region.
pub struct Lower<'a> {
    pub asm: &'a mut Asm,
    pub r: &'a Region,
    pub env: &'a Env,
    pub info: &'a mut Vec<Info>,
    pub dead: &'a Scratch,
    /// Index of the current instruction.
    pub n: usize,
    /// Value in each host register.
    pub reg_val: [u32; 16],
    /// Registers that the current instruction uses.
    pub locked: u32,
    pub pin_val: [u32; 10],
    pub vec_val: [u32; 16],
    pub vec_locked: u32,
    pub free_slots: u64,
    pub free_vec_slots: u32,
    /// Slots whose value the current instruction uses last: it may still read them, so they are free only after it.
    pub released_slots: u64,
    pub released_vec_slots: u32,
    /// Values whose location is `Loc::State`.
    pub in_state: &'a mut Vec<u32>,
    /// The flags value that the guest's FLAGS word holds.
    pub flags_state: u32,
    /// The flags value that the host's EFLAGS hold, and whether its C is inverted there.
    pub eflags: Option<(u32, bool)>,
    /// A store of flags that the exit that comes next makes.
    pub deferred: Option<crate::lower::flags::Deferred>,
    /// Current guest instruction: delta and note.
    pub insn: (i32, u32),
    pub out: crate::lower::Output<'a>,
    /// Ran out of spill slots: the region must be split.
    pub failed: bool,
    /// Base value whose alignment to 4 is known.
    pub label: Option<crate::asm::Label>,
    pub entry: crate::asm::Label,
    /// Accesses near each other that share one look-up of their page, and the temporaries it keeps.
    pub run: Option<crate::lower::soft::Run>,
}

pub fn width(ty: Ty) -> Width {
    if ty == Ty::I64 { Width::B8 } else { Width::B4 }
}

impl<'a> Lower<'a> {
    #[inline]
    pub fn inst(&self, v: Val) -> &'a Inst {
        &self.r.insts[v.index()]
    }

    /// Follows copies that need no code.
    #[inline]
    pub fn root(&self, mut v: Val) -> Val {
        while self.inst(v).op == Op::Zext32 {
            v = Val(self.inst(v).a);
        }
        v
    }

    #[inline]
    pub fn constant(&self, v: Val) -> Option<u64> {
        self.r.constant(self.root(v))
    }

    #[inline]
    pub fn lives_on(&self, v: u32) -> bool {
        self.info[v as usize].last_use > self.n as u32
    }

    #[inline]
    pub fn lock(&mut self, r: Gpr) {
        self.locked |= 1 << r.0;
    }

    fn is_locked(&self, r: Gpr) -> bool {
        self.locked >> r.0 & 1 != 0
    }

    // ---- integer registers -------------------------------------------------------------------------------------------

    /// A free temporary, locked for this instruction.
    pub fn temp(&mut self) -> Gpr {
        let kept = self.kept();
        let usable = |l: &Self, r: Gpr| l.reg_val[r.0 as usize] == NONE && !l.is_locked(r);
        let free = TEMPS.into_iter().find(|&r| usable(self, r) && kept >> r.0 & 1 == 0);
        if free.is_none() && kept != 0 {
            self.run = None;
            return self.temp();
        }
        let r = free.unwrap_or_else(|| {
            let victim = TEMPS
                .into_iter()
                .filter(|&r| !self.is_locked(r))
                .max_by_key(|&r| self.info[self.reg_val[r.0 as usize] as usize].last_use)
                .expect("an instruction needs more temporaries than there are");
            self.spill(victim);
            victim
        });
        self.lock(r);
        r
    }

    /// A particular temporary, locked; what it holds moves elsewhere. It must not be an operand already fetched.
    pub fn temp_exactly(&mut self, r: Gpr) -> Gpr {
        debug_assert!(!self.is_locked(r), "register is in use by this instruction");
        self.vacate(r);
        self.lock(r);
        r
    }

    /// Moves the value in a temporary elsewhere (no flags are changed).
    pub fn vacate(&mut self, r: Gpr) {
        if self.kept() >> r.0 & 1 != 0 {
            self.run = None;
        }
        let kept = self.kept();
        let v = self.reg_val[r.0 as usize];
        if v == NONE {
            return;
        }
        let other = TEMPS
            .into_iter()
            .find(|&t| t != r && self.reg_val[t.0 as usize] == NONE && (self.locked | kept) >> t.0 & 1 == 0);
        match other {
            Some(t) => {
                self.asm.mov_rr(Width::B8, t, r);
                self.reg_val[r.0 as usize] = NONE;
                self.reg_val[t.0 as usize] = v;
                self.info[v as usize].loc = Loc::Reg(t);
            }
            None => self.spill(r),
        }
    }

    /// The temporaries that the run of accesses keeps, as a mask.
    fn kept(&self) -> u32 {
        self.run.as_ref().map_or(0, |r| 1 << r.offset.0 | 1 << r.page.0)
    }

    pub fn take_slot(&mut self) -> u8 {
        if self.free_slots == 0 {
            self.failed = true;
            return 0;
        }
        let s = self.free_slots.trailing_zeros() as u8;
        self.free_slots &= !(1 << s);
        s
    }

    /// Stores a temporary's value to a spill slot.
    pub fn spill(&mut self, r: Gpr) {
        let v = self.reg_val[r.0 as usize];
        if v == NONE {
            return;
        }
        let s = self.take_slot();
        self.asm.mov_rm_r(Width::B8, int_slot(s as usize), r);
        self.info[v as usize].loc = Loc::Slot(s);
        self.reg_val[r.0 as usize] = NONE;
    }

    fn place(&mut self, v: u32, r: Gpr) {
        self.reg_val[r.0 as usize] = v;
        self.info[v as usize].loc = Loc::Reg(r);
    }

    /// The value in a register, locked. Constants are loaded each time.
    pub fn gpr(&mut self, v: Val) -> Gpr {
        let v = self.root(v);
        if let Some(k) = self.r.constant(v) {
            let t = self.temp();
            self.asm.mov_r_imm64(t, k);
            return t;
        }
        match self.info[v.index()].loc {
            Loc::Reg(r) => {
                self.lock(r);
                r
            }
            Loc::Pin(p) => PINS[p as usize],
            Loc::Slot(s) => {
                let t = self.temp();
                self.asm.mov_r_rm(Width::B8, t, int_slot(s as usize));
                self.free_slots |= 1 << s;
                self.place(v.0, t);
                t
            }
            Loc::State { offset, size } => {
                let t = self.temp();
                self.load_state(t, offset, size);
                self.in_state.retain(|&x| x != v.0);
                self.place(v.0, t);
                t
            }
            loc => panic!("v{} ({}) is not an integer in reach: {loc:?}", v.0, self.inst(v).op.name()),
        }
    }

    fn load_state(&mut self, t: Gpr, offset: u32, size: u8) {
        let m = block(offset as i32);
        match size {
            1 => self.asm.movzx(Width::B1, t, m),
            2 => self.asm.movzx(Width::B2, t, m),
            4 => self.asm.mov_r_rm(Width::B4, t, m),
            _ => self.asm.mov_r_rm(Width::B8, t, m),
        }
    }

    /// The value as an operand: an immediate if it fits, memory if it is there and this is its last use, else a register.
    pub fn src(&mut self, v: Val, w: Width) -> Src {
        let v = self.root(v);
        if let Some(k) = self.r.constant(v) {
            let k = if w == Width::B8 { k as i64 } else { k as u32 as i32 as i64 };
            if let Ok(k) = i32::try_from(k) {
                return Src::Imm(k);
            }
            return Src::Reg(self.gpr(v));
        }
        let info = self.info[v.index()];
        let last = info.last_use <= self.n as u32;
        let fits = self.inst(v).gives() != Ty::I32 || w != Width::B8;
        match info.loc {
            Loc::State { offset, size } if last && fits && size as u32 * 8 == w.bits() => Src::Mem(block(offset as i32)),
            Loc::Slot(s) if last => Src::Mem(int_slot(s as usize)),
            _ => Src::Reg(self.gpr(v)),
        }
    }

    /// Frees the registers and slots of operands that this instruction uses last. They stay readable until overwritten.
    pub fn release(&mut self) {
        let r = self.r;
        let inst = &r.insts[self.n];
        for v in inst.values() {
            self.release_value(v);
        }
    }

    fn release_value(&mut self, v: Val) {
        if self.info[v.index()].last_use > self.n as u32 {
            return;
        }
        let inst = *self.inst(v);
        if self.info[v.index()].lazy {
            for inner in inst.values() {
                self.release_value(inner);
            }
        }
        match self.info[v.index()].loc {
            Loc::Reg(r) => {
                self.reg_val[r.0 as usize] = NONE;
                self.locked &= !(1 << r.0);
            }
            Loc::Pin(p) if self.pin_val[p as usize] == v.0 => self.pin_val[p as usize] = NONE,
            Loc::Slot(s) | Loc::FlagsSlot(s) => self.released_slots |= 1 << s,
            Loc::State { .. } => self.in_state.retain(|&x| x != v.0),
            Loc::Vec(x) => {
                self.vec_val[x.0 as usize] = NONE;
                self.vec_locked &= !(1 << x.0);
            }
            Loc::VecSlot(s) => self.released_vec_slots |= 1 << s,
            _ => return,
        }
        self.info[v.index()].loc = Loc::Nowhere;
    }

    /// The register in which the current instruction makes its value: the pinned register it is for, `prefer` if that is
    /// free, or any temporary. Locked.
    pub fn dst(&mut self, prefer: Option<Gpr>) -> Gpr {
        let n = self.n as u32;
        let hint = self.info[self.n].hint;
        if hint != 255 {
            let old = self.pin_val[hint as usize];
            if old == NONE || !self.lives_on(old) {
                if old != NONE {
                    self.info[old as usize].loc = Loc::Nowhere;
                }
                self.pin_val[hint as usize] = n;
                self.info[self.n].loc = Loc::Pin(hint);
                return PINS[hint as usize];
            }
        }
        let r = match prefer {
            Some(r) if TEMPS.contains(&r) && self.reg_val[r.0 as usize] == NONE && self.kept() >> r.0 & 1 == 0 => {
                self.lock(r);
                r
            }
            _ => self.temp(),
        };
        self.place(n, r);
        r
    }

    /// A destination that is none of the given registers: for lowerings that write it before they have read everything.
    pub fn dst_apart(&mut self, from: &[Gpr]) -> Gpr {
        let hint = self.info[self.n].hint;
        if hint != 255 && from.contains(&PINS[hint as usize]) {
            self.info[self.n].hint = 255;
        }
        for &r in from {
            self.lock(r);
        }
        self.dst(None)
    }

    /// Says that the current value is in this temporary.
    pub fn define(&mut self, r: Gpr) {
        let n = self.n as u32;
        let old = self.reg_val[r.0 as usize];
        debug_assert!(old == NONE || old == n, "the register holds another value");
        self.place(n, r);
    }

    /// At the end of an instruction: unlocks, frees the slots it has read, and drops a result nobody uses.
    pub fn finish(&mut self) {
        self.locked = 0;
        self.vec_locked = 0;
        self.free_slots |= std::mem::take(&mut self.released_slots);
        self.free_vec_slots |= std::mem::take(&mut self.released_vec_slots);
        let info = self.info[self.n];
        if info.last_use <= self.n as u32 {
            match info.loc {
                Loc::Reg(r) => self.reg_val[r.0 as usize] = NONE,
                Loc::Vec(x) => self.vec_val[x.0 as usize] = NONE,
                Loc::Pin(p) if self.pin_val[p as usize] == self.n as u32 => self.pin_val[p as usize] = NONE,
                _ => {}
            }
        }
    }

    pub fn mov(&mut self, w: Width, to: Gpr, from: Gpr) {
        if to != from {
            self.asm.mov_rr(w, to, from);
        }
    }

    pub fn alu(&mut self, op: Alu, w: Width, d: Gpr, s: Src) {
        match s {
            Src::Reg(r) => self.asm.alu_rr(op, w, d, r),
            Src::Mem(m) => self.asm.alu_r_rm(op, w, d, m),
            Src::Imm(k) => self.asm.alu_rm_imm(op, w, d, k),
        }
    }

    /// Loads an operand into a register.
    pub fn mov_src(&mut self, w: Width, d: Gpr, s: Src) {
        match s {
            Src::Reg(r) => self.mov(w, d, r),
            Src::Mem(m) => self.asm.mov_r_rm(w, d, m),
            Src::Imm(k) if w == Width::B8 => self.asm.mov_r_imm64(d, k as i64 as u64),
            Src::Imm(k) => self.asm.mov_r_imm32(d, k as u32),
        }
    }

    // ---- pinned registers and guest state ------------------------------------------------------------------------------

    /// A pinned register is about to change: a value that lives on moves away.
    pub fn evict_pin(&mut self, p: usize) {
        let v = self.pin_val[p];
        if v == NONE {
            return;
        }
        self.pin_val[p] = NONE;
        if self.info[v as usize].last_use >= self.n as u32 && self.lives_on(v) {
            let t = self.temp();
            self.asm.mov_rr(Width::B8, t, PINS[p]);
            self.locked &= !(1 << t.0);
            self.place(v, t);
        } else {
            self.info[v as usize].loc = Loc::Nowhere;
        }
    }

    /// Guest state bytes are about to change: values that still are there and live on are loaded.
    pub fn evict_state(&mut self, offset: u32, size: u32) {
        let mut k = 0;
        while k < self.in_state.len() {
            let v = self.in_state[k];
            let Loc::State { offset: o, size: s } = self.info[v as usize].loc else {
                self.in_state.swap_remove(k);
                continue;
            };
            if o + s as u32 <= offset || offset + size <= o {
                k += 1;
                continue;
            }
            if self.info[v as usize].last_use == self.n as u32 {
                // An operand of this very instruction: it is read before the change and released after it.
                k += 1;
                continue;
            }
            self.in_state.swap_remove(k);
            if !self.lives_on(v) {
                self.info[v as usize].loc = Loc::Nowhere;
            } else if self.inst(Val(v)).gives() == Ty::V128 {
                let x = self.vec_temp();
                self.load_vec_state(x, o, s);
                self.vec_locked &= !(1 << x.0);
                self.place_vec(v, x);
            } else {
                let t = self.temp();
                self.load_state(t, o, s);
                self.locked &= !(1 << t.0);
                self.place(v, t);
            }
        }
    }

    /// Writes pinned registers to their places in the state.
    pub fn store_pins(&mut self, count: usize) {
        for p in 0..count.min(self.env.layout.pinned.len()) {
            let loc = self.env.layout.pinned[p];
            let w = if loc.size == 8 { Width::B8 } else { Width::B4 };
            self.asm.mov_rm_r(w, block(loc.offset as i32), PINS[p]);
        }
    }

    pub fn load_pins(&mut self, count: usize) {
        for p in 0..count.min(self.env.layout.pinned.len()) {
            let loc = self.env.layout.pinned[p];
            let w = if loc.size == 8 { Width::B8 } else { Width::B4 };
            self.asm.mov_r_rm(w, PINS[p], block(loc.offset as i32));
        }
    }

    /// Before a call: temporaries whose values live on go to spill slots (rbx survives calls), and so do vectors.
    pub fn save_temps_for_call(&mut self, all: bool) {
        self.run = None;
        for r in TEMPS {
            let v = self.reg_val[r.0 as usize];
            if v != NONE && (r != RBX || all) {
                self.spill(r);
            }
        }
        for k in 0..16 {
            if self.vec_val[k] != NONE {
                self.spill_vec(Xmm(k as u8));
            }
        }
        const { assert!(CALLER_SAVED_PINS <= PINS.len()) };
    }

    // ---- vector registers ----------------------------------------------------------------------------------------------

    pub fn vec_temp(&mut self) -> Xmm {
        let free = (0..16u8).find(|&k| self.vec_val[k as usize] == NONE && self.vec_locked >> k & 1 == 0);
        let k = free.unwrap_or_else(|| {
            let victim = (0..16u8)
                .filter(|&k| self.vec_locked >> k & 1 == 0)
                .max_by_key(|&k| self.info[self.vec_val[k as usize] as usize].last_use)
                .expect("an instruction needs more vector registers than there are");
            self.spill_vec(Xmm(victim));
            victim
        });
        self.vec_locked |= 1 << k;
        Xmm(k)
    }

    /// A particular vector register, locked; what it holds moves elsewhere. To be called before operands are fetched.
    pub fn vec_exactly(&mut self, x: Xmm) -> Xmm {
        let v = self.vec_val[x.0 as usize];
        let other = (0..16u8).find(|&k| k != x.0 && self.vec_val[k as usize] == NONE && self.vec_locked >> k & 1 == 0);
        match other {
            _ if v == NONE => {}
            Some(k) => {
                self.vmove(VecOp::Movaps, Xmm(k), XRm::Reg(x));
                self.vec_val[x.0 as usize] = NONE;
                self.place_vec(v, Xmm(k));
            }
            None => self.spill_vec(x),
        }
        self.vec_locked |= 1 << x.0;
        x
    }

    /// The current instruction needs this register no more.
    pub fn vec_unlock(&mut self, x: Xmm) {
        self.vec_locked &= !(1 << x.0);
    }

    fn place_vec(&mut self, v: u32, x: Xmm) {
        self.vec_val[x.0 as usize] = v;
        self.info[v as usize].loc = Loc::Vec(x);
    }

    pub fn spill_vec(&mut self, x: Xmm) {
        let v = self.vec_val[x.0 as usize];
        if v == NONE {
            return;
        }
        if self.free_vec_slots == 0 {
            self.failed = true;
            self.vec_val[x.0 as usize] = NONE;
            return;
        }
        let s = self.free_vec_slots.trailing_zeros() as u8;
        self.free_vec_slots &= !(1 << s);
        self.vstore(VecOp::MovupsStore, vec_slot(s as usize), x);
        self.info[v as usize].loc = Loc::VecSlot(s);
        self.vec_val[x.0 as usize] = NONE;
    }

    pub fn vstore(&mut self, op: VecOp, m: Mem, x: Xmm) {
        if self.env.features.avx {
            self.asm.vex_store(op, XRm::Mem(m), x);
        } else {
            self.asm.sse_store(op, XRm::Mem(m), x);
        }
    }

    /// A move with one source: loads, movaps, movq ….
    pub fn vmove(&mut self, op: VecOp, x: Xmm, s: XRm) {
        if self.env.features.avx {
            self.asm.vex_op(op, x, Xmm(0), s);
        } else {
            self.asm.sse_op(op, x, s);
        }
    }

    /// Loads a part of memory, zero-extended.
    pub fn vload(&mut self, x: Xmm, m: Mem, size: u8) {
        match size {
            4 if self.env.features.avx => self.asm.vmovd_x_rm(Width::B4, x, m),
            4 => self.asm.movd_x_rm(Width::B4, x, m),
            8 => self.vmove(VecOp::Movq, x, XRm::Mem(m)),
            _ => self.vmove(VecOp::Movups, x, XRm::Mem(m)),
        }
    }

    fn load_vec_state(&mut self, x: Xmm, offset: u32, size: u8) {
        if size >= 4 {
            return self.vload(x, block(offset as i32), size);
        }
        // Half and byte registers pass through an integer register.
        let t = self.temp();
        self.load_state(t, offset, size);
        self.movd_to_vec(x, t, Width::B4);
        self.locked &= !(1 << t.0);
    }

    pub fn movd_to_vec(&mut self, x: Xmm, r: Gpr, w: Width) {
        if self.env.features.avx {
            self.asm.vmovd_x_rm(w, x, r);
        } else {
            self.asm.movd_x_rm(w, x, r);
        }
    }

    pub fn movd_from_vec(&mut self, r: Gpr, x: Xmm, w: Width) {
        if self.env.features.avx {
            self.asm.vmovd_rm_x(w, r, x);
        } else {
            self.asm.movd_rm_x(w, r, x);
        }
    }

    /// The value in a vector register, locked.
    pub fn vec(&mut self, v: Val) -> Xmm {
        match self.info[v.index()].loc {
            Loc::Vec(x) => {
                self.vec_locked |= 1 << x.0;
                x
            }
            Loc::VecSlot(s) => {
                let x = self.vec_temp();
                self.vmove(VecOp::Movups, x, XRm::Mem(vec_slot(s as usize)));
                self.free_vec_slots |= 1 << s;
                self.place_vec(v.0, x);
                x
            }
            Loc::State { offset, size } => {
                let x = self.vec_temp();
                self.load_vec_state(x, offset, size);
                self.in_state.retain(|&y| y != v.0);
                self.place_vec(v.0, x);
                x
            }
            Loc::Nowhere if self.inst(v).op == Op::VConst => {
                let x = self.vec_temp();
                let value = self.r.vconsts[self.inst(v).a as usize];
                self.load_vec_constant(x, value);
                self.place_vec(v.0, x);
                x
            }
            loc => panic!("v{} is not a vector in reach: {loc:?}", v.0),
        }
    }

    /// The value as a source operand: memory if a whole vector is there and this is its last use.
    pub fn vec_src(&mut self, v: Val) -> XRm {
        // Legacy SSE demands aligned memory operands; the state's vectors are 16-aligned, spill slots are too.
        let last = self.info[v.index()].last_use <= self.n as u32;
        match self.info[v.index()].loc {
            Loc::State { offset, size: 16 } if last && offset % 16 == 0 => XRm::Mem(block(offset as i32)),
            Loc::VecSlot(s) if last => XRm::Mem(vec_slot(s as usize)),
            _ => XRm::Reg(self.vec(v)),
        }
    }

    pub fn load_vec_constant(&mut self, x: Xmm, value: u128) {
        if value == 0 {
            return self.vbin(VecOp::Pxor, x, x, XRm::Reg(x));
        }
        if value == u128::MAX {
            return self.vbin(VecOp::Pcmpeqd, x, x, XRm::Reg(x));
        }
        let label = self.out.constant(self.asm, value);
        self.vmove(VecOp::Movups, x, XRm::Mem(Mem::rip(0)));
        self.asm.link_rel32(label);
    }

    /// d = op(a, b).
    pub fn vbin(&mut self, op: VecOp, d: Xmm, a: Xmm, b: XRm) {
        if self.env.features.avx {
            self.asm.vex_op(op, d, a, b);
            return;
        }
        if d == a {
            return self.asm.sse_op(op, d, b);
        }
        if b == XRm::Reg(d) {
            let t = self.vec_temp();
            self.asm.sse_op(VecOp::Movaps, t, XRm::Reg(a));
            self.asm.sse_op(op, t, b);
            self.asm.sse_op(VecOp::Movaps, d, XRm::Reg(t));
            self.vec_locked &= !(1 << t.0);
            return;
        }
        self.asm.sse_op(VecOp::Movaps, d, XRm::Reg(a));
        self.asm.sse_op(op, d, b);
    }

    /// The vector register in which the current instruction makes its value.
    pub fn vec_dst(&mut self) -> Xmm {
        let x = self.vec_temp();
        self.place_vec(self.n as u32, x);
        x
    }

    /// Says that the current value is in this vector register.
    pub fn define_vec(&mut self, x: Xmm) {
        self.place_vec(self.n as u32, x);
    }

    /// All slots free, as at the start.
    pub fn slots() -> (u64, u32) {
        const { assert!(INT_SLOTS == 64 && VEC_SLOTS == 32) };
        (u64::MAX, u32::MAX)
    }

    pub fn unlock(&mut self, r: Gpr) {
        self.locked &= !(1 << r.0);
    }
}
