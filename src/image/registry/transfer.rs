//! Large blobs on their way: resumed where they broke off, hashed and counted as they come, and read by a thread beside it.
//!
//! Goes in: a blob's digest and size, and who reads it. Comes out: what the reader made of exactly these bytes.
//!
//! The bytes go straight to the reader, and no file holds them: a reader that is slow slows the registry down.
//!
//! **Invariant:** what a reader makes of a blob whose digest or length is wrong is thrown away, however often it broke
//! off; and no reader gets more bytes than the manifest says there are.

use std::io::{self, Read};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::sync::mpsc;

use super::ask::Ask;
use super::endpoint::{Endpoint, UPLOAD, announced};
use super::transport::Body;
use super::{Action, Registry, RegistryError};
use crate::image::blocking;
use crate::image::stream::{Digest, Hashed};

/// A blob that sends nothing for so long is asked for again.
const SILENCE: Duration = Duration::from_secs(30);
/// The least that must come of a blob within some time of waiting: whoever sends a byte now and then would keep a pull's
/// place, and what memory it has, for days.
const PACE: u64 = 1024 * 1024;
const PACE_WITHIN: Duration = Duration::from_mins(2);
/// How often in a row a blob may break off without a byte of progress.
const FRUITLESS_MAX: u32 = 5;
/// The first wait, then doubled, for a registry that cannot be reached in the middle of a blob.
const OUTAGE: Duration = Duration::from_secs(1);
/// How often a whole blob with a wrong digest is fetched again: a damaged connection, not a wrong registry.
const DAMAGED_MAX: u32 = 1;
/// Pieces that wait to be read.
const PIECES_WAITING: usize = 4;

/// What the reading thread is told.
#[derive(Debug)]
enum Piece {
    Data(Bytes),
    /// All of it has come. Without this it never will.
    End,
}

/// The bytes of a blob as they come, on a thread that may block. They are not yet verified.
#[derive(Debug)]
pub(in crate::image) struct Arriving {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.current = data,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let got = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..got]);
        Ok(got)
    }
}

/// What a reader made of a blob.
#[derive(Debug)]
pub(in crate::image) enum Taken<T> {
    /// To be believed if the digest is right.
    Read(T),
    /// It could not go on whatever the blob holds: the rest need not come.
    GaveUp(T),
}

/// How fast a blob comes.
#[derive(Debug, Default)]
struct Pace {
    /// Bytes that had come when this was counted last.
    counted: u64,
    /// How long the registry was waited for since. Time that the reader takes is not its fault.
    waited: Duration,
}

impl Pace {
    /// False: it is too slow.
    fn goes_on(&mut self, at: u64, waited: Duration) -> bool {
        self.waited += waited;
        if at.saturating_sub(self.counted) >= PACE {
            *self = Self {
                counted: at,
                waited: Duration::ZERO,
            };
        }
        self.waited < PACE_WITHIN
    }
}

/// How one connection ended.
enum End {
    Whole,
    /// To be gone on with.
    BrokenOff(RegistryError),
}

impl Registry {
    /// Fetch a blob and let `take` read it, which is asked once more if the first was damaged. What it made of damaged
    /// bytes is dropped. `progress` is told how many of the bytes have come.
    pub(in crate::image) async fn blob<T, F>(
        &self,
        digest: &Digest,
        size: u64,
        progress: &(dyn Fn(u64) + Send + Sync),
        take: F,
    ) -> Result<T, RegistryError>
    where
        T: Send + 'static,
        F: Fn(&mut Hashed<Arriving>) -> Taken<T> + Clone + Send + 'static,
    {
        let mut damaged = 0;
        loop {
            let (pieces, coming) = mpsc::channel(PIECES_WAITING);
            let take = take.clone();
            let reading = blocking(move || {
                let mut blob = Hashed::new(Arriving {
                    pieces: coming,
                    current: Bytes::new(),
                    ended: false,
                });
                match take(&mut blob) {
                    Taken::GaveUp(made) => (made, None),
                    Taken::Read(made) => (made, Some(blob.digest())),
                }
            });
            let fetching = async {
                let fetched = self.fetch(digest, size, &pieces, progress).await;
                if fetched.is_ok() {
                    // Whoever gave up needs no end.
                    let _ = pieces.send(Piece::End).await;
                }
                drop(pieces);
                fetched
            };
            let (fetched, (made, found)) = tokio::join!(fetching, reading);
            // What the reader met comes before what followed from it.
            let Some(found) = found else { return Ok(made) };
            let host = fetched?;
            let found = found.map_err(RegistryError::Read)?;
            if found == *digest {
                return Ok(made);
            }
            if damaged == DAMAGED_MAX {
                return Err(RegistryError::Digest {
                    request: format!("blob {digest}"),
                    expected: digest.to_string(),
                    found: found.to_string(),
                });
            }
            damaged += 1;
            host.put_out();
        }
    }

    /// Gives the host whose bytes were the last.
    async fn fetch(
        &self,
        digest: &Digest,
        size: u64,
        pieces: &mpsc::Sender<Piece>,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<&Endpoint, RegistryError> {
        let got = std::sync::atomic::AtomicU64::new(0);
        let mut pace = Pace::default();
        let mut fruitless = 0;
        loop {
            let before = got.load(std::sync::atomic::Ordering::Relaxed);
            let mut turn = self.turn(Action::Pull);
            let (broke_off, error) = loop {
                let Some(endpoint) = turn.next() else {
                    break (None, turn.error);
                };
                match fetch_once(endpoint, digest, size, &got, &mut pace, pieces, progress).await {
                    Ok(End::Whole) => return Ok(endpoint),
                    Ok(End::BrokenOff(error)) => break (Some(endpoint), error),
                    Err(error) => turn.failed(endpoint, error),
                }
            };
            let now = got.load(std::sync::atomic::Ordering::Relaxed);
            fruitless = if now > before { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS_MAX {
                return Err(error);
            }
            match broke_off {
                Some(endpoint) if fruitless > 0 => endpoint.put_out(),
                Some(_) => {}
                // Nobody is there any more. What has come is too much to be thrown away at once.
                None if now > 0 && error.is_outage() => {
                    tokio::time::sleep_until(tokio::time::Instant::now() + OUTAGE.saturating_mul(1 << fruitless)).await;
                }
                None => return Err(error),
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
    pace: &mut Pace,
    pieces: &mpsc::Sender<Piece>,
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
        // From the beginning: the host does not resume. What is known already is passed over.
        at = 0;
        *pace = Pace::default();
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
        let asked = tokio::time::Instant::now();
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
        let Ok(mut data) = frame.into_data() else { continue };
        let known = from.saturating_sub(at);
        at += data.len() as u64;
        if !pace.goes_on(at, asked.elapsed()) {
            *pace = Pace {
                counted: at,
                waited: Duration::ZERO,
            };
            return Err(RegistryError::Slow {
                request: request(),
                bytes: PACE,
                seconds: PACE_WITHIN.as_secs(),
            });
        }
        if at > size {
            return Err(RegistryError::Long {
                request: request(),
                size,
            });
        }
        if at <= from {
            continue;
        }
        data.advance(usize::try_from(known).unwrap_or(usize::MAX).min(data.len()));
        // The reader has given up: whoever waits for it learns why.
        if pieces.send(Piece::Data(data)).await.is_err() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_drips_is_too_slow_and_who_is_slow_is_not() {
        let second = Duration::from_secs(1);
        // Whether 10,000 frames of so many bytes, each so long waited for, all come.
        let mut pace = Pace::default();
        let mut all = |bytes: u64, wait| (1..=10_000).all(|n| pace.goes_on(n * bytes, wait));
        assert!(all(16 * 1024, second));
        assert!(!all(1, second));
        let mut pace = Pace::default();
        let mut all = |bytes: u64, wait| (1..=10_000).all(|n| pace.goes_on(n * bytes, wait));
        // A reader that is slow makes no host slow.
        assert!(all(1, Duration::ZERO));
    }
}
