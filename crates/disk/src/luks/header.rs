//! The LUKS1 header: names of the algorithms, digest of the master key, eight key slots.
//!
//! Reference: LUKS On-Disk Format Specification 1.2.3, figures 1 to 4.
//!
//! Invariants: every place that a parsed header names is behind the header and in front of the payload, and no two
//! key slots overlap.

use crate::crypt::{Algorithm, Hash, IvRule, Mode, SECTOR, by_name};
use spec::error::{Error, Result};

pub const HEADER_BYTES: usize = 592;
pub const SLOTS: usize = 8;
/// Anti-forensic stripes that every header has.
pub const STRIPES: u32 = 4000;
pub const SALT: usize = 32;
pub const DIGEST: usize = 20;
/// Key material and payload start at multiples of this many sectors.
const ALIGN: u32 = 8;

const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
const ENABLED: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;
const AT_SLOTS: usize = 208;
const SLOT_BYTES: usize = 48;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub active: bool,
    pub iterations: u32,
    pub salt: [u8; SALT],
    pub material_sector: u32,
    pub stripes: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub algorithm: Algorithm,
    pub mode: Mode,
    pub iv: IvRule,
    pub hash: Hash,
    pub payload_sector: u32,
    pub key_bytes: u32,
    pub digest: [u8; DIGEST],
    pub digest_salt: [u8; SALT],
    pub digest_iterations: u32,
    pub uuid: String,
    pub slots: Vec<Slot>,
}

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(b[at..at + 4].try_into().expect("four bytes"))
}

/// Text up to its terminating zero.
fn text<'a>(b: &'a [u8], at: usize, len: usize, what: &str) -> Result<&'a str> {
    let field = &b[at..at + len];
    let end = field.iter().position(|c| *c == 0).ok_or_else(|| Error::new(format!("LUKS header {what} is not NUL terminated")))?;
    std::str::from_utf8(&field[..end]).map_err(|_| Error::new(format!("LUKS header {what} is no text")))
}

/// `xts-plain64`, `cbc-essiv:sha256` and so on.
fn parse_mode(spec: &str) -> Result<(Mode, IvRule)> {
    let (mode, iv) = spec.split_once('-').ok_or_else(|| Error::new(format!("Unexpected cipher mode string format '{spec}'")))?;
    let mode = by_name(Mode::NAMES, mode).ok_or_else(|| Error::new(format!("Algorithm '{mode}' with mode is not supported")))?;
    let iv = match iv.split_once(':') {
        Some(("essiv", hash)) => IvRule::Essiv(parse_hash(hash)?),
        None if iv == "plain" => IvRule::Plain,
        None if iv == "plain64" => IvRule::Plain64,
        _ => return Err(Error::new(format!("Algorithm '{iv}' for initialization vectors is not supported"))),
    };
    Ok((mode, iv))
}

fn parse_hash(name: &str) -> Result<Hash> {
    by_name(Hash::NAMES, name).ok_or_else(|| Error::new(format!("Algorithm '{name}' for hashing is not supported")))
}

impl Header {
    pub fn parse(b: &[u8]) -> Result<Header> {
        if b.len() < HEADER_BYTES || !b.starts_with(MAGIC) {
            return Err(Error::new("Volume is not in LUKS format"));
        }
        let version = u16::from_be_bytes([b[6], b[7]]);
        if version != 1 {
            return Err(Error::new(format!("LUKS version {version} is not supported")));
        }
        let cipher = text(b, 8, 32, "cipher name")?;
        let algorithm = by_name(Algorithm::NAMES, cipher).ok_or_else(|| Error::new(format!("Algorithm '{cipher}' is not supported")))?;
        let (mode, iv) = parse_mode(text(b, 40, 32, "cipher mode")?)?;
        let hash = parse_hash(text(b, 72, 32, "hash algorithm")?)?;
        let slot = |i: usize| -> Result<Slot> {
            let at = AT_SLOTS + i * SLOT_BYTES;
            let active = match be32(b, at) {
                ENABLED => true,
                DISABLED => false,
                other => return Err(Error::new(format!("Keyslot {i} state is invalid: {other:#x}"))),
            };
            Ok(Slot {
                active,
                iterations: be32(b, at + 4),
                salt: b[at + 8..at + 40].try_into().expect("a salt"),
                material_sector: be32(b, at + 40),
                stripes: be32(b, at + 44),
            })
        };
        let header = Header {
            algorithm,
            mode,
            iv,
            hash,
            payload_sector: be32(b, 104),
            key_bytes: be32(b, 108),
            digest: b[112..132].try_into().expect("a digest"),
            digest_salt: b[132..164].try_into().expect("a salt"),
            digest_iterations: be32(b, 164),
            uuid: text(b, 168, 40, "uuid")?.to_owned(),
            slots: (0..SLOTS).map(slot).collect::<Result<_>>()?,
        };
        header.validate()?;
        Ok(header)
    }

    fn validate(&self) -> Result<()> {
        let wanted: &[u32] = if self.mode == Mode::Xts { &[32, 48, 64] } else { &[16, 24, 32] };
        if !wanted.contains(&self.key_bytes) {
            return Err(Error::new(format!("Cipher {} with mode {} has no key of {} bytes", self.algorithm.name(), self.mode.name(), self.key_bytes)));
        }
        if self.digest_iterations == 0 {
            return Err(Error::new("LUKS key iteration count is zero"));
        }
        let first = HEADER_BYTES.div_ceil(SECTOR) as u64;
        let sectors = Self::material_sectors(self.key_bytes) as u64;
        for (i, slot) in self.slots.iter().enumerate() {
            if slot.stripes != STRIPES {
                return Err(Error::new(format!("Keyslot {i} is corrupted (stripes count {} != {STRIPES})", slot.stripes)));
            }
            if slot.active && slot.iterations == 0 {
                return Err(Error::new(format!("Keyslot {i} iteration count is zero")));
            }
            let (start, end) = (slot.material_sector as u64, slot.material_sector as u64 + sectors);
            if start < first {
                return Err(Error::new(format!("Keyslot {i} is overlapping with the LUKS header")));
            }
            if self.payload_sector != 0 && end > self.payload_sector as u64 {
                return Err(Error::new(format!("Keyslot {i} is overlapping with the encrypted payload")));
            }
            for (j, other) in self.slots.iter().enumerate().skip(i + 1) {
                let (from, to) = (other.material_sector as u64, other.material_sector as u64 + sectors);
                if start < to && from < end {
                    return Err(Error::new(format!("Keyslots {i} and {j} are overlapping in the header")));
                }
            }
        }
        Ok(())
    }

    /// Sectors that the stripes of one slot take.
    pub fn material_sectors(key_bytes: u32) -> u32 {
        (key_bytes * STRIPES).div_ceil(SECTOR as u32)
    }

    /// First sector of each slot's material, then of the payload, for a new header.
    pub fn places(key_bytes: u32) -> (Vec<u32>, u32) {
        let step = Self::material_sectors(key_bytes).next_multiple_of(ALIGN);
        let slots = (0..SLOTS as u32).map(|i| ALIGN + i * step).collect();
        (slots, ALIGN + SLOTS as u32 * step)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut b = vec![0; HEADER_BYTES];
        let put = |b: &mut Vec<u8>, at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
        put(&mut b, 0, MAGIC);
        put(&mut b, 6, &1u16.to_be_bytes());
        put(&mut b, 8, self.algorithm.name().as_bytes());
        put(&mut b, 40, self.mode_name().as_bytes());
        put(&mut b, 72, self.hash.name().as_bytes());
        put(&mut b, 104, &self.payload_sector.to_be_bytes());
        put(&mut b, 108, &self.key_bytes.to_be_bytes());
        put(&mut b, 112, &self.digest);
        put(&mut b, 132, &self.digest_salt);
        put(&mut b, 164, &self.digest_iterations.to_be_bytes());
        put(&mut b, 168, &self.uuid.as_bytes()[..self.uuid.len().min(39)]);
        for (i, slot) in self.slots.iter().enumerate() {
            let at = AT_SLOTS + i * SLOT_BYTES;
            put(&mut b, at, &if slot.active { ENABLED } else { DISABLED }.to_be_bytes());
            put(&mut b, at + 4, &slot.iterations.to_be_bytes());
            put(&mut b, at + 8, &slot.salt);
            put(&mut b, at + 40, &slot.material_sector.to_be_bytes());
            put(&mut b, at + 44, &slot.stripes.to_be_bytes());
        }
        b
    }

    fn mode_name(&self) -> String {
        match self.iv_hash_name() {
            Some(hash) => format!("{}-essiv:{hash}", self.mode.name()),
            None => format!("{}-{}", self.mode.name(), self.iv_name()),
        }
    }

    pub fn iv_name(&self) -> &'static str {
        match self.iv {
            IvRule::Essiv(_) => "essiv",
            IvRule::Plain64 => "plain64",
            IvRule::None | IvRule::Plain => "plain",
        }
    }

    pub fn iv_hash_name(&self) -> Option<&'static str> {
        match self.iv {
            IvRule::Essiv(hash) => Some(hash.name()),
            _ => None,
        }
    }

    /// Cipher and key size, as QEMU names them.
    pub fn cipher_name(&self) -> String {
        let bytes = if self.mode == Mode::Xts { self.key_bytes / 2 } else { self.key_bytes };
        format!("{}-{}", self.algorithm.name(), bytes * 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::bytes;

    fn sample() -> Header {
        let (places, payload_sector) = Header::places(64);
        let slot = |(i, at): (usize, &u32)| Slot { active: i == 0, iterations: 1000, salt: bytes(), material_sector: *at, stripes: STRIPES };
        Header {
            algorithm: Algorithm::Aes,
            mode: Mode::Xts,
            iv: IvRule::Plain64,
            hash: Hash::Sha256,
            payload_sector,
            key_bytes: 64,
            digest: bytes(),
            digest_salt: bytes(),
            digest_iterations: 1000,
            uuid: "b1d4dc23-a954-4b23-bc97-4147f5feb1d7".into(),
            slots: places.iter().enumerate().map(slot).collect(),
        }
    }

    #[test]
    fn headers_survive_a_round_trip() {
        let h = sample();
        assert_eq!(h.payload_sector, 4040);
        assert_eq!(Header::parse(&h.encode()).unwrap(), h);
    }

    #[test]
    fn damaged_headers_get_one_clear_error() {
        let good = sample().encode();
        for cut in [0, 5, 6, 8, 100, 591] {
            assert!(Header::parse(&good[..cut]).is_err());
        }
        for at in 0..good.len() {
            for value in [0, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                if let Ok(h) = Header::parse(&bad) {
                    h.validate().unwrap();
                }
            }
        }
        let mut overlap = sample();
        overlap.slots[3].material_sector = overlap.slots[2].material_sector + 1;
        assert_eq!(Header::parse(&overlap.encode()).unwrap_err().to_string(), "Keyslots 2 and 3 are overlapping in the header");
        let mut two = good;
        two[7] = 2;
        assert_eq!(Header::parse(&two).unwrap_err().to_string(), "LUKS version 2 is not supported");
    }
}
