//! Our side: the interpreter with the harness's memory.

use crate::harness::{CODE_BASE, DATA_BASE, Outcome, Registers};
use arm::{Arm, state};
use cpu::{Access, Code, Fault, FaultKind, Guest, Limits};
use ir::interp::{Bus, Outcome as Left};
use ir::{Builder, State, TrapKind};

const SIGILL: u32 = 4;
const SIGTRAP: u32 = 5;
const SIGBUS: u32 = 7;
const SIGSEGV: u32 = 11;
/// A case that takes more regions than this is dropped.
const MAX_REGIONS: usize = 32;

/// Code and data as the harness maps them.
pub struct Memory<'a> {
    pub code: &'a [u8],
    pub data: Vec<u8>,
    monitor: Option<(u64, u8, u128)>,
}

impl<'a> Memory<'a> {
    pub fn new(code: &'a [u8], data: &[u8]) -> Memory<'a> {
        Memory { code, data: data.to_vec(), monitor: None }
    }

    pub fn sum(&self) -> u32 {
        sum(&self.data)
    }
}

/// The checksum of `arm_harness.c`.
pub fn sum(data: &[u8]) -> u32 {
    data.chunks_exact(4).fold(0u32, |sum, c| {
        let w = u32::from_le_bytes(c.try_into().expect("4 bytes"));
        sum.rotate_left(5).wrapping_add(w ^ 0x9e37_79b9)
    })
}

fn within(addr: u64, size: u8, base: u32, length: usize) -> Option<usize> {
    let o = addr.checked_sub(base as u64)? as usize;
    (o + size as usize <= length).then_some(o)
}

impl Bus for Memory<'_> {
    fn load(&mut self, addr: u64, size: u8) -> Result<u128, Fault> {
        let from: &[u8] = if let Some(o) = within(addr, size, DATA_BASE, self.data.len()) {
            &self.data[o..o + size as usize]
        } else if let Some(o) = within(addr, size, CODE_BASE, self.code.len()) {
            &self.code[o..o + size as usize]
        } else {
            return Err(Fault { addr, access: Access::Read, kind: FaultKind::Unmapped });
        };
        let mut raw = [0; 16];
        raw[..size as usize].copy_from_slice(from);
        Ok(u128::from_le_bytes(raw))
    }

    fn store(&mut self, addr: u64, size: u8, value: u128) -> Result<(), Fault> {
        let Some(o) = within(addr, size, DATA_BASE, self.data.len()) else {
            return Err(Fault { addr, access: Access::Write, kind: FaultKind::Unmapped });
        };
        self.data[o..o + size as usize].copy_from_slice(&value.to_le_bytes()[..size as usize]);
        Ok(())
    }

    fn compare_exchange(&mut self, addr: u64, size: u8, expected: u128, new: u128) -> Result<u128, Fault> {
        let old = self.load(addr, size)?;
        if old == expected {
            self.store(addr, size, new)?;
        }
        Ok(old)
    }

    fn load_exclusive(&mut self, addr: u64, size: u8) -> Result<u128, Fault> {
        let v = self.load(addr, size)?;
        self.monitor = Some((addr, size, v));
        Ok(v)
    }

    fn store_exclusive(&mut self, addr: u64, size: u8, value: u128) -> Result<bool, Fault> {
        match self.monitor.take() {
            Some((a, s, old)) if (a, s) == (addr, size) && self.load(addr, size)? == old => {
                self.store(addr, size, value).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    fn clear_exclusive(&mut self) {
        self.monitor = None;
    }
}

impl Code for Memory<'_> {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        let Some(o) = within(addr, 0, CODE_BASE, self.code.len()) else { return 0 };
        let n = buf.len().min(self.code.len() - o);
        buf[..n].copy_from_slice(&self.code[o..o + n]);
        n
    }
}

/// The signal that a trap becomes; 0 if execution goes on.
pub fn signal_of_trap(kind: TrapKind, arg: u32) -> Option<u32> {
    Some(match kind {
        // The words that Linux takes for breakpoints.
        TrapKind::Undefined if matches!(arg, 0xde01 | 0xe7f0_01f0 | 0xf7f0_a000) => SIGTRAP,
        TrapKind::Undefined => SIGILL,
        TrapKind::Breakpoint => SIGTRAP,
        TrapKind::Yield | TrapKind::CodeSync => 0,
        _ => return None,
    })
}

pub fn signal_of_fault(kind: FaultKind) -> u32 {
    if kind == FaultKind::Alignment { SIGBUS } else { SIGSEGV }
}

/// Whether nothing of the harness or the emulator's own mappings for it can be at this address.
fn surely_unmapped(addr: u32) -> bool {
    const FIRST_FREE: u32 = 0x5800_0000;
    const LAST_FREE: u32 = 0xdfff_ffff;
    addr.wrapping_sub(CODE_BASE) < 0x0200_0000 || (FIRST_FREE..=LAST_FREE).contains(&addr)
}

pub fn set(arm: &Arm, s: &mut State, start: u32, r: &Registers) {
    arm.reset(s);
    state::interwork(s, start);
    state::write_cpsr(s, r.cpsr & 0xf80f_0200 | if start & 1 != 0 { 0x20 } else { 0 });
    for n in 0..15 {
        s.set_u32(state::r(n), r.r[n as usize]);
    }
    for n in 0..32 {
        s.set_u64(state::d(n), r.d[n as usize]);
    }
    write_fpscr(arm, s, r.fpscr);
}

fn fpscr_number(arm: &Arm) -> Option<usize> {
    arm.registers().iter().position(|r| r.name == "fpscr")
}

fn write_fpscr(arm: &Arm, s: &mut State, value: u32) {
    if let Some(n) = fpscr_number(arm) {
        arm.write_register(s, n, value as u128);
    }
}

pub fn get(arm: &Arm, s: &State) -> Registers {
    Registers {
        r: std::array::from_fn(|n| arm.read_register(s, n) as u32),
        cpsr: state::read_cpsr(s),
        fpscr: fpscr_number(arm).map_or(0, |n| arm.read_register(s, n) as u32),
        d: std::array::from_fn(|n| s.u64_at(state::d(n as u32))),
    }
}

/// Runs one case to its trap or fault; `None` if it leaves its slot (`from..to`) or asks for a system call.
pub fn run(arm: &Arm, memory: &mut Memory, start: u32, r: &Registers, slot: std::ops::Range<u32>) -> Option<Outcome> {
    let mut s = State::new();
    set(arm, &mut s, start, r);
    let mut b = Builder::new();
    for _ in 0..MAX_REGIONS {
        let key = s.u64_at(ir::state::KEY);
        if !slot.contains(&state::read_pc(&s)) {
            return None;
        }
        b.begin(key, arm.pc(key));
        arm.translate(key, Limits { max_insns: 16, relative: false }, memory, &mut b);
        let region = b.region();
        if let Err(what) = ir::verify::verify(region) {
            panic!("{what}\n{}", ir::text::print(region));
        }
        let (signal, address) = match ir::interp::run(region, 32, &mut s, memory, arm.helpers()) {
            Left::Goto(next) => {
                s.set_u64(ir::state::KEY, next);
                continue;
            }
            Left::Trap { kind, key, arg } => {
                s.set_u64(ir::state::KEY, key);
                match signal_of_trap(kind, arg) {
                    Some(0) => continue,
                    Some(signal) => (signal, state::read_pc(&s)),
                    None => return None,
                }
            }
            Left::Fault { fault, delta, note } => {
                s.set_u64(ir::state::KEY, arm.key_at(key, delta, note));
                let code_size = memory.code.len().next_multiple_of(4096);
                let code_write = fault.access == Access::Write && within(fault.addr, 1, CODE_BASE, code_size).is_some();
                if code_write || !surely_unmapped(fault.addr as u32) {
                    return None;
                }
                (signal_of_fault(fault.kind), fault.addr as u32)
            }
        };
        return slot
            .contains(&state::read_pc(&s))
            .then(|| Outcome { registers: get(arm, &s), signal, address, sum: memory.sum() });
    }
    None
}
