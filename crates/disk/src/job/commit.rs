//! Commit of a layer that nobody writes to: what the layers down to a base have is written to the base, and the layer above
//! has the base as its backing file from then on.
//!
//! A layer in use is committed by a [`mirror`](super::mirror).

use super::copy::{BUFFER, Fault, reading, writing};
use super::{Control, Stop, Work};
use crate::buffer::Buffer;
use crate::chain;
use crate::node::{NodeRef, Preallocation};
use spec::error::Result;

pub struct Commit {
    pub top: NodeRef,
    /// Open for writing, and in its place of the chain.
    pub base: NodeRef,
    /// The graph's change; nothing for a commit that keeps the layers.
    pub link: Option<Box<dyn FnOnce() -> Result<()> + Send>>,
}

impl Work for Commit {
    fn run(&mut self, control: &Control) -> Result<(), Stop> {
        let size = self.top.size();
        if self.base.size() < size {
            self.base.resize(size, Preallocation::Off)?;
        }
        control.begin(size);
        let mut at = 0;
        while at < size {
            match copy_down(&self.top, &self.base, at, size - at) {
                Ok(n) => {
                    at += n;
                    control.step(n)?;
                }
                Err(fault) => control.failed(fault)?,
            }
        }
        self.base.flush()?;
        Ok(())
    }

    fn finish(&mut self, _control: &Control) -> Result<()> {
        self.link.take().map_or(Ok(()), |link| link())
    }

    fn abort(&mut self) {}
}

/// Copies the run at an offset, if the layers above the base have it; how long it is.
fn copy_down(top: &NodeRef, base: &NodeRef, at: u64, len: u64) -> Result<u64, Fault> {
    let seen = chain::status(top.as_ref(), Some(base), at, len).map_err(reading)?.extent;
    let n = seen.len.max(1).min(len).min(if seen.zero { u64::MAX } else { BUFFER });
    if seen.allocated && seen.zero {
        base.write_zeroes(at, n, false).map_err(writing)?;
    } else if seen.allocated {
        let mut data = Buffer::new(n as usize);
        top.read(at, &mut data).map_err(reading)?;
        base.write(at, &data).map_err(writing)?;
    }
    Ok(n)
}
