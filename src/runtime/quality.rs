//! How much each quality-of-service class counts beside the others, and all pods beside the rest of the machine.
//!
//! Goes in: pods as they come, change and end. Comes out: the weights of `<root>`, `<root>/burstable` and
//! `<root>/besteffort` (kubelet `cm/qos_container_manager_linux.go`, `cm/node_container_manager_linux.go`): all burstable
//! pods together weigh what they request, all best-effort pods as little as there is, and all pods together what may be
//! allotted to pods.
//!
//! **Invariant:** nobody waits for it: it is written beside the work of pods, and only when it changes. Nothing is lost
//! with it: a new agent hears of every pod again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use super::spec;
use crate::linux::cgroup::{CgroupError, Cgroups};
use crate::model::{Capacity, PodSpec, QosClass, Uid};

/// The least that a cgroup can weigh.
const LEAST: u64 = 2;
/// OCI config-linux.md: no limit.
const UNLIMITED: i64 = -1;

/// See the module's doc. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Quality(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cgroups: Arc<Cgroups>,
    root: String,
    allocatable: Capacity,
    /// Bytes of memory the machine has.
    memory: u64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What each burstable pod requests, in thousandths of a core.
    requests: HashMap<Uid, u64>,
    /// What is written; `None`: nothing was by this agent.
    written: Option<u64>,
    /// Somebody is about to write.
    is_due: bool,
}

impl Known {
    fn wanted(&self) -> u64 {
        let all = self.requests.values().copied().fold(0, u64::saturating_add);
        spec::shares(all)
    }
}

impl Quality {
    /// `root` is the cgroup of all pods, `allocatable` what they may have together on this machine with so many bytes of
    /// `memory`.
    pub(super) fn new(cgroups: Arc<Cgroups>, root: &str, allocatable: Capacity, memory: u64) -> Self {
        Self(Arc::new(Inner {
            cgroups,
            root: root.to_owned(),
            allocatable,
            memory,
            known: Mutex::default(),
        }))
    }

    /// A pod is there, with these requests, or (`is_active` false) has ended.
    pub(super) fn weigh(&self, pod: &PodSpec, is_active: bool) {
        let counts = is_active && pod.qos_class() == QosClass::Burstable;
        let mut known = self.0.known();
        if counts {
            known.requests.insert(pod.uid.clone(), pod.cpu_request_milli());
        } else if !known.requests.is_empty() {
            known.requests.remove(&pod.uid);
        }
        self.write_if_due(known);
    }

    /// The pod is no more.
    pub(super) fn forget(&self, uid: &Uid) {
        let mut known = self.0.known();
        if known.requests.remove(uid).is_some() {
            self.write_if_due(known);
        }
    }

    fn write_if_due(&self, mut known: MutexGuard<'_, Known>) {
        if known.written == Some(known.wanted()) || known.is_due {
            return;
        }
        known.is_due = true;
        let inner = Arc::clone(&self.0);
        // Changes that come until it begins are written with it.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = inner.write() {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot write what the classes of pods weigh"
                );
            }
        });
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        // What a panic left is whole: every change of it is one call.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Result<(), CgroupError> {
        let (wanted, is_first) = {
            let mut known = self.known();
            known.is_due = false;
            let is_first = known.written.is_none();
            let wanted = known.wanted();
            // One that cannot be written now is not tried for ever.
            known.written = Some(wanted);
            (wanted, is_first)
        };
        let burstable = format!("{}/burstable", self.root);
        self.cgroups.create(&burstable)?;
        self.cgroups.apply(&burstable, &weight(wanted))?;
        if is_first {
            let best_effort = format!("{}/besteffort", self.root);
            self.cgroups.create(&best_effort)?;
            self.cgroups.apply(&best_effort, &weight(LEAST))?;
            self.cgroups.apply(&self.root, &self.of_all(self.allocatable))?;
        }
        Ok(())
    }

    /// All pods together; their memory is limited where they may not have all of it.
    fn of_all(&self, allocatable: Capacity) -> LinuxResources {
        let limit = i64::try_from(allocatable.memory)
            .ok()
            .filter(|_| allocatable.memory < self.memory);
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(limit.unwrap_or(UNLIMITED)));
        let mut all = weight(spec::shares(allocatable.cpu_milli));
        all.set_memory(Some(memory));
        all
    }
}

fn weight(shares: u64) -> LinuxResources {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(shares));
    let mut all = LinuxResources::default();
    all.set_cpu(Some(cpu));
    all
}
