//! Whether code overwrites the flags before it reads them, told from its first instructions.
//!
//! Faults do not keep flags alive (decision 0003), so loads and stores do not end the search.

use crate::state::key;
use cpu::Code;

/// How many instructions are looked at.
const LOOK: u32 = 10;

/// What an instruction does to the flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    /// Neither reads nor writes them, and the next instruction follows.
    None,
    /// Overwrites all of N, Z, C and V.
    All,
    /// Reads them, leaves, or is not known here.
    Stop,
}

/// The bytes looked at, if the flags are dead at `key`.
pub fn flags_dead(key: u64, code: &dyn Code) -> Option<(u64, u32)> {
    let start = key::pc(key);
    let mut pc = start;
    if key::thumb(key) && key::it(key) != 0 {
        return None;
    }
    for _ in 0..LOOK {
        let (effect, length) = if key::thumb(key) {
            let first = code.half(pc as u64)? as u32;
            if first >= 0xe800 {
                (t32(first << 16 | code.half(pc.wrapping_add(2) as u64)? as u32), 4)
            } else {
                (t16(first), 2)
            }
        } else {
            (a32(code.word(pc as u64)?), 4)
        };
        pc = pc.wrapping_add(length);
        match effect {
            Effect::All => return Some((start as u64, pc.wrapping_sub(start))),
            Effect::None => {}
            Effect::Stop => return None,
        }
    }
    None
}

/// Effect of data processing by its operation field (A32 numbering).
fn operation(op: u32, s: bool, d: u32) -> Effect {
    let reads_carry = matches!(op, 5..=7);
    let arithmetic = matches!(op, 2 | 3 | 4 | 10 | 11);
    match () {
        _ if reads_carry || d == 15 => Effect::Stop,
        _ if s && arithmetic => Effect::All,
        // Logical operations keep V.
        _ => Effect::None,
    }
}

fn a32(w: u32) -> Effect {
    if w >> 28 != 14 {
        return Effect::Stop;
    }
    let (op, s, d) = (w >> 21 & 15, w >> 20 & 1 != 0, w >> 12 & 15);
    let comparison = op >> 2 == 2;
    match w >> 25 & 7 {
        0 if w & 0x90 == 0x90 || comparison && !s => Effect::Stop,
        // RRX reads C.
        0 if w & 0xff0 == 0x060 => Effect::Stop,
        // A logical operation by a register shift may pass C on: fine, V keeps the flags alive anyway.
        0 => operation(op, s, if comparison { 0 } else { d }),
        1 if comparison && !s => if w & 0x0fb0_0000 == 0x0300_0000 && d != 15 { Effect::None } else { Effect::Stop },
        1 => operation(op, s, if comparison { 0 } else { d }),
        2 | 3 => {
            let load_pc = w >> 20 & 1 != 0 && d == 15;
            if load_pc || w >> 25 & 1 != 0 && w & 0x10 != 0 || w & 0x0200_0ff0 == 0x0200_0060 { Effect::Stop } else { Effect::None }
        }
        // With the S bit they are undefined in User mode.
        4 if w >> 22 & 1 == 0 && (w >> 20 & 1 == 0 || w >> 15 & 1 == 0) => Effect::None,
        _ => Effect::Stop,
    }
}

fn t16(w: u32) -> Effect {
    match w >> 10 {
        // LSL, LSR, ASR keep V.
        0b000000..=0b000101 => Effect::None,
        // ADD, SUB
        0b000110 | 0b000111 => Effect::All,
        // MOV keeps C and V; CMP, ADD, SUB
        0b001000 | 0b001001 => Effect::None,
        0b001010..=0b001111 => Effect::All,
        // NEG, CMP, CMN
        0b010000 if matches!(w >> 6 & 15, 9..=11) => Effect::All,
        // ADC, SBC
        0b010000 if matches!(w >> 6 & 15, 5 | 6) => Effect::Stop,
        0b010000 => Effect::None,
        // Special data processing: ADD, CMP, MOV, BX
        0b010001 => match w >> 8 & 3 {
            1 => Effect::All,
            3 => Effect::Stop,
            _ if w & 0x87 == 0x87 => Effect::Stop,
            _ => Effect::None,
        },
        // Loads and stores, ADR, ADD to SP.
        0b010010..=0b101011 => Effect::None,
        0b101100 if w >> 8 == 0xb0 => Effect::None,
        // PUSH
        0b101101 => Effect::None,
        0b110000..=0b110011 => Effect::None,
        _ => Effect::Stop,
    }
}

fn t32(w: u32) -> Effect {
    let (s, d) = (w >> 20 & 1 != 0, w >> 8 & 15);
    match w >> 25 & 15 {
        // An operand shifted by RRX reads C, comparisons' too.
        0b0101 if w & 0x70f0 == 0x0030 => Effect::Stop,
        // Data processing (shifted register, modified immediate).
        0b0101 | 0b1000 | 0b1010 if w >> 28 == 0b1110 || w & 0x8000 == 0 => match w >> 21 & 15 {
            // ADC, SBC
            10 | 11 => Effect::Stop,
            8 | 13 | 14 if s => Effect::All,
            _ if d == 15 && !s => Effect::Stop,
            _ => Effect::None,
        },
        // ADDW, MOVW, bit fields, saturation.
        0b1001 | 0b1011 if w & 0x8000 == 0 && d != 15 => Effect::None,
        // Loads and stores of one register.
        0b1100 if w >> 24 & 1 == 0 => {
            let load_pc = s && w >> 12 & 15 == 15;
            if load_pc { Effect::Stop } else { Effect::None }
        }
        _ => Effect::Stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CODE, Machine};

    fn check_a32(words: &[u32], want: Option<u32>) {
        let m = Machine::a32(words);
        assert_eq!(flags_dead(CODE as u64, &m.memory), want.map(|n| (CODE as u64, n)), "{words:x?}");
    }

    #[test]
    fn a_comparison_kills_the_flags() {
        check_a32(&[0xe350_0001], Some(4)); // cmp r0, #1
        check_a32(&[0xe1a0_0001, 0xe591_0000, 0xe250_0001], Some(12)); // mov; ldr; subs
        check_a32(&[0xe0a0_0001, 0xe350_0001], None); // adc reads C
        check_a32(&[0x0350_0001], None); // cmpeq
        check_a32(&[0xe591_f000, 0xe350_0001], None); // ldr pc
        check_a32(&[0xe1b0_0061, 0xe350_0001], None); // rrxs
        check_a32(&[0xe87b_6639, 0xe155_0a78], None); // ldmda r11!, {…}^: undefined in User mode
    }

    #[test]
    fn in_thumb_most_arithmetic_kills_the_flags() {
        let m = Machine::thumb(&[0x4601, 0x1c40]); // mov r1, r0; adds r0, #1
        assert_eq!(flags_dead(CODE as u64 | 1, &m.memory), Some((CODE as u64, 4)));
        let m = Machine::thumb(&[0xd000, 0x1c40]); // beq
        assert_eq!(flags_dead(CODE as u64 | 1, &m.memory), None);
        let m = Machine::thumb(&[0xebbb, 0x0f38]); // cmp.w r11, r8, rrx: reads C
        assert_eq!(flags_dead(CODE as u64 | 1, &m.memory), None);
        let m = Machine::thumb(&[0xf1b0, 0x0f01]); // cmp.w r0, #1
        assert_eq!(flags_dead(CODE as u64 | 1, &m.memory), Some((CODE as u64, 4)));
    }

    /// Whatever is said to be dead may be anything: two runs that differ in the flags only end alike.
    #[test]
    fn dead_flags_make_no_difference() {
        let mut x = 0x2545_f491u32;
        let mut next = move || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x
        };
        let mut found = [0; 2];
        for _ in 0..60_000 {
            let thumb = next() & 1;
            let mut m = if thumb != 0 {
                Machine::thumb(&std::array::from_fn::<u16, 6, _>(|_| next() as u16))
            } else {
                Machine::a32(&std::array::from_fn::<u32, 4, _>(|_| next() & 0x0fff_ffff | 0xe000_0000))
            };
            let Some((_, length)) = flags_dead((CODE | thumb) as u64, &m.memory) else { continue };
            found[thumb as usize] += 1;
            for n in 0..15 {
                m.state.set_u32(crate::state::r(n), if n & 1 == 0 { crate::testing::DATA + 256 } else { next() });
            }
            let mut states = Vec::new();
            for nzcv in ["nzcv", "NZCV"] {
                let mut m = Machine { state: m.state.clone(), memory: m.memory.clone(), arm: m.arm.clone(), stopped: None }
                    .set_nzcv(nzcv);
                while m.pc().wrapping_sub(CODE) < length && m.step(1) {}
                if m.stopped.is_some() {
                    // A fault does not keep flags.
                    m.state.set_u32(ir::state::FLAGS, 0);
                }
                states.push((m.state, m.memory.data));
            }
            assert!(states[0].0.bytes() == states[1].0.bytes() && states[0].1 == states[1].1, "{:x?}", &m.memory.code[..16]);
        }
        assert!(found[0] > 500 && found[1] > 500, "{found:?}");
    }
}
