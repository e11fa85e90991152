//! `commit` and Ctrl-A `s`: what an image keeps apart from its backing file is written to that file.
//!
//! Reference: `commit` of QEMU 10.0.2's monitor.
//!
//! Differences: the upper image is not emptied. It goes on to hide the file below, whose tables the running machine has
//! already read; the guest sees the same either way.
//!
//! Invariants: no vCPU executes meanwhile. A lower image is opened for writing once and stays open, so that its lock is
//! held as long as the machine is there.

use crate::drives::Drive;
use crate::lifecycle::Lifecycle;
use disk::job::commit::Commit;
use disk::job::{Job, Manner};
use disk::open::OpenFlags;
use disk::{NodeRef, chain};
use spec::{Error, Result};
use std::sync::{Arc, Mutex, PoisonError};

pub struct Commits {
    life: Arc<Lifecycle>,
    drives: Vec<Drive>,
    /// Lower images that are open for writing, by drive.
    bases: Mutex<Vec<(String, NodeRef)>>,
}

impl Commits {
    pub fn new(life: Arc<Lifecycle>, drives: Vec<Drive>) -> Arc<Commits> {
        Arc::new(Commits { life, drives, bases: Mutex::default() })
    }

    /// One drive by its name, or `all` that have a backing file.
    pub fn run(&self, device: &str) -> Result<()> {
        if device == "all" {
            let backed = self.drives.iter().filter(|d| !d.read_only && d.node.backing().is_some());
            return self.life.while_stopped(|| backed.into_iter().try_for_each(|d| self.one(d)));
        }
        let drive = self.drives.iter().find(|d| d.id == device);
        let drive = drive.ok_or_else(|| Error::new(format!("Device '{device}' not found")))?;
        self.life.while_stopped(|| self.one(drive))
    }

    fn one(&self, drive: &Drive) -> Result<()> {
        let failed = |why: String| Error::new(format!("'commit' error for '{}': {why}", drive.id));
        let layers = chain::layers(&drive.node);
        let Some(stop) = layers.get(1).cloned() else { return Err(failed("Operation not supported".into())) };
        let base = self.base(drive, &stop).map_err(|e| failed(e.to_string()))?;
        drive.node.set_backing(Some(base.clone()));
        let work = Commit { top: drive.node.clone(), base, link: None };
        let job = Job::start(&drive.id, "commit", Manner::default(), Box::new(work))?;
        job.wait().map_err(|e| failed(e.to_string()))
    }

    fn base(&self, drive: &Drive, below: &NodeRef) -> Result<NodeRef> {
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, node)) = bases.iter().find(|(id, _)| *id == drive.id) {
            return Ok(node.clone());
        }
        // The machine's own handle, which only reads, would refuse the writer.
        below.release_locks();
        let flags = OpenFlags { write: true, ..OpenFlags::default() };
        let node = disk::open(&below.filename(), Some(below.driver()), &flags)?;
        bases.push((drive.id.clone(), node.clone()));
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Actions;
    use crate::drives::Drives;
    use crate::lifecycle::Processors;
    use crate::options::tests::config;

    struct Nobody;

    impl Processors for Nobody {
        fn pause(&self) {}
        fn resume(&self) {}
        fn reset(&self) {}
    }

    #[test]
    fn changes_of_a_temporary_image_reach_the_file() {
        let path = std::env::temp_dir().join(format!("rhea-commit-{}.img", std::process::id()));
        std::fs::write(&path, vec![1u8; 65536]).unwrap();
        let c = config(&format!("-M virt -snapshot -drive file={},format=raw,if=none,id=d", path.display()));
        let drives = Drives::open(&c.drives, &c.blockdevs, c.snapshot).unwrap();
        drives.drives[0].node.write(4096, &[7; 512]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[4096], 1);
        let commits = Commits::new(Lifecycle::new(Arc::new(Nobody), Actions::default()), drives.drives.clone());
        assert_eq!(commits.run("x").unwrap_err().to_string(), "Device 'x' not found");
        commits.run("all").unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[4095..4609], [&[1u8][..], &[7; 512], &[1]].concat());
        drives.drives[0].node.write(0, &[9; 512]).unwrap();
        commits.run("d").unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[0], 9);
        std::fs::remove_file(&path).unwrap();
    }
}
