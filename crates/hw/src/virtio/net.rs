//! Network card in front of a back end.
//!
//! Reference: VIRTIO 1.2, 5.1.
//! Not modelled: several queue pairs, UDP fragmentation offload, guest announcements, receive-side scaling.
//!
//! Frames move on the device's own thread; a notification only wakes it. It takes the device's lock for a slice of
//! work at a time.

pub mod control;
pub mod header;
pub mod receive;
mod vhost;

use std::sync::Arc;
use std::time::{Duration, Instant};

use net::{Accepts, Backend, Mac, Nanos, Transmit};

use self::control::Filter;
use self::header::Header;
use self::receive::Receiver;
use super::device::{Core, Handle, Model};
use super::id;
use super::ring::{Chain, Cursor, Fault};
use crate::event::{GUEST_ERROR, Limit};
use crate::net::thread::{self, Wake};

const RX: usize = 0;
const TX: usize = 1;
const CTRL: usize = 2;
const CTRL_SIZE: u16 = 64;
/// Frames that are sent with the lock held once.
const SLICE: usize = 64;
/// How long a back end's timers may wait for a driver without buffers.
const STARVED_WAIT: Duration = Duration::from_millis(10);
/// When to offer a frame again that the back end had no room for.
const FULL_WAIT: Duration = Duration::from_millis(1);

/// Feature bits.
pub mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 17;
    pub const CTRL_RX: u64 = 1 << 18;
    pub const CTRL_VLAN: u64 = 1 << 19;
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;
    pub const SPEED_DUPLEX: u64 = 1 << 63;
    /// What a driver may switch while it runs.
    pub const OFFLOADS: u64 = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;
    /// What needs a back end that understands unfinished frames.
    pub const NEED_OFFLOADS: u64 = CSUM | OFFLOADS | CTRL_GUEST_OFFLOADS | HOST_TSO4 | HOST_TSO6;
    /// What makes no sense without the control queue.
    pub const NEED_CTRL: u64 = CTRL_RX | CTRL_VLAN | CTRL_RX_EXTRA | CTRL_MAC_ADDR | CTRL_GUEST_OFFLOADS;
}

const STATUS_LINK_UP: u16 = 1;

/// What `-device` decides.
#[derive(Clone, Debug)]
pub struct Options {
    pub mac: Mac,
    pub rx_queue_size: u16,
    pub tx_queue_size: u16,
    /// Which of the features above may be offered.
    pub features: u64,
    /// 0: not told to the guest.
    pub mtu: u16,
    /// Megabits a second and full duplex (1) or half (0), told to the guest if known.
    pub speed: Option<u32>,
    pub duplex: Option<bool>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mac: net::DEFAULT_MAC,
            rx_queue_size: 256,
            tx_queue_size: 256,
            features: !(feature::MTU | feature::SPEED_DUPLEX),
            mtu: 0,
            speed: None,
            duplex: None,
        }
    }
}

pub struct Net {
    options: Options,
    backend: Option<Box<dyn Backend>>,
    link_up: bool,
    mac: Mac,
    filter: Filter,
    /// Which offloads of received frames are on now.
    offloads: u64,
    receiver: Receiver,
    /// A frame that the back end had no room for.
    waiting: Option<Chain>,
    start: Instant,
    wake: Option<Arc<Wake>>,
    frame: Vec<u8>,
    limit: Limit,
    /// The back end serves the rings itself.
    vhost: Option<vhost::Rings>,
}

impl Net {
    /// A card; without a back end its cable is unplugged.
    pub fn new(backend: Option<Box<dyn Backend>>, options: Options) -> Net {
        let mut backend = backend.map(net::finish::Finish::around);
        let vhost = backend.as_mut().and_then(|b| vhost::Rings::of(&mut **b));
        let mac = options.mac;
        Net {
            link_up: backend.is_some(),
            options,
            backend,
            mac,
            filter: Filter::new(),
            offloads: 0,
            receiver: Receiver::default(),
            waiting: None,
            start: Instant::now(),
            wake: None,
            frame: Vec::new(),
            limit: Limit::default(),
            vhost,
        }
    }

    fn now(&self) -> Nanos {
        Nanos(self.start.elapsed().as_nanos() as u64)
    }

    fn report(&self, what: std::fmt::Arguments) {
        if self.limit.admit() {
            log::warn!(target: GUEST_ERROR, "virtio-net: {what}");
        }
    }

    /// Tells the back end which unfinished frames the driver takes.
    fn set_offloads(&mut self, offloads: u64) {
        self.offloads = offloads;
        let has = |bit| offloads & bit != 0;
        let accepts =
            Accepts { checksum: has(feature::GUEST_CSUM), tcp4: has(feature::GUEST_TSO4), tcp6: has(feature::GUEST_TSO6) };
        if let Some(backend) = &mut self.backend {
            backend.set_accepts(accepts);
        }
    }

    fn wake_thread(&self) {
        if let Some(wake) = &self.wake {
            wake.wake();
        }
    }

    /// Sends frames; whether there may be more.
    fn send(&mut self, core: &mut Core) -> Result<bool, Fault> {
        let now = self.now();
        let mut more = false;
        for n in 0.. {
            if n == SLICE {
                more = true;
                break;
            }
            let chain = match self.waiting.take() {
                Some(chain) => chain,
                None => match core.pop(TX)? {
                    Some(chain) => chain,
                    None => break,
                },
            };
            if self.send_one(core, &chain, now)? == Transmit::Full {
                self.waiting = Some(chain);
                break;
            }
            core.put(TX, chain.head, 0)?;
        }
        core.finish(TX)?;
        Ok(more)
    }

    fn send_one(&mut self, core: &Core, chain: &Chain, now: Nanos) -> Result<Transmit, Fault> {
        let header_len = header::len(core);
        let mut from = Cursor::new(chain.readable());
        if from.left() < header_len as u64 {
            return Err(Fault("a frame has no header"));
        }
        let mut bytes = [0; header::LEN];
        from.read(&core.memory, &mut bytes[..header_len])?;
        let len = from.left();
        if len > net::backend::MAX_FRAME as u64 {
            self.report(format_args!("a frame of {len} bytes is dropped"));
            return Ok(Transmit::Taken);
        }
        self.frame.resize(len as usize, 0);
        from.read(&core.memory, &mut self.frame)?;
        let Some(offload) = Header::decode(&bytes).offload(&self.frame, core) else {
            self.report(format_args!("a frame whose header makes no sense is dropped"));
            return Ok(Transmit::Taken);
        };
        Ok(match &mut self.backend {
            Some(backend) if self.link_up => backend.transmit(now, &self.frame, offload),
            _ => Transmit::Taken,
        })
    }

    /// Lets the back end deliver frames.
    fn receive(&mut self, core: &mut Core) -> Result<(), Fault> {
        let now = self.now();
        let Some(backend) = self.backend.as_mut().filter(|_| self.link_up) else { return Ok(()) };
        let mut guest = receive::Delivery::new(core, &mut self.receiver, &self.filter, self.mac, self.offloads);
        backend.poll(now, &mut guest);
        guest.finish()
    }
}

impl Model for Net {
    fn id(&self) -> u16 {
        id::NET
    }
    fn name(&self) -> &'static str {
        "virtio-net"
    }

    fn features(&self) -> u64 {
        let known = feature::NEED_OFFLOADS
            | feature::NEED_CTRL
            | feature::CTRL_VQ
            | feature::MAC
            | feature::MRG_RXBUF
            | feature::STATUS
            | if self.options.mtu > 0 { feature::MTU } else { 0 };
        let mut features = known & self.options.features;
        if self.options.speed.is_some() || self.options.duplex.is_some() {
            features |= feature::SPEED_DUPLEX;
        }
        if !self.backend.as_ref().is_some_and(|b| b.takes_offloads()) {
            features &= !feature::NEED_OFFLOADS;
        }
        if features & feature::CTRL_VQ == 0 {
            features &= !feature::NEED_CTRL;
        }
        if features & feature::CSUM == 0 {
            features &= !(feature::HOST_TSO4 | feature::HOST_TSO6);
        }
        if features & feature::GUEST_CSUM == 0 {
            features &= !(feature::GUEST_TSO4 | feature::GUEST_TSO6);
        }
        features
    }

    fn permitted(&self) -> u64 {
        self.vhost.as_ref().map_or(u64::MAX, vhost::Rings::permitted)
    }

    fn queues(&self) -> Vec<u16> {
        vec![self.options.rx_queue_size, self.options.tx_queue_size, CTRL_SIZE]
    }

    /// Address, status, number of queue pairs, MTU, speed, duplex.
    fn config(&self, core: &Core) -> Vec<u8> {
        let status = if self.link_up { STATUS_LINK_UP } else { 0 };
        let mut config = self.mac.0.to_vec();
        config.extend(status.to_le_bytes());
        config.extend(1u16.to_le_bytes());
        config.extend(self.options.mtu.to_le_bytes());
        if core.offered() & feature::SPEED_DUPLEX != 0 {
            config.extend(self.options.speed.unwrap_or(u32::MAX).to_le_bytes());
            config.push(self.options.duplex.map_or(0xff, u8::from));
        }
        config
    }

    fn write_config(&mut self, core: &mut Core, offset: usize, data: &[u8]) {
        // Legacy drivers set the address here.
        let legacy = !core.has(super::device::feature::VERSION_1) && !core.has(feature::CTRL_MAC_ADDR);
        if legacy && offset + data.len() <= self.mac.0.len() {
            self.mac.0[offset..offset + data.len()].copy_from_slice(data);
        }
    }

    fn attach(&mut self, handle: Handle) {
        let fd = self.backend.as_ref().and_then(|b| b.event_fd());
        self.wake = thread::start("virtio-net", move || handle.wake(), fd);
    }

    fn activate(&mut self, core: &mut Core) -> Result<(), Fault> {
        self.set_offloads(core.accepted() & feature::OFFLOADS);
        self.hand_over(core);
        self.wake_thread();
        Ok(())
    }

    fn kick(&mut self, core: &mut Core, queue: usize) -> Result<(), Fault> {
        if queue == CTRL {
            return self.control(core);
        }
        if self.vhost.is_some() {
            self.pass_on(queue);
        } else if self.wake.is_none() {
            return self.wake(core);
        } else {
            self.wake_thread();
        }
        Ok(())
    }

    fn wake(&mut self, core: &mut Core) -> Result<(), Fault> {
        if self.vhost.is_some() {
            self.answer(core);
            return Ok(());
        }
        if !core.is_running() {
            return Ok(());
        }
        let more = self.send(core)?;
        self.receiver.short = false;
        self.receive(core)?;
        let Some(wake) = &self.wake else { return Ok(()) };
        // A back end with no place for its frames is left alone until the driver supplies buffers.
        let starved = self.receiver.short || receive::starved(core, RX);
        let deadline = self.backend.as_ref().and_then(|b| b.deadline()).map(|d| d.since(self.now()));
        let mut wait = if starved { deadline.map(|d| d.max(STARVED_WAIT)) } else { deadline };
        if more {
            wait = Some(Duration::ZERO);
        } else if self.waiting.is_some() {
            wait = Some(wait.map_or(FULL_WAIT, |w| w.min(FULL_WAIT)));
        }
        wake.plan(wait, !starved);
        Ok(())
    }

    fn set_link(&mut self, core: &mut Core, up: bool) {
        if self.link_up != up {
            self.link_up = up;
            core.config_changed();
            if up {
                self.hand_over(core);
            } else {
                self.take_back();
            }
            self.wake_thread();
        }
    }

    fn drain(&mut self, _core: &mut Core) -> Result<(), Fault> {
        self.take_back();
        Ok(())
    }

    fn reset(&mut self) {
        self.take_back();
        if let Some(rings) = &mut self.vhost {
            rings.forget();
        }
        self.waiting = None;
        self.filter = Filter::new();
        self.mac = self.options.mac;
        self.receiver = Receiver::default();
        self.set_offloads(0);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(wake) = &self.wake {
            wake.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{BUFFERS, Guest, random_rings, rounds};
    use net::netdev::Netdev;
    use net::{Guest as NetGuest, Offload};
    use std::os::fd::BorrowedFd;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Remembers what was sent and delivers what it is given.
    #[derive(Default)]
    struct Shared {
        sent: Mutex<Vec<(Vec<u8>, Offload)>>,
        deliver: Mutex<Vec<(Vec<u8>, Offload)>>,
        full: AtomicUsize,
    }

    struct Fake(Arc<Shared>);

    impl Backend for Fake {
        fn transmit(&mut self, _now: Nanos, frame: &[u8], offload: Offload) -> Transmit {
            if self.0.full.load(Ordering::SeqCst) > 0 {
                self.0.full.fetch_sub(1, Ordering::SeqCst);
                return Transmit::Full;
            }
            self.0.sent.lock().unwrap().push((frame.to_vec(), offload));
            Transmit::Taken
        }
        fn poll(&mut self, _now: Nanos, guest: &mut dyn NetGuest) {
            let mut deliver = self.0.deliver.lock().unwrap();
            while let Some((frame, offload)) = deliver.first() {
                let (a, b) = frame.split_at(frame.len() / 2);
                if !guest.ready() || !guest.deliver(&[a, b], *offload) {
                    return;
                }
                deliver.remove(0);
            }
        }
        fn event_fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }
        fn deadline(&self) -> Option<Nanos> {
            None
        }
        fn takes_offloads(&self) -> bool {
            true
        }
        fn set_accepts(&mut self, _accepts: Accepts) {}
        fn summary(&self) -> String {
            String::new()
        }
    }

    fn fake(features: u64) -> (Guest, Arc<Shared>) {
        let shared = Arc::new(Shared::default());
        let backend: Box<dyn Backend> = Box::new(Fake(shared.clone()));
        let options = Options { features: Options::default().features & features, ..Options::default() };
        (Guest::started(Box::new(Net::new(Some(backend), options))), shared)
    }

    fn frame(len: usize) -> Vec<u8> {
        let mut frame = net::DEFAULT_MAC.0.to_vec();
        frame.extend((6..len).map(|i| i as u8));
        frame
    }

    /// Has the driver's device look at its queues until the frame is there.
    fn wait_delivered(guest: &mut Guest, count: usize) -> Vec<(u16, u32)> {
        guest.virtio.notify(RX);
        guest.wait_for(RX, count)
    }

    #[test]
    fn frames_are_sent_with_their_offloads() {
        let (mut g, shared) = fake(u64::MAX);
        let mut out = Header { flags: 1, csum_start: 34, csum_offset: 16, gso_type: 1, gso_size: 1000, ..Header::default() }.encode().to_vec();
        out.extend(frame(3000));
        g.request(TX, &out, 0);
        let mut plain = vec![0; 12];
        plain.extend(frame(60));
        g.request(TX, &plain, 0);
        // Outside of the frame: dropped, and the queue goes on.
        out.truncate(12 + 40);
        g.request(TX, &out, 0);
        let sent = shared.sent.lock().unwrap();
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[0].0, frame(3000));
        assert_eq!(sent[0].1.checksum, net::Checksum::Partial { start: 34, offset: 16 });
        assert_eq!(sent[0].1.segmentation, net::Segmentation::Tcp4 { size: 1000 });
        assert_eq!(sent[1], (frame(60), Offload::default()));
    }

    #[test]
    fn a_frame_without_room_is_offered_again() {
        let (mut g, shared) = fake(u64::MAX);
        shared.full.store(3, Ordering::SeqCst);
        let mut out = vec![0; 12];
        out.extend(frame(60));
        g.request(TX, &out, 0);
        assert_eq!(shared.sent.lock().unwrap().len(), 1);
    }

    #[test]
    fn large_frames_fill_several_buffers() {
        let (mut g, shared) = fake(u64::MAX);
        for n in 0..4 {
            g.rings[RX].add(&[(BUFFERS + 0x1000 * n, 1000, true)]);
        }
        shared.deliver.lock().unwrap().push((frame(2500), Offload::default()));
        let used = wait_delivered(&mut g, 3);
        assert_eq!(used.iter().map(|u| u.1).collect::<Vec<_>>(), [1000, 1000, 512]);
        let header = Header::decode(&g.read(BUFFERS, 12).try_into().unwrap());
        assert_eq!(header.num_buffers, 3);
        let mut bytes = g.read(BUFFERS + 12, 988);
        bytes.extend(g.read(BUFFERS + 0x1000, 1000));
        bytes.extend(g.read(BUFFERS + 0x2000, 512));
        assert_eq!(bytes, frame(2500));
        // One buffer of 1000 is left: too little, so the frame waits until there is more.
        shared.deliver.lock().unwrap().push((frame(1500), Offload::default()));
        g.virtio.notify(RX);
        g.rings[RX].add(&[(BUFFERS + 0x4000, 1000, true)]);
        let used = wait_delivered(&mut g, 2);
        assert_eq!(used.iter().map(|u| u.1).collect::<Vec<_>>(), [1000, 512]);
    }

    #[test]
    fn without_merging_a_small_buffer_is_the_drivers_fault() {
        let (mut g, shared) = fake(!feature::MRG_RXBUF);
        g.rings[RX].add(&[(BUFFERS, 100, true)]);
        shared.deliver.lock().unwrap().push((frame(60), Offload::default()));
        assert_eq!(wait_delivered(&mut g, 1)[0].1, 72);
        shared.deliver.lock().unwrap().push((frame(600), Offload::default()));
        g.rings[RX].add(&[(BUFFERS, 100, true)]);
        g.virtio.notify(RX);
        let start = Instant::now();
        while g.virtio.status() & 64 == 0 {
            assert!(start.elapsed() < crate::virtio::testing::PATIENCE, "no NEEDS_RESET");
            std::thread::yield_now();
        }
    }

    #[test]
    fn features_follow_the_back_end() {
        let offloads = feature::NEED_OFFLOADS;
        let (g, _) = fake(u64::MAX);
        assert_eq!(g.virtio.core(|c| c.offered() & offloads), offloads);
        let (g, _) = fake(!feature::CSUM);
        assert_eq!(g.virtio.core(|c| c.offered() & (feature::CSUM | feature::HOST_TSO4)), 0);
        let g = Guest::new(Box::new(Net::new(None, Options::default())));
        assert_eq!(g.virtio.core(|c| c.offered() & offloads), 0, "no back end, no offloads");
        assert_eq!(g.virtio.read_config(6, 2), 0, "and the link is down");
    }

    #[test]
    fn the_link_can_go_down() {
        let (mut g, shared) = fake(u64::MAX);
        assert_eq!(g.virtio.read_config(6, 2), 1);
        g.virtio.set_link(false);
        assert_eq!(g.virtio.read_config(6, 2), 0);
        assert_eq!(g.virtio.acknowledge(0xff), 2);
        let mut out = vec![0; 12];
        out.extend(frame(60));
        g.request(TX, &out, 0);
        assert!(shared.sent.lock().unwrap().is_empty());
    }

    #[test]
    fn control_commands_are_answered() {
        let (mut g, _) = fake(u64::MAX);
        assert_eq!(g.request(CTRL, &[0, 0, 1], 1), [0]);
        assert_eq!(g.request(CTRL, &[1, 1, 2, 4, 6, 8, 10, 12], 1), [0]);
        assert_eq!(g.virtio.read_config(0, 4), 0x0806_0402);
        assert_eq!(g.request(CTRL, &[1, 1, 2], 1), [1]);
        assert_eq!(g.request(CTRL, &[9, 0, 1], 1), [1]);
        assert_eq!(g.request(CTRL, &[5, 0, 2, 0, 0, 0, 0, 0, 0, 0], 1), [0]);
        assert_eq!(g.request(CTRL, &[5, 0, 4, 0, 0, 0, 0, 0, 0, 0], 1), [1]);
        g.virtio.reset();
        assert_eq!(g.virtio.read_config(0, 4), u64::from(u32::from_le_bytes([0x52, 0x54, 0, 0x12])));
    }

    /// A DHCP request of the user-mode network's client.
    fn discover() -> Vec<u8> {
        let mut dhcp = vec![1, 1, 6, 0, 0x39, 3, 0xf3, 0x26];
        dhcp.resize(28, 0);
        dhcp.extend(net::DEFAULT_MAC.0);
        dhcp.resize(236, 0);
        dhcp.extend([99, 130, 83, 99, 53, 1, 1, 255]);
        let udp_len = (8 + dhcp.len()) as u16;
        let mut ip = vec![0x45, 0];
        ip.extend((20 + udp_len).to_be_bytes());
        ip.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
        let sum: u32 = ip.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut frame = vec![0xff; 6];
        frame.extend(net::DEFAULT_MAC.0);
        frame.extend([8, 0]);
        frame.extend(ip);
        frame.extend([0, 68, 0, 67]);
        frame.extend(udp_len.to_be_bytes());
        frame.extend([0, 0]);
        frame.extend(dhcp);
        frame
    }

    #[test]
    fn the_user_network_gives_an_address() {
        let backend = Netdev::parse("user,id=n0").unwrap().open().unwrap();
        let mut g = Guest::started(Box::new(Net::new(Some(backend), Options::default())));
        for n in 0..8 {
            g.rings[RX].add(&[(BUFFERS + 0x10_0000 + 0x1000 * n, 2048, true)]);
        }
        let mut out = vec![0; 12];
        out.extend(discover());
        g.request(TX, &out, 0);
        // An offer from port 67 to port 68, among what else the network may say.
        let start = Instant::now();
        let mut seen = 0;
        loop {
            assert!(start.elapsed() < crate::virtio::testing::PATIENCE, "no answer");
            for (_, len) in g.rings[RX].take_used() {
                let frame = g.read(BUFFERS + 0x10_0000 + 0x1000 * seen, len as usize);
                seen += 1;
                if frame.get(12 + 34..12 + 38) == Some(&[0, 67, 0, 68]) {
                    assert_eq!(frame[12 + 42 + 16..12 + 42 + 20], [10, 0, 2, 15]);
                    return;
                }
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn random_rings_are_survived() {
        let (mut g, shared) = fake(u64::MAX);
        for chunk in 0..10 {
            *shared.deliver.lock().unwrap() = (0..20).map(|n| (frame(60 + 100 * n), Offload::default())).collect();
            random_rings(&mut g, rounds(100_000) / 10);
            shared.sent.lock().unwrap().clear();
            if chunk < 9 {
                g.start();
            }
        }
    }
}
