//! From the command line to a running program: finds the file and its interpreter, builds the process, runs it.

use crate::abi::arm as abi;
use crate::debug::Debugger;
use crate::elf::{self, Header, Image, Refusal};
use crate::host_signal;
use crate::log;
use crate::memory::Memory;
use crate::options::{DEFAULT_PREFIX, Options};
use crate::path::Prefix;
use crate::signal::Actions;
use crate::stack::{self, Contents, Layout};
use crate::symbols::Symbols;
use crate::task::{Config, Process, Task};
use jit::{Engine, Space, Vcpu};
use spec::Error;
use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::{Arc, Mutex};

/// Why nothing ran: the sentence, what to do about it, the exit status.
#[derive(Debug)]
pub struct Failure {
    pub error: Error,
    pub hint: Option<String>,
    pub status: u8,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { error: Error::new(format!("qemu-arm: {error}")), hint: None, status: 1 }
    }
}

fn failure(sentence: String, status: u8) -> Failure {
    Failure { error: Error::new(sentence), hint: None, status }
}

/// Roots of cross toolchains, tried for an interpreter when no `-L` is given.
const SYSROOTS: [&str; 4] = [
    "/usr/arm-linux-gnueabihf",
    "/usr/arm-linux-gnueabi",
    "/usr/arm-linux-gnu/sys-root",
    "/usr/armv7l-linux-gnueabihf",
];

/// Keep this much free between the stack and the mappings below it, and at least as much as kernels keep for the stack to grow if
/// the program raises its limit.
const STACK_GAP: u32 = 1 << 20;
const STACK_ROOM: u32 = 128 << 20;
/// Where brk begins for a program that lies among the mappings.
const BRK_OF_DYNAMIC: u32 = 0x0040_0000;

/// The arguments without our own name, and whether options may be among them. Under binfmt_misc's flag P they are the
/// program's path, its argv[0] and its arguments.
pub fn binfmt_arguments(mut args: Vec<OsString>) -> (Vec<OsString>, bool) {
    const AT_FLAGS_PRESERVE_ARGV0: u64 = 1;
    if args.is_empty() {
        return (args, true);
    }
    let own = args.remove(0);
    // SAFETY: takes no memory.
    let flagged = unsafe { libc::getauxval(libc::AT_FLAGS) } & AT_FLAGS_PRESERVE_ARGV0 != 0;
    let preserved = flagged || own.as_bytes().ends_with(b"-binfmt-P");
    (args, !preserved)
}

/// The program's file: what the kernel has opened for us (binfmt_misc's flag O), or by its name.
fn open_program(options: &Options) -> Result<File, Failure> {
    // SAFETY: takes no memory. 0 means none, because descriptor 0 is never the kernel's.
    let fd = unsafe { libc::getauxval(libc::AT_EXECFD) };
    if fd != 0 {
        // SAFETY: the descriptor is ours to close.
        return Ok(unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd as i32) });
    }
    let shown = options.program.to_string_lossy();
    let file = File::open(&options.program).map_err(|e| failure(format!("Error while loading {shown}: {}", plain(&e)), 1))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(failure(format!("Error while loading {shown}: Permission denied"), 1));
    }
    Ok(file)
}

/// An I/O error's text without Rust's "(os error N)".
fn plain(e: &std::io::Error) -> String {
    e.raw_os_error().map_or_else(|| e.to_string(), |n| crate::errno::Errno(n).text())
}

fn read_header(file: &File, name: &str) -> Result<Header, Failure> {
    elf::header(file).map_err(|r| match r {
        Refusal::WrongMachine => failure(format!("qemu-arm: {name}: Invalid ELF image for this architecture"), 255),
        Refusal::NotElf => failure(format!("Error while loading {name}: Exec format error"), 1),
        Refusal::Bad(e) => failure(format!("qemu-arm: {name}: {e}"), 255),
    })
}

/// What `#!` in the program asks for instead: the interpreter becomes the program.
fn follow_script(options: &mut Options, prefix: &Prefix) -> Result<Option<File>, Failure> {
    use std::os::unix::fs::FileExt;
    let file = open_program(options)?;
    let mut head = [0u8; 256];
    let n = file.read_at(&mut head, 0).unwrap_or(0);
    let Some((interpreter, argument)) = crate::exec::parse_shebang(&head[..n]) else { return Ok(Some(file)) };
    let os = |c: CString| OsString::from_vec(c.into_bytes());
    let program = os(prefix.apply(interpreter.clone(), true));
    let script = std::mem::replace(&mut options.program, program);
    let rest = std::mem::take(&mut options.args);
    options.args = argument.map(os).into_iter().chain(std::iter::once(script)).chain(rest).collect();
    options.argv0 = Some(os(interpreter));
    Ok(None)
}

fn cstring(s: &OsStr) -> CString {
    CString::new(s.as_bytes()).expect("arguments and names have no NUL")
}

/// The environment of the guest: ours with the changes of -E and -U.
fn environment(options: &Options) -> Vec<CString> {
    let mut all: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    for (name, value) in &options.env {
        all.retain(|(n, _)| n != name);
        if let Some(value) = value {
            all.push((name.clone(), value.clone()));
        }
    }
    all.iter().map(|(n, v)| CString::new([n.as_bytes(), b"=", v.as_bytes()].concat()).expect("no NUL")).collect()
}

/// Opens the interpreter: below the prefix, in the host's root, or in a cross toolchain's root when there is no `-L`.
fn open_interpreter(name: &[u8], options: &Options, prefix: &mut Prefix) -> Result<File, Failure> {
    let path = CString::new(name).map_err(|_| Error::new("Invalid ELF interpreter name"))?;
    let shown = path.to_string_lossy().into_owned();
    let open = |p: &Prefix| File::open(OsStr::from_bytes(p.apply(path.clone(), true).as_bytes()));
    let first = match open(prefix) {
        Ok(f) if elf::header(&f).is_ok() || options.prefix.is_some() => return Ok(f),
        other => other,
    };
    if options.prefix.is_none() {
        for root in SYSROOTS {
            let candidate = Prefix::new(Some(OsStr::new(root)));
            if let Ok(f) = open(&candidate)
                && elf::header(&f).is_ok()
            {
                *prefix = candidate;
                return Ok(f);
            }
        }
    }
    match first {
        Ok(f) => Ok(f),
        Err(e) => Err(Failure {
            hint: Some("this program needs a dynamic linker for ARM: say where its root directory is with -L DIR".into()),
            ..failure(format!("qemu-arm: Could not open '{shown}': {}", plain(&e)), 255)
        }),
    }
}

/// Sixteen bytes for AT_RANDOM, from `-seed` or the kernel.
fn random_bytes(seed: Option<u64>) -> [u8; 16] {
    let mut out = [0u8; 16];
    match seed {
        Some(seed) => {
            let mut x = seed;
            for chunk in out.chunks_mut(8) {
                // splitmix64
                x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = x;
                z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                chunk.copy_from_slice(&(z ^ z >> 31).to_le_bytes());
            }
        }
        // SAFETY: the buffer is 16 bytes long; without randomness the bytes stay zero, which is a value too.
        None => unsafe {
            libc::getrandom(out.as_mut_ptr().cast(), out.len(), 0);
        },
    }
    out
}

/// Everything loaded.
struct Loaded {
    program: Image,
    entry: u32,
    stack: Layout,
    symbols: Symbols,
}

fn load_images(options: &Options, memory: &Memory, file: &File, header: &Header, prefix: &mut Prefix, args: &[CString]) -> Result<Loaded, Failure> {
    let shown = options.program.to_string_lossy().into_owned();
    let bad = |e: Error| failure(format!("qemu-arm: {shown}: {e}"), 255);
    memory.set_top(crate::memory::STACK_TOP - (options.stack_size.next_multiple_of(4096) + STACK_GAP).max(STACK_ROOM));
    memory.set_read_implies_exec(header.executable_stack() && !header.segments.iter().any(|s| s.kind == elf::PT_GNU_STACK));
    // The interpreter is found before anything is mapped, so that a missing one is told first.
    let interpreter = match &header.interpreter {
        Some(name) => {
            let f = open_interpreter(name, options, prefix)?;
            let h = read_header(&f, &String::from_utf8_lossy(name))?;
            Some((f, h))
        }
        None => None,
    };
    let program = header.load(file, memory, true).map_err(bad)?;
    let among_mappings = header.dynamic && header.interpreter.is_none();
    let brk = if among_mappings { BRK_OF_DYNAMIC } else { program.end };
    memory.set_brk_start(crate::memory::page_up(brk as u64) as u32);
    let linker = match &interpreter {
        Some((f, h)) => Some(h.load(f, memory, false).map_err(bad)?),
        None => None,
    };
    let mut symbols = Symbols::default();
    if crate::trace::wants_symbols(options) {
        symbols.add(file, program.bias);
        if let (Some((f, _)), Some(image)) = (&interpreter, linker) {
            symbols.add(f, image.bias);
        }
    }
    let contents = Contents {
        args,
        env: &environment(options),
        exec_name: &cstring(&options.program),
        program,
        interpreter_base: linker.map_or(0, |i| i.bias),
        hwcap: options.cpu.hwcap,
        hwcap2: options.cpu.hwcap2,
        platform: options.cpu.platform,
        random: random_bytes(options.seed),
        executable: header.executable_stack(),
        size: options.stack_size,
    };
    let stack = stack::build(memory, &contents)?;
    Ok(Loaded { program, entry: linker.unwrap_or(program).entry, stack, symbols })
}

/// The command line that starts a child under this emulator: our own name and the options.
fn emulator_line(options: &Options) -> Vec<CString> {
    let own = std::env::args_os().next().unwrap_or_else(|| "qemu-arm".into());
    // A name that binfmt_misc knows would change how the arguments are read.
    let own = if own.as_bytes().ends_with(b"-binfmt-P") { "qemu-arm".into() } else { own };
    std::iter::once(&own).chain(&options.passed).map(|s| cstring(s)).collect()
}

/// Runs the program; gives the status of its first thread if that ends without ending the process otherwise.
pub fn run(mut options: Options) -> Result<i32, Failure> {
    host_signal::restore_inherited();
    log::start(options.log_items | if options.strace { log::STRACE } else { 0 }, options.log_file.as_deref(), options.append_log)?;
    let default = std::path::Path::new(DEFAULT_PREFIX).is_dir().then(|| OsStr::new(DEFAULT_PREFIX));
    let mut prefix = Prefix::new(options.prefix.as_deref().or(default));
    let file = match follow_script(&mut options, &prefix)? {
        Some(file) => file,
        None => open_program(&options)?,
    };
    let header = read_header(&file, &options.program.to_string_lossy())?;
    let args: Vec<CString> = std::iter::once(options.argv0.as_ref().unwrap_or(&options.program))
        .chain(&options.args)
        .map(|a| cstring(a))
        .collect();
    let filters = options.seccomp.map(crate::seccomp::Filters::take_over).transpose()?.unwrap_or_default();
    // From here on guest memory is touched, which may fault: beyond the end of a damaged file, for instance. Signals wait until
    // there is a task to take them.
    let mask = host_signal::block_all();
    let actions = Actions::inherited();
    let space = Space::new_32bit()?;
    let memory = Memory::new(space.clone());
    let default = jit::Config::default();
    let config = jit::Config {
        one_insn_per_tb: options.one_insn_per_tb,
        tb_size: options.tb_size.map_or(default.tb_size, |mib| mib << 20),
        interpret: options.interpret,
        nochain: log::on(log::NOCHAIN),
        ..Default::default()
    };
    let guest = Arc::new(arm::Arm::new(options.cpu));
    let engine = Engine::new(guest.clone(), space, config)?;
    let mut loaded = load_images(&options, &memory, &file, &header, &mut prefix, &args)?;
    drop(file);
    crate::trace::attach(&options, &engine, guest, std::mem::take(&mut loaded.symbols))?;
    abi::map_helper_page(&memory)?;
    crate::layout::loaded(&memory, &loaded.program, loaded.entry, &loaded.stack, args.len());
    let exe = std::fs::canonicalize(&options.program).unwrap_or_else(|_| options.program.clone().into());
    let config = Config {
        strace: log::on(log::STRACE),
        prefix,
        exe: cstring(exe.as_os_str()),
        args,
        program: loaded.program,
        stack: loaded.stack.clone(),
        emulator: emulator_line(&options),
        options,
    };
    start(config, memory, engine, Inherited { actions, mask, filters }, &loaded)
}

/// How large the stack may grow: the host's limit, but never less than what the option says.
fn stack_limit(options: &Options) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives until the call returns.
    unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) };
    limit.rlim_cur.max(options.stack_size.into())
}

/// The name that `ps` shows is the guest program's.
fn name_process(program: &OsStr) {
    let name = program.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
    if let Ok(name) = CString::new(name) {
        // SAFETY: the string lives until the call returns; the kernel cuts it.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    }
}

/// What the process has from before execve.
struct Inherited {
    actions: Actions,
    mask: u64,
    filters: crate::seccomp::Filters,
}

fn start(config: Config, memory: Arc<Memory>, engine: Arc<Engine>, inherited: Inherited, loaded: &Loaded) -> Result<i32, Failure> {
    name_process(&config.options.program);
    host_signal::show_arguments(&config.args);
    let debug = match (config.options.debugger.clone(), &config.options.gdb) {
        (Some(handed), _) => {
            let (listener, taken) = handed.take();
            Some((Debugger::new(true), listener, Some(taken), false))
        }
        (None, Some(address)) => {
            let listener = crate::debug::target::listen(address)?;
            Some((Debugger::new(address.suspend), Some(listener), None, !address.suspend))
        }
        (None, None) => None,
    };
    let vcpu = Vcpu::new(&engine);
    if log::on(log::CPU_RESET) {
        let dump = engine.guest().dump(vcpu.state());
        let shown = |line: &&str| log::on(log::FPU) || line.starts_with(|c: char| "RP".contains(c));
        log::write(&format!("CPU Reset (CPU 0)\n{}\n", dump.lines().filter(shown).collect::<Vec<_>>().join("\n")));
    }
    let limits: HashMap<_, _> = config.options.limits.iter().map(|(resource, soft, hard)| (*resource, (*soft, *hard))).collect();
    memory.set_limit(libc::RLIMIT_STACK, (stack_limit(&config.options), libc::RLIM_INFINITY));
    for (resource, limit) in &limits {
        memory.set_limit(*resource, *limit);
    }
    let process = Arc::new(Process {
        config: Arc::new(config),
        memory,
        engine,
        actions: Arc::new(Mutex::new(inherited.actions)),
        robust: Mutex::default(),
        limits: Mutex::new(limits),
        threaded: false.into(),
        seats: Default::default(),
        debug: debug.as_ref().map(|((d, _), ..)| d.clone()),
    });
    if let Some(((debugger, events), listener, taken, attached)) = debug {
        crate::debug::target::start(listener, taken, attached, debugger, events, process.clone())?;
    }
    let mut task = Task::new(process, vcpu, true);
    abi::start(task.vcpu.state_mut(), loaded.entry, loaded.stack.sp);
    task.seccomp.set(inherited.filters);
    task.set_signal_mask(inherited.mask);
    let status = task.run();
    task.finish();
    if task.process.threaded.load(std::sync::atomic::Ordering::Relaxed) {
        // Other threads may go on: end this one only, without the C library, whose end of a first thread ends the process.
        crate::task::detach_thread();
        // SAFETY: the thread has nothing more to do; its stack stays mapped.
        unsafe { libc::syscall(libc::SYS_exit, status) };
    }
    // SAFETY: ends the process; buffered output is written at once everywhere here.
    unsafe { libc::_exit(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_make_bytes_repeatable() {
        assert_eq!(random_bytes(Some(7)), random_bytes(Some(7)));
        assert_ne!(random_bytes(Some(7)), random_bytes(Some(8)));
        assert_ne!(random_bytes(None), [0; 16]);
    }

    #[test]
    fn the_preserving_name_disables_options() {
        let args = |own: &str| vec![own.into(), "/bin/x".into(), "argv0".into()];
        assert!(binfmt_arguments(args("qemu-arm")).1);
        assert!(!binfmt_arguments(args("/usr/libexec/qemu-binfmt/arm-binfmt-P")).1);
    }
}
