//! Message-signalled interrupts: a write that means an interrupt.

/// One message, as a device sends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msi {
    pub address: u64,
    pub data: u32,
    /// Who sends it: bus, device and function of a PCI device (what an ITS calls DeviceID).
    pub device: u32,
}

/// Where messages go: a message frame, an interrupt translation service, a local APIC.
pub trait MsiSink: Send + Sync {
    /// Called with the device's lock held; must not call back into the device.
    fn send(&self, message: Msi);
}
