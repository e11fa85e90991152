//! The table of `info …`.
//!
//! Reference: names, help lines and answers of QEMU 10.0.2's monitor.

use super::args::Kind::{Flag, Number, Word};
use super::args::{Args, maybe};
use super::disks;
use super::human::{Shell, commands};
use super::machine::{Disk, Kvm, Topic};
use crate::QEMU_VERSION;
use crate::lifecycle::RunState;
use spec::error::{Error, Result};

/// Behind the version: who we really are.
pub const PACKAGE: &str = concat!("Rhea ", env!("CARGO_PKG_VERSION"));

commands! {
    /// In the order of the alphabet.
    INFO;
    "block" "[-n] [-v] [device]" [maybe("nodes", Flag('n')), maybe("verbose", Flag('v')), maybe("drive", Word)]
        "show info of one block device or all block devices (-n: show named nodes; -v: show details)" => block;
    "block-jobs" "" [] "show progress of ongoing block device operations" => super::blocks::jobs;
    "chardev" "" [] "show the character devices" => chardev;
    "cpus" "" [] "show infos for each CPU" => cpus;
    "history" "" [] "show the command line history" => history;
    "hotpluggable-cpus" "" [] "Show information about hotpluggable CPUs" => |_, _, _| Err(Error::new("machine does not support hot-plugging CPUs"));
    "irq" "" [] "show the interrupts statistics (if available)" => |s, _, out| show(s, out, Topic::Irq);
    "jit" "" [] "show dynamic compiler info" => |s, _, out| show(s, out, Topic::Jit);
    "kvm" "" [] "show KVM information" => kvm;
    "mem" "" [] "show the active virtual memory mappings" => |s, _, out| show(s, out, Topic::Mem { cpu: s.cpu });
    "memory_size_summary" "" [] "show the amount of initially allocated and present hotpluggable (if enabled) memory in bytes." => memory_size;
    "mtree" "[-f][-D]" [maybe("flat", Flag('f')), maybe("disabled", Flag('D'))]
        "show memory tree (-f: dump flat view for address spaces; -D: dump disabled regions)"
        => |s, args, out| show(s, out, Topic::Mtree { flat: args.set("flat"), disabled: args.set("disabled") });
    "name" "" [] "show the current VM name" => name;
    "network" "" [] "show the network state" => |s, _, out| show(s, out, Topic::Network);
    "numa" "" [] "show NUMA information" => |_, _, out| { out.push_str("0 nodes\n"); Ok(()) };
    "pci" "" [] "show PCI info" => |s, _, out| show(s, out, Topic::Pci);
    "pic" "" [] "show PIC state" => |s, _, out| show(s, out, Topic::Pic);
    "qtree" "[-b]" [maybe("brief", Flag('b'))] "show device tree (-b: brief, omit properties)"
        => |s, args, out| show(s, out, Topic::Qtree { brief: args.set("brief") });
    "registers" "[-a|vcpu]" [maybe("all", Flag('a')), maybe("index", Number)]
        "show the cpu registers (-a: show register info for all cpus; vcpu: specific vCPU to query; show the current CPU's registers if no argument is specified)"
        => registers;
    "replay" "" [] "show record/replay information" => |_, _, out| { out.push_str("Record/replay is not active\n"); Ok(()) };
    "roms" "" [] "show roms" => |s, _, out| show(s, out, Topic::Roms);
    "status" "" [] "show the current VM status (running|paused)" => status;
    "tlb" "" [] "show virtual to physical memory mappings" => |s, _, out| show(s, out, Topic::Tlb { cpu: s.cpu });
    "usernet" "" [] "show user network stack connection states" => |s, _, out| show(s, out, Topic::Usernet);
    "uuid" "" [] "show the current VM UUID" => uuid;
    "version" "" [] "show the version of QEMU" => version;
}

fn show(shell: &Shell, out: &mut String, topic: Topic) -> Result<()> {
    out.push_str(&shell.machine.show(&topic)?);
    Ok(())
}

fn block(shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    let named = || shell.machine.blocks().map(|blocks| blocks.named(false)).unwrap_or_default();
    let all = if args.set("nodes") { named() } else { shell.machine.disks() };
    let is = |disk: &Disk, name: &str| match (disk.device.as_str(), &disk.image) {
        ("", Some(image)) => image.node == name,
        (device, _) => device == name,
    };
    let wanted: Vec<_> = all.iter().filter(|disk| args.text("drive").is_none_or(|name| is(disk, name))).collect();
    if let (Some(name), true) = (args.text("drive"), wanted.is_empty()) {
        out.push_str(&format!("Device '{name}' not found\n"));
    }
    let texts: Vec<String> = wanted.into_iter().map(|disk| disks::text(disk, args.set("verbose"))).collect();
    out.push_str(&texts.join("\n"));
    Ok(())
}

fn chardev(shell: &mut Shell, _args: &Args, out: &mut String) -> Result<()> {
    for (label, description, _) in shell.machine.consoles().info() {
        out.push_str(&format!("{label}: filename={description}\n"));
    }
    Ok(())
}

fn cpus(shell: &mut Shell, _args: &Args, out: &mut String) -> Result<()> {
    for (index, cpu) in shell.machine.cpus().iter().enumerate() {
        let current = if index == shell.cpu { '*' } else { ' ' };
        out.push_str(&format!("{current} CPU #{index}: thread_id={}\n", cpu.thread_id));
    }
    Ok(())
}

fn history(shell: &mut Shell, _args: &Args, out: &mut String) -> Result<()> {
    for (i, line) in shell.history.iter().enumerate() {
        out.push_str(&format!("{i}: '{line}'\n"));
    }
    Ok(())
}

fn kvm(shell: &mut Shell, _args: &Args, out: &mut String) -> Result<()> {
    let state = match shell.machine.kvm() {
        Kvm::NotBuilt => "not compiled",
        Kvm::Disabled => "disabled",
        Kvm::Enabled => "enabled",
    };
    out.push_str(&format!("kvm support: {state}\n"));
    Ok(())
}

fn memory_size(shell: &mut Shell, _args: &Args, out: &mut String) -> Result<()> {
    out.push_str(&format!("base memory: {}\nplugged memory: 0\n", shell.machine.memory_size()));
    Ok(())
}

/// Nothing at all for a machine without a name.
fn name(shell: &mut Shell, _args: &Args, out: &mut String) -> Result<()> {
    if let Some(name) = shell.machine.name() {
        out.push_str(&format!("{name}\n"));
    }
    Ok(())
}

fn registers(shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    let count = shell.machine.cpus().len();
    let cpus: Vec<usize> = match args.number("index") {
        _ if args.set("all") => (0..count).collect(),
        Some(index) => vec![usize::try_from(index).unwrap_or(usize::MAX)],
        None => vec![shell.cpu],
    };
    for cpu in cpus {
        if cpu >= count {
            out.push_str(&format!("CPU#{cpu} not available\n"));
            continue;
        }
        out.push_str(&format!("\nCPU#{cpu}\n{}", shell.machine.registers(cpu)?));
    }
    Ok(())
}

fn status(shell: &mut Shell, _args: &Args, out: &mut String) -> Result<()> {
    let text = match shell.machine.life().state() {
        RunState::Running => "running".to_string(),
        RunState::Paused => "paused".to_string(),
        state => format!("paused ({})", state.name()),
    };
    out.push_str(&format!("VM status: {text}\n"));
    Ok(())
}

/// The identity of a machine that has none.
pub const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";

fn uuid(shell: &mut Shell, _args: &Args, out: &mut String) -> Result<()> {
    out.push_str(&format!("{}\n", shell.machine.uuid().as_deref().unwrap_or(NO_UUID)));
    Ok(())
}

fn version(_shell: &mut Shell, _args: &Args, out: &mut String) -> Result<()> {
    out.push_str(&format!("{QEMU_VERSION} ({PACKAGE})\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    fn check(lines: &[&str], expected: &str) {
        let mut shell = Shell::new(Fake::new(), 0);
        let mut out = String::new();
        for line in lines {
            out.clear();
            shell.run(line, &mut out);
        }
        assert_eq!(out, expected, "{lines:?}");
    }

    #[test]
    fn answers_are_qemus() {
        check(&["info status"], "VM status: paused (prelaunch)\n");
        check(&["stop", "info status"], "VM status: paused (prelaunch)\n");
        check(&["info memory_size_summary"], "base memory: 65536\nplugged memory: 0\n");
        check(&["cont", "info status"], "VM status: running\n");
        check(&["cont", "stop", "info status"], "VM status: paused\n");
        check(&["info kvm"], "kvm support: not compiled\n");
        check(&["info name"], "fake\n");
        check(&["info uuid"], "00000000-0000-0000-0000-000000000000\n");
        check(&["info version"], &format!("10.0.2 ({PACKAGE})\n"));
        check(&["info cpus"], "* CPU #0: thread_id=100\n  CPU #1: thread_id=101\n");
        check(&["cpu 1", "info cpus"], "  CPU #0: thread_id=100\n* CPU #1: thread_id=101\n");
        check(&["info registers"], "\nCPU#0\nR00=00000000\n");
        check(&["cpu 1", "info registers"], "\nCPU#1\nR00=00000001\n");
        check(&["info registers -a"], "\nCPU#0\nR00=00000000\n\nCPU#1\nR00=00000001\n");
        check(&["info registers 7"], "CPU#7 not available\n");
        check(&["info mtree -f"], "Mtree { flat: true, disabled: false }\n");
        check(&["info foo"], "unknown command: 'info foo'\n");
        let extra = "status: extraneous characters at the end of line\nTry \"help info status\" for more information\n";
        check(&["info status x"], extra);
        check(&["chardev-add null,id=n", "info chardev"], "n: filename=null\n");
    }
}
