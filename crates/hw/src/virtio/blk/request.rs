//! Requests of the block device: what a chain asks for, and doing it.
//!
//! Reference: VIRTIO 1.2, 5.2.6.
//!
//! Invariants: whatever lengths a driver writes, one request holds at most [`PIECE`] bytes of host memory at a time, and
//! touches only sectors that the disk has.

use std::io;
use std::sync::Arc;

use disk::Node;

use super::{SECTOR, SERIAL_MAX};
use crate::virtio::memory::Memory;
use crate::virtio::ring::{Chain, Cursor, Fault, total};

/// Bytes that are moved between memory and disk at once.
pub const PIECE: usize = 256 << 10;
const HEADER: usize = 16;
/// One range of a discard or write-zeroes request.
const SEGMENT: u64 = 16;
const FLAG_UNMAP: u32 = 1;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

/// How a request ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// What the disk allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub sectors: u64,
    /// Sectors of a logical block: requests are multiples of it.
    pub block_sectors: u64,
    pub read_only: bool,
    /// The most sectors of a request, if the driver may make such requests.
    pub discard: Option<u32>,
    pub write_zeroes: Option<u32>,
}

/// A checked request. Offsets and lengths are bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    Read { offset: u64, len: u64 },
    Write { offset: u64, len: u64 },
    Flush,
    GetId,
    Discard { offset: u64, len: u64 },
    WriteZeroes { offset: u64, len: u64, unmap: bool },
    /// Nothing to do: it is answered with this.
    Refused(Status),
}

pub struct Parsed {
    pub request: Request,
    /// Where the status byte goes.
    pub status: u64,
}

/// Reads the header of a chain. A fault if it has no room for header or status.
pub fn parse(memory: &Memory, chain: &Chain, limits: &Limits) -> Result<Parsed, Fault> {
    let mut from = Cursor::new(chain.readable());
    if from.left() < HEADER as u64 {
        return Err(Fault("a request has no header"));
    }
    let mut header = [0; HEADER];
    from.read(memory, &mut header)?;
    let [kind, _priority, sector_low, sector_high] = words(header);
    let sector = u64::from(sector_low) | u64::from(sector_high) << 32;
    let last = chain.writable().last().ok_or(Fault("a request has no status byte"))?;
    let status = last.addr.checked_add(u64::from(last.len) - 1).ok_or(Fault("a buffer is not in memory"))?;
    let request = match kind {
        T_IN => range(limits, sector, total(chain.writable()) - 1).map(|(offset, len)| Request::Read { offset, len }),
        T_OUT if limits.read_only => Err(Status::IoError),
        T_OUT => range(limits, sector, from.left()).map(|(offset, len)| Request::Write { offset, len }),
        T_FLUSH => Ok(Request::Flush),
        T_GET_ID => Ok(Request::GetId),
        T_DISCARD | T_WRITE_ZEROES => return Ok(Parsed { request: segment(memory, from, limits, kind)?, status }),
        _ => Err(Status::Unsupported),
    };
    Ok(Parsed { request: request.unwrap_or_else(Request::Refused), status })
}

fn words(bytes: [u8; 16]) -> [u32; 4] {
    [0, 4, 8, 12].map(|i| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]))
}

/// The bytes of a request for whole logical blocks that the disk has.
fn range(limits: &Limits, sector: u64, len: u64) -> Result<(u64, u64), Status> {
    let block = limits.block_sectors;
    let fits = len.is_multiple_of(SECTOR * block) && sector.is_multiple_of(block);
    let sectors = len / SECTOR;
    if !fits || sector > limits.sectors || sectors > limits.sectors - sector {
        return Err(Status::IoError);
    }
    Ok((sector * SECTOR, len))
}

/// A discard or write-zeroes request. Only one range at a time is offered.
fn segment(memory: &Memory, mut from: Cursor, limits: &Limits, kind: u32) -> Result<Request, Fault> {
    let refused = |status| Ok(Request::Refused(status));
    let discard = kind == T_DISCARD;
    let Some(max) = (if discard { limits.discard } else { limits.write_zeroes }) else { return refused(Status::Unsupported) };
    if limits.read_only {
        return refused(Status::IoError);
    }
    if from.left() != SEGMENT {
        return refused(if from.left() > SEGMENT { Status::Unsupported } else { Status::IoError });
    }
    let mut bytes = [0; 16];
    from.read(memory, &mut bytes)?;
    let [low, high, count, flags] = words(bytes);
    if flags & !FLAG_UNMAP != 0 || discard && flags != 0 {
        return refused(Status::Unsupported);
    }
    let sector = u64::from(low) | u64::from(high) << 32;
    if count > max {
        return refused(Status::IoError);
    }
    Ok(match range(limits, sector, u64::from(count) * SECTOR) {
        Err(status) => Request::Refused(status),
        Ok((offset, len)) if discard => Request::Discard { offset, len },
        Ok((offset, len)) => Request::WriteZeroes { offset, len, unmap: flags & FLAG_UNMAP != 0 },
    })
}

/// A request with all that a worker needs.
pub struct Job {
    pub queue: usize,
    pub chain: Chain,
    pub request: Request,
    pub status: u64,
    /// The data has to be on the disk before the request ends.
    pub write_through: bool,
    pub memory: Memory,
    pub settings: Arc<Settings>,
}

/// What all requests of a device share.
pub struct Settings {
    pub serial: String,
    /// Errors count as success.
    pub ignore_read_errors: bool,
    pub ignore_write_errors: bool,
}

impl Job {
    /// Does it; `buffer` is scratch space that is kept between requests. Gives the number of bytes written to the guest.
    pub fn run(&self, node: &dyn Node, buffer: &mut Vec<u8>) -> Result<u32, Fault> {
        let mut written = 0;
        let ignore_write = self.settings.ignore_write_errors;
        let status = match &self.request {
            Request::Read { offset, len } => {
                let done = self.read(node, *offset, *len, buffer)?;
                written = u32::try_from(*len).unwrap_or(u32::MAX - 1);
                self.judge("read", done, self.settings.ignore_read_errors)
            }
            Request::Write { offset, len } => self.judge("write", self.write(node, *offset, *len, buffer)?, ignore_write),
            Request::Flush => self.judge("flush", node.flush(), ignore_write),
            Request::Discard { offset, len } => self.judge("discard", node.discard(*offset, *len), ignore_write),
            Request::WriteZeroes { offset, len, unmap } => {
                let done = node.write_zeroes(*offset, *len, *unmap).and_then(|()| self.settle(node));
                self.judge("write zeroes", done, ignore_write)
            }
            Request::GetId => {
                written = self.identify()?;
                Status::Ok
            }
            Request::Refused(status) => *status,
        };
        if !self.memory.write(self.status, &[status as u8]) {
            return Err(Fault("the status byte is not in memory"));
        }
        Ok(written + 1)
    }

    fn judge(&self, what: &str, done: io::Result<()>, ignore: bool) -> Status {
        match done {
            Ok(()) => Status::Ok,
            Err(error) => {
                log::warn!("virtio-blk: {what} failed: {error}");
                if ignore { Status::Ok } else { Status::IoError }
            }
        }
    }

    fn settle(&self, node: &dyn Node) -> io::Result<()> {
        if self.write_through { node.flush() } else { Ok(()) }
    }

    fn read(&self, node: &dyn Node, offset: u64, len: u64, buffer: &mut Vec<u8>) -> Result<io::Result<()>, Fault> {
        let mut to = Cursor::new(self.chain.writable());
        let mut done = 0;
        while done < len {
            let part = (len - done).min(PIECE as u64) as usize;
            grow(buffer, part);
            if let Err(error) = node.read(offset + done, &mut buffer[..part]) {
                return Ok(Err(error));
            }
            to.write(&self.memory, &buffer[..part])?;
            done += part as u64;
        }
        Ok(Ok(()))
    }

    fn write(&self, node: &dyn Node, offset: u64, len: u64, buffer: &mut Vec<u8>) -> Result<io::Result<()>, Fault> {
        let mut from = Cursor::new(self.chain.readable());
        from.skip(HEADER as u64);
        let mut done = 0;
        while done < len {
            let part = (len - done).min(PIECE as u64) as usize;
            grow(buffer, part);
            from.read(&self.memory, &mut buffer[..part])?;
            if let Err(error) = node.write(offset + done, &buffer[..part]) {
                return Ok(Err(error));
            }
            done += part as u64;
        }
        Ok(self.settle(node))
    }

    /// The serial number, padded with zeroes, as far as there is room before the status byte.
    fn identify(&self) -> Result<u32, Fault> {
        let mut name = [0; SERIAL_MAX];
        let len = self.settings.serial.len().min(SERIAL_MAX);
        name[..len].copy_from_slice(&self.settings.serial.as_bytes()[..len]);
        let room = (total(self.chain.writable()) - 1).min(SERIAL_MAX as u64) as usize;
        Cursor::new(self.chain.writable()).write(&self.memory, &name[..room])?;
        Ok(room as u32)
    }
}

fn grow(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
}
