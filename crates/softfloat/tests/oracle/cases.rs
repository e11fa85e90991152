//! Random operands, biased towards the edges of a format.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::kinds::Encoding;

/// A pseudo-random sequence (xorshift64*).
pub struct Rng(u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        ((self.next() >> 32) * n) >> 32
    }
}

/// The seed of this run.
pub fn seed() -> u64 {
    let given = std::env::var("SOFTFLOAT_SEED")
        .ok()
        .map(|text| text.parse().expect("SOFTFLOAT_SEED is a number"));
    given.unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock after 1970")
            .as_nanos() as u64
    })
}

/// Runs `case` `count` times with random numbers; the seed is printed if one of them fails.
pub fn repeat(count: u32, mut case: impl FnMut(&mut Rng)) {
    let seed = seed();
    println!("SOFTFLOAT_SEED={seed}");
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..count {
        case(&mut rng);
    }
}

/// A fraction field: random, a few bits, a run of ones, or near one of its ends.
fn fraction<K: Encoding>(rng: &mut Rng) -> u64 {
    let mask = (1 << K::FRAC) - 1;
    let bit = |rng: &mut Rng| 1u64 << rng.below(K::FRAC as u64);
    mask & match rng.below(6) {
        0 => bit(rng) | bit(rng),
        1 => bit(rng).wrapping_sub(bit(rng)),
        2 => rng.below(4).wrapping_sub(2),
        3 => bit(rng).wrapping_add(rng.below(4)).wrapping_sub(2),
        _ => rng.next(),
    }
}

/// One operand.
pub fn operand<K: Encoding>(rng: &mut Rng) -> u64 {
    let top = (1u64 << K::EXP) - 1;
    let field = match rng.below(16) {
        0 => 0,
        1 => rng.below(3),
        2 => top - rng.below(3),
        3 | 4 => top / 2 - 3 + rng.below(6),
        5 => top / 2 + K::FRAC as u64 - 2 + rng.below(4),
        6 => top / 2 - K::FRAC as u64 / 2 + rng.below(4),
        7 => return special::<K>(rng),
        _ => rng.next(),
    };
    (field & top) << K::FRAC | fraction::<K>(rng) | (rng.below(2) << (K::EXP + K::FRAC))
}

fn special<K: Encoding>(rng: &mut Rng) -> u64 {
    let inf = ((1u64 << K::EXP) - 1) << K::FRAC;
    let one = ((1u64 << (K::EXP - 1)) - 1) << K::FRAC;
    let values = [
        0,
        1,
        (1 << K::FRAC) - 1,
        1 << K::FRAC,
        one,
        inf - 1,
        inf,
        inf | 1 << (K::FRAC - 1),
        inf | 1,
    ];
    values[rng.below(values.len() as u64) as usize] | rng.below(2) << (K::EXP + K::FRAC)
}

/// A further operand, often with an exponent that meets the first one's: for sums (close to it), for products and
/// quotients (the result at either end of the range).
pub fn partner<K: Encoding>(rng: &mut Rng, a: u64) -> u64 {
    let b = operand::<K>(rng);
    let top = (1i64 << K::EXP) - 1;
    let bias = top / 2;
    let field_a = (a >> K::FRAC) as i64 & top;
    let near = rng.below(8) as i64 - 4;
    let field = match rng.below(8) {
        0 => return a ^ (rng.below(2) << (K::EXP + K::FRAC)),
        1 => {
            return a.wrapping_add(rng.below(5)).wrapping_sub(2) & ((1 << (K::EXP + K::FRAC)) - 1)
                | (b & 1) << (K::EXP + K::FRAC);
        }
        2 => field_a + near,
        3 => field_a + near * (K::FRAC as i64 / 3),
        4 => bias - field_a + near - K::FRAC as i64 * rng.below(2) as i64,
        5 => top + bias - field_a + near,
        6 => field_a + bias - rng.below(2) as i64 * top + near,
        _ => return b,
    };
    let field = field.clamp(0, top) as u64;
    b & !((top as u64) << K::FRAC) | field << K::FRAC
}
