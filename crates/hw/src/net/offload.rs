//! Segmentation by a card: what goes to a cable that leaves it to the card, and to one that does not.

use net::finish::{self, Headers};
use net::{Checksum, Nanos, Offload, Segmentation, Transmit};

use super::card::Cable;

pub use net::finish::{SEGMENTS_MAX, Transport, Verdict, insert_sum, verify};

/// What a cable is to do with a frame that a chip has finished.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    pub checksum: Checksum,
    /// It stands for several: its headers, and the bytes of each piece.
    pub cut: Option<(Headers, u16)>,
}

impl Ready {
    /// With [`Transmit::Full`] nothing was sent.
    pub fn send(self, cable: &mut Cable, now: Nanos, frame: &mut [u8]) -> Transmit {
        match self.cut {
            Some((headers, size)) => segment(cable, now, frame, headers, size),
            None => cable.transmit(now, frame, Offload { checksum: self.checksum, segmentation: Segmentation::None }),
        }
    }
}

/// Sends a frame that stands for several. With [`Transmit::Full`] nothing was sent.
fn segment(cable: &mut Cable, now: Nanos, frame: &mut [u8], headers: Headers, size: u16) -> Transmit {
    if !cable.takes_offloads() {
        return finish::segment(frame, headers, size, |piece| cable.transmit(now, piece, Offload::default()));
    }
    headers.finish_ip(frame, 0);
    let pseudo = headers.pseudo(frame).folded();
    let field = headers.tcp + 16;
    frame[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    let checksum = Checksum::Partial { start: headers.tcp as u16, offset: 16 };
    let segmentation = if headers.v6 { Segmentation::Tcp6 { size } } else { Segmentation::Tcp4 { size } };
    cable.transmit(now, frame, Offload { checksum, segmentation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{Far, tcp_frame};

    const TCP_FIN: u8 = 1;
    const TCP_PSH: u8 = 8;

    fn word(frame: &[u8], at: usize) -> u16 {
        u16::from_be_bytes([frame[at], frame[at + 1]])
    }

    #[test]
    fn pieces_are_packets_of_their_own() {
        for v6 in [false, true] {
            let mut frame = tcp_frame(v6, 3000);
            let tcp = if v6 { 54 } else { 34 };
            frame[tcp + 13] |= TCP_FIN | TCP_PSH;
            let headers = Headers { ip: 14, tcp, len: tcp + 20, v6 }.checked(&frame).unwrap();
            let far = Far::default();
            let mut cable = far.cable(false);
            assert_eq!(segment(&mut cable, Nanos(0), &mut frame, headers, 1460), Transmit::Taken);
            let sent = far.sent();
            assert_eq!(sent.iter().map(|(f, _)| f.len() - tcp - 20).collect::<Vec<_>>(), [1460, 1460, 80]);
            for (number, (piece, offload)) in sent.iter().enumerate() {
                let v = verify(piece);
                assert!(v.transport_good && (v6 || v.ip4_good), "{number}");
                assert_eq!(*offload, Offload::default());
                assert_eq!(piece[tcp + 13] & TCP_FIN != 0, number == 2);
                assert_eq!(word(piece, tcp + 6), word(&frame, tcp + 6).wrapping_add(1460 * number as u16));
            }
        }
    }

    #[test]
    fn a_cable_that_can_cuts_itself() {
        let mut frame = tcp_frame(false, 3000);
        let headers = Headers { ip: 14, tcp: 34, len: 54, v6: false };
        let far = Far::default();
        assert_eq!(segment(&mut far.cable(true), Nanos(0), &mut frame, headers, 1000), Transmit::Taken);
        let (sent, offload) = far.sent().remove(0);
        assert_eq!(offload.segmentation, Segmentation::Tcp4 { size: 1000 });
        assert_eq!(word(&sent, 16), 3040);
        let mut finished = sent.clone();
        assert!(insert_sum(&mut finished, 34, sent.len(), 50) && verify(&finished).transport_good);
    }

    #[test]
    fn headers_outside_of_a_frame_are_refused() {
        let frame = tcp_frame(false, 10);
        let good = Headers { ip: 14, tcp: 34, len: 54, v6: false };
        assert!(good.checked(&frame).is_some());
        for bad in [
            Headers { ip: 15, ..good },
            Headers { tcp: 20, ..good },
            Headers { len: 40, ..good },
            Headers { len: 64, ..good },
            Headers { v6: true, ..good },
            Headers { ip: 5000, tcp: 6000, len: 7000, v6: false },
        ] {
            assert_eq!(bad.checked(&frame), None, "{bad:?}");
        }
        assert!(!insert_sum(&mut [0; 20], 10, 30, 0) && !insert_sum(&mut [0; 20], 0, 20, 19));
    }

    #[test]
    fn damage_is_seen() {
        let mut frame = tcp_frame(true, 100);
        assert!(verify(&frame).transport_good);
        frame[80] ^= 1;
        assert_eq!(verify(&frame).transport, Some(Transport::Tcp));
        assert!(!verify(&frame).transport_good);
        (0..frame.len()).for_each(|n| {
            verify(&frame[..n]);
        });
    }
}
