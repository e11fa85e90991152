//! The devices that `-device` knows, one row each, and their properties.
//!
//! Names, defaults and order of the categories are QEMU's. A property without a row is an error; one whose other values are
//! not built is `Only`.

use super::make::{self, Make};
use super::property::{Group, Property, properties};

/// Sections of `-device help`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Category {
    Bridge,
    Storage,
    Network,
    Input,
    Misc,
}

impl Category {
    pub const ALL: [Category; 5] = [Category::Bridge, Category::Storage, Category::Network, Category::Input, Category::Misc];

    pub fn title(self) -> &'static str {
        match self {
            Category::Bridge => "Controller/Bridge/Hub devices",
            Category::Storage => "Storage devices",
            Category::Network => "Network devices",
            Category::Input => "Input devices",
            Category::Misc => "Misc devices",
        }
    }
}

/// What a device is plugged into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Socket {
    Pci,
    VirtioMmio,
    VirtioSerial,
}

impl Socket {
    /// The bus type's name.
    pub fn name(self) -> &'static str {
        match self {
            Socket::Pci => "PCI",
            Socket::VirtioMmio => "virtio-bus",
            Socket::VirtioSerial => "virtio-serial-bus",
        }
    }
}

/// Which drivers a virtio-pci device is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// As `disable-legacy` and `disable-modern` say.
    Chosen,
    Transitional,
    NonTransitional,
}

pub struct Row {
    pub name: &'static str,
    pub alias: &'static str,
    pub category: Category,
    pub socket: Socket,
    pub description: &'static str,
    /// The virtio device inside, for messages; empty for others.
    pub inner: &'static str,
    pub variant: Variant,
    /// Properties of the device itself.
    pub own: &'static [Property],
    /// What its PCI form has besides what all PCI forms have.
    pub pci: &'static [Property],
    pub make: Make,
}

const BLK: &[Property] = properties! {
    "account-failed" OnOffAuto "auto";
    "account-invalid" OnOffAuto "auto";
    "bootindex" I32 "";
    "config-wce" Bool "on";
    "cyls" U32 "0";
    "discard" Bool "on";
    "discard_granularity" Size "4294967295";
    "drive" Drive "";
    "heads" U32 "0";
    "logical_block_size" BlockSize "0";
    "max-discard-sectors" U32 "4194303";
    "max-write-zeroes-sectors" U32 "4194303";
    "min_io_size" Size "0";
    "num-queues" U16 "65535";
    "opt_io_size" Size "0";
    "physical_block_size" BlockSize "0";
    "queue-size" U16 "256";
    "request-merging" Hint "on";
    "rerror" OnError "auto";
    "secs" U32 "0";
    "serial" Str "";
    "share-rw" Only(false) "off";
    "werror" OnError "auto";
    "write-cache" OnOffAuto "auto";
    "write-zeroes" Bool "on";
};

const NET: &[Property] = properties! {
    "bootindex" I32 "";
    "csum" Bool "on";
    "ctrl_guest_offloads" Bool "on";
    "ctrl_mac_addr" Bool "on";
    "ctrl_rx" Bool "on";
    "ctrl_rx_extra" Bool "on";
    "ctrl_vlan" Bool "on";
    "ctrl_vq" Bool "on";
    "duplex" Str "";
    "failover" Only(false) "off";
    "gso" Bool "on";
    "guest_announce" Hint "on";
    "guest_csum" Bool "on";
    "guest_ecn" Hint "on";
    "guest_rsc_ext" Only(false) "off";
    "guest_tso4" Bool "on";
    "guest_tso6" Bool "on";
    "guest_ufo" Hint "on";
    "guest_uso4" Hint "on";
    "guest_uso6" Hint "on";
    "hash" Only(false) "off";
    "host_ecn" Hint "on";
    "host_mtu" U16 "0";
    "host_tso4" Bool "on";
    "host_tso6" Bool "on";
    "host_ufo" Hint "on";
    "host_uso" Hint "on";
    "mac" Mac "";
    "mq" Hint "off";
    "mrg_rxbuf" Bool "on";
    "netdev" Netdev "";
    "rss" Only(false) "off";
    "rsc_interval" U32 "300000";
    "rx_queue_size" U16 "256";
    "speed" I32 "-1";
    "status" Bool "on";
    "tx" Str "";
    "tx_queue_size" U16 "256";
    "x-txburst" I32 "256";
    "x-txtimer" U32 "150000";
};

const CARD: &[Property] = properties! {
    "bootindex" I32 "";
    "mac" Mac "";
    "netdev" Netdev "";
};

const E1000: &[Property] = properties! {
    "autonegotiation" Only(true) "on";
    "bootindex" I32 "";
    "extra_mac_registers" Hint "on";
    "init-vet" Only(true) "on";
    "mac" Mac "";
    "migrate_tso_props" Hint "on";
    "netdev" Netdev "";
};

const SERIAL: &[Property] = properties! {
    "emergency-write" Bool "on";
    "max_ports" U32 "31";
};

const RNG: &[Property] = properties! {
    "max-bytes" U64 "9223372036854775807";
    "period" U32 "65536";
    "rng" Rng "";
};

const PORT: &[Property] = properties! {
    "chardev" Chardev "";
    "name" Str "";
    "nr" U32 "4294967295";
};

const ROOT_PORT: &[Property] = properties! {
    "chassis" U8 "0";
    "hotplug" Hint "on";
    "port" U8 "0";
    "slot" U16 "0";
};

const PCI_BRIDGE: &[Property] = properties! {
    "chassis_nr" U8 "0";
    "shpc" Hint "on";
};

const NONE: &[Property] = &[];

/// Properties of every virtio device.
const VIRTIO: &[Property] = properties! {
    "any_layout" Bool "on";
    "event_idx" Bool "on";
    "in_order" Only(false) "off";
    "indirect_desc" Bool "on";
    "iommu_platform" Only(false) "off";
    "notify_on_empty" Hint "on";
    "packed" Only(false) "off";
    "queue_reset" Hint "on";
};

/// Properties of every virtio-pci device.
const VIRTIO_PCI: &[Property] = properties! {
    "ats" Only(false) "off";
    "ioeventfd" Hint "on";
    "modern-pio-notify" Only(false) "off";
    "page-per-vq" Only(false) "off";
};

const BLK_PCI: &[Property] = properties! {
    "class" U32 "0";
    "vectors" U32 "4294967295";
};

const SERIAL_PCI: &[Property] = properties! {
    "class" U32 "0";
    "vectors" U32 "2";
};

const VECTORS: &[Property] = properties! {
    "vectors" U32 "4294967295";
};

const VIRTIO_PCI_CHOICE: &[Property] = properties! {
    "disable-legacy" OnOffAuto "auto";
    "disable-modern" Bool "off";
};

/// Properties of every PCI device.
const PCI: &[Property] = properties! {
    "addr" Addr "-1";
    "multifunction" Bool "off";
    "rombar" I32 "-1";
    "romfile" Str "";
};

/// A virtio device: alone for the mmio transport, and three PCI variants.
macro_rules! virtio {
    ($name:literal $inner:literal $alias:literal $category:ident $own:ident $pci:ident $make:ident) => {
        [
            Row {
                name: $inner,
                alias: "",
                category: Category::$category,
                socket: Socket::VirtioMmio,
                description: "",
                inner: $inner,
                variant: Variant::Chosen,
                own: $own,
                pci: NONE,
                make: make::$make,
            },
            virtio!(@pci $name, $inner, $alias, $category, $own, $pci, $make, Chosen),
            virtio!(@pci concat!($name, "-non-transitional"), $inner, "", $category, $own, $pci, $make, NonTransitional),
            virtio!(@pci concat!($name, "-transitional"), $inner, "", $category, $own, $pci, $make, Transitional),
        ]
    };
    (@pci $name:expr, $inner:literal, $alias:literal, $category:ident, $own:ident, $pci:ident, $make:ident, $variant:ident) => {
        Row {
            name: $name,
            alias: $alias,
            category: Category::$category,
            socket: Socket::Pci,
            description: "",
            inner: $inner,
            variant: Variant::$variant,
            own: $own,
            pci: $pci,
            make: make::$make,
        }
    };
}

const BLK_ROWS: [Row; 4] = virtio!("virtio-blk-pci" "virtio-blk-device" "virtio-blk" Storage BLK BLK_PCI blk);
const NET_ROWS: [Row; 4] = virtio!("virtio-net-pci" "virtio-net-device" "virtio-net" Network NET VECTORS net);
const SERIAL_ROWS: [Row; 4] = virtio!("virtio-serial-pci" "virtio-serial-device" "virtio-serial" Input SERIAL SERIAL_PCI serial);
const RNG_ROWS: [Row; 4] = virtio!("virtio-rng-pci" "virtio-rng-device" "virtio-rng" Misc RNG VECTORS rng);

const fn plain(name: &'static str, category: Category, socket: Socket, own: &'static [Property], make: Make) -> Row {
    Row { name, alias: "", category, socket, description: "", inner: "", variant: Variant::Chosen, own, pci: NONE, make }
}

const OTHER_ROWS: [Row; 9] = [
    Row { alias: "e1000-82540em", description: "Intel Gigabit Ethernet", ..plain("e1000", Category::Network, Socket::Pci, E1000, make::e1000) },
    Row { description: "Intel 82574L GbE Controller", ..plain("e1000e", Category::Network, Socket::Pci, CARD, make::e1000e) },
    plain("ne2k_pci", Category::Network, Socket::Pci, CARD, make::ne2k_pci),
    plain("pcnet", Category::Network, Socket::Pci, CARD, make::pcnet),
    plain("rtl8139", Category::Network, Socket::Pci, CARD, make::rtl8139),
    Row { description: "Standard PCI Bridge", ..plain("pci-bridge", Category::Bridge, Socket::Pci, PCI_BRIDGE, make::pci_bridge) },
    Row { description: "PCI Express Root Port", ..plain("pcie-root-port", Category::Bridge, Socket::Pci, ROOT_PORT, make::root_port) },
    plain("virtconsole", Category::Input, Socket::VirtioSerial, PORT, make::virtconsole),
    plain("virtserialport", Category::Input, Socket::VirtioSerial, PORT, make::virtserialport),
];

/// What is on no bus: it puts files into memory before the machine starts (the board's loader does it). Name, description,
/// properties.
pub const LOADERS: [(&str, &str, &[Property]); 2] = [
    (
        "guest-loader",
        "Guest Loader",
        properties! {
            "addr" U64 "0";
            "bootargs" Str "";
            "initrd" Str "";
            "kernel" Str "";
        },
    ),
    (
        "loader",
        "Generic Loader",
        properties! {
            "addr" U64 "0";
            "cpu-num" U32 "4294967295";
            "data-be" Bool "off";
            "data-len" U8 "0";
            "data" U64 "0";
            "file" Str "";
            "force-raw" Bool "off";
        },
    ),
];

/// Every device.
pub fn all() -> impl Iterator<Item = &'static Row> {
    let all: [&[Row]; 5] = [&BLK_ROWS, &NET_ROWS, &SERIAL_ROWS, &RNG_ROWS, &OTHER_ROWS];
    all.into_iter().flatten()
}

/// The row of a name or an alias.
pub fn find(name: &str) -> Option<&'static Row> {
    all().find(|r| r.name == name || !r.alias.is_empty() && r.alias == name)
}

impl Row {
    /// All properties, in groups with their owner.
    pub fn groups(&self) -> Vec<Group> {
        let group = |owner: &str, rows| Group { owner: owner.into(), rows };
        let inner = if self.inner.is_empty() { self.name } else { self.inner };
        let mut groups = vec![group(inner, self.own)];
        if !self.inner.is_empty() {
            groups.push(group(inner, VIRTIO));
        }
        if self.socket == Socket::Pci {
            groups.push(group(self.name, PCI));
            if !self.inner.is_empty() {
                groups.push(group(self.name, VIRTIO_PCI));
                groups.push(group(self.name, self.pci));
                groups.push(group(self.name, if self.variant == Variant::Chosen { VIRTIO_PCI_CHOICE } else { NONE }));
            }
        }
        groups
    }

    /// The line of `-device help`.
    pub fn help_line(&self) -> String {
        let mut line = format!("name \"{}\", bus {}", self.name, self.socket.name());
        if !self.alias.is_empty() {
            line += &format!(", alias \"{}\"", self.alias);
        }
        if !self.description.is_empty() {
            line += &format!(", desc \"{}\"", self.description);
        }
        line + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_properties_are_unique() {
        let mut names = BTreeSet::new();
        for row in all() {
            assert!(names.insert(row.name), "{}", row.name);
            assert!(row.alias.is_empty() || names.insert(row.alias), "{}", row.alias);
            let mut properties = BTreeSet::new();
            for property in row.groups().iter().flat_map(|g| g.rows) {
                assert!(properties.insert(property.name), "{}.{}", row.name, property.name);
            }
        }
    }

    #[test]
    fn help_lines_are_those_of_the_reference() {
        assert_eq!(find("virtio-blk").unwrap().help_line(), "name \"virtio-blk-pci\", bus PCI, alias \"virtio-blk\"\n");
        assert_eq!(find("virtconsole").unwrap().help_line(), "name \"virtconsole\", bus virtio-serial-bus\n");
        assert_eq!(find("pci-bridge").unwrap().help_line(), "name \"pci-bridge\", bus PCI, desc \"Standard PCI Bridge\"\n");
    }
}
