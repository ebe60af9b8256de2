//! The place of a pod on its machine: taken before its first sandbox, raised before a resize, lowered after it.

use std::net::IpAddr;

use super::pass::{Pass, PassError, Record, wire};
use super::{Controller, POD};
use crate::admit;
use crate::model::{FailedStep, FailureReason, Lack, Observed, PodSpec, Step, Uid};
use crate::reconcile;
use crate::runtime::{Runtime, StepError};
use crate::store::{Place, StoreError};

/// What came of asking for a place.
pub(super) enum Asked {
    /// The pod has it, with this address if it needs one.
    Taken(Option<IpAddr>),
    /// There is none now; there may be one later.
    Failed(StepError),
    /// The machine has no room for this pod.
    Refused(Lack),
}

impl<R: Runtime> Pass<R> {
    /// Before a sandbox. A pod that had one is never turned away, however little room is left.
    pub(super) async fn take_place(&self, desired: &PodSpec, observed: &Observed) -> Result<Asked, PassError> {
        let controller = &self.controller;
        let room = observed.sandbox.is_none().then(|| controller.room.allocatable());
        let pool = (!desired.host_network).then_some(controller.pool);
        let asked = controller.store.take_place(&self.uid, desired.claim(), room, pool);
        match asked.await {
            Ok(Place::Taken(ip)) => Ok(Asked::Taken(ip.map(IpAddr::V4))),
            Ok(Place::Refused(lack)) => Ok(Asked::Refused(lack)),
            Err(error @ StoreError::NoAddress { .. }) => Ok(Asked::Failed(StepError {
                reason: FailureReason::CreatePodSandboxError,
                message: error.to_string(),
            })),
            Err(error) => Err(error.into()),
        }
    }

    /// The machine has no room for this pod: that is its end.
    pub(super) fn turn_away(&self, desired: &PodSpec, observed: &mut Observed, lack: &Lack) {
        let (now, rejection) = (self.now(), reconcile::rejection(lack.reason(), &lack.to_string()));
        self.telling(desired).step(&rejection, observed);
        if let Step::GiveUp { reason, message } = rejection {
            tracing::info!(pod.name = %desired.name, why = %lack, "pod turned away");
            *observed = reconcile::gave_up(now, observed, reason, message);
        }
    }

    /// Before containers are given other resources. Where there is no room for that now, `Some`: the pod as it goes on
    /// meanwhile.
    pub(super) async fn make_room(
        &self,
        desired: &PodSpec,
        record: &mut Record,
        steps: &[Step],
    ) -> Result<Option<PodSpec>, PassError> {
        let observed = &record.observed;
        let known = observed.failure(&FailedStep::Resize);
        let lack = if steps.iter().any(|step| reconcile::needs_room(desired, observed, step)) {
            let room = &self.controller.room;
            // Said before it is asked: what is freed meanwhile is not missed.
            room.wait(&self.uid);
            let asked = self
                .controller
                .store
                .raise_place(&self.uid, desired.claim(), room.allocatable());
            let lack = asked.await?;
            if lack.is_none() {
                room.raised(&self.uid);
            }
            lack
        } else {
            None
        };
        let Some(lack) = lack else {
            if known.is_some() {
                record.observed = reconcile::succeeded(observed, &FailedStep::Resize);
            }
            return Ok(None);
        };
        let allotted = reconcile::as_allotted(desired, observed);
        let message = lack.to_string();
        if known.is_none_or(|known| known.message != message) {
            tracing::info!(pod.name = %desired.name, why = %message, "a resize waits for room");
            let reason = FailureReason::Deferred;
            record.observed = reconcile::failed(self.now(), observed, FailedStep::Resize, reason, message);
        }
        Ok(Some(allotted))
    }

    /// With nothing to do: a pod that was changed counts with what it asks for now.
    pub(super) async fn settle_place(&self, desired: &PodSpec, observed: &Observed) -> Result<(), PassError> {
        let room = &self.controller.room;
        let is_as_made = desired.generation <= 1 || desired.deletion.is_some() || observed.torn_down;
        if is_as_made || room.is_settled(&self.uid) || !reconcile::is_settled(desired, observed) {
            return Ok(());
        }
        self.controller.store.settle_place(&self.uid, desired.claim()).await?;
        room.settled(&self.uid);
        Ok(())
    }
}

impl<R: Runtime> Controller<R> {
    /// Pods that were there before there were claims are counted, before any other pod takes a place.
    pub(super) async fn count_unclaimed(&self) -> Result<(), PassError> {
        for uid in self.store.unclaimed().await? {
            if let Err(error) = self.count(&uid).await {
                tracing::error!(pod.uid = %uid, %error, "cannot tell what a pod takes of this machine");
            }
        }
        Ok(())
    }

    async fn count(&self, uid: &Uid) -> Result<(), PassError> {
        let Some(found) = self.store.get_by_uid(POD, uid).await? else {
            return Ok(());
        };
        let (pod, _status) = wire(&found)?;
        let claim = admit::to_model(&pod)?.claim();
        self.store.take_place(uid, claim, None, None).await?;
        Ok(())
    }
}
