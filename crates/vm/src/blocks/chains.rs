//! Commands that start jobs within a chain of layers: `block-stream`, `block-commit`.
//!
//! Reference: arguments, errors and results of QEMU 10.0.2.

use super::copies::{GRANULARITY, refuse};
use super::jobs::{End, Start};
use super::nodes::same;
use super::{Answer, Blocks, Found, State};
use crate::monitor::json::Refusal;
use crate::monitor::qmp::Given;
use disk::job::commit::Commit;
use disk::job::mirror::{Mirror, Plan, Sync};
use disk::job::stream::Stream;
use disk::{NodeRef, chain};

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
}
