//! Network cards of real makers. (The virtio card is in `virtio::net`.)
//!
//! | module | what |
//! |---|---|
//! | [`card`] | what all have in common: PCI function, cable, the thread that moves frames |
//! | [`thread`] | that thread |
//! | [`assembly`] | a frame whose pieces lie in several places |
//! | [`offload`] | segmentation for cables that leave it to the card |
//! | [`eeprom`] | the serial memory with a card's address |
//! | [`e1000`] | Intel 82540EM and 82574L |
//! | [`rtl8139`] | Realtek RTL8139C+ |
//! | [`ne2k`] | an NE2000 on PCI (RTL8029AS) |
//! | [`pcnet`] | AMD PCnet-PCI II |
//!
//! **Invariants**: a descriptor that makes no sense is dropped and reported, never followed; one slice of work looks at a
//! bounded number of descriptors with the card's lock held.

pub mod assembly;
pub mod card;
pub mod e1000;
pub mod eeprom;
pub mod ne2k;
pub mod offload;
pub mod pcnet;
pub mod rtl8139;
#[cfg(test)]
pub(crate) mod testing;
pub mod thread;
