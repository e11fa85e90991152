//! Block device over a node of the disk graph.
//!
//! Reference: VIRTIO 1.2, 5.2.
//! Not modelled: SCSI commands, secure erase, zoned devices, lifetime reports, stopping the machine on errors.
//!
//! A notification only reads the rings; requests are carried out by the [`worker`] threads, several at once, and come back
//! in the order in which they end. Invariant: when a reset returns, no request is on its way.

pub mod request;
pub mod worker;

use std::sync::Arc;

use disk::NodeRef;
use spec::{Error, Result};

use self::request::{Job, Limits, Parsed, Settings};
use self::worker::Pool;
use super::device::{Core, Handle, KICK_MAX, Model};
use super::id;
use super::ring::Fault;

pub const SECTOR: u64 = 512;
/// Bytes of the identification string.
pub const SERIAL_MAX: usize = 20;
const QUEUE_SIZE_MAX: u16 = 1024;
const QUEUES_MAX: u16 = 64;

mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const GEOMETRY: u64 = 1 << 4;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const CONFIG_WCE: u64 = 1 << 11;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Offsets in the configuration space.
const CONFIG_LEN: usize = 60;
const CONFIG_WRITEBACK: usize = 32;

/// Cylinders, heads, sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    pub cylinders: u16,
    pub heads: u8,
    pub sectors: u8,
}

/// What `-device` decides.
#[derive(Clone, Debug)]
pub struct Options {
    pub serial: String,
    pub read_only: bool,
    pub num_queues: u16,
    pub queue_size: u16,
    pub logical_block: u32,
    pub physical_block: u32,
    pub min_io: u32,
    pub opt_io: u32,
    pub discard_granularity: Option<u32>,
    pub geometry: Option<Geometry>,
    pub discard: bool,
    pub write_zeroes: bool,
    pub max_discard_sectors: u32,
    pub max_write_zeroes_sectors: u32,
    /// The driver may switch the write cache.
    pub config_wce: bool,
    /// The write cache is on at first.
    pub write_cache: bool,
    /// Report success for requests that failed (`werror=ignore`, `rerror=ignore`).
    pub ignore_write_errors: bool,
    pub ignore_read_errors: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            serial: String::new(),
            read_only: false,
            num_queues: 1,
            queue_size: 256,
            logical_block: 512,
            physical_block: 512,
            min_io: 0,
            opt_io: 0,
            discard_granularity: None,
            geometry: None,
            discard: true,
            write_zeroes: true,
            max_discard_sectors: 0x3f_ffff,
            max_write_zeroes_sectors: 0x3f_ffff,
            config_wce: true,
            write_cache: true,
            ignore_write_errors: false,
            ignore_read_errors: false,
        }
    }
}

impl Options {
    /// Refuses what makes no sense, in the words of the option.
    pub fn check(&self) -> Result<()> {
        let fail = |text: String| Err(Error::new(text));
        if self.num_queues == 0 {
            return fail("num-queues property must be larger than 0".into());
        }
        if self.num_queues > QUEUES_MAX {
            return fail(format!("num-queues property must not be larger than {QUEUES_MAX}"));
        }
        if !self.queue_size.is_power_of_two() || self.queue_size > QUEUE_SIZE_MAX {
            return fail(format!("invalid queue-size property ({}), must be a power of 2 (max {QUEUE_SIZE_MAX})", self.queue_size));
        }
        if self.queue_size <= 2 {
            return fail(format!("invalid queue-size property ({}), must be > 2", self.queue_size));
        }
        if self.logical_block > self.physical_block {
            return fail("logical_block_size > physical_block_size not supported".into());
        }
        for (name, value) in [("min_io_size", self.min_io), ("opt_io_size", self.opt_io)] {
            if !value.is_multiple_of(self.logical_block) {
                return fail(format!("{name} must be a multiple of logical_block_size"));
            }
        }
        if u64::from(self.min_io / self.logical_block) > u64::from(u16::MAX) {
            return fail(format!("min_io_size must not exceed {} logical blocks", u16::MAX));
        }
        if self.discard_granularity.is_some_and(|g| !g.is_multiple_of(self.logical_block)) {
            return fail("discard_granularity must be a multiple of logical_block_size".into());
        }
        for (name, value) in [
            ("max-discard-sectors", self.max_discard_sectors),
            ("max-write-zeroes-sectors", self.max_write_zeroes_sectors),
        ] {
            if value == 0 || value > i32::MAX as u32 / SECTOR as u32 {
                let max = i32::MAX as u32 / SECTOR as u32;
                return fail(format!("invalid {name} property ({value}), must be between 1 and {max}"));
            }
        }
        Ok(())
    }
}

pub struct Blk {
    options: Options,
    node: NodeRef,
    pool: Arc<Pool>,
    settings: Arc<Settings>,
    writeback: bool,
}

impl Blk {
    pub fn new(node: NodeRef, options: Options) -> Result<Blk> {
        options.check()?;
        let pool = Pool::new(node.clone());
        let writeback = options.write_cache;
        let settings = Arc::new(Settings {
            serial: options.serial.clone(),
            ignore_read_errors: options.ignore_read_errors,
            ignore_write_errors: options.ignore_write_errors,
        });
        Ok(Blk { options, node, pool, settings, writeback })
    }

    fn limits(&self, core: &Core) -> Limits {
        Limits {
            sectors: self.node.size() / SECTOR,
            block_sectors: u64::from(self.options.logical_block) / SECTOR,
            read_only: self.options.read_only,
            discard: core.has(feature::DISCARD).then_some(self.options.max_discard_sectors),
            write_zeroes: core.has(feature::WRITE_ZEROES).then_some(self.options.max_write_zeroes_sectors),
        }
    }

    /// Whether each write has to reach the disk before it is reported: the driver has no way to flush, or chose so.
    fn write_through(&self, core: &Core) -> bool {
        !self.writeback || !core.has(feature::FLUSH)
    }

    fn geometry(&self) -> Geometry {
        self.options.geometry.unwrap_or_else(|| {
            let cylinders = (self.node.size() / SECTOR / (16 * 63)).clamp(2, 16383) as u16;
            Geometry { cylinders, heads: 16, sectors: 63 }
        })
    }

    /// Puts requests that ended into the used rings.
    fn collect(&mut self, core: &mut Core) -> std::result::Result<(), Fault> {
        let done = self.pool.take_done();
        for end in &done {
            let written = end.outcome?;
            core.put(end.queue, end.head, written)?;
        }
        for queue in 0..core.queues.len() {
            core.finish(queue)?;
        }
        Ok(())
    }
}

impl Model for Blk {
    fn id(&self) -> u16 {
        id::BLK
    }
    fn name(&self) -> &'static str {
        "virtio-blk"
    }

    fn features(&self) -> u64 {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let o = &self.options;
        feature::SEG_MAX
            | feature::GEOMETRY
            | feature::TOPOLOGY
            | feature::BLK_SIZE
            | feature::FLUSH
            | bit(o.config_wce, feature::CONFIG_WCE)
            | bit(o.read_only, feature::RO)
            | bit(o.num_queues > 1, feature::MQ)
            | bit(o.discard, feature::DISCARD)
            | bit(o.write_zeroes, feature::WRITE_ZEROES)
    }

    fn queues(&self) -> Vec<u16> {
        vec![self.options.queue_size; usize::from(self.options.num_queues)]
    }

    fn config(&self, _core: &Core) -> Vec<u8> {
        let o = &self.options;
        let mut config = vec![0; CONFIG_LEN];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &(self.node.size() / SECTOR).to_le_bytes());
        put(12, &u32::from(o.queue_size - 2).to_le_bytes());
        let geometry = self.geometry();
        put(16, &geometry.cylinders.to_le_bytes());
        put(18, &[geometry.heads, geometry.sectors]);
        put(20, &o.logical_block.to_le_bytes());
        let exponent = (o.physical_block / o.logical_block).trailing_zeros() as u8;
        put(24, &[exponent, 0]);
        put(26, &((o.min_io / o.logical_block) as u16).to_le_bytes());
        put(28, &(o.opt_io / o.logical_block).to_le_bytes());
        put(CONFIG_WRITEBACK, &[self.writeback.into()]);
        put(34, &o.num_queues.to_le_bytes());
        put(36, &o.max_discard_sectors.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        let unit = o.discard_granularity.filter(|&g| g > 0).unwrap_or(o.logical_block);
        put(44, &(unit / SECTOR as u32).to_le_bytes());
        put(48, &o.max_write_zeroes_sectors.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        config
    }

    fn write_config(&mut self, core: &mut Core, offset: usize, data: &[u8]) {
        if core.has(feature::CONFIG_WCE) && (offset..offset + data.len()).contains(&CONFIG_WRITEBACK) {
            self.writeback = data[CONFIG_WRITEBACK - offset] != 0;
        }
    }

    fn attach(&mut self, handle: Handle) {
        self.pool.attach(handle);
    }

    fn kick(&mut self, core: &mut Core, queue: usize) -> std::result::Result<(), Fault> {
        let limits = self.limits(core);
        let write_through = self.write_through(core);
        let mut jobs = Vec::new();
        for n in 0.. {
            if n == KICK_MAX {
                core.again(queue);
                break;
            }
            let Some(chain) = core.pop(queue)? else { break };
            let Parsed { request, status } = request::parse(&core.memory, &chain, &limits)?;
            jobs.push(Job {
                queue,
                chain,
                request,
                status,
                write_through,
                memory: core.memory.clone(),
                settings: self.settings.clone(),
            });
        }
        if self.pool.submit(jobs) { self.collect(core) } else { Ok(()) }
    }

    fn wake(&mut self, core: &mut Core) -> std::result::Result<(), Fault> {
        self.collect(core)
    }

    fn drain(&mut self, core: &mut Core) -> std::result::Result<(), Fault> {
        self.pool.drain();
        self.collect(core)
    }

    fn reset(&mut self) {
        self.pool.drain();
        self.pool.take_done();
        self.writeback = self.options.write_cache;
    }
}

impl Drop for Blk {
    fn drop(&mut self) {
        self.pool.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{BUFFERS, Guest, random_rings, rounds};
    use disk::{OpenFlags, open};

    /// A file that goes away with the test.
    struct Image(std::path::PathBuf);

    impl Drop for Image {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn image(name: &str, format: &str, size: u64) -> (Image, NodeRef) {
        let path = std::env::temp_dir().join(format!("rhea-virtio-blk-{}-{name}.{format}", std::process::id()));
        let text = path.to_str().unwrap();
        std::fs::File::create(&path).unwrap().set_len(if format == "raw" { size } else { 0 }).unwrap();
        if format == "qcow2" {
            let mut options = disk::options::Options::new();
            options.set("size", &size.to_string());
            disk::create::create("qcow2", text, options).unwrap();
        }
        let flags = OpenFlags { write: true, unmap: true, ..OpenFlags::default() };
        (Image(path.clone()), open(text, Some(format), &flags).unwrap())
    }

    fn null(size: u64) -> NodeRef {
        open(&format!("json:{{\"driver\":\"null-co\",\"size\":{size}}}"), None, &OpenFlags { write: true, ..OpenFlags::default() }).unwrap()
    }

    fn guest(node: NodeRef, options: Options) -> Guest {
        Guest::started(Box::new(Blk::new(node, options).unwrap()))
    }

    fn header(kind: u32, sector: u64) -> Vec<u8> {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        header
    }

    /// Data and status of a request.
    fn ask(guest: &mut Guest, kind: u32, sector: u64, data: &[u8], room: u32) -> (Vec<u8>, u8) {
        let mut out = header(kind, sector);
        out.extend(data);
        let mut answer = guest.request(0, &out, room + 1);
        let status = guest.read(BUFFERS + 0x8_0000 + u64::from(room), 1)[0];
        answer.truncate(room as usize);
        (answer, status)
    }

    fn pattern(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
    }

    #[test]
    fn what_is_written_is_read_again_and_is_in_the_file() {
        for format in ["raw", "qcow2"] {
            let (file, node) = image("write", format, 8 << 20);
            let mut g = guest(node, Options::default());
            let data = pattern(4096, 3);
            assert_eq!(ask(&mut g, 1, 1000, &data, 0).1, 0);
            assert_eq!(ask(&mut g, 4, 0, b"", 0).1, 0);
            assert_eq!(ask(&mut g, 0, 1000, b"", 4096), (data.clone(), 0));
            // A request that is larger than what is moved at once.
            let large = pattern(request::PIECE + 512, 9);
            assert_eq!(ask(&mut g, 1, 2048, &large, 0).1, 0);
            assert_eq!(ask(&mut g, 0, 2048, b"", large.len() as u32).0, large);
            g.virtio.reset();
            drop(g);
            let again = open(file.0.to_str().unwrap(), Some(format), &OpenFlags { share: true, ..OpenFlags::default() }).unwrap();
            let mut bytes = vec![0; 4096];
            again.read(1000 * SECTOR, &mut bytes).unwrap();
            assert_eq!(bytes, data, "{format}");
        }
    }

    #[test]
    fn ends_of_the_disk_are_respected() {
        let (_file, node) = image("ends", "raw", 1 << 20);
        let mut g = guest(node, Options::default());
        assert_eq!(ask(&mut g, 0, 2047, b"", 512).1, 0);
        for sector in [2048, 2047 + 1, u64::MAX, u64::MAX / 512] {
            assert_eq!(ask(&mut g, 0, sector, b"", 512).1, 1, "{sector}");
            assert_eq!(ask(&mut g, 1, sector, &[1; 512], 0).1, 1, "{sector}");
        }
        assert_eq!(ask(&mut g, 0, 2047, b"", 1024).1, 1);
        assert_eq!(ask(&mut g, 0, 0, b"", 100).1, 1, "no whole sector");
        assert_eq!(ask(&mut g, 77, 0, b"", 0).1, 2);
    }

    #[test]
    fn discard_zero_and_identify() {
        let (_file, node) = image("zero", "qcow2", 4 << 20);
        let mut g = guest(node, Options { serial: "ABC-1".into(), ..Options::default() });
        let (name, status) = ask(&mut g, 8, 0, b"", 20);
        assert_eq!((&name[..], status), (&b"ABC-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], 0));
        assert_eq!(ask(&mut g, 8, 0, b"", 3).0, b"ABC");
        ask(&mut g, 1, 0, &pattern(65536, 1), 0);
        let segment = |sector: u64, count: u32, flags: u32| [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat();
        assert_eq!(ask(&mut g, 13, 0, &segment(8, 8, 1), 0).1, 0);
        let (data, _) = ask(&mut g, 0, 0, b"", 65536);
        assert_eq!(data[4096..8192], [0; 4096]);
        assert_eq!(data[8192..], pattern(65536, 1)[8192..]);
        assert_eq!(ask(&mut g, 11, 0, &segment(0, 128, 0), 0).1, 0);
        assert_eq!(ask(&mut g, 11, 0, &segment(0, 128, 1), 0).1, 2, "discard has no flags");
        assert_eq!(ask(&mut g, 11, 0, &segment(8190, 128, 0), 0).1, 1);
        assert_eq!(ask(&mut g, 11, 0, &segment(0, u32::MAX, 0), 0).1, 1);
        assert_eq!(ask(&mut g, 13, 0, &[0; 32], 0).1, 2, "one range at a time");
        assert_eq!(ask(&mut g, 13, 0, &[0; 5], 0).1, 1);
    }

    #[test]
    fn a_read_only_disk_refuses_writes() {
        let (_file, node) = image("ro", "raw", 1 << 20);
        let mut g = guest(node, Options { read_only: true, ..Options::default() });
        assert_ne!(g.virtio.offered(0) & feature::RO as u32, 0);
        assert_eq!(ask(&mut g, 1, 0, &[1; 512], 0).1, 1);
        assert_eq!(ask(&mut g, 11, 0, &[0; 16], 0).1, 1);
        assert_eq!(ask(&mut g, 0, 0, b"", 512), (vec![0; 512], 0));
    }

    #[test]
    fn many_requests_are_on_their_way_at_once() {
        let (_file, node) = image("many", "raw", 8 << 20);
        let mut g = guest(node, Options { num_queues: 4, ..Options::default() });
        for queue in 0..4u64 {
            for n in 0..32u64 {
                let at = BUFFERS + (queue * 32 + n) * 0x600;
                g.write(at, &header(1, queue * 32 + n));
                g.write(at + 16, &[(queue * 32 + n) as u8; 512]);
                g.rings[queue as usize].add(&[(at, 528, false), (at + 0x500, 1, true)]);
            }
            g.virtio.notify(queue as usize);
        }
        for queue in 0..4 {
            assert_eq!(g.wait_for(queue, 32).len(), 32);
        }
        let (data, _) = ask(&mut g, 0, 0, b"", 128 * 512);
        for (n, sector) in data.chunks(512).enumerate() {
            assert!(sector.iter().all(|&b| b == n as u8), "sector {n}");
        }
    }

    #[test]
    fn a_reset_waits_for_what_is_on_its_way() {
        let (_file, node) = image("reset", "raw", 8 << 20);
        let mut g = guest(node, Options::default());
        for round in 0..50u64 {
            for n in 0..32 {
                g.write(BUFFERS, &header(0, round));
                g.rings[0].add(&[(BUFFERS, 16, false), (BUFFERS + 0x1_0000 + n * 0x1000, 0x1000, true), (BUFFERS + 0x100, 1, true)]);
            }
            g.virtio.notify(0);
            g.virtio.reset();
            g.write(BUFFERS + 0x1_0000, &[0xee; 0x2_0000]);
            assert!(g.rings[0].take_used().len() <= 32);
            g.start();
            assert_eq!(g.read(BUFFERS + 0x1_0000, 0x2_0000), vec![0xee; 0x2_0000], "nothing is written after a reset");
        }
    }

    #[test]
    fn the_configuration_tells_size_and_topology() {
        let options = Options { physical_block: 4096, opt_io: 65536, num_queues: 2, ..Options::default() };
        let g = guest(null(3 << 30), options);
        let read = |offset, size| g.virtio.read_config(offset, size);
        assert_eq!(read(0, 8), (3 << 30) / 512);
        assert_eq!((read(12, 4), read(16, 2), read(18, 1), read(19, 1), read(20, 4)), (254, 6241, 16, 63, 512));
        assert_eq!((read(24, 1), read(28, 4), read(32, 1), read(34, 2)), (3, 128, 1, 2));
        assert_eq!((read(36, 4), read(40, 4), read(44, 4), read(48, 4), read(56, 1)), (0x3f_ffff, 1, 1, 0x3f_ffff, 1));
        g.virtio.write_config(32, 1, 0);
        assert_eq!(read(32, 1), 0);
        g.virtio.reset();
        assert_eq!(read(32, 1), 1);
    }

    #[test]
    fn wrong_properties_are_named() {
        let check = |change: fn(&mut Options), expected: &str| {
            let mut options = Options::default();
            change(&mut options);
            assert_eq!(options.check().unwrap_err().to_string(), expected);
        };
        check(|o| o.num_queues = 0, "num-queues property must be larger than 0");
        check(|o| o.queue_size = 3, "invalid queue-size property (3), must be a power of 2 (max 1024)");
        check(|o| o.queue_size = 2048, "invalid queue-size property (2048), must be a power of 2 (max 1024)");
        check(|o| o.logical_block = 4096, "logical_block_size > physical_block_size not supported");
        check(|o| o.min_io = 100, "min_io_size must be a multiple of logical_block_size");
    }

    #[test]
    fn random_rings_are_survived() {
        let mut g = guest(null(1 << 20), Options { num_queues: 2, ..Options::default() });
        random_rings(&mut g, rounds(100_000));
    }
}
