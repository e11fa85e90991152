//! The thread that serves all character devices, and what a back end is to it.
//!
//! Back ends live on this thread only, so they need no locks. There are few of them: each round asks them what they
//! wait for and hands the list to poll(2), which cannot go stale when a back end changes its descriptors.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use spec::error::{Context, Result};

use crate::port::{Control, Event, Line, lock};

/// Bytes read with one system call.
const READ_MAX: usize = 4096;

/// Makes the I/O thread look at everything again.
#[derive(Debug)]
pub(crate) struct Waker {
    fd: OwnedFd,
    pending: AtomicBool,
}

impl Waker {
    pub fn new() -> Result<Waker> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context(|| "could not create an event descriptor for the consoles".into())?;
        Ok(Waker { fd, pending: AtomicBool::new(false) })
    }

    pub fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // It can only fail if 2^64 wakes are pending.
            let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }

    fn clear(&self) {
        let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
        // From here on a new wake makes a new event; what it wants done is seen in this round or the next.
        self.pending.store(false, Ordering::Release);
    }
}

/// Which of a back end's descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    Input,
    Output,
    Listener,
    Notify,
}

/// What a back end waits for.
pub(crate) struct Watch<'a> {
    polls: Vec<PollFd<'a>>,
    tags: Vec<(usize, Tag)>,
    owner: usize,
}

impl<'a> Watch<'a> {
    pub fn add(&mut self, tag: Tag, fd: &'a impl AsFd, flags: PollFlags) {
        self.polls.push(PollFd::from_borrowed_fd(fd.as_fd(), flags));
        self.tags.push((self.owner, tag));
    }

    pub fn readable(&mut self, tag: Tag, fd: &'a impl AsFd) {
        self.add(tag, fd, PollFlags::IN);
    }

    pub fn writable(&mut self, tag: Tag, fd: &'a impl AsFd) {
        self.add(tag, fd, PollFlags::OUT);
    }
}

/// What became ready.
pub(crate) struct Ready(Vec<(Tag, PollFlags)>);

impl Ready {
    pub fn flags(&self, tag: Tag) -> PollFlags {
        self.0.iter().filter(|(t, _)| *t == tag).fold(PollFlags::empty(), |all, (_, flags)| all | *flags)
    }

    /// There is something to read: data, the end or an error.
    pub fn readable(&self, tag: Tag) -> bool {
        self.flags(tag).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
    }

    pub fn writable(&self, tag: Tag) -> bool {
        self.flags(tag).intersects(PollFlags::OUT | PollFlags::HUP | PollFlags::ERR)
    }
}

/// The host's side of a character device. All methods but `start` run on the I/O thread.
pub(crate) trait Backend: Send {
    /// Once, before the first round: open what can be opened.
    fn start(&mut self, traffic: &mut Traffic);
    /// What to wait for.
    fn watch<'a>(&'a self, traffic: &Traffic, watch: &mut Watch<'a>);
    /// Something may have happened.
    fn turn(&mut self, traffic: &mut Traffic, ready: &Ready);
    /// When `turn` wants to be called at the latest.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    fn control(&mut self, control: Control) {
        let _ = control;
    }
}

/// What a read or a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Fine,
    /// The far end has closed, or the descriptor is broken.
    Gone,
}

/// Bytes on their way between a line and its back end.
pub(crate) struct Traffic {
    pub line: Arc<Line>,
    inbox: Vec<u8>,
    taken: usize,
    outbox: VecDeque<u8>,
}

impl Traffic {
    pub fn new(line: Arc<Line>) -> Traffic {
        Traffic { line, inbox: Vec::new(), taken: 0, outbox: VecDeque::new() }
    }

    pub fn wants_input(&self) -> bool {
        self.taken == self.inbox.len() && self.line.wants_input()
    }

    /// Waits for input if the line has room for it, and for a place for output if there is some.
    pub fn watch<'a, T: AsFd>(&self, watch: &mut Watch<'a>, input: Option<&'a T>, output: Option<&'a T>) {
        if let Some(input) = input.filter(|_| self.wants_input()) {
            watch.readable(Tag::Input, input);
        }
        if let Some(output) = output.filter(|_| self.has_output()) {
            watch.writable(Tag::Output, output);
        }
    }

    /// Reads what has come. An input that has ended is let go; output goes on.
    pub fn take(&mut self, ready: &Ready, input: &mut Option<OwnedFd>) {
        if let Some(from) = input
            && ready.readable(Tag::Input)
            && self.read(&*from) == Outcome::Gone
        {
            *input = None;
        }
    }

    pub fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Moves what can be moved without the host.
    fn settle(&mut self) {
        self.line.announce();
        self.line.pump();
        self.deliver();
        if self.outbox.is_empty() {
            self.line.take(&mut self.outbox);
        }
    }

    fn deliver(&mut self) {
        while self.taken < self.inbox.len() && self.line.wants_input() {
            let n = self.line.deliver(&self.inbox[self.taken..]);
            self.taken += n;
            if n == 0 {
                break;
            }
        }
        if self.taken == self.inbox.len() {
            self.inbox.clear();
            self.taken = 0;
        }
    }

    /// Gives the front end bytes that were read in another way than with [`Traffic::read`].
    pub fn offer(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
        self.deliver();
    }

    /// Reads once, and lets `filter` change what came.
    pub fn read_with(&mut self, fd: impl AsFd, filter: impl FnOnce(&mut Vec<u8>)) -> Outcome {
        let mut bytes = vec![0; READ_MAX];
        match rustix::io::read(fd, &mut bytes) {
            Ok(0) => Outcome::Gone,
            Ok(n) => {
                bytes.truncate(n);
                filter(&mut bytes);
                self.offer(&bytes);
                Outcome::Fine
            }
            Err(Errno::AGAIN | Errno::INTR) => Outcome::Fine,
            Err(_) => Outcome::Gone,
        }
    }

    pub fn read(&mut self, fd: impl AsFd) -> Outcome {
        self.read_with(fd, |_| {})
    }

    /// Sends what waits through `send`, one call; pieces are at most `max` bytes long.
    pub fn send(&mut self, max: usize, send: impl FnOnce(&[u8]) -> rustix::io::Result<usize>) -> Outcome {
        let (piece, _) = self.outbox.as_slices();
        let piece = &piece[..piece.len().min(max)];
        if piece.is_empty() {
            return Outcome::Fine;
        }
        match send(piece) {
            Ok(n) => {
                self.outbox.drain(..n);
                self.line.sent(n);
                if self.outbox.is_empty() {
                    self.line.take(&mut self.outbox);
                }
                Outcome::Fine
            }
            Err(Errno::AGAIN | Errno::INTR) => Outcome::Fine,
            Err(_) => Outcome::Gone,
        }
    }

    pub fn write(&mut self, fd: impl AsFd) -> Outcome {
        self.send(usize::MAX, |piece| rustix::io::write(fd, piece))
    }

    /// Forgets what waits: there is nobody to read it.
    pub fn discard(&mut self) {
        let n = self.outbox.len();
        self.outbox.clear();
        self.line.sent(n);
        self.line.take(&mut self.outbox);
    }

    /// The far end is there.
    pub fn open(&mut self) {
        self.line.opened(true);
    }

    /// The far end is gone. What it sent before is still delivered; what waits for it is dropped.
    pub fn close(&mut self) {
        self.outbox.clear();
        self.line.closed();
    }
}

pub(crate) struct Driver {
    pub traffic: Traffic,
    pub backend: Box<dyn Backend>,
}

enum Command {
    Add(Driver),
    Remove(String, Sender<()>),
    /// Another back end for the line; the old one goes.
    Replace(Arc<Line>, Box<dyn Backend>),
    Break(Arc<Line>),
    Stop,
}

/// A handle to the thread; dropping it ends the thread.
pub(crate) struct Io {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    waker: Arc<Waker>,
    commands: Mutex<Vec<Command>>,
}

impl Io {
    pub fn new() -> Result<Io> {
        let shared = Arc::new(Shared { waker: Arc::new(Waker::new()?), commands: Mutex::default() });
        let thread = {
            let shared = shared.clone();
            let run = move || run(&shared);
            std::thread::Builder::new().name("console".into()).spawn(run)
        };
        let thread = thread.context(|| "could not start the console thread".into())?;
        Ok(Io { shared, thread: Some(thread) })
    }

    pub fn waker(&self) -> Arc<Waker> {
        self.shared.waker.clone()
    }

    /// Takes a back end, whose line nobody else has yet: when this returns, it is open if it ever is at once.
    pub fn add(&self, line: Arc<Line>, mut backend: Box<dyn Backend>) {
        let mut traffic = Traffic::new(line);
        backend.start(&mut traffic);
        self.command(Command::Add(Driver { traffic, backend }));
    }

    /// Takes a back end away; its descriptors are closed when this returns.
    pub fn remove(&self, label: &str) {
        let (done, wait) = channel();
        self.command(Command::Remove(label.to_string(), done));
        // An error means that the thread has ended, and with it the back end.
        let _ = wait.recv();
    }

    /// Gives a line another back end.
    pub fn replace(&self, line: Arc<Line>, backend: Box<dyn Backend>) {
        self.command(Command::Replace(line, backend));
    }

    pub fn send_break(&self, line: &Arc<Line>) {
        self.command(Command::Break(line.clone()));
    }

    fn command(&self, command: Command) {
        lock(&self.shared.commands).push(command);
        self.shared.waker.wake();
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.command(Command::Stop);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// Carries out what other threads asked for. False if the thread has to end.
fn obey(commands: Vec<Command>, drivers: &mut Vec<Driver>) -> bool {
    for command in commands {
        match command {
            Command::Add(driver) => drivers.push(driver),
            Command::Remove(label, done) => {
                drivers.retain(|driver| driver.traffic.line.label != label);
                drop(done);
            }
            Command::Replace(line, mut backend) => {
                drivers.retain(|driver| !Arc::ptr_eq(&driver.traffic.line, &line));
                line.closed();
                let mut traffic = Traffic::new(line);
                backend.start(&mut traffic);
                drivers.push(Driver { traffic, backend });
            }
            Command::Break(line) => line.event(Event::Break),
            Command::Stop => return false,
        }
    }
    true
}

fn run(shared: &Shared) {
    let mut drivers: Vec<Driver> = Vec::new();
    loop {
        let commands = std::mem::take(&mut *lock(&shared.commands));
        if !obey(commands, &mut drivers) {
            return;
        }
        for driver in &mut drivers {
            for control in driver.traffic.line.controls() {
                driver.backend.control(control);
            }
            driver.traffic.settle();
        }
        let ready = wait(shared, &drivers);
        for (driver, ready) in drivers.iter_mut().zip(&ready) {
            driver.backend.turn(&mut driver.traffic, ready);
        }
    }
}

/// Waits for the first event, and says what is ready for each driver.
fn wait(shared: &Shared, drivers: &[Driver]) -> Vec<Ready> {
    let mut watch = Watch { polls: Vec::new(), tags: Vec::new(), owner: 0 };
    watch.readable(Tag::Notify, &shared.waker.fd);
    for (i, driver) in drivers.iter().enumerate() {
        watch.owner = i;
        driver.backend.watch(&driver.traffic, &mut watch);
    }
    let deadline = drivers.iter().filter_map(|driver| driver.backend.deadline()).min();
    let timeout = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
    let mut ready: Vec<Ready> = drivers.iter().map(|_| Ready(Vec::new())).collect();
    if poll(&mut watch.polls, timeout.as_ref()).is_err() {
        // Interrupted by a signal: nothing is ready, and the next round waits again.
        return ready;
    }
    if !watch.polls[0].revents().is_empty() {
        shared.waker.clear();
    }
    for (fd, (owner, tag)) in watch.polls.iter().zip(&watch.tags).skip(1) {
        if !fd.revents().is_empty() {
            ready[*owner].0.push((*tag, fd.revents()));
        }
    }
    ready
}

fn timespec(duration: Duration) -> Timespec {
    // A little late rather than a little early and once more.
    let duration = duration + Duration::from_millis(1);
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

/// Whether the descriptor is ready now, without waiting.
pub(crate) fn ready_now(fd: BorrowedFd<'_>, flags: PollFlags) -> PollFlags {
    let mut polls = [PollFd::from_borrowed_fd(fd, flags)];
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut polls, Some(&zero)) {
        Ok(_) => polls[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}
