//! What all vCPUs of a machine share: the guest, its memory, the translations.

use crate::space::{PAGE_BYTES, Space};
use cpu::{Guest, Limits};
use ir::{Builder, Region};
use spec::Result;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How the engine is to work.
#[derive(Clone, Debug)]
pub struct Config {
    /// Size of the code memory in bytes (`-tb-size`).
    pub tb_size: usize,
    /// One guest instruction per region (`-one-insn-per-tb`).
    pub one_insn_per_tb: bool,
    /// Execute with the IR interpreter only.
    pub interpret: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { tb_size: 256 << 20, one_insn_per_tb: false, interpret: false }
    }
}

/// Longest region in guest instructions.
pub const MAX_REGION_INSNS: u32 = 48;
/// Counters of the exclusive monitors, hashed by address.
const MONITORS: usize = 4096;

pub struct Engine {
    pub(crate) guest: Arc<dyn Guest>,
    pub(crate) space: Arc<Space>,
    pub(crate) config: Config,
    /// Even: free; odd: a store-exclusive is under way. Every successful store-exclusive adds 2.
    monitors: Box<[AtomicU64]>,
    regions: Mutex<Regions>,
}

/// Translations by key and by page.
#[derive(Default)]
struct Regions {
    by_key: HashMap<u64, Arc<Region>>,
    by_page: HashMap<u64, Vec<u64>>,
}

impl Engine {
    pub fn new(guest: Arc<dyn Guest>, space: Arc<Space>, config: Config) -> Result<Arc<Engine>> {
        let monitors = std::iter::repeat_with(|| AtomicU64::new(0)).take(MONITORS).collect();
        let engine = Arc::new(Engine { guest, space, config, monitors, regions: Mutex::default() });
        engine.space.attach(Arc::downgrade(&engine));
        Ok(engine)
    }

    pub fn guest(&self) -> &dyn Guest {
        &*self.guest
    }

    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    pub(crate) fn monitor(&self, addr: u64) -> &AtomicU64 {
        &self.monitors[(addr >> 4) as usize % MONITORS]
    }

    /// The monitor's counter while no store-exclusive is under way.
    pub(crate) fn monitor_version(&self, addr: u64) -> u64 {
        loop {
            let v = self.monitor(addr).load(Ordering::Acquire);
            if v & 1 == 0 {
                return v;
            }
            std::hint::spin_loop();
        }
    }

    /// Drops the translations that depend on guest bytes in `addr..addr + len`.
    pub fn invalidate(&self, addr: u64, len: u64) {
        let mut regions = self.regions.lock().unwrap();
        let page_bytes = PAGE_BYTES as u64;
        if len == 0 || regions.by_page.is_empty() {
            return;
        }
        for page in addr / page_bytes..=(addr + len - 1) / page_bytes {
            for key in regions.by_page.remove(&page).unwrap_or_default() {
                regions.by_key.remove(&key);
            }
        }
    }

    pub(crate) fn region(&self, key: u64) -> Arc<Region> {
        if let Some(r) = self.regions.lock().unwrap().by_key.get(&key) {
            return r.clone();
        }
        let mut b = Builder::new();
        self.translate(key, &mut b);
        let region = Arc::new(b.take());
        let mut regions = self.regions.lock().unwrap();
        for &(addr, len) in &region.covers {
            for page in addr / PAGE_BYTES as u64..=(addr + len.max(1) as u64 - 1) / PAGE_BYTES as u64 {
                regions.by_page.entry(page).or_default().push(key);
            }
        }
        regions.by_key.insert(key, region.clone());
        region
    }

    /// Translates a region, its pages being protected first, so that no later write goes unnoticed.
    pub(crate) fn translate(&self, key: u64, b: &mut Builder) {
        let pc = self.guest.pc(key);
        let max_insns = if self.config.one_insn_per_tb { 1 } else { MAX_REGION_INSNS };
        loop {
            b.begin(key, pc);
            self.guest.translate(key, Limits { max_insns, same_page: false }, &*self.space, b);
            // Protect what was read and read again if a page was still open to writes.
            let mut all_protected = true;
            for &(addr, len) in &b.region().covers {
                for page in addr / PAGE_BYTES as u64..=(addr + len.max(1) as u64 - 1) / PAGE_BYTES as u64 {
                    all_protected &= self.space.protect_code((page * PAGE_BYTES as u64) as u32);
                }
            }
            if all_protected {
                break;
            }
        }
        if cfg!(debug_assertions)
            && let Err(e) = ir::verify::verify(b.region())
        {
            panic!("the front end made a bad region: {e}\n{}", ir::text::print(b.region()));
        }
    }
}
