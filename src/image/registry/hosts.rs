//! `hosts.toml`: which hosts serve a registry's images, and how each is reached. The layout that containerd has
//! (`docs/hosts.md`): `DIR/<registry>/hosts.toml`, `DIR/<host>_<port>_/hosts.toml`, `DIR/_default/hosts.toml`.
//!
//! Goes in: the directory and a registry's name. Comes out: the hosts to ask, in order; the registry itself is last.
//!
//! **Invariant:** read anew at each pull, so that a change needs no restart. A file that cannot be understood fails the
//! pull by name: a mirror rule that is silently left out would send people's requests elsewhere.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use super::transport::{DIAL, TlsSettings};

/// Why a registry's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot understand {path}")]
    Parse {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("{path}: {what} {value:?} is not {expected}")]
    Value {
        path: PathBuf,
        what: &'static str,
        value: String,
        expected: &'static str,
    },
}

/// What a host may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) pull: bool,
    pub(super) resolve: bool,
    pub(super) push: bool,
}

impl Capabilities {
    fn has_all_of(self, other: Self) -> bool {
        (self.pull || !other.pull) && (self.resolve || !other.resolve) && (self.push || !other.push)
    }
}

/// One host that serves images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// `https://host:port/v2`, without a slash at its end.
    pub(super) base: String,
    /// `host:port` as it is written, for credentials and messages.
    pub(super) name: String,
    /// It is the registry itself, not a mirror of it.
    pub(super) is_origin: bool,
    pub(super) capabilities: Capabilities,
    pub(super) tls: TlsSettings,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) dial: Duration,
}

impl Host {
    fn is_tls(&self) -> bool {
        self.base.starts_with("https://")
    }
}

#[derive(Debug, Default, Deserialize)]
struct WireFile {
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, WireHost>,
    #[serde(flatten)]
    own: WireHost,
}

#[derive(Debug, Default, Deserialize)]
struct WireHost {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<ClientFiles>,
    skip_verify: Option<bool>,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ClientFiles {
    One(String),
    Many(Vec<OneOrMany>),
}

/// The hosts to ask for images of `registry`, the registry itself last.
pub(super) fn hosts(directory: &Path, registry: &str) -> Result<Vec<Host>, HostsError> {
    for name in directory_names(registry) {
        let path = directory.join(name);
        let file = path.join("hosts.toml");
        match std::fs::read_to_string(&file) {
            Ok(text) => return from_file(&path, &file, &text, registry),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_dir() => {
                let tls = docker_certificates(&path)?;
                return Ok(vec![origin(registry, tls)]);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(HostsError::Read { path: file, source }),
        }
    }
    Ok(vec![origin(registry, TlsSettings::default())])
}

/// containerd `hostPaths`: `host_port_`, `host:port`, `_default`.
fn directory_names(registry: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((host, port)) = registry.rsplit_once(':')
        && !port.contains(']')
    {
        names.push(format!("{host}_{port}_"));
    }
    names.push(registry.to_owned());
    names.push("_default".to_owned());
    names
}

/// The registry itself, when no file says otherwise.
fn origin(registry: &str, tls: TlsSettings) -> Host {
    let name = if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    };
    // As docker and containerd do: a registry on this very machine speaks plain HTTP unless TLS is configured for it.
    let scheme = if is_local(name) && !tls.is_given() && !name.ends_with(":443") {
        "http"
    } else {
        "https"
    };
    Host {
        base: format!("{scheme}://{name}/v2"),
        name: registry.to_owned(),
        is_origin: true,
        capabilities: Capabilities {
            pull: true,
            resolve: true,
            push: true,
        },
        tls,
        headers: Vec::new(),
        dial: DIAL,
    }
}

/// Whether a host's name alone says that it is this machine.
pub(super) fn is_local(name: &str) -> bool {
    let host = match name.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        Some(_) | None => name,
    };
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// docker's way: `*.crt` are authorities, `x.cert` beside `x.key` are shown to the registry.
fn docker_certificates(directory: &Path) -> Result<TlsSettings, HostsError> {
    let fail = |source| HostsError::Read {
        path: directory.to_owned(),
        source,
    };
    let mut tls = TlsSettings::default();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .map_err(fail)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(fail)?;
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                tls.client.push((path, key.exists().then_some(key)));
            }
            Some(_) | None => {}
        }
    }
    Ok(tls)
}

fn from_file(directory: &Path, file: &Path, text: &str, registry: &str) -> Result<Vec<Host>, HostsError> {
    let WireFile { server, host, own } = toml::from_str(text).map_err(|source| HostsError::Parse {
        path: file.to_owned(),
        source: Box::new(source),
    })?;
    // In the order of the file, as containerd asks them.
    let mut mirrors: Vec<(Spanned<String>, WireHost)> = host.into_iter().collect();
    mirrors.sort_by_key(|(address, _)| address.span().start);
    let mut hosts = Vec::new();
    for (address, wire) in mirrors {
        hosts.push(host_of(directory, file, address.get_ref(), wire, None)?);
    }
    let plain = origin(registry, TlsSettings::default());
    let is_plain = server.is_none();
    let address = server.unwrap_or_else(|| plain.base.trim_end_matches("/v2").to_owned());
    let mut origin = host_of(directory, file, &address, own, Some(registry))?;
    if is_plain
        && origin.tls.is_given()
        && let Some(rest) = origin.base.strip_prefix("http://")
    {
        origin.base = format!("https://{rest}");
    }
    // The registry itself may stand among its hosts: then it is no mirror, and what is said of it there holds for it.
    let itself = authority_of(&plain.base).to_owned();
    for host in &mut hosts {
        if authority_of(&host.base) == itself && (host.is_tls() || !origin.is_tls()) {
            host.is_origin = true;
            registry.clone_into(&mut host.name);
        }
    }
    let own = hosts.iter().find(|host| host.is_origin);
    if let Some(own) = own.filter(|own| authority_of(&own.base) == authority_of(&origin.base)) {
        if !origin.tls.is_given() {
            origin.tls = own.tls.clone();
        }
        if is_plain {
            origin.base.clone_from(&own.base);
        }
        // Asked twice it would say the same.
        if own.base == origin.base && own.capabilities.has_all_of(origin.capabilities) {
            return Ok(hosts);
        }
    }
    hosts.push(origin);
    Ok(hosts)
}

/// `host:port` of an address.
fn authority_of(base: &str) -> &str {
    let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn host_of(
    directory: &Path,
    file: &Path,
    address: &str,
    wire: WireHost,
    registry: Option<&str>,
) -> Result<Host, HostsError> {
    let WireHost {
        capabilities,
        ca,
        client,
        skip_verify,
        header,
        override_path,
        dial_timeout,
    } = wire;
    let fault = |what, value: &str, expected| HostsError::Value {
        path: file.to_owned(),
        what,
        value: value.to_owned(),
        expected,
    };
    let expected = "an address such as https://mirror.example:5000";
    let with_scheme = if address.contains("://") {
        address.to_owned()
    } else if is_local(address) {
        format!("http://{address}")
    } else {
        format!("https://{address}")
    };
    let uri: Uri = with_scheme.parse().map_err(|_| fault("host", address, expected))?;
    let (Some("http" | "https"), Some(authority), None) = (uri.scheme_str(), uri.authority(), uri.query()) else {
        return Err(fault("host", address, expected));
    };
    if authority.as_str().contains('@') {
        return Err(fault("host", "<with a password>", expected));
    }
    let path = uri.path().trim_end_matches('/');
    let base = if override_path.unwrap_or(false) || path.ends_with("/v2") {
        format!("{}://{authority}{path}", uri.scheme_str().unwrap_or("https"))
    } else {
        format!("{}://{authority}{path}/v2", uri.scheme_str().unwrap_or("https"))
    };
    let capabilities = match capabilities {
        None => Capabilities {
            pull: true,
            resolve: true,
            push: true,
        },
        Some(words) => {
            let mut given = Capabilities {
                pull: false,
                resolve: false,
                push: false,
            };
            for word in words {
                match word.as_str() {
                    "pull" => given.pull = true,
                    "resolve" => given.resolve = true,
                    "push" => given.push = true,
                    other => return Err(fault("capability", other, "pull, resolve or push")),
                }
            }
            given
        }
    };
    let mut headers = Vec::new();
    for (name, values) in header {
        let key = HeaderName::try_from(&name).map_err(|_| fault("header", &name, "the name of a header"))?;
        for value in values.into_vec() {
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| fault("the value of header", &name, "made of printable text"))?;
            value.set_sensitive(true);
            headers.push((key.clone(), value));
        }
    }
    let dial = match dial_timeout {
        None => DIAL,
        Some(text) => seconds(&text).ok_or_else(|| fault("dial_timeout", &text, "a duration such as 5s or 500ms"))?,
    };
    let within = |path: String| directory.join(path);
    let client = match client {
        None => Vec::new(),
        Some(ClientFiles::One(file)) => vec![(within(file), None)],
        Some(ClientFiles::Many(files)) => files
            .into_iter()
            .map(|pair| {
                let mut pair = pair.into_vec().into_iter().map(within);
                let certificate = pair
                    .next()
                    .ok_or_else(|| fault("client", "[]", "a certificate, or a certificate and its key"))?;
                Ok((certificate, pair.next()))
            })
            .collect::<Result<_, HostsError>>()?,
    };
    Ok(Host {
        base,
        name: registry.unwrap_or(authority.as_str()).to_owned(),
        is_origin: registry.is_some(),
        capabilities,
        tls: TlsSettings {
            ca: ca
                .map(OneOrMany::into_vec)
                .unwrap_or_default()
                .into_iter()
                .map(within)
                .collect(),
            client,
            skip_verify: skip_verify.unwrap_or(false),
        },
        headers,
        dial,
    })
}

/// `5s`, `500ms`, `1m`: Go's durations of one unit.
fn seconds(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(at);
    let number = number.parse::<u64>().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, registry: &str, text: &str) {
        std::fs::create_dir_all(directory.join(registry)).unwrap();
        std::fs::write(directory.join(registry).join("hosts.toml"), text).unwrap();
    }

    fn bases(directory: &Path, registry: &str) -> Vec<String> {
        hosts(directory, registry)
            .unwrap()
            .into_iter()
            .map(|host| host.base)
            .collect()
    }

    #[test]
    fn without_a_file_the_registry_itself_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        for (registry, base) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("ghcr.io", "https://ghcr.io/v2"),
            ("r.example:5000", "https://r.example:5000/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("localhost:443", "https://localhost:443/v2"),
        ] {
            assert_eq!(bases(directory.path(), registry), [base], "{registry}");
            assert_eq!(bases(Path::new("/nonexistent"), registry), [base], "{registry}");
        }
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_the_server_last() {
        let directory = tempfile::tempdir().unwrap();
        write(
            directory.path(),
            "docker.io",
            r#"
            server = "https://registry-1.docker.io"
            [host."https://z.example"]
              capabilities = ["pull", "resolve"]
              ca = "z.crt"
              client = [["a.cert", "a.key"], "b.pem"]
              dial_timeout = "500ms"
              [host."https://z.example".header]
                x-token = ["one", "two"]
            [host."http://a.example:5000/cache/v2"]
              override_path = true
              skip_verify = true
            "#,
        );
        let found = hosts(directory.path(), "docker.io").unwrap();
        let want = [
            "https://z.example/v2",
            "http://a.example:5000/cache/v2",
            "https://registry-1.docker.io/v2",
        ];
        assert_eq!(found.iter().map(|host| host.base.as_str()).collect::<Vec<_>>(), want);
        let z = &found[0];
        assert_eq!(z.name, "z.example");
        assert!(z.capabilities.pull && z.capabilities.resolve && !z.capabilities.push);
        assert_eq!(z.tls.ca, [directory.path().join("docker.io/z.crt")]);
        assert_eq!(z.tls.client[0].1, Some(directory.path().join("docker.io/a.key")));
        assert_eq!(z.tls.client[1].1, None);
        assert_eq!(z.headers.len(), 2);
        assert_eq!(z.dial, Duration::from_millis(500));
        assert!(found[1].tls.skip_verify && !found[1].is_origin);
        assert!(found[2].is_origin);
        assert_eq!(found[2].name, "docker.io");
    }

    #[test]
    fn the_registry_among_its_own_hosts_is_no_mirror() {
        let directory = tempfile::tempdir().unwrap();
        let own = "[host.\"https://127.0.0.1:5000\"]\nca = \"ca.crt\"\n";
        for server in ["", "server = \"https://127.0.0.1:5000\"\n"] {
            write(directory.path(), "127.0.0.1:5000", &format!("{server}{own}"));
            let found = hosts(directory.path(), "127.0.0.1:5000").unwrap();
            let [host] = &found[..] else { panic!("{found:?}") };
            assert_eq!(
                (host.base.as_str(), host.is_origin),
                ("https://127.0.0.1:5000/v2", true)
            );
            assert_eq!(host.tls.ca, [directory.path().join("127.0.0.1:5000/ca.crt")]);
        }
        // What it may not be asked for there is asked of the server, which is known as well by then.
        let pull_alone = format!("{own}capabilities = [\"pull\"]");
        write(directory.path(), "127.0.0.1:5000", &pull_alone);
        let found = hosts(directory.path(), "127.0.0.1:5000").unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((&found[1].base, &found[1].tls), (&found[0].base, &found[0].tls));
        assert!(!found[0].capabilities.push && found[1].capabilities.push);
        // Without TLS, or at another port, it is not what was asked for.
        for other in ["http://r.example", "https://r.example:5000"] {
            write(directory.path(), "r.example", &format!("[host.\"{other}\"]"));
            let found = hosts(directory.path(), "r.example").unwrap();
            assert_eq!((found.len(), found[0].is_origin), (2, false), "{other}");
        }
    }

    #[test]
    fn a_port_and_the_default_have_directories_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "_default", "[host.\"https://all.example\"]");
        write(
            directory.path(),
            "r.example_5000_",
            "server = \"http://r.example:5000\"",
        );
        assert_eq!(bases(directory.path(), "r.example:5000"), ["http://r.example:5000/v2"]);
        assert_eq!(
            bases(directory.path(), "ghcr.io"),
            ["https://all.example/v2", "https://ghcr.io/v2"]
        );
        write(directory.path(), "localhost:1", "skip_verify = true");
        assert_eq!(bases(directory.path(), "localhost:1"), ["https://localhost:1/v2"]);
    }

    #[test]
    fn certificates_in_the_directory_are_used_as_docker_does() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("localhost:5000");
        std::fs::create_dir(&own).unwrap();
        for name in ["ca.crt", "me.cert", "me.key"] {
            std::fs::write(own.join(name), "").unwrap();
        }
        let host = hosts(directory.path(), "localhost:5000").unwrap().remove(0);
        assert_eq!(host.base, "https://localhost:5000/v2");
        assert_eq!(host.tls.ca, [own.join("ca.crt")]);
        assert_eq!(host.tls.client, [(own.join("me.cert"), Some(own.join("me.key")))]);
    }

    #[test]
    fn what_cannot_be_understood_is_said_by_name() {
        let directory = tempfile::tempdir().unwrap();
        for (text, words) in [
            ("server = 5", "cannot understand"),
            ("[host.\"ftp://x\"]", "ftp://x"),
            ("[host.\"https://x\"]\ncapabilities = [\"eat\"]", "eat"),
            ("[host.\"https://x\"]\ndial_timeout = \"soon\"", "soon"),
            ("[host.\"https://me:secret@x\"]", "host"),
        ] {
            write(directory.path(), "r.io", text);
            let error = hosts(directory.path(), "r.io").unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("hosts.toml"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
