//! Trials against the reference machine: random accesses to our devices and to those of the installed `qemu-system-arm`
//! (through its `-qtest` protocol); every read must give the same value.
//!
//! Our devices follow QEMU 10. Debian 12 itself has 7.2: with a reference older than 10 the registers that changed since are
//! left out, each where it is named below.
//!
//! `RHEA_ACCESSES=1000000 cargo test -p hw --test reference` runs longer; `RHEA_SEED` repeats a run.

use fabric::{AddressSpace, Line, Mmio, MmioTarget};
use hw::char::Nobody;
use hw::char::pl011::Pl011;
use hw::gpio::pl061::Pl061;
use hw::intc::gic_v2::{Extensions, GicV2};
use hw::intc::gic_v2m::GicV2m;
use hw::intc::gic_v3::GicV3;
use hw::intc::gic_v3_its::Its;
use hw::storage::cfi_flash::CfiFlash;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

const REFERENCE: &str = "/usr/bin/qemu-system-arm";

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// True if the installed reference is older than what our devices follow.
fn old_reference() -> bool {
    let output = Command::new(REFERENCE).arg("--version").output().unwrap_or_else(|e| panic!("{REFERENCE}: {e}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.strip_prefix("QEMU emulator version ").and_then(|rest| rest.split('.').next());
    number.and_then(|n| n.parse::<u32>().ok()).unwrap_or_else(|| panic!("{REFERENCE} --version gives '{text}'")) < 10
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}

/// The reference machine.
struct Machine {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Machine {
    fn start(options: &[&str]) -> Machine {
        let path = Path::new(REFERENCE);
        assert!(path.exists(), "{} is missing: install the Debian package qemu-system-arm (the reference)", path.display());
        let common = ["-m", "64", "-display", "none", "-nodefaults", "-serial", "null", "-qtest", "stdio", "-qtest-log", "/dev/null"];
        let mut command = Command::new(path);
        command.args(options).args(common).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the reference starts");
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Machine { child, to, from }
    }

    /// Sends one command; gives what follows the `OK`.
    fn ask(&mut self, command: &str) -> String {
        writeln!(self.to, "{command}").and_then(|()| self.to.flush()).expect("the reference listens");
        loop {
            let mut line = String::new();
            let n = self.from.read_line(&mut line).expect("the reference answers");
            assert!(n > 0, "the reference ended at '{command}'");
            if let Some(rest) = line.strip_prefix("OK") {
                return rest.trim().to_string();
            }
            assert!(line.starts_with("IRQ"), "'{command}' gives '{line}'");
        }
    }

    fn read(&mut self, address: u64, size: u8) -> u64 {
        let answer = self.ask(&format!("read{} {address:#x}", width(size)));
        u64::from_str_radix(answer.trim_start_matches("0x"), 16).expect("a number")
    }

    fn write(&mut self, address: u64, size: u8, value: u64) {
        self.ask(&format!("write{} {address:#x} {value:#x}", width(size)));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn width(size: u8) -> char {
    match size {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        _ => 'q',
    }
}

/// One device: where the reference has it, and which registers are tried by which widths.
struct Trial<'a> {
    name: &'a str,
    device: Arc<dyn MmioTarget>,
    base: u64,
    /// First and last offset of words, and the widths (a mask of sizes) to try there.
    ranges: &'a [(u64, u64, u8)],
    /// Values written more often than by chance.
    values: &'a [u64],
    /// Writes with this value in the low byte are left out.
    skip: &'a [u8],
}

fn compare(machine: &mut Machine, trial: &Trial) {
    let seed = number("RHEA_SEED", 1);
    let count = number("RHEA_ACCESSES", 6_000);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut log = Vec::new();
    for _ in 0..count {
        let (first, last, sizes) = trial.ranges[random.below(trial.ranges.len() as u64) as usize];
        let size = loop {
            let size = 1 << random.below(4);
            if sizes & size != 0 {
                break size;
            }
        };
        let offset = first + random.below((last - first) / 4 + 1) * 4 & !(u64::from(size) - 1);
        let limit = if size == 8 { u64::MAX } else { (1 << (size * 8)) - 1 };
        if random.below(2) == 0 {
            let value = limit
                & match random.below(4) {
                    0 => random.next(),
                    1 => 1 << random.below(u64::from(size) * 8),
                    _ => trial.values[random.below(trial.values.len() as u64) as usize],
                };
            if trial.skip.contains(&(value as u8)) {
                continue;
            }
            machine.write(trial.base + offset, size, value);
            trial.device.write(offset, size, value);
            log.push(format!("write {offset:#x} of {size}: {value:#x}"));
        } else {
            let (theirs, ours) = (machine.read(trial.base + offset, size), trial.device.read(offset, size));
            log.push(format!("read {offset:#x} of {size}: {theirs:#x}"));
            let recent = log[log.len().saturating_sub(number("RHEA_RECENT", 40) as usize)..].join("\n  ");
            assert_eq!(ours, theirs, "{} (seed {seed}): ours, the reference's\n  {recent}", trial.name);
        }
    }
}

const WORD: u8 = 4;
const NARROW: u8 = 1 | 2 | 4;

#[test]
fn gic_v2_distributor_and_interface() {
    let mut machine = Machine::start(&["-M", "virt"]);
    let gic = GicV2::new(1, 256);
    let both = Both { distributor: gic.distributor(), interface: gic.cpu_interface() };
    // Few interrupts, so that they meet. Not the active priorities (ours follow a write at once) and not the aliased
    // registers (which the reference lacks).
    // In QEMU 7.2 a shared interrupt that was made active by a write stays so at its end.
    let shared = if old_reference() { 0 } else { 4 };
    let ranges: &[(u64, u64, u8)] = &[
        (0x004, 0x008, WORD),
        (0x080, 0x084, WORD),
        (0x100, 0x108, NARROW),
        (0x180, 0x184, NARROW),
        (0x200, 0x204, NARROW),
        (0x200, 0x204, NARROW),
        (0x280, 0x284, NARROW),
        (0x300, 0x300 + shared, WORD),
        (0x380, 0x380 + shared, WORD),
        (0x400, 0x43c, NARROW),
        (0x800, 0x83c, NARROW),
        (0xc00, 0xc08, WORD),
        (0xf00, 0xf00, WORD),
        (0xf00, 0xf00, WORD),
        (0xfd0, 0xffc, WORD),
        (0x1_0004, 0x1_0008, WORD),
        (0x1_000c, 0x1_000c, WORD),
        (0x1_000c, 0x1_0018, WORD),
        (0x1_001c, 0x1_001c, WORD),
        (0x1_00fc, 0x1_00fc, WORD),
        (0x1_1000, 0x1_1000, WORD),
    ];
    let values = &[1, 3, 7, 0xf, 0xf0, 0xff, 0x80, 0x8040_2010, 33, 34, 0x201, 5, 0x0200_0001, 0x0001_0002, 0xffff_ffff];
    // Both groups are enabled: what a disabled one hides differs.
    let device = Arc::new(both);
    for control in [0x03, 0x07, 0x17, 0x207] {
        for (offset, value) in [(0, 3), (0x1_0000, control), (0x1_0004, 0xff)] {
            machine.write(0x800_0000 + offset, 4, value);
            device.write(offset, 4, value);
        }
        compare(&mut machine, &Trial { name: "GICv2", device: device.clone(), base: 0x800_0000, ranges, values, skip: &[] });
    }
}

#[test]
fn gic_v2_virtual_interface() {
    let mut machine = Machine::start(&["-M", "virt,virtualization=on"]);
    let [distributor, interface] = GicV2::with(1, 256, Extensions { virtualization: true, ..Extensions::default() }).virtual_interface();
    let device = Arc::new(Both { distributor, interface });
    let ranges: &[(u64, u64, u8)] = &[
        (0x000, 0x000, WORD),
        (0x004, 0x004, WORD),
        (0x008, 0x008, WORD),
        (0x010, 0x034, WORD),
        (0x0f0, 0x0f0, WORD),
        (0x100, 0x10c, WORD),
        (0x100, 0x10c, WORD),
        (0x100, 0x10c, WORD),
        (0x1_0000, 0x1_0008, WORD),
        (0x1_000c, 0x1_000c, WORD),
        (0x1_000c, 0x1_0018, WORD),
        (0x1_0010, 0x1_0010, WORD),
        (0x1_001c, 0x1_001c, WORD),
        (0x1_00d0, 0x1_00d0, WORD),
        (0x1_00fc, 0x1_00fc, WORD),
        (0x1_1000, 0x1_1000, WORD),
    ];
    // List registers with few numbers and priorities; no two have the same number, as nothing is promised for that.
    let lists = [0x1000_0021, 0x1080_0022, 0x2100_0023, 0x1008_0024, 0x5000_0025, 0xd080_8426, 0x9200_8427, 0x1100_0003];
    let mut values = lists.to_vec();
    values.extend([0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 3, 1, 0xff, 0x1ff, 0xf8, 0x207, 0xf84c_0007, 0x8004_000f, 0]);
    for hcr in [0x01, 0x0b] {
        for (offset, value) in [(0, hcr), (0x08, 0xf84c_000f)] {
            machine.write(0x803_0000 + offset, 4, value);
            device.write(offset, 4, value);
        }
        compare(&mut machine, &Trial { name: "GICv2 virtual", device: device.clone(), base: 0x803_0000, ranges, values: &values, skip: &[] });
    }
}

/// Distributor and CPU interface, as far apart as on the board.
struct Both {
    distributor: Arc<dyn MmioTarget>,
    interface: Arc<dyn MmioTarget>,
}

impl MmioTarget for Both {
    fn read(&self, offset: u64, size: u8) -> u64 {
        if offset < 0x1_0000 { self.distributor.read(offset, size) } else { self.interface.read(offset - 0x1_0000, size) }
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        if offset < 0x1_0000 { self.distributor.write(offset, size, value) } else { self.interface.write(offset - 0x1_0000, size, value) }
    }
}

#[test]
fn gic_v2m_frame() {
    let mut machine = Machine::start(&["-M", "virt"]);
    let device = GicV2m::new(0x802_0000, 80, vec![Line::nowhere(); 64]);
    let ranges = &[(0, 0x44, WORD), (0xfc0, 0xffc, WORD)];
    compare(&mut machine, &Trial { name: "GICv2m", device, base: 0x802_0000, ranges, values: &[80, 143], skip: &[] });
}

#[test]
fn gic_v3_distributor_redistributor_and_its() {
    let mut machine = Machine::start(&["-M", "virt,gic-version=3"]);
    let space = AddressSpace::new();
    let gic = GicV3::new(vec![0], 256, Some(space.clone()));
    let values = &[1, 2, 3, 0xff, 0xaaaa_aaaa, 0xffff_ffff];
    // QEMU 7.2 counts 32 interrupts too few in GICD_TYPER.
    let typer = if old_reference() { 0x008 } else { 0x004 };
    let ranges: &[(u64, u64, u8)] = &[
        (0x000, 0x000, WORD),
        (typer, 0x010, WORD),
        (0x080, 0x3fc, WORD),
        (0x400, 0x51c, 1 | WORD),
        (0x800, 0x920, WORD),
        (0xc00, 0xc48, WORD),
        (0xd00, 0xd24, WORD),
        (0x6100, 0x6900, 8),
        (0xffd0, 0xfffc, WORD),
    ];
    compare(&mut machine, &Trial { name: "GICD", device: gic.distributor(), base: 0x800_0000, ranges, values, skip: &[] });
    // Not GICR_CTLR, which reads the tables.
    let ranges: &[(u64, u64, u8)] = &[
        (0x04, 0x14, WORD),
        (0x70, 0x7c, 4 | 8),
        (0xffd0, 0xfffc, WORD),
        (0x1_0080, 0x1_0084, WORD),
        (0x1_0100, 0x1_0104, WORD),
        (0x1_0180, 0x1_0184, WORD),
        (0x1_0200, 0x1_0204, WORD),
        (0x1_0280, 0x1_0284, WORD),
        (0x1_0300, 0x1_0304, WORD),
        (0x1_0380, 0x1_0384, WORD),
        (0x1_0400, 0x1_041c, 1 | WORD),
        (0x1_0c00, 0x1_0c04, WORD),
        (0x1_0d00, 0x1_0d00, WORD),
    ];
    compare(&mut machine, &Trial { name: "GICR", device: gic.redistributors(0, 1), base: 0x80a_0000, ranges, values, skip: &[] });
    let its = Its::new(gic, space, 0x808_0000);
    let ranges = &[(0x04, 0x0c, WORD), (0x80, 0x80, 8), (0x100, 0x138, 8), (0xffd0, 0xfffc, WORD)];
    compare(&mut machine, &Trial { name: "GITS", device: its, base: 0x808_0000, ranges, values, skip: &[] });
}

#[test]
fn pl011_without_input() {
    let mut machine = Machine::start(&["-M", "virt"]);
    let device = Mmio::new(Pl011::new(Box::new(Nobody), Line::nowhere()));
    // Not UARTCR: loopback makes the reference keep modem flags, and overrun its FIFO.
    // QEMU 7.2 keeps bits that the divisors (IBRD, FBRD) do not have.
    let last = if old_reference() { 0x20 } else { 0x2c };
    let ranges = &[(0, last, NARROW), (0x2c, 0x2c, NARROW), (0x34, 0x50, WORD), (0xfd0, 0xffc, NARROW)];
    compare(&mut machine, &Trial { name: "PL011", device, base: 0x900_0000, ranges, values: &[0x10, 0x20, 0x70, 0xff], skip: &[] });
}

#[test]
fn pl061_without_wires() {
    let mut machine = Machine::start(&["-M", "virt"]);
    let device = Pl061::new(Line::nowhere(), Vec::new());
    let ranges = &[(0, 0x3fc, WORD), (0x400, 0x424, WORD), (0x400, 0x424, WORD), (0x500, 0x530, WORD), (0xfd0, 0xffc, WORD)];
    compare(&mut machine, &Trial { name: "PL061", device, base: 0x903_0000, ranges, values: &[8, 0xff, 0x0f, 0], skip: &[] });
}

#[test]
fn cfi_flash() {
    let mut machine = Machine::start(&["-M", "virt"]);
    let space = AddressSpace::new();
    CfiFlash::install(&space, "flash", 0x400_0000, 0x400_0000, None).unwrap();
    let ranges = &[(0, 0x40, WORD), (0x40, 0x180, WORD), (0x4_0000, 0x4_0010, WORD)];
    // Not the erase commands (the reference erases before the confirmation) and not the buffer (whose data it takes from
    // another word).
    let values = &[
        0x10_0010, 0x40_0040, 0xd0_00d0, 0x50_0050, 0x60_0060, 0x70_0070, 0x90_0090, 0x98_0098, 0xff_00ff, 0xff_00ff,
    ];
    compare(&mut machine, &Trial { name: "CFI flash", device: Arc::new(Placed(space)), base: 0x400_0000, ranges, values, skip: &[0x20, 0x28, 0xe8] });
}

/// The flash through its address space, as it changes between memory and device.
struct Placed(Arc<AddressSpace>);

impl MmioTarget for Placed {
    fn read(&self, offset: u64, size: u8) -> u64 {
        self.0.read(0x400_0000 + offset, size).expect("the flash answers")
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        assert!(self.0.write(0x400_0000 + offset, size, value));
    }
}
