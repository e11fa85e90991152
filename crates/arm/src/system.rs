//! The system level: how this CPU is put into a machine, and what it asks of the run loop.
//!
//! **Reference.** Arm ARM (DDI 0406C) B1.8.13 to B1.8.15 (WFE, WFI, SEV), B1.11 (coprocessors), B3.13 (fault status).

use crate::a32;
use crate::exception::{By, Exception, HSR_IL, class, current_mode, describe};
use crate::features::Features;
use crate::guest::Arm;
use crate::mmu::{self, Fault, Second, Syndrome, Walker, effective_hcr};
use crate::state::sys::hcr;
use crate::state::{self, bank, bank::mode, cpsr, sys};
use crate::sysreg::control::{self, update_key};
use crate::sysreg::{self, Refused};
use cpu::Access;
use cpu::system::{After, Environment, Failure, Mapping, Physical, System};
use ir::{State, TrapKind};

/// Which instruction carries firmware calls (PSCI).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Conduit {
    #[default]
    None,
    Hvc,
    Smc,
}

/// What a machine chooses about its CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The Security Extensions (EL3): Secure state and Monitor mode.
    pub secure: bool,
    /// The Virtualization Extensions (EL2): Hyp mode.
    pub virtualization: bool,
    pub conduit: Conduit,
    /// Frequency of the generic timers.
    pub timer_hz: u32,
    /// There is a performance monitor.
    pub pmu: bool,
    /// The interrupt controller is reached by system registers (GICv3).
    pub gic_system_registers: bool,
    /// Where the private peripherals are (CBAR).
    pub peripheral_base: u64,
    /// vCPUs in a cluster: MPIDR.Aff0 counts up to this, then Aff1 goes on.
    pub cluster: u32,
    /// Exception vectors are high after reset (SCTLR.V).
    pub high_vectors: bool,
    /// Below this address Secure accesses see a memory of their own, which the machine has at `SECURE_VIEW` and up.
    pub secure_view_below: u64,
}

/// Added to physical addresses of the Secure memory.
pub const SECURE_VIEW: u64 = 1 << 48;

impl Default for Options {
    /// What the `virt` board's CPUs are unless told otherwise, without firmware.
    fn default() -> Options {
        Options {
            secure: false,
            virtualization: false,
            conduit: Conduit::None,
            timer_hz: 62_500_000,
            pmu: true,
            gic_system_registers: false,
            peripheral_base: 0x0800_0000,
            cluster: 8,
            high_vectors: false,
            secure_view_below: 0,
        }
    }
}

impl Options {
    /// MPIDR's affinity fields of a vCPU.
    pub fn affinity(&self, cpu: usize) -> u32 {
        let (cpu, cluster) = (cpu as u32, self.cluster.max(1));
        cpu % cluster & 0xff | (cpu / cluster & 0xff) << 8
    }

    /// The vCPU with these affinity fields, of `count`.
    pub fn with_affinity(&self, affinity: u32, count: usize) -> Option<usize> {
        (0..count).find(|&cpu| self.affinity(cpu) == affinity)
    }
}

/// Translation regimes: the `fl` byte of memory operations, and `cpu::system`'s numbers.
///
/// A machine with Hyp mode has no second set of domains, and one with Secure state tags all its mappings by world.
pub mod regime {
    /// Unprivileged.
    pub const USER: u8 = 0;
    /// PL1.
    pub const KERNEL: u8 = 1;
    /// Added to `USER` or `KERNEL`: the other value of DACR (key bit DOMAINS).
    pub const OTHER_DOMAINS: u8 = 2;
    /// Hyp mode, in machines that have it.
    pub const HYP: u8 = 3;

    /// The regime of LDRT and its like.
    pub const fn as_user(ordinary: u8) -> u8 {
        ordinary & !KERNEL
    }

    /// The regime of data accesses and fetches at a key.
    pub const fn of_key(key: u64) -> u8 {
        use crate::state::{bank::mode, key};
        let domains = if key & key::DOMAINS != 0 { OTHER_DOMAINS } else { 0 };
        match key::mode(key) {
            mode::USR => USER | domains,
            mode::HYP => HYP,
            _ => KERNEL | domains,
        }
    }
}

/// DFSR and IFSR: the status is in the long-descriptor format.
const FSR_LPAE: u32 = 1 << 9;
/// DFSR: a write.
const DFSR_WNR: u32 = 1 << 11;

/// What `trap` of kind `Exception` asks for: the low byte of its argument.
pub mod request {
    /// Exception return to `bank::RETURN_PC` with CPSR = `bank::RETURN_STATUS`.
    pub const RETURN: u32 = 0;
    /// HVC; its immediate is in bits 23:8. The key is the instruction's own, as for `SMC`.
    pub const HVC: u32 = 1;
    pub const SMC: u32 = 2;
    /// MSR CPSR of `bank::RETURN_STATUS`; the mask is in bits 11:8. The key is that of the next instruction.
    pub const MSR: u32 = 3;
    /// WFI or WFE that a hypervisor may trap: bits 15:8 are the hint's number, 23:16 the instruction's length. The key is
    /// the instruction's own.
    pub const WAIT: u32 = 4;
}

/// Arguments of `trap` of kind `Yield`.
pub mod hint {
    pub const YIELD: u32 = 0;
    pub const WFI: u32 = 1;
    pub const WFE: u32 = 2;
    /// SEV and SEVL.
    pub const SEV: u32 = 3;
    /// Masks were lifted from an interrupt that is pending: the run loop looks at them after every trap.
    pub const LOOK: u32 = 4;
    /// DSB: waits until other CPUs have dropped the translations that they were asked to.
    pub const FINISH: u32 = 5;
}

impl System for Arm {
    fn regime(&self, key: u64) -> u8 {
        regime::of_key(key)
    }

    fn regime_for_debugger(&self, regime: u8) -> u8 {
        if regime == regime::HYP { regime } else { regime | regime::KERNEL }
    }

    fn address_space(&self, state: &State, regime: u8) -> u64 {
        mmu::address_space(self, state, regime)
    }

    fn walk(&self, state: &State, regime: u8, addr: u64, access: Access, mem: &dyn Physical) -> Result<Mapping, u32> {
        mmu::walk(self, state, regime, addr, access, mem)
    }

    fn fail(&self, state: &mut State, env: &mut dyn Environment, regime: u8, addr: u64, access: Access, why: Failure) {
        let status = self.fault_status(state, access, why);
        if Syndrome(status).is_stage_2() {
            return self.second_stage_fault(state, env, regime, addr as u32, access);
        }
        match access {
            Access::Execute => self.take_prefetch_abort(state, addr as u32, status),
            Access::Write => self.take_data_abort(state, addr as u32, status | DFSR_WNR),
            Access::Read => self.take_data_abort(state, addr as u32, status),
        }
    }

    fn trap(&self, state: &mut State, env: &mut dyn Environment, kind: TrapKind, arg: u32) -> After {
        match kind {
            TrapKind::Syscall => self.take_svc(state, arg),
            TrapKind::Undefined if self.is_fp_hyp_trap(state, arg) => self.take_hyp_trap(state, self.fp_trap()),
            TrapKind::Undefined => self.take_undefined(state, arg),
            TrapKind::Breakpoint => self.take_breakpoint(state),
            TrapKind::Exception => return self.requested(state, env, arg),
            TrapKind::System => return self.coprocessor(state, env, arg),
            TrapKind::Yield => {
                return match arg {
                    hint::YIELD | hint::WFI | hint::WFE => wait(arg),
                    hint::SEV => {
                        env.send_event();
                        After::Run
                    }
                    hint::FINISH => {
                        state.set_u32(bank::FLUSHES_UNFINISHED, 0);
                        env.finish_flushes();
                        After::Run
                    }
                    // The run loop looks at the interrupts that there are now.
                    hint::LOOK => {
                        state.set_u32(bank::IRQ_PENDING_MASKED, 0);
                        After::Run
                    }
                    _ => After::Run,
                };
            }
            // Nothing to do beyond leaving translated code; the run loop reports failing fetches by `fail`.
            TrapKind::CodeSync | TrapKind::Step | TrapKind::FetchFault | TrapKind::KernelHelper | TrapKind::Sequence => {}
        }
        After::Run
    }

    fn interrupt(&self, state: &mut State, env: &mut dyn Environment) -> bool {
        self.take_pending(state, env.inputs())
    }

    fn expect_interrupt(&self, state: &mut State) {
        state.set_u32(bank::IRQ_PENDING_MASKED, cpsr::I | cpsr::F);
    }

    fn wakes(&self, state: &State, inputs: u32) -> bool {
        self.ends_wait(state, inputs)
    }

    /// In the most privileged Non-secure mode.
    fn start(&self, state: &mut State, entry: u64, context: u64) {
        self.leave_secure(state);
        state::interwork(state, entry as u32);
        state.set_u32(state::r(0), context as u32);
    }

    /// Without the built-in firmware nobody else could switch the others on: all begin at the reset vector.
    fn starts_off(&self, cpu: usize) -> bool {
        cpu != 0 && self.options.is_none_or(|o| o.conduit != Conduit::None)
    }
}

/// How the CPU goes on after a hint.
fn wait(hint: u32) -> After {
    match hint {
        hint::WFI => After::Sleep,
        hint::WFE => After::SleepForEvent,
        _ => After::Yield,
    }
}

/// HSR: the condition is said to be valid and "always".
const HSR_ALWAYS: u32 = 1 << 24 | 14 << 20;
/// HSR bits of aborts: of the first stage's walk, a write, cache maintenance.
pub const HSR_S1PTW: u32 = 1 << 7;
pub const HSR_WNR: u32 = 1 << 6;
pub const HSR_CM: u32 = 1 << 8;

/// HPFAR of an intermediate physical address.
pub fn hpfar(ipa: u64) -> u32 {
    (ipa >> 12 << 4) as u32
}

impl Arm {
    /// HSR of a floating-point instruction that HCPTR traps: always executed, of coprocessor 10 (not said by ARMv8).
    fn fp_trap(&self) -> u32 {
        class::FP << 26 | HSR_IL | HSR_ALWAYS | if self.features.has(Features::V8) { 0 } else { 10 }
    }

    /// Whether an instruction that was not executed is one of floating point that HCPTR alone forbids.
    fn is_fp_hyp_trap(&self, state: &State, word: u32) -> bool {
        let mode = current_mode(state);
        if !self.has_virtualization() || self.is_secure(state) || mode == mode::HYP {
            return false;
        }
        let thumb = state::key::thumb(state.u64_at(ir::state::KEY));
        let a32 = if thumb { a32::fp::a32_form(word) } else { Some(word) };
        let enabled = state.u32_at(bank::FPEXC) & bank::FPEXC_EN != 0;
        let by_hyp_alone = control::fp_allowed_below_hyp(self, state, mode, false) && !self.fp_allowed(state);
        enabled && by_hyp_alone && a32.is_some_and(a32::fp::needs_enable)
    }

    /// The status of a failed access, as DFSR or IFSR has it without WnR.
    fn fault_status(&self, state: &State, access: Access, why: Failure) -> u32 {
        let (short, long) = match why {
            Failure::Walk(status) => return status,
            Failure::Alignment => (0x01, 0x21),
            Failure::External { .. } => (0x08, 0x10),
        };
        let e = if access == Access::Execute { Exception::PrefetchAbort } else { Exception::DataAbort };
        if self.long_descriptors(state) || self.to_hyp(state, e).is_some() { FSR_LPAE | long } else { short }
    }

    /// A fault of the second stage of translation. What the syndrome of the walk has no room for, another walk finds; if it
    /// finds no such fault, the tables have changed and the access is made again.
    fn second_stage_fault(&self, state: &mut State, env: &mut dyn Environment, regime: u8, addr: u32, access: Access) {
        let walker = Walker::of_regime(self, state, regime, env.physical());
        let Err(fault @ Fault { second: Some(Second { ipa, on_walk }), .. }) = walker.access(addr, access) else { return };
        let fetch = access == Access::Execute;
        let thumb = state::key::thumb(state.u64_at(ir::state::KEY));
        let word = if fetch { None } else { self.instruction_here(state, regime, env.physical(), thumb) };
        // SWP reads first.
        let swaps = !thumb && word.is_some_and(describe::is_swap) && walker.access(addr, Access::Read).is_err();
        let mut detail = fault.syndrome(true).status() & 0x3f;
        if on_walk {
            detail |= HSR_S1PTW;
        }
        if access == Access::Write && !swaps {
            detail |= HSR_WNR;
        }
        let mut long = true;
        if let Some(word) = word.filter(|_| !on_walk) {
            long = !thumb || word >> 16 != 0;
            detail |= describe::access(word, thumb, long);
        }
        self.take_stage_2_fault(state, addr, fetch, long, detail, hpfar(ipa));
    }

    /// The current instruction, read again.
    fn instruction_here(&self, state: &State, regime: u8, mem: &dyn Physical, thumb: bool) -> Option<u32> {
        let walker = Walker::of_regime(self, state, regime, mem);
        let half = |addr: u32| {
            let phys = walker.translate(addr).ok()?.phys;
            Some(mem.read(phys & !3, 4)? as u32 >> (8 * (phys & 2)) & 0xffff)
        };
        let pc = state::read_pc(state);
        let first = half(pc)?;
        match thumb {
            false => Some(first | half(pc.wrapping_add(2))? << 16),
            true if first >= 0xe800 => Some(first << 16 | half(pc.wrapping_add(2))?),
            true => Some(first),
        }
    }

    /// WFI and WFE below Hyp mode, in machines that have it. A wait that would not be one is not trapped.
    fn wait_or_trap(&self, state: &mut State, env: &mut dyn Environment, hint: u32, length: u32) -> After {
        let (trap, is_event) = if hint == hint::WFE { (hcr::TWE, 1) } else { (hcr::TWI, 0) };
        let trapped = !self.is_secure(state) && effective_hcr(self, state) & trap != 0;
        if trapped && !self.wakes(state, env.inputs()) {
            let long = if length == 4 { HSR_IL } else { 0 };
            self.take_hyp_trap(state, class::WAIT << 26 | long | HSR_ALWAYS | is_event);
            return After::Run;
        }
        state::advance(state, length);
        wait(hint)
    }

    /// Handles `trap` of kind `Exception`.
    fn requested(&self, state: &mut State, env: &mut dyn Environment, arg: u32) -> After {
        match arg & 0xff {
            request::RETURN => {
                let status = state.u32_at(bank::RETURN_STATUS);
                self.exception_return(state, state.u32_at(bank::RETURN_PC), status);
            }
            request::MSR => {
                let bits = msr_bits(arg >> 8);
                self.write_cpsr(state, state.u32_at(bank::RETURN_STATUS), bits, By::Instruction);
            }
            request::HVC => return self.hypervisor_call(state, env, arg >> 8),
            request::SMC => return self.secure_monitor_call(state, env),
            request::WAIT => return self.wait_or_trap(state, env, arg >> 8 & 0xff, arg >> 16),
            other => unreachable!("request {other}"),
        }
        After::Run
    }

    fn hypervisor_call(&self, state: &mut State, env: &mut dyn Environment, immediate: u32) -> After {
        let options = self.options.unwrap_or_default();
        if options.conduit == Conduit::Hvc {
            state::advance(state, 4);
            return self.firmware_call(state, env);
        }
        let off = match () {
            _ if !options.virtualization || self.is_secure(state) => true,
            _ if options.secure => state.u32_at(sys::SCR) & sys::scr::HCE == 0,
            _ => state.u32_at(sys::HCR) & hcr::HCD != 0,
        };
        if off {
            self.take_undefined(state, !0);
        } else {
            state::advance(state, 4);
            self.take_hvc(state, immediate);
        }
        After::Run
    }

    fn secure_monitor_call(&self, state: &mut State, env: &mut dyn Environment) -> After {
        let options = self.options.unwrap_or_default();
        let trapped = options.virtualization
            && !self.is_secure(state)
            && current_mode(state) != mode::HYP
            && effective_hcr(self, state) & hcr::TSC != 0;
        if trapped {
            self.take_hyp_trap(state, class::SMC << 26 | HSR_IL);
        } else if options.conduit == Conduit::Smc {
            state::advance(state, 4);
            return self.firmware_call(state, env);
        } else if !options.secure || state.u32_at(sys::SCR) & sys::scr::SCD != 0 && !self.is_secure(state) {
            self.take_undefined(state, !0);
        } else {
            state::advance(state, 4);
            self.take_smc(state);
        }
        After::Run
    }

    /// MRC, MCR, MRRC, MCRR, LDC, STC and CDP of coprocessors 14 and 15, VMRS and VMSR of what is not inline.
    fn coprocessor(&self, state: &mut State, env: &mut dyn Environment, word: u32) -> After {
        let done = match word >> 8 & 15 {
            10 => self.vfp_system_register(state, word),
            _ => sysreg::access(self, state, env, word),
        };
        match done {
            Ok(()) => {
                state::advance(state, 4);
                update_key(self, state);
            }
            Err(Refused::Undefined) => self.take_undefined(state, word),
            Err(Refused::Hyp(syndrome)) => self.take_hyp_trap(state, syndrome),
            Err(Refused::SecondStage { addr, detail, hpfar }) => self.take_stage_2_fault(state, addr, false, true, detail, hpfar),
        }
        After::Run
    }

    /// A call to the built-in firmware.
    fn firmware_call(&self, state: &mut State, env: &mut dyn Environment) -> After {
        let call = if self.options.is_some_and(|o| o.conduit == Conduit::Smc) { "13 [Secure Monitor Call]" } else { "11 [Hypervisor Call]" };
        log::trace!(target: "int", "Taking exception {call} on CPU {}\n...handled as PSCI call", env.index());
        crate::psci::call(self, state, env)
    }

    /// VMRS and VMSR of FPSID, MVFR0 to MVFR2 and FPEXC.
    fn vfp_system_register(&self, state: &mut State, word: u32) -> Result<(), Refused> {
        let (load, register, t) = (word >> 20 & 1 != 0, word >> 16 & 15, word >> 12 & 15);
        let (mode, secure) = (current_mode(state), self.is_secure(state));
        let allowed = mode != mode::USR && control::fp_allowed_below_hyp(self, state, mode, secure);
        if !allowed || t == 15 || !self.features.has(Features::VFP2) {
            return Err(Refused::Undefined);
        }
        let guest = self.has_virtualization() && !secure && mode != mode::HYP;
        if !self.fp_allowed(state) {
            return Err(if guest { Refused::Hyp(self.fp_trap()) } else { Refused::Undefined });
        }
        let id = sysreg::id::of_model(self.model.name);
        let (value, trap) = match register {
            0 => (Some(id.fpsid), hcr::TID0),
            5 if self.features.has(Features::V8) => (Some(id.mvfr[2]), hcr::TID3),
            6 | 7 if self.features.has(Features::VFP3) => (Some(id.mvfr[7 - register as usize]), hcr::TID3),
            8 => (Some(state.u32_at(bank::FPEXC)), 0),
            _ => (None, 0),
        };
        if load && guest && effective_hcr(self, state) & trap != 0 {
            let operands = 7 << 14 | register << 10 | t << 5 | 1;
            return Err(Refused::Hyp(class::VMRS << 26 | HSR_IL | HSR_ALWAYS | operands));
        }
        match (value, load, register) {
            (Some(value), true, _) => state.set_u32(state::r(t), value),
            (Some(_), false, 8) => state.set_u32(bank::FPEXC, state.u32_at(state::r(t)) & bank::FPEXC_EN),
            // The others ignore writes.
            (Some(_), false, _) => {}
            (None, ..) => return Err(Refused::Undefined),
        }
        Ok(())
    }
}

/// The bits of CPSR or SPSR that an MSR with this mask writes.
pub fn msr_bits(mask: u32) -> u32 {
    (0..4).filter(|field| mask >> field & 1 != 0).fold(0, |bits, field| bits | 0xff << (8 * field))
}
