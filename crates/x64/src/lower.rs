//! From an IR region to x86-64 code: one backward walk that finds last uses, then one forward walk that emits.
//!
//! **Lazy values** have no code of their own; they are emitted where they are used: copies (`zext32`), flags that are made
//! from other flags, a comparison or condition whose one use follows, an address sum used by one access, with a shifted
//! index. Their operands live as long as they do.

use crate::alloc::{Info, Loc, Lower, NONE};
use crate::asm::{Asm, Cc, Gpr, Label};
use crate::env::{Env, Memory, PINS};
use ir::ops::{ENDS_REGION, MARKER, MAY_FAULT, MAY_LEAVE, PURE};
use ir::pass::dead::{self, Scratch};
use ir::{Inst, Op, Region, Ty, Val};

mod call;
mod control;
pub(crate) mod flags;
mod float;
mod int;
mod memory;
pub(crate) mod soft;
mod vector;

/// A way out of compiled code to a constant key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitSite {
    /// Index in the region's exits.
    pub exit: u32,
    /// Offset in the code of the rel32 of the jump, a multiple of 4; `u32::MAX` if it must not be linked.
    pub patch: u32,
    /// Offset of the code that leaves when the jump is not linked.
    pub stub: u32,
}

/// The guest instruction behind a host instruction that may fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRecord {
    /// Offset of the host instruction from the start of the code.
    pub host: u32,
    pub delta: i32,
    pub note: u32,
}

/// What compiling a region gives, besides the code in the assembler.
#[derive(Default, Debug)]
pub struct Compiled {
    pub exits: Vec<ExitSite>,
    /// Ascending by `host`; the last ones, without a host instruction, are for runtime functions' faults.
    pub faults: Vec<FaultRecord>,
    /// Bytes of the main path; what is rarely executed lies behind it.
    pub main: usize,
}

/// Code that is emitted after the region's main path.
pub(crate) enum Cold {
    /// Leave through an exit site that is not linked.
    Exit { site: u32, stub: Label },
    /// A backward jump: store flags, look for an exit request, then go on.
    Back { from: Label, site: u32, to_self: bool, flags: Option<flags::Deferred> },
    /// Store flags, then leave through an exit site.
    Flags { from: Label, site: u32, flags: flags::Deferred },
    /// An indirect jump that the jump cache did not have.
    Indirect { from: Label, key: crate::asm::Gpr },
    /// An access was misaligned: its address is on the stack's call area.
    Alignment { from: Label, record: u32, addr: crate::asm::Gpr },
    /// A runtime function reported a fault.
    Fault { from: Label, record: u32 },
    /// A conditional trap.
    Trap { from: Label, kind: u8, arg: u32, key: u64 },
    /// A rare case of a floating-point operation.
    Float(Box<float::Slow>),
    /// An access that the translation tables cannot serve.
    Access(Box<soft::SlowAccess>),
    /// The jump cache does not have the key whose lower half is in eax.
    FarMiss { from: Label, high: i32 },
    /// A load-exclusive where versions matter.
    NoteVersion { from: Label, back: Label },
    /// A store-exclusive where versions matter.
    StrictSwap { swap: Box<memory::Swap>, from: Label, fail: Label, back: Label },
    /// A jump to another page.
    Far { from: Label, key: u64, flags: Option<flags::Deferred> },
    /// Emitted already.
    Done,
}

/// What emission produces besides code.
pub struct Output<'a> {
    pub(crate) compiled: &'a mut Compiled,
    pub(crate) cold: &'a mut Vec<Cold>,
    constants: &'a mut Vec<(Label, u128)>,
    /// Offset of the code in the code memory, for jumps to stubs.
    pub(crate) base: usize,
    /// Number of the first exit site.
    pub(crate) first_site: u32,
}

impl Output<'_> {
    pub fn constant(&mut self, asm: &mut Asm, value: u128) -> Label {
        if let Some((l, _)) = self.constants.iter().find(|(_, v)| *v == value) {
            return *l;
        }
        let l = asm.label();
        self.constants.push((l, value));
        l
    }
}

/// The compiler with its reusable memory.
#[derive(Default)]
pub struct Compiler {
    pub asm: Asm,
    pub compiled: Compiled,
    info: Vec<Info>,
    dead: Scratch,
    in_state: Vec<u32>,
    cold: Vec<Cold>,
    constants: Vec<(Label, u128)>,
}

/// The region needs more spill slots than there are: translate fewer guest instructions at once.
#[derive(Debug, PartialEq, Eq)]
pub struct TooComplex;

impl Compiler {
    pub fn new() -> Compiler {
        Compiler::default()
    }

    /// Compiles a region (whose conditions on flags it may rewrite) for offset `base` (a multiple of 16) of the code memory; the code is in `self.asm`, its exit sites
    /// are numbered from `first_site`.
    pub fn compile(&mut self, r: &mut Region, env: &Env, base: usize, first_site: u32) -> Result<(), TooComplex> {
        self.asm.clear();
        self.compiled.exits.clear();
        self.compiled.faults.clear();
        self.cold.clear();
        self.constants.clear();
        self.in_state.clear();
        dead::run(r, &mut self.dead);
        let r = &*r;
        analyse(r, env, &self.dead, &mut self.info);
        let entry = self.asm.label();
        self.asm.bind(entry);
        let (free_slots, free_vec_slots) = Lower::slots();
        let mut l = Lower {
            asm: &mut self.asm,
            r,
            env,
            info: &mut self.info,
            dead: &self.dead,
            n: 0,
            reg_val: [NONE; 16],
            locked: 0,
            pin_val: [NONE; 10],
            vec_val: [NONE; 16],
            vec_locked: 0,
            free_slots,
            free_vec_slots,
            released_slots: 0,
            released_vec_slots: 0,
            in_state: &mut self.in_state,
            flags_state: NONE,
            eflags: None,
            deferred: None,
            insn: (0, 0),
            out: Output {
                compiled: &mut self.compiled,
                cold: &mut self.cold,
                constants: &mut self.constants,
                base,
                first_site,
            },
            failed: false,
            label: None,
            entry,
            run: None,
        };
        for n in 0..r.insts.len() {
            l.n = n;
            if l.dead.is_live(n) {
                l.emit(&r.insts[n]);
                l.finish();
            }
            if l.failed {
                return Err(TooComplex);
            }
        }
        l.out.compiled.main = l.asm.len();
        l.emit_cold();
        if l.failed {
            return Err(TooComplex);
        }
        l.emit_constants();
        Ok(())
    }
}

/// Finds last uses, lazy values and destination hints, walking backward.
fn analyse(r: &Region, env: &Env, dead: &Scratch, info: &mut Vec<Info>) {
    info.clear();
    info.resize(r.insts.len(), Info::default());
    let pins = env.layout.pinned.len().min(PINS.len());
    let mut next_barrier = usize::MAX;
    // Per pin: the next instruction that reads its place, the next that sets it.
    let mut next_get = [usize::MAX; 10];
    let mut next_set = [usize::MAX; 10];
    for n in (0..r.insts.len()).rev() {
        let i = &r.insts[n];
        if !dead.is_live(n) {
            continue;
        }
        let me = info[n];
        if me.hint != 255 {
            let p = me.hint as usize;
            let set = next_set[p];
            // The value may be made in the register only if nobody can see the register in between.
            if !(set < next_barrier && next_get[p] > set && r.insts[set].b == n as u32) {
                info[n].hint = 255;
            }
        }
        info[n].lazy = is_lazy(r, dead, n, i, me) || i.op == Op::Shl && is_scaled_index(r, info, n, me);
        let at = if info[n].lazy { me.last_use } else { n as u32 };
        for v in i.values() {
            let o = &mut info[v.index()];
            o.last_use = o.last_use.max(at);
            o.uses = o.uses.saturating_add(1);
        }
        match i.op {
            Op::Set => {
                if let Some(p) = env.pin_at(i.a, i.aux).filter(|&p| p < pins) {
                    info[i.b as usize].hint = p as u8;
                    next_set[p] = n;
                    next_get[p] = usize::MAX;
                } else {
                    touch(env, i, pins, |p| next_get[p] = n);
                }
            }
            Op::Get => touch(env, i, pins, |p| next_get[p] = n),
            _ => {}
        }
        if i.op.has(MAY_FAULT | MAY_LEAVE | ENDS_REGION)
            || i.op.is_skip()
            || matches!(i.op, Op::Label | Op::Call | Op::VCall)
        {
            next_barrier = n;
        }
    }
}

/// Calls `f` for every pin whose place an access to the state overlaps.
fn touch(env: &Env, i: &Inst, pins: usize, f: impl FnMut(usize)) {
    env.pins.overlapping(i.a, i.aux as u32).filter(|&p| p < pins).for_each(f);
}

/// Whether an instruction is emitted where its value is used.
fn is_lazy(r: &Region, dead: &Scratch, n: usize, i: &Inst, me: Info) -> bool {
    // The next instruction that makes code.
    let next = || (n + 1..r.insts.len()).find(|&k| dead.is_live(k) && r.insts[k].op != Op::Const);
    let used_by_next = |ops: &[Op]| {
        me.uses == 1
            && next()
                .is_some_and(|k| me.last_use == k as u32 && r.insts[k].a == n as u32 && ops.contains(&r.insts[k].op))
    };
    match i.op {
        Op::Zext32 | Op::FMake | Op::FInvC | Op::FSetC | Op::FMerge => true,
        Op::Icmp => {
            used_by_next(&[Op::ExitNz, Op::ExitZ, Op::SkipNz, Op::SkipZ, Op::TrapNz]) || {
                used_by_next(&[Op::Select]) && r.insts[next().unwrap_or(n)].ty != Ty::V128
            }
        }
        Op::CcBit => used_by_next(&[Op::ExitNz, Op::ExitZ, Op::SkipNz, Op::SkipZ]),
        // An address: base + index, used once, as the address of an access that follows before the base can change.
        Op::Add if i.ty == Ty::I32 && r.constant(Val(i.b)).is_none() => used_by_next(&[Op::Ld, Op::St]),
        _ => false,
    }
}

/// Whether a shift makes nothing but the index of an address sum, which the access can scale by itself.
fn is_scaled_index(r: &Region, info: &[Info], n: usize, me: Info) -> bool {
    let access = &r.insts[me.last_use as usize];
    if me.uses != 1 || !matches!(access.op, Op::Ld | Op::St) {
        return false;
    }
    let sum = r.inst(Val(access.a));
    info[access.a as usize].lazy && sum.op == Op::Add && sum.b == n as u32 && scale(r, &r.insts[n]).is_some()
}

/// The scale of an index that a 32-bit shift to the left makes.
fn scale(r: &Region, i: &Inst) -> Option<u8> {
    let by = r.constant(Val(i.b)).filter(|by| (1..=3).contains(by))?;
    (i.op == Op::Shl && i.ty == Ty::I32).then_some(1 << by)
}

impl Lower<'_> {
    /// Base, index and scale of an address sum that has no code of its own.
    pub(crate) fn address_sum(&mut self, i: &Inst) -> (Gpr, Gpr, u8) {
        let base = self.gpr(Val(i.a));
        let index = *self.inst(Val(i.b));
        match scale(self.r, &index).filter(|_| self.info[i.b as usize].lazy) {
            Some(scale) => (base, self.gpr(Val(index.a)), scale),
            None => (base, self.gpr(Val(i.b)), 1),
        }
    }

    fn emit(&mut self, i: &Inst) {
        if self.info[self.n].lazy || i.op == Op::Const || i.op == Op::VConst {
            return;
        }
        if clobbers_eflags(i, self.env) {
            self.keep_eflags();
        }
        match i.op {
            Op::Const | Op::VConst | Op::PushRet => {}
            Op::Insn => self.insn = (i.a as i32, i.b),
            Op::Get => self.emit_get(i),
            Op::Set => self.emit_set(i),
            Op::FAdd | Op::FSub | Op::FAdc | Op::FSbb | Op::FLogic => self.emit_flags(i),
            Op::FWord => self.emit_fword(i),
            Op::Ld | Op::St | Op::LdEx | Op::StEx | Op::ClrEx | Op::Cas | Op::RmwOp | Op::Fence => self.emit_memory(i),
            Op::Call | Op::VCall => self.emit_call(i),
            Op::FpFlagsGet | Op::FpFlagsSet => self.emit_fp_flags(i),
            Op::Exit
            | Op::ExitCc
            | Op::ExitNz
            | Op::ExitZ
            | Op::ExitInd
            | Op::Trap
            | Op::TrapNz
            | Op::SkipCc
            | Op::SkipNz
            | Op::SkipZ
            | Op::Label => self.emit_control(i),
            _ if i.gives() == Ty::V128 || i.op == Op::FpCmp || i.op == Op::VExtract => self.emit_vector(i),
            _ => self.emit_int(i),
        }
    }

    fn emit_get(&mut self, i: &Inst) {
        let n = self.n as u32;
        if let Some(p) = self.env.pin_at(i.a, i.aux) {
            if self.pin_val[p] == NONE {
                self.pin_val[p] = n;
                self.info[self.n].loc = Loc::Pin(p as u8);
            } else {
                let d = self.dst(None);
                self.mov(crate::alloc::width(i.ty), d, PINS[p]);
            }
            return;
        }
        if i.ty == Ty::Flags {
            if self.flags_state == NONE || !self.needed(self.flags_state) {
                self.flags_state = n;
                self.info[self.n].loc = Loc::FlagsState;
            } else {
                let s = self.take_slot();
                self.copy_word(crate::env::int_slot(s as usize), crate::env::block(i.a as i32));
                self.info[self.n].loc = Loc::FlagsSlot(s);
            }
            return;
        }
        self.sync_overlapping_pins(i, true);
        self.info[self.n].loc = Loc::State { offset: i.a, size: i.aux };
        self.in_state.push(n);
    }

    /// A part of a pinned register is accessed as memory: brings its place up to date (`store`) or reloads it.
    fn sync_overlapping_pins(&mut self, i: &Inst, store: bool) {
        let env = self.env;
        let mut found = 0u32;
        touch(env, i, env.layout.pinned.len(), |p| found |= 1 << p);
        for p in 0..env.layout.pinned.len() {
            if found >> p & 1 != 0 {
                let loc = env.layout.pinned[p];
                let w = if loc.size == 8 { crate::asm::Width::B8 } else { crate::asm::Width::B4 };
                if store {
                    self.asm.mov_rm_r(w, crate::env::block(loc.offset as i32), PINS[p]);
                } else {
                    self.evict_pin(p);
                    self.asm.mov_r_rm(w, PINS[p], crate::env::block(loc.offset as i32));
                }
            }
        }
    }

    fn emit_set(&mut self, i: &Inst) {
        let v = Val(i.b);
        if let Some(p) = self.env.pin_at(i.a, i.aux) {
            return self.emit_set_pin(p, v, i.aux);
        }
        match self.inst(v).gives() {
            Ty::Flags => return self.emit_set_flags(i, v),
            Ty::V128 => return self.emit_set_vec(i, v),
            _ => {}
        }
        self.sync_overlapping_pins(i, true);
        let m = crate::env::block(i.a as i32);
        let w = crate::asm::Width::from_bytes(i.aux as u32);
        let s = self.src(v, w);
        self.evict_state(i.a, i.aux as u32);
        match s {
            crate::alloc::Src::Imm(k) => self.asm.mov_rm_imm(w, m, k),
            crate::alloc::Src::Reg(r) => self.asm.mov_rm_r(w, m, r),
            crate::alloc::Src::Mem(from) => {
                let t = self.temp();
                self.asm.mov_r_rm(w, t, from);
                self.asm.mov_rm_r(w, m, t);
            }
        }
        self.release();
        self.sync_overlapping_pins(i, false);
    }

    fn emit_set_pin(&mut self, p: usize, v: Val, size: u8) {
        let v = self.root(v);
        let pin = PINS[p];
        let w = if size == 8 { crate::asm::Width::B8 } else { crate::asm::Width::B4 };
        if self.info[v.index()].loc == Loc::Pin(p as u8) && self.pin_val[p] == v.0 {
            if !self.lives_on(v.0) {
                self.pin_val[p] = NONE;
                self.info[v.index()].loc = Loc::Nowhere;
            }
            return;
        }
        self.evict_pin(p);
        if let Some(k) = self.r.constant(v) {
            self.asm.mov_r_imm64(pin, k);
            return;
        }
        let s = self.src(v, w);
        self.mov_src(w, pin, s);
        let temp = matches!(self.info[v.index()].loc, Loc::Reg(_));
        self.release();
        if temp && self.lives_on(v.0) {
            // From here on the pinned register serves as its home, and the temporary is free.
            if let Loc::Reg(r) = self.info[v.index()].loc {
                self.reg_val[r.0 as usize] = NONE;
            }
            self.info[v.index()].loc = Loc::Pin(p as u8);
            self.pin_val[p] = v.0;
        }
    }

    fn emit_set_vec(&mut self, i: &Inst, v: Val) {
        let x = self.vec(v);
        self.evict_state(i.a, i.aux as u32);
        let m = crate::env::block(i.a as i32);
        use crate::asm::VecOp;
        match i.aux {
            16 => self.vstore(VecOp::MovupsStore, m, x),
            8 => self.vstore(VecOp::MovqStore, m, x),
            4 => self.vstore(VecOp::MovssStore, m, x),
            size => {
                let t = self.temp();
                self.movd_from_vec(t, x, crate::asm::Width::B4);
                self.asm.mov_rm_r(crate::asm::Width::from_bytes(size as u32), m, t);
            }
        }
        self.release();
    }

    fn emit_constants(&mut self) {
        if self.out.constants.is_empty() {
            return;
        }
        self.asm.align(16);
        for k in 0..self.out.constants.len() {
            let (label, value) = self.out.constants[k];
            self.asm.bind(label);
            self.asm.put(&value.to_le_bytes());
        }
    }

    /// Remembers which guest instruction the host instruction that comes next belongs to.
    pub(crate) fn record_fault(&mut self) -> u32 {
        let host = self.asm.len() as u32;
        let (delta, note) = self.insn;
        self.out.compiled.faults.push(FaultRecord { host, delta, note });
        self.out.compiled.faults.len() as u32 - 1
    }

    /// Whether a flags value is needed after the current instruction.
    pub(crate) fn needed(&self, v: u32) -> bool {
        self.info[v as usize].last_use > self.n as u32
    }
}

/// Whether the code of an operation changes EFLAGS (other than to make its own flags value).
fn clobbers_eflags(i: &Inst, env: &Env) -> bool {
    match i.op {
        Op::Insn
        | Op::Get
        | Op::Label
        | Op::Exit
        | Op::ExitCc
        | Op::SkipCc
        | Op::SelectCc
        | Op::CcBit
        | Op::Trap
        | Op::PushRet
        | Op::FWord
        | Op::Fence
        | Op::ExitNz
        | Op::ExitZ
        | Op::SkipNz
        | Op::SkipZ
        | Op::TrapNz
        | Op::Select => false,
        // Their own flags operand is consumed first.
        Op::Adc | Op::Sbb | Op::FAdc | Op::FSbb => false,
        Op::Set => false,
        Op::Ld | Op::St if env.memory == Memory::Soft32 => true,
        Op::Ld | Op::St => ir::MemOp(i.aux).align_mask() != 0 || ir::MemOp(i.aux).is_swapped(),
        Op::Zext8 | Op::Zext16 | Op::Sext8 | Op::Sext16 | Op::Sext32 | Op::Trunc | Op::Not => false,
        Op::VExtract | Op::VInsert | Op::VDup => false,
        // Vector instructions leave them alone, and a call saves them itself.
        _ if i.gives() == Ty::V128 && i.op.has(PURE) => false,
        _ => !i.op.has(MARKER),
    }
}

/// IR conditions have x86's order and encoding.
pub(crate) fn host_cc(cc: ir::Cc) -> Cc {
    Cc::ALL[cc as usize]
}

/// Host condition of an integer comparison.
pub(crate) fn compare_cc(cmp: ir::Cmp) -> Cc {
    match cmp {
        ir::Cmp::Eq => Cc::E,
        ir::Cmp::Ne => Cc::NE,
        ir::Cmp::Ult => Cc::B,
        ir::Cmp::Uge => Cc::AE,
        ir::Cmp::Ule => Cc::BE,
        ir::Cmp::Ugt => Cc::A,
        ir::Cmp::Slt => Cc::L,
        ir::Cmp::Sge => Cc::GE,
        ir::Cmp::Sle => Cc::LE,
        ir::Cmp::Sgt => Cc::G,
    }
}
