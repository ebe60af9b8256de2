//! What Kubernetes fills in where nothing is said (`pkg/apis/core/v1/defaults.go`).
//!
//! Go cannot tell an empty text from none, so an empty one is filled in as well. Applied twice it does nothing the
//! second time.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, PodSpec, Probe, Volume};

use super::volume::projected;
use super::{ephemeral, resources, service_account};

/// `terminationGracePeriodSeconds` where it is not given.
pub(super) const GRACE_SECONDS: i64 = 30;
pub(super) const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

pub(super) fn apply(spec: &mut PodSpec) {
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.scheduler_name, "default-scheduler");
    // Kubernetes' Priority admission plugin fills in these two where no class is named.
    fill(&mut spec.preemption_policy, "PreemptLowerPriority");
    spec.priority.get_or_insert(0);
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_default();
    service_account::mirror_name(spec);
    let host_network = spec.host_network == Some(true);
    for entry in &mut spec.containers {
        container(entry, host_network);
    }
    for entry in spec.init_containers.iter_mut().flatten() {
        container(entry, host_network);
    }
    for entry in spec.ephemeral_containers.iter_mut().flatten() {
        let (mut common, target) = ephemeral::parts(std::mem::take(entry));
        container(&mut common, host_network);
        *entry = ephemeral::whole(common, target);
    }
    // What its containers ask for is filled in by now.
    resources::fill_pod(spec);
    for entry in spec.volumes.iter_mut().flatten() {
        volume(entry);
    }
}

fn container(container: &mut Container, host_network: bool) {
    let image = container.image.as_deref().unwrap_or_default();
    fill(&mut container.image_pull_policy, pull_policy(image));
    for variable in container.env.iter_mut().flatten() {
        if let Some(field) = variable.value_from.as_mut().and_then(|from| from.field_ref.as_mut()) {
            fill(&mut field.api_version, "v1");
        }
    }
    fill(&mut container.termination_message_path, TERMINATION_MESSAGE_PATH);
    fill(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        fill(&mut port.protocol, "TCP");
        // On the host's network a port of the container is a port of the host.
        if host_network && port.host_port.unwrap_or_default() == 0 {
            port.host_port = Some(port.container_port);
        }
    }
    resources::fill(container.resources.get_or_insert_default());
    let probes = [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ];
    for entry in probes.into_iter().flatten() {
        probe(entry);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop]
            .into_iter()
            .flatten()
        {
            hook(handler);
        }
    }
}

/// Go cannot tell a zero from none, so a zero is filled in as well.
fn probe(probe: &mut Probe) {
    for (field, default) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if field.is_none_or(|value| value == 0) {
            *field = Some(default);
        }
    }
    if let Some(get) = &mut probe.http_get {
        http_get(get);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn hook(handler: &mut LifecycleHandler) {
    if let Some(get) = &mut handler.http_get {
        http_get(get);
    }
}

fn http_get(get: &mut HTTPGetAction) {
    fill(&mut get.path, "/");
    fill(&mut get.scheme, "HTTP");
}

fn volume(volume: &mut Volume) {
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(image) = &mut volume.image {
        let reference = image.reference.as_deref().unwrap_or_default();
        fill(&mut image.pull_policy, pull_policy(reference));
    }
    projected::fill(volume);
}

fn pull_policy(image: &str) -> &'static str {
    if is_latest(image) { "Always" } else { "IfNotPresent" }
}

/// No tag and no digest, or the tag `latest`: what a name means may have changed since it was pulled.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image
        .split_once('@')
        .map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        None => digest.is_none(),
        Some((_, tag)) => tag == "latest",
    }
}

fn fill(field: &mut Option<String>, default: &str) {
    if field.as_ref().is_none_or(String::is_empty) {
        *field = Some(default.to_owned());
    }
}
