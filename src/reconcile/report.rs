//! What a prober or a hook tells, as a new record.
//!
//! Goes in: the record and a report. Comes out: the new record.
//!
//! **Invariant:** pure. A report of what is not running, not known or not asked for changes nothing; a probe that goes on
//! as before changes nothing either, so that nothing is written for it.
//!
//! Rules: Kubernetes `pkg/kubelet/prober/worker.go doProbe`.

use super::life::{is_post_start_over, is_started};
use crate::model::{
    Attempt, AttemptState, ContainerSpec, Hook, HookRecord, Observed, PodSpec, Probe, ProbeKind, ProbeRecord, Report,
    Reported, Timestamp,
};

/// Fold what a probe or a hook of an attempt came to into the record.
///
/// `now` dates the end of a hook that claims to lie in the future.
pub fn report(now: Timestamp, desired: &PodSpec, observed: &Observed, report: &Report) -> Observed {
    let Report {
        container,
        attempt,
        at,
        what,
    } = report;
    let mut new = observed.clone();
    let known = new
        .attempts
        .iter_mut()
        .find(|known| known.container == *container && known.attempt == *attempt)
        .filter(|known| matches!(known.state, AttemptState::Running { .. }));
    let (Some(known), Some(spec)) = (known, desired.container(container)) else {
        return new;
    };
    match what {
        Reported::Probe { kind, success } => {
            let is_ending = desired.deletion.is_some() || observed.given_up.is_some() || known.life.stop.is_some();
            probed(is_ending, spec, known, *kind, *success);
        }
        Reported::Hook { hook, result } => {
            let record = match hook {
                Hook::PostStart => &mut known.life.post_start,
                Hook::PreStop => &mut known.life.pre_stop,
            };
            let at = (*at).min(now);
            match record {
                HookRecord::NotRun | HookRecord::Begun { .. } => {
                    *record = match result {
                        Ok(()) => HookRecord::Done { at },
                        Err(message) => HookRecord::Failed {
                            at,
                            message: message.clone(),
                        },
                    };
                }
                HookRecord::Done { .. } | HookRecord::Failed { .. } => {}
            }
        }
    }
    new
}

fn probed(is_ending: bool, spec: &ContainerSpec, attempt: &mut Attempt, kind: ProbeKind, success: bool) {
    let counts = match kind {
        // Any result of a startup probe holds until there is a new attempt.
        ProbeKind::Startup => !is_ending && is_post_start_over(spec, attempt) && attempt.life.startup.result.is_none(),
        ProbeKind::Liveness => !is_ending && is_started(spec, attempt) && attempt.life.liveness.result != Some(false),
        ProbeKind::Readiness => is_started(spec, attempt),
    };
    if !counts {
        return;
    }
    let life = &mut attempt.life;
    let (probe, record) = match kind {
        ProbeKind::Startup => (&spec.life.startup, &mut life.startup),
        ProbeKind::Liveness => (&spec.life.liveness, &mut life.liveness),
        ProbeKind::Readiness => (&spec.life.readiness, &mut life.readiness),
    };
    if let Some(probe) = probe {
        count(probe, record, success);
    }
}

/// One more outcome: from its threshold on it is the result.
fn count(probe: &Probe, record: &mut ProbeRecord, success: bool) {
    let threshold = if success {
        probe.success_threshold
    } else {
        probe.failure_threshold
    };
    let before = if record.last == Some(success) { record.count } else { 0 };
    record.last = Some(success);
    record.count = before.saturating_add(1).min(threshold.max(1));
    if record.count >= threshold {
        record.result = Some(success);
    }
}
