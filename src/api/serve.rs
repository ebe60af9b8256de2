//! The listeners: TLS for everyone with a certificate, a unix socket for root.
//!
//! Goes in: a router and a bound socket. Comes out: connections served until the agent stops.
//!
//! **Invariants:** a connection that says nothing, half a sentence, or everything but the end is closed after a fixed time
//! and never holds more than a fixed amount of memory. Closing a listener lets requests in flight finish, for a moment.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
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
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::Limits;
use super::guard::Peer;
use super::pki::Pki;

/// Bytes of a request's head at most.
const HEAD_LIMIT: usize = 32 * 1024;
/// Streams of one HTTP/2 connection at once.
const H2_STREAMS: u32 = 128;
/// How often a silent HTTP/2 connection is asked whether it is still there, and TCP does so below.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long accepting rests after the system refused it (no descriptors left).
const ACCEPT_REST: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot make the socket {path}")]
    Bind {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What both listeners share.
struct Listening {
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Listening {
    fn new(router: Router, limits: Limits, shutdown: CancellationToken) -> Arc<Self> {
        let connections = Arc::new(Semaphore::new(limits.connections));
        Arc::new(Self { router, limits, shutdown, connections, tasks: TaskTracker::new() })
    }

    /// Room for one more connection; `None` once the agent stops.
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => None,
            permit = Arc::clone(&self.connections).acquire_owned() => permit.ok(),
        }
    }

    async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Serve TLS until `shutdown`, then let connections end.
pub async fn serve_tls(listener: TcpListener, pki: Pki, router: Router, limits: Limits, shutdown: CancellationToken) {
    let listening = Listening::new(router, limits, shutdown);
    let acceptor = TlsAcceptor::from(Arc::clone(&pki.config));
    let pki = Arc::new(pki);
    while let Some(permit) = listening.room().await {
        let accepted = tokio::select! {
            biased;
            () = listening.shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Some((stream, _)) = accepted_or_rest(accepted).await else { continue };
        let (acceptor, pki, shared) = (acceptor.clone(), Arc::clone(&pki), Arc::clone(&listening));
        listening.tasks.spawn(async move {
            let _permit = permit;
            keep_alive(&stream);
            let local = stream.local_addr().ok().map(|a: SocketAddr| a.ip());
            let handshake = tokio::time::timeout(shared.limits.head_timeout, acceptor.accept(stream));
            let Ok(Ok(stream)) = handshake.await else { return };
            let session = stream.get_ref().1;
            let identity = pki.identify(session.peer_certificates().unwrap_or(&[]), UnixTime::now());
            let protocol =
                if session.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 };
            let peer = Peer { identity: identity.map(Arc::new), hosts: Some(Arc::clone(&pki.hosts)), local };
            connection(&shared, stream, peer, protocol).await;
        });
    }
    drop(listener);
    listening.finish().await;
}

/// Serve HTTP on a unix socket until `shutdown`, then let connections end and remove the socket.
pub async fn serve_unix(
    path: &Path,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let listener = bind_unix(path).map_err(|source| ServeError::Bind { path: path.to_owned(), source })?;
    let listening = Listening::new(router, limits, shutdown);
    let me = rustix::process::geteuid().as_raw();
    while let Some(permit) = listening.room().await {
        let accepted = tokio::select! {
            biased;
            () = listening.shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Some((stream, _)) = accepted_or_rest(accepted).await else { continue };
        // Root, and whoever the agent itself runs as.
        let trusted = stream.peer_cred().is_ok_and(|c| c.uid() == 0 || c.uid() == me);
        let peer = if trusted { Peer::root() } else { Peer { identity: None, hosts: None, local: None } };
        let shared = Arc::clone(&listening);
        listening.tasks.spawn(async move {
            let _permit = permit;
            connection(&shared, stream, peer, Protocol::Http1).await;
        });
    }
    drop(listener);
    listening.finish().await;
    let _gone_already = std::fs::remove_file(path);
    Ok(())
}

/// What was accepted; after an error, nothing, and not at once.
async fn accepted_or_rest<T>(accepted: io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "a connection cannot be accepted");
            tokio::time::sleep_until(tokio::time::Instant::now() + ACCEPT_REST).await;
            None
        }
    }
}

/// A socket only its owner can connect to, from the moment it is there. A stale one is replaced.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = rustix::fs::openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // Through the directory's descriptor: an address has room for 108 bytes only.
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    match std::fs::symlink_metadata(&short) {
        Ok(metadata) if std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type()) => std::fs::remove_file(&short)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(&short)?)?;
    // Nobody can connect before listen.
    std::fs::set_permissions(&short, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    rustix::net::listen(&socket, 128)?;
    UnixListener::from_std(StdUnixListener::from(socket))
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
    let begun = Arc::new(Notify::new());
    let (router, first) = (shared.router.clone(), Arc::clone(&begun));
    let service = service_fn(move |mut request: Request<Incoming>| {
        first.notify_one();
        request.extensions_mut().insert(peer.clone());
        let router = router.clone();
        async move { answered(router, request).await }
    });
    let io = TokioIo::new(stream);
    let limits = shared.limits;
    match protocol {
        Protocol::Http1 => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout).max_buf_size(HEAD_LIMIT);
            let mut serving = pin!(builder.serve_connection(io, service).with_upgrades());
            tokio::select! {
                _ended = serving.as_mut() => return,
                () = shared.shutdown.cancelled() => serving.as_mut().graceful_shutdown(),
            }
            let _out_of_time = tokio::time::timeout(limits.stop_timeout, serving).await;
        }
        Protocol::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_header_list_size(u32::try_from(HEAD_LIMIT).unwrap_or(u32::MAX))
                .max_concurrent_streams(H2_STREAMS)
                .keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(limits.head_timeout);
            let mut serving = pin!(builder.serve_connection(io, service));
            // Before its first request HTTP/2 knows no time limit of its own.
            tokio::select! {
                _ended = serving.as_mut() => return,
                () = shared.shutdown.cancelled() => {}
                silent = tokio::time::timeout(limits.head_timeout, begun.notified()) => {
                    if silent.is_err() {
                        return;
                    }
                    tokio::select! {
                        _ended = serving.as_mut() => return,
                        () = shared.shutdown.cancelled() => {}
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
