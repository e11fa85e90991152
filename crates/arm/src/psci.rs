//! Built-in firmware: PSCI 1.1 and the Secure Monitor call convention's identification, called by HVC or SMC.
//!
//! **Reference.** Power State Coordination Interface (DEN 0022D) 5; SMC Calling Convention (DEN 0028) 7.
//!
//! **Not modelled**: 64-bit function numbers (the CPU is AArch32), power states deeper than waiting for an interrupt, the
//! second function for resets (SYSTEM_RESET2), the optional functions of PSCI 1.x.

use crate::Arm;
use crate::state;
use cpu::system::{After, Environment, Power, PowerAnswer};
use ir::State;

macro_rules! functions {
    ($($(#[doc = $doc:literal])* $name:ident $($number:literal)|+;)*) => {
        /// The functions there are.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        enum Function {
            $($(#[doc = $doc])* $name,)*
        }

        impl Function {
            fn of(number: u32) -> Option<Function> {
                match number {
                    $($($number)|+ => Some(Function::$name),)*
                    _ => None,
                }
            }
        }
    };
}

// The second numbers are those of PSCI 0.1, which a device tree may give.
functions! {
    Version 0x8400_0000;
    CpuSuspend 0x8400_0001 | 0x95c1_ba5e;
    CpuOff 0x8400_0002 | 0x95c1_ba5f;
    CpuOn 0x8400_0003 | 0x95c1_ba60;
    AffinityInfo 0x8400_0004;
    MigrateInfoType 0x8400_0006;
    SystemOff 0x8400_0008;
    SystemReset 0x8400_0009;
    Features 0x8400_000a;
}

const VERSION_1_1: u32 = 0x1_0001;
const SUCCESS: u32 = 0;
const NOT_SUPPORTED: u32 = -1i32 as u32;
const INVALID_PARAMETERS: u32 = -2i32 as u32;
const ALREADY_ON: u32 = -4i32 as u32;
/// AFFINITY_INFO.
const ON: u32 = 0;
const OFF: u32 = 1;
/// MIGRATE_INFO_TYPE: there is no Trusted OS to migrate.
const MIGRATION_NOT_REQUIRED: u32 = 2;
/// Bits of CPU_SUSPEND's power state that are not used.
const POWER_STATE_RESERVED: u32 = 0xfffe_0000;
/// The affinity fields of MPIDR.
const AFFINITY: u32 = 0x00ff_ffff;

/// Does the call whose function number is in R0 and whose arguments are in R1 to R3; the key is that of the instruction after
/// the call.
pub fn call(arm: &Arm, state: &mut State, env: &mut dyn Environment) -> After {
    let [number, a, b, c] = [0, 1, 2, 3].map(|n| state.u32_at(state::r(n)));
    let Some(function) = Function::of(number) else {
        state.set_u32(state::r(0), NOT_SUPPORTED);
        return After::Run;
    };
    let mut after = After::Run;
    let result = match function {
        Function::Version => VERSION_1_1,
        Function::CpuSuspend if a & POWER_STATE_RESERVED != 0 => INVALID_PARAMETERS,
        Function::CpuSuspend => {
            after = After::Sleep;
            SUCCESS
        }
        Function::CpuOff => {
            env.power(Power::CpuOff);
            SUCCESS
        }
        Function::CpuOn => match cpu_of(arm, env, a) {
            Some(cpu) => answer(env.power(Power::CpuOn { cpu, entry: b as u64, context: c as u64 })),
            None => INVALID_PARAMETERS,
        },
        // Clusters are always on.
        Function::AffinityInfo if b != 0 => ON,
        Function::AffinityInfo => match cpu_of(arm, env, a) {
            Some(cpu) if env.is_on(cpu) => ON,
            Some(_) => OFF,
            None => INVALID_PARAMETERS,
        },
        Function::MigrateInfoType => MIGRATION_NOT_REQUIRED,
        Function::SystemOff => {
            env.power(Power::SystemOff);
            SUCCESS
        }
        Function::SystemReset => {
            env.power(Power::SystemReset);
            SUCCESS
        }
        Function::Features if Function::of(a).is_some() => SUCCESS,
        Function::Features => NOT_SUPPORTED,
    };
    state.set_u32(state::r(0), result);
    after
}

/// The vCPU that an MPIDR value names.
fn cpu_of(arm: &Arm, env: &dyn Environment, mpidr: u32) -> Option<usize> {
    let options = arm.options.unwrap_or_default();
    if mpidr & !AFFINITY != 0 { None } else { options.with_affinity(mpidr, env.count()) }
}

fn answer(answer: PowerAnswer) -> u32 {
    match answer {
        PowerAnswer::Done => SUCCESS,
        PowerAnswer::AlreadyOn => ALREADY_ON,
        PowerAnswer::NoSuchCpu => INVALID_PARAMETERS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysreg::tests::Bench;
    use crate::system::Options;

    fn call_with(b: &mut Bench, arguments: [u32; 4]) -> u32 {
        for (n, value) in arguments.into_iter().enumerate() {
            b.state.set_u32(state::r(n as u32), value);
        }
        call(&b.arm, &mut b.state, &mut b.env);
        assert_eq!([1, 2, 3].map(|n| b.state.u32_at(state::r(n))), arguments[1..], "arguments stay");
        b.state.u32_at(state::r(0))
    }

    fn bench() -> Bench {
        let mut b = Bench::new("cortex-a15", Options::default());
        b.env.count = 2;
        b
    }

    /// The answers that a guest of QEMU 10 observed.
    #[test]
    fn answers_are_those_a_guest_of_qemu_gets() {
        let mut b = bench();
        assert_eq!(call_with(&mut b, [0x8400_0000, 11, 12, 13]), 0x1_0001);
        for yes in [0, 1, 2, 3, 4, 6, 8, 9, 10] {
            assert_eq!(call_with(&mut b, [0x8400_000a, 0x8400_0000 + yes, 0, 0]), 0, "{yes}");
        }
        let no = [0x8400_0005, 0x8400_0007, 0x8400_000b, 0x8400_0012, 0xc400_0001, 0xc400_0003, 0x8000_0000, 0x95c1_ba61];
        for no in no {
            assert_eq!(call_with(&mut b, [0x8400_000a, no, 0, 0]), !0, "{no:#x}");
            assert_eq!(call_with(&mut b, [no, 0, 0, 0]), !0, "{no:#x}");
        }
        assert_eq!(call_with(&mut b, [0x8400_0006, 0, 0, 0]), 2);
        let info = |b: &mut Bench, target, level| call_with(b, [0x8400_0004, target, level, 0]);
        assert_eq!([info(&mut b, 0, 0), info(&mut b, 1, 0), info(&mut b, 2, 0)], [0, 1, -2i32 as u32]);
        assert_eq!([info(&mut b, 0, 1), info(&mut b, 0, 4), info(&mut b, 0xff00_0000, 0)], [0, 0, -2i32 as u32]);
        assert_eq!(call_with(&mut b, [0x8400_0003, 0, 0, 0]), -4i32 as u32);
        assert_eq!(call_with(&mut b, [0x8400_0003, 9, 0, 0]), -2i32 as u32);
    }

    #[test]
    fn power_requests_reach_the_machine() {
        let mut b = bench();
        assert_eq!(call_with(&mut b, [0x8400_0003, 1, 0x4000_0001, 0x1234]), 0);
        assert_eq!(b.env.power.pop(), Some(Power::CpuOn { cpu: 1, entry: 0x4000_0001, context: 0x1234 }));
        for (number, power) in [(2, Power::CpuOff), (8, Power::SystemOff), (9, Power::SystemReset)] {
            call_with(&mut b, [0x8400_0000 + number, 0, 0, 0]);
            assert_eq!(b.env.power.pop(), Some(power));
        }
    }
}
