//! Network namespaces: found, and visited by a thread that comes home again.
//!
//! Goes in: a process or a descriptor of its namespace. Comes out: what was done there.
//!
//! A thread belongs to one network namespace at a time, and whatever it opens belongs there too: sockets for ever,
//! `/proc/sys/net` at the moment of opening. So one may enter, open, leave, and go on using what was opened.
//!
//! **Invariant:** a thread of an asynchronous runtime never travels: whatever ran on it next would run in the wrong
//! namespace. [`run_in`] makes a thread of its own; [`Home`] is for a thread that does nothing else.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The network namespace of a process.
pub fn of_process(pid: i32) -> io::Result<OwnedFd> {
    File::open(format!("/proc/{pid}/ns/net")).map(OwnedFd::from)
}

/// The network namespace of the calling thread.
pub fn of_this_thread() -> io::Result<OwnedFd> {
    File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
}

/// Move the calling thread into a new, empty network namespace, for good.
pub fn enter_new() -> io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).map_err(io::Error::from)
}

/// A TCP socket that belongs to this network namespace, not blocking and not connected.
pub fn tcp_socket(netns: BorrowedFd<'_>, ipv6: bool) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
    let family = if ipv6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let made = run_in(netns, || {
        socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))
    })?;
    made.map_err(io::Error::from)
}

/// Run `work` in a network namespace, on a thread made for it.
pub fn run_in<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, || {
                enter(netns)?;
                Ok(work())
            })?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The network namespace that a thread of our own came from. It cannot be given to another thread.
#[derive(Debug)]
pub struct Home {
    netns: OwnedFd,
    this_thread: PhantomData<*const ()>,
}

/// A visit that did not happen, or did not end.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    #[error("cannot enter the network namespace")]
    Enter(#[source] io::Error),
    /// The thread is lost: it must end.
    #[error("cannot return from the network namespace")]
    Return(#[source] io::Error),
}

impl Home {
    /// Call this on the thread that will travel, and that was made for nothing else.
    pub fn of_this_thread() -> io::Result<Self> {
        Ok(Self {
            netns: of_this_thread()?,
            this_thread: PhantomData,
        })
    }

    /// Run `work` in `netns` on this thread, then come home.
    pub fn visit<T>(&self, netns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T, VisitError> {
        enter(netns).map_err(VisitError::Enter)?;
        let result = work();
        enter(self.netns.as_fd()).map_err(VisitError::Return)?;
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> String {
        std::fs::read_link("/proc/thread-self/ns/net")
            .unwrap()
            .display()
            .to_string()
    }

    #[test]
    fn a_visit_ends_at_home() {
        let (there, other) = std::thread::spawn(|| {
            enter_new().unwrap();
            (of_this_thread().unwrap(), own())
        })
        .join()
        .unwrap();
        let here = own();
        assert_eq!(run_in(there.as_fd(), own).unwrap(), other);
        assert_eq!(own(), here);

        std::thread::spawn(move || {
            let home = Home::of_this_thread().unwrap();
            assert_eq!(home.visit(there.as_fd(), own).unwrap(), other);
            assert_eq!(own(), here);
            let file = File::open("/proc/self/ns/ipc").unwrap();
            let error = home.visit(file.as_fd(), own).unwrap_err();
            assert!(matches!(error, VisitError::Enter(_)), "{error}");
            assert_eq!(own(), here);
        })
        .join()
        .unwrap();
    }
}
