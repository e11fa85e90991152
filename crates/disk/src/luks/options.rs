//! What can be chosen when a LUKS header is made.
//!
//! Reference: options, defaults and messages of `qemu-img create -f luks` 10.0.2.

use crate::crypt::{Algorithm, Hash, IvRule, Mode, by_name};
use crate::options::Options;
use spec::error::{Error, Result};

const DEFAULT_TIME_MS: u64 = 2000;

#[derive(Clone, Debug)]
pub struct CreateOptions {
    pub secret: String,
    pub algorithm: Algorithm,
    pub mode: Mode,
    pub iv: IvRule,
    pub hash: Hash,
    /// Bytes of the master key; XTS has two keys in it.
    pub key_bytes: u32,
    pub time_ms: u64,
    pub detached: bool,
}

fn choice<T: Copy>(names: &[(&'static str, T)], value: Option<String>, key: &str, default: T) -> Result<T> {
    match value {
        None => Ok(default),
        Some(text) => by_name(names, &text).ok_or_else(|| Error::new(format!("Parameter '{key}' does not accept value '{text}'"))),
    }
}

/// Ciphers that QEMU knows and that are missing here.
const OTHERS: [&str; 3] = ["cast5-128", "3des", "des"];

fn cipher(text: &str) -> Result<(Algorithm, u32)> {
    let refuse = || Error::new(format!("Parameter 'cipher-alg' does not accept value '{text}'"));
    if OTHERS.contains(&text) {
        return Err(Error::new(format!("Algorithm '{text}' not supported")));
    }
    let (name, bits) = text.split_once('-').ok_or_else(refuse)?;
    let algorithm = by_name(Algorithm::NAMES, name).ok_or_else(refuse)?;
    match bits {
        "128" => Ok((algorithm, 16)),
        "192" => Ok((algorithm, 24)),
        "256" => Ok((algorithm, 32)),
        _ => Err(refuse()),
    }
}

impl CreateOptions {
    /// Takes the options whose names start with `prefix`.
    pub fn take(options: &mut Options, prefix: &str) -> Result<CreateOptions> {
        let mut take = |key: &str| options.take(&format!("{prefix}{key}"));
        let (algorithm, half) = cipher(&take("cipher-alg").unwrap_or_else(|| "aes-256".into()))?;
        let mode = choice(Mode::NAMES, take("cipher-mode"), "cipher-mode", Mode::Xts)?;
        let ivgen = take("ivgen-alg").unwrap_or_else(|| "plain64".into());
        let iv_hash = take("ivgen-hash-alg");
        let iv = match ivgen.as_str() {
            "plain" => IvRule::Plain,
            "plain64" => IvRule::Plain64,
            "essiv" => IvRule::Essiv(choice(Hash::NAMES, iv_hash, "ivgen-hash-alg", Hash::Sha256)?),
            other => return Err(Error::new(format!("Parameter 'ivgen-alg' does not accept value '{other}'"))),
        };
        let hash = choice(Hash::NAMES, take("hash-alg"), "hash-alg", Hash::Sha256)?;
        let time = take("iter-time");
        let detached = options.take_bool(&format!("{prefix}detached-header"))?.unwrap_or(false);
        let secret = options.take(&format!("{prefix}key-secret"));
        let secret = secret.ok_or_else(|| Error::new(format!("Parameter '{prefix}key-secret' is required for cipher")))?;
        Ok(CreateOptions {
            secret,
            algorithm,
            mode,
            iv,
            hash,
            key_bytes: if mode == Mode::Xts { half * 2 } else { half },
            time_ms: iteration_time(time)?,
            detached,
        })
    }
}

pub fn iteration_time(text: Option<String>) -> Result<u64> {
    match text {
        None => Ok(DEFAULT_TIME_MS),
        Some(t) => match t.parse() {
            Ok(0) => Err(Error::new("iter-time must be greater than zero")),
            Ok(v) => Ok(v),
            Err(_) => Err(Error::new("Parameter 'iter-time' expects a number")),
        },
    }
}
