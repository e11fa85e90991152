//! A node whose bytes are on an NBD server.
//!
//! Reference: the NBD project's `doc/proto.md`.
//!
//! Not modelled: reconnecting, several requests under way at once, TLS.

use super::address::Address;
use super::negotiate::{Handshake, Listed, Stream, Style};
use super::wire::{self, chunk, command, flag, option};
use crate::node::{Extent, Node, Preallocation, eio, errno, strerror};
use rustix::io::Errno;
use spec::error::{Error, Result};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub struct Client {
    address: Address,
    stream: Mutex<Box<dyn Stream>>,
    size: u64,
    flags: u16,
    write: bool,
    structured: bool,
    allocation: bool,
    max_request: u32,
    /// Unit in which the server describes its bytes.
    unit: u32,
}

/// The metadata context that every server with block status has.
pub const ALLOCATION: &str = "base:allocation";

/// A request of the transmission phase.
struct Request<'a> {
    kind: u16,
    flags: u16,
    offset: u64,
    len: u32,
    /// What a write brings.
    data: &'a [u8],
}

impl Request<'_> {
    fn new(kind: u16, offset: u64, len: u32) -> Self {
        Request { kind, flags: 0, offset, len, data: &[] }
    }

    fn send(&self, s: &mut Box<dyn Stream>) -> io::Result<()> {
        let mut out = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
        out.extend(self.flags.to_be_bytes());
        out.extend(self.kind.to_be_bytes());
        out.extend(1u64.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        out.extend(self.len.to_be_bytes());
        out.extend(self.data);
        s.write_all(&out)
    }
}

impl Client {
    /// `context` is what block status asks about.
    pub fn open(address: Address, write: bool, context: &str) -> Result<Client> {
        let mut h = Handshake::start(&address)?;
        let fail = |e: io::Error| Error::new(format!("Failed to negotiate with the server: {}", strerror(&e)));
        if !matches!(h.style, Style::Fixed { .. }) {
            let about = h.by_name(&address.export).map_err(fail)?;
            return Self::with(address, h, about, write, false, false);
        }
        let structured = h.option(option::STRUCTURED_REPLY, &[]).map_err(fail)?.is_ok();
        let wanted = [context];
        let allocation =
            structured && !h.contexts(option::SET_META_CONTEXT, &address.export, &wanted).map_err(fail)?.is_empty();
        if context != ALLOCATION && !allocation {
            return Err(Error::new(format!("requested x-dirty-bitmap {context} not found")));
        }
        let about = match h.about(option::GO, &address.export).map_err(fail)? {
            Ok(about) => about,
            Err(text) => {
                let hint = if text.is_empty() { String::new() } else { format!("\nserver reported: {text}") };
                return Err(Error::new(format!("Requested export not available{hint}")));
            }
        };
        Self::with(address, h, about, write, structured, allocation)
    }

    fn with(
        address: Address,
        h: Handshake,
        about: Listed,
        write: bool,
        structured: bool,
        allocation: bool,
    ) -> Result<Client> {
        if write && about.flags & flag::READ_ONLY != 0 {
            return Err(Error::new("request on write denied without write permission"));
        }
        let unit = about.blocks.map_or(1, |b| b.0).clamp(1, 1 << 16);
        let max_request = about.blocks.map_or(wire::MAX_REQUEST, |b| b.2).clamp(4096, wire::MAX_REQUEST);
        Ok(Client {
            address,
            stream: Mutex::new(h.stream),
            size: about.size,
            flags: about.flags,
            write,
            structured,
            allocation,
            max_request,
            unit,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Stream>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one request and takes in its answer: data for a read, extents for block status.
    /// Whatever goes wrong on the way is an I/O error of the disk.
    fn exchange(&self, request: Request, buf: &mut [u8]) -> io::Result<Vec<(u32, u32)>> {
        self.try_exchange(request, buf).map_err(|e| match e.raw_os_error() {
            Some(code) if wire::ERRORS.contains(&code) => e,
            _ => eio(),
        })
    }

    fn try_exchange(&self, request: Request, buf: &mut [u8]) -> io::Result<Vec<(u32, u32)>> {
        let mut s = self.lock();
        request.send(&mut s)?;
        let mut extents = Vec::new();
        let mut failure = None;
        loop {
            match wire::read_u32(&mut *s)? {
                wire::SIMPLE_MAGIC => {
                    let code = wire::read_u32(&mut *s)?;
                    wire::read_u64(&mut *s)?;
                    if code != 0 {
                        return Err(io::Error::from_raw_os_error(code as i32));
                    }
                    if request.kind == command::READ {
                        s.read_exact(buf)?;
                    }
                    return Ok(extents);
                }
                wire::CHUNK_MAGIC => {}
                _ => return Err(wire::protocol_error("bad reply magic")),
            }
            let (done, kind) = (wire::read_u16(&mut *s)? & chunk::DONE != 0, wire::read_u16(&mut *s)?);
            wire::read_u64(&mut *s)?;
            let len = wire::read_u32(&mut *s)?;
            if len > wire::MAX_REQUEST + 8 {
                return Err(wire::protocol_error("reply too long"));
            }
            let body = wire::read_vec(&mut *s, len as usize)?;
            if let Err(e) = take_chunk(kind, &body, request.offset, buf, &mut extents) {
                failure = failure.or(Some(e));
            }
            if done {
                return match failure {
                    Some(e) => Err(e),
                    None => Ok(extents),
                };
            }
        }
    }

    /// Splits a long request.
    fn pieces(&self, offset: u64, len: u64, mut step: impl FnMut(u64, u32) -> io::Result<()>) -> io::Result<()> {
        let mut at = 0;
        while at < len {
            let n = (len - at).min(self.max_request as u64);
            step(offset + at, n as u32)?;
            at += n;
        }
        Ok(())
    }
}

fn take_chunk(kind: u16, body: &[u8], offset: u64, buf: &mut [u8], extents: &mut Vec<(u32, u32)>) -> io::Result<()> {
    let bad = || wire::protocol_error("malformed reply chunk");
    let word =
        |at: usize| body.get(at..at + 4).map(|b| u32::from_be_bytes(b.try_into().expect("four bytes"))).ok_or_else(bad);
    match kind {
        chunk::NONE => Ok(()),
        chunk::OFFSET_DATA | chunk::OFFSET_HOLE => {
            let at = ((word(0)? as u64) << 32 | word(4)? as u64).checked_sub(offset).ok_or_else(bad)? as usize;
            let len = if kind == chunk::OFFSET_HOLE { word(8)? as usize } else { body.len() - 8 };
            let part = buf.get_mut(at..at.saturating_add(len)).ok_or_else(bad)?;
            match kind {
                chunk::OFFSET_HOLE => part.fill(0),
                _ => part.copy_from_slice(&body[8..]),
            }
            Ok(())
        }
        chunk::BLOCK_STATUS => {
            let rows = body.get(4..).unwrap_or(&[]).chunks_exact(8);
            extents.extend(rows.map(|r| (be(&r[..4]), be(&r[4..]))));
            Ok(())
        }
        chunk::ERROR | chunk::ERROR_OFFSET => Err(io::Error::from_raw_os_error(word(0)? as i32)),
        _ => Err(bad()),
    }
}

fn be(b: &[u8]) -> u32 {
    u32::from_be_bytes([b[0], b[1], b[2], b[3]])
}

impl Node for Client {
    fn driver(&self) -> &'static str {
        "nbd"
    }
    fn filename(&self) -> String {
        self.address.to_string()
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn read_only(&self) -> bool {
        !self.write
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        // Formats read past the end of their file; the server would refuse.
        let inside = self.size.saturating_sub(offset).min(buf.len() as u64);
        buf[inside as usize..].fill(0);
        self.pieces(offset, inside, |at, n| {
            let from = (at - offset) as usize;
            self.exchange(Request::new(command::READ, at, n), &mut buf[from..from + n as usize]).map(drop)
        })
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if !self.write {
            return Err(errno(Errno::PERM));
        }
        self.pieces(offset, buf.len() as u64, |at, n| {
            let from = (at - offset) as usize;
            let data = &buf[from..from + n as usize];
            self.exchange(Request { data, ..Request::new(command::WRITE, at, n) }, &mut []).map(drop)
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        if self.flags & flag::WRITE_ZEROES == 0 {
            let zeroes = vec![0; len.min(1 << 20) as usize];
            return self.pieces(offset, len, |at, n| {
                (0..n as u64)
                    .step_by(zeroes.len())
                    .try_for_each(|i| self.write(at + i, &zeroes[..zeroes.len().min((n as u64 - i) as usize)]))
            });
        }
        let flags = if unmap { 0 } else { command::FLAG_NO_HOLE };
        self.pieces(offset, len, |at, n| {
            self.exchange(Request { flags, ..Request::new(command::WRITE_ZEROES, at, n) }, &mut []).map(drop)
        })
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.flags & flag::TRIM == 0 {
            return Ok(());
        }
        self.pieces(offset, len, |at, n| self.exchange(Request::new(command::TRIM, at, n), &mut []).map(drop))
    }

    fn flush(&self) -> io::Result<()> {
        if self.flags & flag::FLUSH == 0 || !self.write {
            return Ok(());
        }
        self.exchange(Request::new(command::FLUSH, 0, 0), &mut []).map(drop)
    }

    fn map(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let base = Extent { len, data: true, allocated: true, offset: Some(offset), ..Extent::default() };
        if !self.allocation || !self.structured || offset >= self.size {
            return Ok(base);
        }
        let n = len.min(self.size - offset).min(1 << 30) as u32;
        let question = Request { flags: command::FLAG_REQ_ONE, ..Request::new(command::BLOCK_STATUS, offset, n) };
        let list = self.exchange(question, &mut [])?;
        let (run, flags) = list.first().copied().filter(|(n, _)| *n > 0).ok_or_else(eio)?;
        // A run that ends inside of a unit is cut, or all data when there is nothing left.
        let (run, flags) = match run % self.unit {
            0 => (run, flags),
            _ if run > self.unit => (run / self.unit * self.unit, flags),
            _ => (self.unit, 0),
        };
        let (data, zero) = (flags & 1 == 0, flags & 2 != 0);
        // What is neither is not this layer's to say (another context than the allocation's was asked for).
        let allocated = data || zero;
        Ok(Extent {
            len: (run as u64).min(len),
            data,
            zero,
            allocated,
            offset: base.offset.filter(|_| allocated),
            ..base
        })
    }

    fn resize(&self, size: u64, _preallocation: Preallocation) -> Result<()> {
        if size == self.size {
            Ok(())
        } else {
            Err(Error::new(if size > self.size { "Cannot grow NBD nodes" } else { "Cannot resize NBD nodes" }))
        }
    }

    fn has_cheap_zeroes(&self) -> bool {
        self.flags & flag::WRITE_ZEROES != 0
    }

    fn starts_zero(&self) -> bool {
        false
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The server sees the end of the connection in any case.
        let mut s = self.lock();
        let _ = Request::new(command::DISCONNECT, 0, 0).send(&mut s);
    }
}
