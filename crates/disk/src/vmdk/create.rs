//! Makes VMDK images.
//!
//! Reference: options, file names and descriptor fields of `qemu-img create -f vmdk` 10.0.2.

use super::sparse::{self, DESCRIPTOR_SECTORS, SECTOR};
use crate::file::FileNode;
use crate::node::{NodeRef, Preallocation, strerror};
use crate::options::Options;
use spec::error::{Error, Result};
use std::path::Path;

/// Split images have parts of this size.
const PART: u64 = 2 << 30;

struct Wanted {
    size: u64,
    subformat: String,
    adapter: String,
    hwversion: String,
    toolsversion: String,
    parent: Option<(String, u32)>,
    zero_grains: bool,
}

fn wanted(name: &str, options: &mut Options) -> Result<Wanted> {
    let size = options.take_size("size")?.unwrap_or(0).next_multiple_of(512);
    let adapter = options.take("adapter_type").unwrap_or_else(|| "ide".into());
    if !["ide", "buslogic", "lsilogic", "legacyESX"].contains(&adapter.as_str()) {
        return Err(Error::new(format!("Unknown adapter type: {adapter}")));
    }
    let compat6 = options.take_bool("compat6")?.unwrap_or(false);
    let hwversion = options.take("hwversion");
    if compat6 && hwversion.as_ref().is_some_and(|v| v != "undefined") {
        return Err(Error::new("compat6 cannot be enabled with hwversion set"));
    }
    let hwversion = hwversion.filter(|v| v != "undefined").unwrap_or_else(|| if compat6 { "6" } else { "4" }.into());
    let subformat = options.take("subformat").unwrap_or_else(|| "monolithicSparse".into());
    let known = ["monolithicFlat", "monolithicSparse", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"];
    if !known.contains(&subformat.as_str()) {
        return Err(Error::new(format!("Invalid parameter '{subformat}'")));
    }
    let backing = options.take("backing_file");
    if options.take("backing_fmt").is_some_and(|f| f != "vmdk") {
        return Err(Error::new("backing_file must be a vmdk image"));
    }
    if backing.is_some() && ["monolithicFlat", "twoGbMaxExtentFlat"].contains(&subformat.as_str()) {
        return Err(Error::new("Flat image can't have backing file"));
    }
    let zero_grains = options.take_bool("zeroed_grain")?.unwrap_or(false);
    let parent = match backing {
        None => None,
        Some(file) => Some((file.clone(), parent_cid(name, &file)?)),
    };
    let toolsversion = options.take("toolsversion").unwrap_or_else(|| "2147483647".into());
    if options.take("preallocation").is_some_and(|p| p != "off") {
        return Err(Error::new("Preallocation is not supported for VMDK images"));
    }
    Ok(Wanted { size, subformat, adapter, hwversion, toolsversion, parent, zero_grains })
}

fn parent_cid(name: &str, file: &str) -> Result<u32> {
    let full = crate::open::relative_to(name, file);
    let flags = crate::open::OpenFlags { no_backing: true, ..Default::default() };
    let node = crate::open(&full, None, &flags)?;
    let info = node.info()?;
    match info.specific {
        Some(("vmdk", data)) => Ok(data["cid"].as_u64().unwrap_or(0) as u32),
        _ => Err(Error::new("Invalid backing file format: 'vmdk' is needed")),
    }
}

/// Makes an image called `name`.
pub fn create(name: &str, options: &mut Options) -> Result<()> {
    let w = wanted(name, options)?;
    if let Some(key) = options.first_key() {
        return Err(Error::new(format!("Invalid parameter '{key}'")));
    }
    let path = Path::new(name);
    let stem = path.file_stem().map_or(String::new(), |s| s.to_string_lossy().into_owned());
    let suffix = path.extension().map_or(String::new(), |s| format!(".{}", s.to_string_lossy()));
    let base = path.file_name().map_or(String::new(), |s| s.to_string_lossy().into_owned());
    let split = w.subformat.starts_with("twoGb");
    let flat = w.subformat.ends_with("Flat");
    let hosted = !split && !flat;
    let parts = if split { w.size.div_ceil(PART) } else { 1 };
    let mut lines = String::new();
    for i in 0..parts {
        let bytes = if split { PART.min(w.size - i * PART) } else { w.size };
        let part_name = match (split, flat) {
            (true, _) => format!("{stem}-{}{:03}{suffix}", if flat { 'f' } else { 's' }, i + 1),
            (false, true) => format!("{stem}-flat{suffix}"),
            _ => base.clone(),
        };
        let full = crate::open::beside(name, &part_name);
        make_part(&full, bytes, flat, &w, hosted)?;
        let kind = if flat { "FLAT" } else { "SPARSE" };
        lines += &format!("RW {} {kind} \"{part_name}\"{}\n", bytes / SECTOR, if flat { " 0" } else { "" });
    }
    let text = describe(&w, &lines);
    if !hosted {
        FileNode::create(name, 0, Preallocation::Off)?;
    } else if text.len() as u64 > DESCRIPTOR_SECTORS * SECTOR {
        return Err(Error::new("Image descriptor is too long"));
    }
    let file = crate::open::open_new(name)?;
    let place = if hosted { SECTOR } else { 0 };
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    file.write(place, &bytes)
        .and_then(|()| file.close())
        .map_err(|e| Error::new(format!("Could not write description: {}", strerror(&e))))
}

fn make_part(name: &str, bytes: u64, flat: bool, w: &Wanted, hosted: bool) -> Result<()> {
    FileNode::create(name, if flat { bytes } else { 0 }, Preallocation::Off)?;
    if flat {
        return Ok(());
    }
    let file: NodeRef = crate::open::open_new(name)?;
    sparse::create(file.as_ref(), bytes, w.subformat == "streamOptimized", w.zero_grains, hosted)
        .and_then(|()| file.close())
        .map_err(|e| Error::new(format!("Could not write the VMDK extent: {}", strerror(&e))))
}

fn describe(w: &Wanted, extents: &str) -> String {
    let (heads, sectors) = if w.adapter == "ide" { (16, 63) } else { (255, 63) };
    let cylinders = w.size / (heads * sectors * SECTOR);
    let cid = u32::from_le_bytes(crate::random::bytes::<4>()) & 0x7fff_ffff;
    let parent_cid = w.parent.as_ref().map_or(super::descriptor::NO_PARENT, |p| p.1);
    let hint = w.parent.as_ref().map_or(String::new(), |p| format!("parentFileNameHint=\"{}\"\n", p.0));
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:x}\nparentCID={parent_cid:x}\ncreateType=\"{}\"\n{hint}\n# Extent description\n{extents}\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"{}\"\nddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"{heads}\"\nddb.geometry.sectors = \"{sectors}\"\nddb.adapterType = \"{}\"\nddb.toolsVersion = \"{}\"\n",
        w.subformat, w.hwversion, w.adapter, w.toolsversion
    )
}
