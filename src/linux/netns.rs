//! Doing something inside another network namespace.
//!
//! **Invariant:** only a thread made for it changes its namespace, and it ends afterwards: no worker of a runtime is ever
//! left in a foreign one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sched::{CloneFlags, setns};

/// The network namespace of a process.
pub fn of_process(pid: i32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/ns/net"))
}

/// Run `work` inside a network namespace, on a thread of its own, and wait for it.
pub fn within<T: Send>(namespace: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let enter = |namespace: BorrowedFd<'_>| -> io::Result<()> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || {
                enter(namespace.as_fd())?;
                work()
            })?
            .join()
            .map_err(|_| io::Error::other("the thread in the namespace panicked"))?
    })
}
