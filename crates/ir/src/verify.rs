//! Checks that a region is well formed. Run in tests and debug builds on every region.

use crate::ops::{Op, Operand};
use crate::region::*;
use crate::state::STATE_BYTES;

/// The first thing wrong with a region, as a sentence.
pub fn verify(r: &Region) -> Result<(), String> {
    let mut ended = false;
    // First instruction whose value is still alive (no value lives across a label).
    let mut scope = 0;
    for (n, i) in r.insts.iter().enumerate() {
        let fail = |what: &str| Err(format!("v{n} = {}: {what}", i.op.name()));
        if i.op == Op::Label {
            scope = n;
            ended = false;
            continue;
        }
        if ended {
            return fail("follows the end of the region");
        }
        ended = i.op.has(crate::ops::ENDS_REGION);
        for (kind, raw) in i.op.info().operands.iter().zip([i.a, i.b, i.c]) {
            if *kind != Operand::Value || raw == u32::MAX && matches!(i.op, Op::Call | Op::VCall | Op::StEx) {
                continue;
            }
            if raw as usize >= n {
                return fail("uses a value before it is made");
            }
            if (raw as usize) < scope {
                return fail("uses a value across a label");
            }
            if r.insts[raw as usize].gives() == Ty::None {
                return fail("uses an instruction that gives no value");
            }
        }
        if i.op.is_skip() && !r.insts[n..].iter().any(|j| j.op == Op::Label) {
            return fail("has no label to skip to");
        }
        check_types(r, n, i).or_else(|what| fail(&what))?;
    }
    if ended { Ok(()) } else { Err("the region does not end".into()) }
}

fn check_types(r: &Region, _n: usize, i: &Inst) -> Result<(), String> {
    let ty = |raw: u32| r.insts[raw as usize].gives();
    let want = |raw: u32, t: Ty| {
        if ty(raw) == t { Ok(()) } else { Err(format!("v{raw} is {}, not {}", ty(raw).name(), t.name())) }
    };
    match i.op {
        Op::Add
        | Op::Sub
        | Op::Mul
        | Op::And
        | Op::Or
        | Op::Xor
        | Op::Shl
        | Op::Shr
        | Op::Sar
        | Op::Ror
        | Op::Icmp
        | Op::FAdd
        | Op::FSub
        | Op::UDiv
        | Op::SDiv
        | Op::AndNot => {
            want(i.a, i.ty)?;
            want(i.b, i.ty)
        }
        Op::Adc | Op::Sbb | Op::FAdc | Op::FSbb => {
            want(i.a, i.ty)?;
            want(i.b, i.ty)?;
            want(i.c, Ty::Flags)
        }
        Op::Select => {
            want(i.a, Ty::I32)?;
            want(i.b, i.ty)?;
            want(i.c, i.ty)
        }
        Op::SelectCc => {
            want(i.a, Ty::Flags)?;
            want(i.b, i.ty)?;
            want(i.c, i.ty)
        }
        Op::CcBit | Op::ExitCc | Op::SkipCc | Op::FWord | Op::FInvC => want(i.a, Ty::Flags),
        Op::ExitNz | Op::ExitZ | Op::SkipNz | Op::SkipZ | Op::TrapNz | Op::Zext32 | Op::Sext32 | Op::FMake => {
            want(i.a, Ty::I32)
        }
        Op::Trunc | Op::High | Op::ExitInd => want(i.a, Ty::I64),
        Op::Get | Op::Set => {
            if i.a as usize + i.aux as usize > STATE_BYTES {
                return Err("is outside of the state".into());
            }
            if !matches!(i.aux, 1 | 2 | 4 | 8 | 16) {
                return Err("has an odd size".into());
            }
            Ok(())
        }
        Op::Ubfx | Op::Sbfx => {
            let (lsb, len) = (i.b & 0xff, i.b >> 8);
            if len == 0 || lsb + len > i.ty.bits() { Err("has a field outside of the value".into()) } else { Ok(()) }
        }
        Op::Deposit => {
            let (lsb, len) = (i.c & 0xff, i.c >> 8);
            if len == 0 || lsb + len > i.ty.bits() { Err("has a field outside of the value".into()) } else { Ok(()) }
        }
        _ if i.gives() == Ty::V128 && i.op.name().starts_with("fp") => want(i.a, Ty::V128),
        _ => Ok(()),
    }
}
