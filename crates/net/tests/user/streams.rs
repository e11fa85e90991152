//! TCP in both directions.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use smoltcp::socket::tcp::State;
use smoltcp::wire::{IpAddress, IpEndpoint};

use crate::harness::*;

/// A host server on loopback; each connection is handled by `serve` in its own thread.
pub fn server(v6: bool, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind(if v6 { "[::1]:0" } else { "127.0.0.1:0" }).unwrap();
    let port = listener.local_addr().unwrap().port();
    // A longer backlog than the library's 128: otherwise the host's own SYN retries take seconds.
    socket2::SockRef::from(&listener).listen(4096).unwrap();
    let serve = std::sync::Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream.unwrap()));
        }
    });
    port
}

pub fn echo(mut stream: TcpStream) {
    let mut copy = stream.try_clone().unwrap();
    // An error here is the guest's reset.
    let _ = std::io::copy(&mut stream, &mut copy);
    let _ = copy.shutdown(Shutdown::Write);
}

pub fn host(v6: bool) -> IpAddress {
    if v6 { HOST6 } else { HOST4 }
}

#[test]
fn echo_and_close() {
    for v6 in [false, true] {
        let port = server(v6, echo);
        let mut world = World::new("");
        let socket = world.connect((host(v6), port), 65536);
        world.write(socket, b"hello");
        assert_eq!(world.read(socket, 5), b"hello");
        world.tcp(socket).close();
        assert_eq!(world.read_to_end(socket), b"");
        world.until("gone", |w| w.net.tables()[0] == 0);
    }
}

/// Both directions at once through windows smaller and larger than what is in flight.
#[track_caller]
fn bulk(v6: bool, buffer: usize, megabytes: usize, change: impl FnOnce(&mut Card), reorder: bool) -> World {
    let port = server(v6, echo);
    let mut world = World::with("", Vec::new(), change);
    world.reorder = reorder;
    let socket = world.connect((host(v6), port), buffer);
    let data = pattern(megabytes << 20);
    let (mut sent, mut got) = (0, Vec::new());
    world.until("everything came back", |w| {
        if w.tcp(socket).can_send() && sent < data.len() {
            sent += w.tcp(socket).send_slice(&data[sent..]).unwrap();
        }
        w.drain(socket, &mut got);
        got.len() >= data.len()
    });
    assert!(got == data, "the data was changed");
    world.tcp(socket).close();
    assert_eq!(world.read_to_end(socket), b"");
    world
}

#[test]
fn bulk_data_is_intact() {
    bulk(false, 65536, 16, |_| {}, false);
    bulk(true, 1 << 20, 16, |_| {}, false);
}

#[test]
fn bulk_data_with_offloads_travels_in_large_frames() {
    for v6 in [false, true] {
        let world = bulk(v6, 1 << 20, 16, |card| card.offload = true, false);
        assert!(world.card.large > 100, "{} large frames", world.card.large);
    }
}

#[test]
fn lost_frames_are_sent_again() {
    let world = bulk(false, 1 << 18, 4, |card| card.lose = Some(97), false);
    assert!(world.net.stats().retransmitted > 5);
    // With the losses of acknowledgements, SYNs and FINs.
    bulk(true, 20000, 1, |card| card.lose = Some(7), false);
}

#[test]
fn a_lost_syn_ack_does_not_shift_the_stream() {
    let port = server(false, |mut stream| stream.write_all(b"greeting").unwrap());
    let mut world = World::new("");
    // The guest's address is known, so the next frame to it is the SYN-ACK.
    let first = world.connect((HOST4, port), 4096);
    assert_eq!(world.read(first, 8), b"greeting");
    let second = world.connect((HOST4, port), 4096);
    world.card.lose = Some(1);
    world.settle();
    world.card.lose = None;
    assert_eq!(world.read(second, 8), b"greeting");
}

#[test]
fn frames_out_of_order_are_put_in_order() {
    bulk(false, 1 << 18, 4, |_| {}, true);
}

#[test]
fn a_refused_connection_is_reset() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut world = World::new("");
    let socket = world.connect((HOST4, port), 4096);
    world.until("refused", |w| w.tcp(socket).state() == State::Closed);
    assert_eq!(world.net.tables()[0], 0);
}

/// A caller that waits after `transmit` without a `poll` must not wait for long.
#[test]
fn a_transmitted_frame_makes_poll_due() {
    let mut world = World::new("");
    world.turn();
    let now = world.now();
    assert!(net::Backend::deadline(&world.net).is_none_or(|at| at > now));
    world.send_frame(&[0; 60]);
    assert!(net::Backend::deadline(&world.net).is_some_and(|at| at <= world.now()));
}

#[test]
fn the_hosts_loopback_has_no_other_door() {
    let port = server(false, echo);
    let mut world = World::new("");
    world.card.capture = Some(Vec::new());
    world.connect((IpAddress::v4(127, 0, 0, 1), port), 4096);
    // ICMP: host unreachable.
    let told = |f: &Vec<u8>| f.len() > 36 && f[6..12] == net::user::HOST_MAC.0 && f[23] == 1 && f[34..36] == [3, 1];
    world.until("the error", |w| w.card.capture.as_ref().unwrap().iter().any(told));
    assert_eq!(world.net.tables()[0], 0);
}

#[test]
fn half_close_by_the_guest() {
    let port = server(false, |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all.len().to_le_bytes()).unwrap();
    });
    let mut world = World::new("");
    let socket = world.connect((HOST4, port), 65536);
    let data = pattern(500_000);
    world.write(socket, &data);
    world.tcp(socket).close();
    assert_eq!(world.read_to_end(socket), data.len().to_le_bytes());
}

#[test]
fn half_close_by_the_host() {
    let (tell, told) = std::sync::mpsc::channel();
    let port = server(false, move |mut stream| {
        stream.write_all(&pattern(500_000)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        tell.send(all).unwrap();
    });
    let mut world = World::new("");
    let socket = world.connect((HOST4, port), 65536);
    world.established(socket);
    assert!(world.read_to_end(socket) == pattern(500_000));
    world.write(socket, &pattern(300_000));
    world.tcp(socket).close();
    world.until("the host got it", |w| w.tcp(socket).state() == State::Closed);
    assert!(told.recv().unwrap() == pattern(300_000));
}

#[test]
fn a_reset_by_the_host_reaches_the_guest() {
    let port = server(false, |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    });
    let mut world = World::new("");
    let socket = world.connect((HOST4, port), 65536);
    world.write(socket, b"x");
    world.until("reset", |w| w.tcp(socket).state() == State::Closed);
    world.until("forgotten", |w| w.net.tables()[0] == 0);
}

#[test]
fn a_reset_by_the_guest_reaches_the_host() {
    let (tell, told) = std::sync::mpsc::channel();
    let port = server(false, move |mut stream| {
        let error = stream.read(&mut [0; 10]).unwrap_err();
        tell.send(error.kind()).unwrap();
    });
    let mut world = World::new("");
    let socket = world.connect((HOST4, port), 65536);
    world.established(socket);
    world.settle();
    world.tcp(socket).abort();
    world.until("forgotten", |w| w.net.tables()[0] == 0);
    assert_eq!(told.recv().unwrap(), std::io::ErrorKind::ConnectionReset);
}

/// A slow side must not make the engine's memory grow, and must lose nothing.
#[test]
fn a_slow_guest_reader_closes_the_hosts_window() {
    let data = pattern(8 << 20);
    let copy = data.clone();
    let port = server(false, move |mut stream| stream.write_all(&copy).unwrap());
    let mut world = World::new("");
    let socket = world.connect((HOST4, port), 32768);
    world.established(socket);
    world.settle();
    assert!(world.net.buffered() <= 1 << 20, "{} bytes", world.net.buffered());
    assert!(world.read_to_end(socket) == data);
}

#[test]
fn a_slow_host_reader_closes_the_guests_window() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let port = server(false, move |mut stream| {
        wait.lock().unwrap().recv().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        tell.send(all).unwrap();
    });
    let mut world = World::new("");
    let data = pattern(16 << 20);
    let socket = world.connect((HOST4, port), 1 << 20);
    let mut sent = 0;
    world.established(socket);
    // Until nothing moves any more: the kernel's buffers and ours are full.
    for _ in 0..200 {
        if world.tcp(socket).can_send() {
            sent += world.tcp(socket).send_slice(&data[sent..]).unwrap();
        }
        world.turn();
    }
    world.settle();
    assert!(sent < data.len(), "the host takes nothing");
    assert!(world.net.buffered() <= 2 * net::user::RECEIVE_MAX, "{} bytes", world.net.buffered());
    go.send(()).unwrap();
    world.write(socket, &data[sent..]);
    world.tcp(socket).close();
    let mut all = None;
    world.until("the host got it", |_| {
        all = told.try_recv().ok();
        all.is_some()
    });
    assert!(all.unwrap() == data);
}

#[test]
fn a_guest_whose_ring_is_full_loses_nothing() {
    let data = pattern(1 << 20);
    let copy = data.clone();
    let port = server(false, move |mut stream| stream.write_all(&copy).unwrap());
    let mut world = World::new("");
    let socket = world.connect((HOST4, port), 65536);
    world.established(socket);
    world.card.stalled = true;
    world.settle();
    let before = world.net.stats();
    // Minutes in a stopped guest must not look like a dead peer.
    for _ in 0..100 {
        world.advance(std::time::Duration::from_secs(10));
    }
    assert_eq!(world.net.stats().frames_out, before.frames_out);
    world.card.stalled = false;
    assert!(world.read_to_end(socket) == data);
}

#[test]
fn two_thousand_connections_at_once() {
    let port = server(false, echo);
    let mut world = World::new("");
    let sockets: Vec<_> = (0..2000).map(|_| world.connect((HOST4, port), 2048)).collect();
    world.until("all established", |w| sockets.iter().all(|&s| w.tcp(s).state() == State::Established));
    assert_eq!(world.net.tables()[0], 2000);
    for (n, &socket) in sockets.iter().enumerate() {
        world.tcp(socket).send_slice(format!("number {n:5}").as_bytes()).unwrap();
    }
    world.until("all answered", |w| sockets.iter().all(|&s| w.tcp(s).recv_queue() == 12));
    for (n, &socket) in sockets.iter().enumerate() {
        assert_eq!(world.read(socket, 12), format!("number {n:5}").as_bytes());
    }
    assert!(world.net.buffered() < 64 << 20);
    for &socket in &sockets {
        world.tcp(socket).close();
    }
    world.until("all gone", |w| w.net.tables()[0] == 0);
}

fn forwarded_port(world: &World) -> u16 {
    let text = net::Backend::usernet(&world.net).unwrap();
    let line = text.lines().find(|l| l.contains("HOST_FORWARD")).expect("a forwarded port");
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn a_forwarded_port_reaches_the_guest() {
    for (rule, address, v6) in [
        ("hostfwd=tcp:127.0.0.1:0-:22", "127.0.0.1", false),
        ("hostfwd=tcp:[::1]:0-:22", "::1", false),
        ("hostfwd=tcp:[::1]:0-[fec0::15]:22", "::1", true),
    ] {
        let mut world = World::new(rule);
        let socket = world.listen(22);
        let port = forwarded_port(&world);
        let client = thread::spawn(move || {
            let mut stream = TcpStream::connect((address, port)).unwrap();
            stream.write_all(b"from the host").unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        });
        assert_eq!(world.read(socket, 13), b"from the host");
        let seen = world.tcp(socket).remote_endpoint().unwrap();
        assert_eq!(seen.addr, if v6 { HOST6 } else { HOST4 }, "the host's programs look like the virtual host");
        world.write(socket, b"from the guest");
        world.tcp(socket).close();
        world.until("client done", |_| client.is_finished());
        assert_eq!(client.join().unwrap(), b"from the guest");
    }
}

#[test]
fn a_forwarded_port_without_listener_is_reset() {
    let mut world = World::new("hostfwd=tcp:127.0.0.1:0-:22");
    let port = forwarded_port(&world);
    let client = thread::spawn(move || TcpStream::connect(("127.0.0.1", port)).unwrap().read(&mut [0; 10]));
    world.until("client done", |_| client.is_finished());
    assert_eq!(client.join().unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_unix_socket_reaches_the_guest() {
    let path = std::env::temp_dir().join(format!("net-hostfwd-{}.sock", std::process::id()));
    let mut world = World::new(&format!("hostfwd=unix:{}-:22", path.display()));
    let socket = world.listen(22);
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    client.write_all(b"abc").unwrap();
    assert_eq!(world.read(socket, 3), b"abc");
    drop(world);
    assert!(!path.exists(), "the socket is removed");
}

#[test]
fn forwarding_can_be_changed_while_running() {
    let mut world = World::new("");
    let socket = world.listen(22);
    world.net.add_forward("tcp:127.0.0.1:0-:22").unwrap();
    let port = forwarded_port(&world);
    let busy = world.net.add_forward(&format!("tcp:127.0.0.1:{port}-:22")).unwrap_err().to_string();
    assert!(busy.starts_with(&format!("Could not set up host forwarding rule 'tcp:127.0.0.1:{port}-:22'")), "{busy}");
    let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    world.established(socket);
    assert!(world.net.remove_forward("tcp:127.0.0.1:0").unwrap());
    assert!(!world.net.remove_forward("tcp:127.0.0.1:0").unwrap());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn a_guest_forward_runs_a_command_for_each_connection() {
    let mut world = World::new("guestfwd=tcp:10.0.2.100:1234-cmd:tr a-z A-Z,restrict=on");
    let server = IpEndpoint::new(IpAddress::v4(10, 0, 2, 100), 1234);
    for text in ["first", "second"] {
        let socket = world.connect(server, 4096);
        world.write(socket, text.as_bytes());
        world.tcp(socket).close();
        assert_eq!(world.read_to_end(socket), text.to_uppercase().as_bytes());
    }
}

#[test]
fn a_guest_forward_reaches_a_chardev() {
    use std::os::fd::OwnedFd;
    let mut world = World::new("guestfwd=tcp:10.0.2.100:80-chardev:web");
    let (send, dialled) = std::sync::mpsc::channel();
    let dial = move || {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        send.send(ours).unwrap();
        Ok(OwnedFd::from(theirs))
    };
    world.net.attach_chardev("10.0.2.100:80".parse().unwrap(), net::user::Dial(Box::new(dial)));
    // Each connection has a stream of its own, so that the end of the first is not the end of all.
    for _ in 0..2 {
        let socket = world.connect((IpAddress::v4(10, 0, 2, 100), 80), 4096);
        world.write(socket, b"hi");
        let mut ours = dialled.recv().unwrap();
        let mut got = [0; 2];
        world.until("sent", |w| w.tcp(socket).send_queue() == 0);
        ours.read_exact(&mut got).unwrap();
        ours.write_all(b"ho").unwrap();
        assert_eq!((&got, &world.read(socket, 2)[..]), (b"hi", &b"ho"[..]));
        world.tcp(socket).close();
        drop(ours);
        assert_eq!(world.read_to_end(socket), b"");
    }
}

#[test]
fn a_silent_guest_is_given_up_and_the_host_side_reset() {
    let mut world = World::new("hostfwd=tcp:127.0.0.1:0-:22");
    let socket = world.listen(22);
    let port = forwarded_port(&world);
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    world.established(socket);
    world.card.lose = Some(1);
    client.write_all(b"anybody there?").unwrap();
    world.until("given up", |w| {
        w.advance(std::time::Duration::from_secs(61));
        w.net.tables()[0] == 0
    });
    assert!(client.read(&mut [0; 1]).is_err());
}

#[test]
fn an_idle_guest_is_probed_and_a_dead_one_dropped() {
    let port = server(false, echo);
    let mut world = World::new("");
    let socket = world.connect((HOST4, port), 4096);
    world.established(socket);
    world.settle();
    world.advance(net::user::KEEPALIVE_IDLE + net::user::KEEPALIVE_INTERVAL);
    world.settle();
    assert_eq!(world.tcp(socket).state(), State::Established, "it answered the probe");
    world.card.lose = Some(1);
    world.advance(net::user::KEEPALIVE_IDLE);
    for _ in 0..=net::user::KEEPALIVE_PROBES {
        world.advance(net::user::KEEPALIVE_INTERVAL);
    }
    assert_eq!(world.net.tables()[0], 0);
}

/// More connections than the table holds, one after the other: those that only wait for stray segments
/// make room.
#[test]
fn closed_connections_make_room_for_new_ones() {
    let port = server(false, drop);
    let mut world = World::new("");
    let first = world.connect((HOST4, port), 2048);
    world.until("the host closed", |w| w.tcp(first).state() == State::CloseWait);
    world.sockets.remove(first);
    let mut opened = 0;
    while opened < net::user::MAX_CONNECTIONS + 300 {
        let sockets: Vec<_> = (0..256).map(|_| world.connect((HOST4, port), 64)).collect();
        opened += sockets.len();
        world.until("all closed by the host", |w| {
            sockets.iter().for_each(|&s| if w.tcp(s).state() == State::CloseWait { w.tcp(s).close() });
            sockets.iter().all(|&s| w.tcp(s).state() == State::Closed)
        });
        sockets.into_iter().for_each(|s| drop(world.sockets.remove(s)));
    }
    assert!(world.net.tables()[0] <= net::user::MAX_CONNECTIONS);
    assert_eq!(world.net.stats().refused, 0);
}
