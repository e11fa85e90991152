//! gdb-multiarch drives a booting kernel.

use crate::console::Setting;
use crate::{check, contains};
use libtest_mimic::Failed;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A script may take this long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the emulator waits for the debugger.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        Place(std::env::temp_dir().join(format!("boot-{}-{name}.gdb", std::process::id())))
    }

    fn option(&self) -> String {
        format!("unix:{},server=on,wait=off", self.0.display())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A debugger with a script.
struct Script {
    child: Child,
    output: PathBuf,
}

impl Script {
    fn start(place: &Path, commands: &[&str]) -> Result<Script, Failed> {
        let until = Instant::now() + PATIENCE;
        while !place.exists() {
            check(Instant::now() < until, || format!("'{}' does not come", place.display()))?;
            std::thread::sleep(Duration::from_millis(20));
        }
        let output = place.with_extension("txt");
        let file = std::fs::File::create(&output)?;
        let mut gdb = Command::new("gdb-multiarch");
        gdb.args(["-nx", "-batch", "-ex", "set confirm off", "-ex", "set arch armv7"]);
        gdb.args(["-ex".into(), format!("target remote {}", place.display())]);
        for command in commands {
            gdb.args(["-ex", command]);
        }
        let child = gdb.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file).spawn().map_err(|e| format!("gdb-multiarch: {e}"))?;
        Ok(Script { child, output })
    }

    /// Waits until it has printed a text.
    fn wait_for(&self, text: &str) -> Result<(), Failed> {
        let until = Instant::now() + PATIENCE;
        loop {
            let printed = std::fs::read_to_string(&self.output)?;
            if printed.contains(text) {
                return Ok(());
            }
            check(Instant::now() < until, || format!("the debugger does not print '{text}':\n{printed}"))?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ctrl-C.
    fn interrupt(&self) -> Result<(), Failed> {
        let done = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status()?;
        check(done.success(), || "no signal could be sent".into())
    }

    /// Everything that it has printed.
    fn finish(mut self) -> Result<String, Failed> {
        let until = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > until {
                let _ = self.child.kill();
                return Err(format!("the debugger does not end:\n{}", std::fs::read_to_string(&self.output)?).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let printed = std::fs::read_to_string(&self.output)?;
        let _ = std::fs::remove_file(&self.output);
        Ok(printed)
    }
}

fn in_order(text: &str, parts: &[&str]) -> Result<(), Failed> {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part).ok_or_else(|| format!("no '{part}' at its place in:\n{text}"))?;
        rest = &rest[at + part.len()..];
    }
    Ok(())
}

/// From before the first instruction to the kernel's system calls, then on without the debugger.
pub fn from_reset(s: &Setting) -> Result<(), Failed> {
    let place = Place::new("reset");
    let options = ["-M", "virt", "-cpu", "cortex-a15", "-S", "-gdb", &place.option()];
    let mut m = s.installer(&options, "rdinit=/bin/sh")?;
    let script = Script::start(
        &place.0,
        &[
            "monitor info status",
            "info threads",
            "printf \"start %x %x\\n\", $pc, $SCTLR",
            "stepi",
            "hbreak *0xffff0008",
            "continue",
            "monitor info status",
            // The vector: SVC mode, coming from a user's code in Thumb state.
            "printf \"vector %x %x %x\\n\", $cpsr & 0x1f, $spsr_svc & 0x3f, $SCTLR >> 13 & 1",
            "printf \"banked %d\\n\", (unsigned)$lr == (unsigned)$lr_svc && (unsigned)$sp == (unsigned)$sp_svc",
            "delete",
            "set $before = $sp",
            "stepi",
            "printf \"entry %d\\n\", $pc >= 0xc0000000 && $pc < 0xd0000000",
            // The kernel saves the user's registers on its stack.
            "set $r7_user = $r7",
            "watch -l *(int*)($sp - 72 + 28)",
            "continue",
            "delete",
            "printf \"saved %d\\n\", *(int*)($before - 72 + 28) == $r7_user",
            "printf \"word %x\\n\", *(unsigned*)0xc0008000",
            "maintenance packet Qqemu.PhyMemMode:1",
            "printf \"word %x\\n\", *(unsigned*)0x40008000",
            "maintenance packet Qqemu.PhyMemMode:0",
            "maintenance packet qqemu.sstep",
            "maintenance packet Qqemu.sstep=1",
            "stepi",
            "detach",
        ],
    )?;
    let printed = script.finish()?;
    in_order(
        &printed,
        &[
            "paused (prelaunch)",
            "CPU#0 [",
            "start 40010000 c50078",
            "0x40010004 in",
            "0xffff0008 in",
            "paused (debug)",
            "vector 13 30 1",
            "banked 1",
            "entry 1",
            "Hardware watchpoint 2: -location","New value",
            "saved 1",
            "\"0x7\"",
            "\"OK\"",
            "detached",
        ],
    )?;
    let words: Vec<&str> = printed.lines().filter(|l| l.starts_with("word ")).collect();
    check(words.len() == 2 && words[0] == words[1] && words[0] != "word 0", || printed.clone())?;
    m.wait_for("~ # ")?;
    contains(&m.run("uname -m")?, "armv7l")?;
    m.power_off()
}

/// Attached to two running processors: threads, Ctrl-C, one stepping while the other stays.
pub fn two_threads(s: &Setting) -> Result<(), Failed> {
    let place = Place::new("threads");
    let mut m = s.shell(&["-M", "virt", "-smp", "2", "-gdb", &place.option()])?;
    let script = Script::start(
        &place.0,
        &[
            "monitor info status",
            "info threads",
            "set scheduler-locking on",
            "thread 1",
            "set $one = $pc",
            "thread 2",
            "stepi",
            "stepi",
            "thread 1",
            "printf \"stayed %d\\n\", $pc == $one",
            "set scheduler-locking off",
            "break *0xffff0008",
            "printf \"going on\\n\"",
            "continue",
            "printf \"called %d\\n\", $r7 < 500",
            "delete",
            "printf \"going on again\\n\"",
            "continue",
            "monitor info cpus",
            "kill",
        ],
    )?;
    script.wait_for("going on\n")?;
    m.send("echo some''thing\n")?;
    script.wait_for("going on again\n")?;
    m.wait_for("something")?;
    script.interrupt()?;
    let printed = script.finish()?;
    in_order(
        &printed,
        &[
            "VM status: paused",
            "CPU#0 [",
            "CPU#1 [",
            "stayed 1",
            "hit Breakpoint 1, 0xffff0008",
            "called 1",
            "received signal SIGINT",
            "* CPU #0",
        ],
    )?;
    let status = m.end()?;
    check(status.success(), || format!("after the debugger's kill: {status}"))
}
