//! The trees against recorded ones of QEMU 10.0.2 (`trees/*.dtb.gz`, written by `-M virt-10.0,dtb-randomness=off,dumpdtb=`).

use super::*;
use crate::arm::virt::options::Version;
use std::io::Read;

struct Recorded {
    name: &'static str,
    blob: &'static [u8],
    cpu: &'static str,
    settings: &'static [(&'static str, &'static str)],
    /// CPUs, sockets, clusters, cores, threads.
    smp: [u32; 5],
    memory_mib: u64,
    uart1: bool,
}

macro_rules! recorded {
    ($($name:literal $cpu:literal $settings:expr, $smp:expr, $memory:literal $uart1:literal;)*) => {
        const RECORDED: &[Recorded] = &[$(Recorded {
            name: $name, blob: include_bytes!(concat!("trees/", $name, ".dtb.gz")), cpu: $cpu, settings: &$settings, smp: $smp,
            memory_mib: $memory, uart1: $uart1,
        }),*];
    };
}

recorded! {
    "a15"            "cortex-a15" [], [1, 1, 1, 1, 1], 128 false;
    "a15-smp4"       "cortex-a15" [], [4, 1, 1, 4, 1], 1024 false;
    "a7-smp2"        "cortex-a7"  [], [2, 1, 1, 2, 1], 512 false;
    "a7-sockets"     "cortex-a7"  [], [8, 2, 1, 2, 2], 4096 false;
    "a15-gic3-smp4"  "cortex-a15" [("gic-version", "3")], [4, 1, 1, 4, 1], 128 false;
    "a15-gic3-noits" "cortex-a15" [("gic-version", "3"), ("its", "off")], [1, 1, 1, 1, 1], 128 false;
    "max-gicmax"     "max"        [("gic-version", "max")], [130, 1, 1, 130, 1], 128 false;
    "max"            "max"        [], [1, 1, 1, 1, 1], 3072 false;
    "a15-highmemoff" "cortex-a15" [("highmem", "off")], [1, 1, 1, 1, 1], 128 false;
    "a15-lowecam"    "cortex-a15" [("highmem-ecam", "off")], [1, 1, 1, 1, 1], 128 false;
    "a15-secure"     "cortex-a15" [("secure", "on")], [2, 1, 1, 2, 1], 128 false;
    "a15-virt"       "cortex-a15" [("virtualization", "on")], [1, 1, 1, 1, 1], 128 false;
    "a15-all"        "cortex-a15" [("secure", "on"), ("virtualization", "on"), ("gic-version", "3")], [1, 1, 1, 1, 1], 128 false;
    "a15-serials"    "cortex-a15" [], [1, 1, 1, 1, 1], 128 true;
    "virt-6.1"       "cortex-a15" [], [2, 1, 1, 2, 1], 512 false;
    "virt-5.2-secure" "cortex-a15" [("secure", "on")], [2, 1, 1, 2, 1], 512 false;
    "virt-2.12"      "cortex-a15" [], [2, 1, 1, 2, 1], 512 false;
    "virt-2.6"       "cortex-a15" [], [2, 1, 1, 2, 1], 512 false;
}

fn ours(r: &Recorded) -> Tree {
    let version = Version::of(r.name.trim_end_matches("-secure")).unwrap_or(Version::LATEST);
    let mut options = Options::of_version(true, version);
    options.set("dtb-randomness", "off").unwrap();
    r.settings.iter().for_each(|(n, v)| options.set(n, v).unwrap());
    let [cpus, sockets, clusters, cores, threads] = r.smp;
    let gic = options.gic_for(cpus).unwrap();
    let layout = Layout::new(&options, r.memory_mib << 20, cpus, 40, false).unwrap();
    let cluster = if gic == Gic::V2 { 8 } else { 16 };
    let cpu_options = arm::system::Options { cluster, pmu: version.has_pmu(), ..Default::default() };
    let cpu = arm::features::model(r.cpu).unwrap();
    let machine = Machine {
        options: &options,
        layout: &layout,
        gic,
        cpu,
        cpu_options: &cpu_options,
        cpus,
        sockets,
        clusters,
        cores,
        threads,
        uart1: r.uart1,
        psci: !options.secure,
        seeds: None,
    };
    machine.tree()
}

fn theirs(r: &Recorded) -> Tree {
    let mut blob = Vec::new();
    flate2::read::GzDecoder::new(r.blob).read_to_end(&mut blob).unwrap();
    Tree::parse(&blob).unwrap()
}

/// The first line in which two texts differ.
fn difference(ours: &str, theirs: &str) -> Option<String> {
    let (mut a, mut b) = (ours.lines(), theirs.lines());
    loop {
        let (x, y) = (a.next(), b.next());
        if x != y {
            return Some(format!("ours   {x:?}\ntheirs {y:?}"));
        }
        x?;
    }
}

#[test]
fn trees_equal_qemus() {
    let compare = |r: &Recorded| Some(format!("{}:\n{}\n", r.name, difference(&ours(r).describe(), &theirs(r).describe())?));
    let differences: String = RECORDED.iter().filter_map(compare).collect();
    assert_eq!(differences, "");
}

#[test]
fn the_guest_gets_random_bytes() {
    let mut options = Options::new(false);
    options.set("dt-compatible", "example,board").unwrap();
    let layout = Layout::new(&options, 128 << 20, 1, 40, false).unwrap();
    let cpu = arm::features::model("cortex-a15").unwrap();
    let cpu_options = arm::system::Options::default();
    let m = Machine {
        options: &options,
        layout: &layout,
        gic: Gic::V2,
        cpu,
        cpu_options: &cpu_options,
        cpus: 1,
        sockets: 1,
        clusters: 1,
        cores: 1,
        threads: 1,
        uart1: false,
        psci: true,
        seeds: Some(([1; 32], [2; 8])),
    };
    let tree = m.tree();
    assert_eq!(tree.get("/chosen", "rng-seed").unwrap(), [1; 32]);
    assert_eq!(tree.get("/chosen", "kaslr-seed").unwrap(), [2; 8]);
    assert_eq!(tree.get("/", "compatible").unwrap(), b"example,board\0");
    // Plain `virt`: the configuration space is low.
    assert_eq!(tree.get("/pcie@10000000", "reg").unwrap(), [0u32, 0x3f00_0000, 0, 0x100_0000].map(u32::to_be_bytes).concat());
}
