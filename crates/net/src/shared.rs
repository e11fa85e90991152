//! A back end that its card and a monitor share.
//!
//! The card has a [`Plug`], which is a back end like any other; the owner of the back ends keeps the [`Shared`] for
//! `info network`, `hostfwd_add` and `netdev_del`. After [`Shared::close`] a plug is an unplugged cable.
//!
//! Invariant: the lock is taken for one call of the back end; whoever holds it takes no other lock but the guest's rings.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spec::error::{Context, Error, Result};

use crate::backend::{Accepts, Backend, Guest, Nanos, Offload, Transmit};
use crate::vhost::Vhost;

type Cell = Arc<Mutex<Option<Box<dyn Backend>>>>;

/// The owner's side.
#[derive(Clone)]
pub struct Shared(Cell);

/// The card's side.
pub struct Plug {
    cell: Cell,
    /// A duplicate, so that a card may wait for it whatever becomes of the back end.
    event: Option<OwnedFd>,
}

fn lock(cell: &Cell) -> MutexGuard<'_, Option<Box<dyn Backend>>> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(backend: Box<dyn Backend>) -> Shared {
        Shared(Arc::new(Mutex::new(Some(backend))))
    }

    /// One end of the cable, for a card.
    pub fn plug(&self) -> Result<Plug> {
        let event = match lock(&self.0).as_ref().and_then(|b| b.event_fd()) {
            Some(fd) => Some(fd.try_clone_to_owned().context(|| "could not share a network back end".into())?),
            None => None,
        };
        Ok(Plug { cell: self.0.clone(), event })
    }

    /// Does something with the back end; `None` if it is closed.
    pub fn with<T>(&self, work: impl FnOnce(&mut dyn Backend) -> T) -> Option<T> {
        lock(&self.0).as_mut().map(|b| work(&mut **b))
    }

    /// Puts something in front of the back end, before it is plugged in.
    pub fn wrap(&self, work: impl FnOnce(Box<dyn Backend>) -> Result<Box<dyn Backend>>) -> Result<()> {
        let mut cell = lock(&self.0);
        let inner = cell.take().ok_or_else(|| Error::new("the network back end is closed"))?;
        *cell = Some(work(inner)?);
        Ok(())
    }

    /// Closes the host side.
    pub fn close(&self) {
        lock(&self.0).take();
    }
}

impl Backend for Plug {
    fn transmit(&mut self, now: Nanos, frame: &[u8], offload: Offload) -> Transmit {
        lock(&self.cell).as_mut().map_or(Transmit::Taken, |b| b.transmit(now, frame, offload))
    }

    fn poll(&mut self, now: Nanos, guest: &mut dyn Guest) {
        if let Some(backend) = lock(&self.cell).as_mut() {
            backend.poll(now, guest);
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.event.as_ref().map(|fd| fd.as_fd())
    }

    fn deadline(&self) -> Option<Nanos> {
        lock(&self.cell).as_ref().and_then(|b| b.deadline())
    }

    fn takes_offloads(&self) -> bool {
        lock(&self.cell).as_ref().is_some_and(|b| b.takes_offloads())
    }

    fn set_accepts(&mut self, accepts: Accepts) {
        if let Some(backend) = lock(&self.cell).as_mut() {
            backend.set_accepts(accepts);
        }
    }

    fn vhost(&mut self, work: &mut dyn FnMut(&mut dyn Vhost)) -> bool {
        lock(&self.cell).as_mut().is_some_and(|b| b.vhost(work))
    }

    fn summary(&self) -> String {
        lock(&self.cell).as_ref().map_or_else(String::new, |b| b.summary())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netdev::Netdev;
    use crate::testing::Taker;

    #[test]
    fn a_closed_back_end_is_an_unplugged_cable() {
        let shared = Shared::new(Netdev::parse("user,id=n").unwrap().open().unwrap());
        let mut plug = shared.plug().unwrap();
        assert!(plug.takes_offloads() && plug.event_fd().is_some());
        assert_eq!(plug.summary(), "net=10.0.2.0,restrict=off");
        shared.with(|b| b.hostfwd_add("tcp:127.0.0.1:0-:22")).unwrap().unwrap();
        assert!(shared.with(|b| b.usernet()).unwrap().unwrap().contains("TCP[HOST_FORWARD]"));
        shared.close();
        assert!(shared.with(|b| b.usernet()).is_none() && !plug.takes_offloads() && plug.deadline().is_none());
        assert_eq!(plug.transmit(Nanos(0), &[0; 60], Offload::default()), Transmit::Taken);
        plug.poll(Nanos(0), &mut Taker::new(0));
        assert!(shared.wrap(Ok).is_err());
    }

    #[test]
    fn only_a_user_network_forwards() {
        let shared = Shared::new(Netdev::parse("socket,id=n,listen=127.0.0.1:0").unwrap().open().unwrap());
        let text = shared.with(|b| b.hostfwd_add("tcp::0-:22")).unwrap().unwrap_err().to_string();
        assert_eq!(text, "invalid device specified");
        assert!(shared.with(|b| b.hostfwd_remove("tcp::0")).unwrap().is_err());
    }
}
