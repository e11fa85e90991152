//! Signal numbers: GDB has its own, the same for every system.
//!
//! **Reference.** GDB's `gdb/signals.def`; Linux's `asm-generic/signal.h`, which 32-bit ARM shares.

use crate::Signal;

/// GDB's numbers of Linux's signals 1 to 31.
const STANDARD: [u8; 31] = [
    1, 2, 3, 4, 5, 6, 10, 8, 9, 30, 11, 31, 13, 14, 15, // HUP to TERM; BUS and USR1 lie elsewhere
    143, 20, 19, 17, 18, 21, 22, // STKFLT has no number of its own; CHLD to TTOU
    16, 24, 25, 26, 27, 28, 23, 32, 12, // URG to SYS
];

pub const INT: Signal = 2;
pub const TRAP: Signal = 5;
/// "Unknown signal".
pub const UNKNOWN: Signal = 143;

/// GDB's number of a Linux signal.
pub fn from_linux(signal: i32) -> Signal {
    match signal {
        1..=31 => STANDARD[signal as usize - 1],
        32 => 77,
        33..=63 => (signal - 33 + 45) as u8,
        64 => 78,
        _ => UNKNOWN,
    }
}

/// The Linux signal of a GDB number, if Linux has it.
pub fn to_linux(signal: Signal) -> Option<i32> {
    (1..=64).find(|s| from_linux(*s) == signal && signal != UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for signal in (1..=64).filter(|s| *s != 16) {
            assert_eq!(to_linux(from_linux(signal)), Some(signal), "{signal}");
        }
        assert_eq!((to_linux(0), to_linux(UNKNOWN), to_linux(76), from_linux(16)), (None, None, None, UNKNOWN));
        assert_eq!((from_linux(7), from_linux(11), from_linux(17), from_linux(34)), (10, 11, 20, 46));
    }
}
