//! Images that go back and forth: our `qemu-img` makes one, the installed QEMU's guest runs from it and writes to it, our tools
//! and our emulator read what it wrote.

use crate::console::{Kernel, Machine, Setting};
use crate::debian::{Scratch, host};
use crate::{Story, check, core, full};
use libtest_mimic::Failed;
use std::path::Path;
use std::process::Command;

pub const STORIES: &[Story] = &[
    core("the installed QEMU's guest runs from an image of our qemu-img", back_and_forth),
    full("the same from a compressed image", back_and_forth_compressed),
];

/// A shell as the first program: the root is the disk, and there is little else to wait for.
const APPEND: &str = "quiet root=/dev/vda rw init=/bin/sh";
const WRITE: &str = "dd if=/dev/urandom of=/written bs=4k count=1500 2>/dev/null; cp -r /etc /written-dir; rm -r /written-dir/ssl";

fn back_and_forth(s: &Setting) -> Result<(), Failed> {
    story(s, &[])
}

fn back_and_forth_compressed(s: &Setting) -> Result<(), Failed> {
    story(s, &["-c"])
}

fn boot(s: &Setting, emulator: &Path, image: &Scratch) -> Result<Machine, Failed> {
    let mut m = s.debian(emulator, Kernel::Lpae, &["-M", "virt", "-nic", "none", "-drive", &image.drive("qcow2")], APPEND)?;
    m.wait_for("# ")?;
    m.run("dmesg -n 1")?;
    Ok(m)
}

/// Leaves the file system clean, and switches the machine off.
fn leave(mut m: Machine) -> Result<(), Failed> {
    m.run("sync")?;
    m.run("mount -o remount,ro /")?;
    m.power_off_with("poweroff -ff\n", "Power")
}

fn must(command: &mut Command) -> Result<String, Failed> {
    let (status, text) = host(command)?;
    check(status == Some(0), || format!("{command:?}: {status:?}\n{text}"))?;
    Ok(text)
}

fn story(s: &Setting, options: &[&str]) -> Result<(), Failed> {
    let image = Scratch::new("made.qcow2");
    let tool = s.qemu_img()?;
    let img = |words: &[&str]| {
        let mut c = Command::new(&tool);
        c.args(words);
        c
    };
    must(img(&["convert", "-f", "raw", "-O", "qcow2"]).args(options).arg(s.disk()).arg(&image.0))?;
    let mut m = boot(s, &s.reference, &image)?;
    m.run(WRITE)?;
    let sum = sum_of(&m.run("md5sum /written")?)?;
    leave(m)?;
    must(img(&["check", "-f", "qcow2"]).arg(&image.0))?;
    // What the guest wrote, read by our tool and looked at by the file system's own.
    let raw = Scratch::new("written.img");
    must(img(&["convert", "-f", "qcow2", "-O", "raw"]).arg(&image.0).arg(&raw.0))?;
    must(Command::new("e2fsck").arg("-fn").arg(&raw.0))?;
    let written = Scratch::new("written");
    must(Command::new("debugfs").arg("-R").arg(format!("dump /written {}", written.0.display())).arg(&raw.0))?;
    let there = sum_of(&must(Command::new("md5sum").arg(&written.0))?)?;
    check(there == sum, || format!("our qemu-img reads {there}, the guest wrote {sum}"))?;
    // The same image under our emulator.
    let mut m = boot(s, &s.emulator, &image)?;
    let there = sum_of(&m.run("md5sum /written")?)?;
    check(there == sum, || format!("our guest reads {there}, the other guest wrote {sum}"))?;
    m.run("rm -r /written-dir")?;
    leave(m)?;
    must(Command::new("/usr/bin/qemu-img").args(["check", "-f", "qcow2"]).arg(&image.0)).map(drop)
}

/// The first word of a line of md5sum.
fn sum_of(text: &str) -> Result<String, Failed> {
    let hex = |w: &&str| w.len() == 32 && w.bytes().all(|b| b.is_ascii_hexdigit());
    text.split_whitespace().find(hex).map(str::to_owned).ok_or_else(|| format!("no sum in: {text}").into())
}
