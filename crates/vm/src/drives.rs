//! Disks before they are in a device: `-drive` and its short forms, `-blockdev`, `-snapshot`.
//!
//! Reference: the options, names and messages of QEMU 10.0.2.
//!
//! **Not modelled**: error policies other than the default; empty drives.

use crate::blocks::nodes::{Nodes, same};
use crate::config::Given;
use crate::settings::{Settings, boolean};
use disk::filter::Filtered;
use disk::filter::slot::Slot;
use disk::filter::throttle::{Limited, Limiter};
use disk::open::{OpenFlags, open_options};
use disk::options::Options;
use disk::{NodeRef, create};
use spec::{Error, Result};
use std::sync::Arc;

/// What a drive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interface {
    /// A `-device` names it.
    None,
    Virtio,
    Pflash,
}

/// Interfaces by name; those with `None` exist on other machines only.
const INTERFACES: &[(&str, Option<Interface>)] = &[
    ("none", Some(Interface::None)),
    ("virtio", Some(Interface::Virtio)),
    ("pflash", Some(Interface::Pflash)),
    ("ide", None),
    ("scsi", None),
    ("floppy", None),
    ("mtd", None),
    ("sd", None),
    ("xen", None),
];

#[derive(Clone)]
pub struct Drive {
    /// Nothing for a node that a device has without a drive.
    pub id: String,
    pub interface: Interface,
    pub index: u32,
    /// What a device reads and writes: the limits, above the place whose node may be exchanged.
    pub node: NodeRef,
    pub slot: Arc<Slot>,
    pub limiter: Arc<Limiter>,
    pub cdrom: bool,
    pub read_only: bool,
    /// Every write must reach the disk before it is done.
    pub writethrough: bool,
    /// How its images are opened.
    pub flags: OpenFlags,
    /// The device that has it, by its path.
    pub attached_to: Option<String>,
    /// For messages.
    pub option: String,
}

/// All drives and nodes of a machine.
#[derive(Default)]
pub struct Drives {
    pub drives: Vec<Drive>,
    pub nodes: Nodes,
    /// Names of drives and nodes that a device has.
    taken: Vec<String>,
}

/// Old names of limits: they have `throttling.` in front now.
const THROTTLING: [&str; 2] = ["bps", "iops"];

/// What a drive's options say of its contents.
struct Medium {
    options: Options,
    flags: OpenFlags,
    writethrough: bool,
}

impl Medium {
    /// From what the drive itself has left of its options.
    fn of(settings: Settings, cdrom: bool) -> Result<Medium> {
        let mut options = Options::new();
        let mut flags = OpenFlags { write: !cdrom, ..OpenFlags::default() };
        let mut writethrough = false;
        let mut aio = "threads".to_owned();
        for (key, value) in settings.into_pairs() {
            match key.as_str() {
                "file" => options.set("filename", &value),
                "format" => options.set("driver", &value),
                "readonly" | "read-only" => flags.write = !boolean(&key, &value)? && !cdrom,
                "cache" => writethrough = flags.set_cache(&value).ok_or_else(|| Error::new("invalid cache option"))?,
                "aio" => aio = value,
                "werror" if matches!(value.as_str(), "enospc" | "report") => {}
                "rerror" if value == "report" => {}
                "werror" | "rerror" => return Err(Error::new(format!("{key}={value} is not supported yet"))),
                "group" => options.set("throttling.group", &value),
                _ if THROTTLING.iter().any(|t| key.starts_with(t)) => options.set(&format!("throttling.{key}"), &value),
                _ => options.set(&key, &value),
            }
        }
        flags.aio = disk::engine::Aio::named(&aio).ok_or_else(|| Error::new("invalid aio option"))?;
        if options.is_empty() {
            return Err(Error::new("drives without a medium are not supported yet"));
        }
        Ok(Medium { options, flags, writethrough })
    }
}

impl Drives {
    /// Opens everything that the command line names.
    pub fn open(drives: &[Given], blockdevs: &[Given], snapshot: bool) -> Result<Drives> {
        let mut all = Drives::default();
        for given in blockdevs {
            all.define(given).map_err(|e| at(&given.option, e))?;
        }
        for given in drives {
            all.add(given, snapshot).map_err(|e| at(&given.option, e))?;
        }
        Ok(all)
    }

    fn define(&mut self, given: &Given) -> Result<()> {
        let mut options = Options::new();
        given.settings.iter().for_each(|(k, v)| options.set(k, v));
        self.nodes.add(options, &[])
    }

    fn add(&mut self, given: &Given, snapshot_all: bool) -> Result<()> {
        let mut s = given.settings.clone();
        let (interface, name) = interface(s.take("if"))?;
        let cdrom = match s.take("media").as_deref() {
            None | Some("disk") => false,
            Some("cdrom") => true,
            Some(other) => return Err(Error::new(format!("'{other}' invalid media"))),
        };
        let index = self.place(&mut s, interface)?;
        let default_id = format!("{name}{index}");
        let id = s.take("id").unwrap_or(default_id);
        if self.drives.iter().any(|d| d.id == id) {
            return Err(Error::new(format!("Duplicate ID '{id}' for drive")));
        }
        let snapshot = s.take_bool("snapshot")?.unwrap_or(snapshot_all && interface != Interface::Pflash);
        let Medium { mut options, flags: open, writethrough } = Medium::of(s, cdrom)?;
        let name = options.take("node-name");
        if let Some(name) = &name {
            self.nodes.check_name(name, &self.ids())?;
        }
        let limiter = Arc::new(Limiter::default());
        limiter.take(&mut options, &id)?;
        let read_only = !open.write;
        let node = self.open_node(options, &open, snapshot, name.as_deref())?;
        let slot = Arc::new(Slot::new(node));
        let node = Arc::new(Filtered::new(slot.clone(), Limited(limiter.clone())));
        let option = given.option.clone();
        self.drives.push(Drive {
            id,
            interface,
            index,
            node,
            slot,
            limiter,
            cdrom,
            read_only,
            writethrough,
            flags: open,
            attached_to: None,
            option,
        });
        Ok(())
    }

    /// Opens a drive's node and names it.
    fn open_node(&mut self, mut options: Options, flags: &OpenFlags, snapshot: bool, name: Option<&str>) -> Result<NodeRef> {
        let file = options.get("filename").or(options.get("file.filename")).unwrap_or_default().to_owned();
        let backing = options.get("backing").filter(|name| !name.is_empty()).map(str::to_owned);
        let backing = backing.map(|name| self.nodes.reference(&name)).transpose()?;
        if backing.is_some() {
            options.set("backing", "");
        }
        let node = open_drive(options.clone(), &file, flags, snapshot)?;
        if backing.is_some() {
            let image = node.backing().filter(|_| snapshot).unwrap_or_else(|| node.clone());
            image.set_backing(backing);
        }
        let recipe = Some((options, flags.clone()));
        if let (true, Some(below)) = (snapshot, node.backing()) {
            // The options are those of the image below the temporary one.
            let name = self.nodes.name(&below);
            self.nodes.set_name(&below, &name, recipe.clone());
        }
        let recipe = recipe.filter(|_| !snapshot);
        let name = name.map_or_else(|| self.nodes.name(&node), str::to_owned);
        self.nodes.set_name(&node, &name, recipe);
        Ok(node)
    }

    fn ids(&self) -> Vec<&str> {
        self.drives.iter().map(|d| d.id.as_str()).collect()
    }

    /// The number of a drive among those of its interface.
    fn place(&self, s: &mut Settings, interface: Interface) -> Result<u32> {
        let (index, unit, bus) = (s.take_number("index")?, s.take_number("unit")?, s.take_number("bus")?);
        if index.is_some() && (unit.is_some() || bus.is_some()) {
            return Err(Error::new("index cannot be used with bus and unit"));
        }
        let used = |i: u32| self.drives.iter().any(|d| d.interface == interface && d.index == i);
        match index.or(unit) {
            // These interfaces have one unit on each bus, or one bus.
            Some(n) => {
                let n = u32::try_from(n.max(bus.unwrap_or(0)))
                    .map_err(|_| Error::new(format!("index {n} is too large")))?;
                if used(n) {
                    return Err(Error::new(format!("drive with bus=0, unit={n} (index={n}) exists")));
                }
                Ok(n)
            }
            None => Ok((0..).find(|i| !used(*i)).expect("there are more numbers than drives")),
        }
    }

    /// The drives of an interface, by index.
    pub fn of(&self, interface: Interface) -> Vec<Drive> {
        let mut list: Vec<Drive> = self.drives.iter().filter(|d| d.interface == interface).cloned().collect();
        list.sort_by_key(|d| d.index);
        list
    }

    /// The drive or node with this name, for a device: `drive=NAME`. Each is for one device.
    pub fn take(&mut self, name: &str) -> Result<Option<Drive>> {
        let Some(drive) = self.find(name)? else { return Ok(None) };
        if self.taken.iter().any(|t| t == name) {
            return Err(Error::new(format!("Drive '{name}' is already in use by another block device")));
        }
        self.taken.push(name.to_owned());
        Ok(Some(drive))
    }

    fn find(&mut self, name: &str) -> Result<Option<Drive>> {
        if let Some(drive) = self.drives.iter().find(|d| d.id == name) {
            return Ok(Some(drive.clone()));
        }
        let Some(node) = self.nodes.get(name)? else { return Ok(None) };
        let (read_only, option) = (node.read_only(), format!("-blockdev node-name={name}"));
        let (slot, limiter) = (Arc::new(Slot::new(node)), Arc::new(Limiter::default()));
        let node = Arc::new(Filtered::new(slot.clone(), Limited(limiter.clone())));
        let flags = OpenFlags { write: !read_only, ..OpenFlags::default() };
        let (id, interface) = (String::new(), Interface::None);
        let drive = Drive {
            id,
            interface,
            index: 0,
            node,
            slot,
            limiter,
            cdrom: false,
            read_only,
            writethrough: false,
            flags,
            attached_to: None,
            option,
        };
        self.drives.push(drive.clone());
        Ok(Some(drive))
    }

    /// Notes which device has the drive that was taken last.
    pub fn attach(&mut self, before: usize, path: &str) {
        for name in &self.taken[before..] {
            let anonymous = self.nodes.find(name);
            let has = |d: &Drive| {
                d.id == *name || d.id.is_empty() && anonymous.as_ref().is_some_and(|n| same(n, &d.slot.node()))
            };
            if let Some(drive) = self.drives.iter_mut().find(|d| has(d)) {
                drive.attached_to = Some(path.to_owned());
            }
        }
    }

    /// How many drives and nodes devices have.
    pub fn taken(&self) -> usize {
        self.taken.len()
    }

    /// Every open image.
    pub fn nodes(&self) -> Vec<NodeRef> {
        self.drives.iter().map(|d| d.slot.node()).chain(self.nodes.open()).collect()
    }

    /// Writes everything back and closes the images; the first failure is told.
    pub fn close(&self) -> Result<()> {
        let mut result = Ok(());
        for node in self.nodes() {
            let done = if node.read_only() { Ok(()) } else { node.flush() };
            if let Err(e) = done.and(node.close())
                && result.is_ok()
            {
                result = Err(Error::caused(format!("could not write '{}' back", node.filename()), e));
            }
        }
        result
    }
}

/// An error in an option.
fn at(option: &str, e: Error) -> Error {
    Error::new(format!("{option}: {e}"))
}

fn interface(name: Option<String>) -> Result<(Interface, &'static str)> {
    let Some(name) = name else { return Ok((Interface::Virtio, "virtio")) };
    match INTERFACES.iter().find(|(n, _)| *n == name) {
        Some((name, Some(interface))) => Ok((*interface, name)),
        Some(_) => Err(Error::new(format!("machine type does not support if={name},bus=0,unit=0"))),
        None => Err(Error::new(format!("unsupported bus type '{name}'"))),
    }
}

fn open_drive(options: Options, file: &str, open: &OpenFlags, snapshot: bool) -> Result<NodeRef> {
    let named = options.iter().all(|(k, _)| k == "filename" || k == "driver") && !file.is_empty();
    let below = OpenFlags { write: open.write && !snapshot, ..open.clone() };
    let result = match (named, options.get("driver")) {
        (true, format) => disk::open(file, format, &below),
        (false, _) => open_options(options, &below),
    };
    let node = result?;
    if snapshot && open.write { create::temporary_overlay(node, open) } else { Ok(node) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Image(std::path::PathBuf);

    impl Image {
        fn new(name: &str) -> Image {
            let path = std::env::temp_dir().join(format!("rhea-drive-{}-{name}", std::process::id()));
            std::fs::write(&path, vec![0x5a; 1 << 20]).unwrap();
            Image(path)
        }
        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }
    }

    impl Drop for Image {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn drive(text: &str) -> Given {
        Given { option: format!("-drive {text}"), settings: Settings::parse(text, None).unwrap() }
    }

    fn refused(text: &str) -> String {
        Drives::open(&[drive(text)], &[], false).err().unwrap().to_string()
    }

    #[test]
    fn drives_have_names_and_places() {
        let (a, b) = (Image::new("a"), Image::new("b"));
        let given = [
            drive(&format!("file={},if=virtio,format=raw", a.path())),
            drive(&format!("file={},format=raw,readonly=on,id=x", b.path())),
        ];
        let drives = Drives::open(&given, &[], false).unwrap();
        let list: Vec<(&str, u32, bool)> =
            drives.drives.iter().map(|d| (d.id.as_str(), d.index, d.read_only)).collect();
        assert_eq!(list, [("virtio0", 0, false), ("x", 1, true)]);
        drives.close().unwrap();
    }

    #[test]
    fn mistakes_have_qemus_sentences() {
        assert_eq!(refused("if=foo"), "-drive if=foo: unsupported bus type 'foo'");
        assert_eq!(refused("file=nofile"), "-drive file=nofile: Could not open 'nofile': No such file or directory");
        let a = Image::new("m");
        let file = format!("file={},format=raw", a.path());
        assert!(refused(&format!("{file},foo=1")).ends_with("does not support the option 'foo'"));
        assert!(refused(&format!("{file},if=ide")).ends_with("machine type does not support if=ide,bus=0,unit=0"));
        assert!(
            refused(&format!("{file},bps=100,bps_rd=50"))
                .ends_with("bps/iops/max total values and read/write values cannot be used at the same time")
        );
        assert!(refused(&format!("file={},format=foo", a.path())).ends_with("Unknown driver 'foo'"));
    }

    #[test]
    fn drives_and_nodes_have_engines() {
        let a = Image::new("e");
        let file = format!("file={},format=raw", a.path());
        for (engine, batches) in [("", false), (",aio=threads", false), (",aio=io_uring", true), (",aio=native,cache=none", true)] {
            let drives = Drives::open(&[drive(&format!("{file}{engine}"))], &[], false).unwrap();
            let node = drives.drives[0].slot.node();
            // A host without the queue falls back to threads.
            let there = match engine {
                ",aio=io_uring" => disk::engine::Aio::IoUring.engine().is_some(),
                ",aio=native,cache=none" => disk::engine::Aio::Native.engine().is_some(),
                _ => false,
            };
            assert_eq!(node.parallel(), batches && there, "{engine}");
            node.write(4096, &[9; 4096]).unwrap();
            let mut back = [0; 8192];
            node.read(0, &mut back).unwrap();
            assert_eq!((back[0], back[4096]), (0x5a, 9), "{engine}");
            drives.close().unwrap();
            std::fs::write(&a.0, vec![0x5a; 1 << 20]).unwrap();
        }
        assert!(refused(&format!("{file},aio=native")).ends_with("aio=native was specified, but it requires cache.direct=on, which was not specified."));
        assert!(refused(&format!("{file},aio=foo")).ends_with(": invalid aio option"));
        let text = format!("file,node-name=f,filename={},aio=foo", a.path());
        let node = Given { option: format!("-blockdev {text}"), settings: Settings::parse(&text, Some("driver")).unwrap() };
        let e = Drives::open(&[], &[node], false).err().unwrap().to_string();
        assert!(e.ends_with("Parameter 'aio' does not accept value 'foo'"), "{e}");
    }

    #[test]
    fn one_place_is_for_one_drive() {
        let (a, b) = (Image::new("p"), Image::new("q"));
        let given = [&a, &b].map(|i| drive(&format!("file={},format=raw,if=pflash,unit=0", i.path())));
        assert!(Drives::open(&given, &[], false).err().unwrap().to_string().contains("exists"));
    }

    #[test]
    fn snapshots_leave_the_image_alone() {
        let a = Image::new("s");
        let drives = Drives::open(&[drive(&format!("file={},format=raw", a.path()))], &[], true).unwrap();
        let node = &drives.drives[0].node;
        node.write(0, &[1; 512]).unwrap();
        let mut back = [0; 512];
        node.read(0, &mut back).unwrap();
        assert_eq!(back, [1; 512]);
        drives.close().unwrap();
        assert_eq!(std::fs::read(&a.0).unwrap()[0], 0x5a);
    }

    #[test]
    fn nodes_refer_to_nodes() {
        let a = Image::new("n");
        let blockdev = |text: String| Given {
            option: format!("-blockdev {text}"),
            settings: Settings::parse(&text, Some("driver")).unwrap(),
        };
        let given = [
            blockdev(format!("file,node-name=f,filename={}", a.path())),
            blockdev("raw,node-name=r,file=f,read-only=on".into()),
        ];
        let mut drives = Drives::open(&[], &given, false).unwrap();
        let drive = drives.take("r").unwrap().unwrap();
        assert!(drive.read_only);
        assert_eq!(drive.node.size(), 1 << 20);
        assert!(drives.take("r").err().unwrap().to_string().contains("in use"));
        assert!(drives.take("zz").unwrap().is_none());
        let e = Drives::open(&[], &[blockdev("raw,node-name=r,file=zz".into())], false).err().unwrap().to_string();
        assert!(e.ends_with("Cannot find device='zz' nor node-name='zz'"), "{e}");
    }
}
