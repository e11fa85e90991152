//! Serial ports.

pub mod pl011;

/// The far end of a serial port's wires. Called with the device's lock held, so it neither waits nor calls back.
pub trait Terminal: Send {
    /// Sends bytes; says how many were taken. After fewer than all, the device is told when to try again.
    fn write(&self, bytes: &[u8]) -> usize;
    /// The device can take more input, after it took less than was offered.
    fn more_room(&self);
    fn send_break(&self);
}

impl Terminal for console::Port {
    fn write(&self, bytes: &[u8]) -> usize {
        console::Port::write(self, bytes)
    }

    fn more_room(&self) {
        console::Port::more_room(self);
    }

    fn send_break(&self) {
        console::Port::send_break(self);
    }
}

/// No far end: everything is taken and lost.
pub struct Nobody;

impl Terminal for Nobody {
    fn write(&self, bytes: &[u8]) -> usize {
        bytes.len()
    }

    fn more_room(&self) {}

    fn send_break(&self) {}
}
