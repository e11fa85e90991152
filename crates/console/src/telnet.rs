//! The telnet protocol, as much of it as a console needs: character at a time, no local echo, eight bits.
//!
//! Reference: RFC 854 (commands), RFC 856 (binary), RFC 857 (echo), RFC 858 (suppress go ahead).
//! Not modelled: answers to the client's offers and wishes. What it must do is said once in [`GREETING`].

const IAC: u8 = 255;
const SB: u8 = 250;
const SE: u8 = 240;
const BREAK: u8 = 243;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const BINARY: u8 = 0;
const ECHO: u8 = 1;
const GO_AHEAD: u8 = 3;

/// What a server says first.
#[rustfmt::skip]
pub const GREETING: [u8; 12] = [IAC, WILL, ECHO, IAC, WILL, GO_AHEAD, IAC, WILL, BINARY, IAC, DO, BINARY];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Data,
    Command,
    /// The option of WILL, WONT, DO or DONT follows.
    Option(u8),
    Sub,
    SubCommand,
    /// A carriage return has come; without binary mode a NUL may follow it.
    Return,
}

/// What a connection has said so far.
#[derive(Debug, Default)]
pub struct Telnet {
    state: State,
    /// The client sends eight bits, and nothing after carriage returns.
    binary: bool,
}

impl Telnet {
    /// Leaves the data in `bytes`; the result is the number of breaks among them.
    pub fn input(&mut self, bytes: &mut Vec<u8>) -> usize {
        let mut breaks = 0;
        bytes.retain_mut(|byte| {
            let (state, keep) = self.step(*byte, &mut breaks);
            self.state = state;
            keep
        });
        breaks
    }

    fn step(&mut self, byte: u8, breaks: &mut usize) -> (State, bool) {
        match (self.state, byte) {
            (State::Return, 0) => (State::Data, false),
            (State::Data | State::Return, IAC) => (State::Command, false),
            (State::Data | State::Return, b'\r') if !self.binary => (State::Return, true),
            (State::Data | State::Return, _) => (State::Data, true),
            (State::Command, IAC) => (State::Data, true),
            (State::Command, WILL | WONT | DO | DONT) => (State::Option(byte), false),
            (State::Command, SB) => (State::Sub, false),
            (State::Command, BREAK) => {
                *breaks += 1;
                (State::Data, false)
            }
            (State::Command, _) => (State::Data, false),
            (State::Option(verb), BINARY) => {
                self.binary = match verb {
                    WILL => true,
                    WONT => false,
                    _ => self.binary,
                };
                (State::Data, false)
            }
            (State::Option(_), _) => (State::Data, false),
            (State::Sub, IAC) => (State::SubCommand, false),
            (State::Sub, _) => (State::Sub, false),
            (State::SubCommand, SE) => (State::Data, false),
            (State::SubCommand, _) => (State::Sub, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&[u8]], expected: &[u8], breaks: usize) {
        let mut telnet = Telnet::default();
        let (mut got, mut seen) = (Vec::new(), 0);
        for piece in pieces {
            let mut bytes = piece.to_vec();
            seen += telnet.input(&mut bytes);
            got.extend(bytes);
        }
        assert_eq!((got.as_slice(), seen), (expected, breaks), "{pieces:?}");
    }

    #[test]
    fn commands_disappear_wherever_they_are_cut() {
        let text =
            [b'a', IAC, DO, ECHO, b'b', IAC, IAC, IAC, BREAK, IAC, SB, 24, 0, IAC, IAC, IAC, SE, b'c', b'\r', 0, b'd'];
        let expected = [b'a', b'b', 255, b'c', b'\r', b'd'];
        check(&[&text], &expected, 1);
        for cut in 0..text.len() {
            check(&[&text[..cut], &text[cut..]], &expected, 1);
        }
    }

    #[test]
    fn a_binary_client_may_send_nul_after_return() {
        check(&[&[IAC, WILL, BINARY, b'\r', 0]], b"\r\0", 0);
        check(&[&[IAC, WILL, BINARY, IAC, WONT, BINARY, b'\r', 0]], b"\r", 0);
    }
}
