//! The rules of a pod's own fields (`pkg/apis/core/validation/validation.go`: `ValidatePodSpec`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, PodDNSConfig, PodSpec};

use super::container::{Role, Surroundings};
use super::fault::{Findings, Path};
use super::{container, ephemeral, fields, names, placement, resources, security, volume};
use crate::model::expansion::Expander;

/// The longest grace podd takes, in seconds (68 years): with it no date leaves the calendar.
pub(super) const MAX_GRACE: i64 = i32::MAX as i64;
const MAX_DEADLINE: i64 = i32::MAX as i64;
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 2048;
/// Linux' `__NEW_UTS_LEN`.
const HOST_NAME_MAX: usize = 64;
/// Kubernetes' words.
pub(super) const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Checks a spec whose defaults are filled in.
pub(super) fn check(spec: &PodSpec, at: &Path, findings: &mut Findings) {
    fields::pod_spec(spec, at, findings);
    let host_network = spec.host_network == Some(true);

    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let grace = spec.termination_grace_period_seconds;
    let around = Surroundings {
        host_network,
        volumes: volume::check_all(volumes, &at.child("volumes"), findings),
        grace: grace.filter(|grace| (0..=MAX_GRACE).contains(grace)),
        restart_policy: spec.restart_policy.as_deref(),
        os: spec.os.as_ref().map(|os| os.name.as_str()),
    };
    check_containers(spec, &around, at, findings);
    resources::check_pod(spec, &at.child("resources"), findings);

    one_of(
        spec.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
        &at.child("restartPolicy"),
        findings,
    );
    if let Some(name) = spec.service_account_name.as_deref().filter(|name| !name.is_empty()) {
        findings.invalid_each(&at.child("serviceAccountName"), name, &names::dns_subdomain(name));
    }
    if let Some(grace) = spec.termination_grace_period_seconds {
        let at = at.child("terminationGracePeriodSeconds");
        if grace < 0 {
            findings.invalid_value(&at, grace, "must be greater than or equal to 0");
        } else if grace > MAX_GRACE {
            findings.invalid_value(&at, grace, &names::range(0, MAX_GRACE));
        }
    }
    if let Some(deadline) = spec.active_deadline_seconds.filter(|d| !(1..=MAX_DEADLINE).contains(d)) {
        let at = at.child("activeDeadlineSeconds");
        findings.invalid_value(&at, deadline, &names::range(1, MAX_DEADLINE));
    }
    check_dns(spec, at, findings);
    check_host_name(spec, host_network, at, findings);
    check_host_users(spec, at, findings);
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        check_host_alias(alias, &at.child("hostAliases").index(i), findings);
    }
    if let Some(context) = &spec.security_context {
        security::check_pod(context, &at.child("securityContext"), findings);
    }
    placement::check(spec, at, findings);
    check_os(spec, at, findings);
    let policies = &["Never", "PreemptLowerPriority"];
    one_of(
        spec.preemption_policy.as_deref(),
        policies,
        &at.child("preemptionPolicy"),
        findings,
    );
}

/// The containers of all three lists. No two may have one name.
fn check_containers(spec: &PodSpec, around: &Surroundings<'_>, at: &Path, findings: &mut Findings) {
    let mut expander = Expander::new();
    let mut taken = BTreeSet::new();
    let at_regular = at.child("containers");
    if spec.containers.is_empty() {
        findings.required(&at_regular, "");
    }
    for (i, entry) in spec.containers.iter().enumerate() {
        let at = at_regular.index(i);
        container::check(entry, Role::Regular, &at, around, &mut expander, findings);
        check_unique(&entry.name, &mut taken, &at, findings);
    }
    container::check_host_ports(&spec.containers, &at_regular, findings);
    let at_init = at.child("initContainers");
    for (i, entry) in spec.init_containers.iter().flatten().enumerate() {
        let at = at_init.index(i);
        container::check(entry, Role::of_init(entry), &at, around, &mut expander, findings);
        check_unique(&entry.name, &mut taken, &at, findings);
        // They run one after the other, so each is looked at alone.
        container::check_host_ports(std::slice::from_ref(entry), &at_init, findings);
    }
    let targets = taken.clone();
    let at_ephemeral = at.child("ephemeralContainers");
    for (i, entry) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let at = at_ephemeral.index(i);
        let (common, target) = ephemeral::parts(entry.clone());
        container::check(&common, Role::Ephemeral, &at, around, &mut expander, findings);
        check_unique(&entry.name, &mut taken, &at, findings);
        if let Some(target) = target.filter(|target| !target.is_empty() && !targets.contains(target.as_str())) {
            findings.not_found(&at.child("targetContainerName"), &target);
        }
    }
}

fn check_unique<'a>(name: &'a str, taken: &mut BTreeSet<&'a str>, at: &Path, findings: &mut Findings) {
    if !name.is_empty() && !taken.insert(name) {
        findings.duplicate(&at.child("name"), name);
    }
}

/// A text that is one of a few; none and the empty one are somebody else's affair.
pub(super) fn one_of(value: Option<&str>, supported: &[&str], at: &Path, findings: &mut Findings) {
    if let Some(value) = value.filter(|value| !value.is_empty() && !supported.contains(value)) {
        findings.not_supported(at, value, supported);
    }
}

fn check_dns(spec: &PodSpec, at: &Path, findings: &mut Findings) {
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    one_of(spec.dns_policy.as_deref(), &policies, &at.child("dnsPolicy"), findings);
    let at = at.child("dnsConfig");
    let nameservers_given = spec
        .dns_config
        .as_ref()
        .is_some_and(|c| c.nameservers.iter().flatten().next().is_some());
    if spec.dns_policy.as_deref() == Some("None") {
        if spec.dns_config.is_none() {
            findings.required(&at, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if !nameservers_given {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            findings.required(&at.child("nameservers"), detail);
        }
    }
    let Some(PodDNSConfig {
        nameservers,
        options,
        searches,
    }) = &spec.dns_config
    else {
        return;
    };

    let nameservers = nameservers.as_deref().unwrap_or_default();
    let nameservers_at = at.child("nameservers");
    if nameservers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        findings.invalid_value(&nameservers_at, format_args!("{nameservers:?}"), &detail);
    }
    for (i, nameserver) in nameservers.iter().enumerate() {
        if nameserver.parse::<IpAddr>().is_err() {
            findings.invalid(&nameservers_at.index(i), nameserver, BAD_IP);
        }
    }

    let searches = searches.as_deref().unwrap_or_default();
    let searches_at = at.child("searches");
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        findings.invalid_value(&searches_at, format_args!("{searches:?}"), &detail);
    }
    if searches.iter().map(|search| search.len() + 1).sum::<usize>() > MAX_SEARCH_BYTES + 1 {
        let detail =
            format!("must not have more than {MAX_SEARCH_BYTES} characters (including spaces) in the search list");
        findings.invalid_value(&searches_at, format_args!("{searches:?}"), &detail);
    }
    for (i, search) in searches.iter().enumerate() {
        // A dot alone is the root; underscores are allowed in search paths since Kubernetes 1.32.
        if search != "." {
            let plain = search.strip_suffix('.').unwrap_or(search).replace('_', "a");
            findings.invalid_each(&searches_at.index(i), search, &names::dns_subdomain(&plain));
        }
    }

    for (i, option) in options.iter().flatten().enumerate() {
        let at = at.child("options").index(i);
        let name = option.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            findings.required(&at, "must not be empty");
        }
        for (field, text) in [("name", name), ("value", option.value.as_deref().unwrap_or_default())] {
            // It becomes a word of resolv.conf.
            if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
                findings.invalid(&at.child(field), text, "must not contain whitespace");
            }
        }
    }
}

fn check_host_name(spec: &PodSpec, host_network: bool, at: &Path, findings: &mut Findings) {
    for (field, value) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            findings.invalid_each(&at.child(field), value, &names::dns_label(value));
        }
    }
    if let Some(name) = spec.hostname_override.as_ref().filter(|name| !name.is_empty()) {
        let at = at.child("hostnameOverride");
        if host_network {
            findings.forbidden(&at, "may not be set when hostNetwork is true");
        }
        if name.len() > HOST_NAME_MAX {
            findings.too_long(&at, HOST_NAME_MAX);
        }
        if !names::is_subdomain(name) {
            findings.invalid_each(&at, name, &names::dns_subdomain(name));
        }
    }
}

/// `validateHostUsers`, which spells two of the fields as Go does.
fn check_host_users(spec: &PodSpec, at: &Path, findings: &mut Findings) {
    if spec.host_users != Some(false) {
        return;
    }
    for (field, shared) in [
        ("hostNetwork", spec.host_network),
        ("HostPID", spec.host_pid),
        ("HostIPC", spec.host_ipc),
    ] {
        if shared == Some(true) {
            findings.forbidden(&at.child(field), "when `hostUsers` is false");
        }
    }
}

fn check_host_alias(alias: &HostAlias, at: &Path, findings: &mut Findings) {
    let HostAlias { hostnames, ip } = alias;
    if ip.parse::<IpAddr>().is_err() {
        findings.invalid(&at.child("ip"), ip, BAD_IP);
    }
    for hostname in hostnames.iter().flatten() {
        findings.invalid_each(&at.child("hostnames"), hostname, &names::dns_subdomain(hostname));
    }
}

/// podd runs Linux alone.
fn check_os(spec: &PodSpec, at: &Path, findings: &mut Findings) {
    if let Some(os) = &spec.os {
        let at = at.child("os").child("name");
        if os.name.is_empty() {
            findings.required(&at, "");
        }
        one_of(Some(&os.name), &["linux"], &at, findings);
    }
}
