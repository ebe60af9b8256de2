//! What a [`Machine`](super::Machine) is made of, and what it must know of its host.
//!
//! Goes in: what the agent has opened and was told. Comes out: the same, in one hand.
//!
//! **Invariant:** nothing is done here.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime::Capability;
use tokio::sync::mpsc;

use super::UserIds;
use super::handler::Handlers;
use super::objects::Objects;
use super::shims::Shims;
use crate::image::ImageStore;
use crate::linux::cgroup::Cgroups;
use crate::model::{Capacity, Uid};
use crate::network::Network;
use crate::volume::Volumes;

/// What the machine is made of.
#[derive(Debug)]
pub struct Parts {
    pub shims: Arc<Shims>,
    pub images: ImageStore,
    pub network: Network,
    pub volumes: Volumes,
    pub cgroups: Cgroups,
    pub handlers: Handlers,
    pub objects: Arc<dyn Objects>,
    pub user_ids: Arc<dyn UserIds>,
    /// To wake pods with, the other end of `hints`.
    pub hint: mpsc::UnboundedSender<Uid>,
    pub hints: mpsc::UnboundedReceiver<Uid>,
}

/// Where things lie, and what is the same for every pod.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `ROOT/pods`.
    pub pods: PathBuf,
    /// See [`Machine::new`].
    pub mount_points: PathBuf,
    pub log_dir: PathBuf,
    /// Where the logs of all containers have links; `None`: nowhere.
    pub log_links: Option<PathBuf>,
    /// Where the seccomp profiles lie that pods name.
    pub seccomp_root: PathBuf,
    pub cgroup_root: String,
    pub node_name: String,
    /// Bytes of memory the machine has, for `oom_score_adj`.
    pub memory: u64,
    /// What it has for its pods.
    pub allocatable: Capacity,
    /// Processes a container may have.
    pub pids_limit: i64,
    /// Processes and threads a pod may have; `None`: only each container is limited.
    pub pod_pids_limit: Option<i64>,
    /// All that this agent can hand on.
    pub capabilities: Vec<Capability>,
    /// The machine's addresses, as `status.hostIPs` tells them.
    pub host_ips: Vec<IpAddr>,
    /// Where pods reach the API; `None`: they are not told.
    pub api: Option<SocketAddr>,
}
