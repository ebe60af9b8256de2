//! What is to happen to a container over its time, as podd means it.

use std::time::Duration;

use k8s_openapi::api::core::v1 as wire;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::life::{named_port, plain_variables};
use super::{ModelError, TOO_LONG, missing, not_understood, restart_policy, seconds, text};
use crate::model::expansion::Expander;
use crate::model::{Action, ContainerLife, Probe, ResizePolicy, RestartAction, RestartRule, TerminationMessagePolicy};

/// The life of a container; `field` names a field of it.
pub(super) fn life(
    container: &wire::Container,
    target: Option<String>,
    expander: &mut Expander,
    field: &dyn Fn(&str) -> String,
) -> Result<ContainerLife, ModelError> {
    let mut probe_of = |given: &Option<wire::Probe>, name: &str| {
        let read = |given| probe(given, container, expander, &field(name));
        given.as_ref().map(read).transpose()
    };
    let startup = probe_of(&container.startup_probe, "startupProbe")?;
    let liveness = probe_of(&container.liveness_probe, "livenessProbe")?;
    let readiness = probe_of(&container.readiness_probe, "readinessProbe")?;
    let wire::Lifecycle {
        post_start,
        pre_stop,
        stop_signal,
    } = container.lifecycle.clone().unwrap_or_default();
    let hook_of = |handler: Option<wire::LifecycleHandler>, name: &str| {
        let read = |given| hook(given, container, &field(name));
        handler.map(read).transpose()
    };
    let own_policy = text(container.restart_policy.as_ref());
    let termination_message_policy = match container.termination_message_policy.as_deref().unwrap_or_default() {
        "File" | "" => TerminationMessagePolicy::File,
        "FallbackToLogsOnError" => TerminationMessagePolicy::FallbackToLogsOnError,
        other => return Err(not_understood(field("terminationMessagePolicy"), other)),
    };
    Ok(ContainerLife {
        restart_policy: own_policy
            .map(|policy| restart_policy(Some(policy), &field("restartPolicy")))
            .transpose()?,
        restart_rules: restart_rules(container, &field("restartPolicyRules"))?,
        startup,
        liveness,
        readiness,
        post_start: hook_of(post_start, "lifecycle.postStart")?,
        pre_stop: hook_of(pre_stop, "lifecycle.preStop")?,
        stop_signal: stop_signal.filter(|signal| !signal.is_empty()),
        termination_message_policy,
        resize_policy: resize_policy(container.resize_policy.as_deref().unwrap_or_default()),
        target: target.filter(|target| !target.is_empty()),
    })
}

fn restart_rules(container: &wire::Container, field: &str) -> Result<Vec<RestartRule>, ModelError> {
    let rule = |rule: &wire::ContainerRestartRule| {
        let wire::ContainerRestartRule { action, exit_codes } = rule;
        let action = match action.as_str() {
            "Restart" => RestartAction::Restart,
            "RestartAllContainers" => RestartAction::RestartAllContainers,
            other => return Err(not_understood(field, other)),
        };
        let Some(wire::ContainerRestartRuleOnExitCodes { operator, values }) = exit_codes else {
            return Err(missing("the exit codes of a restart rule"));
        };
        let is_negated = match operator.as_str() {
            "In" => false,
            "NotIn" => true,
            other => return Err(not_understood(field, other)),
        };
        Ok(RestartRule {
            action,
            codes: values.clone().unwrap_or_default(),
            is_negated,
        })
    };
    container.restart_policy_rules.iter().flatten().map(rule).collect()
}

fn resize_policy(policies: &[wire::ContainerResizePolicy]) -> ResizePolicy {
    let restarts = |resource: &str| {
        let of_it = |policy: &&wire::ContainerResizePolicy| policy.resource_name == resource;
        let policy = policies.iter().find(of_it);
        policy.is_some_and(|policy| policy.restart_policy == "RestartContainer")
    };
    ResizePolicy {
        cpu_restarts: restarts("cpu"),
        memory_restarts: restarts("memory"),
    }
}

fn probe(
    probe: &wire::Probe,
    container: &wire::Container,
    expander: &mut Expander,
    field: &str,
) -> Result<Probe, ModelError> {
    let wire::Probe {
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
    let action = if let Some(wire::ExecAction { command }) = exec {
        let variables = plain_variables(container);
        let words = command.iter().flatten();
        let words = words
            .map(|word| expander.word(word, &variables))
            .collect::<Result<_, _>>();
        Action::Exec {
            command: words.map_err(|_| not_understood(field, TOO_LONG))?,
        }
    } else if let Some(get) = http_get {
        http(get, container, field)?
    } else if let Some(socket) = tcp_socket {
        tcp(socket, container, field)?
    } else if let Some(wire::GRPCAction { port, service }) = grpc {
        Action::Grpc {
            port: number(*port, field)?,
            service: service.clone().unwrap_or_default(),
        }
    } else {
        return Err(missing(&format!("what {field} does")));
    };
    let count = |value: &Option<i32>, default: u32| match value.unwrap_or_default() {
        0 => Ok(default),
        value => u32::try_from(value).map_err(|_| not_understood(field, value)),
    };
    let span = |value: &Option<i32>, default: u32| count(value, default).map(|s| Duration::from_secs(s.into()));
    let grace =
        termination_grace_period_seconds.map(|grace| seconds(grace).ok_or_else(|| not_understood(field, grace)));
    Ok(Probe {
        action,
        initial_delay: span(initial_delay_seconds, 0)?,
        period: span(period_seconds, 10)?,
        timeout: span(timeout_seconds, 1)?,
        success_threshold: count(success_threshold, 1)?,
        failure_threshold: count(failure_threshold, 3)?,
        termination_grace: grace.transpose()?,
    })
}

/// The commands of hooks are not expanded (`kubelet/lifecycle/handlers.go`).
fn hook(handler: wire::LifecycleHandler, container: &wire::Container, field: &str) -> Result<Action, ModelError> {
    let wire::LifecycleHandler {
        exec,
        http_get,
        sleep,
        tcp_socket,
    } = handler;
    if let Some(wire::ExecAction { command }) = exec {
        Ok(Action::Exec {
            command: command.unwrap_or_default(),
        })
    } else if let Some(get) = http_get {
        http(&get, container, field)
    } else if let Some(socket) = tcp_socket {
        tcp(&socket, container, field)
    } else if let Some(wire::SleepAction { seconds: asked }) = sleep {
        let duration = seconds(asked).ok_or_else(|| not_understood(field, asked))?;
        Ok(Action::Sleep { duration })
    } else {
        Err(missing(&format!("what {field} does")))
    }
}

fn http(get: &wire::HTTPGetAction, container: &wire::Container, field: &str) -> Result<Action, ModelError> {
    let wire::HTTPGetAction {
        host,
        http_headers,
        path,
        port: asked,
        scheme,
    } = get;
    let headers = http_headers.iter().flatten();
    Ok(Action::HttpGet {
        host: text(host.as_ref()).map(str::to_owned),
        port: port(asked, container, field)?,
        https: scheme.as_deref() == Some("HTTPS"),
        path: text(path.as_ref()).unwrap_or("/").to_owned(),
        headers: headers
            .map(|wire::HTTPHeader { name, value }| (name.clone(), value.clone()))
            .collect(),
    })
}

fn tcp(socket: &wire::TCPSocketAction, container: &wire::Container, field: &str) -> Result<Action, ModelError> {
    let wire::TCPSocketAction { host, port: asked } = socket;
    Ok(Action::TcpSocket {
        host: text(host.as_ref()).map(str::to_owned),
        port: port(asked, container, field)?,
    })
}

fn port(port: &IntOrString, container: &wire::Container, field: &str) -> Result<u16, ModelError> {
    match port {
        IntOrString::Int(port) => number(*port, field),
        IntOrString::String(name) => {
            let port = named_port(container, name).ok_or_else(|| not_understood(field, name))?;
            number(port.container_port, field)
        }
    }
}

fn number(port: i32, field: &str) -> Result<u16, ModelError> {
    u16::try_from(port).map_err(|_| not_understood(field, port))
}
