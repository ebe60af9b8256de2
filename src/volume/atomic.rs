//! Files that change all at once: Kubernetes' `atomic_writer.go`.
//!
//! ```text
//! VOLUME/..7/key          what is shown now
//! VOLUME/..data -> ..7    the one thing that changes, by a rename
//! VOLUME/key -> ..data/key
//! ```
//!
//! Goes in: a directory that only the agent writes, and files. Comes out: the directory shows these files and no others.
//!
//! **Invariant:** whoever looks through `..data` sees the old files or the new ones, never some of each, wherever the
//! writer was killed. What a killed one left is cleaned up by the next. Callers see to it that one writes at a time.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use super::payload::{File, Payload, visible};
use crate::linux::path::{self, Owner, PathError};

/// Names that begin so are the writer's own: admission lets no key and no path begin with it.
const OWN: &str = "..";
const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

const DIRECTORY_MODE: u32 = 0o755;
/// What a group gets of a volume that is only read (Kubernetes `volume_linux.go`: `roMask`, `execMask`, setgid).
const GROUP_FILE: u32 = 0o440;
const GROUP_DIRECTORY: u32 = 0o2550;

/// Whether files were ever put there.
pub(super) fn is_made(directory: &Path) -> bool {
    directory.join(DATA).symlink_metadata().is_ok()
}

/// Show these files. Shown already: nothing changes. `group` is the pod's `fsGroup`.
pub(super) fn write(directory: &Path, payload: &Payload, group: Option<u32>) -> Result<(), PathError> {
    let names = names(directory).map_err(failed("read", directory))?;
    let wanted: BTreeSet<&OsStr> = visible(payload).collect();
    let data = directory.join(DATA);
    if names.contains(OsStr::new(DATA)) {
        let current = fs::read_link(&data).map_err(failed("read", &data))?;
        if shows(&directory.join(&current), payload, group) {
            return tidy(directory, &names, &wanted, current.as_os_str());
        }
    }
    let next = OsString::from(format!("{OWN}{}", highest(&names).saturating_add(1)));
    let new = directory.join(&next);
    if let Err(error) = fill(&new, payload, group) {
        // It may be the very memory that is short.
        let _ = path::remove_tree(&new);
        return Err(error);
    }
    // Before the change, so that no name is missing after it.
    for name in wanted.iter().filter(|name| !names.contains(**name)) {
        let link = directory.join(name);
        symlink(Path::new(DATA).join(name), &link).map_err(failed("link", &link))?;
    }
    let new_data = directory.join(NEW_DATA);
    if names.contains(OsStr::new(NEW_DATA)) {
        path::remove_tree(&new_data)?;
    }
    symlink(&next, &new_data).map_err(failed("link", &new_data))?;
    fs::rename(&new_data, &data).map_err(failed("rename", &new_data))?;
    tidy(directory, &names, &wanted, &next)
}

/// Give a directory of a volume to the group, if there is one.
pub(super) fn give_directory(directory: &Path, mode: u32, group: Option<u32>) -> Result<(), PathError> {
    let Some(group) = group else { return Ok(()) };
    lchown(directory, None, Some(group))
        .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(mode | GROUP_DIRECTORY)))
        .map_err(failed("change the owner of", directory))
}

fn failed(tried: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PathError {
    let path = path.to_owned();
    move |source| PathError { tried, path, source }
}

fn names(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// The highest number that any of our directories has; 0: there is none.
fn highest(names: &BTreeSet<OsString>) -> u64 {
    let numbers = names
        .iter()
        .filter_map(|name| name.to_str()?.strip_prefix(OWN)?.parse().ok());
    numbers.max().unwrap_or(0)
}

fn file_mode(file: &File, group: Option<u32>) -> u32 {
    group.map_or(file.mode, |_| file.mode | GROUP_FILE)
}

/// Whether a directory has exactly these files.
fn shows(directory: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let is_shown = |(path, file): (&PathBuf, &File)| {
        let path = directory.join(path);
        let length = u64::try_from(file.bytes.len()).unwrap_or(u64::MAX);
        path.symlink_metadata().is_ok_and(|there| {
            there.is_file() && there.len() == length && there.permissions().mode() & 0o7777 == file_mode(file, group)
        }) && fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
    };
    count_files(directory).is_ok_and(|count| count == payload.len()) && payload.iter().all(is_shown)
}

fn count_files(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() {
            count_files(&entry.path())?
        } else {
            1
        };
    }
    Ok(count)
}

/// Make a directory with these files, which nobody sees yet.
fn fill(directory: &Path, payload: &Payload, group: Option<u32>) -> Result<(), PathError> {
    let make = || -> io::Result<OwnedFd> {
        fs::DirBuilder::new().mode(0o700).create(directory)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(DIRECTORY_MODE))?;
        Ok(fs::File::open(directory)?.into())
    };
    let opened = make().map_err(failed("make directory", directory))?;
    give_directory(directory, DIRECTORY_MODE, group)?;
    let mut given = BTreeSet::new();
    for (path, file) in payload {
        let whole = directory.join(path);
        let above = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let inner = match above {
            Some(parent) => {
                let inner = path::mkdir_beneath(opened.as_fd(), parent, DIRECTORY_MODE);
                Some(inner.map_err(failed("make directory", &directory.join(parent)))?)
            }
            None => None,
        };
        for parent in above.into_iter().flat_map(Path::ancestors) {
            if !parent.as_os_str().is_empty() && group.is_some() && given.insert(parent) {
                give_directory(&directory.join(parent), DIRECTORY_MODE, group)?;
            }
        }
        let owner = Owner { user: file.user, group };
        let name = path.file_name().unwrap_or_default();
        let parent = inner.as_ref().unwrap_or(&opened).as_fd();
        path::write_new_beneath(parent, name, &file.bytes, file_mode(file, group), owner)
            .map_err(failed("write", &whole))?;
    }
    Ok(())
}

/// Remove what was there and is shown no more: older files, names that lead nowhere, what a killed writer left.
fn tidy(
    directory: &Path,
    names: &BTreeSet<OsString>,
    wanted: &BTreeSet<&OsStr>,
    current: &OsStr,
) -> Result<(), PathError> {
    let stays = |name: &OsStr| name == DATA || name == current || wanted.contains(name);
    for name in names.iter().filter(|name| !stays(name)) {
        path::remove_tree(&directory.join(name))?;
    }
    Ok(())
}
