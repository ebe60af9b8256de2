//! For tests: archives written byte by byte, so that they can be as hostile as a stranger's.

use std::io::{self, BufRead, Read};

use tar::{EntryType, Header};

use super::member::Skip;

/// A tar archive in the making.
#[derive(Debug, Clone, Default)]
pub(super) struct Tape {
    bytes: Vec<u8>,
}

/// A member to be written; names are taken as they are.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub(super) kind: EntryType,
    pub(super) path: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) data: &'a [u8],
    pub(super) mode: u32,
    pub(super) owner: (u64, u64),
    pub(super) mtime: u64,
    pub(super) device: (u32, u32),
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self {
            kind: EntryType::Regular,
            path: b"",
            link: b"",
            data: b"",
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_000_000_000,
            device: (0, 0),
        }
    }
}

impl Tape {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn header(entry: &Entry<'_>, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..entry.path.len()].copy_from_slice(entry.path);
        header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(entry.link);
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.mtime);
        header.set_size(size);
        header.set_device_major(entry.device.0).unwrap();
        header.set_device_minor(entry.device.1).unwrap();
        header.set_cksum();
        header
    }

    pub(super) fn entry(mut self, entry: &Entry<'_>) -> Self {
        let header = Self::header(entry, entry.data.len() as u64);
        self.bytes.extend(header.as_bytes());
        self.raw(entry.data).padded()
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    pub(super) fn padded(mut self) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(&Entry {
            path: path.as_bytes(),
            data,
            ..Entry::default()
        })
    }

    pub(super) fn dir(self, path: &str) -> Self {
        self.entry(&Entry {
            kind: EntryType::Directory,
            path: path.as_bytes(),
            mode: 0o755,
            ..Entry::default()
        })
    }

    pub(super) fn symlink(self, path: &str, link: &str) -> Self {
        let (path, link) = (path.as_bytes(), link.as_bytes());
        self.entry(&Entry {
            kind: EntryType::Symlink,
            path,
            link,
            mode: 0o777,
            ..Entry::default()
        })
    }

    pub(super) fn hard_link(self, path: &str, link: &str) -> Self {
        let (path, link) = (path.as_bytes(), link.as_bytes());
        self.entry(&Entry {
            kind: EntryType::Link,
            path,
            link,
            ..Entry::default()
        })
    }

    pub(super) fn char_device(self, path: &str, device: (u32, u32)) -> Self {
        self.entry(&Entry {
            kind: EntryType::Char,
            path: path.as_bytes(),
            device,
            ..Entry::default()
        })
    }

    /// A header that speaks of the next member.
    pub(super) fn special(self, kind: EntryType, data: &[u8]) -> Self {
        self.entry(&Entry {
            kind,
            path: b"special",
            data,
            ..Entry::default()
        })
    }

    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while rest + length.to_string().len() != length {
                length += 1;
            }
            data.extend(format!("{length} {key}=").as_bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        self.special(EntryType::XHeader, &data)
    }

    /// With the end marked.
    pub(super) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }
}

/// Bytes in memory, as an archive.
#[derive(Debug)]
pub(super) struct Bytes(pub(super) io::Cursor<Vec<u8>>);

impl Bytes {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(io::Cursor::new(bytes))
    }
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for Bytes {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.0.consume(bytes);
    }
}

impl Skip for Bytes {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.0.by_ref().take(bytes), &mut io::sink())?;
        if passed < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}
