//! Ciphers over disk sectors, and the hash functions beside them.
//!
//! Reference: IEEE 1619 (XTS), NIST SP 800-38A (CBC, CTR, ECB); names and IV rules as cryptsetup's LUKS on-disk format 1.2.3
//! lists them (`plain`, `plain64`, `essiv:<hash>`). The block ciphers and hashes are those of RustCrypto.
//!
//! Not modelled: CAST5, DES and 3DES.

use aes::cipher::consts::U16;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use pbkdf2::pbkdf2_hmac;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use spec::error::{Error, Result};

pub const SECTOR: usize = 512;
const BLOCK: usize = 16;
/// Blocks that are worked on at once.
const BATCH: usize = SECTOR / BLOCK;

type Block = Array<u8, U16>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    Aes,
    Serpent,
    Twofish,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Ecb,
    Cbc,
    Xts,
    Ctr,
}

/// How a sector's number becomes its initialization vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IvRule {
    None,
    Plain,
    Plain64,
    Essiv(Hash),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Ripemd160,
}

impl Algorithm {
    pub const NAMES: &[(&str, Algorithm)] = &[("aes", Algorithm::Aes), ("serpent", Algorithm::Serpent), ("twofish", Algorithm::Twofish)];

    pub fn name(self) -> &'static str {
        name_in(Self::NAMES, self)
    }
}

impl Mode {
    pub const NAMES: &[(&str, Mode)] = &[("ecb", Mode::Ecb), ("cbc", Mode::Cbc), ("xts", Mode::Xts), ("ctr", Mode::Ctr)];

    pub fn name(self) -> &'static str {
        name_in(Self::NAMES, self)
    }
}

impl Hash {
    pub const NAMES: &[(&str, Hash)] = &[
        ("sha1", Hash::Sha1),
        ("sha224", Hash::Sha224),
        ("sha256", Hash::Sha256),
        ("sha384", Hash::Sha384),
        ("sha512", Hash::Sha512),
        ("ripemd160", Hash::Ripemd160),
    ];

    pub fn name(self) -> &'static str {
        name_in(Self::NAMES, self)
    }

    pub fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        fn of<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
            let mut d = D::new();
            parts.iter().for_each(|p| d.update(p));
            d.finalize().to_vec()
        }
        match self {
            Hash::Sha1 => of::<Sha1>(parts),
            Hash::Sha224 => of::<Sha224>(parts),
            Hash::Sha256 => of::<Sha256>(parts),
            Hash::Sha384 => of::<Sha384>(parts),
            Hash::Sha512 => of::<Sha512>(parts),
            Hash::Ripemd160 => of::<ripemd::Ripemd160>(parts),
        }
    }

    /// Fills `out` with a key made from a passphrase.
    pub fn pbkdf2(self, passphrase: &[u8], salt: &[u8], rounds: u32, out: &mut [u8]) {
        match self {
            Hash::Sha1 => pbkdf2_hmac::<Sha1>(passphrase, salt, rounds, out),
            Hash::Sha224 => pbkdf2_hmac::<Sha224>(passphrase, salt, rounds, out),
            Hash::Sha256 => pbkdf2_hmac::<Sha256>(passphrase, salt, rounds, out),
            Hash::Sha384 => pbkdf2_hmac::<Sha384>(passphrase, salt, rounds, out),
            Hash::Sha512 => pbkdf2_hmac::<Sha512>(passphrase, salt, rounds, out),
            Hash::Ripemd160 => pbkdf2_hmac::<ripemd::Ripemd160>(passphrase, salt, rounds, out),
        }
    }
}

fn name_in<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, v)| *v == value).map_or("", |(n, _)| n)
}

/// Looks a name up in one of the `NAMES` tables.
pub fn by_name<T: Copy>(names: &[(&'static str, T)], name: &str) -> Option<T> {
    names.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
}

/// A block cipher with its key.
trait BlockCipher: Send + Sync {
    fn encrypt(&self, blocks: &mut [Block]);
    fn decrypt(&self, blocks: &mut [Block]);
}

impl<C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync> BlockCipher for C {
    fn encrypt(&self, blocks: &mut [Block]) {
        self.encrypt_blocks(blocks);
    }
    fn decrypt(&self, blocks: &mut [Block]) {
        self.decrypt_blocks(blocks);
    }
}

fn keyed(algorithm: Algorithm, key: &[u8]) -> Result<Box<dyn BlockCipher>> {
    let wrong = || Error::new(format!("Cipher key length {} is not valid for {}", key.len(), algorithm.name()));
    Ok(match (algorithm, key.len()) {
        (Algorithm::Aes, 16) => Box::new(aes::Aes128::new_from_slice(key).map_err(|_| wrong())?),
        (Algorithm::Aes, 24) => Box::new(aes::Aes192::new_from_slice(key).map_err(|_| wrong())?),
        (Algorithm::Aes, 32) => Box::new(aes::Aes256::new_from_slice(key).map_err(|_| wrong())?),
        (Algorithm::Serpent, 16 | 24 | 32) => Box::new(serpent::Serpent::new_from_slice(key).map_err(|_| wrong())?),
        (Algorithm::Twofish, 16 | 24 | 32) => Box::new(twofish::Twofish::new_from_slice(key).map_err(|_| wrong())?),
        _ => return Err(wrong()),
    })
}

/// A cipher for sectors.
pub struct Cipher {
    mode: Mode,
    iv: IvRule,
    data: Box<dyn BlockCipher>,
    /// XTS: the second key. ESSIV: the key that numbers are encrypted with.
    tweak: Option<Box<dyn BlockCipher>>,
    salt: Option<Box<dyn BlockCipher>>,
}

impl Cipher {
    pub fn new(algorithm: Algorithm, mode: Mode, iv: IvRule, key: &[u8]) -> Result<Cipher> {
        let (first, second) = if mode == Mode::Xts { key.split_at(key.len() / 2) } else { (key, &[][..]) };
        let data = keyed(algorithm, first)?;
        let tweak = if mode == Mode::Xts { Some(keyed(algorithm, second)?) } else { None };
        let salt = match iv {
            // The cipher for the numbers has the strength that the hash's length allows.
            IvRule::Essiv(hash) => Some(keyed(algorithm, &hash.digest(&[key]))?),
            _ => None,
        };
        Ok(Cipher { mode, iv, data, tweak, salt })
    }

    fn vector(&self, sector: u64) -> [u8; BLOCK] {
        let mut iv = [0; BLOCK];
        match self.iv {
            IvRule::None => {}
            IvRule::Plain => iv[..4].copy_from_slice(&(sector as u32).to_le_bytes()),
            IvRule::Plain64 | IvRule::Essiv(_) => iv[..8].copy_from_slice(&sector.to_le_bytes()),
        }
        if let Some(salt) = &self.salt {
            let mut block = [Block::from(iv)];
            salt.encrypt(&mut block);
            iv = block[0].into();
        }
        iv
    }

    /// Encrypts whole sectors, the first of which has this number.
    pub fn encrypt(&self, sector: u64, data: &mut [u8]) {
        for (i, part) in data.chunks_mut(SECTOR).enumerate() {
            let iv = self.vector(sector + i as u64);
            let blocks = Block::slice_as_chunks_mut(part).0;
            match self.mode {
                Mode::Ecb => self.data.encrypt(blocks),
                Mode::Xts => self.xts(iv, blocks, true),
                Mode::Ctr => self.ctr(iv, blocks),
                Mode::Cbc => {
                    let mut last = Block::from(iv);
                    for block in blocks {
                        xor(block, &last);
                        self.data.encrypt(std::slice::from_mut(block));
                        last = *block;
                    }
                }
            }
        }
    }

    /// Decrypts whole sectors.
    pub fn decrypt(&self, sector: u64, data: &mut [u8]) {
        for (i, part) in data.chunks_mut(SECTOR).enumerate() {
            let iv = self.vector(sector + i as u64);
            match self.mode {
                Mode::Ecb => self.data.decrypt(Block::slice_as_chunks_mut(part).0),
                Mode::Xts => self.xts(iv, Block::slice_as_chunks_mut(part).0, false),
                Mode::Ctr => self.ctr(iv, Block::slice_as_chunks_mut(part).0),
                Mode::Cbc => self.decrypt_block_run(iv, part),
            }
        }
    }

    /// Decrypts a run of chained blocks of any length with its own vector.
    pub fn decrypt_block_run(&self, iv: [u8; BLOCK], data: &mut [u8]) {
        let mut last = Block::from(iv);
        for part in data.chunks_mut(SECTOR) {
            let blocks = Block::slice_as_chunks_mut(part).0;
            let mut before = [Block::default(); BATCH];
            let before = &mut before[..blocks.len()];
            before.copy_from_slice(blocks);
            self.data.decrypt(blocks);
            for (block, old) in blocks.iter_mut().zip(before) {
                xor(block, &last);
                last = *old;
            }
        }
    }

    /// One sector: each block is masked with the tweak, which doubles from block to block.
    fn xts(&self, iv: [u8; BLOCK], blocks: &mut [Block], encrypt: bool) {
        let mut first = [Block::from(iv)];
        if let Some(tweak) = &self.tweak {
            tweak.encrypt(&mut first);
        }
        let mut tweak = u128::from_le_bytes(first[0].into());
        let mut masks = [0u128; BATCH];
        for (block, mask) in blocks.iter_mut().zip(&mut masks) {
            *mask = tweak;
            mask_block(block, tweak);
            let carry = (tweak >> 127) * 0x87;
            tweak = tweak << 1 ^ carry;
        }
        if encrypt { self.data.encrypt(blocks) } else { self.data.decrypt(blocks) }
        for (block, mask) in blocks.iter_mut().zip(&masks) {
            mask_block(block, *mask);
        }
    }

    fn ctr(&self, iv: [u8; BLOCK], blocks: &mut [Block]) {
        let mut counter = u128::from_be_bytes(iv);
        for block in blocks {
            let mut stream = [Block::from(counter.to_be_bytes())];
            self.data.encrypt(&mut stream);
            xor(block, &stream[0]);
            counter = counter.wrapping_add(1);
        }
    }
}

fn mask_block(block: &mut Block, mask: u128) {
    *block = Block::from((u128::from_le_bytes((*block).into()) ^ mask).to_le_bytes());
}

fn xor(block: &mut Block, with: &Block) {
    for (a, b) in block.iter_mut().zip(with) {
        *a ^= b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cipher_takes_back_what_it_did() {
        let plain: Vec<u8> = (0..4 * SECTOR).map(|i| (i * 7) as u8).collect();
        for (_, algorithm) in Algorithm::NAMES {
            for (_, mode) in Mode::NAMES {
                for iv in [IvRule::None, IvRule::Plain, IvRule::Plain64, IvRule::Essiv(Hash::Sha256)] {
                    let key: Vec<u8> = (0..if *mode == Mode::Xts { 64 } else { 32 }).collect();
                    let cipher = Cipher::new(*algorithm, *mode, iv, &key).unwrap();
                    let mut data = plain.clone();
                    cipher.encrypt(5, &mut data);
                    assert_ne!(data, plain);
                    // Sectors are independent of each other.
                    cipher.decrypt(6, &mut data[SECTOR..2 * SECTOR]);
                    assert_eq!(data[SECTOR..2 * SECTOR], plain[SECTOR..2 * SECTOR]);
                    cipher.decrypt(5, &mut data[..SECTOR]);
                    cipher.decrypt(7, &mut data[2 * SECTOR..]);
                    assert_eq!(data, plain);
                }
            }
        }
        assert!(Cipher::new(Algorithm::Aes, Mode::Cbc, IvRule::None, &[0; 20]).is_err());
    }

    #[test]
    fn xts_agrees_with_ieee_1619_vector_4() {
        // IEEE 1619-2007, annex B, vector 4: a 512-byte data unit with sequence number 0, AES-128.
        let key1 = 0x2718281828459045_2353602874713526u128.to_be_bytes();
        let key2 = 0x3141592653589793_2384626433832795u128.to_be_bytes();
        let mut data: Vec<u8> = (0..512).map(|i| i as u8).collect();
        let cipher = Cipher::new(Algorithm::Aes, Mode::Xts, IvRule::Plain64, &[key1, key2].concat()).unwrap();
        cipher.encrypt(0, &mut data);
        assert_eq!(data[..16], 0x27a7479befa1d476_489f308cd4cfa6e2u128.to_be_bytes());
    }
}
