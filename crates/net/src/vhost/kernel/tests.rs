//! A service of our own that really moves frames between the rings and a socket; the kernel's is tried in
//! `tests/namespace.rs` where there is one.

use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::*;
use crate::vhost::Vhost;
use crate::vhost::driver::{Driver, GUEST, HEADER as LONG};

/// What was asked, in order.
pub type Said = Arc<Mutex<Vec<String>>>;
pub const SECONDS: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

pub struct StandIn {
    said: Said,
    refuse: &'static str,
    header: bool,
    memory: File,
    cable: UnixDatagram,
    rings: Vec<Ring>,
    kicks: Vec<OwnedFd>,
    calls: Vec<OwnedFd>,
    worker: Option<(OwnedFd, JoinHandle<Worker>)>,
}

impl StandIn {
    /// And the other end of its cable.
    pub fn new(driver: &Driver, refuse: &'static str, header: bool) -> (StandIn, Said, UnixDatagram) {
        let (cable, other) = UnixDatagram::pair().unwrap();
        cable.set_nonblocking(true).unwrap();
        let (said, memory) = (Said::default(), driver.file.try_clone().unwrap());
        let lists = (Vec::new(), Vec::new(), Vec::new());
        let (rings, kicks, calls) = lists;
        (StandIn { said: said.clone(), refuse, header, memory, cable, rings, kicks, calls, worker: None }, said, other)
    }

    fn say(&self, text: String) -> IoResult<()> {
        let refused = !self.refuse.is_empty() && text.starts_with(self.refuse);
        self.said.lock().unwrap().push(text);
        if refused { Err(std::io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
    }

    fn halt(&mut self) {
        if let Some((stop, thread)) = self.worker.take() {
            rustix::io::write(&stop, &1u64.to_ne_bytes()).unwrap();
            self.rings = thread.join().unwrap().rings;
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Service for StandIn {
    fn set_owner(&mut self) -> IoResult<()> {
        self.say("owner".into())
    }
    fn features(&mut self) -> IoResult<u64> {
        self.say("features?".into()).map(|()| 1 << 26 | VIRTIO_NET_HDR | KERNEL | 1 << 33)
    }
    fn set_features(&mut self, features: u64) -> IoResult<()> {
        self.say(format!("features {features:#x}"))
    }
    fn set_memory(&mut self, memory: &[Place]) -> IoResult<()> {
        let rows: Vec<String> = memory.iter().map(|r| format!("{:#x}+{:#x}@{}", r.guest, r.len, r.offset)).collect();
        self.rings.clear();
        self.kicks.clear();
        self.calls.clear();
        self.say(format!("memory {}", rows.join(" ")))
    }
    fn set_ring(&mut self, index: usize, ring: &Ring) -> IoResult<()> {
        self.rings.push(*ring);
        self.say(format!("ring {index} size {} next {}", ring.size, ring.next))
    }
    fn set_busy_loop(&mut self, index: usize, microseconds: u32) -> IoResult<()> {
        self.say(format!("busy {index} {microseconds}"))
    }
    fn set_kick(&mut self, index: usize, event: BorrowedFd<'_>) -> IoResult<()> {
        self.kicks.push(event.try_clone_to_owned()?);
        self.say(format!("kick {index}"))
    }
    fn set_call(&mut self, index: usize, event: BorrowedFd<'_>) -> IoResult<()> {
        self.calls.push(event.try_clone_to_owned()?);
        self.say(format!("call {index}"))
    }
    fn set_backend(&mut self, index: usize, on: bool) -> IoResult<()> {
        if !on {
            self.halt();
        } else if index + 1 == RINGS {
            let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
            let worker = Worker {
                memory: self.memory.try_clone()?,
                cable: self.cable.try_clone()?,
                rings: self.rings.clone(),
                kicks: self.kicks.iter().map(|fd| fd.try_clone().unwrap()).collect(),
                calls: self.calls.iter().map(|fd| fd.try_clone().unwrap()).collect(),
            };
            let end = stop.try_clone()?;
            self.worker = Some((stop, spawn(move || worker.run(&end))));
        }
        self.say(format!("backend {index} {}", if on { "on" } else { "off" }))
    }
    fn ring_next(&mut self, index: usize) -> IoResult<u16> {
        self.say(format!("next {index}?")).map(|()| self.rings[index].next)
    }
    fn has_header(&self) -> bool {
        self.header
    }
    fn set_header(&mut self, bytes: usize) -> Result<()> {
        self.say(format!("header {bytes}")).context(|| "no header".into())
    }
}

/// Moves frames until it is told to stop.
struct Worker {
    memory: File,
    cable: UnixDatagram,
    rings: Vec<Ring>,
    kicks: Vec<OwnedFd>,
    calls: Vec<OwnedFd>,
}

impl Worker {
    fn run(mut self, stop: &OwnedFd) -> Worker {
        loop {
            let (idle, ended) = self.wait(stop);
            if ended {
                return self;
            }
            assert!(!idle, "nothing has happened for {} s", SECONDS.tv_sec);
            for fd in &self.kicks {
                let _ = rustix::io::read(fd, &mut [0u8; 8]);
            }
            while self.send() {}
            while self.receive() {}
        }
    }

    /// Frames wait in the socket while the driver has no buffers, whose coming is a kick.
    fn wait(&self, stop: &OwnedFd) -> (bool, bool) {
        let starved = self.entry(0).is_none();
        let mut fds: Vec<PollFd> = [&self.kicks[0], &self.kicks[1], stop].map(|fd| PollFd::new(fd, PollFlags::IN)).into();
        if !starved {
            fds.push(PollFd::new(&self.cable, PollFlags::IN));
        }
        let count = poll(&mut fds, Some(&SECONDS)).unwrap();
        (count == 0, fds[2].revents().contains(PollFlags::IN))
    }

    fn number<const N: usize>(&self, guest: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_exact_at(&mut bytes, guest - GUEST).unwrap();
        bytes
    }

    /// The next descriptor that the driver offers: its number, place and length.
    fn entry(&self, index: usize) -> Option<(u16, u64, u32)> {
        let ring = &self.rings[index];
        if u16::from_le_bytes(self.number(ring.available + 2)) == ring.next {
            return None;
        }
        let slot = u16::from_le_bytes(self.number(ring.available + 4 + 2 * u64::from(ring.next % ring.size)));
        let at = ring.descriptors + 16 * u64::from(slot);
        Some((slot, u64::from_le_bytes(self.number(at)), u32::from_le_bytes(self.number(at + 8))))
    }

    fn done(&mut self, index: usize, slot: u16, len: u32) {
        let ring = &mut self.rings[index];
        let element = [u32::from(slot).to_le_bytes(), len.to_le_bytes()].concat();
        let entry = ring.used - GUEST + 4 + 8 * u64::from(ring.next % ring.size);
        ring.next = ring.next.wrapping_add(1);
        self.memory.write_all_at(&element, entry).unwrap();
        self.memory.write_all_at(&ring.next.to_le_bytes(), ring.used - GUEST + 2).unwrap();
        rustix::io::write(&self.calls[index], &1u64.to_ne_bytes()).unwrap();
    }

    fn send(&mut self) -> bool {
        let Some((slot, at, len)) = self.entry(1) else { return false };
        let mut bytes = vec![0; len as usize];
        self.memory.read_exact_at(&mut bytes, at - GUEST).unwrap();
        self.cable.send(&bytes[LONG..]).unwrap();
        self.done(1, slot, 0);
        true
    }

    fn receive(&mut self) -> bool {
        let Some((slot, at, len)) = self.entry(0) else { return false };
        let mut bytes = vec![0; len as usize];
        let Ok(got) = self.cable.recv(&mut bytes[LONG..]) else { return false };
        self.memory.write_all_at(&bytes[..LONG + got], at - GUEST).unwrap();
        self.done(0, slot, (LONG + got) as u32);
        true
    }
}

pub const ACCEPTED: u64 = VERSION_1 | EVENT_IDX | MRG_RXBUF | ANY_LAYOUT | OFFLOADS;

#[test]
fn the_kernel_is_asked_in_order() {
    let driver = Driver::new(16);
    let (service, said, _cable) = StandIn::new(&driver, "", true);
    let mut vhost = VhostKernel::over(Box::new(service), 50).unwrap();
    assert_eq!(vhost.features(), KERNEL | ANY_LAYOUT | OFFLOADS);
    vhost.start(ACCEPTED, &driver.regions(), &driver.rings([3, 0])).unwrap();
    assert!(vhost.is_running() && vhost.is_alive());
    assert_eq!(vhost.stop(), [3, 0]);
    assert_eq!(vhost.stop(), [0, 0], "they are ours already");
    let expected = [
        "owner", "features?", "header 12", "features 0x120008000", "memory 0x40000000+0x100000@0",
        "ring 0 size 16 next 3", "busy 0 50", "kick 0", "call 0", "ring 1 size 16 next 0", "busy 1 50", "kick 1", "call 1",
        "backend 0 on", "backend 1 on", "backend 0 off", "backend 1 off", "header 10", "next 0?", "next 1?",
    ];
    assert_eq!(*said.lock().unwrap(), expected);
}

#[test]
fn a_driver_and_an_interface_decide_about_headers() {
    let driver = Driver::new(16);
    let said_of = |header: bool, accepted: u64| {
        let (service, said, _cable) = StandIn::new(&driver, "", header);
        let mut vhost = VhostKernel::over(Box::new(service), 0).unwrap();
        let offered = vhost.features() & OFFLOADS != 0;
        vhost.start(accepted, &driver.regions(), &driver.rings([0; RINGS])).unwrap();
        drop(vhost);
        let said = said.lock().unwrap();
        (offered, said[2..4].join(", "))
    };
    // An old driver without merged buffers, whose bit 27 is not the kernel's.
    assert_eq!(said_of(true, ANY_LAYOUT), (true, "header 10, features 0x0".into()));
    assert_eq!(said_of(false, VERSION_1), (false, "features 0x108000000, memory 0x40000000+0x100000@0".into()));
}

#[test]
fn frames_travel_through_rings_that_are_handed_over_twice() {
    const FRAMES: usize = 3000;
    let mut driver = Driver::new(16);
    let (service, _, other) = StandIn::new(&driver, "", true);
    let echo = spawn(move || {
        let mut bytes = [0; 2048];
        for _ in 0..FRAMES {
            let got = other.recv(&mut bytes).unwrap();
            other.send(&bytes[..got]).unwrap();
        }
    });
    let frame = |number: usize| -> Vec<u8> { (0..60 + number % 1400).map(|at| (at * 7 + number * 13) as u8).collect() };
    let mut vhost = VhostKernel::over(Box::new(service), 0).unwrap();
    vhost.start(ACCEPTED, &driver.regions(), &driver.rings([0; RINGS])).unwrap();
    let (mut sent, mut got) = (0, 0);
    while got < FRAMES {
        // No more on the way than the sockets hold.
        while sent < FRAMES && sent - got < 8 && driver.send(&frame(sent)) {
            sent += 1;
        }
        vhost.kick(1);
        let mut buffers = false;
        while let Some(bytes) = driver.receive() {
            assert!(bytes == frame(got), "frame {got} was changed");
            (got, buffers) = (got + 1, true);
            if got == FRAMES / 2 {
                let next = vhost.stop();
                assert!(usize::from(next[0]) >= got && usize::from(next[1]) <= sent, "{next:?}");
                vhost.start(ACCEPTED, &driver.regions(), &driver.rings(next)).unwrap();
            }
        }
        if buffers {
            vhost.kick(0);
        } else if got < sent {
            let fd = vhost.event_fd();
            assert_eq!(poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&SECONDS)).unwrap(), 1, "after {got}");
            vhost.called();
        }
    }
    echo.join().unwrap();
    assert_eq!(vhost.stop(), [FRAMES as u16, FRAMES as u16]);
}

#[test]
fn what_the_kernel_refuses_is_an_error_that_leaves_the_cable() {
    let driver = Driver::new(16);
    for (refuse, error) in [
        ("features 0x", "vhost-net: features were refused"),
        ("memory", "vhost-net: the guest's memory was refused"),
        ("call 1", "vhost-net: ring 1 was refused"),
        ("backend 1 on", "vhost-net: ring 1 could not be switched"),
    ] {
        let (service, said, _cable) = StandIn::new(&driver, refuse, true);
        let mut vhost = VhostKernel::over(Box::new(service), 0).unwrap();
        let failure = vhost.start(ACCEPTED, &driver.regions(), &driver.rings([0; RINGS])).unwrap_err();
        assert_eq!(failure.sentence(), error);
        assert!(vhost.is_alive() && !vhost.is_running());
        let last = said.lock().unwrap().iter().rev().take(3).rev().cloned().collect::<Vec<_>>();
        assert_eq!(last, ["backend 0 off", "backend 1 off", "header 10"]);
    }
    for refuse in ["owner", "features?"] {
        let (service, ..) = StandIn::new(&driver, refuse, true);
        let failure = VhostKernel::over(Box::new(service), 0).map(|_| ()).unwrap_err();
        assert_eq!(failure.sentence(), "vhost-net requested but could not be initialized");
    }
}
