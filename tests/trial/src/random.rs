//! Numbers that look random, the same for the same seed (xorshift64*).

pub struct Random(u64);

impl Random {
    /// One case of many that have a seed in common, so that any case can be made alone.
    pub fn new(seed: u64, case: u64) -> Random {
        let mut random = Random((seed ^ case.wrapping_mul(0x9e37_79b9_7f4a_7c15)).max(1));
        // Neighbouring cases are far apart after a few steps.
        for _ in 0..4 {
            random.next();
        }
        random
    }

    /// 48 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// 0 to n - 1; 0 if there is none.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
