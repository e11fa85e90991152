//! Makes new images of every format that can be made.
//!
//! Reference: options and messages of `qemu-img create` 10.0.2.

use crate::file::FileNode;
use crate::node::{Node, NodeRef, Preallocation, strerror};
use crate::open::{OpenFlags, open_new};
use crate::options::Options;
use crate::qcow2::create::CreateOptions;
use spec::error::{Error, Result};

/// One row of `-o help`: name, type, description.
pub struct CreateOption {
    pub name: &'static str,
    pub kind: &'static str,
    pub help: &'static str,
    /// Printed with its value even when the user did not give it.
    pub default: Option<&'static str>,
}

const fn row(
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    default: Option<&'static str>,
) -> CreateOption {
    CreateOption { name, kind, help, default }
}

/// Options of the host file below every format.
pub const FILE_OPTIONS: &[CreateOption] = &[
    row("extent_size_hint", "size", "Extent size hint for the image file, 0 to disable", None),
    row("nocow", "bool", "Turn off copy-on-write (valid only on btrfs)", None),
];

pub const RAW_OPTIONS: &[CreateOption] = &[
    row("size", "size", "Virtual disk size", None),
    row("preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)", None),
];

/// In the order in which `create` prints them.
pub const QCOW2_OPTIONS: &[CreateOption] = &[
    row("encryption", "bool", "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)", None),
    row("encrypt.format", "str", "Encrypt the image, format choices: 'aes', 'luks'", None),
    row("encrypt.key-secret", "str", "ID of secret providing qcow AES key or LUKS passphrase", None),
    row("encrypt.cipher-alg", "str", "Name of encryption cipher algorithm", None),
    row("encrypt.cipher-mode", "str", "Name of encryption cipher mode", None),
    row("encrypt.ivgen-alg", "str", "Name of IV generator algorithm", None),
    row("encrypt.ivgen-hash-alg", "str", "Name of IV generator hash algorithm", None),
    row("encrypt.hash-alg", "str", "Name of encryption hash algorithm", None),
    row("encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds", None),
    row("cluster_size", "size", "qcow2 cluster size", Some("65536")),
    row("extended_l2", "bool", "Extended L2 tables", Some("off")),
    row("preallocation", "str", "Preallocation mode (allowed values: off, metadata, falloc, full)", None),
    row("compression_type", "str", "Compression method used for image cluster compression", Some("zlib")),
    row("size", "size", "Virtual disk size", None),
    row("compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])", None),
    row("backing_file", "str", "File name of a base image", None),
    row("backing_fmt", "str", "Image format of the base image", None),
    row("data_file", "str", "File name of an external data file", None),
    row("data_file_raw", "bool", "The external data file must stay valid as a raw image", None),
    row("lazy_refcounts", "bool", "Postpone refcount updates", Some("off")),
    row("refcount_bits", "num", "Width of a reference count entry in bits", Some("16")),
];

pub const LUKS_OPTIONS: &[CreateOption] = &[
    row("size", "size", "Virtual disk size", None),
    row("key-secret", "str", "ID of the secret that provides the keyslot passphrase", None),
    row("cipher-alg", "str", "Name of encryption cipher algorithm", None),
    row("cipher-mode", "str", "Name of encryption cipher mode", None),
    row("ivgen-alg", "str", "Name of IV generator algorithm", None),
    row("ivgen-hash-alg", "str", "Name of IV generator hash algorithm", None),
    row("hash-alg", "str", "Name of encryption hash algorithm", None),
    row("iter-time", "num", "Time to spend in PBKDF in milliseconds", None),
    row("detached-header", "bool", "Create a detached LUKS header", None),
];

/// What `amend` can change of key slots; in qcow2 with `encrypt.` in front.
pub const KEYSLOT_OPTIONS: &[CreateOption] = &[
    row("iter-time", "num", "Time to spend in PBKDF in milliseconds", None),
    row("keyslot", "num", "Select a single keyslot to modify explicitly", None),
    row("new-secret", "str", "New secret to set in the matching keyslots. Empty string to erase", None),
    row("old-secret", "str", "Select all keyslots that match this password", None),
    row("state", "str", "Select new state of affected keyslots (active/inactive)", None),
];

pub const VDI_OPTIONS: &[CreateOption] = &[
    row("size", "size", "Virtual disk size", None),
    row("static", "bool", "VDI static (pre-allocated) image", Some("off")),
    row("preallocation", "str", "Preallocation mode (allowed values: off, metadata)", None),
];

pub const VMDK_OPTIONS: &[CreateOption] = &[
    row("size", "size", "Virtual disk size", None),
    row(
        "adapter_type",
        "str",
        "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
        None,
    ),
    row("backing_file", "str", "File name of a base image", None),
    row("backing_fmt", "str", "Must be 'vmdk' if present", None),
    row("compat6", "bool", "VMDK version 6 image", Some("off")),
    row("hwversion", "str", "VMDK hardware version", Some("undefined")),
    row("toolsversion", "str", "VMware guest tools version", None),
    row(
        "subformat",
        "str",
        "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ",
        None,
    ),
    row("zeroed_grain", "bool", "Enable efficient zero writes using the zeroed-grain GTE feature", None),
    row("preallocation", "str", "Preallocation mode (allowed values: off)", None),
];

pub const VHDX_OPTIONS: &[CreateOption] = &[
    row("size", "size", "Virtual disk size; max of 64TB.", None),
    row("log_size", "size", "Log size; min 1MB.", Some("1048576")),
    row("block_size", "size", "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.", Some("0")),
    row("subformat", "str", "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.", None),
    row(
        "block_state_zero",
        "bool",
        "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using 'qemu-img convert' with subformat=dynamic.",
        None,
    ),
    row("preallocation", "str", "Preallocation mode (allowed values: off)", None),
];

pub const VPC_OPTIONS: &[CreateOption] = &[
    row("size", "size", "Virtual disk size", None),
    row(
        "subformat",
        "str",
        "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
        None,
    ),
    row(
        "force_size",
        "bool",
        "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based calculation",
        None,
    ),
    row("preallocation", "str", "Preallocation mode (allowed values: off)", None),
];

/// The options of a format that can be made; `None` for one that cannot.
pub fn options_of(format: &str) -> Option<&'static [CreateOption]> {
    match format {
        "raw" | "file" => Some(RAW_OPTIONS),
        "qcow2" => Some(QCOW2_OPTIONS),
        "luks" => Some(LUKS_OPTIONS),
        "vdi" => Some(VDI_OPTIONS),
        "vhdx" => Some(VHDX_OPTIONS),
        "vmdk" => Some(VMDK_OPTIONS),
        "vpc" => Some(VPC_OPTIONS),
        _ => None,
    }
}

/// Whether the format's images can name a backing file.
pub fn takes_backing(format: &str) -> bool {
    matches!(format, "qcow2" | "vmdk")
}

/// Makes an image.
pub fn create(format: &str, name: &str, mut options: Options) -> Result<()> {
    options.take("nocow");
    options.take("extent_size_hint");
    match format {
        "raw" | "file" => {
            let size = options.take_size("size")?.unwrap_or(0).next_multiple_of(512);
            let preallocation =
                options.take("preallocation").map_or(Ok(Preallocation::Off), |p| Preallocation::parse(&p))?;
            done(&options)?;
            if is_served(name) {
                let there = open_new(name)?.size();
                return if there >= size { Ok(()) } else { Err(Error::new("Cannot grow device files")) };
            }
            FileNode::create(&plain(name), size, preallocation)
        }
        "qcow2" => {
            let made = CreateOptions::take(&mut options)?;
            done(&options)?;
            create_qcow2(name, &made)
        }
        "luks" => {
            let size = options.take_size("size")?.unwrap_or(0).next_multiple_of(512);
            let made = crate::luks::options::CreateOptions::take(&mut options, "")?;
            done(&options)?;
            create_luks(name, size, &made)
        }
        "vmdk" => crate::vmdk::create::create(&plain(name), &mut options),
        "vdi" | "vhdx" | "vpc" => {
            let file = fresh(name)?;
            match format {
                "vhdx" => crate::vhdx::create(file.as_ref(), &mut options)?,
                "vdi" => crate::vdi::create(file.as_ref(), &mut options)?,
                _ => crate::vpc::create(file.as_ref(), &mut options)?,
            }
            done(&options)?;
            file.close().map_err(|e| Error::new(strerror(&e)))
        }
        _ => Err(Error::new(format!("Format driver '{format}' does not support image creation"))),
    }
}

/// The path that is made for a name.
fn plain(name: &str) -> String {
    crate::open::host_path(name)
}

fn done(options: &Options) -> Result<()> {
    match options.first_key() {
        None => Ok(()),
        Some(key) => Err(Error::new(format!("Invalid parameter '{key}'"))),
    }
}

/// A detached header is a file of its own; the disk is then made by other means.
fn create_luks(name: &str, size: u64, options: &crate::luks::options::CreateOptions) -> Result<()> {
    let done = fill_luks(name, size, options);
    if done.is_err() && std::fs::metadata(plain(name)).is_ok_and(|m| m.is_file()) {
        // Half an image looks like one whose passphrase was forgotten.
        let _ = std::fs::remove_file(plain(name));
    }
    done
}

fn fill_luks(name: &str, size: u64, options: &crate::luks::options::CreateOptions) -> Result<()> {
    crate::secret::passphrase(&options.secret)?;
    FileNode::create(&plain(name), 0, Preallocation::Off)?;
    let file = open_new(name)?;
    let payload = crate::luks::create(file.as_ref(), options)?;
    let disk = if options.detached { 0 } else { size };
    if disk > i64::MAX as u64 - payload {
        return Err(Error::new("The requested file size is too large"));
    }
    file.resize(payload + disk, Preallocation::Off)?;
    file.close().map_err(|e| Error::new(strerror(&e)))
}

/// The file for a new image: an empty one, or what a server has under the name.
fn fresh(name: &str) -> Result<NodeRef> {
    if !is_served(name) {
        FileNode::create(&plain(name), 0, Preallocation::Off)?;
    }
    open_new(name)
}

fn is_served(name: &str) -> bool {
    ["nbd:", "nbd+unix:", "nbd+tcp:"].iter().any(|p| name.starts_with(p))
}

fn create_qcow2(name: &str, options: &CreateOptions) -> Result<()> {
    let file = fresh(name)?;
    let data = match &options.data_file {
        None => None,
        Some(data) => {
            FileNode::create(&plain(data), 0, Preallocation::Off)?;
            Some(open_new(data)?)
        }
    };
    let image = crate::qcow2::create::create(file, data, options)?;
    image.close().map_err(|e| Error::new(strerror(&e)))
}

/// Puts a temporary qcow2 image on top of a node: writes go there and are gone with it.
pub fn temporary_overlay(below: NodeRef, flags: &OpenFlags) -> Result<NodeRef> {
    let unique = u64::from_le_bytes(crate::random::bytes::<8>());
    let path = std::env::temp_dir().join(format!("vl.{unique:016x}"));
    let name = path.to_string_lossy().into_owned();
    let mut o = Options::new();
    o.set("size", &below.size().to_string());
    create("qcow2", &name, o)?;
    let flags = OpenFlags { write: true, no_flush: true, ..flags.clone() };
    let overlay = crate::open(&name, Some("qcow2"), &flags);
    // The open handle keeps the file; its name is not needed any more.
    let _ = std::fs::remove_file(&path);
    let overlay = overlay?;
    overlay.set_backing(Some(below));
    Ok(overlay)
}
