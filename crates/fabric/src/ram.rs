//! Guest memory.
//!
//! Invariants:
//! 1. `base..base + len` stays mapped, readable and writable until the `Ram` is dropped.
//! 2. Guests, devices and translated code access the memory at the same time, so no reference into it is ever made:
//!    every access here is atomic, volatile, or one string instruction the compiler does not see into.
//! 3. Every access is checked against `len` before a pointer is formed.
#![allow(unsafe_code)]

use spec::{Error, Result};
use std::fs::File;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Size of the pages for which [`Ram::has_code`] keeps a bit.
pub const PAGE_BYTES: u64 = 4096;
/// From this length on copies are made by the string instructions.
const LONG_COPY: usize = 64;

/// A block of guest memory, zero at first.
pub struct Ram {
    memory: host::map::Reservation,
    len: u64,
    /// Bit `p % 64` of word `p / 64`: page `p` holds translated code. The executor keeps the bits; writers that are not translated
    /// code ask them.
    code: Box<[AtomicU64]>,
    /// Others can map it to see the memory.
    file: Option<File>,
}

// SAFETY: invariant 1.
unsafe impl host::map::Mapped for Ram {
    fn base(&self) -> *mut u8 {
        self.memory.base()
    }
    fn len(&self) -> usize {
        self.len as usize
    }
}

macro_rules! loads_and_stores {
    ($($load:ident $store:ident $int:ty, $atomic:ty;)*) => {$(
        /// Little-endian; atomic if aligned. Nothing later is done before it (acquire). The range must exist.
        pub fn $load(&self, offset: u64) -> $int {
            let at = self.at(offset, size_of::<$int>() as u64);
            if !offset.is_multiple_of(size_of::<$int>() as u64) {
                let mut bytes = [0; size_of::<$int>()];
                self.read(offset, &mut bytes);
                return <$int>::from_le_bytes(bytes);
            }
            // SAFETY: `at` checked the range (invariants 1, 3) and the offset is aligned, as the base is.
            <$int>::from_le(unsafe { <$atomic>::from_ptr(at.cast()) }.load(Ordering::Acquire))
        }

        /// Little-endian; atomic if aligned. Everything earlier is done before it (release). The range must exist.
        pub fn $store(&self, offset: u64, value: $int) {
            let at = self.at(offset, size_of::<$int>() as u64);
            if !offset.is_multiple_of(size_of::<$int>() as u64) {
                return self.write(offset, &value.to_le_bytes());
            }
            // SAFETY: as above.
            unsafe { <$atomic>::from_ptr(at.cast()) }.store(value.to_le(), Ordering::Release);
        }
    )*};
}

impl Ram {
    /// `len` bytes, rounded up to whole pages. The host gives memory when it is first written.
    pub fn new(len: u64) -> Result<Ram> {
        let len = len.next_multiple_of(PAGE_BYTES);
        let fail = |e: &dyn std::fmt::Display| Error::new(format!("cannot set up guest memory of {len} bytes: {e}"));
        let bytes = usize::try_from(len).map_err(|e| fail(&e))?;
        let memory = host::map::Reservation::new(bytes).map_err(|e| fail(&e))?;
        memory.protect(0, bytes, libc::PROT_READ | libc::PROT_WRITE).map_err(|e| fail(&e))?;
        Ok(Ram::over(memory, len, None))
    }

    /// Memory that is a file of this length, rounded up to whole pages. `shared`: other programs that have the file see
    /// what the guest writes, and the guest what they write.
    pub fn of_file(file: File, len: u64, shared: bool) -> Result<Ram> {
        let len = len.next_multiple_of(PAGE_BYTES);
        let fail = |e: &dyn std::fmt::Display| Error::new(format!("cannot set up guest memory of {len} bytes: {e}"));
        if file.metadata().map_err(|e| fail(&e))?.len() < len {
            return Err(fail(&"the file is shorter"));
        }
        let bytes = usize::try_from(len).map_err(|e| fail(&e))?;
        let memory = host::map::Reservation::of_file(&file, bytes, shared).map_err(|e| fail(&e))?;
        Ok(Ram::over(memory, len, shared.then_some(file)))
    }

    fn over(memory: host::map::Reservation, len: u64, file: Option<File>) -> Ram {
        let words = (len / PAGE_BYTES).div_ceil(64);
        Ram { memory, len, code: (0..words).map(|_| AtomicU64::new(0)).collect(), file }
    }

    /// The file through which other programs can see this memory; its beginning is ours.
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Where the memory lies in this process, for translated code.
    pub fn host(&self) -> *mut u8 {
        self.memory.base()
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `len` bytes from `offset` lie in the memory.
    pub fn contains(&self, offset: u64, len: u64) -> bool {
        offset <= self.len && len <= self.len - offset
    }

    fn at(&self, offset: u64, len: u64) -> *mut u8 {
        assert!(self.contains(offset, len), "RAM access at {offset:#x} of {len} bytes, beyond {:#x}", self.len);
        // SAFETY: the offset was just checked (invariant 3).
        unsafe { self.memory.base().add(offset as usize) }
    }

    loads_and_stores! {
        load_u8 store_u8 u8, AtomicU8;
        load_u16 store_u16 u16, AtomicU16;
        load_u32 store_u32 u32, AtomicU32;
        load_u64 store_u64 u64, AtomicU64;
    }

    /// A value of 1 to 8 bytes, little-endian.
    pub fn load(&self, offset: u64, size: u8) -> u64 {
        match size {
            1 => self.load_u8(offset).into(),
            2 => self.load_u16(offset).into(),
            4 => self.load_u32(offset).into(),
            8 => self.load_u64(offset),
            _ => {
                let mut bytes = [0; 8];
                self.read(offset, &mut bytes[..usize::from(size)]);
                u64::from_le_bytes(bytes)
            }
        }
    }

    /// A value of 1 to 8 bytes, little-endian.
    pub fn store(&self, offset: u64, size: u8, value: u64) {
        match size {
            1 => self.store_u8(offset, value as u8),
            2 => self.store_u16(offset, value as u16),
            4 => self.store_u32(offset, value as u32),
            8 => self.store_u64(offset, value),
            _ => self.write(offset, &value.to_le_bytes()[..usize::from(size)]),
        }
    }

    /// Atomically replaces `old` by `new` if that is there; gives what was there. `size` is 1, 2, 4 or 8, the offset
    /// aligned to it.
    pub fn compare_exchange(&self, offset: u64, size: u8, old: u64, new: u64) -> u64 {
        let at = self.at(offset, size.into());
        assert!(offset.is_multiple_of(size.into()), "compare_exchange at {offset:#x} of {size} bytes is not aligned");
        let order = (Ordering::SeqCst, Ordering::SeqCst);
        macro_rules! exchange {
            ($int:ty, $atomic:ty) => {{
                // SAFETY: `at` checked the range, and the offset is aligned.
                let cell = unsafe { <$atomic>::from_ptr(at.cast()) };
                let done = cell.compare_exchange((old as $int).to_le(), (new as $int).to_le(), order.0, order.1);
                <$int>::from_le(done.unwrap_or_else(|found| found)).into()
            }};
        }
        match size {
            1 => exchange!(u8, AtomicU8),
            2 => exchange!(u16, AtomicU16),
            4 => exchange!(u32, AtomicU32),
            8 => exchange!(u64, AtomicU64),
            _ => panic!("compare_exchange of {size} bytes"),
        }
    }

    /// Copies out of the memory. The range must exist.
    pub fn read(&self, offset: u64, to: &mut [u8]) {
        let from = self.at(offset, to.len() as u64);
        // SAFETY: `at` checked the guest side; the slice is ours, and does not overlap it (invariant 2).
        unsafe { copy(from, to.as_mut_ptr(), to.len()) }
    }

    /// Copies into the memory. The range must exist.
    pub fn write(&self, offset: u64, from: &[u8]) {
        let to = self.at(offset, from.len() as u64);
        // SAFETY: as in `read`.
        unsafe { copy(from.as_ptr(), to, from.len()) }
    }

    /// Sets a range to one value. The range must exist.
    pub fn fill(&self, offset: u64, len: u64, value: u8) {
        let to = self.at(offset, len);
        // SAFETY: `at` checked the range; the instruction writes exactly `len` bytes.
        unsafe {
            std::arch::asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") value,
                options(nostack, preserves_flags));
        }
    }

    /// Whether a page of this range holds translated code.
    pub fn has_code(&self, offset: u64, len: u64) -> bool {
        if len == 0 || !self.contains(offset, len) {
            return false;
        }
        let pages = offset / PAGE_BYTES..=(offset + len - 1) / PAGE_BYTES;
        pages.into_iter().any(|p| self.code[(p / 64) as usize].load(Ordering::SeqCst) >> (p % 64) & 1 != 0)
    }

    /// Marks the page of `offset` as one that holds translated code, or no longer. Gives the mark it had.
    pub fn set_code(&self, offset: u64, holds: bool) -> bool {
        let page = offset / PAGE_BYTES;
        let (word, bit) = (&self.code[(page / 64) as usize], 1 << (page % 64));
        let old = if holds { word.fetch_or(bit, Ordering::SeqCst) } else { word.fetch_and(!bit, Ordering::SeqCst) };
        old & bit != 0
    }
}

/// Copies memory that others may be changing.
///
/// # Safety
/// Both ranges must be mapped for their use, and must not overlap.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    if len >= LONG_COPY {
        // SAFETY: the caller's promise.
        unsafe {
            std::arch::asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
                options(nostack, preserves_flags));
        }
        return;
    }
    let mut done = 0;
    while done < len {
        // SAFETY: `done < len`; a word is moved only if all of it lies in the range and both sides are aligned.
        unsafe {
            let (f, t) = (from.add(done), to.add(done));
            if len - done >= 8 && f.addr().is_multiple_of(8) && t.addr().is_multiple_of(8) {
                t.cast::<u64>().write_volatile(f.cast::<u64>().read_volatile());
                done += 8;
            } else {
                t.write_volatile(f.read_volatile());
                done += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_every_length_and_alignment_arrive() {
        let ram = Ram::new(8192).unwrap();
        let bytes: Vec<u8> = (0..300u32).map(|i| (i * 7 + 1) as u8).collect();
        for len in [0, 1, 7, 8, 9, 63, 64, 65, 300] {
            for offset in [0, 1, 5, 8, 4090] {
                ram.fill(0, 8192, 0xee);
                ram.write(offset, &bytes[..len]);
                let mut back = vec![0; len + 1];
                ram.read(offset, &mut back);
                assert_eq!(back[..len], bytes[..len]);
                assert_eq!(back[len], 0xee);
                assert!(offset == 0 || ram.load_u8(offset - 1) == 0xee);
            }
        }
    }

    #[test]
    fn values_are_little_endian_at_any_alignment() {
        let ram = Ram::new(1).unwrap();
        assert_eq!(ram.len(), 4096);
        for offset in 0..9 {
            ram.store(offset, 8, 0x8877_6655_4433_2211);
            assert_eq!(ram.load(offset + 1, 2), 0x3322);
            assert_eq!(ram.load(offset, 3), 0x33_2211);
            assert_eq!(ram.load_u32(offset + 4), 0x8877_6655);
        }
    }

    #[test]
    fn memory_in_a_file_is_seen_by_others() {
        use std::os::unix::fs::FileExt;
        let file = host::map::memory_file(8192, true).unwrap();
        assert!(file.set_len(4096).is_err(), "sealed");
        assert!(Ram::of_file(file.try_clone().unwrap(), 8193, true).is_err(), "longer than the file");
        let ram = Ram::of_file(file, 8192, true).unwrap();
        ram.store_u32(4096, 0x1234_5678);
        let (file, mut bytes) = (ram.file().unwrap(), [0; 4]);
        file.read_exact_at(&mut bytes, 4096).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 0x1234_5678);
        file.write_all_at(&[1, 2, 3, 4], 8).unwrap();
        assert_eq!(ram.load_u32(8), 0x0403_0201);
        let private = Ram::of_file(file.try_clone().unwrap(), 8192, false).unwrap();
        private.store_u32(0, 7);
        assert!(private.file().is_none() && ram.load_u32(0) == 0);
    }

    #[test]
    fn exchanges_only_what_is_expected() {
        let ram = Ram::new(4096).unwrap();
        ram.store_u32(8, 5);
        assert_eq!(ram.compare_exchange(8, 4, 4, 9), 5);
        assert_eq!(ram.load_u32(8), 5);
        assert_eq!(ram.compare_exchange(8, 4, 5, 9), 5);
        assert_eq!(ram.load_u64(8), 9);
    }

    #[test]
    fn code_pages_are_found_by_range() {
        let ram = Ram::new(PAGE_BYTES * 130).unwrap();
        assert!(!ram.set_code(PAGE_BYTES * 129 + 17, true));
        assert!(ram.has_code(PAGE_BYTES * 128 + 4095, 2));
        assert!(!ram.has_code(PAGE_BYTES * 128, 4096));
        assert!(ram.set_code(PAGE_BYTES * 129, false));
        assert!(!ram.has_code(0, PAGE_BYTES * 130));
    }

    #[test]
    #[should_panic(expected = "beyond")]
    fn ranges_beyond_the_end_are_refused() {
        Ram::new(4096).unwrap().load_u32(4093);
    }
}
