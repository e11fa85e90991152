//! `cargo xtask demo`: the main job on real input, a Debian ARM user land on this machine.

use crate::process::{self, shown};
use crate::{guests, project, test};
use spec::error::{Context, Error, Result};
use std::process::Command;

/// (program of the guest root, arguments)
const SHOWN: &[(&str, &[&str])] = &[
    ("usr/bin/hello", &[]),
    ("usr/bin/busybox", &["uname", "-sm"]),
    ("usr/bin/bash", &["-c", "seq 1 100000 | sha256sum | cut -c1-16; echo \"bash $BASH_VERSION on $(uname -m)\""]),
    ("usr/bin/python3", &["-c", "import platform, math; print('Python', platform.python_version(), platform.machine(), math.factorial(25))"]),
];

pub fn command(arguments: &[String]) -> Result<()> {
    if !arguments.is_empty() {
        return Err(Error::new("demo takes no arguments"));
    }
    test::build_release()?;
    guests::ensure(false)?;
    let emulator = project::emulator();
    let root = guests::armhf_root();
    let path = ["usr/bin", "usr/sbin"].map(|d| root.join(d).display().to_string()).join(":");
    for (program, words) in SHOWN {
        let mut guest = Command::new(&emulator);
        guest.arg("-L").arg(&root).arg(root.join(program)).args(*words).env("PATH", &path).env("LC_ALL", "C.UTF-8");
        println!("\n$ {}", shown(&guest));
        process::show(&mut guest).context(|| "the demonstration failed".into())?;
    }
    Ok(())
}
