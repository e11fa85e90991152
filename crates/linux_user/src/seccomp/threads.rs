//! Whose filters: a seat for each thread, which another thread may fill (TSYNC).

use super::Filters;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

/// A thread's filters.
#[derive(Default)]
pub struct Seat {
    tid: AtomicI32,
    /// The filters' mode, to be seen without the lock.
    mode: AtomicU32,
    filters: Mutex<Filters>,
    /// The thread is to give up gaining privileges, as the one that gave it its filters has.
    gives_up_privileges: AtomicBool,
}

impl Seat {
    pub fn mode(&self) -> u32 {
        self.mode.load(Ordering::Acquire)
    }

    pub fn filters(&self) -> MutexGuard<'_, Filters> {
        self.filters.lock().unwrap()
    }

    pub fn set(&self, filters: Filters) {
        let mut own = self.filters();
        self.mode.store(filters.mode(), Ordering::Release);
        *own = filters;
    }

    /// To be called by the thread itself: its number.
    pub fn occupy(&self, tid: i32) {
        self.tid.store(tid, Ordering::Relaxed);
    }

    /// What another thread wanted of this one when it gave it its filters.
    pub fn settle(&self) {
        if self.gives_up_privileges.swap(false, Ordering::AcqRel) {
            // SAFETY: a plain call without memory.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        }
    }
}

/// The seats of a process's threads. Filters are added under its lock.
#[derive(Default)]
pub struct Seats(Mutex<Vec<Weak<Seat>>>);

impl Seats {
    pub fn lock(&self) -> MutexGuard<'_, Vec<Weak<Seat>>> {
        self.0.lock().unwrap()
    }

    /// The seat of a thread that inherits the filters of `of`.
    pub fn inherit(&self, of: &Seat) -> Arc<Seat> {
        let mut seats = self.lock();
        let seat = Arc::new(Seat::default());
        seat.set(of.filters().clone());
        seats.retain(|s| s.strong_count() != 0);
        seats.push(Arc::downgrade(&seat));
        seat
    }

    /// In the child of a fork there is one thread.
    pub fn keep_only(&self, own: &Arc<Seat>) {
        *self.lock() = vec![Arc::downgrade(own)];
    }
}

/// The other seats, if `own`'s filters are descendants of all theirs; else the number of a thread for which that is not so.
pub fn others(seats: &[Weak<Seat>], own: &Arc<Seat>) -> Result<Vec<Arc<Seat>>, i32> {
    let others: Vec<Arc<Seat>> = seats.iter().filter_map(Weak::upgrade).filter(|s| !Arc::ptr_eq(s, own)).collect();
    let filters = own.filters();
    match others.iter().find(|s| !filters.descend_from(&s.filters())) {
        Some(stubborn) => Err(stubborn.tid.load(Ordering::Relaxed)),
        None => Ok(others),
    }
}

/// Gives filters to another thread, which sees them at its next call.
pub fn give(seat: &Seat, filters: &Filters, privileges_given_up: bool) {
    if privileges_given_up {
        seat.gives_up_privileges.store(true, Ordering::Release);
    }
    seat.set(filters.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_spread_to_ancestors_only() {
        let seats = Seats::default();
        let first = seats.inherit(&Seat::default());
        let second = seats.inherit(&first);
        second.occupy(77);
        first.set(Filters::of_one());
        assert_eq!(others(&seats.lock(), &first).unwrap().len(), 1);
        assert_eq!(others(&seats.lock(), &second).err(), Some(0), "the first has a filter that the second has not");
        give(&second, &first.filters().clone(), false);
        assert_eq!((second.mode(), others(&seats.lock(), &second).unwrap().len()), (first.mode(), 1));
        second.set(Filters::of_one());
        assert_eq!(others(&seats.lock(), &first).err(), Some(77), "of equal contents, but not the same");
        drop(second);
        assert_eq!(others(&seats.lock(), &first).unwrap().len(), 0);
    }
}
