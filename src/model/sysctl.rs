//! Names of kernel parameters, and which of them a pod may set.
//!
//! Rules: Kubernetes `component-helpers/node/util/sysctl/namespace.go` and `pkg/kubelet/sysctl/{safe_sysctls,allowlist}.go`.
//!
//! **Invariant:** a parameter that belongs to no namespace of a pod is never allowed, by whatever pattern.

use std::collections::BTreeMap;

/// What a kubelet allows by itself: nothing of these reaches beyond the pod. (Those that came with later kernels are
/// all in the oldest one that podd runs on.)
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The longest name (`validation.go SysctlMaxLength`).
pub const SYSCTL_MAX: usize = 253;

/// `validation.go SysctlContainSlashFmt`.
pub const SYSCTL_PATTERN: &str = r"([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";

/// The namespace that a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysctlNamespace {
    Ipc,
    Net,
}

impl SysctlNamespace {
    /// As Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ipc => "ipc",
            Self::Net => "net",
        }
    }
}

/// A name with dots between its parts. Where the first separator is a slash, slashes separate, and a dot is part of a
/// name (`net/ipv4/conf/eth0.100/forwarding`): they change places.
pub fn normal_sysctl(name: &str) -> String {
    let slashed = name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('/'));
    if !slashed {
        return name.to_owned();
    }
    swapped(name)
}

/// A normal name as a path beneath /proc/sys.
pub fn sysctl_path(name: &str) -> String {
    swapped(name)
}

fn swapped(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

/// Whether it is made as a name of a parameter is, with either separator.
pub fn is_sysctl_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |part: &str| {
        let part = part.as_bytes();
        part.first().is_some_and(|c| plain(*c))
            && part.last().is_some_and(|c| plain(*c))
            && part.iter().all(|c| plain(*c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(segment)
}

/// The namespace of a parameter, by its normal name; `None`: it belongs to the machine.
pub fn sysctl_namespace(name: &str) -> Option<SysctlNamespace> {
    let prefixes = [
        ("kernel.shm", SysctlNamespace::Ipc),
        ("kernel.msg", SysctlNamespace::Ipc),
        ("fs.mqueue.", SysctlNamespace::Ipc),
        ("net.", SysctlNamespace::Net),
    ];
    if name == "kernel.sem" {
        return Some(SysctlNamespace::Ipc);
    }
    let found = prefixes.iter().find(|(prefix, _)| name.starts_with(prefix));
    found.map(|(_, namespace)| *namespace)
}

/// A pattern that allows nothing (`--allowed-unsafe-sysctls`). The words are the kubelet's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SysctlPatternError {
    #[error(
        "sysctl {pattern:?} must have at most {SYSCTL_MAX} characters and match regex {SYSCTL_PATTERN}, with * at its end or not"
    )]
    Malformed { pattern: String },
    #[error("the sysctls {pattern:?} are not known to be namespaced")]
    NotNamespaced { pattern: String },
}

/// Which parameters a pod may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedSysctls {
    names: BTreeMap<String, SysctlNamespace>,
    prefixes: BTreeMap<String, SysctlNamespace>,
}

impl Default for AllowedSysctls {
    /// The safe ones.
    fn default() -> Self {
        let safe = SAFE.into_iter().filter_map(|name| {
            let namespace = sysctl_namespace(name)?;
            Some((name.to_owned(), namespace))
        });
        Self {
            names: safe.collect(),
            prefixes: BTreeMap::new(),
        }
    }
}

impl AllowedSysctls {
    /// The safe ones and these: names, or the beginnings of names with a `*` behind.
    ///
    /// # Errors
    /// [`SysctlPatternError`]
    pub fn with_unsafe<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, SysctlPatternError> {
        let mut all = Self::default();
        for pattern in patterns {
            let (name, is_prefix) = match pattern.strip_suffix('*') {
                Some(prefix) => (prefix, true),
                None => (pattern, false),
            };
            let whole = if is_prefix { format!("{name}x") } else { name.to_owned() };
            if !is_sysctl_name(&whole) {
                return Err(SysctlPatternError::Malformed {
                    pattern: pattern.to_owned(),
                });
            }
            let name = normal_sysctl(name);
            let namespace = sysctl_namespace(&name).ok_or_else(|| SysctlPatternError::NotNamespaced {
                pattern: pattern.to_owned(),
            })?;
            if is_prefix {
                all.prefixes.insert(name, namespace);
            } else {
                all.names.insert(name, namespace);
            }
        }
        Ok(all)
    }

    /// Why a pod may not set this parameter, in the kubelet's words; `None`: it may.
    pub fn refusal(&self, name: &str, host_network: bool, host_ipc: bool) -> Option<String> {
        let by_prefix = || {
            self.prefixes
                .iter()
                .find(|(prefix, _)| name.starts_with(prefix.as_str()))
        };
        let known = self.names.get_key_value(name).or_else(by_prefix);
        let Some((_, namespace)) = known else {
            return Some(format!("{name:?} not allowlisted"));
        };
        let shared = match namespace {
            SysctlNamespace::Ipc => host_ipc,
            SysctlNamespace::Net => host_network,
        };
        shared.then(|| format!("{name:?} not allowed with host {} enabled", namespace.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_says_what_separates() {
        for (name, normal) in [
            ("kernel.shm_rmid_forced", "kernel.shm_rmid_forced"),
            ("kernel/shm_rmid_forced", "kernel.shm_rmid_forced"),
            ("net/ipv4/conf/eth0.100/forwarding", "net.ipv4.conf.eth0/100.forwarding"),
            ("net.ipv4.conf.eth0/100.forwarding", "net.ipv4.conf.eth0/100.forwarding"),
            ("kernel", "kernel"),
            ("", ""),
        ] {
            assert_eq!(normal_sysctl(name), normal, "{name}");
            assert_eq!(normal_sysctl(&sysctl_path(&normal_sysctl(name))), normal, "{name}");
        }
    }

    #[test]
    fn names_are_made_of_segments() {
        for good in [
            "a",
            "kernel.shm_rmid_forced",
            "net/ipv4/conf/a-b.c/x",
            "net.ipv4.conf.eth0/1.x",
        ] {
            assert!(is_sysctl_name(good), "{good}");
        }
        let long = "a".repeat(254);
        for bad in [
            "", ".", "a.", ".a", "a..b", "A.b", "a.b*", "-a", "a_", "foo-", "a b", "../x", &long,
        ] {
            assert!(!is_sysctl_name(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_safe_is_allowed_and_the_rest_is_not() {
        let safe = AllowedSysctls::default();
        assert_eq!(safe.refusal("kernel.shm_rmid_forced", true, false), None);
        assert_eq!(safe.refusal("net.ipv4.tcp_syncookies", false, true), None);
        let refused = safe.refusal("kernel.msgmax", false, false).unwrap();
        assert_eq!(refused, "\"kernel.msgmax\" not allowlisted");
        let shared = safe.refusal("net.ipv4.tcp_syncookies", true, false).unwrap();
        assert_eq!(shared, "\"net.ipv4.tcp_syncookies\" not allowed with host net enabled");
        let shared = safe.refusal("kernel.shm_rmid_forced", false, true).unwrap();
        assert_eq!(shared, "\"kernel.shm_rmid_forced\" not allowed with host ipc enabled");
    }

    #[test]
    fn patterns_allow_what_belongs_to_a_pod() {
        let more = AllowedSysctls::with_unsafe(["kernel.msg*", "net/core/somaxconn", "kernel.sem"]).unwrap();
        for allowed in [
            "kernel.msgmax",
            "kernel.msgmnb",
            "net.core.somaxconn",
            "kernel.sem",
            "net.ipv4.tcp_wmem",
        ] {
            assert_eq!(more.refusal(allowed, false, false), None, "{allowed}");
        }
        for refused in ["kernel.shmmax", "net.core.somaxconn2", "vm.swappiness"] {
            assert!(more.refusal(refused, false, false).is_some(), "{refused}");
        }
        for machines in ["vm.swappiness", "kernel.*", "fs.*", "net", "kernel.semx"] {
            let error = AllowedSysctls::with_unsafe([machines]).unwrap_err();
            assert!(
                matches!(error, SysctlPatternError::NotNamespaced { .. }),
                "{machines}: {error}"
            );
        }
        for malformed in ["", "*", "net.*.x", "Net.*"] {
            let error = AllowedSysctls::with_unsafe([malformed]).unwrap_err();
            let not_namespaced = matches!(error, SysctlPatternError::NotNamespaced { .. });
            assert_eq!(not_namespaced, malformed == "*", "{malformed}: {error}");
        }
    }
}
