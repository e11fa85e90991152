//! What a machine is given to start from, and what its guest tells its devices.

use board::boot::kernel::Kernel;
use board::boot::linux::{Files, plan};
use board::fdt::{Node, Tree};
use fabric::{AddressSpace, Ram, Region};
use hw::virtio::Memory;
use hw::virtio::ring::{self, Cursor, Queue};
use std::sync::Arc;

/// Where the board's memory is, and how much of it.
const BASE: u64 = 0x4000_0000;
const RAM_BYTES: u64 = 128 << 20;

/// A file for `-kernel`.
pub fn kernel(bytes: &[u8]) {
    // What is in a gzip file has to be found by other means: only its first bytes are needed, and most of the time goes there.
    if board::boot::gzip::is_gzip(bytes) {
        return;
    }
    if let Ok(kernel) = Kernel::parse(bytes.to_vec(), "k", BASE) {
        assert!(kernel.low() <= kernel.high());
    }
    let files = Files { kernel: Some(("k".into(), bytes.to_vec())), ..Files::default() };
    let _ = plan(Tree::new(Node::new("")), files, BASE, RAM_BYTES, false);
}

/// A file for `-dtb`: what is taken can be changed and written again.
pub fn device_tree(bytes: &[u8]) {
    let Ok(mut tree) = Tree::parse(bytes) else { return };
    let _ = (tree.names(), tree.describe(), tree.get_cell("/", "#address-cells"));
    let _ = tree.set_text("/chosen", "bootargs", "quiet");
    let _ = Tree::parse(&tree.blob()).expect("we read what we write");
    let files = Files { append: Some("quiet".into()), ..Files::default() };
    let _ = plan(tree, files, BASE, RAM_BYTES, true);
}

const RING_BYTES: u64 = 64 << 10;
const SIZE: u16 = 16;
/// Chains that are looked at; a guest can offer more only by notifying again.
const CHAINS: usize = 64;

/// Memory with a virtqueue of 16 at its beginning: descriptors at 0, what is available at 256, what is used at 512.
pub fn virtqueue(bytes: &[u8]) {
    let Some((&mode, bytes)) = bytes.split_first() else { return };
    let event_idx = mode & 1 != 0;
    let space = AddressSpace::new();
    let ram = Arc::new(Ram::new(RING_BYTES).expect("memory"));
    ram.write(0, &bytes[..bytes.len().min(RING_BYTES as usize)]);
    space.map(0, RING_BYTES, 0, Region::ram("ram", ram));
    let memory = Memory::new(space);
    let mut queue = Queue::new(SIZE);
    (queue.desc, queue.driver, queue.device, queue.ready) = (0, 256, 512, true);
    let mut buf = [0; 512];
    for _ in 0..CHAINS {
        let Ok(Some(chain)) = queue.pop(&memory, event_idx) else { return };
        let mut from = Cursor::new(chain.readable());
        while from.left() > 0 && from.left() < 1 << 16 {
            let len = from.left().min(buf.len() as u64) as usize;
            if from.read(&memory, &mut buf[..len]).is_err() {
                break;
            }
        }
        let mut to = Cursor::new(chain.writable());
        let len = ring::total(chain.writable()).min(buf.len() as u64) as usize;
        let _ = to.write(&memory, &buf[..len]);
        if queue.put(&memory, chain.head, len as u32, 0).is_err() || queue.publish(&memory, 1).is_err() {
            return;
        }
        let _ = queue.wants_interrupt(&memory, event_idx);
    }
}
