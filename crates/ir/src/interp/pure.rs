//! Integer and flag operations as functions of numbers: what the interpreter executes and the builder folds.

use crate::ops::Op;
use crate::region::{Cc, Cmp, Inst, Ty, flag};

/// The result of an integer or flags operation (flags are words in the layout of `Op::FWord`), or `None` for any other kind
/// of operation.
pub fn eval(i: &Inst, args: [u64; 3]) -> Option<u64> {
    let r = integer(i, args).or_else(|| flags(i, args))?;
    Some(if i.gives() == Ty::I64 { r } else { r as u32 as u64 })
}

/// Bits above the type's are left to the caller.
fn integer(i: &Inst, [a, b, c]: [u64; 3]) -> Option<u64> {
    let wide = i.ty == Ty::I64;
    let bits = i.ty.bits();
    let m = bits - 1;
    let sa = if wide { a as i64 } else { a as u32 as i32 as i64 };
    let sb = if wide { b as i64 } else { b as u32 as i32 as i64 };
    let n = b as u32 & m;
    Some(match i.op {
        Op::Const => i.imm64(),
        Op::Add => a.wrapping_add(b),
        Op::Sub => a.wrapping_sub(b),
        Op::Mul => a.wrapping_mul(b),
        Op::MulHiU => ((a as u128 * b as u128) >> bits) as u64,
        Op::MulHiS => ((sa as i128 * sb as i128) >> bits) as u64,
        Op::UDiv => a.checked_div(b).unwrap_or(0),
        Op::SDiv => divide_signed(sa, sb) as u64,
        Op::URem => a.checked_rem(b).unwrap_or(a),
        Op::SRem => (if sb == 0 { sa } else { sa.wrapping_rem(sb) }) as u64,
        Op::And => a & b,
        Op::Or => a | b,
        Op::Xor => a ^ b,
        Op::AndNot => a & !b,
        Op::Shl => a << n,
        Op::Shr => a >> n,
        Op::Sar => (sa >> n) as u64,
        Op::Ror => if wide { a.rotate_right(n) } else { (a as u32).rotate_right(n) as u64 },
        Op::Not => !a,
        Op::Neg => a.wrapping_neg(),
        Op::Clz => (if wide { a.leading_zeros() } else { (a as u32).leading_zeros() }) as u64,
        Op::Ctz => (if wide { a.trailing_zeros() } else { (a as u32).trailing_zeros() }) as u64,
        Op::Popcnt => a.count_ones() as u64,
        Op::Bswap => if wide { a.swap_bytes() } else { (a as u32).swap_bytes() as u64 },
        Op::Bswap16 => (a & 0x00ff_00ff_00ff_00ff) << 8 | (a >> 8) & 0x00ff_00ff_00ff_00ff,
        Op::Rbit => if wide { a.reverse_bits() } else { (a as u32).reverse_bits() as u64 },
        Op::Zext8 => a & 0xff,
        Op::Zext16 => a & 0xffff,
        Op::Sext8 => a as i8 as u64,
        Op::Sext16 => a as i16 as u64,
        Op::Zext32 => a as u32 as u64,
        Op::Sext32 => a as u32 as i32 as u64,
        Op::Trunc => a as u32 as u64,
        Op::High => a >> 32,
        Op::Concat => a as u32 as u64 | b << 32,
        Op::Ubfx => field(a, i.b),
        Op::Sbfx => {
            let len = i.b >> 8;
            let v = field(a, i.b);
            ((v << (64 - len)) as i64 >> (64 - len)) as u64
        }
        Op::Deposit => {
            let (lsb, len) = (i.c & 0xff, i.c >> 8);
            let mask = low_mask(len) << lsb;
            a & !mask | b << lsb & mask
        }
        Op::Adc => a.wrapping_add(b).wrapping_add(carry(c)),
        Op::Sbb => a.wrapping_sub(b).wrapping_sub(carry(c)),
        Op::Icmp => compare(Cmp::from_u8(i.aux), a, b, sa, sb) as u64,
        Op::Select => if a as u32 != 0 { b } else { c },
        Op::SelectCc => if Cc::from_u8(i.aux).holds(a as u32) { b } else { c },
        Op::CcBit => Cc::from_u8(i.aux).holds(a as u32) as u64,
        _ => return None,
    })
}

/// Flags made, changed, or read as a word.
fn flags(i: &Inst, [a, b, c]: [u64; 3]) -> Option<u64> {
    Some(match i.op {
        Op::FAdd => add_flags(a, b, 0, i.aux),
        Op::FSub => sub_flags(a, b, 0, i.aux),
        Op::FAdc => add_flags(a, b, carry(c), i.aux),
        Op::FSbb => sub_flags(a, b, carry(c), i.aux),
        Op::FLogic => nzp(a & low_mask(i.aux as u32), i.aux) as u64,
        Op::FInvC => a ^ flag::C as u64,
        Op::FSetC => a & !(flag::C as u64) | if b & 1 != 0 { flag::C as u64 } else { 0 },
        Op::FMerge => a & i.c as u64 | b & !(i.c as u64),
        Op::FWord | Op::FMake => a & flag::ALL as u64,
        _ => return None,
    })
}

/// `bits` ones; 64 and more are all.
pub fn low_mask(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

fn field(a: u64, spec: u32) -> u64 {
    a >> (spec & 0xff) & low_mask(spec >> 8)
}

fn divide_signed(a: i64, b: i64) -> i64 {
    if b == 0 { 0 } else { a.wrapping_div(b) }
}

fn carry(word: u64) -> u64 {
    (word & flag::C as u64 != 0) as u64
}

fn compare(cmp: Cmp, a: u64, b: u64, sa: i64, sb: i64) -> bool {
    match cmp {
        Cmp::Eq => a == b,
        Cmp::Ne => a != b,
        Cmp::Ult => a < b,
        Cmp::Uge => a >= b,
        Cmp::Ule => a <= b,
        Cmp::Ugt => a > b,
        Cmp::Slt => sa < sb,
        Cmp::Sge => sa >= sb,
        Cmp::Sle => sa <= sb,
        Cmp::Sgt => sa > sb,
    }
}

/// N, Z and P of a result that fits `width` bits.
fn nzp(r: u64, width: u8) -> u32 {
    let mut w = 0;
    if r >> (width - 1) & 1 != 0 {
        w |= flag::N;
    }
    if r == 0 {
        w |= flag::Z;
    }
    if (r as u8).count_ones().is_multiple_of(2) {
        w |= flag::P;
    }
    w
}

fn add_flags(a: u64, b: u64, cin: u64, width: u8) -> u64 {
    let mask = low_mask(width as u32);
    let (a, b) = (a & mask, b & mask);
    let full = a as u128 + b as u128 + cin as u128;
    let r = full as u64 & mask;
    let mut w = nzp(r, width);
    if full >> width != 0 {
        w |= flag::C;
    }
    if (a ^ r) & (b ^ r) & (1 << (width - 1)) != 0 {
        w |= flag::V;
    }
    if (a ^ b ^ r) & 0x10 != 0 {
        w |= flag::A;
    }
    w as u64
}

fn sub_flags(a: u64, b: u64, cin: u64, width: u8) -> u64 {
    let mask = low_mask(width as u32);
    let (a, b) = (a & mask, b & mask);
    let r = a.wrapping_sub(b).wrapping_sub(cin) & mask;
    let mut w = nzp(r, width);
    if (a as u128) < b as u128 + cin as u128 {
        w |= flag::C;
    }
    if (a ^ b) & (a ^ r) & (1 << (width - 1)) != 0 {
        w |= flag::V;
    }
    if (a ^ b ^ r) & 0x10 != 0 {
        w |= flag::A;
    }
    w as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(op: Op, ty: Ty, aux: u8, args: [u64; 3], want: u64) {
        let i = Inst { op, ty, aux, fl: 0, a: 0, b: 0, c: 0 };
        assert_eq!(eval(&i, args), Some(want), "{op:?} {args:x?}");
    }

    #[test]
    fn division_is_total() {
        check(Op::SDiv, Ty::I32, 0, [0x8000_0000, 0xffff_ffff, 0], 0x8000_0000);
        check(Op::SDiv, Ty::I64, 0, [1 << 63, u64::MAX, 0], 1 << 63);
        check(Op::UDiv, Ty::I32, 0, [7, 0, 0], 0);
        check(Op::URem, Ty::I32, 0, [7, 0, 0], 7);
        check(Op::SRem, Ty::I64, 0, [1 << 63, u64::MAX, 0], 0);
    }

    #[test]
    fn flags_of_add_and_sub() {
        let (n, z, c, v) = (flag::N as u64, flag::Z as u64, flag::C as u64, flag::V as u64);
        let nzcv = n | z | c | v;
        let f = |op, a, b| {
            let i = Inst { op, ty: Ty::I32, aux: 32, fl: 0, a: 0, b: 0, c: 0 };
            eval(&i, [a, b, 0]).unwrap() & nzcv
        };
        assert_eq!(f(Op::FAdd, 0x7fff_ffff, 1), n | v);
        assert_eq!(f(Op::FAdd, 0xffff_ffff, 1), z | c);
        assert_eq!(f(Op::FSub, 0, 1), n | c);
        assert_eq!(f(Op::FSub, 5, 5), z);
        assert_eq!(f(Op::FSub, 0x8000_0000, 1), v);
    }
}
