//! The back ends that carry frames elsewhere: stream, dgram, hub, dump.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use net::dgram::DgramNet;
use net::dump::{Dump, DumpOptions};
use net::hub::Hub;
use net::netdev::Netdev;
use net::stream::{OUT_MAX, StreamNet};
use net::{Accepts, Backend, Guest, Nanos, Offload, Transmit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockAddr;

/// A card that keeps what it gets, up to a number of frames.
struct Card {
    frames: VecDeque<Vec<u8>>,
    room: usize,
}

impl Card {
    fn new() -> Card {
        Card { frames: VecDeque::new(), room: usize::MAX }
    }
}

impl Guest for Card {
    fn ready(&mut self) -> bool {
        self.frames.len() < self.room
    }

    fn deliver(&mut self, parts: &[&[u8]], _: Offload) -> bool {
        let ready = self.ready();
        if ready {
            self.frames.push_back(parts.concat());
        }
        ready
    }
}

const ZERO: Nanos = Nanos(0);

fn send(net: &mut dyn Backend, frame: &[u8]) {
    assert_eq!(net.transmit(ZERO, frame, Offload::default()), Transmit::Taken);
}

/// Runs back ends until the last one's card has `count` frames.
#[track_caller]
fn run(nets: &mut [&mut dyn Backend], card: &mut Card, count: usize) {
    let start = Instant::now();
    let mut other = Card::new();
    while card.frames.len() < count {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain: {} of {count}", card.frames.len());
        let last = nets.len() - 1;
        for (n, net) in nets.iter_mut().enumerate() {
            net.poll(ZERO, if n == last { card } else { &mut other });
        }
        let mut fds: Vec<_> = nets.iter().map(|n| PollFd::from_borrowed_fd(n.event_fd().unwrap(), PollFlags::IN)).collect();
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 })).unwrap();
    }
}

fn path(name: &str) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("net-links-{name}-{}", std::process::id()))
}

#[test]
fn two_guests_share_a_tcp_cable() {
    let mut server = StreamNet::server(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    assert_eq!(server.summary(), "listening");
    let port = server.local_address().unwrap().as_socket().unwrap().port();
    let mut client = Netdev::parse(&format!("socket,id=n,connect=127.0.0.1:{port}")).unwrap().open().unwrap();
    let mut card = Card::new();
    // A frame before there is a peer is lost; afterwards none is.
    while !server.is_up() {
        run(&mut [&mut *client, &mut server], &mut card, 0);
        server.poll(ZERO, &mut card);
        client.poll(ZERO, &mut card);
    }
    let frames: Vec<Vec<u8>> = (0..300).map(|n| vec![n as u8; 14 + n * 5]).collect();
    for frame in &frames {
        send(&mut *client, frame);
    }
    run(&mut [&mut *client, &mut server], &mut card, 300);
    assert_eq!(Vec::from(card.frames), frames);
}

#[test]
fn a_full_cable_says_so_and_a_full_guest_loses_nothing() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut net = StreamNet::given(ours.into()).unwrap();
    let mut other = StreamNet::given(theirs.into()).unwrap();
    let mut card = Card::new();
    let frame = vec![7; 60_000];
    let mut taken = 0;
    while net.transmit(ZERO, &frame, Offload::default()) == Transmit::Taken {
        taken += 1;
        net.poll(ZERO, &mut card);
    }
    assert!(taken * frame.len() >= OUT_MAX / 2, "{taken} frames");
    card.room = 3;
    other.poll(ZERO, &mut card);
    other.poll(ZERO, &mut card);
    assert_eq!(card.frames.len(), 3);
    card.room = usize::MAX;
    run(&mut [&mut net, &mut other], &mut card, taken);
    assert!(card.frames.iter().all(|f| *f == frame));
}

#[test]
fn the_wire_format_is_a_length_and_the_frame() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut net = StreamNet::given(ours.into()).unwrap();
    let mut card = Card::new();
    send(&mut net, b"abc");
    net.poll(ZERO, &mut card);
    let mut bytes = [0; 7];
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"\0\0\0\x03abc");
    // In pieces, the first two frames together.
    for piece in [&b"\0\0\0\x01x\0\0\0\x02yz\0\0"[..], b"\0\x03u", b"vw"] {
        theirs.write_all(piece).unwrap();
        net.poll(ZERO, &mut card);
    }
    assert_eq!(card.frames, ["x", "yz", "uvw"].map(|f| f.as_bytes().to_vec()));
    // An impossible length ends the connection instead of eating memory.
    theirs.write_all(&[0xff; 4]).unwrap();
    net.poll(ZERO, &mut card);
    assert!(!net.is_up());
}

#[test]
fn a_client_calls_again_and_a_server_takes_the_next() {
    let path = path("reconnect");
    let text = format!("stream,id=n,addr.type=unix,addr.path={},reconnect-ms=100", path.display());
    // Nobody is there yet: that is no error with reconnect.
    let mut net = Netdev::parse(&text).unwrap().open().unwrap();
    let mut card = Card::new();
    let listener = UnixListener::bind(&path).unwrap();
    let second = Nanos(1_000_000_000);
    assert_eq!(net.deadline(), Some(Nanos(100_000_000)));
    net.poll(second, &mut card);
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"\0\0\0\x01a").unwrap();
    net.poll(second, &mut card);
    drop(peer);
    net.poll(second, &mut card);
    assert_eq!(net.deadline(), Some(Nanos(1_100_000_000)));
    net.poll(Nanos(1_100_000_000), &mut card);
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"\0\0\0\x01b").unwrap();
    net.poll(Nanos(1_100_000_000), &mut card);
    assert_eq!(card.frames, [b"a", b"b"]);
    std::fs::remove_file(&path).unwrap();
    // Without it, too, but nobody calls again.
    let gone = Netdev::parse(&text.replace(",reconnect-ms=100", "")).unwrap().open().unwrap();
    let expected = format!("error: Failed to connect to '{}': No such file or directory", path.display());
    assert_eq!((gone.summary(), gone.deadline()), (expected, None));
}

#[test]
fn datagrams_carry_one_frame_each() {
    let any: SockAddr = "127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into();
    let mut a = DgramNet::peer(Some(&any), None).unwrap();
    let to = a.local_address().unwrap();
    let mut b = DgramNet::peer(Some(&any), Some(to)).unwrap();
    let mut card = Card::new();
    send(&mut b, b"one");
    send(&mut b, b"two");
    run(&mut [&mut b, &mut a], &mut card, 2);
    assert_eq!(card.frames, [b"one", b"two"]);

    let (x, y) = (path("x"), path("y"));
    let open = |local: &std::path::Path, remote: &std::path::Path| {
        let (local, remote) = (local.display(), remote.display());
        let text = format!("dgram,id=n,local.type=unix,local.path={local},remote.type=unix,remote.path={remote}");
        Netdev::parse(&text).unwrap().open().unwrap()
    };
    let (mut net_x, mut net_y) = (open(&x, &y), open(&y, &x));
    send(&mut *net_x, b"three");
    card.frames.clear();
    run(&mut [&mut *net_x, &mut *net_y], &mut card, 1);
    assert_eq!(card.frames, [b"three"]);
    drop((net_x, net_y));
    assert!(!x.exists() && !y.exists(), "the sockets are removed");
}

#[test]
fn a_multicast_group_reaches_the_others_only() {
    let text = "socket,id=n,mcast=230.87.65.43:0,localaddr=127.0.0.1";
    // A port that is free now.
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = text.replace(":0", &format!(":{port}"));
    let open = || Netdev::parse(&text).unwrap().open().unwrap();
    let (mut a, mut b) = (open(), open());
    let (mut own, mut other) = (Card::new(), Card::new());
    send(&mut *a, b"to all");
    run(&mut [&mut *b], &mut other, 1);
    a.poll(ZERO, &mut own);
    assert_eq!(other.frames, [b"to all"]);
    assert!(own.frames.is_empty(), "the sender hears itself");
}

#[test]
fn a_hub_repeats_to_all_other_ports_and_to_a_back_end() {
    let hub = Hub::new(0);
    let (mut a, mut b) = (hub.port().unwrap(), hub.port().unwrap());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut link = hub.attach(Box::new(StreamNet::given(ours.into()).unwrap())).unwrap();
    let mut far = StreamNet::given(theirs.into()).unwrap();
    let mut card = Card::new();
    send(&mut a, b"hello");
    a.poll(ZERO, &mut card);
    assert!(card.frames.is_empty(), "a port hears its own frame");
    b.poll(ZERO, &mut card);
    link.run(ZERO);
    far.poll(ZERO, &mut card);
    assert_eq!(card.frames, [b"hello", b"hello"]);
    card.frames.clear();
    send(&mut far, b"answer");
    far.poll(ZERO, &mut card);
    link.run(ZERO);
    a.poll(ZERO, &mut card);
    b.poll(ZERO, &mut card);
    assert_eq!(card.frames, [b"answer", b"answer"]);
    // Nobody takes them: the queue has an end.
    for _ in 0..2 * net::hub::MAX_QUEUE {
        send(&mut a, b"x");
    }
    card.frames.clear();
    b.poll(ZERO, &mut card);
    assert_eq!(card.frames.len(), net::hub::MAX_QUEUE);
}

#[test]
fn a_hub_port_wakes_the_event_loop() {
    let hub = Hub::new(0);
    let (mut a, b) = (hub.port().unwrap(), hub.port().unwrap());
    let readable = |net: &dyn Backend| {
        let fd = net.event_fd().unwrap();
        poll(&mut [PollFd::new(&fd.as_fd(), PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    };
    assert!(!readable(&b));
    send(&mut a, b"x");
    assert!(readable(&b) && !readable(&a));
    let mut b = b;
    b.poll(ZERO, &mut Card::new());
    assert!(!readable(&b));
}

#[test]
fn a_dump_is_a_pcap_file_of_both_directions() {
    let file = path("dump.pcap");
    let options = DumpOptions::parse(&format!("id=f0,netdev=n0,file={},maxlen=4", file.display())).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut net: Dump = options.open(Box::new(StreamNet::given(ours.into()).unwrap())).unwrap();
    let mut far = StreamNet::given(theirs.into()).unwrap();
    let mut card = Card::new();
    net.set_accepts(Accepts::default());
    send(&mut net, b"sent frame");
    send(&mut far, b"got");
    far.poll(ZERO, &mut card);
    net.poll(Nanos(5_000_000), &mut card);
    let bytes = std::fs::read(&file).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(4), word(16), word(20)), (0xa1b2_c3d4, 0x0004_0002, 4, 1));
    assert_eq!((word(32), word(36), &bytes[40..44]), (4, 10, &b"sent"[..]));
    assert_eq!((word(52), word(56), &bytes[60..]), (3, 3, &b"got"[..]));
    assert!(word(24) > 1_700_000_000, "the time of day");
    std::fs::remove_file(file).unwrap();
    assert_eq!(DumpOptions::parse("id=f0").unwrap_err().to_string(), "Parameter 'netdev' is missing");
    assert_eq!(DumpOptions::parse("id=f0,netdev=n,foo=1").unwrap_err().to_string(), "Invalid parameter 'foo'");
}
