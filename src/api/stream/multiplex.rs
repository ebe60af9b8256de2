//! A SPDY/3.1 connection: streams that a client opens, each with headers, in one TCP connection or one WebSocket.
//!
//! **Invariant:** a client has a bounded number of streams open, and each holds a bounded number of pieces.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::spdy::{self, Decoder, Encoder, Event, Headers, SpdyError};
use super::wire::{self, Framing, Incoming, Outgoing, PIECE, PIECES, Queues, Wire};

/// Streams of one connection at once.
const STREAMS: usize = 512;
/// Streams that wait to be looked at.
const NEW: usize = 16;

/// A stream that the client has opened.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    headers: Headers,
    pub(super) input: Incoming,
    pub(super) output: Outgoing,
    /// The client wants nothing of it any more.
    pub(super) was_reset: oneshot::Receiver<()>,
}

impl Stream {
    /// The value of a header, unless it is empty.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }

    /// The client is told that nothing comes of this stream.
    pub(super) async fn reset(&self) {
        // An error means that the whole connection is gone.
        let _gone = self.output.wire.frame(spdy::reset(self.id, spdy::PROTOCOL_ERROR)).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the connection cannot be read")]
    Io(#[from] std::io::Error),
    #[error("what the client sends is not SPDY")]
    Frames(#[from] SpdyError),
}

/// Where new streams come from.
pub(super) type Opened = mpsc::Receiver<Stream>;

/// The two ends of new streams.
pub(super) fn opened() -> (mpsc::Sender<Stream>, Opened) {
    mpsc::channel(NEW)
}

/// Read and write until the server has said everything and the client has closed, or the client is gone.
pub(super) async fn drive(
    io: impl AsyncRead + AsyncWrite + Unpin,
    opened: mpsc::Sender<Stream>,
    wire: Wire,
    mut queues: Queues,
) {
    let (mut input, mut output) = tokio::io::split(io);
    // Pings of a server have even numbers.
    let mut number = 0_u32;
    let ping = || {
        number = number.wrapping_add(2);
        spdy::ping(number)
    };
    let reading = read(&mut input, opened, wire);
    let writing = async {
        wire::write(&mut output, &mut queues, ping).await?;
        // SPDY has no last word that clients heed: the end of our half is.
        output.shutdown().await
    };
    wire::drive(reading, writing).await;
    wire::close(&mut output, None).await;
}

/// A stream as its connection sees it.
struct Slot {
    /// Until the client has ended it, or nobody reads it any more.
    data: Option<mpsc::Sender<Bytes>>,
    reset: oneshot::Sender<()>,
}

/// The streams of a client.
struct Table {
    slots: HashMap<u32, Slot>,
    encoder: Encoder,
    opened: mpsc::Sender<Stream>,
    wire: Wire,
    /// Of the newest stream.
    last: u32,
}

/// Ends with the client's connection.
async fn read(io: &mut (impl AsyncRead + Unpin), opened: mpsc::Sender<Stream>, wire: Wire) -> Result<(), ReadError> {
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
    let mut table = Table {
        slots: HashMap::new(),
        encoder: Encoder::default(),
        opened,
        wire,
        last: 0,
    };
    loop {
        while let Some(event) = decoder.decode(&mut buffer)? {
            table.event(event).await?;
        }
        buffer.reserve(PIECE);
        if io.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

impl Table {
    async fn event(&mut self, event: Event) -> Result<(), SpdyError> {
        match event {
            Event::Opened { id, fin, headers } => self.open(id, fin, headers).await?,
            Event::Data { id, fin, bytes } => {
                let Some(slot) = self.slots.get_mut(&id) else {
                    return Ok(());
                };
                if !bytes.is_empty() {
                    self.wire.activity.touch();
                    // Waits while the stream's own reader is behind; what nobody reads any more is dropped.
                    if let Some(data) = &slot.data
                        && data.send(bytes).await.is_err()
                    {
                        slot.data = None;
                    }
                }
                if fin {
                    slot.data = None;
                }
            }
            Event::Finished { id } => {
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.data = None;
                }
            }
            Event::Reset { id } => {
                if let Some(slot) = self.slots.remove(&id) {
                    // An error means that nobody serves it any more.
                    let _done = slot.reset.send(());
                }
            }
            // A client's own pings have odd numbers and go back to it; even ones are its answers to ours.
            Event::Ping { id } if id % 2 == 1 => self.wire.urgent(spdy::ping(id)),
            Event::Ping { .. } | Event::GoAway => {}
        }
        Ok(())
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), SpdyError> {
        self.slots
            .retain(|_, slot| !slot.reset.is_closed() || slot.data.as_ref().is_some_and(|d| !d.is_closed()));
        // A number that is not new would give a second owner to a stream's bytes.
        let refusal = if id.is_multiple_of(2) || id <= self.last {
            Some(spdy::PROTOCOL_ERROR)
        } else if self.slots.len() >= STREAMS || self.opened.is_closed() {
            Some(spdy::REFUSED_STREAM)
        } else {
            None
        };
        self.last = self.last.max(id);
        if let Some(status) = refusal {
            let _gone = self.wire.frame(spdy::reset(id, status)).await;
            return Ok(());
        }
        // Clients take no data of a stream before the reply to it: that is queued first.
        let reply = self.encoder.reply(id)?;
        let _gone = self.wire.frame(reply).await;
        let (sender, input) = mpsc::channel(PIECES);
        let (reset, was_reset) = oneshot::channel();
        let data = (!fin).then_some(sender);
        self.slots.insert(id, Slot { data, reset });
        let stream = Stream {
            id,
            headers,
            input,
            output: Outgoing {
                wire: self.wire.clone(),
                framing: Framing::Spdy(id),
            },
            was_reset,
        };
        // Closed meanwhile: nobody wants new streams any more.
        let _closed = self.opened.send(stream).await;
        Ok(())
    }
}
