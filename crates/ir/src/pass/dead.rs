//! Dead code, dead state writes and dead flags, in one backward walk, which also makes conditions look through composed
//! flags (`flags`).
//!
//! A `set` is dead when the same place is set again before anything can observe it: a `get` of the place, an exit, a
//! faulting operation, a helper that reads state, or a label or skip. The arithmetic flags are the exception: a fault keeps
//! them alive only if something after it still uses them (decision 0003; the guest may repair the cause and execute the
//! instruction again), and exits whose target overwrites them (`Exit::flags_dead`) do not.

use super::flags;
use crate::ops::*;
use crate::region::*;
use crate::state::FLAGS;

const NONE: u32 = u32::MAX;

/// Reusable working memory.
#[derive(Default)]
pub struct Scratch {
    used: Vec<bool>,
    /// Of flags: the first condition that reads them and nothing else of it is known yet, and of a condition the next one.
    conditions: Vec<u32>,
    next_condition: Vec<u32>,
    dead: Vec<bool>,
    /// For flags writes: only the conditional exit that follows observes it.
    for_exit: Vec<bool>,
    /// Places that will be overwritten before they are observed.
    overwritten: Places,
}

/// Bytes of guest state kept as words of 4: whole words only, of the part that holds what programs set often.
#[derive(Default)]
struct Places([u64; Places::WORDS / 64]);

impl Places {
    const WORDS: usize = 256;

    /// Numbers of the words that a place overlaps.
    fn words(offset: u32, size: u32) -> std::ops::Range<usize> {
        (offset / 4) as usize..((offset + size).div_ceil(4) as usize).min(Places::WORDS)
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }

    fn covers(&self, offset: u32, size: u32) -> bool {
        (offset + size).div_ceil(4) as usize <= Places::WORDS
            && Places::words(offset, size).all(|w| self.0[w / 64] >> (w % 64) & 1 != 0)
    }

    fn add(&mut self, offset: u32, size: u32) {
        if (offset | size) & 3 == 0 {
            Places::words(offset, size).for_each(|w| self.0[w / 64] |= 1 << (w % 64));
        }
    }

    fn remove(&mut self, offset: u32, size: u32) {
        Places::words(offset, size).for_each(|w| self.0[w / 64] &= !(1 << (w % 64)));
    }
}

impl Scratch {
    /// After `run`: whether instruction `n` is needed.
    #[inline]
    pub fn is_live(&self, n: usize) -> bool {
        !self.dead[n]
    }

    /// After `run`: whether the flags write `n` is needed only where the next conditional exit, on these flags, is taken.
    #[inline]
    pub fn is_for_exit(&self, n: usize) -> bool {
        self.for_exit[n]
    }
}

impl Scratch {
    fn begin(&mut self, length: usize) {
        for list in [&mut self.used, &mut self.dead, &mut self.for_exit] {
            list.clear();
            list.resize(length, false);
        }
        for list in [&mut self.conditions, &mut self.next_condition] {
            list.clear();
            list.resize(length, NONE);
        }
        self.overwritten.clear();
    }

    /// The condition `n` reads the flags `f`.
    fn add_condition(&mut self, f: Val, n: usize) {
        self.next_condition[n] = std::mem::replace(&mut self.conditions[f.index()], n as u32);
    }

    /// The conditions that read the flags `n`, which are reached now: those that the operands serve as well read these;
    /// for the others `n` is used.
    fn settle_conditions(&mut self, r: &mut Region, n: usize) {
        let mut user = std::mem::replace(&mut self.conditions[n], NONE);
        while user != NONE {
            let after = self.next_condition[user as usize];
            // Flags that exist anyway are read as they are.
            let through = (!self.used[n]).then(|| flags::through(&r.insts[n], Cc::from_u8(r.insts[user as usize].aux)));
            match through.flatten() {
                Some((cc, inner)) => {
                    let i = &mut r.insts[user as usize];
                    (i.aux, i.a) = (cc as u8, inner.0);
                    self.add_condition(inner, user as usize);
                }
                None => self.used[n] = true,
            }
            user = after;
        }
    }
}

/// Marks dead instructions; `scratch.is_live` tells the result. Of the region only conditions on composed flags change.
pub fn run(r: &mut Region, s: &mut Scratch) {
    s.begin(r.insts.len());
    // The flags value of a conditional exit that is the only thing between here and the flags' end that observes them.
    let mut exit_on = NONE;
    let mut flags_dead = false;
    // The first flags value that anything walked so far uses.
    let mut oldest_flags = usize::MAX;
    for n in (0..r.insts.len()).rev() {
        if s.conditions[n] != NONE {
            s.settle_conditions(r, n);
        }
        let i = &r.insts[n];
        if i.op == Op::Set {
            let is_flags = i.a == FLAGS;
            let covered = s.overwritten.covers(i.a, i.aux as u32);
            if covered || is_flags && flags_dead {
                s.dead[n] = true;
                continue;
            }
            if is_flags {
                s.for_exit[n] = exit_on == i.b;
                flags_dead = true;
                exit_on = NONE;
            } else {
                s.overwritten.add(i.a, i.aux as u32);
            }
        } else if i.op.has(PURE) && !s.used[n] {
            s.dead[n] = true;
            continue;
        } else {
            let dead_after = flags_dead;
            observe(r, i, s, &mut flags_dead);
            if i.op == Op::ExitCc && dead_after && !flags_dead {
                exit_on = i.a;
            } else if !matches!(i.op, Op::Insn | Op::Const) && !(i.op == Op::Get && i.ty != Ty::Flags) {
                exit_on = NONE;
            }
            if i.op.has(MAY_FAULT) && oldest_flags < n {
                flags_dead = false;
            }
        }
        let condition = flags::is_condition(i.op).then_some(Val(i.a));
        for v in i.values() {
            match condition {
                Some(f) if f == v => s.add_condition(f, n),
                _ => s.used[v.index()] = true,
            }
            if r.inst(v).gives() == Ty::Flags {
                oldest_flags = oldest_flags.min(v.index());
            }
        }
    }
}

/// What an instruction other than `set` observes of the state.
fn observe(r: &Region, i: &Inst, s: &mut Scratch, flags_dead: &mut bool) {
    match i.op {
        Op::Get => {
            let (from, to) = (i.a, i.a + i.aux as u32);
            s.overwritten.remove(from, to - from);
            if from <= FLAGS && FLAGS < to {
                *flags_dead = false;
            }
        }
        Op::Exit => {
            s.overwritten.clear();
            *flags_dead = r.exits[i.b as usize].flags_dead;
        }
        Op::ExitCc | Op::ExitNz | Op::ExitZ => {
            s.overwritten.clear();
            *flags_dead &= r.exits[i.b as usize].flags_dead;
        }
        _ if i.op.has(MAY_LEAVE) || i.op.is_skip() || i.op == Op::Label || i.op.has(READS_STATE) && is_call(i.op) => {
            s.overwritten.clear();
            *flags_dead = false;
        }
        _ if i.op.has(MAY_FAULT) => s.overwritten.clear(),
        _ => {}
    }
}

fn is_call(op: Op) -> bool {
    matches!(op, Op::Call | Op::VCall)
}

/// Removes what `run` marks, renumbering the values.
pub fn sweep(r: &mut Region) {
    let mut s = Scratch::default();
    run(r, &mut s);
    let mut map = vec![NONE; r.insts.len()];
    let mut kept = Vec::with_capacity(r.insts.len());
    for (n, i) in r.insts.iter().enumerate() {
        if s.dead[n] {
            continue;
        }
        let mut i = *i;
        let kinds = i.op.info().operands;
        for (kind, raw) in kinds.iter().zip([&mut i.a, &mut i.b, &mut i.c]) {
            if *kind == Operand::Value && *raw != NONE {
                *raw = map[*raw as usize];
            }
        }
        map[n] = kept.len() as u32;
        kept.push(i);
    }
    r.insts = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;

    /// CMP, LDR, BEQ, CMP: where the load faults and is executed again, the branch still wants the first flags.
    #[test]
    fn flags_used_behind_a_fault_are_kept() {
        for load in [false, true] {
            let mut b = Builder::new();
            b.begin(0, 0);
            let (x, y) = (b.get32(16), b.get32(20));
            let first = b.f_sub(x, y);
            b.set_flags(first);
            if load {
                let v = b.ld(Ty::I32, MemOp::B4, x);
                b.set32(24, v);
            }
            b.exit_cc(Cc::Z, first, 8);
            let second = b.f_sub(y, x);
            b.set_flags(second);
            b.exit(4);
            let mut r = b.take();
            r.exits[0].flags_dead = true;
            let mut s = Scratch::default();
            run(&mut r, &mut s);
            let stores =
                (0..r.insts.len()).filter(|&n| r.insts[n].op == Op::Set && r.insts[n].a == FLAGS && s.is_live(n));
            assert_eq!(stores.count(), 1 + load as usize);
        }
    }

    fn ops(b: &mut Builder) -> Vec<Op> {
        let mut r = b.take();
        sweep(&mut r);
        crate::verify::verify(&r).unwrap();
        r.insts.iter().map(|i| i.op).collect()
    }

    #[test]
    fn an_overwritten_write_is_dead_unless_a_fault_may_see_it() {
        let mut b = Builder::new();
        b.begin(0, 0);
        let x = b.get32(20);
        b.set32(16, x);
        let y = b.i32(1);
        b.set32(16, y);
        b.exit(4);
        assert_eq!(ops(&mut b), [Op::Const, Op::Set, Op::Exit]);

        b.begin(0, 0);
        let x = b.get32(20);
        b.set32(16, x);
        let y = b.ld(Ty::I32, MemOp::B4, x);
        b.set32(16, y);
        b.exit(4);
        assert_eq!(ops(&mut b), [Op::Get, Op::Set, Op::Ld, Op::Set, Op::Exit]);
    }

    #[test]
    fn overwritten_flags_are_dead_across_faults() {
        let mut b = Builder::new();
        b.begin(0, 0);
        let x = b.get32(20);
        let f = b.f_logic(x);
        b.set_flags(f);
        let y = b.ld(Ty::I32, MemOp::B4, x);
        let f = b.f_logic(y);
        b.set_flags(f);
        b.exit(4);
        assert_eq!(ops(&mut b), [Op::Get, Op::Ld, Op::FLogic, Op::Set, Op::Exit]);
    }

    #[test]
    fn a_label_keeps_writes_before_it() {
        let mut b = Builder::new();
        b.begin(0, 0);
        let x = b.get32(20);
        b.set32(16, x);
        b.skip_z(x);
        let y = b.i32(1);
        b.set32(16, y);
        b.label();
        b.exit(4);
        assert_eq!(ops(&mut b), [Op::Get, Op::Set, Op::SkipZ, Op::Const, Op::Set, Op::Label, Op::Exit]);
    }
}
