//! A driver's view of the chip in both styles, well-behaved and not.

use super::*;
use crate::net::testing::{Bench, RAM, frame_to};
use crate::virtio::testing::{Random, rounds, seed};

const BLOCK: u64 = 0x1000;
const RX: u64 = 0x2000;
const TX: u64 = 0x3000;
const BUFFERS: u64 = 0x1_0000;
const OWN: u32 = 1 << 31;

struct Driver(Bench);

impl Driver {
    fn new() -> Driver {
        let d = Driver(Bench::new(0x14, false, function));
        // From now on all ports are wide.
        d.0.set(0x10, 4, 4);
        d.bcr(20, 2);
        let mut block = vec![0, 0, 3 << 4, 2 << 4];
        block.extend(net::DEFAULT_MAC.0);
        block.extend([0; 2]);
        block.extend([0; 8]);
        block.extend((RX as u32).to_le_bytes());
        block.extend((TX as u32).to_le_bytes());
        d.0.store(BLOCK, &block);
        for n in 0..8 {
            d.descriptor(RX, n, BUFFERS + 0x800 * n, 1544, OWN);
        }
        d.csr(1, BLOCK as u16);
        d.csr(2, 0);
        d.csr(0, csr0::INIT | csr0::IENA);
        assert_eq!(d.status() & (csr0::IDON | csr0::INTR), csr0::IDON | csr0::INTR);
        assert!(d.0.wire());
        d.csr(0, csr0::IDON | csr0::IENA | csr0::STRT);
        assert!(!d.0.wire());
        d
    }

    fn csr(&self, number: u64, value: u16) {
        self.0.set(0x14, 4, number);
        self.0.set(0x10, 4, value.into());
    }

    fn bcr(&self, number: u64, value: u16) {
        self.0.set(0x14, 4, number);
        self.0.set(0x1c, 4, value.into());
    }

    fn status(&self) -> u16 {
        self.0.set(0x14, 4, 0);
        self.0.get(0x10, 4) as u16
    }

    fn descriptor(&self, ring: u64, n: u64, address: u64, len: u32, flags: u32) {
        let words = [address as u32, (len.wrapping_neg() & 0xfff) | 0xf000 | flags, 0, 0];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.0.store(ring + 16 * n, &bytes);
    }
}

#[test]
fn the_address_and_the_version_can_be_read() {
    let d = Driver::new();
    assert_eq!((d.0.get(0, 4), d.0.get(4, 2)), (0x1200_5452, 0x5634));
    d.0.set(0x14, 4, 88);
    assert_eq!(d.0.get(0x10, 4), 0x1003);
    d.0.set(0x14, 4, 4);
    assert_eq!(d.0.get(0x1c, 4), 0x80c0, "link");
    d.0.get(0x18, 4);
    assert_eq!(d.0.get(0x10, 2), 4, "stopped, and 16 bits wide");
}

#[test]
fn frames_go_through_descriptors() {
    let d = Driver::new();
    let frame = frame_to([2; 6], 301);
    d.0.store(BUFFERS + 0x8000, &frame);
    d.descriptor(TX, 0, BUFFERS + 0x8000, 100, OWN | 1 << 25);
    d.descriptor(TX, 1, BUFFERS + 0x8000 + 100, 201, OWN | 1 << 24);
    d.csr(0, csr0::TDMD | csr0::IENA);
    d.0.work();
    assert_eq!(d.0.far.sent(), [(frame, net::Offload::default())]);
    assert_eq!(d.0.load(TX + 23, 1)[0] & 0x80, 0, "given back");
    assert!(d.status() & csr0::TINT != 0 && d.0.wire());
    let frame = frame_to(net::DEFAULT_MAC.0, 900);
    d.0.far.deliver(&frame_to([4; 6], 900));
    for _ in 0..9 {
        d.0.far.deliver(&frame);
    }
    d.0.work();
    assert_eq!(d.0.far.waiting(), 1, "eight descriptors");
    let got = d.0.load(RX + 4, 8);
    assert_eq!((u16::from_le_bytes([got[2], got[3]]), u16::from_le_bytes([got[4], got[5]])), (0x0340, 904));
    assert_eq!(d.0.load(BUFFERS, 900), frame);
    assert_ne!(d.status() & csr0::RINT, 0);
}

#[test]
fn the_older_style_has_short_descriptors() {
    let d = Driver::new();
    d.csr(0, csr0::STOP);
    d.bcr(20, 0);
    let mut block = vec![0, 0];
    block.extend(net::DEFAULT_MAC.0);
    block.extend([0; 8]);
    block.extend((RX as u32).to_le_bytes());
    block.extend((TX as u32).to_le_bytes());
    d.0.store(BLOCK, &block);
    d.0.store(RX, &[0, 0, 1, 0x80, 0, 0xf8, 0, 0]);
    d.csr(0, csr0::INIT | csr0::STRT);
    let frame = frame_to([0xff; 6], 60);
    d.0.far.deliver(&frame);
    d.0.work();
    assert_eq!(d.0.load(RX, 8), [0, 0, 1, 3, 0, 0xf8, 64, 0]);
    assert_eq!(d.0.load(BUFFERS, 60), frame);
}

#[test]
fn hostile_drivers_are_survived() {
    let d = Driver::new();
    let mut random = Random(seed() | 1);
    for _ in 0..rounds(30_000) {
        let value = random.next() >> random.below(64);
        match random.below(8) {
            0 => d.0.store(TX + random.below(128), &value.to_le_bytes()),
            1 => d.0.store(RX + random.below(128), &value.to_le_bytes()),
            2 => d.0.far.deliver(&frame_to([0xff; 6], 14 + random.below(5000) as usize)),
            3 => d.0.work(),
            4 => {
                d.0.get(random.below(0x18), 1 << random.below(3));
            }
            5 => d.csr(random.below(128), value as u16),
            6 => {
                d.0.store(BLOCK + random.below(28), &(value & (RAM - 1)).to_le_bytes());
                d.csr(0, [4, 1, 2, 0x43, 0x48][random.below(5) as usize]);
            }
            _ => d.bcr(random.below(40), value as u16),
        }
        if d.0.far.waiting() > 100 {
            d.0.rig.bus.reset();
            d.0.work();
            d.0.rig.bus.config_write(0, 0, 0x14, 4, 0x1000_0000);
            d.0.rig.bus.config_write(0, 0, 4, 2, 7);
        }
        d.0.far.sent();
    }
    d.0.rig.bus.reset();
}
