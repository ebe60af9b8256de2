//! Whether the machine runs short of what all its pods share, and in a kubelet's words.
//!
//! Goes in: what was measured ([`Readings`]), the operator's [`Thresholds`], the time. Comes out: the [`Pressure`]s that
//! the node is under. Pure.
//!
//! Rules: Kubernetes `pkg/kubelet/eviction/helpers.go` (`thresholdsMet`, `nodeConditions`, `nodeConditionsObservedSince`)
//! and `defaults_linux.go`; reasons and messages: `pkg/kubelet/nodestatus/setters.go`; taints:
//! `pkg/controller/nodelifecycle/node_lifecycle_controller.go` (`nodeConditionToTaintKeyStatusMap`).
//!
//! **Invariant:** what could not be measured is no pressure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::Timestamp;

/// What the node tells that it is short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    Memory,
    Disk,
    Pid,
}

/// What is measured, by a kubelet's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Bytes of memory that nothing uses: neither a process nor the active part of the page cache.
    MemoryAvailable,
    /// Bytes on the disk that pods write to.
    NodefsAvailable,
    /// Inodes there.
    NodefsInodesFree,
    /// Bytes on the disk of the images.
    ImagefsAvailable,
    /// Inodes there.
    ImagefsInodesFree,
    /// Processes and threads that the kernel would still make.
    PidAvailable,
}

/// What must be left at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Least {
    /// So much.
    Amount(u64),
    /// Thousandths of a percent of all there is.
    Share(u64),
}

/// What must be left of each signal; one that is not in it is not looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thresholds(pub BTreeMap<Signal, Least>);

/// What there is of a signal, and what of it is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    pub capacity: u64,
    pub available: u64,
}

/// What was measured.
pub type Readings = BTreeMap<Signal, Reading>;

/// The pressures that the node tells of, and when each was found last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found(BTreeMap<Pressure, Timestamp>);

impl Pressure {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Pid];

    /// The type of its condition.
    pub(super) fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }

    /// Reason and message of its condition.
    pub(super) fn words(self, holds: bool) -> (&'static str, &'static str) {
        match (self, holds) {
            (Self::Memory, false) => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            (Self::Memory, true) => (
                "KubeletHasInsufficientMemory",
                "kubelet has insufficient memory available",
            ),
            (Self::Disk, false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            (Self::Disk, true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            (Self::Pid, false) => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            (Self::Pid, true) => ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        }
    }

    /// The reason of the event that tells of a change.
    pub(super) fn event(self, holds: bool) -> &'static str {
        match (self, holds) {
            (Self::Memory, false) => "NodeHasSufficientMemory",
            (Self::Memory, true) => "NodeHasInsufficientMemory",
            (Self::Disk, false) => "NodeHasNoDiskPressure",
            (Self::Disk, true) => "NodeHasDiskPressure",
            (Self::Pid, false) => "NodeHasSufficientPID",
            (Self::Pid, true) => "NodeHasInsufficientPID",
        }
    }

    /// The key of the taint that holds new pods off.
    pub(super) fn taint(self) -> &'static str {
        match self {
            Self::Memory => "node.kubernetes.io/memory-pressure",
            Self::Disk => "node.kubernetes.io/disk-pressure",
            Self::Pid => "node.kubernetes.io/pid-pressure",
        }
    }
}

impl Signal {
    const ALL: [Self; 6] = [
        Self::MemoryAvailable,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
        Self::PidAvailable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }

    fn pressure(self) -> Pressure {
        match self {
            Self::MemoryAvailable => Pressure::Memory,
            Self::NodefsAvailable | Self::NodefsInodesFree | Self::ImagefsAvailable | Self::ImagefsInodesFree => {
                Pressure::Disk
            }
            Self::PidAvailable => Pressure::Pid,
        }
    }
}

impl Least {
    fn is_left(self, reading: Reading) -> bool {
        let Reading { capacity, available } = reading;
        let least = match self {
            Self::Amount(least) => u128::from(least),
            Self::Share(share) => u128::from(capacity) * u128::from(share) / 100_000,
        };
        u128::from(available) >= least
    }
}

impl Default for Thresholds {
    /// A kubelet's own, but for the disk: of that it wants 10 and 15 % left, cleans up and evicts to get there, and so may
    /// ask for much. Here pressure only holds new pods off, and tens of gigabytes that are left of a large disk are no
    /// reason to.
    fn default() -> Self {
        let percent = |percent: u64| Least::Share(percent * 1000);
        Self(BTreeMap::from([
            (Signal::MemoryAvailable, Least::Amount(100 << 20)),
            (Signal::NodefsAvailable, Least::Amount(1 << 30)),
            (Signal::NodefsInodesFree, percent(5)),
            (Signal::ImagefsAvailable, Least::Amount(1 << 30)),
            (Signal::ImagefsInodesFree, percent(5)),
        ]))
    }
}

impl Thresholds {
    /// What the machine is short of.
    pub(super) fn missed(&self, readings: &Readings) -> BTreeSet<Pressure> {
        let missed = self.0.iter().filter(|(signal, least)| {
            let reading = readings.get(signal);
            reading.is_some_and(|reading| !least.is_left(*reading))
        });
        missed.map(|(signal, _)| signal.pressure()).collect()
    }
}

impl Found {
    /// What is found now, and what was not long enough ago to be trusted to be over.
    pub(super) fn note(&mut self, now: Timestamp, missed: &BTreeSet<Pressure>, transition: Duration) {
        let Self(found) = self;
        found.retain(|_, at| Duration::try_from(now.duration_since(*at)).is_ok_and(|passed| passed < transition));
        found.extend(missed.iter().map(|pressure| (*pressure, now)));
    }

    pub(super) fn holds(&self, pressure: Pressure) -> bool {
        self.0.contains_key(&pressure)
    }

    /// The same pressures are told of.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.0.keys().eq(other.0.keys())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn missed(signal: Signal, least: Least, capacity: u64, available: u64) -> bool {
        let readings = [(signal, Reading { capacity, available })].into();
        let missed = Thresholds([(signal, least)].into()).missed(&readings);
        assert!(missed.iter().all(|pressure| *pressure == signal.pressure()));
        !missed.is_empty()
    }

    #[test]
    fn a_threshold_is_met_below_it_alone() {
        let memory = |available| missed(Signal::MemoryAvailable, Least::Amount(100), 1000, available);
        assert_eq!([memory(99), memory(100), memory(101)], [true, false, false]);
        let disk = |available| missed(Signal::NodefsAvailable, Least::Share(10_000), 1000, available);
        assert_eq!([disk(99), disk(100)], [true, false]);
        let tenths = |available| missed(Signal::ImagefsAvailable, Least::Share(500), 1000, available);
        assert_eq!([tenths(4), tenths(5)], [true, false], "half a percent");
        // A file system that counts no inodes is not short of them.
        assert!(!missed(Signal::NodefsInodesFree, Least::Share(5000), 0, 0));
    }

    #[test]
    fn what_was_not_measured_or_is_not_asked_for_is_no_pressure() {
        assert_eq!(Thresholds::default().missed(&Readings::new()), BTreeSet::new());
        let readings = [(Signal::PidAvailable, Reading::default())].into();
        assert_eq!(Thresholds::default().missed(&readings), BTreeSet::new());
    }

    #[test]
    fn pressure_is_over_when_it_was_not_found_for_the_whole_transition_period() {
        let period = Duration::from_mins(5);
        let (mut found, short, well) = (Found::default(), [Pressure::Disk].into(), BTreeSet::new());
        found.note(at(0), &well, period);
        assert!(!found.holds(Pressure::Disk));
        for (second, missed, holds) in [
            (10, &short, true),
            (20, &well, true),
            (30, &short, true),
            (329, &well, true),
            (330, &well, false),
            (340, &short, true),
        ] {
            found.note(at(second), missed, period);
            assert_eq!(found.holds(Pressure::Disk), holds, "{second}");
            assert!(!found.holds(Pressure::Memory));
        }
        found.note(at(340), &well, Duration::ZERO);
        assert!(!found.holds(Pressure::Disk));
    }

    #[test]
    fn signals_are_known_by_their_names() {
        for signal in Signal::ALL {
            assert_eq!(Signal::named(signal.name()), Some(signal));
        }
        assert_eq!(Signal::named("cpu.available"), None);
    }
}
