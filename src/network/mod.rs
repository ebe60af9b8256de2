//! The pods' network: a bridge, a link for each sandbox, and one table of rules.
//!
//! Goes in: an address that the store gave, and the process that holds the pod's network namespace. Comes out: a pod
//! that reaches its own localhost, the host, its neighbours and the outside.
//!
//! **Invariants:** addresses are the store's to give; nothing here remembers one. Only the table named after this
//! agent's bridge is ever touched. A link is never removed where somebody waits: that takes the kernel tens of
//! milliseconds, and the link dies with its namespace anyway.

mod cidr;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

pub use cidr::{Cidr, CidrError};

use crate::linux::netlink::{Netlink, NetlinkError};
use crate::linux::netns;
use crate::model::Uid;

/// The pod's own side of its link.
const INTERFACE: &str = "eth0";
const LOOPBACK: &str = "lo";

/// How the network is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    pub bridge: String,
    pub cidr: Cidr,
}

/// The network of one agent.
#[derive(Debug, Clone)]
pub struct Network {
    config: NetworkConfig,
    bridge: u32,
}

/// The network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("bridge {bridge}")]
    Bridge {
        bridge: String,
        #[source]
        source: NetlinkError,
    },
    #[error("the bridge {bridge} has the address {found}, not {wanted}: another agent's?")]
    ForeignBridge { bridge: String, found: String, wanted: String },
    #[error("network of pod {uid}, sandbox {sandbox}")]
    Attach {
        uid: Uid,
        sandbox: u32,
        #[source]
        source: NetlinkError,
    },
    #[error("network namespace of pod {uid}, sandbox {sandbox}")]
    Namespace {
        uid: Uid,
        sandbox: u32,
        #[source]
        source: io::Error,
    },
    #[error("the thread that asks the kernel panicked")]
    Panicked,
}

impl Network {
    /// Make the bridge with its address and the rules, or find them as an agent before left them.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let wanted = config.clone();
        let bridge = blocking(move || ensure_bridge(&wanted)).await?;
        for (path, value) in [
            ("/proc/sys/net/ipv4/ip_forward".to_owned(), "1"),
            // Without duplicate-address detection a link is usable at once.
            (format!("/proc/sys/net/ipv6/conf/{}/accept_dad", config.bridge), "0"),
        ] {
            if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() != value)
                && let Err(error) = std::fs::write(&path, value)
            {
                tracing::warn!(path, value, %error, "cannot change a network setting");
            }
        }
        let rules = rules(&config);
        if let Err(error) = tokio::task::spawn_blocking(move || nft(&rules)).await.map_err(io::Error::other).flatten() {
            tracing::warn!(%error, "no masquerade: pods reach each other and this machine, but not the outside");
        }
        Ok(Self { config, bridge })
    }

    /// First and last address for pods.
    pub fn pool(&self) -> (Ipv4Addr, Ipv4Addr) {
        self.config.cidr.pool()
    }

    /// The bridge's address: the pods' way out.
    pub fn gateway(&self) -> Ipv4Addr {
        self.config.cidr.gateway()
    }

    /// Connect the namespace of `infra_pid` to the bridge under this address. Connected already: nothing happens.
    pub async fn attach(&self, uid: &Uid, sandbox: u32, infra_pid: i32, ip: Ipv4Addr) -> Result<(), NetworkError> {
        let network = self.clone();
        let uid = uid.clone();
        blocking(move || network.attach_now(&uid, sandbox, infra_pid, ip)).await
    }

    fn attach_now(&self, uid: &Uid, sandbox: u32, infra_pid: i32, ip: Ipv4Addr) -> Result<(), NetworkError> {
        let attach = |source| NetworkError::Attach { uid: uid.clone(), sandbox, source };
        let spaced = |source| NetworkError::Namespace { uid: uid.clone(), sandbox, source };
        let namespace = netns::of_process(infra_pid).map_err(spaced)?;
        let host = link_name(uid, sandbox);
        let mut netlink = Netlink::open().map_err(attach)?;
        let alias = format!("{uid}/{sandbox}");
        let mut add = || netlink.add_veth(&host, &alias, self.bridge, INTERFACE, namespace.as_fd());
        match add() {
            Ok(()) => {}
            Err(error) if error.exists() => {
                let connected = netns::within(&namespace, || Ok(Netlink::open().and_then(|mut n| n.link(INTERFACE))))
                    .map_err(spaced)?;
                if connected.is_err() {
                    // A link of this name whose other end is elsewhere: left by a namespace that is about to go.
                    let mut netlink = Netlink::open().map_err(attach)?;
                    let stale = netlink.link(&host).map_err(attach)?;
                    netlink.remove(stale.index).map_err(attach)?;
                    netlink
                        .add_veth(&host, &alias, self.bridge, INTERFACE, namespace.as_fd())
                        .map_err(attach)?;
                }
            }
            Err(error) => return Err(attach(error)),
        }
        let (gateway, prefix) = (self.gateway(), self.config.cidr.prefix());
        netns::within(&namespace, || Ok(configure(ip, prefix, gateway))).map_err(spaced)?.map_err(attach)
    }
}

/// Inside the pod's namespace: both links up, the address, the way out.
fn configure(ip: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) -> Result<(), NetlinkError> {
    let there = |result: Result<(), NetlinkError>| match result {
        Err(error) if !error.exists() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    };
    let mut netlink = Netlink::open()?;
    let loopback = netlink.link(LOOPBACK)?;
    if !loopback.up {
        netlink.set_up(loopback.index)?;
    }
    let eth0 = netlink.link(INTERFACE)?;
    there(netlink.add_address(eth0.index, ip, prefix))?;
    if !eth0.up {
        netlink.set_up(eth0.index)?;
    }
    there(netlink.add_default_route(gateway))
}

fn ensure_bridge(config: &NetworkConfig) -> Result<u32, NetworkError> {
    let error = |source| NetworkError::Bridge { bridge: config.bridge.clone(), source };
    let mut netlink = Netlink::open().map_err(error)?;
    match netlink.add_bridge(&config.bridge) {
        Err(failed) if !failed.exists() => return Err(error(failed)),
        Ok(()) | Err(_) => {}
    }
    let bridge = netlink.link(&config.bridge).map_err(error)?;
    let wanted = (config.cidr.gateway(), config.cidr.prefix());
    let found = netlink.addresses(bridge.index).map_err(error)?;
    if let Some((ip, prefix)) = found.iter().find(|address| **address != wanted) {
        return Err(NetworkError::ForeignBridge {
            bridge: config.bridge.clone(),
            found: format!("{ip}/{prefix}"),
            wanted: format!("{}/{}", wanted.0, wanted.1),
        });
    }
    if found.is_empty() {
        netlink.add_address(bridge.index, wanted.0, wanted.1).map_err(error)?;
    }
    if !bridge.up {
        netlink.set_up(bridge.index).map_err(error)?;
    }
    Ok(bridge.index)
}

/// The host's side of a sandbox's link: the same name whenever it is asked for, at most 15 characters.
fn link_name(uid: &Uid, sandbox: u32) -> String {
    let digest = Sha256::digest(format!("{uid}/{sandbox}"));
    let hex: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("pd{hex}")
}

/// The whole of our own table: made anew in one transaction, so that running it twice changes nothing.
fn rules(config: &NetworkConfig) -> String {
    let NetworkConfig { bridge, cidr } = config;
    let table = table_name(bridge);
    format!(
        "add table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n\
           chain postrouting {{\n\
             type nat hook postrouting priority srcnat; policy accept;\n\
             ip saddr {cidr} oifname != \"{bridge}\" masquerade\n\
           }}\n\
           chain forward {{\n\
             type filter hook forward priority filter; policy accept;\n\
             iifname \"{bridge}\" accept\n\
             oifname \"{bridge}\" accept\n\
           }}\n\
         }}\n"
    )
}

/// Ends in the bridge's name, so that several agents keep apart.
fn table_name(bridge: &str) -> String {
    format!("podd-{bridge}")
}

fn nft(script: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run nft: {error}")))?;
    if let Some(stdin) = &mut child.stdin {
        stdin.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(NetworkError::Panicked))
}
