//! Connections to registries: TCP, TLS, proxies, and which addresses may be reached.
//!
//! Goes in: an address and who named it. Comes out: a pooled HTTP client.
//!
//! **Invariant:** an address that a registry names (a token server, a blob store) never leads to this machine itself or
//! to a link-local address such as a cloud's metadata server, unless the registry itself is there: the check is made on
//! the address that is dialled, after the name was resolved. Names that a proxy resolves are the proxy's to refuse.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::proxies::{Proxies, port_of};
use crate::insecure_tls::AnyCertificate;

/// A body that is sent.
pub(in crate::image) type Body = BoxBody<Bytes, io::Error>;
/// A pooled client.
pub(super) type HttpClient = Client<Dialler, Body>;

/// How long a connection may take when nothing else is said (containerd's own dial timeout).
pub(super) const DIAL: Duration = Duration::from_secs(30);
/// Idle connections are closed after so long: a pull is over, or has moved on.
const IDLE: Duration = Duration::from_secs(30);

/// Bytes read from a connection at once. Several such pieces wait to be unpacked, of each layer.
const READ_AT_ONCE: usize = 128 * 1024;

/// TLS as one host of `hosts.toml` wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TlsSettings {
    /// Trusted beside the machine's own authorities.
    pub(super) ca: Vec<PathBuf>,
    /// Certificate and key to show; one file may hold both.
    pub(super) client: Vec<(PathBuf, Option<PathBuf>)>,
    pub(super) skip_verify: bool,
}

impl TlsSettings {
    /// Whether anything at all was said about TLS.
    pub(super) fn is_given(&self) -> bool {
        *self != Self::default()
    }
}

/// TLS cannot be set up as `hosts.toml` says.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the certificates in {path}")]
    Certificates {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("cannot read the key in {path}")]
    Key {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("TLS refuses what hosts.toml names")]
    Refused(#[source] rustls::Error),
}

/// A connection was not made because of where it leads.
#[derive(Debug, thiserror::Error)]
#[error("{host} is at {ip}, where a registry must not send anybody")]
pub(super) struct ForbiddenAddress {
    host: String,
    ip: IpAddr,
}

/// Which addresses may be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The machine's owner or the image's name says where.
    Anywhere,
    /// A registry said where.
    Outside,
}

/// A client for one host and those it names.
pub(super) fn client(
    tls: &TlsSettings,
    dial: Duration,
    reach: Reach,
    proxies: &Proxies,
) -> Result<HttpClient, TlsError> {
    let dialler = Dialler {
        tls: Arc::new(tls_config(tls)?),
        dial,
        reach,
        proxies: proxies.clone(),
    };
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .http1_read_buf_exact_size(READ_AT_ONCE);
    Ok(builder.build(dialler))
}

fn tls_config(tls: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Refused)?;
    let builder = if tls.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        let mut roots = system_roots().clone();
        for path in &tls.ca {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(TlsError::Refused)?;
            }
        }
        builder.with_root_certificates(roots)
    };
    // TLS shows one certificate: the first, as containerd's users expect of a single pair.
    match tls.client.first() {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let key = key.as_ref().unwrap_or(certificate);
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Key {
                path: key.clone(),
                source,
            })?;
            builder
                .with_client_auth_cert(certificates(certificate)?, secret)
                .map_err(TlsError::Refused)
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |source| TlsError::Certificates {
        path: path.to_owned(),
        source,
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(fail)?
        .collect::<Result<_, _>>()
        .map_err(fail)?;
    if found.is_empty() {
        return Err(fail(pem::Error::NoItemsFound));
    }
    Ok(found)
}

/// The authorities this machine trusts, read once: a private one is named in `hosts.toml`, which is read at each pull.
fn system_roots() -> &'static RootCertStore {
    static ROOTS: OnceLock<RootCertStore> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (_, unusable) = roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::warn!(
                unusable,
                "this machine trusts no certificate authority: only registries with a `ca` in hosts.toml can be reached"
            );
        }
        roots
    })
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Dialler {
    tls: Arc<ClientConfig>,
    dial: Duration,
    reach: Reach,
    proxies: Proxies,
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialler")
            .field("reach", &self.reach)
            .finish_non_exhaustive()
    }
}

impl tower::Service<Uri> for Dialler {
    type Response = Link;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Link>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialler = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(dialler.dial, dialler.connect(&uri)).await {
                Ok(made) => made,
                Err(_elapsed) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection within {} s", dialler.dial.as_secs()),
                )),
            }
        })
    }
}

impl Dialler {
    async fn connect(&self, uri: &Uri) -> io::Result<Link> {
        let secure = uri.scheme_str() == Some("https");
        let Some(proxy) = self.proxies.of(uri) else {
            let tcp = dialled(uri, self.reach).await?;
            return if secure {
                self.encrypted(uri, tcp).await
            } else {
                Ok(Link::Plain(TokioIo::new(tcp)))
            };
        };
        // A name is for the proxy to resolve; an address can be looked at here.
        if self.reach == Reach::Outside
            && let Ok(ip) = host_of(uri)?.parse::<IpAddr>()
            && !is_outside(SocketAddr::new(ip, 0))
        {
            let host = ip.to_string();
            return Err(io::Error::other(ForbiddenAddress { host, ip }));
        }
        // The machine's owner says where the proxy is.
        let tcp = dialled(proxy.uri(), Reach::Anywhere).await?;
        if !secure {
            return Ok(Link::Proxied(TokioIo::new(tcp)));
        }
        let mut tcp = Some(tcp);
        let dialled = tower::service_fn(move |_: Uri| {
            let tcp = tcp.take().map(TokioIo::new);
            std::future::ready(tcp.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
        });
        let mut tunnel = Tunnel::new(proxy.uri().clone(), dialled);
        if let Some(password) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(password.clone());
        }
        let through = tower::Service::call(&mut tunnel, uri.clone()).await;
        let tcp = through.map_err(|error| {
            let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<io::Error>());
            let kind = cause.map_or(io::ErrorKind::Other, io::Error::kind);
            io::Error::new(kind, format!("proxy {}: {error}", proxy.uri()))
        })?;
        self.encrypted(uri, tcp.into_inner()).await
    }

    async fn encrypted(&self, uri: &Uri, tcp: TcpStream) -> io::Result<Link> {
        let name = ServerName::try_from(host_of(uri)?.to_owned()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await?;
        Ok(Link::Tls(Box::new(TokioIo::new(tls))))
    }
}

/// The host of an address, without the brackets of IPv6.
fn host_of(uri: &Uri) -> io::Result<&str> {
    let host = uri.host().map(|host| host.trim_matches(['[', ']']));
    host.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the address names no host"))
}

/// A connection to one of the addresses that the host of `uri` has.
async fn dialled(uri: &Uri, reach: Reach) -> io::Result<TcpStream> {
    let host = host_of(uri)?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in tokio::net::lookup_host((host, port_of(uri)))
        .await
        .map_err(|source| io::Error::new(io::ErrorKind::NotFound, format!("lookup {host}: {source}")))?
    {
        if reach == Reach::Outside && !is_outside(address) {
            last = io::Error::other(ForbiddenAddress {
                host: host.to_owned(),
                ip: address.ip(),
            });
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                // Requests are small and wait for each other.
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Err(source) => {
                last = io::Error::new(source.kind(), format!("dial tcp {address}: {source}"));
            }
        }
    }
    Err(last)
}

/// Not this machine, and not a neighbour that only this machine can ask (a cloud's metadata).
fn is_outside(address: SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast()),
    }
}

/// A connection.
pub(super) enum Link {
    Plain(TokioIo<TcpStream>),
    /// To a proxy, which is told the whole address of what it shall fetch.
    Proxied(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new().proxy(matches!(self, Self::Proxied(_)))
    }
}

impl Read for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(link) | Self::Proxied(link) => Pin::new(link).poll_read(cx, buf),
            Self::Tls(link) => Pin::new(link.as_mut()).poll_read(cx, buf),
        }
    }
}

impl Write for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(link) | Self::Proxied(link) => Pin::new(link).poll_write(cx, buf),
            Self::Tls(link) => Pin::new(link.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(link) | Self::Proxied(link) => Pin::new(link).poll_flush(cx),
            Self::Tls(link) => Pin::new(link.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(link) | Self::Proxied(link) => Pin::new(link).poll_shutdown(cx),
            Self::Tls(link) => Pin::new(link.as_mut()).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_sends_nobody_to_this_machine_or_its_metadata() {
        for inside in [
            "127.0.0.1:80",
            "169.254.169.254:80",
            "[::1]:443",
            "[fe80::1]:80",
            "0.0.0.0:80",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(!is_outside(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.1.2.3:443", "192.168.0.1:80", "8.8.8.8:443", "[2001:db8::1]:443"] {
            assert!(is_outside(outside.parse().unwrap()), "{outside}");
        }
    }
}
