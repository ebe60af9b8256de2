//! The documents as they are sent.
//!
//! Goes in: requests for `/openapi.json`, `/openapi/v2` and `/openapi/v3`. Comes out: a document, from the cache of whoever
//! has it already.
//!
//! **Invariant:** nothing is made before somebody asks, each document is made once in the life of the process, and only
//! its compressed bytes are kept. Whoever cannot inflate gets it inflated piece by piece.

use std::io::{self, Read, Write};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures_util::stream;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};
use tokio::sync::OnceCell;

use super::{Version, all_schemas, gnostic, info, kinds_of, path_texts, swagger, write};
use crate::api::Api;
use crate::api::answer::{hex, response};
use crate::api::discovery::group_versions;
use crate::api::error::ApiError;
use crate::linux::process::trim_heap;
use crate::model::Timestamp;

/// What kubectl up to 1.28 asks for; protobuf alone will do for it.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The same as a media type that can be parsed: `@` may not be in one, so kube-openapi answers this.
const PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const JSON: &str = "application/json";
/// What is inflated at once for a client that cannot.
const PIECE: usize = 32 * 1024;
/// How long a document that is named by its hash may be kept, in seconds.
const YEAR: i64 = 365 * 24 * 60 * 60;

/// A document that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// 3.1, whole.
    Whole,
    /// 3.0, of one group and version.
    Part(&'static str, &'static str),
    /// 2.0, whole.
    Swagger,
    SwaggerProtobuf,
}

impl Which {
    fn content_type(self) -> &'static str {
        match self {
            Self::SwaggerProtobuf => PROTOBUF_ANSWER,
            Self::Whole | Self::Part(..) | Self::Swagger => JSON,
        }
    }

    fn write(self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Whole => write(out, Version::V3_1, None),
            Self::Part(group, version) => write(out, Version::V3_0, Some((group, version))),
            Self::Swagger => write_swagger(out),
            Self::SwaggerProtobuf => write_protobuf(out),
        }
    }
}

/// The paths that kubectl looks at: those of kinds, in the words of 2.0.
fn swagger_paths() -> serde_json::Result<Vec<(String, String)>> {
    path_texts(&kinds_of(None), false, |item| {
        super::only_what_works(item);
        *item = swagger::path(item.take());
    })
}

fn write_swagger(out: &mut impl Write) -> io::Result<()> {
    write!(out, r#"{{"swagger":"2.0","info":{},"paths":{{"#, info(Version::V3_0))?;
    for (index, (path, text)) in swagger_paths()?.into_iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        write!(out, "{separator}{}:{text}", Value::from(path))?;
    }
    write!(out, r#"}},"definitions":{{"#)?;
    for (index, (name, schema)) in all_schemas(&kinds_of(None), false).into_iter().enumerate() {
        let separator = if index == 0 { "" } else { "," };
        write!(out, "{separator}{}:{}", Value::from(name), swagger::schema(schema))?;
    }
    write!(out, "}}}}")
}

fn write_protobuf(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&gnostic::begin(&info(Version::V3_0)).into_bytes())?;
    for (path, text) in swagger_paths()? {
        let mut message = gnostic::Message::default();
        gnostic::add_path(&mut message, &path, &serde_json::from_str(&text)?);
        out.write_all(&message.into_bytes())?;
    }
    for (name, schema) in all_schemas(&kinds_of(None), false) {
        let mut message = gnostic::Message::default();
        gnostic::add_definition(&mut message, &name, &swagger::schema(schema));
        out.write_all(&message.into_bytes())?;
    }
    Ok(())
}

/// A document that has been made.
#[derive(Debug)]
struct Made {
    compressed: Bytes,
    /// SHA-512 of what is compressed, as Kubernetes writes it.
    hash: String,
}

/// Counts what is written into the hash and hands it on.
struct Hashing<W: Write> {
    hash: Sha512,
    out: W,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Made {
    fn make(which: Which) -> io::Result<Self> {
        let mut out = io::BufWriter::with_capacity(
            PIECE,
            Hashing {
                hash: Sha512::new(),
                out: GzEncoder::new(Vec::new(), Compression::default()),
            },
        );
        which.write(&mut out)?;
        let Hashing { hash, out } = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        let mut compressed = out.finish()?;
        compressed.shrink_to_fit();
        let made = Self {
            compressed: compressed.into(),
            hash: hex(&hash.finalize()).to_ascii_uppercase(),
        };
        // Some megabytes were needed for a moment.
        trim_heap();
        Ok(made)
    }
}

#[derive(Debug)]
struct Document {
    which: Which,
    made: OnceCell<Made>,
}

impl Document {
    fn new(which: Which) -> Self {
        Self {
            which,
            made: OnceCell::new(),
        }
    }

    /// The document, made where it was not; others who ask meanwhile wait for it.
    async fn get(&self) -> Result<&Made, ApiError> {
        let which = self.which;
        self.made
            .get_or_try_init(|| async move {
                tokio::task::spawn_blocking(move || Made::make(which))
                    .await
                    .map_err(|e| ApiError::internal("the document cannot be made", e))?
                    .map_err(|e| ApiError::internal("the document cannot be made", e))
            })
            .await
    }

    async fn answer(&self, headers: &HeaderMap, until: Option<Timestamp>) -> Result<Response, ApiError> {
        let made = self.get().await?;
        let tag = format!("\"{}\"", made.hash);
        let mut answer = if matches_tag(headers, &tag) {
            let mut answer = response(StatusCode::NOT_MODIFIED, JSON, Body::empty());
            answer.headers_mut().remove(header::CONTENT_TYPE);
            answer
        } else if takes_gzip(headers) {
            let mut answer = response(StatusCode::OK, self.which.content_type(), made.compressed.clone());
            let gzip = HeaderValue::from_static("gzip");
            answer.headers_mut().insert(header::CONTENT_ENCODING, gzip);
            answer
        } else {
            response(
                StatusCode::OK,
                self.which.content_type(),
                inflated(made.compressed.clone()),
            )
        };
        let headers = answer.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        if let Some(until) = until {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            if let Ok(until) = HeaderValue::from_str(&http_date(until)) {
                headers.insert(header::EXPIRES, until);
            }
        }
        Ok(answer)
    }
}

/// `Sat, 21 Nov 2026 11:00:00 GMT`
fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Whether the client has just this already (`If-None-Match`).
pub(crate) fn matches_tag(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
            named && !parts.any(|p| matches!(p, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        })
}

fn inflated(compressed: Bytes) -> Body {
    let reader = GzDecoder::new(io::Cursor::new(compressed));
    Body::from_stream(stream::try_unfold(reader, |mut reader| async move {
        let mut piece = Vec::with_capacity(PIECE);
        let limit = u64::try_from(PIECE).unwrap_or(u64::MAX);
        reader.by_ref().take(limit).read_to_end(&mut piece)?;
        Ok::<_, io::Error>((!piece.is_empty()).then(|| (Bytes::from(piece), reader)))
    }))
}

/// The form of 2.0 that is asked for: the first that podd has, in the order of the client's words.
fn swagger_form(headers: &HeaderMap) -> Result<Which, ApiError> {
    if !headers.contains_key(header::ACCEPT) {
        return Ok(Which::Swagger);
    }
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|clause| clause.split(';').next())
        .find_map(|media| match media.trim() {
            JSON | "*/*" | "application/*" => Some(Which::Swagger),
            PROTOBUF | PROTOBUF_ANSWER => Some(Which::SwaggerProtobuf),
            _ => None,
        })
        .ok_or(ApiError::NotAcceptable {
            accepted: "application/json, application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        })
}

/// The name of a part among those of `/openapi/v3`: `api/v1`, `apis/apps/v1`.
fn part_name(which: Which) -> Option<String> {
    match which {
        Which::Part("", version) => Some(format!("api/{version}")),
        Which::Part(group, version) => Some(format!("apis/{group}/{version}")),
        Which::Whole | Which::Swagger | Which::SwaggerProtobuf => None,
    }
}

pub(crate) fn router() -> Router<Api> {
    let parts: Arc<Vec<Document>> = Arc::new(
        group_versions()
            .into_iter()
            .map(|(group, version)| Document::new(Which::Part(group, version)))
            .collect(),
    );
    let others = Arc::new([Which::Whole, Which::Swagger, Which::SwaggerProtobuf].map(Document::new));

    let of_index = Arc::clone(&parts);
    let index = get(move || async move {
        let mut paths = Map::new();
        for part in of_index.iter() {
            let hash = &part.get().await?.hash;
            if let Some(name) = part_name(part.which) {
                let url = format!("/openapi/v3/{name}?hash={hash}");
                paths.insert(name, json!({ "serverRelativeURL": url }));
            }
        }
        Ok::<_, ApiError>(crate::api::answer::json_response(
            StatusCode::OK,
            &json!({ "paths": paths }),
        ))
    });
    let one = get(
        move |axum::extract::State(state): axum::extract::State<Api>,
              Path(name): Path<String>,
              RawQuery(query): RawQuery,
              headers: HeaderMap| async move {
            let part = parts
                .iter()
                .find(|part| part_name(part.which).as_deref() == Some(name.trim_end_matches('/')))
                .ok_or(ApiError::NoSuchPath)?;
            let asked = query
                .as_deref()
                .unwrap_or_default()
                .split('&')
                .find_map(|p| p.strip_prefix("hash="));
            let hash = &part.get().await?.hash;
            match asked {
                // Another one than was asked for must not be kept under its name.
                Some(asked) if asked != hash => Ok(moved(&format!("/openapi/v3/{name}?hash={hash}"))),
                Some(_) => {
                    let until = state.now().checked_add(jiff::SignedDuration::from_secs(YEAR)).ok();
                    part.answer(&headers, until).await
                }
                None => part.answer(&headers, None).await,
            }
        },
    );
    let of_v2 = Arc::clone(&others);
    let v2 = get(move |headers: HeaderMap| async move {
        let which = swagger_form(&headers)?;
        match of_v2.iter().find(|d| d.which == which) {
            Some(document) => document.answer(&headers, None).await,
            None => Err(ApiError::NoSuchPath),
        }
    });
    let whole = get(move |headers: HeaderMap| async move { others[0].answer(&headers, None).await });
    Router::new()
        .route("/openapi.json", whole)
        .route("/openapi/v2", v2)
        .route("/openapi/v3", index.clone())
        .route("/openapi/v3/", index)
        .route("/openapi/v3/{*name}", one)
}

/// Where the document of today is.
fn moved(url: &str) -> Response {
    let mut answer = response(StatusCode::MOVED_PERMANENTLY, JSON, Body::empty());
    if let Ok(url) = HeaderValue::from_str(url) {
        answer.headers_mut().insert(header::LOCATION, url);
    }
    answer
}
