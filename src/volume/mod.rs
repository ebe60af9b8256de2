//! What a pod mounts: emptyDirs, host paths, and the files of /etc.
//!
//! Goes in: a pod and what the machine's own files say. Comes out: for each volume the path on the host that containers
//! mount.
//!
//! **Invariants:** what is ours lies beneath `ROOT/pods/<uid>` and goes with the pod; a host path is never removed.
//! Made already: nothing happens, so that an emptyDir keeps what is in it over restarts of containers and of infra.

mod etc;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use crate::linux::path::{self, PathError};
use crate::model::{EmptyDirMedium, HostPathType, PodSpec, Uid, VolumeSource};

/// Everything a kubelet lets anybody write into an emptyDir.
const EMPTY_DIR_MODE: u32 = 0o777;
const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// The volumes of all pods of one agent.
#[derive(Debug)]
pub struct Volumes {
    /// `ROOT/pods`.
    root: PathBuf,
}

/// What the files of /etc are made from besides the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcContext {
    /// The pod's address; `None` with the host's network.
    pub ip: Option<IpAddr>,
    /// The machine's own /etc/resolv.conf and /etc/hosts.
    pub resolv_conf: String,
    pub hosts: String,
    /// What a pod with the host's network is called.
    pub node_name: String,
}

impl EtcContext {
    /// As the machine's files are now.
    pub fn of_node(ip: Option<IpAddr>, node_name: String) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            ip,
            resolv_conf: read("/etc/resolv.conf"),
            hosts: read("/etc/hosts"),
            node_name,
        }
    }
}

/// A pod's volumes, ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// By the volume's name.
    pub sources: BTreeMap<String, PathBuf>,
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
}

/// A volume could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// In Kubernetes' words (`pkg/volume/hostpath/host_path.go`).
    #[error("hostPath type check failed: {} {problem}", path.display())]
    HostPathType { path: PathBuf, problem: &'static str },
    #[error("volume {volume}")]
    Make {
        volume: String,
        #[source]
        source: PathError,
    },
    #[error("files of /etc for pod {uid}")]
    Etc {
        uid: Uid,
        #[source]
        source: PathError,
    },
    #[error("what pod {uid} left")]
    Remove {
        uid: Uid,
        #[source]
        source: PathError,
    },
    #[error("cannot list {}", path.display())]
    List {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Volumes {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Make what is not there yet.
    pub fn prepare(&self, pod: &PodSpec, context: &EtcContext) -> Result<Prepared, VolumeError> {
        let dir = self.root.join(pod.uid.as_str());
        let mut sources = BTreeMap::new();
        for volume in &pod.volumes {
            let made = |source| VolumeError::Make {
                volume: volume.name.clone(),
                source,
            };
            let source = match &volume.source {
                VolumeSource::EmptyDir { medium, size_limit } => {
                    let path = dir.join("volumes").join(&volume.name);
                    path::make_directory(&path, EMPTY_DIR_MODE).map_err(made)?;
                    if *medium == EmptyDirMedium::Memory && !path::is_mounted(&path).map_err(made)? {
                        path::mount_tmpfs(&path, *size_limit, EMPTY_DIR_MODE).map_err(made)?;
                    }
                    path
                }
                VolumeSource::HostPath { path, kind } => {
                    host_path(path, *kind, made)?;
                    path.clone()
                }
            };
            sources.insert(volume.name.clone(), source);
        }
        let etc = dir.join("etc");
        let write = |name: &str, text: &str| -> Result<PathBuf, VolumeError> {
            let path = etc.join(name);
            path::write_atomic(&path, text.as_bytes(), FILE_MODE)
                .map(|()| path)
                .map_err(|source| VolumeError::Etc {
                    uid: pod.uid.clone(),
                    source,
                })
        };
        path::make_directory(&etc, DIRECTORY_MODE).map_err(|source| VolumeError::Etc {
            uid: pod.uid.clone(),
            source,
        })?;
        Ok(Prepared {
            sources,
            hosts: write("hosts", &etc::hosts(pod, context))?,
            hostname: write("hostname", &etc::hostname(pod, context))?,
            resolv_conf: write("resolv.conf", &etc::resolv_conf(pod, context))?,
        })
    }

    /// Remove everything beneath the pod's directory. Nothing there: nothing happens.
    pub fn remove(&self, uid: &Uid) -> Result<(), VolumeError> {
        let failed = |source| VolumeError::Remove {
            uid: uid.clone(),
            source,
        };
        let dir = self.root.join(uid.as_str());
        for volume in names(&dir.join("volumes"))? {
            let path = dir.join("volumes").join(volume);
            if path::is_mounted(&path).map_err(failed)? {
                path::unmount(&path).map_err(failed)?;
            }
        }
        path::remove_tree(&dir).map_err(failed)
    }

    /// Every pod that has a directory here.
    pub fn list(&self) -> Result<Vec<Uid>, VolumeError> {
        Ok(names(&self.root)?.into_iter().map(Uid).collect())
    }
}

/// Kubernetes' `hostPath.type`: check what is there, or make what may be made.
fn host_path(
    path: &Path,
    kind: HostPathType,
    made: impl Fn(PathError) -> VolumeError + Copy,
) -> Result<(), VolumeError> {
    let found = path::kind(path).map_err(made)?;
    let expect = |wanted: FileType, problem: &'static str| {
        if found == Some(wanted) {
            Ok(())
        } else {
            Err(VolumeError::HostPathType {
                path: path.to_owned(),
                problem,
            })
        }
    };
    match kind {
        // Nothing is checked; where nothing is, a directory is what can be mounted (the runtime makes one in Kubernetes).
        HostPathType::Unset if found.is_none() => path::make_directory(path, DIRECTORY_MODE).map_err(made),
        HostPathType::Unset => Ok(()),
        HostPathType::DirectoryOrCreate if found.is_none() => path::make_directory(path, DIRECTORY_MODE).map_err(made),
        HostPathType::DirectoryOrCreate | HostPathType::Directory => expect(FileType::Directory, "is not a directory"),
        HostPathType::FileOrCreate if found.is_none() => path::write_new(path, FILE_MODE).map_err(made),
        HostPathType::FileOrCreate | HostPathType::File => expect(FileType::RegularFile, "is not a file"),
        HostPathType::Socket => expect(FileType::Socket, "is not a socket file"),
        HostPathType::CharDevice => expect(FileType::CharacterDevice, "is not a character device"),
        HostPathType::BlockDevice => expect(FileType::BlockDevice, "is not a block device"),
    }
}

fn names(dir: &Path) -> Result<Vec<String>, VolumeError> {
    let failed = |source| VolumeError::List {
        path: dir.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    entries
        .map(|entry| {
            entry
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .map_err(failed)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &Path, kind: HostPathType) -> Result<(), String> {
        host_path(path, kind, |source| VolumeError::Make {
            volume: "v".to_owned(),
            source,
        })
        .map_err(|e| e.to_string())
    }

    #[test]
    fn each_type_of_host_path_is_checked_in_kubernetes_words() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let missing = dir.path().join("missing");
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        for (path, kind, problem) in [
            (dir.path(), HostPathType::Directory, None),
            (&file, HostPathType::Directory, Some("is not a directory")),
            (&missing, HostPathType::Directory, Some("is not a directory")),
            (&file, HostPathType::DirectoryOrCreate, Some("is not a directory")),
            (&file, HostPathType::File, None),
            (dir.path(), HostPathType::File, Some("is not a file")),
            (dir.path(), HostPathType::FileOrCreate, Some("is not a file")),
            (&dir.path().join("socket"), HostPathType::Socket, None),
            (&file, HostPathType::Socket, Some("is not a socket file")),
            (Path::new("/dev/null"), HostPathType::CharDevice, None),
            (&file, HostPathType::CharDevice, Some("is not a character device")),
            (&file, HostPathType::BlockDevice, Some("is not a block device")),
        ] {
            let expected = problem.map_or(Ok(()), |problem| {
                Err(format!("hostPath type check failed: {} {problem}", path.display()))
            });
            assert_eq!(check(path, kind), expected);
        }
        assert!(!missing.exists(), "a check makes nothing");
        check(&missing, HostPathType::DirectoryOrCreate).unwrap();
        assert!(missing.is_dir());
    }
}
