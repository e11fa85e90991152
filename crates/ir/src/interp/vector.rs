//! Vector operations on 128-bit values, lane by lane.

use crate::ops::Op;
use crate::region::Inst;

/// Lanes of a 128-bit value as unsigned numbers.
fn lanes(v: u128, log2: u8) -> impl Iterator<Item = u64> {
    let bits = 8u32 << log2;
    let mask = mask(log2);
    (0..16 >> log2).map(move |i| (v >> (bits * i)) as u64 & mask)
}

fn mask(log2: u8) -> u64 {
    super::pure::low_mask(8 << log2)
}

fn signed(x: u64, log2: u8) -> i64 {
    let drop = 64 - (8 << log2);
    (x << drop) as i64 >> drop
}

/// Packs lanes, each cut to its width.
fn pack(log2: u8, values: impl Iterator<Item = u64>) -> u128 {
    let bits = 8u32 << log2;
    let mask = mask(log2);
    values.take(16 >> log2).enumerate().fold(0, |acc, (i, x)| acc | ((x & mask) as u128) << (bits * i as u32))
}

fn map1(log2: u8, a: u128, f: impl Fn(u64) -> u64) -> u128 {
    pack(log2, lanes(a, log2).map(f))
}

fn map2(log2: u8, a: u128, b: u128, f: impl Fn(u64, u64) -> u64) -> u128 {
    pack(log2, lanes(a, log2).zip(lanes(b, log2)).map(|(x, y)| f(x, y)))
}

fn map2s(log2: u8, a: u128, b: u128, f: impl Fn(i64, i64) -> i64) -> u128 {
    map2(log2, a, b, |x, y| f(signed(x, log2), signed(y, log2)) as u64)
}

fn ones_if(c: bool) -> u64 {
    if c { u64::MAX } else { 0 }
}

fn saturate_signed(x: i128, bits: u32) -> i64 {
    let max = (1i128 << (bits - 1)) - 1;
    x.clamp(-max - 1, max) as i64
}

fn saturate_unsigned(x: i128, bits: u32) -> u64 {
    x.clamp(0, (1i128 << bits) - 1) as u64
}

/// The result of a vector operation that takes and gives vectors only; `None` for any other.
pub fn eval(i: &Inst, a: u128, b: u128, c: u128) -> Option<u128> {
    let l = i.aux;
    Some(match i.op {
        Op::VAdd => map2(l, a, b, u64::wrapping_add),
        Op::VSub => map2(l, a, b, u64::wrapping_sub),
        Op::VMul => map2(l, a, b, u64::wrapping_mul),
        Op::VAnd => a & b,
        Op::VOr => a | b,
        Op::VXor => a ^ b,
        Op::VAndNot => a & !b,
        Op::VSel => a & b | !a & c,
        Op::VNeg => map1(l, a, u64::wrapping_neg),
        Op::VAbs => map1(l, a, |x| signed(x, l).wrapping_abs() as u64),
        Op::VCmpEq => map2(l, a, b, |x, y| ones_if(x == y)),
        Op::VCmpGtS => map2(l, a, b, |x, y| ones_if(signed(x, l) > signed(y, l))),
        Op::VCmpGtU => map2(l, a, b, |x, y| ones_if(x > y)),
        Op::VMinS => map2s(l, a, b, i64::min),
        Op::VMinU => map2(l, a, b, u64::min),
        Op::VMaxS => map2s(l, a, b, i64::max),
        Op::VMaxU => map2(l, a, b, u64::max),
        Op::VAvgU => map2(l, a, b, |x, y| ((x as u128 + y as u128 + 1) >> 1) as u64),
        Op::VPopcnt => map1(0, a, |x| x.count_ones() as u64),
        _ => return shifts(i, a, b).or_else(|| saturating(i, a, b)).or_else(|| permutes(i, a, b)),
    })
}

/// `x` shifted by the signed low byte of `by`.
fn shift_by(x: u64, by: u64, log2: u8, arithmetic: bool) -> u64 {
    let n = by as i8 as i32;
    let bits = 8 << log2;
    match n {
        0.. if n >= bits => 0,
        0.. => x << n,
        _ if arithmetic => (signed(x, log2) >> (-n).min(63)) as u64,
        _ if -n >= bits => 0,
        _ => x >> -n,
    }
}

fn shifts(i: &Inst, a: u128, b: u128) -> Option<u128> {
    let l = i.aux;
    let bits = 8u32 << l;
    let n = i.b;
    Some(match i.op {
        Op::VShlI => map1(l, a, |x| if n >= bits { 0 } else { x << n }),
        Op::VShrI => map1(l, a, |x| if n >= bits { 0 } else { x >> n }),
        Op::VSarI => map1(l, a, |x| (signed(x, l) >> n.min(bits - 1)) as u64),
        Op::VShlU => map2(l, a, b, |x, y| shift_by(x, y, l, false)),
        Op::VShlS => map2(l, a, b, |x, y| shift_by(x, y, l, true)),
        _ => return None,
    })
}

fn saturating(i: &Inst, a: u128, b: u128) -> Option<u128> {
    let l = i.aux;
    let bits = 8u32 << l;
    let half = bits / 2;
    let narrow = |f: &dyn Fn(u64) -> u64| {
        let m = super::pure::low_mask(half);
        lanes(a, l).enumerate().fold(0u128, |acc, (k, x)| acc | ((f(x) & m) as u128) << (half * k as u32))
    };
    let wide = |f: &dyn Fn(u64, u64) -> u128| {
        let count = 8usize >> l;
        let m = if bits == 64 { u128::MAX } else { (1u128 << (2 * bits)) - 1 };
        lanes(a, l)
            .zip(lanes(b, l))
            .take(count)
            .enumerate()
            .fold(0u128, |acc, (k, (x, y))| acc | (f(x, y) & m) << (2 * bits * k as u32))
    };
    let s = |x| signed(x, l) as i128;
    Some(match i.op {
        Op::VAddSatS => map2s(l, a, b, |x, y| saturate_signed(x as i128 + y as i128, bits)),
        Op::VAddSatU => map2(l, a, b, |x, y| saturate_unsigned(x as i128 + y as i128, bits)),
        Op::VSubSatS => map2s(l, a, b, |x, y| saturate_signed(x as i128 - y as i128, bits)),
        Op::VSubSatU => map2(l, a, b, |x, y| saturate_unsigned(x as i128 - y as i128, bits)),
        Op::VWidenS => wide(&|x, _| s(x) as u128),
        Op::VWidenU => wide(&|x, _| x as u128),
        Op::VMulWideS => wide(&|x, y| (s(x).wrapping_mul(s(y))) as u128),
        Op::VMulWideU => wide(&|x, y| x as u128 * y as u128),
        Op::VNarrow => narrow(&|x| x),
        Op::VNarrowSS => narrow(&|x| saturate_signed(s(x), half) as u64),
        Op::VNarrowSU => narrow(&|x| saturate_unsigned(s(x), half)),
        Op::VNarrowUU => narrow(&|x| saturate_unsigned(x as i128, half)),
        _ => return None,
    })
}

fn permutes(i: &Inst, a: u128, b: u128) -> Option<u128> {
    let l = i.aux;
    let count = 16usize >> l;
    let lane = |v: u128, k: usize| (v >> ((8usize << l) * k)) as u64 & mask(l);
    let low = |v: u128| v as u64 as u128;
    // Lane k of a zip-like pattern that starts at lane `from`.
    let zip = |from: usize| pack(l, (0..count).map(|k| lane(if k % 2 == 0 { a } else { b }, from + k / 2)));
    let unzip = |odd: usize| {
        pack(l, (0..count).map(|k| lane(if k < count / 2 { a } else { b }, 2 * (k % (count / 2)) + odd)))
    };
    let trn = |odd: usize| pack(l, (0..count).map(|k| lane(if k % 2 == 0 { a } else { b }, k / 2 * 2 + odd)));
    Some(match i.op {
        Op::VDupLane => pack(l, (0..count).map(|_| lane(a, i.b as usize & (count - 1)))),
        Op::VZip1 => zip(0),
        Op::VZip2 => zip(count / 2),
        Op::VUzp1 => unzip(0),
        Op::VUzp2 => unzip(1),
        Op::VTrn1 => trn(0),
        Op::VTrn2 => trn(1),
        Op::VExt => match i.c & 15 {
            0 => a,
            n => a >> (8 * n) | b << (128 - 8 * n),
        },
        Op::VTbl => map1(0, b, |x| if x < 16 { (a >> (8 * x)) as u64 } else { 0 }),
        Op::VRev => {
            let group = (1usize << i.b) >> l;
            pack(l, (0..count).map(|k| lane(a, k / group * group + (group - 1 - k % group))))
        }
        Op::VLow => low(a),
        Op::VHigh => a >> 64,
        Op::VConcat => low(a) | b << 64,
        Op::VPairAdd => pack(
            l,
            (0..count).map(|k| {
                let (v, k) = if k < count / 2 { (a, k) } else { (b, k - count / 2) };
                lane(v, 2 * k).wrapping_add(lane(v, 2 * k + 1))
            }),
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Ty;

    fn check(op: Op, lane: u8, imm: (u32, u32), a: u128, b: u128, want: u128) {
        let i = Inst { op, ty: Ty::V128, aux: lane, fl: 0, a: 0, b: imm.0, c: imm.1 };
        let got = eval(&i, a, b, 0).unwrap();
        assert_eq!(got, want, "{op:?}: {got:#x}");
    }

    #[test]
    fn lanes_stay_apart() {
        check(Op::VAdd, 0, (0, 0), 0xffff, 0x0101, 0);
        check(Op::VAdd, 1, (0, 0), 0xffff, 0x0101, 0x0100);
        check(Op::VAddSatS, 0, (0, 0), 0x7f80, 0x01ff, 0x7f80);
        check(Op::VNarrowSU, 1, (0, 0), 0xffff_0100_0012, 0, 0x00ff12);
        check(Op::VRev, 0, (2, 0), 0x0102_0304, 0, 0x0403_0201);
        check(Op::VShlS, 0, (0, 0), 0x8001, 0xff07, 0xc080);
    }

    #[test]
    fn permutations() {
        let a = u128::from_le_bytes(std::array::from_fn(|i| i as u8));
        let b = u128::from_le_bytes(std::array::from_fn(|i| 16 + i as u8));
        let bytes = |op, lane, c| {
            let i = Inst { op, ty: Ty::V128, aux: lane, fl: 0, a: 0, b: 0, c };
            eval(&i, a, b, 0).unwrap().to_le_bytes()
        };
        assert_eq!(bytes(Op::VExt, 0, 3)[..3], [3, 4, 5]);
        assert_eq!(bytes(Op::VExt, 0, 3)[13..], [16, 17, 18]);
        assert_eq!(bytes(Op::VZip2, 0, 0)[..4], [8, 24, 9, 25]);
        assert_eq!(bytes(Op::VUzp2, 0, 0)[6..10], [13, 15, 17, 19]);
        assert_eq!(bytes(Op::VTrn1, 2, 0)[..8], [0, 1, 2, 3, 16, 17, 18, 19]);
    }
}
