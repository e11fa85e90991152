//! Puts kernel, initrd and device tree in their places, and tells the tree about them.
//!
//! Reference: Linux `Documentation/arch/arm/booting.rst`: r0 = 0, r1 = machine type (none: all ones), r2 = device tree. The
//! places are QEMU 10.0's: initrd in the middle of memory or at 128 MiB, the tree in the next page after it.

use super::kernel::{Format, Kernel};
use super::{Blob, Start, gzip, uimage};
use crate::fdt::{Tree, wide};
use spec::{Error, Result};

/// What the command line names, as contents.
#[derive(Default)]
pub struct Files {
    /// With the file's name.
    pub kernel: Option<(String, Vec<u8>)>,
    pub initrd: Option<(String, Vec<u8>)>,
    pub append: Option<String>,
}

/// Everything that is in memory at the start.
#[derive(Debug)]
pub struct Plan {
    pub blobs: Vec<Blob>,
    pub start: Start,
    pub tree: Tree,
    /// Something the user may want to know.
    pub warning: Option<String>,
}

/// The initrd is at most this far from the start of memory.
const INITRD_OFFSET: u64 = 128 << 20;
/// What the device tree may take: firmware adds to it in place.
pub const TREE_BYTES: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;

/// `tree` is the board's or the user's; memory and `/chosen` are filled in here.
pub fn plan(mut tree: Tree, files: Files, ram_base: u64, ram_bytes: u64, firmware: bool) -> Result<Plan> {
    describe_memory(&mut tree, ram_base, ram_bytes)?;
    if let Some(text) = files.append.as_deref().filter(|t| !t.is_empty()) {
        tree.set_text("/chosen", "bootargs", text)?;
    }
    let (Some((name, bytes)), false) = (files.kernel, firmware) else {
        // Firmware finds the tree at the start of memory, and kernel and initrd in fw_cfg.
        let blobs = vec![tree_blob(&tree, ram_base)?];
        return Ok(Plan { blobs, start: Start::Reset, tree, warning: None });
    };
    let kernel = Kernel::parse(bytes, &name, ram_base)?;
    let warning = (kernel.format == Format::Raw).then(|| {
        format!("'{name}' is no zImage, uImage, ELF or gzip file; it is started as bare code at {:#x}", kernel.entry)
    });
    let (entry, high) = (kernel.entry, kernel.high());
    let low = kernel.low();
    let mut blobs = kernel.parts;
    let initrd_base = (ram_base + (ram_bytes / 2).min(INITRD_OFFSET)).max(high).next_multiple_of(PAGE_BYTES);
    let mut end = initrd_base;
    let has_initrd = files.initrd.is_some();
    if let Some((name, bytes)) = files.initrd {
        let bytes = initrd_contents(bytes, &name)?;
        end = initrd_base + bytes.len() as u64;
        if end > ram_base + ram_bytes {
            return Err(Error::new(format!("could not load initrd '{name}': it does not fit into {} MiB of memory", ram_bytes >> 20)));
        }
        let (start, finish) = (sized(&tree, initrd_base), sized(&tree, end));
        tree.set("/chosen", "linux,initrd-start", &start)?;
        tree.set("/chosen", "linux,initrd-end", &finish)?;
        blobs.push(Blob::new(name, initrd_base, bytes));
    }
    // Bare-metal programs look for the tree at the start of memory, if it is free.
    let start_is_free = low >= ram_base + TREE_BYTES || high <= ram_base;
    let tree_base = if !kernel.linux && start_is_free && !has_initrd { ram_base } else { end.next_multiple_of(PAGE_BYTES) };
    blobs.push(tree_blob(&tree, tree_base)?);
    super::check(&blobs)?;
    Ok(Plan { blobs, start: Start::At { entry, registers: [0, u32::MAX, tree_base as u32] }, tree, warning })
}

/// The initrd as it goes to memory: an image for U-Boot loses its header.
fn initrd_contents(bytes: Vec<u8>, name: &str) -> Result<Vec<u8>> {
    if !uimage::is_uimage(&bytes) {
        return Ok(bytes);
    }
    let (header, data) = uimage::parse(&bytes, name)?;
    if header.kind != uimage::kind::RAMDISK {
        return Err(Error::new(format!("could not load initrd '{name}': it is a uImage of type {}, not a ramdisk", header.kind)));
    }
    // Linux unpacks the rest; gzip here is what the header says about the data.
    if header.compression == uimage::compression::GZIP { gzip::unpack(data, name) } else { Ok(data.to_vec()) }
}

fn tree_blob(tree: &Tree, base: u64) -> Result<Blob> {
    let mut blob = Blob::new("dtb", base, padded(tree)?);
    blob.room = TREE_BYTES;
    Ok(blob)
}

/// The tree as a blob whose header promises room to grow, without the room.
pub fn padded(tree: &Tree) -> Result<Vec<u8>> {
    let mut bytes = tree.blob();
    if bytes.len() as u64 > TREE_BYTES {
        return Err(Error::new(format!("the device tree has {} bytes, more than {TREE_BYTES}", bytes.len())));
    }
    // The second word of the header is the total size.
    bytes[4..8].copy_from_slice(&(TREE_BYTES as u32).to_be_bytes());
    Ok(bytes)
}

/// An address with as many cells as the root's addresses have.
fn sized(tree: &Tree, value: u64) -> Vec<u8> {
    match tree.get_cell("/", "#address-cells") {
        Some(1) => (value as u32).to_be_bytes().to_vec(),
        _ => wide(value).map(u32::to_be_bytes).concat(),
    }
}

/// Replaces the memory nodes by one for our memory.
fn describe_memory(tree: &mut Tree, base: u64, bytes: u64) -> Result<()> {
    let cells = |name| tree.get_cell("/", name).unwrap_or(0);
    let (address_cells, size_cells) = (cells("#address-cells"), cells("#size-cells"));
    if !(1..=2).contains(&address_cells) || !(1..=2).contains(&size_cells) {
        return Err(Error::new("dtb file invalid (#address-cells or #size-cells not 1 or 2)"));
    }
    if size_cells < 2 && bytes >= 1 << 32 {
        return Err(Error::new("qemu: dtb file not compatible with RAM size > 4GB"));
    }
    let number = |cells: u32, value: u64| if cells == 1 { vec![value as u32] } else { wide(value).to_vec() };
    let reg: Vec<u8> = number(address_cells, base).into_iter().chain(number(size_cells, bytes)).flat_map(u32::to_be_bytes).collect();
    let name = format!("memory@{base:x}");
    for old in tree.names() {
        if old != name && (old == "memory" || old.starts_with("memory@")) {
            tree.remove(&old);
        }
    }
    let path = format!("/{name}");
    tree.set(&path, "reg", &reg)?;
    tree.set_text(&path, "device_type", "memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdt::Node;

    const RAM: u64 = 0x4000_0000;
    const MIB: u64 = 1 << 20;

    fn tree(cells: u32) -> Tree {
        let memory = Node::at("memory", 0).text("device_type", "memory").cells("reg", &[0, 1]);
        Tree::new(Node::new("root").cell("#address-cells", cells).cell("#size-cells", cells).child(memory).child(Node::new("chosen")))
    }

    fn zimage(bytes: usize) -> Option<(String, Vec<u8>)> {
        let mut kernel = vec![0; bytes];
        kernel[0x24..0x28].copy_from_slice(&0x016f_2818u32.to_le_bytes());
        Some(("vmlinuz".into(), kernel))
    }

    fn files(initrd: Option<usize>) -> Files {
        Files { kernel: zimage(0x1000), initrd: initrd.map(|n| ("initrd".into(), vec![7; n])), append: Some("quiet".into()) }
    }

    #[test]
    fn kernel_initrd_and_tree_are_where_qemu_has_them() {
        for (ram, initrd) in [(128 * MIB, 0x4400_0000), (512 * MIB, 0x4800_0000), (3072 * MIB, 0x4800_0000)] {
            let p = plan(tree(2), files(Some(20)), RAM, ram, false).unwrap();
            let at: Vec<u64> = p.blobs.iter().map(|b| b.base).collect();
            assert_eq!(at, [0x4001_0000, initrd, initrd + 0x1000]);
            assert_eq!(p.start, Start::At { entry: 0x4001_0000, registers: [0, u32::MAX, initrd as u32 + 0x1000] });
            assert_eq!(p.tree.get("/chosen", "bootargs").unwrap(), b"quiet\0");
            assert_eq!(p.tree.get("/chosen", "linux,initrd-start").unwrap(), initrd.to_be_bytes());
            assert_eq!(p.tree.get("/chosen", "linux,initrd-end").unwrap(), (initrd + 20).to_be_bytes());
        }
    }

    #[test]
    fn a_large_kernel_pushes_the_initrd_up() {
        let f = Files { kernel: zimage(80 * MIB as usize), ..files(Some(20)) };
        let p = plan(tree(2), f, RAM, 128 * MIB, false).unwrap();
        assert_eq!(p.blobs[1].base, RAM + 80 * MIB + 0x1_0000);
    }

    #[test]
    fn memory_nodes_are_replaced() {
        let p = plan(tree(1), files(None), RAM, 128 * MIB, false).unwrap();
        assert_eq!(p.tree.names(), ["chosen", "memory@40000000"]);
        assert_eq!(p.tree.get("/memory@40000000", "reg").unwrap(), [0x4000_0000u32, 0x800_0000].map(u32::to_be_bytes).concat());
        assert!(plan(tree(1), files(None), RAM, 4096 * MIB, false).is_err());
        assert!(plan(tree(3), files(None), RAM, 128 * MIB, false).is_err());
    }

    #[test]
    fn an_initrd_that_does_not_fit_is_named() {
        let e = plan(tree(2), files(Some(65 * MIB as usize)), RAM, 128 * MIB, false).unwrap_err().to_string();
        assert_eq!(e, "could not load initrd 'initrd': it does not fit into 128 MiB of memory");
    }

    #[test]
    fn firmware_finds_the_tree_at_the_start_of_memory() {
        for kernel in [None, zimage(0x1000)] {
            let p = plan(tree(2), Files { kernel, ..files(None) }, RAM, 128 * MIB, true).unwrap();
            assert_eq!((p.start, p.blobs.len(), p.blobs[0].base), (Start::Reset, 1, RAM));
        }
    }

    #[test]
    fn bare_code_comes_with_a_warning() {
        let f = Files { kernel: Some(("k".into(), vec![0xff; 8])), ..Files::default() };
        let p = plan(tree(2), f, RAM, 128 * MIB, false).unwrap();
        assert_eq!(p.warning.unwrap(), "'k' is no zImage, uImage, ELF or gzip file; it is started as bare code at 0x40010000");
    }

    #[test]
    fn the_tree_promises_room() {
        let p = plan(tree(2), files(None), RAM, 128 * MIB, false).unwrap();
        let blob = p.blobs.last().unwrap();
        assert_eq!(blob.bytes[4..8], 0x10_0000u32.to_be_bytes());
        assert_eq!(blob.room, TREE_BYTES);
    }
}
