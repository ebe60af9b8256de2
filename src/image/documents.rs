//! The JSON documents of an image: indexes, manifests, configs, and docker's `manifest.json`.
//!
//! Goes in: bytes of a bounded size. Comes out: what podd needs of them, checked.
//!
//! **Invariant:** pure. A document that could be read as two different things is refused (GHSA-5j5w-g665-5m35), and
//! nothing in a config is interpreted beyond the fields of [`ImageConfig`].

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::limits::DESCRIPTORS_MAX;
use super::stream::Digest;
use crate::model::ImageConfig;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYERS: [&str; 10] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// What is wrong with a document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("it is not the JSON it should be")]
    Json(#[from] serde_json::Error),
    #[error("it is both an index and a manifest")]
    Ambiguous,
    #[error("it is neither an index nor a manifest")]
    Neither,
    #[error("its schemaVersion is {found}, not 2")]
    Schema { found: u64 },
    #[error("it says of itself that it is {own:?}, and is referred to as {referred:?}")]
    MediaType { own: String, referred: String },
    #[error("it is of type {found:?}, which is no container image")]
    NotAnImage { found: String },
    #[error("a layer is of type {found:?}, which cannot be unpacked")]
    LayerType { found: String },
    #[error("{digest:?} is not a sha256 digest")]
    Digest { digest: String },
    #[error("it refers to more than {DESCRIPTORS_MAX} documents")]
    TooMany,
    #[error("it has {layers} layers, and the config has {diff_ids} diff ids")]
    LayerCount { layers: usize, diff_ids: usize },
    #[error("it has no layer")]
    NoLayer,
    #[error("it has more than {limit} layers")]
    TooManyLayers { limit: usize },
    #[error("the image is made for {os:?}, not for linux")]
    Os { os: String },
    #[error("its rootfs is of type {found:?}, not \"layers\"")]
    RootfsType { found: String },
    #[error("one of its strings holds a NUL")]
    Nul,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    /// `v3` of amd64, `v7` of arm; often empty.
    #[serde(default)]
    pub(super) variant: String,
}

impl Platform {
    pub(super) fn is_this_machine(&self) -> bool {
        self.os == "linux" && self.architecture == architecture() && self.level() <= level()
    }

    /// How much of its architecture it needs: the more, the better it fits a machine that has it.
    pub(super) fn level(&self) -> u32 {
        let said = self.variant.strip_prefix('v').and_then(|level| level.parse().ok());
        said.unwrap_or(match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.variant.is_empty() { "" } else { "/" };
        write!(f, "{}/{}{separator}{}", self.os, self.architecture, self.variant)
    }
}

/// The highest level that this machine's processor has (x86-64 psABI, "Micro-Architecture Levels"). Of arm64 the first is
/// what any has.
fn level() -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let v2 =
            has!("cmpxchg16b") && has!("popcnt") && has!("sse3") && has!("sse4.1") && has!("sse4.2") && has!("ssse3");
        let v3 = v2
            && has!("avx")
            && has!("avx2")
            && has!("bmi1")
            && has!("bmi2")
            && has!("f16c")
            && has!("fma")
            && has!("lzcnt")
            && has!("movbe");
        let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
        1 + u32::from(v2) + u32::from(v3) + u32::from(v4)
    }
    #[cfg(not(target_arch = "x86_64"))]
    match architecture() {
        "arm64" => 8,
        "arm" => 7,
        _ => u32::MAX,
    }
}

/// This machine's architecture, as Go and OCI documents call it.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

/// A document or layer, as another document refers to it.
#[derive(Debug, Clone)]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) platform: Option<Platform>,
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
    annotations: Option<BTreeMap<String, String>>,
}

impl TryFrom<WireDescriptor> for Descriptor {
    type Error = DocumentError;

    fn try_from(wire: WireDescriptor) -> Result<Self, DocumentError> {
        let WireDescriptor {
            media_type,
            digest,
            size,
            platform,
            annotations,
        } = wire;
        let digest = Digest::parse(&digest).ok_or(DocumentError::Digest { digest })?;
        Ok(Self {
            media_type,
            digest,
            size,
            platform,
            annotations: annotations.unwrap_or_default(),
        })
    }
}

/// An index or a manifest.
#[derive(Debug)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDocument {
    schema_version: u64,
    media_type: Option<String>,
    manifests: Option<Vec<WireDescriptor>>,
    config: Option<WireDescriptor>,
    layers: Option<Vec<WireDescriptor>>,
}

impl Document {
    /// `referred`: the media type by which another document refers to this one; empty when none does.
    pub(super) fn parse(bytes: &[u8], referred: &str) -> Result<Self, DocumentError> {
        let WireDocument {
            schema_version,
            media_type,
            manifests,
            config,
            layers,
        } = serde_json::from_slice(bytes)?;
        if schema_version != 2 {
            return Err(DocumentError::Schema { found: schema_version });
        }
        if let Some(own) = media_type
            && !referred.is_empty()
            && own != referred
        {
            return Err(DocumentError::MediaType {
                own,
                referred: referred.to_owned(),
            });
        }
        match (manifests, config, layers) {
            (Some(manifests), None, None) => {
                is_one_of(referred, &[OCI_INDEX, DOCKER_INDEX])?;
                if manifests.len() > DESCRIPTORS_MAX {
                    return Err(DocumentError::TooMany);
                }
                Ok(Self::Index(
                    manifests
                        .into_iter()
                        .map(Descriptor::try_from)
                        .collect::<Result<_, _>>()?,
                ))
            }
            (None, Some(config), Some(layers)) => {
                is_one_of(referred, &[OCI_MANIFEST, DOCKER_MANIFEST])?;
                is_one_of(&config.media_type, &[OCI_CONFIG, DOCKER_CONFIG])?;
                if let Some(layer) = layers.iter().find(|layer| !LAYERS.contains(&layer.media_type.as_str())) {
                    return Err(DocumentError::LayerType {
                        found: layer.media_type.clone(),
                    });
                }
                let layers = layers.into_iter().map(Descriptor::try_from).collect::<Result<_, _>>()?;
                Ok(Self::Manifest {
                    config: config.try_into()?,
                    layers,
                })
            }
            (Some(_), _, _) => Err(DocumentError::Ambiguous),
            (None, _, _) => Err(DocumentError::Neither),
        }
    }
}

fn is_one_of(found: &str, expected: &[&str]) -> Result<(), DocumentError> {
    if found.is_empty() || expected.contains(&found) {
        return Ok(());
    }
    Err(DocumentError::NotAnImage {
        found: found.to_owned(),
    })
}

/// One image of docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}

pub(super) fn parse_docker(bytes: &[u8]) -> Result<Vec<DockerImage>, DocumentError> {
    let images: Vec<DockerImage> = serde_json::from_slice(bytes)?;
    if images.len() > DESCRIPTORS_MAX {
        return Err(DocumentError::TooMany);
    }
    Ok(images)
}

/// An image's config: what runs, and which layers make its root.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) image: ImageConfig,
    /// Bottom first.
    pub(super) diff_ids: Vec<Digest>,
    pub(super) architecture: String,
}

#[derive(Deserialize)]
struct WireConfig {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<WireRun>,
    rootfs: WireRootfs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WireRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct WireRootfs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Option<Vec<String>>,
}

impl Config {
    pub(super) fn parse(bytes: &[u8], layers_max: usize) -> Result<Self, DocumentError> {
        let WireConfig {
            architecture,
            os,
            config,
            rootfs,
        } = serde_json::from_slice(bytes)?;
        if !matches!(os.as_str(), "" | "linux") {
            return Err(DocumentError::Os { os });
        }
        if rootfs.kind != "layers" {
            return Err(DocumentError::RootfsType { found: rootfs.kind });
        }
        let diff_ids = rootfs.diff_ids.unwrap_or_default();
        if diff_ids.is_empty() {
            return Err(DocumentError::NoLayer);
        }
        if diff_ids.len() > layers_max {
            return Err(DocumentError::TooManyLayers { limit: layers_max });
        }
        let diff_ids = diff_ids
            .into_iter()
            .map(|digest| Digest::parse(&digest).ok_or(DocumentError::Digest { digest }))
            .collect::<Result<_, _>>()?;
        let WireRun {
            entrypoint,
            cmd,
            env,
            user,
            working_dir,
            stop_signal,
        } = config.unwrap_or_default();
        let image = ImageConfig {
            entrypoint: entrypoint.unwrap_or_default(),
            cmd: cmd.unwrap_or_default(),
            env: env.unwrap_or_default(),
            user: user.unwrap_or_default(),
            working_dir: working_dir.unwrap_or_default(),
            stop_signal: stop_signal.unwrap_or_default(),
        };
        let ImageConfig {
            entrypoint,
            cmd,
            env,
            user,
            working_dir,
            stop_signal,
        } = &image;
        let strings = || {
            entrypoint
                .iter()
                .chain(cmd)
                .chain(env)
                .chain([user, working_dir, stop_signal])
        };
        if strings().any(|text| text.contains('\0')) {
            return Err(DocumentError::Nul);
        }
        Ok(Self {
            image,
            diff_ids,
            architecture,
        })
    }
}

/// The config of an image that is a plain root filesystem. The same filesystem gives the same config, so the same image.
pub(super) fn config_of_plain(diff_id: &Digest) -> Vec<u8> {
    let config = serde_json::json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Cmd": ["/bin/sh"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
    });
    config.to_string().into_bytes()
}

/// A manifest for an image that came without one. Layers: digest, size and whether they are gzip or zstd.
pub(super) fn manifest_of(config: &[u8], layers: &[(Digest, u64, &'static str)]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|(digest, size, suffix)| {
            serde_json::json!({
                "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                "digest": digest.to_string(),
                "size": size,
            })
        })
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "digest": Digest::of(config).to_string(), "size": config.len() },
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest() -> String {
        Digest::of(b"x").to_string()
    }

    fn config_descriptor() -> serde_json::Value {
        json!({"mediaType": OCI_CONFIG, "digest": digest(), "size": 1})
    }

    fn document(value: &serde_json::Value, referred: &str) -> Result<Document, DocumentError> {
        Document::parse(value.to_string().as_bytes(), referred)
    }

    #[test]
    fn what_a_processor_cannot_run_is_not_for_this_machine() {
        let platform = |variant: &str| Platform {
            os: "linux".to_owned(),
            architecture: architecture().to_owned(),
            variant: variant.to_owned(),
        };
        assert!(platform("").is_this_machine());
        assert!(!platform("v999").is_this_machine() || level() == u32::MAX);
        assert!(platform("v999").level() > platform("").level());
        assert_eq!(platform("v2").to_string(), format!("linux/{}/v2", architecture()));
        if architecture() == "amd64" {
            let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
            let has = |flag: &str| flags.split_whitespace().any(|found| found == flag);
            assert!(platform("v1").is_this_machine());
            assert_eq!(
                platform("v3").is_this_machine(),
                has("avx2") && has("movbe") && has("fma")
            );
            assert_eq!(platform("v4").is_this_machine(), has("avx512vl") && has("avx512dq"));
        }
    }

    #[test]
    fn a_document_is_one_thing() {
        let layer = json!({"mediaType": LAYERS[1], "digest": digest(), "size": 1});
        let manifest = json!({"schemaVersion": 2, "config": config_descriptor(), "layers": [layer]});
        assert!(matches!(
            document(&manifest, OCI_MANIFEST).unwrap(),
            Document::Manifest { .. }
        ));
        let index = json!({"schemaVersion": 2, "manifests": []});
        assert!(matches!(document(&index, "").unwrap(), Document::Index(_)));

        let mut both = manifest.clone();
        both["manifests"] = json!([]);
        assert!(matches!(document(&both, OCI_MANIFEST), Err(DocumentError::Ambiguous)));
        let mut half = index.clone();
        half["layers"] = json!([]);
        assert!(matches!(document(&half, ""), Err(DocumentError::Ambiguous)));
        assert!(matches!(
            document(&json!({"schemaVersion": 2}), ""),
            Err(DocumentError::Neither)
        ));
        assert!(matches!(
            document(&json!({"schemaVersion": 1, "manifests": []}), ""),
            Err(DocumentError::Schema { found: 1 })
        ));
        assert!(matches!(
            document(&manifest, OCI_INDEX),
            Err(DocumentError::NotAnImage { .. })
        ));
        let mut lying = manifest.clone();
        lying["mediaType"] = json!(DOCKER_MANIFEST);
        assert!(matches!(
            document(&lying, OCI_MANIFEST),
            Err(DocumentError::MediaType { .. })
        ));
    }

    #[test]
    fn artifacts_are_no_images() {
        let mut config = config_descriptor();
        config["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
        let chart = json!({"schemaVersion": 2, "config": config, "layers": []});
        assert!(matches!(document(&chart, ""), Err(DocumentError::NotAnImage { .. })));
        let layer = json!({"mediaType": "text/plain", "digest": digest(), "size": 1});
        let odd = json!({"schemaVersion": 2, "config": config_descriptor(), "layers": [layer]});
        assert!(matches!(document(&odd, ""), Err(DocumentError::LayerType { .. })));
        let layer = json!({"mediaType": LAYERS[0], "digest": "sha256:../../../etc/passwd", "size": 1});
        let odd = json!({"schemaVersion": 2, "config": config_descriptor(), "layers": [layer]});
        assert!(matches!(document(&odd, ""), Err(DocumentError::Digest { .. })));
    }

    #[test]
    fn a_config_gives_what_runs() {
        let config = json!({
            "os": "linux", "architecture": "amd64",
            "config": {"Entrypoint": ["/e"], "Cmd": null, "Env": ["A=b"], "User": "1:2", "WorkingDir": "/w",
                       "StopSignal": "SIGINT", "Labels": {"io.podd/root": "yes"}, "Volumes": {"/../../etc": {}}},
            "rootfs": {"type": "layers", "diff_ids": [digest()]},
        });
        let parsed = Config::parse(config.to_string().as_bytes(), 127).unwrap();
        let want = ImageConfig {
            entrypoint: vec!["/e".to_owned()],
            cmd: Vec::new(),
            env: vec!["A=b".to_owned()],
            user: "1:2".to_owned(),
            working_dir: "/w".to_owned(),
            stop_signal: "SIGINT".to_owned(),
        };
        assert_eq!(parsed.image, want);
        assert_eq!(parsed.diff_ids, [Digest::of(b"x")]);
        assert!(Config::parse(&config_of_plain(&Digest::of(b"x")), 1).is_ok());
    }

    #[test]
    fn bad_configs_are_refused() {
        let with = |path: &str, value: serde_json::Value| {
            let mut config = json!({
                "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest()]},
            });
            *config.pointer_mut(path).unwrap() = value;
            Config::parse(config.to_string().as_bytes(), 2)
        };
        assert!(matches!(with("/os", json!("windows")), Err(DocumentError::Os { .. })));
        assert!(matches!(
            with("/rootfs/type", json!("x")),
            Err(DocumentError::RootfsType { .. })
        ));
        assert!(matches!(
            with("/rootfs/diff_ids", json!([])),
            Err(DocumentError::NoLayer)
        ));
        assert!(matches!(
            with("/rootfs/diff_ids", json!(null)),
            Err(DocumentError::NoLayer)
        ));
        assert!(matches!(
            with("/rootfs/diff_ids", json!(["md5:x"])),
            Err(DocumentError::Digest { .. })
        ));
        let three = json!([digest(), digest(), digest()]);
        assert!(matches!(
            with("/rootfs/diff_ids", three),
            Err(DocumentError::TooManyLayers { limit: 2 })
        ));
        assert!(matches!(
            with("/config", json!({"Env": ["A=\0"]})),
            Err(DocumentError::Nul)
        ));
        assert!(matches!(
            with("/config", json!({"User": 0})),
            Err(DocumentError::Json(_))
        ));
        assert!(with("/config", json!(null)).is_ok());
    }
}
