//! The debugger's side: listens, serves one debugger after the other, and shows it the process.

use super::follow::Handle;
use super::{Debugger, Place, Points, thread_of};
use crate::host_signal;
use crate::task::Process;
use gdb::{Action, Address, Connection, Ended, Event, Listener, Plan, Point, Space, Spoken, Stop, Syscalls, Thread};
use jit::watch::Watch;
use spec::{Context, Error, Result};
use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// Our descriptors begin here, so that the guest's have the numbers that they would have natively.
const FIRST_FD: i32 = 900;
/// Number of the program counter in the guest's register rows.
const PC: usize = 15;

/// The process as `gdb` wants it.
struct Shown<'a> {
    debugger: &'a Debugger,
    process: &'a Process,
    exe: Vec<u8>,
    points: BTreeSet<Point>,
    /// It was running when the debugger came.
    attached: bool,
}

/// The same open file at a high number.
pub fn lift(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: duplicates a descriptor; the new one is ours.
    unsafe {
        match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FIRST_FD) {
            -1 => Err(std::io::Error::last_os_error()).context(|| "no descriptor is left for the debugger".into()),
            new => Ok(OwnedFd::from_raw_fd(new)),
        }
    }
}

/// Opens the place where debuggers connect.
pub fn listen(address: &Address) -> Result<Listener> {
    let listener = address.listen()?;
    let fd = lift(listener.fd())?;
    Ok(listener.with_fd(fd))
}

/// A session that another process has begun.
pub struct Taken {
    pub connection: Connection,
    pub spoken: Spoken,
    /// The process before was this one, with another program.
    pub exec: bool,
}

/// Starts the thread that serves debuggers: the one that is there, and those that come.
pub fn start(
    listener: Option<Listener>,
    taken: Option<Taken>,
    attached: bool,
    debugger: Arc<Debugger>,
    events: Receiver<Event>,
    process: Arc<Process>,
) -> Result<()> {
    let guest = process.clone();
    quiet_thread("gdb", move || serve(listener.as_ref(), taken, attached, &debugger, &events, &process))?;
    guest.actions.lock().unwrap().reclaim();
    Ok(())
}

/// A host thread that the guest's signals do not reach.
fn quiet_thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let mask = host_signal::block_all();
    let started = std::thread::Builder::new().name(name.into()).spawn(body);
    host_signal::set_thread_mask(mask);
    started.map(|_| ()).map_err(|e| Error::new(format!("cannot start a thread for the debugger: {e}")))
}

fn serve(
    listener: Option<&Listener>,
    taken: Option<Taken>,
    mut attached: bool,
    debugger: &Debugger,
    events: &Receiver<Event>,
    process: &Process,
) {
    let mut taken = taken;
    debugger.lock().listener = listener.map(|l| Handle { tcp: matches!(l, Listener::Tcp(_)), fd: l.fd() });
    for number in 0.. {
        let mut shown = Shown { debugger, process, exe: exe(process), points: BTreeSet::new(), attached };
        let ended = match (taken.take(), listener) {
            (Some(taken), _) => {
                session(taken.connection, number, &mut shown, events, Some((&taken.spoken, taken.exec)))
            }
            (None, Some(listener)) => listener.accept().and_then(|connection| {
                let fd = lift(connection.fd())?;
                session(connection.with_fd(fd), number, &mut shown, events, None)
            }),
            // The parent has kept it.
            (None, None) => return,
        };
        shown.points.clear();
        match ended {
            Ok(Ended::Killed) => gdb::Target::kill(&mut shown),
            Ok(Ended::Finished) => debugger.tell(),
            Ok(Ended::Detached | Ended::Lost | Ended::HandedOver) => gdb::Target::detach(&mut shown),
            Err(e) => {
                eprintln!("qemu-arm: {e}");
                gdb::Target::detach(&mut shown);
            }
        }
        attached = true;
    }
}

/// The program's file by the name that the guest has for it, which a debugger with the same root looks for.
fn exe(process: &Process) -> Vec<u8> {
    let file = std::path::Path::new(OsStr::from_bytes(process.config.exe.as_bytes()));
    let root = process.config.options.prefix.as_ref().and_then(|root| std::fs::canonicalize(root).ok());
    match root.as_ref().and_then(|root| file.strip_prefix(root).ok()) {
        Some(inside) => std::path::Path::new("/").join(inside).into_os_string().into_encoded_bytes(),
        None => process.config.exe.as_bytes().to_vec(),
    }
}

fn session(
    connection: Connection,
    number: u32,
    shown: &mut Shown<'_>,
    events: &Receiver<Event>,
    before: Option<(&Spoken, bool)>,
) -> Result<Ended> {
    let connection = Arc::new(connection);
    let debugger = shown.debugger;
    shown.process.engine.set_exact();
    debugger.begin_session(Handle { tcp: matches!(*connection, Connection::Tcp(_)), fd: connection.fd() });
    // What came too late for the last session.
    while events.try_recv().is_ok() {}
    let (from, to): (Arc<Connection>, _) = (connection.clone(), debugger.events.lock().unwrap().clone());
    quiet_thread("gdb-in", move || gdb::read(&from, number, &to))?;
    let wire: Arc<dyn gdb::Wire> = connection.clone();
    let ended = match before {
        None => gdb::serve(&wire, number, shown, events),
        Some((spoken, exec)) => {
            if exec && let Some(tid) = debugger.lock().threads.first().map(|r| r.tid) {
                debugger.send(Event::Stopped(Stop::Exec { thread: thread_of(tid) }));
            }
            gdb::go_on(&wire, number, shown, events, spoken, exec)
        }
    };
    // The next process is using it.
    if !matches!(ended, Ok(Ended::HandedOver)) {
        connection.close();
    }
    ended
}

impl Debugger {
    /// A debugger has come: everything stops.
    fn begin_session(&self, connection: Handle) {
        let mut s = self.lock();
        s.session = true;
        s.connection = Some(connection);
        s.told = false;
        self.active.store(true, std::sync::atomic::Ordering::Release);
        // It may be early: before the first thread.
        while s.threads.is_empty() {
            s = self.wait(s);
        }
        drop(self.gather(s));
    }

    fn end_session(&self) {
        let mut s = self.lock();
        s.session = false;
        s.connection = None;
        s.spoken = Spoken::default();
        // They go on, undebugged.
        s.children.clear();
        s.syscalls = Syscalls::None;
        s.passed.clear();
        s.points = Arc::default();
        s.only_some_run = false;
        for r in &mut s.threads {
            r.action = Action::Continue(None);
        }
        self.active.store(false, std::sync::atomic::Ordering::Release);
        s.halted = false;
        s.generation += 1;
        self.changed.notify_all();
    }

    fn tell(&self) {
        self.lock().told = true;
        self.changed.notify_all();
    }
}

impl Shown<'_> {
    fn tid(thread: Thread) -> i32 {
        thread.get() as i32
    }

    /// Makes the points of the threads and the engine what the debugger has set since.
    fn set_points(&self) {
        let mut points = Points::default();
        for point in &self.points {
            match *point {
                Point::Software { addr } | Point::Hardware { addr } => {
                    points.breakpoints.insert(addr);
                }
                Point::Watch { kind, addr, len } => {
                    points.watches.push(Watch { addr, len, read: kind != gdb::Watch::Write, write: kind != gdb::Watch::Read });
                    points.kinds.push(kind);
                }
            }
        }
        let mut s = self.debugger.lock();
        if *s.points != points {
            s.points = Arc::new(points);
            let breakpoints = s.points.breakpoints.clone();
            drop(s);
            self.process.engine.set_breakpoints(breakpoints);
        }
    }

    /// Writes where the guest itself may not.
    fn write_anyway(&self, addr: u32, data: &[u8]) -> bool {
        let memory = &self.process.memory;
        if data.is_empty() || !memory.is_mapped(addr & !0xfff, data.len() as u64 + (addr & 0xfff) as u64) {
            return false;
        }
        let done = File::options().write(true).open("/proc/self/mem").and_then(|f| f.write_all_at(data, memory.host(addr) as u64));
        memory.space.invalidate(addr, data.len() as u32);
        done.is_ok()
    }
}

impl gdb::Target for Shown<'_> {
    fn guest(&self) -> &dyn cpu::Guest {
        self.process.engine.guest()
    }

    fn threads(&self) -> Vec<Thread> {
        self.debugger.lock().threads.iter().map(|r| thread_of(r.tid)).collect()
    }

    fn thread_name(&self, thread: Thread) -> String {
        std::fs::read_to_string(format!("/proc/self/task/{thread}/comm")).map_or_else(|_| String::new(), |n| n.trim_end().into())
    }

    fn read_register(&self, thread: Thread, number: usize) -> Option<u128> {
        let mut s = self.debugger.lock();
        s.record(Self::tid(thread)).map(|r| self.guest().read_register(&r.state, number))
    }

    fn write_register(&mut self, thread: Thread, number: usize, value: u128) -> bool {
        let tid = Self::tid(thread);
        let (mut s, ready) = self.debugger.pull_out(self.debugger.lock(), tid);
        let Some(r) = s.record(tid).filter(|_| ready) else { return false };
        let value = match r.rewound {
            Some((behind, call)) if number == PC && value == behind => {
                r.rewound = None;
                call
            }
            _ => value,
        };
        self.process.engine.guest().write_register(&mut r.state, number, value);
        r.dirty = true;
        true
    }

    fn read_memory(&mut self, _: Thread, _: Space, addr: u64, buf: &mut [u8]) -> usize {
        u32::try_from(addr).map_or(0, |addr| self.process.memory.space.read_bytes(addr, buf))
    }

    fn write_memory(&mut self, _: Thread, _: Space, addr: u64, data: &[u8]) -> bool {
        let Ok(addr) = u32::try_from(addr) else { return false };
        self.process.memory.write_bytes(addr, data).is_ok() || self.write_anyway(addr, data)
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
        self.set_points();
        let mut s = self.debugger.lock();
        let mut pulls = Vec::new();
        s.only_some_run = plan.leaves_others();
        for r in &mut s.threads {
            r.action = plan.action(thread_of(r.tid));
            if let Action::Continue(Some(signal)) | Action::Step(Some(signal)) = r.action
                && !r.deciding
            {
                r.inject = gdb::signal::to_linux(signal);
                pulls.extend((r.place == Place::InCall).then_some(r.tid));
            }
        }
        for tid in pulls {
            s = self.debugger.pull_out(s, tid).0;
        }
        s.generation += 1;
        s.halted = false;
        self.debugger.changed.notify_all();
    }

    fn interrupt(&mut self) {
        let s = self.debugger.lock();
        if s.halted {
            return;
        }
        let s = self.debugger.gather(s);
        if let Some(r) = s.threads.first() {
            let stop = Stop::Signal { thread: thread_of(r.tid), signal: gdb::signal::INT };
            self.debugger.send(Event::Stopped(stop));
        }
    }

    fn detach(&mut self) {
        self.points.clear();
        self.process.engine.set_breakpoints(BTreeSet::new());
        self.debugger.end_session();
    }

    fn kill(&mut self) {
        // SAFETY: plain system call; nothing of us is left afterwards.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }

    fn attached(&self) -> bool {
        self.attached
    }

    fn catch_syscalls(&mut self, which: Syscalls) -> bool {
        self.debugger.lock().syscalls = which;
        true
    }

    fn pass_signals(&mut self, signals: &[gdb::Signal]) -> bool {
        self.debugger.lock().passed = signals.to_vec();
        true
    }

    fn siginfo(&self, thread: Thread) -> Option<Vec<u8>> {
        self.debugger.lock().record(Self::tid(thread))?.siginfo.map(|info| info.to_guest().to_vec())
    }

    fn auxv(&self) -> Option<&[u8]> {
        Some(&self.process.config.stack.auxv)
    }

    fn exec_file(&self) -> Option<&[u8]> {
        Some(&self.exe)
    }

    fn open_file(&self, name: &[u8]) -> std::io::Result<File> {
        let name = CString::new(name).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        let file = File::open(OsStr::from_bytes(self.process.config.prefix.apply(name, true).as_bytes()))?;
        // Ours, not one of the guest's low numbers.
        lift(file.as_raw_fd()).map(File::from).map_err(std::io::Error::other)
    }

    fn pid(&self) -> Option<Thread> {
        Thread::new(std::process::id() as usize)
    }

    fn hear(&mut self, spoken: &Spoken) {
        self.debugger.lock().spoken = spoken.clone();
    }

    fn settle(&mut self, stop: &Stop) {
        if let Stop::Fork { child, .. } = stop {
            self.debugger.told_of(*child);
        }
    }

    fn children(&self) -> Vec<Thread> {
        self.debugger.children()
    }

    fn release_child(&mut self, child: Thread, kill: bool) {
        if kill {
            // SAFETY: plain system call.
            unsafe { libc::kill(child.get() as i32, libc::SIGKILL) };
        }
        self.debugger.tell_child(child, "");
    }

    fn hand_over(&mut self, child: Thread, spoken: &Spoken) {
        self.debugger.tell_child(child, &spoken.text());
    }

    fn os_abi(&self) -> Option<&'static str> {
        Some("GNU/Linux")
    }
}
