//! Damaged images through the loader: each is loaded or refused with one sentence. Nothing of the guest runs here; the soak
//! `damaged_programs` runs such files as programs.
//!
//! `RHEA_DAMAGED=COUNT` tries more than the usual number, `RHEA_SEED=N` others.

use super::*;
use crate::host_signal::{Disposition, set_disposition};
use crate::stack::{self, Contents};
use crate::symbols::Symbols;
use jit::Space;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trial::Random;
use trial::damage::damage;

const COUNT: u64 = 4_000;
/// No image takes longer than this on any machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer ones are not taken as a pattern.
const LONGEST: usize = 256 << 10;
const PT_DYNAMIC: u32 = 2;
/// An image with program headers, sections, symbols and some contents.
fn pattern(kind: u16, segments: &[[u32; 8]]) -> Vec<u8> {
    const SECTIONS_AT: u32 = 0x2000;
    let mut b = vec![0u8; 0x3000];
    let mut put = |at: usize, words: &[u32]| {
        for (i, w) in words.iter().enumerate() {
            b[at + 4 * i..][..4].copy_from_slice(&w.to_le_bytes());
        }
    };
    put(HEADER_BYTES, &segments.concat());
    // Section headers: none, symbols (linked to the third), strings.
    let (symbols, strings) = ([0u32, 2, 0, 0, 0x2200, 64, 2, 0, 4, 16], [0u32, 3, 0, 0, 0x2300, 32, 0, 0, 1, 0]);
    put(SECTIONS_AT as usize, &[[0; 10], symbols, strings].concat());
    for (i, (name, value)) in [(0u32, 0u32), (1, 0x1_0100), (6, 0x1_0201), (9, 0x1_0300)].into_iter().enumerate() {
        put(0x2200 + 16 * i, &[name, value, 0x80, 0x0001_0002]);
    }
    b[0x2300..0x2310].copy_from_slice(b"\0main\0go\0helper\0");
    b[0x1800..0x1820].copy_from_slice(b"/lib/ld-linux-armhf.so.3\0\0\0\0\0\0\0\0");
    b[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    for (at, half) in
        [(16, kind), (18, EM_ARM), (42, PHDR_BYTES as u16), (44, segments.len() as u16), (46, 40), (48, 3), (50, 2)]
    {
        b[at..at + 2].copy_from_slice(&half.to_le_bytes());
    }
    for (at, word) in [(24, 0x1_0100u32), (28, HEADER_BYTES as u32), (32, SECTIONS_AT)] {
        b[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
    b
}

fn patterns() -> Vec<Vec<u8>> {
    let stack = [PT_GNU_STACK, 0, 0, 0, 0, 0, 6, 16];
    let text = |base: u32| [PT_LOAD, 0, base, 0, 0x1000, 0x1000, 5, 4096];
    let data = |base: u32| [PT_LOAD, 0x1400, base + 0x2400, 0, 0x500, 0x3000, 6, 4096];
    let name = |base: u32| [PT_INTERP, 0x1800, base + 0x2800, 0, 25, 25, 4, 1];
    let dynamic = |base: u32| [PT_DYNAMIC, 0x1500, base + 0x2500, 0, 0x80, 0x80, 6, 4];
    let unaligned = |base: u32| [PT_LOAD, 0x1433, base + 0x8000, 0, 0x500, 0x600, 7, 4];
    let mut all = vec![
        pattern(ET_EXEC, &[text(0x1_0000), data(0x1_0000), stack]),
        pattern(ET_DYN, &[[PT_PHDR, 52, 52, 0, 192, 192, 4, 4], name(0), text(0), data(0), dynamic(0), stack]),
        pattern(ET_DYN, &[text(0), data(0)]),
        pattern(ET_EXEC, &[text(0x2_0000), unaligned(0x2_0000)]),
    ];
    // A real one, where the machine has it.
    let linker = std::fs::read("/usr/arm-linux-gnueabihf/lib/ld-linux-armhf.so.3").unwrap_or_default();
    if linker.len() > HEADER_BYTES {
        all.push(linker[..linker.len().min(LONGEST)].to_vec());
    }
    all
}

/// All that happens to a file before the first instruction; what is wrong with it, if something is.
fn load(file: &File, memory: &Arc<Memory>) -> std::result::Result<(), String> {
    let header = match header(file) {
        Ok(header) => header,
        Err(Refusal::NotElf | Refusal::WrongMachine) => return Err("not ours".into()),
        Err(Refusal::Bad(e)) => return Err(e.to_string()),
    };
    memory.set_read_implies_exec(header.executable_stack());
    let program = header.load(file, memory, true).map_err(|e| e.to_string())?;
    memory.set_brk_start(page_up(program.end as u64) as u32);
    let mut symbols = Symbols::default();
    symbols.add(file, program.bias);
    symbols.at(program.entry as u64);
    let name = c"damaged".to_owned();
    let args = [name.clone()];
    let contents = Contents {
        args: &args,
        env: &[],
        exec_name: &name,
        program,
        interpreter_base: 0,
        hwcap: 0,
        hwcap2: 0,
        platform: "v7l",
        random: [0; 16],
        executable: header.executable_stack(),
        size: 64 << 10,
    };
    stack::build(memory, &contents).map_err(|e| e.to_string())?;
    for (start, area) in memory.areas() {
        assert!(area.end <= TASK_SIZE && area.end > start as u64, "{start:#x} to {:#x}", area.end);
        // Its pages may lie beyond the end of the file.
        let _ = (memory.read::<u8>(start), memory.read::<u8>((area.end - 1) as u32));
    }
    let _ = memory.read::<u32>(program.entry);
    Ok(())
}

#[test]
fn damaged_images_are_loaded_or_refused() {
    let number = |name: &str| std::env::var(name).ok().and_then(|t| t.parse::<u64>().ok());
    let (count, seed) = (number("RHEA_DAMAGED").unwrap_or(COUNT), number("RHEA_SEED").unwrap_or(20_261_123));
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        set_disposition(signal, Disposition::Record, 0).unwrap();
    }
    let patterns = patterns();
    let memory = Memory::new(Space::new_32bit().unwrap());
    let (mut loaded, mut refused) = (0u64, 0u64);
    for case in 0..count {
        let mut random = Random::new(seed, case);
        let mut bytes = patterns[random.below(patterns.len())].clone();
        damage(&mut bytes, &mut random);
        let mut file = tests::file_of(&bytes);
        file.flush().unwrap();
        let begun = Instant::now();
        match load(&file, &memory) {
            Ok(()) => loaded += 1,
            Err(sentence) => {
                refused += 1;
                assert!(!sentence.is_empty() && !sentence.contains('\n'), "case {case} of seed {seed}: {sentence:?}");
            }
        }
        assert!(begun.elapsed() < PATIENCE, "case {case} of seed {seed} took {:?}", begun.elapsed());
        memory.munmap(0, TASK_SIZE as u32).unwrap();
        assert!(memory.areas().is_empty(), "case {case} of seed {seed} left a mapping");
    }
    println!("{count} images: {loaded} loaded, {refused} refused");
    assert!(loaded > count / 20 && refused > count / 20, "{loaded} loaded, {refused} refused");
}
