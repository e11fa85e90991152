//! `commit` and Ctrl-A `s`: what an image keeps apart from its backing file is written to that file, and the image is empty.
//!
//! Reference: `commit` of QEMU 10.0.2's monitor.
//!
//! Invariants: no vCPU executes meanwhile, and no request is under way while the image is emptied: what it had is then
//! in the file below.

use super::{Blocks, Found, State};
use disk::chain;
use disk::job::commit::Commit;
use disk::job::{Job, Manner};
use spec::{Error, Result};

impl Blocks {
    /// One drive by its name, or `all` that have a backing file.
    pub fn commit(&self, device: &str) -> Result<()> {
        let mut state = self.lock();
        let has_backing = |d: &crate::drives::Drive| !d.read_only && state.root(d).backing().is_some();
        let drives: Vec<usize> = match device {
            "all" => (0..state.drives.len()).filter(|d| has_backing(&state.drives[*d])).collect(),
            _ => {
                let found = state.drives.iter().position(|d| d.id == device);
                vec![found.ok_or_else(|| Error::new(format!("Device '{device}' not found")))?]
            }
        };
        self.life.while_stopped(|| drives.into_iter().try_for_each(|d| state.commit(d)))
    }
}

impl State {
    fn commit(&mut self, drive: usize) -> Result<()> {
        let id = self.drives[drive].id.clone();
        let failed = |why: String| Error::new(format!("'commit' error for '{id}': {why}"));
        let slot = self.drives[drive].slot.clone();
        let root = self.root(&self.drives[drive]);
        let found = Found { node: root.clone(), drive: Some(drive) };
        let Some(below) = chain::layers(&root).get(1).cloned() else {
            return Err(failed("Operation not supported".into()));
        };
        if self.not_busy(&found).is_err() || self.is_worked_with(&below) {
            return Err(failed("Device or resource busy".into()));
        }
        let was_read_only = below.read_only();
        let base = self.reopen(&below, true).map_err(|e| failed(e.to_string()))?;
        let done = slot.exchange(|top| {
            let work = Commit { top: top.clone(), base: base.clone(), link: None };
            Job::start(&id, "commit", Manner::default(), Box::new(work))?.wait()?;
            if let Some(image) = top.as_qcow2() {
                image.make_empty()?;
            }
            Ok((top.clone(), ()))
        });
        if was_read_only {
            self.reopen_read_only(&base);
        }
        done.map_err(|e| failed(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use crate::blocks::tests::machine;

    #[test]
    fn changes_of_a_temporary_image_reach_the_file() {
        let path = std::env::temp_dir().join(format!("rhea-commit-{}.img", std::process::id()));
        std::fs::write(&path, vec![1u8; 65536]).unwrap();
        let blocks = machine(&format!("-M virt -snapshot -drive file={},format=raw,if=none,id=d", path.display()));
        let node = blocks.lock().drives[0].node.clone();
        node.write(4096, &[7; 512]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[4096], 1);
        assert_eq!(blocks.commit("x").unwrap_err().to_string(), "Device 'x' not found");
        blocks.commit("all").unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[4095..4609], [&[1u8][..], &[7; 512], &[1]].concat());
        // The image on top is empty again, and the file below is open for reading only.
        let root = blocks.lock().drives[0].slot.node();
        assert!(!root.map(0, 65536).unwrap().allocated);
        assert!(root.backing().unwrap().read_only());
        node.write(0, &[9; 512]).unwrap();
        blocks.commit("d").unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[0], 9);
        let mut back = [0; 512];
        node.read(4096, &mut back).unwrap();
        assert_eq!(back, [7; 512]);
        blocks.close().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}
