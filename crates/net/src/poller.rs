//! The one descriptor behind which all host sockets of a back end hide: an edge-triggered epoll.
//!
//! Sockets are registered once, for both directions; owners remember readiness until a call says
//! "would block". So there is no system call to change interest, however many connections there are.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};
use spec::error::{Context, Result};

#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// What [`Poller::add`] was given.
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
    /// The peer has ended its side, or the connection is broken.
    pub closed: bool,
}

/// Events fetched with one system call.
const BATCH: usize = 256;

#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub fn new() -> Result<Poller> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .context(|| "could not create an epoll descriptor for the network".into())?;
        Ok(Poller { epoll })
    }

    /// Registers a socket; closing it removes it again.
    pub fn add(&self, socket: impl AsFd, token: u64) -> std::io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(token), flags)?;
        Ok(())
    }

    /// Registers an event descriptor: an event for each time that it is written to. (As a socket it would have another one
    /// for each time that it is read.)
    pub fn add_event(&self, event: impl AsFd, token: u64) -> std::io::Result<()> {
        epoll::add(&self.epoll, event, epoll::EventData::new_u64(token), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        Ok(())
    }

    /// Registers another poller: readable as long as that one is, whoever looks.
    pub fn add_poller(&self, inner: BorrowedFd<'_>, token: u64) -> std::io::Result<()> {
        epoll::add(&self.epoll, inner, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        Ok(())
    }

    /// Forgets a descriptor that stays open.
    pub fn remove(&self, socket: impl AsFd) -> std::io::Result<()> {
        epoll::delete(&self.epoll, socket)?;
        Ok(())
    }

    /// What became ready since the last call, without waiting.
    pub fn ready(&self, mut each: impl FnMut(Ready)) {
        loop {
            let mut events = [MaybeUninit::uninit(); BATCH];
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            // Only a signal can interrupt this; the descriptor stays readable for the next round.
            let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, Some(&zero)) else { return };
            for event in events.iter() {
                let (flags, data) = (event.flags, event.data);
                let broken = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
                each(Ready {
                    token: data.u64(),
                    readable: broken || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
                    closed: broken || flags.intersects(epoll::EventFlags::RDHUP),
                    writable: broken || flags.intersects(epoll::EventFlags::OUT),
                });
            }
            if events.len() < BATCH {
                return;
            }
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
