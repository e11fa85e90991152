//! Where things are: the project, the guests, the emulators.

use std::path::{Path, PathBuf};

/// The workspace's top directory.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lives in the workspace").to_path_buf()
}

/// Where guest programs are unpacked. `RHEA_GUESTS` lets several checkouts share one copy.
pub fn guests() -> PathBuf {
    match std::env::var_os("RHEA_GUESTS") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => root().join("target/guests"),
    }
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => root().join("target"),
    }
}

/// The system emulator: `RHEA_QEMU_SYSTEM_ARM`, or the release build.
pub fn system_emulator() -> PathBuf {
    match std::env::var_os("RHEA_QEMU_SYSTEM_ARM") {
        Some(file) if !file.is_empty() => PathBuf::from(file),
        _ => target().join("release/qemu-system-arm"),
    }
}

/// The emulator under test: `RHEA_QEMU_ARM`, or the release build.
pub fn emulator() -> PathBuf {
    match std::env::var_os("RHEA_QEMU_ARM") {
        Some(file) if !file.is_empty() => PathBuf::from(file),
        _ => target().join("release/qemu-arm"),
    }
}
