//! Translation for a machine: a region is named by its physical page and looks the same at every virtual address of it.
//!
//! **Invariant**: what was read of a page counts only if the page was protected from writes by then.

use super::{Machine, PAGE_BYTES, debug, icount, run};
use crate::breakpoint;
use crate::cache::{NO_NEXT, Name, Source};
use crate::engine;
use cpu::Guest;
use fabric::View;
use ir::{Builder, Region, TrapKind};
use std::sync::atomic::Ordering;

/// The machine as a source of translations for code at a virtual page.
pub(super) struct Here<'a> {
    pub m: &'a Machine,
    pub page: u64,
}

impl Source for Here<'_> {
    fn max_insns(&self) -> u32 {
        if self.m.config.one_insn_per_tb { 1 } else { engine::MAX_REGION_INSNS }
    }

    fn translate(&self, name: Name, max_insns: u32, b: &mut Builder) {
        match name.variant() {
            0 => self.m.translate(name, max_insns, b),
            debug::ONE_INSN => self.m.translate(name, 1, b),
            variant => {
                self.m.translate(name, max_insns, b);
                let stops = self.m.debug.offsets(variant).unwrap_or_default();
                breakpoint::cut(
                    b,
                    TrapKind::Step,
                    |pc| stops.binary_search(&(pc as u16)).is_ok(),
                    |n, b| self.m.translate(name, n, b),
                );
            }
        }
        if let Some(trace) = self.m.trace.get()
            && (trace.items)().op
        {
            trace.built(&self.placed(b.region()));
        }
    }

    fn log_translation(&self, name: Name, region: &Region, code: &[u8], address: usize) {
        if let Some(trace) = self.m.trace.get()
            && (trace.items)().at_translation()
        {
            let view = self.m.space.view();
            trace.translated(
                &self.placed(region),
                code,
                address,
                &debug::Placed { name, view: &view, page: self.page },
            );
        }
    }

    fn may_link(&self) -> bool {
        !self.m.nochain.load(Ordering::Relaxed)
    }
}

impl Here<'_> {
    /// The region as it looks at its virtual address.
    fn placed(&self, region: &Region) -> Region {
        let mut r = region.clone();
        r.pc = r.pc.wrapping_add(self.page);
        r.key = run::absolute(self.m, r.key, self.page);
        for e in &mut r.exits {
            e.key = run::absolute(self.m, e.key, self.page);
        }
        r
    }
}

impl Machine {
    /// Makes the region of a name, breakpoints or not.
    fn translate(&self, name: Name, max_insns: u32, b: &mut Builder) {
        let view = self.space.view();
        let code = PageCode { view: &view, name, start: self.guest.pc(name.key) };
        let mut max_insns = max_insns;
        loop {
            b.begin(name.key, self.guest.pc(name.key));
            let count = self.icount.as_ref().map(|_| icount::prologue(b, name.key));
            self.guest.translate(name.key, cpu::Limits { max_insns, relative: true }, &code, b);
            if let Some(place) = count {
                if let Some(insns) = icount::first_exit(b.region()) {
                    max_insns = insns;
                    continue;
                }
                icount::finish(b.region_mut(), place);
            }
            code.mark_exits(&*self.guest, self.debug.breakpoints.exact(), b.region_mut());
            let mut protected = self.protect(&view, name.phys());
            if name.next != NO_NEXT {
                protected &= self.protect(&view, name.next);
            }
            // What was read before the page was protected may have changed since.
            if protected {
                break;
            }
        }
        for covered in &mut b.region_mut().covers {
            let page = if covered.0 < PAGE_BYTES { name.phys() } else { name.next };
            if covered.0 < PAGE_BYTES && covered.0 + covered.1 as u64 > PAGE_BYTES {
                // An instruction that runs over: all of both pages' ends.
                covered.1 = (PAGE_BYTES - covered.0) as u32;
            }
            covered.0 = page | covered.0 & (PAGE_BYTES - 1);
        }
        if name.next != NO_NEXT {
            b.region_mut().covers.push((name.next, 4));
        }
        engine::verify(b.region());
    }
}

/// The instructions of one page, and the start of the next one for an instruction that runs over.
pub(super) struct PageCode<'a> {
    pub view: &'a View,
    pub name: Name,
    /// Offset of the region's first instruction.
    pub start: u64,
}

impl PageCode<'_> {
    fn part(&self, page: u64, offset: u64, buf: &mut [u8]) -> usize {
        let len = buf.len().min((PAGE_BYTES - offset) as usize);
        match self.view.ram(page + offset, len as u64) {
            Some((ram, at)) => {
                ram.read(at, &mut buf[..len]);
                len
            }
            None => 0,
        }
    }

    /// Tells the ways out that lead to other pages from those within this one, and whose targets overwrite the flags.
    fn mark_exits(&self, guest: &dyn Guest, exact: bool, region: &mut Region) {
        let last = PAGE_BYTES - guest.longest_instruction() as u64;
        for e in &mut region.exits {
            e.far = guest.pc(e.key) > last;
        }
        if !exact {
            engine::mark_dead_flags(guest, self, region);
        }
    }
}

impl cpu::Code for PageCode<'_> {
    fn read(&self, addr: u64, buf: &mut [u8]) -> usize {
        let mut done = 0;
        if addr < PAGE_BYTES {
            done = self.part(self.name.phys(), addr, buf);
        }
        let at = addr + done as u64;
        // Only the region's first instruction may run over into the next page.
        let over = at >= PAGE_BYTES && at < PAGE_BYTES + 16 && self.name.next != NO_NEXT;
        if done < buf.len() && over && addr >= self.start {
            done += self.part(self.name.next, at - PAGE_BYTES, &mut buf[done..]);
        }
        done
    }
}
