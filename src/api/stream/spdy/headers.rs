//! Header blocks of SPDY/3: names and values, deflated with a dictionary of their own, one zlib stream per direction for as
//! long as the connection lasts.

use std::sync::OnceLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Headers, SpdyError};

/// Bytes that one block may inflate to.
const BLOCK_LIMIT: usize = 64 * 1024;
/// Headers of one block.
const COUNT_LIMIT: u32 = 128;

/// The words that the dictionary of SPDY/3 begins with, each after its length in four bytes (its draft, 2.6.10.1).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges \
    age allow authorization cache-control connection content-base content-encoding content-language content-length \
    content-location content-md5 content-range content-type date etag expect expires from host if-match if-modified-since \
    if-none-match if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
    proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning \
    www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin";
/// What it ends with, as it stands.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
    Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
    Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
    application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
    utf-,*,enq=0.";

fn dictionary() -> &'static [u8] {
    static DICTIONARY: OnceLock<Vec<u8>> = OnceLock::new();
    DICTIONARY.get_or_init(|| {
        let mut bytes = Vec::new();
        for word in WORDS.split_whitespace() {
            let word = word.replace('_', " ");
            bytes.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
            bytes.extend_from_slice(word.as_bytes());
        }
        bytes.extend_from_slice(TAIL.as_bytes());
        bytes
    })
}

/// Reads header blocks, one after the other.
#[derive(Debug)]
pub(super) struct Inflater {
    zlib: Decompress,
}

impl Default for Inflater {
    fn default() -> Self {
        Self {
            zlib: Decompress::new(true),
        }
    }
}

impl Inflater {
    pub(super) fn headers(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut out = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let (read, written) = (self.zlib.total_in(), self.zlib.total_out());
            let step = self.zlib.decompress(input, &mut chunk, FlushDecompress::Sync);
            let read = usize::try_from(self.zlib.total_in() - read).unwrap_or(usize::MAX);
            input = input.get(read..).ok_or(SpdyError::Inflate)?;
            let wrote = usize::try_from(self.zlib.total_out() - written).unwrap_or(usize::MAX);
            out.extend_from_slice(chunk.get(..wrote).ok_or(SpdyError::Inflate)?);
            if out.len() > BLOCK_LIMIT {
                return Err(SpdyError::HeadersTooLarge);
            }
            match step {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(dictionary()).map_err(|_| SpdyError::Inflate)?;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(SpdyError::Inflate),
                // All that was given is read, and what it made fitted.
                Ok(Status::Ok | Status::BufError) if input.is_empty() && wrote < chunk.len() => return Ok(out),
                Ok(Status::Ok | Status::BufError) if read == 0 && wrote == 0 => return Err(SpdyError::Inflate),
                Ok(Status::Ok | Status::BufError) => {}
            }
        }
    }
}

/// `count { length name length value }`, all numbers of four bytes.
fn parse(block: &[u8]) -> Result<Headers, SpdyError> {
    let mut rest = block;
    let number = |rest: &mut &[u8]| {
        let (chunk, after) = rest.split_first_chunk::<4>().ok_or(SpdyError::Headers)?;
        *rest = after;
        Ok::<_, SpdyError>(u32::from_be_bytes(*chunk))
    };
    let count = number(&mut rest)?;
    if count > COUNT_LIMIT {
        return Err(SpdyError::HeadersTooLarge);
    }
    let text = |rest: &mut &[u8]| {
        let length = usize::try_from(number(rest)?).map_err(|_| SpdyError::Headers)?;
        let (text, after) = rest.split_at_checked(length).ok_or(SpdyError::Headers)?;
        *rest = after;
        Ok::<_, SpdyError>(String::from_utf8_lossy(text).into_owned())
    };
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut rest)?.to_ascii_lowercase();
        headers.push((name, text(&mut rest)?));
    }
    Ok(headers)
}

/// Makes header blocks, one after the other.
#[derive(Debug)]
pub(super) struct Deflater {
    zlib: Compress,
    has_dictionary: bool,
}

impl Default for Deflater {
    fn default() -> Self {
        Self {
            zlib: Compress::new(Compression::fast(), true),
            has_dictionary: false,
        }
    }
}

impl Deflater {
    pub(super) fn block(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, SpdyError> {
        if !self.has_dictionary {
            self.zlib.set_dictionary(dictionary()).map_err(|_| SpdyError::Inflate)?;
            self.has_dictionary = true;
        }
        let length = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut plain = u32::try_from(headers.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        for (name, value) in headers {
            plain.extend_from_slice(&length(name));
            plain.extend_from_slice(name.as_bytes());
            plain.extend_from_slice(&length(value));
            plain.extend_from_slice(value.as_bytes());
        }
        let begin = self.zlib.total_in();
        let mut out = Vec::with_capacity(plain.len() + 256);
        loop {
            let read = usize::try_from(self.zlib.total_in() - begin).unwrap_or(usize::MAX);
            let rest = plain.get(read..).ok_or(SpdyError::Inflate)?;
            self.zlib
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .map_err(|_| SpdyError::Inflate)?;
            // Room left means that everything was flushed.
            if out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(4096);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_that_of_spdy_3() {
        assert_eq!(dictionary().len(), 1423);
        let id = Compress::new(Compression::fast(), true)
            .set_dictionary(dictionary())
            .unwrap();
        assert_eq!(id, 0xe3c6_a7c2);
    }

    #[test]
    fn lists_that_lie_about_their_length_are_refused() {
        for block in [
            &[][..],
            &[0, 0, 0],
            &[0, 0, 0, 1],
            &[0, 0, 0, 1, 0, 0, 0, 5, b'a'],
            &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a'],
            &[0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0, 0],
        ] {
            assert_eq!(parse(block), Err(SpdyError::Headers), "{block:?}");
        }
        assert_eq!(parse(&[0xff; 4]), Err(SpdyError::HeadersTooLarge));
        assert_eq!(parse(&[0; 4]), Ok(Vec::new()));
    }
}
