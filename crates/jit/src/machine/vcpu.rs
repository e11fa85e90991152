//! One vCPU of a machine: what its translated code reaches, and its own caches.
//!
//! Invariants:
//! 1. A `SystemBlock` never moves, and its `owner` is the vCPU that owns it.
//! 2. Only the thread that holds the vCPU's lock runs it or its slow paths.

use super::timer::OutputTimer;
use super::tlb::{Jumps, L1, Tlb, bit, each_bit, set_bit};
use super::{Cpu, Machine};
use crate::cache::{Cache, Name};
use crate::jumps::{self, Jump, NO_KEY};
use crate::vcpu::Block;
use crate::watch::Hit;
use cpu::Access;
use cpu::system::Failure;
use fabric::View;
use ir::State;
use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use x64::env::Offsets;

/// Entries of the jump cache: a kernel and its programs need more than one process.
const JUMPS: usize = 1 << 16;
/// Entries of the cache from names to code; those that are not used take no memory.
const NAMES: usize = 1 << 16;

/// An access that translated code hands to the slow path.
#[repr(C, align(16))]
pub(super) struct Asked {
    pub data: u128,
    pub addr: u64,
    pub info: u64,
}

/// Everything the translated code of a machine reaches through rbp.
#[repr(C, align(64))]
pub(super) struct SystemBlock {
    pub block: Block,
    pub jumps: [Jump; JUMPS],
    pub asked: Asked,
    pub owner: *mut Vcpu,
    pub l1: L1,
}

/// Where a name's code is; all zero where there is none.
#[derive(Clone, Copy)]
struct Known {
    name: Name,
    code: u64,
}

/// An access that failed in a slow path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    pub regime: u8,
    pub addr: u64,
    pub access: Access,
    pub why: Failure,
}

pub(crate) struct Vcpu {
    pub(super) block: Box<SystemBlock>,
    pub(super) tlb: Tlb,
    pub(super) cache: Arc<Cache>,
    names: Box<[Known]>,
    pub(super) jumps: JumpBits,
    pub(super) view: Arc<View>,
    pub(super) failed: Option<Failed>,
    /// Instructions that the clock has not been told of.
    pub(super) granted: u32,
    /// The access failed because a debugger watches it.
    pub(super) watched: Option<Hit>,
    pub(super) timers: Vec<Option<OutputTimer>>,
    /// Set while the vCPU's thread runs it, for slow paths.
    pub(super) machine: *const Machine,
    pub(super) cpu: *const Cpu,
}

// SAFETY: the raw pointers lead to the vCPU's own block and to objects that outlive its run (invariant 2).
unsafe impl Send for Vcpu {}

impl SystemBlock {
    /// It is made where it stays: passing so much memory through the stack would touch it twice.
    fn boxed(functions: u64) -> Box<SystemBlock> {
        let mut block = Box::<SystemBlock>::new_uninit();
        let b = block.as_mut_ptr();
        // SAFETY: each field is written, through a pointer to memory that is a block's.
        unsafe {
            (&raw mut (*b).block).write(Block::new(functions));
            jumps::begin(&raw mut (*b).jumps);
            (&raw mut (*b).asked).write(Asked { data: 0, addr: 0, info: 0 });
            (&raw mut (*b).owner).write(std::ptr::null_mut());
            L1::begin(&raw mut (*b).l1);
            block.assume_init()
        }
    }
}

fn no_names() -> Box<[Known]> {
    // SAFETY: all bytes zero are entries.
    unsafe { Box::new_zeroed_slice(NAMES).assume_init() }
}

impl Vcpu {
    pub fn new(cache: Arc<Cache>, view: Arc<View>, functions: u64) -> Box<Vcpu> {
        let mut v = Box::new(Vcpu {
            block: SystemBlock::boxed(functions),
            tlb: Tlb::new(),
            cache,
            names: no_names(),
            jumps: JumpBits { local: [0; JUMPS / 64], used: [0; JUMPS / 64] },
            view,
            failed: None,
            granted: 0,
            watched: None,
            timers: Vec::new(),
            machine: std::ptr::null(),
            cpu: std::ptr::null(),
        });
        v.block.owner = &raw mut *v;
        v
    }

    pub fn exit_req(&self) -> *const AtomicU32 {
        &raw const self.block.block.control.exit_req
    }

    pub fn state_mut(&mut self) -> &mut State {
        &mut self.block.block.state
    }

    /// The state with everything in it, also what translated code keeps elsewhere.
    pub fn exact_state(&mut self) -> &mut State {
        crate::runtime::fp_flags(&mut self.block.block);
        &mut self.block.block.state
    }

    /// Power-on reset.
    pub fn reset(&mut self, machine: &Machine, cpu: &Cpu) {
        machine.guest.reset(&mut self.block.block.state);
        self.block.block.control.exclusive.open = 0;
        self.block.block.control.guest_mxcsr = 0x1f80;
        for t in self.timers.iter().flatten() {
            t.set(None);
        }
        for output in 0..self.timers.len() {
            cpu.set_output(output, false);
        }
        self.forget_translations();
        self.tlb.flush_everything(&mut self.block.l1);
    }

    pub fn forget_jumps(&mut self) {
        self.forget(Jumps::ForgetAll);
    }

    /// Forgets where code is.
    pub fn forget_translations(&mut self) {
        self.forget_jumps();
        self.names = no_names();
    }

    pub fn known(&self, name: Name) -> Option<u64> {
        let k = &self.names[index(name)];
        (k.name == name && k.code != 0).then_some(k.code)
    }

    pub fn know(&mut self, name: Name, code: u64) {
        self.names[index(name)] = Known { name, code };
    }

    pub fn jump(&self, key: u64) -> Option<u64> {
        jumps::find(&self.block.jumps, key)
    }

    /// `global`: in every address space.
    pub fn set_jump(&mut self, key: u64, code: u64, global: bool) {
        let (n, moved) = jumps::insert(&mut self.block.jumps, key, code);
        let JumpBits { local, used } = &mut self.jumps;
        if let Some(to) = moved {
            let was_local = bit(local, n);
            set_bit(local, to, was_local);
            set_bit(used, to, true);
        }
        set_bit(local, n, !global);
        set_bit(used, n, true);
    }

    /// Forgets what a change of the tables asks for.
    pub fn forget(&mut self, which: Jumps) {
        self.jumps.forget(&mut self.block.jumps, which);
    }
}

/// Which entries of the jump cache belong to one address space, and which may be in use (bits).
pub(super) struct JumpBits {
    local: [u64; JUMPS / 64],
    used: [u64; JUMPS / 64],
}

impl JumpBits {
    pub fn forget(&mut self, jumps: &mut [Jump], which: Jumps) {
        match which {
            Jumps::Keep => {}
            Jumps::ForgetLocal => each_bit(&mut self.local, |n| jumps[n].key = NO_KEY),
            Jumps::ForgetAll => {
                each_bit(&mut self.used, |n| jumps[n].key = NO_KEY);
                self.local.fill(0);
            }
        }
    }
}

fn index(name: Name) -> usize {
    let h = (name.key ^ name.page.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (h >> (64 - NAMES.trailing_zeros())) as usize
}

/// Where the block has what translated code of a machine needs.
pub(super) fn set_offsets(o: &mut Offsets) {
    o.jump_cache = offset_of!(SystemBlock, jumps) as i32;
    o.jump_cache_entries = JUMPS as u32;
    o.tlb = offset_of!(SystemBlock, l1) as i32;
    let asked = offset_of!(SystemBlock, asked);
    o.access_addr = (asked + offset_of!(Asked, addr)) as i32;
    o.access_info = (asked + offset_of!(Asked, info)) as i32;
    o.access_data = (asked + offset_of!(Asked, data)) as i32;
}
