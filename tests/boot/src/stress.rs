//! Storms in the guest: stress-ng's own checks of its results, forks and page faults, on one and several processors.

use crate::console::{Kernel, Machine, Setting};
use crate::{Story, check, contains, core, full};
use libtest_mimic::Failed;

pub const STORIES: &[Story] = &[
    core("processes and page faults on two processors", storms),
    full("stress-ng verifies its results", stress),
    full("stress-ng on four processors", stress_on_four),
];

/// Each for some seconds, alone.
const STRESSORS: &[&str] =
    &["cpu", "vm", "fork", "switch", "futex", "mmap", "sem", "pipe", "mutex", "fp", "vecmath", "memcpy", "sigsegv", "timer", "nanosleep", "qsort", "fault"];

/// The Debian disk with a shell as its first program.
fn shell(s: &Setting, processors: &str) -> Result<Machine, Failed> {
    let drive = format!("file={},if=virtio,format=raw,snapshot=on", s.disk().display());
    let options = ["-M", "virt", "-smp", processors, "-drive", &drive];
    let mut m = s.debian(&s.emulator, Kernel::Lpae, &options, "quiet root=/dev/vda rw init=/usr/bin/bash")?;
    m.wait_for("# ")?;
    m.run("export HOME=/root; mount -t tmpfs run /run; mkdir -p /dev/shm; mount -t tmpfs shm /dev/shm; cd /tmp")?;
    Ok(m)
}

fn storms(s: &Setting) -> Result<(), Failed> {
    let mut m = shell(s, "2")?;
    m.run("stress-ng --verify --fork 2 --fork-ops 600 --vm 1 --vm-bytes 48m --vm-ops 3000 --switch 2 --switch-ops 20000 -t 120 2>&1")?;
    let forks = "for i in 1 2 3; do (j=0; while [ $j -lt 120 ]; do /bin/true || exit 1; j=$((j+1)); done; echo d''one$i) & done; wait";
    let printed = m.run(forks)?;
    for n in 1..=3 {
        contains(&printed, &format!("done{n}"))?;
    }
    finish(m)
}

fn stress(s: &Setting) -> Result<(), Failed> {
    stressors(s, "1", "1")
}

fn stress_on_four(s: &Setting) -> Result<(), Failed> {
    stressors(s, "4", "4")
}

fn stressors(s: &Setting, processors: &str, count: &str) -> Result<(), Failed> {
    let mut m = shell(s, processors)?;
    for name in STRESSORS {
        let printed = m.run(&format!("stress-ng --verify --{name} {count} -t 6 --vm-bytes 64m --mmap-bytes 64m 2>&1"))?;
        contains(&printed, "successful run completed")?;
        check(!printed.contains("fail:"), || printed.clone())?;
    }
    finish(m)
}

/// Nothing bad in the kernel's log; then off.
fn finish(mut m: Machine) -> Result<(), Failed> {
    let log = m.run("dmesg")?;
    for bad in ["Oops", "BUG:", "WARNING:", "Unhandled fault", "rcu: INFO", "soft lockup"] {
        check(!log.contains(bad), || format!("'{bad}' in the kernel's log:\n{log}"))?;
    }
    m.run("sync")?;
    m.power_off_with("echo o >/proc/sysrq-trigger\n", "reboot: Power down")
}
