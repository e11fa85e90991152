//! Commands that start jobs: `block-stream`, `block-commit`, `drive-mirror`, `blockdev-mirror`, `drive-backup`,
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
use disk::job::commit::Commit;
use disk::job::mirror::{Mirror, Plan, Sync};
use disk::job::stream::Stream;
use disk::options::Options;
use disk::{NodeRef, OpenFlags, chain};
use std::sync::Arc;

/// Pieces that mirrors and backups remember.
const GRANULARITY: u64 = 64 << 10;

fn refuse<T>(text: impl Into<String>) -> Answer<T> {
    Err(Refusal::new(text))
}

/// The layer below the top one that a file name means.
fn layer_of(layers: &[NodeRef], name: &str) -> Option<usize> {
    let wanted = std::fs::canonicalize(name).ok();
    let is =
        |n: &NodeRef| n.filename() == name || wanted.is_some() && std::fs::canonicalize(n.filename()).ok() == wanted;
    layers.iter().skip(1).position(is).map(|i| i + 1)
}

impl State {
    /// The layer of a chain that a node's name means.
    fn layer_named(&mut self, layers: &[NodeRef], name: &str, missing: impl FnOnce() -> String) -> Answer<usize> {
        let node = self.lookup(None, Some(name))?.node;
        layers.iter().position(|l| same(l, &node)).ok_or_else(|| Refusal::new(missing()))
    }

    fn not_busy_layers(&mut self, layers: &[NodeRef]) -> Answer<()> {
        layers.iter().try_for_each(|node| self.not_busy(&Found { node: node.clone(), drive: self.drive_of(node) }))
    }
}

impl Blocks {
    pub fn block_stream(&self, given: &Given) -> Answer<()> {
        let mut state = self.lock();
        let found = state.lookup(given.text("device"), given.text("device"))?;
        let device = given.needed("device").to_owned();
        let layers = chain::layers(&found.node);
        let base = match (given.text("base"), given.text("base-node"), given.text("bottom")) {
            (Some(_), Some(_), _) => return refuse("'base' and 'base-node' cannot be specified at the same time"),
            (Some(_), _, Some(_)) => return refuse("'base' and 'bottom' cannot be specified at the same time"),
            (_, Some(_), Some(_)) => return refuse("'bottom' and 'base-node' cannot be specified at the same time"),
            (Some(name), ..) => Some(
                layer_of(&layers, name)
                    .ok_or_else(|| Refusal::new(format!("Can't find '{name}' in the backing chain")))?,
            ),
            (_, Some(name), _) => {
                let text = || format!("Node '{name}' is not a backing image of '{device}'");
                Some(state.layer_named(&layers, name, text)?)
                    .filter(|at| *at > 0)
                    .map_or_else(|| refuse(text()), |at| Ok(Some(at)))?
            }
            (.., Some(name)) => {
                let text = || format!("Node '{name}' is not in the chain of '{device}'");
                Some(state.layer_named(&layers, name, text)? + 1).filter(|at| *at < layers.len())
            }
            _ => None,
        };
        if given.text("backing-file").is_some() && base.is_none() {
            return refuse("backing file specified, but streaming the entire chain");
        }
        let covered = &layers[..base.map_or(layers.len(), |b| b + 1)];
        state.not_busy_layers(covered)?;
        let id = state.job_id(given, found.drive)?;
        let base = base.map(|b| layers[b].clone());
        let name = base.as_ref().map(|b| {
            let file = given.text("backing-file").map_or_else(|| b.filename(), str::to_owned);
            (
                file,
                (!given.bool("backing-mask-protocol").unwrap_or(false) || b.driver() != "raw")
                    .then(|| b.driver().to_owned()),
            )
        });
        let gone: Vec<NodeRef> =
            covered.iter().skip(1).filter(|n| base.as_ref().is_none_or(|b| !same(n, b))).cloned().collect();
        let (work, top, slot) = match found.drive {
            Some(drive) => {
                let slot = state.drives[drive].slot.clone();
                (Stream::new(slot.clone(), base, name)?, found.node, Some(slot))
            }
            None => {
                let top = state.reopen(&found.node, true)?;
                (Stream::below(top.clone(), base, name), top, None)
            }
        };
        let mut nodes = covered.to_vec();
        nodes[0] = top.clone();
        let middle = slot.is_none();
        let after = move |state: &mut State, end: End| {
            if end != End::Aborted {
                state.retire(&gone);
            }
            if middle {
                state.reopen_read_only(&top);
            }
        };
        let root = slot.is_some().then(|| nodes[0].clone());
        let start =
            Start { id, kind: "stream", block: true, slot, root, nodes, work: Box::new(work), after: Box::new(after) };
        self.start(&mut state, given, start).map(drop)
    }

    pub fn block_commit(&self, given: &Given) -> Answer<()> {
        let mut state = self.lock();
        let device = given.needed("device");
        let not_found = |_| Refusal { class: "DeviceNotFound", text: format!("Device '{device}' not found") };
        let found = state.lookup(Some(device), Some(device)).map_err(not_found)?;
        state.needs_root(&found)?;
        let layers = chain::layers(&found.node);
        let outside = |name: &str| format!("'{name}' is not in this backing file chain");
        let top = match (given.text("top-node"), given.text("top")) {
            (Some(_), Some(_)) => return refuse("'top-node' and 'top' are mutually exclusive"),
            (Some(name), _) => state.layer_named(&layers, name, || outside(name))?,
            (_, Some(name)) if layers[0].filename() == name => 0,
            (_, Some(name)) => {
                layer_of(&layers, name).ok_or_else(|| Refusal::new(format!("Top image file {name} not found")))?
            }
            _ => 0,
        };
        let base = match (given.text("base-node"), given.text("base")) {
            (Some(_), Some(_)) => return refuse("'base-node' and 'base' are mutually exclusive"),
            (Some(name), _) => state.layer_named(&layers, name, || outside(name))?,
            (_, Some(name)) => {
                let at = layer_of(&layers[top..], name);
                top + at.ok_or_else(|| Refusal::new(format!("Can't find '{name}' in the backing chain")))?
            }
            _ => layers.len() - 1,
        };
        if base <= top {
            return refuse("cannot commit an image into itself");
        }
        if top == 0 && given.text("backing-file").is_some() {
            return refuse("'backing-file' specified, but 'top' is the active layer");
        }
        state.not_busy_layers(&layers[top.saturating_sub(1)..=base])?;
        let id = state.job_id(given, found.drive)?;
        if top == 0 {
            self.commit_active(state, given, id, &found, &layers, base)
        } else {
            self.commit_below(state, given, id, &layers, top, base)
        }
    }

    /// The layer in use: a mirror to a layer below it.
    fn commit_active(
        &self,
        mut guard: std::sync::MutexGuard<'_, State>,
        given: &Given,
        id: String,
        found: &Found,
        layers: &[NodeRef],
        base: usize,
    ) -> Answer<()> {
        let state = &mut *guard;
        let was_read_only = layers[base].read_only();
        let target = state.reopen(&layers[base], true)?;
        let slot = state.slot_of(found);
        let plan =
            Plan { sync: Sync::Top, stop: Some(target.clone()), granularity: GRANULARITY, blank: false, grow: true };
        let work = Mirror::new(slot.clone(), target.clone(), plan)?;
        let mut nodes = layers[..=base].to_vec();
        nodes[base] = target.clone();
        let gone = layers[..base].to_vec();
        let after = move |state: &mut State, end: End| match end {
            End::Completed => state.retire(&gone),
            _ if was_read_only => state.reopen_read_only(&target),
            _ => {}
        };
        let root = Some(layers[0].clone());
        let start = Start {
            id,
            kind: "commit",
            block: true,
            slot: Some(slot),
            root,
            nodes,
            work: Box::new(work),
            after: Box::new(after),
        };
        self.start(state, given, start).map(drop)
    }

    /// Layers that nobody writes to.
    fn commit_below(
        &self,
        mut guard: std::sync::MutexGuard<'_, State>,
        given: &Given,
        id: String,
        layers: &[NodeRef],
        top: usize,
        base: usize,
    ) -> Answer<()> {
        let state = &mut *guard;
        let (base_was, above_was) = (layers[base].read_only(), layers[top - 1].read_only());
        let target = state.reopen(&layers[base], true)?;
        let above = state.reopen(&layers[top - 1], true)?;
        // The chain may have new handles now.
        let layers = chain::layers(&above);
        let gone: Vec<NodeRef> = layers[1..].iter().take_while(|l| !same(l, &target)).cloned().collect();
        let file = given.text("backing-file").map_or_else(|| target.filename(), str::to_owned);
        let (over, below) = (above.clone(), target.clone());
        let link = move || {
            over.change_backing_file(Some(&file), Some(below.driver()))?;
            over.set_backing(Some(below));
            Ok(())
        };
        let work = Commit { top: gone[0].clone(), base: target.clone(), link: Some(Box::new(link)) };
        let mut nodes = gone.clone();
        nodes.extend([above.clone(), target.clone()]);
        let after = move |state: &mut State, end: End| {
            if end != End::Aborted {
                state.retire(&gone);
            }
            for (node, was_read_only) in [(&target, base_was), (&above, above_was)] {
                if was_read_only {
                    state.reopen_read_only(node);
                }
            }
        };
        let start = Start {
            id,
            kind: "commit",
            block: true,
            slot: None,
            root: None,
            nodes,
            work: Box::new(work),
            after: Box::new(after),
        };
        self.start(state, given, start).map(drop)
    }

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
