//! The options that choose the machine: `-M`, `-cpu`, `-accel`, `-smp`, `-m`; and what they need of one another.

use super::{Answer, Arg, done, print};
use crate::config::{Config, MIB, Topology};
use crate::settings::{Settings, boolean, number, size};
use board::arm::virt::options::Version;
use spec::{Error, Result};

/// A machine: its name, and what of it is special.
struct Machine {
    name: &'static str,
    version: Version,
    /// It warns of its end.
    deprecated: bool,
    max_cpus: u32,
}

macro_rules! versions {
    ($($name:literal $major:literal $minor:literal $max_cpus:literal $($deprecated:ident)?;)*) => {
        /// By name, as `-M help` has them. `virt` differs from `virt-10.0` in one default (`board::arm::virt`).
        const MACHINES: &[Machine] = &[$(Machine {
            name: $name,
            version: Version { major: $major, minor: $minor },
            deprecated: versions!(@ $($deprecated)?),
            max_cpus: $max_cpus,
        },)*];
    };
    (@ deprecated) => { true };
    (@) => { false };
}

versions! {
    "virt"      10 0  512;
    "virt-10.0" 10 0  512;
    "virt-2.10" 2  10 255 deprecated;
    "virt-2.11" 2  11 255 deprecated;
    "virt-2.12" 2  12 255 deprecated;
    "virt-2.6"  2  6  255 deprecated;
    "virt-2.7"  2  7  255 deprecated;
    "virt-2.8"  2  8  255 deprecated;
    "virt-2.9"  2  9  255 deprecated;
    "virt-3.0"  3  0  512 deprecated;
    "virt-3.1"  3  1  512 deprecated;
    "virt-4.0"  4  0  512 deprecated;
    "virt-4.1"  4  1  512 deprecated;
    "virt-4.2"  4  2  512 deprecated;
    "virt-5.0"  5  0  512 deprecated;
    "virt-5.1"  5  1  512 deprecated;
    "virt-5.2"  5  2  512 deprecated;
    "virt-6.0"  6  0  512 deprecated;
    "virt-6.1"  6  1  512 deprecated;
    "virt-6.2"  6  2  512 deprecated;
    "virt-7.0"  7  0  512 deprecated;
    "virt-7.1"  7  1  512;
    "virt-7.2"  7  2  512;
    "virt-8.0"  8  0  512;
    "virt-8.1"  8  1  512;
    "virt-8.2"  8  2  512;
    "virt-9.0"  9  0  512;
    "virt-9.1"  9  1  512;
    "virt-9.2"  9  2  512;
}

fn find(name: &str) -> Option<&'static Machine> {
    MACHINES.iter().find(|m| m.name == name)
}

/// CPU models of these machines.
const CPUS: [&str; 3] = ["cortex-a7", "cortex-a15", "max"];
pub const DEFAULT_CPU: &str = "cortex-a15";

pub fn machine(c: &mut Config, a: &Arg) -> Answer {
    let mut s = Settings::parse(a.value, Some("type"))?;
    if let Some(name) = s.take("type") {
        if name == "help" || name == "?" {
            return print(list(), 0);
        }
        if find(&name).is_none() {
            return Err(Error::new(format!("unsupported machine type: \"{name}\"\nUse -machine help to list supported machines")));
        }
        c.machine_type = Some(name);
    }
    if s.get("help").is_some() {
        let version = c.machine_type.as_deref().and_then(find).map_or(Version::LATEST, |m| m.version);
        return print(board::arm::virt::options::help(version), 0);
    }
    if let Some(list) = s.take("accel") {
        choose(c, list.split(':'), false)?;
    }
    // QEMU keeps these among the machine's properties.
    for (key, place) in [("kernel", 0), ("initrd", 1), ("append", 2), ("dtb", 3), ("firmware", 4)] {
        if let Some(value) = s.take(key) {
            let places = [&mut c.kernel, &mut c.initrd, &mut c.append, &mut c.dtb, &mut c.bios];
            *places.into_iter().nth(place).expect("five places") = Some(value);
        }
    }
    if let Some(id) = s.take("memory-backend") {
        c.memory_backend = Some(id);
    }
    c.machine.merge(s);
    done()
}

fn list() -> String {
    let rows = MACHINES.iter().map(|m| {
        let note = match m {
            Machine { name: "virt", .. } => " (alias of virt-10.0)",
            Machine { deprecated: true, .. } => " (deprecated)",
            _ => "",
        };
        format!("{:<20} QEMU {}.{} ARM Virtual Machine{note}\n", m.name, m.version.major, m.version.minor)
    });
    std::iter::once("Supported machines are:\n".to_owned()).chain(rows).collect()
}

pub fn cpu(c: &mut Config, a: &Arg) -> Answer {
    let name = a.value.split(',').next().unwrap_or_default();
    if name == "help" || name == "?" {
        let rows = CPUS.iter().map(|n| format!("  {n}\n"));
        return print(std::iter::once("Available CPUs:\n".to_owned()).chain(rows).collect(), 0);
    }
    if arm::features::model(name).is_none() {
        return Err(Error::new(format!("unable to find CPU model '{name}'")));
    }
    c.cpu = Some(a.value.to_owned());
    done()
}

pub fn accel(c: &mut Config, a: &Arg) -> Answer {
    let mut s = Settings::parse(a.value, Some("accel"))?;
    let name = s.take("accel").ok_or_else(|| Error::new("Parameter 'accel' is missing"))?;
    if name == "help" || name == "?" {
        return print("Accelerators supported in QEMU binary:\ntcg\n".into(), 0);
    }
    choose(c, std::iter::once(name.as_str()), true)?;
    for (key, value) in s.iter() {
        match key {
            "thread" => match value {
                "single" | "multi" => (c.tcg.single_thread, c.tcg.many_threads) = (value == "single", value == "multi"),
                _ => return Err(Error::new(format!("Invalid 'thread' setting {value}"))),
            },
            "tb-size" => c.tcg.cache_bytes = number(key, value)?.saturating_mul(MIB),
            "one-insn-per-tb" => c.tcg.one_insn_per_tb = boolean(key, value)?,
            // Code memory is never writable and executable at one address.
            "split-wx" => drop(boolean(key, value)?),
            _ => return Err(Error::new(format!("Property 'tcg-accel.{key}' not found"))),
        }
    }
    done()
}

/// `-icount [shift=]N|auto[,align=on|off][,sleep=on|off]`.
pub fn icount(c: &mut Config, a: &Arg) -> Answer {
    let mut s = Settings::parse(a.value, Some("shift"))?;
    let shift = s.take("shift").filter(|v| !v.is_empty());
    let align = s.take_bool("align")?;
    let sleep = s.take_bool("sleep")?.unwrap_or(true);
    if s.take("rr").is_some() {
        return Err(Error::new("record and replay is not supported yet"));
    }
    s.finish()?;
    let Some(shift) = shift else {
        if align.is_some() {
            return Err(Error::new("Please specify shift option when using align"));
        }
        return done();
    };
    let align = align.unwrap_or(false);
    if align && !sleep {
        return Err(Error::new("align=on and sleep=off are incompatible"));
    }
    let shift = match shift.as_str() {
        "auto" => None,
        n => Some(n.parse().ok().filter(|n| *n <= 10).ok_or_else(|| Error::new("icount: Invalid shift value"))?),
    };
    c.icount = Some(jit::machine::icount::Options { shift, align, sleep });
    done()
}

/// The first accelerator of a list that exists.
fn choose<'a>(c: &Config, names: impl Iterator<Item = &'a str>, quiet: bool) -> Result<()> {
    let names: Vec<&str> = names.collect();
    let Some(found) = names.iter().position(|n| *n == "tcg") else {
        return Err(Error::new(format!("invalid accelerator {}", names.first().unwrap_or(&""))));
    };
    if found > 0 && !quiet {
        names[..found].iter().for_each(|n| eprintln!("{}: invalid accelerator {n}", c.program));
        eprintln!("{}: falling back to tcg", c.program);
    }
    Ok(())
}

/// A guest of another architecture than the host's cannot use KVM; the user wanted it fast, not refused.
pub fn enable_kvm(c: &mut Config, _: &Arg) -> Answer {
    eprintln!("{}: -enable-kvm: invalid accelerator kvm\n{}: falling back to tcg", c.program, c.program);
    done()
}

pub fn memory(c: &mut Config, a: &Arg) -> Answer {
    let mut s = Settings::parse(a.value, Some("size"))?;
    if let Some(text) = s.take("size") {
        let bytes = size("size", &text, 20)?;
        c.memory_given = true;
        c.memory = if bytes == 0 { 128 * MIB } else { bytes.next_multiple_of(8192) };
    }
    if s.get("slots").is_some() || s.get("maxmem").is_some() {
        return Err(Error::new("memory slots are not supported yet"));
    }
    s.finish().map(|()| None)
}

pub fn smp(c: &mut Config, a: &Arg) -> Answer {
    let mut s = Settings::parse(a.value, Some("cpus"))?;
    let zero = || Error::new("Invalid CPU topology: CPU topology parameters must be greater than zero");
    let mut take = |key: &str| -> Result<Option<u32>> {
        match s.take_number(key)? {
            Some(0) => Err(zero()),
            Some(n) => Ok(Some(u32::try_from(n).unwrap_or(u32::MAX))),
            None => Ok(None),
        }
    };
    let (cpus, max) = (take("cpus")?, take("maxcpus")?);
    let parts = [take("sockets")?, take("clusters")?, take("cores")?, take("threads")?];
    for level in ["drawers", "books", "dies", "modules"] {
        if take(level)?.unwrap_or(1) != 1 {
            return Err(Error::new(format!("Invalid CPU topology: {level} > 1 not supported by this machine")));
        }
    }
    s.finish()?;
    c.smp = topology(cpus, max, parts)?;
    done()
}

/// Fills in what was not given: cores first, then sockets, then threads.
fn topology(cpus: Option<u32>, max: Option<u32>, [sockets, clusters, cores, threads]: [Option<u32>; 4]) -> Result<Topology> {
    let clusters = clusters.unwrap_or(1);
    let product = |list: [Option<u32>; 3]| list.iter().flatten().fold(clusters, |m, n| m.saturating_mul(*n)).max(1);
    let all = max.or(cpus);
    let (mut sockets, mut cores, mut threads) = (sockets, cores, threads);
    if let Some(all) = all {
        if cores.is_none() {
            sockets = sockets.or(Some(1));
            threads = threads.or(Some(1));
            cores = Some(all / product([sockets, None, threads]));
        } else if sockets.is_none() {
            threads = threads.or(Some(1));
            sockets = Some(all / product([None, cores, threads]));
        } else if threads.is_none() {
            threads = Some(all / product([sockets, cores, None]));
        }
    }
    let (sockets, cores, threads) = (sockets.unwrap_or(1), cores.unwrap_or(1), threads.unwrap_or(1));
    let total = [sockets, clusters, cores, threads].iter().fold(1u32, |m, n| m.saturating_mul(*n));
    let max = all.unwrap_or(total);
    let cpus = cpus.unwrap_or(max);
    let hierarchy = format!("sockets ({sockets}) * clusters ({clusters}) * cores ({cores}) * threads ({threads})");
    if total != max {
        return Err(Error::new(format!("Invalid CPU topology: product of the hierarchy must match maxcpus: {hierarchy} != maxcpus ({max})")));
    }
    if max < cpus {
        let sentence = "maxcpus must be equal to or greater than smp";
        return Err(Error::new(format!("Invalid CPU topology: {sentence}: {hierarchy} == maxcpus ({max}) < smp_cpus ({cpus})")));
    }
    Ok(Topology { cpus, sockets, clusters, cores, threads })
}

/// Checks after the last option.
pub fn settle(c: &mut Config) -> Result<()> {
    let Some(name) = &c.machine_type else {
        return Err(Error::new("No machine specified, and there is no default\nUse -machine help to list supported machines"));
    };
    let machine = find(name).expect("checked when it was given");
    if machine.deprecated {
        let why = "machines more than 3 years old are subject to deletion after 6 years";
        eprintln!("{}: warning: Machine type '{name}' is deprecated: {why}", c.program);
    }
    if c.smp.cpus > machine.max_cpus {
        let cpus = c.smp.cpus;
        return Err(Error::new(format!("Invalid SMP CPUs {cpus}. The max CPUs supported by machine '{}' is {}", if name == "virt" { "virt-10.0" } else { name }, machine.max_cpus)));
    }
    crate::memory::settle(c)?;
    if c.icount.is_some() && c.tcg.many_threads {
        return Err(Error::new("-accel tcg,thread=multi: No MTTCG when icount is enabled"));
    }
    let cpu = c.cpu.get_or_insert_with(|| DEFAULT_CPU.to_owned());
    let model = cpu.split(',').next().unwrap_or_default();
    if !CPUS.contains(&model) {
        return Err(Error::new(format!("Invalid CPU model: {model}\nThe valid models are: {}", CPUS.join(", "))));
    }
    if c.kernel.is_none() {
        for (value, option) in [(&c.append, "-append"), (&c.initrd, "-initrd")] {
            if value.is_some() {
                return Err(Error::new(format!("{option} only allowed with -kernel option")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::config;

    #[test]
    fn a_topology_is_filled_from_the_cores() {
        let t = |args: &str| config(&format!("-M virt {args}")).smp;
        assert_eq!(t(""), Topology::default());
        assert_eq!(t("-smp 4"), Topology { cpus: 4, cores: 4, ..Topology::default() });
        assert_eq!(t("-smp 4,sockets=2"), Topology { cpus: 4, sockets: 2, cores: 2, ..Topology::default() });
        assert_eq!(t("-smp 4,cores=2"), Topology { cpus: 4, sockets: 2, cores: 2, ..Topology::default() });
        assert_eq!(t("-smp cores=2,threads=2"), Topology { cpus: 4, cores: 2, threads: 2, ..Topology::default() });
        assert_eq!(t("-smp 2,maxcpus=4"), Topology { cpus: 2, cores: 4, ..Topology::default() });
    }

    #[test]
    fn memory_counts_in_mebibytes() {
        for (args, bytes) in [("", 128 * MIB), ("-m 512", 512 * MIB), ("-m 1G", 1024 * MIB), ("-m size=1048576k", 1024 * MIB), ("-m 0", 128 * MIB)] {
            assert_eq!(config(&format!("-M virt {args}")).memory, bytes, "{args}");
        }
    }

    #[test]
    fn machine_properties_come_together() {
        let c = config("-M virt,secure=on -machine gic-version=3,kernel=k");
        assert_eq!(c.machine.to_text(), "secure=on,gic-version=3");
        assert_eq!(c.kernel.as_deref(), Some("k"));
    }

    #[test]
    fn accelerator_settings() {
        let c = config("-M virt -accel tcg,thread=single,tb-size=64,one-insn-per-tb=on");
        assert_eq!((c.tcg.single_thread, c.tcg.cache_bytes, c.tcg.one_insn_per_tb), (true, 64 * MIB, true));
        config("-M virt,accel=kvm:tcg");
    }
}
