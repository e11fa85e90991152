//! AES, SHA-1 and SHA-256 steps. Arm ARM (DDI 0487) shared pseudocode `AESSubBytes` … `SHA256schedule`; FIPS 197, FIPS 180-4.

use super::{Bytes, set_words, words};

/// Multiplication by x in GF(2^8).
const fn xtime(a: u8) -> u8 {
    a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 }
}

const fn gf_mul(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = xtime(a);
        b >>= 1;
    }
    product
}

/// The S-box: the affine transformation of the inverse in GF(2^8).
static SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        // i^254 is the inverse of i, and 0 for 0.
        let (mut inverse, mut power, mut exponent) = (1u8, i as u8, 254);
        while exponent != 0 {
            if exponent & 1 != 0 {
                inverse = gf_mul(inverse, power);
            }
            power = gf_mul(power, power);
            exponent >>= 1;
        }
        let x = inverse;
        table[i] = x ^ x.rotate_left(1) ^ x.rotate_left(2) ^ x.rotate_left(3) ^ x.rotate_left(4) ^ 0x63;
        i += 1;
    }
    table
};

static INVERSE_SBOX: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[SBOX[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// Products with a column constant, so that MixColumns is look-ups and exclusive ors.
const fn products(factor: u8) -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = gf_mul(i as u8, factor);
        i += 1;
    }
    table
}

/// InvMixColumns of a column whose first byte is the index and whose others are 0.
static INVERSE_COLUMN: [u32; 256] = {
    let (e, n, d, b) = (products(14), products(9), products(13), products(11));
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = u32::from_le_bytes([e[i], n[i], d[i], b[i]]);
        i += 1;
    }
    table
};

/// `xtime` of each byte.
fn xtime_4(x: u32) -> u32 {
    (x & 0x7f7f_7f7f) << 1 ^ (x >> 7 & 0x0101_0101) * 0x1b
}

/// A table look-up for each byte of `state ^ key`; byte i of column c comes from row i of column c + `step`·i. Whole words are
/// written, because whole vectors are read soon after.
#[inline(always)]
fn substitute(out: &mut Bytes, state: &Bytes, key: &Bytes, table: &[u8; 256], step: usize) {
    let x = (u128::from_le_bytes(*state) ^ u128::from_le_bytes(*key)).to_le_bytes();
    let byte = |c: usize, i: usize| table[x[(4 * (c + step * i) + i) % 16] as usize];
    set_words(out, std::array::from_fn(|c| u32::from_le_bytes([byte(c, 0), byte(c, 1), byte(c, 2), byte(c, 3)])));
}

/// AESE: AddRoundKey, ShiftRows, SubBytes.
pub extern "C" fn aese(out: &mut Bytes, state: &Bytes, key: &Bytes, _: &Bytes) {
    substitute(out, state, key, &SBOX, 1);
}

/// AESD: the inverse steps.
pub extern "C" fn aesd(out: &mut Bytes, state: &Bytes, key: &Bytes, _: &Bytes) {
    substitute(out, state, key, &INVERSE_SBOX, 3);
}

/// AESMC: MixColumns. Byte i of a column becomes 2·a[i] + 3·a[i+1] + a[i+2] + a[i+3].
pub extern "C" fn aesmc(out: &mut Bytes, state: &Bytes, _: &Bytes, _: &Bytes) {
    let mixed = words(state).map(|a| {
        let doubled = xtime_4(a);
        doubled ^ (doubled ^ a).rotate_right(8) ^ a.rotate_right(16) ^ a.rotate_right(24)
    });
    set_words(out, mixed);
}

/// AESIMC: the inverse of MixColumns.
pub extern "C" fn aesimc(out: &mut Bytes, state: &Bytes, _: &Bytes, _: &Bytes) {
    let mixed = words(state).map(|a| {
        let [a, b, c, d] = a.to_le_bytes().map(|byte| INVERSE_COLUMN[byte as usize]);
        a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d.rotate_left(24)
    });
    set_words(out, mixed);
}

fn choose(x: u32, y: u32, z: u32) -> u32 {
    (y ^ z) & x ^ z
}

fn parity(x: u32, y: u32, z: u32) -> u32 {
    x ^ y ^ z
}

fn majority(x: u32, y: u32, z: u32) -> u32 {
    x & y | (x | y) & z
}

/// Four SHA-1 rounds: hash words a to d, word e (lane 0 of `e`), four words of the schedule with the constant added.
#[inline(always)]
fn sha1_rounds(out: &mut Bytes, hash: &Bytes, e: &Bytes, schedule: &Bytes, f: fn(u32, u32, u32) -> u32) {
    let [mut a, mut b, mut c, mut d] = words(hash);
    let mut e = words(e)[0];
    for w in words(schedule) {
        let next = a.rotate_left(5).wrapping_add(f(b, c, d)).wrapping_add(e).wrapping_add(w);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    set_words(out, [a, b, c, d]);
}

pub extern "C" fn sha1c(out: &mut Bytes, hash: &Bytes, e: &Bytes, w: &Bytes) {
    sha1_rounds(out, hash, e, w, choose);
}

pub extern "C" fn sha1p(out: &mut Bytes, hash: &Bytes, e: &Bytes, w: &Bytes) {
    sha1_rounds(out, hash, e, w, parity);
}

pub extern "C" fn sha1m(out: &mut Bytes, hash: &Bytes, e: &Bytes, w: &Bytes) {
    sha1_rounds(out, hash, e, w, majority);
}

pub extern "C" fn sha1su0(out: &mut Bytes, d: &Bytes, n: &Bytes, m: &Bytes) {
    let (d, n, m) = (words(d), words(n), words(m));
    set_words(out, [d[2] ^ d[0] ^ m[0], d[3] ^ d[1] ^ m[1], n[0] ^ d[2] ^ m[2], n[1] ^ d[3] ^ m[3]]);
}

pub extern "C" fn sha1su1(out: &mut Bytes, d: &Bytes, m: &Bytes, _: &Bytes) {
    let (d, m) = (words(d), words(m));
    let mut t = [d[0] ^ m[1], d[1] ^ m[2], d[2] ^ m[3], d[3]].map(|x| x.rotate_left(1));
    t[3] ^= (d[0] ^ m[1]).rotate_left(2);
    set_words(out, t);
}

pub extern "C" fn sha1h(out: &mut Bytes, m: &Bytes, _: &Bytes, _: &Bytes) {
    set_words(out, [words(m)[0].rotate_left(30), 0, 0, 0]);
}

/// Four SHA-256 rounds; gives both halves of the hash.
#[inline(always)]
fn sha256_rounds(x: &Bytes, y: &Bytes, schedule: &Bytes) -> ([u32; 4], [u32; 4]) {
    let [mut a, mut b, mut c, mut d] = words(x);
    let [mut e, mut f, mut g, mut h] = words(y);
    for w in words(schedule) {
        let sigma1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let sigma0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t = h.wrapping_add(sigma1).wrapping_add(choose(e, f, g)).wrapping_add(w);
        let top = t.wrapping_add(sigma0).wrapping_add(majority(a, b, c));
        (a, b, c, d, e, f, g, h) = (top, a, b, c, d.wrapping_add(t), e, f, g);
    }
    ([a, b, c, d], [e, f, g, h])
}

pub extern "C" fn sha256h(out: &mut Bytes, abcd: &Bytes, efgh: &Bytes, w: &Bytes) {
    set_words(out, sha256_rounds(abcd, efgh, w).0);
}

/// The destination is the second half of the hash.
pub extern "C" fn sha256h2(out: &mut Bytes, efgh: &Bytes, abcd: &Bytes, w: &Bytes) {
    set_words(out, sha256_rounds(abcd, efgh, w).1);
}

pub extern "C" fn sha256su0(out: &mut Bytes, d: &Bytes, m: &Bytes, _: &Bytes) {
    let (d, m) = (words(d), words(m));
    let next = [d[1], d[2], d[3], m[0]];
    set_words(
        out,
        std::array::from_fn(|i| {
            let x = next[i];
            d[i].wrapping_add(x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3)
        }),
    );
}

pub extern "C" fn sha256su1(out: &mut Bytes, d: &Bytes, n: &Bytes, m: &Bytes) {
    let (d, n, m) = (words(d), words(n), words(m));
    let shifted = [n[1], n[2], n[3], m[0]];
    let sigma = |x: u32| x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10;
    let mut r = [0; 4];
    for i in 0..4 {
        let x = if i < 2 { m[2 + i] } else { r[i - 2] };
        r[i] = d[i].wrapping_add(shifted[i]).wrapping_add(sigma(x));
    }
    set_words(out, r);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_s_box_is_that_of_fips_197() {
        assert_eq!((SBOX[0], SBOX[1], SBOX[0x53], SBOX[0xff]), (0x63, 0x7c, 0xed, 0x16));
        assert_eq!(INVERSE_SBOX[0xed], 0x53);
    }

    #[test]
    fn mix_columns_is_that_of_fips_197() {
        // FIPS 197, appendix B, round 1.
        let column = [0xd4, 0xbf, 0x5d, 0x30];
        let mut state = [0; 16];
        state[..4].copy_from_slice(&column);
        let (mut mixed, mut back) = ([0; 16], [0; 16]);
        aesmc(&mut mixed, &state, &[0; 16], &[0; 16]);
        assert_eq!(mixed[..4], [0x04, 0x66, 0x81, 0xe5]);
        aesimc(&mut back, &mixed, &[0; 16], &[0; 16]);
        assert_eq!(back, state);
    }

    #[test]
    fn decryption_steps_undo_encryption_steps() {
        let state: Bytes = std::array::from_fn(|i| 17 * i as u8 ^ 0x5a);
        let (mut e, mut d) = ([0; 16], [0; 16]);
        aese(&mut e, &state, &[0; 16], &[0; 16]);
        aesd(&mut d, &e, &[0; 16], &[0; 16]);
        assert_eq!(d, state);
    }
}
