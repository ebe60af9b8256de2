//! Where the files that podd writes for pods lie: in memory, never on a disk, since some of them are secrets.
//!
//! ```text
//! RUN_DIR/volumes/                 a tmpfs of the agent, one for all pods
//! RUN_DIR/volumes/<uid>/<volume>/  see [`atomic`](super::atomic)
//! ```
//!
//! One mount serves every pod: nearly each has one such volume, the token of its service account, and a mount for each
//! would cost more than all its files, and slow down every look at the mount table. It is a mount of our own although
//! `/run` is a tmpfs as a rule: that one forbids to execute, and scripts in a ConfigMap are executed; and what pods bring
//! cannot fill it.
//!
//! **Invariant:** the tmpfs is there for as long as the directory of any pod is; with the last of them it goes.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::VolumeError;
use crate::linux::mounts;
use crate::linux::path;

/// The word by which the mount is known in the mount table.
pub(super) const SOURCE: &str = "podd-volumes";

/// The directory of all such volumes of one agent.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    directory: PathBuf,
    /// Held while the tmpfs, or a directory in it, comes or goes.
    change: Arc<Mutex<()>>,
}

impl Memory {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            change: Arc::default(),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A volume's directory with this mode, made if it is missing. `uid` and `volume` are one component of a path each.
    pub(super) fn make(&self, uid: &str, volume: &str, mode: u32) -> Result<PathBuf, VolumeError> {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mount_error = |source| VolumeError::Mount {
            path: self.directory.clone(),
            source,
        };
        if !self.is_mounted().map_err(mount_error)? {
            let whole = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.directory);
            whole.map_err(|source| VolumeError::Directory {
                path: self.directory.clone(),
                source,
            })?;
            mounts::mount_secret_tmpfs(&self.directory, SOURCE, 0o700).map_err(mount_error)?;
        }
        let pod = self.directory.join(uid);
        let directory = pod.join(volume);
        for path in [&pod, &directory] {
            match fs::DirBuilder::new().mode(0o700).create(path) {
                Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                    let path = path.clone();
                    return Err(VolumeError::Directory { path, source });
                }
                Ok(()) | Err(_) => {}
            }
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).map_err(|source| VolumeError::Directory {
            path: directory.clone(),
            source,
        })?;
        Ok(directory)
    }

    /// Remove a pod's directory, and with the last one the tmpfs. Not there: nothing happens.
    pub(super) fn remove(&self, uid: &str) -> Result<(), VolumeError> {
        let pod = self.directory.join(uid);
        if pod.symlink_metadata().is_err() {
            return Ok(());
        }
        path::remove_tree(&pod)?;
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let is_empty = fs::read_dir(&self.directory).is_ok_and(|mut entries| entries.next().is_none());
        // It costs nothing while it is empty: what fails here is tried again with the next pod.
        if is_empty && self.is_mounted().unwrap_or(false) && mounts::unmount_now_or_later(&self.directory).is_ok() {
            let _ = fs::remove_dir(&self.directory);
        }
        Ok(())
    }

    fn is_mounted(&self) -> io::Result<bool> {
        match mounts::is_mount_point(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            result => result,
        }
    }
}
