//! What can be done to the machine on behalf of a pod.
//!
//! Goes in: `model` values. Comes out: `Snapshot`s and the errors of single steps.
//!
//! **Invariant:** nothing here decides. Every operation names the attempt it means and does nothing the second time.

mod handler;
mod image_volume;
mod journal;
mod last_words;
mod log_links;
mod machine;
mod making;
mod objects;
mod parts;
mod profiles;
mod propagation;
mod pulling;
mod quality;
mod refresh;
mod resize;
mod sandbox;
mod session;
mod shims;
pub mod spec;
pub mod stream;
mod user_ids;
mod users;
mod wiring;
mod work;

use std::future::Future;
use std::net::IpAddr;

use tokio::sync::{mpsc, watch};

pub use handler::{HandlerError, Handlers, LookupError, Program, RuntimeClasses};
pub use machine::Machine;
pub use objects::Objects;
pub use parts::{Parts, Settings};
pub use refresh::Files;
pub use shims::{ShimError, Shims};
pub use user_ids::UserIds;
pub use wiring::host_ports;

use crate::model::{ContainerSpec, FailureReason, PodSpec, ResolvedImage, Resources, Snapshot, Uid, User};

/// The word that a step is recorded. What only prepares may come before it; nothing that runs may.
#[derive(Debug, Clone)]
pub struct Recorded(watch::Receiver<Option<bool>>);

impl Recorded {
    /// The word, and who is to give it: true once the step is stored, false when it could not be.
    pub fn pending() -> (watch::Sender<Option<bool>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }

    /// Wait for it. False: the step must not be carried out.
    pub async fn wait(&mut self) -> bool {
        self.0
            .wait_for(Option::is_some)
            .await
            .is_ok_and(|told| *told == Some(true))
    }
}

/// What became of a container's image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Image {
    Present {
        image: Box<ResolvedImage>,
        /// It was pulled for this start: in Kubernetes' words.
        pulled: Option<String>,
    },
    /// It is being pulled. The start is to wait, which is no failure.
    Pulling {
        /// The pull began right now.
        begun: bool,
        /// Of the pod's image pull secrets, those that are of no use.
        unusable_secrets: Vec<String>,
    },
}

/// What happened to the image of a volume that a container mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeNews {
    /// Its pull began right now.
    Pulling {
        image: String,
        /// Of the pod's image pull secrets, those that are of no use.
        unusable_secrets: Vec<String>,
    },
    /// It is there; pulled for this start: in Kubernetes' words.
    Present { image: String, pulled: Option<String> },
}

/// The machine, as the controller sees it.
pub trait Runtime: Send + Sync + 'static {
    /// What the machine has of this pod. An error means unknown, which is not the same as nothing.
    fn observe(&self, uid: &Uid) -> impl Future<Output = Result<Snapshot, ObserveError>> + Send;

    /// Every pod of which the machine has something: run directories, cgroups, state directories.
    fn pods(&self) -> impl Future<Output = Result<Vec<Uid>, ObserveError>> + Send;

    /// Make the pod's volumes and files, shim, infra and network of this sandbox attempt.
    /// `ip` is `None` with the host's network. Done already: nothing happens.
    fn create_sandbox(
        &self,
        pod: &PodSpec,
        attempt: u32,
        ip: Option<IpAddr>,
        recorded: Recorded,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Kill all that lives in this sandbox attempt and end its shim. Afterwards `observe` still tells how each
    /// container ended, until `remove_sandbox`.
    fn stop_sandbox(&self, uid: &Uid, attempt: u32) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Remove what a stopped sandbox left: journal, cgroups, links. Call it only when its ends are recorded.
    fn remove_sandbox(&self, uid: &Uid, attempt: u32) -> impl Future<Output = Result<(), StepError>> + Send;

    /// The container's image, as its pull policy has it. Never waits for a registry: a pull goes on by itself, and the
    /// pod is hinted at when it has ended; asked again, this tells what came of it, once. Reasons: `ErrImagePull`,
    /// `RegistryUnavailable`, `ErrImageNeverPull`, `InvalidImageName`. The images of the volumes that it mounts come
    /// first, and what happened to them goes to `volumes`, whatever comes of it; when one of them fails, the message says
    /// so ([`of_image_volume`](crate::model::of_image_volume)).
    fn image(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        volumes: &mut Vec<VolumeNews>,
    ) -> impl Future<Output = Result<Image, StepError>> + Send;

    /// Whom the container runs as, by what its pod and this image say. Asked once for each image that it is started from.
    /// Reason: `CreateContainerConfigError`.
    fn user(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        image: &ResolvedImage,
    ) -> impl Future<Output = Result<User, StepError>> + Send;

    /// Start this attempt in this (ready) sandbox. Returns when it runs, or with `RunContainerError` when it could not
    /// be executed (the snapshot then says `StartFailed`). Done already: nothing happens.
    #[expect(clippy::too_many_arguments, reason = "everything that one container is made of")]
    fn start_container(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        attempt: u32,
        sandbox: u32,
        image: &ResolvedImage,
        user: &User,
        ip: Option<IpAddr>,
        recorded: Recorded,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Send its stop signal (its own, else its image's, else SIGTERM) to the first process.
    fn stop_container(
        &self,
        uid: &Uid,
        sandbox: u32,
        container: &str,
        attempt: u32,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// SIGKILL everything in the container.
    fn kill_container(
        &self,
        uid: &Uid,
        sandbox: u32,
        container: &str,
        attempt: u32,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Give a running attempt, and with it the pod's own cgroup, these limits. Ended meanwhile: nothing happens.
    fn resize(
        &self,
        pod: &PodSpec,
        container: &str,
        attempt: u32,
        sandbox: u32,
        resources: &Resources,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// The last words of an ended attempt, for `terminated.message`; empty when there are none. `failed`: it did not end
    /// with exit code 0.
    fn termination_message(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        attempt: u32,
        failed: bool,
    ) -> impl Future<Output = String> + Send;

    /// Remove what an ended attempt wrote to its root file system. Its log stays.
    fn remove_old_attempt(
        &self,
        uid: &Uid,
        sandbox: u32,
        container: &str,
        attempt: u32,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Remove everything that is left of the pod: volumes, directories, and (with `logs`) its logs. Only when all its
    /// sandboxes are removed. Nothing there: nothing happens.
    fn remove_pod(&self, uid: &Uid, logs: Option<&LogDirName>) -> impl Future<Output = Result<(), StepError>> + Send;

    /// What this pod asks for counts for the weight that its quality-of-service class has beside the others (`is_active`),
    /// or does not any more. Nothing waits for it; said twice, nothing happens.
    fn weigh(&self, _pod: &PodSpec, _is_active: bool) {}

    /// The pod is no more.
    fn forget(&self, _uid: &Uid) {}

    /// Uids of pods that something happened to. A hint may come late, twice, or for nothing. Taken once.
    fn hints(&self) -> Option<mpsc::UnboundedReceiver<Uid>>;
}

/// `<namespace>_<name>_<uid>`: the pod's directory beneath the log directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDirName(pub String);

impl LogDirName {
    pub fn of(pod: &PodSpec) -> Self {
        Self(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
    }
}

/// The machine could not be asked: what it has is unknown, which is not the same as nothing.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error(transparent)]
    Shim(#[from] ShimError),
    #[error(transparent)]
    Volume(#[from] crate::volume::VolumeError),
    #[error(transparent)]
    Cgroup(#[from] crate::linux::cgroup::CgroupError),
}

/// A step failed: what Kubernetes calls it, and why, in words for a user.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    pub reason: FailureReason,
    pub message: String,
}
