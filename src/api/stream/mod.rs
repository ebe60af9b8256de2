//! Streams: exec and attach, port-forward, and the proxy to a pod's ports.
//!
//! Goes in: requests that want another protocol on their connection (WebSocket with `channel.k8s.io` in all its versions,
//! SPDY/3.1, or SPDY inside a WebSocket), and plain requests to be passed on. Comes out: a session of
//! [`crate::runtime::stream`], byte for byte. `websocket` and `spdy` are pure codecs; `channels` and `multiplex` drive a
//! connection; `session` and `forward` know what it is for.
//!
//! **Invariants:** who or what is meant is checked before the connection changes its protocol, so that a refusal is a
//! `Status`. All queues are bounded. A client that is gone takes its session with it; so does an agent that stops.

mod channels;
mod forward;
mod multiplex;
mod proxy;
mod session;
mod spdy;
#[cfg(test)]
pub(super) mod tests;
mod upgrade;
mod websocket;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::Api;
use super::error::ApiError;
use super::guard::Peer;
use super::kinds::pod::POD;
use super::log::{choose_container, status_of};
use super::params::{Head, Params};
use super::read;
use crate::model::Uid;
use crate::runtime::stream::{Exec, Wanted};
use channels::Layout;
use multiplex::Opened;
use session::{Client, Start};
use upgrade::Transport;
use wire::{Framing, Incoming, Outgoing, Wire};

/// How long a client's streams of SPDY are waited for.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const V4_BASE64: &str = "v4.base64.channel.k8s.io";
const V3: &str = "v3.channel.k8s.io";
const V2: &str = "v2.channel.k8s.io";
const V1: &str = "channel.k8s.io";
const V1_BASE64: &str = "base64.channel.k8s.io";
const PORT_FORWARD: &str = "portforward.k8s.io";
const PORT_FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Of exec and attach; none at all is the oldest.
const REMOTE_WEBSOCKET: &[&str] = &[V5, V4, V4_BASE64, V3, V2, V1, V1_BASE64, ""];
/// Version 5 adds nothing to version 4 over SPDY: it is taken only of clients that know no other.
const REMOTE_SPDY: &[&str] = &[V4, V3, V2, V1];
const FORWARD_WEBSOCKET: &[&str] = &[PORT_FORWARD_TUNNEL, V4, V4_BASE64, ""];
const FORWARD_SPDY: &[&str] = &[PORT_FORWARD];

/// Channels of exec and attach.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;

pub(super) fn router() -> Router<Api> {
    let pod = "/api/v1/namespaces/{namespace}/pods/{name}";
    Router::new()
        .route(&format!("{pod}/exec"), get(exec).post(exec))
        .route(&format!("{pod}/attach"), get(attach).post(attach))
        .route(&format!("{pod}/portforward"), get(port_forward).post(port_forward))
        .route(&format!("{pod}/proxy"), any(proxy::serve))
        .route(&format!("{pod}/proxy/"), any(proxy::serve))
        .route(&format!("{pod}/proxy/{{*path}}"), any(proxy::serve))
}

/// What ends a stream besides its own end.
#[derive(Debug, Clone)]
struct Context {
    /// Without data for so long.
    idle_limit: Duration,
    /// What is still to be said when the agent stops is said in this time.
    stop_timeout: Duration,
    stopping: Option<watch::Receiver<bool>>,
}

impl Context {
    fn new(api: &Api, head: &Head) -> Self {
        Self {
            idle_limit: api.streaming_idle_timeout,
            stop_timeout: api.limits.stop_timeout,
            stopping: head.stopping.clone(),
        }
    }

    async fn stopped(&self) {
        super::guard::stopped(&mut self.stopping.clone()).await;
    }

    /// What is left of a stream, once the agent stops, is given up after a moment.
    async fn bounded(&self, work: impl Future<Output = ()>) {
        let out_of_time = async {
            self.stopped().await;
            tokio::time::sleep_until(tokio::time::Instant::now() + self.stop_timeout).await;
        };
        // Cancel-safe: whatever is dropped here ends with the agent.
        tokio::select! {
            () = work => {}
            () = out_of_time => {}
        }
    }
}

/// `corev1.PodExecOptions` and `PodAttachOptions`.
#[expect(clippy::struct_excessive_bools, reason = "they are Kubernetes' own")]
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    container: Option<String>,
    command: Vec<String>,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Options {
    fn parse(params: &Params) -> Result<Self, ApiError> {
        let flag = |name| params.flag(name).unwrap_or(false);
        let tty = flag("tty");
        let options = Self {
            container: params.text("container").map(str::to_owned),
            command: params.all("command").map(str::to_owned).collect(),
            stdin: flag("stdin"),
            stdout: flag("stdout"),
            // A terminal has one output.
            stderr: flag("stderr") && !tty,
            tty,
        };
        if !options.stdin && !options.stdout && !options.stderr {
            return Err(ApiError::bad_request(
                "you must specify at least 1 of stdin, stdout, stderr",
            ));
        }
        Ok(options)
    }
}

async fn pod(api: &Api, head: &Head, name: &str) -> Result<(Uid, Pod), ApiError> {
    let object = read::stored(api, &POD, head.namespace(), name).await?;
    let pod =
        Pod::deserialize(object.json.as_ref()).map_err(|e| ApiError::internal("a stored pod cannot be read", e))?;
    Ok((object.uid.clone(), pod))
}

/// The container that is meant; it must run.
async fn running_container(api: &Api, head: &Head, asked: Option<&str>) -> Result<(Uid, Pod, String), ApiError> {
    let name = head.name()?;
    let (uid, pod) = pod(api, head, name).await?;
    let container = choose_container(&pod, name, asked)?;
    let state = status_of(&pod, &container).and_then(|s| s.state.as_ref());
    if state.is_none_or(|s| s.running.is_none()) {
        return Err(ApiError::NotRunning {
            message: format!("container not found (\"{container}\")"),
        });
    }
    Ok((uid, pod, container))
}

async fn exec(State(api): State<Api>, head: Head, request: Request) -> Response {
    begin(&api, &head, request, |options, _, container| {
        if options.command.iter().all(String::is_empty) {
            return Err(ApiError::bad_request(
                "you must specify at least one command for the container",
            ));
        }
        let wanted = Wanted {
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            tty: options.tty.then_some(None),
        };
        Ok(Start::Exec(Exec {
            container,
            command: options.command.clone(),
            wanted,
        }))
    })
    .await
}

async fn attach(State(api): State<Api>, head: Head, request: Request) -> Response {
    begin(&api, &head, request, |options, pod, container| {
        // Whether it has a terminal was settled when it was started.
        let tty = has_tty(pod, &container);
        let wanted = Wanted {
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr && !tty,
            tty: tty.then_some(None),
        };
        Ok(Start::Attach { container, wanted })
    })
    .await
}

fn has_tty(pod: &Pod, container: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let lasting = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    lasting
        .map(|c| (&c.name, c.tty))
        .chain(ephemeral.map(|c| (&c.name, c.tty)))
        .any(|(name, tty)| name == container && tty == Some(true))
}

/// Check everything, then answer 101 and go on beside the request.
async fn begin(
    api: &Api,
    head: &Head,
    request: Request,
    start: impl Fn(&Options, &Pod, String) -> Result<Start, ApiError>,
) -> Response {
    let checked = async {
        let options = Options::parse(&head.params)?;
        let (uid, pod, container) = running_container(api, head, options.container.as_deref()).await?;
        let start = start(&options, &pod, container)?;
        Ok::<_, ApiError>((uid, options, start))
    };
    let (uid, options, start) = match checked.await {
        Ok(checked) => checked,
        Err(error) => return error.into_response(),
    };
    let spdys = [REMOTE_SPDY, &[V5]].concat();
    let transport = match upgrade::negotiate(request.method(), &request.headers().clone(), REMOTE_WEBSOCKET, &spdys) {
        Ok(transport) => transport,
        Err(refusal) => return *refusal,
    };
    let context = Context::new(api, head);
    let streams = Arc::clone(&api.pod_streams);
    upgraded(api, request, transport, move |io, transport| async move {
        let work = remote(io, &transport, &options, start, &uid, streams, &context);
        context.bounded(Box::pin(work)).await;
    })
}

/// Answer 101, and hand the connection to `serve` once it is free. It counts as one stream until that has ended.
fn upgraded<F: Future<Output = ()> + Send + 'static>(
    api: &Api,
    mut request: Request,
    transport: Transport,
    serve: impl FnOnce(TokioIo<hyper::upgrade::Upgraded>, Transport) -> F + Send + 'static,
) -> Response {
    let permit = match api.stream_permit() {
        Ok(permit) => permit,
        Err(error) => return error.into_response(),
    };
    // Listeners wait for what they track before they end.
    let tasks = request.extensions().get::<Peer>().map(|peer| peer.streams.clone());
    let connection = hyper::upgrade::on(&mut request);
    let response = transport.response();
    tasks.unwrap_or_else(TaskTracker::new).spawn(async move {
        let _permit = permit;
        match connection.await {
            Ok(connection) => serve(TokioIo::new(connection), transport).await,
            Err(error) => tracing::debug!(%error, "a connection was closed instead of becoming a stream"),
        }
    });
    response
}

/// Exec or attach over either transport.
async fn remote(
    io: impl AsyncRead + AsyncWrite + Unpin,
    transport: &Transport,
    options: &Options,
    start: Start,
    uid: &Uid,
    streams: Arc<dyn crate::runtime::stream::Streams>,
    context: &Context,
) {
    let (wire, queues) = Wire::new();
    match transport {
        Transport::WebSocket { protocol, .. } => {
            let base64 = matches!(*protocol, V4_BASE64 | V1_BASE64);
            let mut wanted = Vec::new();
            wanted.extend(options.stdin.then_some(STDIN));
            wanted.extend(options.tty.then_some(RESIZE));
            let (layout, incoming) = Layout::channels(&wanted, base64, *protocol == V5);
            let mut incoming = incoming.into_iter();
            let outgoing = |channel| Outgoing {
                wire: wire.clone(),
                framing: framing(base64, channel),
            };
            let client = Client {
                stdin: options.stdin.then(|| incoming.next()).flatten(),
                stdout: options.stdout.then(|| outgoing(STDOUT)),
                stderr: options.stderr.then(|| outgoing(STDERR)),
                resize: incoming.next(),
                status: outgoing(STATUS),
                has_status: matches!(*protocol, V5 | V4 | V4_BASE64),
                is_websocket: true,
            };
            let serving = async {
                // The lowest channel that is written to tells the client that the connection stands.
                let first = client
                    .stdout
                    .as_ref()
                    .or(client.stderr.as_ref())
                    .unwrap_or(&client.status);
                // An error means that the client is gone, as the session will find out.
                let _gone = first.send(&[]).await;
                session::serve(client, start, uid, streams, context).await;
            };
            let connection = channels::drive(io, layout, wire.clone(), queues);
            until_closed(Box::pin(connection), Box::pin(serving)).await;
        }
        Transport::Spdy { protocol } => {
            let (opened, streams_opened) = multiplex::opened();
            let serving = async {
                if let Some(client) = gathered(streams_opened, protocol, options).await {
                    session::serve(client, start, uid, streams, context).await;
                } else {
                    tracing::debug!("a client did not open the streams it asked for in time");
                    wire.end().await;
                }
            };
            let connection = multiplex::drive(io, opened, wire.clone(), queues);
            until_closed(Box::pin(connection), Box::pin(serving)).await;
        }
    }
}

/// A connection and what it serves: the one ends with the other, but has time to say its last word.
async fn until_closed(connection: impl Future<Output = ()>, serving: impl Future<Output = ()>) {
    let mut connection = std::pin::pin!(connection);
    // Cancel-safe: where the client is gone, what it was served is dropped on purpose.
    tokio::select! {
        () = connection.as_mut() => {}
        () = serving => connection.await,
    }
}

fn framing(base64: bool, channel: u8) -> Framing {
    if base64 {
        Framing::Base64Channel(channel)
    } else {
        Framing::Channel(channel)
    }
}

/// The streams of SPDY that the query promises, as the client opens them.
async fn gathered(mut opened: Opened, protocol: &str, options: &Options) -> Option<Client> {
    let resizes = options.tty && matches!(protocol, V5 | V4 | V3);
    let (mut stdin, mut resize): (Option<Incoming>, Option<Incoming>) = (None, None);
    let (mut stdout, mut stderr, mut status) = (None, None, None);
    let gathering = async {
        while status.is_none()
            || (options.stdin && stdin.is_none())
            || (options.stdout && stdout.is_none())
            || (options.stderr && stderr.is_none())
            || (resizes && resize.is_none())
        {
            let stream = opened.recv().await?;
            match stream.header("streamtype") {
                Some("error") => status = Some(stream.output),
                Some("stdin") => stdin = Some(stream.input),
                Some("stdout") => stdout = Some(stream.output),
                Some("stderr") => stderr = Some(stream.output),
                Some("resize") => resize = Some(stream.input),
                _ => stream.reset().await,
            }
        }
        Some(())
    };
    tokio::time::timeout(STREAMS_TIMEOUT, gathering).await.ok()??;
    Some(Client {
        stdin,
        stdout,
        stderr,
        resize,
        status: status?,
        has_status: matches!(protocol, V5 | V4),
        is_websocket: false,
    })
}

/// The ports of the query, for clients that name them there.
fn ports(params: &Params) -> Result<Vec<u16>, ApiError> {
    let mut ports = Vec::new();
    for text in params.all("ports").flat_map(|list| list.split(',')) {
        let port = text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| ApiError::bad_request(format!("unable to parse \"{text}\" as a port")))?;
        ports.push(port);
    }
    if ports.is_empty() {
        return Err(ApiError::bad_request("query parameter \"ports\" is required"));
    }
    if ports.len() > forward::PORTS {
        let message = format!("at most {} ports can be forwarded at once", forward::PORTS);
        return Err(ApiError::bad_request(message));
    }
    Ok(ports)
}

async fn port_forward(State(api): State<Api>, head: Head, request: Request) -> Response {
    let checked = async {
        let name = head.name()?;
        let (uid, pod) = pod(&api, &head, name).await?;
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return Err(ApiError::NotRunning {
                message: format!("pod not found (\"{name}_{}\")", head.namespace()),
            });
        }
        Ok(forward::Target {
            pod: name.to_owned(),
            uid,
            streams: Arc::clone(&api.pod_streams),
            permits: Arc::clone(&api.streams),
        })
    };
    let target = match checked.await {
        Ok(target) => target,
        Err(error) => return error.into_response(),
    };
    let agreed = upgrade::negotiate(
        request.method(),
        &request.headers().clone(),
        FORWARD_WEBSOCKET,
        FORWARD_SPDY,
    );
    let transport = match agreed {
        Ok(transport) => transport,
        Err(refusal) => return *refusal,
    };
    let is_channels = matches!(&transport, Transport::WebSocket { protocol, .. } if *protocol != PORT_FORWARD_TUNNEL);
    let ports = match is_channels.then(|| ports(&head.params)).transpose() {
        Ok(ports) => ports.unwrap_or_default(),
        Err(error) => return error.into_response(),
    };
    let context = Context::new(&api, &head);
    upgraded(&api, request, transport, move |io, transport| async move {
        let work = forwarded(io, &transport, &ports, &target, &context);
        context.bounded(Box::pin(work)).await;
    })
}

/// Port-forward over any of its transports.
async fn forwarded(
    io: impl AsyncRead + AsyncWrite + Unpin,
    transport: &Transport,
    ports: &[u16],
    target: &forward::Target,
    context: &Context,
) {
    let (wire, queues) = Wire::new();
    match transport {
        Transport::Spdy { .. } => {
            let (opened, streams) = multiplex::opened();
            let serving = forward::serve_streams(streams, wire.clone(), target, context);
            let connection = multiplex::drive(io, opened, wire.clone(), queues);
            until_closed(Box::pin(connection), Box::pin(serving)).await;
        }
        Transport::WebSocket { protocol, .. } if *protocol == PORT_FORWARD_TUNNEL => {
            let (sender, incoming) = tokio::sync::mpsc::channel(wire::PIECES);
            let outer = channels::drive(io, Layout::Whole(Some(sender)), wire.clone(), queues);
            let outgoing = Outgoing {
                wire: wire.clone(),
                framing: Framing::Whole,
            };
            let (inner, outside) = tokio::io::duplex(2 * wire::PIECE);
            let (inner_wire, inner_queues) = Wire::new();
            let (opened, streams) = multiplex::opened();
            let inside = async {
                let serving = forward::serve_streams(streams, inner_wire.clone(), target, context);
                let connection = multiplex::drive(inner, opened, inner_wire.clone(), inner_queues);
                until_closed(Box::pin(connection), Box::pin(serving)).await;
            };
            let serving = async {
                tokio::join!(inside, tunnel(outside, incoming, &outgoing));
                // An error means that the client is gone.
                let _gone = wire.frame(websocket::close(websocket::NORMAL)).await;
                wire.end().await;
            };
            until_closed(Box::pin(outer), Box::pin(serving)).await;
        }
        Transport::WebSocket { protocol, .. } => {
            let base64 = *protocol == V4_BASE64;
            let data: Vec<u8> = (0..ports.len()).filter_map(|at| u8::try_from(2 * at).ok()).collect();
            let (layout, incoming) = Layout::channels(&data, base64, false);
            let framing = |channel| framing(base64, channel);
            let serving = forward::serve_channels(ports, incoming, framing, wire.clone(), target, context);
            let connection = channels::drive(io, layout, wire.clone(), queues);
            until_closed(Box::pin(connection), Box::pin(serving)).await;
        }
    }
}

/// The bytes of a connection inside a WebSocket, both ways.
async fn tunnel(io: impl AsyncRead + AsyncWrite, mut from: Incoming, to: &Outgoing) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut read, mut write) = tokio::io::split(io);
    let inward = async {
        while let Some(bytes) = from.recv().await {
            if write.write_all(&bytes).await.is_err() {
                // The inner connection has ended: what comes is dropped.
                break;
            }
        }
        let _closed = write.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; wire::PIECE];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            if to.send(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    // Cancel-safe: where the inner connection has ended, nobody reads what the client still sends.
    tokio::select! {
        () = outward => {}
        () = async { inward.await; std::future::pending().await } => {}
    }
}

/// A failed connect in the words that clients know from Go.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds of the standard library are many, and grow"
)]
fn dial_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}
