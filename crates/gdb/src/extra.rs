//! Packets that `gdbstub` leaves to us, taken out of the stream before it sees them.

use crate::Connection;
use crate::adapter::Adapter;

/// No debugger sends longer ones: the packet size it is told of is smaller.
pub const LONGEST: usize = 1 << 16;

/// Bytes on their way to `gdbstub`, held back while they may be one of our packets.
#[derive(Default)]
pub struct Filter {
    held: Vec<u8>,
    no_acks: bool,
}

/// What becomes of what has come in.
pub enum Passed {
    /// A packet has been answered here, or is not complete.
    Nothing,
    Bytes(Vec<u8>),
    /// The debugger has asked for the guest's end.
    Kill,
}

impl Filter {
    pub fn feed(&mut self, byte: u8, adapter: &mut Adapter<'_>, out: &Connection) -> std::io::Result<Passed> {
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
        let text = std::str::from_utf8(&packet[1..n - 3]).unwrap_or_default();
        if text == "QStartNoAckMode" {
            self.no_acks = true;
            return Ok(Passed::Bytes(packet));
        }
        let Some(answer) = answer(text, adapter) else { return Ok(Passed::Bytes(packet)) };
        let sum = answer.bytes().fold(0u8, u8::wrapping_add);
        let ack = if self.no_acks { "" } else { "+" };
        out.write_all(format!("{ack}${answer}#{sum:02x}").as_bytes())?;
        Ok(if text.starts_with("vKill") { Passed::Kill } else { Passed::Nothing })
    }
}

/// The answer to one of our packets.
fn answer(packet: &str, adapter: &mut Adapter<'_>) -> Option<String> {
    let physical = adapter.target.has_physical();
    match packet {
        "qqemu.PhyMemMode" if physical => Some((adapter.physical as u8).to_string()),
        "Qqemu.PhyMemMode:0" | "Qqemu.PhyMemMode:1" if physical => {
            adapter.physical = packet.ends_with('1');
            Some("OK".into())
        }
        _ if packet.starts_with("qAttached") => Some((adapter.target.attached() as u8).to_string()),
        _ if packet.starts_with("vKill") => Some("OK".into()),
        _ => None,
    }
}
