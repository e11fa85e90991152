//! A driver's view of the chip in both of its modes, well-behaved and not.

use super::*;
use crate::net::testing::{Bench, RAM, frame_to, tcp_frame};
use crate::virtio::testing::{Random, rounds, seed};

const TX: u64 = 0x1000;
const RX: u64 = 0x2000;
const RING: u64 = 0x8000;
const BUFFERS: u64 = 0x2_0000;

fn bench(offloads: bool) -> Bench {
    Bench::new(0x14, offloads, function)
}

/// In C+ mode with eight receive descriptors.
fn plus(offloads: bool) -> Bench {
    let b = bench(offloads);
    b.set(reg::CPCR as u64, 2, 0x63);
    b.set(reg::CR as u64, 1, 0xc);
    b.set(reg::RDSAR as u64, 4, RX);
    b.set(reg::TNPDS as u64, 4, TX);
    b.set(reg::RCR as u64, 4, 0xe);
    for n in 0..8u32 {
        let end = if n == 7 { 1 << 30 } else { 0 };
        let at = RX + 16 * u64::from(n);
        b.store(at, &(1 << 31 | end | 1536u32).to_le_bytes());
        b.store(at + 8, &(BUFFERS + 0x800 * u64::from(n)).to_le_bytes());
    }
    b
}

fn transmit(b: &Bench, n: u64, command: u32, tag: u32, address: u64) {
    b.store(TX + 16 * n, &command.to_le_bytes());
    b.store(TX + 16 * n + 4, &tag.to_le_bytes());
    b.store(TX + 16 * n + 8, &address.to_le_bytes());
}

#[test]
fn the_older_mode_sends_four_buffers_in_turn() {
    let b = bench(false);
    b.set(reg::CR as u64, 1, 0xc);
    b.set(reg::IMR as u64, 2, 4);
    for n in 0..6u64 {
        let frame = frame_to([n as u8; 6], 60 + n as usize);
        b.store(BUFFERS, &frame);
        b.set(reg::TSAD as u64 + 4 * (n % 4), 4, BUFFERS);
        b.set(reg::TSD as u64 + 4 * (n % 4), 4, 60 + n);
        b.work();
        assert_eq!(b.far.sent(), [(frame, net::Offload::default())], "{n}");
    }
    assert!(b.wire());
    assert_eq!(b.get(reg::TSD as u64 + 4, 4), 65 | 0xa000);
    assert_eq!(b.get(reg::TSAD_ALL as u64, 2) & 0xf00f, 0xf00f);
    b.set(reg::ISR as u64, 2, 4);
    assert!(!b.wire());
}

#[test]
fn the_older_mode_receives_into_a_ring() {
    let b = bench(false);
    b.set(reg::RBSTART as u64, 4, RING);
    b.set(reg::RCR as u64, 4, 0xa);
    b.set(reg::CR as u64, 1, 8);
    assert_eq!(b.get(reg::CR as u64, 1) & 1, 1, "empty");
    let (mut read, mut got) = (0u64, 0);
    for round in 0..40usize {
        let frame = frame_to(net::DEFAULT_MAC.0, 60 + 31 * round);
        b.far.deliver(&frame);
        b.work();
        let header = b.load(RING + read, 4);
        assert_eq!(header[..2], [1, 0x40]);
        let len = u16::from_le_bytes([header[2], header[3]]) as usize;
        assert_eq!(len, frame.len() + 4);
        let bytes: Vec<u8> = (0..len).map(|n| b.load(RING + (read + 4 + n as u64) % 8192, 1)[0]).collect();
        assert_eq!(bytes[..frame.len()], frame, "{round}");
        read = (read + (len as u64 + 4).next_multiple_of(4)) % 8192;
        b.set(reg::CAPR as u64, 2, read.wrapping_sub(16) & 0xffff);
        assert_eq!(b.get(reg::CR as u64, 1) & 1, 1);
        got += 1;
    }
    assert_eq!(got, 40);
    // Nobody reads: frames wait.
    for _ in 0..20 {
        b.far.deliver(&frame_to(net::DEFAULT_MAC.0, 1000));
    }
    b.work();
    assert!((10..20).contains(&b.far.waiting()), "{}", b.far.waiting());
}

#[test]
fn descriptors_carry_frames_both_ways() {
    let b = plus(true);
    let frame = tcp_frame(false, 500);
    b.store(BUFFERS + 0x8000, &frame);
    transmit(&b, 0, 1 << 31 | 1 << 29 | 100, 0, BUFFERS + 0x8000);
    transmit(&b, 1, 1 << 31 | 1 << 30 | 1 << 28 | (frame.len() as u32 - 100), 0, BUFFERS + 0x8000 + 100);
    b.set(reg::TPPOLL as u64, 1, 0x40);
    b.work();
    assert_eq!(b.far.sent(), [(frame.clone(), net::Offload::default())]);
    assert_eq!(b.load(TX + 3, 1)[0] & 0x80, 0, "given back");
    for _ in 0..9 {
        b.far.deliver(&frame);
    }
    b.work();
    assert_eq!(b.far.waiting(), 1, "eight descriptors");
    let d = b.load(RX, 4);
    let status = u32::from_le_bytes([d[0], d[1], d[2], d[3]]);
    assert_eq!((status >> 28, status & 0x1fff, status >> 16 & 3, status >> 13 & 7), (3, frame.len() as u32 + 4, 1, 0));
    assert_eq!(b.load(BUFFERS, frame.len()), frame);
    assert_eq!(b.get(reg::ISR as u64, 2) & 0x85, 0x05, "no TDU");
}

/// What Linux' 8139cp relies on: no interrupt of transmission comes by itself, later than the write that started it.
#[test]
fn frames_leave_during_the_write_that_asks_for_it() {
    let b = plus(true);
    let frame = tcp_frame(false, 500);
    b.store(BUFFERS + 0x8000, &frame);
    for n in 0..3 {
        transmit(&b, n, 3 << 28 | frame.len() as u32, 0, BUFFERS + 0x8000);
    }
    transmit(&b, 0, 1 << 31 | 3 << 28 | frame.len() as u32, 0, BUFFERS + 0x8000);
    b.work();
    assert_eq!((b.far.sent().len(), b.get(reg::ISR as u64, 2)), (0, 0), "not asked yet");
    b.set(reg::TPPOLL as u64, 1, 0x40);
    assert_eq!((b.far.sent().len(), b.get(reg::ISR as u64, 2)), (1, isr::TOK.into()));
    b.set(reg::ISR as u64, 2, 0xffff);
    transmit(&b, 1, 1 << 31 | 3 << 28 | frame.len() as u32, 0, BUFFERS + 0x8000);
    b.work();
    assert_eq!((b.far.sent().len(), b.get(reg::ISR as u64, 2)), (0, 0), "the end was seen");
    // A cable without room is the exception: the thread offers the frame again.
    b.far.refuse(1);
    b.set(reg::TPPOLL as u64, 1, 0x40);
    b.work();
    assert_eq!((b.far.sent().len(), b.get(reg::ISR as u64, 2)), (1, isr::TOK.into()));
}

/// The chip is not told that a descriptor is free again.
#[test]
fn a_frame_waits_for_a_descriptor_without_being_asked() {
    let b = plus(true);
    for _ in 0..9 {
        b.far.deliver(&frame_to(net::DEFAULT_MAC.0, 100));
    }
    b.work();
    assert_eq!(b.far.waiting(), 1);
    b.store(RX, &(1u32 << 31 | 1536).to_le_bytes());
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while b.far.waiting() > 0 {
        assert!(std::time::Instant::now() < until, "nobody looks");
        std::thread::yield_now();
    }
}

#[test]
fn sums_segments_and_tags_are_made() {
    let b = plus(false);
    let mut frame = tcp_frame(false, 3000);
    frame[16..18].copy_from_slice(&3040u16.to_be_bytes());
    b.store(BUFFERS + 0x8000, &frame);
    let large = 1 << 31 | 1 << 29 | 1 << 28 | 1 << 27 | 1000 << 16;
    transmit(&b, 0, large | frame.len() as u32, 1 << 17 | 0x0520, BUFFERS + 0x8000);
    b.set(reg::TPPOLL as u64, 1, 0x40);
    b.work();
    let sent = b.far.sent();
    assert_eq!(sent.iter().map(|(f, _)| f.len()).collect::<Vec<_>>(), [1058; 3]);
    for (piece, _) in &sent {
        let v = offload_verdict(piece);
        assert_eq!((piece[14..16].to_vec(), v), (vec![0x20, 0x05], (true, true)));
    }
    b.far.deliver(&[&net::DEFAULT_MAC.0[..], &sent[0].0[6..]].concat());
    b.work();
    let d = b.load(RX + 4, 4);
    assert_eq!(u32::from_le_bytes([d[0], d[1], d[2], d[3]]), 1 << 16 | 0x0520);
}

fn offload_verdict(frame: &[u8]) -> (bool, bool) {
    let v = crate::net::offload::verify(frame);
    (v.ip4_good, v.transport_good)
}

#[test]
fn the_eeprom_has_the_address() {
    let b = bench(false);
    let set = |bits: u64| b.set(reg::CR9346 as u64, 1, bits);
    let read = |address: u32, bits: u32| {
        set(0x80);
        for n in (0..3 + bits).rev() {
            let data = u64::from((6 << bits | address) >> n & 1) << 1;
            set(0x88 | data);
            set(0x8c | data);
        }
        (0..16).fold(0u16, |word, _| {
            set(0x88);
            set(0x8c);
            word << 1 | (b.get(reg::CR9346 as u64, 1) & 1) as u16
        })
    };
    assert_eq!([read(0, 6), read(7, 6), read(8, 6), read(9, 6)], [0x8129, 0x5452, 0x1200, 0x5634]);
    assert_ne!(read(0, 8), 0x8129, "it has six address bits");
}

#[test]
fn time_runs_and_counters_are_dumped() {
    let b = plus(false);
    b.set(reg::IMR as u64, 2, isr::TIMEOUT.into());
    b.set(reg::TCTR as u64, 4, 0);
    b.set(reg::TIMERINT as u64, 4, 1);
    while !b.wire() {
        b.work();
    }
    b.far.deliver(&frame_to([0xff; 6], 60));
    b.work();
    b.set(0x14, 4, 0);
    b.set(0x10, 4, BUFFERS + 0x9000 | 8);
    assert_eq!(b.get(0x10, 4) & 8, 0);
    let dump = b.load(BUFFERS + 0x9000, 64);
    assert_eq!((dump[8], dump[48]), (1, 1), "one received, a broadcast");
    b.card.set_link(false);
    assert_eq!((b.get(reg::MSR as u64, 1) & 4, b.get(reg::BMSR as u64, 2) & 4), (4, 0));
    assert_ne!(b.get(reg::ISR as u64, 2) as u16 & isr::LINK, 0);
}

#[test]
fn hostile_drivers_are_survived() {
    let b = plus(true);
    let mut random = Random(seed() | 1);
    for _ in 0..rounds(30_000) {
        let value = random.next() >> random.below(64);
        match random.below(8) {
            0 => b.store(TX + random.below(256), &value.to_le_bytes()),
            1 => b.store(RX + random.below(256), &value.to_le_bytes()),
            2 => b.far.deliver(&frame_to([0xff; 6], 14 + random.below(5000) as usize)),
            3 => b.work(),
            4 => {
                b.get(random.below(0xf8), 1 << random.below(4));
            }
            5 => {
                let at = [reg::RBSTART, reg::TNPDS, reg::RDSAR, reg::TSD, reg::TSAD][random.below(5) as usize];
                b.set(at as u64, 4, value & (RAM - 1));
            }
            6 => b.set(reg::CR as u64, 1, 0xc),
            _ => b.set(random.below(0xf8), 1 << random.below(4), value),
        }
        if b.far.waiting() > 100 {
            b.rig.bus.config_write(0, 0, 4, 2, 7);
            b.set(reg::CR as u64, 1, 0x10);
            b.work();
        }
        b.far.sent();
    }
    b.rig.bus.reset();
    assert_eq!(b.rig.bus.config_read(0, 0, 4, 2), 0);
}
