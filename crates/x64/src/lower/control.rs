//! Exits, traps, skips and labels, and the code out of line.

use super::flags::Deferred;
use super::{Cold, ExitSite};
use crate::alloc::{Loc, Lower, NONE};
use crate::asm::{Alu, Cc, Mem, RAX, RCX, RDX, Width};
use crate::env::{BIAS, block, reason};
use ir::{Inst, Op, Val};

impl Lower<'_> {
    pub(crate) fn emit_control(&mut self, i: &Inst) {
        match i.op {
            Op::Exit => self.emit_exit(i.b),
            Op::ExitCc => {
                let cc = self.test_cc(Val(i.a), ir::Cc::from_u8(i.aux));
                self.release();
                let flags = self.take_deferred();
                self.emit_exit_if(cc, i.b, flags);
            }
            Op::ExitNz | Op::ExitZ => {
                let cc = self.test_bool(Val(i.a));
                self.release();
                self.emit_exit_if(if i.op == Op::ExitNz { cc } else { cc.invert() }, i.b, None);
            }
            Op::ExitInd => self.emit_exit_indirect(i),
            Op::Trap => {
                let key = self.r.exits[i.b as usize].key;
                self.emit_trap(i.aux, i.a, key);
            }
            Op::TrapNz => {
                let cc = self.test_bool(Val(i.a));
                self.release();
                let from = self.asm.label();
                self.asm.jcc(cc, from);
                let key = self.r.exits[i.b as usize].key;
                self.out.cold.push(Cold::Trap { from, kind: i.aux, arg: i.c, key });
            }
            Op::SkipCc => {
                let cc = self.test_cc(Val(i.a), ir::Cc::from_u8(i.aux));
                self.release();
                self.skip(cc);
            }
            Op::SkipNz | Op::SkipZ => {
                let cc = self.test_bool(Val(i.a));
                self.release();
                self.skip(if i.op == Op::SkipNz { cc } else { cc.invert() });
            }
            _ => self.emit_label(),
        }
    }

    fn skip(&mut self, cc: Cc) {
        let label = match self.label {
            Some(l) => l,
            None => {
                let l = self.asm.label();
                self.label = Some(l);
                l
            }
        };
        self.asm.jcc(cc, label);
    }

    /// Values end here: nothing is in a temporary, guest state is all there is.
    fn emit_label(&mut self) {
        for k in 0..16 {
            self.reg_val[k] = NONE;
            self.vec_val[k] = NONE;
        }
        self.pin_val = [NONE; 10];
        self.run = None;
        (self.free_slots, self.free_vec_slots) = Lower::slots();
        (self.released_slots, self.released_vec_slots) = (0, 0);
        for &v in self.in_state.iter() {
            self.info[v as usize].loc = Loc::Nowhere;
        }
        self.in_state.clear();
        self.flags_state = NONE;
        self.eflags = None;
        if let Some(l) = self.label.take() {
            self.asm.bind(l);
        }
    }

    /// Whether a jump to this exit may close a loop without an indirect jump: such jumps look for exit requests.
    fn is_backward(&self, exit: u32) -> bool {
        self.r.exits[exit as usize].key <= self.r.key
    }

    fn new_site(&mut self, exit: u32, patch: u32, stub: u32) -> u32 {
        self.out.compiled.exits.push(ExitSite { exit, patch, stub });
        self.out.first_site + self.out.compiled.exits.len() as u32 - 1
    }

    fn emit_exit(&mut self, exit: u32) {
        if self.r.exits[exit as usize].far {
            return self.jump_far(self.r.exits[exit as usize].key);
        }
        if self.is_backward(exit) {
            let from = self.asm.label();
            self.asm.bind(from);
            return self.emit_back_jump(exit);
        }
        self.asm.align_rel32(1);
        let patch = self.asm.jmp_rel32_placeholder() as u32;
        let stub = self.asm.label();
        self.asm.link_rel32(stub);
        let site = self.new_site(exit, patch, 0);
        self.out.cold.push(Cold::Exit { site, stub });
    }

    fn emit_exit_if(&mut self, cc: Cc, exit: u32, flags: Option<Deferred>) {
        let from = self.asm.label();
        if self.r.exits[exit as usize].far {
            self.asm.jcc(cc, from);
            self.out.cold.push(Cold::Far { from, key: self.r.exits[exit as usize].key, flags });
            return;
        }
        if self.is_backward(exit) {
            self.asm.jcc(cc, from);
            let to_self = self.r.exits[exit as usize].key == self.r.key;
            let site = self.new_site(exit, u32::MAX, 0);
            self.out.cold.push(Cold::Back { from, site, to_self, flags });
            return;
        }
        if let Some(flags) = flags {
            self.asm.jcc(cc, from);
            let site = self.new_site(exit, u32::MAX, 0);
            self.out.cold.push(Cold::Flags { from, site, flags });
            return;
        }
        self.asm.align_rel32(2);
        let patch = self.asm.jcc_rel32_placeholder(cc) as u32;
        let stub = self.asm.label();
        self.asm.link_rel32(stub);
        let site = self.new_site(exit, patch, 0);
        self.out.cold.push(Cold::Exit { site, stub });
    }

    /// Looks for an exit request, then jumps to the exit (or to the start of this region).
    fn emit_back_jump(&mut self, exit: u32) {
        let to_self = self.r.exits[exit as usize].key == self.r.key;
        let site = self.new_site(exit, u32::MAX, 0);
        self.back_jump_to(site, to_self);
    }

    fn back_jump_to(&mut self, site: u32, to_self: bool) {
        let kick = self.asm.label();
        self.asm.alu_rm_imm(Alu::Cmp, Width::B4, block(self.env.offsets.exit_req), 0);
        self.asm.jcc(Cc::NE, kick);
        if to_self {
            let entry = self.entry;
            self.asm.jmp(entry);
            self.asm.bind(kick);
            return self.leave_with((site as u64) << 32 | reason::KICK);
        }
        self.jump_to(site);
        self.asm.bind(kick);
        self.leave_with((site as u64) << 32 | reason::KICK);
    }

    /// A jump to an exit site. Not linked: falls through to the code that leaves.
    fn jump_to(&mut self, site: u32) {
        self.asm.align_rel32(1);
        let patch = self.asm.jmp_rel32_placeholder() as u32;
        let index = (site - self.out.first_site) as usize;
        self.out.compiled.exits[index].patch = patch;
        self.out.compiled.exits[index].stub = self.asm.len() as u32;
        self.leave_with((site as u64) << 32 | reason::LINK);
    }

    /// rax = why, then to the stub that leaves.
    pub(crate) fn leave_with(&mut self, why: u64) {
        self.asm.mov_r_imm64(RAX, why);
        self.jmp_leave();
    }

    fn leave_with_fault(&mut self, record: u32, why: u64) {
        self.asm.lea(Width::B8, RCX, Mem::rip(0));
        self.asm.mov_rm_r(Width::B8, block(self.env.offsets.fault_rip), RCX);
        self.leave_with((record as u64) << 32 | why);
    }

    pub(crate) fn jmp_leave(&mut self) {
        self.jmp_stub(self.env.stubs.leave);
    }

    fn jmp_stub(&mut self, stub: usize) {
        let at = self.asm.jmp_rel32_placeholder();
        self.reach_stub(at, stub);
    }

    pub(crate) fn call_stub(&mut self, stub: usize) {
        let at = self.asm.call_rel32_placeholder();
        self.reach_stub(at, stub);
    }

    fn reach_stub(&mut self, at: usize, stub: usize) {
        let distance = stub as i64 - (self.out.base + at + 4) as i64;
        self.asm.code_mut()[at..at + 4].copy_from_slice(&(distance as i32).to_le_bytes());
    }

    /// rax = a key that is relative to the page being executed, made absolute.
    fn absolute_key(&mut self, key: u64) {
        let page = self.env.layout.page.expect("a layout with a page");
        self.asm.mov_r_rm(Width::B4, RAX, block(page.offset as i32));
        if key as u32 != 0 {
            self.asm.alu_rm_imm(Alu::Add, Width::B4, RAX, key as u32 as i32);
        }
        if key >> 32 != 0 {
            self.asm.mov_r_imm64(RCX, key >> 32 << 32);
            self.asm.alu_rr(Alu::Or, Width::B8, RAX, RCX);
        }
    }

    /// To a key on another page: by way of the jump cache. The halves of the key are compared apart, because the upper one
    /// is a constant.
    fn jump_far(&mut self, key: u64) {
        let o = self.env.offsets;
        let page = block(self.env.layout.page.expect("a layout with a page").offset as i32);
        let (slow, high) = (self.asm.label(), (key >> 32) as i32);
        self.asm.mov_r_rm(Width::B4, RAX, page);
        if key as u32 != 0 {
            self.asm.alu_rm_imm(Alu::Add, Width::B4, RAX, key as u32 as i32);
        }
        self.asm.mov_rr(Width::B4, RCX, RAX);
        self.asm.alu_rm_imm(Alu::And, Width::B4, RCX, (o.jump_cache_entries as i32 - 1) << 1);
        let entry = Mem::index(crate::asm::RBP, RCX, 8, o.jump_cache - BIAS);
        self.asm.alu_r_rm(Alu::Cmp, Width::B4, RAX, entry);
        self.asm.jcc(Cc::NE, slow);
        self.asm.alu_rm_imm(Alu::Cmp, Width::B4, entry.offset(4), high);
        self.asm.jcc(Cc::NE, slow);
        self.asm.alu_rm_imm(Alu::Cmp, Width::B4, block(o.exit_req), 0);
        self.asm.jcc(Cc::NE, slow);
        self.asm.alu_rm_imm(Alu::And, Width::B4, RAX, !0xfff);
        self.asm.mov_rm_r(Width::B4, page, RAX);
        self.asm.jmp_rm(entry.offset(8));
        self.out.cold.push(Cold::FarMiss { from: slow, high });
    }

    /// Looks a key up in the jump cache and goes there. Nothing lives on but the key.
    fn jump_by_cache(&mut self, key: crate::asm::Gpr) {
        let o = self.env.offsets;
        let index = if key == RCX { RAX } else { RCX };
        let slow = self.asm.label();
        let mask = (o.jump_cache_entries as i32 - 1) << 1;
        self.asm.mov_rr(Width::B4, index, key);
        self.asm.alu_rm_imm(Alu::And, Width::B4, index, mask);
        let entry = Mem::index(crate::asm::RBP, index, 8, o.jump_cache - BIAS);
        self.asm.alu_r_rm(Alu::Cmp, Width::B8, key, entry);
        self.asm.jcc(Cc::NE, slow);
        self.asm.alu_rm_imm(Alu::Cmp, Width::B4, block(o.exit_req), 0);
        self.asm.jcc(Cc::NE, slow);
        if self.env.relative() {
            let page = self.env.layout.page.expect("a layout with a page");
            self.asm.mov_rr(Width::B4, RDX, key);
            self.asm.alu_rm_imm(Alu::And, Width::B4, RDX, !0xfff);
            self.asm.mov_rm_r(Width::B4, block(page.offset as i32), RDX);
        }
        self.asm.jmp_rm(entry.offset(8));
        self.out.cold.push(Cold::Indirect { from: slow, key });
    }

    fn emit_exit_indirect(&mut self, i: &Inst) {
        let key = self.gpr(Val(i.a));
        if key == RDX && self.env.relative() {
            self.asm.mov_rr(Width::B8, RAX, RDX);
            self.jump_by_cache(RAX);
        } else {
            self.jump_by_cache(key);
        }
        self.release();
    }

    fn emit_trap(&mut self, kind: u8, arg: u32, key: u64) {
        let m = block(ir::state::KEY as i32);
        if self.env.relative() {
            self.absolute_key(key);
            self.asm.mov_rm_r(Width::B8, m, RAX);
            return self.leave_with((arg as u64) << 32 | (kind as u64) << 8 | reason::TRAP);
        }
        match i32::try_from(key) {
            Ok(k) => self.asm.mov_rm_imm(Width::B8, m, k),
            Err(_) => {
                self.asm.mov_r_imm64(RAX, key);
                self.asm.mov_rm_r(Width::B8, m, RAX);
            }
        }
        self.leave_with((arg as u64) << 32 | (kind as u64) << 8 | reason::TRAP);
    }

    pub(crate) fn emit_cold(&mut self) {
        let mut k = 0;
        while k < self.out.cold.len() {
            // Emitting one piece may add more.
            let piece = std::mem::replace(&mut self.out.cold[k], Cold::Done);
            self.emit_cold_piece(piece);
            k += 1;
        }
    }

    fn emit_cold_piece(&mut self, piece: Cold) {
        match piece {
            Cold::Done => {}
            Cold::Exit { site, stub } => {
                self.asm.bind(stub);
                let index = (site - self.out.first_site) as usize;
                self.out.compiled.exits[index].stub = self.asm.len() as u32;
                self.leave_with((site as u64) << 32 | reason::LINK);
            }
            Cold::Back { from, site, to_self, flags } => {
                self.asm.bind(from);
                if let Some(flags) = flags {
                    self.emit_deferred(flags);
                }
                self.back_jump_to(site, to_self);
            }
            Cold::Indirect { from, key } => {
                self.asm.bind(from);
                self.asm.mov_rm_r(Width::B8, block(ir::state::KEY as i32), key);
                self.jmp_stub(self.env.stubs.missed);
            }
            Cold::Alignment { from, record, addr } => {
                self.asm.bind(from);
                self.asm.mov_rm_r(Width::B8, block(self.env.offsets.fault), addr);
                self.leave_with_fault(record, reason::ALIGNMENT);
            }
            Cold::Fault { from, record } => {
                self.asm.bind(from);
                self.leave_with_fault(record, reason::FAULT);
            }
            Cold::Trap { from, kind, arg, key } => {
                self.asm.bind(from);
                self.emit_trap(kind, arg, key);
            }
            Cold::Access(slow) => self.emit_slow_access(*slow),
            Cold::FarMiss { from, high } => {
                self.asm.bind(from);
                self.asm.mov_rm_r(Width::B4, block(ir::state::KEY as i32), RAX);
                self.asm.mov_rm_imm(Width::B4, block(ir::state::KEY as i32 + 4), high);
                self.jmp_stub(self.env.stubs.missed);
            }
            Cold::NoteVersion { from, back } => {
                self.asm.bind(from);
                self.emit_monitor(super::memory::Monitor::Note);
                self.asm.jmp(back);
            }
            Cold::StrictSwap { swap, from, fail, back } => {
                self.asm.bind(from);
                self.emit_strict_swap(&swap, fail);
                self.asm.jmp(back);
            }
            Cold::Flags { from, site, flags } => {
                self.asm.bind(from);
                self.emit_deferred(flags);
                self.jump_to(site);
            }
            Cold::Far { from, key, flags } => {
                self.asm.bind(from);
                if let Some(flags) = flags {
                    self.emit_deferred(flags);
                }
                self.jump_far(key);
            }
            Cold::Float(slow) => self.emit_float_slow(*slow),
        }
    }
}
