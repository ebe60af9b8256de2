//! Links, addresses and routes, asked of the kernel over rtnetlink.
//!
//! Goes in: names, indexes, addresses. Comes out: nothing, or the kernel's error with what was asked of it.
//!
//! Each call is one message and its acknowledgement on a blocking socket: there is no task to keep and no reactor to be
//! in, so a socket can be opened inside a namespace and used there. Callers run it where blocking is allowed; the
//! kernel answers at once.
//!
//! **Invariant:** nothing here knows what a pod is.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// The kernel refused, or could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct NetlinkError {
    pub action: String,
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    /// The error number the kernel gave.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
    pub fn exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
    pub fn no_such_link(&self) -> bool {
        self.errno() == Some(libc::ENODEV)
    }
}

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Index of the bridge it belongs to.
    pub master: Option<u32>,
    /// Any text its maker gave it.
    pub alias: Option<String>,
    pub up: bool,
}

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open()
            .map_err(|source| NetlinkError { action: "open a route netlink socket".to_owned(), source })?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; 64 << 10] })
    }

    /// The link of this name.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let found = self.ask(&format!("find the link {name}"), RouteNetlinkMessage::GetLink(message), 0)?;
        found.into_iter().find_map(link_of).ok_or_else(|| NetlinkError {
            action: format!("find the link {name}"),
            source: io::Error::from_raw_os_error(libc::ENODEV),
        })
    }

    /// All links of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        Ok(self.ask("list the links", message, NLM_F_DUMP)?.into_iter().filter_map(link_of).collect())
    }

    /// Make a bridge; `exists()` tells when there is a link of that name.
    pub fn add_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.change(&format!("make the bridge {name}"), RouteNetlinkMessage::NewLink(message))
    }

    /// Make a pair of links in one message: `host` here, up and part of the bridge; `peer` inside `namespace`.
    pub fn add_veth(
        &mut self,
        host: &str,
        alias: &str,
        bridge: u32,
        peer: &str,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        let mut inside = LinkMessage::default();
        inside.attributes.push(LinkAttribute::IfName(peer.to_owned()));
        inside.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::IfName(host.to_owned()));
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        message.attributes.push(LinkAttribute::Controller(bridge));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inside))),
        ]));
        self.change(&format!("make the link {host}"), RouteNetlinkMessage::NewLink(message))
    }

    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(&format!("bring up link {index}"), RouteNetlinkMessage::SetLink(message))
    }

    /// Remove a link. Takes tens of milliseconds: never where somebody waits.
    pub fn remove(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.change(&format!("remove link {index}"), RouteNetlinkMessage::DelLink(message))
    }

    /// Give a link an address; `exists()` tells when it has it.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = index;
        let broadcast = Ipv4Addr::from(u32::from(address) | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0));
        message.attributes.push(AddressAttribute::Local(IpAddr::V4(address)));
        message.attributes.push(AddressAttribute::Address(IpAddr::V4(address)));
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
        self.change(&format!("give {address}/{prefix} to link {index}"), RouteNetlinkMessage::NewAddress(message))
    }

    /// The IPv4 addresses of a link, with their prefix lengths.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<(Ipv4Addr, u8)>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let action = format!("list the addresses of link {index}");
        let answers = self.ask(&action, RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(found) if found.header.index == index => {
                    found.attributes.iter().find_map(|attribute| match attribute {
                        AddressAttribute::Local(IpAddr::V4(ip)) => Some((*ip, found.header.prefix_len)),
                        _ => None,
                    })
                }
                _ => None,
            })
            .collect())
    }

    /// The route for everything that is not near.
    pub fn add_default_route(&mut self, gateway: Ipv4Addr) -> Result<(), NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        self.change(&format!("route everything through {gateway}"), RouteNetlinkMessage::NewRoute(message))
    }

    /// One message that changes something, and its acknowledgement.
    fn change(&mut self, action: &str, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        let flags = match &message {
            RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::NewRoute(_) => NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            _ => NLM_F_ACK,
        };
        self.ask(action, message, flags).map(drop)
    }

    fn ask(
        &mut self,
        action: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.try_ask(message, flags).map_err(|source| NetlinkError { action: action.to_owned(), source })
    }

    fn try_ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        // A request for one object is answered with it alone, a change with its acknowledgement, a dump with many
        // messages and an end.
        let one = flags & (NLM_F_ACK | NLM_F_DUMP) == 0;
        let mut answers = Vec::new();
        loop {
            let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            let mut rest = &self.buffer[..length];
            while rest.len() >= NETLINK_HEADER {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                let step = usize::try_from(answer.header.length).unwrap_or(rest.len()).next_multiple_of(4);
                let ours = answer.header.sequence_number == self.sequence;
                match answer.payload {
                    _ if !ours => {}
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(inner) => {
                        answers.push(inner);
                        if one {
                            return Ok(answers);
                        }
                    }
                    _ => {}
                }
                rest = rest.get(step..).unwrap_or_default();
            }
        }
    }
}

/// `struct nlmsghdr` (netlink(7)).
const NETLINK_HEADER: usize = 16;

fn link_of(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        master: None,
        alias: None,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            _ => {}
        }
    }
    Some(link)
}
