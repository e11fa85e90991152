//! A cable with nobody at its end, frames, and a driver's side of a card.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use net::checksum::Sum;
use net::{Accepts, Backend, Guest, Nanos, Offload, Transmit};

use super::card::Cable;

#[derive(Default)]
struct State {
    sent: Vec<(Vec<u8>, Offload)>,
    deliver: Vec<Vec<u8>>,
    full: usize,
}

/// What the other end of the cable saw, and what it has to say.
#[derive(Clone, Default)]
pub struct Far(Arc<Mutex<State>>);

impl Far {
    pub fn sent(&self) -> Vec<(Vec<u8>, Offload)> {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }

    /// Has these frames delivered when the card next looks.
    pub fn deliver(&self, frame: &[u8]) {
        self.0.lock().unwrap().deliver.push(frame.to_vec());
    }

    pub fn waiting(&self) -> usize {
        self.0.lock().unwrap().deliver.len()
    }

    /// Refuses the next frames.
    pub fn refuse(&self, count: usize) {
        self.0.lock().unwrap().full = count;
    }

    pub fn backend(&self, offloads: bool) -> Box<dyn Backend> {
        Box::new(End { far: self.clone(), offloads })
    }

    pub fn cable(&self, offloads: bool) -> Cable {
        Cable::new(Some(self.backend(offloads)))
    }
}

struct End {
    far: Far,
    offloads: bool,
}

impl Backend for End {
    fn transmit(&mut self, _now: Nanos, frame: &[u8], offload: Offload) -> Transmit {
        let mut state = self.far.0.lock().unwrap();
        if state.full > 0 {
            state.full -= 1;
            return Transmit::Full;
        }
        state.sent.push((frame.to_vec(), offload));
        Transmit::Taken
    }
    fn poll(&mut self, _now: Nanos, guest: &mut dyn Guest) {
        while guest.ready() {
            let Some(frame) = self.far.0.lock().unwrap().deliver.first().cloned() else { return };
            let (a, b) = frame.split_at(frame.len() / 2);
            if !guest.deliver(&[a, b], Offload::default()) {
                return;
            }
            self.far.0.lock().unwrap().deliver.remove(0);
        }
    }
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn deadline(&self) -> Option<Nanos> {
        None
    }
    fn takes_offloads(&self) -> bool {
        self.offloads
    }
    fn set_accepts(&mut self, _accepts: Accepts) {}
    fn summary(&self) -> String {
        String::new()
    }
}

/// A frame for `to` with bytes that count upward.
pub fn frame_to(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    frame.extend((14..len).map(|n| n as u8));
    frame
}

/// A correct TCP packet in a frame.
pub fn tcp_frame(v6: bool, payload: usize) -> Vec<u8> {
    let mut frame = net::DEFAULT_MAC.0.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9]);
    let mut tcp = vec![0x12, 0x34, 0, 80, 0, 1, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0];
    tcp.extend((0..payload).map(|n| n as u8));
    let length = tcp.len() as u16;
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([6, 64]);
        let (a, b) = ([0xfdu8; 16], [0xfeu8; 16]);
        frame.extend(a);
        frame.extend(b);
        let sum = Sum::pseudo(a.into(), b.into(), 6, tcp.len()).bytes(&tcp).finish();
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame.extend([8, 0]);
        let mut ip = vec![0x45, 0];
        ip.extend((length + 20).to_be_bytes());
        ip.extend([0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
        let sum = Sum::default().bytes(&ip).finish();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(ip);
        let sum = Sum::pseudo([10, 0, 2, 15].into(), [10, 0, 2, 2].into(), 6, tcp.len()).bytes(&tcp).finish();
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    frame.extend(tcp);
    frame
}

/// A card in a slot, with memory at 0 and a driver's way to its registers.
pub struct Bench {
    pub rig: crate::pci::testing::Rig,
    pub far: Far,
    pub card: Arc<super::card::Card>,
    /// Where its first memory base address is.
    pub base: u64,
}

pub const RAM: u64 = 0x40_0000;
const BAR: u64 = 0x1000_0000;

impl Bench {
    /// `memory`: the register of the memory base address.
    pub fn new(
        memory: usize,
        offloads: bool,
        make: impl FnOnce(super::card::Parts) -> spec::Result<(Arc<super::card::Card>, Arc<crate::pci::Function>)>,
    ) -> Bench {
        let rig = crate::pci::testing::Rig::new();
        rig.space.map(0, RAM, 0, fabric::Region::ram("ram", Arc::new(fabric::Ram::new(RAM).unwrap())));
        let far = Far::default();
        let parts = super::card::Parts {
            mac: net::DEFAULT_MAC,
            backend: Some(far.backend(offloads)),
            space: rig.space.clone(),
            messages: rig.messages.clone(),
            rom: None,
        };
        let (card, function) = make(parts).unwrap();
        rig.bus.plug(&function, None).unwrap();
        rig.bus.config_write(0, 0, memory, 4, BAR as u32);
        rig.bus.config_write(0, 0, 4, 2, 7);
        Bench { rig, far, card, base: BAR }
    }

    pub fn get(&self, at: u64, size: u8) -> u64 {
        self.rig.space.read(self.base + at, size).unwrap()
    }

    pub fn set(&self, at: u64, size: u8, value: u64) {
        assert!(self.rig.space.write(self.base + at, size, value));
    }

    pub fn store(&self, at: u64, bytes: &[u8]) {
        assert_eq!(self.rig.space.write_bytes(at, bytes), bytes.len());
    }

    pub fn load(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert_eq!(self.rig.space.read_bytes(at, &mut bytes), len);
        bytes
    }

    /// Has the card look at its queues and its cable now, whatever its thread does.
    pub fn work(&self) {
        self.card.work();
    }

    pub fn wire(&self) -> bool {
        self.rig.wires.levels()[0]
    }
}
