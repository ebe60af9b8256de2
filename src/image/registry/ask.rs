//! What is asked of a host of a registry.
//!
//! Goes in: what to get or put. Comes out: a request without an address, which may be sent to one host after the other.
//!
//! **Invariant:** it holds no secret and no address: both are the host's.

use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};

/// What is asked of a host.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// After `/v2/<repository>/`.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) push: bool,
}

impl Ask {
    fn new(method: Method, path: String) -> Self {
        Self {
            method,
            path,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            push: false,
        }
    }

    pub(super) fn get(path: String) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn head(path: String) -> Self {
        Self::new(Method::HEAD, path)
    }

    pub(super) fn post(path: String) -> Self {
        Self::new(Method::POST, path).for_push()
    }

    pub(super) fn put(path: String, body: Vec<u8>) -> Self {
        Self {
            body: body.into(),
            ..Self::new(Method::PUT, path).for_push()
        }
    }

    /// With the right to write.
    pub(super) fn for_push(self) -> Self {
        Self { push: true, ..self }
    }

    pub(super) fn accept(mut self, types: &'static str) -> Self {
        self.headers.insert(ACCEPT, HeaderValue::from_static(types));
        self
    }

    pub(super) fn content_type(mut self, media_type: &str) -> Self {
        if let Ok(value) = HeaderValue::try_from(media_type) {
            self.headers.insert(CONTENT_TYPE, value);
        }
        self
    }

    /// From this byte on.
    pub(super) fn from(mut self, byte: u64) -> Self {
        if byte > 0
            && let Ok(value) = HeaderValue::try_from(format!("bytes={byte}-"))
        {
            self.headers.insert(RANGE, value);
        }
        self
    }

    /// The rights that it needs, as a token's scope names them.
    pub(super) fn scope(&self) -> &'static str {
        if self.push { "pull,push" } else { "pull" }
    }
}
