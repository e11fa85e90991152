//! Several front ends on one character device: Ctrl-A commands and who gets the user's keys.
//!
//! Everything that any front end writes is shown; input goes to the one that has the focus. Each front end has a small
//! buffer, so that an escape command is seen although the guest does not read.
//!
//! Invariants: at most [`INPUT_MAX`] bytes wait for a front end (then the far end is not read); no lock is held while
//! a front end or an action is called.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use spec::error::Result;

use crate::port::{Event, FrontEnd, Line, lock};

/// Bytes that wait for one front end.
pub const INPUT_MAX: usize = 4096;

/// What the escape commands do to the machine.
pub trait Actions: Send + Sync {
    /// `C-a x`: leave the emulator. Called on the I/O thread.
    fn quit(&self);
    /// `C-a s`: write the changes of `-snapshot` back to the images.
    fn commit(&self) -> Result<()>;
}

/// What all multiplexers of a machine have in common.
pub(crate) struct Common {
    /// The character that introduces a command (`-echr`).
    pub escape: AtomicU8,
    pub actions: Mutex<Option<Arc<dyn Actions>>>,
}

impl Default for Common {
    fn default() -> Common {
        Common { escape: AtomicU8::new(1), actions: Mutex::new(None) }
    }
}

#[derive(Default)]
struct Slot {
    front: Option<Arc<dyn FrontEnd>>,
    /// A monitor: has the focus only while there is nobody else.
    monitor: bool,
    buffer: VecDeque<u8>,
    /// Took everything so far.
    ready: bool,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    focus: usize,
    /// Who knows that it has the focus.
    told: Option<usize>,
    /// The user chose; front ends that come later do not take the focus.
    chosen: bool,
    escaped: bool,
    stamps: Option<Stamps>,
}

/// Each line of output begins with the time since the user asked for it.
struct Stamps {
    start: Instant,
    line_start: bool,
}

pub(crate) struct Mux {
    label: String,
    line: Arc<Line>,
    common: Arc<Common>,
    state: Mutex<State>,
}

/// What a byte from the user means.
enum Meaning {
    Nothing,
    Data(u8),
    Command(u8),
}

/// The commands after the escape character, in the order of the help.
const COMMANDS: &[(&str, &str)] = &[
    ("h", "print this help"),
    ("x", "exit emulator"),
    ("s", "save disk data back to file (if -snapshot)"),
    ("t", "toggle console timestamps"),
    ("b", "send break (magic sysrq)"),
    ("c", "switch between console and monitor"),
];

impl Mux {
    pub fn new(label: &str, line: Arc<Line>, common: Arc<Common>) -> Arc<Mux> {
        let mux = Arc::new(Mux { label: label.to_string(), line, common, state: Mutex::default() });
        mux.line.set_mux(&mux);
        mux.line.attach(Some(mux.clone()));
        mux
    }

    pub fn line(&self) -> &Line {
        &self.line
    }

    pub fn label(&self) -> &str {
        &self.label
    }

    /// A place for one more front end.
    pub fn place(&self, monitor: bool) -> usize {
        let mut state = lock(&self.state);
        state.slots.push(Slot { monitor, ready: true, ..Slot::default() });
        state.slots.len() - 1
    }

    pub fn attach(&self, index: usize, front: Option<Arc<dyn FrontEnd>>) {
        let mut state = lock(&self.state);
        let attached = front.is_some();
        let slot = &mut state.slots[index];
        slot.front = front;
        slot.ready = true;
        let device = attached && !slot.monitor;
        let focused = &state.slots[state.focus];
        if device && !state.chosen && (focused.monitor || focused.front.is_none()) {
            state.focus = index;
        }
        drop(state);
        // The I/O thread tells it what it needs to know.
        self.line.announce_again();
    }

    pub fn has_focus(&self, index: usize) -> bool {
        lock(&self.state).focus == index
    }

    pub fn more_room(&self, index: usize) {
        lock(&self.state).slots[index].ready = true;
        self.line.wake();
    }

    pub fn write(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.state);
        let Some(stamps) = &mut state.stamps else {
            drop(state);
            return self.line.write(bytes);
        };
        let mut done = 0;
        while done < bytes.len() {
            if stamps.line_start {
                let stamp = timestamp(stamps.start.elapsed().as_millis());
                if self.line.room() <= stamp.len() {
                    // Refused here, so that the front end is told when there is room.
                    return done + self.line.refuse();
                }
                if self.line.write(stamp.as_bytes()) < stamp.len() {
                    return done;
                }
                stamps.line_start = false;
            }
            let rest = &bytes[done..];
            let end = rest.iter().position(|&b| b == b'\n').map_or(rest.len(), |at| at + 1);
            let n = self.line.write(&rest[..end]);
            done += n;
            stamps.line_start = n == end && rest[end - 1] == b'\n';
            if n < end {
                return done;
            }
        }
        done
    }

    /// Gives the front ends what waits for them. On the I/O thread.
    pub fn pump(&self) {
        let mut index = 0;
        loop {
            let mut state = lock(&self.state);
            let Some(slot) = state.slots.get_mut(index) else { return };
            let (Some(front), true, false) = (slot.front.clone(), slot.ready, slot.buffer.is_empty()) else {
                index += 1;
                continue;
            };
            let bytes: Vec<u8> = slot.buffer.iter().copied().collect();
            // Before the call, so that a `more_room` during it is not lost.
            slot.ready = false;
            drop(state);
            let n = front.input(&bytes).min(bytes.len());
            let mut state = lock(&self.state);
            let slot = &mut state.slots[index];
            slot.buffer.drain(..n);
            if n == bytes.len() {
                slot.ready = true;
            } else if n == 0 {
                index += 1;
            }
            drop(state);
            self.line.more_room();
        }
    }

    fn meaning(&self, state: &mut State, byte: u8) -> Meaning {
        let escape = self.common.escape.load(Ordering::Relaxed);
        if std::mem::take(&mut state.escaped) {
            return if byte == escape { Meaning::Data(byte) } else { Meaning::Command(byte) };
        }
        if byte == escape && escape != 0 {
            state.escaped = true;
            return Meaning::Nothing;
        }
        Meaning::Data(byte)
    }

    fn command(&self, command: u8) {
        match command {
            b'?' | b'h' => self.say(&help(self.common.escape.load(Ordering::Relaxed))),
            b'x' => {
                self.say("QEMU: Terminated\n\r");
                self.act(|actions| actions.quit());
            }
            b's' => self.act(|actions| {
                if let Err(error) = actions.commit() {
                    self.say(&format!("\n\r{error}\n\r"));
                }
            }),
            b'b' => self.tell_focused(Event::Break),
            b'c' => self.next_focus(),
            b't' => {
                let mut state = lock(&self.state);
                state.stamps = match state.stamps {
                    None => Some(Stamps { start: Instant::now(), line_start: false }),
                    Some(_) => None,
                };
            }
            _ => {}
        }
    }

    fn say(&self, text: &str) {
        // Cut short only if the far end does not read; then nobody would see it either.
        let _ = self.line.write(text.as_bytes());
    }

    fn act(&self, action: impl FnOnce(&dyn Actions)) {
        let actions = lock(&self.common.actions).clone();
        match actions {
            Some(actions) => action(&*actions),
            None => log::warn!("'{}': the machine is not there yet", self.label),
        }
    }

    fn tell_focused(&self, event: Event) {
        let state = lock(&self.state);
        let front = state.slots.get(state.focus).and_then(|slot| slot.front.clone());
        drop(state);
        if let Some(front) = front {
            front.event(event);
        }
    }

    /// Tells the focused front end, once.
    fn focused(&self) {
        let mut state = lock(&self.state);
        let focus = state.focus;
        let there = state.slots.get(focus).is_some_and(|slot| slot.front.is_some());
        if !there || state.told.replace(focus) == Some(focus) {
            return;
        }
        drop(state);
        self.tell_focused(Event::Focused);
    }

    fn next_focus(&self) {
        let mut state = lock(&self.state);
        if state.slots.is_empty() {
            return;
        }
        state.chosen = true;
        drop(state);
        self.tell_focused(Event::Unfocused);
        let mut state = lock(&self.state);
        state.focus = (state.focus + 1) % state.slots.len();
        state.told = None;
        drop(state);
        self.focused();
    }

    fn fronts(&self) -> Vec<Arc<dyn FrontEnd>> {
        lock(&self.state).slots.iter().filter_map(|slot| slot.front.clone()).collect()
    }
}

impl FrontEnd for Mux {
    fn input(&self, bytes: &[u8]) -> usize {
        for (i, &byte) in bytes.iter().enumerate() {
            let mut state = lock(&self.state);
            match self.meaning(&mut state, byte) {
                Meaning::Nothing => {}
                Meaning::Command(command) => {
                    drop(state);
                    self.command(command);
                }
                Meaning::Data(byte) => {
                    let focus = state.focus;
                    let Some(slot) = state.slots.get_mut(focus) else { continue };
                    if slot.buffer.len() == INPUT_MAX {
                        drop(state);
                        self.pump();
                        return i;
                    }
                    slot.buffer.push_back(byte);
                }
            }
        }
        self.pump();
        bytes.len()
    }

    fn event(&self, event: Event) {
        // A break is for whom the user talks to.
        if event == Event::Break {
            return self.tell_focused(event);
        }
        for front in self.fronts() {
            front.event(event);
        }
        match event {
            Event::Opened => self.focused(),
            Event::Closed => lock(&self.state).told = None,
            _ => {}
        }
    }
}

fn timestamp(ms: u128) -> String {
    let s = ms / 1000;
    format!("[{:02}:{:02}:{:02}.{:03}] ", s / 3600, s / 60 % 60, s % 60, ms % 1000)
}

fn help(escape: u8) -> String {
    let (mut text, name) = match escape {
        1..26 => ("\n\r".to_string(), format!("C-{}", char::from(escape - 1 + b'a'))),
        _ => (format!("\n\rEscape-Char set to Ascii: 0x{escape:02x}\n\r\n\r"), "".to_string()),
    };
    for (key, what) in COMMANDS {
        text += &format!("{name} {key}    {what}\n\r");
    }
    text + &format!("{name} {name}  sends {name}\n\r")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::backend::stdio::Stdio;
    use crate::testing::{Recorder, expect};
    use crate::{Consoles, Port};

    struct Muxed {
        consoles: Consoles,
        far: UnixStream,
        serial: (Port, Arc<Recorder>),
        monitor: (Port, Arc<Recorder>),
    }

    /// A serial line and a monitor on one stream; the serial line has the focus.
    fn muxed() -> Muxed {
        let (near, far) = UnixStream::pair().unwrap();
        let consoles = Consoles::new().unwrap();
        consoles.install_mux("m", Box::new(Stdio::over(&near, &near).unwrap()));
        let connect = |port: Port| {
            let recorder = Arc::new(Recorder::default());
            port.attach(recorder.clone());
            (port, recorder)
        };
        let monitor = connect(consoles.connect_monitor("m").unwrap());
        let serial = connect(consoles.connect("m").unwrap());
        Muxed { consoles, far, serial, monitor }
    }

    #[test]
    fn the_escape_character_switches_and_twice_it_is_itself() {
        let mut m = muxed();
        m.far.write_all(b"a\x01\x01b\x01qc").unwrap();
        m.serial.1.wait_bytes(b"a\x01bc");
        m.far.write_all(b"\x01cx").unwrap();
        m.monitor.1.wait_event(Event::Focused);
        m.monitor.1.wait_bytes(b"x");
        m.far.write_all(b"\x01b\x01cy").unwrap();
        m.monitor.1.wait_event(Event::Break);
        m.serial.1.wait_bytes(b"y");
        m.consoles.set_escape(20);
        m.far.write_all(b"\x01\x14cz").unwrap();
        m.serial.1.wait_bytes(b"\x01");
        m.monitor.1.wait_bytes(b"z");
    }

    #[test]
    fn help_is_the_known_text() {
        let mut m = muxed();
        m.far.write_all(b"\x01h").unwrap();
        let help = "\n\rC-a h    print this help\n\rC-a x    exit emulator\n\r\
                    C-a s    save disk data back to file (if -snapshot)\n\rC-a t    toggle console timestamps\n\r\
                    C-a b    send break (magic sysrq)\n\rC-a c    switch between console and monitor\n\r\
                    C-a C-a  sends C-a\n\r";
        expect(&mut m.far, help.as_bytes());
    }

    struct Quit(Sender<()>);

    impl Actions for Quit {
        fn quit(&self) {
            self.0.send(()).unwrap();
        }

        fn commit(&self) -> Result<()> {
            Err(spec::Error::new("nothing to write back"))
        }
    }

    #[test]
    fn x_leaves_although_the_guest_does_not_read() {
        let mut m = muxed();
        let (sender, receiver) = channel();
        m.consoles.set_actions(Arc::new(Quit(sender)));
        m.serial.1.limit(Some(1));
        m.far.write_all(b"abc").unwrap();
        m.serial.1.wait_bytes(b"a");
        m.serial.1.limit(Some(0));
        m.far.write_all(b"\x01x").unwrap();
        receiver.recv().unwrap();
        expect(&mut m.far, b"QEMU: Terminated\n\r");
        m.far.write_all(b"\x01s").unwrap();
        expect(&mut m.far, b"\n\rnothing to write back\n\r");
        m.serial.1.limit(None);
        m.serial.0.more_room();
        m.serial.1.wait_bytes(b"bc");
    }

    #[test]
    fn more_input_than_the_buffer_waits_and_nothing_is_lost() {
        let m = muxed();
        m.serial.1.limit(Some(0));
        let text: Vec<u8> = (0..3 * INPUT_MAX).map(|i| b'a' + (i % 26) as u8).collect();
        let writer = {
            let (mut far, text) = (m.far.try_clone().unwrap(), text.clone());
            std::thread::spawn(move || far.write_all(&text).unwrap())
        };
        m.serial.1.limit(None);
        m.serial.0.more_room();
        m.serial.1.wait_bytes(&text);
        writer.join().unwrap();
    }

    #[test]
    fn timestamps_begin_with_the_next_line() {
        let mut m = muxed();
        m.far.write_all(b"\x01t!").unwrap();
        m.serial.1.wait_bytes(b"!");
        assert_eq!(m.serial.0.write(b"a\nb\n"), 4);
        expect(&mut m.far, b"a\n[00:00:");
        assert_eq!(timestamp(3_723_004), "[01:02:03.004] ");
    }
}
