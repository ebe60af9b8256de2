//! Probes and hooks: what is asked of a container while it runs, and what came of it.
//!
//! Goes in: a pod and its record, after each round of the controller ([`Probes::watch`]), and hooks to be begun
//! ([`Probes::begin_hook`]). Comes out: [`Report`]s for the record, a hint to the controller for each, and events.
//!
//! ```text
//! controller ── watch ──▶ one worker for each probe that is due ──▶ exec │ http │ tcp │ grpc
//!            ◀── hint ─── report, where it can change the record ◀──┘
//! ```
//!
//! The rules are a kubelet's: `pkg/kubelet/prober/{prober_manager,worker,prober}.go` and `lifecycle/handlers.go`.
//!
//! **Invariants:** nothing is decided here: which probe is due tells `reconcile`, from the record, and what an outcome
//! means does, too. No result lives here but until it is recorded. Nobody waits for a probe or a hook.

mod action;
mod exec;
mod grpc;
mod http;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod words;
mod worker;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::event::{Recorder, Severity, Source, Subject};
use crate::model::{
    Action, Attempt, AttemptState, ContainerSpec, Hook, HookRecord, Observed, PodSpec, Probe, ProbeKind, ProbeRecord,
    Report, Reported, Timestamp, Uid,
};
use crate::reconcile::probes_due;
use crate::runtime::stream::Streams;
use worker::Worker;

/// What probes and hooks work with.
#[derive(Debug)]
pub struct Parts {
    /// Runs programs in containers.
    pub streams: Arc<dyn Streams>,
    /// Wakes the controller.
    pub hints: mpsc::UnboundedSender<Uid>,
    /// Where failures are told, for people.
    pub recorder: Recorder,
    /// The address of pods that have the host's network.
    pub node_ip: IpAddr,
    /// The time, for reports.
    pub clock: fn() -> Timestamp,
}

/// All probes and hooks of this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Probes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Parts,
    /// When this agent began: what runs longer is probed for the first time at some moment of its period, so that all
    /// of it is not probed at once.
    since: Timestamp,
    pods: Mutex<HashMap<Uid, Pod>>,
}

/// What is under way for one pod, and what was not yet taken into its record.
#[derive(Debug, Default)]
struct Pod {
    probes: HashMap<ProbeKey, Probing>,
    hooks: HashMap<HookKey, AbortOnDropHandle<()>>,
    reports: Vec<Report>,
}

impl Pod {
    fn is_empty(&self) -> bool {
        self.probes.is_empty() && self.hooks.is_empty() && self.reports.is_empty()
    }

    fn has_reported(&self, key: &HookKey) -> bool {
        self.reports.iter().any(|report| match &report.what {
            Reported::Hook { hook, result: _ } => {
                report.container == key.container && report.attempt == key.attempt && *hook == key.hook
            }
            Reported::Probe { .. } => false,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ProbeKey {
    container: String,
    attempt: u32,
    kind: ProbeKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct HookKey {
    container: String,
    attempt: u32,
    hook: Hook,
}

/// A worker, and what the record says of its probe.
#[derive(Debug)]
struct Probing {
    known: ProbeRecord,
    success_threshold: u32,
    failure_threshold: u32,
    _worker: AbortOnDropHandle<()>,
}

impl Probing {
    /// Whether one more such outcome changes nothing in the record: its count stands at its threshold.
    fn is_known(&self, success: bool) -> bool {
        let threshold = if success {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        self.known.result == Some(success) && self.known.last == Some(success) && self.known.count >= threshold
    }
}

/// Which container is meant, and how it is reached.
#[derive(Debug, Clone)]
struct Target {
    uid: Uid,
    /// `<name>_<namespace>(<uid>)`, as a kubelet writes it.
    pod: String,
    container: String,
    attempt: u32,
    /// Where it is asked, if its probe names no host of its own.
    address: Option<IpAddr>,
    subject: Subject,
}

impl Probes {
    pub fn new(parts: Parts) -> Self {
        let since = (parts.clock)();
        Self(Arc::new(Inner {
            parts,
            since,
            pods: Mutex::default(),
        }))
    }

    /// From now on probe what this record says is due, and nothing else of this pod. Hooks of attempts that have ended,
    /// and preStop hooks whose time is over, are cut off. Doing it again with the same record changes nothing.
    pub fn watch(&self, pod: &PodSpec, observed: &Observed) {
        let probed = pod.init_containers.iter().chain(&pod.containers).any(has_probes);
        let mut pods = self.0.pods();
        if !probed && !pods.contains_key(&pod.uid) {
            return;
        }
        let state = pods.entry(pod.uid.clone()).or_default();
        state.hooks.retain(|key, _| {
            let attempt = attempt_of(observed, &key.container, key.attempt);
            attempt.is_some_and(|attempt| may_go_on(attempt, key.hook))
        });
        let mut due = HashMap::new();
        for container in pod.init_containers.iter().chain(&pod.containers) {
            if !has_probes(container) {
                continue;
            }
            let Some(attempt) = observed.newest(&container.name) else {
                continue;
            };
            let AttemptState::Running { started_at } = attempt.state else {
                continue;
            };
            for kind in probes_due(pod, observed, &container.name) {
                let Some(probe) = probe_of(container, kind) else {
                    continue;
                };
                let key = ProbeKey {
                    container: container.name.clone(),
                    attempt: attempt.attempt,
                    kind,
                };
                let known = record_of(attempt, kind).clone();
                let probing = match state.probes.remove(&key) {
                    Some(probing) => Probing { known, ..probing },
                    None => self.begin_probing(pod, observed, attempt, started_at, probe, kind),
                };
                due.insert(key, probing);
            }
        }
        // What is not due any more is cut off here.
        state.probes = due;
        if state.is_empty() {
            pods.remove(&pod.uid);
        }
    }

    fn begin_probing(
        &self,
        pod: &PodSpec,
        observed: &Observed,
        attempt: &Attempt,
        started_at: Timestamp,
        probe: &Probe,
        kind: ProbeKind,
    ) -> Probing {
        let inner = &self.0;
        let now = (inner.parts.clock)();
        let wait = worker::first_wait(now, started_at, inner.since, probe, worker::random());
        let worker = Worker {
            inner: Arc::clone(inner),
            target: inner.target(pod, observed, &attempt.container, attempt.attempt),
            probe: probe.clone(),
            kind,
        };
        Probing {
            known: record_of(attempt, kind).clone(),
            success_threshold: probe.success_threshold,
            failure_threshold: probe.failure_threshold,
            _worker: AbortOnDropHandle::new(tokio::spawn(worker.run(wait))),
        }
    }

    /// Begin a hook of this attempt, unless it is under way. It is recorded as begun before.
    pub fn begin_hook(&self, pod: &PodSpec, observed: &Observed, container: &str, attempt: u32, hook: Hook) {
        let inner = &self.0;
        let key = HookKey {
            container: container.to_owned(),
            attempt,
            hook,
        };
        let mut pods = inner.pods();
        let state = pods.entry(pod.uid.clone()).or_default();
        if state.hooks.contains_key(&key) || state.has_reported(&key) {
            return;
        }
        let action = pod.container(container).and_then(|spec| match hook {
            Hook::PostStart => spec.life.post_start.clone(),
            Hook::PreStop => spec.life.pre_stop.clone(),
        });
        let begun_at = attempt_of(observed, container, attempt).and_then(|attempt| {
            let record = match hook {
                Hook::PostStart => &attempt.life.post_start,
                Hook::PreStop => &attempt.life.pre_stop,
            };
            match record {
                HookRecord::Begun { at } => Some(*at),
                HookRecord::NotRun | HookRecord::Done { .. } | HookRecord::Failed { .. } => None,
            }
        });
        let run = RunningHook {
            inner: Arc::clone(inner),
            target: inner.target(pod, observed, container, attempt),
            key: key.clone(),
        };
        let handle = tokio::spawn(run.run(action, begun_at));
        state.hooks.insert(key, AbortOnDropHandle::new(handle));
    }

    /// Whether this agent runs this hook, or has run it and its report is not recorded yet. To begin it again, or to
    /// look again at once because of it, is of no use.
    pub fn is_under_way(&self, uid: &Uid, container: &str, attempt: u32, hook: Hook) -> bool {
        let pods = self.0.pods();
        let key = HookKey {
            container: container.to_owned(),
            attempt,
            hook,
        };
        pods.get(uid)
            .is_some_and(|state| state.hooks.contains_key(&key) || state.has_reported(&key))
    }

    /// What has come in and is not [settled](Self::settle), in order, but for the first `known`.
    pub fn reports(&self, uid: &Uid, known: usize) -> Vec<Report> {
        let pods = self.0.pods();
        let reports = pods.get(uid).and_then(|state| state.reports.get(known..));
        reports.map(<[Report]>::to_vec).unwrap_or_default()
    }

    /// The first `count` reports are in the record, and the record is stored.
    pub fn settle(&self, uid: &Uid, count: usize) {
        if count == 0 {
            return;
        }
        let mut pods = self.0.pods();
        if let Some(state) = pods.get_mut(uid) {
            state.reports.drain(..count.min(state.reports.len()));
            if state.is_empty() {
                pods.remove(uid);
            }
        }
    }

    /// The pod is no more: nothing is asked of it, and nothing that it answered is of interest.
    pub fn forget(&self, uid: &Uid) {
        self.0.pods().remove(uid);
    }
}

impl Inner {
    fn pods(&self) -> MutexGuard<'_, HashMap<Uid, Pod>> {
        // What a panic left is whole: every change of it is one call.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        (self.parts.clock)()
    }

    fn target(&self, pod: &PodSpec, observed: &Observed, container: &str, attempt: u32) -> Target {
        let address = if pod.host_network {
            Some(self.parts.node_ip)
        } else {
            observed.sandbox.as_ref().and_then(|sandbox| sandbox.ip)
        };
        Target {
            uid: pod.uid.clone(),
            pod: format!("{}_{}({})", pod.name, pod.namespace, pod.uid),
            container: container.to_owned(),
            attempt,
            address,
            subject: Subject::container(pod, container),
        }
    }

    fn warn(&self, target: &Target, reason: &'static str, message: String) {
        let subject = target.subject.clone();
        self.parts
            .recorder
            .tell(Source::Kubelet, subject, Severity::Warning, reason, message);
    }

    /// A probe was carried out. Where the record says as much already, nobody needs to know.
    fn probed(&self, target: &Target, kind: ProbeKind, success: bool) {
        let key = ProbeKey {
            container: target.container.clone(),
            attempt: target.attempt,
            kind,
        };
        let mut pods = self.pods();
        let Some(state) = pods.get_mut(&target.uid) else { return };
        // Cut off meanwhile: it is not due any more.
        let Some(probing) = state.probes.get(&key) else { return };
        let waiting = state.reports.iter().any(|report| {
            let of_this_probe = matches!(&report.what, Reported::Probe { kind: told, .. } if *told == kind);
            of_this_probe && report.container == key.container && report.attempt == key.attempt
        });
        // While others of this probe wait to be recorded, the record is not what it will be.
        if probing.is_known(success) && !waiting {
            return;
        }
        state.reports.push(Report {
            container: key.container,
            attempt: key.attempt,
            at: self.now(),
            what: Reported::Probe { kind, success },
        });
        self.hint(&target.uid);
    }

    /// A hook has ended.
    fn hooked(&self, target: &Target, key: HookKey, result: Result<(), String>) {
        let mut pods = self.pods();
        let Some(state) = pods.get_mut(&target.uid) else { return };
        // Cut off meanwhile: its time was over.
        if state.hooks.remove(&key).is_none() {
            return;
        }
        let HookKey {
            container,
            attempt,
            hook,
        } = key;
        state.reports.push(Report {
            container,
            attempt,
            at: self.now(),
            what: Reported::Hook { hook, result },
        });
        self.hint(&target.uid);
    }

    fn hint(&self, uid: &Uid) {
        // The controller has ended: its agent is stopping.
        let _ = self.parts.hints.send(uid.clone());
    }
}

/// A hook while it runs.
struct RunningHook {
    inner: Arc<Inner>,
    target: Target,
    key: HookKey,
}

impl RunningHook {
    async fn run(self, action: Option<Action>, begun_at: Option<Timestamp>) {
        let Self { inner, target, key } = self;
        let spent = begun_at.map_or(Duration::ZERO, |at| worker::since(at, inner.now()));
        let result = action::run_hook(&inner, &target, action.as_ref(), spent).await;
        if let Err(error) = &result {
            // The text may hold a secret that the server told: events do not have it.
            let (reason, message) = match key.hook {
                Hook::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
                Hook::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
            };
            tracing::debug!(pod = %target.pod, container = %target.container, hook = ?key.hook, %error, "a hook failed");
            inner.warn(&target, reason, message.to_owned());
        }
        inner.hooked(&target, key, result.map_err(|error| error.to_string()));
    }
}

fn has_probes(container: &ContainerSpec) -> bool {
    let life = &container.life;
    life.startup.is_some() || life.liveness.is_some() || life.readiness.is_some()
}

fn probe_of(container: &ContainerSpec, kind: ProbeKind) -> Option<&Probe> {
    let life = &container.life;
    match kind {
        ProbeKind::Startup => life.startup.as_ref(),
        ProbeKind::Liveness => life.liveness.as_ref(),
        ProbeKind::Readiness => life.readiness.as_ref(),
    }
}

fn record_of(attempt: &Attempt, kind: ProbeKind) -> &ProbeRecord {
    match kind {
        ProbeKind::Startup => &attempt.life.startup,
        ProbeKind::Liveness => &attempt.life.liveness,
        ProbeKind::Readiness => &attempt.life.readiness,
    }
}

fn attempt_of<'a>(observed: &'a Observed, container: &str, attempt: u32) -> Option<&'a Attempt> {
    let mut attempts = observed.attempts.iter();
    attempts.find(|known| known.container == container && known.attempt == attempt)
}

/// A preStop hook has its time until the container is signalled.
fn may_go_on(attempt: &Attempt, hook: Hook) -> bool {
    let signalled = attempt.stop_signalled_at.is_some() || attempt.killed_at.is_some();
    attempt.is_live() && !(hook == Hook::PreStop && signalled)
}
