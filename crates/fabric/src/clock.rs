//! The virtual clock and its timers.
//!
//! A clock runs with the host's monotonic clock from the moment it is resumed, or stands still; a `manual` clock moves
//! only when someone moves it (tests, instruction counting). Timers of a running clock fire on one thread of the clock,
//! those of a manual clock in the caller of `advance`.
//!
//! **Invariants**: callbacks run without any lock of the clock, at most one at a time. A callback may still run after
//! `cancel` or a new `at` if it had begun to fire; whoever owns the timer checks its own deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The virtual time of a machine. Clones are the same clock.
#[derive(Clone)]
pub struct Clock {
    shared: Arc<Shared>,
    /// Ends the timer thread with the last clone.
    _keeper: Arc<Keeper>,
}

type Sooner = Box<dyn Fn() + Send + Sync>;
type Callback = Arc<dyn Fn() + Send + Sync>;

struct Shared {
    epoch: Instant,
    manual: bool,
    running: AtomicBool,
    /// While running: virtual time minus time since `epoch`.
    offset_ns: AtomicI64,
    /// While not running: the virtual time.
    frozen_ns: AtomicU64,
    timers: Mutex<Timers>,
    /// Of a manual clock: called when there is a new first deadline.
    sooner: OnceLock<Sooner>,
    changed: Condvar,
}

#[derive(Default)]
struct Timers {
    next_id: u64,
    callbacks: BTreeMap<u64, Callback>,
    deadlines: BTreeMap<u64, u64>,
    queue: BTreeSet<(u64, u64)>,
    thread: bool,
    stop: bool,
}

struct Keeper(Arc<Shared>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Timers> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host_ns(&self) -> i64 {
        self.epoch.elapsed().as_nanos() as i64
    }

    fn now_ns(&self) -> u64 {
        if self.running.load(Ordering::Acquire) {
            (self.offset_ns.load(Ordering::Acquire) + self.host_ns()).max(0) as u64
        } else {
            self.frozen_ns.load(Ordering::Acquire)
        }
    }
}

impl Timers {
    fn set(&mut self, id: u64, deadline_ns: Option<u64>) {
        if let Some(old) = self.deadlines.remove(&id) {
            self.queue.remove(&(old, id));
        }
        if let Some(ns) = deadline_ns {
            self.deadlines.insert(id, ns);
            self.queue.insert((ns, id));
        }
    }

    /// Takes the first timer that is due.
    fn due(&mut self, now_ns: u64) -> Option<Callback> {
        let &(ns, id) = self.queue.first().filter(|(ns, _)| *ns <= now_ns)?;
        self.queue.remove(&(ns, id));
        self.deadlines.remove(&id);
        self.callbacks.get(&id).cloned()
    }
}

impl Clock {
    fn make(manual: bool) -> Clock {
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            manual,
            running: AtomicBool::new(false),
            offset_ns: AtomicI64::new(0),
            frozen_ns: AtomicU64::new(0),
            timers: Mutex::default(),
            sooner: OnceLock::new(),
            changed: Condvar::new(),
        });
        Clock { _keeper: Arc::new(Keeper(shared.clone())), shared }
    }

    /// A clock that stands at 0 until `resume` and then runs with the host's.
    #[expect(clippy::new_without_default)]
    pub fn new() -> Clock {
        Clock::make(false)
    }

    /// A clock that stands at 0 and moves by `advance` and `advance_to` only.
    pub fn manual() -> Clock {
        Clock::make(true)
    }

    /// Virtual time: nanoseconds that the machine has run.
    pub fn now_ns(&self) -> u64 {
        self.shared.now_ns()
    }

    pub fn is_running(&self) -> bool {
        self.shared.running.load(Ordering::Acquire)
    }

    /// Lets the clock run, from where it stands. Nothing on a manual clock.
    pub fn resume(&self) {
        let timers = self.shared.lock();
        if self.shared.manual || self.is_running() {
            return;
        }
        let frozen = self.shared.frozen_ns.load(Ordering::Acquire) as i64;
        self.shared.offset_ns.store(frozen - self.shared.host_ns(), Ordering::Release);
        self.shared.running.store(true, Ordering::Release);
        drop(timers);
        self.shared.changed.notify_all();
    }

    /// Stops the clock where it is; timers stop with it.
    pub fn pause(&self) {
        let _timers = self.shared.lock();
        if self.is_running() {
            self.shared.frozen_ns.store(self.now_ns(), Ordering::Release);
            self.shared.running.store(false, Ordering::Release);
        }
    }

    /// Sets a standing clock (after restoring a snapshot). Timers keep their deadlines.
    pub fn set_ns(&self, ns: u64) {
        let _timers = self.shared.lock();
        assert!(!self.is_running(), "the clock can be set only while it stands");
        self.shared.frozen_ns.store(ns, Ordering::Release);
    }

    /// Moves a manual clock on and fires the timers on the way in order, each at its own time.
    pub fn advance_to(&self, ns: u64) {
        assert!(self.shared.manual, "only a manual clock can be advanced");
        while let Some(deadline) = self.next_deadline_ns().filter(|&d| d <= ns) {
            let now = self.now_ns().max(deadline);
            self.shared.frozen_ns.store(now, Ordering::Release);
            let due = self.shared.lock().due(now);
            if let Some(callback) = due {
                callback();
            }
        }
        self.shared.frozen_ns.fetch_max(ns, Ordering::AcqRel);
    }

    /// Moves a manual clock on without firing timers: the next `advance` does.
    pub fn step_to(&self, ns: u64) {
        assert!(self.shared.manual, "only a manual clock can be advanced");
        self.shared.frozen_ns.fetch_max(ns, Ordering::AcqRel);
    }

    /// Calls `f` when a timer of this manual clock becomes the first one. Once only; no lock of the clock is held then.
    pub fn on_sooner(&self, f: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.sooner.set(Box::new(f));
    }

    /// Whether it moves only when it is told to.
    pub fn is_manual(&self) -> bool {
        self.shared.manual
    }

    /// Moves a manual clock on and fires what is due.
    pub fn advance(&self, ns: u64) {
        self.advance_to(self.now_ns().saturating_add(ns));
    }

    /// When the next timer fires.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.shared.lock().queue.first().map(|&(ns, _)| ns)
    }

    /// A timer that is not set yet. The callback usually holds a weak reference to the device.
    pub fn timer(&self, callback: impl Fn() + Send + Sync + 'static) -> Timer {
        let mut timers = self.shared.lock();
        if !timers.thread && !self.shared.manual {
            timers.thread = true;
            let shared = self.shared.clone();
            let spawned = std::thread::Builder::new().name("timers".into()).spawn(move || run(&shared));
            assert!(spawned.is_ok(), "the host refuses a thread for timers: {:?}", spawned.err());
        }
        timers.next_id += 1;
        let id = timers.next_id;
        timers.callbacks.insert(id, Arc::new(callback));
        Timer { shared: self.shared.clone(), id }
    }
}

/// The timer thread.
fn run(shared: &Shared) {
    let mut timers = shared.lock();
    while !timers.stop {
        let running = shared.running.load(Ordering::Acquire);
        let now = shared.now_ns();
        if let Some(callback) = running.then(|| timers.due(now)).flatten() {
            drop(timers);
            callback();
            drop(callback);
            timers = shared.lock();
            continue;
        }
        let wait = timers.queue.first().filter(|_| running).map(|(ns, _)| Duration::from_nanos(ns.saturating_sub(now)));
        timers = match wait {
            Some(wait) => shared.changed.wait_timeout(timers, wait).unwrap_or_else(PoisonError::into_inner).0,
            None => shared.changed.wait(timers).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

/// One deadline with what happens then. Dropping it cancels it.
pub struct Timer {
    shared: Arc<Shared>,
    id: u64,
}

impl Timer {
    /// Fires once when the clock reaches `ns`, instead of any deadline set before.
    pub fn at(&self, ns: u64) {
        let mut timers = self.shared.lock();
        timers.set(self.id, Some(ns));
        let first = timers.queue.first() == Some(&(ns, self.id));
        drop(timers);
        match self.shared.sooner.get() {
            Some(sooner) if first => sooner(),
            None if first && !self.shared.manual => self.shared.changed.notify_all(),
            _ => {}
        }
    }

    /// What has begun to fire goes on.
    pub fn cancel(&self) {
        self.shared.lock().set(self.id, None);
    }

    /// When it fires, in virtual time; `None` if it is not set.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.shared.lock().deadlines.get(&self.id).copied()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut timers = self.shared.lock();
        timers.set(self.id, None);
        let callback = timers.callbacks.remove(&self.id);
        drop(timers);
        drop(callback);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_manual_clock_fires_in_order_at_the_deadlines() {
        let clock = Clock::manual();
        let log = Arc::new(Mutex::new(Vec::new()));
        let timers: Vec<Timer> = [30, 10, 20]
            .map(|ns| {
                let (log, c) = (log.clone(), clock.clone());
                let t = clock.timer(move || log.lock().unwrap().push((ns, c.now_ns())));
                t.at(ns);
                t
            })
            .into();
        clock.advance(5);
        assert_eq!((clock.now_ns(), clock.next_deadline_ns()), (5, Some(10)));
        timers[2].cancel();
        clock.advance_to(100);
        assert_eq!(*log.lock().unwrap(), [(10, 10), (30, 30)]);
        assert_eq!(clock.now_ns(), 100);
        timers[0].at(50);
        clock.advance(0);
        assert_eq!(log.lock().unwrap().last(), Some(&(30, 100)), "a deadline in the past fires at once");
    }

    #[test]
    fn a_callback_may_set_its_timer_again_and_dropping_cancels() {
        let clock = Clock::manual();
        let count = Arc::new(AtomicU64::new(0));
        let slot: Arc<Mutex<Option<Timer>>> = Arc::default();
        let (c, n, s) = (clock.clone(), count.clone(), Arc::downgrade(&slot));
        let timer = clock.timer(move || {
            n.fetch_add(1, Ordering::Relaxed);
            if let Some(t) = s.upgrade().unwrap().lock().unwrap().as_ref() {
                t.at(c.now_ns() + 10);
            }
        });
        timer.at(10);
        *slot.lock().unwrap() = Some(timer);
        clock.advance_to(35);
        assert_eq!(count.load(Ordering::Relaxed), 3);
        *slot.lock().unwrap() = None;
        clock.advance_to(1000);
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_running_clock_fires_on_its_thread_and_not_while_paused() {
        let clock = Clock::new();
        let (send, receive) = mpsc::channel();
        let timer = clock.timer(move || send.send(()).unwrap());
        timer.at(1);
        assert_eq!(clock.now_ns(), 0);
        assert!(receive.try_recv().is_err(), "the clock stands");
        clock.resume();
        receive.recv().unwrap();
        let far = clock.now_ns() + 3_600_000_000_000;
        timer.at(far);
        timer.at(1);
        receive.recv().unwrap();
        clock.pause();
        let stood = clock.now_ns();
        assert!(stood > 0);
        assert_eq!(clock.now_ns(), stood);
        clock.set_ns(far);
        timer.at(far);
        clock.resume();
        receive.recv().unwrap();
        assert!(clock.now_ns() >= far);
    }
}
