//! The rules of resources, of one container and of a pod as a whole (`validation.go`: `validateResourceRequirements`,
//! `validatePodResources`), and what is filled in where nothing is said of them (`defaults.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

use super::container::Role;
use super::fault::{Findings, Path};
use super::quantity::Quantity;
use super::{fields, suggest};
use crate::model::{bytes_text, cpu_text};

const HUGE_PAGES: &str = "hugepages-";
/// The resources of a container whose names are fixed, for whoever mistypes one.
const OF_CONTAINERS: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// What may be said of a pod as a whole.
const OF_PODS: [&str; 3] = ["cpu", HUGE_PAGES, "memory"];

type List = BTreeMap<String, WireQuantity>;

/// Whose resources they are: not all may have all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Container,
    Pod,
}

/// Checks the resources of a container.
pub(super) fn check(resources: &ResourceRequirements, at: &Path, findings: &mut Findings) {
    check_owned(Owner::Container, resources, at, findings);
}

/// Checks what the pod says of itself as a whole against what it may say, and against its containers.
pub(super) fn check_pod(spec: &PodSpec, at: &Path, findings: &mut Findings) {
    let Some(resources) = &spec.resources else { return };
    if resources.claims.is_some() {
        findings.forbidden(&at.child("claims"), "claims cannot be set for Resources at pod-level");
    }
    check_owned(Owner::Pod, resources, at, findings);

    let of_pod = |list: &Option<List>, name: &str| list.as_ref().and_then(|list| list.get(name)).cloned();
    for (name, sum) in aggregate(spec, |resources| &resources.requests) {
        if let Some(WireQuantity(text)) = of_pod(&resources.requests, &name)
            && Quantity::parse(&text).is_ok_and(|own| own < sum)
        {
            let at = at.child("requests").key(&name);
            let sum = written(&name, sum);
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            findings.invalid(&at, &text, &detail);
        }
    }
    for (name, sum) in aggregate(spec, |resources| &resources.limits) {
        // Of the other resources containers may be promised more than the pod may have.
        if name.starts_with(HUGE_PAGES)
            && let Some(WireQuantity(text)) = of_pod(&resources.limits, &name)
            && Quantity::parse(&text).is_ok_and(|own| own < sum)
        {
            let at = at.child("limits").key(&name);
            let sum = written(&name, sum);
            let detail = format!("must be greater than or equal to aggregate container limits of {sum}");
            findings.invalid(&at, &text, &detail);
        }
    }
    for (i, container) in spec.containers.iter().enumerate() {
        let limits = container.resources.as_ref().and_then(|own| own.limits.as_ref());
        for (name, WireQuantity(text)) in limits.into_iter().flatten() {
            let Some(WireQuantity(most)) = of_pod(&resources.limits, name) else {
                continue;
            };
            if let (Ok(own), Ok(limit)) = (Quantity::parse(text), Quantity::parse(&most))
                && own > limit
            {
                // Kubernetes' own path of this field.
                let at = at
                    .child("containers")
                    .index(i)
                    .child("resources")
                    .key(name)
                    .child("limits");
                let detail = format!("must be less than or equal to pod limits of {most}");
                findings.invalid(&at, text, &detail);
            }
        }
    }
}

/// Fills in what a pod that says something of itself as a whole leaves out (`setDefaultHugePagePodLimits`,
/// `setDefaultPodRequests`): requests are those of its containers or, where they have none, its limits.
pub(super) fn fill_pod(spec: &mut PodSpec) {
    let Some(mut resources) = spec.resources.take() else {
        return;
    };
    let ResourceRequirements {
        claims: _,
        limits,
        requests,
    } = &mut resources;
    let (mut all_limits, mut all_requests) = (limits.clone().unwrap_or_default(), requests.clone().unwrap_or_default());
    let wire = |name: &str, amount| WireQuantity(written(name, amount));
    for (name, sum) in aggregate(spec, |resources| &resources.limits) {
        if name.starts_with(HUGE_PAGES) && !all_requests.contains_key(&name) {
            let amount = wire(&name, sum);
            all_limits.entry(name).or_insert(amount);
        }
    }
    for (name, sum) in aggregate(spec, |resources| &resources.requests) {
        if matches!(&*name, "cpu" | "memory") {
            let amount = wire(&name, sum);
            all_requests.entry(name).or_insert(amount);
        }
    }
    for (name, limit) in &all_limits {
        if is_of_pods(name) && !all_requests.contains_key(name) {
            all_requests.insert(name.clone(), limit.clone());
        }
    }
    for (list, all) in [(limits, all_limits), (requests, all_requests)] {
        if !all.is_empty() {
            *list = Some(all);
        }
    }
    spec.resources = Some(resources);
}

/// Requests are the limits where nothing else is said.
pub(super) fn fill(resources: &mut ResourceRequirements) {
    let Some(limits) = resources.limits.as_ref().filter(|limits| !limits.is_empty()) else {
        return;
    };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        if !requests.contains_key(name) {
            requests.insert(name.clone(), limit.clone());
        }
    }
}

fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with(HUGE_PAGES)
}

/// What the pod's containers have together at any moment, by resource (`component-helpers/resource`,
/// `AggregateContainerRequests`). What cannot be read is left to its own check.
fn aggregate(spec: &PodSpec, list: fn(&ResourceRequirements) -> &Option<List>) -> BTreeMap<String, Quantity> {
    type Amounts = BTreeMap<String, Quantity>;
    let of = |container: &Container| -> Amounts {
        let named = container.resources.as_ref().and_then(|own| list(own).as_ref());
        let named = named.into_iter().flatten();
        named
            .filter_map(|(name, WireQuantity(text))| Some((name.clone(), Quantity::parse(text).ok()?)))
            .collect()
    };
    let add = |to: &mut Amounts, more: &Amounts| {
        for (name, amount) in more {
            let sum = to.get(name).copied().unwrap_or(Quantity::ZERO);
            to.insert(name.clone(), sum.plus(*amount));
        }
    };
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    let mut raise = |now: &Amounts| {
        for (name, amount) in now {
            let known = most.entry(name.clone()).or_insert(*amount);
            *known = (*known).max(*amount);
        }
    };
    for container in spec.init_containers.iter().flatten() {
        let mut now = sidecars.clone();
        add(&mut now, &of(container));
        if Role::of_init(container) == Role::Sidecar {
            sidecars.clone_from(&now);
        }
        raise(&now);
    }
    for container in &spec.containers {
        add(&mut sidecars, &of(container));
    }
    raise(&sidecars);
    most
}

/// As Kubernetes writes an amount of this resource.
fn written(name: &str, amount: Quantity) -> String {
    if name == "cpu" {
        cpu_text(amount.millis())
    } else {
        bytes_text(amount.units())
    }
}

fn check_owned(owner: Owner, resources: &ResourceRequirements, at: &Path, findings: &mut Findings) {
    fields::resources(resources, owner == Owner::Pod, at, findings);
    let limits_at = at.child("limits");
    let limits = check_amounts(owner, resources.limits.iter().flatten(), &limits_at, findings);
    let requests_at = at.child("requests");
    // A request that was filled in from its limit, or says the same, has been looked at there.
    let limit_of = |name: &String| resources.limits.as_ref().and_then(|limits| limits.get(name));
    let own = resources
        .requests
        .iter()
        .flatten()
        .filter(|(name, request)| limit_of(name) != Some(*request));
    let requests = check_amounts(owner, own, &requests_at, findings);
    for (name, (text, request)) in &requests {
        let is_fixed = name.starts_with(HUGE_PAGES);
        match limits.get(name) {
            Some((limit_text, limit)) if is_fixed && request != limit => {
                let detail = format!("must be equal to {name} limit of {limit_text}");
                findings.invalid(&requests_at, text, &detail);
            }
            Some((limit_text, limit)) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit_text}");
                findings.invalid(&requests_at, text, &detail);
            }
            None if is_fixed => {
                findings.required(&limits_at, "Limit must be set for non overcommitable resources");
            }
            Some(_) | None => {}
        }
    }
    let named = || limits.keys().chain(requests.keys());
    let has_pages = named().any(|name| name.starts_with(HUGE_PAGES));
    if has_pages && !named().any(|name| matches!(*name, "cpu" | "memory")) {
        findings.forbidden(at, "HugePages require cpu or memory");
    }
}

type Amounts<'a> = BTreeMap<&'a str, (&'a str, Quantity)>;

fn check_amounts<'a>(
    owner: Owner,
    amounts: impl Iterator<Item = (&'a String, &'a WireQuantity)>,
    at: &Path,
    findings: &mut Findings,
) -> Amounts<'a> {
    let mut read = Amounts::new();
    for (name, WireQuantity(text)) in amounts {
        let at = at.key(name);
        match name.as_str() {
            "cpu" | "memory" => {}
            name if name.starts_with(HUGE_PAGES) => {}
            name if owner == Owner::Pod => findings.not_supported(&at, name, &OF_PODS),
            "ephemeral-storage" => {}
            name if name.contains('/') => findings.unsupported(&at, "extended resources"),
            name => {
                let question = suggest::question(name, OF_CONTAINERS.into_iter());
                findings.invalid(
                    &at,
                    name,
                    &format!("must be a standard resource for containers{question}"),
                );
            }
        }
        match Quantity::parse(text) {
            Err(error) => findings.invalid(&at, text, &error.to_string()),
            Ok(amount) if amount.is_negative() => findings.invalid(&at, text, "must be greater than or equal to 0"),
            Ok(amount) => {
                if matches!(&**name, "memory" | "ephemeral-storage") && !amount.is_whole() {
                    findings.warn(
                        &at,
                        &format!("fractional byte value {text:?} is invalid, must be an integer"),
                    );
                }
                if let Some(size) = name.strip_prefix(HUGE_PAGES)
                    && !is_multiple(amount, size)
                {
                    findings.invalid(&at, text, &format!("{text} is not positive integer multiple of {name}"));
                }
                read.insert(name, (text, amount));
            }
        }
    }
    read
}

/// Whole pages of this size (`helper.IsHugePageResourceValueDivisible`).
fn is_multiple(amount: Quantity, size: &str) -> bool {
    let size = Quantity::parse(size)
        .ok()
        .filter(|size| size.is_whole())
        .map(Quantity::units);
    let Some(size) = size.filter(|size| *size > 0) else {
        return false;
    };
    amount.is_whole() && amount.units().is_multiple_of(size)
}
