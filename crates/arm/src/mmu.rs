//! Address translation: from a virtual address and the system registers to a page and its permissions, or a fault.
//!
//! Where a hypervisor has switched the second stage on, what the first one gives and the addresses of its descriptors are
//! translated once more. The page's entry remembers both; its size is the first stage's.
//!
//! **Reference.** Arm ARM (DDI 0406C) B3.2 (MMU disabled), B3.5 (short descriptors), B3.6 (long descriptors), B3.7 (access
//! control), B3.13 (fault status).
//!
//! **Not modelled**: FCSE, the TLB's own conflicts, memory attributes beyond what PAR shows, hardware management of the access
//! flag (SCTLR.HA), the subpage formats of ARMv5.
//!
//! | file | what |
//! |---|---|
//! | `mmu` | worlds and address-space tags, the entry [`walk`], translation switched off |
//! | `mmu/short` | the short-descriptor format |
//! | `mmu/long` | the long-descriptor format |
//! | `mmu/second` | the second stage |
//! | `mmu/fault` | causes of faults, and how both formats of the status registers say them |

mod fault;
mod long;
#[cfg(test)]
mod model;
mod second;
mod short;

use crate::Arm;
use crate::state::bank::mode;
use crate::state::sys::{self, hcr, sctlr};
use crate::state::key;
use crate::system::{SECURE_VIEW, regime};
use cpu::Access;
use cpu::system::{Mapping, Physical};
use ir::State;

pub use fault::{Cause, Fault, Second, Syndrome};

/// Whose translation it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum World {
    NonSecure,
    Secure,
    Hyp,
}

/// A translation as PAR and the TLB want it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Physical address of the byte asked for.
    pub phys: u64,
    /// log2 of the size of the entry that maps it.
    pub size_bits: u8,
    pub read: bool,
    pub write: bool,
    pub execute: bool,
    pub global: bool,
    /// The physical address is in the Non-secure memory.
    pub non_secure: bool,
    /// Attributes as a MAIR byte, and shareability; 0 where the format does not say.
    pub attributes: u8,
    pub shareability: u8,
}

/// What a walk depends on besides the tables.
#[derive(Clone, Copy)]
pub struct Walker<'a> {
    pub arm: &'a Arm,
    pub state: &'a State,
    pub mem: &'a dyn Physical,
    pub world: World,
    /// The access is unprivileged.
    pub user: bool,
    pub dacr: u32,
}

/// The world that a key executes in.
pub fn world(key: u64) -> World {
    if key::mode(key) == mode::HYP {
        World::Hyp
    } else if key & key::SECURE != 0 {
        World::Secure
    } else {
        World::NonSecure
    }
}

/// Whether the stage 1 translation of a world uses the long format.
pub fn long_format(state: &State, world: World) -> bool {
    match world {
        World::Hyp => true,
        World::Secure => state.u32_at(sys::bank(sys::TTBCR, true)) & sys::TTBCR_EAE != 0,
        World::NonSecure => state.u32_at(sys::TTBCR) & sys::TTBCR_EAE != 0,
    }
}

/// The ASID in use.
pub fn asid(state: &State, secure: bool) -> u8 {
    let ttbcr = state.u32_at(sys::bank(sys::TTBCR, secure));
    if ttbcr & sys::TTBCR_EAE == 0 {
        return state.u32_at(sys::bank(sys::CONTEXTIDR, secure)) as u8;
    }
    let base = if ttbcr >> 22 & 1 != 0 { sys::TTBR1 } else { sys::TTBR0 };
    (state.u64_at(sys::bank64(base, secure)) >> 48) as u8
}

/// The tag of translations of a world: its number, the VMID where there is a stage 2, and an ASID.
pub fn tag(arm: &Arm, state: &State, world: World, asid: u8) -> u64 {
    let vmid = if world == World::NonSecure && arm.has_virtualization() {
        state.u64_at(sys::VTTBR) >> 48 & 0xff
    } else {
        0
    };
    match world {
        World::NonSecure => vmid << 8 | asid as u64,
        World::Secure => 1 << 16 | asid as u64,
        World::Hyp => 2 << 16,
    }
}

/// `System::address_space`: the tag of the current address space of a regime.
pub fn address_space(arm: &Arm, state: &State, regime: u8) -> u64 {
    let world = world_of_regime(arm, state, regime);
    let asid = if world == World::Hyp { 0 } else { asid(state, world == World::Secure) };
    tag(arm, state, world, asid)
}

/// The world of a regime's accesses, in a machine of this kind.
fn world_of_regime(arm: &Arm, state: &State, number: u8) -> World {
    if arm.has_virtualization() && number == regime::HYP {
        return World::Hyp;
    }
    match world(state.u64_at(ir::state::KEY)) {
        World::Secure => World::Secure,
        _ => World::NonSecure,
    }
}

impl<'a> Walker<'a> {
    /// For accesses of a regime in the state's current world.
    pub fn of_regime(arm: &'a Arm, state: &'a State, number: u8, mem: &'a dyn Physical) -> Walker<'a> {
        let world = world_of_regime(arm, state, number);
        let secure = world == World::Secure;
        let which = if arm.has_virtualization() {
            state.u32_at(sys::bank(sys::DACR_CURRENT, secure))
        } else {
            (number & regime::OTHER_DOMAINS != 0) as u32
        };
        let user = world != World::Hyp && number & regime::KERNEL == 0;
        Walker { arm, state, mem, world, user, dacr: state.u32_at(sys::dacr(secure, which)) }
    }

    pub fn secure(&self) -> bool {
        self.world == World::Secure
    }

    /// SCTLR, or HSCTLR.
    pub fn control(&self) -> u32 {
        match self.world {
            World::Hyp => self.state.u32_at(sys::HSCTLR),
            _ => self.state.u32_at(sys::bank(sys::SCTLR, self.secure())),
        }
    }

    /// HCR as far as it is in force here.
    fn hypervisor(&self) -> u32 {
        if self.world == World::NonSecure { effective_hcr(self.arm, self.state) } else { 0 }
    }

    /// Whether what the first stage gives is translated again.
    fn has_second_stage(&self) -> bool {
        self.hypervisor() & (hcr::VM | hcr::DC) != 0
    }

    /// A descriptor of `size` bytes, in the byte order of the translation regime; `failed` if there is no memory.
    /// `non_secure` says which memory it is in.
    fn descriptor(&self, addr: u64, size: u8, non_secure: bool, failed: Fault) -> Result<u64, Fault> {
        let at = if self.has_second_stage() { self.descriptor_address(addr)? } else { self.seen(addr, non_secure) };
        let raw = self.mem.read(at, size).ok_or(failed)?;
        Ok(match (self.control() & sctlr::EE != 0, size) {
            (false, _) => raw,
            (true, 4) => (raw as u32).swap_bytes() as u64,
            (true, _) => raw.swap_bytes(),
        })
    }

    /// Where the machine has a physical address of Secure or Non-secure memory.
    pub fn seen(&self, phys: u64, non_secure: bool) -> u64 {
        let below = self.arm.options.map_or(0, |o| o.secure_view_below);
        if non_secure || phys >= below { phys } else { phys | SECURE_VIEW }
    }

    /// Where a descriptor of the first stage is by the second one.
    fn descriptor_address(&self, ipa: u64) -> Result<u64, Fault> {
        let m = second::walk(self, ipa, true)?;
        if !m.read || self.hypervisor() & hcr::PTW != 0 && m.is_device() {
            let second = Some(Second { ipa, on_walk: true });
            return Err(Fault { cause: Cause::Permission, level: m.level, domain: 0, second });
        }
        Ok(m.phys)
    }

    /// Whether the first stage translates.
    fn has_first_stage(&self) -> bool {
        self.control() & sctlr::M != 0 && self.hypervisor() & (hcr::TGE | hcr::DC) == 0
    }

    /// Whether the first stage's tables are long ones.
    pub fn is_long(&self) -> bool {
        long_format(self.state, self.world)
    }

    fn first_stage(&self, addr: u32) -> Result<Translation, Fault> {
        if !self.has_first_stage() {
            // Strongly-ordered memory, or Normal where the hypervisor says so.
            let attributes = if self.hypervisor() & hcr::DC != 0 { 0xff } else { 0 };
            return Ok(Translation {
                phys: addr as u64,
                size_bits: 32,
                read: true,
                write: true,
                execute: true,
                global: true,
                non_secure: self.world != World::Secure,
                attributes,
                shareability: 0,
            });
        }
        if self.is_long() { long::stage_1(self, addr) } else { short::walk(self, addr) }
    }

    /// Translates by all stages; does not look at what access is asked for.
    pub fn translate(&self, addr: u32) -> Result<Translation, Fault> {
        let first = self.first_stage(addr)?;
        if !self.has_second_stage() {
            return Ok(first);
        }
        Ok(second::combine(first, &second::walk(self, first.phys, false)?))
    }

    /// Translates and checks an access.
    pub fn access(&self, addr: u32, access: Access) -> Result<Translation, Fault> {
        let first = self.access_first(addr, access)?;
        if !self.has_second_stage() {
            return Ok(first);
        }
        let m = second::walk(self, first.phys, false)?;
        if !allows(access, m.read, m.write, m.execute) {
            let second = Some(Second { ipa: first.phys, on_walk: false });
            return Err(Fault { cause: Cause::Permission, level: m.level, domain: 0, second });
        }
        Ok(second::combine(first, &m))
    }

    /// The same with what the first stage alone gives: an intermediate physical address.
    pub fn access_first(&self, addr: u32, access: Access) -> Result<Translation, Fault> {
        let t = self.first_stage(addr)?;
        if allows(access, t.read, t.write, t.execute) { Ok(t) } else { Err(self.permission_fault(addr)) }
    }

    /// The fault of an access that the first stage does not allow: only the walk knows level and domain.
    fn permission_fault(&self, addr: u32) -> Fault {
        let found = if self.is_long() { long::leaf(self, addr) } else { short::leaf(self, addr) };
        let (level, domain) = found.unwrap_or((1, 0));
        Fault { cause: Cause::Permission, level, domain, second: None }
    }
}

fn allows(access: Access, read: bool, write: bool, execute: bool) -> bool {
    match access {
        Access::Read => read,
        Access::Write => write,
        Access::Execute => execute,
    }
}

/// HCR as Non-secure PL1 and PL0 feel it: TGE overrides others, and routes all interrupts.
pub fn effective_hcr(arm: &Arm, state: &State) -> u32 {
    if !arm.has_virtualization() {
        return 0;
    }
    let value = state.u32_at(sys::HCR);
    if value & hcr::TGE == 0 { value } else { value & !hcr::OFF_BY_TGE | hcr::FMO | hcr::IMO | hcr::AMO }
}

/// `System::walk`: the page of `addr` in a regime, or the syndrome for `System::fail`.
pub fn walk(
    arm: &Arm,
    state: &State,
    number: u8,
    addr: u64,
    access: Access,
    mem: &dyn Physical,
) -> Result<Mapping, u32> {
    let walker = Walker::of_regime(arm, state, number, mem);
    let long = walker.is_long();
    let t = walker.access(addr as u32, access).map_err(|f| f.syndrome(long || f.second.is_some()).0)?;
    // With several worlds a global entry of one must not serve another: it becomes one of this world's address space.
    let worlds = arm.has_security() || arm.has_virtualization();
    Ok(Mapping {
        phys: walker.seen(t.phys, t.non_secure) & !0xfff,
        size_bits: t.size_bits,
        read: t.read,
        write: t.write,
        execute: t.execute,
        global: t.global && !worlds,
    })
}
