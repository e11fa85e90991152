//! Signals as the guest sees them: dispositions, masks, delivery, default actions.
//!
//! **Reference.** signal(7); the kernel's `signal.c` for the order of things.

use crate::abi::arm as abi;
use crate::errno::{self, Errno, Ret};
use crate::host_signal::{self, Disposition, SIGNALS, UNBLOCKABLE, bit};
use crate::siginfo::SigInfo;
use crate::task::Task;
use abi::{AltStack, FaultContext, FrameRequest};

pub const SIG_DFL: u32 = 0;
pub const SIG_IGN: u32 = 1;
const SA_NOCLDSTOP: u32 = 1;
const SA_NOCLDWAIT: u32 = 2;
const SA_ONSTACK: u32 = 0x0800_0000;
const SA_RESTART: u32 = 0x1000_0000;
const SA_NODEFER: u32 = 0x4000_0000;
const SA_RESETHAND: u32 = 0x8000_0000;
const SS_ONSTACK: u32 = 1;
const SS_DISABLE: u32 = 2;
const SS_AUTODISARM: u32 = 1 << 31;
/// The first signal that queues.
const REAL_TIME: i32 = 32;
/// MINSIGSTKSZ of 32-bit ARM.
const MIN_STACK: u32 = 2048;

/// struct sigaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Action {
    pub handler: u32,
    pub flags: u32,
    pub restorer: u32,
    pub mask: u64,
}

/// The dispositions of a process.
#[derive(Clone)]
pub struct Actions([Action; SIGNALS as usize]);

/// A thread's signal state.
pub struct Signals {
    pub mask: u64,
    /// The mask before sigsuspend, ppoll or the like replaced it for the time of the call.
    pub saved: Option<u64>,
    pub altstack: AltStack,
    /// Signals that arrived although the guest blocks them (SIGSEGV and SIGBUS are never blocked on the host).
    held: Vec<SigInfo>,
    /// The current system call is to run again.
    pub restarting: bool,
    /// It had begun, so a handler without SA_RESTART turns it into EINTR.
    pub interrupted: bool,
    pub fault: FaultContext,
    /// A handler is about to begin; for debuggers that step.
    pub entered: bool,
}

impl Default for Signals {
    fn default() -> Self {
        let altstack = AltStack { sp: 0, flags: SS_DISABLE, size: 0 };
        Signals { mask: 0, saved: None, altstack, held: Vec::new(), restarting: false, interrupted: false, fault: FaultContext::default(), entered: false }
    }
}

/// What a signal does by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DefaultAction {
    Ignore,
    Stop,
    End,
    /// Ends the process with QEMU's message.
    Core,
}

fn default_action(signal: i32) -> DefaultAction {
    match signal {
        libc::SIGCHLD | libc::SIGCONT | libc::SIGURG | libc::SIGWINCH => DefaultAction::Ignore,
        libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => DefaultAction::Stop,
        libc::SIGQUIT | libc::SIGILL | libc::SIGTRAP | libc::SIGABRT | libc::SIGFPE | libc::SIGSEGV | libc::SIGBUS => {
            DefaultAction::Core
        }
        _ => DefaultAction::End,
    }
}

impl Actions {
    /// What the process has inherited, and the handlers that it needs from the start.
    pub fn inherited() -> Actions {
        let mut actions = Actions([Action::default(); SIGNALS as usize]);
        for signal in 1..=SIGNALS as i32 {
            if signal == libc::SIGKILL || signal == libc::SIGSTOP {
                continue;
            }
            // The host's dispositions are default or ignored after execve, which is what most should be.
            if host_signal::is_ignored(signal) {
                actions.0[signal as usize - 1].handler = SIG_IGN;
            }
            if actions.host_disposition(signal) == Disposition::Record {
                let _ = actions.install(signal);
            }
        }
        actions
    }

    pub fn get(&self, signal: i32) -> Action {
        self.0[signal as usize - 1]
    }

    /// Sets a disposition, here and on the host.
    pub fn set(&mut self, signal: i32, action: Action) -> Result<(), Errno> {
        let old = std::mem::replace(&mut self.0[signal as usize - 1], action);
        self.install(signal).inspect_err(|_| self.0[signal as usize - 1] = old)
    }

    fn host_disposition(&self, signal: i32) -> Disposition {
        match self.get(signal).handler {
            _ if matches!(signal, libc::SIGSEGV | libc::SIGBUS) => Disposition::Record,
            SIG_IGN => Disposition::Ignore,
            SIG_DFL if default_action(signal) == DefaultAction::Core => Disposition::Record,
            SIG_DFL => Disposition::Default,
            _ => Disposition::Record,
        }
    }

    fn install(&self, signal: i32) -> Result<(), Errno> {
        let action = self.get(signal);
        let host = self.host_disposition(signal);
        host_signal::set_disposition(signal, host, (action.flags & (SA_NOCLDSTOP | SA_NOCLDWAIT)) as u64)
    }

    /// Takes back the signal by which glibc changes the user of all threads: the host's C library installs a handler of its own
    /// when the process's first thread begins, and the guest's C library uses the same number. Called by every new thread before
    /// it lets signals in.
    pub fn reclaim(&self) {
        const SIGSETXID: i32 = 33;
        let _ = self.install(SIGSETXID);
    }

    /// The set of signals with handlers.
    pub fn caught(&self) -> u64 {
        (1..=SIGNALS as i32).filter(|s| self.get(*s).handler > SIG_IGN).fold(0, |m, s| m | bit(s))
    }

    /// All that are not ignored become default (CLONE_CLEAR_SIGHAND).
    pub fn clear(&mut self) {
        for signal in 1..=SIGNALS as i32 {
            if !matches!(self.get(signal).handler, SIG_DFL | SIG_IGN) {
                let _ = self.set(signal, Action::default());
            }
        }
    }

    /// What execve leaves: handlers become default, ignored signals stay ignored.
    pub fn prepare_exec(&self) {
        for signal in 1..=SIGNALS as i32 {
            let ignored = self.get(signal).handler == SIG_IGN;
            let host = if ignored { Disposition::Ignore } else { Disposition::Default };
            // Only those need it that the kernel's own reset would get wrong.
            if matches!(signal, libc::SIGSEGV | libc::SIGBUS) && ignored {
                let _ = host_signal::set_disposition(signal, host, 0);
            }
        }
    }

    /// After an execve that has failed: what `prepare_exec` has changed.
    pub fn after_exec(&self) {
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            let _ = self.install(signal);
        }
    }
}

impl Task {
    /// Makes the guest's mask the host's.
    pub fn set_signal_mask(&mut self, mask: u64) {
        self.signals.mask = mask & !UNBLOCKABLE;
        // With a signal waiting, delivery sets the mask.
        let _ = host_signal::set_mask(&self.link, self.signals.mask);
    }

    /// Delivers what waits. Called before every return to guest code that may have a signal.
    pub fn deliver_signals(&mut self) {
        loop {
            if let Some(i) = self.signals.held.iter().position(|s| self.signals.mask & bit(s.signal()) == 0) {
                let info = self.signals.held.remove(i);
                self.dispatch(info, false);
                continue;
            }
            let Some(info) = self.link.take() else { break };
            self.dispatch(info, false);
            let _ = host_signal::set_mask(&self.link, self.signals.mask);
        }
        if let Some(old) = self.signals.saved.take() {
            self.set_signal_mask(old);
            if self.link.is_pending() {
                return self.deliver_signals();
            }
        }
        self.signals.restarting = false;
    }

    /// The signals that wait here because the guest blocks them.
    pub fn held_signals(&self) -> u64 {
        self.signals.held.iter().fold(0, |m, s| m | bit(s.signal()))
    }

    pub fn has_signal_work(&self) -> bool {
        self.link.is_pending() || self.signals.saved.is_some() || self.signals.restarting || !self.signals.held.is_empty()
    }

    /// A signal that the current instruction has caused. It cannot be blocked or ignored.
    pub fn force_signal(&mut self, info: SigInfo) {
        let Some(info) = self.debug_signal(info) else { return };
        let signal = info.signal();
        let ignored = self.process.actions.lock().unwrap().get(signal).handler == SIG_IGN;
        if ignored || self.signals.mask & bit(signal) != 0 {
            self.report_fatal(&info);
        }
        self.dispatch(info, true);
        let _ = host_signal::set_mask(&self.link, self.signals.mask);
    }

    /// A signal from the debugger, which has decided already.
    pub fn inject_signal(&mut self, info: SigInfo) {
        if self.signals.mask & bit(info.signal()) != 0 {
            self.hold(info);
        } else {
            self.dispatch(info, true);
        }
    }

    /// Keeps a signal until the guest opens its mask. What the kernel does not queue waits once.
    fn hold(&mut self, info: SigInfo) {
        let queues = info.signal() >= REAL_TIME;
        if queues || !self.signals.held.iter().any(|h| h.signal() == info.signal()) {
            self.signals.held.push(info);
        }
    }

    fn dispatch(&mut self, info: SigInfo, synchronous: bool) {
        let signal = info.signal();
        if !synchronous && self.signals.mask & bit(signal) != 0 {
            self.hold(info);
            return;
        }
        let info = match synchronous {
            true => info,
            false => match self.debug_signal(info) {
                Some(info) => info,
                None => return,
            },
        };
        let signal = info.signal();
        self.trace_signal(&info);
        let action = {
            let mut actions = self.process.actions.lock().unwrap();
            let action = actions.get(signal);
            if action.flags & SA_RESETHAND != 0 && action.handler > SIG_IGN {
                let _ = actions.set(signal, Action { handler: SIG_DFL, ..action });
            }
            action
        };
        match action.handler {
            SIG_IGN => {}
            SIG_DFL => match default_action(signal) {
                DefaultAction::Ignore => {}
                DefaultAction::Stop => {
                    // SAFETY: plain system call.
                    unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
                }
                DefaultAction::End | DefaultAction::Core => self.report_fatal(&info),
            },
            _ => self.push_frame(&info, action),
        }
    }

    fn push_frame(&mut self, info: &SigInfo, action: Action) {
        let signal = info.signal();
        let interrupted = std::mem::take(&mut self.signals.restarting) && self.signals.interrupted;
        if interrupted && action.flags & SA_RESTART == 0 {
            let s = self.vcpu.state_mut();
            let pc = abi::reg(s, 15).wrapping_add(abi::svc_bytes(s));
            abi::set_reg(s, 15, pc);
            abi::set_result(s, Err(errno::EINTR));
        }
        if self.vcpu.interrupt_sequence().is_err() {
            self.report_fatal(&SigInfo::fault(libc::SIGSEGV, libc::SI_KERNEL, 0));
        }
        self.vcpu.clear_exclusive();
        let sp = abi::reg(self.vcpu.state(), abi::SP);
        let alt = self.signals.altstack;
        let top = if action.flags & SA_ONSTACK != 0 && !abi::altstack_disabled(&alt) && !on_altstack(&alt, sp) {
            alt.sp.wrapping_add(alt.size)
        } else {
            sp
        };
        let request = FrameRequest {
            signal: signal as u32,
            info,
            handler: action.handler,
            flags: action.flags,
            restorer: action.restorer,
            mask: self.signals.saved.unwrap_or(self.signals.mask),
            altstack: alt,
            sp: top,
            fault: self.signals.fault,
        };
        let memory = self.process.memory.clone();
        if abi::push_frame(self.vcpu.state_mut(), &memory, &request).is_err() {
            self.report_fatal(&SigInfo::fault(libc::SIGSEGV, 1, top));
        }
        self.signals.entered = true;
        self.signals.saved = None;
        if alt.flags & SS_AUTODISARM != 0 {
            self.signals.altstack = AltStack { sp: 0, flags: SS_DISABLE, size: 0 };
        }
        let own = if action.flags & SA_NODEFER != 0 { 0 } else { bit(signal) };
        self.signals.mask = (self.signals.mask | action.mask | own) & !UNBLOCKABLE;
    }

    /// Ends the process by a signal, with QEMU's message for those that dump core.
    pub fn report_fatal(&mut self, info: &SigInfo) -> ! {
        let signal = info.signal();
        self.debug_killed(signal);
        self.before_process_end();
        if default_action(signal) == DefaultAction::Core {
            // SAFETY: strsignal gives a C string that lives until the next call; other threads are about to die.
            let name = unsafe { std::ffi::CStr::from_ptr(libc::strsignal(signal)) }.to_string_lossy();
            eprintln!("qemu: uncaught target signal {signal} ({name}) - core dumped");
            if info.code() > 0 {
                let pc = abi::reg(self.vcpu.state(), 15);
                eprintln!("hint: at guest pc {pc:#010x}{}, address {:#010x}", self.place(pc), info.address());
            }
        }
        host_signal::die(signal)
    }

    /// sigreturn and rt_sigreturn.
    pub fn signal_return(&mut self, with_info: bool) -> Ret {
        let memory = self.process.memory.clone();
        match abi::pop_frame(self.vcpu.state_mut(), &memory, with_info) {
            Ok((mask, altstack)) => {
                self.set_signal_mask(mask);
                if with_info {
                    let sp = abi::reg(self.vcpu.state(), abi::SP);
                    let _ = self.set_altstack(altstack, sp);
                }
            }
            Err(_) => {
                let sp = abi::reg(self.vcpu.state(), abi::SP);
                self.force_signal(SigInfo::fault(libc::SIGSEGV, 1, sp));
            }
        }
        Err(errno::JUST_RETURN)
    }

    /// sigaltstack's new value, checked as the kernel does.
    pub fn set_altstack(&mut self, new: AltStack, sp: u32) -> Result<(), Errno> {
        if on_altstack(&self.signals.altstack, sp) {
            return Err(errno::EPERM);
        }
        let mode = new.flags & !SS_AUTODISARM;
        if mode & !(SS_DISABLE | SS_ONSTACK) != 0 || mode == 3 {
            return Err(errno::EINVAL);
        }
        if mode == SS_DISABLE {
            self.signals.altstack = AltStack { sp: 0, flags: SS_DISABLE, size: 0 };
            return Ok(());
        }
        if new.size < MIN_STACK {
            return Err(errno::ENOMEM);
        }
        self.signals.altstack = AltStack { flags: new.flags & SS_AUTODISARM, ..new };
        Ok(())
    }

    /// sigaltstack's old value.
    pub fn altstack_now(&self, sp: u32) -> AltStack {
        let a = self.signals.altstack;
        let state = if abi::altstack_disabled(&a) {
            SS_DISABLE
        } else if on_altstack(&a, sp) {
            SS_ONSTACK
        } else {
            0
        };
        AltStack { flags: a.flags & SS_AUTODISARM | state, ..a }
    }
}

fn on_altstack(a: &AltStack, sp: u32) -> bool {
    !abi::altstack_disabled(a) && a.flags & SS_AUTODISARM == 0 && sp > a.sp && sp - a.sp <= a.size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alternate_stack_excludes_its_lowest_byte() {
        let a = AltStack { sp: 0x1000, flags: 0, size: 0x1000 };
        assert!(on_altstack(&a, 0x2000) && on_altstack(&a, 0x1001));
        assert!(!on_altstack(&a, 0x1000) && !on_altstack(&a, 0x2001));
        assert!(!on_altstack(&AltStack { flags: SS_AUTODISARM, ..a }, 0x1800));
    }

    #[test]
    fn default_actions_follow_signal_7() {
        assert_eq!(default_action(libc::SIGCHLD), DefaultAction::Ignore);
        assert_eq!(default_action(libc::SIGTTOU), DefaultAction::Stop);
        assert_eq!(default_action(libc::SIGABRT), DefaultAction::Core);
        assert_eq!(default_action(40), DefaultAction::End);
    }
}
