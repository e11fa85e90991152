//! What a debugger says.

use self::toy::{Machine, thread};
use gdb::{Event, Wire};
use std::sync::Arc;
use std::sync::mpsc::channel;

#[path = "../../crates/gdb/tests/session/toy.rs"]
mod toy;

/// A debugger that never listens.
struct Deaf;

impl Wire for Deaf {
    fn write_all(&self, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// One session with a machine, or (first byte odd) with a process: packets without their frame, a line each; what follows
/// byte 3 is sent as it is.
pub fn session(bytes: &[u8]) {
    let Some((&mode, bytes)) = bytes.split_first() else { return };
    let (events, receiver) = channel();
    let pid = (mode & 1 != 0).then(|| thread(100));
    let mut machine = Machine::new(events.clone(), &[], pid, &[thread(5)]);
    let mut said = Vec::new();
    for line in bytes.split(|b| *b == b'\n') {
        if let Some(raw) = line.strip_prefix(b"\x03") {
            said.push(3);
            said.extend(raw);
        } else {
            let sum = line.iter().copied().fold(0u8, u8::wrapping_add);
            said.extend([b"$", line, format!("#{sum:02x}").as_bytes()].concat());
        }
    }
    for bytes in [said, Vec::new()] {
        let _ = events.send(Event::Data(7, bytes));
    }
    let wire: Arc<dyn Wire> = Arc::new(Deaf);
    let _ = gdb::serve(&wire, 7, &mut machine, &receiver);
}
