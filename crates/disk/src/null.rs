//! The `null-co` driver: a disk that forgets writes and reads as whatever the buffer holds, or as zeroes.
//!
//! Reference: recorded behaviour of QEMU 10.0.2 (`size=`, `read-zeroes=`). `latency-ns=` is refused by name.

use crate::node::{Extent, Node, Preallocation};
use crate::options::Options;
use spec::error::{Error, Result};
use std::io;

pub struct Null {
    size: u64,
    read_zeroes: bool,
}

impl Null {
    pub fn open(options: &mut Options) -> Result<Null> {
        let size = options.take_size("size")?.unwrap_or(1 << 30);
        let read_zeroes = options.take_bool("read-zeroes")?.unwrap_or(false);
        Ok(Null { size, read_zeroes })
    }
}

impl Node for Null {
    fn driver(&self) -> &'static str {
        "null-co"
    }
    fn filename(&self) -> String {
        "null-co://".into()
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&self, _offset: u64, buf: &mut [u8]) -> io::Result<()> {
        // Zeroes are a correct "anything" and never leak memory contents.
        buf.fill(0);
        Ok(())
    }
    fn write(&self, _offset: u64, _buf: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, _offset: u64, _len: u64, _unmap: bool) -> io::Result<()> {
        Ok(())
    }
    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        Ok(Extent { len, data: !self.read_zeroes, zero: self.read_zeroes, allocated: true, compressed: false, offset: Some(offset), ..Extent::default() })
    }
    fn resize(&self, _size: u64, _preallocation: Preallocation) -> Result<()> {
        Err(Error::new("Image format driver does not support resize"))
    }
    fn allocated_size(&self) -> Option<u64> {
        Some(0)
    }
}
