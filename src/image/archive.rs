//! What an archive holds: images as `docker save`, podman or skopeo write them, an OCI layout, or a root filesystem.
//!
//! Goes in: a spooled, decompressed archive. Comes out: [`Found`] images, each with its verified manifest and config and
//! the places of its layers in the file.
//!
//! **Invariant:** reads, never writes. Only the places of members that could matter are remembered, and not more than
//! [`MEMBERS_MAX`] of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use super::documents::{Config, Descriptor, Document, DocumentError, architecture, config_of_plain, parse_docker};
use super::limits::{INDEX_DEPTH_MAX, Limits};
use super::member::{Kind, Members, TarError};
use super::stream::{Digest, Section};

/// How many members of an archive of images are remembered. Such archives have a few for each layer.
const MEMBERS_MAX: usize = 50_000;
/// Links from one member to another: `docker save` writes equal layers once, and links to them.
const LINKS_MAX: usize = 8;

/// Why an archive cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("the archive is empty")]
    Empty,
    #[error("the archive is cut off: the mark of its end is missing")]
    NoEnd,
    #[error("the archive was written by docker before 1.10, which is not supported: save the image anew")]
    OldDocker,
    #[error("the archive has too many members")]
    TooManyMembers,
    #[error("{name:?} is missing in the archive")]
    Missing { name: String },
    #[error("{name:?} has {size} bytes: the limit is {limit}")]
    TooLarge { name: String, size: u64, limit: u64 },
    #[error("{name:?} has {found} bytes, and should have {expected}")]
    Size { name: String, expected: u64, found: u64 },
    #[error("{name:?} is damaged: its digest is {found}, and should be {expected}")]
    Digest {
        name: String,
        expected: String,
        found: String,
    },
    #[error("{name:?} is refused")]
    Document {
        name: String,
        #[source]
        source: DocumentError,
    },
    #[error("indexes are nested more than {INDEX_DEPTH_MAX} deep")]
    IndexDepth,
    #[error("the archive holds no image for linux/{} (only for {there})", architecture())]
    Platform { there: String },
    #[error("the archive holds no image")]
    NoImage,
    #[error("cannot read the spooled archive")]
    Read(#[source] io::Error),
}

type Result<T, E = ArchiveError> = std::result::Result<T, E>;

/// A layer, where it lies in the archive.
#[derive(Debug, Clone)]
pub(super) struct FoundLayer {
    /// For messages.
    pub(super) name: String,
    pub(super) section: Section,
    /// The digest that a manifest gives it; an archive of docker has none.
    pub(super) blob: Option<Digest>,
    /// What it must be, uncompressed.
    pub(super) diff_id: Digest,
}

/// An image of an archive.
#[derive(Debug)]
pub(super) struct Found {
    /// `None`: the archive has none.
    pub(super) manifest: Option<Vec<u8>>,
    pub(super) config_json: Vec<u8>,
    pub(super) config: Config,
    /// Bottom first.
    pub(super) layers: Vec<FoundLayer>,
    /// As the archive says them, not yet normalised.
    pub(super) names: Vec<String>,
}

/// What kind of archive it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArchiveKind {
    Images,
    RootFilesystem,
}

#[derive(Debug)]
enum Place {
    Data {
        offset: u64,
        size: u64,
    },
    /// To another member, already normalised.
    Link(String),
}

/// Look through an archive.
pub(super) fn read(file: &Arc<File>, size: u64, limits: &Limits) -> Result<(ArchiveKind, Vec<Found>)> {
    let archive = Archive::scan(file, size, limits)?;
    if archive.places.contains_key("oci-layout") && archive.places.contains_key("index.json") {
        return Ok((ArchiveKind::Images, archive.oci()?));
    }
    if archive.places.contains_key("manifest.json") {
        let bytes = archive.document("manifest.json", limits.manifest)?;
        // A root filesystem may have a file of this name, which then is something else.
        if bytes.trim_ascii_start().starts_with(b"[") {
            return Ok((ArchiveKind::Images, archive.docker(&bytes)?));
        }
    } else if archive.places.contains_key("repositories")
        && archive.places.keys().any(|name| name.ends_with("/layer.tar"))
    {
        return Err(ArchiveError::OldDocker);
    }
    Ok((ArchiveKind::RootFilesystem, vec![archive.plain()?]))
}

struct Archive<'a> {
    file: &'a Arc<File>,
    size: u64,
    limits: &'a Limits,
    places: HashMap<String, Place>,
    too_many: bool,
}

/// `./a//b/` is `a/b`; `None` for what leads out, or is not UTF-8.
fn normal(name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    for part in std::str::from_utf8(name).ok()?.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

impl<'a> Archive<'a> {
    fn scan(file: &'a Arc<File>, size: u64, limits: &'a Limits) -> Result<Self> {
        let mut archive = Self {
            file,
            size,
            limits,
            places: HashMap::new(),
            too_many: false,
        };
        let mut members = Members::new(Section::new(Arc::clone(file), 0, size));
        let mut count = 0_u64;
        while let Some(member) = members.next()? {
            count += 1;
            if count > limits.entries {
                return Err(ArchiveError::TooManyMembers);
            }
            let Some(name) = normal(&member.path) else { continue };
            // `<id>/layer.tar` and `blobs/sha256/<hex>` at most.
            if name.split('/').count() > 3 {
                continue;
            }
            let place = match member.kind {
                Kind::File => Place::Data {
                    offset: member.offset,
                    size: member.size,
                },
                Kind::HardLink => match normal(&member.link) {
                    Some(target) => Place::Link(target),
                    None => continue,
                },
                Kind::Symlink => {
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    match normal(&[directory.as_bytes(), b"/", &member.link].concat()) {
                        Some(target) => Place::Link(target),
                        None => continue,
                    }
                }
                Kind::Directory | Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => continue,
            };
            if archive.places.len() >= MEMBERS_MAX && !archive.places.contains_key(&name) {
                archive.too_many = true;
                continue;
            }
            archive.places.insert(name, place);
        }
        if count == 0 {
            return Err(ArchiveError::Empty);
        }
        if !members.end_was_marked() {
            return Err(ArchiveError::NoEnd);
        }
        Ok(archive)
    }

    fn section(&self, name: &str) -> Result<Section> {
        let mut at = name;
        for _ in 0..LINKS_MAX {
            match self.places.get(at) {
                Some(Place::Data { offset, size }) => return Ok(Section::new(Arc::clone(self.file), *offset, *size)),
                Some(Place::Link(target)) => at = target,
                None => break,
            }
        }
        if self.too_many {
            return Err(ArchiveError::TooManyMembers);
        }
        Err(ArchiveError::Missing { name: name.to_owned() })
    }

    /// A member by the name another document gives it.
    fn named(&self, name: &str) -> Result<Section> {
        let normal = normal(name.as_bytes()).ok_or_else(|| ArchiveError::Missing { name: name.to_owned() })?;
        self.section(&normal)
    }

    fn whole(name: &str, mut section: Section, limit: u64) -> Result<Vec<u8>> {
        let size = section.size();
        if size > limit {
            return Err(ArchiveError::TooLarge {
                name: name.to_owned(),
                size,
                limit,
            });
        }
        let mut bytes = Vec::new();
        section.read_to_end(&mut bytes).map_err(ArchiveError::Read)?;
        Ok(bytes)
    }

    fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        Self::whole(name, self.named(name)?, limit)
    }

    fn blob_section(&self, descriptor: &Descriptor) -> Result<(String, Section)> {
        let name = format!("blobs/sha256/{}", descriptor.digest.hex());
        let section = self.section(&name)?;
        if section.size() != descriptor.size {
            return Err(ArchiveError::Size {
                name,
                expected: descriptor.size,
                found: section.size(),
            });
        }
        Ok((name, section))
    }

    /// A document of an OCI layout, its digest verified.
    fn blob(&self, descriptor: &Descriptor, limit: u64) -> Result<(String, Vec<u8>)> {
        let (name, section) = self.blob_section(descriptor)?;
        let bytes = Self::whole(&name, section, limit)?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            let (expected, found) = (descriptor.digest.to_string(), found.to_string());
            return Err(ArchiveError::Digest { name, expected, found });
        }
        Ok((name, bytes))
    }

    fn oci(&self) -> Result<Vec<Found>> {
        let fault = |source| ArchiveError::Document {
            name: "index.json".to_owned(),
            source,
        };
        let bytes = self.document("index.json", self.limits.manifest)?;
        let Document::Index(descriptors) = Document::parse(&bytes, "").map_err(fault)? else {
            return Err(fault(DocumentError::Neither));
        };
        let mut found: Vec<(Digest, Found)> = Vec::new();
        let mut others = Others::default();
        for descriptor in &descriptors {
            let Some((digest, manifest)) = self.for_this_machine(descriptor, INDEX_DEPTH_MAX, &mut others)? else {
                continue;
            };
            let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
                .iter()
                .find_map(|key| descriptor.annotations.get(*key))
                .cloned();
            if let Some((_, same)) = found.iter_mut().find(|(there, _)| *there == digest) {
                same.names.extend(name);
                continue;
            }
            let mut image = self.oci_image(manifest)?;
            image.names.extend(name);
            found.push((digest, image));
        }
        if found.is_empty() {
            return Err(if others.platforms.is_empty() {
                ArchiveError::NoImage
            } else {
                ArchiveError::Platform {
                    there: others.platforms.into_iter().collect::<Vec<_>>().join(", "),
                }
            });
        }
        Ok(found.into_iter().map(|(_, image)| image).collect())
    }

    /// The manifest that a descriptor means on this machine: itself, or one of the index it refers to.
    fn for_this_machine(
        &self,
        descriptor: &Descriptor,
        depth: usize,
        others: &mut Others,
    ) -> Result<Option<(Digest, OciManifest)>> {
        if let Some(platform) = descriptor.platform.as_ref().filter(|it| !it.is_this_machine()) {
            // Attestations of builds say `unknown/unknown`.
            if platform.os != "unknown" {
                others.platforms.insert(platform.to_string());
            }
            return Ok(None);
        }
        if others.indexes.contains(&descriptor.digest) {
            return Ok(None);
        }
        let (name, bytes) = self.blob(descriptor, self.limits.manifest)?;
        let document = Document::parse(&bytes, &descriptor.media_type).map_err(|source| ArchiveError::Document {
            name: name.clone(),
            source,
        })?;
        match document {
            Document::Manifest { config, layers } => Ok(Some((
                descriptor.digest.clone(),
                OciManifest {
                    name,
                    bytes,
                    config,
                    layers,
                },
            ))),
            Document::Index(descriptors) => {
                let depth = depth.checked_sub(1).ok_or(ArchiveError::IndexDepth)?;
                for nested in &descriptors {
                    if let Some(found) = self.for_this_machine(nested, depth, others)? {
                        return Ok(Some(found));
                    }
                }
                others.indexes.insert(descriptor.digest.clone());
                Ok(None)
            }
        }
    }

    fn oci_image(&self, manifest: OciManifest) -> Result<Found> {
        let OciManifest {
            name,
            bytes,
            config,
            layers,
        } = manifest;
        let (config_name, config_json) = self.blob(&config, self.limits.config)?;
        let config = self.config(&config_name, &config_json, &name, layers.len())?;
        let layers = layers
            .iter()
            .zip(&config.diff_ids)
            .map(|(descriptor, diff_id)| {
                let (name, section) = self.blob_section(descriptor)?;
                Ok(FoundLayer {
                    name,
                    section,
                    blob: Some(descriptor.digest.clone()),
                    diff_id: diff_id.clone(),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Found {
            manifest: Some(bytes),
            config_json,
            config,
            layers,
            names: Vec::new(),
        })
    }

    fn config(&self, name: &str, json: &[u8], manifest: &str, layers: usize) -> Result<Config> {
        let config = Config::parse(json, self.limits.layers).map_err(|source| ArchiveError::Document {
            name: name.to_owned(),
            source,
        })?;
        let diff_ids = config.diff_ids.len();
        if diff_ids != layers {
            let source = DocumentError::LayerCount { layers, diff_ids };
            return Err(ArchiveError::Document {
                name: manifest.to_owned(),
                source,
            });
        }
        Ok(config)
    }

    fn docker(&self, manifest: &[u8]) -> Result<Vec<Found>> {
        let name = "manifest.json";
        let images = parse_docker(manifest).map_err(|source| ArchiveError::Document {
            name: name.to_owned(),
            source,
        })?;
        if images.is_empty() {
            return Err(ArchiveError::NoImage);
        }
        let mut found = Vec::new();
        for image in images {
            let config_json = self.document(&image.config, self.limits.config)?;
            // The config's name is its digest, in one form or another.
            let digest = Digest::of(&config_json);
            let said = image.config.rsplit('/').next().unwrap_or_default();
            let said = said.strip_suffix(".json").unwrap_or(said);
            let said = said.strip_prefix("sha256:").unwrap_or(said);
            if let Some(expected) = Digest::from_hex(said)
                && expected != digest
            {
                let (expected, found) = (expected.to_string(), digest.to_string());
                return Err(ArchiveError::Digest {
                    name: image.config,
                    expected,
                    found,
                });
            }
            let config = self.config(&image.config, &config_json, name, image.layers.len())?;
            let layers = image
                .layers
                .iter()
                .zip(&config.diff_ids)
                .map(|(name, diff_id)| {
                    let section = self.named(name)?;
                    Ok(FoundLayer {
                        name: name.clone(),
                        section,
                        blob: None,
                        diff_id: diff_id.clone(),
                    })
                })
                .collect::<Result<_>>()?;
            let names = image.repo_tags.unwrap_or_default();
            found.push(Found {
                manifest: None,
                config_json,
                config,
                layers,
                names,
            });
        }
        Ok(found)
    }

    /// The archive itself is the only layer.
    fn plain(&self) -> Result<Found> {
        let section = Section::new(Arc::clone(self.file), 0, self.size);
        let diff_id = section.digest().map_err(ArchiveError::Read)?;
        let config_json = config_of_plain(&diff_id);
        let config = Config::parse(&config_json, self.limits.layers).map_err(|source| ArchiveError::Document {
            name: "config".to_owned(),
            source,
        })?;
        let layer = FoundLayer {
            name: "root filesystem".to_owned(),
            section,
            blob: None,
            diff_id,
        };
        Ok(Found {
            manifest: None,
            config_json,
            config,
            layers: vec![layer],
            names: Vec::new(),
        })
    }
}

/// What was found that is of no use on this machine.
#[derive(Default)]
struct Others {
    platforms: BTreeSet<String>,
    /// Indexes with nothing for this machine: each is looked through once, however often it is referred to.
    indexes: HashSet<Digest>,
}

/// A manifest of an OCI layout, with its name for messages.
struct OciManifest {
    name: String,
    bytes: Vec<u8>,
    config: Descriptor,
    layers: Vec<Descriptor>,
}
