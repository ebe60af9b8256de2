//! Links to every container's log under one roof, each with a name that says whose it is (`/var/log/containers`): where
//! log collectors look.
//!
//! Goes in: attempts that were started, and the log directories of pods that go. Comes out: symbolic links
//! `<pod>_<namespace>_<container>-<id>.log`, as a kubelet makes them (`kuberuntime/legacy.go`).
//!
//! **Invariant:** nothing waits for a link and nothing fails for one. Only links into this agent's own logs are ever
//! removed, so that several agents may share the directory.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::LogDirName;
use crate::model::Uid;

/// The longest name of a file.
const NAME_MAX: usize = 255;
const SUFFIX: &str = ".log";

/// See the module's doc.
#[derive(Debug, Clone)]
pub(super) struct LogLinks {
    links: PathBuf,
    logs: PathBuf,
}

impl LogLinks {
    pub(super) fn new(links: PathBuf, logs: PathBuf) -> Self {
        Self { links, logs }
    }

    /// What an agent that died could not do: the directory is there, every log has its link, and no link of this agent
    /// leads nowhere.
    pub(super) fn repair(&self) {
        let repaired = fs::create_dir_all(&self.links)
            .and_then(|()| self.remove_dead())
            .and_then(|()| {
                for pod in fs::read_dir(&self.logs)?.flatten() {
                    for (log, link) in self.of_pod(&pod.file_name()) {
                        link_to(&log, &link)?;
                    }
                }
                Ok(())
            });
        self.tell(repaired);
    }

    fn remove_dead(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.links)?.flatten() {
            let link = entry.path();
            let is_dead = |log: PathBuf| log.starts_with(&self.logs) && !log.exists();
            if fs::read_link(&link).is_ok_and(is_dead) {
                fs::remove_file(&link)?;
            }
        }
        Ok(())
    }

    /// This attempt was started: link to its log.
    pub(super) fn add(&self, pod: &LogDirName, container: &str, attempt: u32) {
        if let Some(link) = self.link(&pod.0, container, attempt) {
            let log = self
                .logs
                .join(&pod.0)
                .join(container)
                .join(format!("{attempt}{SUFFIX}"));
            self.tell(link_to(&log, &link));
        }
    }

    /// The logs of this pod are about to go: its links go first.
    pub(super) fn remove(&self, pod: &LogDirName) {
        for (log, link) in self.of_pod(OsStr::new(&pod.0)) {
            if fs::read_link(&link).is_ok_and(|known| known == log) {
                self.tell(fs::remove_file(&link));
            }
        }
    }

    /// Every log of a pod, with its link.
    fn of_pod(&self, pod: &OsStr) -> Vec<(PathBuf, PathBuf)> {
        let mut found = Vec::new();
        let Some(pod) = pod.to_str() else {
            return found;
        };
        for container in fs::read_dir(self.logs.join(pod)).into_iter().flatten().flatten() {
            let name = container.file_name();
            for log in fs::read_dir(container.path()).into_iter().flatten().flatten() {
                let file = log.file_name();
                let attempt = file.to_str().and_then(|file| file.strip_suffix(SUFFIX)?.parse().ok());
                let link = attempt.zip(name.to_str());
                if let Some(link) = link.and_then(|(attempt, container)| self.link(pod, container, attempt)) {
                    found.push((log.path(), link));
                }
            }
        }
        found
    }

    /// The link of one attempt; `None`: the directory is not one of a pod. No part of such a name has a `_` in it. What
    /// is too long is cut, so that attempts may have to share a name: the newest has it.
    fn link(&self, pod: &str, container: &str, attempt: u32) -> Option<PathBuf> {
        let mut parts = pod.splitn(3, '_');
        let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
        let id = Uid(uid.to_owned()).container_id(container, attempt);
        let mut file = format!("{name}_{namespace}_{container}-{id}");
        // A pod's names are ASCII; a stray directory's need not be.
        file.truncate(file.floor_char_boundary(NAME_MAX - SUFFIX.len()));
        Some(self.links.join(file + SUFFIX))
    }

    fn tell(&self, done: io::Result<()>) {
        if let Err(error) = done {
            tracing::warn!(directory = %self.links.display(), %error, "links to logs are not as they should be");
        }
    }
}

/// Make the link; one of this name that leads elsewhere is replaced.
fn link_to(log: &Path, link: &Path) -> io::Result<()> {
    match symlink(log, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::read_link(link).is_ok_and(|known| known == log) {
                return Ok(());
            }
            fs::remove_file(link)?;
            symlink(log, link)
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "6f1c9a52-3d0e-4b7a-9c55-0d6f8a1b2c3d";

    struct Place {
        dir: tempfile::TempDir,
        links: LogLinks,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let links = LogLinks::new(dir.path().join("containers"), dir.path().join("pods"));
            fs::create_dir_all(&links.logs).unwrap();
            links.repair();
            Self { dir, links }
        }

        fn log(&self, pod: &LogDirName, attempt: u32) -> PathBuf {
            let directory = self.links.logs.join(&pod.0).join("app");
            fs::create_dir_all(&directory).unwrap();
            let log = directory.join(format!("{attempt}.log"));
            fs::write(&log, "").unwrap();
            log
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.links.links).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    fn pod(name: &str) -> LogDirName {
        LogDirName(format!("prod_{name}_{UID}"))
    }

    fn name_of(pod: &str, attempt: u32) -> String {
        let id = Uid(UID.to_owned()).container_id("app", attempt);
        format!("{pod}_prod_app-{id}.log")
    }

    #[test]
    fn a_link_says_whose_log_it_leads_to_and_goes_with_it() {
        let place = Place::new();
        let (web, other) = (pod("web"), pod("other"));
        let log = place.log(&web, 0);
        place.log(&other, 0);
        place.links.add(&web, "app", 0);
        place.links.add(&web, "app", 0);
        place.links.add(&other, "app", 0);
        assert_eq!(place.names(), [name_of("other", 0), name_of("web", 0)]);
        assert_eq!(fs::read_link(place.links.links.join(name_of("web", 0))).unwrap(), log);
        place.links.remove(&web);
        assert_eq!(place.names(), [name_of("other", 0)]);
    }

    #[test]
    fn an_agent_that_comes_makes_what_is_missing_and_removes_what_is_dead() {
        let place = Place::new();
        let web = pod("web");
        place.log(&web, 0);
        place.log(&web, 1);
        place.log(&web, 2);
        place.links.add(&web, "app", 1);
        fs::remove_file(place.links.logs.join(&web.0).join("app/1.log")).unwrap();
        let foreign = place.dir.path().join("elsewhere/0.log");
        symlink(foreign, place.links.links.join("foreign.log")).unwrap();
        fs::write(place.links.logs.join("stray"), "").unwrap();
        let odd = place.links.logs.join(format!("a_{}_b", "ü".repeat(120))).join("c");
        fs::create_dir_all(&odd).unwrap();
        fs::write(odd.join("x.log"), "").unwrap();
        place.links.repair();
        let mut expected = [name_of("web", 0), name_of("web", 2), "foreign.log".to_owned()];
        expected.sort();
        assert_eq!(place.names(), expected);
    }

    #[test]
    fn a_name_that_is_too_long_is_cut_and_the_newest_has_it() {
        let place = Place::new();
        let long = pod(&"p".repeat(253));
        place.links.add(&long, "app", 0);
        place.links.add(&long, "app", 1);
        let names = place.names();
        assert_eq!(names.len(), 1);
        assert_eq!(names[0].len(), NAME_MAX);
        assert_eq!(&names[0][NAME_MAX - 4..], ".log");
        let led_to = fs::read_link(place.links.links.join(&names[0])).unwrap();
        assert!(led_to.ends_with("app/1.log"), "{}", led_to.display());
    }
}
