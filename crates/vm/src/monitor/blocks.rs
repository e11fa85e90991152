//! Commands about disks and jobs, of a human and of a program.
//!
//! Reference: answers of QEMU 10.0.2. A human's commands are a program's with other words around them.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use spec::error::{Error, Result};

use super::Machine;
use super::args::Args;
use super::human::Shell;
use super::json::{Answer, Refusal};
use super::qmp::Given;
use crate::blocks::Blocks;

type Program = std::result::Result<Answer, Refusal>;

pub fn blocks(machine: &Arc<dyn Machine>) -> std::result::Result<&Arc<Blocks>, Refusal> {
    machine.blocks().ok_or_else(|| Refusal::new("this machine has no disks"))
}

/// Carries out a program's command; jobs begin once it is answered.
pub fn program(machine: &Arc<dyn Machine>, run: impl FnOnce(&Blocks) -> std::result::Result<(), Refusal>) -> Program {
    run(blocks(machine)?)?;
    Ok(Answer { value: json!({}), then: Some(|m| m.blocks().into_iter().for_each(|b| b.go())) })
}

/// Asks for a list.
pub fn list(machine: &Arc<dyn Machine>, ask: impl FnOnce(&Blocks) -> Value) -> Program {
    Ok(ask(blocks(machine)?).into())
}

type Act = fn(&Blocks, &Given) -> std::result::Result<(), Refusal>;

/// Carries out a human's command.
fn human(shell: &Shell, members: Value, act: Act) -> Result<()> {
    let Value::Object(mut map) = members else { return Ok(()) };
    // What was not said is not there.
    map.retain(|_, value| !value.is_null());
    let done = blocks(&shell.machine).and_then(|blocks| {
        act(blocks, &Given(map))?;
        blocks.go();
        Ok(())
    });
    done.map_err(|refusal| Error::new(refusal.text))
}

pub fn block_stream(shell: &mut Shell, args: &Args, _out: &mut String) -> Result<()> {
    let members = json!({"device": args.needed("drive"), "speed": args.number("speed"), "base": args.text("base")});
    human(shell, members, |b, g| b.block_stream(g))
}

/// `block_job_VERB device`.
pub fn job(shell: &mut Shell, args: &Args, verb: &'static str) -> Result<()> {
    let members = json!({"device": args.needed("job"), "force": args.set("force"), "speed": args.number("speed")});
    let Value::Object(map) = members else { return Ok(()) };
    let done = blocks(&shell.machine).and_then(|b| b.verb(verb, &Given(map)));
    done.map_err(|refusal| Error::new(refusal.text))
}

fn copy(args: &Args) -> Value {
    json!({
        "device": args.needed("drive"),
        "target": args.needed("target"),
        "format": args.text("format"),
        "mode": if args.set("reuse") { "existing" } else { "absolute-paths" },
        "sync": if args.set("full") { "full" } else { "top" },
        "compress": args.set("compress").then_some(true),
    })
}

pub fn drive_mirror(shell: &mut Shell, args: &Args, _out: &mut String) -> Result<()> {
    human(shell, copy(args), |b, g| b.drive_mirror(g))
}

pub fn drive_backup(shell: &mut Shell, args: &Args, _out: &mut String) -> Result<()> {
    human(shell, copy(args), |b, g| b.drive_backup(g).map(drop))
}

pub fn snapshot_blkdev(shell: &mut Shell, args: &Args, _out: &mut String) -> Result<()> {
    let Some(file) = args.text("snapshot-file") else {
        return Err(Error::new("Parameter 'snapshot-file' is missing"));
    };
    let members = json!({
        "device": args.needed("drive"),
        "snapshot-file": file,
        "format": args.text("format"),
        "mode": if args.set("reuse") { "existing" } else { "absolute-paths" },
    });
    human(shell, members, |b, g| b.blockdev_snapshot_sync(g))
}

pub fn block_resize(shell: &mut Shell, args: &Args, _out: &mut String) -> Result<()> {
    human(shell, json!({"device": args.needed("drive"), "size": args.number("size")}), |b, g| b.block_resize(g))
}

pub fn block_set_io_throttle(shell: &mut Shell, args: &Args, _out: &mut String) -> Result<()> {
    let mut members = Map::new();
    members.insert("device".into(), json!(args.needed("drive")));
    for name in ["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"] {
        members.insert(name.into(), json!(args.number(name)));
    }
    human(shell, Value::Object(members), |b, g| b.block_set_io_throttle(g))
}

/// This command says what went wrong without an `Error:`.
pub fn commit(shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    let done = blocks(&shell.machine)
        .map_err(|refusal| Error::new(refusal.text))
        .and_then(|b| b.commit(args.needed("device")));
    if let Err(error) = done {
        out.push_str(&format!("{}\n", crate::report(&error)));
    }
    Ok(())
}

/// What the tool prints goes to the program's output, as QEMU's does.
pub fn qemu_io(shell: &mut Shell, args: &Args, _out: &mut String) -> Result<()> {
    let name = args.needed("drive");
    let node = blocks(&shell.machine).and_then(|b| b.node_for_io(name, args.set("qdev")));
    img::run_io_command(node.map_err(|refusal| Error::new(refusal.text))?, args.needed("command"));
    Ok(())
}

/// `info block-jobs`.
pub fn jobs(shell: &mut Shell, _args: &Args, out: &mut String) -> Result<()> {
    let jobs = blocks(&shell.machine).map_err(|refusal| Error::new(refusal.text))?.list_block_jobs();
    let jobs = jobs.as_array().cloned().unwrap_or_default();
    if jobs.is_empty() {
        out.push_str("No active jobs\n");
    }
    for job in jobs {
        let (kind, device) = (job["type"].as_str().unwrap_or_default(), job["device"].as_str().unwrap_or_default());
        let what = if kind == "stream" {
            format!("Streaming device {device}")
        } else {
            format!("Type {kind}, device {device}")
        };
        out.push_str(&format!(
            "{what}: Completed {} of {} bytes, speed limit {} bytes/s\n",
            job["offset"], job["len"], job["speed"]
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
