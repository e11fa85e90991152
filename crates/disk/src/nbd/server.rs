//! Serves nodes to NBD clients.
//!
//! Reference: the NBD project's `doc/proto.md`.
//!
//! Invariants: nothing a client sends makes the server allocate more than `MAX_REQUEST`; a client that breaks the
//! protocol loses its connection and nothing else.

use super::wire::{self, chunk, command, flag, handshake, info, option, reply};
use crate::buffer::Buffer;
use crate::chain;
use crate::node::{NodeRef, errno, is_zero};
use crate::qcow2::bitmap::Bits;
use rustix::io::Errno;
use std::io::{self, Read, Write};

/// What is served under one name.
#[derive(Clone)]
pub struct Export {
    pub name: String,
    pub description: String,
    pub node: NodeRef,
    pub read_only: bool,
    /// Several clients may write at once and see each other's flushed data.
    pub shared: bool,
    pub depth: bool,
    pub bitmaps: Vec<(String, std::sync::Arc<Bits>)>,
    /// Window of the node.
    pub offset: u64,
    pub size: u64,
    /// Every write is flushed.
    pub writethrough: bool,
}

impl Export {
    /// The protocol's transmission flags.
    pub fn flags(&self) -> u16 {
        let mut f = flag::HAS_FLAGS | flag::FLUSH | flag::FUA | flag::DF | flag::CACHE;
        f |= if self.read_only { flag::READ_ONLY } else { flag::TRIM | flag::WRITE_ZEROES | flag::FAST_ZERO };
        f | if self.shared { flag::MULTI_CONN } else { 0 }
    }

    fn contexts(&self) -> Vec<(u32, String)> {
        let mut list = vec![(0, "base:allocation".to_owned())];
        if self.depth {
            list.push((1, "qemu:allocation-depth".to_owned()));
        }
        list.extend(
            self.bitmaps.iter().enumerate().map(|(i, (n, _))| (2 + i as u32, format!("qemu:dirty-bitmap:{n}"))),
        );
        list
    }
}

struct Session<'a, S> {
    stream: S,
    exports: &'a [Export],
    structured: bool,
    /// Requests and replies have headers with 64-bit lengths.
    extended: bool,
    no_zeroes: bool,
    /// Export name and contexts that were chosen for block status.
    meta: Option<(String, Vec<u32>)>,
}

/// Talks to one client until it leaves.
pub fn serve<S: Read + Write>(stream: S, exports: &[Export]) -> io::Result<()> {
    let mut s = Session { stream, exports, structured: false, extended: false, no_zeroes: false, meta: None };
    match s.negotiate()? {
        Some(export) => s.transmit(&export),
        None => Ok(()),
    }
}

/// Talks to a client that knows the export already (the kernel's device) until it leaves.
pub fn serve_known<S: Read + Write>(stream: S, export: &Export) -> io::Result<()> {
    Session { stream, exports: &[], structured: false, extended: false, no_zeroes: false, meta: None }.transmit(export)
}

impl<S: Read + Write> Session<'_, S> {
    fn negotiate(&mut self) -> io::Result<Option<Export>> {
        let mut hello = wire::MAGIC.to_be_bytes().to_vec();
        hello.extend(wire::OPTION_MAGIC.to_be_bytes());
        hello.extend((handshake::FIXED | handshake::NO_ZEROES).to_be_bytes());
        self.stream.write_all(&hello)?;
        let flags = wire::read_u32(&mut self.stream)?;
        if flags & !((handshake::FIXED | handshake::NO_ZEROES) as u32) != 0 {
            return Err(wire::protocol_error("unknown client flags"));
        }
        self.no_zeroes = flags & handshake::NO_ZEROES as u32 != 0;
        loop {
            if wire::read_u64(&mut self.stream)? != wire::OPTION_MAGIC {
                return Err(wire::protocol_error("bad option magic"));
            }
            let (opt, len) = (wire::read_u32(&mut self.stream)?, wire::read_u32(&mut self.stream)?);
            if len > wire::MAX_OPTION {
                return Err(wire::protocol_error("option too long"));
            }
            let data = wire::read_vec(&mut self.stream, len as usize)?;
            match opt {
                option::EXPORT_NAME => return self.old_go(&data),
                option::ABORT => {
                    // The client may not wait for the answer.
                    let _ = wire::send_reply(&mut self.stream, opt, reply::ACK, &[]);
                    return Ok(None);
                }
                option::LIST if !data.is_empty() => self.refuse(opt, reply::ERR_INVALID, "no data expected")?,
                option::LIST => self.list(opt)?,
                option::EXTENDED_HEADERS | option::STRUCTURED_REPLY if !data.is_empty() => {
                    self.refuse(opt, reply::ERR_INVALID, "no data expected")?
                }
                option::STRUCTURED_REPLY if self.extended => {
                    self.refuse(opt, reply::ERR_EXT_HEADER_REQD, "extended headers are in use")?
                }
                option::EXTENDED_HEADERS => {
                    (self.structured, self.extended) = (true, true);
                    wire::send_reply(&mut self.stream, opt, reply::ACK, &[])?;
                }
                option::STRUCTURED_REPLY => {
                    self.structured = true;
                    wire::send_reply(&mut self.stream, opt, reply::ACK, &[])?;
                }
                option::INFO | option::GO => {
                    if let Some(export) = self.go(opt, &data)? {
                        return Ok(Some(export));
                    }
                }
                option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(opt, &data)?,
                option::STARTTLS => self.refuse(opt, reply::ERR_UNSUP, "TLS is not supported")?,
                _ => self.refuse(opt, reply::ERR_UNSUP, "option is not supported")?,
            }
        }
    }

    fn refuse(&mut self, opt: u32, kind: u32, text: &str) -> io::Result<()> {
        wire::send_reply(&mut self.stream, opt, kind, text.as_bytes())
    }

    fn find(&self, name: &[u8]) -> Option<Export> {
        self.exports.iter().find(|e| e.name.as_bytes() == name).cloned()
    }

    fn old_go(&mut self, name: &[u8]) -> io::Result<Option<Export>> {
        let Some(export) = self.find(name) else { return Err(wire::protocol_error("export not found")) };
        let mut out = export.size.to_be_bytes().to_vec();
        out.extend(export.flags().to_be_bytes());
        out.resize(out.len() + if self.no_zeroes { 0 } else { 124 }, 0);
        self.stream.write_all(&out)?;
        Ok(Some(export))
    }

    fn list(&mut self, opt: u32) -> io::Result<()> {
        for e in self.exports {
            let mut data = (e.name.len() as u32).to_be_bytes().to_vec();
            data.extend(e.name.as_bytes());
            data.extend(e.description.as_bytes());
            wire::send_reply(&mut self.stream, opt, reply::SERVER, &data)?;
        }
        wire::send_reply(&mut self.stream, opt, reply::ACK, &[])
    }

    fn go(&mut self, opt: u32, data: &[u8]) -> io::Result<Option<Export>> {
        let Some((name, rest)) = take_text(data) else {
            self.refuse(opt, reply::ERR_INVALID, "malformed request")?;
            return Ok(None);
        };
        let wanted: Vec<u16> =
            rest.get(2..).unwrap_or(&[]).chunks_exact(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect();
        let Some(export) = self.find(name) else {
            self.refuse(opt, reply::ERR_UNKNOWN, &format!("export '{}' not present", String::from_utf8_lossy(name)))?;
            return Ok(None);
        };
        let mut send = |kind: u16, body: &[u8]| {
            let mut out = kind.to_be_bytes().to_vec();
            out.extend(body);
            wire::send_reply(&mut self.stream, opt, reply::INFO, &out)
        };
        if wanted.contains(&info::NAME) {
            send(info::NAME, export.name.as_bytes())?;
        }
        if !export.description.is_empty() {
            send(info::DESCRIPTION, export.description.as_bytes())?;
        }
        // Minimum, preferred and maximum request sizes.
        let sizes: Vec<u8> =
            [export.node.request_unit() as u32, 4096, wire::MAX_REQUEST].iter().flat_map(|v| v.to_be_bytes()).collect();
        send(info::BLOCK_SIZE, &sizes)?;
        let mut body = export.size.to_be_bytes().to_vec();
        body.extend((export.flags() | if self.extended { flag::BLOCK_STATUS_PAYLOAD } else { 0 }).to_be_bytes());
        send(info::EXPORT, &body)?;
        wire::send_reply(&mut self.stream, opt, reply::ACK, &[])?;
        Ok((opt == option::GO).then_some(export))
    }

    fn contexts(&mut self, opt: u32, data: &[u8]) -> io::Result<()> {
        if !self.structured && opt == option::SET_META_CONTEXT {
            return self.refuse(opt, reply::ERR_INVALID, "structured replies are needed first");
        }
        let Some((name, rest)) = take_text(data) else {
            return self.refuse(opt, reply::ERR_INVALID, "malformed request");
        };
        let Some(export) = self.find(name) else { return self.refuse(opt, reply::ERR_UNKNOWN, "no such export") };
        let count = rest.get(..4).map_or(0, |b| u32::from_be_bytes(b.try_into().expect("four bytes")));
        let mut rest = rest.get(4..).unwrap_or(&[]);
        let mut queries = Vec::new();
        for _ in 0..count.min(1024) {
            let Some((query, more)) = take_text(rest) else {
                return self.refuse(opt, reply::ERR_INVALID, "malformed query");
            };
            queries.push(String::from_utf8_lossy(query).into_owned());
            rest = more;
        }
        let listing = opt == option::LIST_META_CONTEXT;
        let mut chosen = Vec::new();
        for (id, context) in export.contexts() {
            let asked = queries
                .iter()
                .any(|q| *q == context || listing && (q.ends_with(':') && context.starts_with(q.as_str())));
            if asked || listing && queries.is_empty() {
                let mut out = if listing { 0 } else { id }.to_be_bytes().to_vec();
                out.extend(context.as_bytes());
                wire::send_reply(&mut self.stream, opt, reply::META_CONTEXT, &out)?;
                chosen.push(id);
            }
        }
        if !listing {
            self.meta = Some((export.name.clone(), chosen));
        }
        wire::send_reply(&mut self.stream, opt, reply::ACK, &[])
    }

    fn transmit(&mut self, export: &Export) -> io::Result<()> {
        let contexts = match self.meta.take() {
            Some((name, list)) if name == export.name => list,
            _ => Vec::new(),
        };
        let mut buf = Vec::new();
        loop {
            let r = self.request()?;
            // What follows the header: data, or the choice of contexts.
            let payload = if r.kind == command::WRITE || self.extended && r.flags & command::FLAG_PAYLOAD != 0 {
                r.len
            } else {
                0
            };
            if payload.max(if r.kind == command::READ { r.len } else { 0 }) > wire::MAX_REQUEST as u64 {
                return Err(wire::protocol_error("request too long"));
            }
            if payload > 0 {
                buf.resize(payload as usize, 0);
                self.stream.read_exact(&mut buf)?;
            }
            match r.kind {
                command::DISCONNECT => return Ok(()),
                command::READ => self.read(export, &r)?,
                command::BLOCK_STATUS if payload > 0 => match chosen(&buf, &contexts) {
                    Some((len, ids)) => self.block_status(export, &ids, &Request { len, ..r })?,
                    None => self.answer(&r, Err(errno(Errno::INVAL)))?,
                },
                command::BLOCK_STATUS => self.block_status(export, &contexts, &r)?,
                _ => {
                    let result = self.change(export, &r, &buf);
                    self.answer(&r, result)?;
                }
            }
        }
    }

    fn request(&mut self) -> io::Result<Request> {
        let magic = if self.extended { wire::EXTENDED_REQUEST_MAGIC } else { wire::REQUEST_MAGIC };
        let s = &mut self.stream;
        if wire::read_u32(s)? != magic {
            return Err(wire::protocol_error("bad request magic"));
        }
        let (flags, kind, cookie, offset) =
            (wire::read_u16(s)?, wire::read_u16(s)?, wire::read_u64(s)?, wire::read_u64(s)?);
        let len = if self.extended { wire::read_u64(s)? } else { wire::read_u32(s)? as u64 };
        Ok(Request { flags, kind, cookie, offset, len })
    }

    fn change(&mut self, e: &Export, r: &Request, buf: &[u8]) -> io::Result<()> {
        let Request { kind, flags, offset, len, .. } = *r;
        if kind != command::FLUSH {
            let past_end =
                if matches!(kind, command::WRITE | command::WRITE_ZEROES) { Errno::NOSPC } else { Errno::INVAL };
            inside(e, offset, len, past_end)?;
        }
        if e.read_only && !matches!(kind, command::FLUSH | command::CACHE) {
            return Err(errno(Errno::PERM));
        }
        let at = e.offset + offset;
        match kind {
            command::WRITE => e.node.write(at, buf)?,
            command::FLUSH => return e.node.flush(),
            command::TRIM => e.node.discard(at, len)?,
            command::CACHE => return Ok(()),
            command::WRITE_ZEROES if flags & command::FLAG_FAST_ZERO != 0 && !e.node.has_cheap_zeroes() => {
                return Err(errno(Errno::OPNOTSUPP));
            }
            command::WRITE_ZEROES => e.node.write_zeroes(at, len, flags & command::FLAG_NO_HOLE == 0)?,
            _ => return Err(errno(Errno::INVAL)),
        }
        if flags & command::FLAG_FUA != 0 || e.writethrough { e.node.flush() } else { Ok(()) }
    }

    fn answer(&mut self, r: &Request, result: io::Result<()>) -> io::Result<()> {
        match result {
            Ok(()) if self.structured => self.chunk(r, chunk::DONE, chunk::NONE, &[&[]]),
            Err(e) if self.structured => self.error_chunk(r, &e),
            other => {
                let code = other.err().map_or(0, |e| wire::error_number(&e));
                self.simple(r.cookie, code, &[])
            }
        }
    }

    fn simple(&mut self, cookie: u64, code: u32, data: &[u8]) -> io::Result<()> {
        let mut out = wire::SIMPLE_MAGIC.to_be_bytes().to_vec();
        out.extend(code.to_be_bytes());
        out.extend(cookie.to_be_bytes());
        out.extend(data);
        self.stream.write_all(&out)
    }

    fn chunk(&mut self, r: &Request, flags: u16, kind: u16, parts: &[&[u8]]) -> io::Result<()> {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        let mut out = Vec::with_capacity(32 + len);
        out.extend(if self.extended { wire::EXTENDED_REPLY_MAGIC } else { wire::CHUNK_MAGIC }.to_be_bytes());
        out.extend(flags.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(r.cookie.to_be_bytes());
        if self.extended {
            out.extend(r.offset.to_be_bytes());
            out.extend((len as u64).to_be_bytes());
        } else {
            out.extend((len as u32).to_be_bytes());
        }
        parts.iter().for_each(|p| out.extend(*p));
        self.stream.write_all(&out)
    }

    fn error_chunk(&mut self, r: &Request, e: &io::Error) -> io::Result<()> {
        let text = crate::node::strerror(e);
        let code = wire::error_number(e).to_be_bytes();
        self.chunk(r, chunk::DONE, chunk::ERROR, &[&code, &(text.len() as u16).to_be_bytes(), text.as_bytes()])
    }

    /// Reads; with structured replies, holes are named instead of sent.
    fn read(&mut self, e: &Export, r: &Request) -> io::Result<()> {
        let Request { cookie, offset, len, .. } = *r;
        if let Err(err) = inside(e, offset, len, Errno::INVAL) {
            return self.answer(r, Err(err));
        }
        let mut buf = Buffer::new(len as usize);
        if !self.structured {
            return match e.node.read(e.offset + offset, &mut buf) {
                Ok(()) => self.simple(cookie, 0, &buf),
                Err(err) => self.answer(r, Err(err)),
            };
        }
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let seen = match chain::status(e.node.as_ref(), None, e.offset + at, end - at) {
                Ok(s) if s.extent.len > 0 => s.extent,
                Ok(_) => return self.error_chunk(r, &crate::node::eio()),
                Err(err) => return self.error_chunk(r, &err),
            };
            let n = seen.len.min(end - at);
            let done = if at + n == end { chunk::DONE } else { 0 };
            if seen.zero {
                self.chunk(r, done, chunk::OFFSET_HOLE, &[&at.to_be_bytes(), &(n as u32).to_be_bytes()])?;
            } else {
                let part = &mut buf[(at - offset) as usize..(at - offset + n) as usize];
                if let Err(err) = e.node.read(e.offset + at, part) {
                    return self.error_chunk(r, &err);
                }
                if n >= 4096 && is_zero(part) {
                    self.chunk(r, done, chunk::OFFSET_HOLE, &[&at.to_be_bytes(), &(n as u32).to_be_bytes()])?;
                } else {
                    self.chunk(r, done, chunk::OFFSET_DATA, &[&at.to_be_bytes(), part])?;
                }
            }
            at += n;
        }
        if len == 0 { self.chunk(r, chunk::DONE, chunk::NONE, &[]) } else { Ok(()) }
    }

    fn block_status(&mut self, e: &Export, contexts: &[u32], r: &Request) -> io::Result<()> {
        // Without extended headers an answer cannot speak of more.
        let len = if self.extended { r.len } else { r.len.min(u32::MAX as u64) };
        if contexts.is_empty() || len == 0 || inside(e, r.offset, len, Errno::INVAL).is_err() {
            return self.answer(r, Err(errno(Errno::INVAL)));
        }
        let one = r.flags & command::FLAG_REQ_ONE != 0;
        for (i, id) in contexts.iter().enumerate() {
            let extents = match extents(e, *id, r.offset, len, one) {
                Ok(list) => list,
                Err(err) => return self.error_chunk(r, &err),
            };
            let done = if i + 1 == contexts.len() { chunk::DONE } else { 0 };
            if self.extended {
                let body: Vec<u8> =
                    extents.iter().flat_map(|(n, f)| [n.to_be_bytes(), (*f as u64).to_be_bytes()].concat()).collect();
                let count = (extents.len() as u32).to_be_bytes();
                self.chunk(r, done, chunk::BLOCK_STATUS_EXT, &[&id.to_be_bytes(), &count, &body])?;
            } else {
                let body: Vec<u8> =
                    extents.iter().flat_map(|(n, f)| [(*n as u32).to_be_bytes(), f.to_be_bytes()].concat()).collect();
                self.chunk(r, done, chunk::BLOCK_STATUS, &[&id.to_be_bytes(), &body])?;
            }
        }
        Ok(())
    }
}

/// One request, whatever its header was.
#[derive(Clone, Copy)]
struct Request {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u64,
}

/// Length and contexts of a block status request that names them itself.
fn chosen(payload: &[u8], allowed: &[u32]) -> Option<(u64, Vec<u32>)> {
    let len = u64::from_be_bytes(payload.get(..8)?.try_into().ok()?);
    let words = &payload[8..];
    let ids: Vec<u32> = words.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
    let known = words.len() % 4 == 0 && ids.iter().all(|id| allowed.contains(id));
    let distinct = ids.iter().enumerate().all(|(i, id)| !ids[..i].contains(id));
    (known && distinct).then_some((len, ids))
}

/// Most extents that one answer lists.
const MAX_EXTENTS: usize = 4096;

/// Lengths and flags of one context.
fn extents(e: &Export, context: u32, offset: u64, len: u64, one: bool) -> io::Result<Vec<(u64, u32)>> {
    let mut list: Vec<(u64, u32)> = Vec::new();
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let (n, flags) = match context {
            0 | 1 => {
                let seen = chain::status(e.node.as_ref(), None, e.offset + at, end - at)?;
                let x = seen.extent;
                // Hole: not stored in any layer; zero: reads as zero.
                let allocation = u32::from(!x.data) | u32::from(x.zero) << 1;
                let depth = if x.allocated { seen.depth + 1 } else { 0 };
                (x.len, if context == 0 { allocation } else { depth })
            }
            id => {
                let Some((_, bits)) = e.bitmaps.get(id as usize - 2) else { return Err(errno(Errno::INVAL)) };
                let bit = (e.offset + at) >> bits.granularity_bits;
                let next = (bit + 1) << bits.granularity_bits;
                (next - e.offset - at, u32::from(bit < bits.len && bits.get(bit)))
            }
        };
        let n = n.min(end - at);
        if n == 0 {
            return Err(crate::node::eio());
        }
        let full = list.len() >= MAX_EXTENTS;
        match list.last_mut() {
            Some(last) if last.1 == flags => last.0 += n,
            Some(_) if one || full => break,
            _ => list.push((n, flags)),
        }
        at += n;
    }
    Ok(list)
}

fn inside(e: &Export, offset: u64, len: u64, otherwise: Errno) -> io::Result<()> {
    if offset.checked_add(len).is_some_and(|end| end <= e.size) { Ok(()) } else { Err(errno(otherwise)) }
}

/// A length-prefixed text, and what follows it.
fn take_text(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u32::from_be_bytes(data.get(..4)?.try_into().ok()?) as usize;
    if len > wire::MAX_NAME {
        return None;
    }
    Some((data.get(4..4 + len)?, &data[4 + len..]))
}
