//! Pods that this machine turns away before anything of them is begun.
//!
//! Goes in: the pod, and what the machine and its operator allow. Comes out: the reason, in a kubelet's words, or none.
//!
//! Rules: Kubernetes `pkg/kubelet/sysctl/allowlist.go`, `pkg/security/apparmor/validate.go`.
//!
//! **Invariant:** a pod of which anything was ever begun is never turned away: it was let in once.

use crate::model::{AppArmorProfile, GivenUpReason, Observed, PodSpec, Step};

use super::Limits;

/// What a kubelet puts before the reason in `status.message` (`kubelet.go rejectPod`).
const REJECTED: &str = "Pod was rejected: ";

/// The pod was turned away, and nothing of it was ever begun: it has no sandbox and no container to tell of, and nothing
/// to take away.
pub(crate) fn is_rejected(observed: &Observed) -> bool {
    let rejected = observed.given_up.as_ref().is_some_and(|end| end.reason.is_rejection());
    rejected && is_untouched(observed)
}

fn is_untouched(observed: &Observed) -> bool {
    observed.sandbox.is_none() && observed.attempts.is_empty()
}

/// A rejection as it is recorded: `why` in the words of the kubelet's event.
pub fn rejection(reason: GivenUpReason, why: &str) -> Step {
    Step::GiveUp {
        reason,
        message: format!("{REJECTED}{why}"),
    }
}

/// What the event of a rejection says: the message without what a status puts before it.
pub(crate) fn event_message(message: &str) -> &str {
    message.strip_prefix(REJECTED).unwrap_or(message)
}

/// Why this pod cannot be here at all.
pub(super) fn turned_away(desired: &PodSpec, observed: &Observed, limits: &Limits) -> Option<Step> {
    if !is_untouched(observed) {
        return None;
    }
    let (host_network, host_ipc) = (desired.host_network, desired.isolation.host_ipc);
    let mut sysctls = desired.security.sysctls.iter();
    let forbidden = sysctls.find_map(|(name, _)| limits.sysctls.refusal(name, host_network, host_ipc));
    if let Some(refusal) = forbidden {
        let why = format!("forbidden sysctl: {refusal}");
        return Some(rejection(GivenUpReason::SysctlForbidden, &why));
    }
    if !limits.app_armor && needs_app_armor(desired) {
        let why = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return Some(rejection(GivenUpReason::AppArmor, why));
    }
    None
}

/// A container asks for a profile, be it the runtime's own (`validate.go isRequired`).
fn needs_app_armor(desired: &PodSpec) -> bool {
    let PodSpec {
        init_containers,
        containers,
        ephemeral_containers,
        ..
    } = desired;
    let mut all = init_containers.iter().chain(containers).chain(ephemeral_containers);
    all.any(|container| match &container.security.app_armor {
        AppArmorProfile::Unset | AppArmorProfile::Unconfined => false,
        AppArmorProfile::RuntimeDefault | AppArmorProfile::Localhost(_) => true,
    })
}
