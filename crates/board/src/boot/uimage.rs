//! U-Boot's legacy image header.
//!
//! Reference: U-Boot `doc/usage/cmd/bootm.rst` and the tool mkimage(1): 64 bytes, big-endian.

use spec::{Error, Result};

const MAGIC: u32 = 0x2705_1956;
const HEADER_BYTES: usize = 64;

pub mod os {
    pub const LINUX: u8 = 5;
}

pub mod arch {
    pub const ARM: u8 = 2;
}

pub mod kind {
    pub const KERNEL: u8 = 2;
    pub const RAMDISK: u8 = 3;
    pub const KERNEL_NOLOAD: u8 = 14;
}

pub mod compression {
    pub const NONE: u8 = 0;
    pub const GZIP: u8 = 1;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub load: u32,
    pub entry: u32,
    pub os: u8,
    pub arch: u8,
    pub kind: u8,
    pub compression: u8,
}

pub fn is_uimage(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_be_bytes())
}

/// The header and the data after it.
pub fn parse<'a>(bytes: &'a [u8], name: &str) -> Result<(Header, &'a [u8])> {
    let short = || Error::new(format!("'{name}' is a truncated uImage"));
    let header = bytes.get(..HEADER_BYTES).ok_or_else(short)?;
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let size = word(12) as usize;
    let data = bytes[HEADER_BYTES..].get(..size).ok_or_else(short)?;
    let [os, arch, kind, compression] = header[28..32].try_into().expect("four bytes");
    Ok((Header { load: word(16), entry: word(20), os, arch, kind, compression }, data))
}

#[cfg(test)]
pub(super) fn sample(header: Header, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes[0..4].copy_from_slice(&MAGIC.to_be_bytes());
    bytes[12..16].copy_from_slice(&(data.len() as u32).to_be_bytes());
    bytes[16..20].copy_from_slice(&header.load.to_be_bytes());
    bytes[20..24].copy_from_slice(&header.entry.to_be_bytes());
    bytes[28..32].copy_from_slice(&[header.os, header.arch, header.kind, header.compression]);
    bytes.extend(data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_checked() {
        let h = Header { load: 0x4000_8000, entry: 0x4000_8001, os: os::LINUX, arch: arch::ARM, kind: kind::KERNEL, compression: 0 };
        let image = sample(h, b"code");
        assert!(is_uimage(&image));
        assert_eq!(parse(&image, "x").unwrap(), (h, &b"code"[..]));
        for len in 4..image.len() {
            assert_eq!(parse(&image[..len], "x").unwrap_err().sentence(), "'x' is a truncated uImage");
        }
    }
}
