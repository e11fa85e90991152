//! A card whose rings another process or the host's kernel serves.
//!
//! Reference: VIRTIO 1.2, 5.1; the vhost-user protocol; Linux `vhost.h`. The control queue stays with us.
//! Not modelled: the guest's code in pages that the other side writes is not noticed as changed; Linux runs no code
//! from buffers of a network card.
//!
//! Invariant: the other side has the rings only between the driver's start and its reset.

use net::Backend;
use net::vhost::{RINGS, Region, Ring, Vhost};

use super::{Net, feature};
use crate::virtio::device::{self, Core};

/// Feature: a driver wants an interrupt when a ring runs empty.
const NOTIFY_ON_EMPTY: u64 = 1 << 24;

/// What whoever serves the rings has to know about; the rest is ours.
const THEIRS: u64 = NOTIFY_ON_EMPTY
    | device::feature::ANY_LAYOUT
    | device::feature::INDIRECT_DESC
    | device::feature::EVENT_IDX
    | device::feature::VERSION_1
    | feature::CSUM
    | feature::OFFLOADS
    | feature::HOST_TSO4
    | feature::HOST_TSO6
    | feature::MRG_RXBUF
    | feature::MTU;

/// The rings of a card, as seen by who does not serve them.
pub struct Rings {
    features: u64,
    /// What is next in each when it is handed over.
    next: [u16; RINGS],
}

impl Rings {
    /// `None`: the back end wants frames.
    pub fn of(backend: &mut dyn Backend) -> Option<Rings> {
        let mut rings = None;
        backend.vhost(&mut |v| rings = Some(Rings { features: v.features(), next: [0; RINGS] }));
        rings
    }

    /// A driver that changes offloads while it runs would have to tell the other process.
    pub fn permitted(&self) -> u64 {
        (self.features | !THEIRS) & !feature::CTRL_GUEST_OFFLOADS
    }

    /// As after a reset of the device.
    pub fn forget(&mut self) {
        self.next = [0; RINGS];
    }
}

impl Net {
    /// Does something with the other process, if there is one.
    fn vhost(&mut self, mut work: impl FnMut(&mut dyn Vhost)) {
        if let Some(backend) = self.backend.as_mut().filter(|_| self.vhost.is_some()) {
            backend.vhost(&mut |v| work(v));
        }
    }

    /// Has the other process serve the rings, if the driver is ready and the cable plugged in.
    pub(super) fn hand_over(&mut self, core: &mut Core) {
        let Some(vhost) = &self.vhost else { return };
        if !self.link_up || !core.is_running() {
            return;
        }
        let regions = core.memory.regions().map(|(guest, len, ram, offset)| {
            let file = ram.file().map(|file| file.try_clone()).transpose()?;
            Ok(Region { guest, len, memory: ram.clone(), offset, file })
        });
        let regions: Vec<Region> = match regions.collect::<std::io::Result<_>>() {
            Ok(regions) => regions,
            Err(error) => return log::error!("vhost: the guest's memory cannot be shared: {error}"),
        };
        let ring = |index: usize| {
            let q = &core.queues[index];
            Ring { size: q.size, descriptors: q.desc, available: q.driver, used: q.device, next: vhost.next[index] }
        };
        let (features, rings) = (core.accepted() & THEIRS, [ring(0), ring(1)]);
        let (mut alive, mut failure) = (true, None);
        self.vhost(|v| (failure, alive) = (v.start(features, &regions, &rings).err(), v.is_alive()));
        match failure {
            // The frames go through us, as they do without the service.
            Some(error) if alive => {
                log::warn!("unable to start vhost net: {error}: falling back on userspace virtio");
                self.vhost = None;
            }
            Some(error) => log::error!("{error}"),
            None => {}
        }
        self.check(core, alive);
    }

    /// Takes the rings back.
    pub(super) fn take_back(&mut self) {
        let mut next = [0; RINGS];
        self.vhost(|v| next = v.stop());
        if let Some(rings) = &mut self.vhost {
            rings.next = next;
        }
    }

    /// The driver has put something into a ring.
    pub(super) fn pass_on(&mut self, queue: usize) {
        self.vhost(|v| v.kick(queue));
    }

    /// Interrupts the driver for what the other process did.
    pub(super) fn answer(&mut self, core: &mut Core) {
        let (mut called, mut alive) = (0, true);
        self.vhost(|v| (called, alive) = (v.called(), v.is_alive()));
        if core.is_running() {
            (0..RINGS).filter(|ring| called >> ring & 1 != 0).for_each(|ring| core.call(ring));
        }
        self.check(core, alive);
    }

    /// Without the other process the cable is unplugged.
    fn check(&mut self, core: &mut Core, alive: bool) {
        if !alive && self.link_up {
            self.link_up = false;
            core.config_changed();
        }
    }
}
