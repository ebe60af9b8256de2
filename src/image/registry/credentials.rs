//! Who asks: credentials as docker and Kubernetes write them, and which of them a registry gets.
//!
//! Goes in: docker configs (of a node, of secrets) and the image's repository. Comes out: the credentials that match it.
//! The rules of matching are Kubernetes' (`pkg/credentialprovider/keyring.go`).
//!
//! **Invariant:** a secret is never printed: `Debug` of everything here hides it, and no error holds it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

/// As written by hand, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// docker's key for its own registry (`credentialprovider/keyring.go defaultRegistryKey`).
const DOCKER_HUB: &str = "index.docker.io";
/// What docker asks a credential helper for when it means its own registry.
const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";
/// How long a credential helper may take.
const HELPER: Duration = Duration::from_secs(30);
/// The most a credential helper may answer.
const HELPER_ANSWER_MAX: usize = 1024 * 1024;

/// What is shown to a registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A name and its password.
    Password { username: String, password: String },
    /// Exchanged for tokens at the registry's token server.
    IdentityToken(String),
    /// Shown as it is.
    RegistryToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
            Self::RegistryToken(_) => "RegistryToken(..)",
        })
    }
}

/// Why credentials cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The text is not shown: it holds secrets.
    #[error("{what} is not a docker config")]
    Parse { what: String },
    #[error("the entry for {server:?} in {what} has an `auth` that is not the base64 of name:password")]
    Auth { what: String, server: String },
    #[error("the name of the credential helper {name:?} is not letters, digits, '-', '_' or '.'")]
    HelperName { name: String },
    #[error("the credential helper {program} cannot be run")]
    Helper {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("the credential helper {program} failed ({status}): {message}")]
    HelperFailed {
        program: String,
        status: String,
        message: String,
    },
    #[error("the credential helper {program} gave an answer that is not JSON")]
    HelperAnswer { program: String },
}

/// A docker config: what `~/.docker/config.json`, or a secret, holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct DockerConfig {
    /// By the key that images are matched with: `host[:port][/path]`.
    entries: BTreeMap<String, Vec<Credential>>,
    /// The helper for one server.
    helpers: BTreeMap<String, String>,
    /// The helper for all others.
    store: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireConfig {
    #[serde(default)]
    auths: BTreeMap<String, WireEntry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct WireEntry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl DockerConfig {
    /// `{"auths": ..}`: `config.json`, and secrets of type `kubernetes.io/dockerconfigjson`. `what` names it in errors.
    pub fn parse(json: &[u8], what: &str) -> Result<Self, CredentialError> {
        let WireConfig {
            auths,
            cred_helpers,
            creds_store,
        } = serde_json::from_slice(json).map_err(|_secret| CredentialError::Parse { what: what.to_owned() })?;
        Ok(Self {
            entries: entries(auths, what)?,
            helpers: cred_helpers,
            store: creds_store.filter(|name| !name.is_empty()),
        })
    }

    /// The entries alone: secrets of type `kubernetes.io/dockercfg`.
    pub fn parse_entries(json: &[u8], what: &str) -> Result<Self, CredentialError> {
        let wire = serde_json::from_slice(json).map_err(|_secret| CredentialError::Parse { what: what.to_owned() })?;
        Ok(Self {
            entries: entries(wire, what)?,
            ..Self::default()
        })
    }

    /// What is written in it alone: for a config of somebody who may run no programs here.
    #[must_use]
    pub fn without_helpers(self) -> Self {
        Self {
            entries: self.entries,
            ..Self::default()
        }
    }

    /// The node's own. No file is no credentials.
    pub fn read(path: &Path) -> Result<Self, CredentialError> {
        match std::fs::read(path) {
            Ok(json) => Self::parse(&json, &path.display().to_string()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(Self::default())
            }
            Err(source) => Err(CredentialError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Credentials written in it for `registry/path`, the most exact first.
    fn written(&self, repository: &str) -> Vec<Credential> {
        let found: Vec<Credential> = self
            .entries
            .iter()
            .rev()
            .filter(|(key, _)| matches(key, repository))
            .flat_map(|(_, credentials)| credentials.iter().cloned())
            .collect();
        let registry = repository.split('/').next().unwrap_or_default();
        if found.is_empty() && registry == "docker.io" {
            return self.entries.get(DOCKER_HUB).cloned().unwrap_or_default();
        }
        found
    }

    /// Which helper knows `registry`, and what to ask it for.
    fn helper(&self, registry: &str) -> Option<(&str, String)> {
        let server = if registry == "docker.io" {
            DOCKER_HUB_SERVER
        } else {
            registry
        };
        let own = self.helpers.get(server).or_else(|| self.helpers.get(registry));
        own.or(self.store.as_ref())
            .map(|name| (name.as_str(), server.to_owned()))
    }
}

fn entries(
    wire: BTreeMap<String, WireEntry>,
    what: &str,
) -> Result<BTreeMap<String, Vec<Credential>>, CredentialError> {
    let mut entries: BTreeMap<String, Vec<Credential>> = BTreeMap::new();
    for (server, entry) in wire {
        if let Some(credential) = credential(entry, &server, what)? {
            entries.entry(key(&server)).or_default().push(credential);
        }
    }
    Ok(entries)
}

fn credential(entry: WireEntry, server: &str, what: &str) -> Result<Option<Credential>, CredentialError> {
    let WireEntry {
        username,
        password,
        auth,
        identitytoken,
        registrytoken,
    } = entry;
    let said = |text: &Option<String>| text.as_ref().filter(|text| !text.is_empty()).cloned();
    if let Some(token) = said(&registrytoken) {
        return Ok(Some(Credential::RegistryToken(token)));
    }
    if let Some(token) = said(&identitytoken) {
        return Ok(Some(Credential::IdentityToken(token)));
    }
    if let Some(auth) = said(&auth) {
        let wrong = || CredentialError::Auth {
            what: what.to_owned(),
            server: server.to_owned(),
        };
        let bytes = BASE64.decode(auth.trim()).map_err(|_secret| wrong())?;
        let text = String::from_utf8(bytes).map_err(|_secret| wrong())?;
        let (username, password) = text.split_once(':').ok_or_else(wrong)?;
        return Ok(Some(Credential::Password {
            username: username.to_owned(),
            // Written by old dockers, and cut off by docker itself.
            password: password.trim_matches('\0').to_owned(),
        }));
    }
    Ok(said(&username).map(|username| Credential::Password {
        username,
        password: password.unwrap_or_default(),
    }))
}

/// `https://host/v1/` is `host`.
fn key(server: &str) -> String {
    let rest = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.starts_with("/v1/") || path.starts_with("/v2/") {
        &path[3..]
    } else {
        path
    };
    if matches!(path, "" | "/") {
        host.to_owned()
    } else {
        format!("{host}{path}")
    }
}

/// `URLsMatch`: as many parts in the host, each matching (with wildcards), the same port, and the path as a prefix.
fn matches(key: &str, repository: &str) -> bool {
    let split = |text: &str| -> (Vec<String>, Option<String>, String) {
        let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port.to_owned())),
            Some(_) | None => (authority, None),
        };
        (host.split('.').map(str::to_owned).collect(), port, path.to_owned())
    };
    let (key_parts, key_port, key_path) = split(key);
    let (parts, port, path) = split(repository);
    key_port == port
        && key_parts.len() == parts.len()
        && path.starts_with(&key_path)
        && key_parts
            .iter()
            .zip(&parts)
            .all(|(glob, part)| glob_matches(glob.as_bytes(), part.as_bytes()))
}

/// `*` and `?`.
fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    match (glob.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob_matches(rest, text) || text.split_first().is_some_and(|(_, text)| glob_matches(glob, text))
        }
        (Some((b'?', glob)), Some((_, text))) => glob_matches(glob, text),
        (Some((a, glob)), Some((b, text))) => a == b && glob_matches(glob, text),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// Everything that whoever asks for an image brings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// In the order in which they are tried.
    configs: Vec<DockerConfig>,
    /// For the image's own registry, whatever it is called.
    given: Option<Credential>,
}

impl Credentials {
    /// What configs hold, tried in their order.
    pub fn of_configs(configs: Vec<DockerConfig>) -> Self {
        Self { configs, given: None }
    }

    /// A name and a password for the image's registry, whatever it is (`podd image pull --creds`).
    pub fn password(username: &str, password: &str) -> Self {
        Self {
            configs: Vec::new(),
            given: Some(Credential::Password {
                username: username.to_owned(),
                password: password.to_owned(),
            }),
        }
    }

    /// And after these, those of `other`.
    #[must_use]
    pub fn then(mut self, other: Self) -> Self {
        self.configs.extend(other.configs);
        self.given = self.given.or(other.given);
        self
    }

    /// Those for `registry/path`, in the order in which they are to be tried; none is anonymous. A mirror
    /// (not `is_origin`) gets what is written for it by its own name, never what was meant for the registry.
    pub(super) async fn lookup(&self, repository: &str, is_origin: bool) -> Result<Vec<Credential>, CredentialError> {
        let mut found: Vec<Credential> = self.given.clone().filter(|_| is_origin).into_iter().collect();
        let registry = repository.split('/').next().unwrap_or_default();
        for config in &self.configs {
            found.extend(config.written(repository));
            if let Some((name, server)) = config.helper(registry) {
                found.extend(ask_helper(name, &server).await?);
            }
        }
        Ok(found)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// docker's protocol: the server on standard input of `docker-credential-NAME get`, JSON on its output.
async fn ask_helper(name: &str, server: &str) -> Result<Option<Credential>, CredentialError> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(is_word) {
        return Err(CredentialError::HelperName { name: name.to_owned() });
    }
    let program = format!("docker-credential-{name}");
    let fail = |source| CredentialError::Helper {
        program: program.clone(),
        source,
    };
    let mut child = tokio::process::Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(fail)?;
    let talk = async {
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(server.as_bytes()).await {
                // It ended without asking for whom: its answer says why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                written => written?,
            }
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(HELPER, talk)
        .await
        .map_err(|_elapsed| fail(io::ErrorKind::TimedOut.into()))?
        .map_err(fail)?;
    if !output.status.success() {
        let message = super::printable(&output.stdout);
        // docker's own words for "I have none".
        if message.contains("credentials not found") {
            return Ok(None);
        }
        return Err(CredentialError::HelperFailed {
            status: output.status.to_string(),
            program,
            message,
        });
    }
    if output.stdout.len() > HELPER_ANSWER_MAX {
        return Err(CredentialError::HelperAnswer { program });
    }
    let HelperAnswer { username, secret } =
        serde_json::from_slice(&output.stdout).map_err(|_secret| CredentialError::HelperAnswer { program })?;
    Ok(Some(if username == "<token>" {
        Credential::IdentityToken(secret)
    } else {
        Credential::Password {
            username,
            password: secret,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(username: &str) -> Credential {
        Credential::Password {
            username: username.to_owned(),
            password: "p:w".to_owned(),
        }
    }

    fn config(servers: &[(&str, &str)]) -> DockerConfig {
        let auths: serde_json::Map<String, serde_json::Value> = servers
            .iter()
            .map(|(server, user)| {
                let auth = BASE64.encode(format!("{user}:p:w"));
                ((*server).to_owned(), serde_json::json!({ "auth": auth }))
            })
            .collect();
        let json = serde_json::json!({ "auths": auths }).to_string();
        DockerConfig::parse(json.as_bytes(), "test").unwrap()
    }

    #[test]
    fn a_registry_gets_the_most_exact_credentials_that_match_it() {
        let config = config(&[
            ("https://index.docker.io/v1/", "hub"),
            ("r.example", "all"),
            ("https://r.example/team", "team"),
            ("*.wild.example:5000", "wild"),
            ("http://v2.example/v2/", "two"),
        ]);
        for (repository, users) in [
            ("docker.io/library/busybox", &["hub"][..]),
            ("r.example/other/app", &["all"]),
            ("r.example/team/app", &["team", "all"]),
            ("r.example:443/team/app", &[]),
            ("a.wild.example:5000/x", &["wild"]),
            ("a.b.wild.example:5000/x", &[]),
            ("a.wild.example/x", &[]),
            ("v2.example/x", &["two"]),
            ("other.example/x", &[]),
        ] {
            let want: Vec<_> = users.iter().map(|user| password(user)).collect();
            assert_eq!(config.written(repository), want, "{repository}");
        }
    }

    #[test]
    fn every_way_of_writing_an_entry_is_understood() {
        let json = br#"{
            "a": {"username": "u", "password": "p:w"},
            "b": {"auth": "dTpwOnc"},
            "c": {"identitytoken": "id"},
            "d": {"registrytoken": "rt"},
            "e": {}
        }"#;
        let config = DockerConfig::parse_entries(json, "test").unwrap();
        assert_eq!(config.written("a/x"), [password("u")]);
        assert_eq!(config.written("b/x"), [password("u")]);
        assert_eq!(config.written("c/x"), [Credential::IdentityToken("id".to_owned())]);
        assert_eq!(config.written("d/x"), [Credential::RegistryToken("rt".to_owned())]);
        assert_eq!(config.written("e/x"), []);
    }

    #[test]
    fn no_error_and_no_debug_text_tells_a_secret() {
        let wrong = br#"{"auths": {"r.example": {"auth": "aHVudGVyMg=="}}, "hunter2": }"#;
        let error = DockerConfig::parse(wrong, "the file").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2"));
        let wrong = br#"{"auths": {"r.example": {"auth": "aHVudGVyMg=="}}}"#;
        let error = DockerConfig::parse(wrong, "the file").unwrap_err();
        assert!(error.to_string().contains("r.example"), "{error}");
        let secret = Credentials::password("me", "hunter2");
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn what_is_given_by_hand_is_for_the_registry_and_no_mirror() {
        let credentials =
            Credentials::password("me", "p:w").then(Credentials::of_configs(vec![config(&[("m", "other")])]));
        assert_eq!(credentials.lookup("r/x", true).await.unwrap(), [password("me")]);
        assert_eq!(credentials.lookup("r/x", false).await.unwrap(), []);
        assert_eq!(credentials.lookup("m/x", false).await.unwrap(), [password("other")]);
    }

    #[tokio::test]
    async fn a_helper_is_no_path() {
        let config = DockerConfig::parse(br#"{"credHelpers": {"r": "../../bin/sh"}}"#, "test").unwrap();
        let error = Credentials::of_configs(vec![config])
            .lookup("r/x", true)
            .await
            .unwrap_err();
        assert!(matches!(error, CredentialError::HelperName { .. }), "{error}");
    }
}
