//! The machine's properties (`-M virt,…`): one row each.

use spec::{Error, Result};

/// Which interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    V2,
    V3,
}

/// Most CPUs a GICv2 can serve.
pub const GIC_V2_CPUS: u32 = 8;

/// A machine as asked for; `None` leaves the choice to the board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `virt-X.Y` rather than `virt`: the PCIe configuration space lies where QEMU has it.
    pub exact: bool,
    /// What versions differ in.
    pub version: Version,
    pub gic: Option<Gic>,
    pub secure: bool,
    pub virtualization: bool,
    pub highmem: Option<bool>,
    pub highmem_ecam: Option<bool>,
    pub highmem_mmio: bool,
    pub highmem_mmio_bytes: Option<u64>,
    pub highmem_redists: bool,
    pub compact_highmem: bool,
    pub its: bool,
    pub dtb_randomness: bool,
    pub dumpdtb: Option<String>,
    pub compatible: Option<String>,
    pub phandle_start: u32,
    /// Names of block nodes for the two flashes.
    pub pflash: [Option<String>; 2],
}

/// A version of the machine, as `virt-X.Y`, and what it has not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    pub const LATEST: Version = Version { major: 10, minor: 0 };

    /// Of the name `virt-X.Y`.
    pub fn of(name: &str) -> Option<Version> {
        let (major, minor) = name.strip_prefix("virt-")?.split_once('.')?;
        Some(Version { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    fn since(self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }

    /// The tree tells which CPUs share what.
    pub fn has_cpu_map(self) -> bool {
        self.since(6, 2)
    }

    /// Secure firmware can switch off and restart.
    pub fn has_secure_gpio(self) -> bool {
        self.since(6, 0)
    }

    /// The tree calls the timers' interrupts edge-triggered.
    pub fn has_edge_timers(self) -> bool {
        !self.since(2, 9)
    }

    /// CPUs have performance monitors.
    pub fn has_pmu(self) -> bool {
        self.since(2, 7)
    }
}

struct Row {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    set: fn(&mut Options, &str, &str) -> Result<()>,
}

macro_rules! properties {
    ($($name:literal $kind:literal $help:literal => $set:expr;)*) => {
        static ROWS: &[Row] = &[$(Row { name: $name, kind: $kind, help: $help, set: $set },)*];
    };
}

properties! {
    "acpi" "OnOffAuto" "Enable ACPI" => |_, n, v| only(n, v, &["off", "auto"]);
    "compact-highmem" "bool" "Set on/off to enable/disable compact layout for high memory regions" => |o, n, v| Ok(o.compact_highmem = boolean(n, v)?);
    "default-bus-bypass-iommu" "bool" "Set on/off to enable/disable bypass_iommu for default root bus" => |_, n, v| only_bool(n, v, false);
    "dt-compatible" "string" "Overrides the \"compatible\" property of the dt root node" => |o, _, v| Ok(o.compatible = Some(v.into()));
    "dtb-kaslr-seed" "bool" "Deprecated synonym of dtb-randomness" => |o, n, v| Ok(o.dtb_randomness = boolean(n, v)?);
    "dtb-randomness" "bool" "Set off to disable passing random or non-deterministic dtb nodes to guest" => |o, n, v| Ok(o.dtb_randomness = boolean(n, v)?);
    "dump-guest-core" "bool" "Include guest memory in a core dump" => |_, n, v| boolean(n, v).map(drop);
    "dumpdtb" "string" "Dump current dtb to a file and quit" => |o, _, v| Ok(o.dumpdtb = Some(v.into()));
    "gic-version" "string" "Set GIC version. Valid values are 2, 3 and max" => gic_version;
    "graphics" "bool" "Set on/off to enable/disable graphics emulation" => |_, n, v| boolean(n, v).map(drop);
    "highmem" "bool" "Set on/off to enable/disable using physical address space above 32 bits" => |o, n, v| Ok(o.highmem = Some(boolean(n, v)?));
    "highmem-ecam" "bool" "Set on/off to enable/disable high memory region for PCI ECAM" => |o, n, v| Ok(o.highmem_ecam = Some(boolean(n, v)?));
    "highmem-mmio" "bool" "Set on/off to enable/disable high memory region for PCI MMIO" => |o, n, v| Ok(o.highmem_mmio = boolean(n, v)?);
    "highmem-mmio-size" "size" "Set the high memory region size for PCI MMIO" => mmio_size;
    "highmem-redists" "bool" "Set on/off to enable/disable high memory region for GICv3 redistributors" => |o, n, v| Ok(o.highmem_redists = boolean(n, v)?);
    "iommu" "string" "Set the IOMMU type. The only valid value is none" => |_, n, v| only(n, v, &["none"]);
    "its" "bool" "Set on/off to enable/disable ITS instantiation" => |o, n, v| Ok(o.its = boolean(n, v)?);
    "mem-merge" "bool" "Enable/disable memory merge support" => |_, n, v| boolean(n, v).map(drop);
    "mte" "bool" "Set on/off to enable/disable the Memory Tagging Extension" => |_, n, v| only_bool(n, v, false);
    "pflash0" "string" "Node name or ID of backend to use as backing for pflash0" => |o, _, v| Ok(o.pflash[0] = Some(v.into()));
    "pflash1" "string" "Node name or ID of backend to use as backing for pflash1" => |o, _, v| Ok(o.pflash[1] = Some(v.into()));
    "phandle-start" "int" "The first phandle ID we may generate dynamically" => phandle_start;
    "ras" "bool" "Set on/off to enable/disable reporting host memory errors to a KVM guest" => |_, n, v| only_bool(n, v, false);
    "secure" "bool" "Set on/off to enable/disable the ARM Security Extensions (TrustZone)" => |o, n, v| Ok(o.secure = boolean(n, v)?);
    "suppress-vmdesc" "bool" "Set on to disable self-describing migration" => |_, n, v| boolean(n, v).map(drop);
    "usb" "bool" "Set on/off to enable/disable usb" => |_, n, v| only_bool(n, v, false);
    "virtualization" "bool" "Set on/off to enable/disable emulating a guest CPU which implements the ARM Virtualization Extensions"
        => |o, n, v| Ok(o.virtualization = boolean(n, v)?);
}

fn boolean(name: &str, value: &str) -> Result<bool> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(Error::new(format!("Parameter '{name}' expects 'on' or 'off'"))),
    }
}

/// A property of which only some values are built.
fn only(name: &str, value: &str, built: &[&str]) -> Result<()> {
    if built.contains(&value) { Ok(()) } else { Err(Error::new(format!("{name}={value} is not supported yet"))) }
}

fn only_bool(name: &str, value: &str, built: bool) -> Result<()> {
    if boolean(name, value)? == built { Ok(()) } else { Err(Error::new(format!("{name}={value} is not supported yet"))) }
}

fn gic_version(o: &mut Options, _: &str, value: &str) -> Result<()> {
    o.gic = Some(match value {
        "2" => Gic::V2,
        // A GICv4 differs from a GICv3 by virtual LPIs only, which need a hypervisor; QEMU's `max` is 4 with EL2.
        "3" | "max" => Gic::V3,
        "host" => return Err(Error::new("gic-version=host requires KVM")),
        "4" => return Err(Error::new("gic-version=4 is not supported yet")),
        _ => return Err(Error::new("Invalid gic-version value\nValid values are 3, 2, host, max.")),
    });
    Ok(())
}

fn mmio_size(o: &mut Options, name: &str, value: &str) -> Result<()> {
    let bad = || Error::new(format!("{name}: '{value}' is not a size"));
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'G' | b'g') => (&value[..value.len() - 1], 30),
        Some(b'T' | b't') => (&value[..value.len() - 1], 40),
        Some(b'M' | b'm') => (&value[..value.len() - 1], 20),
        _ => (value, 0),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(bad)?;
    if !bytes.is_power_of_two() {
        return Err(Error::new("highmem-mmio-size is not a power of 2"));
    }
    if bytes < super::layout::HIGH_MMIO_BYTES {
        return Err(Error::new("highmem-mmio-size cannot be set to a lower value than the default (512 GiB)"));
    }
    o.highmem_mmio_bytes = Some(bytes);
    Ok(())
}

fn phandle_start(o: &mut Options, name: &str, value: &str) -> Result<()> {
    o.phandle_start = value.parse().map_err(|_| Error::new(format!("Parameter '{name}' expects a number")))?;
    Ok(())
}

impl Options {
    pub fn new(exact: bool) -> Options {
        Options::of_version(exact, Version::LATEST)
    }

    pub fn of_version(exact: bool, version: Version) -> Options {
        Options {
            exact,
            version,
            gic: None,
            secure: false,
            virtualization: false,
            highmem: None,
            highmem_ecam: if version.since(3, 0) { None } else { Some(false) },
            highmem_mmio: true,
            highmem_mmio_bytes: None,
            highmem_redists: true,
            compact_highmem: version.since(7, 2),
            its: version.since(6, 2),
            dtb_randomness: true,
            dumpdtb: None,
            compatible: None,
            phandle_start: 0x8000,
            pflash: [None, None],
        }
    }

    /// Sets one property.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match ROWS.iter().find(|r| r.name == name) {
            Some(row) => (row.set)(self, name, value),
            None => Err(Error::new(format!("Property 'virt-{}.{}-machine.{name}' not found", self.version.major, self.version.minor))),
        }
    }

    /// The interrupt controller for a number of CPUs.
    pub fn gic_for(&self, cpus: u32) -> Result<Gic> {
        let gic = self.gic.unwrap_or(if cpus > GIC_V2_CPUS { Gic::V3 } else { Gic::V2 });
        if gic == Gic::V2 && cpus > GIC_V2_CPUS {
            let sentence = "exceeds max CPUs supported by machine 'mach-virt'";
            return Err(Error::new(format!("Number of SMP CPUs requested ({cpus}) {sentence} ({GIC_V2_CPUS})")));
        }
        Ok(gic)
    }
}

/// The text of `-M virt,help`.
pub fn help(version: Version) -> String {
    let row = |r: &Row| format!("  {:<22} - {}\n", format!("{}=<{}>", r.name, r.kind), r.help);
    let title = format!("virt-{}.{}-machine options:\n", version.major, version.minor);
    std::iter::once(title).chain(ROWS.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, value: &str) -> String {
        Options::new(true).set(name, value).unwrap_err().to_string()
    }

    #[test]
    fn properties_are_set_by_name() {
        let mut o = Options::new(false);
        for (name, value) in [("secure", "on"), ("gic-version", "3"), ("highmem", "off"), ("its", "off"), ("acpi", "off")] {
            o.set(name, value).unwrap();
        }
        assert_eq!((o.secure, o.gic, o.highmem, o.its), (true, Some(Gic::V3), Some(false), false));
    }

    #[test]
    fn mistakes_have_qemus_sentences() {
        assert_eq!(refused("foo", "1"), "Property 'virt-10.0-machine.foo' not found");
        assert_eq!(refused("secure", "maybe"), "Parameter 'secure' expects 'on' or 'off'");
        assert_eq!(refused("gic-version", "7"), "Invalid gic-version value\nValid values are 3, 2, host, max.");
        assert_eq!(refused("iommu", "smmuv3"), "iommu=smmuv3 is not supported yet");
        assert_eq!(refused("mte", "on"), "mte=on is not supported yet");
    }

    #[test]
    fn older_versions_lack_what_came_later() {
        let of = |name| Options::of_version(true, Version::of(name).unwrap());
        assert_eq!((of("virt-7.2").compact_highmem, of("virt-7.1").compact_highmem), (true, false));
        assert_eq!((of("virt-6.2").its, of("virt-6.1").its, of("virt-2.12").highmem_ecam), (true, false, Some(false)));
        let v = of("virt-2.6").version;
        assert!(!v.has_cpu_map() && !v.has_secure_gpio() && v.has_edge_timers() && !v.has_pmu());
        assert_eq!(of("virt-10.0"), Options::new(true));
        assert!(Version::of("virt").is_none() && Version::of("virt-x.1").is_none());
    }

    #[test]
    fn many_cpus_need_a_gicv3() {
        let mut o = Options::new(true);
        assert_eq!(o.gic_for(8).unwrap(), Gic::V2);
        assert_eq!(o.gic_for(9).unwrap(), Gic::V3);
        o.set("gic-version", "2").unwrap();
        let e = o.gic_for(9).unwrap_err().to_string();
        assert_eq!(e, "Number of SMP CPUs requested (9) exceeds max CPUs supported by machine 'mach-virt' (8)");
    }
}
