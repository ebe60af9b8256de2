//! The machine itself as a [`Runtime`]: shims, images, network, volumes and cgroups put together.
//!
//! Goes in: one step of one pod. Comes out: the step done, or what Kubernetes calls its failure.
//!
//! **Invariant:** every step may have been done before, wholly or in part, by this agent or by one that was killed:
//! each looks first and does what is missing.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::handler::Handlers;
use super::log_links::LogLinks;
use super::making::{Maker, Making};
use super::objects::{self, Objects};
use super::parts::{Parts, Settings};
use super::pulling::{Known, Pulled, Pulling};
use super::quality::Quality;
use super::refresh::Refreshing;
use super::shims::{ShimError, Shims};
use super::spec;
use super::users::Users;
use super::work::{self, stop_signal};
use super::{Image, LogDirName, ObserveError, Recorded, Runtime, StepError, UserIds, VolumeNews};
use super::{last_words, resize};
use crate::image::{ImageStore, ResolveError};
use crate::linux::cgroup::{Cgroups, Controls};
use crate::linux::host;
use crate::linux::path;
use crate::model::{
    ContainerPhase, ContainerSpec, FailureReason, PodSpec, PullPolicy, ResolvedImage, Resources, Snapshot, Sources,
    TerminationMessagePolicy, Uid, User,
};
use crate::network::Network;
use crate::shim::protocol::{PodResources, RequestBody};
use crate::volume::{EtcContext, Prepared, Volumes};

/// See the module's doc.
#[derive(Debug)]
pub struct Machine {
    pub(super) shims: Arc<Shims>,
    pub(super) images: ImageStore,
    pulling: Pulling,
    pub(super) network: Network,
    pub(super) volumes: Arc<Volumes>,
    pub(super) refreshing: Refreshing,
    pub(super) cgroups: Arc<Cgroups>,
    controls: Arc<Controls>,
    quality: Quality,
    pub(super) handlers: Handlers,
    objects: Arc<dyn Objects>,
    user_ids: Arc<dyn UserIds>,
    pub(super) settings: Settings,
    pub(super) maker: Maker,
    pub(super) users: Users,
    log_links: Option<LogLinks>,
    hints: Mutex<Option<mpsc::UnboundedReceiver<Uid>>>,
}

impl Machine {
    /// Makes `settings.mount_points`: a directory with the places that every container has something mounted on, the lowest
    /// layer of all roots.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(parts: Parts, settings: Settings) -> io::Result<Self> {
        work::make_mount_points(&settings.mount_points)?;
        let log_links = settings.log_links.clone();
        let log_links = log_links.map(|links| LogLinks::new(links, settings.log_dir.clone()));
        if let Some(links) = &log_links {
            links.repair();
        }
        let Parts {
            shims,
            images,
            network,
            volumes,
            cgroups,
            handlers,
            objects,
            user_ids,
            hint,
            hints,
        } = parts;
        let (volumes, cgroups) = (Arc::new(volumes), Arc::new(cgroups));
        let controls = Arc::new(Controls::of(&cgroups, Path::new("/")));
        Ok(Self {
            maker: Maker::new(
                Arc::clone(&shims),
                Arc::clone(&volumes),
                settings.clone(),
                Arc::clone(&controls),
            ),
            quality: Quality::new(
                Arc::clone(&cgroups),
                &settings.cgroup_root,
                settings.allocatable,
                settings.memory,
            ),
            shims,
            pulling: Pulling::new(images.clone(), hint),
            images,
            network,
            volumes,
            refreshing: Refreshing::default(),
            cgroups,
            controls,
            handlers,
            objects,
            user_ids,
            settings,
            users: Users::default(),
            log_links,
            hints: Mutex::new(Some(hints)),
        })
    }

    /// An image by its name, as a pull policy has it, for a container that wants it (see [`Runtime::image`]).
    pub(super) async fn named(
        &self,
        pod: &PodSpec,
        container: &str,
        name: &str,
        policy: PullPolicy,
    ) -> Result<Image, StepError> {
        let present = |image, pulled| {
            let image = Box::new(image);
            Ok(Image::Present { image, pulled })
        };
        match self.pulling.known(&pod.uid, container, name) {
            Known::Nothing => {}
            Known::UnderWay => {
                return Ok(Image::Pulling {
                    begun: false,
                    unusable_secrets: Vec::new(),
                });
            }
            Known::Ended(Err(error)) => return Err(error),
            Known::Ended(Ok(Pulled { id, message })) => {
                // It may have been removed again meanwhile.
                if let Some(image) = self
                    .images
                    .resolve_as(&id, name)
                    .await
                    .map_err(|error| unresolved(&error))?
                {
                    return present(image, Some(message));
                }
            }
        }
        // An id names what is here, and nothing that a registry knows.
        let policy = match self.images.reference(name) {
            Ok(_) => policy,
            Err(_) => PullPolicy::Never,
        };
        if policy != PullPolicy::Always {
            let found = self.images.resolve(name).await.map_err(|error| unresolved(&error))?;
            if let Some(image) = found {
                return present(image, None);
            }
        }
        if policy == PullPolicy::Never {
            return Err(StepError {
                reason: FailureReason::ErrImageNeverPull,
                message: format!("Container image {name:?} is not present with pull policy of Never"),
            });
        }
        Ok(Image::Pulling {
            begun: true,
            unusable_secrets: self.pulling.begin(&pod.uid, container, name).await?,
        })
    }

    /// What the pod's volumes and this container take from other objects, as they are now.
    pub(super) async fn sources(
        &self,
        pod: &PodSpec,
        container: Option<&ContainerSpec>,
        reason: FailureReason,
    ) -> Result<Arc<Sources>, StepError> {
        let gathered = objects::gather(&*self.objects, pod, container).await;
        let sources = gathered.map_err(|error| step(reason, &error))?;
        self.refreshing.note(&pod.uid, &sources);
        Ok(Arc::new(sources))
    }

    /// The first id of the pod's user namespace, if it has one.
    pub(super) async fn first_id(&self, pod: &PodSpec, reason: FailureReason) -> Result<Option<u32>, StepError> {
        if !pod.isolation.user_namespace {
            return Ok(None);
        }
        let first = self.user_ids.first(&pod.uid).await;
        first.map(Some).map_err(|error| step(reason, &error))
    }

    /// What a start of this container takes from other objects. Nothing is looked up for what is there already.
    pub(super) async fn sources_of_start(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
    ) -> Result<Arc<Sources>, StepError> {
        if !objects::names_objects(container) && self.volumes.are_files_made(pod) {
            return Ok(Arc::default());
        }
        self.sources(pod, Some(container), FailureReason::CreateContainerConfigError)
            .await
    }

    pub(super) fn pod_resources(&self, pod: &PodSpec) -> PodResources {
        spec::pod_resources(pod, &self.controls, self.settings.pod_pids_limit)
    }

    /// A container that comes back with larger limits needs room in the pod's own.
    async fn fit_pod(&self, pod: &PodSpec) -> Result<(), StepError> {
        let limits = self.pod_resources(pod);
        if limits.cpu_quota.is_none() && limits.memory_limit.is_none() {
            return Ok(());
        }
        let cgroup = spec::pod_cgroup(&self.settings.cgroup_root, pod);
        let cgroups = Arc::clone(&self.cgroups);
        blocking("fit a pod", move || {
            resize::fit_pod(&cgroups, &cgroup, &limits)
                .map_err(|error| step(FailureReason::CreateContainerError, &error))
        })
        .await
    }

    fn container_dir(&self, uid: &Uid, sandbox: u32, container: &str, attempt: u32) -> PathBuf {
        self.shims
            .sandbox_dir(uid, sandbox)
            .join(format!("{container}-{attempt}"))
    }

    /// `ROOT/pods/<uid>/<container>/<attempt>`: what an attempt writes.
    fn state_dir(&self, uid: &Uid, container: &str, attempt: u32) -> PathBuf {
        let pod = self.settings.pods.join(uid.as_str());
        pod.join(container).join(attempt.to_string())
    }

    fn log_file(&self, pod: &PodSpec, container: &str, attempt: u32) -> PathBuf {
        let logs = self.settings.log_dir.join(LogDirName::of(pod).0);
        logs.join(container).join(format!("{attempt}.log"))
    }

    /// What runs in this sandbox: the pid of a container's first process, and which attempt it is.
    async fn running(&self, uid: &Uid, sandbox: u32, container: &str) -> Result<Option<(i32, u32)>, ShimError> {
        let journal = self.shims.journal(uid, sandbox).await?;
        let containers = journal.filter(|journal| journal.sandbox.shim_alive);
        let containers = containers.map(|journal| journal.sandbox.containers).unwrap_or_default();
        Ok(containers.iter().rev().find_map(|known| match known.phase {
            ContainerPhase::Running { pid, started_at: _ } if known.container == container => {
                Some((pid, known.attempt))
            }
            ContainerPhase::Running { .. }
            | ContainerPhase::Starting
            | ContainerPhase::StartFailed { .. }
            | ContainerPhase::Exited { .. } => None,
        }))
    }

    /// The process whose pid namespace the container joins, if it has a target and its pod does not share one anyway.
    async fn target(&self, pod: &PodSpec, container: &ContainerSpec, sandbox: u32) -> Result<Option<i32>, StepError> {
        let Some(target) = container
            .life
            .target
            .as_deref()
            .filter(|_| !pod.share_process_namespace && !pod.isolation.host_pid)
        else {
            return Ok(None);
        };
        let running = self.running(&pod.uid, sandbox, target).await;
        match running.map_err(|error| step(FailureReason::CreateContainerError, &error))? {
            Some((pid, _attempt)) => Ok(Some(pid)),
            // kubelet `kuberuntime_container.go`, `getTargetID`.
            None => Err(StepError {
                reason: FailureReason::CreateContainerConfigError,
                message: format!("unable to find target container {target}: it does not run"),
            }),
        }
    }

    async fn signal(
        &self,
        uid: &Uid,
        sandbox: u32,
        container: &str,
        attempt: u32,
        signal: i32,
        all: bool,
    ) -> Result<(), StepError> {
        let body = RequestBody::Signal {
            container: container.to_owned(),
            attempt,
            signal,
            all,
        };
        self.shims
            .ask(uid, sandbox, body)
            .await
            .map_err(|error| step(FailureReason::KillPodSandboxError, &error))
    }
}

impl Runtime for Machine {
    async fn observe(&self, uid: &Uid) -> Result<Snapshot, ObserveError> {
        let mut snapshot = Snapshot::default();
        for attempt in self.shims.attempts(uid)? {
            if let Some(journal) = self.shims.journal(uid, attempt).await? {
                snapshot.sandboxes.push(journal.sandbox);
            }
        }
        Ok(snapshot)
    }

    async fn pods(&self) -> Result<Vec<Uid>, ObserveError> {
        let mut uids = self.shims.pods()?;
        let volumes = Arc::clone(&self.volumes);
        uids.extend(volumes.list()?);
        for class in ["", "/burstable", "/besteffort"] {
            let path = format!("{}{class}", self.settings.cgroup_root);
            let names = self.cgroups.list(&path)?;
            uids.extend(
                names
                    .iter()
                    .filter_map(|name| name.strip_prefix("pod"))
                    .map(|uid| Uid(uid.to_owned())),
            );
        }
        uids.sort_unstable();
        uids.dedup();
        Ok(uids)
    }

    async fn create_sandbox(
        &self,
        pod: &PodSpec,
        attempt: u32,
        ip: Option<IpAddr>,
        recorded: Recorded,
    ) -> Result<(), StepError> {
        self.make_sandbox(pod, attempt, ip, recorded).await
    }

    async fn stop_sandbox(&self, uid: &Uid, attempt: u32) -> Result<(), StepError> {
        self.end_sandbox(uid, attempt).await
    }

    async fn remove_sandbox(&self, uid: &Uid, attempt: u32) -> Result<(), StepError> {
        self.clear_sandbox(uid, attempt).await
    }

    async fn image(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        volumes: &mut Vec<VolumeNews>,
    ) -> Result<Image, StepError> {
        if !self.bring_volumes(pod, container, volumes).await? {
            return Ok(Image::Pulling {
                begun: false,
                unusable_secrets: Vec::new(),
            });
        }
        self.named(pod, &container.name, &container.image, container.pull_policy)
            .await
    }

    async fn user(&self, pod: &PodSpec, container: &ContainerSpec, image: &ResolvedImage) -> Result<User, StepError> {
        self.users.of(pod, container, image).await
    }

    async fn start_container(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        attempt: u32,
        sandbox: u32,
        image: &ResolvedImage,
        user: &User,
        ip: Option<IpAddr>,
        mut recorded: Recorded,
    ) -> Result<(), StepError> {
        let infra_pid = self.infra(&pod.uid, sandbox).await.map_err(|error| StepError {
            reason: FailureReason::CreateContainerError,
            message: error.message,
        })?;
        let target = self.target(pod, container, sandbox).await?;
        let volume_layers = self.volume_layers(pod, container).await?;
        let making = Making {
            pod: pod.clone(),
            container: container.clone(),
            sandbox,
            image: image.clone(),
            user: user.clone(),
            sources: self.sources_of_start(pod, container).await?,
            ip,
            volume_layers,
            joined: work::Joined {
                infra_pid,
                target,
                first_id: self.first_id(pod, FailureReason::CreateContainerError).await?,
            },
        };
        let _busy = self.maker.busy();
        if attempt > 0 {
            self.fit_pod(pod).await?;
        }
        let start = self.maker.make(&making, attempt).await?;
        if !recorded.wait().await {
            return Err(not_recorded(FailureReason::CreateContainerError));
        }
        self.shims
            .ask(&pod.uid, sandbox, RequestBody::Start(Box::new(start)))
            .await
            .map_err(|error| {
                let reason = match &error {
                    ShimError::Failed { .. } => FailureReason::RunContainerError,
                    ShimError::Io { .. }
                    | ShimError::Spawn { .. }
                    | ShimError::Journal { .. }
                    | ShimError::Gone { .. }
                    | ShimError::Stuck { .. }
                    | ShimError::Protocol { .. }
                    | ShimError::Refused { .. } => FailureReason::CreateContainerError,
                };
                step(reason, &error)
            })?;
        if let Some(links) = &self.log_links {
            links.add(&LogDirName::of(pod), &container.name, attempt);
        }
        self.maker.open(&pod.uid, sandbox);
        self.maker.make_next(making, attempt);
        Ok(())
    }

    async fn stop_container(&self, uid: &Uid, sandbox: u32, container: &str, attempt: u32) -> Result<(), StepError> {
        let config = self.container_dir(uid, sandbox, container, attempt).join("config.json");
        let signal = stop_signal(&config).unwrap_or(host::SIGTERM);
        self.signal(uid, sandbox, container, attempt, signal, false).await
    }

    async fn kill_container(&self, uid: &Uid, sandbox: u32, container: &str, attempt: u32) -> Result<(), StepError> {
        self.signal(uid, sandbox, container, attempt, host::SIGKILL, true).await
    }

    async fn resize(
        &self,
        pod: &PodSpec,
        container: &str,
        attempt: u32,
        sandbox: u32,
        resources: &Resources,
    ) -> Result<(), StepError> {
        let failed = |error: &dyn std::error::Error| step(FailureReason::RunContainerError, error);
        let running = self.running(&pod.uid, sandbox, container).await;
        if !matches!(running.map_err(|error| failed(&error))?, Some((_, running)) if running == attempt) {
            return Ok(());
        }
        let cgroups = Arc::clone(&self.cgroups);
        let pod_cgroup = spec::pod_cgroup(&self.settings.cgroup_root, pod);
        let target = resize::Target {
            container_cgroup: spec::cgroups_path(&pod_cgroup, container, attempt)
                .to_string_lossy()
                .into_owned(),
            pod_cgroup,
            container: container.to_owned(),
            resources: spec::effective(pod, resources),
            controls: Arc::clone(&self.controls),
            pod: self.pod_resources(pod),
        };
        blocking("resize a container", move || {
            resize::resize(&cgroups, &target).map_err(|error| step(FailureReason::RunContainerError, &error))
        })
        .await
    }

    async fn termination_message(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        attempt: u32,
        failed: bool,
    ) -> String {
        let file = self
            .state_dir(&pod.uid, &container.name, attempt)
            .join(work::TERMINATION_LOG);
        let fallback = (failed
            && container.life.termination_message_policy == TerminationMessagePolicy::FallbackToLogsOnError)
            .then(|| self.log_file(pod, &container.name, attempt));
        let limit = last_words::limit(pod);
        let read = tokio::task::spawn_blocking(move || last_words::read(&file, fallback.as_deref(), limit));
        // A message that cannot be read is none: the end itself must be told all the same.
        read.await.unwrap_or_default()
    }

    async fn remove_old_attempt(
        &self,
        uid: &Uid,
        sandbox: u32,
        container: &str,
        attempt: u32,
    ) -> Result<(), StepError> {
        let state = self.state_dir(uid, container, attempt);
        let run = self.container_dir(uid, sandbox, container, attempt);
        blocking("remove an old attempt", move || {
            remove_tree(&state)?;
            remove_tree(&run)
        })
        .await
    }

    async fn remove_pod(&self, uid: &Uid, logs: Option<&LogDirName>) -> Result<(), StepError> {
        self.pulling.forget(uid);
        self.disconnect(uid).await?;
        self.clear_cgroups(uid).await?;
        let volumes = Arc::clone(&self.volumes);
        let run = self.shims.pod_dir(uid);
        let links = logs.cloned().zip(self.log_links.clone());
        let logs = logs.map(|name| self.settings.log_dir.join(&name.0));
        let uid = uid.clone();
        blocking("remove a pod", move || {
            volumes
                .remove(&uid)
                .map_err(|error| step(FailureReason::KillPodSandboxError, &error))?;
            remove_tree(&run)?;
            if let Some((pod, links)) = links {
                links.remove(&pod);
            }
            logs.as_deref().map_or(Ok(()), remove_tree)
        })
        .await
    }

    fn weigh(&self, pod: &PodSpec, is_active: bool) {
        self.quality.weigh(pod, is_active);
    }

    fn forget(&self, uid: &Uid) {
        self.quality.forget(uid);
    }

    fn hints(&self) -> Option<mpsc::UnboundedReceiver<Uid>> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Volumes and files of the pod, as they must be before anything of it runs.
pub(super) fn prepare(
    volumes: &Volumes,
    pod: &PodSpec,
    ip: Option<IpAddr>,
    node_name: &str,
    sources: &Sources,
) -> Result<Prepared, StepError> {
    let context = EtcContext::of_node(ip, node_name.to_owned());
    volumes
        .prepare(pod, &context, sources)
        .map_err(|error| step(FailureReason::FailedMount, &error))
}

pub(super) fn remove_tree(path: &Path) -> Result<(), StepError> {
    path::remove_tree(path).map_err(|error| step(FailureReason::KillPodSandboxError, &error))
}

/// The store did not take the step: the pass fails for that, and this is never shown.
pub(super) fn not_recorded(reason: FailureReason) -> StepError {
    StepError {
        reason,
        message: "the step could not be recorded".to_owned(),
    }
}

pub(super) fn unresolved(error: &ResolveError) -> StepError {
    let reason = match error {
        ResolveError::InvalidName { .. } => FailureReason::InvalidImageName,
        ResolveError::AmbiguousId { .. }
        | ResolveError::Damaged { .. }
        | ResolveError::Store(_)
        | ResolveError::Content(_) => FailureReason::CreateContainerError,
    };
    step(reason, error)
}

/// A failure in a user's words: the error and all its causes, on one line.
pub(super) fn step(reason: FailureReason, error: &dyn std::error::Error) -> StepError {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        message = format!("{message}: {inner}");
        cause = inner.source();
    }
    StepError { reason, message }
}

/// Run file-system work on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, StepError> + Send + 'static,
) -> Result<T, StepError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(StepError {
            reason: FailureReason::CreateContainerError,
            message: format!("{what}: the work panicked"),
        })
    })
}
