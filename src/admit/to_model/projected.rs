//! Volumes whose files podd writes, as podd means them.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1 as wire;

use super::super::volume::projected::{MODE, TOKEN_SECONDS};
use super::env::{field_of, resource_of};
use super::{ModelError, missing, not_understood};
use crate::model::{DownwardFile, DownwardValue, KeyToPath, ObjectKind, Projection, VolumeSource};

/// What a volume of one of the four kinds means; `None`: it is of none of them. `field` names where it stands.
pub(super) fn source(volume: &wire::Volume, field: &str) -> Result<Option<VolumeSource>, ModelError> {
    let projected = |sources, mode: Option<i32>| {
        let default_mode = mode_of(mode.unwrap_or(MODE), field)?;
        Ok(Some(VolumeSource::Projected { sources, default_mode }))
    };
    let object = |kind, name: &str, items: Option<&[wire::KeyToPath]>, optional: Option<bool>| {
        let items = items.into_iter().flatten().map(|wire::KeyToPath { key, mode, path }| {
            Ok(KeyToPath {
                key: key.clone(),
                path: relative(path),
                mode: mode.map(|mode| mode_of(mode, field)).transpose()?,
            })
        });
        Ok::<_, ModelError>(Projection::Object {
            kind,
            name: name.to_owned(),
            items: items.collect::<Result<_, ModelError>>()?,
            optional: optional == Some(true),
        })
    };
    if let Some(source) = &volume.config_map {
        let items = source.items.as_deref();
        let object = object(ObjectKind::ConfigMap, &source.name, items, source.optional)?;
        return projected(vec![object], source.default_mode);
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let object = object(ObjectKind::Secret, name, source.items.as_deref(), source.optional)?;
        return projected(vec![object], source.default_mode);
    }
    if let Some(source) = &volume.downward_api {
        return projected(vec![files(source.items.as_deref(), field)?], source.default_mode);
    }
    let Some(source) = &volume.projected else {
        return Ok(None);
    };
    let mut sources = Vec::new();
    for source in source.sources.iter().flatten() {
        if let Some(wire::SecretProjection { items, name, optional }) = &source.secret {
            sources.push(object(ObjectKind::Secret, name, items.as_deref(), *optional)?);
        }
        if let Some(wire::ConfigMapProjection { items, name, optional }) = &source.config_map {
            sources.push(object(ObjectKind::ConfigMap, name, items.as_deref(), *optional)?);
        }
        if let Some(wire::DownwardAPIProjection { items }) = &source.downward_api {
            sources.push(files(items.as_deref(), field)?);
        }
        if let Some(token) = &source.service_account_token {
            let seconds = token.expiration_seconds.unwrap_or(TOKEN_SECONDS);
            let expiration = super::seconds(seconds).ok_or_else(|| not_understood(field, seconds))?;
            sources.push(Projection::Token {
                audience: token.audience.clone().unwrap_or_default(),
                expiration,
                path: relative(&token.path),
            });
        }
    }
    projected(sources, source.default_mode)
}

fn files(items: Option<&[wire::DownwardAPIVolumeFile]>, field: &str) -> Result<Projection, ModelError> {
    let items = items.into_iter().flatten().map(|file| {
        let value = match (&file.field_ref, &file.resource_field_ref) {
            (Some(selector), _) => DownwardValue::Field(field_of(selector, field)?),
            (None, Some(selector)) => DownwardValue::Resource(resource_of(selector, field)?),
            (None, None) => return Err(missing(&format!("a value that is known for {field}"))),
        };
        Ok(DownwardFile {
            path: relative(&file.path),
            mode: file.mode.map(|mode| mode_of(mode, field)).transpose()?,
            value,
        })
    });
    Ok(Projection::Downward {
        items: items.collect::<Result<_, ModelError>>()?,
    })
}

fn mode_of(mode: i32, field: &str) -> Result<u32, ModelError> {
    u32::try_from(mode).map_err(|_| not_understood(field, mode))
}

/// Without dots and doubled slashes.
fn relative(path: &str) -> PathBuf {
    Path::new(path)
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect()
}
