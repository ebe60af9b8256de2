//! The query of a request, read the way `apimachinery`'s parameter codec reads it.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use tokio::sync::watch;

use super::auth::Identity;
use super::error::ApiError;
use super::guard::Peer;
use super::kinds::Kind;
use super::selector::Selector;
use crate::admit::{Fault, FaultReason, FieldValidation};

/// Query parameters, in order. Of a name given twice the first one counts.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl From<Vec<(String, String)>> for Params {
    fn from(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }
}

impl Params {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Every value of a name that may be given several times.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Given and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|v| !v.is_empty())
    }

    /// `false` and `0` mean false; anything else, also nothing after the name, means true.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|v| !(v == "0" || v.eq_ignore_ascii_case("false")))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.text(name)
            .map(|v| {
                v.parse().map_err(|_| {
                    ApiError::bad_request(format!(
                        "invalid value for the parameter {name}: \"{v}\" is not an integer"
                    ))
                })
            })
            .transpose()
    }

    /// `resourceVersion`: `None` when absent, empty or `0`, which all mean "any".
    pub(crate) fn resource_version(&self) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text("resourceVersion") else {
            return Ok(None);
        };
        let version: u64 = text.parse().map_err(|_| {
            invalid_option(
                "ListOptions",
                "resourceVersion",
                FaultReason::Invalid,
                format!("Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"),
            )
        })?;
        Ok(Some(version).filter(|v| *v != 0))
    }

    /// What of the options of a LIST do not go together (`apimachinery/pkg/apis/meta/internalversion/validation`).
    pub(crate) fn check_list(&self) -> Result<(), ApiError> {
        let mut faults = Vec::new();
        let given = |name: &str| self.text(name).is_some();
        if let Some(how) = self.text("resourceVersionMatch") {
            let mut forbid = |detail: &str| faults.push(forbidden("resourceVersionMatch", detail));
            if !given("resourceVersion") {
                forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if given("continue") {
                forbid("resourceVersionMatch is forbidden when continue is provided");
            }
            match how {
                "Exact" if self.get("resourceVersion") == Some("0") => {
                    forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
                }
                "Exact" | "NotOlderThan" => {}
                other => faults.push(not_supported(
                    "resourceVersionMatch",
                    other,
                    "\"\", \"Exact\", \"NotOlderThan\"",
                )),
            }
        }
        if given("sendInitialEvents") {
            faults.push(forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            ));
        }
        invalid_options("ListOptions", faults)
    }

    /// What of the options of a WATCH do not go together.
    pub(crate) fn check_watch(&self) -> Result<(), ApiError> {
        let mut faults = Vec::new();
        let (how, initial) = (
            self.text("resourceVersionMatch"),
            self.flag("sendInitialEvents").is_some(),
        );
        let mut forbid = |detail: &str| faults.push(forbidden("resourceVersionMatch", detail));
        if initial && how != Some("NotOlderThan") {
            forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if how.is_some() && !initial {
            forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if how.is_some() && self.text("continue").is_some() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if let Some(other) = how.filter(|how| *how != "NotOlderThan") {
            faults.push(not_supported("resourceVersionMatch", other, "\"NotOlderThan\""));
        }
        invalid_options("ListOptions", faults)
    }

    pub(crate) fn selector(&self, kind: &Kind) -> Result<Selector, ApiError> {
        Selector::parse(
            kind,
            self.get("labelSelector").unwrap_or(""),
            self.get("fieldSelector").unwrap_or(""),
        )
    }

    /// `dryRun=All`; any other value is refused.
    pub(crate) fn dry_run(&self, options: &'static str) -> Result<bool, ApiError> {
        match self.text("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(unsupported(options, "dryRun", other, "\"All\"")),
        }
    }

    /// `fieldValidation`; the server's own default is `Warn` (Kubernetes 1.27 and later).
    pub(crate) fn field_validation(&self, options: &'static str) -> Result<FieldValidation, ApiError> {
        match self.text("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some(other) => Err(unsupported(
                options,
                "fieldValidation",
                other,
                "\"\", \"Ignore\", \"Strict\", \"Warn\"",
            )),
        }
    }
}

fn unsupported(options: &'static str, field: &str, value: &str, known: &str) -> ApiError {
    let detail = format!("Unsupported value: \"{value}\": supported values: {known}");
    invalid_option(options, field, FaultReason::NotSupported, detail)
}

fn forbidden(field: &str, detail: &str) -> Fault {
    Fault {
        field: field.to_owned(),
        reason: FaultReason::Forbidden,
        detail: format!("Forbidden: {detail}"),
    }
}

fn not_supported(field: &str, value: &str, known: &str) -> Fault {
    Fault {
        field: field.to_owned(),
        reason: FaultReason::NotSupported,
        detail: format!("Unsupported value: \"{value}\": supported values: {known}"),
    }
}

/// 422 about the options of a request instead of an object.
pub(crate) fn invalid_option(options: &'static str, field: &str, reason: FaultReason, detail: String) -> ApiError {
    refused(
        options,
        vec![Fault {
            field: field.to_owned(),
            reason,
            detail,
        }],
    )
}

/// The same with every fault there is; fine where there is none.
fn invalid_options(options: &'static str, faults: Vec<Fault>) -> Result<(), ApiError> {
    if faults.is_empty() {
        Ok(())
    } else {
        Err(refused(options, faults))
    }
}

fn refused(options: &'static str, faults: Vec<Fault>) -> ApiError {
    ApiError::Invalid {
        group: "meta.k8s.io",
        kind: options,
        name: String::new(),
        faults,
    }
}

/// What of a request's head the handlers look at.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) params: Params,
    pub(crate) headers: HeaderMap,
    /// `{namespace}` of the path.
    pub(crate) namespace: Option<String>,
    /// `{name}` of the path.
    name: Option<String>,
    /// Who asks. `None` where no guard said.
    pub(crate) asker: Option<Arc<Identity>>,
    /// True once the agent stops: streams end. `None` where no listener said.
    pub(crate) stopping: Option<watch::Receiver<bool>>,
}

impl Head {
    /// The object's name. Only for routes whose path has `{name}`.
    pub(crate) fn name(&self) -> Result<&str, ApiError> {
        self.name.as_deref().ok_or(ApiError::NoSuchPath)
    }

    /// The namespace as the store keys it: empty for kinds that have none.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("")
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Head {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|e| ApiError::bad_request(format!("the query cannot be read: {e}")))?;
        let path = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::bad_request(format!("the path cannot be read: {e}")))?;
        let of_path = |wanted: &str| path.iter().find(|(n, _)| *n == wanted).map(|(_, v)| v.to_owned());
        Ok(Self {
            params: Params(params),
            headers: parts.headers.clone(),
            namespace: of_path("namespace"),
            name: of_path("name"),
            asker: parts.extensions.get::<Arc<Identity>>().cloned(),
            stopping: parts.extensions.get::<Peer>().map(|peer| peer.stopping.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        let uri = format!("/api?{query}").parse().unwrap();
        Params(Query::try_from_uri(&uri).unwrap().0)
    }

    #[test]
    fn flags_are_read_as_kubernetes_reads_them() {
        let p = params("&watch=true&a=1&b=0&c=FALSE&d&d=0");
        assert_eq!(
            ["watch", "a", "b", "c", "d", "e"].map(|n| p.flag(n)),
            [Some(true), Some(true), Some(false), Some(false), Some(true), None]
        );
    }

    #[test]
    fn resource_version_zero_means_any() {
        assert_eq!(params("resourceVersion=0").resource_version().unwrap(), None);
        assert_eq!(params("resourceVersion=").resource_version().unwrap(), None);
        assert_eq!(params("resourceVersion=7").resource_version().unwrap(), Some(7));
        assert_eq!(
            params("resourceVersion=x").resource_version().unwrap_err().status()["code"],
            422
        );
    }

    #[test]
    fn unknown_values_of_options_are_refused_by_name() {
        let error = params("dryRun=Some").dry_run("CreateOptions").unwrap_err();
        assert_eq!(
            error.to_string(),
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\""
        );
        assert!(params("fieldValidation=Lax").field_validation("CreateOptions").is_err());
        assert_eq!(
            params("").field_validation("CreateOptions").unwrap(),
            FieldValidation::Warn
        );
    }
}
