//! Where on a file system new directories begin: each in another part of it, in turn.
//!
//! Goes in: the directory that holds the shelves. Comes out: new empty directories.
//!
//! ext4 keeps the files of a directory in its block group and those next to it, and without a journal gives out no inode
//! that was freed within the last minute: each new file waits for a walk over all that were removed there. Left alone it
//! puts a new directory into the group with the fewest, which is the one that was emptied last: an image that is pulled
//! after another was removed took five times as long. So there are [`COUNT`] shelves, made at once and hence (see
//! [`spread`]) in as many groups as there are, and each new directory is begun on the next of them: the inodes of a group
//! have the time to rest until its turn comes again. A directory stays in its group when it is renamed.
//!
//! **Invariant:** a shelf holds no more than an empty directory, and nothing depends on what it holds: it may be removed
//! whenever nobody runs, and is made again.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, mkdirat, renameat};
use rustix::io::Errno;

use crate::linux::path::spread;

/// One for each second of the minute in which ext4 does not give out an inode again (`RECENTCY_MIN` in its `ialloc.c`),
/// and some more: no image is pulled and removed in less.
const COUNT: usize = 64;

/// What a directory is called until it gets its name.
const NEW: &str = "new";

#[derive(Debug)]
pub(super) struct Shelves {
    directory: OwnedFd,
    /// The shelf whose turn it is. Held while something is made there.
    next: Mutex<usize>,
}

impl Shelves {
    /// Make what is missing of the shelves in `directory`, which holds nothing else. `None`: the file system puts
    /// directories where it likes, so there is no need for any.
    ///
    /// # Errors
    /// A shelf cannot be made.
    pub(super) fn open(directory: OwnedFd) -> rustix::io::Result<Option<Self>> {
        if spread(&directory).is_err() {
            return Ok(None);
        }
        for shelf in 0..COUNT {
            match mkdirat(&directory, name(shelf), Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        // Whose turn it was is known to nobody any more; any other is most likely one that has rested.
        let (_, random) = uuid::Uuid::new_v4().as_u64_pair();
        let next = usize::try_from(random % COUNT as u64).unwrap_or(0);
        Ok(Some(Self {
            directory,
            next: Mutex::new(next),
        }))
    }

    /// Make a new empty directory, for its owner alone, under this name in `parent`.
    ///
    /// # Errors
    /// It cannot be made or named. What is there then is an empty directory on a shelf, which the next one is made of.
    pub(super) fn make(&self, parent: BorrowedFd<'_>, called: &str) -> rustix::io::Result<()> {
        // A count is whole at any moment.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let place = *next;
        *next = (place + 1) % COUNT;
        let new = format!("{}/{NEW}", name(place));
        match mkdirat(&self.directory, &new, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        renameat(&self.directory, &new, parent, called)
    }
}

fn name(shelf: usize) -> String {
    format!("{shelf:02}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn each_directory_is_begun_on_the_next_shelf_also_after_a_crash() {
        let root = tempfile::tempdir().unwrap();
        let [shelves, tmp] = ["shelves", "tmp"].map(|name| root.path().join(name));
        for directory in [&shelves, &tmp] {
            fs::create_dir(directory).unwrap();
        }
        let Some(made) = Shelves::open(open(&shelves)).unwrap() else {
            assert_eq!(
                fs::read_dir(&shelves).unwrap().count(),
                0,
                "no shelves where they are of no use"
            );
            return;
        };
        assert_eq!(fs::read_dir(&shelves).unwrap().count(), COUNT);
        // What an agent leaves that is killed between the two steps.
        for shelf in 0..COUNT {
            fs::create_dir(shelves.join(name(shelf)).join(NEW)).unwrap();
        }
        let stray: HashSet<u64> = (0..COUNT)
            .map(|shelf| fs::metadata(shelves.join(name(shelf)).join(NEW)).unwrap().ino())
            .collect();
        drop(made);

        let again = Shelves::open(open(&shelves)).unwrap().unwrap();
        let to = open(&tmp);
        let mut first_round = HashSet::new();
        for count in 0..2 * COUNT {
            again.make(to.as_fd(), &count.to_string()).unwrap();
            let found = fs::metadata(tmp.join(count.to_string())).unwrap();
            if count < COUNT {
                first_round.insert(found.ino());
            } else {
                assert_eq!(found.mode() & 0o7777, 0o700);
            }
        }
        assert_eq!(first_round, stray, "each shelf had its turn once");
        for shelf in 0..COUNT {
            assert_eq!(fs::read_dir(shelves.join(name(shelf))).unwrap().count(), 0);
        }
    }
}
