//! Where the threads of vCPUs wait: each vCPU's own place, or one place for all that share a thread.
//!
//! Invariant: `current` is null or the exit request of a vCPU that lives (a vCPU's block lives as long as its `Cpu`).

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

#[derive(Default)]
pub(super) struct Parking {
    mutex: Mutex<()>,
    wake: Condvar,
    sleeping: AtomicBool,
    /// Somebody has been kicked since this was last cleared.
    kicked: AtomicBool,
    /// Of vCPUs that share a thread: the exit request of the one that has its turn.
    current: AtomicPtr<AtomicU32>,
    shared: bool,
}

impl Parking {
    /// For vCPUs that share a thread.
    pub fn shared() -> Parking {
        Parking { shared: true, ..Parking::default() }
    }

    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whoever waits here looks again. If the vCPU with this exit request does not have its turn, the one that has gives it up.
    pub fn kick(&self, exit_req: *const AtomicU32) {
        let current = self.current.load(Ordering::SeqCst);
        if std::ptr::eq(current, exit_req) {
            return;
        }
        self.end_turn();
    }

    /// The vCPU that has its turn gives it up; if nobody has, the thread looks again.
    pub fn end_turn(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        let current = self.current.load(Ordering::SeqCst);
        if !current.is_null() {
            // SAFETY: the invariant.
            unsafe { &*current }.store(1, Ordering::SeqCst);
        }
        if self.sleeping.load(Ordering::SeqCst) {
            let _held = self.mutex.lock().unwrap();
            self.wake.notify_all();
        }
    }

    /// There is a timer sooner than expected: whoever executes or waits asks for it again.
    pub fn sooner(&self) {
        let current = self.current.load(Ordering::SeqCst);
        if current.is_null() {
            return self.end_turn();
        }
        // SAFETY: the invariant.
        unsafe { &*current }.store(1, Ordering::SeqCst);
    }

    pub fn is_kicked(&self) -> bool {
        self.kicked.load(Ordering::SeqCst)
    }

    pub fn clear(&self) {
        self.kicked.store(false, Ordering::SeqCst);
    }

    pub fn is_sleeping(&self) -> bool {
        self.sleeping.load(Ordering::SeqCst)
    }

    /// The vCPU with this exit request has its turn; none has with `None`.
    pub fn set_current(&self, exit_req: Option<*const AtomicU32>) {
        self.current.store(exit_req.map_or(null_mut(), |p| p.cast_mut()), Ordering::SeqCst);
    }

    /// Waits as long as `idle` says so, or until the time is over.
    pub fn park(&self, limit: Option<Duration>, idle: impl Fn() -> bool) {
        let mut held = self.mutex.lock().unwrap();
        self.sleeping.store(true, Ordering::SeqCst);
        while idle() {
            held = match limit {
                None => self.wake.wait(held).unwrap(),
                Some(limit) => {
                    let (held, result) = self.wake.wait_timeout(held, limit).unwrap();
                    if result.timed_out() {
                        drop(held);
                        break;
                    }
                    held
                }
            };
        }
        self.sleeping.store(false, Ordering::SeqCst);
    }
}
