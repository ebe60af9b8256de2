//! Ports of the machine that lead to pods (`hostPort`).
//!
//! Goes in: which pod wants which ports. Comes out: the packet filter's table with exactly these, now and after somebody
//! has changed it, and a table of connections that agrees with it.
//!
//! * What is wanted is kept in memory; the agent tells all of it at its start, before the table is made for the first
//!   time, so that no port is ever closed by a new agent. Whoever waits while `nft` runs is served by the next run, all
//!   at once.
//! * Two pods that want one port: the later one has it (admission lets only one of them run at a time; the other has
//!   ended, and goes).
//! * The kernel tells of each change of our table, with the number of its transaction. Those that were not ours have
//!   the table made anew. Which ones were ours is known, because the kernel is asked for the number before and after.
//! * A connection keeps to where its first packet was led, whatever the rules say later. For TCP that is right, unless
//!   the pod is gone; with UDP a client that goes on sending would never reach the new pod. So what does not agree with
//!   a changed port is forgotten.
//!
//! **Invariant:** a port leads to the pod that wants it or nowhere: a pod's ports are closed before its address is free.

use std::collections::VecDeque;
use std::fs;
use std::mem;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::rules::{self, Mapping, Port, RulesError};
use super::{Inner, Network, NetworkConfig, NetworkError, link_name};
use crate::linux::exchange::NetlinkError;
use crate::linux::netlink::Netlink;
use crate::linux::nfnetlink::{Connection, Heard, Monitor, Nfnetlink};
use crate::model::{HostPort, Protocol, Uid};

/// Somebody who changes rules changes many: so long nothing has to have happened before ours are looked after.
const QUIET: Duration = Duration::from_millis(50);
/// The table is not made anew more often than this, whatever somebody does to it; and so soon it is tried again.
const PACE: Duration = Duration::from_secs(1);
/// How many of our own transactions are remembered until the kernel's word of them is heard.
const REMEMBERED: usize = 64;

/// What one pod wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPorts {
    pub uid: Uid,
    /// The pod's own address.
    pub ip: Ipv4Addr,
    /// Of two that are the same port of the machine the first counts.
    pub ports: Vec<HostPort>,
}

/// What all pods want.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// The later one has what two want.
    pods: Vec<PodPorts>,
}

impl Wanted {
    pub(super) fn new(pods: Vec<PodPorts>) -> Self {
        Self { pods }
    }

    /// A pod that wants the same as before keeps its place.
    fn set(&mut self, pod: PodPorts) {
        if !self.pods.contains(&pod) {
            self.remove(&pod.uid);
            self.pods.push(pod);
        }
    }

    /// False: it had none.
    fn remove(&mut self, uid: &Uid) -> bool {
        let before = self.pods.len();
        self.pods.retain(|pod| pod.uid != *uid);
        self.pods.len() < before
    }

    fn mapping(&self) -> Mapping {
        let mut mapping = Mapping::new();
        for pod in self.pods.iter().rev() {
            for port in &pod.ports {
                let HostPort {
                    host_ip,
                    host_port,
                    container_port,
                    protocol,
                } = port;
                let ip = match host_ip {
                    None => None,
                    Some(IpAddr::V4(ip)) => Some(*ip),
                    // Pods have none; admission has said so.
                    Some(IpAddr::V6(_)) => continue,
                };
                let key = Port {
                    protocol: *protocol,
                    ip,
                    number: *host_port,
                };
                mapping.entry(key).or_insert((pod.ip, *container_port));
            }
        }
        mapping
    }
}

/// Transactions of the packet filter that were our own.
#[derive(Debug, Default)]
struct Own {
    /// Generations before and after; one of those between is ours.
    spans: VecDeque<(u32, u32)>,
}

impl Own {
    fn note(&mut self, before: u32, after: u32) {
        if self.spans.len() == REMEMBERED {
            self.spans.pop_front();
        }
        self.spans.push_back((before, after));
    }

    /// Whether this one was ours. Each is asked about once, for the kernel tells of each once.
    fn is(&mut self, generation: u32) -> bool {
        let within = |(before, after): &(u32, u32)| {
            generation.wrapping_sub(*before).wrapping_sub(1) < after.wrapping_sub(*before)
        };
        let span = self.spans.iter().position(within);
        span.is_some_and(|at| self.spans.remove(at).is_some())
    }
}

/// The packet filter, as we left it. To be used on a thread that may block.
#[derive(Debug)]
pub(super) struct Filter {
    config: NetworkConfig,
    /// `None`: nobody knows.
    applied: Option<Mapping>,
    /// `nft` was there, once.
    able: bool,
    own: Own,
    /// `None`: the kernel has no nftables, as `nft` will say in its own words.
    nfnetlink: Option<Nfnetlink>,
}

impl Filter {
    /// In the calling thread's network namespace.
    pub(super) fn new(config: NetworkConfig) -> Self {
        Self {
            config,
            applied: None,
            able: false,
            own: Own::default(),
            nfnetlink: Nfnetlink::open().ok(),
        }
    }

    /// Whether the table is there, with its ports or without.
    pub(super) fn is_made(&self) -> bool {
        self.applied.is_some()
    }

    /// Somebody may have changed the table.
    pub(super) fn doubt(&mut self) {
        self.applied = None;
    }

    /// Make it so. Already so: nothing happens.
    pub(super) fn settle(&mut self, ports: &Mapping) -> Result<(), RulesError> {
        if self.applied.as_ref() == Some(ports) {
            return Ok(());
        }
        let known = self.applied.take();
        if ports.is_empty() {
            // Before the guard goes.
            self.route_localnet(false);
        }
        let NetworkConfig { bridge, cidr } = self.config.clone();
        let done = self.transaction(|| rules::apply(&bridge, cidr, known.as_ref(), ports));
        let done = match (done, &known) {
            (Err(RulesError::Refused { words }), Some(_)) => {
                tracing::info!(words, "the packet filter's table is not as it was: it is made anew");
                self.transaction(|| rules::apply(&bridge, cidr, None, ports))
            }
            (done, _) => done,
        };
        if let Err(error) = done {
            // A kernel that cannot map ports masquerades all the same.
            let none = Mapping::new();
            if !ports.is_empty() && self.transaction(|| rules::apply(&bridge, cidr, None, &none)).is_ok() {
                self.applied = Some(none);
            }
            return Err(error);
        }
        if !ports.is_empty() && known.as_ref().is_none_or(Mapping::is_empty) {
            self.route_localnet(true);
        }
        let changed = |port: &Port| known.as_ref().is_none_or(|known| known.get(port) != ports.get(port));
        let mut changed: Vec<_> = ports
            .keys()
            .chain(known.iter().flat_map(Mapping::keys))
            .filter(|port| changed(port))
            .map(|port| (port.protocol, port.number))
            .collect();
        changed.sort_unstable();
        changed.dedup();
        if let Err(error) = self.forget_others(&changed, ports) {
            tracing::warn!(
                %error,
                cause = %error.refusal,
                "connections to ports of the machine may go on to pods that had them before"
            );
        }
        self.applied = Some(ports.clone());
        Ok(())
    }

    /// Remove the table.
    pub(super) fn remove(&mut self) -> Result<(), RulesError> {
        self.applied = None;
        self.route_localnet(false);
        let bridge = self.config.bridge.clone();
        self.transaction(|| rules::remove(&bridge))
    }

    /// Whether all of these changes of the table were our own.
    fn knows(&mut self, heard: &Heard) -> bool {
        match heard {
            Heard::Lost => false,
            // Each is asked about, for each may be asked about only once.
            Heard::Changed(generations) => {
                generations
                    .iter()
                    .filter(|generation| !self.own.is(**generation))
                    .count()
                    == 0
            }
        }
    }

    /// Run one transaction and remember that it was ours.
    fn transaction(&mut self, run: impl FnOnce() -> Result<(), RulesError>) -> Result<(), RulesError> {
        let before = self.generation();
        let done = run();
        self.able |= done.is_ok();
        if let (Ok(()), Some(before), Some(after)) = (&done, before, self.generation()) {
            self.own.note(before, after);
        }
        done
    }

    fn generation(&mut self) -> Option<u32> {
        self.nfnetlink.as_mut()?.generation().ok()
    }

    /// Whether packets from 127.0.0.0/8 may leave through the bridge.
    fn route_localnet(&self, may: bool) {
        let path = format!("/proc/sys/net/ipv4/conf/{}/route_localnet", self.config.bridge);
        let value = if may { "1" } else { "0" };
        let set = || match fs::read_to_string(&path) {
            Ok(is) if is.trim() == value => Ok(()),
            Ok(_) => fs::write(&path, value),
            // Without a bridge there is nothing to forbid.
            Err(_) if !may => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = set() {
            tracing::warn!(%error, path, "ports of pods do not answer on 127.0.0.1");
        }
    }

    /// Forget each connection to one of these ports that the rules would lead elsewhere today.
    fn forget_others(&mut self, changed: &[(Protocol, u16)], ports: &Mapping) -> Result<(), NetlinkError> {
        let (Some(nfnetlink), false) = (&mut self.nfnetlink, changed.is_empty()) else {
            return Ok(());
        };
        let own: Vec<Ipv4Addr> = Netlink::open()?.addresses()?.iter().map(|address| address.ip).collect();
        for (protocol, number) in changed {
            for connection in nfnetlink.connections(ip_number(*protocol), *number)? {
                if is_stale(&connection, *protocol, ports, &self.config, &own) {
                    nfnetlink.forget(&connection)?;
                }
            }
        }
        Ok(())
    }
}

/// The protocol's number in IP.
fn ip_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Whether a connection goes elsewhere than a new one would. `own`: the machine's addresses.
fn is_stale(
    connection: &Connection,
    protocol: Protocol,
    ports: &Mapping,
    config: &NetworkConfig,
    own: &[Ipv4Addr],
) -> bool {
    let (to, number) = connection.to;
    let target = |ip| ports.get(&Port { protocol, ip, number });
    let led_to_a_pod = connection.answered_by != connection.to && config.cidr.contains(connection.answered_by.0);
    if led_to_a_pod {
        return target(Some(to)).or_else(|| target(None)) != Some(&connection.answered_by);
    }
    match protocol {
        // With whoever listens on the machine itself: it goes on, as it would everywhere.
        Protocol::Tcp => false,
        // Nobody may have listened: a client that goes on sending must reach the pod.
        Protocol::Udp | Protocol::Sctp => {
            let is_local = to.is_loopback() || own.contains(&to);
            is_local && (target(Some(to)).is_some() || target(None).is_some())
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Let a pod ask its own ports, once its sandbox is attached: where bridges have the packets that they pass filtered,
    /// it is answered through the link that it asked through. Done already: nothing happens.
    pub async fn reflect(&self, uid: &Uid, sandbox: u32) -> Result<(), NetworkError> {
        let name = link_name(uid, sandbox);
        self.inner
            .worker
            .run(move |tools| Ok(tools.netlink.reflect(&name)?))
            .await
    }

    /// Let these ports of the machine lead to the pod, and to nobody else: whoever had one of them before has it no
    /// more. Done already: nothing happens.
    ///
    /// # Errors
    /// [`NetworkError::Ports`], where there is no nftables; then they are tried again with every later call.
    pub async fn set_ports(&self, uid: &Uid, ip: Ipv4Addr, ports: &[HostPort]) -> Result<(), NetworkError> {
        lock(&self.inner.wanted).set(PodPorts {
            uid: uid.clone(),
            ip,
            ports: ports.to_vec(),
        });
        let opened = self.inner.filter(Filter::settle);
        opened.await?.map_err(NetworkError::Ports)
    }

    /// Close the pod's ports. It has none: nothing happens.
    ///
    /// # Errors
    /// [`NetworkError::Ports`]: they may still be open.
    pub async fn remove_ports(&self, uid: &Uid) -> Result<(), NetworkError> {
        if !lock(&self.inner.wanted).remove(uid) {
            return Ok(());
        }
        let closed = self.inner.filter(|filter, ports| match filter.settle(ports) {
            // Then none was ever opened.
            Err(RulesError::Absent) if !filter.able => Ok(()),
            done => done,
        });
        closed.await?.map_err(NetworkError::Ports)
    }
}

impl Inner {
    /// Do something with the filter, on a thread that may block. Whoever waits for another finds all that is wanted by then.
    pub(super) async fn filter<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Filter, &Mapping) -> T + Send + 'static,
    ) -> Result<T, NetworkError> {
        let inner = Arc::clone(self);
        let work = move || {
            let mut filter = lock(&inner.filter);
            let ports = lock(&inner.wanted).mapping();
            work(&mut filter, &ports)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| NetworkError::ThreadEnded)
    }
}

/// Have the table made anew whenever somebody else has changed it, until the network is dropped.
pub(super) async fn watch(mut monitor: Monitor, network: Weak<Inner>) {
    let mut heard = Vec::new();
    let mut failed = false;
    let mut not_before = Instant::now();
    loop {
        let first = if failed {
            tokio::time::timeout(PACE, monitor.next()).await.ok()
        } else {
            Some(monitor.next().await)
        };
        let mut next = first.unwrap_or(Ok(Heard::Changed(Vec::new())));
        // Cancel-safe: what was heard is given out at once.
        let until = not_before.max(Instant::now() + QUIET);
        let broken = loop {
            match next {
                Ok(more) => heard.push(more),
                Err(error) => break Some(error),
            }
            match tokio::time::timeout_at(until, monitor.next()).await {
                Ok(more) => next = more,
                Err(_) => break None,
            }
        };
        if let Some(error) = broken {
            tracing::warn!(%error, "the packet filter is not watched any more: podd's table is looked after at the next start");
            return;
        }
        let Some(inner) = network.upgrade() else { return };
        let words = mem::take(&mut heard);
        let looked = inner.filter(move |filter, ports| {
            // Each is asked about, for each may be asked about only once.
            let ours = words.iter().filter(|word| !filter.knows(word)).count() == 0;
            if ours && !failed {
                return Ok(false);
            }
            filter.doubt();
            filter.settle(ports).map(|()| true)
        });
        match looked.await {
            Ok(Ok(made_anew)) => {
                failed = false;
                if made_anew {
                    tracing::warn!(
                        table = rules::table(&inner.config.bridge),
                        "somebody changed podd's table of the packet filter: it was made anew"
                    );
                    inner.masquerades.store(true, Ordering::Relaxed);
                    not_before = Instant::now() + PACE;
                }
            }
            Ok(Err(error)) => {
                if !failed {
                    tracing::warn!(%error, "podd's table of the packet filter was changed and cannot be made anew yet");
                }
                failed = true;
            }
            Err(_ended) => return,
        }
    }
}
