//! Settings about what must be left of the machine: `memory.available<100Mi,nodefs.available<10%`.
//!
//! Rules: Kubernetes `pkg/kubelet/eviction/helpers.go` (`parseThresholdStatement`).

use std::collections::{BTreeMap, BTreeSet};

use super::{ConfigError, invalid};
use crate::admit::Quantity;
use crate::node::{Least, Signal, Thresholds};

/// What a list of thresholds may look like.
const LIST: &str = "a list such as memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,\
                    imagefs.inodesFree<5%,pid.available<1000";

/// Values that mean that a signal is not to be looked at.
const NOTHING: [&str; 3] = ["", "0%", "100%"];

/// `--eviction-hard`. What it does not name is not looked at, as with a kubelet; nor is what has no value, 0% or 100%.
pub(super) fn read(text: Option<&str>) -> Result<Thresholds, ConfigError> {
    let Some(text) = text else {
        return Ok(Thresholds::default());
    };
    let wrong = || invalid("eviction-hard", text, LIST);
    let (mut named, mut thresholds) = (BTreeSet::new(), BTreeMap::new());
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (name, value) = entry.split_once('<').ok_or_else(wrong)?;
        let signal = Signal::named(name.trim()).ok_or_else(wrong)?;
        if !named.insert(signal) {
            return Err(wrong());
        }
        let value = value.trim();
        if !NOTHING.contains(&value) {
            thresholds.insert(signal, least(value).ok_or_else(wrong)?);
        }
    }
    Ok(Thresholds(thresholds))
}

fn least(value: &str) -> Option<Least> {
    let amount = |text: &str| Quantity::parse(text).ok().filter(|amount| !amount.is_negative());
    match value.strip_suffix('%') {
        Some(percent) => {
            let is_number = percent.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            let thousandths = amount(percent).filter(|_| is_number)?.millis();
            (thousandths <= 100_000).then_some(Least::Share(thousandths))
        }
        None => Some(amount(value)?.units())
            .filter(|amount| *amount > 0)
            .map(Least::Amount),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_as_a_kubelet_reads_them() {
        assert_eq!(read(None).unwrap(), Thresholds::default());
        let defaults = "memory.available<100Mi,nodefs.available<1Gi,nodefs.inodesFree<5%,imagefs.available<1Gi,\
                        imagefs.inodesFree<5%";
        assert_eq!(read(Some(defaults)).unwrap(), Thresholds::default());
        let all = read(Some("memory.available<1.5Gi, nodefs.available<2.5%,pid.available<1k")).unwrap();
        let expected = [
            (Signal::MemoryAvailable, Least::Amount(3 << 29)),
            (Signal::NodefsAvailable, Least::Share(2500)),
            (Signal::PidAvailable, Least::Amount(1000)),
        ];
        assert_eq!(all, Thresholds(expected.into()));
        for nothing in ["", "memory.available<", "nodefs.available<0%,imagefs.available<100%"] {
            assert_eq!(read(Some(nothing)).unwrap(), Thresholds([].into()), "{nothing}");
        }
    }

    #[test]
    fn what_is_no_threshold_is_refused_by_the_name_of_its_setting() {
        for text in [
            "memory.available",
            "memory.available=1Gi",
            "memory<1Gi",
            "memory.available<x",
            "memory.available<-1",
            "memory.available<0",
            "nodefs.available<101%",
            "nodefs.available<-1%",
            "nodefs.available<1Ki%",
            "memory.available<1Gi,memory.available<2Gi",
        ] {
            let error = read(Some(text)).unwrap_err();
            assert!(error.to_string().starts_with("eviction-hard: "), "{text}: {error}");
        }
    }
}
