//! Compressed loop devices, version 2.0: blocks packed with zlib behind a table of their offsets.
//!
//! Reference: the cloop module's header (a shell script of 128 bytes, block size, number of blocks, offsets); limits and
//! messages of QEMU 10.0.2.

use super::{Format, MAX_PIECE, Pages, Place, ReadOnly, be32, head, inflate};
use crate::node::{Node, NodeRef, eio, strerror};
use spec::error::{Error, Result};
use std::io;

const AT_OFFSETS: u64 = 136;
const MAX_BLOCKS: u32 = u32::MAX / 8;
const MAX_TABLE: u64 = 512 << 20;

pub struct Cloop {
    block: u64,
    blocks: u64,
    pages: Pages,
}

pub fn open(file: NodeRef, write: bool) -> Result<ReadOnly<Cloop>> {
    let h: [u8; AT_OFFSETS as usize] = head(file.as_ref(), "cloop")?;
    let (block, blocks) = (be32(&h, 128), be32(&h, 132));
    if block % 512 != 0 {
        return Err(Error::new(format!("block_size {block} must be a multiple of 512")));
    }
    if block == 0 {
        return Err(Error::new("block_size cannot be zero"));
    }
    if block as u64 > MAX_PIECE {
        return Err(Error::new(format!("block_size {block} must be 64 MB or less")));
    }
    if blocks > MAX_BLOCKS {
        return Err(Error::new(format!("n_blocks {blocks} must be {MAX_BLOCKS} or less")));
    }
    if (blocks as u64 + 1) * 8 > MAX_TABLE {
        return Err(Error::new("image requires too many offsets, try increasing block size"));
    }
    let format = Cloop { block: block as u64, blocks: blocks as u64, pages: Pages::default() };
    if file.size() < AT_OFFSETS + (format.blocks + 1) * 8 {
        return Err(Error::new("the table of offsets is cut off, image file is corrupt"));
    }
    format.check(file.as_ref())?;
    ReadOnly::new(file, format, write)
}

impl Cloop {
    fn start(&self, file: &dyn Node, block: u64) -> io::Result<u64> {
        Ok(u64::from_be_bytes(self.pages.bytes(file, AT_OFFSETS + block * 8)?))
    }

    fn check(&self, file: &dyn Node) -> Result<()> {
        let mut last = None;
        for i in 0..=self.blocks {
            let now = self.start(file, i).map_err(|e| Error::new(strerror(&e)))?;
            if let Some(last) = last {
                if now < last {
                    return Err(Error::new(format!("offsets not monotonically increasing at index {i}, image file is corrupt")));
                }
                if now - last > 2 * MAX_PIECE {
                    return Err(Error::new(format!("invalid compressed block size at index {i}, image file is corrupt")));
                }
            }
            last = Some(now);
        }
        Ok(())
    }
}

impl Format for Cloop {
    const NAME: &'static str = "cloop";

    fn size(&self) -> u64 {
        self.block * self.blocks
    }

    fn locate(&self, _file: &dyn Node, offset: u64, len: u64) -> io::Result<(Place, u64)> {
        let block = offset / self.block;
        if block >= self.blocks {
            return Err(eio());
        }
        let inside = offset % self.block;
        Ok((Place::Packed(block, inside), (self.block - inside).min(len)))
    }

    fn unpack(&self, file: &dyn Node, block: u64) -> io::Result<Vec<u8>> {
        let (from, to) = (self.start(file, block)?, self.start(file, block + 1)?);
        // Behind the end of the file there is nothing to unpack.
        let len = to.saturating_sub(from).min(file.size().saturating_sub(from));
        let mut packed = vec![0; len as usize];
        file.read(from, &mut packed)?;
        inflate(&packed, self.block as usize, true)
    }

    fn has_places(&self) -> bool {
        false
    }
}
