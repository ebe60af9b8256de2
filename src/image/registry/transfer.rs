//! Large blobs on their way: resumed where they broke off, hashed and counted as they come, written beside it.
//!
//! Goes in: a blob's digest and size, and a file. Comes out: the file with exactly these bytes.
//!
//! **Invariant:** a blob whose digest or length is wrong is an error, however often it broke off; no more bytes are
//! written than its manifest says it has.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::endpoint::{Ask, Endpoint, UPLOAD, announced};
use super::transport::Body;
use super::{Action, Registry, RegistryError};
use crate::image::limits::{LimitError, SpaceWatch};
use crate::image::stream::Digest;

/// A blob that sends nothing for so long is asked for again.
const SILENCE: Duration = Duration::from_secs(30);
/// How often in a row a blob may break off without a byte of progress.
const FRUITLESS_MAX: u32 = 5;
/// How often a whole blob with a wrong digest is fetched again: a damaged connection, not a wrong registry.
const DAMAGED_MAX: u32 = 1;
/// Pieces that wait to be written.
const PIECES_WAITING: usize = 16;

/// What the writing thread is told.
enum Piece {
    Data(Bytes),
    /// From the beginning: the host does not resume.
    Restart,
}

/// The other side of the thread that hashes and writes.
struct Writing {
    pieces: mpsc::Sender<Piece>,
    thread: tokio::task::JoinHandle<Result<Digest, RegistryError>>,
}

impl Writing {
    fn begin(file: File, keep_free: u64) -> Self {
        let (pieces, coming) = mpsc::channel(PIECES_WAITING);
        let thread = tokio::task::spawn_blocking(move || write(file, keep_free, coming));
        Self { pieces, thread }
    }

    /// False: the thread has failed, and `end` says why.
    async fn give(&self, piece: Piece) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// The digest of all that was written.
    async fn end(self) -> Result<Digest, RegistryError> {
        drop(self.pieces);
        self.thread
            .await
            .unwrap_or_else(|error| Err(RegistryError::Write(std::io::Error::other(error))))
    }
}

fn write(mut file: File, keep_free: u64, mut pieces: mpsc::Receiver<Piece>) -> Result<Digest, RegistryError> {
    let fault = |error: std::io::Error| match LimitError::within(&error) {
        Some(limit) => RegistryError::Limit(limit.clone()),
        None => RegistryError::Write(error),
    };
    let mut space = SpaceWatch::new(keep_free);
    let mut hash = Sha256::new();
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Data(data) => {
                space.about_to_write(data.len() as u64, file.as_fd()).map_err(fault)?;
                hash.update(&data);
                file.write_all(&data).map_err(fault)?;
            }
            Piece::Restart => {
                hash = Sha256::new();
                file.set_len(0).map_err(fault)?;
                file.seek(SeekFrom::Start(0)).map_err(fault)?;
            }
        }
    }
    Ok(Digest::finish(hash))
}

/// How one connection ended.
enum End {
    Whole,
    /// To be gone on with.
    BrokenOff(RegistryError),
}

impl Registry {
    /// Fetch a blob into `file`, which is empty. `progress` is told how many of its bytes are there.
    pub(in crate::image) async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        file: &File,
        keep_free: u64,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let mut damaged = 0;
        loop {
            let copy = file.try_clone().map_err(RegistryError::Write)?;
            let writing = Writing::begin(copy, keep_free);
            let fetched = self.fetch(digest, size, &writing, progress).await;
            // What the writing met comes before what followed from it.
            let found = writing.end().await?;
            fetched?;
            if found == *digest {
                return Ok(());
            }
            if damaged == DAMAGED_MAX {
                return Err(RegistryError::Digest {
                    request: format!("blob {digest}"),
                    expected: digest.to_string(),
                    found: found.to_string(),
                });
            }
            damaged += 1;
            file.set_len(0).map_err(RegistryError::Write)?;
            let mut from_start = file;
            from_start.seek(SeekFrom::Start(0)).map_err(RegistryError::Write)?;
        }
    }

    async fn fetch(
        &self,
        digest: &Digest,
        size: u64,
        writing: &Writing,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let got = std::sync::atomic::AtomicU64::new(0);
        let mut fruitless = 0;
        loop {
            let before = got.load(std::sync::atomic::Ordering::Relaxed);
            let mut turn = self.turn(Action::Pull);
            let error = loop {
                let Some(endpoint) = turn.next() else {
                    return Err(turn.error);
                };
                match fetch_once(endpoint, digest, size, &got, writing, progress).await {
                    Ok(End::Whole) => return Ok(()),
                    Ok(End::BrokenOff(error)) => break error,
                    Err(error) => turn.failed(endpoint, error),
                }
            };
            let now = got.load(std::sync::atomic::Ordering::Relaxed);
            fruitless = if now > before { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS_MAX {
                return Err(error);
            }
        }
    }

    /// Give the registry a blob. `body` must have exactly `size` bytes; it is made after the registry has agreed to take
    /// it, anew for each host.
    pub(in crate::image) async fn upload(
        &self,
        digest: &Digest,
        size: u64,
        body: impl Fn() -> Body + Sync,
    ) -> Result<(), RegistryError> {
        let mut turn = self.turn(Action::Push);
        while let Some(endpoint) = turn.next() {
            match upload_to(endpoint, digest, size, &body).await {
                Ok(()) => return Ok(()),
                Err(error) => turn.failed(endpoint, error),
            }
        }
        Err(turn.error)
    }
}

async fn upload_to(
    endpoint: &Endpoint,
    digest: &Digest,
    size: u64,
    body: &(impl Fn() -> Body + Sync),
) -> Result<(), RegistryError> {
    let ask = Ask::post("blobs/uploads/".to_owned());
    let begun = endpoint.send(&ask).await?;
    let (uri, mut headers) = endpoint.upload_address(&ask, &begun, digest)?;
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let words = endpoint.words_of(&ask);
    let response = endpoint
        .once_within(UPLOAD, &uri, &Method::PUT, &headers, body(), &words)
        .await?;
    endpoint.judge_upload(&ask, response).await
}

/// Go on with a blob over one connection to one host.
async fn fetch_once(
    endpoint: &Endpoint,
    digest: &Digest,
    size: u64,
    got: &std::sync::atomic::AtomicU64,
    writing: &Writing,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<End, RegistryError> {
    use std::sync::atomic::Ordering::Relaxed;

    let from = got.load(Relaxed);
    if from == size && size > 0 {
        return Ok(End::Whole);
    }
    let ask = Ask::get(format!("blobs/{digest}")).from(from);
    let request = || endpoint.words_of(&ask);
    let response = endpoint.send(&ask).await?;
    let mut at = from;
    if from > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        at = 0;
        got.store(0, Relaxed);
        if !writing.give(Piece::Restart).await {
            return Ok(End::Whole);
        }
    } else if from > 0 && begins_at(response.headers()) != Some(from) {
        return Err(RegistryError::Malformed {
            request: request(),
            what: "a part",
        });
    }
    if announced(response.headers()).is_some_and(|length| length > size - at) {
        return Err(RegistryError::Long {
            request: request(),
            size,
        });
    }
    let mut body = response.into_body();
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) if at == size => return Ok(End::Whole),
            Ok(None) => {
                return Ok(End::BrokenOff(RegistryError::Short {
                    request: request(),
                    got: at,
                    size,
                }));
            }
            Ok(Some(Err(source))) => {
                return Ok(End::BrokenOff(RegistryError::Broken {
                    request: request(),
                    source,
                }));
            }
            Err(_elapsed) => {
                return Ok(End::BrokenOff(RegistryError::Silent {
                    request: request(),
                    seconds: SILENCE.as_secs(),
                }));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        at += data.len() as u64;
        if at > size {
            return Err(RegistryError::Long {
                request: request(),
                size,
            });
        }
        // The writing has failed: whoever asks it learns why.
        if !writing.give(Piece::Data(data)).await {
            return Ok(End::Whole);
        }
        got.store(at, Relaxed);
        progress(at);
    }
}

/// `bytes 100-199/200` begins at 100.
fn begins_at(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}
