//! Changing what an existing image says about its format.

use super::{Chain, OpenContext, Preallocation};
use crate::error::Result;
use crate::format::CreateOptions;

/// A request to a layer to change options of its image.
pub struct Amend<'a> {
    /// The options that were given, in the form in which creation gets them.
    pub options: &'a CreateOptions,
    /// Do also what cannot be undone.
    pub force: bool,
    /// Secrets.
    pub context: &'a OpenContext,
    /// Gives the image another virtual size; the layers below matter for that.
    pub resize: &'a dyn Fn(u64) -> Result<()>,
}

impl Chain {
    /// Changes options of the top image.
    pub fn amend(&self, options: &CreateOptions, force: bool, context: &OpenContext) -> Result<()> {
        let resize = |size| self.resize(size, Preallocation::Off);
        self.top().layer.amend(&Amend { options, force, context, resize: &resize })?;
        self.top().layer.flush()
    }
}
