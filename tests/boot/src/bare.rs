//! Bare-metal programs that show what they find, as lines of a letter and a number; the installed QEMU must print the same.

use crate::console::Setting;
use crate::check;
use libtest_mimic::Failed;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const REFERENCE: &str = "/usr/bin/qemu-system-arm";
/// A program may take this long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one program and its files are called; they go away with it.
struct Program {
    base: PathBuf,
}

impl Program {
    /// Assembles `guest/NAME.S` for an address.
    fn new(name: &str, address: u32) -> Result<Program, Failed> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest").join(name).with_extension("S");
        let base = std::env::temp_dir().join(format!("boot-{}-{name}", std::process::id()));
        let program = Program { base };
        let place = format!("-Wl,-N,--build-id=none,-Ttext={address:#x}");
        let mut compiler = Command::new("arm-linux-gnueabihf-gcc");
        compiler.args(["-nostdlib", "-static", "-Wa,--no-warn", "-Wl,--no-warn-rwx-segments", &place]).arg(source);
        run(compiler.arg("-o").arg(program.file("elf")))?;
        Ok(program)
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.base.with_extension(extension)
    }

    /// As firmware: the bytes alone.
    fn firmware(&self) -> Result<PathBuf, Failed> {
        let mut copy = Command::new("arm-linux-gnueabihf-objcopy");
        run(copy.args(["-O", "binary"]).arg(self.file("elf")).arg(self.file("bin")))?;
        Ok(self.file("bin"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        for extension in ["elf", "bin"] {
            let _ = std::fs::remove_file(self.file(extension));
        }
    }
}

fn run(command: &mut Command) -> Result<(), Failed> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    check(status.success(), || format!("{command:?} ended with {status}"))
}

/// What an emulator prints until the program switches its machine off.
fn printed(emulator: &Path, options: &[&str], file: &Path) -> Result<String, Failed> {
    let mut command = Command::new(emulator);
    command.args(["-display", "none", "-monitor", "none", "-serial", "stdio"]).args(options).arg(file);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|e| format!("{command:?}: {e}"))?;
    let until = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    // A program that does not end shows how far it came.
    let _ = child.kill();
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    check(output.status.success(), || format!("{command:?} ended with {}:\n{text}", output.status))?;
    Ok(text)
}

fn same(s: &Setting, options: &[&str], file: &Path, lines: usize) -> Result<(), Failed> {
    let [ours, theirs] = [s.emulator.as_path(), Path::new(REFERENCE)].map(|emulator| printed(emulator, options, file));
    let (ours, theirs) = (ours?, theirs?);
    check(ours.lines().count() >= lines, || format!("{options:?} prints too little:\n{ours}"))?;
    let different = ours.lines().zip(theirs.lines()).position(|(a, b)| a != b);
    check(ours == theirs, || format!("{options:?}: other lines from {different:?} on; ours:\n{ours}the reference's:\n{theirs}"))
}

/// The same for programs that hang in QEMU 7.2, Debian 12's own: beside a reference older than 10 ours runs alone.
fn same_as_new(s: &Setting, options: &[&str], file: &Path, lines: usize) -> Result<(), Failed> {
    let output = Command::new(REFERENCE).arg("--version").output().map_err(|e| format!("{REFERENCE}: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.strip_prefix("QEMU emulator version ").and_then(|rest| rest.split('.').next());
    let major: u32 = number.and_then(|n| n.parse().ok()).ok_or_else(|| format!("{REFERENCE} --version gives '{text}'"))?;
    if major >= 10 {
        return same(s, options, file, lines);
    }
    let ours = printed(&s.emulator, options, file)?;
    check(ours.lines().count() >= lines, || format!("{options:?} prints too little:\n{ours}"))
}

/// Second-stage translation, traps, virtual interrupts.
pub fn hypervisor(s: &Setting) -> Result<(), Failed> {
    let program = Program::new("hypervisor", 0x4001_0000)?;
    for cpu in ["cortex-a7", "cortex-a15", "max"] {
        same_as_new(s, &["-M", "virt,virtualization=on", "-cpu", cpu, "-kernel"], &program.file("elf"), 100)?;
    }
    Ok(())
}

/// Debug events and event counters that a hypervisor keeps for itself.
pub fn debug(s: &Setting) -> Result<(), Failed> {
    let program = Program::new("debug", 0x4001_0000)?;
    for cpu in ["cortex-a7", "cortex-a15", "max"] {
        same_as_new(s, &["-M", "virt,virtualization=on", "-cpu", cpu, "-kernel"], &program.file("elf"), 7)?;
    }
    Ok(())
}

/// Interrupts that are let through for a moment.
pub fn masks(s: &Setting) -> Result<(), Failed> {
    let program = Program::new("masks", 0x4001_0000)?;
    for cpu in ["cortex-a7", "cortex-a15", "max"] {
        same(s, &["-M", "virt", "-cpu", cpu, "-kernel"], &program.file("elf"), 8)?;
    }
    Ok(())
}

/// Secure firmware that switches worlds, and takes FIQs in Monitor mode.
pub fn worlds(s: &Setting) -> Result<(), Failed> {
    let program = Program::new("worlds", 0)?;
    let file = program.firmware()?;
    for (machine, cpu) in [("virt,secure=on", "cortex-a15"), ("virt,secure=on,virtualization=on", "cortex-a7"), ("virt,secure=on", "max")] {
        same(s, &["-M", machine, "-cpu", cpu, "-bios"], &file, 40)?;
    }
    Ok(())
}
