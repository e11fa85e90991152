//! Encryption of stored clusters: LUKS with its header inside of the image, and the old AES method.
//!
//! Reference: docs/interop/qcow2.txt, "Full disk encryption header pointer" and "Data encryption". The key of the AES method
//! is the passphrase itself, cut or filled with zeroes to 16 bytes (as images of `qemu-img` 10.0.2 show).

use super::Qcow2;
use super::header::Header;
use crate::crypt::{Algorithm, Cipher, IvRule, Mode, SECTOR};
use crate::luks;
use crate::node::{Node, errno, strerror};
use crate::options::Options;
use rustix::io::Errno;
use serde_json::{Value, json};
use spec::error::{Error, Result};
use std::io;
use std::sync::{Mutex, PoisonError};

/// Values of the header's `crypt_method`.
pub const METHOD_AES: u32 = 1;
pub const METHOD_LUKS: u32 = 2;
const AES_KEY: usize = 16;

/// What the user says about the key.
#[derive(Clone, Debug, Default)]
pub struct KeyOptions {
    pub format: Option<String>,
    pub secret: Option<String>,
    /// Opened to be looked at: the secret may be missing.
    pub no_data: bool,
}

enum Method {
    /// The sector number is the guest's.
    Aes,
    /// The sector number is the one in the file.
    Luks { header: Mutex<luks::header::Header>, base: u64 },
}

pub struct Seal {
    method: Method,
    /// Absent when the secret is not known.
    cipher: Option<Cipher>,
}

/// The cipher of the AES method.
fn aes(passphrase: &[u8]) -> Result<Cipher> {
    let mut key = [0; AES_KEY];
    let n = passphrase.len().min(AES_KEY);
    key[..n].copy_from_slice(&passphrase[..n]);
    Cipher::new(Algorithm::Aes, Mode::Cbc, IvRule::Plain64, &key)
}

/// The key of a version 1 image, which has the AES method only.
pub struct AesKey(Cipher);

impl AesKey {
    /// `None` when the image is only looked at.
    pub fn open(key: &KeyOptions) -> Result<Option<AesKey>> {
        match &key.secret {
            Some(id) => Ok(Some(AesKey(aes(&crate::secret::passphrase(id)?)?))),
            None if key.no_data => Ok(None),
            None => Err(Error::new("Parameter 'encrypt.key-secret' is required for cipher")),
        }
    }

    /// Decrypts bytes of the disk, of which those at both ends may be parts of sectors.
    pub fn decrypt(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset % SECTOR as u64 != 0 || buf.len() % SECTOR != 0 {
            return Err(errno(Errno::INVAL));
        }
        self.0.decrypt(offset / SECTOR as u64, buf);
        Ok(())
    }
}

fn host(e: io::Error) -> Error {
    Error::new(strerror(&e))
}

impl Seal {
    /// Finds out how an image is encrypted and unlocks it.
    pub fn open(header: &Header, file: &dyn Node, key: &KeyOptions) -> Result<Option<Seal>> {
        let format = match header.crypt_method {
            0 => match &key.format {
                Some(f) => {
                    return Err(Error::new(format!(
                        "No encryption in image header, but options specified format '{f}'"
                    )));
                }
                None => return Ok(None),
            },
            METHOD_AES => "aes",
            METHOD_LUKS => "luks",
            other => return Err(Error::new(format!("Unsupported encryption method {other}"))),
        };
        if let Some(wanted) = key.format.as_deref().filter(|f| *f != format) {
            return Err(Error::new(format!(
                "Header reported '{format}' encryption format in image but options specify '{wanted}'"
            )));
        }
        let passphrase = match &key.secret {
            _ if key.no_data => None,
            Some(id) => Some(crate::secret::passphrase(id)?),
            None => return Err(Error::new("Parameter 'encrypt.key-secret' is required for cipher")),
        };
        if format == "aes" {
            return Ok(Some(Seal { method: Method::Aes, cipher: passphrase.map(|p| aes(&p)).transpose()? }));
        }
        let (base, _) =
            header.crypto.ok_or_else(|| Error::new(format!("Missing CRYPTO header for crypt method {METHOD_LUKS}")))?;
        if base % header.cluster_size() != 0 {
            return Err(Error::new(format!(
                "Encryption header offset '{base}' is not a multiple of cluster size '{}'",
                header.cluster_size()
            )));
        }
        let inner = luks::read_header(file, base)?;
        let cipher = match passphrase {
            Some(p) => Some(luks::keys::unlock(&inner, file, base, &p)?.0),
            None => None,
        };
        Ok(Some(Seal { method: Method::Luks { header: Mutex::new(inner), base }, cipher }))
    }

    fn cipher(&self) -> io::Result<&Cipher> {
        self.cipher.as_ref().ok_or_else(|| errno(Errno::OPNOTSUPP))
    }

    fn number(&self, host: u64, guest: u64) -> u64 {
        let at = if matches!(self.method, Method::Aes) { guest } else { host };
        at / SECTOR as u64
    }

    pub fn encrypt(&self, host: u64, guest: u64, buf: &mut [u8]) -> io::Result<()> {
        self.cipher()?.encrypt(self.number(host, guest), buf);
        Ok(())
    }

    pub fn decrypt(&self, host: u64, guest: u64, buf: &mut [u8]) -> io::Result<()> {
        self.cipher()?.decrypt(self.number(host, guest), buf);
        Ok(())
    }

    pub fn describe(&self) -> Value {
        match &self.method {
            Method::Aes => json!({ "format": "aes" }),
            Method::Luks { header, .. } => {
                luks::describe(&header.lock().unwrap_or_else(PoisonError::into_inner), false, Some("luks"))
            }
        }
    }
}

/// How a new image is to be encrypted.
#[derive(Clone, Debug)]
pub enum NewKey {
    Aes(String),
    Luks(luks::options::CreateOptions),
}

impl NewKey {
    /// Takes `encryption` and everything below `encrypt.`.
    pub fn take(options: &mut Options) -> Result<Option<NewKey>> {
        let old = options.take_bool("encryption")?.unwrap_or(false);
        let mut format = options.take("encrypt.format");
        if old && format.is_some() {
            return Err(Error::new("Options encryption and encrypt.format are mutually exclusive"));
        }
        if old {
            format = Some("aes".into());
        }
        match format.as_deref() {
            None => match options.take_below("encrypt").is_empty() {
                true => Ok(None),
                false => Err(Error::new("Parameter 'encrypt.format' is missing")),
            },
            Some("aes") => {
                let secret = options.take("encrypt.key-secret");
                let secret =
                    secret.ok_or_else(|| Error::new("Parameter 'encrypt.key-secret' is required for cipher"))?;
                crate::secret::passphrase(&secret)?;
                Ok(Some(NewKey::Aes(secret)))
            }
            Some("luks") => {
                let luks = luks::options::CreateOptions::take(options, "encrypt.")?;
                if luks.detached {
                    return Err(Error::new("Parameter 'encrypt.detached-header' is unexpected"));
                }
                Ok(Some(NewKey::Luks(luks)))
            }
            Some(other) => Err(Error::new(format!("Parameter 'format' does not accept value '{other}'"))),
        }
    }
}

impl Qcow2 {
    /// Gives a new image its key: the header's place is allocated and written, and data is encrypted from now on.
    pub(super) fn init_key(&self, key: &NewKey) -> Result<()> {
        let (secret, method) = match key {
            NewKey::Aes(secret) => (secret, METHOD_AES),
            NewKey::Luks(luks) => (&luks.secret, METHOD_LUKS),
        };
        if let NewKey::Luks(options) = key {
            let (inner, material) = luks::keys::make(options)?;
            let bytes = inner.payload_sector as u64 * SECTOR as u64;
            let at = {
                let mut meta = self.lock();
                let clusters = bytes.div_ceil(self.cluster_size);
                let at = meta.alloc(clusters).map_err(host)? * self.cluster_size;
                meta.header.crypto = Some((at, bytes));
                at
            };
            self.file.write_zeroes(at, bytes.next_multiple_of(self.cluster_size), false).map_err(host)?;
            self.file.write(at, &inner.encode()).map_err(host)?;
            self.file.write(at + inner.slots[0].material_sector as u64 * SECTOR as u64, &material).map_err(host)?;
            self.file.flush().map_err(host)?;
        }
        let header = {
            let mut meta = self.lock();
            meta.header.crypt_method = method;
            meta.write_back().map_err(host)?;
            meta.write_header().map_err(host)?;
            meta.header.clone()
        };
        let open = KeyOptions { secret: Some(secret.clone()), ..KeyOptions::default() };
        if let Some(seal) = Seal::open(&header, self.file.as_ref(), &open)? {
            let _ = self.seal.set(seal); // a new image has none yet
        }
        Ok(())
    }

    /// Changes key slots. `secret` is what the image was opened with.
    pub fn amend_key(&self, options: &mut Options, secret: &str, force: bool) -> Result<()> {
        match self.seal.get().map(|s| &s.method) {
            Some(Method::Luks { header, base }) => {
                let change = luks::amend::Change::take(options, "encrypt.")?;
                let mut header = header.lock().unwrap_or_else(PoisonError::into_inner);
                luks::amend::apply(&mut header, self.file.as_ref(), *base, &change, secret, force)
            }
            Some(Method::Aes) => Err(Error::new("Only LUKS encryption options can be amended for qcow2 with amend")),
            None => Err(Error::new("Can't amend encryption options - encryption not present")),
        }
    }
}
