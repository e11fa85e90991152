//! What monitors list of disks: `query-block`, `query-named-block-nodes`, `info block`.
//!
//! Reference: members and order of QEMU 10.0.2.

use super::{Answer, Blocks, State};
use crate::drives::Drive;
use crate::monitor::json::Refusal;
use crate::monitor::machine::{Disk, Image};
use disk::open::{PROTOCOLS, relative_to};
use disk::{NodeRef, chain};
use serde_json::{Map, Value, json};

impl Blocks {
    /// All drives, and nodes that devices have without one.
    pub fn disks(&self) -> Vec<Disk> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let drives = state.drives.clone();
        drives.iter().map(|drive| state.disk(drive)).collect()
    }

    /// What a human's `qemu-io` reads and writes: a drive with its limits, or a node as it is.
    pub fn node_for_io(&self, name: &str, qdev: bool) -> Answer<NodeRef> {
        let mut state = self.lock();
        if qdev {
            let is = |d: &&Drive| {
                d.attached_to.as_deref().is_some_and(|path| path == name || path.split('/').nth(3) == Some(name))
            };
            let drive = state.drives.iter().find(is).map(|d| d.node.clone());
            return drive.ok_or_else(|| Refusal::new(format!("Device '{name}' not found")));
        }
        if let Some(drive) = state.drives.iter().find(|d| !d.id.is_empty() && d.id == name) {
            return Ok(drive.node.clone());
        }
        let found = state.lookup(None, Some(name))?;
        Ok(found.drive.map_or(found.node, |d| state.drives[d].node.clone()))
    }

    /// Every node that is open, users above what they use.
    pub fn named(&self, flat: bool) -> Vec<Disk> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut nodes: Vec<(NodeRef, usize)> = Vec::new();
        let mut add = |node: &NodeRef, drive: usize| {
            if !nodes.iter().any(|(n, _)| super::same(n, node)) {
                nodes.push((node.clone(), drive));
            }
        };
        let roots = state.drives.iter().map(|d| state.root(d)).enumerate();
        let others = state.nodes.open().into_iter().chain(state.jobs.iter().flat_map(|e| e.nodes.clone()));
        for (drive, root) in roots.chain(others.map(|n| (usize::MAX, n))) {
            for layer in chain::layers(&root) {
                add(&layer, drive);
                layer.children().iter().for_each(|(_, child)| add(child, drive));
            }
        }
        let flags = |drive: usize| state.drives.get(drive).map(|d| d.flags.clone()).unwrap_or_default();
        let list: Vec<_> = nodes.into_iter().map(|(node, drive)| (node, flags(drive))).collect();
        list.into_iter()
            .map(|(node, flags)| Disk { image: Some(state.image(&node, &flags, flat)), ..Disk::default() })
            .collect()
    }
}

impl State {
    fn disk(&mut self, drive: &Drive) -> Disk {
        let root = self.root(drive);
        let mut image = self.image(&root, &drive.flags, false);
        image.writeback = !drive.writethrough;
        image.read_only = drive.read_only;
        if let Some((group, limits)) = drive.limiter.get() {
            (image.group, image.limits) = (Some(group), limits.values());
        }
        Disk {
            device: drive.id.clone(),
            attached_to: drive.attached_to.clone(),
            removable: drive.cdrom,
            image: Some(image),
            ..Disk::default()
        }
    }

    fn image(&mut self, node: &NodeRef, flags: &disk::OpenFlags, flat: bool) -> Image {
        let backing = node.backing();
        Image {
            node: self.nodes.name(node),
            file: node.filename(),
            format: node.driver().to_owned(),
            backing_file: backing.map(|b| b.filename()),
            backing_depth: if flat { 0 } else { chain::layers(node).len() as u32 - 1 },
            size: node.size(),
            read_only: node.read_only(),
            writeback: true,
            direct: flags.direct,
            ignores_flush: flags.no_flush,
            about: about(node, !flat),
            ..Image::default()
        }
    }
}

/// What `query-block` says about an image, and about those below it if asked for.
fn about(node: &NodeRef, with_backing: bool) -> Value {
    let info = node.info().unwrap_or_default();
    let mut m = Map::new();
    let mut put = |key: &str, value: Value| drop(m.insert(key.to_owned(), value));
    if let (Some(below), true) = (node.backing(), with_backing) {
        put("backing-image", about(&below, true));
    }
    if let Some(format) = &info.backing_format {
        put("backing-filename-format", json!(format));
    }
    put("virtual-size", json!(node.size().next_multiple_of(512)));
    put("filename", json!(node.filename()));
    if let Some(cluster) = info.cluster_size {
        put("cluster-size", json!(cluster));
    }
    put("format", json!(node.driver()));
    if let Some(stored) = node.allocated_size() {
        put("actual-size", json!(stored));
    }
    match &info.specific {
        Some((kind, data)) => put("format-specific", json!({"type": kind, "data": data})),
        None if PROTOCOLS.contains(&node.driver()) => {
            put("format-specific", json!({"type": node.driver(), "data": {}}))
        }
        None => {}
    }
    if info.encrypted {
        put("encrypted", json!(true));
    }
    if let Some(file) = &info.backing_file {
        put("full-backing-filename", json!(relative_to(&node.filename(), file)));
        put("backing-filename", json!(file));
    }
    put("dirty-flag", json!(info.dirty));
    Value::Object(m)
}
