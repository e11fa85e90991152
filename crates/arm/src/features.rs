//! Architecture features and CPU models.
//!
//! **Reference.** Each core's technical reference manual; Linux `arch/arm/include/uapi/asm/hwcap.h` for the auxiliary vector.
//!
//! **Not modelled**: M-profile models.

/// A set of architecture features.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features(u64);

macro_rules! features {
    ($($(#[doc = $doc:literal])* $name:ident $bit:literal;)*) => {
        impl Features {
            $($(#[doc = $doc])* pub const $name: Features = Features(1 << $bit);)*
        }
    };
}

features! {
    /// ARMv5TE: BLX, CLZ, BKPT, saturating and halfword multiplies, LDRD, PLD; Thumb; loads to PC interwork.
    V5TE 0;
    /// ARMv6: media instructions, LDREX, REV, SXT, SETEND.
    V6 1;
    /// ARMv6K: byte, halfword and doubleword exclusives, CLREX, hints, TPIDRURO.
    V6K 2;
    /// ARMv6T2: 32-bit Thumb, IT, MOVW, MOVT, bit fields, MLS.
    V6T2 3;
    /// ARMv7: barriers as instructions, PLI.
    V7 4;
    /// ARMv8: LDA, STL, HLT, SEVL and the wider T16/T32 register ranges.
    V8 5;
    /// SDIV and UDIV in T32.
    DIV_T32 6;
    /// SDIV and UDIV in A32.
    DIV_A32 7;
    /// PLDW.
    MP 8;
    CRC32 9;
    /// Iwmmxt is not implemented; its cores are listed for their integer side.
    XSCALE 10;

    VFP2 16;
    VFP3 17;
    /// 32 doubleword registers.
    D32 18;
    /// Half-precision conversions.
    FP16_CONVERT 19;
    /// VFMA and friends, in VFP and Advanced SIMD.
    VFP4 20;
    NEON 21;
    /// ARMv8 additions: VSEL, VMAXNM, VRINT, VCVTA, VCVT f64-f16.
    V8_FP 22;
    AES 23;
    PMULL 24;
    SHA1 25;
    SHA2 26;
    /// VQRDMLAH, VQRDMLSH.
    RDM 27;
    /// VSDOT, VUDOT.
    DOT_PRODUCT 28;
    /// Half-precision arithmetic.
    FP16 29;
    /// VCMLA, VCADD.
    FCMA 30;
    /// VJCVT.
    JSCVT 31;
    /// VFMAL, VFMSL.
    FHM 32;
    BF16 33;
    I8MM 34;
    /// SB, speculation barrier.
    SB 35;
    /// VFP data processing on short vectors (FPSCR.Len).
    SHORT_VECTOR 36;
    /// Large Physical Address Extension: long descriptors, PXN.
    LPAE 37;
}

impl Features {
    pub const NONE: Features = Features(0);

    #[inline]
    pub const fn has(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn with(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    pub const fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }
}

/// A CPU model.
#[derive(Debug)]
pub struct Model {
    pub name: &'static str,
    pub features: Features,
    /// AT_HWCAP and AT_HWCAP2.
    pub hwcap: u32,
    pub hwcap2: u32,
    /// AT_PLATFORM.
    pub platform: &'static str,
    pub deprecated: bool,
}

impl Model {
    /// MIDR: implementer, variant, architecture, part, revision.
    pub fn midr(&self) -> u32 {
        match self.name {
            "arm926" => 0x4106_9265,
            "arm946" => 0x4105_9461,
            "arm1026" => 0x4106_a262,
            "arm1136" => 0x4117_b363,
            "arm1136-r2" => 0x4107_b362,
            "arm11mpcore" => 0x410f_b022,
            "arm1176" => 0x410f_b767,
            "cortex-a7" => 0x410f_c075,
            "cortex-a8" => 0x410f_c080,
            "cortex-a9" => 0x410f_c090,
            "cortex-a15" => 0x414f_c0f0,
            "cortex-r5" | "cortex-r5f" => 0x411f_c153,
            "cortex-r52" => 0x411f_d133,
            name if name.starts_with("pxa") => 0x6905_2100,
            _ => 0x411f_d070,
        }
    }

    /// MVFR0 to MVFR2.
    pub fn mvfr(&self, n: u32) -> u32 {
        match (n, self.name) {
            (0, "cortex-a8" | "cortex-a9") => 0x1111_0222,
            (0, _) => 0x1011_0222,
            (1, "cortex-a8") => 0x0001_1111,
            (1, "cortex-a9") => 0x0111_1111,
            (1, _) if self.features.has(Features::FP16) => 0x1321_1111,
            (1, _) if self.features.has(Features::V8_FP) => 0x1211_1111,
            (1, _) => 0x1111_1111,
            (2, _) if self.features.has(Features::V8_FP) => 0x43,
            _ => 0,
        }
    }

    /// FPSID, on the models whose programs can read it (before VFPv3).
    pub fn fpsid(&self) -> u32 {
        match self.name {
            "arm926" => 0x4101_1090,
            "arm1026" => 0x4101_10a0,
            "arm1136" | "arm1136-r2" | "arm11mpcore" => 0x4101_20b4,
            "arm1176" => 0x4101_20b5,
            _ => 0,
        }
    }
}

const fn all(list: &[Features]) -> Features {
    let mut f = Features::NONE;
    let mut i = 0;
    while i < list.len() {
        f = f.with(list[i]);
        i += 1;
    }
    f
}

const V4: Features = Features::NONE;
const V5: Features = Features::V5TE;
const V6: Features = V5.with(Features::V6);
const V6K: Features = V6.with(Features::V6K);
const V7: Features = all(&[V6K, Features::V6T2, Features::V7]);
const V7VE: Features = all(&[V7, Features::DIV_T32, Features::DIV_A32, Features::MP, Features::LPAE]);
const V8: Features = all(&[V7VE, Features::V8, Features::CRC32]);
const VFP2: Features = Features::VFP2.with(Features::SHORT_VECTOR);
const VFP3_NEON: Features = all(&[Features::VFP2, Features::VFP3, Features::D32, Features::NEON]);
const VFP4_NEON: Features = all(&[VFP3_NEON, Features::FP16_CONVERT, Features::VFP4]);
const MAX_SIMD: Features = all(&[
    Features::SHORT_VECTOR,
    VFP4_NEON,
    Features::V8_FP,
    Features::AES,
    Features::PMULL,
    Features::SHA1,
    Features::SHA2,
    Features::RDM,
    Features::DOT_PRODUCT,
    Features::FP16,
    Features::FCMA,
    Features::JSCVT,
    Features::FHM,
    Features::BF16,
    Features::I8MM,
    Features::SB,
]);

macro_rules! models {
    ($($name:literal $features:expr, $hwcap:literal $hwcap2:literal $platform:literal $($deprecated:ident)?;)*) => {
        /// Every model, in the order of `-cpu help`.
        pub static MODELS: &[Model] = &[$(Model {
            name: $name,
            features: $features,
            hwcap: $hwcap,
            hwcap2: $hwcap2,
            platform: $platform,
            deprecated: models!(@deprecated $($deprecated)?),
        }),*];
    };
    (@deprecated deprecated) => { true };
    (@deprecated) => { false };
}

models! {
    "any"         V8.with(MAX_SIMD),                              0x0fdf_b0d7 0x7f "v8l";
    "arm1026"     V5.with(VFP2),                                  0x0000_00d7 0    "v5l";
    "arm1136"     V6K.with(VFP2),                                 0x0000_80d7 0    "v6l";
    "arm1136-r2"  V6.with(VFP2),                                  0x0000_00d7 0    "v6l";
    "arm1176"     V6K.with(VFP2),                                 0x0000_80d7 0    "v6l";
    "arm11mpcore" V6K.with(VFP2),                                 0x0000_80d7 0    "v6l";
    "arm926"      V5.with(VFP2),                                  0x0000_00d7 0    "v5l";
    "arm946"      V5,                                             0x0000_0097 0    "v5l";
    "cortex-a15"  V7VE.with(VFP4_NEON),                           0x001f_b8d7 0    "v7l";
    "cortex-a7"   V7VE.with(VFP4_NEON),                           0x001f_b8d7 0    "v7l";
    "cortex-a8"   all(&[V7, VFP3_NEON, Features::SHORT_VECTOR]),   0x0008_b8d7 0    "v7l";
    "cortex-a9"   all(&[V7, Features::MP, VFP3_NEON, Features::FP16_CONVERT, Features::SHORT_VECTOR]), 0x0008_b8d7 0 "v7l";
    "cortex-r5"   all(&[V7, Features::MP, Features::DIV_T32, Features::DIV_A32]), 0x0006_8097 0 "v7l";
    "cortex-r52"  all(&[V8, VFP4_NEON, Features::V8_FP]),         0x001f_b0d7 0x10 "v8l";
    "cortex-r5f"  all(&[V7, Features::MP, Features::DIV_T32, Features::DIV_A32, Features::VFP2, Features::VFP3]), 0x0006_e0d7 0 "v7l";
    "max"         V8.with(MAX_SIMD),                              0x0fdf_b0d7 0x7f "v8l";
    "pxa250"      V5.with(Features::XSCALE),                      0x0000_0097 0    "v5l" deprecated;
    "pxa255"      V5.with(Features::XSCALE),                      0x0000_0097 0    "v5l" deprecated;
    "pxa260"      V5.with(Features::XSCALE),                      0x0000_0097 0    "v5l" deprecated;
    "pxa261"      V5.with(Features::XSCALE),                      0x0000_0097 0    "v5l" deprecated;
    "pxa262"      V5.with(Features::XSCALE),                      0x0000_0097 0    "v5l" deprecated;
    "sa1100"      V4,                                             0x0000_0017 0    "v4l";
    "sa1110"      V4,                                             0x0000_0017 0    "v4l";
}

/// What a user-mode program runs on unless told otherwise.
pub const DEFAULT_USER_MODEL: &str = "max";

/// Finds a model by name.
pub fn model(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|m| m.name == name)
}

/// The text of `-cpu help`.
pub fn help() -> String {
    let mut text = String::from("Available CPUs:\n");
    for m in MODELS {
        text += &format!("  {}{}\n", m.name, if m.deprecated { " (deprecated)" } else { "" });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_sorted_and_unique() {
        assert!(MODELS.is_sorted_by(|a, b| a.name < b.name), "-cpu help is alphabetical");
        assert!(model(DEFAULT_USER_MODEL).is_some());
        assert!(model("cortex-a53").is_none(), "no such 32-bit model");
    }

    #[test]
    fn machines_read_the_same_midr() {
        for id in crate::sysreg::id::MODELS {
            assert_eq!(model(id.model).unwrap().midr(), id.midr, "{}", id.model);
        }
    }

    /// Bits of AT_HWCAP that promise instructions.
    #[test]
    fn hwcap_promises_what_the_features_have() {
        for m in MODELS {
            for (bit, feature) in [
                (6, Features::VFP2),
                (7, Features::V5TE),
                (12, Features::NEON),
                (13, Features::VFP3),
                (15, Features::V6K),
                (16, Features::VFP4),
                (17, Features::DIV_A32),
                (18, Features::DIV_T32),
                (19, Features::D32),
                (22, Features::FP16),
                (24, Features::DOT_PRODUCT),
                (25, Features::FHM),
                (26, Features::BF16),
                (27, Features::I8MM),
            ] {
                assert_eq!(m.hwcap >> bit & 1 != 0, m.features.has(feature), "{} HWCAP bit {bit}", m.name);
            }
            for (bit, feature) in [(0, Features::AES), (2, Features::SHA1), (4, Features::CRC32), (5, Features::SB)] {
                assert_eq!(m.hwcap2 >> bit & 1 != 0, m.features.has(feature), "{} HWCAP2 bit {bit}", m.name);
            }
        }
    }
}
