//! The header and its extensions. Specification: "Header", "Header extensions", "Feature name table".

/// The header.
#[derive(Clone, Debug)]
pub struct Header {}
