//! What a probe or a hook does, carried out once.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::exec::{self, ExecError, OUTPUT_MAX};
use super::http::{self, Get, GetError};
use super::{Inner, Target, grpc, words};
use crate::model::{Action, Probe};
use crate::runtime::stream::StreamError;

/// What a probe found (`pkg/probe/probe.go`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    /// As good as a success, but somebody should look.
    Warning(String),
    Failure(String),
}

/// A probe could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("the container does not run")]
    NotRunning,
    #[error("{}", words::chain(.0))]
    Exec(#[source] ExecError),
    #[error("{0}")]
    Body(String),
    #[error("the pod has no address")]
    NoAddress,
    #[error("such a probe does not exist")]
    NoProbe,
}

/// What a hook ended with, in a kubelet's words (`lifecycle/handlers.go`).
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    #[error(
        "Exec lifecycle hook ([{command}]) for Container {container:?} in Pod {pod:?} failed - error: {what}, message: {output:?}"
    )]
    Exec {
        command: String,
        container: String,
        pod: String,
        what: String,
        output: String,
    },
    #[error("HTTP lifecycle hook ({path}) for Container {container:?} in Pod {pod:?} failed - error: {what}")]
    Http {
        path: String,
        container: String,
        pod: String,
        what: String,
    },
    #[error("Cannot run handler: invalid handler: {0}")]
    Invalid(&'static str),
}

/// One try of a probe.
pub(super) async fn run_probe(inner: &Inner, target: &Target, probe: &Probe) -> Result<Outcome, ProbeError> {
    let limit = probe.timeout;
    match &probe.action {
        Action::Exec { command } => {
            let Ok(ran) = timeout(limit, exec::run(inner, target, command)).await else {
                return Ok(Outcome::Failure(format!(
                    "command timed out: {:?} timed out after {}",
                    command.join(" "),
                    words::duration(limit)
                )));
            };
            match ran {
                Ok(ran) if ran.code == 0 => Ok(Outcome::Success),
                Ok(ran) => Ok(Outcome::Failure(words::text(
                    &[ran.stdout, ran.stderr].concat(),
                    OUTPUT_MAX,
                ))),
                Err(ExecError::Begin(StreamError::NotRunning(_))) => Err(ProbeError::NotRunning),
                Err(error) => Err(ProbeError::Exec(error)),
            }
        }
        Action::HttpGet { .. } => {
            let get = get_of(&probe.action, target, "probe")?;
            match http::get(get, Some(limit)).await {
                Ok(answer) => Ok(answer.judged()),
                Err(GetError::Body { what, .. }) => Err(ProbeError::Body(what)),
                Err(error) => Ok(Outcome::Failure(error.to_string())),
            }
        }
        Action::TcpSocket { host, port } => {
            let host = host_of(host.as_ref(), target)?;
            let address = http::authority(&host, *port);
            let connected = timeout(limit, TcpStream::connect((host.as_str(), *port))).await;
            Ok(match connected {
                Ok(Ok(_)) => Outcome::Success,
                Ok(Err(error)) => Outcome::Failure(dial_text(&address, &error)),
                Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
            })
        }
        Action::Grpc { port, service } => {
            let host = host_of(None, target)?;
            Ok(grpc::check(&host, *port, service, limit).await)
        }
        Action::Sleep { .. } => Err(ProbeError::NoProbe),
    }
}

/// A hook, to its end, however long that takes. `spent`: since it was first begun, perhaps by an agent before this one.
pub(super) async fn run_hook(
    inner: &Inner,
    target: &Target,
    action: Option<&Action>,
    spent: Duration,
) -> Result<(), HookError> {
    match action {
        Some(Action::Exec { command }) => {
            let error = |what: String, output: &[u8]| HookError::Exec {
                command: command.join(" "),
                container: target.container.clone(),
                pod: target.pod.clone(),
                what,
                output: words::text(output, OUTPUT_MAX),
            };
            match exec::run(inner, target, command).await {
                Ok(ran) if ran.code == 0 => Ok(()),
                Ok(ran) => {
                    let what = format!(
                        "command '{}' exited with {}: {}",
                        command.join(" "),
                        ran.code,
                        words::text(&ran.stderr, OUTPUT_MAX)
                    );
                    Err(error(what, &[ran.stdout, ran.stderr].concat()))
                }
                Err(failed) => Err(error(words::chain(&failed), &[])),
            }
        }
        Some(action @ Action::HttpGet { path, .. }) => {
            let error = |what: String| HookError::Http {
                path: path.clone(),
                container: target.container.clone(),
                pod: target.pod.clone(),
                what,
            };
            let get = get_of(action, target, "lifecycle").map_err(|failed| error(failed.to_string()))?;
            let plain = get.without_tls();
            let host = http::authority(&get.host, get.port);
            let answered = match http::get(get, None).await {
                Err(GetError::NotTls { .. }) => {
                    let again = http::get(plain, None).await;
                    if again.is_ok() {
                        let message = format!(
                            "request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded"
                        );
                        inner.warn(target, "LifecycleHTTPFallback", message);
                    }
                    again
                }
                answered => answered,
            };
            match answered {
                // Whatever it answered, it was told.
                Ok(_) | Err(GetError::Body { .. }) => Ok(()),
                Err(failed) => Err(error(failed.to_string())),
            }
        }
        Some(Action::Sleep { duration }) => {
            tokio::time::sleep_until(Instant::now() + duration.saturating_sub(spent)).await;
            Ok(())
        }
        Some(Action::TcpSocket { .. }) => Err(HookError::Invalid("tcpSocket")),
        Some(Action::Grpc { .. }) => Err(HookError::Invalid("grpc")),
        None => Err(HookError::Invalid("none")),
    }
}

fn get_of<'a>(action: &'a Action, target: &Target, agent: &'static str) -> Result<Get<'a>, ProbeError> {
    let Action::HttpGet {
        host,
        port,
        https,
        path,
        headers,
    } = action
    else {
        return Err(ProbeError::NoProbe);
    };
    Ok(Get {
        https: *https,
        host: host_of(host.as_ref(), target)?,
        port: *port,
        path: path.clone(),
        headers,
        agent,
    })
}

/// The host that is named, else the pod's address.
fn host_of(host: Option<&String>, target: &Target) -> Result<String, ProbeError> {
    let host = host.filter(|host| !host.is_empty()).cloned();
    host.or_else(|| target.address.as_ref().map(IpAddr::to_string))
        .ok_or(ProbeError::NoAddress)
}

/// As Go says that a connection could not be made.
pub(super) fn dial_text(address: &str, error: &io::Error) -> String {
    if error.raw_os_error().is_some() {
        format!("dial tcp {address}: connect: {}", words::system(error))
    } else {
        // A name that means nothing, say.
        format!("dial tcp {address}: {}", words::system(error))
    }
}
