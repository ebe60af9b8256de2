//! An OCI runtime spec, understood field by field.
//!
//! Goes in: parts of the spec. Comes out: parts of the [`Plan`](crate::linux::plan::Plan), or what is wrong with the spec.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::libc;
use oci_spec::runtime::{
    LinuxDevice, LinuxDeviceType, LinuxIdMapping, LinuxNamespaceType, Mount as SpecMount, PosixRlimitType, Process,
    Spec,
};

use super::PrepareError;
use crate::linux::cgroup::Hierarchy;
use crate::linux::mount::{MountOptions, Recursive};
use crate::linux::plan::{Device, Exec, Join, Link, Mount, Sysctl, Terminal, What};
use crate::linux::sys;

/// Directories that are searched when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn refuse_unsupported(spec: &Spec) -> Result<(), PrepareError> {
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
        refuse(given(process.selinux_label()), "process.selinuxLabel")?;
        refuse(process.scheduler().is_some(), "process.scheduler")?;
        refuse(process.io_priority().is_some(), "process.ioPriority")?;
        refuse(process.exec_cpu_affinity().is_some(), "process.execCPUAffinity")?;
    }
    if let Some(linux) = spec.linux() {
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
pub(super) struct Namespaces {
    pub(super) clone_flags: u64,
    pub(super) pid: Option<OwnedFd>,
    pub(super) join: Vec<Join>,
    pub(super) user: Option<OwnedFd>,
    pub(super) new_cgroup: bool,
    pub(super) shares_pid: bool,
}

impl Namespaces {
    pub(super) fn of(spec: &Spec) -> Result<Self, PrepareError> {
        let mut all = Self {
            clone_flags: 0,
            pid: None,
            join: Vec::new(),
            user: None,
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
                LinuxNamespaceType::User => (libc::CLONE_NEWUSER, "user"),
                LinuxNamespaceType::Time => {
                    return Err(PrepareError::Unsupported {
                        field: "a time namespace",
                    });
                }
            };
            match namespace.path() {
                None if kind == libc::CLONE_NEWUSER => {
                    return Err(PrepareError::Unsupported {
                        field: "a new user namespace",
                    });
                }
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
                    } else if kind == libc::CLONE_NEWUSER {
                        all.user = Some(opened);
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

/// The machine's id of the user namespace's 0. Users and groups are mapped alike, by one range.
pub(super) fn first_id(spec: &Spec) -> Result<Option<u32>, PrepareError> {
    let linux = spec.linux().as_ref();
    let first = |mappings: Option<&Vec<LinuxIdMapping>>| match mappings.map_or(&[][..], |list| list) {
        [] => Ok(None),
        [only] if only.container_id() == 0 => Ok(Some(only.host_id())),
        _ => Err(PrepareError::UserNamespace),
    };
    let users = first(linux.and_then(|linux| linux.uid_mappings().as_ref()))?;
    let groups = first(linux.and_then(|linux| linux.gid_mappings().as_ref()))?;
    if users == groups {
        Ok(users)
    } else {
        Err(PrepareError::UserNamespace)
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

pub(super) fn path_string(what: &'static str, path: &Path) -> Result<CString, PrepareError> {
    c_string(what, path.as_os_str().as_bytes())
}

pub(super) fn absolute(what: &'static str, path: &Path) -> Result<CString, PrepareError> {
    if !path.is_absolute() {
        return Err(PrepareError::NotAbsolute {
            what,
            path: path.to_owned(),
        });
    }
    path_string(what, path)
}

pub(super) fn paths(what: &'static str, list: Option<&[String]>) -> Result<Vec<CString>, PrepareError> {
    list.unwrap_or_default()
        .iter()
        .map(|path| absolute(what, Path::new(path)))
        .collect()
}

pub(super) fn plain_number(number: i64) -> CString {
    CString::new(number.to_string()).expect("digits hold no NUL")
}

/// `first`: the machine's id of the container's 0.
pub(super) fn plan_mount(
    mount: &SpecMount,
    sub_paths: &HashMap<PathBuf, PathBuf>,
    first: u32,
) -> Result<Mount, PrepareError> {
    let destination = mount.destination();
    let options = mount.options().iter().flatten().map(String::as_str);
    let options = MountOptions::parse(options).map_err(|source| PrepareError::MountOption {
        destination: destination.clone(),
        source,
    })?;
    // With the ids of the container's own namespace, whatever they say: podd makes no others.
    let mapped = mount.uid_mappings().as_ref().is_some_and(|m| !m.is_empty());
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
            mapped,
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
            data: c_string("mount options", owned_by(&options.data, first).as_bytes())?,
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

/// `uid=` and `gid=` are the container's ids; the file system is mounted where the machine's count.
fn owned_by(data: &str, first: u32) -> String {
    let own = |option: &str| {
        let (name, id) = option
            .split_once('=')
            .filter(|(name, _)| matches!(*name, "uid" | "gid"))?;
        Some(format!("{name}={}", id.parse::<u32>().ok()?.checked_add(first)?))
    };
    let words = data
        .split(',')
        .map(|option| own(option).unwrap_or_else(|| option.to_owned()));
    words.collect::<Vec<_>>().join(",")
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
pub(super) fn cgroup_mounts(
    mount: &SpecMount,
    hierarchies: &[Hierarchy],
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
    let beneath = |hierarchy: &Hierarchy, destination: PathBuf| -> Result<Mount, PrepareError> {
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
                mapped: false,
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
pub(super) fn devices(spec: &[LinuxDevice]) -> Result<(Vec<Device>, Vec<Link>), PrepareError> {
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
                is_default: true,
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
        is_default: false,
    })
}

pub(super) fn sysctls(spec: Option<&HashMap<String, String>>) -> Result<Vec<Sysctl>, PrepareError> {
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

pub(super) fn root_propagation(value: Option<&str>) -> Result<Option<libc::c_ulong>, PrepareError> {
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

pub(super) fn terminal(process: &Process) -> Terminal {
    let size = process.console_size();
    let number = |value: Option<u64>| value.and_then(|v| u16::try_from(v).ok()).unwrap_or(0);
    Terminal {
        rows: number(size.map(|s| s.height())),
        columns: number(size.map(|s| s.width())),
    }
}

pub(super) fn rlimit(limit: &oci_spec::runtime::PosixRlimit) -> (i32, libc::rlimit64) {
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

pub(super) fn exec(process: &Process) -> Result<Exec, PrepareError> {
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

#[cfg(test)]
mod tests;
