//! A PCI network card around a chip: registers behind base addresses, the cable, and the thread that moves frames.
//!
//! Invariants: a chip's methods run with the card's lock held, for a bounded piece of work; only RAM is touched by DMA.
//! Not modelled: DMA does not depend on the bus master bit (messages do); frame check sequences are made up, because
//! cables carry none.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use fabric::{AddressSpace, MmioTarget, MsiSink};
use net::{Accepts, Backend, Guest, Mac, Nanos, Offload, Transmit};

use super::thread::{self, Wake};
use crate::event::{GUEST_ERROR, Limit};
use crate::pci::{Behaviour, Signal};
use crate::virtio::memory::Memory;

/// What a card is made of, besides its chip.
pub struct Parts {
    pub mac: Mac,
    pub backend: Option<Box<dyn Backend>>,
    pub space: Arc<AddressSpace>,
    pub messages: Arc<dyn MsiSink>,
    /// An expansion ROM.
    pub rom: Option<Vec<u8>>,
}

/// The shortest frame without its check sequence; shorter ones are padded on their way.
pub const FRAME_MIN: usize = 60;
/// The check sequence of an address, least significant bit first and not complemented: filters of multicast addresses choose
/// by some of its bits.
pub fn check_sequence(address: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in address {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 };
        }
    }
    crc
}

/// How often to look whether the driver has given buffers again; the back end's timers wait as long.
const STARVED_WAIT: Duration = Duration::from_millis(10);
/// When to offer a frame again that the back end had no room for.
const FULL_WAIT: Duration = Duration::from_millis(1);

/// What a chip reaches besides its registers.
pub struct Wires {
    pub memory: Memory,
    pub signal: Arc<Signal>,
    pub now: Nanos,
    pub link_up: bool,
    /// The chip asks for the thread: there is something to send, or room for frames.
    pub poke: bool,
    /// The chip wants to send before the driver's write is over, so that what the driver sees is not a thread's doing.
    pub send: bool,
    name: &'static str,
    limit: Limit,
}

impl Wires {
    /// The guest did something that makes no sense.
    pub fn report(&self, what: std::fmt::Arguments) {
        if self.limit.admit() {
            log::warn!(target: GUEST_ERROR, "{}: {what}", self.name);
        }
    }
}

/// What became of an attempt to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// There is nothing more.
    All,
    /// There may be more.
    Some,
    /// The cable is full; the frame is to be offered again.
    Full,
}

/// The far end.
pub struct Cable {
    backend: Option<Box<dyn Backend>>,
    up: bool,
}

impl Cable {
    /// A cable with something at its other end; without, it is unplugged.
    pub fn new(backend: Option<Box<dyn Backend>>) -> Cable {
        Cable { up: backend.is_some(), backend }
    }

    pub fn takes_offloads(&self) -> bool {
        self.backend.as_ref().is_some_and(|b| b.takes_offloads())
    }

    /// Sends a frame; an unplugged cable loses it.
    pub fn transmit(&mut self, now: Nanos, frame: &[u8], offload: Offload) -> Transmit {
        match &mut self.backend {
            Some(backend) if self.up => backend.transmit(now, frame, offload),
            _ => Transmit::Taken,
        }
    }
}

/// What makes a card of a certain kind.
pub trait Chip: Send {
    fn name(&self) -> &'static str;
    fn read(&mut self, w: &mut Wires, region: usize, offset: u64, size: u8) -> u64;
    fn write(&mut self, w: &mut Wires, region: usize, offset: u64, size: u8, value: u64);
    /// Sends some of what the driver has queued.
    fn send(&mut self, w: &mut Wires, cable: &mut Cable) -> Sent;
    /// Whether a frame can be taken now (or need not be, because nobody listens).
    fn ready(&mut self, w: &mut Wires) -> bool;
    /// Stores a frame of at least [`FRAME_MIN`] bytes, or drops it; false: no room for it now.
    fn receive(&mut self, w: &mut Wires, frame: &[u8]) -> bool;
    /// After each piece of work: timers, interrupts.
    fn update(&mut self, w: &mut Wires);
    /// When `update` wants to run even if nothing happens.
    fn deadline(&self) -> Option<Nanos> {
        None
    }
    /// The cable was plugged in or out: `w.link_up`.
    fn link_changed(&mut self, w: &mut Wires);
    fn reset(&mut self, w: &mut Wires);
}

struct Inner {
    chip: Box<dyn Chip>,
    wires: Wires,
    cable: Cable,
    start: Instant,
    /// A frame in one piece.
    frame: Vec<u8>,
    /// The chip's deadline that the thread knows of.
    planned: Option<Nanos>,
}

pub struct Card {
    inner: Mutex<Inner>,
    wake: OnceLock<Option<Arc<Wake>>>,
}

impl Card {
    /// Makes the card and starts its thread. Without a back end its cable is unplugged.
    pub fn new(chip: Box<dyn Chip>, backend: Option<Box<dyn Backend>>, space: Arc<AddressSpace>, signal: Arc<Signal>) -> Arc<Card> {
        let cable = Cable::new(backend);
        let name = chip.name();
        let wires =
            Wires { memory: Memory::new(space), signal, now: Nanos(0), link_up: cable.up, poke: false, send: false, name, limit: Limit::default() };
        let mut inner = Inner { chip, wires, cable, start: Instant::now(), frame: Vec::new(), planned: None };
        if let Some(backend) = &mut inner.cable.backend {
            backend.set_accepts(Accepts::default());
        }
        inner.chip.reset(&mut inner.wires);
        let card = Arc::new(Card { inner: Mutex::new(inner), wake: OnceLock::new() });
        card.attach(name);
        card
    }

    fn attach(self: &Arc<Card>, name: &str) {
        let weak = Arc::downgrade(self);
        let inner = self.lock();
        let fd = inner.cable.backend.as_ref().and_then(|b| b.event_fd());
        let work = move || weak.upgrade().is_some_and(|card| {
            card.work();
            true
        });
        let wake = thread::start(name, work, fd);
        drop(inner);
        assert!(self.wake.set(wake).is_ok(), "a card starts once");
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the chip do something on the driver's behalf.
    fn with<T>(&self, work: impl FnOnce(&mut dyn Chip, &mut Wires) -> T) -> T {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.prepare();
        let result = work(&mut *inner.chip, &mut inner.wires);
        if std::mem::take(&mut inner.wires.send) {
            let _ = inner.chip.send(&mut inner.wires, &mut inner.cable);
            // The thread has the far end take it up, and sends what is left.
            inner.wires.poke = true;
        }
        inner.chip.update(&mut inner.wires);
        let deadline = inner.chip.deadline();
        let sooner = deadline.is_some() && deadline != inner.planned;
        inner.planned = deadline;
        if std::mem::take(&mut inner.wires.poke) || sooner {
            match self.wake.get() {
                Some(Some(wake)) => wake.wake(),
                // No thread: the driver's own does it.
                _ => {
                    inner.slice();
                }
            }
        }
        result
    }

    /// One turn of the thread.
    pub(super) fn work(&self) {
        let mut inner = self.lock();
        inner.prepare();
        let (wait, listen) = inner.slice();
        if let Some(Some(wake)) = self.wake.get() {
            wake.plan(wait, listen);
        }
    }

    /// Plugs the cable in or out.
    pub fn set_link(&self, up: bool) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.prepare();
        if inner.cable.up != up {
            inner.cable.up = up;
            inner.wires.link_up = up && inner.cable.backend.is_some();
            inner.chip.link_changed(&mut inner.wires);
            inner.chip.update(&mut inner.wires);
            if let Some(Some(wake)) = self.wake.get() {
                wake.wake();
            }
        }
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        if let Some(Some(wake)) = self.wake.get() {
            wake.stop();
        }
    }
}

impl Inner {
    fn prepare(&mut self) {
        self.wires.memory.refresh();
        self.wires.now = Nanos(self.start.elapsed().as_nanos() as u64);
    }

    /// Moves frames. When to come back, and whether to listen to the back end meanwhile.
    fn slice(&mut self) -> (Option<Duration>, bool) {
        let Inner { chip, wires, cable, frame, .. } = self;
        let sent = chip.send(wires, cable);
        if cable.up && let Some(backend) = &mut cable.backend {
            backend.poll(wires.now, &mut Delivery { chip: &mut **chip, wires, frame });
        }
        chip.update(wires);
        let starved = !chip.ready(wires);
        let since = |at: Nanos| at.since(wires.now);
        let backend = cable.backend.as_ref().filter(|_| cable.up).and_then(|b| b.deadline()).map(since);
        // Some chips are not told of new buffers, they have to look.
        let backend = if starved { Some(STARVED_WAIT) } else { backend };
        let retry = match sent {
            Sent::All => None,
            Sent::Some => Some(Duration::ZERO),
            Sent::Full => Some(FULL_WAIT),
        };
        let wait = [backend, retry, chip.deadline().map(since)].into_iter().flatten().min();
        wires.poke = false;
        self.planned = chip.deadline();
        (wait, !starved && cable.up)
    }
}

/// The card as its back end sees it.
struct Delivery<'a> {
    chip: &'a mut dyn Chip,
    wires: &'a mut Wires,
    frame: &'a mut Vec<u8>,
}

impl Guest for Delivery<'_> {
    fn ready(&mut self) -> bool {
        self.chip.ready(self.wires)
    }

    fn deliver(&mut self, parts: &[&[u8]], _offload: Offload) -> bool {
        self.frame.clear();
        parts.iter().for_each(|part| self.frame.extend_from_slice(part));
        if self.frame.len() < FRAME_MIN {
            self.frame.resize(FRAME_MIN, 0);
        }
        self.chip.receive(self.wires, self.frame)
    }
}

/// What a base address leads to.
pub struct Window {
    pub card: Arc<Card>,
    pub region: usize,
}

impl MmioTarget for Window {
    fn read(&self, offset: u64, size: u8) -> u64 {
        self.card.with(|chip, w| chip.read(w, self.region, offset, size))
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        self.card.with(|chip, w| chip.write(w, self.region, offset, size, value));
    }
}

/// A bus reset reaches the chip.
pub struct Resets(pub Arc<Card>);

impl Behaviour for Resets {
    fn reset(&self) {
        self.0.with(|chip, w| chip.reset(w));
    }
}
