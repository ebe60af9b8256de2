//! nfnetlink: what the kernel's packet filter and its table of connections say of themselves.
//!
//! Goes in: the name of a table, ports. Comes out: the filter's generation (it counts transactions), which generations
//! changed a table, and the connections that were made to a port.
//!
//! Rules are not made here: the `nft` program writes them.
//!
//! **Invariant:** a socket stays in the namespace it was opened in. No connection is forgotten but one that was named:
//! a request to forget that names none would mean all.

#![expect(unsafe_code, reason = "a descriptor is registered with the event loop")]

use std::io;
use std::mem;
use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::libc;
use tokio::io::unix::AsyncFd;

use super::exchange::{Exchange, NetlinkError, Refusal, again, for_each, split, u32_at};

// Numbers of linux/netfilter/nfnetlink.h, nf_tables.h and nfnetlink_conntrack.h.
const NFGENMSG: usize = 4;
const NFPROTO_IPV4: u8 = 2;
const SUBSYSTEM_CONNTRACK: u16 = 1 << 8;
const SUBSYSTEM_NFTABLES: u16 = 10 << 8;
const NFNLGRP_NFTABLES: u32 = 7;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;
/// The same number in every message about a table, a chain, a rule, a set or its elements.
const NFTA_TABLE: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// The bits of a filter for `CTA_PROTO_NUM` and `CTA_PROTO_DST_PORT`.
const BY_PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const NLA_F_NESTED: u16 = 1 << 15;

/// A dump and a notification come in pieces of at most 32 KiB.
const BUFFER: usize = 32 << 10;
/// What waits to be read of a monitor: many thousand changes.
const MONITOR_QUEUE: usize = 1 << 20;

/// A socket for requests.
#[derive(Debug)]
pub struct Nfnetlink {
    exchange: Exchange,
}

/// A connection that the kernel follows, in the words of its first packet and of the answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Where the first packet was sent.
    pub to: (Ipv4Addr, u16),
    /// Who answers: another one, where the filter has led it elsewhere.
    pub answered_by: (Ipv4Addr, u16),
    /// The attributes by which the kernel finds it again.
    key: Vec<u8>,
}

impl Nfnetlink {
    /// # Errors
    /// The kernel has no netfilter.
    pub fn open() -> Result<Self, NetlinkError> {
        let exchange = Exchange::open(NETLINK_NETFILTER, "nfnetlink")?;
        Ok(Self { exchange })
    }

    /// How many transactions the packet filter has seen; it wraps.
    pub fn generation(&mut self) -> Result<u32, NetlinkError> {
        let mut generation = None;
        let kind = SUBSYSTEM_NFTABLES | NFT_MSG_GETGEN;
        let asked = self.request(kind, NLM_F_ACK, &[], &mut |body| generation = generation_of(body));
        let refused = |refusal| NetlinkError {
            tried: "ask for the packet filter's generation".to_owned(),
            refusal,
        };
        asked.map_err(refused)?;
        generation.ok_or_else(|| {
            refused(Refusal {
                errno: libc::ENODATA,
                words: None,
            })
        })
    }

    /// The IPv4 connections of a protocol (its IP number) whose first packet was sent to this port, at any address.
    pub fn connections(&mut self, protocol: u8, port: u16) -> Result<Vec<Connection>, NetlinkError> {
        let mut proto = Vec::new();
        attribute(&mut proto, CTA_PROTO_NUM, &[protocol]);
        attribute(&mut proto, CTA_PROTO_DST_PORT, &port.to_be_bytes());
        let mut tuple = Vec::new();
        attribute(&mut tuple, CTA_TUPLE_PROTO | NLA_F_NESTED, &proto);
        let mut filter = Vec::new();
        attribute(&mut filter, CTA_FILTER_ORIG_FLAGS, &BY_PROTOCOL_AND_PORT.to_ne_bytes());
        let mut attributes = Vec::new();
        attribute(&mut attributes, CTA_TUPLE_ORIG | NLA_F_NESTED, &tuple);
        attribute(&mut attributes, CTA_FILTER | NLA_F_NESTED, &filter);

        let mut found = Vec::new();
        let kind = SUBSYSTEM_CONNTRACK | IPCTNL_MSG_CT_GET;
        self.request(kind, NLM_F_DUMP, &attributes, &mut |body| {
            found.extend(connection_of(body, protocol).filter(|connection| connection.to.1 == port));
        })
        .map_err(|refusal| NetlinkError {
            tried: format!("list the connections to port {port}"),
            refusal,
        })?;
        Ok(found)
    }

    /// The next packet of it begins a new one. Gone already: nothing happens.
    pub fn forget(&mut self, connection: &Connection) -> Result<(), NetlinkError> {
        let kind = SUBSYSTEM_CONNTRACK | IPCTNL_MSG_CT_DELETE;
        match self.request(kind, NLM_F_ACK, &connection.key, &mut |_| {}) {
            Err(refusal) if refusal.errno != libc::ENOENT => Err(NetlinkError {
                tried: format!("forget a connection to port {}", connection.to.1),
                refusal,
            }),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn request(
        &mut self,
        kind: u16,
        flags: u16,
        attributes: &[u8],
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Refusal> {
        // Its family, a version and a resource that are always 0.
        let mut body = vec![NFPROTO_IPV4, 0, 0, 0];
        body.extend(attributes);
        self.exchange.ask(kind, flags, &body, each)
    }
}

/// What a [`Monitor`] has heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// These generations of the filter changed the table.
    Changed(Vec<u32>),
    /// More happened than could be remembered: the table may have been changed.
    Lost,
}

/// Hears of every change of one IPv4 table of the packet filter, whoever made it.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
    table: String,
    buffer: Vec<u8>,
    /// The table was changed by a generation whose number is not known yet.
    changed: bool,
}

impl Monitor {
    /// Listen in the calling thread's network namespace. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel has no netfilter, or nobody may listen.
    pub fn open(table: &str) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        socket.set_rx_buf_sz(MONITOR_QUEUE)?;
        socket.add_membership(NFNLGRP_NFTABLES)?;
        // SAFETY: a `Socket` owns one open descriptor as long as it lives, and `AsyncFd` owns the socket: it is closed
        // only after it was taken out of the event loop.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self {
            socket,
            table: table.to_owned(),
            buffer: Vec::with_capacity(BUFFER),
            changed: false,
        })
    }

    /// Wait until the table has changed. Cancel-safe: what was read is given out at once.
    ///
    /// # Errors
    /// The socket is of no use any more.
    pub async fn next(&mut self) -> io::Result<Heard> {
        let Self {
            socket,
            table,
            buffer,
            changed,
        } = self;
        loop {
            let mut ready = socket.readable().await?;
            let (mut generations, mut lost) = (Vec::new(), false);
            loop {
                buffer.clear();
                match again(|| socket.get_ref().recv(buffer, 0)) {
                    Ok(_) => read(buffer, table, changed, &mut generations),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                    Err(error) => return Err(error),
                }
            }
            ready.clear_ready();
            if lost {
                return Ok(Heard::Lost);
            }
            if !generations.is_empty() {
                return Ok(Heard::Changed(generations));
            }
        }
    }
}

/// What one datagram tells: changes first, then the number of the generation that they make.
fn read(datagram: &[u8], table: &str, changed: &mut bool, generations: &mut Vec<u32>) {
    let mut rest = datagram;
    while let Some((message, after)) = split(rest) {
        rest = after;
        if message.kind == SUBSYSTEM_NFTABLES | NFT_MSG_NEWGEN {
            if mem::take(changed) {
                generations.extend(generation_of(message.body));
            }
        } else if message.kind & 0xff00 == SUBSYSTEM_NFTABLES && message.body.first() == Some(&NFPROTO_IPV4) {
            for_each(message.body.get(NFGENMSG..).unwrap_or_default(), |kind, value| {
                let name = value.strip_suffix(&[0]).unwrap_or(value);
                *changed |= kind == NFTA_TABLE && name == table.as_bytes();
            });
        }
    }
}

fn generation_of(body: &[u8]) -> Option<u32> {
    let mut generation = None;
    for_each(body.get(NFGENMSG..)?, |kind, value| {
        if kind == NFTA_GEN_ID {
            generation = u32_at(value, 0).map(u32::from_be);
        }
    });
    generation
}

/// One half of a connection.
#[derive(Default)]
struct Tuple {
    source: Option<Ipv4Addr>,
    destination: Option<Ipv4Addr>,
    protocol: Option<u8>,
    source_port: u16,
    destination_port: u16,
}

fn tuple_of(attributes: &[u8]) -> Tuple {
    let ip = |value: &[u8]| <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
    let port = |value: &[u8]| <[u8; 2]>::try_from(value).map_or(0, u16::from_be_bytes);
    let mut tuple = Tuple::default();
    for_each(attributes, |kind, value| match kind {
        CTA_TUPLE_IP => for_each(value, |kind, value| match kind {
            CTA_IP_V4_SRC => tuple.source = ip(value),
            CTA_IP_V4_DST => tuple.destination = ip(value),
            _ => {}
        }),
        CTA_TUPLE_PROTO => for_each(value, |kind, value| match kind {
            CTA_PROTO_NUM => tuple.protocol = value.first().copied(),
            CTA_PROTO_SRC_PORT => tuple.source_port = port(value),
            CTA_PROTO_DST_PORT => tuple.destination_port = port(value),
            _ => {}
        }),
        _ => {}
    });
    tuple
}

fn connection_of(body: &[u8], protocol: u8) -> Option<Connection> {
    let (mut first, mut answer, mut key) = (None, None, Vec::new());
    for_each(body.get(NFGENMSG..)?, |kind, value| match kind {
        CTA_TUPLE_ORIG => {
            first = Some(tuple_of(value));
            attribute(&mut key, CTA_TUPLE_ORIG | NLA_F_NESTED, value);
        }
        CTA_TUPLE_REPLY => answer = Some(tuple_of(value)),
        CTA_ID | CTA_ZONE => attribute(&mut key, kind, value),
        _ => {}
    });
    let (first, answer) = (first?, answer?);
    (first.protocol == Some(protocol)).then_some(Connection {
        to: (first.destination?, first.destination_port),
        answered_by: (answer.source?, answer.source_port),
        key,
    })
}

/// Append an attribute, padded to four bytes.
fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}
