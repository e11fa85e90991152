//! Hostile guests: no frame may panic, and nothing may grow without bound.

use std::cell::Cell;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use net::user::*;
use net::{Backend, Checksum, Offload, Segmentation};
use smoltcp::socket::tcp::State;

use crate::harness::*;
use crate::streams::{echo, host, server};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }

    fn byte(&mut self) -> u8 {
        // The edges are where parsers break.
        match self.below(4) {
            0 => 0,
            1 => 0xff,
            _ => self.next() as u8,
        }
    }
}

#[track_caller]
fn check_bounds(net: &UserNet) {
    let [tcp, udp, pings, tftp, outbox] = net.tables();
    assert!(tcp <= MAX_CONNECTIONS && udp <= MAX_FLOWS && pings <= MAX_PINGS);
    assert!(tftp <= MAX_SESSIONS && outbox <= MAX_OUTBOX);
    assert!(net.buffered() <= MAX_BUFFERED + MAX_CONNECTIONS * 65536);
}

/// Frames of real conversations: ARP, neighbour discovery, DHCP, TCP, UDP, fragments, TFTP, ping.
fn corpus(port: u16) -> Vec<Vec<u8>> {
    let mut world = World::with("hostname=vm,tftp=/usr", Vec::new(), |card| card.capture = Some(Vec::new()));
    let dhcp = world.sockets.add(smoltcp::socket::dhcpv4::Socket::new());
    world.until("a lease", |w| {
        let socket = w.sockets.get_mut::<smoltcp::socket::dhcpv4::Socket>(dhcp);
        matches!(socket.poll(), Some(smoltcp::socket::dhcpv4::Event::Configured(_)))
    });
    for host in [HOST4, HOST6] {
        let socket = world.connect((host, port), 65536);
        world.settle();
        if world.tcp(socket).can_send() {
            world.tcp(socket).send_slice(&pattern(5000)).unwrap();
        }
        world.settle();
        world.tcp(socket).close();
        let udp = world.udp_socket();
        world.udp(udp).send_slice(b"\0\x01nothing\0octet\0blksize\x001000\0", (host, 69)).unwrap();
        world.udp(udp).send_slice(b"\x0b\x01\x02\x03\0\x06\0\x02\0\x17", (host, 547)).unwrap();
    }
    let udp = world.udp_socket();
    world.udp(udp).send_slice(&pattern(4000), (HOST4, 9)).unwrap();
    world.udp(udp).send_slice(&[0; 40], (DNS4, 53)).unwrap();
    world.settle();
    let mut frames: Vec<_> = world.card.capture.take().unwrap();
    frames.retain(|frame| frame[..6] == HOST_MAC.0 || frame[0] & 1 == 1);
    assert!(frames.len() > 15, "{}", frames.len());
    frames.push(router_solicitation());
    frames
}

fn router_solicitation() -> Vec<u8> {
    let mut frame = [&[0x33, 0x33, 0, 0, 0, 2], &GUEST_MAC[..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 58, 255]].concat();
    frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame.extend([133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7]);
    frame
}

/// Keeps a mutated packet on this machine: whatever it is, it goes to an address of the virtual
/// network. The IPv4 header checksum is mostly made right, so that more than its check is tested.
fn keep_local(random: &mut Random, frame: &mut [u8], port: u16) {
    let (destination, transport) = match frame {
        [_, _, _, _, _, _, _, _, _, _, _, _, 8, 0, rest @ ..] if rest.len() >= 24 => {
            let last = [2, 3, 4, 15, 100, 255][random.below(6)];
            rest[16..20].copy_from_slice(&[10, 0, 2, last]);
            let header = (usize::from(rest[0] & 15) * 4).clamp(20, rest.len());
            if random.below(8) > 0 {
                rest[10..12].fill(0);
                let sum = !smoltcp::wire::checksum::data(&rest[..header]);
                rest[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (last, &mut rest[header..])
        }
        [_, _, _, _, _, _, _, _, _, _, _, _, 0x86, 0xdd, rest @ ..] if rest.len() >= 44 => {
            let last = [2, 3, 15, 1][random.below(4)];
            let prefix = if last == 1 { [0xff, 2] } else { [0xfe, 0xc0] };
            rest[24..40].fill(0);
            rest[24..26].copy_from_slice(&prefix);
            rest[39] = last;
            (last, &mut rest[40..])
        }
        _ => return,
    };
    if destination == 2 && transport.len() >= 4 {
        let port = [port, 53, 67, 69, 547, 9][random.below(6)];
        transport[2..4].copy_from_slice(&port.to_be_bytes());
    }
}

fn offload(random: &mut Random) -> Offload {
    let size = random.next() as u16;
    let segmentation = match random.below(8) {
        0 => Segmentation::Tcp4 { size },
        1 => Segmentation::Tcp6 { size },
        2 => Segmentation::Udp { size },
        _ => Segmentation::None,
    };
    let checksum = match random.below(4) {
        0 => Checksum::Complete,
        1 => Checksum::Partial { start: random.next() as u16, offset: random.next() as u16 },
        _ => Checksum::Valid,
    };
    Offload { checksum, segmentation }
}

fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.below(6) {
        let at = random.below(frame.len());
        match random.below(6) {
            0 => frame.truncate(at.max(15)),
            1 => frame.insert(at, random.byte()),
            2 => frame[at] ^= 1 << random.below(8),
            // Sequence numbers and lengths, moved a little.
            3 => frame[at] = frame[at].wrapping_add(random.below(5) as u8).wrapping_sub(2),
            _ => frame[at] = random.byte(),
        }
    }
}

fn fuzz(seed: u64, rounds: usize) {
    println!("FUZZ_SEED={seed} FUZZ_ROUNDS={rounds}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let corpus = corpus(port);
    let mut random = Random(seed);
    let mut world = World::with("hostname=vm,tftp=/usr,guestfwd=tcp:10.0.2.100:80-none", Vec::new(), |card| {
        card.offload = true;
    });
    for round in 0..rounds {
        let mut frame = if random.below(10) == 0 {
            let length = random.below(200);
            let mut frame = [&HOST_MAC.0[..], &GUEST_MAC[..]].concat();
            frame.extend([[8, 0], [8, 6], [0x86, 0xdd]][random.below(3)]);
            frame.extend((0..length).map(|_| random.byte()));
            frame
        } else {
            corpus[random.below(corpus.len())].clone()
        };
        mutate(&mut random, &mut frame);
        keep_local(&mut random, &mut frame, port);
        let now = world.now();
        let offload = offload(&mut random);
        let _ = world.net.transmit(now, &frame, offload);
        if random.below(8) == 0 {
            world.card.stalled = random.below(4) == 0;
            let now = world.now();
            world.net.poll(now, &mut world.card);
            world.card.received.clear();
        }
        if random.below(500) == 0 {
            world.advance(Duration::from_millis(random.next() % 100_000));
        }
        if round % 1000 == 0 {
            check_bounds(&world.net);
        }
    }
    check_bounds(&world.net);
    // After all that it still serves an honest guest.
    world.card.stalled = false;
    world.advance(Duration::from_secs(300));
    let fresh = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = world.connect((HOST4, fresh.local_addr().unwrap().port()), 4096);
    world.established(socket);
}

#[test]
fn mutated_frames_never_panic() {
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(60_000);
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok());
    for seed in seed.map_or(vec![1, 0x5eed, 0xfeed_beef], |seed| vec![seed]) {
        fuzz(seed, rounds);
    }
}

/// An honest guest on a cable that damages frames and adds damaged ones: what is meant for connections in every state.
fn damaged(seed: u64, rounds: usize) {
    println!("FUZZ_SEED={seed} FUZZ_ROUNDS={rounds}");
    let ports = [server(false, echo), server(true, echo)];
    let mut world = World::with("", Vec::new(), |card| card.offload = true);
    let sent = Rc::new(Cell::new(0));
    let (count, mut random) = (sent.clone(), Random(seed));
    world.cable = Some(Box::new(move |frame| {
        let mut frames = Vec::new();
        if random.below(3) == 0 {
            let mut bad = frame.clone();
            mutate(&mut random, &mut bad);
            keep_local(&mut random, &mut bad, ports[0]);
            frames.push(bad);
        }
        if random.below(40) > 0 {
            frames.push(frame);
        }
        count.set(count.get() + frames.len());
        frames
    }));
    let (mut random, data) = (Random(!seed), pattern(8000));
    let mut clients = Vec::new();
    while sent.get() < rounds {
        while clients.len() < 12 {
            let v6 = random.below(2);
            clients.push(world.connect((host(v6 == 1), ports[v6]), 4096 << random.below(5)));
        }
        let mut received = Vec::new();
        for &client in &clients {
            world.drain(client, &mut received);
            let socket = world.tcp(client);
            if socket.can_send() {
                let _ = socket.send_slice(&data[..random.below(data.len())]);
            }
            match random.below(600) {
                0 => socket.abort(),
                1..5 => socket.close(),
                _ => {}
            }
        }
        let ended = |w: &mut World, client| matches!(w.tcp(client).state(), State::Closed | State::TimeWait);
        let gone: Vec<_> = clients.extract_if(.., |&mut client| ended(&mut world, client)).collect();
        gone.into_iter().for_each(|client| drop(world.sockets.remove(client)));
        if !world.turn() || random.below(200) == 0 {
            world.advance(Duration::from_millis(random.next() % 3000));
        }
        check_bounds(&world.net);
    }
    world.cable = None;
    // Connections that only the engine knows of may have filled its table; they end when nobody answers for them.
    world.advance(KEEPALIVE_IDLE);
    world.until("there is room", |w| {
        w.advance(Duration::from_secs(1));
        w.net.tables()[0] < MAX_CONNECTIONS / 2
    });
    let socket = world.connect((HOST4, ports[0]), 4096);
    world.established(socket);
}

#[test]
fn damaged_connections_never_panic() {
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(20_000);
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok());
    damaged(seed.unwrap_or(0xdead), rounds);
}

#[test]
fn random_options_never_panic() {
    let mut random = Random(77);
    let pieces = "hostfwd= guestfwd= net= dns= ipv6-net= restrict= tcp: udp: unix: - : , ,, [ ] 10.0.2.9 ::1 / 24 99999 22 = on";
    let pieces: Vec<&str> = pieces.split(' ').collect();
    for _ in 0..50_000 {
        let text: String = (0..random.below(12)).map(|_| pieces[random.below(pieces.len())]).collect();
        // Most are errors; what matters is that all of them are values.
        let _ = Config::parse(&text);
    }
}

/// Two stacks that disagree answered each other for ever (found by `damaged_connections_never_panic`).
#[test]
fn acknowledgements_that_do_not_fit_make_no_storm() {
    let port = server(false, echo);
    let mut world = World::new("");
    let socket = world.connect((HOST4, port), 4096);
    world.established(socket);
    world.card.capture = Some(Vec::new());
    world.write(socket, b"hello");
    let mut got = Vec::new();
    world.until("the echo", |w| {
        w.drain(socket, &mut got);
        got.len() == 5
    });
    world.until("it is acknowledged", |w| w.card.capture.as_ref().unwrap().iter().any(is_pure));
    let frame = world.card.capture.take().unwrap().into_iter().rfind(is_pure).unwrap();
    let valid = Offload { checksum: Checksum::Valid, ..Offload::default() };
    let mut answers = |frame: &[u8]| {
        let before = world.net.stats().frames_out;
        for _ in 0..1000 {
            let now = world.now();
            let _ = world.net.transmit(now, frame, valid);
            world.turn();
        }
        world.advance(Duration::from_millis(600));
        world.net.stats().frames_out - before
    };
    // Beyond the window, and an acknowledgement of what was never sent.
    for at in [38, 42] {
        let mut wrong = frame.clone();
        let number = u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()).wrapping_add(1 << 30);
        wrong[at..at + 4].copy_from_slice(&number.to_be_bytes());
        let count = answers(&wrong);
        assert!((1..20).contains(&count), "{count} answers");
    }

    fn is_pure(frame: &Vec<u8>) -> bool {
        frame[12..14] == [8, 0] && frame[16..18] == [0, 40] && frame[23] == 6 && frame[47] == 0x10
    }
}

/// Two addresses of the guest pushed each other out of a full table of neighbours, and each was asked for again at every answer
/// (found by `damaged_connections_never_panic`).
#[test]
fn a_full_table_of_neighbours_makes_no_storm() {
    let ports = [server(false, echo), server(true, echo)];
    // Which entry leaves a table was decided by its hash.
    for _ in 0..4 {
        let mut world = World::new("");
        world.card.capture = Some(Vec::new());
        let sockets = [world.connect((HOST4, ports[0]), 4096), world.connect((HOST6, ports[1]), 4096)];
        sockets.iter().for_each(|s| world.established(*s));
        let is_syn = |f: &Vec<u8>| f.len() > 47 && f[12..14] == [8, 0] && f[23] == 6 && f[47] == 2;
        let syn = world.card.capture.take().unwrap().into_iter().find(is_syn).unwrap();
        (20..250).for_each(|last| syn_from(&mut world, &syn, last));
        assert!(world.net.tables()[0] > 200, "the addresses have connections");
        let before = world.net.stats().frames_out;
        sockets.iter().for_each(|s| world.write(*s, b"hello"));
        for _ in 0..500 {
            world.turn();
        }
        let count = world.net.stats().frames_out - before;
        assert!(count < 500, "{count} frames in no time");
        for socket in sockets {
            let mut got = Vec::new();
            world.until("the echo", |w| {
                w.drain(socket, &mut got);
                w.advance(Duration::from_millis(100));
                got.len() == 5
            });
        }
    }
}

/// The same SYN from another address.
fn syn_from(world: &mut World, syn: &[u8], last: u8) {
    let mut frame = syn.to_vec();
    frame[29] = last;
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34].chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let now = world.now();
    let valid = Offload { checksum: Checksum::Valid, ..Offload::default() };
    let _ = world.net.transmit(now, &frame, valid);
    world.turn();
}

#[test]
fn a_syn_flood_costs_bounded_memory() {
    // A listener that accepts nobody and has no backlog: connecting to it never ends.
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    deaf.listen(0).unwrap();
    let port = deaf.local_addr().unwrap().as_socket().unwrap().port();
    let mut world = World::new("");
    // One honest SYN, captured, is the template of the flood.
    world.card.capture = Some(Vec::new());
    world.connect((HOST4, port), 4096);
    let is_syn = |f: &Vec<u8>| f.len() > 47 && f[12..14] == [8, 0] && f[23] == 6 && f[47] == 2;
    world.until("a SYN", |w| w.card.capture.as_ref().unwrap().iter().any(is_syn));
    let template = world.card.capture.take().unwrap().into_iter().find(is_syn).unwrap();
    let now = world.now();
    let valid = Offload { checksum: Checksum::Valid, ..Offload::default() };
    for n in 0..20_000u16 {
        let mut frame = template.clone();
        frame[34..36].copy_from_slice(&(1024 + n).to_be_bytes());
        let _ = world.net.transmit(now, &frame, valid);
    }
    let [tcp, ..] = world.net.tables();
    assert!(tcp <= MAX_CONNECTING + 2, "{tcp} entries");
    assert!(world.net.stats().refused > 19_000);
    assert_eq!(world.net.buffered(), 0);
    // Other services still work.
    let socket = world.udp_socket();
    assert_eq!(world.ask(socket, (DNS4, 53), &[0; 12]).0.len(), 12);
}

/// A guest that answers with out-of-window, overlapping and impossible segments.
#[test]
fn out_of_order_floods_hold_at_most_the_window() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut world = World::new("");
    world.card.capture = Some(Vec::new());
    let socket = world.connect((HOST4, port), 65536);
    world.established(socket);
    world.write(socket, &pattern(1000));
    world.settle();
    let is_data = |f: &Vec<u8>| f.len() > 900 && f[..6] == HOST_MAC.0 && f[23] == 6;
    let template = world.card.capture.take().unwrap().into_iter().find(is_data).expect("a data segment");
    let base = u32::from_be_bytes(template[38..42].try_into().unwrap());
    let valid = Offload { checksum: Checksum::Valid, ..Offload::default() };
    let mut random = Random(5);
    for _ in 0..20_000 {
        let mut frame = template.clone();
        let seq = base.wrapping_add(1001 + random.below(3 << 20) as u32);
        frame[38..42].copy_from_slice(&seq.to_be_bytes());
        let now = world.now();
        let _ = world.net.transmit(now, &frame, valid);
        world.net.poll(now, &mut world.card);
        world.card.received.clear();
    }
    assert!(world.net.buffered() <= RECEIVE_MAX * 2 + SEND_MAX, "{}", world.net.buffered());
}
