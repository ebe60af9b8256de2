//! What a pod asks for and may have in all, summed over its containers as Kubernetes sums
//! (`component-helpers/resource/helpers.go`), and amounts as Kubernetes writes them.

use super::{ContainerSpec, PodSpec, QosClass, Resources};

impl PodSpec {
    /// What the pod's containers may have together at any moment, of what `get` takes from each (`AggregateContainerRequests`
    /// and `-Limits`): init containers run one after the other, each beside the sidecars before it; then the others beside
    /// all sidecars. Ephemeral containers have none.
    pub fn at_most_at_once(&self, get: impl Fn(&Resources) -> u64) -> u64 {
        let of = |container: &ContainerSpec| get(&container.resources);
        let (mut sidecars, mut most) = (0_u64, 0_u64);
        for container in &self.init_containers {
            let now = sidecars.saturating_add(of(container));
            if container.is_sidecar() {
                sidecars = now;
            }
            most = most.max(now);
        }
        self.containers
            .iter()
            .map(of)
            .fold(sidecars, u64::saturating_add)
            .max(most)
    }

    /// Thousandths of a core that the pod asks for in all, its overhead with it (`PodRequests`).
    pub fn cpu_request_milli(&self) -> u64 {
        self.in_all(|r| r.cpu_request_milli, |r| r.cpu_limit_milli)
            .saturating_add(self.runtime.overhead_cpu_milli)
    }

    /// The same of memory, in bytes.
    pub fn memory_request(&self) -> u64 {
        self.in_all(|r| r.memory_request, |r| r.memory_limit)
            .saturating_add(self.runtime.overhead_memory)
    }

    /// Bytes of the disk that its containers ask for.
    pub fn storage_request(&self) -> u64 {
        self.at_most_at_once(|r| r.storage_request.unwrap_or(0))
    }

    /// Bytes of pages of this size: what the pod says of itself, else what its containers say.
    pub fn hugepages(&self, size: u64) -> u64 {
        let own = self.resources.hugepages.get(&size).copied();
        own.unwrap_or_else(|| self.at_most_at_once(|r| r.hugepages.get(&size).copied().unwrap_or(0)))
    }

    /// What the pod says of itself as a whole takes the place of what its containers say. A limit alone is a request only
    /// where no container makes one (Kubernetes `defaults.go setDefaultPodRequests`).
    fn in_all(&self, request: fn(&Resources) -> Option<u64>, limit: fn(&Resources) -> Option<u64>) -> u64 {
        let sum = self.at_most_at_once(|r| request(r).or(limit(r)).unwrap_or(0));
        let own = request(&self.resources).or(limit(&self.resources).filter(|_| sum == 0));
        own.unwrap_or(sum)
    }

    /// How much of the disk the pod may use in all, in bytes (`PodLimits`): the limits of those containers that have one.
    /// `None`: none has.
    pub fn storage_limit(&self) -> Option<u64> {
        let mut all = self.init_containers.iter().chain(&self.containers);
        all.any(|container| container.resources.storage_limit.is_some())
            .then(|| self.at_most_at_once(|r| r.storage_limit.unwrap_or(0)))
    }

    /// Kubernetes `pkg/apis/core/v1/helper/qos/qos.go`: Guaranteed if every container (init containers too) has cpu and
    /// memory limits and its requests equal them, `BestEffort` if nothing is set anywhere, else Burstable. What the pod
    /// says of itself as a whole takes the place of all that.
    pub fn qos_class(&self) -> QosClass {
        if has_class(&self.resources) {
            return class_of(std::iter::once(&self.resources));
        }
        class_of(
            self.init_containers
                .iter()
                .chain(&self.containers)
                .map(|container| &container.resources),
        )
    }
}

/// Whether it says anything that decides over a quality-of-service class.
fn has_class(resources: &Resources) -> bool {
    let Resources {
        cpu_request_milli,
        cpu_limit_milli,
        memory_request,
        memory_limit,
        storage_request: _,
        storage_limit: _,
        hugepages: _,
    } = resources;
    [cpu_request_milli, cpu_limit_milli, memory_request, memory_limit]
        .into_iter()
        .any(Option::is_some)
}

fn class_of<'a>(mut all: impl Iterator<Item = &'a Resources> + Clone) -> QosClass {
    if !all.clone().any(has_class) {
        return QosClass::BestEffort;
    }
    let guaranteed = all.all(|r| {
        r.cpu_limit_milli.is_some_and(|l| r.cpu_request_milli.unwrap_or(l) == l)
            && r.memory_limit.is_some_and(|l| r.memory_request.unwrap_or(l) == l)
    });
    if guaranteed {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

/// Thousandths of a core: `100m`, `2`.
pub fn cpu_text(milli: u64) -> String {
    if milli.is_multiple_of(1000) {
        (milli / 1000).to_string()
    } else {
        format!("{milli}m")
    }
}

/// Bytes with the greatest unit that divides them: `64Mi`, `100M`, `1000k`, `123`. Binary units first.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [(u64, &str); 8] = [
        (1 << 40, "Ti"),
        (1 << 30, "Gi"),
        (1 << 20, "Mi"),
        (1 << 10, "Ki"),
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1_000, "k"),
    ];
    let unit = UNITS.iter().find(|(size, _)| bytes != 0 && bytes.is_multiple_of(*size));
    unit.map_or_else(|| bytes.to_string(), |(size, name)| format!("{}{name}", bytes / size))
}
