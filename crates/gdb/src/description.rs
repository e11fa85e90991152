//! The target description that a debugger reads first: architecture and registers, from the guest's own rows.
//!
//! **Reference.** "Debugging with GDB", appendix G.

use cpu::Guest;
use std::collections::BTreeSet;
use std::fmt::Write;

/// GDB's name of an architecture.
fn architecture(name: &str) -> &str {
    match name {
        "x86_64" => "i386:x86-64",
        "riscv64" => "riscv:rv64",
        "riscv32" => "riscv:rv32",
        other => other,
    }
}

/// Features whose registers are shown by `info registers GROUP` and `info all-registers` only, and are neither saved nor
/// restored around calls.
const GROUPS: &[(&str, &str)] = &[("org.qemu.gdb.arm.sys.regs", "cp_regs"), ("org.rhea.gdb.arm.banked", "banked")];

/// A register that is seen as several kinds of lanes: name, and for each view its name, lane type and count.
type Composed = (&'static str, &'static [(&'static str, &'static str, u32)]);

/// The types of registers that GDB does not know by itself.
const COMPOSED: &[Composed] = &[
    ("neon_d", &[("u8", "uint8", 8), ("u16", "uint16", 4), ("u32", "uint32", 2), ("u64", "uint64", 1), ("f32", "ieee_single", 2), ("f64", "ieee_double", 1)]),
    ("neon_q", &[("u8", "uint8", 16), ("u16", "uint16", 8), ("u32", "uint32", 4), ("u64", "uint64", 2), ("f32", "ieee_single", 4), ("f64", "ieee_double", 2)]),
];

/// Defines the composed types among those used.
fn define(out: &mut String, used: &BTreeSet<&str>) {
    for (name, views) in COMPOSED.iter().filter(|c| used.contains(c.0)) {
        let vector = |view: &str| format!("{name}_{view}");
        for (view, lane, count) in views.iter().filter(|v| v.2 > 1) {
            let _ = writeln!(out, "<vector id=\"{}\" type=\"{lane}\" count=\"{count}\"/>", vector(view));
        }
        let _ = writeln!(out, "<union id=\"{name}\">");
        for (view, lane, count) in *views {
            let of = if *count > 1 { vector(view) } else { lane.to_string() };
            let _ = writeln!(out, "<field name=\"{view}\" type=\"{of}\"/>");
        }
        out.push_str("</union>\n");
    }
}

/// The XML document.
pub fn xml(guest: &dyn Guest, os_abi: Option<&str>) -> String {
    let mut out = String::from("<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n<target version=\"1.0\">\n");
    let _ = writeln!(out, "<architecture>{}</architecture>", architecture(guest.name()));
    if let Some(os) = os_abi {
        let _ = writeln!(out, "<osabi>{os}</osabi>");
    }
    let mut open = "";
    for (number, r) in guest.registers().iter().enumerate() {
        if r.feature != open {
            if !open.is_empty() {
                out.push_str("</feature>\n");
            }
            let _ = writeln!(out, "<feature name=\"{}\">", r.feature);
            open = r.feature;
            let used = guest.registers().iter().filter(|other| other.feature == open);
            define(&mut out, &used.map(|other| other.kind).collect());
        }
        let group = GROUPS.iter().find(|(feature, _)| *feature == r.feature);
        let group = group.map_or(String::new(), |(_, name)| format!(" group=\"{name}\" save-restore=\"no\""));
        let _ = writeln!(out, "<reg name=\"{}\" bitsize=\"{}\" regnum=\"{number}\" type=\"{}\"{group}/>", r.name, r.bits, r.kind);
    }
    if !open.is_empty() {
        out.push_str("</feature>\n");
    }
    out.push_str("</target>\n");
    out
}
