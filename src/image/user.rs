//! Who a container runs as: users and groups, as the image's own /etc/passwd and /etc/group know them.
//!
//! Goes in: the layers of an image, and what the image and the pod say. Comes out: numbers.
//!
//! The rules are those of containerd's CRI plugin (`pkg/oci/spec_opts.go` `WithUser`, `WithAdditionalGIDs`; `internal/cri/
//! server/container_create.go`), but that a malformed line of either file is passed over instead of being read as root.
//!
//! **Invariant:** reads layers as overlay would show them, without mounting anything. No link is followed out of the
//! layers, nothing but a regular file is opened, and no more than 1 MiB of it is read. Numbers that do not fit are
//! errors, never cut off (CVE-2024-40635).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fgetxattr, fstat, major, minor, openat, readlinkat, statat};
use rustix::io::Errno;

/// The most that is read of either file: more is refused (CVE-2026-47262).
const FILE_MAX: u64 = 1024 * 1024;
/// As many links as the kernel follows in one path.
const LINKS_MAX: usize = 40;
const DEPTH_MAX: usize = 256;
/// Kubernetes' and containerd's largest id.
const ID_MAX: u32 = i32::MAX.unsigned_abs();

/// Whom a container runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIds {
    pub uid: u32,
    pub gid: u32,
    /// `gid` is always one of them.
    pub additional_gids: Vec<u32>,
}

/// Why it cannot be said whom a container runs as.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("unable to find user {user}: no matching entries in passwd file")]
    NoSuchUser { user: String },
    #[error("unable to find group {group}: no matching entries in group file")]
    NoSuchGroup { group: String },
    #[error("invalid USER value {spec}")]
    InvalidSpec { spec: String },
    #[error("user group {group} is specified without user")]
    GroupWithoutUser { group: u32 },
    #[error("container's runAsUser breaks non-root policy")]
    RunAsUserIsRoot,
    #[error("container has runAsNonRoot and image will run as root")]
    ImageRunsAsRoot,
    #[error("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root")]
    NotNumeric { user: String },
    #[error("the image's /{path} is larger than {FILE_MAX} bytes")]
    TooLarge { path: &'static str },
    #[error("the image's /{path} is not a regular file")]
    NotAFile { path: &'static str },
    #[error("cannot read the image's /{path}")]
    Read {
        path: &'static str,
        #[source]
        source: io::Error,
    },
}

/// What `runAsNonRoot: true` says of a container: of its `runAsUser`, the image's `User` (may be empty), and the uid they
/// came to. The words are the kubelet's (`pkg/kubelet/kuberuntime/security_context_others.go` `verifyRunAsNonRoot`), which
/// puts the pod behind them.
pub fn check_non_root(image_user: &str, run_as_user: Option<u32>, uid: u32) -> Result<(), UserError> {
    if run_as_user == Some(0) {
        return Err(UserError::RunAsUserIsRoot);
    }
    let user = image_user.split(':').next().unwrap_or_default();
    // A name may mean another user tomorrow, with the same image's name.
    if run_as_user.is_none() && !user.is_empty() && number(user).is_none() {
        return Err(UserError::NotNumeric { user: user.to_owned() });
    }
    if uid == 0 {
        Err(UserError::ImageRunsAsRoot)
    } else {
        Ok(())
    }
}

/// What a pod says of whom a container runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Wish {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    /// Groups that are added: `fsGroup`, then `supplementalGroups` (`kuberuntime/security_context_others.go`).
    pub groups: Vec<u32>,
    /// Of the image's /etc/group none are added (`supplementalGroupsPolicy: Strict`).
    pub strict_groups: bool,
}

/// Whom a container runs as. `layers`: unpacked, topmost first. `spec`: the image's `User`. The pod's user and group
/// replace it.
pub fn resolve_user(layers: &[PathBuf], spec: &str, wish: &Wish) -> Result<UserIds, UserError> {
    let Wish {
        run_as_user,
        run_as_group,
        groups: supplemental,
        strict_groups,
    } = wish;
    let spec = match (run_as_user, run_as_group) {
        (Some(uid), Some(gid)) => format!("{uid}:{gid}"),
        (Some(uid), None) => uid.to_string(),
        (None, Some(group)) => return Err(UserError::GroupWithoutUser { group: *group }),
        (None, None) => spec.to_owned(),
    };
    let passwd = Passwd::read(layers)?;
    let mut parts = spec.split(':');
    let (user, group, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if more.is_some() {
        return Err(UserError::InvalidSpec { spec });
    }
    // Nobody is named: root, without a look into the files.
    let (uid, gid) = match (user, group) {
        ("", None) => (0, 0),
        (user, None) => match number(user) {
            Some(uid) => (uid, passwd.by_uid(uid).map_or(0, |entry| entry.gid)),
            None => passwd.by_name(user).map(|entry| (entry.uid, entry.gid))?,
        },
        (user, Some(group)) => {
            let uid = match number(user) {
                Some(uid) => uid,
                None => passwd.by_name(user)?.uid,
            };
            let gid = match number(group) {
                Some(gid) => gid,
                None => Groups::read(layers)?.by_name(group)?,
            };
            (uid, gid)
        }
    };
    let user = if user.is_empty() { "0" } else { user };
    let name = match number(user) {
        Some(uid) => passwd.by_uid(uid).map(|entry| entry.name.clone()),
        None => Some(user.to_owned()),
    };
    let mut additional_gids = vec![gid];
    let of_user = match name {
        Some(name) if !strict_groups => Groups::read(layers)?.of_member(&name),
        Some(_) | None => Vec::new(),
    };
    for gid in of_user.into_iter().chain(supplemental.iter().copied()) {
        if !additional_gids.contains(&gid) {
            additional_gids.push(gid);
        }
    }
    Ok(UserIds {
        uid,
        gid,
        additional_gids,
    })
}

/// Where a user is at home, as the image's /etc/passwd knows it; `/` for somebody it does not know (runc's rule for `HOME`).
pub fn home_of(layers: &[PathBuf], uid: u32) -> Result<String, UserError> {
    let passwd = Passwd::read(layers)?;
    let home = passwd.by_uid(uid).map(|user| user.home.clone());
    Ok(home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned()))
}

/// Decimal digits of a number that is an id; everything else is a name.
fn number(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|id| *id <= ID_MAX)
}

struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Passwd(Vec<User>);

impl Passwd {
    fn read(layers: &[PathBuf]) -> Result<Self, UserError> {
        let lines = read_lines(layers, "etc/passwd")?;
        let users = lines.iter().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _password, uid, gid, ref rest @ ..] = fields[..] else {
                return None;
            };
            Some(User {
                name: name.to_owned(),
                uid: number(uid)?,
                gid: number(gid)?,
                // After the comment.
                home: rest.get(1).map_or("", |home| home).to_owned(),
            })
        });
        Ok(Self(users.filter(|user| !user.name.is_empty()).collect()))
    }

    fn by_uid(&self, uid: u32) -> Option<&User> {
        self.0.iter().find(|user| user.uid == uid)
    }

    fn by_name(&self, name: &str) -> Result<&User, UserError> {
        let found = self.0.iter().find(|user| user.name == name);
        found.ok_or_else(|| UserError::NoSuchUser { user: name.to_owned() })
    }
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

struct Groups(Vec<Group>);

impl Groups {
    fn read(layers: &[PathBuf]) -> Result<Self, UserError> {
        let lines = read_lines(layers, "etc/group")?;
        let groups = lines.iter().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _password, gid, ref rest @ ..] = fields[..] else {
                return None;
            };
            let members = rest
                .first()
                .map_or("", |members| members)
                .split(',')
                .map(|name| name.trim().to_owned());
            Some(Group {
                name: name.to_owned(),
                gid: number(gid)?,
                members: members.collect(),
            })
        });
        Ok(Self(groups.filter(|group| !group.name.is_empty()).collect()))
    }

    fn by_name(&self, name: &str) -> Result<u32, UserError> {
        let found = self.0.iter().find(|group| group.name == name);
        found
            .map(|group| group.gid)
            .ok_or_else(|| UserError::NoSuchGroup { group: name.to_owned() })
    }

    /// The groups that list a user, but the one that is called like the user.
    fn of_member(&self, user: &str) -> Vec<u32> {
        let lists = |group: &&Group| group.name != user && group.members.iter().any(|member| member == user);
        self.0.iter().filter(lists).map(|group| group.gid).collect()
    }
}

/// The lines of a file of the image; none when it is not there. Comments and empty lines are left out.
fn read_lines(layers: &[PathBuf], path: &'static str) -> Result<Vec<String>, UserError> {
    let failed = |source: Errno| UserError::Read {
        path,
        source: source.into(),
    };
    let Some(file) = open_in_layers(layers, path).map_err(failed)? else {
        return Ok(Vec::new());
    };
    if FileType::from_raw_mode(fstat(&file).map_err(failed)?.st_mode) != FileType::RegularFile {
        return Err(UserError::NotAFile { path });
    }
    let mut bytes = Vec::new();
    let read = File::from(file).take(FILE_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|source| UserError::Read { path, source })?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(UserError::TooLarge { path });
    }
    let lines = bytes
        .split(|b| *b == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim);
    Ok(lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

/// The same directory in the layers that have it and show it, topmost first: what overlay merges.
type Merged = Rc<Vec<OwnedFd>>;

/// What a name means in a merged directory.
enum Looked {
    Nothing,
    Directory(Merged),
    Link(Vec<u8>),
    /// Anything else, and the layer's directory that shows it.
    Other(usize),
}

/// Open a file as overlay would show it: lower layers are hidden by whiteouts and opaque directories, links are followed
/// with the image's root as the root of all.
fn open_in_layers(layers: &[PathBuf], path: &str) -> rustix::io::Result<Option<OwnedFd>> {
    let open = |layer: &PathBuf| {
        openat(
            CWD,
            layer,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    let root: Merged = Rc::new(layers.iter().map(open).collect::<Result<_, _>>()?);
    let mut walked = vec![root];
    let mut ahead: VecDeque<Vec<u8>> = path.split('/').map(|part| part.as_bytes().to_vec()).collect();
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == b".." {
            if walked.len() > 1 {
                walked.pop();
            }
            continue;
        }
        let here = Rc::clone(walked.last().expect("the root is never popped"));
        match look(&here, &part)? {
            Looked::Nothing => return Ok(None),
            Looked::Directory(next) => {
                if walked.len() > DEPTH_MAX {
                    return Err(Errno::LOOP);
                }
                walked.push(next);
            }
            Looked::Link(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP);
                }
                if target.starts_with(b"/") {
                    walked.truncate(1);
                }
                let parts = target.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b"."));
                for part in parts.rev() {
                    ahead.push_front(part.to_vec());
                }
            }
            Looked::Other(layer) => {
                if !ahead.is_empty() {
                    return Ok(None);
                }
                // A pipe would wait for a writer, a device do who knows what: O_PATH tells what it is before it is opened.
                let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let there = openat(&here[layer], &part, flags | OFlags::PATH, Mode::empty())?;
                if FileType::from_raw_mode(fstat(&there)?.st_mode) != FileType::RegularFile {
                    return Ok(Some(there));
                }
                return openat(
                    &here[layer],
                    &part,
                    flags | OFlags::RDONLY | OFlags::NONBLOCK,
                    Mode::empty(),
                )
                .map(Some);
            }
        }
    }
    // It is a directory.
    walked.pop().map_or(Ok(None), |last| {
        last.first()
            .map(|fd| fd.try_clone().map_err(|_| Errno::MFILE))
            .transpose()
    })
}

fn look(merged: &[OwnedFd], part: &[u8]) -> rustix::io::Result<Looked> {
    let mut directories = Vec::new();
    for (layer, directory) in merged.iter().enumerate() {
        let stat = match statat(directory, part, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = openat(directory, part, flags, Mode::empty())?;
            let mut value = [0; 1];
            let opaque = fgetxattr(&child, "trusted.overlay.opaque", &mut value).is_ok() && value == *b"y";
            directories.push(child);
            if opaque {
                break;
            }
            continue;
        }
        let is_whiteout = kind == FileType::CharacterDevice && major(stat.st_rdev) == 0 && minor(stat.st_rdev) == 0;
        if is_whiteout || !directories.is_empty() {
            break;
        }
        if kind == FileType::Symlink {
            return Ok(Looked::Link(readlinkat(directory, part, Vec::new())?.into_bytes()));
        }
        return Ok(Looked::Other(layer));
    }
    Ok(if directories.is_empty() {
        Looked::Nothing
    } else {
        Looked::Directory(Rc::new(directories))
    })
}

#[cfg(test)]
mod tests;
