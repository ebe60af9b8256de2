//! What the controller does, told as events, in a kubelet's words.
//!
//! Goes in: steps and what came of them, and statuses that changed. Comes out: notes to the recorder, which never wait.
//!
//! Reasons: Kubernetes `pkg/kubelet/events/event.go`; messages: `kuberuntime_container.go`, `kuberuntime_manager.go`,
//! `images/image_manager.go`, `kubelet.go`.

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use crate::event::{Recorder, Severity, Source, Subject};
use crate::model::{
    Attempt, AttemptState, ContainerSpec, FailedStep, FailureReason, GivenUpReason, Hook, HookRecord, Observed,
    PodSpec, Step, StopReason, image_volume_of,
};
use crate::reconcile::{event_message, restarts_after_probe};
use crate::runtime::{StepError, VolumeNews};

/// Tells of one pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Telling<'a> {
    pub(super) recorder: &'a Recorder,
    pub(super) pod: &'a PodSpec,
}

impl Telling<'_> {
    fn of_pod(self, severity: Severity, reason: &'static str, message: String) {
        let subject = Subject::pod(self.pod);
        self.recorder.tell(Source::Kubelet, subject, severity, reason, message);
    }

    fn of_container(self, container: &str, severity: Severity, reason: &'static str, message: String) {
        let subject = Subject::container(self.pod, container);
        self.recorder.tell(Source::Kubelet, subject, severity, reason, message);
    }

    /// What happened to the image of a volume: it is the pod's (`kuberuntime_manager.go getImageVolumes`).
    pub(super) fn image_volume(self, news: VolumeNews) {
        match news {
            VolumeNews::Pulling {
                image,
                unusable_secrets,
            } => {
                self.unusable(&unusable_secrets);
                self.of_pod(Severity::Normal, "Pulling", pulling_of(&image));
            }
            VolumeNews::Present { image, pulled } => {
                let message = pulled.unwrap_or_else(|| present(&image));
                self.of_pod(Severity::Normal, "Pulled", message);
            }
        }
    }

    /// A pull of the container's image has begun.
    pub(super) fn pulling(self, container: &ContainerSpec, unusable_secrets: &[String]) {
        let ContainerSpec { name, image, .. } = container;
        self.unusable(unusable_secrets);
        self.of_container(name, Severity::Normal, "Pulling", pulling_of(image));
    }

    fn unusable(self, unusable_secrets: &[String]) {
        if !unusable_secrets.is_empty() {
            let names = unusable_secrets.join(", ");
            let message = format!(
                "Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed."
            );
            self.of_pod(Severity::Warning, "FailedToRetrieveImagePullSecret", message);
        }
    }

    /// The image is there: `pulled` says how it came, if it just did.
    pub(super) fn pulled(self, container: &ContainerSpec, pulled: Option<String>) {
        let ContainerSpec { name, image, .. } = container;
        let message = pulled.unwrap_or_else(|| present(image));
        self.of_container(name, Severity::Normal, "Pulled", message);
    }

    /// The container was made.
    fn created(self, container: &ContainerSpec) {
        let name = &container.name;
        self.of_container(name, Severity::Normal, "Created", format!("Created container: {name}"));
    }

    pub(super) fn started(self, container: &ContainerSpec) {
        self.created(container);
        let name = &container.name;
        self.of_container(name, Severity::Normal, "Started", format!("Started container {name}"));
    }

    pub(super) fn not_executed(self, container: &ContainerSpec, error: &StepError) {
        self.created(container);
        self.of_container(&container.name, Severity::Warning, "Failed", format!("Error: {error}"));
    }

    /// A step that could not be carried out.
    pub(super) fn failed(self, step: &FailedStep, error: &StepError) {
        match step {
            FailedStep::Sandbox if error.reason == FailureReason::FailedMount => {
                self.of_pod(Severity::Warning, "FailedMount", error.message.clone());
            }
            FailedStep::Sandbox => self.of_pod(
                Severity::Warning,
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {error}"),
            ),
            FailedStep::Teardown => {
                self.of_pod(
                    Severity::Warning,
                    "FailedKillPod",
                    format!("error killing pod: {error}"),
                );
            }
            FailedStep::Container(name) => self.container_failed(name, error),
            // It waits: its condition says so.
            FailedStep::Resize => {}
        }
    }

    fn container_failed(self, name: &str, error: &StepError) {
        let warn = |reason, message| self.of_container(name, Severity::Warning, reason, message);
        let own = self.pod.container(name).map_or("", |container| &container.image);
        let of_volume = image_volume_of(self.pod, &error.message);
        let (image, error_of_image) = of_volume.unwrap_or((own, &error.message));
        // What is tried for a volume is the pod's; that a container waits for it is the container's.
        let warn_of_image = |reason, message| match of_volume {
            Some(_) => self.of_pod(Severity::Warning, reason, message),
            None => warn(reason, message),
        };
        match error.reason {
            FailureReason::ErrImageNeverPull => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                warn_of_image("ErrImageNeverPull", message);
                warn("Failed", "Error: ErrImageNeverPull".to_owned());
            }
            FailureReason::InvalidImageName => {
                warn_of_image("InspectFailed", error_of_image.to_owned());
                warn("Failed", "Error: InvalidImageName".to_owned());
            }
            FailureReason::ErrImagePull | FailureReason::RegistryUnavailable => {
                let message = format!("Failed to pull image \"{image}\": {error_of_image}");
                warn_of_image("Failed", message);
                warn("Failed", format!("Error: {}", error.reason.as_str()));
            }
            FailureReason::FailedMount => warn("FailedMount", error.message.clone()),
            FailureReason::KillPodSandboxError => warn("FailedKillPod", format!("error killing pod: {error}")),
            FailureReason::CreatePodSandboxError
            | FailureReason::CreateContainerConfigError
            | FailureReason::CreateContainerError
            | FailureReason::RunContainerError
            | FailureReason::Deferred => warn("Failed", format!("Error: {error}")),
        }
    }

    /// What is about to be done, given what was known before it.
    pub(super) fn step(self, step: &Step, observed: &Observed) {
        match step {
            Step::CreateSandbox { attempt } => {
                if observed.sandbox.as_ref().is_some_and(|known| known.attempt < *attempt) {
                    let message = "Pod sandbox changed, it will be killed and re-created.";
                    self.of_pod(Severity::Normal, "SandboxChanged", message.to_owned());
                }
            }
            Step::BeginStop {
                container,
                attempt,
                stop,
            } => {
                let is_untold = |known: &Attempt| known.life.stop.is_none() && known.is_live();
                if named(observed, container, *attempt).is_some_and(is_untold) {
                    let message = self.why(container, stop.why);
                    self.of_container(container, Severity::Normal, "Killing", message);
                }
            }
            // Its end begins with the hook.
            Step::RunHook {
                container,
                attempt,
                hook: Hook::PreStop,
            }
            | Step::StopContainer { container, attempt }
            | Step::KillContainer { container, attempt } => {
                if named(observed, container, *attempt).is_some_and(is_untold) {
                    self.killing(container);
                }
            }
            Step::StopSandbox { attempt } => {
                let running = observed.attempts.iter().filter(|known| {
                    known.sandbox == *attempt && matches!(known.state, AttemptState::Running { .. }) && is_untold(known)
                });
                for known in running {
                    self.killing(&known.container);
                }
            }
            Step::GiveUp { reason, message } => {
                if observed.given_up.is_none() {
                    let severity = if *reason == GivenUpReason::DeadlineExceeded {
                        Severity::Normal
                    } else {
                        Severity::Warning
                    };
                    self.of_pod(severity, reason.as_str(), event_message(message).to_owned());
                }
            }
            Step::RunHook {
                hook: Hook::PostStart, ..
            }
            | Step::Resize { .. }
            | Step::StartContainer { .. }
            | Step::TearDown
            | Step::Forget => {}
        }
    }

    fn killing(self, container: &str) {
        let message = format!("Stopping container {container}");
        self.of_container(container, Severity::Normal, "Killing", message);
    }

    /// Why a container is stopped before its pod ends, and what comes then.
    fn why(self, name: &str, why: StopReason) -> String {
        let spec = self.pod.container(name);
        let after = if spec.is_some_and(|spec| restarts_after_probe(self.pod, spec)) {
            ", will be restarted"
        } else {
            ""
        };
        match why {
            StopReason::LivenessFailed => format!("Container {name} failed liveness probe{after}"),
            StopReason::StartupFailed => format!("Container {name} failed startup probe{after}"),
            StopReason::PostStartFailed => "FailedPostStartHook".to_owned(),
            StopReason::SpecChanged => format!("Container {name} definition changed, will be restarted"),
            StopReason::Resized => format!("Container {name} resize requires restart"),
            StopReason::PodEnds | StopReason::AllRestart => format!("Stopping container {name}"),
        }
    }

    /// Containers that have begun to wait for another try.
    pub(super) fn waits(self, observed: &Observed, previous: Option<&PodStatus>, told: &PodStatus) {
        let containers = |status: &PodStatus| {
            let lists = [
                &status.init_container_statuses,
                &status.container_statuses,
                &status.ephemeral_container_statuses,
            ];
            let all = lists.into_iter().flatten().flatten();
            all.cloned().collect::<Vec<ContainerStatus>>()
        };
        let reason = |status: &ContainerStatus| status.state.as_ref()?.waiting.as_ref()?.reason.clone();
        let before = previous.map(&containers).unwrap_or_default();
        for container in &containers(told) {
            let name = &container.name;
            let now = reason(container);
            if now == before.iter().find(|known| known.name == *name).and_then(reason) {
                continue;
            }
            match now.as_deref() {
                Some("CrashLoopBackOff") => {
                    let PodSpec {
                        name: pod,
                        namespace,
                        uid,
                        ..
                    } = self.pod;
                    let message =
                        format!("Back-off restarting failed container {name} in pod {pod}_{namespace}({uid})");
                    self.of_container(name, Severity::Warning, "BackOff", message);
                }
                Some("ImagePullBackOff") => {
                    let failure = observed.failure(&FailedStep::Container(name.clone()));
                    match failure.and_then(|failure| image_volume_of(self.pod, &failure.message)) {
                        Some((image, _)) => self.of_pod(Severity::Normal, "BackOff", back_off(image)),
                        None => self.of_container(name, Severity::Normal, "BackOff", back_off(&container.image)),
                    }
                    let message = "Error: ImagePullBackOff".to_owned();
                    self.of_container(name, Severity::Warning, "Failed", message);
                }
                Some(_) | None => {}
            }
        }
    }
}

fn pulling_of(image: &str) -> String {
    format!("Pulling image \"{image}\"")
}

fn present(image: &str) -> String {
    format!("Container image \"{image}\" already present on machine")
}

fn back_off(image: &str) -> String {
    format!("Back-off pulling image \"{image}\"")
}

fn named<'a>(observed: &'a Observed, container: &str, attempt: u32) -> Option<&'a Attempt> {
    let mut attempts = observed.attempts.iter();
    attempts.find(|known| known.container == container && known.attempt == attempt)
}

/// Nothing was done yet to end this attempt: what is done now is told.
fn is_untold(known: &Attempt) -> bool {
    known.life.stop.is_none()
        && known.life.pre_stop == HookRecord::NotRun
        && known.stop_signalled_at.is_none()
        && known.killed_at.is_none()
}
