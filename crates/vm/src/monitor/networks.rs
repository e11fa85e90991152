//! Commands about the network, of a human and of a program.
//!
//! Reference: answers of QEMU 10.0.2.

use std::sync::Arc;

use spec::error::{Error, Result};

use super::Machine;
use super::args::Args;
use super::human::Shell;
use super::json::Refusal;
use crate::network::Network;
use crate::settings::Settings;

fn network(machine: &Arc<dyn Machine>) -> Result<&Network> {
    machine.network().ok_or_else(|| Error::new("user mode network stack not in use"))
}

/// The back end, if one is named, and the rule.
fn rule(args: &Args) -> (Option<&str>, &str) {
    let first = args.needed("arg1");
    args.text("arg2").map_or((None, first), |rule| (Some(first), rule))
}

/// These commands say what went wrong without an `Error:`.
fn say(out: &mut String, result: Result<String>) -> Result<()> {
    match result {
        Ok(text) => out.push_str(&text),
        Err(error) => out.push_str(&format!("{}\n", crate::report(&error))),
    }
    Ok(())
}

pub fn hostfwd_add(shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    let (name, rule) = rule(args);
    say(out, network(&shell.machine).and_then(|n| n.forward(name, rule)).map(|()| String::new()))
}

pub fn hostfwd_remove(shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    let (name, rule) = rule(args);
    let text = |found| format!("host forwarding rule for {rule} {}\n", if found { "removed" } else { "not found" });
    say(out, network(&shell.machine).and_then(|n| n.unforward(name, rule)).map(text))
}

pub fn netdev_add(shell: &mut Shell, args: &Args, out: &mut String) -> Result<()> {
    if matches!(args.needed("netdev"), "help" | "?") {
        out.push_str(&net::netdev::help());
        return Ok(());
    }
    let settings = Settings::parse(args.needed("netdev"), Some("type"))?;
    network(&shell.machine)?.add(settings.into_pairs(), shell.machine.consoles())
}

pub fn netdev_del(shell: &mut Shell, args: &Args, _out: &mut String) -> Result<()> {
    remove(&shell.machine, args.needed("id"))
}

pub fn remove(machine: &Arc<dyn Machine>, name: &str) -> Result<()> {
    match machine.network() {
        Some(network) => network.remove(name),
        None => Err(Error::new(format!("Device '{name}' not found"))),
    }
}

pub fn set_link(shell: &mut Shell, args: &Args, _out: &mut String) -> Result<()> {
    plug(&shell.machine, args.needed("name"), args.set("up")).map_err(|refusal| Error::new(refusal.text))
}

/// Plugs a cable in or out.
pub fn plug(machine: &Arc<dyn Machine>, name: &str, up: bool) -> std::result::Result<(), Refusal> {
    if machine.network().is_some_and(|network| network.set_link(name, up)) {
        return Ok(());
    }
    Err(Refusal { class: "DeviceNotFound", text: format!("Device '{name}' not found") })
}

/// `netdev_add` of a program.
pub fn add(machine: &Arc<dyn Machine>, pairs: Vec<(String, String)>) -> Result<()> {
    network(machine)?.add(pairs, machine.consoles())
}
