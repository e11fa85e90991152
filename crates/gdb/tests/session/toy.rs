//! A guest of three registers on two vCPUs that stops when it is told to: the debugger's other side in tests.

use cpu::{Code, Guest, Limits, Register};
use gdb::{Event, Plan, Point, Space, Spoken, Stop, Target, Thread};
use ir::{Builder, Helper, Layout, State};
use std::sync::mpsc::Sender;

pub struct Toy(Layout);

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
pub struct Machine {
    toy: Toy,
    registers: [u128; 3],
    pub noted: Vec<String>,
    events: Sender<Event>,
    /// What the next resumes stop for.
    stops: Vec<Stop>,
    /// A process with this number.
    pid: Option<Thread>,
    children: Vec<Thread>,
}

impl Machine {
    pub fn new(events: Sender<Event>, stops: &[Stop], pid: Option<Thread>, children: &[Thread]) -> Machine {
        let layout = Layout { pinned: Vec::new(), names: Vec::new(), address_bits: 32, page: None };
        Machine {
            toy: Toy(layout),
            registers: [0; 3],
            noted: Vec::new(),
            events,
            stops: stops.to_vec(),
            pid,
            children: children.to_vec(),
        }
    }
}

pub fn thread(n: usize) -> Thread {
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
