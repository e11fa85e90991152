//! `qemu-img check`.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, cache, fail, objects, usage, wants_json};
use crate::text;
use disk::node::{CheckReport, NodeRef, Repair, strerror};
use disk::open::OpenFlags;
use serde_json::{Map, Value, json};

pub const COMMAND: Command = Command {
    name: "check",
    summary: "looks for damage in an image and repairs it",
    arguments: "FILE",
    options: &[
        opt('q', "quiet", false),
        opt('f', "format", true),
        long("image-opts", false),
        opt('T', "cache", true),
        opt('U', "force-share", false),
        long("output", true),
        opt('r', "repair", true),
        long("object", true),
    ],
    run,
};

/// Statuses beside 0 (clean) and 1 (the check did not work).
const DAMAGED: i32 = 2;
const LEAKS: i32 = 3;
const UNSUPPORTED: i32 = 63;

fn run(p: &Parsed) -> Done {
    let [name] = p.rest.as_slice() else { return Err(usage("check", "Expecting one image file name")) };
    let as_json = wants_json(p)?;
    objects(p)?;
    let repair = match p.value("repair") {
        None => Repair::default(),
        Some("leaks") => Repair { leaks: true, errors: false },
        Some("all") => Repair { leaks: true, errors: true },
        Some(other) => return Err(usage("check", &format!("--repair (-r) expects 'leaks' or 'all' not '{other}'"))),
    };
    let fixing = repair != Repair::default();
    let mut flags = OpenFlags {
        write: fixing,
        share: p.has("force-share"),
        check: true,
        quiet_probe: true,
        ..OpenFlags::default()
    };
    if cache(&mut flags, p.value("cache"), "writeback").is_err() {
        return fail(format!("Invalid source cache option: {}", p.value("cache").unwrap_or("")));
    }
    let node = common::open(p, name, p.value("format"), &flags)?;
    let quiet = p.has("quiet");
    let first = match check(&node, repair)? {
        Some(report) => report,
        None => return Err(Exit::FailWith("This image format does not support checks".into(), UNSUPPORTED)),
    };
    lines(&first, quiet);
    let mut report = first;
    if report.leaks_fixed > 0 || report.corruptions_fixed > 0 {
        let (leaks, errors) = (report.leaks_fixed, report.corruptions_fixed);
        if !as_json && !quiet {
            println!(
                "The following inconsistencies were found and repaired:\n\n    {leaks} leaked clusters\n    {errors} corruptions\n"
            );
            println!("Double checking the fixed image now...");
        }
        report = check(&node, Repair::default())?.unwrap_or_default();
        lines(&report, quiet);
        (report.leaks_fixed, report.corruptions_fixed) = (leaks, errors);
    }
    common::close(&node)?;
    if !quiet {
        match as_json {
            true => println!("{}", text::json(&as_value(name, &node, &report))),
            false => print!("{}", summary(&report)),
        }
    }
    Ok(status(&report))
}

fn check(node: &NodeRef, repair: Repair) -> Result<Option<CheckReport>, Exit> {
    match node.check(repair) {
        None => Ok(None),
        Some(Ok(report)) => match report.failed {
            None => Ok(Some(report)),
            Some(number) => {
                let why = strerror(&std::io::Error::from_raw_os_error(number));
                Err(Exit::Fail(format!("{}\nqemu-img: Check failed: {why}", report.lines.join("\n"))))
            }
        },
        Some(Err(e)) => Err(Exit::Fail(format!("Check failed: {}", strerror(&e)))),
    }
}

fn lines(report: &CheckReport, quiet: bool) {
    if !quiet {
        report.lines.iter().for_each(|l| eprintln!("{l}"));
    }
}

fn status(r: &CheckReport) -> i32 {
    if r.check_errors > 0 {
        1
    } else if r.corruptions > 0 {
        DAMAGED
    } else if r.leaks > 0 {
        LEAKS
    } else {
        0
    }
}

fn summary(r: &CheckReport) -> String {
    let mut out = String::new();
    if r.corruptions == 0 && r.leaks == 0 && r.check_errors == 0 {
        out += "No errors were found on the image.\n";
    } else {
        if r.corruptions > 0 {
            out += &format!(
                "\n{} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n",
                r.corruptions
            );
        }
        if r.leaks > 0 {
            out += &format!(
                "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n",
                r.leaks
            );
        }
        if r.check_errors > 0 {
            out += &format!("\n{} internal errors have occurred during the check.\n", r.check_errors);
        }
    }
    if r.total_clusters != 0 && r.allocated_clusters != 0 {
        let part = |a: u64, b: u64| a as f64 * 100.0 / b as f64;
        out += &format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            r.allocated_clusters,
            r.total_clusters,
            part(r.allocated_clusters, r.total_clusters),
            part(r.fragmented_clusters, r.allocated_clusters),
            part(r.compressed_clusters, r.allocated_clusters)
        );
    }
    if let Some(end) = r.image_end_offset.filter(|e| *e > 0) {
        out += &format!("Image end offset: {end}\n");
    }
    out
}

fn as_value(name: &str, node: &NodeRef, r: &CheckReport) -> Value {
    let mut m = Map::new();
    let mut count = |key: &str, value: u64| {
        if value > 0 {
            m.insert(key.to_owned(), json!(value));
        }
    };
    count("image-end-offset", r.image_end_offset.unwrap_or(0));
    count("total-clusters", r.total_clusters);
    count("corruptions-fixed", r.corruptions_fixed);
    count("corruptions", r.corruptions);
    m.insert("check-errors".into(), json!(r.check_errors));
    let mut count = |key: &str, value: u64| {
        if value > 0 {
            m.insert(key.to_owned(), json!(value));
        }
    };
    count("leaks", r.leaks);
    count("leaks-fixed", r.leaks_fixed);
    count("compressed-clusters", r.compressed_clusters);
    count("fragmented-clusters", r.fragmented_clusters);
    count("allocated-clusters", r.allocated_clusters);
    m.insert("filename".into(), json!(name));
    m.insert("format".into(), json!(node.driver()));
    Value::Object(m)
}
