//! A container's first process, from clone to exec.
//!
//! The parts that a process has in common with one that joins the container later (`guest.rs`) are used by both.
//!
//! Goes in: the [`Plan`], in a copy of the parent's memory. Comes out: the container's program, or a [`Fault`] on the
//! channel.
//!
//! The order matters, and these are its reasons: the cgroup is entered first, so that everything is accounted for; the
//! host's mounts are made private before anything is mounted; every target is a descriptor resolved inside the new root;
//! the root is changed when all is in place; privileges are given up last, the seccomp filter the very last of all.
//! A user namespace is entered after all that the machine's root alone may do (mounts, limits), and with it a mount
//! namespace that belongs to it: what was mounted before can be uncovered by nobody in there.
//!
//! **Invariant:** no allocation, no locks, no panics: only system calls on what the plan holds.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

use super::cgroup::Entry;
use super::idmap::{self, UserNamespace};
use super::plan::{Device, Fault, Link, Mount, Plan, ProcessPlan, Root, Step, What, Word};
use super::rootfs::{self, Kind, PathBuffer};
use super::sys::{self, MountAttr, OPEN_TREE_CLONE};

/// Carry out the plan and become the container's program.
pub(super) fn run(plan: &mut Plan, channel: BorrowedFd<'_>) -> ! {
    let Err(fault) = prepare_and_exec(plan, channel);
    // If the parent is gone there is nobody to tell.
    let _unheard = sys::send(channel, &Word::Fault(fault).encode(), None);
    sys::exit(127)
}

enum Never {}

fn prepare_and_exec(plan: &mut Plan, channel: BorrowedFd<'_>) -> Result<Never, Fault> {
    enter(plan)?;
    take_trees(plan)?;
    // What the host mounts and unmounts is still seen, so that its mounts are not held here; what happens here is not
    // seen outside.
    sys::propagate(c"/", libc::MS_SLAVE | libc::MS_REC).map_err(Step::Propagation.fault())?;
    if let Some(user) = &plan.user {
        idmap::make_as_root_of(user.first).map_err(Step::UserNamespace.fault())?;
    }
    let root = mount_root(&plan.root, plan.user.as_ref())?;
    let root = root.as_fd();
    if plan.user.is_some() {
        // A device that an image brings would belong to the namespace's root.
        sys::mount_setattr(root, false, &NO_DEVICES).map_err(Step::MapRoot.fault())?;
    }
    for index in 0..plan.mounts.len() {
        mount(root, plan, index)?;
    }
    for (index, device) in plan.devices.iter().enumerate() {
        make_device(root, device, plan.user.is_some()).map_err(Step::Device.at(index))?;
    }
    for (index, link) in plan.links.iter().enumerate() {
        make_link(root, link).map_err(Step::Link.at(index))?;
    }
    let terminal = make_terminal(root, plan, channel).map_err(Step::Terminal.fault())?;
    protect(root, plan)?;
    let cwd = rootfs::open_or_make(root, &plan.cwd, Kind::Directory).map_err(Step::Cwd.fault())?;
    if plan.root.readonly {
        sys::mount_setattr(root, false, &READONLY).map_err(Step::ReadonlyRoot.fault())?;
    }
    change_root(root, plan.root.propagation).map_err(Step::Pivot.fault())?;
    streams(plan, terminal.as_ref())?;
    sys::fchdir(cwd.as_fd()).map_err(Step::Cwd.fault())?;
    if plan.held {
        // A word, not the end: without a parent there is nothing to wait for.
        sys::receive_byte(channel).map_err(Step::ParentGone.fault())?;
    }
    limit(&plan.process)?;
    if let Some(user) = &plan.user {
        enter_user_namespace(user).map_err(Step::UserNamespace.fault())?;
    }
    give_up(&plan.process)?;
    // The shim hears that everything but the exec itself has been done. If it is gone, so are we.
    sys::send(channel, &Word::Ready.encode(), None).map_err(Step::ParentGone.fault())?;
    Err(become_program(&plan.process))
}

/// The working directory and the root are those of the new mount namespace afterwards.
fn enter_user_namespace(user: &UserNamespace) -> Result<(), Errno> {
    sys::setns(user.namespace.as_fd(), libc::CLONE_NEWUSER)?;
    sys::unshare(libc::CLONE_NEWNS)
}

/// The last filter and the program. Returns only with what went wrong.
pub(super) fn become_program(process: &ProcessPlan) -> Fault {
    if let (true, Some(program)) = (process.no_new_privileges, &process.seccomp)
        && let Err(errno) = program.install()
    {
        return Step::Seccomp.fault()(errno);
    }
    Step::Exec.fault()(exec(process))
}

const READONLY: MountAttr = MountAttr {
    attr_set: 1,
    attr_clr: 0,
    propagation: 0,
    userns_fd: 0,
};

const NO_DEVICES: MountAttr = MountAttr {
    attr_set: libc::MOUNT_ATTR_NODEV,
    attr_clr: 0,
    propagation: 0,
    userns_fd: 0,
};

/// Cgroup, session, namespaces, and what is written through the host's /proc.
fn enter(plan: &Plan) -> Result<(), Fault> {
    enter_cgroup(&plan.cgroup)?;
    die_with_parent()?;
    sys::umask(0);
    sys::new_session().map_err(Step::Session.fault())?;
    for (index, join) in plan.join.iter().enumerate() {
        sys::setns(join.namespace.as_fd(), join.kind).map_err(Step::Join.at(index))?;
    }
    if plan.new_cgroup_namespace {
        sys::unshare(libc::CLONE_NEWCGROUP).map_err(Step::CgroupNamespace.fault())?;
    }
    set_oom_score(&plan.process);
    set_app_armor(&plan.process)?;
    for (index, sysctl) in plan.sysctls.iter().enumerate() {
        let written = sys::open(&sysctl.path, libc::O_WRONLY)
            .and_then(|file| sys::write(file.as_fd(), sysctl.value.to_bytes()).map(drop));
        written.map_err(Step::Sysctl.at(index))?;
    }
    Ok(())
}

/// By our own write to each `tasks`: see [`Entry`].
pub(super) fn enter_cgroup(cgroup: &Entry) -> Result<(), Fault> {
    for tasks in &cgroup.tasks {
        sys::write(tasks.as_fd(), b"0").map_err(Step::Cgroup.fault())?;
    }
    Ok(())
}

pub(super) fn die_with_parent() -> Result<(), Fault> {
    sys::prctl(libc::PR_SET_PDEATHSIG, KILL, 0).map_err(Step::Signals.fault())
}

/// Through the host's /proc.
pub(super) fn set_oom_score(process: &ProcessPlan) {
    if let Some(score) = &process.oom_score_adj {
        // Lowering it needs CAP_SYS_RESOURCE, which not every machine gives: the score is then what we inherited.
        if let Ok(file) = sys::open(c"/proc/self/oom_score_adj", libc::O_WRONLY) {
            let _lowered = sys::write(file.as_fd(), score.to_bytes());
        }
    }
}

/// The profile that the program is executed under. Through the host's /proc, whatever lies on the container's: it is
/// kept until exec, and handed on to a child.
pub(super) fn set_app_armor(process: &ProcessPlan) -> Result<(), Fault> {
    const ATTRIBUTES: [&CStr; 2] = [c"/proc/thread-self/attr/apparmor/exec", c"/proc/thread-self/attr/exec"];
    match &process.app_armor {
        Some(word) => write_attribute(ATTRIBUTES, word).map_err(Step::AppArmor.fault()),
        None => Ok(()),
    }
}

/// To the first of them that is there: kernels before 5.1 have one attribute for all modules.
fn write_attribute(paths: [&CStr; 2], word: &CStr) -> Result<(), Errno> {
    let [own, shared] = paths;
    let file = match sys::open(own, libc::O_WRONLY) {
        Err(Errno::ENOENT) => sys::open(shared, libc::O_WRONLY)?,
        other => other?,
    };
    sys::write(file.as_fd(), word.to_bytes()).map(drop)
}

const KILL: libc::c_ulong = libc::SIGKILL.cast_unsigned() as libc::c_ulong;

/// Mounts that shall be shared with the host are taken before the others are cut off from it; all of them, where what is
/// made afterwards belongs to somebody else than the host's root.
fn take_trees(plan: &mut Plan) -> Result<(), Fault> {
    let all = plan.user.is_some();
    for (index, (mount, tree)) in plan.mounts.iter().zip(plan.trees.iter_mut()).enumerate() {
        if let What::Bind {
            source,
            sub_path,
            recursive,
            shared,
            ..
        } = &mount.what
            && (all || *shared)
        {
            let taken = take_tree(source, sub_path.as_deref(), *recursive).map_err(Step::MountSource.at(index))?;
            *tree = Some(taken);
        }
    }
    Ok(())
}

pub(super) fn take_tree(source: &CStr, sub_path: Option<&CStr>, recursive: bool) -> Result<OwnedFd, Errno> {
    let flags = OPEN_TREE_CLONE
        | if recursive {
            libc::AT_RECURSIVE.cast_unsigned()
        } else {
            0
        };
    let Some(sub_path) = sub_path else {
        let opened = sys::open(source, libc::O_PATH)?;
        return sys::open_tree(opened.as_fd(), c"", flags);
    };
    let base = sys::open(source, libc::O_PATH | libc::O_DIRECTORY)?;
    let opened = rootfs::open_or_make_beneath(base.as_fd(), sub_path, 0o750)?;
    sys::open_tree(opened.as_fd(), c"", flags)
}

/// The overlay. Its layers are named by descriptors, so that many of them fit on the one page of options, and so that no
/// character in a path means anything.
pub(super) fn mount_root(root: &Root, user: Option<&UserNamespace>) -> Result<OwnedFd, Fault> {
    const DIRECTORY: libc::c_int = libc::O_PATH | libc::O_DIRECTORY;
    let too_long = || Step::RootOptions.fault();
    let mut options = PathBuffer::new();
    options.push(b"lowerdir=").map_err(too_long())?;
    // Descriptors stay open until exec closes them all.
    let mut first_layer = None;
    for (index, layer) in root.lower.iter().enumerate() {
        let mut opened = sys::open(layer, DIRECTORY).map_err(Step::Layer.at(index))?;
        if let Some(user) = user {
            idmap::map_in_place(opened.as_fd(), user.namespace.as_fd()).map_err(Step::MapRoot.fault())?;
            opened = sys::open(layer, DIRECTORY).map_err(Step::Layer.at(index))?;
        }
        if index > 0 {
            options.push(b":").map_err(too_long())?;
        }
        rootfs::push_descriptor(&mut options, opened.as_fd()).map_err(too_long())?;
        if index == 0 {
            first_layer = Some(opened);
        } else {
            std::mem::forget(opened);
        }
    }
    if let Some(user) = user {
        // Both at once: an overlay wants them in one mount.
        let home = sys::open(&root.home, DIRECTORY).map_err(Step::UpperLayer.fault())?;
        idmap::map_in_place(home.as_fd(), user.namespace.as_fd()).map_err(Step::MapRoot.fault())?;
    }
    let upper = sys::open(&root.upper, DIRECTORY).map_err(Step::UpperLayer.fault())?;
    options.push(b",upperdir=").map_err(too_long())?;
    rootfs::push_descriptor(&mut options, upper.as_fd()).map_err(too_long())?;
    let work = sys::open(&root.work, DIRECTORY).map_err(Step::WorkLayer.fault())?;
    options.push(b",workdir=").map_err(too_long())?;
    rootfs::push_descriptor(&mut options, work.as_fd()).map_err(too_long())?;
    // An attempt's upper layer is never mounted a second time, so nothing in it must be on disk when this one ends.
    options.push(b",volatile").map_err(too_long())?;
    let mounted = sys::mount(c"overlay", &root.target, c"overlay", 0, options.as_c_str());
    drop(first_layer);
    mounted.map_err(Step::MountRoot.fault())?;
    sys::open(&root.target, DIRECTORY).map_err(Step::OpenRoot.fault())
}

fn mount(root: BorrowedFd<'_>, plan: &mut Plan, index: usize) -> Result<(), Fault> {
    let mount = &plan.mounts[index];
    match &mount.what {
        What::Bind {
            source,
            sub_path,
            recursive,
            attr,
            attr_recursive,
            mapped,
            shared: _,
        } => {
            let tree = match plan.trees[index].take() {
                Some(tree) => tree,
                None => take_tree(source, sub_path.as_deref(), *recursive).map_err(Step::MountSource.at(index))?,
            };
            let kind = match sys::stat(tree.as_fd()).map_err(Step::MountSource.at(index))?.st_mode & libc::S_IFMT {
                libc::S_IFDIR => Kind::Directory,
                _ => Kind::File,
            };
            let target = rootfs::open_or_make(root, &mount.destination, kind).map_err(Step::MountTarget.at(index))?;
            if let (true, Some(user)) = (*mapped, &plan.user) {
                idmap::map_mount(tree.as_fd(), user.namespace.as_fd()).map_err(Step::MapMount.at(index))?;
            }
            // All of it before anybody can see the mount.
            let set = || {
                if *attr_recursive != MountAttr::default() {
                    sys::mount_setattr(tree.as_fd(), true, attr_recursive)?;
                }
                if *attr != MountAttr::default() {
                    sys::mount_setattr(tree.as_fd(), false, attr)?;
                }
                set_propagation(tree.as_fd(), mount)?;
                sys::move_mount(tree.as_fd(), target.as_fd())
            };
            set().map_err(Step::Mount.at(index))
        }
        What::New {
            kind,
            source,
            flags,
            data,
            late_readonly: _,
            no_links,
        } => {
            let target = mount_target(root, &mount.destination, *no_links).map_err(Step::MountTarget.at(index))?;
            let do_mount = || {
                let path = rootfs::descriptor_path(target.as_fd())?;
                sys::mount(source, path.as_c_str(), kind, *flags, data)?;
                if (kind.as_c_str() == c"devpts" || kind.as_c_str() == c"mqueue")
                    && let Some(user) = &plan.user
                {
                    // The kernel makes their roots the machine's, whoever we make files as.
                    let mounted = rootfs::open_in_root(root, &mount.destination, libc::O_PATH)?;
                    sys::chown(mounted.as_fd(), user.first, user.first)?;
                }
                if !mount.propagation.is_empty() {
                    let mounted = rootfs::open_in_root(root, &mount.destination, libc::O_PATH)?;
                    set_propagation(mounted.as_fd(), mount)?;
                }
                Ok(())
            };
            do_mount().map_err(Step::Mount.at(index))
        }
    }
}

fn mount_target(root: BorrowedFd<'_>, destination: &CStr, no_links: bool) -> Result<OwnedFd, Errno> {
    let target = rootfs::open_or_make(root, destination, Kind::Directory)?;
    if !no_links {
        return Ok(target);
    }
    let strict = sys::IN_ROOT | libc::RESOLVE_NO_SYMLINKS;
    sys::openat2(root, destination, libc::O_PATH | libc::O_DIRECTORY, 0, strict)
}

fn set_propagation(mounted: BorrowedFd<'_>, mount: &Mount) -> Result<(), Errno> {
    for flags in &mount.propagation {
        let attr = MountAttr {
            propagation: flags & !libc::MS_REC,
            ..MountAttr::default()
        };
        sys::mount_setattr(mounted, flags & libc::MS_REC != 0, &attr)?;
    }
    Ok(())
}

fn is_device(file: BorrowedFd<'_>, device: &Device) -> Result<bool, Errno> {
    let stat = sys::stat(file)?;
    Ok(stat.st_mode & libc::S_IFMT == device.mode & libc::S_IFMT && stat.st_rdev == device.number)
}

fn make_device(root: BorrowedFd<'_>, device: &Device, in_user_namespace: bool) -> Result<(), Errno> {
    let strict = sys::IN_ROOT | libc::RESOLVE_NO_SYMLINKS;
    let directory = rootfs::open_or_make(root, &device.directory, Kind::Directory)?;
    let directory = directory.as_fd();
    let made = match sys::mknodat(directory, &device.name, device.mode, device.number) {
        Err(Errno::EEXIST) => {
            // The image may have put anything there: a link, a file, another device.
            let there = sys::openat2(directory, &device.name, libc::O_PATH, 0, strict);
            if there.is_ok_and(|there| is_device(there.as_fd(), device).unwrap_or(false)) {
                return Ok(());
            }
            sys::unlinkat(directory, &device.name)?;
            sys::mknodat(directory, &device.name, device.mode, device.number)
        }
        other => other,
    };
    made?;
    sys::chmodat(directory, &device.name, device.mode & 0o7777)?;
    let is_machines = in_user_namespace && !device.is_default;
    if device.uid != 0 || device.gid != 0 || is_machines {
        let node = sys::openat2(directory, &device.name, libc::O_PATH, 0, strict)?;
        sys::chown(node.as_fd(), device.uid, device.gid)?;
    }
    Ok(())
}

fn make_link(root: BorrowedFd<'_>, link: &Link) -> Result<(), Errno> {
    let directory = rootfs::open_or_make(root, &link.directory, Kind::Directory)?;
    match sys::symlinkat(&link.target, directory.as_fd(), &link.name) {
        Err(Errno::EEXIST) => {
            match sys::unlinkat(directory.as_fd(), &link.name) {
                // A directory or a mount of the spec's own is left as it is.
                Err(Errno::EISDIR | Errno::EBUSY) => return Ok(()),
                other => other?,
            }
            sys::symlinkat(&link.target, directory.as_fd(), &link.name)
        }
        other => other,
    }
}

/// A terminal of the container's own devpts; its master goes to the shim, its slave becomes /dev/console.
fn make_terminal(root: BorrowedFd<'_>, plan: &Plan, channel: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let Some(terminal) = &plan.terminal else {
        return Ok(None);
    };
    let master = sys::openat2(
        root,
        c"dev/pts/ptmx",
        libc::O_RDWR | libc::O_NOCTTY,
        0,
        sys::IN_ROOT | libc::RESOLVE_NO_SYMLINKS,
    )?;
    let slave = sys::terminal_peer(master.as_fd())?;
    if terminal.rows != 0 || terminal.columns != 0 {
        sys::set_window(master.as_fd(), terminal.rows, terminal.columns)?;
    }
    let console = rootfs::open_or_make(root, c"dev/console", Kind::File)?;
    let tree = sys::open_tree(slave.as_fd(), c"", OPEN_TREE_CLONE)?;
    sys::move_mount(tree.as_fd(), console.as_fd())?;
    sys::send(channel, &Word::Terminal.encode(), Some(master.as_fd()))?;
    Ok(Some(slave))
}

/// What the container shall not see or not write.
fn protect(root: BorrowedFd<'_>, plan: &Plan) -> Result<(), Fault> {
    for (index, mount) in plan.mounts.iter().enumerate() {
        if let What::New {
            late_readonly: true, ..
        } = mount.what
        {
            rootfs::open_in_root(root, &mount.destination, libc::O_PATH)
                .and_then(|mounted| sys::mount_setattr(mounted.as_fd(), false, &READONLY))
                .map_err(Step::LateReadonly.at(index))?;
        }
    }
    for (index, path) in plan.readonly.iter().enumerate() {
        let Some(found) = open_present(root, path).map_err(Step::Readonly.at(index))? else {
            continue;
        };
        let set = || {
            let tree = sys::open_tree(found.as_fd(), c"", OPEN_TREE_CLONE | libc::AT_RECURSIVE.cast_unsigned())?;
            sys::mount_setattr(tree.as_fd(), false, &READONLY)?;
            sys::move_mount(tree.as_fd(), found.as_fd())
        };
        set().map_err(Step::Readonly.at(index))?;
    }
    let mut empty: Option<OwnedFd> = None;
    for (index, path) in plan.masked.iter().enumerate() {
        let Some(found) = open_present(root, path).map_err(Step::Mask.at(index))? else {
            continue;
        };
        let directory = sys::stat(found.as_fd()).map_err(Step::Mask.at(index))?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if directory {
            mask_directory(root, path, found.as_fd(), &mut empty).map_err(Step::Mask.at(index))?;
        } else {
            let null = null_device().map_err(Step::NullDevice.fault())?;
            sys::move_mount(null.as_fd(), found.as_fd()).map_err(Step::Mask.at(index))?;
        }
    }
    Ok(())
}

/// `None` where there is nothing to protect.
fn open_present(root: BorrowedFd<'_>, path: &CStr) -> Result<Option<OwnedFd>, Errno> {
    match rootfs::open_in_root(root, path, libc::O_PATH) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// All masked directories show one and the same empty file system.
fn mask_directory(
    root: BorrowedFd<'_>,
    path: &CStr,
    found: BorrowedFd<'_>,
    empty: &mut Option<OwnedFd>,
) -> Result<(), Errno> {
    if let Some(mounted) = empty {
        let tree = sys::open_tree(mounted.as_fd(), c"", OPEN_TREE_CLONE)?;
        return sys::move_mount(tree.as_fd(), found);
    }
    let target = rootfs::descriptor_path(found)?;
    sys::mount(c"tmpfs", target.as_c_str(), c"tmpfs", libc::MS_RDONLY, c"")?;
    *empty = Some(rootfs::open_in_root(root, path, libc::O_PATH)?);
    Ok(())
}

/// The host's null device, looked at before it is believed (CVE-2025-31133).
fn null_device() -> Result<OwnedFd, Errno> {
    let opened = sys::open(c"/dev/null", libc::O_PATH | libc::O_NOFOLLOW)?;
    let stat = sys::stat(opened.as_fd())?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || stat.st_rdev != sys::device_number(1, 3) {
        return Err(Errno::ENODEV);
    }
    sys::open_tree(opened.as_fd(), c"", OPEN_TREE_CLONE)
}

fn change_root(root: BorrowedFd<'_>, propagation: Option<libc::c_ulong>) -> Result<(), Errno> {
    let old = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY)?;
    sys::fchdir(root)?;
    sys::pivot_root_here()?;
    // The old root lies on top of the new one now.
    sys::fchdir(old.as_fd())?;
    sys::unmount(c".", libc::MNT_DETACH)?;
    sys::chdir(c"/")?;
    if let Some(flags) = propagation {
        sys::propagate(c"/", flags)?;
    }
    Ok(())
}

fn streams(plan: &Plan, terminal: Option<&OwnedFd>) -> Result<(), Fault> {
    let uid = plan.outer_uid();
    let set = || {
        if let Some(slave) = terminal {
            sys::set_controlling_terminal(slave.as_fd())?;
            terminal_streams(slave.as_fd(), uid)?;
        } else if let Some(files) = &plan.stdio {
            file_streams(files, uid)?;
        }
        // Nothing but the three goes through exec, whoever opened it; the channel's end is how the shim hears of it.
        sys::close_from(3, libc::CLOSE_RANGE_CLOEXEC)
    };
    set().map_err(Step::Stdio.fault())
}

/// The terminal as stdin, stdout and stderr.
pub(super) fn terminal_streams(slave: BorrowedFd<'_>, uid: u32) -> Result<(), Errno> {
    sys::chown(slave, uid, u32::MAX)?;
    for number in 0..=2 {
        sys::dup2(slave, number)?;
    }
    Ok(())
}

/// These as stdin, stdout and stderr.
pub(super) fn file_streams(files: &[OwnedFd; 3], uid: u32) -> Result<(), Errno> {
    for (number, file) in (0..).zip(files) {
        // The user can open /dev/stdout again by its name; /dev/null stays root's.
        let is_pipe = sys::stat(file.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFIFO;
        if is_pipe && uid != 0 {
            sys::chown(file.as_fd(), uid, u32::MAX)?;
        }
        sys::dup2(file.as_fd(), number)?;
    }
    Ok(())
}

pub(super) fn limit(process: &ProcessPlan) -> Result<(), Fault> {
    for (index, (resource, wanted)) in process.rlimits.iter().enumerate() {
        let set = match sys::prlimit(*resource, Some(wanted)) {
            // Raising a hard limit needs CAP_SYS_RESOURCE: then as much as there is.
            Err(Errno::EPERM) => sys::prlimit(*resource, None).and_then(|have| {
                let most = libc::rlimit64 {
                    rlim_cur: wanted.rlim_cur.min(have.rlim_max),
                    rlim_max: wanted.rlim_max.min(have.rlim_max),
                };
                sys::prlimit(*resource, Some(&most))
            }),
            other => other,
        };
        // The number of the resource says more than its place in the list.
        set.map_err(Step::Rlimit.at(usize::try_from(*resource).unwrap_or(index)))?;
    }
    // A kernel without keyrings has none to share, and one without room for another keeps the shim's empty one.
    let _kept = sys::new_session_keyring();
    sys::default_actions();
    sys::unblock_signals().map_err(Step::Signals.fault())?;
    sys::umask(process.umask);
    Ok(())
}

/// Privileges, in the one order that works: each step still has what it needs.
pub(super) fn give_up(process: &ProcessPlan) -> Result<(), Fault> {
    if let (false, Some(program)) = (process.no_new_privileges, &process.seccomp) {
        // Without no_new_privs a filter needs CAP_SYS_ADMIN, which is gone in a moment.
        program.install().map_err(Step::Seccomp.fault())?;
    }
    let failed = || Step::Capabilities.fault();
    for capability in 0..=process.last_capability {
        if process.capabilities.bounding & (1 << capability) == 0 {
            sys::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0).map_err(failed())?;
        }
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).map_err(failed())?;
    sys::setgroups(&process.groups).map_err(Step::Groups.fault())?;
    sys::setresgid(process.gid).map_err(Step::Groups.fault())?;
    sys::setresuid(process.uid).map_err(Step::User.fault())?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).map_err(failed())?;
    sys::capset(&process.capabilities.sets).map_err(failed())?;
    set_ambient(process).map_err(failed())?;
    // A change of credentials takes the death signal away, and the parent may have died since.
    die_with_parent()?;
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(Step::NoNewPrivileges.fault())?;
    }
    Ok(())
}

fn set_ambient(process: &ProcessPlan) -> Result<(), Errno> {
    const CLEAR_ALL: libc::c_ulong = 4;
    const RAISE: libc::c_ulong = 2;
    sys::prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL, 0)?;
    for capability in 0..=process.last_capability {
        if process.capabilities.ambient & (1 << capability) != 0 {
            sys::prctl(libc::PR_CAP_AMBIENT, RAISE, libc::c_ulong::from(capability))?;
        }
    }
    Ok(())
}

/// As execvpe(3): the next candidate where nothing can be found, and `EACCES` in the end if one could not be read.
fn exec(process: &ProcessPlan) -> Errno {
    let mut worst = Errno::ENOENT;
    for candidate in &process.exec.candidates {
        let errno = sys::execve(candidate, &process.exec.arguments, &process.exec.environment);
        // A name with a slash has one candidate, whose own reason counts.
        let absent = errno == Errno::ENOENT || errno == Errno::ENOTDIR && process.exec.searched;
        if errno == Errno::EACCES {
            worst = errno;
        } else if !absent {
            return errno;
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_profile_is_written_where_the_kernel_takes_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| CString::new(dir.path().join(name).as_os_str().as_bytes()).unwrap();
        let (own, shared) = (at("own"), at("shared"));
        let write = || write_attribute([&own, &shared], c"exec some-profile");
        assert_eq!(write(), Err(Errno::ENOENT));
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join("shared"), "").unwrap();
        write().unwrap();
        assert_eq!(read("shared"), "exec some-profile");
        std::fs::write(dir.path().join("own"), "").unwrap();
        std::fs::write(dir.path().join("shared"), "").unwrap();
        write().unwrap();
        assert_eq!(
            (read("own"), read("shared")),
            ("exec some-profile".to_owned(), String::new())
        );
    }
}
