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
        }
    )*};
}
pub(crate) use abi_struct;
