//! `-netdev hubport`: several cables in one hub; each frame goes to all the others.
//!
//! Invariant: at most [`MAX_QUEUE`] frames wait in one port; more are lost, as in a real hub.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use spec::error::{Context, Result};

use crate::backend::{Accepts, Backend, Guest, Nanos, Offload, Transmit};
use crate::poller::Poller;

pub const MAX_QUEUE: usize = 1024;
/// When to offer a frame again that a back end had no room for.
const RETRY: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Port {
    number: usize,
    queue: VecDeque<Arc<[u8]>>,
    wake: Arc<OwnedFd>,
}

type Ports = Arc<Mutex<Vec<Port>>>;

/// A hub by its number; ports are made with [`Hub::port`].
#[derive(Clone, Debug)]
pub struct Hub {
    pub id: u32,
    ports: Ports,
}

/// One port, into which a network card is plugged.
#[derive(Debug)]
pub struct HubPort {
    hub: Hub,
    number: usize,
    wake: Arc<OwnedFd>,
}

/// One port, into which another back end is plugged (`hubport,netdev=`).
pub struct HubLink {
    port: HubPort,
    backend: Box<dyn Backend>,
    poller: Poller,
    /// A frame that the back end had no room for.
    waiting: Option<Arc<[u8]>>,
}

fn lock(ports: &Ports) -> MutexGuard<'_, Vec<Port>> {
    // Queues of frames cannot be left half-changed.
    ports.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub fn new(id: u32) -> Hub {
        Hub { id, ports: Arc::default() }
    }

    pub fn port(&self) -> Result<HubPort> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context(|| format!("could not make a port of hub {}", self.id))?;
        let wake = Arc::new(wake);
        let mut ports = lock(&self.ports);
        let number = ports.last().map_or(0, |p| p.number + 1);
        ports.push(Port { number, queue: VecDeque::new(), wake: wake.clone() });
        drop(ports);
        Ok(HubPort { hub: self.clone(), number, wake })
    }

    /// Plugs a back end into the hub. The event loop drives the result with [`HubLink::run`].
    pub fn attach(&self, backend: Box<dyn Backend>) -> Result<HubLink> {
        let port = self.port()?;
        let poller = Poller::new()?;
        let sentence = || format!("could not plug a back end into hub {}", self.id);
        poller.add(port.wake.as_fd(), 0).context(sentence)?;
        if let Some(fd) = backend.event_fd() {
            poller.add(fd, 1).context(sentence)?;
        }
        Ok(HubLink { port, backend, poller, waiting: None })
    }
}

impl HubPort {
    fn send(&self, frame: &[u8]) {
        let frame: Arc<[u8]> = frame.into();
        for port in lock(&self.hub.ports).iter_mut().filter(|p| p.number != self.number) {
            if port.queue.len() < MAX_QUEUE {
                port.queue.push_back(frame.clone());
                // The counter is far from its limit; a full one would be readable all the same.
                let _ = rustix::io::write(&*port.wake, &1u64.to_ne_bytes());
            }
        }
    }

    /// The next frame for this port; clears the wake-up when there is none.
    fn next(&self) -> Option<Arc<[u8]>> {
        let mut ports = lock(&self.hub.ports);
        let port = ports.iter_mut().find(|p| p.number == self.number)?;
        let frame = port.queue.pop_front();
        if frame.is_none() {
            let _ = rustix::io::read(&*self.wake, &mut [0u8; 8]);
        }
        frame
    }

    fn put_back(&self, frame: Arc<[u8]>) {
        if let Some(port) = lock(&self.hub.ports).iter_mut().find(|p| p.number == self.number) {
            port.queue.push_front(frame);
        }
    }
}

impl Drop for HubPort {
    fn drop(&mut self) {
        lock(&self.hub.ports).retain(|p| p.number != self.number);
    }
}

impl Backend for HubPort {
    fn transmit(&mut self, _now: Nanos, frame: &[u8], _offload: Offload) -> Transmit {
        self.send(frame);
        Transmit::Taken
    }

    fn poll(&mut self, _now: Nanos, guest: &mut dyn Guest) {
        while guest.ready() {
            let Some(frame) = self.next() else { return };
            if !guest.deliver(&[&frame], Offload::default()) {
                return self.put_back(frame);
            }
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wake.as_fd())
    }

    fn deadline(&self) -> Option<Nanos> {
        None
    }

    /// The other ports may not understand offloads: frames in a hub are complete.
    fn set_accepts(&mut self, _accepts: Accepts) {}

    fn summary(&self) -> String {
        format!("hubid={}", self.hub.id)
    }
}

impl Guest for &HubPort {
    fn ready(&mut self) -> bool {
        true
    }

    fn deliver(&mut self, parts: &[&[u8]], _offload: Offload) -> bool {
        self.send(&parts.concat());
        true
    }
}

/// A thread that moves the frames between a hub and a back end until it is dropped.
pub struct HubDriver {
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for HubDriver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // A counter at its limit is readable as well.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl HubLink {
    /// Has a thread of its own do the work.
    pub fn drive(mut self) -> Result<HubDriver> {
        let sentence = || "could not start a thread for a hub".to_string();
        let wake = self.port.wake.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let shared = stop.clone();
        let start = Instant::now();
        let now = move || Nanos(start.elapsed().as_nanos() as u64);
        let work = move || {
            while !shared.load(Ordering::Acquire) {
                self.run(now());
                // A frame that the back end has no room for is offered again soon.
                let retry = self.waiting.as_ref().map(|_| RETRY);
                let timer = self.deadline().map(|at| at.since(now()));
                let wait = [retry, timer].into_iter().flatten().min();
                let timeout = wait.and_then(|w| Timespec::try_from(w).ok());
                let mut fds = [PollFd::from_borrowed_fd(self.event_fd(), PollFlags::IN)];
                // Interrupted or not, the next round finds out what there is to do.
                let _ = poll(&mut fds, timeout.as_ref());
            }
        };
        let thread = std::thread::Builder::new().name("hub".into()).spawn(work).context(sentence)?;
        Ok(HubDriver { stop, wake, thread: Some(thread) })
    }

    /// Moves frames between the hub and the back end.
    pub fn run(&mut self, now: Nanos) {
        self.poller.ready(|_| {});
        while let Some(frame) = self.waiting.take().or_else(|| self.port.next()) {
            if self.backend.transmit(now, &frame, Offload::default()) == Transmit::Full {
                self.waiting = Some(frame);
                break;
            }
        }
        self.backend.poll(now, &mut &self.port);
    }

    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.poller.fd()
    }

    pub fn deadline(&self) -> Option<Nanos> {
        self.backend.deadline()
    }

    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }
}
