//! What a look hears of the life of its pod's containers: from probes, from hooks, and from those that have ended.

use futures_util::future::join_all;

use super::Controller;
use super::pass::{Pass, Record};
use crate::model::{Attempt, AttemptState, ContainerSpec, Exit, GivenUpReason, Observed, PodSpec, Step};
use crate::reconcile;
use crate::runtime::Runtime;

impl<R: Runtime> Pass<R> {
    /// Take in what probes and hooks have reported. It is theirs until it is saved.
    pub(super) fn hear(&self, desired: &PodSpec, record: &mut Record) {
        for report in self.controller.probes.reports(&self.uid, record.heard) {
            record.observed = reconcile::report(self.now(), desired, &record.observed, &report);
            record.heard += 1;
        }
        self.hear_of_excess(desired, record);
    }

    /// A pod that uses more of the disk than it may is given up, unless it ends anyway.
    fn hear_of_excess(&self, desired: &PodSpec, record: &mut Record) {
        let Some(message) = self.controller.evictions.verdict(&self.uid) else {
            return;
        };
        let observed = &record.observed;
        if desired.deletion.is_some() || observed.torn_down || reconcile::is_finished(desired, observed) {
            self.controller.evictions.settle(&self.uid);
            return;
        }
        let reason = GivenUpReason::Evicted;
        let step = Step::GiveUp {
            reason,
            message: message.clone(),
        };
        self.telling(desired).step(&step, observed);
        record.observed = reconcile::gave_up(self.now(), observed, reason, message);
    }

    /// From now on look after what runs of the pod, and count what it asks for.
    pub(super) fn look_after(&self, desired: &PodSpec, observed: &Observed) {
        let Controller {
            probes,
            evictions,
            runtime,
            ..
        } = &*self.controller;
        probes.watch(desired, observed);
        evictions.watch(desired, observed);
        runtime.weigh(desired, !observed.torn_down);
    }

    /// The pod is no more.
    pub(super) fn look_away(&self) {
        let Controller {
            probes,
            evictions,
            runtime,
            waiting,
            ..
        } = &*self.controller;
        waiting.forget(&self.uid);
        probes.forget(&self.uid);
        evictions.forget(&self.uid);
        runtime.forget(&self.uid);
    }

    /// A hook that this agent runs: its end comes as a report, and until then there is nothing to do.
    pub(super) fn is_under_way(&self, step: &Step) -> bool {
        match step {
            Step::RunHook {
                container,
                attempt,
                hook,
            } => self
                .controller
                .probes
                .is_under_way(&self.uid, container, *attempt, *hook),
            Step::CreateSandbox { .. }
            | Step::StopSandbox { .. }
            | Step::StartContainer { .. }
            | Step::BeginStop { .. }
            | Step::Resize { .. }
            | Step::GiveUp { .. }
            | Step::StopContainer { .. }
            | Step::KillContainer { .. }
            | Step::TearDown
            | Step::Forget => false,
        }
    }

    /// Ask attempts whose end is seen for the first time for their termination messages, before that end is saved.
    pub(super) async fn last_words(&self, desired: &PodSpec, record: &mut Record) {
        let Record { stored, observed, .. } = record;
        let asked = observed.attempts.iter().enumerate().filter_map(|(index, attempt)| {
            let exit = attempt.exit().filter(|exit| exit.message.is_empty())?;
            let container = desired.container(&attempt.container)?;
            is_new(stored, attempt).then(|| self.last_words_of(desired, index, container, attempt, exit))
        });
        for (index, message) in join_all(asked.collect::<Vec<_>>()).await {
            if let Some(AttemptState::Exited(exit)) = observed.attempts.get_mut(index).map(|attempt| &mut attempt.state)
            {
                exit.message = message;
            }
        }
    }

    async fn last_words_of(
        &self,
        desired: &PodSpec,
        index: usize,
        container: &ContainerSpec,
        attempt: &Attempt,
        exit: &Exit,
    ) -> (usize, String) {
        let failed = !exit.status.is_success();
        let runtime = &self.controller.runtime;
        let message = runtime.termination_message(desired, container, attempt.attempt, failed);
        (index, message.await)
    }
}

/// What is stored knows nothing of this end.
fn is_new(stored: &Observed, ended: &Attempt) -> bool {
    !stored
        .attempts
        .iter()
        .any(|known| known.container == ended.container && known.attempt == ended.attempt && known.exit().is_some())
}
