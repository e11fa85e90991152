//! The disks of a running machine: drives, the nodes below them, and jobs.
//!
//! Reference: QEMU 10.0.2's block commands, their errors, and when images are opened for reading or for writing.
//!
//! Module map: `nodes` knows nodes by name; `change` has snapshots, `blockdev-add` and their likes; `chains` and
//! `copies` start jobs, `jobs` keeps them; `show` is what monitors list; `commit` is a human's `commit` and Ctrl-A `s`; `transaction` does
//! several things or none.
//!
//! Invariants: the state's lock is not held while somebody waits for a job. A node is opened for writing only while
//! something writes to it; another handle takes its place while no request is under way.

pub mod chains;
pub mod change;
pub mod commit;
pub mod copies;
pub mod create;
pub mod jobs;
pub mod nodes;
pub mod show;
pub mod transaction;

use crate::drives::{Drive, Drives};
use crate::lifecycle::Lifecycle;
use crate::monitor::json::Refusal;
use disk::filter::slot::Slot;
use disk::{NodeRef, chain};
use jobs::Entry;
use nodes::{Nodes, same};
use spec::{Error, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What a command answers.
pub type Answer<T> = std::result::Result<T, Refusal>;

pub struct Blocks {
    life: Arc<Lifecycle>,
    me: Weak<Blocks>,
    state: Mutex<State>,
}

pub struct State {
    pub drives: Vec<Drive>,
    pub nodes: Nodes,
    pub jobs: Vec<Entry>,
}

/// A node that a command names.
pub struct Found {
    pub node: NodeRef,
    /// The drive whose topmost node it is.
    pub drive: Option<usize>,
}

impl Blocks {
    pub fn new(life: Arc<Lifecycle>, drives: Drives) -> Arc<Blocks> {
        let state = State { drives: drives.drives, nodes: drives.nodes, jobs: Vec::new() };
        Arc::new_cyclic(|me| Blocks { life, me: me.clone(), state: Mutex::new(state) })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine ends: ends jobs, writes everything back and closes the images. The first failure is told.
    ///
    /// No request may be under way but those that [`Blocks::lift`] lets go on.
    pub fn close(&self) -> Result<()> {
        self.end_jobs();
        let state = self.lock();
        let mut result = Ok(());
        let mut closed: Vec<NodeRef> = Vec::new();
        let roots = state.drives.iter().map(|d| d.slot.node()).chain(state.nodes.open());
        for node in roots.flat_map(|root| chain::layers(&root)) {
            if closed.iter().any(|c| same(c, &node)) {
                continue;
            }
            let done = if node.read_only() { Ok(()) } else { node.flush() };
            if let Err(e) = done.and(node.close())
                && result.is_ok()
            {
                result = Err(Error::caused(format!("could not write '{}' back", node.filename()), e));
            }
            closed.push(node);
        }
        result
    }

    /// Requests that wait for their turn go on at once.
    pub fn lift(&self) {
        self.lock().drives.iter().for_each(|d| d.limiter.lift());
    }
}

impl State {
    /// The topmost node of a drive, below what a job has put there.
    pub fn root(&self, drive: &Drive) -> NodeRef {
        let job = self.jobs.iter().find(|j| j.slot.as_ref().is_some_and(|s| Arc::ptr_eq(s, &drive.slot)));
        job.and_then(|j| j.root.clone()).unwrap_or_else(|| drive.slot.node())
    }

    pub fn ids(&self) -> Vec<&str> {
        self.drives.iter().map(|d| d.id.as_str()).filter(|id| !id.is_empty()).collect()
    }

    pub fn drive_of(&self, node: &NodeRef) -> Option<usize> {
        self.drives.iter().position(|d| same(&self.root(d), node))
    }

    /// The drive or the node that a command names; both names may be the same.
    pub fn lookup(&mut self, device: Option<&str>, node: Option<&str>) -> Answer<Found> {
        if let Some(drive) = device.and_then(|name| self.drives.iter().position(|d| !d.id.is_empty() && d.id == name)) {
            return Ok(Found { node: self.root(&self.drives[drive]), drive: Some(drive) });
        }
        if let Some(found) = node.map(|name| self.nodes.get(name)).transpose()?.flatten() {
            return Ok(Found { drive: self.drive_of(&found), node: found });
        }
        let (device, node) = (device.unwrap_or_default(), node.unwrap_or_default());
        Err(Refusal::new(format!("Cannot find device='{device}' nor node-name='{node}'")))
    }

    /// How QEMU names a node in messages.
    pub fn called(&mut self, found: &Found) -> String {
        match found.drive.map(|d| self.drives[d].id.clone()) {
            Some(id) if !id.is_empty() => id,
            _ => self.nodes.name(&found.node),
        }
    }

    /// The place of a node that may be exchanged; one that no device uses has one for this time.
    pub fn slot_of(&self, found: &Found) -> Arc<Slot> {
        found.drive.map_or_else(|| Arc::new(Slot::new(found.node.clone())), |d| self.drives[d].slot.clone())
    }

    /// Refuses a node that a job works with.
    pub fn not_busy(&mut self, found: &Found) -> Answer<()> {
        let busy = |e: &&Entry| e.nodes.iter().any(|n| same(n, &found.node));
        let Some(kind) = self.jobs.iter().find(busy).map(|e| e.job.kind) else { return Ok(()) };
        let name = self.called(found);
        Err(Refusal::new(format!("Node '{name}' is busy: block device is in use by block job: {kind}")))
    }

    /// Refuses a node that others stand on, or that a job has put something above.
    pub fn needs_root(&self, found: &Found) -> Answer<()> {
        let filtered = |d: usize| !same(&self.drives[d].slot.node(), &found.node);
        let below = self.all_roots().iter().any(|r| chain::layers(r).iter().skip(1).any(|l| same(l, &found.node)));
        let free = match found.drive {
            Some(drive) => !filtered(drive),
            None => !below && !self.is_worked_with(&found.node),
        };
        if free { Ok(()) } else { Err(Refusal::new("Need a root block node")) }
    }

    pub fn is_worked_with(&self, node: &NodeRef) -> bool {
        self.jobs.iter().any(|e| e.nodes.iter().any(|n| same(n, node)))
    }

    /// What stands on no other node.
    pub fn all_roots(&self) -> Vec<NodeRef> {
        self.drives.iter().map(|d| self.root(d)).chain(self.nodes.open()).collect()
    }

    /// Whether a drive or a job uses a node, itself or below another.
    pub fn is_used(&self, node: &NodeRef) -> bool {
        let has = |root: &NodeRef| chain::layers(root).iter().any(|l| same(l, node));
        self.drives.iter().any(|d| has(&self.root(d))) || self.jobs.iter().any(|e| e.nodes.iter().any(has))
    }

    /// Opens a node's image once more, for writing or not, and puts the new handle in its place.
    pub fn reopen(&mut self, node: &NodeRef, write: bool) -> Result<NodeRef> {
        if node.read_only() != write {
            return Ok(node.clone());
        }
        let (options, flags) = self.nodes.recipe(node);
        let drive = self.drives.iter().find(|d| chain::layers(&self.root(d)).iter().any(|l| same(l, node))).cloned();
        let base = drive.as_ref().map_or_else(|| flags.clone(), |d| d.flags.clone());
        let flags = disk::OpenFlags { write, no_backing: true, quiet_probe: true, ..base };
        let open = || -> Result<NodeRef> {
            node.flush().map_err(|e| Error::new(disk::node::strerror(&e)))?;
            // Our other handle would refuse this one.
            node.release_locks();
            let new = disk::open_options(options, &flags)?;
            // A name does not always say all that the first opener was told.
            if new.size() != node.size() || new.driver() != node.driver() {
                let name = node.filename();
                return Err(Error::new(format!("'{name}' cannot be opened once more: its options are not known")));
            }
            new.set_backing(node.backing());
            // The old one has nothing to write any more, but may have a mark that says so.
            node.close().map_err(|e| Error::new(disk::node::strerror(&e)))?;
            Ok(new)
        };
        let new = match drive {
            None => open()?,
            Some(drive) => drive.slot.exchange(|root| {
                let new = open()?;
                let above = chain::layers(root).into_iter().find(|l| l.backing().is_some_and(|b| same(&b, node)));
                if let Some(above) = above {
                    above.set_backing(Some(new.clone()));
                }
                Ok((if same(root, node) { new.clone() } else { root.clone() }, new))
            })?,
        };
        for above in self.nodes.open().iter().filter(|n| n.backing().is_some_and(|b| same(&b, node))) {
            above.set_backing(Some(new.clone()));
        }
        self.nodes.replace(node, &new);
        Ok(new)
    }

    /// Opens a node for reading only again, if it was; a failure leaves it as it is.
    pub fn reopen_read_only(&mut self, node: &NodeRef) {
        if let Err(e) = self.reopen(node, false) {
            log::warn!("'{}' stays open for writing: {e}", node.filename());
        }
    }

    /// Closes nodes that nothing uses any more.
    pub fn retire(&mut self, nodes: &[NodeRef]) {
        for node in nodes.iter().filter(|n| !self.is_used(n)) {
            let owned = self.all_roots().iter().any(|r| chain::layers(r).iter().any(|l| same(l, node)));
            let done = if owned { node.flush() } else { node.close() };
            if let Err(e) = done {
                log::error!("could not write '{}' back: {e}", node.filename());
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::config::Actions;
    use crate::lifecycle::Processors;
    use crate::options::tests::config;

    struct Nobody;

    impl Processors for Nobody {
        fn pause(&self) {}
        fn resume(&self) {}
        fn reset(&self) {}
    }

    /// The disks of a command line.
    pub fn machine(options: &str) -> Arc<Blocks> {
        disks(Lifecycle::new(Arc::new(Nobody), Actions::default()), options)
    }

    pub fn disks(life: Arc<Lifecycle>, options: &str) -> Arc<Blocks> {
        let c = config(options);
        Blocks::new(life, Drives::open(&c.drives, &c.blockdevs, c.snapshot).unwrap())
    }
}
