//! Debian on a virtio disk: boots to its login prompt, works, survives reboots and power cuts.

use crate::console::{Kernel, Machine, Setting};
use crate::{Story, check, contains, core, full};
use libtest_mimic::Failed;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const STORIES: &[Story] = &[
    core("debian on a disk, without large addresses", on_a_raw_disk),
    core("debian on an overlay, with large addresses, and a reboot", on_an_overlay),
    core("a power cut while the disk is written", power_cut),
    full("debian on four processors", four_processors),
];

const HELLO: &str = "#include <stdio.h>\\n#include <math.h>\\nint main(void) { printf(\"%.6f from C\\\\n\", sqrt(2.0)); return 0; }\\n";

/// Boots to the login prompt and logs in.
fn log_in(m: &mut Machine) -> Result<(), Failed> {
    m.wait_for("rhea login: ")?;
    m.send("root\n")?;
    m.wait_for("# ")?;
    // Messages of the kernel would come in between.
    m.run("dmesg -n 1")?;
    Ok(())
}

/// A file of the story that goes when the story ends.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        Scratch(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("boot-{}-{name}", std::process::id())))
    }

    pub fn drive(&self, format: &str) -> String {
        format!("file={},if=virtio,format={format}", self.0.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs a program of the host; gives its status and output.
pub fn host(command: &mut Command) -> Result<(Option<i32>, String), Failed> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let done = command.env("PATH", path).output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    Ok((done.status.code(), text))
}

fn on_a_raw_disk(s: &Setting) -> Result<(), Failed> {
    let drive = format!("file={},if=virtio,format=raw,snapshot=on", s.disk().display());
    let mut m = s.debian(&s.emulator, Kernel::Armmp, &["-M", "virt", "-drive", &drive], "root=/dev/vda rw")?;
    log_in(&mut m)?;
    contains(&m.run("uname -a")?, "armmp #1 SMP Debian")?;
    contains(&m.run("systemctl is-system-running --wait")?, "running")?;
    contains(&m.run("apt-get --version")?, "apt 2.6")?;
    m.run("apt-get check")?;
    m.run(&format!("printf %b '{HELLO}' >hello.c"))?;
    m.run("gcc -O2 -Wall -o hello hello.c -lm")?;
    contains(&m.run("./hello")?, "1.414214 from C")?;
    contains(&m.run("python3 -c 'print(sum(range(10**5)))'")?, "4999950000")?;
    let log = m.run("dmesg")?;
    for bad in ["Oops", "BUG:", "WARNING:", "Unhandled fault", "I/O error", "EXT4-fs error"] {
        check(!log.contains(bad), || format!("'{bad}' in the kernel's log:\n{log}"))?;
    }
    m.power_off_with("poweroff\n", "reboot: Power down")
}

fn on_an_overlay(s: &Setting) -> Result<(), Failed> {
    let overlay = Scratch::new("overlay.qcow2");
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(s.disk()).arg(&overlay.0);
    let (status, text) = host(&mut create)?;
    check(status == Some(0), || text)?;
    let before = std::fs::metadata(s.disk())?.modified()?;
    let mut m = s.debian(&s.emulator, Kernel::Lpae, &["-M", "virt", "-drive", &overlay.drive("qcow2")], "root=/dev/vda rw")?;
    log_in(&mut m)?;
    contains(&m.run("uname -r")?, "armmp-lpae")?;
    m.run("echo kept over a reboot >kept")?;
    m.send("reboot\n")?;
    m.wait_for("reboot: Restarting system")?;
    log_in(&mut m)?;
    contains(&m.run("cat kept")?, "kept over a reboot")?;
    m.power_off_with("poweroff\n", "reboot: Power down")?;
    check(std::fs::metadata(s.disk())?.modified()? == before, || "the image below the overlay was written to".into())?;
    let (status, text) = host(Command::new("qemu-img").arg("check").arg(&overlay.0))?;
    check(status == Some(0), || text)
}

/// Writes files, each with its sum and a sync, until the power goes.
const WRITE: &str = "n=0; while :; do n=$((n+1)); dd if=/dev/urandom of=/mnt/f$n bs=4k count=97 2>/dev/null; md5sum /mnt/f$n >>/mnt/sums; \
                     cp -r /lib /mnt/d$n; sync; echo synced $n; rm -r /mnt/d$n; done";
/// Files that are safe when the power goes.
const SAFE: u32 = 8;

fn power_cut(s: &Setting) -> Result<(), Failed> {
    let disk = Scratch::new("cut.img");
    let (status, text) = host(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(s.disk()).arg(&disk.0))?;
    check(status == Some(0), || text)?;
    let options = ["-M", "virt", "-drive", &disk.drive("raw")];
    let mut m = s.debian(&s.emulator, Kernel::Lpae, &options, "quiet")?;
    m.wait_for("~ # ")?;
    m.run("mount -t ext4 /dev/vda /mnt")?;
    m.send(&format!("{WRITE}\n"))?;
    for n in 1..=SAFE {
        m.wait_for(&format!("synced {n}"))?;
    }
    m.cut()?;
    let mut m = s.debian(&s.emulator, Kernel::Lpae, &options, "")?;
    m.wait_for("~ # ")?;
    m.run("mount -t ext4 /dev/vda /mnt")?;
    contains(&m.run("dmesg | grep EXT4")?, "recovery complete")?;
    let sums = m.run(&format!("head -n {SAFE} /mnt/sums | md5sum -c"))?;
    let good = sums.matches(": OK").count();
    check(good == SAFE as usize, || format!("only {good} files are as they were written:\n{sums}"))?;
    m.run("umount /mnt")?;
    m.power_off()?;
    let (status, text) = host(Command::new("e2fsck").arg("-fn").arg(&disk.0))?;
    check(status == Some(0), || format!("e2fsck: {status:?}\n{text}"))
}

fn four_processors(s: &Setting) -> Result<(), Failed> {
    let drive = format!("file={},if=virtio,format=raw,snapshot=on", s.disk().display());
    let options = ["-M", "virt", "-smp", "4", "-drive", &drive];
    let mut m = s.debian(&s.emulator, Kernel::Lpae, &options, "root=/dev/vda rw")?;
    log_in(&mut m)?;
    contains(&m.run("nproc")?, "4")?;
    m.run(&format!("printf %b '{HELLO}' >hello.c"))?;
    m.run("for i in 1 2 3 4; do gcc -O2 -o hello$i hello.c -lm & done; wait; for i in 1 2 3 4; do ./hello$i || exit; done")?;
    m.power_off_with("poweroff\n", "reboot: Power down")
}
