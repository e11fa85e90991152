//! `-device guest-loader`: a kernel or an initial RAM disk that a hypervisor (the machine's own kernel) starts as its guest.
//!
//! Reference: the multiboot modules of Xen's device trees (Xen `docs/misc/arm/device-tree/booting.txt`); QEMU's
//! documentation `docs/system/guest-loader.rst`.

use super::Blob;
use crate::fdt::{Tree, wide};
use spec::{Error, Result};

/// The device's properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestLoader {
    pub addr: Option<u64>,
    pub kernel: Option<String>,
    pub initrd: Option<String>,
    pub bootargs: Option<String>,
}

impl GuestLoader {
    /// The file to load, if the properties fit together.
    pub fn file(&self) -> Result<&str> {
        let refuse = |sentence: &str| Err(Error::new(sentence));
        match (&self.kernel, &self.initrd) {
            (Some(_), Some(_)) => refuse("Cannot specify a kernel and initrd in same stanza"),
            (None, None) => refuse("Need to specify a kernel or initrd image"),
            _ if self.addr.is_none_or(|a| a == 0) => refuse("Need to specify the address of guest blob"),
            (None, _) if self.bootargs.is_some() => refuse("Boot args only relevant to kernel blobs"),
            (Some(file), None) | (None, Some(file)) => Ok(file),
        }
    }

    /// The file's contents in their place, and described in the tree.
    pub fn load(&self, bytes: Vec<u8>, tree: &mut Tree) -> Result<Blob> {
        let (name, addr) = (self.file()?.to_owned(), self.addr.unwrap_or_default());
        let path = format!("/chosen/module@0x{addr:08x}");
        let kind = if self.kernel.is_some() { "multiboot,kernel" } else { "multiboot,ramdisk" };
        let reg: Vec<u8> = wide(addr).into_iter().chain(wide(bytes.len() as u64)).flat_map(u32::to_be_bytes).collect();
        tree.set(&path, "reg", &reg)?;
        tree.set(&path, "compatible", format!("multiboot,module\0{kind}\0").as_bytes())?;
        if let Some(text) = &self.bootargs {
            tree.set_text(&path, "bootargs", text)?;
        }
        Ok(Blob::new(name, addr, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fdt::Node;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn modules_are_described() {
        let mut tree = Tree::new(Node::new("root").child(Node::new("chosen")));
        let kernel = GuestLoader { addr: Some(0x4600_0000), kernel: some("k"), bootargs: some("quiet"), ..Default::default() };
        assert_eq!(kernel.load(vec![1, 2, 3], &mut tree).unwrap().base, 0x4600_0000);
        let path = "/chosen/module@0x46000000";
        assert_eq!(tree.get(path, "compatible").unwrap(), b"multiboot,module\0multiboot,kernel\0");
        assert_eq!(tree.get(path, "bootargs").unwrap(), b"quiet\0");
        assert_eq!(tree.get(path, "reg").unwrap(), [0u8, 0, 0, 0, 0x46, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    }

    #[test]
    fn mistakes_have_qemus_sentences() {
        let addr = Some(0x1000);
        for (loader, sentence) in [
            (GuestLoader { addr, ..Default::default() }, "Need to specify a kernel or initrd image"),
            (GuestLoader { kernel: some("k"), ..Default::default() }, "Need to specify the address of guest blob"),
            (GuestLoader { addr, kernel: some("k"), initrd: some("i"), ..Default::default() }, "Cannot specify a kernel and initrd in same stanza"),
            (GuestLoader { addr, initrd: some("i"), bootargs: some("a"), ..Default::default() }, "Boot args only relevant to kernel blobs"),
        ] {
            assert_eq!(loader.file().unwrap_err().to_string(), sentence);
        }
    }
}
