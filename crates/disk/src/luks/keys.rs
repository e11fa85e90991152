//! Key slots: how a passphrase gives the master key, and how a new slot is made.
//!
//! Reference: LUKS On-Disk Format Specification 1.2.3, sections 2.4 (anti-forensic splitter) and 4 (operations).

use super::header::{DIGEST, Header, SALT, STRIPES, Slot};
use super::options::CreateOptions;
use crate::crypt::{Cipher, Hash, SECTOR};
use crate::node::{Node, strerror};
use crate::random::{bytes, secret};
use rustix::time::{ClockId, clock_gettime};
use spec::error::{Error, Result};

/// Fewest rounds that a key may be made with.
const MIN_ROUNDS: u64 = 1000;
/// The digest of the master key gets this part of the time of a slot.
const DIGEST_SHARE: u64 = 8;
/// How long the speed of the host is measured at least, in microseconds of CPU time.
const MEASURE_US: u64 = 4000;

/// Spreads the parts so that each byte of the result depends on each of the block.
fn diffuse(hash: Hash, block: &mut [u8]) {
    let size = hash.digest(&[]).len();
    for (i, part) in block.chunks_mut(size).enumerate() {
        let digest = hash.digest(&[&(i as u32).to_be_bytes(), part]);
        part.copy_from_slice(&digest[..part.len()]);
    }
}

/// Puts the stripes together again.
fn merge(hash: Hash, stripes: &[u8], key_bytes: usize) -> Vec<u8> {
    let mut block = vec![0; key_bytes];
    let parts = stripes.chunks_exact(key_bytes).take(STRIPES as usize);
    for (i, part) in parts.enumerate() {
        block.iter_mut().zip(part).for_each(|(b, p)| *b ^= p);
        if i + 1 < STRIPES as usize {
            diffuse(hash, &mut block);
        }
    }
    block
}

/// Splits a key into stripes, all of which are needed to get it back.
fn split(hash: Hash, key: &[u8]) -> Result<Vec<u8>> {
    let mut stripes = secret(key.len() * (STRIPES as usize - 1))?;
    let mut block = vec![0; key.len()];
    for part in stripes.chunks_exact(key.len()) {
        block.iter_mut().zip(part).for_each(|(b, p)| *b ^= p);
        diffuse(hash, &mut block);
    }
    stripes.extend(block.iter().zip(key).map(|(b, k)| b ^ k));
    Ok(stripes)
}

fn slot_cipher(header: &Header, passphrase: &[u8], slot: &Slot) -> Result<Cipher> {
    let mut key = vec![0; header.key_bytes as usize];
    header.hash.pbkdf2(passphrase, &slot.salt, slot.iterations, &mut key);
    Cipher::new(header.algorithm, header.mode, header.iv, &key)
}

fn digest(hash: Hash, key: &[u8], salt: &[u8], rounds: u32) -> [u8; DIGEST] {
    let mut out = [0; DIGEST];
    hash.pbkdf2(key, salt, rounds, &mut out);
    out
}

/// The master key, if the passphrase fits this slot.
pub fn try_slot(header: &Header, place: &dyn Node, base: u64, index: usize, passphrase: &[u8]) -> Result<Option<Vec<u8>>> {
    let slot = &header.slots[index];
    if !slot.active {
        return Ok(None);
    }
    let cipher = slot_cipher(header, passphrase, slot)?;
    let mut material = vec![0; Header::material_sectors(header.key_bytes) as usize * SECTOR];
    let at = base + slot.material_sector as u64 * SECTOR as u64;
    place.read(at, &mut material).map_err(|e| Error::new(format!("Failed to read key material: {}", strerror(&e))))?;
    cipher.decrypt(0, &mut material);
    let key = merge(header.hash, &material, header.key_bytes as usize);
    let fits = digest(header.hash, &key, &header.digest_salt, header.digest_iterations) == header.digest;
    Ok(fits.then_some(key))
}

/// The cipher of the payload and the master key.
pub fn unlock(header: &Header, place: &dyn Node, base: u64, passphrase: &[u8]) -> Result<(Cipher, Vec<u8>)> {
    for index in 0..header.slots.len() {
        if let Some(key) = try_slot(header, place, base, index, passphrase)? {
            let cipher = Cipher::new(header.algorithm, header.mode, header.iv, &key)?;
            return Ok((cipher, key));
        }
    }
    Err(Error::new("Invalid password, cannot unlock any keyslot"))
}

/// Rounds that take about `ms` of CPU time here.
fn rounds_for(hash: Hash, key_bytes: usize, ms: u64) -> u64 {
    let cpu_us = || {
        let t = clock_gettime(ClockId::ThreadCPUTime);
        t.tv_sec as u64 * 1_000_000 + t.tv_nsec as u64 / 1000
    };
    let mut rounds = 1024u64;
    loop {
        let start = cpu_us();
        hash.pbkdf2(b"speed", &[0; SALT], rounds as u32, &mut vec![0; key_bytes]);
        let took = cpu_us().saturating_sub(start);
        if took >= MEASURE_US || rounds >= 1 << 30 {
            return (rounds as u128 * ms as u128 * 1000 / took.max(1) as u128).min(u32::MAX as u128) as u64;
        }
        rounds *= 2;
    }
}

/// Fills a slot; returns the bytes for its place in the file.
pub fn fill_slot(header: &mut Header, index: usize, passphrase: &[u8], key: &[u8], time_ms: u64) -> Result<Vec<u8>> {
    let rounds = rounds_for(header.hash, key.len(), time_ms).max(MIN_ROUNDS);
    let slot = &mut header.slots[index];
    slot.salt = bytes();
    slot.iterations = rounds as u32;
    slot.stripes = STRIPES;
    slot.active = true;
    let cipher = slot_cipher(header, passphrase, &header.slots[index])?;
    let mut material = split(header.hash, key)?;
    material.resize(material.len().next_multiple_of(SECTOR), 0);
    cipher.encrypt(0, &mut material);
    Ok(material)
}

/// A new header with its first slot filled, and that slot's bytes.
pub fn make(options: &CreateOptions) -> Result<(Header, Vec<u8>)> {
    let passphrase = crate::secret::passphrase(&options.secret)?;
    let key = secret(options.key_bytes as usize)?;
    let (places, payload_sector) = Header::places(options.key_bytes);
    let slot = |at: &u32| Slot { active: false, iterations: 0, salt: [0; SALT], material_sector: *at, stripes: STRIPES };
    let digest_salt = bytes();
    let rounds = (rounds_for(options.hash, DIGEST, options.time_ms) / DIGEST_SHARE).max(MIN_ROUNDS) as u32;
    let mut header = Header {
        algorithm: options.algorithm,
        mode: options.mode,
        iv: options.iv,
        hash: options.hash,
        payload_sector,
        key_bytes: options.key_bytes,
        digest: digest(options.hash, &key, &digest_salt, rounds),
        digest_salt,
        digest_iterations: rounds,
        uuid: uuid(),
        slots: places.iter().map(slot).collect(),
    };
    let material = fill_slot(&mut header, 0, &passphrase, &key, options.time_ms)?;
    Ok((header, material))
}

/// A random UUID, RFC 9562 version 4.
fn uuid() -> String {
    let mut b: [u8; 16] = bytes();
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: Vec<String> = b.iter().map(|v| format!("{v:02x}")).collect();
    [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]].map(|p| p.concat()).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_keys_need_every_stripe() {
        let key: Vec<u8> = (0..64).collect();
        let mut stripes = split(Hash::Sha1, &key).unwrap();
        assert_eq!(merge(Hash::Sha1, &stripes, key.len()), key);
        stripes[1000 * 64] ^= 1;
        assert_ne!(merge(Hash::Sha1, &stripes, key.len()), key);
    }

    #[test]
    fn pbkdf2_agrees_with_rfc_6070() {
        let mut out = [0; 20];
        Hash::Sha1.pbkdf2(b"password", b"salt", 4096, &mut out);
        assert_eq!(out[..8], 0x4b007901b765489au64.to_be_bytes());
    }
}
