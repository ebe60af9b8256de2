//! One look at one pod: observe, record, decide, act, and again until there is nothing to do but wait.
//!
//! The order of every round is the one that `reconcile`'s doc prescribes: observe, record, decide, begin, save, act. What
//! was seen and what is begun because of it are saved together, before anything is done: one write where there could be
//! three, and a crash before it has lost nothing, since the journals still tell. Steps of one plan are independent: their
//! effects run side by side. The status is written beside them: it is told, never believed.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::acts::{Outcome, Start};
use super::place::Asked;
use super::telling::Telling;
use super::{Controller, POD};
use crate::admit::{self, ModelError};
use crate::model::{Attempt, ContainerSpec, FailedStep, Observed, PodSpec, Snapshot, Step, Timestamp, Uid};
use crate::reconcile::{self, reconcile};
use crate::runtime::{Image, ObserveError, Recorded, Runtime, StepError};
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
    pub(super) controller: Arc<Controller<R>>,
    pub(super) uid: Uid,
    /// Writes of what pods wait for, before this look.
    writes: u64,
}

/// What is known of the pod, and how much of it is stored.
pub(super) struct Record {
    pub(super) stored: Observed,
    pub(super) observed: Observed,
    /// How many of the reports that wait are in `observed`, and not yet in what is stored.
    pub(super) heard: usize,
}

impl<R: Runtime> Pass<R> {
    pub(super) fn new(controller: Arc<Controller<R>>, uid: Uid) -> Self {
        let writes = controller.waiting.writes();
        Self {
            controller,
            uid,
            writes,
        }
    }

    /// When to look again, if not on a hint.
    #[tracing::instrument(name = "reconcile", skip_all, fields(pod.uid = %self.uid))]
    pub(super) async fn run(self) -> Result<Option<Timestamp>, PassError> {
        let store = &self.controller.store;
        let (mut object, stored, snapshot) = tokio::join!(
            store.get_by_uid(POD, &self.uid),
            store.observed(&self.uid),
            self.controller.runtime.observe(&self.uid)
        );
        let (stored, snapshot) = (stored?, snapshot?);
        // What was once taken in hand stays podd's, whatever the node is called by now.
        let in_hand = stored != Observed::default() || !snapshot.sandboxes.is_empty();
        let mut record = Record {
            observed: self.recorded(&stored, &snapshot),
            stored,
            heard: 0,
        };
        for round in 0..ROUNDS {
            let Some(found) = object? else {
                self.look_away();
                return self.remove_orphan().await;
            };
            let (pod, previous) = wire(&found)?;
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            if !in_hand && node != Some(self.controller.node.name.as_str()) {
                return self.leave(&pod).await;
            }
            let desired = admit::to_model(&pod)?;
            if round == 0 {
                self.last_words(&desired, &mut record).await;
                self.forgive(&desired, &mut record);
            }
            match self
                .round(&desired, previous, found.resource_version, &mut record)
                .await?
            {
                Round::Again => {}
                // It failed for something that has been written meanwhile.
                Round::Wait(_) if self.controller.waiting.is_stirred(&self.uid) => return Ok(Some(self.now())),
                Round::Wait(wake_at) => return Ok(wake_at),
                Round::Forgotten => return Ok(None),
            }
            object = store.get_by_uid(POD, &self.uid).await;
        }
        self.save(&mut record).await?;
        Ok(Some(self.now()))
    }

    pub(super) async fn round(
        &self,
        desired: &PodSpec,
        previous: Option<PodStatus>,
        version: u64,
        record: &mut Record,
    ) -> Result<Round, PassError> {
        self.hear(desired, record);
        let now = self.now();
        let telling = self.telling(desired);
        let mut plan = reconcile(now, desired, &record.observed, &self.controller.limits);
        plan.steps.retain(|step| !self.is_under_way(step));
        let allotted = self.make_room(desired, record, &plan.steps).await?;
        if let Some(allotted) = &allotted {
            plan = reconcile(now, allotted, &record.observed, &self.controller.limits);
            let needs_room = |step: &Step| reconcile::needs_room(allotted, &record.observed, step);
            plan.steps.retain(|step| !self.is_under_way(step) && !needs_room(step));
        }
        let told = status(now, &self.controller.node, desired, &record.observed, previous.as_ref());
        telling.waits(&record.observed, previous.as_ref(), &told);
        let told = serde_json::to_value(told).map_err(PassError::Status)?;
        if plan.steps.is_empty() {
            return self.rest(desired, record, version, told, plan.wake_at).await;
        }
        let desired = allotted.as_ref().unwrap_or(desired);
        for step in &plan.steps {
            telling.step(step, &record.observed);
        }
        let (starts, waiting) = self.resolve(desired, &mut record.observed, &plan.steps).await;
        if waiting == plan.steps.len() {
            // Nothing is to be done before a pull ends, which hints at the pod.
            return self.rest(desired, record, version, told, plan.wake_at).await;
        }
        let was_let_in = record.observed.given_up.is_none();
        let address = self.begin(desired, &mut record.observed, &plan.steps, &starts).await?;
        if was_let_in && reconcile::is_rejected(&record.observed) {
            // Nothing of it is begun, and what was about to be told of it is no longer true.
            self.save(record).await?;
            return Ok(Round::Again);
        }
        // What only prepares goes on while this is saved; what acts waits for it.
        let (word, recorded) = Recorded::pending();
        let observed = record.observed.clone();
        let saved_and_told = async {
            let saved = self.save(record).await;
            word.send_replace(Some(saved.is_ok()));
            saved?;
            // One that came too late is told anew in the next round.
            self.report(version, told).await
        };
        let acts = plan
            .steps
            .iter()
            .map(|step| self.act(desired, &observed, step, address, recorded.clone()));
        let starts = starts
            .into_iter()
            .map(|start| self.start(desired, start, address, recorded.clone()));
        let (saved, acts, starts) = tokio::join!(saved_and_told, join_all(acts), join_all(starts));
        saved?;
        let round = self.settle(desired, acts.into_iter().chain(starts), record).await?;
        match round {
            // What was started is probed, whatever else there is to do.
            Round::Again | Round::Wait(_) => self.look_after(desired, &record.observed),
            Round::Forgotten => self.look_away(),
        }
        Ok(round)
    }

    /// There is nothing to do now: keep and tell what is known, and wait.
    async fn rest(
        &self,
        desired: &PodSpec,
        record: &mut Record,
        version: u64,
        told: serde_json::Value,
        wake_at: Option<Timestamp>,
    ) -> Result<Round, PassError> {
        self.save(record).await?;
        self.settle_place(desired, &record.observed).await?;
        self.look_after(desired, &record.observed);
        Ok(if self.report(version, told).await? {
            Round::Wait(wake_at)
        } else {
            Round::Again
        })
    }

    /// Write the status over the version it was made from. False: somebody wrote meanwhile, perhaps a condition that
    /// must not be lost.
    async fn report(&self, version: u64, told: serde_json::Value) -> Result<bool, PassError> {
        match self.controller.store.set_status_over(&self.uid, version, told).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A pod that is bound to no node, or to another one: nothing of it is here. Nobody else removes it once its end is
    /// asked for.
    async fn leave(&self, pod: &Pod) -> Result<Option<Timestamp>, PassError> {
        if pod.metadata.deletion_timestamp.is_some() {
            self.controller.store.forget_pod(&self.uid).await?;
        }
        Ok(None)
    }

    pub(super) fn telling<'a>(&'a self, pod: &'a PodSpec) -> Telling<'a> {
        Telling {
            recorder: &self.controller.recorder,
            pod,
        }
    }

    /// Look at what came of the steps.
    async fn settle(
        &self,
        desired: &PodSpec,
        outcomes: impl Iterator<Item = Outcome>,
        record: &mut Record,
    ) -> Result<Round, PassError> {
        let runtime = &self.controller.runtime;
        record.observed = self.recorded(&record.observed, &runtime.observe(&self.uid).await?);
        self.last_words(desired, record).await;
        let mut round = Round::Again;
        for outcome in outcomes {
            let observed = &mut record.observed;
            match outcome {
                Outcome::Observable => {}
                Outcome::Failed(step, error) => self.fail(desired, observed, step, &error),
                Outcome::NotExecuted(container, attempt, error) => {
                    // Without its word in the journal it would be tried again at once, for ever.
                    let unheard = |a: &Attempt| a.container == container && a.attempt == attempt && a.is_live();
                    if observed.attempts.iter().any(unheard) {
                        self.fail(desired, observed, FailedStep::Container(container), &error);
                    }
                }
                Outcome::SandboxReady(attempt) => {
                    *observed = reconcile::sandbox_ready(self.now(), observed, attempt);
                }
                Outcome::Resized(container, attempt, resources) => {
                    *observed = reconcile::resized(observed, &container, attempt, &resources);
                }
                Outcome::SandboxStopped(attempt) => {
                    // Every end in it is saved first: then its journal is of no further use.
                    self.save(record).await?;
                    record.observed = match runtime.remove_sandbox(&self.uid, attempt).await {
                        Ok(()) => reconcile::sandbox_stopped(self.now(), &record.observed, attempt),
                        Err(error) => {
                            self.fail(desired, &mut record.observed, FailedStep::Teardown, &error);
                            continue;
                        }
                    };
                }
                Outcome::TornDown => {
                    self.controller.room.freed(&self.uid);
                    *observed = reconcile::torn_down(observed);
                }
                Outcome::Removed => round = Round::Forgotten,
            }
        }
        if let Round::Forgotten = round {
            if self.controller.store.forget_pod(&self.uid).await? {
                self.controller.room.freed(&self.uid);
                tracing::info!("pod removed");
            } else {
                // The update that takes the last one away wakes this controller again.
                tracing::debug!("nothing is left of the pod; its finalizers hold the object");
            }
        }
        Ok(round)
    }

    /// What failed for want of something that may be there by now is tried at once.
    fn forgive(&self, desired: &PodSpec, record: &mut Record) {
        let waiting = &self.controller.waiting;
        let mut failures = record.observed.failures.iter();
        if !failures.any(|failure| reconcile::may_be_forgiven(failure.reason)) {
            waiting.forget(&self.uid);
        } else if waiting.end(desired) {
            record.observed = reconcile::forgive(&record.observed);
        }
    }

    /// What is known when this snapshot is added to what was known before.
    fn recorded(&self, known: &Observed, snapshot: &Snapshot) -> Observed {
        reconcile::record(self.now(), &self.controller.boot_id, known, snapshot)
    }

    fn fail(&self, desired: &PodSpec, observed: &mut Observed, step: FailedStep, error: &StepError) {
        self.telling(desired).failed(&step, error);
        tracing::warn!(?step, reason = error.reason.as_str(), error = %error.message, "a step failed");
        if reconcile::may_be_forgiven(error.reason) {
            self.controller.waiting.begin(desired, self.writes);
        }
        *observed = reconcile::failed(self.now(), observed, step, error.reason, error.message.clone());
    }

    /// Find the images of the containers to be started; a start without one is recorded as failed here and now. Also
    /// gives how many starts wait for their images: they are left out, and come again with the next plan.
    async fn resolve<'a>(
        &self,
        desired: &'a PodSpec,
        observed: &mut Observed,
        steps: &[Step],
    ) -> (Vec<Start<'a>>, usize) {
        let mut starts = Vec::new();
        let mut waiting = 0;
        for step in steps {
            let Step::StartContainer {
                container,
                attempt,
                sandbox,
                backoff: _,
            } = step
            else {
                continue;
            };
            let Some(container) = desired.container(container) else {
                continue;
            };
            let mut volumes = Vec::new();
            let image = self.controller.runtime.image(desired, container, &mut volumes).await;
            for news in volumes {
                self.telling(desired).image_volume(news);
            }
            match image {
                Ok(Image::Present { image, pulled }) => {
                    self.telling(desired).pulled(container, pulled);
                    let user = match reconcile::known_user(observed, &container.name, &image.id) {
                        Some(known) => Ok(known.clone()),
                        None => self.controller.runtime.user(desired, container, &image).await,
                    };
                    match user {
                        Ok(user) => starts.push(Start {
                            container,
                            attempt: *attempt,
                            sandbox: *sandbox,
                            image: *image,
                            user,
                        }),
                        Err(error) => {
                            let step = FailedStep::Container(container.name.clone());
                            self.fail(desired, observed, step, &error);
                        }
                    }
                }
                Ok(Image::Pulling {
                    begun,
                    unusable_secrets,
                }) => {
                    if begun {
                        self.telling(desired).pulling(container, &unusable_secrets);
                    }
                    waiting += 1;
                }
                Err(error) => {
                    let step = FailedStep::Container(container.name.clone());
                    self.fail(desired, observed, step, &error);
                }
            }
        }
        (starts, waiting)
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
                    let ip = match self.take_place(desired, observed).await? {
                        Asked::Taken(ip) => ip,
                        Asked::Failed(error) => {
                            self.fail(desired, observed, FailedStep::Sandbox, &error);
                            continue;
                        }
                        Asked::Refused(lack) => {
                            self.turn_away(desired, observed, &lack);
                            continue;
                        }
                    };
                    *observed = reconcile::begin_sandbox(now, &self.controller.boot_id, observed, *attempt, ip);
                }
                Step::StartContainer {
                    container,
                    attempt,
                    sandbox,
                    backoff,
                } => {
                    let start = starts.iter().find(|start| start.container.name == *container);
                    if let Some(start) = start {
                        let begun = reconcile::Start {
                            container,
                            attempt: *attempt,
                            sandbox: *sandbox,
                            backoff: *backoff,
                        };
                        let image = &start.image.id;
                        let ContainerSpec {
                            image: name, resources, ..
                        } = start.container;
                        *observed = reconcile::begin_attempt(observed, begun, name, image.clone(), resources);
                        let repo_digest = start.image.repo_digest.as_deref();
                        *observed = reconcile::started_from(observed, container, *attempt, repo_digest, &start.user);
                    }
                }
                Step::KillContainer { container, attempt } => {
                    *observed = reconcile::begin_kill(now, observed, container, *attempt);
                }
                Step::BeginStop {
                    container,
                    attempt,
                    stop,
                } => *observed = reconcile::begin_stop(now, observed, container, *attempt, stop),
                Step::RunHook {
                    container,
                    attempt,
                    hook,
                } => *observed = reconcile::begin_hook(now, observed, container, *attempt, *hook),
                Step::GiveUp { reason, message } => {
                    *observed = reconcile::gave_up(now, observed, *reason, message.clone());
                }
                Step::Resize { .. }
                | Step::StopSandbox { .. }
                | Step::StopContainer { .. }
                | Step::TearDown
                | Step::Forget => {}
            }
        }
        Ok(observed.sandbox.as_ref().and_then(|sandbox| sandbox.ip))
    }

    /// The machine has something of a pod that the store does not know: the ordinary end, without a record.
    async fn remove_orphan(&self) -> Result<Option<Timestamp>, PassError> {
        let runtime = &self.controller.runtime;
        let snapshot = runtime.observe(&self.uid).await?;
        for sandbox in &snapshot.sandboxes {
            tracing::warn!(sandbox = sandbox.attempt, "removing a sandbox that belongs to no pod");
            runtime
                .stop_sandbox(&self.uid, sandbox.attempt)
                .await
                .map_err(PassError::Orphan)?;
            runtime
                .remove_sandbox(&self.uid, sandbox.attempt)
                .await
                .map_err(PassError::Orphan)?;
        }
        runtime.remove_pod(&self.uid, None).await.map_err(PassError::Orphan)?;
        Ok(None)
    }

    async fn save(&self, record: &mut Record) -> Result<(), PassError> {
        if record.stored != record.observed {
            self.controller
                .store
                .save_observed(&self.uid, &record.stored, &record.observed)
                .await?;
            record.stored = record.observed.clone();
        }
        self.controller.probes.settle(&self.uid, record.heard);
        record.heard = 0;
        if record.observed.given_up.is_some() {
            self.controller.evictions.settle(&self.uid);
        }
        Ok(())
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.controller.clock)()
    }
}

pub(super) enum Round {
    Again,
    Wait(Option<Timestamp>),
    Forgotten,
}

pub(super) fn wire(object: &StoredObject) -> Result<(Pod, Option<PodStatus>), PassError> {
    let mut pod: Pod = serde_json::from_value((*object.json).clone()).map_err(PassError::Wire)?;
    let status = pod.status.take();
    Ok((pod, status))
}
