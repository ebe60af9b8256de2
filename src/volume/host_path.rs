//! `hostPath`: a path of the machine itself, checked and made as its type says.
//!
//! Kubernetes `pkg/volume/hostpath/host_path.go checkTypeInternal`, with its words. Links are followed, as there: the
//! path is the machine's own, and whoever may use `hostPath` is trusted with it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use super::VolumeError;
use crate::model::HostPathType;

/// Check what is there; make what may be made.
pub(super) fn check(path: &Path, kind: HostPathType) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::HostPath {
        path: path.to_owned(),
        source,
    };
    let there = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let (fits, expected) = match (kind, there) {
        // No check; what is not there is made as a directory, as containerd and Docker do.
        (HostPathType::Unset, Some(_)) => return Ok(()),
        (HostPathType::Unset | HostPathType::DirectoryOrCreate, None) => return make_directories(path).map_err(failed),
        (HostPathType::FileOrCreate, None) => return make_file(path).map_err(failed),
        (HostPathType::DirectoryOrCreate | HostPathType::Directory, there) => {
            (there.is_some_and(|t| t.is_dir()), "a directory")
        }
        // As in Kubernetes, a file is whatever is no directory.
        (HostPathType::FileOrCreate | HostPathType::File, there) => (there.is_some_and(|t| !t.is_dir()), "a file"),
        (HostPathType::Socket, there) => (there.is_some_and(|t| t.is_socket()), "a socket file"),
        (HostPathType::CharDevice, there) => (there.is_some_and(|t| t.is_char_device()), "a character device"),
        (HostPathType::BlockDevice, there) => (there.is_some_and(|t| t.is_block_device()), "a block device"),
    };
    if fits {
        Ok(())
    } else {
        Err(VolumeError::HostPathType {
            path: path.to_owned(),
            expected,
        })
    }
}

/// Make a directory and what is missing above it, each with mode 0755 whatever the umask.
fn make_directories(path: &Path) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|above| !above.exists()).collect();
    for directory in missing.into_iter().rev() {
        match fs::create_dir(directory) {
            Ok(()) => fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?,
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Make an empty file with mode 0644 whatever the umask.
fn make_file(path: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}
