//! What a registry says when it does not do what it was asked.
//!
//! Goes in: the answer. Comes out: its words, to stand behind podd's own.
//!
//! **Invariant:** they come from outside: few of them are taken, and only what can be printed.

use http_body_util::{BodyExt, Limited};
use hyper::Response;
use hyper::body::Incoming;
use serde::Deserialize;

use super::endpoint::ANSWER;
use super::printable;

/// The most that is read.
const READ_MAX: usize = 64 * 1024;
/// How many of several errors are told.
const ERRORS_MAX: usize = 3;

/// Errors as registries tell them (OCI distribution-spec, "Error Codes").
#[derive(Deserialize)]
struct WireErrors {
    errors: Vec<WireError>,
}

#[derive(Deserialize)]
struct WireError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl WireError {
    fn line(self) -> Vec<u8> {
        let Self { code, message } = self;
        let separator = if code.is_empty() || message.is_empty() {
            ""
        } else {
            ": "
        };
        format!("{code}{separator}{message}").into_bytes()
    }
}

/// The words of an answer, each with a colon before it; nothing where there are none.
pub(super) async fn told(response: Response<Incoming>) -> String {
    let body = Limited::new(response.into_body(), READ_MAX).collect();
    match tokio::time::timeout(ANSWER, body).await {
        Ok(Ok(body)) => words(&body.to_bytes()),
        Ok(Err(_)) | Err(_) => String::new(),
    }
}

/// `: CODE: message` of each error, or the first line of plain words.
fn words(body: &[u8]) -> String {
    let lines = match serde_json::from_slice(body) {
        Ok(WireErrors { errors }) => errors.into_iter().take(ERRORS_MAX).map(WireError::line).collect(),
        Err(_) => vec![first_line(body.trim_ascii_start()).to_vec()],
    };
    lines
        .iter()
        .map(|line| printable(line))
        .filter(|line| !line.is_empty())
        .flat_map(|line| [": ".to_owned(), line])
        .collect()
}

fn first_line(text: &[u8]) -> &[u8] {
    match text.split(|byte| *byte == b'\n').next() {
        // A page for browsers, or another kind of document.
        None | Some([b'<' | b'{' | b'[', ..]) => &[],
        Some(line) => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_plain_words_are_told_and_documents_are_not() {
        let long = "x".repeat(1000);
        let told_of_long = format!(": {}", "x".repeat(512));
        for (body, told) in [
            ("", ""),
            ("\n\n", ""),
            ("   ", ""),
            ("429 toomanyrequests\nsecond line", ": 429 toomanyrequests"),
            ("\r\n slow down \r\n", ": slow down"),
            ("<html><body>no</body></html>", ""),
            (" <!doctype html>", ""),
            (r#"{"detail": "of another kind"}"#, ""),
            ("[1, 2]", ""),
            (r#"{"errors": []}"#, ""),
            (r#"{"errors": [{}]}"#, ""),
            (
                r#"{"errors": [{"code": "DENIED", "message": "no such user"}]}"#,
                ": DENIED: no such user",
            ),
            (
                r#"{"errors": [{"code": "DENIED", "detail": 7}, {"message": "go away"}]}"#,
                ": DENIED: go away",
            ),
            (
                r#"{"errors": [{"code": "A"}, {"code": "B"}, {"code": "C"}, {"code": "D"}]}"#,
                ": A: B: C",
            ),
            (&long, &told_of_long),
        ] {
            assert_eq!(words(body.as_bytes()), told, "{body:?}");
        }
        assert_eq!(words(b"it \x1b[31mshouts \xff"), ": it  [31mshouts \u{fffd}");
    }
}
