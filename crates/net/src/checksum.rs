//! The Internet checksum, eight bytes at a time.
//!
//! Reference: RFC 1071; pseudo headers: RFC 9293 3.1 (IPv4), RFC 8200 8.1 (IPv6).

use std::net::IpAddr;

/// A one's complement sum that has not been folded yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that start at an even offset of the summed text.
    pub fn bytes(self, data: &[u8]) -> Sum {
        let mut sum = self.0;
        let (words, tail) = data.as_chunks::<8>();
        for word in words {
            // Two 32-bit halves cannot overflow the 64-bit sum for any frame we handle.
            let word = u64::from_be_bytes(*word);
            sum += (word >> 32) + (word & 0xffff_ffff);
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        let word = u64::from_be_bytes(last);
        Sum(sum + (word >> 32) + (word & 0xffff_ffff))
    }

    /// Adds text given in pieces, as if it were one.
    pub fn parts(mut self, parts: &[&[u8]]) -> Sum {
        let mut odd = false;
        for part in parts {
            let mut part = *part;
            if odd && let Some((&first, rest)) = part.split_first() {
                self.0 += u64::from(first);
                part = rest;
                odd = false;
            }
            if !part.is_empty() {
                self = self.bytes(part);
                odd = part.len() % 2 == 1;
            }
        }
        self
    }

    /// The pseudo header of a packet of `length` bytes.
    pub fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Sum {
        let sum = Sum(u64::from(protocol) + length as u64);
        match (source, destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => sum.bytes(&s.octets()).bytes(&d.octets()),
            (IpAddr::V6(s), IpAddr::V6(d)) => sum.bytes(&s.octets()).bytes(&d.octets()),
            _ => unreachable!("a packet has one IP version"),
        }
    }

    /// The sum in 16 bits, not complemented: what a partial checksum field holds.
    pub fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The value for a checksum field.
    pub fn finish(self) -> u16 {
        !self.folded()
    }

    /// Whether text that includes its checksum field is intact.
    pub fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_smoltcp_on_every_length_and_split() {
        let data: Vec<u8> = (0..200u32).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8).collect();
        for length in 0..data.len() {
            let expected = smoltcp::wire::checksum::data(&data[..length]);
            assert_eq!(Sum::default().bytes(&data[..length]).folded(), expected, "{length}");
            let (a, b) = data[..length].split_at(length / 3);
            let (b, c) = b.split_at(b.len() / 2);
            assert_eq!(Sum::default().parts(&[a, b, c]).folded(), expected, "{length} in parts");
        }
    }
}
