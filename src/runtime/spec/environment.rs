//! The variables of a container, looked up and expanded when it is started (kubelet `makeEnvironmentVariables`).
//!
//! Goes in: what the container says, what other objects gave, where the pod is. Comes out: each name with its value, and
//! what `$(VAR)` makes of a text.
//!
//! **Invariant:** pure, as the room is: what is not among the [`Sources`](crate::model::Sources) is not there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use super::{SpecError, SpecInput};
use crate::model::expansion::{self, Expander, TooLong};
use crate::model::{Data, EnvFrom, EnvValue, EnvVar, Mount, ObjectKey, ObjectKind, downward};

/// The variables that Kubernetes gives a container, without those of its image.
#[derive(Debug)]
pub struct Variables {
    /// In the order in which they were set first.
    order: Vec<String>,
    known: BTreeMap<String, String>,
}

impl Variables {
    /// Of this container, now. Later ones win: the API's address, then `envFrom`, then `env`.
    ///
    /// # Errors
    /// Something that is required is not there, or it all grew too long.
    pub fn of(input: &SpecInput<'_>) -> Result<Self, SpecError> {
        let mut variables = Self {
            order: Vec::new(),
            known: BTreeMap::new(),
        };
        if let Some(api) = input.api {
            for (name, value) in service(api) {
                variables.set(name, value);
            }
        }
        for source in &input.container.env_from {
            variables.take_all(input, source)?;
        }
        let mut expander = Expander::new();
        for EnvVar { name, value } in &input.container.env {
            let value = match value {
                EnvValue::Text(text) => {
                    let text = expander.variable(name, text, &variables.known);
                    Some(text.map_err(too_long)?)
                }
                EnvValue::Field(field) => Some(downward::field(input.pod, field, input.place)),
                EnvValue::Resource(value) => {
                    let own = &input.container.name;
                    let text = downward::resource(input.pod, own, value, input.allocatable);
                    Some(text.ok_or_else(|| SpecError::NoSuchContainer {
                        name: value.container.clone().unwrap_or_default(),
                    })?)
                }
                EnvValue::ConfigMapKey(key) => value_of(input, ObjectKind::ConfigMap, key)?,
                EnvValue::SecretKey(key) => value_of(input, ObjectKind::Secret, key)?,
            };
            if let Some(value) = value {
                variables.set(name.clone(), value);
            }
        }
        Ok(variables)
    }

    fn set(&mut self, name: String, value: String) {
        if self.known.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    /// Every key of an object. The names are good ones: a key is, and so is a prefix.
    fn take_all(&mut self, input: &SpecInput<'_>, source: &EnvFrom) -> Result<(), SpecError> {
        let EnvFrom {
            prefix,
            kind,
            object,
            optional,
        } = source;
        let Some(Data(data)) = object_of(input, *kind, object, *optional)? else {
            return Ok(());
        };
        for (key, bytes) in data {
            match (text_of(input, *kind, object, key, bytes), kind) {
                (Ok(text), _) => self.set(format!("{prefix}{key}"), text),
                // `binaryData` is for files alone.
                (Err(_), ObjectKind::ConfigMap) => {}
                (Err(error), ObjectKind::Secret) => return Err(error),
            }
        }
        Ok(())
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let found = |name: &String| self.known.get_key_value(name);
        let pairs = self.order.iter().filter_map(found);
        pairs.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Command or arguments with their `$(VAR)` replaced.
    ///
    /// # Errors
    /// They grew too long.
    pub fn expand(&self, words: &[String]) -> Result<Vec<String>, SpecError> {
        let mut expander = Expander::new();
        let texts = words.iter().map(|word| expander.word(word, &self.known));
        texts.collect::<Result<_, _>>().map_err(too_long)
    }

    /// The part of the volume that is mounted, if not all of it (kubelet `makeMounts`).
    ///
    /// # Errors
    /// What `subPathExpr` comes to is no path within the volume.
    pub fn sub_path(&self, mount: &Mount) -> Result<Option<PathBuf>, SpecError> {
        let Some(expression) = &mount.sub_path_expr else {
            return Ok(mount.sub_path.clone());
        };
        let path = expansion::path(expression, &self.known)?;
        if path.starts_with('/') {
            return Err(SpecError::AbsoluteSubPath { path });
        }
        if path.split('/').any(|part| part == "..") {
            return Err(SpecError::UpwardSubPath { path });
        }
        let parts = Path::new(&path).components();
        let within: PathBuf = parts.filter(|part| matches!(part, Component::Normal(_))).collect();
        Ok(Some(within).filter(|path| !path.as_os_str().is_empty()))
    }
}

fn too_long(_: TooLong) -> SpecError {
    SpecError::TooLong
}

/// An object that is required must be there.
fn object_of<'a>(
    input: &SpecInput<'a>,
    kind: ObjectKind,
    name: &str,
    optional: bool,
) -> Result<Option<&'a Data>, SpecError> {
    let found = input.sources.objects.get(&(kind, name.to_owned()));
    if found.is_none() && !optional {
        return Err(SpecError::ObjectNotFound {
            kind: kind.resource(),
            name: name.to_owned(),
        });
    }
    Ok(found)
}

/// `None`: it is optional, and not there.
fn value_of(input: &SpecInput<'_>, kind: ObjectKind, key: &ObjectKey) -> Result<Option<String>, SpecError> {
    let ObjectKey { object, key, optional } = key;
    let Some(Data(data)) = object_of(input, kind, object, *optional)? else {
        return Ok(None);
    };
    match data.get(key) {
        Some(bytes) => text_of(input, kind, object, key, bytes).map(Some),
        None if *optional => Ok(None),
        None => Err(SpecError::KeyNotFound {
            kind: kind.as_str(),
            namespace: input.pod.namespace.clone(),
            object: object.clone(),
            key: key.clone(),
        }),
    }
}

fn text_of(
    input: &SpecInput<'_>,
    kind: ObjectKind,
    object: &str,
    key: &str,
    bytes: &[u8],
) -> Result<String, SpecError> {
    let text = std::str::from_utf8(bytes).map_err(|_| SpecError::NoText {
        kind: kind.as_str(),
        namespace: input.pod.namespace.clone(),
        object: object.to_owned(),
        key: key.to_owned(),
    })?;
    Ok(text.to_owned())
}

/// What tells of the Service `kubernetes`, which stands for the API (`pkg/kubelet/envvars`).
fn service(api: SocketAddr) -> [(String, String); 8] {
    let (ip, port) = (api.ip().to_string(), api.port().to_string());
    let url = format!("tcp://{api}");
    let linked = format!("KUBERNETES_PORT_{port}_TCP");
    [
        ("KUBERNETES_SERVICE_HOST".to_owned(), ip.clone()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), port.clone()),
        ("KUBERNETES_SERVICE_PORT_HTTPS".to_owned(), port.clone()),
        ("KUBERNETES_PORT".to_owned(), url.clone()),
        (format!("{linked}_PROTO"), "tcp".to_owned()),
        (format!("{linked}_PORT"), port),
        (format!("{linked}_ADDR"), ip),
        (linked, url),
    ]
}
