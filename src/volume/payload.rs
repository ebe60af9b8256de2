//! What a projected volume shows: paths, bytes and modes, from what the pod says and what it takes from other objects.
//!
//! Goes in: the pod, one of its volumes, what was read for it. Comes out: the files, or what is missing, in a kubelet's
//! words (Kubernetes `pkg/volume/{configmap,secret,downwardapi,projected}`).
//!
//! **Invariant:** pure. The same input gives the same files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Component, PathBuf};

use crate::model::downward::{self, Place};
use crate::model::{Capacity, Data, DownwardFile, DownwardValue, KeyToPath, ObjectKind, PodSpec, Projection, Sources};

/// The mode of a token that is for one user or one group alone.
const TOKEN_MODE: u32 = 0o600;

/// One file of a volume.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
    /// Whose it is; `None`: root's.
    pub(super) user: Option<u32>,
}

/// Its length alone: it may be secret.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, mode, user } = self;
        write!(f, "File({} bytes, {mode:o}, {user:?})", bytes.len())
    }
}

/// By path, relative to the volume and without `..`.
pub(super) type Payload = BTreeMap<PathBuf, File>;

/// Something that the volume needs is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    #[error("{} {name:?} not found", word(*.kind))]
    Object { kind: ObjectKind, name: String },
    #[error("{}", no_key(*.kind, .key))]
    Key { kind: ObjectKind, key: String },
    #[error("failed to fetch token: serviceaccounts {account:?} not found")]
    Account { account: String },
    #[error("container {container} not found")]
    Container { container: String },
}

/// All that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", listed(.0))]
pub struct Lacks(pub Vec<Lack>);

fn word(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::ConfigMap => "configmap",
        ObjectKind::Secret => "secret",
    }
}

fn no_key(kind: ObjectKind, key: &str) -> String {
    match kind {
        ObjectKind::ConfigMap => format!("configmap references non-existent config key: {key}"),
        ObjectKind::Secret => format!("references non-existent secret key: {key}"),
    }
}

/// One as it is, several in brackets (Go's `utilerrors.Aggregate`).
fn listed(lacks: &[Lack]) -> String {
    match lacks {
        [one] => one.to_string(),
        several => {
            let texts: Vec<String> = several.iter().map(ToString::to_string).collect();
            format!("[{}]", texts.join(", "))
        }
    }
}

/// The files of a volume. `allocatable` is what the machine has for pods: a container's limit where it has none.
///
/// # Errors
/// All that is missing and not optional.
pub(super) fn payload(
    pod: &PodSpec,
    volume: &str,
    projections: &[Projection],
    default_mode: u32,
    sources: &Sources,
    allocatable: &Capacity,
) -> Result<Payload, Lacks> {
    let mut files = Payload::new();
    let mut lacks = Vec::new();
    for projection in projections {
        match projection {
            Projection::Object {
                kind,
                name,
                items,
                optional,
            } => {
                let data = sources.objects.get(&(*kind, name.clone()));
                match (data, *optional) {
                    (Some(data), optional) => {
                        let found = of_object(*kind, data, items, optional, default_mode);
                        keep(&mut files, found, &mut lacks);
                    }
                    (None, true) => {}
                    (None, false) => lacks.push(Lack::Object {
                        kind: *kind,
                        name: name.clone(),
                    }),
                }
            }
            Projection::Downward { items } => {
                let found = items.iter().map(|item| of_pod(pod, item, default_mode, allocatable));
                keep(&mut files, found.collect(), &mut lacks);
            }
            Projection::Token {
                audience: _,
                expiration: _,
                path,
            } => match sources.tokens.get(&(volume.to_owned(), path.clone())) {
                Some(token) => {
                    let file = token_file(pod, token.text.as_bytes(), default_mode);
                    files.insert(path.clone(), file);
                }
                None => lacks.push(Lack::Account {
                    account: pod.about.service_account.clone(),
                }),
            },
        }
    }
    if lacks.is_empty() { Ok(files) } else { Err(Lacks(lacks)) }
}

type Found = Vec<Result<(PathBuf, File), Lack>>;

fn keep(files: &mut Payload, found: Found, lacks: &mut Vec<Lack>) {
    for found in found {
        match found {
            Ok((path, file)) => {
                files.insert(path, file);
            }
            Err(lack) => lacks.push(lack),
        }
    }
}

/// `configmap.MakePayload`, `secret.MakePayload`: of a volume that is optional each key is.
fn of_object(kind: ObjectKind, data: &Data, items: &[KeyToPath], optional: bool, default_mode: u32) -> Found {
    let file = |bytes: &Vec<u8>, mode| File {
        bytes: bytes.clone(),
        mode,
        user: None,
    };
    if items.is_empty() {
        let all = data.0.iter();
        return all
            .map(|(key, bytes)| Ok((PathBuf::from(key), file(bytes, default_mode))))
            .collect();
    }
    let chosen = items
        .iter()
        .filter_map(|KeyToPath { key, path, mode }| match data.0.get(key) {
            Some(bytes) => Some(Ok((path.clone(), file(bytes, mode.unwrap_or(default_mode))))),
            None if optional => None,
            None => Some(Err(Lack::Key { kind, key: key.clone() })),
        });
    chosen.collect()
}

/// `downwardapi.CollectData`
fn of_pod(
    pod: &PodSpec,
    item: &DownwardFile,
    default_mode: u32,
    allocatable: &Capacity,
) -> Result<(PathBuf, File), Lack> {
    let DownwardFile { path, mode, value } = item;
    let text = match value {
        DownwardValue::Field(field) => {
            // What depends on the place is not for files.
            let nowhere = Place {
                node_name: String::new(),
                host_ips: Vec::new(),
                pod_ips: Vec::new(),
            };
            downward::field(pod, field, &nowhere)
        }
        DownwardValue::Resource(value) => {
            let container = value.container.as_deref().unwrap_or_default();
            let text = downward::resource(pod, container, value, allocatable);
            text.ok_or_else(|| Lack::Container {
                container: container.to_owned(),
            })?
        }
    };
    let file = File {
        bytes: text.into_bytes(),
        mode: mode.unwrap_or(default_mode),
        user: None,
    };
    Ok((path.clone(), file))
}

/// `projected.go`: for one user or one group alone where there is one; else as the volume says.
fn token_file(pod: &PodSpec, bytes: &[u8], default_mode: u32) -> File {
    let user = only_user(pod);
    let is_private = user.is_some() || pod.security.fs_group.is_some();
    File {
        bytes: bytes.to_vec(),
        mode: if is_private { TOKEN_MODE } else { default_mode },
        user,
    }
}

/// The user that every container runs as, if all say so and the same (`util.FsUserFrom`).
fn only_user(pod: &PodSpec) -> Option<u32> {
    let mut users = pod
        .init_containers
        .iter()
        .chain(&pod.containers)
        .map(|container| container.security.run_as_user);
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

/// The names that are seen in the volume's own directory.
pub(super) fn visible(payload: &Payload) -> impl Iterator<Item = &OsStr> {
    payload
        .keys()
        .filter_map(|path| path.components().next().map(Component::as_os_str))
}
