//! Drives, as a human and as a program sees them.
//!
//! Reference: `info block` and `query-block` of QEMU 10.0.2.

use serde_json::{Value, json};

use super::machine::{Disk, Image};

/// An entry of `info block`.
pub fn text(disk: &Disk, verbose: bool) -> String {
    let mut text = match &disk.image {
        Some(image) => {
            let read_only = if image.read_only { ", read-only" } else { "" };
            let name = match disk.device.as_str() {
                "" => image.node.clone(),
                device => format!("{device} ({})", image.node),
            };
            format!("{name}: {} ({}{read_only})\n", image.file, image.format)
        }
        None => format!("{}: [not inserted]\n", disk.device),
    };
    if let Some(path) = &disk.attached_to {
        text += &format!("    Attached to:      {path}\n");
    }
    if disk.removable {
        let lock = if disk.locked { "" } else { "not " };
        let tray = if disk.tray_open { "open" } else { "closed" };
        text += &format!("    Removable device: {lock}locked, tray {tray}\n");
    }
    let Some(image) = &disk.image else { return text };
    let mode = if image.writeback { "writeback" } else { "writethrough" };
    let direct = if image.direct { ", direct" } else { "" };
    let flush = if image.ignores_flush { ", ignore flushes" } else { "" };
    text += &format!("    Cache mode:       {mode}{direct}{flush}\n");
    if let Some(backing) = &image.backing_file {
        text += &format!("    Backing file:     {backing} (chain depth: {})\n", image.backing_depth);
    }
    if let Some(group) = &image.group {
        // Lengths of bursts are not among them.
        let limits = image.limits.iter().filter(|(name, _)| !name.ends_with("_length"));
        let limits: Vec<String> = limits.map(|(name, value)| format!("{name}={value}")).collect();
        text += &format!("    I/O throttling:   {} group={group}\n", limits.join(" "));
    }
    if verbose {
        text += &format!(
            "\nImages:\nimage: {}\nfile format: {}\nvirtual size: {} bytes\n",
            image.file, image.format, image.size
        );
    }
    text
}

/// What is in a drive, and what a node is.
fn inserted(image: &Image) -> Value {
    let limit = |name: &str| image.limits.iter().find(|(n, _)| n == name).map_or(0, |(_, value)| *value);
    let mut value = json!({
        "iops_rd": limit("iops_rd"), "detect_zeroes": "off", "active": true, "image": image.about,
        "iops_wr": limit("iops_wr"), "ro": image.read_only, "node-name": image.node,
        "backing_file_depth": image.backing_depth, "drv": image.format, "iops": limit("iops"),
        "bps_wr": limit("bps_wr"), "write_threshold": 0, "encrypted": false, "bps": limit("bps"),
        "bps_rd": limit("bps_rd"),
        "cache": {"no-flush": image.ignores_flush, "direct": image.direct, "writeback": image.writeback},
        "file": image.file,
    });
    if let Some(group) = &image.group {
        value["group"] = json!(group);
        // Bursts are told where there are any.
        for (name, limit) in image.limits.iter().filter(|(name, value)| name.contains("_m") && *value > 0) {
            value[name] = json!(limit);
        }
        if limit("iops_size") > 0 {
            value["iops_size"] = json!(limit("iops_size"));
        }
    }
    if let Some(backing) = &image.backing_file {
        value["backing_file"] = json!(backing);
    }
    value
}

/// `query-named-block-nodes`.
pub fn nodes(disks: &[Disk]) -> Value {
    disks.iter().filter_map(|disk| disk.image.as_ref()).map(inserted).collect()
}

/// An entry of `query-block`.
pub fn value(disk: &Disk) -> Value {
    let mut value =
        json!({"device": disk.device, "locked": disk.locked, "removable": disk.removable, "type": "unknown"});
    if let Some(path) = &disk.attached_to {
        value["qdev"] = json!(path);
        value["io-status"] = json!("ok");
        if disk.removable {
            value["tray_open"] = json!(disk.tray_open);
        }
    }
    if let Some(image) = &disk.image {
        value["inserted"] = inserted(image);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::Machine;
    use super::super::testing::Fake;
    use super::*;

    #[test]
    fn drives_look_as_in_qemu() {
        let disks = Fake::new().disks();
        let expected = "virtio0 (#block123): disk.img (raw)\n    \
                        Attached to:      /machine/peripheral-anon/device[0]/virtio-backend\n    \
                        Cache mode:       writeback\n";
        assert_eq!(text(&disks[0], false), expected);
        assert_eq!(text(&disks[1], false), "floppy0: [not inserted]\n    Removable device: not locked, tray closed\n");
        let empty = json!({"device": "floppy0", "locked": false, "removable": true, "type": "unknown"});
        assert_eq!(value(&disks[1]), empty);
        assert_eq!(value(&disks[0])["inserted"]["node-name"], json!("#block123"));
        let mut limited = disks[0].clone();
        let image = limited.image.as_mut().unwrap();
        image.group = Some("g".into());
        image.limits = vec![("bps".into(), 5), ("bps_max".into(), 9), ("bps_max_length".into(), 1)];
        assert!(text(&limited, false).ends_with("    I/O throttling:   bps=5 bps_max=9 group=g\n"));
        assert_eq!(value(&limited)["inserted"]["bps"], json!(5));
    }
}
