//! A driver's view of the chip.

use super::*;
use crate::net::testing::{Bench, frame_to};
use crate::virtio::testing::{Random, rounds, seed};

/// The ports are at the bottom of the window.
const IO: u64 = 0x1000;

struct Driver(Bench);

impl Driver {
    fn new() -> Driver {
        let mut b = Bench::new(0x10, false, function);
        b.rig.bus.config_write(0, 0, 0x10, 4, IO as u32);
        b.base = 0x3eff_0000 + IO;
        let d = Driver(b);
        d.registers(&[(0, 0x21), (14, 0x49), (1, 0x4c), (2, 0x80), (3, 0x4c), (12, 4), (13, 0), (7, 0xff), (15, 0x3f), (0, 0x61)]);
        for (n, byte) in net::DEFAULT_MAC.0.into_iter().enumerate() {
            d.0.set(1 + n as u64, 1, byte.into());
        }
        d.registers(&[(7, 0x4d), (0, 0x22)]);
        d
    }

    fn registers(&self, list: &[(u64, u64)]) {
        list.iter().for_each(|&(at, value)| self.0.set(at, 1, value));
    }

    fn remote(&self, at: u16, len: usize, command: u64) {
        let [low, high] = at.to_le_bytes();
        let [count, more] = (len as u16).to_le_bytes();
        self.registers(&[(8, low.into()), (9, high.into()), (10, count.into()), (11, more.into()), (0, command)]);
    }

    fn load(&self, at: u16, len: usize) -> Vec<u8> {
        self.remote(at, len, 0x0a);
        (0..len.div_ceil(4)).flat_map(|_| (self.0.get(0x10, 4) as u32).to_le_bytes()).take(len).collect()
    }
}

#[test]
fn the_address_is_in_the_prom() {
    let d = Driver::new();
    let prom = d.load(0, 32);
    assert_eq!(prom.iter().step_by(2).take(6).copied().collect::<Vec<_>>(), net::DEFAULT_MAC.0);
    d.remote(0, 32, 0x0a);
    let words: Vec<u8> = (0..6).map(|_| d.0.get(0x10, 1) as u8).collect();
    assert_eq!(words, net::DEFAULT_MAC.0, "in word mode a byte is the lower half of a word");
    assert_eq!((prom[28], d.0.get(10, 1), d.0.get(11, 1)), (0x57, 0x50, 0x43));
}

#[test]
fn frames_go_through_the_buffer() {
    let d = Driver::new();
    let frame = frame_to([2; 6], 301);
    d.remote(0x4000, frame.len(), 0x12);
    for part in frame.chunks(2) {
        let word = u16::from_le_bytes([part[0], part.get(1).copied().unwrap_or(0)]);
        d.0.set(0x10, 2, word.into());
    }
    assert_eq!(d.0.get(7, 1) & 0x40, 0x40);
    d.registers(&[(4, 0x40), (5, 301 & 0xff), (6, 1), (0, 0x26)]);
    d.0.work();
    assert_eq!(d.0.far.sent(), [(frame, Offload::default())]);
    assert!(d.0.wire());
    d.registers(&[(7, 0xff)]);
    assert!(!d.0.wire());
    let mut page = 0x4du8;
    for round in 0..60usize {
        let frame = frame_to(net::DEFAULT_MAC.0, 60 + 23 * round);
        d.0.far.deliver(&frame);
        d.0.work();
        let header = d.load(u16::from(page) << 8, 4);
        assert_eq!((header[0], usize::from(u16::from_le_bytes([header[2], header[3]]))), (1, frame.len() + 4));
        assert_eq!(d.load((u16::from(page) << 8) + 4, frame.len()), frame, "{round}");
        page = header[1];
        d.registers(&[(0, 0x20), (3, u64::from(page - 1))]);
    }
    // Nobody reads: frames wait, strangers' frames do not.
    d.0.far.deliver(&frame_to([2; 6], 100));
    for _ in 0..20 {
        d.0.far.deliver(&frame_to(net::DEFAULT_MAC.0, 1500));
    }
    d.0.work();
    assert!((10..20).contains(&d.0.far.waiting()), "{}", d.0.far.waiting());
    // An acknowledgement after the driver's last look does not make it deaf.
    d.registers(&[(7, 0xff)]);
    assert!(!d.0.wire());
    d.0.work();
    d.0.work();
    assert!(d.0.wire(), "a full ring is told of again");
}

#[test]
fn hostile_drivers_are_survived() {
    let d = Driver::new();
    let mut random = Random(seed() | 1);
    for _ in 0..rounds(30_000) {
        let value = random.next() >> random.below(64);
        match random.below(8) {
            0 => d.0.far.deliver(&frame_to([0xff; 6], 14 + random.below(3000) as usize)),
            1 => d.0.work(),
            2 => {
                d.0.get(random.below(0x20), 1 << random.below(3));
            }
            3 => d.registers(&[(0, 0x22)]),
            _ => d.0.set(random.below(0x20), 1 << random.below(3), value),
        }
        if d.0.far.waiting() > 100 {
            d.registers(&[(0, 0x21)]);
            d.0.work();
        }
        d.0.far.sent();
    }
    d.0.rig.bus.reset();
}
