//! Background work on a graph that is in use: commit, stream, mirror and backup.
//!
//! Reference: QEMU's docs/interop/live-block-operations.rst; the states, verbs and events of its job interface
//! (`query-jobs`, `JOB_STATUS_CHANGE`, `BLOCK_JOB_…`) as version 10.0.2 shows them.
//!
//! Module map: `control` is how a job's thread and its user talk; `copy` moves pieces; `commit`, `stream`, `mirror` (also the
//! commit of a layer in use) and `backup` are the kinds of work.
//!
//! Invariants: a job that is cancelled or fails leaves the disk as its user sees it unchanged; the graph changes only in the
//! last step, while no request is under way (`filter::slot`). All news but the first two and the last come from the job's
//! thread, in the order in which things happen.

pub mod backup;
pub mod commit;
pub mod control;
pub mod copy;
pub mod mirror;
pub mod stream;

pub use control::Control;

use crate::node::strerror;
use spec::error::{Error, Result};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Where a job is. `Null` is over and forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Created,
    Running,
    Paused,
    /// A mirror that has caught up and waits to be completed.
    Ready,
    /// The same, paused.
    Standby,
    /// The work is done; others of the same transaction may not be.
    Waiting,
    /// The graph may be changed.
    Pending,
    Aborting,
    Concluded,
    Null,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Ready => "ready",
            Status::Standby => "standby",
            Status::Waiting => "waiting",
            Status::Pending => "pending",
            Status::Aborting => "aborting",
            Status::Concluded => "concluded",
            Status::Null => "null",
        }
    }
}

/// What a user may ask of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Cancel,
    Pause,
    Resume,
    SetSpeed,
    Complete,
    Finalize,
    Dismiss,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Cancel => "cancel",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::SetSpeed => "set-speed",
            Verb::Complete => "complete",
            Verb::Finalize => "finalize",
            Verb::Dismiss => "dismiss",
        }
    }

    fn fits(self, status: Status) -> bool {
        use Status::*;
        match self {
            Verb::Cancel => matches!(status, Created | Running | Paused | Ready | Standby | Waiting | Pending),
            Verb::Pause | Verb::Resume | Verb::SetSpeed => {
                matches!(status, Created | Running | Paused | Ready | Standby)
            }
            Verb::Complete => matches!(status, Ready | Standby),
            Verb::Finalize => status == Pending,
            Verb::Dismiss => status == Concluded,
        }
    }
}

/// What to do about an error of one side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnError {
    /// The job fails.
    #[default]
    Report,
    /// Go on; what could not be copied is tried again if the job can.
    Ignore,
    /// Pause when there is no space left, fail otherwise.
    Enospc,
    /// Pause.
    Stop,
}

impl OnError {
    pub fn parse(name: &str, text: &str) -> Result<OnError> {
        Ok(match text {
            "report" => OnError::Report,
            "ignore" => OnError::Ignore,
            "enospc" | "auto" => OnError::Enospc,
            "stop" => OnError::Stop,
            _ => return Err(Error::new(format!("Parameter '{name}' does not accept value '{text}'"))),
        })
    }
}

/// What was done about an error, as `BLOCK_JOB_ERROR` says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Report,
    Ignore,
    Stop,
}

impl Action {
    pub fn name(self) -> &'static str {
        match self {
            Action::Report => "report",
            Action::Ignore => "ignore",
            Action::Stop => "stop",
        }
    }
}

/// What stops a job early.
#[derive(Debug)]
pub enum Stop {
    Cancelled,
    Failed(Error),
}

impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Self {
        Stop::Failed(Error::new(strerror(&e)))
    }
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Failed(e)
    }
}

/// What a job tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    Status(Status),
    /// It can be completed.
    Ready,
    /// It waits to be finalized.
    Pending,
    Error {
        write: bool,
        action: Action,
    },
    Done {
        cancelled: bool,
        error: Option<String>,
    },
}

/// What a job does. Dropping it without an end leaves filters in place: one of the last two is called always.
pub trait Work: Send {
    fn run(&mut self, control: &Control) -> Result<(), Stop>;
    /// The last step: changes the graph.
    fn finish(&mut self, control: &Control) -> Result<()>;
    /// Leaves everything as its user knows it.
    fn abort(&mut self);
}

/// How a job runs and ends.
pub struct Manner {
    /// Bytes per second; zero is no limit.
    pub speed: u64,
    pub auto_finalize: bool,
    pub auto_dismiss: bool,
    pub on_read_error: OnError,
    pub on_write_error: OnError,
    pub news: Box<dyn Fn(&Job, News) + Send + Sync>,
}

impl Default for Manner {
    fn default() -> Manner {
        Manner {
            speed: 0,
            auto_finalize: true,
            auto_dismiss: true,
            on_read_error: OnError::Report,
            on_write_error: OnError::Report,
            news: Box::new(|_, _| {}),
        }
    }
}

/// A job that runs on a thread of its own.
pub struct Job {
    pub id: String,
    pub kind: &'static str,
    pub auto_finalize: bool,
    pub auto_dismiss: bool,
    control: Control,
    news: Box<dyn Fn(&Job, News) + Send + Sync>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Job {
    /// Makes a job and its thread, which waits for `go`.
    pub fn prepare(id: &str, kind: &'static str, manner: Manner, work: Box<dyn Work>) -> Result<Arc<Job>> {
        let control = Control::new(manner.speed, manner.on_read_error, manner.on_write_error);
        let job = Arc::new(Job {
            id: id.to_owned(),
            kind,
            auto_finalize: manner.auto_finalize,
            auto_dismiss: manner.auto_dismiss,
            control,
            news: manner.news,
            thread: Mutex::default(),
        });
        job.tell(News::Status(Status::Created));
        job.control.set(Status::Running);
        job.tell(News::Status(Status::Running));
        let own = job.clone();
        job.control.attach(&job);
        let thread = std::thread::Builder::new().name(format!("job {id}")).spawn(move || own.live(work));
        let thread = thread.map_err(|e| Error::caused(format!("job '{id}' could not start"), e))?;
        *job.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(job)
    }

    /// Starts work on its own thread.
    pub fn start(id: &str, kind: &'static str, manner: Manner, work: Box<dyn Work>) -> Result<Arc<Job>> {
        let job = Job::prepare(id, kind, manner, work)?;
        job.go();
        Ok(job)
    }

    /// Lets a prepared job begin.
    pub fn go(&self) {
        self.control.go();
    }

    fn tell(&self, news: News) {
        (self.news)(self, news);
    }

    fn enter(&self, status: Status) {
        // Whoever waits for the status has heard of it then.
        self.tell(News::Status(status));
        self.control.set(status);
    }

    /// The job's thread.
    fn live(&self, mut work: Box<dyn Work>) {
        self.control.wait_go();
        let mut done = work.run(&self.control);
        if done.is_ok() {
            self.enter(Status::Waiting);
            self.enter(Status::Pending);
            if !self.auto_finalize {
                self.tell(News::Pending);
                done = self.control.wait_finalize();
            }
        }
        let done = done.and_then(|()| Ok(work.finish(&self.control)?));
        if done.is_err() {
            self.enter(Status::Aborting);
            work.abort();
        }
        // Whoever hears of the end finds images closed that nobody else uses.
        drop(work);
        let (cancelled, error) = match done {
            Ok(()) => (false, None),
            Err(Stop::Cancelled) => (true, Some("Operation canceled".to_owned())),
            Err(Stop::Failed(e)) => (false, Some(e.to_string())),
        };
        self.control.conclude(error.clone());
        self.tell(News::Done { cancelled, error });
        self.enter(Status::Concluded);
        if self.auto_dismiss {
            self.enter(Status::Null);
        }
    }

    /// Bytes done and bytes known to be there; both grow while the disk is written.
    pub fn progress(&self) -> (u64, u64) {
        self.control.progress()
    }

    pub fn status(&self) -> Status {
        self.control.status()
    }

    /// Why it failed, once it has.
    pub fn error(&self) -> Option<String> {
        self.control.error()
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Refuses what makes no sense now.
    fn check(&self, verb: Verb) -> Result<()> {
        let status = self.status();
        if verb.fits(status) {
            return Ok(());
        }
        let (id, status, verb) = (&self.id, status.name(), verb.name());
        Err(Error::new(format!("Job '{id}' in state '{status}' cannot accept command verb '{verb}'")))
    }

    pub fn set_speed(&self, bytes_per_second: u64) -> Result<()> {
        self.check(Verb::SetSpeed)?;
        self.control.set_speed(bytes_per_second);
        Ok(())
    }

    pub fn pause(&self) -> Result<()> {
        self.check(Verb::Pause)?;
        if !self.control.wish(|w| !std::mem::replace(&mut w.paused, true)) {
            return Err(Error::new("Job is already paused"));
        }
        self.control.settle(|status| !matches!(status, Status::Running | Status::Ready));
        Ok(())
    }

    pub fn resume(&self) -> Result<()> {
        self.check(Verb::Resume)?;
        if !self.control.wish(|w| std::mem::take(&mut w.paused)) {
            return Err(Error::new("Can't resume a job that was not paused"));
        }
        self.control.settle(|status| !matches!(status, Status::Paused | Status::Standby));
        Ok(())
    }

    /// Ends a job. A mirror that has caught up leaves a whole copy behind, unless it is forced.
    pub fn cancel(&self, force: bool) -> Result<()> {
        self.check(Verb::Cancel)?;
        if self.control.is_user_paused() && !force {
            return Err(Error::new(format!("The block job for device '{}' is currently paused", self.id)));
        }
        self.stop(force);
        self.control.settle(|status| matches!(status, Status::Concluded | Status::Null));
        Ok(())
    }

    /// The same without questions and without waiting, for a machine that ends.
    pub fn stop(&self, force: bool) {
        self.control.wish(|w| {
            (w.cancelled, w.force) = (true, w.force | force);
            w.go = true;
            w.paused = false;
        });
    }

    /// Lets a mirror that is ready switch over.
    pub fn complete(&self) -> Result<()> {
        self.check(Verb::Complete)?;
        if self.control.wish(|w| !w.cancelled && !std::mem::replace(&mut w.complete, w.can_complete)) {
            return Ok(());
        }
        Err(Error::new(format!("The active block job '{}' cannot be completed", self.id)))
    }

    pub fn finalize(&self) -> Result<()> {
        self.check(Verb::Finalize)?;
        self.control.wish(|w| w.finalize = true);
        self.control.settle(|status| status != Status::Pending);
        Ok(())
    }

    /// Forgets a job that is over.
    pub fn dismiss(&self) -> Result<()> {
        self.check(Verb::Dismiss)?;
        self.enter(Status::Null);
        Ok(())
    }

    /// Waits until a mirror has caught up, or the job has ended.
    pub fn wait_ready(&self) {
        self.control.wait_until(|status| matches!(status, Status::Ready | Status::Concluded | Status::Null));
    }

    /// Waits for the end and says how it was.
    pub fn wait(&self) -> Result<()> {
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            thread.join().map_err(|_| Error::new(format!("job '{}' died", self.id)))?;
        }
        self.error().map_or(Ok(()), |text| Err(Error::new(text)))
    }
}
