//! Device trees: a small facade over `dtoolkit`, with what boards need.
//!
//! Reference: Devicetree Specification 0.4.
//!
//! Nodes and properties keep the order in which they were added: Linux probes in that order.
//!
//! Invariant: trees are at most [`DEPTH_MAX`] nodes deep.

use dtoolkit::Node as _;
use dtoolkit::Property as _;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use spec::{Context, Error, Result};

/// Nodes within each other, at most; real trees have about ten.
const DEPTH_MAX: i32 = 64;
/// The field of a blob's header that says where the structure block begins (section 5.2), and that block's tokens (5.4.1).
const OFF_DT_STRUCT: usize = 8;
const FDT_BEGIN_NODE: u32 = 1;
const FDT_END_NODE: u32 = 2;
const FDT_PROP: u32 = 3;
const FDT_NOP: u32 = 4;

/// A node under construction.
pub struct Node(DeviceTreeNode);

impl Node {
    /// `name` is one of ours: a valid node name.
    pub fn new(name: impl Into<String>) -> Node {
        let name = name.into();
        Node(DeviceTreeNode::new(name.clone()).unwrap_or_else(|e| panic!("node name '{name}': {e}")))
    }

    /// Named `name@base`.
    pub fn at(name: &str, base: u64) -> Node {
        Node::new(format!("{name}@{base:x}"))
    }

    pub fn bytes(mut self, name: &str, value: &[u8]) -> Node {
        self.0.add_property(property(name, value));
        self
    }

    /// A property without a value.
    pub fn flag(self, name: &str) -> Node {
        self.bytes(name, &[])
    }

    pub fn cells(self, name: &str, cells: &[u32]) -> Node {
        let bytes: Vec<u8> = cells.iter().flat_map(|c| c.to_be_bytes()).collect();
        self.bytes(name, &bytes)
    }

    pub fn cell(self, name: &str, cell: u32) -> Node {
        self.cells(name, &[cell])
    }

    /// A list of strings.
    pub fn texts(self, name: &str, texts: &[&str]) -> Node {
        let bytes: Vec<u8> = texts.iter().flat_map(|t| t.bytes().chain([0])).collect();
        self.bytes(name, &bytes)
    }

    pub fn text(self, name: &str, text: &str) -> Node {
        self.texts(name, &[text])
    }

    /// `reg` with two cells each for addresses and sizes.
    pub fn reg(self, ranges: &[(u64, u64)]) -> Node {
        let cells: Vec<u32> = ranges.iter().flat_map(|(base, size)| [wide(*base), wide(*size)]).flatten().collect();
        self.cells("reg", &cells)
    }

    pub fn child(mut self, child: Node) -> Node {
        self.0.add_child(child.0);
        self
    }

    pub fn children(self, children: impl IntoIterator<Item = Node>) -> Node {
        children.into_iter().fold(self, Node::child)
    }

    /// Applies a change if there is something to apply.
    pub fn maybe<T>(self, value: Option<T>, change: impl FnOnce(Node, T) -> Node) -> Node {
        match value {
            Some(value) => change(self, value),
            None => self,
        }
    }
}

/// The two cells of a 64-bit number.
pub fn wide(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

fn property(name: &str, value: &[u8]) -> DeviceTreeProperty {
    DeviceTreeProperty::new(name, value).unwrap_or_else(|e| panic!("property name '{name}': {e}"))
}

/// A whole tree.
#[derive(Clone, Debug)]
pub struct Tree(DeviceTree);

impl Tree {
    /// `root` gives the root's properties and children.
    pub fn new(root: Node) -> Tree {
        let mut tree = DeviceTree::new();
        for p in root.0.properties() {
            tree.root.add_property(DeviceTreeProperty::from_property(&p));
        }
        for child in root.0.children() {
            tree.root.add_child(child.clone());
        }
        Tree(tree)
    }

    /// Reads a blob that somebody gave us.
    pub fn parse(blob: &[u8]) -> Result<Tree> {
        let fdt = Fdt::new(blob).context(|| "not a device tree".to_owned())?;
        if is_too_deep(blob) {
            return Err(Error::new(format!("not a device tree: its nodes are more than {DEPTH_MAX} deep in each other")));
        }
        Ok(Tree(DeviceTree::from_fdt(&fdt)))
    }

    pub fn blob(&self) -> Vec<u8> {
        self.0.to_dtb()
    }

    pub fn get(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        Some(self.0.find_node(path)?.property(name)?.value().to_vec())
    }

    pub fn get_cell(&self, path: &str, name: &str) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(path, name)?.try_into().ok()?))
    }

    /// Sets a property of a node, which is made if it is missing (its parent must exist).
    pub fn set(&mut self, path: &str, name: &str, value: &[u8]) -> Result<()> {
        let (parent, leaf) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() { "/" } else { parent };
        let missing = || Error::new(format!("the device tree has no node '{parent}'"));
        // To be changed a node is found by its whole name; to be read, one with an address behind the name is found, too.
        if self.0.find_node_mut(path).is_none() {
            self.0.find_node_mut(parent).ok_or_else(missing)?.add_child(Node::new(leaf).0);
        }
        let node = self.0.find_node_mut(path).expect("there or just made");
        node.add_property(property(name, value));
        Ok(())
    }

    pub fn set_text(&mut self, path: &str, name: &str, text: &str) -> Result<()> {
        self.set(path, name, &[text.as_bytes(), &[0]].concat())
    }

    /// Removes a direct child of the root.
    pub fn remove(&mut self, name: &str) {
        self.0.root.remove_child(name);
    }

    /// Names of the root's children.
    pub fn names(&self) -> Vec<String> {
        self.0.root.children().map(|c| c.name().to_owned()).collect()
    }

    /// As text, one `path`, `path:property = hex` per line, with the properties of each node sorted.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        describe(&self.0.root, "", &mut out);
        out
    }
}

/// Whether nodes are nested beyond what `dtoolkit`, which walks them by recursion, has room for. The blob is well-formed.
fn is_too_deep(blob: &[u8]) -> bool {
    let word = |at: usize| Some(u32::from_be_bytes(blob.get(at..at + 4)?.try_into().ok()?));
    let mut depth = 0;
    let mut next = |at: usize| -> Option<usize> {
        let end = match word(at)? {
            FDT_BEGIN_NODE => {
                depth += 1;
                at + 4 + blob[at + 4..].iter().position(|b| *b == 0)? + 1
            }
            FDT_END_NODE => {
                depth -= 1;
                at + 4
            }
            FDT_PROP => at + 12 + word(at + 4)? as usize,
            FDT_NOP => at + 4,
            _ => return None,
        };
        (depth <= DEPTH_MAX).then_some(end.next_multiple_of(4))
    };
    let mut at = word(OFF_DT_STRUCT).map(|start| start as usize);
    while let Some(here) = at {
        at = next(here);
    }
    depth > DEPTH_MAX
}

fn describe(node: &DeviceTreeNode, path: &str, out: &mut String) {
    use std::fmt::Write;
    let mut properties: Vec<(String, String)> =
        node.properties().map(|p| (p.name().to_owned(), p.value().iter().map(|b| format!("{b:02x}")).collect())).collect();
    properties.sort();
    let _ = writeln!(out, "{}", if path.is_empty() { "/" } else { path });
    for (name, value) in properties {
        let _ = writeln!(out, "{path}:{name} = {value}");
    }
    for child in node.children() {
        describe(child, &format!("{path}/{}", child.name()), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tree {
        let cpu = Node::at("cpu", 0).cell("reg", 0).text("device_type", "cpu");
        Tree::new(Node::new("root").cell("#address-cells", 2).child(Node::new("cpus").child(cpu)).child(Node::new("chosen")))
    }

    #[test]
    fn a_blob_reads_back_the_same() {
        let tree = sample();
        let again = Tree::parse(&tree.blob()).unwrap();
        assert_eq!(tree.describe(), again.describe());
        assert_eq!(tree.describe().lines().nth(2), Some("/cpus"));
        assert_eq!(again.get_cell("/cpus/cpu@0", "reg"), Some(0));
    }

    #[test]
    fn properties_can_be_set_and_nodes_made() {
        let mut tree = sample();
        tree.set_text("/chosen", "bootargs", "quiet").unwrap();
        tree.set("/aliases", "x", &[]).unwrap();
        assert!(tree.set("/no/such", "x", &[]).is_err());
        tree.set("/cpus/cpu", "x", &[]).unwrap();
        assert_eq!(tree.get("/chosen", "bootargs").unwrap(), b"quiet\0");
        assert_eq!(tree.names(), ["cpus", "chosen", "aliases"]);
        tree.remove("cpus");
        assert_eq!(tree.names().len(), 2);
    }

    #[test]
    fn a_tree_without_a_bottom_is_refused() {
        let nested = |depth: usize| {
            let mut structure = [1u32.to_be_bytes(), *b"n\0\0\0"].concat().repeat(depth);
            structure[4..8].fill(0);
            structure.extend(2u32.to_be_bytes().repeat(depth));
            structure.extend(9u32.to_be_bytes());
            let (size, whole) = (structure.len() as u32, 56 + structure.len() as u32);
            let header = [0xd00d_feed, whole, 56, whole, 40, 17, 16, 0, 0, size].map(u32::to_be_bytes).concat();
            Tree::parse(&[header, vec![0; 16], structure].concat())
        };
        assert_eq!(nested(64).unwrap().describe().lines().count(), 64);
        let error = nested(65).unwrap_err().to_string();
        assert_eq!(error, "not a device tree: its nodes are more than 64 deep in each other");
        assert!(nested(100_000).is_err());
    }

    #[test]
    fn garbage_is_no_tree() {
        for blob in [&b""[..], b"\xd0\x0d\xfe\xed", &[0; 100]] {
            assert!(Tree::parse(blob).is_err());
        }
        // A truncated blob.
        let blob = sample().blob();
        for len in 0..blob.len() {
            assert!(Tree::parse(&blob[..len]).is_err(), "{len}");
        }
    }
}
