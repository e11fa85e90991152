//! A read-only TFTP server for network booting.
//!
//! Reference: RFC 1350, RFC 2347-2349 (options blksize, timeout, tsize), RFC 7440 (windowsize).
//! Files are opened below the `tftp=` directory only, symbolic links out of it included (openat2 with
//! RESOLVE_BENEATH). Replies come from port 69, as boot loaders accept and simple firewalls prefer.
//! Not modelled: writing, netascii translation (text files are sent as they are).
//! Invariant: at most [`MAX_SESSIONS`] transfers, each with one block buffer and one open file.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::engine::Core;
use crate::backend::Nanos;

pub const PORT: u16 = 69;
pub const MAX_SESSIONS: usize = 20;
const RETRY: Duration = Duration::from_secs(1);
const MAX_RETRIES: u32 = 5;
const DEFAULT_BLOCK: usize = 512;
const MIN_BLOCK: usize = 8;
/// RFC 2348's maximum; we never exceed what fits the MTU without fragments unless asked to.
const MAX_BLOCK: usize = 65464;
const MAX_WINDOW: u16 = 64;

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OPTION_ACK: u16 = 6;

const ERROR_NOT_FOUND: u16 = 1;
const ERROR_ACCESS: u16 = 2;
const ERROR_FULL: u16 = 3;
const ERROR_ILLEGAL: u16 = 4;

#[derive(Debug)]
struct Session {
    client: SocketAddr,
    server: SocketAddr,
    file: File,
    length: u64,
    block: usize,
    window: u16,
    /// The first block that is not acknowledged, counted without wrap-around.
    base: u64,
    /// Options we accepted: resent until block 1 may go.
    options: Option<Vec<u8>>,
    deadline: Nanos,
    retries: u32,
}

#[derive(Debug, Default)]
pub struct Tftp {
    sessions: Vec<Session>,
}

fn error(code: u16, text: &str) -> Vec<u8> {
    let mut message = [ERROR.to_be_bytes(), code.to_be_bytes()].concat();
    message.extend(text.as_bytes());
    message.push(0);
    message
}

/// Opens a regular file below `root`.
fn open(root: &Path, name: &str) -> std::io::Result<File> {
    let root = rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let name = name.trim_start_matches('/');
    let file = match rustix::fs::openat2(&root, name, flags, Mode::empty(), resolve) {
        // An old kernel, or a sandbox that does not know the call: allow plain names only.
        Err(rustix::io::Errno::NOSYS) if name.split('/').all(|part| part != "..") => {
            rustix::fs::openat(&root, name, flags | OFlags::NOFOLLOW, Mode::empty())?
        }
        other => other?,
    };
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    Ok(file)
}

/// The zero-terminated texts of a request.
fn texts(payload: &[u8]) -> Option<Vec<&str>> {
    let body = payload.strip_suffix(&[0])?;
    body.split(|&b| b == 0).map(|text| std::str::from_utf8(text).ok()).collect()
}

impl Tftp {
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// A datagram to port 69 of the virtual host.
    pub fn receive(&mut self, core: &mut Core, client: SocketAddr, server: SocketAddr, payload: &[u8]) {
        let Some((&[o0, o1], body)) = payload.split_first_chunk::<2>() else { return };
        match u16::from_be_bytes([o0, o1]) {
            READ => {
                self.sessions.retain(|s| s.client != client);
                if let Err(message) = self.start(core, client, server, body) {
                    core.link.send_udp(server, client, &message);
                }
            }
            WRITE => core.link.send_udp(server, client, &error(ERROR_ACCESS, "the server is read-only")),
            ACK => self.acknowledged(core, client, body),
            ERROR => self.sessions.retain(|s| s.client != client),
            _ => core.link.send_udp(server, client, &error(ERROR_ILLEGAL, "unknown operation")),
        }
    }

    fn start(&mut self, core: &mut Core, client: SocketAddr, server: SocketAddr, body: &[u8]) -> Result<(), Vec<u8>> {
        let illegal = || error(ERROR_ILLEGAL, "malformed request");
        let texts = texts(body).ok_or_else(illegal)?;
        let [name, mode, options @ ..] = texts.as_slice() else { return Err(illegal()) };
        if !["octet", "netascii"].iter().any(|m| mode.eq_ignore_ascii_case(m)) {
            return Err(error(ERROR_ILLEGAL, "the transfer mode is not octet"));
        }
        if self.sessions.len() >= MAX_SESSIONS {
            return Err(error(ERROR_FULL, "too many transfers"));
        }
        let root = core.config.tftp.as_ref().ok_or_else(|| error(ERROR_ACCESS, "no directory is served"))?;
        let file = open(root, name).map_err(|_| error(ERROR_NOT_FOUND, "file not found"))?;
        let length = file.metadata().map_err(|_| error(ERROR_NOT_FOUND, "file not found"))?.len();
        let deadline = core.link.now.after(RETRY);
        let mut session = Session {
            client,
            server,
            file,
            length,
            block: DEFAULT_BLOCK,
            window: 1,
            base: 0,
            options: None,
            deadline,
            retries: 0,
        };
        let accepted = session.negotiate(options);
        if accepted.len() > 2 {
            session.options = Some(accepted);
        } else {
            session.base = 1;
        }
        session.send(core);
        self.sessions.push(session);
        Ok(())
    }

    fn acknowledged(&mut self, core: &mut Core, client: SocketAddr, body: &[u8]) {
        let Some(at) = self.sessions.iter().position(|s| s.client == client) else { return };
        let Some(&[b0, b1]) = body.first_chunk::<2>() else { return };
        let session = &mut self.sessions[at];
        let block = u16::from_be_bytes([b0, b1]);
        // The acknowledged block, somewhere within a window behind or ahead of what we expect.
        let ahead = block.wrapping_sub(session.base as u16);
        if ahead >= session.window.max(1) {
            // An old acknowledgement: a lost block is resent by the timer, never by duplicates
            // (that would double every packet from then on).
            return;
        }
        session.base += u64::from(ahead) + 1;
        session.options = None;
        session.retries = 0;
        session.deadline = core.link.now.after(RETRY);
        if session.base > session.last_block() {
            self.sessions.swap_remove(at);
        } else {
            session.send(core);
        }
    }

    /// Resends what was not acknowledged; the time when that is next due.
    pub fn expire(&mut self, core: &mut Core) -> Option<Nanos> {
        let now = core.link.now;
        self.sessions.retain_mut(|session| {
            if session.deadline > now {
                return true;
            }
            session.retries += 1;
            session.deadline = now.after(RETRY);
            if session.retries <= MAX_RETRIES {
                session.send(core);
            }
            session.retries <= MAX_RETRIES
        });
        self.sessions.iter().map(|s| s.deadline).min()
    }
}

impl Session {
    /// The last block: the one that is shorter than the others (maybe empty).
    fn last_block(&self) -> u64 {
        self.length / self.block as u64 + 1
    }

    /// Takes over the options we know; the text of the answer (just the operation if there are none).
    fn negotiate(&mut self, options: &[&str]) -> Vec<u8> {
        let mut answer = OPTION_ACK.to_be_bytes().to_vec();
        for pair in options.chunks_exact(2) {
            let Ok(value) = pair[1].parse::<u64>() else { continue };
            let accepted = match pair[0].to_ascii_lowercase().as_str() {
                "tsize" => self.length,
                "blksize" if value >= MIN_BLOCK as u64 => {
                    self.block = value.min(MAX_BLOCK as u64) as usize;
                    self.block as u64
                }
                "windowsize" if value >= 1 => {
                    self.window = value.min(u64::from(MAX_WINDOW)) as u16;
                    u64::from(self.window)
                }
                "timeout" if (1..=255).contains(&value) => value,
                _ => continue,
            };
            answer.extend(format!("{}\0{accepted}\0", pair[0]).bytes());
        }
        answer
    }

    fn send(&mut self, core: &mut Core) {
        if let Some(options) = &self.options {
            return core.link.send_udp(self.server, self.client, options);
        }
        let end = (self.base + u64::from(self.window)).min(self.last_block() + 1);
        for block in self.base..end {
            let offset = (block - 1) * self.block as u64;
            let length = (self.length - offset).min(self.block as u64) as usize;
            let mut message = vec![0; 4 + length];
            message[..2].copy_from_slice(&DATA.to_be_bytes());
            message[2..4].copy_from_slice(&(block as u16).to_be_bytes());
            if self.file.read_exact_at(&mut message[4..], offset).is_err() {
                let message = error(0, "the file changed while it was read");
                self.retries = MAX_RETRIES;
                return core.link.send_udp(self.server, self.client, &message);
            }
            core.link.send_udp(self.server, self.client, &message);
        }
    }
}
