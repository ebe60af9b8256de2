//! The rules of what happens to a container over its time: probes, hooks, restarts, resizes (`validation.go`:
//! `validateProbe`, `validateLifecycle`, `validateHandler`, `validateResizePolicy`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, ContainerRestartRule, ContainerRestartRuleOnExitCodes, ExecAction,
    GRPCAction, HTTPGetAction, HTTPHeader, Lifecycle, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::container::{Role, Surroundings, check_length, check_text};
use super::fault::{Findings, Path};
use super::names;
use super::spec::{MAX_GRACE, one_of};
use crate::model::expansion::Expander;

const NOT_INIT: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";
const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

/// Checks everything of the container that has to do with time.
pub(super) fn check(
    container: &Container,
    role: Role,
    at: &Path,
    around: &Surroundings<'_>,
    expander: &mut Expander,
    findings: &mut Findings,
) {
    check_resize_policy(
        container.resize_policy.as_deref().unwrap_or_default(),
        around.restart_policy,
        &at.child("resizePolicy"),
        findings,
    );
    // Empty is none to podd, as everywhere; Kubernetes refuses it in the same words.
    one_of(
        container.restart_policy.as_deref(),
        &["Always", "Never", "OnFailure"],
        &at.child("restartPolicy"),
        findings,
    );
    check_restart_rules(container, at, findings);
    let hurdle = match role {
        Role::Regular | Role::Sidecar => None,
        Role::Init => Some(NOT_INIT),
        Role::Ephemeral => Some(NOT_EPHEMERAL),
    };
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    if let Some(why) = hurdle {
        if container.lifecycle.is_some() {
            findings.forbidden(&at.child("lifecycle"), why);
        }
        for (field, probe) in probes {
            if probe.is_some() {
                findings.forbidden(&at.child(field), why);
            }
        }
    } else {
        if let Some(lifecycle) = &container.lifecycle {
            check_lifecycle(lifecycle, container, around, &at.child("lifecycle"), findings);
        }
        let variables = plain_variables(container);
        for (field, probe) in probes {
            if let Some(probe) = probe {
                let at = at.child(field);
                check_probe(probe, container, &at, findings);
                check_probe_kind(probe, field == "readinessProbe", &at, findings);
                for (i, word) in command(probe).iter().enumerate() {
                    let at = at.child("exec").child("command").index(i);
                    check_length(expander.word(word, &variables), &at, findings);
                }
            }
        }
    }
    if role == Role::Ephemeral {
        check_ephemeral(container, at, findings);
    }
}

/// What an ephemeral container may not have beside probes and hooks (`allowedEphemeralContainerFields`).
fn check_ephemeral(container: &Container, at: &Path, findings: &mut Findings) {
    let resources = container.resources.as_ref().is_some_and(|resources| {
        let filled = |list: &Option<BTreeMap<_, _>>| list.as_ref().is_some_and(|list| !list.is_empty());
        filled(&resources.limits) || filled(&resources.requests)
    });
    for (field, set) in [
        ("ports", container.ports.as_ref().is_some_and(|list| !list.is_empty())),
        ("resources", resources),
        (
            "resizePolicy",
            container.resize_policy.as_ref().is_some_and(|list| !list.is_empty()),
        ),
        ("restartPolicy", container.restart_policy.is_some()),
        (
            "restartPolicyRules",
            container
                .restart_policy_rules
                .as_ref()
                .is_some_and(|list| !list.is_empty()),
        ),
    ] {
        if set {
            findings.forbidden(&at.child(field), NOT_EPHEMERAL);
        }
    }
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        for (field, path) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if path.as_ref().is_some_and(|path| !path.is_empty()) {
                findings.forbidden(&at.child("volumeMounts").index(i).child(field), NOT_EPHEMERAL);
            }
        }
    }
}

/// `validateContainerRestartPolicy`. Codes that no process can end with, the same code twice and the same rule twice are
/// let through, as Kubernetes does: a rule says no more and no less by them.
fn check_restart_rules(container: &Container, at: &Path, findings: &mut Findings) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    if !rules.is_empty() && container.restart_policy.as_ref().is_none_or(String::is_empty) {
        let detail = "must specify restartPolicy when restart rules are used";
        findings.required(&at.child("restartPolicy"), detail);
    }
    let at = at.child("restartPolicyRules");
    if rules.len() > MAX_RESTART_RULES {
        findings.too_many(&at, rules.len(), MAX_RESTART_RULES);
    }
    for (i, ContainerRestartRule { action, exit_codes }) in rules.iter().enumerate() {
        let at = at.index(i);
        let actions = ["Restart", "RestartAllContainers"];
        if !actions.contains(&action.as_str()) {
            findings.not_supported(&at.child("action"), action, &actions);
        }
        let at = at.child("exitCodes");
        let Some(ContainerRestartRuleOnExitCodes { operator, values }) = exit_codes else {
            findings.required(&at, "must be specified");
            continue;
        };
        if !["In", "NotIn"].contains(&operator.as_str()) {
            findings.not_supported(&at.child("operator"), operator, &["In", "NotIn"]);
        }
        let count = values.as_ref().map_or(0, Vec::len);
        if count > MAX_EXIT_CODES {
            findings.too_many(&at.child("values"), count, MAX_EXIT_CODES);
        }
    }
}

fn check_resize_policy(
    policies: &[ContainerResizePolicy],
    restart_policy: Option<&str>,
    at: &Path,
    findings: &mut Findings,
) {
    let mut seen = BTreeSet::new();
    for (i, policy) in policies.iter().enumerate() {
        let ContainerResizePolicy {
            resource_name,
            restart_policy: restart,
        } = policy;
        if !seen.insert(resource_name) {
            findings.duplicate(&at.index(i), resource_name);
        }
        for (value, supported) in [
            (resource_name, ["cpu", "memory"]),
            (restart, ["NotRequired", "RestartContainer"]),
        ] {
            if value.is_empty() {
                findings.required(at, "");
            }
            one_of(Some(value), &supported, at, findings);
        }
        if restart_policy == Some("Never") && restart != "NotRequired" {
            findings.invalid(at, restart, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

fn check_lifecycle(
    lifecycle: &Lifecycle,
    container: &Container,
    around: &Surroundings<'_>,
    at: &Path,
    findings: &mut Findings,
) {
    let Lifecycle {
        post_start,
        pre_stop,
        stop_signal,
    } = lifecycle;
    for (field, handler) in [("postStart", post_start), ("preStop", pre_stop)] {
        let Some(LifecycleHandler {
            exec,
            http_get,
            sleep,
            tcp_socket,
        }) = handler
        else {
            continue;
        };
        let at = at.child(field);
        let handler = Handler {
            exec: exec.as_ref(),
            http_get: http_get.as_ref(),
            tcp_socket: tcp_socket.as_ref(),
            grpc: None,
            sleep: sleep.as_ref(),
        };
        if tcp_socket.is_some() {
            findings.warn(
                &at.child("tcpSocket"),
                "a hook of this kind always fails, as in Kubernetes",
            );
        }
        handler.check(container, around.grace, &at, findings);
    }
    if let Some(signal) = stop_signal {
        let at = at.child("stopSignal");
        if around.os.is_none_or(str::is_empty) {
            findings.forbidden(&at, "may not be set for containers with empty `spec.os.name`");
        } else if !is_signal(signal) {
            let supported: Vec<String> = signals().collect();
            let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
            findings.not_supported(&at, signal, &supported);
        }
    }
}

const SIGNALS: [&str; 34] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// `corev1.Signal` on Linux.
fn signals() -> impl Iterator<Item = String> {
    let upwards = (1..=15).map(|n| format!("SIGRTMIN+{n}"));
    let downwards = (1..=14).rev().map(|n| format!("SIGRTMAX-{n}"));
    let ends = ["SIGRTMIN", "SIGRTMAX"].map(str::to_owned);
    SIGNALS
        .into_iter()
        .map(str::to_owned)
        .chain(ends)
        .chain(upwards)
        .chain(downwards)
}

fn is_signal(name: &str) -> bool {
    signals().any(|known| known == name)
}

fn check_probe(probe: &Probe, container: &Container, at: &Path, findings: &mut Findings) {
    let Probe {
        exec,
        failure_threshold,
        grpc,
        http_get,
        initial_delay_seconds,
        period_seconds,
        success_threshold,
        tcp_socket,
        termination_grace_period_seconds,
        timeout_seconds,
    } = probe;
    let handler = Handler {
        exec: exec.as_ref(),
        http_get: http_get.as_ref(),
        tcp_socket: tcp_socket.as_ref(),
        grpc: grpc.as_ref(),
        sleep: None,
    };
    handler.check(container, None, at, findings);
    for (field, value) in [
        ("initialDelaySeconds", initial_delay_seconds),
        ("timeoutSeconds", timeout_seconds),
        ("periodSeconds", period_seconds),
        ("successThreshold", success_threshold),
        ("failureThreshold", failure_threshold),
    ] {
        if let Some(value) = value.filter(|value| *value < 0) {
            findings.invalid_value(&at.child(field), value, "must be greater than or equal to 0");
        }
    }
    if let Some(grace) = termination_grace_period_seconds {
        let at = at.child("terminationGracePeriodSeconds");
        if *grace <= 0 {
            findings.invalid_value(&at, grace, "must be greater than 0");
        } else if *grace > MAX_GRACE {
            findings.invalid_value(&at, grace, &names::range(1, MAX_GRACE));
        }
    }
}

/// What holds for one sort of probe alone.
fn check_probe_kind(probe: &Probe, is_readiness: bool, at: &Path, findings: &mut Findings) {
    if is_readiness {
        if let Some(grace) = probe.termination_grace_period_seconds {
            let at = at.child("terminationGracePeriodSeconds");
            findings.invalid_value(&at, grace, "must not be set for readinessProbes");
        }
    } else if let Some(threshold) = probe.success_threshold.filter(|threshold| *threshold != 1) {
        findings.invalid_value(&at.child("successThreshold"), threshold, "must be 1");
    }
}

/// What a probe or a hook does.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl Handler<'_> {
    /// Exactly one, and that one well formed. `grace`: the pod's, which no sleep may outlast.
    fn check(&self, container: &Container, grace: Option<i64>, at: &Path, findings: &mut Findings) {
        let given = [
            ("exec", self.exec.is_some()),
            ("httpGet", self.http_get.is_some()),
            ("tcpSocket", self.tcp_socket.is_some()),
            ("grpc", self.grpc.is_some()),
            ("sleep", self.sleep.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, set)| *set).map(|(field, _)| field);
        let Some(first) = given.next() else {
            findings.required(at, "must specify a handler type");
            return;
        };
        for more in given {
            findings.forbidden(&at.child(more), "may not specify more than 1 handler type");
        }
        let at = at.child(first);
        if let Some(ExecAction { command }) = self.exec {
            let command = command.as_deref().unwrap_or_default();
            if command.is_empty() {
                findings.required(&at.child("command"), "");
            }
            for (i, word) in command.iter().enumerate() {
                check_text(word, &at.child("command").index(i), findings);
            }
        } else if let Some(get) = self.http_get {
            check_http_get(get, container, &at, findings);
        } else if let Some(TCPSocketAction { host, port }) = self.tcp_socket {
            check_port(port, container, &at.child("port"), findings);
            check_line(host.as_deref().unwrap_or_default(), &at.child("host"), findings);
        } else if let Some(GRPCAction { port, service }) = self.grpc {
            check_port(&IntOrString::Int(*port), container, &at.child("port"), findings);
            check_line(service.as_deref().unwrap_or_default(), &at.child("service"), findings);
        } else if let (Some(SleepAction { seconds }), Some(grace)) = (self.sleep, grace)
            && (*seconds < 0 || *seconds > grace)
        {
            let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            findings.invalid_value(&at, seconds, &detail);
        }
    }
}

fn check_http_get(get: &HTTPGetAction, container: &Container, at: &Path, findings: &mut Findings) {
    let HTTPGetAction {
        host,
        http_headers,
        path,
        port,
        scheme,
    } = get;
    check_line(path.as_deref().unwrap_or_default(), &at.child("path"), findings);
    check_line(host.as_deref().unwrap_or_default(), &at.child("host"), findings);
    check_port(port, container, &at.child("port"), findings);
    one_of(scheme.as_deref(), &["HTTP", "HTTPS"], &at.child("scheme"), findings);
    let at = at.child("httpHeaders");
    for HTTPHeader { name, value } in http_headers.iter().flatten() {
        findings.invalid_each(&at, name, &names::http_header(name));
        check_line(value, &at, findings);
    }
}

/// What becomes a part of one line of a request.
fn check_line(text: &str, at: &Path, findings: &mut Findings) {
    if text.contains(char::is_control) {
        findings.invalid(at, text, "must not contain control characters");
    }
}

/// A number, or the name of one of the container's own ports. (Kubernetes takes any name; its probe then fails for ever.)
fn check_port(port: &IntOrString, container: &Container, at: &Path, findings: &mut Findings) {
    match port {
        IntOrString::Int(number) => {
            if !(1..=65_535).contains(number) {
                findings.invalid_value(at, number, &names::range(1, 65_535));
            }
        }
        IntOrString::String(name) => {
            let messages = names::port_name(name);
            findings.invalid_each(at, name, &messages);
            if messages.is_empty() && named_port(container, name).is_none() {
                findings.not_found(at, name);
            }
        }
    }
}

/// The port of the container that bears this name.
pub(super) fn named_port<'a>(container: &'a Container, name: &str) -> Option<&'a ContainerPort> {
    let mut ports = container.ports.iter().flatten();
    ports.find(|port| port.name.as_deref() == Some(name))
}

/// The words of a probe that runs a command.
pub(super) fn command(probe: &Probe) -> &[String] {
    let command = probe.exec.as_ref().and_then(|exec| exec.command.as_deref());
    command.unwrap_or_default()
}

/// What the commands of probes may refer to: the container's variables as they stand in the manifest
/// (`kubelet/container/helpers.go`, `ExpandContainerCommandOnlyStatic`).
pub(super) fn plain_variables(container: &Container) -> BTreeMap<String, String> {
    let variables = container.env.iter().flatten();
    variables
        .map(|variable| (variable.name.clone(), variable.value.clone().unwrap_or_default()))
        .collect()
}
