//! Room for the emulator's own mappings: the host's limit on their number (vm.max_map_count) counts the guest's with ours, and an
//! allocation of ours that fails is the end. So the guest's calls fail with ENOMEM a little before the limit.
//!
//! Counting takes time, so it is done when as many could have been added since the last time as there was room for.

use crate::errno::{self, Errno};
use std::io::Read;

/// Mappings that the guest cannot have.
const RESERVE: usize = 2000;
/// The kernel's own default.
const USUAL_LIMIT: usize = 65_530;
/// A call may cut one mapping into three.
const ADDED_BY_A_CALL: usize = 2;

/// A program begins with far fewer, so that most never need to count.
const AT_FIRST: usize = 20_000;

pub struct Room {
    /// How many more there may be before they are counted again.
    left: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room { left: AT_FIRST }
    }
}

impl Room {
    /// To be called before a mapping of the guest is made or cut.
    pub fn take(&mut self) -> Result<(), Errno> {
        if self.left < ADDED_BY_A_CALL {
            let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|t| t.trim().parse().ok());
            // Without /proc there is nothing to go by.
            let now = count().unwrap_or(0);
            self.left = limit.unwrap_or(USUAL_LIMIT).saturating_sub(RESERVE).saturating_sub(now);
        }
        match self.left.checked_sub(ADDED_BY_A_CALL) {
            Some(left) => self.left = left,
            None => return Err(errno::ENOMEM),
        }
        Ok(())
    }
}

/// The mappings of the process, counted without an allocation.
fn count() -> Option<usize> {
    let mut file = std::fs::File::open("/proc/self/maps").ok()?;
    let mut part = [0u8; 4096];
    let mut lines = 0;
    loop {
        match file.read(&mut part).ok()? {
            0 => return Some(lines),
            n => lines += part[..n].iter().filter(|b| **b == b'\n').count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_and_it_is_used_up() {
        assert!(count().is_some_and(|n| n > 10));
        let mut room = Room { left: 3 };
        assert_eq!((room.take(), room.left), (Ok(()), 1));
        assert!(room.take().is_ok() && room.left > RESERVE, "counted again");
    }
}
