//! The thread that moves a card's frames.
//!
//! It sleeps until the driver notifies, the back end's descriptor is readable or the back end's deadline is reached, and
//! then has the device do a slice of work.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

#[derive(Clone, Copy)]
struct Plan {
    /// When to look again even if nothing happens.
    wait: Option<Duration>,
    /// Listen to the back end.
    listen: bool,
}

/// What the device and its thread share.
pub struct Wake {
    event: OwnedFd,
    pending: AtomicBool,
    stopped: AtomicBool,
    plan: Mutex<Plan>,
}

impl Wake {
    pub fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // It can only fail if 2^64 wakes are pending.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// What to wait for after this slice.
    pub fn plan(&self, wait: Option<Duration>, listen: bool) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Plan { wait, listen };
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake();
    }

    fn clear(&self) {
        let _ = rustix::io::read(&self.event, &mut [0u8; 8]);
        self.pending.store(false, Ordering::Release);
    }
}

/// Starts the thread, which calls `work` until that says that the card is gone. `None`, with a warning, if the host refuses:
/// notifications do the work then.
pub fn start(name: &str, work: impl Fn() -> bool + Send + 'static, backend: Option<BorrowedFd<'_>>) -> Option<Arc<Wake>> {
    match try_start(name, work, backend) {
        Ok(wake) => Some(wake),
        Err(error) => {
            log::warn!("{name}: no thread for the network: {error}");
            None
        }
    }
}

fn try_start(name: &str, work: impl Fn() -> bool + Send + 'static, backend: Option<BorrowedFd<'_>>) -> std::io::Result<Arc<Wake>> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let backend = backend.map(|fd| fd.try_clone_to_owned()).transpose()?;
    let plan = Mutex::new(Plan { wait: None, listen: true });
    let wake = Arc::new(Wake { event, pending: AtomicBool::new(false), stopped: AtomicBool::new(false), plan });
    let shared = wake.clone();
    std::thread::Builder::new().name(name.into()).spawn(move || run(&shared, &work, backend.as_ref()))?;
    Ok(wake)
}

fn run(wake: &Wake, work: &impl Fn() -> bool, backend: Option<&OwnedFd>) {
    loop {
        let plan = *wake.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fds = vec![PollFd::from_borrowed_fd(wake.event.as_fd(), PollFlags::IN)];
        if let Some(backend) = backend.filter(|_| plan.listen) {
            fds.push(PollFd::from_borrowed_fd(backend.as_fd(), PollFlags::IN));
        }
        let timeout = plan.wait.and_then(|w| Timespec::try_from(w).ok());
        // Interrupted or not: whatever there is to do is done below.
        let _ = poll(&mut fds, timeout.as_ref());
        wake.clear();
        if wake.stopped.load(Ordering::Acquire) || !work() {
            return;
        }
    }
}
