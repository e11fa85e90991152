//! What HSR says of the instruction whose data access faulted in the second stage of translation, so that a hypervisor can do
//! the access itself.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.13.6 (HSR, data aborts), A5.3 (A32), A6.3.7 to A6.3.10 (T32), A6.2.4 (T16).
//!
//! Loads and stores of one core register without write-back are described, no others: not those of several registers, of
//! floating point, or exclusive ones.

/// HSR.ISV: there is a description.
pub const ISV: u32 = 1 << 24;
const SSE: u32 = 1 << 21;

/// HSR bits 24:16 for an instruction (T16: in the lower half of `word`); 0 without a description.
pub fn access(word: u32, thumb: bool, wide: bool) -> u32 {
    let found = match (thumb, wide) {
        (false, _) => a32(word),
        (true, true) => t32(word),
        (true, false) => t16(word),
    };
    match found {
        Some(a) if a.register != 15 => ISV | a.size << 22 | if a.signed { SSE } else { 0 } | a.register << 16,
        _ => 0,
    }
}

/// SWP or SWPB, in A32.
pub fn is_swap(word: u32) -> bool {
    word & 0x0fb0_0ff0 == 0x0100_0090
}

struct Access {
    /// log2 of bytes.
    size: u32,
    signed: bool,
    register: u32,
}

fn plain(size: u32, register: u32) -> Option<Access> {
    Some(Access { size, signed: false, register })
}

fn a32(word: u32) -> Option<Access> {
    let (index, write_back, load) = (word >> 24 & 1 != 0, word >> 21 & 1 != 0, word >> 20 & 1 != 0);
    if word >> 28 == 15 {
        return None;
    }
    let register = word >> 12 & 15;
    // LDA and STL of words, bytes and halfwords.
    if word & 0x0f80_0ff0 == 0x0180_0c90 {
        let size = [Some(2), None, Some(0), Some(1)][(word >> 21 & 3) as usize]?;
        return plain(size, if load { register } else { word & 15 });
    }
    if !index || write_back {
        return None;
    }
    match (word >> 25 & 7, word >> 4 & 15) {
        (0b010, _) | (0b011, 0 | 2 | 4 | 6 | 8 | 10 | 12 | 14) => plain(if word >> 22 & 1 != 0 { 0 } else { 2 }, register),
        (0b000, 0b1011) => plain(1, register),
        (0b000, 0b1101) if load => Some(Access { size: 0, signed: true, register }),
        (0b000, 0b1111) if load => Some(Access { size: 1, signed: true, register }),
        _ => None,
    }
}

fn t32(word: u32) -> Option<Access> {
    let (up, size) = (word >> 23 & 1 != 0, word >> 21 & 3);
    let (signed, register) = (word >> 24 & 1 != 0, word >> 12 & 15);
    if word >> 25 != 0b111_1100 || size == 3 || signed && word >> 20 & 1 == 0 {
        return None;
    }
    // With the PC as base both signs of the 12-bit offset are there; else a register, -imm8, or the unprivileged form.
    let literal = word >> 16 & 15 == 15;
    let offset = matches!(word >> 6 & 0x3f, 0 | 0b11_0000..=0b11_0011 | 0b11_1000..=0b11_1011);
    (up || literal || offset).then_some(Access { size, signed, register })
}

fn t16(word: u32) -> Option<Access> {
    let low = word & 7;
    match word >> 11 & 31 {
        0b01001 | 0b10010 | 0b10011 => plain(2, word >> 8 & 7),
        0b01010 | 0b01011 => {
            let (size, signed) =
                [(2, false), (1, false), (0, false), (0, true), (2, false), (1, false), (0, false), (1, true)]
                    [(word >> 9 & 7) as usize];
            Some(Access { size, signed, register: low })
        }
        0b01100 | 0b01101 => plain(2, low),
        0b01110 | 0b01111 => plain(0, low),
        0b10000 | 0b10001 => plain(1, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Size, sign and register of what is described.
    fn said(word: u32, thumb: bool) -> Option<(u32, bool, u32)> {
        let hsr = access(word, thumb, word >> 16 != 0);
        assert_eq!(hsr & ISV == 0, hsr == 0);
        (hsr != 0).then_some((hsr >> 22 & 3, hsr & SSE != 0, hsr >> 16 & 15))
    }

    #[test]
    fn loads_and_stores_of_one_register_are_described() {
        let a32: [(u32, Option<(u32, bool, u32)>); 15] = [
            (0xe591_2004, Some((2, false, 2))),  // ldr r2, [r1, #4]
            (0xe781_3002, Some((2, false, 3))),  // str r3, [r1, r2]
            (0xe5c1_c000, Some((0, false, 12))), // strb r12, [r1]
            (0xe1d1_20b4, Some((1, false, 2))),  // ldrh r2, [r1, #4]
            (0xe191_20d3, Some((0, true, 2))),   // ldrsb r2, [r1, r3]
            (0xe1d1_20f0, Some((1, true, 2))),   // ldrsh r2, [r1]
            (0xe5b1_2004, None),                 // ldr r2, [r1, #4]!
            (0xe491_2004, None),                 // ldr r2, [r1], #4
            (0xe591_f004, None),                 // ldr pc, [r1, #4]
            (0xe1c1_20d0, None),                 // ldrd r2, r3, [r1]
            (0xe1c1_20f0, None),                 // strd r2, r3, [r1]
            (0xe191_2f9f, None),                 // ldrex r2, [r1]
            (0xe891_000c, None),                 // ldm r1, {r2, r3}
            (0xed91_0a00, None),                 // vldr s0, [r1]
            (0xf5d1_f000, None),                 // pld [r1]
        ];
        for (word, want) in a32 {
            assert_eq!(said(word, false), want, "{word:#x}");
        }
        let thumb: [(u32, Option<(u32, bool, u32)>); 17] = [
            (0xf8d1_2004, Some((2, false, 2))), // ldr.w r2, [r1, #4]
            (0xf851_2c04, Some((2, false, 2))), // ldr r2, [r1, #-4]
            (0xf841_8003, Some((2, false, 8))), // str.w r8, [r1, r3]
            (0xf9b1_2000, Some((1, true, 2))),  // ldrsh.w r2, [r1]
            (0xf811_2e04, Some((0, false, 2))), // ldrbt r2, [r1, #4]
            (0xf85f_2004, Some((2, false, 2))), // ldr.w r2, [pc, #-4]
            (0xf851_2f04, None),                // ldr r2, [r1, #4]!
            (0xf851_2b04, None),                // ldr r2, [r1], #4
            (0xe9d1_2300, None),                // ldrd
            (0xf891_f000, None),                // pld
            (0x680a, Some((2, false, 2))),      // ldr r2, [r1]
            (0x56ca, Some((0, true, 2))),       // ldrsb r2, [r1, r3]
            (0x5eca, Some((1, true, 2))),       // ldrsh r2, [r1, r3]
            (0x9b01, Some((2, false, 3))),      // ldr r3, [sp, #4]
            (0x804a, Some((1, false, 2))),      // strh r2, [r1, #2]
            (0xb50f, None),                     // push
            (0xc90c, None),                     // ldm
        ];
        for (word, want) in thumb {
            assert_eq!(said(word, true), want, "{word:#x}");
        }
    }
}
