//! A push button at an input pin, such as the power key.

use fabric::{Clock, Line, Timer};

/// How long a press lasts.
const PRESS_NS: u64 = 100_000_000;

pub struct Key {
    line: Line,
    clock: Clock,
    release: Timer,
}

impl Key {
    pub fn new(clock: &Clock, line: Line) -> Key {
        let wire = line.clone();
        Key { line, clock: clock.clone(), release: clock.timer(move || wire.set(false)) }
    }

    /// Somebody presses the key for a moment.
    pub fn press(&self) {
        self.line.set(true);
        self.release.at(self.clock.now_ns() + PRESS_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Wires;

    #[test]
    fn a_press_lasts_a_tenth_of_a_second() {
        let (clock, wires) = (Clock::manual(), Wires::new());
        let key = Key::new(&clock, wires.line(3));
        key.press();
        clock.advance(PRESS_NS - 1);
        assert!(wires.level(3));
        clock.advance(1);
        assert!(!wires.level(3));
    }
}
