//! Packets that `gdbstub` leaves to us, taken out of the stream before it sees them.

use crate::adapter::{Adapter, part};
use crate::follow::{Answer, Conversation};
use crate::{STEP_NO_INTERRUPTS, STEP_NO_TIMERS, Signal, Thread, Wire};

/// No debugger sends longer ones: the packet size it is told of is smaller.
pub const LONGEST: usize = 1 << 16;

/// Bytes on their way to `gdbstub`, held back while they may be one of our packets.
#[derive(Default)]
pub struct Filter {
    held: Vec<u8>,
    /// What the debugger's questions are about.
    thread: Option<Thread>,
    no_acks: bool,
    pub conversation: Conversation,
}

/// What becomes of what has come in.
pub enum Passed {
    /// A packet has been answered here, or is not complete.
    Nothing,
    Bytes(Vec<u8>),
    /// The debugger has asked for the guest's end.
    Kill,
    /// The debugger has let this process go and follows its child.
    HandOver(Thread),
}

impl Filter {
    pub fn feed(&mut self, byte: u8, adapter: &mut Adapter<'_>, out: &dyn Wire) -> std::io::Result<Passed> {
        if self.held.is_empty() && byte != b'$' {
            return Ok(Passed::Bytes(vec![byte]));
        }
        self.held.push(byte);
        let n = self.held.len();
        let complete = n >= 4 && self.held[n - 3] == b'#';
        if !complete && n < LONGEST {
            return Ok(Passed::Nothing);
        }
        let packet = std::mem::take(&mut self.held);
        let text = &String::from_utf8_lossy(&packet[1..n - 3]);
        if text == "QStartNoAckMode" {
            self.no_acks = true;
            self.conversation.hear(text, adapter);
            return Ok(Passed::Bytes(packet));
        }
        if let Some(id) = text.strip_prefix("Hg") {
            self.thread = id.rsplit('.').next().and_then(|tid| usize::from_str_radix(tid, 16).ok()).and_then(Thread::new);
        }
        let (answer, then) = match self.conversation.hear(text, adapter) {
            Answer::Text(answer) => (answer, Passed::Nothing),
            Answer::Kill(answer) => (answer, Passed::Kill),
            Answer::HandOver(answer, child) => (answer, Passed::HandOver(child)),
            Answer::None => match self.answer(text, adapter) {
                Some(answer) => (answer, if text.starts_with("vKill") { Passed::Kill } else { Passed::Nothing }),
                None => return Ok(Passed::Bytes(packet)),
            },
        };
        let sum = answer.iter().copied().fold(0u8, u8::wrapping_add);
        let ack: &[u8] = if self.no_acks { b"" } else { b"+" };
        out.write_all(&[ack, b"$", &answer[..], format!("#{sum:02x}").as_bytes()].concat())?;
        Ok(then)
    }
    /// The threads have stopped, this one with a reason.
    pub fn stopped(&mut self, thread: Thread) {
        self.thread = Some(thread);
    }

    /// The answer to one of our packets.
    fn answer(&self, packet: &str, adapter: &mut Adapter<'_>) -> Option<Vec<u8>> {
        let physical = adapter.target.has_physical();
        match packet {
            "qqemu.PhyMemMode" if physical => Some((adapter.physical as u8).to_string().into()),
            "Qqemu.PhyMemMode:0" | "Qqemu.PhyMemMode:1" if physical => {
                adapter.physical = packet.ends_with('1');
                Some(b"OK".into())
            }
            "qqemu.sstepbits" => {
                adapter.target.step_flags()?;
                Some(format!("ENABLE=1,NOIRQ={STEP_NO_INTERRUPTS},NOTIMER={STEP_NO_TIMERS}").into())
            }
            "qqemu.sstep" => Some(format!("0x{:x}", adapter.target.step_flags()? | 1).into()),
            _ if packet.starts_with("Qqemu.sstep=") => {
                adapter.target.step_flags()?;
                let flags = u8::from_str_radix(&packet[12..], 16).ok().filter(|f| *f < 8);
                Some(flags.map_or(b"E16".to_vec(), |f| {
                    adapter.target.set_step_flags(f & !1);
                    b"OK".to_vec()
                }))
            }
            _ if packet.starts_with("qAttached") => Some((adapter.target.attached() as u8).to_string().into()),
            _ if packet.starts_with("vKill") => Some(b"OK".into()),
            _ => {
                if let Some(list) = packet.strip_prefix("QPassSignals:") {
                    let signals: Vec<Signal> = list.split(';').filter_map(|s| Signal::from_str_radix(s, 16).ok()).collect();
                    return adapter.target.pass_signals(&signals).then(|| b"OK".into());
                }
                let (offset, length) = packet.strip_prefix("qXfer:siginfo:read::")?.split_once(',')?;
                let (offset, length) = (u64::from_str_radix(offset, 16).ok()?, usize::from_str_radix(length, 16).ok()?);
                let Some(info) = self.thread.and_then(|t| adapter.target.siginfo(t)) else { return Some(b"E0e".into()) };
                let mut buf = vec![0; length.min(LONGEST)];
                let n = part(&info, offset, length, &mut buf);
                let more = offset.saturating_add(n as u64) < info.len() as u64;
                let mut answer = vec![if more { b'm' } else { b'l' }];
                buf[..n].iter().for_each(|b| escape(*b, &mut answer));
                Some(answer)
            }
        }
    }
}

/// Binary data in a packet.
fn escape(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'#' | b'$' | b'}' | b'*' => out.extend([b'}', byte ^ 0x20]),
        _ => out.push(byte),
    }
}

/// Adds what we answer ourselves to the list of features in `gdbstub`'s answer to `qSupported`.
pub fn advertise(answer: &mut Vec<u8>, features: &str) {
    append(answer, b"$PacketSize=", features);
}

/// Adds to the packet that begins in this way.
pub fn append(bytes: &mut Vec<u8>, beginning: &[u8], more: &str) {
    let Some(begin) = bytes.windows(beginning.len()).position(|w| w == beginning) else { return };
    let Some(end) = bytes[begin..].iter().position(|b| *b == b'#').map(|n| begin + n) else { return };
    let mut body = bytes[begin + 1..end].to_vec();
    body.extend_from_slice(more.as_bytes());
    let sum = body.iter().copied().fold(0u8, u8::wrapping_add);
    bytes.truncate(begin + 1);
    bytes.extend(body);
    bytes.extend_from_slice(format!("#{sum:02x}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_added_with_the_right_checksum() {
        let mut answer = b"+$PacketSize=10#00".to_vec();
        advertise(&mut answer, ";x+");
        let sum = b"PacketSize=10;x+".iter().copied().fold(0u8, u8::wrapping_add);
        assert_eq!(answer, format!("+$PacketSize=10;x+#{sum:02x}").into_bytes());
        let mut other = b"$OK#9a".to_vec();
        advertise(&mut other, ";x+");
        assert_eq!(other, b"$OK#9a");
    }

    #[test]
    fn special_bytes_are_escaped() {
        let mut out = Vec::new();
        b"a#}".iter().for_each(|b| escape(*b, &mut out));
        assert_eq!(out, [b'a', b'}', 3, b'}', b']']);
    }
}
