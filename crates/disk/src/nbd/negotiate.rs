//! The client's side of what is said before the first request: how a server negotiates, which exports it has.
//!
//! Reference: the NBD project's `doc/proto.md`, "Handshake phase".

use super::address::{Address, Place};
use super::wire::{self, handshake, info, option, reply};
use crate::node::strerror;
use spec::error::{Error, Result};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

/// Both kinds of stream.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One export of a server, for lists.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    pub name: String,
    pub description: String,
    pub size: u64,
    pub flags: u16,
    pub blocks: Option<(u32, u32, u32)>,
    /// The server takes requests with 64-bit lengths.
    pub extended: bool,
    pub contexts: Vec<String>,
}

pub struct Handshake {
    pub stream: Box<dyn Stream>,
    pub style: Style,
}

/// How the other side negotiates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Fixed {
        no_zeroes: bool,
    },
    /// All that can be said is the export's name.
    Plain,
    /// Nothing can be said: size and flags of the one export.
    Old(u64, u16),
}

fn connect(address: &Address) -> io::Result<Box<dyn Stream>> {
    Ok(match &address.place {
        Place::Unix(path) => Box::new(UnixStream::connect(path)?),
        Place::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port))?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
    })
}

impl Handshake {
    pub fn start(address: &Address) -> Result<Handshake> {
        let stream = connect(address).map_err(|e| {
            let place = match &address.place {
                Place::Unix(path) => path.clone(),
                Place::Tcp(host, port) => format!("{host}:{port}"),
            };
            Error::new(format!("Failed to connect to '{place}': {}", strerror(&e)))
        })?;
        let mut h = Handshake { stream, style: Style::Plain };
        h.hello().map_err(|e| Error::new(format!("Failed to read initial magic: {}", strerror(&e))))?;
        Ok(h)
    }

    fn hello(&mut self) -> io::Result<()> {
        if wire::read_u64(&mut self.stream)? != wire::MAGIC {
            return Err(wire::protocol_error("Bad initial magic received"));
        }
        match wire::read_u64(&mut self.stream)? {
            wire::OPTION_MAGIC => {}
            wire::OLD_MAGIC => {
                let (size, flags) = (wire::read_u64(&mut self.stream)?, wire::read_u32(&mut self.stream)?);
                wire::read_vec(&mut self.stream, 124)?;
                self.style = Style::Old(size, flags as u16);
                return Ok(());
            }
            _ => return Err(wire::protocol_error("Bad server magic received")),
        }
        let flags = wire::read_u16(&mut self.stream)?;
        let no_zeroes = flags & handshake::NO_ZEROES != 0;
        self.style = if flags & handshake::FIXED != 0 { Style::Fixed { no_zeroes } } else { Style::Plain };
        let answer = (flags & (handshake::FIXED | handshake::NO_ZEROES)) as u32;
        self.stream.write_all(&answer.to_be_bytes())
    }

    /// Chooses the export by its name alone, as servers of the older protocols want it.
    pub fn by_name(&mut self, name: &str) -> io::Result<Listed> {
        let found = |size, flags| Listed { name: name.to_owned(), size, flags, ..Listed::default() };
        let no_zeroes = match self.style {
            Style::Old(size, flags) => return Ok(found(size, flags)),
            Style::Fixed { no_zeroes } => no_zeroes,
            Style::Plain => false,
        };
        let mut out = wire::OPTION_MAGIC.to_be_bytes().to_vec();
        out.extend(option::EXPORT_NAME.to_be_bytes());
        out.extend(Self::text(name));
        self.stream.write_all(&out)?;
        let (size, flags) = (wire::read_u64(&mut self.stream)?, wire::read_u16(&mut self.stream)?);
        wire::read_vec(&mut self.stream, if no_zeroes { 0 } else { 124 })?;
        Ok(found(size, flags))
    }

    /// Sends an option and collects the replies up to the acknowledgement. An error reply is the inner `Err`.
    pub fn option(&mut self, opt: u32, data: &[u8]) -> io::Result<std::result::Result<Vec<(u32, Vec<u8>)>, String>> {
        let mut out = wire::OPTION_MAGIC.to_be_bytes().to_vec();
        out.extend(opt.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        self.stream.write_all(&out)?;
        let mut list = Vec::new();
        loop {
            if wire::read_u64(&mut self.stream)? != wire::REPLY_MAGIC || wire::read_u32(&mut self.stream)? != opt {
                return Err(wire::protocol_error("unexpected option reply"));
            }
            let (kind, len) = (wire::read_u32(&mut self.stream)?, wire::read_u32(&mut self.stream)?);
            if len > wire::MAX_OPTION || list.len() > 10_000 {
                return Err(wire::protocol_error("option reply too long"));
            }
            let data = wire::read_vec(&mut self.stream, len as usize)?;
            match kind {
                reply::ACK => return Ok(Ok(list)),
                k if k & 1 << 31 != 0 => return Ok(Err(String::from_utf8_lossy(&data).into_owned())),
                k => list.push((k, data)),
            }
        }
    }

    fn text(name: &str) -> Vec<u8> {
        let mut out = (name.len() as u32).to_be_bytes().to_vec();
        out.extend(name.as_bytes());
        out
    }

    pub fn contexts(&mut self, opt: u32, name: &str, queries: &[&str]) -> io::Result<Vec<String>> {
        let mut data = Self::text(name);
        data.extend((queries.len() as u32).to_be_bytes());
        queries.iter().for_each(|q| data.extend(Self::text(q)));
        let list = self.option(opt, &data)?.unwrap_or_default();
        let names = list.into_iter().filter(|(k, d)| *k == reply::META_CONTEXT && d.len() >= 4);
        Ok(names.map(|(_, d)| String::from_utf8_lossy(&d[4..]).into_owned()).collect())
    }

    pub fn about(&mut self, opt: u32, name: &str) -> io::Result<std::result::Result<Listed, String>> {
        let mut data = Self::text(name);
        data.extend(1u16.to_be_bytes());
        data.extend(info::BLOCK_SIZE.to_be_bytes());
        let list = match self.option(opt, &data)? {
            Ok(list) => list,
            Err(text) => return Ok(Err(text)),
        };
        let mut found = Listed { name: name.to_owned(), ..Listed::default() };
        for (_, d) in list.iter().filter(|(k, d)| *k == reply::INFO && d.len() >= 2) {
            let word =
                |at: usize| d.get(at..at + 4).map_or(0, |b| u32::from_be_bytes(b.try_into().expect("four bytes")));
            match u16::from_be_bytes([d[0], d[1]]) {
                info::EXPORT if d.len() >= 12 => {
                    found.size = (word(2) as u64) << 32 | word(6) as u64;
                    found.flags = u16::from_be_bytes([d[10], d[11]]);
                }
                info::BLOCK_SIZE => found.blocks = Some((word(2), word(6), word(10))),
                info::DESCRIPTION => found.description = String::from_utf8_lossy(&d[2..]).into_owned(),
                _ => {}
            }
        }
        Ok(Ok(found))
    }
}

/// Every export of a server.
pub fn list(address: &Address) -> Result<Vec<Listed>> {
    let mut h = Handshake::start(address)?;
    let fail = |e: io::Error| Error::new(format!("Failed to list exports: {}", strerror(&e)));
    if !matches!(h.style, Style::Fixed { .. }) {
        return Err(Error::new("Server does not support export lists"));
    }
    let extended = h.option(option::EXTENDED_HEADERS, &[]).map_err(fail)?.is_ok();
    let structured = extended || h.option(option::STRUCTURED_REPLY, &[]).map_err(fail)?.is_ok();
    let replies = h.option(option::LIST, &[]).map_err(fail)?.map_err(Error::new)?;
    let mut all = Vec::new();
    for (_, data) in replies.iter().filter(|(k, d)| *k == reply::SERVER && d.len() >= 4) {
        let len = u32::from_be_bytes(data[..4].try_into().expect("four bytes")) as usize;
        let name = String::from_utf8_lossy(data.get(4..4 + len).unwrap_or(&[])).into_owned();
        let description = String::from_utf8_lossy(data.get(4 + len..).unwrap_or(&[])).into_owned();
        let mut found = h.about(option::INFO, &name).map_err(fail)?.unwrap_or_default();
        found.name = name;
        found.description = description;
        found.extended = extended;
        if structured {
            found.contexts = h.contexts(option::LIST_META_CONTEXT, &found.name, &[]).map_err(fail)?;
        }
        all.push(found);
    }
    // A polite goodbye; the lists are complete either way.
    let _ = h.option(option::ABORT, &[]);
    Ok(all)
}
