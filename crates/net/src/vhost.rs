//! `-netdev vhost-user`: another process serves the guest's rings, in memory that it shares with us.
//!
//! Reference: the vhost-user protocol, version 1 (front end); VIRTIO 1.2, 2.7 for the rings.
//! Not modelled: calling again after the other process has left, migration, several queue pairs, an IOMMU, packed rings.
//!
//! Invariants: an answer is waited for at most [`PATIENCE`]; after a failure nothing more is said, and the cable is
//! unplugged. Frames never pass through us: `transmit` and `poll` do nothing.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use spec::error::{Context, Error, Result};

use crate::backend::{Accepts, Backend, Guest, Nanos, Offload, Transmit};
use crate::poller::Poller;

/// How long the other process may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rings of one card: received frames, sent frames.
pub const RINGS: usize = 2;
/// Regions in one table, as many as descriptors fit one message.
const REGIONS_MAX: usize = 8;
/// The longest answer that we ask for.
const ANSWER_MAX: usize = 64;
/// The socket's token at the poller; a ring's is its number.
const SOCKET: u64 = 64;

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

/// Memory of the guest in a file. Rings are named by guest addresses, too.
pub struct Region {
    pub guest: u64,
    pub len: u64,
    pub file: File,
    pub offset: u64,
}

/// Where a ring is in the guest's memory, and what is next in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
    pub next: u16,
}

/// A back end that works on the guest's rings itself.
pub trait Vhost {
    /// Features of the device (and of its rings) that it can do.
    fn features(&self) -> u64;
    /// Hands over the rings. `features` are those that the driver accepted.
    fn start(&mut self, features: u64, memory: &[Region], rings: &[Ring; RINGS]) -> Result<()>;
    /// Takes the rings back; gives what is next in each. The guest's memory is left alone from then on.
    fn stop(&mut self) -> [u16; RINGS];
    /// The driver has put something into a ring.
    fn kick(&self, ring: usize);
    /// Bits of the rings whose driver is to be interrupted.
    fn called(&mut self) -> u64;
    /// The other side is there.
    fn is_alive(&self) -> bool;
}

/// The two event descriptors of a ring.
struct Events {
    kick: OwnedFd,
    call: OwnedFd,
}

pub struct VhostUser {
    socket: UnixStream,
    poller: Poller,
    features: u64,
    protocol: u64,
    rings: Vec<Events>,
    running: bool,
    alive: bool,
    text: String,
}

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

fn event() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context(|| "could not create an event descriptor for vhost-user".into())
}

impl VhostUser {
    /// Speaks to the process at the other end of a connected Unix stream socket.
    pub fn new(stream: OwnedFd, text: &str) -> Result<VhostUser> {
        let socket = UnixStream::from(stream);
        let sentence = || "vhost-user: the character device is not a socket".into();
        socket.set_nonblocking(false).context(sentence)?;
        socket.set_read_timeout(Some(PATIENCE)).context(sentence)?;
        socket.set_write_timeout(Some(PATIENCE)).context(sentence)?;
        let mut vhost = VhostUser {
            socket,
            poller: Poller::new()?,
            features: 0,
            protocol: 0,
            rings: Vec::new(),
            running: false,
            alive: true,
            text: text.into(),
        };
        vhost.greet().map_err(|e| Error::caused("vhost-user: the other process does not answer as it should", e))?;
        vhost.poller.add(&vhost.socket, SOCKET).context(sentence)?;
        for ring in 0..RINGS {
            let events = Events { kick: event()?, call: event()? };
            vhost.poller.add(&events.call, ring as u64).context(sentence)?;
            vhost.rings.push(events);
        }
        Ok(vhost)
    }

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

    fn share(&mut self, memory: &[Region]) -> Result<()> {
        if memory.is_empty() {
            return Err(Error::new("Failed initializing vhost-user memory map, consider using -object memory-backend-file share=on"));
        }
        if memory.len() > REGIONS_MAX {
            return Err(Error::new(format!("vhost-user: {} regions of memory are too many", memory.len())));
        }
        let mut payload = Payload::default().u32(memory.len() as u32).u32(0);
        for region in memory {
            payload = payload.u64(region.guest).u64(region.len).u64(region.guest).u64(region.offset);
        }
        let files: Vec<BorrowedFd> = memory.iter().map(|r| r.file.as_fd()).collect();
        self.say(request::SET_MEM_TABLE, payload, &files)
    }

    fn start_ring(&mut self, index: u32, ring: &Ring) -> Result<()> {
        let state = |value: u32| Payload::default().u32(index).u32(value);
        self.say(request::SET_VRING_NUM, state(ring.size.into()), &[])?;
        self.say(request::SET_VRING_BASE, state(ring.next.into()), &[])?;
        let place = Payload::default().u32(index).u32(0).u64(ring.descriptors).u64(ring.used).u64(ring.available).u64(0);
        self.say(request::SET_VRING_ADDR, place, &[])?;
        let events = &self.rings[index as usize];
        let file = |fd: &OwnedFd| fd.try_clone().context(|| "vhost-user: no descriptor is left".into());
        let (kick, call) = (file(&events.kick)?, file(&events.call)?);
        self.say(request::SET_VRING_KICK, Payload::default().u64(index.into()), &[kick.as_fd()])?;
        self.say(request::SET_VRING_CALL, Payload::default().u64(index.into()), &[call.as_fd()])
    }

    fn enable(&mut self, on: bool) -> Result<()> {
        if self.features & PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        (0..RINGS as u32).try_for_each(|ring| self.say(request::SET_VRING_ENABLE, Payload::default().u32(ring).u32(on.into()), &[]))
    }

    fn try_start(&mut self, features: u64, memory: &[Region], rings: &[Ring; RINGS]) -> Result<()> {
        let features = features & self.features | self.features & PROTOCOL_FEATURES;
        self.say(request::SET_FEATURES, Payload::default().u64(features), &[])?;
        self.share(memory)?;
        for (index, ring) in rings.iter().enumerate() {
            self.start_ring(index as u32, ring)?;
        }
        self.enable(true)
    }

    fn try_stop(&mut self) -> Result<[u16; RINGS]> {
        self.enable(false)?;
        let mut next = [0; RINGS];
        for (index, next) in next.iter_mut().enumerate() {
            let state = Payload::default().u32(index as u32).u32(0);
            *next = self.ask(request::GET_VRING_BASE, state)? as u16;
        }
        Ok(next)
    }

    fn lost(&mut self, why: &str) {
        if std::mem::replace(&mut self.alive, false) {
            log::warn!("vhost-user: {why}; the cable is unplugged");
            self.running = false;
        }
    }
}

impl Vhost for VhostUser {
    fn features(&self) -> u64 {
        self.features & !PROTOCOL_FEATURES
    }

    fn start(&mut self, features: u64, memory: &[Region], rings: &[Ring; RINGS]) -> Result<()> {
        if !self.alive || self.running {
            return Ok(());
        }
        if let Err(error) = self.try_start(features, memory, rings) {
            self.lost(&error.sentence());
            return Err(error);
        }
        self.running = true;
        // The driver may have filled them before anybody listened.
        (0..RINGS).for_each(|ring| self.kick(ring));
        Ok(())
    }

    fn stop(&mut self) -> [u16; RINGS] {
        if !std::mem::replace(&mut self.running, false) {
            return [0; RINGS];
        }
        self.try_stop().unwrap_or_else(|error| {
            self.lost(&error.sentence());
            [0; RINGS]
        })
    }

    fn kick(&self, ring: usize) {
        if self.running && ring < RINGS {
            // It can only fail if 2^64 kicks are pending.
            let _ = rustix::io::write(&self.rings[ring].kick, &1u64.to_ne_bytes());
        }
    }

    fn called(&mut self) -> u64 {
        let (mut called, mut gone) = (0, false);
        self.poller.ready(|ready| match ready.token {
            SOCKET => gone |= ready.closed,
            ring => called |= 1 << ring,
        });
        for (index, events) in self.rings.iter().enumerate() {
            // Readiness may be older than the last look.
            if called >> index & 1 != 0 && rustix::io::read(&events.call, &mut [0u8; 8]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock) {
                called &= !(1 << index);
            }
        }
        if gone {
            self.lost("the other process has left");
        }
        called
    }

    fn is_alive(&self) -> bool {
        self.alive
    }
}

impl Backend for VhostUser {
    fn transmit(&mut self, _now: Nanos, _frame: &[u8], _offload: Offload) -> Transmit {
        Transmit::Taken
    }

    fn poll(&mut self, _now: Nanos, _guest: &mut dyn Guest) {}

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.poller.fd())
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
