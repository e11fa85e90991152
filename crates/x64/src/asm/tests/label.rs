//! Labels, jumps and alignment.

use super::*;
use iced_x86::OpKind;

fn lines(asm: &Asm) -> Vec<String> {
    Listing::new(MemorySizeOptions::Always).all(asm.code())
}

#[test]
fn forward_and_backward_jumps_reach_their_label() {
    let mut asm = Asm::new();
    let (start, end) = (asm.here(), asm.label());
    asm.jcc(Cc::E, end); // 0: 6 bytes
    asm.jmp(end); // 6: 5 bytes
    asm.call(end); // b: 5 bytes
    asm.jcc_short(Cc::NE, end); // 10
    asm.jmp_short(end); // 12
    asm.lea_label(RAX, end); // 14: 7 bytes
    asm.jmp(start); // 1b
    assert_eq!(asm.open_labels(), 1);
    asm.bind(end);
    assert_eq!(asm.open_labels(), 0);
    asm.jcc(Cc::G, start); // 1d
    asm.jmp_short(start); // 1f
    asm.call(start); // 21
    assert_eq!(asm.offset_of(end), Some(0x1d));
    assert_eq!(
        lines(&asm),
        [
            "je 0x1d", "jmp 0x1d", "call 0x1d", "jne 0x1d", "jmp 0x1d", "lea rax, [rip+0x2]", "jmp 0x0", "jg 0x0",
            "jmp 0x0", "call 0x0"
        ]
    );
}

#[test]
fn far_backward_jumps_use_four_bytes() {
    for (gap, length) in [(126, 2), (127, 5)] {
        let mut asm = Asm::new();
        let start = asm.here();
        asm.nop(gap);
        asm.jmp(start);
        assert_eq!(asm.len(), gap + length);
        assert_eq!(lines(&asm).last().map(String::as_str), Some("jmp 0x0"));
    }
}

/// Random jumps between random labels, checked against the label's offset by the disassembler.
#[test]
fn random_jumps_reach_their_label() {
    let mut rng = Rng::from_env();
    for _ in 0..50 {
        let mut asm = Asm::with_capacity(16);
        let mut labels: Vec<Label> = (0..20).map(|_| asm.label()).collect();
        let all = labels.clone();
        let mut expected = Vec::new();
        for _ in 0..400 {
            let label = rng.pick(&all);
            match rng.below(5) {
                0 => asm.jmp(label),
                1 => asm.jcc(rng.pick(&Cc::ALL), label),
                2 => asm.call(label),
                3 => {
                    asm.nop(rng.below(9) as usize + 1);
                    continue;
                }
                _ => {
                    if let Some(label) = labels.pop() {
                        asm.bind(label);
                    }
                    continue;
                }
            }
            expected.push(label);
        }
        for label in labels {
            asm.bind(label);
        }
        assert_eq!(asm.open_labels(), 0);
        let mut decoder = Decoder::with_ip(64, asm.code(), 0, DecoderOptions::NONE);
        let mut targets = Vec::new();
        while decoder.can_decode() {
            let instruction = decoder.decode();
            if instruction.op0_kind() == OpKind::NearBranch64 {
                targets.push(instruction.near_branch_target() as usize);
            }
        }
        let expected: Vec<usize> = expected.iter().filter_map(|&label| asm.offset_of(label)).collect();
        assert_eq!(targets, expected);
    }
}

#[test]
fn placeholders_are_patched_in_place() {
    let mut asm = Asm::new();
    for opcode_bytes in [1, 2] {
        asm.int3();
        asm.align_rel32(opcode_bytes);
        let at = if opcode_bytes == 1 { asm.jmp_rel32_placeholder() } else { asm.jcc_rel32_placeholder(Cc::S) };
        assert_eq!(at % 4, 0);
        asm.patch_rel32(at, 0x40);
    }
    let at = asm.call_rel32_placeholder();
    asm.patch_rel32(at, 0);
    asm.align(32);
    assert_eq!(asm.len() % 32, 0);
    assert_eq!(lines(&asm), ["int3", "jmp 0x40", "int3", "js 0x40", "call 0x0"]);
}

#[test]
fn indirect_jumps_and_constants_by_label() {
    let mut rng = Rng::from_env();
    let mut listing = Listing::new(MemorySizeOptions::Always);
    for _ in 0..1000 {
        let target = rng.rm();
        let mut asm = Asm::new();
        asm.jmp_rm(target);
        assert_eq!(listing.one(asm.code()).1, format!("jmp {}", rm(Width::B8, &target)));
        asm.clear();
        asm.call_rm(target);
        assert_eq!(listing.one(asm.code()).1, format!("call {}", rm(Width::B8, &target)));
    }
    let mut asm = Asm::new();
    let constant = asm.label();
    asm.sse_op(VecOp::Pand, XMM9, Mem::rip(0)); // 0: 9 bytes
    asm.link_rel32(constant);
    asm.align(16);
    asm.bind(constant);
    asm.put_u64(0x0001_0203_0405_0607);
    asm.put_u32(9);
    assert_eq!(listing.one(&asm.code()[..9]).1, "pand xmm9, xmmword ptr [rip+0x7]");
    assert_eq!(asm.code()[16..], [7, 6, 5, 4, 3, 2, 1, 0, 9, 0, 0, 0]);
}

#[test]
#[should_panic(expected = "short jump of 128 bytes")]
fn a_short_jump_too_far_is_noticed() {
    let mut asm = Asm::new();
    let far = asm.label();
    asm.jmp_short(far);
    asm.nop(128);
    asm.bind(far);
}

#[test]
#[should_panic(expected = "bound twice")]
fn a_label_bound_twice_is_noticed() {
    let mut asm = Asm::new();
    let label = asm.here();
    asm.bind(label);
}
