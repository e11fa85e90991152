//! What the command line asks for, before anything is opened or built.

use crate::settings::Settings;

/// Something given by an option, with the option's text for error messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// `-device foo,bar=1`.
    pub option: String,
    pub settings: Settings,
}

/// A character device: the short form of `-serial`, `-monitor`, `-qmp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The option it was given with, such as `-serial`; empty for a default.
    pub option: String,
    /// `stdio`, `mon:stdio`, `tcp::1234,server=on`, `none`, …
    pub device: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Display {
    /// Nothing was said.
    #[default]
    Default,
    None,
    Nographic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    pub cpus: u32,
    pub sockets: u32,
    pub clusters: u32,
    pub cores: u32,
    pub threads: u32,
}

impl Default for Topology {
    fn default() -> Self {
        Topology { cpus: 1, sockets: 1, clusters: 1, cores: 1, threads: 1 }
    }
}

/// `-accel tcg`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tcg {
    /// All vCPUs on one host thread.
    pub single_thread: bool,
    /// Bytes of translated code; 0 is the default.
    pub cache_bytes: u64,
    pub one_insn_per_tb: bool,
    /// `thread=multi` was asked for.
    pub many_threads: bool,
}

/// What a guest's reboot, shutdown, … leads to (`-action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Actions {
    /// A reboot ends the program (`-no-reboot`).
    pub reboot_ends: bool,
    /// A shutdown only pauses (`-no-shutdown`).
    pub shutdown_pauses: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RtcBase {
    #[default]
    Utc,
    Local,
    /// Seconds since 1970 at the start of the machine.
    At(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rtc {
    pub base: RtcBase,
    /// It stands still while the machine is paused.
    pub follows_vm: bool,
}

/// Defaults that options switch off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    pub serial: bool,
    pub monitor: bool,
    pub net: bool,
}

#[derive(Clone, Debug)]
pub struct Config {
    /// The program's name in messages.
    pub program: &'static str,
    /// `-M`, without the type.
    pub machine: Settings,
    pub machine_type: Option<String>,
    pub cpu: Option<String>,
    pub tcg: Tcg,
    /// `-icount`.
    pub icount: Option<jit::machine::icount::Options>,
    pub memory: u64,
    /// `-m` was given.
    pub memory_given: bool,
    /// `-machine memory-backend=`.
    pub memory_backend: Option<String>,
    pub smp: Topology,
    pub kernel: Option<String>,
    pub initrd: Option<String>,
    pub append: Option<String>,
    pub dtb: Option<String>,
    pub bios: Option<String>,
    /// Directories for firmware (`-L`).
    pub data_dirs: Vec<String>,
    /// `-drive` and its short forms.
    pub drives: Vec<Given>,
    pub blockdevs: Vec<Given>,
    /// Writes go to temporary files.
    pub snapshot: bool,
    pub devices: Vec<Given>,
    pub globals: Vec<Given>,
    pub netdevs: Vec<Given>,
    /// `-nic`, and `-net` under the same roof: the option's text tells.
    pub nics: Vec<Given>,
    pub nets: Vec<Given>,
    pub objects: Vec<Given>,
    pub fw_cfg: Vec<Given>,
    pub serials: Vec<Redirect>,
    pub monitors: Vec<Redirect>,
    pub qmps: Vec<Redirect>,
    pub chardevs: Vec<Given>,
    pub mons: Vec<Given>,
    pub display: Display,
    pub defaults: Defaults,
    /// `-S`.
    pub stopped: bool,
    /// `-gdb`, `-s`: where debuggers connect.
    pub gdb: Option<String>,
    pub actions: Actions,
    pub log_items: u32,
    /// `-dfilter`.
    pub log_filter: jit::trace::Filter,
    pub log_file: Option<String>,
    pub pid_file: Option<String>,
    pub daemonize: bool,
    pub name: Option<String>,
    pub uuid: Option<[u8; 16]>,
    pub rtc: Rtc,
    /// Escape character of the multiplexer.
    pub escape: u8,
    pub seed: Option<u64>,
    /// `-boot`: nothing but the menu and timeouts concern these machines' firmware.
    pub boot: Settings,
}

pub const MIB: u64 = 1 << 20;

impl Config {
    pub fn new(program: &'static str) -> Config {
        Config {
            program,
            machine: Settings::default(),
            machine_type: None,
            cpu: None,
            tcg: Tcg::default(),
            icount: None,
            memory: 128 * MIB,
            memory_given: false,
            memory_backend: None,
            smp: Topology::default(),
            kernel: None,
            initrd: None,
            append: None,
            dtb: None,
            bios: None,
            data_dirs: Vec::new(),
            drives: Vec::new(),
            blockdevs: Vec::new(),
            snapshot: false,
            devices: Vec::new(),
            globals: Vec::new(),
            netdevs: Vec::new(),
            nics: Vec::new(),
            nets: Vec::new(),
            objects: Vec::new(),
            fw_cfg: Vec::new(),
            serials: Vec::new(),
            monitors: Vec::new(),
            qmps: Vec::new(),
            chardevs: Vec::new(),
            mons: Vec::new(),
            display: Display::Default,
            defaults: Defaults { serial: true, monitor: true, net: true },
            stopped: false,
            gdb: None,
            actions: Actions::default(),
            log_items: 0,
            log_filter: Default::default(),
            log_file: None,
            pid_file: None,
            daemonize: false,
            name: None,
            uuid: None,
            rtc: Rtc::default(),
            escape: 1,
            seed: None,
            boot: Settings::default(),
        }
    }
}
