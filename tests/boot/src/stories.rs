//! The installer's kernel and initrd: processors, interrupt controllers, network, monitor, reboot.

use crate::console::{Kernel, Machine, Setting};
use crate::{Story, check, contains, core, full};
use libtest_mimic::Failed;
use std::process::Command;

pub const STORIES: &[Story] = &[
    core("a shell on virt", shell),
    core("two processors", two_processors),
    core("gicv3 on a cortex-a7, and a reboot", gic_v3_and_reboot),
    core("a virtio network card reaches the host's network", network),
    core("the monitor beside the console", monitor),
    core("a debugger from the first instruction on", crate::debugger::from_reset),
    core("a debugger of two processors", crate::debugger::two_threads),
    core("processors that share a thread", one_thread),
    core("time that counts instructions is the same in every run", counted_time),
    core("a file that is no kernel is named", no_kernel),
    core("a kernel with large addresses on two processors", lpae_on_two),
    full("a kernel with large addresses on one processor", lpae_on_one),
    full("a kernel with large addresses on four processors", lpae_on_four),
    core("a hypervisor and its guest", crate::bare::hypervisor),
    core("a hypervisor's debug events and counters", crate::bare::debug),
    core("interrupts let through for a moment", crate::bare::masks),
    core("two worlds", crate::bare::worlds),
    full("four processors", four_processors),
    full("the installer's first screen", installer),
];

fn shell(s: &Setting) -> Result<(), Failed> {
    let mut m = s.shell(&["-M", "virt", "-cpu", "cortex-a15"])?;
    contains(&m.run("uname -a")?, "armv7l GNU/Linux")?;
    contains(&m.run("ls /")?, "sbin")?;
    contains(&m.run("ps")?, "kthreadd")?;
    contains(&m.run("sleep 1; cat /proc/interrupts")?, "arch_timer")?;
    contains(&m.run("i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i+1)); done; echo forks$i")?, "forks200")?;
    m.run("mount -t devtmpfs dev /dev")?;
    contains(&m.run("dd if=/dev/zero bs=64k count=64 2>/dev/null | md5sum")?, "b5cfa9d6c8febd618f91ac2843d50a1c")?;
    let log = m.run("dmesg")?;
    for bad in ["Oops", "BUG:", "WARNING:", "Unhandled fault"] {
        check(!log.contains(bad), || format!("'{bad}' in the kernel's log:\n{log}"))?;
    }
    m.power_off()
}

fn processors(s: &Setting, count: &str) -> Result<(), Failed> {
    busy(s.shell(&["-M", "virt", "-cpu", "cortex-a15", "-smp", count])?, count)
}

/// Debian's LPAE kernel and our initial RAM disk.
fn lpae(s: &Setting, count: &str) -> Result<(), Failed> {
    let mut m = s.debian(&s.emulator, Kernel::Lpae, &["-M", "virt", "-smp", count], "quiet")?;
    m.wait_for("~ # ")?;
    contains(&m.run("uname -r")?, "armmp-lpae")?;
    contains(&m.run("ps")?, "kthreadd")?;
    busy(m, count)
}

fn lpae_on_one(s: &Setting) -> Result<(), Failed> {
    lpae(s, "1")
}

fn lpae_on_two(s: &Setting) -> Result<(), Failed> {
    lpae(s, "2")
}

fn lpae_on_four(s: &Setting) -> Result<(), Failed> {
    lpae(s, "4")
}

/// The guest has so many processors, and they do what a busy shell asks of them.
fn busy(mut m: Machine, count: &str) -> Result<(), Failed> {
    contains(&m.run("echo cpus=$(grep -c ^processor /proc/cpuinfo)")?, &format!("cpus={count}"))?;
    let busy = "for i in 1 2 3 4; do (j=0; while [ $j -lt 100 ]; do /bin/true; j=$((j+1)); done; echo d''one$i) & done; wait";
    let printed = m.run(busy)?;
    for n in 1..=4 {
        contains(&printed, &format!("done{n}"))?;
    }
    m.power_off()
}

fn two_processors(s: &Setting) -> Result<(), Failed> {
    processors(s, "2")
}

fn four_processors(s: &Setting) -> Result<(), Failed> {
    processors(s, "4")
}

fn one_thread(s: &Setting) -> Result<(), Failed> {
    let mut m = s.shell(&["-M", "virt", "-smp", "2", "-accel", "tcg,thread=single"])?;
    contains(&m.run("echo cpus=$(grep -c ^processor /proc/cpuinfo)")?, "cpus=2")?;
    // Both execute, and neither for ever.
    contains(&m.run("(while :; do :; done) & (while :; do :; done) & sleep 1; echo still''there; kill %1 %2")?, "stillthere")?;
    m.power_off()
}

/// Two boots print the same, the times of their messages included.
fn counted_time(s: &Setting) -> Result<(), Failed> {
    let boot = || -> Result<String, Failed> {
        let options = ["-M", "virt", "-icount", "shift=1,sleep=off", "-seed", "7", "-rtc", "clock=vm,base=2026-01-01"];
        let mut m = s.installer(&options, "rdinit=/bin/sh")?;
        let log = m.wait_for("~ # ")?;
        // Ten seconds are over at once.
        let start = std::time::Instant::now();
        m.run("sleep 10")?;
        check(start.elapsed().as_secs() < 8, || format!("sleep 10 took {:?}", start.elapsed()))?;
        m.power_off()?;
        Ok(log)
    };
    let logs = [boot()?, boot()?];
    contains(&logs[0], "] Run /bin/sh as init process")?;
    let different = logs[0].lines().zip(logs[1].lines()).find(|(a, b)| a != b);
    check(logs[0] == logs[1], || format!("the boots differ first at {different:?}"))
}

fn gic_v3_and_reboot(s: &Setting) -> Result<(), Failed> {
    let mut m = s.shell(&["-M", "virt,gic-version=3", "-cpu", "cortex-a7"])?;
    contains(&m.run("grep 'CPU part' /proc/cpuinfo")?, "0xc07")?;
    contains(&m.run("cat /proc/interrupts")?, "GICv3")?;
    m.send("reboot -f\n")?;
    m.wait_for("Restarting system")?;
    m.wait_for("~ # ")?;
    contains(&m.run("echo again")?, "again")?;
    m.power_off()
}

fn network(s: &Setting) -> Result<(), Failed> {
    let options = ["-M", "virt", "-nic", "user,model=virtio-net-device,net=10.0.2.0/24"];
    let mut m = s.shell(&options)?;
    m.run("mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; modprobe virtio_mmio; modprobe virtio_net; sleep 1; ls /sys/class/net")?;
    m.run("ip addr add 10.0.2.15/24 dev eth0 && ip link set eth0 up && sleep 1")?;
    contains(&m.run("ping -c 2 10.0.2.2")?, "2 packets received")?;
    m.power_off()
}

/// Ctrl-A c changes between the console and the monitor.
fn monitor(s: &Setting) -> Result<(), Failed> {
    let mut m = s.shell(&["-M", "virt"])?;
    m.send("\u{1}c")?;
    m.wait_for("(qemu) ")?;
    m.send("info status\n")?;
    m.wait_for("VM status: running")?;
    m.send("info registers\n")?;
    m.wait_for("R15=")?;
    m.send("info jit\n")?;
    m.wait_for("TB count")?;
    m.send("x/2xw 0xffff0008\n")?;
    m.wait_for("ffff0008: 0xe59ffff4")?;
    // The vectors, which every mode may read.
    m.send("info tlb\n")?;
    m.wait_for("ffff0000-")?;
    m.send("info kvm\n")?;
    m.wait_for("kvm support: not compiled")?;
    m.send("\u{1}c\n")?;
    contains(&m.run("echo back")?, "back")?;
    m.send("\u{1}x")?;
    let status = m.end()?;
    check(status.success(), || format!("after Ctrl-A x: {status}"))
}

fn no_kernel(s: &Setting) -> Result<(), Failed> {
    let mut command = Command::new(&s.emulator);
    command.args(["-M", "virt", "-nographic", "-kernel", "/nowhere/vmlinuz"]);
    let done = command.output()?;
    let text = String::from_utf8_lossy(&done.stderr);
    check(done.status.code() == Some(1), || format!("{}: {text}", done.status))?;
    contains(&text, "'/nowhere/vmlinuz'")
}

fn installer(s: &Setting) -> Result<(), Failed> {
    let mut m: Machine = s.installer(&["-M", "virt"], "quiet")?;
    m.wait_for("Select a language")?;
    Ok(())
}
