//! What a pod mounts: made before its first container, removed with the pod.
//!
//! Goes in: the pod and where the pods' directories lie (`ROOT/pods`). Comes out: for each volume the path to mount,
//! and the pod's three files of `/etc`.
//!
//! ```text
//! ROOT/pods/<uid>/volumes/<name>/                      an emptyDir, mode 0777; with medium Memory a tmpfs on it;
//!                                                      or the layers of an image, merged by an overlay on it
//! ROOT/pods/<uid>/etc/{hosts,hostname,resolv.conf}
//! RUN_DIR/volumes/<uid>/<name>/                        configMap, secret, downwardAPI, projected: see `memory`, `atomic`
//! ```
//!
//! * A tmpfs is mounted on the host, so that it survives containers and infra. It does not survive the boot: then it
//!   is made again, empty, as with a kubelet.
//! * `sizeLimit` of a Memory emptyDir is kept by the kernel. One on the disk is measured from time to time, and its pod
//!   evicted (`eviction`).
//! * An image's layers are mounted on the host as well: an overlay without an upper directory, so nothing can be
//!   written. Its image is the same for the whole life of the pod.
//! * The files of `/etc` are put in place as new files, and only when their content differs: containers that run keep
//!   the ones they have mounted. The pod's address, the one thing in them that could matter to a running container,
//!   stays the same over sandboxes.
//! * Files that tell of other objects are written when they are missing ([`Volumes::prepare`]), and anew when those change
//!   ([`Volumes::refresh`]): who prepares may know an older state of the objects than the one that is shown.
//!
//! * A privileged container may mount things in an emptyDir that the machine sees (`Bidirectional`): a note of it is made
//!   before, in `ROOT/pods/<uid>/propagated/`, and with the pod such mounts are taken away.
//!
//! **Invariant:** everything is done already or is done now; nothing outside `ROOT/pods/<uid>` and `RUN_DIR/volumes` is ever
//! removed, and no mount but our own tmpfs and overlays, and what was noted, is taken away.

mod atomic;
pub mod etc;
#[cfg(test)]
mod files_tests;
mod host_path;
mod memory;
pub mod ownership;
mod payload;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::etc::EtcContext;
use self::memory::Memory;
pub use self::payload::{Lack, Lacks};
use crate::linux::mounts;
use crate::linux::ownership::OwnershipError;
use crate::linux::path::{self, Durability, PathError};
use crate::model::{Capacity, EmptyDirMedium, PodSpec, Projection, Propagation, Sources, Uid, Volume, VolumeSource};

/// The word by which our tmpfs mounts are known in the mount table.
const TMPFS_SOURCE: &str = "podd-empty-dir";

/// The mode of a volume with files (Kubernetes `emptydir.go`, which such volumes wrap): they are mounted for reading alone.
const FILES_MODE: u32 = 0o777;

/// The word by which our overlays are known in the mount table.
const IMAGE_SOURCE: &str = "podd-image-volume";

/// In a pod's directory: the names of the volumes in which containers may mount what the machine sees.
const PROPAGATED: &str = "propagated";

/// The volumes of every pod of one agent.
#[derive(Debug, Clone)]
pub struct Volumes {
    /// `ROOT/pods`
    pods: PathBuf,
    memory: Memory,
    /// What the machine has for pods.
    allocatable: Capacity,
    /// One writes the files of a pod at a time; pods share them by their uids.
    turns: Arc<[Mutex<()>; TURNS]>,
}

const TURNS: usize = 32;

/// What a pod's containers mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// By the volume's name.
    pub sources: BTreeMap<String, PathBuf>,
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
}

/// What went wrong, and where. The words are for the pod's owner.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Kubernetes' own words.
    #[error("hostPath type check failed: {} is not {expected}", path.display())]
    HostPathType { path: PathBuf, expected: &'static str },
    /// Kubernetes' own words; the cause follows after a colon.
    #[error("MountVolume.SetUp failed for volume {volume:?} ")]
    SetUp {
        volume: String,
        #[source]
        source: SetUpError,
    },
    #[error("cannot use hostPath {}", path.display())]
    HostPath {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It would lead out of the pods' directory.
    #[error("{name:?} is not a plain name")]
    Name { name: String },
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Ownership(#[from] OwnershipError),
    #[error("cannot make directory {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount a tmpfs on {}", path.display())]
    Mount {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount the layers of an image on {}", path.display())]
    MountImage {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot unmount {}", path.display())]
    Unmount {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Why the files of a volume could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error(transparent)]
    Lacks(#[from] Lacks),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Place(Box<VolumeError>),
}

impl Volumes {
    /// `pods` is `ROOT/pods`, `memory` is `RUN_DIR/volumes`; neither need exist yet. `allocatable` is what the machine has
    /// for pods: files tell it as the limit of a container that has none.
    pub fn new(pods: PathBuf, memory: PathBuf, allocatable: Capacity) -> Self {
        Self {
            pods,
            memory: Memory::new(memory),
            allocatable,
            turns: Arc::new(std::array::from_fn(|_| Mutex::default())),
        }
    }

    /// Make what the pod mounts. Done already: nothing happens.
    pub fn prepare(&self, pod: &PodSpec, context: &EtcContext, sources: &Sources) -> Result<Prepared, VolumeError> {
        let directory = self.pods.join(plain(pod.uid.as_str())?);
        let volumes = directory.join("volumes");
        let etc = directory.join("etc");
        for path in [&volumes, &etc] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|source| VolumeError::Directory {
                path: path.clone(),
                source,
            })?;
        }
        note_propagated(pod, &directory.join(PROPAGATED))?;
        let mut places = BTreeMap::new();
        for volume in &pod.volumes {
            let place = match &volume.source {
                VolumeSource::EmptyDir { medium, size_limit } => {
                    let path = volumes.join(plain(&volume.name)?);
                    path::make_directory(&path, 0o777)?;
                    match medium {
                        EmptyDirMedium::Disk => {}
                        EmptyDirMedium::Memory => mount_memory(&path, memory_size(pod, *size_limit))?,
                    }
                    path
                }
                VolumeSource::HostPath { path, kind } => {
                    host_path::check(path, *kind)?;
                    path.clone()
                }
                // Mounted when a container that wants it is started: only then its image must be there.
                VolumeSource::Image { .. } => continue,
                VolumeSource::Projected {
                    sources: projections,
                    default_mode,
                } => self.make_files(pod, &volume.name, projections, *default_mode, sources)?,
            };
            places.insert(volume.name.clone(), place);
        }
        let prepared = Prepared {
            sources: places,
            hosts: etc.join("hosts"),
            hostname: etc.join("hostname"),
            resolv_conf: etc.join("resolv.conf"),
        };
        put(&prepared.hosts, &etc::hosts(pod, context))?;
        put(&prepared.hostname, &etc::hostname(pod, context))?;
        put(&prepared.resolv_conf, &etc::resolv_conf(&pod.dns, context))?;
        Ok(prepared)
    }

    /// The tmpfs mounts in which volumes of the pod lie, once they are prepared.
    pub fn in_memory(&self, pod: &PodSpec) -> Vec<PathBuf> {
        let mut places: Vec<_> = pod
            .volumes
            .iter()
            .filter_map(|volume| match volume.source {
                VolumeSource::Projected { .. } => Some(self.memory.directory().to_owned()),
                VolumeSource::EmptyDir {
                    medium: EmptyDirMedium::Memory,
                    ..
                } => Some(self.pods.join(pod.uid.as_str()).join("volumes").join(&volume.name)),
                VolumeSource::EmptyDir {
                    medium: EmptyDirMedium::Disk,
                    ..
                }
                | VolumeSource::HostPath { .. }
                | VolumeSource::Image { .. } => None,
            })
            .collect();
        places.dedup();
        places
    }

    /// Whether any files were written for the pod.
    pub fn has_files(&self, uid: &Uid) -> bool {
        let directory = plain(uid.as_str()).map(|uid| self.memory.directory().join(uid));
        directory.is_ok_and(|directory| directory.is_dir())
    }

    /// Whether every volume of the pod that has files shows them.
    pub fn are_files_made(&self, pod: &PodSpec) -> bool {
        let Ok(uid) = plain(pod.uid.as_str()) else { return false };
        let directory = self.memory.directory().join(uid);
        let mut volumes = pod.volumes.iter();
        volumes.all(|volume| match volume.source {
            VolumeSource::Projected { .. } => atomic::is_made(&directory.join(&volume.name)),
            VolumeSource::EmptyDir { .. } | VolumeSource::HostPath { .. } | VolumeSource::Image { .. } => true,
        })
    }

    /// Write the files of the pod's volumes anew, each volume at once, as `sources` have them now. What is the same stays;
    /// a volume that was not made yet is left to [`Volumes::prepare`].
    ///
    /// # Errors
    /// The first volume's that could not be written: it shows what it has shown, the others are new.
    pub fn refresh(&self, pod: &PodSpec, sources: &Sources) -> Result<(), VolumeError> {
        let directory = self.memory.directory().join(plain(pod.uid.as_str())?);
        let mut failed = None;
        for volume in &pod.volumes {
            let VolumeSource::Projected {
                sources: projections,
                default_mode,
            } = &volume.source
            else {
                continue;
            };
            let directory = directory.join(plain(&volume.name)?);
            let _turn = self.turn(&pod.uid);
            if !atomic::is_made(&directory) {
                continue;
            }
            let write = || -> Result<(), SetUpError> {
                let files = payload::payload(
                    pod,
                    &volume.name,
                    projections,
                    *default_mode,
                    sources,
                    &self.allocatable,
                )?;
                Ok(atomic::write(&directory, &files, pod.security.fs_group)?)
            };
            if let Err(source) = write() {
                failed.get_or_insert(VolumeError::SetUp {
                    volume: volume.name.clone(),
                    source,
                });
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The directory of a volume with files, which are written unless they were once.
    fn make_files(
        &self,
        pod: &PodSpec,
        volume: &str,
        projections: &[Projection],
        default_mode: u32,
        sources: &Sources,
    ) -> Result<PathBuf, VolumeError> {
        let uid = plain(pod.uid.as_str())?;
        let directory = self.memory.directory().join(uid).join(plain(volume)?);
        if atomic::is_made(&directory) {
            return Ok(directory);
        }
        let _turn = self.turn(&pod.uid);
        let group = pod.security.fs_group;
        let make = || -> Result<(), SetUpError> {
            if atomic::is_made(&directory) {
                return Ok(());
            }
            let files = payload::payload(pod, volume, projections, default_mode, sources, &self.allocatable)?;
            self.memory
                .make(uid, volume, FILES_MODE)
                .map_err(|error| SetUpError::Place(Box::new(error)))?;
            atomic::give_directory(&directory, FILES_MODE, group)?;
            Ok(atomic::write(&directory, &files, group)?)
        };
        make().map_err(|source| VolumeError::SetUp {
            volume: volume.to_owned(),
            source,
        })?;
        Ok(directory)
    }

    fn turn(&self, uid: &Uid) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        uid.hash(&mut hasher);
        let turns = u64::try_from(TURNS).unwrap_or(1);
        let at = usize::try_from(hasher.finish() % turns).unwrap_or_default();
        // It guards no data: what a thread that panicked left is cleaned up by the next writer.
        self.turns[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Mount an image's unpacked layers (topmost first) as a volume of the pod, and give the path. Done already: nothing
    /// happens. `mapped_as`: the process in whose user namespace its files shall belong to whom they belong on the disk.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn mount_image(
        &self,
        uid: &Uid,
        volume: &str,
        layers: &[PathBuf],
        mapped_as: Option<i32>,
    ) -> Result<PathBuf, VolumeError> {
        let path = self
            .pods
            .join(plain(uid.as_str())?)
            .join("volumes")
            .join(plain(volume)?);
        path::make_directory(&path, 0o755)?;
        let mount_error = |source| VolumeError::MountImage {
            path: path.clone(),
            source,
        };
        if !mounts::is_mount_point(&path).map_err(mount_error)? {
            mounts::mount_layers(&path, IMAGE_SOURCE, layers, mapped_as).map_err(mount_error)?;
        }
        Ok(path)
    }

    /// Remove everything of the pod. Not there: nothing happens.
    ///
    /// A mount that is not ours stays, with what it shows, and is the error.
    pub fn remove(&self, uid: &Uid) -> Result<(), VolumeError> {
        let directory = self.pods.join(plain(uid.as_str())?);
        {
            let _turn = self.turn(uid);
            self.memory.remove(uid.as_str())?;
        }
        let volumes = directory.join("volumes");
        unmount_propagated(&directory.join(PROPAGATED), &volumes)?;
        let mounted = match fs::read_dir(&volumes) {
            Ok(entries) => entries
                .map_while(Result::ok)
                .any(|e| mounts::is_mount_point(&e.path()).unwrap_or(false)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(VolumeError::Read { path: volumes, source }),
        };
        // The mount table is long on a busy machine: it is read only when there is something to find.
        if mounted {
            let read_error = |source| VolumeError::Read {
                path: volumes.clone(),
                source,
            };
            let volumes = volumes.canonicalize().map_err(read_error)?;
            for mount in mounts::beneath(&volumes).map_err(read_error)?.iter().rev() {
                let ours = [("tmpfs", TMPFS_SOURCE), ("overlay", IMAGE_SOURCE)];
                let ours = ours.contains(&(&mount.kind, &mount.source)) && mount.root == Path::new("/");
                if ours && mount.path.parent() == Some(&*volumes) {
                    mounts::unmount_now_or_later(&mount.path).map_err(|source| VolumeError::Unmount {
                        path: mount.path.clone(),
                        source,
                    })?;
                }
            }
        }
        Ok(path::remove_tree(&directory)?)
    }

    /// Every pod that has a directory.
    pub fn list(&self) -> Result<Vec<Uid>, VolumeError> {
        let mut uids = pods_in(&self.pods)?;
        uids.extend(pods_in(self.memory.directory())?);
        uids.sort_unstable();
        uids.dedup();
        Ok(uids)
    }
}

/// Every pod that has a directory there.
fn pods_in(directory: &Path) -> Result<Vec<Uid>, VolumeError> {
    let read_error = |source| VolumeError::Read {
        path: directory.to_owned(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read_error(error)),
    };
    let mut uids = Vec::new();
    for entry in entries {
        let name = entry.map_err(read_error)?.file_name();
        // What podd did not make (`lost+found`) is none of its business.
        uids.extend(
            name.to_str()
                .filter(|name| is_uuid(name))
                .map(|name| Uid(name.to_owned())),
        );
    }
    Ok(uids)
}

/// A name that is one component of a path.
fn plain(name: &str) -> Result<&str, VolumeError> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(part)), None) if part == name => Ok(name),
        _ => Err(VolumeError::Name { name: name.to_owned() }),
    }
}

/// RFC 4122's text form, in lower case.
fn is_uuid(name: &str) -> bool {
    name.len() == 36
        && name.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

/// How large a Memory emptyDir may grow: its own limit or, if that is less, the memory that the pod, or else its
/// containers, may have (Kubernetes `emptydir/empty_dir.go calculateEmptyDirMemorySize`). `None`: half of the machine's
/// memory, the kernel's default.
fn memory_size(pod: &PodSpec, size_limit: Option<u64>) -> Option<u64> {
    let containers: Option<u64> = pod
        .containers
        .iter()
        .map(|c| c.resources.memory_limit.filter(|limit| *limit > 0))
        .sum();
    let whole = pod.resources.memory_limit.or(containers);
    [size_limit.filter(|limit| *limit > 0), whole]
        .into_iter()
        .flatten()
        .min()
}

/// Before a container can mount anything: which of the pod's own volumes it can do that in.
fn note_propagated(pod: &PodSpec, notes: &Path) -> Result<(), VolumeError> {
    let lists = [&pod.init_containers, &pod.containers, &pod.ephemeral_containers];
    let mounts = lists.into_iter().flatten().flat_map(|container| &container.mounts);
    for mount in mounts.filter(|mount| mount.propagation == Propagation::Bidirectional) {
        let is_own =
            |volume: &&Volume| volume.name == mount.volume && matches!(volume.source, VolumeSource::EmptyDir { .. });
        if pod.volumes.iter().any(|volume| is_own(&volume)) {
            let note = notes.join(plain(&mount.volume)?);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&note);
            made.map_err(|source| VolumeError::Directory {
                path: note.clone(),
                source,
            })?;
        }
    }
    Ok(())
}

/// What containers mounted in volumes of the pod's own is taken away, and never followed. What they mounted in the
/// machine's directories is the machine's (as with a kubelet).
fn unmount_propagated(notes: &Path, volumes: &Path) -> Result<(), VolumeError> {
    let found = match fs::read_dir(notes) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(VolumeError::Read {
                path: notes.to_owned(),
                source,
            });
        }
    };
    for note in found.map_while(Result::ok) {
        let volume = volumes.join(note.file_name());
        let read_error = |source| VolumeError::Read {
            path: volume.clone(),
            source,
        };
        let volume = match volume.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(read_error)?,
        };
        for mount in mounts::beneath(&volume).map_err(read_error)?.iter().rev() {
            if mount.path != volume {
                mounts::unmount_now_or_later(&mount.path).map_err(|source| VolumeError::Unmount {
                    path: mount.path.clone(),
                    source,
                })?;
            }
        }
    }
    Ok(())
}

fn mount_memory(path: &Path, size: Option<u64>) -> Result<(), VolumeError> {
    let mount_error = |source| VolumeError::Mount {
        path: path.to_owned(),
        source,
    };
    if mounts::is_mount_point(path).map_err(mount_error)? {
        return Ok(());
    }
    mounts::mount_tmpfs(path, TMPFS_SOURCE, size, 0o777).map_err(mount_error)
}

/// Put a file in place, unless it is as it should be. It can be made again, so the disk is not waited for.
fn put(path: &Path, text: &str) -> Result<(), VolumeError> {
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    // A container may have written much into it: its length tells enough then.
    let same = fs::symlink_metadata(path).is_ok_and(|there| there.is_file() && there.len() == length)
        && fs::read(path).is_ok_and(|bytes| bytes == text.as_bytes());
    if same {
        return Ok(());
    }
    Ok(path::write_file_atomic(
        path,
        text.as_bytes(),
        0o644,
        Durability::Memory,
    )?)
}
