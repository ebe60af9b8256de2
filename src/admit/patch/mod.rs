//! Patches of objects. Pure: an object and a patch in, the changed object out.
//!
//! JSON patches (RFC 6902) and merge patches (RFC 7386) are the crate json-patch's; here is what Kubernetes alone has.

mod order;
mod strategic;
#[cfg(test)]
mod tests;

pub use strategic::strategic;

/// Why a patch cannot be applied. Messages are those of `apimachinery/pkg/util/mergepatch`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatchError {
    /// podd does not know how this kind's lists merge.
    #[error("strategic merge patch format is not supported")]
    Unsupported,
    #[error("invalid JSON document")]
    NoObject,
    #[error("{path}: invalid patch format of primitive list")]
    PrimitiveList { path: String },
    #[error("{path}: invalid patch format of retainKeys")]
    RetainKeys { path: String },
    #[error("{path}: invalid patch format of setElementOrder list")]
    SetElementOrder { path: String },
    #[error("{path}: the order in the patch's list does not match its $setElementOrder list")]
    Order { path: String },
    #[error("{path}: unknown patch type: {found}")]
    UnknownDirective { path: String, found: String },
    #[error("{path}: unknown directive {found}")]
    UnknownKey { path: String, found: String },
    #[error("{path}: expected {expected}")]
    Type { path: String, expected: &'static str },
    #[error("{path}: lists of lists are not supported")]
    ListOfLists { path: String },
    #[error("{path}: an item does not contain declared merge key: {key}")]
    NoMergeKey { path: String, key: &'static str },
}

impl PatchError {
    /// Whether the patch is well formed and only does not fit the object (422), or is no patch at all (400).
    pub fn is_unprocessable(&self) -> bool {
        match self {
            Self::ListOfLists { .. } | Self::NoMergeKey { .. } => true,
            Self::Unsupported
            | Self::NoObject
            | Self::PrimitiveList { .. }
            | Self::RetainKeys { .. }
            | Self::SetElementOrder { .. }
            | Self::Order { .. }
            | Self::UnknownDirective { .. }
            | Self::UnknownKey { .. }
            | Self::Type { .. } => false,
        }
    }
}
