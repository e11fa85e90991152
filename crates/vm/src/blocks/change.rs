//! Commands that change the graph or a drive at once: snapshots, `blockdev-add`, `blockdev-del`, `block_resize`,
//! `block_set_io_throttle`.
//!
//! Reference: arguments and errors of QEMU 10.0.2.
//! Not modelled: a device that hears of a new size; the guest sees it when it looks.

use super::nodes::same;
use super::{Answer, Blocks, Found, State};
use crate::monitor::json::Refusal;
use crate::monitor::qmp::Given;
use disk::filter::throttle::Limits;
use disk::node::Preallocation;
use disk::options::Options;
use disk::{NodeRef, OpenFlags, chain};
use serde_json::Value;
use spec::Error;

fn refuse<T>(text: impl Into<String>) -> Answer<T> {
    Err(Refusal::new(text))
}

/// A snapshot that was taken, until it is sure that it stays.
pub struct Taken {
    old: NodeRef,
    overlay: NodeRef,
    drive: Option<usize>,
}

impl Blocks {
    pub fn blockdev_snapshot_sync(&self, given: &Given) -> Answer<()> {
        let mut state = self.lock();
        let taken = state.snapshot_sync(given)?;
        state.keep(taken);
        Ok(())
    }

    pub fn blockdev_snapshot(&self, given: &Given) -> Answer<()> {
        let mut state = self.lock();
        let taken = state.snapshot(given)?;
        state.keep(taken);
        Ok(())
    }

    pub fn blockdev_add(&self, given: &Given) -> Answer<()> {
        let options = Options::parse_json(&Value::Object(given.0.clone()).to_string())?;
        let mut state = self.lock();
        let ids: Vec<String> = state.ids().into_iter().map(str::to_owned).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        // What a driver does not take is a parameter too many here.
        state.nodes.add(options, &ids).map_err(|e| match e.to_string().split_once(" does not support the option ") {
            Some((_, key)) => Refusal::new(format!("Parameter {key} is unexpected")),
            None => e.into(),
        })
    }

    pub fn blockdev_del(&self, given: &Given) -> Answer<()> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut nodes = std::mem::take(&mut state.nodes);
        let done = nodes.remove(given.needed("node-name"), |node| state.is_used(node));
        state.nodes = nodes;
        Ok(done?)
    }

    pub fn block_resize(&self, given: &Given) -> Answer<()> {
        let mut state = self.lock();
        let found = state.lookup(given.text("device"), given.text("node-name"))?;
        let size = given.signed("size").unwrap_or(0);
        let Ok(size) = u64::try_from(size) else { return refuse("Parameter 'size' expects a >0 size") };
        state.not_busy(&found)?;
        if found.node.read_only() {
            return refuse("Image is read-only");
        }
        let slot = state.slot_of(&found);
        Ok(slot.exchange(|node| {
            node.resize(size, Preallocation::Off)?;
            Ok((node.clone(), ()))
        })?)
    }

    pub fn block_set_io_throttle(&self, given: &Given) -> Answer<()> {
        let state = self.lock();
        let name = given.text("device").or(given.text("id")).unwrap_or_default();
        let by_path = |path: &str| {
            path.strip_prefix("/machine/peripheral/").is_some_and(|rest| rest.split('/').next() == Some(name))
        };
        let found = match given.text("id") {
            Some(_) => state.drives.iter().find(|d| d.attached_to.as_deref().is_some_and(|p| p == name || by_path(p))),
            None => state.drives.iter().find(|d| !d.id.is_empty() && d.id == name),
        };
        let missing = || Refusal { class: "DeviceNotFound", text: format!("Device '{name}' not found") };
        let drive = found.ok_or_else(missing)?;
        let mut options = Options::new();
        for (key, value) in given.0.iter().filter(|(key, _)| key.starts_with("bps") || key.starts_with("iops")) {
            if value.as_i64().is_some_and(|v| v < 0) {
                return refuse("bps/iops/max values must be within [0, 1000000000000000]");
            }
            options.set(key, &value.to_string());
        }
        let limits = Limits::take(&mut options, |_, old| vec![old.to_owned()])?.unwrap_or_default();
        drive.limiter.set(limits, given.text("group"), name);
        Ok(())
    }
}

impl State {
    /// Puts a new image above a disk.
    pub fn snapshot_sync(&mut self, given: &Given) -> Answer<Taken> {
        let file = given.needed("snapshot-file");
        let found = self.lookup(given.text("device"), given.text("node-name"))?;
        self.not_busy(&found)?;
        let format = given.text("format").unwrap_or("qcow2");
        if let Some(name) = given.text("snapshot-node-name") {
            let ids: Vec<String> = self.ids().into_iter().map(str::to_owned).collect();
            if self.nodes.find(name).is_some() || ids.iter().any(|id| id == name) {
                return refuse("New overlay node-name already in use");
            }
            self.nodes.check_name(name, &[])?;
        }
        let base = found.drive.map(|d| self.drives[d].flags.clone()).unwrap_or_default();
        let flags = OpenFlags { write: true, no_backing: true, quiet_probe: true, ..base };
        if given.text("mode") != Some("existing") {
            self.create_image(file, format, found.node.size(), Some(&found.node))?;
        }
        let overlay = disk::open(file, Some(format), &flags)?;
        let mut recipe = Options::new();
        recipe.set("filename", file);
        recipe.set("driver", format);
        let name = given.text("snapshot-node-name").map_or_else(|| self.nodes.name(&overlay), str::to_owned);
        self.nodes.set_name(&overlay, &name, Some((recipe, flags)));
        self.put_above(found, overlay)
    }

    /// Puts a node that is open above another.
    pub fn snapshot(&mut self, given: &Given) -> Answer<Taken> {
        let found = self.lookup(given.text("node"), given.text("node"))?;
        let above = self.all_roots().into_iter().flat_map(|r| chain::layers(&r));
        if let Some(above) = above.into_iter().find(|l| l.backing().is_some_and(|b| same(&b, &found.node))) {
            let (name, above) = (self.nodes.name(&found.node), self.nodes.name(&above));
            return refuse(format!("Node '{name}' is busy: node is used as backing hd of '{above}'"));
        }
        self.not_busy(&found)?;
        let overlay = self.lookup(given.text("overlay"), given.text("overlay"))?;
        if overlay.drive.is_some() || self.is_used(&overlay.node) || same(&overlay.node, &found.node) {
            return refuse("The overlay is already in use");
        }
        if overlay.node.backing().is_some() {
            return refuse("The overlay already has a backing image");
        }
        if !disk::create::takes_backing(overlay.node.driver()) {
            return refuse("The overlay does not support backing images");
        }
        self.put_above(found, overlay.node)
    }

    fn put_above(&mut self, found: Found, overlay: NodeRef) -> Answer<Taken> {
        let put = |old: &NodeRef| {
            // What the guest has flushed is in the file that it does not flush any more.
            old.flush().map_err(|e| Error::new(disk::node::strerror(&e)))?;
            overlay.set_backing(Some(old.clone()));
            Ok((overlay.clone(), ()))
        };
        self.slot_of(&found).exchange(put)?;
        Ok(Taken { old: found.node, overlay, drive: found.drive })
    }

    /// The snapshot stays: what is below is only read from now on.
    pub fn keep(&mut self, taken: Taken) {
        self.reopen_read_only(&taken.old);
    }

    /// The snapshot is taken back.
    pub fn undo(&mut self, taken: Taken) {
        if let Some(drive) = taken.drive {
            // Putting a node back where it was does not fail.
            let _ = self.drives[drive].slot.exchange(|_| Ok((taken.old.clone(), ())));
        }
        taken.overlay.set_backing(None);
        self.retire(&[taken.overlay]);
    }
}
