//! Console device: one or many ports, each with a character device behind it.
//!
//! Reference: VIRTIO 1.2, 5.3.
//! Not modelled: console size, hot-plug of ports, throttling by the guest's `PORT_OPEN` of what it sends.
//!
//! Queues: 0 and 1 carry port 0, 2 and 3 control messages, 2n+2 and 2n+3 port n.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use console::port::{Event, FrontEnd, Port};
use spec::{Error, Result};

use super::device::{Core, Handle, KICK_MAX, Model};
use super::id;
use super::ring::{Chain, Cursor, Fault};
use crate::event::{GUEST_ERROR, Limit};

const QUEUE_SIZE: u16 = 128;
const CONTROL_SIZE: u16 = 32;
const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;
/// Ports of a device at most.
pub const PORTS_MAX: u32 = 511;
/// Bytes from the host that wait for the guest, of each port.
const INBOX_MAX: usize = 4096;
/// Control messages that wait for the guest; later ones are lost.
const MESSAGES_MAX: usize = 4 * PORTS_MAX as usize;
/// Bytes of a buffer that are copied at once.
const PIECE: usize = 4096;

const F_MULTIPORT: u64 = 1 << 1;
const F_EMERG_WRITE: u64 = 1 << 2;

/// Events of control messages.
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a port is.
#[derive(Clone, Debug, Default)]
pub struct PortOptions {
    /// `virtconsole`, else `virtserialport`.
    pub console: bool,
    pub name: String,
    /// The number; the first free one if it is left out.
    pub number: Option<u32>,
}

/// What the host's side of a port and the device share.
#[derive(Default)]
struct Mailbox {
    /// From the host, for the guest.
    inbox: VecDeque<u8>,
    /// The guest takes input.
    accepting: bool,
    /// Input was refused, so the port is to be told when there is room.
    refused: bool,
    /// The far end came or went.
    host_open: Option<bool>,
}

/// The host's side of one port.
struct Front {
    mailbox: Mutex<Mailbox>,
    handle: Handle,
}

impl FrontEnd for Front {
    fn input(&self, bytes: &[u8]) -> usize {
        let taken = {
            let mut mailbox = lock(&self.mailbox);
            let room = if mailbox.accepting { INBOX_MAX - mailbox.inbox.len() } else { 0 };
            let taken = bytes.len().min(room);
            mailbox.inbox.extend(&bytes[..taken]);
            mailbox.refused |= taken < bytes.len();
            taken
        };
        if taken > 0 {
            self.handle.wake();
        }
        taken
    }

    fn event(&self, event: Event) {
        match event {
            Event::Opened => lock(&self.mailbox).host_open = Some(true),
            Event::Closed => lock(&self.mailbox).host_open = Some(false),
            Event::Room => {}
            _ => return,
        }
        self.handle.wake();
    }
}

/// A port that is plugged in.
struct Plug {
    console: bool,
    name: String,
    port: Option<Port>,
    front: Arc<Front>,
    host_open: bool,
    /// The guest has accepted the port.
    ready: bool,
    guest_open: bool,
    /// A chain of the guest's of which the port took only this many bytes.
    stuck: Option<(Chain, u64)>,
}

#[derive(Default)]
struct Ports {
    plugs: BTreeMap<u32, Plug>,
    handle: Option<Handle>,
}

/// Where ports are plugged in: the bus of one device.
#[derive(Clone)]
pub struct Bus {
    ports: Arc<Mutex<Ports>>,
    max: u32,
}

impl Bus {
    /// Plugs a port in, with the character device behind it. Gives its number.
    pub fn plug(&self, options: PortOptions, port: Option<Port>) -> Result<u32> {
        let mut ports = lock(&self.ports);
        let handle = ports.handle.clone().expect("the device exists before its ports");
        let number = self.number(&ports, &options)?;
        if !options.name.is_empty() && ports.plugs.values().any(|p| p.name == options.name) {
            return Err(Error::new(format!("virtio-serial-bus: A port already exists by name {}", options.name)));
        }
        let front = Arc::new(Front { mailbox: Mutex::default(), handle });
        let plug = Plug {
            console: options.console,
            name: options.name,
            host_open: options.console,
            port: port.clone(),
            front: front.clone(),
            ready: false,
            guest_open: false,
            stuck: None,
        };
        ports.plugs.insert(number, plug);
        drop(ports);
        if let Some(port) = port {
            port.attach(front);
        }
        Ok(number)
    }

    fn number(&self, ports: &Ports, options: &PortOptions) -> Result<u32> {
        let number = match options.number {
            Some(0) if !options.console => {
                return Err(Error::new(
                    "Port number 0 on virtio-serial devices reserved for virtconsole devices for backward compatibility.",
                ));
            }
            Some(number) if ports.plugs.contains_key(&number) => {
                return Err(Error::new(format!("virtio-serial-bus: A port already exists at id {number}")));
            }
            Some(number) => number,
            None if options.console && !ports.plugs.contains_key(&0) => 0,
            None => (1..).find(|n| !ports.plugs.contains_key(n)).expect("numbers do not end"),
        };
        if number >= self.max {
            let last = self.max - 1;
            return Err(Error::new(format!("virtio-serial-bus: Out-of-range port id specified, max. allowed: {last}")));
        }
        Ok(number)
    }
}

pub struct Serial {
    bus: Bus,
    emergency_write: bool,
    /// Messages for the guest.
    messages: VecDeque<Vec<u8>>,
    limit: Limit,
}

impl Serial {
    /// A device for up to `max_ports` ports.
    pub fn new(max_ports: u32, emergency_write: bool) -> Result<Serial> {
        if max_ports == 0 {
            return Err(Error::new("Maximum number of serial ports not specified"));
        }
        if max_ports > PORTS_MAX {
            return Err(Error::new(format!("maximum ports supported: {PORTS_MAX}")));
        }
        let bus = Bus { ports: Arc::default(), max: max_ports };
        Ok(Serial { bus, emergency_write, messages: VecDeque::new(), limit: Limit::default() })
    }

    /// Where ports are plugged in.
    pub fn bus(&self) -> Bus {
        self.bus.clone()
    }

    fn report(&self, what: std::fmt::Arguments) {
        if self.limit.admit() {
            log::warn!(target: GUEST_ERROR, "virtio-serial: {what}");
        }
    }

    fn send(&mut self, port: u32, event: u16, value: u16, tail: &[u8]) {
        if self.messages.len() < MESSAGES_MAX {
            let mut message = Vec::with_capacity(8 + tail.len());
            message.extend(port.to_le_bytes());
            message.extend(event.to_le_bytes());
            message.extend(value.to_le_bytes());
            message.extend(tail);
            self.messages.push_back(message);
        }
    }

    /// Moves waiting messages into the guest's buffers.
    fn flush_messages(&mut self, core: &mut Core) -> std::result::Result<(), Fault> {
        while let Some(message) = self.messages.front() {
            let Some(chain) = core.pop(CONTROL_RX)? else { break };
            let mut to = Cursor::new(chain.writable());
            let len = message.len().min(to.left() as usize);
            to.write(&core.memory, &message[..len])?;
            core.put(CONTROL_RX, chain.head, len as u32)?;
            self.messages.pop_front();
        }
        core.finish(CONTROL_RX)
    }

    /// One message from the guest.
    fn control(&mut self, number: u32, event: u16, value: u16) {
        if event == event::DEVICE_READY {
            let numbers: Vec<u32> = lock(&self.bus.ports).plugs.keys().copied().collect();
            if value != 0 {
                numbers.into_iter().for_each(|n| self.send(n, event::PORT_ADD, 1, &[]));
            }
            return;
        }
        let ports = self.bus.ports.clone();
        let mut ports = lock(&ports);
        let Some(plug) = ports.plugs.get_mut(&number) else {
            return self.report(format_args!("event {event} for port {number}, which does not exist"));
        };
        match event {
            event::PORT_READY if value != 0 => {
                plug.ready = true;
                if plug.console {
                    self.send(number, event::CONSOLE_PORT, 1, &[]);
                }
                if !plug.name.is_empty() {
                    self.send(number, event::PORT_NAME, 1, plug.name.as_bytes());
                }
                if plug.host_open {
                    self.send(number, event::PORT_OPEN, 1, &[]);
                }
            }
            event::PORT_READY => self.report(format_args!("the guest could not add port {number}")),
            event::PORT_OPEN => plug.set_guest_open(value != 0),
            _ => self.report(format_args!("event {event} is unknown")),
        }
    }

    fn receive_controls(&mut self, core: &mut Core) -> std::result::Result<(), Fault> {
        for n in 0.. {
            if n == KICK_MAX {
                core.again(CONTROL_TX);
                break;
            }
            let Some(chain) = core.pop(CONTROL_TX)? else { break };
            let mut from = Cursor::new(chain.readable());
            if from.left() >= 8 {
                let mut message = [0; 8];
                from.read(&core.memory, &mut message)?;
                let [a, b, c, d, e, f, g, h] = message;
                self.control(u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
            } else {
                self.report(format_args!("a control message is too short"));
            }
            core.put(CONTROL_TX, chain.head, 0)?;
        }
        core.finish(CONTROL_TX)?;
        self.flush_messages(core)
    }

    /// The far ends of ports came and went.
    fn follow_hosts(&mut self) {
        let ports = self.bus.ports.clone();
        for (&number, plug) in &mut lock(&ports).plugs {
            let change = lock(&plug.front.mailbox).host_open.take();
            // A console is always there for the guest.
            if let Some(open) = change.filter(|&open| !plug.console && open != plug.host_open) {
                plug.host_open = open;
                if plug.ready {
                    self.send(number, event::PORT_OPEN, open.into(), &[]);
                }
            }
        }
    }
}

/// The queues of a port: to the guest, from it.
fn queues_of(number: u32) -> (usize, usize) {
    let first = if number == 0 { 0 } else { 2 * number as usize + 2 };
    (first, first + 1)
}

/// The port whose queue this is.
fn port_of(queue: usize) -> u32 {
    if queue < 2 { 0 } else { (queue as u32 - 2) / 2 }
}

impl Plug {
    fn set_guest_open(&mut self, open: bool) {
        self.guest_open = open;
        let told = {
            let mut mailbox = lock(&self.front.mailbox);
            mailbox.accepting = open;
            if !open {
                mailbox.inbox.clear();
            }
            open && std::mem::take(&mut mailbox.refused)
        };
        if let (true, Some(port)) = (told, &self.port) {
            port.more_room();
        }
    }

    /// Moves what the host sent into the guest's buffers.
    fn to_guest(&mut self, core: &mut Core, queue: usize) -> std::result::Result<(), Fault> {
        if !self.guest_open || !core.queues[queue].ready {
            return Ok(());
        }
        let mut mailbox = lock(&self.front.mailbox);
        while !mailbox.inbox.is_empty() {
            let Some(chain) = core.pop(queue)? else { break };
            let mut to = Cursor::new(chain.writable());
            let len = to.left().min(mailbox.inbox.len() as u64) as usize;
            let bytes: Vec<u8> = mailbox.inbox.drain(..len).collect();
            to.write(&core.memory, &bytes)?;
            core.put(queue, chain.head, len as u32)?;
        }
        let told = mailbox.inbox.is_empty() && std::mem::take(&mut mailbox.refused);
        drop(mailbox);
        if let (true, Some(port)) = (told, &self.port) {
            port.more_room();
        }
        core.finish(queue)
    }

    /// Moves the guest's buffers to the host.
    fn to_host(&mut self, core: &mut Core, queue: usize) -> std::result::Result<(), Fault> {
        for n in 0.. {
            if n == KICK_MAX {
                core.again(queue);
                break;
            }
            let (chain, done) = match self.stuck.take() {
                Some(stuck) => stuck,
                None => match core.pop(queue)? {
                    Some(chain) => (chain, 0),
                    None => break,
                },
            };
            if let Some(done) = self.write_chain(core, &chain, done)? {
                self.stuck = Some((chain, done));
                break;
            }
            core.put(queue, chain.head, 0)?;
        }
        core.finish(queue)
    }

    /// Writes a chain from byte `done` on; gives how far it got if the port took no more.
    fn write_chain(&self, core: &Core, chain: &Chain, mut done: u64) -> std::result::Result<Option<u64>, Fault> {
        let Some(port) = &self.port else { return Ok(None) };
        let mut from = Cursor::new(chain.readable());
        from.skip(done);
        while from.left() > 0 {
            let mut bytes = vec![0; from.left().min(PIECE as u64) as usize];
            from.read(&core.memory, &mut bytes)?;
            let taken = port.write(&bytes);
            done += taken as u64;
            if taken < bytes.len() {
                return Ok(Some(done));
            }
        }
        Ok(None)
    }
}

impl Model for Serial {
    fn id(&self) -> u16 {
        id::CONSOLE
    }
    fn name(&self) -> &'static str {
        "virtio-serial"
    }

    fn features(&self) -> u64 {
        let multiport = if self.bus.max > 1 { F_MULTIPORT } else { 0 };
        multiport | if self.emergency_write { F_EMERG_WRITE } else { 0 }
    }

    fn queues(&self) -> Vec<u16> {
        let ports = self.bus.max as usize;
        if ports == 1 {
            return vec![QUEUE_SIZE; 2];
        }
        let mut sizes = vec![QUEUE_SIZE, QUEUE_SIZE, CONTROL_SIZE, CONTROL_SIZE];
        sizes.resize(2 * (ports + 1), QUEUE_SIZE);
        sizes
    }

    /// Columns and rows (unknown), number of ports, emergency write.
    fn config(&self, _core: &Core) -> Vec<u8> {
        let mut config = vec![0; 12];
        config[4..8].copy_from_slice(&self.bus.max.to_le_bytes());
        config
    }

    fn write_config(&mut self, _core: &mut Core, offset: usize, data: &[u8]) {
        if offset != 8 || !self.emergency_write {
            return;
        }
        let ports = lock(&self.bus.ports);
        let console = ports.plugs.values().find(|p| p.console).and_then(|p| p.port.as_ref());
        // There is no way to wait; what does not fit is lost.
        if let Some(port) = console {
            let _taken = port.write(&data[..1]);
        }
    }

    fn attach(&mut self, handle: Handle) {
        lock(&self.bus.ports).handle = Some(handle);
    }

    fn activate(&mut self, core: &mut Core) -> std::result::Result<(), Fault> {
        // Without control messages nobody says that the guest opened the only port.
        if !core.has(F_MULTIPORT)
            && let Some(plug) = lock(&self.bus.ports).plugs.get_mut(&0)
        {
            plug.set_guest_open(true);
        }
        Ok(())
    }

    fn kick(&mut self, core: &mut Core, queue: usize) -> std::result::Result<(), Fault> {
        let multiport = self.bus.max > 1;
        match queue {
            CONTROL_RX if multiport => return self.flush_messages(core),
            CONTROL_TX if multiport => return self.receive_controls(core),
            _ => {}
        }
        let ports = self.bus.ports.clone();
        let mut ports = lock(&ports);
        match ports.plugs.get_mut(&port_of(queue)) {
            Some(plug) if queue.is_multiple_of(2) => plug.to_guest(core, queue),
            Some(plug) => plug.to_host(core, queue),
            None => {
                self.report(format_args!("queue {queue} is of a port that does not exist"));
                Ok(())
            }
        }
    }

    fn wake(&mut self, core: &mut Core) -> std::result::Result<(), Fault> {
        self.follow_hosts();
        if !core.is_running() {
            return Ok(());
        }
        if self.bus.max > 1 {
            self.flush_messages(core)?;
        }
        let ports = self.bus.ports.clone();
        for (&number, plug) in &mut lock(&ports).plugs {
            let (to_guest, to_host) = queues_of(number);
            plug.to_guest(core, to_guest)?;
            if plug.stuck.is_some() {
                plug.to_host(core, to_host)?;
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.messages.clear();
        for plug in lock(&self.bus.ports).plugs.values_mut() {
            plug.set_guest_open(false);
            plug.ready = false;
            plug.stuck = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{BUFFERS, Guest, random_rings, rounds};
    use console::Consoles;

    struct Rig {
        guest: Guest,
        bus: Bus,
        consoles: Consoles,
    }

    fn rig(max_ports: u32) -> Rig {
        let serial = Serial::new(max_ports, true).unwrap();
        let bus = serial.bus();
        let guest = Guest::new(Box::new(serial));
        let consoles = Consoles::new().unwrap();
        for name in ["a", "b"] {
            consoles.add(&console::options::parse(&format!("ringbuf,id={name},size=64K")).unwrap()).unwrap();
        }
        Rig { guest, bus, consoles }
    }

    fn start(rig: &mut Rig, features: u64) {
        rig.guest.features = features;
        rig.guest.start();
    }

    fn port(console: bool, name: &str, number: Option<u32>) -> PortOptions {
        PortOptions { console, name: name.into(), number }
    }

    impl Rig {
        fn control(&mut self, port: u32, event: u16, value: u16) {
            let mut message = port.to_le_bytes().to_vec();
            message.extend(event.to_le_bytes());
            message.extend(value.to_le_bytes());
            self.guest.request(CONTROL_TX, &message, 0);
        }

        /// The control messages that have come.
        fn messages(&mut self) -> Vec<Vec<u8>> {
            for n in 0..16 {
                self.guest.rings[CONTROL_RX].add(&[(0x1000 + 64 * n, 64, true)]);
            }
            self.guest.virtio.notify(CONTROL_RX);
            let used = self.guest.rings[CONTROL_RX].take_used();
            used.iter().enumerate().map(|(n, &(_, len))| self.guest.read(0x1000 + 64 * n as u64, len as usize)).collect()
        }

        fn input(&self, number: u32, bytes: &[u8]) -> usize {
            let front = lock(&self.bus.ports).plugs[&number].front.clone();
            front.input(bytes)
        }
    }

    #[test]
    fn numbers_and_names_are_taken_once() {
        let rig = rig(3);
        let plug = |o| rig.bus.plug(o, None);
        assert_eq!(plug(port(false, "x", None)).unwrap(), 1);
        assert_eq!(plug(port(true, "", None)).unwrap(), 0);
        let error = |o| rig.bus.plug(o, None).unwrap_err().to_string();
        assert_eq!(error(port(false, "", Some(1))), "virtio-serial-bus: A port already exists at id 1");
        assert_eq!(error(port(false, "x", None)), "virtio-serial-bus: A port already exists by name x");
        assert_eq!(error(port(false, "", Some(3))), "virtio-serial-bus: Out-of-range port id specified, max. allowed: 2");
        assert!(error(port(false, "", Some(0))).starts_with("Port number 0 on virtio-serial devices reserved"));
        assert_eq!(plug(port(true, "", None)).unwrap(), 2);
        assert!(error(port(true, "", None)).contains("max. allowed: 2"));
        assert_eq!(Serial::new(0, true).err().unwrap().to_string(), "Maximum number of serial ports not specified");
        assert!(Serial::new(512, true).is_err());
    }

    #[test]
    fn a_driver_finds_its_ports_and_exchanges_bytes() {
        let mut rig = rig(3);
        rig.bus.plug(port(true, "", None), Some(rig.consoles.connect("a").unwrap())).unwrap();
        rig.bus.plug(port(false, "agent", None), Some(rig.consoles.connect("b").unwrap())).unwrap();
        start(&mut rig, F_MULTIPORT);
        rig.control(0, event::DEVICE_READY, 1);
        rig.control(0, event::PORT_READY, 1);
        rig.control(1, event::PORT_READY, 1);
        rig.control(9, event::PORT_READY, 1);
        let messages = rig.messages();
        assert_eq!(messages[..4], [
            vec![0, 0, 0, 0, 1, 0, 1, 0],
            vec![1, 0, 0, 0, 1, 0, 1, 0],
            vec![0, 0, 0, 0, 4, 0, 1, 0],
            vec![0, 0, 0, 0, 6, 0, 1, 0],
        ]);
        assert_eq!(messages[4], b"\x01\0\0\0\x07\0\x01\0agent");
        // To the host.
        rig.guest.request(1, b"hello", 0);
        rig.guest.request(5, b"agent here", 0);
        assert_eq!(rig.consoles.ringbuf_read("a", 100).unwrap(), b"hello");
        assert_eq!(rig.consoles.ringbuf_read("b", 100).unwrap(), b"agent here");
        // To the guest, once it has opened the port and has buffers.
        assert_eq!(rig.input(0, b"early"), 0);
        rig.control(0, event::PORT_OPEN, 1);
        assert_eq!(rig.input(0, b"keys"), 4);
        rig.guest.rings[0].add(&[(BUFFERS, 3, true)]);
        rig.guest.rings[0].add(&[(BUFFERS + 16, 3, true)]);
        rig.guest.virtio.notify(0);
        let used = rig.guest.rings[0].take_used();
        assert_eq!(used.iter().map(|u| u.1).collect::<Vec<_>>(), [3, 1]);
        assert_eq!((rig.guest.read(BUFFERS, 3), rig.guest.read(BUFFERS + 16, 1)), (b"key".to_vec(), b"s".to_vec()));
        // What waits for the guest is bounded.
        assert_eq!(rig.input(0, &[7; 3 * INBOX_MAX]), INBOX_MAX);
        assert_eq!(rig.input(0, &[7; 3]), 0);
    }

    #[test]
    fn one_port_needs_no_control_messages() {
        let mut rig = rig(1);
        rig.bus.plug(port(true, "", None), Some(rig.consoles.connect("a").unwrap())).unwrap();
        start(&mut rig, 0);
        assert_eq!(rig.input(0, b"in"), 2);
        rig.guest.request(1, b"out", 0);
        assert_eq!(rig.consoles.ringbuf_read("a", 100).unwrap(), b"out");
        assert_eq!(rig.guest.request(0, b"", 8), b"in");
    }

    #[test]
    fn emergency_writes_need_no_queue() {
        let rig = rig(3);
        rig.bus.plug(port(true, "", None), Some(rig.consoles.connect("a").unwrap())).unwrap();
        rig.guest.virtio.write_config(8, 4, u64::from(b'!'));
        rig.guest.virtio.write_config(4, 4, 7);
        assert_eq!(rig.consoles.ringbuf_read("a", 100).unwrap(), b"!");
        assert_eq!(rig.guest.virtio.read_config(4, 4), 3);
    }

    #[test]
    fn random_rings_are_survived() {
        let mut rig = rig(3);
        rig.bus.plug(port(true, "", None), Some(rig.consoles.connect("a").unwrap())).unwrap();
        rig.bus.plug(port(false, "agent", None), None).unwrap();
        start(&mut rig, F_MULTIPORT);
        random_rings(&mut rig.guest, rounds(100_000));
    }
}
