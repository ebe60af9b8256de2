//! One connection of a client, and the streams in it: what both transports have in common.
//!
//! Every stream writes its frames into one short queue; a single writer puts them on the connection, and pings when there is
//! nothing else to say. What comes in goes into one short queue for each stream. **Invariant:** all queues are bounded: who
//! reads slowly slows down who writes, through TCP, and nothing is lost.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{spdy, websocket};

/// Bytes read at once, from clients as from programs; also the most that one frame carries.
pub(super) const PIECE: usize = 32 * 1024;
/// Frames that wait to be written.
const FRAMES: usize = 8;
/// Pieces that wait for the reader of one stream.
pub(super) const PIECES: usize = 8;
/// Answers to pings that wait to be written; more are left out, as the RFC allows.
const URGENT: usize = 4;
/// How often a client is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a client gets to close its end, once everything was said.
const LINGER: Duration = Duration::from_secs(10);

/// When data last went through a connection.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    begun: Instant,
    /// Milliseconds since then.
    last: Arc<AtomicU64>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            last: Arc::default(),
        }
    }

    pub(super) fn touch(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Completes once nothing went through for so long.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let last = self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed));
            let Some(end) = last.checked_add(limit) else {
                return std::future::pending().await;
            };
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// The client is gone, or its connection is being closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub(super) struct Gone;

enum Out {
    Frame(Bytes),
    /// Nothing comes after this.
    End,
}

/// Where frames are queued for the client.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    frames: mpsc::Sender<Out>,
    urgent: mpsc::Sender<Bytes>,
    pub(super) activity: Activity,
}

/// What is queued.
#[derive(Debug)]
pub(super) struct Queues {
    frames: mpsc::Receiver<Out>,
    urgent: mpsc::Receiver<Bytes>,
}

impl Wire {
    pub(super) fn new() -> (Self, Queues) {
        let (frames, of_frames) = mpsc::channel(FRAMES);
        let (urgent, of_urgent) = mpsc::channel(URGENT);
        let wire = Self {
            frames,
            urgent,
            activity: Activity::new(),
        };
        let queues = Queues {
            frames: of_frames,
            urgent: of_urgent,
        };
        (wire, queues)
    }

    pub(super) async fn frame(&self, frame: Bytes) -> Result<(), Gone> {
        self.frames.send(Out::Frame(frame)).await.map_err(|_| Gone)
    }

    /// Before all others, unless there are too many already.
    pub(super) fn urgent(&self, frame: Bytes) {
        let _left_out = self.urgent.try_send(frame);
    }

    /// Everything that was to be said is said.
    pub(super) async fn end(&self) {
        // An error means that the connection is closed already.
        let _closed = self.frames.send(Out::End).await;
    }
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Frame(bytes) => write!(f, "Frame({})", bytes.len()),
            Self::End => write!(f, "End"),
        }
    }
}

/// How a connection came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// The server has said everything.
    Finished,
    /// The client has closed.
    Left,
    /// The client does not speak the protocol, or the connection broke.
    Lost,
}

/// Drive both directions of a connection until the server has said everything and the client has closed, or the client is
/// gone.
pub(super) async fn drive<E: std::error::Error>(
    reading: impl Future<Output = Result<(), E>>,
    writing: impl Future<Output = io::Result<()>>,
) -> Ending {
    let mut reading = std::pin::pin!(reading);
    // Cancel-safe: whichever ends first ends the connection, but for a writer that has said everything.
    tokio::select! {
        read = reading.as_mut() => match read {
            Ok(()) => Ending::Left,
            Err(error) => {
                tracing::debug!(%error, "a stream's connection is lost");
                Ending::Lost
            }
        },
        written = writing => match written {
            Ok(()) => {
                // Were the connection closed with something of the client's unread, what was just sent could be lost.
                let _out_of_time = tokio::time::timeout(LINGER, reading).await;
                Ending::Finished
            }
            Err(error) => {
                tracing::debug!(%error, "a stream's connection is lost");
                Ending::Lost
            }
        },
    }
}

/// Close the server's end, after a last word.
pub(super) async fn close(io: &mut (impl AsyncWrite + Unpin), last: Option<Bytes>) {
    let closing = async {
        if let Some(last) = last {
            io.write_all(&last).await?;
        }
        io.shutdown().await
    };
    // The other end may be gone already, and is not waited for.
    let _closed: Result<io::Result<()>, _> = tokio::time::timeout(LINGER, closing).await;
}

/// Write what is queued until its end was said, with a ping now and then.
pub(super) async fn write(
    io: &mut (impl AsyncWrite + Unpin),
    queues: &mut Queues,
    mut ping: impl FnMut() -> Bytes,
) -> io::Result<()> {
    let mut next_ping = Instant::now() + PING_EVERY;
    loop {
        // Cancel-safe: queues keep what they have not given out, and the next round counts to the same moment.
        let bytes = tokio::select! {
            biased;
            Some(bytes) = queues.urgent.recv() => bytes,
            out = queues.frames.recv() => match out {
                Some(Out::Frame(bytes)) => bytes,
                Some(Out::End) | None => return io.flush().await,
            },
            () = tokio::time::sleep_until(next_ping) => {
                next_ping = Instant::now() + PING_EVERY;
                ping()
            }
        };
        io.write_all(&bytes).await?;
        if queues.frames.is_empty() && queues.urgent.is_empty() {
            io.flush().await?;
        }
    }
}

/// How the bytes of a stream are told from those of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// A WebSocket channel.
    Channel(u8),
    /// The same, as text.
    Base64Channel(u8),
    /// The only stream of a WebSocket.
    Whole,
    /// A stream of SPDY.
    Spdy(u32),
}

/// A stream to the client.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) wire: Wire,
    pub(super) framing: Framing,
}

impl Outgoing {
    /// At most [`PIECE`] bytes.
    pub(super) async fn send(&self, bytes: &[u8]) -> Result<(), Gone> {
        self.wire.activity.touch();
        self.wire.frame(self.framed(bytes)).await
    }

    fn framed(&self, bytes: &[u8]) -> Bytes {
        match self.framing {
            Framing::Channel(channel) => websocket::message(websocket::BINARY, &[channel], bytes),
            Framing::Base64Channel(channel) => {
                let digit = [b'0' + channel];
                websocket::message(websocket::TEXT, &digit, STANDARD.encode(bytes).as_bytes())
            }
            Framing::Whole => websocket::message(websocket::BINARY, &[], bytes),
            Framing::Spdy(id) => spdy::data(id, false, bytes),
        }
    }

    /// Nothing more comes of this stream. Channels of a WebSocket know no end of their own.
    pub(super) async fn finish(&self) -> Result<(), Gone> {
        match self.framing {
            Framing::Spdy(id) => self.wire.frame(spdy::data(id, true, &[])).await,
            Framing::Channel(_) | Framing::Base64Channel(_) | Framing::Whole => Ok(()),
        }
    }
}

/// What comes from the client for one stream. Ends where the client ended it.
pub(super) type Incoming = mpsc::Receiver<Bytes>;
