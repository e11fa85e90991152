//! Threads that carry out block requests.
//!
//! Threads start when there is more to do than there are idle ones, up to [`THREADS_MAX`], and end with the device.
//!
//! Invariants: `busy` counts requests from submission until their outcome is in `done`; a worker takes the device's lock
//! only with no request in hand, so a reset that waits for `busy` to become zero with the device's lock held ends.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use disk::NodeRef;

use super::request::Job;
use crate::virtio::device::Handle;
use crate::virtio::ring::Fault;

/// Threads of one device at most.
const THREADS_MAX: usize = 8;

/// How a request ended.
pub struct End {
    pub queue: usize,
    pub head: u16,
    /// Bytes written to the guest, with the status byte.
    pub outcome: Result<u32, Fault>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    done: Vec<End>,
    busy: usize,
    idle: usize,
    threads: usize,
    stopped: bool,
    /// A worker is about to take the device's lock and will see everything that is in `done`.
    collecting: bool,
}

pub struct Pool {
    node: NodeRef,
    state: Mutex<State>,
    work: Condvar,
    drained: Condvar,
    handle: OnceLock<Handle>,
}

impl Pool {
    pub fn new(node: NodeRef) -> Arc<Pool> {
        Arc::new(Pool { node, state: Mutex::default(), work: Condvar::new(), drained: Condvar::new(), handle: OnceLock::new() })
    }

    pub fn attach(&self, handle: Handle) {
        let fresh = self.handle.set(handle).is_ok();
        assert!(fresh, "a pool belongs to one device");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has requests carried out. True if there was no thread for them, so that they have ended already.
    pub fn submit(self: &Arc<Pool>, jobs: Vec<Job>) -> bool {
        if jobs.is_empty() {
            return false;
        }
        let mut state = self.lock();
        let count = jobs.len();
        state.busy += count;
        state.jobs.extend(jobs);
        let missing = state.jobs.len().saturating_sub(state.idle);
        for _ in 0..missing.min(THREADS_MAX - state.threads) {
            self.start_thread(&mut state);
        }
        let wake = count.min(state.idle);
        let nobody = state.threads == 0;
        drop(state);
        for _ in 0..wake {
            self.work.notify_one();
        }
        if nobody {
            self.run_here();
        }
        nobody
    }

    fn start_thread(self: &Arc<Pool>, state: &mut State) {
        let pool = self.clone();
        match std::thread::Builder::new().name("virtio-blk".into()).spawn(move || pool.serve()) {
            Ok(_) => state.threads += 1,
            Err(error) => log::warn!("virtio-blk: no further thread: {error}"),
        }
    }

    /// Carries out what waits on the caller's thread.
    fn run_here(&self) {
        let mut buffer = Vec::new();
        loop {
            let Some(job) = self.lock().jobs.pop_front() else { return };
            self.finish(&job, &mut buffer);
        }
    }

    /// Carries out one request and puts its outcome where the device finds it. Whether to collect now.
    fn finish(&self, job: &Job, buffer: &mut Vec<u8>) -> bool {
        let outcome = job.run(&*self.node, buffer);
        let mut state = self.lock();
        state.done.push(End { queue: job.queue, head: job.chain.head, outcome });
        state.busy -= 1;
        if state.busy == 0 {
            self.drained.notify_all();
        }
        !std::mem::replace(&mut state.collecting, true)
    }

    /// A worker's life.
    fn serve(&self) {
        let mut buffer = Vec::new();
        let mut state = self.lock();
        loop {
            let Some(job) = state.jobs.pop_front() else {
                if state.stopped {
                    state.threads -= 1;
                    return;
                }
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            drop(state);
            if self.finish(&job, &mut buffer)
                && let Some(handle) = self.handle.get()
            {
                // Outcomes that come in until the device takes them are collected together.
                handle.wake();
            }
            state = self.lock();
        }
    }

    /// Takes the outcomes; called with the device's lock held.
    pub fn take_done(&self) -> Vec<End> {
        let mut state = self.lock();
        state.collecting = false;
        std::mem::take(&mut state.done)
    }

    /// Waits until nothing is on its way. All workers may be waiting for the device's lock, which the caller holds, so what
    /// has not begun is carried out here.
    pub fn drain(&self) {
        self.run_here();
        let state = self.lock();
        drop(self.drained.wait_while(state, |s| s.busy > 0).unwrap_or_else(PoisonError::into_inner));
    }

    /// The threads end when there is nothing to do any more.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.work.notify_all();
    }
}
