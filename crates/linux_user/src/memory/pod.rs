//! Plain data of the guest's ABI.

/// A plain-data structure of the guest's ABI: any bytes are a value, and there is no implicit padding.
///
/// # Safety
/// Implement through `abi_struct!` only, which checks this.
pub unsafe trait Pod: Copy {}

// SAFETY: integers have no padding and no invalid values.
unsafe impl Pod for u8 {}
// SAFETY: as above.
unsafe impl Pod for u16 {}
// SAFETY: as above.
unsafe impl Pod for u32 {}
// SAFETY: as above.
unsafe impl Pod for i32 {}
// SAFETY: as above.
unsafe impl Pod for u64 {}
// SAFETY: as above.
unsafe impl Pod for i64 {}
// SAFETY: an array of plain data is plain data.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// Declares structures of the guest's ABI with their size in bytes; padding must be written out as fields.
macro_rules! abi_struct {
    ($($(#[$m:meta])* $name:ident $size:literal { $($field:ident: $t:ty,)* })*) => {$(
        $(#[$m])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name { $(pub $field: $t,)* }
        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!($(size_of::<$t>() +)* 0 == $size, "implicit padding");
        };
        // SAFETY: all fields are plain data, and the assertion above excludes padding.
        unsafe impl $crate::memory::Pod for $name {}
        impl $name {
            pub fn zeroed() -> Self {
                // SAFETY: plain data: all-zero bytes are a value.
                unsafe { std::mem::zeroed() }
            }

            /// From its first bytes; the others are zero.
            pub fn from_prefix(bytes: &[u8]) -> Self {
                let mut new = Self::zeroed();
                // SAFETY: plain data: its bytes may be written, and any bytes are a value.
                let own = unsafe { std::slice::from_raw_parts_mut((&raw mut new).cast::<u8>(), $size) };
                let known = bytes.len().min($size);
                own[..known].copy_from_slice(&bytes[..known]);
                new
            }

            pub fn bytes(&self) -> &[u8] {
                // SAFETY: plain data without padding: its bytes may be read.
                unsafe { std::slice::from_raw_parts((&raw const *self).cast::<u8>(), $size) }
            }
        }
    )*};
}
pub(crate) use abi_struct;
