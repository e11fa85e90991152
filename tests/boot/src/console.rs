//! A machine and its serial console: waits for text, types, ends.

use libtest_mimic::Failed;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A boot may take this long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the emulator and the guests are.
#[derive(Clone)]
pub struct Setting {
    pub emulator: PathBuf,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

const IMAGES: &str = "armhf-root/usr/lib/debian-installer/images/12/armhf/text/debian-installer/armhf";

impl Setting {
    pub fn find() -> Result<Setting, String> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(target, PathBuf::from);
        let or = |name: &str, other: PathBuf| std::env::var_os(name).map_or(other, PathBuf::from);
        let emulator = or("RHEA_QEMU_SYSTEM_ARM", target.join("release/qemu-system-arm"));
        let images = or("RHEA_GUESTS", target.join("guests")).join(IMAGES);
        let setting = Setting { emulator, kernel: images.join("vmlinuz"), initrd: images.join("initrd.gz") };
        for (file, how) in [
            (&setting.emulator, "cargo build --release -p system"),
            (&setting.kernel, "cargo xtask guests installer"),
            (&setting.initrd, "cargo xtask guests installer"),
        ] {
            if !file.is_file() {
                return Err(format!("'{}' is missing: `{how}` makes it", file.display()));
            }
        }
        Ok(setting)
    }

    /// The installer's kernel with its initrd, whose BusyBox is the first program unless `append` says otherwise.
    pub fn installer(&self, options: &[&str], append: &str) -> Result<Machine, Failed> {
        let mut command = Command::new(&self.emulator);
        command.args(["-nographic", "-m", "512M"]).args(options);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        command.arg("-append").arg(format!("console=ttyAMA0 {append}"));
        Machine::start(command)
    }

    pub fn shell(&self, options: &[&str]) -> Result<Machine, Failed> {
        let mut m = self.installer(options, "rdinit=/bin/sh")?;
        m.wait_for("~ # ")?;
        m.run("mount -t proc proc /proc")?;
        Ok(m)
    }
}

pub struct Machine {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    /// Everything that was printed, and how much of it has been waited for.
    seen: Vec<u8>,
    passed: usize,
    commands: u32,
}

impl Machine {
    pub fn start(mut command: Command) -> Result<Machine, Failed> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let input = child.stdin.take();
        let mut stdout = child.stdout.take().ok_or("no output")?;
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n) = stdout.read(&mut buf) {
                if n == 0 || send.send(buf[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Machine { child, input, output, seen: Vec::new(), passed: 0, commands: 0 })
    }

    /// Waits until the console prints `text` after what was waited for before; gives what came in between.
    pub fn wait_for(&mut self, text: &str) -> Result<String, Failed> {
        let until = Instant::now() + PATIENCE;
        loop {
            let new = &self.seen[self.passed..];
            if let Some(at) = new.windows(text.len()).position(|w| w == text.as_bytes()) {
                let between = String::from_utf8_lossy(&new[..at]).into_owned();
                self.passed += at + text.len();
                return Ok(between);
            }
            match self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(why) => {
                    let why = if why == RecvTimeoutError::Timeout { "did not come in time" } else { "never came" };
                    return Err(format!("'{text}' {why}; the console's end:\n{}", self.tail()).into());
                }
            }
        }
    }

    fn tail(&self) -> String {
        String::from_utf8_lossy(&self.seen[self.seen.len().saturating_sub(3000)..]).into_owned()
    }

    pub fn send(&mut self, text: &str) -> Result<(), Failed> {
        let input = self.input.as_mut().ok_or("the console is closed")?;
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).map_err(|e| e.to_string().into())
    }

    /// Runs a command in the guest's shell; gives what it printed. It must succeed.
    pub fn run(&mut self, command: &str) -> Result<String, Failed> {
        self.commands += 1;
        // The mark is not in the command as it is echoed.
        let n = self.commands;
        self.send(&format!("{command}; echo end$?-''{n}-\n"))?;
        let printed = self.wait_for(&format!("-{n}-"))?;
        let at = printed.rfind("end").ok_or("no end mark")?;
        let (text, status) = printed.split_at(at);
        if status != "end0" {
            return Err(format!("'{command}' failed ({status}):\n{text}").into());
        }
        Ok(text.to_string())
    }

    /// Waits for the end of the emulator.
    pub fn end(mut self) -> Result<ExitStatus, Failed> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.output.recv_timeout(Duration::from_millis(200)) {
                Ok(bytes) => self.seen.extend(bytes),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().map_err(|e| e.to_string().into()),
            }
        }
        Err(format!("the emulator does not end; the console's end:\n{}", self.tail()).into())
    }

    /// Switches the machine off from inside; the emulator must end with status 0.
    pub fn power_off(mut self) -> Result<(), Failed> {
        self.send("poweroff -f\n")?;
        self.wait_for("Power down")?;
        let status = self.end()?;
        if status.success() { Ok(()) } else { Err(format!("the emulator ended with {status}").into()) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
