//! The life of a sandbox: made, waited for, ended, removed.
//!
//! Goes in: a pod and which attempt of its sandbox. Comes out: infra asleep in its namespaces, with its network; or
//! nothing left of it.
//!
//! **Invariant:** nothing runs before it is recorded. What is made ahead for the first containers is made beside the
//! network, and is no reason to fail.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::machine::{Machine, blocking, not_recorded, prepare, remove_tree, step};
use super::making::Making;
use super::shims::ShimError;
use super::{Recorded, StepError, spec, work};
use crate::linux::host;
use crate::model::{FailureReason, IDS_PER_POD, InfraSnapshot, PodSpec, Uid, sysctl_path};
use crate::shim::protocol::{PROTOCOL, RequestBody, SandboxConfig, Users as UserNamespace};

/// Kubernetes `kubelet/qos/policy.go`: what the infra process gets.
const INFRA_OOM_SCORE_ADJ: i32 = -998;
/// Kubernetes `containerLogMaxSize` and `containerLogMaxFiles`.
const LOG_MAX_SIZE: u64 = 10 << 20;
const LOG_MAX_FILES: u32 = 5;
/// How long the processes of a killed cgroup may take to be gone.
const DEATH: Duration = Duration::from_secs(20);

impl Machine {
    /// See [`super::Runtime::create_sandbox`].
    pub(super) async fn make_sandbox(
        &self,
        pod: &PodSpec,
        attempt: u32,
        ip: Option<IpAddr>,
        mut recorded: Recorded,
    ) -> Result<(), StepError> {
        let hostname = pod.kernel_name();
        let hostname = hostname.map_err(|error| step(FailureReason::CreatePodSandboxError, &error))?;
        let runtime = self.handlers.of_class(pod.runtime.class.as_deref()).await;
        let runtime = runtime.map_err(|error| step(FailureReason::CreatePodSandboxError, &error))?;
        if let (true, Some(runtime)) = (pod.isolation.user_namespace, &runtime) {
            // kubelet `userns/userns_manager.go`.
            return Err(StepError {
                reason: FailureReason::CreatePodSandboxError,
                message: format!(
                    "RuntimeClass handler {:?} does not support user namespaces",
                    runtime.handler
                ),
            });
        }
        let turn = self.refreshing.turn(pod).await;
        let sources = self.sources(pod, None, FailureReason::FailedMount).await?;
        {
            let (volumes, pod) = (Arc::clone(&self.volumes), pod.clone());
            let node_name = self.settings.node_name.clone();
            blocking("prepare volumes", move || {
                prepare(&volumes, &pod, ip, &node_name, &sources)?;
                // Once, and not again when a container is restarted.
                let given = volumes.give_to_group(&pod);
                given.map_err(|error| step(FailureReason::FailedMount, &error))
            })
            .await?;
        }
        drop(turn);
        if !recorded.wait().await {
            return Err(not_recorded(FailureReason::CreatePodSandboxError));
        }
        let sysctls = pod.security.sysctls.iter();
        let config = SandboxConfig {
            host_pid: pod.isolation.host_pid,
            host_ipc: pod.isolation.host_ipc,
            sysctls: sysctls
                .map(|(name, value)| (sysctl_path(name), value.clone()))
                .collect(),
            protocol: PROTOCOL,
            uid: pod.uid.0.clone(),
            attempt,
            boot_id: self.shims.boot_id().to_owned(),
            hostname,
            host_network: pod.host_network,
            share_pid: pod.share_process_namespace,
            cgroup: spec::pod_cgroup(&self.settings.cgroup_root, pod),
            resources: self.pod_resources(pod),
            oom_score_adj: INFRA_OOM_SCORE_ADJ,
            log_max_size: LOG_MAX_SIZE,
            log_max_files: LOG_MAX_FILES,
            runtime,
            users: self.user_namespace(pod).await?,
        };
        if let Err(error) = self.shims.spawn(&pod.uid, config).await {
            // A shim that could not make infra has written down why before it ended.
            let journal = self.shims.journal(&pod.uid, attempt).await.ok().flatten();
            let told = journal.and_then(|journal| journal.infra_failure);
            return Err(told.map_or_else(
                || sandbox_error(&error),
                |message| StepError {
                    reason: FailureReason::CreatePodSandboxError,
                    message,
                },
            ));
        }
        let _busy = self.maker.busy();
        let infra = self.infra(&pod.uid, attempt).await?;
        let first = async {
            // Of a later sandbox nobody knows here which attempt comes next.
            self.maker.open(&pod.uid, attempt);
            if attempt == 0 {
                self.make_first(pod, ip, infra).await;
            }
        };
        tokio::join!(self.connect(pod, attempt, infra, ip), first).0
    }

    /// What a sandbox needs to know of its user namespace.
    async fn user_namespace(&self, pod: &PodSpec) -> Result<Option<UserNamespace>, StepError> {
        let first = self.first_id(pod, FailureReason::CreatePodSandboxError).await?;
        Ok(first.map(|first| UserNamespace {
            first,
            count: IDS_PER_POD,
            // Roots, volumes and files of the pod lie in the first, the layers of its images in the second; some of its
            // volumes lie in memory.
            mapped: [self.settings.pods.clone(), self.settings.mount_points.clone()]
                .into_iter()
                .chain(self.volumes.in_memory(pod))
                .collect(),
        }))
    }

    /// While the network is made: what the pod begins with, if its images are there.
    async fn make_first(&self, pod: &PodSpec, ip: Option<IpAddr>, infra_pid: i32) {
        let first = pod
            .init_containers
            .first()
            .map_or(&pod.containers[..], std::slice::from_ref);
        for container in first {
            let Ok(Some(image)) = self.images.resolve(&container.image).await else {
                continue;
            };
            // Not there yet, if it has any: then nothing is made ahead.
            let Ok(volume_layers) = self.volume_layers(pod, container).await else {
                continue;
            };
            let Ok(user) = self.users.of(pod, container, &image).await else {
                continue;
            };
            let Ok(sources) = self.sources_of_start(pod, container).await else {
                continue;
            };
            let making = Making {
                pod: pod.clone(),
                container: container.clone(),
                sandbox: 0,
                image,
                user,
                sources,
                volume_layers,
                ip,
                joined: work::Joined {
                    infra_pid,
                    target: None,
                    first_id: None,
                },
            };
            self.maker.make_ahead(&making, 0).await;
        }
    }

    /// Infra's pid, once the journal tells of it.
    pub(super) async fn infra(&self, uid: &Uid, attempt: u32) -> Result<i32, StepError> {
        loop {
            let seen = self.shims.journal_length(uid, attempt);
            let journal = self.shims.journal(uid, attempt).await.map_err(|e| sandbox_error(&e))?;
            if let Some(journal) = journal {
                if let Some(message) = journal.infra_failure {
                    return Err(StepError {
                        reason: FailureReason::CreatePodSandboxError,
                        message,
                    });
                }
                match journal.sandbox.infra {
                    InfraSnapshot::Running { pid, since: _ } if journal.sandbox.shim_alive => return Ok(pid),
                    InfraSnapshot::Running { .. } | InfraSnapshot::Exited { .. } => {
                        return Err(StepError {
                            reason: FailureReason::CreatePodSandboxError,
                            message: "the sandbox died while it was made".to_owned(),
                        });
                    }
                    InfraSnapshot::Absent if journal.sandbox.shim_alive => {}
                    InfraSnapshot::Absent => {
                        return Err(StepError {
                            reason: FailureReason::CreatePodSandboxError,
                            message: "the shim died before it made the sandbox".to_owned(),
                        });
                    }
                }
            }
            self.shims
                .journal_grows(uid, attempt, seen)
                .await
                .map_err(|e| sandbox_error(&e))?;
        }
    }

    /// See [`super::Runtime::stop_sandbox`].
    pub(super) async fn end_sandbox(&self, uid: &Uid, attempt: u32) -> Result<(), StepError> {
        self.maker.close(uid);
        let dir = self.shims.sandbox_dir(uid, attempt);
        let holder = || {
            self.shims
                .holder(&dir)
                .map_err(|e| step(FailureReason::KillPodSandboxError, &e))
        };
        if let Some(pid) = holder()? {
            let asked = self.shims.ask(uid, attempt, RequestBody::Stop).await;
            let ended = match asked {
                Ok(()) => tokio::time::timeout(DEATH, self.shims.closed(uid, attempt))
                    .await
                    .is_ok(),
                Err(ShimError::Gone { .. }) => true,
                Err(error) => {
                    tracing::warn!(pod.uid = %uid, sandbox = attempt, %error, "a shim does not stop: killing it");
                    false
                }
            };
            if !ended && holder()? == Some(pid) {
                host::kill(pid, host::SIGKILL).map_err(|error| step(FailureReason::KillPodSandboxError, &error))?;
            }
            // Its connection ends a moment before its lock does.
            let deadline = tokio::time::Instant::now() + DEATH;
            let mut rounds = tokio::time::interval(Duration::from_millis(1));
            while holder()?.is_some() {
                if tokio::time::Instant::now() > deadline {
                    return Err(StepError {
                        reason: FailureReason::KillPodSandboxError,
                        message: format!("the shim of pod {uid} (pid {pid}) does not die"),
                    });
                }
                rounds.tick().await;
            }
        }
        self.clear_cgroups(uid).await
    }

    /// See [`super::Runtime::remove_sandbox`].
    pub(super) async fn clear_sandbox(&self, uid: &Uid, attempt: u32) -> Result<(), StepError> {
        let dir = self.shims.sandbox_dir(uid, attempt);
        self.shims.forget(uid, attempt);
        blocking("remove a sandbox", move || {
            remove_tree(&dir)?;
            if let Some(pod) = dir.parent() {
                // Not empty: another attempt is there.
                let _ = std::fs::remove_dir(pod);
            }
            Ok(())
        })
        .await
    }

    /// Kill what is left in the pod's cgroups, wait until it is gone, remove them.
    pub(super) async fn clear_cgroups(&self, uid: &Uid) -> Result<(), StepError> {
        let cgroups = Arc::clone(&self.cgroups);
        let paths = self.pod_cgroups(uid);
        let deadline = tokio::time::Instant::now() + DEATH;
        let mut rounds = tokio::time::interval(Duration::from_millis(1));
        loop {
            rounds.tick().await;
            let cgroups = Arc::clone(&cgroups);
            let paths = paths.clone();
            let clear = blocking("clear cgroups", move || {
                let mut clear = true;
                for path in &paths {
                    if cgroups
                        .kill(path)
                        .map_err(|e| step(FailureReason::KillPodSandboxError, &e))?
                        > 0
                    {
                        clear = false;
                    } else {
                        clear &= cgroups
                            .remove(path)
                            .map_err(|e| step(FailureReason::KillPodSandboxError, &e))?;
                    }
                }
                Ok(clear)
            })
            .await?;
            if clear {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                return Err(StepError {
                    reason: FailureReason::KillPodSandboxError,
                    message: format!(
                        "processes of pod {uid} are still there {} s after SIGKILL",
                        DEATH.as_secs()
                    ),
                });
            }
        }
    }

    /// The pod's cgroup under whichever quality-of-service class it was made.
    fn pod_cgroups(&self, uid: &Uid) -> [String; 3] {
        let root = &self.settings.cgroup_root;
        [
            format!("{root}/pod{uid}"),
            format!("{root}/burstable/pod{uid}"),
            format!("{root}/besteffort/pod{uid}"),
        ]
    }
}

fn sandbox_error(error: &ShimError) -> StepError {
    step(FailureReason::CreatePodSandboxError, error)
}
