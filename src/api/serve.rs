//! The listeners: TLS for everyone with a certificate or a token, a unix socket for root.
//!
//! Goes in: a router and a bound socket. Comes out: connections served until the agent stops.
//!
//! **Invariants:** a connection that says nothing, half a sentence, or everything but the end is closed after a fixed time
//! and never holds more than a fixed amount of memory. Closing a listener lets requests in flight finish, for a moment.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::Limits;
use super::auth::Identity;
use super::guard::{Guard, Peer, Shown, guarded};
use super::pace::{Pace, Paced};
use super::tls::Tls;

/// Bytes of a request's head at most.
const HEAD_LIMIT: usize = 32 * 1024;
/// Streams of one HTTP/2 connection at once.
const H2_STREAMS: u32 = 128;
/// How often a silent HTTP/2 connection is asked whether it is still there, and TCP does so below.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long accepting rests after the system refused it (no descriptors left).
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What both listeners share.
struct Listening {
    router: Router,
    limits: Limits,
    stopping: watch::Receiver<bool>,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Listening {
    fn new(router: Router, limits: Limits, guard: Guard, stopping: watch::Receiver<bool>) -> Arc<Self> {
        let connections = Arc::new(Semaphore::new(limits.connections));
        let router = guarded(router, guard);
        Arc::new(Self {
            router,
            limits,
            stopping,
            connections,
            tasks: TaskTracker::new(),
        })
    }

    /// Completes once the agent stops.
    async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // An error means that the agent is gone already.
        drop(stopping.wait_for(|stop| *stop).await);
    }

    /// Room for one more connection, and the connection; `None` once the agent stops.
    async fn accept<T, F: Future<Output = io::Result<T>>>(
        &self,
        accept: impl Fn() -> F,
    ) -> Option<(T, OwnedSemaphorePermit)> {
        let next = async {
            let permit = Arc::clone(&self.connections).acquire_owned().await.ok()?;
            loop {
                match accept().await {
                    Ok(accepted) => return Some((accepted, permit)),
                    Err(error) => {
                        tracing::warn!(%error, "a connection cannot be accepted");
                        tokio::time::sleep_until(Instant::now() + ACCEPT_REST).await;
                    }
                }
            }
        };
        // Cancel-safe: a connection that was accepted is returned at once.
        tokio::select! {
            biased;
            () = self.stopped() => None,
            accepted = next => accepted,
        }
    }

    async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Serve TLS until `stopping` is true, then let connections end.
pub async fn serve_tls(listener: TcpListener, tls: Tls, router: Router, stopping: watch::Receiver<bool>) {
    serve_tls_with(listener, tls, router, stopping, Limits::default()).await;
}

pub(crate) async fn serve_tls_with(
    listener: TcpListener,
    tls: Tls,
    router: Router,
    stopping: watch::Receiver<bool>,
    limits: Limits,
) {
    let guard = Guard::new(&limits, Some(tls.bearers.clone()));
    let listening = Listening::new(router, limits, guard, stopping);
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
    let tls = Arc::new(tls);
    while let Some(((stream, _remote), permit)) = listening.accept(|| listener.accept()).await {
        let (acceptor, tls, shared) = (acceptor.clone(), Arc::clone(&tls), Arc::clone(&listening));
        listening.tasks.spawn(async move {
            let _permit = permit;
            keep_alive(&stream);
            let local = stream.local_addr().ok().map(|a: SocketAddr| a.ip());
            let remote = stream.peer_addr().ok().map(|a: SocketAddr| a.ip());
            let handshake = tokio::time::timeout(shared.limits.head_timeout, acceptor.accept(stream));
            let Ok(Ok(stream)) = handshake.await else { return };
            let session = stream.get_ref().1;
            let shown = tls.identify(session.peer_certificates().unwrap_or(&[]), UnixTime::now());
            let http2 = session.alpn_protocol() == Some(b"h2");
            let peer = Peer {
                shown,
                hosts: Some(Arc::clone(&tls.hosts)),
                local,
                remote,
                stopping: shared.stopping.clone(),
                streams: shared.tasks.clone(),
            };
            connection(
                &shared,
                stream,
                peer,
                if http2 { Protocol::Http2 } else { Protocol::Http1 },
            )
            .await;
        });
    }
    drop(listener);
    listening.finish().await;
}

/// Serve HTTP on a unix socket until `stopping` is true, then let connections end. The socket file is whoever's who made it.
pub async fn serve_unix(listener: UnixListener, router: Router, stopping: watch::Receiver<bool>) {
    serve_unix_with(listener, router, stopping, Limits::default()).await;
}

pub(crate) async fn serve_unix_with(
    listener: UnixListener,
    router: Router,
    stopping: watch::Receiver<bool>,
    limits: Limits,
) {
    let listening = Listening::new(router, limits, Guard::new(&limits, None), stopping);
    let me = rustix::process::geteuid().as_raw();
    while let Some(((stream, _), permit)) = listening.accept(|| listener.accept()).await {
        // Root, and whoever the agent itself runs as.
        let trusted = stream.peer_cred().is_ok_and(|c| c.uid() == 0 || c.uid() == me);
        let shown = if trusted {
            Shown::Known {
                identity: Arc::new(Identity::root()),
                until: None,
            }
        } else {
            Shown::Refused("this socket is for root alone")
        };
        let peer = Peer {
            shown,
            hosts: None,
            local: None,
            remote: None,
            stopping: listening.stopping.clone(),
            streams: listening.tasks.clone(),
        };
        let shared = Arc::clone(&listening);
        listening.tasks.spawn(async move {
            let _permit = permit;
            connection(&shared, stream, peer, Protocol::Http1).await;
        });
    }
    drop(listener);
    listening.finish().await;
}

/// A client that is gone without a word is found out by TCP itself: watches may be silent for hours.
fn keep_alive(stream: &tokio::net::TcpStream) {
    let _not_fatal = rustix::net::sockopt::set_socket_keepalive(stream, true)
        .and_then(|()| rustix::net::sockopt::set_tcp_keepidle(stream, KEEPALIVE))
        .and_then(|()| rustix::net::sockopt::set_tcp_keepintvl(stream, KEEPALIVE / 3))
        .and_then(|()| rustix::net::sockopt::set_tcp_keepcnt(stream, 3))
        .and_then(|()| rustix::net::sockopt::set_tcp_nodelay(stream, true));
}

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Http1,
    Http2,
}

async fn connection<S>(shared: &Listening, stream: S, peer: Peer, protocol: Protocol)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = shared.router.clone();
    let limits = shared.limits;
    match protocol {
        Protocol::Http1 => {
            let pace = Pace::new();
            let io = TokioIo::new(Paced::new(stream, pace.clone(), limits.head_timeout));
            let service = service_fn(move |mut request: Request<Incoming>| {
                pace.begun();
                request.extensions_mut().insert(peer.clone());
                let (router, pace) = (router.clone(), pace.clone());
                async move { answered(router, request).await.map(|answer| pace.answered(answer)) }
            });
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(limits.idle_timeout)
                .max_buf_size(HEAD_LIMIT);
            let mut serving = pin!(builder.serve_connection(io, service).with_upgrades());
            tokio::select! {
                _ended = serving.as_mut() => return,
                () = shared.stopped() => serving.as_mut().graceful_shutdown(),
            }
            let _out_of_time = tokio::time::timeout(limits.stop_timeout, serving).await;
        }
        Protocol::Http2 => {
            let begun = Arc::new(Notify::new());
            let first = Arc::clone(&begun);
            let service = service_fn(move |mut request: Request<Incoming>| {
                first.notify_one();
                request.extensions_mut().insert(peer.clone());
                let router = router.clone();
                async move { answered(router, request).await }
            });
            let io = TokioIo::new(stream);
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_header_list_size(u32::try_from(HEAD_LIMIT).unwrap_or(u32::MAX))
                .max_concurrent_streams(H2_STREAMS)
                .keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(limits.head_timeout);
            // Boxed, since the many connections of HTTP/1 would carry the room for it around with them.
            let mut serving = Box::pin(builder.serve_connection(io, service));
            // Before its first request HTTP/2 knows no time limit of its own.
            tokio::select! {
                _ended = serving.as_mut() => return,
                () = shared.stopped() => {}
                silent = tokio::time::timeout(limits.head_timeout, begun.notified()) => {
                    if silent.is_err() {
                        return;
                    }
                    tokio::select! {
                        _ended = serving.as_mut() => return,
                        () = shared.stopped() => {}
                    }
                }
            }
            serving.as_mut().graceful_shutdown();
            let _out_of_time = tokio::time::timeout(limits.stop_timeout, serving).await;
        }
    }
}

async fn answered(router: Router, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    router.oneshot(request.map(Body::new)).await
}
