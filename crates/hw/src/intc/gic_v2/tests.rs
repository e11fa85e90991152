//! The distributor and the CPU interfaces from both sides: registers as a guest reads them, wires as devices drive them.

use super::*;
use crate::testing::{Wires, torture};

struct Rig {
    gic: Arc<GicV2>,
    d: Arc<dyn MmioTarget>,
    c: Arc<dyn MmioTarget>,
    wires: Arc<Wires>,
}

/// A controller with 32 x 2 SPIs, everything enabled, priorities 0xa0; IRQ of CPU n is wire 2n, FIQ 2n + 1.
fn rig(cpus: usize) -> Rig {
    let gic = GicV2::new(cpus, 64);
    let wires = Wires::new();
    for cpu in 0..cpus {
        gic.connect(cpu, wires.line(cpu as u32 * 2), wires.line(cpu as u32 * 2 + 1));
    }
    let r = Rig { d: gic.distributor(), c: gic.cpu_interface(), gic, wires };
    r.d.write(0x000, 4, 1);
    for word in 0..3 {
        r.d.write(0x100 + word * 4, 4, 0xffff_ffff);
    }
    for irq in 0..96 {
        r.d.write(0x400 + irq, 1, 0xa0);
        r.d.write(0x800 + irq, 1, 1);
    }
    for cpu in (0..cpus).rev() {
        requester::set_cpu(cpu);
        r.d.write(0x100, 4, 0xffff_ffff);
        for irq in 0..32 {
            r.d.write(0x400 + irq, 1, 0xa0);
        }
        r.c.write(0x04, 4, 0xf0);
        r.c.write(0x00, 4, 1);
    }
    r
}

impl Rig {
    fn irq(&self, cpu: usize) -> bool {
        self.wires.level(cpu as u32 * 2)
    }
    fn fiq(&self, cpu: usize) -> bool {
        self.wires.level(cpu as u32 * 2 + 1)
    }
    fn ack(&self) -> u64 {
        self.c.read(0x0c, 4)
    }
    fn eoi(&self, irq: u64) {
        self.c.write(0x10, 4, irq);
    }
}

#[test]
fn registers_after_reset_are_those_of_the_reference_machine() {
    let gic = GicV2::new(1, 256);
    let (d, c) = (gic.distributor(), gic.cpu_interface());
    let distributor = [(0, 0), (4, 8), (8, 0x43b), (0x100, 0xffff), (0x180, 0xffff), (0xc00, 0xaaaa_aaaa), (0xc04, 0)];
    let ids = [(0xfd0, 4), (0xfe0, 0x90), (0xfe4, 0xb4), (0xfe8, 0x2b), (0xff0, 0xd), (0xff4, 0xf0), (0xff8, 5), (0xffc, 0xb1)];
    for (offset, value) in distributor.into_iter().chain(ids) {
        assert_eq!(d.read(offset, 4), value, "GICD {offset:#x}");
    }
    let interface = [(0, 0), (4, 0), (8, 0), (0xc, 0x3ff), (0x14, 0xff), (0x18, 0x3ff), (0x1c, 1), (0xd0, 0), (0xe0, 0), (0xfc, 0x2_043b)];
    for (offset, value) in interface {
        assert_eq!(c.read(offset, 4), value, "GICC {offset:#x}");
    }
    assert_eq!(GicV2::new(8, 256).distributor().read(4, 4), 0xe8);
}

#[test]
fn writable_bits_are_those_of_the_reference_machine() {
    let gic = GicV2::new(1, 256);
    let (d, c) = (gic.distributor(), gic.cpu_interface());
    let all = 0xffff_ffff;
    let check = |t: &Arc<dyn MmioTarget>, offset: u64, kept: u64| {
        t.write(offset, 4, all);
        assert_eq!(t.read(offset, 4), kept, "{offset:#x}");
    };
    for (offset, kept) in [(0, 3), (0x80, all), (0x100, all), (0x120, all), (0x124, 0), (0x200, 0xffff_0000), (0x300, all)] {
        check(&d, offset, kept);
    }
    for (offset, kept) in [(0x400, all), (0x800, 0), (0x820, 0), (0xc00, 0xaaaa_aaaa), (0xc04, 0xaaaa_aaaa)] {
        check(&d, offset, kept);
    }
    d.write(0x180, 4, all);
    assert_eq!(d.read(0x100, 4), 0xffff, "SGIs stay enabled");
    for (offset, kept) in [(0, 0x21f), (4, 0xff), (8, 7), (0x1c, 7), (0xd0, all), (0xe0, all)] {
        check(&c, offset, kept);
    }
}

#[test]
fn a_level_interrupt_follows_its_wire() {
    let r = rig(1);
    let line = r.gic.spi(1);
    line.set(true);
    assert!(r.irq(0));
    assert_eq!(r.d.read(0x204, 4), 2);
    assert_eq!(r.ack(), 33);
    assert!(!r.irq(0), "active interrupts are not signalled");
    assert_eq!((r.d.read(0x304, 4), r.c.read(0x14, 4)), (2, 0xa0));
    assert_eq!(r.ack(), 1023);
    r.eoi(33);
    assert!(r.irq(0), "still high");
    line.set(false);
    assert!(!r.irq(0));
    assert_eq!(r.d.read(0x204, 4), 0);
    assert_eq!(r.c.read(0x14, 4), 0xff);
}

#[test]
fn an_edge_is_remembered_and_may_come_again_while_active() {
    let r = rig(1);
    r.d.write(0xc08, 4, 2 << 6);
    let line = r.gic.spi(3);
    line.pulse();
    assert_eq!(r.ack(), 35);
    line.pulse();
    line.pulse();
    assert_eq!((r.d.read(0x204, 4), r.d.read(0x304, 4)), (8, 8));
    assert!(!r.irq(0));
    r.eoi(35);
    assert_eq!(r.ack(), 35);
    r.eoi(35);
    assert_eq!(r.ack(), 1023);
    line.pulse();
    r.d.write(0x284, 4, 8);
    assert!(!r.irq(0), "cleared by software");
}

#[test]
fn a_higher_priority_preempts_by_the_binary_point() {
    let r = rig(1);
    r.d.write(0x400 + 40, 1, 0x80);
    r.d.write(0x400 + 41, 1, 0x88);
    r.d.write(0x400 + 42, 1, 0x40);
    r.c.write(0x08, 4, 3);
    r.gic.spi(9).set(true);
    assert_eq!(r.ack(), 41);
    r.gic.spi(8).set(true);
    assert!(!r.irq(0), "0x80 and 0x88 are one group with binary point 3");
    assert_eq!(r.c.read(0x18, 4), 40, "yet it is the highest pending");
    r.gic.spi(10).set(true);
    assert!(r.irq(0));
    assert_eq!(r.ack(), 42);
    assert_eq!(r.c.read(0x14, 4), 0x40);
    assert_eq!(r.c.read(0xd4, 4), 1, "preemption level 32");
    r.gic.spi(10).set(false);
    r.eoi(42);
    assert_eq!(r.c.read(0x14, 4), 0x80);
    r.gic.spi(9).set(false);
    r.eoi(41);
    assert_eq!(r.ack(), 40);
}

#[test]
fn the_priority_mask_and_ties() {
    let r = rig(1);
    r.gic.spi(20).set(true);
    r.gic.spi(7).set(true);
    assert_eq!(r.c.read(0x18, 4), 39, "the lower number wins");
    r.c.write(0x04, 4, 0xa0);
    assert!(!r.irq(0));
    assert_eq!(r.ack(), 1023);
    r.c.write(0x04, 4, 0xa1);
    assert_eq!(r.ack(), 39);
}

#[test]
fn software_interrupts_carry_their_source() {
    let r = rig(4);
    requester::set_cpu(2);
    r.d.write(0xf00, 4, 0x0003_0005);
    requester::set_cpu(1);
    r.d.write(0xf00, 4, 0x0001_0005);
    assert!(r.irq(0) && r.irq(1) && !r.irq(2));
    assert_eq!(r.ack(), 5 | 2 << 10);
    r.eoi(5 | 2 << 10);
    requester::set_cpu(0);
    assert_eq!(r.ack(), 5 | 1 << 10);
    r.eoi(5 | 1 << 10);
    assert_eq!(r.ack(), 5 | 2 << 10);
    r.eoi(5 | 2 << 10);
    assert_eq!(r.ack(), 1023);
    r.d.write(0xf00, 4, 0x0100_0001);
    assert_eq!([0, 1, 2, 3].map(|c| r.irq(c)), [false, true, true, true]);
    r.d.write(0xf00, 4, 0x0200_0002);
    assert_eq!(r.ack(), 2);
    r.d.write(0xf20, 4, 0x0000_0800);
    assert_eq!(r.d.read(0xf10, 4), 0x800, "SGI 1 from CPU 3");
    r.d.write(0xf10, 1, 0xff);
    r.d.write(0xf11, 1, 0xff);
    assert_eq!(r.d.read(0x200, 4), 0);
}

#[test]
fn private_interrupts_are_banked() {
    let r = rig(2);
    r.gic.ppi(1, 27).set(true);
    assert!(!r.irq(0) && r.irq(1));
    assert_eq!(r.d.read(0x200, 4), 0);
    requester::set_cpu(1);
    assert_eq!(r.d.read(0x200, 4), 1 << 27);
    assert_eq!(r.d.read(0x800, 4), 0x0202_0202);
    assert_eq!(r.ack(), 27);
    r.d.write(0x180, 4, 1 << 27);
    requester::set_cpu(0);
    assert_eq!(r.d.read(0x100, 4), 0xffff_ffff);
    assert_eq!(r.d.read(0x300, 4), 0);
}

#[test]
fn targets_choose_the_cpu() {
    let r = rig(2);
    r.d.write(0x820, 1, 0xfe);
    assert_eq!(r.d.read(0x820, 4), 0x0101_0102, "only CPUs that exist");
    r.gic.spi(0).set(true);
    assert!(!r.irq(0) && r.irq(1));
    r.d.write(0x820, 1, 3);
    assert!(r.irq(0) && r.irq(1));
    assert_eq!(r.ack(), 32);
    assert!(!r.irq(0) && !r.irq(1));
}

#[test]
fn group_0_can_be_fiq_and_group_1_needs_ack_ctl() {
    let r = rig(1);
    r.d.write(0x000, 4, 3);
    r.d.write(0x084, 4, 1);
    r.c.write(0x00, 4, 0b1011);
    r.gic.spi(0).set(true);
    assert!(r.irq(0) && !r.fiq(0));
    assert_eq!(r.ack(), 1022);
    r.c.write(0x00, 4, 0b1111);
    assert_eq!(r.ack(), 32);
    assert_eq!(r.c.read(0xe0 + 8, 4), 1 << (0xa0 / 2 - 64), "in the register of group 1");
    r.eoi(32);
    r.gic.spi(0).set(false);
    r.gic.spi(1).set(true);
    assert!(!r.irq(0) && r.fiq(0));
    assert_eq!(r.ack(), 33);
    r.d.write(0x000, 4, 2);
    r.eoi(33);
    assert!(!r.fiq(0), "group 0 is not forwarded any more");
}

#[test]
fn eoi_mode_separates_deactivation() {
    let r = rig(1);
    r.c.write(0x00, 4, 0x201);
    let line = r.gic.spi(4);
    line.set(true);
    assert_eq!(r.ack(), 36);
    r.eoi(36);
    assert_eq!(r.c.read(0x14, 4), 0xff);
    assert!(!r.irq(0), "still active");
    r.c.write(0x1000, 4, 36);
    assert!(r.irq(0));
}

#[test]
fn the_last_interrupts_of_1020_exist_and_no_more() {
    let gic = GicV2::new(1, SPIS_MAX);
    let d = gic.distributor();
    assert_eq!(d.read(4, 4) & 0x1f, 31);
    d.write(0x17c, 4, 0xffff_ffff);
    assert_eq!(d.read(0x17c, 4), 0x0fff_ffff);
    gic.spi(987).set(true);
    assert_eq!(d.read(0x27c, 4), 1 << 27);
}

#[test]
fn random_accesses_never_panic_and_reset_is_fresh() {
    let (used, fresh) = (rig(3), rig(3));
    let gic = used.gic.clone();
    let both = |random: &mut crate::testing::Random| {
        requester::set_cpu(random.below(5) as usize);
        gic.spi(random.below(64) as u32).set(random.below(2) == 0);
        gic.ppi(random.below(3) as usize, 16 + random.below(16) as u32).set(random.below(2) == 0);
    };
    torture(&*used.d, 0x1000, 1, both);
    torture(&*used.c, 0x2000, 2, both);
    for spi in 0..64 {
        gic.spi(spi).set(false);
    }
    for (cpu, intid) in (0..3).flat_map(|c| (16..32).map(move |i| (c, i))) {
        gic.ppi(cpu, intid).set(false);
    }
    used.gic.reset();
    fresh.gic.reset();
    assert_eq!(used.gic.lock().s, fresh.gic.lock().s);
    assert!((0..6).all(|w| !used.wires.level(w)));
    requester::set_cpu(0);
}

/// A hypervisor's view: the virtual interface's outputs are wires 4 and 5.
#[test]
fn list_registers_are_a_guests_interrupts() {
    let has = Extensions { virtualization: true, ..Extensions::default() };
    let (gic, wires) = (GicV2::with(1, 64, has), Wires::new());
    gic.connect(0, wires.line(0), wires.line(1));
    gic.connect_virtual(0, wires.line(4), wires.line(5));
    let (d, [h, v]) = (gic.distributor(), gic.virtual_interface());
    requester::set_cpu(0);
    let c = gic.cpu_interface();
    for (offset, value) in [(0, 1), (0x104, !0), (0x820, 1), (0x100, 0xffff_ffff)] {
        d.write(offset, 4, value);
    }
    c.write(0, 4, 0x201);
    c.write(4, 4, 0xff);
    h.write(0, 4, 1);
    h.write(8, 4, 0xf800_0001);
    // A physical interrupt that the hypervisor has dropped and given to its guest.
    gic.spi(0).set(true);
    assert_eq!(c.read(0xc, 4), 32);
    c.write(0x10, 4, 32);
    h.write(0x100, 4, 1 << 31 | 1 << 28 | 0x10 << 23 | 32 << 10 | 40);
    assert!(wires.level(4) && !wires.level(0));
    assert_eq!((v.read(0xc, 4), v.read(0x14, 4), h.read(0xf0, 4)), (40, 0x80, 1 << 16));
    assert!(!wires.level(4));
    assert_eq!(h.read(0x100, 4) >> 28, 0b1010, "active");
    v.write(0x10, 4, 40);
    assert_eq!((h.read(0x100, 4) >> 28, h.read(0x30, 4), v.read(0x14, 4)), (0b1000, 0xf, 0xff));
    assert!(wires.level(0), "the physical one has ended and is still pending");
    // One without hardware tells the hypervisor of its end, by the maintenance interrupt.
    h.write(0x104, 4, 1 << 28 | 1 << 19 | 41);
    assert_eq!(v.read(0xc, 4), 41);
    v.write(0x10, 4, 41);
    assert_eq!((h.read(0x10, 4), h.read(0x20, 4), h.read(0x30, 4)), (1, 2, 0xd));
    assert_eq!(d.read(0x200, 4) >> 25 & 1, 1);
    h.write(0x104, 4, 0);
    assert_eq!(d.read(0x200, 4) >> 25 & 1, 0);
    // The end of what is in no list register is counted.
    h.write(0xf0, 4, 1);
    v.write(0x10, 4, 77);
    assert_eq!(h.read(0, 4), 1 << 27 | 1);
    // Group 1 needs its own enable; group 0 may be FIQ.
    h.write(0x108, 4, 1 << 30 | 1 << 28 | 50);
    assert!(!wires.level(4));
    v.write(0, 4, 3);
    assert!(wires.level(4));
    assert_eq!((v.read(0xc, 4), v.read(0x20, 4)), (1022, 50));
    v.write(0, 4, 0xb);
    h.write(0x10c, 4, 1 << 28 | 51);
    assert!(!wires.level(5), "the same priority is running");
    v.write(0x24, 4, 50);
    assert!(wires.level(5) && !wires.level(4));
    let between = |_: &mut crate::testing::Random| ();
    torture(&*h, 0x1000, 71, between);
    torture(&*v, 0x2000, 72, between);
    gic.reset();
    assert!(!wires.level(4) && !wires.level(5) && h.read(0, 4) == 0);
}

#[test]
fn the_non_secure_world_has_group_1() {
    let has = Extensions { security: true, ..Extensions::default() };
    let (gic, wires) = (GicV2::with(1, 64, has), Wires::new());
    gic.connect(0, wires.line(0), wires.line(1));
    requester::set_cpu(0);
    let [(d, c), (nd, nc)] = [true, false].map(|s| (gic.distributor_of(s), gic.cpu_interface_of(s)));
    assert_eq!((d.read(4, 4), nd.read(4, 4)), (0x402, 0x402));
    // SPI 0 (32) is Secure, SPI 1 (33) is not.
    d.write(0x84, 4, 2);
    assert_eq!((d.read(0x84, 4), nd.read(0x84, 4)), (2, 0));
    nd.write(0x104, 4, 3);
    assert_eq!(d.read(0x104, 4), 2, "group 0 is not the Non-secure world's to enable");
    d.write(0x104, 4, 3);
    assert_eq!(nd.read(0x104, 4), 2);
    nd.write(0x420, 4, 0x4040);
    assert_eq!((d.read(0x420, 4), nd.read(0x420, 4)), (0xa000, 0x4000));
    nd.write(0, 4, 1);
    assert_eq!((d.read(0, 4), nd.read(0, 4)), (2, 1));
    d.write(0, 4, 3);
    c.write(4, 4, 0xff);
    c.write(0, 4, 0x0b);
    assert_eq!((nc.read(0, 4), nc.read(4, 4)), (1, 0xfe));
    nc.write(4, 4, 0xf0);
    assert_eq!(c.read(4, 4), 0xf8);
    gic.spi(0).set(true);
    gic.spi(1).set(true);
    assert!(wires.level(1), "group 0 is FIQ");
    assert_eq!((nc.read(0xc, 4), nc.read(0x18, 4)), (1023, 1023));
    assert_eq!(c.read(0xc, 4), 32);
    assert_eq!(nc.read(0x14, 4), 0, "a Secure priority");
    nc.write(0x10, 4, 32);
    assert_eq!(c.read(0x14, 4), 0, "not the Non-secure world's to end");
    gic.spi(0).set(false);
    c.write(0x10, 4, 32);
    assert!(wires.level(0) && !wires.level(1));
    assert_eq!(c.read(0xc, 4), 1022);
    assert_eq!((nc.read(0xc, 4), nc.read(0x14, 4), c.read(0x14, 4)), (33, 0x40, 0xa0));
    gic.spi(1).set(false);
    nc.write(0x10, 4, 33);
    assert_eq!(nc.read(0x14, 4), 0xff);
    // A software interrupt arrives in the group that is meant.
    nd.write(0xf00, 4, 2 << 24 | 1);
    assert_eq!(d.read(0x200, 4), 0);
    d.write(0xf00, 4, 2 << 24 | 1);
    assert_eq!((d.read(0x200, 4), nd.read(0x200, 4)), (2, 0));
    let between = |_: &mut crate::testing::Random| ();
    torture(&*nd, 0x1000, 73, between);
    torture(&*nc, 0x2000, 74, between);
    let kernel = GicV2::with(1, 64, Extensions { for_kernel: true, ..has });
    assert_eq!((kernel.distributor().read(0x80, 4), kernel.cpu_interface().read(4, 4)), (0xffff_ffff, 0xf0));
}
