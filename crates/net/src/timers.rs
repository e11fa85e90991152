//! Deadlines of many owners in one queue, with at most a handful of entries for each owner.
//!
//! An owner keeps `armed: Option<Nanos>` for its earliest queued entry and moves its real deadline
//! freely: an entry that comes out early is simply put back. Moving a deadline later is free, which
//! is what happens to a TCP retransmission timer with every acknowledgement.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::backend::Nanos;

/// Needless entries that are not worth the time to look for them.
const SPARE: usize = 1024;

#[derive(Debug)]
pub struct Timers<K> {
    heap: BinaryHeap<Reverse<(Nanos, K)>>,
}

impl<K: Ord + Copy> Default for Timers<K> {
    fn default() -> Self {
        Timers { heap: BinaryHeap::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Makes sure that an entry at or before `deadline` is queued for the owner of `armed`.
    pub fn arm(&mut self, armed: &mut Option<Nanos>, deadline: Option<Nanos>, key: K) {
        let Some(deadline) = deadline else { return };
        if armed.is_none_or(|at| at > deadline) {
            *armed = Some(deadline);
            self.heap.push(Reverse((deadline, key)));
        }
    }

    /// Forgets the entries that are not the ones their owners know as `armed`, once there may be many:
    /// far deadlines of short lives, and those that a nearer one replaced, would pile up.
    pub fn purge(&mut self, owners: usize, is_armed: impl Fn(K, Nanos) -> bool) {
        if self.heap.len() > 4 * owners + SPARE {
            self.heap.retain(|Reverse((at, key))| is_armed(*key, *at));
        }
    }

    /// Takes an entry that is due. The owner clears its `armed` if it equals the returned time.
    pub fn due(&mut self, now: Nanos) -> Option<(Nanos, K)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    pub fn next(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_deadlines_do_not_leave_far_ones_behind() {
        let (mut timers, mut armed) = (Timers::default(), None);
        for now in 0..100_000 {
            // An idle deadline far away, then a retransmission soon, which comes and goes.
            timers.arm(&mut armed, Some(Nanos(1 << 40)), 'a');
            timers.arm(&mut armed, Some(Nanos(now + 1)), 'a');
            while let Some((at, _)) = timers.due(Nanos(now + 1)) {
                armed = armed.filter(|armed| *armed != at);
            }
            timers.purge(1, |_, at| armed == Some(at));
            assert!(timers.heap.len() <= SPARE + 8);
        }
    }

    #[test]
    fn short_lives_leave_a_bounded_queue() {
        let mut timers = Timers::default();
        for key in 0..100_000u32 {
            timers.arm(&mut None, Some(Nanos(u64::MAX)), key);
            timers.purge(10, |k, _| key - k < 10);
            assert!(timers.heap.len() <= SPARE + 50);
        }
        assert_eq!(timers.heap.iter().filter(|e| e.0.1 >= 99_990).count(), 10, "the living keep theirs");
    }

    #[test]
    fn moving_a_deadline_later_queues_nothing_and_earlier_queues_once() {
        let mut timers = Timers::default();
        let mut armed = None;
        timers.arm(&mut armed, Some(Nanos(50)), 'a');
        timers.arm(&mut armed, Some(Nanos(70)), 'a');
        timers.arm(&mut armed, Some(Nanos(50)), 'a');
        assert_eq!(timers.heap.len(), 1);
        timers.arm(&mut armed, Some(Nanos(20)), 'a');
        assert_eq!((timers.heap.len(), timers.next()), (2, Some(Nanos(20))));
        assert_eq!(timers.due(Nanos(19)), None);
        assert_eq!(timers.due(Nanos(20)), Some((Nanos(20), 'a')));
    }
}
