//! The header in front of each frame.
//!
//! Reference: VIRTIO 1.2, 5.1.6.

use net::{Checksum, Offload, Segmentation};

use super::feature;
use crate::virtio::device::{Core, feature as ring};

/// Bytes with the number of merged buffers.
pub const LEN: usize = 12;
const LEN_LEGACY: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// How long the header is for this driver.
pub fn len(core: &Core) -> usize {
    if core.has(ring::VERSION_1) || core.has(feature::MRG_RXBUF) { LEN } else { LEN_LEGACY }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
    pub num_buffers: u16,
}

impl Header {
    pub fn decode(b: &[u8; LEN]) -> Header {
        let word = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        Header {
            flags: b[0],
            gso_type: b[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
        }
    }

    pub fn encode(&self) -> [u8; LEN] {
        let mut b = [0; LEN];
        (b[0], b[1]) = (self.flags, self.gso_type);
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, self.num_buffers];
        for (i, word) in words.into_iter().enumerate() {
            b[2 + 2 * i..4 + 2 * i].copy_from_slice(&word.to_le_bytes());
        }
        b
    }

    /// What the driver asks for; `None` if it was not negotiated or lies outside of the frame.
    pub fn offload(&self, frame: &[u8], core: &Core) -> Option<Offload> {
        let checksum = if self.flags & NEEDS_CSUM != 0 {
            let end = usize::from(self.csum_start) + usize::from(self.csum_offset) + 2;
            if !core.has(feature::CSUM) || end > frame.len() {
                return None;
            }
            Checksum::Partial { start: self.csum_start, offset: self.csum_offset }
        } else {
            Checksum::Complete
        };
        let needs = |bit| core.has(bit) && self.gso_size > 0 && checksum != Checksum::Complete;
        let segmentation = match self.gso_type & !GSO_ECN {
            0 => Segmentation::None,
            GSO_TCPV4 if needs(feature::HOST_TSO4) => Segmentation::Tcp4 { size: self.gso_size },
            GSO_TCPV6 if needs(feature::HOST_TSO6) => Segmentation::Tcp6 { size: self.gso_size },
            _ => return None,
        };
        Some(Offload { checksum, segmentation })
    }

    /// The header of a frame for the driver, with the offloads that are on. `header_len`: bytes before the payload.
    pub fn of(offload: Offload, offloads: u64, header_len: u16) -> Header {
        let mut header = Header { num_buffers: 1, ..Header::default() };
        if offloads & feature::GUEST_CSUM != 0 {
            match offload.checksum {
                Checksum::Complete => {}
                Checksum::Valid => header.flags = DATA_VALID,
                Checksum::Partial { start, offset } => {
                    header.flags = NEEDS_CSUM;
                    (header.csum_start, header.csum_offset) = (start, offset);
                }
            }
        }
        let (kind, size) = match offload.segmentation {
            Segmentation::Tcp4 { size } => (GSO_TCPV4, size),
            Segmentation::Tcp6 { size } => (GSO_TCPV6, size),
            Segmentation::None | Segmentation::Udp { .. } => (0, 0),
        };
        (header.gso_type, header.gso_size) = (kind, size);
        if kind != 0 {
            header.hdr_len = header_len;
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_is_decodings_inverse() {
        let header = Header { flags: 1, gso_type: 4, hdr_len: 0x102, gso_size: 0x304, csum_start: 0x506, csum_offset: 0x708, num_buffers: 0x90a };
        assert_eq!(header.encode(), [1, 4, 2, 1, 4, 3, 6, 5, 8, 7, 0xa, 9]);
        assert_eq!(Header::decode(&header.encode()), header);
    }

    #[test]
    fn frames_for_the_driver() {
        let partial = Checksum::Partial { start: 34, offset: 16 };
        let offload = Offload { checksum: partial, segmentation: Segmentation::Tcp4 { size: 1448 } };
        let header = Header::of(offload, feature::OFFLOADS, 66);
        assert_eq!((header.flags, header.gso_type, header.gso_size, header.csum_start, header.hdr_len), (1, 1, 1448, 34, 66));
        let header = Header::of(Offload { checksum: Checksum::Valid, ..Offload::default() }, feature::GUEST_CSUM, 0);
        assert_eq!((header.flags, header.gso_type, header.num_buffers), (2, 0, 1));
        assert_eq!(Header::of(Offload { checksum: Checksum::Valid, ..Offload::default() }, 0, 0).flags, 0);
    }
}
