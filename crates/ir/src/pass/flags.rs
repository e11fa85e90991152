//! Conditions look through composed flags.
//!
//! Instructions that set only N and Z make `fmerge(new, old)`. When such flags are not stored (their `set` is dead), a
//! condition on Z needs the new part only; reading it directly lets the old part, and often the operation behind it, go. The
//! walk of `dead` does it, because only it knows what is stored.

use crate::ops::Op;
use crate::region::*;

pub(super) fn is_condition(op: Op) -> bool {
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

/// The condition on the operand of composed flags that says the same, if there is one.
pub(super) fn through(i: &Inst, cc: Cc) -> Option<(Cc, Val)> {
    let bits = bits_of(cc);
    match i.op {
        Op::FMerge if bits & !i.c == 0 => Some((cc, Val(i.a))),
        Op::FMerge if bits & i.c == 0 => Some((cc, Val(i.b))),
        Op::FSetC | Op::FInvC if bits & flag::C == 0 => Some((cc, Val(i.a))),
        Op::FInvC if bits == flag::C => Some((cc.invert(), Val(i.a))),
        _ => None,
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
        dead::sweep(&mut r);
        let ops: Vec<Op> = r.insts.iter().map(|i| i.op).collect();
        assert_eq!(ops, [Op::Get, Op::FLogic, Op::ExitCc, Op::Exit]);
    }
}
