//! QEMU's options that are not built yet: each ends in an error that names it, none is ignored.

use spec::Error;

const REFUSED: &[&str] = &[
    "add-fd", "acpitable", "audio", "audiodev", "compat", "debugcon", "dump-vmstate", "enable-sync-profile", "fda", "fdb", "fsdev",
    "full-screen", "incoming", "iscsi", "jitdump", "k", "loadvm", "mem-path", "mem-prealloc", "mtdblock", "numa", "old-param",
    "only-migratable", "option-rom", "overcommit", "parallel", "perfmap", "plugin", "preconfig", "prom-env", "readconfig", "run-with",
    "runas", "chroot", "sandbox", "sd", "semihosting", "semihosting-config", "set", "shim", "smbios", "spice", "tpmdev", "trace", "usb",
    "usbdevice", "virtfs", "vnc", "watchdog-action", "xen-attach", "xen-domid", "xen-domid-restrict",
];

/// The error for an option of this list.
pub fn refuse(name: &str) -> Option<Error> {
    REFUSED.contains(&name).then(|| Error::new(format!("-{name}: not supported yet")))
}
