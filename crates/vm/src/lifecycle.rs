//! A machine's life: it runs, stops, is reset, is told to end.
//!
//! Reference: the run states and events of QEMU's QMP (`query-status`, `SHUTDOWN`, `RESET`, `STOP`, `RESUME`, `POWERDOWN`).
//!
//! Anybody may ask for something on any thread: vCPUs (power requests), monitors, signals, the debugger. Stopping and going on
//! happen at once, on the thread that asks, which must not be a vCPU's. Everything else is a message to the main thread, which
//! waits in [`Lifecycle::wait`].
//!
//! Invariant: `inner` is never held while the machine is paused, resumed or reset, or a listener is called; `order` is, so
//! that these happen one after the other.

use crate::config::Actions;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What runs the vCPUs.
pub trait Processors: Send + Sync {
    /// Returns when no vCPU executes.
    fn pause(&self);
    fn resume(&self);
    /// Devices, memory and vCPUs are as when the machine was switched on. They are paused.
    fn reset(&self);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Not started yet (`-S`).
    Prelaunch,
    Running,
    Paused,
    /// In the debugger.
    Debug,
    /// The guest has switched itself off and `-no-shutdown` keeps us.
    Shutdown,
}

impl RunState {
    /// As `query-status` names it.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Prelaunch => "prelaunch",
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::Debug => "debug",
            RunState::Shutdown => "shutdown",
        }
    }
}

/// Who wanted the machine to end or to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    GuestShutdown,
    GuestReset,
    HostSignal,
    HostQuit,
    HostReset,
    HostUi,
}

impl Cause {
    pub fn is_guest(self) -> bool {
        matches!(self, Cause::GuestShutdown | Cause::GuestReset)
    }

    /// As QMP events name it.
    pub fn reason(self) -> &'static str {
        match self {
            Cause::GuestShutdown => "guest-shutdown",
            Cause::GuestReset => "guest-reset",
            Cause::HostSignal => "host-signal",
            Cause::HostQuit => "host-qmp-quit",
            Cause::HostReset => "host-qmp-system-reset",
            Cause::HostUi => "host-ui",
        }
    }
}

/// What monitors report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Stop,
    Resume,
    Reset(Cause),
    Powerdown,
    Shutdown(Cause),
    /// Of a job: the name of QEMU's event and its data.
    Job(&'static str, serde_json::Value),
}

/// What the main thread is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Reset(Cause),
    /// The guest has switched itself off.
    Shutdown,
    /// Leave, whatever the options say.
    Quit(Cause),
}

struct Inner {
    state: RunState,
    actions: Actions,
    inbox: VecDeque<Message>,
}

type Listener = Box<dyn Fn(Event) + Send + Sync>;

pub struct Lifecycle {
    processors: Arc<dyn Processors>,
    inner: Mutex<Inner>,
    order: Mutex<()>,
    wake: Condvar,
    listeners: Mutex<Vec<Arc<Listener>>>,
    /// The machine's power button.
    button: Mutex<Option<Box<dyn Fn() + Send>>>,
}

impl Lifecycle {
    /// The machine is new and paused.
    pub fn new(processors: Arc<dyn Processors>, actions: Actions) -> Arc<Lifecycle> {
        let inner = Inner { state: RunState::Prelaunch, actions, inbox: VecDeque::new() };
        Arc::new(Lifecycle {
            processors,
            inner: Mutex::new(inner),
            order: Mutex::default(),
            wake: Condvar::new(),
            listeners: Mutex::default(),
            button: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> RunState {
        self.lock().state
    }

    pub fn is_running(&self) -> bool {
        self.state() == RunState::Running
    }

    /// Called for each event, on the thread where it happens.
    pub fn on_event(&self, listener: impl Fn(Event) + Send + Sync + 'static) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(Box::new(listener)));
    }

    pub fn set_button(&self, press: impl Fn() + Send + 'static) {
        *self.button.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(press));
    }

    pub fn actions(&self) -> Actions {
        self.lock().actions
    }

    /// `set-action`, `-action`.
    pub fn set_actions(&self, actions: Actions) {
        self.lock().actions = actions;
    }

    /// Tells all listeners, on this thread.
    pub fn tell(&self, event: Event) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        listeners.iter().for_each(|l| l(event.clone()));
    }

    /// Stops the machine; one that does not run stays as it is. Not on a vCPU's thread.
    pub fn stop(&self) {
        let _order = self.in_order();
        if self.is_running() {
            self.halt(RunState::Paused);
        }
    }

    /// Stops the machine, in this state.
    pub fn stop_as(&self, state: RunState) {
        let _order = self.in_order();
        self.halt(state);
    }

    /// With `order` held.
    fn halt(&self, state: RunState) {
        let was = self.lock().state;
        if was == RunState::Running {
            self.processors.pause();
        }
        self.lock().state = state;
        if was == RunState::Running {
            self.tell(Event::Stop);
        }
    }

    /// Goes on. A machine that has switched itself off needs a reset first. Not on a vCPU's thread.
    pub fn cont(&self) -> spec::Result<()> {
        let _order = self.in_order();
        match self.state() {
            RunState::Running => return Ok(()),
            RunState::Shutdown => return Err(spec::Error::new("Resetting the Virtual Machine is required")),
            RunState::Prelaunch | RunState::Paused | RunState::Debug => {}
        }
        self.lock().state = RunState::Running;
        self.tell(Event::Resume);
        self.processors.resume();
        Ok(())
    }

    /// Does something while no vCPU executes; a running machine goes on afterwards. Nobody hears of it. Not on a vCPU's thread.
    pub fn while_stopped<T>(&self, f: impl FnOnce() -> T) -> T {
        let _order = self.in_order();
        let running = self.is_running();
        if running {
            self.processors.pause();
        }
        let result = f();
        if running {
            self.processors.resume();
        }
        result
    }

    fn send(&self, message: Message) {
        self.lock().inbox.push_back(message);
        self.wake.notify_all();
    }

    /// The guest switches itself off.
    pub fn guest_shutdown(&self) {
        self.send(Message::Shutdown);
    }

    /// The guest, or somebody at a monitor, resets the machine.
    pub fn request_reset(&self, cause: Cause) {
        self.send(Message::Reset(cause));
    }

    /// The program ends.
    pub fn quit(&self, cause: Cause) {
        self.send(Message::Quit(cause));
    }

    /// Presses the power button.
    pub fn powerdown(&self) {
        self.tell(Event::Powerdown);
        if let Some(press) = &*self.button.lock().unwrap_or_else(PoisonError::into_inner) {
            press();
        }
    }

    fn next(&self) -> Message {
        let mut inner = self.lock();
        loop {
            if let Some(message) = inner.inbox.pop_front() {
                return message;
            }
            inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Serves the machine until it ends; it is paused then. Says why.
    pub fn wait(&self) -> Cause {
        loop {
            let message = self.next();
            let _order = self.in_order();
            let actions = self.actions();
            match message {
                Message::Reset(cause) if actions.reboot_ends => return self.end(cause),
                Message::Reset(cause) => self.reset(cause),
                Message::Shutdown if actions.shutdown_pauses => {
                    self.tell(Event::Shutdown(Cause::GuestShutdown));
                    self.halt(RunState::Shutdown);
                }
                Message::Shutdown => return self.end(Cause::GuestShutdown),
                Message::Quit(cause) => return self.end(cause),
            }
        }
    }

    fn reset(&self, cause: Cause) {
        let was = self.state();
        if was == RunState::Running {
            self.processors.pause();
        }
        self.processors.reset();
        // What was asked for before is over.
        self.lock().inbox.retain(|m| matches!(m, Message::Quit(_)));
        if was == RunState::Shutdown {
            self.lock().state = RunState::Paused;
        }
        self.tell(Event::Reset(cause));
        if was == RunState::Running {
            self.processors.resume();
        }
    }

    fn end(&self, cause: Cause) -> Cause {
        self.tell(Event::Shutdown(cause));
        if self.state() == RunState::Running {
            self.processors.pause();
            self.lock().state = RunState::Shutdown;
        }
        cause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl Log {
        fn add(&self, text: impl Into<String>) {
            self.0.lock().unwrap().push(text.into());
        }
        fn take(&self) -> String {
            std::mem::take(&mut *self.0.lock().unwrap()).join(" ")
        }
    }

    struct Cpus(Arc<Log>);

    impl Processors for Cpus {
        fn pause(&self) {
            self.0.add("pause");
        }
        fn resume(&self) {
            self.0.add("resume");
        }
        fn reset(&self) {
            self.0.add("reset");
        }
    }

    fn life(actions: Actions) -> (Arc<Lifecycle>, Arc<Log>) {
        let log = Arc::new(Log::default());
        let life = Lifecycle::new(Arc::new(Cpus(log.clone())), actions);
        let listener = log.clone();
        life.on_event(move |event| listener.add(format!("{event:?}")));
        (life, log)
    }

    #[test]
    fn stopping_and_going_on_happen_once() {
        let (life, log) = life(Actions::default());
        assert_eq!(life.state().name(), "prelaunch");
        life.cont().unwrap();
        life.cont().unwrap();
        assert_eq!(log.take(), "Resume resume");
        life.stop();
        life.stop();
        assert_eq!((log.take().as_str(), life.state().name()), ("pause Stop", "paused"));
        life.cont().unwrap();
        life.stop_as(RunState::Debug);
        assert_eq!(life.state().name(), "debug");
    }

    #[test]
    fn a_look_at_a_running_machine_stops_it_for_a_moment() {
        let (life, log) = life(Actions::default());
        assert_eq!(life.while_stopped(|| 5), 5);
        life.cont().unwrap();
        life.while_stopped(|| log.add("look"));
        assert_eq!(log.take(), "Resume resume pause look resume");
    }

    #[test]
    fn a_guests_shutdown_ends_the_program() {
        let (life, log) = life(Actions::default());
        life.cont().unwrap();
        life.guest_shutdown();
        assert_eq!(life.wait(), Cause::GuestShutdown);
        assert_eq!(log.take(), "Resume resume Shutdown(GuestShutdown) pause");
    }

    #[test]
    fn no_shutdown_keeps_the_machine() {
        let (life, log) = life(Actions { shutdown_pauses: true, ..Actions::default() });
        life.cont().unwrap();
        life.guest_shutdown();
        life.request_reset(Cause::HostReset);
        life.quit(Cause::HostQuit);
        assert_eq!(life.wait(), Cause::HostQuit);
        assert_eq!(
            log.take(),
            "Resume resume Shutdown(GuestShutdown) pause Stop reset Reset(HostReset) Shutdown(HostQuit)"
        );
        assert_eq!(life.state(), RunState::Paused);
    }

    #[test]
    fn a_machine_that_is_off_does_not_go_on() {
        let (life, _) = life(Actions::default());
        life.stop_as(RunState::Shutdown);
        assert_eq!(life.cont().unwrap_err().sentence(), "Resetting the Virtual Machine is required");
    }

    #[test]
    fn a_reboot_resets_or_ends() {
        let (life, log) = life(Actions::default());
        life.cont().unwrap();
        life.request_reset(Cause::GuestReset);
        life.quit(Cause::HostSignal);
        assert_eq!(life.wait(), Cause::HostSignal);
        assert_eq!(log.take(), "Resume resume pause reset Reset(GuestReset) resume Shutdown(HostSignal) pause");
        life.set_actions(Actions { reboot_ends: true, ..Actions::default() });
        life.request_reset(Cause::GuestReset);
        assert_eq!(life.wait(), Cause::GuestReset);
    }

    #[test]
    fn what_was_asked_before_a_reset_is_over() {
        let (life, log) = life(Actions::default());
        life.request_reset(Cause::GuestReset);
        life.guest_shutdown();
        life.quit(Cause::HostQuit);
        assert_eq!(life.wait(), Cause::HostQuit);
        assert_eq!(log.take(), "reset Reset(GuestReset) Shutdown(HostQuit)");
    }

    #[test]
    fn the_button_is_the_boards() {
        let (life, log) = life(Actions::default());
        let pressed = log.clone();
        life.powerdown();
        life.set_button(move || pressed.add("pressed"));
        life.powerdown();
        assert_eq!(log.take(), "Powerdown Powerdown pressed");
    }
}
