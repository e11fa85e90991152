//! Helpers for the tests of devices: random accesses, and wires that remember.

use fabric::{LineSink, MmioTarget};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A small generator; the seed is part of each test, so failures repeat.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}

/// 100,000 reads and writes of every width; most offsets are registers, some are odd. Nothing may panic.
pub fn torture(target: &dyn MmioTarget, len: u64, seed: u64, mut between: impl FnMut(&mut Random)) {
    let mut random = Random::new(seed);
    for _ in 0..100_000 {
        let size = 1 << random.below(4);
        let near = if random.below(2) == 0 { len } else { len.min(0x200) };
        let mut offset = random.below(near - size + 1);
        if random.below(8) != 0 {
            offset &= !(size - 1);
        }
        let value = match random.below(3) {
            0 => random.next(),
            1 => 1 << random.below(64),
            _ => random.below(256),
        };
        if random.below(2) == 0 {
            let read = target.read(offset, size as u8);
            assert!(size == 8 || read >> (size * 8) == 0, "{offset:#x} of {size} bytes reads {read:#x}");
        } else {
            target.write(offset, size as u8, value);
        }
        between(&mut random);
    }
}

/// Far ends of up to 64 wires.
#[derive(Default)]
pub struct Wires {
    levels: AtomicU64,
    pub changes: AtomicU32,
}

impl Wires {
    pub fn new() -> Arc<Wires> {
        Arc::default()
    }

    pub fn level(&self, number: u32) -> bool {
        self.levels.load(Ordering::SeqCst) >> number & 1 != 0
    }

    pub fn line(self: &Arc<Self>, number: u32) -> fabric::Line {
        fabric::Line::new(self.clone(), number)
    }
}

impl LineSink for Wires {
    fn set(&self, number: u32, level: bool) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        if level {
            self.levels.fetch_or(1 << number, Ordering::SeqCst);
        } else {
            self.levels.fetch_and(!(1 << number), Ordering::SeqCst);
        }
    }
}
