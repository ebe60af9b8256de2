//! One look at one pod: observe, record, decide, act, and again until there is nothing to do but wait.
//!
//! The order of every round, which the simulation of `reconcile` repeats step by step:
//! 1. observe the machine, fold that into the record, save it;
//! 2. decide; write the status (beside the steps: it is told, not believed);
//! 3. for the steps: resolve what they need, record all of their beginnings in one save, carry them out side by side,
//!    record their outcomes in one save.
//!
//! A crash between any two of these repeats a step under the attempt it had, which does nothing the second time.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::{Controller, POD};
use crate::admit::{self, ModelError};
use crate::model::{
    ContainerSpec, FailedStep, FailureReason, Observed, PodSpec, ResolvedImage, SandboxState, Snapshot, Step, Timestamp,
    Uid,
};
use crate::reconcile::{self, reconcile};
use crate::runtime::{LogDirName, ObserveError, Runtime, StepError};
use crate::status::status;
use crate::store::{StoreError, StoredObject};

/// After so many rounds a look is ended and the pod queued again, so that one pod cannot keep the others waiting.
const ROUNDS: usize = 64;

/// A look could not be finished; it is repeated soon.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    #[error("the store failed: {0}")]
    Store(#[from] StoreError),
    #[error("the machine could not be observed: {0}")]
    Observe(#[from] ObserveError),
    #[error("the stored pod cannot be understood: {0}")]
    Model(#[from] ModelError),
    #[error("the stored pod is not a Pod: {0}")]
    Wire(#[source] serde_json::Error),
    #[error("the status could not be written as JSON: {0}")]
    Status(#[source] serde_json::Error),
    #[error("step of an orphan failed: {0}")]
    Orphan(#[source] StepError),
}

pub(super) struct Pass<R> {
    controller: Arc<Controller<R>>,
    uid: Uid,
}

/// A container start whose image is known.
struct Start<'a> {
    container: &'a ContainerSpec,
    attempt: u32,
    sandbox: u32,
    image: ResolvedImage,
}

/// What became of a step.
enum Outcome {
    /// Nothing to record beyond what the machine tells when it is observed.
    Observable,
    Done(FailedStep),
    Failed(FailedStep, StepError),
    SandboxReady(u32),
    SandboxStopped(u32),
    TornDown,
}

impl<R: Runtime> Pass<R> {
    pub(super) fn new(controller: Arc<Controller<R>>, uid: Uid) -> Self {
        Self { controller, uid }
    }

    /// When to look again, if not on a hint.
    #[tracing::instrument(name = "reconcile", skip_all, fields(pod.uid = %self.uid))]
    pub(super) async fn run(self) -> Result<Option<Timestamp>, PassError> {
        for _ in 0..ROUNDS {
            let Some(object) = self.controller.store.get_by_uid(POD, &self.uid).await? else {
                return self.remove_orphan().await;
            };
            let (pod, previous) = wire(&object)?;
            let desired = admit::to_model(&pod)?;
            match self.round(&desired, previous).await? {
                Round::Again => {}
                Round::Wait(wake_at) => return Ok(wake_at),
                Round::Forgotten => return Ok(None),
            }
        }
        Ok(Some(self.now()))
    }

    async fn round(&self, desired: &PodSpec, previous: Option<PodStatus>) -> Result<Round, PassError> {
        let store = &self.controller.store;
        let snapshot = self.controller.runtime.observe(&self.uid).await?;
        let recorded = store.observed(&self.uid).await?;
        let mut observed = reconcile::record(self.now(), &self.controller.boot_id, &recorded, &snapshot);
        self.save(&recorded, &observed).await?;
        self.sweep(&observed, &snapshot).await;

        let plan = reconcile(self.now(), desired, &observed, &self.controller.limits);
        if plan.steps.contains(&Step::Forget) {
            store.forget_pod(&self.uid).await?;
            tracing::info!(pod.name = %desired.name, pod.namespace = %desired.namespace, "pod removed");
            return Ok(Round::Forgotten);
        }
        let told = status(self.now(), &self.controller.node, desired, &observed, previous.as_ref());
        let told = serde_json::to_value(told).map_err(PassError::Status)?;
        if plan.steps.is_empty() {
            store.set_status(&self.uid, told).await?;
            return Ok(Round::Wait(plan.wake_at));
        }
        let (written, acted) =
            tokio::join!(store.set_status(&self.uid, told), self.execute(desired, &mut observed, &plan.steps));
        match written {
            // Deleted and forgotten meanwhile: the next round finds it gone.
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        acted?;
        Ok(Round::Again)
    }

    /// Carry out the steps of one plan.
    async fn execute(&self, desired: &PodSpec, observed: &mut Observed, steps: &[Step]) -> Result<(), PassError> {
        let before = observed.clone();
        let starts = self.resolve(desired, observed, steps).await;
        let address = self.begin(desired, observed, steps, &starts).await?;
        self.save(&before, observed).await?;

        let mut outcomes = join_all(starts.into_iter().map(|start| self.start(desired, start, address))).await;
        outcomes.extend(join_all(steps.iter().map(|step| self.act(desired, step, address))).await.into_iter().flatten());

        // What the machine says first: an outcome must not be recorded over facts that were not.
        let begun = observed.clone();
        let snapshot = self.controller.runtime.observe(&self.uid).await?;
        *observed = reconcile::record(self.now(), &self.controller.boot_id, observed, &snapshot);
        let mut removable = Vec::new();
        for outcome in outcomes {
            *observed = match outcome {
                Outcome::Observable => continue,
                Outcome::Done(step) => reconcile::succeeded(observed, &step),
                Outcome::Failed(step, error) => {
                    tracing::warn!(?step, reason = error.reason.as_str(), error = %error.message, "a step failed");
                    reconcile::failed(self.now(), observed, step, error.reason, error.message)
                }
                Outcome::SandboxReady(attempt) => reconcile::sandbox_ready(self.now(), observed, attempt),
                Outcome::SandboxStopped(attempt) => {
                    removable.push(attempt);
                    reconcile::sandbox_stopped(self.now(), observed, attempt)
                }
                Outcome::TornDown => reconcile::torn_down(observed),
            };
        }
        self.save(&begun, observed).await?;
        // Only now is a journal of no further use.
        for attempt in removable {
            if let Err(error) = self.controller.runtime.remove_sandbox(&self.uid, attempt).await {
                tracing::warn!(sandbox = attempt, error = %error.message, "cannot remove a stopped sandbox yet");
            }
        }
        Ok(())
    }

    /// Find the images of the containers to be started; a start without one is recorded as failed here and now.
    async fn resolve<'a>(&self, desired: &'a PodSpec, observed: &mut Observed, steps: &[Step]) -> Vec<Start<'a>> {
        let mut starts = Vec::new();
        for step in steps {
            let Step::StartContainer { container, attempt, sandbox, backoff: _ } = step else { continue };
            let Some(container) = desired.container(container) else { continue };
            match self.controller.runtime.image(container).await {
                Ok(image) => starts.push(Start { container, attempt: *attempt, sandbox: *sandbox, image }),
                Err(error) => {
                    tracing::warn!(container = %container.name, reason = error.reason.as_str(), error = %error.message, "no image");
                    let step = FailedStep::Container(container.name.clone());
                    *observed = reconcile::failed(self.now(), observed, step, error.reason, error.message);
                }
            }
        }
        starts
    }

    /// Record what is about to be done. Returns the pod's address.
    async fn begin(
        &self,
        desired: &PodSpec,
        observed: &mut Observed,
        steps: &[Step],
        starts: &[Start<'_>],
    ) -> Result<Option<IpAddr>, PassError> {
        let now = self.now();
        for step in steps {
            match step {
                Step::CreateSandbox { attempt } => {
                    let ip = if desired.host_network {
                        None
                    } else {
                        let (first, last) = self.controller.pool;
                        match self.controller.store.address(&self.uid, first, last).await {
                            Ok(ip) => Some(IpAddr::V4(ip)),
                            Err(error @ StoreError::NoAddress { .. }) => {
                                *observed = reconcile::failed(
                                    now,
                                    observed,
                                    FailedStep::Sandbox,
                                    FailureReason::CreatePodSandboxError,
                                    error.to_string(),
                                );
                                continue;
                            }
                            Err(error) => return Err(error.into()),
                        }
                    };
                    *observed = reconcile::begin_sandbox(now, &self.controller.boot_id, observed, *attempt, ip);
                }
                Step::StartContainer { container, attempt, sandbox, backoff } => {
                    let start = starts.iter().find(|start| start.container.name == *container);
                    if let Some(start) = start {
                        *observed = reconcile::begin_attempt(
                            now,
                            observed,
                            container,
                            *attempt,
                            *sandbox,
                            *backoff,
                            &start.container.image,
                            start.image.id.clone(),
                        );
                    }
                }
                Step::StopSandbox { .. }
                | Step::StopContainer { .. }
                | Step::KillContainer { .. }
                | Step::TearDown
                | Step::Forget => {}
            }
        }
        Ok(observed.sandbox.as_ref().and_then(|sandbox| sandbox.ip))
    }

    async fn start(&self, desired: &PodSpec, start: Start<'_>, ip: Option<IpAddr>) -> Outcome {
        let Start { container, attempt, sandbox, image } = start;
        let runtime = &self.controller.runtime;
        let step = FailedStep::Container(container.name.clone());
        match runtime.start_container(desired, container, attempt, sandbox, &image, ip).await {
            Ok(()) => {
                tracing::info!(pod.name = %desired.name, container = %container.name, attempt, "container started");
                if let Some(old) = attempt.checked_sub(2) {
                    // What `lastState` and `logs --previous` need of the attempt before is not in its root file system.
                    if let Err(error) = runtime.remove_old_attempt(&self.uid, sandbox, &container.name, old).await {
                        tracing::warn!(container = %container.name, attempt = old, error = %error.message, "cannot remove an old attempt yet");
                    }
                }
                Outcome::Done(step)
            }
            // The attempt itself says so (StartError): its back-off is the container's.
            Err(error) if error.reason == FailureReason::RunContainerError => {
                tracing::warn!(pod.name = %desired.name, container = %container.name, attempt, error = %error.message, "container could not be executed");
                Outcome::Done(step)
            }
            Err(error) => Outcome::Failed(step, error),
        }
    }

    async fn act(&self, desired: &PodSpec, step: &Step, ip: Option<IpAddr>) -> Option<Outcome> {
        let runtime = &self.controller.runtime;
        let uid = &self.uid;
        let outcome = match step {
            Step::StartContainer { .. } | Step::Forget => return None,
            Step::CreateSandbox { attempt } => {
                if ip.is_none() && !desired.host_network {
                    return None;
                }
                match runtime.create_sandbox(desired, *attempt, ip).await {
                    Ok(()) => Outcome::SandboxReady(*attempt),
                    Err(error) => Outcome::Failed(FailedStep::Sandbox, error),
                }
            }
            Step::StopSandbox { attempt } => match runtime.stop_sandbox(uid, *attempt).await {
                Ok(()) => Outcome::SandboxStopped(*attempt),
                Err(error) => Outcome::Failed(FailedStep::Teardown, error),
            },
            Step::StopContainer { container, attempt } => {
                let sandbox = self.sandbox_of(desired, container, *attempt).await?;
                signalled(container, runtime.stop_container(uid, sandbox, container, *attempt).await)
            }
            Step::KillContainer { container, attempt } => {
                let sandbox = self.sandbox_of(desired, container, *attempt).await?;
                signalled(container, runtime.kill_container(uid, sandbox, container, *attempt).await)
            }
            Step::TearDown => self.tear_down(desired).await,
        };
        Some(outcome)
    }

    async fn sandbox_of(&self, _desired: &PodSpec, container: &str, attempt: u32) -> Option<u32> {
        let observed = self.controller.store.observed(&self.uid).await.ok()?;
        observed.attempts.iter().find(|a| a.container == container && a.attempt == attempt).map(|a| a.sandbox)
    }

    async fn tear_down(&self, desired: &PodSpec) -> Outcome {
        let logs = desired.deletion.map(|_| LogDirName::of(desired));
        if let Err(error) = self.controller.runtime.remove_pod(&self.uid, logs.as_ref()).await {
            return Outcome::Failed(FailedStep::Teardown, error);
        }
        match self.controller.store.release_address(&self.uid).await {
            Ok(()) => Outcome::TornDown,
            Err(error) => Outcome::Failed(
                FailedStep::Teardown,
                StepError { reason: FailureReason::KillPodSandboxError, message: error.to_string() },
            ),
        }
    }

    /// Sandboxes that the record has done with and the machine has not: a crash came between.
    async fn sweep(&self, observed: &Observed, snapshot: &Snapshot) {
        for sandbox in &snapshot.sandboxes {
            let done = observed.sandbox.as_ref().is_some_and(|newest| match &newest.state {
                SandboxState::Stopped { .. } => sandbox.attempt <= newest.attempt,
                SandboxState::Creating | SandboxState::Ready { .. } | SandboxState::Dead { .. } => {
                    sandbox.attempt < newest.attempt
                }
            });
            if done && !sandbox.shim_alive {
                if let Err(error) = self.controller.runtime.remove_sandbox(&self.uid, sandbox.attempt).await {
                    tracing::warn!(sandbox = sandbox.attempt, error = %error.message, "cannot remove an old sandbox yet");
                }
            }
        }
    }

    /// The machine has something of a pod that the store does not know: the ordinary end, without a record.
    async fn remove_orphan(&self) -> Result<Option<Timestamp>, PassError> {
        let runtime = &self.controller.runtime;
        let snapshot = runtime.observe(&self.uid).await?;
        for sandbox in &snapshot.sandboxes {
            tracing::warn!(sandbox = sandbox.attempt, "removing a sandbox that belongs to no pod");
            runtime.stop_sandbox(&self.uid, sandbox.attempt).await.map_err(PassError::Orphan)?;
            runtime.remove_sandbox(&self.uid, sandbox.attempt).await.map_err(PassError::Orphan)?;
        }
        runtime.remove_pod(&self.uid, None).await.map_err(PassError::Orphan)?;
        Ok(None)
    }

    async fn save(&self, before: &Observed, after: &Observed) -> Result<(), PassError> {
        if before != after {
            self.controller.store.save_observed(&self.uid, before, after).await?;
        }
        Ok(())
    }

    fn now(&self) -> Timestamp {
        (self.controller.clock)()
    }
}

enum Round {
    Again,
    Wait(Option<Timestamp>),
    Forgotten,
}

/// A signal that could not be sent is a failed teardown; one that was sent shows in the journal.
fn signalled(container: &str, result: Result<(), StepError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Observable,
        Err(error) => {
            tracing::warn!(container, error = %error.message, "cannot signal a container");
            Outcome::Failed(FailedStep::Teardown, error)
        }
    }
}

fn wire(object: &StoredObject) -> Result<(Pod, Option<PodStatus>), PassError> {
    let mut pod: Pod = serde_json::from_value((*object.json).clone()).map_err(PassError::Wire)?;
    let status = pod.status.take();
    Ok((pod, status))
}
