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
            format!("{} ({}): {} ({}{read_only})\n", disk.device, image.node, image.file, image.format)
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
    if verbose {
        text += &format!(
            "\nImages:\nimage: {}\nfile format: {}\nvirtual size: {} bytes\n",
            image.file, image.format, image.size
        );
    }
    text
}

fn inserted(image: &Image) -> Value {
    let mut value = json!({
        "iops_rd": 0, "iops_wr": 0, "iops": 0, "bps_rd": 0, "bps_wr": 0, "bps": 0,
        "detect_zeroes": "off",
        "write_threshold": 0,
        "encrypted": false,
        "ro": image.read_only,
        "drv": image.format,
        "file": image.file,
        "node-name": image.node,
        "backing_file_depth": image.backing_depth,
        "cache": {"no-flush": image.ignores_flush, "direct": image.direct, "writeback": image.writeback},
        "image": {"virtual-size": image.size, "filename": image.file, "format": image.format},
    });
    if let Some(backing) = &image.backing_file {
        value["backing_file"] = json!(backing);
        value["image"]["backing-filename"] = json!(backing);
    }
    value
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
        assert_eq!(value(&disks[0])["inserted"]["image"]["virtual-size"], json!(1 << 20));
    }
}
