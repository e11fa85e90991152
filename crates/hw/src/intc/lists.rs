//! What the list registers of a virtual CPU interface add up to, in the same way for GICv2 (GICH) and GICv3 (ICH).
//!
//! Reference: IHI 0048B 5.3 (GICH_HCR, GICH_MISR, GICH_EISR, GICH_ELRSR); IHI 0069H 12.4.

/// HCR: enable, what raises the maintenance interrupt (bits as in MISR, which has EOI at bit 0), EOICount.
pub mod hcr {
    pub const EN: u32 = 1;
    pub const UIE: u32 = 1 << 1;
    pub const LRENPIE: u32 = 1 << 2;
    pub const NPIE: u32 = 1 << 3;
    pub const VGRP0EIE: u32 = 1 << 4;
    pub const VGRP0DIE: u32 = 1 << 5;
    pub const VGRP1EIE: u32 = 1 << 6;
    pub const VGRP1DIE: u32 = 1 << 7;
    pub const EOI_COUNT: u32 = 0xf800_0000;
    pub const EOI_COUNT_ONE: u32 = 1 << 27;
}

/// A list register, as far as this matters.
#[derive(Clone, Copy)]
pub struct List {
    pub active: bool,
    pub pending: bool,
    /// A physical interrupt ends with it.
    pub hardware: bool,
    /// The hypervisor wants to know of its end.
    pub tells: bool,
}

/// Registers for which `f` holds, as a mask.
fn mask(lists: &[List], f: impl Fn(&List) -> bool) -> u32 {
    lists.iter().enumerate().map(|(i, list)| u32::from(f(list)) << i).sum()
}

/// EISR: ended, and the hypervisor wants to know.
pub fn ended(lists: &[List]) -> u32 {
    mask(lists, |l| !l.active && !l.pending && !l.hardware && l.tells)
}

/// ELRSR: free for another interrupt.
pub fn free(lists: &[List]) -> u32 {
    mask(lists, |l| !l.active && !l.pending && (l.hardware || !l.tells))
}

/// MISR; `groups` are those that the guest has enabled.
pub fn misr(lists: &[List], control: u32, groups: [bool; 2]) -> u32 {
    let mut bits = u32::from(ended(lists) != 0);
    for (enable, met) in [
        (hcr::UIE, mask(lists, |l| l.active || l.pending).count_ones() <= 1),
        (hcr::LRENPIE, control & hcr::EOI_COUNT != 0),
        (hcr::NPIE, mask(lists, |l| l.pending && !l.active) == 0),
        (hcr::VGRP0EIE, groups[0]),
        (hcr::VGRP0DIE, !groups[0]),
        (hcr::VGRP1EIE, groups[1]),
        (hcr::VGRP1DIE, !groups[1]),
    ] {
        if control & enable != 0 && met {
            bits |= enable;
        }
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> List {
        let has = |c| text.contains(c);
        List { active: has('a'), pending: has('p'), hardware: has('h'), tells: has('t') }
    }

    #[test]
    fn lists_are_free_or_ended_or_in_use() {
        let lists = ["", "t", "h", "ht"].map(list);
        assert_eq!((ended(&lists), free(&lists)), (0b0010, 0b1101));
        let used = ["a", "pt", "ap", "ath"].map(list);
        assert_eq!((ended(&used), free(&used)), (0, 0));
    }

    #[test]
    fn the_hypervisor_hears_of_what_it_asked_for() {
        let lists = ["p", "", "", ""].map(list);
        assert_eq!(misr(&lists, 0xff, [true, false]), hcr::UIE | hcr::VGRP0EIE | hcr::VGRP1DIE);
        assert_eq!(misr(&lists, hcr::EOI_COUNT_ONE | hcr::LRENPIE, [true, true]), hcr::LRENPIE);
        let busy = ["a", "ap", "t", ""].map(list);
        assert_eq!(misr(&busy, hcr::UIE | hcr::NPIE, [false; 2]), 1 | hcr::NPIE);
    }
}
