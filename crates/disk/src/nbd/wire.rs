//! Numbers of the NBD protocol and reading and writing of its words.
//!
//! Reference: the NBD project's `doc/proto.md`.

use std::io::{self, Read, Write};

pub const MAGIC: u64 = 0x4e42444d41474943;
pub const OPTION_MAGIC: u64 = 0x49484156454f5054;
pub const REPLY_MAGIC: u64 = 0x0003e889045565a9;
pub const REQUEST_MAGIC: u32 = 0x25609513;
pub const SIMPLE_MAGIC: u32 = 0x67446698;
pub const CHUNK_MAGIC: u32 = 0x668e33ef;
pub const OLD_MAGIC: u64 = 0x0000420281861253;
/// Requests and replies whose lengths have 64 bits.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e41c71;
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a278c;

pub mod handshake {
    pub const FIXED: u16 = 1;
    pub const NO_ZEROES: u16 = 2;
}
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}
pub mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = 1 << 31 | 1;
    pub const ERR_INVALID: u32 = 1 << 31 | 3;
    pub const ERR_UNKNOWN: u32 = 1 << 31 | 6;
    pub const ERR_TOO_BIG: u32 = 1 << 31 | 9;
    pub const ERR_EXT_HEADER_REQD: u32 = 1 << 31 | 10;
}
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}
pub mod flag {
    pub const HAS_FLAGS: u16 = 1 << 0;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const FLUSH: u16 = 1 << 2;
    pub const FUA: u16 = 1 << 3;
    pub const TRIM: u16 = 1 << 5;
    pub const WRITE_ZEROES: u16 = 1 << 6;
    pub const DF: u16 = 1 << 7;
    pub const MULTI_CONN: u16 = 1 << 8;
    pub const CACHE: u16 = 1 << 10;
    pub const FAST_ZERO: u16 = 1 << 11;
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
    /// Names in the order of the bits, as tools list them; blanks are bits that are not listed.
    pub const NAMES: [(u16, &str); 11] = [
        (READ_ONLY, "readonly"),
        (FLUSH, "flush"),
        (FUA, "fua"),
        (1 << 4, "rotational"),
        (TRIM, "trim"),
        (WRITE_ZEROES, "zeroes"),
        (DF, "df"),
        (MULTI_CONN, "multi"),
        (CACHE, "cache"),
        (FAST_ZERO, "fast-zero"),
        (BLOCK_STATUS_PAYLOAD, "block-status-payload"),
    ];
}
pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
    pub const FLAG_FUA: u16 = 1;
    pub const FLAG_NO_HOLE: u16 = 2;
    pub const FLAG_REQ_ONE: u16 = 8;
    pub const FLAG_FAST_ZERO: u16 = 16;
    pub const FLAG_PAYLOAD: u16 = 32;
}
pub mod chunk {
    pub const DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    pub const ERROR: u16 = 1 << 15 | 1;
    pub const ERROR_OFFSET: u16 = 1 << 15 | 2;
}

/// Largest request and option that are taken.
pub const MAX_REQUEST: u32 = 32 << 20;
pub const MAX_OPTION: u32 = 1 << 16;
pub const MAX_NAME: usize = 4096;

pub fn read<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub fn read_u16(from: &mut impl Read) -> io::Result<u16> {
    Ok(u16::from_be_bytes(read(from)?))
}

pub fn read_u32(from: &mut impl Read) -> io::Result<u32> {
    Ok(u32::from_be_bytes(read(from)?))
}

pub fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    Ok(u64::from_be_bytes(read(from)?))
}

pub fn read_vec(from: &mut impl Read, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Sends an option reply.
pub fn send_reply(to: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut out = REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend(option.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    to.write_all(&out)
}

/// The errors that the protocol can name.
pub const ERRORS: [i32; 8] = [1, 5, 12, 22, 28, 75, 95, 108];

/// The protocol's number for an error; it has few.
pub fn error_number(e: &io::Error) -> u32 {
    match e.raw_os_error() {
        Some(n) if ERRORS.contains(&n) => n as u32,
        Some(13 | 30) => 1,
        Some(27 | 122) => 28,
        _ => 5,
    }
}

pub fn protocol_error(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
