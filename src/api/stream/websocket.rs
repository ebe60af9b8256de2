//! WebSocket frames (RFC 6455), pure: bytes in, events out; and the other way round.
//!
//! The payload of a message comes out piece by piece, as it arrives: a message may be of any size, and still no more of it
//! is held than was fed. **Invariant:** whatever is fed, decoding neither panics nor keeps more than one small frame head.

use axum::http::HeaderValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use sha1::{Digest, Sha1};

/// What the payload of a message is.
pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A control frame carries no more.
const CONTROL_LIMIT: usize = 125;

/// Close codes (RFC 6455, 7.4.1).
pub(super) const NORMAL: u16 = 1000;
pub(super) const PROTOCOL_ERROR: u16 = 1002;

/// Why a peer's bytes are not frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WebSocketError {
    #[error("a frame of a client is not masked")]
    NotMasked,
    #[error("reserved bits of a frame are set")]
    Reserved,
    #[error("a frame has the unknown opcode {0}")]
    Opcode(u8),
    #[error("a control frame is too long or in pieces")]
    Control,
    #[error("a frame continues nothing, or begins a message within another")]
    Order,
    #[error("the length of a frame cannot be")]
    Length,
}

/// What was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Some of a message; `first` for its first piece, which may be empty.
    Data {
        first: bool,
        bytes: Bytes,
    },
    /// The message is whole.
    End,
    Ping(Bytes),
    Pong,
    Close,
}

/// A frame whose head was read.
#[derive(Debug)]
struct Frame {
    opcode: u8,
    fin: bool,
    first: bool,
    left: u64,
    mask: [u8; 4],
    /// How far the mask was used.
    turn: usize,
}

/// Reads the frames of a client.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    frame: Option<Frame>,
    /// A message has begun and is not whole.
    in_message: bool,
}

impl Decoder {
    /// The next event of `input`, and its bytes taken from there; `None` until there is more.
    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Event>, WebSocketError> {
        loop {
            let Some(frame) = &mut self.frame else {
                let Some(frame) = head(input, self.in_message)? else {
                    return Ok(None);
                };
                if frame.opcode < CLOSE {
                    self.in_message = true;
                }
                self.frame = Some(frame);
                continue;
            };
            if frame.opcode >= CLOSE {
                let length = usize::try_from(frame.left).unwrap_or(usize::MAX);
                if input.len() < length {
                    return Ok(None);
                }
                let payload = taken(frame, input, length);
                let opcode = frame.opcode;
                self.frame = None;
                return Ok(Some(match opcode {
                    PING => Event::Ping(payload),
                    PONG => Event::Pong,
                    _ => Event::Close,
                }));
            }
            if frame.left == 0 && !frame.first {
                let fin = frame.fin;
                self.frame = None;
                if fin {
                    self.in_message = false;
                    return Ok(Some(Event::End));
                }
                continue;
            }
            if frame.left > 0 && input.is_empty() {
                return Ok(None);
            }
            let length = usize::try_from(frame.left).unwrap_or(usize::MAX).min(input.len());
            let first = std::mem::take(&mut frame.first);
            let bytes = taken(frame, input, length);
            return Ok(Some(Event::Data { first, bytes }));
        }
    }
}

/// The next `length` bytes of a frame's payload, unmasked.
fn taken(frame: &mut Frame, input: &mut BytesMut, length: usize) -> Bytes {
    let mut bytes = input.split_to(length);
    for byte in bytes.iter_mut() {
        *byte ^= frame.mask[frame.turn % 4];
        frame.turn = (frame.turn + 1) % 4;
    }
    frame.left -= u64::try_from(length).unwrap_or(frame.left);
    bytes.freeze()
}

fn head(input: &mut BytesMut, in_message: bool) -> Result<Option<Frame>, WebSocketError> {
    let [one, two, rest @ ..] = &input[..] else {
        return Ok(None);
    };
    if one & 0x70 != 0 {
        return Err(WebSocketError::Reserved);
    }
    if two & 0x80 == 0 {
        return Err(WebSocketError::NotMasked);
    }
    let (opcode, fin) = (one & 0x0f, one & 0x80 != 0);
    let (left, rest, extended) = match (two & 0x7f, rest) {
        (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest, 2),
        (127, rest) => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => (u64::from_be_bytes(*length), rest, 8),
            None => return Ok(None),
        },
        (126, _) => return Ok(None),
        (short, rest) => (u64::from(short), rest, 0),
    };
    if left > u64::MAX >> 1 {
        return Err(WebSocketError::Length);
    }
    match opcode {
        0 if in_message => {}
        TEXT | BINARY if !in_message => {}
        0..=2 => return Err(WebSocketError::Order),
        CLOSE | PING | PONG if fin && left <= CONTROL_LIMIT as u64 => {}
        CLOSE | PING | PONG => return Err(WebSocketError::Control),
        other => return Err(WebSocketError::Opcode(other)),
    }
    let Some(mask) = rest.first_chunk::<4>().copied() else {
        return Ok(None);
    };
    input.advance(2 + extended + mask.len());
    Ok(Some(Frame {
        opcode,
        fin,
        first: opcode == TEXT || opcode == BINARY,
        left,
        mask,
        turn: 0,
    }))
}

/// A whole message of the server in one frame, its payload in two parts.
pub(super) fn message(opcode: u8, before: &[u8], payload: &[u8]) -> Bytes {
    let length = before.len() + payload.len();
    let mut frame = Vec::with_capacity(length + 10);
    frame.push(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => frame.push(short),
        (_, Ok(medium)) => {
            frame.push(126);
            frame.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    frame.extend_from_slice(before);
    frame.extend_from_slice(payload);
    frame.into()
}

pub(super) fn ping() -> Bytes {
    message(PING, &[], &[])
}

pub(super) fn pong(payload: &[u8]) -> Bytes {
    message(PONG, &[], payload)
}

pub(super) fn close(code: u16) -> Bytes {
    message(CLOSE, &code.to_be_bytes(), &[])
}

/// The answer to a client's `Sec-WebSocket-Key`.
pub(super) fn accept(key: &[u8]) -> Option<HeaderValue> {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::from_str(&STANDARD.encode(hash.finalize())).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame as a client sends it.
    pub(crate) fn masked(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let plain = message(opcode, &[], payload);
        let head = plain.len() - payload.len();
        let mut frame = plain[..head].to_vec();
        frame[0] = (u8::from(fin) << 7) | opcode;
        frame[1] |= 0x80;
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        frame
    }

    /// Messages and control frames, whatever the pieces they came in.
    fn decoded(bytes: &[u8], piece: usize) -> Result<Vec<String>, WebSocketError> {
        let (mut decoder, mut input, mut said, mut current) =
            (Decoder::default(), BytesMut::new(), Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            input.extend_from_slice(piece);
            while let Some(event) = decoder.decode(&mut input)? {
                match event {
                    Event::Data { first, bytes } => {
                        assert!(!first || current.is_empty());
                        current.extend_from_slice(&bytes);
                    }
                    Event::End => said.push(String::from_utf8_lossy(&std::mem::take(&mut current)).into_owned()),
                    Event::Ping(payload) => said.push(format!("ping {}", payload.len())),
                    Event::Pong => said.push("pong".to_owned()),
                    Event::Close => said.push("close".to_owned()),
                }
            }
        }
        Ok(said)
    }

    #[test]
    fn messages_are_whole_however_they_are_cut() {
        let long = "x".repeat(70_000);
        let mut bytes = masked(BINARY, true, b"one");
        bytes.extend(masked(TEXT, false, b"tw"));
        bytes.extend(masked(PING, true, b"abc"));
        bytes.extend(masked(0, false, b""));
        bytes.extend(masked(0, true, b"o"));
        bytes.extend(masked(BINARY, true, b""));
        bytes.extend(masked(BINARY, true, long.as_bytes()));
        bytes.extend(masked(PONG, true, b""));
        bytes.extend(masked(CLOSE, true, &NORMAL.to_be_bytes()));
        for piece in [1, 2, 7, 4096, bytes.len()] {
            assert_eq!(
                decoded(&bytes, piece).unwrap(),
                ["one", "ping 3", "two", "", &long, "pong", "close"]
            );
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for (bytes, error) in [
            (message(BINARY, &[], b"x").to_vec(), WebSocketError::NotMasked),
            (masked(0, true, b"x"), WebSocketError::Order),
            (masked(3, true, b"x"), WebSocketError::Opcode(3)),
            (masked(PING, false, b"x"), WebSocketError::Control),
            (masked(PING, true, &[0; 126]), WebSocketError::Control),
            (vec![0xc2, 0x80], WebSocketError::Reserved),
            (
                [&[0x82, 0xff][..], &[0xff; 8], &[0; 4]].concat(),
                WebSocketError::Length,
            ),
            (
                [masked(BINARY, false, b"x"), masked(BINARY, true, b"y")].concat(),
                WebSocketError::Order,
            ),
        ] {
            assert_eq!(decoded(&bytes, 3), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn the_handshake_is_answered_as_the_rfc_shows_it() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap(),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    proptest! {
        #[test]
        fn no_bytes_whatsoever_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), piece in 1_usize..300) {
            let _either = decoded(&bytes, piece);
        }

        #[test]
        fn what_is_sent_arrives(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..20), piece in 1_usize..900) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|p| masked(BINARY, true, p)).collect();
            let expected: Vec<String> = payloads.iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect();
            prop_assert_eq!(decoded(&bytes, piece).unwrap(), expected);
        }
    }
}
