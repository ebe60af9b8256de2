//! The other objects that a pod takes something from: ConfigMaps, Secrets, tokens of its service account.
//!
//! Goes in: a pod. Comes out: [`Sources`], all that its containers and volumes name and that is there.
//!
//! **Invariant:** a pod that names nothing costs nothing. What is missing is no failure here: whoever needs it says so.

use std::collections::BTreeSet;
use std::fmt;

use futures_util::future::BoxFuture;

use super::LookupError;
use crate::model::{ContainerSpec, Data, EnvValue, ObjectKind, PodSpec, Projection, Sources, Token, TokenRequest};

/// Where they are looked up.
pub trait Objects: fmt::Debug + Send + Sync {
    /// The data of this ConfigMap or Secret; `None`: there is none of this name.
    fn data<'a>(
        &'a self,
        kind: ObjectKind,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Data>, LookupError>>;

    /// A token, newly made unless one that was made for the same request is still fresh; `None`: there is no such service
    /// account.
    fn token(&self, request: TokenRequest) -> BoxFuture<'_, Result<Option<Token>, LookupError>>;
}

/// Read everything that the pod's volumes name, and the variables of the container, if one is given.
///
/// # Errors
/// Something could not be looked up, which is not the same as missing.
pub(super) async fn gather(
    objects: &dyn Objects,
    pod: &PodSpec,
    container: Option<&ContainerSpec>,
) -> Result<Sources, LookupError> {
    let mut sources = Sources::default();
    for (kind, name) in named(pod, container) {
        if let Some(data) = objects.data(kind, &pod.namespace, name).await? {
            sources.objects.insert((kind, name.to_owned()), data);
        }
    }
    for (volume, projection) in pod.projections() {
        let Projection::Token {
            audience,
            expiration,
            path,
        } = projection
        else {
            continue;
        };
        let request = TokenRequest {
            namespace: pod.namespace.clone(),
            service_account: pod.about.service_account.clone(),
            pod: (pod.name.clone(), pod.uid.clone()),
            audience: audience.clone(),
            expiration: *expiration,
        };
        if let Some(token) = objects.token(request).await? {
            sources.tokens.insert((volume.to_owned(), path.clone()), token);
        }
    }
    Ok(sources)
}

/// Whether the container's variables need more than the pod's volumes do.
pub(super) fn names_objects(container: &ContainerSpec) -> bool {
    of_variables(container).next().is_some()
}

/// Each ConfigMap and Secret once.
fn named<'a>(pod: &'a PodSpec, container: Option<&'a ContainerSpec>) -> BTreeSet<(ObjectKind, &'a str)> {
    let of_volumes = pod.projections().filter_map(|(_, projection)| match projection {
        Projection::Object { kind, name, .. } => Some((*kind, name.as_str())),
        Projection::Downward { .. } | Projection::Token { .. } => None,
    });
    of_volumes.chain(container.into_iter().flat_map(of_variables)).collect()
}

fn of_variables(container: &ContainerSpec) -> impl Iterator<Item = (ObjectKind, &str)> {
    let whole = container.env_from.iter().map(|from| (from.kind, from.object.as_str()));
    let keys = container.env.iter().filter_map(|variable| match &variable.value {
        EnvValue::ConfigMapKey(key) => Some((ObjectKind::ConfigMap, key.object.as_str())),
        EnvValue::SecretKey(key) => Some((ObjectKind::Secret, key.object.as_str())),
        EnvValue::Text(_) | EnvValue::Field(_) | EnvValue::Resource(_) => None,
    });
    whole.chain(keys)
}
