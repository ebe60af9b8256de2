//! Pod Security Standards at the door: every pod that is written is held against the labels of its namespace.
//!
//! Goes in: an object that is about to be stored. Comes out: warnings for its client, or 403. The rules themselves are
//! [`admit::pod_security`](crate::admit::pod_security).
//!
//! **Invariants:** a namespace's labels that were answered hold for every pod that comes after. Where no namespace has
//! such labels nothing is read.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodTemplate};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::Api;
use super::error::ApiError;
use super::kinds::pod::POD;
use super::kinds::{Kind, NAMESPACE, POD_TEMPLATE};
use crate::admit::pod_security::{Level, Policy, Standard, Violations, is_significant, violations};
use crate::store::{Store, StoreError};

/// So many pods of a namespace are held against a new standard at most.
const MAX_PODS: usize = 3_000;

/// The policies of the namespaces that have one.
type Policies = BTreeMap<String, Policy>;

/// What the namespaces say, as of this very moment.
#[derive(Debug)]
pub(crate) struct PolicyWatch {
    store: Store,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The newest change of a namespace that `policies` has seen.
    changed: u64,
    policies: Option<Policies>,
}

impl PolicyWatch {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            known: Mutex::default(),
        }
    }

    /// Of this namespace.
    async fn of(&self, namespace: &str) -> Result<Policy, StoreError> {
        let mut known = self.known.lock().await;
        let changed = self.store.changed(NAMESPACE.kind);
        let policies = match known.policies.take() {
            Some(policies) if known.changed == changed => policies,
            _ => self.read().await?,
        };
        let policy = policies.get(namespace).copied().unwrap_or(Policy::OPEN);
        *known = Known {
            changed,
            policies: Some(policies),
        };
        Ok(policy)
    }

    async fn read(&self) -> Result<Policies, StoreError> {
        let page = self.store.list(NAMESPACE.kind, None, None, None).await?;
        let read = page.objects.iter().filter_map(|stored| {
            let policy = policy_of(&stored.json);
            (policy != Policy::OPEN).then(|| (stored.name.as_ref().to_owned(), policy))
        });
        Ok(read.collect())
    }
}

fn policy_of(namespace: &Value) -> Policy {
    let labels = BTreeMap::deserialize(&namespace["metadata"]["labels"]);
    Policy::of(&labels.unwrap_or_default())
}

/// Holds what is about to be stored, in place of `before` if that is there, against the standards of its namespace. Gives
/// warnings.
///
/// # Errors
/// 403 for a pod that breaks what is enforced.
pub(crate) async fn check(
    state: &Api,
    kind: &'static Kind,
    namespace: &str,
    before: Option<&Value>,
    after: &Value,
) -> Result<Vec<String>, ApiError> {
    match (kind.kind, before) {
        ("Pod", _) => check_pod(state, namespace, before, after).await,
        ("PodTemplate", _) => check_template(state, namespace, after).await,
        ("Namespace", Some(before)) => check_namespace(state, before, after).await,
        _ => Ok(Vec::new()),
    }
}

async fn policy(state: &Api, kind: &'static Kind, namespace: &str) -> Result<Policy, ApiError> {
    let policy = state.policies.of(namespace).await;
    policy.map_err(|error| ApiError::from_store(error, kind, ""))
}

fn unreadable(error: serde_json::Error) -> ApiError {
    ApiError::internal("an admitted object cannot be read", error)
}

async fn check_pod(
    state: &Api,
    namespace: &str,
    before: Option<&Value>,
    after: &Value,
) -> Result<Vec<String>, ApiError> {
    let policy = policy(state, &POD, namespace).await?;
    if policy == Policy::OPEN {
        return Ok(Vec::new());
    }
    let pod = Pod::deserialize(after).map_err(unreadable)?;
    if let Some(before) = before
        && !is_significant(&Pod::deserialize(before).map_err(unreadable)?, &pod)
    {
        return Ok(Vec::new());
    }
    let name = pod.metadata.name.clone().unwrap_or_default();
    let enforced = violations(policy.enforce, &pod);
    if !enforced.is_empty() {
        return Err(ApiError::ForbiddenObject {
            kind: &POD,
            name,
            why: format!("violates PodSecurity \"{}\": {enforced}", policy.enforce),
            causes: Vec::new(),
        });
    }
    Ok(tell(&policy, &pod, namespace, &name))
}

/// Templates are only warned of: of what is made of them is taken care when it is made.
async fn check_template(state: &Api, namespace: &str, after: &Value) -> Result<Vec<String>, ApiError> {
    let policy = policy(state, &POD_TEMPLATE, namespace).await?;
    if policy == Policy::OPEN {
        return Ok(Vec::new());
    }
    let PodTemplate { metadata, template } = PodTemplate::deserialize(after).map_err(unreadable)?;
    let template = template.unwrap_or_default();
    let pod = Pod {
        metadata: template.metadata.unwrap_or_default(),
        spec: template.spec,
        status: None,
    };
    Ok(tell(&policy, &pod, namespace, &metadata.name.unwrap_or_default()))
}

/// What its client is warned of; what is to be audited goes to the agent's log.
fn tell(policy: &Policy, pod: &Pod, namespace: &str, name: &str) -> Vec<String> {
    let would = |standard: Standard| {
        let found = violations(standard, pod);
        (!found.is_empty()).then(|| format!("would violate PodSecurity \"{standard}\": {found}"))
    };
    if let Some(audit) = would(policy.audit) {
        tracing::warn!(pod.namespace = namespace, pod.name = name, "audit: {audit}");
    }
    would(policy.warn).into_iter().collect()
}

/// A namespace that becomes stricter: whoever does it is told which of its pods would not be let in any more.
async fn check_namespace(state: &Api, before: &Value, after: &Value) -> Result<Vec<String>, ApiError> {
    let (old, new) = (policy_of(before).enforce, policy_of(after).enforce);
    let is_relaxed = new.version == old.version && new.level <= old.level;
    if new == old || new.level == Level::Privileged || is_relaxed {
        return Ok(Vec::new());
    }
    let namespace = after["metadata"]["name"].as_str().unwrap_or_default();
    let page = state.store.list(POD.kind, Some(namespace), None, None).await;
    let page = page.map_err(|error| ApiError::from_store(error, &NAMESPACE, namespace))?;
    // By what is wrong with them: the first pod, and how many.
    let mut found: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for stored in page.objects.iter().take(MAX_PODS) {
        let Ok(pod) = Pod::deserialize(&*stored.json) else {
            continue;
        };
        let broken: Violations = violations(new, &pod);
        if !broken.is_empty() {
            let (first, count) = found.entry(broken.reasons()).or_insert((&*stored.name, 0));
            *first = (*first).min(&*stored.name);
            *count += 1;
        }
    }
    let mut warnings = Vec::new();
    if page.objects.len() > MAX_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS} of {} existing pods",
            page.objects.len()
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{new}\""
        ));
    }
    let mut of_pods: Vec<String> = found
        .into_iter()
        .map(|(reasons, (first, count))| match count {
            1 => format!("{first}: {reasons}"),
            2 => format!("{first} (and 1 other pod): {reasons}"),
            more => format!("{first} (and {} other pods): {reasons}", more - 1),
        })
        .collect();
    of_pods.sort_unstable();
    warnings.extend(of_pods);
    Ok(warnings)
}
