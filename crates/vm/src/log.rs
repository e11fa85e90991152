//! `-d` items, and where the output goes (`-D`). What devices and back ends tell through the `log` crate comes here, too.
//!
//! Reference: the item list of `qemu-system-arm -d help`, version 10.0.2.

use spec::{Context, Error, Result};
use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Mutex;

/// One item: bit, name, text of `-d help`, and whether something here writes it.
struct Item {
    bit: u32,
    name: &'static str,
    help: &'static str,
    ready: bool,
}

macro_rules! items {
    ($($constant:ident $bit:literal $name:literal $ready:literal $help:literal;)*) => {
        $(pub const $constant: u32 = 1 << $bit;)*
        static ITEMS: &[Item] = &[$(Item { bit: $constant, name: $name, help: $help, ready: $ready },)*];
    };
}

items! {
    OUT_ASM      0 "out_asm" false "show generated host assembly code for each compiled TB";
    IN_ASM       1 "in_asm" false "show target assembly code for each compiled TB";
    OP           2 "op" false "show micro ops for each compiled TB";
    INT          4 "int" false "show interrupts/exceptions in short format";
    EXEC         5 "exec" false "show trace before each executed TB (lots of logs)";
    CPU          6 "cpu" false "show CPU registers before entering a TB (lots of logs)";
    FPU          7 "fpu" false "include FPU registers in the 'cpu' logging";
    MMU          8 "mmu" false "log MMU-related activities";
    CPU_RESET    9 "cpu_reset" false "show CPU state before CPU resets";
    UNIMP       10 "unimp" true "log unimplemented functionality";
    GUEST_ERRORS 11 "guest_errors" true "log when the guest OS does something invalid (eg accessing a\nnon-existent register)";
    NOCHAIN     12 "nochain" false "do not chain compiled TBs so that \"exec\" and \"cpu\" show\ncomplete traces";
}

/// The bits of a list such as `int,unimp`; none for `help` and for words that are no item.
pub fn parse_items(list: &str) -> Result<Option<u32>> {
    let mut bits = 0;
    for word in list.split(',') {
        if word == "all" {
            bits |= ITEMS.iter().filter(|i| i.ready).fold(0, |m, i| m | i.bit);
            continue;
        }
        let Some(item) = ITEMS.iter().find(|i| i.name == word) else { return Ok(None) };
        if !item.ready {
            return Err(Error::new("not supported yet"));
        }
        bits |= item.bit;
    }
    Ok(Some(bits))
}

pub fn help() -> String {
    let rows = ITEMS.iter().map(|i| format!("{:<15} {}\n", i.name, i.help));
    std::iter::once("Log items (comma separated):\n".to_string()).chain(rows).collect()
}

static BITS: AtomicU32 = AtomicU32::new(0);
static FILE: Mutex<Option<File>> = Mutex::new(None);

/// Opens the log. `%d` in the name stands for the process's number.
pub fn start(bits: u32, file: Option<&str>) -> Result<()> {
    if let Some(name) = file {
        set_file(name)?;
    }
    BITS.store(bits, Ordering::Relaxed);
    // Only the first machine of a process (a test's) can install it, and one is enough.
    if ::log::set_logger(&Devices).is_ok() {
        ::log::set_max_level(::log::LevelFilter::Warn);
    }
    Ok(())
}

/// Records of devices and back ends: the guest's mistakes as `-d` says, the host's troubles always.
struct Devices;

impl Devices {
    fn item(target: &str) -> Option<u32> {
        match target {
            hw::event::GUEST_ERROR => Some(GUEST_ERRORS),
            hw::event::UNIMP => Some(UNIMP),
            _ => None,
        }
    }
}

impl ::log::Log for Devices {
    fn enabled(&self, metadata: &::log::Metadata) -> bool {
        Devices::item(metadata.target()).is_none_or(enabled)
    }

    fn log(&self, record: &::log::Record) {
        match Devices::item(record.target()) {
            Some(item) if enabled(item) => write(&format!("{}\n", record.args())),
            Some(_) => {}
            None => eprintln!("qemu-system-arm: warning: {}", record.args()),
        }
    }

    fn flush(&self) {}
}

/// Writes to another file from now on.
pub fn set_file(name: &str) -> Result<()> {
    let path = name.replacen("%d", &std::process::id().to_string(), 1);
    let file = File::create(&path).context(|| format!("Error opening logfile {path}"))?;
    *FILE.lock().unwrap_or_else(|e| e.into_inner()) = Some(file);
    Ok(())
}

pub fn set_items(bits: u32) {
    BITS.store(bits, Ordering::Relaxed);
}

pub fn enabled(item: u32) -> bool {
    BITS.load(Ordering::Relaxed) & item != 0
}

/// Appends text to the log. A full disk loses log lines, no more.
pub fn write(text: &str) {
    match &mut *FILE.lock().unwrap_or_else(|e| e.into_inner()) {
        Some(file) => drop(file.write_all(text.as_bytes())),
        None => drop(std::io::stderr().write_all(text.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_have_names() {
        assert_eq!(parse_items("unimp,guest_errors").unwrap(), Some(UNIMP | GUEST_ERRORS));
        assert_eq!(parse_items("help").unwrap(), None);
        assert_eq!(parse_items("foo").unwrap(), None);
    }
}
