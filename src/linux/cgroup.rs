//! (stand-in)

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("cannot reach {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub name: String,
    pub controllers: Vec<String>,
    pub mount_point: PathBuf,
    pub v2: bool,
    pub used: bool,
}

#[derive(Debug)]
pub struct Entry {
    pub tasks: Vec<OwnedFd>,
    pub directory: Option<OwnedFd>,
}

#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    pub fn detect(root: &Path) -> Result<Self, CgroupError> {
        let names = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer"];
        let hierarchies = names
            .iter()
            .map(|name| Hierarchy {
                name: (*name).to_owned(),
                controllers: vec![(*name).to_owned()],
                mount_point: root.join(name),
                v2: false,
                used: true,
            })
            .collect();
        Ok(Self { hierarchies })
    }

    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    fn each(&self, path: &str) -> impl Iterator<Item = PathBuf> {
        let path = path.trim_start_matches('/').to_owned();
        self.hierarchies.iter().map(move |h| h.mount_point.join(&path))
    }

    pub fn create(&self, path: &str) -> Result<(), CgroupError> {
        for path in self.each(path) {
            std::fs::create_dir_all(&path).map_err(|source| CgroupError::Io { path: path.clone(), source })?;
        }
        Ok(())
    }

    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "stand-in")]
    pub fn apply(&self, _path: &str, _resources: &oci_spec::runtime::LinuxResources) -> Result<(), CgroupError> {
        Ok(())
    }

    pub fn entry(&self, path: &str) -> Result<Entry, CgroupError> {
        let mut tasks = Vec::new();
        for path in self.each(path) {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(path.join("tasks"))
                .map_err(|source| CgroupError::Io { path: path.clone(), source })?;
            tasks.push(file.into());
        }
        Ok(Entry { tasks, directory: None })
    }

    pub fn oom_kills(&self, path: &str) -> Result<u64, CgroupError> {
        let file = self.hierarchies[2].mount_point.join(path.trim_start_matches('/')).join("memory.oom_control");
        let text = std::fs::read_to_string(&file).map_err(|source| CgroupError::Io { path: file, source })?;
        Ok(text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0))
    }

    pub fn kill(&self, path: &str) -> Result<usize, CgroupError> {
        let file = self.hierarchies[3].mount_point.join(path.trim_start_matches('/')).join("cgroup.procs");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut count = 0;
        for pid in text.lines().filter_map(|line| line.parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            count += 1;
        }
        Ok(count)
    }

    pub fn remove(&self, path: &str) -> Result<bool, CgroupError> {
        let mut done = true;
        for path in self.each(path) {
            if let Ok(children) = std::fs::read_dir(&path) {
                for child in children.flatten().filter(|c| c.path().is_dir()) {
                    let _ = std::fs::remove_dir(child.path());
                }
            }
            match std::fs::remove_dir(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => done = false,
                _ => {}
            }
        }
        Ok(done)
    }
}
