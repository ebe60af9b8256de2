//! From the store to the world: an image as blobs that any registry, or any reader of OCI archives, takes.
//!
//! Goes in: a recorded image. Comes out: [`Packed`]: its layers packed anew, a config and a manifest that name them, and
//! from these an OCI archive.
//!
//! Layers' own blobs are not kept: they would cost every image half its size again on the disk, for the rare one that is
//! given away. A layer is packed from its directory, in one fixed form: the same layer gives the same bytes, always and
//! everywhere. Where that is not the form in which it came, its digest is another one, and so is the image's id.
//!
//! **Invariant:** what is given away was read back from the very bytes whose digests it names.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::GzBuilder;
use flate2::write::GzEncoder;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, flistxattr_query, fstat, major, minor, openat,
    readlinkat, statat,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::content::{Content, ContentError, Scratch};
use super::documents::manifest_of;
use super::limits::SpaceWatch;
use super::stream::Digest;
use super::{ImageStore, ResolveError};
use crate::store::ImageRow;

/// How deep a layer's directories may be nested: each level costs a descriptor.
const DEPTH_MAX: usize = 300;
/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of the kernel.
const XATTR_MAX: usize = 64 * 1024;

/// An image could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("image {name:?} is not there")]
    NotFound { name: String },
    #[error("layer {layer} of image {name:?} is missing: `podd image repair` brings it back")]
    Incomplete { name: String, layer: String },
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error("cannot pack layer {layer}")]
    Layer {
        layer: String,
        #[source]
        source: io::Error,
    },
    #[error("the config of image {id} cannot be read")]
    Config {
        id: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the packing was broken off by a fault of podd's own")]
    Panicked(#[source] tokio::task::JoinError),
}

/// A blob that was packed.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) file: File,
}

/// An image, ready to be given away.
#[derive(Debug)]
pub struct Packed {
    /// One of its names, if it has any.
    name: Option<String>,
    /// Lowest first.
    layers: Vec<Blob>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    /// Holds the blobs.
    scratch: Scratch,
}

/// The layers of a [`Packed`], and what holds them.
#[derive(Debug)]
pub(super) struct Blobs {
    /// Lowest first.
    pub(super) blobs: Vec<Blob>,
    _scratch: Scratch,
}

impl ImageStore {
    /// Pack an image: by a name, which it will have, or by its id.
    ///
    /// # Errors
    /// It is not there or not whole, or the disk is full.
    pub async fn pack(&self, name: &str) -> Result<Packed, PackError> {
        let (row, pins) = {
            let _rows = self.inner.rows.lock().await;
            let row = self.find(name).await?;
            let row = row.ok_or_else(|| PackError::NotFound { name: name.to_owned() })?;
            let layers = row.layers.iter().filter_map(|layer| Digest::parse(layer));
            let pins: Vec<_> = layers.map(|layer| self.inner.content.pin(&layer)).collect();
            (row, pins)
        };
        // A digest would be a lie: it is the one of another manifest.
        let own = self.name_of(&row, name).filter(|name| !name.contains('@'));
        let own = own.or_else(|| row.tags().next().map(str::to_owned));
        let content = Arc::clone(&self.inner.content);
        let name = name.to_owned();
        let keep_free = self.inner.limits.keep_free;
        let work = move || {
            let packed = pack(&content, &name, own, &row, keep_free);
            drop(pins);
            packed
        };
        tokio::task::spawn_blocking(work).await.map_err(PackError::Panicked)?
    }
}

fn pack(
    content: &Arc<Content>,
    asked: &str,
    name: Option<String>,
    row: &ImageRow,
    keep_free: u64,
) -> Result<Packed, PackError> {
    let scratch = content.scratch()?;
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for (index, layer) in row.layers.iter().enumerate() {
        let failed = |source| PackError::Layer {
            layer: layer.clone(),
            source,
        };
        let known = Digest::parse(layer).filter(|layer| content.has_layer(layer).unwrap_or(false));
        let known = known.ok_or_else(|| PackError::Incomplete {
            name: asked.to_owned(),
            layer: layer.clone(),
        })?;
        let root = content.open_layer(&known)?;
        let file = Watched {
            file: scratch.file(&format!("layer-{index}"))?,
            space: SpaceWatch::new(keep_free),
        };
        let (blob, diff_id) = pack_layer(file, &root).map_err(failed)?;
        layers.push(blob);
        diff_ids.push(diff_id.to_string());
    }
    let config = if diff_ids == row.layers {
        row.config.clone().into_bytes()
    } else {
        let mut config: Value = serde_json::from_str(&row.config).map_err(|source| PackError::Config {
            id: row.id.clone(),
            source,
        })?;
        config["rootfs"]["diff_ids"] = json!(diff_ids);
        config.to_string().into_bytes()
    };
    let described: Vec<_> = layers
        .iter()
        .map(|blob| (blob.digest.clone(), blob.size, "+gzip"))
        .collect();
    Ok(Packed {
        name,
        layers,
        manifest: manifest_of(&config, &described),
        config,
        scratch,
    })
}

impl Packed {
    /// `sha256:<hex>` of its manifest.
    pub fn digest(&self) -> String {
        Digest::of(&self.manifest).to_string()
    }

    /// Layers, config and manifest.
    pub(super) fn into_parts(self) -> (Blobs, Vec<u8>, Vec<u8>) {
        let Self {
            name: _,
            layers,
            config,
            manifest,
            scratch,
        } = self;
        let blobs = Blobs {
            blobs: layers,
            _scratch: scratch,
        };
        (blobs, config, manifest)
    }

    /// Write it as an OCI archive (image-layout.md, in a tar), as skopeo, podman, containerd and podd itself read it.
    ///
    /// # Errors
    /// Of the writer, or of reading a blob.
    pub fn write_archive(mut self, to: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(to);
        let mut put = |name: &str, size: u64, data: &mut dyn Read| {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o644);
            header.set_size(size);
            tar.append_data(&mut header, name, data)
        };
        let mut descriptor = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": self.digest(),
            "size": self.manifest.len(),
        });
        if let Some(name) = &self.name {
            // podman and skopeo read the one, containerd the other.
            descriptor["annotations"] =
                json!({"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name});
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [descriptor],
        });
        for (name, text) in [
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string()),
            ("index.json", index.to_string()),
        ] {
            put(name, text.len() as u64, &mut text.as_bytes())?;
        }
        for bytes in [&self.manifest, &self.config] {
            let name = format!("blobs/sha256/{}", Digest::of(bytes).hex());
            put(&name, bytes.len() as u64, &mut &bytes[..])?;
        }
        let mut written: Vec<Digest> = Vec::new();
        for blob in &mut self.layers {
            if written.contains(&blob.digest) {
                continue;
            }
            blob.file.rewind()?;
            put(
                &format!("blobs/sha256/{}", blob.digest.hex()),
                blob.size,
                &mut blob.file,
            )?;
            written.push(blob.digest.clone());
        }
        tar.finish()
    }
}

/// A file that takes no more once the disk is nearly full: the records of pods need their room.
struct Watched {
    file: File,
    space: SpaceWatch,
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.space.about_to_write(bytes.len() as u64, self.file.as_fd())?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A writer that counts and hashes what goes through it.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Hashed<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            size: 0,
        }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

type Packer = tar::Builder<Hashed<GzEncoder<Hashed<io::BufWriter<Watched>>>>>;

/// Pack one layer; gives the blob and the digest of what is in it.
fn pack_layer(file: Watched, root: &OwnedFd) -> io::Result<(Blob, Digest)> {
    let file = Hashed::new(io::BufWriter::with_capacity(256 * 1024, file));
    // Nothing of today is in the header: the same layer gives the same blob.
    let compressed = GzBuilder::new().mtime(0).write(file, flate2::Compression::fast());
    let mut walk = Walk {
        tar: tar::Builder::new(Hashed::new(compressed)),
        links: HashMap::new(),
    };
    let stat = fstat(root)?;
    // A layer that says nothing of the root says nothing of it here either.
    if (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) != (0o755, 0, 0) || is_opaque(root) {
        walk.directory(root, &stat, Path::new("./"))?;
    }
    walk.children(root, Path::new(""), 0)?;
    let Hashed {
        inner: compressed,
        hash,
        size: _,
    } = walk.tar.into_inner()?;
    let diff_id = Digest::finish(hash);
    let Hashed { inner, hash, size } = compressed.finish()?;
    let Watched { file, space: _ } = inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    let blob = Blob {
        digest: Digest::finish(hash),
        size,
        file,
    };
    Ok((blob, diff_id))
}

struct Walk {
    tar: Packer,
    /// The first name of each file that has several.
    links: HashMap<u64, PathBuf>,
}

impl Walk {
    /// All that is in a directory, by name: in one order whatever the file system says.
    fn children(&mut self, directory: &OwnedFd, path: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other("its directories are nested too deep"));
        }
        for name in sorted_names(directory.as_fd())? {
            let stat = statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let child = openat(directory, &name, flags, Mode::empty())?;
                    self.directory(&child, &stat, &path)?;
                    self.children(&child, &path, depth + 1)?;
                }
                FileType::RegularFile => self.file(directory, &name, &stat, &path)?,
                FileType::Symlink => {
                    let target = readlinkat(directory, &name, Vec::new())?.into_bytes();
                    let mut header = header(&stat, EntryType::Symlink);
                    // To the letter: `append_link` would tidy up what fits into the header.
                    if header.set_link_name_literal(&target).is_ok() {
                        self.tar.append_data(&mut header, &path, io::empty())?;
                    } else {
                        let target = Path::new(OsStr::from_bytes(&target));
                        self.tar.append_link(&mut header, &path, target)?;
                    }
                }
                FileType::CharacterDevice if is_whiteout(&stat) => {
                    let mut hidden = OsStr::new(".wh.").to_owned();
                    hidden.push(OsStr::from_bytes(name.to_bytes()));
                    self.mark(&path.with_file_name(hidden))?;
                }
                FileType::CharacterDevice => self.node(&stat, EntryType::Char, &path)?,
                FileType::BlockDevice => self.node(&stat, EntryType::Block, &path)?,
                FileType::Fifo => self.node(&stat, EntryType::Fifo, &path)?,
                // No layer brings one.
                FileType::Socket | FileType::Unknown => {}
            }
        }
        Ok(())
    }

    fn directory(&mut self, directory: &OwnedFd, stat: &Stat, path: &Path) -> io::Result<()> {
        self.extended(directory.as_fd())?;
        let mut header = header(stat, EntryType::Directory);
        self.tar.append_data(&mut header, path, io::empty())?;
        if is_opaque(directory) {
            self.mark(&path.join(".wh..wh..opq"))?;
        }
        Ok(())
    }

    fn file(&mut self, directory: &OwnedFd, name: &CStr, stat: &Stat, path: &Path) -> io::Result<()> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&stat.st_ino) {
                let mut header = header(stat, EntryType::Link);
                return self.tar.append_link(&mut header, path, first);
            }
            self.links.insert(stat.st_ino, path.to_owned());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
        let file = openat(directory, name, flags, Mode::empty())?;
        self.extended(file.as_fd())?;
        let mut header = header(stat, EntryType::Regular);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        header.set_size(size);
        // Exactly as much as the header says, whatever the disk does.
        let data = File::from(file).take(size);
        let mut counted = CountedRead { inner: data, count: 0 };
        self.tar.append_data(&mut header, path, &mut counted)?;
        if counted.count == size {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn node(&mut self, stat: &Stat, kind: EntryType, path: &Path) -> io::Result<()> {
        let mut header = header(stat, kind);
        if kind != EntryType::Fifo {
            header.set_device_major(major(stat.st_rdev))?;
            header.set_device_minor(minor(stat.st_rdev))?;
        }
        self.tar.append_data(&mut header, path, io::empty())
    }

    /// An empty file that says something by its name.
    fn mark(&mut self, path: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(0);
        self.tar.append_data(&mut header, path, io::empty())
    }

    /// Extended attributes stand before their member.
    fn extended(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        let attributes = xattrs(file)?;
        let records: Vec<(String, Vec<u8>)> = attributes
            .into_iter()
            .filter(|(name, _)| !name.starts_with(b"trusted.overlay."))
            .filter_map(|(name, value)| Some((format!("SCHILY.xattr.{}", std::str::from_utf8(&name).ok()?), value)))
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        self.tar
            .append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), &value[..])))
    }
}

struct CountedRead<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for CountedRead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.count += got as u64;
        Ok(got)
    }
}

/// Whole seconds: what most archives have.
fn header(stat: &Stat, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_size(0);
    // A time before 1970 has no place in this form.
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && major(stat.st_rdev) == 0
        && minor(stat.st_rdev) == 0
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0; 1];
    fgetxattr(directory, "trusted.overlay.opaque", &mut value).is_ok() && value == *b"y"
}

/// What is in a directory, in the order of its bytes.
pub(super) fn sorted_names(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Names and values, by name.
pub(super) fn xattrs(file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let size = match flistxattr_query(file) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(size) => size,
        Err(error) => return Err(error.into()),
    };
    let mut list = vec![0; size.max(XATTR_MAX)];
    let size = flistxattr(file, &mut list[..])?;
    let mut found = Vec::new();
    for name in list[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; XATTR_MAX];
        let size = fgetxattr(file, name, &mut value[..])?;
        value.truncate(size);
        found.push((name.to_vec(), value));
    }
    found.sort();
    Ok(found)
}
