//! What is merged, and that cutting it again gives what came.

use super::*;
use crate::backend::Transmit;
use crate::finish::{self, verify};
use crate::testing::Taker;

const BOTH: u8 = ACK | PSH;
const ALL: Accepts = Accepts { checksum: true, tcp4: true, tcp6: true };

fn merge(accepts: Accepts) -> Merge {
    let mut merge = Merge::default();
    merge.set_accepts(accepts);
    merge
}

/// One poll: what arrives, and what the guest gets.
fn run(accepts: Accepts, frames: &[Vec<u8>]) -> Vec<(Vec<u8>, Offload)> {
    let (mut merge, mut guest) = (merge(accepts), Taker::new(usize::MAX));
    for frame in frames {
        assert!(merge.deliver(frame, Offload::default(), verify(frame), &mut guest));
    }
    assert!(merge.flush(&mut guest) && merge.held.is_none());
    guest.frames
}

/// What a large frame stands for.
fn cut(frame: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let size = match offload.segmentation {
        Segmentation::Tcp4 { size } | Segmentation::Tcp6 { size } => size,
        _ => return vec![frame.to_vec()],
    };
    let v6 = matches!(offload.segmentation, Segmentation::Tcp6 { .. });
    let tcp = ETHERNET + if v6 { 40 } else { 20 };
    assert_eq!(offload.checksum, Checksum::Partial { start: tcp as u16, offset: 16 });
    let headers = Headers { ip: ETHERNET, tcp, len: tcp + 32, v6 }.checked(frame).unwrap();
    let mut pieces = Vec::new();
    let each = |piece: &[u8]| {
        pieces.push(piece.to_vec());
        Transmit::Taken
    };
    assert_eq!(finish::segment(frame, headers, size, each), Transmit::Taken);
    pieces
}

/// How many frames each delivered one stands for. All are the same, in the same order, when they are cut again.
#[track_caller]
fn counts(accepts: Accepts, frames: &[Vec<u8>]) -> Vec<usize> {
    let got = run(accepts, frames);
    let pieces: Vec<Vec<Vec<u8>>> = got.iter().map(|(frame, offload)| cut(frame, *offload)).collect();
    let identified = |frame: &Vec<u8>| {
        // Identification is counted from the first segment's, which the guest does not look at.
        let mut frame = frame.clone();
        if frame[12] == 8 && frame[14] == 0x45 {
            frame[18..20].fill(0);
            frame[24..26].fill(0);
        }
        frame
    };
    let again: Vec<Vec<u8>> = pieces.iter().flatten().map(identified).collect();
    assert!(again == frames.iter().map(identified).collect::<Vec<_>>(), "the frames were changed");
    pieces.iter().map(Vec::len).collect()
}

fn stream(v6: bool, sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut sequence = 0xffff_f000u32;
    let mut frames = Vec::new();
    for (number, size) in sizes.iter().enumerate() {
        let payload: Vec<u8> = (0..*size).map(|at| (at * 3 + number) as u8).collect();
        frames.push(segment(v6, sequence, ACK, &payload));
        sequence = sequence.wrapping_add(*size as u32);
    }
    frames
}

/// Changes a byte and makes the checksums right again.
fn with(mut frame: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    let v6 = frame[12] == 0x86;
    frame[at] = value;
    finish(&mut frame, v6);
    frame
}

#[test]
fn a_stream_is_merged_and_can_be_cut_again() {
    for v6 in [false, true] {
        assert_eq!(counts(ALL, &stream(v6, &[1448; 10])), [10]);
        assert_eq!(counts(ALL, &stream(v6, &[1448])), [1]);
        assert_eq!(counts(ALL, &stream(v6, &[1448, 1448, 100, 1448, 1448])), [3, 2], "a short one is the last");
        assert_eq!(counts(ALL, &stream(v6, &[100, 1448, 1448])), [1, 2], "a longer one begins");
        // 64 KiB with all headers.
        assert_eq!(counts(ALL, &stream(v6, &[1448; 100])), [45, 45, 10]);
        assert_eq!(counts(ALL, &stream(v6, &[1; 100])), [100]);
        assert_eq!(counts(ALL, &stream(v6, &[60000, 60000])), [1, 1]);
    }
}

#[test]
fn the_first_and_only_segment_is_as_it_came() {
    let frames = stream(false, &[1448]);
    let expected = Offload { checksum: Checksum::Valid, segmentation: Segmentation::None };
    assert_eq!(run(ALL, &frames), [(frames[0].clone(), expected)]);
}

#[test]
fn drivers_get_what_they_asked_for() {
    let frames = [stream(false, &[1000; 3]), stream(true, &[1000; 3])].concat();
    assert_eq!(counts(ALL, &frames), [3, 3]);
    assert_eq!(counts(Accepts { tcp6: false, ..ALL }, &frames), [3, 1, 1, 1]);
    assert_eq!(counts(Accepts { tcp4: false, ..ALL }, &frames), [1, 1, 1, 3]);
    assert_eq!(counts(Accepts { checksum: false, ..ALL }, &frames), [1; 6]);
    assert_eq!(counts(Accepts::default(), &frames), [1; 6]);
}

#[test]
fn the_end_of_a_message_is_the_last_segment() {
    let mut frames = stream(false, &[1000; 4]);
    frames[1] = with(frames[1].clone(), 34 + 13, BOTH);
    assert_eq!(counts(ALL, &frames), [2, 2]);
    let got = run(ALL, &frames);
    assert_eq!(got.iter().map(|(frame, _)| frame[34 + 13]).collect::<Vec<_>>(), [BOTH, ACK]);
    frames[0] = with(frames[0].clone(), 34 + 13, BOTH);
    assert_eq!(counts(ALL, &frames), [1, 1, 2]);
}

#[test]
fn other_flags_keep_their_segment() {
    for flag in [1, 2, 4, 0x20, 0x40, 0x80] {
        let mut frames = stream(false, &[1000; 5]);
        frames[2] = with(frames[2].clone(), 34 + 13, ACK | flag);
        assert_eq!(counts(ALL, &frames), [2, 1, 2], "flag {flag:#x}");
    }
    let mut frames = stream(true, &[1000; 5]);
    frames[2] = with(frames[2].clone(), 54 + 12, 0x81);
    assert_eq!(counts(ALL, &frames), [2, 1, 2], "a reserved bit");
}

#[test]
fn only_position_may_differ() {
    // Congestion mark, flags, time to live, address; window, acknowledgement, time stamp, urgent pointer, port.
    for at in [15, 20, 22, 26, 34 + 14, 34 + 11, 34 + 24, 34 + 19, 34 + 1, 5] {
        let mut frames = stream(false, &[1000; 6]);
        for frame in &mut frames[3..] {
            *frame = with(frame.clone(), at, if at == 20 { 0 } else { frame[at] ^ 1 });
        }
        assert_eq!(counts(ALL, &frames), [3, 3], "byte {at}");
    }
    // Traffic class, flow label, hop limit, address.
    for at in [15, 17, 21, 30, 54 + 14] {
        let mut frames = stream(true, &[1000; 6]);
        for frame in &mut frames[3..] {
            *frame = with(frame.clone(), at, frame[at] ^ 1);
        }
        assert_eq!(counts(ALL, &frames), [3, 3], "byte {at} of IPv6");
    }
}

#[test]
fn what_is_out_of_order_or_damaged_stays_alone_and_in_order() {
    let mut frames = stream(false, &[1000; 6]);
    frames.swap(2, 3);
    assert_eq!(counts(ALL, &frames), [2, 1, 1, 2]);
    let mut frames = stream(false, &[1000; 6]);
    frames.remove(3);
    assert_eq!(counts(ALL, &frames), [3, 2], "one was lost");
    let mut frames = stream(false, &[1000; 5]);
    frames[2][500] ^= 1;
    let got = run(ALL, &frames);
    assert_eq!(got.len(), 3);
    assert_eq!(got[1], (frames[2].clone(), Offload::default()), "the guest finds out itself");
    // Two of the same.
    let frames = [&stream(false, &[1000; 2])[..], &stream(false, &[1000; 2])[..]].concat();
    assert_eq!(counts(ALL, &frames), [2, 2]);
    // Something else between them, and something behind the packet.
    let mut frames = stream(false, &[1000; 4]);
    frames.insert(2, vec![0xff; 60]);
    frames[4].extend([0; 4]);
    assert_eq!(counts(ALL, &frames), [2, 1, 1, 1]);
}

#[test]
fn options_and_fragments_are_left_alone() {
    for (at, value) in [(14, 0x46), (20, 0x20), (21, 1), (23, 17)] {
        let mut frames = stream(false, &[1000; 4]);
        for frame in &mut frames {
            *frame = with(frame.clone(), at, value);
        }
        assert_eq!(run(ALL, &frames).len(), 4, "byte {at}");
    }
}

#[test]
fn a_guest_without_room_loses_nothing() {
    let frames = stream(false, &[1448; 60]);
    let (mut merge, mut guest) = (merge(ALL), Taker::new(0));
    let taken = frames.iter().take_while(|f| merge.deliver(f, Offload::default(), verify(f), &mut guest)).count();
    assert_eq!(taken, 45, "one large frame is held");
    assert!(!merge.flush(&mut guest) && guest.frames.is_empty());
    guest.room = 1;
    assert!(merge.flush(&mut guest) && merge.flush(&mut guest));
    assert_eq!(guest.frames.len(), 1);
    assert_eq!(cut(&guest.frames[0].0, guest.frames[0].1).len(), 45);
    assert!(merge.deliver(&frames[45], Offload::default(), verify(&frames[45]), &mut guest));
    // A driver that starts anew gets nothing of what was for the old one.
    merge.set_accepts(ALL);
    guest.room = 1;
    assert!(merge.flush(&mut guest) && guest.frames.len() == 1);
}

#[test]
fn random_frames_are_delivered_or_held() {
    let mut state = 1u64;
    let mut random = move |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let base = [stream(false, &[700; 4]), stream(true, &[700; 4])].concat();
    for _ in 0..20_000 {
        let (mut merge, mut guest) = (merge(ALL), Taker::new(random(4)));
        for _ in 0..8 {
            let mut frame = base[random(base.len())].clone();
            frame.truncate(random(2 * frame.len()).max(14));
            for _ in 0..random(3) {
                let at = random(frame.len());
                frame[at] = random(256) as u8;
            }
            if frame.len() > 90 && random(2) == 0 {
                let v6 = frame[12] == 0x86;
                finish(&mut frame, v6);
            }
            merge.deliver(&frame, Offload::default(), verify(&frame), &mut guest);
        }
        assert!(merge.frame.len() <= ETHERNET + PACKET_MAX);
    }
}
