//! What devices tell the log.
//!
//! Events are records of the `log` crate with one of these targets; `-d guest_errors` and `-d unimp` choose them. A guest can
//! cause as many as it likes, so each place that reports one keeps a [`Limit`].

use std::sync::atomic::{AtomicU32, Ordering};

/// The guest did something that makes no sense.
pub const GUEST_ERROR: &str = "guest_errors";
/// The guest asked for something that is not built.
pub const UNIMP: &str = "unimp";
/// Reports of one device before it falls silent.
const REPORTS_MAX: u32 = 100;

/// Counts the reports of one device.
#[derive(Debug, Default)]
pub struct Limit(AtomicU32);

impl Limit {
    /// Whether to report once more.
    pub fn admit(&self) -> bool {
        // The counter stops, so it does not wrap around.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < REPORTS_MAX).then_some(n + 1)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_end() {
        let limit = Limit::default();
        assert_eq!((0..1000).filter(|_| limit.admit()).count(), REPORTS_MAX as usize);
    }
}
