//! Commands that start jobs which copy a disk to another image: `drive-mirror`, `blockdev-mirror`, `drive-backup`,
//! `blockdev-backup`.
//!
//! Reference: arguments, errors and results of QEMU 10.0.2.
//!
//! Differences: a backup whose copy of old contents fails ends, and the guest's write is done; QEMU's guest sees the error.
//! Not modelled: `copy-mode=write-blocking`, backups by bitmap, `replaces` of other nodes than the disk itself.

use super::jobs::{End, Start};
use super::nodes::same;
use super::{Answer, Blocks, Found, State};
use crate::monitor::json::Refusal;
use crate::monitor::qmp::Given;
use disk::job::backup::{Backup, Wanted};
use disk::job::mirror::{Mirror, Plan, Sync};
use disk::options::Options;
use disk::{NodeRef, OpenFlags, chain};
use std::sync::Arc;

/// Pieces that mirrors and backups remember.
pub(super) const GRANULARITY: u64 = 64 << 10;

pub(super) fn refuse<T>(text: impl Into<String>) -> Answer<T> {
    Err(Refusal::new(text))
}

impl Blocks {
    pub fn drive_mirror(&self, given: &Given) -> Answer<()> {
        let mut state = self.lock();
        let found = state.lookup(given.text("device"), given.text("device"))?;
        state.needs_root(&found)?;
        if given.text("replaces").is_some() && given.text("node-name").is_none() {
            return refuse("a node-name must be provided when replacing a named node of the graph");
        }
        let sync = mirror_sync(given, &found);
        let id = state.job_id(given, found.drive)?;
        let backing = match sync {
            Sync::Full => None,
            Sync::Top => found.node.backing(),
            Sync::None => Some(found.node.clone()),
        };
        let unmap = given.bool("unmap").unwrap_or(true);
        let (target, new) = state.make_target(given, &found, backing.as_ref(), unmap)?;
        target.set_backing(backing);
        self.mirror(state, given, id, found, target, new)
    }

    pub fn blockdev_mirror(&self, given: &Given) -> Answer<()> {
        let mut state = self.lock();
        let (found, target) = state.source_and_target(given)?;
        state.needs_root(&found)?;
        if same(&found.node, &target.node) {
            return refuse("Can't mirror node into itself");
        }
        let id = state.job_id(given, found.drive)?;
        state.may_write(&target, |name, user| {
            format!(
                "Permission conflict on node '{name}': permissions 'consistent read, write' are both required by {user} (uses node '{name}' as 'root' child) and unshared by an unnamed block device (uses node '{name}' as 'root' child)."
            )
        })?;
        self.mirror(state, given, id, found, target.node, false)
    }

    fn mirror(
        &self,
        mut guard: std::sync::MutexGuard<'_, State>,
        given: &Given,
        id: String,
        found: Found,
        target: NodeRef,
        blank: bool,
    ) -> Answer<()> {
        let state = &mut *guard;
        let granularity = given.number("granularity").filter(|g| *g > 0).unwrap_or(GRANULARITY);
        if !(512..=64 << 20).contains(&granularity) {
            return refuse("Parameter 'granularity' expects a value in range [512B, 64MB]");
        }
        if !granularity.is_power_of_two() {
            return refuse("Parameter 'granularity' expects a power of 2");
        }
        if given.text("copy-mode") == Some("write-blocking") {
            return refuse("copy-mode=write-blocking is not supported yet");
        }
        if let Some(name) = given.text("replaces") {
            let replaced = state
                .nodes
                .find(name)
                .ok_or_else(|| Refusal::new(format!("Failed to find node with node-name='{name}'")))?;
            if !same(&replaced, &found.node) {
                return refuse("replacing a node other than the disk itself is not supported yet");
            }
        }
        let sync = mirror_sync(given, &found);
        let stop = if sync == Sync::Top { found.node.backing() } else { None };
        let plan = Plan { sync, stop, granularity, blank: blank && target.starts_zero(), grow: false };
        let slot = state.slot_of(&found);
        let work = Mirror::new(slot.clone(), target.clone(), plan)?;
        state.name_filter(given, &slot);
        let gone = chain::layers(&found.node);
        let nodes = vec![found.node.clone(), target.clone()];
        let after = move |state: &mut State, end: End| match end {
            End::Completed => state.retire(&gone),
            _ => state.retire(&[target]),
        };
        let start = Start {
            id,
            kind: "mirror",
            block: true,
            slot: Some(slot),
            root: Some(found.node),
            nodes,
            work: Box::new(work),
            after: Box::new(after),
        };
        self.start(state, given, start).map(drop)
    }

    /// The id of the job, for a transaction that takes it back.
    pub fn drive_backup(&self, given: &Given) -> Answer<String> {
        let mut state = self.lock();
        let found = state.lookup(given.text("device"), given.text("device"))?;
        state.not_busy(&found)?;
        state.needs_root(&found)?;
        let id = state.job_id(given, found.drive)?;
        let backing = match given.text("sync") {
            Some("top") => found.node.backing(),
            Some("none") => Some(found.node.clone()),
            _ => None,
        };
        let (target, _) = state.make_target(given, &found, backing.as_ref(), true)?;
        if backing.is_some() {
            target.set_backing(backing);
        }
        self.backup(state, given, id, found, target)
    }

    pub fn blockdev_backup(&self, given: &Given) -> Answer<String> {
        let mut state = self.lock();
        let (found, target) = state.source_and_target(given)?;
        state.not_busy(&found)?;
        state.needs_root(&found)?;
        if same(&found.node, &target.node) {
            return refuse("Source and target cannot be the same");
        }
        if found.node.size() != target.node.size() {
            return refuse("Source and target image have different sizes");
        }
        state.may_write(&target, |name, user| {
            format!(
                "Could not create node: Permission conflict on node '{name}': permissions 'write' are both required by a backup (uses node '{name}' as 'target' child) and unshared by {user} (uses node '{name}' as 'root' child)."
            )
        })?;
        let id = state.job_id(given, found.drive)?;
        self.backup(state, given, id, found, target.node)
    }

    fn backup(
        &self,
        mut guard: std::sync::MutexGuard<'_, State>,
        given: &Given,
        id: String,
        found: Found,
        target: NodeRef,
    ) -> Answer<String> {
        let state = &mut *guard;
        let wanted = match given.needed("sync") {
            "full" => Wanted::All,
            // Without layers below there is nothing to leave out.
            "top" if found.node.backing().is_some() => Wanted::Above(found.node.backing()),
            "top" => Wanted::All,
            "none" => Wanted::Overwritten,
            other => return refuse(format!("sync={other} is not supported yet")),
        };
        let compress = given.bool("compress").unwrap_or(false);
        if compress && !target.can_compress() {
            return refuse(format!("Compression is not supported for driver '{}'", target.driver()));
        }
        let cluster = target.info()?.cluster_size.unwrap_or(0);
        let granularity = if compress { cluster } else { cluster.max(GRANULARITY) };
        let slot = state.slot_of(&found);
        let work = Backup::new(slot.clone(), target.clone(), wanted, granularity, compress)?;
        state.name_filter(given, &slot);
        let nodes = vec![found.node.clone(), target.clone()];
        let after = move |state: &mut State, _| state.retire(&[target]);
        let start = Start {
            id,
            kind: "backup",
            block: true,
            slot: Some(slot),
            root: Some(found.node),
            nodes,
            work: Box::new(work),
            after: Box::new(after),
        };
        self.start(state, given, start).map(|job| job.id.clone())
    }
}

fn mirror_sync(given: &Given, found: &Found) -> Sync {
    match given.text("sync") {
        Some("none") => Sync::None,
        // Without layers below there is nothing to leave out.
        Some("top") if found.node.backing().is_some() => Sync::Top,
        _ => Sync::Full,
    }
}

impl State {
    /// What a job reads and what it writes to, both already open.
    fn source_and_target(&mut self, given: &Given) -> Answer<(Found, Found)> {
        let source = self.lookup(given.text("device"), given.text("device"))?;
        let target = self.lookup(given.text("target"), given.text("target"))?;
        Ok((source, target))
    }

    /// Refuses a target that somebody else uses, in the words for its name and its user, or that nobody may write to.
    fn may_write(&mut self, target: &Found, conflict: impl FnOnce(&str, &str) -> String) -> Answer<()> {
        self.not_busy(target)?;
        if let Some(user) = self.user_of(target) {
            return refuse(conflict(&self.nodes.name(&target.node), &user));
        }
        if target.node.read_only() {
            return refuse("Block node is read-only");
        }
        Ok(())
    }

    /// What a device does with a node, in QEMU's words; nothing if no device has it.
    fn user_of(&self, found: &Found) -> Option<String> {
        let drive = &self.drives
            [self.drives.iter().position(|d| chain::layers(&self.root(d)).iter().any(|l| same(l, &found.node)))?];
        let path = drive.attached_to.clone().unwrap_or_default();
        Some(format!("block device '{}'", if drive.id.is_empty() { &path } else { &drive.id }))
    }

    /// The name that a job's filter gets.
    fn name_filter(&mut self, given: &Given, slot: &Arc<disk::filter::slot::Slot>) {
        if let Some(name) = given.text("filter-node-name") {
            self.nodes.set_name(&slot.node(), name, None);
        }
    }

    /// Opens the file that a job writes to, without layers below it, and makes it first unless it shall exist.
    /// Says whether it is new.
    fn make_target(
        &mut self,
        given: &Given,
        found: &Found,
        backing: Option<&NodeRef>,
        unmap: bool,
    ) -> Answer<(NodeRef, bool)> {
        let (file, existing) = (given.needed("target"), given.text("mode") == Some("existing"));
        if let Some(name) = given.text("node-name") {
            self.nodes.check_name(name, &self.ids())?;
        }
        let format = given.text("format").map(str::to_owned).or((!existing).then(|| found.node.driver().to_owned()));
        let base = found.drive.map(|d| self.drives[d].flags.clone()).unwrap_or_default();
        let no_backing = backing.is_some() || given.text("sync") != Some("full") || !existing;
        let flags = OpenFlags { write: true, unmap, no_backing, quiet_probe: true, ..base };
        if !existing {
            self.create_image(file, format.as_deref().unwrap_or("raw"), found.node.size(), backing)?;
        }
        let node = disk::open(file, format.as_deref(), &flags)?;
        let mut recipe = Options::new();
        recipe.set("filename", file);
        recipe.set("driver", node.driver());
        let name = given.text("node-name").map_or_else(|| self.nodes.name(&node), str::to_owned);
        self.nodes.set_name(&node, &name, Some((recipe, flags)));
        Ok((node, !existing))
    }

    /// Makes an image on top of another, or of nothing.
    pub fn create_image(&mut self, file: &str, format: &str, size: u64, backing: Option<&NodeRef>) -> Answer<()> {
        if disk::create::options_of(format).is_none() {
            let known = disk::open::is_known_driver(format);
            return refuse(if known {
                format!("Format driver '{format}' does not support image creation")
            } else {
                format!("Unknown file format '{format}'")
            });
        }
        let mut options = Options::new();
        options.set("size", &size.to_string());
        if let Some(backing) = backing {
            if !disk::create::takes_backing(format) {
                return refuse(format!("Backing file not supported for file format '{format}'"));
            }
            if backing.filename() == file {
                return refuse("Error: Trying to create an image with the same filename as the backing file");
            }
            options.set("backing_file", &backing.filename());
            options.set("backing_fmt", backing.driver());
        }
        Ok(disk::create::create(format, file, options)?)
    }
}
