//! The [`Translator`]: register access, flags, conditions and exits for the instruction bodies, and the loop that fills a
//! region.
//!
//! Conditional instructions: a conditional branch is one side exit; a short run of plain data processing under one
//! condition writes its registers through `select_cc`; any other run is jumped over by a skip.
//!
//! **Reference.** Arm ARM (DDI 0406C) A2.3.1 (interworking), A2.5.2 (ITSTATE), A8.3 (conditional execution).

use crate::features::Features;
use crate::guest::Arm;
use crate::state::{self, bank, it_advance, key};
use crate::system::{Options, regime};
use crate::{a32, t16, t32};
use cpu::{Code, Limits};
use ir::build::Hint;
use ir::{Builder, Cc, FpMode, MemOp, TrapKind, Ty, Val, flag};

/// What comes after an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// The next one of the region.
    Next,
    /// Nothing: the region was left.
    End,
}

/// How the current instruction's condition is being applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Predicate {
    /// It executes.
    Always,
    /// It lies in a skipped run: where it is reached it executes.
    Run,
    /// Register writes select by this condition.
    Select(Cc),
    /// The body itself makes conditional exits (branches).
    Own(Cc),
}

/// Condition "always".
const AL: u8 = 14;
/// Longest run of conditional instructions that becomes selects.
const SELECT_RUN: usize = 3;
/// How far ahead an unconditional branch may go to be followed within the region.
const FOLLOW_BYTES: u32 = 4096;

/// Translates one region.
pub struct Translator {
    pub b: Builder,
    /// Address of the current instruction.
    pub pc: u32,
    /// T32 or T16, not A32.
    pub thumb: bool,
    /// Floating-point mode that FPSCR asks for.
    pub mode: FpMode,
    pub features: Features,
    pub arm: Arm,
    /// In a machine; `None` in user-mode emulation.
    pub system: Option<Options>,
    /// M\[3:0\] of CPSR.
    pub cpu_mode: u32,
    /// The current instruction (T32: first halfword on top) and its length in bytes.
    pub word: u32,
    pub length: u32,
    /// ITSTATE before the current instruction.
    pub it: u8,
    /// ITSTATE after it.
    next_it: u8,
    /// Data accesses are big-endian.
    pub big_endian: bool,
    /// E and FPSCR bits of keys made here.
    static_key: u64,
    predicate: Predicate,
    flags_written: bool,
    /// Addresses are relative to the page being executed (system mode).
    relative: bool,
    /// Where the region goes on, when not right after the current instruction.
    follow: Option<u32>,
    window: Window,
}

/// Code that was read ahead, from an address up, at most to the end of its page.
struct Window {
    at: u32,
    length: usize,
    bytes: [u8; WINDOW_BYTES],
}

const WINDOW_BYTES: usize = 128;

impl Window {
    const EMPTY: Window = Window { at: 0, length: 0, bytes: [0; WINDOW_BYTES] };

    /// `N` bytes from `pc` on, if they can be fetched.
    fn get<const N: usize>(&mut self, code: &dyn Code, pc: u32) -> Option<[u8; N]> {
        let mut from = pc.wrapping_sub(self.at) as usize;
        if from.saturating_add(N) > self.length {
            let left = 4096 - (pc as usize & 4095);
            self.at = pc;
            self.length = code.read(pc as u64, &mut self.bytes[..left.min(WINDOW_BYTES)]);
            from = 0;
        }
        if let Some(bytes) = self.bytes[..self.length].get(from..from + N) {
            return bytes.try_into().ok();
        }
        let mut over = [0; N];
        (code.read(pc as u64, &mut over) == N).then_some(over)
    }
}

/// One fetched instruction.
#[derive(Clone, Copy)]
struct Fetched {
    word: u32,
    length: u32,
    /// Its condition.
    cond: u8,
}

/// The IR condition of an A32 condition code, on flags whose C is inverted; `None` for "always".
pub fn condition(code: u8) -> Option<Cc> {
    Some(match code {
        0 => Cc::Z,
        1 => Cc::Nz,
        2 => Cc::Nc,
        3 => Cc::C,
        4 => Cc::N,
        5 => Cc::Nn,
        6 => Cc::V,
        7 => Cc::Nv,
        8 => Cc::NcNz,
        9 => Cc::CorZ,
        10 => Cc::Ge,
        11 => Cc::Lt,
        12 => Cc::Gt,
        13 => Cc::Le,
        _ => return None,
    })
}

impl Translator {
    /// Translates the region `region_key` into `b`, which has begun with it.
    pub fn region(arm: Arm, region_key: u64, limits: Limits, code: &dyn Code, b: &mut Builder) {
        let mut t = Translator {
            b: std::mem::take(b),
            pc: key::pc(region_key),
            thumb: key::thumb(region_key),
            mode: key::fp_mode(region_key),
            features: arm.features,
            system: arm.options,
            arm,
            cpu_mode: key::mode(region_key),
            word: 0,
            length: 0,
            it: if key::thumb(region_key) { key::it(region_key) } else { 0 },
            next_it: 0,
            big_endian: region_key & key::E != 0,
            static_key: region_key & key::STATIC,
            predicate: Predicate::Always,
            flags_written: false,
            relative: limits.relative,
            follow: None,
            window: Window::EMPTY,
        };
        t.b.regime = t.regime();
        t.fill(limits, code);
        *b = t.b;
    }

    fn fill(&mut self, limits: Limits, code: &dyn Code) {
        let start = self.pc;
        // The contiguous stretch being translated, for `covers`.
        let mut stretch = self.pc;
        let mut run: Option<u8> = None;
        let mut selects = 0;
        let mut count = 0;
        loop {
            if count >= limits.max_insns || self.relative && (self.pc ^ start) & !0xfff != 0 {
                self.leave(run.take());
                break;
            }
            let Some(f) = self.fetch(code, self.pc, self.it) else {
                if count == 0 {
                    self.b.insn(0, self.it as u32 | 4 << 8);
                    let key = self.key_here();
                    self.b.trap(TrapKind::FetchFault, 0, key);
                } else {
                    self.leave(run.take());
                }
                break;
            };
            count += 1;
            self.word = f.word;
            self.length = f.length;
            self.next_it = it_advance(self.it);
            self.flags_written = false;
            if run.is_some_and(|c| c != f.cond) {
                self.b.label();
                run = None;
            }
            self.b.insn(self.pc.wrapping_sub(start) as i32, self.it as u32 | f.length << 8);
            self.apply_condition(&f, &mut run, &mut selects, limits.max_insns - count, code);
            let flow = if self.in_kernel_page(self.pc) { self.kernel_helper() } else { self.execute() };
            let next = self.pc.wrapping_add(f.length);
            if flow == Flow::End && run.take().is_some() {
                self.b.label();
            } else if flow == Flow::End {
                self.pc = next;
                break;
            }
            if self.flags_written && run.take().is_some() {
                self.b.label();
            }
            self.it = self.next_it;
            self.pc = match self.follow.take() {
                Some(target) => {
                    self.cover(stretch, next);
                    stretch = target;
                    target
                }
                None => next,
            };
        }
        self.cover(stretch, self.pc.max(stretch.wrapping_add(1)));
    }

    fn cover(&mut self, from: u32, to: u32) {
        if self.in_kernel_page(from) {
            return;
        }
        let length = to.wrapping_sub(from);
        self.b.region_mut().covers.push((from as u64, length));
    }

    /// Ends the region before the current instruction.
    fn leave(&mut self, run: Option<u8>) {
        if run.is_some() {
            self.b.label();
        }
        let key = self.key_here();
        self.b.exit(key);
    }

    fn fetch(&mut self, code: &dyn Code, pc: u32, it: u8) -> Option<Fetched> {
        if self.in_kernel_page(pc) {
            return Some(Fetched { word: 0, length: 4, cond: AL });
        }
        if !self.thumb {
            let word = u32::from_le_bytes(self.window.get(code, pc)?);
            // 1111 is the unconditional space.
            return Some(Fetched { word, length: 4, cond: ((word >> 28) as u8).min(AL) });
        }
        let first = u16::from_le_bytes(self.window.get(code, pc)?) as u32;
        let cond = if it & 15 != 0 { (it >> 4).min(AL) } else { AL };
        if first >= 0xe800 {
            let second = u16::from_le_bytes(self.window.get(code, pc.wrapping_add(2))?) as u32;
            let word = first << 16 | second;
            return Some(Fetched { word, length: 4, cond: t32::branch_condition(word).unwrap_or(cond) });
        }
        // B<c> (T1) has its own condition field.
        let cond = if first >> 12 == 13 && first >> 9 & 7 != 7 { (first >> 8 & 15) as u8 } else { cond };
        Some(Fetched { word: first, length: 2, cond })
    }

    /// Chooses how the current instruction is made conditional, opening a run if need be.
    fn apply_condition(&mut self, f: &Fetched, run: &mut Option<u8>, selects: &mut usize, left: u32, code: &dyn Code) {
        let Some(cc) = condition(f.cond) else {
            self.predicate = Predicate::Always;
            *selects = 0;
            return;
        };
        if run.is_some() {
            self.predicate = Predicate::Run;
            return;
        }
        if self.is_branch(f) {
            self.predicate = Predicate::Own(cc);
            return;
        }
        if *selects == 0 {
            *selects = self.selectable_run(f, left, code);
        }
        if *selects > 0 {
            *selects -= 1;
            self.predicate = Predicate::Select(cc);
            return;
        }
        let flags = self.b.get_flags();
        self.b.skip_cc(cc.invert(), flags);
        *run = Some(f.cond);
        self.predicate = Predicate::Run;
    }

    fn is_branch(&self, f: &Fetched) -> bool {
        match (self.thumb, f.length) {
            (false, _) => a32::branch::is_direct_branch(f.word),
            (true, 2) => f.word >> 12 == 13 || f.word >> 11 == 0b11100,
            (true, _) => t32::is_direct_branch(f.word),
        }
    }

    fn is_selectable(&self, f: &Fetched) -> bool {
        match (self.thumb, f.length) {
            (false, _) => a32::data_processing::is_selectable(f.word),
            (true, 2) => t16::is_selectable(f.word),
            (true, _) => t32::is_selectable(f.word),
        }
    }

    /// How many instructions from the current one on are conditional data processing; 0 where a skip is better: the run is
    /// long, or something else under the same condition follows.
    fn selectable_run(&mut self, f: &Fetched, left: u32, code: &dyn Code) -> usize {
        let (mut f, mut pc, mut it) = (*f, self.pc, self.it);
        let first = f.cond;
        let mut n = 0;
        while self.is_selectable(&f) && f.cond < AL && n < SELECT_RUN {
            n += 1;
            pc = pc.wrapping_add(f.length);
            it = it_advance(it);
            match self.fetch(code, pc, it) {
                Some(next) if n <= left as usize => f = next,
                _ => return n,
            }
        }
        let goes_on = f.cond == first && !self.is_branch(&f);
        if goes_on { 0 } else { n }
    }

    /// Decodes and translates the current instruction.
    fn execute(&mut self) -> Flow {
        let (row, word) = match (self.thumb, self.length) {
            (false, _) => (a32::find(self.word), self.word),
            (true, 2) => (t16::find(self.word), self.word),
            (true, _) => a32::fp::find_t32(self.word),
        };
        let known = !self.thumb || self.length == 2 || self.has(Features::V6T2) || t32::is_call(self.word);
        let disabled = self.static_key & key::NO_FP != 0 && self.is_fp(word);
        match row.and_then(|r| r.handler) {
            Some(handler) if known && !disabled => handler(self, word),
            _ => self.undefined(),
        }
    }

    // ---- privilege -------------------------------------------------------------------------------------------------

    /// In a machine, not in User mode.
    pub fn privileged(&self) -> bool {
        self.system.is_some() && self.cpu_mode != bank::mode::USR
    }

    /// In a machine whose exceptions stay between User mode and PL1, so that they need no run loop.
    pub fn has_plain_exceptions(&self) -> bool {
        self.system.is_some_and(|o| !o.secure && !o.virtualization)
    }

    /// The regime of ordinary accesses.
    pub fn regime(&self) -> u8 {
        regime::of_key(self.static_key)
    }

    /// Whether an address is in the page of helpers that a kernel gives user programs.
    fn in_kernel_page(&self, address: u32) -> bool {
        self.system.is_none() && kernel_page(address)
    }

    /// Whether the instruction (in its A32 form) needs floating point to be enabled: all but the system registers of VFP.
    fn is_fp(&self, a32: u32) -> bool {
        let thumb_other = self.thumb && (self.length == 2 || a32::fp::a32_form(self.word).is_none());
        !thumb_other && a32::fp::needs_enable(a32)
    }

    // ---- features --------------------------------------------------------------------------------------------------

    pub fn has(&self, f: Features) -> bool {
        self.features.has(f)
    }

    /// UNDEFINED: a trap at this instruction.
    pub fn undefined(&mut self) -> Flow {
        let key = self.key_here();
        self.trap(TrapKind::Undefined, self.word, key)
    }

    // ---- keys and exits --------------------------------------------------------------------------------------------

    fn key_of(&self, pc: u32, it: u8) -> u64 {
        pc as u64 | self.thumb as u64 | (it as u64) << key::IT_SHIFT | self.static_key
    }

    /// Key of this instruction.
    pub fn key_here(&self) -> u64 {
        self.key_of(self.pc, self.it)
    }

    /// Key of the instruction after this one.
    pub fn key_next(&self) -> u64 {
        self.key_of(self.pc.wrapping_add(self.length), self.next_it)
    }

    /// Key of a branch target in this instruction set.
    pub fn key_target(&self, target: u32) -> u64 {
        self.key_of(target, 0)
    }

    /// Bits that do not change at branches: data endianness and floating-point control.
    pub fn static_key(&self) -> u64 {
        self.static_key
    }

    /// Begins a conditional way out of an instruction whose register writes are selects.
    fn begin_leaving(&mut self) -> bool {
        let (Predicate::Select(cc) | Predicate::Own(cc)) = self.predicate else { return false };
        let flags = self.b.get_flags();
        self.b.skip_cc(cc.invert(), flags);
        true
    }

    fn end_leaving(&mut self, conditional: bool) -> Flow {
        if conditional {
            self.b.label();
            return Flow::Next;
        }
        Flow::End
    }

    /// A key of this page as a value.
    pub fn key_value(&mut self, key: u64) -> Val {
        let address = self.code_address(key as u32);
        let address = self.b.zext32(address);
        self.b.or_imm(address, key & !0xffff_ffff)
    }

    /// Leaves to a key that `make` computes.
    pub fn exit_by(&mut self, make: impl FnOnce(&mut Self) -> Val) -> Flow {
        let conditional = self.begin_leaving();
        let key = make(self);
        self.b.exit_ind(key, Hint::Jump);
        self.end_leaving(conditional)
    }

    /// Leaves to the run loop.
    pub fn trap(&mut self, kind: TrapKind, arg: u32, key: u64) -> Flow {
        let conditional = self.begin_leaving();
        self.b.trap(kind, arg, key);
        self.end_leaving(conditional)
    }

    /// Leaves to a constant key.
    pub fn exit(&mut self, key: u64) -> Flow {
        let conditional = self.begin_leaving();
        self.b.exit(key);
        self.end_leaving(conditional)
    }

    /// A branch to a constant address in this instruction set, under the instruction's condition.
    pub fn branch(&mut self, target: u32) -> Flow {
        let key = self.key_target(target);
        match self.predicate {
            Predicate::Own(cc) | Predicate::Select(cc) => {
                let flags = self.b.get_flags();
                self.b.exit_cc(cc, flags, key);
                Flow::Next
            }
            Predicate::Always if self.can_follow(target) => {
                self.follow = Some(target);
                Flow::Next
            }
            _ => self.exit(key),
        }
    }

    /// Whether the region may go on at a branch target: a short way ahead, so that regions end.
    fn can_follow(&self, target: u32) -> bool {
        let ahead = target.wrapping_sub(self.pc);
        let here = if self.relative { target < 0x1000 } else { !self.in_kernel_page(target) };
        ahead >= self.length && ahead < FOLLOW_BYTES && target > self.pc && here
    }

    /// BXWritePC: bit 0 chooses the instruction set.
    pub fn bx_write_pc(&mut self, address: Val, hint: Hint) -> Flow {
        let conditional = self.begin_leaving();
        let wide = self.b.zext32(address);
        let key = self.b.or_imm(wide, self.static_key);
        self.b.exit_ind(key, hint);
        self.end_leaving(conditional)
    }

    /// BranchWritePC: stays in this instruction set.
    pub fn branch_write_pc(&mut self, address: Val) -> Flow {
        let address = if self.thumb { self.b.or_imm(address, 1) } else { self.b.and_imm(address, !3u32 as u64) };
        self.bx_write_pc(address, Hint::Jump)
    }

    /// ALUWritePC: interworks in A32 from ARMv7 on only.
    pub fn alu_write_pc(&mut self, address: Val, hint: Hint) -> Flow {
        if !self.thumb && self.has(Features::V7) {
            self.bx_write_pc(address, hint)
        } else {
            self.branch_write_pc(address)
        }
    }

    /// LoadWritePC: interworks from ARMv5T on.
    pub fn load_write_pc(&mut self, address: Val, hint: Hint) -> Flow {
        if self.has(Features::V5TE) { self.bx_write_pc(address, hint) } else { self.branch_write_pc(address) }
    }

    // ---- registers -------------------------------------------------------------------------------------------------

    pub fn imm(&mut self, value: u32) -> Val {
        self.b.i32(value)
    }

    /// What reading R15 gives.
    pub fn pc_value(&self) -> u32 {
        self.pc.wrapping_add(if self.thumb { 4 } else { 8 })
    }

    /// Align(PC, 4), the base of literal addresses.
    pub fn pc_aligned(&self) -> u32 {
        self.pc_value() & !3
    }

    /// An address of code as a value.
    pub fn code_address(&mut self, address: u32) -> Val {
        if self.relative {
            let page = self.b.get32(state::PAGE);
            return self.b.add_imm(page, address as u64);
        }
        self.imm(address)
    }

    /// Core register `n`; R15 reads as the instruction's address plus 8 (A32) or 4 (T32).
    pub fn reg(&mut self, n: u32) -> Val {
        if n == 15 {
            let pc = self.pc_value();
            return self.code_address(pc);
        }
        self.b.get32(state::r(n))
    }

    /// As `reg`, with R15 as a base address (aligned).
    pub fn base(&mut self, n: u32) -> Val {
        if n == 15 {
            let pc = self.pc_aligned();
            return self.code_address(pc);
        }
        self.reg(n)
    }

    /// Writes core register `n`, under the instruction's condition. Where R15 may not be written (UNPREDICTABLE) it is left
    /// alone; where it may, one of the `write_pc` functions is used.
    pub fn set_reg(&mut self, n: u32, value: Val) {
        if n == 15 {
            return;
        }
        let value = match self.predicate {
            Predicate::Select(cc) => {
                let flags = self.b.get_flags();
                let old = self.reg(n);
                self.b.select_cc(cc, flags, value, old)
            }
            _ => value,
        };
        self.b.set32(state::r(n), value);
    }

    /// Writes a result: R15 is a jump.
    pub fn write(&mut self, n: u32, value: Val) -> Flow {
        if n == 15 {
            return self.alu_write_pc(value, Hint::Jump);
        }
        self.set_reg(n, value);
        Flow::Next
    }

    // ---- flags -----------------------------------------------------------------------------------------------------

    /// The flags, C inverted.
    pub fn flags(&mut self) -> Val {
        self.b.get_flags()
    }

    /// Replaces the flags, C inverted.
    pub fn set_flags(&mut self, f: Val) {
        self.flags_written = true;
        self.b.set_flags(f);
    }

    /// N and Z of a result; C from `carry` (0 or 1) if given, V kept.
    pub fn set_nz(&mut self, result: Val, carry: Option<Val>) {
        let nz = self.b.f_logic(result);
        let old = self.flags();
        let (f, mask) = match carry {
            Some(c) => {
                let one = self.imm(1);
                let inverted = self.b.xor(c, one);
                (self.b.f_set_c(nz, inverted), flag::N | flag::Z | flag::C)
            }
            None => (nz, flag::N | flag::Z),
        };
        let merged = self.b.f_merge(f, old, mask);
        self.set_flags(merged);
    }

    /// C as 0 or 1.
    pub fn carry(&mut self) -> Val {
        let f = self.flags();
        self.b.cc_bit(Cc::Nc, f)
    }

    /// NZCV in bits 31:28, other bits 0.
    pub fn nzcv(&mut self) -> Val {
        let f = self.flags();
        let f = self.b.f_invert_c(f);
        let w = self.b.f_word(f);
        let nz = self.b.and_imm(w, (flag::N | flag::Z) as u64);
        let nz = self.b.shl_imm(nz, 16);
        let c = self.b.ubfx(w, 8, 1);
        let c = self.b.shl_imm(c, 29);
        let v = self.b.and_imm(w, 1);
        let v = self.b.shl_imm(v, 28);
        let nzc = self.b.or(nz, c);
        self.b.or(nzc, v)
    }

    /// Sets NZCV from bits 31:28 of a value.
    pub fn set_nzcv(&mut self, value: Val) {
        let nz = self.b.shr_imm(value, 16);
        let nz = self.b.and_imm(nz, (flag::N | flag::Z) as u64);
        let c = self.b.ubfx(value, 29, 1);
        let c = self.b.shl_imm(c, 8);
        let v = self.b.ubfx(value, 28, 1);
        let w = self.b.or(nz, c);
        let w = self.b.or(w, v);
        let f = self.b.f_make(w);
        let f = self.b.f_invert_c(f);
        self.set_flags(f);
    }

    /// Makes Q sticky-set by `saturated` (0 or 1).
    pub fn or_q(&mut self, saturated: Val) {
        let old = self.b.get32(state::CPSR_Q);
        let new = self.b.or(old, saturated);
        self.b.set32(state::CPSR_Q, new);
    }

    // ---- memory ----------------------------------------------------------------------------------------------------

    /// SCTLR.A: every access must be aligned to its (element's) size.
    pub fn checks_alignment(&self) -> bool {
        self.static_key & key::ALIGN != 0
    }

    /// `op` in the current data endianness and alignment checking.
    pub fn endian(&self, op: MemOp) -> MemOp {
        let op = if self.big_endian && op.log2() > 0 { op.swapped() } else { op };
        // Wider accesses are of several words or of vector elements, and check for themselves.
        let strict = self.checks_alignment() && matches!(op.log2(), 1 | 2) && op.align_mask() == 0;
        if strict { op.aligned() } else { op }
    }

    /// Loads into an I32.
    pub fn load(&mut self, op: MemOp, address: Val) -> Val {
        let op = self.endian(op);
        self.b.ld(Ty::I32, op, address)
    }

    pub fn store(&mut self, op: MemOp, address: Val, value: Val) {
        let op = self.endian(op);
        self.b.st(op, address, value);
    }

    // ---- Thumb -----------------------------------------------------------------------------------------------------

    pub fn in_it_block(&self) -> bool {
        self.it & 15 != 0
    }

    /// IT: the conditions of what follows.
    pub fn set_it(&mut self, it: u8) {
        self.next_it = it;
    }

    // ---- the kernel helper page ------------------------------------------------------------------------------------

    /// The helpers that Linux keeps at the top of the address space: two inline, the others by the run loop.
    fn kernel_helper(&mut self) -> Flow {
        match self.pc & !1 {
            0xffff_0fa0 => self.b.fence(false),
            0xffff_0fe0 => {
                let tls = self.b.get32(state::TPIDRURO);
                self.set_reg(0, tls);
            }
            address => {
                let key = self.key_here();
                return self.trap(TrapKind::KernelHelper, address, key);
            }
        }
        let lr = self.reg(14);
        self.bx_write_pc(lr, Hint::Return)
    }
}

fn kernel_page(pc: u32) -> bool {
    pc >= 0xffff_0f00
}
