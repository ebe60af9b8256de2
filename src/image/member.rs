//! Reading tar archives member by member, with the trust that an archive from a stranger deserves.
//!
//! Goes in: bytes. Comes out: [`Member`]s, whose names, links, owners, times and extended attributes are settled by the
//! rules of Go's archive/tar, which made nearly every image there is; and each member's data.
//!
//! The `tar` crate decodes the headers. Its own iterator is not used: it reads extended headers of any size into
//! memory, and takes sparse members, which images never have.
//!
//! **Invariant:** memory is bounded by [`limits`](super::limits), whatever the archive says. Nothing touches a disk.

use std::io::{self, BufRead, Read};

use tar::Header;

use super::limits::{EXTENDED_HEADER_MAX, PATH_MAX, XATTR_VALUE_MAX, XATTRS_MAX};

const BLOCK: usize = 512;

/// A reader that can pass over bytes without giving them.
pub(super) trait Skip: Read {
    /// Pass over exactly this many bytes.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// One member of an archive. Names are bytes as they stand there, free of NUL; nothing is said about where they lead.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    /// Where a link leads; empty for what is none.
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    /// Bytes of data; 0 for all but files.
    pub(super) size: u64,
    /// Where the data begins, counted from the first byte that was read.
    pub(super) offset: u64,
    /// Permissions, set-id and sticky bits alone.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Member {
    /// The name, for people.
    pub(super) fn name(&self) -> String {
        String::from_utf8_lossy(&self.path)
            .escape_debug()
            .take(PATH_MAX)
            .collect()
    }
}

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("the archive is cut off")]
    Truncated,
    #[error("this is not a tar archive: the checksum of the header at byte {offset} is wrong")]
    Checksum { offset: u64 },
    #[error("the header at byte {offset} has a faulty {field}")]
    Field { offset: u64, field: &'static str },
    #[error("the extended header at byte {offset} has {size} bytes: more than {EXTENDED_HEADER_MAX}")]
    ExtendedSize { offset: u64, size: u64 },
    #[error("the extended header at byte {offset} is faulty")]
    Extended { offset: u64 },
    #[error("a name at byte {offset} is longer than {PATH_MAX} bytes or holds a NUL")]
    Name { offset: u64 },
    #[error("too many or too large extended attributes at byte {offset}")]
    Xattrs { offset: u64 },
    #[error("a sparse member at byte {offset}: make the archive without --sparse")]
    Sparse { offset: u64 },
    #[error("a member of unknown type {entry_type:?} at byte {offset}")]
    Type { offset: u64, entry_type: char },
    #[error(transparent)]
    Read(io::Error),
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof && error.get_ref().is_none() {
            Self::Truncated
        } else {
            Self::Read(error)
        }
    }
}

/// The members of an archive, one after the other.
#[derive(Debug)]
pub(super) struct Members<R> {
    inner: R,
    position: u64,
    /// Data of the current member that was not read yet, and the padding behind it.
    left: u64,
    padding: u64,
    ended: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// Zero blocks stood there.
    Marked,
    /// The bytes ended where a header could have stood.
    Unmarked,
}

/// What the headers before a member say of it.
#[derive(Debug, Default)]
struct Extended {
    seen: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Skip> Members<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            position: 0,
            left: 0,
            padding: 0,
            ended: End::NotYet,
        }
    }

    /// Whether the archive's end was marked as such (two blocks of zeros), and not just the end of the bytes.
    pub(super) fn end_was_marked(&self) -> bool {
        self.ended == End::Marked
    }

    pub(super) fn into_inner(self) -> R {
        self.inner
    }

    /// The next member; the data of the one before is passed over.
    pub(super) fn next(&mut self) -> Result<Option<Member>, TarError> {
        let mut extended = Extended::default();
        loop {
            if self.ended != End::NotYet {
                return Ok(None);
            }
            self.inner.skip(self.left + self.padding)?;
            self.position += self.left + self.padding;
            (self.left, self.padding) = (0, 0);

            let offset = self.position;
            let Some(header) = self.header()? else {
                return if extended.seen {
                    Err(TarError::Truncated)
                } else {
                    Ok(None)
                };
            };
            match header.entry_type().as_byte() {
                b'x' => {
                    let records = self.special(offset, &header)?;
                    extended.records(&records).map_err(|fault| fault.at(offset))?;
                }
                b'L' => extended.gnu_path = Some(self.c_string(offset, &header)?),
                b'K' => extended.gnu_link = Some(self.c_string(offset, &header)?),
                // Global records. Go reads these and applies nothing of them; containerd passes over them.
                b'g' => {
                    if extended.seen {
                        return Err(TarError::Extended { offset });
                    }
                    self.special(offset, &header)?;
                    continue;
                }
                // A volume label (`tar --label`).
                b'V' => continue,
                b'S' => return Err(TarError::Sparse { offset }),
                _ => return self.member(offset, &header, extended).map(Some),
            }
            extended.seen = true;
        }
    }

    /// Read the header that stands here; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut block = [0; BLOCK];
        match self.block(&mut block)? {
            0 => {
                self.ended = End::Unmarked;
                return Ok(None);
            }
            BLOCK => {}
            _ => return Err(TarError::Truncated),
        }
        let offset = self.position;
        self.position += BLOCK as u64;
        if block == [0; BLOCK] {
            // A second block of zeros follows, or nothing (Go's archive/tar accepts both, and nothing else).
            let followed_by = self.block(&mut block)?;
            if followed_by != 0 && block != [0; BLOCK] {
                return Err(TarError::Checksum { offset: self.position });
            }
            self.position += followed_by as u64;
            self.ended = End::Marked;
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        if !numeric(&header.as_old().cksum).is_some_and(|said| checksums(&block).contains(&said)) {
            return Err(TarError::Checksum { offset });
        }
        Ok(Some(header))
    }

    /// Read up to a block; less only at the end of the bytes.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<usize> {
        let mut got = 0;
        while got < BLOCK {
            match self.inner.read(&mut block[got..]) {
                Ok(0) => break,
                Ok(bytes) => got += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(got)
    }

    /// The data of a header that speaks of the next member.
    fn special(&mut self, offset: u64, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = unsigned(&header.as_old().size).ok_or(TarError::Field { offset, field: "size" })?;
        if size > EXTENDED_HEADER_MAX {
            return Err(TarError::ExtendedSize { offset, size });
        }
        self.begin_data(size);
        let mut data = Vec::new();
        self.read_to_end(&mut data)?;
        Ok(data)
    }

    fn c_string(&mut self, offset: u64, header: &Header) -> Result<Vec<u8>, TarError> {
        let mut data = self.special(offset, header)?;
        if let Some(end) = data.iter().position(|b| *b == 0) {
            data.truncate(end);
        }
        Ok(data)
    }

    fn begin_data(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn member(&mut self, offset: u64, header: &Header, extended: Extended) -> Result<Member, TarError> {
        let faulty = |field| TarError::Field { offset, field };
        let path = extended.gnu_path.or(extended.path).unwrap_or_else(|| path_of(header));
        let link = extended.gnu_link.or(extended.link).unwrap_or_else(|| {
            header
                .link_name_bytes()
                .map_or_else(Vec::new, std::borrow::Cow::into_owned)
        });
        for name in [&path, &link] {
            if name.len() > PATH_MAX || name.contains(&0) {
                return Err(TarError::Name { offset });
            }
        }
        let old = header.as_old();
        // Both forms that have device numbers have them at the same place.
        let device = if is_ustar(header) || header.as_gnu().is_some() {
            let block = header.as_bytes();
            device_of(&block[329..337], &block[337..345])
        } else {
            Some((0, 0))
        };
        let device = || device.ok_or_else(|| faulty("device number"));
        let kind = match header.entry_type().as_byte() {
            // Before there was a type for directories, a slash at the end of the name said it.
            0 | b'0' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => device().map(|(major, minor)| Kind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice { major, minor })?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(TarError::Type {
                    offset,
                    entry_type: char::from(other),
                });
            }
        };
        // What is no file has no data, whatever its header says (Go's archive/tar `isHeaderOnly`).
        let size = match kind {
            Kind::File => match extended.size {
                Some(size) => size,
                None => unsigned(&old.size).ok_or_else(|| faulty("size"))?,
            },
            Kind::Directory
            | Kind::Symlink
            | Kind::HardLink
            | Kind::CharDevice { .. }
            | Kind::BlockDevice { .. }
            | Kind::Fifo => 0,
        };
        if i64::try_from(size).is_err() {
            return Err(faulty("size"));
        }
        let id = |said: Option<u64>, in_header: &[u8], field| {
            let id = said.or_else(|| unsigned(in_header)).ok_or_else(|| faulty(field))?;
            // -1 means "leave it" to chown(2).
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| faulty(field))
        };
        let uid = id(extended.uid, &old.uid, "uid")?;
        let gid = id(extended.gid, &old.gid, "gid")?;
        let mode = unsigned(&old.mode).ok_or_else(|| faulty("mode"))? & 0o7777;
        let mode = u32::try_from(mode).expect("twelve bits were left");
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => (numeric(&old.mtime).ok_or_else(|| faulty("mtime"))?, 0),
        };
        self.begin_data(size);
        let xattrs = extended.xattrs;
        Ok(Member {
            path,
            link,
            kind,
            size,
            offset: self.position,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        })
    }
}

/// The data of the current member.
impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if want == 0 {
            return Ok(0);
        }
        let got = self.inner.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        self.position += got as u64;
        Ok(got)
    }
}

/// The data of the current member, as it lies in the reader's buffer: it is not copied to be written.
impl<R: BufRead> BufRead for Members<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let bytes = self.inner.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let want = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        Ok(&bytes[..want])
    }

    fn consume(&mut self, bytes: usize) {
        self.inner.consume(bytes);
        self.left -= bytes as u64;
        self.position += bytes as u64;
    }
}

/// The form that POSIX gave tar, whatever version it says: Go's archive/tar looks at none, and neither do GNU tar and
/// libarchive.
fn is_ustar(header: &Header) -> bool {
    header.as_bytes()[257..263] == *b"ustar\0"
}

/// The name in a header, with the beginning that did not fit into it.
fn path_of(header: &Header) -> Vec<u8> {
    let block = header.as_bytes();
    let text = |field: &[u8]| field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    let name = text(&block[..100]);
    if !is_ustar(header) {
        return name;
    }
    // star has times where the prefix would end.
    let end = if block[508..] == *b"tar\0" { 476 } else { 500 };
    let mut path = text(&block[345..end]);
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend(name);
    path
}

/// The checksum of a header, with bytes taken as unsigned and as signed: both were written once.
fn checksums(block: &[u8; BLOCK]) -> [i64; 2] {
    let mut sums = [0; 2];
    for (index, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { *byte };
        sums[0] += i64::from(byte);
        sums[1] += i64::from(byte.cast_signed());
    }
    sums
}

/// A number of a header, as Go reads it: octal digits amid spaces and NULs, nothing at all for 0, or big-endian two's
/// complement if the first bit is set.
fn numeric(field: &[u8]) -> Option<i64> {
    if let [first @ 0x80..=0xff, rest @ ..] = field {
        // The first bit is the mark, the second the sign. Fields have at most 12 bytes.
        let value = i128::from(first & 0x3f) - i128::from(first & 0x40);
        let value = rest.iter().fold(value, |value, byte| (value << 8) | i128::from(*byte));
        return i64::try_from(value).ok();
    }
    let field: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|b| matches!(b, b' ' | 0))
        .take_while(|b| *b != 0)
        .collect();
    let digits = std::str::from_utf8(&field).ok()?.trim_end_matches(' ');
    if digits.is_empty() {
        return Some(0);
    }
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    i64::from_str_radix(digits, 8).ok()
}

fn unsigned(field: &[u8]) -> Option<u64> {
    numeric(field)?.try_into().ok()
}

fn device_of(major: &[u8], minor: &[u8]) -> Option<(u32, u32)> {
    let number = |field| unsigned(field)?.try_into().ok();
    Some((number(major)?, number(minor)?))
}

/// What is wrong with a PAX record, before it is known where it stands.
#[derive(Debug, Clone, Copy)]
enum RecordFault {
    Malformed,
    Name,
    Xattrs,
    Sparse,
}

impl RecordFault {
    fn at(self, offset: u64) -> TarError {
        match self {
            Self::Malformed => TarError::Extended { offset },
            Self::Name => TarError::Name { offset },
            Self::Xattrs => TarError::Xattrs { offset },
            Self::Sparse => TarError::Sparse { offset },
        }
    }
}

impl Extended {
    /// Take in PAX records: `<length> <key>=<value>\n`. An empty value takes back what an earlier record said.
    fn records(&mut self, mut data: &[u8]) -> Result<(), RecordFault> {
        while !data.is_empty() {
            let space = data.iter().position(|b| *b == b' ').ok_or(RecordFault::Malformed)?;
            let length: usize = number(&data[..space]).ok_or(RecordFault::Malformed)?;
            if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
                return Err(RecordFault::Malformed);
            }
            let record = &data[space + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or(RecordFault::Malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            self.record(key, value)?;
            data = &data[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordFault> {
        fn given<T>(value: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, RecordFault> {
            if value.is_empty() {
                Ok(None)
            } else {
                parse(value).map(Some).ok_or(RecordFault::Malformed)
            }
        }
        let name = |value: &[u8]| {
            if value.contains(&0) || value.len() > PATH_MAX {
                return Err(RecordFault::Name);
            }
            Ok((!value.is_empty()).then(|| value.to_vec()))
        };
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = given(value, number)?,
            b"uid" => self.uid = given(value, number)?,
            b"gid" => self.gid = given(value, number)?,
            b"mtime" => self.mtime = given(value, time)?,
            _ if key.starts_with(b"GNU.sparse.") => return Err(RecordFault::Sparse),
            _ => {
                if let Some(xattr) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(name, _)| name != xattr);
                    if !value.is_empty() {
                        self.xattrs.push((xattr.to_vec(), value.to_vec()));
                    }
                    if xattr.is_empty() || xattr.contains(&0) || xattr.len() > 255 {
                        return Err(RecordFault::Xattrs);
                    }
                    if self.xattrs.len() > XATTRS_MAX || value.len() > XATTR_VALUE_MAX {
                        return Err(RecordFault::Xattrs);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Decimal digits alone: no sign, no space.
fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(text).ok()?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// `[-]<seconds>[.<fraction>]`, to seconds and nanoseconds (these never negative).
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = number(seconds.as_bytes())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    Some(match (negative, nanos) {
        (false, nanos) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests;
