//! Pieces that several threads read (and pack) side by side, and that are written one after the other in the order
//! of the disk, so that the target's layout is the same every time and without gaps.
//!
//! Whoever hands in the piece whose turn it is writes it, and those behind it that are there already; the others go
//! on reading. Invariants: pieces are neighbours, so the next one is always in somebody's hands or handed in; a thread
//! that has a piece in its hands never waits.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub struct Order<T> {
    /// Pieces are written as they come (`-W`).
    any: bool,
    /// Pieces that wait for their turn, at most (and one more for each thread).
    window: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// Where the next piece to be written begins.
    next: u64,
    /// By its start: the piece's end, and the piece.
    ready: BTreeMap<u64, (u64, T)>,
    writing: bool,
    stopped: bool,
}

impl<T> Order<T> {
    pub fn new(start: u64, any: bool, window: usize) -> Order<T> {
        let state = State { next: start, ready: BTreeMap::new(), writing: false, stopped: false };
        Order { any, window, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A failure: nothing more is written.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Waits until one more piece may be begun; false after a failure.
    pub fn room(&self) -> bool {
        let mut state = self.lock();
        while !state.stopped && state.ready.len() >= self.window {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopped
    }

    /// Hands in a piece. The error is that of a write made here, and stops everything.
    pub fn put<E>(
        &self,
        start: u64,
        end: u64,
        piece: T,
        mut write: impl FnMut(u64, T) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.any {
            return write(start, piece).inspect_err(|_| self.stop());
        }
        let mut state = self.lock();
        state.ready.insert(start, (end, piece));
        while !state.writing && !state.stopped {
            let at = state.next;
            let Some((end, piece)) = state.ready.remove(&at) else { break };
            state.writing = true;
            drop(state);
            let done = write(at, piece);
            state = self.lock();
            state.writing = false;
            state.next = end;
            state.stopped |= done.is_err();
            self.changed.notify_all();
            done?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Four threads hand in pieces 0, 1, 2, …; returns what was written, and how many threads saw an error.
    fn run(any: bool, fail_at: Option<u64>) -> (Vec<u64>, usize) {
        let order = Order::new(0, any, 3);
        let (next, written) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        let work = || {
            while order.room() {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= 1000 {
                    break;
                }
                order.put(at, at + 1, at, |start, piece| {
                    assert_eq!(start, piece);
                    written.lock().unwrap().push(piece);
                    if fail_at == Some(piece) { Err(()) } else { Ok(()) }
                })?;
            }
            Ok::<(), ()>(())
        };
        let errors = std::thread::scope(|s| {
            let threads: Vec<_> = (0..4).map(|_| s.spawn(work)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).filter(Result::is_err).count()
        });
        (written.into_inner().unwrap(), errors)
    }

    #[test]
    fn pieces_are_written_in_order() {
        assert_eq!(run(false, None), ((0..1000).collect(), 0));
    }

    #[test]
    fn any_order_writes_every_piece() {
        let (mut written, errors) = run(true, None);
        written.sort_unstable();
        assert_eq!((written, errors), ((0..1000).collect(), 0));
    }

    #[test]
    fn nothing_is_written_after_a_failure() {
        assert_eq!(run(false, Some(500)), ((0..=500).collect(), 1));
    }
}
