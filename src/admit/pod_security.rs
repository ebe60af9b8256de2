//! Pod Security Standards: what the pods of a namespace may ask for, by the namespace's labels
//! (`k8s.io/pod-security-admission`).
//!
//! Goes in: the labels of a namespace, and a pod with its defaults filled in. Comes out: everything by which the pod breaks
//! the rules, in Kubernetes' words and order.
//!
//! **Invariants:** each check looks at every container of every kind, in one walk. A label that is not understood counts as
//! the strictest level.

mod checks;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::ephemeral;
use super::fault::{Findings, Path};

const PREFIX: &str = "pod-security.kubernetes.io/";
const MODES: [&str; 3] = ["enforce", "audit", "warn"];
const LEVELS: [(&str, Level); 3] = [
    ("privileged", Level::Privileged),
    ("baseline", Level::Baseline),
    ("restricted", Level::Restricted),
];

/// How much a pod may ask for, from the most to the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Privileged,
    /// Nothing that is known to lead out of a container.
    Baseline,
    /// Only what is best practice.
    Restricted,
}

/// The version of Kubernetes whose rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `v1.<minor>`
    Minor(u32),
    Latest,
}

/// One level of one version: `restricted:latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    pub level: Level,
    pub version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = LEVELS.iter().find(|(_, level)| *level == self.level);
        write!(f, "{}:", level.map_or("", |(name, _)| name))?;
        match self.version {
            Version::Minor(minor) => write!(f, "v1.{minor}"),
            Version::Latest => f.write_str("latest"),
        }
    }
}

impl Standard {
    const OPEN: Self = Self {
        level: Level::Privileged,
        version: Version::Latest,
    };

    fn of(labels: &BTreeMap<String, String>, mode: &str) -> Option<Self> {
        let level = labels.get(&format!("{PREFIX}{mode}"))?;
        let version = labels.get(&format!("{PREFIX}{mode}-version"));
        Some(Self {
            level: level_of(level).unwrap_or(Level::Restricted),
            version: version.and_then(|text| version_of(text)).unwrap_or(Version::Latest),
        })
    }
}

/// What a namespace asks of its pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A pod that breaks this is refused.
    pub enforce: Standard,
    /// It is told in the agent's log.
    pub audit: Standard,
    /// Its client is told.
    pub warn: Standard,
}

impl Policy {
    /// Everything is allowed, and nothing is told.
    pub const OPEN: Self = Self {
        enforce: Standard::OPEN,
        audit: Standard::OPEN,
        warn: Standard::OPEN,
    };

    /// By the labels of the namespace. Where only `enforce` is given, it is warned of as well.
    pub fn of(labels: &BTreeMap<String, String>) -> Self {
        let enforce = Standard::of(labels, "enforce").unwrap_or(Standard::OPEN);
        Self {
            enforce,
            audit: Standard::of(labels, "audit").unwrap_or(Standard::OPEN),
            warn: Standard::of(labels, "warn").unwrap_or(enforce),
        }
    }
}

fn level_of(text: &str) -> Option<Level> {
    let known = LEVELS.iter().find(|(name, _)| *name == text);
    known.map(|(_, level)| *level)
}

/// `latest`, or `v1.` and a number without a leading zero.
fn version_of(text: &str) -> Option<Version> {
    if text == "latest" {
        return Some(Version::Latest);
    }
    let minor: u32 = text.strip_prefix("v1.")?.parse().ok()?;
    (format!("v1.{minor}") == text).then_some(Version::Minor(minor))
}

/// The labels of a namespace.
pub fn check_labels(metadata: &ObjectMeta, findings: &mut Findings) {
    let Some(labels) = &metadata.labels else { return };
    let at = Path::root("metadata").child("labels");
    for mode in MODES {
        let name = format!("{PREFIX}{mode}");
        if let Some(level) = labels.get(&name).filter(|text| level_of(text).is_none()) {
            let known = LEVELS.map(|(name, _)| name).join(", ");
            findings.invalid(&at.key(&name), level, &format!("must be one of {known}"));
        }
        let name = format!("{name}-version");
        if let Some(version) = labels.get(&name).filter(|text| version_of(text).is_none()) {
            findings.invalid(&at.key(&name), version, "must be \"latest\" or \"v1.x\"");
        }
    }
}

/// Everything by which a pod breaks a standard; empty: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Violation {
    reason: String,
    detail: String,
}

/// `reason (detail), reason (detail)`
impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Violation { reason, detail }) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{reason} ({detail})")?;
        }
        Ok(())
    }
}

impl Violations {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Without their details.
    pub fn reasons(&self) -> String {
        let reasons: Vec<&str> = self.0.iter().map(|violation| violation.reason.as_str()).collect();
        reasons.join(", ")
    }
}

/// Everything by which the pod breaks the standard.
pub fn violations(standard: Standard, pod: &Pod) -> Violations {
    let Some(spec) = pod.spec.as_ref().filter(|_| standard.level > Level::Privileged) else {
        return Violations::default();
    };
    let containers = containers(spec);
    let look = checks::Look {
        metadata: &pod.metadata,
        spec,
        containers: &containers,
        version: standard.version,
    };
    let checks: &[checks::Check] = match standard.level {
        Level::Privileged => &[],
        Level::Baseline => &checks::BASELINE,
        Level::Restricted => &checks::RESTRICTED,
    };
    let found = checks.iter().filter_map(|check| check(&look));
    Violations(found.map(|(reason, detail)| Violation { reason, detail }).collect())
}

/// Whether a change is looked at at all: another image, or another container.
pub fn is_significant(before: &Pod, after: &Pod) -> bool {
    let images = |pod: &Pod| {
        let containers = pod.spec.as_ref().map(containers).unwrap_or_default();
        let images = containers
            .into_iter()
            .map(|container| (container.name, container.image));
        images.collect::<Vec<_>>()
    };
    images(before) != images(after)
}

/// All containers of all kinds, in the order in which they are looked at.
fn containers(spec: &PodSpec) -> Vec<Container> {
    let init = spec.init_containers.iter().flatten().cloned();
    let added = spec.ephemeral_containers.iter().flatten().cloned();
    let added = added.map(|container| ephemeral::parts(container).0);
    init.chain(spec.containers.iter().cloned()).chain(added).collect()
}
