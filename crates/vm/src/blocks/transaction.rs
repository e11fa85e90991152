//! `transaction`: several commands, or none.
//!
//! Reference: actions, atomicity and errors of QEMU 10.0.2.
//! Not modelled: `completion-mode=grouped`; bitmaps.
//!
//! Invariant: no vCPU executes meanwhile, so all actions see the disks of one moment.

use super::change::Taken;
use super::{Answer, Blocks};
use crate::monitor::json::Refusal;
use crate::monitor::qmp::{self, Given};
use serde_json::Value;

enum Done {
    Snapshot(Taken),
    Backup(String),
}

impl Blocks {
    pub fn transaction(&self, given: &Given) -> Answer<()> {
        if given.0.get("properties").and_then(|p| p["completion-mode"].as_str()) == Some("grouped") {
            return Err(Refusal::new("completion-mode=grouped is not supported yet"));
        }
        let mut actions = Vec::new();
        for action in given.0.get("actions").and_then(Value::as_array).into_iter().flatten() {
            let name = action["type"].as_str().ok_or_else(|| Refusal::new("Parameter 'type' is missing"))?;
            let Value::Object(data) = action["data"].clone() else {
                return Err(Refusal::new("Parameter 'data' is missing"));
            };
            let data = match name {
                "abort" => Given(data),
                "blockdev-backup" | "blockdev-snapshot" | "blockdev-snapshot-sync" | "drive-backup" => {
                    qmp::checked(name, data)?
                }
                _ => return Err(Refusal::new(format!("Parameter 'type' does not accept value '{name}'"))),
            };
            actions.push((name, data));
        }
        self.life.while_stopped(|| {
            let mut done = Vec::new();
            for (name, data) in &actions {
                match self.act(name, data) {
                    Ok(one) => done.push(one),
                    Err(refusal) => {
                        done.into_iter().rev().for_each(|one| self.take_back(one));
                        return Err(refusal);
                    }
                }
            }
            for one in done {
                if let Done::Snapshot(taken) = one {
                    self.lock().keep(taken);
                }
            }
            Ok(())
        })
    }

    fn act(&self, name: &str, data: &Given) -> Answer<Done> {
        Ok(match name {
            "blockdev-snapshot" => Done::Snapshot(self.lock().snapshot(data)?),
            "blockdev-snapshot-sync" => Done::Snapshot(self.lock().snapshot_sync(data)?),
            "blockdev-backup" => Done::Backup(self.blockdev_backup(data)?),
            "drive-backup" => Done::Backup(self.drive_backup(data)?),
            _ => return Err(Refusal::new("Transaction aborted using Abort action")),
        })
    }

    fn take_back(&self, done: Done) {
        match done {
            Done::Snapshot(taken) => self.lock().undo(taken),
            Done::Backup(id) => {
                let job = self.lock().jobs.iter().find(|e| e.job.id == id).map(|e| e.job.clone());
                if let Some(job) = job {
                    job.stop(true);
                    // It was cancelled, which is no news.
                    let _ = job.wait();
                }
            }
        }
    }
}
