//! What a token says (`pkg/serviceaccount/claims.go`), and how it is written: a JSON Web Token in its compact form.
//!
//! **Invariant:** pure, but for the key's randomness. What [`decode`] returns was signed by this key, whatever it says.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::key::{ALGORITHM, KeyError, SigningKey};

/// Bytes of the longest token that is looked at.
const LIMIT: usize = 16 * 1024;

/// The claims of a token. Times are seconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whom it is for.
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    /// Of this one token.
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Kubernetes,
    pub nbf: i64,
    /// `system:serviceaccount:<namespace>:<name>`
    pub sub: String,
}

/// What Kubernetes adds: whose it is and what it is bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    pub namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Bound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Bound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Bound>,
    pub serviceaccount: Bound,
}

/// One object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

/// Write and sign a token.
///
/// # Errors
/// It cannot be signed.
pub(super) fn encode(claims: &Claims, key: &SigningKey) -> Result<String, KeyError> {
    let header = Header {
        alg: ALGORITHM.to_owned(),
        kid: key.id().to_owned(),
    };
    let mut text = part(&header);
    text.push('.');
    text.push_str(&part(claims));
    let signature = key.sign(text.as_bytes())?;
    text.push('.');
    text.push_str(&URL_SAFE_NO_PAD.encode(signature));
    Ok(text)
}

fn part(value: &impl Serialize) -> String {
    // Structs of texts and numbers are always JSON.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap_or_default())
}

/// Read a token; `None`: this key signed no such thing.
pub(super) fn decode(text: &str, key: &SigningKey) -> Option<Claims> {
    if text.len() > LIMIT {
        return None;
    }
    let (signed, signature) = text.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    // What a header names beyond this key's own algorithm is never tried.
    if header.alg != ALGORITHM || header.kid != key.id() {
        return None;
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    if !key.has_signed(signed.as_bytes(), &signature) {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}
