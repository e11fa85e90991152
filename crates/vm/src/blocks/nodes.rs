//! Nodes by name: what `-blockdev` and `blockdev-add` make, and the names of all others.
//!
//! Reference: `-blockdev`, `blockdev-add`, `blockdev-del` of QEMU 10.0.2; `#block…` names of nodes that nobody named.
//!
//! A protocol node is opened by the node above it, which takes over its definition, or when a device or a job wants it itself.

use crate::settings::boolean;
use disk::node::Node;
use disk::open::{FILTERS, OpenFlags, filter_above, is_known_driver, open_options};
use disk::options::Options;
use disk::{NodeRef, chain};
use spec::{Error, Result};
use std::sync::{Arc, Weak};

/// A node that stays until its user deletes it.
struct Owned {
    name: String,
    definition: Options,
    node: Option<NodeRef>,
    /// Other nodes that it was made from.
    uses: Vec<String>,
}

struct Named {
    name: String,
    node: Weak<dyn Node>,
    /// How to open it once more.
    recipe: Option<(Options, OpenFlags)>,
}

#[derive(Default)]
pub struct Nodes {
    owned: Vec<Owned>,
    names: Vec<Named>,
    count: u32,
}

/// Whether two references are the same node.
pub fn same(a: &NodeRef, b: &NodeRef) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

fn is(named: &Named, node: &NodeRef) -> bool {
    std::ptr::addr_eq(named.node.as_ptr(), Arc::as_ptr(node)) && named.node.strong_count() > 0
}

/// Whether QEMU takes a text as the name of a node or a job.
pub fn is_well_formed(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(inside)
}

/// The flags that a node's options imply: a `-blockdev` is writable unless it says otherwise.
fn flags(options: &Options) -> Result<OpenFlags> {
    let read_only = options.get("read-only").map(|v| boolean("read-only", v)).transpose()?.unwrap_or(false);
    Ok(OpenFlags { write: !read_only, ..OpenFlags::default() })
}

impl Nodes {
    /// Makes a node; `devices` are names that it must not have.
    pub fn add(&mut self, mut options: Options, devices: &[&str]) -> Result<()> {
        let driver = options.get("driver").ok_or_else(|| Error::new("Parameter 'driver' is missing"))?.to_owned();
        if !is_known_driver(&driver) {
            return Err(Error::new(format!("Parameter 'driver' does not accept value '{driver}'")));
        }
        let name =
            options.take("node-name").ok_or_else(|| Error::new("'node-name' must be specified for the root node"))?;
        self.check_name(&name, devices)?;
        if let Some(aio) = options.get("aio").filter(|a| disk::engine::Aio::named(a).is_none()) {
            return Err(Error::new(format!("Parameter 'aio' does not accept value '{aio}'")));
        }
        let mut owned = Owned { name, definition: options.clone(), node: None, uses: Vec::new() };
        let flags = flags(&options)?;
        let below = self.refer(&mut options, FILTERS.contains(&driver.as_str()), &mut owned.uses)?;
        let backing = options.get("backing").filter(|name| !name.is_empty()).map(str::to_owned);
        let backing = backing.map(|name| self.reference(&name)).transpose()?;
        if backing.is_some() {
            options.set("backing", "");
        }
        owned.definition = options.clone();
        if disk::open::PROTOCOLS.contains(&driver.as_str()) {
            // It is opened with the rights that its user needs; a mistake is told now.
            let look = OpenFlags { write: false, share: true, ..flags };
            if driver == "file" || driver == "host_device" {
                open_options(options, &look)?;
            }
            self.owned.push(owned);
            return Ok(());
        }
        let child = options.get("file.node-name").map(str::to_owned).or(owned
            .uses
            .first()
            .filter(|_| below.is_none())
            .cloned());
        let node = match below {
            Some(below) => self.filter(&driver, below, options.clone())?,
            None => open_options(options.clone(), &flags)?,
        };
        if backing.is_some() {
            node.set_backing(backing);
        }
        if let (Some(child), Some((_, file))) = (child, node.children().into_iter().find(|(role, _)| role == "file")) {
            self.set_name(&file, &child, None);
        }
        self.set_name(&node, &owned.name, Some((options, flags)));
        owned.node = Some(node);
        self.owned.push(owned);
        Ok(())
    }

    fn filter(&self, driver: &str, below: NodeRef, mut options: Options) -> Result<NodeRef> {
        for key in ["driver", "file", "read-only", "auto-read-only"] {
            options.take(key);
        }
        let node = filter_above(driver, below, &mut options)?;
        match options.first_key() {
            None => Ok(node),
            Some(key) => Err(Error::new(format!("Block protocol '{driver}' does not support the option '{key}'"))),
        }
    }

    /// What `file=NAME` means: a node for a filter, otherwise the definition of the node of that name.
    fn refer(&self, options: &mut Options, filter: bool, uses: &mut Vec<String>) -> Result<Option<NodeRef>> {
        let Some(name) = options.get("file").map(str::to_owned) else { return Ok(None) };
        options.take("file");
        let node = self.find(&name);
        if filter && let Some(node) = node {
            uses.push(name);
            return Ok(Some(node));
        }
        let owned = self.owned.iter().find(|o| o.name == name).ok_or_else(|| missing(&name))?;
        owned.definition.iter().for_each(|(k, v)| options.set(&format!("file.{k}"), v));
        uses.push(name);
        Ok(None)
    }

    /// The node that a `backing=NAME` means.
    pub fn reference(&mut self, name: &str) -> Result<NodeRef> {
        self.get(name)?.ok_or_else(|| missing(name))
    }

    pub fn check_name(&self, name: &str, devices: &[&str]) -> Result<()> {
        if !is_well_formed(name) {
            return Err(Error::new(format!("Invalid node-name: '{name}'")));
        }
        if devices.contains(&name) {
            return Err(Error::new(format!("node-name={name} is conflicting with a device id")));
        }
        if self.find(name).is_some() || self.owned.iter().any(|o| o.name == name) {
            return Err(Error::new(format!("Duplicate nodes with node-name='{name}'")));
        }
        Ok(())
    }

    /// The open node of this name.
    pub fn find(&self, name: &str) -> Option<NodeRef> {
        self.names.iter().filter(|n| n.name == name).find_map(|n| n.node.upgrade())
    }

    /// The node of this name, which is opened if it is not yet.
    pub fn get(&mut self, name: &str) -> Result<Option<NodeRef>> {
        if let Some(node) = self.find(name) {
            return Ok(Some(node));
        }
        let Some(at) = self.owned.iter().position(|o| o.name == name) else { return Ok(None) };
        let options = self.owned[at].definition.clone();
        let flags = flags(&options)?;
        let node = open_options(options.clone(), &flags)?;
        self.set_name(&node, name, Some((options, flags)));
        self.owned[at].node = Some(node.clone());
        Ok(Some(node))
    }

    /// The file that a protocol node stands for.
    pub fn file_of(&self, name: &str) -> std::result::Result<String, String> {
        let file = self.owned.iter().find(|o| o.name == name).and_then(|o| o.definition.get("filename"));
        file.map(str::to_owned).ok_or_else(|| missing(name).to_string())
    }

    pub fn set_name(&mut self, node: &NodeRef, name: &str, recipe: Option<(Options, OpenFlags)>) {
        self.names.retain(|n| n.node.strong_count() > 0 && !is(n, node));
        self.names.push(Named { name: name.to_owned(), node: Arc::downgrade(node), recipe });
    }

    /// The name of a node; one that has none gets one.
    pub fn name(&mut self, node: &NodeRef) -> String {
        if let Some(named) = self.names.iter().find(|n| is(n, node)) {
            return named.name.clone();
        }
        let random =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().subsec_micros();
        let name = format!("#block{}{:02}", self.count, random % 100);
        self.count += 1;
        self.set_name(node, &name, None);
        name
    }

    /// Options and flags that open a node's image once more, without what is below it.
    pub fn recipe(&self, node: &NodeRef) -> (Options, OpenFlags) {
        let known = self.names.iter().find(|n| is(n, node)).and_then(|n| n.recipe.clone());
        let (mut options, flags) = known.unwrap_or_else(|| {
            let mut options = Options::new();
            options.set("filename", &node.filename());
            options.set("driver", node.driver());
            (options, OpenFlags::default())
        });
        options.take_below("backing");
        for key in ["backing", "read-only", "auto-read-only"] {
            options.take(key);
        }
        (options, OpenFlags { no_backing: true, ..flags })
    }

    /// Another handle takes a node's place, its name and its owner.
    pub fn replace(&mut self, old: &NodeRef, new: &NodeRef) {
        let children = |n: &NodeRef| n.children().into_iter().map(|(_, child)| child).collect::<Vec<_>>();
        for (old, new) in children(old).iter().zip(children(new)) {
            let name = self.name(old);
            self.set_name(&new, &name, None);
        }
        let name = self.name(old);
        let recipe = self.names.iter().find(|n| is(n, old)).and_then(|n| n.recipe.clone());
        self.names.retain(|n| !is(n, old));
        self.set_name(new, &name, recipe);
        for owned in self.owned.iter_mut().filter(|o| o.node.as_ref().is_some_and(|n| same(n, old))) {
            owned.node = Some(new.clone());
        }
    }

    /// Everything that is open because its user made it.
    pub fn open(&self) -> Vec<NodeRef> {
        self.owned.iter().filter_map(|o| o.node.clone()).collect()
    }

    /// Forgets a node that nothing uses; `is_used` knows about drives and jobs.
    pub fn remove(&mut self, name: &str, is_used: impl Fn(&NodeRef) -> bool) -> Result<()> {
        let missing = || Error::new(format!("Failed to find node with node-name='{name}'"));
        let at = self.owned.iter().position(|o| o.name == name).ok_or_else(missing)?;
        if self.owned.iter().any(|o| o.uses.iter().any(|u| u == name)) {
            return Err(Error::new(format!("Block device {name} is in use")));
        }
        if let Some(node) = self.owned[at].node.clone() {
            let above = |o: &Owned| {
                o.name != name && o.node.as_ref().is_some_and(|n| chain::layers(n).iter().any(|l| same(l, &node)))
            };
            if is_used(&node) || self.owned.iter().any(above) {
                return Err(Error::new(format!("Node {name} is in use")));
            }
            node.close().map_err(|e| Error::caused(format!("could not write '{}' back", node.filename()), e))?;
        }
        self.owned.remove(at);
        Ok(())
    }
}

fn missing(name: &str) -> Error {
    Error::new(format!("Cannot find device='{name}' nor node-name='{name}'"))
}
