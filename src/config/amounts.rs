//! Settings about what the machine has: `cpu=500m,memory=1Gi`.

use super::{ConfigError, invalid};
use crate::admit::Quantity;
use crate::node::Amounts;

/// What a list of amounts may look like.
const LIST: &str = "a list such as cpu=500m,memory=1Gi,ephemeral-storage=10Gi";
const LIST_WITH_PODS: &str = "a list such as cpu=3500m,memory=6Gi,ephemeral-storage=50Gi,hugepages-2Mi=64Mi,pods=200";

/// `--system-reserved`.
pub(super) fn reserved(text: Option<&str>) -> Result<Amounts, ConfigError> {
    let all = read("system-reserved", text, LIST)?;
    if all.pods.is_some() || !all.hugepages.is_empty() {
        return Err(invalid("system-reserved", text.unwrap_or_default(), LIST));
    }
    Ok(all)
}

/// `--allocatable`, with the number of `--max-pods` where it says none itself.
pub(super) fn allocatable(text: Option<&str>, max_pods: Option<u64>) -> Result<Amounts, ConfigError> {
    let all = read("allocatable", text, LIST_WITH_PODS)?;
    if max_pods == Some(0) {
        return Err(invalid("max-pods", "0", "a number of pods, 1 or more"));
    }
    Ok(Amounts {
        pods: all.pods.or(max_pods),
        ..all
    })
}

fn read(setting: &'static str, text: Option<&str>, expected: &'static str) -> Result<Amounts, ConfigError> {
    let mut all = Amounts::default();
    let Some(text) = text else {
        return Ok(all);
    };
    let wrong = || invalid(setting, text, expected);
    for entry in text.split(',') {
        let (name, amount) = entry.split_once('=').ok_or_else(wrong)?;
        let amount = Quantity::parse(amount.trim()).map_err(|_| wrong())?;
        if amount.is_negative() {
            return Err(wrong());
        }
        let name = name.trim();
        let was = match name {
            "cpu" => all.cpu_milli.replace(amount.millis()),
            "memory" => all.memory.replace(amount.units()),
            "ephemeral-storage" => all.storage.replace(amount.units()),
            "pods" => all.pods.replace(amount.units()),
            other => {
                let size = other.strip_prefix("hugepages-").ok_or_else(wrong)?;
                let size = Quantity::parse(size).map_err(|_| wrong())?.units();
                if size == 0 {
                    return Err(wrong());
                }
                all.hugepages.insert(size, amount.units())
            }
        };
        if was.is_some() {
            return Err(wrong());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        let all = allocatable(
            Some("cpu=1500m, memory=2Gi,ephemeral-storage=10G,hugepages-2Mi=8Mi,pods=7"),
            Some(9),
        );
        let expected = Amounts {
            cpu_milli: Some(1500),
            memory: Some(2 << 30),
            storage: Some(10_000_000_000),
            pods: Some(7),
            hugepages: [(2 << 20, 8 << 20)].into(),
        };
        assert_eq!(all.unwrap(), expected);
        assert_eq!(allocatable(None, Some(9)).unwrap().pods, Some(9));
        assert_eq!(allocatable(None, None).unwrap(), Amounts::default());
        assert_eq!(reserved(Some("cpu=1")).unwrap().cpu_milli, Some(1000));
    }

    #[test]
    fn what_is_no_amount_is_refused_by_the_name_of_its_setting() {
        for text in [
            "",
            "cpu",
            "cpu=",
            "cpu=x",
            "cpu=-1",
            "disk=1Gi",
            "cpu=1,cpu=2",
            "hugepages-x=1",
            "cpu=1,",
        ] {
            for (error, name) in [
                (allocatable(Some(text), None).unwrap_err(), "allocatable: "),
                (reserved(Some(text)).unwrap_err(), "system-reserved: "),
            ] {
                assert!(error.to_string().starts_with(name), "{text}: {error}");
            }
        }
        assert!(reserved(Some("pods=3")).is_err());
        assert!(reserved(Some("hugepages-2Mi=2Mi")).is_err());
        assert!(
            allocatable(None, Some(0))
                .unwrap_err()
                .to_string()
                .starts_with("max-pods: ")
        );
    }
}
