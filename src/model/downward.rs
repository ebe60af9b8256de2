//! What the downward API tells a pod of itself, as text: for variables and for files alike.
//!
//! Goes in: the pod, what is asked for, where the pod is. Comes out: the text, as a kubelet writes it
//! (Kubernetes `pkg/fieldpath`, `pkg/api/v1/resource`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Capacity, ContainerSpec, Field, PodSpec, ResourceField, ResourceValue, Resources};

/// Where a pod is: what only its machine knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub node_name: String,
    /// The machine's addresses (`status.hostIPs`), the first one before all others.
    pub host_ips: Vec<IpAddr>,
    /// The pod's (`status.podIPs`); those of the machine for a pod with the machine's network.
    pub pod_ips: Vec<IpAddr>,
}

/// The text of a `fieldRef`. A label or annotation that the pod does not have is empty text, as in Kubernetes.
pub fn field(pod: &PodSpec, field: &Field, place: &Place) -> String {
    let about = &pod.about;
    let of = |map: &BTreeMap<String, String>, key: &String| map.get(key).cloned().unwrap_or_default();
    match field {
        Field::Name => pod.name.clone(),
        Field::Namespace => pod.namespace.clone(),
        Field::Uid => pod.uid.0.clone(),
        Field::Label(key) => of(&about.labels, key),
        Field::Annotation(key) => of(&about.annotations, key),
        Field::Labels => lines(&about.labels),
        Field::Annotations => lines(&about.annotations),
        Field::NodeName => place.node_name.clone(),
        Field::ServiceAccountName => about.service_account.clone(),
        Field::HostIp => first(&place.host_ips),
        Field::HostIps => joined(&place.host_ips),
        Field::PodIp => first(&place.pod_ips),
        Field::PodIps => joined(&place.pod_ips),
    }
}

/// The text of a `resourceFieldRef`, asked for by the container `own`. `None`: the pod has no container of that name.
///
/// A limit that is not set is the pod's own, or else all that the machine has for pods (`MergeContainerResourceLimits`);
/// a request that is not set is 0. What is left of the division counts as one more.
pub fn resource(pod: &PodSpec, own: &str, value: &ResourceValue, allocatable: &Capacity) -> Option<String> {
    let ResourceValue {
        container,
        resource,
        divisor,
    } = value;
    let container = pod.container(container.as_deref().unwrap_or(own))?;
    let amount = amount(pod, container, resource, *allocatable);
    Some(amount.div_ceil((*divisor).max(1)).to_string())
}

fn amount(pod: &PodSpec, container: &ContainerSpec, field: &ResourceField, allocatable: Capacity) -> u64 {
    let own = &container.resources;
    let limit = |of: fn(&Resources) -> Option<u64>, all: u64| of(own).or_else(|| of(&pod.resources)).unwrap_or(all);
    let Capacity {
        cpu_milli,
        memory,
        storage,
    } = allocatable;
    match field {
        ResourceField::LimitsCpu => limit(|r| r.cpu_limit_milli, cpu_milli),
        ResourceField::LimitsMemory => limit(|r| r.memory_limit, memory),
        ResourceField::LimitsEphemeralStorage => limit(|r| r.storage_limit, storage),
        ResourceField::RequestsCpu => own.cpu_request_milli.unwrap_or(0),
        ResourceField::RequestsMemory => own.memory_request.unwrap_or(0),
        ResourceField::RequestsEphemeralStorage => own.storage_request.unwrap_or(0),
        ResourceField::LimitsHugepages(size) | ResourceField::RequestsHugepages(size) => {
            own.hugepages.get(size).copied().unwrap_or(0)
        }
    }
}

fn first(ips: &[IpAddr]) -> String {
    ips.first().map(IpAddr::to_string).unwrap_or_default()
}

fn joined(ips: &[IpAddr]) -> String {
    let texts: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
    texts.join(",")
}

/// `key="value"`, one a line, in order (`fieldpath.FormatMap`).
fn lines(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect();
    lines.join("\n")
}

/// As Go's `%q` writes a text.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        let short = match c {
            '\u{7}' => "\\a",
            '\u{8}' => "\\b",
            '\u{c}' => "\\f",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\u{b}' => "\\v",
            '"' => "\\\"",
            '\\' => "\\\\",
            _ => "",
        };
        match u32::from(c) {
            _ if !short.is_empty() => out.push_str(short),
            _ if is_printable(c) => out.push(c),
            code @ 0..0x80 => write!(out, "\\x{code:02x}").unwrap_or_default(),
            code @ 0x80..0x1_0000 => write!(out, "\\u{code:04x}").unwrap_or_default(),
            code => write!(out, "\\U{code:08x}").unwrap_or_default(),
        }
    }
    out.push('"');
    out
}

/// A letter, mark, number, sign or the common space.
fn is_printable(c: char) -> bool {
    // Behind another character a mark is shown as itself.
    let shown = format!("a{c}");
    shown.escape_debug().eq(shown.chars()) || c == '\''
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RestartPolicy;
    use crate::reconcile::testing;

    #[test]
    fn values_are_quoted_as_go_quotes_them() {
        for (text, expected) in [
            ("", r#""""#),
            ("plain text", r#""plain text""#),
            ("a\"b\\c'd", r#""a\"b\\c'd""#),
            ("\u{7}\u{8}\u{c}\n\r\t\u{b}", r#""\a\b\f\n\r\t\v""#),
            ("\0\u{1b}\u{7f}", r#""\x00\x1b\x7f""#),
            ("ä✓e\u{301}", "\"ä✓e\u{301}\""),
            ("\u{85}\u{a0}\u{200b}\u{e000}", r#""\u0085\u00a0\u200b\ue000""#),
            ("\u{10ffff}", r#""\U0010ffff""#),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }

    fn place() -> Place {
        Place {
            node_name: "node-1".to_owned(),
            host_ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            pod_ips: vec!["10.0.0.7".parse().unwrap()],
        }
    }

    #[test]
    fn each_field_is_told() {
        let mut pod = testing::pod(RestartPolicy::Always, &["main"]);
        pod.about.labels = BTreeMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "x\ny".to_owned())]);
        pod.about.annotations = BTreeMap::from([("k/v".to_owned(), "\"q\"".to_owned())]);
        pod.about.service_account = "robot".to_owned();
        for (asked, expected) in [
            (Field::Name, pod.name.as_str()),
            (Field::Namespace, pod.namespace.as_str()),
            (Field::Uid, pod.uid.as_str()),
            (Field::Label("b".to_owned()), "2"),
            (Field::Label("none".to_owned()), ""),
            (Field::Annotation("k/v".to_owned()), "\"q\""),
            (Field::Labels, "a=\"x\\ny\"\nb=\"2\""),
            (Field::Annotations, "k/v=\"\\\"q\\\"\""),
            (Field::NodeName, "node-1"),
            (Field::ServiceAccountName, "robot"),
            (Field::HostIp, "192.0.2.1"),
            (Field::HostIps, "192.0.2.1,2001:db8::1"),
            (Field::PodIp, "10.0.0.7"),
            (Field::PodIps, "10.0.0.7"),
        ] {
            assert_eq!(field(&pod, &asked, &place()), expected, "{asked:?}");
        }
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        const MI: u64 = 1 << 20;
        let mut pod = testing::pod(RestartPolicy::Always, &["main"]);
        let name = pod.containers[0].name.clone();
        pod.containers[0].resources = Resources {
            cpu_request_milli: Some(250),
            cpu_limit_milli: Some(1250),
            memory_request: Some(32 * MI + 1),
            hugepages: BTreeMap::from([(2 * MI, 4 * MI)]),
            ..Resources::default()
        };
        let mut other = pod.containers[0].clone();
        other.name = "other".to_owned();
        other.resources = Resources::default();
        pod.containers.push(other);
        let allocatable = Capacity {
            cpu_milli: 3500,
            memory: 1000 * MI,
            storage: 77,
        };
        let ask = |pod: &PodSpec, container: Option<&str>, resource: ResourceField, divisor| {
            let value = ResourceValue {
                container: container.map(str::to_owned),
                resource,
                divisor,
            };
            super::resource(pod, &name, &value, &allocatable)
        };
        for (container, field, divisor, expected) in [
            (None, ResourceField::LimitsCpu, 1000, "2"),
            (None, ResourceField::LimitsCpu, 1, "1250"),
            (None, ResourceField::RequestsCpu, 1000, "1"),
            (None, ResourceField::RequestsMemory, 1, "33554433"),
            (None, ResourceField::RequestsMemory, MI, "33"),
            (None, ResourceField::LimitsMemory, MI, "1000"),
            (None, ResourceField::LimitsEphemeralStorage, 1, "77"),
            (None, ResourceField::LimitsHugepages(2 * MI), MI, "4"),
            (None, ResourceField::RequestsHugepages(1 << 30), MI, "0"),
            (Some("other"), ResourceField::LimitsCpu, 1000, "4"),
            (Some("other"), ResourceField::RequestsCpu, 1000, "0"),
        ] {
            assert_eq!(
                ask(&pod, container, field.clone(), divisor).as_deref(),
                Some(expected),
                "{container:?} {field:?} {divisor}"
            );
        }
        assert_eq!(ask(&pod, Some("nobody"), ResourceField::LimitsCpu, 1), None);
        pod.resources.memory_limit = Some(64 * MI);
        assert_eq!(
            ask(&pod, None, ResourceField::LimitsMemory, MI).as_deref(),
            Some("64"),
            "the pod's own limit is nearer than the machine's"
        );
    }
}
