//! Control groups: make, limit, enter, count, kill and remove them, whichever layout the machine has.
//!
//! Goes in: the root of the hierarchies (`/sys/fs/cgroup`; a temporary directory in tests), the path of a cgroup
//! relative to each hierarchy's root (`podd/burstable/pod<uid>/web-0`), and OCI resources. Comes out: descriptors
//! through which a child enters, numbers, names.
//!
//! Three layouts exist. **v2**: one hierarchy at the root. **v1**: one directory for each controller (or for some
//! together). **Hybrid**: v1 directories and a v2 hierarchy (`unified`) beside them; there the v1 controllers decide,
//! and the v2 hierarchy is only used if cpu, memory or pids live there and nowhere else.
//!
//! Each cgroup costs about 10-25 µs to make in each v1 hierarchy, so only those that podd needs are used: cpu, cpuacct,
//! memory, pids, devices, freezer and, where it is mounted, hugetlb. cpuset is left out on purpose: making a cgroup and copying its parent's cpus and
//! mems costs 350 µs there, more than all others together, and podd pins nothing to cpus.
//!
//! **Invariant:** nothing here waits, and nothing here moves a process: a process enters by its own write or by
//! `CLONE_INTO_CGROUP` (see [`Entry`]).

mod controls;
mod device_filter;
mod kill;
mod resources;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

pub use controls::{Controls, page_size_name};
pub use usage::Limits;

/// Controllers podd makes cgroups for in v1.
const V1_CONTROLLERS: [&str; 7] = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer", "hugetlb"];
/// Controllers podd enables in v2, where the machine has them.
const V2_CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "cpuset", "hugetlb"];

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no cgroup hierarchy is mounted at {}", root.display())]
    NoHierarchy { root: PathBuf },
    /// Empty, or with a component that is not a plain name.
    #[error("{path:?} is not a cgroup's path")]
    InvalidPath { path: String },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make cgroup {}", path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {value:?} to {}", path.display())]
    Write {
        path: PathBuf,
        value: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot remove cgroup {}", path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot kill process {pid} of cgroup {path}")]
    Kill {
        path: String,
        pid: i32,
        #[source]
        source: io::Error,
    },
    #[error("cannot limit the devices of cgroup {}", path.display())]
    Devices {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cgroup {path} still makes new processes after {rounds} rounds of SIGKILL")]
    StillForking { path: String, rounds: usize },
}

/// One hierarchy of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// The directory's name beneath the root (`memory`, `cpu,cpuacct`, `systemd`, `unified`); empty for the one
    /// hierarchy of a v2 machine, which is the root itself.
    pub name: String,
    /// v1: the controllers mounted there (empty for a named hierarchy such as `systemd`). v2: those it offers.
    pub controllers: Vec<String>,
    pub mount_point: PathBuf,
    pub v2: bool,
    /// podd makes its cgroups here too.
    pub used: bool,
}

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|have| have == controller)
    }
}

/// How a process gets into a cgroup.
///
/// Never through `cgroup.procs`: that takes a lock for which an idle machine waits 13-19 ms (an RCU grace period).
#[derive(Debug)]
pub struct Entry {
    /// v1 and hybrid: the opened `tasks` files. The child, while it has one thread, writes `0` to each.
    pub tasks: Vec<OwnedFd>,
    /// v2: the cgroup's directory, for `CLONE_INTO_CGROUP`.
    pub directory: Option<OwnedFd>,
}

/// The machine's layout, looked at once.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// Look at what is mounted beneath `root` (`/sys/fs/cgroup`).
    ///
    /// # Errors
    /// `NoHierarchy` where nothing is that podd could use; `Read`.
    pub fn detect(root: &Path) -> Result<Self, CgroupError> {
        if let Some(controllers) = read_optional(&root.join("cgroup.controllers"))? {
            let hierarchy = Hierarchy {
                name: String::new(),
                controllers: words(&controllers),
                mount_point: root.to_owned(),
                v2: true,
                used: true,
            };
            return Ok(Self {
                hierarchies: vec![hierarchy],
            });
        }
        let mut hierarchies = Vec::new();
        for name in child_directories(root)? {
            let mount_point = root.join(&name);
            if let Some(controllers) = read_optional(&mount_point.join("cgroup.controllers"))? {
                hierarchies.push(Hierarchy {
                    name,
                    controllers: words(&controllers),
                    mount_point,
                    v2: true,
                    used: false,
                });
            } else if mount_point.join("tasks").exists() {
                let named = mount_point.join("cgroup.clone_children").exists() && name == "systemd";
                let controllers = if named {
                    Vec::new()
                } else {
                    name.split(',').map(str::to_owned).collect()
                };
                hierarchies.push(Hierarchy {
                    name,
                    controllers,
                    mount_point,
                    v2: false,
                    used: false,
                });
            }
        }
        let in_v1: Vec<String> = hierarchies
            .iter()
            .filter(|h| !h.v2)
            .flat_map(|h| h.controllers.iter().cloned())
            .collect();
        for hierarchy in &mut hierarchies {
            hierarchy.used = if hierarchy.v2 {
                ["cpu", "memory", "pids"]
                    .iter()
                    .any(|c| hierarchy.has(c) && !in_v1.iter().any(|v1| v1 == c))
            } else {
                V1_CONTROLLERS.iter().any(|c| hierarchy.has(c))
            };
        }
        if !hierarchies.iter().any(|h| h.used) {
            return Err(CgroupError::NoHierarchy { root: root.to_owned() });
        }
        Ok(Self { hierarchies })
    }

    /// Every hierarchy of the machine, sorted by name, also those that podd makes nothing in.
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    fn used(&self) -> impl Iterator<Item = &Hierarchy> {
        self.hierarchies.iter().filter(|h| h.used)
    }

    /// Make a cgroup and its parents in each hierarchy in use. In v2 the controllers are enabled in each ancestor.
    /// There already: nothing happens.
    ///
    /// # Errors
    /// `InvalidPath`, `Create`, and in v2 `Read` and `Write` (`EBUSY`: an ancestor has processes of its own).
    pub fn create(&self, path: &str) -> Result<(), CgroupError> {
        let path = relative(path)?;
        for hierarchy in self.used() {
            let directory = hierarchy.mount_point.join(path);
            fs::create_dir_all(&directory).map_err(|source| CgroupError::Create {
                path: directory.clone(),
                source,
            })?;
            if hierarchy.v2 {
                enable_controllers(hierarchy, path)?;
            }
        }
        Ok(())
    }

    /// Open what a new process needs to get into this cgroup.
    ///
    /// # Errors
    /// `InvalidPath`, `Open` (the cgroup is not there).
    pub fn entry(&self, path: &str) -> Result<Entry, CgroupError> {
        self.open_entry(|_| relative(path))
    }

    fn open_entry<'a>(&self, path: impl Fn(&Hierarchy) -> Result<&'a Path, CgroupError>) -> Result<Entry, CgroupError> {
        let mut entry = Entry {
            tasks: Vec::new(),
            directory: None,
        };
        for hierarchy in self.used() {
            let directory = hierarchy.mount_point.join(path(hierarchy)?);
            if hierarchy.v2 {
                let opened = fs::OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_DIRECTORY)
                    .open(&directory)
                    .map_err(|source| CgroupError::Open {
                        path: directory,
                        source,
                    })?;
                entry.directory = Some(opened.into());
            } else {
                let tasks = directory.join("tasks");
                let opened = fs::OpenOptions::new()
                    .write(true)
                    .open(&tasks)
                    .map_err(|source| CgroupError::Open { path: tasks, source })?;
                entry.tasks.push(opened.into());
            }
        }
        Ok(entry)
    }

    /// Make a cgroup named `name` beneath this one (which is there, with processes in it) for a program that joins those,
    /// and open what it needs to get in. What it does is counted and limited with the others; what it started can be
    /// found, and killed, by its own path `<path>/<name>`.
    ///
    /// In one hierarchy only, which is enough for that: in v2, where no controller is enabled for it, because a cgroup
    /// with processes cannot hand any on; in v1 in `freezer`, which counts nothing. Elsewhere it is in `path` itself.
    ///
    /// # Errors
    /// `InvalidPath`, `Create` (also where it is there already), `Open`.
    pub fn create_within(&self, path: &str, name: &str) -> Result<Entry, CgroupError> {
        let inner = format!("{path}/{name}");
        let hierarchy = self.marking();
        let directory = hierarchy.mount_point.join(relative(&inner)?);
        fs::create_dir(&directory).map_err(|source| CgroupError::Create {
            path: directory.clone(),
            source,
        })?;
        let entry = self.open_entry(|h| relative(if h == hierarchy { &inner } else { path }));
        if entry.is_err() {
            // Nobody was in it yet.
            let _removed = fs::remove_dir(&directory);
        }
        entry
    }

    /// The hierarchy in which a program that joins a container has a cgroup of its own.
    fn marking(&self) -> &Hierarchy {
        let by_preference = self.used().min_by_key(|h| (!h.v2, !h.has("freezer")));
        by_preference.expect("`detect` has found a hierarchy in use")
    }

    /// How many processes of this cgroup the kernel has killed because its memory limit was reached: v1
    /// `memory.oom_control`, v2 `memory.events` (which counts its children too). 0 without a memory controller.
    ///
    /// # Errors
    /// `InvalidPath`, `Read` (the cgroup is not there).
    pub fn oom_kills(&self, path: &str) -> Result<u64, CgroupError> {
        let path = relative(path)?;
        let Some(hierarchy) = self.controlling("memory") else {
            return Ok(0);
        };
        let file = hierarchy.mount_point.join(path).join(if hierarchy.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        });
        let text = fs::read_to_string(&file).map_err(|source| CgroupError::Read { path: file, source })?;
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        Ok(count.unwrap_or(0))
    }

    /// Remove a cgroup and everything beneath it from each hierarchy. `false`: something in it still lives (a process
    /// that was killed needs a moment to leave); try again. Not there: nothing happens, `true`.
    ///
    /// # Errors
    /// `InvalidPath`, `Remove`, `Read`.
    pub fn remove(&self, path: &str) -> Result<bool, CgroupError> {
        let path = relative(path)?;
        let mut removed = true;
        for hierarchy in self.used() {
            removed &= remove_tree(&hierarchy.mount_point.join(path))?;
        }
        Ok(removed)
    }

    /// Names of the cgroups directly beneath this one in any hierarchy in use, sorted. Not there: none.
    ///
    /// # Errors
    /// `InvalidPath`, `Read`.
    pub fn list(&self, path: &str) -> Result<Vec<String>, CgroupError> {
        let path = relative(path)?;
        let mut names = BTreeSet::new();
        for hierarchy in self.used() {
            names.extend(child_directories(&hierarchy.mount_point.join(path))?);
        }
        Ok(names.into_iter().collect())
    }

    /// The hierarchy that decides over a controller: v1 before v2.
    fn controlling(&self, controller: &str) -> Option<&Hierarchy> {
        self.used().filter(|h| h.has(controller)).min_by_key(|h| h.v2)
    }
}

/// The path as it is joined to a mount point: plain names only, so that nothing outside is ever touched. One leading
/// slash, as the OCI spec's `cgroupsPath` has it, is taken off.
fn relative(path: &str) -> Result<&Path, CgroupError> {
    let stripped = Path::new(path.strip_prefix('/').unwrap_or(path));
    let plain = stripped.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || stripped.as_os_str().is_empty() {
        return Err(CgroupError::InvalidPath { path: path.to_owned() });
    }
    Ok(stripped)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The file's text, `None` if there is no such file.
fn read_optional(path: &Path) -> Result<Option<String>, CgroupError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(source) => Err(CgroupError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// `ENODEV` is what a cgroup file that was open while its cgroup went away answers.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

fn write(path: PathBuf, value: &str) -> Result<(), CgroupError> {
    // Without O_CREAT: a control file that the kernel does not have is ENOENT, not EACCES.
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(|source| CgroupError::Write {
        path,
        value: value.to_owned(),
        source,
    })
}

/// Names of the directories in a directory (links are not followed), sorted; none if it is not there.
fn child_directories(directory: &Path) -> Result<Vec<String>, CgroupError> {
    let failed = |source| CgroupError::Read {
        path: directory.to_owned(),
        source,
    };
    // Two links are `.` and the parent's entry: no need to read the 20 files of a cgroup to learn that it has no child.
    match fs::symlink_metadata(directory) {
        Ok(metadata) if metadata.nlink() == 2 => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    }
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Enable the controllers in every ancestor of `path`, from the root down.
fn enable_controllers(hierarchy: &Hierarchy, path: &Path) -> Result<(), CgroupError> {
    let wanted: Vec<&str> = V2_CONTROLLERS.into_iter().filter(|c| hierarchy.has(c)).collect();
    let leaf = hierarchy.mount_point.join(path).join("cgroup.controllers");
    let have = words(&read_optional(&leaf)?.unwrap_or_default());
    if wanted.iter().all(|c| have.iter().any(|h| h == c)) {
        return Ok(());
    }
    let mut ancestor = hierarchy.mount_point.clone();
    for part in path.components() {
        let control = ancestor.join("cgroup.subtree_control");
        let enabled = words(&read_optional(&control)?.unwrap_or_default());
        let missing: Vec<String> = wanted
            .iter()
            .filter(|c| !enabled.iter().any(|e| e == *c))
            .map(|c| format!("+{c}"))
            .collect();
        if !missing.is_empty() {
            write(control, &missing.join(" "))?;
        }
        ancestor.push(part);
    }
    Ok(())
}

/// `false`: busy.
fn remove_tree(directory: &Path) -> Result<bool, CgroupError> {
    if remove_one(directory)? {
        return Ok(true);
    }
    let children = child_directories(directory)?;
    if children.is_empty() {
        return Ok(false);
    }
    let mut removed = true;
    for child in children {
        removed &= remove_tree(&directory.join(child))?;
    }
    if removed { remove_one(directory) } else { Ok(false) }
}

fn remove_one(directory: &Path) -> Result<bool, CgroupError> {
    match fs::remove_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) => Ok(false),
        Err(source) => Err(CgroupError::Remove {
            path: directory.to_owned(),
            source,
        }),
    }
}
