//! The code cache: translated regions, their links, and what they depend on.
//!
//! Code is only ever appended. When the memory is full the engine starts a new cache; the old one lives until the last vCPU
//! has left it, so nobody has to be stopped. Invalidated code stays in place but is unlinked and found no more.
//!
//! Invariants:
//! 1. A linked exit site of a live block jumps to a live block of the same cache; when either dies the site is unlinked.
//! 2. Code bytes are written before any jump to them exists.

use crate::index::Index;
use crate::space::PAGE_BYTES;
use host::code::{CodeCopy, CodeMemory};
use ir::Builder;
use spec::Result;
use std::collections::HashMap;
use std::sync::Mutex;
use x64::lower::FaultRecord;
use x64::{Compiler, Env};

/// The cache is full: the engine must start a new one.
#[derive(Debug)]
pub(crate) struct Full;

/// What identifies a translation. User mode: the key. System mode: the key relative to its page, and the physical pages it is
/// on (`next` only for an instruction that may run over into a second one). The low bits of `page` are the variant: 0, or what
/// a debugger wants of it (`machine::debug`); direct jumps stay within one variant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Name {
    pub key: u64,
    pub page: u64,
    pub next: u64,
}

/// No second page.
pub(crate) const NO_NEXT: u64 = u64::MAX;

impl Name {
    /// The region of a key in user mode.
    pub fn user(key: u64) -> Name {
        Name { key, page: 0, next: NO_NEXT }
    }

    /// Physical address of the page.
    pub fn phys(&self) -> u64 {
        self.page & !VARIANTS
    }

    pub fn variant(&self) -> u64 {
        self.page & VARIANTS
    }

    pub fn with_variant(self, variant: u64) -> Name {
        Name { page: self.phys() | variant, ..self }
    }
}

/// The bits of `Name::page` that are the variant.
pub(crate) const VARIANTS: u64 = PAGE_BYTES as u64 - 1;

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, h: &mut H) {
        h.write_u64(self.key ^ self.page.rotate_left(20) ^ self.next.rotate_left(40));
    }
}

/// One multiplication: names are spread well enough, and only the guest whose code it is could make them collide.
#[derive(Default, Clone, Copy)]
pub(crate) struct NameHasher(u64);

impl std::hash::Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(self.0 ^ b as u64);
        }
    }

    fn write_u64(&mut self, v: u64) {
        let m = (v as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        self.0 = m as u64 ^ (m >> 64) as u64;
    }
}

/// Room for what a middling program needs, so that the lists are not copied while they grow; untouched memory costs nothing.
const FIRST_BLOCKS: usize = 8192;
const FIRST_SITES: usize = 16384;

type NameMap<K, V> = HashMap<K, V, std::hash::BuildHasherDefault<NameHasher>>;

/// Where translations come from: the engine of a process or of a machine.
pub(crate) trait Source {
    fn max_insns(&self) -> u32;
    /// Fills `b` with the region of this name; `covers` are addresses in the numbering of `Cache::invalidate`.
    fn translate(&self, name: Name, max_insns: u32, b: &mut Builder);
    fn log_translation(&self, name: Name, region: &ir::Region, code: &[u8], address: usize);
    /// Whether exits may jump to each other directly.
    fn may_link(&self) -> bool;
}

/// One translated region.
struct Translation {
    name: Name,
    /// Offset and length of the code.
    start: u32,
    len: u32,
    live: bool,
    first_site: u32,
    sites: u32,
    faults: Box<[FaultRecord]>,
    /// Exit sites that jump here.
    incoming: Vec<u32>,
    /// Covered addresses: from, to (exclusive).
    hull: (u64, u64),
    /// Of the guest's code.
    guest_bytes: u32,
}

/// What is in a cache, for `info jit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    pub code_bytes: u64,
    pub code_bytes_max: u64,
    pub regions: u64,
    pub guest_bytes: u64,
    /// Of the largest region.
    pub guest_bytes_max: u64,
    pub host_bytes: u64,
    /// Regions on two pages.
    pub cross_page: u64,
    /// Regions with direct jumps, and with two or more.
    pub jumping: u64,
    pub jumping_twice: u64,
    /// Regions dropped because their code changed.
    pub dropped: u64,
}

struct Site {
    block: u32,
    name: Name,
    /// Offset of the rel32 in the code memory, or `u32::MAX`.
    patch: u32,
    stub: u32,
    /// Block it jumps to, or `u32::MAX`.
    target: u32,
}

struct Inner {
    used: usize,
    blocks: Vec<Translation>,
    sites: Vec<Site>,
    by_name: NameMap<Name, u32>,
    by_page: NameMap<u64, Vec<u32>>,
    compiler: Compiler,
    builder: Builder,
}

pub(crate) struct Cache {
    pub memory: CodeMemory,
    env: Env,
    inner: Mutex<Inner>,
    /// Code of keys that name a region alone (processes).
    index: Index,
}

/// While it lives, nobody changes the cache.
pub(crate) struct Frozen<'a>(std::sync::MutexGuard<'a, Inner>);

/// The guest instruction behind a host instruction.
pub(crate) struct Origin {
    pub key: u64,
    pub delta: i32,
    pub note: u32,
}

impl Cache {
    pub fn new(bytes: usize, mut env: Env) -> Result<Cache> {
        let memory = CodeMemory::new(bytes)?;
        let mut compiler = Compiler::new();
        compiler.asm.clear();
        env.stubs = x64::stubs::generate(&env, &mut compiler.asm);
        memory.write(0, compiler.asm.code());
        let used = compiler.asm.len().next_multiple_of(64);
        let inner = Inner {
            used,
            blocks: Vec::with_capacity(FIRST_BLOCKS),
            sites: Vec::with_capacity(FIRST_SITES),
            by_name: NameMap::with_capacity_and_hasher(FIRST_BLOCKS, Default::default()),
            by_page: NameMap::default(),
            compiler,
            builder: Builder::new(),
        };
        let rx = memory.rx() as usize;
        crate::fault::add_range(rx, memory.len(), rx + env.stubs.leave);
        Ok(Cache { memory, env, inner: Mutex::new(inner), index: Index::new() })
    }

    /// `extern "C" fn(block, code) -> reason`.
    pub fn enter(&self) -> usize {
        self.memory.rx() as usize + self.env.stubs.enter
    }

    fn address(&self, offset: u32) -> u64 {
        self.memory.rx() as u64 + offset as u64
    }

    /// Address of the code of a key, translating it if need be. A process's is mostly known without a lock.
    pub fn code(&self, source: &dyn Source, name: Name) -> Result<u64, Full> {
        let alone = !self.env.relative();
        if alone && let Some(code) = self.index.find(name.key) {
            return Ok(code);
        }
        let mut inner = self.inner.lock().unwrap();
        let block = inner.find(self, source, name)?;
        let code = self.address(inner.blocks[block as usize].start);
        if alone {
            self.index.publish(name.key, code);
        }
        Ok(code)
    }

    /// Links an exit site to its target (translating that if need be) and gives key and code of the target.
    pub fn follow(&self, source: &dyn Source, site: u32) -> Result<(u64, u64), Full> {
        let mut inner = self.inner.lock().unwrap();
        let name = inner.sites[site as usize].name;
        let target = inner.find(self, source, name)?;
        if source.may_link() {
            inner.link(self, site, target);
        }
        Ok((name.key, self.address(inner.blocks[target as usize].start)))
    }

    pub fn site_key(&self, site: u32) -> u64 {
        self.inner.lock().unwrap().sites[site as usize].name.key
    }

    /// The guest instruction of a host instruction in this cache.
    pub fn origin(&self, offset: usize) -> Option<Origin> {
        let inner = self.inner.lock().unwrap();
        let n = inner.blocks.partition_point(|b| b.start as usize <= offset).checked_sub(1)?;
        let b = &inner.blocks[n];
        if offset >= (b.start + b.len) as usize {
            return None;
        }
        let at = (offset - b.start as usize) as u32;
        let f = b.faults[..b.faults.partition_point(|f| f.host <= at)].last()?;
        Some(Origin { key: b.name.key, delta: f.delta, note: f.note })
    }

    /// The guest instruction of fault record `record` of the block that contains host offset `offset`.
    pub fn origin_of_record(&self, offset: usize, record: u32) -> Option<Origin> {
        let inner = self.inner.lock().unwrap();
        let n = inner.blocks.partition_point(|b| b.start as usize <= offset).checked_sub(1)?;
        let b = &inner.blocks[n];
        let f = b.faults.get(record as usize)?;
        Some(Origin { key: b.name.key, delta: f.delta, note: f.note })
    }

    /// Drops blocks that depend on a guest byte range. Gives whether there were any.
    pub fn invalidate(&self, addr: u64, len: u64) -> bool {
        let mut inner = self.inner.lock().unwrap();
        if len == 0 || inner.by_page.is_empty() {
            return false;
        }
        let mut any = false;
        let (first, last) = (addr / PAGE_BYTES as u64, (addr + len - 1) / PAGE_BYTES as u64);
        if last - first > inner.by_page.len() as u64 {
            let pages: Vec<u64> = inner.by_page.keys().copied().filter(|p| (first..=last).contains(p)).collect();
            for page in pages {
                any |= inner.drop_page(self, page);
            }
        } else {
            for page in first..=last {
                any |= inner.drop_page(self, page);
            }
        }
        any
    }

    /// As `invalidate` for a range within one page, keeping blocks that do not overlap it. Gives whether any block was
    /// dropped; calls `empty`, with no translation under way, if the page has none left.
    pub fn invalidate_within(&self, addr: u64, len: u64, empty: impl FnOnce()) -> bool {
        let mut inner = self.inner.lock().unwrap();
        let (dropped, left) = inner.drop_range(self, addr / PAGE_BYTES as u64, addr, addr + len);
        if !left {
            empty();
        }
        dropped
    }

    /// Holds the cache still while the process forks.
    pub fn freeze(&self) -> Frozen<'_> {
        Frozen(self.inner.lock().unwrap())
    }

    /// What the child of a fork will have as its code memory.
    pub fn copy(&self, frozen: &Frozen<'_>) -> Result<CodeCopy> {
        self.memory.copy(frozen.0.used)
    }

    pub fn statistics(&self) -> Statistics {
        let inner = self.inner.lock().unwrap();
        let mut s = Statistics {
            code_bytes: inner.used as u64,
            code_bytes_max: self.memory.len() as u64,
            ..Statistics::default()
        };
        for b in &inner.blocks {
            if !b.live {
                s.dropped += 1;
                continue;
            }
            let sites = &inner.sites[b.first_site as usize..(b.first_site + b.sites) as usize];
            let jumps = sites.iter().filter(|site| site.target != u32::MAX).count();
            s.regions += 1;
            s.guest_bytes += b.guest_bytes as u64;
            s.guest_bytes_max = s.guest_bytes_max.max(b.guest_bytes as u64);
            s.host_bytes += b.len as u64;
            s.cross_page += (b.name.next != NO_NEXT) as u64;
            s.jumping += (jumps > 0) as u64;
            s.jumping_twice += (jumps > 1) as u64;
        }
        s
    }

    /// In the child of a fork.
    pub fn after_fork(&self, copy: CodeCopy) -> Result<()> {
        self.memory.adopt(copy)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        crate::fault::remove_range(self.memory.rx() as usize);
    }
}

impl Inner {
    fn find(&mut self, cache: &Cache, source: &dyn Source, name: Name) -> Result<u32, Full> {
        if let Some(&b) = self.by_name.get(&name) {
            return Ok(b);
        }
        self.translate(cache, source, name)
    }

    fn translate(&mut self, cache: &Cache, source: &dyn Source, name: Name) -> Result<u32, Full> {
        let start = self.used;
        let first_site = self.sites.len() as u32;
        let mut max_insns = source.max_insns();
        loop {
            source.translate(name, max_insns, &mut self.builder);
            match self.compiler.compile(self.builder.region_mut(), &cache.env, start, first_site) {
                Ok(()) => break,
                // Halve it until it fits: a single instruction always does.
                Err(_) => max_insns = (max_insns / 2).max(1),
            }
        }
        let code = self.compiler.asm.code();
        if start + code.len() + 64 > cache.memory.len() {
            return Err(Full);
        }
        cache.memory.write(start, code);
        self.used = (start + code.len()).next_multiple_of(16);
        let n = self.blocks.len() as u32;
        let region = self.builder.region();
        for s in &self.compiler.compiled.exits {
            let to = Name { key: region.exits[s.exit as usize].key, page: name.page, next: NO_NEXT };
            let patch = if s.patch == u32::MAX { u32::MAX } else { start as u32 + s.patch };
            self.sites.push(Site { block: n, name: to, patch, stub: start as u32 + s.stub, target: u32::MAX });
        }
        let mut hull = (u64::MAX, 0);
        for &(addr, len) in &region.covers {
            hull = (hull.0.min(addr), hull.1.max(addr + len as u64));
            for page in addr / PAGE_BYTES as u64..=(addr + len.max(1) as u64 - 1) / PAGE_BYTES as u64 {
                let list = self.by_page.entry(page).or_default();
                if list.last() != Some(&n) {
                    list.push(n);
                }
            }
        }
        self.blocks.push(Translation {
            name,
            start: start as u32,
            len: code.len() as u32,
            live: true,
            first_site,
            sites: self.compiler.compiled.exits.len() as u32,
            faults: self.compiler.compiled.faults.as_slice().into(),
            incoming: Vec::new(),
            hull,
            guest_bytes: region.covers.first().map_or(0, |c| c.1),
        });
        self.by_name.insert(name, n);
        source.log_translation(name, region, code, cache.memory.rx() as usize + start);
        Ok(n)
    }

    fn link(&mut self, cache: &Cache, site: u32, target: u32) {
        let s = &mut self.sites[site as usize];
        let alive = self.blocks[s.block as usize].live && self.blocks[target as usize].live;
        if s.patch == u32::MAX || s.target != u32::MAX || !alive {
            return;
        }
        s.target = target;
        set_jump(cache, s.patch, self.blocks[target as usize].start);
        self.blocks[target as usize].incoming.push(site);
    }

    /// Drops the blocks of a page that overlap `from..to`; whether there were any, and whether any are left.
    fn drop_range(&mut self, cache: &Cache, page: u64, from: u64, to: u64) -> (bool, bool) {
        let Some(mut list) = self.by_page.remove(&page) else { return (false, false) };
        let before = list.len();
        list.retain(|&n| {
            let b = &self.blocks[n as usize];
            let hit = b.live && b.hull.0 < to && from < b.hull.1;
            if hit {
                self.kill(cache, n);
            }
            !hit && self.blocks[n as usize].live
        });
        let result = (list.len() < before, !list.is_empty());
        if result.1 {
            self.by_page.insert(page, list);
        }
        result
    }

    fn drop_page(&mut self, cache: &Cache, page: u64) -> bool {
        let Some(list) = self.by_page.remove(&page) else { return false };
        for n in list {
            self.kill(cache, n);
        }
        true
    }

    /// Unlinks a block in both directions and forgets its key.
    fn kill(&mut self, cache: &Cache, n: u32) {
        let b = &mut self.blocks[n as usize];
        if !b.live {
            return;
        }
        b.live = false;
        cache.index.forget(b.name.key);
        if self.by_name.get(&b.name) == Some(&n) {
            self.by_name.remove(&b.name);
        }
        let incoming = std::mem::take(&mut b.incoming);
        let outgoing = b.first_site..b.first_site + b.sites;
        for site in incoming {
            let s = &mut self.sites[site as usize];
            if s.target == n {
                s.target = u32::MAX;
                set_jump(cache, s.patch, s.stub);
            }
        }
        // What it jumps to no longer has to know of it.
        for site in outgoing {
            let target = std::mem::replace(&mut self.sites[site as usize].target, u32::MAX);
            if target != u32::MAX {
                let s = &self.sites[site as usize];
                set_jump(cache, s.patch, s.stub);
                self.blocks[target as usize].incoming.retain(|&x| x != site);
            }
        }
    }
}

/// Makes the jump whose rel32 is at `patch` go to `target` (both offsets in the code memory).
fn set_jump(cache: &Cache, patch: u32, target: u32) {
    let distance = target as i64 - (patch as i64 + 4);
    cache.memory.patch_u32(patch as usize, distance as i32 as u32);
}
