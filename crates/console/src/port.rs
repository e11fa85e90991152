//! What a device or a monitor sees of a character device.
//!
//! Invariants: [`Port::write`] and [`Port::more_room`] never call a front end and never wait for the host, so they may
//! be called with a device's lock held; a front end's methods run on the I/O thread without any lock of ours.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use crate::io::Waker;
use crate::mux::Mux;

/// Bytes that wait for the host: what was written and has not reached the descriptor.
pub const QUEUE_MAX: usize = 16 * 1024;

/// What can happen besides input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The far end is there. On a shared line it may be told more than once.
    Opened,
    /// The far end is gone; what is written is dropped until it comes back.
    Closed,
    /// The line was held low: a serial break.
    Break,
    /// A write was cut short earlier; now there is room again.
    Room,
    /// The multiplexer gives us the user's keys from now on.
    Focused,
    /// The multiplexer gives the keys to somebody else.
    Unfocused,
}

/// A device's side of a line: who gets what the far end sends.
pub trait FrontEnd: Send + Sync {
    /// Offers bytes; the result says how many were taken. After fewer than all, nothing more is offered until
    /// [`Port::more_room`].
    fn input(&self, bytes: &[u8]) -> usize;

    fn event(&self, event: Event) {
        let _ = event;
    }
}

/// Speed and format of a real serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineFormat {
    pub speed: u32,
    pub parity: Parity,
    pub data_bits: u8,
    pub stop_bits: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    None,
    Even,
    Odd,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a thread died with a console lock held")
}

/// Where written bytes go.
#[derive(Debug)]
enum Sink {
    /// To the I/O thread.
    Queue,
    /// Nowhere: there is no far end, or it is not there now.
    Discard,
    /// Into a ring of this size that a monitor reads.
    Ring(usize),
}

#[derive(Debug)]
struct Out {
    sink: Sink,
    queue: VecDeque<u8>,
    /// Taken by the I/O thread and not yet written.
    in_flight: usize,
    /// A write was cut short, so `Event::Room` is owed.
    refused: bool,
    log: Option<File>,
}

/// The part of a character device that its port and the I/O thread share.
pub(crate) struct Line {
    pub label: String,
    out: Mutex<Out>,
    drained: Condvar,
    /// The front end takes input.
    wants_input: AtomicBool,
    /// The front end has not been told yet that the line is open.
    announce: AtomicBool,
    open: AtomicBool,
    front: Mutex<Option<Arc<dyn FrontEnd>>>,
    /// What `info chardev` shows.
    description: Mutex<String>,
    controls: Mutex<Vec<Control>>,
    waker: Arc<Waker>,
    /// The multiplexer in front of this line.
    mux: OnceLock<Weak<Mux>>,
}

/// Out-of-band requests to a back end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Control {
    Break,
    Format(LineFormat),
}

/// Requests that wait for a back end; more are forgotten (the last ones count).
const CONTROLS_MAX: usize = 16;

impl Line {
    pub fn new(label: &str, description: &str, log: Option<File>, waker: Arc<Waker>) -> Arc<Line> {
        let out = Out { sink: Sink::Discard, queue: VecDeque::new(), in_flight: 0, refused: false, log };
        Arc::new(Line {
            label: label.to_string(),
            out: Mutex::new(out),
            drained: Condvar::new(),
            wants_input: AtomicBool::new(false),
            announce: AtomicBool::new(false),
            open: AtomicBool::new(false),
            front: Mutex::new(None),
            description: Mutex::new(description.to_string()),
            controls: Mutex::new(Vec::new()),
            waker,
            mux: OnceLock::new(),
        })
    }

    pub fn description(&self) -> String {
        lock(&self.description).clone()
    }

    pub fn describe(&self, text: String) {
        *lock(&self.description) = text;
    }

    pub fn has_front_end(&self) -> bool {
        lock(&self.front).is_some()
    }

    /// Keeps what is written in a ring.
    pub fn keep(&self, size: usize) {
        lock(&self.out).sink = Sink::Ring(size);
    }

    /// Is no ring any more.
    pub fn drop_kept(&self) {
        let mut out = lock(&self.out);
        if matches!(out.sink, Sink::Ring(_)) {
            out.sink = Sink::Discard;
            out.queue.clear();
        }
    }

    pub fn set_log(&self, log: Option<File>) {
        lock(&self.out).log = log;
    }

    /// Takes up to `max` bytes out of the ring.
    pub fn take_kept(&self, max: usize) -> Vec<u8> {
        let mut out = lock(&self.out);
        let n = out.queue.len().min(max);
        out.queue.drain(..n).collect()
    }

    pub fn attach(&self, front: Option<Arc<dyn FrontEnd>>) {
        self.wants_input.store(front.is_some(), Ordering::Release);
        *lock(&self.front) = front;
        self.announce.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub fn write(&self, bytes: &[u8]) -> usize {
        let mut out = lock(&self.out);
        let room = match out.sink {
            Sink::Queue => QUEUE_MAX - (out.queue.len() + out.in_flight),
            Sink::Discard | Sink::Ring(_) => bytes.len(),
        };
        let n = bytes.len().min(room);
        if let Some(log) = &mut out.log
            && let Err(error) = log.write_all(&bytes[..n])
        {
            log::warn!("log file of character device '{}' given up: {error}", self.label);
            out.log = None;
        }
        let was_empty = out.queue.is_empty();
        match out.sink {
            Sink::Queue => out.queue.extend(&bytes[..n]),
            Sink::Discard => {}
            Sink::Ring(size) => {
                out.queue.extend(&bytes[n.saturating_sub(size)..n]);
                let excess = out.queue.len().saturating_sub(size);
                out.queue.drain(..excess);
            }
        }
        out.refused |= n < bytes.len();
        let wake = was_empty && n > 0 && matches!(out.sink, Sink::Queue);
        drop(out);
        if wake {
            self.waker.wake();
        }
        n
    }

    /// Waits until everything has reached the host. False if that took too long.
    pub fn flush(&self, timeout: Duration) -> bool {
        let busy = |out: &mut Out| matches!(out.sink, Sink::Queue) && out.queue.len() + out.in_flight > 0;
        let (_guard, result) = self
            .drained
            .wait_timeout_while(lock(&self.out), timeout, busy)
            .expect("a thread died with a console lock held");
        !result.timed_out()
    }

    /// Waits for room in the queue.
    fn wait_room(&self, timeout: Duration) -> bool {
        let full = |out: &mut Out| matches!(out.sink, Sink::Queue) && out.queue.len() + out.in_flight >= QUEUE_MAX;
        let (_guard, result) = self
            .drained
            .wait_timeout_while(lock(&self.out), timeout, full)
            .expect("a thread died with a console lock held");
        !result.timed_out()
    }

    pub fn set_mux(&self, mux: &Arc<Mux>) {
        let fresh = self.mux.set(Arc::downgrade(mux)).is_ok();
        assert!(fresh, "a line has one multiplexer");
    }

    pub fn wake(&self) {
        self.waker.wake();
    }

    /// A front end came to the multiplexer.
    pub fn announce_again(&self) {
        self.announce.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// How much `write` would take now.
    pub fn room(&self) -> usize {
        let out = lock(&self.out);
        match out.sink {
            Sink::Queue => QUEUE_MAX - (out.queue.len() + out.in_flight),
            Sink::Discard | Sink::Ring(_) => usize::MAX,
        }
    }

    /// Notes that a write was not taken; gives the number of bytes that were: none.
    pub fn refuse(&self) -> usize {
        lock(&self.out).refused = true;
        0
    }

    pub fn more_room(&self) {
        if !self.wants_input.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    pub fn control(&self, control: Control) {
        let mut controls = lock(&self.controls);
        if controls.len() == CONTROLS_MAX {
            controls.remove(0);
        }
        controls.push(control);
        drop(controls);
        self.waker.wake();
    }

    // What follows is for the I/O thread.

    pub fn controls(&self) -> Vec<Control> {
        std::mem::take(&mut *lock(&self.controls))
    }

    pub fn wants_input(&self) -> bool {
        self.wants_input.load(Ordering::Acquire)
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub fn event(&self, event: Event) {
        let front = lock(&self.front).clone();
        if let Some(front) = front {
            front.event(event);
        }
    }

    /// Gives the multiplexer's front ends what waits for them.
    pub fn pump(&self) {
        if let Some(mux) = self.mux.get().and_then(Weak::upgrade) {
            mux.pump();
        }
    }

    /// Tells a front end that came after the line was opened.
    pub fn announce(&self) {
        if self.announce.swap(false, Ordering::AcqRel) && self.is_open() {
            self.event(Event::Opened);
        }
    }

    /// The far end is there. `queued`: what is written goes to the I/O thread.
    pub fn opened(&self, queued: bool) {
        if queued {
            lock(&self.out).sink = Sink::Queue;
        }
        if !self.open.swap(true, Ordering::AcqRel) {
            self.announce.store(false, Ordering::Release);
            self.event(Event::Opened);
        }
    }

    /// The far end is gone, and what waited for it with it.
    pub fn closed(&self) {
        let mut out = lock(&self.out);
        if !matches!(out.sink, Sink::Ring(_)) {
            out.sink = Sink::Discard;
            out.queue.clear();
        }
        out.in_flight = 0;
        let owed = std::mem::take(&mut out.refused);
        drop(out);
        self.drained.notify_all();
        if owed {
            self.event(Event::Room);
        }
        if self.open.swap(false, Ordering::AcqRel) {
            self.event(Event::Closed);
        }
    }

    /// Offers bytes to the front end; says how many it took.
    pub fn deliver(&self, bytes: &[u8]) -> usize {
        let Some(front) = lock(&self.front).clone() else { return 0 };
        // Before the call, so that a `more_room` during it is not lost.
        self.wants_input.store(false, Ordering::Release);
        let n = front.input(bytes).min(bytes.len());
        if n == bytes.len() {
            self.wants_input.store(true, Ordering::Release);
        }
        n
    }

    /// Moves what was written into `outbox`, which must be empty.
    pub fn take(&self, outbox: &mut VecDeque<u8>) {
        let mut out = lock(&self.out);
        if matches!(out.sink, Sink::Queue) && !out.queue.is_empty() {
            std::mem::swap(&mut out.queue, outbox);
            out.in_flight += outbox.len();
        }
    }

    /// `n` bytes of what was taken have reached the host.
    pub fn sent(&self, n: usize) {
        let mut out = lock(&self.out);
        out.in_flight = out.in_flight.saturating_sub(n);
        let used = out.queue.len() + out.in_flight;
        let owed = out.refused && used <= QUEUE_MAX / 2;
        if owed {
            out.refused = false;
        }
        drop(out);
        self.drained.notify_all();
        if owed {
            self.event(Event::Room);
        }
    }
}

#[derive(Clone)]
pub(crate) enum Way {
    Direct(Arc<Line>),
    /// One of several front ends of a multiplexer.
    Muxed(Arc<Mux>, usize),
}

/// A device's end of a character device. It is handed out by [`crate::Consoles::connect`] and belongs to one front end;
/// copies are for its own threads.
#[derive(Clone)]
pub struct Port {
    way: Way,
}

impl Port {
    pub(crate) fn new(way: Way) -> Port {
        Port { way }
    }

    fn line(&self) -> &Line {
        match &self.way {
            Way::Direct(line) => line,
            Way::Muxed(mux, _) => mux.line(),
        }
    }

    /// The character device's name.
    pub fn label(&self) -> &str {
        match &self.way {
            Way::Direct(line) => &line.label,
            Way::Muxed(mux, _) => mux.label(),
        }
    }

    /// Sets who gets input and events. Input that came earlier waits in the host.
    pub fn attach(&self, front: Arc<dyn FrontEnd>) {
        match &self.way {
            Way::Direct(line) => line.attach(Some(front)),
            Way::Muxed(mux, index) => mux.attach(*index, Some(front)),
        }
    }

    /// Forgets the front end; input waits in the host from now on.
    pub fn detach(&self) {
        match &self.way {
            Way::Direct(line) => line.attach(None),
            Way::Muxed(mux, index) => mux.attach(*index, None),
        }
    }

    /// Sends bytes; the result says how many were taken. After fewer than all, [`Event::Room`] says when to try again.
    /// Without a far end everything is taken and dropped.
    #[must_use = "a short write means that the rest was not taken"]
    pub fn write(&self, bytes: &[u8]) -> usize {
        match &self.way {
            Way::Direct(line) => line.write(bytes),
            Way::Muxed(mux, _) => mux.write(bytes),
        }
    }

    /// Sends all bytes and waits for room, for threads that may wait (a monitor's); never call it on the I/O thread
    /// or with a device's lock held. False if `timeout` passed without any progress; the rest is dropped then.
    pub fn write_waiting(&self, mut bytes: &[u8], timeout: Duration) -> bool {
        while !bytes.is_empty() {
            let n = self.write(bytes);
            bytes = &bytes[n..];
            if !bytes.is_empty() && !self.line().wait_room(timeout) {
                return false;
            }
        }
        true
    }

    /// The front end can take more after it took less than was offered.
    pub fn more_room(&self) {
        match &self.way {
            Way::Direct(line) => line.more_room(),
            Way::Muxed(mux, index) => mux.more_room(*index),
        }
    }

    /// Whether a multiplexer lets others share the line.
    pub fn is_shared(&self) -> bool {
        matches!(self.way, Way::Muxed(..))
    }

    /// Whether the user's keys come to us: always, but on a shared line.
    pub fn has_focus(&self) -> bool {
        match &self.way {
            Way::Direct(_) => true,
            Way::Muxed(mux, index) => mux.has_focus(*index),
        }
    }

    /// Whether there is a far end now.
    pub fn is_open(&self) -> bool {
        self.line().is_open()
    }

    /// The guest sends a break. Only a real serial line can carry it further.
    pub fn send_break(&self) {
        self.line().control(Control::Break);
    }

    /// The guest programmed its line; a real serial line follows.
    pub fn set_format(&self, format: LineFormat) {
        self.line().control(Control::Format(format));
    }

    /// Waits until everything written has reached the host, at most until `deadline`.
    pub fn flush(&self, deadline: Instant) -> bool {
        self.line().flush(deadline.saturating_duration_since(Instant::now()))
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Port({})", self.label())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::Consoles;
    use crate::backend::stdio::Stdio;
    use crate::testing::{Recorder, expect};

    fn pair() -> (Consoles, Port, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let consoles = Consoles::new().unwrap();
        consoles.install("s", "stdio", Box::new(Stdio::over(&near, &near).unwrap()));
        let port = consoles.connect("s").unwrap();
        (consoles, port, far)
    }

    #[test]
    fn a_full_far_end_refuses_bytes_and_room_is_told() {
        let (_consoles, port, mut far) = pair();
        let recorder = Arc::new(Recorder::default());
        port.attach(recorder.clone());
        recorder.wait_event(Event::Opened);
        let mut sent = 0;
        loop {
            let n = port.write(&[b'x'; 1000]);
            sent += n;
            if n < 1000 && !port.flush(Instant::now()) && port.write(b"x") == 0 {
                break;
            }
        }
        expect(&mut far, &vec![b'x'; sent]);
        recorder.wait_event(Event::Room);
        assert_eq!(port.write(b"more"), 4);
        expect(&mut far, b"more");
    }

    #[test]
    fn a_full_front_end_stops_the_input_until_it_has_room() {
        let (_consoles, port, mut far) = pair();
        let recorder = Arc::new(Recorder::default());
        recorder.limit(Some(2));
        port.attach(recorder.clone());
        far.write_all(b"abcde").unwrap();
        recorder.wait_bytes(b"ab");
        port.more_room();
        recorder.wait_bytes(b"cd");
        recorder.limit(None);
        port.more_room();
        recorder.wait_bytes(b"e");
    }
}
