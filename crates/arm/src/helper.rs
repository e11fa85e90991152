//! Functions that translated code calls where the IR has no operation: the table, and how chapters name its rows.
//!
//! A helper that takes fewer than three vectors gets its parameter (sizes, modes) as a constant in the third.

mod crypto;
mod neon;

use crate::features::MODELS;
use crate::system::Options;
use crate::{Arm, Translator};
use ir::state::KEY;
use ir::{CryptoStep, Helper, HelperFn, State, Ty, Val};

macro_rules! helpers {
    ($($name:ident $kind:ident $(($step:expr))? $f:path;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Index { $($name),* }

        $(pub const $name: u16 = Index::$name as u16;)*

        /// The helper table of `cpu::Guest`.
        pub static HELPERS: &[Helper] = &[$(Helper { name: stringify!($name), f: HelperFn::$kind($($step,)? $f) }),*];
    };
}

helpers! {
    CRC32 Pure crc32;
    TAKE_SVC State take_svc;
    EXCEPTION_RETURN State exception_return;
    CVT_BF16 VecState neon::cvt_bf16;
    JCVT VecState neon::jcvt;
    CVT_F16_F32 VecState neon::cvt_f16_f32;
    CVT_F32_F16 VecState neon::cvt_f32_f16;
    CLS Vec neon::cls;
    CLZ Vec neon::clz;
    QSHL VecState neon::qshl;
    QRDMLAH_16 VecState neon::qrdmlah_16;
    QRDMLAH_32 VecState neon::qrdmlah_32;
    QRDMLSH_16 VecState neon::qrdmlsh_16;
    QRDMLSH_32 VecState neon::qrdmlsh_32;
    RECPE_U32 Vec neon::recpe_u32;
    RSQRTE_U32 Vec neon::rsqrte_u32;
    PMUL_8 Vec neon::pmul_8;
    PMULL_8 Vec neon::pmull_8;
    PMULL_64 Vec neon::pmull_64;
    SDOT Vec neon::sdot;
    UDOT Vec neon::udot;
    USDOT Vec neon::usdot;
    SMMLA Vec neon::smmla;
    UMMLA Vec neon::ummla;
    USMMLA Vec neon::usmmla;
    FMAL VecState neon::fmal;
    BFDOT Vec neon::bfdot;
    BFMMLA Vec neon::bfmmla;
    AESE Crypto(CryptoStep::AesEncrypt) crypto::aese;
    AESD Crypto(CryptoStep::AesDecrypt) crypto::aesd;
    AESMC Crypto(CryptoStep::AesMix) crypto::aesmc;
    AESIMC Crypto(CryptoStep::AesUnmix) crypto::aesimc;
    SHA1C Vec crypto::sha1c;
    SHA1P Vec crypto::sha1p;
    SHA1M Vec crypto::sha1m;
    SHA1SU0 Vec crypto::sha1su0;
    SHA1SU1 Vec crypto::sha1su1;
    SHA1H Vec crypto::sha1h;
    SHA256H Crypto(CryptoStep::Sha256Abcd) crypto::sha256h;
    SHA256H2 Crypto(CryptoStep::Sha256Efgh) crypto::sha256h2;
    SHA256SU0 Crypto(CryptoStep::Sha256Schedule0) crypto::sha256su0;
    SHA256SU1 Crypto(CryptoStep::Sha256Schedule1) crypto::sha256su1;
}

/// What each byte does to a checksum, for a bit-reversed polynomial.
const fn crc_table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { polynomial } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// Bit-reversed 0x04c11db7 and 0x1edc6f41.
static CRC_TABLES: [[u32; 256]; 2] = [crc_table(0xedb8_8320), crc_table(0x82f6_3b78)];

/// CRC32B to CRC32W and CRC32CB to CRC32CW: `how` is the number of bytes, bit 8 set for the Castagnoli polynomial.
extern "C" fn crc32(acc: u64, value: u64, how: u64) -> u64 {
    let table = &CRC_TABLES[(how >> 8 & 1) as usize];
    let bytes = value.to_le_bytes();
    let step = |crc: u32, byte: &u8| crc >> 8 ^ table[((crc ^ *byte as u32) & 0xff) as usize];
    bytes.iter().take((how & 7) as usize).fold(acc as u32, step) as u64
}

/// What these helpers serve: exceptions between User mode and PL1, in a machine with neither Hyp nor Monitor mode.
fn plain_machine() -> Arm {
    Arm::machine(&MODELS[0], Options::default())
}

/// SVC with the key of the next instruction. Gives the key of the handler.
extern "C" fn take_svc(state: &mut State, next: u64, immediate: u64, _: u64) -> u64 {
    state.set_u64(KEY, next);
    plain_machine().take_svc(state, immediate as u32);
    state.u64_at(KEY)
}

/// An exception return from the mode of `key` to `pc` with CPSR = `status`. Gives the key there.
extern "C" fn exception_return(state: &mut State, key: u64, pc: u64, status: u64) -> u64 {
    state.set_u64(KEY, key);
    plain_machine().exception_return(state, pc as u32, status as u32);
    state.u64_at(KEY)
}

/// A vector as 16 bytes, as helpers take it.
type Bytes = [u8; 16];

#[inline(always)]
fn words(v: &Bytes) -> [u32; 4] {
    std::array::from_fn(|i| u32::from_le_bytes([v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]]))
}

#[inline(always)]
fn set_words(out: &mut Bytes, w: [u32; 4]) {
    for (chunk, w) in out.chunks_exact_mut(4).zip(w) {
        chunk.copy_from_slice(&w.to_le_bytes());
    }
}

/// Lane `i` of `8 << log2` bits.
fn lane(v: &Bytes, log2: u8, i: usize) -> u64 {
    let size = 1usize << log2;
    v[i * size..(i + 1) * size].iter().rev().fold(0, |acc, b| acc << 8 | *b as u64)
}

fn set_lane(v: &mut Bytes, log2: u8, i: usize, value: u64) {
    let size = 1usize << log2;
    v[i * size..(i + 1) * size].copy_from_slice(&value.to_le_bytes()[..size]);
}

fn sign_extend(value: u64, log2: u8) -> i64 {
    let drop = 64 - (8 << log2);
    (value << drop) as i64 >> drop
}

impl Translator {
    /// Calls a vector helper with one or two vectors and a constant.
    pub(crate) fn vec_helper(&mut self, helper: u16, param: u128, a: Val, b: Option<Val>) -> Val {
        let param = self.b.vconst(param);
        self.vec_helper3(helper, a, b.unwrap_or(Val::NONE), param)
    }

    /// Calls a vector helper with three vectors.
    pub(crate) fn vec_helper3(&mut self, helper: u16, a: Val, b: Val, c: Val) -> Val {
        let writes = matches!(HELPERS[helper as usize].f, HelperFn::VecState(_) | HelperFn::State(_));
        self.b.call(Ty::V128, helper, writes, [a, b, c])
    }
}
