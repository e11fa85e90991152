//! `-d` items and where their output goes (`-D`).

use spec::{Error, Result};
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
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
    FPU         12 "fpu" "include FPU registers in the 'cpu' logging";
    CPU_RESET   13 "cpu_reset" "show CPU state before CPU resets";
    TID         14 "tid" "open a separate log file per thread; filename must contain '%d'";
    MMU         15 "mmu" "log MMU-related activities (none here)";
    PCALL       16 "pcall" "x86 only (none here)";
    VPU         17 "vpu" "include VPU registers in the 'cpu' logging (no such registers here)";
    INVALID_MEM 18 "invalid_mem" "log invalid memory accesses of devices (none here)";
}

/// The bits of a list such as `strace,unimp`; none for `help` and for words that are no item.
pub fn parse_items(list: &str) -> Result<Option<u32>> {
    let mut bits = 0;
    for word in list.split(',') {
        if word == "all" {
            // Files for each thread must be asked for.
            bits |= ITEMS.iter().fold(0, |m, i| m | i.bit) & !TID;
            continue;
        }
        if word.starts_with("trace:") {
            return Err(Error::new(format!("qemu-arm: -d {word}: not supported yet")));
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
/// With `tid`: the name of the files, and whether what is in them stays.
static TEMPLATE: OnceLock<(OsString, bool)> = OnceLock::new();

thread_local! {
    /// The thread's number and file. A child of a fork is another thread.
    static OWN: RefCell<Option<(i32, File)>> = const { RefCell::new(None) };
}

/// The name with a number in the place of its `%d`.
fn named(template: &OsStr, number: i32) -> PathBuf {
    let bytes = template.as_bytes();
    let at = bytes.windows(2).position(|w| w == b"%d");
    let name = at.map(|at| [&bytes[..at], number.to_string().as_bytes(), &bytes[at + 2..]].concat());
    PathBuf::from(OsStr::from_bytes(name.as_deref().unwrap_or(bytes)))
}

/// `%d` may be in a name, once, and nothing else with a `%`.
fn is_template(name: &OsStr) -> bool {
    let percents: Vec<usize> = name.as_bytes().iter().enumerate().filter(|(_, b)| **b == b'%').map(|(at, _)| at).collect();
    match percents[..] {
        [] => true,
        [at] => name.as_bytes().get(at + 1) == Some(&b'd'),
        _ => false,
    }
}

/// A file whose writers, this program, its children, and what it executes in its own place, do not overwrite one another.
fn open(path: &Path, append: bool) -> std::io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    if !append && file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Opens the log; with `append`, what is in it stays. `%d` in the name stands for the process's number, or with `tid` the
/// thread's.
pub fn start(bits: u32, file: Option<&OsStr>, append: bool) -> Result<()> {
    if let Some(name) = file {
        if !is_template(name) {
            return Err(Error::new(format!("Bad logfile template: {}", name.display())));
        }
        if bits & TID != 0 {
            let _ = TEMPLATE.set((name.into(), append));
        } else {
            let path = named(name, std::process::id() as i32);
            let failed = |e: std::io::Error| {
                let why = e.raw_os_error().map_or_else(|| e.to_string(), |n| crate::errno::Errno(n).text());
                Error::new(format!("Error opening logfile {}: {why}", path.display()))
            };
            let _ = FILE.set(open(&path, append).map_err(failed)?);
        }
    }
    BITS.store(bits, Ordering::Relaxed);
    Ok(())
}

/// Writes to the file of the calling thread.
fn write_own(template: &OsStr, append: bool, text: &str) -> std::io::Result<()> {
    OWN.with_borrow_mut(|own| {
        let tid = crate::task::gettid();
        if own.as_ref().is_none_or(|(of, _)| *of != tid) {
            *own = Some((tid, open(&named(template, tid), append)?));
        }
        own.as_mut().map_or(Ok(()), |(_, file)| file.write_all(text.as_bytes()))
    })
}

pub fn on(bit: u32) -> bool {
    BITS.load(Ordering::Relaxed) & bit != 0
}

/// Writes to the log, in one piece.
pub fn write(text: &str) {
    // A log that cannot be written is not the guest's trouble.
    if let Some((template, append)) = TEMPLATE.get() {
        let _ = write_own(template, *append, text);
        return;
    }
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
        assert_eq!(parse_items("all").unwrap().unwrap() & TID, 0);
    }

    #[test]
    fn names_of_files() {
        for (name, good) in [("log", true), ("a%db", true), ("%d", true), ("a%s", false), ("%d%d", false), ("100%", false)] {
            assert_eq!(is_template(OsStr::new(name)), good, "{name}");
        }
        assert_eq!(named(OsStr::new("a%db"), 7), PathBuf::from("a7b"));
        assert_eq!(named(OsStr::new("log"), 7), PathBuf::from("log"));
    }
}
