//! What is left of the machine's memory, disks and processes, as a kubelet measures it.
//!
//! Goes in: where to look. Comes out: [`Readings`] (what cannot be read is not in them), and what the machine is short of
//! ([`Gauge`]).
//!
//! Rules: cadvisor's working set of the root cgroup, which `memory.available` is the rest of (`MemFree` and the inactive
//! part of the page cache); `pkg/kubelet/stats/pidlimit/pidlimit_linux.go`.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::pressure::{Found, Reading, Readings, Signal, Thresholds};
use crate::linux::host;
use crate::model::Timestamp;

/// Kubelet `evictionMonitoringPeriod`.
const EVERY: Duration = Duration::from_secs(10);

/// Where a machine's state is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// What `/proc` is beneath.
    pub root: PathBuf,
    /// On the disk that pods write to.
    pub pods: PathBuf,
    /// On the disk of the images.
    pub images: PathBuf,
}

/// Tells what the machine is short of.
#[derive(Debug)]
pub struct Gauge {
    thresholds: Thresholds,
    transition: Duration,
    pub(super) places: Places,
    /// How often to look.
    pub(super) every: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    found: Found,
    /// What the Node tells.
    told: Found,
}

impl Gauge {
    /// A pressure is over when it was not found for as long as `transition`.
    pub fn new(thresholds: Thresholds, transition: Duration, places: Places) -> Self {
        Self {
            thresholds,
            transition,
            places,
            every: EVERY,
            state: Mutex::default(),
        }
    }

    /// Measure. True: the Node tells something else.
    pub(super) fn look(&self, now: Timestamp) -> bool {
        if self.thresholds.0.is_empty() {
            return false;
        }
        let missed = self.thresholds.missed(&self.places.measure());
        let mut state = self.state();
        state.found.note(now, &missed, self.transition);
        !state.found.says_the_same(&state.told)
    }

    /// What was found last.
    pub(super) fn found(&self) -> Found {
        self.state().found.clone()
    }

    /// The Node tells this now.
    pub(super) fn told(&self, found: Found) {
        self.state().told = found;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a panic left is whole: every change of it is one call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    pub(super) fn measure(&self) -> Readings {
        let text = |path: &str| std::fs::read_to_string(self.root.join(path)).unwrap_or_default();
        let disk = |path: &PathBuf| {
            let room = host::disk_room(path);
            room.inspect_err(|error| tracing::warn!(%error, path = %path.display(), "cannot tell how full the disk is"))
                .ok()
        };
        let mut readings = Readings::new();
        if let Some(memory) = memory(&text("proc/meminfo")) {
            readings.insert(Signal::MemoryAvailable, memory);
        }
        let most = ["proc/sys/kernel/pid_max", "proc/sys/kernel/threads-max"].map(&text);
        if let Some(processes) = processes(&most, &text("proc/loadavg")) {
            readings.insert(Signal::PidAvailable, processes);
        }
        for (path, bytes, inodes) in [
            (&self.pods, Signal::NodefsAvailable, Signal::NodefsInodesFree),
            (&self.images, Signal::ImagefsAvailable, Signal::ImagefsInodesFree),
        ] {
            let Some(room) = disk(path) else { continue };
            let reading = |capacity, available| Reading { capacity, available };
            readings.insert(bytes, reading(room.bytes, room.bytes_available));
            readings.insert(inodes, reading(room.inodes, room.inodes_free));
        }
        readings
    }
}

/// Of /proc/meminfo.
fn memory(meminfo: &str) -> Option<Reading> {
    let bytes = |name: &str| {
        let line = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes: u64 = line?.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kilobytes.checked_mul(1024)
    };
    Some(Reading {
        capacity: bytes("MemTotal")?,
        available: bytes("MemFree")?.checked_add(bytes("Inactive(file)")?)?,
    })
}

/// Of the kernel's two limits, and of /proc/loadavg, whose fourth word is `running/all`.
fn processes(most: &[String], loadavg: &str) -> Option<Reading> {
    let limits = most.iter().filter_map(|limit| limit.trim().parse::<u64>().ok());
    let capacity = limits.min()?;
    let all = loadavg.split_whitespace().nth(3)?.split_once('/')?.1;
    Some(Reading {
        capacity,
        available: capacity.saturating_sub(all.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_processes_are_read_as_the_kernel_tells_them() {
        let root = tempfile::tempdir().unwrap();
        let places = Places {
            root: root.path().to_owned(),
            pods: root.path().to_owned(),
            images: root.path().join("absent"),
        };
        let signals = |readings: &Readings| readings.keys().copied().collect::<Vec<_>>();
        assert_eq!(
            signals(&places.measure()),
            [Signal::NodefsAvailable, Signal::NodefsInodesFree],
            "what is not there is not measured"
        );
        for (path, text) in [
            (
                "proc/meminfo",
                "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable: 900 kB\nInactive(file):  20 kB\n",
            ),
            ("proc/sys/kernel/pid_max", "4194304\n"),
            ("proc/sys/kernel/threads-max", "1000\n"),
            ("proc/loadavg", "0.10 0.20 0.30 3/400 12345\n"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let readings = places.measure();
        let of = |signal| (readings[&signal].capacity, readings[&signal].available);
        assert_eq!(of(Signal::MemoryAvailable), (1000 << 10, 120 << 10));
        assert_eq!(of(Signal::PidAvailable), (1000, 600));
        let (size, left) = of(Signal::NodefsAvailable);
        assert!(size > 0 && left <= size, "{left} of {size}");
    }
}
