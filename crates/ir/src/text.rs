//! The text form: printed for `-d op` and in tests, parsed by tests. It round-trips.
//!
//! ```text
//! region key=0x1000 pc=0x1000 guest_insns=1
//! exit 0 key=0x1004 flags_dead=0
//! v0 = insn #0 #0
//! v1 = get.i32/4 #16
//! v2 = exit _ #0
//! ```
//! An instruction is `vN = op[.type][/aux][:fl] operands`; a value is `vN`, an immediate `#N`, an absent operand `_`.

use crate::ops::{Op, Operand};
use crate::region::*;
use std::fmt::Write;

/// Prints a region.
pub fn print(r: &Region) -> String {
    let mut s = String::new();
    let _ = writeln!(s, "region key={:#x} pc={:#x} guest_insns={}", r.key, r.pc, r.guest_insns);
    for (n, e) in r.exits.iter().enumerate() {
        let far = if e.far { " far" } else { "" };
        let _ = writeln!(s, "exit {n} key={:#x} flags_dead={}{far}", e.key, e.flags_dead as u8);
    }
    for (n, c) in r.vconsts.iter().enumerate() {
        let _ = writeln!(s, "vconst {n} {c:#x}");
    }
    for (addr, len) in &r.covers {
        let _ = writeln!(s, "covers {addr:#x} {len:#x}");
    }
    for (n, i) in r.insts.iter().enumerate() {
        let _ = write!(s, "v{n} = {}", i.op.name());
        if i.ty != Ty::None {
            let _ = write!(s, ".{}", i.ty.name());
        }
        if i.aux != 0 {
            let _ = write!(s, "/{}", i.aux);
        }
        if i.fl != 0 {
            let _ = write!(s, ":{}", i.fl);
        }
        if i.op == Op::Const {
            let _ = writeln!(s, " {:#x}", i.imm64());
            continue;
        }
        for (kind, raw) in i.op.info().operands.iter().zip([i.a, i.b, i.c]) {
            let _ = match kind {
                Operand::Value if raw != u32::MAX => write!(s, " v{raw}"),
                Operand::Imm => write!(s, " #{raw}"),
                _ => write!(s, " _"),
            };
        }
        s.push('\n');
    }
    s
}

/// Parses what `print` prints.
pub fn parse(text: &str) -> Result<Region, String> {
    let mut r = Region::default();
    for (n, line) in text.lines().enumerate() {
        let line = line.split("//").next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        parse_line(&mut r, line).ok_or_else(|| format!("line {}: cannot read '{line}'", n + 1))?;
    }
    Ok(r)
}

fn number(s: &str) -> Option<u128> {
    match s.strip_prefix("0x") {
        Some(hex) => u128::from_str_radix(hex, 16).ok(),
        None => s.parse().ok(),
    }
}

fn parse_line(r: &mut Region, line: &str) -> Option<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let named = |w: &str, name: &str| number(w.strip_prefix(name)?.strip_prefix('=')?);
    match words[0] {
        "region" => {
            r.key = named(words.get(1)?, "key")? as u64;
            r.pc = named(words.get(2)?, "pc")? as u64;
            r.guest_insns = named(words.get(3)?, "guest_insns")? as u32;
        }
        "exit" => {
            let key = named(words.get(2)?, "key")? as u64;
            let flags_dead = named(words.get(3)?, "flags_dead")? != 0;
            r.exits.push(Exit { key, flags_dead, far: words.get(4) == Some(&"far") });
        }
        "vconst" => r.vconsts.push(number(words.get(2)?)?),
        "covers" => r.covers.push((number(words.get(1)?)? as u64, number(words.get(2)?)? as u32)),
        _ => {
            let v: usize = words[0].strip_prefix('v')?.parse().ok()?;
            if v != r.insts.len() || words.get(1) != Some(&"=") {
                return None;
            }
            let inst = parse_inst(words.get(2)?, &words[3..])?;
            r.insts.push(inst);
        }
    }
    Some(())
}

fn parse_inst(head: &str, operands: &[&str]) -> Option<Inst> {
    let (head, fl) = match head.split_once(':') {
        Some((h, f)) => (h, f.parse().ok()?),
        None => (head, 0),
    };
    let (head, aux) = match head.split_once('/') {
        Some((h, a)) => (h, a.parse().ok()?),
        None => (head, 0),
    };
    let (name, ty) = match head.split_once('.') {
        Some((h, t)) => (h, Ty::ALL.into_iter().find(|ty| ty.name() == t)?),
        None => (head, Ty::None),
    };
    let op = Op::by_name(name)?;
    if op == Op::Const {
        let v = number(operands.first()?)? as u64;
        return Some(Inst { op, ty, aux, fl, a: u32::MAX, b: v as u32, c: (v >> 32) as u32 });
    }
    let mut raw = [u32::MAX; 3];
    for (slot, word) in raw.iter_mut().zip(operands) {
        *slot = match word.strip_prefix(['v', '#']) {
            Some(n) => n.parse().ok()?,
            None if *word == "_" => u32::MAX,
            None => return None,
        };
    }
    Some(Inst { op, ty, aux, fl, a: raw[0], b: raw[1], c: raw[2] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builder;

    #[test]
    fn print_and_parse_round_trip() {
        let mut b = Builder::new();
        b.begin(0x8000, 0x8000);
        b.insn(0, 7);
        let r = b.get32(16);
        let x = b.i64(0x1234_5678_9abc);
        let w = b.zext32(r);
        let y = b.add(w, x);
        let v = b.vconst(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00);
        let q = b.get(Ty::V128, 128, 16);
        let q = b.fp_add(FpFmt::V32, FpMode::ARM_STANDARD, q, v);
        b.set(128, 16, q);
        let f = b.f_sub(y, x);
        b.exit_cc(Cc::CorZ, f, 0x9000);
        b.trap(TrapKind::Syscall, 3, 0x8004);
        let region = b.take();
        crate::verify::verify(&region).unwrap();
        let text = print(&region);
        assert_eq!(parse(&text).unwrap(), region, "{text}");
    }
}
