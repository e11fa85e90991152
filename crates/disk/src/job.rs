//! Background work on a graph that is in use: commit, stream, mirror and backup.
//!
//! Reference: QEMU's docs/interop/live-block-operations.rst and the states of its job interface (`query-jobs`).
//!
//! Invariants: a job that is cancelled or fails leaves the disk as its user sees it unchanged; the graph changes only in the
//! last step, while no request is under way (`filter::slot`).

use crate::buffer::Buffer;
use crate::chain;
use crate::filter::Filtered;
use crate::filter::slot::Slot;
use crate::filter::track::{BeforeWrite, Bits, CopyBeforeWrite, Tracker};
use crate::node::{NodeRef, Preallocation, is_zero, strerror};
use spec::error::{Error, Result};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes that are copied at once.
const BUFFER: u64 = 1 << 20;
/// Pieces that mirrors and backups remember.
const GRANULARITY: u64 = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Running,
    Paused,
    /// A mirror that has caught up and waits to be completed.
    Ready,
    Concluded,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Ready => "ready",
            Status::Concluded => "concluded",
        }
    }
}

/// What stops a job early.
pub enum Stop {
    Cancelled,
    Failed(Error),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        Stop::Failed(Error::new(strerror(&e)))
    }
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Failed(e)
    }
}

#[derive(Default)]
struct Wishes {
    paused: bool,
    cancelled: bool,
    complete: bool,
    ready: bool,
    concluded: bool,
    error: Option<String>,
}

/// How the job's thread and its user talk: progress in one direction, wishes in the other.
#[derive(Default)]
pub struct Control {
    done: AtomicU64,
    total: AtomicU64,
    /// Bytes per second; zero is no limit.
    speed: AtomicU64,
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

impl Control {
    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.wishes());
        self.changed.notify_all();
    }

    /// Counts finished work, and waits while the job is paused or too fast.
    fn step(&self, bytes: u64) -> Result<(), Stop> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        let speed = self.speed.load(Ordering::Relaxed);
        let mut wishes = self.wishes();
        if speed > 0 && bytes > 0 && !wishes.cancelled {
            let pause = Duration::from_secs_f64(bytes as f64 / speed as f64);
            let waiting = self.changed.wait_timeout_while(wishes, pause, |w| !w.cancelled);
            wishes = waiting.unwrap_or_else(PoisonError::into_inner).0;
        }
        while wishes.paused && !wishes.cancelled {
            wishes = self.changed.wait(wishes).unwrap_or_else(PoisonError::into_inner);
        }
        if wishes.cancelled { Err(Stop::Cancelled) } else { Ok(()) }
    }

    fn begin(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }
}

/// A job that runs on a thread of its own.
pub struct Job {
    pub id: String,
    pub kind: &'static str,
    control: Arc<Control>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Job {
    /// Starts work on its own thread.
    pub fn start(
        id: &str,
        kind: &'static str,
        speed: u64,
        work: impl FnOnce(&Control) -> Result<(), Stop> + Send + 'static,
    ) -> Result<Job> {
        let control = Arc::new(Control { speed: AtomicU64::new(speed), ..Control::default() });
        let inside = control.clone();
        let run = move || {
            let error = match work(&inside) {
                Ok(()) => None,
                Err(Stop::Cancelled) => Some("Operation canceled".to_owned()),
                Err(Stop::Failed(e)) => Some(e.to_string()),
            };
            inside.wish(|w| (w.error, w.concluded) = (error, true));
        };
        let thread = std::thread::Builder::new().name(format!("job {id}")).spawn(run);
        let thread = thread.map_err(|e| Error::caused(format!("job '{id}' could not start"), e))?;
        Ok(Job { id: id.to_owned(), kind, control, thread: Mutex::new(Some(thread)) })
    }

    /// Bytes done and bytes known to be there; both grow while the disk is written.
    pub fn progress(&self) -> (u64, u64) {
        let done = self.control.done.load(Ordering::Relaxed);
        (done, self.control.total.load(Ordering::Relaxed).max(done))
    }

    pub fn status(&self) -> Status {
        let w = self.control.wishes();
        match (w.concluded, w.paused, w.ready) {
            (true, ..) => Status::Concluded,
            (_, true, _) => Status::Paused,
            (_, _, true) => Status::Ready,
            _ => Status::Running,
        }
    }

    pub fn set_speed(&self, bytes_per_second: u64) {
        self.control.speed.store(bytes_per_second, Ordering::Relaxed);
    }

    pub fn pause(&self) {
        self.control.wish(|w| w.paused = true);
    }

    pub fn resume(&self) {
        self.control.wish(|w| w.paused = false);
    }

    pub fn cancel(&self) {
        self.control.wish(|w| w.cancelled = true);
    }

    /// Lets a mirror that is ready switch over.
    pub fn complete(&self) -> Result<()> {
        if self.status() != Status::Ready {
            return Err(Error::new(format!("The active block job '{}' cannot be completed", self.id)));
        }
        self.control.wish(|w| w.complete = true);
        Ok(())
    }

    /// Waits until a mirror has caught up, or the job has ended.
    pub fn wait_ready(&self) {
        let wishes = self.control.wishes();
        drop(self.control.changed.wait_while(wishes, |w| !w.ready && !w.concluded));
    }

    /// Waits for the end and says how it was.
    pub fn wait(&self) -> Result<()> {
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            thread.join().map_err(|_| Error::new(format!("job '{}' died", self.id)))?;
        }
        match self.control.wishes().error.take() {
            None => Ok(()),
            Some(text) => Err(Error::new(text)),
        }
    }
}

/// Copies bytes, storing zeroes as such.
pub fn copy_piece(source: &NodeRef, target: &NodeRef, offset: u64, len: u64) -> io::Result<()> {
    let mut at = offset;
    let end = offset + len;
    while at < end {
        let seen = chain::status(source.as_ref(), None, at, end - at)?;
        let n = seen.extent.len.max(1).min(end - at).min(BUFFER);
        if seen.extent.zero {
            target.write_zeroes(at, n, true)?;
        } else {
            let mut data = Buffer::new(n as usize);
            source.read(at, &mut data)?;
            if is_zero(&data) { target.write_zeroes(at, n, true)? } else { target.write(at, &data)? }
        }
        at += n;
    }
    Ok(())
}

/// Copies what the layers from `top` down to (not into) `stop` have into `base`.
pub fn commit(control: &Control, top: &NodeRef, stop: &NodeRef, base: &NodeRef) -> Result<(), Stop> {
    let size = top.size();
    if base.size() < size {
        base.resize(size, Preallocation::Off)?;
    }
    control.begin(size);
    let mut at = 0;
    while at < size {
        let seen = chain::status(top.as_ref(), Some(stop), at, size - at)?.extent;
        let n = seen.len.max(1).min(if seen.zero { u64::MAX } else { BUFFER });
        if seen.allocated && seen.zero {
            base.write_zeroes(at, n, false)?;
        } else if seen.allocated {
            let mut data = Buffer::new(n as usize);
            top.read(at, &mut data)?;
            base.write(at, &data)?;
        }
        at += n;
        control.step(n)?;
    }
    base.flush()?;
    Ok(())
}

/// Copies what the layers between the top one and `base` (none: all of them) have into it, then drops those layers.
///
/// `name` is what the image is to call its backing file from then on.
pub fn stream(control: &Control, slot: &Slot, base: Option<&NodeRef>, name: Option<(&str, &str)>) -> Result<(), Stop> {
    // Reading through the filter copies into the image. Who uses the disk meanwhile goes through it too, so that no
    // write comes between the reading and the writing of a copy.
    let (top, reader) = slot.exchange(|top| {
        let stay = crate::filter::copy_on_read::CopyOnRead::new(lowest_above(top, base));
        let reader: NodeRef = Arc::new(Filtered::new(top.clone(), stay));
        Ok((reader.clone(), (top.clone(), reader)))
    })?;
    let result = fill(control, &top, &reader, base, name);
    slot.exchange(|_| Ok((top, ())))?;
    result
}

fn fill(
    control: &Control,
    top: &NodeRef,
    reader: &NodeRef,
    base: Option<&NodeRef>,
    name: Option<(&str, &str)>,
) -> Result<(), Stop> {
    let size = top.size();
    control.begin(size);
    let mut at = 0;
    while at < size {
        let seen = chain::status(top.as_ref(), base, at, size - at)?;
        let n = seen.extent.len.max(1).min(BUFFER);
        if seen.depth > 0 && seen.extent.allocated {
            reader.read(at, &mut Buffer::new(n as usize))?;
        }
        at += n;
        control.step(n)?;
    }
    top.flush()?;
    top.change_backing_file(name.map(|n| n.0), name.map(|n| n.1))?;
    top.set_backing(base.cloned());
    Ok(())
}

/// The file name of the layer right above `base`.
fn lowest_above(top: &NodeRef, base: Option<&NodeRef>) -> Option<String> {
    let base = base?;
    let layers = chain::layers(top);
    let at = layers.iter().position(|l| Arc::ptr_eq(l, base))?;
    Some(layers.get(at.checked_sub(1)?)?.filename())
}

/// Copies a disk that is in use to `target` until both are equal, then waits for `complete` and puts `target` in its place.
pub fn mirror(control: &Control, slot: &Slot, target: &NodeRef) -> Result<(), Stop> {
    let bits = slot.exchange(|old| {
        if target.size() < old.size() {
            target.resize(old.size(), Preallocation::Off)?;
        }
        let bits = Arc::new(Bits::new(old.size(), GRANULARITY));
        bits.set(0, old.size());
        let node: NodeRef = Arc::new(Filtered::new(old.clone(), Tracker(bits.clone())));
        Ok((node, (bits, old.clone())))
    })?;
    let (bits, source) = bits;
    let done = follow(control, &bits, &source, target);
    // Whatever happened, the tracker goes; on success the target takes the place.
    slot.exchange(|_| {
        // Nothing is under way now: the last pieces make both equal.
        let done = done.and_then(|()| Ok(finish(&bits, &source, target)?));
        let node = if done.is_ok() { target.clone() } else { source.clone() };
        Ok((node, done))
    })?
}

fn finish(bits: &Bits, source: &NodeRef, target: &NodeRef) -> io::Result<()> {
    while let Some((at, len)) = bits.take_next(0) {
        copy_piece(source, target, at, len)?;
    }
    target.flush()
}

fn follow(control: &Control, bits: &Bits, source: &NodeRef, target: &NodeRef) -> Result<(), Stop> {
    let mut from = 0;
    loop {
        control.begin(control.done.load(Ordering::Relaxed) + bits.remaining());
        let Some((at, len)) = bits.take_next(from) else {
            let mut wishes = control.wishes();
            wishes.ready = true;
            control.changed.notify_all();
            if wishes.complete {
                return Ok(());
            }
            // Look for new writes now and then.
            let waiting =
                control.changed.wait_timeout_while(wishes, Duration::from_millis(20), |w| !w.complete && !w.cancelled);
            let cancelled = waiting.unwrap_or_else(PoisonError::into_inner).0.cancelled;
            if cancelled {
                return Err(Stop::Cancelled);
            }
            continue;
        };
        if let Err(e) = copy_piece(source, target, at, len) {
            bits.set(at, len);
            return Err(e.into());
        }
        from = at + len;
        control.step(len)?;
    }
}

/// Copies a disk in use as it was when the job began.
pub fn backup(control: &Control, slot: &Slot, target: &NodeRef) -> Result<(), Stop> {
    let (state, source) = slot.exchange(|old| {
        if target.size() < old.size() {
            target.resize(old.size(), Preallocation::Off)?;
        }
        let state = Arc::new(BeforeWrite::new(old.clone(), target.clone(), GRANULARITY));
        state.wanted.set(0, old.size());
        let node: NodeRef = Arc::new(Filtered::new(old.clone(), CopyBeforeWrite(state.clone())));
        Ok((node, (state, old.clone())))
    })?;
    let size = source.size();
    control.begin(size);
    let work = || -> Result<(), Stop> {
        for piece in 0..size.div_ceil(GRANULARITY) {
            state.copy(piece)?;
            if let Some(e) = state.failure() {
                return Err(e.into());
            }
            control.step(GRANULARITY.min(size - piece * GRANULARITY))?;
        }
        Ok(())
    };
    let done = work();
    slot.exchange(|_| Ok((source.clone(), ())))?;
    done?;
    if let Some(e) = state.failure() {
        return Err(e.into());
    }
    target.flush()?;
    Ok(())
}
