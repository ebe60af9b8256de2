//! From an upload to images in the content store.
//!
//! Goes in: the bytes of an archive, as they arrive. Comes out: [`Prepared`] images: layers unpacked, durable and in
//! place, manifest and config kept, all of it verified; or nothing at all.
//!
//! **Invariant:** runs on a thread that may block. Everything is made in a [`Scratch`](super::content::Scratch), which
//! goes with the import; what has its place already is pinned until the caller has recorded the images.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use tracing::warn;

use super::archive::{self, ArchiveError, ArchiveKind, Found, FoundLayer};
use super::content::{Content, ContentError, Pin, Scratch};
use super::documents::{architecture, manifest_of};
use super::limits::{self, Budget, LimitError, Limits, Share, SpaceWatch};
use super::member::{Members, TarError};
use super::reference::{Reference, ReferenceError};
use super::stream::{Compression, Digest, Hashed, decompressed, digest_layer, read_ahead};
use super::unpack::{UnpackError, unpack};
use crate::linux::confine;
use crate::store::StoreError;

/// Why an import failed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("invalid image name {name:?}")]
    Name {
        name: String,
        #[source]
        source: ReferenceError,
    },
    #[error("invalid image name {name:?}: a name given to an image holds no digest")]
    NameWithDigest { name: String },
    #[error("invalid image name {name:?}: it is how an image's id looks")]
    NameIsId { name: String },
    #[error("a plain root filesystem has no name of its own: give it one with --name")]
    RootFilesystemUnnamed,
    #[error("the archive does not say how image {id} is called: give it a name with --name")]
    Unnamed { id: String },
    #[error("the archive holds {count} images: --name can name only one")]
    SeveralImages { count: usize },
    #[error("the upload was not completed")]
    Upload(#[source] io::Error),
    #[error("cannot decompress the archive")]
    Decompress(#[source] io::Error),
    #[error(transparent)]
    Limit(#[from] LimitError),
    #[error("cannot spool the upload")]
    Spool(#[source] io::Error),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("layer {layer:?}")]
    Layer {
        layer: String,
        #[source]
        source: UnpackError,
    },
    #[error("cannot read layer {layer:?}")]
    LayerRead {
        layer: String,
        #[source]
        source: io::Error,
    },
    #[error("layer {layer:?} is damaged: its digest is {found}, and should be {expected}")]
    LayerDigest {
        layer: String,
        expected: String,
        found: String,
    },
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("cannot record the image")]
    Store(#[from] StoreError),
    #[error("the import was broken off by a fault of podd's own")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Whose fault an [`ImportError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller's: the name, the archive or the upload.
    Request,
    /// The archive passes a limit.
    TooLarge,
    /// This machine's.
    Machine,
}

impl ImportError {
    /// Whether there was no room for what was to be written.
    pub(super) fn is_of_space(&self) -> bool {
        let (Self::Spool(error)
        | Self::LayerRead { source: error, .. }
        | Self::Layer {
            source: UnpackError::Io { source: error, .. },
            ..
        }
        | Self::Content(ContentError { source: error, .. })) = self
        else {
            return matches!(
                self,
                Self::Limit(LimitError::Space { .. })
                    | Self::Layer {
                        source: UnpackError::Limit(LimitError::Space { .. }),
                        ..
                    }
            ) || matches!(self, Self::Store(error) if error.is_disk_full());
        };
        limits::is_of_space(error)
    }

    pub fn fault(&self) -> Fault {
        let of_io = |error: &io::Error| match LimitError::within(error) {
            Some(limit) => of_limit(limit),
            // The kernel's own errors have a number; damaged data has none.
            None if error.raw_os_error().is_some() => Fault::Machine,
            None => Fault::Request,
        };
        match self {
            Self::Limit(limit)
            | Self::Layer {
                source: UnpackError::Limit(limit),
                ..
            } => of_limit(limit),
            Self::Decompress(source)
            | Self::LayerRead { source, .. }
            | Self::Archive(ArchiveError::Read(source) | ArchiveError::Tar(TarError::Read(source)))
            | Self::Layer {
                source: UnpackError::Tar(TarError::Read(source)) | UnpackError::Io { source, .. },
                ..
            } => of_io(source),
            Self::Spool(_) | Self::Content(_) | Self::Store(_) | Self::Panicked(_) => Fault::Machine,
            Self::Name { .. }
            | Self::NameWithDigest { .. }
            | Self::NameIsId { .. }
            | Self::RootFilesystemUnnamed
            | Self::Unnamed { .. }
            | Self::SeveralImages { .. }
            | Self::Upload(_)
            | Self::LayerDigest { .. }
            | Self::Archive(_)
            | Self::Layer {
                source: UnpackError::Tar(_) | UnpackError::Refused { .. },
                ..
            } => Fault::Request,
        }
    }
}

fn of_limit(limit: &LimitError) -> Fault {
    match limit {
        LimitError::Upload { .. }
        | LimitError::Unpacked { .. }
        | LimitError::Entries { .. }
        | LimitError::Bomb { .. }
        | LimitError::Window { .. }
        | LimitError::DirectoryPaths => Fault::TooLarge,
        LimitError::Space { .. } => Fault::Machine,
    }
}

type Result<T, E = ImportError> = std::result::Result<T, E>;

/// An image whose files are in place, and that is not yet recorded.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) id: Digest,
    pub(super) manifest: Digest,
    pub(super) config: String,
    pub(super) layers: Vec<Digest>,
    pub(super) size: u64,
    /// Normalised; at least one.
    pub(super) names: Vec<String>,
    /// Keep the layers from being removed until the image is recorded.
    pub(super) pins: Vec<Pin>,
}

/// A piece of an upload. An upload that ends without `End` was not completed.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Failed(io::Error),
    End,
}

/// An upload, as a reader on a thread that may block.
#[derive(Debug)]
pub(super) struct Upload {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
    left: u64,
    limit: u64,
}

/// Told apart from errors of decompression by its type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UploadFailed(io::Error);

impl Upload {
    pub(super) fn new(pieces: mpsc::Receiver<Piece>, limit: u64) -> Self {
        Self {
            pieces,
            current: Bytes::new(),
            ended: false,
            left: limit,
            limit,
        }
    }
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => {
                    let size = data.len() as u64;
                    self.left = self
                        .left
                        .checked_sub(size)
                        .ok_or(LimitError::Upload { limit: self.limit })?;
                    self.current = data;
                }
                Some(Piece::Failed(error)) => return Err(io::Error::other(UploadFailed(error))),
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::other(UploadFailed(io::ErrorKind::ConnectionAborted.into()))),
            }
        }
        let got = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..got]);
        Ok(got)
    }
}

/// The name a caller gives an image.
pub(super) fn given_name(name: &str) -> Result<Reference> {
    if Digest::parse(name).is_some() {
        return Err(ImportError::NameIsId { name: name.to_owned() });
    }
    let reference = Reference::parse(name).map_err(|source| ImportError::Name {
        name: name.to_owned(),
        source,
    })?;
    if reference.digest().is_some() {
        return Err(ImportError::NameWithDigest { name: name.to_owned() });
    }
    Ok(reference)
}

/// Spool, look through, unpack, keep.
pub(super) fn prepare(
    content: &Arc<Content>,
    limits: &Limits,
    upload: Upload,
    name: Option<&Reference>,
) -> Result<Vec<Prepared>> {
    let scratch = content.scratch()?;
    let (file, size) = spool(&scratch, limits, upload)?;
    let (kind, found) = archive::read(&file, size, limits)?;
    let count = found.len();
    if name.is_some() && count > 1 {
        return Err(ImportError::SeveralImages { count });
    }
    // Names first: nothing is unpacked for an image that cannot be named.
    let named = found
        .into_iter()
        .map(|image| Ok((names_of(&image, kind, name)?, image)))
        .collect::<Result<Vec<_>>>()?;
    named
        .into_iter()
        .enumerate()
        .map(|(index, (names, image))| keep(content, &scratch, index, limits, image, names))
        .collect()
}

fn spool(scratch: &Scratch, limits: &Limits, upload: Upload) -> Result<(Arc<File>, u64)> {
    let mut file = scratch.file("archive")?;
    let space = SpaceWatch::new(limits.keep_free);
    let mut size = 0_u64;
    let of_reading = |error: io::Error| {
        if let Some(limit) = LimitError::within(&error) {
            return ImportError::Limit(limit.clone());
        }
        match error.downcast::<UploadFailed>() {
            Ok(UploadFailed(error)) => ImportError::Upload(error),
            Err(error) => ImportError::Decompress(error),
        }
    };
    let (_, reader) = decompressed(upload, limits).map_err(of_reading)?;
    let mut reader = io::BufReader::with_capacity(256 * 1024, reader);
    loop {
        let chunk = match reader.fill_buf() {
            Ok([]) => return Ok((Arc::new(file), size)),
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(of_reading(error)),
        };
        let got = chunk.len();
        size += got as u64;
        if size > limits.upload {
            return Err(LimitError::Upload { limit: limits.upload }.into());
        }
        let written = space
            .about_to_write(got as u64, file.as_fd())
            .and_then(|()| file.write_all(chunk));
        written.map_err(|error| {
            LimitError::within(&error)
                .cloned()
                .map_or(ImportError::Spool(error), Into::into)
        })?;
        reader.consume(got);
    }
}

fn names_of(image: &Found, kind: ArchiveKind, given: Option<&Reference>) -> Result<Vec<String>> {
    if let Some(given) = given {
        return Ok(vec![given.tagged()]);
    }
    let mut names = Vec::new();
    for name in &image.names {
        // The spec lets an archive give a tag alone. `latest` of what?
        if name == "latest" {
            continue;
        }
        let name = given_name(name)?.tagged();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match (names.is_empty(), kind) {
        (false, _) => Ok(names),
        (true, ArchiveKind::RootFilesystem) => Err(ImportError::RootFilesystemUnnamed),
        (true, ArchiveKind::Images) => Err(ImportError::Unnamed {
            id: Digest::of(&image.config_json).to_string(),
        }),
    }
}

/// Unpack those layers of an image that are not there yet, verify all of them, and give everything its place.
fn keep(
    content: &Arc<Content>,
    scratch: &Scratch,
    index: usize,
    limits: &Limits,
    image: Found,
    names: Vec<String>,
) -> Result<Prepared> {
    let Found {
        manifest,
        config_json,
        config,
        layers,
        names: _,
    } = image;
    if !matches!(config.architecture.as_str(), "" | "amd64" | "386") && config.architecture != architecture() {
        warn!(image = ?names, architecture = config.architecture, "the image is made for another architecture");
    }
    // In one order in every import: none waits for another that waits for it.
    let distinct: std::collections::BTreeSet<&Digest> = config.diff_ids.iter().collect();
    let pins: Vec<Pin> = distinct.iter().map(|layer| content.pin(layer)).collect();
    let locks: Vec<_> = pins.iter().map(Pin::lock).collect();

    let mut missing = HashSet::new();
    for layer in distinct {
        if !content.has_layer(layer)? {
            missing.insert(layer);
        }
    }
    let trash = scratch.directory(&format!("trash-{index}"))?;
    let budget = Budget::new(limits);
    let mut made = Vec::new();
    let mut described = Vec::new();
    for (position, layer) in layers.iter().enumerate() {
        let digests = if missing.remove(&layer.diff_id) {
            made.push(&layer.diff_id);
            let trash = scratch.directory(&format!("trash-{index}-{position}"))?;
            let root = scratch.directory(layer.diff_id.hex())?;
            let mut share = Share::of(&budget);
            let digests = digested(layer, |blob| {
                unpack_layer(&layer.name, blob, root, &trash, limits, &mut share)
            })?;
            share.keep();
            digests
        } else {
            digested(layer, |blob| {
                digest_layer(blob, limits, Result::ok).map_err(|source| of_layer(&layer.name, source))
            })?
        };
        described.push(verified(layer, digests)?);
    }
    drop(trash);
    if !made.is_empty() {
        scratch.sync()?;
        scratch.keep_layers(made.into_iter().map(|layer| (layer.hex(), layer)))?;
    }
    let mut size = 0_u64;
    for layer in config.diff_ids.iter().collect::<HashSet<_>>() {
        size = size.saturating_add(content.layer_size(layer)?);
    }
    let manifest = manifest.unwrap_or_else(|| manifest_of(&config_json, &described));
    let manifest = content.put_blob(scratch, &manifest)?;
    let id = content.put_blob(scratch, &config_json)?;
    drop(locks);
    let config_json = String::from_utf8(config_json).expect("it was parsed as JSON, so it is UTF-8");
    Ok(Prepared {
        id,
        manifest,
        config: config_json,
        layers: config.diff_ids,
        size,
        names,
        pins,
    })
}

fn of_layer(layer: &str, source: io::Error) -> ImportError {
    match LimitError::within(&source) {
        Some(limit) => ImportError::Limit(limit.clone()),
        None => ImportError::LayerRead {
            layer: layer.to_owned(),
            source,
        },
    }
}

/// What a layer turned out to be.
#[derive(Debug)]
struct LayerDigests {
    /// Of the layer as it is in the archive.
    blob: Digest,
    /// Of the uncompressed tar.
    diff_id: Digest,
}

/// Let `take` read a layer, and give the digest of its tar.
fn digested(layer: &FoundLayer, take: impl FnOnce(&mut (dyn Read + Send)) -> Result<Digest>) -> Result<LayerDigests> {
    let fail = |source| of_layer(&layer.name, source);
    let mut section = layer.section.clone();
    if section.compression().map_err(fail)? == Compression::None {
        // The blob is the tar: it is not hashed twice.
        let diff_id = take(&mut section)?;
        let blob = diff_id.clone();
        return Ok(LayerDigests { blob, diff_id });
    }
    let mut hashed = Hashed::new(section);
    let diff_id = take(&mut hashed)?;
    let blob = hashed.digest().map_err(fail)?;
    Ok(LayerDigests { blob, diff_id })
}

/// Unpack the blob of a layer, called `name`, into `root`. Gives the digest of its tar.
///
/// What the blob holds is read by a thread that may open nothing, and made by one that may make files here alone.
pub(super) fn unpack_layer(
    name: &str,
    blob: &mut (impl Read + Send + ?Sized),
    root: OwnedFd,
    trash: &(impl AsFd + Sync),
    limits: &Limits,
    share: &mut Share,
) -> Result<Digest> {
    std::thread::scope(|scope| {
        let unpacking = std::thread::Builder::new()
            .name("podd-unpack".to_owned())
            .spawn_scoped(scope, move || {
                confine::to_files_beneath(&[root.as_fd(), trash.as_fd()]).map_err(|source| of_layer(name, source))?;
                unpack_confined(name, blob, root, trash.as_fd(), limits, share)
            });
        let unpacking = unpacking.map_err(|source| of_layer(name, source))?;
        unpacking
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn unpack_confined(
    name: &str,
    blob: &mut (impl Read + Send + ?Sized),
    root: OwnedFd,
    trash: BorrowedFd<'_>,
    limits: &Limits,
    share: &mut Share,
) -> Result<Digest> {
    std::thread::scope(|scope| {
        let (ahead, thread) = read_ahead(scope, blob, limits).map_err(|source| of_layer(name, source))?;
        let mut members = Members::new(ahead);
        let unpacked = unpack(&mut members, root, trash, share);
        // What lies behind the end of the tar belongs to its digest. Only a layer that is refused is not read to its end.
        let mut rest = members.into_inner();
        let drained = unpacked.and_then(|()| {
            io::copy(&mut rest, &mut io::sink()).map_err(|error| UnpackError::Tar(TarError::Read(error)))
        });
        drop(rest);
        let diff_id = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (drained, diff_id) {
            (Ok(_), diff_id) => diff_id.map_err(|source| of_layer(name, source)),
            (Err(UnpackError::Limit(limit)), _) => Err(limit.into()),
            (Err(UnpackError::Tar(TarError::Read(source))), _) => Err(of_layer(name, source)),
            (
                Err(UnpackError::Io {
                    member: _,
                    action: _,
                    source,
                }),
                _,
            ) if LimitError::within(&source).is_some() => Err(of_layer(name, source)),
            (Err(source), _) => Err(ImportError::Layer {
                layer: name.to_owned(),
                source,
            }),
        }
    })
}

/// Compare a digest with what it should be.
pub(super) fn expect(layer: &str, expected: &Digest, found: &Digest) -> Result<()> {
    if expected != found {
        return Err(ImportError::LayerDigest {
            layer: layer.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        });
    }
    Ok(())
}

/// Compare what a layer is with what it should be. Gives what a manifest says of it.
fn verified(layer: &FoundLayer, digests: LayerDigests) -> Result<(Digest, u64, &'static str)> {
    let LayerDigests { blob, diff_id } = digests;
    if let Some(expected) = &layer.blob {
        expect(&layer.name, expected, &blob)?;
    }
    expect(&layer.name, &layer.diff_id, &diff_id)?;
    let compression = layer.section.compression();
    let suffix = match compression.map_err(|source| of_layer(&layer.name, source))? {
        Compression::None | Compression::Other(_) => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    Ok((blob, layer.section.size(), suffix))
}
