//! Back ends that serve the guest's rings themselves, in its memory: another process or the host's kernel.
//!
//! | module | who serves | how it is spoken to |
//! |---|---|---|
//! | [`user`] | another process (`-netdev vhost-user`) | messages over a socket |
//! | [`kernel`] | the host's kernel (`-netdev tap,vhost=on`) | requests to `/dev/vhost-net` |
//!
//! [`Served`] is the life of the rings, which is the same for both: features, memory, each ring, then both together are
//! switched on; later they are switched off and tell what is next in them.
//!
//! Reference: VIRTIO 1.2, 2.7 for the rings.
//! Not modelled: migration, several queue pairs, an IOMMU, packed rings.
//!
//! Invariants: between [`Vhost::start`] and [`Vhost::stop`] frames do not pass through us; outside of it nobody else
//! touches the guest's memory.

pub mod kernel;
pub mod user;

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use host::map::Mapped;
pub use host::vhost::Ring;
use rustix::event::{EventfdFlags, eventfd};
use spec::error::{Context, Result};

use crate::poller::Poller;

/// Rings of one card: received frames, sent frames.
pub const RINGS: usize = 2;
/// The token of a connection at the poller; a ring's is its number.
const LINK: u64 = 64;

/// Memory of the guest. Rings are named by guest addresses, too.
pub struct Region {
    pub guest: u64,
    pub len: u64,
    /// Where it lies in this process: from `offset` on.
    pub memory: Arc<dyn Mapped>,
    pub offset: u64,
    /// What other processes can see it in, at the same offset.
    pub file: Option<File>,
}

/// A back end that works on the guest's rings itself.
pub trait Vhost {
    /// Features of the device (and of its rings) that it can do.
    fn features(&self) -> u64;
    /// Hands over the rings. `features` are those that the driver accepted. After an error of a back end that is still
    /// alive frames can be moved as in front of any other.
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

/// How the other side is spoken to. The order of the calls is that of [`Served`].
pub trait Protocol: Send {
    /// For messages.
    const NAME: &'static str;

    fn features(&self) -> u64;
    fn set_features(&mut self, accepted: u64) -> Result<()>;
    fn set_memory(&mut self, memory: &[Region]) -> Result<()>;
    fn set_ring(&mut self, index: usize, ring: &Ring, events: &Events) -> Result<()>;
    /// Starts or stops all rings.
    fn enable(&mut self, on: bool) -> Result<()>;
    /// What is next in a ring that was stopped.
    fn next(&mut self, index: usize) -> Result<u16>;
    /// A connection that ends when the other side leaves; without it nothing works. `None`: it never leaves, and what it
    /// refuses can be done without it.
    fn link(&self) -> Option<BorrowedFd<'_>>;
}

/// The two event descriptors of a ring.
pub struct Events {
    pub kick: OwnedFd,
    pub call: OwnedFd,
}

fn event(name: &str) -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context(|| format!("could not create an event descriptor for {name}"))
}

/// Rings and who serves them.
pub struct Served<P> {
    protocol: P,
    poller: Poller,
    rings: Vec<Events>,
    running: bool,
    alive: bool,
    /// The text of `info network`.
    text: String,
}

impl<P: Protocol> Served<P> {
    fn serve(protocol: P, text: &str) -> Result<Served<P>> {
        let poller = Poller::new()?;
        let sentence = || format!("{}: its descriptors cannot be polled", P::NAME);
        if let Some(link) = protocol.link() {
            poller.add(link, LINK).context(sentence)?;
        }
        let mut rings = Vec::new();
        for ring in 0..RINGS {
            let events = Events { kick: event(P::NAME)?, call: event(P::NAME)? };
            poller.add_event(&events.call, ring as u64).context(sentence)?;
            rings.push(events);
        }
        Ok(Served { protocol, poller, rings, running: false, alive: true, text: text.into() })
    }

    /// Readable when [`Vhost::called`] has something to say.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.poller.fd()
    }

    /// The rings are in the other side's hands.
    pub fn is_running(&self) -> bool {
        self.running
    }

    fn try_start(&mut self, features: u64, memory: &[Region], rings: &[Ring; RINGS]) -> Result<()> {
        self.protocol.set_features(features)?;
        self.protocol.set_memory(memory)?;
        for (index, (ring, events)) in rings.iter().zip(&self.rings).enumerate() {
            self.protocol.set_ring(index, ring, events)?;
        }
        self.protocol.enable(true)
    }

    fn try_stop(&mut self) -> Result<[u16; RINGS]> {
        self.protocol.enable(false)?;
        let mut next = [0; RINGS];
        for (index, next) in next.iter_mut().enumerate() {
            *next = self.protocol.next(index)?;
        }
        Ok(next)
    }

    /// Something was refused, or the connection has ended.
    fn failed(&mut self, why: &str) {
        self.running = false;
        if self.protocol.link().is_none() {
            // What was switched on already must not go on.
            let _ = self.protocol.enable(false);
        } else if std::mem::replace(&mut self.alive, false) {
            log::warn!("{}: {why}; the cable is unplugged", P::NAME);
        }
    }
}

impl<P: Protocol> Vhost for Served<P> {
    fn features(&self) -> u64 {
        self.protocol.features()
    }

    fn start(&mut self, features: u64, memory: &[Region], rings: &[Ring; RINGS]) -> Result<()> {
        if !self.alive || self.running {
            return Ok(());
        }
        if let Err(error) = self.try_start(features, memory, rings) {
            self.failed(&error.sentence());
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
            self.failed(&error.sentence());
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
            LINK => gone |= ready.closed,
            ring => called |= 1 << ring,
        });
        for (index, events) in self.rings.iter().enumerate() {
            // Readiness may be older than the last look.
            if called >> index & 1 != 0 && rustix::io::read(&events.call, &mut [0u8; 8]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock) {
                called &= !(1 << index);
            }
        }
        if gone {
            self.failed("the other process has left");
        }
        called
    }

    fn is_alive(&self) -> bool {
        self.alive
    }
}

#[cfg(test)]
pub mod driver;
