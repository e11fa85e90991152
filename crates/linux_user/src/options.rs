//! The command line and its environment variables, in QEMU's spelling.
//!
//! Environment variables come first, options override them; parsing stops at the first argument that is no option.
//! `-seccomp-filters`, `-limits` and `-debugger` are not for users: with them, execve hands on to the emulator of the next program
//! what the kernel would keep (`seccomp.rs`, `call/process.rs`, `debug/follow.rs`).
//!
//! **Not modelled**: `-trace`, `-plugin` (clear errors for now).

use crate::debug::follow::Handed;
use crate::log;
use jit::trace::Filter;
use spec::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What to do.
#[derive(Debug)]
pub enum Request {
    Run(Box<Options>),
    /// Print this and end with the status.
    Print(String, u8),
}

/// The options of one run.
#[derive(Clone, Debug)]
pub struct Options {
    pub prefix: Option<OsString>,
    pub stack_size: u32,
    pub cpu: &'static arm::Model,
    /// Its name, as long as it may be overridden.
    cpu_name: Option<String>,
    /// Changes of the environment, in order: (name, value or none to unset).
    pub env: Vec<(OsString, Option<OsString>)>,
    pub argv0: Option<OsString>,
    pub uname: Option<String>,
    pub strace: bool,
    pub log_items: u32,
    pub log_file: Option<OsString>,
    pub seed: Option<u64>,
    pub one_insn_per_tb: bool,
    pub tb_size: Option<usize>,
    /// Execute with the IR interpreter (`QEMU_INTERPRET`, for tests of the translator).
    pub interpret: bool,
    pub gdb: Option<gdb::Address>,
    /// The debugger of the program before execve.
    pub debugger: Option<Handed>,
    /// Descriptor of the seccomp filters that a parent leaves across execve.
    pub seccomp: Option<i32>,
    /// Limits that are kept here, from the program before: resource, soft, hard.
    pub limits: Vec<(u32, u64, u64)>,
    /// The log is that of the program that started this one.
    pub append_log: bool,
    pub filter: Filter,
    pub perfmap: bool,
    pub jitdump: bool,
    pub program: OsString,
    pub args: Vec<OsString>,
    /// The options as given, for a child that runs under the same emulator.
    pub passed: Vec<OsString>,
}

/// One option.
struct Row {
    name: &'static str,
    env: &'static str,
    /// The word for the value in `-h`; empty for none.
    value: &'static str,
    help: &'static str,
    set: fn(&mut Options, &OsStr) -> Result<Option<Request>>,
}

macro_rules! options {
    ($($name:literal $value:literal $env:literal $help:literal => $set:expr;)*) => {
        static ROWS: &[Row] = &[$(Row { name: $name, env: $env, value: $value, help: $help, set: $set },)*];
    };
}

options! {
    "h" "" "" "print this help" => |_, _| Ok(Some(Request::Print(help(), 0)));
    "help" "" "" "" => |_, _| Ok(Some(Request::Print(help(), 0)));
    "g" "port" "QEMU_GDB" "wait gdb connection to 'port'" => |o, v| { o.gdb = Some(gdb::Address::parse(&text(v)).map_err(|e| Error::new(format!("qemu-arm: {e}")))?); done() };
    "L" "path" "QEMU_LD_PREFIX" "set the elf interpreter prefix to 'path'" => |o, v| { o.prefix = Some(v.into()); done() };
    "s" "size" "QEMU_STACK_SIZE" "set the stack size to 'size' bytes" => |o, v| { o.stack_size = stack_size(v)?; done() };
    "cpu" "model" "QEMU_CPU" "select CPU (-cpu help for list)" => set_cpu;
    "E" "var=value" "QEMU_SET_ENV" "sets targets environment variable (see below)" => set_env;
    "U" "var" "QEMU_UNSET_ENV" "unsets targets environment variable (see below)" => unset_env;
    "0" "argv0" "QEMU_ARGV0" "forces target process argv[0] to be 'argv0'" => |o, v| { o.argv0 = Some(v.into()); done() };
    "r" "uname" "QEMU_UNAME" "set qemu uname release string to 'uname'" => |o, v| { o.uname = Some(text(v)); done() };
    "B" "address" "QEMU_GUEST_BASE" "set guest_base address to 'address'" => |_, v| { base(v)?; done() };
    "R" "size" "QEMU_RESERVED_VA" "reserve 'size' bytes for guest virtual address space" => |_, v| { reserved(v)?; done() };
    "t" "tsig hsig n[,...]" "QEMU_RTSIG_MAP" "map target rt signals [tsig,tsig+n) to [hsig,hsig+n)" => |_, v| { real_time_signals(v)?; done() };
    "d" "item[,...]" "QEMU_LOG" "enable logging of specified items (use '-d help' for a list of items)" => set_log;
    "dfilter" "range[,...]" "QEMU_DFILTER" "filter logging based on address range" => |o, v| { o.filter = filter(v)?; done() };
    "D" "logfile" "QEMU_LOG_FILENAME" "write logs to 'logfile' (default stderr)" => |o, v| { o.log_file = Some(v.into()); done() };
    "p" "pagesize" "QEMU_PAGESIZE" "deprecated change to host page size" => page_size;
    "one-insn-per-tb" "" "QEMU_ONE_INSN_PER_TB" "run with one guest instruction per emulated TB" => |o, _| { o.one_insn_per_tb = true; done() };
    "tb-size" "size" "QEMU_TB_SIZE" "TCG translation block cache size" => |o, v| { o.tb_size = Some(number("tb-size", v)? as usize); done() };
    "strace" "" "QEMU_STRACE" "log system calls" => |o, _| { o.strace = true; done() };
    "seed" "" "QEMU_RAND_SEED" "Seed for pseudo-random number generator" => set_seed;
    "trace" "" "QEMU_TRACE" "[[enable=]<pattern>][,events=<file>][,file=<file>]" => |_, _| not_yet("-trace");
    "plugin" "" "QEMU_PLUGIN" "[file=]<file>[,<argname>=<argvalue>]" => |_, _| not_yet("-plugin");
    "seccomp-filters" "fd" "" "" => |o, v| { o.seccomp = Some(number("seccomp-filters", v)? as i32); done() };
    "limits" "list" "" "" => set_limits;
    "append-log" "" "" "" => |o, _| { o.append_log = true; done() };
    "debugger" "connection" "" "" => set_debugger;
    "version" "" "QEMU_VERSION" "display version information and exit" => |_, _| Ok(Some(Request::Print(version(), 0)));
    "perfmap" "" "QEMU_PERFMAP" "Generate a /tmp/perf-${pid}.map file for perf" => |o, _| { o.perfmap = true; done() };
    "jitdump" "" "QEMU_JITDUMP" "Generate a jit-${pid}.dump file for perf" => |o, _| { o.jitdump = true; done() };
}

/// What a parent says to the emulator of the next program.
const HIDDEN: [&str; 4] = ["seccomp-filters", "limits", "debugger", "append-log"];

/// Options whose `-h` line shows no value although they take one.
const SILENT_VALUE: [&str; 3] = ["seed", "trace", "plugin"];

const STACK_SIZE: u32 = 8 << 20;
const MIN_STACK: u64 = 64 << 10;
const MAX_STACK: u64 = 2 << 30;
const HOST_PAGE: u64 = 4096;
pub const DEFAULT_PREFIX: &str = "/usr/gnemul/qemu-arm";

fn done() -> Result<Option<Request>> {
    Ok(None)
}

fn not_yet(what: &str) -> Result<Option<Request>> {
    Err(Error::new(format!("qemu-arm: {what}: not supported yet")))
}

fn text(v: &OsStr) -> String {
    v.to_string_lossy().into_owned()
}

/// A number in C notation (decimal, 0x, leading 0).
fn number(option: &str, v: &OsStr) -> Result<u64> {
    let s = text(v);
    let parsed = match s.strip_prefix("0x").or_else(|| s.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None if s.len() > 1 && s.starts_with('0') => u64::from_str_radix(&s[1..], 8),
        None => s.parse(),
    };
    parsed.map_err(|_| Error::new(format!("qemu-arm: -{option} {s}: not a number")))
}

/// Smaller ones are raised to what programs need to begin at all, as QEMU does.
fn stack_size(v: &OsStr) -> Result<u32> {
    let s = text(v);
    let (digits, scale) = match s.as_bytes().last() {
        Some(b'G' | b'g') => (&s[..s.len() - 1], 1 << 30),
        Some(b'M' | b'm') => (&s[..s.len() - 1], 1 << 20),
        Some(b'K' | b'k') => (&s[..s.len() - 1], 1 << 10),
        _ => (&s[..], 1),
    };
    let size = number("s", OsStr::new(digits))?.saturating_mul(scale);
    if !(1..=MAX_STACK).contains(&size) {
        return Err(Error::new(format!("qemu-arm: -s {s}: the stack size must lie between 1 and 2G")));
    }
    Ok(size.max(MIN_STACK) as u32)
}

/// `-B`: where guest memory begins is the host's choice, so the value is only checked.
fn base(v: &OsStr) -> Result<()> {
    let s = text(v);
    if number("B", v)? % HOST_PAGE != 0 {
        return Err(Error::new(format!("Requested guest base {s} does not satisfy host minimum alignment ({HOST_PAGE:#x})")));
    }
    Ok(())
}

/// `-R`: the whole 4 GiB are always reserved, so the value is only checked.
fn reserved(v: &OsStr) -> Result<()> {
    let s = text(v);
    let radix = if s.starts_with("0x") || s.starts_with("0X") { 16 } else { 10 };
    let prefix = if radix == 16 { 2 } else { 0 };
    let end = s[prefix..].find(|c: char| !c.is_digit(radix)).map_or(s.len(), |n| n + prefix);
    let (digits, suffix) = s.split_at(end);
    let unknown = |rest: &str| Error::new(format!("Unrecognised -R size suffix '{rest}'"));
    let size = if digits.is_empty() { 0 } else { number("R", OsStr::new(digits)).map_err(|_| unknown(&s))? };
    let mut rest = suffix.chars();
    let scale = match rest.next() {
        None => 1,
        Some('k' | 'K') => 1 << 10,
        Some('M') => 1 << 20,
        Some('G') => 1 << 30,
        Some(_) => return Err(unknown(suffix)),
    };
    if !rest.as_str().is_empty() || digits.is_empty() && !s.is_empty() {
        return Err(unknown(rest.as_str()));
    }
    match size.saturating_mul(scale) {
        size if size % HOST_PAGE != 0 => Err(Error::new("Reserved virtual address not aligned mod 4 KiB")),
        size if size > 1 << 32 => Err(Error::new("Reserved virtual address too big")),
        _ => Ok(()),
    }
}

/// `-t`: all signals of the guest have the host's numbers, of which none is taken away. Maps that say so are welcome.
fn real_time_signals(v: &OsStr) -> Result<()> {
    for item in comma_list(v) {
        let item = text(&item);
        let mut words = item.split_whitespace();
        let mut next = |what: &str| {
            let number = words.next().and_then(|w| w.parse::<u32>().ok());
            number.ok_or_else(|| Error::new(format!("Malformed {what} in QEMU_RTSIG_MAP")))
        };
        let (guest, host, count) = (next("target signal")?, next("host signal")?, next("signal count")?);
        if words.next().is_some() {
            return Err(Error::new("Malformed signal count in QEMU_RTSIG_MAP"));
        }
        for (first, whose) in [(guest, "target"), (host, "host")] {
            let outside = (first..first.saturating_add(count)).find(|s| !(32..=64).contains(s));
            if let Some(signal) = outside {
                return Err(Error::new(format!("{signal} is not a {whose} rt signal")));
            }
        }
        if guest != host {
            return Err(Error::new(format!("qemu-arm: -t {item}: other numbers for signals are not supported yet; the guest has all of the host's")));
        }
    }
    Ok(())
}

/// The model is looked up when all options are known, because the command line overrides the environment.
fn set_cpu(o: &mut Options, v: &OsStr) -> Result<Option<Request>> {
    let name = text(v);
    if name == "help" || name == "?" {
        // QEMU's status.
        return Ok(Some(Request::Print(arm::features::help(), 1)));
    }
    o.cpu_name = Some(name);
    done()
}

fn model(name: &str) -> Result<&'static arm::Model> {
    let (model, properties) = name.split_once(',').unwrap_or((name, ""));
    if model.is_empty() {
        return Err(Error::new("qemu-arm: -cpu option cannot be empty"));
    }
    let unknown = || Error::new(format!("qemu-arm: unable to find CPU model '{model}'"));
    let found = arm::features::model(model).ok_or_else(unknown)?;
    if !properties.is_empty() {
        return Err(Error::new(format!("qemu-arm: -cpu {name}: properties of a model are not supported yet")));
    }
    Ok(found)
}

/// Splits at commas; a doubled comma stands for itself.
fn comma_list(v: &OsStr) -> Vec<OsString> {
    v.as_bytes().split(|b| *b == b',').map(|p| OsString::from_vec(p.to_vec())).collect()
}

fn set_env(o: &mut Options, v: &OsStr) -> Result<Option<Request>> {
    for item in comma_list(v) {
        let bytes = item.as_bytes();
        let Some(eq) = bytes.iter().position(|b| *b == b'=') else {
            return Err(Error::new(format!("qemu-arm: -E {}: expected var=value", text(&item))));
        };
        let (name, value) = (OsStr::from_bytes(&bytes[..eq]), OsStr::from_bytes(&bytes[eq + 1..]));
        o.env.push((name.into(), Some(value.into())));
    }
    done()
}

fn unset_env(o: &mut Options, v: &OsStr) -> Result<Option<Request>> {
    for item in comma_list(v) {
        if item.as_bytes().contains(&b'=') {
            return Err(Error::new(format!("qemu-arm: -U {}: a name has no '='", text(&item))));
        }
        o.env.push((item, None));
    }
    done()
}

fn set_log(o: &mut Options, v: &OsStr) -> Result<Option<Request>> {
    match log::parse_items(&text(v))? {
        Some(items) => o.log_items |= items,
        None => return Ok(Some(Request::Print(log::help(), 1))),
    }
    done()
}

/// `RESOURCE:SOFT:HARD,...`, as `limits_text` writes it.
fn set_limits(o: &mut Options, v: &OsStr) -> Result<Option<Request>> {
    for item in comma_list(v) {
        let numbers = text(&item).split(':').map(|n| number("limits", OsStr::new(n))).collect::<Result<Vec<u64>>>()?;
        let [resource, soft, hard] = numbers[..] else {
            return Err(Error::new(format!("qemu-arm: -limits {}: expected resource:soft:hard", text(&item))));
        };
        o.limits.push((resource as u32, soft, hard));
    }
    done()
}

fn set_debugger(o: &mut Options, v: &OsStr) -> Result<Option<Request>> {
    let bad = || Error::new(format!("qemu-arm: -debugger {}: not what an emulator hands on", text(v)));
    o.debugger = Some(Handed::parse(&text(v)).ok_or_else(bad)?);
    done()
}

/// The value of `-limits`.
pub fn limits_text(limits: impl Iterator<Item = (u32, u64, u64)>) -> String {
    limits.map(|(resource, soft, hard)| format!("{resource}:{soft}:{hard}")).collect::<Vec<_>>().join(",")
}

fn filter(v: &OsStr) -> Result<Filter> {
    if v.is_empty() {
        return Ok(Filter::default());
    }
    Filter::parse(&text(v)).map_err(|e| Error::new(format!("qemu-arm: {e}")))
}

fn page_size(_: &mut Options, v: &OsStr) -> Result<Option<Request>> {
    if number("p", v).ok() != Some(HOST_PAGE) {
        eprintln!("qemu-arm: warning: Deprecated page size option cannot change host page size (4096)");
    }
    done()
}

fn set_seed(o: &mut Options, v: &OsStr) -> Result<Option<Request>> {
    let bad = |_| Error::new(format!("qemu-arm: cannot initialize crypto: Invalid seed number: {}", text(v)));
    o.seed = Some(number("seed", v).map_err(bad)?);
    done()
}

fn version() -> String {
    format!("qemu-arm version 10.0.2 (Rhea {})\n", env!("CARGO_PKG_VERSION"))
}

fn help() -> String {
    use std::fmt::Write;
    let mut out = String::from("usage: qemu-arm [options] program [arguments...]\nLinux CPU emulator (compiled for arm emulation)\n\n");
    out.push_str("Options and associated environment variables:\n\nArgument             Env-variable         Description\n");
    for r in ROWS.iter().filter(|r| !HIDDEN.contains(&r.name)) {
        let argument = format!("-{} {}", r.name, r.value);
        let _ = writeln!(out, "{argument:<20} {:<20} {}", r.env, r.help);
    }
    let _ = write!(out, "\nDefaults:\nQEMU_LD_PREFIX  = {DEFAULT_PREFIX}\nQEMU_STACK_SIZE = {STACK_SIZE} byte\n");
    out.push_str(
        "\nWithout -L, an interpreter that is not found is looked for in the cross toolchains' roots, such as\n\
         /usr/arm-linux-gnueabihf.\n\n\
         -E and -U (QEMU_SET_ENV, QEMU_UNSET_ENV) change the environment of the program. They may be given several times,\n\
         and each takes a list separated by commas:\n    -E var1=val2,var2=val2 -U LD_PRELOAD,LD_DEBUG\nThe last change of a variable counts.\n",
    );
    out
}

/// Values that name the host's files, so that they mean the same when the program has changed its directory. Links in the
/// prefix are followed once, not again for each name that is looked for below it.
fn settled(name: &str, value: OsString) -> OsString {
    let absolute = match name {
        "L" => std::fs::canonicalize(&value).or_else(|_| std::path::absolute(&value)),
        "D" => std::path::absolute(&value),
        _ => return value,
    };
    absolute.map_or(value, PathBuf::into_os_string)
}

impl Options {
    fn new() -> Options {
        Options {
            prefix: None,
            stack_size: STACK_SIZE,
            cpu: arm::features::model(arm::features::DEFAULT_USER_MODEL).expect("the default CPU model exists"),
            cpu_name: None,
            env: Vec::new(),
            argv0: None,
            uname: None,
            strace: false,
            log_items: 0,
            log_file: None,
            seed: None,
            one_insn_per_tb: false,
            tb_size: None,
            interpret: false,
            gdb: None,
            debugger: None,
            seccomp: None,
            limits: Vec::new(),
            append_log: false,
            filter: Filter::default(),
            perfmap: false,
            jitdump: false,
            program: OsString::new(),
            args: Vec::new(),
            passed: Vec::new(),
        }
    }

    fn takes_value(r: &Row) -> bool {
        !r.value.is_empty() || SILENT_VALUE.contains(&r.name)
    }

    /// Options from the environment.
    fn read_environment(&mut self, env: impl Fn(&str) -> Option<OsString>) -> Result<Option<Request>> {
        for r in ROWS.iter().filter(|r| !r.env.is_empty()) {
            if let Some(v) = env(r.env) {
                let v = settled(r.name, v);
                // The changes of the guest's environment happen again in a child, through the same variables.
                self.pass_on(r, &v);
                if let Some(request) = (r.set)(self, &v)? {
                    return Ok(Some(request));
                }
            }
        }
        self.interpret = env("QEMU_INTERPRET").is_some();
        Ok(None)
    }

    /// Notes an option for children. What concerns one program only is left out.
    fn pass_on(&mut self, r: &Row, value: &OsStr) {
        if matches!(r.name, "E" | "U" | "0" | "g") || HIDDEN.contains(&r.name) {
            return;
        }
        self.passed.push(format!("-{}", r.name).into());
        if Self::takes_value(r) {
            self.passed.push(value.into());
        }
    }

    /// The program and its arguments are known.
    fn complete(mut self) -> Result<Request> {
        if let Some(name) = self.cpu_name.take() {
            self.cpu = model(&name)?;
        }
        if self.log_items & log::TID != 0 && !self.log_file.as_ref().is_some_and(|f| f.as_bytes().windows(2).any(|w| w == b"%d")) {
            return Err(Error::new("qemu-arm: Filename template with '%d' required for 'tid'"));
        }
        Ok(Request::Run(Box::new(self)))
    }

    /// The arguments that binfmt_misc gives with its flag P: path, argv[0], arguments. Options come from the environment.
    pub fn parse_program(args: &[OsString], env: impl Fn(&str) -> Option<OsString>) -> Result<Request> {
        let mut o = Options::new();
        if let Some(request) = o.read_environment(env)? {
            return Ok(request);
        }
        let program = args.first().ok_or_else(|| Error::new("qemu: no user program specified"))?;
        o.program = program.clone();
        o.argv0 = args.get(1).cloned();
        o.args = args.get(2..).unwrap_or_default().to_vec();
        o.complete()
    }

    /// Parses the arguments after the program's own name. `env` looks up an environment variable.
    pub fn parse(args: &[OsString], env: impl Fn(&str) -> Option<OsString>) -> Result<Request> {
        let mut o = Options::new();
        if let Some(request) = o.read_environment(env)? {
            return Ok(request);
        }
        let mut i = 0;
        while let Some(arg) = args.get(i) {
            let Some(name) = arg.as_bytes().strip_prefix(b"-") else { break };
            let name = name.strip_prefix(b"-").unwrap_or(name);
            if arg.as_bytes() == b"--" {
                i += 1;
                break;
            }
            let name = String::from_utf8_lossy(name);
            let row = ROWS.iter().find(|r| r.name == name);
            let row = row.ok_or_else(|| Error::new(format!("qemu: unknown option '{name}'")))?;
            i += 1;
            let mut value = OsString::new();
            if Self::takes_value(row) {
                let missing = || Error::new(format!("qemu: missing argument for option '{name}'"));
                value = settled(row.name, args.get(i).ok_or_else(missing)?.clone());
                i += 1;
            }
            o.pass_on(row, &value);
            if let Some(request) = (row.set)(&mut o, &value)? {
                return Ok(request);
            }
        }
        let program = args.get(i).ok_or_else(|| Error::new("qemu: no user program specified"))?;
        o.program = program.clone();
        o.args = args[i + 1..].to_vec();
        o.complete()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Request> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        Options::parse(&args, |_| None)
    }

    fn options(args: &[&str]) -> Options {
        match parse(args) {
            Ok(Request::Run(o)) => *o,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parsing_stops_at_the_program() {
        assert_eq!(options(&["--", "-strace"]).program, "-strace");
        let o = options(&["-L", "/root", "-strace", "--cpu", "cortex-a15", "./prog", "-L", "x"]);
        assert_eq!(o.prefix, Some("/root".into()));
        assert_eq!(o.cpu.name, "cortex-a15");
        assert!(o.strace);
        assert_eq!((o.program, o.args), ("./prog".into(), vec!["-L".into(), "x".into()]));
        assert_eq!(o.passed.len(), 5);
    }

    #[test]
    fn names_of_files_are_absolute() {
        let o = options(&["-L", ".", "-D", "log", "p"]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(o.prefix, Some(here.clone().into()));
        assert_eq!(o.log_file, Some(here.join("log").into()));
        assert_eq!(o.passed, ["-L".into(), OsString::from(here.clone()), "-D".into(), here.join("log").into()]);
        assert_eq!(options(&["-L", "/no such directory", "p"]).prefix, Some("/no such directory".into()));
    }

    #[test]
    fn limits_come_through_unchanged() {
        let given = [(9, 1 << 30, u64::MAX), (3, 8 << 20, 8 << 20)];
        let o = options(&["-limits", &limits_text(given.into_iter()), "p"]);
        assert_eq!(o.limits, given);
        assert!(o.passed.is_empty());
        assert!(!help().contains("limits"));
        assert!(parse(&["-limits", "3:4", "p"]).is_err());
    }

    #[test]
    fn environment_lists_split_at_commas() {
        let o = options(&["-E", "A=1,B=2=3", "-U", "C", "p"]);
        assert_eq!(o.env, [("A".into(), Some("1".into())), ("B".into(), Some("2=3".into())), ("C".into(), None)]);
    }

    #[test]
    fn mistakes_have_qemus_sentences() {
        for (args, sentence) in [
            (&["-foo", "x"][..], "qemu: unknown option 'foo'"),
            (&["-L"], "qemu: missing argument for option 'L'"),
            (&[], "qemu: no user program specified"),
            (&["-", "x"], "qemu: unknown option ''"),
            (&["-cpu", "foo", "x"], "qemu-arm: unable to find CPU model 'foo'"),
            (&["-cpu", "foo"], "qemu: no user program specified"),
            (&["-cpu", "", "x"], "qemu-arm: -cpu option cannot be empty"),
            (&["-R", "xx", "x"], "Unrecognised -R size suffix 'xx'"),
            (&["-R", "1X", "x"], "Unrecognised -R size suffix 'X'"),
            (&["-R", "1MM", "x"], "Unrecognised -R size suffix 'M'"),
            (&["-R", "1234", "x"], "Reserved virtual address not aligned mod 4 KiB"),
            (&["-R", "5G", "x"], "Reserved virtual address too big"),
            (&["-B", "0x12345", "x"], "Requested guest base 0x12345 does not satisfy host minimum alignment (0x1000)"),
            (&["-t", "1 2 3", "x"], "1 is not a target rt signal"),
            (&["-t", "34 60 20", "x"], "65 is not a host rt signal"),
            (&["-t", "34 36", "x"], "Malformed signal count in QEMU_RTSIG_MAP"),
            (&["-d", "trace:foo", "x"], "qemu-arm: -d trace:foo: not supported yet"),
            (&["-d", "tid", "-D", "log", "x"], "qemu-arm: Filename template with '%d' required for 'tid'"),
            (&["-seed", "zz", "x"], "qemu-arm: cannot initialize crypto: Invalid seed number: zz"),
        ] {
            assert_eq!(parse(args).unwrap_err().sentence(), sentence);
        }
    }

    #[test]
    fn sizes_take_suffixes() {
        assert_eq!(options(&["-s", "16M", "p"]).stack_size, 16 << 20);
        assert_eq!(options(&["-s", "0x100000", "p"]).stack_size, 1 << 20);
        assert_eq!(options(&["-s", "1", "p"]).stack_size, 64 << 10);
        assert_eq!(options(&["-s", "2G", "p"]).stack_size, 2 << 30);
        assert!(parse(&["-s", "0", "p"]).is_err() && parse(&["-s", "8X", "p"]).is_err());
        for value in ["", "0", "1M", "4G", "0x10000"] {
            options(&["-R", value, "p"]);
        }
    }

    #[test]
    fn options_override_the_environment() {
        let args = ["-cpu", "cortex-a7", "p"].map(OsString::from);
        let Ok(Request::Run(o)) = Options::parse(&args, |n| match n {
            "QEMU_CPU" => Some("no such model".into()),
            "QEMU_STRACE" => Some("1".into()),
            _ => None,
        }) else {
            panic!()
        };
        assert_eq!(o.cpu.name, "cortex-a7");
        assert!(o.strace);
    }
}
