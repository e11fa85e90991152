//! A machine and its serial console: waits for text, types, ends.

use libtest_mimic::Failed;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;
use trial::Console;

/// A boot may take this long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the emulator and the guests are.
#[derive(Clone)]
pub struct Setting {
    pub emulator: PathBuf,
    /// The installed QEMU.
    pub reference: PathBuf,
    guests: PathBuf,
    /// Where the builds are.
    target: PathBuf,
}

const IMAGES: &str = "armhf-root/usr/lib/debian-installer/images/12/armhf/text/debian-installer/armhf";

/// Debian's kernels for virtual machines: without and with large physical addresses.
#[derive(Clone, Copy)]
pub enum Kernel {
    Armmp,
    Lpae,
}

impl Setting {
    pub fn find() -> Result<Setting, String> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let or = |name: &str, other: PathBuf| std::env::var_os(name).map_or(other, PathBuf::from);
        let target = or("CARGO_TARGET_DIR", top.join("target"));
        let setting = Setting {
            emulator: or("RHEA_QEMU_SYSTEM_ARM", target.join("release/qemu-system-arm")),
            reference: or("RHEA_REFERENCE_SYSTEM", "/usr/bin/qemu-system-arm".into()),
            guests: or("RHEA_GUESTS", top.join("target/guests")),
            target,
        };
        for (file, how) in [
            (setting.emulator.clone(), "cargo build --release -p system"),
            (setting.reference.clone(), "apt-get install qemu-system-arm"),
            (setting.guests.join(IMAGES).join("vmlinuz"), "cargo xtask guests installer"),
            (setting.firmware("u-boot/qemu_arm/u-boot.bin"), "cargo xtask guests firmware"),
            (setting.kernel(Kernel::Lpae).0, "cargo xtask guests kernels"),
            (setting.disk(), "cargo xtask guests disk"),
        ] {
            if !file.is_file() {
                return Err(format!("'{}' is missing: `{how}` makes it", file.display()));
            }
        }
        Ok(setting)
    }

    /// A kernel, and the initrd with BusyBox and the modules for disks.
    pub fn kernel(&self, kernel: Kernel) -> (PathBuf, PathBuf) {
        let flavour = match kernel {
            Kernel::Armmp => "armmp",
            Kernel::Lpae => "armmp-lpae",
        };
        let file = |kind: &str| self.guests.join(format!("machine/kernels/{kind}-{flavour}"));
        (file("vmlinuz"), file("initrd"))
    }

    /// The installer's kernel and initrd.
    pub fn images(&self) -> PathBuf {
        self.guests.join(IMAGES)
    }

    /// Our disk tool: what the disk tests have just built.
    pub fn qemu_img(&self) -> Result<PathBuf, Failed> {
        let tool = std::env::var_os("RHEA_QEMU_IMG").map_or(self.target.join("debug/qemu-img"), PathBuf::from);
        if tool.is_file() { Ok(tool) } else { Err(format!("'{}' is missing: `cargo build -p img` makes it", tool.display()).into()) }
    }

    /// The image with a Debian root. Nobody may write to it.
    pub fn disk(&self) -> PathBuf {
        self.guests.join("machine/disk.img")
    }

    /// Debian's hypervisor.
    pub fn xen(&self) -> PathBuf {
        self.guests.join("armhf-root/boot/xen-4.17-armhf")
    }

    /// A file of a firmware package, below `usr/lib` or `usr/share`.
    pub fn firmware(&self, name: &str) -> PathBuf {
        let root = self.guests.join("armhf-root/usr");
        let file = root.join("lib").join(name);
        if file.is_file() { file } else { root.join("share").join(name) }
    }

    /// A machine with a kernel of Debian and our initrd, which boots from `root=` or gives a shell.
    pub fn debian(&self, emulator: &Path, kernel: Kernel, options: &[&str], append: &str) -> Result<Machine, Failed> {
        let (image, initrd) = self.kernel(kernel);
        let mut command = Command::new(emulator);
        command.args(["-cpu", "cortex-a15", "-nographic", "-m", "1G"]).args(options);
        command.arg("-kernel").arg(image).arg("-initrd").arg(initrd);
        command.arg("-append").arg(format!("console=ttyAMA0 {append}"));
        Machine::start(command)
    }

    /// The installer's kernel with its initrd, whose BusyBox is the first program unless `append` says otherwise.
    pub fn installer(&self, options: &[&str], append: &str) -> Result<Machine, Failed> {
        let mut command = Command::new(&self.emulator);
        command.args(["-nographic", "-m", "512M"]).args(options);
        let images = self.images();
        command.arg("-kernel").arg(images.join("vmlinuz")).arg("-initrd").arg(images.join("initrd.gz"));
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

pub struct Machine(Console);

impl Machine {
    pub fn start(command: Command) -> Result<Machine, Failed> {
        Ok(Machine(Console::start(command, PATIENCE)?))
    }

    /// Waits until the console prints `text` after what was waited for before; gives what came in between.
    pub fn wait_for(&mut self, text: &str) -> Result<String, Failed> {
        Ok(self.0.wait_for(text)?)
    }

    pub fn send(&mut self, text: &str) -> Result<(), Failed> {
        Ok(self.0.send(text)?)
    }

    /// Runs a command in the guest's shell; gives what it printed. It must succeed.
    pub fn run(&mut self, command: &str) -> Result<String, Failed> {
        self.run_while(command, || 0)
    }

    /// The same for as long as it takes, if `moved` (how far it is, as the host sees it) changes now and then.
    pub fn run_while(&mut self, command: &str, moved: impl Fn() -> u64) -> Result<String, Failed> {
        let ran = self.0.run_while(command, moved)?;
        if ran.status != "0" {
            return Err(format!("'{command}' failed ({}):\n{}", ran.status, ran.output).into());
        }
        Ok(ran.output)
    }

    /// Kills the emulator with no warning, as a power cut does.
    pub fn cut(mut self) -> Result<(), Failed> {
        Ok(self.0.kill()?)
    }

    /// Waits for the end of the emulator.
    pub fn end(self) -> Result<ExitStatus, Failed> {
        Ok(self.0.end()?)
    }

    /// Switches the machine off from inside; the emulator must end with status 0.
    pub fn power_off(self) -> Result<(), Failed> {
        self.power_off_with("poweroff -f\n", "Power down")
    }

    /// The same with other words, and what the console prints then.
    pub fn power_off_with(mut self, words: &str, answer: &str) -> Result<(), Failed> {
        self.send(words)?;
        self.wait_for(answer)?;
        let status = self.end()?;
        if status.success() { Ok(()) } else { Err(format!("the emulator ended with {status}").into()) }
    }
}
