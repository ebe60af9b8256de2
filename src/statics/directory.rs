//! The manifest directory, read.
//!
//! **Invariant:** a file that cannot be read is told as such, and is never taken for one that is not there.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::linux::fd::NO_WAIT;

/// The longest file (Kubernetes `pkg/kubelet/config/common.go`, `maxConfigLength`).
const FILE_MAX: u64 = 10 << 20;

/// The directory, or a file in it, could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("cannot read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("it has more than {FILE_MAX} bytes")]
    TooLong,
    #[error("it is neither a file nor a link to one")]
    NotAFile,
}

/// The files by name, in the order of names.
pub(super) type Files = BTreeMap<String, Result<Vec<u8>, ReadError>>;

/// Every file whose name does not begin with a dot; directories are passed over. A directory that is not there has none.
pub(super) fn read(directory: &Path) -> Result<Files, ReadError> {
    let failed = |source| ReadError::Io {
        path: directory.to_owned(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Files::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = Files::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let path = directory.join(&name);
        let name = name.to_string_lossy().into_owned();
        if name.starts_with('.') || path.is_dir() {
            continue;
        }
        match file(&path) {
            // It was there a moment ago.
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            read => drop(files.insert(name, read)),
        }
    }
    Ok(files)
}

fn file(path: &Path) -> Result<Vec<u8>, ReadError> {
    let failed = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    // A pipe in the place of a file must not make us wait.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(NO_WAIT)
        .open(path)
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(ReadError::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_MAX) {
        return Err(ReadError::TooLong);
    }
    Ok(bytes)
}
