//! The agent: every room put together. The only place that sees them all.
//!
//! Goes in: a [`Config`]. Comes out: nothing, until it is told to stop; pods go on without it.
//!
//! **Invariant:** nothing is decided here. What is made first is removed last.

mod objects;
mod ports;
mod user_ids;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, watch};

use crate::account::{self, Accounts};
use crate::api::auth::Bearers;
use crate::api::{self, ApiState};
use crate::config::{Config, OWN_HANDLER, RuntimeProgram};
use crate::controller::{Controller, Room, Waiting};
use crate::event::Recorder;
use crate::eviction::{self, Evictions};
use crate::garbage::{self, Garbage, OwnerKind};
use crate::image::registry::{ProxySettings, RegistrySettings};
use crate::image::{ImageStore, Limits as ImageLimits};
use crate::linux::cgroup::{Cgroups, Controls};
use crate::linux::idmap;
use crate::linux::lock::{self, Holder, Lock};
use crate::linux::{app_armor, path, privilege, process};
use crate::model::Timestamp;
use crate::network::{Network, NetworkConfig};
use crate::node::{Facts, Gauge, Handler, Identity, NodeKeeper, Places, Supply};
use crate::probe::{self, Probes};
use crate::reconcile::Limits;
use crate::refresh::Refresher;
use crate::runtime::stream::Streams;
use crate::runtime::{Handlers, LookupError, Machine, Parts, Program, RuntimeClasses, Settings, Shims};
use crate::space::{Disk, Space};
use crate::statics::Statics;
use crate::status::NodeFacts;
use crate::store::{Change, Store};
use crate::volume::Volumes;

/// Processes a container may have when nothing else limits it: enough for a large server, too few for a fork bomb to
/// hurt its neighbours.
const PIDS_LIMIT: i64 = 4096;

/// Where the kernel mounts its control groups.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// Serve until SIGTERM or SIGINT. Pods are left as they are.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let _root_lock = lock_directory(&config.root, "state")?;
    let _run_lock = lock_directory(&config.run_dir, "run")?;
    directory_of_pods(&config.log_dir, 0o755)?;
    directory_of_pods(&config.root.join("pods"), 0o711)?;
    directory_of_pods(&config.run_dir.join("pods"), 0o700)?;

    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read the boot id of this machine")?
        .trim()
        .to_owned();
    let store = Store::open(&config.root.join("podd.db"))
        .await
        .context("cannot open the state database")?;
    let images = ImageStore::open(
        &config.root.join("images"),
        store.clone(),
        ImageLimits {
            unpacked: config.max_image_size,
            ..ImageLimits::default()
        },
        clock,
    )
    .await
    .context("cannot open the image store")?
    .with_registries(RegistrySettings {
        proxies: ProxySettings::of_environment(environment, &config.pod_cidr),
        ..config.registries.clone()
    });
    let network = NetworkConfig {
        bridge: config.bridge.clone(),
        cidr: config.pod_cidr.parse()?,
    };
    let network = Network::open(network, ports::of_last_agent(&store).await?)
        .await
        .context("cannot set up the pods' network")?;
    let pool = network.pool();
    let cgroups = Cgroups::detect(Path::new(CGROUP_MOUNT)).context("cannot use this machine's cgroups")?;
    let mut facts = Facts::read(Path::new("/"), &config.root).context("cannot tell what this machine is")?;
    facts.keep_page_sizes(&Controls::of(&cgroups, Path::new("/")).page_sizes);
    let addresses = u64::from(pool.1.to_bits() - pool.0.to_bits()) + 1;
    let supply = Supply::new(&facts, addresses, &config.reserved, &config.allocatable);
    let allocatable = supply.allocatable.capacity();
    let host_ip = network.gateway();
    let tcp = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let listening = tcp.local_addr().context("cannot tell the address listened on")?;
    let for_pods = listen_for_pods(listening, host_ip).await;
    let api = reachable(listening, host_ip, for_pods.is_some());
    let pki = api::tls::Pki::open(&config.root, &config.node_name, config.listen, Some(host_ip), clock())
        .context("cannot make or read the certificates")?;
    let accounts = account::Settings {
        issuer: config.service_account_issuer.clone(),
        node_name: config.node_name.clone(),
        clock,
    };
    let key = pki
        .account_key()
        .context("cannot make or read the key of service accounts")?;
    let accounts = Arc::new(Accounts::new(store.clone(), key, accounts));
    let (hint, hints) = mpsc::unbounded_channel();
    let shims = Arc::new(Shims::new(&config.run_dir, boot_id.clone(), hint.clone()));
    shims.warm().context("cannot make the process that shims come from")?;
    let volumes = Volumes::new(config.root.join("pods"), config.run_dir.join("volumes"), allocatable);
    let machine = Machine::new(
        Parts {
            shims,
            images: images.clone(),
            network,
            volumes,
            cgroups,
            handlers: handlers(&store, &config),
            objects: Arc::new(objects::StoredObjects::new(store.clone(), Arc::clone(&accounts))),
            user_ids: Arc::new(user_ids::StoredUserIds {
                store: store.clone(),
                range: config.user_ids,
            }),
            hint: hint.clone(),
            hints,
        },
        Settings {
            pods: config.root.join("pods"),
            mount_points: config.root.join("mount-points"),
            log_dir: config.log_dir.clone(),
            log_links: config.container_log_dir.clone(),
            seccomp_root: config.seccomp_profile_root.clone(),
            cgroup_root: config.cgroup_root.clone(),
            node_name: config.node_name.clone(),
            memory: facts.memory,
            pids_limit: PIDS_LIMIT,
            pod_pids_limit: config.pod_pids_limit,
            capabilities: privilege::capabilities(Path::new("/proc/self/status"))
                .context("cannot read the capabilities of this process")?,
            host_ips: vec![IpAddr::V4(host_ip)],
            api,
            allocatable,
        },
    );
    let machine = Arc::new(machine.context("cannot make the places that containers mount on")?);
    let (stop, stopped) = watch::channel(false);
    let (ready, readiness) = watch::channel(false);
    let (recorder, events) = Recorder::new(store.clone(), &config.node_name, clock);
    let capacity = Some(allocatable);
    let node = NodeKeeper {
        store: store.clone(),
        recorder: recorder.clone(),
        identity: Identity {
            name: config.node_name.clone(),
            host_ips: vec![IpAddr::V4(host_ip)],
            pod_cidr: config.pod_cidr.clone(),
            version: api::git_version(),
            handlers: known_handlers(&config),
        },
        facts,
        supply: supply.clone(),
        gauge: Gauge::new(
            config.eviction_hard.clone(),
            config.pressure_transition,
            Places {
                root: "/".into(),
                pods: config.root.join("pods"),
                images: config.root.join("images"),
            },
        ),
        images: images.changes(),
        clock,
    };
    let streams: Arc<dyn Streams> = machine.clone();
    let evictions = Evictions::new(eviction::Parts {
        pods: config.root.join("pods"),
        log_dir: config.log_dir.clone(),
        hints: hint.clone(),
        period: eviction::PERIOD,
    });
    let probes = Probes::new(probe::Parts {
        streams: Arc::clone(&streams),
        hints: hint,
        recorder: recorder.clone(),
        node_ip: IpAddr::V4(host_ip),
        clock,
    });
    let refresher = Refresher {
        store: store.clone(),
        runtime: Arc::clone(&machine),
        node_name: config.node_name.clone(),
        clock,
    };
    let controller = Controller {
        store: store.clone(),
        runtime: Arc::clone(&machine),
        probes,
        evictions,
        limits: Limits {
            max_backoff: config.max_restart_backoff,
            capacity,
            sysctls: config.sysctls.clone(),
            app_armor: app_armor::is_enabled(Path::new("/")),
        },
        node: NodeFacts {
            name: config.node_name.clone(),
            host_ips: vec![IpAddr::V4(host_ip)],
            capacity,
        },
        boot_id,
        pool,
        room: Room::new(supply.allocatable),
        waiting: Waiting::default(),
        recorder: recorder.clone(),
        clock,
    };

    pki.write_kubeconfig(&config.root.join("admin.kubeconfig"), listening)
        .context("cannot write admin.kubeconfig")?;
    let garbage = garbage::Settings {
        ca: pki.authority().to_owned(),
        api: api.unwrap_or(listening),
        kinds: api::kinds::KINDS
            .iter()
            .filter(|kind| kind.is_stored())
            .map(|kind| owner_kind(kind))
            .collect(),
        clock,
    };
    garbage::bootstrap(&store, &garbage)
        .await
        .context("cannot make the first namespaces")?;
    node.register().await.context("cannot write the node")?;
    let garbage = Garbage {
        store: store.clone(),
        settings: garbage,
    };
    let statics = config.manifest_dir.clone().map(|directory| Statics {
        store: store.clone(),
        recorder: node.recorder.clone(),
        directory,
        node_name: config.node_name.clone(),
        clock,
    });
    let space = Space {
        images: images.clone(),
        recorder: recorder.clone(),
        node_name: config.node_name.clone(),
        root: config.root.join("images"),
        policy: config.image_gc,
        look: Disk::of,
    };
    let unix = unix_listener(&config.socket)?;
    let bearers = Bearers::open(&config.root, accounts);
    let state = ApiState {
        store: store.clone(),
        node_name: config.node_name.clone(),
        log_dir: config.log_dir.clone(),
        ready: readiness.clone(),
        streams,
        streaming_idle_timeout: config.streaming_idle_timeout,
        bearers: bearers.clone(),
        address: api.unwrap_or(listening),
        clock,
    };
    let router = api::router(state).merge(api::images::router(images));

    let controller = tokio::spawn(controller.run(stopped.clone(), ready));
    let refresher = tokio::spawn(refresher.run(stopped.clone()));
    let garbage = tokio::spawn(garbage.run(stopped.clone()));
    let space = tokio::spawn(space.run(stopped.clone()));
    let node = tokio::spawn(node.run(readiness.clone(), stopped.clone()));
    let statics = statics.map(|statics| tokio::spawn(statics.run(stopped.clone())));
    // What is told while everything else ends is written too.
    let (told, all_told) = watch::channel(false);
    let events = tokio::spawn(events.run(all_told));
    let tls = pki.server_config(bearers)?;
    let https = [Some(tcp), for_pods].into_iter().flatten().map(|listener| {
        let (tls, router, stopped) = (tls.clone(), router.clone(), stopped.clone());
        tokio::spawn(api::serve_tls(listener, tls, router, stopped))
    });
    let https: Vec<_> = https.collect();
    let http = tokio::spawn(api::serve_unix(unix, router, stopped.clone()));
    tokio::spawn(announce(readiness, config.clone(), listening));
    tokio::spawn(give_back(store.subscribe()));

    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let failed = tokio::select! {
        // Cancel-safe: a signal stream keeps what it has not given out.
        _ = terminate.recv() => {
            tracing::info!("SIGTERM: stopping; pods go on");
            None
        }
        _ = interrupt.recv() => {
            tracing::info!("SIGINT: stopping; pods go on");
            None
        }
        // Cancel-safe: it only waits for a word that stays said. Nothing more can be stored: what is not stored must not
        // be answered, and the next agent begins with what was.
        error = store.failure() => Some(error),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.send_replace(true);
    controller.await.context("the controller panicked")?;
    refresher.await.context("the keeper of volumes' files panicked")?;
    garbage.await.context("the garbage collection panicked")?;
    space.await.context("the keeper of the disk panicked")?;
    node.await.context("the keeper of the node panicked")?;
    if let Some(statics) = statics {
        statics.await.context("the keeper of static pods panicked")?;
    }
    told.send_replace(true);
    events.await.context("the keeper of events panicked")?;
    for listener in https {
        listener.await.context("an HTTPS listener panicked")?;
    }
    http.await.context("the socket listener panicked")?;
    let _ = std::fs::remove_file(&config.socket);
    match failed {
        Some(error) => Err(error).context("the state database failed; pods go on, and the next agent takes them over"),
        None => Ok(()),
    }
}

/// Pods reach the API at their gateway, at the port that everyone has: where it is listened on one other address alone,
/// here as well. Pods without it are worth more than no pods.
async fn listen_for_pods(listening: SocketAddr, gateway: Ipv4Addr) -> Option<TcpListener> {
    if listening.ip().is_unspecified() || listening.ip() == IpAddr::V4(gateway) {
        return None;
    }
    let address = SocketAddr::new(IpAddr::V4(gateway), listening.port());
    let bound = TcpListener::bind(address).await;
    bound
        .inspect_err(|error| tracing::warn!(%error, %address, "cannot listen there: pods do not reach the API"))
        .ok()
}

/// Where pods reach the API, if they do.
fn reachable(listening: SocketAddr, gateway: Ipv4Addr, listens_there: bool) -> Option<SocketAddr> {
    let ip = listening.ip();
    if listens_there || ip.is_unspecified() {
        return Some(SocketAddr::new(IpAddr::V4(gateway), listening.port()));
    }
    Some(listening).filter(|_| !ip.is_loopback())
}

fn owner_kind(kind: &api::kinds::Kind) -> OwnerKind {
    OwnerKind {
        group: kind.group.to_owned(),
        kind: kind.kind.to_owned(),
        stored_as: kind.stored_as.to_owned(),
        namespaced: kind.namespaced,
    }
}

/// What the node tells of its runtimes. Of a program nothing is promised.
fn known_handlers(config: &Config) -> Vec<Handler> {
    let user_namespaces = idmap::try_mounts(&config.root).is_ok();
    let own = |name: &str| Handler {
        name: name.to_owned(),
        recursive_read_only: true,
        user_namespaces,
    };
    let program = |name: &String| Handler {
        name: name.clone(),
        recursive_read_only: false,
        user_namespaces: false,
    };
    let all = [own(""), own(OWN_HANDLER)].into_iter();
    all.chain(config.runtimes.keys().map(program)).collect()
}

/// The OCI runtimes that this agent was given, and the classes that name them.
fn handlers(store: &Store, config: &Config) -> Handlers {
    let programs = config.runtimes.iter().map(|(handler, program)| {
        let RuntimeProgram { path, args } = program.clone();
        let program = Program { path, arguments: args };
        (handler.clone(), program)
    });
    let classes = Arc::new(StoredClasses(store.clone()));
    Handlers::new(classes, OWN_HANDLER, programs.collect())
}

/// The runtime classes of the API.
#[derive(Debug)]
struct StoredClasses(Store);

impl RuntimeClasses for StoredClasses {
    fn handler<'a>(&'a self, class: &'a str) -> BoxFuture<'a, Result<Option<String>, LookupError>> {
        Box::pin(async move {
            let stored = self.0.get("RuntimeClass", "", class).await;
            let stored = stored.map_err(|error| LookupError(Box::new(error)))?;
            Ok(stored.map(|class| class.json["handler"].as_str().unwrap_or_default().to_owned()))
        })
    }
}

/// Say that the agent is ready: to systemd, and with one line in the log.
async fn announce(mut readiness: watch::Receiver<bool>, config: Config, listening: SocketAddr) {
    if readiness.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        node = %config.node_name,
        root = %config.root.display(),
        socket = %config.socket.display(),
        listen = %listening,
        "podd is ready"
    );
    // What only starting needed goes back to the machine.
    process::trim_heap();
    // Without NOTIFY_SOCKET this does nothing.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "cannot tell the service manager that the agent is ready");
    }
}

/// Nothing has changed for so long: a burst of work is over.
const QUIET: Duration = Duration::from_secs(1);

/// After each burst of work, what only that needed goes back to the machine: an agent is idle most of its life.
async fn give_back(mut changes: broadcast::Receiver<Arc<Change>>) {
    // Having missed some is as good as having seen them.
    while !matches!(changes.recv().await, Err(broadcast::error::RecvError::Closed)) {
        // Cancel-safe: a broadcast receiver keeps its place.
        while tokio::time::timeout(QUIET, changes.recv()).await.is_ok() {
            if changes.is_closed() {
                return;
            }
        }
        let given = tokio::task::spawn_blocking(|| {
            process::trim_heap();
            process::unmap_code()
        });
        if let Ok(Err(error)) = given.await {
            tracing::debug!(%error, "cannot give code back");
        }
    }
}

/// Take a directory for this agent alone.
fn lock_directory(dir: &Path, what: &str) -> anyhow::Result<Lock> {
    directory(dir, 0o711)?;
    let path = dir.join("lock");
    let cannot = || format!("cannot lock {}", path.display());
    if let Some(lock) = lock::take(&path).with_context(cannot)? {
        return Ok(lock);
    }
    match lock::holder(&path).with_context(cannot)? {
        Holder::Pid(pid) => bail!(
            "another agent (pid {pid}) is using the {what} directory {}",
            dir.display()
        ),
        Holder::Free => bail!(
            "another agent was using the {what} directory {} a moment ago",
            dir.display()
        ),
    }
}

fn directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// A directory that each pod has one of its own in.
fn directory_of_pods(at: &Path, mode: u32) -> anyhow::Result<()> {
    directory(at, mode)?;
    if let Err(error) = std::fs::File::open(at).and_then(path::spread) {
        // Pods are where they are all the same; most other file systems place what they make in another way.
        tracing::debug!(%error, path = %at.display(), "pods are not spread over the file system");
    }
    Ok(())
}

/// The socket for root alone: made under a name of its own, so that nobody can connect before its mode is set.
fn unix_listener(path: &PathBuf) -> anyhow::Result<tokio::net::UnixListener> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    directory(parent, 0o711)?;
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let listener =
        std::os::unix::net::UnixListener::bind(&new).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&new, path))
        .and_then(|()| listener.set_nonblocking(true))
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    tokio::net::UnixListener::from_std(listener).context("cannot wait on the socket")
}

/// A variable that belongs to all programs of the machine, not to podd: it has no flag.
#[expect(clippy::disallowed_methods, reason = "the container tools' own names for proxies")]
fn environment(variable: &str) -> Option<String> {
    std::env::var(variable).ok()
}

/// The one clock of the agent.
#[expect(
    clippy::disallowed_methods,
    reason = "the clock itself: everything else gets the time from here"
)]
fn clock() -> Timestamp {
    Timestamp::now()
}
