//! `Impersonate-User` and its kin: whoever may do everything may ask as somebody else
//! (`apiserver/pkg/endpoints/filters/impersonation.go`).
//!
//! **Invariant:** the headers are honoured whole or the request is refused; none of them reaches a handler.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::attributes::{Attributes, Resource, Target};
use super::identity::Identity;
use super::rules::{authorize, refusal};
use crate::account::groups;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// What all of them begin with.
const ALL: &str = "impersonate-";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Why nobody is impersonated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImpersonationError {
    #[error("the header {header} is not understood; known are Impersonate-User, -Group, -Uid and -Extra-*")]
    Unknown { header: String },
    #[error("the header {header} holds no text")]
    NotText { header: String },
    #[error("groups, a uid or extra values are to be impersonated without a user: Impersonate-User is missing")]
    WithoutUser,
    /// The message is whole.
    #[error("{message}")]
    Forbidden { asked: Box<Resource>, message: String },
}

/// Who the headers say to be, if they say so, and if `asking` may.
pub(crate) fn impersonated(asking: &Identity, headers: &HeaderMap) -> Result<Option<Identity>, ImpersonationError> {
    let mut wanted = Identity::default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut any = false;
    for (name, value) in headers.iter().filter(|(name, _)| name.as_str().starts_with(ALL)) {
        any = true;
        let header = || name.as_str().to_owned();
        let text = std::str::from_utf8(value.as_bytes())
            .map_err(|_| ImpersonationError::NotText { header: header() })?
            .to_owned();
        match name.as_str() {
            USER if wanted.user.is_empty() => wanted.user = text,
            UID if wanted.uid.is_empty() => wanted.uid = text,
            GROUP => wanted.groups.push(text),
            other => match other.strip_prefix(EXTRA) {
                Some(key) if !key.is_empty() => {
                    let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                    extra.entry(key).or_default().push(text);
                }
                Some(_) | None => return Err(ImpersonationError::Unknown { header: header() }),
            },
        }
    }
    if !any {
        return Ok(None);
    }
    if wanted.user.is_empty() {
        return Err(ImpersonationError::WithoutUser);
    }
    wanted.extra = extra;
    for asked in permissions(&wanted) {
        let attributes = Attributes {
            verb: "impersonate".to_owned(),
            target: Target::Resource(asked.clone()),
        };
        if !authorize(asking, &attributes).is_allowed() {
            return Err(ImpersonationError::Forbidden {
                message: refusal(asking, &attributes),
                asked: Box::new(asked),
            });
        }
    }
    if wanted.groups.is_empty()
        && let Some((namespace, _)) = service_account(&wanted.user)
    {
        wanted.groups = groups(namespace);
    }
    Ok(Some(wanted.with_standing()))
}

/// Take the headers away.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let names: Vec<_> = headers
        .keys()
        .filter(|n| n.as_str().starts_with(ALL))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Namespace and name of the service account that a user name means.
fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix(SERVICE_ACCOUNT)?
        .split_once(':')
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains(':'))
}

/// What one must be allowed to `impersonate` to be this identity.
fn permissions(wanted: &Identity) -> Vec<Resource> {
    let core = |plural: &str, name: &str| Resource {
        version: "v1".to_owned(),
        plural: plural.to_owned(),
        name: name.to_owned(),
        ..Resource::default()
    };
    let mut all = vec![match service_account(&wanted.user) {
        Some((namespace, name)) => Resource {
            namespace: namespace.to_owned(),
            ..core("serviceaccounts", name)
        },
        None => core("users", &wanted.user),
    }];
    all.extend(wanted.groups.iter().map(|group| core("groups", group)));
    let authentication = |plural: &str, subresource: &str, name: &str| Resource {
        group: "authentication.k8s.io".to_owned(),
        subresource: subresource.to_owned(),
        ..core(plural, name)
    };
    if !wanted.uid.is_empty() {
        all.push(authentication("uids", "", &wanted.uid));
    }
    for (key, values) in &wanted.extra {
        all.extend(values.iter().map(|value| authentication("userextras", key, value)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::auth::identity::{MASTERS, VIEWERS};

    fn of(group: &str) -> Identity {
        Identity {
            user: "asking".to_owned(),
            groups: vec![group.to_owned()],
            ..Identity::default()
        }
    }

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_master_may_be_anybody() {
        let as_asked = |list| impersonated(&of(MASTERS), &headers(list)).unwrap().unwrap();
        let jane = as_asked(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-acme.com%2fproject", "x"),
            ("impersonate-extra-acme.com%2fproject", "y"),
        ]);
        assert_eq!(jane.user, "jane");
        assert_eq!(jane.uid, "7");
        assert_eq!(jane.groups, ["a", "b", "system:authenticated"]);
        assert_eq!(jane.extra["acme.com/project"], ["x", "y"]);
        let account = as_asked(&[("impersonate-user", "system:serviceaccount:ns:robot")]);
        assert_eq!(
            account.groups,
            [
                "system:serviceaccounts",
                "system:serviceaccounts:ns",
                "system:authenticated"
            ]
        );
        let nobody = as_asked(&[("impersonate-user", "system:anonymous")]);
        assert_eq!(nobody.groups, ["system:unauthenticated"]);
        assert_eq!(impersonated(&of(MASTERS), &headers(&[("host", "x")])), Ok(None));
    }

    #[test]
    fn nobody_else_may_be_anybody() {
        for (list, message) in [
            (
                &[("impersonate-user", "jane")][..],
                "users \"jane\" is forbidden: User \"asking\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            ),
            (
                &[("impersonate-user", "asking")],
                "users \"asking\" is forbidden: User \"asking\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            ),
            (
                &[("impersonate-user", "system:serviceaccount:ns:robot")],
                "serviceaccounts \"robot\" is forbidden: User \"asking\" cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"ns\"",
            ),
        ] {
            match impersonated(&of(VIEWERS), &headers(list)) {
                Err(ImpersonationError::Forbidden { message: found, .. }) => assert_eq!(found, message),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn headers_that_are_not_understood_are_refused() {
        for (list, error) in [
            (
                &[("impersonate-group", "system:masters")][..],
                ImpersonationError::WithoutUser,
            ),
            (&[("impersonate-user", "")], ImpersonationError::WithoutUser),
            (
                &[("impersonate-user", "a"), ("impersonate-user", "b")],
                ImpersonationError::Unknown {
                    header: "impersonate-user".to_owned(),
                },
            ),
            (
                &[("impersonate-user", "a"), ("impersonate-shoe-size", "b")],
                ImpersonationError::Unknown {
                    header: "impersonate-shoe-size".to_owned(),
                },
            ),
        ] {
            assert_eq!(impersonated(&of(MASTERS), &headers(list)), Err(error));
        }
    }

    #[test]
    fn nothing_of_it_is_left_for_handlers() {
        let mut left = headers(&[("impersonate-user", "a"), ("impersonate-extra-x", "b"), ("accept", "c")]);
        strip(&mut left);
        assert_eq!(left.keys().collect::<Vec<_>>(), ["accept"]);
    }
}
