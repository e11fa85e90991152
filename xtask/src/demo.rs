//! `cargo xtask demo`: the main jobs on real input: programs of a Debian ARM user land on this machine, then a whole machine
//! with Debian's kernel, to a shell in the terminal (where there is no terminal, a few commands in that shell).

use crate::process::{self, shown};
use crate::{guests, project, test};
use spec::error::{Context, Error, Result};
use std::io::IsTerminal;
use std::path::Path;
use std::process::Command;

/// (program of the guest root, arguments)
const SHOWN: &[(&str, &[&str])] = &[
    ("usr/bin/hello", &[]),
    ("usr/bin/busybox", &["uname", "-sm"]),
    ("usr/bin/bash", &["-c", "seq 1 100000 | sha256sum | cut -c1-16; echo \"bash $BASH_VERSION on $(uname -m)\""]),
    ("usr/bin/python3", &["-c", "import platform, math; print('Python', platform.python_version(), platform.machine(), math.factorial(25))"]),
];

const IMAGES: &str = "usr/lib/debian-installer/images/12/armhf/text/debian-installer/armhf";
/// What the guest's shell does when nobody can type.
const SCRIPT: &str = "uname -a; ls /; mount -t proc proc /proc; ps | head -4; cat /proc/interrupts | head -4; poweroff -f";

pub fn command(arguments: &[String]) -> Result<()> {
    if !arguments.is_empty() {
        return Err(Error::new("demo takes no arguments"));
    }
    test::build_release()?;
    guests::ensure_named(&["core", "installer"])?;
    let emulator = project::emulator();
    let root = guests::armhf_root();
    let path = ["usr/bin", "usr/sbin"].map(|d| root.join(d).display().to_string()).join(":");
    for (program, words) in SHOWN {
        let mut guest = Command::new(&emulator);
        guest.arg("-L").arg(&root).arg(root.join(program)).args(*words).env("PATH", &path).env("LC_ALL", "C.UTF-8");
        println!("\n$ {}", shown(&guest));
        process::show(&mut guest).context(|| "the demonstration failed".into())?;
    }
    machine(&root)
}

/// Boots the kernel of Debian's installer.
fn machine(root: &Path) -> Result<()> {
    let images = root.join(IMAGES);
    let typing = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let append = if typing {
        println!("\nA machine boots; its shell is yours. `poweroff -f` or Ctrl-A x ends it.");
        "console=ttyAMA0,115200 rdinit=/bin/sh".to_string()
    } else {
        format!("console=ttyAMA0,115200 quiet rdinit=/bin/busybox -- sh -c \"{SCRIPT}\"")
    };
    let mut machine = Command::new(project::system_emulator());
    machine.args(["-M", "virt", "-cpu", "cortex-a15", "-m", "512M", "-nographic"]);
    machine.arg("-kernel").arg(images.join("vmlinuz")).arg("-initrd").arg(images.join("initrd.gz"));
    machine.arg("-append").arg(append);
    println!("\n$ {}", shown(&machine));
    process::show(&mut machine).context(|| "the demonstration failed".into())
}
