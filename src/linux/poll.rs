//! epoll(7), level-triggered, with a number for each descriptor.

use std::io;
use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    Read,
    Write,
    ReadWrite,
}

/// A set of descriptors to wait for.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

fn event(interest: Interest, token: u64) -> EpollEvent {
    let flags = match interest {
        Interest::Read => EpollFlags::EPOLLIN,
        Interest::Write => EpollFlags::EPOLLOUT,
        Interest::ReadWrite => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
    };
    EpollEvent::new(flags, token)
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        })
    }

    /// Wait for this descriptor too; its events carry `token`.
    pub fn add(&self, file: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.add(file, event(interest, token))?)
    }

    pub fn change(&self, file: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.epoll.modify(file, &mut event(interest, token))?)
    }

    /// Must be called before the descriptor is closed where a child may still hold a copy of it.
    pub fn remove(&self, file: &impl AsFd) -> io::Result<()> {
        Ok(self.epoll.delete(file)?)
    }

    /// Wait until something happens, at most this many milliseconds (`None`: without end), and collect the tokens.
    pub fn wait(&self, tokens: &mut Vec<u64>, milliseconds: Option<u16>) -> io::Result<()> {
        tokens.clear();
        let mut events = [EpollEvent::empty(); 32];
        let timeout = milliseconds.map_or(EpollTimeout::NONE, EpollTimeout::from);
        match self.epoll.wait(&mut events, timeout) {
            Ok(count) => tokens.extend(events[..count].iter().map(EpollEvent::data)),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }
}
