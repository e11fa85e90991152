//! `x`, `xp` and `print`: memory and numbers as text; `memsave` and `pmemsave`: memory in a file.
//!
//! Reference: the layout of QEMU's monitor, recorded from version 10.0.2. Guests are little-endian here.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

use spec::error::{Context, Error, Result};

use super::Machine;
use super::args::Format;

/// Items that one command shows.
const COUNT_MAX: u64 = 1 << 20;
/// Bytes copied to a file at a time.
const CHUNK: usize = 64 * 1024;

/// Which memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Virtual { cpu: usize },
    Physical,
}

fn read(machine: &dyn Machine, space: Space, address: u64, bytes: &mut [u8]) -> bool {
    match space {
        Space::Virtual { cpu } => machine.read_virtual(cpu, address, bytes),
        Space::Physical => machine.read_physical(address, bytes),
    }
}

fn character(value: u64) -> String {
    match u8::try_from(value) {
        Ok(b'\'') => "'\\''".into(),
        Ok(b'\\') => "'\\\\'".into(),
        Ok(b'\n') => "'\\n'".into(),
        Ok(b'\r') => "'\\r'".into(),
        Ok(c @ 32..=126) => format!("'{}'", char::from(c)),
        _ => format!("'\\x{:02x}'", value as u32),
    }
}

/// `print`: one number.
pub fn number(value: u64, format: Format) -> String {
    match format.letter {
        'o' if value == 0 => "0".into(),
        'o' => format!("0{value:o}"),
        'x' => format!("{value:#x}"),
        'u' => format!("{value}"),
        'c' => character(value),
        _ => format!("{}", value as i64),
    }
}

/// One item in a row of `size` bytes each.
fn item(value: u64, letter: char, size: usize) -> String {
    match letter {
        'o' => {
            let digits = number(value, Format { letter, ..Format::default() });
            format!("{digits:>width$}", width = (size * 8).div_ceil(3))
        }
        'c' => character(value),
        'x' => format!("0x{value:0width$x}", width = size * 2),
        _ => format!("{value:>width$}", width = (size * 80).div_ceil(33)),
    }
}

/// `x` and `xp`.
pub fn dump(machine: &dyn Machine, space: Space, address: u64, format: Format) -> Result<String> {
    if format.count > COUNT_MAX {
        return Err(Error::new(format!("at most {COUNT_MAX} items are shown at once")));
    }
    if format.letter == 'i' {
        return Ok(instructions(machine, space, address, format.count));
    }
    let digits = if space == Space::Physical { 16 } else { machine.address_digits() };
    let mask = u64::MAX >> (64 - 4 * digits);
    let in_row = (if format.size == 1 { 8 } else { 16 }) / format.size as u64;
    let mut text = String::new();
    let mut shown = 0;
    while shown < format.count {
        let at = address.wrapping_add(shown * format.size as u64) & mask;
        let items = in_row.min(format.count - shown);
        let mut bytes = vec![0; items as usize * format.size];
        let _ = write!(text, "{at:0digits$x}:");
        if !read(machine, space, at, &mut bytes) {
            text.push_str(" Cannot access memory\n");
            break;
        }
        for chunk in bytes.chunks_exact(format.size) {
            let value = chunk.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
            let _ = write!(text, " {}", item(value, format.letter, format.size));
        }
        text.push('\n');
        shown += items;
    }
    Ok(text)
}

fn instructions(machine: &dyn Machine, space: Space, mut address: u64, count: u64) -> String {
    /// The longest instruction of any guest is 15 bytes; these have at most 4.
    const LONGEST: usize = 4;
    let cpu = match space {
        Space::Virtual { cpu } => cpu,
        Space::Physical => 0,
    };
    let digits = machine.address_digits();
    let mut text = String::new();
    for _ in 0..count {
        let mut bytes = [0; LONGEST];
        if !read(machine, space, address, &mut bytes) {
            let _ = writeln!(text, "{address:#0width$x}: unable to read memory", width = digits + 2);
            break;
        }
        let decoded = machine.disassemble(cpu, address, &bytes);
        let (length, words) =
            decoded.unwrap_or_else(|| (LONGEST, format!(".word 0x{:08x}", u32::from_le_bytes(bytes))));
        let length = length.clamp(1, LONGEST);
        let raw: String = bytes[..length].iter().rev().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{address:#0width$x}:  {raw:<8}  {words}", width = digits + 2);
        address = address.wrapping_add(length as u64);
    }
    text
}

/// Writes memory to a file.
pub fn save(machine: &dyn Machine, space: Space, address: u64, size: u64, path: &str) -> Result<()> {
    let sentence = || format!("Could not open '{path}'");
    let mut file = File::create(path).context(sentence)?;
    let mut done = 0;
    while done < size {
        let mut bytes = vec![0; CHUNK.min((size - done) as usize)];
        if !read(machine, space, address.wrapping_add(done), &mut bytes) {
            return Err(Error::new(format!("Invalid addr 0x{address:016x}/size {size} specified")));
        }
        file.write_all(&bytes).context(|| format!("writing memory to '{path}'"))?;
        done += bytes.len() as u64;
    }
    Ok(())
}

/// The 16-bit checksum that System V's `sum` makes: rotated to the right before each byte is added.
pub fn sum(machine: &dyn Machine, start: u64, size: u64) -> Result<u16> {
    let (mut sum, mut done) = (0u16, 0);
    while done < size {
        let mut bytes = vec![0; CHUNK.min((size - done) as usize)];
        let at = start.wrapping_add(done);
        if !machine.read_physical(at, &mut bytes) {
            return Err(Error::new(format!("there is nothing at {at:#x}")));
        }
        sum = bytes.iter().fold(sum, |sum, byte| sum.rotate_right(1).wrapping_add(u16::from(*byte)));
        done += bytes.len() as u64;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    const BASE: u64 = 0x4000_0000;

    fn check(count: u64, letter: char, size: usize, expected: &str) {
        let fake = Fake::new();
        let format = Format { count, letter, size };
        assert_eq!(dump(&*fake, Space::Virtual { cpu: 0 }, BASE, format).unwrap(), expected, "/{count}{letter}{size}");
    }

    #[test]
    fn memory_looks_as_in_qemu() {
        check(4, 'x', 4, "40000000: 0xedfe0dd0 0x00001000 0x40000000 0x841b0000\n");
        check(2, 'x', 8, "40000000: 0x00001000edfe0dd0 0x841b000040000000\n");
        check(5, 'x', 2, "40000000: 0x0dd0 0xedfe 0x1000 0x0000 0x0000\n");
        check(9, 'x', 1, "40000000: 0xd0 0x0d 0xfe 0xed 0x00 0x10 0x00 0x00\n40000008: 0x00\n");
        check(4, 'd', 1, "40000000: 208  13 254 237\n");
        check(3, 'u', 2, "40000000:  3536 60926  4096\n");
        check(3, 'o', 2, "40000000:  06720 0166776 010000\n");
        check(4, 'c', 1, "40000000: '\\xd0' '\\r' '\\xfe' '\\xed'\n");
        check(0, 'x', 4, "");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let fake = Fake::new();
        let cannot = |space, address| dump(&*fake, space, address, Format::default()).unwrap();
        assert_eq!(cannot(Space::Virtual { cpu: 0 }, 0x1_ffff_ffff), "ffffffff: Cannot access memory\n");
        assert_eq!(cannot(Space::Physical, 0x1_ffff_ffff), "00000001ffffffff: Cannot access memory\n");
        let code = Format { letter: 'i', ..Format::default() };
        let text = dump(&*fake, Space::Virtual { cpu: 0 }, 0, code).unwrap();
        assert_eq!(text, "0x00000000: unable to read memory\n");
        let many = Format { count: u64::MAX, ..Format::default() };
        assert!(dump(&*fake, Space::Physical, 0, many).is_err());
    }

    #[test]
    fn instructions_have_their_bytes_in_front() {
        let fake = Fake::new();
        let format = Format { count: 2, letter: 'i', size: 4 };
        let text = dump(&*fake, Space::Virtual { cpu: 0 }, BASE, format).unwrap();
        assert_eq!(text, "0x40000000:  edfe0dd0  first\n0x40000004:  00001000  .word 0x00001000\n");
    }

    #[test]
    fn numbers_look_as_in_qemu() {
        let shown = |value: u64, letter: char| number(value, Format { letter, ..Format::default() });
        assert_eq!(shown(5, 'x'), "0x5");
        assert_eq!(shown(5, 'd'), "5");
        assert_eq!(shown(u64::MAX, 'd'), "-1");
        assert_eq!(shown(u64::MAX, 'u'), "18446744073709551615");
        assert_eq!(shown(8, 'o'), "010");
        assert_eq!(shown(65, 'c'), "'A'");
        assert_eq!(shown(u64::MAX, 'c'), "'\\xffffffff'");
    }

    #[test]
    fn memory_goes_to_a_file() {
        let fake = Fake::new();
        let path = std::env::temp_dir().join(format!("memsave-{}", std::process::id()));
        let name = path.to_str().unwrap();
        save(&*fake, Space::Physical, BASE, 8, name).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0xd0, 0x0d, 0xfe, 0xed, 0, 0x10, 0, 0]);
        let error = save(&*fake, Space::Virtual { cpu: 0 }, 0xc000_0000, 16, name).unwrap_err();
        assert_eq!(error.to_string(), "Invalid addr 0x00000000c0000000/size 16 specified");
        std::fs::remove_file(path).unwrap();
        let error = save(&*fake, Space::Physical, BASE, 8, "/nowhere/x").unwrap_err().to_string();
        assert!(error.starts_with("Could not open '/nowhere/x': No such file or directory"), "{error}");
    }
}
