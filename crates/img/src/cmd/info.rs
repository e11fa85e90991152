//! `qemu-img info`.

use crate::cli::{Parsed, long, opt};
use crate::common::{self, Command, Done, Exit, objects, usage, wants_json};
use crate::text;
use disk::node::{NodeRef, SnapshotInfo};
use disk::open::{OpenFlags, relative_to};
use disk::options::Options;
use disk::size::human;
use serde_json::{Map, Value, json};

pub const COMMAND: Command = Command {
    name: "info",
    summary: "shows what an image is",
    arguments: "FILE",
    options: &[
        opt('f', "format", true),
        long("image-opts", false),
        long("backing-chain", false),
        opt('U', "force-share", false),
        long("object", true),
        long("output", true),
        long("limits", false),
    ],
    run,
};

fn run(p: &Parsed) -> Done {
    let [name] = p.rest.as_slice() else { return Err(usage("info", "Expecting one image file name")) };
    let as_json = wants_json(p)?;
    objects(p)?;
    let chain = p.has("backing-chain");
    let nodes = collect(p, name, chain)?;
    if as_json {
        let mut list: Vec<Value> = nodes.iter().map(|n| describe(n, true)).collect::<Result<_, _>>()?;
        if let (Some(shown), Some(first)) = (name_with_key(p, name, &nodes[0])?, list.first_mut()) {
            first["filename"] = json!(shown);
        }
        println!(
            "{}",
            text::json(&if chain { Value::Array(list) } else { list.into_iter().next().unwrap_or(Value::Null) })
        );
    } else {
        let mut shown = name_with_key(p, name, &nodes[0])?;
        let texts: Vec<String> = nodes
            .iter()
            .map(|n| human_text(n, &shown.take().unwrap_or_else(|| n.filename())))
            .collect::<Result<_, _>>()?;
        print!("{}", texts.join("\n"));
    }
    Ok(0)
}

/// A file name alone does not open an image whose key was named in its options: its name is then all of them.
fn name_with_key(p: &Parsed, name: &str, node: &NodeRef) -> Result<Option<String>, Exit> {
    let options = match name.strip_prefix("json:") {
        Some(text) => Options::parse_json(text)?,
        None if p.has("image-opts") => Options::parse(name, None)?,
        None => return Ok(None),
    };
    let mut m = Map::new();
    for (key, value) in options.iter().filter(|(k, _)| k.starts_with("encrypt.")) {
        m.insert(key.to_owned(), json!(value));
    }
    let secret = options.get("key-secret");
    if m.is_empty() && secret.is_none() {
        return Ok(None);
    }
    m.insert("driver".into(), json!(node.driver()));
    if let Some((_, file)) = node.children().into_iter().find(|(role, _)| role == "file") {
        m.insert("file".into(), json!({ "driver": file.driver(), "filename": file.filename() }));
    }
    if let Some(secret) = secret {
        m.insert("key-secret".into(), json!(secret));
    }
    let text = Value::Object(m).to_string().replace("\":", "\": ").replace(",\"", ", \"");
    Ok(Some(format!("json:{text}")))
}

/// Opens the image, or each image of the chain on its own.
fn collect(p: &Parsed, name: &str, chain: bool) -> Result<Vec<NodeRef>, Exit> {
    let flags = OpenFlags {
        share: p.has("force-share"),
        no_backing: true,
        no_data: true,
        quiet_probe: true,
        ..OpenFlags::default()
    };
    let mut nodes = vec![common::open(p, name, p.value("format"), &flags)?];
    let mut seen = vec![name.to_owned()];
    while chain {
        let Some(last) = nodes.last() else { break };
        let info = last.info()?;
        let Some(file) = info.backing_file else { break };
        let full = relative_to(&last.filename(), &file);
        if seen.contains(&full) {
            return common::fail(format!("Backing file '{full}' creates an infinite loop."));
        }
        nodes.push(common::open_named(&full, info.backing_format.as_deref(), false, &flags)?);
        seen.push(full);
    }
    Ok(nodes)
}

/// One image as JSON, keys in the tools' order.
fn describe(node: &NodeRef, with_children: bool) -> Result<Value, Exit> {
    let info = node.info()?;
    let mut m = Map::new();
    if with_children {
        let children: Vec<Value> = node
            .children()
            .iter()
            .filter(|(role, _)| role != "data-file")
            .map(|(role, child)| Ok(json!({ "name": role, "info": describe(child, true)? })))
            .collect::<Result<_, Exit>>()?;
        m.insert("children".into(), Value::Array(children));
    }
    let mut put = |k: &str, v: Value| {
        m.insert(k.to_owned(), v);
    };
    if let Some(f) = &info.backing_format {
        put("backing-filename-format", json!(f));
    }
    let snapshots = node.snapshots().map(|s| s.list()).unwrap_or_default();
    if !snapshots.is_empty() {
        put("snapshots", Value::Array(snapshots.iter().map(snapshot_json).collect()));
    }
    put("virtual-size", json!(virtual_size(node)));
    put("filename", json!(node.filename()));
    if let Some(c) = info.cluster_size {
        put("cluster-size", json!(c));
    }
    put("format", json!(node.driver()));
    if let Some(a) = own_size(node) {
        put("actual-size", json!(a));
    }
    if let Some((kind, data)) = &info.specific {
        put("format-specific", json!({ "type": kind, "data": data }));
    } else if node.driver() == "file" {
        put("format-specific", json!({ "type": "file", "data": {} }));
    }
    if info.encrypted {
        put("encrypted", json!(true));
    }
    if let Some(f) = &info.backing_file {
        put("full-backing-filename", json!(relative_to(&node.filename(), f)));
        put("backing-filename", json!(f));
    }
    put("dirty-flag", json!(info.dirty));
    Ok(Value::Object(m))
}

fn virtual_size(node: &NodeRef) -> u64 {
    node.size().next_multiple_of(512)
}

/// Bytes on the host of the image file itself (a data file counts for its own).
fn own_size(node: &NodeRef) -> Option<u64> {
    node.allocated_size()
}

fn snapshot_json(s: &SnapshotInfo) -> Value {
    let mut m = Map::new();
    if let Some(icount) = s.icount {
        m.insert("icount".into(), json!(icount));
    }
    m.insert("vm-clock-nsec".into(), json!(s.vm_clock_nsec % 1_000_000_000));
    m.insert("name".into(), json!(s.name));
    m.insert("date-sec".into(), json!(s.date_sec));
    m.insert("date-nsec".into(), json!(s.date_nsec));
    m.insert("vm-clock-sec".into(), json!(s.vm_clock_nsec / 1_000_000_000));
    m.insert("id".into(), json!(s.id));
    m.insert("vm-state-size".into(), json!(s.vm_state_size));
    Value::Object(m)
}

fn human_text(node: &NodeRef, name: &str) -> Result<String, Exit> {
    let info = node.info()?;
    let size = virtual_size(node);
    let mut out = format!("image: {name}\nfile format: {}\n", node.driver());
    out += &format!("virtual size: {} ({size} bytes)\n", human(size));
    out += &format!("disk size: {}\n", own_size(node).map_or("unavailable".into(), human));
    if info.encrypted {
        out += "encrypted: yes\n";
    }
    if let Some(c) = info.cluster_size {
        out += &format!("cluster_size: {c}\n");
    }
    if info.dirty {
        out += "cleanly shut down: no\n";
    }
    if let Some(f) = &info.backing_file {
        let full = relative_to(&node.filename(), f);
        out += &format!(
            "backing file: {f}{}\n",
            if full == *f { String::new() } else { format!(" (actual path: {full})") }
        );
    }
    if let Some(f) = &info.backing_format {
        out += &format!("backing file format: {f}\n");
    }
    let snapshots = node.snapshots().map(|s| s.list()).unwrap_or_default();
    if !snapshots.is_empty() {
        out += "Snapshot list:\n";
        out += &super::snapshot::table(&snapshots);
    }
    if let Some((_, data)) = &info.specific {
        out += "Format specific information:\n";
        text::dump(data, 1, &mut out);
    }
    for (role, child) in node.children().iter().filter(|(role, _)| role != "data-file") {
        out += &child_text(role, child);
    }
    Ok(out)
}

fn child_text(role: &str, node: &NodeRef) -> String {
    let size = virtual_size(node);
    let mut out =
        format!("Child node '/{role}':\n    filename: {}\n    protocol type: {}\n", node.filename(), node.driver());
    out += &format!("    file length: {} ({size} bytes)\n", human(size));
    out += &format!("    disk size: {}\n", node.allocated_size().map_or("unavailable".into(), human));
    out
}
