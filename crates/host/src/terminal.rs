//! The user's terminal, put back as it was on every way out.
//!
//! [`keep`] remembers the settings of a terminal; [`restore`] sets them again and undoes what a guest's output may have
//! switched on or off. It may be called from anywhere, also from a signal handler, and more than once.
//!
//! Reference: POSIX signal-safety (tcsetattr and write are on its list); ECMA-48 and xterm's control sequences for
//! [`RESET`].
//!
//! Invariants:
//! 1. `SAVED` is written once, before `STATE` becomes `KEPT`, and only read afterwards; so is `RAW`, before `AGAIN`.
//! 2. What runs in a signal handler here uses atomics and async-signal-safe calls only, and leaves errno alone.
//! 3. Handlers are installed with values that live for ever, and end in the signal's default action or the handler that
//!    was there before.
//! 4. `BEFORE` is written once (under `ONCE`), before the handler that reads it is installed.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};

struct Saved(UnsafeCell<MaybeUninit<libc::termios>>);

// SAFETY: invariant 1.
unsafe impl Sync for Saved {}

static SAVED: Saved = Saved(UnsafeCell::new(MaybeUninit::uninit()));
/// The settings to come back to when a shell continues us.
static RAW: Saved = Saved(UnsafeCell::new(MaybeUninit::uninit()));
static AGAIN: AtomicU8 = AtomicU8::new(EMPTY);
static STATE: AtomicU8 = AtomicU8::new(EMPTY);
/// Where the settings came from; our own duplicate, never closed.
static INPUT: AtomicI32 = AtomicI32::new(-1);
/// The terminal that shows the guest's output, or -1.
static OUTPUT: AtomicI32 = AtomicI32::new(-1);
/// The settings differ from what was kept.
static CHANGED: AtomicBool = AtomicBool::new(false);
/// The guest sent control sequences.
static CONTROLLED: AtomicBool = AtomicBool::new(false);

const EMPTY: u8 = 0;
const BUSY: u8 = 1;
const KEPT: u8 = 2;

/// Line wrap on, colours and attributes off, cursor shown, cursor keys and keypad normal, no mouse reports, no
/// bracketed paste. Nothing in it moves the cursor or clears anything.
pub const RESET: &[u8] = b"\x1b[?7h\x1b[0m\x1b[?25h\x1b[?1l\x1b>\x1b[?1000l\x1b[?1002l\x1b[?1006l\x1b[?2004l";

/// Signals whose default action kills us without asking.
const FATAL: [i32; 8] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGABRT, libc::SIGILL, libc::SIGFPE, libc::SIGSYS];

/// Remembers the settings of the terminal `fd`, once in the life of the process. False if it is no terminal.
pub fn keep(fd: impl AsFd) -> io::Result<bool> {
    let fd = fd.as_fd();
    if STATE.compare_exchange(EMPTY, BUSY, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return Ok(STATE.load(Ordering::Acquire) == KEPT);
    }
    let mut settings = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the pointer is to a local value that outlives the call.
    if unsafe { libc::tcgetattr(fd.as_raw_fd(), settings.as_mut_ptr()) } != 0 {
        STATE.store(EMPTY, Ordering::Release);
        return Ok(false);
    }
    let copy = fd.try_clone_to_owned().inspect_err(|_| STATE.store(EMPTY, Ordering::Release))?;
    INPUT.store(copy.as_raw_fd(), Ordering::Release);
    std::mem::forget(copy);
    // SAFETY: invariant 1: BUSY is ours alone, and nobody reads before KEPT.
    unsafe { *SAVED.0.get() = settings };
    STATE.store(KEPT, Ordering::Release);
    Ok(true)
}

/// The terminal `fd` shows what the guest writes.
pub fn shows_output(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: asks about a descriptor; no memory is involved.
    if unsafe { libc::isatty(fd.as_fd().as_raw_fd()) } == 1 && OUTPUT.load(Ordering::Acquire) < 0 {
        let copy = fd.as_fd().try_clone_to_owned()?;
        OUTPUT.store(copy.as_raw_fd(), Ordering::Release);
        std::mem::forget(copy);
    }
    Ok(())
}

/// The settings were changed; they are set again when a shell continues us after Ctrl-Z.
pub fn changed() {
    CHANGED.store(true, Ordering::Release);
    if AGAIN.compare_exchange(EMPTY, BUSY, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return;
    }
    // SAFETY: invariant 1: BUSY is ours alone, and nobody reads before KEPT.
    let got = unsafe { libc::tcgetattr(INPUT.load(Ordering::Acquire), (*RAW.0.get()).as_mut_ptr()) };
    if got != 0 {
        AGAIN.store(EMPTY, Ordering::Release);
        return;
    }
    AGAIN.store(KEPT, Ordering::Release);
    handle(libc::SIGCONT, continued, libc::SA_RESTART);
}

extern "C" fn continued(_signal: i32) {
    let fd = INPUT.load(Ordering::Acquire);
    // SAFETY: errno is this thread's own; the calls are async-signal-safe; invariant 1 for `RAW`. In the background the
    // terminal is not ours to change.
    unsafe {
        let errno = *libc::__errno_location();
        if CHANGED.load(Ordering::Acquire) && libc::tcgetpgrp(fd) == libc::getpgrp() {
            libc::tcsetattr(fd, libc::TCSANOW, (*RAW.0.get()).as_ptr());
        }
        *libc::__errno_location() = errno;
    }
}

/// Installs a handler if the signal has its default action.
fn handle(signal: i32, handler: extern "C" fn(i32), flags: i32) {
    // SAFETY: invariant 3; both structures are local values that outlive the calls.
    unsafe {
        let mut old = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        if libc::sigaction(signal, std::ptr::null(), &mut old) == 0 && old.sa_sigaction == libc::SIG_DFL {
            let mut new = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            new.sa_sigaction = handler as *const () as usize;
            new.sa_flags = flags;
            libc::sigaction(signal, &new, std::ptr::null_mut());
        }
    }
}

/// The guest sent an escape character to the terminal.
pub fn controlled() {
    if !CONTROLLED.load(Ordering::Relaxed) {
        CONTROLLED.store(true, Ordering::Release);
    }
}

/// Puts the terminal back. Async-signal-safe; does nothing the second time.
pub fn restore() {
    // SAFETY: errno is this thread's own; it is saved because handlers call us (invariant 2).
    let errno = unsafe { *libc::__errno_location() };
    if CONTROLLED.swap(false, Ordering::AcqRel) {
        let fd = OUTPUT.load(Ordering::Acquire);
        if fd >= 0 {
            // SAFETY: the bytes are constant; the descriptor is ours for ever. If it cannot be written, nobody sees it.
            unsafe { libc::write(fd, RESET.as_ptr().cast(), RESET.len()) };
        }
    }
    if STATE.load(Ordering::Acquire) == KEPT && CHANGED.swap(false, Ordering::AcqRel) {
        // A background job would be stopped for touching the terminal, and must not hang on its way out.
        // SAFETY: blocks a signal in this thread, with sets that are local values; invariant 1 for `SAVED`.
        unsafe {
            let mut set = MaybeUninit::<libc::sigset_t>::uninit();
            let mut old = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTTOU);
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), old.as_mut_ptr());
            libc::tcsetattr(INPUT.load(Ordering::Acquire), libc::TCSANOW, (*SAVED.0.get()).as_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut());
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

extern "C" fn fatal(signal: i32) {
    restore();
    // SAFETY: SA_RESETHAND has set the default action; the signal is delivered when this handler returns.
    unsafe { libc::raise(signal) };
}

/// The handlers of SIGSEGV and SIGBUS that were there before ours.
struct Before(UnsafeCell<[MaybeUninit<libc::sigaction>; 2]>);

// SAFETY: invariant 4.
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new([MaybeUninit::uninit(); 2]));
const FAULTS: [i32; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// Hands over to the handler that was there before, when the faulting instruction runs again.
extern "C" fn fault(signal: i32) {
    restore();
    let index = usize::from(signal == FAULTS[1]);
    // SAFETY: invariant 4: the old action was stored before this handler was installed.
    unsafe { libc::sigaction(signal, (*BEFORE.0.get())[index].as_ptr(), std::ptr::null_mut()) };
}

/// Puts our handler in front of those for faults.
fn handle_faults() {
    for (index, signal) in FAULTS.into_iter().enumerate() {
        // SAFETY: invariants 3 and 4; the structures outlive the calls.
        unsafe {
            let old = (*BEFORE.0.get())[index].as_mut_ptr();
            if libc::sigaction(signal, std::ptr::null(), old) == 0 {
                let mut new = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
                new.sa_sigaction = fault as *const () as usize;
                // On the thread's own signal stack, if it has one: the other may have overflowed.
                new.sa_flags = libc::SA_ONSTACK;
                libc::sigaction(signal, &new, std::ptr::null_mut());
            }
        }
    }
}

/// Restores the terminal when a panic or a deadly signal ends the process. Signals that somebody handles or ignores are
/// left alone, and a handler installed later replaces ours; for faults, ours runs before the handler
/// that was there.
pub fn restore_on_death() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            previous(info);
        }));
        for signal in FATAL {
            handle(signal, fatal, libc::SA_RESETHAND);
        }
        handle_faults();
    });
}
