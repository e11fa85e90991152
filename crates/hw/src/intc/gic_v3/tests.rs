//! The distributor, the redistributors, the CPU interface and LPIs, from both sides: registers as a guest reads them, wires as devices drive them.

use super::*;
use crate::testing::{Random, Wires, torture};
use fabric::{Ram, Region};

const PMR: u32 = 0x0460;
const IAR1: u32 = 0x0cc0;
const EOIR1: u32 = 0x0cc1;
const HPPIR1: u32 = 0x0cc2;
const BPR1: u32 = 0x0cc3;
const CTLR: u32 = 0x0cc4;
const RPR: u32 = 0x0cb3;
const DIR: u32 = 0x0cb1;
const SGI1R: u32 = 0x1_000c;
const RAM: u64 = 0x4000_0000;

struct Rig {
    gic: Arc<GicV3>,
    d: Arc<dyn MmioTarget>,
    r: Arc<dyn MmioTarget>,
    icc: Vec<Arc<dyn CpuInterface>>,
    ram: Arc<Ram>,
    wires: Arc<Wires>,
}

/// 64 SPIs, everything in group 1, enabled, priority 0xa0, to CPU 0. IRQ of CPU n is wire 2n, FIQ 2n + 1.
fn rig(cpus: usize) -> Rig {
    let (space, ram, wires) = (AddressSpace::new(), Arc::new(Ram::new(0x10_0000).unwrap()), Wires::new());
    space.map(RAM, 0x10_0000, 0, Region::ram("ram", ram.clone()));
    let gic = GicV3::new((0..cpus as u32).collect(), 64, Some(space));
    for cpu in 0..cpus {
        gic.connect(cpu, wires.line(cpu as u32 * 2), wires.line(cpu as u32 * 2 + 1));
    }
    let icc = (0..cpus).map(|c| gic.cpu_interface(c)).collect();
    let rig = Rig { d: gic.distributor(), r: gic.redistributors(0, cpus), gic, icc, ram, wires };
    rig.d.write(0, 4, 3);
    for at in [0x84, 0x88, 0x104, 0x108] {
        rig.d.write(at, 4, 0xffff_ffff);
    }
    (0x420..0x460).for_each(|at| rig.d.write(at, 1, 0xa0));
    for cpu in 0..cpus {
        let base = cpu as u64 * 0x2_0000 + 0x1_0000;
        rig.r.write(base + 0x80, 4, 0xffff_ffff);
        rig.r.write(base + 0x100, 4, 0xffff_ffff);
        (0x400..0x420).for_each(|at| rig.r.write(base + at, 1, 0xa0));
        assert!(rig.icc[cpu].write(PMR, 0xf0) && rig.icc[cpu].write(0x0cc6, 1) && rig.icc[cpu].write(0x0cc7, 1));
    }
    rig
}

impl Rig {
    fn irq(&self, cpu: usize) -> bool {
        self.wires.level(cpu as u32 * 2)
    }
    fn ack(&self, cpu: usize) -> u64 {
        self.icc[cpu].read(IAR1).unwrap()
    }
    fn eoi(&self, cpu: usize, intid: u64) {
        assert!(self.icc[cpu].write(EOIR1, intid));
    }
    /// Turns on LPIs with tables in memory: configuration at 64 KiB, pending at 128 KiB plus 64 KiB for each CPU.
    fn lpis(&self, cpu: usize) {
        let base = cpu as u64 * 0x2_0000;
        self.r.write(base + 0x70, 8, RAM + 0x1_0000 | 15);
        self.r.write(base + 0x78, 8, RAM + 0x2_0000 + cpu as u64 * 0x1_0000);
        self.r.write(base, 4, 1);
    }
}

#[test]
fn registers_after_reset_are_those_of_the_reference_machine() {
    let gic = GicV3::new(vec![0], 256, Some(AddressSpace::new()));
    let (d, r) = (gic.distributor(), gic.redistributors(0, 1));
    let ids = |part| [(0xffd0, 0x44), (0xffe0, part), (0xffe4, 0xb4), (0xffe8, 0x3b), (0xfff0, 0xd), (0xfff4, 0xf0), (0xfff8, 5), (0xfffc, 0xb1)];
    let distributor = [(0, 0x50), (4, 0x37a_0008), (8, 0x43b), (0x100, 0), (0xc00, 0), (0x800, 0), (0x820, 0), (0xd04, 0)];
    for (at, value) in distributor.into_iter().chain(ids(0x92)) {
        assert_eq!(d.read(at, 4), value, "GICD {at:#x}");
    }
    let control = [(0, 2), (4, 0x43b), (8, 0x100_0011), (0xc, 0), (0x14, 6), (0x70, 0), (0x78, 0)];
    for (at, value) in control.into_iter().chain(ids(0x93)) {
        assert_eq!(r.read(at, 4), value, "GICR {at:#x}");
    }
    for (at, value) in [(0x80, 0), (0x100, 0), (0xc00, 0xaaaa_aaaa), (0xc04, 0)] {
        assert_eq!(r.read(0x1_0000 + at, 4), value, "SGI frame {at:#x}");
    }
    let icc = gic.cpu_interface(0);
    for (register, value) in [(PMR, 0), (IAR1, 1023), (0x0c83, 2), (BPR1, 3), (CTLR, 0x8c00), (0x0cc5, 7), (RPR, 0xff)] {
        assert_eq!(icc.read(register), Some(value), "ICC {register:#x}");
        assert_eq!(icc.read(register | 0x0300_0000), Some(value), "whoever asks");
    }
    assert_eq!(icc.read(0x0c85), None);
    let two = GicV3::new(vec![0, 1], 32, None);
    let r = two.redistributors(0, 2);
    assert_eq!((r.read(8, 8), r.read(0x2_0008, 8)), (0x100_0000, 1 << 32 | 0x100_0110));
    assert_eq!(two.distributor().read(4, 4), 0x378_0001);
}

#[test]
fn writable_bits_are_those_of_the_reference_machine() {
    let gic = GicV3::new(vec![0], 256, Some(AddressSpace::new()));
    let (d, r, all) = (gic.distributor(), gic.redistributors(0, 1), 0xffff_ffff);
    let distributor = [(0, 0x53), (0x80, 0), (0x84, all), (0x100, 0), (0x104, all), (0x200, 0), (0x204, all), (0x300, 0), (0x304, all)];
    let rest = [(0x400, 0), (0x420, all), (0x820, 0), (0xc00, 0), (0xc04, 0), (0xc08, 0xaaaa_aaaa), (0xd04, 0), (0xe08, 0)];
    for (at, kept) in distributor.into_iter().chain(rest) {
        d.write(at, 4, all);
        assert_eq!(d.read(at, 4), kept, "GICD {at:#x}");
    }
    d.write(0x6100, 8, u64::MAX);
    assert_eq!(d.read(0x6100, 8), u64::MAX);
    for (at, size, kept) in [(0, 4, 3), (0x14, 4, 6), (0x70, 8, u64::MAX), (0x78, 8, u64::MAX)] {
        r.write(at, size, u64::MAX >> (64 - size * 8));
        assert_eq!(r.read(at, size), kept, "GICR {at:#x}");
    }
    r.write(0x14, 4, 0);
    assert_eq!(r.read(0x14, 4), 0);
    for (at, kept) in [(0x80, all), (0x100, all), (0x200, all), (0x300, all), (0x41c, all), (0xc00, 0xaaaa_aaaa), (0xc04, 0xaaaa_aaaa), (0xd00, 0)] {
        r.write(0x1_0000 + at, 4, all);
        assert_eq!(r.read(0x1_0000 + at, 4), kept, "SGI frame {at:#x}");
    }
}

#[test]
fn a_level_interrupt_follows_its_wire_and_an_edge_does_not() {
    let r = rig(1);
    let (level, edge) = (r.gic.spi(1), r.gic.spi(2));
    r.d.write(0xc08, 4, 2 << 4);
    level.set(true);
    assert!(r.irq(0));
    assert_eq!(r.ack(0), 33);
    assert!(!r.irq(0));
    assert_eq!((r.d.read(0x304, 4), r.icc[0].read(RPR)), (2, Some(0xa0)));
    assert_eq!(r.ack(0), 1023);
    r.eoi(0, 33);
    assert!(r.irq(0), "still high");
    level.set(false);
    assert!(!r.irq(0));
    edge.pulse();
    assert_eq!(r.ack(0), 34);
    edge.pulse();
    r.eoi(0, 34);
    assert_eq!(r.ack(0), 34);
    r.eoi(0, 34);
    assert_eq!((r.ack(0), r.icc[0].read(RPR)), (1023, Some(0xff)));
}

#[test]
fn a_higher_priority_preempts_by_the_binary_point() {
    let r = rig(1);
    for (spi, priority) in [(8, 0x80), (9, 0x88), (10, 0x40)] {
        r.d.write(0x420 + spi, 1, priority);
    }
    r.icc[0].write(BPR1, 4);
    r.gic.spi(9).set(true);
    assert_eq!(r.ack(0), 41);
    r.gic.spi(8).set(true);
    assert!(!r.irq(0));
    assert_eq!((r.ack(0), r.icc[0].read(HPPIR1)), (1023, Some(40)));
    r.gic.spi(10).set(true);
    assert_eq!(r.ack(0), 42);
    assert_eq!((r.icc[0].read(RPR), r.icc[0].read(0x0c90)), (Some(0x40), Some(1 << 8 | 1 << 16)));
    r.gic.spi(10).set(false);
    r.eoi(0, 42);
    assert_eq!(r.icc[0].read(RPR), Some(0x80));
}

#[test]
fn the_priority_mask_has_five_bits() {
    let r = rig(1);
    r.gic.spi(0).set(true);
    r.icc[0].write(PMR, 0xa7);
    assert_eq!(r.icc[0].read(PMR), Some(0xa0));
    assert!(!r.irq(0));
    r.icc[0].write(PMR, 0xa8);
    assert!(r.irq(0));
}

#[test]
fn group_0_is_fiq() {
    let r = rig(1);
    r.d.write(0x84, 4, !1);
    r.gic.spi(0).set(true);
    assert!(!r.irq(0) && r.wires.level(1));
    assert_eq!(r.ack(0), 1023);
    assert_eq!(r.icc[0].read(0x0c80), Some(32));
    r.eoi(0, 32);
    assert_eq!(r.icc[0].read(RPR), Some(0xa0), "the end of another group is ignored");
    r.icc[0].write(0x0c81, 32);
    assert_eq!(r.icc[0].read(RPR), Some(0xff));
}

#[test]
fn eoi_mode_separates_deactivation() {
    let r = rig(1);
    r.icc[0].write(CTLR, 2);
    r.gic.spi(4).set(true);
    assert_eq!(r.ack(0), 36);
    r.eoi(0, 36);
    assert_eq!((r.irq(0), r.icc[0].read(RPR)), (false, Some(0xff)));
    r.icc[0].write(DIR, 36);
    assert!(r.irq(0));
}

#[test]
fn software_interrupts_by_list_and_to_all_others() {
    let r = rig(3);
    r.icc[0].write(SGI1R, 5 << 24 | 0b110);
    assert_eq!([0, 1, 2].map(|c| r.irq(c)), [false, true, true]);
    assert_eq!((r.ack(1), r.ack(2)), (5, 5));
    r.icc[1].write(SGI1R, 1 << 40 | 6 << 24);
    assert_eq!((r.ack(0), r.ack(1)), (6, 1023));
    r.icc[1].write(SGI1R, 7 << 24 | 1 << 16 | 1);
    r.icc[1].write(SGI1R, 7 << 24 | 1 << 44 | 1);
    r.icc[1].write(0x1_002c, 7 << 24 | 1);
    assert_eq!(r.r.read(0x1_0200, 4), 0, "no such CPU, or not in group 0");
}

#[test]
fn private_interrupts_and_routing() {
    let r = rig(2);
    r.gic.ppi(1, 27).set(true);
    assert!(!r.irq(0) && r.irq(1));
    assert_eq!(r.ack(1), 27);
    r.gic.spi(0).set(true);
    assert!(r.irq(0));
    r.d.write(0x6100, 8, 1);
    assert!(!r.irq(0));
    r.gic.ppi(1, 27).set(false);
    r.eoi(1, 27);
    assert!(r.irq(1));
    r.d.write(0x6100, 8, 7);
    assert!(!r.irq(0) && !r.irq(1), "nobody has that affinity");
}

#[test]
fn lpis_are_pending_once_and_have_no_active_state() {
    let r = rig(2);
    r.ram.store_u8(0x1_0000, 0xa1);
    r.ram.store_u8(0x1_0001, 0x40);
    r.ram.store_u8(0x1_0002, 0x81);
    r.ram.store_u8(0x3_0000 + 8194 / 8, 1 << (8194 % 8));
    r.gic.set_lpi(0, 8192, true);
    r.lpis(0);
    assert!(!r.irq(0), "LPIs were off");
    r.lpis(1);
    assert_eq!(r.ack(1), 8194, "from the pending table");
    r.eoi(1, 8194);
    r.gic.set_lpi(0, 8192, true);
    r.gic.set_lpi(0, 8192, true);
    assert_eq!(r.ack(0), 8192);
    r.gic.set_lpi(0, 8192, true);
    assert!(!r.irq(0), "the same priority is running");
    r.eoi(0, 8192);
    assert_eq!(r.ack(0), 8192);
    r.eoi(0, 8192);
    r.gic.set_lpi(0, 8193, true);
    assert!(!r.irq(0), "disabled");
    r.ram.store_u8(0x1_0001, 0x41);
    r.gic.invalidate_lpis(0, Some(8193));
    assert!(r.irq(0));
    r.gic.move_lpis(0, 1, None);
    assert!(!r.irq(0) && r.irq(1));
    r.gic.set_lpi(1, 8193, false);
    assert!(!r.irq(1));
    for intid in [0, 8191, 65536, u32::MAX] {
        r.gic.set_lpi(0, intid, true);
    }
    assert!(!r.irq(0));
}

#[test]
fn random_accesses_never_panic_and_reset_is_fresh() {
    let r = rig(3);
    let registers = [0x0460, 0x0c80, 0x0c81, 0x0c82, 0x0c83, 0x0c84, 0x0c90, 0x0cb1, 0x0cb3, 0x0cc0, 0x0cc1, 0x0cc2, 0x0cc3, 0x0cc4, 0x0cc6, 0x0cc7, 0x1_000c, 0x1_002c];
    let between = |random: &mut Random| {
        r.gic.spi(random.below(64) as u32).set(random.below(2) == 0);
        r.gic.ppi(random.below(3) as usize, 16 + random.below(16) as u32).set(random.below(2) == 0);
        let (cpu, register) = (random.below(3) as usize, registers[random.below(18) as usize]);
        r.icc[cpu].read(register);
        r.icc[cpu].write(register, random.next() & [0x3f, 0xffff_ffff, u64::MAX][random.below(3) as usize]);
        r.gic.set_lpi(cpu, 8192 + random.below(8) as u32, random.below(4) != 0);
        r.gic.move_lpis(cpu, random.below(4) as usize, None);
    };
    torture(&*r.d, 0x1_0000, 61, between);
    torture(&*r.r, 0x6_0000, 62, between);
    (0..64).for_each(|n| r.gic.spi(n).set(false));
    (0..3).flat_map(|c| (16..32).map(move |i| (c, i))).for_each(|(c, i)| r.gic.ppi(c, i).set(false));
    r.gic.reset();
    let core = r.gic.lock();
    assert!(core.cpus.iter().all(|c| *c == Cpu::reset(0)) && core.spis.iter().all(|b| *b == Bank::default()));
    assert!(core.ctlr == 0 && core.router.iter().all(|r| *r == 0));
    assert!((0..6).all(|w| !r.wires.level(w)));
}

/// A guest's accesses reach the virtual interface where the numbers say so.
#[test]
fn list_registers_are_a_guests_interrupts() {
    let r = rig(1);
    r.gic.connect_virtual(0, r.wires.line(40), r.wires.line(41));
    let icc = &r.icc[0];
    const GUEST: u32 = 1 << 27 | 1 << 28;
    let read = |register: u32| icc.read(register).unwrap();
    assert_eq!(read(0x4cb1), 0x90b8_0003);
    assert!(icc.read(0x4cc4).is_none() && !icc.write(0x4cc4, 0));
    for (register, value) in [(0x4cb0, 1), (0x4cb7, 0xf800_0002)] {
        assert!(icc.write(register, value));
    }
    assert_eq!(read(0x4cb7), 0xf84c_000a);
    // A physical interrupt handed on: EOImode is set in the physical interface.
    assert!(icc.write(CTLR, 2));
    r.gic.spi(0).set(true);
    let intid = r.ack(0);
    r.eoi(0, intid);
    assert!(!r.irq(0));
    assert!(icc.write(0x4cc0, 40) && icc.write(0x4ce0, 1 << 30 | 1 << 29 | 1 << 28 | 0x80 << 16 | intid));
    assert!(r.wires.level(40));
    assert_eq!((read(HPPIR1 | GUEST), read(IAR1 | GUEST), read(RPR | GUEST)), (40, 40, 0x80));
    assert_eq!((read(RPR), read(0x4c90), read(0x4ce0) >> 30), (0xff, 1 << 16, 2));
    assert!(!r.wires.level(40) && icc.write(EOIR1 | GUEST, 40));
    assert_eq!((read(0x4ce0) >> 30, read(0x4cb5)), (0, 0xf));
    assert!(r.irq(0), "the physical one has ended");
    // Without hardware: the end raises the maintenance interrupt, PPI 25.
    assert!(icc.write(0x4cc1, 41) && icc.write(0x4ce1, 1 << 30 | 1 << 28 | 1 << 9));
    assert_eq!(read(IAR1 | GUEST), 41);
    assert!(icc.write(EOIR1 | GUEST, 41));
    assert_eq!((read(0x4cb2), read(0x4cb3), r.r.read(0x1_0200, 4) >> 25 & 1), (1, 2, 1));
    assert!(icc.write(0x4ce1, 0));
    assert_eq!(r.r.read(0x1_0200, 4) >> 25 & 1, 0);
    // What is virtual depends on the flags and on the register's group.
    assert!(icc.write(PMR | GUEST, 0x50));
    assert_eq!((read(PMR), read(PMR | GUEST), read(0x0c83 | 1 << 28), read(0x0cc6 | GUEST)), (0xf0, 0x50, 2, 0));
    for n in 0..4 {
        let mut random = crate::testing::Random::new(n);
        for _ in 0..20_000 {
            let register = [0x0c80, 0x0cb1, 0x0cc0, 0x0cc1, 0x0cc3, 0x0cc4, 0x0cc6, 0x0460, 0x4c80, 0x4c90, 0x4cb0, 0x4cb7, 0x4cc0, 0x4ce0, 0x4cd1, 0x4cff];
            let register = register[random.below(16) as usize] | if random.below(2) == 0 { GUEST } else { 0 };
            icc.read(register);
            icc.write(register, random.next() >> random.below(64));
        }
    }
}
