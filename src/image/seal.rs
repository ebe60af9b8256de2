//! Whether what is stored is still what was verified when it came.
//!
//! Goes in: recorded images. Comes out: what of them is missing or was changed, and a way to be rid of that.
//!
//! A layer has no digest that could be taken again: its tar is not kept. So each gets a seal, a digest over its whole tree,
//! as soon as its image is recorded. That is done beside whatever comes next: nobody waits for an image any longer than
//! it takes to bring it.
//!
//! **Invariant:** the seal of a layer depends on the layer alone, not on when or where it was unpacked.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    Advice, AtFlags, FileType, Mode, OFlags, Stat, fadvise, fstat, major, minor, openat, readlinkat, statat,
};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::content::ContentError;
use super::pack::{sorted_names, xattrs};
use super::stream::Digest;
use super::{ImageStore, RemoveError, ResolveError, blocking};
use crate::model::ImageId;
use crate::store::{ImageRow, StoreError};

/// How deep a layer's directories may be nested: each level costs a descriptor.
const DEPTH_MAX: usize = 300;

/// What is wrong with a stored image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    LayerMissing {
        layer: String,
    },
    LayerChanged {
        layer: String,
    },
    LayerUnreadable {
        layer: String,
        error: String,
    },
    /// The manifest or the config, as it is kept on the disk.
    DocumentMissing {
        digest: String,
    },
    DocumentChanged {
        digest: String,
    },
    /// The config as it is recorded.
    RecordChanged,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LayerMissing { layer } => write!(f, "layer {layer} is missing"),
            Self::LayerChanged { layer } => write!(f, "layer {layer} is not what it was when it came"),
            Self::LayerUnreadable { layer, error } => write!(f, "layer {layer} cannot be read: {error}"),
            Self::DocumentMissing { digest } => write!(f, "document {digest} is missing"),
            Self::DocumentChanged { digest } => write!(f, "document {digest} has another digest"),
            Self::RecordChanged => write!(f, "its recorded config has another digest"),
        }
    }
}

impl Damage {
    /// A layer that is there and not to be used.
    fn spoiled_layer(&self) -> Option<&String> {
        match self {
            Self::LayerChanged { layer } | Self::LayerUnreadable { layer, .. } => Some(layer),
            Self::LayerMissing { .. }
            | Self::DocumentMissing { .. }
            | Self::DocumentChanged { .. }
            | Self::RecordChanged => None,
        }
    }
}

/// An image that was looked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub image: ImageRow,
    /// Nothing: it is whole.
    pub damage: Vec<Damage>,
}

/// Images could not be looked through.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("image {name:?} is not there")]
    NotFound { name: String },
    #[error("cannot read the recorded images")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl ImageStore {
    /// Seal the layers that have no seal yet, in the background.
    pub(super) fn seal_later(&self) {
        let images = self.clone();
        tokio::spawn(async move {
            if let Err(error) = images.seal().await {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "layers are not sealed before the next image comes"
                );
            }
        });
    }

    async fn seal(&self) -> Result<(), VerifyError> {
        // One after the other: what the first has sealed the second finds done.
        let _sealing = self.inner.sealing.lock().await;
        let sealed = self.inner.store.layer_seals().await?;
        let rows = self.inner.store.images().await?;
        let layers: HashSet<&String> = rows.iter().flat_map(|row| &row.layers).collect();
        for layer in layers.into_iter().filter(|layer| !sealed.contains_key(*layer)) {
            if let Some(Ok(seal)) = self.seal_of(layer, false).await? {
                self.inner.store.seal_layer(layer, &seal.to_string()).await?;
            }
        }
        Ok(())
    }

    /// `None`: the layer is not there. `from_disk`: what memory holds of its files is dropped first.
    async fn seal_of(&self, layer: &str, from_disk: bool) -> Result<Option<io::Result<Digest>>, VerifyError> {
        let Some(layer) = Digest::parse(layer) else {
            return Ok(None);
        };
        let content = Arc::clone(&self.inner.content);
        blocking(move || {
            let _pin = content.pin(&layer);
            if !content.has_layer(&layer)? {
                return Ok(None);
            }
            let root = content.open_layer(&layer)?;
            Ok(Some(seal(&root, from_disk)))
        })
        .await
    }

    /// Read all that is stored of an image, or of every image, and compare it with what it was. A layer without a seal is
    /// given one.
    ///
    /// # Errors
    /// The image is not there, or the records cannot be read; damage is no error.
    pub async fn verify(&self, name: Option<&str>) -> Result<Vec<Verified>, VerifyError> {
        let rows = match name {
            Some(name) => {
                let row = self.find(name).await?;
                vec![row.ok_or_else(|| VerifyError::NotFound { name: name.to_owned() })?]
            }
            None => self.list().await?,
        };
        self.seal().await?;
        let seals = self.inner.store.layer_seals().await?;
        // A layer of several images is read once.
        let mut known: HashMap<String, Option<Damage>> = HashMap::new();
        let mut verified = Vec::new();
        for image in rows {
            let mut damage = Vec::new();
            for layer in &image.layers {
                if !known.contains_key(layer) {
                    let found = self.seal_of(layer, true).await?;
                    known.insert(layer.clone(), layer_damage(layer, seals.get(layer), found));
                }
                let found = known.get(layer).cloned().flatten();
                damage.extend(found.filter(|found| !damage.contains(found)));
            }
            if Digest::of(image.config.as_bytes()).to_string() != image.id {
                damage.push(Damage::RecordChanged);
            }
            for digest in [&image.id, &image.manifest_digest] {
                let Some(blob) = Digest::parse(digest) else { continue };
                let digest = digest.clone();
                match self.inner.content.read_blob(&blob)? {
                    None => damage.push(Damage::DocumentMissing { digest }),
                    Some(bytes) if Digest::of(&bytes) != blob => damage.push(Damage::DocumentChanged { digest }),
                    Some(_) => {}
                }
            }
            verified.push(Verified { image, damage });
        }
        Ok(verified)
    }

    /// Remove what is damaged of an image, so that it can be brought anew: what is whole need not be. Until then the image
    /// cannot be used.
    ///
    /// # Errors
    /// A pod uses it: its containers would lose their files. Or nothing can be removed.
    pub(super) async fn discard(&self, damage: &[Damage]) -> Result<(), RemoveError> {
        let layers: HashSet<&String> = damage.iter().filter_map(Damage::spoiled_layer).collect();
        let shares = |row: &ImageRow| row.layers.iter().any(|layer| layers.contains(layer));
        for row in self.inner.store.images().await?.into_iter().filter(shares) {
            self.settled(&ImageId(row.id)).await;
        }
        let _rows = self.inner.rows.lock().await;
        // What is sealed now may be what was damaged.
        let _sealing = self.inner.sealing.lock().await;
        let _nobody_asks = self.inner.asking.write().await;
        let in_use = self.in_use().await?;
        for row in self.inner.store.images().await?.into_iter().filter(shares) {
            let id = ImageId(row.id.clone());
            if self.is_starting(&id) || in_use.contains(&id) {
                let name = row.names.first().cloned().unwrap_or(row.id);
                return Err(RemoveError::InUse { name });
            }
        }
        let doomed: Vec<Digest> = layers.iter().filter_map(|layer| Digest::parse(layer)).collect();
        let content = Arc::clone(&self.inner.content);
        let busy = blocking(move || content.discard(&doomed)).await?;
        self.changed();
        if let Some(layer) = busy {
            let layer = layer.to_string();
            return Err(RemoveError::Busy { layer });
        }
        // What comes in their place is sealed anew.
        for layer in &layers {
            self.inner.store.unseal_layer(layer).await?;
        }
        Ok(())
    }
}

fn layer_damage(layer: &str, sealed: Option<&String>, found: Option<io::Result<Digest>>) -> Option<Damage> {
    let layer = layer.to_owned();
    match found {
        None => Some(Damage::LayerMissing { layer }),
        Some(Err(error)) => Some(Damage::LayerUnreadable {
            layer,
            error: error.to_string(),
        }),
        Some(Ok(found)) => (sealed != Some(&found.to_string())).then_some(Damage::LayerChanged { layer }),
    }
}

/// A digest of everything in a directory that a container could see: names, kinds, modes, owners, contents, links,
/// devices and extended attributes, and when files were changed.
pub(super) fn seal(root: &OwnedFd, from_disk: bool) -> io::Result<Digest> {
    let mut sealer = Sealer {
        hash: Sha256::new(),
        contents: HashMap::new(),
        from_disk,
        buffer: vec![0; 256 * 1024],
    };
    let stat = fstat(root)?;
    sealer.entry(b"", &stat);
    sealer.attributes(root)?;
    sealer.children(root, 0)?;
    Ok(Digest::finish(sealer.hash))
}

struct Sealer {
    hash: Sha256,
    /// Of files with several names.
    contents: HashMap<u64, [u8; 32]>,
    from_disk: bool,
    buffer: Vec<u8>,
}

impl Sealer {
    /// With its length before it: nothing can be moved from one field into the next.
    fn field(&mut self, bytes: &[u8]) {
        self.hash.update((bytes.len() as u64).to_le_bytes());
        self.hash.update(bytes);
    }

    fn entry(&mut self, name: &[u8], stat: &Stat) {
        self.field(name);
        for number in [stat.st_mode, stat.st_uid, stat.st_gid] {
            self.hash.update(number.to_le_bytes());
        }
    }

    fn attributes(&mut self, file: &OwnedFd) -> io::Result<()> {
        for (name, value) in xattrs(file.as_fd())? {
            self.field(&name);
            self.field(&value);
        }
        // The end of the list.
        self.field(b"");
        Ok(())
    }

    fn children(&mut self, directory: &OwnedFd, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other("its directories are nested too deep"));
        }
        for name in sorted_names(directory.as_fd())? {
            let stat = statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            self.entry(name.to_bytes(), &stat);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let child = openat(directory, &name, flags, Mode::empty())?;
                    self.attributes(&child)?;
                    self.children(&child, depth + 1)?;
                }
                FileType::RegularFile => self.file(directory, &name, &stat)?,
                FileType::Symlink => {
                    let target = readlinkat(directory, &name, Vec::new())?.into_bytes();
                    self.field(&target);
                }
                FileType::CharacterDevice | FileType::BlockDevice => {
                    self.hash.update(major(stat.st_rdev).to_le_bytes());
                    self.hash.update(minor(stat.st_rdev).to_le_bytes());
                }
                FileType::Fifo | FileType::Socket | FileType::Unknown => {}
            }
        }
        // The end of the directory.
        self.field(b"");
        Ok(())
    }

    fn file(&mut self, directory: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<()> {
        self.hash.update(stat.st_mtime.to_le_bytes());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
        let file = openat(directory, name, flags, Mode::empty())?;
        self.attributes(&file)?;
        if let Some(content) = self.contents.get(&stat.st_ino) {
            self.hash.update(*content);
            return Ok(());
        }
        if self.from_disk {
            // A hint: what memory holds may be better than what the disk does.
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
        let mut file = File::from(file);
        let mut content = Sha256::new();
        loop {
            match file.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(got) => content.update(&self.buffer[..got]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let content: [u8; 32] = content.finalize().into();
        if stat.st_nlink > 1 {
            self.contents.insert(stat.st_ino, content);
        }
        self.hash.update(content);
        Ok(())
    }
}
