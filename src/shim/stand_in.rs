//! Stand-ins: while the agent decides, the process of a container's next attempt is made, mounts everything, and waits at
//! the door of its program. A start that asks for exactly what it was made for lets it in; that takes a fraction of what
//! making one takes.
//!
//! Goes in: what the next start will most likely be. Comes out: a process that waits, for a start which asks for exactly
//! this; any other one, and one that nobody asked for in time, is killed.
//!
//! **Invariant:** no program is executed before its start is asked for and written down, and a start that differs in
//! anything from what was guessed never gets what was made for the guess.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::protocol::StartContainer;
use super::supervisor::SIGKILL;
use crate::linux::container::Starting;
use crate::linux::process;

/// A start that comes later than this comes after a back-off, and is in no hurry.
const PATIENCE: Duration = Duration::from_secs(1);

/// Every process that waits or was given up.
#[derive(Debug, Default)]
pub(super) struct StandIns {
    /// By the container's name.
    waiting: BTreeMap<String, StandIn>,
    /// Killed, but not reaped yet: by pid, the cgroup it was made in.
    dying: BTreeMap<i32, String>,
}

/// A process that waits.
#[derive(Debug)]
pub(super) struct StandIn {
    pub(super) start: StartContainer,
    /// The spec it was made from, as it was written.
    pub(super) config: Vec<u8>,
    pub(super) starting: Starting,
    pub(super) cgroup: String,
    until: Instant,
}

impl StandIns {
    pub(super) fn wait(
        &mut self,
        now: Instant,
        start: StartContainer,
        config: Vec<u8>,
        starting: Starting,
        cgroup: String,
    ) {
        let stand_in = StandIn {
            start,
            config,
            starting,
            cgroup,
            until: now + PATIENCE,
        };
        let container = stand_in.start.container.clone();
        if let Some(older) = self.waiting.insert(container, stand_in) {
            self.give_up(older);
        }
    }

    /// The process that was made for exactly this start. One that was made for another start of the container is given
    /// up.
    pub(super) fn take(&mut self, start: &StartContainer, config: &[u8]) -> Option<StandIn> {
        let stand_in = self.waiting.remove(&start.container)?;
        if stand_in.start == *start && stand_in.config == config {
            return Some(stand_in);
        }
        self.give_up(stand_in);
        None
    }

    pub(super) fn give_up(&mut self, stand_in: StandIn) {
        let StandIn { starting, cgroup, .. } = stand_in;
        // One that is dead already is reaped all the same.
        let _sent = process::signal(starting.pidfd.as_fd(), SIGKILL);
        self.dying.insert(starting.pid, cgroup);
    }

    /// Those that nobody asked for in time.
    pub(super) fn expire(&mut self, now: Instant) {
        for (_, late) in self
            .waiting
            .extract_if(.., |_, stand_in| stand_in.until <= now)
            .collect::<Vec<_>>()
        {
            self.give_up(late);
        }
    }

    pub(super) fn give_up_all(&mut self) {
        for (_, stand_in) in std::mem::take(&mut self.waiting) {
            self.give_up(stand_in);
        }
    }

    /// When the first of them has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|stand_in| stand_in.until).min()
    }

    /// A process has been reaped. If it was one of these: the cgroup it was made in.
    pub(super) fn reaped(&mut self, pid: i32) -> Option<String> {
        if let Some(cgroup) = self.dying.remove(&pid) {
            return Some(cgroup);
        }
        let mut found = self.waiting.extract_if(.., |_, stand_in| stand_in.starting.pid == pid);
        found.next().map(|(_, stand_in)| stand_in.cgroup)
    }

    pub(super) fn has_cgroup(&self, cgroup: &str) -> bool {
        self.waiting.values().any(|stand_in| stand_in.cgroup == cgroup)
    }

    /// Whether one that was given up may still be in this cgroup.
    pub(super) fn dies_in(&self, cgroup: &str) -> bool {
        self.dying.values().any(|other| other == cgroup)
    }

    pub(super) fn none_left(&self) -> bool {
        self.waiting.is_empty() && self.dying.is_empty()
    }
}
