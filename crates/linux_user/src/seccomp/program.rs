//! The programs of seccomp filters: classic BPF over the call's data.
//!
//! **Reference.** `Documentation/networking/filter.rst` for the instructions, `struct seccomp_data` for what they look at.

use super::RET_KILL_THREAD;
use crate::memory::abi_struct;

abi_struct! {
    /// struct sock_filter
    Insn 8 { code: u16, jt: u8, jf: u8, k: u32, }
}

pub const AUDIT_ARCH_ARM: u32 = 0x4000_0028;
/// struct seccomp_data.
const DATA_BYTES: u32 = 64;

/// The bytes that a filter looks at, as 32-bit words.
pub fn data_word(at: u32, number: u32, pc: u32, args: &[u32; 6]) -> u32 {
    match at {
        0 => number,
        4 => AUDIT_ARCH_ARM,
        8 => pc,
        _ if at >= 16 && at.is_multiple_of(8) => args[(at as usize - 16) / 8],
        _ => 0,
    }
}

/// Checks a program as the kernel does: known instructions, jumps forward and inside, a return at the end.
pub fn check(program: &[Insn]) -> bool {
    let len = program.len() as u64;
    let last_returns = program.last().is_some_and(|i| i.code & 7 == 6);
    last_returns
        && program.iter().enumerate().all(|(at, i)| {
            let left = len - at as u64 - 1;
            match i.code {
                0x20 => i.k < DATA_BYTES && i.k.is_multiple_of(4),
                0x60 | 0x61 | 0x02 | 0x03 => i.k < 16,
                0x34 | 0x94 => i.k != 0,
                0x64 | 0x74 => i.k < 32,
                0x05 => (i.k as u64) < left,
                0x15 | 0x25 | 0x35 | 0x45 | 0x1d | 0x2d | 0x3d | 0x4d => (i.jt as u64) < left && (i.jf as u64) < left,
                0x00 | 0x01 | 0x80 | 0x81 | 0x06 | 0x16 | 0x07 | 0x87 => true,
                0x04 | 0x0c | 0x14 | 0x1c | 0x24 | 0x2c | 0x3c | 0x44 | 0x4c | 0x54 | 0x5c | 0x6c | 0x7c | 0x84
                | 0xa4 | 0xac => true,
                _ => false,
            }
        })
}

/// Runs a checked program.
pub fn evaluate(program: &[Insn], load: impl Fn(u32) -> u32) -> u32 {
    let (mut a, mut x, mut m) = (0u32, 0u32, [0u32; 16]);
    let mut pc = 0;
    while let Some(i) = program.get(pc) {
        pc += 1;
        let operand = if i.code & 8 != 0 { x } else { i.k };
        let mut jump = |taken: bool| pc += if taken { i.jt } else { i.jf } as usize;
        match i.code {
            0x20 => a = load(i.k),
            0x00 => a = i.k,
            0x01 => x = i.k,
            0x60 => a = m[i.k as usize & 15],
            0x61 => x = m[i.k as usize & 15],
            0x02 => m[i.k as usize & 15] = a,
            0x03 => m[i.k as usize & 15] = x,
            0x80 => a = DATA_BYTES,
            0x81 => x = DATA_BYTES,
            0x06 => return i.k,
            0x16 => return a,
            0x07 => x = a,
            0x87 => a = x,
            0x04 | 0x0c => a = a.wrapping_add(operand),
            0x14 | 0x1c => a = a.wrapping_sub(operand),
            0x24 | 0x2c => a = a.wrapping_mul(operand),
            0x34 | 0x3c => match a.checked_div(operand) {
                Some(q) => a = q,
                None => return RET_KILL_THREAD,
            },
            0x44 | 0x4c => a |= operand,
            0x54 | 0x5c => a &= operand,
            0x64 | 0x6c => a = a.checked_shl(operand).unwrap_or(0),
            0x74 | 0x7c => a = a.checked_shr(operand).unwrap_or(0),
            0xa4 | 0xac => a ^= operand,
            0x84 => a = a.wrapping_neg(),
            0x05 => pc += i.k as usize,
            0x15 | 0x1d => jump(a == operand),
            0x25 | 0x2d => jump(a > operand),
            0x35 | 0x3d => jump(a >= operand),
            0x45 | 0x4d => jump(a & operand != 0),
            _ => return RET_KILL_THREAD,
        }
    }
    RET_KILL_THREAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::{RET_ALLOW, RET_ERRNO};

    fn insn(code: u16, jt: u8, jf: u8, k: u32) -> Insn {
        Insn { code, jt, jf, k }
    }

    #[test]
    fn a_filter_chooses_by_number() {
        // if nr == 20 then ERRNO(1) else ALLOW
        let p = [insn(0x20, 0, 0, 0), insn(0x15, 0, 1, 20), insn(6, 0, 0, RET_ERRNO | 1), insn(6, 0, 0, RET_ALLOW)];
        assert!(check(&p));
        let run = |nr| evaluate(&p, |at| data_word(at, nr, 0, &[0; 6]));
        assert_eq!(run(20), RET_ERRNO | 1);
        assert_eq!(run(21), RET_ALLOW);
    }

    #[test]
    fn arguments_are_64_bits_wide() {
        assert_eq!(data_word(16, 1, 2, &[7, 8, 0, 0, 0, 9]), 7);
        assert_eq!(data_word(20, 1, 2, &[7, 8, 0, 0, 0, 9]), 0);
        assert_eq!(data_word(56, 1, 2, &[7, 8, 0, 0, 0, 9]), 9);
        assert_eq!(data_word(4, 1, 2, &[0; 6]), AUDIT_ARCH_ARM);
    }

    #[test]
    fn bad_programs_are_refused() {
        assert!(!check(&[]));
        assert!(!check(&[insn(0x15, 5, 0, 0), insn(6, 0, 0, 0)]), "jump outside");
        assert!(!check(&[insn(0x20, 0, 0, 64), insn(6, 0, 0, 0)]), "load outside");
        assert!(!check(&[insn(0x20, 0, 0, 0)]), "no return");
        assert!(!check(&[insn(0xff, 0, 0, 0), insn(6, 0, 0, 0)]), "no such instruction");
    }
}
