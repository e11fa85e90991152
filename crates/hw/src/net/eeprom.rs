//! A 93C46 serial EEPROM: 64 words of 16 bits over three wires.
//!
//! Reference: Microchip 93AA46/93C46 data sheet, READ with sequential read.
//! Not modelled: writing and erasing (the contents are write-protected: such commands are clocked in and do nothing).

pub const WORDS: usize = 64;
const ADDRESS_BITS: u32 = 6;
/// Start bit, operation code, address.
const COMMAND_BITS: u32 = 3 + ADDRESS_BITS;
const READ: u16 = 0b10;

/// The wires' levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    pub select: bool,
    pub clock: bool,
    pub input: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the start bit.
    Idle,
    Command {
        bits: u32,
        word: u16,
    },
    /// Shifts words out; how many bits of the present one are out.
    Read {
        address: usize,
        bits: u32,
    },
    /// Until it is deselected.
    Done,
}

pub struct Eeprom {
    pub words: [u16; WORDS],
    pins: Pins,
    phase: Phase,
    output: bool,
}

impl Eeprom {
    pub fn new(words: [u16; WORDS]) -> Eeprom {
        Eeprom { words, pins: Pins::default(), phase: Phase::Idle, output: true }
    }

    /// The level of the output wire.
    pub fn output(&self) -> bool {
        self.output
    }

    pub fn set(&mut self, pins: Pins) {
        let rising = pins.clock && !self.pins.clock;
        self.pins = pins;
        if !pins.select {
            self.phase = Phase::Idle;
            self.output = true;
        } else if rising {
            self.clock(pins.input);
        }
    }

    fn clock(&mut self, input: bool) {
        self.phase = match self.phase {
            Phase::Idle if input => Phase::Command { bits: 1, word: 1 },
            Phase::Idle => Phase::Idle,
            Phase::Command { bits, word } => {
                let (bits, word) = (bits + 1, word << 1 | u16::from(input));
                if bits < COMMAND_BITS {
                    Phase::Command { bits, word }
                } else if word >> ADDRESS_BITS & 3 == READ {
                    // A zero comes before the data.
                    self.output = false;
                    Phase::Read { address: usize::from(word) % WORDS, bits: 0 }
                } else {
                    Phase::Done
                }
            }
            Phase::Read { address, bits } => {
                self.output = self.words[address] >> (15 - bits) & 1 != 0;
                if bits == 15 { Phase::Read { address: (address + 1) % WORDS, bits: 0 } } else { Phase::Read { address, bits: bits + 1 } }
            }
            Phase::Done => Phase::Done,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shift(e: &mut Eeprom, value: u32, bits: u32) -> u32 {
        let mut out = 0;
        for n in (0..bits).rev() {
            let input = value >> n & 1 != 0;
            e.set(Pins { select: true, clock: false, input });
            e.set(Pins { select: true, clock: true, input });
            out = out << 1 | u32::from(e.output());
        }
        out
    }

    #[test]
    fn words_are_read_one_after_the_other() {
        let mut words = [0; WORDS];
        (words[5], words[6], words[63], words[0]) = (0xbaba, 0x1234, 0xffff, 0x8129);
        let mut e = Eeprom::new(words);
        shift(&mut e, 0b110_000101, 9);
        assert!(!e.output());
        assert_eq!(shift(&mut e, 0, 32), 0xbaba_1234);
        e.set(Pins::default());
        // Zeros before the start bit do not count.
        shift(&mut e, 0b00_110_111111, 11);
        assert_eq!(shift(&mut e, 0, 32), 0xffff_8129);
        e.set(Pins::default());
        shift(&mut e, 0b101_000101, 9);
        shift(&mut e, 0x5555, 16);
        assert_eq!(e.words[5], 0xbaba, "a write does nothing");
    }
}
