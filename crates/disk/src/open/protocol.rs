//! What lies below the formats: files, devices, NBD servers, and drivers that stand for a disk without having one.

use super::{OpenFlags, open_file};
use crate::engine::Aio;
use crate::file::{FileFlags, FileNode};
use crate::lock::Rights;
use crate::nbd::address::Address;
use crate::nbd::client::{ALLOCATION, Client};
use crate::node::NodeRef;
use crate::null::Null;
use crate::options::Options;
use spec::error::{Error, Result};
use std::sync::Arc;

/// Whether a name is that of a block or character device of the host.
fn is_device(name: &str) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(name).is_ok_and(|m| m.file_type().is_block_device() || m.file_type().is_char_device())
}

/// The path of a host file's name: without `file:`, and so that the rest does not look like a protocol again.
pub fn host_path(name: &str) -> String {
    match name.strip_prefix("file:") {
        Some(rest) if has_protocol(rest) => format!("./{rest}"),
        Some(rest) => rest.to_owned(),
        None => name.to_owned(),
    }
}

pub(super) fn has_protocol(name: &str) -> bool {
    name.split('/').next().unwrap_or("").contains(':')
}

/// Splits a protocol prefix such as `file:` off a name.
fn split_protocol(name: &str) -> Result<(&str, &str)> {
    let head = name.split('/').next().unwrap_or("");
    match head.split_once(':') {
        // The opener takes the prefix off.
        Some(("file", _)) => Ok(("file", name)),
        Some(("null-co", _)) => Ok(("null-co", "")),
        Some(("blkdebug", _)) => Ok(("blkdebug", name)),
        Some(("nbd" | "nbd+unix" | "nbd+tcp", _)) => Ok(("nbd", name)),
        Some((unknown, _)) => Err(Error::new(format!("Unknown protocol '{unknown}'"))),
        None if is_device(name) => Ok(("host_device", name)),
        None => Ok(("file", name)),
    }
}

/// The table of a file that is given by its name alone.
pub(super) fn set_file(below: &mut Options, name: &str) -> Result<()> {
    let (driver, rest) = split_protocol(name)?;
    below.set("filename", rest);
    below.set("driver", driver);
    Ok(())
}

pub(super) fn open_protocol(
    driver: &str,
    options: &mut Options,
    flags: &OpenFlags,
    locked_format: bool,
) -> Result<NodeRef> {
    if driver.starts_with("null") {
        options.take("filename");
        return Ok(Arc::new(Null::open(options)?));
    }
    if driver == "blkdebug" {
        return open_blkdebug(options, flags, locked_format);
    }
    if driver == "nbd" {
        return open_nbd(options, flags);
    }
    let name = options
        .take("filename")
        .ok_or_else(|| Error::new(format!("The '{driver}' block driver requires a file name")))?;
    let name = host_path(&name);
    check_kind(driver, &name, flags)?;
    let locking = !matches!(options.take("locking").as_deref(), Some("off"));
    let aio = match options.take("aio") {
        Some(name) => Aio::named(&name).ok_or_else(|| Error::new(format!("invalid parameter value: {name}")))?,
        None => flags.aio,
    };
    if aio == Aio::Native && !flags.direct {
        return Err(Error::new("aio=native was specified, but it requires cache.direct=on, which was not specified."));
    }
    options.take("pr-manager");
    if let Some(drop) = options.take_bool("drop-cache")?
        && !drop
    {
        // The page cache is never dropped here, which is what the user asks for.
    }
    let (used, denied) = rights(flags, locked_format);
    let file = FileFlags {
        write: flags.write,
        direct: flags.direct,
        no_flush: flags.no_flush,
        unmap: flags.unmap,
        aio,
        locking,
        used,
        denied,
    };
    Ok(Arc::new(FileNode::open(&name, file)?))
}

fn open_nbd(options: &mut Options, flags: &OpenFlags) -> Result<NodeRef> {
    let address = Address::take(options)?;
    for tuning in ["reconnect-delay", "open-timeout"] {
        if options.get(tuning).is_some_and(|v| v != "0") {
            return Err(Error::new(format!("NBD option '{tuning}' is not supported yet")));
        }
        options.take(tuning);
    }
    let context = options.take("x-dirty-bitmap").unwrap_or_else(|| ALLOCATION.into());
    Ok(Arc::new(Client::open(address, flags.write, &context)?))
}

/// A file is not for the driver of devices, nor a device for that of files. Opening says what else is wrong.
fn check_kind(driver: &str, name: &str, flags: &OpenFlags) -> Result<()> {
    let Ok(meta) = std::fs::metadata(name) else { return Ok(()) };
    let device = is_device(name);
    if driver == "file" && (device || meta.is_dir() && !flags.write) {
        return Err(Error::new(format!("'file' driver requires '{name}' to be a regular file")));
    }
    if driver != "file" && !device && (!meta.is_dir() || !flags.write) {
        return Err(Error::new(format!(
            "'{driver}' driver requires '{name}' to be either a character or block device"
        )));
    }
    Ok(())
}

/// What is done with a file, and what others must not do meanwhile.
fn rights(flags: &OpenFlags, locked_format: bool) -> (Rights, Rights) {
    let mut used = Rights::READ;
    let mut denied = Rights::NONE;
    if flags.write {
        used = used.and(Rights::WRITE);
    }
    if locked_format {
        denied = Rights::WRITE.and(Rights::RESIZE);
    }
    if flags.resize || flags.write && locked_format {
        used = used.and(Rights::RESIZE);
    }
    if flags.resize {
        denied = denied.and(Rights::WRITE).and(Rights::RESIZE);
    }
    if flags.share {
        denied = Rights::NONE;
    }
    (used, denied)
}

fn open_blkdebug(options: &mut Options, flags: &OpenFlags, locked_format: bool) -> Result<NodeRef> {
    let mut config = options.take("config");
    let mut below = options.take_below("image");
    if let Some(name) = options.take("x-image") {
        below.set("filename", &name);
    }
    if let Some(name) = options.take("filename") {
        match crate::blkdebug::split_name(&name) {
            Some((conf, file)) => {
                config = Some(conf.to_owned());
                below.set("filename", file);
            }
            None if name.starts_with("blkdebug:") => return Err(Error::new("Invalid blkdebug file name")),
            // The name is that of the image.
            None => below.set("filename", &name),
        }
    }
    if below.get("driver").is_none()
        && let Some(name) = below.take("filename")
    {
        set_file(&mut below, &name)?;
    }
    let node = open_file(below, flags, locked_format)?;
    Ok(Arc::new(crate::blkdebug::open(node, config.as_deref(), options)?))
}
