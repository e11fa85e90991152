//! The command line of a system emulator, in QEMU's spelling: one row per option.
//!
//! Reference: the option list and the messages of `qemu-system-arm` 10.0.2.
//!
//! **Not modelled**: the options of `options/refused.rs`, which end in a clear error.
//!
//! Options are collected into a [`Config`]; nothing is opened here. Errors name the option with its value.

mod machine;
mod refused;
mod values;

use crate::config::{Config, Display, Given, Redirect};
use crate::settings::Settings;
use spec::{Error, Result};
use std::ffi::OsString;

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    Run(Box<Config>),
    /// Print this and end with the status.
    Print(String, u8),
}

/// An option's answer: go on, or print and end.
type Answer = Result<Option<Request>>;

struct Row {
    names: &'static [&'static str],
    /// The value as `-h` shows it; empty for an option without one.
    value: &'static str,
    help: &'static str,
    set: fn(&mut Config, &Arg) -> Answer,
}

/// An option as given.
pub(crate) struct Arg<'a> {
    /// With its dash.
    name: &'a str,
    value: &'a str,
}

impl Arg<'_> {
    fn text(&self) -> String {
        format!("{} {}", self.name, self.value).trim_end().to_owned()
    }

    fn given(&self, implied: Option<&str>) -> Result<Given> {
        Ok(Given { option: self.text(), settings: Settings::parse(self.value, implied)? })
    }

    fn redirect(&self) -> Redirect {
        Redirect { option: self.name.to_owned(), device: self.value.to_owned() }
    }

    fn some(&self) -> Option<String> {
        Some(self.value.to_owned())
    }
}

macro_rules! options {
    ($($(#[doc = $doc:literal])* $($name:literal)|+ $value:literal => $set:expr;)*) => {
        static ROWS: &[Row] = &[$(Row { names: &[$($name),+], value: $value, help: concat!($($doc, "\n"),*), set: $set },)*];
    };
}

options! {
    /// display this help and exit
    "h" | "help" "" => |_, _| print(help(), 0);
    /// display version information and exit
    "version" "" => |_, _| print(version(), 0);
    /// selects emulated machine ('-machine help' for list)
    "machine" | "M" "[type=]name[,prop[=value][,...]]" => machine::machine;
    /// select CPU ('-cpu help' for list)
    "cpu" "cpu" => machine::cpu;
    /// select accelerator (tcg; use 'help' for a list)
    /// one-insn-per-tb=on|off (one guest instruction per translation)
    /// tb-size=n (size of the translation cache in MiB)
    /// thread=single|multi (one host thread for all vCPUs, or one each)
    "accel" "[accel=]accelerator[,prop[=value][,...]]" => machine::accel;
    /// virtual time counts instructions, 2^N nanoseconds each
    /// (or as many as make it run like the host's); align: it does not run ahead of the host's;
    /// sleep=off: it does not wait while the machine sleeps
    "icount" "[shift=]N|auto[,align=on|off][,sleep=on|off]" => machine::icount;
    /// as -accel kvm:tcg
    "enable-kvm" "" => machine::enable_kvm;
    /// set the number of CPUs to 'n' [default=1]
    "smp" "[[cpus=]n][,maxcpus=n][,sockets=n][,clusters=n][,cores=n][,threads=n]" => machine::smp;
    /// configure guest RAM: initial amount in MiB, or with a suffix
    "m" "[size=]megs" => machine::memory;
    /// set a property's default for all devices of a type
    "global" "driver.property=value" => values::global;
    /// firmware's boot order and menu
    "boot" "[order=drives][,once=drives][,menu=on|off]" => |c, a| { c.boot.merge(Settings::parse(a.value, Some("order"))?); done() };
    /// set the name of the guest
    "name" "string1[,process=string2][,debug-threads=on|off]" => values::name;
    /// specify machine UUID
    "uuid" "%08x-%04x-%04x-%04x-%012x" => values::uuid;
    /// add device (based on driver); use '-device help' for a list, '-device driver,help' for properties
    "device" "driver[,prop[=value][,...]]" => values::device;

    /// use 'file' as hard disk 0 image
    "hda" "file" => |c, a| drive(c, a, "index=0,media=disk");
    /// use 'file' as hard disk 1 image
    "hdb" "file" => |c, a| drive(c, a, "index=1,media=disk");
    /// use 'file' as hard disk 2 image
    "hdc" "file" => |c, a| drive(c, a, "index=2,media=disk");
    /// use 'file' as hard disk 3 image
    "hdd" "file" => |c, a| drive(c, a, "index=3,media=disk");
    /// use 'file' as CD-ROM image
    "cdrom" "file" => |c, a| drive(c, a, "index=2,media=cdrom");
    /// configure a block backend
    "blockdev" "[driver=]driver[,node-name=N][,read-only=on|off][,...]" => |c, a| { c.blockdevs.push(a.given(Some("driver"))?); done() };
    /// use 'file' as a drive image
    "drive" "[file=file][,if=type][,index=i][,unit=m][,media=d][,format=f][,cache=...][,readonly=on|off][,id=name]"
        => |c, a| { c.drives.push(a.given(None)?); done() };
    /// use 'file' as a parallel flash image
    "pflash" "file" => |c, a| drive(c, a, "if=pflash");
    /// write to temporary files instead of disk image files
    "snapshot" "" => |c, _| { c.snapshot = true; done() };

    /// select display type (none)
    "display" "none" => values::display;
    /// disable graphical output and redirect serial I/Os to console
    "nographic" "" => |c, _| { c.display = Display::Nographic; done() };
    /// graphics card; 'none' is what these machines have
    "vga" "none" => values::vga;

    /// configure a network backend with ID 'str'
    "netdev" "type,id=str[,...]" => values::netdev;
    /// initialize an on-board / default host NIC and connect it to the host network backend
    "nic" "[tap|bridge|user|socket|none][,option][,...][,mac=macaddr][,model=mn]" => values::nic;
    /// old way of -nic and -netdev
    "net" "nic|user|tap|none[,option][,...]" => values::net;
    /// add a character device; use '-chardev help' for a list
    "chardev" "type,id=id[,...]" => values::chardev;
    /// create a new object of type TYPENAME
    "object" "TYPENAME[,PROP1=VALUE1,...]" => |c, a| { c.objects.push(a.given(Some("qom-type"))?); done() };

    /// set the filename for the firmware
    "bios" "file" => |c, a| { c.bios = a.some(); done() };
    /// directory for firmware
    "L" "path" => |c, a| { c.data_dirs.push(a.value.to_owned()); done() };
    /// use 'file' as kernel image
    "kernel" "file" => |c, a| { c.kernel = a.some(); done() };
    /// use 'cmdline' as kernel command line
    "append" "cmdline" => |c, a| { c.append = a.some(); done() };
    /// use 'file' as initial ram disk
    "initrd" "file" => |c, a| { c.initrd = a.some(); done() };
    /// use 'file' as device tree image
    "dtb" "file" => |c, a| { c.dtb = a.some(); done() };
    /// add named fw_cfg entry with contents from file or string
    "fw_cfg" "[name=]<name>,file=<file>|string=<str>" => |c, a| { c.fw_cfg.push(a.given(Some("name"))?); done() };

    /// redirect the serial port to char device 'dev'
    "serial" "dev" => |c, a| { c.serials.push(a.redirect()); c.defaults.serial = false; if a.value.starts_with("mon:") { c.defaults.monitor = false } done() };
    /// redirect the monitor to char device 'dev'
    "monitor" "dev" => |c, a| { c.defaults.monitor = false; if a.value != "none" { c.monitors.push(a.redirect()) } done() };
    /// like -monitor but opens in 'control' mode
    "qmp" "dev" => |c, a| { c.defaults.monitor = false; c.qmps.push(a.redirect()); done() };
    /// like -qmp but uses pretty JSON formatting
    "qmp-pretty" "dev" => |c, a| { c.defaults.monitor = false; c.qmps.push(a.redirect()); done() };
    /// a monitor on a character device
    "mon" "[chardev=]name[,mode=readline|control][,pretty[=on|off]]" => |c, a| { c.defaults.monitor = false; c.mons.push(a.given(Some("chardev"))?); done() };
    /// set terminal escape character instead of ctrl-a
    "echr" "chr" => values::escape;
    /// write PID to 'file'
    "pidfile" "file" => |c, a| { c.pid_file = a.some(); done() };
    /// freeze CPU at startup (use 'c' to start execution)
    "S" "" => |c, _| { c.stopped = true; done() };
    /// accept gdb connection on 'dev'
    "gdb" "dev" => |c, a| { c.gdb = a.some(); done() };
    /// shorthand for -gdb tcp::1234
    "s" "" => |c, _| { c.gdb = Some("tcp::1234".into()); done() };
    /// enable logging of specified items (use '-d help' for a list of log items)
    "d" "item1,..." => values::log_items;
    /// output log to logfile (default stderr)
    "D" "logfile" => |c, a| { c.log_file = a.some(); done() };
    /// filter debug output to range of addresses
    "dfilter" "range,.." => |c, a| { c.log_filter = jit::trace::Filter::parse(a.value)?; done() };
    /// seed the pseudo-random number generator
    "seed" "number" => values::seed;
    /// exit instead of rebooting
    "no-reboot" "" => |c, _| { c.actions.reboot_ends = true; done() };
    /// stop before shutdown
    "no-shutdown" "" => |c, _| { c.actions.shutdown_pauses = true; done() };
    /// what a guest's reboot and shutdown do
    "action" "reboot=reset|shutdown | shutdown=poweroff|pause | panic=... | watchdog=..." => values::action;
    /// daemonize after initializing
    "daemonize" "" => |c, _| { c.daemonize = true; done() };
    /// set the RTC base and clock
    "rtc" "[base=utc|localtime|<datetime>][,clock=host|rt|vm][,driftfix=none|slew]" => values::rtc;
    /// don't create default devices
    "nodefaults" "" => |c, _| { (c.defaults.serial, c.defaults.monitor, c.defaults.net) = (false, false, false); done() };
    /// do not load user-provided config files at startup (none are)
    "no-user-config" "" => |_, _| done();
    /// prepend a timestamp to each message: only off is possible
    "msg" "[timestamp[=on|off]][,guest-name=[on|off]]" => values::message;
}

fn done() -> Answer {
    Ok(None)
}

fn print(text: String, status: u8) -> Answer {
    Ok(Some(Request::Print(text, status)))
}

fn drive(c: &mut Config, a: &Arg, settings: &str) -> Answer {
    let mut settings = Settings::parse(settings, None)?;
    settings.push("file", a.value);
    c.drives.push(Given { option: a.text(), settings });
    done()
}

fn version() -> String {
    format!("QEMU emulator version {} (Rhea {})\n", crate::QEMU_VERSION, env!("CARGO_PKG_VERSION"))
}

fn help() -> String {
    use std::fmt::Write;
    let mut out = version() + "usage: qemu-system-arm [options] [disk_image]\n\n'disk_image' is a raw hard disk image\n\n";
    for row in ROWS {
        let names: Vec<String> = row.names.iter().map(|n| format!("-{n}")).collect();
        let option = format!("{} {}", names.join(" or "), row.value);
        let mut lines = row.help.lines().map(str::trim);
        if option.len() < 16 {
            let _ = writeln!(out, "{option:<15} {}", lines.next().unwrap_or_default());
        } else {
            let _ = writeln!(out, "{}", option.trim_end());
        }
        for line in lines {
            let _ = writeln!(out, "{:16}{line}", "");
        }
    }
    out + "\nWhen using -nographic, press 'ctrl-a h' to get some help.\n"
}

/// Parses the arguments after the program's own name.
pub fn parse(program: &'static str, args: impl IntoIterator<Item = OsString>) -> Result<Request> {
    let mut config = Config::new(program);
    let mut args = args.into_iter().map(|a| a.to_string_lossy().into_owned());
    while let Some(word) = args.next() {
        let Some(name) = word.strip_prefix('-').filter(|n| !n.is_empty()) else {
            let arg = Arg { name: "", value: &word };
            drive(&mut config, &arg, "index=0,media=disk")?;
            config.drives.last_mut().expect("just added").option = word.clone();
            continue;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        let dashed = format!("-{name}");
        let Some(row) = ROWS.iter().find(|r| r.names.contains(&name)) else {
            return Err(refused::refuse(name).unwrap_or_else(|| Error::new(format!("{word}: invalid option"))));
        };
        let mut value = String::new();
        if !row.value.is_empty() {
            value = args.next().ok_or_else(|| Error::new(format!("{word}: requires an argument")))?;
        }
        let arg = Arg { name: &dashed, value: &value };
        let answer = (row.set)(&mut config, &arg).map_err(|e| in_option(&arg, row, e))?;
        if let Some(request) = answer {
            return Ok(request);
        }
    }
    machine::settle(&mut config)?;
    Ok(Request::Run(Box::new(config)))
}

/// Options whose errors QEMU prints without the option's text, because it finds them later.
const LATE: [&str; 5] = ["machine", "cpu", "smp", "rtc", "enable-kvm"];

fn in_option(arg: &Arg, row: &Row, e: Error) -> Error {
    if LATE.contains(&row.names[0]) {
        return e;
    }
    Error::new(format!("{}: {e}", arg.text()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn request(args: &str) -> Result<Request> {
        parse("qemu-system-arm", args.split(' ').filter(|w| !w.is_empty()).map(OsString::from))
    }

    pub(crate) fn config(args: &str) -> Config {
        match request(args) {
            Ok(Request::Run(c)) => *c,
            other => panic!("{args}: {other:?}"),
        }
    }

    pub(crate) fn refused(args: &str) -> String {
        request(args).unwrap_err().to_string()
    }

    #[test]
    fn the_seeds_command_line() {
        let c = config("-M virt -cpu cortex-a15 -m 512M -nographic -kernel vmlinuz -initrd initrd -append console=ttyAMA0");
        assert_eq!(c.machine_type.as_deref(), Some("virt"));
        assert_eq!((c.memory, c.display), (512 << 20, Display::Nographic));
        assert_eq!((c.kernel.as_deref(), c.initrd.as_deref(), c.append.as_deref()), (Some("vmlinuz"), Some("initrd"), Some("console=ttyAMA0")));
    }

    #[test]
    fn mistakes_have_qemus_sentences() {
        for (args, sentence) in [
            ("", "No machine specified, and there is no default\nUse -machine help to list supported machines"),
            ("-M foo", "unsupported machine type: \"foo\"\nUse -machine help to list supported machines"),
            ("-foo", "-foo: invalid option"),
            ("-M virt -cpu foo", "unable to find CPU model 'foo'"),
            ("-M virt -cpu cortex-a9", "Invalid CPU model: cortex-a9\nThe valid models are: cortex-a7, cortex-a15, max"),
            ("-M virt -m", "-m: requires an argument"),
            ("-M virt -append x", "-append only allowed with -kernel option"),
            ("-M virt -initrd x", "-initrd only allowed with -kernel option"),
            ("-M virt -smp 0", "Invalid CPU topology: CPU topology parameters must be greater than zero"),
            (
                "-M virt -smp 3,cores=2",
                "Invalid CPU topology: product of the hierarchy must match maxcpus: sockets (1) * clusters (1) * cores (2) * threads (1) != maxcpus (3)",
            ),
            ("-M virt -smp 513", "Invalid SMP CPUs 513. The max CPUs supported by machine 'virt-10.0' is 512"),
            ("-accel foo -M virt", "-accel foo: invalid accelerator foo"),
            ("-M virt -accel tcg,thread=foo", "-accel tcg,thread=foo: Invalid 'thread' setting foo"),
            ("-M virt -accel tcg,foo=1", "-accel tcg,foo=1: Property 'tcg-accel.foo' not found"),
            ("-uuid foo -M virt", "-uuid foo: failed to parse UUID string: wrong format"),
            ("-rtc base=foo -M virt", "invalid datetime format\nvalid formats: '2006-06-17T16:01:21' or '2006-06-17'"),
            ("-M virt -action foo=1", "-action foo=1: Invalid parameter 'foo'"),
            ("-M virt -action reboot=foo", "-action reboot=foo: Parameter 'reboot' does not accept value 'foo'"),
            ("-M virt -display foo", "-display foo: Parameter 'type' does not accept value 'foo'"),
            ("-M virt -dfilter 5", "-dfilter 5: Bad range specifier"),
            ("-M virt -d strace", "-d strace: item 'strace' is not supported yet"),
            ("-M virt -icount 11", "-icount 11: icount: Invalid shift value"),
            ("-M virt -icount align=on", "-icount align=on: Please specify shift option when using align"),
            ("-M virt -icount 3,align=on,sleep=off", "-icount 3,align=on,sleep=off: align=on and sleep=off are incompatible"),
            ("-M virt -icount 3,foo=1", "-icount 3,foo=1: Invalid parameter 'foo'"),
            ("-M virt -icount 3 -accel tcg,thread=multi", "-accel tcg,thread=multi: No MTTCG when icount is enabled"),
        ] {
            assert_eq!(request(args).unwrap_err().to_string(), sentence, "{args}");
        }
        let e = request("-M virt -m 4x").unwrap_err().to_string();
        assert!(e.starts_with("-m 4x: Parameter 'size' expects a non-negative number below 2^64\nOptional suffix"), "{e}");
    }

    #[test]
    fn help_ends_with_status_zero_and_log_help_with_one() {
        for (args, status, start) in [
            ("-M help", 0, "Supported machines are:\nvirt "),
            ("-cpu help", 0, "Available CPUs:\n"),
            ("-accel help", 0, "Accelerators supported in QEMU binary:\ntcg\n"),
            ("-d help", 1, "Log items (comma separated):\n"),
            ("--version", 0, "QEMU emulator version 10.0.2 (Rhea "),
            ("-h", 0, "QEMU emulator version 10.0.2 (Rhea "),
        ] {
            let Ok(Request::Print(text, got)) = request(args) else { panic!("{args}") };
            assert_eq!(got, status, "{args}");
            assert!(text.starts_with(start), "{args}: {text}");
        }
    }

    #[test]
    fn every_option_has_one_row() {
        let mut names: Vec<&str> = ROWS.iter().flat_map(|r| r.names).copied().collect();
        assert!(names.iter().all(|n| refused::refuse(n).is_none()));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(ROWS.iter().all(|r| !r.help.trim().is_empty()));
    }

    #[test]
    fn a_word_without_dash_is_a_disk() {
        let c = config("-M virt disk.img");
        assert_eq!(c.drives[0].option, "disk.img");
        assert_eq!(c.drives[0].settings.get("file"), Some("disk.img"));
    }

    #[test]
    fn defaults_go_with_what_is_given() {
        let d = |args| config(args).defaults;
        assert!(d("-M virt").serial && d("-M virt").monitor && d("-M virt").net);
        assert!(!d("-M virt -serial mon:stdio").monitor);
        assert!(d("-M virt -serial null").monitor);
        assert!(!d("-M virt -nodefaults").net);
        assert!(!d("-M virt -nic none").net);
    }
}
