//! The machine under a debugger (`-gdb`, `-s`, `gdbserver`): one thread for each vCPU, all of which stop together.
//!
//! The debugger's end of the connection is any character device. A host thread serves one session after the other. A vCPU that
//! has something to report only leaves a message, as does the lifecycle when somebody else stops the machine; the session
//! stops the machine and tells the debugger.
//!
//! **Reference.** What QEMU 10.0.2's stub does beyond the protocol: a connection pauses the machine, `detach` lets it go on,
//! a lost connection leaves it as it is, `kill` ends the program, `maintenance packet qqemu.sstep` and `Qqemu.PhyMemMode`.
//!
//! **Not modelled**: access to devices by the debugger (memory only), reverse debugging.
//!
//! **Invariants**: the vCPUs' actions and points change only while no vCPU executes (`Lifecycle::while_stopped`); no lock of
//! ours is held while the lifecycle is called.

use crate::lifecycle::{Cause, Event as Life, Lifecycle, RunState};
use crate::monitor::human::Shell;
use crate::session::Session;
use console::options::Redirect;
use console::{Event as LineEvent, FrontEnd, Port};
use gdb::{Action, Ended, Event, Plan, Point, Space, Stop, Thread, Wire};
use jit::machine::debug::{Action as CpuAction, Stop as CpuStop};
use jit::watch::Watch;
use spec::{Context, Result};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

/// Name of the character device of a debugger's connection.
const LABEL: &str = "gdb";
/// How long the end of the program waits for a session to end.
const PATIENCE: Duration = Duration::from_secs(1);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn thread_of(cpu: usize) -> Thread {
    Thread::MIN.saturating_add(cpu)
}

fn cpu_of(thread: Thread) -> usize {
    thread.get() - 1
}

/// Between those who stop and the session.
struct Link {
    events: Mutex<Option<Sender<Event>>>,
    /// Since it went on last: the stop has been announced. True while there is no session.
    announced: AtomicBool,
    /// The session itself lets the machine go on.
    resuming: AtomicBool,
    points: Mutex<BTreeSet<Point>>,
    /// The kinds of the watchpoints, by the vCPUs' numbers.
    kinds: Mutex<Vec<gdb::Watch>>,
}

impl Link {
    /// The first one counts.
    fn announce(&self, stop: Stop) {
        if !self.announced.swap(true, Ordering::SeqCst) {
            self.send(Event::Stopped(stop));
        }
    }

    fn send(&self, event: Event) {
        if let Some(events) = &*lock(&self.events) {
            // Without a session nobody wants to know.
            let _ = events.send(event);
        }
    }

    fn cpu_stopped(&self, cpu: usize, stop: CpuStop) {
        let thread = thread_of(cpu);
        self.announce(match stop {
            CpuStop::Step => Stop::Step { thread },
            CpuStop::Breakpoint { addr } => {
                let hardware = !lock(&self.points).contains(&Point::Software { addr });
                Stop::Breakpoint { thread, hardware }
            }
            CpuStop::Watch(hit) => {
                let kind = lock(&self.kinds).get(hit.watch).copied().unwrap_or(gdb::Watch::Access);
                Stop::Watch { thread, kind, addr: hit.addr }
            }
        });
    }
}

/// The place of a machine's debugger, whether there is one or not.
pub struct Debugging {
    session: Weak<Session>,
    link: Arc<Link>,
    server: Mutex<Option<Server>>,
}

/// A device on which debuggers are waited for.
struct Server {
    front: Arc<Front>,
    /// Made for this purpose.
    chardev: bool,
    thread: Option<JoinHandle<()>>,
    done: Receiver<()>,
}

impl Debugging {
    pub fn new(session: &Arc<Session>) -> Debugging {
        let link = Arc::new(Link {
            events: Mutex::default(),
            announced: AtomicBool::new(true),
            resuming: AtomicBool::new(false),
            points: Mutex::default(),
            kinds: Mutex::default(),
        });
        let machine = session.engine.machine.clone();
        let stopped = link.clone();
        machine.on_stop(Box::new(move |cpu, stop| stopped.cpu_stopped(cpu, stop)));
        let (heard, machine) = (link.clone(), Arc::downgrade(&machine));
        session.life.on_event(move |event| match event {
            Life::Stop => heard.announce(Stop::Signal { thread: thread_of(0), signal: gdb::signal::INT }),
            Life::Resume if !heard.resuming.load(Ordering::SeqCst) => {
                // Somebody at a monitor: everything runs.
                if let Some(machine) = machine.upgrade() {
                    release(&machine);
                }
                if lock(&heard.events).is_some() {
                    heard.announced.store(false, Ordering::SeqCst);
                }
            }
            _ => {}
        });
        Debugging { session: Arc::downgrade(session), link, server: Mutex::default() }
    }

    /// Waits for debuggers on a device; nowhere for `none`.
    pub fn listen(&self, device: &str) -> Result<()> {
        let Some(session) = self.session.upgrade() else { return Ok(()) };
        self.close();
        let mut device = device.to_owned();
        if device.starts_with("tcp:") {
            device.push_str(",wait=off,nodelay=on,server=on");
        }
        let (id, chardev) = match console::options::redirect(LABEL, &device)? {
            Redirect::None => return Ok(()),
            Redirect::Existing(id) => (id, false),
            Redirect::New { chardev, .. } => {
                session.consoles.add(&chardev)?;
                (chardev.id, true)
            }
        };
        let port = session.consoles.connect(&id)?;
        let (events, received) = channel();
        let (opens, opened) = channel();
        let (finished, done) = channel();
        *lock(&self.link.events) = Some(events.clone());
        let front = Arc::new(Front {
            port: port.clone(),
            events,
            opens,
            number: AtomicU32::new(0),
            open: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            unsent: Mutex::default(),
        });
        let (wire, link, owner) = (front.clone(), self.link.clone(), self.session.clone());
        let body = move || {
            serve(&wire, &link, &owner, &opened, &received);
            let _ = finished.send(());
        };
        let thread = std::thread::Builder::new().name("gdb".into()).spawn(body);
        let thread = thread.context(|| "could not start the debugger's thread".into())?;
        port.attach(front.clone());
        *lock(&self.server) = Some(Server { front, chardev, thread: Some(thread), done });
        Ok(())
    }

    /// Ends a session and waits for debuggers no more.
    pub fn close(&self) {
        let Some(mut server) = lock(&self.server).take() else { return };
        server.front.port.detach();
        server.front.stop.store(true, Ordering::SeqCst);
        let number = server.front.number.load(Ordering::SeqCst);
        let _ = server.front.events.send(Event::Data(number, Vec::new()));
        let _ = server.front.opens.send(0);
        if let Some(thread) = server.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = server.done.recv_timeout(PATIENCE);
        }
        *lock(&self.link.events) = None;
        if let Some(session) = self.session.upgrade()
            && server.chardev
        {
            // It was there until now.
            let _ = session.consoles.remove(LABEL);
        }
    }

    /// The program ends with this status: the debugger is told.
    pub fn finish(&self, status: u8) {
        if lock(&self.server).is_some() {
            self.link.send(Event::Stopped(Stop::Exited(status)));
            self.close();
        }
    }
}

/// Lets all vCPUs run when the machine does.
fn release(machine: &jit::Machine) {
    (0..machine.count()).for_each(|cpu| machine.set_action(cpu, CpuAction::Run));
    machine.hold_clock(false);
}

/// The connection's character device.
struct Front {
    port: Port,
    events: Sender<Event>,
    /// Numbers of connections.
    opens: Sender<u32>,
    number: AtomicU32,
    open: AtomicBool,
    stop: AtomicBool,
    unsent: Mutex<VecDeque<u8>>,
}

impl Front {
    fn send_more(&self, unsent: &mut VecDeque<u8>) {
        while !unsent.is_empty() {
            let n = self.port.write(unsent.as_slices().0);
            if n == 0 {
                return;
            }
            unsent.drain(..n);
        }
    }
}

impl Wire for Front {
    /// The debugger asks before it is answered, so this queue is as long as one answer.
    fn write_all(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut unsent = lock(&self.unsent);
        unsent.extend(bytes);
        self.send_more(&mut unsent);
        Ok(())
    }
}

impl FrontEnd for Front {
    fn input(&self, bytes: &[u8]) -> usize {
        let _ = self.events.send(Event::Data(self.number.load(Ordering::SeqCst), bytes.to_vec()));
        bytes.len()
    }

    fn event(&self, event: LineEvent) {
        match event {
            LineEvent::Room => self.send_more(&mut lock(&self.unsent)),
            LineEvent::Opened if !self.open.swap(true, Ordering::SeqCst) => {
                let number = self.number.fetch_add(1, Ordering::SeqCst) + 1;
                let _ = self.opens.send(number);
            }
            LineEvent::Closed => {
                self.open.store(false, Ordering::SeqCst);
                lock(&self.unsent).clear();
                let _ = self.events.send(Event::Data(self.number.load(Ordering::SeqCst), Vec::new()));
            }
            _ => {}
        }
    }
}

/// One session after the other.
fn serve(front: &Arc<Front>, link: &Arc<Link>, session: &Weak<Session>, opened: &Receiver<u32>, events: &Receiver<Event>) {
    for number in opened {
        let Some(session) = session.upgrade() else { return };
        if front.stop.load(Ordering::SeqCst) {
            return;
        }
        let mut shown = Shown::new(&session, link);
        shown.begin();
        let wire: Arc<dyn Wire> = front.clone();
        match gdb::serve(&wire, number, &mut shown, events) {
            Ok(Ended::Killed) => gdb::Target::kill(&mut shown),
            Ok(Ended::Detached) => gdb::Target::detach(&mut shown),
            // A machine has no children that could take over.
            Ok(Ended::Finished | Ended::Lost | Ended::HandedOver) => shown.end(),
            Err(e) => {
                eprintln!("{}: {e}", session.config.program);
                shown.end();
            }
        }
    }
}

/// The machine as `gdb` wants it.
struct Shown {
    session: Arc<Session>,
    link: Arc<Link>,
    shell: Shell,
    guest: Arc<dyn cpu::Guest>,
    points: BTreeSet<Point>,
    /// The thread that stopped last.
    current: Thread,
    step_flags: u8,
}

impl Shown {
    fn new(session: &Arc<Session>, link: &Arc<Link>) -> Shown {
        Shown {
            session: session.clone(),
            link: link.clone(),
            shell: Shell::new(session.clone(), 0),
            guest: session.engine.machine.guest().clone(),
            points: BTreeSet::new(),
            current: thread_of(0),
            step_flags: gdb::STEP_NO_INTERRUPTS | gdb::STEP_NO_TIMERS,
        }
    }

    fn life(&self) -> &Lifecycle {
        &self.session.life
    }

    fn machine(&self) -> &jit::Machine {
        &self.session.engine.machine
    }

    /// A debugger has come.
    fn begin(&self) {
        if self.life().is_running() {
            self.life().stop();
        }
        self.life().while_stopped(|| self.machine().set_exact());
    }

    /// Nothing is left of the session; the machine runs or stands as it does.
    fn end(&mut self) {
        self.link.announced.store(true, Ordering::SeqCst);
        self.points.clear();
        self.life().while_stopped(|| {
            self.set_points();
            release(self.machine());
        });
    }

    /// Makes the points of the machine what the debugger has set. No vCPU executes.
    fn set_points(&self) {
        if *lock(&self.link.points) == self.points {
            return;
        }
        let (mut breakpoints, mut watches, mut kinds) = (BTreeSet::new(), Vec::new(), Vec::new());
        for point in &self.points {
            match *point {
                Point::Software { addr } | Point::Hardware { addr } => {
                    breakpoints.insert(addr);
                }
                Point::Watch { kind, addr, len } => {
                    watches.push(Watch { addr, len, read: kind != gdb::Watch::Write, write: kind != gdb::Watch::Read });
                    kinds.push(kind);
                }
            }
        }
        self.machine().set_breakpoints(breakpoints);
        self.machine().set_watches(watches);
        *lock(&self.link.kinds) = kinds;
        lock(&self.link.points).clone_from(&self.points);
    }

    fn action(&self, action: Action) -> CpuAction {
        let interrupts = self.step_flags & gdb::STEP_NO_INTERRUPTS == 0;
        match action {
            Action::Stay => CpuAction::Stay,
            Action::Continue(_) => CpuAction::Run,
            Action::Step(_) => CpuAction::Step { start: 0, end: 0, interrupts },
            Action::StepRange { start, end } => CpuAction::Step { start, end, interrupts },
        }
    }

    /// Lets the machine go on, as the debugger's doing.
    fn go_on(&self) {
        self.link.resuming.store(true, Ordering::SeqCst);
        // A machine that has switched itself off stays so; the debugger may interrupt.
        let _ = self.life().cont();
        self.link.resuming.store(false, Ordering::SeqCst);
    }
}

impl gdb::Target for Shown {
    fn guest(&self) -> &dyn cpu::Guest {
        &*self.guest
    }

    fn threads(&self) -> Vec<Thread> {
        let others = (0..self.machine().count()).map(thread_of).filter(|t| *t != self.current);
        std::iter::once(self.current).chain(others).collect()
    }

    fn thread_name(&self, thread: Thread) -> String {
        let cpu = cpu_of(thread);
        let halted = cpu < self.machine().count() && (!self.machine().is_on(cpu) || self.machine().is_waiting(cpu));
        format!("CPU#{cpu} [{}]", if halted { "halted " } else { "running" })
    }

    fn read_register(&self, thread: Thread, number: usize) -> Option<u128> {
        let cpu = cpu_of(thread);
        let read = || self.machine().with_state(cpu, |state| self.guest.read_register(state, number));
        (cpu < self.machine().count()).then(|| self.life().while_stopped(read))
    }

    fn write_register(&mut self, thread: Thread, number: usize, value: u128) -> bool {
        let cpu = cpu_of(thread);
        if cpu >= self.machine().count() {
            return false;
        }
        self.life().while_stopped(|| self.machine().with_state(cpu, |state| self.guest.write_register(state, number, value)));
        true
    }

    fn read_memory(&mut self, thread: Thread, space: Space, addr: u64, buf: &mut [u8]) -> usize {
        let (session, cpu) = (&self.session, cpu_of(thread));
        self.life().while_stopped(|| match space {
            Space::Physical => session.engine.board.space().read_bytes(addr, buf),
            Space::Virtual => session.each_piece(cpu, addr, buf.len(), |phys, range| session.engine.board.space().read_bytes(phys, &mut buf[range])),
        })
    }

    fn write_memory(&mut self, thread: Thread, space: Space, addr: u64, data: &[u8]) -> bool {
        let (session, cpu) = (&self.session, cpu_of(thread));
        let done = self.life().while_stopped(|| match space {
            Space::Physical => session.engine.board.space().write_bytes(addr, data),
            Space::Virtual => session.each_piece(cpu, addr, data.len(), |phys, range| session.engine.board.space().write_bytes(phys, &data[range])),
        });
        done == data.len()
    }

    fn supports(&self, _: Point) -> bool {
        true
    }

    fn insert(&mut self, point: Point) -> bool {
        self.points.insert(point);
        true
    }

    fn remove(&mut self, point: Point) -> bool {
        self.points.remove(&point)
    }

    fn resume(&mut self, plan: &Plan) {
        let actions: Vec<CpuAction> = (0..self.machine().count()).map(|cpu| self.action(plan.action(thread_of(cpu)))).collect();
        let only_steps = actions.iter().all(|a| *a != CpuAction::Run);
        self.life().while_stopped(|| {
            self.set_points();
            actions.iter().enumerate().for_each(|(cpu, action)| self.machine().set_action(cpu, *action));
            self.machine().hold_clock(only_steps && self.step_flags & gdb::STEP_NO_TIMERS != 0);
        });
        self.link.announced.store(false, Ordering::SeqCst);
        self.go_on();
    }

    fn settle(&mut self, stop: &Stop) {
        self.current = stop.thread().unwrap_or(self.current);
        if self.life().is_running() {
            self.life().stop_as(RunState::Debug);
        }
    }

    fn interrupt(&mut self) {
        if !self.link.announced.swap(true, Ordering::SeqCst) {
            if self.life().is_running() {
                self.life().stop();
            }
            self.link.send(Event::Stopped(Stop::Signal { thread: self.current, signal: gdb::signal::INT }));
        }
    }

    fn detach(&mut self) {
        // A vCPU may just be stopping.
        if self.life().is_running() {
            self.life().stop_as(RunState::Debug);
        }
        self.end();
        self.go_on();
    }

    fn kill(&mut self) {
        eprintln!("{}: QEMU: Terminated via GDBstub", self.session.config.program);
        self.life().quit(Cause::HostQuit);
    }

    fn attached(&self) -> bool {
        true
    }

    fn monitor(&mut self, command: &str) -> Option<String> {
        let mut out = String::new();
        self.shell.run(command, &mut out);
        Some(out)
    }

    fn has_physical(&self) -> bool {
        true
    }

    fn step_flags(&self) -> Option<u8> {
        Some(self.step_flags)
    }

    fn set_step_flags(&mut self, flags: u8) {
        self.step_flags = flags;
    }
}

/// A machine's [`Debugging`], which needs the session that it is part of.
pub type Slot = OnceLock<Debugging>;
