//! Who is in a cgroup, and an end to all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::process::{PidfdFlags, Signal};

use super::{CgroupError, Cgroups, child_directories, is_absent, relative, write};

/// Reads of `cgroup.procs` before giving up on a cgroup that forks faster than it is killed. A killed process cannot
/// fork any more, so each round ends all that the last one saw; the pids limit bounds what is left.
const ROUNDS: usize = 200;
/// Descriptors held at once.
const CHUNK: usize = 128;

impl Cgroups {
    /// Processes in this cgroup and beneath it, in any hierarchy in use, sorted. Not there: none. Only those that the
    /// caller's pid namespace can name.
    ///
    /// # Errors
    /// `InvalidPath`, `Read`.
    pub fn pids(&self, path: &str) -> Result<Vec<i32>, CgroupError> {
        let path = relative(path)?;
        let mut pids = BTreeSet::new();
        for hierarchy in self.used() {
            collect(&hierarchy.mount_point.join(path), &mut pids)?;
        }
        Ok(pids.into_iter().collect())
    }

    /// SIGKILL every process in this cgroup and beneath it, and answer how many were signalled. They need a moment to
    /// be gone.
    ///
    /// # Errors
    /// `InvalidPath`, `Read`, `Kill`, `StillForking`.
    pub fn kill(&self, path: &str) -> Result<usize, CgroupError> {
        if let [hierarchy] = self.hierarchies.as_slice()
            && hierarchy.v2
        {
            let found = self.pids(path)?.len();
            match write(hierarchy.mount_point.join(relative(path)?).join("cgroup.kill"), "1") {
                Ok(()) => return Ok(found),
                // No such cgroup, or Linux before 5.14.
                Err(CgroupError::Write { source, .. }) if is_absent(&source) => {}
                Err(error) => return Err(error),
            }
        }
        let mut signalled = BTreeSet::new();
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            let found: Vec<i32> = self
                .pids(path)?
                .into_iter()
                .filter(|pid| !signalled.contains(pid))
                .collect();
            if found.is_empty() {
                quiet += 1;
                if quiet == 2 {
                    return Ok(signalled.len());
                }
                continue;
            }
            quiet = 0;
            for chunk in found.chunks(CHUNK) {
                self.kill_some(path, chunk, &mut signalled)?;
            }
        }
        Err(CgroupError::StillForking {
            path: path.to_owned(),
            rounds: ROUNDS,
        })
    }

    /// A number read a moment ago may name another process by now. So first take hold of each, then look whether the
    /// number is still here: if it is, what is held is (or was) of this cgroup.
    fn kill_some(&self, path: &str, pids: &[i32], signalled: &mut BTreeSet<i32>) -> Result<(), CgroupError> {
        let held: Vec<_> = pids
            .iter()
            .filter_map(|&pid| {
                let process = rustix::process::Pid::from_raw(pid)?;
                // ESRCH: it is gone. Anything else shows itself in the next round.
                Some((pid, rustix::process::pidfd_open(process, PidfdFlags::empty()).ok()?))
            })
            .collect();
        let still: BTreeSet<i32> = self.pids(path)?.into_iter().collect();
        for (pid, process) in held {
            if !still.contains(&pid) {
                continue;
            }
            match rustix::process::pidfd_send_signal(&process, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {
                    signalled.insert(pid);
                }
                Err(error) => {
                    return Err(CgroupError::Kill {
                        path: path.to_owned(),
                        pid,
                        source: error.into(),
                    });
                }
            }
        }
        Ok(())
    }
}

fn collect(directory: &Path, pids: &mut BTreeSet<i32>) -> Result<(), CgroupError> {
    let file = directory.join("cgroup.procs");
    match fs::read_to_string(&file) {
        // 0 stands for a process outside the reader's pid namespace: kill(0) would be a signal to ourselves.
        Ok(text) => pids.extend(
            text.lines()
                .filter_map(|line| line.parse().ok())
                .filter(|pid: &i32| *pid > 0),
        ),
        // EOPNOTSUPP: a threaded cgroup of v2, whose processes are listed further up.
        Err(error) if is_absent(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(source) => return Err(CgroupError::Read { path: file, source }),
    }
    for child in child_directories(directory)? {
        collect(&directory.join(child), pids)?;
    }
    Ok(())
}
