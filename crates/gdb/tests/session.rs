//! Sessions over a socket pair with a target made up for the purpose: what goes over the wire.

use cpu::{Code, Guest, Limits, Register};
use gdb::{Action, Connection, Ended, Event, Plan, Point, Space, Spoken, Stop, Target, Thread};
use ir::{Builder, Helper, Layout, State};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

struct Toy(Layout);

const REGISTERS: &[Register] = &[
    Register { name: "r0", bits: 32, feature: "org.toy.core", kind: "int" },
    Register { name: "pc", bits: 32, feature: "org.toy.core", kind: "code_ptr" },
    Register { name: "q0", bits: 128, feature: "org.toy.vector", kind: "neon_q" },
];

impl Guest for Toy {
    fn name(&self) -> &'static str {
        "x86_64"
    }
    fn layout(&self) -> &Layout {
        &self.0
    }
    fn helpers(&self) -> &[Helper] {
        &[]
    }
    fn reset(&self, _: &mut State) {}
    fn translate(&self, _: u64, _: Limits, _: &dyn Code, _: &mut Builder) {}
    fn pc(&self, key: u64) -> u64 {
        key
    }
    fn key_at(&self, key: u64, _: i32, _: u32) -> u64 {
        key
    }
    fn flags_dead(&self, _: u64, _: &dyn Code) -> Option<(u64, u32)> {
        None
    }
    fn disassemble(&self, _: u64, _: &dyn Code) -> (String, u32) {
        (String::new(), 4)
    }
    fn registers(&self) -> &[Register] {
        REGISTERS
    }
    fn read_register(&self, _: &State, _: usize) -> u128 {
        0
    }
    fn write_register(&self, _: &mut State, _: usize, _: u128) {}
    fn dump(&self, _: &State) -> String {
        String::new()
    }
}

/// A machine of two vCPUs that notes what is asked of it.
struct Machine {
    toy: Toy,
    registers: [u128; 3],
    noted: Vec<String>,
    events: Sender<Event>,
    /// What the next resumes stop for.
    stops: Vec<Stop>,
    /// A process with this number.
    pid: Option<Thread>,
    children: Vec<Thread>,
}

fn thread(n: usize) -> Thread {
    Thread::new(n).unwrap()
}

impl Target for Machine {
    fn guest(&self) -> &dyn Guest {
        &self.toy
    }
    fn threads(&self) -> Vec<Thread> {
        vec![thread(1), thread(2)]
    }
    fn thread_name(&self, t: Thread) -> String {
        format!("CPU#{}", t.get() - 1)
    }
    fn read_register(&self, t: Thread, n: usize) -> Option<u128> {
        (t.get() <= 2).then(|| self.registers[n] + t.get() as u128)
    }
    fn write_register(&mut self, _: Thread, n: usize, value: u128) -> bool {
        self.registers[n] = value;
        true
    }
    fn read_memory(&mut self, _: Thread, space: Space, addr: u64, buf: &mut [u8]) -> usize {
        buf.fill(if space == Space::Physical { 0x99 } else { addr as u8 });
        if addr >= 0xffff_0000 { 0 } else { buf.len().min(2) }
    }
    fn write_memory(&mut self, _: Thread, _: Space, addr: u64, data: &[u8]) -> bool {
        self.noted.push(format!("write {addr:#x} {data:02x?}"));
        true
    }
    fn supports(&self, point: Point) -> bool {
        !matches!(point, Point::Watch { .. })
    }
    fn insert(&mut self, point: Point) -> bool {
        self.noted.push(format!("insert {point:x?}"));
        true
    }
    fn remove(&mut self, point: Point) -> bool {
        self.noted.push(format!("remove {point:x?}"));
        true
    }
    fn resume(&mut self, plan: &Plan) {
        self.noted.push(format!("resume {:?} {:?}", plan.action(thread(1)), plan.action(thread(2))));
        if !self.stops.is_empty() {
            self.events.send(Event::Stopped(self.stops.remove(0))).unwrap();
        }
    }
    fn interrupt(&mut self) {
        self.noted.push("interrupt".into());
        self.events.send(Event::Stopped(Stop::Signal { thread: thread(1), signal: gdb::signal::INT })).unwrap();
    }
    fn detach(&mut self) {}
    fn kill(&mut self) {}
    fn attached(&self) -> bool {
        false
    }
    fn monitor(&mut self, command: &str) -> Option<String> {
        Some(format!("you said {command}\n"))
    }
    fn has_physical(&self) -> bool {
        true
    }
    fn exec_file(&self) -> Option<&[u8]> {
        self.pid.map(|_| &b"/bin/next"[..])
    }
    fn pid(&self) -> Option<Thread> {
        self.pid
    }
    fn hear(&mut self, spoken: &Spoken) {
        self.noted.push(format!("heard {}", spoken.text().replace('\n', " ")));
    }
    fn settle(&mut self, stop: &Stop) {
        if let Stop::Fork { child, .. } = stop {
            self.children.push(*child);
        }
    }
    fn children(&self) -> Vec<Thread> {
        self.children.clone()
    }
    fn release_child(&mut self, child: Thread, kill: bool) {
        self.noted.push(format!("release {child} {kill}"));
        self.children.clear();
    }
    fn hand_over(&mut self, child: Thread, spoken: &Spoken) {
        self.noted.push(format!("hand over {child} {}", spoken.text().replace('\n', " ")));
    }
}

/// What the target is asked when these packets are sent, and how the session ends; every answer is checked.
fn talk(stops: &[Stop], lines: &[(&str, &str)]) -> (Vec<String>, Ended) {
    talk_to(None, stops, lines)
}

fn talk_to(pid: Option<Thread>, stops: &[Stop], lines: &[(&str, &str)]) -> (Vec<String>, Ended) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let connection = Arc::new(Connection::Unix(theirs));
    let (events, receiver) = channel();
    let (reader, to) = (connection.clone(), events.clone());
    let reading = std::thread::spawn(move || gdb::read(&reader, 7, &to));
    let layout = Layout { pinned: Vec::new(), names: Vec::new(), address_bits: 32, page: None };
    let mut machine = Machine { toy: Toy(layout), registers: [0; 3], noted: Vec::new(), events, stops: stops.to_vec(), pid, children: Vec::new() };
    let serving = std::thread::spawn(move || {
        let wire: Arc<dyn gdb::Wire> = connection.clone();
        let ended = gdb::serve(&wire, 7, &mut machine, &receiver).unwrap();
        connection.close();
        (machine.noted, ended)
    });
    let mut stream = &ours;
    for (sent, expected) in lines {
        match sent.strip_prefix('\x03') {
            Some(_) => stream.write_all(b"\x03").unwrap(),
            None => {
                let sum = sent.bytes().fold(0u8, u8::wrapping_add);
                stream.write_all(format!("${sent}#{sum:02x}").as_bytes()).unwrap();
            }
        }
        for expected in expected.split('|').filter(|e| !e.is_empty()) {
            let answer = answer(stream);
            let same = expected.strip_suffix("...").map_or(answer == *expected, |start| answer.starts_with(start));
            assert!(same, "to {sent}: expected {expected}, got {answer}");
        }
    }
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let result = serving.join().unwrap();
    reading.join().unwrap();
    result
}

/// The next packet, decoded.
fn answer(mut stream: &UnixStream) -> String {
    let mut byte = [0];
    let mut next = || {
        stream.read_exact(&mut byte).unwrap();
        byte[0]
    };
    while next() != b'$' {}
    let mut text: Vec<u8> = Vec::new();
    loop {
        match next() {
            b'#' => break,
            b'*' => {
                let count = next() - 29;
                let last = *text.last().unwrap();
                text.extend((0..count).map(|_| last));
            }
            b => text.push(b),
        }
    }
    (next(), next());
    String::from_utf8(text).unwrap()
}

#[test]
fn registers_and_memory() {
    let (noted, ended) = talk(&[], &[
        ("qSupported:multiprocess+", "PacketSize=010000;..."),
        ("qXfer:features:read:target.xml:0,14", "m<?xml version=\"1.0\"?"),
        ("qXfer:features:read:target.xml:57,30", "m<architecture>i386:x86-64</architecture>\n<featur"),
        ("qAttached:1", "0"),
        ("?", "T05thread:p01.01;"),
        ("Hgp1.2", "OK"),
        ("g", "020000000200000002000000000000000000000000000000"),
        ("p1", "02000000"),
        ("P0=78563412", "OK"),
        ("p0", "7a563412"),
        ("p9", "E79"),
        ("m1000,2", "0000"),
        ("m11,2", "1111"),
        ("mffff0000,4", "E0e"),
        ("qqemu.PhyMemMode", "0"),
        ("Qqemu.PhyMemMode:1", "OK"),
        ("m11,2", "9999"),
        ("M20,2:abcd", "OK"),
        ("qRcmd,696e666f", "O796f75207361696420696e666f0a|OK"),
        ("qThreadExtraInfo,p1.2", "435055233..."),
        ("vUnknown", "..."),
        ("D;1", "OK"),
    ]);
    assert_eq!((noted, ended), (vec!["write 0x20 [ab, cd]".to_string()], Ended::Detached));
}

#[test]
fn going_on_and_stopping() {
    let stops = [
        Stop::Breakpoint { thread: thread(2), hardware: false },
        Stop::Step { thread: thread(1) },
        Stop::Signal { thread: thread(1), signal: 11 },
        Stop::Killed(11),
    ];
    let (noted, ended) = talk(&stops, &[
        ("qSupported:multiprocess+", "PacketSize=..."),
        ("Z0,1000,4", "OK"),
        ("Z1,1004,2", "OK"),
        ("vCont;c:p1.-1", "T05thread:p01.02;swbreak:;"),
        ("z0,1000,4", "OK"),
        ("vCont;s:p1.1", "T05thread:p01.01;"),
        ("vCont;r1000,1010:p1.1;c:p1.-1", "T0bthread:p01.01;"),
        ("vCont;C0b:p1.1;c:p1.-1", "X0b"),
    ]);
    let resumes: Vec<&str> = noted.iter().filter_map(|n| n.strip_prefix("resume ")).collect();
    let range = Action::StepRange { start: 0x1000, end: 0x1010 };
    assert_eq!(resumes, [
        "Continue(None) Continue(None)",
        "Step(None) Stay",
        &format!("{range:?} Continue(None)"),
        "Continue(Some(11)) Continue(None)",
    ]);
    assert_eq!(noted[..2], ["insert Software { addr: 1000 }", "insert Hardware { addr: 1004 }"]);
    assert_eq!(ended, Ended::Finished);
}

#[test]
fn the_debugger_interrupts_kills_or_is_gone() {
    let (noted, ended) = talk(&[], &[("vCont;c", ""), ("\x03", "T02thread:01;"), ("vKill;1", "OK")]);
    assert_eq!((noted.last().unwrap().as_str(), ended), ("interrupt", Ended::Killed));
    assert_eq!(talk(&[], &[("k", "")]).1, Ended::Killed);
    assert_eq!(talk(&[], &[("?", "T05thread:01;")]).1, Ended::Lost);
}

const SUPPORTED: &str = "qSupported:multiprocess+;fork-events+;exec-events+";

/// The parent answers for its child, which is let go.
#[test]
fn a_fork_and_staying_with_the_parent() {
    let fork = Stop::Fork { thread: thread(1), child: thread(0x99) };
    let (noted, ended) = talk_to(Some(thread(100)), &[fork, Stop::Exec { thread: thread(1) }, Stop::Exited(3)], &[
        (SUPPORTED, "PacketSize=..."),
        ("Z0,1000,4", "OK"),
        ("vCont;c:p64.-1", "T05thread:p64.01;fork:p99.99;"),
        ("qfThreadInfo", "mp64.1,p64.2,p99.99"),
        ("Hgp99.99", "OK"),
        ("Tp99.99", "OK"),
        ("p0", "00000000"),
        ("p1", "01000000"),
        ("P1=00000000", "E01"),
        ("z0,1000,4", "OK"),
        ("vCont;c:p99.-1", "E01"),
        ("D;99", "OK"),
        ("Hgp64.1", "OK"),
        ("vCont;c:p64.-1", "T05thread:p64.01;exec:2f62696e2f6e657874;"),
        ("vCont;c:p64.-1", "W03"),
    ]);
    assert_eq!(ended, Ended::Finished);
    let told: Vec<&String> = noted.iter().filter(|n| !n.starts_with("resume")).collect();
    let heard = format!("heard {SUPPORTED}");
    assert_eq!(told, [&"insert Software { addr: 1000 }".to_string(), &heard, &"release 153 false".into(), &heard, &heard]);
}

/// The child learns what was said, and its points.
#[test]
fn a_fork_and_going_with_the_child() {
    let fork = Stop::Fork { thread: thread(2), child: thread(0x99) };
    let (noted, ended) = talk_to(Some(thread(100)), &[fork], &[
        (SUPPORTED, "PacketSize=..."),
        ("!", "..."),
        ("Z0,1000,4", "OK"),
        ("Z0,2000,4", "OK"),
        ("vCont;c:p64.-1", "T05thread:p64.02;fork:p99.99;"),
        ("z0,1000,4", "OK"),
        ("Hgp99.99", "OK"),
        ("z0,2000,4", "OK"),
        ("Z0,3000,4", "OK"),
        ("D;64", "OK"),
    ]);
    assert_eq!(ended, Ended::HandedOver);
    assert_eq!(*noted.last().unwrap(), format!("hand over 153 {SUPPORTED} Z01000,4 Z03000,4 Hgp99.99").replace("Z0", "Z0,"));
}

/// Whatever comes in, the session ends in order.
#[test]
fn nonsense_ends_a_session_at_worst() {
    let mut x = 0x1234_5678_9abc_def1u64;
    for turn in 0..400 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connection = Arc::new(Connection::Unix(theirs));
        let (events, receiver) = channel();
        let layout = Layout { pinned: Vec::new(), names: Vec::new(), address_bits: 32, page: None };
        let pid = if turn % 2 == 0 { None } else { Some(thread(100)) };
        let mut machine = Machine { toy: Toy(layout), registers: [0; 3], noted: Vec::new(), events: events.clone(), stops: Vec::new(), pid, children: vec![thread(5)] };
        let mut bytes = Vec::new();
        for _ in 0..40 {
            let mut random = || {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x
            };
            let starts = ["m", "M10,4:", "P1=", "G", "vCont;s:", "Z0,", "qXfer:features:read:", "qXfer:siginfo:read::", "QPassSignals:", "Hg", "Hgp5.", "D;", "vFile:open:", "X1,1:", "p", ""];
            let mut body = starts[random() as usize % starts.len()].as_bytes().to_vec();
            body.extend((0..random() % 12).map(|_| b"0123456789abcdef,;:.-}*p~\xff"[random() as usize % 26]));
            let sum = body.iter().copied().fold(0u8, u8::wrapping_add);
            bytes.extend([b"$", &body[..], format!("#{sum:02x}").as_bytes()].concat());
        }
        drop(ours);
        events.send(Event::Data(7, bytes)).unwrap();
        events.send(Event::Data(7, Vec::new())).unwrap();
        let wire: Arc<dyn gdb::Wire> = connection.clone();
        let _ = gdb::serve(&wire, 7, &mut machine, &receiver);
    }
}
