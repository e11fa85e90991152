//! PL011: Arm's UART.
//!
//! **Reference**: PrimeCell UART (PL011) Technical Reference Manual, DDI 0183G. As in QEMU's model, bytes are sent at once
//! and the receive interrupt comes with the first byte whatever UARTIFLS says, so there is no receive timeout to wait
//! for; UARTCR's enable bits do not stop bytes.
//! **Pins**: out: the combined interrupt.
//! **Not modelled**: baud rates (bytes take no time), DMA, modem inputs other than in loopback, parity and framing errors.
//! **Invariants**: the interrupt wire is `level & mask`; the transmit FIFO holds bytes only while the far end takes none.

use super::Terminal;
use console::{Event, FrontEnd, Port};
use fabric::{Device, Line, Mmio};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// UARTFR.
mod fr {
    pub const CTS: u32 = 1;
    pub const DSR: u32 = 1 << 1;
    pub const DCD: u32 = 1 << 2;
    pub const BUSY: u32 = 1 << 3;
    pub const RXFE: u32 = 1 << 4;
    pub const TXFF: u32 = 1 << 5;
    pub const RXFF: u32 = 1 << 6;
    pub const TXFE: u32 = 1 << 7;
    pub const RI: u32 = 1 << 8;
}

/// UARTRIS and the registers like it.
mod int {
    pub const RI: u32 = 1;
    pub const CTS: u32 = 1 << 1;
    pub const DCD: u32 = 1 << 2;
    pub const DSR: u32 = 1 << 3;
    pub const MODEM: u32 = RI | CTS | DCD | DSR;
    pub const RX: u32 = 1 << 4;
    pub const TX: u32 = 1 << 5;
    pub const BE: u32 = 1 << 9;
    pub const OE: u32 = 1 << 10;
}

/// UARTCR.
const CR_LBE: u32 = 1 << 7;
const CR_DTR: u32 = 1 << 10;
const CR_RTS: u32 = 1 << 11;
const CR_OUT1: u32 = 1 << 12;
const CR_OUT2: u32 = 1 << 13;
/// UARTLCR_H.
const LCR_BRK: u32 = 1;
const LCR_FEN: u32 = 1 << 4;
/// UARTDR: break and overrun, as read with a byte; UARTRSR has them in bits 2 and 3.
const DR_BE: u16 = 1 << 10;
const DR_OE: u16 = 1 << 11;

const FIFO_BYTES: usize = 16;
/// PeriphID and PCellID bytes: PL011 revision 1.
const ID: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    receive: VecDeque<u16>,
    transmit: VecDeque<u8>,
    /// Received when the FIFO was full: goes with the next byte.
    overrun: bool,
    rsr: u32,
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr: u32,
    cr: u32,
    ifls: u32,
    mask: u32,
    level: u32,
    dmacr: u32,
}

impl State {
    fn reset() -> State {
        State {
            receive: VecDeque::new(),
            transmit: VecDeque::new(),
            overrun: false,
            rsr: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr: 0,
            cr: 0x300,
            ifls: 0x12,
            mask: 0,
            level: 0,
            dmacr: 0,
        }
    }
}

pub struct Pl011 {
    s: State,
    terminal: Box<dyn Terminal>,
    irq: Line,
    /// Input was refused; the far end waits for `more_room`.
    refused: bool,
}

impl Pl011 {
    pub fn new(terminal: Box<dyn Terminal>, irq: Line) -> Pl011 {
        Pl011 { s: State::reset(), terminal, irq, refused: false }
    }

    /// A UART at a console port.
    pub fn with_port(port: Port, irq: Line) -> Arc<Mmio<Pl011>> {
        let device = Mmio::new(Pl011::new(Box::new(port.clone()), irq));
        port.attach(Arc::new(Attached(Arc::downgrade(&device))));
        device
    }

    /// Bytes from the far end; says how many fitted.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        if self.loopback() {
            return bytes.len();
        }
        let n = bytes.len().min(self.depth().saturating_sub(self.s.receive.len()));
        for &byte in &bytes[..n] {
            self.put(byte.into());
        }
        self.refused |= n < bytes.len();
        self.update();
        n
    }

    /// The far end holds the line low.
    pub fn receive_break(&mut self) {
        if !self.loopback() {
            self.put(DR_BE);
            self.update();
        }
    }

    /// The far end takes bytes again.
    pub fn room(&mut self) {
        if self.s.transmit.is_empty() {
            return;
        }
        let waiting: Vec<u8> = self.s.transmit.iter().copied().collect();
        let n = self.terminal.write(&waiting).min(waiting.len());
        self.s.transmit.drain(..n);
        if n > 0 && self.s.transmit.len() <= self.depth() / 2 {
            self.s.level |= int::TX;
        }
        self.update();
    }

    fn loopback(&self) -> bool {
        self.s.cr & CR_LBE != 0
    }

    fn depth(&self) -> usize {
        if self.s.lcr & LCR_FEN != 0 { FIFO_BYTES } else { 1 }
    }

    fn put(&mut self, value: u16) {
        if self.s.receive.len() >= self.depth() {
            self.s.overrun = true;
            self.s.level |= int::OE;
            return;
        }
        let overrun = if std::mem::take(&mut self.s.overrun) { DR_OE } else { 0 };
        if value & DR_BE != 0 {
            self.s.level |= int::BE;
        }
        self.s.receive.push_back(value | overrun);
        self.s.level |= int::RX;
    }

    fn send(&mut self, byte: u8) {
        if self.loopback() {
            self.put(byte.into());
        } else if !self.s.transmit.is_empty() || self.terminal.write(&[byte]) == 0 {
            if self.s.transmit.len() < FIFO_BYTES {
                self.s.transmit.push_back(byte);
            }
            // The interrupt comes when there is room again: a driver that it called writes half a FIFO without looking.
            if self.s.transmit.len() > self.depth() / 2 {
                self.s.level &= !int::TX;
            }
            return;
        }
        self.s.level |= int::TX;
    }

    fn take(&mut self) -> u16 {
        let Some(value) = self.s.receive.pop_front() else { return 0 };
        self.s.rsr = u32::from(value >> 8);
        if self.s.receive.is_empty() {
            self.s.level &= !int::RX;
        }
        if std::mem::take(&mut self.refused) {
            self.terminal.more_room();
        }
        value
    }

    fn flags(&self) -> u32 {
        let (s, depth) = (&self.s, self.depth());
        let mut flags = self.modem().0;
        flags |= if s.receive.is_empty() { fr::RXFE } else { 0 };
        flags |= if s.receive.len() >= depth { fr::RXFF } else { 0 };
        flags |= if s.transmit.is_empty() { fr::TXFE } else { fr::BUSY };
        flags | if s.transmit.len() >= depth { fr::TXFF } else { 0 }
    }

    /// Modem inputs, which in loopback are the outputs: flags and interrupts.
    fn modem(&self) -> (u32, u32) {
        if !self.loopback() {
            return (0, 0);
        }
        let pairs = [(CR_DTR, fr::DSR, int::DSR), (CR_RTS, fr::CTS, int::CTS), (CR_OUT1, fr::DCD, int::DCD), (CR_OUT2, fr::RI, int::RI)];
        let on = pairs.into_iter().filter(|(out, ..)| self.s.cr & out != 0);
        on.fold((0, 0), |(flags, ints), (_, flag, int)| (flags | flag, ints | int))
    }

    fn set_lcr(&mut self, value: u32) {
        let changed = self.s.lcr ^ value;
        self.s.lcr = value;
        if changed & LCR_FEN != 0 {
            self.s.receive.clear();
            self.s.transmit.clear();
            if std::mem::take(&mut self.refused) {
                self.terminal.more_room();
            }
        }
        if changed & value & LCR_BRK != 0 {
            if self.loopback() { self.put(DR_BE) } else { self.terminal.send_break() }
        }
    }

    fn update(&self) {
        self.irq.set(self.s.level & self.s.mask != 0);
    }
}

impl Device for Pl011 {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        let value = match offset & !3 {
            0x000 => self.take().into(),
            0x004 => self.s.rsr,
            0x018 => self.flags(),
            0x020 => self.s.ilpr,
            0x024 => self.s.ibrd,
            0x028 => self.s.fbrd,
            0x02c => self.s.lcr,
            0x030 => self.s.cr,
            0x034 => self.s.ifls,
            0x038 => self.s.mask,
            0x03c => self.s.level,
            0x040 => self.s.level & self.s.mask,
            0x048 => self.s.dmacr,
            at @ 0xfe0..0x1000 => ID[(at as usize - 0xfe0) / 4].into(),
            _ => 0,
        };
        self.update();
        value.into()
    }

    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        let value = value as u32;
        match offset & !3 {
            0x000 => self.send(value as u8),
            0x004 => self.s.rsr = 0,
            0x020 => self.s.ilpr = value,
            0x024 => self.s.ibrd = value & 0xffff,
            0x028 => self.s.fbrd = value & 0x3f,
            0x02c => self.set_lcr(value),
            0x030 => {
                self.s.cr = value;
                if self.loopback() {
                    self.s.level = self.s.level & !int::MODEM | self.modem().1;
                }
            }
            0x034 => self.s.ifls = value,
            0x038 => self.s.mask = value,
            0x044 => self.s.level &= !value,
            0x048 => self.s.dmacr = value,
            _ => {}
        }
        self.update();
    }

    fn reset(&mut self) {
        self.s = State::reset();
        if std::mem::take(&mut self.refused) {
            self.terminal.more_room();
        }
        self.update();
    }

    fn info(&self) -> String {
        let s = &self.s;
        format!("CR {:#x} LCR_H {:#x} IMSC {:#x} RIS {:#x}, {} bytes received", s.cr, s.lcr, s.mask, s.level, s.receive.len())
    }
}

/// The device as its port sees it.
struct Attached(Weak<Mmio<Pl011>>);

impl FrontEnd for Attached {
    fn input(&self, bytes: &[u8]) -> usize {
        self.0.upgrade().map_or(0, |device| device.lock().receive(bytes))
    }

    fn event(&self, event: Event) {
        let Some(device) = self.0.upgrade() else { return };
        match event {
            Event::Break => device.lock().receive_break(),
            Event::Room => device.lock().room(),
            Event::Opened | Event::Closed | Event::Focused | Event::Unfocused => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Wires, torture};
    use fabric::MmioTarget;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Far {
        got: Vec<u8>,
        room: usize,
        asked: u32,
        breaks: u32,
    }

    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<Far>>);

    impl Terminal for Fake {
        fn write(&self, bytes: &[u8]) -> usize {
            let mut far = self.0.lock().unwrap();
            let n = bytes.len().min(far.room);
            far.room -= n;
            far.got.extend(&bytes[..n]);
            n
        }
        fn more_room(&self) {
            self.0.lock().unwrap().asked += 1;
        }
        fn send_break(&self) {
            self.0.lock().unwrap().breaks += 1;
        }
    }

    fn uart(room: usize) -> (Arc<Mmio<Pl011>>, Fake, Arc<Wires>) {
        let (fake, wires) = (Fake::default(), Wires::new());
        fake.0.lock().unwrap().room = room;
        (Mmio::new(Pl011::new(Box::new(fake.clone()), wires.line(0))), fake, wires)
    }

    #[test]
    fn registers_after_reset_are_those_of_the_reference_machine() {
        let (u, ..) = uart(0);
        let expected = [(0, 0), (4, 0), (0x18, 0x90), (0x30, 0x300), (0x34, 0x12), (0x3c, 0)];
        let ids = [(0xfe0, 0x11), (0xfe4, 0x10), (0xfe8, 0x14), (0xfec, 0), (0xff0, 0xd), (0xff4, 0xf0), (0xff8, 5), (0xffc, 0xb1)];
        for (offset, value) in expected.into_iter().chain(ids) {
            assert_eq!(u.read(offset, 4), value, "{offset:#x}");
        }
        for (offset, kept) in [(0x20, 0xffff_ffff), (0x24, 0xffff), (0x28, 0x3f), (0x38, 0xffff_ffff), (0x48, 0xffff_ffff)] {
            u.write(offset, 4, 0xffff_ffff);
            assert_eq!(u.read(offset, 4), kept, "{offset:#x}");
        }
    }

    #[test]
    fn sent_bytes_arrive_at_once_with_an_interrupt() {
        let (u, fake, wires) = uart(10);
        u.write(0, 1, 0x41);
        assert_eq!((fake.0.lock().unwrap().got.as_slice(), u.read(0x18, 4), u.read(0x3c, 4)), (&b"A"[..], 0x90, 0x20));
        assert!(!wires.level(0));
        u.write(0x38, 4, 0x20);
        assert!(wires.level(0));
        assert_eq!(u.read(0x40, 4), 0x20);
        u.write(0x44, 4, 0x20);
        assert!(!wires.level(0));
    }

    #[test]
    fn a_far_end_that_takes_nothing_fills_the_fifo() {
        let (u, fake, _) = uart(1);
        u.write(0x2c, 4, 0x70);
        for i in 0..17 {
            u.write(0, 4, 0x41 + i);
        }
        assert_eq!(u.read(0x18, 4), 0x10 | 0x20 | 8, "TXFF, BUSY");
        u.write(0x44, 4, 0x20);
        fake.0.lock().unwrap().room = 100;
        u.lock().room();
        assert_eq!((u.read(0x18, 4), u.read(0x3c, 4)), (0x90, 0x20));
        assert_eq!(fake.0.lock().unwrap().got, b"ABCDEFGHIJKLMNOPQ");
    }

    #[test]
    fn a_driver_that_writes_half_a_fifo_for_each_interrupt_loses_nothing() {
        let (u, fake, _) = uart(1);
        u.write(0x2c, 4, 0x70);
        let mut sent: Vec<u8> = vec![b'0'];
        u.write(0, 4, u64::from(b'0'));
        for round in 0..20 {
            while u.read(0x3c, 4) & 0x20 != 0 {
                for _ in 0..FIFO_BYTES / 2 {
                    let byte = b'A' + (sent.len() % 26) as u8;
                    u.write(0, 4, byte.into());
                    sent.push(byte);
                }
            }
            fake.0.lock().unwrap().room = round % 7;
            u.lock().room();
        }
        fake.0.lock().unwrap().room = 1000;
        u.lock().room();
        assert_eq!(String::from_utf8_lossy(&fake.0.lock().unwrap().got), String::from_utf8_lossy(&sent));
        assert!(sent.len() > 40, "it went on when there was room: {}", sent.len());
    }

    #[test]
    fn received_bytes_interrupt_until_they_are_read() {
        let (u, fake, wires) = uart(0);
        u.write(0x2c, 4, 0x70);
        u.write(0x38, 4, 0x10);
        let bytes: Vec<u8> = (0..20).collect();
        assert_eq!(u.lock().receive(&bytes), 16);
        assert!(wires.level(0));
        assert_eq!(u.read(0x18, 4), 0x80 | 0x40);
        assert_eq!(u.read(0, 4), 0);
        assert_eq!(fake.0.lock().unwrap().asked, 1, "there is room for the rest");
        for i in 1..16 {
            assert!(wires.level(0));
            assert_eq!(u.read(0, 1), i);
        }
        assert!(!wires.level(0));
        assert_eq!(u.read(0x18, 4), 0x90);
        assert_eq!(fake.0.lock().unwrap().asked, 1);
    }

    #[test]
    fn without_fifo_there_is_room_for_one_byte() {
        let (u, ..) = uart(0);
        assert_eq!(u.lock().receive(b"ab"), 1);
        u.lock().receive_break();
        assert_eq!(u.read(0x3c, 4), 0x410, "the break found no room");
        assert_eq!(u.read(0, 4), 0x61);
        assert_eq!(u.lock().receive(b"b"), 1);
        assert_eq!(u.read(0, 4), 0x862, "with the overrun");
        assert_eq!(u.read(4, 4), 8);
        u.write(4, 4, 0);
        assert_eq!(u.read(4, 4), 0);
    }

    #[test]
    fn breaks_go_both_ways() {
        let (u, fake, _) = uart(0);
        u.lock().receive_break();
        assert_eq!((u.read(0x3c, 4), u.read(0, 4)), (0x210, 0x400));
        u.write(0x2c, 4, 0x71);
        u.write(0x2c, 4, 0x71);
        assert_eq!(fake.0.lock().unwrap().breaks, 1);
    }

    #[test]
    fn loopback_connects_the_port_to_itself() {
        let (u, fake, _) = uart(5);
        u.write(0x2c, 4, 0x10);
        u.write(0x30, 4, 0x3b81);
        assert_eq!((u.read(0x18, 4), u.read(0x3c, 4)), (0x195, 7));
        u.write(0, 4, 0x55);
        assert_eq!((u.read(0x18, 4), u.read(0x3c, 4)), (0x185, 0x37));
        assert_eq!(u.lock().receive(b"lost"), 4);
        assert_eq!(u.read(0, 4), 0x55);
        assert_eq!(u.read(0, 4), 0);
        assert!(fake.0.lock().unwrap().got.is_empty());
    }

    #[test]
    fn random_accesses_never_panic_and_reset_is_fresh() {
        let (u, _, wires) = uart(50_000);
        torture(&*u, 0x1000, 11, |random| match random.below(20) {
            0 => u.lock().receive_break(),
            1 => u.lock().room(),
            2 => assert!(u.lock().receive(&[0; 20]) <= 20),
            _ => {}
        });
        u.reset();
        assert_eq!(u.lock().s, State::reset());
        assert!(!wires.level(0));
    }
}
