//! `-d` items and where their output goes (`-D`).

use spec::Result;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// One item: bit, name, text of `-d help`.
struct Item {
    bit: u32,
    name: &'static str,
    help: &'static str,
}

macro_rules! items {
    ($($constant:ident $bit:literal $name:literal $help:literal;)*) => {
        $(pub const $constant: u32 = 1 << $bit;)*
        static ITEMS: &[Item] = &[$(Item { bit: $constant, name: $name, help: $help },)*];
    };
}

items! {
    OUT_ASM      0 "out_asm" "show generated host assembly code for each compiled TB";
    IN_ASM       1 "in_asm" "show target assembly code for each compiled TB";
    OP           2 "op" "show micro ops for each compiled TB";
    OP_OPT       3 "op_opt" "show micro ops after optimization";
    INT          4 "int" "show interrupts/exceptions in short format";
    EXEC         5 "exec" "show trace before each executed TB (lots of logs)";
    CPU          6 "cpu" "show CPU registers before entering a TB (lots of logs)";
    UNIMP        7 "unimp" "log unimplemented functionality";
    GUEST_ERRORS 8 "guest_errors" "log when the guest OS does something invalid";
    PAGE         9 "page" "dump pages at beginning of user mode emulation";
    NOCHAIN     10 "nochain" "do not chain compiled TBs so that \"exec\" and \"cpu\" show complete traces";
    STRACE      11 "strace" "log every user-mode syscall, its input, and its result";
}

/// The bits of a list such as `strace,unimp`; none for `help` and for words that are no item.
pub fn parse_items(list: &str) -> Result<Option<u32>> {
    let mut bits = 0;
    for word in list.split(',') {
        if word == "all" {
            bits |= ITEMS.iter().fold(0, |m, i| m | i.bit);
            continue;
        }
        let Some(item) = ITEMS.iter().find(|i| i.name == word) else { return Ok(None) };
        bits |= item.bit;
    }
    Ok(Some(bits))
}

pub fn help() -> String {
    let rows = ITEMS.iter().map(|i| format!("{:<15} {}\n", i.name, i.help));
    std::iter::once("Log items (comma separated):\n".to_string()).chain(rows).collect()
}

static BITS: AtomicU32 = AtomicU32::new(0);
static FILE: OnceLock<File> = OnceLock::new();

/// Opens the log. `%d` in the name stands for the process's number.
pub fn start(bits: u32, file: Option<&std::ffi::OsStr>) -> Result<()> {
    if let Some(name) = file {
        let pid = std::process::id().to_string();
        let bytes = name.as_bytes();
        let name = match bytes.windows(2).position(|w| w == b"%d") {
            Some(at) => [&bytes[..at], pid.as_bytes(), &bytes[at + 2..]].concat(),
            None => bytes.to_vec(),
        };
        let path = std::path::PathBuf::from(std::ffi::OsStr::from_bytes(&name));
        let failed = |e: std::io::Error| {
            let why = e.raw_os_error().map_or_else(|| e.to_string(), |n| crate::errno::Errno(n).text());
            spec::Error::new(format!("Error opening logfile {}: {why}", path.display()))
        };
        let f = File::create(&path).map_err(failed)?;
        let _ = FILE.set(f);
    }
    BITS.store(bits, Ordering::Relaxed);
    Ok(())
}

pub fn on(bit: u32) -> bool {
    BITS.load(Ordering::Relaxed) & bit != 0
}

/// Writes to the log, in one piece.
pub fn write(text: &str) {
    // A log that cannot be written is not the guest's trouble.
    let _ = match FILE.get() {
        Some(mut f) => f.write_all(text.as_bytes()),
        None => std::io::stderr().write_all(text.as_bytes()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_words_ask_for_help() {
        assert_eq!(parse_items("strace,unimp").unwrap(), Some(STRACE | UNIMP));
        assert_eq!(parse_items("help").unwrap(), None);
        assert_eq!(parse_items("strace,foo").unwrap(), None);
        assert_eq!(parse_items("in_asm,out_asm,nochain").unwrap(), Some(IN_ASM | OUT_ASM | NOCHAIN));
        assert!(help().contains("strace          log every"));
    }
}
