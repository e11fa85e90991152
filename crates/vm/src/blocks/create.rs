//! `blockdev-create`: makes an image as a job.
//!
//! Reference: the members of QEMU 10.0.2's `BlockdevCreateOptions` and the job `create`.
//! Not modelled: `luks`, `vmdk` and `data-file` through QMP.

use super::jobs::Start;
use super::{Answer, Blocks, State};
use crate::monitor::json::Refusal;
use crate::monitor::qmp::Given;
use disk::job::{Control, Stop, Work};
use disk::options::Options;
use serde_json::Value;
use spec::{Error, Result};

/// Formats that can be made so.
const DRIVERS: [&str; 6] = ["file", "qcow2", "raw", "vdi", "vhdx", "vpc"];

struct Create {
    format: String,
    file: std::result::Result<String, String>,
    options: Options,
}

impl Work for Create {
    fn run(&mut self, control: &Control) -> std::result::Result<(), Stop> {
        control.begin(1);
        let made = self.file.clone().map_err(Error::new);
        let made = made.and_then(|file| disk::create::create(&self.format, &file, self.options.clone()));
        control.advance(1);
        made.map_err(Stop::Failed)
    }

    fn finish(&mut self, _control: &Control) -> Result<()> {
        Ok(())
    }

    fn abort(&mut self) {}
}

impl Blocks {
    pub fn blockdev_create(&self, given: &Given) -> Answer<()> {
        let mut state = self.lock();
        let Some(Value::Object(members)) = given.0.get("options") else {
            return Err(Refusal::new("Parameter 'options' is missing"));
        };
        let driver = members.get("driver").and_then(Value::as_str);
        let driver = driver.ok_or_else(|| Refusal::new("Parameter 'driver' is missing"))?.to_owned();
        if !DRIVERS.contains(&driver.as_str()) {
            return Err(Refusal::new(format!("Parameter 'driver' does not accept value '{driver}'")));
        }
        let mut options = Options::parse_json(&Value::Object(members.clone()).to_string())?;
        options.take("driver");
        let key = if driver == "file" { "filename" } else { "file" };
        let file = options.take(key).ok_or_else(|| Refusal::new(format!("Parameter '{key}' is missing")))?;
        let file = if driver == "file" { Ok(file) } else { state.nodes.file_of(&file) };
        let mut renamed = Options::new();
        for (name, value) in options.iter() {
            match name {
                "version" => renamed.set("compat", if value == "v2" { "0.10" } else { "1.1" }),
                name => renamed.set(&name.replace('-', "_"), value),
            }
        }
        let id = state.job_id(given, None)?;
        let work = Box::new(Create { format: driver, file, options: renamed });
        let after = Box::new(|_: &mut State, _| ());
        let start = Start { id, kind: "create", block: false, slot: None, root: None, nodes: Vec::new(), work, after };
        self.start(&mut state, given, start).map(drop)
    }
}
