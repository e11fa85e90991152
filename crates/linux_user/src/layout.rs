//! The memory map as `-d page` prints it, in QEMU's layout: when the program has been loaded, and whenever it maps something.

use crate::elf::Image;
use crate::log;
use crate::memory::{HELPER_PAGE, Memory, PAGE};
use crate::stack::Layout;
use jit::PageFlags;
use std::fmt::Write;

/// Start, end, flags of what can be told apart by its protection.
fn runs(memory: &Memory) -> Vec<(u64, u64, [char; 3])> {
    let letters = |f: PageFlags| {
        [(PageFlags::READ, 'r'), (PageFlags::WRITE, 'w'), (PageFlags::EXEC, 'x')]
            .map(|(flag, c)| if f.has(flag) { c } else { '-' })
    };
    let mut out: Vec<(u64, u64, [char; 3])> = Vec::new();
    for (start, area) in memory.areas() {
        match out.last_mut() {
            Some((_, end, prot)) if *end == start as u64 && *prot == letters(area.flags) => *end = area.end,
            _ => out.push((start as u64, area.end, letters(area.flags))),
        }
    }
    out.push((HELPER_PAGE as u64, HELPER_PAGE as u64 + PAGE as u64, ['r', '-', 'x']));
    out
}

fn table(memory: &Memory, after: &str) -> String {
    let mut out = format!("page layout changed following {after}\nstart    end      size     prot\n");
    for (start, end, [r, w, x]) in runs(memory) {
        let _ = writeln!(out, "{start:08x}-{end:08x} {:08x} {r}{w}{x}", end - start);
    }
    out
}

/// The guest has mapped something.
pub fn changed(memory: &Memory) {
    if log::on(log::PAGE) {
        log::write(&table(memory, "mmap"));
    }
}

/// The program and what it was given are in memory.
pub fn loaded(memory: &Memory, program: &Image, entry: u32, stack: &Layout, arguments: usize) {
    if !log::on(log::PAGE) {
        return;
    }
    let mut out = format!("guest_base  {:p}\n{}", memory.host(0), table(memory, "binary load"));
    let argv = stack.sp + 4;
    let rows = [
        ("end_code", program.code.1),
        ("start_code", program.code.0),
        ("start_data", program.data.0),
        ("end_data", program.data.1),
        ("start_stack", stack.sp),
        ("brk", memory.brk_range().0 as u32),
        ("entry", entry),
        ("argv_start", argv),
        ("env_start", argv + 4 * (arguments as u32 + 1)),
        ("auxv_start", stack.auxv_start),
    ];
    for (name, value) in rows {
        let _ = writeln!(out, "{name:<11} 0x{value:08x}");
    }
    log::write(&out);
}
