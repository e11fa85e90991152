//! `-cpu MODEL,property=value,…`.
//!
//! Reference: the properties and messages of QEMU 10.0.2's `cortex-a15-arm-cpu` and its like.

use crate::config::Given;
use crate::settings::{Settings, boolean};
use arm::Model;
use spec::{Error, Result};

/// A CPU as asked for.
#[derive(Debug)]
pub struct Cpu {
    pub model: &'static Model,
    pub pmu: bool,
    /// Exception vectors are high after reset.
    pub high_vectors: bool,
    /// Frequency of the generic timers, if given.
    pub timer_hz: Option<u32>,
}

struct Row {
    name: &'static str,
    set: fn(&mut Cpu, &str) -> Result<()>,
}

macro_rules! properties {
    ($($name:literal => $set:expr;)*) => {
        static ROWS: &[Row] = &[$(Row { name: $name, set: $set },)*];
    };
}

properties! {
    "pmu" => |c, v| Ok(c.pmu = boolean("pmu", v)?);
    "reset-hivecs" => |c, v| Ok(c.high_vectors = boolean("reset-hivecs", v)?);
    "cntfrq" => |c, v| Ok(c.timer_hz = Some(frequency(v)?));
    // These models have both always.
    "vfp" => |_, v| only_on("vfp", v);
    "neon" => |_, v| only_on("neon", v);
    "cfgend" => |_, v| if boolean("cfgend", v)? { Err(Error::new("'cfgend=on' is not supported yet")) } else { Ok(()) };
}

fn only_on(name: &str, value: &str) -> Result<()> {
    if boolean(name, value)? { Ok(()) } else { Err(Error::new(format!("'{name}=off' is not supported yet"))) }
}

fn frequency(value: &str) -> Result<u32> {
    let hz = crate::settings::number("cntfrq", value)?;
    u32::try_from(hz).ok().filter(|hz| *hz > 0).ok_or_else(|| Error::new(format!("'{value}' is no frequency")))
}

impl Cpu {
    /// `text` is the option's value, whose model has been checked; globals come first.
    pub fn parse(text: &str, globals: &[Given]) -> Result<Cpu> {
        let (name, rest) = text.split_once(',').unwrap_or((text, ""));
        let model = arm::features::model(name).ok_or_else(|| Error::new(format!("unable to find CPU model '{name}'")))?;
        let mut cpu = Cpu { model, pmu: true, high_vectors: false, timer_hz: None };
        let class = format!("{name}-arm-cpu");
        for given in globals.iter().filter(|g| g.settings.get("driver") == Some(&class)) {
            let get = |key| given.settings.get(key).unwrap_or_default();
            cpu.set(&class, get("property"), get("value"))?;
        }
        if let Some(word) = rest.split(',').find(|w| !w.is_empty() && !w.contains('=')) {
            return Err(Error::new(format!("Expected key=value format, found {word}.")));
        }
        for (key, value) in Settings::parse(rest, None)?.iter() {
            cpu.set(&class, key, value)?;
        }
        Ok(cpu)
    }

    fn set(&mut self, class: &str, key: &str, value: &str) -> Result<()> {
        let failed = |e: Error| Error::new(format!("can't apply global {class}.{key}={value}: {e}"));
        let row = ROWS.iter().find(|r| r.name == key);
        let row = row.ok_or_else(|| failed(Error::new(format!("Property '{class}.{key}' not found"))))?;
        (row.set)(self, value).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Cpu::parse(text, &[]).unwrap_err().to_string()
    }

    #[test]
    fn properties_come_after_the_model() {
        let cpu = Cpu::parse("cortex-a15,pmu=off,cntfrq=1000000", &[]).unwrap();
        assert_eq!((cpu.model.name, cpu.pmu, cpu.timer_hz), ("cortex-a15", false, Some(1_000_000)));
        assert!(Cpu::parse("cortex-a7", &[]).unwrap().pmu);
    }

    #[test]
    fn globals_count_too() {
        let settings = Settings::parse("driver=max-arm-cpu,property=pmu,value=off", None).unwrap();
        let global = Given { option: String::new(), settings };
        assert!(!Cpu::parse("max", &[global]).unwrap().pmu);
    }

    #[test]
    fn mistakes_have_qemus_sentences() {
        assert_eq!(refused("cortex-a15,foo=1"), "can't apply global cortex-a15-arm-cpu.foo=1: Property 'cortex-a15-arm-cpu.foo' not found");
        assert_eq!(refused("cortex-a15,pmu=maybe"), "can't apply global cortex-a15-arm-cpu.pmu=maybe: Parameter 'pmu' expects 'on' or 'off'");
        assert_eq!(refused("cortex-a15,foo"), "Expected key=value format, found foo.");
    }
}
