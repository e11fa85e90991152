//! Moves pieces of a disk from one node to another.

use crate::buffer::Buffer;
use crate::chain;
use crate::node::{NodeRef, is_zero};
use std::io;

/// Bytes that are copied at once.
pub const BUFFER: u64 = 512 << 10;

/// A request that failed, and on which side.
#[derive(Debug)]
pub struct Fault {
    pub write: bool,
    pub error: io::Error,
}

pub fn reading(error: io::Error) -> Fault {
    Fault { write: false, error }
}

pub fn writing(error: io::Error) -> Fault {
    Fault { write: true, error }
}

/// Copies bytes, storing zeroes as such. With a layer to stop at, what only it and those below it have is left out.
pub fn copy_piece(
    source: &NodeRef,
    stop: Option<&NodeRef>,
    target: &NodeRef,
    offset: u64,
    len: u64,
) -> Result<(), Fault> {
    let mut at = offset;
    let end = offset + len;
    while at < end {
        let seen = chain::status(source.as_ref(), stop, at, end - at).map_err(reading)?.extent;
        let n = seen.len.max(1).min(end - at).min(BUFFER);
        if stop.is_some() && !seen.allocated {
            at += n;
            continue;
        }
        if seen.zero {
            target.write_zeroes(at, n, true).map_err(writing)?;
        } else {
            copy_data(source, target, at, n)?;
        }
        at += n;
    }
    Ok(())
}

fn copy_data(source: &NodeRef, target: &NodeRef, at: u64, len: u64) -> Result<(), Fault> {
    let mut data = Buffer::new(len as usize);
    source.read(at, &mut data).map_err(reading)?;
    let done = if is_zero(&data) { target.write_zeroes(at, len, true) } else { target.write(at, &data) };
    done.map_err(writing)
}

/// Copies one cluster packed, if that makes it smaller.
pub fn copy_packed(source: &NodeRef, target: &NodeRef, at: u64, len: u64) -> Result<(), Fault> {
    let mut data = Buffer::new(len as usize);
    source.read(at, &mut data).map_err(reading)?;
    let done = if is_zero(&data) { target.write_zeroes(at, len, true) } else { target.write_compressed(at, &data) };
    done.map_err(writing)
}

/// Calls `f` for each run of what the layers above `stop` (none: all layers) have themselves.
pub fn each_allocated(top: &NodeRef, stop: Option<&NodeRef>, mut f: impl FnMut(u64, u64)) -> Result<(), Fault> {
    let (mut at, size) = (0, top.size());
    while at < size {
        let seen = chain::status(top.as_ref(), stop, at, size - at).map_err(reading)?.extent;
        let n = seen.len.max(1).min(size - at);
        if seen.allocated {
            f(at, n);
        }
        at += n;
    }
    Ok(())
}
