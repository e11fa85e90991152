//! Compressed kernels.

use spec::{Error, Result};
use std::io::Read;

/// A compressed file must not grow beyond this.
const LIMIT_BYTES: u64 = 256 << 20;

pub fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b, 8])
}

/// The first member of a gzip file; what follows it is ignored, as boot loaders do.
pub fn unpack(bytes: &[u8], name: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let decoder = flate2::read::GzDecoder::new(bytes);
    let read = decoder.take(LIMIT_BYTES + 1).read_to_end(&mut out);
    read.map_err(|e| Error::caused(format!("could not decompress '{name}'"), e))?;
    if out.len() as u64 > LIMIT_BYTES {
        return Err(Error::new(format!("'{name}' has more than {} MiB when decompressed", LIMIT_BYTES >> 20)));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn damaged_files_are_errors() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[7; 100_000]).unwrap();
        let packed = encoder.finish().unwrap();
        assert!(is_gzip(&packed));
        assert_eq!(unpack(&packed, "x").unwrap(), [7; 100_000]);
        let e = unpack(&packed[..50], "x").unwrap_err().to_string();
        assert!(e.starts_with("could not decompress 'x': "), "{e}");
    }
}
