//! One session: a debugger's connection from its first packet to its end.

use crate::adapter::Adapter;
use crate::extra::{Filter, LONGEST, Passed, advertise, append};
use crate::follow::{Spoken, hex};
use crate::{Connection, Event, Stop, Target, Watch, Wire, signal};
use gdbstub::common::Signal as GdbSignal;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use gdbstub::target::ext::breakpoints::WatchKind;
use gdbstub::target::ext::catch_syscalls::CatchSyscallPosition;
use spec::{Context, Error, Result};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// How a session has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The debugger has detached; the guest goes on.
    Detached,
    /// The debugger has gone without a word.
    Lost,
    /// The guest has ended, and the debugger knows.
    Finished,
    /// The debugger wants the guest to end.
    Killed,
    /// A child of the process has taken over.
    HandedOver,
}

/// The output of `gdbstub`: whole packets, written at once.
pub(crate) struct Output {
    stream: Arc<dyn Wire>,
    pending: Vec<u8>,
    /// For the first list of features.
    features: String,
    /// What the next stop is besides a signal.
    event: Option<String>,
    /// What is said is the answer to something that another process was asked, and has answered.
    muted: bool,
}

impl gdbstub::conn::Connection for Output {
    type Error = std::io::Error;

    fn write(&mut self, byte: u8) -> std::io::Result<()> {
        self.pending.push(byte);
        Ok(())
    }

    fn write_all(&mut self, buf: &[u8]) -> std::io::Result<()> {
        self.pending.extend_from_slice(buf);
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let mut bytes = std::mem::take(&mut self.pending);
        if !self.features.is_empty() {
            advertise(&mut bytes, &self.features);
        }
        if let Some(event) = self.event.take_if(|_| !self.muted) {
            append(&mut bytes, b"$T05", &event);
        }
        if self.muted {
            return Ok(());
        }
        self.stream.write_all(&bytes)
    }
}

/// Reads from connection `number` until its end, or until nobody wants more, and passes on what comes. For a thread of its own.
pub fn read(stream: &Connection, number: u32, events: &Sender<Event>) {
    let mut buf = [0; 4096];
    loop {
        let n = stream.read(&mut buf).unwrap_or(0);
        let (next, go) = channel();
        if events.send(Event::Read(number, buf[..n].to_vec(), next)).is_err() || n == 0 || go.recv().is_err() {
            return;
        }
    }
}

type Machine<'a, 'b> = GdbStubStateMachine<'a, Adapter<'b>, Output>;

/// Runs a session with a guest that has stopped. `events` brings what [`read`] reads under the connection's number, and the
/// guest's stops.
pub fn serve(stream: &Arc<dyn Wire>, number: u32, target: &mut dyn Target, events: &Receiver<Event>) -> Result<Ended> {
    converse(stream, number, target, events, None)
}

/// Goes on with a session of another process, whose debugger has said this: of the parent, or (`exec`) of the program before
/// execve, which the debugger is told about.
pub fn go_on(
    stream: &Arc<dyn Wire>,
    number: u32,
    target: &mut dyn Target,
    events: &Receiver<Event>,
    spoken: &Spoken,
    exec: bool,
) -> Result<Ended> {
    converse(stream, number, target, events, Some((spoken, exec)))
}

fn converse(
    stream: &Arc<dyn Wire>,
    number: u32,
    target: &mut dyn Target,
    events: &Receiver<Event>,
    before: Option<(&Spoken, bool)>,
) -> Result<Ended> {
    let features = features(target);
    let output = Output { stream: stream.clone(), pending: Vec::new(), features, event: None, muted: false };
    let mut adapter = Adapter::new(target);
    let stub = GdbStub::builder(output).packet_buffer_size(LONGEST).build();
    let stub = stub.map_err(|e| Error::new(format!("the debugger's packet buffer: {e}")))?;
    let mut machine = stub.run_state_machine(&mut adapter).map_err(broken)?;
    let mut filter = Filter::default();
    if let Some((spoken, exec)) = before {
        machine = replay(machine, spoken, exec, &mut filter, &mut adapter)?;
    }
    loop {
        if let Some(ended) = ended(&machine) {
            return Ok(ended);
        }
        let (from, bytes, next) = match events.recv() {
            Err(_) => return Ok(Ended::Lost),
            Ok(Event::Stopped(stop)) => {
                machine = stopped(machine, stop, &mut filter, &mut adapter)?;
                continue;
            }
            Ok(Event::Data(from, bytes)) => (from, bytes, None),
            Ok(Event::Read(from, bytes, next)) => (from, bytes, Some(next)),
        };
        if from != number {
            continue;
        }
        if bytes.is_empty() {
            return Ok(Ended::Lost);
        }
        machine = match heard(machine, &bytes, &mut filter, &mut adapter, &**stream)? {
            ControlFlow::Continue(machine) => machine,
            ControlFlow::Break(ended) => return Ok(ended),
        };
        if let Some(next) = next {
            let _ = next.send(());
        }
    }
}

/// What the debugger is told besides the features that `gdbstub` lists.
fn features(target: &mut dyn Target) -> String {
    let mut features = String::new();
    if target.pass_signals(&[]) {
        features += ";QPassSignals+;qXfer:siginfo:read+";
    }
    if target.pid().is_some() {
        features += ";fork-events+;exec-events+";
    }
    features
}

fn ended(machine: &Machine<'_, '_>) -> Option<Ended> {
    let GdbStubStateMachine::Disconnected(m) = machine else { return None };
    Some(match m.get_reason() {
        DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => Ended::Finished,
        DisconnectReason::Kill => Ended::Killed,
        DisconnectReason::Disconnect => Ended::Detached,
    })
}

/// Gives the stub what the debugger says, but for what the filter answers or what ends the session here.
fn heard<'a, 'b>(
    mut machine: Machine<'a, 'b>,
    bytes: &[u8],
    filter: &mut Filter,
    adapter: &mut Adapter<'b>,
    stream: &dyn Wire,
) -> Result<ControlFlow<Ended, Machine<'a, 'b>>> {
    for byte in bytes {
        match filter.feed(*byte, adapter, stream).context(|| "the debugger's connection".into())? {
            Passed::Nothing => {}
            Passed::Kill => return Ok(ControlFlow::Break(Ended::Killed)),
            Passed::HandOver(child) => {
                let spoken = filter.conversation.spoken(Some(child), adapter);
                adapter.target.hand_over(child, &spoken);
                return Ok(ControlFlow::Break(Ended::HandedOver));
            }
            Passed::Bytes(bytes) => {
                if bytes.starts_with(b"$vCont;") {
                    let spoken = filter.conversation.spoken(None, adapter);
                    adapter.target.hear(&spoken);
                }
                machine = passed(machine, &bytes, adapter)?;
            }
        }
    }
    Ok(ControlFlow::Continue(machine))
}

fn passed<'a, 'b>(mut machine: Machine<'a, 'b>, bytes: &[u8], adapter: &mut Adapter<'b>) -> Result<Machine<'a, 'b>> {
    for byte in bytes {
        machine = incoming(machine, *byte, adapter)?;
    }
    Ok(machine)
}

/// Brings the stub to where that of the other process was: in the child of a fork it has been asked for something; before
/// execve it has been told to go on.
fn replay<'a, 'b>(
    mut machine: Machine<'a, 'b>,
    spoken: &Spoken,
    exec: bool,
    filter: &mut Filter,
    adapter: &mut Adapter<'b>,
) -> Result<Machine<'a, 'b>> {
    struct Nowhere;
    impl Wire for Nowhere {
        fn write_all(&self, _: &[u8]) -> std::io::Result<()> {
            Ok(())
        }
    }
    adapter.replaying = true;
    machine = muted(machine, true);
    for packet in spoken.0.iter().map(String::as_str).chain(exec.then_some("vCont;c")) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        for byte in format!("${packet}#{sum:02x}").bytes() {
            if let Passed::Bytes(bytes) =
                filter.feed(byte, adapter, &Nowhere).context(|| "the debugger's connection".into())?
            {
                machine = passed(machine, &bytes, adapter)?;
            }
        }
    }
    adapter.replaying = false;
    Ok(muted(machine, false))
}

fn muted<'a, 'b>(mut machine: Machine<'a, 'b>, muted: bool) -> Machine<'a, 'b> {
    match &mut machine {
        GdbStubStateMachine::Idle(m) => m.borrow_conn().muted = muted,
        GdbStubStateMachine::Running(m) => m.borrow_conn().muted = muted,
        GdbStubStateMachine::CtrlCInterrupt(_) | GdbStubStateMachine::Disconnected(_) => {}
    }
    machine
}

fn incoming<'a, 'b>(machine: Machine<'a, 'b>, byte: u8, adapter: &mut Adapter<'b>) -> Result<Machine<'a, 'b>> {
    let machine = match machine {
        GdbStubStateMachine::Idle(m) => m.incoming_data(adapter, byte).map_err(broken)?,
        GdbStubStateMachine::Running(m) => m.incoming_data(adapter, byte).map_err(broken)?,
        other => other,
    };
    match machine {
        GdbStubStateMachine::CtrlCInterrupt(m) => {
            adapter.target.interrupt();
            m.interrupt_handled(adapter, None::<MultiThreadStopReason<u64>>).map_err(broken)
        }
        other => Ok(other),
    }
}

fn stopped<'a, 'b>(
    machine: Machine<'a, 'b>,
    stop: Stop,
    filter: &mut Filter,
    adapter: &mut Adapter<'b>,
) -> Result<Machine<'a, 'b>> {
    adapter.target.settle(&stop);
    if let Some(thread) = stop.thread() {
        filter.stopped(thread);
    }
    if let Stop::Fork { thread, child } = stop {
        filter.conversation.forked(child, thread);
    }
    match machine {
        GdbStubStateMachine::Running(mut m) => {
            m.borrow_conn().event = event(stop, adapter);
            m.report_stop(adapter, reason(stop)).map_err(broken)
        }
        // The debugger has not let it run: it was stopped already and said so.
        other => Ok(other),
    }
}

/// What `gdbstub` has no words for; for it these stops are a SIGTRAP.
fn event(stop: Stop, adapter: &Adapter<'_>) -> Option<String> {
    match stop {
        Stop::Fork { child, .. } => Some(format!("fork:p{child:x}.{child:x};")),
        Stop::Exec { .. } => Some(format!("exec:{};", hex(adapter.target.exec_file()?.iter().copied()))),
        _ => None,
    }
}

fn reason(stop: Stop) -> MultiThreadStopReason<u64> {
    match stop {
        Stop::Signal { thread, signal } => {
            MultiThreadStopReason::SignalWithThread { tid: thread, signal: GdbSignal(signal) }
        }
        Stop::Step { thread } | Stop::Fork { thread, .. } | Stop::Exec { thread } => {
            MultiThreadStopReason::SignalWithThread { tid: thread, signal: GdbSignal(signal::TRAP) }
        }
        Stop::Breakpoint { thread, hardware: false } => MultiThreadStopReason::SwBreak(thread),
        Stop::Breakpoint { thread, hardware: true } => MultiThreadStopReason::HwBreak(thread),
        Stop::Watch { thread, kind, addr } => {
            let kind = match kind {
                Watch::Write => WatchKind::Write,
                Watch::Read => WatchKind::Read,
                Watch::Access => WatchKind::ReadWrite,
            };
            MultiThreadStopReason::Watch { tid: thread, kind, addr }
        }
        Stop::Syscall { thread, number, entry } => {
            let position = if entry { CatchSyscallPosition::Entry } else { CatchSyscallPosition::Return };
            MultiThreadStopReason::CatchSyscall { tid: Some(thread), number, position }
        }
        Stop::Exited(status) => MultiThreadStopReason::Exited(status),
        Stop::Killed(signal) => MultiThreadStopReason::Terminated(GdbSignal(signal)),
    }
}

fn broken<T: std::fmt::Display, C: std::fmt::Display>(e: gdbstub::stub::GdbStubError<T, C>) -> Error {
    Error::new(format!("the debugger's session ends: {e}"))
}
