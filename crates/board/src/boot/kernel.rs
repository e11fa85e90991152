//! Kernel files of 32-bit ARM: what a file is and where its parts belong.
//!
//! Reference: Linux `Documentation/arch/arm/booting.rst` and `arch/arm/boot/compressed/head.S` (zImage magic); the ELF
//! specification; U-Boot's legacy images.
//!
//! Not modelled: zImages and ELF files for big-endian data, EFI zboot images.

use super::{Blob, gzip, uimage};
use object::elf::{EM_ARM, FileHeader32, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use spec::{Error, Result};

/// From the start of memory to where a kernel without an own address is put.
pub const LOAD_OFFSET: u64 = 0x1_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Zimage,
    Uimage,
    Elf,
    /// Nothing known: bare-metal code, or an uncompressed Linux `Image`, which has no magic number.
    Raw,
}

/// A recognized kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    pub format: Format,
    pub parts: Vec<Blob>,
    pub entry: u64,
    /// It follows Linux's conventions for registers and initrd.
    pub linux: bool,
}

impl Kernel {
    pub fn low(&self) -> u64 {
        self.parts.iter().map(|p| p.base).min().unwrap_or(0)
    }

    pub fn high(&self) -> u64 {
        self.parts.iter().map(Blob::end).max().unwrap_or(0)
    }

    /// Recognizes a file's contents. `ram_base` is where memory begins.
    pub fn parse(bytes: Vec<u8>, name: &str, ram_base: u64) -> Result<Kernel> {
        if gzip::is_gzip(&bytes) {
            let inner = gzip::unpack(&bytes, name)?;
            if gzip::is_gzip(&inner) {
                return Err(Error::new(format!("'{name}' is compressed more than once")));
            }
            return Kernel::parse(inner, name, ram_base);
        }
        if uimage::is_uimage(&bytes) {
            return uimage_kernel(&bytes, name);
        }
        if bytes.starts_with(b"\x7fELF") {
            return elf_kernel(&bytes, name);
        }
        let base = ram_base + LOAD_OFFSET;
        let format = if word(&bytes, ZIMAGE_MAGIC_AT) == Some(ZIMAGE_MAGIC) { Format::Zimage } else { Format::Raw };
        if format == Format::Raw {
            if let Some(what) = known_stranger(&bytes) {
                return Err(Error::new(format!("could not load kernel '{name}': it is {what}, not a kernel for this machine")));
            }
        }
        Ok(Kernel { format, parts: vec![Blob::new(name, base, bytes)], entry: base, linux: true })
    }
}

const ZIMAGE_MAGIC: u32 = 0x016f_2818;
const ZIMAGE_MAGIC_AT: usize = 0x24;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Files that are certainly no ARM kernels: magic number, its place, and what it is.
const STRANGERS: &[(&[u8], usize, &str)] = &[
    (b"HdrS", 0x202, "an x86 Linux kernel"),
    (b"ARM\x64", 0x38, "an arm64 Linux kernel"),
    (b"RSC\x05", 0x38, "a RISC-V Linux kernel"),
    (b"zimg", 4, "an EFI zboot image"),
    (b"\xfd7zXZ\0", 0, "an xz file"),
    (b"\x28\xb5\x2f\xfd", 0, "a zstd file"),
    (b"BZh", 0, "a bzip2 file"),
    (b"\x04\x22\x4d\x18", 0, "an lz4 file"),
    (b"QFI\xfb", 0, "a qcow2 disk image"),
    (b"070701", 0, "a cpio archive"),
    (b"\xd0\x0d\xfe\xed", 0, "a device tree"),
    (b"!<arch>\n", 0, "an archive"),
    (b"ANDROID!", 0, "an Android boot image"),
    (b"PK\x03\x04", 0, "a zip file"),
    (b"#!", 0, "a script"),
];

/// So many bytes of printable characters make a text.
const TEXT_BYTES: usize = 64;

fn known_stranger(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("empty");
    }
    let found = STRANGERS.iter().find(|(magic, at, _)| bytes.get(*at..at + magic.len()) == Some(magic));
    if let Some((_, _, what)) = found {
        return Some(what);
    }
    let start = &bytes[..bytes.len().min(TEXT_BYTES)];
    start.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~')).then_some("a text file")
}

fn uimage_kernel(bytes: &[u8], name: &str) -> Result<Kernel> {
    let (header, data) = uimage::parse(bytes, name)?;
    if header.kind != uimage::kind::KERNEL && header.kind != uimage::kind::KERNEL_NOLOAD {
        return Err(Error::new(format!("could not load kernel '{name}': it is a uImage of type {}, not a kernel", header.kind)));
    }
    if header.arch != uimage::arch::ARM {
        return Err(Error::new(format!("could not load kernel '{name}': it is a uImage for architecture {}, not for ARM", header.arch)));
    }
    let data = match header.compression {
        uimage::compression::NONE => data.to_vec(),
        uimage::compression::GZIP => gzip::unpack(data, name)?,
        other => return Err(Error::new(format!("could not load kernel '{name}': uImage compression {other} is not supported"))),
    };
    // Without an own address the kernel stays where it is; ours is as good as any.
    let linux = header.os == uimage::os::LINUX;
    Ok(Kernel { format: Format::Uimage, parts: vec![Blob::new(name, header.load.into(), data)], entry: header.entry.into(), linux })
}

fn elf_kernel(bytes: &[u8], name: &str) -> Result<Kernel> {
    let bad = |why: &str| Error::new(format!("Couldn't load elf '{name}': {why}"));
    let header = FileHeader32::<Endianness>::parse(bytes).map_err(|_| bad("The image is from incompatible architecture"))?;
    let endian = header.endian().map_err(|_| bad("The image is not ELF"))?;
    if header.e_machine(endian) != EM_ARM {
        return Err(bad("The image is from incompatible architecture"));
    }
    if endian == Endianness::Big {
        return Err(bad("The image has incompatible endianness"));
    }
    let segments = header.program_headers(endian, bytes).map_err(|_| bad("The image is truncated"))?;
    let mut entry = u64::from(header.e_entry(endian));
    let mut parts = Vec::new();
    for s in segments.iter().filter(|s| s.p_type(endian) == PT_LOAD && s.p_memsz(endian) > 0) {
        let data = s.data(endian, bytes).map_err(|()| bad("The image is truncated"))?;
        let (virt, phys) = (u64::from(s.p_vaddr(endian)), u64::from(s.p_paddr(endian)));
        let header_entry = u64::from(header.e_entry(endian));
        let inside = (virt..virt + data.len() as u64).contains(&header_entry);
        if inside && (s.p_flags(endian) & elf::PF_X).0 != 0 {
            // The header has the virtual address; translation is off.
            entry = header_entry - virt + phys;
        }
        let mut part = Blob::new(format!("{name} ELF segment"), phys, data.to_vec());
        part.room = part.room.max(s.p_memsz(endian).into());
        parts.push(part);
    }
    if parts.is_empty() {
        return Err(bad("The image has nothing to load"));
    }
    Ok(Kernel { format: Format::Elf, parts, entry, linux: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM: u64 = 0x4000_0000;

    fn zimage() -> Vec<u8> {
        let mut bytes = vec![0; 0x100];
        bytes[0x24..0x28].copy_from_slice(&ZIMAGE_MAGIC.to_le_bytes());
        bytes
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// An executable with one segment: 8 bytes at `virt`/`phys`, 16 bytes of memory.
    fn elf32(machine: elf::Machine, virt: u32, phys: u32, entry: u32) -> Vec<u8> {
        let mut b = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        b.extend([2u16, machine.0].iter().flat_map(|v| v.to_le_bytes()));
        b.extend([1u32, entry, 52, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
        b.extend([52u16, 32, 1, 0, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
        b.extend([1u32, 84, virt, phys, 8, 16, 5, 4].iter().flat_map(|v| v.to_le_bytes()));
        b.extend(b"codecode");
        b
    }

    fn kernel(bytes: Vec<u8>) -> Kernel {
        Kernel::parse(bytes, "k", RAM).unwrap()
    }

    fn refused(bytes: &[u8]) -> String {
        Kernel::parse(bytes.to_vec(), "k", RAM).unwrap_err().to_string()
    }

    #[test]
    fn a_zimage_goes_64_kib_above_the_start_of_memory() {
        for bytes in [zimage(), packed(&zimage())] {
            let k = kernel(bytes);
            assert_eq!((k.format, k.entry, k.low(), k.high(), k.linux), (Format::Zimage, 0x4001_0000, 0x4001_0000, 0x4001_0100, true));
        }
    }

    #[test]
    fn a_uimage_says_where_it_goes() {
        use uimage::{Header, arch, compression, kind, os, sample};
        let h = Header { load: 0x4000_8000, entry: 0x4000_8040, os: os::LINUX, arch: arch::ARM, kind: kind::KERNEL, compression: compression::NONE };
        let k = kernel(sample(h, b"code"));
        assert_eq!((k.entry, k.low(), k.parts[0].bytes.as_slice(), k.linux), (0x4000_8040, 0x4000_8000, &b"code"[..], true));
        let k = kernel(sample(Header { compression: compression::GZIP, os: 0, ..h }, &packed(b"code")));
        assert_eq!((k.parts[0].bytes.as_slice(), k.linux), (&b"code"[..], false));
        assert!(refused(&sample(Header { kind: kind::RAMDISK, ..h }, b"")).contains("type 3"));
        assert!(refused(&sample(Header { arch: 7, ..h }, b"")).contains("architecture 7"));
        assert!(refused(&sample(Header { compression: 2, ..h }, b"")).contains("compression 2"));
    }

    #[test]
    fn an_elf_file_is_loaded_at_its_physical_addresses() {
        let k = kernel(elf32(EM_ARM, 0xc000_8000, 0x4000_8000, 0xc000_8004));
        assert_eq!((k.entry, k.low(), k.high(), k.linux), (0x4000_8004, 0x4000_8000, 0x4000_8010, false));
        assert_eq!(k.parts[0].bytes, b"codecode");
        // An entry elsewhere stays as it is, with its Thumb bit.
        assert_eq!(kernel(elf32(EM_ARM, 0x4000_8000, 0x4000_8000, 0x4000_8001)).entry, 0x4000_8001);
        assert_eq!(kernel(elf32(EM_ARM, 0x4000_8000, 0x4000_8000, 0x101)).entry, 0x101);
        assert_eq!(refused(&elf32(elf::EM_X86_64, 0, 0, 0)), "Couldn't load elf 'k': The image is from incompatible architecture");
        let whole = elf32(EM_ARM, 0, RAM as u32, 0);
        for len in 4..whole.len() {
            assert!(refused(&whole[..len]).starts_with("Couldn't load elf 'k': "), "{len}");
        }
    }

    #[test]
    fn what_is_no_kernel_is_named() {
        let mut x86 = vec![0; 0x300];
        x86[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(refused(&x86), "could not load kernel 'k': it is an x86 Linux kernel, not a kernel for this machine");
        assert!(refused(b"").contains("it is empty"));
        assert!(refused(b"#!/bin/sh\n").contains("a script"));
        assert!(refused(b"root=/dev/vda\n").contains("a text file"));
        assert!(refused(b"QFI\xfb\0\0\0\x03").contains("a qcow2 disk image"));
        assert!(refused(&packed(&packed(b"x"))).contains("more than once"));
    }

    #[test]
    fn anything_else_is_raw_code() {
        let k = kernel(vec![0xfe, 0xff, 0xff, 0xea]);
        assert_eq!((k.format, k.entry), (Format::Raw, 0x4001_0000));
    }
}
