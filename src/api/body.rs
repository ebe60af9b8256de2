//! The body of a request: read with a limit in size and time, never buffered beyond it.
//!
//! **Invariant:** at most [`BODY_LIMIT`] bytes of a request are ever held, however long it claims or turns out to be.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::error::ApiError;
use crate::admit::Encoding;

/// Bytes of the largest body taken; Kubernetes' own limit (`--max-request-bytes`, 3 MiB).
pub(crate) const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// Brackets deep: far more than any kind has, far less than what a recursive reader could be hurt by.
const DEPTH_LIMIT: usize = 64;

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// The media type of the body, in lower case and without parameters; `None` when it is not given.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let media = value.split(';').next().unwrap_or("").trim();
    (!media.is_empty()).then(|| media.to_ascii_lowercase())
}

/// JSON, YAML or protobuf by `Content-Type`; none at all means JSON. 415 for anything else, forms of browsers among them.
pub(crate) fn encoding(headers: &HeaderMap) -> Result<Encoding, ApiError> {
    match media_type(headers).as_deref() {
        None if headers.contains_key(header::CONTENT_TYPE) => {
            Err(ApiError::UnsupportedMediaType { accepted: ACCEPTED })
        }
        None | Some("application/json") => Ok(Encoding::Json),
        Some("application/yaml" | "application/x-yaml" | "text/yaml") => Ok(Encoding::Yaml),
        Some("application/vnd.kubernetes.protobuf") => Ok(Encoding::Protobuf),
        Some(_) => Err(ApiError::UnsupportedMediaType { accepted: ACCEPTED }),
    }
}

/// Read the whole body, within [`BODY_LIMIT`] bytes and `patience`.
pub(crate) async fn read(headers: &HeaderMap, body: Body, patience: Duration) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::TooLarge { limit: BODY_LIMIT };
    let compressed = headers.get(header::CONTENT_ENCODING).is_some_and(|e| e != "identity");
    if compressed {
        return Err(ApiError::UnsupportedMediaType { accepted: ACCEPTED });
    }
    let claimed = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<u64>().ok());
    if claimed.is_some_and(|n| usize::try_from(n).map_or(true, |n| n > BODY_LIMIT)) {
        return Err(too_large());
    }
    match tokio::time::timeout(patience, Limited::new(body, BODY_LIMIT).collect()).await {
        Err(_elapsed) => Err(ApiError::BodyTimeout),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::bad_request(format!(
            "the body of the request ended early: {error}"
        ))),
    }
}

/// Refuse JSON nested so deeply that no object of any kind can be meant. (YAML's reader has a limit of its own.)
pub(crate) fn check_depth(bytes: &[u8]) -> Result<(), ApiError> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > DEPTH_LIMIT {
                    return Err(ApiError::bad_request(format!(
                        "the body of the request is nested more than {DEPTH_LIMIT} levels deep"
                    )));
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
        headers
    }

    #[test]
    fn json_yaml_and_protobuf_are_read() {
        assert_eq!(encoding(&HeaderMap::new()).unwrap(), Encoding::Json);
        assert_eq!(
            encoding(&typed("application/json; charset=utf-8")).unwrap(),
            Encoding::Json
        );
        assert_eq!(encoding(&typed("application/yaml")).unwrap(), Encoding::Yaml);
        assert_eq!(
            encoding(&typed("application/vnd.kubernetes.protobuf")).unwrap(),
            Encoding::Protobuf
        );
        for refused in ["text/plain", "application/x-www-form-urlencoded", ";"] {
            let error = encoding(&typed(refused)).unwrap_err();
            assert_eq!(
                error.to_string(),
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"
            );
            assert_eq!(error.status()["code"], 415);
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused_without_being_held() {
        let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 65536])));
        let error = read(&HeaderMap::new(), Body::from_stream(endless), Duration::from_mins(1))
            .await
            .unwrap_err();
        assert_eq!(error.status()["code"], 413);
        assert_eq!(error.to_string(), "Request entity too large: limit is 3145728");
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let stuck = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let error = read(&HeaderMap::new(), Body::from_stream(stuck), Duration::from_millis(1))
            .await
            .unwrap_err();
        assert_eq!(error.status()["code"], 408);
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert!(
            check_depth(br#"{"a":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"[[["}"#)
                .is_ok()
        );
        assert!(check_depth("[".repeat(64).as_bytes()).is_ok());
        assert!(check_depth("[".repeat(65).as_bytes()).is_err());
    }
}
