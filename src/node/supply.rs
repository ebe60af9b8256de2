//! What the machine has, and what of it pods may have.
//!
//! Goes in: what was measured, and what the operator says. Comes out: capacity and allocatable of the Node. Pure.
//!
//! Rules: Kubernetes `pkg/kubelet/nodestatus/setters.go` (`MachineInfo`).

use std::collections::BTreeMap;

use super::Facts;
use crate::model::Allocatable;

/// Pods that a node has room for at least unless its operator says otherwise: a kubelet's own number. Where there are fewer
/// addresses, pods wait for one.
const LEAST_PODS: u64 = 110;

/// Amounts as an operator gives them; each may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a core.
    pub cpu_milli: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes of ephemeral storage.
    pub storage: Option<u64>,
    /// How many.
    pub pods: Option<u64>,
    /// Bytes, by the size of one page in bytes.
    pub hugepages: BTreeMap<u64, u64>,
}

/// What there is, and what of it is for pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supply {
    pub capacity: Allocatable,
    pub allocatable: Allocatable,
}

impl Supply {
    /// Of this machine, which has addresses for so many pods: less what is `reserved`, unless what is `allocatable` is
    /// said outright. What is said there is there: the capacity is at least that.
    pub fn new(facts: &Facts, addresses: u64, reserved: &Amounts, allocatable: &Amounts) -> Self {
        let measured = Allocatable {
            cpu_milli: facts.cpus.saturating_mul(1000),
            memory: facts.memory,
            storage: facts.disk,
            pods: addresses.max(LEAST_PODS),
            hugepages: facts.huge_pages.clone(),
        };
        let left = |has: u64, reserved: Option<u64>| has.saturating_sub(reserved.unwrap_or_default());
        let mut hugepages = measured.hugepages.clone();
        hugepages.extend(&allocatable.hugepages);
        // Memory that is set aside as huge pages is no other memory any more.
        let plain = left(measured.memory, Some(measured.hugepages.values().sum()));
        let allocatable = Allocatable {
            cpu_milli: allocatable
                .cpu_milli
                .unwrap_or(left(measured.cpu_milli, reserved.cpu_milli)),
            memory: allocatable.memory.unwrap_or(left(plain, reserved.memory)),
            storage: allocatable.storage.unwrap_or(left(measured.storage, reserved.storage)),
            pods: allocatable.pods.unwrap_or(measured.pods),
            hugepages,
        };
        let mut hugepages = measured.hugepages;
        for (size, bytes) in &allocatable.hugepages {
            let has = hugepages.entry(*size).or_default();
            *has = (*has).max(*bytes);
        }
        let capacity = Allocatable {
            cpu_milli: measured.cpu_milli.max(allocatable.cpu_milli),
            memory: measured.memory.max(allocatable.memory),
            storage: measured.storage.max(allocatable.storage),
            pods: allocatable.pods,
            hugepages,
        };
        Self { capacity, allocatable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            cpus: 4,
            memory: 1000,
            disk: 500,
            huge_pages: [(2, 100), (8, 0)].into(),
            ..Facts::default()
        }
    }

    #[test]
    fn what_is_reserved_is_not_for_pods() {
        let reserved = Amounts {
            cpu_milli: Some(500),
            memory: Some(50),
            storage: Some(600),
            ..Amounts::default()
        };
        let supply = Supply::new(&facts(), 5000, &reserved, &Amounts::default());
        let capacity = Allocatable {
            cpu_milli: 4000,
            memory: 1000,
            storage: 500,
            pods: 5000,
            hugepages: [(2, 100), (8, 0)].into(),
        };
        let allocatable = Allocatable {
            cpu_milli: 3500,
            memory: 850,
            storage: 0,
            ..capacity.clone()
        };
        assert_eq!(supply, Supply { capacity, allocatable });
    }

    #[test]
    fn what_the_operator_says_is_there() {
        let said = Amounts {
            cpu_milli: Some(16_000),
            memory: Some(300),
            pods: Some(1),
            hugepages: [(8, 16)].into(),
            ..Amounts::default()
        };
        // What is reserved is no matter where this says all.
        let reserved = Amounts {
            memory: Some(900),
            ..Amounts::default()
        };
        let Supply { capacity, allocatable } = Supply::new(&facts(), 3, &reserved, &said);
        assert_eq!((allocatable.cpu_milli, allocatable.memory), (16_000, 300));
        assert_eq!((allocatable.storage, allocatable.pods), (500, 1));
        assert_eq!(allocatable.hugepages, [(2, 100), (8, 16)].into());
        assert_eq!((capacity.cpu_milli, capacity.memory, capacity.pods), (16_000, 1000, 1));
        assert_eq!(capacity.hugepages, [(2, 100), (8, 16)].into());
    }

    #[test]
    fn there_is_room_for_as_many_pods_as_there_are_addresses_and_for_a_kubelets_number() {
        let none = Amounts::default();
        for (addresses, pods) in [(13, 110), (1021, 1021)] {
            assert_eq!(Supply::new(&facts(), addresses, &none, &none).allocatable.pods, pods);
        }
    }
}
