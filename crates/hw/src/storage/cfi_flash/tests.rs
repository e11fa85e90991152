//! Flash as a guest programs it, and what of that reaches the file behind it.

use super::*;
use crate::testing::torture;
use disk::file::{FileFlags, FileNode};
use disk::lock::Rights;

const LEN: u64 = 64 << 20;
const BASE: u64 = 0x400_0000;

fn bank(node: Option<NodeRef>) -> (Arc<AddressSpace>, Arc<Mmio<CfiFlash>>) {
    let space = AddressSpace::new();
    let flash = CfiFlash::install(&space, "virt.flash1", BASE, LEN, node).unwrap();
    (space, flash)
}

fn read(space: &AddressSpace, offset: u64) -> u64 {
    space.read(BASE + offset, 4).unwrap()
}

fn write(space: &AddressSpace, offset: u64, value: u64) {
    assert!(space.write(BASE + offset, 4, value));
}

#[test]
fn the_query_table_is_that_of_the_reference_machine() {
    let (space, _) = bank(None);
    write(&space, 0, 0x98_0098);
    let mut table = [0; 0x60];
    table[0x10..0x16].copy_from_slice(&[0x51, 0x52, 0x59, 1, 0, 0x31]);
    table[0x1b..0x20].copy_from_slice(&[0x45, 0x55, 0, 0, 7]);
    table[0x20..0x28].copy_from_slice(&[7, 0xa, 0, 4, 4, 4, 0, 0x19]);
    table[0x28..0x36].copy_from_slice(&[2, 0, 0xb, 0, 1, 0xff, 0, 0, 2, 0x50, 0x52, 0x49, 0x31, 0x30]);
    table[0x3f] = 1;
    for (i, byte) in table.into_iter().enumerate() {
        assert_eq!(read(&space, i as u64 * 4), byte * 0x1_0001, "{i:#x}");
    }
    assert_eq!(space.read(BASE + 0x43, 1), Some(0x51));
    assert_eq!(space.read(BASE + 0x44, 2), Some(0x52));
    assert_eq!(space.read(BASE + 0x40, 8), Some(0x52_0052_0051_0051));
    write(&space, 0, 0xff_00ff);
    write(&space, 0, 0x90_0090);
    assert_eq!([0, 4, 8, 0x400].map(|o| read(&space, o)), [0x89_0089, 0x18_0018, 0, 0x89_0089]);
    write(&space, 0, 0xff_00ff);
    assert_eq!(read(&space, 0x40), 0);
}

#[test]
fn array_mode_is_memory_and_command_mode_is_not() {
    let (space, _) = bank(None);
    assert!(space.view().ram(BASE, 4).is_some());
    write(&space, 0, 0x70_0070);
    assert!(space.view().ram(BASE, 4).is_none());
    assert_eq!([4, 2, 1].map(|size| space.read(BASE, size)), [Some(0x80_0080), Some(0x80), Some(0x80)]);
    write(&space, 0, 0xff_00ff);
    assert!(space.view().ram(BASE, 4).is_some());
}

#[test]
fn words_are_programmed_and_sectors_erased() {
    let (space, _) = bank(None);
    write(&space, 8, 0x40_0040);
    write(&space, 8, 0x1234_5678);
    assert_eq!(read(&space, 8), 0x80_0080);
    write(&space, 0, 0xff_00ff);
    assert_eq!(read(&space, 8), 0x1234_5678);
    write(&space, 4, 0x20_0020);
    write(&space, 4, 0xd0_00d0);
    assert_eq!(read(&space, 0), 0x80_0080);
    write(&space, 0, 0xff_00ff);
    assert_eq!([8, 0x3_fffc, 0x4_0000].map(|o| read(&space, o)), [0xffff_ffff, 0xffff_ffff, 0]);
    write(&space, 0, 0x20_0020);
    write(&space, 0, 0x12_0012);
    assert_eq!(read(&space, 0x4_0000), 0, "back in array mode, nothing erased");
    write(&space, 0, 0x60_0060);
    write(&space, 0, 0xd0_00d0);
    assert_eq!(read(&space, 0), 0x80_0080);
    write(&space, 0, 0x50_0050);
    assert_eq!(read(&space, 0), 0xffff_ffff);
}

#[test]
fn the_buffer_is_programmed_when_confirmed() {
    let (space, _) = bank(None);
    let buffered = |confirm: u64| {
        write(&space, 0x100, 0xe8_00e8);
        assert_eq!(read(&space, 0x100), 0x80_0080);
        write(&space, 0x100, 0x3_0003);
        for i in 0..4 {
            write(&space, 0x100 + i * 4, 0xaabb_0000 + i);
        }
        write(&space, 0x100, confirm);
    };
    buffered(0xff_00ff);
    assert_eq!(read(&space, 0x104), 0, "given up");
    buffered(0xd0_00d0);
    assert_eq!(read(&space, 0x104), 0x80_0080);
    write(&space, 0, 0xff_00ff);
    assert_eq!((read(&space, 0x10c), read(&space, 0x110)), (0xaabb_0003, 0));
    write(&space, 0x100, 0xe8_00e8);
    write(&space, 0x100, 0xffff_ffff);
    assert_eq!(read(&space, 0), 0x90_0090, "longer than the buffer");
}

#[test]
fn changes_reach_the_file_and_survive() {
    let path = std::env::temp_dir().join(format!("flash-{}.img", std::process::id()));
    let name = path.to_str().unwrap();
    std::fs::write(&path, vec![0x11; LEN as usize]).unwrap();
    let open = |writable: bool| {
        let (used, denied) = (Rights::NONE, Rights::NONE);
        let flags = FileFlags { write: writable, direct: false, no_flush: true, unmap: false, aio: Default::default(), locking: false, used, denied };
        Arc::new(FileNode::open(name, flags).unwrap()) as NodeRef
    };
    let (space, flash) = bank(Some(open(true)));
    assert_eq!(read(&space, LEN - 4), 0x1111_1111);
    write(&space, 0x40_0000, 0x10_0010);
    write(&space, 0x40_0000, 0x0403_0201);
    write(&space, 0x10, 0x20_0020);
    write(&space, 0x10, 0xd0_00d0);
    let file = std::fs::read(&path).unwrap();
    assert_eq!(file[0x3f_fffc..0x40_0008], [0x11, 0x11, 0x11, 0x11, 1, 2, 3, 4, 0x11, 0x11, 0x11, 0x11]);
    assert!(file[..0x4_0000].iter().all(|&b| b == 0xff) && file[0x4_0000] == 0x11);
    flash.lock().place = None;
    drop((space, flash));

    let (space, _) = bank(Some(open(false)));
    write(&space, 0, 0x10_0010);
    write(&space, 0, 0);
    assert_eq!(read(&space, 0), 0x90_0090, "read-only: a program error");
    write(&space, 0, 0x20_0020);
    assert_eq!(read(&space, 0), 0x90_0090);
    write(&space, 0, 0xd0_00d0);
    assert_eq!(read(&space, 0), 0xb0_00b0);
    write(&space, 0, 0x50_0050);
    assert_eq!(read(&space, 0), 0xffff_ffff);

    let short = CfiFlash::install(&AddressSpace::new(), "x", 0, LEN / 2, Some(open(false)));
    let error = short.err().unwrap().to_string();
    assert_eq!(error, "device requires 33554432 bytes, block backend provides 67108864 bytes");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn programming_tells_about_code() {
    let (space, flash) = bank(None);
    let told: Arc<std::sync::Mutex<Vec<(u64, u64)>>> = Arc::default();
    let t = told.clone();
    space.on_write(move |phys, len| t.lock().unwrap().push((phys, len)));
    flash.lock().ram().set_code(0x1000, true);
    write(&space, 0x1004, 0x40_0040);
    write(&space, 0x1004, 1);
    assert_eq!(*told.lock().unwrap(), [(BASE + 0x1004, 4)]);
}

#[test]
fn random_accesses_never_panic_and_reset_is_fresh() {
    let (space, flash) = bank(None);
    torture(&*flash, SECTOR_BYTES, 51, |_| {});
    // Erasing takes the longest, so the commands are chosen here.
    let mut random = crate::testing::Random::new(52);
    for _ in 0..20_000 {
        let command = [0x10, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xe8, 0xd0, 0xff, 0x03][random.below(11) as usize];
        flash.write(random.below(LEN + 8), 1 << random.below(4), command);
        flash.read(random.below(LEN + 8), 1 << random.below(4));
    }
    flash.reset();
    let bank = flash.lock();
    assert_eq!((bank.mode, bank.status, bank.buffer.len()), (Mode::Array, status::READY, 0));
    assert!(space.view().ram(BASE, 4).is_some());
}
