//! A pod on a machine where every step succeeds at once, told in short words: for tables over many rounds.

use super::testing::{at, ready};
use super::*;
use crate::model::{AttemptState, Exit, ExitStatus, Hook, ImageId, ProbeKind, Report, Reported, StopReason};

pub(crate) struct Course {
    pub(crate) desired: PodSpec,
    pub(crate) observed: Observed,
    /// Seconds.
    pub(crate) now: i64,
}

impl Course {
    /// With a ready sandbox, at second 100.
    pub(crate) fn new(desired: PodSpec) -> Self {
        Self {
            desired,
            observed: ready(vec![]),
            now: 100,
        }
    }

    pub(crate) fn plan(&self) -> Plan {
        reconcile(at(self.now), &self.desired, &self.observed, &Limits::default())
    }

    /// One plan, carried out and told.
    pub(crate) fn round(&mut self) -> Vec<String> {
        let steps = self.plan().steps;
        steps.into_iter().map(|step| self.carry_out(step)).collect()
    }

    /// Rounds until nothing is planned but hooks that are under way. Rounds are apart by `; `, steps by `, `.
    pub(crate) fn settle(&mut self) -> String {
        let mut told = Vec::new();
        for _ in 0..40 {
            let before = self.observed.clone();
            let round = self.round();
            if round.is_empty() || self.observed == before {
                return told.join("; ");
            }
            told.push(round.join(", "));
        }
        panic!("it does not come to rest: {told:?}");
    }

    /// As `settle`, up to the step that removes the object.
    pub(crate) fn settle_deletion(&mut self) -> String {
        let told = self.settle();
        assert_eq!(self.round(), ["forget"]);
        told
    }

    fn carry_out(&mut self, step: Step) -> String {
        let (now, observed) = (at(self.now), &self.observed);
        let told;
        self.observed = match step {
            Step::StartContainer {
                container,
                attempt,
                sandbox,
                backoff,
            } => {
                told = format!("start {container}/{attempt}");
                let spec = self.desired.container(&container).unwrap();
                let start = Start {
                    container: &container,
                    attempt,
                    sandbox,
                    backoff,
                };
                let image = ImageId("sha256:1".to_owned());
                let mut begun = begin_attempt(observed, start, &spec.image, image, &spec.resources);
                let new = begun
                    .attempts
                    .iter_mut()
                    .find(|a| a.container == container && a.is_live());
                new.unwrap().state = AttemptState::Running { started_at: now };
                begun
            }
            Step::BeginStop {
                container,
                attempt,
                stop,
            } => {
                told = if stop.why == StopReason::AllRestart {
                    format!("leave {container}/{attempt}")
                } else {
                    format!("end {container} {:?} {}s", stop.why, stop.grace.as_secs())
                };
                begin_stop(now, observed, &container, attempt, &stop)
            }
            Step::RunHook {
                container,
                attempt,
                hook,
            } => {
                told = format!("{hook:?} {container}");
                begin_hook(now, observed, &container, attempt, hook)
            }
            Step::Resize {
                container,
                attempt,
                resources,
            } => {
                told = format!("resize {container}");
                resized(observed, &container, attempt, &resources)
            }
            Step::GiveUp { reason, message } => {
                told = format!("give up: {message}");
                gave_up(now, observed, reason, message)
            }
            Step::StopContainer { container, attempt: _ } => {
                told = format!("stop {container}");
                let mut new = observed.clone();
                let live = new
                    .attempts
                    .iter_mut()
                    .find(|a| a.container == container && a.is_live());
                live.unwrap().stop_signalled_at = Some(now);
                new
            }
            Step::KillContainer { container, attempt } => {
                told = format!("kill {container}");
                begin_kill(now, observed, &container, attempt)
            }
            Step::CreateSandbox { attempt } => {
                told = format!("make sandbox {attempt}");
                let begun = begin_sandbox(now, super::testing::BOOT, observed, attempt, None);
                sandbox_ready(now, &begun, attempt)
            }
            Step::StopSandbox { attempt } => {
                told = format!("stop sandbox {attempt}");
                sandbox_stopped(now, observed, attempt)
            }
            Step::TearDown => {
                told = "tear down".to_owned();
                torn_down(observed)
            }
            Step::Forget => {
                told = "forget".to_owned();
                observed.clone()
            }
        };
        told
    }

    /// The running attempt of the container ends.
    pub(crate) fn ends(&mut self, container: &str, status: ExitStatus) {
        let finished_at = at(self.now);
        let live = self
            .observed
            .attempts
            .iter_mut()
            .find(|a| a.container == container && a.is_live());
        let live = live.unwrap_or_else(|| panic!("{container} does not run"));
        let AttemptState::Running { started_at } = live.state else {
            panic!("{container} does not run");
        };
        live.state = AttemptState::Exited(Exit {
            status,
            started_at: Some(started_at),
            finished_at,
            message: String::new(),
        });
    }

    pub(crate) fn sandbox_dies(&mut self) {
        if let Some(sandbox) = &mut self.observed.sandbox {
            sandbox.state = super::testing::dead();
        }
    }

    fn tell(&mut self, container: &str, what: Reported) {
        let told = Report {
            container: container.to_owned(),
            attempt: self.observed.newest(container).map_or(0, |newest| newest.attempt),
            at: at(self.now),
            what,
        };
        self.observed = report(at(self.now), &self.desired, &self.observed, &told);
    }

    /// So many results of a probe in a row.
    pub(crate) fn probed(&mut self, container: &str, kind: ProbeKind, success: bool, times: u32) {
        for _ in 0..times {
            self.tell(container, Reported::Probe { kind, success });
        }
    }

    pub(crate) fn hooked(&mut self, container: &str, hook: Hook, result: Result<(), &str>) {
        let result = result.map_err(str::to_owned);
        self.tell(container, Reported::Hook { hook, result });
    }

    /// Why the newest attempt of the container has to end.
    pub(crate) fn why(&self, container: &str) -> Option<StopReason> {
        let newest = self.observed.newest(container)?;
        newest.life.stop.as_ref().map(|stop| stop.why)
    }

    pub(crate) fn wakes_at(&self) -> Option<i64> {
        self.plan().wake_at.map(|wake| wake.as_second() - at(0).as_second())
    }
}
