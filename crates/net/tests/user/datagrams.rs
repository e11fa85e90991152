//! UDP, ICMP and names.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpEndpoint, Ipv6Address};

use crate::harness::*;

/// A host socket that answers each datagram with `answer` of it.
fn server(address: &str, answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind(address).unwrap();
    let local = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..length]) {
                socket.send_to(&answer, from).unwrap();
            }
        }
    });
    local
}

fn echo(data: &[u8]) -> Option<Vec<u8>> {
    Some(data.to_vec())
}

#[test]
fn datagrams_go_and_come_back() {
    let mut world = World::new("");
    let socket = world.udp_socket();
    for (address, host) in [("127.0.0.1:0", HOST4), ("[::1]:0", HOST6)] {
        let port = server(address, echo).port();
        // The largest goes through reassembly on our side and fragmentation on the way back.
        for length in [0, 1, 1472, 1473, 9000, 30000] {
            if host == HOST6 && length > 1452 {
                continue; // the guest's stack does not fragment IPv6
            }
            let data = pattern(length);
            let (answer, from) = world.ask(socket, (host, port), &data);
            assert!(answer == data, "{length} bytes");
            assert_eq!(from, IpEndpoint::new(host, port));
        }
    }
    assert_eq!(world.net.tables()[1], 2, "one socket for each version");
}

#[test]
fn an_idle_flow_is_closed() {
    let port = server("127.0.0.1:0", echo).port();
    let mut world = World::new("");
    let socket = world.udp_socket();
    world.ask(socket, (HOST4, port), b"x");
    world.advance(net::user::UDP_TIMEOUT / 2);
    world.ask(socket, (HOST4, port), b"x");
    world.advance(net::user::UDP_TIMEOUT * 3 / 4);
    assert_eq!(world.net.tables()[1], 1, "it was used in between");
    world.advance(net::user::UDP_TIMEOUT / 2);
    assert_eq!(world.net.tables()[1], 0);
}

#[test]
fn a_closed_port_of_the_host_is_reported() {
    for (address, host) in [("127.0.0.1:0", HOST4), ("[::1]:0", HOST6)] {
        let port = UdpSocket::bind(address).unwrap().local_addr().unwrap().port();
        let mut world = World::new("");
        let socket = world.udp_socket();
        world.card.capture = Some(Vec::new());
        world.udp(socket).send_slice(b"anybody?", (host, port)).unwrap();
        let v6 = host == HOST6;
        // Destination unreachable, port unreachable, quoting the guest's own datagram.
        let (at, expected) = if v6 { (54, [1, 4]) } else { (34, [3, 3]) };
        let quoted = at + 8 + if v6 { 40 } else { 20 };
        let reported = |frame: &Vec<u8>| {
            frame.len() >= quoted + 8
                && frame[6..12] == net::user::HOST_MAC.0
                && frame[at..at + 2] == expected
                && frame[quoted + 2..quoted + 4] == port.to_be_bytes()
        };
        world.until("the error", |w| w.card.capture.as_ref().unwrap().iter().any(reported));
    }
}

#[test]
fn the_number_of_flows_is_bounded() {
    let mut world = World::new("");
    let socket = world.udp_socket();
    world.ask(socket, (HOST4, server("127.0.0.1:0", echo).port()), b"x");
    for port in 1..=(net::user::MAX_FLOWS + 500) as u16 {
        let frame = udp_frame(1000 + port, b"flood");
        world.send_frame(&frame);
    }
    assert!(world.net.tables()[1] <= net::user::MAX_FLOWS);
    assert!(world.net.stats().refused >= 500);
}

/// A frame from the guest to a discarding port of the host.
fn udp_frame(source: u16, payload: &[u8]) -> Vec<u8> {
    use smoltcp::wire::*;
    let (IpAddress::Ipv4(src_addr), IpAddress::Ipv4(dst_addr)) = (GUEST4, HOST4) else { unreachable!() };
    let udp = UdpRepr { src_port: source, dst_port: 9 };
    let ip = Ipv4Repr {
        src_addr,
        dst_addr,
        next_header: IpProtocol::Udp,
        payload_len: 8 + payload.len(),
        hop_limit: 64,
    };
    let mut frame = vec![0; 14 + 20 + 8 + payload.len()];
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(GUEST_MAC),
        dst_addr: EthernetAddress(net::user::HOST_MAC.0),
        ethertype: EthernetProtocol::Ipv4,
    };
    ethernet.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut frame[14..]), &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut frame[34..]),
        &GUEST4,
        &HOST4,
        payload.len(),
        |p| p.copy_from_slice(payload),
        &checksums,
    );
    frame
}

#[test]
fn a_forwarded_port_reaches_the_guest_and_answers_go_back() {
    for (rule, client, v6) in [
        ("hostfwd=udp:127.0.0.1:0-:5000", "127.0.0.1:0", false),
        ("hostfwd=udp:[::1]:0-:5000", "[::1]:0", false),
        ("hostfwd=udp:[::1]:0-[fec0::15]:5000", "[::1]:0", true),
    ] {
        let mut world = World::new(&format!("{rule},restrict=on"));
        let socket = world.udp_socket();
        world.udp(socket).close();
        world.udp(socket).bind(5000).unwrap();
        let text = net::Backend::usernet(&world.net).unwrap();
        let port: u16 = text.lines().nth(1).unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
        let client = UdpSocket::bind(client).unwrap();
        let to = SocketAddr::new(client.local_addr().unwrap().ip(), port);
        client.send_to(b"question", to).unwrap();
        world.until("arrived", |w| w.udp(socket).can_recv());
        let (data, meta) = world.udp(socket).recv().map(|(d, m)| (d.to_vec(), m)).unwrap();
        assert_eq!((&data[..], meta.endpoint.addr), (&b"question"[..], if v6 { HOST6 } else { HOST4 }));
        world.udp(socket).send_slice(b"answer", meta.endpoint).unwrap();
        world.settle();
        let mut buffer = [0; 100];
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"answer"[..], to));
    }
}

const QUERY: [u8; 12] = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];

fn name_server() -> SocketAddr {
    server("127.0.0.1:0", |query| Some([&query[..2], &[0x81, 0x80], &query[4..], b"!"].concat()))
}

#[test]
fn names_are_asked_of_the_hosts_servers() {
    let mut world = World::with("", vec![name_server()], |_| {});
    let socket = world.udp_socket();
    let (answer, from) = world.ask(socket, (DNS4, 53), &QUERY);
    assert_eq!((from, &answer[2..4], answer.last()), (IpEndpoint::new(DNS4, 53), &[0x81, 0x80][..], Some(&b'!')));
    let dns6 = IpAddress::Ipv6(Ipv6Address::new(0xfec0, 0, 0, 0, 0, 0, 0, 3));
    let (answer, from) = world.ask(socket, (dns6, 53), &QUERY);
    assert_eq!((from.addr, answer.last()), (dns6, Some(&b'!')));
}

#[test]
fn a_dead_name_server_is_passed_over() {
    let silent = server("127.0.0.1:0", |_| None);
    let absent = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut world = World::with("", vec![absent, silent, name_server()], |_| {});
    let socket = world.udp_socket();
    world.udp(socket).send_slice(&QUERY, (DNS4, 53)).unwrap();
    world.settle();
    world.advance(Duration::from_secs(2));
    world.until("an answer", |w| w.udp(socket).can_recv());
    assert_eq!(world.udp(socket).recv().unwrap().0.last(), Some(&b'!'));
}

#[test]
fn without_a_name_server_the_answer_is_failure() {
    let mut world = World::new("");
    let socket = world.udp_socket();
    let (answer, _) = world.ask(socket, (DNS4, 53), &QUERY);
    assert_eq!((answer.len(), answer[2] & 0x80, answer[3] & 15), (12, 0x80, 2));
}

fn ping_socket(world: &mut World) -> smoltcp::iface::SocketHandle {
    let ring = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = icmp::Socket::new(ring(), ring());
    socket.bind(icmp::Endpoint::Ident(0x22b)).unwrap();
    world.sockets.add(socket)
}

#[test]
fn the_virtual_host_answers_pings() {
    let mut world = World::new("restrict=on");
    let handle = ping_socket(&mut world);
    let checksums = ChecksumCapabilities::default();
    let echo = Icmpv4Repr::EchoRequest { ident: 0x22b, seq_no: 7, data: b"ping" };
    let socket = world.sockets.get_mut::<icmp::Socket>(handle);
    let bytes = socket.send(echo.buffer_len(), HOST4).unwrap();
    echo.emit(&mut Icmpv4Packet::new_unchecked(bytes), &checksums);
    world.until("a reply", |w| w.sockets.get_mut::<icmp::Socket>(handle).can_recv());
    let (bytes, from) = world.sockets.get_mut::<icmp::Socket>(handle).recv().unwrap();
    let reply = Icmpv4Repr::parse(&Icmpv4Packet::new_checked(bytes).unwrap(), &checksums).unwrap();
    assert_eq!((from, reply), (HOST4, Icmpv4Repr::EchoReply { ident: 0x22b, seq_no: 7, data: b"ping" }));

    let (IpAddress::Ipv6(source), IpAddress::Ipv6(to)) = (GUEST6, HOST6) else { unreachable!() };
    let echo = Icmpv6Repr::EchoRequest { ident: 0x22b, seq_no: 8, data: b"ping6" };
    let socket = world.sockets.get_mut::<icmp::Socket>(handle);
    let bytes = socket.send(echo.buffer_len(), HOST6).unwrap();
    echo.emit(&source, &to, &mut Icmpv6Packet::new_unchecked(bytes), &checksums);
    world.until("a reply", |w| w.sockets.get_mut::<icmp::Socket>(handle).can_recv());
    let (bytes, _) = world.sockets.get_mut::<icmp::Socket>(handle).recv().unwrap();
    let reply = Icmpv6Repr::parse(&to, &source, &Icmpv6Packet::new_checked(bytes).unwrap(), &checksums).unwrap();
    assert_eq!(reply, Icmpv6Repr::EchoReply { ident: 0x22b, seq_no: 8, data: b"ping6" });
}

/// An address of this machine that is not loopback, if it has one. (Connecting a datagram socket to a
/// documentation address sends nothing.)
fn own_address() -> IpAddress {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    match socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr()) {
        Ok(SocketAddr::V4(address)) => IpAddress::Ipv4(*address.ip()),
        _ => IpAddress::v4(198, 51, 100, 1),
    }
}

/// Either the host allows ping sockets, or the guest is told that it does not, or that there is no way.
#[test]
fn a_ping_beyond_the_virtual_network_gets_some_answer() {
    let mut world = World::new("");
    let handle = ping_socket(&mut world);
    let checksums = ChecksumCapabilities::default();
    let echo = Icmpv4Repr::EchoRequest { ident: 0x22b, seq_no: 7, data: b"ping" };
    let socket = world.sockets.get_mut::<icmp::Socket>(handle);
    let bytes = socket.send(echo.buffer_len(), own_address()).unwrap();
    echo.emit(&mut Icmpv4Packet::new_unchecked(bytes), &checksums);
    world.card.capture = Some(Vec::new());
    let answered = |frame: &Vec<u8>| match frame.get(34..36) {
        Some([0, 0]) => frame[38..40] == 0x22b_u16.to_be_bytes(),
        Some([3, 13 | 0 | 1]) => true,
        _ => false,
    };
    world.until("an answer on the cable", |w| {
        w.card.capture.as_ref().unwrap().iter().filter(|f| f[6..12] == net::user::HOST_MAC.0).any(answered)
    });
    let frames = world.card.capture.take().unwrap();
    let answer = frames.iter().rfind(|f| f[6..12] == net::user::HOST_MAC.0).unwrap();
    println!("ping {}: type and code {:?}", own_address(), &answer[34..36]);
}
