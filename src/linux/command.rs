//! A program of the host, run with a view of its own: an OCI runtime that makes a container, for instance.
//!
//! Goes in: the program, its streams, and what it shall see mounted that the host does not have. Comes out: a child of
//! the caller's.
//!
//! The root of a container is mounted in the mount namespace of the program that makes it, and goes with the last process
//! in there: the host never has a mount to lose. Of the control groups such a program sees only those that podd uses, so
//! that it makes nothing elsewhere that podd would have to find again; runtimes that refuse a hybrid layout find the old
//! one.
//!
//! **Invariant:** the caller has one thread. Nothing here waits for the program.

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;

use super::cgroup::Hierarchy;
use super::plan::{Root, errno_words};
use super::process::{self, Fork};
use super::sys::{self, MountAttr, OPEN_TREE_CLONE};
use super::{child, fd};

/// Where programs look for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is run.
#[derive(Debug)]
pub struct Run<'a> {
    /// An absolute path.
    pub program: &'a Path,
    pub arguments: &'a [OsString],
    pub directory: &'a Path,
    /// stdin, stdout, stderr.
    pub stdio: [OwnedFd; 3],
    pub view: View<'a>,
}

/// What it sees.
#[derive(Debug)]
pub struct View<'a> {
    pub root: Option<RootMount<'a>>,
    pub binds: &'a [Bind],
    /// Of [`super::cgroup::Cgroups::hierarchies`].
    pub hierarchies: &'a [Hierarchy],
    /// Where they are mounted: `/sys/fs/cgroup`.
    pub cgroups_at: &'a Path,
}

/// An overlay to be mounted.
#[derive(Debug)]
pub struct RootMount<'a> {
    /// Topmost first.
    pub lower: &'a [PathBuf],
    pub upper: &'a Path,
    pub work: &'a Path,
    /// An existing directory.
    pub target: &'a Path,
}

/// A part of a directory, to be mounted elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub struct Bind {
    pub source: PathBuf,
    /// Beneath the source, never led out of it by a link; made as a directory (0750) if nothing is there.
    pub sub_path: PathBuf,
    /// Made, with its parents: a directory, or a file where the part is one.
    pub target: PathBuf,
}

/// A program that was started.
#[derive(Debug)]
pub struct Spawned {
    pub pid: i32,
    pub pidfd: OwnedFd,
    words: OwnedFd,
}

impl Spawned {
    /// Once it has ended: why it never became the program; `None`: it did.
    pub fn failure(&self) -> Option<String> {
        let mut buffer = [0; 1024];
        let length = fd::read_some(self.words.as_fd(), &mut buffer).ok()??;
        (length > 0).then(|| String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

/// Start it. What goes wrong before it is the program is told by [`Spawned::failure`].
///
/// # Errors
/// No process, no descriptor; `Deadlock` in a process with more than one thread.
pub fn spawn(run: &Run<'_>) -> io::Result<Spawned> {
    let (words, told) = fd::pipe()?;
    fd::set_nonblocking(words.as_fd())?;
    match process::fork_single_threaded()? {
        Fork::Child => {
            let Err(failure) = become_program(run);
            // If the parent is gone there is nobody to tell.
            let _unheard = fs::File::from(told).write_all(failure.as_bytes());
            process::exit_now(127)
        }
        Fork::Parent { child: pid } => Ok(Spawned {
            pid,
            pidfd: process::pidfd_of_child(pid)?,
            words,
        }),
    }
}

enum Never {}

fn become_program(run: &Run<'_>) -> Result<Never, String> {
    let Run {
        program,
        arguments,
        directory,
        stdio,
        view,
    } = run;
    let failed = |what: &'static str| move |errno| format!("{what}: {}", errno_words(errno));
    // A runtime that goes on when nobody waits for it would make what nobody looks for any more.
    child::die_with_parent().map_err(|fault| errno_words(fault.errno))?;
    sys::default_actions();
    sys::unblock_signals().map_err(failed("reset signals"))?;
    sys::unshare(libc::CLONE_NEWNS).map_err(failed("new mount namespace"))?;
    sys::propagate(c"/", libc::MS_SLAVE | libc::MS_REC).map_err(failed("make mounts private"))?;
    show_cgroups(view.hierarchies, view.cgroups_at).map_err(|error| format!("control groups: {error}"))?;
    if let Some(root) = &view.root {
        mount_root(root)?;
    }
    for bind in view.binds {
        let (part, source) = (bind.sub_path.display(), bind.source.display());
        mount_part(bind).map_err(|error| format!("mount {part} of {source}: {error}"))?;
    }
    for (number, file) in (0..).zip(stdio) {
        sys::dup2(file.as_fd(), number).map_err(failed("standard streams"))?;
    }
    sys::close_from(3, libc::CLOSE_RANGE_CLOEXEC).map_err(failed("standard streams"))?;
    let error = std::process::Command::new(program)
        .args(*arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", PATH)
        .exec();
    Err(format!("exec {}: {error}", program.display()))
}

/// Where the layout is not v2 alone: a directory of hierarchies in which there are only those that podd uses, and nothing
/// can be made beside them.
fn show_cgroups(hierarchies: &[Hierarchy], at: &Path) -> io::Result<()> {
    if hierarchies.iter().all(|hierarchy| hierarchy.v2) {
        return Ok(());
    }
    let trees = hierarchies
        .iter()
        .filter(|hierarchy| hierarchy.used)
        .map(|hierarchy| {
            let opened = open_path(&hierarchy.mount_point)?;
            Ok((
                hierarchy.name.as_str(),
                sys::open_tree(opened.as_fd(), c"", OPEN_TREE_CLONE)?,
            ))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let target = c_path(at)?;
    // What is only covered would still be found in the list of mounts.
    match sys::unmount(&target, libc::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    sys::mount(
        c"cgroup",
        &target,
        c"tmpfs",
        libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        c"mode=755",
    )?;
    for (name, tree) in trees {
        let directory = at.join(name);
        fs::create_dir(&directory)?;
        sys::move_mount(tree.as_fd(), open_path(&directory)?.as_fd())?;
        // `cpu,cpuacct` is known by each of its names too.
        for part in name.split(',').filter(|part| *part != name) {
            symlink(name, at.join(part))?;
        }
    }
    let read_only = MountAttr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        ..MountAttr::default()
    };
    Ok(sys::mount_setattr(open_path(at)?.as_fd(), false, &read_only)?)
}

fn mount_root(root: &RootMount<'_>) -> Result<(), String> {
    let path = |path: &Path| c_path(path).map_err(|error| format!("{}: {error}", path.display()));
    let plan = Root {
        lower: root.lower.iter().map(|layer| path(layer)).collect::<Result<_, _>>()?,
        upper: path(root.upper)?,
        work: path(root.work)?,
        target: path(root.target)?,
        // Both are the runtime's to set.
        readonly: false,
        propagation: None,
        home: path(root.upper.parent().unwrap_or(root.upper))?,
    };
    match child::mount_root(&plan, None) {
        Ok(_mounted) => Ok(()),
        Err(fault) => Err(format!(
            "mount the root: {:?}: {}",
            fault.step,
            errno_words(fault.errno)
        )),
    }
}

fn mount_part(bind: &Bind) -> io::Result<()> {
    let tree = child::take_tree(&c_path(&bind.source)?, Some(&c_path(&bind.sub_path)?), true)?;
    let is_directory = sys::stat(tree.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if is_directory {
        fs::create_dir_all(&bind.target)?;
    } else {
        if let Some(parent) = bind.target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&bind.target, [])?;
    }
    Ok(sys::move_mount(tree.as_fd(), open_path(&bind.target)?.as_fd())?)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(sys::open(&c_path(path)?, libc::O_PATH)?)
}

/// The ends of three pipes, or of none: ours and the program's.
///
/// # Errors
/// No descriptor.
pub fn pipes(stdin: bool) -> io::Result<(super::container::Streams, [OwnedFd; 3])> {
    super::container::streams(stdin)
}

/// Three times `/dev/null`.
///
/// # Errors
/// It cannot be opened.
pub fn silence() -> io::Result<[OwnedFd; 3]> {
    let null = sys::open(c"/dev/null", libc::O_RDWR)?;
    let duplicate = |file: BorrowedFd<'_>| file.try_clone_to_owned();
    Ok([duplicate(null.as_fd())?, duplicate(null.as_fd())?, null])
}
