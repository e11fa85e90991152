//! `cargo xtask bench system-arm`: machines under the installed QEMU and under ours, paired: the same kernel, disk and options.
//!
//! Both machines of a run are booted one after the other and stay; the rows then alternate between them, in an order that
//! rotates, so that drift of the host hits both alike. Marks on the console delimit a row; its cost is the CPU time of the
//! emulator's process in between. Outputs must be equal.

pub(super) mod guest;
mod rows;
mod table;

use super::report::{self, Line};
use super::{Options, matches, prepare};
use crate::process::capture;
use crate::{guests, project};
use guest::Guest;
use rows::{Boot, Memory, ROWS, Row, Work};
use spec::error::{Context, Error, Result};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// Starts for one sample of the time to the first byte.
const STARTS: usize = 5;
/// The disk of the disk rows; each machine has its own.
const SCRATCH_BYTES: usize = 64 << 20;
const INSTALLER: &str = "usr/lib/debian-installer/images/12/armhf/text/debian-installer/armhf";
/// The shell of both initrds.
const PROMPT: &str = "~ # ";

const KERNELS: &[(&str, &[&str])] = &[("integer", &["-O2"]), ("fp", &["-O2"]), ("kernel", &["-O2"]), ("machine", &["-O2"]), ("disk", &["-O2"])];

pub fn command(options: &Options) -> Result<()> {
    let chosen: Vec<&Row> = ROWS.iter().filter(|r| matches(r.class, r.name, &options.filters)).collect();
    if options.list {
        chosen.iter().for_each(|r| println!("{}/{}", r.class, r.name));
        return Ok(());
    }
    if chosen.is_empty() {
        return Err(Error::new(format!("no row matches {}; --list shows all", options.filters.join(","))));
    }
    let bench = Bench::prepare()?;
    let version = capture(Command::new(&bench.emulators[0]).arg("--version"))?;
    let reference = version.lines().next().unwrap_or("unknown");
    let mut samples: Vec<Samples> = chosen.iter().map(|_| Samples::default()).collect();
    for run in 0..options.runs as usize {
        eprintln!("run {} of {}", run + 1, options.runs);
        bench.run(&chosen, run, &mut samples)?;
    }
    let lines: Vec<Line> = chosen.iter().zip(samples).map(|(row, s)| s.line(row)).collect();
    if options.json {
        println!("{:#}", table::value(&lines, &chosen, reference, options.runs));
    } else {
        print!("{}", table::text(&lines, &chosen, reference, options.runs));
    }
    match report::failures(&lines).count() {
        0 => Ok(()),
        n => Err(Error::new(format!("{n} rows failed"))),
    }
}

/// What a row's runs gave: the reference's and ours.
#[derive(Default)]
struct Samples {
    values: [Vec<f64>; 2],
    outputs: [Option<String>; 2],
    failure: Option<String>,
}

impl Samples {
    fn line(mut self, row: &Row) -> Line {
        let [reference, ours] = &mut self.values;
        let (reference, ours) = (report::median(reference), report::median(ours));
        if self.failure.is_none() && self.outputs[0] != self.outputs[1] {
            self.failure = Some(format!("the outputs differ: {:?} {:?}", self.outputs[0], self.outputs[1]));
        }
        let ours = if self.failure.is_some() { None } else { ours };
        Line { class: row.class, name: row.name, native: None, reference, ours, failure: self.failure }
    }
}

struct Bench {
    dir: PathBuf,
    /// The reference, ours.
    emulators: [PathBuf; 2],
}

impl Bench {
    fn prepare() -> Result<Bench> {
        let (dir, emulators) = prepare::emulators()?;
        guests::ensure_named(&["installer", "kernels", "disk"])?;
        for (file, flags) in KERNELS {
            prepare::compile(&dir, prepare::CROSS, file, "arm", flags, &["-mfpu=neon-vfpv4"])?;
        }
        let bench = Bench { dir, emulators };
        bench.first_kernel()?;
        bench.write("initrd", &bench.initrd()?)?;
        for index in 0..2 {
            bench.write(&format!("scratch{index}"), &prepare::noise(SCRATCH_BYTES))?;
        }
        Ok(bench)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = self.dir.join(name);
        std::fs::write(&file, bytes).context(|| format!("Could not write '{}'", file.display()))
    }

    /// A kernel that prints one byte.
    fn first_kernel(&self) -> Result<()> {
        let mut gcc = Command::new(prepare::CROSS);
        gcc.args(["-nostdlib", "-static", "-marm", "-Wl,-Ttext=0x40010000,--build-id=none", "-o"]);
        gcc.arg(self.dir.join("first.elf")).arg(project::root().join("tests/bench/first.S"));
        capture(&mut gcc).map(drop)
    }

    /// The shell's initrd, and an archive with the kernels, the inputs and a script for each row after it.
    fn initrd(&self) -> Result<Vec<u8>> {
        let read = |file: PathBuf| std::fs::read(&file).context(|| format!("Could not read '{}'", file.display()));
        let mut bytes = read(guests::kernels().join("initrd-armmp-lpae"))?;
        let mut archive = guests::Archive::default();
        archive.directory("bench");
        for (file, _) in KERNELS {
            archive.file(&format!("bench/{file}"), 0o755, &read(self.dir.join(format!("{file}.arm")))?);
        }
        archive.file("bench/source.c", 0o644, &prepare::source());
        archive.file("bench/text", 0o644, &prepare::text(3_000_000));
        archive.file("bench/noise", 0o644, &prepare::noise(8_000_000));
        for (name, text) in rows::INPUTS {
            archive.file(&format!("bench/{name}"), 0o644, text.as_bytes());
        }
        for (number, row) in ROWS.iter().enumerate() {
            if let Work::Run(command) = row.work {
                archive.file(&format!("bench/row{number}"), 0o644, format!("{command}\n").as_bytes());
            }
        }
        bytes.extend(archive.finish());
        Ok(bytes)
    }

    /// One run of all chosen rows on both machines.
    fn run(&self, chosen: &[&Row], run: usize, samples: &mut [Samples]) -> Result<()> {
        let mut machines = [None, None];
        if chosen.iter().any(|r| matches!(r.work, Work::Run(_) | Work::Memory(_) | Work::Boot(Boot::Shell))) {
            for turn in 0..2 {
                let index = (run + turn) % 2;
                machines[index] = Some(self.shell(index)?);
            }
        }
        for (number, row) in chosen.iter().enumerate() {
            eprint!("\r\x1b[K{}/{} {}/{}", number + 1, chosen.len(), row.class, row.name);
            for turn in 0..2 {
                let index = (run + number + turn) % 2;
                match self.sample(row, index, machines[index].as_mut())? {
                    Ok((value, output)) => {
                        samples[number].values[index].push(value);
                        samples[number].outputs[index] = Some(output);
                    }
                    Err(failure) => samples[number].failure = Some(failure),
                }
            }
        }
        eprint!("\r\x1b[K");
        Ok(())
    }

    fn sample(&self, row: &Row, index: usize, machine: Option<&mut Booted>) -> Result<std::result::Result<(f64, String), String>> {
        let booted = || Error::new("no machine was booted for this row");
        let value = match row.work {
            Work::FirstByte => self.first_byte(index)?,
            Work::Boot(Boot::Shell) => machine.ok_or_else(booted)?.boot_s,
            Work::Boot(boot) => self.boot(index, boot)?.cpu_s()?,
            Work::Memory(Memory::Settled) => machine.ok_or_else(booted)?.settled_mib,
            Work::Memory(Memory::Peak) => machine.ok_or_else(booted)?.peak_mib,
            Work::Run(_) => {
                let number = ROWS.iter().position(|r| std::ptr::eq(r, row)).expect("a row of the table");
                let ran = machine.ok_or_else(booted)?.guest.run(&format!("sh row{number}"))?;
                if ran.status != "0" {
                    return Ok(Err(format!("{}: {} {}", self.emulators[index].display(), ran.status, ran.output.trim())));
                }
                return Ok(Ok((ran.cpu_s, ran.output)));
            }
        };
        Ok(Ok((value, String::new())))
    }

    fn machine(&self, index: usize) -> Command {
        let mut command = Command::new(&self.emulators[index]);
        command.args(["-M", "virt", "-cpu", "cortex-a15", "-m", "1G", "-nographic", "-nic", "none"]);
        command
    }

    fn boot(&self, index: usize, boot: Boot) -> Result<Guest> {
        let mut command = self.machine(index);
        let drive = |file: PathBuf, how: &str| format!("file={},if=virtio,format=raw,{how}", file.display());
        let (kernel, initrd, append) = match boot {
            Boot::Installer => {
                let images = guests::armhf_root().join(INSTALLER);
                (images.join("vmlinuz"), images.join("initrd.gz"), "rdinit=/bin/sh")
            }
            Boot::Shell => (guests::kernels().join("vmlinuz-armmp-lpae"), self.dir.join("initrd"), ""),
            Boot::Login => {
                let kernels = guests::kernels();
                (kernels.join("vmlinuz-armmp-lpae"), kernels.join("initrd-armmp-lpae"), "root=/dev/vda rw")
            }
        };
        match boot {
            Boot::Installer => {}
            Boot::Shell => {
                command.arg("-drive").arg(drive(guests::disk_image(), "readonly=on"));
                command.arg("-drive").arg(drive(self.dir.join(format!("scratch{index}")), "snapshot=off"));
            }
            Boot::Login => {
                command.arg("-drive").arg(drive(guests::disk_image(), "snapshot=on"));
            }
        }
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        command.arg("-append").arg(format!("console=ttyAMA0 {append}"));
        let mut guest = Guest::start(command)?;
        guest.wait_for(if boot == Boot::Login { "login: " } else { PROMPT })?;
        Ok(guest)
    }

    /// Boots the guest of the commands, and goes into its Debian.
    fn shell(&self, index: usize) -> Result<Booted> {
        let mut guest = self.boot(index, Boot::Shell)?;
        let (boot_s, settled_mib, peak_mib) = (guest.cpu_s()?, guest.memory_mib("VmRSS")?, guest.memory_mib("VmHWM")?);
        guest.must("mount -t ext4 -o ro /dev/vda /root && mount --bind /bench /root/mnt && mount -t tmpfs tmp /root/tmp")?;
        guest.must("for d in proc sys dev; do mount --bind /$d /root/$d; done")?;
        guest.send("exec chroot /root /bin/sh\n")?;
        // No echo, prompts or kernel messages between a row's output and its end, and Python's modules compiled as on a real system.
        guest.must("stty -echo; PS1=; cd /mnt; echo 1 >/proc/sys/kernel/printk")?;
        guest.must("export PATH=/usr/bin:/usr/sbin HOME=/tmp LC_ALL=C PYTHONPYCACHEPREFIX=/tmp/pyc; python3 -c 'import json'")?;
        Ok(Booted { guest, boot_s, settled_mib, peak_mib })
    }

    /// Milliseconds of wall time from the start of the emulator to the guest's first byte.
    fn first_byte(&self, index: usize) -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            let mut command = self.machine(index);
            command.arg("-kernel").arg(self.dir.join("first.elf"));
            let begun = Instant::now();
            Guest::start(command)?.wait_for("!")?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(report::median(&mut times).expect("several"))
    }
}

/// The guest of the commands, and what its boot cost.
struct Booted {
    guest: Guest,
    boot_s: f64,
    settled_mib: f64,
    peak_mib: f64,
}
