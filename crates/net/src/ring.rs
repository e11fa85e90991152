//! A byte queue that grows on demand up to a limit, and gives its memory back when it is empty.
//!
//! Invariant: the capacity is zero or a power of two; `len <= capacity`.

/// The first allocation.
const SMALLEST: usize = 4 * 1024;

#[derive(Debug, Default)]
pub struct Ring {
    bytes: Box<[u8]>,
    head: usize,
    len: usize,
}

impl Ring {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Makes room for `wanted` bytes in all. The caller has checked its limit.
    pub fn reserve(&mut self, wanted: usize) {
        if wanted <= self.bytes.len() {
            return;
        }
        self.resize(wanted.next_power_of_two().max(SMALLEST));
    }

    fn resize(&mut self, capacity: usize) {
        let old = self.bytes.len();
        let mut bytes = vec![0; capacity].into_boxed_slice();
        // Everything is copied, not just `len` bytes: `write_at` may have put data behind the end.
        let (a, b) = self.bytes.split_at(self.head.min(old));
        bytes[..b.len()].copy_from_slice(b);
        bytes[b.len()..old].copy_from_slice(a);
        self.bytes = bytes;
        self.head = 0;
    }

    /// Frees the memory of an empty queue.
    pub fn release(&mut self) {
        assert!(self.is_empty(), "a queue with data keeps its memory");
        *self = Ring::default();
    }

    fn at(&self, offset: usize) -> usize {
        (self.head + offset) & (self.bytes.len() - 1)
    }

    /// Writes beyond the end without changing `len`: data that arrived out of order.
    pub fn write_at(&mut self, offset: usize, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        assert!(offset + data.len() <= self.bytes.len(), "the caller reserved the space");
        let start = self.at(offset);
        let first = data.len().min(self.bytes.len() - start);
        self.bytes[start..start + first].copy_from_slice(&data[..first]);
        self.bytes[..data.len() - first].copy_from_slice(&data[first..]);
    }

    /// Counts `n` bytes behind the end, written before, as part of the queue.
    pub fn commit(&mut self, n: usize) {
        assert!(self.len + n <= self.bytes.len(), "more committed than there is room");
        self.len += n;
    }

    /// The unused space, in order.
    pub fn spare(&mut self) -> (&mut [u8], &mut [u8]) {
        if self.bytes.is_empty() {
            return (&mut [], &mut []);
        }
        let start = self.at(self.len);
        let free = self.bytes.len() - self.len;
        let first = free.min(self.bytes.len() - start);
        let (low, high) = self.bytes.split_at_mut(start);
        (&mut high[..first], &mut low[..free - first])
    }

    /// `len` bytes from `offset` on, as two pieces in order.
    pub fn peek(&self, offset: usize, len: usize) -> (&[u8], &[u8]) {
        assert!(offset + len <= self.len, "peek beyond the end");
        if len == 0 {
            return (&[], &[]);
        }
        let start = self.at(offset);
        let first = len.min(self.bytes.len() - start);
        (&self.bytes[start..start + first], &self.bytes[..len - first])
    }

    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len, "consumed more than there is");
        if n > 0 {
            self.head = self.at(n);
            self.len -= n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation against a plain vector, across many wrap-arounds.
    #[test]
    fn behaves_like_a_vector() {
        let (mut ring, mut model) = (Ring::default(), Vec::new());
        let mut seed = 7u32;
        let mut next = move |n: usize| {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            (seed >> 8) as usize % n
        };
        for round in 0..5000 {
            let data: Vec<u8> = (0..next(3000)).map(|i| (i + round) as u8).collect();
            if model.len() + data.len() < 60_000 {
                ring.reserve(ring.len() + data.len());
                ring.write_at(ring.len(), &data);
                ring.commit(data.len());
                model.extend(&data);
            }
            let n = next(3100).min(model.len());
            let (a, b) = ring.peek(0, n);
            assert_eq!([a, b].concat(), model[..n], "round {round}");
            ring.consume(n);
            model.drain(..n);
        }
    }

    #[test]
    fn growing_keeps_data_written_behind_the_end() {
        let mut ring = Ring::default();
        ring.reserve(10);
        ring.write_at(0, &[9; 4000]);
        ring.commit(4000);
        ring.consume(4000);
        ring.write_at(0, b"ab");
        ring.commit(2);
        ring.write_at(1000, b"late");
        ring.reserve(40_000);
        ring.commit(1002);
        assert_eq!(ring.peek(1000, 4).0, b"late");
    }
}
