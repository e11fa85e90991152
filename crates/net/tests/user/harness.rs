//! A guest made of an independent TCP/IP stack (smoltcp's), cabled to the engine under test.
//!
//! Time is the host's clock plus what a test adds with [`World::advance`]; waiting is `poll(2)` on the
//! engine's descriptor, so nothing sleeps blindly.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use net::user::{Config, Resolvers, UserNet};
use net::{Accepts, Backend, Guest, Nanos, Offload, Segmentation, Transmit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, Ipv4Address, Ipv6Address};

pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
pub const GUEST4: IpAddress = IpAddress::Ipv4(Ipv4Address::new(10, 0, 2, 15));
pub const HOST4: IpAddress = IpAddress::Ipv4(Ipv4Address::new(10, 0, 2, 2));
pub const DNS4: IpAddress = IpAddress::Ipv4(Ipv4Address::new(10, 0, 2, 3));
pub const GUEST6: IpAddress = IpAddress::Ipv6(Ipv6Address::new(0xfec0, 0, 0, 0, 0, 0, 0, 0x15));
pub const HOST6: IpAddress = IpAddress::Ipv6(Ipv6Address::new(0xfec0, 0, 0, 0, 0, 0, 0, 2));

/// Nothing that a test of the core set waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Frames that fit the guest's receive ring.
const RING: usize = 64;

/// The guest's network card: a bounded receive ring, and what the stack wants to send.
#[derive(Default)]
pub struct Card {
    pub received: VecDeque<Vec<u8>>,
    pub sent: VecDeque<Vec<u8>>,
    pub offload: bool,
    /// Every nth frame to the guest is lost.
    pub lose: Option<usize>,
    /// Pretend that the ring is full.
    pub stalled: bool,
    pub delivered: usize,
    pub large: usize,
    pub mtu: usize,
    /// Everything that was on the cable, if a test wants it.
    pub capture: Option<Vec<Vec<u8>>>,
}

impl Guest for Card {
    fn ready(&mut self) -> bool {
        !self.stalled && self.received.len() < RING
    }

    fn deliver(&mut self, parts: &[&[u8]], offload: Offload) -> bool {
        if !self.ready() {
            return false;
        }
        let frame = parts.concat();
        self.delivered += 1;
        if self.offload {
            self.large += usize::from(offload.segmentation != Segmentation::None);
        } else {
            assert_eq!(offload, Offload::default(), "nothing was negotiated");
            assert!(frame.len() <= self.mtu + 14, "{} bytes on a cable of {}", frame.len(), self.mtu);
        }
        if let Some(capture) = &mut self.capture {
            capture.push(frame.clone());
        }
        if self.lose.is_none_or(|n| !self.delivered.is_multiple_of(n)) {
            self.received.push_back(frame);
        }
        true
    }
}

impl phy::Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sender<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sender(&mut self.sent)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        if self.offload {
            capabilities.checksum.tcp = Checksum::None;
            capabilities.checksum.udp = Checksum::None;
        }
        capabilities
    }
}

pub struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub struct Sender<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

pub struct World {
    pub net: UserNet,
    pub card: Card,
    pub stack: Interface,
    pub sockets: SocketSet<'static>,
    start: Instant,
    skew: Duration,
    port: u16,
    /// Frames from the guest change places: each pair is swapped.
    pub reorder: bool,
    /// Nothing that is waited for takes longer.
    pub patience: Duration,
    /// What the cable makes of a frame from the guest.
    pub cable: Option<Cable>,
}

/// One frame becomes any number of frames.
pub type Cable = Box<dyn FnMut(Vec<u8>) -> Vec<Vec<u8>>>;

impl World {
    pub fn new(options: &str) -> World {
        World::with(options, Vec::new(), |_| {})
    }

    /// A world with addresses set, as if DHCP had run.
    pub fn with(options: &str, resolvers: Vec<std::net::SocketAddr>, change: impl FnOnce(&mut Card)) -> World {
        let mut world = World::bare(options, resolvers, change);
        world.stack.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(GUEST4, 24)).unwrap();
            addresses.push(IpCidr::new(GUEST6, 64)).unwrap();
        });
        let IpAddress::Ipv4(router4) = HOST4 else { unreachable!() };
        let IpAddress::Ipv6(router6) = HOST6 else { unreachable!() };
        world.stack.routes_mut().add_default_ipv4_route(router4).unwrap();
        world.stack.routes_mut().add_default_ipv6_route(router6).unwrap();
        world
    }

    /// A guest that does not know its address.
    pub fn bare(options: &str, resolvers: Vec<std::net::SocketAddr>, change: impl FnOnce(&mut Card)) -> World {
        let mut config = Config::parse(options).unwrap();
        let mut card = Card { mtu: 1500, ..Card::default() };
        change(&mut card);
        config.mtu = card.mtu;
        let mut net = UserNet::with_resolvers(config, Resolvers::Fixed(resolvers)).unwrap();
        if card.offload {
            net.set_accepts(Accepts { checksum: true, tcp4: true, tcp6: true });
        }
        let address = HardwareAddress::Ethernet(EthernetAddress(GUEST_MAC));
        let mut config = InterfaceConfig::new(address);
        config.random_seed = 42;
        let stack = Interface::new(config, &mut card, smoltcp::time::Instant::ZERO);
        World {
            net,
            card,
            stack,
            sockets: SocketSet::new(Vec::new()),
            start: Instant::now(),
            skew: Duration::ZERO,
            port: 40000,
            reorder: false,
            patience: PATIENCE,
            cable: None,
        }
    }

    pub fn now(&self) -> Nanos {
        Nanos((self.start.elapsed() + self.skew).as_nanos() as u64)
    }

    /// Lets time pass at once, and whatever is due happen.
    pub fn advance(&mut self, by: Duration) {
        self.skew += by;
        self.turn();
    }

    pub fn send_frame(&mut self, frame: &[u8]) {
        let offload = if self.card.offload {
            Offload { checksum: net::Checksum::Valid, ..Offload::default() }
        } else {
            Offload::default()
        };
        if let Some(capture) = &mut self.card.capture {
            capture.push(frame.to_vec());
        }
        let now = self.now();
        assert_eq!(self.net.transmit(now, frame, offload), Transmit::Taken);
    }

    /// One round of everything. True if a frame moved.
    pub fn turn(&mut self) -> bool {
        let now = self.now();
        let time = smoltcp::time::Instant::from_micros((now.0 / 1000) as i64);
        let waiting = self.card.received.len();
        self.stack.poll(time, &mut self.card, &mut self.sockets);
        let mut frames: Vec<Vec<u8>> = self.card.sent.drain(..).collect();
        if self.reorder {
            frames.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
        }
        let moved = waiting > 0 || !frames.is_empty();
        if let Some(cable) = &mut self.cable {
            frames = frames.into_iter().flat_map(cable).collect();
        }
        for frame in frames {
            self.send_frame(&frame);
        }
        let now = self.now();
        self.net.poll(now, &mut self.card);
        moved || !self.card.received.is_empty()
    }

    /// Runs until a test's condition holds.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < self.patience, "waited in vain: {what}\n{:?}\n{}", self.net.stats(), self.net.usernet().unwrap());
            if !self.turn() {
                self.wait(Duration::from_millis(20));
            }
        }
    }

    /// Runs for a while, for what must not happen.
    pub fn settle(&mut self) {
        let mut idle = 0;
        while idle < 3 {
            idle = if self.turn() { 0 } else { idle + 1 };
            self.wait(Duration::from_millis(5));
        }
    }

    fn wait(&mut self, most: Duration) {
        let now = self.now();
        let time = smoltcp::time::Instant::from_micros((now.0 / 1000) as i64);
        let stack = self.stack.poll_delay(time, &self.sockets).map_or(most, |d| Duration::from_micros(d.total_micros()));
        let engine = self.net.deadline().map_or(most, |at| at.since(now));
        let wait = most.min(stack).min(engine);
        let timeout = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as i64 };
        let fd = self.net.event_fd().expect("the engine has one");
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)).unwrap();
    }

    fn new_port(&mut self) -> u16 {
        self.port = if self.port == u16::MAX { 40001 } else { self.port + 1 };
        self.port
    }

    pub fn tcp_socket(&mut self, buffer: usize) -> SocketHandle {
        let ring = || tcp::SocketBuffer::new(vec![0; buffer]);
        self.sockets.add(tcp::Socket::new(ring(), ring()))
    }

    /// Starts a connection from the guest.
    pub fn connect(&mut self, to: impl Into<IpEndpoint>, buffer: usize) -> SocketHandle {
        let handle = self.tcp_socket(buffer);
        let port = self.new_port();
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.set_ack_delay(None);
        socket.connect(self.stack.context(), to.into(), port).unwrap();
        handle
    }

    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let handle = self.tcp_socket(65536);
        self.tcp(handle).listen(port).unwrap();
        handle
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut::<tcp::Socket>(handle)
    }

    pub fn udp_socket(&mut self) -> SocketHandle {
        let ring = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 256 * 1024]);
        let port = self.new_port();
        let mut socket = udp::Socket::new(ring(), ring());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut::<udp::Socket>(handle)
    }

    pub fn established(&mut self, handle: SocketHandle) {
        self.until("established", |w| w.tcp(handle).state() == tcp::State::Established);
    }

    /// Sends all of `data` from the guest.
    pub fn write(&mut self, handle: SocketHandle, mut data: &[u8]) {
        self.until("written", |w| {
            if w.tcp(handle).can_send() {
                let n = w.tcp(handle).send_slice(data).unwrap();
                data = &data[n..];
            }
            data.is_empty()
        });
    }

    /// Receives in the guest until there are `length` bytes.
    pub fn read(&mut self, handle: SocketHandle, length: usize) -> Vec<u8> {
        let mut data = Vec::new();
        self.until("read", |w| {
            w.drain(handle, &mut data);
            data.len() >= length
        });
        data
    }

    /// Receives in the guest until the peer closes.
    pub fn read_to_end(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut data = Vec::new();
        self.until("read to the end", |w| {
            w.drain(handle, &mut data);
            !w.tcp(handle).may_recv()
        });
        data
    }

    pub fn drain(&mut self, handle: SocketHandle, data: &mut Vec<u8>) {
        let socket = self.tcp(handle);
        while socket.can_recv() {
            let part = socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap();
            data.extend(part);
        }
    }

    /// Sends a datagram from the guest and returns the first answer and where it came from.
    pub fn ask(&mut self, handle: SocketHandle, to: impl Into<IpEndpoint>, data: &[u8]) -> (Vec<u8>, IpEndpoint) {
        self.udp(handle).send_slice(data, to.into()).unwrap();
        self.until("an answer", |w| w.udp(handle).can_recv());
        let (data, meta) = self.udp(handle).recv().unwrap();
        (data.to_vec(), meta.endpoint)
    }
}

/// Bytes that differ everywhere.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut data = Vec::with_capacity(length + 8);
    while data.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend(state.to_le_bytes());
    }
    data.truncate(length);
    data
}
