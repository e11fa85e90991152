//! Conditions look through composed flags.
//!
//! Instructions that set only N and Z make `fmerge(new, old)`. When such flags are not stored (their `set` is dead), a
//! condition on Z needs the new part only; reading it directly lets the old part, and often the operation behind it, go.

use super::dead::Scratch;
use crate::ops::Op;
use crate::region::*;

/// Rewrites conditions on composed flags that exist for conditions only. `dead` must be the result of `dead::run` on this
/// region. Gives whether anything changed (then `dead` is out of date).
pub fn run(r: &mut Region, dead: &Scratch, stored: &mut Vec<bool>) -> bool {
    if !r.insts.iter().any(|i| matches!(i.op, Op::FMerge | Op::FSetC | Op::FInvC)) {
        return false;
    }
    stored.clear();
    stored.resize(r.insts.len(), false);
    for (n, i) in r.insts.iter().enumerate() {
        if dead.is_live(n) && !is_condition(i.op) {
            for v in i.values() {
                stored[v.index()] = true;
            }
        }
    }
    let mut changed = false;
    for n in 0..r.insts.len() {
        let i = r.insts[n];
        if !dead.is_live(n) || !is_condition(i.op) {
            continue;
        }
        let (cc, f) = look_through(r, stored, Cc::from_u8(i.aux), Val(i.a));
        if f.0 != i.a {
            r.insts[n].a = f.0;
            r.insts[n].aux = cc as u8;
            changed = true;
        }
    }
    changed
}

fn is_condition(op: Op) -> bool {
    matches!(op, Op::ExitCc | Op::SkipCc | Op::CcBit | Op::SelectCc)
}

/// Bits of a flags word that a condition reads.
pub fn bits_of(cc: Cc) -> u32 {
    match cc as u8 >> 1 {
        0 => flag::V,
        1 => flag::C,
        2 => flag::Z,
        3 => flag::C | flag::Z,
        4 => flag::N,
        5 => flag::P,
        6 => flag::N | flag::V,
        _ => flag::Z | flag::N | flag::V,
    }
}

fn look_through(r: &Region, stored: &[bool], mut cc: Cc, mut f: Val) -> (Cc, Val) {
    loop {
        let i = r.inst(f);
        if stored[f.index()] {
            return (cc, f);
        }
        let bits = bits_of(cc);
        f = match i.op {
            Op::FMerge if bits & !i.c == 0 => Val(i.a),
            Op::FMerge if bits & i.c == 0 => Val(i.b),
            Op::FSetC if bits & flag::C == 0 => Val(i.a),
            Op::FInvC if bits & flag::C == 0 => Val(i.a),
            Op::FInvC if bits == flag::C => {
                cc = cc.invert();
                Val(i.a)
            }
            _ => return (cc, f),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;
    use crate::pass::dead;

    /// SUBS, then TST: the branch needs nothing of SUBS.
    #[test]
    fn a_branch_on_the_new_part_forgets_the_old_one() {
        let mut b = Builder::new();
        b.begin(0, 0);
        let (x, y) = (b.get32(16), b.get32(20));
        let old = b.f_sub(x, y);
        b.set_flags(old);
        let new = b.f_logic(x);
        let merged = b.f_merge(new, old, flag::N | flag::Z);
        b.set_flags(merged);
        b.exit_cc(Cc::Z, merged, 8);
        b.exit(4);
        let mut r = b.take();
        for e in &mut r.exits {
            e.flags_dead = true;
        }
        let mut s = Scratch::default();
        dead::run(&r, &mut s);
        assert!(run(&mut r, &s, &mut Vec::new()));
        dead::sweep(&mut r);
        let ops: Vec<Op> = r.insts.iter().map(|i| i.op).collect();
        assert_eq!(ops, [Op::Get, Op::FLogic, Op::ExitCc, Op::Exit]);
    }
}
