//! Where images live: `blobs/sha256/<hex>` (manifests and configs), `layers/<hex>` (one unpacked directory for each diff
//! id), and `tmp/`, where both are made (`shelves/` says in which part of the file system: see [`Shelves`]).
//!
//! Goes in: bytes, and directories that were filled in a [`Scratch`]. Comes out: the same under their digests.
//!
//! Layers' own blobs are not kept: a container needs the directory alone, and a registry or archive has the rest. An
//! export makes a layer anew from its directory (see `pack`).
//!
//! **Invariant:** what stands under `layers/` is whole, also after a loss of power: it is synced before it is renamed
//! there. What stands there and is known to no image row and pinned by no import is removed. The directory is 0700: no
//! user of the machine reaches the set-id files within.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, fchmod, fsync, mkdirat, openat, renameat, statat, syncfs, unlinkat,
};
use rustix::io::Errno;
use tracing::warn;

use super::shelves::Shelves;
use super::stream::Digest;

/// How deep a layer's directories may be nested: each level costs a descriptor while its size is taken.
const DEPTH_MAX: usize = 300;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The content store could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct ContentError {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

type Result<T, E = ContentError> = std::result::Result<T, E>;

#[derive(Debug)]
pub(super) struct Content {
    root: PathBuf,
    blobs: OwnedFd,
    layers: OwnedFd,
    tmp: OwnedFd,
    shelves: Option<Shelves>,
    /// Layers that running imports need, each with the lock that lets one of them make it.
    pinned: Mutex<HashMap<Digest, Arc<Mutex<()>>>>,
}

/// A layer that an import needs: it is not removed while this lives.
#[derive(Debug)]
pub(super) struct Pin {
    content: Arc<Content>,
    layer: Digest,
    lock: Option<Arc<Mutex<()>>>,
}

impl Pin {
    /// One import at a time makes this layer: hold this while looking whether it is there, and while making it.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        // Nothing is behind the lock that a panic could have left half done.
        self.lock
            .as_ref()
            .expect("taken only on drop")
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pinned = self.content.pinned();
        drop(self.lock.take());
        if pinned.get(&self.layer).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            pinned.remove(&self.layer);
        }
    }
}

/// A directory of one import beneath `tmp/`, removed with all that is in it when this is dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    content: Arc<Content>,
    name: String,
    directory: OwnedFd,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.content.remove_tmp(&self.name);
    }
}

impl Content {
    /// Open or make the store in `root` (ROOT/images), and remove what unfinished imports left.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let fail = |action, path: &Path, source: Errno| ContentError {
            action,
            path: path.to_owned(),
            source: source.into(),
        };
        let directory = |parent: BorrowedFd<'_>, name: &Path, path: &Path| -> Result<OwnedFd> {
            match mkdirat(parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(fail("make", path, error)),
            }
            let fd = openat(parent, name, DIRECTORY, Mode::empty()).map_err(|error| fail("open", path, error))?;
            fchmod(&fd, Mode::RWXU).map_err(|error| fail("set the mode of", path, error))?;
            Ok(fd)
        };
        let top = directory(CWD, root, root)?;
        let within = |name: &str| directory(top.as_fd(), Path::new(name), &root.join(name));
        let all_blobs = within("blobs")?;
        let blobs = directory(all_blobs.as_fd(), Path::new("sha256"), &root.join("blobs/sha256"))?;
        let (layers, tmp) = (within("layers")?, within("tmp")?);
        let shelves = Shelves::open(within("shelves")?).map_err(|error| fail("make", &root.join("shelves"), error))?;
        for (fd, path) in [(&top, root), (&all_blobs, root)] {
            fsync(fd).map_err(|error| fail("sync", path, error))?;
        }
        let content = Self {
            root: root.to_owned(),
            blobs,
            layers,
            tmp,
            shelves,
            pinned: Mutex::new(HashMap::new()),
        };
        for name in names_in(content.tmp.as_fd()).map_err(|error| fail("read", &root.join("tmp"), error))? {
            remove_tree(content.tmp.as_fd(), &name).map_err(|source| ContentError {
                action: "remove",
                path: root.join("tmp").join(name.to_string_lossy().as_ref()),
                source,
            })?;
        }
        Ok(content)
    }

    /// The directory of the store.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn layer_path(&self, layer: &Digest) -> PathBuf {
        self.root.join("layers").join(layer.hex())
    }

    pub(super) fn has_layer(&self, layer: &Digest) -> Result<bool> {
        match statat(&self.layers, layer.hex(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.layer_error("look at", layer, error)),
        }
    }

    /// The directory of a layer.
    pub(super) fn open_layer(&self, layer: &Digest) -> Result<OwnedFd> {
        openat(&self.layers, layer.hex(), DIRECTORY, Mode::empty())
            .map_err(|error| self.layer_error("open", layer, error))
    }

    fn layer_error(&self, action: &'static str, layer: &Digest, error: Errno) -> ContentError {
        ContentError {
            action,
            path: self.layer_path(layer),
            source: error.into(),
        }
    }

    fn pinned(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Mutex<()>>>> {
        // Every change of the map is one call: a panic leaves it whole.
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keep a layer, there or not yet there, from being removed.
    pub(super) fn pin(self: &Arc<Self>, layer: &Digest) -> Pin {
        let lock = Arc::clone(self.pinned().entry(layer.clone()).or_default());
        Pin {
            content: Arc::clone(self),
            layer: layer.clone(),
            lock: Some(lock),
        }
    }

    /// A new empty directory beneath `tmp/`.
    pub(super) fn scratch(self: &Arc<Self>) -> Result<Scratch> {
        let name = uuid::Uuid::new_v4().to_string();
        let fail = |source: Errno| ContentError {
            action: "make",
            path: self.root.join("tmp").join(&name),
            source: source.into(),
        };
        match &self.shelves {
            Some(shelves) => shelves.make(self.tmp.as_fd(), &name),
            None => mkdirat(&self.tmp, &name, Mode::RWXU),
        }
        .map_err(fail)?;
        let directory = openat(&self.tmp, &name, DIRECTORY, Mode::empty()).map_err(fail)?;
        Ok(Scratch {
            content: Arc::clone(self),
            name,
            directory,
        })
    }

    /// Bytes of the files of a layer; those with several names count once.
    pub(super) fn layer_size(&self, layer: &Digest) -> Result<u64> {
        let fail = |source: io::Error| ContentError {
            action: "take the size of",
            path: self.layer_path(layer),
            source,
        };
        tree_size(self.layers.as_fd(), layer.hex()).map_err(fail)
    }

    /// A kept manifest or config.
    pub(super) fn put_blob(self: &Arc<Self>, scratch: &Scratch, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let path = || self.root.join("blobs/sha256").join(digest.hex());
        let fail = |source: Errno| ContentError {
            action: "write",
            path: path(),
            source: source.into(),
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&scratch.directory, digest.hex(), flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
        let mut file = File::from(file);
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(|source| ContentError {
                action: "write",
                path: path(),
                source,
            })?;
        renameat(&scratch.directory, digest.hex(), &self.blobs, digest.hex()).map_err(fail)?;
        fsync(&self.blobs).map_err(fail)?;
        Ok(digest)
    }

    /// A kept manifest or config, as it is on the disk; `None`: it is not there.
    pub(super) fn read_blob(&self, blob: &Digest) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let read = match openat(&self.blobs, blob.hex(), flags, Mode::empty()) {
            Ok(file) => {
                let mut bytes = Vec::new();
                // As long as none that was kept: what grew is damaged anyway.
                let limit = super::limits::DOCUMENT_MAX;
                File::from(file).take(limit).read_to_end(&mut bytes).map(|_size| bytes)
            }
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => Err(error.into()),
        };
        read.map(Some).map_err(|source| ContentError {
            action: "read",
            path: self.root.join("blobs/sha256").join(blob.hex()),
            source,
        })
    }

    /// Remove these layers, although images have them. None of them, if somebody has pinned one: that one.
    pub(super) fn discard(self: &Arc<Self>, layers: &[Digest]) -> Result<Option<Digest>> {
        let doomed = self.scratch()?;
        let pinned = self.pinned();
        if let Some(layer) = layers.iter().find(|layer| pinned.contains_key(layer)) {
            return Ok(Some(layer.clone()));
        }
        for layer in layers {
            match renameat(&self.layers, layer.hex(), &doomed.directory, layer.hex()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(self.layer_error("remove", layer, error)),
            }
        }
        drop(pinned);
        fsync(&self.layers).map_err(|error| doomed.fail("sync", "../../layers", error))?;
        Ok(None)
    }

    /// Remove the layers and blobs that are not these (of image rows) and not pinned. The rows must have been read while
    /// none could be added: see `ImageStore`. The bytes of the layers.
    pub(super) fn retain(self: &Arc<Self>, layers: &HashSet<Digest>, blobs: &HashSet<Digest>) -> Result<u64> {
        let fail = |directory: &str, source: Errno| ContentError {
            action: "clear",
            path: self.root.join(directory),
            source: source.into(),
        };
        // Out of the way at once, so that no import finds a half removed layer; removing it takes its time. Nothing is
        // made for it: this is also how a full disk gets room.
        let mut doomed = Vec::new();
        {
            let pinned = self.pinned();
            for name in names_in(self.layers.as_fd()).map_err(|error| fail("layers", error))? {
                let digest = name.to_str().ok().and_then(Digest::from_hex);
                if digest.is_some_and(|digest| layers.contains(&digest) || pinned.contains_key(&digest)) {
                    continue;
                }
                let away = uuid::Uuid::new_v4().to_string();
                renameat(&self.layers, &name, &self.tmp, &away).map_err(|error| fail("layers", error))?;
                doomed.push(away);
            }
            // Blobs are small, and written anew by every import before its row: those of a running import are told by
            // its pins alone, so nothing is removed while there are any.
            if pinned.is_empty() {
                for name in names_in(self.blobs.as_fd()).map_err(|error| fail("blobs", error))? {
                    let digest = name.to_str().ok().and_then(Digest::from_hex);
                    if !digest.is_some_and(|digest| blobs.contains(&digest)) {
                        unlinkat(&self.blobs, &name, AtFlags::empty()).map_err(|error| fail("blobs", error))?;
                    }
                }
            }
        }
        let synced = fsync(&self.layers).map_err(|error| fail("layers", error));
        let mut freed = 0_u64;
        for name in doomed {
            // One that cannot be measured goes all the same.
            freed = freed.saturating_add(tree_size(self.tmp.as_fd(), &name).unwrap_or(0));
            self.remove_tmp(&name);
        }
        synced.map(|()| freed)
    }

    /// Remove what stands in `tmp/` under this name; what cannot be removed goes at the next start.
    fn remove_tmp(&self, name: &str) {
        if let Err(error) = remove_tree(self.tmp.as_fd(), name) {
            warn!(path = %self.root.join("tmp").join(name).display(), %error, "cannot remove");
        }
    }
}

impl Scratch {
    fn fail(&self, action: &'static str, name: &str, source: Errno) -> ContentError {
        let path = self.content.root.join("tmp").join(&self.name).join(name);
        ContentError {
            action,
            path,
            source: source.into(),
        }
    }

    #[cfg(test)]
    fn path(&self) -> PathBuf {
        self.content.root.join("tmp").join(&self.name)
    }

    /// A new file, for reading and writing.
    pub(super) fn file(&self, name: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR);
        file.map(File::from).map_err(|error| self.fail("make", name, error))
    }

    /// A new empty directory, 0755 as a layer's root is unless the layer says otherwise.
    pub(super) fn directory(&self, name: &str) -> Result<OwnedFd> {
        let made = mkdirat(&self.directory, name, Mode::RWXU)
            .and_then(|()| openat(&self.directory, name, DIRECTORY, Mode::empty()))
            .and_then(|fd| fchmod(&fd, Mode::from_raw_mode(0o755)).map(|()| fd));
        made.map_err(|error| self.fail("make", name, error))
    }

    /// As [`directory`](Self::directory); what stands there is removed.
    pub(super) fn fresh_directory(&self, name: &str) -> Result<OwnedFd> {
        remove_tree(self.directory.as_fd(), name).map_err(|source| ContentError {
            action: "remove",
            path: self.content.root.join("tmp").join(&self.name).join(name),
            source,
        })?;
        self.directory(name)
    }

    /// Make all that was written here durable.
    pub(super) fn sync(&self) -> Result<()> {
        syncfs(&self.directory).map_err(|error| self.fail("sync", "", error))
    }

    /// Give these (synced) directories, each with the layer that it is, their place.
    pub(super) fn keep_layers<'a>(&self, layers: impl Iterator<Item = (&'a str, &'a Digest)>) -> Result<()> {
        for (name, layer) in layers {
            renameat(&self.directory, name, &self.content.layers, layer.hex())
                .map_err(|error| self.content.layer_error("make", layer, error))?;
        }
        fsync(&self.content.layers).map_err(|error| self.fail("sync", "../../layers", error))
    }
}

fn names_in(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !is_dots(entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Remove a file, or a directory with all that is in it, following no link. However deep it is nested, this takes two
/// descriptors and no stack: what is found within is moved up first. Names beginning with `podd-doomed-` in `parent`
/// must be free.
fn remove_tree(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<()> {
    let name = name.into_c_str()?.into_owned();
    let mut doomed = vec![name];
    while let Some(name) = doomed.last().cloned() {
        let directory = match openat(parent, &name, DIRECTORY, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                unlinkat(parent, &name, AtFlags::empty())?;
                doomed.pop();
                continue;
            }
            Err(Errno::NOENT) => {
                doomed.pop();
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut nested = Vec::new();
        for child in names_in(directory.as_fd())? {
            match unlinkat(&directory, &child, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => match unlinkat(&directory, &child, AtFlags::REMOVEDIR) {
                    Ok(()) => {}
                    Err(Errno::NOTEMPTY) => {
                        let up = CString::new(format!("podd-doomed-{}", uuid::Uuid::new_v4()))?;
                        renameat(&directory, &child, parent, &up)?;
                        nested.push(up);
                    }
                    Err(error) => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            }
        }
        drop(directory);
        if nested.is_empty() {
            unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
            doomed.pop();
        } else {
            doomed.extend(nested);
        }
    }
    Ok(())
}

/// Bytes of all files beneath a directory.
fn tree_size(parent: BorrowedFd<'_>, name: &str) -> io::Result<u64> {
    let mut total = 0_u64;
    let mut several_names = HashSet::new();
    let open = |parent: BorrowedFd<'_>, name: &CStr| Dir::new(openat(parent, name, DIRECTORY, Mode::empty())?);
    let mut stack = vec![open(parent, &CString::new(name)?)?];
    while let Some(directory) = stack.last_mut() {
        let Some(entry) = directory.read() else {
            stack.pop();
            continue;
        };
        let entry = entry?;
        if is_dots(entry.file_name()) {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            let child = open(directory.fd()?, entry.file_name())?;
            if stack.len() >= DEPTH_MAX {
                return Err(io::Error::other(format!(
                    "its directories are nested more than {DEPTH_MAX} deep"
                )));
            }
            stack.push(child);
            continue;
        }
        let stat = statat(directory.fd()?, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && (stat.st_nlink == 1 || several_names.insert(stat.st_ino))
        {
            total = total.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> (tempfile::TempDir, Arc<Content>) {
        let directory = tempfile::tempdir().unwrap();
        let content = Arc::new(Content::open(&directory.path().join("images")).unwrap());
        (directory, content)
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_an_unfinished_import_left_is_removed_at_open() {
        let (directory, content) = content();
        let root = directory.path().join("images");
        let scratch = content.scratch().unwrap();
        scratch.file("upload").unwrap();
        scratch.directory("layer").unwrap();
        std::os::unix::fs::symlink("/", scratch.path().join("layer/link")).unwrap();
        std::mem::forget(scratch);
        std::fs::write(root.join("tmp/stray"), "x").unwrap();
        Content::open(&root).unwrap();
        assert!(names(&root.join("tmp")).is_empty());
    }

    #[test]
    fn a_scratch_however_deep_is_removed_when_dropped() {
        let (directory, content) = content();
        let scratch = content.scratch().unwrap();
        let mut at = scratch.directory("deep").unwrap();
        for _ in 0..600 {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            drop(openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
            at = openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        drop(at);
        assert!(
            matches!(tree_size(scratch.directory.as_fd(), "deep"), Err(error) if error.to_string().contains("nested"))
        );
        drop(scratch);
        assert!(names(&directory.path().join("images/tmp")).is_empty());
    }

    #[test]
    fn only_what_is_known_or_pinned_is_retained() {
        let (directory, content) = content();
        let root = directory.path().join("images");
        let [known, pinned, other] = [&b"a"[..], b"b", b"c"].map(Digest::of);
        let scratch = content.scratch().unwrap();
        for layer in [&known, &pinned, &other] {
            std::fs::write(scratch.path().join("f"), "12345").unwrap();
            scratch.directory(layer.hex()).unwrap();
            std::fs::rename(scratch.path().join("f"), scratch.path().join(layer.hex()).join("f")).unwrap();
        }
        scratch.sync().unwrap();
        scratch
            .keep_layers([&known, &pinned, &other].map(|layer| (layer.hex(), layer)).into_iter())
            .unwrap();
        let blob = content.put_blob(&scratch, b"config").unwrap();
        let other_blob = content.put_blob(&scratch, b"other").unwrap();
        assert_eq!(content.layer_size(&known).unwrap(), 5);

        let first = content.pin(&pinned);
        let second = content.pin(&pinned);
        drop(first);
        content.retain(&[known.clone()].into(), &[blob.clone()].into()).unwrap();
        assert!(content.has_layer(&known).unwrap());
        assert!(content.has_layer(&pinned).unwrap());
        assert!(!content.has_layer(&other).unwrap());
        assert!(
            root.join("blobs/sha256").join(other_blob.hex()).exists(),
            "an import runs: no blob is removed"
        );

        drop(second);
        content.retain(&[known.clone()].into(), &[blob.clone()].into()).unwrap();
        assert_eq!(names(&root.join("layers")), [known.hex()]);
        assert_eq!(names(&root.join("blobs/sha256")), [blob.hex()]);
        drop(scratch);
        assert!(names(&root.join("tmp")).is_empty());
    }

    #[test]
    fn nobody_else_gets_in() {
        use std::os::unix::fs::PermissionsExt;
        let (directory, _content) = content();
        let root = directory.path().join("images");
        for path in [
            root.clone(),
            root.join("layers"),
            root.join("tmp"),
            root.join("blobs/sha256"),
        ] {
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
                0o700,
                "{}",
                path.display()
            );
        }
    }
}
