//! What the guest's memory is made of: `-object memory-backend-memfd|file|ram` and `-machine memory-backend=`.
//!
//! Reference: QEMU 10.0.2: options, defaults, messages. With `share=on` other programs can see the memory (vhost-user).
//! Not modelled: huge pages, NUMA policies, persistent memory (all errors).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fabric::Ram;
use spec::{Context, Error, Result};

use crate::config::{Config, Given};
use crate::settings::Settings;

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Nobody else can see it.
    Anonymous,
    Memfd { seal: bool },
    File(PathBuf),
}

#[derive(Debug, PartialEq, Eq)]
struct Backend {
    kind: Kind,
    size: u64,
    share: bool,
}

/// Whether an object is memory.
pub fn is_backend(given: &Given) -> bool {
    given.settings.get("qom-type").is_some_and(|kind| kind.starts_with("memory-backend-"))
}

/// An option of which there is one value.
fn only(s: &mut Settings, key: &str, value: bool) -> Result<()> {
    match s.take_bool(key)? {
        Some(given) if given != value => Err(Error::new(format!("{key}={} is not supported", if given { "on" } else { "off" }))),
        _ => Ok(()),
    }
}

impl Backend {
    fn parse(given: &Given) -> Result<Backend> {
        let mut s = given.settings.clone();
        let name = s.take("qom-type").unwrap_or_default();
        s.take("id").ok_or_else(|| Error::new("Parameter 'id' is missing"))?;
        let (kind, default_share) = match name.as_str() {
            "memory-backend-ram" => (Kind::Anonymous, false),
            "memory-backend-memfd" => {
                only(&mut s, "hugetlb", false)?;
                (Kind::Memfd { seal: s.take_bool("seal")?.unwrap_or(true) }, true)
            }
            "memory-backend-file" => {
                for key in ["readonly", "rom", "pmem", "discard-data"] {
                    only(&mut s, key, false)?;
                }
                let path = s.take("mem-path").ok_or_else(|| Error::new("Parameter 'mem-path' is missing"))?;
                (Kind::File(path.into()), false)
            }
            _ => return Err(Error::new(format!("objects of type '{name}' are not supported yet"))),
        };
        let size = s.take_size("size")?.ok_or_else(|| Error::new("Parameter 'size' is missing"))?;
        if size == 0 {
            return Err(Error::new(format!("property 'size' of {name} doesn't take value '0'")));
        }
        let share = s.take_bool("share")?.unwrap_or(default_share);
        only(&mut s, "prealloc", false)?;
        // Hints to the host's kernel that change nothing a guest sees: merging of equal pages, core dumps, swap space.
        for key in ["merge", "dump", "reserve"] {
            s.take_bool(key)?;
        }
        s.finish()?;
        Ok(Backend { kind, size, share })
    }

    fn open(&self, id: &str) -> Result<Ram> {
        let sentence = || format!("cannot set up guest memory '{id}'");
        let file = match &self.kind {
            Kind::Anonymous if !self.share => return Ram::new(self.size),
            Kind::Anonymous => host::map::memory_file(self.size, false).context(sentence)?,
            Kind::Memfd { seal } => host::map::memory_file(self.size, *seal).context(sentence)?,
            Kind::File(path) => open_file(path, self.size)?,
        };
        Ram::of_file(file, self.size, self.share)
    }
}

/// A file of at least this length, or one without a name in a directory.
fn open_file(path: &Path, size: u64) -> Result<File> {
    let sentence = || format!("can't open backing store {} for guest RAM", path.display());
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if path.is_dir() {
        options.custom_flags(rustix::fs::OFlags::TMPFILE.bits() as i32);
    } else {
        options.create(true).truncate(false);
    }
    let file = options.open(path).context(sentence)?;
    let length = file.metadata().context(sentence)?.len();
    if length == 0 {
        file.set_len(size).context(sentence)?;
    } else if length < size {
        return Err(Error::new(format!("backing store {} size {length:#x} does not match 'size' option {size:#x}", path.display())));
    }
    Ok(file)
}

/// Checks all memory objects, and lets the one of the machine say how much memory there is.
pub fn settle(config: &mut Config) -> Result<()> {
    let mut size = None;
    for given in config.objects.iter().filter(|o| is_backend(o)) {
        let backend = Backend::parse(given).map_err(|e| Error::new(format!("{}: {e}", given.option)))?;
        if given.settings.get("id") == config.memory_backend.as_deref() {
            size = Some(backend.size);
        }
    }
    let Some(id) = &config.memory_backend else { return Ok(()) };
    let size = size.ok_or_else(|| Error::new(format!("Memory backend '{id}' not found")))?;
    if config.memory_given && config.memory != size {
        return Err(Error::new("Machine memory size does not match the size of the memory backend"));
    }
    config.memory = size;
    Ok(())
}

/// The memory that `-machine memory-backend=` names.
pub fn main(config: &Config) -> Result<Option<Ram>> {
    let Some(id) = &config.memory_backend else { return Ok(None) };
    let given = config.objects.iter().find(|o| is_backend(o) && o.settings.get("id") == Some(id));
    Backend::parse(given.expect("the options were checked"))?.open(id).map(Some)
}

#[cfg(test)]
mod tests {
    use crate::options::tests::{config, refused};

    #[test]
    fn a_backend_says_how_much_memory_there_is() {
        let shared = "-M virt,memory-backend=m -object memory-backend-memfd,id=m,size=64M,share=on";
        let c = config(shared);
        assert_eq!(c.memory, 64 << 20);
        let ram = super::main(&c).unwrap().unwrap();
        assert!(ram.len() == 64 << 20 && ram.file().is_some());
        assert_eq!(config(&format!("{shared} -m 64M")).memory, 64 << 20);
        let plain = super::main(&config("-M virt -machine memory-backend=m -object memory-backend-ram,id=m,size=1M"));
        assert!(plain.unwrap().unwrap().file().is_none());
        assert!(super::main(&config("-M virt -object memory-backend-memfd,id=m,size=64M")).unwrap().is_none());
        let directory = std::env::temp_dir();
        let file = format!("-M virt,memory-backend=m -object memory-backend-file,id=m,size=1M,share=on,mem-path={}", directory.display());
        assert!(super::main(&config(&file)).unwrap().unwrap().file().is_some());
    }

    #[test]
    fn mistakes_are_named() {
        for (args, expected) in [
            ("-M virt,memory-backend=m", "Memory backend 'm' not found"),
            ("-M virt,memory-backend=m -m 128M -object memory-backend-memfd,id=m,size=64M", "Machine memory size does not match the size of the memory backend"),
            ("-M virt -object memory-backend-memfd,id=m", "-object memory-backend-memfd,id=m: Parameter 'size' is missing"),
            ("-M virt -object memory-backend-file,id=m,size=1M", "-object memory-backend-file,id=m,size=1M: Parameter 'mem-path' is missing"),
            ("-M virt -object memory-backend-ram,id=m,size=0", "-object memory-backend-ram,id=m,size=0: property 'size' of memory-backend-ram doesn't take value '0'"),
            ("-M virt -object memory-backend-memfd,id=m,size=1M,foo=1", "-object memory-backend-memfd,id=m,size=1M,foo=1: Invalid parameter 'foo'"),
            ("-M virt -object memory-backend-memfd,id=m,size=1M,hugetlb=on", "-object memory-backend-memfd,id=m,size=1M,hugetlb=on: hugetlb=on is not supported"),
        ] {
            assert_eq!(refused(args), expected, "{args}");
        }
    }
}
