//! Streams of bytes on their way from an upload to a disk: decompressed, hashed, watched for bombs.
//!
//! Goes in: readers. Comes out: readers.
//!
//! **Invariant:** what is compressed is told by its first bytes, never by a name or a media type; and no stream is
//! believed before it was read to its end and its digest compared.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{Scope, ScopedJoinHandle};

use sha2::{Digest as _, Sha256};

use super::limits::{LimitError, Limits, ZSTD_WINDOW_LOG_MAX};
use super::member::{Skip, skip_by_reading};

/// A sha256 digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Digest {
    hex: String,
}

impl Digest {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes))
    }

    pub(super) fn finish(hash: Sha256) -> Self {
        use std::fmt::Write as _;
        let mut hex = String::with_capacity(64);
        for byte in hash.finalize() {
            write!(hex, "{byte:02x}").expect("a String takes all that is written to it");
        }
        Self { hex }
    }

    /// `sha256:<64 lower-case hex digits>`; nothing else is one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::from_hex(text.strip_prefix("sha256:")?)
    }

    pub(super) fn from_hex(hex: &str) -> Option<Self> {
        let fits = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self { hex: hex.to_owned() })
    }

    pub(super) fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

/// How a stream is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    /// Known, and not taken.
    Other(&'static str),
}

impl Compression {
    /// From the first bytes (six are enough).
    pub(super) fn detect(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame before the first one.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Other("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Other("bzip2"),
            [b'P', b'K', 3, 4, ..] => Self::Other("zip"),
            _ => Self::None,
        }
    }
}

/// A reader that gives what `reader` holds, decompressed if it is compressed.
pub(super) fn decompressed<'a>(
    mut reader: impl Read + Send + 'a,
    limits: &Limits,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut first = Vec::new();
    reader.by_ref().take(6).read_to_end(&mut first)?;
    let compression = Compression::detect(&first);
    let compressed = Arc::new(AtomicU64::new(0));
    let whole = Counted {
        inner: Cursor::new(first).chain(reader),
        count: Arc::clone(&compressed),
    };
    let unpacked: Box<dyn Read + Send + 'a> = match compression {
        Compression::None => return Ok((compression, Box::new(whole))),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(
            128 * 1024,
            whole,
        ))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(128 * 1024, whole))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        Compression::Other(name) => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("{name} compression is not supported: use gzip, zstd or none"),
            ));
        }
    };
    let watched = BombWatch {
        inner: unpacked,
        compressed,
        written: 0,
        ratio: limits.bomb_ratio,
        floor: limits.bomb_floor,
    };
    Ok((compression, Box::new(watched)))
}

struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.count.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

struct BombWatch<R> {
    inner: R,
    compressed: Arc<AtomicU64>,
    written: u64,
    ratio: u64,
    floor: u64,
}

impl<R: Read> Read for BombWatch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.written += got as u64;
        let read = self.compressed.load(Ordering::Relaxed);
        if self.written > self.floor && self.written > read.saturating_mul(self.ratio) {
            return Err(LimitError::Bomb {
                ratio: self.ratio,
                read,
                written: self.written,
            }
            .into());
        }
        Ok(got)
    }
}

/// A part of a file, read without moving anybody else's place in it.
#[derive(Debug, Clone)]
pub(super) struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Section {
    pub(super) fn new(file: Arc<File>, offset: u64, size: u64) -> Self {
        Self {
            file,
            at: offset,
            end: offset.saturating_add(size),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.end - self.at
    }

    /// Its first bytes, without moving.
    pub(super) fn compression(&self) -> io::Result<Compression> {
        let mut first = Vec::new();
        self.clone().take(6).read_to_end(&mut first)?;
        Ok(Compression::detect(&first))
    }

    /// The digest of all of it.
    pub(super) fn digest(&self) -> io::Result<Digest> {
        let mut hash = Sha256::new();
        let mut reader = BufReader::with_capacity(CHUNK, self.clone());
        loop {
            let bytes = reader.fill_buf()?;
            if bytes.is_empty() {
                return Ok(Digest::finish(hash));
            }
            hash.update(bytes);
            let got = bytes.len();
            reader.consume(got);
        }
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.end - self.at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let got = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

impl Skip for Section {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.end - self.at {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += bytes;
        Ok(())
    }
}

/// Bytes handed from one thread to another at once, and how many such chunks may wait.
const CHUNK: usize = 256 * 1024;
const CHUNKS_WAITING: usize = 8;

/// Reads a layer on a thread of its own, a little ahead of whoever unpacks it, and hashes it there.
#[derive(Debug)]
pub(super) struct Ahead {
    chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    current: Cursor<Vec<u8>>,
}

/// What a layer turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerDigests {
    /// Of the layer as it is in the archive.
    pub(super) blob: Digest,
    /// Of the uncompressed tar.
    pub(super) diff_id: Digest,
}

/// Begin to read `layer`. The handle gives the digests, once the reader was read to its end.
pub(super) fn read_ahead<'scope>(
    scope: &'scope Scope<'scope, '_>,
    layer: Section,
    limits: &'scope Limits,
) -> io::Result<(Ahead, ScopedJoinHandle<'scope, io::Result<LayerDigests>>)> {
    let (sender, chunks) = mpsc::sync_channel(CHUNKS_WAITING);
    let thread = std::thread::Builder::new()
        .name("podd-layer".to_owned())
        .spawn_scoped(scope, move || {
            digest_layer(layer, limits, |chunk| sender.send(chunk).is_ok())
        })?;
    Ok((
        Ahead {
            chunks,
            current: Cursor::default(),
        },
        thread,
    ))
}

/// Read a layer to its end, hand on each chunk of the uncompressed tar as long as it is wanted, and tell the digests.
/// An error is handed on too, and the digests are then nothing to rely on.
pub(super) fn digest_layer(
    layer: Section,
    limits: &Limits,
    mut hand_on: impl FnMut(io::Result<Vec<u8>>) -> bool,
) -> io::Result<LayerDigests> {
    let mut blob_hash = Sha256::new();
    let mut diff_hash = Sha256::new();
    let compressed = layer.compression()? != Compression::None;
    let hashed = Hashed {
        inner: layer,
        hash: compressed.then_some(&mut blob_hash),
    };
    let (_, mut plain) = decompressed(hashed, limits).inspect_err(|error| {
        hand_on(Err(copy_of(error)));
    })?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        if let Err(error) = plain.by_ref().take(CHUNK as u64).read_to_end(&mut chunk) {
            hand_on(Err(copy_of(&error)));
            return Err(error);
        }
        if chunk.is_empty() {
            break;
        }
        diff_hash.update(&chunk);
        if !hand_on(Ok(chunk)) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
    drop(plain);
    let diff_id = Digest::finish(diff_hash);
    let blob = if compressed {
        Digest::finish(blob_hash)
    } else {
        diff_id.clone()
    };
    Ok(LayerDigests { blob, diff_id })
}

/// `io::Error` is not `Clone`: the same error for the other side of the channel.
fn copy_of(error: &io::Error) -> io::Error {
    match (error.raw_os_error(), LimitError::within(error)) {
        (Some(number), _) => io::Error::from_raw_os_error(number),
        (None, Some(limit)) => limit.clone().into(),
        (None, None) => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Hashes what is read through it.
struct Hashed<'a, R> {
    inner: R,
    hash: Option<&'a mut Sha256>,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..got]);
        }
        Ok(got)
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = self.current.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            match self.chunks.recv() {
                Ok(chunk) => self.current = Cursor::new(chunk?),
                // The thread is done: its digests say whether all went well.
                Err(mpsc::RecvError) => return Ok(0),
            }
        }
    }
}

impl Skip for Ahead {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        skip_by_reading(self, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn section(bytes: &[u8]) -> Section {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Section::new(Arc::new(file), 0, bytes.len() as u64)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8], limits: &Limits) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompressed(Cursor::new(bytes.to_vec()), limits)?
            .1
            .read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn each_compression_is_told_by_its_first_bytes() {
        let limits = Limits::default();
        let text = b"some text, some text".repeat(1000);
        for packed in [text.clone(), gzip(&text), zstd::encode_all(&text[..], 3).unwrap()] {
            assert_eq!(read(&packed, &limits).unwrap(), text);
            let digests = digest_layer(section(&packed), &limits, |_| true).unwrap();
            assert_eq!(
                digests,
                LayerDigests {
                    blob: Digest::of(&packed),
                    diff_id: Digest::of(&text)
                }
            );
        }
        // Several members one after the other, as pigz and estargz write them.
        assert_eq!(read(&[gzip(b"ab"), gzip(b"cd")].concat(), &limits).unwrap(), b"abcd");
        for other in [&b"BZh91AY"[..], b"\xfd7zXZ\0\0", b"PK\x03\x04xx"] {
            assert_eq!(read(other, &limits).unwrap_err().kind(), io::ErrorKind::Unsupported);
        }
        assert_eq!(read(b"", &limits).unwrap(), b"");
    }

    #[test]
    fn damaged_streams_are_errors() {
        let limits = Limits::default();
        let packed = gzip(&b"abc".repeat(10_000));
        assert!(read(&packed[..packed.len() - 5], &limits).is_err());
        let packed = zstd::encode_all(&b"abc".repeat(10_000)[..], 3).unwrap();
        assert!(read(&packed[..packed.len() - 5], &limits).is_err());
    }

    #[test]
    fn bombs_end_early() {
        let limits = Limits {
            bomb_floor: 1 << 20,
            bomb_ratio: 100,
            ..Limits::default()
        };
        let zeros = vec![0; 64 << 20];
        for packed in [gzip(&zeros), zstd::encode_all(&zeros[..], 3).unwrap()] {
            let error = read(&packed, &limits).unwrap_err();
            assert!(
                matches!(LimitError::within(&error), Some(LimitError::Bomb { .. })),
                "{error}"
            );
            let mut handed = 0;
            let error = digest_layer(section(&packed), &limits, |chunk| {
                handed += chunk.map_or(0, |chunk| chunk.len());
                true
            })
            .unwrap_err();
            assert!(
                matches!(LimitError::within(&error), Some(LimitError::Bomb { .. })),
                "{error}"
            );
            assert!(handed < 16 << 20, "{handed}");
        }
    }

    #[test]
    fn zstd_windows_are_bounded() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.long_distance_matching(true).unwrap();
        encoder.window_log(28).unwrap();
        // Without the content's size in the frame the decoder must trust the window.
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&vec![7; 1 << 20]).unwrap();
        let packed = encoder.finish().unwrap();
        assert!(read(&packed, &Limits::default()).is_err());
    }

    #[test]
    fn a_layer_is_read_ahead_and_hashed() {
        let limits = Limits::default();
        let text: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let packed = gzip(&text);
        std::thread::scope(|scope| {
            let (mut ahead, thread) = read_ahead(scope, section(&packed), &limits).unwrap();
            ahead.skip(10).unwrap();
            let mut out = Vec::new();
            ahead.read_to_end(&mut out).unwrap();
            assert_eq!(out, &text[10..]);
            assert_eq!(thread.join().unwrap().unwrap().diff_id, Digest::of(&text));
            // Whoever unpacks may give up: the thread ends.
            let (ahead, thread) = read_ahead(scope, section(&packed), &limits).unwrap();
            drop(ahead);
            assert_eq!(thread.join().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }

    #[test]
    fn digests_are_strict() {
        let good = Digest::of(b"");
        assert_eq!(
            good.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(Digest::parse(&good.to_string()), Some(good.clone()));
        for bad in [
            "",
            "sha256:",
            good.hex(),
            &good.to_string().to_uppercase(),
            "sha256:../../etc",
            "sha512:00",
        ] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
