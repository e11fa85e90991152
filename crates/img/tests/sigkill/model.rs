//! What an image may hold after the program that wrote to it has died.

use super::common::Random;
use std::sync::atomic::{AtomicU32, Ordering};

/// The unit whose contents are known: a write that was under way may be there in part.
const BLOCK: u64 = 512;

#[derive(Clone)]
struct Block {
    /// Stamps that a reader could see now.
    now: Vec<u32>,
    /// Stamps that may be there after a death.
    after: Vec<u32>,
}

/// Each block is filled with one stamp (four bytes, repeated); zero is a block of zeroes.
pub struct Model {
    blocks: Vec<Block>,
    next: AtomicU32,
}

/// Blocks that one writer alone uses.
pub struct Part<'a> {
    blocks: &'a mut [Block],
    start: u64,
    next: &'a AtomicU32,
}

pub fn bytes_of(stamp: u32, len: usize) -> Vec<u8> {
    stamp.to_le_bytes().into_iter().cycle().take(len).collect()
}

impl Model {
    pub fn new(size: u64) -> Model {
        Model { blocks: vec![Block { now: vec![0], after: vec![0] }; (size / BLOCK) as usize], next: AtomicU32::new(0x0100_0000) }
    }

    pub fn stamp(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn fill(&mut self, offset: u64, len: u64, stamp: u32) {
        for b in &mut self.blocks[(offset / BLOCK) as usize..((offset + len) / BLOCK) as usize] {
            *b = Block { now: vec![stamp], after: vec![stamp] };
        }
    }

    /// The bytes of a disk whose state is known.
    pub fn contents(&self) -> Vec<u8> {
        self.blocks.iter().flat_map(|b| bytes_of(b.now[0], BLOCK as usize)).collect()
    }

    pub fn parts(&mut self, count: u64) -> Vec<Part<'_>> {
        let each = self.blocks.len().div_ceil(count as usize);
        let next = &self.next;
        self.blocks
            .chunks_mut(each)
            .enumerate()
            .map(|(i, blocks)| Part { blocks, start: (i * each) as u64 * BLOCK, next })
            .collect()
    }

    /// Takes what is there as the known state.
    pub fn become_known(&mut self, bytes: &[u8]) {
        for (block, there) in self.blocks.iter_mut().zip(bytes.chunks(BLOCK as usize)) {
            let stamp = u32::from_le_bytes([there[0], there[1], there[2], there[3]]);
            *block = Block { now: vec![stamp], after: vec![stamp] };
        }
    }

    /// Compares with what is there after a death, which is the known state from then on.
    pub fn settle(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() != self.blocks.len() * BLOCK as usize {
            return Err(format!("{} bytes", bytes.len()));
        }
        for (i, (block, there)) in self.blocks.iter_mut().zip(bytes.chunks(BLOCK as usize)).enumerate() {
            let stamp = u32::from_le_bytes([there[0], there[1], there[2], there[3]]);
            if there != bytes_of(stamp, there.len()) || !block.after.contains(&stamp) {
                return Err(format!("block {i} (byte {}): {stamp:#x}, expected one of {:x?}", i as u64 * BLOCK, block.after));
            }
            *block = Block { now: vec![stamp], after: vec![stamp] };
        }
        Ok(())
    }
}

impl Part<'_> {
    pub fn stamp(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A stamp of four equal bytes, as `qemu-io` writes it.
    pub fn byte_stamp(&self, random: &mut Random) -> u32 {
        u32::from_le_bytes([1 + random.below(254) as u8; 4])
    }

    /// A random place in this part, at most `most` blocks long.
    pub fn place(&self, random: &mut Random, most: u64) -> (u64, u64) {
        let blocks = self.blocks.len() as u64;
        let most = if random.below(4) == 0 { most } else { 8 };
        let len = 1 + random.below(most.min(blocks));
        let at = random.below(blocks - len + 1);
        (self.start + at * BLOCK, len * BLOCK)
    }

    fn range(&mut self, offset: u64, len: u64) -> &mut [Block] {
        let first = ((offset - self.start) / BLOCK) as usize;
        &mut self.blocks[first..first + (len / BLOCK) as usize]
    }

    /// A request is on its way: its data may be there.
    pub fn issue(&mut self, offset: u64, len: u64, stamp: u32) {
        self.range(offset, len).iter_mut().for_each(|b| b.after.push(stamp));
    }

    pub fn acknowledge(&mut self, offset: u64, len: u64, stamp: u32) {
        self.range(offset, len).iter_mut().for_each(|b| b.now = vec![stamp]);
    }

    /// Discarded blocks keep their contents or read as zeroes.
    pub fn discarded(&mut self, offset: u64, len: u64) {
        self.range(offset, len).iter_mut().for_each(|b| b.now.push(0));
    }

    /// Everything that was acknowledged stays.
    pub fn flushed(&mut self) {
        self.blocks.iter_mut().for_each(|b| b.after = b.now.clone());
    }
}
