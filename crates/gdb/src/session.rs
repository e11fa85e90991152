//! One session: a debugger's connection from its first packet to its end.

use crate::adapter::Adapter;
use crate::extra::{Filter, LONGEST, Passed, advertise};
use crate::{Connection, Event, Stop, Target, Watch, Wire, signal};
use gdbstub::common::Signal as GdbSignal;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, MultiThreadStopReason};
use gdbstub::target::ext::breakpoints::WatchKind;
use gdbstub::target::ext::catch_syscalls::CatchSyscallPosition;
use spec::{Context, Error, Result};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

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
}

/// The output of `gdbstub`: whole packets, written at once.
pub(crate) struct Output {
    stream: Arc<dyn Wire>,
    pending: Vec<u8>,
    /// For the first list of features.
    features: &'static str,
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
            advertise(&mut bytes, self.features);
        }
        self.stream.write_all(&bytes)
    }
}

/// Reads from connection `number` until its end and passes on what comes. For a thread of its own.
pub fn read(stream: &Connection, number: u32, events: &Sender<Event>) {
    let mut buf = [0; 4096];
    loop {
        let n = stream.read(&mut buf).unwrap_or(0);
        if events.send(Event::Data(number, buf[..n].to_vec())).is_err() || n == 0 {
            return;
        }
    }
}

type Machine<'a, 'b> = GdbStubStateMachine<'a, Adapter<'b>, Output>;

/// Runs a session with a guest that has stopped. `events` brings what [`read`] reads under the connection's number, and the
/// guest's stops.
pub fn serve(stream: &Arc<dyn Wire>, number: u32, target: &mut dyn Target, events: &Receiver<Event>) -> Result<Ended> {
    let features = if target.pass_signals(&[]) { ";QPassSignals+;qXfer:siginfo:read+" } else { "" };
    let output = Output { stream: stream.clone(), pending: Vec::new(), features };
    let mut adapter = Adapter::new(target);
    let stub = GdbStub::builder(output).packet_buffer_size(LONGEST).build();
    let stub = stub.map_err(|e| Error::new(format!("the debugger's packet buffer: {e}")))?;
    let mut machine = stub.run_state_machine(&mut adapter).map_err(broken)?;
    let mut filter = Filter::default();
    loop {
        if let GdbStubStateMachine::Disconnected(m) = &machine {
            return Ok(match m.get_reason() {
                DisconnectReason::TargetExited(_) | DisconnectReason::TargetTerminated(_) => Ended::Finished,
                DisconnectReason::Kill => Ended::Killed,
                DisconnectReason::Disconnect => Ended::Detached,
            });
        }
        match events.recv() {
            Err(_) => return Ok(Ended::Lost),
            Ok(Event::Stopped(stop)) => {
                adapter.target.settle(&stop);
                if let Some(thread) = stop.thread() {
                    filter.stopped(thread);
                }
                machine = stopped(machine, stop, &mut adapter)?;
            }
            Ok(Event::Data(from, _)) if from != number => {}
            Ok(Event::Data(_, bytes)) if bytes.is_empty() => return Ok(Ended::Lost),
            Ok(Event::Data(_, bytes)) => {
                for byte in bytes {
                    let passed = filter.feed(byte, &mut adapter, &**stream).context(|| "the debugger's connection".into())?;
                    match passed {
                        Passed::Nothing => {}
                        Passed::Kill => return Ok(Ended::Killed),
                        Passed::Bytes(bytes) => {
                            for byte in bytes {
                                machine = incoming(machine, byte, &mut adapter)?;
                            }
                        }
                    }
                }
            }
        }
    }
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

fn stopped<'a, 'b>(machine: Machine<'a, 'b>, stop: Stop, adapter: &mut Adapter<'b>) -> Result<Machine<'a, 'b>> {
    match machine {
        GdbStubStateMachine::Running(m) => m.report_stop(adapter, reason(stop)).map_err(broken),
        // The debugger has not let it run: it was stopped already and said so.
        other => Ok(other),
    }
}

fn reason(stop: Stop) -> MultiThreadStopReason<u64> {
    match stop {
        Stop::Signal { thread, signal } => MultiThreadStopReason::SignalWithThread { tid: thread, signal: GdbSignal(signal) },
        Stop::Step { thread } => MultiThreadStopReason::SignalWithThread { tid: thread, signal: GdbSignal(signal::TRAP) },
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
