//! What only pods have beneath them: binding, eviction, the writing of their status.
//!
//! Rules and words: `pkg/registry/core/pod/storage/{storage,eviction}.go`, `pkg/registry/core/pod/strategy.go`.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use k8s_openapi::api::core::v1::{Binding, Pod, PodCondition, PodStatus};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::answer::json_response;
use super::body;
use super::delete;
use super::error::ApiError;
use super::kinds::Amended;
use super::kinds::pod::POD;
use super::params::Head;
use super::read;
use super::write;
use crate::admit::{self, Fault, FaultReason, FieldValidation};
use crate::model::Timestamp;
use crate::schedule::Placement;
use crate::status::{DISRUPTION_TARGET, OWN_CONDITIONS, set_condition, set_placement};
use crate::store::{StoreError, StoredObject};

/// How often a write is tried anew when somebody else was faster.
const ATTEMPTS: u32 = 8;

/// Conditions that others may put on a pod: many gates, but no dump.
const FOREIGN_CONDITIONS: usize = 64;

pub(crate) fn router() -> Router<Api> {
    let pod = "/api/v1/namespaces/{namespace}/pods/{name}";
    let bind_named = |State(state): State<Api>, head: Head, request: Request| async move {
        let name = head.name()?.to_owned();
        bind(&state, &head, Some(&name), request.into_body()).await
    };
    let bind_any = |State(state): State<Api>, head: Head, request: Request| async move {
        bind(&state, &head, None, request.into_body()).await
    };
    let evict = |State(state): State<Api>, head: Head, request: Request| async move {
        evict(&state, &head, request.into_body()).await
    };
    Router::new()
        .route(&format!("{pod}/status"), status_routes())
        .route(&format!("{pod}/binding"), post(bind_named))
        .route("/api/v1/namespaces/{namespace}/bindings", post(bind_any))
        .route(&format!("{pod}/eviction"), post(evict))
}

/// `Status` of a request that made no object.
fn success(code: StatusCode) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16(),
    });
    json_response(code, &status)
}

/// The body, as an object of its kind.
pub(crate) async fn read_body<K>(
    state: &Api,
    head: &Head,
    body: Body,
    validation: FieldValidation,
) -> Result<K, ApiError>
where
    K: serde::de::DeserializeOwned + schemars::JsonSchema + k8s_openapi::Resource,
{
    let encoding = body::encoding(&head.headers)?;
    let bytes = body::read(&head.headers, body, state.limits.body_timeout).await?;
    body::check_depth(&bytes)?;
    let decoded =
        admit::decode::<K>(&bytes, encoding, validation).map_err(|error| ApiError::bad_request(error.to_string()))?;
    Ok(decoded.object)
}

/// POST `binding` and `bindings`: a scheduler has chosen.
async fn bind(state: &Api, head: &Head, name: Option<&str>, body: Body) -> Result<Response, ApiError> {
    let dry_run = head.params.dry_run("CreateOptions")?;
    let validation = head.params.field_validation("CreateOptions")?;
    let binding: Binding = read_body(state, head, body, validation).await?;
    let said = binding.metadata.name.as_deref().unwrap_or_default();
    let name = name.unwrap_or(said);
    if !said.is_empty() && said != name {
        return Err(ApiError::bad_request(format!(
            "name in URL does not match name in Binding object: \"{said}\""
        )));
    }
    let faults = binding_faults(&binding);
    if name.is_empty() || !faults.is_empty() {
        return Err(ApiError::Invalid {
            group: "",
            kind: "Binding",
            name: name.to_owned(),
            faults: if faults.is_empty() {
                vec![required("metadata.name", "name or generateName is required")]
            } else {
                faults
            },
        });
    }
    for _ in 0..ATTEMPTS {
        let current = read::stored(state, &POD, head.namespace(), name).await?;
        check_precondition(&binding, &current)?;
        let bound = bound(&current, &binding, state.now())?;
        if dry_run {
            return Ok(success(StatusCode::CREATED));
        }
        let (namespace, version) = (&current.namespace, current.resource_version);
        match state
            .store
            .update_whole(POD.kind, namespace, name, version, bound)
            .await
        {
            Ok(_) => return Ok(success(StatusCode::CREATED)),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(ApiError::from_store(error, &POD, name)),
        }
    }
    Err(ApiError::conflict(&POD, name))
}

fn required(field: &str, detail: &str) -> Fault {
    Fault {
        field: field.to_owned(),
        reason: FaultReason::Required,
        detail: if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        },
    }
}

/// `validation.ValidatePodBinding`.
fn binding_faults(binding: &Binding) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Some(kind) = binding.target.kind.as_deref()
        && !["", "Node"].contains(&kind)
    {
        faults.push(Fault {
            field: "target.kind".to_owned(),
            reason: FaultReason::NotSupported,
            detail: format!("Unsupported value: \"{kind}\": supported values: \"Node\", \"\""),
        });
    }
    if binding.target.name.as_deref().unwrap_or_default().is_empty() {
        faults.push(required("target.name", ""));
    }
    faults
}

/// A binding may say which pod of this name it means.
fn check_precondition(binding: &Binding, pod: &StoredObject) -> Result<(), ApiError> {
    match binding.metadata.uid.as_deref() {
        Some(uid) if !uid.is_empty() && uid != pod.uid.as_str() => Err(ApiError::Conflict {
            kind: &POD,
            name: pod.name.as_ref().to_owned(),
            why: format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                pod.uid
            ),
        }),
        Some(_) | None => Ok(()),
    }
}

/// The pod once it is bound.
fn bound(pod: &StoredObject, binding: &Binding, now: Timestamp) -> Result<Value, ApiError> {
    let name = &*pod.name;
    let refuse = |why: String| {
        Err(ApiError::Conflict {
            kind: &POD,
            name: name.to_owned(),
            why,
        })
    };
    let object = &*pod.json;
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        return refuse(format!("pod {name} is already assigned to node \"{node}\""));
    }
    if object["spec"]["schedulingGates"]
        .as_array()
        .is_some_and(|gates| !gates.is_empty())
    {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut status = status_of(object)?;
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(1);
    set_placement(now, &mut status, generation, &Placement::Fits);
    let mut bound = object.clone();
    bound["spec"]["nodeName"] = binding.target.name.clone().into();
    for (key, value) in binding.metadata.annotations.iter().flatten() {
        bound["metadata"]["annotations"][key] = value.as_str().into();
    }
    bound["status"] = write_status(&status)?;
    Ok(bound)
}

fn status_of(pod: &Value) -> Result<PodStatus, ApiError> {
    match pod.get("status") {
        None | Some(Value::Null) => Ok(PodStatus::default()),
        Some(status) => PodStatus::deserialize(status)
            .map_err(|error| ApiError::internal("the stored status of a pod cannot be understood", error)),
    }
}

fn write_status(status: &PodStatus) -> Result<Value, ApiError> {
    serde_json::to_value(status).map_err(|error| ApiError::internal("a status cannot be written", error))
}

/// POST `eviction`: a delete that says why. There are no `PodDisruptionBudgets` that could stand in its way.
async fn evict(state: &Api, head: &Head, body: Body) -> Result<Response, ApiError> {
    let dry_run = head.params.dry_run("CreateOptions")?;
    let validation = head.params.field_validation("CreateOptions")?;
    let eviction: Eviction = read_body(state, head, body, validation).await?;
    let name = head.name()?;
    let said = eviction.metadata.name.as_deref().unwrap_or_default();
    if !said.is_empty() && said != name {
        return Err(ApiError::bad_request(format!(
            "name in URL does not match name in Eviction object: \"{said}\""
        )));
    }
    let mut options = delete::Options::of(eviction.delete_options.unwrap_or_default(), dry_run);
    options.check()?;
    let mut pod = read::stored(state, &POD, head.namespace(), name).await?;
    options.check_preconditions(&POD, &pod)?;
    let is_ending = !pod.json["metadata"]["deletionTimestamp"].is_null()
        || matches!(pod.json["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !is_ending && !options.is_dry_run() {
        pod = tell_disruption(state, pod).await?;
        options.follow(&pod);
    }
    delete::one(state, &POD, pod, &options).await?;
    Ok(success(StatusCode::CREATED))
}

/// The condition that an evicted pod bears.
async fn tell_disruption(state: &Api, mut pod: StoredObject) -> Result<StoredObject, ApiError> {
    for _ in 0..ATTEMPTS {
        let mut status = status_of(&pod.json)?;
        let now = state.now();
        let condition = PodCondition {
            type_: DISRUPTION_TARGET.to_owned(),
            status: "True".to_owned(),
            reason: Some("EvictionByEvictionAPI".to_owned()),
            message: Some("Eviction API: evicting".to_owned()),
            last_probe_time: None,
            last_transition_time: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
            observed_generation: pod.json["metadata"]["generation"].as_i64(),
        };
        set_condition(&mut status, condition);
        let (namespace, name, version) = (&pod.namespace, &pod.name, pod.resource_version);
        let status = write_status(&status)?;
        match state
            .store
            .update_status(POD.kind, namespace, name, version, status)
            .await
        {
            Ok(stored) => return Ok(stored),
            Err(StoreError::Conflict { .. }) => {
                let fresh = read::stored(state, &POD, namespace, name).await?;
                if fresh.uid != pod.uid {
                    return Err(ApiError::conflict(&POD, name));
                }
                pod = fresh;
            }
            Err(error) => return Err(ApiError::from_store(error, &POD, name)),
        }
    }
    Err(ApiError::conflict(&POD, &pod.name))
}

/// What a client makes of a pod's status. Of a pod on this node the conditions that are not podd's own are the client's;
/// all else is podd's and stays. Of a pod that is not here, all is the client's.
fn amend_status(state: &Api, current: &Value, proposed: Value) -> Result<Amended, ApiError> {
    let pod: Pod = serde_json::from_value(proposed)
        .map_err(|error| ApiError::bad_request(format!("the status cannot be read: {error}")))?;
    let proposed = pod.status.unwrap_or_default();
    let is_here = current["spec"]["nodeName"].as_str() == Some(&*state.node_name);
    let is_own = |condition: &PodCondition| OWN_CONDITIONS.contains(&condition.type_.as_str());
    let foreign = proposed.conditions.clone().unwrap_or_default();
    let foreign: Vec<PodCondition> = foreign.into_iter().filter(|known| !is_own(known)).collect();
    if foreign.len() > FOREIGN_CONDITIONS {
        return Err(ApiError::Invalid {
            group: "",
            kind: "Pod",
            name: current["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            faults: vec![Fault {
                field: "status.conditions".to_owned(),
                reason: FaultReason::TooMany,
                detail: format!(
                    "Too many: {}: must have at most {FOREIGN_CONDITIONS} items that are not podd's own",
                    foreign.len()
                ),
            }],
        });
    }
    let status = if is_here {
        let mut kept = status_of(current)?;
        let own = kept.conditions.take().unwrap_or_default().into_iter().filter(is_own);
        kept.conditions = Some(own.chain(foreign).collect());
        kept
    } else {
        proposed
    };
    let mut object = current.clone();
    object["status"] = write_status(&status)?;
    Ok(Amended {
        object,
        warnings: Vec::new(),
    })
}

/// The handlers of `status`, beside its GET.
fn status_routes() -> MethodRouter<Api> {
    MethodRouter::new()
        .put(|State(state): State<Api>, head: Head, request: Request| async move {
            let amend = |current: &Value, proposed, _| amend_status(&state, current, proposed);
            write::replace(&state, &POD, amend, &head, request.into_body()).await
        })
        .patch(|State(state): State<Api>, head: Head, request: Request| async move {
            let amend = |current: &Value, proposed, _| amend_status(&state, current, proposed);
            write::patch(&state, &POD, amend, &head, request.into_body()).await
        })
}
