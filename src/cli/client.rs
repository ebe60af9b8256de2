//! A small HTTP client for the agent's unix socket.
//!
//! Goes in: a socket, a method, a path, a body. Comes out: the answer's body, or what the agent's `Status` says.
//!
//! **Invariant:** one connection for each request, no retries: the commands are for people, who see what happened.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;

/// The most of an answer that is read.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// The body of a request.
pub(super) type RequestBody = BoxBody<Bytes, std::io::Error>;

/// Nothing.
pub(super) fn no_body() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// The request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("cannot reach podd on {socket}: is `podd serve` running?")]
    Connect {
        socket: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path:?} is no path of podd's API")]
    Request {
        path: String,
        #[source]
        source: hyper::http::Error,
    },
    #[error("the connection to podd broke")]
    Http(#[from] hyper::Error),
    #[error("podd's answer could not be read")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot write what podd answers")]
    Output(#[source] std::io::Error),
    #[error("{message}")]
    Refused { code: u16, message: String },
}

#[derive(Deserialize)]
struct Status {
    message: String,
}

/// Send a request and read the answer. `path`: with its query, escaped.
pub(super) async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    body: RequestBody,
) -> Result<Bytes, ClientError> {
    exchange(socket, method, path, body, async |body| {
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        Ok(body.map_err(ClientError::Answer)?.to_bytes())
    })
    .await
}

/// Send a request and hand on the answer as it comes. Only with `Ok` was it whole.
pub(super) async fn stream(
    socket: &Path,
    method: Method,
    path: &str,
    body: RequestBody,
    mut each: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), ClientError> {
    exchange(socket, method, path, body, async |mut body| {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                each(&data).map_err(ClientError::Output)?;
            }
        }
        Ok(())
    })
    .await
}

async fn exchange<T>(
    socket: &Path,
    method: Method,
    path: &str,
    body: RequestBody,
    read: impl AsyncFnOnce(Incoming) -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let stream = connect(socket).await.map_err(|source| ClientError::Connect {
        socket: socket.to_owned(),
        source,
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "podd")
        .header(hyper::header::ACCEPT, "application/json")
        // What is no JSON, an archive, is taken whatever it is called.
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|source| ClientError::Request {
            path: path.to_owned(),
            source,
        })?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status.is_success() {
            return read(response.into_body()).await;
        }
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        Err(refused(status, &body.map_err(ClientError::Answer)?.to_bytes()))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let message = match serde_json::from_slice::<Status>(body) {
        Ok(Status { message }) => message,
        Err(_) => format!("podd answered {status}"),
    };
    ClientError::Refused {
        code: status.as_u16(),
        message,
    }
}

/// A socket's path may be longer than the 107 bytes of an address: its directory's descriptor then stands for the rest.
async fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;

    const ADDRESS_MAX: usize = 107;
    if socket.as_os_str().as_bytes().len() <= ADDRESS_MAX {
        return UnixStream::connect(socket).await;
    }
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let directory = std::fs::File::open(directory)?;
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    UnixStream::connect(short).await
}

/// Escape a value for a query.
pub(super) fn escaped(value: &str) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/' | b':') {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a String takes all that is written to it");
        }
    }
    escaped
}
