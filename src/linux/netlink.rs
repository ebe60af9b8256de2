//! rtnetlink: links, addresses and routes of the calling thread's network namespace.
//!
//! Goes in: names, indices, addresses. Comes out: links and addresses, or the kernel's refusal and what was tried.
//!
//! The socket belongs on a thread of its own, because the kernel's rtnl lock can be held by others for tens of
//! milliseconds.
//!
//! What is sent is built with `netlink-packet-route`; of what comes back only the few attributes that matter are read,
//! so that an exotic interface elsewhere on the machine cannot make listing fail.
//!
//! **Invariant:** a socket stays in the namespace it was opened in, wherever its thread goes.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NetlinkSerializable};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
    InfoVeth, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;

use super::exchange::{Exchange, NetlinkError, Refusal, for_each, text, u32_at};

/// The kernel's index of `lo` in every network namespace.
pub const LOOPBACK: u32 = 1;

// Numbers of linux/rtnetlink.h, linux/if_link.h and linux/if_addr.h that are read here.
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// How often a listing that changed while it was read is read again.
const DUMP_TRIES: usize = 16;

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `bridge`, `veth`, ...; empty for hardware and `lo`.
    pub kind: String,
    /// The index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Of a veth: the index of its other end, in whatever namespace that is.
    pub peer: Option<u32>,
    /// Bytes.
    pub mtu: u32,
    pub up: bool,
    pub alias: Option<String>,
    pub mac: Vec<u8>,
}

/// An IPv4 address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub ip: Ipv4Addr,
    pub prefix: u8,
}

/// A pair of connected interfaces: one here, a port of a bridge; the other made inside another network namespace.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    pub name: &'a str,
    pub alias: &'a str,
    pub bridge: u32,
    /// Bytes, of both ends.
    pub mtu: u32,
    pub peer_name: &'a str,
    pub peer_mac: [u8; 6],
    pub peer_netns: BorrowedFd<'a>,
    /// The machine has IPv6: the end here gets no address of its own.
    pub ipv6: bool,
}

/// An open rtnetlink socket.
#[derive(Debug)]
pub struct Netlink {
    exchange: Exchange,
}

impl Netlink {
    /// Open a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let exchange = Exchange::open(NETLINK_ROUTE, "rtnetlink")?;
        Ok(Self { exchange })
    }

    /// The interface of this name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut found = None;
        match self.request(&RouteNetlinkMessage::GetLink(message), NLM_F_ACK, &mut |body| {
            found = parse_link(body);
        }) {
            Ok(_) => Ok(found),
            Err(refusal) if refusal.errno == libc::ENODEV => Ok(None),
            Err(refusal) => Err(NetlinkError {
                tried: format!("look up link {name}"),
                refusal,
            }),
        }
    }

    /// Every interface.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.dump(&RouteNetlinkMessage::GetLink(message), parse_link)
            .map_err(|refusal| NetlinkError {
                tried: "list links".to_owned(),
                refusal,
            })
    }

    /// Every IPv4 address.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        self.dump(&RouteNetlinkMessage::GetAddress(message), parse_address)
            .map_err(|refusal| NetlinkError {
                tried: "list addresses".to_owned(),
                refusal,
            })
    }

    /// Make a bridge that is down. Its hardware address is given and stays, whatever ports come and go: neighbours
    /// would have to learn a changed one anew.
    pub fn add_bridge(&mut self, name: &str, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        self.act(
            &RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            || format!("make bridge {name}"),
        )
    }

    /// Set an interface up. Up already: nothing happens.
    pub fn set_up(&mut self, link: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = link;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.act(&RouteNetlinkMessage::SetLink(message), 0, || {
            format!("set link {link} up")
        })
    }

    /// Give an interface an address. It has it already: nothing happens.
    pub fn add_address(&mut self, link: u32, ip: Ipv4Addr, prefix: u8) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = link;
        let broadcast = Ipv4Addr::from_bits(ip.to_bits() | u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0));
        message.attributes.push(AddressAttribute::Local(ip.into()));
        message.attributes.push(AddressAttribute::Address(ip.into()));
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
        self.act(
            &RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            || format!("give link {link} the address {ip}/{prefix}"),
        )
    }

    /// Route everything without a better route through `gateway`. Done already: nothing happens.
    pub fn add_default_route(&mut self, link: u32, gateway: Ipv4Addr) -> Result<(), NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message
            .attributes
            .push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        message.attributes.push(RouteAttribute::Oif(link));
        self.act(
            &RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            || format!("make the default route through {gateway}"),
        )
    }

    /// Make a veth pair in one message, the other end inside its namespace; then name this end's purpose and set it up.
    /// The other end cannot be set up by the same message (`ENOTCONN`: it is not tied to this one yet).
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        let mut peer = LinkMessage::default();
        peer.attributes.push(LinkAttribute::IfName(veth.peer_name.to_owned()));
        peer.attributes.push(LinkAttribute::Address(veth.peer_mac.to_vec()));
        peer.attributes.push(LinkAttribute::Mtu(veth.mtu));
        peer.attributes
            .push(LinkAttribute::NetNsFd(veth.peer_netns.as_raw_fd()));
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(veth.name.to_owned()));
        message.attributes.push(LinkAttribute::Mtu(veth.mtu));
        message.attributes.push(LinkAttribute::Controller(veth.bridge));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let name = veth.name;
        self.act(
            &RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            || {
                format!(
                    "make link {name} with {} in the pod's network namespace",
                    veth.peer_name
                )
            },
        )?;

        // The kernel takes neither of these when it makes a link.
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::IfAlias(veth.alias.to_owned()));
        if veth.ipv6 {
            let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
            message
                .attributes
                .push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]));
        }
        self.act(&RouteNetlinkMessage::SetLink(message), 0, || {
            format!("set link {name} up")
        })
    }

    /// Let a bridge send what is for a hardware address to this port of it, whoever had that address before and whoever
    /// else claims it later.
    pub fn forward_to_port(&mut self, port: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = port;
        // Not aged, and accepted before the port forwards.
        message.header.state = NeighbourState::Noarp;
        message.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.act(
            &RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            || format!("tell the bridge who is behind its port {port}"),
        )
    }

    /// Let a bridge send a frame back through the port of this name that it came from. Done already: nothing happens.
    pub fn reflect(&mut self, port: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(port.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
        ]));
        self.act(&RouteNetlinkMessage::NewLink(message), 0, || {
            format!("let the bridge answer through its port {port}")
        })
    }

    /// Delete an interface; with a veth its other end goes too. Not there: `Ok(false)`.
    ///
    /// Deleting a veth takes tens of milliseconds, in which the kernel changes no other link.
    pub fn delete_link(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.act(&RouteNetlinkMessage::DelLink(message), 0, || {
            format!("delete link {name}")
        }) {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn act(
        &mut self,
        message: &RouteNetlinkMessage,
        flags: u16,
        tried: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        match self.request(message, NLM_F_ACK | flags, &mut |_| {}) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(NetlinkError {
                tried: tried(),
                refusal,
            }),
        }
    }

    fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        for _ in 0..DUMP_TRIES {
            let mut found = Vec::new();
            let consistent = self.request(message, NLM_F_DUMP, &mut |body| found.extend(parse(body)))?;
            if consistent {
                return Ok(found);
            }
        }
        Err(Refusal {
            errno: libc::EAGAIN,
            words: Some("it changes all the time".to_owned()),
        })
    }

    fn request(
        &mut self,
        message: &RouteNetlinkMessage,
        flags: u16,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, Refusal> {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        self.exchange.ask(message.message_type(), flags, &body, each)
    }
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let up = u32_at(body, 8)? & libc::IFF_UP.cast_unsigned() != 0;
    let mut link = Link {
        index: u32_at(body, 4)?,
        up,
        ..Link::default()
    };
    for_each(body.get(IFINFOMSG..)?, |kind, value| match kind {
        IFLA_ADDRESS => link.mac = value.to_vec(),
        IFLA_IFNAME => link.name = text(value),
        IFLA_MTU => link.mtu = u32_at(value, 0).unwrap_or_default(),
        IFLA_LINK => link.peer = u32_at(value, 0),
        IFLA_MASTER => link.master = u32_at(value, 0),
        IFLA_IFALIAS => link.alias = Some(text(value)),
        IFLA_LINKINFO => for_each(value, |kind, value| {
            if kind == IFLA_INFO_KIND {
                link.kind = text(value);
            }
        }),
        _ => {}
    });
    Some(link)
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let (prefix, link) = (*body.get(1)?, u32_at(body, 4)?);
    let mut ip = None;
    for_each(body.get(IFADDRMSG..)?, |kind, value| {
        if kind == IFA_LOCAL {
            ip = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
        }
    });
    Some(Address { link, ip: ip?, prefix })
}
