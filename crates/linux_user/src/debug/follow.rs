//! A debugger that follows: from a program to the next after execve, and from the parent of a fork to the child.
//!
//! After a fork the child waits at one end of a socket pair for a word of its parent: what the debugger has said, if the child
//! is followed, or nothing. The parent's call is reported when its result is in the registers. execve hands the connection on
//! with an option of the emulator that begins.
//!
//! **Not modelled**: `vfork` that shares memory while a debugger may want to follow: it copies, and the parent waits for the
//! child's end or execve as it should.

use super::target::{self, Taken};
use super::{Debugger, Place, Shared};
use crate::task::Task;
use gdb::{Connection, Listener, Spoken, Stop, Thread};
use std::ffi::{CStr, CString};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

/// A child that waits.
pub struct Child {
    pub pid: i32,
    /// The thread that made it.
    by: i32,
    word: UnixStream,
    /// The debugger knows.
    pub told: bool,
    /// The parent waits until the child executes a program or ends.
    vfork: bool,
}

/// The two ends of a fork: the parent's and the child's.
pub struct Ends {
    parent: UnixStream,
    child: UnixStream,
}

/// What one emulator hands on to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handed {
    connection: Handle,
    listener: Option<Handle>,
    spoken: Spoken,
}

/// A descriptor, of a TCP socket or a Unix one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    pub tcp: bool,
    pub fd: RawFd,
}

impl Handle {
    fn text(self) -> String {
        format!("{}{}", if self.tcp { "tcp" } else { "unix" }, self.fd)
    }

    fn parse(text: &str) -> Option<Handle> {
        let tcp = text.starts_with("tcp");
        let fd = text.strip_prefix(if tcp { "tcp" } else { "unix" })?.parse().ok()?;
        Some(Handle { tcp, fd })
    }

    /// # Safety
    /// The descriptor is open and nobody else's.
    unsafe fn take(self) -> OwnedFd {
        // SAFETY: the caller's promise.
        unsafe { OwnedFd::from_raw_fd(self.fd) }
    }

    fn close_on_exec(self, on: bool) {
        // SAFETY: no memory involved.
        unsafe { libc::fcntl(self.fd, libc::F_SETFD, if on { libc::FD_CLOEXEC } else { 0 }) };
    }
}

impl Handed {
    /// The value of `-debugger`.
    fn text(&self) -> String {
        let said: String = self.spoken.text().bytes().map(|b| format!("{b:02x}")).collect();
        format!("{},{},{said}", self.connection.text(), self.listener.map_or_else(|| "-".into(), Handle::text))
    }

    pub fn parse(text: &str) -> Option<Handed> {
        let mut parts = text.split(',');
        let connection = Handle::parse(parts.next()?)?;
        let listener = parts.next()?;
        let said = parts.next()?;
        let bytes: Option<Vec<u8>> =
            (0..said.len()).step_by(2).map(|i| u8::from_str_radix(said.get(i..i + 2)?, 16).ok()).collect();
        let listener = if listener == "-" { None } else { Some(Handle::parse(listener)?) };
        let spoken = Spoken::from_text(&String::from_utf8(bytes?).ok()?);
        Some(Handed { connection, listener, spoken })
    }

    /// What the server of the next program begins with. The descriptors are no program's business any more.
    pub fn take(self) -> (Option<Listener>, Taken) {
        self.connection.close_on_exec(true);
        let listener = self.listener.map(|handle| {
            handle.close_on_exec(true);
            // SAFETY: the program before has left the descriptor for us.
            let fd = unsafe { handle.take() };
            if handle.tcp { Listener::Tcp(fd.into()) } else { Listener::Unix(fd.into()) }
        });
        // SAFETY: as above.
        let connection = unsafe { connected(self.connection) };
        (listener, Taken { connection, spoken: self.spoken, exec: true })
    }
}

/// # Safety
/// As for [`Handle::take`].
unsafe fn connected(handle: Handle) -> Connection {
    // SAFETY: the caller's promise.
    let fd = unsafe { handle.take() };
    if handle.tcp { Connection::Tcp(fd.into()) } else { Connection::Unix(fd.into()) }
}

/// The descriptors stay open across execve, until this is dropped because it has failed.
pub struct HandedOn {
    handles: Vec<Handle>,
    pub option: CString,
}

impl Drop for HandedOn {
    fn drop(&mut self) {
        self.handles.iter().for_each(|h| h.close_on_exec(true));
    }
}

impl Debugger {
    /// Descriptors that the guest must not close.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let s = self.lock();
        let sockets = s.connection.iter().chain(&s.listener).map(|h| h.fd);
        sockets.chain(s.children.iter().map(|c| c.word.as_raw_fd())).chain(s.vforked.iter().map(|v| v.as_raw_fd())).collect()
    }

    /// A debugger is there that wants to know of forks.
    pub fn follows_forks(&self) -> bool {
        if !self.active.load(Ordering::Acquire) {
            return false;
        }
        let s = self.lock();
        s.session && s.spoken.knows("multiprocess") && s.spoken.knows("fork-events")
    }

    /// Before a fork; nothing if nobody follows.
    pub fn before_fork(&self) -> Option<Ends> {
        let lifted = |s: UnixStream| target::lift(s.as_raw_fd()).ok().map(UnixStream::from);
        let (parent, child) = if self.follows_forks() { UnixStream::pair().ok()? } else { return None };
        Some(Ends { parent: lifted(parent)?, child: lifted(child)? })
    }

    /// In the parent, which reports it when the call has returned.
    pub fn forked(&self, ends: Ends, by: i32, pid: i32, vfork: bool) {
        self.lock().children.push(Child { pid, by, word: ends.parent, told: false, vfork });
    }

    /// Nothing is to change until the process has executed a program, or failed to.
    pub fn still(&self) -> impl Drop + '_ {
        let mut s = self.lock();
        while s.session && s.halted {
            s = self.wait(s);
        }
        s
    }

    pub fn told_of(&self, pid: Thread) {
        let mut s = self.lock();
        s.children.iter_mut().filter(|c| c.pid as usize == pid.get()).for_each(|c| c.told = true);
    }

    pub fn children(&self) -> Vec<Thread> {
        self.lock().children.iter().filter(|c| c.told).filter_map(|c| Thread::new(c.pid as usize)).collect()
    }

    /// The child's word: what the debugger has said, or nothing.
    pub fn tell_child(&self, pid: Thread, word: &str) {
        let mut s = self.lock();
        let child = s.children.iter().position(|c| c.pid as usize == pid.get()).map(|n| s.children.remove(n));
        if let Some(child) = child {
            let _ = (&child.word).write_all(word.as_bytes());
            let _ = child.word.shutdown(std::net::Shutdown::Write);
        }
    }
}

/// What guest threads do.
impl Task {
    /// In the child of a fork, which goes on when it knows whether it is followed.
    pub fn debug_forked(&mut self, ends: Ends, connection: Option<Handle>, vfork: bool) {
        let Some(d) = self.process.debug.clone() else { return };
        drop(ends.parent);
        let mut said = String::new();
        let _ = (&ends.child).read_to_string(&mut said);
        if vfork {
            d.lock().vforked = Some(ends.child);
        }
        let Some(connection) = connection.filter(|_| !said.is_empty()) else { return };
        let (sender, events) = channel();
        // The other end of the old one is in the parent.
        std::mem::forget(std::mem::replace(&mut *d.events.lock().unwrap(), sender));
        d.lock().halted = true;
        d.active.store(true, Ordering::Release);
        // SAFETY: the child's copy of the parent's descriptor, which nothing here refers to otherwise.
        let connection = unsafe { connected(connection) };
        let taken = Taken { connection, spoken: Spoken::from_text(&said), exec: false };
        if let Err(e) = target::start(None, Some(taken), false, d, events, self.process.clone()) {
            eprintln!("qemu-arm: {e}");
        }
        self.debug_begin();
    }

    /// After a system call that has forked: the debugger chooses whom it follows.
    pub(super) fn report_forks(&mut self, d: &Debugger) {
        let (pid, vfork, wait) = {
            let s = d.lock();
            let Some(c) = s.children.iter().find(|c| c.by == self.tid && !c.told) else { return };
            (c.pid, c.vfork, c.word.try_clone())
        };
        let child = super::thread_of(pid);
        d.stop(self, Stop::Fork { thread: super::thread_of(self.tid), child }, true);
        if d.lock().children.iter().any(|c| c.pid == pid && !c.told) {
            // Nobody was there to be told.
            d.tell_child(child, "");
        }
        if let Ok(mut wait) = wait
            && vfork
        {
            self.debug_set_place(d, Place::Running, Place::InCall);
            while wait.read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::Interrupted) {}
            self.debug_set_place(d, Place::InCall, Place::Running);
        }
    }

    fn debug_set_place(&mut self, d: &Debugger, from: Place, to: Place) {
        let state = self.vcpu.state().clone();
        if let Some(r) = d.lock().record(self.tid)
            && r.place == from
        {
            *r.state = state;
            r.place = to;
        }
        d.changed.notify_all();
    }

    /// The process is about to become another program. The debugger goes with it if it can.
    pub fn debug_exec(&self, program: &CStr) -> Option<HandedOn> {
        let d = self.process.debug.as_ref()?;
        let Some(handed) = d.lock().handed() else {
            self.debug_left(program);
            return None;
        };
        let option = CString::new(handed.text()).expect("digits and letters");
        let handles: Vec<Handle> = std::iter::once(handed.connection).chain(handed.listener).collect();
        handles.iter().for_each(|h| h.close_on_exec(false));
        Some(HandedOn { handles, option })
    }

    /// The debugger cannot go with the process: the user is told, for GDB only sees that the connection has ended.
    pub fn debug_left(&self, program: &CStr) {
        if self.process.debug.as_ref().is_some_and(|d| d.active.load(Ordering::Acquire)) {
            let program = program.to_string_lossy();
            eprintln!("qemu-arm: the debugger does not follow the execution of {program}; to debug it, start it with -g");
        }
    }
}

impl Shared {
    /// For the next program, if the debugger follows.
    fn handed(&self) -> Option<Handed> {
        let connection = self.connection.filter(|_| self.session && self.spoken.knows("exec-events"))?;
        Some(Handed { connection, listener: self.listener, spoken: self.spoken.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_on_comes_through_unchanged() {
        let spoken = Spoken::from_text("qSupported:multiprocess+;exec-events+\nQStartNoAckMode");
        let handed = Handed {
            connection: Handle { tcp: true, fd: 901 },
            listener: Some(Handle { tcp: false, fd: 900 }),
            spoken,
        };
        assert_eq!(Handed::parse(&handed.text()), Some(handed.clone()));
        let alone = Handed { listener: None, ..handed };
        assert_eq!(Handed::parse(&alone.text()), Some(alone));
        for bad in ["", "tcp1", "tcp1,-", "x1,-,", "tcp1,unix,", "tcp1,-,6", "tcp1,-,zz"] {
            assert_eq!(Handed::parse(bad), None, "{bad}");
        }
    }
}
