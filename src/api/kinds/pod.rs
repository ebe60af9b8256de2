//! Pods: names, columns and admission.

mod amend;
mod row;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::{Metadata, Resource};
use serde_json::Value;

use super::{ALL_VERBS, Admitted, Draft, Kind, Selectable, Subresource, column, selectable};
use crate::admit::{self, AccountRefusal, AdmitContext, Decoded, Encoding, Fault, FaultReason, FieldValidation};
use crate::api::error::ApiError;
use crate::model::MIRROR;
use crate::schedule::{self, Placement};
use crate::status;

/// The pods of this node.
pub static POD: Kind = Kind {
    group: Pod::GROUP,
    version: Pod::VERSION,
    kind: Pod::KIND,
    stored_as: Pod::KIND,
    plural: Pod::URL_PATH_SEGMENT,
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[
        Subresource {
            name: "attach",
            kind: ("", "v1", "PodAttachOptions"),
            verbs: &["create", "get"],
            amend: None,
        },
        Subresource {
            name: "binding",
            kind: ("", "v1", "Binding"),
            verbs: &["create"],
            amend: None,
        },
        Subresource {
            name: "ephemeralcontainers",
            kind: ("", "v1", "Pod"),
            verbs: &["get", "patch", "update"],
            amend: Some(amend::ephemeral_containers),
        },
        Subresource {
            name: "eviction",
            kind: ("policy", "v1", "Eviction"),
            verbs: &["create"],
            amend: None,
        },
        Subresource {
            name: "exec",
            kind: ("", "v1", "PodExecOptions"),
            verbs: &["create", "get"],
            amend: None,
        },
        Subresource {
            name: "log",
            kind: ("", "v1", "Pod"),
            verbs: &["get"],
            amend: None,
        },
        Subresource {
            name: "portforward",
            kind: ("", "v1", "PodPortForwardOptions"),
            verbs: &["create", "get"],
            amend: None,
        },
        Subresource {
            name: "proxy",
            kind: ("", "v1", "PodProxyOptions"),
            verbs: &["create", "delete", "get", "patch", "update"],
            amend: None,
        },
        Subresource {
            name: "resize",
            kind: ("", "v1", "Pod"),
            verbs: &["get", "patch", "update"],
            amend: Some(amend::resize),
        },
        Subresource {
            name: "status",
            kind: ("", "v1", "Pod"),
            verbs: &["get", "patch", "update"],
            // See `api/pods.rs`: what a client may write depends on whether the pod is here.
            amend: None,
        },
    ],
    columns: &[
        column("Name", "string", "name", "Name must be unique within a namespace.", 0),
        column(
            "Ready",
            "string",
            "",
            "The aggregate readiness state of this pod for accepting traffic.",
            0,
        ),
        column(
            "Status",
            "string",
            "",
            "The aggregate status of the containers in this pod.",
            0,
        ),
        column(
            "Restarts",
            "string",
            "",
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
            0,
        ),
        column("Age", "string", "", "The time since the pod was created.", 0),
        column(
            "IP",
            "string",
            "",
            "The IP address of the pod. Empty if not yet allocated.",
            1,
        ),
        column("Node", "string", "", "The node this pod runs on.", 1),
        column(
            "Nominated Node",
            "string",
            "",
            "Always none: no pod is preempted for another.",
            1,
        ),
        column(
            "Readiness Gates",
            "string",
            "",
            "The readiness gates of the pod and how many of them are true.",
            1,
        ),
    ],
    selectable: &[
        selectable("metadata.name"),
        selectable("metadata.namespace"),
        selectable("spec.nodeName"),
        selectable("spec.restartPolicy"),
        selectable("spec.schedulerName"),
        selectable("spec.serviceAccountName"),
        Selectable {
            absent: "false",
            ..selectable("spec.hostNetwork")
        },
        selectable("status.phase"),
        selectable("status.podIP"),
        selectable("status.nominatedNodeName"),
    ],
    row: row::row,
    read,
    admit: admit_pod,
    amend: amend::update,
    deprecated: None,
    view: None,
    schema: |generator| generator.subschema_for::<Pod>(),
};

fn invalid(name: Option<&str>, faults: Vec<Fault>) -> ApiError {
    ApiError::Invalid {
        group: POD.group,
        kind: POD.kind,
        name: name.unwrap_or("").to_owned(),
        faults,
    }
}

fn read(bytes: &[u8], encoding: Encoding, validation: FieldValidation) -> Result<Decoded<Value>, ApiError> {
    let Decoded { object, warnings } =
        admit::decode::<Pod>(bytes, encoding, validation).map_err(|e| ApiError::bad_request(e.to_string()))?;
    Ok(Decoded {
        object: written(&object)?,
        warnings,
    })
}

fn written(pod: &Pod) -> Result<Value, ApiError> {
    serde_json::to_value(pod).map_err(|e| ApiError::internal("a pod cannot be written", e))
}

fn admit_pod(draft: &Draft<'_>) -> Result<Admitted, ApiError> {
    let decoded = admit::decode::<Pod>(draft.bytes, draft.encoding, draft.validation)
        .map_err(|e| ApiError::bad_request(e.to_string()))?;
    let mut warnings = decoded.warnings;
    let mut pod = decoded.object;
    admit::complete(&mut pod);
    let asked = pod.metadata();
    if asked
        .namespace
        .as_deref()
        .is_some_and(|ns| !ns.is_empty() && ns != draft.namespace)
    {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let asked_name = asked.name.clone().filter(|n| !n.is_empty());
    let shown_name = asked_name.clone().or_else(|| asked.generate_name.clone());
    let class = admit::class_of(&pod).and_then(|name| draft.classes.get(name));
    admit::apply_class(&mut pod, class).map_err(|refusal| ApiError::ForbiddenObject {
        kind: &POD,
        name: shown_name.clone().unwrap_or_default(),
        why: refusal.to_string(),
        causes: Vec::new(),
    })?;
    give_account(&mut pod, draft, shown_name.as_deref())?;
    let context = AdmitContext {
        now: draft.now,
        uid: draft.uid.clone(),
        namespace: draft.namespace,
        name_suffix: draft.suffix,
    };
    if let Some(fault) = mirror_fault(&pod) {
        return Err(invalid(shown_name.as_deref(), vec![fault]));
    }
    let admitted = admit::pod(pod, &context).map_err(|faults| invalid(shown_name.as_deref(), faults))?;
    warnings.extend(admitted.warnings);
    let name = admitted.pod.metadata.name.clone().unwrap_or_default();
    let mut object = written(&begun(admitted.pod, draft)?)?;
    let status = object.as_object_mut().and_then(|fields| fields.remove("status"));
    Ok(Admitted {
        name,
        object,
        status,
        generated: asked_name.is_none(),
        warnings,
    })
}

/// The pod with what its service account gives it.
fn give_account(pod: &mut Pod, draft: &Draft<'_>, shown_name: Option<&str>) -> Result<(), ApiError> {
    let refused = |refusal: AccountRefusal| ApiError::ForbiddenObject {
        kind: &POD,
        name: shown_name.unwrap_or_default().to_owned(),
        why: refusal.to_string(),
        causes: Vec::new(),
    };
    let Some(name) = admit::account_of(pod).map_err(refused)?.map(str::to_owned) else {
        return Ok(());
    };
    match draft.accounts.get(&name) {
        Some(Some(account)) => admit::apply_account(pod, &name, &account.object, draft.volume_suffix),
        Some(None) => {
            return Err(refused(AccountRefusal::NotFound {
                namespace: draft.namespace.to_owned(),
                name,
            }));
        }
        None => return Err(ApiError::AccountUnread { name }),
    }
    Ok(())
}

/// Only a pod that is bound already may stand for a file (`ValidatePodSpecificAnnotations`).
fn mirror_fault(pod: &Pod) -> Option<Fault> {
    let mark = pod.metadata.annotations.as_ref()?.get(MIRROR)?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let is_unbound = node.is_none_or(str::is_empty);
    is_unbound.then(|| Fault {
        field: format!("metadata.annotations[{MIRROR}]"),
        reason: FaultReason::Invalid,
        detail: format!("Invalid value: {mark:?}: must set spec.nodeName if mirror pod annotation is set"),
    })
}

/// The pod as it is first stored: bound where it may be, with the status that it begins with.
fn begun(mut pod: Pod, draft: &Draft<'_>) -> Result<Pod, ApiError> {
    let model = admit::to_model(&pod).map_err(|e| ApiError::internal("an admitted pod cannot be understood", e))?;
    let spec = pod.spec.get_or_insert_default();
    let placement = schedule::place(spec, draft.node);
    if placement == Placement::Fits {
        spec.node_name = Some(draft.node.name.clone());
    }
    pod.status = Some(status::initial(draft.now, &model, &placement));
    Ok(pod)
}
