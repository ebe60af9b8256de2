//! What a container needs on disk before its shim can start it: made when it is asked for, and, for what will most likely
//! be asked for next, ahead of it.
//!
//! Goes in: the pod, the container, its image. Comes out: the request for the shim; or, ahead, nothing: the shim then
//! has a process that waits for that very request.
//!
//! **Invariants:** what is made ahead executes nothing and is no record of anything: it only makes a start faster that is
//! decided and recorded as always. Nothing is made ahead for a sandbox that is being stopped.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::image_volume::{self, VolumeLayers};
use super::machine::{blocking, prepare};
use super::parts::Settings;
use super::shims::Shims;
use super::work::{Joined, Work};
use super::{LogDirName, StepError};
use crate::linux::cgroup::Controls;
use crate::model::{ContainerSpec, PodSpec, ResolvedImage, RestartPolicy, Sources, Uid, User};
use crate::shim::protocol::{Ahead, RequestBody, StartContainer};
use crate::volume::Volumes;

/// A container that has lived so long is worth being ready for its end. Until then the machine has better things to do.
const SETTLED: Duration = Duration::from_millis(100);

/// Makes what containers need.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    shims: Arc<Shims>,
    volumes: Arc<Volumes>,
    settings: Arc<Settings>,
    controls: Arc<Controls>,
    /// The sandboxes that are in use, one of each pod.
    open: Arc<Mutex<HashMap<Uid, Door>>>,
    /// What was made ahead for containers that are about to be started for the first time, by pod and container.
    first: Arc<Mutex<HashMap<(Uid, String), First>>>,
    /// Sandboxes and containers that are being started at this moment.
    busy: Arc<AtomicUsize>,
}

/// Made for exactly this.
#[derive(Debug)]
struct First {
    making: Making,
    start: StartContainer,
}

/// Something is being started for as long as this is there.
#[derive(Debug)]
pub(super) struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether something may be made ahead for a sandbox.
#[derive(Debug, Clone)]
struct Door {
    sandbox: u32,
    /// True until the sandbox is being stopped. Held while something is made, so that nothing is made in a directory that
    /// is about to be removed.
    is_open: Arc<Mutex<bool>>,
}

/// A container of a sandbox, and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Making {
    pub(super) pod: PodSpec,
    pub(super) container: ContainerSpec,
    pub(super) sandbox: u32,
    pub(super) image: ResolvedImage,
    pub(super) user: User,
    /// What it takes from other objects.
    pub(super) sources: Arc<Sources>,
    /// Of the volumes that are images.
    pub(super) volume_layers: VolumeLayers,
    pub(super) ip: Option<IpAddr>,
    pub(super) joined: Joined,
}

impl Making {
    /// Whether this container is started again. Of those that run once it is not known how often they fail.
    fn policy(&self) -> RestartPolicy {
        let is_main = self.pod.containers.iter().any(|main| main.name == self.container.name);
        match self.container.life.restart_policy {
            Some(policy) => policy,
            None if is_main => self.pod.restart_policy,
            None => RestartPolicy::Never,
        }
    }
}

impl Maker {
    pub(super) fn new(shims: Arc<Shims>, volumes: Arc<Volumes>, settings: Settings, controls: Arc<Controls>) -> Self {
        Self {
            shims,
            volumes,
            settings: Arc::new(settings),
            controls,
            open: Arc::default(),
            first: Arc::default(),
            busy: Arc::default(),
        }
    }

    /// Something is being started: what can wait does.
    pub(super) fn busy(&self) -> Busy {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(&self.busy))
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    /// Make what this attempt needs.
    pub(super) async fn make(&self, making: &Making, attempt: u32) -> Result<StartContainer, StepError> {
        let known = (making.pod.uid.clone(), making.container.name.clone());
        let first = guard(&self.first).remove(&known);
        if let Some(First { start, .. }) = first.filter(|first| attempt == 0 && first.making == *making) {
            return Ok(start);
        }
        let (maker, making) = (self.clone(), making.clone());
        blocking("prepare a container", move || maker.make_now(&making, attempt)).await
    }

    fn make_now(&self, making: &Making, attempt: u32) -> Result<StartContainer, StepError> {
        let Making {
            pod,
            container,
            sandbox,
            image,
            user,
            sources,
            volume_layers,
            ip,
            joined,
        } = making;
        let Settings { pods, log_dir, .. } = &*self.settings;
        let work = Work {
            state: pods
                .join(pod.uid.as_str())
                .join(&container.name)
                .join(attempt.to_string()),
            run: self
                .shims
                .sandbox_dir(&pod.uid, *sandbox)
                .join(format!("{}-{attempt}", container.name)),
            log: log_dir
                .join(LogDirName::of(pod).0)
                .join(&container.name)
                .join(format!("{attempt}.log")),
        };
        let mut prepared = prepare(&self.volumes, pod, *ip, &self.settings.node_name, sources)?;
        image_volume::mount(&self.volumes, pod, volume_layers, joined, &mut prepared)?;
        work.prepare(
            pod,
            container,
            attempt,
            image,
            user,
            sources,
            &prepared,
            joined,
            *ip,
            &self.settings,
            &self.controls,
        )
    }

    /// Make this attempt ready, and have the shim make its process. What fails here fails again, and is told, when the
    /// attempt is started.
    pub(super) async fn make_ahead(&self, making: &Making, attempt: u32) {
        let pod = &making.pod;
        // A shim makes nothing ahead where others of the pod could reach it, and the program of an OCI runtime cannot. What
        // waits in a user namespace would have to be made with its ids.
        let shares = pod.share_process_namespace || pod.isolation.host_pid;
        if shares || pod.runtime.class.is_some() || pod.isolation.user_namespace {
            return;
        }
        let (uid, sandbox) = (making.pod.uid.clone(), making.sandbox);
        let door = guard(&self.open)
            .get(&uid)
            .filter(|door| door.sandbox == sandbox)
            .cloned();
        let Some(Door { is_open, .. }) = door else { return };
        let (maker, making) = (self.clone(), making.clone());
        let made = blocking("make an attempt ready", move || {
            let is_open = guard(&is_open);
            if !*is_open {
                return Ok(None);
            }
            let start = maker.make_now(&making, attempt)?;
            if attempt == 0 {
                let known = (making.pod.uid.clone(), making.container.name.clone());
                let first = First {
                    making: making.clone(),
                    start: start.clone(),
                };
                guard(&maker.first).insert(known, first);
            }
            Ok(Some(Ahead {
                after_success: making.policy() == RestartPolicy::Always,
                start,
            }))
        });
        if let Ok(Some(ahead)) = made.await {
            let asked = self.shims.ask(&uid, sandbox, RequestBody::Ahead(Box::new(ahead))).await;
            if let Err(error) = asked {
                tracing::debug!(pod.uid = %uid, %error, "nothing was made ahead");
            }
        }
    }

    /// This attempt runs: make its successor ready in a moment, if it is likely to have one.
    pub(super) fn make_next(&self, making: Making, attempt: u32) {
        if making.policy() == RestartPolicy::Never {
            return;
        }
        let maker = self.clone();
        tokio::spawn(async move {
            // Nothing happens that could be waited for: time passes. While others are being started they come first.
            let mut rounds = tokio::time::interval(SETTLED);
            rounds.tick().await;
            rounds.tick().await;
            while maker.is_busy() {
                rounds.tick().await;
            }
            maker.make_ahead(&making, attempt.saturating_add(1)).await;
        });
    }

    /// In this sandbox containers may be started.
    pub(super) fn open(&self, uid: &Uid, sandbox: u32) {
        let mut open = guard(&self.open);
        if open.get(uid).is_none_or(|door| door.sandbox != sandbox) {
            let is_open = Arc::new(Mutex::new(true));
            open.insert(uid.clone(), Door { sandbox, is_open });
        }
    }

    /// The sandbox is about to be stopped. Waits for what is being made at this moment.
    pub(super) fn close(&self, uid: &Uid) {
        guard(&self.first).retain(|(pod, _), _| pod != uid);
        let door = guard(&self.open).remove(uid);
        if let Some(door) = door {
            *guard(&door.is_open) = false;
        }
    }
}

/// What a thread that panicked left is still true or false.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
