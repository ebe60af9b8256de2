//! An identity: a user and the groups it is in.

use std::collections::BTreeMap;

/// Whoever has this group may do everything.
pub(crate) const MASTERS: &str = "system:masters";
/// Whoever has this group may read, but for what is secret.
pub(crate) const VIEWERS: &str = "podd:viewers";
/// The group of all service accounts; that of a namespace's own has `:` and its name behind it.
pub(crate) const SERVICE_ACCOUNTS: &str = crate::account::GROUP;
/// The group of everyone who proved who they are.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone else.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user that everyone else is.
pub(crate) const ANONYMOUS: &str = "system:anonymous";

/// Who asks, in the words of `authentication.k8s.io` (`UserInfo`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    /// Empty where nobody gave one.
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// Root, on the unix socket.
    pub(crate) fn root() -> Self {
        Self {
            user: "root".to_owned(),
            groups: vec![MASTERS.to_owned()],
            ..Self::default()
        }
    }

    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// With the group that Kubernetes adds: `system:authenticated`, for the anonymous user `system:unauthenticated`.
    #[must_use]
    pub(crate) fn with_standing(mut self) -> Self {
        if !self.is_in(AUTHENTICATED) && !self.is_in(UNAUTHENTICATED) {
            let standing = if self.user == ANONYMOUS {
                UNAUTHENTICATED
            } else {
                AUTHENTICATED
            };
            self.groups.push(standing.to_owned());
        }
        self
    }
}
