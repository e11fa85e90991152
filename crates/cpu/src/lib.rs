//! The contract between a guest CPU (a front end such as `arm`) and what executes it (`jit`, an interpreter, later KVM).
//!
//! **Invariants**: an executor calls [`Guest`] once per region, never per instruction; a front end knows no executor.
#![forbid(unsafe_code)]

pub mod system;

use ir::{Builder, Helper, Layout, State};

pub use ir::interp::{Access, Fault, FaultKind};

/// Where a front end reads instructions from.
pub trait Code {
    /// Copies executable guest bytes from `addr` on into `buf` and says how many there were; fewer than asked for means
    /// that the next byte cannot be fetched.
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize;

    /// A 32-bit little-endian word, if all of it can be fetched.
    fn word(&self, addr: u64) -> Option<u32> {
        let mut raw = [0; 4];
        (self.read(addr, &mut raw) == 4).then(|| u32::from_le_bytes(raw))
    }

    /// A 16-bit little-endian halfword.
    fn half(&self, addr: u64) -> Option<u16> {
        let mut raw = [0; 2];
        (self.read(addr, &mut raw) == 2).then(|| u16::from_le_bytes(raw))
    }
}

/// Bounds of one translation.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At most this many guest instructions (at least 1).
    pub max_insns: u32,
    /// System mode: the key's address is an offset in its page (0 to 4095), the region is executed at whatever address that
    /// page has (in the state at `Layout::page`), and nothing but the rest of a first instruction is fetched from elsewhere.
    /// Keys of exits are relative to the page likewise.
    pub relative: bool,
}

/// One guest register as debuggers see it.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// The manual's name, in lower case.
    pub name: &'static str,
    /// Width in bits.
    pub bits: u16,
    /// The standard feature of GDB's target descriptions that it belongs to; the registers of a feature lie together.
    pub feature: &'static str,
    /// GDB's type for it: `int`, `code_ptr`, `data_ptr`, `ieee_double`, or one of those that the crate `gdb` composes.
    pub kind: &'static str,
}

/// A guest CPU architecture, or one model of it.
pub trait Guest: Send + Sync {
    /// Architecture name as in the program names: `arm`, `aarch64`, `x86_64`.
    fn name(&self) -> &'static str;

    /// How the registers lie in the state.
    fn layout(&self) -> &Layout;

    /// Functions that translated code may call; `Op::Call` names them by index.
    fn helpers(&self) -> &[Helper];

    /// Sets the state to its reset values.
    fn reset(&self, state: &mut State);

    /// Translates the region that `key` names into `b` (which has begun with that key): at least one instruction, or a
    /// `trap` of kind `FetchFault` where the first cannot be fetched. Fills `covers` of the region.
    fn translate(&self, key: u64, limits: Limits, code: &dyn Code, b: &mut Builder);

    /// The address of the instruction that a key names.
    fn pc(&self, key: u64) -> u64;

    /// The key of the instruction at region pc + `delta` whose `insn` marker carries `note`, in the region `key`.
    fn key_at(&self, key: u64, delta: i32, note: u32) -> u64;

    /// Whether the code at `key` overwrites the arithmetic flags before anything reads them, told by looking at a few
    /// instructions; the bytes looked at, if so.
    fn flags_dead(&self, key: u64, code: &dyn Code) -> Option<(u64, u32)>;

    /// The instruction at `key` as text, and its length in bytes.
    fn disassemble(&self, key: u64, code: &dyn Code) -> (String, u32);

    /// Size in bytes of the units in which traces show the code at a key: instructions consist of them.
    fn code_unit(&self, _key: u64) -> u32 {
        4
    }

    /// Registers in the order debuggers number them.
    fn registers(&self) -> &[Register];

    /// A register's value.
    fn read_register(&self, state: &State, number: usize) -> u128;

    fn write_register(&self, state: &mut State, number: usize, value: u128);

    /// The system level, if this guest can be a whole machine.
    fn system(&self) -> Option<&dyn system::System> {
        None
    }

    /// Longest instruction in bytes.
    fn longest_instruction(&self) -> u32 {
        4
    }

    /// All registers as text, for `-d cpu` and `info registers`.
    fn dump(&self, state: &State) -> String;
}
