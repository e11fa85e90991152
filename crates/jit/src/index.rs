//! Where the code of a key is, for many threads at once and without a lock: a table that forgets.
//!
//! Readers take nothing but two loads of the entry's key around the load of its code. Writers hold the cache's lock.
//!
//! Invariants:
//! 1. An entry's code is stored only while its key is empty, so a reader that sees the same key before and after has read
//!    the code that was published with it.

use crate::jumps::NO_KEY;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries (a power of two).
const ENTRIES: usize = 1 << 16;

/// Zero is empty: the memory is not touched before it is used.
struct Entry {
    /// The key's complement; no region has the key `NO_KEY`.
    key: AtomicU64,
    code: AtomicU64,
}

pub(crate) struct Index(Box<[Entry]>);

impl Index {
    pub fn new() -> Index {
        // SAFETY: all bytes zero are entries.
        Index(unsafe { Box::new_zeroed_slice(ENTRIES).assume_init() })
    }

    fn entry(&self, key: u64) -> &Entry {
        let h = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - ENTRIES.trailing_zeros());
        &self.0[h as usize]
    }

    pub fn find(&self, key: u64) -> Option<u64> {
        let e = self.entry(key);
        if e.key.load(Ordering::Acquire) != key ^ NO_KEY {
            return None;
        }
        let code = e.code.load(Ordering::Acquire);
        (e.key.load(Ordering::Relaxed) == key ^ NO_KEY).then_some(code)
    }

    pub fn publish(&self, key: u64, code: u64) {
        let e = self.entry(key);
        e.key.store(0, Ordering::Relaxed);
        e.code.store(code, Ordering::Release);
        e.key.store(key ^ NO_KEY, Ordering::Release);
    }

    pub fn forget(&self, key: u64) {
        let e = self.entry(key);
        if e.key.load(Ordering::Relaxed) == key ^ NO_KEY {
            e.key.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_never_takes_one_keys_code_for_anothers() {
        let index = Index::new();
        // Two keys of one entry.
        let place = |k: u64| index.entry(k) as *const Entry;
        let other = (2..).find(|&k| place(k) == place(1)).unwrap();
        assert_eq!((index.find(1), index.find(0)), (None, None));
        std::thread::scope(|s| {
            s.spawn(|| {
                for n in 0..200_000u64 {
                    index.publish([1, other][n as usize & 1], n);
                }
            });
            s.spawn(|| {
                for _ in 0..200_000 {
                    assert!(index.find(1).is_none_or(|code| code & 1 == 0));
                    assert!(index.find(other).is_none_or(|code| code & 1 == 1));
                }
            });
        });
        index.forget(1);
        assert_eq!((index.find(1), index.find(other)), (None, Some(199_999)));
    }
}
