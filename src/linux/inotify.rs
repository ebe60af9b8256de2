//! Being told when something happens in a directory.
//!
//! Goes in: descriptors of directories. Comes out: wake-ups, without saying what happened: whoever waits looks for itself.
//!
//! One inotify instance serves everyone (the kernel allows a user 128 of them, but any number of watches in each).

#![expect(unsafe_code, reason = "a descriptor is registered with the event loop")]

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init, remove_watch};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// A hub of directory watches. The kernel's instance is made when the first watch is; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Inotify {
    hub: Arc<Mutex<Option<Arc<Hub>>>>,
}

#[derive(Debug)]
struct Hub {
    shared: Arc<Shared>,
    reader: AbortHandle,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[derive(Debug)]
struct Shared {
    instance: AsyncFd<OwnedFd>,
    /// By watch descriptor: who waits, and how many watches share it.
    watches: Mutex<HashMap<i32, (Arc<Notify>, usize)>>,
}

/// A watched directory; dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    hub: Arc<Hub>,
    descriptor: i32,
    notify: Arc<Notify>,
}

impl Inotify {
    /// Watch a directory: whatever is written, made, renamed or removed in it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel's, mostly `EMFILE` or `ENOSPC` when the user's share of watches is used up.
    pub fn watch(&self, directory: BorrowedFd<'_>) -> io::Result<Watch> {
        let hub = {
            let mut slot = self.hub.lock().unwrap_or_else(PoisonError::into_inner);
            match slot.as_ref() {
                Some(hub) => Arc::clone(hub),
                None => Arc::clone(slot.insert(Arc::new(Hub::start()?))),
            }
        };
        let (descriptor, notify) = hub.shared.add(directory)?;
        Ok(Watch {
            hub,
            descriptor,
            notify,
        })
    }
}

impl Hub {
    fn start() -> io::Result<Self> {
        let instance = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // SAFETY: an `OwnedFd` names one open descriptor as long as it lives, and `AsyncFd` owns it: it is closed only
        // after it was taken out of the event loop.
        let instance = unsafe { AsyncFd::register(instance) }?;
        let shared = Arc::new(Shared {
            instance,
            watches: Mutex::default(),
        });
        let reader = tokio::spawn(dispatch(Arc::clone(&shared))).abort_handle();
        Ok(Self { shared, reader })
    }
}

impl Shared {
    fn add(&self, directory: BorrowedFd<'_>) -> io::Result<(i32, Arc<Notify>)> {
        // Through the descriptor, so that the directory that was opened is the one that is watched.
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        // The lock is held over the call: the same directory gives the same number, and it must not be removed between.
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let descriptor = add_watch(self.instance.get_ref().as_fd(), path, flags)?;
        let (notify, count) = watches.entry(descriptor).or_default();
        *count += 1;
        Ok((descriptor, Arc::clone(notify)))
    }

    fn remove(&self, descriptor: i32) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = watches.get_mut(&descriptor) {
            *count -= 1;
            if *count == 0 {
                watches.remove(&descriptor);
                // Refused when the directory is gone, and the watch with it.
                let _gone_already = remove_watch(self.instance.get_ref().as_fd(), descriptor);
            }
        }
    }

    /// Read what is there and wake everyone it is about.
    fn drain(&self) -> rustix::io::Result<()> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = Reader::new(self.instance.get_ref().as_fd(), &mut buffer);
        loop {
            let descriptor = match reader.next() {
                Ok(event) => event.wd(),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(other) => return Err(other),
            };
            let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((notify, _)) = watches.get(&descriptor) {
                notify.notify_waiters();
            } else if descriptor < 0 {
                // The kernel's queue ran over: nobody knows what was missed, so everyone looks.
                watches.values().for_each(|(notify, _)| notify.notify_waiters());
            }
        }
    }
}

async fn dispatch(shared: Arc<Shared>) {
    loop {
        let Ok(mut guard) = shared.instance.readable().await else {
            return;
        };
        if shared.drain().is_err() {
            return;
        }
        guard.clear_ready();
    }
}

impl Watch {
    /// Wait for the next happening. To miss none, call [`Watch::armed`] first, then look, then await what it returned.
    pub fn armed(&self) -> impl Future<Output = ()> + Send + 'static {
        Arc::clone(&self.notify).notified_owned()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.shared.remove(self.descriptor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn open(path: &std::path::Path) -> fs::File {
        fs::File::open(path).unwrap()
    }

    #[tokio::test]
    async fn a_write_wakes_whoever_was_armed_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let inotify = Inotify::default();
        let handle = open(dir.path());
        let (one, two) = (
            inotify.watch(handle.as_fd()).unwrap(),
            inotify.watch(handle.as_fd()).unwrap(),
        );
        let (first, second) = (one.armed(), two.armed());
        fs::write(dir.path().join("x"), "text").unwrap();
        tokio::join!(first, second);
    }

    #[tokio::test]
    async fn one_watch_outlives_another_of_the_same_directory() {
        let dir = tempfile::tempdir().unwrap();
        let inotify = Inotify::default();
        let handle = open(dir.path());
        let one = inotify.watch(handle.as_fd()).unwrap();
        drop(inotify.watch(handle.as_fd()).unwrap());
        let armed = one.armed();
        fs::write(dir.path().join("x"), "text").unwrap();
        armed.await;
    }

    #[tokio::test]
    async fn more_watches_than_the_kernel_allows_instances() {
        let inotify = Inotify::default();
        let dirs: Vec<_> = (0..300).map(|_| tempfile::tempdir().unwrap()).collect();
        let watches: Vec<_> = dirs
            .iter()
            .map(|d| inotify.watch(open(d.path()).as_fd()).unwrap())
            .collect();
        let armed = watches[299].armed();
        fs::write(dirs[299].path().join("x"), "text").unwrap();
        armed.await;
    }

    #[tokio::test]
    async fn only_directories_are_watched() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Inotify::default().watch(file.as_file().as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }
}
