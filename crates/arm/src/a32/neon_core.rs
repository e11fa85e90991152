//! VDUP from a core register. Arm ARM (DDI 0406C) A8.8.314.

use super::fp::{V, Vn};
use crate::{Flow, Translator};
use spec::insns;

insns! { pub ROWS: Translator => Flow;
    vdup_core "cccc 1110 1bq0 dddd tttt 1011 d0e1 0000" (b, q, d, t, e);
}

impl Translator {
    fn vdup_core(&mut self, b: u32, q: bool, d: Vn, t: u32, e: u32) -> Flow {
        let d = V::from(d);
        if self.no_neon(q, &[d]) || t == 15 || b & e != 0 {
            return self.undefined();
        }
        let v = self.reg(t);
        let all = self.b.vdup(2 - (2 * b + e) as u8, v);
        self.set_vec(q, d, all)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Machine;

    #[test]
    fn bytes_fill_a_quadword() {
        // vdup.8 q0, r1
        let m = Machine::a32(&[0xeee0_1b10]).set_r(1, 0x1234_5678).run();
        assert_eq!(m.q(0), 0x7878_7878_7878_7878_7878_7878_7878_7878);
    }
}
