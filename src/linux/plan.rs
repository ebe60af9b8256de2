//! Everything a container's process needs to know between clone and exec, made ready before the clone.
//!
//! Goes in: the work of `container.rs` and `join.rs`. Comes out: what `child.rs` and `guest.rs` carry out, and the words
//! for what went wrong there.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

use super::capability::Capabilities;
use super::cgroup::Entry;
use super::idmap::{MapError, UserNamespace};
use super::seccomp::Program;
use super::sys::{self, MountAttr};

/// The whole plan of a first process. The child reads it from its copy of the parent's memory.
pub(super) struct Plan {
    /// Namespaces made by the clone itself.
    pub(super) clone_flags: u64,
    /// A pid namespace to be born into; the parent enters it for the moment of the clone.
    pub(super) pid_namespace: Option<OwnedFd>,
    pub(super) join: Vec<Join>,
    /// Entered when all is mounted, together with a mount namespace that is its own.
    pub(super) user: Option<UserNamespace>,
    /// Made after the cgroup is entered, because what is entered then becomes its root.
    pub(super) new_cgroup_namespace: bool,
    pub(super) cgroup: Entry,
    pub(super) sysctls: Vec<Sysctl>,
    pub(super) root: Root,
    pub(super) mounts: Vec<Mount>,
    /// A descriptor for each mount that is taken before the host's mounts are made private; empty otherwise.
    pub(super) trees: Vec<Option<OwnedFd>>,
    pub(super) devices: Vec<Device>,
    pub(super) links: Vec<Link>,
    pub(super) terminal: Option<Terminal>,
    pub(super) masked: Vec<CString>,
    pub(super) readonly: Vec<CString>,
    pub(super) cwd: CString,
    /// stdin, stdout, stderr; unused with a terminal.
    pub(super) stdio: Option<[OwnedFd; 3]>,
    pub(super) process: ProcessPlan,
    /// Wait, when everything but privileges and the program itself is in place, until the parent says a word.
    pub(super) held: bool,
}

/// What a process of a container becomes: its limits, its privileges and its program. The first one and those that join
/// it later have the same.
pub(super) struct ProcessPlan {
    pub(super) oom_score_adj: Option<CString>,
    pub(super) rlimits: Vec<(i32, libc::rlimit64)>,
    pub(super) umask: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<libc::gid_t>,
    pub(super) capabilities: Capabilities,
    pub(super) last_capability: u32,
    pub(super) no_new_privileges: bool,
    pub(super) seccomp: Option<Program>,
    /// What is written to the process's AppArmor attribute.
    pub(super) app_armor: Option<CString>,
    pub(super) exec: Exec,
}

pub(super) struct Join {
    pub(super) namespace: OwnedFd,
    pub(super) kind: libc::c_int,
    pub(super) name: &'static str,
}

pub(super) struct Sysctl {
    pub(super) name: String,
    /// Beneath the host's /proc/sys, which shows the namespaces of whoever opens it.
    pub(super) path: CString,
    pub(super) value: CString,
}

/// The overlay that becomes `/`.
pub(super) struct Root {
    /// Topmost first.
    pub(super) lower: Vec<CString>,
    pub(super) upper: CString,
    pub(super) work: CString,
    pub(super) target: CString,
    pub(super) readonly: bool,
    /// The directory that `upper` and `work` lie in.
    pub(super) home: CString,
    /// Of `/` at the end, if the spec names one.
    pub(super) propagation: Option<libc::c_ulong>,
}

pub(super) struct Mount {
    pub(super) destination: CString,
    pub(super) propagation: Vec<libc::c_ulong>,
    pub(super) what: What,
}

pub(super) enum What {
    Bind {
        source: CString,
        /// Beneath the source; made as a directory if nothing is there.
        sub_path: Option<CString>,
        recursive: bool,
        attr: MountAttr,
        attr_recursive: MountAttr,
        /// Its owners are counted as the container's user namespace does.
        mapped: bool,
        /// Taken while the host's mounts are still shared with us.
        shared: bool,
    },
    New {
        kind: CString,
        source: CString,
        flags: libc::c_ulong,
        data: CString,
        /// Made read-only when everything is in place.
        late_readonly: bool,
        /// No symbolic link anywhere in the destination (proc and sysfs, CVE-2019-19921).
        no_links: bool,
    },
}

pub(super) struct Device {
    /// The directory and the name in it.
    pub(super) directory: CString,
    pub(super) name: CString,
    /// Type and permissions.
    pub(super) mode: u32,
    pub(super) number: libc::dev_t,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// One that every container has. In a user namespace only these belong to its root: any other belongs to whom it
    /// belongs on the machine, and gives the container what it gives everybody.
    pub(super) is_default: bool,
}

pub(super) struct Link {
    pub(super) directory: CString,
    pub(super) name: CString,
    pub(super) target: CString,
}

pub(super) struct Terminal {
    pub(super) rows: u16,
    pub(super) columns: u16,
}

/// The program, as execve(2) wants it.
pub(super) struct Exec {
    /// What the user wrote.
    pub(super) program: String,
    /// Looked for along PATH (no slash in its name).
    pub(super) searched: bool,
    /// In the order of PATH; one if the name has a slash.
    pub(super) candidates: Vec<CString>,
    pub(super) arguments: sys::Strings,
    pub(super) environment: sys::Strings,
}

/// Where a child was when something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Step {
    Cgroup,
    ParentGone,
    Session,
    Join,
    CgroupNamespace,
    Sysctl,
    Propagation,
    Layer,
    UpperLayer,
    WorkLayer,
    RootOptions,
    MountRoot,
    OpenRoot,
    MountSource,
    MountTarget,
    Mount,
    Device,
    Link,
    Terminal,
    Mask,
    NullDevice,
    Readonly,
    LateReadonly,
    Cwd,
    ReadonlyRoot,
    Pivot,
    Stdio,
    Rlimit,
    AppArmor,
    Seccomp,
    Capabilities,
    Groups,
    User,
    NoNewPrivileges,
    Signals,
    Exec,
    Container,
    Fork,
    UserNamespace,
    MapRoot,
    MapMount,
}

impl Step {
    const ALL: [Self; 41] = [
        Self::Cgroup,
        Self::ParentGone,
        Self::Session,
        Self::Join,
        Self::CgroupNamespace,
        Self::Sysctl,
        Self::Propagation,
        Self::Layer,
        Self::UpperLayer,
        Self::WorkLayer,
        Self::RootOptions,
        Self::MountRoot,
        Self::OpenRoot,
        Self::MountSource,
        Self::MountTarget,
        Self::Mount,
        Self::Device,
        Self::Link,
        Self::Terminal,
        Self::Mask,
        Self::NullDevice,
        Self::Readonly,
        Self::LateReadonly,
        Self::Cwd,
        Self::ReadonlyRoot,
        Self::Pivot,
        Self::Stdio,
        Self::Rlimit,
        Self::AppArmor,
        Self::Seccomp,
        Self::Capabilities,
        Self::Groups,
        Self::User,
        Self::NoNewPrivileges,
        Self::Signals,
        Self::Exec,
        Self::Container,
        Self::Fork,
        Self::UserNamespace,
        Self::MapRoot,
        Self::MapMount,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// A step, which of its kind, and the kernel's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) step: Step,
    pub(super) index: u32,
    pub(super) errno: Errno,
}

impl Step {
    /// For `map_err`: this step, the only one of its kind.
    pub(super) fn fault(self) -> impl FnOnce(Errno) -> Fault {
        self.at(0)
    }

    /// For `map_err`: this step, the n-th of its kind.
    pub(super) fn at(self, index: usize) -> impl FnOnce(Errno) -> Fault {
        move |errno| Fault {
            step: self,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            errno,
        }
    }
}

/// What a child says on its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Fault(Fault),
    /// A terminal's master comes with this.
    Terminal,
    /// The next thing is exec; if nothing follows but the end, it went well.
    Ready,
    /// Who shall become the program, by its pid in the caller's pid namespace.
    Child(i32),
}

/// A word is three numbers of 32 bits.
pub(super) const WORD_LENGTH: usize = 12;

impl Word {
    pub(super) fn encode(self) -> [u8; WORD_LENGTH] {
        let (kind, step, index, errno) = match self {
            Self::Fault(fault) => (1_u8, fault.step as u32, fault.index, fault.errno as i32),
            Self::Terminal => (2, 0, 0, 0),
            Self::Ready => (3, 0, 0, 0),
            Self::Child(pid) => (4, 0, pid.cast_unsigned(), 0),
        };
        let mut bytes = [0; WORD_LENGTH];
        // The kind shares its number with the step, of which there are few.
        bytes[..4].copy_from_slice(&(step << 8 | u32::from(kind)).to_le_bytes());
        bytes[4..8].copy_from_slice(&index.to_le_bytes());
        bytes[8..].copy_from_slice(&errno.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; WORD_LENGTH] = bytes.try_into().ok()?;
        let number = |at: usize| bytes[at..].first_chunk::<4>().copied().unwrap_or_default();
        let first = u32::from_le_bytes(number(0));
        match first & 0xff {
            1 => Some(Self::Fault(Fault {
                step: Step::from_number(first >> 8)?,
                index: u32::from_le_bytes(number(4)),
                errno: Errno::from_raw(i32::from_le_bytes(number(8))),
            })),
            2 => Some(Self::Terminal),
            3 => Some(Self::Ready),
            4 => Some(Self::Child(i32::from_le_bytes(number(4)))),
            _ => None,
        }
    }
}

/// The kernel's word, as runc writes it: `no such file or directory`.
pub(super) fn errno_words(errno: Errno) -> String {
    let text = errno.desc();
    let mut characters = text.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

impl Plan {
    /// The container's user, as the machine counts.
    pub(super) fn outer_uid(&self) -> u32 {
        let first = self.user.as_ref().map_or(0, |user| user.first);
        self.process.uid.saturating_add(first)
    }

    /// What a user is told about a fault.
    pub(super) fn describe(&self, fault: Fault) -> String {
        let Fault { step, index, errno } = fault;
        let words = errno_words(errno);
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let quoted = |text: Option<&CString>| format!("{:?}", text.map(|t| t.to_string_lossy()).unwrap_or_default());
        let mounted = |mount: Option<&Mount>| {
            let Some(mount) = mount else { return String::new() };
            let destination = mount.destination.to_string_lossy();
            match &mount.what {
                What::Bind {
                    source,
                    sub_path: Some(sub_path),
                    ..
                } => {
                    let (source, sub_path) = (source.to_string_lossy(), sub_path.to_string_lossy());
                    format!("mount {sub_path:?} of {source:?} to {destination:?}")
                }
                What::Bind { source, .. } => format!("mount {:?} to {destination:?}", source.to_string_lossy()),
                What::New { kind, .. } => format!("mount {} to {destination:?}", kind.to_string_lossy()),
            }
        };
        match step {
            Step::Join => {
                format!(
                    "join {} namespace: {words}",
                    self.join.get(index).map_or("", |join| join.name)
                )
            }
            Step::CgroupNamespace => format!("new cgroup namespace: {words}"),
            Step::Sysctl => {
                let name = self.sysctls.get(index).map_or("", |sysctl| sysctl.name.as_str());
                format!("sysctl {name:?}: {words}")
            }
            Step::Propagation => format!("make mounts private: {words}"),
            Step::Layer => format!(
                "root file system: layer {}: {words}",
                quoted(self.root.lower.get(index))
            ),
            Step::UpperLayer => format!("root file system: {}: {words}", quoted(Some(&self.root.upper))),
            Step::WorkLayer => format!("root file system: {}: {words}", quoted(Some(&self.root.work))),
            Step::RootOptions => format!("root file system: {} layers: {words}", self.root.lower.len()),
            Step::MountRoot => format!("root file system: mount overlay: {words}"),
            Step::OpenRoot => format!("root file system: {}: {words}", quoted(Some(&self.root.target))),
            Step::MountSource => format!("{}: source: {words}", mounted(self.mounts.get(index))),
            Step::MountTarget => format!("{}: destination: {words}", mounted(self.mounts.get(index))),
            Step::Mount => format!("{}: {words}", mounted(self.mounts.get(index))),
            Step::LateReadonly => format!("{}: make read-only: {words}", mounted(self.mounts.get(index))),
            Step::Device => {
                let path = self.devices.get(index).map_or_else(String::new, |device| {
                    format!(
                        "{}/{}",
                        device.directory.to_string_lossy(),
                        device.name.to_string_lossy()
                    )
                });
                format!("device {path:?}: {words}")
            }
            Step::Link => {
                let path = self.links.get(index).map_or_else(String::new, |link| {
                    format!("{}/{}", link.directory.to_string_lossy(), link.name.to_string_lossy())
                });
                format!("link {path:?}: {words}")
            }
            Step::Mask => format!("mask {}: {words}", quoted(self.masked.get(index))),
            Step::NullDevice => format!("/dev/null of the host is not the null device: {words}"),
            Step::Readonly => format!("make {} read-only: {words}", quoted(self.readonly.get(index))),
            Step::Cwd => format!("working directory {}: {words}", quoted(Some(&self.cwd))),
            Step::ReadonlyRoot => format!("make the root file system read-only: {words}"),
            Step::Pivot => format!("change root: {words}"),
            Step::UserNamespace => format!("enter the user namespace: {words}"),
            Step::MapRoot => format!("root file system: its file system cannot be id-mapped: {words}"),
            Step::MapMount => {
                let mount = self.mounts.get(index);
                let why = match mount.map(|mount| &mount.what) {
                    Some(What::Bind { source, .. }) if errno == Errno::EINVAL => {
                        let source = Path::new(OsStr::from_bytes(source.to_bytes()));
                        MapError::of(source, errno.into()).to_string()
                    }
                    Some(What::Bind { .. } | What::New { .. }) | None => {
                        format!("cannot be mounted with a pod's own ids: {words}")
                    }
                };
                format!("{}: {why}", mounted(mount))
            }
            Step::Cgroup
            | Step::ParentGone
            | Step::Session
            | Step::Terminal
            | Step::Stdio
            | Step::Container
            | Step::Fork
            | Step::Rlimit
            | Step::AppArmor
            | Step::Seccomp
            | Step::Capabilities
            | Step::Groups
            | Step::User
            | Step::NoNewPrivileges
            | Step::Signals
            | Step::Exec => self.process.describe(fault),
        }
    }
}

impl ProcessPlan {
    /// What a user is told about a fault of a step that all processes have in common.
    pub(super) fn describe(&self, fault: Fault) -> String {
        let Fault { step, index, errno } = fault;
        let words = errno_words(errno);
        match step {
            Step::Rlimit => format!("resource limit {index}: {words}"),
            Step::AppArmor => {
                let word = self.app_armor.as_ref().map(|word| word.to_string_lossy());
                let profile = word.as_deref().and_then(|word| word.strip_prefix("exec "));
                format!("apply AppArmor profile {:?}: {words}", profile.unwrap_or_default())
            }
            Step::Seccomp => format!("install seccomp filter: {words}"),
            Step::Capabilities => format!("set capabilities: {words}"),
            Step::Groups => format!("set groups of gid {}: {words}", self.gid),
            Step::User => format!("become user {}: {words}", self.uid),
            Step::NoNewPrivileges => format!("set no new privileges: {words}"),
            Step::Signals => format!("reset signals: {words}"),
            Step::Exec if self.exec.searched && errno == Errno::ENOENT => {
                format!("exec: {:?}: executable file not found in $PATH", self.exec.program)
            }
            Step::Exec => format!("exec: {:?}: {words}", self.exec.program),
            Step::Container => format!("join the container: {words}"),
            Step::Fork => format!("make process: {words}"),
            Step::Cgroup => format!("enter cgroup: {words}"),
            Step::ParentGone => format!("the shim is gone: {words}"),
            Step::Session => format!("new session: {words}"),
            Step::Terminal => format!("terminal: {words}"),
            Step::Stdio => format!("standard streams: {words}"),
            Step::Cwd => format!("working directory: {words}"),
            Step::UserNamespace => format!("enter the user namespace: {words}"),
            Step::Join
            | Step::CgroupNamespace
            | Step::Sysctl
            | Step::Propagation
            | Step::Layer
            | Step::UpperLayer
            | Step::WorkLayer
            | Step::RootOptions
            | Step::MountRoot
            | Step::OpenRoot
            | Step::MountSource
            | Step::MountTarget
            | Step::Mount
            | Step::Device
            | Step::Link
            | Step::Mask
            | Step::NullDevice
            | Step::Readonly
            | Step::LateReadonly
            | Step::ReadonlyRoot
            | Step::MapRoot
            | Step::MapMount
            | Step::Pivot => format!("{step:?}: {words}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_channel() {
        for step in Step::ALL {
            let word = Word::Fault(Fault {
                step,
                index: 7,
                errno: Errno::EPERM,
            });
            assert_eq!(Word::decode(&word.encode()), Some(word));
            assert_eq!(Step::from_number(step as u32), Some(step));
        }
        assert_eq!(Word::decode(&Word::Ready.encode()), Some(Word::Ready));
        assert_eq!(Word::decode(&Word::Terminal.encode()), Some(Word::Terminal));
        assert_eq!(Word::decode(&Word::Child(4711).encode()), Some(Word::Child(4711)));
        assert_eq!(Word::decode(b"short"), None);
        assert_eq!(Word::decode(&[9; WORD_LENGTH]), None);
    }

    #[test]
    fn the_kernels_words_begin_small() {
        assert_eq!(errno_words(Errno::ENOENT), "no such file or directory");
    }
}
