//! The table of a human's commands.
//!
//! Reference: names, help lines and answers of QEMU 10.0.2's monitor.
//! Not modelled: commands about displays, snapshots of machines and migration.

use super::args::Kind::{File, Flag, Format, Number, OnOff, Rest, Size, Small, Word};
use super::args::{Args, arg, maybe};
use super::blocks;
use super::human::{Shell, commands, find};
use super::info::INFO;
use super::memory::{self, Space};
use super::networks;
use crate::lifecycle::Cause;
use crate::log;
use spec::error::Result;

commands! {
    /// In the order of the alphabet.
    COMMANDS;
    "block_job_cancel" "[-f] device" [maybe("force", Flag('f')), arg("job", Word)]
        "stop an active background block operation (use -f\n\t\t\t if you want to abort the operation immediately\n\t\t\t instead of keep running until data is in sync)"
        => |shell, args, _| blocks::job(shell, args, "block-job-cancel");
    "block_job_complete" "device" [arg("job", Word)] "stop an active background block operation"
        => |shell, args, _| blocks::job(shell, args, "block-job-complete");
    "block_job_pause" "device" [arg("job", Word)] "pause an active background block operation"
        => |shell, args, _| blocks::job(shell, args, "block-job-pause");
    "block_job_resume" "device" [arg("job", Word)] "resume a paused background block operation"
        => |shell, args, _| blocks::job(shell, args, "block-job-resume");
    "block_job_set_speed" "device speed" [arg("job", Word), arg("speed", Size)] "set maximum speed for a background block operation"
        => |shell, args, _| blocks::job(shell, args, "block-job-set-speed");
    "block_resize" "device size" [arg("drive", Word), arg("size", Size)] "resize a block image" => blocks::block_resize;
    "block_set_io_throttle" "device bps bps_rd bps_wr iops iops_rd iops_wr"
        [arg("drive", Word), arg("bps", Number), arg("bps_rd", Number), arg("bps_wr", Number), arg("iops", Number), arg("iops_rd", Number), arg("iops_wr", Number)]
        "change I/O throttle limits for a block drive" => blocks::block_set_io_throttle;
    "block_stream" "device [speed [base]]" [arg("drive", Word), maybe("speed", Size), maybe("base", Word)]
        "copy data from a backing file into a block device" => blocks::block_stream;
    "chardev-add" "args" [arg("args", Rest)] "add chardev" => |shell, args, _| chardev_add(shell, args);
    "chardev-change" "id args" [arg("chardev", Word), arg("args", Rest)] "change chardev"
        => |shell, args, _| chardev_change(shell, args);
    "chardev-remove" "id" [arg("chardev", Word)] "remove chardev"
        => |shell, args, _| shell.machine.consoles().remove(args.needed("chardev"));
    "chardev-send-break" "id" [arg("chardev", Word)] "send a break on chardev"
        => |shell, args, _| shell.machine.consoles().send_break(args.needed("chardev"));
    "commit" "device|all" [arg("device", Word)]
        "commit changes to the disk images (if -snapshot is used) or backing files"
        => blocks::commit;
    "cont|c" "" [] "resume emulation" => |shell, _, _| shell.machine.life().cont();
    "cpu" "index" [arg("index", Small)] "set the default CPU" => cpu;
    "device_add" "driver[,prop=value][,...]" [arg("model", Rest)] "add device, like -device on the command line"
        => |shell, args, _| shell.machine.device_add(args.needed("model"));
    "device_del" "device" [arg("id", Word)] "remove device"
        => |shell, args, _| shell.machine.device_del(args.needed("id"));
    "drive_backup" "[-n] [-f] [-c] device target [format]"
        [maybe("reuse", Flag('n')), maybe("full", Flag('f')), maybe("compress", Flag('c')), arg("drive", Word), arg("target", Word), maybe("format", Word)]
        "initiates a point-in-time copy of a device in a new image file; -n reuses the file, -f copies the whole disk, -c compresses" => blocks::drive_backup;
    "drive_mirror" "[-n] [-f] device target [format]"
        [maybe("reuse", Flag('n')), maybe("full", Flag('f')), arg("drive", Word), arg("target", Word), maybe("format", Word)]
        "initiates live storage migration of a device to a new image file; -n reuses the file, -f copies the whole disk" => blocks::drive_mirror;
    "gdbserver" "[device]" [maybe("device", Rest)] "start gdbserver on given device (default 'tcp::1234'), stop with 'none'" => gdbserver;
    "gva2gpa" "addr" [arg("addr", Number)] "print the guest physical address corresponding to a guest virtual address" => gva2gpa;
    "help|?" "[cmd]" [maybe("command", Rest)] "show the help" => help;
    "hostfwd_add" "[netdev_id] [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport" [arg("arg1", Word), maybe("arg2", Word)]
        "redirect TCP or UDP connections from host to guest (requires -net user)" => networks::hostfwd_add;
    "hostfwd_remove" "[netdev_id] [tcp|udp]:[hostaddr]:hostport" [arg("arg1", Word), maybe("arg2", Word)]
        "remove host-to-guest TCP or UDP redirection" => networks::hostfwd_remove;
    "info" "[subcommand]" [maybe("command", Rest)] "show various information about the system state"
        => |_, _, _| Ok(());
    "log" "item1[,...]" [arg("items", Word)] "activate logging of the specified items" => log_items;
    "logfile" "filename" [arg("filename", File)] "output logs to 'filename'" => log_file;
    "memsave" "addr size file" [arg("addr", Number), arg("size", Small), arg("file", Word)]
        "save to disk virtual memory dump starting at 'addr' of size 'size'"
        => |shell, args, _| save(shell, args, Space::Virtual { cpu: shell.cpu });
    "netdev_add" "[user|tap|socket|stream|dgram|bridge|hubport],id=str[,prop=value][,...]" [arg("netdev", Rest)]
        "add host network device" => networks::netdev_add;
    "netdev_del" "id" [arg("id", Word)] "remove host network device" => networks::netdev_del;
    "nmi" "" [] "inject an NMI" => |shell, _, _| shell.machine.nmi();
    "pmemsave" "addr size file" [arg("addr", Number), arg("size", Number), arg("file", Word)]
        "save to disk physical memory dump starting at 'addr' of size 'size'"
        => |shell, args, _| save(shell, args, Space::Physical);
    "print|p" "/fmt expr" [arg("fmt", Format), arg("value", Number)]
        "print expression value (use $reg for CPU register access)"
        => |_, args, out| say(out, &memory::number(args.needed_number("value"), args.format()));
    "qemu-io" "[-d] [device] \"[command]\"" [maybe("qdev", Flag('d')), arg("drive", Word), arg("command", Word)]
        "run a qemu-io command on a block device\n\t\t\t-d: [device] is a device ID rather than a drive ID or node name" => blocks::qemu_io;
    "quit|q" "" [] "quit the emulator" => |shell, _, _| { shell.machine.life().quit(Cause::HostQuit); Ok(()) };
    "ringbuf_read" "device size" [arg("chardev", Word), arg("size", Small)]
        "Read from a ring buffer character device" => ringbuf_read;
    "ringbuf_write" "device data" [arg("chardev", Word), arg("data", Word)]
        "Write to a ring buffer character device" => ringbuf_write;
    "set_link" "name on|off" [arg("name", Word), arg("up", OnOff)] "change the link status of a network adapter"
        => networks::set_link;
    "snapshot_blkdev" "[-n] device [new-image-file] [format]"
        [maybe("reuse", Flag('n')), arg("drive", Word), maybe("snapshot-file", Word), maybe("format", Word)]
        "initiates live snapshot of device; the new image file becomes its top; -n reuses the file" => blocks::snapshot_blkdev;
    "stop|s" "" [] "stop emulation" => |shell, _, _| { shell.machine.life().stop(); Ok(()) };
    "sum" "addr size" [arg("start", Number), arg("size", Small)] "compute the checksum of a memory region" => sum;
    "system_powerdown" "" [] "send system power down event"
        => |shell, _, _| { shell.machine.life().powerdown(); Ok(()) };
    "system_reset" "" [] "reset the system"
        => |shell, _, _| { shell.machine.life().request_reset(Cause::HostReset); Ok(()) };
    "x" "/fmt addr" [arg("fmt", Format), arg("addr", Number)] "virtual memory dump starting at 'addr'"
        => |shell, args, out| dump(shell, args, Space::Virtual { cpu: shell.cpu }, out);
    "xp" "/fmt addr" [arg("fmt", Format), arg("addr", Number)] "physical memory dump starting at 'addr'"
        => |shell, args, out| dump(shell, args, Space::Physical, out);
}

fn say(out: &mut String, text: &str) -> Result<()> {
    out.push_str(text);
    out.push('\n');
    Ok(())
}

fn help(_shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    let Some(topic) = args.text("command") else {
        COMMANDS.iter().for_each(|row| out.push_str(&row.line()));
        return Ok(());
    };
    let mut words = topic.split_whitespace();
    match (words.next().unwrap_or_default(), words.next()) {
        ("info", None) => INFO.iter().for_each(|row| out.push_str(&format!("info {}", row.line()))),
        ("info", Some(sub)) => match find(INFO, sub) {
            Some(row) => out.push_str(&format!("info {}", row.line())),
            None => out.push_str(&format!("unknown command: 'info {sub}'\n")),
        },
        (name, _) => match find(COMMANDS, name) {
            Some(row) => {
                out.push_str(&row.line());
                if name == "log" {
                    out.push_str(&log::help());
                }
            }
            None => out.push_str(&format!("unknown command: '{name}'\n")),
        },
    }
    Ok(())
}

fn cpu(shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    let index = args.needed_number("index") as usize;
    if index >= shell.machine.cpus().len() {
        return say(out, "invalid CPU index");
    }
    shell.cpu = index;
    Ok(())
}

fn gdbserver(shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    let device = args.text("device").unwrap_or("tcp::1234");
    match shell.machine.gdbserver(device) {
        Err(e) => say(out, &format!("{}\nCould not open gdbserver on device '{device}'", crate::report(&e))),
        Ok(()) if device == "none" => say(out, "Disabled gdbserver"),
        Ok(()) => say(out, &format!("Waiting for gdb connection on device '{device}'")),
    }
}

fn log_items(_shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    let items = args.needed("items");
    if items == "none" {
        log::set_items(0);
        return Ok(());
    }
    match log::parse_items(items)? {
        Some(bits) => log::set_items(bits),
        None => out.push_str(&log::help()),
    }
    Ok(())
}

/// QEMU's words without its `Error:`.
fn log_file(_shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    match log::set_file(args.needed("filename")) {
        Ok(()) => Ok(()),
        Err(error) => say(out, &crate::report(&error)),
    }
}

fn save(shell: &Shell, args: &Args, space: Space) -> Result<()> {
    let (address, size) = (args.needed_number("addr"), args.needed_number("size"));
    memory::save(&*shell.machine, space, address, size, args.needed("file"))
}

fn dump(shell: &Shell, args: &Args, space: Space, out: &mut String) -> Result<()> {
    let text = memory::dump(&*shell.machine, space, args.needed_number("addr"), args.format())?;
    out.push_str(&text);
    Ok(())
}

fn gva2gpa(shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    match shell.machine.physical(shell.cpu, args.needed_number("addr")) {
        Some(address) => say(out, &format!("gpa: {address:#x}")),
        None => say(out, "Unmapped"),
    }
}

fn sum(shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    let sum = memory::sum(&*shell.machine, args.needed_number("start"), args.needed_number("size"))?;
    say(out, &format!("{sum:05}"))
}

fn chardev_add(shell: &Shell, args: &Args) -> Result<()> {
    shell.machine.consoles().add(&console::options::parse(args.needed("args"))?)
}

fn chardev_change(shell: &Shell, args: &Args) -> Result<()> {
    let id = args.needed("chardev");
    // The name stays, whatever the options say.
    let options = format!("{},id={id}", args.needed("args"));
    shell.machine.consoles().change(&console::options::parse(&options)?)
}

fn ringbuf_read(shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    let size = args.needed_number("size") as usize;
    let bytes = shell.machine.consoles().ringbuf_read(args.needed("chardev"), size)?;
    for character in String::from_utf8_lossy(&bytes).chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            c if c.is_control() && c != '\n' && c != '\t' && c != '\r' => {
                out.push_str(&format!("\\u{:04X}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('\n');
    Ok(())
}

fn ringbuf_write(shell: &mut Shell, args: &Args, _out: &mut String) -> Result<()> {
    shell.machine.consoles().ringbuf_write(args.needed("chardev"), args.needed("data").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::Fake;
    use super::*;

    fn run(line: &str) -> (Arc<Fake>, String) {
        let fake = Fake::new();
        let mut out = String::new();
        for line in line.split(" ; ") {
            out.clear();
            Shell::new(fake.clone(), 0).run(line, &mut out);
        }
        (fake, out)
    }

    fn check(line: &str, expected: &str) {
        assert_eq!(run(line).1, expected, "{line}");
    }

    #[test]
    fn run_control_reaches_the_machine() {
        let events = |line: &str| {
            let (fake, out) = run(line);
            assert_eq!(out, "", "{line}");
            fake.happened().join(" ")
        };
        assert_eq!(events("cont"), "Resume");
        assert_eq!(events("c ; s"), "Resume Stop");
        assert_eq!(events("system_powerdown"), "Powerdown");
        let (fake, _) = run("system_reset ; q");
        assert_eq!(fake_life(&fake).wait(), Cause::HostQuit);
        assert_eq!(fake.happened(), ["Reset(HostReset)", "Shutdown(HostQuit)"]);
    }

    fn fake_life(fake: &Fake) -> &crate::lifecycle::Lifecycle {
        use super::super::Machine;
        fake.life()
    }

    #[test]
    fn answers_are_qemus() {
        check("", "");
        check("foo", "unknown command: 'foo'\n");
        check("stop;cont", "unknown command: 'stop;cont'\n");
        check("help help", "help|? [cmd] -- show the help\n");
        check("? x y", "x /fmt addr -- virtual memory dump starting at 'addr'\n");
        check("help foo", "unknown command: 'foo'\n");
        check("help info foo", "unknown command: 'info foo'\n");
        check("help info status", "info status  -- show the current VM status (running|paused)\n");
        check("cpu 3", "invalid CPU index\n");
        check("cpu -1", "'cpu' has failed: integer is for 32-bit values\nTry \"help cpu\" for more information\n");
        check("cpu", "unexpected end of expression\nTry \"help cpu\" for more information\n");
        check("stop foo", "stop|s: extraneous characters at the end of line\nTry \"help stop\" for more information\n");
        check("p 4/0", "division by zero\nTry \"help p\" for more information\n");
        check("p $pc", "0x40000000\n");
        check("print /d -1", "-1\n");
        check("x/2xw 0x40000000", "40000000: 0xedfe0dd0 0x00001000\n");
        check("xp 0x40000000", "0000000040000000: 0xedfe0dd0\n");
        check("gva2gpa 0x40000010", "gpa: 0x40001010\n");
        check("gva2gpa 0xc0000000", "Unmapped\n");
        // What QEMU says of these bytes.
        check("sum 0x40000000 16", "40233\n");
        check("sum 0 16", "Error: there is nothing at 0x0\n");
        check("x /q 0", "invalid char in format: 'q'\nTry \"help x\" for more information\n");
        check("nmi", "Error: machine does not provide NMIs\n");
        check("log", "log: string expected\nTry \"help log\" for more information\n");
        check("logfile", "logfile: filename expected\nTry \"help logfile\" for more information\n");
        check("logfile /nodir/x", "Error opening logfile /nodir/x: No such file or directory\n");
        check("device_del foo", "Error: Device 'foo' not found\n");
        check("chardev-remove zz", "Error: Chardev 'zz' not found\n");
        check("chardev-add foo,id=q", "Error: 'foo' is not a valid char driver name\n");
        check("chardev-add foo", "Error: chardev: no id specified\n");
        check("set_link c maybe", "Expected 'on' or 'off'\nTry \"help set_link\" for more information\n");
        check("set_link c", "Expected 'on' or 'off'\nTry \"help set_link\" for more information\n");
        check("set_link c on", "Error: Device 'c' not found\n");
        check("hostfwd_add tcp::0-:22", "user mode network stack not in use\n");
        check("hostfwd_remove tcp::0", "user mode network stack not in use\n");
        check("netdev_del foo", "Error: Device 'foo' not found\n");
        check("chardev-send-break q", "Error: Chardev 'q' not found\n");
    }

    #[test]
    fn every_command_is_in_the_help() {
        let (_, text) = run("help");
        assert!(text.contains("quit|q  -- quit the emulator\n") && COMMANDS.iter().all(|row| text.contains(&row.line())), "{text}");
        let (_, text) = run("info");
        assert_eq!(text, run("help info").1);
        assert!(text.contains("info kvm  -- show KVM information\n"), "{text}");
    }

    #[test]
    fn ring_buffers_are_written_and_read() {
        check("chardev-add ringbuf,id=r ; ringbuf_write r \"a\\nb\" ; ringbuf_read r 10", "a\nb\n");
        check("chardev-add null,id=r ; ringbuf_read r 10", "Error: r is not a ringbuf device\n");
        check("chardev-add null,id=r ; chardev-change r ringbuf ; ringbuf_write r hi ; ringbuf_read r 10", "hi\n");
    }

    #[test]
    fn memory_is_saved_without_quotes_too() {
        let path = std::env::temp_dir().join(format!("pmemsave-{}", std::process::id()));
        check(&format!("pmemsave 0x40000000 4 {}", path.display()), "");
        assert_eq!(std::fs::read(&path).unwrap(), [0xd0, 0x0d, 0xfe, 0xed]);
        std::fs::remove_file(path).unwrap();
        check("memsave 0x40000000 4", "memsave: string expected\nTry \"help memsave\" for more information\n");
    }
}
