//! Options and monitor commands against what QEMU 10.0.2 was seen to answer.

use super::*;
use crate::devices::{Backends, plug_cards};
use crate::drives::Drives;
use crate::options::tests::config;
use console::Consoles;
use fabric::{AddressSpace, Clock, Line, Msi, MsiSink};
use hw::pci::{Bus, Intx, Windows};
use hw::registry::Machine;

struct Quiet;

impl MsiSink for Quiet {
    fn send(&self, _message: Msi) {}
}

/// Plugs the cards of `-nic`, `-net` and `-netdev` into an empty PCI bus.
fn plug(args: &str) -> Result<(Network, Vec<String>)> {
    let config = config(&format!("-M virt {args}"));
    let space = AddressSpace::new();
    let machine = Machine { space: space.clone(), clock: Clock::manual(), messages: Arc::new(Quiet), cpus: 1 };
    let mut devices = Devices::new(machine);
    let windows = Windows { space, memory: vec![0x1000_0000..0x2000_0000], io: None, priority: 0 };
    devices.add_pci_bus(&Bus::root("pcie.0", windows, Intx::new([0; 4].map(|_| Line::nowhere()))));
    let mut drives = Drives::open(&[], &[], false)?;
    let consoles = Consoles::new()?;
    let mut backends = Backends::new(&mut drives, &consoles);
    let mut warnings = plug_cards(&config, &mut devices, &mut backends)?;
    let ends = backends.ends;
    warnings.splice(0..0, ends.warnings(&info::nics(&devices)));
    Ok((Network::new(ends, Arc::new(devices)), warnings))
}

fn network(args: &str) -> (Network, Vec<String>) {
    plug(args).unwrap_or_else(|e| panic!("{args}: {e}"))
}

fn refused(args: &str) -> String {
    plug(args).err().expect(args).to_string()
}

#[track_caller]
fn shows(args: &str, expected: &str) {
    assert_eq!(network(args).0.network(), expected, "{args}");
}

const USER: &str = "index=0,type=user,net=10.0.2.0,restrict=off";

fn card(name: &str, last: u8) -> String {
    format!("{name}: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:{last:02x}")
}

#[test]
fn there_is_a_card_unless_options_say_otherwise() {
    shows("", &format!("{}\n \\ #net000: {USER}\n", card("virtio-net-pci.0", 0x56)));
    for args in ["-nodefaults", "-nic none", "-net none"] {
        shows(args, "");
    }
    for args in ["-nic user,id=n,mac=", "-nic user,id=n,mac=00:00:00:00:00:00"] {
        shows(args, &format!("{}\n \\ n: {USER}\n", card("virtio-net-pci.0", 0x56)));
    }
    shows("-netdev user,id=n", &format!("n: {USER}\n"));
}

#[test]
fn cards_take_addresses_in_the_order_of_their_options() {
    let args = "-netdev user,id=n0 -nic user,id=n1 -net nic -net user";
    let expected = format!(
        "hub 0\n \\ hub0port1: #net000: {USER}\n \\ hub0port0: {}\nn0: {USER}\n{}\n \\ n1: {USER}\n",
        card("virtio-net-pci.1", 0x57),
        card("virtio-net-pci.0", 0x56)
    );
    let (network, warnings) = network(args);
    assert_eq!(network.network(), expected);
    assert_eq!(warnings, ["netdev n0 has no peer"]);
}

#[test]
fn a_model_that_does_not_exist_takes_its_address_all_the_same() {
    let (network, warnings) = network("-nic user,id=a -nic user,model=foo -nic user,id=c");
    let text = network.network();
    assert!(text.starts_with("#net000: ") && text.contains(&card("virtio-net-pci.1", 0x58)), "{text}");
    assert_eq!(warnings, ["netdev #net000 has no peer", "requested NIC (anonymous, model foo) was not created (not supported by this machine?)"]);
}

#[test]
fn hubs_are_shown_and_checked() {
    let hub = "-nic hubport,hubid=2,id=hh -netdev user,id=u -netdev hubport,id=hp,hubid=2,netdev=u";
    shows(hub, &format!("hub 2\n \\ hh: {}\n \\ hp: u: {USER}\n", card("virtio-net-pci.0", 0x56)));
    assert_eq!(network("-net nic").1, ["hub 0 is not connected to host network"]);
    assert_eq!(network("-net user").1, ["hub 0 with no nics"]);
    let usernet = network("-net user").0.usernet();
    assert!(usernet.starts_with("Hub 0 (#net000):\n  Protocol[State] "), "{usernet}");
    assert_eq!(network("-nic none").0.usernet(), "");
}

#[test]
fn mistakes_are_named() {
    for (args, expected) in [
        ("-net nic,foo=1", "-net nic,foo=1: Invalid parameter 'foo'"),
        ("-nic user,foo=1", "-nic user,foo=1: Invalid parameter 'foo'"),
        ("-nic user,netdev=a", "-nic user,netdev=a: Invalid parameter 'netdev'"),
        ("-nic user,mac=zz", "-nic user,mac=zz: invalid syntax for ethernet address"),
        ("-net nic,macaddr=zz", "-net nic,macaddr=zz: invalid syntax for ethernet address"),
        ("-nic user,mac=01:00:00:00:00:00", "-nic user,mac=01:00:00:00:00:00: NIC cannot have multicast MAC address"),
        ("-net nic,netdev=xx", "-net nic,netdev=xx: netdev 'xx' not found"),
        ("-net user,id=a -net user,id=a", "-net user,id=a: Duplicate ID 'a' for net"),
        ("-netdev user,id=a -netdev user,id=a", "-netdev user,id=a: Duplicate ID 'a' for netdev"),
        ("-netdev foo,id=a", "-netdev foo,id=a: Parameter 'type' does not accept value 'foo'"),
        ("-netdev type=user", "-netdev type=user: Parameter 'id' is missing"),
        ("-netdev hubport,id=a", "-netdev hubport,id=a: Parameter 'hubid' is missing"),
        ("-net foo", "-net foo: Parameter 'type' does not accept value 'foo'"),
        ("-nic foo", "-nic foo: Parameter 'type' does not accept value 'foo'"),
        ("-netdev user,id=z,hostfwd=foo", "-netdev user,id=z,hostfwd=foo: Invalid host forwarding rule 'foo' (No : separators)"),
        (
            "-netdev user,id=z,guestfwd=tcp:10.0.2.100:80-c",
            "-netdev user,id=z,guestfwd=tcp:10.0.2.100:80-c: 'c' is not a valid char driver\nCould not open guest forwarding device 'guestfwd.tcp.80'",
        ),
        (
            "-netdev user,id=z,guestfwd=tcp:10.0.2.2:80-null",
            "-netdev user,id=z,guestfwd=tcp:10.0.2.2:80-null: Conflicting/invalid host:port in guest forwarding rule 'tcp:10.0.2.2:80-null'",
        ),
        ("-netdev user,id=", "-netdev user,id=: Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', starting with a letter."),
        ("-netdev id=z", "-netdev id=z: Parameter 'type' is missing"),
        ("-netdev user,id=z -nic user,id=z", "-nic user,id=z: Duplicate ID 'z'"),
        ("-net hubport,hubid=0", "-net hubport,hubid=0: network backend 'hubport' is only supported with -netdev/-nic"),
        ("-netdev vhost-user,id=v", "-netdev vhost-user,id=v: Parameter 'chardev' is missing"),
        ("-netdev vhost-user,id=v,chardev=c", "-netdev vhost-user,id=v,chardev=c: chardev \"c\" not found"),
        ("-netdev vhost-user,id=v,chardev=c,queues=0", "-netdev vhost-user,id=v,chardev=c,queues=0: vhost-user number of queues must be in range [1, 1024]"),
    ] {
        assert_eq!(refused(args), expected, "{args}");
    }
    assert!(refused("-netdev user,id=1a").starts_with("-netdev user,id=1a: Parameter 'id' expects an identifier\n"));
}

#[test]
fn captures_are_shown_and_checked() {
    let file = std::env::temp_dir().join(format!("vm-filter-{}", std::process::id()));
    let dump = |rest: &str| format!("-nic user,id=n -netdev user,id=m -object filter-dump,id=f,netdev=n,file={}{rest}", file.display());
    let shown = |id: &str, rest: &str| format!("  - {id}: type=filter-dump,file={},maxlen=65536,{rest}\n", file.display());
    let second = format!(" -object filter-dump,id=g,netdev=n,file={},position=id=f,queue=rx", file.display());
    let first = shown("f", "position=tail,status=on,insert=behind,netdev=n,queue=all");
    let expected = format!("{first}{}", shown("g", "position=id=f,status=on,insert=behind,netdev=n,queue=rx"));
    shows(&dump(&second), &format!("m: {USER}\n{} \\ n: {USER}\nfilters:\n{expected}", card("virtio-net-pci.0", 0x56) + "\n"));
    for (rest, expected) in [
        (second.replace("id=g", "id=f"), "Duplicate ID 'f' for object"),
        (second.replace("id=f", "id=x"), "filter 'x' not found"),
        (second.replace("netdev=n", "netdev=m"), "filter 'f' belongs to a different netdev"),
        (second.replace("netdev=n", "netdev=x"), "Parameter 'netdev' expects a network backend id"),
    ] {
        let error = refused(&dump(&rest));
        assert!(error.ends_with(&format!(": {expected}")), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn json_lists_are_repeated_options() {
    let (network, _) = network(r#"-netdev {"type":"user","id":"j0","hostfwd":[{"str":"tcp:127.0.0.1:0-:22"}]}"#);
    assert!(network.usernet().contains("TCP[HOST_FORWARD]"));
}

#[test]
fn monitors_change_the_network() {
    let (network, _) = network("-nic user,id=n0");
    let text = |r: Result<()>| r.unwrap_err().to_string();
    assert_eq!(text(network.forward(Some("zz"), "tcp::0-:22")), "unrecognized netdev id 'zz'");
    assert_eq!(text(network.forward(None, "tcp::x-:22")), "Invalid host forwarding rule 'tcp::x-:22' (Bad host port)");
    network.forward(Some("n0"), "tcp:127.0.0.1:0-:22").unwrap();
    assert!(network.usernet().starts_with("Hub -1 (n0):\n") && network.usernet().contains("TCP[HOST_FORWARD]"));
    assert!(network.unforward(None, "tcp:127.0.0.1:0").unwrap() && !network.unforward(None, "tcp:127.0.0.1:0").unwrap());
    assert!(network.unforward(None, "foo").is_err());
    let pair = |k: &str, v: &str| (k.to_string(), v.to_string());
    let consoles = Consoles::new().unwrap();
    let add = |pairs| network.add(pairs, &consoles);
    assert_eq!(text(add(vec![pair("type", "user")])), "Parameter 'id' is missing");
    assert_eq!(text(add(vec![pair("type", "user"), pair("id", "n0")])), "Duplicate ID 'n0'");
    assert_eq!(text(network.remove("n0")), "Device 'n0' is not a netdev");
    assert_eq!(text(network.remove("foo")), "Device 'foo' not found");
    add(vec![pair("type", "user"), pair("id", "n5")]).unwrap();
    assert!(network.network().ends_with(&format!("\nn5: {USER}\n")));
    network.remove("n5").unwrap();
    assert!(network.set_link("n0", false) && network.set_link("virtio-net-pci.0", true) && !network.set_link("foo", true));
}

#[test]
fn a_card_on_a_removed_back_end_is_unplugged() {
    let (network, _) = network("-netdev user,id=n0 -net nic,netdev=n0");
    assert_eq!(network.network(), format!("{}\n \\ n0: {USER}\n", card("virtio-net-pci.0", 0x56)));
    network.remove("n0").unwrap();
    assert_eq!(network.network(), format!("{}\n", card("virtio-net-pci.0", 0x56)));
    assert_eq!(network.forward(None, "tcp::0-:22").unwrap_err().to_string(), "user mode network stack not in use");
}
