//! A small random number generator (xorshift64*), seeded per case so that any case can be made alone.

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64, case: usize) -> Random {
        // One step of splitmix64 keeps neighbouring cases apart.
        let mut z = seed.wrapping_add((case as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random((z ^ z >> 31).max(1))
    }

    pub fn u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn u32(&mut self) -> u32 {
        (self.u64() >> 32) as u32
    }

    /// 0 to n - 1.
    pub fn below(&mut self, n: u32) -> u32 {
        (self.u32() as u64 * n as u64 >> 32) as u32
    }

    pub fn percent(&mut self, p: u32) -> bool {
        self.below(100) < p
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }
}
