//! Functions that translated code calls, by number.

use ir::{Helper, HelperFn};

macro_rules! helpers {
    ($($name:ident $kind:ident $f:path;)*) => {
        #[repr(u16)]
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Number { $($name),* }

        $(pub const $name: u16 = Number::$name as u16;)*

        /// The table that the constants index.
        pub static HELPERS: &[Helper] = &[$(Helper { name: stringify!($name), f: HelperFn::$kind($f) }),*];
    };
}

helpers! {
    CRC32 Pure crc32;
}

/// CRC32B to CRC32W and CRC32CB to CRC32CW: `how` is the number of bytes, bit 8 set for the Castagnoli polynomial.
extern "C" fn crc32(acc: u64, value: u64, how: u64) -> u64 {
    // Bit-reversed 0x04c11db7 and 0x1edc6f41.
    let polynomial = if how & 0x100 != 0 { 0x82f6_3b78 } else { 0xedb8_8320u32 };
    let mut crc = acc as u32;
    for byte in value.to_le_bytes().iter().take((how & 7) as usize) {
        crc ^= *byte as u32;
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { polynomial } else { 0 };
        }
    }
    crc as u64
}
