//! What can go wrong with a request, and how a client is told: one enum in, one Kubernetes `Status` out.
//!
//! Goes in: `ApiError` values from the handlers. Comes out: HTTP responses whose body is a `Status`.
//!
//! **Invariant:** the inside of a failure (SQL, paths of podd's own state) is logged, never sent.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::auth::attributes::Resource;
use super::kinds::{Kind, NAMESPACE, qualified};
use crate::admit::Fault;
use crate::store::StoreError;

/// Each variant is one `reason` of Kubernetes (`apimachinery/pkg/apis/meta/v1/types.go`), with what its message needs.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{message}")]
    BadRequest { message: String },
    #[error("Unauthorized")]
    Unauthorized,
    /// A credential that was shown and is not believed: why.
    #[error("Unauthorized: {why}")]
    NotBelieved { why: Cow<'static, str> },
    #[error("{message}")]
    Forbidden { message: String },
    /// An object of a known kind that may not be written so. Each cause is a `StatusCause`.
    #[error("{} is forbidden: {why}", forbidden(kind, name))]
    ForbiddenObject {
        kind: &'static Kind,
        name: String,
        why: String,
        causes: Vec<Value>,
    },
    /// A pod's service account is to be looked up before it can be admitted: for whoever admits it, never for a client.
    #[error("the service account {name:?} was not looked up")]
    AccountUnread { name: String },
    /// An identity may not do this. The message is whole.
    #[error("{message}")]
    Denied { asked: Box<Resource>, message: String },
    /// An object of a known kind that is not there.
    #[error("{} \"{name}\" not found", kind.resource())]
    NotFound { kind: &'static Kind, name: String },
    /// A path that podd does not serve.
    #[error("the server could not find the requested resource")]
    NoSuchPath,
    /// A path of a version that podd does not serve, and the version that it serves instead.
    #[error("the server could not find the requested resource: {asked} is not served, {served} is")]
    VersionNotServed { asked: String, served: String },
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    #[error("only the following media types are accepted: {accepted}")]
    NotAcceptable { accepted: &'static str },
    #[error("{} \"{name}\" already exists", kind.resource())]
    AlreadyExists { kind: &'static Kind, name: String },
    #[error("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource())]
    Conflict {
        kind: &'static Kind,
        name: String,
        why: String,
    },
    /// A resource version or a continue token from before what the store still knows.
    #[error("{message}")]
    Expired { message: String },
    /// The same for a continue token; another one goes on with what there is now.
    #[error(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )]
    ExpiredContinue { token: String },
    #[error("Too large resource version: {asked}, current: {current}")]
    TooLargeResourceVersion { asked: u64, current: u64 },
    #[error("Request entity too large: limit is {limit}")]
    TooLarge { limit: usize },
    #[error("the body of the request was in an unknown format - accepted media types include: {accepted}")]
    UnsupportedMediaType { accepted: &'static str },
    /// `application/apply-patch`: refused by name, so that no one believes in an ownership that is not kept.
    #[error(
        "server-side apply is not served here: podd keeps no field ownership yet; use client-side apply, or one of the \
         media types {accepted}"
    )]
    ServerSideApply { accepted: &'static str },
    #[error("Request entity too large: The allowed maximum operations in a JSON patch is {limit}, got {found}")]
    TooManyOperations { limit: usize, found: usize },
    #[error("{message}")]
    Misdirected { message: String },
    /// An object, or the options of a request, with every fault it has. `kind` is in camel case.
    #[error("{} \"{name}\" is invalid: {}", qualified(kind, group), joined(faults))]
    Invalid {
        group: &'static str,
        kind: &'static str,
        name: String,
        faults: Vec<Fault>,
    },
    #[error("the server rejected our request due to an error in our request: {why}")]
    Unprocessable { why: String },
    /// What a stream is wanted of does not run.
    #[error("{message}")]
    NotRunning { message: String },
    /// A pod that was to be reached is not.
    #[error("{message}")]
    ServiceUnavailable { message: String },
    #[error("too many requests at once, please try again")]
    TooManyRequests { retry_after: Duration },
    #[error("the request's body did not arrive in time")]
    BodyTimeout,
    #[error("Internal error occurred: {what}")]
    Internal {
        /// What podd was doing, in words that a client may read.
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// `apimachinery/pkg/util/errors`: one error stands alone, several are a list; equal ones are said once.
fn joined(faults: &[Fault]) -> String {
    let mut said: Vec<String> = Vec::with_capacity(faults.len());
    for fault in faults {
        let text = format!("{}: {}", fault.field, fault.detail);
        if !said.contains(&text) {
            said.push(text);
        }
    }
    match said.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// What a refusal is about; an object whose name is yet to be made up has none.
fn forbidden(kind: &Kind, name: &str) -> String {
    if name.is_empty() {
        kind.resource()
    } else {
        format!("{} \"{name}\"", kind.resource())
    }
}

impl ApiError {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::BadRequest {
            message: message.into(),
        }
    }

    pub(crate) fn internal(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal {
            what,
            source: source.into(),
        }
    }

    /// `metav1.StatusReason` and the HTTP code that goes with it.
    pub fn reason_and_code(&self) -> (&'static str, StatusCode) {
        match self {
            Self::BadRequest { .. } => ("BadRequest", StatusCode::BAD_REQUEST),
            Self::Unauthorized | Self::NotBelieved { .. } => ("Unauthorized", StatusCode::UNAUTHORIZED),
            Self::Forbidden { .. } | Self::Denied { .. } | Self::ForbiddenObject { .. } => {
                ("Forbidden", StatusCode::FORBIDDEN)
            }
            Self::NotFound { .. } | Self::NoSuchPath | Self::NotRunning { .. } | Self::VersionNotServed { .. } => {
                ("NotFound", StatusCode::NOT_FOUND)
            }
            Self::ServiceUnavailable { .. } => ("ServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE),
            Self::MethodNotAllowed => ("MethodNotAllowed", StatusCode::METHOD_NOT_ALLOWED),
            Self::NotAcceptable { .. } => ("NotAcceptable", StatusCode::NOT_ACCEPTABLE),
            Self::AlreadyExists { .. } => ("AlreadyExists", StatusCode::CONFLICT),
            Self::Conflict { .. } => ("Conflict", StatusCode::CONFLICT),
            Self::Expired { .. } | Self::ExpiredContinue { .. } => ("Expired", StatusCode::GONE),
            Self::TooLargeResourceVersion { .. } => ("Timeout", StatusCode::GATEWAY_TIMEOUT),
            Self::TooLarge { .. } | Self::TooManyOperations { .. } => {
                ("RequestEntityTooLarge", StatusCode::PAYLOAD_TOO_LARGE)
            }
            Self::UnsupportedMediaType { .. } | Self::ServerSideApply { .. } => {
                ("UnsupportedMediaType", StatusCode::UNSUPPORTED_MEDIA_TYPE)
            }
            Self::Misdirected { .. } => ("BadRequest", StatusCode::MISDIRECTED_REQUEST),
            Self::Invalid { .. } | Self::Unprocessable { .. } => ("Invalid", StatusCode::UNPROCESSABLE_ENTITY),
            Self::TooManyRequests { .. } => ("TooManyRequests", StatusCode::TOO_MANY_REQUESTS),
            Self::BodyTimeout => ("Timeout", StatusCode::REQUEST_TIMEOUT),
            Self::Internal { .. } | Self::AccountUnread { .. } => ("InternalError", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    fn details(&self) -> Option<Value> {
        let object = |group: &str, kind: &str, name: &str| {
            let mut details = json!({ "name": name, "kind": kind });
            if !group.is_empty() {
                details["group"] = group.into();
            }
            details
        };
        match self {
            Self::NotFound { kind, name } | Self::AlreadyExists { kind, name } | Self::Conflict { kind, name, .. } => {
                Some(object(kind.group, kind.plural, name))
            }
            Self::ForbiddenObject { kind, name, causes, .. } => {
                let mut details = object(kind.group, kind.plural, name);
                if !causes.is_empty() {
                    details["causes"] = causes.clone().into();
                }
                Some(details)
            }
            Self::Denied { asked, .. } => {
                let mut details = json!({});
                for (key, value) in [("name", &asked.name), ("group", &asked.group), ("kind", &asked.plural)] {
                    if !value.is_empty() {
                        details[key] = value.as_str().into();
                    }
                }
                Some(details)
            }
            Self::Invalid {
                group,
                kind,
                name,
                faults,
            } => {
                let mut details = object(group, kind, name);
                details["causes"] = faults
                    .iter()
                    .map(|f| json!({ "reason": f.reason.as_str(), "message": f.detail, "field": f.field }))
                    .collect();
                Some(details)
            }
            Self::TooLargeResourceVersion { .. } => Some(json!({
                "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
                "retryAfterSeconds": 1,
            })),
            Self::TooManyRequests { retry_after } => Some(json!({ "retryAfterSeconds": retry_after.as_secs() })),
            Self::Internal { what, .. } => Some(json!({ "causes": [{ "message": what }] })),
            Self::NoSuchPath | Self::VersionNotServed { .. } => Some(json!({})),
            Self::BadRequest { .. }
            | Self::Unauthorized
            | Self::NotBelieved { .. }
            | Self::Forbidden { .. }
            | Self::MethodNotAllowed
            | Self::NotAcceptable { .. }
            | Self::Expired { .. }
            | Self::ExpiredContinue { .. }
            | Self::TooLarge { .. }
            | Self::TooManyOperations { .. }
            | Self::UnsupportedMediaType { .. }
            | Self::ServerSideApply { .. }
            | Self::Misdirected { .. }
            | Self::Unprocessable { .. }
            | Self::NotRunning { .. }
            | Self::ServiceUnavailable { .. }
            | Self::AccountUnread { .. }
            | Self::BodyTimeout => None,
        }
    }

    /// The `Status` object, as it is sent in a body or inside a watch.
    pub fn status(&self) -> Value {
        let (reason, code) = self.reason_and_code();
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.to_string(),
            "reason": reason,
            "code": code.as_u16(),
        });
        if let Some(details) = self.details() {
            status["details"] = details;
        }
        if let Self::ExpiredContinue { token } = self {
            status["metadata"]["continue"] = token.as_str().into();
        }
        status
    }

    /// What the store says, as the API says it, for the object `kind` `name`.
    pub(crate) fn from_store(error: StoreError, kind: &'static Kind, name: &str) -> Self {
        let name = || name.to_owned();
        if matches!(error, StoreError::AlreadyExists { .. }) {
            Self::AlreadyExists { kind, name: name() }
        } else if matches!(error, StoreError::NotFound { .. }) {
            Self::NotFound { kind, name: name() }
        } else if matches!(error, StoreError::Conflict { .. }) {
            Self::conflict(kind, &name())
        } else if let StoreError::TooOld { asked, oldest } = error {
            Self::too_old(asked, oldest)
        } else if let StoreError::NoNamespace { namespace } = error {
            Self::NotFound {
                kind: &NAMESPACE,
                name: namespace,
            }
        } else if let StoreError::EndingNamespace { namespace } = error {
            Self::ending_namespace(kind, name(), &namespace)
        } else if error.is_disk_full() {
            Self::internal("the disk of the state database is full", error)
        } else {
            Self::internal("the store did not answer", error)
        }
    }

    /// `plugin/pkg/admission/namespace/lifecycle`: nothing new gets into a namespace that is being deleted.
    pub(crate) fn ending_namespace(kind: &'static Kind, name: String, namespace: &str) -> Self {
        Self::ForbiddenObject {
            kind,
            name,
            why: format!("unable to create new content in namespace {namespace} because it is being terminated"),
            causes: vec![json!({
                "reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"),
                "field": "metadata.namespace",
            })],
        }
    }

    /// Someone else was faster (`registry/generic/registry/store.go`, `OptimisticLockErrorMsg`).
    pub(crate) fn conflict(kind: &'static Kind, name: &str) -> Self {
        Self::Conflict {
            kind,
            name: name.to_owned(),
            why: "the object has been modified; please apply your changes to the latest version and try again"
                .to_owned(),
        }
    }

    pub(crate) fn too_old(asked: u64, oldest: u64) -> Self {
        Self::Expired {
            message: format!("too old resource version: {asked} ({oldest})"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Self::Internal { what, source } = &self {
            let mut chain = source.to_string();
            let mut cause = source.source();
            while let Some(inner) = cause {
                chain = format!("{chain}: {inner}");
                cause = inner.source();
            }
            tracing::error!(what, error = chain, "a request failed inside podd");
        }
        let (_, code) = self.reason_and_code();
        let mut response = super::answer::json_response(code, &self.status());
        if let Self::TooManyRequests { retry_after } = &self {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs()));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::FaultReason;
    use crate::api::kinds::pod::POD;

    #[test]
    fn not_found_is_worded_as_kubernetes_words_it() {
        let status = ApiError::NotFound {
            kind: &POD,
            name: "x".to_owned(),
        }
        .status();
        assert_eq!(
            status,
            json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"x\" not found",
                "reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404})
        );
    }

    #[test]
    fn invalid_lists_every_fault_and_each_message_once() {
        let fault = |field: &str, detail: &str| Fault {
            field: field.to_owned(),
            reason: FaultReason::Required,
            detail: detail.to_owned(),
        };
        let error = |faults| ApiError::Invalid {
            group: "",
            kind: "Pod",
            name: "x".to_owned(),
            faults,
        };
        assert_eq!(
            error(vec![fault("spec.containers", "Required value")]).to_string(),
            "Pod \"x\" is invalid: spec.containers: Required value"
        );
        let two = error(vec![
            fault("a", "Required value"),
            fault("b", "Required value"),
            fault("b", "Required value"),
        ]);
        assert_eq!(
            two.to_string(),
            "Pod \"x\" is invalid: [a: Required value, b: Required value]"
        );
        let status = two.status();
        assert_eq!(status["code"], 422);
        assert_eq!(
            status["details"]["causes"][0],
            json!({"reason": "FieldValueRequired", "message": "Required value", "field": "a"})
        );
    }

    #[test]
    fn what_went_wrong_inside_is_not_sent() {
        let error = ApiError::internal("the store did not answer", "SELECT secret");
        assert!(!error.status().to_string().contains("secret"));
    }
}
