//! Descriptors: pipes, sockets that carry descriptors, reads and writes that do not block.
//!
//! Everything made here is close-on-exec.

#![expect(
    unsafe_code,
    reason = "ioctl, fcntl and recvmsg hand out numbers that become owned descriptors"
)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, sendmsg,
    socketpair,
};

/// Flags for open(2): a symbolic link at the end is an error, and a pipe in the place of a file does not make us wait.
pub const NO_LINK_NO_WAIT: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;
/// The same, but a link is followed.
pub const NO_WAIT: i32 = libc::O_NONBLOCK;

/// A pipe: its reading and its writing end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// A connected pair of stream sockets.
pub fn stream_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((ours.into(), theirs.into()))
}

/// A connected pair of sockets that keep message boundaries.
pub(super) fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// Reads and writes give `EAGAIN` from now on where they would wait.
pub fn set_nonblocking(file: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Read what is there. `Ok(None)`: nothing now; `Ok(Some(0))`: the end.
pub fn read_some(file: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match nix::unistd::read(file, buffer) {
            Ok(length) => return Ok(Some(length)),
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Write what fits. `Ok(None)`: nothing now.
pub fn write_some(file: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<Option<usize>> {
    loop {
        match nix::unistd::write(file, bytes) {
            Ok(length) => return Ok(Some(length)),
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// How many bytes wait in a pipe, socket or terminal (`FIONREAD`).
pub fn readable(file: BorrowedFd<'_>) -> io::Result<usize> {
    let mut length: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int.
    nix::errno::Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::FIONREAD, &raw mut length) })?;
    Ok(usize::try_from(length).unwrap_or(0))
}

/// Send bytes and one descriptor. The bytes are few enough to go at once.
pub fn send_with_fd(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let descriptors = [descriptor.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    Ok(sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        &control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?)
}

/// Receive bytes and, if one came with them, a descriptor. More than one: the first is kept, the others are closed.
/// `MSG_DONTWAIT` with `wait` false: `WouldBlock` if nothing is there.
pub fn receive_with_fd(socket: BorrowedFd<'_>, buffer: &mut [u8], wait: bool) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = cmsg_space!([libc::c_int; MOST]);
    let flags = if wait {
        MsgFlags::empty()
    } else {
        MsgFlags::MSG_DONTWAIT
    };
    let (length, received) = receive(socket, buffer, &mut control, flags)?;
    Ok((length, received.into_iter().next()))
}

/// What is there to be received, without taking it and without waiting. `None`: nothing now; 0 bytes: the end.
pub(super) fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK) {
        Ok(length) => Ok(Some(length)),
        Err(nix::errno::Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The most descriptors that [`send_with_fds`] and [`receive_with_fds`] take at once.
pub const MOST: usize = 4;

/// Send bytes and some descriptors ([`MOST`] at most), which go with the first byte. Returns how many bytes went.
pub fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &control[..] };
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Receive what is there and the descriptors that came with it ([`MOST`] at most; more are closed). `Ok(None)`: nothing
/// now; 0 bytes: the end.
pub fn receive_with_fds(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut control = cmsg_space!([libc::c_int; MOST]);
    match receive(socket, buffer, &mut control, MsgFlags::MSG_DONTWAIT) {
        Ok(received) => Ok(Some(received)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut [u8],
    flags: MsgFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    loop {
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(control), flags) {
            Ok(message) => message,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let mut received = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = part {
                // SAFETY: the kernel has just made these descriptors for us, each once.
                received.extend(numbers.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
            }
        }
        return Ok((message.bytes, received));
    }
}

/// A second descriptor of the same open file.
pub fn duplicate(file: &impl AsFd) -> io::Result<OwnedFd> {
    file.as_fd().try_clone_to_owned()
}

/// Who is at the other end of a connected unix socket: its user id.
pub fn peer_uid(socket: &impl AsFd) -> io::Result<u32> {
    Ok(nix::sys::socket::getsockopt(&socket.as_fd(), nix::sys::socket::sockopt::PeerCredentials)?.uid())
}
