//! Random bytes: for identifiers, and for keys.

use spec::error::{Context, Result};
use std::io::Read;

/// Bytes that nobody can guess; without the system's random device there are none.
pub fn secret(len: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; len];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut out));
    read.context(|| "Unable to get random bytes".into())?;
    Ok(out)
}

/// Bytes from the system's random device; without one, from the clock and the process number.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut out));
    if read.is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let seed = now ^ (std::process::id() as u128) << 64;
        out.iter_mut().zip(seed.to_le_bytes().into_iter().cycle()).for_each(|(o, b)| *o = b);
    }
    out
}
