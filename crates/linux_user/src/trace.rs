//! Connects the engine with `-d` (translation and execution), `-perfmap` and `-jitdump`.

use crate::log;
use crate::options::Options;
use crate::symbols::Symbols;
use jit::trace::{Items, Trace};
use jit::{Engine, perf};
use spec::Result;
use std::sync::Arc;

/// Whether names of functions will be wanted.
pub fn wants_symbols(options: &Options) -> bool {
    let items = items();
    items.at_translation() || items.at_execution() || options.perfmap || options.jitdump
}

fn items() -> Items {
    Items {
        in_asm: log::on(log::IN_ASM),
        op: log::on(log::OP),
        op_opt: log::on(log::OP_OPT),
        out_asm: log::on(log::OUT_ASM),
        exec: log::on(log::EXEC),
        cpu: log::on(log::CPU),
        fpu: log::on(log::FPU),
        nochain: log::on(log::NOCHAIN),
    }
}

/// Before anything is translated.
pub fn attach(options: &Options, engine: &Engine, guest: Arc<dyn cpu::Guest>, symbols: Symbols) -> Result<()> {
    let items = items();
    let symbols = Arc::new(symbols);
    let map = if options.perfmap { Some(perf::Map::create()?) } else { None };
    let dump = if options.jitdump { Some(perf::Dump::create()?) } else { None };
    let names = symbols.clone();
    let trace = Arc::new(Trace {
        items: self::items,
        filter: options.filter.clone(),
        guest,
        symbol: Box::new(move |pc| names.at(pc).map(|(name, _)| name.to_string())),
        out: Box::new(log::write),
    });
    if items.op {
        let trace = trace.clone();
        engine.set_built_log(Box::new(move |region| trace.built(region)));
    }
    if items.at_translation() || map.is_some() || dump.is_some() {
        let (trace, space) = (trace.clone(), engine.space().clone());
        engine.set_log(Box::new(move |region, code, address| {
            trace.translated(region, code, address, &*space);
            if code.is_empty() || map.is_none() && dump.is_none() {
                return;
            }
            let name = match symbols.at(region.pc) {
                Some((name, 0)) => name.to_string(),
                Some((name, more)) => format!("{name}+{more:#x}"),
                None => format!("guest-{:#x}", region.pc),
            };
            if let Some(map) = &map {
                map.add(address, code.len(), &name);
            }
            if let Some(dump) = &dump {
                dump.add(address, code, &name);
            }
        }));
    }
    if items.at_execution() {
        if items.cpu {
            engine.set_exact();
        }
        engine.set_observer(Box::new(move |state, code| trace.entered(state, code)));
    }
    Ok(())
}
