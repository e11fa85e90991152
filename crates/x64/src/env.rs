//! What generated code assumes of the runtime around it.

use crate::asm::{Gpr, Mem, R8, R9, R10, R11, R12, R13, R14, R15, RBP, RDI, RSI, RSP};
use ir::Layout;

/// Host registers that hold pinned guest registers, in the order of `Layout::pinned`.
pub const PINS: [Gpr; 10] = [RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15];
/// How many of them a host function may clobber (System V ABI).
pub const CALLER_SAVED_PINS: usize = 6;
/// rbp points this far into the block, so that one-byte displacements cover its first 256 bytes.
pub const BIAS: i32 = 128;
/// Frame below the saved registers: call area, integer spill slots, vector spill slots, save area.
pub const FRAME_BYTES: i32 = SAVE_AREA + SAVE_AREA_BYTES + 8;
pub const INT_SLOTS: usize = 64;
pub const VEC_SLOTS: usize = 32;
/// Result and three operands of a call with vectors.
pub const CALL_AREA_BYTES: i32 = 64;
/// Where the stub for rare cases keeps the registers that a host function may clobber: 9 integer and 16 vector ones.
const SAVE_AREA: i32 = CALL_AREA_BYTES + 8 * INT_SLOTS as i32 + 16 * VEC_SLOTS as i32;
const SAVE_AREA_BYTES: i32 = 16 * 16 + 10 * 8;

/// Instruction set extensions beyond x86-64 with SSE2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Features {
    pub sse41: bool,
    pub avx: bool,
    pub avx2: bool,
    pub fma: bool,
    pub f16c: bool,
    pub aes: bool,
    pub sha: bool,
    pub bmi1: bool,
    pub bmi2: bool,
    pub lzcnt: bool,
    pub popcnt: bool,
}

impl Features {
    /// A processor with all that the back end uses.
    pub const ALL: Features = Features {
        sse41: true,
        avx: true,
        avx2: true,
        fma: true,
        f16c: true,
        aes: true,
        sha: true,
        bmi1: true,
        bmi2: true,
        lzcnt: true,
        popcnt: true,
    };

    /// What this processor has.
    pub fn detect() -> Features {
        Features {
            sse41: is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3"),
            avx: is_x86_feature_detected!("avx"),
            avx2: is_x86_feature_detected!("avx2"),
            fma: is_x86_feature_detected!("fma"),
            f16c: is_x86_feature_detected!("f16c"),
            aes: is_x86_feature_detected!("aes"),
            sha: is_x86_feature_detected!("sha"),
            bmi1: is_x86_feature_detected!("bmi1"),
            bmi2: is_x86_feature_detected!("bmi2"),
            lzcnt: is_x86_feature_detected!("lzcnt"),
            popcnt: is_x86_feature_detected!("popcnt"),
        }
    }
}

/// Offsets of the runtime's fields from the start of the vCPU block (the guest state is at offset 0).
#[derive(Clone, Copy, Debug, Default)]
pub struct Offsets {
    /// u32: not zero to leave translated code soon.
    pub exit_req: i32,
    /// Array of `{ key: u64, code: u64 }`, indexed by `key >> 1` modulo its size (a power of two).
    pub jump_cache: i32,
    pub jump_cache_entries: u32,
    /// Pointer to the table of functions that generated code calls, 8 bytes each.
    pub functions: i32,
    /// u64: saved host stack pointer.
    pub host_rsp: i32,
    /// u32 each: the guest's and the host's MXCSR.
    pub guest_mxcsr: i32,
    pub host_mxcsr: i32,
    /// u32, not zero when a runtime function reports a fault; the faulting address of an alignment fault.
    pub fault: i32,
    /// u64: an address in the code that reports a fault, which tells the region.
    pub fault_rip: i32,
    /// The exclusive monitor: u64 each open (0 or 1), address, value, version, held (1 while a store-exclusive has its
    /// counter locked), versions (not 0: another vCPU executes store-exclusives that are not paired within a region, so that
    /// counters must be kept).
    pub exclusive: i32,
    /// Pointer to the counters of all monitors, u64 each, indexed by address / 16 modulo their number (a power of two). Odd
    /// while locked; a store-exclusive that stores adds 2.
    pub monitors: i32,
    pub monitor_count: u32,
    /// u64: where `function::EVAL` puts its result.
    pub result: i32,
    /// `Memory::Soft`: for each regime a table for reads and one for writes, `TLB_ENTRIES` times `{ page: u64, host: u64 }`.
    pub tlb: i32,
    /// `Memory::Soft`: what the slow path is asked: u64 address, u64 `MemOp | regime << 8 | (is 64 bits wide) << 16`, and 16
    /// aligned bytes of data, either way.
    pub access_addr: i32,
    pub access_info: i32,
    pub access_data: i32,
}

/// Entries of one translation table in the vCPU block.
pub const TLB_ENTRIES: usize = 4096;
/// Its size in bytes.
pub const TLB_BYTES: usize = TLB_ENTRIES * 16;

/// Entries of the function table before the guest's own helpers.
pub mod function {
    /// `fn(block, &[u8; 16] (the instruction), &a, &b, &c)`: executes any vector or floating-point operation.
    pub const EVAL: usize = 0;
    /// `fn(block, addr, memop) -> value`; reports a fault in the block.
    pub const LOAD_EXCLUSIVE: usize = 1;
    /// `fn(block, addr, value, memop) -> status`; reports a fault in the block.
    pub const STORE_EXCLUSIVE: usize = 2;
    /// `fn(block)`: `Memory::Soft`, an access as the block's access fields say; reports a fault in the block.
    pub const SLOW_LOAD: usize = 3;
    pub const SLOW_STORE: usize = 4;
    /// `fn(block, addr, expected, new, memop) -> old value` and `fn(block, addr, value, memop, operation) -> old value`.
    pub const COMPARE_AND_SWAP: usize = 5;
    pub const READ_MODIFY_WRITE: usize = 6;
    /// `fn(block)`: `Memory::Soft32`, exclusives as the block's access fields say; a store-exclusive gives its status.
    pub const SLOW_LOAD_EXCLUSIVE: usize = 7;
    pub const SLOW_STORE_EXCLUSIVE: usize = 8;
    /// First of the guest's helpers.
    pub const HELPERS: usize = 16;
}

/// Offsets of the stubs in the code memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct StubOffsets {
    /// `extern "C" fn(block, code) -> u64`.
    pub enter: usize,
    /// Jumped to with the reason in rax.
    pub leave: usize,
    /// Jumped to with the key in the state, which was not at its own place in the jump cache: looks beside it, then leaves.
    pub missed: usize,
    /// Called with the address of an instruction (as `function::EVAL` takes it) in rax, rax itself in the save area and the
    /// operands in the call area; leaves the result there and changes no register.
    pub eval: usize,
    /// Called for an access that the tables cannot serve: load, store, load-exclusive, store-exclusive, each `[no vector
    /// register lives, some do]`. Changes no register; EFLAGS say "not equal" if a fault was reported.
    pub slow: [[usize; 2]; 4],
}

/// Why generated code left: the low byte of the value `enter` returns.
pub mod reason {
    /// Through exit site number `value >> 32`, not linked yet.
    pub const LINK: u64 = 0;
    /// To the key in the state, which the jump cache did not have (or an exit was requested).
    pub const INDIRECT: u64 = 1;
    /// A trap: kind in bits 15:8, argument in bits 63:32; the key in the state is set.
    pub const TRAP: u64 = 2;
    /// An exit was requested at exit site number `value >> 32`.
    pub const KICK: u64 = 3;
    /// An access fault reported by a runtime function, in the instruction of fault record `value >> 32`.
    pub const FAULT: u64 = 4;
    /// A host fault in generated code (the signal handler's doing).
    pub const HOST_FAULT: u64 = 5;
    /// An alignment fault in the instruction of fault record `value >> 32`; the address is in the block.
    pub const ALIGNMENT: u64 = 6;
}

/// How guest memory is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// GS base + 32-bit guest address.
    Window32,
    /// Host address = guest address.
    Identity,
    /// Through the tables in the vCPU block, 32-bit guest addresses. Regions are relative to their page.
    Soft32,
}

pub struct Env {
    pub features: Features,
    pub layout: Layout,
    /// Of `layout`.
    pub pins: Pins,
    pub memory: Memory,
    pub offsets: Offsets,
    pub stubs: StubOffsets,
    /// Accesses that must be 4-aligned are not checked (a user-mode kernel would fix them up).
    pub fix_up_alignment: bool,
    /// No other vCPU and no other process shares the guest's memory: exclusives need no locked instructions.
    pub alone: bool,
    /// Number of helpers of the guest that may be called and whether each writes state.
    pub helpers: Vec<HelperInfo>,
}

/// What the back end must know of a helper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelperInfo {
    pub uses_state: bool,
    pub vector: bool,
    pub crypto: Option<ir::CryptoStep>,
}

impl HelperInfo {
    pub fn of(f: &ir::HelperFn) -> HelperInfo {
        use ir::HelperFn;
        match *f {
            HelperFn::Pure(_) => HelperInfo { uses_state: false, vector: false, crypto: None },
            HelperFn::State(_) => HelperInfo { uses_state: true, vector: false, crypto: None },
            HelperFn::Vec(_) => HelperInfo { uses_state: false, vector: true, crypto: None },
            HelperFn::Crypto(step, _) => HelperInfo { uses_state: false, vector: true, crypto: Some(step) },
            HelperFn::VecState(_) => HelperInfo { uses_state: true, vector: true, crypto: None },
        }
    }
}

impl Env {
    /// Whether regions are relative to the page they are executed in.
    pub fn relative(&self) -> bool {
        self.memory == Memory::Soft32
    }

    /// Index of the pin that holds the register at a state offset.
    #[inline]
    pub fn pin_at(&self, offset: u32, size: u8) -> Option<usize> {
        let p = *self.pins.0.get(offset as usize / 4)? as usize;
        let l = self.layout.pinned.get(p)?;
        (l.offset == offset && l.size == size).then_some(p)
    }
}

/// Which pin, if any, holds each word of the first part of the state.
pub struct Pins([u8; Pins::WORDS]);

impl Pins {
    const WORDS: usize = 64;
    const NONE: u8 = u8::MAX;

    /// Panics if the layout pins something further back.
    pub fn new(layout: &Layout) -> Pins {
        let mut pins = Pins([Pins::NONE; Pins::WORDS]);
        for (p, l) in layout.pinned.iter().enumerate() {
            assert!((l.offset | l.size as u32) % 4 == 0, "registers that are pinned are words");
            pins.0[l.offset as usize / 4..(l.offset + l.size as u32) as usize / 4].fill(p as u8);
        }
        pins
    }

    /// The pins whose places an access to the state overlaps.
    #[inline]
    pub fn overlapping(&self, offset: u32, size: u32) -> impl Iterator<Item = usize> + '_ {
        let words =
            self.0.get(offset as usize / 4..Pins::WORDS.min((offset + size).div_ceil(4) as usize)).unwrap_or(&[]);
        let mut last = Pins::NONE;
        words.iter().filter(move |&&p| p != Pins::NONE && std::mem::replace(&mut last, p) != p).map(|&p| p as usize)
    }
}

/// The vCPU block at an offset from its start.
#[inline]
pub fn block(offset: i32) -> Mem {
    Mem::base(RBP, offset - BIAS)
}

/// Integer spill slot.
#[inline]
pub fn int_slot(n: usize) -> Mem {
    Mem::base(RSP, CALL_AREA_BYTES + 8 * n as i32)
}

/// Vector spill slot.
#[inline]
pub fn vec_slot(n: usize) -> Mem {
    Mem::base(RSP, CALL_AREA_BYTES + 8 * INT_SLOTS as i32 + 16 * n as i32)
}

/// Place `n` (8 bytes) of the save area; 0 to 9 are for integer registers, a vector takes two.
#[inline]
pub fn save_area(n: usize) -> Mem {
    Mem::base(RSP, SAVE_AREA + 8 * n as i32)
}

/// Part `n` (16 bytes) of the call area.
#[inline]
pub fn call_area(n: usize) -> Mem {
    Mem::base(RSP, 16 * n as i32)
}
