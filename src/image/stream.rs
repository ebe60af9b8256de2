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

use super::frames::Frames;
use super::limits::{LimitError, Limits};
use super::member::Skip;
use crate::linux::confine;

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
        Compression::Zstd => Box::new(Frames::new(whole, Arc::clone(&limits.windows))),
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
        Hashed::new(self.clone()).digest()
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
const CHUNK: usize = 128 * 1024;
const CHUNKS_WAITING: usize = 4;

/// A piece of an uncompressed tar, in a buffer that is used again.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    buffer: Vec<u8>,
    at: usize,
    end: usize,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.at..self.end]
    }

    /// Fill it anew; nothing is in it afterwards at the end of `reader` alone.
    fn fill(&mut self, reader: &mut impl Read) -> io::Result<()> {
        self.buffer.resize(CHUNK, 0);
        (self.at, self.end) = (0, 0);
        while self.end < CHUNK {
            match reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(got) => self.end += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The other side of [`read_ahead`]: the uncompressed tar.
#[derive(Debug)]
pub(super) struct Ahead {
    chunks: mpsc::Receiver<io::Result<Chunk>>,
    /// Where chunks go that were read.
    spent: mpsc::Sender<Chunk>,
    current: Chunk,
}

/// Read a layer's blob on a thread of its own, a little ahead of whoever unpacks it, and hash the tar there. The handle
/// gives the tar's digest, once the reader was read to its end.
pub(super) fn read_ahead<'scope, R: Read + Send + ?Sized>(
    scope: &'scope Scope<'scope, '_>,
    blob: &'scope mut R,
    limits: &'scope Limits,
) -> io::Result<(Ahead, ScopedJoinHandle<'scope, io::Result<Digest>>)> {
    let (sender, chunks) = mpsc::sync_channel(CHUNKS_WAITING);
    let (spent, used) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("podd-layer".to_owned())
        .spawn_scoped(scope, move || {
            confine::to_nothing()?;
            digest_layer(blob, limits, |chunk| match sender.send(chunk) {
                Ok(()) => Some(used.try_recv().unwrap_or_default()),
                Err(mpsc::SendError(_)) => None,
            })
        })?;
    let current = Chunk::default();
    Ok((Ahead { chunks, spent, current }, thread))
}

/// Read a layer's blob to the end of what it packs, hand on each chunk of the uncompressed tar as long as it is wanted
/// (each is answered with one to be filled next), and tell the tar's digest. An error is handed on too.
pub(super) fn digest_layer(
    blob: &mut (impl Read + Send + ?Sized),
    limits: &Limits,
    mut hand_on: impl FnMut(io::Result<Chunk>) -> Option<Chunk>,
) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let (_, mut plain) = decompressed(blob, limits).inspect_err(|error| {
        hand_on(Err(copy_of(error)));
    })?;
    let mut chunk = Chunk::default();
    loop {
        if let Err(error) = chunk.fill(&mut plain) {
            hand_on(Err(copy_of(&error)));
            return Err(error);
        }
        if chunk.bytes().is_empty() {
            return Ok(Digest::finish(hash));
        }
        hash.update(chunk.bytes());
        chunk = hand_on(Ok(chunk)).ok_or(io::ErrorKind::BrokenPipe)?;
    }
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
#[derive(Debug)]
pub(super) struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashed<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
        }
    }

    /// The digest of all there is: what was not read yet is read here.
    pub(super) fn digest(mut self) -> io::Result<Digest> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(Digest::finish(self.hash)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hash.update(&buffer[..got]);
        Ok(got)
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.bytes().is_empty() {
            // Without chunks to come the thread is done: its digest says whether all went well.
            if let Ok(next) = self.chunks.recv() {
                let spent = std::mem::replace(&mut self.current, next?);
                if !spent.buffer.is_empty() {
                    // The thread may have made its last chunk.
                    let _ = self.spent.send(spent);
                }
            }
        }
        Ok(self.current.bytes())
    }

    fn consume(&mut self, bytes: usize) {
        self.current.at += bytes;
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let got = bytes.len().min(buffer.len());
        buffer[..got].copy_from_slice(&bytes[..got]);
        self.consume(got);
        Ok(got)
    }
}

impl Skip for Ahead {
    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let there = self.fill_buf()?.len();
            if there == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let passed = usize::try_from(bytes).map_or(there, |bytes| bytes.min(there));
            self.consume(passed);
            bytes -= passed as u64;
        }
        Ok(())
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
            let mut blob = Hashed::new(section(&packed));
            let diff_id = digest_layer(&mut blob, &limits, Result::ok).unwrap();
            assert_eq!(
                (diff_id, blob.digest().unwrap()),
                (Digest::of(&text), Digest::of(&packed))
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
            let error = digest_layer(&mut section(&packed), &limits, |chunk| {
                let chunk = chunk.ok()?;
                handed += chunk.bytes().len();
                Some(chunk)
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
    fn a_layer_is_read_ahead_and_hashed() {
        let limits = Limits::default();
        let text: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let packed = gzip(&text);
        let (mut first, mut second) = (section(&packed), section(&packed));
        std::thread::scope(|scope| {
            let (mut ahead, thread) = read_ahead(scope, &mut first, &limits).unwrap();
            ahead.skip(10).unwrap();
            let mut out = Vec::new();
            ahead.read_to_end(&mut out).unwrap();
            assert_eq!(out, &text[10..]);
            assert_eq!(thread.join().unwrap().unwrap(), Digest::of(&text));
            // Whoever unpacks may give up: the thread ends.
            let (ahead, thread) = read_ahead(scope, &mut second, &limits).unwrap();
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
