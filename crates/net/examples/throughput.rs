//! How fast the user-mode network moves TCP data: a guest of the fewest possible instructions in front
//! of the engine, a host program behind it.
//!
//! `cargo run --release -p net --example throughput [MiB]`
//!
//! Prints, for each direction, with and without offloads: the rate, and the rate for each second that
//! the engine's thread (which also plays the guest) was on the CPU. Ends with request latencies.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use net::user::{Config, HOST_MAC, UserNet};
use net::{Accepts, Backend, Checksum, Guest, Nanos, Offload, Segmentation, Transmit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

const MSS: usize = 1460;
const HEADERS: usize = 14 + 20 + 20;
const GUEST: [u8; 4] = [10, 0, 2, 15];
const HOST: [u8; 4] = [10, 0, 2, 2];
const GUEST_PORT: u16 = 40000;
/// The window that the guest offers.
const WINDOW: u32 = 4 << 20;
const SCALE: u8 = 7;

/// The guest's end of one connection; takes every frame.
struct Peer {
    next: u32,
    received: u64,
    acked: u32,
    edge: u32,
    scale: u8,
    open: bool,
    frames: u64,
    last: Vec<u8>,
}

impl Guest for Peer {
    fn ready(&mut self) -> bool {
        true
    }

    fn deliver(&mut self, parts: &[&[u8]], _: Offload) -> bool {
        self.frames += 1;
        let headers = [parts[0], parts.get(1).copied().unwrap_or_default()].concat();
        if headers.len() < HEADERS || headers[12..14] != [8, 0] || headers[23] != 6 {
            return true;
        }
        let word = |at: usize| u32::from_be_bytes(headers[at..at + 4].try_into().expect("four bytes"));
        let syn = headers[47] & 2 != 0;
        let payload: usize = parts[2..].iter().map(|p| p.len()).sum();
        let (seq, ack) = (word(38), word(42));
        let window = u32::from(u16::from_be_bytes([headers[48], headers[49]]));
        if syn {
            self.next = seq.wrapping_add(1);
            self.scale = headers[54..].windows(3).find(|o| o[..2] == [3, 3]).map_or(0, |o| o[2]);
            self.open = true;
        } else if seq == self.next {
            self.next = self.next.wrapping_add(payload as u32);
            self.received += payload as u64;
            // What a guest would do with data: copy it once.
            self.last.clear();
            parts[2..].iter().for_each(|p| self.last.extend_from_slice(p));
        }
        self.acked = ack;
        self.edge = ack.wrapping_add(window << if syn { 0 } else { self.scale });
        true
    }
}

struct Bench {
    net: UserNet,
    peer: Peer,
    start: Instant,
    port: u16,
    seq: u32,
}

impl Bench {
    fn new(port: u16, offload: bool) -> Bench {
        let mut net = UserNet::new(Config::default()).expect("the default network");
        if offload {
            net.set_accepts(Accepts { checksum: true, tcp4: true, tcp6: true });
        }
        let peer =
            Peer { next: 0, received: 0, acked: 0, edge: 0, scale: 0, open: false, frames: 0, last: Vec::new() };
        let mut bench = Bench { net, peer, start: Instant::now(), port, seq: 1 };
        bench.send(2, &[2, 4, (MSS >> 8) as u8, MSS as u8, 1, 3, 3, SCALE], &[], Segmentation::None);
        bench.seq += 1;
        while !bench.peer.open {
            bench.turn(true);
        }
        bench.ack();
        bench
    }

    fn send(&mut self, flags: u8, options: &[u8], payload: &[u8], segmentation: Segmentation) {
        let mut frame = Vec::with_capacity(HEADERS + options.len() + payload.len());
        frame.extend(HOST_MAC.0);
        frame.extend([0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 0]);
        let length = (40 + options.len() + payload.len()) as u16;
        let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[12..16].copy_from_slice(&GUEST);
        ip[16..20].copy_from_slice(&HOST);
        let sum = !smoltcp::wire::checksum::data(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(ip);
        frame.extend(GUEST_PORT.to_be_bytes());
        frame.extend(self.port.to_be_bytes());
        frame.extend(self.seq.to_be_bytes());
        frame.extend(self.peer.next.to_be_bytes());
        frame.extend([((20 + options.len()) as u8) << 2, flags]);
        let window = (WINDOW >> if flags & 2 != 0 { SCALE as u32 + 2 } else { u32::from(SCALE) }).min(0xffff) as u16;
        frame.extend(window.to_be_bytes());
        frame.extend([0, 0, 0, 0]);
        frame.extend(options);
        frame.extend(payload);
        let offload = Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, segmentation };
        let now = self.now();
        assert_eq!(self.net.transmit(now, &frame, offload), Transmit::Taken);
    }

    fn now(&self) -> Nanos {
        Nanos(self.start.elapsed().as_nanos() as u64)
    }

    fn ack(&mut self) {
        self.send(0x10, &[], &[], Segmentation::None);
    }

    /// Lets the engine work; waits for the host if there was nothing and `wait` is set.
    fn turn(&mut self, wait: bool) {
        let frames = self.peer.frames;
        let now = self.now();
        self.net.poll(now, &mut self.peer);
        let immediately = self.net.deadline().is_some_and(|at| at <= now);
        if wait && self.peer.frames == frames && !immediately {
            let fd = self.net.event_fd().expect("the engine has one");
            let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)).expect("poll works");
        }
    }

    fn download(&mut self, total: u64) {
        let mut acked = self.peer.next;
        while self.peer.received < total {
            self.turn(true);
            if self.peer.next != acked {
                acked = self.peer.next;
                self.ack();
            }
        }
    }

    fn upload(&mut self, total: u64, piece: usize) {
        let data = vec![0x5a; piece];
        let mut sent = 0;
        while sent < total {
            let mut moved = false;
            for _ in 0..16 {
                let room = self.peer.edge.wrapping_sub(self.seq) as i32;
                let n = piece.min((total - sent) as usize);
                if room < n as i32 {
                    break;
                }
                let segmentation =
                    if n > MSS { Segmentation::Tcp4 { size: MSS as u16 } } else { Segmentation::None };
                self.send(0x10, &[], &data[..n], segmentation);
                self.seq = self.seq.wrapping_add(n as u32);
                sent += n as u64;
                moved = true;
            }
            self.turn(!moved);
        }
        while self.peer.acked != self.seq {
            self.turn(true);
        }
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn server(serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || listener.incoming().flatten().for_each(serve));
    port
}

fn measure(name: &str, total: u64, run: impl FnOnce() -> Bench) {
    let (start, busy) = (Instant::now(), cpu());
    let bench = run();
    let (wall, busy) = (start.elapsed().as_secs_f64(), (cpu() - busy).as_secs_f64());
    let gigabits = total as f64 * 8.0 / 1e9;
    println!(
        "{name:<28} {:6.2} Gbit/s   {:6.2} Gbit per CPU-second   {:>8} frames to the guest",
        gigabits / wall,
        gigabits / busy,
        bench.peer.frames
    );
}

fn main() {
    let megabytes: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1024);
    let total = megabytes << 20;
    let source = server(move |mut stream| {
        let data = vec![0x5a; 1 << 20];
        let mut left = total;
        while left > 0 {
            let n = left.min(data.len() as u64) as usize;
            if stream.write_all(&data[..n]).is_err() {
                return;
            }
            left -= n as u64;
        }
    });
    let sink = server(|mut stream| {
        let mut buffer = vec![0; 1 << 20];
        while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
    });
    println!("{megabytes} MiB each, host program on the same machine");
    for (text, offload) in [("offloads", true), ("1460-byte segments", false)] {
        measure(&format!("host to guest, {text}"), total, || {
            let mut bench = Bench::new(source, offload);
            bench.download(total);
            bench
        });
    }
    for (text, piece) in [("offloads", 44 * MSS), ("1460-byte segments", MSS)] {
        measure(&format!("guest to host, {text}"), total, || {
            let mut bench = Bench::new(sink, true);
            bench.upload(total, piece);
            bench
        });
    }
    latency();
}

/// One byte there and back, many times.
fn latency() {
    let echo = server(|mut stream| {
        stream.set_nodelay(true).expect("TCP");
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    });
    let mut bench = Bench::new(echo, true);
    let mut times: Vec<Duration> = Vec::new();
    for n in 0..20_000u64 {
        let start = Instant::now();
        bench.send(0x18, &[], &[7], Segmentation::None);
        bench.seq = bench.seq.wrapping_add(1);
        while bench.peer.received <= n {
            bench.turn(true);
        }
        times.push(start.elapsed());
    }
    times.sort();
    println!("1-byte request and answer: median {:?}, 99% {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
}
