//! A monitor on a character device, with a thread of its own.
//!
//! Input is handed to the thread; answers and events are queued without waiting, by whoever has them, so that an
//! answer never overtakes the events of its command and the last event is queued before the program ends.
//!
//! Invariants: at most [`INPUT_MAX`] bytes wait for the thread, at most [`OUTPUT_MAX`] for the user (then what more
//! there is to say is dropped); nothing is called with a lock held but [`Port::write`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;

use console::{Event, FrontEnd, Port};
use spec::error::{Context, Error, Result};

use super::Machine;
use super::human::Human;
use super::json::{self, Control};
use crate::lifecycle;
use crate::settings::Settings;

const INPUT_MAX: usize = 16 * 1024;
const OUTPUT_MAX: usize = 16 * 1024 * 1024;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `mode=readline`.
    Human,
    /// `mode=control`: JSON; on several lines if `pretty`.
    Control { pretty: bool },
}

impl Mode {
    /// `-mon [chardev=]name[,mode=readline|control][,pretty=on|off]`: the character device and the mode.
    pub fn from_settings(mut settings: Settings) -> Result<(String, Mode)> {
        let pretty = settings.take_bool("pretty")?.unwrap_or(false);
        let mode = match settings.take("mode").as_deref() {
            None | Some("readline") if pretty => {
                return Err(Error::new("'pretty' is not compatible with HMP monitors"));
            }
            None | Some("readline") => Mode::Human,
            Some("control") => Mode::Control { pretty },
            Some(other) => return Err(Error::new(format!("unknown monitor mode \"{other}\""))),
        };
        let chardev = settings.take("chardev").ok_or_else(|| Error::new("Parameter 'chardev' is missing"))?;
        // `default=on` says nothing any more.
        settings.take("default");
        settings.finish()?;
        Ok((chardev, mode))
    }
}

enum Talk {
    Human(Box<Human>),
    Control(Box<Control>),
}

/// What the character device brought.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    Input(Vec<u8>),
    /// Somebody is there.
    Greet,
    /// He has left. What he said before still counts.
    Left,
}

#[derive(Default)]
struct Mail {
    items: VecDeque<Item>,
    /// Bytes of input among them.
    bytes: usize,
    stop: bool,
}

struct Shared {
    port: Port,
    mail: Mutex<Mail>,
    arrived: Condvar,
    unsent: Mutex<VecDeque<u8>>,
    /// A program has negotiated and hears events.
    hears: AtomicBool,
    pretty: bool,
    control: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Queues text for the user. Does not wait.
    fn say(&self, text: &str) {
        let mut unsent = lock(&self.unsent);
        if unsent.len() + text.len() > OUTPUT_MAX {
            return;
        }
        let done = if unsent.is_empty() { self.port.write(text.as_bytes()) } else { 0 };
        unsent.extend(&text.as_bytes()[done..]);
    }

    /// Sends what there was no room for.
    fn send_more(&self) {
        let mut unsent = lock(&self.unsent);
        while !unsent.is_empty() {
            let n = self.port.write(unsent.as_slices().0);
            if n == 0 {
                return;
            }
            unsent.drain(..n);
        }
    }

    fn deliver(&self, item: Item) {
        let mut mail = lock(&self.mail);
        if mail.items.back() != Some(&item) {
            mail.items.push_back(item);
        }
        drop(mail);
        self.arrived.notify_all();
    }

    fn wait(&self) -> Mail {
        let nothing = |mail: &mut Mail| mail.items.is_empty() && !mail.stop;
        let mut mail = self.arrived.wait_while(lock(&self.mail), nothing).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut mail)
    }
}

impl FrontEnd for Shared {
    fn input(&self, bytes: &[u8]) -> usize {
        let mut mail = lock(&self.mail);
        let n = bytes.len().min(INPUT_MAX - mail.bytes);
        mail.bytes += n;
        match mail.items.back_mut() {
            Some(Item::Input(last)) => last.extend(&bytes[..n]),
            _ => mail.items.push_back(Item::Input(bytes[..n].to_vec())),
        }
        drop(mail);
        self.arrived.notify_all();
        n
    }

    fn event(&self, event: Event) {
        match event {
            Event::Room => self.send_more(),
            Event::Closed => {
                self.hears.store(false, Ordering::Release);
                lock(&self.unsent).clear();
                self.deliver(Item::Left);
            }
            // On a shared line a human is greeted when he switches to us.
            Event::Opened if self.control || !self.port.is_shared() => self.deliver(Item::Greet),
            Event::Focused if !self.control => self.deliver(Item::Greet),
            Event::Opened | Event::Focused | Event::Unfocused | Event::Break => {}
        }
    }
}

/// A running monitor; dropping it ends its thread.
pub struct Monitor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts a monitor on a port of its own.
    pub fn start(machine: Arc<dyn Machine>, port: Port, mode: Mode) -> Result<Monitor> {
        let pretty = mode == Mode::Control { pretty: true };
        let shared = Arc::new(Shared {
            port: port.clone(),
            mail: Mutex::default(),
            arrived: Condvar::new(),
            unsent: Mutex::default(),
            hears: AtomicBool::new(false),
            pretty,
            control: mode != Mode::Human,
        });
        let talk = match mode {
            Mode::Human => Talk::Human(Box::new(Human::new(machine.clone()))),
            Mode::Control { pretty } => Talk::Control(Box::new(Control::new(machine.clone(), pretty))),
        };
        if shared.control {
            let listener = Arc::downgrade(&shared);
            machine.life().on_event(move |event| hear(&listener, event));
        }
        let own = shared.clone();
        let thread = std::thread::Builder::new().name("monitor".into()).spawn(move || run(&own, talk));
        let thread = thread.context(|| "could not start a monitor's thread".into())?;
        port.attach(shared.clone());
        Ok(Monitor { shared, thread: Some(thread) })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.shared.port.detach();
        lock(&self.shared.mail).stop = true;
        self.shared.arrived.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A thread that died has said so.
            let _ = thread.join();
        }
    }
}

fn hear(listener: &Weak<Shared>, event: lifecycle::Event) {
    if let Some(shared) = listener.upgrade()
        && shared.hears.load(Ordering::Acquire)
    {
        shared.say(&json::event(event, shared.pretty));
    }
}

fn run(shared: &Shared, mut talk: Talk) {
    // A shared line is opened more than once, but a program's greeting is for its user's first time.
    let mut greeted = false;
    loop {
        let mail = shared.wait();
        if mail.stop {
            return;
        }
        for item in mail.items {
            match (item, &mut talk) {
                (Item::Greet, Talk::Control(_)) if greeted => {}
                (Item::Greet, talk) => {
                    greeted = true;
                    greet(shared, talk);
                }
                (Item::Left, talk) => {
                    greeted = false;
                    if let Talk::Human(human) = talk {
                        human.leave();
                    }
                }
                (Item::Input(bytes), talk) => hear_input(shared, talk, &bytes),
            }
        }
        if mail.bytes > 0 {
            shared.port.more_room();
        }
    }
}

fn greet(shared: &Shared, talk: &mut Talk) {
    match talk {
        Talk::Human(human) => {
            let mut out = String::new();
            human.greet(&mut out);
            shared.say(&out);
        }
        Talk::Control(control) => shared.say(&control.greet()),
    }
}

fn hear_input(shared: &Shared, talk: &mut Talk, bytes: &[u8]) {
    match talk {
        Talk::Human(human) => {
            let mut out = String::new();
            human.keys(bytes, &mut out);
            shared.say(&out);
        }
        Talk::Control(control) => control.input(bytes, &mut |reply, negotiated| {
            shared.say(reply);
            shared.hears.store(negotiated, Ordering::Release);
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::super::testing::Fake;
    use super::*;
    use crate::lifecycle::Cause;

    /// A monitor on a Unix socket.
    fn monitor(test: &str, mode: Mode) -> (Arc<Fake>, Monitor, PathBuf) {
        let fake = Fake::new();
        let path = std::env::temp_dir().join(format!("monitor-{}-{test}", std::process::id()));
        let text = format!("socket,id=m,path={},server=on,wait=off", path.display());
        let consoles = fake.consoles();
        consoles.add(&console::options::parse(&text).unwrap()).unwrap();
        let port = consoles.connect_monitor("m").unwrap();
        let monitor = Monitor::start(fake.clone(), port, mode).unwrap();
        (fake, monitor, path)
    }

    fn expect(from: &mut impl Read, expected: &str) {
        let mut got = vec![0; expected.len()];
        from.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8_lossy(&got), expected);
    }

    const BANNER: &str = "QEMU 10.0.2 monitor - type 'help' for more information\r\n(qemu) ";

    #[test]
    fn humans_come_and_go() {
        let (_fake, _monitor, path) = monitor("human", Mode::Human);
        for _ in 0..2 {
            let mut user = UnixStream::connect(&path).unwrap();
            expect(&mut user, BANNER);
            user.write_all(b"info kvm\r").unwrap();
            expect(&mut user, "info kvm\r\nkvm support: not compiled\r\n(qemu) ");
        }
    }

    #[test]
    fn what_somebody_said_before_he_left_is_done() {
        let (fake, _monitor, path) = monitor("left", Mode::Human);
        UnixStream::connect(&path).unwrap().write_all(b"quit\n").unwrap();
        assert_eq!(fake.life().wait(), Cause::HostQuit);
    }

    fn line(from: &mut BufReader<UnixStream>) -> Value {
        let mut text = String::new();
        from.read_line(&mut text).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text:?}"))
    }

    #[test]
    fn a_program_hears_events_before_answers_and_of_the_end() {
        let (fake, _monitor, path) = monitor("program", Mode::Control { pretty: false });
        let user = UnixStream::connect(&path).unwrap();
        let mut replies = BufReader::new(user.try_clone().unwrap());
        let ask = |text: &str| (&user).write_all(text.as_bytes()).unwrap();
        assert!(line(&mut replies).get("QMP").is_some());
        fake.life().cont().unwrap();
        ask("{'execute':'qmp_capabilities'}");
        assert_eq!(line(&mut replies), json!({"return": {}}), "events before are not heard");
        ask("{'execute':'stop'}");
        assert_eq!(line(&mut replies)["event"], "STOP");
        assert_eq!(line(&mut replies), json!({"return": {}}));
        ask("{'execute':'quit','id':7}");
        assert_eq!(fake.life().wait(), Cause::HostQuit);
        assert_eq!(line(&mut replies), json!({"return": {}, "id": 7}));
        let end = line(&mut replies);
        assert_eq!((&end["event"], &end["data"]["reason"]), (&json!("SHUTDOWN"), &json!("host-qmp-quit")));
    }

    #[test]
    fn long_answers_wait_for_a_slow_reader_and_arrive_whole() {
        let (_fake, _monitor, path) = monitor("slow", Mode::Human);
        let mut user = UnixStream::connect(&path).unwrap();
        expect(&mut user, BANNER);
        user.write_all(b"x/60000xw 0x40000000\rprint 42\r").unwrap();
        let mut text = String::new();
        let mut reader = BufReader::new(user);
        while !text.ends_with("0x2a\r\n") {
            assert_ne!(reader.read_line(&mut text).unwrap(), 0);
        }
        assert!(text.contains("\r\n40000100: 0x00000000 "), "the first rows are there");
        assert_eq!(text.lines().filter(|line| line.starts_with("4000")).count(), 4096);
        assert!(text.contains("\r\n40010000: Cannot access memory\r\n"));
    }

    #[test]
    fn a_human_is_greeted_when_he_switches_to_the_monitor() {
        let fake = Fake::new();
        let path = std::env::temp_dir().join(format!("monitor-{}-mux", std::process::id()));
        let text = format!("socket,id=m,path={},server=on,wait=off,mux=on", path.display());
        fake.consoles().add(&console::options::parse(&text).unwrap()).unwrap();
        let serial = fake.consoles().connect("m").unwrap();
        serial.attach(Arc::new(Deaf));
        let port = fake.consoles().connect_monitor("m").unwrap();
        let _monitor = Monitor::start(fake.clone(), port, Mode::Human).unwrap();
        let mut user = UnixStream::connect(&path).unwrap();
        user.write_all(b"\x01c").unwrap();
        expect(&mut user, BANNER);
        user.write_all(b"\x01c\x01cp 1\r").unwrap();
        expect(&mut user, "(qemu) p 1\r\n0x1\r\n(qemu) ");
    }

    struct Deaf;

    impl FrontEnd for Deaf {
        fn input(&self, bytes: &[u8]) -> usize {
            bytes.len()
        }
    }

    #[test]
    fn modes_come_from_options() {
        let mode = |text: &str| Mode::from_settings(Settings::parse(text, Some("chardev")).unwrap());
        assert_eq!(mode("m").unwrap(), ("m".into(), Mode::Human));
        assert_eq!(mode("chardev=m,mode=readline").unwrap().1, Mode::Human);
        assert_eq!(mode("m,mode=control,pretty=on").unwrap().1, Mode::Control { pretty: true });
        assert_eq!(mode("m,mode=foo").unwrap_err().to_string(), "unknown monitor mode \"foo\"");
        assert_eq!(mode("m,foo=1").unwrap_err().to_string(), "Invalid parameter 'foo'");
        assert!(mode("m,pretty=on").is_err());
    }
}
