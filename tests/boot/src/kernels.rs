//! A real kernel in other wrappings than Debian's, a device tree of the user's own, the clock that `-rtc` sets, and the terminal
//! after every way out.

use crate::console::{Kernel, Machine, Setting};
use crate::debian::{Scratch, host};
use crate::{Story, check, contains, core, full};
use libtest_mimic::Failed;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

pub const STORIES: &[Story] = &[
    full("kernels as uImage, gzip and ELF, with a device tree from a file", wrappings),
    full("Debian's Xen with its first domain", xen),
    full("the guest's clock is what -rtc says", clocks),
    core("the terminal is as it was after every way out", ways_out),
];

/// Where the kernel wants to be: Debian's has to begin 0x8000 above a multiple of 2 MiB.
const LOAD: u32 = 0x4020_8000;
const XZ: &[u8] = b"\xfd7zXZ\0";

/// Passes bytes through a program of the host.
fn filter(program: &str, option: &str, input: &[u8]) -> Result<Vec<u8>, Failed> {
    let mut child =
        Command::new(program).arg(option).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let (mut to, input) = (child.stdin.take().ok_or("no input")?, input.to_vec());
    // A decompressor does not read what follows its stream.
    let writer = std::thread::spawn(move || to.write_all(&input));
    let output = child.wait_with_output()?.stdout;
    let _ = writer.join();
    Ok(output)
}

/// The kernel inside a zImage.
fn unpacked(image: &Path) -> Result<Vec<u8>, Failed> {
    let bytes = std::fs::read(image)?;
    let places = bytes.windows(XZ.len()).enumerate().filter(|(_, w)| *w == XZ).map(|(at, _)| at);
    let kernels = places.filter_map(|at| filter("xz", "-dc", &bytes[at..]).ok()).find(|k| k.len() > bytes.len());
    kernels.ok_or_else(|| format!("no xz stream in {}", image.display()).into())
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 })
    })
}

/// U-Boot's legacy image: a kernel for Linux on Arm.
fn uimage(data: &[u8], gzip: bool) -> Vec<u8> {
    let mut header = Vec::new();
    for word in [0x2705_1956, 0, 0, data.len() as u32, LOAD, LOAD, crc32(data)] {
        header.extend(word.to_be_bytes());
    }
    header.extend([5, 2, 2, u8::from(gzip)]);
    header.resize(64, 0);
    let sum = crc32(&header);
    header[4..8].copy_from_slice(&sum.to_be_bytes());
    [&header, data].concat()
}

/// An ELF file with one segment at virtual 0xc020_8000, as `vmlinux` has it.
fn elf(data: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 40, 0]);
    for word in [1, LOAD, 52, 0, 0x0500_0000, 32 << 16 | 52, 40 << 16 | 1, 0] {
        file.extend(word.to_le_bytes());
    }
    let len = data.len() as u32;
    for word in [1, 84, LOAD + 0x8000_0000, LOAD, len, len, 7, 4] {
        file.extend(word.to_le_bytes());
    }
    [&file, data].concat()
}

/// The words of a file that `-machine dumpdtb=` wrote, with another model.
fn tree(s: &Setting, file: &Path) -> Result<(), Failed> {
    let dump = format!("virt,highmem=off,dumpdtb={}", file.display());
    let mut command = Command::new(&s.emulator);
    let (status, text) = host(command.args(["-M", &dump, "-cpu", "cortex-a15", "-m", "512M", "-display", "none"]))?;
    check(status == Some(0), || text)?;
    let mut bytes = std::fs::read(file)?;
    let name = b"linux,dummy-virt\0";
    let places: Vec<usize> =
        bytes.windows(name.len()).enumerate().filter(|(_, w)| w == name).map(|(at, _)| at).collect();
    check(!places.is_empty(), || "the tree has no model".into())?;
    places.iter().for_each(|at| bytes[*at..at + 5].copy_from_slice(b"rhea,"));
    Ok(std::fs::write(file, bytes)?)
}

fn wrappings(s: &Setting) -> Result<(), Failed> {
    let (image, initrd) = s.kernel(Kernel::Armmp);
    let kernel = unpacked(&image)?;
    let packed = filter("gzip", "-1c", &kernel)?;
    let own = Scratch::new("own.dtb");
    tree(s, &own.0)?;
    for (name, bytes, dtb) in [
        ("uimage", uimage(&kernel, false), true),
        ("uimage-gz", uimage(&packed, true), false),
        ("elf", elf(&kernel), false),
    ] {
        let file = Scratch::new(name);
        std::fs::write(&file.0, bytes)?;
        let mut command = Command::new(&s.emulator);
        command.args([
            "-M",
            "virt,highmem=off",
            "-cpu",
            "cortex-a15",
            "-nographic",
            "-m",
            "512M",
            "-append",
            "console=ttyAMA0 quiet",
        ]);
        command.arg("-kernel").arg(&file.0).arg("-initrd").arg(&initrd);
        if dtb {
            command.arg("-dtb").arg(&own.0);
        }
        let mut m = Machine::start(command)?;
        m.wait_for("~ # ").map_err(|e| format!("{name}: {}", e.message().unwrap_or_default()))?;
        contains(
            &m.run("cat /proc/device-tree/model; echo")?,
            if dtb { "rhea,,dummy-virt" } else { "linux,dummy-virt" },
        )?;
        m.power_off()?;
    }
    Ok(())
}

fn xen(s: &Setting) -> Result<(), Failed> {
    let (kernel, initrd) = s.kernel(Kernel::Lpae);
    let mut command = Command::new(&s.emulator);
    command.args(["-M", "virt,virtualization=on", "-cpu", "cortex-a15", "-nographic", "-m", "1G", "-kernel"]).arg(s.xen());
    command.args(["-append", "dom0_mem=512M console=dtuart dtuart=/pl011@9000000"]);
    let kernel = format!("guest-loader,addr=0x4c000000,kernel={},bootargs=console=hvc0 quiet", kernel.display());
    let initrd = format!("guest-loader,addr=0x54000000,initrd={}", initrd.display());
    command.args(["-device", &kernel, "-device", &initrd]);
    let mut m = Machine::start(command)?;
    m.wait_for("*** LOADING DOMAIN 0 ***")?;
    m.wait_for("~ # ")?;
    contains(&m.run("mount -t sysfs sys /sys 2>/dev/null; cat /sys/hypervisor/type /sys/hypervisor/version/major")?, "xen")?;
    let forks = "i=0; while [ $i -lt 50 ]; do /bin/busybox true || break; i=$((i+1)); done; echo d''one$i";
    contains(&m.run(forks)?, "done50")?;
    m.send("poweroff -f\n")?;
    m.wait_for("Hardware Dom0 halted: halting machine")?;
    Ok(())
}

/// The clock of the guest by its real-time clock, in seconds since 1970.
fn clock(s: &Setting, rtc: &str, zone: &str) -> Result<u64, Failed> {
    let images = s.images();
    let mut command = Command::new(&s.emulator);
    command.env("TZ", zone).args([
        "-M",
        "virt",
        "-nographic",
        "-m",
        "512M",
        "-rtc",
        rtc,
        "-append",
        "console=ttyAMA0 quiet rdinit=/bin/sh",
    ]);
    command.arg("-kernel").arg(images.join("vmlinuz")).arg("-initrd").arg(images.join("initrd.gz"));
    let mut m = Machine::start(command)?;
    m.wait_for("~ # ")?;
    let text = m.run("mount -t sysfs sys /sys; echo at=$(cat /sys/class/rtc/rtc0/since_epoch)=")?;
    let number = text.rsplit("at=").next().and_then(|t| t.split('=').next()).and_then(|t| t.trim().parse().ok());
    m.power_off()?;
    number.ok_or_else(|| format!("no time in:\n{text}").into())
}

fn clocks(s: &Setting) -> Result<(), Failed> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).map_err(|e| e.to_string());
    // 2011-11-11 11:11:11; the guest needs a while to its shell, by its own clock or by the host's.
    let fixed = 1_321_009_871;
    for (rtc, zone, offset) in [
        ("base=2011-11-11T11:11:11,clock=vm", "UTC", None),
        ("base=utc,clock=host,driftfix=none", "UTC", Some(0)),
        ("base=localtime", "TST-5", Some(5 * 3600)),
    ] {
        let before = now()?;
        let seen = clock(s, rtc, zone)?;
        let from = offset.map_or(fixed, |o| before + o);
        // The whole story may take its patience.
        let to = offset.map_or(fixed + 300, |o| o + now().unwrap_or(0));
        check((from..=to).contains(&seen), || format!("-rtc {rtc}: the guest says {seen}, not {from} to {to}"))?;
    }
    Ok(())
}

/// Runs the emulator on a terminal; `keys` are typed. What the terminal's settings are before and after, and what was printed.
fn on_a_terminal(emulator: &str, keys: &[&str]) -> Result<(String, String, String), Failed> {
    let commands = format!("echo before=$(stty -g)=; {emulator}; echo status=$?=; echo after=$(stty -g)=");
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &commands, "/dev/null"]);
    let mut m = Machine::start(command)?;
    m.wait_for("before=")?;
    let before = m.wait_for("=")?;
    for key in keys {
        m.wait_for(key.split('|').next().unwrap_or_default())?;
        m.send(key.split('|').nth(1).unwrap_or_default())?;
    }
    let printed = m.wait_for("status=0=")?;
    m.wait_for("after=")?;
    let after = m.wait_for("=")?;
    Ok((before, after, printed))
}

/// Text that the guest leaves on the screen, in red and without line wrap, comes from U-Boot's `echo`.
fn ways_out(s: &Setting) -> Result<(), Failed> {
    let firmware = s.firmware("u-boot/qemu_arm/u-boot.bin");
    let emulator = format!("'{}' -M virt -nographic -m 512M -bios '{}'", s.emulator.display(), firmware.display());
    let autoboot = "Hit any key to stop autoboot|\n";
    let by_signal = |name: &str| format!("timeout --foreground -s {name} 3 {emulator} || test $? = 124");
    let ways: [(&str, String, &[&str]); 5] = [
        ("Ctrl-A x", emulator.clone(), &[autoboot, "=> |echo \u{1b}[31m\n", "=> |\u{1}x"]),
        ("quit", emulator.clone(), &[autoboot, "=> |\u{1}c", "(qemu) |quit\n"]),
        ("power off", emulator.clone(), &[autoboot, "=> |poweroff\n"]),
        ("SIGTERM", by_signal("TERM"), &[]),
        ("SIGINT", by_signal("INT"), &[]),
    ];
    for (name, command, keys) in ways {
        let (before, after, printed) = on_a_terminal(&command, keys)?;
        check(before == after && before.len() > 20, || {
            format!("{name}: the terminal was {before} and is {after}:\n{printed}")
        })?;
        // U-Boot itself sends an escape sequence with its first line.
        let wrap = printed.rfind("\u{1b}[?7h");
        let colour = printed.rfind("\u{1b}[31m").unwrap_or(0);
        check(wrap.is_some_and(|at| at > colour) || !printed.contains('\u{1b}'), || {
            format!("{name}: no reset at the end:\n{printed:?}")
        })?;
    }
    Ok(())
}
