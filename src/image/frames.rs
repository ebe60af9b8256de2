//! zstd streams (RFC 8878): frames one after the other, each read within a budget of memory.
//!
//! Goes in: a reader of a compressed stream. Comes out: a reader of what is packed in it.
//!
//! A frame says in its header how far back it refers, and a decoder must hold that much: the window, 2 MiB for most images
//! and 128 MiB for some. Several layers are read at once, so all of them share [`Windows`]: who needs more than is left
//! waits until another has read its frame.
//!
//! **Invariant:** nobody waits for a window who has one: the old one is given back first. So nobody waits in a circle.

use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

use super::limits::{LimitError, ZSTD_WINDOW_LOG_MAX};

const ZSTD_WINDOW_MAX: u64 = 1 << ZSTD_WINDOW_LOG_MAX;
/// The longest header of a frame, its magic number included (RFC 8878, 3.1.1).
const HEADER_MAX: usize = 18;
/// Compressed bytes read at once.
const BUFFER: usize = 128 * 1024;

/// How many bytes the windows of all streams that are read may take together.
#[derive(Debug)]
pub struct Windows {
    total: u64,
    taken: Mutex<u64>,
    given_back: Condvar,
}

impl Windows {
    pub(super) fn new(total: u64) -> Arc<Self> {
        Arc::new(Self {
            total,
            taken: Mutex::new(0),
            given_back: Condvar::new(),
        })
    }

    fn taken(&self) -> MutexGuard<'_, u64> {
        // A count is whole at any moment.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait until so many bytes are left, and take them. A window larger than all there is has to be the only one.
    fn take(self: &Arc<Self>, bytes: u64) -> Window {
        let mut taken = self
            .given_back
            .wait_while(self.taken(), |taken| *taken > 0 && *taken + bytes > self.total)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += bytes;
        Window {
            windows: Arc::clone(self),
            bytes,
        }
    }
}

/// Memory that a decoder may use.
#[derive(Debug)]
struct Window {
    windows: Arc<Windows>,
    bytes: u64,
}

impl Drop for Window {
    fn drop(&mut self) {
        *self.windows.taken() -= self.bytes;
        self.windows.given_back.notify_all();
    }
}

/// Reads what a zstd stream packs. An empty stream is one that packs nothing.
pub(super) struct Frames<R> {
    inner: R,
    windows: Arc<Windows>,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    /// `None` between two frames, the first time or because the next one needs more memory.
    decoder: Option<Decoder<'static>>,
    /// Of the decoder, and dropped after it.
    window: Option<Window>,
    in_frame: bool,
}

impl<R: Read> Frames<R> {
    pub(super) fn new(inner: R, windows: Arc<Windows>) -> Self {
        Self {
            inner,
            windows,
            buffer: vec![0; BUFFER],
            at: 0,
            end: 0,
            decoder: None,
            window: None,
            in_frame: false,
        }
    }

    /// At least `wanted` bytes (no more than [`BUFFER`]) that are not decoded yet, or all there are.
    fn ahead(&mut self, wanted: usize) -> io::Result<&[u8]> {
        if self.end - self.at < wanted {
            self.buffer.copy_within(self.at..self.end, 0);
            (self.at, self.end) = (0, self.end - self.at);
        }
        while self.end - self.at < wanted {
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(got) => self.end += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.buffer[self.at..self.end])
    }

    /// Be ready for the next frame. `false`: there is none.
    fn begin(&mut self) -> io::Result<bool> {
        let header = self.ahead(HEADER_MAX)?;
        if header.is_empty() {
            return Ok(false);
        }
        let window = window(header);
        if window > ZSTD_WINDOW_MAX {
            return Err(LimitError::Window {
                window,
                limit: ZSTD_WINDOW_MAX,
            }
            .into());
        }
        if self.window.as_ref().is_none_or(|held| held.bytes < window) {
            self.decoder = None;
            self.window = None;
            self.window = Some(self.windows.take(window));
        }
        match &mut self.decoder {
            Some(decoder) => decoder.reinit()?,
            none => {
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(zstd::stream::raw::DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
                *none = Some(decoder);
            }
        }
        self.in_frame = true;
        Ok(true)
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame && !self.begin()? {
                return Ok(0);
            }
            self.ahead(1)?;
            let decoder = self.decoder.as_mut().expect("a frame has begun");
            let mut packed = InBuffer::around(&self.buffer[self.at..self.end]);
            let mut plain = OutBuffer::around(&mut *buffer);
            let left = decoder.run(&mut packed, &mut plain)?;
            let (read, written) = (packed.pos(), plain.pos());
            self.at += read;
            self.in_frame = left > 0;
            if written > 0 {
                return Ok(written);
            }
            if self.in_frame && read == 0 && self.at == self.end {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a zstd frame is cut off"));
            }
        }
    }
}

/// Bytes that a decoder has to hold for the frame that begins so. What is no frame, or is skipped, needs none: the decoder
/// says what it thinks of it.
fn window(header: &[u8]) -> u64 {
    let Some((&[0x28, 0xb5, 0x2f, 0xfd, descriptor], rest)) = header.split_first_chunk::<5>() else {
        return 0;
    };
    let single_segment = descriptor & 0x20 != 0;
    let size_bytes = match descriptor >> 6 {
        0 => usize::from(single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size_at = usize::from(!single_segment) + dictionary_bytes;
    let size = rest.get(size_at..size_at + size_bytes).map(|bytes| {
        let number = bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        // RFC 8878, 3.1.1.1.4: two bytes begin to count at 256.
        number + if size_bytes == 2 { 256 } else { 0 }
    });
    let size = size.filter(|_| size_bytes > 0);
    if single_segment {
        return size.unwrap_or(0);
    }
    let Some(byte) = rest.first() else { return 0 };
    let base = 1_u64 << (10 + (byte >> 3));
    let window = base + base / 8 * u64::from(byte & 7);
    // No more is held than there is.
    size.map_or(window, |size| size.min(window))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Bytes that do not repeat for a while.
    fn noise(size: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        };
        (0..size).map(next).collect()
    }

    fn packed(plain: &[u8], window_log: u32, content_size: bool) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        if content_size {
            encoder.set_pledged_src_size(Some(plain.len() as u64)).unwrap();
        }
        encoder.include_contentsize(content_size).unwrap();
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn read(packed: &[u8], windows: &Arc<Windows>) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        Frames::new(packed, Arc::clone(windows)).read_to_end(&mut plain)?;
        Ok(plain)
    }

    /// Gives a byte at a time, as a slow registry does.
    struct Dripping<'a>(&'a [u8]);

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let got = buffer.len().min(1);
            self.0.read(&mut buffer[..got])
        }
    }

    #[test]
    fn windows_are_told_by_the_header() {
        let plain = noise(3 << 20);
        for (log, expected) in [(20, MIB), (21, 2 * MIB), (27, 128 * MIB)] {
            assert_eq!(window(&packed(&plain, log, false)), expected, "2^{log}");
        }
        assert_eq!(window(&packed(&plain, 27, true)), 3 * MIB, "no more than there is");
        for size in [1, 255, 256, 300, 65_791, 65_792, 100_000] {
            let frame = zstd::bulk::compress(&noise(size), 3).unwrap();
            assert_eq!(window(&frame), size as u64, "of a single segment");
        }
        // 1 kB and an eighth seven times, with a dictionary's name and a size after it.
        let header = [
            0x28,
            0xb5,
            0x2f,
            0xfd,
            0x81 | 0x02,
            7,
            1,
            2,
            3,
            4,
            0xff,
            0xff,
            0xff,
            0xff,
        ];
        assert_eq!(window(&header), 1024 + 7 * 128);
        for other in [
            &b""[..],
            b"\x28\xb5\x2f",
            b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
            b"text text text",
        ] {
            assert_eq!(window(other), 0);
        }
    }

    #[test]
    fn frames_of_all_kinds_follow_each_other() {
        let windows = Windows::new(16 * MIB);
        let (long, short) = (noise(3 << 20), noise(10));
        let skipped = [&b"\x53\x2a\x4d\x18\x05\0\0\0"[..], b"abcde"].concat();
        let stream = [
            skipped.clone(),
            packed(&short, 10, false),
            packed(&long, 22, false),
            packed(b"", 20, false),
            skipped.clone(),
            packed(&short, 10, true),
            skipped,
        ]
        .concat();
        let plain = [&short[..], &long, &short].concat();
        assert!(read(&stream, &windows).unwrap() == plain);
        let mut slowly = Vec::new();
        let mut frames = Frames::new(Dripping(&stream), Arc::clone(&windows));
        frames.read_to_end(&mut slowly).unwrap();
        assert!(slowly == plain);
        assert_eq!(*windows.taken(), 4 * MIB, "the largest of its windows");
        drop(frames);
        assert_eq!(*windows.taken(), 0);
        assert_eq!(read(b"", &windows).unwrap(), b"");
    }

    #[test]
    fn a_stream_that_is_cut_off_or_damaged_is_an_error() {
        let windows = Windows::new(16 * MIB);
        let stream = [packed(&noise(5000), 10, false), packed(&noise(5000), 10, true)].concat();
        let whole = stream.len();
        let boundary = packed(&noise(5000), 10, false).len();
        for end in (1..whole).filter(|end| *end != boundary) {
            assert!(read(&stream[..end], &windows).is_err(), "{end} of {whole} bytes");
        }
        let error = read(&[&stream[..], b"more"].concat(), &windows).unwrap_err();
        assert!(!error.to_string().is_empty());
        assert_eq!(*windows.taken(), 0);
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused_by_name() {
        let error = read(&packed(&noise(100), 28, false), &Windows::new(MIB)).unwrap_err();
        assert_eq!(
            LimitError::within(&error),
            Some(&LimitError::Window {
                window: 256 * MIB,
                limit: 128 * MIB
            })
        );
    }

    #[test]
    fn streams_wait_for_each_others_windows() {
        let windows = Windows::new(8 * MIB);
        let stream = packed(&noise(1 << 20), 22, false);
        let larger_than_all = packed(&noise(1 << 20), 24, false);
        let mut first = Frames::new(&stream[..], Arc::clone(&windows));
        let mut second = Frames::new(&stream[..], Arc::clone(&windows));
        let mut byte = [0];
        first.read_exact(&mut byte).unwrap();
        second.read_exact(&mut byte).unwrap();
        assert_eq!(*windows.taken(), 8 * MIB);
        std::thread::scope(|scope| {
            let (sender, came) = mpsc::channel();
            for stream in [&stream, &larger_than_all] {
                let (sender, windows) = (sender.clone(), &windows);
                scope.spawn(move || sender.send(read(stream, windows).unwrap().len()).unwrap());
            }
            drop(sender);
            assert!(came.try_recv().is_err(), "there is no room for a third");
            drop(first);
            assert_eq!(came.recv().unwrap(), 1 << 20);
            drop(second);
            assert_eq!(came.recv().unwrap(), 1 << 20);
        });
        assert_eq!(*windows.taken(), 0);
    }
}
