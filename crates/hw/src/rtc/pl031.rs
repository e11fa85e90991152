//! PL031: Arm's real-time clock.
//!
//! **Reference**: PrimeCell Real Time Clock (PL031) Technical Reference Manual, DDI 0224C. As in QEMU's model, any write to
//! RTCICR clears the interrupt (the manual of an older core with this cell), and reset leaves the time alone.
//! **Pins**: out: the alarm.
//! **Not modelled**: stopping the clock by RTCCR, which always reads as started.

use fabric::{Clock, Device, Line, Mmio, Timer};
use std::sync::Arc;

/// PeriphID and PCellID bytes.
const ID: [u8; 8] = [0x31, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct State {
    /// Guest seconds minus the host's.
    offset: u32,
    matches: u32,
    loaded: u32,
    mask: bool,
    raised: bool,
}

pub struct Pl031 {
    s: State,
    now_ns: Box<dyn Fn() -> u64 + Send>,
    clock: Clock,
    timer: Option<Timer>,
    irq: Line,
}

impl Pl031 {
    /// `now_ns` is the time the guest is to see, in nanoseconds since 1970; alarms are timers of `clock`.
    pub fn new(clock: &Clock, now_ns: Box<dyn Fn() -> u64 + Send>, irq: Line) -> Arc<Mmio<Pl031>> {
        let device = Mmio::new(Pl031 { s: State::default(), now_ns, clock: clock.clone(), timer: None, irq });
        let weak = Arc::downgrade(&device);
        let timer = clock.timer(move || {
            if let Some(device) = weak.upgrade() {
                device.lock().alarm();
            }
        });
        device.lock().timer = Some(timer);
        device
    }

    fn seconds(&self) -> u32 {
        (((self.now_ns)() / SECOND_NS) as u32).wrapping_add(self.s.offset)
    }

    /// The timer fired. Its deadline may be an old one, or the two clocks may differ.
    fn alarm(&mut self) {
        if self.timer.as_ref().is_some_and(|t| t.deadline_ns().is_none()) {
            self.raise();
        }
    }

    fn raise(&mut self) {
        self.s.raised = true;
        self.update();
    }

    /// Sets the timer for the next match; one at this second is now.
    fn arm(&mut self) {
        let left = u64::from(self.s.matches.wrapping_sub(self.seconds()));
        let Some(timer) = &self.timer else { return };
        timer.cancel();
        if left == 0 {
            self.raise();
        } else {
            timer.at(self.clock.now_ns().saturating_add(left * SECOND_NS));
        }
    }

    fn update(&self) {
        self.irq.set(self.s.raised && self.s.mask);
    }
}

impl Device for Pl031 {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        let s = &self.s;
        let value = match offset & !3 {
            0x00 => self.seconds(),
            0x04 => s.matches,
            0x08 => s.loaded,
            0x0c => 1,
            0x10 => s.mask.into(),
            0x14 => s.raised.into(),
            0x18 => (s.raised && s.mask).into(),
            at @ 0xfe0..0x1000 => ID[(at as usize - 0xfe0) / 4].into(),
            _ => 0,
        };
        value.into()
    }

    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        let value = value as u32;
        match offset & !3 {
            0x04 => {
                self.s.matches = value;
                self.arm();
            }
            0x08 => {
                self.s.offset = self.s.offset.wrapping_add(value.wrapping_sub(self.seconds()));
                self.s.loaded = value;
                self.arm();
            }
            0x10 => self.s.mask = value & 1 != 0,
            0x1c => self.s.raised = false,
            _ => {}
        }
        self.update();
    }

    /// The cell keeps its time over a reset of the machine.
    fn reset(&mut self) {
        self.s = State { offset: self.s.offset, ..State::default() };
        if let Some(timer) = &self.timer {
            timer.cancel();
        }
        self.update();
    }

    fn info(&self) -> String {
        format!("time {} match {} mask {} raised {}", self.seconds(), self.s.matches, self.s.mask, self.s.raised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Wires, torture};
    use fabric::MmioTarget;

    fn rtc() -> (Arc<Mmio<Pl031>>, Clock, Arc<Wires>) {
        let (clock, wires) = (Clock::manual(), Wires::new());
        let c = clock.clone();
        let now = move || 1_700_000_000 * SECOND_NS + c.now_ns();
        (Pl031::new(&clock, Box::new(now), wires.line(0)), clock, wires)
    }

    #[test]
    fn registers_after_reset_are_those_of_the_reference_machine() {
        let (r, ..) = rtc();
        let expected = [(0, 1_700_000_000), (4, 0), (8, 0), (0xc, 1), (0x10, 0), (0x14, 0), (0x18, 0)];
        let ids = [(0xfe0, 0x31), (0xfe4, 0x10), (0xfe8, 0x14), (0xfec, 0), (0xff0, 0xd), (0xff4, 0xf0), (0xff8, 5), (0xffc, 0xb1)];
        for (offset, value) in expected.into_iter().chain(ids) {
            assert_eq!(r.read(offset, 4), value, "{offset:#x}");
        }
    }

    #[test]
    fn the_time_runs_and_can_be_set() {
        let (r, clock, _) = rtc();
        clock.advance(3 * SECOND_NS);
        assert_eq!(r.read(0, 4), 1_700_000_003);
        r.write(8, 4, 100);
        clock.advance(SECOND_NS);
        assert_eq!((r.read(0, 4), r.read(8, 4)), (101, 100));
        r.reset();
        assert_eq!(r.read(0, 4), 101);
    }

    #[test]
    fn the_alarm_rings_at_its_second() {
        let (r, clock, wires) = rtc();
        r.write(0x10, 4, 1);
        r.write(4, 4, 1_700_000_005);
        clock.advance(4 * SECOND_NS);
        assert!(!wires.level(0));
        clock.advance(SECOND_NS);
        assert!(wires.level(0));
        assert_eq!((r.read(0x14, 4), r.read(0x18, 4)), (1, 1));
        r.write(0x1c, 4, 1);
        assert!(!wires.level(0));
        r.write(4, 4, 1_700_000_005);
        assert!(wires.level(0), "a match now");
        r.write(0x10, 4, 0);
        assert!(!wires.level(0));
        r.write(0x1c, 4, 0);
        r.write(4, 4, 1_700_000_009);
        r.write(4, 4, 1_700_000_001);
        clock.advance(10 * SECOND_NS);
        assert_eq!(r.read(0x14, 4), 0, "moved to a second that is past");
    }

    #[test]
    fn random_accesses_never_panic_and_reset_is_fresh() {
        let (r, clock, wires) = rtc();
        torture(&*r, 0x1000, 21, |random| clock.advance(random.below(SECOND_NS)));
        r.reset();
        let offset = r.lock().s.offset;
        assert_eq!(r.lock().s, State { offset, ..State::default() });
        assert!(!wires.level(0));
    }
}
