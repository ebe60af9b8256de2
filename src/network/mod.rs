//! The pods' network: a bridge, one address a pod, and the way to the outside.
//!
//! Goes in: a range of addresses, for each sandbox the process that holds its network namespace, and the ports of the
//! machine that pods want. Comes out: `eth0` inside, with its address and a default route, joined to the bridge;
//! masquerading and ports through an nftables table of our own.
//!
//! * The host's end of each link is named after the sandbox (`pd` and 12 hex digits) and carries `<uid>/<attempt>` as
//!   its alias. Nobody deletes it in the ordinary course: it dies with the pod's namespace, and deleting a link takes
//!   the kernel tens of milliseconds.
//! * The hardware addresses follow from the IP addresses, so that a sandbox made anew is found by everybody who knew
//!   the old one; and the bridge is told at once which port has it, because the old namespace may linger for a while.
//! * Pods and bridge take no IPv6 router advertisements: any pod could send them (CVE-2020-10749). Inside there is
//!   `::1` and a link-local address, no more.
//! * Reverse-path filtering, in either mode, lets all of this pass. Where `br_netfilter` is loaded and another program
//!   drops forwarded packets, it drops those between pods too; `podd doctor` says so.
//! * With the host's network there is nothing to do.
//!
//! **Invariant:** no link, address, route or rule is touched but the bridge, its own ports and its own table; of the
//! packet filter's connections none is forgotten but those to ports of pods. One system setting
//! (`net.ipv4.ip_forward`) is changed, and that is logged.

mod cidr;
mod ports;
pub(crate) mod rules;
#[cfg(test)]
mod tests;
mod worker;

use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use tokio::task::AbortHandle;

pub use cidr::{Cidr, CidrError};
pub use ports::PodPorts;
pub use rules::RulesError;

use self::ports::{Filter, Wanted};
use self::worker::{Tools, Worker};
use crate::linux::exchange::NetlinkError;
use crate::linux::netlink::{LOOPBACK, Link, Netlink, Veth};
use crate::linux::netns::{self, VisitError};
use crate::linux::nfnetlink::Monitor;
use crate::model::Uid;

/// What a pod's interface is called inside.
const INSIDE: &str = "eth0";
/// How the names of our links begin.
const LINK_PREFIX: &str = "pd";

/// What the network of one agent is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// At most 15 characters (Linux `IFNAMSIZ`).
    pub bridge: String,
    pub cidr: Cidr,
}

/// The network of one agent. Clones share it.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    worker: Worker,
    masquerades: AtomicBool,
    wanted: Mutex<Wanted>,
    /// Held while `nft` runs.
    filter: Mutex<Filter>,
    /// What looks after the table.
    watch: Option<AbortHandle>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

/// The host's end of a pod's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    pub uid: Uid,
    pub sandbox: u32,
    pub name: String,
}

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("the network's thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("the network's thread ended unexpectedly")]
    ThreadEnded,
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("{name} is no bridge but a network interface of kind {kind:?}: choose another name with --bridge")]
    NotABridge { name: String, kind: String },
    #[error(
        "{cidr} overlaps {other}, the network of interface {link}: choose another range with --pod-cidr, or remove \
         the interface"
    )]
    Overlap { cidr: Cidr, other: String, link: String },
    #[error("{ip} is not an address for a pod of {cidr}")]
    NotInPool { ip: Ipv4Addr, cidr: Cidr },
    #[error("bridge {name} is gone")]
    NoBridge { name: String },
    #[error("cannot reach the network namespace of infra process {pid}")]
    Infra {
        pid: i32,
        #[source]
        source: io::Error,
    },
    #[error("cannot work in the network namespace of infra process {pid}")]
    Visit {
        pid: i32,
        #[source]
        source: VisitError,
    },
    #[error("a link that was just made is not there")]
    NoInterface,
    #[error("cannot write {}", path.display())]
    Setting {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot remove the packet filter's table")]
    Rules(#[source] RulesError),
    #[error("cannot map host ports")]
    Ports(#[source] RulesError),
}

impl Network {
    /// Make what is missing: the bridge with the gateway's address, forwarding, the packet filter's table, in which
    /// `ports` lead to pods from the beginning (of two that want one port, the one that stands later has it).
    ///
    /// Without nftables pods reach each other and the host all the same, and there is a warning. Must be called within a
    /// tokio runtime.
    pub async fn open(config: NetworkConfig, ports: Vec<PodPorts>) -> Result<Self, NetworkError> {
        let worker = Worker::start()?;
        // Before the table is made, so that no change after that is missed.
        let monitor = Monitor::open(&rules::table(&config.bridge));
        let monitor = monitor.inspect_err(|error| tracing::warn!(%error, "the packet filter cannot be watched"));
        let inner = Arc::new_cyclic(|inner| Inner {
            watch: monitor
                .ok()
                .map(|monitor| tokio::spawn(ports::watch(monitor, inner.clone())).abort_handle()),
            worker,
            masquerades: AtomicBool::new(false),
            wanted: Mutex::new(Wanted::new(ports)),
            filter: Mutex::new(Filter::new(config.clone())),
            config,
        });
        let network = Self { inner };
        network.repair().await?;
        Ok(network)
    }

    /// The same as at opening: whatever somebody removed is made again. Pods keep their links, if the bridge is there.
    pub async fn repair(&self) -> Result<(), NetworkError> {
        let config = self.inner.config.clone();
        self.inner
            .worker
            .run(move |tools| {
                make_bridge(&mut tools.netlink, &config)?;
                forward();
                Ok(())
            })
            .await?;
        let made = self.inner.filter(|filter, ports| {
            filter.doubt();
            (filter.settle(ports), filter.is_made())
        });
        let (settled, masquerades) = made.await?;
        if let Err(error) = settled {
            let cause = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            let without = if masquerades {
                "pods have no ports of this machine"
            } else {
                "pods do not reach the outside and have no ports of this machine"
            };
            tracing::warn!(%error, cause, "{without}: nftables cannot be used");
        }
        self.inner.masquerades.store(masquerades, Ordering::Relaxed);
        Ok(())
    }

    /// Whether pods reach the outside under the machine's address.
    pub fn masquerades(&self) -> bool {
        self.inner.masquerades.load(Ordering::Relaxed)
    }

    /// First and last address for pods.
    pub fn pool(&self) -> (Ipv4Addr, Ipv4Addr) {
        self.inner.config.cidr.pool()
    }

    /// The bridge's address: the machine, as its pods see it.
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.config.cidr.gateway()
    }

    /// Give the namespace of `infra_pid` its loopback, its `eth0` with this address, and a default route.
    ///
    /// Done already: nothing happens. Half done: the rest is done. A link of an older namespace in its place goes.
    pub async fn attach(&self, uid: &Uid, sandbox: u32, infra_pid: i32, ip: Ipv4Addr) -> Result<(), NetworkError> {
        let config = self.inner.config.clone();
        let (first, last) = config.cidr.pool();
        if ip < first || ip > last {
            return Err(NetworkError::NotInPool { ip, cidr: config.cidr });
        }
        let name = link_name(uid, sandbox);
        let alias = format!("{uid}/{sandbox}");
        self.inner
            .worker
            .run(move |tools| attach(tools, &config, &name, &alias, infra_pid, ip))
            .await
    }

    /// Every link of a pod that is on the bridge.
    pub async fn links(&self) -> Result<Vec<PodLink>, NetworkError> {
        let bridge = self.inner.config.bridge.clone();
        self.inner
            .worker
            .run(move |tools| pod_links(&mut tools.netlink, &bridge))
            .await
    }

    /// Delete the link of a sandbox whose namespace does not go. Not there: nothing happens.
    ///
    /// Slow (tens of milliseconds): an ordinary link dies with its namespace.
    pub async fn remove_link(&self, uid: &Uid, sandbox: u32) -> Result<(), NetworkError> {
        let name = link_name(uid, sandbox);
        self.inner
            .worker
            .run(move |tools| Ok(tools.netlink.delete_link(&name).map(drop)?))
            .await
    }

    /// Remove links, bridge and table. Only on request: an agent that ends leaves its pods connected.
    pub async fn close(&self) -> Result<(), NetworkError> {
        let removed = self.inner.filter(|filter, _ports| match filter.remove() {
            Ok(()) | Err(RulesError::Absent) => Ok(()),
            Err(error) => Err(NetworkError::Rules(error)),
        });
        removed.await??;
        let bridge = self.inner.config.bridge.clone();
        self.inner
            .worker
            .run(move |tools| {
                for link in pod_links(&mut tools.netlink, &bridge)? {
                    tools.netlink.delete_link(&link.name)?;
                }
                tools.netlink.delete_link(&bridge)?;
                Ok(())
            })
            .await
    }
}

/// `pd` and 12 hex digits: an interface's name has 15 characters at most.
fn link_name(uid: &Uid, sandbox: u32) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(format!("{uid}/{sandbox}"));
    digest.iter().take(6).fold(LINK_PREFIX.to_owned(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

/// A locally administered hardware address that follows from an IPv4 address.
fn mac(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

fn bridge_of(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, NetworkError> {
    match netlink.link(name)? {
        Some(link) if link.kind != "bridge" => Err(NetworkError::NotABridge {
            name: name.to_owned(),
            kind: link.kind,
        }),
        found => Ok(found),
    }
}

fn make_bridge(netlink: &mut Netlink, config: &NetworkConfig) -> Result<(), NetworkError> {
    let NetworkConfig { bridge: name, cidr } = config;
    let existing = bridge_of(netlink, name)?;
    let own = existing.as_ref().map(|link| link.index);
    let addresses = netlink.addresses()?;
    for address in addresses
        .iter()
        .filter(|a| Some(a.link) != own && cidr.overlaps(a.ip, a.prefix))
    {
        let links = netlink.links()?;
        let link = links
            .into_iter()
            .find(|link| link.index == address.link)
            .map(|link| link.name);
        let link = link.unwrap_or_else(|| address.link.to_string());
        let other = format!("{}/{}", address.ip, address.prefix);
        if address.prefix >= cidr.prefix() || cidr.contains(address.ip) {
            return Err(NetworkError::Overlap {
                cidr: *cidr,
                other,
                link,
            });
        }
        tracing::warn!(%cidr, %link, network = %other, "hosts of this network with addresses of pods are hidden by them");
    }
    let bridge = if let Some(bridge) = existing {
        bridge
    } else {
        netlink.add_bridge(name, mac(cidr.gateway()))?;
        tracing::info!(bridge = %name, %cidr, "made the pods' bridge");
        bridge_of(netlink, name)?.ok_or_else(|| NetworkError::NoBridge { name: name.clone() })?
    };
    for old in addresses
        .iter()
        .filter(|a| a.link == bridge.index && a.ip != cidr.gateway())
    {
        tracing::warn!(bridge = %name, address = %old.ip, prefix = old.prefix, "the bridge has another address too");
    }
    let accept_ra = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"));
    set_ipv6(accept_ra)?;
    netlink.add_address(bridge.index, cidr.gateway(), cidr.prefix())?;
    netlink.set_up(bridge.index)?;
    Ok(())
}

/// Turn a setting of IPv6 off. A machine without IPv6 does not have it.
fn set_ipv6(path: PathBuf) -> Result<(), NetworkError> {
    // Not fs::write, which would try to make a file that is not there.
    match fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(b"0"))
    {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(NetworkError::Setting { path, source }),
    }
}

/// Packets pass from one interface of the machine to another.
fn forward() {
    const PATH: &str = "/proc/sys/net/ipv4/ip_forward";
    match fs::read_to_string(PATH) {
        Ok(value) if value.trim() != "0" => {}
        Ok(_) => match fs::write(PATH, "1") {
            Ok(()) => tracing::info!("net.ipv4.ip_forward was 0: it is 1 now, so that pods reach the outside"),
            Err(error) => {
                tracing::warn!(%error, "pods do not reach the outside: net.ipv4.ip_forward is 0 and cannot be set");
            }
        },
        Err(error) => tracing::warn!(%error, "cannot read {PATH}"),
    }
}

fn attach(
    tools: &mut Tools,
    config: &NetworkConfig,
    name: &str,
    alias: &str,
    pid: i32,
    ip: Ipv4Addr,
) -> Result<(), NetworkError> {
    let bridge = bridge_of(&mut tools.netlink, &config.bridge)?.ok_or_else(|| NetworkError::NoBridge {
        name: config.bridge.clone(),
    })?;
    let netns = netns::of_process(pid).map_err(|source| NetworkError::Infra { pid, source })?;
    let ipv6 = has_ipv6();
    let visit = tools.home.visit(netns.as_fd(), || {
        if ipv6 {
            // Interfaces made from now on take this over.
            set_ipv6(PathBuf::from("/proc/sys/net/ipv6/conf/default/accept_ra"))?;
        }
        Ok::<_, NetworkError>(Netlink::open()?)
    });
    if let Err(VisitError::Return(_)) = &visit {
        tools.lost = true;
    }
    let mut inside = visit.map_err(|source| NetworkError::Visit { pid, source })??;

    let veth = Veth {
        name,
        alias,
        bridge: bridge.index,
        mtu: bridge.mtu,
        peer_name: INSIDE,
        peer_mac: mac(ip),
        peer_netns: netns.as_fd(),
        ipv6,
    };
    match tools.netlink.add_veth(&veth) {
        Ok(()) => {}
        Err(error) if error.exists() => join(&mut tools.netlink, &mut inside, &veth)?,
        Err(error) => return Err(error.into()),
    }
    let eth0 = inside.link(INSIDE)?.ok_or(NetworkError::NoInterface)?;
    inside.set_up(LOOPBACK)?;
    inside.add_address(eth0.index, ip, config.cidr.prefix())?;
    inside.set_up(eth0.index)?;
    inside.add_default_route(eth0.index, config.cidr.gateway())?;
    // Nothing passes a link until the kernel's own worker has seen that both ends are up (nor a bridge until it has seen
    // its first port), and what is sent before is lost: a first connection would wait a second. Being asked about a
    // link, the kernel (6.8 and later) looks at once.
    inside.link(INSIDE)?;
    let port = tools.netlink.link(name)?.ok_or(NetworkError::NoInterface)?;
    tools.netlink.link(&config.bridge)?;
    tools.netlink.forward_to_port(port.index, veth.peer_mac)?;
    Ok(())
}

/// A link of this name is there: keep it, if it leads from our bridge to this pod's `eth0`, or make it anew.
fn join(outside: &mut Netlink, inside: &mut Netlink, veth: &Veth<'_>) -> Result<(), NetworkError> {
    let ours = outside.link(veth.name)?;
    let eth0 = inside.link(INSIDE)?;
    if let (Some(ours), Some(eth0)) = (&ours, &eth0) {
        let a_pair = ours.kind == "veth" && ours.peer == Some(eth0.index) && eth0.peer == Some(ours.index);
        if a_pair && ours.master == Some(veth.bridge) && ours.up && ours.alias.as_deref() == Some(veth.alias) {
            return Ok(());
        }
    }
    tracing::info!(
        link = veth.name,
        pod = veth.alias,
        "a stale link is in the way: it is made anew"
    );
    outside.delete_link(veth.name)?;
    Ok(outside.add_veth(veth)?)
}

fn pod_links(netlink: &mut Netlink, bridge: &str) -> Result<Vec<PodLink>, NetworkError> {
    let Some(bridge) = bridge_of(netlink, bridge)? else {
        return Ok(Vec::new());
    };
    let links = netlink
        .links()?
        .into_iter()
        .filter(|link| link.kind == "veth" && link.master == Some(bridge.index));
    Ok(links.filter_map(pod_link).collect())
}

/// Whose link it is. One that was made a moment before its agent was killed may have no alias yet: attaching the same
/// sandbox again finds it by its name.
fn pod_link(link: Link) -> Option<PodLink> {
    let (uid, sandbox) = link.alias.as_deref()?.split_once('/')?;
    let (uid, sandbox) = (Uid(uid.to_owned()), sandbox.parse().ok()?);
    (link.name == link_name(&uid, sandbox)).then_some(PodLink {
        uid,
        sandbox,
        name: link.name,
    })
}
