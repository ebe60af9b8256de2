//! The native runtime: an OCI runtime spec becomes a process.
//!
//! Goes in: the spec, the root's layers, the machine's cgroups. Comes out: a [`Starting`] process, which says on a channel
//! whether it has become the container's program or why not.
//!
//! What podd cannot carry out is refused by name before anything is made: a container never runs with less than its spec
//! asks for.
//!
//! **Invariant:** all that can allocate happens before the clone; `child.rs` does the rest.

#![expect(
    unsafe_code,
    reason = "clone3 in a process with one thread, whose child only makes system calls"
)]

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Mount as SpecMount, PosixRlimitType, Process, Spec,
};

use super::capability::{self, Capabilities};
use super::cgroup::{CgroupError, Cgroups, Entry};
use super::mount::{MountOptions, Recursive, UnsupportedOption};
use super::plan::{Device, Exec, Join, Link, Mount, Plan, Root, Sysctl, Terminal, WORD_LENGTH, What, Word};
use super::process::{self, Cloned};
use super::seccomp::Program;
use super::{child, fd, sys};

/// Directories that are searched when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container's root is made of, and what the spec has no words for.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Topmost first.
    pub lower: &'a [PathBuf],
    pub upper: &'a Path,
    pub work: &'a Path,
    /// An existing directory to mount on, in the container's own mount namespace.
    pub target: &'a Path,
    /// Of mounts by their destination: the relative path beneath the source.
    pub sub_paths: &'a HashMap<PathBuf, PathBuf>,
    /// Keep a pipe as stdin; else /dev/null.
    pub stdin: bool,
    /// Already compiled from the spec's profile.
    pub seccomp: Option<Program>,
}

/// What of the machine a container needs to know, looked at once.
#[derive(Debug)]
pub struct Machine {
    pub cgroups: Cgroups,
    available: u64,
    last_capability: u32,
    own_pid_namespace: OwnedFd,
}

impl Machine {
    /// # Errors
    /// `/proc` is not as it should be.
    pub fn look(cgroups: Cgroups) -> io::Result<Self> {
        let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
        let last_capability = last.trim_end().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        let own_pid_namespace = sys::open(c"/proc/self/ns/pid", libc::O_RDONLY)?;
        Ok(Self {
            cgroups,
            available: capability::available()?,
            last_capability,
            own_pid_namespace,
        })
    }
}

/// A spec that cannot be carried out, or whose parts cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("the spec has no {field}")]
    Missing { field: &'static str },
    #[error("{field} is not supported")]
    Unsupported { field: &'static str },
    #[error("mount {destination:?}: {source}")]
    MountOption {
        destination: PathBuf,
        source: UnsupportedOption,
    },
    #[error("mount {destination:?} needs a source")]
    MountSource { destination: PathBuf },
    #[error("{what} {value:?} holds a NUL byte")]
    Nul { what: &'static str, value: String },
    #[error("{what} {path:?} is not an absolute path")]
    NotAbsolute { what: &'static str, path: PathBuf },
    #[error("sub path {path:?} of mount {destination:?} is not a plain relative path")]
    SubPath { destination: PathBuf, path: PathBuf },
    #[error("device {path:?} has an impossible number or type")]
    Device { path: PathBuf },
    #[error("sysctl {name:?} is not a plain name")]
    Sysctl { name: String },
    #[error("root propagation {value:?} is not known")]
    Propagation { value: String },
    #[error("{kind} namespace {path:?}: {source}")]
    Namespace {
        kind: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cgroup")]
    Cgroup(#[from] CgroupError),
    #[error("standard streams: {0}")]
    Streams(io::Error),
}

/// A container that is ready to be cloned.
pub struct Prepared {
    plan: Plan,
    ours: Streams,
    shares_pid_namespace: bool,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("program", &self.plan.exec.program)
            .finish_non_exhaustive()
    }
}

/// The shim's ends of a container's streams; none of them with a terminal.
#[derive(Debug, Default)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// A process on its way to exec.
pub struct Starting {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub streams: Streams,
    /// Whether it is not the first process of a pid namespace of its own: then others may outlive it.
    pub shares_pid_namespace: bool,
    channel: OwnedFd,
    /// Kept to put faults into words.
    plan: Plan,
    ready: bool,
}

impl std::fmt::Debug for Starting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Starting")
            .field("pid", &self.pid)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// What is known about a start by now.
#[derive(Debug)]
pub enum Progress {
    /// Nothing new: ask again when the channel can be read.
    Wait,
    /// The master of the container's terminal.
    Terminal(OwnedFd),
    /// The program runs.
    Running,
    /// It could not be executed; the process ends by itself.
    Failed(String),
    /// The process ended before it said anything: something has killed it.
    Died,
}

impl Starting {
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Read the channel, without waiting. Call it again until it gives something other than `Terminal`.
    pub fn progress(&mut self) -> Progress {
        let mut bytes = [0; WORD_LENGTH];
        loop {
            match fd::receive_with_fd(self.channel.as_fd(), &mut bytes, false) {
                Ok((0, _)) => return if self.ready { Progress::Running } else { Progress::Died },
                Ok((length, descriptor)) => match (Word::decode(&bytes[..length]), descriptor) {
                    (Some(Word::Ready), _) => self.ready = true,
                    (Some(Word::Fault(fault)), _) => return Progress::Failed(self.plan.describe(fault)),
                    (Some(Word::Terminal), Some(master)) => return Progress::Terminal(master),
                    (Some(Word::Terminal) | None, _) => {
                        return Progress::Failed("the container's process spoke nonsense".to_owned());
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Wait,
                Err(error) => return Progress::Failed(format!("cannot hear the container's process: {error}")),
            }
        }
    }
}

impl Prepared {
    /// Understand the spec and open everything the child will need. The cgroup must be there already.
    ///
    /// # Errors
    /// See [`PrepareError`].
    pub fn new(spec: &Spec, parts: &Parts<'_>, machine: &Machine) -> Result<Self, PrepareError> {
        refuse_unsupported(spec)?;
        let process = spec
            .process()
            .as_ref()
            .ok_or(PrepareError::Missing { field: "process" })?;
        let linux = spec.linux().as_ref().ok_or(PrepareError::Missing { field: "linux" })?;
        let namespaces = Namespaces::of(spec)?;
        let cgroup_path = linux.cgroups_path().as_ref().ok_or(PrepareError::Missing {
            field: "linux.cgroupsPath",
        })?;
        let cgroup_path = cgroup_path.to_string_lossy();
        let entry = machine.cgroups.entry(&cgroup_path)?;

        let mut mounts = Vec::new();
        let mut links = Vec::new();
        let mut own_dev = false;
        for mount in spec.mounts().iter().flatten() {
            if mount.typ().as_deref() == Some("cgroup") || mount.typ().as_deref() == Some("cgroup2") {
                let own = namespaces.new_cgroup;
                cgroup_mounts(
                    mount,
                    machine.cgroups.hierarchies(),
                    &cgroup_path,
                    own,
                    &mut mounts,
                    &mut links,
                )?;
                continue;
            }
            let planned = plan_mount(mount, parts.sub_paths)?;
            own_dev |= mount.destination() == Path::new("/dev") && matches!(planned.what, What::Bind { .. });
            mounts.push(planned);
        }
        // Whoever binds a /dev of his own has it as it is.
        let (devices, device_links) = if own_dev {
            (Vec::new(), Vec::new())
        } else {
            devices(linux.devices().as_deref().unwrap_or_default())?
        };
        links.extend(device_links);

        let terminal = process.terminal().unwrap_or(false).then(|| terminal(process));
        let (ours, stdio) = if terminal.is_some() {
            (Streams::default(), None)
        } else {
            let (ours, theirs) = streams(parts.stdin).map_err(PrepareError::Streams)?;
            (ours, Some(theirs))
        };
        let trees = mounts.iter().map(|_| None).collect();
        let root = spec.root().as_ref();
        let plan = Plan {
            clone_flags: namespaces.clone_flags,
            pid_namespace: namespaces.pid,
            join: namespaces.join,
            new_cgroup_namespace: namespaces.new_cgroup,
            cgroup: entry,
            oom_score_adj: process.oom_score_adj().map(|score| plain_number(score.into())),
            sysctls: sysctls(linux.sysctl().as_ref())?,
            root: Root {
                lower: parts
                    .lower
                    .iter()
                    .map(|path| path_string("layer", path))
                    .collect::<Result<_, _>>()?,
                upper: path_string("upper layer", parts.upper)?,
                work: path_string("work directory", parts.work)?,
                target: path_string("root target", parts.target)?,
                readonly: root.and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
                propagation: root_propagation(linux.rootfs_propagation().as_deref())?,
            },
            mounts,
            trees,
            devices,
            links,
            terminal,
            masked: paths("masked path", linux.masked_paths().as_deref())?,
            readonly: paths("read-only path", linux.readonly_paths().as_deref())?,
            cwd: absolute("working directory", process.cwd())?,
            stdio,
            rlimits: process.rlimits().iter().flatten().map(rlimit).collect(),
            umask: process.user().umask().unwrap_or(0o022),
            uid: process.user().uid(),
            gid: process.user().gid(),
            groups: process.user().additional_gids().clone().unwrap_or_default(),
            capabilities: Capabilities::of(process.capabilities().as_ref(), machine.available),
            last_capability: machine.last_capability,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            seccomp: parts.seccomp.clone(),
            exec: exec(process)?,
        };
        if plan.root.lower.is_empty() {
            return Err(PrepareError::Missing { field: "root layers" });
        }
        Ok(Self {
            plan,
            ours,
            shares_pid_namespace: namespaces.shares_pid,
        })
    }

    /// Clone. The child goes on by itself; its channel tells how.
    ///
    /// # Errors
    /// No process, no descriptor, or (`ENOMEM`) the pid namespace to join is dead. What was made is gone again.
    pub fn start(self, machine: &Machine) -> io::Result<Starting> {
        let Self {
            mut plan,
            ours,
            shares_pid_namespace,
        } = self;
        let (channel, childs_end) = fd::message_pair()?;
        if let Some(namespace) = &plan.pid_namespace {
            sys::setns(namespace.as_fd(), libc::CLONE_NEWPID)?;
        }
        let directory = plan.cgroup.directory.as_ref().map(AsFd::as_fd);
        // SAFETY: the child calls `child::run` at once, which only makes system calls and never returns.
        let cloned = unsafe { process::clone3(plan.clone_flags, directory) };
        if matches!(cloned, Ok(Cloned::Child)) {
            child::run(&mut plan, childs_end.as_fd());
        }
        if plan.pid_namespace.is_some()
            && let Err(errno) = sys::setns(machine.own_pid_namespace.as_fd(), libc::CLONE_NEWPID)
        {
            // The next container would be born in the wrong place, and this one must not live without a name.
            if let Ok(Cloned::Parent { pidfd, .. }) = cloned {
                process::signal(pidfd.as_fd(), libc::SIGKILL)?;
            }
            return Err(errno.into());
        }
        match cloned? {
            Cloned::Parent { pid, pidfd } => {
                // What only the child needs is closed on this side.
                plan.stdio = None;
                plan.join.clear();
                plan.pid_namespace = None;
                plan.cgroup = Entry {
                    tasks: Vec::new(),
                    directory: None,
                };
                Ok(Starting {
                    pid,
                    pidfd,
                    streams: ours,
                    shares_pid_namespace,
                    channel,
                    plan,
                    ready: false,
                })
            }
            Cloned::Child => unreachable!("the child has been sent its own way"),
        }
    }
}

fn refuse_unsupported(spec: &Spec) -> Result<(), PrepareError> {
    let refuse = |present: bool, field| {
        if present {
            Err(PrepareError::Unsupported { field })
        } else {
            Ok(())
        }
    };
    let hooks = spec.hooks().as_ref().and_then(|hooks| serde_json::to_value(hooks).ok());
    let any_hook = hooks
        .as_ref()
        .and_then(serde_json::Value::as_object)
        .is_some_and(|kinds| {
            kinds
                .values()
                .any(|list| list.as_array().is_some_and(|hooks| !hooks.is_empty()))
        });
    refuse(any_hook, "hooks")?;
    if let Some(process) = spec.process() {
        let given = |text: &Option<String>| text.as_deref().is_some_and(|t| !t.is_empty());
        let profile = process.apparmor_profile().as_deref();
        refuse(
            profile.is_some_and(|p| !p.is_empty() && p != "unconfined"),
            "process.apparmorProfile",
        )?;
        refuse(given(process.selinux_label()), "process.selinuxLabel")?;
        refuse(process.scheduler().is_some(), "process.scheduler")?;
        refuse(process.io_priority().is_some(), "process.ioPriority")?;
        refuse(process.exec_cpu_affinity().is_some(), "process.execCPUAffinity")?;
    }
    if let Some(linux) = spec.linux() {
        let mapped = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|l| !l.is_empty());
        refuse(
            mapped(linux.uid_mappings()) || mapped(linux.gid_mappings()),
            "linux.uidMappings",
        )?;
        refuse(linux.intel_rdt().is_some(), "linux.intelRdt")?;
        refuse(linux.personality().is_some(), "linux.personality")?;
        refuse(
            linux.time_offsets().as_ref().is_some_and(|t| !t.is_empty()),
            "linux.timeOffsets",
        )?;
        refuse(
            linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()),
            "linux.netDevices",
        )?;
        refuse(linux.memory_policy().is_some(), "linux.memoryPolicy")?;
        refuse(
            linux.mount_label().as_deref().is_some_and(|l| !l.is_empty()),
            "linux.mountLabel",
        )?;
    }
    Ok(())
}

/// Which namespaces are new and which are joined.
struct Namespaces {
    clone_flags: u64,
    pid: Option<OwnedFd>,
    join: Vec<Join>,
    new_cgroup: bool,
    shares_pid: bool,
}

impl Namespaces {
    fn of(spec: &Spec) -> Result<Self, PrepareError> {
        let mut all = Self {
            clone_flags: 0,
            pid: None,
            join: Vec::new(),
            new_cgroup: false,
            shares_pid: true,
        };
        let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        for namespace in listed.into_iter().flatten() {
            let (kind, name) = match namespace.typ() {
                LinuxNamespaceType::Mount => (libc::CLONE_NEWNS, "mount"),
                LinuxNamespaceType::Cgroup => (libc::CLONE_NEWCGROUP, "cgroup"),
                LinuxNamespaceType::Uts => (libc::CLONE_NEWUTS, "uts"),
                LinuxNamespaceType::Ipc => (libc::CLONE_NEWIPC, "ipc"),
                LinuxNamespaceType::Pid => (libc::CLONE_NEWPID, "pid"),
                LinuxNamespaceType::Network => (libc::CLONE_NEWNET, "network"),
                LinuxNamespaceType::User => {
                    return Err(PrepareError::Unsupported {
                        field: "a user namespace",
                    });
                }
                LinuxNamespaceType::Time => {
                    return Err(PrepareError::Unsupported {
                        field: "a time namespace",
                    });
                }
            };
            match namespace.path() {
                Some(_) if kind == libc::CLONE_NEWNS => {
                    return Err(PrepareError::Unsupported {
                        field: "joining a mount namespace",
                    });
                }
                Some(path) => {
                    let opened = open_namespace(path).map_err(|source| PrepareError::Namespace {
                        kind: name,
                        path: path.clone(),
                        source,
                    })?;
                    if kind == libc::CLONE_NEWPID {
                        all.pid = Some(opened);
                    } else {
                        all.join.push(Join {
                            namespace: opened,
                            kind,
                            name,
                        });
                    }
                }
                None if kind == libc::CLONE_NEWCGROUP => all.new_cgroup = true,
                None => {
                    all.shares_pid &= kind != libc::CLONE_NEWPID;
                    all.clone_flags |= u64::from(kind.cast_unsigned());
                }
            }
        }
        if all.clone_flags & u64::from(libc::CLONE_NEWNS.cast_unsigned()) == 0 {
            return Err(PrepareError::Missing {
                field: "mount namespace",
            });
        }
        Ok(all)
    }
}

fn open_namespace(path: &Path) -> io::Result<OwnedFd> {
    Ok(std::fs::File::open(path)?.into())
}

fn c_string(what: &'static str, bytes: &[u8]) -> Result<CString, PrepareError> {
    CString::new(bytes).map_err(|_| PrepareError::Nul {
        what,
        value: String::from_utf8_lossy(bytes).into_owned(),
    })
}

fn path_string(what: &'static str, path: &Path) -> Result<CString, PrepareError> {
    c_string(what, path.as_os_str().as_bytes())
}

fn absolute(what: &'static str, path: &Path) -> Result<CString, PrepareError> {
    if !path.is_absolute() {
        return Err(PrepareError::NotAbsolute {
            what,
            path: path.to_owned(),
        });
    }
    path_string(what, path)
}

fn paths(what: &'static str, list: Option<&[String]>) -> Result<Vec<CString>, PrepareError> {
    list.unwrap_or_default()
        .iter()
        .map(|path| absolute(what, Path::new(path)))
        .collect()
}

fn plain_number(number: i64) -> CString {
    CString::new(number.to_string()).expect("digits hold no NUL")
}

fn plan_mount(mount: &SpecMount, sub_paths: &HashMap<PathBuf, PathBuf>) -> Result<Mount, PrepareError> {
    let destination = mount.destination();
    let options = mount.options().iter().flatten().map(String::as_str);
    let options = MountOptions::parse(options).map_err(|source| PrepareError::MountOption {
        destination: destination.clone(),
        source,
    })?;
    if mount.uid_mappings().as_ref().is_some_and(|m| !m.is_empty()) {
        return Err(PrepareError::Unsupported {
            field: "an id-mapped mount",
        });
    }
    let kind = mount.typ().as_deref().unwrap_or("none");
    let shared = options.shared();
    let mut propagation = options.propagation;
    let what = if options.bind.is_some() || kind == "bind" {
        let source = mount.source().as_ref().ok_or_else(|| PrepareError::MountSource {
            destination: destination.clone(),
        })?;
        if propagation.is_empty() {
            propagation.push(libc::MS_PRIVATE | libc::MS_REC);
        }
        What::Bind {
            source: absolute("mount source", source)?,
            sub_path: sub_paths
                .get(destination)
                .map(|path| sub_path(destination, path))
                .transpose()?,
            recursive: options.bind == Some(Recursive::Yes),
            attr: options.attr,
            attr_recursive: options.attr_recursive,
            shared,
        }
    } else {
        // Others are mounted beneath a tmpfs before it can be read-only.
        let late_readonly = kind == "tmpfs" && options.flags & libc::MS_RDONLY != 0;
        What::New {
            kind: c_string("mount type", kind.as_bytes())?,
            source: path_string("mount source", mount.source().as_deref().unwrap_or(Path::new(kind)))?,
            flags: if late_readonly {
                options.flags & !libc::MS_RDONLY
            } else {
                options.flags
            },
            data: c_string("mount options", options.data.as_bytes())?,
            late_readonly,
            no_links: kind == "proc" || kind == "sysfs",
        }
    };
    Ok(Mount {
        destination: absolute("mount destination", destination)?,
        propagation,
        what,
    })
}

fn sub_path(destination: &Path, path: &Path) -> Result<CString, PrepareError> {
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain || path.as_os_str().is_empty() {
        return Err(PrepareError::SubPath {
            destination: destination.to_owned(),
            path: path.to_owned(),
        });
    }
    path_string("sub path", path)
}

/// What a mount of type `cgroup` becomes on this machine: v2, or the v1 hierarchies beneath a tmpfs, as runc has it.
fn cgroup_mounts(
    mount: &SpecMount,
    hierarchies: &[super::cgroup::Hierarchy],
    path: &str,
    own_namespace: bool,
    mounts: &mut Vec<Mount>,
    links: &mut Vec<Link>,
) -> Result<(), PrepareError> {
    let destination = mount.destination();
    let options = mount.options().iter().flatten().map(String::as_str);
    let options = MountOptions::parse(options).map_err(|source| PrepareError::MountOption {
        destination: destination.clone(),
        source,
    })?;
    let path = path.trim_start_matches('/');
    let beneath = |hierarchy: &super::cgroup::Hierarchy, destination: PathBuf| -> Result<Mount, PrepareError> {
        let what = if own_namespace {
            What::New {
                kind: if hierarchy.v2 { c"cgroup2" } else { c"cgroup" }.to_owned(),
                source: c"cgroup".to_owned(),
                flags: options.flags,
                data: if hierarchy.v2 {
                    c"".to_owned()
                } else if hierarchy.controllers.is_empty() {
                    c_string("cgroup", format!("none,name={}", hierarchy.name).as_bytes())?
                } else {
                    c_string("cgroup", hierarchy.controllers.join(",").as_bytes())?
                },
                late_readonly: false,
                no_links: true,
            }
        } else {
            What::Bind {
                source: absolute("cgroup", &hierarchy.mount_point.join(path))?,
                sub_path: None,
                recursive: false,
                attr: options.attr,
                attr_recursive: options.attr_recursive,
                shared: false,
            }
        };
        Ok(Mount {
            destination: absolute("mount destination", &destination)?,
            propagation: Vec::new(),
            what,
        })
    };
    let used: Vec<_> = hierarchies.iter().filter(|h| h.used).collect();
    if let [only] = used.as_slice()
        && only.v2
    {
        mounts.push(beneath(only, destination.clone())?);
        return Ok(());
    }
    mounts.push(Mount {
        destination: absolute("mount destination", destination)?,
        propagation: Vec::new(),
        what: What::New {
            kind: c"tmpfs".to_owned(),
            source: c"tmpfs".to_owned(),
            flags: libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            data: c"mode=755".to_owned(),
            late_readonly: options.flags & libc::MS_RDONLY != 0,
            no_links: true,
        },
    });
    for hierarchy in used {
        mounts.push(beneath(hierarchy, destination.join(&hierarchy.name))?);
        // `cpu` where the directory is `cpu,cpuacct`.
        for controller in hierarchy
            .controllers
            .iter()
            .filter(|c| !hierarchy.v2 && **c != hierarchy.name)
        {
            links.push(Link {
                directory: absolute("mount destination", destination)?,
                name: c_string("controller", controller.as_bytes())?,
                target: c_string("controller", hierarchy.name.as_bytes())?,
            });
        }
    }
    Ok(())
}

/// The devices every container has (config-linux.md, "Default Devices"), those of the spec, and the usual links.
fn devices(spec: &[LinuxDevice]) -> Result<(Vec<Device>, Vec<Link>), PrepareError> {
    const DEFAULT: [(&str, u32, u32); 6] = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ];
    const LINKS: [(&std::ffi::CStr, &std::ffi::CStr); 5] = [
        (c"fd", c"/proc/self/fd"),
        (c"stdin", c"/proc/self/fd/0"),
        (c"stdout", c"/proc/self/fd/1"),
        (c"stderr", c"/proc/self/fd/2"),
        (c"ptmx", c"pts/ptmx"),
    ];
    let mut devices = Vec::new();
    for (name, major, minor) in DEFAULT {
        if !spec.iter().any(|device| device.path() == &Path::new("/dev").join(name)) {
            devices.push(Device {
                directory: c"/dev".to_owned(),
                name: c_string("device", name.as_bytes())?,
                mode: libc::S_IFCHR | 0o666,
                number: sys::device_number(major, minor),
                uid: 0,
                gid: 0,
            });
        }
    }
    for device in spec {
        devices.push(plan_device(device)?);
    }
    let mut links = Vec::new();
    for (name, target) in LINKS {
        links.push(Link {
            directory: c"/dev".to_owned(),
            name: name.to_owned(),
            target: target.to_owned(),
        });
    }
    if Path::new("/proc/kcore").exists() {
        links.push(Link {
            directory: c"/dev".to_owned(),
            name: c"core".to_owned(),
            target: c"/proc/kcore".to_owned(),
        });
    }
    Ok((devices, links))
}

fn plan_device(device: &LinuxDevice) -> Result<Device, PrepareError> {
    let path = device.path();
    let wrong = || PrepareError::Device { path: path.clone() };
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(wrong()),
    };
    let number = |value: i64| u32::try_from(value).map_err(|_| wrong());
    let (major, minor) = if kind == libc::S_IFIFO {
        (0, 0)
    } else {
        (number(device.major())?, number(device.minor())?)
    };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(wrong());
    };
    Ok(Device {
        directory: absolute("device", directory)?,
        name: c_string("device", name.as_bytes())?,
        mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
        number: sys::device_number(major, minor),
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

fn sysctls(spec: Option<&HashMap<String, String>>) -> Result<Vec<Sysctl>, PrepareError> {
    let mut planned = Vec::new();
    for (name, value) in spec.into_iter().flatten() {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'_' | b'-');
        // Both spellings are in use; in that with slashes a dot belongs to a name (an interface's, say).
        let path = if name.contains('/') {
            name.clone()
        } else {
            name.replace('.', "/")
        };
        let climbs = path
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..");
        if climbs || !name.bytes().all(plain) {
            return Err(PrepareError::Sysctl { name: name.clone() });
        }
        planned.push(Sysctl {
            name: name.clone(),
            path: c_string("sysctl", format!("/proc/sys/{path}").as_bytes())?,
            value: c_string("sysctl", value.as_bytes())?,
        });
    }
    planned.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(planned)
}

fn root_propagation(value: Option<&str>) -> Result<Option<libc::c_ulong>, PrepareError> {
    Ok(match value {
        None | Some("") => None,
        Some("private") => Some(libc::MS_PRIVATE),
        Some("rprivate") => Some(libc::MS_PRIVATE | libc::MS_REC),
        Some("slave") => Some(libc::MS_SLAVE),
        Some("rslave") => Some(libc::MS_SLAVE | libc::MS_REC),
        Some("shared") => Some(libc::MS_SHARED),
        Some("rshared") => Some(libc::MS_SHARED | libc::MS_REC),
        Some("unbindable") => Some(libc::MS_UNBINDABLE),
        Some("runbindable") => Some(libc::MS_UNBINDABLE | libc::MS_REC),
        Some(other) => {
            return Err(PrepareError::Propagation {
                value: other.to_owned(),
            });
        }
    })
}

fn terminal(process: &Process) -> Terminal {
    let size = process.console_size();
    let number = |value: Option<u64>| value.and_then(|v| u16::try_from(v).ok()).unwrap_or(0);
    Terminal {
        rows: number(size.map(|s| s.height())),
        columns: number(size.map(|s| s.width())),
    }
}

fn streams(stdin: bool) -> io::Result<(Streams, [OwnedFd; 3])> {
    let (our_stdin, their_stdin) = if stdin {
        let (reads, writes) = fd::pipe()?;
        (Some(writes), reads)
    } else {
        (None, sys::open(c"/dev/null", libc::O_RDONLY)?)
    };
    let (our_stdout, their_stdout) = fd::pipe()?;
    let (our_stderr, their_stderr) = fd::pipe()?;
    fd::set_nonblocking(our_stdout.as_fd())?;
    fd::set_nonblocking(our_stderr.as_fd())?;
    let ours = Streams {
        stdin: our_stdin,
        stdout: Some(our_stdout),
        stderr: Some(our_stderr),
    };
    Ok((ours, [their_stdin, their_stdout, their_stderr]))
}

fn rlimit(limit: &oci_spec::runtime::PosixRlimit) -> (i32, libc::rlimit64) {
    // include/uapi/asm-generic/resource.h
    let resource = match limit.typ() {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    };
    (
        resource,
        libc::rlimit64 {
            rlim_cur: limit.soft(),
            rlim_max: limit.hard(),
        },
    )
}

fn exec(process: &Process) -> Result<Exec, PrepareError> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let environment = process.env().as_deref().unwrap_or_default();
    let program = arguments
        .first()
        .ok_or(PrepareError::Missing { field: "process.args" })?;
    let searched = !program.contains('/');
    let candidates = if searched {
        // As execvpe(3): an empty element is the working directory, an empty name is nowhere.
        let path = environment
            .iter()
            .rev()
            .find_map(|variable| variable.strip_prefix("PATH="))
            .unwrap_or(DEFAULT_PATH);
        path.split(':')
            .filter(|_| !program.is_empty())
            .map(|directory| {
                let directory = if directory.is_empty() { "." } else { directory };
                c_string("argument", format!("{directory}/{program}").as_bytes())
            })
            .collect::<Result<_, _>>()?
    } else {
        vec![c_string("argument", program.as_bytes())?]
    };
    let strings = |what, list: &[String]| {
        list.iter()
            .map(|text| c_string(what, text.as_bytes()))
            .collect::<Result<Vec<_>, _>>()
            .map(sys::Strings::new)
    };
    Ok(Exec {
        program: program.clone(),
        searched,
        candidates,
        arguments: strings("argument", arguments)?,
        environment: strings("environment variable", environment)?,
    })
}

/// What an errno of the clone means where it can be said better.
pub fn clone_error_words(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOMEM) => "make process: out of memory, or the pid namespace to join is dead".to_owned(),
        Some(errno) => format!("make process: {}", super::plan::errno_words(errno)),
        None => format!("make process: {error}"),
    }
}

#[cfg(test)]
mod tests;
