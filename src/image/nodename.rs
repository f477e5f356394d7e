//! The names that users give to nodes (`node-name`): each stands for one open node.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};

/// The names of all nodes that are open.
#[derive(Clone, Debug, Default)]
pub struct NodeNames(Arc<Mutex<HashSet<String>>>);

impl NodeNames {
    /// Takes a name for as long as the result lives.
    pub(super) fn take(&self, name: String) -> Result<NodeName> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.insert(name.clone()) {
            return Err(Error::invalid(format!("Duplicate nodes with node-name='{name}'")));
        }
        Ok(NodeName { name, names: self.clone() })
    }

    /// Makes all names free, for a second look at images that are still open.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether an open node has this name.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }
}

/// The name of an open node.
#[derive(Debug)]
pub(crate) struct NodeName {
    name: String,
    names: NodeNames,
}

impl NodeName {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

impl Drop for NodeName {
    fn drop(&mut self) {
        self.names.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}
