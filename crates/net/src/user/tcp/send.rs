//! The direction host to guest: reading the host socket, sending within the guest's window, and
//! sending again what was lost.
//!
//! Reference: RFC 9293 3.8, RFC 6298 (retransmission timer), RFC 5681 and RFC 6675 (loss recovery).
//! A virtual cable has no congestion, so there is no slow start at the beginning; a loss (the guest
//! itself dropped a frame) starts one, so that an overloaded guest is not flooded again.

use std::io::{ErrorKind, IoSliceMut, Read};
use std::time::Duration;

use socket2::Socket;

use super::ranges::Ranges;
use super::receive::BUFFER_MIN;
use super::segment::Seq;
use crate::backend::Nanos;
use crate::ring::Ring;

/// The most bytes of one connection that are on their way to the guest or wait for that.
pub const SEND_MAX: usize = 1 << 20;
/// Bytes read ahead of what the guest's window allows to send.
const READ_AHEAD: usize = 128 * 1024;
/// RFC 6298 says one second; a virtual cable answers within microseconds (Linux uses 200 ms, too).
const RTO_MIN: Duration = Duration::from_millis(200);
const RTO_INITIAL: Duration = Duration::from_secs(1);
const RTO_MAX: Duration = Duration::from_secs(60);
/// Transmissions of the same data without an answer before the guest counts as gone.
pub const MAX_RETRIES: u32 = 12;
/// What RFC 9293 assumes of a peer that does not say.
const DEFAULT_MSS: u16 = 536;
const MIN_MSS: usize = 64;
const DUPLICATES: u32 = 3;

#[derive(Debug)]
pub struct Sender {
    /// The oldest byte that is not acknowledged; the front of `ring`.
    pub una: Seq,
    /// The next byte to send; steps back to `una` after a timeout.
    pub next: Seq,
    /// The highest `next` so far.
    pub max: Seq,
    pub ring: Ring,
    /// What the guest can take, from `una` on.
    pub window: usize,
    pub scale: u8,
    /// Payload of one segment.
    pub segment_size: usize,
    /// The host will send no more; its FIN follows the ring's last byte.
    pub eof: bool,
    pub fin_sent: bool,
    pub fin_acked: bool,
    congestion: usize,
    threshold: usize,
    duplicates: u32,
    /// Loss recovery lasts until this is acknowledged.
    recover: Option<Seq>,
    /// Up to where recovery has sent again.
    resent: Seq,
    sacked: Ranges,
    smoothed: Option<Duration>,
    variance: Duration,
    rto: Duration,
    timed: Option<(Seq, Nanos)>,
    pub timer: Option<Nanos>,
    pub retries: u32,
    last_update: (Seq, Seq),
}

impl Sender {
    pub fn new(initial: Seq) -> Sender {
        Sender {
            una: initial,
            next: initial.plus(1),
            max: initial.plus(1),
            ring: Ring::default(),
            window: 0,
            scale: 0,
            segment_size: usize::from(DEFAULT_MSS),
            eof: false,
            fin_sent: false,
            fin_acked: false,
            congestion: usize::MAX,
            threshold: usize::MAX,
            duplicates: 0,
            recover: None,
            resent: initial,
            sacked: Ranges::default(),
            smoothed: None,
            variance: Duration::ZERO,
            rto: RTO_INITIAL,
            timed: None,
            timer: None,
            retries: 0,
            last_update: (initial, initial),
        }
    }

    /// Takes over what the guest's SYN says; `cable` is the most the cable carries.
    pub fn peer_options(&mut self, mss: Option<u16>, cable: usize) {
        self.segment_size = usize::from(mss.unwrap_or(DEFAULT_MSS)).clamp(MIN_MSS, cable);
    }

    /// The handshake is over: the SYN's place in sequence space is acknowledged.
    pub fn established(&mut self, window: usize, seq: Seq, now: Nanos) {
        self.una = self.una.plus(1);
        // A timeout of the SYN stepped back to it.
        self.next = self.una;
        self.resent = self.una;
        (self.congestion, self.threshold) = (usize::MAX, usize::MAX);
        self.window = window;
        self.last_update = (seq, self.una);
        self.acknowledged_something(now);
        self.timer = None;
    }

    pub fn in_flight(&self) -> usize {
        self.next.distance(self.una)
    }

    /// Bytes that have not been sent (or are to be sent again after a timeout).
    pub fn unsent(&self) -> usize {
        self.ring.len().saturating_sub(self.in_flight())
    }

    /// The sequence number of our FIN, once it is known.
    fn fin(&self) -> Option<Seq> {
        self.eof.then(|| self.una.plus(self.ring.len()))
    }

    pub fn fin_is_due(&self) -> bool {
        !self.fin_acked && self.fin() == Some(self.next)
    }

    /// Reads the host socket as far as it is useful.
    pub fn fill(&mut self, socket: &Socket, readable: &mut bool, closed: bool, limit: usize) -> std::io::Result<()> {
        while *readable && !self.eof && self.unsent() < READ_AHEAD && self.ring.len() < limit {
            if self.ring.capacity() == self.ring.len() {
                let wanted = (self.ring.capacity() * 2).clamp(BUFFER_MIN, limit);
                self.ring.reserve(wanted);
            }
            let (a, b) = self.ring.spare();
            let room = a.len() + b.len();
            let read = if b.is_empty() {
                (&*socket).read(a)
            } else {
                (&*socket).read_vectored(&mut [IoSliceMut::new(a), IoSliceMut::new(b)])
            };
            match read {
                Ok(0) => self.eof = true,
                Ok(n) => {
                    self.ring.commit(n);
                    // A short read drained the socket; more data or the end will be a new event,
                    // unless the event that told of the end has come already.
                    if n < room && !closed {
                        *readable = false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => *readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How much the next segment carries; zero if nothing may be sent now.
    pub fn next_length(&self, largest: usize) -> usize {
        let unsent = self.unsent();
        let room = self.window.min(self.congestion).saturating_sub(self.in_flight());
        let n = unsent.min(room).min(largest);
        if n < unsent && n > self.segment_size {
            return n - n % self.segment_size;
        }
        // Wait for the window rather than send crumbs (RFC 9293, 3.8.6.2.1).
        if n < unsent && n < self.segment_size && self.in_flight() > 0 { 0 } else { n }
    }

    /// Notes that `n` bytes from `next` on were sent.
    pub fn sent(&mut self, n: usize, fin: bool, now: Nanos) {
        let first_time = self.next == self.max;
        self.next = self.next.plus(n + usize::from(fin));
        self.max = self.max.later(self.next);
        self.fin_sent |= fin;
        if self.timed.is_none() && first_time {
            self.timed = Some((self.next, now));
        }
        self.start_timer(now);
    }

    pub fn start_timer(&mut self, now: Nanos) {
        if self.timer.is_none() {
            self.timer = Some(now.after(self.rto));
        }
    }

    /// Keeps the timer from running while the guest takes no frames at all.
    pub fn postpone(&mut self, now: Nanos) {
        self.timer = Some(now.after(self.rto));
    }

    /// Processes an acknowledgement. False if it is for something never sent.
    pub fn acknowledge(&mut self, ack: Seq, window: usize, seq: Seq, pure: bool, now: Nanos) -> bool {
        if ack.after(self.max) > 0 {
            return false;
        }
        let advanced = ack.distance(self.una);
        if advanced > 0 {
            self.advance(ack, advanced, now);
        } else if pure && ack == self.una && window == self.window && self.max != self.una {
            self.duplicates += 1;
        }
        let (update_seq, update_ack) = self.last_update;
        let newer = seq.after(update_seq) > 0 || (seq == update_seq && ack.after(update_ack) >= 0);
        if ack.after(self.una) >= 0 && newer {
            self.window = window;
            self.last_update = (seq, ack);
            if self.max == self.una {
                // The guest is alive, even if it keeps its window closed.
                self.retries = 0;
            }
            if window > 0 && self.in_flight() == 0 {
                self.timer = None;
            }
        }
        true
    }

    fn advance(&mut self, ack: Seq, advanced: usize, now: Nanos) {
        let data = advanced.min(self.ring.len());
        self.ring.consume(data);
        self.fin_acked |= advanced > data;
        self.una = ack;
        self.next = self.next.later(ack);
        self.sacked.take_until(ack);
        if let Some((end, at)) = self.timed
            && ack.after(end) >= 0
        {
            self.timed = None;
            self.sample(now.since(at));
        }
        self.acknowledged_something(now);
        self.duplicates = 0;
        if self.recover.is_some_and(|r| ack.after(r) >= 0) {
            self.recover = None;
            self.sacked.clear();
            self.congestion = self.threshold;
        }
        if self.congestion < usize::MAX {
            let step = if self.congestion < self.threshold { data } else { self.segment_size };
            self.congestion = self.congestion.saturating_add(step);
            // Far above any window: the loss is forgotten.
            if self.congestion > 2 * SEND_MAX {
                (self.congestion, self.threshold) = (usize::MAX, usize::MAX);
            }
        }
    }

    fn acknowledged_something(&mut self, now: Nanos) {
        self.retries = 0;
        self.rto = self.smoothed.map_or(RTO_INITIAL, |s| s + 4 * self.variance).clamp(RTO_MIN, RTO_MAX);
        self.timer = (self.max != self.una).then(|| now.after(self.rto));
    }

    /// A round-trip time (RFC 6298, 2).
    fn sample(&mut self, rtt: Duration) {
        match self.smoothed {
            None => (self.smoothed, self.variance) = (Some(rtt), rtt / 2),
            Some(smoothed) => {
                self.variance = (self.variance * 3 + smoothed.abs_diff(rtt)) / 4;
                self.smoothed = Some((smoothed * 7 + rtt) / 8);
            }
        }
    }

    /// Notes what the guest reports as received beyond a gap.
    pub fn selective(&mut self, ranges: impl Iterator<Item = (Seq, Seq)>) {
        for (start, end) in ranges {
            let valid = start.after(self.una) >= 0 && end.after(start) > 0 && end.after(self.max) <= 0;
            // A range too many only means that a little more is sent again.
            let _ = valid && self.sacked.insert(start, end);
        }
    }

    /// The stretch to send again now, if a loss is evident.
    pub fn lost(&mut self) -> Option<(Seq, usize)> {
        if self.recover.is_none() {
            let evident = self.duplicates >= DUPLICATES || self.sacked.bytes() >= 3 * self.segment_size;
            if !evident || self.max == self.una {
                return None;
            }
            self.recover = Some(self.max);
            self.resent = self.una;
            self.timed = None;
            self.threshold = (self.max.distance(self.una) / 2).max(2 * self.segment_size);
            self.congestion = self.threshold;
        }
        let from = self.resent.later(self.una);
        let (start, end) = match self.sacked.gap(from) {
            Some(gap) => gap,
            // Without SACK: one segment for each partial acknowledgement (RFC 6582).
            None if self.sacked.is_empty() && from == self.una => (from, from.plus(self.segment_size)),
            None => return None,
        };
        let available = self.ring.len().saturating_sub(start.distance(self.una));
        let n = end.distance(start).min(self.segment_size).min(available);
        (n > 0).then_some((start, n))
    }

    pub fn resent(&mut self, start: Seq, n: usize) {
        self.resent = start.plus(n);
    }

    /// The retransmission timer has expired: everything from `una` on is sent again. False: give up.
    pub fn timeout(&mut self, now: Nanos) -> bool {
        self.retries += 1;
        if self.retries > MAX_RETRIES {
            return false;
        }
        self.rto = (self.rto * 2).min(RTO_MAX);
        self.timer = Some(now.after(self.rto));
        self.timed = None;
        if self.window > 0 {
            self.threshold = (self.max.distance(self.una) / 2).max(2 * self.segment_size);
            self.congestion = 2 * self.segment_size;
            self.next = self.una;
            self.recover = None;
            self.sacked.clear();
            self.duplicates = 0;
        }
        true
    }

    /// Only a closed window keeps data back: the guest must be asked now and then.
    pub fn needs_probe(&self) -> bool {
        self.window == 0 && (self.unsent() > 0 || self.fin_is_due()) && self.max == self.una
    }
}
