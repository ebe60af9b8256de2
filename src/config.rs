//! The agent's settings. (skeleton)
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything `podd serve` can be told. Flags win over `PODD_*`, these over the file.
#[derive(Debug, Clone)]
pub struct Config {
    pub root: PathBuf,
    pub run_dir: PathBuf,
    pub log_dir: PathBuf,
    pub listen: SocketAddr,
    pub socket: PathBuf,
    pub pod_cidr: String,
    pub bridge: String,
    pub cgroup_root: String,
    pub node_name: String,
    pub max_restart_backoff: Duration,
}
