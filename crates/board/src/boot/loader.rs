//! `-device loader`: files and values put into memory, and a CPU's start.
//!
//! Reference: QEMU's documentation `docs/system/generic-loader.rst`.

use super::kernel::{Format, Kernel};
use super::{Blob, uimage};
use spec::{Error, Result};

/// The device's properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loader {
    pub file: Option<String>,
    pub addr: Option<u64>,
    pub data: Option<u64>,
    /// 1 to 8 bytes.
    pub data_len: Option<u64>,
    pub data_be: bool,
    /// Which CPU starts there; the first if an address or file alone says so.
    pub cpu_num: Option<u32>,
    pub force_raw: bool,
}

/// What it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub blobs: Vec<Blob>,
    /// A CPU and its program counter.
    pub start: Option<(u32, u64)>,
}

impl Loader {
    /// `contents` are those of `file`.
    pub fn load(&self, contents: Option<Vec<u8>>) -> Result<Loaded> {
        if self.data.is_some() || self.data_len.is_some() || self.data_be {
            return self.value();
        }
        match (&self.file, contents) {
            (Some(file), Some(bytes)) => self.image(file, bytes),
            _ => match (self.addr, self.cpu_num) {
                (Some(addr), Some(cpu)) => Ok(Loaded { blobs: Vec::new(), start: Some((cpu, addr)) }),
                _ => Err(Error::new("please include valid arguments")),
            },
        }
    }

    fn value(&self) -> Result<Loaded> {
        if self.file.is_some() {
            return Err(Error::new("Specifying a file is not supported with data"));
        }
        let (Some(data), Some(len)) = (self.data, self.data_len.filter(|n| *n != 0)) else {
            return Err(Error::new("Both data and data-len must be specified"));
        };
        if len > 8 {
            return Err(Error::new("data-len cannot be greater then 8 bytes"));
        }
        let addr = self.addr.ok_or_else(|| Error::new("please include valid arguments"))?;
        let len = len as usize;
        let bytes = if self.data_be { data.to_be_bytes()[8 - len..].to_vec() } else { data.to_le_bytes()[..len].to_vec() };
        Ok(Loaded { blobs: vec![Blob::new("loader data", addr, bytes)], start: None })
    }

    fn image(&self, file: &str, bytes: Vec<u8>) -> Result<Loaded> {
        let raw = |bytes| Loaded { blobs: vec![Blob::new(file, self.addr.unwrap_or(0), bytes)], start: self.cpu_num.zip(self.addr) };
        let known = bytes.starts_with(b"\x7fELF") || uimage::is_uimage(&bytes);
        if self.force_raw || !known {
            return Ok(raw(bytes));
        }
        let kernel = Kernel::parse(bytes, file, 0)?;
        debug_assert!(matches!(kernel.format, Format::Elf | Format::Uimage));
        // An executable starts its CPU unless told otherwise.
        let entry = self.addr.unwrap_or(kernel.entry);
        Ok(Loaded { blobs: kernel.parts, start: self.cpu_num.map(|cpu| (cpu, entry)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_a_byte_order() {
        let l = Loader { data: Some(0x1122_3344), data_len: Some(4), addr: Some(0x100), ..Loader::default() };
        assert_eq!(l.load(None).unwrap().blobs[0].bytes, [0x44, 0x33, 0x22, 0x11]);
        let l = Loader { data_be: true, ..l };
        assert_eq!(l.load(None).unwrap().blobs[0].bytes, [0x11, 0x22, 0x33, 0x44]);
    }

    #[test]
    fn raw_files_go_to_their_address() {
        let l = Loader { file: Some("f".into()), addr: Some(0x4000), cpu_num: Some(1), ..Loader::default() };
        let loaded = l.load(Some(vec![1, 2])).unwrap();
        assert_eq!((loaded.blobs[0].base, loaded.start), (0x4000, Some((1, 0x4000))));
    }

    #[test]
    fn mistakes_have_qemus_sentences() {
        let e = |l: Loader| l.load(None).unwrap_err().to_string();
        assert_eq!(e(Loader::default()), "please include valid arguments");
        assert_eq!(e(Loader { data: Some(1), ..Loader::default() }), "Both data and data-len must be specified");
        assert_eq!(e(Loader { data: Some(1), data_len: Some(9), ..Loader::default() }), "data-len cannot be greater then 8 bytes");
    }
}
