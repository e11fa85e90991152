//! Secrets: passphrases that `--object secret` defines and images name by id.
//!
//! Reference: QEMU's manual, "secret" object (`data`, `file`, `format`, `keyid`, `iv`); messages of 10.0.2.
//!
//! One table for the process, as its command line has one set of objects.

use crate::crypt::{Algorithm, Cipher, IvRule, Mode};
use crate::options::Options;
use spec::error::{Context, Error, Result};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

static SECRETS: Mutex<Option<HashMap<String, Vec<u8>>>> = Mutex::new(None);

/// Defines a secret from the options of its object; the object's type has been taken already.
pub fn define(mut o: Options) -> Result<()> {
    let id = o.take("id").ok_or_else(|| Error::new("Parameter 'id' is missing"))?;
    let base64 = match o.take("format").as_deref() {
        None | Some("raw") => false,
        Some("base64") => true,
        Some(other) => return Err(Error::new(format!("Parameter 'format' does not accept value '{other}'"))),
    };
    let (key_id, iv) = (o.take("keyid"), o.take("iv"));
    let stored = match (o.take("data"), o.take("file")) {
        (Some(_), Some(_)) => return Err(Error::new("'file' and 'data' are mutually exclusive")),
        (Some(data), None) => data.into_bytes(),
        (None, Some(path)) => std::fs::read(&path).context(|| format!("Unable to read {path}"))?,
        (None, None) => return Err(Error::new("Either 'file' or 'data' must be provided")),
    };
    if let Some(key) = o.first_key() {
        return Err(Error::new(format!("Property 'secret.{key}' not found")));
    }
    let mut secret = if base64 || key_id.is_some() { decode_base64(&stored)? } else { stored };
    if let Some(key_id) = key_id {
        let iv = iv.ok_or_else(|| Error::new("IV is required to decrypt secret"))?;
        secret = decrypt(&lookup(&key_id)?, &decode_base64(iv.as_bytes())?, secret)?;
    }
    let mut table = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    if table.get_or_insert_default().insert(id.clone(), secret).is_some() {
        return Err(Error::new(format!("attempt to add duplicate property '{id}' to object (type 'container')")));
    }
    Ok(())
}

pub fn lookup(id: &str) -> Result<Vec<u8>> {
    let table = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    table.as_ref().and_then(|t| t.get(id)).cloned().ok_or_else(|| Error::new(format!("No secret with id '{id}'")))
}

/// The passphrase that a secret holds: text.
pub fn passphrase(id: &str) -> Result<Vec<u8>> {
    let bytes = lookup(id)?;
    match std::str::from_utf8(&bytes) {
        Ok(_) => Ok(bytes),
        Err(_) => Err(Error::new(format!("Data from secret {id} is not valid UTF-8"))),
    }
}

/// A secret that is itself encrypted: AES-256 in CBC mode, padded to whole blocks.
fn decrypt(key: &[u8], iv: &[u8], mut data: Vec<u8>) -> Result<Vec<u8>> {
    if key.len() != 32 {
        return Err(Error::new("Key should be 32 bytes in length"));
    }
    let iv: [u8; 16] = iv.try_into().map_err(|_| Error::new(format!("IV should be 16 bytes in length not {}", iv.len())))?;
    if data.is_empty() || data.len() % 16 != 0 {
        return Err(Error::new("Encrypted secret is no whole number of blocks"));
    }
    let cipher = Cipher::new(Algorithm::Aes, Mode::Cbc, IvRule::None, key)?;
    cipher.decrypt_block_run(iv, &mut data);
    let padding = *data.last().unwrap_or(&0) as usize;
    if padding == 0 || padding > 16 {
        return Err(Error::new(format!("Incorrect number of padding bytes ({padding}) found on decrypted data")));
    }
    data.truncate(data.len() - padding);
    Ok(data)
}

/// RFC 4648 base64; white space is skipped.
pub fn decode_base64(text: &[u8]) -> Result<Vec<u8>> {
    let bad = || Error::new("Base64 data is not valid");
    let (mut out, mut bits, mut held) = (Vec::new(), 0u32, 0);
    let mut padding = 0;
    for c in text.iter().filter(|c| !c.is_ascii_whitespace()) {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                continue;
            }
            _ => return Err(bad()),
        };
        if padding > 0 {
            return Err(bad());
        }
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    let tail = [0, 2, 1][out.len() % 3];
    if padding != tail || held >= 6 { Err(bad()) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_and_damage_noticed() {
        assert_eq!(decode_base64(b"aGVsbG8=\n").unwrap(), b"hello");
        assert_eq!(decode_base64(b"aGVsbG8h").unwrap(), b"hello!");
        assert_eq!(decode_base64(b"").unwrap(), b"");
        for bad in [&b"aGVsbG8"[..], b"a", b"aGVs*G8=", b"=aGVs"] {
            assert!(decode_base64(bad).is_err());
        }
    }

    #[test]
    fn secrets_have_one_source_and_one_name() {
        let table = |text| Options::parse(text, None).unwrap();
        define(table("id=one,data=abc")).unwrap();
        assert_eq!(passphrase("one").unwrap(), b"abc");
        assert!(define(table("id=one,data=abc")).is_err());
        assert!(define(table("id=two")).is_err());
        assert_eq!(lookup("two").unwrap_err().to_string(), "No secret with id 'two'");
        define(table("id=bin,data=/w==,format=base64")).unwrap();
        assert!(passphrase("bin").is_err());
    }
}
