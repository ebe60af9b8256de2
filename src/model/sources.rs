//! What a pod takes from other objects, as it was read at one moment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{ObjectKind, Timestamp, Uid};

/// The data of a ConfigMap (`data` and `binaryData`) or of a Secret, by key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Data(pub BTreeMap<String, Vec<u8>>);

/// Keys alone: it may be secret.
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Everything that the containers and volumes of one pod name, and that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// By kind and name; all of the pod's namespace. One that does not exist is left out.
    pub objects: BTreeMap<(ObjectKind, String), Data>,
    /// The tokens of projected volumes, by volume and path.
    pub tokens: BTreeMap<(String, PathBuf), Token>,
}

/// A token for a pod's service account.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub expires_at: Timestamp,
    /// From here on it is to be replaced.
    pub renew_at: Timestamp,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            text: _,
            expires_at,
            renew_at,
        } = self;
        let mut told = f.debug_struct("Token");
        told.field("expires_at", expires_at).field("renew_at", renew_at);
        told.finish_non_exhaustive()
    }
}

/// Whom a token is for, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    pub namespace: String,
    pub service_account: String,
    /// The pod that it is bound to, by name and uid: without that pod it is worth nothing.
    pub pod: (String, Uid),
    /// Empty: the API's own.
    pub audience: String,
    pub expiration: Duration,
}
