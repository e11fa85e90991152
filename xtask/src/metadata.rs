//! What `cargo metadata` says about the workspace, as far as the checks need it.

use crate::process::capture;
use crate::project;
use serde_json::Value;
use spec::error::{Context, Error, Result};
use std::path::PathBuf;
use std::process::Command;

pub struct Package {
    pub name: String,
    pub version: String,
    pub licence: Option<String>,
    /// Part of this project.
    pub ours: bool,
    /// Names of the packages it depends on, without development dependencies.
    pub dependencies: Vec<String>,
    /// The root source files of its libraries and programs.
    pub roots: Vec<PathBuf>,
}

/// Every package of the dependency graph, for this project's only host platform.
pub fn packages() -> Result<Vec<Package>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(project::root()).args(["metadata", "--format-version=1", "--locked"]);
    cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let text = capture(&mut cargo)?;
    let metadata: Value = serde_json::from_str(&text).context(|| "cargo metadata printed something else than JSON".into())?;
    let list = metadata["packages"].as_array().ok_or_else(|| Error::new("cargo metadata lists no packages"))?;
    Ok(list.iter().map(package).collect())
}

fn package(value: &Value) -> Package {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let each = |v: &'static str| value[v].as_array().into_iter().flatten();
    let kinds = ["lib", "bin"];
    let is_root = |t: &&Value| t["kind"].as_array().into_iter().flatten().any(|k| kinds.contains(&k.as_str().unwrap_or("")));
    Package {
        name: text(&value["name"]),
        version: text(&value["version"]),
        licence: value["license"].as_str().map(str::to_string),
        ours: value["source"].is_null(),
        dependencies: each("dependencies").filter(|d| d["kind"].as_str() != Some("dev")).map(|d| text(&d["name"])).collect(),
        roots: each("targets").filter(is_root).map(|t| PathBuf::from(text(&t["src_path"]))).collect(),
    }
}
