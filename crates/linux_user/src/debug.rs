//! The process under a debugger (`-g`): how its threads stop and go on.
//!
//! A host thread talks to the debugger (`debug::target`). Guest threads look at [`Debugger`] between regions and system calls.
//! What one of them has to report stops all: they are kicked out of translated code and wait here; a thread inside a system
//! call stays there, because its registers do not change until the call returns. When nobody runs any more, the debugger
//! is told.
//!
//! **Reference.** ptrace(2) for what a debugger may expect: signals are reported before they are delivered, steps end at the
//! first instruction of a signal handler.
//!
//! `debug::follow` is about execve and children.
//!
//! Invariants:
//! 1. A record's kick pointer is that of a live vCPU: a thread registers before it runs and leaves before its vCPU is dropped.
//! 2. While a record is `Parked` its thread waits in this module, and the record's state is the thread's.

pub mod follow;
pub mod target;

use crate::abi::arm as abi;
use crate::host_signal;
use crate::siginfo::SigInfo;
use crate::task::Task;
use follow::{Child, Handle};
use gdb::{Action, Event, Spoken, Stop, Syscalls, Thread};
use ir::State;
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// How long to wait before a thread is kicked once more.
const KICK_AGAIN: Duration = Duration::from_millis(10);
/// How often a thread is asked to leave a system call before that counts as failed.
const PULLS: u32 = 100;
/// A thread under watchpoints looks for other things to do that often.
const WATCHED_INSTRUCTIONS: u32 = 256;

/// Where a thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// In translated code or in the emulator; it will stop soon if asked to.
    Running,
    /// In a system call, which may take for ever. The record's state is that before the call.
    InCall,
    Parked,
}

/// The kick word of a vCPU.
struct Kick(*const AtomicU32);

// SAFETY: an atomic that any thread may store to; invariant 1.
unsafe impl Send for Kick {}

/// A thread as the debugger knows it.
struct Record {
    tid: i32,
    kick: Kick,
    place: Place,
    state: Box<State>,
    /// The debugger has changed the state.
    dirty: bool,
    action: Action,
    /// Waits for the debugger's word on a signal.
    deciding: bool,
    /// The signal that it waits for a word on, or the last one.
    siginfo: Option<SigInfo>,
    /// A signal from the debugger, besides those that happened.
    inject: Option<i32>,
    /// The address behind the system call out of which the thread was pulled, and that of the call: the debugger may still
    /// write back the former, and means that the call goes on.
    rewound: Option<(u128, u128)>,
}

/// What stops the threads.
#[derive(Default, PartialEq)]
pub struct Points {
    breakpoints: BTreeSet<u64>,
    watches: Vec<jit::watch::Watch>,
    /// The kinds of the watches, as the debugger knows them.
    kinds: Vec<gdb::Watch>,
}

#[derive(Default)]
struct Shared {
    /// All threads stand still, or will soon.
    halted: bool,
    /// A debugger is there.
    session: bool,
    /// The debugger knows that the process has ended.
    told: bool,
    threads: Vec<Record>,
    syscalls: Syscalls,
    /// Signals, by GDB's numbers, that are delivered without asking.
    passed: Vec<gdb::Signal>,
    points: Arc<Points>,
    /// Threads that begin do not run: the debugger steps one thread, with breakpoints removed.
    only_some_run: bool,
    /// Counts the resumes.
    generation: u64,
    /// What the debugger has said, as of the last resume.
    spoken: Spoken,
    /// Where it is connected, and where others may connect.
    connection: Option<Handle>,
    listener: Option<Handle>,
    /// Children that wait.
    children: Vec<Child>,
    /// This process is a vfork child: its parent waits until this is closed.
    vforked: Option<UnixStream>,
}

impl Shared {
    fn record(&mut self, tid: i32) -> Option<&mut Record> {
        self.threads.iter_mut().find(|r| r.tid == tid)
    }

    fn kick_running(&self) {
        for r in self.threads.iter().filter(|r| r.place == Place::Running) {
            // SAFETY: invariant 1.
            unsafe { (*r.kick.0).store(1, Ordering::Release) };
        }
    }

    fn anybody_runs(&self) -> bool {
        self.threads.iter().any(|r| r.place == Place::Running)
    }
}

pub struct Debugger {
    shared: Mutex<Shared>,
    changed: Condvar,
    events: Mutex<Sender<Event>>,
    /// There may be something to look at under the lock.
    active: AtomicBool,
}

/// How a thread goes on.
pub enum Pace {
    Run,
    /// One instruction, for the resume of that number.
    Step(u64, Arc<Points>),
    /// Instruction by instruction, because of watchpoints.
    Watch(Arc<Points>),
}

/// What has become of an instruction under watchpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stepped {
    Plainly,
    /// It needed more than executing it, such as a system call.
    Handled,
    /// It would have accessed what is watched.
    Not,
}

type Guard<'a> = MutexGuard<'a, Shared>;

impl Debugger {
    /// `suspend`: no thread runs before a debugger says so.
    pub fn new(suspend: bool) -> (Arc<Debugger>, Receiver<Event>) {
        let (events, receiver) = channel();
        let shared = Mutex::new(Shared { halted: suspend, ..Shared::default() });
        (
            Arc::new(Debugger { shared, changed: Condvar::new(), events: Mutex::new(events), active: suspend.into() }),
            receiver,
        )
    }

    fn lock(&self) -> Guard<'_> {
        self.shared.lock().unwrap()
    }

    fn send(&self, event: Event) {
        // Nobody listens to the process's last words if the debugger's thread has ended.
        let _ = self.events.lock().unwrap().send(event);
    }

    fn wait<'a>(&'a self, s: Guard<'a>) -> Guard<'a> {
        self.changed.wait(s).unwrap()
    }

    /// Stops all threads that run and waits until they stand still.
    fn gather<'a>(&'a self, mut s: Guard<'a>) -> Guard<'a> {
        s.halted = true;
        while s.halted && s.anybody_runs() {
            s.kick_running();
            s = self.changed.wait_timeout(s, KICK_AGAIN).unwrap().0;
        }
        s
    }

    /// Puts the thread's state where the debugger sees it.
    fn park(&self, s: &mut Shared, t: &mut Task) {
        if let Some(r) = s.record(t.tid)
            && r.place != Place::Parked
        {
            t.vcpu.fp_flags();
            *r.state = t.vcpu.state().clone();
            r.place = Place::Parked;
            self.changed.notify_all();
        }
    }

    fn unpark(&self, s: &mut Shared, t: &mut Task) {
        if let Some(r) = s.record(t.tid)
            && r.place == Place::Parked
        {
            if std::mem::take(&mut r.dirty) {
                *t.vcpu.state_mut() = (*r.state).clone();
                t.vcpu.clear_exclusive();
            }
            r.place = Place::Running;
            r.deciding = false;
        }
    }

    /// Waits until the thread may go on; how, and with which signal of the debugger's own.
    fn hold(&self, t: &mut Task) -> (Action, Option<i32>, u64, Arc<Points>) {
        if !self.active.load(Ordering::Acquire) {
            return (Action::Continue(None), None, 0, Arc::default());
        }
        let mut s = self.lock();
        loop {
            let halted = s.halted;
            match s.record(t.tid) {
                Some(r) if halted || r.action == Action::Stay => {}
                _ => break,
            }
            self.park(&mut s, t);
            s = self.wait(s);
        }
        self.unpark(&mut s, t);
        let (generation, points) = (s.generation, s.points.clone());
        match s.record(t.tid) {
            Some(r) => (r.action, r.inject.take(), generation, points),
            None => (Action::Continue(None), None, 0, Arc::default()),
        }
    }

    /// Stops the process and says why; gives how the thread goes on, or nothing if no debugger is there to say so. With
    /// `insist` the reason is reported even if somebody else's comes first; without, the thread looks again.
    fn stop(&self, t: &mut Task, why: Stop, insist: bool) -> Option<Action> {
        if !self.active.load(Ordering::Acquire) {
            return None;
        }
        let mut s = self.lock();
        loop {
            if !s.session || s.record(t.tid).is_none() {
                self.unpark(&mut s, t);
                return None;
            }
            let mine = !s.halted;
            self.park(&mut s, t);
            if mine {
                s.record(t.tid)?.deciding = matches!(why, Stop::Signal { .. });
                s = self.gather(s);
                self.send(Event::Stopped(why));
            }
            while s.halted || s.record(t.tid).is_some_and(|r| r.action == Action::Stay) {
                s = self.wait(s);
            }
            self.unpark(&mut s, t);
            if mine || !insist {
                let action = s.record(t.tid).map(|r| r.action);
                return action.filter(|_| s.session && mine);
            }
        }
    }

    /// The process is about to end: waits until the debugger knows.
    fn ending(&self, t: &mut Task, why: Stop) {
        let mut s = self.lock();
        while s.session {
            let mine = !s.halted;
            self.park(&mut s, t);
            if mine {
                s = self.gather(s);
                self.send(Event::Stopped(why));
                while s.session && !s.told {
                    s = self.wait(s);
                }
                return;
            }
            s = self.wait(s);
        }
    }

    /// Takes a thread out of its system call, which will begin again when the thread goes on. Whether it is `Parked`.
    fn pull_out<'a>(&'a self, mut s: Guard<'a>, tid: i32) -> (Guard<'a>, bool) {
        let guest_pc = |r: &Record| abi::reg(&r.state, 15) as u128;
        let Some(before) = s.record(tid).map(|r| guest_pc(r)) else { return (s, false) };
        for _ in 0..PULLS {
            match s.record(tid) {
                Some(r) if r.place == Place::Parked => {
                    let now = guest_pc(r);
                    if now != before {
                        r.rewound = Some((before, now));
                    }
                    return (s, true);
                }
                Some(_) => host_signal::poke(tid),
                None => break,
            }
            s = self.changed.wait_timeout(s, KICK_AGAIN).unwrap().0;
        }
        (s, false)
    }

    /// Holds everything still while the process forks.
    pub fn freeze(&self) -> impl Drop + '_ {
        self.lock()
    }

    /// In the child of a fork: nobody debugs this process so far. Where the debugger of the parent is connected.
    pub fn forget(&self, engine: &jit::Engine) -> Option<Handle> {
        let before = std::mem::take(&mut *self.lock());
        self.active.store(false, Ordering::Release);
        engine.set_breakpoints(BTreeSet::new());
        before.connection
    }
}

fn thread_of(tid: i32) -> Thread {
    Thread::new(tid as usize).expect("thread numbers begin at 1")
}

/// What guest threads do.
impl Task {
    /// Before the first instruction of a thread.
    pub fn debug_begin(&mut self) {
        let Some(d) = self.process.debug.clone() else { return };
        let mut shared = d.lock();
        let action = if shared.only_some_run { Action::Stay } else { Action::Continue(None) };
        let record = Record {
            tid: self.tid,
            kick: Kick(self.vcpu.kick()),
            place: Place::Running,
            state: Box::new(self.vcpu.state().clone()),
            dirty: false,
            action,
            deciding: false,
            siginfo: None,
            inject: None,
            rewound: None,
        };
        shared.threads.push(record);
        drop(shared);
        d.changed.notify_all();
    }

    /// After the last instruction of a thread.
    pub fn debug_end(&mut self, status: i32) {
        let Some(d) = self.process.debug.clone() else { return };
        let last = d.lock().threads.len() == 1;
        if last {
            d.ending(self, Stop::Exited(status as u8));
        }
        d.lock().threads.retain(|r| r.tid != self.tid);
        d.changed.notify_all();
    }

    /// Before the whole process ends with a status.
    pub fn debug_exit(&mut self, status: i32) {
        if let Some(d) = self.process.debug.clone() {
            d.ending(self, Stop::Exited(status as u8));
        }
    }

    /// Before a signal ends the process.
    pub fn debug_killed(&mut self, signal: i32) {
        if let Some(d) = self.process.debug.clone() {
            d.ending(self, Stop::Killed(gdb::signal::from_linux(signal)));
        }
    }

    /// How to go on; waits here while the process is stopped.
    pub fn pace(&mut self) -> Pace {
        let Some(d) = self.process.debug.clone() else { return Pace::Run };
        loop {
            let (action, inject, generation, points) = d.hold(self);
            if let Some(signal) = inject {
                self.inject_signal(SigInfo::new(signal, libc::SI_USER));
                continue;
            }
            let entered = std::mem::take(&mut self.signals.entered);
            match action {
                Action::Continue(_) if !points.watches.is_empty() => return Pace::Watch(points),
                Action::Continue(_) | Action::Stay => return Pace::Run,
                Action::Step(_) | Action::StepRange { .. } if entered => self.report_step(&d),
                Action::Step(_) | Action::StepRange { .. } => return Pace::Step(generation, points),
            }
        }
    }

    fn report_step(&mut self, d: &Debugger) {
        let thread = thread_of(self.tid);
        d.stop(self, Stop::Step { thread }, false);
    }

    /// Executes one instruction unless it accesses what is watched, which is reported.
    fn step_watching(&mut self, points: &Points) -> Stepped {
        match self.vcpu.step_watching(&points.watches) {
            Ok(None) => Stepped::Plainly,
            Ok(Some(stop)) => {
                self.handle(stop);
                Stepped::Handled
            }
            Err(hit) => {
                let stop = Stop::Watch { thread: thread_of(self.tid), kind: points.kinds[hit.watch], addr: hit.addr };
                if let Some(d) = self.process.debug.clone() {
                    d.stop(self, stop, false);
                }
                Stepped::Not
            }
        }
    }

    /// One instruction for the resume of that number.
    pub fn step(&mut self, generation: u64, points: &Points) {
        if self.step_watching(points) != Stepped::Not {
            self.stepped(generation);
        }
    }

    /// Runs for a while under watchpoints.
    pub fn run_watching(&mut self, points: &Points) {
        for _ in 0..WATCHED_INSTRUCTIONS {
            if points.breakpoints.contains(&(abi::reg(self.vcpu.state(), 15) as u64)) {
                return self.breakpoint_hit();
            }
            // After anything else the debugger may have changed the points.
            if self.step_watching(points) != Stepped::Plainly || self.has_signal_work() {
                return;
            }
        }
    }

    /// An instruction has been executed as the resume of that number wanted.
    fn stepped(&mut self, generation: u64) {
        let Some(d) = self.process.debug.clone() else { return };
        if self.ended.is_some() || self.signals.restarting {
            return;
        }
        let pc = abi::reg(self.vcpu.state(), 15) as u64;
        let (action, breakpoint) = {
            let mut s = d.lock();
            let (now, breakpoint) = (s.generation, s.points.breakpoints.contains(&pc));
            match s.record(self.tid) {
                Some(r) if now == generation => (r.action, breakpoint),
                _ => return,
            }
        };
        match action {
            Action::StepRange { start, end } if (start..end).contains(&pc) && breakpoint => self.breakpoint_hit(),
            Action::StepRange { start, end } if (start..end).contains(&pc) => {}
            Action::Step(_) | Action::StepRange { .. } => self.report_step(&d),
            Action::Continue(_) | Action::Stay => {}
        }
    }

    /// Translated code has come to a breakpoint.
    pub fn breakpoint_hit(&mut self) {
        let thread = thread_of(self.tid);
        let stop = Stop::Breakpoint { thread, hardware: false };
        let debugged = match self.process.debug.clone() {
            Some(d) if d.active.load(Ordering::Acquire) => {
                d.stop(self, stop, false);
                true
            }
            _ => false,
        };
        // A child that shares our translations but has no debugger.
        if !debugged && let Some(stop) = self.vcpu.step() {
            self.handle(stop);
        }
    }

    /// Lets the debugger decide about a signal; what is to be delivered.
    pub fn debug_signal(&mut self, info: SigInfo) -> Option<SigInfo> {
        let Some(d) = self.process.debug.clone() else { return Some(info) };
        let signal = gdb::signal::from_linux(info.signal());
        {
            let mut s = d.lock();
            if s.passed.contains(&signal) {
                return Some(info);
            }
            if let Some(r) = s.record(self.tid) {
                r.siginfo = Some(info);
            }
        }
        let stop = Stop::Signal { thread: thread_of(self.tid), signal };
        match d.stop(self, stop, true) {
            None => Some(info),
            Some(Action::Continue(Some(s)) | Action::Step(Some(s))) => match gdb::signal::to_linux(s)? {
                same if same == info.signal() => Some(info),
                other => Some(SigInfo::new(other, libc::SI_USER)),
            },
            Some(_) => None,
        }
    }

    /// Before a system call: the debugger may want to see it, and to change it.
    pub fn debug_call(&mut self, number: u32) {
        let Some(d) = self.process.debug.clone() else { return };
        self.report_call(&d, number, true);
        let state = self.vcpu.state().clone();
        let mut s = d.lock();
        if let Some(r) = s.record(self.tid) {
            *r.state = state;
            r.place = Place::InCall;
            d.changed.notify_all();
        }
    }

    /// The system call is over, before anything has come of its result.
    pub fn debug_call_done(&mut self) {
        let Some(d) = self.process.debug.clone() else { return };
        if let Some(r) = d.lock().record(self.tid)
            && r.place == Place::InCall
        {
            r.place = Place::Running;
        }
    }

    /// After a system call whose result is in the registers.
    pub fn debug_call_returned(&mut self, number: u32) {
        if let Some(d) = self.process.debug.clone()
            && self.ended.is_none()
        {
            self.report_call(&d, number, false);
            if d.active.load(Ordering::Acquire) {
                self.report_forks(&d);
            }
        }
    }

    fn report_call(&mut self, d: &Debugger, number: u32, entry: bool) {
        if d.active.load(Ordering::Acquire) && d.lock().syscalls.has(number as u64) {
            let stop = Stop::Syscall { thread: thread_of(self.tid), number: number as u64, entry };
            d.stop(self, stop, true);
        }
    }
}
