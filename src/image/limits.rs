//! How much of a machine one image may cost, and the watch over it.
//!
//! Goes in: bytes and members as they go by. Comes out: an error as soon as one of the limits is passed, long before
//! the disk is full.
//!
//! **Invariant:** what is read from an image never decides how much memory podd takes: everything read whole has a
//! limit here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// The longest path a member may have (`PATH_MAX`).
pub(super) const PATH_MAX: usize = 4096;
/// The longest component of a path (`NAME_MAX`).
pub(super) const NAME_MAX: usize = 255;
/// The most that an extended header (PAX records, a GNU long name) may hold: Go's archive/tar `maxSpecialFileSize`.
pub(super) const EXTENDED_HEADER_MAX: u64 = 1024 * 1024;
/// The most extended attributes of one member, and the most bytes of one (`XATTR_SIZE_MAX`).
pub(super) const XATTRS_MAX: usize = 256;
pub(super) const XATTR_VALUE_MAX: usize = 64 * 1024;
/// zstd windows up to 2^27 bytes (128 MiB), what `zstd --long` makes at most by default.
pub(super) const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Directories whose times wait for the end of a layer may have paths of so many bytes together.
pub(super) const DIRECTORY_PATHS_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a kept manifest or config: more than any limit for one.
pub(super) const DOCUMENT_MAX: u64 = 64 * 1024 * 1024;
/// Nested image indexes, and descriptors in one of them.
pub(super) const INDEX_DEPTH_MAX: usize = 4;
pub(super) const DESCRIPTORS_MAX: usize = 1024;

/// What an import may cost. Bytes, unless said otherwise.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Of an upload as it arrives, and of the archive in it once it is decompressed.
    pub upload: u64,
    /// Of an image manifest or index, and of docker's `manifest.json`.
    pub manifest: u64,
    /// Of an image's config.
    pub config: u64,
    /// Count. Overlay takes more, but no builder makes more.
    pub layers: usize,
    /// Of all the files of an image together.
    pub unpacked: u64,
    /// Count of members of all the layers of an image together.
    pub entries: u64,
    /// A compressed stream that grows past `bomb_floor` must not be more than so many times its compressed size.
    pub bomb_ratio: u64,
    pub bomb_floor: u64,
    /// What must stay free on the disk.
    pub keep_free: u64,
    /// An upload that sends nothing for so long is given up: it holds a place that another could have.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        const GIB: u64 = 1024 * MIB;
        Self {
            upload: 16 * GIB,
            manifest: 4 * MIB,
            config: 8 * MIB,
            layers: 127,
            unpacked: 64 * GIB,
            entries: 4_000_000,
            bomb_ratio: 200,
            bomb_floor: GIB,
            keep_free: 256 * MIB,
            silence: Duration::from_mins(5),
        }
    }
}

/// A limit was passed. Travels inside `io::Error` through readers, and is found again by [`LimitError::within`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("the archive is larger than the limit of {limit} bytes")]
    Upload { limit: u64 },
    #[error("the image's files are larger than the limit of {limit} bytes")]
    Unpacked { limit: u64 },
    #[error("the image has more than {limit} files")]
    Entries { limit: u64 },
    #[error(
        "compressed data expands more than {ratio} times ({read} bytes to more than {written}): a decompression bomb"
    )]
    Bomb { ratio: u64, read: u64, written: u64 },
    #[error("the image's directories have paths of more than {DIRECTORY_PATHS_MAX} bytes together")]
    DirectoryPaths,
    #[error("no space: the disk would be left with less than {keep} bytes free")]
    Space { keep: u64 },
}

impl LimitError {
    /// The limit that an error of a reader tells of.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<LimitError> for io::Error {
    fn from(error: LimitError) -> Self {
        Self::other(error)
    }
}

/// Whether an error says that there is no room: the disk's own word, its quota's, or the limit of what must stay free.
pub(super) fn is_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        || matches!(LimitError::within(error), Some(LimitError::Space { .. }))
}

/// Asks now and then how much is free where a descriptor lives.
#[derive(Debug)]
pub(super) struct SpaceWatch {
    keep: u64,
    until_next: u64,
}

/// Bytes between two looks.
const LOOK_EVERY: u64 = 64 * 1024 * 1024;

impl SpaceWatch {
    pub(super) fn new(keep: u64) -> Self {
        Self { keep, until_next: 0 }
    }

    /// To be told of every write; fails once less than what is to be kept is left.
    pub(super) fn about_to_write(&mut self, bytes: u64, place: BorrowedFd<'_>) -> io::Result<()> {
        if let Some(left) = self.until_next.checked_sub(bytes) {
            self.until_next = left;
            return Ok(());
        }
        self.until_next = LOOK_EVERY;
        let disk = rustix::fs::fstatvfs(place.as_fd())?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < self.keep {
            return Err(LimitError::Space { keep: self.keep }.into());
        }
        Ok(())
    }
}
