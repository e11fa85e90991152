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
    OUT_ASM      0 "out_asm" true "show generated host assembly code for each compiled TB";
    IN_ASM       1 "in_asm" true "show target assembly code for each compiled TB";
    OP           2 "op" true "show micro ops for each compiled TB";
    OP_OPT       3 "op_opt" true "show micro ops after optimization";
    INT          4 "int" true "show interrupts/exceptions in short format";
    EXEC         5 "exec" true "show trace before each executed TB (lots of logs)";
    CPU          6 "cpu" true "show CPU registers before entering a TB (lots of logs)";
    FPU          7 "fpu" true "include FPU registers in the 'cpu' logging";
    MMU          8 "mmu" true "log MMU-related activities";
    CPU_RESET    9 "cpu_reset" true "show CPU state before CPU resets";
    UNIMP       10 "unimp" true "log unimplemented functionality";
    GUEST_ERRORS 11 "guest_errors" true "log when the guest OS does something invalid (eg accessing a\nnon-existent register)";
    PAGE        13 "page" true "dump pages at beginning of user mode emulation";
    NOCHAIN     12 "nochain" true "do not chain compiled TBs so that \"exec\" and \"cpu\" show\ncomplete traces";
    PLUGIN      14 "plugin" false "output from TCG plugins";
    STRACE      15 "strace" false "log every user-mode syscall, its input, and its result";
    TID         16 "tid" false "open a separate log file per thread; filename must contain '%d'";
    INVALID_MEM 17 "invalid_mem" false "log invalid memory accesses";
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
            return Err(Error::new(format!("item '{word}' is not supported yet")));
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
    // Only the first machine of a process (a test's) can install it, and one is enough.
    let _ = ::log::set_logger(&Devices);
    set_items(bits);
    Ok(())
}

/// Items that processors tell through the `log` crate, by the records' targets.
const PROCESSORS: [(&str, u32); 2] = [("int", INT), ("mmu", MMU)];

/// Records of devices and back ends: the guest's mistakes as `-d` says, the host's troubles always.
struct Devices;

impl Devices {
    fn item(target: &str) -> Option<u32> {
        match target {
            hw::event::GUEST_ERROR => Some(GUEST_ERRORS),
            hw::event::UNIMP => Some(UNIMP),
            other => PROCESSORS.iter().find(|(name, _)| *name == other).map(|(_, bit)| *bit),
        }
    }
}

impl ::log::Log for Devices {
    fn enabled(&self, metadata: &::log::Metadata) -> bool {
        Devices::item(metadata.target()).map_or(metadata.level() <= ::log::Level::Warn, enabled)
    }

    fn log(&self, record: &::log::Record) {
        match Devices::item(record.target()) {
            Some(item) if enabled(item) => write(&format!("{}\n", record.args())),
            Some(_) => {}
            None if record.level() > ::log::Level::Warn => {}
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

type Listener = Box<dyn Fn() + Send + Sync>;
static LISTENERS: Mutex<Vec<Listener>> = Mutex::new(Vec::new());

/// Calls `f` whenever the items have changed.
pub fn on_change(f: impl Fn() + Send + Sync + 'static) {
    LISTENERS.lock().unwrap_or_else(|e| e.into_inner()).push(Box::new(f));
}

pub fn set_items(bits: u32) {
    BITS.store(bits, Ordering::Relaxed);
    // Records of processors cost nothing while nobody wants them.
    let processors = PROCESSORS.iter().any(|(_, bit)| bits & bit != 0);
    ::log::set_max_level(if processors { ::log::LevelFilter::Trace } else { ::log::LevelFilter::Warn });
    LISTENERS.lock().unwrap_or_else(|e| e.into_inner()).iter().for_each(|f| f());
}

/// What the translator's traces are to contain.
pub fn traced() -> jit::trace::Items {
    jit::trace::Items {
        in_asm: enabled(IN_ASM),
        op: enabled(OP),
        op_opt: enabled(OP_OPT),
        out_asm: enabled(OUT_ASM),
        exec: enabled(EXEC),
        cpu: enabled(CPU),
        fpu: enabled(FPU),
        nochain: enabled(NOCHAIN),
    }
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
        assert!(parse_items("unimp,plugin").is_err());
        assert_eq!(parse_items("all").unwrap().map(|bits| bits & (INT | PLUGIN)), Some(INT));
    }
}
