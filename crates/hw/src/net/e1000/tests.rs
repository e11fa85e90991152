//! A driver's view of the chips, well-behaved and not.

use super::*;
use crate::net::testing::{Bench, RAM, frame_to, tcp_frame};
use crate::virtio::testing::{Random, rounds, seed};
use net::{Checksum, Segmentation};

const TX: u64 = 0x1000;
const RX: u64 = 0x2000;
const BUFFERS: u64 = 0x1_0000;
const COUNT: u64 = 8;
const DEXT: u64 = 0x2000_0000;
const EOP_RS: u64 = 0x0900_0000;

fn bench(kind: Kind, offloads: bool) -> Bench {
    let b = Bench::new(0x10, offloads, |parts| function(kind, parts));
    for (at, value) in [(TDBAL, TX), (TDLEN, 16 * COUNT), (RDBAL, RX), (RDLEN, 16 * COUNT), (TCTL, 0xa), (RCTL, 0x8002)] {
        b.set(at.into(), 4, value);
    }
    for n in 0..COUNT {
        b.store(RX + 16 * n, &(BUFFERS + 0x1000 * n).to_le_bytes());
    }
    b.set(RDT.into(), 4, COUNT - 1);
    b
}

fn descriptor(b: &Bench, n: u64, address: u64, low: u64, high: u64) {
    b.store(TX + 16 * n, &address.to_le_bytes());
    b.store(TX + 16 * n + 8, &(low | high << 32).to_le_bytes());
}

fn icr(b: &Bench) -> u32 {
    b.get(ICR.into(), 4) as u32
}

#[test]
fn the_address_is_in_the_eeprom_and_in_the_filter() {
    let b = bench(Kind::I82540, false);
    let word = |n: u64| {
        b.set(EERD.into(), 4, n << 8 | 1);
        let value = b.get(EERD.into(), 4) as u32;
        assert_ne!(value & EERD_DONE, 0);
        (value >> 16) as u16
    };
    assert_eq!([word(0), word(1), word(2)], [0x5452, 0x1200, 0x5634]);
    assert_eq!((0..64).fold(0u16, |sum, n| sum.wrapping_add(word(n))), EEPROM_SUM);
    assert_eq!((b.get(RA.into(), 4), b.get(u64::from(RA) + 4, 4)), (0x1200_5452, 0x8000_5634));
    let b = bench(Kind::I82574, false);
    b.set(EERD.into(), 4, 1 << 2 | 1);
    assert_eq!(b.get(EERD.into(), 4), 0x1200_0006);
    assert_eq!(b.get(STATUS.into(), 4) & 0x8_0003, 0x8_0003);
}

#[test]
fn frames_of_several_buffers_are_sent() {
    let b = bench(Kind::I82540, false);
    let frame = frame_to([2; 6], 100);
    b.store(BUFFERS, &frame);
    b.set(IMS.into(), 4, 1);
    descriptor(&b, 0, BUFFERS, 30, 0);
    descriptor(&b, 1, BUFFERS + 30, 70 | EOP_RS, 0);
    b.set(TDT.into(), 4, 2);
    b.work();
    assert_eq!(b.far.sent(), [(frame, net::Offload::default())]);
    assert_eq!(b.load(TX + 16 + 12, 1), [1], "done");
    assert!(b.wire());
    assert_eq!(icr(&b) & 3, 3);
    assert!(!b.wire());
    assert_eq!((b.get(TDH.into(), 4), b.get(GPTC.into(), 4), b.get(GPTC.into(), 4)), (2, 1, 0), "counters clear when read");
}

#[test]
fn a_frame_without_room_is_offered_again() {
    let b = bench(Kind::I82540, false);
    b.store(BUFFERS, &frame_to([2; 6], 80));
    b.far.refuse(1);
    descriptor(&b, 0, BUFFERS, 80 | EOP_RS, 0);
    b.set(TDT.into(), 4, 1);
    while b.get(TDH.into(), 4) == 0 {
        b.work();
    }
    assert_eq!(b.far.sent().len(), 1);
}

#[test]
fn checksums_and_segments_go_to_the_cable_or_are_made_here() {
    for (offloads, kind) in [(true, Kind::I82540), (false, Kind::I82540), (false, Kind::I82574)] {
        let b = bench(kind, offloads);
        let mut frame = tcp_frame(false, 3000);
        // As a driver leaves it: no lengths, and the sum of the pseudo header only.
        frame[16..18].fill(0);
        b.store(BUFFERS, &frame);
        b.store(TX, &[14, 24, 33, 0, 34, 50, 0, 0]);
        b.store(TX + 8, &((3000 | 0x2700_0000) | (1000u64 << 16 | 54 << 8) << 32).to_le_bytes());
        descriptor(&b, 1, BUFFERS, 3054 | 1 << 20 | DEXT | EOP_RS | 4 << 24, 0x300);
        b.set(TDT.into(), 4, 2);
        b.work();
        let sent = b.far.sent();
        if offloads {
            assert_eq!(sent[0].1.segmentation, Segmentation::Tcp4 { size: 1000 });
            assert_eq!(sent[0].1.checksum, Checksum::Partial { start: 34, offset: 16 });
            continue;
        }
        assert_eq!(sent.iter().map(|(f, _)| f.len()).collect::<Vec<_>>(), [1054; 3]);
        assert!(sent.iter().all(|(f, _)| {
            let v = crate::net::offload::verify(f);
            v.ip4_good && v.transport_good
        }));
        assert_eq!(b.get(TSCTC.into(), 4), 1);
    }
}

#[test]
fn tags_of_virtual_networks_come_and_go() {
    let b = bench(Kind::I82540, false);
    b.set(VET.into(), 4, 0x8100);
    b.set(CTRL.into(), 4, u64::from(CTRL_VME));
    let frame = frame_to(net::DEFAULT_MAC.0, 80);
    b.store(BUFFERS + 0x8000, &frame);
    descriptor(&b, 0, BUFFERS + 0x8000, 80 | EOP_RS | 0x4000_0000, 0x2005 << 16);
    b.set(TDT.into(), 4, 1);
    b.work();
    let tagged = b.far.sent().remove(0).0;
    assert_eq!(tagged[12..16], [0x81, 0, 0x20, 5]);
    b.far.deliver(&tagged);
    b.work();
    assert_eq!(b.load(BUFFERS, 80), frame);
    let d = b.load(RX + 8, 8);
    assert_eq!((u16::from_le_bytes([d[0], d[1]]), d[4] & 0xb, u16::from_le_bytes([d[6], d[7]])), (84, 0xb, 0x2005));
    b.set(RCTL.into(), 4, 0x8002 | u64::from(RCTL_VFE));
    b.far.deliver(&tagged);
    b.work();
    assert_eq!(b.get(RDH.into(), 4), 1, "not a member");
    b.set(u64::from(VFTA), 4, 1 << 5);
    b.far.deliver(&tagged);
    b.work();
    assert_eq!(b.get(RDH.into(), 4), 2);
}

#[test]
fn frames_fill_the_ring_and_wait() {
    let b = bench(Kind::I82540, false);
    b.set(IMS.into(), 4, u64::from(ICR_RXT0));
    let frame = tcp_frame(false, 1000);
    for _ in 0..10 {
        b.far.deliver(&frame);
    }
    b.set(RXCSUM.into(), 4, 0x300);
    b.work();
    assert_eq!((b.far.waiting(), b.get(RDH.into(), 4)), (3, 7), "the tail is not the card's");
    assert!(b.wire());
    let d = b.load(RX + 8, 8);
    assert_eq!((u16::from_le_bytes([d[0], d[1]]) as usize, d[4], d[5]), (frame.len() + 4, 0x63, 0));
    assert_eq!(b.load(BUFFERS, frame.len()), frame);
    b.set(RDT.into(), 4, 5);
    b.work();
    assert_eq!((b.far.waiting(), b.get(RDH.into(), 4)), (0, 2));
    let filters = |to: [u8; 6], rctl: u64| {
        b.set(RCTL.into(), 4, rctl);
        let before = b.get(RDH.into(), 4);
        b.far.deliver(&frame_to(to, 60));
        b.work();
        b.get(RDH.into(), 4) != before
    };
    assert!(!filters([2; 6], 2) && filters([0xff; 6], 0x8002) && !filters([0xff; 6], 2) && filters([2; 6], 0xa));
}

#[test]
fn a_moderated_interrupt_waits() {
    let b = bench(Kind::I82540, false);
    b.set(ITR.into(), 4, 0xffff);
    b.set(IMS.into(), 4, 4);
    b.set(ICS.into(), 4, 4);
    assert!(b.wire());
    assert_eq!(icr(&b), 4);
    b.set(ICS.into(), 4, 4);
    assert!(!b.wire(), "16 ms have not passed");
    b.set(ITR.into(), 4, 0);
    b.set(IMC.into(), 4, 4);
    assert!(!b.wire());
}

#[test]
fn messages_are_sent_by_cause() {
    let b = bench(Kind::I82574, false);
    b.rig.bus.config_write(0, 0, 0x1c, 4, 0x1100_0000);
    for n in 0..5u64 {
        for (at, value) in [(0, 0x0802_0040), (4, 0), (8, 0x50 + n), (12, 0)] {
            assert!(b.rig.space.write(0x1100_0000 + 16 * n + at, 4, value));
        }
    }
    b.rig.bus.config_write(0, 0, 0xa2, 2, 0x8000);
    b.set(IVAR.into(), 4, 0xa_0908);
    b.set(EIAC.into(), 4, 0x0050_0000);
    b.set(IMS.into(), 4, 0x0150_0000);
    b.far.deliver(&frame_to([0xff; 6], 60));
    b.work();
    assert_eq!(b.rig.messages.take(), [(0x0802_0040, 0x50, 0)]);
    b.set(ICS.into(), 4, 4);
    assert_eq!(b.rig.messages.take(), [(0x0802_0040, 0x52, 0)]);
    b.set(ICS.into(), 4, 4);
    assert_eq!(b.rig.messages.take(), [], "until it is read");
    assert_ne!(icr(&b) & ICR_OTHER, 0);
    b.card.set_link(false);
    assert_eq!(b.rig.messages.take(), [(0x0802_0040, 0x52, 0)]);
    assert_eq!(b.get(STATUS.into(), 4) as u32 & STATUS_LU, 0);
}

#[test]
fn extended_descriptors_are_written_back() {
    let b = bench(Kind::I82574, false);
    b.set(RFCTL.into(), 4, RFCTL_EXSTEN.into());
    let frame = tcp_frame(true, 100);
    b.far.deliver(&frame);
    b.work();
    let d = b.load(RX, 16);
    assert_eq!(u32::from_le_bytes([d[8], d[9], d[10], d[11]]), 0x23, "TCP is good, there is no IPv4");
    assert_eq!(u16::from_le_bytes([d[12], d[13]]) as usize, frame.len() + 4);
}

#[test]
fn a_bit_banged_eeprom_answers() {
    let b = bench(Kind::I82540, false);
    let set = |bits: u32| b.set(EECD.into(), 4, bits.into());
    set(EECD_REQ);
    assert_ne!(b.get(EECD.into(), 4) as u32 & EECD_GNT, 0);
    for n in (0..9).rev() {
        let data = if 0b110_000001 >> n & 1 != 0 { EECD_DI } else { 0 };
        set(EECD_CS | data);
        set(EECD_CS | data | EECD_SK);
    }
    let mut word = 0;
    for _ in 0..16 {
        set(EECD_CS);
        set(EECD_CS | EECD_SK);
        word = word << 1 | u32::from(b.get(EECD.into(), 4) as u32 & EECD_DO != 0);
    }
    assert_eq!(word, 0x1200);
}

/// Random registers and descriptors: answered, bounded, and after a reset the card works.
#[test]
fn hostile_drivers_are_survived() {
    for kind in [Kind::I82540, Kind::I82574] {
        let b = bench(kind, kind == Kind::I82540);
        let mut random = Random(seed() | 1);
        let registers = [TDBAL, TDLEN, TDH, TDT, RDBAL, RDLEN, RDH, RDT, RCTL, TCTL, CTRL, ICS, IMS, ITR, RXCSUM, RFCTL, VET, IVAR, EITR, MDIC, EERD, EECD, TDT1, 0x3900, 0x3908];
        for _ in 0..rounds(30_000) {
            let value = random.next() >> random.below(64);
            match random.below(8) {
                0 => b.store(TX + random.below(128), &value.to_le_bytes()),
                1 => b.store(RX + random.below(128), &value.to_le_bytes()),
                2 => b.far.deliver(&frame_to([0xff; 6], 14 + random.below(9000) as usize)),
                3 => b.work(),
                4 => {
                    b.get(random.below(0x2_0000) & !3, 4);
                }
                5 => b.set(random.below(0x1_fff8), 1 << random.below(4), value),
                _ => {
                    let at = registers[random.below(registers.len() as u64) as usize];
                    let value = if random.below(2) == 0 { value & 0xff } else { value & (RAM - 1) };
                    b.set(at.into(), 4, value);
                }
            }
            if b.far.waiting() > 100 {
                b.set(CTRL.into(), 4, CTRL_RST.into());
                b.work();
            }
            b.far.sent();
        }
        b.rig.bus.reset();
        assert_eq!(b.rig.bus.config_read(0, 0, 4, 2), 0);
    }
}
