//! Exceptions: where they go, what they save, and the return from them.
//!
//! **Reference.** Arm ARM (DDI 0406C) B1.8 (exception handling), B1.9 (descriptions of each), B1.3.3 (writes to CPSR).
//!
//! **Not modelled**: SCTLR.NMFI and SCTLR.VE (no modelled CPU has either), asynchronous aborts.

pub mod describe;

use crate::features::Features;
use crate::guest::Arm;
use crate::mmu::effective_hcr;
use crate::state::bank::{self, Bank, mode};
use crate::state::sys::{hcr, hdcr, scr, sctlr};
use crate::state::{self, cpsr, key, r, sys};
use crate::sysreg::control;
use ir::State;
use ir::state::KEY;

/// Exceptions by the offset of their vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Exception {
    Undefined = 0x04,
    Supervisor = 0x08,
    PrefetchAbort = 0x0c,
    DataAbort = 0x10,
    /// Into Hyp mode from a less privileged one.
    HypTrap = 0x14,
    Irq = 0x18,
    Fiq = 0x1c,
}

impl Exception {
    /// The PL1 mode that handles it.
    fn mode(self) -> u32 {
        match self {
            Exception::Undefined => mode::UND,
            Exception::Supervisor | Exception::HypTrap => mode::SVC,
            Exception::PrefetchAbort | Exception::DataAbort => mode::ABT,
            Exception::Irq => mode::IRQ,
            Exception::Fiq => mode::FIQ,
        }
    }
}

/// Exception classes of HSR.
pub mod class {
    pub const UNKNOWN: u32 = 0;
    /// WFI or WFE.
    pub const WAIT: u32 = 0x01;
    /// VMRS of an identification register.
    pub const VMRS: u32 = 0x08;
    pub const SVC: u32 = 0x11;
    pub const HVC: u32 = 0x12;
    pub const SMC: u32 = 0x13;
    pub const PREFETCH_LOWER: u32 = 0x20;
    pub const PREFETCH: u32 = 0x21;
    pub const DATA_LOWER: u32 = 0x24;
    pub const DATA: u32 = 0x25;
    pub const FP: u32 = 0x07;
}

/// A 32-bit instruction caused it (HSR.IL).
pub const HSR_IL: u32 = 1 << 25;

/// M\[3:0\] of the current mode.
pub fn current_mode(state: &State) -> u32 {
    key::mode(state.u64_at(KEY))
}

/// Who writes CPSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// MSR or CPS.
    Instruction,
    Return,
    /// A debugger, or what sets a CPU up.
    Outside,
}

impl Arm {
    /// HaveSecurityExt().
    pub fn has_security(&self) -> bool {
        self.options.is_some_and(|o| o.secure)
    }

    /// HaveVirtExt().
    pub fn has_virtualization(&self) -> bool {
        self.options.is_some_and(|o| o.virtualization)
    }

    /// IsSecure().
    pub fn is_secure(&self, state: &State) -> bool {
        self.has_security() && (current_mode(state) == mode::MON || state.u32_at(sys::SCR) & scr::NS == 0)
    }

    /// A system register with a copy for each world, in the current one.
    fn banked(&self, state: &State, offset: u32) -> u32 {
        state.u32_at(sys::bank(offset, self.is_secure(state)))
    }

    fn set_banked(&self, state: &mut State, offset: u32, value: u32) {
        let place = sys::bank(offset, self.is_secure(state));
        state.set_u32(place, value);
    }

    /// Whether faults of the current mode are described in the long-descriptor format.
    pub(crate) fn long_descriptors(&self, state: &State) -> bool {
        current_mode(state) == mode::HYP || self.banked(state, sys::TTBCR) & sys::TTBCR_EAE != 0
    }

    /// The reset state of what is here: Secure Supervisor mode, or what there is instead, at the reset vector.
    pub(crate) fn reset_system(&self, state: &mut State) {
        state.set_u32(ir::state::FLAGS, state::word_of_nzcv(cpsr::Z));
        state.set_u32(bank::CPSR_MASKS, bank::MASKS);
        bank::switch(state, if self.has_virtualization() && !self.has_security() { mode::HYP } else { mode::SVC });
        let control = self.banked(state, sys::SCTLR);
        let vector = if control & sctlr::V != 0 { 0xffff_0000 } else { 0 };
        let endian = if control & sctlr::EE != 0 { key::E } else { 0 };
        let thumb = if control & sctlr::TE != 0 { key::T } else { 0 };
        state.set_u64(KEY, state.u64_at(KEY) & key::STATIC | vector | endian | thumb);
        control::update_key(self, state);
    }

    /// Puts a CPU that has been reset into the most privileged Non-secure mode below Monitor.
    pub(crate) fn leave_secure(&self, state: &mut State) {
        if self.has_security() {
            let calls = if self.has_virtualization() { scr::HCE } else { 0 };
            control::set_scr(self, state, state.u32_at(sys::SCR) | scr::NS | calls);
            state.set_u32(sys::NSACR, state.u32_at(sys::NSACR) | 3 << 10);
        }
        bank::switch(state, if self.has_virtualization() { mode::HYP } else { mode::SVC });
        control::update_key(self, state);
    }

    /// Whether CPACR, NSACR and HCPTR let the current mode use coprocessors 10 and 11, FPEXC aside.
    pub fn fp_allowed(&self, state: &State) -> bool {
        control::fp_allowed(self, state, current_mode(state), self.is_secure(state))
    }

    /// Takes an exception. `preferred` is the address that Hyp mode returns to; PL1 and Monitor modes get `link` in LR.
    fn enter(&self, state: &mut State, e: Exception, link: u32) {
        let saved = state::read_cpsr(state);
        self.leave_monitor(state);
        let to = e.mode();
        bank::switch(state, to);
        let secure = self.is_secure(state);
        let scr = state.u32_at(sys::SCR);
        // Without Virtualization Extensions the Non-secure world may be kept from masking aborts and FIQs.
        let may = |bit: u32| !self.has_security() || self.has_virtualization() || secure || scr & bit != 0;
        let mut masks = state.u32_at(bank::CPSR_MASKS) | cpsr::I;
        if !matches!(e, Exception::Undefined | Exception::Supervisor) && may(scr::AW) {
            masks |= cpsr::A;
        }
        if e == Exception::Fiq && may(scr::FW) {
            masks |= cpsr::F;
        }
        let control = self.banked(state, sys::SCTLR);
        let base = if control & sctlr::V != 0 { 0xffff_0000 } else { self.banked(state, sys::VBAR) };
        self.arrive(state, saved, link, masks, control, base.wrapping_add(e as u32));
    }

    /// An exception in Monitor mode is handled in Secure state.
    fn leave_monitor(&self, state: &mut State) {
        if current_mode(state) == mode::MON {
            control::set_scr(self, state, state.u32_at(sys::SCR) & !scr::NS);
        }
    }

    /// EnterMonitorMode().
    fn enter_monitor(&self, state: &mut State, link: u32, vector: u32) {
        let saved = state::read_cpsr(state);
        self.leave_monitor(state);
        bank::switch(state, mode::MON);
        let control = self.banked(state, sys::SCTLR);
        let base = state.u32_at(sys::MVBAR);
        self.arrive(state, saved, link, bank::MASKS, control, base.wrapping_add(vector));
    }

    /// EnterHypMode(). `syndrome` is HSR, which interrupts leave alone.
    fn enter_hyp(&self, state: &mut State, vector: Exception, preferred: u32, syndrome: Option<u32>) {
        let saved = state::read_cpsr(state);
        bank::switch(state, mode::HYP);
        if let Some(value) = syndrome {
            state.set_u32(sys::HSR, value);
        }
        let scr = state.u32_at(sys::SCR);
        let mut masks = state.u32_at(bank::CPSR_MASKS);
        for (bit, mask) in [(scr::EA, cpsr::A), (scr::IRQ, cpsr::I), (scr::FIQ, cpsr::F)] {
            if !self.has_security() || scr & bit == 0 {
                masks |= mask;
            }
        }
        let control = state.u32_at(sys::HSCTLR);
        let base = state.u32_at(sys::HVBAR);
        let lr = state.u32_at(r(14));
        state.set_u32(bank::ELR_HYP, preferred);
        self.arrive(state, saved, lr, masks, control, base.wrapping_add(vector as u32));
    }

    /// What all entries share, in the new mode.
    #[allow(clippy::too_many_arguments)]
    fn arrive(&self, state: &mut State, saved: u32, link: u32, masks: u32, control: u32, vector: u32) {
        if log::log_enabled!(target: "int", log::Level::Trace) {
            self.log_exception(state, saved, vector);
        }
        if let Some(bank) = Bank::of(current_mode(state)) {
            state.set_u32(bank.spsr(), saved);
        }
        state.set_u32(r(14), link);
        state.set_u32(bank::CPSR_MASKS, masks);
        let mut new = state.u64_at(KEY) & key::STATIC & !key::E | vector as u64 & !3;
        if control & sctlr::TE != 0 {
            new |= key::T;
        }
        if control & sctlr::EE != 0 {
            new |= key::E;
        }
        state.set_u64(KEY, new);
        control::update_key(self, state);
    }

    /// `-d int`, in the new mode with the old PC. The numbers are QEMU's.
    fn log_exception(&self, state: &State, saved: u32, vector: u32) {
        let to = current_mode(state);
        let (number, name) = match (vector & 0x1f, to) {
            (0x04, _) => (1, "Undefined Instruction"),
            (0x08, mode::MON) => (13, "Secure Monitor Call"),
            (0x08, _) => (2, "SVC"),
            (0x0c, _) => (3, "Prefetch Abort"),
            (0x10, _) => (4, "Data Abort"),
            (0x14, _) => (12, "Hypervisor Trap"),
            (0x18, _) => (5, "IRQ"),
            _ => (6, "FIQ"),
        };
        let level = |m: u32| match m {
            mode::USR => 0,
            mode::HYP => 2,
            mode::MON => 3,
            _ => 1,
        };
        let mut text = format!("Taking exception {number} [{name}] on CPU {}\n", cpu::system::running_cpu());
        text += &format!("...from EL{} to EL{}\n", level(saved & 15), level(to));
        let pc = key::pc(state.u64_at(KEY));
        text += &format!("...from {} PC {pc:#x} to {} PC {vector:#x}", bank::mode_name(saved & 15), bank::mode_name(to));
        match (number, to) {
            (_, mode::HYP) => text += &format!("\n...with HSR {:#x}", state.u32_at(sys::HSR)),
            (3, _) => text += &format!("\n...with IFSR {:#x} IFAR {:#x}", self.banked(state, sys::IFSR), self.banked(state, sys::IFAR)),
            (4, _) => text += &format!("\n...with DFSR {:#x} DFAR {:#x}", self.banked(state, sys::DFSR), self.banked(state, sys::DFAR)),
            _ => {}
        }
        log::trace!(target: "int", "{text}");
    }

    /// Whether a synchronous exception goes to Hyp mode: from Hyp mode itself, or from User mode under HCR.TGE. The vector
    /// in that case.
    pub(crate) fn to_hyp(&self, state: &State, e: Exception) -> Option<Exception> {
        if !self.has_virtualization() || self.is_secure(state) {
            return None;
        }
        match current_mode(state) {
            mode::HYP => Some(e),
            mode::USR if state.u32_at(sys::HCR) & hcr::TGE != 0 => Some(Exception::HypTrap),
            _ => None,
        }
    }

    /// HSR of a class; `long` is the length of the instruction. Where that says nothing (unknown reasons, aborts without a
    /// description), IL is 0 before ARMv8 and 1 from then on.
    fn syndrome(&self, class: u32, long: bool, detail: u32) -> Option<u32> {
        let silent = match class {
            class::UNKNOWN | class::PREFETCH_LOWER | class::PREFETCH => true,
            class::DATA_LOWER | class::DATA => detail & describe::ISV == 0,
            _ => false,
        };
        let il = if silent { self.features.has(Features::V8) } else { long };
        Some(class << 26 | if il { HSR_IL } else { 0 } | detail)
    }

    /// The current instruction (`word`) is UNDEFINED.
    pub fn take_undefined(&self, state: &mut State, word: u32) {
        let key = state.u64_at(KEY);
        let (pc, thumb) = (key::pc(key), key::thumb(key));
        let long = !thumb || word >> 16 != 0;
        if let Some(vector) = self.to_hyp(state, Exception::Undefined) {
            return self.enter_hyp(state, vector, pc, self.syndrome(class::UNKNOWN, long, 0));
        }
        self.enter(state, Exception::Undefined, pc.wrapping_add(if thumb { 2 } else { 4 }));
    }

    /// A trap of the current instruction to Hyp mode, with this HSR.
    pub fn take_hyp_trap(&self, state: &mut State, syndrome: u32) {
        let pc = state::read_pc(state);
        let vector = if current_mode(state) == mode::HYP { Exception::Undefined } else { Exception::HypTrap };
        self.enter_hyp(state, vector, pc, Some(syndrome));
    }

    /// SVC; the key is that of the next instruction.
    pub fn take_svc(&self, state: &mut State, immediate: u32) {
        let key = state.u64_at(KEY);
        let next = key::pc(key);
        if let Some(vector) = self.to_hyp(state, Exception::Supervisor) {
            return self.enter_hyp(state, vector, next, self.syndrome(class::SVC, !key::thumb(key), immediate & 0xffff));
        }
        self.enter(state, Exception::Supervisor, next);
    }

    /// HVC; the key is that of the next instruction.
    pub fn take_hvc(&self, state: &mut State, immediate: u32) {
        let next = state::read_pc(state);
        let vector = if current_mode(state) == mode::HYP { Exception::Supervisor } else { Exception::HypTrap };
        self.enter_hyp(state, vector, next, self.syndrome(class::HVC, true, immediate));
    }

    /// SMC; the key is that of the next instruction.
    pub fn take_smc(&self, state: &mut State) {
        let next = state::read_pc(state);
        self.enter_monitor(state, next, Exception::Supervisor as u32);
    }

    /// A data abort by the current instruction, its status as DFSR has it.
    pub fn take_data_abort(&self, state: &mut State, addr: u32, status: u32) {
        let pc = state::read_pc(state);
        if let Some(vector) = self.to_hyp(state, Exception::DataAbort) {
            state.set_u32(sys::HDFAR, addr);
            let class = if vector == Exception::DataAbort { class::DATA } else { class::DATA_LOWER };
            let write = status >> 11 & 1;
            let detail = status & 0x3f | write << 6;
            return self.enter_hyp(state, vector, pc, self.syndrome(class, true, detail));
        }
        self.set_banked(state, sys::DFSR, status);
        self.set_banked(state, sys::DFAR, addr);
        self.enter(state, Exception::DataAbort, pc.wrapping_add(8));
    }

    /// The current instruction is BKPT.
    pub fn take_breakpoint(&self, state: &mut State) {
        let pc = state::read_pc(state);
        let below_hyp = self.has_virtualization() && !self.is_secure(state) && current_mode(state) != mode::HYP;
        if below_hyp && state.u32_at(sys::HDCR) & hdcr::TDE != 0 {
            state.set_u32(sys::HIFAR, pc);
            // The length is said here, as by QEMU, and not for other prefetch aborts.
            let syndrome = class::PREFETCH_LOWER << 26 | HSR_IL | DEBUG_EVENT_LONG;
            return self.enter_hyp(state, Exception::HypTrap, pc, Some(syndrome));
        }
        let status = if self.long_descriptors(state) { 1 << 9 | DEBUG_EVENT_LONG } else { DEBUG_EVENT };
        self.take_prefetch_abort(state, pc, status);
    }

    /// The current instruction cannot be fetched, or is BKPT; status as IFSR has it.
    pub fn take_prefetch_abort(&self, state: &mut State, addr: u32, status: u32) {
        let pc = state::read_pc(state);
        if let Some(vector) = self.to_hyp(state, Exception::PrefetchAbort) {
            state.set_u32(sys::HIFAR, addr);
            let class = if vector == Exception::PrefetchAbort { class::PREFETCH } else { class::PREFETCH_LOWER };
            return self.enter_hyp(state, vector, pc, self.syndrome(class, true, status & 0x3f));
        }
        self.set_banked(state, sys::IFSR, status);
        self.set_banked(state, sys::IFAR, addr);
        self.enter(state, Exception::PrefetchAbort, pc.wrapping_add(4));
    }

    /// A fault of the second stage of translation in what a less privileged mode did: `detail` is HSR's, `hpfar` the
    /// intermediate physical address as HPFAR has it.
    pub fn take_stage_2_fault(&self, state: &mut State, addr: u32, fetch: bool, long: bool, detail: u32, hpfar: u32) {
        let pc = state::read_pc(state);
        let (place, class) =
            if fetch { (sys::HIFAR, class::PREFETCH_LOWER) } else { (sys::HDFAR, class::DATA_LOWER) };
        state.set_u32(place, addr);
        state.set_u32(sys::HPFAR, hpfar);
        self.enter_hyp(state, Exception::HypTrap, pc, self.syndrome(class, long, detail));
    }

    /// The asynchronous abort that a hypervisor has made pending (HCR.VA).
    fn take_virtual_abort(&self, state: &mut State) {
        let pc = state::read_pc(state);
        state.set_u32(sys::HCR, state.u32_at(sys::HCR) & !hcr::VA);
        let status = if self.long_descriptors(state) { ASYNCHRONOUS_LONG } else { ASYNCHRONOUS };
        self.set_banked(state, sys::DFSR, status);
        self.enter(state, Exception::DataAbort, pc.wrapping_add(8));
    }

    /// Takes IRQ or FIQ (physical: in the mode that SCR and HCR route it to).
    fn take_interrupt(&self, state: &mut State, e: Exception, is_virtual: bool) {
        let pc = state::read_pc(state);
        match self.interrupt_target(state, e) {
            _ if is_virtual => self.enter(state, e, pc.wrapping_add(4)),
            mode::MON => self.enter_monitor(state, pc.wrapping_add(4), e as u32),
            mode::HYP => self.enter_hyp(state, e, pc, None),
            _ => self.enter(state, e, pc.wrapping_add(4)),
        }
    }

    /// The mode that takes a physical interrupt.
    fn interrupt_target(&self, state: &State, e: Exception) -> u32 {
        let (by_scr, by_hcr) = if e == Exception::Irq { (scr::IRQ, hcr::IMO) } else { (scr::FIQ, hcr::FMO) };
        if self.has_security() && state.u32_at(sys::SCR) & by_scr != 0 {
            return mode::MON;
        }
        let hyp = current_mode(state) == mode::HYP || state.u32_at(sys::HCR) & (by_hcr | hcr::TGE) != 0;
        if self.has_virtualization() && !self.is_secure(state) && hyp {
            return mode::HYP;
        }
        e.mode()
    }

    /// Takes the most important of the pending interrupts that is not masked. Otherwise notes which masks are in the way.
    pub(crate) fn take_pending(&self, state: &mut State, inputs: u32) -> bool {
        let masks = state.u32_at(bank::CPSR_MASKS);
        let mut refused = 0;
        for (pending, e, mask, is_virtual) in [
            (inputs & FIQ != 0, Exception::Fiq, cpsr::F, false),
            (inputs & IRQ != 0, Exception::Irq, cpsr::I, false),
            (self.virtual_pending(state, inputs, cpsr::F), Exception::Fiq, cpsr::F, true),
            (self.virtual_pending(state, inputs, cpsr::I), Exception::Irq, cpsr::I, true),
            (self.virtual_pending(state, inputs, cpsr::A), Exception::DataAbort, cpsr::A, true),
        ] {
            if !pending {
                continue;
            }
            let masked = masks & mask != 0;
            if if is_virtual { masked } else { self.is_masked(state, e, masked) } {
                refused |= mask;
                continue;
            }
            state.set_u32(bank::IRQ_PENDING_MASKED, 0);
            match e {
                Exception::DataAbort => self.take_virtual_abort(state),
                _ => self.take_interrupt(state, e, is_virtual),
            }
            return true;
        }
        state.set_u32(bank::IRQ_PENDING_MASKED, refused);
        false
    }

    /// Whether a virtual interrupt or abort is pending for the current mode, by the mask that holds it back. A way back from
    /// Hyp mode or the Secure state looks again.
    fn virtual_pending(&self, state: &State, inputs: u32, mask: u32) -> bool {
        if !self.has_virtualization() || self.is_secure(state) || current_mode(state) == mode::HYP {
            return false;
        }
        let (routed, sources) = match mask {
            cpsr::F => (hcr::FMO, VIRTUAL_FIQ | HYP_VIRTUAL_FIQ),
            cpsr::I => (hcr::IMO, VIRTUAL_IRQ | HYP_VIRTUAL_IRQ),
            _ => (hcr::AMO, HYP_VIRTUAL_ABORT),
        };
        inputs & sources != 0 && effective_hcr(self, state) & routed != 0
    }

    /// Whether an interrupt ends a wait: a physical one, or a virtual one for the current mode.
    pub(crate) fn ends_wait(&self, state: &State, inputs: u32) -> bool {
        inputs & (IRQ | FIQ) != 0 || [cpsr::F, cpsr::I, cpsr::A].iter().any(|&m| self.virtual_pending(state, inputs, m))
    }

    /// Whether a physical interrupt is held back; `by_cpsr` is the mask that PL1 has for it.
    fn is_masked(&self, state: &State, e: Exception, by_cpsr: bool) -> bool {
        let mode = current_mode(state);
        // An interrupt for a more privileged mode than the current one ignores the current one's mask.
        match self.interrupt_target(state, e) {
            mode::HYP if mode != mode::HYP => false,
            // SCR.FW lets the Non-secure world mask FIQs that go to Monitor mode alone.
            mode::MON if !self.is_secure(state) => {
                let to_hyp = effective_hcr(self, state) & hcr::FMO != 0;
                by_cpsr && e == Exception::Fiq && state.u32_at(sys::SCR) & scr::FW != 0 && !to_hyp
            }
            _ => by_cpsr,
        }
    }

    /// Whether CPSR may be made to name mode `to`.
    pub fn mode_reachable(&self, state: &State, to: u32, by: By) -> bool {
        let (from, secure) = (current_mode(state), self.is_secure(state));
        if by == By::Outside {
            return Bank::of(to).is_some();
        }
        let crosses_hyp = by == By::Instruction && (from == mode::HYP) != (to == mode::HYP);
        match to {
            _ if crosses_hyp || Bank::of(to).is_none() => false,
            mode::HYP => self.has_virtualization() && !secure && from == mode::HYP || from == mode::MON && self.has_virtualization(),
            mode::MON => self.has_security() && (from == mode::MON || secure && from != mode::USR),
            _ => true,
        }
    }

    /// CPSRWriteByInstr: writes the bits in `bits` as far as the current mode may. A mode that does not exist or cannot be
    /// reached is UNPREDICTABLE: the mode stays. The key keeps its address; T and IT are written by returns only.
    pub fn write_cpsr(&self, state: &mut State, value: u32, mut bits: u32, by: By) {
        let privileged = current_mode(state) != mode::USR;
        if by == By::Instruction {
            bits &= !(cpsr::T | cpsr::IT | 1 << 24);
        }
        if !privileged && by != By::Outside {
            bits &= cpsr::USER;
        }
        if by != By::Outside && self.has_security() && !self.has_virtualization() && !self.is_secure(state) {
            let scr = state.u32_at(sys::SCR);
            for (may, mask) in [(scr::AW, cpsr::A), (scr::FW, cpsr::F)] {
                if scr & may == 0 {
                    bits &= !mask;
                }
            }
        }
        let to = value & 15;
        let changes_mode = bits & cpsr::M != 0 && value & cpsr::M != cpsr::MODE_USER | current_mode(state);
        let reachable = changes_mode && value & 0x10 != 0 && self.mode_reachable(state, to, by);
        let merged = state::read_cpsr(state) & !bits | value & bits;
        state::write_cpsr(state, merged);
        state.set_u32(bank::CPSR_MASKS, merged & bank::MASKS);
        if reachable {
            bank::switch(state, to);
        }
        control::update_key(self, state);
    }

    /// An exception return: to `pc` with CPSR = `status`.
    pub fn exception_return(&self, state: &mut State, pc: u32, status: u32) {
        let from = current_mode(state);
        self.write_cpsr(state, status, !0, By::Return);
        state::write_pc(state, pc);
        let names = [from, current_mode(state)].map(bank::mode_name);
        log::trace!(target: "int", "Exception return from AArch32 {} to {} PC {pc:#x}", names[0], names[1]);
    }
}

/// The CPU's input wires, as bits.
pub const IRQ: u32 = 1;
pub const FIQ: u32 = 2;
pub const VIRTUAL_IRQ: u32 = 4;
pub const VIRTUAL_FIQ: u32 = 8;
/// The same by HCR.VI, VF and VA: the CPU sets these itself.
pub const HYP_VIRTUAL_IRQ: u32 = 16;
pub const HYP_VIRTUAL_FIQ: u32 = 32;
pub const HYP_VIRTUAL_ABORT: u32 = 64;

/// DFSR of an asynchronous external abort, in both formats.
const ASYNCHRONOUS: u32 = 0x406;
const ASYNCHRONOUS_LONG: u32 = 1 << 9 | 0x11;
/// IFSR of a debug event.
const DEBUG_EVENT: u32 = 0x02;
const DEBUG_EVENT_LONG: u32 = 0x22;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::system::VECTORS;
    use cpu::system::Alone;
    use crate::testing::{CODE, Machine};
    use cpu::Guest;

    const NOP: u32 = 0xe320_f000;

    /// A machine after one exception: (vector, mode, LR relative to the instruction, masks set by it).
    fn taken(m: &Machine) -> (Option<u32>, u32, u32, u32) {
        (m.vector(), m.cpsr() & 15, m.r(14).wrapping_sub(CODE), m.cpsr() & bank::MASKS)
    }

    #[test]
    fn synchronous_exceptions_from_a32() {
        let at = |word| Machine::a32(&[word]).in_machine(mode::USR).set_nzcv("nZCv").instructions(1);
        let m = at(0xef00_0001); // svc
        assert_eq!(taken(&m), (Some(8), mode::SVC, 4, cpsr::I));
        assert_eq!(m.spsr(), 0x6000_0010);
        let m = at(0xe7f0_00f1); // udf
        assert_eq!(taken(&m), (Some(4), mode::UND, 4, cpsr::I));
        let m = at(0xe120_0070); // bkpt
        assert_eq!(taken(&m), (Some(0xc), mode::ABT, 4, cpsr::A | cpsr::I));
        assert_eq!(m.state.u32_at(sys::IFSR), 2);
        let m = at(0xe594_0000); // ldr r0, [r4]: nothing there
        assert_eq!(taken(&m), (Some(0x10), mode::ABT, 8, cpsr::A | cpsr::I));
        assert_eq!((m.state.u32_at(sys::DFSR), m.state.u32_at(sys::DFAR)), (8, 0));
        let m = at(0xe584_0000); // str
        assert_eq!(m.state.u32_at(sys::DFSR), 0x808);
        // ldrex r0, [r4]: not aligned
        let m = Machine::a32(&[0xe194_0f9f]).set_r(4, 2).in_machine(mode::SVC).instructions(1);
        assert_eq!((m.state.u32_at(sys::DFSR), m.state.u32_at(sys::DFAR), m.spsr() & 0x1f), (1, 2, 0x13));
    }

    #[test]
    fn synchronous_exceptions_from_thumb_save_the_it_state() {
        // it eq; svceq / udf / ldreq
        for (code, want) in [(0xdf01u16, (8, mode::SVC, 4)), (0xde01, (4, mode::UND, 4)), (0x6820, (0x10, mode::ABT, 10))] {
            let m = Machine::thumb(&[0xbf0c, code, 0xbf00]).set_nzcv("nZcv").in_machine(mode::USR);
            let m = m.instructions(2);
            let (vector, mode, link, _) = taken(&m);
            assert_eq!((vector.unwrap(), mode, link), want, "{code:#x}");
            // ite eq: after SVC the second half remains, other exceptions return to the instruction itself.
            let it = m.spsr() >> 25 & 3 | (m.spsr() >> 10 & 0x3f) << 2;
            assert_eq!(it, if code == 0xdf01 { 0x18 } else { 0x0c }, "{code:#x}");
            assert_eq!((m.spsr() & 0x20, m.cpsr() & 0x20), (0x20, 0), "handlers run in A32 state");
        }
    }

    #[test]
    fn the_system_control_register_chooses_state_and_vectors() {
        let mut m = Machine::a32(&[0xef00_0000]).in_machine(mode::USR);
        m.state.set_u32(sys::SCTLR, sctlr::TE | sctlr::EE | sctlr::V);
        let m = m.instructions(1);
        assert_eq!((m.pc(), m.cpsr() & (cpsr::T | cpsr::E)), (0xffff_0008, cpsr::T | cpsr::E));
    }

    #[test]
    fn interrupts_are_taken_by_priority_unless_masked() {
        let mut m = Machine::a32(&[NOP]).in_machine(mode::SVC);
        let mut env = Alone { inputs: IRQ | FIQ, ..Alone::default() };
        let system = m.arm;
        let system = system.system().unwrap();
        m = m.set_r(8, 0x88);
        assert!(system.interrupt(&mut m.state, &mut env));
        assert_eq!(taken(&m), (Some(0x1c), mode::FIQ, 4, cpsr::A | cpsr::I | cpsr::F));
        assert_eq!((m.r(8), m.banked(mode::USR, 8)), (0, 0x88));
        // Now both are masked: what holds them back is noted.
        assert!(!system.interrupt(&mut m.state, &mut env));
        assert_eq!(m.state.u32_at(bank::IRQ_PENDING_MASKED), cpsr::I | cpsr::F);
        env.inputs = 0;
        assert!(!system.interrupt(&mut m.state, &mut env));
        assert_eq!(m.state.u32_at(bank::IRQ_PENDING_MASKED), 0);
        m.write_cpsr(0x13);
        env.inputs = IRQ;
        assert!(system.interrupt(&mut m.state, &mut env));
        assert_eq!((m.cpsr() & 0xdf, m.pc(), m.r(14)), (0x92, VECTORS + 0x18, VECTORS + 0x1c + 4));
    }

    #[test]
    fn returns_restore_mode_state_and_it() {
        // movs pc, lr
        let m = Machine::a32(&[0xe1b0_f00e]).set_r(14, 0x1235).in_machine(mode::SVC).set_spsr(0x6000_0030);
        let m = m.set_banked(mode::USR, 13, 0x7777).instructions(1);
        assert_eq!((m.cpsr(), m.pc(), m.r(13)), (0x6000_0030, 0x1234, 0x7777));
        // subs pc, lr, #4, to A32 in System mode: bits 1:0 of the address are ignored
        let m = Machine::a32(&[0xe25e_f004]).set_r(14, 0x1237).in_machine(mode::IRQ).set_spsr(0x8000_009f).instructions(1);
        assert_eq!((m.cpsr(), m.pc()), (0x8000_009f, 0x1230));
        // An exception in an IT block returns into it.
        let m = Machine::thumb(&[0xf3de, 0x8f00]).set_r(14, 0x100).in_machine(mode::ABT).set_spsr(0x0000_0c30);
        let m = m.instructions(1);
        assert_eq!((m.cpsr(), m.state.u64_at(KEY)), (0x0c30, 0x0c_0000_0101));
        // To a mode that does not exist: the mode stays.
        let m = Machine::a32(&[0xe1b0_f00e]).set_r(14, 0x100).in_machine(mode::SVC).set_spsr(0x15).instructions(1);
        assert_eq!((m.cpsr() & 0x1f, m.pc()), (0x13, 0x100));
        // User mode has nothing to return from.
        let m = Machine::a32(&[0xe1b0_f00e]).in_machine(mode::USR).instructions(1);
        assert_eq!(m.vector(), Some(4));
    }

    #[test]
    fn reset_is_supervisor_mode_with_everything_masked() {
        let arm = Arm::machine(crate::features::model("cortex-a15").unwrap(), Default::default());
        let mut s = State::default();
        arm.reset(&mut s);
        assert_eq!((state::read_cpsr(&s), state::read_pc(&s)), (0x4000_01d3, 0));
        let text = arm.dump(&s);
        assert!(text.contains("\nPSR=400001d3 -Z-- A svc32\ns00=00000000 s01=00000000 d00=0000000000000000\n"), "{text}");
        assert!(text.ends_with("d31=0000000000000000\nFPSCR: 00000000\n"), "{text}");
    }
}
