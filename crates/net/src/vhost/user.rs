//! `-netdev vhost-user`: another process serves the guest's rings, in memory that it shares with us.
//!
//! Reference: the vhost-user protocol, version 1 (front end).
//! Not modelled: calling again after the other process has left.
//!
//! Invariants: an answer is waited for at most [`PATIENCE`]; after a failure nothing more is said, and the cable is
//! unplugged. Frames never pass through us: `transmit` and `poll` do nothing.

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use spec::error::{Context, Error, Result};

use super::{Events, Protocol, RINGS, Region, Ring, Served, Vhost};
use crate::backend::{Accepts, Backend, Guest, Nanos, Offload, Transmit};

/// How long the other process may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Regions in one table, as many as descriptors fit one message.
const REGIONS_MAX: usize = 8;
/// The longest answer that we ask for.
const ANSWER_MAX: usize = 64;

/// Numbers of the requests.
mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const SET_VRING_ENABLE: u32 = 18;
}

/// Message flags: the version, and two bits.
const VERSION: u32 = 1;
const IS_REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// Feature bit: the protocol has features of its own.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// Protocol feature: every request can be answered.
const REPLY_ACK: u64 = 1 << 3;

/// The socket to the other process, and what was agreed on.
pub struct Messages {
    socket: UnixStream,
    features: u64,
    protocol: u64,
}

pub type VhostUser = Served<Messages>;

/// A message's payload as it is put together.
#[derive(Default)]
struct Payload(Vec<u8>);

impl Payload {
    fn u32(mut self, value: u32) -> Payload {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Payload {
        self.0.extend(value.to_ne_bytes());
        self
    }
}

impl VhostUser {
    /// Speaks to the process at the other end of a connected Unix stream socket.
    pub fn new(stream: OwnedFd, text: &str) -> Result<VhostUser> {
        let socket = UnixStream::from(stream);
        let sentence = || "vhost-user: the character device is not a socket".into();
        socket.set_nonblocking(false).context(sentence)?;
        socket.set_read_timeout(Some(PATIENCE)).context(sentence)?;
        socket.set_write_timeout(Some(PATIENCE)).context(sentence)?;
        let mut messages = Messages { socket, features: 0, protocol: 0 };
        messages.greet().map_err(|e| Error::caused("vhost-user: the other process does not answer as it should", e))?;
        Served::serve(messages, text)
    }
}

impl Messages {
    fn greet(&mut self) -> Result<()> {
        self.features = self.ask(request::GET_FEATURES, Payload::default())?;
        if self.features & PROTOCOL_FEATURES != 0 {
            let offered = self.ask(request::GET_PROTOCOL_FEATURES, Payload::default())?;
            let protocol = offered & REPLY_ACK;
            self.say(request::SET_PROTOCOL_FEATURES, Payload::default().u64(protocol), &[])?;
            self.protocol = protocol;
        }
        self.say(request::SET_OWNER, Payload::default(), &[])
    }

    /// Sends a request; with [`REPLY_ACK`] it has been carried out on return.
    fn say(&mut self, request: u32, payload: Payload, files: &[BorrowedFd<'_>]) -> Result<()> {
        let acknowledge = self.protocol & REPLY_ACK != 0;
        self.send(request, if acknowledge { NEED_REPLY } else { 0 }, &payload, files)?;
        if acknowledge && self.receive(request)? != 0 {
            return Err(Error::new(format!("vhost-user: request {request} was refused")));
        }
        Ok(())
    }

    fn ask(&mut self, request: u32, payload: Payload) -> Result<u64> {
        self.send(request, 0, &payload, &[])?;
        self.receive(request)
    }

    fn send(&self, request: u32, flags: u32, payload: &Payload, files: &[BorrowedFd<'_>]) -> Result<()> {
        let header = Payload::default().u32(request).u32(VERSION | flags).u32(payload.0.len() as u32);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(REGIONS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(files)), "a message has few descriptors");
        }
        let parts = [IoSlice::new(&header.0), IoSlice::new(&payload.0)];
        let sent = rustix::net::sendmsg(&self.socket, &parts, &mut ancillary, SendFlags::NOSIGNAL);
        let sent = sent.context(|| format!("vhost-user: request {request} could not be sent"))?;
        if sent != header.0.len() + payload.0.len() {
            return Err(Error::new(format!("vhost-user: request {request} was sent in part")));
        }
        Ok(())
    }

    /// The answer to a request: its number, or the second half of a ring's state.
    fn receive(&mut self, request: u32) -> Result<u64> {
        let sentence = || format!("vhost-user: no answer to request {request}");
        let mut header = [0; 12];
        self.socket.read_exact(&mut header).context(sentence)?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let len = word(8) as usize;
        if word(0) != request || word(4) & IS_REPLY == 0 || len != 8 {
            return Err(Error::new(format!("vhost-user: request {request} was answered by {} of {len} bytes", word(0))));
        }
        let mut payload = [0; ANSWER_MAX];
        self.socket.read_exact(&mut payload[..len]).context(sentence)?;
        let value = u64::from_ne_bytes(*payload.first_chunk().expect("it is longer"));
        Ok(if request == request::GET_VRING_BASE { value >> 32 } else { value })
    }
}

impl Protocol for Messages {
    const NAME: &'static str = "vhost-user";

    fn features(&self) -> u64 {
        self.features & !PROTOCOL_FEATURES
    }

    fn set_features(&mut self, accepted: u64) -> Result<()> {
        let features = accepted & self.features | self.features & PROTOCOL_FEATURES;
        self.say(request::SET_FEATURES, Payload::default().u64(features), &[])
    }

    fn set_memory(&mut self, memory: &[Region]) -> Result<()> {
        let shared: Vec<(&Region, BorrowedFd)> = memory.iter().filter_map(|r| Some((r, r.file.as_ref()?.as_fd()))).collect();
        if shared.is_empty() {
            return Err(Error::new("Failed initializing vhost-user memory map, consider using -object memory-backend-file share=on"));
        }
        if shared.len() > REGIONS_MAX {
            return Err(Error::new(format!("vhost-user: {} regions of memory are too many", shared.len())));
        }
        let mut payload = Payload::default().u32(shared.len() as u32).u32(0);
        for (region, _) in &shared {
            payload = payload.u64(region.guest).u64(region.len).u64(region.guest).u64(region.offset);
        }
        let files: Vec<BorrowedFd> = shared.iter().map(|(_, file)| *file).collect();
        self.say(request::SET_MEM_TABLE, payload, &files)
    }

    fn set_ring(&mut self, index: usize, ring: &Ring, events: &Events) -> Result<()> {
        let index = index as u32;
        let state = |value: u32| Payload::default().u32(index).u32(value);
        self.say(request::SET_VRING_NUM, state(ring.size.into()), &[])?;
        self.say(request::SET_VRING_BASE, state(ring.next.into()), &[])?;
        let place = Payload::default().u32(index).u32(0).u64(ring.descriptors).u64(ring.used).u64(ring.available).u64(0);
        self.say(request::SET_VRING_ADDR, place, &[])?;
        self.say(request::SET_VRING_KICK, Payload::default().u64(index.into()), &[events.kick.as_fd()])?;
        self.say(request::SET_VRING_CALL, Payload::default().u64(index.into()), &[events.call.as_fd()])
    }

    fn enable(&mut self, on: bool) -> Result<()> {
        if self.features & PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        (0..RINGS as u32).try_for_each(|ring| self.say(request::SET_VRING_ENABLE, Payload::default().u32(ring).u32(on.into()), &[]))
    }

    fn next(&mut self, index: usize) -> Result<u16> {
        Ok(self.ask(request::GET_VRING_BASE, Payload::default().u32(index as u32).u32(0))? as u16)
    }

    fn link(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }
}

impl Backend for VhostUser {
    fn transmit(&mut self, _now: Nanos, _frame: &[u8], _offload: Offload) -> Transmit {
        Transmit::Taken
    }

    fn poll(&mut self, _now: Nanos, _guest: &mut dyn Guest) {}

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(Served::event_fd(self))
    }

    fn deadline(&self) -> Option<Nanos> {
        None
    }

    fn takes_offloads(&self) -> bool {
        true
    }

    fn set_accepts(&mut self, _accepts: Accepts) {}

    fn summary(&self) -> String {
        self.text.clone()
    }

    fn vhost(&mut self, work: &mut dyn FnMut(&mut dyn Vhost)) -> bool {
        work(self);
        true
    }
}

#[cfg(test)]
mod tests;
