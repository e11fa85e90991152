//! Firmware from Debian's packages: U-Boot and UEFI, to their prompts.

use crate::console::{Machine, Setting};
use crate::debian::Scratch;
use crate::{Story, contains, core, full};
use libtest_mimic::Failed;
use std::process::Command;

pub const STORIES: &[Story] = &[core("u-boot to its prompt", u_boot), core("uefi to its shell", uefi), full("uefi in flash keeps its variables", uefi_in_flash)];

/// What a flash bank of the board holds.
const BANK_BYTES: usize = 64 << 20;

fn machine(s: &Setting) -> Command {
    let mut command = Command::new(&s.emulator);
    command.args(["-M", "virt", "-cpu", "cortex-a15", "-m", "512M", "-nographic", "-nic", "none"]);
    command
}

fn u_boot(s: &Setting) -> Result<(), Failed> {
    let mut command = machine(s);
    command.arg("-bios").arg(s.firmware("u-boot/qemu_arm/u-boot.bin"));
    let mut m = Machine::start(command)?;
    m.wait_for("U-Boot 2023.01")?;
    m.wait_for("Hit any key to stop autoboot")?;
    m.send("\n")?;
    m.wait_for("=> ")?;
    m.send("version\n")?;
    contains(&m.wait_for("=> ")?, "arm-linux-gnueabihf-gcc")?;
    m.send("bdinfo\n")?;
    contains(&m.wait_for("=> ")?, "-> start    = 0x40000000")?;
    m.power_off_with("poweroff\n", "poweroff ...")
}

fn uefi(s: &Setting) -> Result<(), Failed> {
    let mut command = machine(s);
    command.arg("-bios").arg(s.firmware("AAVMF/AAVMF32_CODE.fd"));
    let mut m = Machine::start(command)?;
    m.wait_for("Shell> ")?;
    m.send("ver\r")?;
    contains(&m.wait_for("Shell> ")?, "UEFI Interactive Shell")?;
    m.power_off_with("reset -s\r", "r")
}

fn uefi_in_flash(s: &Setting) -> Result<(), Failed> {
    let bank = |name: &str, from: &str| -> Result<Scratch, Failed> {
        let (file, mut bytes) = (Scratch::new(name), std::fs::read(s.firmware(from))?);
        bytes.resize(BANK_BYTES, 0xff);
        std::fs::write(&file.0, bytes)?;
        Ok(file)
    };
    let (code, variables) = (bank("code.fd", "AAVMF/AAVMF32_CODE.fd")?, bank("vars.fd", "AAVMF/AAVMF32_VARS.fd")?);
    let start = || {
        let mut command = machine(s);
        command.arg("-drive").arg(format!("if=pflash,format=raw,readonly=on,file={}", code.0.display()));
        command.arg("-drive").arg(format!("if=pflash,format=raw,file={}", variables.0.display()));
        Machine::start(command)
    };
    let mut m = start()?;
    m.wait_for("Shell> ")?;
    m.send("setvar Kept -guid 52686561-0001-4000-8000-000000000001 -nv -bs =\"42\"\r")?;
    m.wait_for("Shell> ")?;
    m.power_off_with("reset -s\r", "r")?;
    let mut m = start()?;
    m.wait_for("Shell> ")?;
    m.send("setvar Kept -guid 52686561-0001-4000-8000-000000000001\r")?;
    contains(&m.wait_for("Shell> ")?, "0001 Bytes")?;
    m.power_off_with("reset -s\r", "r")
}
