//! Guest CPU state as bytes, and what the translator must know of its layout.
//!
//! Every front end keeps its state in one [`State`]. The first bytes are common to all guests (the offsets below); the rest
//! is the front end's own, as its `state!` table says.

/// Size of the state in bytes.
pub const STATE_BYTES: usize = 4096;
/// u64: the key of the next region to execute (see `region::Region::key`); exact whenever no translated code runs.
pub const KEY: u32 = 0;
/// u32: accumulated floating-point exception flags (softfloat::Flags layout).
pub const FP_FLAGS: u32 = 8;
/// u32: the guest's arithmetic flags as a word (layout of `Op::FWord`).
pub const FLAGS: u32 = 12;
/// First byte that belongs to the front end.
pub const GUEST: u32 = 16;

/// One vCPU's registers.
#[repr(C, align(64))]
pub struct State {
    bytes: [u8; STATE_BYTES],
}

impl Default for State {
    fn default() -> Self {
        State { bytes: [0; STATE_BYTES] }
    }
}

macro_rules! accessors {
    ($($get:ident $set:ident $t:ty;)*) => {$(
        #[inline(always)]
        pub fn $get(&self, offset: u32) -> $t {
            let o = offset as usize;
            <$t>::from_le_bytes(self.bytes[o..o + size_of::<$t>()].try_into().unwrap())
        }

        #[inline(always)]
        pub fn $set(&mut self, offset: u32, value: $t) {
            let o = offset as usize;
            self.bytes[o..o + size_of::<$t>()].copy_from_slice(&value.to_le_bytes());
        }
    )*};
}

impl State {
    pub fn new() -> Box<State> {
        Box::default()
    }

    accessors! {
        u8_at set_u8 u8;
        u16_at set_u16 u16;
        u32_at set_u32 u32;
        u64_at set_u64 u64;
        u128_at set_u128 u128;
    }

    pub fn bytes(&self) -> &[u8; STATE_BYTES] {
        &self.bytes
    }

    pub fn bytes_mut(&mut self) -> &mut [u8; STATE_BYTES] {
        &mut self.bytes
    }

    /// The low `size` bytes at `offset`, zero-extended.
    pub fn read(&self, offset: u32, size: u8) -> u128 {
        let mut raw = [0u8; 16];
        let o = offset as usize;
        raw[..size as usize].copy_from_slice(&self.bytes[o..o + size as usize]);
        u128::from_le_bytes(raw)
    }

    /// Stores the low `size` bytes of `value` at `offset`.
    pub fn write(&mut self, offset: u32, size: u8, value: u128) {
        let o = offset as usize;
        self.bytes[o..o + size as usize].copy_from_slice(&value.to_le_bytes()[..size as usize]);
    }
}

impl Clone for State {
    fn clone(&self) -> Self {
        State { bytes: self.bytes }
    }
}

/// A place in the state: offset and size in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loc {
    pub offset: u32,
    pub size: u8,
}

/// What the passes and the back end know of a guest's state.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Integer registers that live in host registers while translated code runs, most used first. All of one size (4 or 8).
    pub pinned: Vec<Loc>,
    /// Names of places, for the text form and traces.
    pub names: Vec<(Loc, &'static str)>,
    /// Guest addresses have this many bits: 32 (accesses wrap at 4 GiB) or 64.
    pub address_bits: u8,
    /// System mode: where the state holds the virtual address of the page being executed (low 12 bits 0).
    pub page: Option<Loc>,
}

impl Layout {
    /// The name of exactly this place.
    pub fn name(&self, offset: u32, size: u8) -> Option<&'static str> {
        self.names.iter().find(|(l, _)| l.offset == offset && l.size == size).map(|(_, n)| *n)
    }
}
