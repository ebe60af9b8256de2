//! SPDY/3.1 frames, pure: bytes in, events out; and the other way round.
//!
//! The payload of data frames comes out piece by piece, as it arrives. **Invariant:** whatever is fed, decoding neither
//! panics nor keeps more than one control frame, which is of bounded size; header blocks inflate to a bounded size.

mod headers;

use bytes::{Buf, Bytes, BytesMut};

use headers::{Deflater, Inflater};

/// A control frame is at most this long: those of clients hold a few short headers.
const CONTROL_LIMIT: usize = 32 * 1024;
/// Bytes of every frame before its payload.
const HEAD: usize = 8;
/// Stream ids have no highest bit.
const ID_MASK: u32 = 0x7fff_ffff;
const FLAG_FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Status codes of `RST_STREAM`.
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const REFUSED_STREAM: u32 = 3;

/// Names, in lower case, and values.
pub(super) type Headers = Vec<(String, String)>;

/// Why a peer's bytes are not SPDY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SpdyError {
    #[error("a control frame is of version {0}, not 3")]
    Version(u16),
    #[error("a control frame of {0} bytes is too long")]
    TooLong(usize),
    #[error("a control frame is shorter than its kind is")]
    TooShort,
    #[error("a header block cannot be inflated")]
    Inflate,
    #[error("a header block is too large")]
    HeadersTooLarge,
    #[error("a header block is not a list of names and values")]
    Headers,
}

/// What was received. Settings, window updates and unknown frames mean nothing here and are passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Opened {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    /// More of a stream; `fin`: the last of it.
    Data {
        id: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// More headers of a stream, of which only the end of the stream matters.
    Finished {
        id: u32,
    },
    Reset {
        id: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
}

#[derive(Debug)]
struct DataFrame {
    id: u32,
    fin: bool,
    left: usize,
}

/// Reads the frames of a client.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    data: Option<DataFrame>,
    inflater: Inflater,
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, SpdyError> {
    let chunk = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
    chunk.map(|c| u32::from_be_bytes(*c)).ok_or(SpdyError::TooShort)
}

impl Decoder {
    /// The next event of `input`, and its bytes taken from there; `None` until there is more.
    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Event>, SpdyError> {
        loop {
            if let Some(data) = &mut self.data {
                if data.left > 0 && input.is_empty() {
                    return Ok(None);
                }
                let bytes = input.split_to(data.left.min(input.len())).freeze();
                data.left -= bytes.len();
                let (id, is_last) = (data.id, data.left == 0);
                let fin = data.fin && is_last;
                if is_last {
                    self.data = None;
                }
                return Ok(Some(Event::Data { id, fin, bytes }));
            }
            let Some(head) = input.first_chunk::<HEAD>() else {
                return Ok(None);
            };
            let [a, b, c, d, flags, length @ ..] = *head;
            let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
            if a & 0x80 == 0 {
                input.advance(HEAD);
                self.data = Some(DataFrame {
                    id: u32::from_be_bytes([a, b, c, d]),
                    fin: flags & FLAG_FIN != 0,
                    left: length,
                });
                continue;
            }
            let version = u16::from_be_bytes([a & 0x7f, b]);
            if version != 3 {
                return Err(SpdyError::Version(version));
            }
            if length > CONTROL_LIMIT {
                return Err(SpdyError::TooLong(length));
            }
            if input.len() < HEAD + length {
                return Ok(None);
            }
            input.advance(HEAD);
            let payload = input.split_to(length);
            if let Some(event) = self.control(u16::from_be_bytes([c, d]), flags & FLAG_FIN != 0, &payload)? {
                return Ok(Some(event));
            }
        }
    }

    fn control(&mut self, kind: u16, fin: bool, payload: &[u8]) -> Result<Option<Event>, SpdyError> {
        let id = || u32_at(payload, 0).map(|id| id & ID_MASK);
        let block = |at: usize| payload.get(at..).ok_or(SpdyError::TooShort);
        Ok(match kind {
            SYN_STREAM => {
                let headers = self.inflater.headers(block(10)?)?;
                Some(Event::Opened {
                    id: id()?,
                    fin,
                    headers,
                })
            }
            // Their headers mean nothing here, but what they are compressed with goes on.
            SYN_REPLY | HEADERS => {
                self.inflater.headers(block(4)?)?;
                let id = id()?;
                fin.then_some(Event::Finished { id })
            }
            RST_STREAM => Some(Event::Reset { id: id()? }),
            PING => Some(Event::Ping {
                id: u32_at(payload, 0)?,
            }),
            GOAWAY => Some(Event::GoAway),
            _ => None,
        })
    }
}

/// Makes the frames of a server that have headers; those that have none are functions below.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    /// The stream is taken; without headers.
    pub(super) fn reply(&mut self, id: u32) -> Result<Bytes, SpdyError> {
        let block = self.deflater.block(&[])?;
        Ok(control(SYN_REPLY, 0, &[&id.to_be_bytes(), &block]))
    }

    #[cfg(test)]
    pub(super) fn open(&mut self, id: u32, fin: bool, headers: &[(&str, &str)]) -> Vec<u8> {
        let block = self.deflater.block(headers).unwrap();
        control(SYN_STREAM, u8::from(fin), &[&id.to_be_bytes(), &[0; 6], &block]).to_vec()
    }
}

fn head(first: [u8; 4], flags: u8, length: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + length);
    frame.extend_from_slice(&first);
    let [.., a, b, c] = length.to_be_bytes();
    frame.extend_from_slice(&[flags, a, b, c]);
    frame
}

fn control(kind: u16, flags: u8, parts: &[&[u8]]) -> Bytes {
    let [a, b] = kind.to_be_bytes();
    let mut frame = head([0x80, 3, a, b], flags, parts.iter().map(|p| p.len()).sum());
    for part in parts {
        frame.extend_from_slice(part);
    }
    frame.into()
}

/// At most 16 MiB of a stream.
pub(super) fn data(id: u32, fin: bool, payload: &[u8]) -> Bytes {
    let mut frame = head(
        (id & ID_MASK).to_be_bytes(),
        if fin { FLAG_FIN } else { 0 },
        payload.len(),
    );
    frame.extend_from_slice(payload);
    frame.into()
}

pub(super) fn reset(id: u32, status: u32) -> Bytes {
    control(RST_STREAM, 0, &[&id.to_be_bytes(), &status.to_be_bytes()])
}

pub(super) fn ping(id: u32) -> Bytes {
    control(PING, 0, &[&id.to_be_bytes()])
}

/// No more streams are taken after this one.
pub(super) fn go_away(last: u32) -> Bytes {
    control(GOAWAY, 0, &[&last.to_be_bytes(), &[0; 4]])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every event, the data of a stream joined.
    pub(crate) fn decoded(bytes: &[u8], piece: usize) -> Result<Vec<Event>, SpdyError> {
        let (mut decoder, mut input, mut events) = (Decoder::default(), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            input.extend_from_slice(piece);
            while let Some(event) = decoder.decode(&mut input)? {
                match (events.last_mut(), event) {
                    (
                        Some(Event::Data {
                            id: a,
                            fin: fin @ false,
                            bytes,
                        }),
                        Event::Data {
                            id: b,
                            fin: last,
                            bytes: more,
                        },
                    ) if *a == b => {
                        *bytes = [&bytes[..], &more[..]].concat().into();
                        *fin = last;
                    }
                    (_, event) => events.push(event),
                }
            }
            assert!(input.len() <= CONTROL_LIMIT + HEAD + piece.len());
        }
        Ok(events)
    }

    fn opened(id: u32, fin: bool, headers: &[(&str, &str)]) -> Event {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        Event::Opened {
            id,
            fin,
            headers: headers.collect(),
        }
    }

    #[test]
    fn frames_are_whole_however_they_are_cut() {
        let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
        let first: &[(&str, &str)] = &[("port", "80"), ("requestid", "0"), ("streamtype", "error")];
        let second: &[(&str, &str)] = &[("port", "80"), ("requestid", "0"), ("streamtype", "data")];
        let long = vec![7; 100_000];
        bytes.extend(encoder.open(1, false, first));
        bytes.extend(encoder.open(3, true, second));
        bytes.extend(control(4, 0, &[&[0, 0, 0, 0]]));
        bytes.extend(data(1, true, b""));
        bytes.extend(ping(5));
        bytes.extend(data(3, false, &long));
        bytes.extend(control(9, 0, &[&[0; 8]]));
        bytes.extend(reset(3, 5));
        bytes.extend(encoder.reply(9).unwrap());
        bytes.extend(go_away(0));
        for piece in [1, 3, 4096, bytes.len()] {
            assert_eq!(
                decoded(&bytes, piece).unwrap(),
                [
                    opened(1, false, first),
                    opened(3, true, second),
                    Event::Data {
                        id: 1,
                        fin: true,
                        bytes: Bytes::new()
                    },
                    Event::Ping { id: 5 },
                    Event::Data {
                        id: 3,
                        fin: false,
                        bytes: long.clone().into()
                    },
                    Event::Reset { id: 3 },
                    Event::GoAway,
                ]
            );
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for (bytes, error) in [
            (vec![0x80, 2, 0, 1, 0, 0, 0, 0], SpdyError::Version(2)),
            (vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], SpdyError::TooLong(0xff_ffff)),
            (vec![0x80, 3, 0, 1, 0, 0, 0, 3, 1, 2, 3], SpdyError::TooShort),
            (vec![0x80, 3, 0, 6, 0, 0, 0, 0], SpdyError::TooShort),
            (
                control(SYN_STREAM, 0, &[&[0; 10], b"no zlib"]).to_vec(),
                SpdyError::Inflate,
            ),
        ] {
            assert_eq!(decoded(&bytes, 5), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn a_header_block_that_inflates_without_end_is_refused() {
        let mut encoder = Encoder::default();
        let bomb = "a".repeat(1024 * 1024);
        let frame = encoder.open(1, false, &[("a", &bomb)]);
        assert!(frame.len() < CONTROL_LIMIT);
        assert_eq!(decoded(&frame, 4096), Err(SpdyError::HeadersTooLarge));
    }

    proptest! {
        #[test]
        fn no_bytes_whatsoever_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000), piece in 1_usize..300) {
            let _either = decoded(&bytes, piece);
        }

        #[test]
        fn no_control_frame_whatsoever_makes_it_panic(
            frames in proptest::collection::vec((0_u16..12, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..80)), 0..20),
            piece in 1_usize..300,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, payload)| control(*kind, *flags, &[payload])).collect();
            let _either = decoded(&bytes, piece);
        }

        #[test]
        fn changed_frames_never_make_it_panic(
            values in proptest::collection::vec("[a-z0-9]{0,40}", 1..10), at in any::<prop::sample::Index>(), to in any::<u8>(),
        ) {
            let mut encoder = Encoder::default();
            let mut bytes = Vec::new();
            for value in &values {
                bytes.extend(encoder.open(1, false, &[("streamtype", value), (value, "x")]));
            }
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _either = decoded(&bytes, 64);
        }

        #[test]
        fn headers_arrive_as_they_were_sent(values in proptest::collection::vec("[ -~]{0,200}", 1..30), piece in 1_usize..500) {
            let mut encoder = Encoder::default();
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            for value in &values {
                bytes.extend(encoder.open(1, false, &[("streamtype", value)]));
                expected.push(opened(1, false, &[("streamtype", value)]));
            }
            prop_assert_eq!(decoded(&bytes, piece).unwrap(), expected);
        }
    }
}
