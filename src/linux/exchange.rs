//! One request and its answers over a netlink socket, whatever the family: rtnetlink and nfnetlink stand on it.
//!
//! Goes in: the kind, the flags and the bytes of a request. Comes out: the body of each answer, or the kernel's refusal.
//!
//! The socket is a plain blocking one and each request is one send and one receive: the kernel answers such requests
//! before send(2) returns, so there is nothing to wait for, and an asynchronous connection with its own task and
//! reactor would cost more than the work.
//!
//! **Invariant:** a socket stays in the namespace it was opened in, wherever its thread goes. Bytes from the kernel are
//! read within their bounds: a message that is too short is no message.

use std::fmt;
use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NlasIterator};
use netlink_sys::{Socket, SocketAddr};
use nix::libc;

// Numbers of linux/netlink.h.
const HEADER: usize = 16;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Without its high bits, which say how a value is stored.
pub(super) const NLA_TYPE_MASK: u16 = 0x3fff;
/// A listing is given in pieces of at most 32 KiB.
const BUFFER: usize = 64 << 10;

/// The kernel's refusal, and what was tried.
#[derive(Debug, thiserror::Error)]
#[error("cannot {tried}")]
pub struct NetlinkError {
    /// `make bridge podd0`
    pub tried: String,
    #[source]
    pub refusal: Refusal,
}

/// What the kernel said.
#[derive(Debug)]
pub struct Refusal {
    /// errno(3).
    pub errno: i32,
    /// The kernel's own words, where it has any.
    pub words: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.errno).fmt(f)?;
        match &self.words {
            Some(words) => write!(f, ": {words}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            words: None,
        }
    }
}

impl NetlinkError {
    /// Such a thing is there already.
    pub fn exists(&self) -> bool {
        self.refusal.errno == libc::EEXIST
    }

    /// There is no such thing.
    pub fn is_missing(&self) -> bool {
        self.refusal.errno == libc::ENODEV
    }
}

/// An open socket of one netlink family, and what was asked over it so far.
pub(super) struct Exchange {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    /// Open a socket in the calling thread's network namespace. `family` is one of `netlink_sys::protocols`, `name` what
    /// it is called in an error.
    ///
    /// # Errors
    /// The kernel has no such family.
    pub(super) fn open(family: isize, name: &str) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(family)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // The kernel's words with each refusal, and not our own request again. Older kernels go without.
            let _ = socket.set_ext_ack(true);
            let _ = socket.set_cap_ack(true);
            Ok(socket)
        };
        match open() {
            Ok(socket) => Ok(Self {
                socket,
                sequence: 0,
                buffer: Vec::with_capacity(BUFFER),
            }),
            Err(error) => Err(NetlinkError {
                tried: format!("open an {name} socket"),
                refusal: Refusal::from(error),
            }),
        }
    }

    /// Send one request, give the body of each answer to `each` until the kernel says that it was all.
    /// `Ok(false)`: something changed while a listing was made.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        // From whom: the kernel fills it in.
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(body);
        again(|| self.socket.send(&bytes, 0))?;

        let mut consistent = true;
        loop {
            self.buffer.clear();
            let (socket, buffer) = (&self.socket, &mut self.buffer);
            again(|| socket.recv(buffer, 0))?;
            let mut rest = self.buffer.as_slice();
            while let Some((answer, after)) = split(rest) {
                rest = after;
                if answer.sequence != self.sequence {
                    continue;
                }
                consistent &= answer.flags & NLM_F_DUMP_INTR == 0;
                match answer.kind {
                    NLMSG_NOOP => {}
                    NLMSG_ERROR | NLMSG_DONE => return answer.end().map(|()| consistent),
                    _ => each(answer.body),
                }
            }
        }
    }
}

/// Repeat what a signal interrupted.
pub(super) fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// One message from the kernel.
pub(super) struct Answer<'a> {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) body: &'a [u8],
}

impl Answer<'_> {
    /// The outcome that `NLMSG_ERROR` and `NLMSG_DONE` carry.
    fn end(&self) -> Result<(), Refusal> {
        let code = u32_at(self.body, 0).map_or(0, u32::cast_signed);
        if code >= 0 {
            return Ok(());
        }
        // After the code: for NLMSG_ERROR the header of the request, then attributes.
        let from = if self.kind == NLMSG_ERROR { 4 + HEADER } else { 4 };
        let attributes = self
            .body
            .get(from..)
            .filter(|_| self.flags & NLM_F_ACK_TLVS != 0)
            .unwrap_or_default();
        let mut words = None;
        for_each(attributes, |kind, value| {
            if kind == NLMSGERR_ATTR_MSG {
                words = Some(text(value));
            }
        });
        Err(Refusal { errno: -code, words })
    }
}

/// The first message of a datagram, and what comes after it.
pub(super) fn split(bytes: &[u8]) -> Option<(Answer<'_>, &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    let answer = Answer {
        kind: u16_at(bytes, 4)?,
        flags: u16_at(bytes, 6)?,
        sequence: u32_at(bytes, 8)?,
        body,
    };
    Some((answer, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

pub(super) fn for_each(attributes: &[u8], mut each: impl FnMut(u16, &[u8])) {
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        each(attribute.kind() & NLA_TYPE_MASK, attribute.value());
    }
}

pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
