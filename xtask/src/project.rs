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
