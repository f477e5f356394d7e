//! A stack of layers: what the guest sees.

use super::filename::{protocol_prefix, resolve_backing};
use super::node::file_identity;
use super::{Extent, ExtentKind, Node};
use crate::error::Result;
use crate::text::to_os;

/// An opened image and everything it lies on, the top first.
#[derive(Debug)]
pub struct Chain {
    nodes: Vec<Node>,
}

/// What the guest sees at a range, and which layer it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainExtent {
    /// How many layers below the top it lies; for [`ExtentKind::Unallocated`] the depth means nothing.
    pub depth: usize,
    /// The extent. `Unallocated` here means that no layer has anything: it reads as zeros.
    pub extent: Extent,
}

impl Chain {
    /// A chain of these layers, top first. There must be at least one.
    pub fn new(nodes: Vec<Node>) -> Self {
        assert!(!nodes.is_empty(), "a chain has a top");
        Chain { nodes }
    }

    /// The image that was named, without those below it.
    pub fn into_top(self) -> Node {
        self.nodes.into_iter().next().expect("a chain has a top")
    }

    /// The `layers` images at the top, and those below them. Both must get at least one.
    pub fn split_at(mut self, layers: usize) -> (Chain, Chain) {
        let below = self.nodes.split_off(layers);
        (self, Chain::new(below))
    }

    /// All images, the top first.
    pub(super) fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }

    /// The image that was named.
    pub fn top(&self) -> &Node {
        &self.nodes[0]
    }

    /// All of them, top first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Whether the existing file called `filename` holds one of these images.
    pub fn contains_file(&self, filename: &str) -> bool {
        let Some(identity) = file_identity(filename) else { return false };
        self.nodes.iter().flat_map(Node::files).any(|(_, file)| file == identity)
    }

    /// The virtual size in bytes.
    pub fn size(&self) -> u64 {
        self.top().layer.size()
    }

    /// How many images below the top the one called `name` is, by the name in the image above it, or by one that leads to
    /// the same file.
    pub fn find_backing(&self, name: &str) -> Option<usize> {
        let pairs = self.nodes.iter().zip(&self.nodes[1..]);
        (1..).zip(pairs).find(|(_, (above, below))| is_called(above, below, name)).map(|(depth, _)| depth)
    }

    /// What the guest sees at `guest`, for as far as one kind from one layer goes within `len`. Ranges behind the end
    /// of a shorter backing file read as zeros.
    pub fn map(&self, guest: u64, len: u64) -> Result<ChainExtent> {
        self.map_above(guest, len, self.nodes.len())
    }

    /// As [`Chain::map`], but looks at the top `layers` layers only.
    pub fn map_above(&self, guest: u64, len: u64, layers: usize) -> Result<ChainExtent> {
        let mut len = len;
        for (depth, node) in self.nodes.iter().take(layers).enumerate() {
            let size = node.layer.size();
            if guest >= size {
                // Shorter than the layer above: its end hides everything deeper, too.
                return Ok(ChainExtent { depth, extent: Extent { guest, len, kind: ExtentKind::ZERO } });
            }
            let extent = node.layer.map(guest, len.min(size - guest))?;
            len = extent.len;
            if extent.kind != ExtentKind::Unallocated {
                return Ok(ChainExtent { depth, extent });
            }
        }
        Ok(ChainExtent { depth: layers, extent: Extent { guest, len, kind: ExtentKind::Unallocated } })
    }

    /// Reads what the guest sees. `guest + buf.len()` may pass the virtual size; zeros lie there.
    pub fn read(&self, guest: u64, buf: &mut [u8]) -> Result<()> {
        let mut at = guest;
        let mut rest = buf;
        while !rest.is_empty() {
            let found = self.map(at, rest.len() as u64)?;
            // The extent is never longer than `rest`, which is a slice in memory.
            let (now, later) = rest.split_at_mut(found.extent.len as usize);
            self.read_extent(&found, at, now)?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Reads guest bytes out of an extent that [`Chain::map`] returned.
    pub fn read_extent(&self, found: &ChainExtent, guest: u64, buf: &mut [u8]) -> Result<()> {
        match found.extent.kind {
            ExtentKind::Zero { .. } | ExtentKind::Unallocated => {
                buf.fill(0);
                Ok(())
            }
            _ => self.nodes[found.depth].layer.read(&found.extent, guest, buf),
        }
    }
}

/// Whether `name` means the image `below`, as seen from the one above it.
fn is_called(above: &Node, below: &Node, name: &str) -> bool {
    if name.is_empty() {
        return false;
    }
    let recorded = above.layer.backing().map(|backing| backing.filename);
    if recorded.as_deref() == Some(name) {
        return true;
    }
    let real = |name: &str| std::fs::canonicalize(to_os(name)).ok();
    protocol_prefix(name).is_none()
        && resolve_backing(above.base_name(), name)
            .is_ok_and(|name| real(&name).is_some_and(|path| real(&below.filename) == Some(path)))
}
