//! What debuggers see of a CPU of a machine besides the ordinary registers: FPSID and FPEXC, system registers, the banked
//! registers of all modes.
//!
//! **Reference.** The features `org.qemu.gdb.arm.vfp-sysregs` and `org.qemu.gdb.arm.sys.regs` of QEMU 10.0.2's target
//! description. The names are those of the rows in `sysreg`; `org.rhea.gdb.arm.banked` is ours: `sp_irq`, `spsr_svc`, ….
//!
//! **Not modelled**: registers whose value needs the time or the rest of the machine (counters, CNTx_CTL, GICv3, MPIDR). System
//! registers cannot be written, as in QEMU.

use crate::guest::Arm;
use crate::state::{self, bank, bank::mode};
use crate::sysreg::{self, Row};
use crate::system::Options;
use cpu::Register;
use ir::State;
use std::sync::Mutex;

const VFP_SYSTEM: &str = "org.qemu.gdb.arm.vfp-sysregs";
const SYSTEM: &str = "org.qemu.gdb.arm.sys.regs";
const BANKED: &str = "org.rhea.gdb.arm.banked";

/// Where a value is.
#[derive(Clone, Copy)]
enum Place {
    State(u32),
    Fpsid,
    Row(&'static Row),
    /// Register `n` of a mode.
    Banked(u32, u32),
    Spsr(u32),
}

/// All registers of one kind of CPU.
pub struct Registers {
    pub list: Vec<Register>,
    /// Of the last ones.
    places: Vec<Place>,
}

/// Names of the banked registers: mode, then r8 to r14 and SPSR as far as it has its own.
#[rustfmt::skip]
const BANKS: &[(u32, &[&str])] = &[
    (mode::USR, &["r8_usr", "r9_usr", "r10_usr", "r11_usr", "r12_usr", "sp_usr", "lr_usr"]),
    (mode::FIQ, &["r8_fiq", "r9_fiq", "r10_fiq", "r11_fiq", "r12_fiq", "sp_fiq", "lr_fiq", "spsr_fiq"]),
    (mode::IRQ, &["", "", "", "", "", "sp_irq", "lr_irq", "spsr_irq"]),
    (mode::SVC, &["", "", "", "", "", "sp_svc", "lr_svc", "spsr_svc"]),
    (mode::ABT, &["", "", "", "", "", "sp_abt", "lr_abt", "spsr_abt"]),
    (mode::UND, &["", "", "", "", "", "sp_und", "lr_und", "spsr_und"]),
    (mode::MON, &["", "", "", "", "", "sp_mon", "lr_mon", "spsr_mon"]),
    (mode::HYP, &["", "", "", "", "", "sp_hyp", "", "spsr_hyp"]),
];

impl Registers {
    fn new(arm: &Arm, ordinary: &[Register]) -> Registers {
        let mut r = Registers { list: ordinary.to_vec(), places: Vec::new() };
        if ordinary.last().is_some_and(|last| last.name == "fpscr") {
            r.add("fpsid", 32, VFP_SYSTEM, Place::Fpsid);
            r.add("fpexc", 32, VFP_SYSTEM, Place::State(bank::FPEXC));
        }
        for row in sysreg::shown(arm) {
            r.add(row.name, row.bits(), SYSTEM, Place::Row(row));
        }
        for (of, names) in BANKS {
            let there = match *of {
                mode::MON => arm.has_security(),
                mode::HYP => arm.has_virtualization(),
                _ => true,
            };
            for (n, name) in names.iter().enumerate().filter(|(_, name)| there && !name.is_empty()) {
                let place = if n == 7 { Place::Spsr(*of) } else { Place::Banked(*of, n as u32 + 8) };
                r.add(name, 32, BANKED, place);
            }
        }
        if arm.has_virtualization() {
            r.add("elr_hyp", 32, BANKED, Place::State(bank::ELR_HYP));
        }
        r
    }

    fn add(&mut self, name: &'static str, bits: u16, feature: &'static str, place: Place) {
        self.list.push(Register { name, bits, feature, kind: "int" });
        self.places.push(place);
    }

    fn place(&self, number: usize) -> Option<Place> {
        self.places.get(number.checked_sub(self.list.len() - self.places.len())?).copied()
    }
}

/// The registers of a machine's CPU: `ordinary` and more. Each kind of CPU is made once and kept.
pub fn registers(arm: &Arm, options: Options, ordinary: &[Register]) -> &'static Registers {
    type Known = (&'static str, Options, &'static Registers);
    static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(|e| e.into_inner());
    if let Some((.., list)) = known.iter().find(|k| k.0 == arm.model.name && k.1 == options) {
        return list;
    }
    let list: &'static Registers = Box::leak(Box::new(Registers::new(arm, ordinary)));
    known.push((arm.model.name, options, list));
    list
}

impl Arm {
    /// A register that is not among the ordinary ones.
    pub(crate) fn read_extra(&self, registers: &Registers, state: &State, number: usize) -> u64 {
        let now = state::key::mode(state.u64_at(ir::state::KEY));
        match registers.place(number) {
            None => 0,
            Some(Place::State(offset)) => state.u32_at(offset).into(),
            Some(Place::Fpsid) => sysreg::id::of_model(self.model.name).fpsid.into(),
            Some(Place::Row(row)) => sysreg::value(self, state, row),
            Some(Place::Banked(of, n)) => state.u32_at(bank::place(now, of, n)).into(),
            Some(Place::Spsr(of)) => bank::Bank::of(of).map_or(0, |b| state.u32_at(b.spsr()).into()),
        }
    }

    pub(crate) fn write_extra(&self, registers: &Registers, state: &mut State, number: usize, value: u32) {
        let now = state::key::mode(state.u64_at(ir::state::KEY));
        match registers.place(number) {
            Some(Place::Banked(of, n)) => state.set_u32(bank::place(now, of, n), value),
            Some(Place::Spsr(of)) => {
                if let Some(b) = bank::Bank::of(of) {
                    state.set_u32(b.spsr(), value);
                }
            }
            Some(Place::State(bank::ELR_HYP)) => state.set_u32(bank::ELR_HYP, value),
            Some(Place::State(_) | Place::Fpsid | Place::Row(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpu::Guest;

    fn cpu(options: Options) -> (Arm, State) {
        let arm = Arm::machine(crate::features::model("cortex-a15").unwrap(), options);
        let mut state = State::default();
        arm.reset(&mut state);
        (arm, state)
    }

    fn number(arm: &Arm, name: &str) -> usize {
        arm.registers().iter().position(|r| r.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    #[test]
    fn system_registers_have_the_values_that_the_guest_reads() {
        let (arm, mut s) = cpu(Options::default());
        s.set_u32(state::sys::VBAR, 0xffff_0000);
        s.set_u64(state::sys::TTBR0, 0x4020_006a);
        for (name, value) in [
            ("SCTLR", 0x00c5_0078),
            ("VBAR", 0xffff_0000),
            ("TTBR0", 0x4020_006a),
            ("MIDR", 0x414f_c0f0),
            ("DACR", 0),
            ("CNTFRQ", 62_500_000),
            ("DBGDIDR", 0x3515_f021),
            ("fpsid", 0x4104_30f0),
        ] {
            assert_eq!(arm.read_register(&s, number(&arm, name)), value, "{name}");
        }
        assert_eq!(arm.registers()[number(&arm, "TTBR0")].bits, 64);
        assert!(!arm.registers().iter().any(|r| ["CNTP_CTL", "PMCCNTR", "MPIDR"].contains(&r.name)));
        let features: Vec<&str> = arm.registers().iter().map(|r| r.feature).collect();
        let mut changes = features.clone();
        changes.dedup();
        assert_eq!(changes.len(), 5, "the registers of a feature lie together");
    }

    #[test]
    fn names_are_unique_and_all_can_be_read_and_written() {
        for secure in [false, true] {
            let (arm, mut s) = cpu(Options { secure, virtualization: secure, ..Options::default() });
            let mut names: Vec<&str> = arm.registers().iter().map(|r| r.name).collect();
            for n in 0..names.len() {
                let old = arm.read_register(&s, n);
                arm.write_register(&mut s, n, old);
                assert_eq!(arm.read_register(&s, n), old, "{}", names[n]);
            }
            names.sort();
            names.dedup();
            assert_eq!((names.len(), names.contains(&"spsr_mon")), (arm.registers().len(), secure));
        }
    }

    #[test]
    fn banked_registers_are_seen_from_any_mode() {
        let (arm, mut s) = cpu(Options::default());
        arm.write_register(&mut s, number(&arm, "sp_irq"), 0x1000);
        arm.write_register(&mut s, number(&arm, "sp_svc"), 0x2000);
        assert_eq!(arm.read_register(&s, 13), 0x2000, "the reset mode is Supervisor");
        let cpsr = arm.read_register(&s, 16);
        arm.write_register(&mut s, 16, cpsr & !31 | 0x12);
        assert_eq!(arm.read_register(&s, 13), 0x1000);
        assert_eq!(arm.read_register(&s, number(&arm, "sp_svc")), 0x2000);
        arm.write_register(&mut s, number(&arm, "spsr_irq"), 0x1d3);
        assert_eq!(arm.read_register(&s, number(&arm, "spsr_irq")), 0x1d3);
    }
}
