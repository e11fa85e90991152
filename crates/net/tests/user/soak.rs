//! Many connections, of every kind and end, over a cable that loses frames: once in every test run, for hours with
//! `SOAK_SECONDS` (then memory and descriptors are watched as well).

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::harness::*;
use crate::streams::{echo, host, server};

/// Connections of one round.
const ROUND: usize = 300;
/// Connections at once.
const TOGETHER: usize = 24;
/// Servers for each IP version: a host has 28,000 ports for connections to one of them within a minute.
const SERVERS: usize = 8;
/// From here on nothing new is expected in memory.
const WARM: Duration = Duration::from_secs(60);
/// How long a round may take then.
const PATIENCE: Duration = Duration::from_secs(600);
/// What the process may grow by after that: the allocator's own business.
const SLACK: usize = 16 << 20;

/// What one connection does.
struct Client {
    socket: SocketHandle,
    send: usize,
    sent: usize,
    got: usize,
    /// Reset by the guest after so many bytes.
    abort_at: Option<usize>,
    ended: bool,
    done: bool,
}

/// What the guest talks to.
struct Peers {
    tcp: [Vec<u16>; 2],
    udp: u16,
    data: Vec<u8>,
}

impl Peers {
    fn new() -> Peers {
        let tcp = [false, true].map(|v6| (0..SERVERS).map(|_| server(v6, echo)).collect());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let udp = socket.local_addr().unwrap().port();
        thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..length], from).unwrap();
            }
        });
        Peers { tcp, udp, data: pattern(200_000) }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|s| s.parse().ok())
}

#[test]
fn random_connections_leave_nothing_behind() {
    let seed = setting("SOAK_SEED").unwrap_or(7);
    let total = setting("SOAK_CONNECTIONS").unwrap_or(ROUND as u64) as usize;
    let length = setting("SOAK_SECONDS").map(Duration::from_secs);
    println!("SOAK_SEED={seed} SOAK_CONNECTIONS={total}");
    let mut state = seed | 1;
    let mut random = move |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let peers = Peers::new();
    let mut world = World::new("");
    if length.is_some() {
        // It runs behind everything else on the machine.
        world.patience = PATIENCE;
    }
    let mut watch = Watch::new();
    loop {
        round(&mut world, &peers, total, &mut random);
        watch.round(total);
        if length.is_none_or(|length| watch.start.elapsed() >= length) {
            return watch.end();
        }
    }
}

/// Starts and ends `total` connections, and some datagrams beside them.
fn round(world: &mut World, peers: &Peers, total: usize, random: &mut impl FnMut(usize) -> usize) {
    world.card.lose = Some(211);
    world.reorder = true;
    let (mut clients, mut started) = (Vec::<Client>::new(), 0);
    let udp = world.udp_socket();
    world.until("all ended", |w| {
        while started < total && clients.len() < TOGETHER {
            let v6 = random(2) == 0;
            let port = peers.tcp[usize::from(v6)][random(SERVERS)];
            let socket = w.connect((host(v6), port), 1 << (11 + random(6)));
            let send = [0, 1, 1000, 65536, peers.data.len()][random(5)];
            let abort_at = (random(4) == 0).then(|| random(send + 1));
            clients.push(Client { socket, send, sent: 0, got: 0, abort_at, ended: false, done: false });
            started += 1;
            let size = random(3000);
            let _ = w.udp(udp).send_slice(&peers.data[..size], (HOST4, peers.udp));
        }
        while w.udp(udp).can_recv() {
            let (data, _) = w.udp(udp).recv().unwrap();
            assert!(*data == peers.data[..data.len()], "a datagram was changed");
        }
        for client in &mut clients {
            drive(w, client, &peers.data);
        }
        let ended: Vec<_> = clients.extract_if(.., |c| c.done).collect();
        for client in ended {
            w.sockets.remove(client.socket);
        }
        started == total && clients.is_empty()
    });
    world.sockets.remove(udp);
    world.card.lose = None;
    world.until("no connection is left", |w| {
        w.advance(Duration::from_secs(5));
        // Pieces of a datagram that lost one wait for a while, too.
        w.net.tables()[..2] == [0, 0] && w.net.buffered() == 0
    });
}

fn drive(world: &mut World, client: &mut Client, data: &[u8]) {
    let socket = world.tcp(client.socket);
    if client.abort_at.is_some_and(|at| client.got >= at) && socket.state() == State::Established {
        socket.abort();
    }
    while socket.can_recv() {
        let got = socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap();
        assert!(got == data[client.got..client.got + got.len()], "the data was changed");
        client.got += got.len();
    }
    if socket.can_send() && client.sent < client.send {
        client.sent += socket.send_slice(&data[client.sent..client.send]).unwrap();
    }
    if client.sent == client.send && socket.state() == State::Established {
        socket.close();
    }
    // One more round after the end, so that a reset is really sent.
    client.done = client.ended;
    client.ended = matches!(socket.state(), State::Closed | State::TimeWait);
    if client.done && client.abort_at.is_none() {
        assert_eq!(
            client.got,
            client.send,
            "an orderly end came early: {:?} sent {}",
            world.tcp(client.socket),
            client.sent
        );
    }
}

/// Memory and descriptors of this process, from one round to the next.
struct Watch {
    start: Instant,
    shown: Instant,
    connections: usize,
    /// When everything had its size: bytes, and the descriptors that were open at the ends of rounds.
    warm: Option<(usize, BTreeSet<usize>)>,
    most: usize,
}

impl Watch {
    fn new() -> Watch {
        let now = Instant::now();
        Watch { start: now, shown: now, connections: 0, warm: None, most: 0 }
    }

    fn round(&mut self, connections: usize) {
        self.connections += connections;
        let now = self.start.elapsed();
        let (memory, files) = (resident(), descriptors());
        if now >= WARM {
            let (_, counts) = self.warm.get_or_insert_with(|| (memory, BTreeSet::new()));
            counts.insert(files);
            self.most = self.most.max(memory);
        }
        if self.shown.elapsed() > Duration::from_secs(30) {
            self.shown = Instant::now();
            let connections = self.connections;
            println!("{:6} s {connections:9} connections {:8} KiB {files:4} descriptors", now.as_secs(), memory >> 10);
        }
    }

    fn end(&self) {
        println!("{} connections in {} s", self.connections, self.start.elapsed().as_secs());
        let Some((memory, files)) = &self.warm else { return };
        println!("{} KiB when warm, {} KiB at most; descriptors {files:?}", memory >> 10, self.most >> 10);
        assert!(self.most < memory + SLACK, "memory grew from {memory} to {} bytes", self.most);
        // Threads of the servers may still hold their end of the last few.
        assert!(files.last().unwrap() - files.first().unwrap() <= 2 * TOGETHER, "descriptors: {files:?}");
    }
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * rustix::param::page_size()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
