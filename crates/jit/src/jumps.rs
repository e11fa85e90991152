//! The jump cache of a vCPU: where the code of a key is, for indirect jumps and for jumps to other pages.
//!
//! A key has a place of its own, which translated code looks at, and a second one beside it, which the stub behind a miss
//! looks at (`StubOffsets::missed`). What a new entry displaces moves to the second place, so that two keys which are used
//! in turn and have the same place do not displace each other for ever.

/// A key that no region has.
pub(crate) const NO_KEY: u64 = u64::MAX;

/// Where a key's code is.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Jump {
    pub key: u64,
    pub code: u64,
}

pub(crate) const NO_JUMP: Jump = Jump { key: NO_KEY, code: 0 };

/// An empty cache.
///
/// # Safety
/// `at` leads to memory that is a cache's.
pub(crate) unsafe fn begin<const N: usize>(at: *mut [Jump; N]) {
    let first = at.cast::<Jump>();
    for n in 0..N {
        // SAFETY: it is within the cache.
        unsafe { first.add(n).write(NO_JUMP) };
    }
}

/// A key's own place among `entries`, a power of two.
fn place(key: u64, entries: usize) -> usize {
    (key >> 1) as usize & (entries - 1)
}

/// The place beside one.
fn beside(place: usize) -> usize {
    place ^ 1
}

/// The code of a key.
pub(crate) fn find(jumps: &[Jump], key: u64) -> Option<u64> {
    let n = place(key, jumps.len());
    [n, beside(n)].into_iter().map(|n| jumps[n]).find(|j| j.key == key).map(|j| j.code)
}

/// Enters a key's code at its own place. Gives that place, and the one to which the entry that was there has moved.
pub(crate) fn insert(jumps: &mut [Jump], key: u64, code: u64) -> (usize, Option<usize>) {
    let n = place(key, jumps.len());
    let old = std::mem::replace(&mut jumps[n], Jump { key, code });
    // A guest from beside has had its chance.
    let stays = old.key != NO_KEY && old.key != key && place(old.key, jumps.len()) == n;
    if stays {
        jumps[beside(n)] = old;
    }
    (n, stays.then_some(beside(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_of_one_place_are_both_found() {
        let mut jumps = [NO_JUMP; 16];
        let (a, b, c) = (0x100, 0x120, 0x140);
        assert_eq!(insert(&mut jumps, a, 1), (0, None));
        assert_eq!(insert(&mut jumps, b, 2), (0, Some(1)));
        assert_eq!((find(&jumps, a), find(&jumps, b), find(&jumps, c)), (Some(1), Some(2), None));
        assert_eq!(insert(&mut jumps, b, 3), (0, None));
        insert(&mut jumps, c, 4);
        assert_eq!((find(&jumps, a), find(&jumps, b), find(&jumps, c)), (None, Some(3), Some(4)));
        // An entry beside its own place does not come back to displace another one.
        insert(&mut jumps, 0x102, 5);
        assert_eq!((find(&jumps, b), find(&jumps, c), find(&jumps, 0x102)), (None, Some(4), Some(5)));
    }
}
