//! Debian's kernels, each with an initial RAM disk: BusyBox, the modules for virtio disks, and a script that changes to
//! the root of the kernel's command line, or gives a shell where it names none.

use super::cpio::Archive;
use super::unpack::{self, Modes};
use spec::error::{Context, Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FLAVOURS: [&str; 2] = ["armmp", "armmp-lpae"];

/// What a root on a virtio disk, a network card and systemd need; what these need in turn is found in the modules.
const MODULES: &[&str] = &["crc32c_generic", "ext4", "virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net", "virtio_rng", "autofs4", "binfmt_misc"];

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/ PS1='~ # '
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /lib/modules/order); do insmod /lib/modules/$module || echo "initrd: $module does not load"; done
root= init=/sbin/init mode=ro
for word in $(cat /proc/cmdline); do
    case $word in
        root=*) root=${word#root=} ;;
        init=*) init=${word#init=} ;;
        rw) mode=rw ;;
    esac
done
if [ -n "$root" ]; then
    tries=0
    while [ ! -b "$root" ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries+1)); done
    if mount -t ext4 -o $mode "$root" /root; then
        for dir in proc sys dev; do mount --move /$dir /root/$dir; done
        exec switch_root /root "$init"
    fi
    echo "initrd: no root on $root"
fi
cd /
exec setsid cttyhack sh
"#;

pub fn build(to: &Path, debs: &[PathBuf]) -> Result<()> {
    let failed = || format!("Could not write in '{}'", to.display());
    let tree = to.with_extension("tree");
    remove(&tree)?;
    remove(to)?;
    unpack::prepare(&tree)?;
    std::fs::create_dir_all(to).context(failed)?;
    for deb in debs {
        let name = deb.file_name().expect("a file").to_string_lossy();
        // The kernels' tools are for making initial RAM disks the way Debian does.
        if name.starts_with("linux-image-") || name.starts_with("busybox-static") {
            unpack::unpack(deb, &tree, Modes::Plain)?;
        }
    }
    for flavour in FLAVOURS {
        let version = version(&tree, flavour)?;
        std::fs::copy(tree.join(format!("boot/vmlinuz-{version}")), to.join(format!("vmlinuz-{flavour}"))).context(failed)?;
        std::fs::write(to.join(format!("initrd-{flavour}")), archive(&tree, &version)?).context(failed)?;
    }
    remove(&tree)
}

pub fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("Could not remove '{}'", dir.display()))
        }
        _ => Ok(()),
    }
}

/// `6.1.0-50-armmp`, from the kernel's file name.
fn version(tree: &Path, flavour: &str) -> Result<String> {
    let boot = tree.join("boot");
    let names = std::fs::read_dir(&boot).context(|| format!("Could not list '{}'", boot.display()))?;
    let names = names.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let mut versions = names.filter_map(|n| n.strip_prefix("vmlinuz-").map(str::to_string));
    let ending = format!("-{flavour}");
    versions.find(|v| v.ends_with(&ending)).ok_or_else(|| Error::new(format!("there is no {flavour} kernel in '{}'", boot.display())))
}

fn archive(tree: &Path, version: &str) -> Result<Vec<u8>> {
    let read = |file: &Path| std::fs::read(file).context(|| format!("Could not read '{}'", file.display()));
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "lib", "lib/modules", "mnt", "proc", "root", "sys", "tmp"] {
        archive.directory(dir);
    }
    archive.character_device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &read(&tree.join("usr/bin/busybox"))?);
    archive.file("init", 0o755, INIT.as_bytes());
    let mut all = BTreeMap::new();
    find_modules(&tree.join("lib/modules").join(version), &mut all)?;
    let mut order = Vec::new();
    for module in MODULES {
        add_module(module, &all, &mut order, &mut archive)?;
    }
    archive.file("lib/modules/order", 0o644, (order.join("\n") + "\n").as_bytes());
    Ok(archive.finish())
}

fn find_modules(dir: &Path, all: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).context(|| format!("Could not list '{}'", dir.display()))?.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            find_modules(&path, all)?;
        } else if let Some(name) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".ko")) {
            all.insert(name.replace('-', "_"), path.clone());
        }
    }
    Ok(())
}

/// Adds a module after what it depends on. One that is not there is built into the kernel.
fn add_module(name: &str, all: &BTreeMap<String, PathBuf>, order: &mut Vec<String>, archive: &mut Archive) -> Result<()> {
    let file = format!("{name}.ko");
    let Some(path) = all.get(name) else { return Ok(()) };
    if order.contains(&file) {
        return Ok(());
    }
    let bytes = std::fs::read(path).context(|| format!("Could not read '{}'", path.display()))?;
    for needed in dependencies(&bytes) {
        add_module(&needed, all, order, archive)?;
    }
    archive.file(&format!("lib/modules/{file}"), 0o644, &bytes);
    order.push(file);
    Ok(())
}

/// The names in `depends=A,B` of a module's `.modinfo` section, whose strings end with zeros.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|b| *b == 0).next().unwrap_or(&[]);
    String::from_utf8_lossy(value).split(',').filter(|n| !n.is_empty()).map(|n| n.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_depends_on() {
        assert_eq!(dependencies(b"\x7fELF..\0license=GPL\0depends=crc16,jbd2,mb-cache\0name=ext4\0"), ["crc16", "jbd2", "mb_cache"]);
        assert!(dependencies(b"..\0depends=\0name=crc16\0").is_empty());
        assert!(dependencies(b"nothing of the kind").is_empty());
    }
}
