//! The rules of the volumes whose files podd writes (`validation.go`:
//! `validateConfigMapVolumeSource`, `validateSecretVolumeSource`, `validateDownwardAPIVolumeSource`,
//! `validateProjectedVolumeSource`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIProjection, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
    KeyToPath, ProjectedVolumeSource, SecretProjection, SecretVolumeSource, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};

use super::super::container::check_path;
use super::super::env;
use super::super::fault::{Findings, Path};
use super::super::fields;

/// `defaultMode` where it is not given.
pub(in super::super) const MODE: i32 = 0o644;
/// `expirationSeconds` of a token where it is not given.
pub(in super::super) const TOKEN_SECONDS: i64 = 3_600;
const TOKEN_SECONDS_MIN: i64 = 600;
const TOKEN_SECONDS_MAX: i64 = 1 << 32;

const BAD_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const DUPLICATE: &str = "conflicting duplicate paths";

/// What a file may tell (`validVolumeDownwardAPIFieldPathExpressions`).
const FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// Fills in what Kubernetes does.
pub(in super::super) fn fill(volume: &mut Volume) {
    let modes = [
        volume.config_map.as_mut().map(|source| &mut source.default_mode),
        volume.secret.as_mut().map(|source| &mut source.default_mode),
        volume.downward_api.as_mut().map(|source| &mut source.default_mode),
        volume.projected.as_mut().map(|source| &mut source.default_mode),
    ];
    for mode in modes.into_iter().flatten() {
        mode.get_or_insert(MODE);
    }
    let projected = volume.projected.iter_mut();
    for source in projected.flat_map(|projected| projected.sources.iter_mut().flatten()) {
        if let Some(token) = &mut source.service_account_token {
            token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
        }
        fill_files(
            source
                .downward_api
                .iter_mut()
                .flat_map(|source| source.items.iter_mut()),
        );
    }
    fill_files(
        volume
            .downward_api
            .iter_mut()
            .flat_map(|source| source.items.iter_mut()),
    );
}

fn fill_files<'a>(lists: impl Iterator<Item = &'a mut Vec<DownwardAPIVolumeFile>>) {
    for file in lists.flatten() {
        if let Some(field) = &mut file.field_ref {
            let version = field.api_version.get_or_insert_default();
            if version.is_empty() {
                "v1".clone_into(version);
            }
        }
    }
}

/// Checks the one of the four that is set.
pub(super) fn check(volume: &Volume, at: &Path, findings: &mut Findings) {
    if let Some(source) = &volume.config_map {
        let ConfigMapVolumeSource {
            default_mode,
            items,
            name,
            optional: _,
        } = source;
        let at = at.child("configMap");
        check_named(name, "name", &at, findings);
        check_mode(*default_mode, &at.child("defaultMode"), findings);
        check_items(items.as_deref(), &at, findings);
    }
    if let Some(source) = &volume.secret {
        let SecretVolumeSource {
            default_mode,
            items,
            optional: _,
            secret_name,
        } = source;
        let at = at.child("secret");
        check_named(secret_name.as_deref().unwrap_or_default(), "secretName", &at, findings);
        check_mode(*default_mode, &at.child("defaultMode"), findings);
        check_items(items.as_deref(), &at, findings);
    }
    if let Some(source) = &volume.downward_api {
        let DownwardAPIVolumeSource { default_mode, items } = source;
        let at = at.child("downwardAPI");
        check_mode(*default_mode, &at.child("defaultMode"), findings);
        check_files(items.as_deref(), &at, findings);
    }
    if let Some(source) = &volume.projected {
        check_projected(source, &at.child("projected"), findings);
    }
}

fn check_projected(source: &ProjectedVolumeSource, at: &Path, findings: &mut Findings) {
    let ProjectedVolumeSource { default_mode, sources } = source;
    check_mode(*default_mode, &at.child("defaultMode"), findings);
    let mut taken = BTreeSet::new();
    for (i, source) in sources.iter().flatten().enumerate() {
        let source_at = at.child("sources").index(i);
        fields::volume_projection(source, &source_at, findings);
        let VolumeProjection {
            cluster_trust_bundle: _,
            config_map,
            downward_api,
            pod_certificate: _,
            secret,
            service_account_token,
        } = source;
        let mut kinds = 0;
        // Kubernetes names the object, and the volume as the place, where a path comes a second time.
        let mut take = |path: &str, named: &str, findings: &mut Findings| {
            if !path.is_empty() && !taken.insert(path.to_owned()) {
                findings.invalid(at, named, DUPLICATE);
            }
        };
        if let Some(SecretProjection {
            items,
            name,
            optional: _,
        }) = secret
        {
            kinds += 1;
            let at = source_at.child("secret");
            check_named(name, "name", &at, findings);
            check_items(items.as_deref(), &at, findings);
            for item in items.iter().flatten() {
                take(&item.path, name, findings);
            }
        }
        if let Some(ConfigMapProjection {
            items,
            name,
            optional: _,
        }) = config_map
        {
            kinds += 1;
            let at = source_at.child("configMap");
            check_named(name, "name", &at, findings);
            check_items(items.as_deref(), &at, findings);
            for item in items.iter().flatten() {
                take(&item.path, name, findings);
            }
        }
        if let Some(DownwardAPIProjection { items }) = downward_api {
            kinds += 1;
            check_files(items.as_deref(), &source_at.child("downwardAPI"), findings);
            for file in items.iter().flatten() {
                take(&file.path, &file.path, findings);
            }
        }
        if let Some(token) = service_account_token {
            kinds += 1;
            check_token(token, &source_at.child("serviceAccountToken"), findings);
        }
        if kinds > 1 {
            findings.forbidden(&source_at, "may not specify more than 1 volume type per source");
        }
    }
}

fn check_token(token: &ServiceAccountTokenProjection, at: &Path, findings: &mut Findings) {
    let ServiceAccountTokenProjection {
        audience: _,
        expiration_seconds,
        path,
    } = token;
    let seconds = expiration_seconds.unwrap_or(TOKEN_SECONDS);
    let seconds_at = at.child("expirationSeconds");
    if seconds < TOKEN_SECONDS_MIN {
        findings.invalid_value(&seconds_at, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > TOKEN_SECONDS_MAX {
        findings.invalid_value(
            &seconds_at,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    check_file_path(path, &at.child("path"), findings);
}

fn check_named(name: &str, field: &str, at: &Path, findings: &mut Findings) {
    if name.is_empty() {
        findings.required(&at.child(field), "");
    }
}

fn check_mode(mode: Option<i32>, at: &Path, findings: &mut Findings) {
    if let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) {
        findings.invalid_value(at, mode, BAD_MODE);
    }
}

/// `validateKeyToPath`
fn check_items(items: Option<&[KeyToPath]>, at: &Path, findings: &mut Findings) {
    for (i, KeyToPath { key, mode, path }) in items.into_iter().flatten().enumerate() {
        let at = at.child("items").index(i);
        if key.is_empty() {
            findings.required(&at.child("key"), "");
        }
        check_file_path(path, &at.child("path"), findings);
        check_mode(*mode, &at.child("mode"), findings);
    }
}

/// `validateDownwardAPIVolumeFile`
fn check_files(items: Option<&[DownwardAPIVolumeFile]>, at: &Path, findings: &mut Findings) {
    for (i, file) in items.into_iter().flatten().enumerate() {
        let DownwardAPIVolumeFile {
            field_ref,
            mode,
            path,
            resource_field_ref,
        } = file;
        let at = at.child("items").index(i);
        check_file_path(path, &at.child("path"), findings);
        match (field_ref, resource_field_ref) {
            (Some(field), other) => {
                env::check_field(field, &FIELDS, &at.child("fieldRef"), findings);
                if other.is_some() {
                    findings.invalid(
                        &at,
                        "resource",
                        "fieldRef and resourceFieldRef can not be specified simultaneously",
                    );
                }
            }
            (None, Some(resource)) => {
                env::check_resource(resource, true, &at.child("resourceFieldRef"), findings);
            }
            (None, None) => findings.required(&at, "one of fieldRef and resourceFieldRef is required"),
        }
        check_mode(*mode, &at.child("mode"), findings);
    }
}

/// `ValidateLocalNonReservedPath`
fn check_file_path(path: &str, at: &Path, findings: &mut Findings) {
    if path.is_empty() {
        findings.required(at, "");
        return;
    }
    if path.starts_with('/') {
        findings.invalid(at, path, "must be a relative path");
    }
    check_path(path, at, findings);
    if path.starts_with("..") && path != ".." && !path.starts_with("../") {
        findings.invalid(at, path, "must not start with '..'");
    }
    if path.split('/').all(|part| matches!(part, "" | ".")) {
        // Kubernetes finds out when it writes.
        findings.invalid(at, path, "must name a file");
    }
}
