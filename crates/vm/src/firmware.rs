//! What firmware finds: its own code (`-bios`) and the items of fw_cfg.
//!
//! Reference: `docs/specs/fw_cfg` of QEMU and the items its `virt` board shows; `-fw_cfg` of the command line.

use crate::assemble::Choices;
use crate::config::{Config, Display, Given};
use board::boot::gzip;
use fabric::AddressSpace;
use hw::misc::fw_cfg::{FwCfg, key};
use spec::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// Where firmware is installed.
const DATA_DIRS: [&str; 3] = ["/usr/share/qemu", "/usr/share/seabios", "/usr/lib/u-boot/qemu_arm"];

/// The contents of `-bios`: a path, or a name in the data directories.
pub fn find_bios(config: &Config) -> Result<Option<(String, Vec<u8>)>> {
    let Some(name) = &config.bios else { return Ok(None) };
    let dirs = config.data_dirs.iter().map(String::as_str).chain(DATA_DIRS);
    let places = std::iter::once(PathBuf::from(name)).chain(dirs.map(|d| PathBuf::from(d).join(name)));
    let missing = || Error::new(format!("Could not find ROM image '{name}'"));
    let path = places.into_iter().find(|p| p.is_file()).ok_or_else(missing)?;
    let bytes = std::fs::read(&path).map_err(|e| Error::new(format!("Could not load ROM image '{name}': {}", disk::node::strerror(&e))))?;
    Ok(Some((name.clone(), bytes)))
}

/// All items.
pub fn fw_cfg(config: &Config, choices: &Choices, space: Arc<AddressSpace>) -> Result<FwCfg> {
    let mut items = FwCfg::new(space);
    items.add(key::UUID, config.uuid.unwrap_or_default().to_vec());
    items.add_u16(key::NO_GRAPHIC, u16::from(config.display == Display::Nographic));
    items.add_u16(key::NB_CPUS, config.smp.cpus as u16);
    let menu = config.boot.get("menu").is_some_and(|v| v == "on");
    items.add_u16(key::BOOT_MENU, u16::from(menu));
    if choices.firmware {
        add_kernel(&mut items, config)?;
    }
    for given in &config.fw_cfg {
        add_user_item(&mut items, given).map_err(|e| Error::new(format!("{}: {e}", given.option)))?;
    }
    Ok(items)
}

/// Firmware loads the kernel itself.
fn add_kernel(items: &mut FwCfg, config: &Config) -> Result<()> {
    let mut add = |size: u16, data: u16, bytes: Vec<u8>| {
        items.add_u32(size, bytes.len() as u32);
        items.add(data, bytes);
    };
    let read = |path: &str, what: &str| {
        std::fs::read(path).map_err(|e| Error::new(format!("could not load {what} '{path}': {}", disk::node::strerror(&e))))
    };
    if let Some(path) = &config.kernel {
        let bytes = read(path, "kernel")?;
        let bytes = if gzip::is_gzip(&bytes) { gzip::unpack(&bytes, path)? } else { bytes };
        add(key::KERNEL_SIZE, key::KERNEL_DATA, bytes);
    }
    if let Some(path) = &config.initrd {
        add(key::INITRD_SIZE, key::INITRD_DATA, read(path, "initrd")?);
    }
    if let Some(text) = &config.append {
        add(key::CMDLINE_SIZE, key::CMDLINE_DATA, text.bytes().chain([0]).collect());
    }
    Ok(())
}

/// Longest file name of an item.
const NAME_MAX: usize = 55;

fn add_user_item(items: &mut FwCfg, given: &Given) -> Result<()> {
    let mut s = given.settings.clone();
    let (name, file, string) = (s.take("name"), s.take("file"), s.take("string"));
    s.finish()?;
    let name = name.filter(|n| !n.is_empty()).ok_or_else(|| Error::new("name is missing"))?;
    if name.len() > NAME_MAX {
        return Err(Error::new(format!("name too long (max. {NAME_MAX} char)")));
    }
    if !name.starts_with("opt/") {
        eprintln!("{}: warning: externally provided fw_cfg item names should be prefixed with \"opt/\"", given.option);
    }
    let data = match (file, string) {
        (Some(path), None) => std::fs::read(&path).map_err(|_| Error::new(format!("can't load {path}")))?,
        (None, Some(text)) => text.into_bytes(),
        _ => return Err(Error::new("exactly one of file and string is needed")),
    };
    items.add_file(&name, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::config;

    fn items(args: &str) -> Result<FwCfg> {
        let config = config(&format!("-M virt {args}"));
        fw_cfg(&config, &Choices::new(&config)?, AddressSpace::new())
    }

    #[test]
    fn items_of_the_user_are_files() {
        let f = items("-fw_cfg opt/a,string=hello -fw_cfg name=opt/b,string=x").unwrap();
        assert_eq!((f.file("opt/a"), f.file("opt/b"), f.file("opt/c")), (Some(&b"hello"[..]), Some(&b"x"[..]), None));
    }

    #[test]
    fn bad_items_are_errors() {
        for (args, sentence) in [
            ("-fw_cfg opt/a", "-fw_cfg opt/a: exactly one of file and string is needed"),
            ("-fw_cfg string=a", "-fw_cfg string=a: name is missing"),
            ("-fw_cfg opt/a,file=/nonexistent", "-fw_cfg opt/a,file=/nonexistent: can't load /nonexistent"),
        ] {
            assert_eq!(items(args).err().unwrap().to_string(), sentence);
        }
    }

    #[test]
    fn missing_firmware_is_named() {
        let e = find_bios(&config("-M virt -bios nofile")).unwrap_err().to_string();
        assert_eq!(e, "Could not find ROM image 'nofile'");
    }
}
