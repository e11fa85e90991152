//! Our side of the system trials: one CPU of a machine on the interpreter, with flat memory.

use crate::system_cases::{BASE, IMAGE};
use arm::Arm;
use arm::system::{Conduit, Options};
use cpu::system::{After, Alone, Failure, System};
use cpu::{Access, Code, Fault, FaultKind, Guest, Limits};
use ir::interp::{Bus, Outcome};
use ir::{Builder, State};
use spec::{Error, Result};

struct Memory {
    bytes: Vec<u8>,
    monitor: Option<(u64, u8, u128)>,
}

impl Memory {
    fn range(addr: u64, size: usize) -> Option<std::ops::Range<usize>> {
        let at = addr.checked_sub(BASE as u64)? as usize;
        (at + size <= IMAGE).then_some(at..at + size)
    }

    fn bus(addr: u64, access: Access) -> Fault {
        Fault { addr, access, kind: FaultKind::Bus }
    }
}

impl Bus for Memory {
    fn load(&mut self, addr: u64, size: u8) -> std::result::Result<u128, Fault> {
        let range = Memory::range(addr, size as usize).ok_or(Memory::bus(addr, Access::Read))?;
        let mut raw = [0; 16];
        raw[..size as usize].copy_from_slice(&self.bytes[range]);
        Ok(u128::from_le_bytes(raw))
    }

    fn store(&mut self, addr: u64, size: u8, value: u128) -> std::result::Result<(), Fault> {
        let range = Memory::range(addr, size as usize).ok_or(Memory::bus(addr, Access::Write))?;
        self.bytes[range].copy_from_slice(&value.to_le_bytes()[..size as usize]);
        Ok(())
    }

    fn compare_exchange(&mut self, addr: u64, size: u8, expected: u128, new: u128) -> std::result::Result<u128, Fault> {
        let old = self.load(addr, size)?;
        if old == expected {
            self.store(addr, size, new)?;
        }
        Ok(old)
    }

    fn load_exclusive(&mut self, addr: u64, size: u8) -> std::result::Result<u128, Fault> {
        let v = self.load(addr, size)?;
        self.monitor = Some((addr, size, v));
        Ok(v)
    }

    fn store_exclusive(&mut self, addr: u64, size: u8, value: u128) -> std::result::Result<bool, Fault> {
        let open = self.monitor.take();
        let done = open.is_some_and(|(a, s, _)| (a, s) == (addr, size));
        if done {
            self.store(addr, size, value)?;
        }
        Ok(done)
    }

    fn clear_exclusive(&mut self) {
        self.monitor = None;
    }
}

impl Code for Memory {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        let Some(range) = Memory::range(addr, 0) else { return 0 };
        let n = buf.len().min(IMAGE - range.start);
        buf[..n].copy_from_slice(&self.bytes[range.start..range.start + n]);
        n
    }
}

fn machine(cpu: &str) -> Result<Arm> {
    let model = arm::features::model(cpu).ok_or_else(|| Error::new(format!("there is no CPU '{cpu}'")))?;
    Ok(Arm::machine(model, Options { conduit: Conduit::Hvc, ..Options::default() }))
}

/// The states before each instruction, until the CPU sleeps or `steps` are made. Instructions that turn out to be
/// UNPREDICTABLE where both sides are free to differ become NOP in the image.
pub fn run(cpu: &str, image: &mut [u8], steps: usize) -> Result<Vec<String>> {
    let arm = machine(cpu)?;
    let system = arm.system().ok_or_else(|| Error::new("the CPU has no system level"))?;
    let mut state = State::new();
    arm.reset(&mut state);
    arm.write_register(&mut state, 15, BASE as u128);
    let mut memory = Memory { bytes: image.to_vec(), monitor: None };
    let mut states = Vec::new();
    while states.len() < steps {
        skip_unpredictable(&arm, &state, &mut memory, image);
        states.extend(crate::system_cases::states(&arm.dump(&state)));
        if step(&arm, system, &mut state, &mut memory) == After::Sleep {
            break;
        }
    }
    Ok(states)
}

fn skip_unpredictable(arm: &Arm, state: &State, memory: &mut Memory, image: &mut [u8]) {
    let key = state.u64_at(ir::state::KEY);
    let system_mode = arm.read_register(state, 16) as u32 & 0x1f == 0x1f;
    let (Some(range), Some(word)) = (Memory::range(arm.pc(key), 4), memory.word(arm.pc(key))) else { return };
    let thumb = key & 1 != 0;
    // LDM and STM of user registers.
    let user_registers = !thumb && word >> 28 != 15 && word & 0x0e40_0000 == 0x0840_0000 && word & 0x10_8000 != 0x10_8000;
    // QEMU 10 forgets to leave an IT block after an instruction that calls a helper.
    let helped = thumb && matches!(word & 0xffff, 0xee00..=0xee1f | 0xeee0..=0xeeff | 0xe80d | 0xe82d | 0xe98d | 0xe9ad | 0xf380..=0xf3ff);
    let in_it_block = key >> 32 & 15 != 0;
    let nop: u32 = if thumb { 0x8000_f3af } else { 0xe320_f000 };
    if system_mode && user_registers || helped && in_it_block {
        for bytes in [&mut memory.bytes[range.clone()], &mut image[range]] {
            bytes.copy_from_slice(&nop.to_le_bytes());
        }
    }
}

fn step(arm: &Arm, system: &dyn System, state: &mut State, memory: &mut Memory) -> After {
    let key = state.u64_at(ir::state::KEY);
    let mut b = Builder::new();
    b.begin(key, arm.pc(key));
    arm.translate(key, Limits { max_insns: 1, relative: false }, memory, &mut b);
    let region = b.take();
    match ir::interp::run(&region, 32, state, memory, arm.helpers()) {
        Outcome::Goto(next) => {
            state.set_u64(ir::state::KEY, next);
            After::Run
        }
        Outcome::Trap { kind: ir::TrapKind::FetchFault, key: next, .. } if arm.pc(next) < 0xf000_0000 => After::Sleep,
        Outcome::Trap { kind: ir::TrapKind::FetchFault, key: next, .. } => {
            state.set_u64(ir::state::KEY, next);
            let pc = arm.pc(next);
            system.fail(state, &mut Alone::default(), 1, pc, Access::Execute, Failure::External { phys: pc });
            After::Run
        }
        Outcome::Trap { kind, arg, key: next } => {
            state.set_u64(ir::state::KEY, next);
            system.trap(state, &mut Alone::default(), kind, arg)
        }
        // Memory that the other side has.
        Outcome::Fault { fault, .. } if fault.kind == FaultKind::Bus && fault.addr < 0xf000_0000 => After::Sleep,
        Outcome::Fault { fault, delta, note } => {
            state.set_u64(ir::state::KEY, arm.key_at(key, delta, note));
            let why = match fault.kind {
                FaultKind::Alignment => Failure::Alignment,
                _ => Failure::External { phys: fault.addr },
            };
            system.fail(state, &mut Alone::default(), system.regime(key), fault.addr, fault.access, why);
            After::Run
        }
    }
}

/// The instruction that a dump is about to execute.
pub fn at(cpu: &str, image: &[u8], dump: &str) -> String {
    let field = |name: &str| {
        let text = dump.split(name).nth(1).unwrap_or("").get(..8).unwrap_or("");
        u64::from_str_radix(text, 16).unwrap_or(0)
    };
    let key = field("R15=") | field("PSR=") >> 5 & 1;
    let memory = Memory { bytes: image.to_vec(), monitor: None };
    let Ok(arm) = machine(cpu) else { return String::new() };
    let mut raw = [0; 4];
    memory.read(key & !1, &mut raw);
    format!("{} ({:08x})", arm.disassemble(key, &memory).0, u32::from_le_bytes(raw))
}
