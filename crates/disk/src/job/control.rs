//! How a job's thread and its user talk: progress in one direction, wishes in the other.

use super::copy::Fault;
use super::{Action, Job, News, OnError, Status, Stop};
use crate::node::strerror;
use rustix::io::Errno;
use spec::error::Error;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a user's call waits for the job's thread to notice it.
const NOTICE: Duration = Duration::from_millis(200);
/// How often a mirror that has caught up looks for new writes.
const LOOK: Duration = Duration::from_millis(20);

pub struct Wishes {
    pub go: bool,
    pub paused: bool,
    pub cancelled: bool,
    pub force: bool,
    pub complete: bool,
    pub finalize: bool,
    /// `complete` means something to this job.
    pub can_complete: bool,
    status: Status,
    /// Waits for time to pass, not for a disk.
    idle: bool,
    /// How the last error was answered, until the job goes on.
    io_status: &'static str,
    error: Option<String>,
}

pub struct Control {
    done: AtomicU64,
    total: AtomicU64,
    /// Bytes per second; zero is no limit.
    speed: AtomicU64,
    on_read_error: OnError,
    on_write_error: OnError,
    wishes: Mutex<Wishes>,
    changed: Condvar,
    /// Who hears of changes, while the thread lives.
    teller: Mutex<Option<Teller>>,
}

type Teller = Arc<dyn Fn(News) + Send + Sync>;

impl Control {
    pub(super) fn new(speed: u64, on_read_error: OnError, on_write_error: OnError) -> Control {
        let wishes = Wishes {
            go: false,
            paused: false,
            cancelled: false,
            force: false,
            complete: false,
            finalize: false,
            can_complete: false,
            status: Status::Created,
            idle: true,
            io_status: "ok",
            error: None,
        };
        Control {
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            speed: AtomicU64::new(speed),
            on_read_error,
            on_write_error,
            wishes: Mutex::new(wishes),
            changed: Condvar::new(),
            teller: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wish<T>(&self, change: impl FnOnce(&mut Wishes) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits a moment for the job to get somewhere: its answer is then in order with its events.
    pub(super) fn settle(&self, there: impl Fn(Status) -> bool) {
        drop(self.changed.wait_timeout_while(self.lock(), NOTICE, |w| !there(w.status)));
    }

    pub fn wait_until(&self, there: impl Fn(Status) -> bool) {
        drop(self.changed.wait_while(self.lock(), |w| !there(w.status)));
    }

    pub(super) fn go(&self) {
        self.wish(|w| w.go = true);
    }

    pub(super) fn wait_go(&self) {
        drop(self.changed.wait_while(self.lock(), |w| !w.go));
    }

    pub(super) fn wait_finalize(&self) -> Result<(), Stop> {
        let wishes = self.changed.wait_while(self.lock(), |w| !w.finalize && !w.cancelled);
        let wishes = wishes.unwrap_or_else(PoisonError::into_inner);
        if wishes.finalize { Ok(()) } else { Err(Stop::Cancelled) }
    }

    pub(super) fn set(&self, status: Status) {
        self.wish(|w| (w.status, w.idle) = (status, status != Status::Running));
    }

    pub(super) fn conclude(&self, error: Option<String>) {
        self.wish(|w| w.error = error);
    }

    /// What the thread has to tell goes where the job's news go.
    pub(super) fn attach(&self, job: &Arc<Job>) {
        let job = Arc::downgrade(job);
        let tell = move |news: News| {
            if let Some(job) = job.upgrade() {
                job.tell(news);
            }
        };
        *self.teller.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tell));
    }

    fn tell(&self, news: News) {
        let teller = self.teller.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(tell) = teller {
            tell(news);
        }
    }

    fn enter(&self, status: Status) {
        self.tell(News::Status(status));
        self.set(status);
    }

    pub fn status(&self) -> Status {
        self.lock().status
    }

    pub fn error(&self) -> Option<String> {
        self.lock().error.clone()
    }

    pub fn is_user_paused(&self) -> bool {
        self.lock().paused
    }

    pub fn is_idle(&self) -> bool {
        self.lock().idle
    }

    /// `ok`, `nospace` or `failed`.
    pub fn io_status(&self) -> &'static str {
        self.lock().io_status
    }

    pub fn speed(&self) -> u64 {
        self.speed.load(Ordering::Relaxed)
    }

    pub(super) fn set_speed(&self, speed: u64) {
        self.speed.store(speed, Ordering::Relaxed);
        self.wish(|_| ());
    }

    pub fn progress(&self) -> (u64, u64) {
        let done = self.done.load(Ordering::Relaxed);
        (done, self.total.load(Ordering::Relaxed).max(done))
    }

    /// How much there is to do, with what is done.
    pub fn begin(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// How much there is still to do.
    pub fn remaining(&self, bytes: u64) {
        self.begin(self.done.load(Ordering::Relaxed) + bytes);
    }

    pub fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The user wants a mirror to take the disk's place.
    pub fn wants_completion(&self) -> bool {
        self.lock().complete
    }

    /// Counts finished work, and waits while the job is paused or too fast.
    pub fn step(&self, bytes: u64) -> Result<(), Stop> {
        self.advance(bytes);
        let start = Instant::now();
        loop {
            let speed = self.speed();
            if speed == 0 || bytes == 0 {
                break;
            }
            let rest = Duration::from_secs_f64(bytes as f64 / speed as f64).saturating_sub(start.elapsed());
            let mut wishes = self.lock();
            if rest.is_zero() || wishes.cancelled || wishes.paused {
                break;
            }
            // Limits may change meanwhile.
            wishes.idle = true;
            let waiting = self.changed.wait_timeout(wishes, rest);
            waiting.unwrap_or_else(PoisonError::into_inner).0.idle = false;
        }
        self.point()
    }

    /// A place where a job can be paused and cancelled.
    pub fn point(&self) -> Result<(), Stop> {
        let (paused, was) = {
            let w = self.lock();
            (w.paused && !w.cancelled, w.status)
        };
        if paused {
            self.enter(if was == Status::Ready { Status::Standby } else { Status::Paused });
            let waiting = self.changed.wait_while(self.lock(), |w| w.paused && !w.cancelled);
            waiting.unwrap_or_else(PoisonError::into_inner).io_status = "ok";
            self.enter(was);
        }
        let w = self.lock();
        // A mirror that has caught up ends in order, unless it must not.
        if w.cancelled && (w.force || w.status != Status::Ready) { Err(Stop::Cancelled) } else { Ok(()) }
    }

    /// Waits until there may be something to do: a wish, or time that has passed.
    pub fn rest(&self) -> Result<(), Stop> {
        let mut wishes = self.lock();
        wishes.idle = true;
        let calm = |w: &mut Wishes| !w.cancelled && !w.paused && !w.complete;
        let waiting = self.changed.wait_timeout_while(wishes, LOOK, calm);
        let mut wishes = waiting.unwrap_or_else(PoisonError::into_inner).0;
        wishes.idle = wishes.status != Status::Running;
        drop(wishes);
        self.point()
    }

    /// Everything is copied; from now on the job can be completed. Says whether it shall end.
    pub fn ready(&self) -> bool {
        if self.status() == Status::Running {
            self.wish(|w| w.can_complete = true);
            self.enter(Status::Ready);
            self.tell(News::Ready);
        }
        let w = self.lock();
        (w.complete || w.cancelled) && !w.paused
    }

    /// Decides what an error means: the job goes on, or ends with it.
    pub fn failed(&self, fault: Fault) -> Result<(), Stop> {
        let space = fault.error.raw_os_error() == Some(Errno::NOSPC.raw_os_error());
        let policy = if fault.write { self.on_write_error } else { self.on_read_error };
        let action = match policy {
            OnError::Report => Action::Report,
            OnError::Ignore => Action::Ignore,
            OnError::Enospc if !space => Action::Report,
            OnError::Enospc | OnError::Stop => Action::Stop,
        };
        self.tell(News::Error { write: fault.write, action });
        match action {
            Action::Report => Err(Stop::Failed(Error::new(strerror(&fault.error)))),
            // What is tried again at once fails again at once.
            Action::Ignore => self.rest(),
            Action::Stop => {
                self.wish(|w| {
                    w.paused = true;
                    w.io_status = if space { "nospace" } else { "failed" };
                });
                self.point()
            }
        }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> io::Error {
        fault.error
    }
}
