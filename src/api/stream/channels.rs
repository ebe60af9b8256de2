//! A WebSocket whose messages are of numbered channels (`channel.k8s.io` and its later versions), or one stream as a whole.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::mpsc;

use super::websocket::{self, Decoder, Event};
use super::wire::{self, Ending, Incoming, PIECE, PIECES, Queues, Wire};

/// The channel on which a client of version 5 says that another one has ended.
const CLOSE_CHANNEL: u8 = 255;

/// What the messages of a client are.
#[derive(Debug)]
pub(super) enum Layout {
    /// The first byte (as text: the first digit, the rest being Base64) is the channel's number. Of those without a
    /// receiver nothing is wanted.
    Channels {
        receivers: Vec<Option<mpsc::Sender<Bytes>>>,
        base64: bool,
        /// Version 5: channels can be ended one by one.
        can_close: bool,
    },
    /// One stream, cut anywhere.
    Whole(Option<mpsc::Sender<Bytes>>),
}

impl Layout {
    /// Channels up to the highest of `wanted`, and what those receive, in their order.
    pub(super) fn channels(wanted: &[u8], base64: bool, can_close: bool) -> (Self, Vec<Incoming>) {
        let mut receivers = Vec::new();
        let mut incoming = Vec::new();
        for channel in wanted {
            let (sender, receiver) = mpsc::channel(PIECES);
            receivers.resize_with(receivers.len().max(usize::from(*channel) + 1), || None);
            receivers[usize::from(*channel)] = Some(sender);
            incoming.push(receiver);
        }
        let layout = Self::Channels {
            receivers,
            base64,
            can_close,
        };
        (layout, incoming)
    }
}

/// Where in a message the reader is.
#[derive(Debug, Default)]
struct Message {
    channel: Option<u8>,
    /// Digits of Base64 that are not yet four.
    rest: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the connection cannot be read")]
    Io(#[from] std::io::Error),
    #[error("what the client sends is not WebSocket")]
    Frames(#[from] websocket::WebSocketError),
    #[error("what the client sends is not Base64")]
    Base64(#[from] base64::DecodeError),
}

/// Read and write until the server has said everything and the client has closed, or the client is gone.
pub(super) async fn drive(io: impl AsyncRead + AsyncWrite + Unpin, layout: Layout, wire: Wire, mut queues: Queues) {
    let (mut input, mut output) = tokio::io::split(io);
    let reading = read(&mut input, layout, wire);
    let ending = wire::drive(reading, wire::write(&mut output, &mut queues, websocket::ping)).await;
    let last = match &ending {
        // That was said already.
        Ending::Finished => None,
        Ending::Left => Some(websocket::close(websocket::NORMAL)),
        Ending::Lost => Some(websocket::close(websocket::PROTOCOL_ERROR)),
    };
    wire::close(&mut output, last).await;
}

/// Ends with the client's close, or its connection.
async fn read(io: &mut (impl AsyncRead + Unpin), mut layout: Layout, wire: Wire) -> Result<(), ReadError> {
    let (mut decoder, mut buffer, mut message) = (Decoder::default(), BytesMut::new(), Message::default());
    loop {
        while let Some(event) = decoder.decode(&mut buffer)? {
            match event {
                Event::Data { first, bytes } => {
                    if first {
                        message = Message::default();
                    }
                    wire.activity.touch();
                    layout.receive(&mut message, bytes, false).await?;
                }
                Event::End => layout.receive(&mut message, Bytes::new(), true).await?,
                Event::Ping(payload) => wire.urgent(websocket::pong(&payload)),
                Event::Pong => {}
                Event::Close => return Ok(()),
            }
        }
        buffer.reserve(PIECE);
        if io.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

impl Layout {
    async fn receive(&mut self, message: &mut Message, mut bytes: Bytes, last: bool) -> Result<(), ReadError> {
        let (receivers, base64, can_close) = match self {
            Self::Whole(receiver) => {
                send(receiver, bytes).await;
                return Ok(());
            }
            Self::Channels {
                receivers,
                base64,
                can_close,
            } => (receivers, *base64, *can_close),
        };
        let channel = match message.channel {
            Some(channel) => channel,
            None if bytes.is_empty() => return Ok(()),
            None => {
                let first = bytes.split_to(1)[0];
                let channel = if base64 { first.wrapping_sub(b'0') } else { first };
                *message.channel.insert(channel)
            }
        };
        if base64 {
            message.rest.extend_from_slice(&bytes);
            let whole = if last {
                message.rest.len()
            } else {
                message.rest.len() / 4 * 4
            };
            bytes = STANDARD.decode(&message.rest[..whole])?.into();
            message.rest.drain(..whole);
        }
        if channel == CLOSE_CHANNEL && can_close {
            if let Some(receiver) = bytes.first().and_then(|b| receivers.get_mut(usize::from(*b))) {
                *receiver = None;
            }
        } else if let Some(receiver) = receivers.get_mut(usize::from(channel)) {
            send(receiver, bytes).await;
        }
        Ok(())
    }
}

/// Waits while the stream's own reader is behind; what nobody reads any more is dropped.
async fn send(receiver: &mut Option<mpsc::Sender<Bytes>>, bytes: Bytes) {
    if let Some(sender) = receiver
        && !bytes.is_empty()
        && sender.send(bytes).await.is_err()
    {
        *receiver = None;
    }
}
