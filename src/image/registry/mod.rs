//! Registries: the distribution protocol (OCI and Docker v2) as far as images need it.
//!
//! Goes in: a name, credentials, `hosts.toml`. Comes out: manifests and blobs, each with its digest verified; and the
//! same the other way round.
//!
//! ```text
//! hosts (hosts.toml: whom to ask, in order) ── credentials (who asks) ── endpoint (one host: tokens, redirects, retries)
//!   └─ Registry: resolve, manifest, blobs; the first host that answers serves
//! ```
//!
//! **Invariant:** credentials go to the host they were written for and to the token server that it names, to nobody
//! else: no mirror gets the registry's, no redirect takes them along, and no log, error or event shows them or the query
//! of an address.

mod address;
mod ask;
mod auth;
mod credentials;
mod endpoint;
mod hosts;
mod proxies;
mod transfer;
mod transport;
mod words;

use std::path::PathBuf;

use hyper::StatusCode;

pub use credentials::{Credential, CredentialError, Credentials, DockerConfig};
pub use hosts::HostsError;
pub use proxies::{ProxyError, ProxySettings};
pub use transport::TlsError;

pub(super) use transfer::{Arriving, Taken};
pub(super) use transport::Body;

use ask::Ask;
use endpoint::Endpoint;
use proxies::Proxies;

use super::reference::Reference;
use super::stream::Digest;

/// What a registry calls an index or a manifest that podd understands.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Where registries are configured, and what short names mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrySettings {
    /// The directory of `hosts.toml` files; none there is no configuration.
    pub hosts: PathBuf,
    /// The node's own credentials, a docker config; need not exist.
    pub docker_config: PathBuf,
    /// The registry of names without one.
    pub default_registry: String,
    /// Through whom registries are asked.
    pub proxies: ProxySettings,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            hosts: PathBuf::from("/etc/podd/certs.d"),
            docker_config: PathBuf::from("/var/lib/podd/config.json"),
            default_registry: super::reference::DEFAULT_REGISTRY.to_owned(),
            proxies: ProxySettings::default(),
        }
    }
}

/// A registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Hosts(#[from] HostsError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    #[error("hosts.toml leaves no host to {action}")]
    NoHost { action: &'static str },
    #[error("failed to do request: {request}")]
    Request {
        request: String,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("failed to do request: {request}: no answer within {seconds} s")]
    Silent { request: String, seconds: u64 },
    #[error("unexpected status from {request}: {status}{message}")]
    Status {
        request: String,
        status: StatusCode,
        /// `: CODE: what the registry says`, or nothing.
        message: String,
    },
    #[error("{what}: not found{message}")]
    NotFound { what: String, message: String },
    #[error(
        "{action} access denied, repository does not exist or may require authorization: {request}: {status}{message}"
    )]
    Denied {
        /// `pull` or `push`.
        action: &'static str,
        request: String,
        status: StatusCode,
        message: String,
    },
    #[error("failed to authorize: {host} asks for a kind of authorization that podd does not know")]
    UnknownChallenge { host: String },
    #[error("failed to authorize: failed to fetch a token from {request}: {status}{message}")]
    Token {
        request: String,
        status: StatusCode,
        message: String,
    },
    #[error("failed to authorize: the token server of {host} gave no token")]
    NoToken { host: String },
    #[error("{request} leads to {location:?}, which is refused: {why}")]
    Redirect {
        request: String,
        location: String,
        why: &'static str,
    },
    #[error("{request} gives {what} that cannot be understood")]
    Malformed { request: String, what: &'static str },
    #[error("{request} was broken off")]
    Broken {
        request: String,
        #[source]
        source: hyper::Error,
    },
    #[error("{request} was given up: fewer than {bytes} bytes came in {seconds} s")]
    Slow { request: String, bytes: u64, seconds: u64 },
    #[error("{request} was broken off after {got} of {size} bytes")]
    Short { request: String, got: u64, size: u64 },
    #[error("{request} is larger than the limit of {limit} bytes")]
    TooLarge { request: String, limit: u64 },
    #[error("{request} is damaged: its digest is {found}, and should be {expected}")]
    Digest {
        request: String,
        expected: String,
        found: String,
    },
    #[error("{request} is damaged: it has more than the {size} bytes that the manifest says")]
    Long { request: String, size: u64 },
    #[error("cannot read a layer as it comes")]
    Read(#[source] std::io::Error),
}

impl RegistryError {
    /// Whether the registry itself is out of order (it cannot be reached, or says so), so that the image may well exist.
    /// A name that nobody knows is no such case.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Silent { .. } | Self::Broken { .. } | Self::Short { .. } | Self::Slow { .. } => true,
            Self::Request { source, .. } => {
                let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source);
                while let Some(error) = cause {
                    if let Some(error) = error.downcast_ref::<std::io::Error>() {
                        use std::io::ErrorKind as Kind;
                        return matches!(
                            error.kind(),
                            Kind::ConnectionRefused
                                | Kind::ConnectionReset
                                | Kind::ConnectionAborted
                                | Kind::TimedOut
                                | Kind::HostUnreachable
                                | Kind::NetworkUnreachable
                                | Kind::UnexpectedEof
                        );
                    }
                    cause = error.source();
                }
                // The connection ended before there was an answer.
                !source.is_connect()
            }
            Self::Status { status, .. } | Self::Token { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Hosts(_)
            | Self::Tls(_)
            | Self::Proxy(_)
            | Self::Credentials(_)
            | Self::NoHost { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::UnknownChallenge { .. }
            | Self::NoToken { .. }
            | Self::Redirect { .. }
            | Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Long { .. }
            | Self::Read(_) => false,
        }
    }

    /// Whether another host, or other credentials, may do better.
    /// Out of order, and it may be for a moment.
    fn is_outage(&self) -> bool {
        self.is_unavailable() && !matches!(self, Self::Slow { .. })
    }

    fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Denied { .. } | Self::Token { .. } | Self::NoToken { .. } | Self::UnknownChallenge { .. }
        )
    }
}

/// What a tag or digest means at a registry.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    pub(super) digest: Digest,
    /// The index or manifest itself, when the registry had to be asked for it to know its digest.
    pub(super) body: Option<Manifest>,
}

/// An index or a manifest, its digest verified.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    /// Without parameters; empty when the registry does not say.
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
}

/// A repository at its registry, for one pull or push.
#[derive(Debug)]
pub(super) struct Registry {
    endpoints: Vec<Endpoint>,
}

/// Hosts asked one after the other until one does it. The registry itself is last, and its error is told.
struct Turn<'a> {
    endpoints: std::vec::IntoIter<&'a Endpoint>,
    error: RegistryError,
}

impl<'a> Turn<'a> {
    fn next(&mut self) -> Option<&'a Endpoint> {
        self.endpoints.next()
    }

    fn failed(&mut self, endpoint: &Endpoint, error: RegistryError) {
        use RegistryError::{Request, Silent, Slow};
        if error.is_refusal() || matches!(error, Request { .. } | Silent { .. } | Slow { .. }) {
            endpoint.put_out();
        }
        // The last one's error is told to whoever asked.
        if self.endpoints.len() > 0 {
            tracing::warn!(
                host = endpoint.name(),
                error = &error as &dyn std::error::Error,
                "one of a registry's hosts failed: the next is asked"
            );
        }
        self.error = error;
    }
}

/// What a host must be willing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Resolve,
    Pull,
    Push,
}

impl Registry {
    /// Who serves `reference`, and what they are shown. `credentials` come before the node's own.
    pub(super) async fn open(
        settings: &RegistrySettings,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Self, RegistryError> {
        let (hosts_directory, docker_config) = (settings.hosts.clone(), settings.docker_config.clone());
        let registry = reference.registry().to_owned();
        let proxies = Proxies::new(&settings.proxies)?;
        let read = super::blocking(move || {
            let hosts = hosts::hosts(&hosts_directory, &registry)?;
            let clients: Vec<_> = hosts
                .iter()
                .map(|host| endpoint::Clients::new(host, &proxies))
                .collect::<Result<_, TlsError>>()?;
            let node = DockerConfig::read(&docker_config)?;
            Ok::<_, RegistryError>((hosts, clients, node))
        });
        let (hosts, clients, node) = read.await?;
        let credentials = credentials.clone().then(Credentials::of_configs(vec![node]));
        let mut endpoints = Vec::new();
        for (host, clients) in hosts.into_iter().zip(clients) {
            let known_as = format!("{}/{}", host.name, reference.path());
            let found = credentials.lookup(&known_as, host.is_origin).await?;
            let shown: Vec<Option<Credential>> = if found.is_empty() {
                vec![None]
            } else {
                found.into_iter().map(Some).collect()
            };
            for credential in shown {
                endpoints.push(Endpoint::new(host.clone(), clients.clone(), reference, credential));
            }
        }
        Ok(Self { endpoints })
    }

    /// The hosts to ask for something.
    fn turn(&self, action: Action) -> Turn<'_> {
        let mut able: Vec<&Endpoint> = self.endpoints.iter().filter(|endpoint| endpoint.can(action)).collect();
        // One that was found dead or deaf is not waited for again while there is another.
        if able.iter().any(|endpoint| !endpoint.is_out()) {
            able.retain(|endpoint| !endpoint.is_out());
        }
        Turn {
            endpoints: able.into_iter(),
            error: RegistryError::NoHost {
                action: match action {
                    Action::Resolve => "resolve tags with",
                    Action::Pull => "pull from",
                    Action::Push => "push to",
                },
            },
        }
    }

    /// What `name`, a tag or a digest, means today. Costs no pull from a registry's quota where it tells digests.
    pub(super) async fn resolve(&self, name: &str, limit: u64) -> Result<Resolved, RegistryError> {
        let mut turn = self.turn(Action::Resolve);
        while let Some(endpoint) = turn.next() {
            let asked = async {
                let head = Ask::head(format!("manifests/{name}")).accept(MANIFESTS);
                let digest = match endpoint.send(&head).await {
                    Ok(response) => response
                        .headers()
                        .get("docker-content-digest")
                        .and_then(|value| value.to_str().ok())
                        .and_then(Digest::parse),
                    // Some answer no HEAD, or answer it otherwise than a GET: the GET has the last word.
                    Err(error @ (RegistryError::NotFound { .. } | RegistryError::Status { .. }))
                        if !error.is_unavailable() =>
                    {
                        None
                    }
                    Err(error) => return Err(error),
                };
                if let Some(digest) = digest {
                    return Ok(Resolved { digest, body: None });
                }
                let (digest, manifest) = endpoint.manifest(name, limit).await?;
                Ok(Resolved {
                    digest,
                    body: Some(manifest),
                })
            };
            match asked.await {
                Ok(done) => return Ok(done),
                Err(error) => turn.failed(endpoint, error),
            }
        }
        Err(turn.error)
    }

    /// The index or manifest with this digest, at most `limit` bytes of it.
    pub(super) async fn manifest(&self, digest: &Digest, limit: u64) -> Result<Manifest, RegistryError> {
        let mut turn = self.turn(Action::Pull);
        while let Some(endpoint) = turn.next() {
            let asked = async {
                let (found, manifest) = endpoint.manifest(&digest.to_string(), limit).await?;
                endpoint.verified("manifest", digest, &found)?;
                Ok(manifest)
            };
            match asked.await {
                Ok(done) => return Ok(done),
                Err(error) => turn.failed(endpoint, error),
            }
        }
        Err(turn.error)
    }

    /// A small blob (an image's config), whole.
    pub(super) async fn small_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let mut turn = self.turn(Action::Pull);
        while let Some(endpoint) = turn.next() {
            let asked = async {
                let ask = Ask::get(format!("blobs/{digest}"));
                let response = endpoint.send(&ask).await?;
                let bytes = endpoint.whole(&ask, response, limit).await?;
                endpoint.verified("blob", digest, &Digest::of(&bytes))?;
                Ok(bytes)
            };
            match asked.await {
                Ok(done) => return Ok(done),
                Err(error) => turn.failed(endpoint, error),
            }
        }
        Err(turn.error)
    }

    /// Whether the registry has a blob already.
    pub(super) async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let mut turn = self.turn(Action::Push);
        while let Some(endpoint) = turn.next() {
            let asked = async {
                match endpoint.send(&Ask::head(format!("blobs/{digest}")).for_push()).await {
                    Ok(_) => Ok(true),
                    Err(RegistryError::NotFound { .. }) => Ok(false),
                    Err(error) => Err(error),
                }
            };
            match asked.await {
                Ok(done) => return Ok(done),
                Err(error) => turn.failed(endpoint, error),
            }
        }
        Err(turn.error)
    }

    /// Give the registry a manifest under `name`, a tag or its digest. Its blobs must be there.
    pub(super) async fn put_manifest(&self, name: &str, media_type: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let mut turn = self.turn(Action::Push);
        while let Some(endpoint) = turn.next() {
            let asked = async {
                let ask = Ask::put(format!("manifests/{name}"), bytes.to_vec()).content_type(media_type);
                endpoint.send(&ask).await.map(drop)
            };
            match asked.await {
                Ok(done) => return Ok(done),
                Err(error) => turn.failed(endpoint, error),
            }
        }
        Err(turn.error)
    }
}

/// Text of a registry, fit for an error: one line, bounded, nothing that moves a terminal's cursor.
fn printable(bytes: &[u8]) -> String {
    const MAX: usize = 512;
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX)
        .collect::<String>()
        .trim()
        .to_owned()
}
