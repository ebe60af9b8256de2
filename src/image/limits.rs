//! How much of a machine one image may cost, and the watch over it.
//!
//! Goes in: bytes and members as they go by. Comes out: an error as soon as one of the limits is passed, long before
//! the disk is full.
//!
//! **Invariant:** what is read from an image never decides how much memory podd takes: everything read whole has a
//! limit here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::frames::Windows;

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
/// Indexes and manifests that are looked at for one that fits.
pub(super) const MANIFESTS_MAX: usize = 64;

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
    /// What all zstd streams together may hold of what they have unpacked.
    pub windows: Arc<Windows>,
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
            // Two layers as docker packs them, or eight as zstd(1) does.
            windows: Windows::new(16 * MIB),
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
    #[error("a zstd window of {window} bytes is larger than the limit of {limit} bytes")]
    Window { window: u64, limit: u64 },
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

/// Asks now and then how much is free where a descriptor lives. Several threads may write at once.
#[derive(Debug)]
pub(super) struct SpaceWatch {
    keep: u64,
    until_next: AtomicU64,
}

/// Bytes between two looks.
const LOOK_EVERY: u64 = 64 * 1024 * 1024;

impl SpaceWatch {
    pub(super) fn new(keep: u64) -> Self {
        Self {
            keep,
            until_next: AtomicU64::new(0),
        }
    }

    /// To be told of every write; fails once less than what is to be kept is left.
    pub(super) fn about_to_write(&self, bytes: u64, place: BorrowedFd<'_>) -> io::Result<()> {
        if take(&self.until_next, bytes) {
            return Ok(());
        }
        self.until_next.store(LOOK_EVERY, Ordering::Relaxed);
        let disk = rustix::fs::fstatvfs(place.as_fd())?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < self.keep {
            return Err(LimitError::Space { keep: self.keep }.into());
        }
        Ok(())
    }
}

/// Take `count` of what is left, if there is so much.
fn take(left: &AtomicU64, count: u64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count))
        .is_ok()
}

/// What all the layers of one image may still cost, unpacked side by side or one after the other.
#[derive(Debug)]
pub(super) struct Budget {
    entries_max: u64,
    entries_left: AtomicU64,
    bytes_max: u64,
    bytes_left: AtomicU64,
    space: SpaceWatch,
}

impl Budget {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            entries_max: limits.entries,
            entries_left: AtomicU64::new(limits.entries),
            bytes_max: limits.unpacked,
            bytes_left: AtomicU64::new(limits.unpacked),
            space: SpaceWatch::new(limits.keep_free),
        })
    }
}

/// What one layer has taken of its image's [`Budget`]. Given back when this is dropped, unless it is kept: a layer that
/// turns out to be damaged and is fetched once more costs an image nothing.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    entries: u64,
    bytes: u64,
}

impl Share {
    pub(super) fn of(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            entries: 0,
            bytes: 0,
        }
    }

    /// One more member.
    pub(super) fn entry(&mut self) -> Result<(), LimitError> {
        if !take(&self.budget.entries_left, 1) {
            return Err(LimitError::Entries {
                limit: self.budget.entries_max,
            });
        }
        self.entries += 1;
        Ok(())
    }

    /// A file of so many bytes.
    pub(super) fn file(&mut self, bytes: u64) -> Result<(), LimitError> {
        if !take(&self.budget.bytes_left, bytes) {
            return Err(LimitError::Unpacked {
                limit: self.budget.bytes_max,
            });
        }
        self.bytes += bytes;
        Ok(())
    }

    /// See [`SpaceWatch::about_to_write`].
    pub(super) fn about_to_write(&self, bytes: u64, place: BorrowedFd<'_>) -> io::Result<()> {
        self.budget.space.about_to_write(bytes, place)
    }

    /// The layer stays.
    pub(super) fn keep(mut self) {
        (self.entries, self.bytes) = (0, 0);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.entries_left.fetch_add(self.entries, Ordering::Relaxed);
        self.budget.bytes_left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dropped_layer_took_is_there_for_the_next() {
        let limits = Limits {
            entries: 2,
            unpacked: 10,
            ..Limits::default()
        };
        let budget = Budget::new(&limits);
        let mut damaged = Share::of(&budget);
        damaged.entry().unwrap();
        damaged.file(10).unwrap();
        assert_eq!(
            Share::of(&budget).file(1),
            Err(LimitError::Unpacked { limit: 10 }),
            "layers beside each other share it"
        );
        drop(damaged);
        let mut whole = Share::of(&budget);
        whole.entry().unwrap();
        whole.file(7).unwrap();
        whole.keep();
        let mut next = Share::of(&budget);
        next.file(3).unwrap();
        assert_eq!(next.file(1), Err(LimitError::Unpacked { limit: 10 }));
        next.entry().unwrap();
        assert_eq!(next.entry(), Err(LimitError::Entries { limit: 2 }));
    }
}
