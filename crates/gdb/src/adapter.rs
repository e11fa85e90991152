//! [`Target`] as `gdbstub` wants it.
//!
//! One `gdbstub` architecture serves all guests: addresses are 64 bits wide, registers are bytes whose layout the guest's rows
//! give at run time.

use crate::{Action, Plan, Point, Signal, Space, Syscalls, Target, Watch, description};
use cpu::Register;
use gdbstub::common::{Pid, Signal as GdbSignal, Tid};
use gdbstub::target::ext::auxv::{Auxv, AuxvOps};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume, MultiThreadResumeOps,
    MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps,
    WatchKind,
};
use gdbstub::target::ext::catch_syscalls::{CatchSyscalls, CatchSyscallsOps, SyscallNumbers};
use gdbstub::target::ext::exec_file::{ExecFile, ExecFileOps};
use gdbstub::target::ext::extended_mode::{
    Args, AttachKind, CurrentActivePid, CurrentActivePidOps, ExtendedMode, ExtendedModeOps, ShouldTerminate,
};
use gdbstub::target::ext::host_io::HostIoOps;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::target_description_xml_override::{TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{TargetError, TargetResult};
use std::convert::Infallible;
use std::num::NonZeroUsize;

const EFAULT: u8 = 14;
const ESRCH: u8 = 3;

/// What is debugged, and what the debugger has said so far about the next resume.
pub struct Adapter<'a> {
    pub target: &'a mut dyn Target,
    pub physical: bool,
    xml: String,
    plan: Plan,
    /// System calls that the debugger may ask for, so that the question can be answered without asking the target.
    catches: bool,
    /// What the debugger reads, by its descriptors, with the names.
    pub files: Vec<Option<(Vec<u8>, std::fs::File)>>,
    /// The debugger's words are those to another process: this one is not let run.
    pub replaying: bool,
}

impl<'a> Adapter<'a> {
    pub fn new(target: &'a mut dyn Target) -> Adapter<'a> {
        let xml = description::xml(target.guest(), target.os_abi());
        let catches = target.catch_syscalls(Syscalls::None);
        Adapter { target, physical: false, xml, plan: Plan::default(), catches, files: Vec::new(), replaying: false }
    }

    fn space(&self) -> Space {
        if self.physical { Space::Physical } else { Space::Virtual }
    }

    pub fn registers(&self) -> &[Register] {
        self.target.guest().registers()
    }

    fn plan(&mut self, thread: Tid, action: Action) {
        self.plan.threads.push((thread, action));
    }
}

/// Every architecture.
pub enum AnyArch {}

impl gdbstub::arch::Arch for AnyArch {
    type Usize = u64;
    type Registers = Bytes;
    type BreakpointKind = usize;
    type RegId = Number;
}

/// All registers in a row, little-endian.
#[derive(Default, Debug, Clone, PartialEq)]
pub struct Bytes(Vec<u8>);

impl gdbstub::arch::Registers for Bytes {
    type ProgramCounter = u64;

    /// Nobody asks: only implicit breakpoints of targets that step by themselves need it.
    fn pc(&self) -> u64 {
        0
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for b in &self.0 {
            write_byte(Some(*b));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        self.0 = bytes.to_vec();
        Ok(())
    }
}

/// A register's number.
#[derive(Debug)]
pub struct Number(usize);

impl gdbstub::arch::RegId for Number {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        Some((Number(id), None))
    }
}

pub fn bytes_of(r: &Register) -> usize {
    (r.bits as usize).div_ceil(8)
}

fn value_of(bytes: &[u8]) -> u128 {
    bytes.iter().take(16).enumerate().fold(0, |v, (i, b)| v | (*b as u128) << (8 * i))
}

/// The part of `whole` that a `qXfer` read asks for.
pub fn part(whole: &[u8], offset: u64, length: usize, buf: &mut [u8]) -> usize {
    let rest = usize::try_from(offset).ok().and_then(|o| whole.get(o..)).unwrap_or_default();
    let n = rest.len().min(length).min(buf.len());
    buf[..n].copy_from_slice(&rest[..n]);
    n
}

impl gdbstub::target::Target for Adapter<'_> {
    type Arch = AnyArch;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, AnyArch, Infallible> {
        BaseOps::MultiThread(self)
    }

    // With gdbstub's, the child would be a thread of its parent's process: `follow` has its own.
    fn use_fork_stop_reason(&self) -> bool {
        false
    }

    fn use_vfork_stop_reason(&self) -> bool {
        false
    }

    fn use_vforkdone_stop_reason(&self) -> bool {
        false
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_extended_mode(&mut self) -> Option<ExtendedModeOps<'_, Self>> {
        self.target.pid().is_some().then_some(self)
    }

    fn support_target_description_xml_override(&mut self) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_catch_syscalls(&mut self) -> Option<CatchSyscallsOps<'_, Self>> {
        self.catches.then_some(self)
    }

    fn support_host_io(&mut self) -> Option<HostIoOps<'_, Self>> {
        self.target.exec_file().is_some().then_some(self)
    }

    fn support_exec_file(&mut self) -> Option<ExecFileOps<'_, Self>> {
        self.target.exec_file().is_some().then_some(self)
    }

    fn support_auxv(&mut self) -> Option<AuxvOps<'_, Self>> {
        self.target.auxv().is_some().then_some(self)
    }
}

// ---- processes ------------------------------------------------------------------------------------------------------

impl CurrentActivePid for Adapter<'_> {
    fn current_active_pid(&mut self) -> Result<Pid, Infallible> {
        Ok(self.target.pid().unwrap_or(Pid::MIN))
    }
}

/// Only for the process's number: packets of extended mode do not come this far (`Filter`).
impl ExtendedMode for Adapter<'_> {
    fn run(&mut self, _: Option<&[u8]>, _: Args<'_, '_>) -> TargetResult<Pid, Self> {
        Err(TargetError::NonFatal)
    }

    fn attach(&mut self, _: Pid) -> TargetResult<(), Self> {
        Err(TargetError::NonFatal)
    }

    fn query_if_attached(&mut self, _: Pid) -> TargetResult<AttachKind, Self> {
        Ok(if self.target.attached() { AttachKind::Attach } else { AttachKind::Run })
    }

    fn kill(&mut self, _: Option<Pid>) -> TargetResult<ShouldTerminate, Self> {
        Ok(ShouldTerminate::Yes)
    }

    fn restart(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn support_current_active_pid(&mut self) -> Option<CurrentActivePidOps<'_, Self>> {
        Some(self)
    }
}

// ---- threads, registers, memory -------------------------------------------------------------------------------------

impl MultiThreadBase for Adapter<'_> {
    fn read_registers(&mut self, regs: &mut Bytes, tid: Tid) -> TargetResult<(), Self> {
        for (n, r) in self.registers().iter().enumerate() {
            let value = self.target.read_register(tid, n).ok_or(TargetError::Errno(ESRCH))?;
            regs.0.extend_from_slice(&value.to_le_bytes()[..bytes_of(r)]);
        }
        Ok(())
    }

    fn write_registers(&mut self, regs: &Bytes, tid: Tid) -> TargetResult<(), Self> {
        let mut rest = &regs.0[..];
        for n in 0..self.registers().len() {
            let Some((value, tail)) = rest.split_at_checked(bytes_of(&self.registers()[n])) else { break };
            rest = tail;
            if !self.target.write_register(tid, n, value_of(value)) {
                return Err(TargetError::Errno(ESRCH));
            }
        }
        Ok(())
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, addr: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        match self.target.read_memory(tid, self.space(), addr, data) {
            0 if !data.is_empty() => Err(TargetError::Errno(EFAULT)),
            n => Ok(n),
        }
    }

    fn write_addrs(&mut self, addr: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let written = self.target.write_memory(tid, self.space(), addr, data);
        if written { Ok(()) } else { Err(TargetError::Errno(EFAULT)) }
    }

    fn list_active_threads(&mut self, found: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        self.target.threads().into_iter().for_each(found);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl SingleRegisterAccess<Tid> for Adapter<'_> {
    fn read_register(&mut self, tid: Tid, Number(n): Number, buf: &mut [u8]) -> TargetResult<usize, Self> {
        let len = self.registers().get(n).map(bytes_of).ok_or(TargetError::NonFatal)?;
        let value = self.target.read_register(tid, n).ok_or(TargetError::Errno(ESRCH))?;
        buf.get_mut(..len).ok_or(TargetError::NonFatal)?.copy_from_slice(&value.to_le_bytes()[..len]);
        Ok(len)
    }

    fn write_register(&mut self, tid: Tid, Number(n): Number, value: &[u8]) -> TargetResult<(), Self> {
        if n >= self.registers().len() {
            return Err(TargetError::NonFatal);
        }
        let written = self.target.write_register(tid, n, value_of(value));
        if written { Ok(()) } else { Err(TargetError::Errno(ESRCH)) }
    }
}

impl ThreadExtraInfo for Adapter<'_> {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Infallible> {
        Ok(part(self.target.thread_name(tid).as_bytes(), 0, buf.len(), buf))
    }
}

// ---- execution ------------------------------------------------------------------------------------------------------

fn signal(signal: Option<GdbSignal>) -> Option<Signal> {
    signal.map(|s| s.0).filter(|s| *s != 0)
}

impl MultiThreadResume for Adapter<'_> {
    fn resume(&mut self) -> Result<(), Infallible> {
        if !self.replaying {
            self.target.resume(&self.plan);
        }
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.plan = Plan::default();
        Ok(())
    }

    fn set_resume_action_continue(&mut self, tid: Tid, s: Option<GdbSignal>) -> Result<(), Infallible> {
        self.plan(tid, Action::Continue(signal(s)));
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Adapter<'_> {
    fn set_resume_action_step(&mut self, tid: Tid, s: Option<GdbSignal>) -> Result<(), Infallible> {
        self.plan(tid, Action::Step(signal(s)));
        Ok(())
    }
}

impl MultiThreadRangeStepping for Adapter<'_> {
    fn set_resume_action_range_step(&mut self, tid: Tid, start: u64, end: u64) -> Result<(), Infallible> {
        self.plan(tid, Action::StepRange { start, end });
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Adapter<'_> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        self.plan.locked = true;
        Ok(())
    }
}

// ---- points ---------------------------------------------------------------------------------------------------------

impl Breakpoints for Adapter<'_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        self.target.supports(Point::Hardware { addr: 0 }).then_some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        self.target.supports(Point::Watch { kind: Watch::Write, addr: 0, len: 4 }).then_some(self)
    }
}

impl SwBreakpoint for Adapter<'_> {
    fn add_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.target.insert(Point::Software { addr }))
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.target.remove(Point::Software { addr }))
    }
}

impl HwBreakpoint for Adapter<'_> {
    fn add_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.target.insert(Point::Hardware { addr }))
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.target.remove(Point::Hardware { addr }))
    }
}

fn watch(kind: WatchKind, addr: u64, len: u64) -> Point {
    let kind = match kind {
        WatchKind::Write => Watch::Write,
        WatchKind::Read => Watch::Read,
        WatchKind::ReadWrite => Watch::Access,
    };
    Point::Watch { kind, addr, len }
}

impl HwWatchpoint for Adapter<'_> {
    fn add_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.target.insert(watch(kind, addr, len)))
    }

    fn remove_hw_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.target.remove(watch(kind, addr, len)))
    }
}

impl CatchSyscalls for Adapter<'_> {
    fn enable_catch_syscalls(&mut self, filter: Option<SyscallNumbers<'_, u64>>) -> TargetResult<(), Self> {
        let which = filter.map_or(Syscalls::All, |numbers| Syscalls::Some(numbers.collect()));
        self.target.catch_syscalls(which);
        Ok(())
    }

    fn disable_catch_syscalls(&mut self) -> TargetResult<(), Self> {
        self.target.catch_syscalls(Syscalls::None);
        Ok(())
    }
}

// ---- information ----------------------------------------------------------------------------------------------------

impl TargetDescriptionXmlOverride for Adapter<'_> {
    fn target_description_xml(&self, annex: &[u8], offset: u64, length: usize, buf: &mut [u8]) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        Ok(part(self.xml.as_bytes(), offset, length, buf))
    }
}

impl MonitorCmd for Adapter<'_> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Infallible> {
        let text = self.target.monitor(&String::from_utf8_lossy(command));
        out.write_raw(text.as_deref().unwrap_or("There is no monitor here.\n").as_bytes());
        Ok(())
    }
}

impl ExecFile for Adapter<'_> {
    fn get_exec_file(&self, _: Option<Pid>, offset: u64, length: usize, buf: &mut [u8]) -> TargetResult<usize, Self> {
        Ok(part(self.target.exec_file().unwrap_or_default(), offset, length, buf))
    }
}

impl Auxv for Adapter<'_> {
    fn get_auxv(&self, offset: u64, length: usize, buf: &mut [u8]) -> TargetResult<usize, Self> {
        Ok(part(self.target.auxv().unwrap_or_default(), offset, length, buf))
    }
}
