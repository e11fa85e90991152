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
