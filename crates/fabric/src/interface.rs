//! System registers of an interrupt controller that are accessed like CPU registers (GICv3's ICC_*).

/// Implemented by the controller for one CPU. `register` is the encoding the front end defines.
pub trait CpuInterface: Send + Sync {
    /// `None` if there is no such register.
    fn read(&self, register: u32) -> Option<u64>;
    /// Whether the register exists and is writable.
    fn write(&self, register: u32, value: u64) -> bool;
}
