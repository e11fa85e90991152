//! A snapshot inside an image as the source of a command (`-l`).

use crate::common::{Exit, fail};
use disk::node::NodeRef;
use disk::options::Options;

/// Replaces an open image by a read-only view of one of its snapshots. `key` is `snapshot.id=…`, `snapshot.name=…`
/// or an identifier or name alone.
pub fn select(node: &mut NodeRef, key: &str) -> Result<(), Exit> {
    let failed = || fail::<()>("Failed to load snapshot: Can't find snapshot");
    let Some(image) = node.as_qcow2() else {
        return fail(format!(
            "Failed to load snapshot: Device '{}' does not support internal snapshots",
            node.driver()
        ));
    };
    let (id, name) = if key.starts_with("snapshot.") {
        let mut o = Options::parse(key, None)?;
        let pair = (o.take("snapshot.id"), o.take("snapshot.name"));
        if !o.is_empty() {
            return fail(format!("Failed in parsing snapshot param '{key}'"));
        }
        pair
    } else {
        (None, None)
    };
    let list = image.snapshot_infos();
    let by_rule = |s: &&disk::node::SnapshotInfo| {
        id.as_ref().is_none_or(|i| *i == s.id) && name.as_ref().is_none_or(|n| *n == s.name)
    };
    let found = match (&id, &name) {
        (None, None) => list.iter().find(|s| s.id == key).or_else(|| list.iter().find(|s| s.name == key)),
        _ => list.iter().find(by_rule),
    };
    let Some(found) = found else { return failed() };
    let view = image.view_snapshot(&found.id).or_else(|e| fail(format!("Failed to load snapshot: {e}")))?;
    view_backing(&view, node);
    *node = view;
    Ok(())
}

fn view_backing(view: &NodeRef, original: &NodeRef) {
    view.set_backing(original.backing());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn raw_has_no_snapshots() {
        let mut null: NodeRef = Arc::new(disk::null::Null::open(&mut Options::new()).unwrap());
        assert!(select(&mut null, "a").is_err());
    }
}
