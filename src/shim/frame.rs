//! Messages on a stream: a little-endian u32 length and that many bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message, in bytes. A start with long lists of paths is some kilobytes.
pub const MAX_LENGTH: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a message of {length} bytes is longer than {MAX_LENGTH}")]
    TooLong { length: usize },
    #[error("a message cannot be understood")]
    Json(#[source] serde_json::Error),
}

/// The bytes to send for a message.
///
/// # Errors
/// `TooLong`.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::Json)?;
    let length = bytes.len() - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= MAX_LENGTH => bytes[..4].copy_from_slice(&prefix.to_le_bytes()),
        _ => return Err(FrameError::TooLong { length }),
    }
    Ok(bytes)
}

/// Collects what was read until it is a message.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if it is there.
    ///
    /// # Errors
    /// The stream makes no sense from here on; close it.
    pub fn message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((prefix, rest)) = self.bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > MAX_LENGTH {
            return Err(FrameError::TooLong { length });
        }
        let Some(message) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(message).map_err(FrameError::Json)?;
        self.bytes.drain(..4 + length);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shim::protocol::{Request, RequestBody};

    #[test]
    fn messages_arrive_whole_however_they_are_cut() {
        let request = Request {
            id: 7,
            body: RequestBody::Hello { protocol: 1 },
        };
        let mut bytes = encode(&request).unwrap();
        bytes.extend(
            encode(&Request {
                id: 8,
                body: RequestBody::Stop,
            })
            .unwrap(),
        );
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::default();
            let mut ids = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                decoder.push(part);
                while let Some(request) = decoder.message::<Request>().unwrap() {
                    ids.push(request.id);
                }
            }
            assert_eq!(ids, [7, 8], "cut at {cut}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_before_it_is_read() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.message::<Request>(), Err(FrameError::TooLong { .. })));
        assert!(matches!(
            encode(&"x".repeat(MAX_LENGTH)),
            Err(FrameError::TooLong { .. })
        ));
    }

    #[test]
    fn nonsense_is_an_error() {
        let mut decoder = Decoder::default();
        decoder.push(&[2, 0, 0, 0, b'{', b'x']);
        assert!(matches!(decoder.message::<Request>(), Err(FrameError::Json(_))));
    }
}
