//! The jobs of a machine: what they tell, what may be asked of them, how they are listed.
//!
//! Reference: `query-jobs`, `query-block-jobs`, `job-…`, `block-job-…`, `JOB_STATUS_CHANGE` and `BLOCK_JOB_…` of QEMU 10.0.2.
//!
//! Differences: QEMU pauses jobs for a moment when the graph changes, and tells of it (`paused`, `running`); ours go on.

use super::nodes::is_well_formed;
use super::{Answer, Blocks, State};
use crate::lifecycle::{Event, Lifecycle};
use crate::monitor::json::Refusal;
use crate::monitor::qmp::Given;
use disk::NodeRef;
use disk::filter::slot::Slot;
use disk::job::{Control, Job, Manner, News, OnError, Status, Stop, Work};
use serde_json::{Value, json};
use spec::Result;
use std::sync::{Arc, Weak};

pub struct Entry {
    pub job: Arc<Job>,
    /// The place that a job has put something into, and what was there.
    pub slot: Option<Arc<Slot>>,
    pub root: Option<NodeRef>,
    /// What others may not work with meanwhile.
    pub nodes: Vec<NodeRef>,
    /// Not begun yet: the command that started it is not answered.
    held: bool,
    /// It is about disks, and has the events of old.
    block: bool,
}

/// How a job ended, for what follows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Done,
    /// A mirror that took its disk's place.
    Completed,
    Aborted,
}

pub type After = Box<dyn FnOnce(&mut State, End) + Send>;

/// A job that is about to start.
pub struct Start {
    pub id: String,
    pub kind: &'static str,
    pub block: bool,
    pub slot: Option<Arc<Slot>>,
    pub root: Option<NodeRef>,
    pub nodes: Vec<NodeRef>,
    pub work: Box<dyn Work>,
    pub after: After,
}

/// Work, and what the machine does when it is over.
struct Then {
    work: Box<dyn Work>,
    blocks: Weak<Blocks>,
    id: String,
    after: Option<After>,
}

impl Then {
    fn over(&mut self, end: End) {
        let (Some(blocks), Some(after)) = (self.blocks.upgrade(), self.after.take()) else { return };
        let mut state = blocks.lock();
        if let Some(entry) = state.jobs.iter_mut().find(|e| e.job.id == self.id) {
            (entry.slot, entry.root) = (None, None);
            entry.nodes.clear();
        }
        after(&mut state, end);
    }
}

impl Work for Then {
    fn run(&mut self, control: &Control) -> std::result::Result<(), Stop> {
        self.work.run(control)
    }

    fn finish(&mut self, control: &Control) -> Result<()> {
        self.work.finish(control)?;
        self.over(if control.wants_completion() { End::Completed } else { End::Done });
        Ok(())
    }

    fn abort(&mut self) {
        self.work.abort();
        self.over(End::Aborted);
    }
}

/// Events of a job.
fn announce(life: &Lifecycle, block: bool, job: &Job, news: &News) {
    let tell = |name: &'static str, data: Value| life.tell(Event::Job(name, data));
    let about = || {
        let (offset, len) = job.progress();
        json!({"device": job.id, "len": len, "offset": offset, "speed": job.control().speed(), "type": job.kind})
    };
    match news {
        News::Status(status) => tell("JOB_STATUS_CHANGE", json!({"status": status.name(), "id": job.id})),
        _ if !block => {}
        News::Ready => tell("BLOCK_JOB_READY", about()),
        News::Pending => tell("BLOCK_JOB_PENDING", json!({"type": job.kind, "id": job.id})),
        News::Error { write, action } => {
            let operation = if *write { "write" } else { "read" };
            tell("BLOCK_JOB_ERROR", json!({"device": job.id, "operation": operation, "action": action.name()}));
        }
        News::Done { cancelled: true, .. } => tell("BLOCK_JOB_CANCELLED", about()),
        News::Done { error, .. } => {
            let mut data = about();
            if let Some(error) = error {
                data["error"] = json!(error);
            }
            tell("BLOCK_JOB_COMPLETED", data);
        }
    }
}

impl Blocks {
    /// Makes a job; it begins when its command is answered.
    pub(super) fn start(&self, state: &mut State, given: &Given, start: Start) -> Answer<Arc<Job>> {
        let policy = |names: [&str; 2]| -> Result<OnError> {
            let said = names.iter().find_map(|n| given.text(n).map(|text| (*n, text)));
            said.map_or(Ok(OnError::Report), |(name, text)| OnError::parse(name, text))
        };
        let (life, me, block) = (self.life.clone(), self.me.clone(), start.block);
        let news = move |job: &Job, news: News| {
            // Whoever hears of the end may use its id again.
            if news == News::Status(Status::Null)
                && let Some(blocks) = me.upgrade()
            {
                blocks.lock().jobs.retain(|e| e.job.id != job.id);
            }
            announce(&life, block, job, &news);
        };
        let mut manner = Manner {
            speed: given.number("speed").unwrap_or(0),
            auto_finalize: given.bool("auto-finalize").unwrap_or(true),
            auto_dismiss: given.bool("auto-dismiss").unwrap_or(start.block),
            on_read_error: policy(["on-source-error", "on-error"])?,
            on_write_error: policy(["on-target-error", "on-error"])?,
            news: Box::new(news),
        };
        // What is not about a disk stays until it is dismissed.
        manner.auto_dismiss &= start.block;
        let then = Then { work: start.work, blocks: self.me.clone(), id: start.id.clone(), after: Some(start.after) };
        let job = Job::prepare(&start.id, start.kind, manner, Box::new(then))?;
        let (slot, root, nodes) = (start.slot, start.root, start.nodes);
        state.jobs.push(Entry { job: job.clone(), slot, root, nodes, held: true, block });
        Ok(job)
    }

    /// Lets jobs begin whose commands are answered.
    pub fn go(&self) {
        for entry in &mut self.lock().jobs {
            if std::mem::take(&mut entry.held) {
                entry.job.go();
            }
        }
    }

    pub(super) fn end_jobs(&self) {
        let jobs: Vec<Arc<Job>> = self.lock().jobs.iter().map(|e| e.job.clone()).collect();
        jobs.iter().for_each(|job| job.stop(true));
        for job in jobs {
            // Whoever cares has heard of it.
            let _ = job.wait();
            let _ = job.dismiss();
        }
    }

    /// A job by its id, for `job-…`.
    fn job(&self, id: &str) -> Answer<Arc<Job>> {
        let found = self.lock().jobs.iter().find(|e| e.job.id == id).map(|e| e.job.clone());
        found.ok_or_else(|| Refusal::new("Job not found"))
    }

    /// A job by the name of its disk, for `block-job-…`.
    fn block_job(&self, id: &str) -> Answer<Arc<Job>> {
        let found = self.lock().jobs.iter().find(|e| e.block && e.job.id == id).map(|e| e.job.clone());
        found.ok_or_else(|| Refusal { class: "DeviceNotActive", text: format!("Block job '{id}' not found") })
    }

    /// `block-job-VERB` or `job-VERB`, with the name in `device` or in `id`.
    pub fn verb(&self, verb: &str, given: &Given) -> Answer<()> {
        let (job, verb) = match verb.strip_prefix("block-job-") {
            Some(verb) => (self.block_job(given.text("device").or(given.text("id")).unwrap_or_default())?, verb),
            None => (self.job(given.needed("id"))?, verb.trim_start_matches("job-")),
        };
        let old = given.text("device").is_some();
        Ok(match verb {
            "cancel" => job.cancel(!old || given.bool("force").unwrap_or(false))?,
            "complete" => job.complete()?,
            "dismiss" => job.dismiss()?,
            "finalize" => job.finalize()?,
            "pause" => job.pause()?,
            "resume" => job.resume()?,
            _ => {
                let speed = given.number("speed");
                job.set_speed(speed.ok_or_else(|| Refusal::new("Parameter 'speed' expects a non-negative value"))?)?;
            }
        })
    }

    /// `query-jobs`.
    pub fn list_jobs(&self) -> Value {
        let one = |e: &Entry| {
            let (done, total) = e.job.progress();
            let status = e.job.status().name();
            let mut value = json!({"current-progress": done, "status": status, "total-progress": total, "type": e.job.kind, "id": e.job.id});
            if let Some(error) = e.job.error() {
                value["error"] = json!(error);
            }
            value
        };
        self.lock().jobs.iter().map(one).collect()
    }

    /// `query-block-jobs`.
    pub fn list_block_jobs(&self) -> Value {
        let one = |e: &Entry| {
            let ((offset, len), control, status) = (e.job.progress(), e.job.control(), e.job.status());
            let ready = matches!(status, Status::Ready | Status::Standby);
            let mut value = json!({
                "auto-finalize": e.job.auto_finalize,
                "io-status": control.io_status(),
                "device": e.job.id,
                "auto-dismiss": e.job.auto_dismiss,
                "busy": !control.is_idle(),
                "len": len,
                "offset": offset,
                "status": status.name(),
                "paused": control.is_user_paused(),
                "speed": control.speed(),
                "ready": ready,
                "type": e.job.kind,
            });
            if e.job.kind == "mirror" {
                value["actively-synced"] = json!(false);
            }
            if let Some(error) = e.job.error() {
                value["error"] = json!(error);
            }
            value
        };
        self.lock().jobs.iter().filter(|e| e.block).map(one).collect()
    }
}

impl State {
    /// The id that a new job gets: the one that is asked for, or its drive's.
    pub fn job_id(&self, given: &Given, drive: Option<usize>) -> Answer<String> {
        let named = drive.map(|d| self.drives[d].id.as_str()).unwrap_or_default();
        let id = given.text("job-id").unwrap_or(named);
        if given.text("job-id").is_none() && drive.is_none() {
            return Err(Refusal::new("An explicit job ID is required for this node"));
        }
        if !is_well_formed(id) {
            return Err(Refusal::new(format!("Invalid job ID '{id}'")));
        }
        if self.jobs.iter().any(|e| e.job.id == id) {
            return Err(Refusal::new(format!("Job ID '{id}' already in use")));
        }
        match given.signed("speed") {
            Some(speed) if speed < 0 => Err(Refusal::new("Parameter 'speed' expects a non-negative value")),
            _ => Ok(id.to_owned()),
        }
    }
}
