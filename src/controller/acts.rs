//! The effects of a round: one step carried out, and what became of it.
//!
//! Goes in: a step, and what is recorded of the pod. Comes out: an [`Outcome`].
//!
//! **Invariant:** nothing is recorded here: what came of a step is written down by the pass, once it has looked again.

use std::net::IpAddr;

use super::pass::Pass;
use crate::model::{ContainerSpec, FailedStep, FailureReason, Observed, PodSpec, ResolvedImage, Resources, Step, User};
use crate::runtime::{LogDirName, Recorded, Runtime, StepError};

/// A container start whose image is known.
pub(super) struct Start<'a> {
    pub(super) container: &'a ContainerSpec,
    pub(super) attempt: u32,
    pub(super) sandbox: u32,
    pub(super) image: ResolvedImage,
    pub(super) user: User,
}

/// What became of a step.
pub(super) enum Outcome {
    /// Nothing to record beyond what the machine tells when it is looked at.
    Observable,
    Failed(FailedStep, StepError),
    /// A start that the shim says it could not carry out; the journal should say so too.
    NotExecuted(String, u32, StepError),
    SandboxReady(u32),
    Resized(String, u32, Resources),
    /// To be removed and recorded as stopped, once every end in it is recorded.
    SandboxStopped(u32),
    TornDown,
    /// The last step: the object may go.
    Removed,
}

impl<R: Runtime> Pass<R> {
    /// Start a container.
    pub(super) async fn start(
        &self,
        desired: &PodSpec,
        start: Start<'_>,
        ip: Option<IpAddr>,
        recorded: Recorded,
    ) -> Outcome {
        let Start {
            container,
            attempt,
            sandbox,
            image,
            user,
        } = start;
        let runtime = &self.controller.runtime;
        let step = FailedStep::Container(container.name.clone());
        match runtime
            .start_container(desired, container, attempt, sandbox, &image, &user, ip, recorded)
            .await
        {
            Ok(()) => {
                self.telling(desired).started(container);
                tracing::info!(pod.name = %desired.name, container = %container.name, attempt, "container started");
                if let Some(old) = attempt.checked_sub(2) {
                    // What `lastState` and `logs --previous` need of the attempt before is not in its root file system.
                    if let Err(error) = runtime
                        .remove_old_attempt(&self.uid, sandbox, &container.name, old)
                        .await
                    {
                        tracing::warn!(container = %container.name, attempt = old, error = %error.message, "cannot remove an old attempt yet");
                    }
                }
                Outcome::Observable
            }
            // The journal says so of the attempt itself (StartError): its back-off is the container's.
            Err(error) if error.reason == FailureReason::RunContainerError => {
                self.telling(desired).not_executed(container, &error);
                tracing::warn!(pod.name = %desired.name, container = %container.name, attempt, error = %error.message, "container could not be executed");
                Outcome::NotExecuted(container.name.clone(), attempt, error)
            }
            Err(error) => Outcome::Failed(step, error),
        }
    }

    /// Carry out one step other than a start.
    pub(super) async fn act(
        &self,
        desired: &PodSpec,
        observed: &Observed,
        step: &Step,
        ip: Option<IpAddr>,
        mut recorded: Recorded,
    ) -> Outcome {
        let runtime = &self.controller.runtime;
        let uid = &self.uid;
        if !matches!(step, Step::CreateSandbox { .. }) && !recorded.wait().await {
            return Outcome::Observable;
        }
        match step {
            Step::RunHook {
                container,
                attempt,
                hook,
            } => {
                let probes = &self.controller.probes;
                probes.begin_hook(desired, observed, container, *attempt, *hook);
                Outcome::Observable
            }
            Step::Resize {
                container,
                attempt,
                resources,
            } => {
                let Some(sandbox) = sandbox_of(observed, container, *attempt) else {
                    return Outcome::Observable;
                };
                match runtime.resize(desired, container, *attempt, sandbox, resources).await {
                    Ok(()) => Outcome::Resized(container.clone(), *attempt, resources.clone()),
                    Err(error) => Outcome::Failed(FailedStep::Container(container.clone()), error),
                }
            }
            // To record the first two is all that there is to do; `start` does the third.
            Step::BeginStop { .. } | Step::GiveUp { .. } | Step::StartContainer { .. } => Outcome::Observable,
            // Without an address there is nothing to begin with: `begin` has recorded why.
            Step::CreateSandbox { .. } if ip.is_none() && !desired.host_network => Outcome::Observable,
            Step::CreateSandbox { attempt } => match runtime.create_sandbox(desired, *attempt, ip, recorded).await {
                Ok(()) => Outcome::SandboxReady(*attempt),
                Err(error) => Outcome::Failed(FailedStep::Sandbox, error),
            },
            Step::StopSandbox { attempt } => match runtime.stop_sandbox(uid, *attempt).await {
                Ok(()) => Outcome::SandboxStopped(*attempt),
                Err(error) => Outcome::Failed(FailedStep::Teardown, error),
            },
            Step::StopContainer { container, attempt } => {
                let Some(sandbox) = sandbox_of(observed, container, *attempt) else {
                    return Outcome::Observable;
                };
                match runtime.stop_container(uid, sandbox, container, *attempt).await {
                    Ok(()) => Outcome::Observable,
                    Err(error) => Outcome::Failed(FailedStep::Container(container.clone()), error),
                }
            }
            Step::KillContainer { container, attempt } => {
                let Some(sandbox) = sandbox_of(observed, container, *attempt) else {
                    return Outcome::Observable;
                };
                if let Err(error) = runtime.kill_container(uid, sandbox, container, *attempt).await {
                    // It is due again soon anyway.
                    tracing::warn!(container, attempt, error = %error.message, "cannot kill a container");
                }
                Outcome::Observable
            }
            Step::TearDown => self.tear_down(desired).await,
            Step::Forget => match runtime.remove_pod(uid, Some(&LogDirName::of(desired))).await {
                Ok(()) => Outcome::Removed,
                Err(error) => Outcome::Failed(FailedStep::Teardown, error),
            },
        }
    }

    async fn tear_down(&self, desired: &PodSpec) -> Outcome {
        let logs = desired.deletion.map(|_| LogDirName::of(desired));
        if let Err(error) = self.controller.runtime.remove_pod(&self.uid, logs.as_ref()).await {
            return Outcome::Failed(FailedStep::Teardown, error);
        }
        match self.controller.store.release_place(&self.uid).await {
            Ok(()) => Outcome::TornDown,
            Err(error) => Outcome::Failed(
                FailedStep::Teardown,
                StepError {
                    reason: FailureReason::KillPodSandboxError,
                    message: error.to_string(),
                },
            ),
        }
    }
}

/// The sandbox an attempt runs in.
fn sandbox_of(observed: &Observed, container: &str, attempt: u32) -> Option<u32> {
    observed
        .attempts
        .iter()
        .find(|a| a.container == container && a.attempt == attempt)
        .map(|a| a.sandbox)
}
