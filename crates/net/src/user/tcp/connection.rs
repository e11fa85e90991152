//! One TCP connection: the guest's end in RFC 9293 terms, the host's end as a socket.
//!
//! | event | effect |
//! |---|---|
//! | guest SYN | the host socket connects; SYN-ACK only when it succeeded, RST or ICMP when not |
//! | guest FIN | everything before it is delivered, then `shutdown(SHUT_WR)` |
//! | guest RST | the host socket is closed with RST |
//! | host end of file | everything before it is delivered, then FIN |
//! | host error | RST |
//!
//! Reference: RFC 9293 3.10, RFC 5961 (RST and SYN must match exactly; otherwise a challenge ACK).

use std::net::SocketAddr;
use std::time::Duration;

use socket2::Socket;

use super::receive::{RECEIVE_MAX, Receiver, WINDOW_SCALE};
use super::segment::{Header, MAX_HEADER, Segment, Seq};
use super::send::{SEND_MAX, Sender};
use crate::backend::{Guest, Nanos};
use crate::slab::Key;
use crate::user::link::{IPV4, IPV6, Link, Sent, protocol};

/// Between two answers to segments without data that do not fit; Linux waits as long.
const CHALLENGE_PAUSE: Duration = Duration::from_millis(500);
/// How long a closed connection still answers a repeated FIN.
pub const TIME_WAIT: Duration = Duration::from_secs(5);
/// An idle connection's guest is asked whether it still exists.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(7200);
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(75);
pub const KEEPALIVE_PROBES: u32 = 9;
/// Empty buffers are kept this long: a busy connection would get them again at once.
const RELEASE_AFTER: Duration = Duration::from_secs(1);
/// Bytes sent to the guest before other connections get their turn.
const TURN: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The host socket is connecting; the guest has heard nothing yet.
    Connecting,
    /// We accepted a host connection and send SYN to the guest.
    SynSent,
    /// The host is connected; SYN-ACK is sent or to be sent.
    SynReceived,
    Open,
    TimeWait,
    Closed,
}

/// What a turn left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Idle,
    /// More could be done at once.
    More,
    /// The guest takes no frames.
    Blocked,
}

/// What an arriving segment asks of the table of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Done,
    /// A new SYN for a connection that never came about, or is only kept for stray segments.
    Reopen,
}

#[derive(Debug)]
pub struct Connection {
    pub guest: SocketAddr,
    pub remote: SocketAddr,
    pub socket: Option<Socket>,
    pub phase: Phase,
    pub readable: bool,
    pub writable: bool,
    /// The host has closed its side, or both: reads are worth trying until they say so.
    pub host_closed: bool,
    shut: bool,
    pub rx: Receiver,
    pub tx: Sender,
    initial: Seq,
    handshake_due: bool,
    probe_due: bool,
    cable: usize,
    last_heard: Nanos,
    keepalives: u32,
    last_probe: Nanos,
    /// When a segment that does not fit was answered.
    challenged: Option<Nanos>,
    /// Our FIN went out before the guest's came in.
    closed_first: bool,
    time_wait: Option<Nanos>,
    /// When empty buffers give their memory back.
    release_at: Option<Nanos>,
    pub queued: bool,
    pub armed: Option<Nanos>,
    /// Who accepted it, if it came through `hostfwd`.
    pub listener: Option<Key>,
    /// Memory accounted for in the table's total.
    pub accounted: usize,
}

impl Connection {
    fn new(link: &Link, guest: SocketAddr, remote: SocketAddr, socket: Socket, initial: Seq, phase: Phase) -> Self {
        let ip_header = if guest.is_ipv4() { IPV4 } else { IPV6 };
        Connection {
            guest,
            remote,
            socket: Some(socket),
            phase,
            readable: false,
            writable: false,
            host_closed: false,
            shut: false,
            rx: Receiver::default(),
            tx: Sender::new(initial),
            initial,
            handshake_due: phase == Phase::SynSent,
            probe_due: false,
            cable: link.mtu - ip_header - 20,
            last_heard: link.now,
            keepalives: 0,
            last_probe: link.now,
            challenged: None,
            closed_first: false,
            time_wait: None,
            release_at: None,
            queued: false,
            armed: None,
            listener: None,
            accounted: 0,
        }
    }

    /// The guest opens a connection; `socket` is connecting.
    pub fn outgoing(link: &Link, syn: &Segment, socket: Socket, initial: Seq) -> Connection {
        let mut connection = Connection::new(link, syn.guest, syn.remote, socket, initial, Phase::Connecting);
        connection.peer_syn(syn);
        connection
    }

    /// A host program has opened a connection to a forwarded port.
    pub fn incoming(link: &Link, guest: SocketAddr, remote: SocketAddr, socket: Socket, initial: Seq) -> Connection {
        let mut connection = Connection::new(link, guest, remote, socket, initial, Phase::SynSent);
        (connection.readable, connection.writable) = (true, true);
        connection.rx.sack = true;
        connection
    }

    fn peer_syn(&mut self, syn: &Segment) {
        self.rx.start(syn.seq.plus(1));
        self.tx.peer_options(syn.mss, self.cable);
        self.tx.window = usize::from(syn.window);
        if let Some(scale) = syn.window_scale {
            self.tx.scale = scale;
            self.rx.scale = WINDOW_SCALE;
        }
        self.rx.sack = syn.sack_permitted;
    }

    /// The host socket has connected.
    pub fn host_connected(&mut self) {
        self.phase = Phase::SynReceived;
        self.handshake_due = true;
        (self.readable, self.writable) = (true, true);
    }

    /// Processes a segment; answers are sent by the next [`Connection::step`].
    pub fn segment(&mut self, link: &mut Link, segment: &Segment, limit: usize) -> Arrival {
        self.last_heard = link.now;
        self.keepalives = 0;
        let new_syn = segment.syn && segment.ack.is_none() && !segment.rst;
        match self.phase {
            // The guest has forgotten its first try (it was reset, say).
            Phase::Connecting | Phase::SynReceived if new_syn && segment.seq.plus(1) != self.rx.next => Arrival::Reopen,
            Phase::Connecting => {
                if segment.rst && segment.seq == self.rx.next {
                    self.close_host_with_reset();
                }
                Arrival::Done
            }
            Phase::SynSent => self.answer_to_syn(link, segment),
            Phase::TimeWait if new_syn => Arrival::Reopen,
            Phase::Closed => Arrival::Done,
            _ => self.synchronized(link, segment, limit),
        }
    }

    fn answer_to_syn(&mut self, link: &mut Link, segment: &Segment) -> Arrival {
        if let Some(ack) = segment.ack
            && ack != self.initial.plus(1)
        {
            if !segment.rst {
                reset_for(link, segment);
            }
            return Arrival::Done;
        }
        if segment.rst {
            // Refused. An RST without ACK proves nothing here.
            if segment.ack.is_some() {
                self.close_host_with_reset();
            }
            return Arrival::Done;
        }
        if segment.syn && segment.ack.is_some() {
            let scaled = segment.window_scale.is_some();
            self.peer_syn(segment);
            self.rx.scale = if scaled { WINDOW_SCALE } else { 0 };
            self.tx.established(usize::from(segment.window), segment.seq, link.now);
            self.phase = Phase::Open;
            self.rx.owed = true;
        }
        Arrival::Done
    }

    fn synchronized(&mut self, link: &mut Link, segment: &Segment, limit: usize) -> Arrival {
        if segment.rst {
            if segment.seq == self.rx.next {
                self.close_host_with_reset();
            } else if self.rx.in_window(segment.seq) {
                self.challenge(link.now);
            }
            return Arrival::Done;
        }
        if segment.syn {
            // Our SYN-ACK was lost, or a challenge is due.
            match self.phase {
                Phase::SynReceived if segment.seq.plus(1) == self.rx.next => self.handshake_due = true,
                _ => self.challenge(link.now),
            }
            return Arrival::Done;
        }
        let pure = segment.len() == 0;
        let acceptable = self.rx.acceptable(segment.seq, segment.len());
        if !acceptable {
            self.correct(pure, link.now);
        }
        let Some(ack) = segment.ack else { return Arrival::Done };
        let window = usize::from(segment.window) << self.tx.scale;
        if self.phase == Phase::SynReceived {
            if ack != self.initial.plus(1) {
                reset_for(link, segment);
                return Arrival::Done;
            }
            self.tx.established(window, segment.seq, link.now);
            self.phase = Phase::Open;
        }
        // An old acknowledgement is harmless; one for the future is answered with what we have sent.
        if !self.tx.acknowledge(ack, window, segment.seq, pure, link.now) {
            self.correct(pure, link.now);
            return Arrival::Done;
        }
        if self.rx.sack {
            self.tx.selective(segment.sack.iter().flatten().copied());
        }
        if acceptable && self.phase == Phase::Open {
            let took = self.rx.data(
                segment.seq,
                segment.payload,
                segment.fin,
                self.socket.as_ref(),
                &mut self.writable,
                limit,
            );
            if took.is_err() {
                self.abort(link);
            }
        }
        Arrival::Done
    }

    /// Tells the guest where we are; without data in the segment not too often.
    fn correct(&mut self, pure: bool, now: Nanos) {
        if pure { self.challenge(now) } else { self.rx.owed = true }
    }

    /// Answers what may be an answer: two sides that disagree would never stop (RFC 5961, 7).
    fn challenge(&mut self, now: Nanos) {
        if self.challenged.is_none_or(|last| now.since(last) >= CHALLENGE_PAUSE) {
            self.challenged = Some(now);
            self.rx.owed = true;
        }
    }

    /// One turn: moves data both ways and sends what is due.
    pub fn step(&mut self, link: &mut Link, guest: &mut dyn Guest, limit: usize) -> Step {
        let outcome = match self.phase {
            Phase::Connecting | Phase::Closed => Step::Idle,
            Phase::SynSent | Phase::SynReceived => self.handshake(link, guest, limit),
            Phase::TimeWait => self.acknowledge_if_owed(link, guest, limit),
            Phase::Open => match self.open(link, guest, limit) {
                Ok(step) => step,
                Err(_) => {
                    self.abort(link);
                    Step::Idle
                }
            },
        };
        self.finish(link.now);
        outcome
    }

    fn handshake(&mut self, link: &mut Link, guest: &mut dyn Guest, limit: usize) -> Step {
        if !self.handshake_due {
            return Step::Idle;
        }
        let answer = self.phase == Phase::SynReceived;
        let scaled = !answer || self.rx.scale > 0;
        let header = Header {
            seq: self.initial,
            ack: answer.then_some(self.rx.next),
            syn: true,
            window: if answer { self.rx.offer_in_syn(limit) } else { 0xffff },
            mss: Some(self.cable as u16),
            window_scale: scaled.then_some(WINDOW_SCALE),
            sack_permitted: self.rx.sack,
            ..self.header(None)
        };
        self.tx.start_timer(link.now);
        match self.emit(link, guest, &header, (&[], &[])) {
            Sent::Delivered => {
                self.handshake_due = false;
                Step::Idle
            }
            Sent::Blocked => Step::Blocked,
        }
    }

    fn open(&mut self, link: &mut Link, guest: &mut dyn Guest, limit: usize) -> std::io::Result<Step> {
        if let Some(socket) = &self.socket {
            self.rx.flush(socket, &mut self.writable)?;
            if self.rx.drained() && !self.shut {
                self.shut = true;
                // The peer may have closed completely in the meantime; reading will tell.
                let _ = socket.shutdown(std::net::Shutdown::Write);
            }
        }
        let step = self.send_data(link, guest, limit)?;
        if step == Step::Blocked {
            return Ok(step);
        }
        if self.rx.window_opened(limit, self.cable) {
            self.rx.owed = true;
        }
        match self.acknowledge_if_owed(link, guest, limit) {
            Step::Blocked => Ok(Step::Blocked),
            _ => Ok(step),
        }
    }

    fn send_data(&mut self, link: &mut Link, guest: &mut dyn Guest, limit: usize) -> std::io::Result<Step> {
        let limit = limit.min(SEND_MAX);
        let largest = link.largest_payload(self.guest.is_ipv6(), self.tx.segment_size);
        while let Some((start, n)) = self.tx.lost() {
            let offset = start.distance(self.tx.una);
            if self.emit_data(link, guest, start, offset, n, false) == Sent::Blocked {
                return Ok(Step::Blocked);
            }
            link.stats.retransmitted += 1;
            self.tx.resent(start, n);
            self.tx.start_timer(link.now);
        }
        let mut sent = 0;
        while sent < TURN {
            if let Some(socket) = &self.socket {
                self.tx.fill(socket, &mut self.readable, self.host_closed, limit)?;
            }
            let n = self.tx.next_length(largest);
            let fin = self.tx.eof && n == self.tx.unsent() && !self.tx.fin_acked && self.fin_follows(n);
            if n == 0 && !fin {
                return Ok(self.nothing_to_send(link, guest));
            }
            let offset = self.tx.in_flight().min(self.tx.ring.len());
            let again = self.tx.next != self.tx.max;
            if self.emit_data(link, guest, self.tx.next, offset, n, fin) == Sent::Blocked {
                return Ok(Step::Blocked);
            }
            link.stats.retransmitted += u64::from(again);
            self.tx.sent(n, fin, link.now);
            self.closed_first |= fin && !self.rx.finished;
            sent += n.max(1);
        }
        Ok(Step::More)
    }

    /// Whether the FIN comes right after the next `n` bytes (and not a second time).
    fn fin_follows(&self, n: usize) -> bool {
        self.tx.in_flight() + n == self.tx.ring.len()
    }

    fn nothing_to_send(&mut self, link: &mut Link, guest: &mut dyn Guest) -> Step {
        if self.tx.needs_probe() {
            self.tx.start_timer(link.now);
        }
        if !std::mem::take(&mut self.probe_due) {
            return Step::Idle;
        }
        // A byte that the guest has already: it must answer with its window.
        let window = self.rx.offer(RECEIVE_MAX, self.cable);
        let header = Header { seq: self.tx.una.minus(1), window, ..self.header(Some(self.rx.next)) };
        match self.emit(link, guest, &header, (&[], &[])) {
            Sent::Delivered => Step::Idle,
            Sent::Blocked => {
                self.probe_due = true;
                Step::Blocked
            }
        }
    }

    fn acknowledge_if_owed(&mut self, link: &mut Link, guest: &mut dyn Guest, limit: usize) -> Step {
        if !self.rx.owed {
            return Step::Idle;
        }
        let copies = 1 + self.rx.take_duplicates();
        let window = self.rx.offer(limit, self.cable);
        let sack = self.rx.sack_ranges();
        let header = Header { seq: self.tx.max, window, sack, ..self.header(Some(self.rx.next)) };
        for _ in 0..copies {
            if self.emit(link, guest, &header, (&[], &[])) == Sent::Blocked {
                return Step::Blocked;
            }
        }
        self.rx.owed = false;
        Step::Idle
    }

    fn header(&self, ack: Option<Seq>) -> Header {
        Header {
            source_port: self.remote.port(),
            destination_port: self.guest.port(),
            seq: self.tx.next,
            ack,
            syn: false,
            fin: false,
            rst: false,
            push: false,
            window: 0,
            mss: None,
            window_scale: None,
            sack_permitted: false,
            sack: [None; 3],
        }
    }

    fn emit_data(
        &mut self,
        link: &mut Link,
        guest: &mut dyn Guest,
        seq: Seq,
        offset: usize,
        n: usize,
        fin: bool,
    ) -> Sent {
        let window = self.rx.offer(RECEIVE_MAX, self.cable);
        let push = n > 0 && offset + n == self.tx.ring.len();
        let header = Header { seq, window, fin, push, ..self.header(Some(self.rx.next)) };
        let sent = self.emit(link, guest, &header, self.tx.ring.peek(offset, n));
        // SACK options have no room beside a full segment: they go with a segment of their own.
        if sent == Sent::Delivered && self.rx.sack_ranges()[0].is_none() {
            self.rx.owed = false;
        }
        sent
    }

    fn emit(&self, link: &mut Link, guest: &mut dyn Guest, header: &Header, payload: (&[u8], &[u8])) -> Sent {
        let mut buffer = [0; MAX_HEADER];
        let length = header.write(&mut buffer);
        let ends = (self.remote.ip(), self.guest.ip());
        link.send_tcp(guest, ends, &mut buffer[..length], payload, self.tx.segment_size)
    }

    /// Notices that both directions are done, or idle.
    fn finish(&mut self, now: Nanos) {
        let idle = self.memory() > 0 && self.rx.is_empty() && self.tx.ring.is_empty();
        self.release_at = idle.then(|| now.after(RELEASE_AFTER));
        if self.phase == Phase::Open && self.tx.fin_acked && self.rx.drained() {
            self.socket = None;
            self.tx.ring.release();
            self.rx.ring.release();
            // Whoever closes first waits for stray segments.
            self.phase = if self.closed_first { Phase::TimeWait } else { Phase::Closed };
            self.time_wait = Some(now.after(TIME_WAIT));
        }
    }

    /// When [`Connection::expired`] wants to run.
    pub fn deadline(&self) -> Option<Nanos> {
        match self.phase {
            Phase::Closed | Phase::Connecting => None,
            Phase::TimeWait => self.time_wait,
            _ => {
                let keepalive = match self.keepalives {
                    0 => self.last_heard.after(KEEPALIVE_IDLE),
                    _ => self.last_probe.after(KEEPALIVE_INTERVAL),
                };
                [Some(keepalive), self.tx.timer, self.release_at].into_iter().flatten().min()
            }
        }
    }

    /// Runs the timers that are due. True if a turn is needed.
    pub fn expired(&mut self, link: &mut Link, guest: &mut dyn Guest) -> bool {
        let now = link.now;
        if self.deadline().is_none_or(|at| at > now) {
            return false;
        }
        if self.phase == Phase::TimeWait {
            self.phase = Phase::Closed;
            return true;
        }
        if self.release_at.is_some_and(|at| at <= now) {
            self.release_at = None;
            self.rx.ring.release();
            self.tx.ring.release();
            return true;
        }
        if self.tx.timer.is_some_and(|at| at <= now) {
            if !guest.ready() {
                // Not the peer's silence: its machine takes no frames (stopped, or busy).
                self.tx.postpone(now);
                return false;
            }
            self.tx.timer = None;
            if !self.tx.timeout(now) {
                self.abort(link);
                return true;
            }
            match self.phase {
                Phase::SynSent | Phase::SynReceived => self.handshake_due = true,
                _ => self.probe_due = self.tx.window == 0,
            }
            return true;
        }
        self.keepalives += 1;
        self.last_probe = now;
        if self.keepalives > KEEPALIVE_PROBES {
            self.abort(link);
        } else {
            self.probe_due = true;
        }
        true
    }

    /// The host's end failed: the guest gets an RST.
    pub fn abort(&mut self, link: &mut Link) {
        if !matches!(self.phase, Phase::Closed | Phase::Connecting) {
            let header = Header { seq: self.tx.max, rst: true, ..self.header(Some(self.rx.next)) };
            let ack = (self.phase != Phase::SynSent).then_some(self.rx.next);
            push_segment(link, self.remote, self.guest, &Header { ack, ..header });
        }
        self.close_host_with_reset();
    }

    fn close_host_with_reset(&mut self) {
        if let Some(socket) = self.socket.take() {
            // Closing with linger zero sends RST. Not all sockets know it (Unix ones just close).
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
        self.phase = Phase::Closed;
    }

    /// The state of the guest's peer in the words of RFC 9293.
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Connecting | Phase::SynSent => "SYN_SENT",
            Phase::SynReceived => "SYN_RCVD",
            Phase::TimeWait => "TIME_WAIT",
            Phase::Closed => "CLOSED",
            Phase::Open => match (self.tx.fin_sent, self.tx.fin_acked, self.rx.finished) {
                (false, _, false) => "ESTABLISHED",
                (false, _, true) => "CLOSE_WAIT",
                (true, false, false) => "FIN_WAIT_1",
                (true, true, false) => "FIN_WAIT_2",
                (true, _, true) => "LAST_ACK",
            },
        }
    }

    pub fn memory(&self) -> usize {
        self.rx.ring.capacity() + self.tx.ring.capacity()
    }
}

/// Queues a segment without data.
fn push_segment(link: &mut Link, source: SocketAddr, destination: SocketAddr, header: &Header) {
    use crate::checksum::Sum;
    let mut buffer = [0; MAX_HEADER];
    let length = header.write(&mut buffer);
    let bytes = &mut buffer[..length];
    let sum = Sum::pseudo(source.ip(), destination.ip(), protocol::TCP, length).bytes(bytes).finish();
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    link.send_ip(source.ip(), destination.ip(), protocol::TCP, bytes);
}

/// Answers a segment that belongs to no connection (RFC 9293, 3.10.7.1).
pub fn reset_for(link: &mut Link, segment: &Segment) {
    if segment.rst {
        return;
    }
    let (seq, ack) = match segment.ack {
        Some(ack) => (ack, None),
        None => (Seq(0), Some(segment.seq.plus(segment.len()))),
    };
    let header = Header {
        source_port: segment.remote.port(),
        destination_port: segment.guest.port(),
        seq,
        ack,
        syn: false,
        fin: false,
        rst: true,
        push: false,
        window: 0,
        mss: None,
        window_scale: None,
        sack_permitted: false,
        sack: [None; 3],
    };
    push_segment(link, segment.remote, segment.guest, &header);
}
