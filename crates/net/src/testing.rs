//! A cable that leads back: both ends of it, for the tests of what stands between a card and a back end.

use crate::backend::{Accepts, Backend, Guest, Nanos, Offload, Transmit};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

/// The frames that have been sent and not yet been given back.
pub type Frames = Arc<Mutex<Vec<Vec<u8>>>>;

/// A far end without offloads: wants complete frames, and gives them back in two pieces each.
pub struct Loopback {
    pub frames: Frames,
    /// How many frames it takes until the next poll, and from each poll to the next.
    pub room: usize,
    pub room_after_poll: usize,
}

impl Loopback {
    pub fn with(frames: &Frames) -> Loopback {
        Loopback { frames: frames.clone(), room: usize::MAX, room_after_poll: usize::MAX }
    }
}

impl Backend for Loopback {
    fn transmit(&mut self, _now: Nanos, frame: &[u8], offload: Offload) -> Transmit {
        assert_eq!(offload, Offload::default());
        if self.room == 0 {
            return Transmit::Full;
        }
        self.room -= 1;
        self.frames.lock().unwrap().push(frame.to_vec());
        Transmit::Taken
    }
    fn poll(&mut self, _now: Nanos, guest: &mut dyn Guest) {
        self.room = self.room_after_poll;
        for frame in self.frames.lock().unwrap().drain(..) {
            let (a, b) = frame.split_at(20);
            assert!(guest.deliver(&[a, b], Offload::default()));
        }
    }
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    fn deadline(&self) -> Option<Nanos> {
        None
    }
    fn set_accepts(&mut self, accepts: Accepts) {
        assert_eq!(accepts, Accepts::default());
    }
    fn summary(&self) -> String {
        "loopback".into()
    }
}

/// A card that keeps what it gets while it has room.
pub struct Taker {
    pub frames: Vec<(Vec<u8>, Offload)>,
    pub room: usize,
}

impl Taker {
    pub fn new(room: usize) -> Taker {
        Taker { frames: Vec::new(), room }
    }
}

impl Guest for Taker {
    fn ready(&mut self) -> bool {
        self.room > 0
    }
    fn deliver(&mut self, parts: &[&[u8]], offload: Offload) -> bool {
        if self.room == 0 {
            return false;
        }
        self.room -= 1;
        self.frames.push((parts.concat(), offload));
        true
    }
}
