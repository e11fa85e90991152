//! The table of a program's commands.
//!
//! Reference: names, arguments and answers of QEMU 10.0.2's QMP.
//! Not modelled: `query-qmp-schema`, and the commands about displays, snapshots of machines, migration and objects;
//! `query-commands` lists what there is.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Machine;
use super::blocks;
use super::disks;
use super::human::Shell;
use super::info::NO_UUID;
use super::json::{Answer, Refusal, version};
use super::machine::Kvm;
use super::memory::{self, Space};
use super::networks;
use crate::config::Actions;
use crate::lifecycle::{Cause, RunState};

type Result<T> = std::result::Result<T, Refusal>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    Signed,
    Unsigned,
    Bool,
    Object,
    List,
    /// Whatever follows: the command takes any member.
    Anything,
}

struct Arg {
    name: &'static str,
    kind: Kind,
    optional: bool,
}

pub struct Command {
    pub name: &'static str,
    args: &'static [Arg],
    run: fn(&Arc<dyn Machine>, &Given) -> Result<Answer>,
}

/// The arguments of one call; their kinds have been looked at.
pub struct Given(pub Map<String, Value>);

impl Given {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    pub fn needed(&self, name: &str) -> &str {
        self.text(name).expect("the row says that it is needed")
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(Value::as_u64)
    }

    pub fn needed_number(&self, name: &str) -> u64 {
        self.number(name).expect("the row says that it is needed")
    }

    pub fn signed(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(Value::as_i64)
    }

    pub fn bool(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(Value::as_bool)
    }
}

const fn arg(name: &'static str, kind: Kind) -> Arg {
    Arg { name, kind, optional: false }
}

const fn maybe(name: &'static str, kind: Kind) -> Arg {
    Arg { name, kind, optional: true }
}

/// A table of commands: name, arguments => answer.
macro_rules! commands {
    ($($name:literal [$($arg:expr),*] => $run:expr;)*) => {
        pub const COMMANDS: &[Command] = &[$(Command { name: $name, args: &[$($arg),*], run: $run }),*];
    };
}

use Kind::{Anything, Bool, Choice, List, Object, Signed, Text, Unsigned};

const SYNC: Kind = Choice(&["top", "full", "none", "incremental", "bitmap"]);
const MODE: Kind = Choice(&["existing", "absolute-paths"]);
const ON_ERROR: Kind = Choice(&["report", "ignore", "enospc", "stop", "auto"]);
const COPY_MODE: Kind = Choice(&["background", "write-blocking"]);

commands! {
    "block-commit" [arg("device", Text), maybe("job-id", Text), maybe("base-node", Text), maybe("base", Text), maybe("top-node", Text),
        maybe("top", Text), maybe("backing-file", Text), maybe("backing-mask-protocol", Bool), maybe("speed", Signed), maybe("on-error", ON_ERROR),
        maybe("filter-node-name", Text), maybe("auto-finalize", Bool), maybe("auto-dismiss", Bool)]
        => |m, a| blocks::program(m, |b| b.block_commit(a));
    "block-job-cancel" [arg("device", Text), maybe("force", Bool)] => |m, a| blocks::program(m, |b| b.verb("block-job-cancel", a));
    "block-job-complete" [arg("device", Text)] => |m, a| blocks::program(m, |b| b.verb("block-job-complete", a));
    "block-job-dismiss" [arg("id", Text)] => |m, a| blocks::program(m, |b| b.verb("block-job-dismiss", a));
    "block-job-finalize" [arg("id", Text)] => |m, a| blocks::program(m, |b| b.verb("block-job-finalize", a));
    "block-job-pause" [arg("device", Text)] => |m, a| blocks::program(m, |b| b.verb("block-job-pause", a));
    "block-job-resume" [arg("device", Text)] => |m, a| blocks::program(m, |b| b.verb("block-job-resume", a));
    "block-job-set-speed" [arg("device", Text), arg("speed", Signed)] => |m, a| blocks::program(m, |b| b.verb("block-job-set-speed", a));
    "block-stream" [arg("device", Text), maybe("job-id", Text), maybe("base", Text), maybe("base-node", Text), maybe("bottom", Text),
        maybe("backing-file", Text), maybe("backing-mask-protocol", Bool), maybe("speed", Signed), maybe("on-error", ON_ERROR),
        maybe("filter-node-name", Text), maybe("auto-finalize", Bool), maybe("auto-dismiss", Bool)]
        => |m, a| blocks::program(m, |b| b.block_stream(a));
    "block_resize" [maybe("device", Text), maybe("node-name", Text), arg("size", Signed)] => |m, a| blocks::program(m, |b| b.block_resize(a));
    "block_set_io_throttle" [maybe("device", Text), maybe("id", Text),
        arg("bps", Signed), arg("bps_rd", Signed), arg("bps_wr", Signed),
        arg("iops", Signed), arg("iops_rd", Signed), arg("iops_wr", Signed),
        maybe("bps_max", Signed), maybe("bps_rd_max", Signed), maybe("bps_wr_max", Signed),
        maybe("bps_max_length", Signed), maybe("bps_rd_max_length", Signed), maybe("bps_wr_max_length", Signed),
        maybe("iops_max", Signed), maybe("iops_rd_max", Signed), maybe("iops_wr_max", Signed),
        maybe("iops_max_length", Signed), maybe("iops_rd_max_length", Signed), maybe("iops_wr_max_length", Signed),
        maybe("iops_size", Signed), maybe("group", Text)]
        => |m, a| blocks::program(m, |b| b.block_set_io_throttle(a));
    "blockdev-add" [maybe("driver", Text), maybe("node-name", Text), maybe("", Anything)] => |m, a| blocks::program(m, |b| b.blockdev_add(a));
    "blockdev-backup" [arg("device", Text), arg("target", Text), maybe("job-id", Text), arg("sync", SYNC), maybe("speed", Signed), maybe("compress", Bool),
        maybe("on-source-error", ON_ERROR), maybe("on-target-error", ON_ERROR), maybe("filter-node-name", Text), maybe("auto-finalize", Bool), maybe("auto-dismiss", Bool)]
        => |m, a| blocks::program(m, |b| b.blockdev_backup(a).map(drop));
    "blockdev-create" [arg("job-id", Text), arg("options", Object)] => |m, a| blocks::program(m, |b| b.blockdev_create(a));
    "blockdev-del" [arg("node-name", Text)] => |m, a| blocks::program(m, |b| b.blockdev_del(a));
    "blockdev-mirror" [arg("device", Text), arg("target", Text), maybe("job-id", Text), maybe("replaces", Text), arg("sync", Choice(&["top", "full", "none"])),
        maybe("speed", Signed), maybe("granularity", Unsigned), maybe("buf-size", Signed), maybe("on-source-error", ON_ERROR),
        maybe("on-target-error", ON_ERROR), maybe("filter-node-name", Text), maybe("copy-mode", COPY_MODE), maybe("auto-finalize", Bool), maybe("auto-dismiss", Bool)]
        => |m, a| blocks::program(m, |b| b.blockdev_mirror(a));
    "blockdev-snapshot" [arg("node", Text), arg("overlay", Text)] => |m, a| blocks::program(m, |b| b.blockdev_snapshot(a));
    "blockdev-snapshot-sync" [maybe("device", Text), maybe("node-name", Text), arg("snapshot-file", Text),
        maybe("snapshot-node-name", Text), maybe("format", Text), maybe("mode", MODE)]
        => |m, a| blocks::program(m, |b| b.blockdev_snapshot_sync(a));
    "chardev-add" [arg("id", Text), arg("backend", Object)] => chardev_add;
    "chardev-change" [arg("id", Text), arg("backend", Object)] => chardev_change;
    "chardev-remove" [arg("id", Text)] => |m, a| done(m.consoles().remove(a.needed("id")));
    "chardev-send-break" [arg("id", Text)] => |m, a| done(m.consoles().send_break(a.needed("id")));
    "cont" [] => |m, _| done(m.life().cont());
    "device_add" [arg("driver", Text), maybe("", Anything)] => device_add;
    "device_del" [arg("id", Text)] => |m, a| done(m.device_del(a.needed("id")));
    "drive-backup" [arg("device", Text), arg("target", Text), maybe("job-id", Text), arg("sync", SYNC), maybe("format", Text), maybe("mode", MODE),
        maybe("speed", Signed), maybe("compress", Bool), maybe("on-source-error", ON_ERROR), maybe("on-target-error", ON_ERROR),
        maybe("filter-node-name", Text), maybe("auto-finalize", Bool), maybe("auto-dismiss", Bool)]
        => |m, a| blocks::program(m, |b| b.drive_backup(a).map(drop));
    "drive-mirror" [arg("device", Text), arg("target", Text), maybe("job-id", Text), maybe("format", Text), maybe("node-name", Text), maybe("replaces", Text),
        arg("sync", Choice(&["top", "full", "none"])), maybe("mode", MODE), maybe("speed", Signed), maybe("granularity", Unsigned),
        maybe("buf-size", Signed), maybe("on-source-error", ON_ERROR), maybe("on-target-error", ON_ERROR), maybe("unmap", Bool),
        maybe("copy-mode", COPY_MODE), maybe("auto-finalize", Bool), maybe("auto-dismiss", Bool)]
        => |m, a| blocks::program(m, |b| b.drive_mirror(a));
    "human-monitor-command" [arg("command-line", Text), maybe("cpu-index", Unsigned)] => human;
    "inject-nmi" [] => |m, _| done(m.nmi());
    "job-cancel" [arg("id", Text)] => |m, a| blocks::program(m, |b| b.verb("job-cancel", a));
    "job-complete" [arg("id", Text)] => |m, a| blocks::program(m, |b| b.verb("job-complete", a));
    "job-dismiss" [arg("id", Text)] => |m, a| blocks::program(m, |b| b.verb("job-dismiss", a));
    "job-finalize" [arg("id", Text)] => |m, a| blocks::program(m, |b| b.verb("job-finalize", a));
    "job-pause" [arg("id", Text)] => |m, a| blocks::program(m, |b| b.verb("job-pause", a));
    "job-resume" [arg("id", Text)] => |m, a| blocks::program(m, |b| b.verb("job-resume", a));
    "memsave" [arg("val", Unsigned), arg("size", Unsigned), arg("filename", Text), maybe("cpu-index", Unsigned)] => memsave;
    "netdev_add" [arg("type", Text), arg("id", Text), maybe("", Anything)] => netdev_add;
    "netdev_del" [arg("id", Text)] => |m, a| done(networks::remove(m, a.needed("id")));
    "pmemsave" [arg("val", Unsigned), arg("size", Unsigned), arg("filename", Text)] => |m, a| save(m, a, Space::Physical);
    "qmp_capabilities" [maybe("enable", List)] => capabilities;
    "query-block" [] => |m, _| ok(m.disks().iter().map(disks::value).collect());
    "query-block-jobs" [] => |m, _| blocks::list(m, |b| b.list_block_jobs());
    "query-chardev" [] => query_chardev;
    "query-chardev-backends" [] => |_, _| {
        ok(console::options::kinds().map(|name| json!({"name": name})).collect())
    };
    "query-commands" [] => |_, _| ok(COMMANDS.iter().map(|command| json!({"name": command.name})).collect());
    "query-cpus-fast" [] => query_cpus;
    "query-current-machine" [] => |_, _| ok(json!({"wakeup-suspend-support": false}));
    "query-iothreads" [] => |_, _| ok(json!([]));
    "query-jobs" [] => |m, _| blocks::list(m, |b| b.list_jobs());
    "query-kvm" [] => |m, _| ok(json!({"enabled": m.kvm() == Kvm::Enabled, "present": m.kvm() != Kvm::NotBuilt}));
    "query-name" [] => |m, _| ok(m.name().map_or(json!({}), |name| json!({"name": name})));
    "query-named-block-nodes" [maybe("flat", Bool)] => |m, a| blocks::list(m, |b| disks::nodes(&b.named(a.bool("flat").unwrap_or(false))));
    "query-status" [] => |m, _| {
        let state = m.life().state();
        ok(json!({"status": state.name(), "running": state == RunState::Running}))
    };
    "query-target" [] => |m, _| ok(json!({"arch": m.arch()}));
    "query-uuid" [] => |m, _| ok(json!({"UUID": m.uuid().unwrap_or_else(|| NO_UUID.into())}));
    "query-version" [] => |_, _| ok(version());
    "quit" [] => |_, _| Ok(Answer { value: json!({}), then: Some(|m| m.life().quit(Cause::HostQuit)) });
    "ringbuf-read" [arg("device", Text), arg("size", Unsigned), maybe("format", Text)] => ringbuf_read;
    "ringbuf-write" [arg("device", Text), arg("data", Text), maybe("format", Text)] => ringbuf_write;
    "set-action" [maybe("reboot", Text), maybe("shutdown", Text)] => set_action;
    "set_link" [arg("name", Text), arg("up", Bool)] => |m, a| {
        networks::plug(m, a.needed("name"), a.0["up"] == Value::Bool(true))?;
        ok(json!({}))
    };
    "stop" [] => |m, _| { m.life().stop(); ok(json!({})) };
    "system_powerdown" [] => |m, _| { m.life().powerdown(); ok(json!({})) };
    "system_reset" [] => |m, _| { m.life().request_reset(Cause::HostReset); ok(json!({})) };
    "transaction" [arg("actions", List), maybe("properties", Object)] => |m, a| blocks::program(m, |b| b.transaction(a));
}

fn ok(value: Value) -> Result<Answer> {
    Ok(value.into())
}

fn done(result: spec::Result<()>) -> Result<Answer> {
    result?;
    ok(json!({}))
}

fn check(arg: &Arg, value: &Value) -> Result<()> {
    let name = arg.name;
    let wrong =
        |expected: &str| Err(Refusal::new(format!("Invalid parameter type for '{name}', expected: {expected}")));
    match arg.kind {
        Kind::Text | Kind::Choice(_) if !value.is_string() => wrong("string"),
        Kind::Choice(words) if !words.iter().any(|word| value == word) => {
            let word = value.as_str().unwrap_or_default();
            Err(Refusal::new(format!("Parameter '{name}' does not accept value '{word}'")))
        }
        Kind::Signed if !value.is_i64() && !value.is_u64() => wrong("integer"),
        Kind::Bool if !value.is_boolean() => wrong("boolean"),
        Kind::Object if !value.is_object() => wrong("object"),
        Kind::List if !value.is_array() => wrong("array"),
        Kind::Unsigned if !value.is_u64() => Err(Refusal::new(format!("Parameter '{name}' expects uint64"))),
        _ => Ok(()),
    }
}

/// Looks at the arguments and carries a command out.
pub fn run(command: &Command, machine: &Arc<dyn Machine>, arguments: Map<String, Value>) -> Result<Answer> {
    let given = look(command, arguments)?;
    (command.run)(machine, &given)
}

/// Arguments of a command that is part of another, once they have been looked at.
pub(crate) fn checked(name: &str, arguments: Map<String, Value>) -> Result<Given> {
    let command = COMMANDS.iter().find(|command| command.name == name);
    look(command.ok_or_else(|| Refusal::new(format!("Parameter 'type' does not accept value '{name}'")))?, arguments)
}

fn look(command: &Command, arguments: Map<String, Value>) -> Result<Given> {
    for arg in command.args {
        match arguments.get(arg.name) {
            Some(value) => check(arg, value)?,
            None if arg.optional => {}
            None => return Err(Refusal::new(format!("Parameter '{}' is missing", arg.name))),
        }
    }
    let open = command.args.iter().any(|arg| arg.kind == Kind::Anything);
    let stranger = arguments.keys().find(|key| !command.args.iter().any(|arg| arg.name == key.as_str()));
    if let (Some(key), false) = (stranger, open) {
        return Err(Refusal::new(format!("Parameter '{key}' is unexpected")));
    }
    Ok(Given(arguments))
}

fn capabilities(_machine: &Arc<dyn Machine>, given: &Given) -> Result<Answer> {
    for wish in given.0.get("enable").and_then(Value::as_array).into_iter().flatten() {
        if wish != "oob" {
            return Err(Refusal::new(format!("Parameter 'enable' does not accept value {wish}")));
        }
    }
    ok(json!({}))
}

fn cpu_index(machine: &Arc<dyn Machine>, given: &Given) -> Result<usize> {
    let index = given.number("cpu-index").unwrap_or(0);
    if index >= machine.cpus().len() as u64 {
        return Err(Refusal::new("Parameter 'cpu-index' expects a CPU number"));
    }
    Ok(index as usize)
}

fn human(machine: &Arc<dyn Machine>, given: &Given) -> Result<Answer> {
    let mut shell = Shell::new(machine.clone(), cpu_index(machine, given)?);
    let mut out = String::new();
    shell.run(given.needed("command-line"), &mut out);
    ok(Value::String(out.replace('\n', "\r\n")))
}

fn save(machine: &Arc<dyn Machine>, given: &Given, space: Space) -> Result<Answer> {
    let (address, size) = (given.needed_number("val"), given.needed_number("size"));
    done(memory::save(&**machine, space, address, size, given.needed("filename")))
}

fn memsave(machine: &Arc<dyn Machine>, given: &Given) -> Result<Answer> {
    let cpu = cpu_index(machine, given)?;
    save(machine, given, Space::Virtual { cpu })
}

fn query_chardev(machine: &Arc<dyn Machine>, _given: &Given) -> Result<Answer> {
    let rows = machine.consoles().info();
    let value = |(label, description, open): (String, String, bool)| json!({"frontend-open": open, "filename": description, "label": label});
    ok(rows.into_iter().map(value).collect())
}

fn query_cpus(machine: &Arc<dyn Machine>, _given: &Given) -> Result<Answer> {
    let cpus = machine.cpus();
    let value = |(index, cpu): (usize, &super::machine::Cpu)| {
        json!({
            "thread-id": cpu.thread_id,
            "props": {
                "core-id": cpu.core, "thread-id": cpu.thread, "socket-id": cpu.socket, "cluster-id": cpu.cluster,
            },
            "qom-path": cpu.path,
            "cpu-index": index,
            "target": machine.arch(),
        })
    };
    ok(cpus.iter().enumerate().map(value).collect())
}

/// Members and their values as the pairs of an option; nesting becomes dots.
fn pairs(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    let text = match value {
        Value::Object(map) => {
            let dot = if prefix.is_empty() { "" } else { "." };
            return map.iter().for_each(|(key, value)| pairs(&format!("{prefix}{dot}{key}"), value, out));
        }
        Value::Array(list) => {
            let join = |index: usize| if prefix.is_empty() { index.to_string() } else { format!("{prefix}.{index}") };
            return list.iter().enumerate().for_each(|(index, value)| pairs(&join(index), value, out));
        }
        Value::Bool(on) => if *on { "on" } else { "off" }.to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    out.push((prefix.to_string(), text));
}

fn device_add(machine: &Arc<dyn Machine>, given: &Given) -> Result<Answer> {
    let mut all = Vec::new();
    pairs("", &Value::Object(given.0.clone()), &mut all);
    let rest = all.iter().filter(|(key, _)| key != "driver");
    let rest: String = rest.map(|(key, value)| format!(",{key}={}", spec::commas::doubled(value))).collect();
    done(machine.device_add(&format!("{}{rest}", given.needed("driver"))))
}

fn netdev_add(machine: &Arc<dyn Machine>, given: &Given) -> Result<Answer> {
    let mut all = Vec::new();
    pairs("", &Value::Object(given.0.clone()), &mut all);
    done(networks::add(machine, all))
}

/// The names of `-chardev` for the members of a QMP back end.
const RENAMED: &[(&str, &str)] = &[
    ("out", "path"),
    ("in", "input-path"),
    ("device", "path"),
    ("addr.data.path", "path"),
    ("addr.data.host", "host"),
    ("addr.data.port", "port"),
    ("addr.data.str", "fd"),
    ("addr.data.ipv4", "ipv4"),
    ("addr.data.ipv6", "ipv6"),
    ("addr.data.to", "to"),
    ("remote.data.host", "host"),
    ("remote.data.port", "port"),
    ("local.data.host", "localaddr"),
    ("local.data.port", "localport"),
];

/// Members that only say what the others are.
const TAGS: &[&str] = &["addr.type", "remote.type", "local.type"];

fn chardev(given: &Given) -> Result<console::options::Chardev> {
    let backend = &given.0["backend"];
    let kind = backend.get("type").and_then(Value::as_str);
    let kind = kind.ok_or_else(|| Refusal::new("Parameter 'backend.type' is missing"))?;
    let mut list = Vec::new();
    pairs("", backend.get("data").unwrap_or(&Value::Null), &mut list);
    list.retain(|(key, _)| !key.is_empty() && !TAGS.contains(&key.as_str()));
    for (key, _) in &mut list {
        if let Some((_, new)) = RENAMED.iter().find(|(old, _)| old == key) {
            *key = new.to_string();
        }
    }
    // A socket of QMP is a server unless told otherwise; one of the command line is not.
    let missing = |list: &[(String, String)], name: &str| !list.iter().any(|(key, _)| key == name);
    if kind == "socket" && missing(&list, "server") {
        list.push(("server".into(), "on".into()));
    }
    if kind == "socket" && missing(&list, "wait") && list.contains(&("server".into(), "on".into())) {
        list.push(("wait".into(), "off".into()));
    }
    list.push(("id".into(), given.needed("id").into()));
    list.push(("backend".into(), kind.into()));
    Ok(console::options::chardev(list)?)
}

/// What a new back end has to tell: a pseudo-terminal its name.
fn opened(machine: &Arc<dyn Machine>, id: &str) -> Result<Answer> {
    let rows = machine.consoles().info();
    let name = rows.iter().find(|(label, ..)| label == id).and_then(|(_, text, _)| text.strip_prefix("pty:"));
    ok(name.map_or(json!({}), |name| json!({"pty": name})))
}

fn chardev_add(machine: &Arc<dyn Machine>, given: &Given) -> Result<Answer> {
    machine.consoles().add(&chardev(given)?)?;
    opened(machine, given.needed("id"))
}

fn chardev_change(machine: &Arc<dyn Machine>, given: &Given) -> Result<Answer> {
    machine.consoles().change(&chardev(given)?)?;
    opened(machine, given.needed("id"))
}

fn utf8_only(given: &Given) -> Result<()> {
    match given.text("format") {
        None | Some("utf8") => Ok(()),
        Some(other) => Err(Refusal::new(format!("Parameter 'format' does not accept value '{other}'"))),
    }
}

fn ringbuf_read(machine: &Arc<dyn Machine>, given: &Given) -> Result<Answer> {
    utf8_only(given)?;
    let size = usize::try_from(given.needed_number("size")).unwrap_or(usize::MAX);
    let bytes = machine.consoles().ringbuf_read(given.needed("device"), size)?;
    ok(Value::String(String::from_utf8_lossy(&bytes).into_owned()))
}

fn ringbuf_write(machine: &Arc<dyn Machine>, given: &Given) -> Result<Answer> {
    utf8_only(given)?;
    done(machine.consoles().ringbuf_write(given.needed("device"), given.needed("data").as_bytes()))
}

fn set_action(machine: &Arc<dyn Machine>, given: &Given) -> Result<Answer> {
    let choose = |name: &str, off: &str, on: &str, now: bool| match given.text(name) {
        None => Ok(now),
        Some(word) if word == off => Ok(false),
        Some(word) if word == on => Ok(true),
        Some(word) => Err(Refusal::new(format!("Parameter '{name}' does not accept value '{word}'"))),
    };
    let now = machine.life().actions();
    let actions = Actions {
        reboot_ends: choose("reboot", "reset", "shutdown", now.reboot_ends)?,
        shutdown_pauses: choose("shutdown", "poweroff", "pause", now.shutdown_pauses)?,
    };
    machine.life().set_actions(actions);
    ok(json!({}))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fake;
    use super::*;

    fn call(machine: &Arc<dyn Machine>, name: &str, arguments: Value) -> std::result::Result<Value, String> {
        let command = COMMANDS.iter().find(|command| command.name == name).unwrap();
        let Value::Object(map) = arguments else { panic!("arguments are an object") };
        run(command, machine, map).map(|answer| answer.value).map_err(|refusal| refusal.text)
    }

    fn ask(name: &str, arguments: Value) -> std::result::Result<Value, String> {
        let machine: Arc<dyn Machine> = Fake::new();
        call(&machine, name, arguments)
    }

    #[test]
    fn names_are_in_order_and_listed() {
        assert!(COMMANDS.iter().map(|command| command.name).is_sorted());
        let listed = ask("query-commands", json!({})).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), COMMANDS.len());
    }

    #[test]
    fn answers_are_qemus() {
        assert_eq!(ask("query-status", json!({})), Ok(json!({"status": "prelaunch", "running": false})));
        assert_eq!(ask("query-kvm", json!({})), Ok(json!({"enabled": false, "present": false})));
        assert_eq!(ask("query-name", json!({})), Ok(json!({"name": "fake"})));
        assert_eq!(ask("query-uuid", json!({})), Ok(json!({"UUID": NO_UUID})));
        assert_eq!(ask("query-target", json!({})), Ok(json!({"arch": "arm"})));
        let cpus = ask("query-cpus-fast", json!({})).unwrap();
        let second = json!({
            "thread-id": 101,
            "props": {"core-id": 1, "thread-id": 0, "socket-id": 0, "cluster-id": 0},
            "qom-path": "/machine/unattached/device[1]",
            "cpu-index": 1,
            "target": "arm",
        });
        assert_eq!(cpus[1], second);
        let status = json!({"command-line": "info status"});
        assert_eq!(ask("human-monitor-command", status), Ok(json!("VM status: paused (prelaunch)\r\n")));
        let far = json!({"command-line": "x 0", "cpu-index": 5});
        assert_eq!(ask("human-monitor-command", far), Err("Parameter 'cpu-index' expects a CPU number".into()));
        assert_eq!(ask("inject-nmi", json!({})), Err("machine does not provide NMIs".into()));
        assert_eq!(ask("set_link", json!({"name": "c", "up": false})), Err("Device 'c' not found".into()));
        assert_eq!(
            ask("set_link", json!({"name": "c", "up": 1})),
            Err("Invalid parameter type for 'up', expected: boolean".into())
        );
        assert_eq!(ask("netdev_del", json!({"id": "n"})), Err("Device 'n' not found".into()));
        assert_eq!(ask("query-name", json!({"x": 1})), Err("Parameter 'x' is unexpected".into()));
        let wrong = ask("chardev-remove", json!({"id": 5}));
        assert_eq!(wrong, Err("Invalid parameter type for 'id', expected: string".into()));
    }

    #[test]
    fn run_control_reaches_the_machine() {
        let fake = Fake::new();
        let machine: Arc<dyn Machine> = fake.clone();
        for name in ["cont", "stop", "system_powerdown", "system_reset", "quit"] {
            assert_eq!(call(&machine, name, json!({})), Ok(json!({})), "{name}");
        }
        assert_eq!(fake.happened(), ["Resume", "Stop", "Powerdown"]);
        assert_eq!(call(&machine, "set-action", json!({"shutdown": "pause"})), Ok(json!({})));
        assert!(machine.life().actions().shutdown_pauses);
        assert!(call(&machine, "set-action", json!({"reboot": "no"})).is_err());
    }

    #[test]
    fn character_devices_come_and_go() {
        let machine: Arc<dyn Machine> = Fake::new();
        let ask = |name: &str, arguments: Value| call(&machine, name, arguments);
        let ring = json!({"id": "r", "backend": {"type": "ringbuf", "data": {"size": 16}}});
        assert_eq!(ask("chardev-add", ring.clone()), Ok(json!({})));
        assert!(ask("chardev-add", ring).is_err());
        assert_eq!(ask("ringbuf-write", json!({"device": "r", "data": "hello"})), Ok(json!({})));
        assert_eq!(ask("ringbuf-read", json!({"device": "r", "size": 4})), Ok(json!("hell")));
        let path = std::env::temp_dir().join(format!("qmp-{}", std::process::id()));
        let address = json!({"type": "unix", "data": {"path": path}});
        let socket = json!({"id": "s", "backend": {"type": "socket", "data": {"addr": address}}});
        assert_eq!(ask("chardev-add", socket), Ok(json!({})));
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        let pty = ask("chardev-add", json!({"id": "p", "backend": {"type": "pty", "data": {}}})).unwrap();
        assert!(pty["pty"].as_str().unwrap().starts_with("/dev/pts/"), "{pty}");
        let labels = |list: &Value| -> Vec<String> {
            list.as_array().unwrap().iter().map(|row| row["label"].as_str().unwrap().to_string()).collect()
        };
        assert_eq!(labels(&ask("query-chardev", json!({})).unwrap()), ["p", "r", "s"]);
        for id in ["p", "r", "s"] {
            assert_eq!(ask("chardev-remove", json!({"id": id})), Ok(json!({})));
        }
        assert!(!path.exists());
        assert_eq!(ask("chardev-remove", json!({"id": "zz"})), Err("Chardev 'zz' not found".into()));
        let unknown = json!({"id": "x", "backend": {"type": "null", "data": {"foo": 1}}});
        assert_eq!(ask("chardev-add", unknown), Err("Invalid parameter 'foo'".into()));
    }
}
