//! `grpc.health.v1.Health/Check`, by hand: one message of one field each way, over HTTP/2 without TLS.
//!
//! `pkg/probe/grpc/grpc.go`. Whatever goes wrong is a failure of what is probed.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::action::{Outcome, dial_text};
use super::http::authority;
use super::words;

/// Bytes of an answer that are read: it has one number.
const ANSWER_MAX: usize = 4 << 10;

/// `google.rpc.Code`.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const UNKNOWN: usize = 2;
const DEADLINE_EXCEEDED: usize = 4;
const UNIMPLEMENTED: usize = 12;
const UNAVAILABLE: usize = 14;

/// `HealthCheckResponse.ServingStatus`.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

/// How a call ended, but for the answer of a good one.
#[derive(Debug)]
struct Status {
    code: usize,
    message: String,
}

impl Status {
    fn new(code: usize, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Ask whether this service (the whole server, if empty) serves.
pub(super) async fn check(host: &str, port: u16, service: &str, limit: Duration) -> Outcome {
    let address = authority(host, port);
    let deadline = Instant::now() + limit;
    let connected = timeout_at(deadline, TcpStream::connect((host, port))).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let error = dial_text(&address, &error);
            return Outcome::Failure(format!("error: failed to connect service at {address:?}: {error}"));
        }
        Err(_) => {
            return Outcome::Failure(format!(
                "timeout: failed to connect service {address:?} within {}: context deadline exceeded",
                words::duration(limit)
            ));
        }
    };
    let answered = timeout_at(deadline, call(stream, &address, service)).await;
    let late = || format!("timeout: health rpc did not complete within {}", words::duration(limit));
    match answered {
        Err(_) => Outcome::Failure(late()),
        Ok(Err(status)) if status.code == DEADLINE_EXCEEDED => Outcome::Failure(late()),
        Ok(Err(status)) if status.code == UNIMPLEMENTED => Outcome::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message
        )),
        Ok(Err(Status { code, message })) => {
            let name = CODES.get(code).copied().unwrap_or(CODES[UNKNOWN]);
            Outcome::Failure(format!(
                "error: health rpc probe failed: rpc error: code = {name} desc = {message}"
            ))
        }
        Ok(Ok(SERVING)) => Outcome::Success,
        Ok(Ok(other)) => {
            let name = usize::try_from(other).ok().and_then(|other| STATUSES.get(other));
            let name = name.map_or_else(|| other.to_string(), |name| (*name).to_owned());
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
    }
}

/// The call; gives the status that the service answered with.
async fn call(stream: TcpStream, address: &str, service: &str) -> Result<u64, Status> {
    let broken = |error: hyper::Error| Status::new(UNAVAILABLE, words::chain(&error));
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, driver) = handshake.map_err(broken)?;
    let driver = tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::trace!(%error, "a connection of a probe broke");
        }
    });
    let _connection = AbortOnDropHandle::new(driver);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(request(service)))
        .map_err(|error| Status::new(UNKNOWN, error.to_string()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    if !response.status().is_success() {
        let message = format!(
            "unexpected HTTP status code received from server: {}",
            response.status()
        );
        return Err(Status::new(UNKNOWN, message));
    }
    // With nothing but a status there is no body.
    if let Some(status) = status(response.headers()) {
        status?;
    }
    let mut body = response.into_body();
    let mut read = Vec::new();
    let mut ended = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken)?;
        match frame.into_data() {
            Ok(data) if read.len() + data.len() > ANSWER_MAX => {
                return Err(Status::new(UNKNOWN, "the answer is too long"));
            }
            Ok(data) => read.extend_from_slice(&data),
            Err(frame) => ended = frame.trailers_ref().and_then(status),
        }
    }
    ended.unwrap_or_else(|| {
        Err(Status::new(
            UNKNOWN,
            "the server closed the stream without sending trailers",
        ))
    })?;
    answer(&read).ok_or_else(|| Status::new(UNKNOWN, "the answer cannot be understood"))
}

/// `grpc-status`, if it is there: what went wrong, or nothing.
fn status(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let code: usize = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    if code == 0 {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").map(HeaderValue::as_bytes);
    let message = percent_encoding::percent_decode(message.unwrap_or_default()).decode_utf8_lossy();
    Some(Err(Status::new(code, message)))
}

/// `HealthCheckRequest { service = 1 }` in a frame: not compressed, its length.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        message.put_u8(u8::try_from(length).unwrap_or_default());
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or_default());
    frame.put(message);
    frame.freeze()
}

/// `HealthCheckResponse { status = 1 }` in a frame. Fields that are not known are passed over. `None`: it is none.
fn answer(frame: &[u8]) -> Option<u64> {
    let (&0, rest) = frame.split_first()? else { return None };
    let (length, mut message) = rest.split_first_chunk::<4>()?;
    if usize::try_from(u32::from_be_bytes(*length)).ok()? != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut message)?,
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_names_the_service_or_nothing() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("db")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b']);
        let long = "x".repeat(300);
        assert_eq!(&request(&long)[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
    }

    #[test]
    fn answers_are_read_whatever_else_is_in_them_and_broken_ones_are_none() {
        for (frame, expected) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 4, 16, 7, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 5, 26, 1, 9, 8, 1], Some(1)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0, 0, 0, 2, 26, 9], None),
            (&[0, 0], None),
            (&[], None),
        ] {
            assert_eq!(answer(frame), expected, "{frame:?}");
        }
    }
}
